//! Signatures and certificates of stock images, with the key directories and clocks of the recorded
//! profiles.

use std::collections::BTreeMap;
use std::fs;

use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::trust::ucert::{self, UcertError};
use sysupgrade_rs::trust::{self, Trust};

use crate::vectors;

/// What `ucert` lets pass and is refused here.
const STRICTER: [&str; 2] = [
    // `ucert` stops reading at the first bytes that make no sense, and keeps what came before.
    "sig-ucert-trailing-garbage.bin",
    // It does not ask whether a signature carries the id of the certified key.
    "sig-fingerprint-changed.bin",
];

fn trust(keys: &str, now: i64) -> Result<Trust, trust::KeysError> {
    let dir = vectors::key_dir(keys);
    let mut trust = trust::load(&[dir.path().to_owned()], 1, 0)?;
    trust.now = now;
    Ok(trust)
}

/// Message and signature chunk of an image.
fn split(image: &[u8]) -> (&[u8], &[u8]) {
    let (rest, trailer) = image.split_last_chunk::<16>().expect("a trailer");
    let [b'F', b'W', b'x', b'0', _, _, _, _, 0, _, _, _, size @ ..] = trailer else {
        panic!("no signature is last: {trailer:?}");
    };
    let size = usize::try_from(u32::from_be_bytes(*size)).expect("small");
    let (message, _) = image.split_at(image.len() - size);
    (message, &rest[message.len()..])
}

fn image(name: &str) -> Vec<u8> {
    fs::read(vectors::path("images").join(name)).expect(name)
}

/// Why it is refused.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// The directory is no good: every image is refused.
    Keys,
    Chain(Reason),
    /// The chain is good, and not for this image.
    Image,
}

fn verdict(message: &[u8], chain: &[u8], keys: &str, now: i64) -> Result<(), Refused> {
    let trust = trust(keys, now).map_err(|_| Refused::Keys)?;
    let proof = ucert::verify(chain, &trust).map_err(|error| Refused::Chain(error.reason()))?;
    let mut verifier = proof.verifier();
    message
        .chunks(1000)
        .for_each(|piece| verifier.update(piece));
    if verifier.finish() {
        Ok(())
    } else {
        Err(Refused::Image)
    }
}

#[test]
fn every_recorded_signature_has_the_recorded_verdict_or_a_stricter_one() {
    let expected = vectors::json("expected.json");
    let mut count = BTreeMap::new();
    for case in expected["images"].as_array().expect("a list") {
        if case["tools"]["fwtool_extract_signature"]["exit"] != 0 {
            continue;
        }
        let file = case["file"].as_str().expect("a file");
        let name = file.strip_prefix("images/").expect("an image");
        let image = image(name);
        let (message, chain) = split(&image);
        let digest = |tool: &str, of: &str| case["tools"][tool][of].clone();
        if !chain.is_empty() {
            let chain = Digest::of(chain).to_string();
            assert_eq!(
                chain,
                digest("fwtool_extract_signature", "output_sha256"),
                "{name}"
            );
        }
        let message_digest = Digest::of(message).to_string();
        let wanted = digest("fwtool_strip_signature_to_stdout", "stdout_sha256");
        assert_eq!(message_digest, wanted, "{name}");

        for (profile, answer) in case["profiles"].as_object().expect("profiles") {
            let settings = &expected["profiles"][profile];
            // Without `ucert` the stock check passes whatever the signature is: nothing to compare.
            if settings["ucert_installed"] == false {
                continue;
            }
            let stock = &answer["validate_firmware_image"]["json"]["tests"]["fwtool_signature"];
            let stock = stock.as_bool().expect("a verdict");
            let keys = settings["keys"].as_str().expect("a directory");
            let now = vectors::seconds(settings["clock"].as_str().expect("a clock"));
            let ours = verdict(message, chain, keys, now);
            let wanted = stock && !STRICTER.contains(&name);
            assert_eq!(ours.is_ok(), wanted, "{name} as {profile}: {ours:?}");
            *count.entry(wanted).or_insert(0) += 1;
        }
    }
    // Profiles of images, by the verdict.
    assert_eq!(count, BTreeMap::from([(false, 41), (true, 17)]));
}

#[test]
fn each_refusal_says_what_is_wrong() {
    use Reason::*;
    use Refused::{Chain, Image, Keys};
    let june = vectors::seconds("2026-06-15 12:00:00");
    let expected = vectors::json("expected.json");
    for (name, profile, wanted) in [
        ("raw-signed.bin", "keys-empty", Chain(UnknownKey)),
        ("raw-signed.bin", "keys-build-revoked", Chain(RevokedKey)),
        ("raw-signed.bin", "keys-misnamed", Keys),
        ("raw-signed.bin", "clock-late", Chain(CertificateExpired)),
        (
            "raw-signed.bin",
            "clock-early",
            Chain(CertificateNotYetValid),
        ),
        (
            "raw-signed-by-delegate.bin",
            "keys-delegate-revoked",
            Chain(RevokedKey),
        ),
        ("raw-signed-bare.bin", "keys-root-only", Chain(UnknownKey)),
        ("sig-good-clock-1970.bin", "clock-1970", Chain(ClockNotSet)),
        ("sig-wrong-key.bin", "default", Chain(UnknownKey)),
        ("sig-expired-cert.bin", "default", Chain(CertificateExpired)),
        (
            "sig-not-yet-valid-cert.bin",
            "default",
            Chain(CertificateNotYetValid),
        ),
        ("sig-over-other-data.bin", "default", Image),
        ("sig-payload-changed-crc-fixed.bin", "default", Image),
        ("sig-metadata-changed.bin", "default", Image),
        ("sig-only-payload-signed.bin", "default", Image),
        (
            "sig-cert-without-signature.bin",
            "default",
            Chain(BadSignature),
        ),
        ("sig-revoker-as-cert.bin", "default", Chain(BadSignature)),
        ("sig-cert-by-attacker.bin", "default", Chain(UnknownKey)),
        ("sig-chain-broken.bin", "default", Chain(BadSignature)),
        ("sig-ucert-garbage.bin", "default", Chain(BadSignature)),
        ("sig-ucert-empty.bin", "default", Chain(BadSignature)),
        ("sig-ucert-truncated.bin", "default", Chain(BadSignature)),
        (
            "sig-ucert-trailing-garbage.bin",
            "default",
            Chain(BadSignature),
        ),
        ("sig-good-then-bad.bin", "default", Chain(BadSignature)),
        ("sig-bad-then-good.bin", "default", Chain(BadSignature)),
        ("sig-no-comment-line.bin", "default", Chain(BadSignature)),
        ("sig-wrong-algo.bin", "default", Chain(BadSignature)),
        (
            "sig-fingerprint-changed.bin",
            "default",
            Chain(BadSignature),
        ),
    ] {
        let settings = &expected["profiles"][profile];
        let keys = settings["keys"].as_str().expect("a directory");
        let now = vectors::seconds(settings["clock"].as_str().expect("a clock"));
        let image = image(name);
        let (message, chain) = split(&image);
        assert_eq!(
            verdict(message, chain, keys, now),
            Err(wanted),
            "{name} as {profile}"
        );
    }
    let image = image("raw-signed.bin");
    let (message, chain) = split(&image);
    assert_eq!(verdict(message, chain, "keys", june), Ok(()));
}

#[test]
fn a_bare_signature_does_not_depend_on_the_clock() {
    let image = image("raw-signed-bare.bin");
    let (message, chain) = split(&image);
    for now in [i64::MIN, 0, i64::MAX] {
        assert_eq!(verdict(message, chain, "keys", now), Ok(()));
    }
}

#[test]
fn a_proof_names_the_signer_and_who_authorised_it() {
    let trust = trust("keys", vectors::seconds("2026-06-15 12:00:00")).expect("keys");
    for (name, key, issuers) in [
        ("raw-signed-bare.bin", "ef907fab69385a8d", &[][..]),
        ("raw-signed.bin", "ef907fab69385a8d", &["ef907fab69385a8d"]),
        (
            "raw-signed-by-delegate.bin",
            "fd765781ec81f227",
            &["40c0ba6f90ab239f"],
        ),
    ] {
        let image = image(name);
        let proof = ucert::verify(split(&image).1, &trust).expect(name);
        assert_eq!(proof.key.to_string(), key, "{name}");
        let found: Vec<String> = proof.issuers.iter().map(ToString::to_string).collect();
        assert_eq!(found, issuers, "{name}");
    }
}

#[test]
fn no_bit_of_a_good_chain_can_be_changed_but_in_comments() {
    let trust = trust("keys", vectors::seconds("2026-06-15 12:00:00")).expect("keys");
    let image = image("raw-signed-by-delegate.bin");
    let (message, good) = split(&image);
    let is_good = |chain: &[u8]| {
        ucert::verify(chain, &trust).is_ok_and(|proof| {
            let mut verifier = proof.verifier();
            verifier.update(message);
            verifier.finish()
        })
    };
    assert!(is_good(good));
    // The certificate's signature begins at 8; the one over the image 8 after the certificate.
    let comments = [8, 356 + 8].map(|start| {
        let length = good[start..].iter().position(|byte| *byte == b'\n');
        start..start + length.expect("a line")
    });
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut changed = good.to_vec();
            changed[at] ^= 1 << bit;
            let in_comment = comments.iter().any(|comment| comment.contains(&at));
            let wanted = in_comment && changed[at] != b'\n';
            assert_eq!(is_good(&changed), wanted, "byte {at} bit {bit}");
        }
    }
    for length in 0..good.len() {
        assert!(!is_good(&good[..length]), "{length} bytes");
    }
    for more in [&b"\0"[..], b"\n", &[0; 4], &[0; 8], &good[356..], good] {
        assert!(!is_good(&[good, more].concat()), "{more:?}");
    }
}

#[test]
fn what_cannot_be_told_apart_from_no_signature_is_a_bad_one() {
    // A device may take images that nobody has signed; half a signature is not none.
    let trust = trust("keys", 0).expect("keys");
    assert_eq!(ucert::verify(b"", &trust).err(), Some(UcertError::Unsigned));
    assert_eq!(UcertError::Unsigned.reason(), Reason::BadSignature);
}
