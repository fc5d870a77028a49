//! Who has signed a stock image, as OpenWrt's `ucert` writes it down: certificates, one after the
//! other, and the signature over the image.
//!
//! A key of the key directories authorises another key for some time, that one the next, and the last
//! signs the image. Without certificates the image is signed by a key of the directories itself, and
//! such a signature never expires.
//!
//! ```text
//! chain        at most 4095 bytes: certificates, then the signature over the image; nothing else
//! certificate  blob, id 0:  signature, payload         by the key of the certificate before, or by one
//!                                                      of the directories; over the payload's table
//! signature    blob, id 0:  signature                  by the key of the last certificate, or by one of
//!                                                      the directories; over the image
//!   signature  blob, id 0:  text of a usign signature file
//!   payload    blob, id 1:  table "ucert" of fields in any order, unknown ones ignored
//!     certtype     u32      1 authorise   2 revoke
//!     validfrom    u64      seconds since 1970, signed
//!     expiresat    u64      1 only: the same
//!     pubkey       string   1 only: text of a usign public key file
//!     fingerprint  string   2 only: a key id, 16 lower-case hex digits
//!
//! blob   u32 BE: bit 31 extended, bits 30..24 id or type, bits 23..0 length with this header;
//!        content; zeros to a multiple of 4, not in the length (libubox, blob.h)
//! table, u32, u64, string   an extended blob of type 2, 5, 4, 3. Content: name length u16 BE, name, NUL,
//!        zeros to a multiple of 4, data; a string ends in NUL (libubox, blobmsg.h)
//! ```
//!
//! Stricter than `ucert`, which stops at the first bytes it does not understand and takes what came
//! before: here every byte must fit the table above, and only comments are free. A signature must
//! carry the id of the key that made it. A field given twice is refused.
//!
//! Reading goes on only where a signature has verified: framing first, which decides nothing, then each
//! payload after its signature.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use super::Trust;
use super::usign::{KeyId, PublicKey, SecretKey, Signature, UsignError, Verifier};
use crate::report::Reason;

/// Most bytes of a chain: `ucert` reads no more. No more than 15 certificates fit.
pub const MAX_CHAIN: usize = 4095;

/// Most bytes of a chain in an image: `fwtool` leaves longer ones out, and reports success.
pub const MAX_IN_IMAGE: usize = 1024;

/// 2020-01-01: a clock before it was never set, for `ucert` was not yet in any release.
const CLOCK_IS_SET: i64 = 1_577_836_800;

/// Lengths in blobs are of 24 bits.
const LENGTH_MASK: u32 = 0x00ff_ffff;
const EXTENDED: u32 = 1 << 31;
const HEADER: usize = 4;

const ID_SIGNATURE: u32 = 0;
const ID_PAYLOAD: u32 = 1 << 24;

const TABLE: u32 = EXTENDED | 2 << 24;
const STRING: u32 = EXTENDED | 3 << 24;
const U64: u32 = EXTENDED | 4 << 24;
const U32: u32 = EXTENDED | 5 << 24;

const TABLE_NAME: &str = "ucert";
const FIELDS: [(&str, u32); 5] = [
    ("certtype", U32),
    ("validfrom", U64),
    ("expiresat", U64),
    ("pubkey", STRING),
    ("fingerprint", STRING),
];

const AUTHORISE: u32 = 1;
const REVOKE: u32 = 2;

/// Why a chain does not prove who has signed. Elements are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UcertError {
    /// Longer than possible.
    #[error("the certificates are longer than {most} bytes")]
    TooLong {
        /// The most.
        most: usize,
    },
    /// The bytes are no chain.
    #[error("element {element} of the certificates: {problem}")]
    Malformed {
        /// Which element.
        element: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// No signature where one belongs.
    #[error("the signature in element {element} of the certificates")]
    Signature {
        /// Which element.
        element: usize,
        /// What is wrong with it.
        source: UsignError,
    },
    /// Certificates, if any, and no signature over the image.
    #[error("there is no signature over the image behind the certificates")]
    Unsigned,
    /// A signed payload that lacks a field, or has it twice, or with a value of another kind.
    #[error("certificate {element} has no proper `{field}`")]
    Field {
        /// Which element.
        element: usize,
        /// The field.
        field: &'static str,
    },
    /// A payload of another type than the one that belongs here.
    #[error("element {element} is of type {found}, {wanted} belongs there")]
    Type {
        /// Which element.
        element: usize,
        /// Its `certtype`.
        found: u32,
        /// The one of certificates, or of revocations.
        wanted: u32,
    },
    /// The first signature is by a key that this device does not have.
    #[error("signed by key {id}, which this device does not know")]
    UnknownKey {
        /// The key.
        id: KeyId,
    },
    /// A signature is by another key than the one that the certificate before authorises.
    #[error("signed by key {found}, and not by key {wanted} that the certificate is for")]
    OtherKey {
        /// The key that is said to have signed.
        found: KeyId,
        /// The one that was authorised.
        wanted: KeyId,
    },
    /// The issuer's key did not make the signature over its certificate.
    #[error("certificate {element} is not what key {issuer} has signed")]
    BadCertificate {
        /// Which element.
        element: usize,
        /// The key that is said to have issued it.
        issuer: KeyId,
    },
    /// A key that has issued, is authorised or has signed was revoked.
    #[error("key {id} was revoked")]
    Revoked {
        /// The key.
        id: KeyId,
    },
    /// A certificate is no longer valid.
    #[error("the certificate for key {id} was valid until {}, it is {} now", Date(*.until), Date(*.now))]
    Expired {
        /// The key it is for.
        id: KeyId,
        /// The first second in which it is not valid, since 1970.
        until: i64,
        /// The time of the check.
        now: i64,
    },
    /// A certificate is not valid yet, by a clock that is set.
    #[error("the certificate for key {id} is valid from {} on, it is {} now", Date(*.from), Date(*.now))]
    NotYetValid {
        /// The key it is for.
        id: KeyId,
        /// The first second in which it is valid, since 1970.
        from: i64,
        /// The time of the check.
        now: i64,
    },
    /// A certificate cannot be judged by a clock that shows the time since power-on.
    #[error("the clock is not set: it shows {}, the certificate for key {id} is valid from {} on", Date(*.now), Date(*.from))]
    ClockNotSet {
        /// The key it is for.
        id: KeyId,
        /// The first second in which it is valid, since 1970.
        from: i64,
        /// The time of the check.
        now: i64,
    },
    /// A chain ends in one signature, and the device asks for more.
    #[error("1 accepted key has signed, {wanted} must have")]
    TooFew {
        /// How many must have.
        wanted: u8,
    },
}

impl UcertError {
    /// The stable identifier. Never [`Reason::SignatureMissing`]: a device that takes images without
    /// any signature must not take one with half a signature for such.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::Signature { .. }
            | Self::Unsigned
            | Self::Field { .. }
            | Self::Type { .. }
            | Self::OtherKey { .. }
            | Self::BadCertificate { .. } => Reason::BadSignature,
            Self::UnknownKey { .. } => Reason::UnknownKey,
            Self::Revoked { .. } => Reason::RevokedKey,
            Self::Expired { .. } => Reason::CertificateExpired,
            Self::NotYetValid { .. } => Reason::CertificateNotYetValid,
            Self::ClockNotSet { .. } => Reason::ClockNotSet,
            Self::TooFew { .. } => Reason::TooFewSignatures,
        }
    }

    /// What was found, and what the rule asks for.
    pub(crate) fn values(&self) -> (String, String) {
        let problem = |found: &str| (found.to_owned(), String::new());
        match self {
            Self::TooLong { most } => (format!("more than {most}"), format!("at most {most}")),
            Self::Malformed { problem: text, .. } => problem(text),
            Self::Signature { source, .. } => problem(&source.to_string()),
            Self::Unsigned => ("no signature".into(), "a signature".into()),
            Self::Field { field, .. } => (format!("no proper {field}"), (*field).into()),
            Self::Type { found, wanted, .. } => (found.to_string(), wanted.to_string()),
            Self::UnknownKey { id } | Self::Revoked { id } => {
                (id.to_string(), "an accepted key".into())
            }
            Self::OtherKey { found, wanted } => (found.to_string(), wanted.to_string()),
            Self::BadCertificate { issuer, .. } => (
                format!("a wrong signature of {issuer}"),
                "its signature".into(),
            ),
            Self::Expired { until, now, .. } => {
                (Date(*now).to_string(), format!("before {}", Date(*until)))
            }
            Self::NotYetValid { from, now, .. } | Self::ClockNotSet { from, now, .. } => {
                (Date(*now).to_string(), format!("from {} on", Date(*from)))
            }
            Self::TooFew { wanted } => {
                ("1 accepted keys".into(), format!("{wanted} accepted keys"))
            }
        }
    }

    /// What to do now.
    pub(crate) fn hint(&self) -> &'static str {
        match self.reason() {
            Reason::UnknownKey => {
                "get the image from its maker, or add the key to the key directory"
            }
            Reason::RevokedKey => {
                "the key is no longer trusted: get an image signed by its successor"
            }
            Reason::CertificateExpired => {
                "get a newer image, or ask its maker to sign this one again; if the date is wrong, \
                 set the clock"
            }
            Reason::CertificateNotYetValid => "set the clock: it is behind",
            Reason::ClockNotSet => {
                "set the clock, by the network or with `date -s \"2026-01-31 12:00\"`, and try again"
            }
            Reason::TooFewSignatures => {
                "a stock image carries one signature: use an image made by sysupgrade-pack"
            }
            // The checksum behind it is right: this did not happen on the way.
            _ => "nobody trusted vouches for these bytes: get an image that its maker has signed",
        }
    }
}

/// Who is said to have signed an image: all that can be known before its bytes.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The key that must have signed the image.
    pub key: KeyId,
    /// The keys that have authorised it, from the one in a key directory on; none if `key` itself is
    /// in one.
    pub issuers: Vec<KeyId>,
    public: PublicKey,
    signature: Signature,
}

impl Proof {
    /// To take the image, all of it before the signature, and to say whether it is the signed one.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(&self.public, &self.signature)
    }
}

/// Checks a chain, from the key directories to the signature over the image.
///
/// # Errors
/// [`UcertError`]. The image itself is not yet checked: ask [`Proof::verifier`].
pub fn verify(chain: &[u8], trust: &Trust) -> Result<Proof, UcertError> {
    let elements = elements(chain)?.collect::<Result<Vec<_>, _>>()?;
    let (last, certificates) = elements.split_last().ok_or(UcertError::Unsigned)?;
    let mut authorised = None;
    let mut issuers = Vec::new();
    for certificate in certificates {
        let issuer = signer(&certificate.signature, authorised.as_ref(), trust)?;
        issuers.push(issuer.id());
        authorised = Some(certificate.payload(issuer)?.authorises(trust)?);
    }
    if last.payload.is_some() {
        return Err(UcertError::Unsigned);
    }
    let public = signer(&last.signature, authorised.as_ref(), trust)?.clone();
    // Certificates lead to one key, and ids are no votes.
    match trust.threshold.get() {
        1 => Ok(Proof {
            key: public.id(),
            issuers,
            public,
            signature: last.signature.clone(),
        }),
        wanted => Err(UcertError::TooFew { wanted }),
    }
}

/// The key that a chain says has signed the image; nothing of that is checked.
#[must_use]
pub fn claimed_signer(chain: &[u8]) -> Option<KeyId> {
    let last = elements(chain).ok()?.last()?.ok()?;
    last.payload.is_none().then(|| last.signature.id())
}

/// The key that must have made this signature.
pub(super) fn signer<'a>(
    signature: &Signature,
    authorised: Option<&'a PublicKey>,
    trust: &'a Trust,
) -> Result<&'a PublicKey, UcertError> {
    let id = signature.id();
    if trust.revoked.contains(&id) {
        return Err(UcertError::Revoked { id });
    }
    match authorised {
        None => trust.keys.get(&id).ok_or(UcertError::UnknownKey { id }),
        Some(key) if key.id() == id => Ok(key),
        Some(key) => Err(UcertError::OtherKey {
            found: id,
            wanted: key.id(),
        }),
    }
}

/// The elements of a chain or of a list of revocations; none after the first error.
///
/// # Errors
/// When there are too many bytes.
pub(super) fn elements(
    bytes: &[u8],
) -> Result<impl Iterator<Item = Result<Element<'_>, UcertError>>, UcertError> {
    if bytes.len() > MAX_CHAIN {
        return Err(UcertError::TooLong { most: MAX_CHAIN });
    }
    let mut rest = bytes;
    let mut number = 0;
    Ok(std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        number += 1;
        let element = Element::take(number, &mut rest);
        if element.is_err() {
            rest = &[];
        }
        Some(element)
    }))
}

/// One certificate, revocation or signature.
pub(super) struct Element<'a> {
    number: usize,
    pub(super) signature: Signature,
    payload: Option<&'a [u8]>,
}

impl<'a> Element<'a> {
    fn take(number: usize, rest: &mut &'a [u8]) -> Result<Self, UcertError> {
        let malformed = |problem| UcertError::Malformed {
            element: number,
            problem,
        };
        let mut attributes = take_blob(rest, ID_SIGNATURE).map_err(malformed)?;
        let text = take_blob(&mut attributes, ID_SIGNATURE).map_err(malformed)?;
        let signature =
            Signature::parse_as_usign(text).map_err(|source| UcertError::Signature {
                element: number,
                source,
            })?;
        let mut payload = None;
        if !attributes.is_empty() {
            payload = Some(take_blob(&mut attributes, ID_PAYLOAD).map_err(malformed)?);
        }
        if !attributes.is_empty() {
            return Err(malformed("more than a signature and a payload"));
        }
        Ok(Self {
            number,
            signature,
            payload,
        })
    }

    /// The payload, which this key must have signed.
    ///
    /// # Errors
    /// Also when there is none.
    pub(super) fn payload(&self, issuer: &PublicKey) -> Result<Payload<'a>, UcertError> {
        if let Some(payload) = self.payload
            && !issuer.verifies(payload, &self.signature)
        {
            return Err(UcertError::BadCertificate {
                element: self.number,
                issuer: issuer.id(),
            });
        }
        self.unverified_payload()
    }

    fn unverified_payload(&self) -> Result<Payload<'a>, UcertError> {
        let element = self.number;
        let malformed = |problem| UcertError::Malformed { element, problem };
        let mut payload = self
            .payload
            .ok_or(malformed("a signature over an image has no place here"))?;
        let table = take_blob(&mut payload, TABLE).map_err(malformed)?;
        let (name, mut table) = split_name(table).map_err(malformed)?;
        if name != TABLE_NAME.as_bytes() || !payload.is_empty() {
            return Err(malformed("the payload is not one table `ucert`"));
        }
        let mut fields = BTreeMap::new();
        while !table.is_empty() {
            let (kind, field) = take_any_blob(&mut table).map_err(malformed)?;
            let (name, data) = split_name(field).map_err(malformed)?;
            let Some((known, wanted)) = FIELDS.iter().find(|(known, _)| known.as_bytes() == name)
            else {
                continue;
            };
            if kind != *wanted || fields.insert(*known, data).is_some() {
                return Err(UcertError::Field {
                    element,
                    field: known,
                });
            }
        }
        Ok(Payload { element, fields })
    }
}

/// The fields that someone has signed.
pub(super) struct Payload<'a> {
    element: usize,
    fields: BTreeMap<&'static str, &'a [u8]>,
}

impl Payload<'_> {
    /// The key that this certificate authorises now.
    fn authorises(&self, trust: &Trust) -> Result<PublicKey, UcertError> {
        self.is_of_type(AUTHORISE)?;
        let until = i64::from_be_bytes(self.fixed("expiresat")?);
        let text = self.text("pubkey")?;
        let key = PublicKey::parse_as_usign(text).map_err(|_| self.no("pubkey"))?;
        let id = key.id();
        let now = trust.now;
        self.has_begun(id, now)?;
        if until <= now {
            return Err(UcertError::Expired { id, until, now });
        }
        if trust.revoked.contains(&id) {
            return Err(UcertError::Revoked { id });
        }
        Ok(key)
    }

    /// The key that this record revokes now.
    ///
    /// # Errors
    /// Also when it is none, or not yet valid.
    pub(super) fn revokes(&self, now: i64) -> Result<KeyId, UcertError> {
        self.is_of_type(REVOKE)?;
        let id = std::str::from_utf8(self.text("fingerprint")?)
            .ok()
            .and_then(KeyId::parse)
            .ok_or(self.no("fingerprint"))?;
        self.has_begun(id, now)?;
        Ok(id)
    }

    fn is_of_type(&self, wanted: u32) -> Result<(), UcertError> {
        let found = u32::from_be_bytes(self.fixed("certtype")?);
        if found == wanted {
            return Ok(());
        }
        Err(UcertError::Type {
            element: self.element,
            found,
            wanted,
        })
    }

    fn has_begun(&self, id: KeyId, now: i64) -> Result<(), UcertError> {
        let from = i64::from_be_bytes(self.fixed("validfrom")?);
        if from <= now {
            Ok(())
        } else if now < CLOCK_IS_SET {
            Err(UcertError::ClockNotSet { id, from, now })
        } else {
            Err(UcertError::NotYetValid { id, from, now })
        }
    }

    fn no(&self, field: &'static str) -> UcertError {
        UcertError::Field {
            element: self.element,
            field,
        }
    }

    fn fixed<const N: usize>(&self, field: &'static str) -> Result<[u8; N], UcertError> {
        let data = self.fields.get(field).copied().unwrap_or_default();
        data.try_into().map_err(|_| self.no(field))
    }

    fn text(&self, field: &'static str) -> Result<&[u8], UcertError> {
        match self.fields.get(field).and_then(|data| data.split_last()) {
            Some((0, text)) if !text.contains(&0) => Ok(text),
            _ => Err(self.no(field)),
        }
    }
}

/// Takes a blob with this id or type; returns its content.
fn take_blob<'a>(rest: &mut &'a [u8], wanted: u32) -> Result<&'a [u8], &'static str> {
    let (id, content) = take_any_blob(rest)?;
    if id != wanted {
        return Err("a blob of another kind than belongs there");
    }
    Ok(content)
}

/// Takes a blob with its padding; returns id and extended bit as in the header, and the content.
fn take_any_blob<'a>(rest: &mut &'a [u8]) -> Result<(u32, &'a [u8]), &'static str> {
    let (header, _) = rest
        .split_first_chunk::<HEADER>()
        .ok_or("it ends within a header")?;
    let header = u32::from_be_bytes(*header);
    let length = usize::try_from(header & LENGTH_MASK).map_err(|_| "it is too long")?;
    let (blob, after) = split_padded(rest, length).ok_or("it ends within its content")?;
    let content = blob.get(HEADER..).ok_or("it is shorter than its header")?;
    *rest = after;
    Ok((header & !LENGTH_MASK, content))
}

/// Splits the content of a field or table into its name and the rest.
fn split_name(content: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let wrong = "the name of a field is broken";
    let (length, _) = content.split_first_chunk::<2>().ok_or(wrong)?;
    let end = 2 + usize::from(u16::from_be_bytes(*length));
    let (name, data) = split_padded(content, end + 1).ok_or(wrong)?;
    match name.get(2..).and_then(<[u8]>::split_last) {
        Some((0, name)) => Ok((name, data)),
        _ => Err(wrong),
    }
}

/// Splits off the first `length` bytes, and drops the zeros that follow up to a multiple of 4. `None`
/// when there are fewer bytes, or others than zeros.
fn split_padded(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (padded, rest) = bytes.split_at_checked(length.next_multiple_of(HEADER))?;
    let (first, zeros) = padded.split_at(length);
    zeros.iter().all(|byte| *byte == 0).then_some((first, rest))
}

/// A certificate that authorises `subject` to sign from `valid_from` until before `expires`, both in
/// seconds since 1970: byte for byte what `ucert -I` writes.
#[must_use]
pub fn issue(secret: &SecretKey, subject: &PublicKey, valid_from: u64, expires: u64) -> Vec<u8> {
    let text = subject.to_text(&format!("public key {}", subject.id()));
    certificate(secret, &text, valid_from, expires)
}

fn certificate(secret: &SecretKey, subject: &str, valid_from: u64, expires: u64) -> Vec<u8> {
    let mut fields = Vec::new();
    put_named(&mut fields, U32, "certtype", &AUTHORISE.to_be_bytes());
    put_named(&mut fields, U64, "validfrom", &valid_from.to_be_bytes());
    put_named(&mut fields, U64, "expiresat", &expires.to_be_bytes());
    put_named(&mut fields, STRING, "pubkey", &with_nul(subject));
    signed(secret, &fields)
}

/// A record that revokes `key` from `valid_from` on, in seconds since 1970: byte for byte what
/// `ucert -I` writes beside the certificate.
#[must_use]
pub fn revoke(secret: &SecretKey, key: KeyId, valid_from: u64) -> Vec<u8> {
    let mut fields = Vec::new();
    put_named(&mut fields, U32, "certtype", &REVOKE.to_be_bytes());
    put_named(&mut fields, U64, "validfrom", &valid_from.to_be_bytes());
    let id = with_nul(&key.to_string());
    put_named(&mut fields, STRING, "fingerprint", &id);
    signed(secret, &fields)
}

/// The chain for an image: certificates, none or as [`issue`] made them one after the other, and the
/// signature over the image.
///
/// # Errors
/// When the certificates are none, end in another key than the one that has signed, or leave too
/// little room. Their issuers and dates are the business of those who verify.
pub fn sign_chain(certificates: &[u8], signature: &Signature) -> Result<Vec<u8>, UcertError> {
    let mut subject: Option<PublicKey> = None;
    for element in elements(certificates)? {
        let element = element?;
        let payload = element.unverified_payload()?;
        payload.is_of_type(AUTHORISE)?;
        let text = payload.text("pubkey")?;
        subject = Some(PublicKey::parse_as_usign(text).map_err(|_| payload.no("pubkey"))?);
    }
    if let Some(subject) = subject
        && subject.id() != signature.id()
    {
        return Err(UcertError::OtherKey {
            found: signature.id(),
            wanted: subject.id(),
        });
    }
    let mut chain = certificates.to_vec();
    let mut element = Vec::new();
    put_blob(&mut element, ID_SIGNATURE, signature.to_text().as_bytes());
    put_blob(&mut chain, ID_SIGNATURE, &element);
    if chain.len() > MAX_IN_IMAGE {
        return Err(UcertError::TooLong { most: MAX_IN_IMAGE });
    }
    Ok(chain)
}

/// An element with these fields.
fn signed(secret: &SecretKey, fields: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    put_named(&mut payload, TABLE, TABLE_NAME, fields);
    let signature = secret.sign(&payload).to_text();
    let mut attributes = Vec::new();
    put_blob(&mut attributes, ID_SIGNATURE, signature.as_bytes());
    put_blob(&mut attributes, ID_PAYLOAD, &payload);
    let mut element = Vec::new();
    put_blob(&mut element, ID_SIGNATURE, &attributes);
    element
}

fn with_nul(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn put_named(out: &mut Vec<u8>, kind: u32, name: &str, data: &[u8]) {
    let length = u16::try_from(name.len()).expect("the names in this file are short");
    let mut content = length.to_be_bytes().to_vec();
    content.extend(with_nul(name));
    pad(&mut content);
    content.extend(data);
    put_blob(out, kind, &content);
}

fn put_blob(out: &mut Vec<u8>, id: u32, content: &[u8]) {
    let length = u32::try_from(HEADER + content.len()).ok();
    let length = length
        .filter(|length| length & !LENGTH_MASK == 0)
        .expect("keys and signatures have a few hundred bytes");
    out.extend((id | length).to_be_bytes());
    out.extend(content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(HEADER), 0);
}

/// Seconds since 1970 as date and time in UTC.
struct Date(i64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: i64 = 86_400;
        /// 9999-12-31 23:59:59. No clock shows more; a certificate may say so all the same.
        const LAST: i64 = 253_402_300_799;
        if !(0..=LAST).contains(&self.0) {
            return write!(f, "{} s since 1970", self.0);
        }
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut day, second) = (self.0 / DAY, self.0 % DAY);
        let mut year = 1970;
        while day >= 365 + i64::from(leap(year)) {
            day -= 365 + i64::from(leap(year));
            year += 1;
        }
        let february = 28 + i64::from(leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let day = day + 1;
        write!(
            f,
            "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// 2026-03-01 00:00:00, from which on the recorded certificates are valid for 365 days.
    const MARCH: u64 = 1_772_323_200;
    const YEAR: u64 = 365 * 86_400;

    fn key(number: u8) -> SecretKey {
        SecretKey::from_seed([number; 8], &[number; 32])
    }

    /// Trusts key 1, in June 2026.
    fn trust() -> Trust {
        let mut trust = Trust::in_any_of([key(1).public()]);
        trust.now = i64::try_from(MARCH).unwrap() + 9_000_000;
        trust
    }

    /// What the chain proves, of the message it was made for.
    fn verdict(chain: &[u8], trust: &Trust) -> Result<(KeyId, Vec<KeyId>, bool), UcertError> {
        let proof = verify(chain, trust)?;
        let mut verifier = proof.verifier();
        verifier.update(b"image");
        Ok((proof.key, proof.issuers, verifier.finish()))
    }

    /// A certificate for key 2 by key 1 with these fields, and an image signed with key 2.
    fn with_fields(fields: &[(u32, &str, &[u8])]) -> Vec<u8> {
        let mut table = Vec::new();
        for (kind, name, data) in fields {
            put_named(&mut table, *kind, name, data);
        }
        sealed(&signed(&key(1), &table))
    }

    /// [`sign_chain`] without its checks, for images signed with key 2.
    fn sealed(certificates: &[u8]) -> Vec<u8> {
        let bare = sign_chain(&[], &key(2).sign(b"image")).unwrap();
        [certificates, &bare].concat()
    }

    fn good_fields() -> Vec<(u32, &'static str, Vec<u8>)> {
        let subject = key(2).public().to_text("two");
        vec![
            (U32, "certtype", AUTHORISE.to_be_bytes().to_vec()),
            (U64, "validfrom", MARCH.to_be_bytes().to_vec()),
            (U64, "expiresat", (MARCH + YEAR).to_be_bytes().to_vec()),
            (STRING, "pubkey", with_nul(&subject)),
        ]
    }

    fn borrowed<'a>(
        fields: &'a [(u32, &'static str, Vec<u8>)],
    ) -> Vec<(u32, &'static str, &'a [u8])> {
        fields
            .iter()
            .map(|(kind, name, data)| (*kind, *name, data.as_slice()))
            .collect()
    }

    #[test]
    fn a_whole_certificate_of_another_type_authorises_nobody() {
        let mut fields = good_fields();
        assert!(verdict(&with_fields(&borrowed(&fields)), &trust()).is_ok());
        for other in [0, REVOKE, 3, AUTHORISE << 24] {
            fields[0].2 = other.to_be_bytes().to_vec();
            let chain = with_fields(&borrowed(&fields));
            let error = verdict(&chain, &trust()).unwrap_err();
            assert!(matches!(error, UcertError::Type { .. }), "{other}: {error}");
        }
    }

    #[test]
    fn nothing_stands_behind_the_table_or_the_payload_of_an_element() {
        let mut table = Vec::new();
        for (kind, name, data) in borrowed(&good_fields()) {
            put_named(&mut table, kind, name, data);
        }
        let element = |behind_table: bool, behind_payload: bool| {
            let mut payload = Vec::new();
            put_named(&mut payload, TABLE, TABLE_NAME, &table);
            if behind_table {
                put_named(&mut payload, TABLE, TABLE_NAME, &[]);
            }
            let mut attributes = Vec::new();
            let signature = key(1).sign(&payload).to_text();
            put_blob(&mut attributes, ID_SIGNATURE, signature.as_bytes());
            put_blob(&mut attributes, ID_PAYLOAD, &payload);
            if behind_payload {
                put_blob(&mut attributes, ID_PAYLOAD, &payload);
            }
            let mut element = Vec::new();
            put_blob(&mut element, ID_SIGNATURE, &attributes);
            verdict(&sealed(&element), &trust())
        };
        assert!(element(false, false).is_ok());
        for (behind_table, behind_payload) in [(true, false), (false, true)] {
            let error = element(behind_table, behind_payload).unwrap_err();
            assert!(matches!(error, UcertError::Malformed { .. }), "{error}");
        }
    }

    #[test]
    fn certificates_and_revocations_are_written_as_ucert_writes_them() {
        let keys =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/openwrt/keys-material");
        let read = |name: &str| fs::read(keys.join(name)).unwrap();
        let text = |name: &str| String::from_utf8(read(name)).unwrap();
        for (issuer, subject, file) in [
            ("build", "build", "build.ucert"),
            ("root", "delegate", "delegate-by-root.ucert"),
            ("attacker", "attacker", "attacker.ucert"),
        ] {
            let secret = SecretKey::parse(&read(&format!("{issuer}.sec"))).unwrap();
            let subject = text(&format!("{subject}.pub"));
            let ours = certificate(&secret, &subject, MARCH, MARCH + YEAR);
            assert!(ours == read(file), "{file}");
            let public = PublicKey::parse(subject.as_bytes()).unwrap();
            let record = format!("{file}.revoke");
            if keys.join(&record).exists() {
                assert!(
                    revoke(&secret, public.id(), MARCH) == read(&record),
                    "{record}"
                );
            }
        }
    }

    #[test]
    fn a_chain_that_we_wrote_proves_its_keys() {
        let first = issue(&key(1), &key(2).public(), MARCH, MARCH + YEAR);
        let second = issue(&key(2), &key(3).public(), MARCH, MARCH + YEAR);
        let ids = [1, 2, 3].map(|number| key(number).public().id());
        for (certificates, signer, issuers) in [
            (vec![], 1, vec![]),
            (first.clone(), 2, vec![ids[0]]),
            ([first, second].concat(), 3, vec![ids[0], ids[1]]),
        ] {
            let id = key(signer).public().id();
            for (message, good) in [(b"image", true), (b"other", false)] {
                let chain = sign_chain(&certificates, &key(signer).sign(message)).unwrap();
                let proven = Ok((id, issuers.clone(), good));
                assert_eq!(verdict(&chain, &trust()), proven);
            }
        }
    }

    #[test]
    fn what_no_device_would_take_or_fwtool_would_drop_is_not_written() {
        let certificate = issue(&key(1), &key(2).public(), MARCH, MARCH + YEAR);
        let by = |number| key(number).sign(b"image");
        assert!(matches!(
            sign_chain(&certificate, &by(1)),
            Err(UcertError::OtherKey { .. })
        ));
        assert_eq!(
            sign_chain(&certificate.repeat(3), &by(2)),
            Err(UcertError::TooLong { most: 1024 })
        );
        let chain = sign_chain(&certificate, &by(2)).unwrap();
        assert!(sign_chain(&chain, &by(2)).is_err());
        let record = revoke(&key(1), key(2).public().id(), MARCH);
        assert!(matches!(
            sign_chain(&record, &by(2)),
            Err(UcertError::Type { found: 2, .. })
        ));
        assert!(sign_chain(b"garbage", &by(2)).is_err());
    }

    #[test]
    fn fields_have_any_order_and_unknown_ones_mean_nothing() {
        let signer = key(2).public().id();
        let proven = Ok((signer, vec![key(1).public().id()], true));
        let mut fields = good_fields();
        for _ in 0..fields.len() {
            fields.rotate_left(1);
            assert_eq!(verdict(&with_fields(&borrowed(&fields)), &trust()), proven);
        }
        fields.insert(2, (STRING, "remark", b"new\0".to_vec()));
        fields.insert(0, (EXTENDED | 9 << 24, "", b"?".to_vec()));
        assert_eq!(verdict(&with_fields(&borrowed(&fields)), &trust()), proven);
    }

    #[test]
    fn a_certificate_with_a_field_missing_doubled_or_of_another_kind_is_refused() {
        for at in 0..good_fields().len() {
            let wrong = Err(UcertError::Field {
                element: 1,
                field: good_fields()[at].1,
            });
            let mut missing = good_fields();
            missing.remove(at);
            let mut doubled = good_fields();
            doubled.push(doubled[at].clone());
            let mut of_other_kind = good_fields();
            of_other_kind[at].0 ^= 1 << 24;
            let mut longer = good_fields();
            longer[at].2.push(b' ');
            for fields in [missing, doubled, of_other_kind, longer] {
                let chain = with_fields(&borrowed(&fields));
                assert_eq!(verdict(&chain, &trust()), wrong, "{fields:?}");
            }
        }
        let mut cut = good_fields();
        cut[3].2.insert(40, 0);
        assert!(verdict(&with_fields(&borrowed(&cut)), &trust()).is_err());
    }

    #[test]
    fn only_a_key_id_can_be_revoked() {
        // It becomes a name in the key directory.
        let of = |fingerprint: &[u8]| {
            let fields = [
                (U32, "certtype", &REVOKE.to_be_bytes()[..]),
                (U64, "validfrom", &MARCH.to_be_bytes()),
                (STRING, "fingerprint", fingerprint),
            ];
            let mut table = Vec::new();
            for (kind, name, data) in fields {
                put_named(&mut table, kind, name, data);
            }
            let record = signed(&key(1), &table);
            let mut elements = elements(&record).unwrap();
            let record = elements.next().unwrap().unwrap();
            record.payload(&key(1).public())?.revokes(trust().now)
        };
        assert_eq!(of(b"0202020202020202\0"), Ok(key(2).public().id()));
        let wrong = UcertError::Field {
            element: 1,
            field: "fingerprint",
        };
        for bad in [
            &b"../../etc/shadow\0"[..],
            b"0202020202020202",
            b"0202020202020202\0\0",
            b"020202020202020A\0",
            b"020202020202020\0",
            b"\0",
            b"",
        ] {
            assert_eq!(of(bad), Err(wrong.clone()), "{bad:?}");
        }
    }

    #[test]
    fn dates_are_signed_and_the_last_second_is_not_valid() {
        let now = trust().now;
        let id = key(2).public().id();
        let of = |from: i64, until: i64| {
            let mut fields = good_fields();
            fields[1].2 = from.to_be_bytes().to_vec();
            fields[2].2 = until.to_be_bytes().to_vec();
            verdict(&with_fields(&borrowed(&fields)), &trust()).map(|_| ())
        };
        assert_eq!(of(now, now + 1), Ok(()));
        assert_eq!(of(i64::MIN, i64::MAX), Ok(()));
        let (from, until) = (now + 1, now);
        assert_eq!(
            of(from, i64::MAX),
            Err(UcertError::NotYetValid { id, from, now })
        );
        assert_eq!(of(now, until), Err(UcertError::Expired { id, until, now }));
        assert_eq!(of(-1, -1), Err(UcertError::Expired { id, until: -1, now }));
    }

    #[test]
    fn a_clock_of_before_2020_was_never_set() {
        let chain = sealed(&issue(&key(1), &key(2).public(), MARCH, MARCH + YEAR));
        let at = |now| {
            let mut trust = trust();
            trust.now = now;
            verdict(&chain, &trust).unwrap_err().reason()
        };
        assert_eq!(at(i64::MIN), Reason::ClockNotSet);
        assert_eq!(at(CLOCK_IS_SET - 1), Reason::ClockNotSet);
        assert_eq!(at(CLOCK_IS_SET), Reason::CertificateNotYetValid);
    }

    #[test]
    fn a_chain_is_one_vote() {
        let mut trust = trust();
        trust.keys.insert(key(2).public().id(), key(2).public());
        trust.threshold = 2.try_into().unwrap();
        let chain = sealed(&issue(&key(1), &key(2).public(), MARCH, MARCH + YEAR));
        assert_eq!(
            verdict(&chain, &trust),
            Err(UcertError::TooFew { wanted: 2 })
        );
    }

    #[test]
    fn a_chain_has_at_most_4095_bytes() {
        let certificate = issue(&key(1), &key(1).public(), MARCH, MARCH + YEAR);
        let bare = sign_chain(&[], &key(1).sign(b"image")).unwrap();
        let of = |count| {
            verdict(
                &[certificate.repeat(count), bare.clone()].concat(),
                &trust(),
            )
        };
        let most = (MAX_CHAIN - bare.len()) / certificate.len();
        assert!(of(most).is_ok());
        assert_eq!(of(most + 1), Err(UcertError::TooLong { most: MAX_CHAIN }));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date -u -d @SECONDS` says.
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (68_255_999, "1972-02-29 23:59:59 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_577_836_799, "2019-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59:59 UTC"),
            (253_402_300_800, "253402300800 s since 1970"),
            (i64::MIN, "-9223372036854775808 s since 1970"),
        ] {
            assert_eq!(Date(seconds).to_string(), date);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_none_verify(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            at in 0_usize..520,
            chain_first in any::<bool>(),
        ) {
            let chain = sealed(&issue(&key(1), &key(2).public(), MARCH, MARCH + YEAR));
            let mut spoilt = bytes;
            if chain_first {
                spoilt = chain.iter().copied().take(at).chain(spoilt).collect();
            }
            prop_assert!(spoilt == chain || verify(&spoilt, &trust()).is_err());
            let mut fields = Vec::new();
            put_blob(&mut fields, TABLE, &spoilt);
            let _ = verify(&sealed(&signed(&key(1), &spoilt)), &trust());
            let _ = verify(&sealed(&signed(&key(1), &fields)), &trust());
        }
    }
}
