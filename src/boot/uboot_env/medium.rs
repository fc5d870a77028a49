//! What a copy of an environment lives on: a file or block device, a UBI volume, or raw flash (in
//! [`super::mtd`]).
//!
//! A medium replaces all bytes of the copy and proves that it holds them. What a cut leaves of that copy
//! is the caller's care, who has another one; only one logical erase block of UBI changes at an instant.

use std::io;
use std::path::Path;

use crate::board::{Place, Store, Volume, VolumeType};
use crate::boot::{BootError, write_and_prove};
use crate::files::{FileError, InPlace};
use crate::flash::ubi::RawUbi;
use crate::flash::{Chips, FlashError, ForceRo};

use super::mtd::OnMtd;

/// What an environment is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Read,
    Change,
}

/// Where the places are.
#[derive(Clone, Copy)]
pub(super) struct System<'a> {
    /// Of the file system, and so of its `/sys`. Paths of places begin with it.
    pub(super) root: &'a Path,
    pub(super) chips: &'a dyn Chips,
}

/// How well a medium keeps bytes that it has read right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Sound,
    /// So many bits were corrected that the next time they may be too many.
    Weak,
}

/// What the flags of a redundant copy mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flags {
    /// One more with each store.
    Counter,
    /// Active or obsolete.
    Boolean,
}

/// One copy's medium.
pub(super) trait Medium {
    fn flags(&self) -> Flags {
        Flags::Counter
    }

    /// Fills `bytes` with the copy. An error says in words why it cannot be read.
    fn read(&mut self, bytes: &mut [u8]) -> Result<Health, String>;

    /// Makes what was read, `bytes`, sure to stay: whoever wrote it may not have lived to sync it.
    fn settle(&mut self, bytes: &[u8]) -> Result<(), BootError> {
        let _ = bytes;
        Ok(())
    }

    /// Turns `old`, as it was read, into `new`, and returns when the medium, not a cache, gives `new`.
    fn replace(&mut self, old: &[u8], new: &[u8]) -> Result<(), BootError>;

    /// Turns the flags of this copy from active to obsolete, where there is such a thing.
    fn obsolete(&mut self) -> Result<(), BootError> {
        Ok(())
    }

    /// The MTD, and the bytes of it that are erased with this copy.
    fn erases(&self) -> Option<(&str, std::ops::Range<u64>)> {
        None
    }
}

/// Opens the medium of a copy of `size` bytes.
pub(super) fn open(
    store: &Store,
    size: usize,
    system: System<'_>,
    purpose: Purpose,
) -> Result<Box<dyn Medium>, BootError> {
    let System { root, chips } = system;
    Ok(match &store.place {
        Place::Path(path) => Box::new(OnFile::open(root, path, store.offset, purpose)?),
        Place::Mtd(name) => Box::new(OnMtd::new(chips.mtd(name)?, store, size, purpose)?),
        Place::Ubi(volume) => Box::new(OnUbi {
            raw: chips.ubi(&volume.mtd)?,
            volume: volume.clone(),
            offset: store.offset,
        }),
    })
}

/// The error of a medium that took the bytes without complaint, and does not have them.
pub(super) fn not_held(name: String) -> BootError {
    BootError::Damaged {
        path: name.into(),
        problem: "the medium does not hold what was written to it".to_owned(),
    }
}

/// A copy in a file or on a block device. An eMMC boot partition is writable only from a write until
/// this is dropped.
struct OnFile {
    // Closed before it is protected again: fields go in this order.
    file: InPlace,
    force_ro: Option<ForceRo>,
    offset: u64,
}

impl OnFile {
    fn open(root: &Path, path: &Path, offset: u64, purpose: Purpose) -> Result<Self, FileError> {
        let force_ro = ForceRo::at(root, path)?;
        let file = match purpose {
            Purpose::Change if force_ro.is_none() => InPlace::open_shared(path)?,
            _ => InPlace::open_read_only(path)?,
        };
        Ok(Self {
            file,
            force_ro,
            offset,
        })
    }
}

impl Medium for OnFile {
    fn read(&mut self, bytes: &mut [u8]) -> Result<Health, String> {
        self.file
            .drop_cache()
            .and_then(|()| self.file.read_at(bytes, self.offset))
            .map(|()| Health::Sound)
            .map_err(|error| format!("{error}: {}", error.source))
    }

    fn settle(&mut self, bytes: &[u8]) -> Result<(), BootError> {
        write_and_prove(&self.file, self.offset, bytes, bytes)
    }

    fn replace(&mut self, old: &[u8], new: &[u8]) -> Result<(), BootError> {
        if let Some(force_ro) = &mut self.force_ro {
            force_ro.lift()?;
            self.file = InPlace::open_shared(self.file.path())?;
        }
        write_and_prove(&self.file, self.offset, old, new)
    }
}

/// A copy at the begin of a UBI volume. UBI scrubs what becomes weak.
struct OnUbi {
    raw: Box<dyn RawUbi>,
    volume: Volume,
    offset: u64,
}

impl OnUbi {
    fn failed(&self, verb: &'static str, source: io::Error) -> BootError {
        let name = self.volume.to_string();
        BootError::Flash(FlashError::Flash {
            verb,
            name,
            offset: self.offset,
            source,
        })
    }
}

impl Medium for OnUbi {
    fn read(&mut self, bytes: &mut [u8]) -> Result<Health, String> {
        let read = self.raw.read(&self.volume.volume, self.offset, bytes);
        read.map(|()| Health::Sound)
            .map_err(|error| format!("it cannot be read: {error}"))
    }

    /// One logical erase block of a dynamic volume changes at one instant. Whatever is longer, or in a
    /// static volume, or in one whose last update was cut, is updated: damaged from begin to end.
    fn replace(&mut self, _: &[u8], new: &[u8]) -> Result<(), BootError> {
        let name = self.volume.volume.clone();
        let info = match self.raw.volume(&name) {
            Ok(Some(info)) => info,
            Ok(None) => {
                return Err(BootError::Flash(FlashError::NotFound {
                    name: self.volume.to_string(),
                    problem: "no such volume".to_owned(),
                }));
            }
            Err(source) => return Err(self.failed("look at", source)),
        };
        if self.offset != 0 || new.len() as u64 > info.capacity() {
            return Err(BootError::Flash(FlashError::TooLarge {
                name: self.volume.to_string(),
                capacity: info.capacity(),
                len: self.offset.saturating_add(new.len() as u64),
            }));
        }
        let at_once = info.volume_type == VolumeType::Dynamic
            && new.len() as u64 <= u64::from(info.usable_leb_size)
            && !info.damaged;
        let written = match at_once {
            true => self.raw.change_block(&name, 0, new),
            false => self
                .raw
                .update(&name, new.len() as u64, &mut &*new)
                .and_then(|source| source),
        };
        written.map_err(|source| self.failed("write", source))?;
        let mut found = vec![0; new.len()];
        let read = self.raw.read(&name, 0, &mut found);
        read.map_err(|source| self.failed("read back", source))?;
        match found == new {
            true => Ok(()),
            false => Err(not_held(self.volume.to_string())),
        }
    }
}
