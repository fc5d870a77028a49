//! Revoking keys: records in the format of [`ucert`](super::ucert), as `ucert -R` takes them.
//!
//! Each record stands for itself: any key of the directories that is not revoked may revoke any key,
//! itself too. In the key directory the revoked key's file becomes a dangling link to `.revoked.`.
//!
//! The link is made under another name and renamed over the file: a power cut leaves the key or the
//! link, never neither, for then the key could be put back by whoever restores a backup, and a refused
//! image would be one of an unknown key only.
//!
//! Unlike `ucert -R`, a record that was applied before, or is refused, does not keep the following ones
//! from being applied: nobody shall save a key by a record in front of the one that revokes it. Bytes
//! that are no record end the list, after what came before them has been applied.

use std::path::Path;

use super::ucert::{self, Element, UcertError};
use super::usign::KeyId;
use super::{REVOKED, Trust};
use crate::files::{self, FileError};

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The key is revoked now.
    Applied(KeyId),
    /// The key had been revoked before; nothing was written.
    Already(KeyId),
    /// Nothing was done for it.
    Refused(UcertError),
}

/// Applies the records, in order; returns what became of each. Keys they revoke are revoked in `trust`
/// and, durably, in the key directory `dir`, which is to be one of those that `trust` was loaded from.
///
/// # Errors
/// When the directory cannot be written. What came before the failed record is applied then.
pub fn apply(records: &[u8], trust: &mut Trust, dir: &Path) -> Result<Vec<Outcome>, FileError> {
    let elements = match ucert::elements(records) {
        Ok(elements) => elements,
        Err(error) => return Ok(vec![Outcome::Refused(error)]),
    };
    let mut outcomes = Vec::new();
    for element in elements {
        outcomes.push(
            match element.and_then(|record| revoked_by(&record, trust)) {
                Err(error) => Outcome::Refused(error),
                Ok(id) if trust.revoked.contains(&id) => Outcome::Already(id),
                Ok(id) => {
                    write(id, dir)?;
                    trust.revoked.insert(id);
                    Outcome::Applied(id)
                }
            },
        );
    }
    Ok(outcomes)
}

fn revoked_by(record: &Element, trust: &Trust) -> Result<KeyId, UcertError> {
    let signer = ucert::signer(&record.signature, None, trust)?;
    record.payload(signer)?.revokes(trust.now)
}

fn write(id: KeyId, dir: &Path) -> Result<(), FileError> {
    let path = dir.join(id.to_string());
    let new = files::temporary_beside(&path);
    // One may be left of a cut.
    files::remove_tree(&new)?;
    files::symlink(Path::new(REVOKED), &new)?;
    files::rename(&new, &path)?;
    files::sync_dir(dir)
}
