//! The chips as the library sees them.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use sysupgrade_rs::board::{Volume, VolumeType};
use sysupgrade_rs::files;
use sysupgrade_rs::flash::mtd::{Geometry, Kind, RawMtd};
use sysupgrade_rs::flash::ubi::{RawUbi, UbiInfo, VolumeInfo};
use sysupgrade_rs::flash::{self, FlashError};

use super::{BITFLIP_THRESHOLD, Chip, Chips, MtdOp, UbiOp, Use, What, index};

impl flash::Chips for Chips {
    fn mtd(&self, name: &str) -> Result<Box<dyn RawMtd>, FlashError> {
        let bench = self.0.borrow();
        let writable = !bench.read_only.contains(name);
        let (kind, size, erase_size, page_size, bitflip_threshold) =
            match bench.state.chips.get(name).map(Arc::as_ref) {
                Some(Chip::Nor(nor)) => (Kind::Nor, nor.size(), nor.erase_size(), 1, 0),
                Some(Chip::Nand(nand)) => (
                    Kind::Nand,
                    nand.size(),
                    nand.erase_size(),
                    nand.page_size(),
                    BITFLIP_THRESHOLD,
                ),
                Some(Chip::Ubi(_)) | None => return Err(not_found(name, "no such MTD")),
            };
        let small = |bytes: usize| u32::try_from(bytes).expect("a small chip");
        Ok(Box::new(Mtd {
            chips: self.clone(),
            geometry: Geometry {
                name: name.to_owned(),
                kind,
                size: size as u64,
                erase_size: small(erase_size),
                page_size: small(page_size),
                bitflip_threshold,
                writable,
            },
        }))
    }

    fn ubi(&self, mtd: &str) -> Result<Box<dyn RawUbi>, FlashError> {
        match self.0.borrow().state.chips.get(mtd).map(Arc::as_ref) {
            Some(Chip::Ubi(_)) => Ok(Box::new(UbiHandle {
                chips: self.clone(),
                mtd: mtd.to_owned(),
            })),
            Some(_) => Err(not_found(mtd, "there is no UBI on it")),
            None => Err(not_found(mtd, "no such MTD")),
        }
    }

    fn mount(&self, volume: &Volume) -> Result<PathBuf, FlashError> {
        let problem = |problem: &str| FlashError::Unusable {
            name: volume.to_string(),
            problem: problem.to_owned(),
            source: None,
        };
        let Volume { mtd, volume: name } = volume;
        let info = self.ubi(mtd)?.volume(name);
        let info = info.map_err(|source| FlashError::Unusable {
            name: volume.to_string(),
            problem: "UBI does not answer".to_owned(),
            source: Some(source),
        })?;
        match info {
            None => return Err(not_found(&volume.to_string(), "no such volume")),
            Some(info) if info.damaged => return Err(problem("it is damaged")),
            Some(info) if info.volume_type == VolumeType::Static => {
                return Err(problem("a static volume holds no UBIFS"));
            }
            Some(_) => {}
        }
        if self.0.borrow().ubi(mtd).is_written(name) {
            return Err(problem("it holds something that is not UBIFS"));
        }
        let dir = self.0.borrow().dir.clone();
        let dir = dir.expect("a machine with volumes to mount has a directory");
        let place = dir.join(format!("flash/ubifs-{mtd}-{name}"));
        if !files::is_dir(&place) {
            files::make_dir(&place, 0o755)?;
            files::sync_dir(&dir.join("flash"))?;
        }
        self.set_busy(mtd, name);
        Ok(place)
    }
}

fn not_found(name: &str, problem: &str) -> FlashError {
    FlashError::NotFound {
        name: name.to_owned(),
        problem: problem.to_owned(),
    }
}

/// An open MTD.
struct Mtd {
    chips: Chips,
    geometry: Geometry,
}

impl Mtd {
    fn block(&self, offset: u64) -> io::Result<usize> {
        let erase_size = u64::from(self.geometry.erase_size);
        if !offset.is_multiple_of(erase_size) || offset >= self.geometry.size {
            let name = &self.geometry.name;
            let story = format!("{name} has no erase block that begins at {offset:#x}");
            self.chips.0.borrow_mut().violations.push(story);
            return Err(Errno::INVAL.into());
        }
        Ok(index(offset / erase_size))
    }

    fn apply(&self, op: MtdOp) -> io::Result<()> {
        let bench = &mut *self.chips.0.borrow_mut();
        bench.apply(&self.geometry.name, What::Mtd(op))
    }
}

impl RawMtd for Mtd {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn is_bad(&mut self, offset: u64) -> io::Result<bool> {
        let block = self.block(offset)?;
        let bench = self.chips.0.borrow();
        bench.gone()?;
        Ok(bench.state.bad_blocks(&self.geometry.name).contains(&block))
    }

    fn mark_bad(&mut self, offset: u64) -> io::Result<()> {
        let block = self.block(offset)?;
        self.apply(MtdOp::MarkBad { block })
    }

    fn erase(&mut self, offset: u64) -> io::Result<()> {
        let block = self.block(offset)?;
        self.apply(MtdOp::Erase { block })
    }

    fn program(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at_once = match self.geometry.kind {
            Kind::Nor => bytes.len().max(1),
            Kind::Nand => self.geometry.page_size as usize,
        };
        for (number, piece) in bytes.chunks(at_once).enumerate() {
            self.apply(MtdOp::Program {
                offset: index(offset) + number * at_once,
                bytes: piece.to_vec(),
            })?;
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<u32> {
        let bench = &mut *self.chips.0.borrow_mut();
        bench.gone()?;
        bench.counts.read += bytes.len() as u64;
        if offset + bytes.len() as u64 > self.geometry.size {
            return Err(Errno::INVAL.into());
        }
        match &*bench.state.chips[&self.geometry.name] {
            Chip::Nor(nor) => nor.read(index(offset), bytes, &mut bench.noise),
            Chip::Nand(nand) => nand.read(index(offset), bytes, &mut bench.noise),
            Chip::Ubi(_) => unreachable!("handles are of the kind of their chip"),
        }
    }
}

/// An attached UBI device.
struct UbiHandle {
    chips: Chips,
    mtd: String,
}

impl UbiHandle {
    fn apply(&self, op: UbiOp) -> io::Result<()> {
        let bench = &mut *self.chips.0.borrow_mut();
        bench.apply(&self.mtd, What::Ubi(op))
    }

    /// Complains if somebody has it open.
    fn free(&self, volume: &str) -> io::Result<()> {
        Ok(self.chips.0.borrow().free(&self.mtd, volume)?)
    }
}

impl RawUbi for UbiHandle {
    fn info(&mut self) -> io::Result<UbiInfo> {
        let bench = self.chips.0.borrow();
        bench.gone()?;
        let writable = !bench.read_only.contains(&self.mtd);
        Ok(bench.ubi(&self.mtd).info(&self.mtd, writable))
    }

    fn volume(&mut self, name: &str) -> io::Result<Option<VolumeInfo>> {
        let bench = self.chips.0.borrow();
        bench.gone()?;
        Ok(bench.ubi(&self.mtd).volume_info(name))
    }

    fn create(&mut self, name: &str, volume_type: VolumeType, bytes: u64) -> io::Result<()> {
        self.apply(UbiOp::Create {
            name: name.to_owned(),
            volume_type,
            bytes,
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.free(name)?;
        let name = name.to_owned();
        self.apply(UbiOp::Remove { name })
    }

    fn resize(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.free(name)?;
        let name = name.to_owned();
        self.apply(UbiOp::Resize { name, bytes })
    }

    fn rename(&mut self, pairs: &[(&str, &str)]) -> io::Result<()> {
        for (from, _) in pairs {
            self.free(from)?;
        }
        let owned = |(from, to): &(&str, &str)| ((*from).to_owned(), (*to).to_owned());
        let pairs = pairs.iter().map(owned).collect();
        self.apply(UbiOp::Rename { pairs })
    }

    fn update(
        &mut self,
        name: &str,
        len: u64,
        source: &mut dyn Read,
    ) -> io::Result<io::Result<()>> {
        self.free(name)?;
        let volume = self.volume(name)?.ok_or(Errno::NODEV)?;
        let name = name.to_owned();
        self.apply(UbiOp::UpdateBegin {
            name: name.clone(),
            len,
        })?;
        let mut left = len;
        for block in 0.. {
            if left == 0 {
                break;
            }
            let mut bytes = vec![0; index(left.min(u64::from(volume.usable_leb_size)))];
            if let Err(error) = source.read_exact(&mut bytes) {
                return Ok(Err(error));
            }
            left -= bytes.len() as u64;
            self.apply(UbiOp::UpdateBlock {
                name: name.clone(),
                block,
                bytes,
            })?;
        }
        self.apply(UbiOp::UpdateEnd { name, len }).map(Ok)
    }

    fn change_block(&mut self, name: &str, block: u32, bytes: &[u8]) -> io::Result<()> {
        self.free(name)?;
        self.apply(UbiOp::ChangeBlock {
            name: name.to_owned(),
            block,
            bytes: bytes.to_vec(),
        })
    }

    fn read(&mut self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let bench = &mut *self.chips.0.borrow_mut();
        bench.gone()?;
        bench.counts.read += bytes.len() as u64;
        bench.ubi(&self.mtd).read(name, index(offset), bytes)
    }

    fn release_block_device(&mut self, name: &str) -> io::Result<()> {
        let bench = &mut *self.chips.0.borrow_mut();
        bench.gone()?;
        let key = (self.mtd.clone(), name.to_owned());
        match bench.uses.get(&key) {
            Some(Use::MountedBlockDevice) => Err(Errno::BUSY.into()),
            Some(Use::BlockDevice) => {
                bench.uses.remove(&key);
                Ok(())
            }
            Some(Use::Open) | None => Ok(()),
        }
    }
}
