//! A copy of an environment on raw flash.
//!
//! ```text
//! NOR    | rest | copy ......... | rest |          the whole erase blocks are read, erased, programmed
//! NAND   | bad  | copy .. | bad | .. copy | rest | spare |     within the window, as U-Boot reads it
//! ```
//!
//! What else is in the erase blocks of a copy is written back; a cut on the way takes it along. So two
//! copies must not share one, nor may the windows of two overlap: that is refused.
//!
//! On NAND a copy lies in the first good blocks of its window. A block that fails is marked bad, and
//! all of the copy is written anew around it, as long as the window has room. Then nothing is marked:
//! a copy that has nowhere to go is worse than a block that fails now and then.

use std::io;
use std::ops::Range;

use rustix::io::Errno;

use crate::board::Store;
use crate::boot::BootError;
use crate::flash::FlashError;
use crate::flash::mtd::{FAILURES_IN_A_ROW, Geometry, Kind, RawMtd, good_blocks};

use super::copy::{CRC_LEN, OBSOLETE};
use super::medium::{Flags, Health, Medium, Purpose, not_held};

pub(super) struct OnMtd {
    raw: Box<dyn RawMtd>,
    geometry: Geometry,
    /// First byte of the copy, if no block before it is bad.
    offset: u64,
    size: usize,
    /// Where it may be, from one erase block's begin to another one's end.
    window: Range<u64>,
}

/// What an erase block has of the copy.
struct Part {
    /// Where the erase block begins.
    block: u64,
    /// Which bytes of it are the copy's.
    in_block: Range<usize>,
    /// Which bytes of the copy they are.
    in_copy: Range<usize>,
}

/// A block could not be written.
struct Failure {
    verb: &'static str,
    source: io::Error,
}

impl OnMtd {
    pub(super) fn new(
        raw: Box<dyn RawMtd>,
        store: &Store,
        size: usize,
        purpose: Purpose,
    ) -> Result<Self, FlashError> {
        let geometry = raw.geometry().clone();
        if purpose == Purpose::Change && !geometry.writable {
            let name = format!("mtd {}", geometry.name);
            return Err(FlashError::ReadOnly { name });
        }
        let unusable = |problem| FlashError::Unusable {
            name: format!("mtd {}", geometry.name),
            problem,
            source: None,
        };
        let (erase_size, page_size) = (geometry.erase_size, geometry.page_size);
        if erase_size == 0 || page_size == 0 || !erase_size.is_multiple_of(page_size) {
            return Err(unusable(format!(
                "its erase blocks of {erase_size} bytes are not made of pages of {page_size}"
            )));
        }
        let (offset, erase_size) = (store.offset, u64::from(erase_size));
        let first = offset - offset % erase_size;
        if geometry.kind == Kind::Nand && first != offset {
            return Err(unusable(format!(
                "an environment at {offset:#x} is not at the begin of an erase block of {erase_size:#x}"
            )));
        }
        // Blocks of NOR are never bad: a copy is where it is.
        let window = match geometry.kind {
            Kind::Nor => size as u64,
            Kind::Nand => store.window.unwrap_or(size as u64),
        };
        let end = offset
            .checked_add(window.max(size as u64))
            .and_then(|end| end.checked_next_multiple_of(erase_size));
        let Some(end) = end.filter(|end| *end <= geometry.size) else {
            return Err(unusable(format!(
                "an environment of {window:#x} bytes at {offset:#x} is not inside its {:#x}",
                geometry.size
            )));
        };
        Ok(Self {
            raw,
            geometry,
            offset,
            size,
            window: first..end,
        })
    }

    fn name(&self) -> String {
        format!("mtd {}", self.geometry.name)
    }

    fn failed(&self, verb: &'static str, offset: u64, source: io::Error) -> FlashError {
        FlashError::Flash {
            verb,
            name: self.name(),
            offset,
            source,
        }
    }

    fn good_blocks(&mut self) -> Result<Vec<u64>, FlashError> {
        let Range { start, end } = self.window;
        good_blocks(self.raw.as_mut(), start, end)
            .map_err(|source| self.failed("look for bad blocks of", start, source))
    }

    /// How the copy lies in the first of these blocks; nothing if they are too few.
    fn parts(&self, blocks: &[u64]) -> Option<Vec<Part>> {
        let erase_size = self.geometry.erase_size as usize;
        let lead = usize::try_from(self.offset - self.window.start).ok()?;
        let mut parts = Vec::new();
        let mut done = 0;
        for &block in blocks {
            if done == self.size {
                break;
            }
            let start = if done == 0 { lead } else { 0 };
            let count = (erase_size - start).min(self.size - done);
            parts.push(Part {
                block,
                in_block: start..start + count,
                in_copy: done..done + count,
            });
            done += count;
        }
        (done == self.size).then_some(parts)
    }

    /// Reads what does not cross an erase block. NAND is asked page by page: the threshold is meant for
    /// what is corrected as one, of which a page has at most a few.
    fn read_part(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<Health> {
        let threshold = self.geometry.bitflip_threshold;
        let step = match self.geometry.kind {
            Kind::Nor => bytes.len().max(1),
            Kind::Nand => self.geometry.page_size as usize,
        };
        let mut health = Health::Sound;
        for (at, page) in (offset..).step_by(step).zip(bytes.chunks_mut(step)) {
            let corrected = self.raw.read(at, page)?;
            if threshold != 0 && corrected >= threshold {
                health = Health::Weak;
            }
        }
        Ok(health)
    }

    /// What an erase block has, to be written back around the copy. Pages of NAND that cannot be read
    /// are lost already, and become erased ones.
    fn surroundings(&mut self, part: &Part) -> Result<Vec<u8>, FlashError> {
        let erase_size = self.geometry.erase_size as usize;
        let mut content = vec![0xff; erase_size];
        let page_size = self.geometry.page_size as usize;
        let step = match self.geometry.kind {
            Kind::Nor => erase_size,
            Kind::Nand => page_size,
        };
        for (at, piece) in (0..).step_by(step).zip(content.chunks_mut(step)) {
            if part.in_block.start <= at && at + piece.len() <= part.in_block.end {
                continue;
            }
            let offset = part.block + at as u64;
            match self.raw.read(offset, piece) {
                Ok(_) => {}
                Err(error) if self.is_block_trouble(&error) => piece.fill(0xff),
                Err(error) => return Err(self.failed("read", offset, error)),
            }
        }
        Ok(content)
    }

    /// Erases a block, whatever it reads as (an erase that was cut may read as done and not keep what is
    /// programmed), programs it, and reads back what it has of the copy.
    fn write_part(&mut self, part: &Part, content: &[u8]) -> Result<(), Failure> {
        let failure = |verb| move |source| Failure { verb, source };
        self.raw.erase(part.block).map_err(failure("erase"))?;
        let page_size = self.geometry.page_size as usize;
        let used = content.iter().rposition(|byte| *byte != 0xff);
        let used = used.map_or(0, |last| (last + 1).next_multiple_of(page_size));
        let programmed = self.raw.program(part.block, &content[..used]);
        programmed.map_err(failure("program"))?;
        let mut found = vec![0; part.in_block.len()];
        let offset = part.block + part.in_block.start as u64;
        self.read_part(offset, &mut found)
            .map_err(failure("read back"))?;
        match found == content[part.in_block.clone()] {
            true => Ok(()),
            false => Err(Failure {
                verb: "write",
                source: io::Error::from(Errno::IO),
            }),
        }
    }

    /// True if the error tells that a block is bad, rather than that the driver or the chip is gone.
    fn is_block_trouble(&self, error: &io::Error) -> bool {
        let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
        self.geometry.kind == Kind::Nand && (is(Errno::IO) || is(Errno::BADMSG))
    }
}

impl Medium for OnMtd {
    fn flags(&self) -> Flags {
        match self.geometry.kind {
            Kind::Nor => Flags::Boolean,
            Kind::Nand => Flags::Counter,
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<Health, String> {
        let blocks = self.good_blocks();
        let blocks = blocks.map_err(|error| crate::report::describe(&error))?;
        let Some(parts) = self.parts(&blocks) else {
            let count = blocks.len();
            return Err(format!("the {count} good erase blocks are too few for it"));
        };
        let mut health = Health::Sound;
        for part in parts {
            let offset = part.block + part.in_block.start as u64;
            match self.read_part(offset, &mut bytes[part.in_copy]) {
                Ok(Health::Sound) => {}
                Ok(Health::Weak) => health = Health::Weak,
                Err(error) => return Err(format!("it cannot be read at {offset:#x}: {error}")),
            }
        }
        Ok(health)
    }

    fn replace(&mut self, _: &[u8], new: &[u8]) -> Result<(), BootError> {
        let mut failures = 0;
        'window: loop {
            let blocks = self.good_blocks()?;
            let Some(parts) = self.parts(&blocks) else {
                let erase_size = u64::from(self.geometry.erase_size);
                let total = (self.window.end - self.window.start) / erase_size;
                let bad = total - blocks.len() as u64;
                let name = self.name();
                return Err(FlashError::WornOut { name, bad }.into());
            };
            let spare = blocks.len() - parts.len();
            for part in parts {
                let mut content = self.surroundings(&part)?;
                content[part.in_block.clone()].copy_from_slice(&new[part.in_copy.clone()]);
                let Err(Failure { verb, source }) = self.write_part(&part, &content) else {
                    continue;
                };
                failures += 1;
                // Several in a row: not they, the chip or its supply, as in flash/mtd.rs.
                if !self.is_block_trouble(&source) || spare == 0 || failures == FAILURES_IN_A_ROW {
                    return Err(self.failed(verb, part.block, source).into());
                }
                log::debug!("{}: cannot {verb} {:#x}: {source}", self.name(), part.block);
                // Half a copy is not to be found by who scans the chip; not even a bad block needs
                // this to work.
                let _ = self.raw.erase(part.block);
                self.raw
                    .mark_bad(part.block)
                    .map_err(|source| self.failed("mark as bad a block of", part.block, source))?;
                continue 'window;
            }
            break;
        }
        // All of it at once, from where a reader looks for it.
        let mut found = vec![0; new.len()];
        match self.read(&mut found) {
            Ok(_) if found == new => Ok(()),
            _ => Err(not_held(self.name())),
        }
    }

    /// One program of one byte, no erase. It goes also over what reads as obsolete: a cut may have left
    /// bits that read so today.
    fn obsolete(&mut self) -> Result<(), BootError> {
        if self.geometry.kind == Kind::Nand {
            return Ok(());
        }
        let at = self.offset + CRC_LEN as u64;
        let mut flags = [OBSOLETE];
        self.raw
            .program(at, &flags)
            .map_err(|source| self.failed("program", at, source))?;
        self.raw
            .read(at, &mut flags)
            .map_err(|source| self.failed("read back", at, source))?;
        match flags == [OBSOLETE] {
            true => Ok(()),
            false => Err(not_held(self.name())),
        }
    }

    fn erases(&self) -> Option<(&str, Range<u64>)> {
        Some((&self.geometry.name, self.window.clone()))
    }
}
