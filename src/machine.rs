//! A machine as the stories see it: values, and one trait object.

mod identity;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use thiserror::Error;

use crate::board::{Board, SlotSpec};
use crate::boot::{BootError, Bootloader};
use crate::config::baseline::find_defaults;
use crate::data::{Data, DataError, Entry, Installed, Update, What};
use crate::files::{self, FileError, below};
use crate::flash::{self, Chips, FlashError};
use crate::health::Checks;
use crate::slots::{BootState, Slot, TransitionError};
pub use identity::Identity;

/// A running machine with two slots.
pub struct Machine {
    /// What the board file says.
    pub board: Board,
    /// Where its file system begins; `/` but for virtual machines.
    pub root: PathBuf,
    /// The slot that runs.
    pub running: Slot,
    /// The boot loader's memory.
    pub boot: Box<dyn Bootloader>,
    /// What outlives both slots.
    pub data: Data,
    /// Where raw flash is.
    pub chips: Rc<dyn Chips>,
}

/// What can go wrong with boot state and records together.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The boot environment.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The state does not allow it.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The lock file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A volume that holds an overlay.
    #[error(transparent)]
    Flash(#[from] FlashError),
    /// The slot on trial has not taken its configuration over; confirming it would throw that away.
    #[error(
        "first boot has not brought the configuration over yet: run `sysupgrade-rs first-boot`"
    )]
    NoFirstBoot,
    /// Another run holds the lock.
    #[error("another run holds {}", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
}

impl MachineError {
    /// What to do now.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Boot(error) => return error.hint(),
            Self::Transition(error) => return error.hint(),
            Self::Data(error) => return error.hint(),
            Self::File(error) => return error.hint(),
            Self::Flash(_) => "compare the board file with the flash of this device",
            // Says so itself.
            Self::NoFirstBoot => return None,
            Self::Busy { .. } => "wait until it has ended",
        })
    }
}

/// Held while one program writes; the kernel releases it when that program ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Machine {
    /// A path of the running system.
    #[must_use]
    pub fn at(&self, path: &Path) -> PathBuf {
        below(&self.root, path)
    }

    /// The health checks of this board, of the system that runs.
    #[must_use]
    pub fn checks(&self) -> Checks {
        let health = &self.board.health;
        Checks {
            dir: self.at(&health.checks),
            timeout: health.timeout,
            slot: self.name(self.running).to_owned(),
        }
    }

    /// The slot that does not run.
    #[must_use]
    pub fn target(&self) -> Slot {
        self.running.other()
    }

    /// What the board file says of a slot.
    #[must_use]
    pub fn spec(&self, slot: Slot) -> &SlotSpec {
        self.board.slot(slot)
    }

    /// Name of a slot.
    #[must_use]
    pub fn name(&self, slot: Slot) -> &str {
        &self.spec(slot).name
    }

    /// The directory whose `upper` is the configuration of a slot; `None` where the root is writable.
    ///
    /// # Errors
    /// When it is on a volume that cannot be mounted.
    pub fn overlay(&self, slot: Slot) -> Result<Option<PathBuf>, FlashError> {
        let overlay = self.spec(slot).overlay.as_ref();
        overlay
            .map(|overlay| flash::overlay_dir(&self.root, &*self.chips, overlay))
            .transpose()
    }

    /// The root below which the files of the running slot are as they were shipped: where the board
    /// file says, or the first of the usual places that has them.
    #[must_use]
    pub fn defaults(&self) -> Option<PathBuf> {
        defaults(&self.root, &self.board)
    }

    /// What is recorded of a slot.
    ///
    /// # Errors
    /// As [`Data::installed`].
    pub fn installed(&self, slot: Slot) -> Result<Option<Installed>, DataError> {
        self.data.installed(self.name(slot))
    }

    /// Records what is in a slot.
    ///
    /// # Errors
    /// As [`Data::record`].
    pub fn set_installed(&self, slot: Slot, installed: &Installed) -> Result<(), DataError> {
        self.data.record(&Update {
            installed: vec![(self.name(slot), installed)],
            ..Update::default()
        })
    }

    /// Version of the running system: as recorded when it was installed, else what it says of itself
    /// in `os-release`, else `unknown`.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn running_version(&self) -> Result<String, DataError> {
        if let Some(installed) = self.installed(self.running)? {
            return Ok(installed.version);
        }
        Ok(self
            .os_release_version()
            .unwrap_or_else(|| "unknown".to_owned()))
    }

    fn os_release_version(&self) -> Option<String> {
        const MAX_OS_RELEASE: u64 = 16 << 10;
        let text = files::read(&self.at(Path::new("/etc/os-release")), MAX_OS_RELEASE).ok()?;
        let text = String::from_utf8(text).ok()?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_ID="))?;
        Some(value.trim_matches(['"', '\'']).to_owned())
    }

    /// An entry of the history, not recorded yet.
    #[must_use]
    pub fn entry(&self, what: What, slot: Slot, version: Option<&str>, message: &str) -> Entry {
        Entry {
            number: 0,
            what,
            slot: self.name(slot).to_owned(),
            version: version.map(str::to_owned),
            message: message.to_owned(),
            reason: None,
            cost: None,
        }
    }

    /// Changes the boot state by one transition.
    ///
    /// It is stored also where nothing changes: after a cut the newest state can read right and not
    /// last, not yet synced or on a page of NAND that was programmed by half, and what comes next
    /// relies on it. A store of what is there already only makes it sure.
    ///
    /// # Errors
    /// When the state does not allow it, or cannot be read or written.
    pub fn transit(
        &mut self,
        transition: impl FnOnce(BootState) -> Result<BootState, TransitionError>,
    ) -> Result<BootState, MachineError> {
        let new = transition(self.boot.load()?)?;
        self.boot.store(&new)?;
        Ok(new)
    }

    /// Makes this program the only one that writes, until the lock is dropped.
    ///
    /// # Errors
    /// [`MachineError::Busy`] when another one is.
    pub fn lock(&self) -> Result<Lock, MachineError> {
        let path = self.at(Path::new("/run/sysupgrade-rs/lock"));
        let file = files::open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(MachineError::Busy { path }),
            Err(TryLockError::Error(source)) => Err(FileError {
                verb: "lock",
                path,
                source,
            }
            .into()),
        }
    }
}

/// The files of the system at `root` as they were shipped: where the board file says, else in one of
/// the usual places.
#[must_use]
pub fn defaults(root: &Path, board: &Board) -> Option<PathBuf> {
    match &board.config.defaults {
        Some(path) => Some(below(root, path)),
        None => find_defaults(root),
    }
}
