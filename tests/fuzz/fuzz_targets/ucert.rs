//! A chain proves something only if it begins with a known key. Below the signatures, which no mutation
//! finds, payloads are signed here.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sysupgrade_rs::trust::Trust;
use sysupgrade_rs::trust::ucert::{MAX_IN_IMAGE, sign_chain, verify};
use sysupgrade_rs::trust::usign::{SecretKey, Signature};

const SIGNED: &[u8] = b"an image";

/// The keys of the recorded cases, which are the seeds.
static KEYS: LazyLock<[SecretKey; 3]> = LazyLock::new(|| {
    let files: [&[u8]; 3] = [
        include_bytes!("../../vectors/openwrt/keys-material/root.sec"),
        include_bytes!("../../vectors/openwrt/keys-material/build.sec"),
        include_bytes!("../../vectors/openwrt/keys-material/delegate.sec"),
    ];
    files.map(|file| SecretKey::parse(file).expect("a key"))
});

/// Of the keys, the last is revoked.
static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let mut trust = Trust::in_any_of(KEYS.iter().map(SecretKey::public));
    trust.revoked.insert(KEYS[2].public().id());
    // 2026-06-15, when the certificates of the recorded cases are valid.
    trust.now = 1_781_524_800;
    trust
});

/// By the key that the certificates of the recorded cases authorise.
static END: LazyLock<Signature> = LazyLock::new(|| KEYS[1].sign(SIGNED));

fuzz_target!(|bytes: &[u8]| {
    proves_nothing_new(bytes);
    for issuer in &*KEYS {
        let certificate = element(&issuer.sign(bytes), Some(bytes));
        proves_nothing_new(&certificate);
        proves_nothing_new(&[certificate.clone(), element(&END, None)].concat());
        for certificates in [bytes, &certificate] {
            if let Ok(chain) = sign_chain(certificates, &END) {
                assert!(chain.len() <= MAX_IN_IMAGE && chain.starts_with(certificates));
            }
        }
    }
});

fn proves_nothing_new(chain: &[u8]) {
    let Ok(proof) = verify(chain, &TRUST) else {
        return;
    };
    let first = proof.issuers.first().unwrap_or(&proof.key);
    assert!(TRUST.keys.contains_key(first), "{proof:?}");
    for key in proof.issuers.iter().chain([&proof.key]) {
        assert!(!TRUST.revoked.contains(key), "{proof:?}");
    }
    let mut verifier = proof.verifier();
    verifier.update(SIGNED);
    // Only our own signature is about these bytes.
    assert!(!verifier.finish() || proof.key == END.id(), "{proof:?}");
}

/// Signature and payload as libubox lays them out.
fn element(signature: &Signature, payload: Option<&[u8]>) -> Vec<u8> {
    let mut attributes = blob(0, signature.to_text().as_bytes());
    if let Some(payload) = payload {
        attributes.extend(blob(1, payload));
    }
    blob(0, &attributes)
}

fn blob(id: u8, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(4 + content.len()).expect("it is short");
    let mut blob = (u32::from(id) << 24 | len).to_be_bytes().to_vec();
    blob.extend(content);
    blob.resize(blob.len().next_multiple_of(4), 0);
    blob
}
