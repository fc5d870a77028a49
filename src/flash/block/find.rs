//! Which block device a board file means.
//!
//! The kernel tells of its block devices in sysfs, below `/sys/class/block`, a directory each:
//!
//! ```text
//! uevent             DEVNAME=mmcblk0p3, PARTNAME=root-a, and in newer kernels PARTUUID=...
//! dev                MAJOR:MINOR of its node
//! partition          number of the partition; a whole disk has no such file
//! start              where the partition begins, in units of 512 bytes
//! ro                 1: the kernel does not let it be written
//! force_ro           eMMC boot partitions: the same, and may be changed
//! discard_alignment  first byte that is on a multiple of queue/discard_granularity
//! queue/             of disks; that of a partition is its disk's, the directory above
//! ```
//!
//! Names that several devices have are refused: links like `/dev/disk/by-partlabel` show one of them,
//! and nobody knows which.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use byteorder::{ByteOrder, LittleEndian};

use crate::board::BlockPlace;
use crate::files::{self, FileError, InPlace, below};
use crate::flash::FlashError;

/// An attribute is at most a page; `uevent` is less.
const MAX_ATTRIBUTE: u64 = 64 << 10;

/// A block device.
#[derive(Debug)]
pub(super) struct Node {
    /// Its device node.
    pub(super) path: PathBuf,
    /// Its directory in sysfs, if it is known there: not so a regular file.
    pub(super) sysfs: Option<PathBuf>,
}

/// Finds what `place` describes, in the system whose root is at `root`.
pub(super) fn find(root: &Path, place: &BlockPlace) -> Result<Node, FlashError> {
    let class = class(root);
    let (name, found) = match place {
        BlockPlace {
            path: Some(path), ..
        } => {
            let path = below(root, path);
            let sysfs = sysfs_of(root, &path)?;
            return Ok(Node { path, sysfs });
        }
        BlockPlace {
            partlabel: Some(label),
            ..
        } => {
            let name = format!("partition with label {label}");
            (name, with(&class, "PARTNAME", |found| found == label)?)
        }
        BlockPlace {
            partuuid: Some(uuid),
            ..
        } => {
            let same = |found: &str| found.eq_ignore_ascii_case(uuid);
            let mut found = with(&class, "PARTUUID", same)?;
            if found.is_empty() {
                for directory in devices(&class)? {
                    if gpt_uuid(root, &directory)?.is_some_and(|found| same(&found)) {
                        found.push(directory);
                    }
                }
            }
            (format!("partition with UUID {uuid}"), found)
        }
        BlockPlace {
            disk: Some(disk),
            partition: Some(number),
            ..
        } => {
            let name = format!("partition {number} of {}", disk.display());
            let mut found = Vec::new();
            // The partitions of a disk are directories in its own.
            if let Some(disk) = directory(&class, &below(root, disk)) {
                for directory in devices(&disk)? {
                    if self::number(&directory)? == Some(*number) {
                        found.push(directory);
                    }
                }
            }
            (name, found)
        }
        // Refused when the board file was read.
        _ => ("block device".to_owned(), Vec::new()),
    };
    match found.as_slice() {
        [directory] => {
            let path = node(root, directory)?;
            if !is_node_of(&path, directory)? {
                let problem = format!("{} is the node of another device", path.display());
                return Err(FlashError::NotFound { name, problem });
            }
            let sysfs = Some(real(directory));
            Ok(Node { path, sysfs })
        }
        [] => Err(FlashError::NotFound {
            name,
            problem: "there is none".to_owned(),
        }),
        several => {
            let names = several.iter().filter_map(|directory| directory.file_name());
            let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
            Err(FlashError::NotFound {
                name,
                problem: format!("there is more than one: {}", names.join(", ")),
            })
        }
    }
}

/// The directory in sysfs of the device whose node is at `path`, if it has one.
pub(super) fn sysfs_of(root: &Path, path: &Path) -> files::Result<Option<PathBuf>> {
    let Some(directory) = directory(&class(root), path) else {
        return Ok(None);
    };
    Ok(is_node_of(path, &directory)?.then_some(directory))
}

fn class(root: &Path) -> PathBuf {
    below(root, Path::new("/sys/class/block"))
}

/// An attribute of a device, without the line feed at its end.
pub(super) fn attribute(directory: &Path, name: &str) -> files::Result<Option<String>> {
    let bytes = files::read_if_exists(&directory.join(name), MAX_ATTRIBUTE)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// An attribute that is a number.
pub(super) fn number_of(directory: &Path, name: &str) -> files::Result<Option<u64>> {
    let Some(text) = attribute(directory, name)? else {
        return Ok(None);
    };
    let number = text.parse().map(Some);
    number.map_err(|_| {
        let problem = io::Error::new(io::ErrorKind::InvalidData, format!("no number: {text:?}"));
        FileError::at("understand", &directory.join(name))(problem)
    })
}

/// The queue of the device's disk.
pub(super) fn queue(directory: &Path) -> Option<PathBuf> {
    let own = directory.join("queue");
    let disks = directory.parent()?.join("queue");
    [own, disks].into_iter().find(|queue| files::is_dir(queue))
}

/// The directory of the device whose node is at `path`.
fn directory(class: &Path, path: &Path) -> Option<PathBuf> {
    let node = path.canonicalize().ok()?;
    class.join(node.file_name()?).canonicalize().ok()
}

/// What the links of a class point at: only there is the disk the directory above.
fn real(directory: &Path) -> PathBuf {
    directory
        .canonicalize()
        .unwrap_or_else(|_| directory.to_owned())
}

/// All in a directory: of a class, or of a disk, which has other things in it, too.
fn devices(directory: &Path) -> files::Result<Vec<PathBuf>> {
    let names = match files::list(directory) {
        Ok(names) => names,
        Err(error) if error.is_not_found() => Vec::new(), // nothing has a name then
        Err(error) => return Err(error),
    };
    let devices = names.iter().map(|name| directory.join(name));
    Ok(devices.filter(|device| device.is_dir()).collect())
}

/// The devices whose `uevent` has this key with such a value.
fn with(class: &Path, key: &str, is_right: impl Fn(&str) -> bool) -> files::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in devices(class)? {
        if uevent(&directory, key)?.is_some_and(|value| is_right(&value)) {
            found.push(directory);
        }
    }
    Ok(found)
}

fn uevent(directory: &Path, key: &str) -> files::Result<Option<String>> {
    let text = attribute(directory, "uevent")?.unwrap_or_default();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Ok(value.map(str::to_owned))
}

/// The device node, as the kernel itself calls it.
fn node(root: &Path, directory: &Path) -> files::Result<PathBuf> {
    let dev = below(root, Path::new("/dev"));
    Ok(match uevent(directory, "DEVNAME")? {
        Some(name) => dev.join(name),
        None => dev.join(directory.file_name().unwrap_or_default()),
    })
}

/// False if the node is that of another device: where it is not the kernel that makes nodes, it may be
/// left over. A file that stands for a device is taken for it.
fn is_node_of(path: &Path, directory: &Path) -> files::Result<bool> {
    let wanted = attribute(directory, "dev")?;
    Ok(match (wanted, fs::metadata(path)) {
        (Some(wanted), Ok(metadata)) if metadata.file_type().is_block_device() => {
            let device = metadata.rdev();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            wanted == format!("{major}:{minor}")
        }
        _ => true,
    })
}

fn number(directory: &Path) -> files::Result<Option<u32>> {
    let number = number_of(directory, "partition")?;
    Ok(number.and_then(|number| number.try_into().ok()))
}

/// The UUID of a partition as its disk's GPT has it, for kernels that do not tell. Formats: UEFI
/// specification 2.10, 5.3.2 and 5.3.3; of the header bytes 0..92, of an entry 0..128 are read.
///
/// Nothing, too, for a table that is not the one which the kernel has read.
fn gpt_uuid(root: &Path, directory: &Path) -> Result<Option<String>, FlashError> {
    const SECTOR: u64 = 512;
    let directory = real(directory);
    let (Some(number), Some(start), Some(disk)) = (
        number(&directory)?,
        number_of(&directory, "start")?,
        directory.parent(),
    ) else {
        return Ok(None);
    };
    let block = number_of(&disk.join("queue"), "logical_block_size")?.unwrap_or(SECTOR);
    let device = InPlace::open_read_only(&node(root, disk)?)?;
    let mut header = [0; 92];
    device.read_at(&mut header, block)?;
    if header[..8] != *b"EFI PART" {
        return Ok(None);
    }
    let (table, count, size) = (
        LittleEndian::read_u64(&header[72..]),
        LittleEndian::read_u32(&header[80..]),
        LittleEndian::read_u32(&header[84..]),
    );
    if number == 0 || number > count {
        return Ok(None);
    }
    let offset = u64::from(number - 1) * u64::from(size);
    let Some(offset) = table
        .checked_mul(block)
        .and_then(|table| table.checked_add(offset))
    else {
        return Ok(None);
    };
    let mut entry = [0; 128];
    device.read_at(&mut entry, offset)?;
    let first = LittleEndian::read_u64(&entry[32..]).checked_mul(block);
    if first.is_none() || first != start.checked_mul(SECTOR) {
        return Ok(None);
    }
    Ok(Some(guid(&entry[16..32])))
}

/// A GUID as it is written down; the first three of its fields are little endian.
fn guid(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (position, index) in order.into_iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{:02x}", bytes[index]); // a string takes all
    }
    text
}
