//! Regular files and block devices.
//!
//! The device is read in chunks and compared with the image page by page; only runs of pages that
//! differ are written. Writing starts while the next chunk is hashed, and one sync ends it. The
//! cache is dropped before (a failed write of an earlier run can leave clean pages in the cache that
//! the medium never got) and after, so that what is read back comes from the medium.

use std::io::{Read, Write};
use std::path::Path;

use super::{Device, FlashError, Written};
use crate::board::BlockPlace;
use crate::files::{self, InPlace, below};

/// What is compared and written as one: the page size of the kernel's cache.
const PAGE: usize = 4096;

/// How much is pulled at a time. More saves system calls, less saves memory, of which two of these
/// are taken.
const CHUNK: usize = 256 << 10;

/// A regular file of fixed size, or a block device.
#[derive(Debug)]
pub struct BlockDevice {
    medium: InPlace,
}

impl BlockDevice {
    /// Opens for reading and writing.
    ///
    /// # Errors
    /// As [`InPlace::open`]: also when a block device is mounted.
    pub fn open(path: &Path) -> files::Result<Self> {
        Ok(Self {
            medium: InPlace::open(path)?,
        })
    }

    /// Finds and opens the device that a board file describes, in the system whose root is at `root`.
    ///
    /// # Errors
    /// When there is none, and as [`open`](Self::open).
    pub fn find(root: &Path, place: &BlockPlace) -> Result<Self, FlashError> {
        match &place.path {
            Some(path) => Ok(Self::open(&below(root, path))?),
            None => Err(FlashError::NotFound {
                name: "block device".to_owned(),
                problem: "only a path can be found yet".to_owned(),
            }),
        }
    }

    fn check_length(&self, len: u64) -> Result<(), FlashError> {
        if len <= self.capacity() {
            return Ok(());
        }
        Err(FlashError::TooLarge {
            name: self.medium.path().display().to_string(),
            capacity: self.capacity(),
            len,
        })
    }

    /// Writes the pages of `new` that differ from `old`, in runs. Returns the bytes written.
    fn write_changes(&self, new: &[u8], old: &[u8], offset: u64) -> Result<u64, FlashError> {
        let mut written = 0;
        let mut at = 0;
        while at < new.len() {
            let page_end = |at: usize| (at + PAGE).min(new.len());
            let differs = |at: usize| new[at..page_end(at)] != old[at..page_end(at)];
            let start = at;
            while at < new.len() && differs(at) {
                at = page_end(at);
            }
            if at > start {
                let position = offset + start as u64;
                self.medium.write_at(&new[start..at], position)?;
                self.medium.start_writeback(position, (at - start) as u64);
                written += (at - start) as u64;
            } else {
                at = page_end(at);
            }
        }
        Ok(written)
    }
}

impl Device for BlockDevice {
    fn capacity(&self) -> u64 {
        self.medium.len()
    }

    fn write_image(&mut self, source: &mut dyn Read, len: u64) -> Result<Written, FlashError> {
        self.check_length(len)?;
        self.medium.drop_cache()?;
        let mut new = vec![0; CHUNK];
        let mut old = vec![0; CHUNK];
        let mut result = Written::default();
        let mut offset = 0;
        while offset < len {
            let count = usize::try_from(len - offset).map_or(CHUNK, |rest| rest.min(CHUNK));
            source
                .read_exact(&mut new[..count])
                .map_err(FlashError::Source)?;
            self.medium.read_at(&mut old[..count], offset)?;
            let written = self.write_changes(&new[..count], &old[..count], offset)?;
            result.read += count as u64;
            result.written += written;
            result.unchanged += count as u64 - written;
            offset += count as u64;
        }
        self.medium.sync()?;
        self.medium.drop_cache()?;
        Ok(result)
    }

    fn read_image(&mut self, len: u64, sink: &mut dyn Write) -> Result<(), FlashError> {
        self.check_length(len)?;
        self.medium.drop_cache()?;
        let mut chunk = vec![0; CHUNK];
        let mut offset = 0;
        while offset < len {
            let count = usize::try_from(len - offset).map_or(CHUNK, |rest| rest.min(CHUNK));
            self.medium.read_at(&mut chunk[..count], offset)?;
            sink.write_all(&chunk[..count])
                .map_err(FlashError::Source)?;
            offset += count as u64;
        }
        Ok(())
    }
}
