//! Block tables and blocks that lie, signed or not.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::image::blocks::Entry;
use sysupgrade_rs::image::{Encoding, ImageError};

use crate::images::{BLOCK, BOTH, Pieces, contents, place, read, reason, refusal, trust_one};

/// Length of an entry of a deflated part.
const ENTRY: usize = 68;

fn stored_len(table: &[u8], block: usize) -> u32 {
    let at = block * ENTRY + 32;
    u32::from_be_bytes(table[at..at + 4].try_into().unwrap())
}

fn set_stored_len(table: &mut [u8], block: usize, len: u32) {
    let at = block * ENTRY + 32;
    table[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

#[test]
fn a_lie_in_a_signed_stored_length_is_found() {
    let mut good = Pieces::of_good(Encoding::Deflate);
    let table = good.member("root.blocks").clone();
    let lens = [0, 1, 2].map(|block| stored_len(&table, block));
    // Sums that do not fit, and lengths that cannot be.
    for (block, len) in [
        (0, lens[0] - 1),
        (1, lens[1] + 1),
        (2, 0),
        (0, 4096 + 512),
        (1, u32::MAX),
    ] {
        let mut table = table.clone();
        set_stored_len(&mut table, block, len);
        let image = good.clone().replace("root.blocks", table).image();
        let error = refusal(&image, &trust_one());
        assert!(
            matches!(&error, Some(ImageError::Table { .. })),
            "block {block} of {len}: {error:?}"
        );
    }
    // The sum fits, but one is longer than a block can be, or empty.
    for (len0, len1) in [
        (lens[0] + lens[1], 0),
        (4096 + 513, lens[0] + lens[1] - 4096 - 513),
    ] {
        let mut table = table.clone();
        set_stored_len(&mut table, 0, len0);
        set_stored_len(&mut table, 1, len1);
        let image = good.clone().replace("root.blocks", table).image();
        let error = refusal(&image, &trust_one());
        assert!(
            matches!(&error, Some(ImageError::Table { .. })),
            "{len0} and {len1}: {error:?}"
        );
    }
    // The sum fits: one takes a byte of the next.
    for (more, less) in [(0, 1), (1, 2), (1, 0), (2, 1)] {
        let mut table = table.clone();
        set_stored_len(&mut table, more, lens[more] + 1);
        set_stored_len(&mut table, less, lens[less] - 1);
        let image = good.clone().replace("root.blocks", table).image();
        match refusal(&image, &trust_one()) {
            Some(ImageError::Block { block, .. }) => assert_eq!(block, more.min(less) as u64),
            other => panic!("a byte from {less} to {more}: {other:?}"),
        }
    }
}

#[test]
fn a_block_that_is_not_the_signed_one_is_refused_before_any_of_it_comes_out() {
    for encoding in BOTH {
        let entry = if encoding == Encoding::Plain {
            32
        } else {
            ENTRY
        };
        for block in 0..3_usize {
            // Each digest in turn: of the raw bytes, of the stored ones.
            for at in (block * entry..(block + 1) * entry).step_by(entry.min(36)) {
                let mut pieces = Pieces::of_good(encoding);
                let mut table = pieces.member("root.blocks").clone();
                table[at] ^= 0x80;
                let image = pieces.replace("root.blocks", table).image();
                let outcome = read(image.as_slice(), &trust_one());
                match outcome.result {
                    Err(ImageError::Block {
                        part, block: found, ..
                    }) => {
                        assert_eq!((part.as_str(), found), ("root", block as u64));
                    }
                    other => panic!("{encoding:?} block {block}: {other:?}"),
                }
                let (_, bytes) = &outcome.parts[1];
                assert!(
                    *bytes == contents()["root"][..block * BLOCK],
                    "{encoding:?} {block}"
                );
            }
        }
    }
}

/// An image with one deflated part of two blocks, the second of which is stored as these bytes,
/// all signed; `raw` is what the table says the block is.
fn with_stored_block(stored: &[u8], raw: Digest) -> Vec<u8> {
    let mut pieces = Pieces::of_good(Encoding::Deflate);
    let mut table = pieces.member("kernel.blocks").clone();
    let mut part = pieces.member("kernel").clone();
    let first = stored_len(&table, 0) as usize;
    let last = stored_len(&table, 2) as usize;
    let end = part.len() - last;
    part.splice(first..end, stored.iter().copied());
    let mut entry = Vec::new();
    let stored_len = u32::try_from(stored.len()).unwrap();
    Entry {
        raw,
        stored: Some((stored_len, Digest::of(stored))),
    }
    .write(&mut entry);
    table.splice(ENTRY..2 * ENTRY, entry);
    pieces
        .replace("kernel.blocks", table)
        .replace("kernel", part)
        .image()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_signed_block_must_inflate_to_exactly_its_bytes() {
    let block = contents()["kernel"][BLOCK..2 * BLOCK].to_vec();
    let digest = Digest::of(&block);
    let good = deflated(&block);
    assert_eq!(
        reason(&with_stored_block(&good, digest), &trust_one()),
        None
    );

    let mut longer = block.clone();
    longer.push(b'x');
    let mut followed = good.clone();
    followed.push(0);
    let mut other = block.clone();
    other[100] ^= 1;
    for (what, stored) in [
        ("a byte less", deflated(&block[1..])),
        ("a byte more", deflated(&longer)),
        ("nothing", deflated(b"")),
        ("a bomb", deflated(&vec![0; 3 << 20])),
        ("other bytes", deflated(&other)),
        ("followed by a byte", followed),
        (
            "followed by another stream",
            [good.clone(), deflated(b"")].concat(),
        ),
        ("cut", good[..good.len() - 1].to_vec()),
        ("no deflate stream", vec![0xff; 100]),
        ("a zlib stream", [&[0x78, 0x9c], good.as_slice()].concat()),
        ("the block itself", block.clone()),
    ] {
        let outcome = read(with_stored_block(&stored, digest).as_slice(), &trust_one());
        match outcome.result {
            Err(ImageError::Block { block: 1, .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
        let (_, bytes) = &outcome.parts[0];
        assert!(*bytes == contents()["kernel"][..BLOCK], "{what}");
    }
}

#[test]
fn a_block_does_not_borrow_bytes_from_the_one_before() {
    // A stream of nothing, said to be what the block before was: the bytes that are still in the
    // buffer would have the right digest.
    let before = Digest::of(&contents()["kernel"][..BLOCK]);
    let outcome = read(
        with_stored_block(&deflated(b""), before).as_slice(),
        &trust_one(),
    );
    match outcome.result {
        Err(ImageError::Block { block: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(outcome.parts[0].1.len(), BLOCK);
}

#[test]
fn stored_bytes_are_hashed_before_they_are_inflated() {
    // A stored deflate block has five bits of padding behind its header: with one of them set it
    // inflates to the same bytes, so that only the digest of the stored bytes tells the difference.
    let block = contents()["kernel"][BLOCK..2 * BLOCK].to_vec();
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&block).unwrap();
    let stored = encoder.finish().unwrap();
    let mut image = with_stored_block(&stored, Digest::of(&block));
    assert_eq!(reason(&image, &trust_one()), None);
    let table = place(&image, "kernel.blocks").content;
    let first = stored_len(&image[table..], 0) as usize;
    let at = place(&image, "kernel").content + first;
    image[at] ^= 0x80;
    match refusal(&image, &trust_one()) {
        Some(ImageError::Block {
            block: 1, problem, ..
        }) => assert_eq!(problem, "its stored bytes are not the signed ones"),
        other => panic!("{other:?}"),
    }
}
