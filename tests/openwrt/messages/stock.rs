//! Images of OpenWrt's kind, recorded ones for the most part.

use std::io::{self, Cursor};

use serde_json::json;
use sysupgrade_rs::image::openwrt::fwtool::{self, FwtoolError, New};
use sysupgrade_rs::image::openwrt::metadata::MetadataError;
use sysupgrade_rs::image::openwrt::payload::PayloadError;
use sysupgrade_rs::image::{Encoding, ImageError};
use sysupgrade_rs::trust::ucert::UcertError;
use sysupgrade_rs::trust::usign::KeyId;

use super::{Book, Site};
use crate::pieces::{Pieces, key};
use crate::vectors;

pub(super) fn tell(book: &mut Book) {
    chunks(book);
    certificates(book);
    metadata(book);
    payload(book);
    boards(book);
}

impl Book {
    /// A recorded image, tested on a device that lets unsigned images pass.
    fn recorded(&mut self, heading: &str, image: &str, prepare: impl FnOnce(&mut Site)) {
        self.told(heading, &format!("sysupgrade-rs -T {image}"), |site| {
            site.allow_unsigned();
            site.lay_recorded(&format!("images/{image}"));
            prepare(site);
        });
    }

    fn hand(&mut self, heading: &str, error: impl Into<ImageError>) {
        self.by_hand(heading, &error.into().refusal());
    }
}

fn plain(_: &mut Site) {}

fn chunks(book: &mut Book) {
    book.chapter("Images of OpenWrt: the chunks at the end");
    book.recorded(
        "a chunk with a wrong checksum",
        "raw-flip-payload.bin",
        plain,
    );
    book.recorded(
        "a chunk with an impossible length",
        "trailer-size-zero.bin",
        plain,
    );
    book.recorded("chunks about nothing", "only-trailer.bin", plain);
    book.hand(
        "more chunks than can be seen",
        FwtoolError::TooDeep { offset: 7_000_000 },
    );
    let (what, found, most) = ("signature", 1500, 1024);
    book.hand(
        "a chunk that is too long",
        FwtoolError::TooLong { what, found, most },
    );
    let (verb, source) = ("read", io::Error::from_raw_os_error(5));
    let error = FwtoolError::File {
        verb,
        offset: 4096,
        source,
    };
    book.hand("a file that cannot be read to its end", error);
    book.hand(
        "changed while it was read",
        ImageError::Changed { offset: 65536 },
    );
}

fn certificates(book: &mut Book) {
    book.chapter("Images of OpenWrt: signature and certificates");
    let unsigned = |site: &mut Site| {
        site.change_board("unsigned = \"allow\"", "unsigned = \"refuse\"");
    };
    book.recorded("not signed", "raw-unsigned.bin", unsigned);
    book.recorded(
        "metadata behind the signature",
        "raw-signed-then-metadata.bin",
        unsigned,
    );
    book.recorded(
        "a stock signature by an unknown key",
        "sig-wrong-key.bin",
        plain,
    );
    book.recorded(
        "a certificate by an unknown key",
        "sig-cert-by-attacker.bin",
        plain,
    );
    book.recorded(
        "a stock signature that does not fit",
        "sig-over-other-data.bin",
        plain,
    );
    book.recorded("certificates that are none", "sig-ucert-garbage.bin", plain);
    book.recorded(
        "a signature in the certificates that is none",
        "sig-no-comment-line.bin",
        plain,
    );
    book.recorded(
        "certificates without a signature",
        "sig-cert-without-signature.bin",
        plain,
    );
    book.recorded(
        "a revocation in the place of a certificate",
        "sig-revoker-as-cert.bin",
        plain,
    );
    book.recorded(
        "signed by another key than the certified one",
        "sig-chain-broken.bin",
        plain,
    );
    book.recorded(
        "a certified key that was revoked",
        "raw-signed.bin",
        |site| {
            let keys = vectors::path("keydirs/keys-build-revoked");
            crate::images::copy_keys(&keys, &site.root().join("etc/opkg/keys"));
            site.write("etc/opkg/keys/1a5018623a166c93", ".revoked.");
        },
    );
    book.recorded(
        "a certificate that has expired",
        "sig-expired-cert.bin",
        plain,
    );
    book.recorded(
        "a certificate of a later time",
        "sig-not-yet-valid-cert.bin",
        plain,
    );
    book.recorded(
        "a clock that is not set",
        "sig-good-clock-1970.bin",
        |site| site.now = 30,
    );
    book.recorded(
        "one signature where two must be",
        "raw-signed.bin",
        |site| {
            site.change_board("threshold = 1 ", "threshold = 2 ");
        },
    );
    let issuer = id(1);
    book.hand(
        "a certificate that its issuer did not sign",
        UcertError::BadCertificate { element: 1, issuer },
    );
    book.hand(
        "a certificate that lacks a field",
        UcertError::Field {
            element: 1,
            field: "expiresat",
        },
    );
    book.hand(
        "certificates that are too long",
        UcertError::TooLong { most: 4095 },
    );
}

fn id(number: u8) -> KeyId {
    key(number).public().id()
}

fn metadata(book: &mut Book) {
    book.chapter("Images of OpenWrt: metadata");
    book.recorded("metadata that are no JSON", "metadata-not-json.bin", plain);
    book.recorded("metadata that are a list", "metadata-json-array.bin", plain);
    book.recorded(
        "metadata with a key twice",
        "metadata-duplicate-keys.bin",
        plain,
    );
    book.recorded(
        "metadata with a value of another kind",
        "metadata-supported-string.bin",
        plain,
    );
    book.recorded(
        "metadata without devices",
        "metadata-no-supported.bin",
        plain,
    );
    book.told(
        "metadata with a version that is none",
        "sysupgrade-rs -T image.bin",
        |site| {
            site.allow_unsigned();
            let text = r#"{ "compat_version": "one", "supported_devices": ["acme,router-a1"] }"#;
            let mut image = Cursor::new(vec![0; 8192]);
            fwtool::append(&mut image, New::Info(text)).unwrap();
            site.lay("image.bin", image.into_inner());
        },
    );
    book.hand(
        "metadata that are too long",
        MetadataError::TooLong { found: 40_000 },
    );
}

fn payload(book: &mut Book) {
    book.chapter("Images of OpenWrt: the payload");
    let nand = |site: &mut Site| site.write("tmp/sysinfo/board_name", "acme,nand-x2\n");
    book.recorded("nothing in the file", "empty.bin", plain);
    book.hand("nothing in the payload", PayloadError::Empty);
    book.recorded("a tar that is cut", "tar-truncated.bin", nand);
    book.recorded("a tar with a damaged header", "tar-header-flip.bin", nand);
    book.recorded("a tar without CONTROL", "tar-no-control.bin", nand);
    book.recorded("a tar without its directory", "tar-no-dir-entry.bin", nand);
    book.recorded("a tar of two boards", "tar-two-boards.bin", nand);
    book.recorded(
        "a tar with the directory of another board",
        "tar-wrong-board-dir.bin",
        nand,
    );
    book.recorded(
        "a tar without one of the parts",
        "tar-kernel-only.bin",
        nand,
    );
    book.recorded(
        "a disk image where a slot has other parts",
        "x86-mbr.img.gz.bin",
        |site| {
            site.write("tmp/sysinfo/board_name", "generic\n");
        },
    );
    book.hand(
        "a payload that inflates without end",
        PayloadError::TooLarge { most: 16 << 30 },
    );
    let source = io::Error::from_raw_os_error(5);
    book.hand(
        "a payload that cannot be read",
        PayloadError::Source {
            offset: 4096,
            source,
        },
    );
}

fn boards(book: &mut Book) {
    book.chapter("Boards and compatibility versions");
    book.recorded("made for another board", "raw-unsigned.bin", |site| {
        site.write("tmp/sysinfo/board_name", "other,board\n");
    });
    book.recorded(
        "this machine does not tell its name",
        "raw-unsigned.bin",
        |site| {
            site.write("tmp/sysinfo/board_name", "\n");
        },
    );
    book.recorded("no metadata", "raw-no-trailer.bin", plain);
    book.told(
        "an image of ours for another board",
        "sysupgrade-rs -T image.bin",
        |site| {
            let mut pieces = Pieces::of_good(Encoding::Plain);
            pieces.directory = "sysupgrade-other_board/".into();
            let pieces = pieces.lie(|manifest| manifest["board"] = json!(["other,board"]));
            site.lay("image.bin", pieces.image());
        },
    );
    book.recorded(
        "another major compatibility version",
        "raw-compat-2.0.bin",
        plain,
    );
    book.recorded(
        "another minor compatibility version",
        "raw-compat-1.1.bin",
        plain,
    );
}
