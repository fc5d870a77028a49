//! Signatures of usign and signify: what both take is taken, in a chain what usign takes, and neither
//! if it is forged.

use std::fs;

use serde_json::Value;
use sysupgrade_rs::trust::usign::{PublicKey, SecretKey, Signature, Verifier};
use sysupgrade_rs::trust::{self, Trust, ucert};

use crate::vectors;

/// Both tools let it pass, and only a forger makes it: a second signature from a first one.
const FORGED: &str = "s-plus-l";

/// usign does not compare ids when it is given a key file. Here a signature without the id of its key
/// is refused.
const OTHER_ID: &str = "fingerprint-changed";

/// All recorded cases but one: that usign cannot sign an empty file says nothing about reading.
fn cases() -> Vec<Value> {
    let expected = vectors::json("expected.json");
    let mut cases = expected["signatures"].as_array().expect("a list").clone();
    cases.retain(|case| case["name"] != "sign-empty-message");
    assert_eq!(cases.len(), 26);
    cases
}

fn name(case: &Value) -> &str {
    case["name"].as_str().expect("a name")
}

fn read(case: &Value, field: &str) -> Vec<u8> {
    fs::read(vectors::path(case[field].as_str().expect(field))).expect(field)
}

/// The keys of a case; `None` if its key directory is refused as a whole.
fn trust(case: &Value) -> Option<Trust> {
    if case["pubkey"].is_string() {
        let key = PublicKey::parse(&read(case, "pubkey")).expect("a public key");
        return Some(Trust::in_any_of([key]));
    }
    let dir = case["keydir"].as_str().expect("a key directory");
    let dir = vectors::key_dir(dir.strip_prefix("keydirs/").expect("a key directory"));
    trust::load(&[dir.path().to_owned()], 1, 0).ok()
}

#[test]
fn a_signature_counts_if_both_tools_take_it_and_nobody_has_forged_it() {
    let mut taken = 0;
    for case in cases() {
        let message = read(&case, "message");
        let ours = trust(&case).is_some_and(|trust| {
            Signature::parse_all(&read(&case, "signature"))
                .is_ok_and(|all| trust.verify(&message, &all).is_ok())
        });
        let both = [&case["usign"]["exit"], &case["signify"]["exit"]]
            .iter()
            .all(|exit| exit.is_null() || **exit == 0);
        assert_eq!(ours, both && name(&case) != FORGED, "{}", name(&case));
        taken += usize::from(ours);
    }
    assert_eq!(taken, 9);
}

#[test]
fn a_signature_in_a_chain_counts_if_usign_takes_it_and_nobody_has_forged_it() {
    let mut taken = 0;
    for case in cases() {
        let text = read(&case, "signature");
        let blob = |content: &[u8]| {
            let length = u32::try_from(content.len() + 4).expect("short");
            let mut blob = length.to_be_bytes().to_vec();
            blob.extend(content);
            blob.resize(blob.len().next_multiple_of(4), 0);
            blob
        };
        let chain = blob(&blob(&text));
        let ours = trust(&case)
            .and_then(|trust| ucert::verify(&chain, &trust).ok())
            .is_some_and(|proof| {
                let mut verifier = proof.verifier();
                verifier.update(&read(&case, "message"));
                verifier.finish()
            });
        let usign = case["usign"]["exit"] == 0;
        let stricter = [FORGED, OTHER_ID].contains(&name(&case));
        assert_eq!(ours, usign && !stricter, "{}", name(&case));
        taken += usize::from(ours);
    }
    assert_eq!(taken, 11);
}

#[test]
fn a_signature_of_a_message_in_pieces_has_the_verdict_of_the_whole() {
    for case in cases() {
        let Some(trust) = trust(&case) else { continue };
        let message = read(&case, "message");
        for signature in Signature::parse_all(&read(&case, "signature")).unwrap_or_default() {
            for key in trust.keys.values() {
                let mut verifier = Verifier::new(key, &signature);
                message.chunks(100).for_each(|piece| verifier.update(piece));
                let whole = key.verifies(&message, &signature);
                assert_eq!(verifier.finish(), whole, "{}", name(&case));
            }
        }
    }
}

#[test]
fn secret_keys_of_both_tools_sign_what_their_public_keys_verify() {
    for tool in ["build", "signify"] {
        let read = |kind| fs::read(vectors::path(&format!("keys-material/{tool}.{kind}")));
        let secret = SecretKey::parse(&read("sec").expect(tool)).expect(tool);
        let public = PublicKey::parse(&read("pub").expect(tool)).expect(tool);
        let signature = secret.sign(b"message");
        assert!(public.verifies(b"message", &signature), "{tool}");
    }
}
