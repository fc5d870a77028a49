//! The data directory: what outlives both slots.
//!
//! ```text
//! slot-a.json, slot-b.json    what is in each slot, and how its trial went
//! archive-b.tar.gz            the configuration on its way into slot b, until that is confirmed
//! floor                       the lowest security number this machine accepts
//! history.jsonl               what happened, oldest first, the last 100 entries
//! ```
//!
//! Every file is replaced as a whole and durably. None of them decides what boots: that is the boot
//! environment's alone, and where the two disagree the boot environment is right.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;
use crate::files::{self, FileError};
use crate::report::Reason;

/// Entries that history keeps.
const HISTORY: usize = 100;

/// No file here but the archive is longer; more is damage.
const MAX_RECORD: u64 = 256 << 10;

/// Private to root: archives hold password hashes.
const MODE: u32 = 0o600;

/// How far a slot's system has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// An install is writing it, or was cut off.
    Writing,
    /// Written, committed, not proven yet.
    Trial,
    /// Confirmed.
    Good,
    /// Its trial ended badly.
    Failed,
}

/// What is in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// Version of the image.
    pub version: String,
    /// Its security number.
    pub security: u64,
    /// How far it has come.
    pub stage: Stage,
    /// Why it failed, or what it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Version that ran when it was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_version: Option<String>,
    /// The archive that first boot must find; without one it starts from defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveRef>,
    /// Seconds it may run unconfirmed.
    pub confirm_within: u64,
}

/// Which bytes the archive must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveRef {
    /// Length in bytes.
    pub size: u64,
    /// Their digest.
    pub sha256: Digest,
}

/// What an entry of the history is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// An image was written and committed for a trial.
    Installed,
    /// An image was refused; nothing was written.
    Refused,
    /// An install ended in an error after its first write.
    InstallFailed,
    /// First boot brought the configuration over.
    FirstBoot,
    /// First boot could not, and went back.
    FirstBootFailed,
    /// A slot was confirmed.
    Confirmed,
    /// The previous system runs again, by itself.
    FellBack,
    /// Somebody, or the end of the confirm window, asked to go back.
    RolledBack,
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number of the entry, counted from 1 and never reused. (Routers have no clock to trust.)
    pub number: u64,
    /// What happened.
    pub what: What,
    /// The slot it happened to.
    pub slot: String,
    /// Version of the image, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// One line for people.
    pub message: String,
    /// The rule that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// A data directory that cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A record is not what this program writes.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// The floor is not a number.
    #[error("{} does not hold a number", path.display())]
    Floor {
        /// The file.
        path: PathBuf,
    },
}

/// The data directory of a machine.
#[derive(Clone, Debug)]
pub struct Data {
    dir: PathBuf,
}

impl Data {
    /// Names the directory; nothing is read or created yet.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Creates the directory if it is missing.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(&self) -> Result<(), DataError> {
        Ok(files::make_dirs(&self.dir, 0o700)?)
    }

    /// A directory for work that is thrown away; it is made and removed by whoever needs it, under
    /// the lock.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// Bytes that may still be written there, whether it exists yet or not.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn free_space(&self) -> Result<u64, DataError> {
        let existing = self.dir.ancestors().find(|dir| files::is_dir(dir));
        Ok(files::free_space(existing.unwrap_or(&self.dir))?)
    }

    fn slot_file(&self, slot: &str) -> PathBuf {
        self.dir.join(format!("slot-{slot}.json"))
    }

    fn floor_file(&self) -> PathBuf {
        self.dir.join("floor")
    }

    fn history_file(&self) -> PathBuf {
        self.dir.join("history.jsonl")
    }

    /// The archive on its way into this slot.
    #[must_use]
    pub fn archive_file(&self, slot: &str) -> PathBuf {
        self.dir.join(format!("archive-{slot}.tar.gz"))
    }

    /// Opens a new archive for this slot; it takes its place when committed.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn new_archive(&self, slot: &str) -> Result<files::NewFile, DataError> {
        Ok(files::NewFile::create(&self.archive_file(slot), MODE)?)
    }

    /// Opens the archive of this slot for reading, from the medium.
    ///
    /// # Errors
    /// When there is none.
    pub fn open_archive(&self, slot: &str) -> Result<File, DataError> {
        let path = self.archive_file(slot);
        Ok(files::open_past_cache(&path)?)
    }

    /// Removes the archive of this slot, if there is one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove_archive(&self, slot: &str) -> Result<(), DataError> {
        Ok(files::remove_durably(&self.archive_file(slot))?)
    }

    /// What is recorded of a slot; `None` for a slot that no install has written.
    ///
    /// # Errors
    /// When the record cannot be read or is damaged.
    pub fn installed(&self, slot: &str) -> Result<Option<Installed>, DataError> {
        let path = self.slot_file(slot);
        match files::read_if_exists(&path, MAX_RECORD)? {
            Some(bytes) => parse(&path, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Records what is in a slot.
    ///
    /// # Errors
    /// When the file system refuses; the old record is then still there.
    pub fn set_installed(&self, slot: &str, installed: &Installed) -> Result<(), DataError> {
        let path = self.slot_file(slot);
        let mut text = to_line(&path, installed)?;
        text.push('\n');
        Ok(files::replace(&path, text.as_bytes(), MODE)?)
    }

    /// The lowest security number that is accepted; 0 on a machine that never confirmed an image.
    ///
    /// # Errors
    /// When the file cannot be read or holds no number: a floor is never guessed.
    pub fn floor(&self) -> Result<u64, DataError> {
        let path = self.floor_file();
        let Some(bytes) = files::read_if_exists(&path, MAX_RECORD)? else {
            return Ok(0);
        };
        let number = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim_end().parse().ok());
        number.ok_or(DataError::Floor { path })
    }

    /// Raises the floor; a lower number changes nothing.
    ///
    /// # Errors
    /// As [`floor`](Self::floor), and when the file system refuses.
    pub fn raise_floor(&self, security: u64) -> Result<(), DataError> {
        if security > self.floor()? {
            files::replace(&self.floor_file(), format!("{security}\n").as_bytes(), MODE)?;
        }
        Ok(())
    }

    /// What happened, oldest first. A line that does not parse (written by another version) is left out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn history(&self) -> Result<Vec<Entry>, DataError> {
        let bytes = files::read_if_exists(&self.history_file(), MAX_RECORD)?.unwrap_or_default();
        let lines = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        Ok(lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect())
    }

    /// Adds an entry; its number is given here.
    ///
    /// # Errors
    /// When the file system refuses; the old history is then still there.
    pub fn note(&self, mut entry: Entry) -> Result<(), DataError> {
        let mut entries = self.history()?;
        entry.number = entries.last().map_or(1, |last| last.number + 1);
        entries.push(entry);
        let path = self.history_file();
        let mut text = String::new();
        for entry in entries.iter().skip(entries.len().saturating_sub(HISTORY)) {
            text.push_str(&to_line(&path, entry)?);
            text.push('\n');
        }
        Ok(files::replace(&path, text.as_bytes(), MODE)?)
    }
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, DataError> {
    serde_json::from_slice(bytes).map_err(|source| DataError::Damaged {
        path: path.to_owned(),
        source,
    })
}

fn to_line<T: Serialize>(path: &Path, value: &T) -> Result<String, DataError> {
    serde_json::to_string(value).map_err(|source| DataError::Damaged {
        path: path.to_owned(),
        source,
    })
}
