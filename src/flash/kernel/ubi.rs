//! UBI of the kernel: the character devices of UBI and of its volumes.
//!
//! No volume is kept open between two calls: UBI refuses to update, change or remove one that anybody
//! has open, a reader too.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::super::FlashError;
use super::super::ubi::{RawUbi, UbiInfo, VolumeInfo};
use super::mtd::{Mtd, ubi_on};
use super::sysfs::{Entry, io_error, number_of};
use crate::board::VolumeType;
use crate::sys;

/// How much of an update is pulled at a time. UBI gathers whole erase blocks by itself.
const CHUNK: usize = 64 << 10;

/// An attached UBI device.
pub(super) struct KernelUbi {
    root: PathBuf,
    mtd: String,
    device: Entry,
    /// The volume that was asked for last, most likely the next, too.
    last: Option<Entry>,
}

impl KernelUbi {
    /// UBI on the MTD of this name; it is attached if it is not.
    pub(super) fn attach(root: &Path, mtd_name: &str) -> Result<Self, FlashError> {
        let mtd = Mtd::find(root, mtd_name)?;
        let device = match ubi_on(root, mtd.number)? {
            Some(device) => device,
            None => attach(root, mtd.number, mtd_name)?,
        };
        Ok(Self {
            root: root.to_owned(),
            mtd: mtd_name.to_owned(),
            device,
            last: None,
        })
    }

    /// The volumes that there are.
    fn volumes(&self) -> io::Result<Vec<Entry>> {
        let prefix = format!("{}_", self.device.name);
        Entry::all(&self.root, "ubi", |name| number_of(name, &prefix).is_some()).map_err(io_error)
    }

    /// Names of the volumes that there are, sorted.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for volume in self.volumes()? {
            names.push(volume.text("name").map_err(io_error)?);
        }
        names.sort();
        Ok(names)
    }

    /// The volume of this name. A number may come to belong to another one, so the name is read each
    /// time; to read those of all volumes for every block would cost more than the blocks.
    pub(super) fn find(&mut self, name: &str) -> io::Result<Option<Entry>> {
        if let Some(last) = &self.last
            && last.text("name").is_ok_and(|its_name| its_name == name)
        {
            return Ok(self.last.clone());
        }
        for volume in self.volumes()? {
            if volume.text("name").map_err(io_error)? == name {
                self.last = Some(volume);
                return Ok(self.last.clone());
            }
        }
        Ok(None)
    }

    fn existing(&mut self, name: &str) -> io::Result<Entry> {
        self.find(name)?.ok_or_else(|| Errno::NOENT.into())
    }

    fn open(&mut self, name: &str, writing: bool) -> io::Result<File> {
        // The bare error: callers tell `EBUSY` from others.
        self.existing(name)?
            .open(writing)
            .map_err(|error| error.source)
    }

    fn open_device(&self) -> io::Result<File> {
        self.device.open(true).map_err(|error| error.source)
    }

    /// The number of a volume: 2 of `ubi0_2`.
    fn number(&mut self, name: &str) -> io::Result<i32> {
        let entry = self.existing(name)?;
        number_of(&entry.name, &format!("{}_", self.device.name)).ok_or_else(|| Errno::NOENT.into())
    }
}

fn attach(root: &Path, mtd: i32, mtd_name: &str) -> Result<Entry, FlashError> {
    let unusable = |problem: &str, source| FlashError::Unusable {
        name: format!("mtd {mtd_name}"),
        problem: problem.to_owned(),
        source: Some(source),
    };
    let control = Entry::new(root, "misc", "ubi_ctrl")
        .open(true)
        .map_err(|error| unusable("this kernel offers no ubi", io_error(error)))?;
    match sys::ubi_attach(&control, mtd) {
        // devtmpfs has made the nodes of the device and its volumes by now.
        Ok(number) => Ok(Entry::new(root, "ubi", &format!("ubi{number}"))),
        Err(error) => match ubi_on(root, mtd)? {
            // Somebody else was faster.
            Some(device) => Ok(device),
            None => Err(unusable("ubi cannot be attached to it", error)),
        },
    }
}

impl RawUbi for KernelUbi {
    fn info(&mut self) -> io::Result<UbiInfo> {
        let device = &self.device;
        let read = || {
            Ok(UbiInfo {
                mtd: self.mtd.clone(),
                leb_size: device.number("eraseblock_size")?,
                min_io_size: device.number("min_io_size")?,
                available: device.number("avail_eraseblocks")?,
                writable: device.number::<u8>("ro_mode")? == 0,
            })
        };
        read().map_err(io_error)
    }

    fn volume(&mut self, name: &str) -> io::Result<Option<VolumeInfo>> {
        let Some(volume) = self.find(name)? else {
            return Ok(None);
        };
        let read = || {
            let volume_type = match volume.text("type")?.as_str() {
                "dynamic" => VolumeType::Dynamic,
                "static" => VolumeType::Static,
                other => return Err(volume.invalid("type", &format!("no type: {other:?}"))),
            };
            Ok(VolumeInfo {
                name: name.to_owned(),
                volume_type,
                reserved: volume.number("reserved_ebs")?,
                usable_leb_size: volume.number("usable_eb_size")?,
                data_bytes: volume.number("data_bytes")?,
                damaged: volume.number::<u8>("upd_marker")? != 0
                    || volume.number::<u8>("corrupted")? != 0,
            })
        };
        read().map(Some).map_err(io_error)
    }

    fn create(&mut self, name: &str, volume_type: VolumeType, bytes: u64) -> io::Result<()> {
        let volume_type = match volume_type {
            VolumeType::Dynamic => sys::UBI_DYNAMIC,
            VolumeType::Static => sys::UBI_STATIC,
        };
        sys::ubi_make_volume(&self.open_device()?, name, volume_type, bytes).map(drop)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let number = self.number(name)?;
        sys::ubi_remove_volume(&self.open_device()?, number)
    }

    fn resize(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let number = self.number(name)?;
        sys::ubi_resize_volume(&self.open_device()?, number, bytes)
    }

    fn rename(&mut self, pairs: &[(&str, &str)]) -> io::Result<()> {
        let mut renames = Vec::new();
        for (old, new) in pairs {
            // The kernel would remove the volume that has the name.
            let is_free =
                pairs.iter().any(|(renamed, _)| renamed == new) || self.find(new)?.is_none();
            if !is_free {
                return Err(Errno::EXIST.into());
            }
            renames.push((self.number(old)?, *new));
        }
        sys::ubi_rename_volumes(&self.open_device()?, &renames)
    }

    fn update(
        &mut self,
        name: &str,
        len: u64,
        source: &mut dyn Read,
    ) -> io::Result<Result<(), io::Error>> {
        let mut volume = self.open(name, true)?;
        let mut chunk = vec![0; CHUNK];
        sys::ubi_begin_update(&volume, len)?;
        let mut left = len;
        while left > 0 {
            let count = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            if let Err(error) = source.read_exact(&mut chunk[..count]) {
                return Ok(Err(error));
            }
            volume.write_all(&chunk[..count])?;
            left -= count as u64;
        }
        Ok(Ok(()))
    }

    fn change_block(&mut self, name: &str, block: u32, bytes: &[u8]) -> io::Result<()> {
        let mut volume = self.open(name, true)?;
        sys::ubi_begin_change(&volume, block, bytes.len() as u64)?;
        volume.write_all(bytes)
    }

    fn read(&mut self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let volume = self.open(name, false)?;
        match volume.read_exact_at(bytes, offset) {
            // What UBI says of a volume whose update was not finished.
            Err(error) if error.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {
                Err(Errno::IO.into())
            }
            result => result,
        }
    }

    fn release_block_device(&mut self, name: &str) -> io::Result<()> {
        let volume = self.open(name, false)?;
        match sys::ubi_remove_block_device(&volume) {
            // There is none, or this kernel never makes any.
            Err(error)
                if [Errno::NODEV, Errno::NOSYS, Errno::NOTTY]
                    .map(|code| Some(code.raw_os_error()))
                    .contains(&error.raw_os_error()) =>
            {
                Ok(())
            }
            result => result,
        }
    }
}
