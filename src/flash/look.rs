//! Media that are only looked into, here and there, whoever else uses them: those of the running slot, and
//! those of the target beside the one that writes them.
//!
//! What is read may be old or torn, and the caller has to know what it wants. Nothing is kept open that would
//! keep others from it.

use std::path::Path;

use super::block::path_of;
use super::mtd::{RawMtd, good_blocks};
use super::ubi::RawUbi;
use super::{Chips, FlashError};
use crate::board::{Medium, MtdPlace, UbiPlace};
use crate::files::{InPlace, below};

/// A medium of a part, from its first byte on.
pub trait Look {
    /// Bytes that can be looked at.
    fn capacity(&self) -> u64;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// When the medium ends before, or cannot be read now.
    fn look(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), FlashError>;
}

/// Opens a medium for looking.
///
/// # Errors
/// When it is not there, or cannot be opened.
pub fn open(root: &Path, chips: &dyn Chips, medium: &Medium) -> Result<Box<dyn Look>, FlashError> {
    Ok(match medium {
        Medium::File(file) => Box::new(InPlace::open_read_only(&below(root, &file.path))?),
        Medium::Block(place) => Box::new(InPlace::open_read_only(&path_of(root, place)?)?),
        Medium::Mtd(place) => Box::new(Mtd::new(chips.mtd(&place.mtd)?, place)?),
        Medium::Ubi(place) => Box::new(Ubi::new(chips.ubi(&place.mtd)?, place)?),
    })
}

impl Look for InPlace {
    fn capacity(&self) -> u64 {
        self.len()
    }

    fn look(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), FlashError> {
        Ok(self.read_at(bytes, offset)?)
    }
}

/// The good erase blocks of a part, as they were when it was opened.
struct Mtd {
    raw: Box<dyn RawMtd>,
    name: String,
    blocks: Vec<u64>,
}

impl Mtd {
    fn new(mut raw: Box<dyn RawMtd>, place: &MtdPlace) -> Result<Self, FlashError> {
        let size = raw.geometry().size;
        let end = place.size.map_or(size, |size| place.offset + size);
        let name = format!("mtd {}", raw.geometry().name);
        match good_blocks(raw.as_mut(), place.offset, end.min(size)) {
            Ok(blocks) => Ok(Self { raw, name, blocks }),
            Err(source) => Err(FlashError::Flash {
                verb: "look for bad blocks of",
                name,
                offset: place.offset,
                source,
            }),
        }
    }
}

impl Look for Mtd {
    fn capacity(&self) -> u64 {
        self.blocks.len() as u64 * u64::from(self.raw.geometry().erase_size)
    }

    fn look(&mut self, mut offset: u64, mut bytes: &mut [u8]) -> Result<(), FlashError> {
        let erase_size = u64::from(self.raw.geometry().erase_size);
        while !bytes.is_empty() {
            let block = usize::try_from(offset / erase_size).unwrap_or(usize::MAX);
            let within = offset % erase_size;
            let left = usize::try_from(erase_size - within).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at_mut(left.min(bytes.len()));
            let read = match self.blocks.get(block) {
                Some(start) => self.raw.read(start + within, piece).map(drop),
                None => Err(std::io::ErrorKind::UnexpectedEof.into()),
            };
            read.map_err(|source| FlashError::Flash {
                verb: "read",
                name: self.name.clone(),
                offset,
                source,
            })?;
            offset += piece.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
}

/// A volume as long as it was when it was opened.
struct Ubi {
    raw: Box<dyn RawUbi>,
    volume: String,
    capacity: u64,
}

impl Ubi {
    fn new(mut raw: Box<dyn RawUbi>, place: &UbiPlace) -> Result<Self, FlashError> {
        let volume = place.volume.clone();
        let name = format!("volume {volume}");
        match raw.volume(&volume) {
            Ok(Some(info)) => Ok(Self {
                raw,
                volume,
                capacity: info.data_bytes,
            }),
            Ok(None) => Err(FlashError::NotFound {
                name,
                problem: "there is no such volume".to_owned(),
            }),
            Err(source) => Err(FlashError::Flash {
                verb: "look at",
                name,
                offset: 0,
                source,
            }),
        }
    }
}

impl Look for Ubi {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn look(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), FlashError> {
        let read = self.raw.read(&self.volume, offset, bytes);
        read.map_err(|source| FlashError::Flash {
            verb: "read",
            name: format!("volume {}", self.volume),
            offset,
            source,
        })
    }
}
