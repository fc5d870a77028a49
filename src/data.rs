//! What outlives both slots: records, and the archive on its way into a slot.
//!
//! ```text
//!                                      in a data directory     on a board without one
//! what is in each slot, and how        slot-a.json             sysupgrade_slot_a
//!   its trial went
//! the lowest security number that      floor                   sysupgrade_floor
//!   this machine accepts
//! what happened                        history.jsonl, the      sysupgrade_last, one
//!                                      last 100 entries
//! what worked when the last install    health.json             sysupgrade_health, as far
//!   began                                                      as it has room
//! where the running system has its    blocks-a                not kept: made anew
//!   blocks, so that they are found
//! the configuration on its way into    archive-b.tar.gz        the carrier of slot b
//!   slot b, until that is confirmed
//! ```
//!
//! A data directory is on a file system that both slots share. A board without one has variables of
//! the boot environment for the records (U-Boot's, see [`variables`]), and a [`carrier`] a slot. Each
//! file, and each set of variables, is replaced as a whole and durably. None of them decides what
//! boots: that is the boot state's alone, and where the two disagree the boot state is right.
//!
//! The order of the writes is the same for both:
//!
//! ```text
//! install    target unbootable | health, record: writing | parts | archive | record: archive | COMMIT | entry
//! first boot archive read, configuration applied | record: trial, entry
//! guard      record: watched, once a trial
//! confirm    BOOT STATE: good | archive removed | floor, record: good, entry
//! going back record: failed, entry | BOOT STATE: unbootable
//! ```
//!
//! | power goes | the next boot finds |
//! | --- | --- |
//! | while an archive is written | a record without archive, of a slot that cannot be booted |
//! | between archive and its record | the same; the next install writes the archive again |
//! | while it is removed, or before the record says so | a good slot with an unfinished record: the next boot removes it again |

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::board::SlotSpec;
use crate::boot::BootError;
use crate::digest::Digest;
use crate::files::{self, FileError, below};
use crate::flash::{Chips, FlashError};
use crate::health::Before;
use crate::image::openwrt::Compat;
use crate::report::{Cost, ExitCode, Reason};

pub mod carrier;
mod directory;
mod variables;

use carrier::{Carriers, NewCarried};
use directory::Directory;
pub use variables::OpenEnv;
use variables::Variables;

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
    /// The compatibility version of what is in the archive, which first boot sees to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat: Option<Compat>,
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
    /// Somebody had the boot environment made whole.
    Repaired,
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// What an install has cost. (A boot environment has no room for it.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// What is recorded together.
#[derive(Default)]
pub struct Update<'a> {
    /// Raises the floor; a lower number changes nothing.
    pub floor: Option<u64>,
    /// What works now, as an install begins.
    pub before: Option<&'a Before>,
    /// What is in these slots.
    pub installed: Vec<(&'a str, &'a Installed)>,
    /// What happened; its number is given when it is recorded.
    pub entry: Option<Entry>,
}

/// Records or archives that cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The boot environment that holds the records failed.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A record is not what this program writes.
    #[error("{record} is damaged")]
    Damaged {
        /// The file or variable.
        record: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// The floor is not a number.
    #[error("{record} does not hold a number")]
    Floor {
        /// The file or variable.
        record: String,
    },
    /// The medium of a carrier failed.
    #[error("the carrier of slot {slot} cannot be used")]
    Flash {
        /// The slot.
        slot: String,
        /// What failed.
        #[source]
        source: FlashError,
    },
    /// A carrier does not hold the archive that it should.
    #[error("the carrier of slot {slot}: {problem}")]
    Carrier {
        /// The slot.
        slot: String,
        /// What is wrong, lower case, no full stop.
        problem: String,
    },
}

impl DataError {
    /// The exit code that tells a caller.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Boot(_) => ExitCode::BoardUnreadable,
            _ => ExitCode::Failed,
        }
    }

    /// What to do now.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::File(error) => return error.hint(),
            Self::Boot(error) => return error.hint(),
            Self::Damaged { .. } => "`sysupgrade-rs doctor` examines the records",
            Self::Floor { .. } => {
                "write into it the security number of the image that was confirmed last"
            }
            Self::Flash { .. } | Self::Carrier { .. } => {
                "compare `carrier` in the board file with this device, or upgrade with -n"
            }
        })
    }

    fn floor(record: impl Display) -> Self {
        Self::Floor {
            record: record.to_string(),
        }
    }
}

/// What outlives both slots of a machine. Nothing is kept in memory.
pub struct Data {
    shelf: Shelf,
    scratch: PathBuf,
}

enum Shelf {
    Shared(Directory),
    Apart {
        records: Variables,
        carriers: Carriers,
    },
}

impl Data {
    /// In a data directory; nothing is read or created yet.
    #[must_use]
    pub fn in_directory(dir: PathBuf) -> Self {
        Self {
            scratch: dir.join("scratch"),
            shelf: Shelf::Shared(Directory { dir }),
        }
    }

    /// In the boot environment that `env` opens, and in the carriers of the slots, of the system whose root is at
    /// `root`; nothing is opened yet.
    #[must_use]
    pub fn apart(root: &Path, env: OpenEnv, slots: &[SlotSpec; 2], chips: Rc<dyn Chips>) -> Self {
        Self {
            scratch: below(root, Path::new("/run/sysupgrade-rs/scratch")),
            shelf: Shelf::Apart {
                records: Variables { open: env },
                carriers: Carriers {
                    root: root.to_owned(),
                    chips,
                    slots: slots.to_vec(),
                },
            },
        }
    }

    /// Creates the data directory if it is missing.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(&self) -> Result<(), DataError> {
        match &self.shelf {
            Shelf::Shared(directory) => directory.create(),
            Shelf::Apart { .. } => Ok(()),
        }
    }

    /// A directory for work that is thrown away; it is made and removed by whoever needs it, under
    /// the lock. On a board without a data directory it is in memory.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.scratch.clone()
    }

    /// The file that tells from one run to the next where the running system of a slot has its blocks; `None`
    /// on a board without a data directory. Whatever is in it, or not, costs no more than time.
    #[must_use]
    pub fn blocks_file(&self, slot: &str) -> Option<PathBuf> {
        match &self.shelf {
            Shelf::Shared(directory) => Some(directory.dir.join(format!("blocks-{slot}"))),
            Shelf::Apart { .. } => None,
        }
    }

    /// Where the records are.
    #[must_use]
    pub fn records_place(&self) -> String {
        match &self.shelf {
            Shelf::Shared(directory) => directory.dir.display().to_string(),
            Shelf::Apart { .. } => "variables of the boot environment".to_owned(),
        }
    }

    /// Where the archive of a slot travels.
    #[must_use]
    pub fn archive_place(&self, slot: &str) -> String {
        match &self.shelf {
            Shelf::Shared(directory) => directory.dir.display().to_string(),
            Shelf::Apart { carriers, .. } => carriers.describe(slot),
        }
    }

    /// True if the archives of both slots, and the records, share a file system.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.shelf, Shelf::Shared(_))
    }

    /// Bytes that an archive of this slot may have: in a data directory all that is free.
    ///
    /// # Errors
    /// When the file system cannot be asked, or the carrier cannot be opened.
    pub fn room(&self, slot: &str) -> Result<u64, DataError> {
        match &self.shelf {
            Shelf::Shared(directory) => Ok(files::free_space(&directory.dir)?),
            Shelf::Apart { carriers, .. } => carriers.room(slot),
        }
    }

    /// Complains if the records of these slots, at their longest, would not find room; nothing is
    /// written.
    ///
    /// # Errors
    /// [`BootError::Full`] in [`DataError::Boot`]; others as [`record`](Self::record).
    pub fn check_room(&self, slots: &[(&str, &Installed)]) -> Result<(), DataError> {
        match &self.shelf {
            Shelf::Shared(_) => Ok(()),
            Shelf::Apart { records, .. } => records.check_room(slots),
        }
    }

    /// Opens a new archive for this slot; it takes its place when committed.
    ///
    /// # Errors
    /// When the file system refuses, or the carrier cannot be opened.
    pub fn new_archive(&self, slot: &str) -> Result<NewArchive, DataError> {
        Ok(NewArchive(match &self.shelf {
            Shelf::Shared(directory) => NewCarried::File(directory.new_archive(slot)?),
            Shelf::Apart { carriers, .. } => carriers.new_archive(slot)?,
        }))
    }

    /// Opens the archive of this slot for reading, from the medium. What is read must be compared
    /// with `wanted`; from a carrier with a frame nothing else comes.
    ///
    /// # Errors
    /// When there is none; from a carrier with a frame also when there is another one.
    pub fn open_archive(
        &self,
        slot: &str,
        wanted: &ArchiveRef,
    ) -> Result<Box<dyn Read>, DataError> {
        match &self.shelf {
            Shelf::Shared(directory) => Ok(Box::new(directory.open_archive(slot)?)),
            Shelf::Apart { carriers, .. } => carriers.open_archive(slot, wanted),
        }
    }

    /// Removes the archive of this slot, if there is one.
    ///
    /// # Errors
    /// When the medium refuses; to be done again then.
    pub fn remove_archive(&self, slot: &str) -> Result<(), DataError> {
        match &self.shelf {
            Shelf::Shared(directory) => directory.remove_archive(slot),
            Shelf::Apart { carriers, .. } => carriers.remove_archive(slot),
        }
    }

    /// What is recorded of a slot; `None` for a slot that no install has written.
    ///
    /// # Errors
    /// When the record cannot be read or is damaged.
    pub fn installed(&self, slot: &str) -> Result<Option<Installed>, DataError> {
        match &self.shelf {
            Shelf::Shared(directory) => directory.installed(slot),
            Shelf::Apart { records, .. } => records.installed(slot),
        }
    }

    /// The lowest security number that is accepted; 0 on a machine that never confirmed an image.
    ///
    /// # Errors
    /// When it cannot be read or is no number: a floor is never guessed.
    pub fn floor(&self) -> Result<u64, DataError> {
        match &self.shelf {
            Shelf::Shared(directory) => directory.floor(),
            Shelf::Apart { records, .. } => records.floor(),
        }
    }

    /// What was so when the last install began; nothing where none has recorded it.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn before(&self) -> Result<Before, DataError> {
        match &self.shelf {
            Shelf::Shared(directory) => directory.before(),
            Shelf::Apart { records, .. } => records.before(),
        }
    }

    /// What happened, oldest first; in a boot environment the last of it. An entry that does not parse
    /// (written by another version) is left out.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn history(&self) -> Result<Vec<Entry>, DataError> {
        match &self.shelf {
            Shelf::Shared(directory) => directory.history(),
            Shelf::Apart { records, .. } => records.history(),
        }
    }

    /// Records what belongs together: one store of a boot environment. In a directory the floor comes
    /// first and the entry last.
    ///
    /// # Errors
    /// When the medium refuses; what was not recorded is then as it was.
    pub fn record(&self, update: &Update<'_>) -> Result<(), DataError> {
        let directory = match &self.shelf {
            Shelf::Shared(directory) => directory,
            Shelf::Apart { records, .. } => return records.record(update),
        };
        if let Some(security) = update.floor
            && security > directory.floor()?
        {
            directory.set_floor(security)?;
        }
        if let Some(before) = update.before {
            directory.set_before(before)?;
        }
        for (slot, installed) in &update.installed {
            directory.set_installed(slot, installed)?;
        }
        if let Some(entry) = &update.entry {
            directory.note(entry.clone())?;
        }
        Ok(())
    }
}

/// An archive that is being written; dropped before [`commit`](Self::commit), nothing of it stays.
pub struct NewArchive(NewCarried);

impl NewArchive {
    /// Returns when the medium holds it.
    ///
    /// # Errors
    /// When the medium refuses. Then an earlier archive may be damaged.
    pub fn commit(self) -> Result<(), DataError> {
        match self.0 {
            NewCarried::File(file) => Ok(file.commit()?),
            NewCarried::Frame(frame) => frame.commit(),
        }
    }

    fn inner(&mut self) -> &mut dyn Write {
        match &mut self.0 {
            NewCarried::File(file) => file,
            NewCarried::Frame(frame) => frame,
        }
    }
}

impl Write for NewArchive {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner().flush()
    }
}

fn parse<T: DeserializeOwned>(record: impl Display, bytes: &[u8]) -> Result<T, DataError> {
    serde_json::from_slice(bytes).map_err(|source| DataError::Damaged {
        record: record.to_string(),
        source,
    })
}

fn to_line<T: Serialize>(record: impl Display, value: &T) -> Result<String, DataError> {
    serde_json::to_string(value).map_err(|source| DataError::Damaged {
        record: record.to_string(),
        source,
    })
}
