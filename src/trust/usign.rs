//! Keys and signatures as `usign` and OpenBSD's `signify` write them.
//!
//! Each is a text of two lines: `untrusted comment: ...`, then base64 of these bytes:
//!
//! ```text
//! public key, 42   "Ed"  id 8  Ed25519 key 32
//! signature, 74    "Ed"  id 8  Ed25519 signature 64, over the raw bytes of the message
//! secret key, 104  "Ed"  "BK"  rounds u32 BE  salt 16  first 8 of SHA-512 of the secret  id 8  secret 64 (seed, key)
//! ```
//!
//! The id (usign calls it fingerprint) is random, made with the key, and only says which key to try:
//! a signature counts for nothing until the key itself has verified it. Comments carry no meaning.
//! Rounds above 0 mean a secret key under a password; those are refused.
//!
//! What either tool refuses is refused here: a comment without its prefix, a last line without its
//! newline, text after the base64, an id that is not the key's. What only a forger writes is refused
//! too, though both let it pass: `s` not reduced, points of small order, base64 with stray bits.
//!
//! Inside the certificates of [`ucert`](super::ucert) usign alone is the judge, which takes any first
//! line for the comment and passes over white space in the base64: `parse_as_usign` does the same.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Read, Seek, Write};

use base64ct::{Base64, Encoding};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign_byupdate};
use ed25519_dalek::{SignatureError, Signer, SigningKey, StreamVerifier, VerifyingKey};
use sha2::{Digest, Sha512};
use thiserror::Error;

use crate::report::printable;

/// Longest file that can hold one key: a comment of up to 1024 bytes (signify's limit), base64 of
/// at most 104 bytes, and some slack.
pub const MAX_KEY_FILE: u64 = 4 << 10;

/// Most signatures that are looked at: each costs milliseconds on a slow router, and nobody signs
/// with more keys.
pub const MAX_SIGNATURES: usize = 16;

const COMMENT: &str = "untrusted comment: ";
const ALGORITHM: [u8; 2] = *b"Ed";
const KDF: [u8; 2] = *b"BK";

const PUBLIC_LEN: usize = 42;
const SIGNATURE_LEN: usize = 74;
const SECRET_LEN: usize = 104;

/// Why a key or signature cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UsignError {
    /// Not even text.
    #[error("not a text")]
    NotText,
    /// The line before the base64 is not a comment.
    #[error("line {line} does not begin with `untrusted comment: `")]
    NoComment {
        /// Line, from 1.
        line: usize,
    },
    /// Not base64, or not of the length that this kind of file has.
    #[error("line {line} is not base64 of the {wanted} bytes of a {kind}")]
    NotBase64 {
        /// Line, from 1.
        line: usize,
        /// The kind of file.
        kind: &'static str,
        /// Its length in bytes.
        wanted: usize,
    },
    /// The last line was cut off.
    #[error("the last line has no newline")]
    NoNewline,
    /// Something follows where the file should end.
    #[error("text after the {kind}")]
    TrailingText {
        /// The kind of file.
        kind: &'static str,
    },
    /// Not Ed25519.
    #[error("unknown algorithm, only Ed25519 (`Ed`) is")]
    Algorithm,
    /// The 32 bytes are no public key, or one that any signature would fit.
    #[error("not a usable Ed25519 public key")]
    NotAKey,
    /// A secret key under a password.
    #[error("the secret key is under a password ({rounds} rounds); make one without (signify -n)")]
    Password {
        /// Rounds of the key derivation.
        rounds: u32,
    },
    /// The secret key's own checksum is wrong, or its two halves are of different keys.
    #[error("the secret key is damaged")]
    DamagedSecret,
    /// More signatures than [`MAX_SIGNATURES`].
    #[error("more than {MAX_SIGNATURES} signatures")]
    TooMany,
}

/// Eight bytes that name a key; shown as 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// From its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// From exactly 16 lower-case hex digits: the name of its file in a key directory.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(canonical) {
            return None;
        }
        let number = u64::from_str_radix(text, 16).ok()?;
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A public key with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    key: VerifyingKey,
}

impl PublicKey {
    /// Reads a public key file.
    ///
    /// # Errors
    /// [`UsignError`]: also for keys of small order, for which anybody can make signatures.
    pub fn parse(file: &[u8]) -> Result<Self, UsignError> {
        Self::from_fields(&decode_file(file, "public key")?)
    }

    /// Reads a public key file as leniently as usign.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn parse_as_usign(file: &[u8]) -> Result<Self, UsignError> {
        Self::from_fields(&decode_as_usign(file, "public key")?)
    }

    fn from_fields(bytes: &[u8; PUBLIC_LEN]) -> Result<Self, UsignError> {
        let mut fields = Fields(bytes);
        fields.algorithm()?;
        let id = KeyId(fields.take());
        let key = VerifyingKey::from_bytes(&fields.take()).map_err(|_| UsignError::NotAKey)?;
        if key.is_weak() {
            return Err(UsignError::NotAKey);
        }
        Ok(Self { id, key })
    }

    /// The file, with this comment.
    #[must_use]
    pub fn to_text(&self, comment: &str) -> String {
        let mut bytes = Vec::with_capacity(PUBLIC_LEN);
        bytes.extend(ALGORITHM);
        bytes.extend(self.id.0);
        bytes.extend(self.key.as_bytes());
        encode(comment, &bytes)
    }

    /// The name of the key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key itself, to tell one key under two ids.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// True if this key made the signature over exactly these bytes.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        self.id == signature.id && self.key.verify_strict(message, &bytes).is_ok()
    }
}

/// A signature and the id of the key that is said to have made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    id: KeyId,
    bytes: [u8; 64],
}

impl Signature {
    /// Reads one or more signature files put one after the other. No bytes are no signatures.
    ///
    /// # Errors
    /// [`UsignError`] if any of it is not a signature.
    pub fn parse_all(file: &[u8]) -> Result<Vec<Self>, UsignError> {
        let mut lines = Lines::of(file)?;
        let mut signatures = Vec::new();
        while !lines.is_at_end() {
            if signatures.len() == MAX_SIGNATURES {
                return Err(UsignError::TooMany);
            }
            signatures.push(Self::from_fields(&lines.decode("signature")?)?);
        }
        Ok(signatures)
    }

    /// Reads one signature file as leniently as usign.
    ///
    /// # Errors
    /// [`UsignError`].
    pub(crate) fn parse_as_usign(file: &[u8]) -> Result<Self, UsignError> {
        Self::from_fields(&decode_as_usign(file, "signature")?)
    }

    fn from_fields(bytes: &[u8; SIGNATURE_LEN]) -> Result<Self, UsignError> {
        let mut fields = Fields(bytes);
        fields.algorithm()?;
        Ok(Self {
            id: KeyId(fields.take()),
            bytes: fields.take(),
        })
    }

    /// The file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(SIGNATURE_LEN);
        bytes.extend(ALGORITHM);
        bytes.extend(self.id.0);
        bytes.extend(self.bytes);
        encode(&format!("signed by key {}", self.id), &bytes)
    }

    /// Which key is said to have made it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }
}

/// Verifies a signature over a message that comes piece by piece: an image never lies in memory
/// whole. As strict as [`PublicKey::verifies`].
///
/// Until [`finish`](Self::finish) has answered, nothing is known of the bytes.
#[must_use = "nothing is verified before `finish`"]
pub struct Verifier(Option<StreamVerifier>);

impl Verifier {
    /// Before the first byte.
    pub fn new(key: &PublicKey, signature: &Signature) -> Self {
        // `verify_stream` takes a reduced `s` only and compares the point as it is written, but does
        // not ask for its order, as `verify_strict` does. A public key of small order is none.
        let (point, _) = signature.bytes.split_at(32);
        let genuine = key.id == signature.id
            && VerifyingKey::try_from(point).is_ok_and(|point| !point.is_weak());
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        Self(
            genuine
                .then(|| key.key.verify_stream(&bytes).ok())
                .flatten(),
        )
    }

    /// Takes more of the message.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(stream) = &mut self.0 {
            stream.update(bytes);
        }
    }

    /// True if the key made the signature over exactly the bytes taken.
    #[must_use]
    pub fn finish(self) -> bool {
        self.0
            .is_some_and(|stream| stream.finalize_and_verify().is_ok())
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// A secret key with its id. Only `sysupgrade-pack` has any; it is wiped from memory when dropped.
pub struct SecretKey {
    id: KeyId,
    key: SigningKey,
}

impl SecretKey {
    /// From random bytes.
    #[must_use]
    pub fn from_seed(id: [u8; 8], seed: &[u8; 32]) -> Self {
        Self {
            id: KeyId(id),
            key: SigningKey::from_bytes(seed),
        }
    }

    /// Reads a secret key file.
    ///
    /// # Errors
    /// [`UsignError`]: also for keys under a password.
    pub fn parse(file: &[u8]) -> Result<Self, UsignError> {
        let bytes: [u8; SECRET_LEN] = decode_file(file, "secret key")?;
        let mut fields = Fields(&bytes);
        fields.algorithm()?;
        if fields.take() != KDF {
            return Err(UsignError::Algorithm);
        }
        let rounds = u32::from_be_bytes(fields.take());
        if rounds > 0 {
            return Err(UsignError::Password { rounds });
        }
        let _salt: [u8; 16] = fields.take();
        let checksum: [u8; 8] = fields.take();
        let id = KeyId(fields.take());
        let secret: [u8; 64] = fields.take();
        if checksum != secret_checksum(&secret) {
            return Err(UsignError::DamagedSecret);
        }
        let key = SigningKey::from_keypair_bytes(&secret).map_err(|_| UsignError::DamagedSecret)?;
        Ok(Self { id, key })
    }

    /// The file, with this comment. The salt is zero: without a password nothing uses it.
    #[must_use]
    pub fn to_text(&self, comment: &str) -> String {
        let secret = self.key.to_keypair_bytes();
        let mut bytes = Vec::with_capacity(SECRET_LEN);
        bytes.extend(ALGORITHM);
        bytes.extend(KDF);
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend([0; 16]);
        bytes.extend(secret_checksum(&secret));
        bytes.extend(self.id.0);
        bytes.extend(secret);
        encode(comment, &bytes)
    }

    /// Signs these bytes. The same bytes always give the same signature.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature {
            id: self.id,
            bytes: self.key.sign(message).to_bytes(),
        }
    }

    /// Signs a message that is too long to be held: all of `message`, which is read twice.
    ///
    /// # Errors
    /// When it cannot be read, or is not the same both times. That must not pass: the nonce comes from
    /// the first reading and the challenge from the second, and two signatures with one nonce and
    /// different challenges give the secret key away.
    pub fn sign_stream(&self, message: &mut (impl Read + Seek)) -> io::Result<Signature> {
        let message = RefCell::new(message);
        let first = Cell::new(None);
        let read = |state: &mut Sha512| -> io::Result<()> {
            let mut message = message.borrow_mut();
            message.rewind()?;
            let mut digest = Sha512::new();
            let mut both = Tee([state, &mut digest]);
            io::copy(&mut **message, &mut both)?;
            let digest = digest.finalize();
            match first.replace(Some(digest)) {
                Some(first) if first != digest => {
                    Err(io::Error::other("it changed while it was signed"))
                }
                _ => Ok(()),
            }
        };
        let bytes = raw_sign_byupdate(
            &ExpandedSecretKey::from(self.key.as_bytes()),
            |state| read(state).map_err(SignatureError::from_source),
            &self.key.verifying_key(),
        );
        Ok(Signature {
            id: self.id,
            bytes: bytes.map_err(io::Error::other)?.to_bytes(),
        })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey {
            id: self.id,
            key: self.key.verifying_key(),
        }
    }
}

/// Writes to two hashers what is read once.
struct Tee<'a>([&'a mut Sha512; 2]);

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for hasher in &mut self.0 {
            hasher.update(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.id)
    }
}

fn secret_checksum(secret: &[u8; 64]) -> [u8; 8] {
    let hash: [u8; 64] = Sha512::digest(secret).into();
    Fields(&hash).take()
}

/// Fixed fields of a decoded file, in order. The callers' array types make the lengths right.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self
            .0
            .split_first_chunk()
            .expect("the fields of each kind add up to its length, which decode checked");
        self.0 = rest;
        *field
    }

    fn algorithm(&mut self) -> Result<(), UsignError> {
        if self.take() == ALGORITHM {
            Ok(())
        } else {
            Err(UsignError::Algorithm)
        }
    }
}

/// The lines of a text, counted.
struct Lines<'a> {
    lines: std::iter::Peekable<std::str::Lines<'a>>,
    line: usize,
}

impl<'a> Lines<'a> {
    fn of(file: &'a [u8]) -> Result<Self, UsignError> {
        let text = std::str::from_utf8(file).map_err(|_| UsignError::NotText)?;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(UsignError::NoNewline);
        }
        Ok(Self {
            lines: text.lines().peekable(),
            line: 0,
        })
    }

    fn next(&mut self) -> &'a str {
        self.line += 1;
        self.lines.next().unwrap_or_default()
    }

    fn is_at_end(&mut self) -> bool {
        self.lines.peek().is_none()
    }

    /// Takes a comment line and a base64 line.
    fn decode<const N: usize>(&mut self, kind: &'static str) -> Result<[u8; N], UsignError> {
        if !self.next().starts_with(COMMENT) {
            return Err(UsignError::NoComment { line: self.line });
        }
        // White space around it is let pass, as both tools do: mailers and editors leave it.
        let text = self.next().trim_ascii();
        let mut bytes = [0; N];
        match Base64::decode(text, &mut bytes) {
            Ok(decoded) if decoded.len() == N => Ok(bytes),
            _ => Err(UsignError::NotBase64 {
                line: self.line,
                kind,
                wanted: N,
            }),
        }
    }
}

fn decode_file<const N: usize>(file: &[u8], kind: &'static str) -> Result<[u8; N], UsignError> {
    let mut lines = Lines::of(file)?;
    let bytes = lines.decode(kind)?;
    if !lines.is_at_end() {
        return Err(UsignError::TrailingText { kind });
    }
    Ok(bytes)
}

/// usign's own reading: whatever comes before the first newline is the comment, all the rest is base64
/// in which white space means nothing.
fn decode_as_usign<const N: usize>(file: &[u8], kind: &'static str) -> Result<[u8; N], UsignError> {
    let wrong = UsignError::NotBase64 {
        line: 2,
        kind,
        wanted: N,
    };
    let Some(newline) = file.iter().position(|byte| *byte == b'\n') else {
        return Err(UsignError::NoComment { line: 1 });
    };
    let text: Vec<u8> = file[newline..]
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let mut bytes = [0; N];
    match Base64::decode(text, &mut bytes) {
        Ok(decoded) if decoded.len() == N => Ok(bytes),
        _ => Err(wrong),
    }
}

fn encode(comment: &str, bytes: &[u8]) -> String {
    format!(
        "{COMMENT}{}\n{}\n",
        printable(comment),
        Base64::encode_string(bytes)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed(*b"\x00\x01\x02\x03\xfc\xfd\xfe\xff", &[7; 32])
    }

    #[test]
    fn keys_and_signatures_survive_their_files() {
        let secret = SecretKey::parse(key().to_text("mine").as_bytes()).unwrap();
        assert_eq!(secret.public(), key().public());
        let public = PublicKey::parse(secret.public().to_text("mine").as_bytes()).unwrap();
        assert_eq!(public, key().public());
        let signature = secret.sign(b"message");
        let parsed = Signature::parse_all(signature.to_text().as_bytes()).unwrap();
        assert_eq!(parsed.as_slice(), std::slice::from_ref(&signature));
        assert!(public.verifies(b"message", &signature));
        assert!(!public.verifies(b"massage", &signature));
    }

    #[test]
    fn a_message_that_is_read_gives_the_signature_of_its_bytes() {
        for len in [0, 1, 127, 128, 100_000] {
            let message: Vec<u8> = (0..=250).cycle().take(len).collect();
            let mut read = io::Cursor::new(&message);
            read.set_position(1); // wherever it stands, all of it is signed
            assert_eq!(key().sign_stream(&mut read).unwrap(), key().sign(&message));
        }
    }

    #[test]
    fn a_message_that_changes_while_it_is_signed_is_not_signed() {
        struct Changing(io::Cursor<Vec<u8>>);
        impl Read for Changing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.read(buffer)
            }
        }
        impl Seek for Changing {
            fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
                self.0.get_mut()[0] ^= 1;
                self.0.seek(to)
            }
        }
        let mut message = Changing(io::Cursor::new(b"message".to_vec()));
        key().sign_stream(&mut message).unwrap_err();
    }

    #[test]
    fn an_id_is_sixteen_lower_case_hex_digits() {
        assert_eq!(key().public().id().to_string(), "00010203fcfdfeff");
        assert_eq!(KeyId::parse("00010203fcfdfeff"), Some(key().public().id()));
        for wrong in [
            "00010203FCFDFEFF",
            "00010203fcfdfef",
            "+0010203fcfdfeff",
            "00010203fcfdfeff0",
            "",
        ] {
            assert_eq!(KeyId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_comment_cannot_break_out_of_its_line() {
        let text = key().public().to_text("a\nb");
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_secret_key_with_any_bit_flipped_is_refused() {
        let text = key().to_text("mine");
        let (comment, line) = text.split_once('\n').unwrap();
        let mut bytes = Base64::decode_vec(line.trim()).unwrap();
        // The salt means nothing, and the id is not covered by the checksum.
        for at in (0..8).chain(24..32).chain(40..SECRET_LEN) {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let changed = format!("{comment}\n{}\n", Base64::encode_string(&bytes));
                assert!(
                    SecretKey::parse(changed.as_bytes()).is_err(),
                    "byte {at} bit {bit}"
                );
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn a_secret_key_under_a_password_is_refused_by_name() {
        let text = key().to_text("mine");
        let (comment, line) = text.split_once('\n').unwrap();
        let mut bytes = Base64::decode_vec(line.trim()).unwrap();
        bytes[7] = 42;
        let changed = format!("{comment}\n{}\n", Base64::encode_string(&bytes));
        assert_eq!(
            SecretKey::parse(changed.as_bytes()).err(),
            Some(UsignError::Password { rounds: 42 })
        );
    }

    #[test]
    fn more_signatures_than_anybody_makes_are_refused() {
        let text = key().sign(b"message").to_text();
        assert_eq!(
            Signature::parse_all(text.repeat(16).as_bytes()).map(|all| all.len()),
            Ok(16)
        );
        assert_eq!(
            Signature::parse_all(text.repeat(17).as_bytes()),
            Err(UsignError::TooMany)
        );
    }

    #[test]
    fn a_key_that_fits_every_signature_is_refused() {
        // The neutral point has order 1.
        let mut bytes = b"Ed12345678".to_vec();
        bytes.extend([1]);
        bytes.extend([0; 31]);
        let text = encode("weak", &bytes);
        assert_eq!(PublicKey::parse(text.as_bytes()), Err(UsignError::NotAKey));
    }

    #[test]
    fn a_signature_that_is_not_a_genuine_one_is_refused_though_it_verifies() {
        // Made from the secret of `key()` with the neutral point for its random point, which no
        // signer does: it fulfils the equation, and so do as many others as anybody likes.
        let halves = [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "d4c5323131ff9683cfb3d30197c786c9043f1052d6c2d5293f19d6f36b911104",
        ];
        let bytes: Vec<u8> = halves
            .iter()
            .flat_map(|half| crate::digest::Digest::parse(half).unwrap().0)
            .collect();
        let signature = Signature {
            id: key().public().id(),
            bytes: bytes.try_into().unwrap(),
        };
        let lax = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        let public = key().public();
        assert!(ed25519_dalek::Verifier::verify(&public.key, b"message", &lax).is_ok());
        assert!(!public.verifies(b"message", &signature));
        assert!(!streamed(&public, &[b"message"], &signature));
    }

    fn streamed(key: &PublicKey, message: &[&[u8]], signature: &Signature) -> bool {
        let mut verifier = Verifier::new(key, signature);
        message.iter().for_each(|piece| verifier.update(piece));
        verifier.finish()
    }

    /// Signatures next to a genuine one, for each point of small order among others.
    fn near(genuine: &Signature) -> impl Strategy<Value = Signature> {
        /// The order of the base point, little endian.
        const L: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let bytes = genuine.bytes;
        let id = genuine.id;
        let mut plus_l = bytes;
        let mut carry = 0;
        for (byte, add) in plus_l[32..].iter_mut().zip(L) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            [*byte, _] = sum.to_le_bytes();
            carry = sum >> 8;
        }
        let mut weak = Vec::new();
        for first in [0, 1, 0xec, 0xed, 0xee] {
            for last in [0, 0x80, 0x7f, 0xff] {
                let middle = if first > 1 { 0xff } else { 0 };
                let mut forged = bytes;
                forged[0] = first;
                forged[1..31].fill(middle);
                forged[31] = last;
                weak.push(forged);
            }
        }
        let flipped = (0_usize..512).prop_map(move |bit| {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped
        });
        prop_oneof![
            Just(bytes),
            Just(plus_l),
            proptest::sample::select(weak),
            flipped,
        ]
        .prop_map(move |bytes| Signature { id, bytes })
    }

    proptest! {
        #[test]
        fn a_message_in_pieces_has_the_verdict_of_the_whole(
            message in proptest::collection::vec(any::<u8>(), 0..400),
            cuts in proptest::collection::vec(0_usize..400, 0..4),
            change in proptest::option::weighted(0.2, 0_usize..400),
            signature in near(&key().sign(b"")),
            of_message in any::<bool>(),
        ) {
            let signature = if of_message { key().sign(&message) } else { signature };
            let mut received = message.clone();
            if let Some(at) = change && let Some(byte) = received.get_mut(at) {
                *byte ^= 1;
            }
            for message in [&message[..], &received, b""] {
                let mut cuts: Vec<usize> =
                    cuts.iter().map(|cut| (*cut).min(message.len())).collect();
                cuts.extend([0, message.len()]);
                cuts.sort_unstable();
                let pieces: Vec<&[u8]> =
                    cuts.windows(2).map(|pair| &message[pair[0]..pair[1]]).collect();
                let public = key().public();
                prop_assert_eq!(
                    streamed(&public, &pieces, &signature),
                    public.verifies(message, &signature)
                );
            }
        }
    }

    #[test]
    fn a_signature_counts_for_the_key_of_its_id_only() {
        let other = SecretKey::from_seed([9; 8], &[7; 32]).public();
        let signature = key().sign(b"message");
        assert!(streamed(
            &key().public(),
            &[b"mess", b"", b"age"],
            &signature
        ));
        assert!(!streamed(&other, &[b"message"], &signature));
    }

    #[test]
    fn usign_takes_any_first_line_for_the_comment_and_white_space_for_nothing() {
        let signature = key().sign(b"message");
        let text = signature.to_text();
        let (_, base64) = text.split_once('\n').unwrap();
        let (half, rest) = base64.trim().split_at(40);
        let good = [
            format!("anything\n{half}{rest}"),
            format!("\n {half}\r\n\t{rest}\r\n\n"),
        ];
        for text in &good {
            let parsed = Signature::parse_as_usign(text.as_bytes());
            assert_eq!(parsed.as_ref(), Ok(&signature), "{text:?}");
        }
        let bad = [
            String::new(),
            format!("{half}{rest}\n"),
            format!("a\nb\n{half}{rest}\n"),
            format!("a\n{half}{rest}\n{half}{rest}\n"),
            format!("a\n{half}\n"),
            format!("a\n{half}\0{rest}\n"),
        ];
        for text in &bad {
            assert!(
                Signature::parse_as_usign(text.as_bytes()).is_err(),
                "{text:?}"
            );
        }
    }
}
