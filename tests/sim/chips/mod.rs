//! Flash chips whose power can go: NOR, NAND, and UBI on them.
//!
//! [`Chips`] is what a machine sees of its flash; [`ChipsState`] is what the flash holds without
//! power. What changes a chip is an [`Operation`], and one function a chip says what it does:
//! live, and again when [`cuts`](super::cuts) replays a recorded run and tears one of them.
//!
//! The chips refuse what real ones refuse. What a correct program never asks for (a bit from 0 to 1, a
//! page twice, a bad block) is kept as a violation, too, so that a test sees it even if the error was
//! swallowed.

mod handles;
mod nand;
mod nor;
mod power;
mod proof;
mod ubi;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::Random;
pub use nand::{BITFLIP_THRESHOLD, Nand, NandFaults};
pub use nor::Nor;
pub use power::{Chips, Counts, Use};
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

impl Operation {
    /// What it does to an MTD, but for marks.
    pub fn verb(&self) -> Option<Verb> {
        match self.what {
            What::Mtd(MtdOp::Erase { .. }) => Some(Verb::Erase),
            What::Mtd(MtdOp::Program { .. }) => Some(Verb::Program),
            What::Mtd(MtdOp::MarkBad { .. }) | What::Ubi(_) => None,
        }
    }
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
