//! Images changed by somebody without a key: every bit, every length, every member.

use sysupgrade_rs::image::{Encoding, ImageError, Unverified};
use sysupgrade_rs::report::Reason;

use crate::images::{
    self, BLOCK, BOTH, Pieces, change_header, good, noise, place, places, reason, refusal,
    tar_header, trust_one,
};

#[test]
fn every_bit_of_the_head_counts() {
    let image = good(Encoding::Plain);
    let manifest = place(&image, "manifest.json");
    let signature = place(&image, "manifest.sig");
    let control = place(&image, "CONTROL");
    let text = &image[signature.content..];
    let comment = "untrusted comment: ".len()..text.iter().position(|byte| *byte == b'\n').unwrap();
    let content =
        |place: &images::Place, at| (place.content..place.content + place.len).contains(&at);
    let mut changed = image.clone();
    for bit in 0..control.header * 8 {
        let at = bit / 8;
        changed[at] ^= 1 << (bit % 8);
        let found = reason(&changed, &trust_one());
        let fits = if at < "sysupgrade-".len() {
            found == Some(Reason::NotAnImage)
        } else if content(&manifest, at) {
            found == Some(Reason::BadSignature)
        } else if content(&signature, at) {
            match found {
                // Nobody signs the comment, and nobody reads it.
                None => comment.contains(&(at - signature.content)),
                Some(reason) => [Reason::BadSignature, Reason::UnknownKey].contains(&reason),
            }
        } else {
            found == Some(Reason::Damaged)
        };
        assert!(fits, "byte {at} bit {}: {found:?}", bit % 8);
        changed[at] ^= 1 << (bit % 8);
    }
}

/// All offsets from `start` on, but within the contents of parts, where one byte is like another,
/// only each seventh and those beside the edges of blocks.
fn telling_offsets(image: &[u8], start: usize) -> impl Iterator<Item = usize> {
    let parts = [place(image, "kernel"), place(image, "root")];
    (start..image.len()).filter(move |at| {
        let part = parts
            .iter()
            .find(|part| (part.content..part.end()).contains(at));
        part.is_none_or(|part| (at - part.content + 2) % BLOCK < 4 || at % 7 == 0)
    })
}

#[test]
fn every_byte_behind_the_head_counts() {
    for encoding in BOTH {
        let image = good(encoding);
        let mut changed = image.clone();
        for at in telling_offsets(&image, place(&image, "CONTROL").header) {
            changed[at] ^= 1 << (at % 8);
            let found = reason(&changed, &trust_one());
            assert_eq!(found, Some(Reason::Damaged), "{encoding:?} byte {at}");
            changed[at] = image[at];
        }
    }
}

#[test]
fn an_image_cut_at_any_length_is_refused_as_cut() {
    for encoding in BOTH {
        let image = good(encoding);
        for len in telling_offsets(&image, 0) {
            let found = reason(&image[..len], &trust_one());
            assert_eq!(found, Some(Reason::Truncated), "{encoding:?} {len} bytes");
        }
    }
}

#[test]
fn an_image_with_a_hole_is_refused() {
    let image = good(Encoding::Plain);
    for hole in places(&image).iter().skip(1) {
        // What follows moves up: the archive is shorter by one tar block.
        let mut shorter = image.clone();
        shorter.drain(hole.content..hole.content + 512);
        let found = reason(&shorter, &trust_one());
        assert!(
            matches!(
                found,
                Some(Reason::Damaged | Reason::BadSignature | Reason::Truncated)
            ),
            "{}: {found:?}",
            hole.name
        );
    }
}

#[test]
fn other_files_are_not_images() {
    for file in [
        b"hello\n".to_vec(),
        vec![0; 4096],
        noise(4096),
        tar_header("kernel", b'0', 0),
        tar_header("sysupgrade-acme_router-1", b'0', 0),
        tar_header("sysupgrade-acme_router-1/x/", b'5', 0),
        tar_header("sysupgrade-acme_router-1/", b'5', 512),
        b"./sysupgrade-acme_router-1/".to_vec(),
    ] {
        let found = reason(&file, &trust_one());
        let start = String::from_utf8_lossy(&file[..file.len().min(40)]);
        assert_eq!(found, Some(Reason::NotAnImage), "{start}");
    }
}

#[test]
fn a_lie_in_the_size_of_a_tar_header_is_found() {
    use Reason::{BadSignature, Damaged, NotAnImage, SignatureMissing};
    let image = good(Encoding::Plain);
    for place in places(&image) {
        let size = place.len as u64;
        // A byte less leaves a byte of content where padding belongs; a byte more takes one of the
        // padding; a block more takes the next header.
        let wanted = match place.name.as_str() {
            "" => [NotAnImage; 6],
            "manifest.json" => [Damaged, Damaged, BadSignature, Damaged, Damaged, Damaged],
            "manifest.sig" => [
                SignatureMissing,
                Damaged,
                BadSignature,
                Damaged,
                Damaged,
                Damaged,
            ],
            _ => [Damaged; 6],
        };
        let lies = [
            0,
            size.wrapping_sub(1),
            size + 1,
            size + 512,
            1 << 40,
            u64::MAX,
        ];
        for (lie, wanted) in lies.into_iter().zip(wanted) {
            if lie == size {
                continue;
            }
            let mut changed = image.clone();
            change_header(&mut changed, place.header, |header| header.set_size(lie));
            let found = reason(&changed, &trust_one());
            assert_eq!(found, Some(wanted), "`{}` of {size} said {lie}", place.name);
        }
    }
}

#[test]
fn a_size_that_is_no_number_is_refused() {
    let image = good(Encoding::Plain);
    for place in places(&image) {
        for text in [*b"0000000000x\0", *b"-0000000001\0", *b"            "] {
            let mut changed = image.clone();
            change_header(&mut changed, place.header, |header| {
                header.as_old_mut().size = text;
            });
            let found = reason(&changed, &trust_one());
            assert_eq!(found, Some(Reason::Damaged), "`{}` {text:?}", place.name);
        }
    }
}

#[test]
fn members_are_plain_files_and_nothing_else() {
    let image = good(Encoding::Plain);
    for place in places(&image).iter().skip(1) {
        for kind in *b"12345678xgLKSVMA" {
            let mut changed = image.clone();
            change_header(&mut changed, place.header, |header| {
                header.set_entry_type(tar::EntryType::new(kind));
            });
            let found = reason(&changed, &trust_one());
            assert_eq!(found, Some(Reason::Damaged), "`{}` as {kind}", place.name);
        }
    }
}

#[test]
fn extended_headers_are_refused() {
    let good = Pieces::of_good(Encoding::Plain);
    let image = good.image();
    for place in places(&image) {
        for kind in *b"xgLK" {
            let mut record = tar_header("sysupgrade-acme_router-1/record", kind, 20);
            record.extend(b"20 path=/etc/passwd\n");
            record.resize(1024, 0);
            let mut changed = image.clone();
            changed.splice(place.header..place.header, record);
            let found = reason(&changed, &trust_one());
            assert_eq!(found, Some(Reason::Damaged), "before `{}`", place.name);
        }
    }
}

#[test]
fn a_member_removed_added_renamed_swapped_or_doubled_is_refused() {
    let good = Pieces::of_good(Encoding::Plain);
    assert_eq!(reason(&good.image(), &trust_one()), None);
    let check = |what: &str, pieces: &Pieces| {
        let error = refusal(&pieces.image(), &trust_one());
        assert!(
            matches!(&error, Some(ImageError::UnexpectedMember { .. })),
            "{what}: {error:?}"
        );
    };
    for index in 0..good.members.len() {
        let name = &good.members[index].0;
        let mut pieces = good.clone();
        pieces.members.remove(index);
        check(&format!("{name} removed"), &pieces);

        let mut pieces = good.clone();
        pieces.members.insert(index, ("extra".into(), noise(10)));
        check(&format!("one added before {name}"), &pieces);

        let mut pieces = good.clone();
        pieces.members[index].0 = format!("{name}x");
        check(&format!("{name} renamed"), &pieces);

        let mut pieces = good.clone();
        pieces.members.insert(index, good.members[index].clone());
        check(&format!("{name} doubled"), &pieces);

        if index > 0 {
            let mut pieces = good.clone();
            pieces.members.swap(index - 1, index);
            check(&format!("{name} one earlier"), &pieces);
        }
    }
    let mut pieces = good.clone();
    pieces.members.push(("extra".into(), noise(10)));
    check("one added at the end", &pieces);
}

#[test]
fn members_live_in_the_directory_of_the_image() {
    let good = Pieces::of_good(Encoding::Plain);
    for index in 0..good.members.len() {
        let mut image = good.image();
        let place = places(&image)[index + 1].clone();
        for directory in ["", "sysupgrade-other/", "/sysupgrade-acme_router-1/", "../"] {
            change_header(&mut image, place.header, |header| {
                let name = format!("{directory}{}", place.name);
                header.as_old_mut().name = [0; 100];
                header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            });
            let error = refusal(&image, &trust_one());
            assert!(
                matches!(&error, Some(ImageError::UnexpectedMember { .. })),
                "{} in `{directory}`: {error:?}",
                place.name
            );
        }
    }
}

#[test]
fn the_directory_has_the_name_of_the_signed_board() {
    let mut pieces = Pieces::of_good(Encoding::Plain);
    pieces.directory = "sysupgrade-acme_router-2/".into();
    let error = refusal(&pieces.image(), &trust_one()).unwrap();
    assert_eq!(error.reason(), Reason::Damaged);
    let refusal = error.refusal();
    assert_eq!(refusal.found, "sysupgrade-acme_router-2/");
    assert_eq!(refusal.wanted, "sysupgrade-acme_router-1/");
}

#[test]
fn a_head_longer_than_possible_is_refused_before_it_is_read() {
    for (name, most) in [("manifest.json", 64 << 10), ("manifest.sig", 16 << 10)] {
        let mut pieces = Pieces::of_good(Encoding::Plain);
        pieces.member(name).resize(most + 1, b'\n');
        let image = pieces.image();
        let head = &image[..place(&image, name).content];
        assert!(matches!(
            Unverified::open(head).unwrap_err(),
            ImageError::TooLong { .. }
        ));
    }
}
