//! Payloads that lie, are cut, or change: nothing panics, nothing wrong is accepted.

use std::io::{self, Read};

use proptest::prelude::*;
use sysupgrade_rs::image::openwrt::payload::{
    Kind, Payload, PayloadError, PlainError, Wanted, plain, survey,
};
use sysupgrade_rs::report::Reason;

use super::samples::{self, Sample};
use super::{MOST, check, gzip, look, refused, triples};

/// What must be true of every payload that is accepted.
#[track_caller]
fn sound(payload: &Payload, len: u64) {
    let mut end = 0;
    assert!(!payload.parts.is_empty());
    for extent in &payload.parts {
        assert!(extent.len > 0 && extent.start >= end, "{payload:?}");
        end = extent.start.checked_add(extent.len).expect("no overflow");
    }
    assert!(end <= len, "{payload:?} of {len} bytes");
}

fn slot(sample: &Sample) -> Vec<&str> {
    sample.parts.iter().map(|(name, ..)| *name).collect()
}

#[test]
fn a_payload_that_is_cut_is_refused_wherever_it_is_cut() {
    for sample in samples::all() {
        for len in (0..sample.needed).step_by(512).chain([sample.needed - 1]) {
            let answer = check(&sample.bytes[..len]);
            // Erase blocks do not say how many there are.
            if sample.kind == Kind::Ubi && len >= 2 * 8192 && len % 8192 == 0 {
                continue;
            }
            let known = len > 4096 && sample.kind != Kind::Firmware;
            // Too little is left to tell what it was; a slot of its parts would not take it.
            if answer
                .as_ref()
                .is_ok_and(|payload| payload.kind == Kind::Raw)
                && !known
            {
                continue;
            }
            let error = answer.expect_err(sample.name);
            match error.reason() {
                Reason::Truncated => {}
                Reason::NotAnImage | Reason::Damaged if !known => {}
                _ => panic!("{} {len}: {error}", sample.name),
            }
        }
        if sample.needed == sample.bytes.len() {
            assert!(check(&sample.bytes).is_ok(), "{}", sample.name);
        }
    }
}

#[test]
fn a_file_that_is_shorter_than_was_said_is_refused() {
    for sample in samples::all() {
        let (parts, most) = (None, MOST);
        let board = None;
        let len = sample.bytes.len() as u64 + 1;
        let error = survey(&mut &*sample.bytes, len, &Wanted { board, parts, most });
        assert_eq!(error.expect_err(sample.name).reason(), Reason::Truncated);
        // And what is behind it is not part of it.
        let longer = [&sample.bytes[..], b"chunk"].concat();
        let answer = survey(&mut &*longer, len - 1, &Wanted { board, parts, most });
        assert_eq!(
            answer.expect(sample.name),
            check(&sample.bytes).expect(sample.name)
        );
    }
}

#[test]
fn no_bit_under_a_checksum_can_change() {
    for mut sample in samples::all() {
        for byte in sample.covered.clone().into_iter().flatten() {
            // In long runs of data one bit stands for its byte.
            for bit in if byte % 512 < 100 { 0..8 } else { 3..4 } {
                sample.bytes[byte] ^= 1 << bit;
                // Without its first bytes it is any maker's kind.
                match check(&sample.bytes) {
                    Err(_) => {}
                    Ok(payload) if payload.kind == Kind::Raw && byte < 512 => {}
                    Ok(payload) => panic!("{}: byte {byte} bit {bit}: {payload:?}", sample.name),
                }
                sample.bytes[byte] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn no_bit_of_a_header_makes_a_payload_that_is_out_of_bounds() {
    for mut sample in samples::all() {
        for byte in 0..512 {
            for bit in 0..8 {
                sample.bytes[byte] ^= 1 << bit;
                if let Ok(payload) = check(&sample.bytes) {
                    sound(&payload, sample.bytes.len() as u64);
                }
                sample.bytes[byte] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn a_number_that_lies_is_refused_or_harmless_even_under_a_good_checksum() {
    for sample in samples::all() {
        let len = sample.bytes.len() as u64;
        for (at, width, big) in &sample.numbers {
            let most = u64::MAX >> (64 - 8 * width);
            let old = &sample.bytes[*at..at + width];
            let lies = [
                0,
                1,
                39,
                511,
                len,
                len + 1,
                len * 2,
                most / 2,
                most / 512,
                most - 1,
                most,
            ];
            for lie in lies {
                let mut bytes = sample.bytes.clone();
                samples::put(&mut bytes, *at, *width, *big, lie & most);
                if &bytes[*at..at + width] == old {
                    continue;
                }
                samples::seal(sample.kind, &mut bytes);
                match look(&bytes, None, Some(&slot(&sample))) {
                    // A number that no part of the answer comes from.
                    Ok(payload) if lie > len => {
                        assert_eq!(
                            triples(&payload),
                            sample.parts,
                            "{} {at}: {lie}",
                            sample.name
                        );
                    }
                    Ok(payload) => sound(&payload, len),
                    Err(error) => assert_ne!(error.reason(), Reason::SourceFailed),
                }
            }
        }
    }
}

#[test]
fn a_tar_with_anything_but_the_members_it_should_have_is_refused() {
    let good: Vec<(&str, u8, &[u8])> = vec![
        ("sysupgrade-acme_nand-x2/", b'5', b""),
        (
            "sysupgrade-acme_nand-x2/CONTROL",
            b'0',
            b"BOARD=acme_nand-x2\n",
        ),
        ("sysupgrade-acme_nand-x2/kernel", b'0', b"kernel"),
    ];
    let built = |members: &[(&str, u8, &[u8])], end: &[u8]| {
        let entry =
            |(name, kind, content): &(&str, u8, &[u8])| samples::tar_entry(name, *kind, content);
        let mut bytes: Vec<u8> = members.iter().flat_map(entry).collect();
        bytes.extend_from_slice(end);
        bytes
    };
    let end = [0; 1024];
    assert!(look(&built(&good, &end), Some(super::BOARD), None).is_ok());
    let d = "sysupgrade-acme_nand-x2";
    for (name, kind, content, words) in [
        (
            "sysupgrade-acme_nand-x2/kernel",
            b'0',
            &b"x"[..],
            "it is there twice",
        ),
        (
            "sysupgrade-acme_nand-x2/CONTROL",
            b'0',
            b"x",
            "it is there twice",
        ),
        ("sysupgrade-acme_nand-x2/root", b'0', b"", "it is empty"),
        (
            "sysupgrade-acme_nand-x2/root",
            b'2',
            b"",
            "neither a plain file",
        ),
        (
            "sysupgrade-acme_nand-x2/root",
            b'1',
            b"",
            "neither a plain file",
        ),
        (
            "sysupgrade-acme_nand-x2/root",
            b'3',
            b"",
            "neither a plain file",
        ),
        (
            "sysupgrade-acme_nand-x2/root",
            b'S',
            b"x",
            "neither a plain file",
        ),
        ("pax_global_header", b'g', b"x", "neither a plain file"),
        ("././@LongLink", b'L', b"x", "neither a plain file"),
        ("etc/passwd", b'0', b"x", "outside the directory"),
        (
            "sysupgrade-acme_nand-x2x/root",
            b'0',
            b"x",
            "outside the directory",
        ),
        (
            "sysupgrade-acme_nand-x2/a/b",
            b'0',
            b"x",
            "not the name of a part",
        ),
        (
            "sysupgrade-acme_nand-x2/..",
            b'0',
            b"x",
            "not the name of a part",
        ),
        (
            "sysupgrade-acme_nand-x2/\x1b[2J",
            b'0',
            b"x",
            "\\u{1b}[2J at byte 2560: not the name",
        ),
        ("sysupgrade-acme_nand-x2/", b'5', b"", "a second directory"),
        (
            "sysupgrade-acme_nand-x2/sub/",
            b'5',
            b"",
            "a second directory",
        ),
        ("sysupgrade-other/", b'5', b"", "a second directory"),
    ] {
        let members = [good.as_slice(), &[(name, kind, content)]].concat();
        let (reason, text) = refused(&built(&members, &end), None);
        assert_eq!(reason, Reason::Damaged, "{name}: {text}");
        assert!(text.contains(words), "{name}: {text}");
    }
    let roots: Vec<_> = [
        good.as_slice(),
        &[
            ("sysupgrade-acme_nand-x2/root", b'0', b"x"),
            ("sysupgrade-acme_nand-x2/rootfs", b'0', b"x"),
        ],
    ]
    .concat();
    assert!(
        refused(&built(&roots, &end), None)
            .1
            .contains("there twice")
    );
    assert!(
        refused(&built(&good[..2], &end), None)
            .1
            .contains("no member that is a part")
    );
    let mut late = good.clone();
    late.swap(0, 1);
    assert!(
        refused(&built(&late, &end), None)
            .1
            .contains("does not come first")
    );
    assert_eq!(
        refused(&built(&good, b""), None).0,
        Reason::Truncated,
        "no end"
    );
    assert_eq!(
        refused(&built(&good, &end[..512]), None).0,
        Reason::Truncated
    );
    let lone = [&end[..512], &samples::tar_member("x", b"x"), &end].concat();
    assert!(
        refused(&built(&good, &lone), None)
            .1
            .contains("a lone zero block")
    );
    let more = [&end[..], &[0; 700], b"!"].concat();
    assert!(
        refused(&built(&good, &more), None)
            .1
            .contains("other bytes than zeros")
    );
    let names: Vec<_> = (0..100).map(|number| format!("{d}/part{number}")).collect();
    let many = names.iter().map(|name| (name.as_str(), b'0', &b"x"[..]));
    let many: Vec<_> = good[..2].iter().copied().chain(many).collect();
    assert!(
        refused(&built(&many, &end), None)
            .1
            .contains("too many members")
    );
}

#[test]
fn a_size_in_a_tar_header_has_one_meaning() {
    let sized = |field: &[u8]| {
        let name = "sysupgrade-acme_nand-x2/";
        let control = ("sysupgrade-acme_nand-x2/CONTROL", &b"x"[..]);
        let mut kernel = samples::tar_member("sysupgrade-acme_nand-x2/kernel", &[7; 8]);
        kernel[124..136].fill(0);
        kernel[124..124 + field.len()].copy_from_slice(field);
        samples::seal(Kind::Tar, &mut kernel);
        let directory = samples::tar_member(name, b"");
        let control = samples::tar_member(control.0, control.1);
        check(&[directory, control, kernel, vec![0; 1024]].concat())
    };
    for good in [
        &b"00000000010\0"[..],
        b"000000000010",
        b"00000000010 ",
        b"10",
        b"\x80\0\0\0\0\0\0\0\0\0\0\x08",
    ] {
        let payload = sized(good).unwrap_or_else(|error| panic!("{good:?}: {error}"));
        assert_eq!(payload.parts[0].len, 8, "{good:?}");
    }
    for bad in [
        &b""[..],
        b"         10 ",
        b"+10",
        b"-10",
        b"0x8",
        b"10\x0010",
        b"10 junk",
        b"00000000018",
        b"777777777777",
        b"\x80\0\0\x01\0\0\0\0\0\0\0\x08",
        b"\x81\0\0\0\0\0\0\0\0\0\0\x08",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf8",
        b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert!(sized(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_disk_whose_partitions_overlap_or_leave_it_is_refused() {
    for kind in [Kind::Mbr, Kind::Gpt] {
        for (partitions, words) in [
            (
                &[(1, 64, 8), (2, 71, 8)][..],
                "partition 2 at byte 0: it overlaps partition 1",
            ),
            (&[(1, 64, 20), (2, 70, 2)], "overlaps"),
            (&[(2, 64, 8), (1, 64, 8)], "overlaps"),
            (&[(1, 64, 8), (3, 64, 1)], "overlaps"),
            (&[], "it has no partitions"),
        ] {
            let (reason, text) = refused(&samples::disk(kind, partitions, 140), None);
            assert_eq!(reason, Reason::Damaged, "{kind} {partitions:?}: {text}");
            assert!(text.contains(words), "{kind} {partitions:?}: {text}");
        }
    }
    let beyond = samples::disk(Kind::Mbr, &[(1, 64, 77)], 140);
    assert_eq!(refused(&beyond, None).0, Reason::Truncated);
    let beyond = samples::disk(Kind::Gpt, &[(1, 64, 44)], 140);
    assert_eq!(refused(&beyond, None).0, Reason::Damaged);
    let mut extended = samples::disk(Kind::Mbr, &[(1, 64, 8)], 140);
    for kind in [0x05, 0x0f, 0x85] {
        extended[450] = kind;
        assert!(
            refused(&extended, None)
                .1
                .contains("a table inside the table")
        );
    }
}

#[test]
fn a_gzip_stream_must_be_one_whole_member_and_the_end() {
    for sample in samples::all() {
        let packed = gzip(&sample.bytes);
        for len in (2..packed.len()).step_by(97).chain([packed.len() - 1]) {
            assert_eq!(
                refused(&packed[..len], None).0,
                Reason::Truncated,
                "{}",
                sample.name
            );
        }
        for extra in [&b"\0"[..], b"junk", &packed] {
            let (reason, text) = refused(&[&packed, extra].concat(), None);
            assert_eq!(reason, Reason::Damaged, "{}: {text}", sample.name);
            assert!(text.contains("bytes follow it"), "{}: {text}", sample.name);
        }
        let mut broken = packed.clone();
        for at in packed.len() - 8..packed.len() {
            broken[at] ^= 1;
            assert_eq!(
                refused(&broken, None).0,
                Reason::Damaged,
                "{} {at}",
                sample.name
            );
            broken[at] ^= 1;
        }
    }
}

#[test]
fn no_more_is_inflated_than_was_allowed() {
    let image = samples::tar(&[
        ("sysupgrade-x/", b""),
        ("sysupgrade-x/CONTROL", b"x"),
        ("sysupgrade-x/root", &vec![0; 1 << 20]),
    ]);
    for bytes in [gzip(&image), image.clone()] {
        let answer = |most| {
            let (board, parts, len) = (None, None, bytes.len() as u64);
            survey(&mut &*bytes, len, &Wanted { board, parts, most })
        };
        assert!(answer(image.len() as u64).is_ok());
        for most in [0, 1, 600, 1 << 20, image.len() as u64 - 1] {
            let error = answer(most).expect_err("too large");
            assert_eq!(error.reason(), Reason::TooLarge, "{most}: {error}");
        }
        let mut most = Vec::new();
        let packed = bytes.len() < image.len();
        let error = plain(&*bytes, packed, 5000)
            .read_to_end(&mut most)
            .expect_err("too large");
        assert!(matches!(
            error.downcast(),
            Ok(PlainError::TooLarge { most: 5000 })
        ));
        assert!(most.len() <= 5000);
    }
}

/// Gives its bytes one by one, is interrupted before each, and fails after them if it should; no
/// buffer for it may be larger than the promise.
struct Hard<'a> {
    bytes: &'a [u8],
    interrupt: bool,
    fails: bool,
}

impl Read for Hard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(
            buffer.len() <= 32 << 10,
            "a buffer of {} bytes",
            buffer.len()
        );
        self.interrupt = !self.interrupt;
        if self.interrupt {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.bytes.is_empty() && self.fails {
            return Err(io::Error::other("the cable is out"));
        }
        let most = buffer.len().min(1);
        self.bytes.read(&mut buffer[..most])
    }
}

#[test]
fn a_slow_source_makes_no_difference_and_a_failing_one_is_told_from_a_bad_image() {
    for sample in samples::all() {
        for bytes in [&sample.bytes, &gzip(&sample.bytes)] {
            let through = |len: usize, fails: bool| -> Result<Payload, PayloadError> {
                let (board, parts, most) = (None, None, MOST);
                let mut source = Hard {
                    bytes: &bytes[..len],
                    interrupt: false,
                    fails,
                };
                survey(
                    &mut source,
                    bytes.len() as u64,
                    &Wanted { board, parts, most },
                )
            };
            let whole = through(bytes.len(), false).expect(sample.name);
            assert_eq!(whole, check(bytes).expect(sample.name));
            for len in [0, 1, 2, 100, 511, 512, bytes.len() / 2, bytes.len() - 1] {
                let error = through(len, true).expect_err(sample.name);
                assert_eq!(
                    error.reason(),
                    Reason::SourceFailed,
                    "{} {len}: {error}",
                    sample.name
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_begins_like_an_image_does_not_panic(
        which in 0..10_usize,
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..6),
        seal in any::<bool>(),
        packed in any::<bool>(),
    ) {
        let sample = samples::all().swap_remove(which);
        let mut bytes = sample.bytes;
        for (at, value, near) in changes {
            let span = match near {
                0 => bytes.len(),
                1 => 512,
                _ => 64,
            };
            let at = at.index(span.min(bytes.len()));
            bytes[at] = value;
        }
        if seal {
            samples::seal(sample.kind, &mut bytes);
        }
        bytes.truncate(cut.index(bytes.len() * 4).max(64));
        let len = bytes.len() as u64;
        let bytes = if packed { gzip(&bytes) } else { bytes };
        if let Ok(payload) = check(&bytes) {
            sound(&payload, len);
        }
    }

    #[test]
    fn noise_behind_any_first_bytes_does_not_panic(
        magic in prop::sample::select(vec![
            &b"sysu"[..], b"\x27\x05\x19\x56", b"hsqs", b"\xd0\x0d\xfe\xed", b"UBI#\x01",
            b"\x31\x18\x10\x06", b"CI", b"\xeb\x63", b"\x1f\x8b\x08\0", b"",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let bytes = [magic, &rest].concat();
        if let Ok(payload) = check(&bytes) {
            sound(&payload, bytes.len() as u64);
        }
    }
}

#[test]
fn what_lies_outside_of_its_own_tree_or_erase_block_is_refused() {
    let good = samples::fit(4096);
    for (at, lie) in [
        (8, 4000),
        (12, 4000),
        (16, 4090),
        (32, 4000),
        (36, 4090),
        (4, 200),
    ] {
        let mut bytes = good.clone();
        samples::put(&mut bytes, at, 4, true, lie);
        let (reason, text) = refused(&bytes, None);
        assert_eq!(reason, Reason::Damaged, "{at}: {text}");
    }
    let mut bytes = samples::ubi(3, 8192);
    for block in bytes.chunks_mut(8192) {
        samples::put(block, 20, 4, true, 8192);
        samples::seal(Kind::Ubi, block);
    }
    assert!(refused(&bytes, None).1.contains("would begin behind it"));
}
