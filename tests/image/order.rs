//! Members are read in order, whole, and once.

use std::io::{self, Read};

use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::image::{Encoding, ImageError, Member};
use sysupgrade_rs::report::Reason;

use crate::images::{BLOCK, BOTH, contents, good, place, verified};

#[test]
fn a_member_cannot_be_stepped_over() {
    for encoding in BOTH {
        let image = good(encoding);
        for take in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK, 3 * BLOCK - 1] {
            let mut verified = verified(&image);
            let Some(Member::Config(mut config)) = verified.next_member().unwrap() else {
                panic!("no config");
            };
            config.skip().unwrap();
            let Some(Member::Part(kernel)) = verified.next_member().unwrap() else {
                panic!("no kernel");
            };
            let count = kernel
                .take(take as u64)
                .read_to_end(&mut Vec::new())
                .unwrap();
            let whole = count == contents()["kernel"].len();
            match verified.next_member() {
                Ok(Some(_)) => assert!(whole, "{take} bytes were enough"),
                Err(ImageError::Unfinished { member }) => {
                    assert!(!whole);
                    assert_eq!(member, "kernel");
                    let error = verified.next_member().unwrap_err();
                    assert!(matches!(error, ImageError::Unfinished { .. }));
                    let error = verified.finish().unwrap_err();
                    assert!(matches!(error, ImageError::Unfinished { .. }));
                }
                other => panic!("{take}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_config_cannot_be_stepped_over() {
    let image = good(Encoding::Plain);
    let mut verified = verified(&image);
    assert!(matches!(
        verified.next_member(),
        Ok(Some(Member::Config(_)))
    ));
    match verified.next_member() {
        Err(ImageError::Unfinished { member }) => assert_eq!(member, "config.tar.gz"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_does_not_end_before_its_last_member() {
    let image = good(Encoding::Plain);
    for wanted in ["CONTROL", "kernel", "root"] {
        let mut verified = verified(&image);
        for _ in 0..["CONTROL", "kernel", "root"]
            .iter()
            .position(|name| *name == wanted)
            .unwrap()
        {
            match verified.next_member().unwrap() {
                Some(Member::Config(mut reader)) => reader.skip().unwrap(),
                Some(Member::Part(mut reader)) => reader.skip().unwrap(),
                None => panic!("no member"),
            }
        }
        match verified.finish() {
            Err(ImageError::Unfinished { member }) => assert_eq!(member, wanted),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whoever_reads_exactly_the_length_of_a_part_may_go_on() {
    // Devices pull the length they were told and never see the end.
    let image = good(Encoding::Deflate);
    let mut verified = verified(&image);
    while let Some(member) = verified.next_member().unwrap() {
        match member {
            Member::Config(mut reader) => {
                let mut bytes = vec![0; usize::try_from(reader.size()).unwrap()];
                reader.read_exact(&mut bytes).unwrap();
            }
            Member::Part(mut reader) => {
                let mut bytes = vec![0; usize::try_from(reader.part().raw_size).unwrap()];
                reader.read_exact(&mut bytes).unwrap();
                assert_eq!(Digest::of(&bytes), reader.part().raw_sha256);
            }
        }
    }
    verified.finish().unwrap();
}

#[test]
fn errors_of_a_part_survive_the_way_through_read() {
    let mut image = good(Encoding::Plain);
    let root = place(&image, "root");
    image[root.content] ^= 1;
    let mut verified = verified(&image);
    let error = loop {
        let mut sink = Vec::new();
        let result = match verified.next_member().unwrap().unwrap() {
            Member::Config(mut reader) => reader.read_to_end(&mut sink),
            Member::Part(mut reader) => reader.read_to_end(&mut sink),
        };
        if let Err(error) = result {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let error = ImageError::from_io(error).unwrap();
    assert_eq!(error.reason(), Reason::Damaged);
    assert_eq!(
        error.refusal().message,
        "block 0 of root: its bytes are not the signed ones"
    );
    let other = io::Error::other("full");
    assert_eq!(ImageError::from_io(other).unwrap_err().to_string(), "full");
}
