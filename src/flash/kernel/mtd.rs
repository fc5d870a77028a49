//! An MTD of the kernel: its character device.
//!
//! Always the character device, never `mtdblock`: that one caches, knows no bad blocks, and erases
//! whenever it likes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::super::FlashError;
use super::super::mtd::{Geometry, Kind, RawMtd};
use super::sysfs::{Entry, io_error, number_of};
use crate::files::{self, below};
use crate::sys;

/// `MTD_WRITEABLE` of mtd/mtd-abi.h.
const WRITEABLE: u32 = 0x400;

/// Major number of the block devices of MTDs; what is mounted from an MTD, JFFS2 too, has it in
/// `mountinfo`. (`MTD_BLOCK_MAJOR` of linux/mtd/mtd.h, Documentation/admin-guide/devices.txt)
const BLOCK_MAJOR: u32 = 31;

/// How often a page is read before it counts as lost.
const READ_ATTEMPTS: u32 = 3;

/// Longest `mountinfo` that is read: a container host may have hundreds of mounts.
const MAX_MOUNTS: u64 = 1 << 20;

/// An MTD in sysfs.
#[derive(Clone, Debug)]
pub(super) struct Mtd {
    root: PathBuf,
    entry: Entry,
    /// N of `mtdN`.
    pub(super) number: i32,
}

impl Mtd {
    /// The MTD of this name. Numbers say nothing: they are given in the order in which drivers come up.
    pub(super) fn find(root: &Path, name: &str) -> Result<Self, FlashError> {
        let not_found = |problem| {
            Err(FlashError::NotFound {
                name: format!("mtd {name}"),
                problem,
            })
        };
        let mut others = Vec::new();
        let mut found = Vec::new();
        for mtd in all(root)? {
            let its_name = mtd.entry.text("name")?;
            if its_name == name {
                found.push(mtd);
            } else {
                others.push(its_name);
            }
        }
        if found.len() > 1 {
            let numbers: Vec<&str> = found.iter().map(|mtd| &*mtd.entry.name).collect();
            return not_found(format!("{} have this name", numbers.join(" and ")));
        }
        if let Some(mtd) = found.pop() {
            return Ok(mtd);
        }
        others.sort();
        not_found(if others.is_empty() {
            "this system has no mtd at all".to_owned()
        } else {
            format!("there are only {}", others.join(", "))
        })
    }

    /// Its shape. Sizes come from sysfs, since `MEMGETINFO` has 32 bits for them.
    fn geometry(&self, name: &str) -> Result<Geometry, FlashError> {
        let kind = self.entry.text("type")?;
        let kind = match kind.as_str() {
            "nand" | "mlc-nand" => Kind::Nand,
            // DataFlash has pages, but no bad blocks, and no order to program them in.
            "nor" | "dataflash" | "ram" => Kind::Nor,
            other => {
                return Err(FlashError::Unusable {
                    name: format!("mtd {name}"),
                    problem: format!("of type {other}, which cannot be written"),
                    source: None,
                });
            }
        };
        let geometry = Geometry {
            name: name.to_owned(),
            kind,
            size: self.entry.number("size")?,
            erase_size: self.entry.number("erasesize")?,
            page_size: self.entry.number("writesize")?,
            bitflip_threshold: match self.entry.number("bitflip_threshold") {
                Ok(bits) => bits,
                // Before Linux 3.5.
                Err(error) if error.is_not_found() => 0,
                Err(error) => return Err(error.into()),
            },
            writable: self.entry.flags("flags")? & WRITEABLE != 0,
        };
        if geometry.erase_size == 0 || geometry.page_size == 0 {
            return Err(FlashError::Unusable {
                name: format!("mtd {name}"),
                problem: "its erase blocks or pages have no size".to_owned(),
                source: None,
            });
        }
        Ok(geometry)
    }

    /// Who works on it, or on an MTD that shares flash with it, through the kernel. Nothing else says so:
    /// the character device can be opened for writing under UBI and under a mounted file system.
    fn user(&self) -> files::Result<Option<String>> {
        let mounts = below(&self.root, Path::new("/proc/self/mountinfo"));
        let mounts = files::read_if_exists(&mounts, MAX_MOUNTS)?.unwrap_or_default();
        let mounts = String::from_utf8_lossy(&mounts);
        let here = self.entry.place()?;
        for other in all(&self.root)? {
            // `firmware` of many routers is cut into a kernel and a root once more. In sysfs, a partition
            // of a partition lies below it, and partitions of a chip beside each other.
            let place = other.entry.place()?;
            if !place.starts_with(&here) && !here.starts_with(&place) {
                continue;
            }
            let name = &other.entry.name;
            if let Some(ubi) = ubi_on(&self.root, other.number)? {
                return Ok(Some(format!("{} is attached to {name}", ubi.name)));
            }
            if let Some(point) = mounted_on(&mounts, other.number) {
                return Ok(Some(format!("{name} is mounted on {point}")));
            }
        }
        Ok(None)
    }
}

/// All MTDs of this system.
fn all(root: &Path) -> files::Result<Vec<Mtd>> {
    let entries = Entry::all(root, "mtd", |name| number_of(name, "mtd").is_some())?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| {
            Some(Mtd {
                root: root.to_owned(),
                number: number_of(&entry.name, "mtd")?,
                entry,
            })
        })
        .collect())
}

/// Where the MTD of this number is mounted.
fn mounted_on(mounts: &str, mtd: i32) -> Option<&str> {
    let device = format!("{BLOCK_MAJOR}:{mtd}");
    // Documentation/filesystems/proc.rst 3.5: id, parent, major:minor, root, mount point, ...
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let is_it = fields.next()? == device;
        fields.nth(1).filter(|_| is_it)
    })
}

/// The UBI device on the MTD of this number.
pub(super) fn ubi_on(root: &Path, mtd: i32) -> files::Result<Option<Entry>> {
    for ubi in Entry::all(root, "ubi", |name| number_of(name, "ubi").is_some())? {
        if ubi.number::<i32>("mtd_num")? == mtd {
            return Ok(Some(ubi));
        }
    }
    Ok(None)
}

/// A range of an MTD, in bytes.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    len: u64,
}

/// An open MTD. What it had to unlock it locks again when it is dropped.
pub(super) struct KernelMtd {
    mtd: Mtd,
    geometry: Geometry,
    device: File,
    writing: bool,
    /// False once the driver has said that nothing of it can be locked.
    lockable: bool,
    /// What was locked and is not now, in the order in which it was unlocked.
    unlocked: Vec<Range>,
}

impl KernelMtd {
    pub(super) fn open(root: &Path, name: &str) -> Result<Self, FlashError> {
        let mtd = Mtd::find(root, name)?;
        Ok(Self {
            geometry: mtd.geometry(name)?,
            device: mtd.entry.open(false)?,
            mtd,
            writing: false,
            lockable: true,
            unlocked: Vec::new(),
        })
    }

    /// Opens it for writing, at the first write.
    fn prepare(&mut self) -> io::Result<()> {
        if self.writing {
            return Ok(());
        }
        if let Some(user) = self.mtd.user().map_err(io_error)? {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, user));
        }
        self.device = self.mtd.entry.open(true).map_err(|error| error.source)?;
        self.writing = true;
        Ok(())
    }

    /// Opens the erase block around `offset` for writing: a locked one would refuse, or, on many SPI
    /// chips, ignore in silence what is written.
    fn prepare_block(&mut self, offset: u64) -> io::Result<()> {
        self.prepare()?;
        if !self.lockable {
            return Ok(());
        }
        let erase_size = u64::from(self.geometry.erase_size);
        let block = Range {
            start: offset - offset % erase_size,
            len: erase_size,
        };
        match sys::mtd_is_locked(&self.device, block.start, block.len) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) if is_unsupported(&error) => {
                self.lockable = false;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let whole = Range {
            start: 0,
            len: self.geometry.size,
        };
        // SPI NOR protects from one end of the chip on, in steps of powers of two, and refuses what it
        // cannot express: a block in the middle. The MTD as a whole is then what can be asked for.
        let unlocked = match sys::mtd_unlock(&self.device, block.start, block.len) {
            Ok(()) => block,
            Err(error) => {
                sys::mtd_unlock(&self.device, whole.start, whole.len).map_err(|_| error)?;
                whole
            }
        };
        self.unlocked.push(unlocked);
        Ok(())
    }
}

/// Where a driver has no such operation.
fn is_unsupported(error: &io::Error) -> bool {
    // EOVERFLOW: past 4 GiB, where there are only NAND chips, of which none is locked so.
    let codes = [Errno::OPNOTSUPP, Errno::NOTTY, Errno::OVERFLOW];
    codes
        .map(|code| Some(code.raw_os_error()))
        .contains(&error.raw_os_error())
}

impl Drop for KernelMtd {
    fn drop(&mut self) {
        // Backwards: each lock then makes a state that the chip was in before, and can express.
        while let Some(range) = self.unlocked.pop() {
            if let Err(error) = sys::mtd_lock(&self.device, range.start, range.len) {
                log::debug!(
                    "mtd {}: cannot lock {:#x} again: {error}",
                    self.geometry.name,
                    range.start
                );
            }
        }
    }
}

impl RawMtd for KernelMtd {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn is_bad(&mut self, offset: u64) -> io::Result<bool> {
        match sys::mtd_is_bad(&self.device, offset) {
            Err(error) if is_unsupported(&error) => Ok(false),
            answer => answer,
        }
    }

    fn mark_bad(&mut self, offset: u64) -> io::Result<()> {
        self.prepare()?;
        sys::mtd_mark_bad(&self.device, offset)
    }

    fn erase(&mut self, offset: u64) -> io::Result<()> {
        self.prepare_block(offset)?;
        sys::mtd_erase(&self.device, offset, u64::from(self.geometry.erase_size))
    }

    fn program(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.prepare_block(offset)?;
        self.device.write_all_at(bytes, offset)
    }

    /// The character device gives out what it has read and calls it success even if it could not be
    /// corrected; only the statistics tell. They are those of the whole chip: other readers of it count
    /// in them, so a failure is believed when it shows again.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<u32> {
        for _ in 0..READ_ATTEMPTS {
            let before = sys::mtd_ecc_stats(&self.device)?;
            self.device.read_exact_at(bytes, offset)?;
            let after = sys::mtd_ecc_stats(&self.device)?;
            if after.failed == before.failed {
                return Ok(after.corrected.wrapping_sub(before.corrected));
            }
        }
        Err(Errno::BADMSG.into())
    }
}
