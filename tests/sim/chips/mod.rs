//! Flash chips whose power can go: NOR, NAND, and UBI on them.
//!
//! [`Chips`] is what a machine sees of its flash; [`ChipsState`] is what the flash holds without
//! power. What changes a chip is an [`Operation`], and one function a chip says what it does:
//! live, and again when [`cuts`](super::cuts) replays a recorded run and tears one of them.
//!
//! The chips refuse what real ones refuse. What a correct program never asks for (a bit from 0 to 1, a
//! page twice, a bad block) is kept as a violation, too, so that a test sees it even if the error was
//! swallowed.

mod nand;
mod nor;
mod proof;
mod ubi;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use sysupgrade_rs::board::{Volume, VolumeType};
use sysupgrade_rs::files::{self, trace};
use sysupgrade_rs::flash::mtd::{Geometry, Kind, RawMtd};
use sysupgrade_rs::flash::ubi::{RawUbi, UbiInfo, VolumeInfo};
use sysupgrade_rs::flash::{self, FlashError};

use super::Random;
pub use nand::{BITFLIP_THRESHOLD, Nand, NandFaults};
pub use nor::Nor;
pub use ubi::{Ubi, UbiOp};

/// Bytes that do not change any more, and what stands for them when states are compared.
#[derive(Clone, PartialEq, Eq)]
struct Bytes {
    print: u64,
    data: Arc<[u8]>,
}

impl Bytes {
    fn new(data: Vec<u8>) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&data);
        Self {
            print: hasher.finish(),
            data: data.into(),
        }
    }
}

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.print.hash(hasher);
    }
}

/// What an MTD does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Erase,
    Program,
}

/// One operation on an MTD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MtdOp {
    /// Of the erase block of this number.
    Erase {
        block: usize,
    },
    /// On NAND one page.
    Program {
        offset: usize,
        bytes: Vec<u8>,
    },
    MarkBad {
        block: usize,
    },
}

/// One change of a chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Name of the MTD.
    pub chip: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Mtd(MtdOp),
    Ubi(UbiOp),
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chip = &self.chip;
        match &self.what {
            What::Mtd(MtdOp::Erase { block }) => write!(f, "erase of block {block} of {chip}"),
            What::Mtd(MtdOp::Program { offset, bytes }) => {
                write!(
                    f,
                    "program of {} bytes at {offset:#x} of {chip}",
                    bytes.len()
                )
            }
            What::Mtd(MtdOp::MarkBad { block }) => {
                write!(f, "marking bad of block {block} of {chip}")
            }
            What::Ubi(op) => write!(f, "{op} on {chip}"),
        }
    }
}

/// Why an operation did not come to be.
enum Trouble {
    /// Nothing was tried.
    Refused(Errno),
    /// Nothing was tried, and nobody should have asked.
    Violation(Errno, String),
    /// It was tried, and the chip is not what it was.
    Failed(Errno),
}

type Outcome = Result<(), Trouble>;

fn violation(errno: Errno, story: fmt::Arguments<'_>) -> Outcome {
    Err(Trouble::Violation(errno, story.to_string()))
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Chip {
    Nor(Nor),
    Nand(Nand),
    Ubi(Ubi),
}

impl Chip {
    fn apply(&mut self, what: &What) -> Outcome {
        match (self, what) {
            (Self::Nor(nor), What::Mtd(op)) => nor.apply(op),
            (Self::Nand(nand), What::Mtd(op)) => nand.apply(op),
            (Self::Ubi(ubi), What::Ubi(op)) => ubi.apply(op),
            _ => unreachable!("handles are of the kind of their chip"),
        }
    }

    /// What a cut in mid-operation may leave behind, other than what was and what was to be.
    fn torn(&self, what: &What, random: &mut Random) -> Vec<(String, Self)> {
        fn all<T>(torn: Vec<(String, T)>, wrap: impl Fn(T) -> Chip) -> Vec<(String, Chip)> {
            let wrapped = torn.into_iter().map(|(how, chip)| (how, wrap(chip)));
            wrapped.collect()
        }
        match (self, what) {
            (Self::Nor(nor), What::Mtd(op)) => all(nor.torn(op, random), Self::Nor),
            (Self::Nand(nand), What::Mtd(op)) => all(nand.torn(op, random), Self::Nand),
            (Self::Ubi(ubi), What::Ubi(op)) => all(ubi.torn(op), Self::Ubi),
            _ => unreachable!("handles are of the kind of their chip"),
        }
    }
}

/// How unstable bits read this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// As if nothing were wrong with them.
    Right,
    /// Just so.
    Shaky,
    /// Wrong.
    Wrong,
}

/// What unstable bits follow.
struct Noise {
    random: Random,
    /// Nothing unstable was read since power came.
    fresh: bool,
}

impl Noise {
    /// The first time all is well: that is the time when a program decides what to do.
    fn mood(&mut self) -> Mood {
        if std::mem::take(&mut self.fresh) {
            return Mood::Right;
        }
        match self.random.below(4) {
            0 => Mood::Right,
            1 => Mood::Shaky,
            _ => Mood::Wrong,
        }
    }

    /// Turns some bits over.
    fn spoil(&mut self, bytes: &mut [u8]) {
        for _ in 0..=bytes.len() / 64 {
            bytes[self.random.below(bytes.len())] ^= 1 << self.random.below(8);
        }
    }
}

/// What all chips of a machine hold without power.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ChipsState {
    seed: u64,
    chips: BTreeMap<String, Arc<Chip>>,
}

impl ChipsState {
    /// Stands for all of it; two that differ have the same one by a chance of 2^-64.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Does it, as far as the chip lets it be done.
    pub fn apply(&mut self, op: &Operation) {
        let _ = self.try_apply(op);
    }

    fn try_apply(&mut self, op: &Operation) -> Outcome {
        let chip = self
            .chips
            .get_mut(&op.chip)
            .expect("a chip of this machine");
        Arc::make_mut(chip).apply(&op.what)
    }

    /// What a cut in mid-operation may leave behind, other than what was and what was to be; each
    /// with a few words on how.
    pub fn torn(&self, op: &Operation, random: &mut Random) -> Vec<(String, Self)> {
        let torn = self.chips[&op.chip].torn(&op.what, random).into_iter();
        torn.map(|(how, chip)| {
            let mut state = self.clone();
            state.chips.insert(op.chip.clone(), Arc::new(chip));
            (how, state)
        })
        .collect()
    }

    /// The first `len` bytes of what begins at `offset`, in the blocks that are not bad: what the
    /// next boot reads. Content that cannot be relied on is an error.
    ///
    /// # Errors
    /// `EBADMSG` where bits are lost or unstable, `ENODATA` where the good blocks end before.
    pub fn part(&self, name: &str, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        match &*self.chips[name] {
            Chip::Nor(nor) => nor.part(index(offset), index(len)),
            Chip::Nand(nand) => nand.part(index(offset), index(len)),
            Chip::Ubi(_) => panic!("{name} is UBI's"),
        }
    }

    /// The bytes of a volume, as many as UBI says it has; nothing if there is no such volume.
    ///
    /// # Errors
    /// `EIO` for a damaged volume.
    pub fn volume(&self, mtd: &str, volume: &str) -> Option<io::Result<Vec<u8>>> {
        match &*self.chips[mtd] {
            Chip::Ubi(ubi) => ubi.content(volume),
            _ => panic!("{mtd} is not UBI's"),
        }
    }

    /// Names of the volumes.
    pub fn volumes(&self, mtd: &str) -> Vec<String> {
        match &*self.chips[mtd] {
            Chip::Ubi(ubi) => ubi.names(),
            _ => panic!("{mtd} is not UBI's"),
        }
    }

    /// The erase blocks that are marked bad.
    pub fn bad_blocks(&self, name: &str) -> Vec<usize> {
        match &*self.chips[name] {
            Chip::Nand(nand) => nand.bad_blocks(),
            _ => Vec::new(),
        }
    }
}

impl fmt::Debug for ChipsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "chips {:?} in state {:#x}",
            self.chips.keys(),
            self.fingerprint()
        )
    }
}

/// An offset or length of a simulated chip.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a small chip")
}

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
struct Bench {
    state: ChipsState,
    log: Vec<Operation>,
    violations: Vec<String>,
    noise: Noise,
    /// So many operations more, and the chips are gone.
    left: Option<usize>,
    read_only: BTreeSet<String>,
    uses: BTreeMap<(String, String), Use>,
    dir: Option<PathBuf>,
    counts: Counts,
}

impl Bench {
    fn gone(&self) -> Result<(), Errno> {
        match self.left {
            Some(0) => Err(Errno::NODEV),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, chip: &str, what: What) -> io::Result<()> {
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

    fn ubi(&self, mtd: &str) -> &Ubi {
        match &*self.state.chips[mtd] {
            Chip::Ubi(ubi) => ubi,
            _ => unreachable!("handles are of the kind of their chip"),
        }
    }

    fn free(&self, mtd: &str, volume: &str) -> Result<(), Errno> {
        match self.uses.contains_key(&(mtd.to_owned(), volume.to_owned())) {
            true => Err(Errno::BUSY),
            false => Ok(()),
        }
    }
}

/// The chips of a machine that has power. A clone is another handle to the same ones.
#[derive(Clone)]
pub struct Chips(Rc<RefCell<Bench>>);

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
