//! What a stock image holds, and which bytes of it go where.

mod hostile;
mod real_tools;
mod samples;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use sysupgrade_rs::image::openwrt::payload::{Kind, Payload, PayloadError, Wanted, plain, survey};
use sysupgrade_rs::report::Reason;

use super::vectors;

const BOARD: &str = "acme,nand-x2";
const MOST: u64 = 1 << 30;

pub(crate) fn look(
    bytes: &[u8],
    board: Option<&str>,
    parts: Option<&[&str]>,
) -> Result<Payload, PayloadError> {
    let most = MOST;
    survey(
        &mut &*bytes,
        bytes.len() as u64,
        &Wanted { board, parts, most },
    )
}

fn check(bytes: &[u8]) -> Result<Payload, PayloadError> {
    look(bytes, None, None)
}

#[track_caller]
fn refused(bytes: &[u8], parts: Option<&[&str]>) -> (Reason, String) {
    let error = look(bytes, Some(BOARD), parts).expect_err("it is accepted");
    (error.reason(), error.to_string())
}

fn triples(payload: &Payload) -> Vec<(&str, u64, u64)> {
    let parts = payload.parts.iter();
    parts
        .map(|extent| (extent.part.as_str(), extent.start, extent.len))
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

/// What is before the chunks at the end of a recorded image, whatever their checksums say.
fn payload_of(file: &str) -> Vec<u8> {
    let mut bytes = fs::read(vectors::path(file)).expect(file);
    while let Some(trailer) = bytes.len().checked_sub(16).map(|at| &bytes[at..])
        && trailer.starts_with(b"FWx0")
    {
        let size =
            u32::from_be_bytes([trailer[12], trailer[13], trailer[14], trailer[15]]) as usize;
        if size < 16 || size > bytes.len() {
            break;
        }
        bytes.truncate(bytes.len() - size);
    }
    bytes
}

#[test]
fn recorded_images_are_divided_as_the_real_tools_laid_them_out() {
    const KERNEL_ROOT: &[&str] = &["kernel", "root"];
    type Row = (
        &'static str,
        &'static [&'static str],
        &'static str,
        &'static [(&'static str, u64, u64)],
    );
    let rows: &[Row] = &[
        (
            "tar-unsigned",
            KERNEL_ROOT,
            "sysupgrade tar",
            &[("kernel", 2048, 5685), ("root", 8704, 4096)],
        ),
        (
            "raw-unsigned",
            KERNEL_ROOT,
            "uImage kernel and squashfs",
            &[("kernel", 0, 8192), ("root", 8192, 8196)],
        ),
        (
            "raw-unsigned",
            &["firmware"],
            "uImage kernel and squashfs",
            &[("firmware", 0, 16388)],
        ),
        (
            "raw-64k-blocks",
            &["firmware"],
            "uImage kernel and squashfs",
            &[("firmware", 0, 65540)],
        ),
        (
            "x86-mbr.img.gz",
            &["boot", "rootfs"],
            "x86 disk, MBR, gzip",
            &[
                ("boot", 262_144, 1_048_576),
                ("rootfs", 1_572_864, 1_048_576),
            ],
        ),
        (
            "x86-gpt.img.gz",
            &["kernel", "root"],
            "x86 disk, GPT, gzip",
            &[
                ("kernel", 262_144, 1_048_576),
                ("root", 1_310_720, 1_048_576),
            ],
        ),
    ];
    for (name, slot, kind, parts) in rows {
        let payload = look(
            &payload_of(&format!("images/{name}.bin")),
            Some(BOARD),
            Some(slot),
        )
        .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(payload.to_string(), *kind, "{name}");
        assert_eq!(triples(&payload), *parts, "{name}");
    }
}

/// Images that the stock check lets pass and this one does not, and why.
const STRICTER: [(&str, &str); 4] = [
    // The stock flasher looks for this entry and writes nothing without it.
    (
        "tar-no-dir-entry",
        "the directory of the board does not come first",
    ),
    // The stock check reads the one for this board, its flasher the first.
    ("tar-two-boards", "the image is for board aaa"),
    // A total size of 0: no boot loader reads that.
    ("fit-magic", "of an unknown version"),
    // Four letters are no erase block; `ubiformat` fails on it after the erasing.
    ("ubi-magic", "its header is wrong"),
];

#[test]
fn what_the_stock_check_refuses_is_refused_and_what_it_accepts_is_read() {
    let expected = vectors::json("expected.json");
    let mut stricter: BTreeMap<_, _> = STRICTER.into();
    let mut seen = 0;
    for image in expected["images"].as_array().expect("a list") {
        let name = image["file"].as_str().expect("a name");
        let valid = &image["profiles"]["nand"]["validate_firmware_image"]["json"]["valid"];
        let Value::Bool(valid) = valid else { continue };
        let name = name.trim_start_matches("images/").trim_end_matches(".bin");
        let answer = look(
            &payload_of(&format!("images/{name}.bin")),
            Some(BOARD),
            None,
        );
        seen += 1;
        match (answer, stricter.remove(name)) {
            (Ok(_), None) => assert!(valid, "{name}: stock refuses it"),
            (Err(error), None) => assert!(!valid, "{name}: stock accepts it, here: {error}"),
            (Err(error), Some(why)) => {
                assert!(*valid && error.to_string().contains(why), "{name}: {error}");
            }
            (Ok(_), Some(_)) => panic!("{name} is accepted"),
        }
    }
    assert!(seen >= 16, "only {seen} images for this profile");
    assert_eq!(stricter, BTreeMap::new(), "not seen");
}

#[test]
fn each_bad_tar_is_refused_for_its_own_fault() {
    for (name, reason, words) in [
        ("tar-no-control", Reason::Damaged, "no member CONTROL"),
        (
            "tar-empty-control",
            Reason::Damaged,
            "CONTROL at byte 512: it is empty",
        ),
        (
            "tar-wrong-board-dir",
            Reason::WrongBoard,
            "this is acme,nand-x2",
        ),
        ("tar-truncated", Reason::Truncated, "in tar member "),
        ("tar-not-a-tar", Reason::Damaged, "tar header at byte 0"),
        (
            "tar-header-flip",
            Reason::Damaged,
            "checksum of the tar header",
        ),
    ] {
        let (found, text) = refused(&payload_of(&format!("images/{name}.bin")), None);
        assert_eq!(found, reason, "{name}: {text}");
        assert!(text.contains(words), "{name}: {text}");
    }
}

#[test]
fn every_kind_is_known_by_its_first_bytes_also_inside_gzip() {
    for sample in samples::all() {
        let slot: Vec<_> = sample.parts.iter().map(|(name, ..)| *name).collect();
        for (bytes, packed) in [(sample.bytes.clone(), false), (gzip(&sample.bytes), true)] {
            let payload = look(&bytes, Some(BOARD), Some(&slot))
                .unwrap_or_else(|error| panic!("{}: {error}", sample.name));
            assert_eq!(payload.kind, sample.kind, "{}", sample.name);
            assert_eq!(payload.gzip, packed, "{}", sample.name);
            assert_eq!(triples(&payload), sample.parts, "{}", sample.name);
            assert!(check(&bytes).is_ok(), "{} without a slot", sample.name);
        }
    }
}

#[test]
fn the_bytes_of_an_extent_are_those_that_the_image_has_for_the_part() {
    let root = samples::squashfs(4096);
    let image = samples::tar(&[
        ("sysupgrade-acme,nand-x2/", b""),
        ("sysupgrade-acme,nand-x2/CONTROL", b"BOARD=acme_nand-x2\n"),
        ("sysupgrade-acme,nand-x2/root", &root),
    ]);
    let packed = gzip(&image);
    let payload = look(&packed, Some(BOARD), Some(&["kernel", "rootfs"])).expect("a good image");
    let [extent] = payload.parts.as_slice() else {
        panic!("{payload:?}");
    };
    let mut bytes = Vec::new();
    plain(packed.as_slice(), payload.gzip, MOST)
        .take(extent.start + extent.len)
        .read_to_end(&mut bytes)
        .expect("from memory");
    assert!(bytes[usize::try_from(extent.start).expect("small")..] == root);
}

#[test]
fn an_image_goes_only_to_a_slot_that_has_exactly_one_place_for_all_of_it() {
    let sample = |name: &str| {
        let mut all = samples::all().into_iter();
        all.find(|sample| sample.name == name).expect(name).bytes
    };
    let third = samples::disk(Kind::Mbr, &[(1, 10, 2), (2, 20, 2), (3, 30, 2)], 40);
    for (name, image, slot, fits) in [
        ("tar", sample("tar"), &["kernel", "rootfs"][..], true),
        (
            "tar, a part more",
            sample("tar"),
            &["dtb", "root", "kernel"],
            true,
        ),
        ("tar", sample("tar"), &["kernel"], false),
        ("tar", sample("tar"), &["firmware"], false),
        (
            "tar, two roots",
            sample("tar"),
            &["kernel", "root", "rootfs"],
            false,
        ),
        ("raw", sample("kernel and squashfs"), &["firmware"], true),
        (
            "raw",
            sample("kernel and squashfs"),
            &["root", "kernel"],
            true,
        ),
        ("raw", sample("kernel and squashfs"), &["kernel"], false),
        (
            "raw, two ways",
            sample("kernel and squashfs"),
            &["firmware", "kernel", "root"],
            false,
        ),
        ("kernel", sample("kernel"), &["kernel", "root"], true),
        ("kernel", sample("kernel"), &["root"], false),
        ("squashfs", sample("squashfs"), &["rootfs"], true),
        ("squashfs", sample("squashfs"), &["firmware"], false),
        ("FIT", sample("FIT"), &["kernel"], true),
        (
            "FIT, two ways",
            sample("FIT"),
            &["kernel", "firmware"],
            false,
        ),
        ("UBI", sample("UBI"), &["firmware"], true),
        ("UBI", sample("UBI"), &["root"], false),
        ("UBI, two ways", sample("UBI"), &["ubi", "firmware"], false),
        ("UBIFS", sample("UBIFS"), &["ubi"], false),
        ("combined", sample("combined"), &["firmware"], false),
        ("disk", sample("MBR"), &["root"], false),
        ("disk", sample("GPT"), &["boot", "rootfs"], true),
        (
            "disk, two ways",
            sample("GPT"),
            &["boot", "kernel", "rootfs"],
            false,
        ),
        ("disk, a third partition", third, &["boot", "root"], false),
        ("nothing at all", sample("tar"), &[], false),
    ] {
        let answer = look(&image, None, Some(slot));
        match answer {
            Ok(payload) => assert!(fits, "{name} into {slot:?}: {payload:?}"),
            Err(error) => {
                assert!(!fits, "{name} into {slot:?}: {error}");
                assert_eq!(error.reason(), Reason::WrongParts, "{name}: {error}");
                let both = format!("the slot has {}", slot.join(", "));
                assert!(error.to_string().ends_with(&both), "{name}: {error}");
            }
        }
    }
}

#[test]
fn a_partition_table_is_never_written() {
    for (kind, table) in [(Kind::Mbr, 512), (Kind::Gpt, 1024 + 128 * 128)] {
        // A partition that begins on its table.
        let sectors = [(1, 1, 8), (2, 80, 8)];
        let bytes = samples::disk(kind, &sectors, 140);
        let answer = check(&bytes);
        match kind {
            Kind::Mbr => assert_eq!(triples(&answer.expect("sector 1 is free"))[0].1, 512),
            _ => assert!(answer.is_err(), "{answer:?}"),
        }
        let zero = samples::disk(kind, &[(1, 0, 8)], 140);
        assert_eq!(refused(&zero, None).0, Reason::Damaged);
        let good = samples::disk(kind, &[(1, 64, 8), (2, 80, 8), (7, 90, 2)][..2], 140);
        for (_, start, _) in triples(&check(&good).expect("good")) {
            assert!(start >= table);
        }
    }
}

#[test]
fn what_no_kind_begins_with_is_raw_and_goes_whole_or_not_at_all() {
    for bytes in [&b"x"[..], b"./sysupgrade-x/", b"\x7fELF\x01\x01\x01"] {
        let payload = check(bytes).expect("raw");
        assert_eq!(payload.kind, Kind::Raw);
        assert_eq!(triples(&payload), [("firmware", 0, bytes.len() as u64)]);
        assert_eq!(
            refused(bytes, Some(&["kernel", "root"])).0,
            Reason::WrongParts
        );
    }
    assert_eq!(refused(b"", None).0, Reason::NotAnImage);
    // The magic of gzip, and no gzip stream.
    assert_eq!(refused(b"\x1f\x8b", None).0, Reason::Truncated);
    // Only one wrapping is taken off.
    let twice = gzip(&gzip(&samples::uimage(100)));
    assert_eq!(check(&twice).expect("raw").kind, Kind::Raw);
}

#[test]
fn no_recorded_image_and_no_beginning_of_one_makes_it_panic() {
    for image in fs::read_dir(vectors::path("images")).expect("images") {
        let bytes = fs::read(image.expect("an entry").path()).expect("a file");
        let _ = check(&bytes);
        for len in (0..bytes.len()).step_by(512) {
            let _ = check(&bytes[..len]);
        }
    }
}
