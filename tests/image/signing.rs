//! Adding signatures to an image that is there.

use std::fs;
use std::io::Cursor;

use sysupgrade_rs::image::{self, Encoding, Unverified};
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::trust::usign::Signature;

use crate::images::{good, key, place, places, reason, spec, trust, trust_one};

#[test]
fn signing_adds_to_the_signatures_and_changes_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::write(&path, good(Encoding::Deflate)).unwrap();
    let mut signed = Vec::new();
    image::sign(&path, &[key(2), key(3)], &mut signed).unwrap();
    assert_eq!(reason(&signed, &trust(&[key(1), key(2), key(3)], 3)), None);
    let (before, after) = (good(Encoding::Deflate), signed);
    for (old, new) in places(&before).iter().zip(places(&after)) {
        assert_eq!(old.name, new.name);
        if old.name != "manifest.sig" {
            assert!(before[old.content..old.end()] == after[new.content..new.end()]);
        }
    }
}

#[test]
fn a_damaged_image_is_not_signed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut image = good(Encoding::Plain);
    let root = place(&image, "root");
    image[root.content + 100] ^= 1;
    fs::write(&path, &image).unwrap();
    let mut signed = Vec::new();
    image::sign(&path, &[key(2)], &mut signed).unwrap_err();
    assert_eq!(signed, b"");
}

#[test]
fn a_key_does_not_sign_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::write(&path, good(Encoding::Plain)).unwrap();
    let error = image::sign(&path, &[key(2), key(1)], &mut Vec::new()).unwrap_err();
    let id = key(1).public().id();
    assert_eq!(error.to_string(), format!("key {id} has signed already"));
    let error = image::sign(&path, &[key(2), key(2)], &mut Vec::new()).unwrap_err();
    let id = key(2).public().id();
    assert_eq!(error.to_string(), format!("key {id} has signed already"));
}

#[test]
fn what_stands_behind_an_image_for_openwrt_is_not_copied_but_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut image = Cursor::new(good(Encoding::Plain));
    image::add_openwrt(&mut image, "{}", None).unwrap();
    let image = image.into_inner();
    assert_eq!(reason(&image, &trust_one()), None, "it is still an image");
    fs::write(&path, &image).unwrap();
    let mut signed = Vec::new();
    let tail = image::sign(&path, &[key(2)], &mut signed).unwrap();
    assert_eq!(tail.metadata.as_deref(), Some(&b"{}"[..]));
    assert_eq!(signed.len(), good(Encoding::Plain).len());
    assert_eq!(reason(&signed, &trust(&[key(1), key(2)], 2)), None);
}

#[test]
fn an_unsigned_image_can_be_signed_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Vec::new();
    image::build(&spec(dir.path(), Encoding::Plain), &[], &mut image).unwrap();
    assert_eq!(reason(&image, &trust_one()), Some(Reason::SignatureMissing));
    let unverified = Unverified::open(image.as_slice()).unwrap();
    assert_eq!(unverified.signatures().unwrap(), Vec::<Signature>::new());
    let path = dir.path().join("image");
    fs::write(&path, &image).unwrap();
    let mut signed = Vec::new();
    image::sign(&path, &[key(1)], &mut signed).unwrap();
    assert!(
        signed == {
            let mut image = Vec::new();
            image::build(&spec(dir.path(), Encoding::Plain), &[key(1)], &mut image).unwrap();
            image
        }
    );
}
