//! The blocks that this machine has: what need not be fetched.
//!
//! A block of a new image may be in the target already, where it belongs, or anywhere in the running slot at
//! a multiple of the block size. The first is asked by reading it. For the second there is an index, which is made by
//! reading the running slot once, and kept in the data directory from one run to the next:
//!
//! ```text
//! sysupgrade-rs blocks 1\n
//! 32              digest of what it was made from: the parts, their block sizes, how much of them, their first
//!                 blocks, and the recorded version
//! 12 a block      sorted: the first 8 bytes of its digest, its number u32 BE, counted through all parts
//! ```
//!
//! All of this is a guess. Whoever asks hashes what he gets against the signed digest: an index that is old,
//! torn or forged, and a running slot that is written to meanwhile, cost time and nothing else. So nothing here
//! fails: what cannot be read is not at hand.
//!
//! Blocks that have moved by less than a block are not found. To look for them at each offset would cost more
//! than it gains: packed as the README says, file systems keep what has not changed on whole blocks.

use std::collections::BTreeMap;
use std::fmt;

use super::{InstallError, Watch};
use crate::board::Medium;
use crate::digest::{Digest, Hasher};
use crate::files;
use crate::flash::look::{self, Look};
use crate::image::{AtHand, PartInfo, Place};
use crate::machine::Machine;
use crate::report::describe;
use crate::slots::Slot;

const MAGIC: &[u8] = b"sysupgrade-rs blocks 1\n";
/// What of a digest is enough to guess.
const PREFIX: usize = 8;
const ENTRY: usize = PREFIX + 4;
/// So many blocks are found again: 8 GiB in blocks of 64 KiB, in 1.5 MiB of memory.
const MAX_BLOCKS: usize = 128 << 10;
const MAX_FILE: u64 = 2 << 20;

/// Private to root, as all of the data directory.
const MODE: u32 = 0o600;

/// What of both slots can be looked at.
pub(super) struct Nearby {
    target: BTreeMap<String, Box<dyn Look>>,
    running: Vec<Part>,
    made_from: Digest,
    /// See the module.
    index: Vec<[u8; ENTRY]>,
}

/// A part of the running slot.
struct Part {
    medium: Box<dyn Look>,
    block_size: u32,
    blocks: u64,
}

impl Nearby {
    /// What there is for these parts. Nothing of the running slot is known yet.
    pub(super) fn of(machine: &Machine, wanted: &[PartInfo]) -> Self {
        let mut target = BTreeMap::new();
        let mut running = Vec::new();
        for part in wanted {
            let name = &part.slot_part;
            if let Some(medium) = look_at(machine, machine.target(), name) {
                target.insert(name.clone(), medium);
            }
            if let Some(medium) = look_at(machine, machine.running, name) {
                // Successive versions are about as long; what is behind is another file system's, or nobody's.
                let len = part.raw_size.next_power_of_two().min(medium.capacity());
                running.push(Part {
                    medium,
                    block_size: part.block_size,
                    blocks: len / u64::from(part.block_size),
                });
            }
        }
        Self {
            target,
            made_from: made_from(machine, &mut running),
            running,
            index: Vec::new(),
        }
    }

    /// Learns where the running slot has its blocks: from the file that tells, or by reading it. True if it had
    /// to be read.
    pub(super) fn recall(
        &mut self,
        machine: &Machine,
        watch: &Watch<'_>,
    ) -> Result<bool, InstallError> {
        let file = machine.data.blocks_file(machine.name(machine.running));
        let bytes = file.map(|file| files::read_if_exists(&file, MAX_FILE));
        if let Some(Ok(Some(bytes))) = bytes
            && let Some(index) = self.parse(&bytes)
        {
            self.index = index.to_vec();
            return Ok(false);
        }
        self.learn(watch)?;
        Ok(true)
    }

    /// Keeps that for the next run.
    pub(super) fn remember(&self, machine: &Machine) {
        let Some(file) = machine.data.blocks_file(machine.name(machine.running)) else {
            return;
        };
        let bytes = [MAGIC, &self.made_from.0, self.index.as_flattened()].concat();
        if let Err(error) = files::replace(&file, &bytes, MODE) {
            log::debug!("{}", describe(&error));
        }
    }

    /// The index in a file, if it was made from what is there now.
    fn parse<'b>(&self, bytes: &'b [u8]) -> Option<&'b [[u8; ENTRY]]> {
        let bytes = bytes.strip_prefix(MAGIC)?.strip_prefix(&self.made_from.0)?;
        let (index, rest) = bytes.as_chunks();
        rest.is_empty().then_some(index)
    }

    /// Reads the running slot.
    fn learn(&mut self, watch: &Watch<'_>) -> Result<(), InstallError> {
        let mut number: u32 = 0;
        for part in &mut self.running {
            let mut block = part.block();
            for at in 0..part.blocks {
                watch.check()?;
                if self.index.len() == MAX_BLOCKS {
                    break;
                }
                if part.look(at, &mut block) {
                    let [a, b, c, d, e, f, g, h, ..] = Digest::of(&block).0;
                    let [i, j, k, l] = number.to_be_bytes();
                    self.index.push([a, b, c, d, e, f, g, h, i, j, k, l]);
                }
                number = number.saturating_add(1);
            }
        }
        self.index.sort_unstable();
        Ok(())
    }

    /// Looks up a block of the running slot.
    fn copy(&mut self, digest: &Digest, block: &mut [u8]) -> Option<()> {
        let prefix = &digest.0[..PREFIX];
        let at = self
            .index
            .partition_point(|entry| entry[..PREFIX] < *prefix);
        let entry = self
            .index
            .get(at)
            .filter(|entry| entry.starts_with(prefix))?;
        let number = entry
            .last_chunk()
            .map(|number| u32::from_be_bytes(*number))?;
        let mut number = u64::from(number);
        for part in &mut self.running {
            if number < part.blocks {
                return part.look(number, block).then_some(());
            }
            number -= part.blocks;
        }
        None
    }
}

impl Part {
    fn block(&self) -> Vec<u8> {
        vec![0; usize::try_from(self.block_size).unwrap_or_default()]
    }

    /// Fills as much of a block as is wanted.
    fn look(&mut self, number: u64, block: &mut [u8]) -> bool {
        let offset = number * u64::from(self.block_size);
        self.medium.look(offset, block).is_ok()
    }
}

impl AtHand for Nearby {
    fn guess(
        &mut self,
        place: Place,
        part: &str,
        offset: u64,
        digest: &Digest,
        block: &mut [u8],
    ) -> bool {
        match place {
            Place::Target => {
                let medium = self.target.get_mut(part);
                medium.is_some_and(|medium| medium.look(offset, block).is_ok())
            }
            Place::Running => self.copy(digest, block).is_some(),
        }
    }
}

impl fmt::Debug for Nearby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<&String> = self.target.keys().collect();
        f.debug_struct("Nearby")
            .field("parts", &parts)
            .finish_non_exhaustive()
    }
}

/// A digest of what an index is made from, cheap to have: another image has another first block, as a
/// rule, where file systems and kernels have their headers.
fn made_from(machine: &Machine, running: &mut [Part]) -> Digest {
    let mut hasher = Hasher::new();
    let version = machine.running_version().unwrap_or_default();
    hasher.update(format!("{version:?}\n").as_bytes());
    for part in running {
        let mut block = part.block();
        let first = part.look(0, &mut block).then(|| Digest::of(&block));
        let line = format!("{} {} {first:?}\n", part.block_size, part.blocks);
        hasher.update(line.as_bytes());
    }
    hasher.finish()
}

fn look_at(machine: &Machine, slot: Slot, part: &str) -> Option<Box<dyn Look>> {
    let medium: &Medium = machine.spec(slot).parts.get(part)?;
    match look::open(&machine.root, &*machine.chips, medium) {
        Ok(medium) => Some(medium),
        Err(error) => {
            log::debug!("{}", describe(&error));
            None
        }
    }
}
