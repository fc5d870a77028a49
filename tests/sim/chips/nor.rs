//! NOR: bytes are programmed one by one and only from 1 to 0; erase blocks.
//!
//! An erase that was cut leaves a block that is neither: it reads one way now and another way later,
//! even if it reads as all 0xff, until it is erased again. (This is why JFFS2 writes a marker behind
//! each finished erase.) To program such a block is a violation.

use std::io;

use rustix::io::Errno;

use super::{Bytes, Mood, MtdOp, Noise, Outcome, violation};
use crate::sim::Random;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Block {
    content: Bytes,
    /// Its erase was cut.
    unstable: bool,
}

impl Block {
    fn erased(len: usize) -> Self {
        Self {
            content: Bytes::new(vec![0xff; len]),
            unstable: false,
        }
    }
}

/// A NOR chip.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Nor {
    erase_size: usize,
    blocks: Vec<Block>,
}

impl Nor {
    pub(super) fn new(size: usize, erase_size: usize) -> Self {
        assert!(size.is_multiple_of(erase_size), "whole erase blocks");
        Self {
            erase_size,
            blocks: vec![Block::erased(erase_size); size / erase_size],
        }
    }

    pub(super) fn size(&self) -> usize {
        self.blocks.len() * self.erase_size
    }

    pub(super) fn erase_size(&self) -> usize {
        self.erase_size
    }

    pub(super) fn put(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset.is_multiple_of(self.erase_size), "whole erase blocks");
        for (number, bytes) in bytes.chunks(self.erase_size).enumerate() {
            let mut content = vec![0xff; self.erase_size];
            content[..bytes.len()].copy_from_slice(bytes);
            self.blocks[offset / self.erase_size + number].content = Bytes::new(content);
        }
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        let blocks = self.blocks.iter();
        blocks
            .flat_map(|block| block.content.data.iter().copied())
            .collect()
    }

    pub(super) fn part(&self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        let end = offset + len;
        if end > self.size() {
            return Err(Errno::NODATA.into());
        }
        let first = offset / self.erase_size;
        let blocks = &self.blocks[first..end.div_ceil(self.erase_size)];
        if blocks.iter().any(|block| block.unstable) {
            return Err(Errno::BADMSG.into());
        }
        let mut part = Vec::with_capacity(blocks.len() * self.erase_size);
        for block in blocks {
            part.extend_from_slice(&block.content.data);
        }
        part.drain(..offset - first * self.erase_size);
        part.truncate(len);
        Ok(part)
    }

    pub(super) fn read(
        &self,
        offset: usize,
        bytes: &mut [u8],
        noise: &mut Noise,
    ) -> io::Result<u32> {
        let mut mood = None;
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let block = &self.blocks[at / self.erase_size];
            let from = &block.content.data[at % self.erase_size..];
            let count = from.len().min(bytes.len() - done);
            let piece = &mut bytes[done..done + count];
            piece.copy_from_slice(&from[..count]);
            if block.unstable && *mood.get_or_insert_with(|| noise.mood()) != Mood::Right {
                noise.spoil(piece);
            }
            done += count;
        }
        Ok(0)
    }

    pub(super) fn apply(&mut self, op: &MtdOp) -> Outcome {
        match op {
            MtdOp::Erase { block } => {
                self.blocks[*block] = Block::erased(self.erase_size);
                Ok(())
            }
            MtdOp::MarkBad { .. } => violation(
                Errno::OPNOTSUPP,
                format_args!("blocks of NOR are not marked bad"),
            ),
            MtdOp::Program { offset, bytes } => self.program(*offset, bytes),
        }
    }

    fn program(&mut self, offset: usize, bytes: &[u8]) -> Outcome {
        let in_block = offset % self.erase_size;
        let end = in_block + bytes.len();
        let Some(block) = self.blocks.get_mut(offset / self.erase_size) else {
            return violation(Errno::INVAL, format_args!("there is nothing"));
        };
        if end > self.erase_size {
            return violation(Errno::INVAL, format_args!("it crosses an erase block"));
        }
        if block.unstable {
            return violation(Errno::IO, format_args!("the erase of its block was cut"));
        }
        let mut content = block.content.data.to_vec();
        let new_over_old = bytes.iter().zip(&mut content[in_block..end]);
        for (at, (new, old)) in (offset..).zip(new_over_old) {
            if new & !*old != 0 {
                return violation(
                    Errno::IO,
                    format_args!("{old:#04x} at {at:#x} cannot become {new:#04x}"),
                );
            }
            *old &= new;
        }
        block.content = Bytes::new(content);
        Ok(())
    }

    pub(super) fn torn(&self, op: &MtdOp, random: &mut Random) -> Vec<(String, Self)> {
        match op {
            MtdOp::MarkBad { .. } => Vec::new(),
            MtdOp::Erase { block } => self.torn_erase(*block, random),
            MtdOp::Program { offset, bytes } => self.torn_program(*offset, bytes, random),
        }
    }

    fn torn_erase(&self, block: usize, random: &mut Random) -> Vec<(String, Self)> {
        let old = self.blocks[block].content.data.to_vec();
        let mut half = old.clone();
        half[..old.len() / 2].fill(0xff);
        // Chips clear all bits before they set them.
        let cleared = old
            .iter()
            .map(|byte| byte & random.next().to_le_bytes()[0])
            .collect();
        let left = [
            ("it reads as erased and is unstable", vec![0xff; old.len()]),
            ("one half reads as erased and all is unstable", half),
            ("some bits are cleared and all are unstable", cleared),
        ];
        let torn = left.into_iter().map(|(how, content)| {
            let mut chip = self.clone();
            chip.blocks[block] = Block {
                content: Bytes::new(content),
                unstable: true,
            };
            (how.to_owned(), chip)
        });
        torn.collect()
    }

    fn torn_program(
        &self,
        offset: usize,
        bytes: &[u8],
        random: &mut Random,
    ) -> Vec<(String, Self)> {
        let middle = bytes.len() / 2;
        let mut places = vec![0, 1, middle & !3, middle | 1, bytes.len().saturating_sub(1)];
        places.retain(|place| *place < bytes.len());
        places.sort_unstable();
        places.dedup();
        let torn = places.into_iter().map(|place| {
            let mut piece = bytes[..=place].to_vec();
            // Of the byte at which it ends, some bits were cleared.
            piece[place] |= random.next().to_le_bytes()[0];
            let block = offset / self.erase_size;
            let before = self.blocks[block].content.data[offset % self.erase_size + place];
            piece[place] &= before;
            let mut chip = self.clone();
            let landed = chip.program(offset, &piece);
            debug_assert!(landed.is_ok(), "what was asked for was right");
            let how = format!("{place} bytes of it landed, and some bits of the next one");
            (how, chip)
        });
        torn.collect()
    }
}
