//! Keys and signatures that are read are written as files that are read as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sysupgrade_rs::trust::usign::{PublicKey, SecretKey, Signature};

fuzz_target!(|file: &[u8]| {
    if let Ok(key) = PublicKey::parse(file) {
        assert_eq!(PublicKey::parse(key.to_text("a key").as_bytes()), Ok(key));
    }
    if let Ok(signatures) = Signature::parse_all(file) {
        let texts: String = signatures.iter().map(Signature::to_text).collect();
        assert_eq!(Signature::parse_all(texts.as_bytes()), Ok(signatures));
    }
    if let Ok(key) = SecretKey::parse(file) {
        let again = SecretKey::parse(key.to_text("a key").as_bytes()).expect("it was read before");
        let signature = again.sign(file);
        assert_eq!(signature, key.sign(file));
        assert!(key.public().verifies(file, &signature));
    }
});
