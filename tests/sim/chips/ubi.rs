//! UBI: volumes of logical erase blocks.
//!
//! UBI is what hides wear, bad blocks and cut operations; what is left to be seen of a cut is an
//! update that was begun and not finished. A volume table changes at one instant, and so does one
//! block by `UBI_IOCEBCH`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use rustix::io::Errno;
use sysupgrade_rs::board::VolumeType;
use sysupgrade_rs::flash::ubi::{UbiInfo, VolumeInfo};

use super::{Bytes, Outcome, Trouble, index, violation};

/// What is written at once.
const MIN_IO_SIZE: u32 = 512;

#[derive(Clone, PartialEq, Eq, Hash)]
struct VolumeState {
    is_static: bool,
    /// Nothing: it was not written since it was unmapped.
    blocks: Vec<Option<Bytes>>,
    /// Of a static volume.
    data_bytes: u64,
    /// An update was begun and not finished.
    update_marker: bool,
}

/// UBI on one MTD.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Ubi {
    leb_size: u32,
    lebs: u32,
    volumes: BTreeMap<String, VolumeState>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UbiOp {
    Create {
        name: String,
        volume_type: VolumeType,
        bytes: u64,
    },
    Remove {
        name: String,
    },
    Resize {
        name: String,
        bytes: u64,
    },
    Rename {
        pairs: Vec<(String, String)>,
    },
    /// The marker is set, and all blocks are unmapped.
    UpdateBegin {
        name: String,
        len: u64,
    },
    UpdateBlock {
        name: String,
        block: u32,
        bytes: Vec<u8>,
    },
    /// The marker is cleared.
    UpdateEnd {
        name: String,
        len: u64,
    },
    ChangeBlock {
        name: String,
        block: u32,
        bytes: Vec<u8>,
    },
}

impl fmt::Display for UbiOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { name, .. } => write!(f, "creation of volume {name}"),
            Self::Remove { name } => write!(f, "removal of volume {name}"),
            Self::Resize { name, .. } => write!(f, "resize of volume {name}"),
            Self::Rename { pairs } => write!(f, "rename of volumes {pairs:?}"),
            Self::UpdateBegin { name, .. } => write!(f, "begin of an update of volume {name}"),
            Self::UpdateBlock { name, block, .. } => {
                write!(f, "update of block {block} of volume {name}")
            }
            Self::UpdateEnd { name, .. } => write!(f, "end of an update of volume {name}"),
            Self::ChangeBlock { name, block, .. } => {
                write!(f, "change of block {block} of volume {name}")
            }
        }
    }
}

impl Ubi {
    pub(super) fn new(leb_size: u32, lebs: u32) -> Self {
        Self {
            leb_size,
            lebs,
            volumes: BTreeMap::new(),
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.volumes.keys().cloned().collect()
    }

    pub(super) fn info(&self, mtd: &str, writable: bool) -> UbiInfo {
        UbiInfo {
            mtd: mtd.to_owned(),
            leb_size: self.leb_size,
            min_io_size: MIN_IO_SIZE,
            available: self.available(),
            writable,
        }
    }

    fn available(&self) -> u32 {
        let reserved: usize = self
            .volumes
            .values()
            .map(|volume| volume.blocks.len())
            .sum();
        self.lebs - u32::try_from(reserved).expect("no more than there are")
    }

    pub(super) fn volume_info(&self, name: &str) -> Option<VolumeInfo> {
        let volume = self.volumes.get(name)?;
        let reserved = u32::try_from(volume.blocks.len()).expect("no more than there are");
        Some(VolumeInfo {
            name: name.to_owned(),
            volume_type: match volume.is_static {
                true => VolumeType::Static,
                false => VolumeType::Dynamic,
            },
            reserved,
            usable_leb_size: self.leb_size,
            data_bytes: self.data_bytes(volume),
            damaged: volume.update_marker,
        })
    }

    fn data_bytes(&self, volume: &VolumeState) -> u64 {
        match volume.is_static {
            true => volume.data_bytes,
            false => volume.blocks.len() as u64 * u64::from(self.leb_size),
        }
    }

    /// True if any of its blocks was written.
    pub(super) fn is_written(&self, name: &str) -> bool {
        self.volumes[name].blocks.iter().any(Option::is_some)
    }

    pub(super) fn content(&self, name: &str) -> Option<io::Result<Vec<u8>>> {
        let volume = self.volumes.get(name)?;
        let mut bytes = vec![0; index(self.data_bytes(volume))];
        Some(self.read(name, 0, &mut bytes).map(|()| bytes))
    }

    pub(super) fn read(&self, name: &str, offset: usize, bytes: &mut [u8]) -> io::Result<()> {
        let volume = self.volumes.get(name).ok_or(Errno::NODEV)?;
        if volume.update_marker {
            return Err(Errno::IO.into());
        }
        if (offset + bytes.len()) as u64 > self.data_bytes(volume) {
            return Err(Errno::INVAL.into());
        }
        let leb_size = self.leb_size as usize;
        for (at, byte) in (offset..).zip(bytes) {
            let block = volume.blocks[at / leb_size].as_ref();
            let found = block.and_then(|block| block.data.get(at % leb_size));
            *byte = found.copied().unwrap_or(0xff);
        }
        Ok(())
    }

    pub(super) fn put(&mut self, name: &str, volume_type: VolumeType, room: u64, bytes: &[u8]) {
        let is_static = volume_type == VolumeType::Static;
        let reserved = room.div_ceil(u64::from(self.leb_size));
        assert!(bytes.len() as u64 <= room, "volume {name} is too small");
        let mut blocks = vec![None; index(reserved)];
        for (block, bytes) in blocks.iter_mut().zip(bytes.chunks(self.leb_size as usize)) {
            *block = Some(Bytes::new(bytes.to_vec()));
        }
        let volume = VolumeState {
            is_static,
            blocks,
            data_bytes: bytes.len() as u64,
            update_marker: false,
        };
        let before = self.volumes.insert(name.to_owned(), volume);
        assert!(before.is_none(), "volume {name} is there twice");
        let reserved: usize = self
            .volumes
            .values()
            .map(|volume| volume.blocks.len())
            .sum();
        assert!(
            reserved <= self.lebs as usize,
            "UBI is too small for volume {name}"
        );
    }

    pub(super) fn apply(&mut self, op: &UbiOp) -> Outcome {
        match op {
            UbiOp::Create {
                name,
                volume_type,
                bytes,
            } => self.create(name, *volume_type, *bytes),
            UbiOp::Remove { name } => {
                let gone = self.volumes.remove(name);
                gone.map(drop).ok_or(Trouble::Refused(Errno::NODEV))
            }
            UbiOp::Resize { name, bytes } => self.resize(name, *bytes),
            UbiOp::Rename { pairs } => self.rename(pairs),
            UbiOp::UpdateBegin { name, len } => {
                let room = self.room(name)?;
                if *len > room {
                    return violation(
                        Errno::INVAL,
                        format_args!("{len} bytes do not fit into {room}"),
                    );
                }
                let volume = self.get(name)?;
                volume.update_marker = true;
                volume.blocks.fill(None);
                Ok(())
            }
            UbiOp::UpdateBlock { name, block, bytes } => self.write(name, *block, bytes),
            UbiOp::UpdateEnd { name, len } => {
                let volume = self.get(name)?;
                volume.update_marker = false;
                volume.data_bytes = *len;
                Ok(())
            }
            UbiOp::ChangeBlock { name, block, bytes } => {
                if self.get(name)?.is_static {
                    return Err(Trouble::Refused(Errno::ROFS));
                }
                self.write(name, *block, bytes)
            }
        }
    }

    fn get(&mut self, name: &str) -> Result<&mut VolumeState, Trouble> {
        let volume = self.volumes.get_mut(name);
        volume.ok_or(Trouble::Refused(Errno::NODEV))
    }

    fn room(&mut self, name: &str) -> Result<u64, Trouble> {
        let leb_size = u64::from(self.leb_size);
        Ok(self.get(name)?.blocks.len() as u64 * leb_size)
    }

    fn write(&mut self, name: &str, block: u32, bytes: &[u8]) -> Outcome {
        let leb_size = self.leb_size as usize;
        let blocks = &mut self.get(name)?.blocks;
        let Some(block) = blocks.get_mut(block as usize) else {
            return violation(Errno::INVAL, format_args!("there is no such block"));
        };
        if bytes.len() > leb_size {
            return violation(Errno::INVAL, format_args!("a block has {leb_size} bytes"));
        }
        *block = Some(Bytes::new(bytes.to_vec()));
        Ok(())
    }

    /// So many blocks, if there are so many.
    fn reserve(&self, bytes: u64, has: usize) -> Result<usize, Trouble> {
        if bytes == 0 {
            return Err(Trouble::Violation(
                Errno::INVAL,
                "a volume has at least a block".to_owned(),
            ));
        }
        let wanted = index(bytes.div_ceil(u64::from(self.leb_size)));
        match wanted.saturating_sub(has) > self.available() as usize {
            true => Err(Trouble::Refused(Errno::NOSPC)),
            false => Ok(wanted),
        }
    }

    fn create(&mut self, name: &str, volume_type: VolumeType, bytes: u64) -> Outcome {
        if self.volumes.contains_key(name) {
            return Err(Trouble::Refused(Errno::EXIST));
        }
        let volume = VolumeState {
            is_static: volume_type == VolumeType::Static,
            blocks: vec![None; self.reserve(bytes, 0)?],
            data_bytes: 0,
            update_marker: false,
        };
        self.volumes.insert(name.to_owned(), volume);
        Ok(())
    }

    fn resize(&mut self, name: &str, bytes: u64) -> Outcome {
        let leb_size = u64::from(self.leb_size);
        let volume = self.get(name)?;
        let (has, used) = (volume.blocks.len(), volume.data_bytes.div_ceil(leb_size));
        let is_static = volume.is_static;
        let wanted = self.reserve(bytes, has)?;
        if is_static && (wanted as u64) < used {
            // The kernel: "too small size for a static volume".
            return violation(
                Errno::INVAL,
                format_args!("its content needs {used} blocks"),
            );
        }
        self.get(name)?.blocks.resize(wanted, None);
        Ok(())
    }

    fn rename(&mut self, pairs: &[(String, String)]) -> Outcome {
        let mut volumes = self.volumes.clone();
        let mut renamed = BTreeMap::new();
        for (from, to) in pairs {
            let volume = volumes.remove(from);
            let volume = volume.ok_or(Trouble::Refused(Errno::NODEV))?;
            if renamed.insert(to.clone(), volume).is_some() {
                return Err(Trouble::Refused(Errno::INVAL));
            }
        }
        if let Some(taken) = renamed.keys().find(|to| volumes.contains_key(*to)) {
            // Real UBI removes that volume (drivers/mtd/ubi/cdev.c, rename_volumes).
            return violation(
                Errno::EXIST,
                format_args!("volume {taken} would be removed"),
            );
        }
        volumes.append(&mut renamed);
        self.volumes = volumes;
        Ok(())
    }

    pub(super) fn torn(&self, op: &UbiOp) -> Vec<(String, Self)> {
        let UbiOp::UpdateBlock { name, block, bytes } = op else {
            return Vec::new();
        };
        let mut half = self.clone();
        match half.write(name, *block, &bytes[..bytes.len() / 2]) {
            Ok(()) => vec![("one half of it landed".to_owned(), half)],
            Err(_) => Vec::new(),
        }
    }
}
