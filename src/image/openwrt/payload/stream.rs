//! The inflated payload, read once: every byte passes here, and the offset that errors name is counted.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::plain::{CHUNK, PlainError};
use super::{Extent, PayloadError};

/// Bytes that are looked at to tell the kinds apart: x86 disks show themselves in a whole sector.
pub(super) const HEAD: usize = 512;

/// The payload from its first byte, and how far it has been read.
pub(super) struct Stream<'a> {
    source: BufReader<&'a mut dyn Read>,
    offset: u64,
}

impl<'a> Stream<'a> {
    pub(super) fn new(source: &'a mut dyn Read) -> Self {
        Self {
            source: BufReader::with_capacity(CHUNK, source),
            offset: 0,
        }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Hands out the next bytes in pieces, at most `most` of them; the count is less only at the end.
    pub(super) fn feed(
        &mut self,
        most: u64,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, PayloadError> {
        let mut left = most;
        while left > 0 {
            let piece = match self.source.fill_buf() {
                Ok([]) => break,
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(self.offset, error)),
            };
            let piece = match usize::try_from(left) {
                Ok(left) => piece.get(..left).unwrap_or(piece),
                Err(_) => piece,
            };
            let count = piece.len();
            take(piece);
            self.source.consume(count);
            self.offset = self.offset.saturating_add(count as u64);
            left = left.saturating_sub(count as u64);
        }
        Ok(most - left)
    }

    /// Fills the buffer as far as there are bytes, and gives what was filled.
    pub(super) fn some<'b>(&mut self, buffer: &'b mut [u8]) -> Result<&'b [u8], PayloadError> {
        let most = buffer.len() as u64;
        let mut free = &mut *buffer;
        self.feed(most, &mut |piece| {
            // Never more than there is room for: `most` is its length.
            let _ = free.write(piece);
        })?;
        let left = free.len();
        Ok(buffer
            .get(..buffer.len().saturating_sub(left))
            .unwrap_or_default())
    }

    /// Fills the whole buffer; `place` says what ends where there are too few bytes.
    pub(super) fn exactly(&mut self, buffer: &mut [u8], place: &str) -> Result<(), PayloadError> {
        let wanted = buffer.len();
        match self.some(buffer)?.len() {
            got if got == wanted => Ok(()),
            _ => Err(self.ends_in(place)),
        }
    }

    /// Passes over bytes that must be there.
    pub(super) fn skip(&mut self, len: u64, place: &str) -> Result<(), PayloadError> {
        match self.feed(len, &mut |_| ())? {
            got if got == len => Ok(()),
            _ => Err(self.ends_in(place)),
        }
    }

    /// Reads to the end and gives the length of the payload.
    pub(super) fn finish(&mut self) -> Result<u64, PayloadError> {
        self.feed(u64::MAX, &mut |_| ())?;
        Ok(self.offset)
    }

    /// [`Self::finish`]; `end` bytes must have been there by then.
    pub(super) fn finish_after(&mut self, end: u64, place: &str) -> Result<u64, PayloadError> {
        match self.finish()? {
            total if total >= end => Ok(total),
            _ => Err(self.ends_in(place)),
        }
    }

    /// The extent from `start` to the end of a payload that was read to its end.
    pub(super) fn extent_from(&self, start: u64, part: &str) -> Extent {
        Extent::new(part, start, self.offset.saturating_sub(start))
    }

    /// The error of a payload that ends here.
    pub(super) fn ends_in(&self, place: &str) -> PayloadError {
        PayloadError::Truncated {
            offset: self.offset,
            place: place.to_owned(),
        }
    }
}

/// The first bytes of a source, fewer only where it ends; nothing beyond them is read.
pub(super) fn first(source: &mut dyn Read, count: usize) -> Result<Vec<u8>, PayloadError> {
    let mut bytes = Vec::with_capacity(count);
    match source.take(count as u64).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(failed(0, error)),
    }
}

/// The error of a payload that contradicts itself.
pub(super) fn damaged(offset: u64, place: &str, problem: impl Into<String>) -> PayloadError {
    PayloadError::Damaged {
        place: place.to_owned(),
        offset,
        problem: problem.into(),
    }
}

/// Tells a source that failed from a payload that is broken.
fn failed(offset: u64, error: io::Error) -> PayloadError {
    const PLACE: &str = "gzip stream";
    match error.downcast::<PlainError>() {
        Ok(PlainError::TooLarge { most }) => PayloadError::TooLarge { most },
        Ok(PlainError::Truncated) => PayloadError::Truncated {
            offset,
            place: PLACE.to_owned(),
        },
        Ok(PlainError::Damaged(source)) => damaged(offset, PLACE, source.to_string()),
        Ok(PlainError::Trailing) => damaged(offset, PLACE, "bytes follow it"),
        Err(source) => PayloadError::Source { offset, source },
    }
}

/// Fields of a header that is held whole. A field outside of it reads as 0, which no check lets
/// pass; the offsets are constants, so this does not happen.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let found = self.0.get(at..).and_then(<[u8]>::first_chunk);
        found.copied().unwrap_or([0; N])
    }

    pub(super) fn le16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    pub(super) fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    pub(super) fn le64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    pub(super) fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes(at))
    }
}
