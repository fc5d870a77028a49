//! UBI volumes.
//!
//! UBI spreads wear, replaces bad blocks and keeps the bytes of a volume whole; what is left is in
//! which order to ask it. A part is written in one of three ways:
//!
//! ```text
//! volume                    how                                        after a cut on the way
//! dynamic                   block by block, each at one instant,       a mixture of old and new blocks,
//!                           only those that differ                     each of them whole
//! static, or damaged        update, as a whole                         damaged, until it is written again
//! replaced by renaming      NAME-new is written and read back,         NAME is the old volume, or the new
//!                           takes the name at one instant,             one: always a whole one
//!                           and NAME-old is removed
//! ```
//!
//! The first two are for a slot that cannot be booted meanwhile. To change a block costs no more than
//! to update: UBI writes the new content to a free erase block and erases the old one, in both cases.
//!
//! `NAME-new` and `NAME-old` that a cut has left are removed before the next write, except when NAME
//! itself is damaged: then they go last, since one of them may be the only whole volume.

use std::io::{self, Read, Write};
use std::ops::Range;

use rustix::io::Errno;

use super::{Device, FlashError, Written};
use crate::board::{Replace, UbiPlace, Volume, VolumeType};
use crate::digest::{Digest, Hasher, Hashing};

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
    capacity: u64,
}

/// What comes before the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing: the volume is as it has to be.
    AsItIs,
    /// The volume is made larger.
    Grown,
    /// The volume is made.
    Created,
    /// A second volume is made, that takes the place of the first.
    Beside,
}

impl UbiDevice {
    /// Looks at the volume, and whether it can be made or made larger if need be. Nothing is changed.
    ///
    /// A volume that cannot be made as large as the board file wants it is taken as it is: the image may
    /// fit all the same.
    ///
    /// # Errors
    /// When it is missing and cannot be made, when there is no room for a second one that is to take
    /// its name, or when UBI is read-only.
    pub fn new(raw: Box<dyn RawUbi>, place: &UbiPlace) -> Result<Self, FlashError> {
        let mut device = Self {
            raw,
            place: place.clone(),
            capacity: 0,
        };
        (_, device.capacity) = device.outlook()?;
        Ok(device)
    }

    /// How the volume will be written, and how long an image it will take.
    fn outlook(&mut self) -> Result<(Way, u64), FlashError> {
        let name = self.place.volume.clone();
        let info = self.raw.info();
        let info = info.map_err(self.refused(&name, "UBI tells nothing of itself"))?;
        if !info.writable {
            let name = self.named(&name);
            return Err(FlashError::ReadOnly { name });
        }
        let volume = self.volume(&name)?;
        let mut leftovers = Vec::new();
        if self.place.replace == Replace::Rename {
            for name in self.place.beside() {
                leftovers.extend(self.volume(&name)?);
            }
        }
        match volume {
            Some(volume) if self.place.replace == Replace::Rename && !volume.damaged => {
                self.outlook_beside(&info, &volume, &leftovers)
            }
            Some(volume) => {
                let block = u64::from(volume.usable_leb_size);
                let has = u64::from(volume.reserved);
                let wanted = blocks(self.place.size.unwrap_or_default(), volume.usable_leb_size);
                let can_grow_to = has + 1..=has + u64::from(info.available);
                match can_grow_to.contains(&wanted) {
                    true => Ok((Way::Grown, wanted * block)),
                    false => Ok((Way::AsItIs, volume.capacity())),
                }
            }
            None if leftovers.is_empty() => self.outlook_missing(&info),
            None => {
                let names: Vec<_> = leftovers.into_iter().map(|volume| volume.name).collect();
                let problem = format!(
                    "it is missing, and there is {}: give the good one its name back",
                    names.join(" and ")
                );
                Err(self.unusable(&name, problem))
            }
        }
    }

    /// The outlook if a successor is written. There must be room for one now, and the next time, too.
    fn outlook_beside(
        &self,
        info: &UbiInfo,
        volume: &VolumeInfo,
        leftovers: &[VolumeInfo],
    ) -> Result<(Way, u64), FlashError> {
        let block = u64::from(info.leb_size);
        let reserved = leftovers.iter().map(|volume| u64::from(volume.reserved));
        let free = u64::from(info.available) + reserved.sum::<u64>();
        let most = free.min((free + u64::from(volume.reserved)) / 2);
        let wanted = self.place.size.unwrap_or(volume.capacity());
        let wanted = blocks(wanted, info.leb_size);
        if wanted > most {
            let problem = format!(
                "to be replaced it needs a second volume of {} bytes beside it, there is room for {}",
                wanted * block,
                most * block
            );
            return Err(self.unusable(&volume.name, problem));
        }
        Ok((Way::Beside, wanted * block))
    }

    /// The outlook of a volume that does not exist yet.
    fn outlook_missing(&self, info: &UbiInfo) -> Result<(Way, u64), FlashError> {
        let name = &self.place.volume;
        let Some(size) = self.place.size else {
            return Err(FlashError::NotFound {
                name: self.named(name),
                problem: "there is no such volume; make it, or give it a `size` in the board file"
                    .to_owned(),
            });
        };
        let block = u64::from(info.leb_size);
        let capacity = blocks(size, info.leb_size) * block;
        let need = match self.place.replace {
            Replace::InPlace => capacity,
            // Once it is made there has to be room for its successor.
            Replace::Rename => capacity.saturating_mul(2),
        };
        let available = u64::from(info.available) * block;
        if need > available {
            let problem = format!(
                "it is missing, and to make it takes {need} bytes, {available} are available"
            );
            return Err(self.unusable(name, problem));
        }
        Ok((Way::Created, capacity))
    }

    /// Writes the volume itself.
    fn write_in_place(&mut self, source: &mut dyn Read, len: u64) -> Result<Written, FlashError> {
        let name = self.place.volume.clone();
        match self.volume(&name)? {
            Some(volume) if volume.volume_type == VolumeType::Dynamic && !volume.damaged => {
                self.change_blocks(&volume, source, len)
            }
            Some(volume) => self.update(&volume, source, len),
            None => Err(self.unusable(&name, "it has gone away")),
        }
    }

    /// Changes the blocks of a dynamic volume that differ. What follows the image in its last block is
    /// not looked at, and is lost if that block differs; what follows in further blocks stays.
    fn change_blocks(
        &mut self,
        volume: &VolumeInfo,
        source: &mut dyn Read,
        len: u64,
    ) -> Result<Written, FlashError> {
        let name = &volume.name;
        let mut new = vec![0; volume.usable_leb_size as usize];
        let mut old = new.clone();
        let mut result = Written::default();
        let (mut block, mut offset) = (0, 0);
        while offset < len {
            let count = usize::try_from(len - offset).map_or(new.len(), |rest| rest.min(new.len()));
            let (new, old) = (&mut new[..count], &mut old[..count]);
            source.read_exact(new).map_err(FlashError::Source)?;
            let same = match self.raw.read(name, offset, old) {
                Ok(()) => new == old,
                // What has faded is cured by writing it.
                Err(error) if is_uncorrectable(&error) => false,
                Err(error) => return Err(self.failed("read", name, offset)(error)),
            };
            result.read += count as u64;
            if same {
                result.unchanged += count as u64;
            } else {
                let change = self.raw.change_block(name, block, new);
                change.map_err(self.failed("write", name, offset))?;
                result.written += count as u64;
                result.erased += 1;
            }
            block += 1;
            offset += count as u64;
        }
        Ok(result)
    }

    /// Replaces the content of a volume as a whole.
    fn update(
        &mut self,
        volume: &VolumeInfo,
        source: &mut dyn Read,
        len: u64,
    ) -> Result<Written, FlashError> {
        let updated = self.raw.update(&volume.name, len, source);
        updated
            .map_err(self.failed("write", &volume.name, 0))?
            .map_err(FlashError::Source)?;
        Ok(Written {
            written: len,
            erased: blocks(len, volume.usable_leb_size),
            ..Written::default()
        })
    }

    /// Writes a second volume, looks whether it is right, and gives it the name of the first. Until the
    /// name changes hands the first volume is as it was.
    fn write_beside(
        &mut self,
        source: &mut dyn Read,
        len: u64,
        room: u64,
    ) -> Result<Written, FlashError> {
        let name = self.place.volume.clone();
        let [new, old] = self.place.beside();
        self.remove_leftovers()?;
        let created = self.raw.create(&new, self.place.volume_type, room);
        created.map_err(self.refused(&new, "it cannot be made"))?;
        let Some(volume) = self.volume(&new)? else {
            return Err(self.unusable(&new, "it has gone away"));
        };
        let mut source = Hashing::new(source);
        let mut written = self.update(&volume, &mut source, len)?;
        let (_, _, expected) = source.finish();
        let mut found = Hasher::new();
        self.copy(&new, 0..len, &mut found)?;
        written.read += len;
        if found.finish() != expected {
            let source = io::Error::new(
                io::ErrorKind::InvalidData,
                "it does not hold what was written",
            );
            return Err(self.failed("verify", &new, 0)(source));
        }
        let renamed = self.raw.rename(&[(&name, &old), (&new, &name)]);
        renamed.map_err(self.refused(&name, "its successor cannot take its name"))?;
        self.remove(&old)?;
        Ok(written)
    }

    /// Removes what an earlier replacement has left.
    fn remove_leftovers(&mut self) -> Result<(), FlashError> {
        for name in self.place.beside() {
            if self.volume(&name)?.is_some() {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), FlashError> {
        self.release_block_device(name)?;
        let removed = self.raw.remove(name);
        removed.map_err(self.refused(name, "it cannot be removed"))
    }

    fn release_block_device(&mut self, name: &str) -> Result<(), FlashError> {
        let released = self.raw.release_block_device(name);
        released.map_err(self.refused(name, "its block device cannot be taken away"))
    }

    /// Copies these bytes of a volume.
    fn copy(
        &mut self,
        name: &str,
        Range { start, end }: Range<u64>,
        sink: &mut dyn Write,
    ) -> Result<(), FlashError> {
        let Some(volume) = self.volume(name)? else {
            return Err(self.unusable(name, "it has gone away"));
        };
        if end > volume.data_bytes {
            return Err(self.too_large(volume.data_bytes, end));
        }
        let mut bytes = vec![0; volume.usable_leb_size as usize];
        let mut offset = start;
        while offset < end {
            let rest = usize::try_from(end - offset);
            let count = rest.map_or(bytes.len(), |rest| rest.min(bytes.len()));
            let read = self.raw.read(name, offset, &mut bytes[..count]);
            read.map_err(self.failed("read", name, offset))?;
            sink.write_all(&bytes[..count])
                .map_err(FlashError::Source)?;
            offset += count as u64;
        }
        Ok(())
    }

    fn volume(&mut self, name: &str) -> Result<Option<VolumeInfo>, FlashError> {
        let found = self.raw.volume(name);
        found.map_err(self.refused(name, "UBI tells nothing of it"))
    }

    fn named(&self, volume: &str) -> String {
        Volume {
            mtd: self.place.mtd.clone(),
            volume: volume.to_owned(),
        }
        .to_string()
    }

    fn unusable(&self, volume: &str, problem: impl Into<String>) -> FlashError {
        FlashError::Unusable {
            name: self.named(volume),
            problem: problem.into(),
            source: None,
        }
    }

    fn too_large(&self, capacity: u64, len: u64) -> FlashError {
        FlashError::TooLarge {
            name: self.named(&self.place.volume),
            capacity,
            len,
        }
    }

    /// For `map_err`, of what concerns a volume as a whole.
    fn refused(
        &self,
        volume: &str,
        problem: &'static str,
    ) -> impl FnOnce(io::Error) -> FlashError + use<> {
        let name = self.named(volume);
        move |source| match source.kind() {
            io::ErrorKind::ResourceBusy => busy(name, source),
            io::ErrorKind::ReadOnlyFilesystem => FlashError::ReadOnly { name },
            _ => FlashError::Unusable {
                name,
                problem: problem.to_owned(),
                source: Some(source),
            },
        }
    }

    /// For `map_err`, of what concerns bytes from `offset` of a volume on.
    fn failed(
        &self,
        verb: &'static str,
        volume: &str,
        offset: u64,
    ) -> impl FnOnce(io::Error) -> FlashError + use<> {
        let name = self.named(volume);
        move |source| match source.kind() {
            io::ErrorKind::ResourceBusy => busy(name, source),
            _ => FlashError::Flash {
                verb,
                name,
                offset,
                source,
            },
        }
    }
}

fn busy(name: String, source: io::Error) -> FlashError {
    FlashError::Busy {
        name,
        source: Some(source),
    }
}

/// Bits have faded that the chip cannot correct, or the checksum of a static volume is wrong.
fn is_uncorrectable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::BADMSG.raw_os_error())
}

/// Blocks that so many bytes take.
fn blocks(bytes: u64, block_size: u32) -> u64 {
    bytes.div_ceil(u64::from(block_size).max(1))
}

impl Device for UbiDevice {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Asked of static volumes, and of those that are replaced by renaming; damaged ones hold nothing.
    fn holds(&mut self, len: u64, digest: &Digest) -> Result<bool, FlashError> {
        let name = self.place.volume.clone();
        let candidate = self.volume(&name)?.is_some_and(|volume| {
            let length_fits = match volume.volume_type {
                VolumeType::Static => len == volume.data_bytes,
                VolumeType::Dynamic => {
                    self.place.replace == Replace::Rename && len <= volume.data_bytes
                }
            };
            length_fits && !volume.damaged
        });
        if !candidate {
            return Ok(false);
        }
        let mut hasher = Hasher::new();
        match self.copy(&name, 0..len, &mut hasher) {
            Ok(()) => Ok(hasher.finish() == *digest),
            // To write it again is the cure.
            Err(FlashError::Flash { source, .. }) if is_uncorrectable(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write_image(
        &mut self,
        source: &mut dyn Read,
        len: u64,
        _proof: Option<&mut dyn Write>,
    ) -> Result<Written, FlashError> {
        let (way, capacity) = self.outlook()?;
        if len > capacity {
            return Err(self.too_large(capacity, len));
        }
        let name = self.place.volume.clone();
        // The first thing that is tried, since it fails while somebody uses the volume.
        if way != Way::Created {
            self.release_block_device(&name)?;
        }
        match way {
            Way::Beside => return self.write_beside(source, len, capacity),
            Way::Created => {
                let created = self.raw.create(&name, self.place.volume_type, capacity);
                created.map_err(self.refused(&name, "it cannot be made"))?;
            }
            Way::Grown => {
                let resized = self.raw.resize(&name, capacity);
                resized.map_err(self.refused(&name, "it cannot be made larger"))?;
            }
            Way::AsItIs => {}
        }
        let written = self.write_in_place(source, len)?;
        if self.place.replace == Replace::Rename {
            self.remove_leftovers()?;
        }
        Ok(written)
    }

    fn read_image(&mut self, range: Range<u64>, sink: &mut dyn Write) -> Result<(), FlashError> {
        let name = self.place.volume.clone();
        self.copy(&name, range, sink)
    }
}
