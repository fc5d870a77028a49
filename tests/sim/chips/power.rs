//! Chips with power: what was done to them, who uses them, when they vanish.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use sysupgrade_rs::board::VolumeType;
use sysupgrade_rs::files::trace;

use super::{
    Chip, ChipsState, MtdOp, Nand, NandFaults, Noise, Nor, Operation, Trouble, Ubi, UbiOp, Verb,
    What, index,
};
use crate::sim::Random;

/// Who has a volume open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Somebody, or a mounted file system.
    Open,
    /// A block device that nobody uses.
    BlockDevice,
    /// A block device with a mounted file system.
    MountedBlockDevice,
}

/// What was done since power came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Erases by chip and erase block; on UBI, whose erase blocks nobody sees, all are of block 0.
    pub erases: BTreeMap<(String, usize), u64>,
    /// Pages programmed on NAND, calls on NOR.
    pub programs: BTreeMap<String, u64>,
    /// Bytes read.
    pub read: u64,
}

impl Counts {
    /// Erases of one chip.
    pub fn erases_of(&self, chip: &str) -> u64 {
        let of_it = self.erases.iter().filter(|((name, _), _)| name == chip);
        of_it.map(|(_, count)| count).sum()
    }

    /// Erases of the erase block that was erased most often: what wears out first.
    pub fn most_erases(&self) -> u64 {
        self.erases.values().max().copied().unwrap_or_default()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let erases: u64 = self.erases.values().sum();
        let most = self.most_erases();
        let programs: u64 = self.programs.values().sum();
        write!(
            f,
            "{erases} erases (at most {most} of one block), {programs} programs"
        )
    }
}

/// A running machine's view of its chips.
pub(super) struct Bench {
    pub(super) state: ChipsState,
    log: Vec<Operation>,
    pub(super) violations: Vec<String>,
    pub(super) noise: Noise,
    /// So many operations more, and the chips are gone.
    left: Option<usize>,
    pub(super) read_only: BTreeSet<String>,
    pub(super) uses: BTreeMap<(String, String), Use>,
    pub(super) dir: Option<PathBuf>,
    pub(super) counts: Counts,
}

impl Bench {
    pub(super) fn gone(&self) -> Result<(), Errno> {
        match self.left {
            Some(0) => Err(Errno::NODEV),
            _ => Ok(()),
        }
    }

    pub(super) fn apply(&mut self, chip: &str, what: What) -> io::Result<()> {
        self.gone()?;
        if self.read_only.contains(chip) {
            return Err(Errno::ROFS.into());
        }
        let op = Operation {
            chip: chip.to_owned(),
            what,
        };
        let result = match self.state.try_apply(&op) {
            Ok(()) => Ok(()),
            Err(Trouble::Failed(errno)) => Err(errno.into()),
            Err(Trouble::Refused(errno)) => return Err(errno.into()),
            Err(Trouble::Violation(errno, story)) => {
                self.violations.push(format!("{op}: {story}"));
                return Err(errno.into());
            }
        };
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        self.count(&op);
        trace::elsewhere(self.log.len() as u64);
        self.log.push(op);
        result
    }

    fn count(&mut self, op: &Operation) {
        let counts = &mut self.counts;
        let chip = op.chip.clone();
        match &op.what {
            What::Mtd(MtdOp::Erase { block }) => {
                *counts.erases.entry((chip, *block)).or_default() += 1;
            }
            What::Mtd(MtdOp::Program { .. }) => *counts.programs.entry(chip).or_default() += 1,
            What::Ubi(UbiOp::UpdateBlock { .. } | UbiOp::ChangeBlock { .. }) => {
                *counts.erases.entry((chip, 0)).or_default() += 1;
            }
            _ => {}
        }
    }

    pub(super) fn ubi(&self, mtd: &str) -> &Ubi {
        match &*self.state.chips[mtd] {
            Chip::Ubi(ubi) => ubi,
            _ => unreachable!("handles are of the kind of their chip"),
        }
    }

    pub(super) fn free(&self, mtd: &str, volume: &str) -> Result<(), Errno> {
        match self.uses.contains_key(&(mtd.to_owned(), volume.to_owned())) {
            true => Err(Errno::BUSY),
            false => Ok(()),
        }
    }
}

/// The chips of a machine that has power. A clone is another handle to the same ones.
#[derive(Clone)]
pub struct Chips(pub(super) Rc<RefCell<Bench>>);

impl Chips {
    /// A machine without any, yet. The seed decides what unstable bits read as.
    pub fn new(seed: u64) -> Self {
        Self::with_state(&ChipsState {
            seed,
            chips: BTreeMap::new(),
        })
    }

    /// Power comes back.
    pub fn with_state(state: &ChipsState) -> Self {
        Self(Rc::new(RefCell::new(Bench {
            state: state.clone(),
            log: Vec::new(),
            violations: Vec::new(),
            noise: Noise {
                random: Random(state.seed),
                fresh: true,
            },
            left: None,
            read_only: BTreeSet::new(),
            uses: BTreeMap::new(),
            dir: None,
            counts: Counts::default(),
        })))
    }

    /// Power goes and comes back: who had a volume open, and how unstable bits read, is another matter.
    pub fn power_cycle(&self) {
        let bench = &mut *self.0.borrow_mut();
        bench.uses.clear();
        bench.noise.fresh = true;
    }

    /// What is left when power goes now.
    pub fn state(&self) -> ChipsState {
        self.0.borrow().state.clone()
    }

    /// Solders an erased NOR chip in.
    pub fn add_nor(&self, name: &str, size: u64, erase_size: u32) {
        self.add(name, Chip::Nor(Nor::new(index(size), erase_size as usize)));
    }

    /// Solders a NAND chip in, erased but for its bad blocks.
    pub fn add_nand(
        &self,
        name: &str,
        size: u64,
        erase_size: u32,
        page_size: u32,
        faults: &NandFaults,
    ) {
        let seed = self.0.borrow().state.seed;
        let nand = Nand::new(
            index(size),
            erase_size as usize,
            page_size as usize,
            faults,
            seed,
        );
        self.add(name, Chip::Nand(nand));
    }

    /// An MTD with UBI on it, that has so many logical erase blocks for volumes, and none yet.
    pub fn add_ubi(&self, mtd: &str, leb_size: u32, lebs: u32) {
        self.add(mtd, Chip::Ubi(Ubi::new(leb_size, lebs)));
    }

    fn add(&self, name: &str, chip: Chip) {
        let chips = &mut self.0.borrow_mut().state.chips;
        let before = chips.insert(name.to_owned(), Arc::new(chip));
        assert!(before.is_none(), "{name} is there twice");
    }

    fn change_chip<T>(&self, name: &str, change: impl FnOnce(&mut Chip) -> T) -> T {
        let chips = &mut self.0.borrow_mut().state.chips;
        change(Arc::make_mut(
            chips.get_mut(name).expect("a chip of this machine"),
        ))
    }

    fn change_nand<T>(&self, name: &str, change: impl FnOnce(&mut Nand) -> T) -> T {
        self.change_chip(name, |chip| match chip {
            Chip::Nand(nand) => change(nand),
            _ => panic!("{name} is no NAND"),
        })
    }

    /// Makes an MTD hold these bytes from `offset` on, in its good blocks, as the factory did.
    pub fn put(&self, name: &str, offset: u64, bytes: &[u8]) {
        self.change_chip(name, |chip| match chip {
            Chip::Nor(nor) => nor.put(index(offset), bytes),
            Chip::Nand(nand) => nand.put(index(offset), bytes),
            Chip::Ubi(_) => panic!("{name} is UBI's"),
        });
    }

    /// Makes a volume with room for `room` bytes that holds these, as the factory did; without bytes
    /// it is one that was never written.
    pub fn put_volume(
        &self,
        mtd: &str,
        volume: &str,
        volume_type: VolumeType,
        room: u64,
        bytes: &[u8],
    ) {
        self.change_chip(mtd, |chip| match chip {
            Chip::Ubi(ubi) => ubi.put(volume, volume_type, room, bytes),
            _ => panic!("{mtd} is not UBI's"),
        });
    }

    /// From now on: the `nth` (1 is the next) erase or program of this NAND fails, or of this block
    /// of it; and all later ones of the block that was hit, for it is worn out.
    pub fn fail(&self, name: &str, verb: Verb, block: Option<usize>, nth: u64) {
        self.change_nand(name, |nand| nand.fail(verb, block, nth));
    }

    /// So many bits of the page at `offset` have flipped; the chip corrects them.
    pub fn flip_bits(&self, name: &str, offset: u64, bits: u32) {
        self.change_nand(name, |nand| nand.flip_bits(index(offset), bits));
    }

    /// More bits of the page at `offset` have flipped than the chip can correct.
    pub fn spoil(&self, name: &str, offset: u64) {
        self.change_nand(name, |nand| nand.spoil(index(offset)));
    }

    /// After `operations` more that change something, all chips are gone: `ENODEV`.
    pub fn vanish_after(&self, operations: usize) {
        self.0.borrow_mut().left = Some(operations);
    }

    /// The kernel does not let it be written.
    pub fn set_read_only(&self, name: &str) {
        self.0.borrow_mut().read_only.insert(name.to_owned());
    }

    /// Somebody has the volume open.
    pub fn set_busy(&self, mtd: &str, volume: &str) {
        self.set_use(mtd, volume, Some(Use::Open));
    }

    /// Who has the volume open; without power nobody has.
    pub fn set_use(&self, mtd: &str, volume: &str, now: Option<Use>) {
        let uses = &mut self.0.borrow_mut().uses;
        let key = (mtd.to_owned(), volume.to_owned());
        match now {
            Some(now) => uses.insert(key, now),
            None => uses.remove(&key),
        };
    }

    /// The directory that stands for the machine: UBIFS is a directory `flash/ubifs-MTD-VOLUME` in
    /// it, for files are the business of the model of disks.
    pub fn set_dir(&self, dir: &Path) {
        self.0.borrow_mut().dir = Some(dir.to_owned());
    }

    /// All changes since power came; [`trace::elsewhere`] was told the index of each.
    pub fn log(&self) -> Vec<Operation> {
        self.0.borrow().log.clone()
    }

    /// What no program should have asked for.
    pub fn violations(&self) -> Vec<String> {
        self.0.borrow().violations.clone()
    }

    /// What was done since power came.
    pub fn counts(&self) -> Counts {
        self.0.borrow().counts.clone()
    }

    /// The whole MTD without regard to bad blocks, as a program would read it that does not know of
    /// errors.
    pub fn contents(&self, name: &str) -> Vec<u8> {
        match &*self.0.borrow().state.chips[name] {
            Chip::Nor(nor) => nor.contents(),
            Chip::Nand(nand) => nand.contents(),
            Chip::Ubi(_) => panic!("{name} is UBI's"),
        }
    }

    /// See [`ChipsState::part`].
    ///
    /// # Errors
    /// As there.
    pub fn part(&self, name: &str, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.0.borrow().state.part(name, offset, len)
    }

    /// See [`ChipsState::volume`].
    ///
    /// # Errors
    /// As there.
    pub fn volume(&self, mtd: &str, volume: &str) -> Option<io::Result<Vec<u8>>> {
        self.0.borrow().state.volume(mtd, volume)
    }
}
