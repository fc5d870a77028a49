//! Images of our own kind.

use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use serde_json::json;
use sysupgrade_rs::cli::source::Problem;
use sysupgrade_rs::image::{Encoding, ImageError};
use sysupgrade_rs::report::ExitCode;
use sysupgrade_rs::trust::usign::SecretKey;

use super::{Book, Site};
use crate::pieces::{self, Pieces, change_header, key, place};

const TEST: &str = "sysupgrade-rs -T image.bin";

/// Lays an image of pieces that were changed.
fn laid(change: impl FnOnce(Pieces) -> Pieces) -> impl FnOnce(&mut Site) {
    |site| {
        site.lay(
            "image.bin",
            change(Pieces::of_good(Encoding::Plain)).image(),
        );
    }
}

/// Lays a good image of which bytes were changed.
fn bent(change: impl FnOnce(&mut Vec<u8>)) -> impl FnOnce(&mut Site) {
    |site| {
        let mut image = pieces::good(Encoding::Plain);
        change(&mut image);
        site.lay("image.bin", image);
    }
}

/// Lays a good image that these keys have signed.
fn signed_by(site: &Site, keys: &[SecretKey]) {
    let mut pieces = Pieces::of_good(Encoding::Plain);
    let manifest = pieces.member("manifest.json").clone();
    let signatures = keys.iter().map(|key| key.sign(&manifest).to_text());
    *pieces.member("manifest.sig") = signatures.collect::<String>().into_bytes();
    site.lay("image.bin", pieces.image());
}

pub(super) fn tell(book: &mut Book) {
    source(book);
    container(book);
    signatures(book);
}

fn source(book: &mut Book) {
    book.chapter("Where an image comes from");
    let plain = |_: &mut Site| {};
    book.told("no such file", "sysupgrade-rs -T gone.bin", plain);
    book.told("a directory", "sysupgrade-rs -T router", plain);
    book.told("nothing on standard input", "sysupgrade-rs -T -", plain);
    book.told(
        "an address of another kind",
        "sysupgrade-rs -T ftp://192.0.2.1/image.bin",
        plain,
    );
    book.told(
        "an address without a host",
        "sysupgrade-rs -T http:///image.bin",
        plain,
    );
    let site = Site::new();
    for (heading, answer) in [
        ("a server that says no", "HTTP/1.0 404 Not Found\r\n\r\n"),
        ("a server that is none", "220 mail.example.org ESMTP\r\n"),
        (
            "a server that gives another range",
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 500-600/1000\r\n\r\n",
        ),
        (
            "a server that sends on and on",
            "HTTP/1.0 302 Found\r\nLocation: /\r\n\r\n",
        ),
    ] {
        let port = serve(answer);
        book.heading(heading);
        let mut part = Book::default();
        part.run(
            &site,
            &format!("sysupgrade-rs -T http://127.0.0.1:{port}/image.bin"),
        );
        book.text
            .push_str(&part.text.replace(&format!(":{port}"), ":PORT"));
    }
    let last = Box::new(Problem::Truncated {
        got: 11,
        wanted: 500,
    });
    let (got, wanted) = (11, 500);
    let given_up = Problem::GivenUp { got, wanted, last };
    for (heading, problem) in [
        ("a transfer that is cut again and again", given_up),
        ("another file in the middle of a transfer", Problem::Changed),
    ] {
        let hint = problem.hint();
        book.error_by_hand(heading, ExitCode::Failed, &problem, hint);
    }
    let source = io::Error::from(io::ErrorKind::ConnectionReset);
    let error = ImageError::Source {
        offset: 4096,
        source,
    };
    book.by_hand("a source that fails in between", &error.refusal());
    book.told(
        "no room to lay a stock image",
        "sysupgrade-rs -T -",
        |site| {
            // A directory in the place of the file.
            site.write("tmp/sysupgrade.img/x", "");
        },
    );
}

/// Answers everybody the same; the thread ends with the test's process.
fn serve(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

fn container(book: &mut Book) {
    book.chapter("Images of sysupgrade-pack: the container");
    book.told(
        "the image is cut",
        TEST,
        bent(|image| image.truncate(image.len() / 2)),
    );
    book.told(
        "a header is damaged",
        TEST,
        bent(|image| {
            let at = place(image, "CONTROL").header;
            image[at + 100] ^= 1;
        }),
    );
    book.told(
        "the padding is not zero",
        TEST,
        bent(|image| {
            let last = place(image, "manifest.json").end() - 1;
            image[last] = 1;
        }),
    );
    book.told(
        "a member is missing",
        TEST,
        laid(|mut pieces| {
            let at = pieces.position("root.blocks");
            pieces.members.remove(at);
            pieces
        }),
    );
    book.told(
        "a member has another size",
        TEST,
        laid(|mut pieces| {
            pieces.member("CONTROL").push(b'\n');
            pieces
        }),
    );
    book.told(
        "a signature file that is too long",
        TEST,
        bent(|image| {
            let at = place(image, "manifest.sig").header;
            change_header(image, at, |header| header.set_size(1 << 20));
        }),
    );
    book.told(
        "a member has another digest",
        TEST,
        laid(|mut pieces| {
            pieces.member("CONTROL")[0] ^= 1;
            pieces
        }),
    );
    book.told(
        "a block has other bytes",
        TEST,
        laid(|mut pieces| {
            pieces.member("root")[5000] ^= 1;
            pieces
        }),
    );
    book.told(
        "a block table that makes no sense",
        TEST,
        laid(|mut pieces| {
            let table = pieces.member("root.blocks").clone();
            pieces.replace("root.blocks", table[..table.len() - 1].to_vec())
        }),
    );
    book.told(
        "a manifest that is no JSON",
        TEST,
        laid(|pieces| pieces.set_manifest("{")),
    );
    book.told(
        "a manifest with an unknown key",
        TEST,
        laid(|pieces| pieces.lie(|manifest| manifest["colour"] = json!("red"))),
    );
    book.told(
        "an image of a later time",
        TEST,
        laid(|pieces| pieces.lie(|manifest| manifest["format"] = json!(2))),
    );
    book.told(
        "more bytes than belong to the image",
        TEST,
        bent(|image| {
            image.resize(image.len() + (2 << 20), 0);
        }),
    );
    let member = || "root".to_owned();
    let unfinished = ImageError::Unfinished { member: member() };
    book.by_hand("a member that was not read", &unfinished.refusal());
    book.told(
        "the same with --json",
        "sysupgrade-rs --json -T image.bin",
        bent(|image| {
            image.truncate(image.len() / 2);
        }),
    );
    book.told(
        "the same in the place of sysupgrade",
        "sysupgrade -T image.bin",
        bent(|image| {
            image.truncate(image.len() / 2);
        }),
    );
}

fn signatures(book: &mut Book) {
    book.chapter("Images of sysupgrade-pack: signatures");
    book.told(
        "signatures that are none",
        TEST,
        laid(|mut pieces| {
            *pieces.member("manifest.sig") = b"nonsense\n".to_vec();
            pieces
        }),
    );
    book.told("signed by an unknown key", TEST, |site| {
        signed_by(site, &[key(9)]);
    });
    book.told(
        "a signature that does not fit",
        TEST,
        laid(|mut pieces| {
            let manifest = pieces.member("manifest.json");
            let at = manifest.len() - 10;
            manifest[at] ^= 1;
            pieces
        }),
    );
    book.told("too few have signed", TEST, |site| {
        site.change_board("threshold = 1 ", "threshold = 2 ");
        signed_by(site, &[key(1)]);
    });
    book.told("signed by a revoked key", TEST, |site| {
        let name = format!("etc/opkg/keys/{}", key(1).public().id());
        site.write(&name, ".revoked.");
        signed_by(site, &[key(1)]);
    });
    book.told("below the security floor", TEST, |site| {
        site.write("data/sysupgrade-rs/floor", "8\n");
        signed_by(site, &[key(1)]);
    });
}
