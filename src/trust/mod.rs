//! Which signatures count.
//!
//! [`Trust`] is a value: the keys this device accepts, the keys it was told to reject, how many
//! must sign, and the lowest security number it takes. [`load`] makes it from key directories, in
//! the layout of OpenWrt's `/etc/opkg/keys`: one usign public key a file, named by its id; a
//! symbolic link to `.revoked.` in its place revokes it.
//!
//! Clocks decide nothing here, for routers boot in 1970; the dates of [`ucert`] certificates are the
//! one exception.

pub mod revoke;
pub mod ucert;
pub mod usign;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::files::{self, FileError};
use crate::report::Reason;
use usign::{KeyId, PublicKey, Signature, UsignError};

/// What the name of a revoked key links to; nothing of that name exists.
const REVOKED: &str = ".revoked.";

/// The keys, and what they must have signed.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Accepted keys.
    pub keys: BTreeMap<KeyId, PublicKey>,
    /// Revoked keys; being in `keys` too does not help them.
    pub revoked: BTreeSet<KeyId>,
    /// How many distinct keys must have signed.
    pub threshold: NonZeroU8,
    /// The lowest security number that is accepted.
    pub floor: u64,
    /// Stock images that nobody has signed are accepted.
    pub unsigned: bool,
    /// The time, in seconds since 1970: for the dates of certificates, and for nothing else.
    pub now: i64,
}

/// Why an image is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrustError {
    /// No signature at all.
    #[error("the image is not signed")]
    Missing,
    /// Signed, but by nobody known.
    #[error("the image is signed by unknown keys only: {}", list(.ids))]
    UnknownKey {
        /// The keys that are said to have signed.
        ids: Vec<KeyId>,
    },
    /// A known key, and not its signature over this manifest.
    #[error("the signature of key {id} does not fit the image")]
    BadSignature {
        /// The key.
        id: KeyId,
    },
    /// Valid signatures, but not enough.
    #[error("signatures by accepted keys: {found}, needed: {wanted}")]
    TooFew {
        /// Distinct accepted keys that have signed.
        found: usize,
        /// How many must have.
        wanted: usize,
    },
    /// Enough signatures if only none of the keys had been revoked.
    #[error("the image is signed by revoked keys: {}; signatures by accepted keys: {found}, needed: {wanted}", list(.ids))]
    Revoked {
        /// The revoked keys.
        ids: Vec<KeyId>,
        /// Distinct accepted keys that have signed.
        found: usize,
        /// How many must have.
        wanted: usize,
    },
    /// Older than what this device has already confirmed.
    #[error("the image has security number {image}, this device accepts {floor} and above")]
    BelowFloor {
        /// The image's number.
        image: u64,
        /// The lowest that is accepted.
        floor: u64,
    },
}

fn list(ids: &[KeyId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

impl TrustError {
    /// The stable identifier.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing => Reason::SignatureMissing,
            Self::UnknownKey { .. } => Reason::UnknownKey,
            Self::BadSignature { .. } => Reason::BadSignature,
            Self::TooFew { .. } => Reason::TooFewSignatures,
            Self::Revoked { .. } => Reason::RevokedKey,
            Self::BelowFloor { .. } => Reason::BelowFloor,
        }
    }
}

impl TrustError {
    /// What was found, and what the rule asks for.
    pub(crate) fn values(&self) -> (String, String) {
        let count = |found: usize, wanted: usize| {
            (
                format!("{found} accepted keys"),
                format!("{wanted} accepted keys"),
            )
        };
        match self {
            Self::Missing => ("no signature".into(), "a signature".into()),
            Self::UnknownKey { ids } => (list(ids), "an accepted key".into()),
            Self::BadSignature { id } => {
                (format!("a wrong signature of {id}"), "its signature".into())
            }
            Self::TooFew { found, wanted } => count(*found, *wanted),
            Self::Revoked { ids, wanted, .. } => (list(ids), count(0, *wanted).1),
            Self::BelowFloor { image, floor } => (image.to_string(), format!("at least {floor}")),
        }
    }
}

impl Trust {
    /// Accepts what any one of these keys has signed.
    #[must_use]
    pub fn in_any_of(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self {
            keys: keys.into_iter().map(|key| (key.id(), key)).collect(),
            revoked: BTreeSet::new(),
            threshold: NonZeroU8::MIN,
            floor: 0,
            unsigned: false,
            now: 0,
        }
    }

    /// Checks the signatures over a message; returns the keys that count, sorted.
    ///
    /// Signatures by unknown or revoked keys neither help nor harm: a vendor may sign with a key
    /// that older devices do not have. A signature by an accepted key must verify, all the same
    /// whether it is needed. One key under two ids counts once, and one id counts once.
    ///
    /// # Errors
    /// [`TrustError`], but never `BelowFloor`.
    pub fn verify(
        &self,
        message: &[u8],
        signatures: &[Signature],
    ) -> Result<Vec<KeyId>, TrustError> {
        let mut accepted = BTreeMap::new();
        let mut revoked = BTreeSet::new();
        let mut unknown = BTreeSet::new();
        for signature in signatures {
            let id = signature.id();
            if self.revoked.contains(&id) {
                revoked.insert(id);
            } else if let Some(key) = self.keys.get(&id) {
                if !key.verifies(message, signature) {
                    return Err(TrustError::BadSignature { id });
                }
                accepted.entry(*key.as_bytes()).or_insert(id);
            } else {
                unknown.insert(id);
            }
        }
        let wanted = usize::from(self.threshold.get());
        let found = accepted.len();
        if found >= wanted {
            let mut ids: Vec<KeyId> = accepted.into_values().collect();
            ids.sort_unstable();
            return Ok(ids);
        }
        // A revoked key's signature cannot be checked, its file is gone. So this says only that
        // without the revocation there might have been enough.
        if found + revoked.len() >= wanted {
            let ids = revoked.into_iter().collect();
            return Err(TrustError::Revoked { ids, found, wanted });
        }
        if signatures.is_empty() {
            return Err(TrustError::Missing);
        }
        if found == 0 && revoked.is_empty() {
            let ids = unknown.into_iter().collect();
            return Err(TrustError::UnknownKey { ids });
        }
        Err(TrustError::TooFew { found, wanted })
    }

    /// Checks the security number of an image whose signatures have verified.
    ///
    /// # Errors
    /// [`TrustError::BelowFloor`].
    pub fn check_floor(&self, image: u64) -> Result<(), TrustError> {
        if image < self.floor {
            let floor = self.floor;
            return Err(TrustError::BelowFloor { image, floor });
        }
        Ok(())
    }
}

/// Why the key directories cannot be used.
#[derive(Debug, Error)]
pub enum KeysError {
    /// A directory or file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is named like a key and is none.
    #[error("{}", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: UsignError,
    },
    /// A key under another key's name.
    #[error("{} holds key {found}", path.display())]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// The id inside.
        found: KeyId,
    },
    /// Two directories have different keys of one id.
    #[error("{} is another key than the one of the same id before it", path.display())]
    Conflict {
        /// The second file.
        path: PathBuf,
    },
    /// Zero signatures would be enough.
    #[error("a threshold of 0 would accept unsigned images")]
    NoThreshold,
}

impl KeysError {
    /// What to do now.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::File(error) => error
                .hint()
                .unwrap_or("make it, or correct `keys` below [trust] in the board file"),
            Self::NotAKey { .. } => "put a usign public key into it, or remove it",
            Self::Misnamed { .. } => "name the file as the key that it holds",
            Self::Conflict { .. } => "find out which of them is genuine, and remove the other",
            Self::NoThreshold => "correct `threshold` below [trust] in the board file",
        })
    }
}

/// Reads key directories. A key that one of them revokes is revoked, whatever another says.
///
/// Files whose name is not a key id are not keys and are passed over.
///
/// # Errors
/// [`KeysError`]: one broken key is an error rather than a key less, so that an update is not
/// refused later for a reason nobody sees.
pub fn load(dirs: &[PathBuf], threshold: u8, floor: u64) -> Result<Trust, KeysError> {
    let threshold = NonZeroU8::new(threshold).ok_or(KeysError::NoThreshold)?;
    let mut trust = Trust {
        keys: BTreeMap::new(),
        revoked: BTreeSet::new(),
        threshold,
        floor,
        unsigned: false,
        now: 0,
    };
    for dir in dirs {
        for name in files::list(dir)? {
            let path = dir.join(&name);
            let Some(id) = name.to_str().and_then(KeyId::parse) else {
                log::debug!("{} is not named like a key", path.display());
                continue;
            };
            if is_revoked(&path) {
                trust.revoked.insert(id);
                continue;
            }
            let key = read_key(&path, id)?;
            let before = trust.keys.entry(id).or_insert_with(|| key.clone());
            if *before != key {
                return Err(KeysError::Conflict { path });
            }
        }
    }
    Ok(trust)
}

/// A link to [`REVOKED`], or what is left of one that went through something that has no links.
fn is_revoked(path: &Path) -> bool {
    match fs::read_link(path) {
        Ok(target) => target.file_name().is_some_and(|name| name == REVOKED),
        Err(_) => files::read(path, usign::MAX_KEY_FILE)
            .is_ok_and(|text| text.trim_ascii() == REVOKED.as_bytes()),
    }
}

fn read_key(path: &Path, id: KeyId) -> Result<PublicKey, KeysError> {
    let file = files::read(path, usign::MAX_KEY_FILE)?;
    let key = PublicKey::parse(&file).map_err(|source| KeysError::NotAKey {
        path: path.to_owned(),
        source,
    })?;
    if key.id() != id {
        return Err(KeysError::Misnamed {
            path: path.to_owned(),
            found: key.id(),
        });
    }
    Ok(key)
}
