//! Whose signatures count.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use serde_json::json;
use sysupgrade_rs::image::{Encoding, ImageError, Unverified};
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::trust::usign::SecretKey;

use crate::images::{Pieces, good, key, place, reason, refusal, trust, trust_one};

fn signed_by(numbers: &[u8]) -> Vec<u8> {
    let mut pieces = Pieces::of_good(Encoding::Plain);
    let manifest = pieces.member("manifest.json").clone();
    let texts: Vec<String> = numbers
        .iter()
        .map(|number| key(*number).sign(&manifest).to_text())
        .collect();
    *pieces.member("manifest.sig") = texts.concat().into_bytes();
    pieces.image()
}

#[test]
fn an_image_without_signatures_is_refused() {
    let found = reason(&signed_by(&[]), &trust_one());
    assert_eq!(found, Some(Reason::SignatureMissing));
}

#[test]
fn a_signature_by_an_unknown_key_is_refused() {
    let found = reason(&signed_by(&[2]), &trust_one());
    assert_eq!(found, Some(Reason::UnknownKey));
    let found = reason(&signed_by(&[2, 3]), &trust(&[key(1)], 2));
    assert_eq!(found, Some(Reason::UnknownKey));
}

#[test]
fn more_signatures_than_needed_do_no_harm() {
    for signers in [&[1, 2][..], &[2, 1], &[9, 8, 1]] {
        assert_eq!(
            reason(&signed_by(signers), &trust_one()),
            None,
            "{signers:?}"
        );
    }
    let trust = trust(&[key(1), key(2), key(3)], 2);
    let image = signed_by(&[3, 9, 1]);
    let verified = Unverified::open(image.as_slice())
        .unwrap()
        .verify(&trust)
        .unwrap();
    assert_eq!(
        verified.signers(),
        [key(1).public().id(), key(3).public().id()]
    );
}

#[test]
fn one_key_counts_once_however_often_it_signs() {
    let trust = trust(&[key(1), key(2)], 2);
    for signers in [&[1][..], &[1, 1], &[1, 9], &[1, 1, 1]] {
        let found = reason(&signed_by(signers), &trust);
        assert_eq!(found, Some(Reason::TooFewSignatures), "{signers:?}");
    }
    assert_eq!(reason(&signed_by(&[1, 2]), &trust), None);
}

#[test]
fn one_key_under_two_names_counts_once() {
    let alias = SecretKey::from_seed([77; 8], &[1; 32]); // the key of key(1)
    let mut pieces = Pieces::of_good(Encoding::Plain);
    let manifest = pieces.member("manifest.json").clone();
    let texts = [
        key(1).sign(&manifest).to_text(),
        alias.sign(&manifest).to_text(),
    ];
    *pieces.member("manifest.sig") = texts.concat().into_bytes();
    let image = pieces.image();
    assert_eq!(reason(&image, &trust(&[key(1), alias], 1)), None);
    let alias = SecretKey::from_seed([77; 8], &[1; 32]);
    let found = reason(&image, &trust(&[key(1), alias], 2));
    assert_eq!(found, Some(Reason::TooFewSignatures));
}

#[test]
fn a_wrong_signature_by_a_known_key_is_refused_even_if_another_would_do() {
    let mut pieces = Pieces::of_good(Encoding::Plain);
    let manifest = pieces.member("manifest.json").clone();
    for order in [false, true] {
        let mut texts = [
            key(1).sign(&manifest).to_text(),
            key(2).sign(b"something else").to_text(),
        ];
        if order {
            texts.reverse();
        }
        *pieces.member("manifest.sig") = texts.concat().into_bytes();
        let found = reason(&pieces.image(), &trust(&[key(1), key(2)], 1));
        assert_eq!(found, Some(Reason::BadSignature));
    }
}

#[test]
fn a_signature_under_another_keys_name_is_refused() {
    let forger = SecretKey::from_seed([1; 8], &[66; 32]); // the name of key(1)
    let mut pieces = Pieces::of_good(Encoding::Plain);
    let manifest = pieces.member("manifest.json").clone();
    *pieces.member("manifest.sig") = forger.sign(&manifest).to_text().into_bytes();
    let found = reason(&pieces.image(), &trust_one());
    assert_eq!(found, Some(Reason::BadSignature));
}

#[test]
fn a_revoked_key_does_not_count() {
    let mut trust = trust(&[key(1), key(2)], 1);
    trust.revoked.insert(key(1).public().id());
    let found = reason(&signed_by(&[1]), &trust);
    assert_eq!(found, Some(Reason::RevokedKey));
    assert_eq!(reason(&signed_by(&[1, 2]), &trust), None);
    trust.threshold = 2.try_into().unwrap();
    let found = reason(&signed_by(&[1, 2]), &trust);
    assert_eq!(found, Some(Reason::RevokedKey));
    // Three would be needed, so that it is not for the revoked one that they are too few.
    trust.threshold = 3.try_into().unwrap();
    let found = reason(&signed_by(&[1, 2]), &trust);
    assert_eq!(found, Some(Reason::TooFewSignatures));
}

#[test]
fn an_image_below_the_floor_is_refused_with_both_numbers() {
    for (security, wanted) in [
        (0, Some(Reason::BelowFloor)),
        (4, Some(Reason::BelowFloor)),
        (5, None),
        (u64::MAX, None),
    ] {
        let pieces = Pieces::of_good(Encoding::Plain);
        let image = pieces
            .lie(|manifest| manifest["security"] = json!(security))
            .image();
        let error = refusal(&image, &trust_one());
        assert_eq!(error.as_ref().map(ImageError::reason), wanted);
        if let Some(error) = error {
            let refusal = error.refusal();
            assert_eq!(refusal.found, security.to_string());
            assert_eq!(refusal.wanted, "at least 5");
            assert!(!refusal.forceable);
        }
    }
}

#[test]
fn a_manifest_is_not_parsed_before_its_signature_has_verified() {
    // A manifest that cannot be parsed: whoever says so has tried.
    let mut pieces = Pieces::of_good(Encoding::Plain);
    *pieces.member("manifest.json") = b"{".to_vec();
    let found = reason(&pieces.image(), &trust_one());
    assert_eq!(found, Some(Reason::BadSignature));
    let found = reason(&pieces.set_manifest("{").image(), &trust_one());
    assert_eq!(found, Some(Reason::Damaged));
}

#[test]
fn nothing_after_the_signatures_is_read_before_they_have_verified() {
    #[derive(Debug)]
    struct Counted<'a>(&'a [u8], Rc<Cell<usize>>);
    impl Read for Counted<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(bytes)?;
            self.1.set(self.1.get() + count);
            Ok(count)
        }
    }
    let image = good(Encoding::Plain);
    let head = place(&image, "CONTROL").header;
    let count = Rc::new(Cell::new(0));
    let unverified = Unverified::open(Counted(&image, count.clone())).unwrap();
    assert_eq!(count.get(), head);
    unverified.inspect().unwrap();
    unverified.verify(&trust(&[key(2)], 1)).unwrap_err();
    assert_eq!(count.get(), head);
}

#[test]
fn text_that_is_no_signature_is_refused() {
    for text in [
        "\n",
        "hello\n",
        "untrusted comment: a\n",
        "untrusted comment: a\n\n",
        "untrusted comment: a\nRWQ=\n",
    ] {
        let mut pieces = Pieces::of_good(Encoding::Plain);
        *pieces.member("manifest.sig") = text.into();
        let error = refusal(&pieces.image(), &trust_one());
        assert!(
            matches!(&error, Some(ImageError::Signatures(_))),
            "{text:?}: {error:?}"
        );
    }
}
