//! NAND: pages are programmed whole, in ascending order, once between two erases of their block;
//! blocks are bad or go bad; bits flip.
//!
//! What a cut leaves behind follows <http://www.linux-mtd.infradead.org/doc/ubifs.html#L_unstable_bits>:
//! a page whose program was cut, and all pages of a block whose erase was cut, may read right, as
//! erased, or not at all, and another way each time. Where it reads right the chip has corrected
//! many bits; only a page that reads as erased may hide it.

use std::io;

use rustix::io::Errno;

use super::{Bytes, Mood, MtdOp, Noise, Outcome, Trouble, Verb, violation};
use crate::sim::Random;

/// So many corrected bits are a reason to write a block again.
pub const BITFLIP_THRESHOLD: u32 = 3;

/// What is wrong with a chip from the begin.
#[derive(Clone, Debug, Default)]
pub struct NandFaults {
    /// Erase blocks that the factory has marked bad.
    pub factory_bad: Vec<usize>,
}

/// How well a page keeps its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Health {
    Fine,
    /// So many bits have flipped, and are corrected.
    Flipped(u32),
    /// More have flipped than can be corrected.
    Lost,
    /// Its program, or the erase of its block, was cut.
    Unstable,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Page {
    /// Nothing: it reads as erased.
    content: Option<Bytes>,
    health: Health,
}

const ERASED: Page = Page {
    content: None,
    health: Health::Fine,
};

#[derive(Clone, PartialEq, Eq, Hash)]
struct Block {
    pages: Vec<Page>,
    /// The first page that may be programmed.
    next: usize,
    /// Marked bad.
    bad: bool,
    /// Takes neither erase nor program any more.
    worn_out: bool,
    /// Its erase was cut.
    disturbed: bool,
}

/// When something begins to fail.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Failure {
    verb: Verb,
    block: Option<usize>,
    left: u64,
}

/// A NAND chip.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Nand {
    page_size: usize,
    pages_per_block: usize,
    blocks: Vec<Block>,
    failures: Vec<Failure>,
}

impl Nand {
    pub(super) fn new(
        size: usize,
        erase_size: usize,
        page_size: usize,
        faults: &NandFaults,
        seed: u64,
    ) -> Self {
        assert!(size.is_multiple_of(erase_size), "whole erase blocks");
        assert!(erase_size.is_multiple_of(page_size), "whole pages");
        let pages_per_block = erase_size / page_size;
        let mut random = Random(seed);
        let blocks = (0..size / erase_size).map(|number| {
            let bad = faults.factory_bad.contains(&number);
            let page = match bad {
                false => ERASED,
                true => Page {
                    content: Some(Bytes::new(garbage(page_size, &mut random))),
                    health: Health::Fine,
                },
            };
            Block {
                pages: vec![page; pages_per_block],
                next: 0,
                bad,
                worn_out: bad,
                disturbed: false,
            }
        });
        Self {
            page_size,
            pages_per_block,
            blocks: blocks.collect(),
            failures: Vec::new(),
        }
    }

    pub(super) fn size(&self) -> usize {
        self.blocks.len() * self.erase_size()
    }

    pub(super) fn erase_size(&self) -> usize {
        self.pages_per_block * self.page_size
    }

    pub(super) fn page_size(&self) -> usize {
        self.page_size
    }

    pub(super) fn bad_blocks(&self) -> Vec<usize> {
        let bad = self
            .blocks
            .iter()
            .enumerate()
            .filter(|(_, block)| block.bad);
        bad.map(|(number, _)| number).collect()
    }

    pub(super) fn fail(&mut self, verb: Verb, block: Option<usize>, nth: u64) {
        assert!(nth > 0, "the next one is the first");
        self.failures.push(Failure {
            verb,
            block,
            left: nth,
        });
    }

    pub(super) fn flip_bits(&mut self, offset: usize, bits: u32) {
        self.page_mut(offset).health = Health::Flipped(bits);
    }

    pub(super) fn spoil(&mut self, offset: usize) {
        self.page_mut(offset).health = Health::Lost;
    }

    fn page(&self, offset: usize) -> &Page {
        let block = &self.blocks[offset / self.erase_size()];
        &block.pages[offset % self.erase_size() / self.page_size]
    }

    fn page_mut(&mut self, offset: usize) -> &mut Page {
        let erase_size = self.erase_size();
        let block = &mut self.blocks[offset / erase_size];
        &mut block.pages[offset % erase_size / self.page_size]
    }

    fn page_data(&self, page: &Page) -> Vec<u8> {
        match &page.content {
            Some(content) => content.data.to_vec(),
            None => vec![0xff; self.page_size],
        }
    }

    pub(super) fn put(&mut self, offset: usize, bytes: &[u8]) {
        let erase_size = self.erase_size();
        assert!(offset.is_multiple_of(erase_size), "whole erase blocks");
        let first = offset / erase_size;
        let page_size = self.page_size;
        let mut good = self
            .blocks
            .iter_mut()
            .skip(first)
            .filter(|block| !block.bad);
        for bytes in bytes.chunks(erase_size) {
            let block = good.next().expect("room in good blocks");
            block.pages.fill(ERASED);
            for (page, bytes) in bytes.chunks(page_size).enumerate() {
                let mut content = vec![0xff; page_size];
                content[..bytes.len()].copy_from_slice(bytes);
                block.pages[page].content = Some(Bytes::new(content));
                block.next = page + 1;
            }
        }
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        let pages = self.blocks.iter().flat_map(|block| &block.pages);
        pages.flat_map(|page| self.page_data(page)).collect()
    }

    pub(super) fn part(&self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        let mut part = Vec::new();
        let first = offset / self.erase_size();
        for block in self.blocks.iter().skip(first).filter(|block| !block.bad) {
            for page in &block.pages {
                if part.len() >= len {
                    break;
                }
                if matches!(page.health, Health::Lost | Health::Unstable) {
                    return Err(Errno::BADMSG.into());
                }
                part.append(&mut self.page_data(page));
            }
        }
        match part.len() < len {
            true => Err(Errno::NODATA.into()),
            false => {
                part.truncate(len);
                Ok(part)
            }
        }
    }

    pub(super) fn read(
        &self,
        offset: usize,
        bytes: &mut [u8],
        noise: &mut Noise,
    ) -> io::Result<u32> {
        let mut corrected = 0;
        let mut lost = false;
        let mut mood = None;
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let page = self.page(at);
            let mut data = self.page_data(page);
            let flipped = match page.health {
                Health::Fine => Some(0),
                Health::Flipped(bits) => Some(bits),
                Health::Lost => None,
                Health::Unstable => match mood.get_or_insert_with(|| noise.mood()) {
                    Mood::Right if page.content.is_none() => Some(0),
                    Mood::Right => Some(BITFLIP_THRESHOLD),
                    Mood::Shaky => Some(BITFLIP_THRESHOLD + 1),
                    Mood::Wrong => None,
                },
            };
            match flipped {
                Some(bits) => corrected += bits,
                None => {
                    lost = true;
                    noise.spoil(&mut data);
                }
            }
            let from = &data[at % self.page_size..];
            let count = from.len().min(bytes.len() - done);
            bytes[done..done + count].copy_from_slice(&from[..count]);
            done += count;
        }
        match lost {
            true => Err(Errno::BADMSG.into()),
            false => Ok(corrected),
        }
    }

    pub(super) fn apply(&mut self, op: &MtdOp) -> Outcome {
        match op {
            MtdOp::Erase { block } => self.erase(*block),
            MtdOp::Program { offset, bytes } => self.program(*offset, bytes),
            MtdOp::MarkBad { block } => {
                self.blocks[*block].bad = true;
                Ok(())
            }
        }
    }

    fn erase(&mut self, number: usize) -> Outcome {
        if self.blocks[number].bad {
            return violation(Errno::IO, format_args!("block {number} is bad"));
        }
        let fails = self.comes_to_fail(Verb::Erase, number);
        let block = &mut self.blocks[number];
        if fails {
            for page in &mut block.pages {
                page.health = Health::Lost;
            }
            block.disturbed = true;
            return Err(Trouble::Failed(Errno::IO));
        }
        block.pages.fill(ERASED);
        block.next = 0;
        block.disturbed = false;
        Ok(())
    }

    fn program(&mut self, offset: usize, bytes: &[u8]) -> Outcome {
        if !offset.is_multiple_of(self.page_size) || bytes.len() != self.page_size {
            return violation(Errno::INVAL, format_args!("it is no whole page"));
        }
        if offset >= self.size() {
            return violation(Errno::INVAL, format_args!("there is nothing"));
        }
        let number = offset / self.erase_size();
        let page = offset % self.erase_size() / self.page_size;
        let block = &self.blocks[number];
        if block.bad {
            return violation(Errno::IO, format_args!("block {number} is bad"));
        }
        if block.disturbed && !block.worn_out {
            return violation(Errno::IO, format_args!("the erase of its block was cut"));
        }
        if page < block.next {
            let next = block.next;
            return violation(
                Errno::IO,
                format_args!(
                    "pages below {next} of block {number} were programmed since its erase"
                ),
            );
        }
        let fails = self.comes_to_fail(Verb::Program, number);
        let block = &mut self.blocks[number];
        block.next = page + 1;
        block.pages[page].content = Some(Bytes::new(bytes.to_vec()));
        if fails {
            block.pages[page].health = Health::Lost;
            return Err(Trouble::Failed(Errno::IO));
        }
        Ok(())
    }

    /// Counts this operation. True if it fails.
    fn comes_to_fail(&mut self, verb: Verb, block: usize) -> bool {
        for failure in &mut self.failures {
            if failure.verb == verb && failure.block.is_none_or(|only| only == block) {
                failure.left = failure.left.saturating_sub(1);
                if failure.left == 0 {
                    self.blocks[block].worn_out = true;
                }
            }
        }
        self.failures.retain(|failure| failure.left > 0);
        self.blocks[block].worn_out
    }

    pub(super) fn torn(&self, op: &MtdOp, random: &mut Random) -> Vec<(String, Self)> {
        match op {
            MtdOp::MarkBad { .. } => Vec::new(),
            MtdOp::Erase { block } => self.torn_erase(*block),
            MtdOp::Program { offset, bytes } => self.torn_program(*offset, bytes, random),
        }
    }

    fn torn_erase(&self, number: usize) -> Vec<(String, Self)> {
        if self.blocks[number].bad {
            return Vec::new();
        }
        let unstable_from = |erased: usize| {
            let mut chip = self.clone();
            let block = &mut chip.blocks[number];
            block.disturbed = true;
            for page in &mut block.pages[..erased] {
                page.content = None;
            }
            for page in &mut block.pages {
                page.health = Health::Unstable;
            }
            chip
        };
        let mut lost = unstable_from(0);
        for page in &mut lost.blocks[number].pages {
            page.health = Health::Lost;
        }
        let all = self.pages_per_block;
        vec![
            (
                "it reads as erased and is unstable".to_owned(),
                unstable_from(all),
            ),
            (
                "one half reads as erased and all is unstable".to_owned(),
                unstable_from(all / 2),
            ),
            (
                "it reads as before and is unstable".to_owned(),
                unstable_from(0),
            ),
            ("nothing of it can be read".to_owned(), lost),
        ]
    }

    fn torn_program(
        &self,
        offset: usize,
        bytes: &[u8],
        random: &mut Random,
    ) -> Vec<(String, Self)> {
        let mut whole = self.clone();
        if whole.program(offset, bytes).is_err() {
            return Vec::new();
        }
        let part = 1 + random.below(self.page_size - 1);
        let mut front = bytes.to_vec();
        front[part..].fill(0xff);
        let left = [
            ("it reads as erased and is unstable", None, Health::Unstable),
            (
                "it reads right and is unstable",
                Some(bytes.to_vec()),
                Health::Unstable,
            ),
            (
                "a part of it landed and cannot be read",
                Some(front),
                Health::Lost,
            ),
        ];
        let torn = left.into_iter().map(|(how, content, health)| {
            let mut chip = whole.clone();
            *chip.page_mut(offset) = Page {
                content: content.map(Bytes::new),
                health,
            };
            (how.to_owned(), chip)
        });
        torn.collect()
    }
}

fn garbage(len: usize, random: &mut Random) -> Vec<u8> {
    (0..len).map(|_| random.next().to_le_bytes()[0]).collect()
}
