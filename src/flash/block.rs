//! Regular files and block devices.
//!
//! The device is read in chunks and compared with the image page by page; only runs of pages that
//! differ are written. Writing starts while the next chunk is hashed, and one sync ends it; a write
//! that the cache took and the medium did not is an error there. The cache is dropped before: a failed
//! write of an earlier run can leave clean pages in the cache that the medium never got.
//!
//! What the medium has is read back past the cache, by `O_DIRECT`, a little behind what is written, as long
//! as the medium is the slow one: it has something to do then while the processor hashes. The rest, which is
//! all of it where `O_DIRECT` is unknown, is read afterwards through a cache that was dropped, where the kernel
//! reads ahead.
//!
//! The kernel keeps eMMC boot partitions read-only until somebody writes 0 to `force_ro`. This is done
//! when they are first written, and undone when the device is dropped; after a power cut the kernel
//! begins with 1 again.

mod find;

use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::{Device, FlashError, Written};
use crate::board::BlockPlace;
use crate::files::{self, FileError, InPlace};

/// What is compared and written as one: the page size of the kernel's cache.
const PAGE: usize = 4096;

/// How much is pulled at a time, and written as one where all of it differs. More saves system calls,
/// less saves memory, of which two of these are taken.
const CHUNK: usize = 256 << 10;

/// How much there is to be written back before the medium is set to work, and how much is read back as one.
const BATCH: usize = 2 * CHUNK;

/// How much the medium is left to write while what it wrote before is read back. At 20 MB/s this keeps it busy
/// for 0.1 s, as long as a control group's limit may keep this process from the processor.
const LEFT_TO_WRITE: u64 = 2 << 20;

/// A process that has worked for more than this part of the time, instead of waiting for the image or the medium,
/// has no time to spare: waiting for what it reads back would cost some, and afterwards the kernel reads ahead.
const BUSY: u32 = 5;

/// When that is looked at first; then after twice the time, and so on.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// A regular file of fixed size, or a block device.
#[derive(Debug)]
pub struct BlockDevice {
    // Closed before it is protected again: fields go in this order.
    medium: InPlace,
    /// Its directory in sysfs.
    sysfs: Option<PathBuf>,
    force_ro: Option<ForceRo>,
    discard: bool,
}

impl BlockDevice {
    /// Opens for reading and writing.
    ///
    /// # Errors
    /// As [`InPlace::open`]; [`FlashError::Busy`] when a block device is mounted.
    pub fn open(path: &Path) -> Result<Self, FlashError> {
        Ok(Self {
            medium: open_for_writing(path)?,
            sysfs: None,
            force_ro: None,
            discard: false,
        })
    }

    /// Finds and opens the device that a board file describes, in the system whose root is at `root`.
    /// Nothing is changed.
    ///
    /// # Errors
    /// When there is none or more than one, when it is read-only, and as [`open`](Self::open). Whether
    /// an eMMC boot partition is in use shows when it is written.
    pub fn find(root: &Path, place: &BlockPlace) -> Result<Self, FlashError> {
        let find::Node { path, sysfs } = find::find(root, place)?;
        let is_set = |name| match &sysfs {
            Some(sysfs) => Ok(find::number_of(sysfs, name)? == Some(1)),
            None => files::Result::Ok(false),
        };
        let force_ro = match &sysfs {
            Some(sysfs) => ForceRo::of(sysfs)?,
            None => None,
        };
        if force_ro.is_none() && is_set("ro")? {
            let name = path.display().to_string();
            return Err(FlashError::ReadOnly { name });
        }
        let medium = match force_ro {
            Some(_) => InPlace::open_read_only(&path)?,
            None => open_for_writing(&path)?,
        };
        Ok(Self {
            medium,
            sysfs,
            force_ro,
            discard: place.discard,
        })
    }

    /// Lets an eMMC boot partition be written.
    fn make_writable(&mut self) -> Result<(), FlashError> {
        if let Some(force_ro) = &mut self.force_ro
            && !force_ro.lifted
        {
            force_ro.lift()?;
            self.medium = open_for_writing(self.medium.path())?;
        }
        Ok(())
    }

    /// Tells the device that nobody needs what follows the image. Only a hint, and none to a device that
    /// does not want it: whatever fails here, the image is there.
    fn discard_after(&self, len: u64) {
        let discarded = self.discardable(len).map(|range| {
            let len = range.end - range.start;
            self.medium.discard(range.start, len)
        });
        if let Some(Err(error)) = discarded {
            log::debug!("{error}: {}", error.source);
        }
    }

    /// What a device that wants to be told need not keep any more.
    fn discardable(&self, len: u64) -> Option<Range<u64>> {
        let sysfs = self.sysfs.as_ref().filter(|_| self.discard)?;
        let queue = find::queue(sysfs)?;
        let number = |directory, name| find::number_of(directory, name).ok().flatten();
        number(&queue, "discard_max_bytes").filter(|max| *max > 0)?;
        let granularity = number(&queue, "discard_granularity")?;
        let alignment = number(sysfs, "discard_alignment").unwrap_or_default();
        whole_units(len..self.capacity(), granularity, alignment)
    }

    /// An error of the medium in words that lead on.
    fn explain(&self, error: FlashError) -> FlashError {
        let FlashError::Medium(FileError { verb, path, source }) = error else {
            return error;
        };
        let errno = Errno::from_io_error(&source);
        let has_left = self.sysfs.as_ref().is_some_and(|sysfs| !sysfs.exists());
        if matches!(errno, Some(Errno::NXIO | Errno::NODEV)) || has_left {
            return FlashError::Unusable {
                name: path.display().to_string(),
                problem: "it has gone away in the middle of the work".to_owned(),
                source: Some(source),
            };
        }
        FlashError::Medium(FileError { verb, path, source })
    }

    fn write_all(
        &self,
        source: &mut dyn Read,
        len: u64,
        proof: Option<&mut dyn Write>,
    ) -> Result<Written, FlashError> {
        self.medium.drop_cache()?;
        let mut buffer = Buffer::new();
        let mut proof = proof.map(|sink| Proof::of(&self.medium, sink));
        let mut result = Written::default();
        let mut offset = 0;
        let mut started = 0;
        while offset < len {
            let count = at_most(CHUNK, len - offset);
            let (new, old) = buffer.pages().split_at_mut(CHUNK);
            let (new, old) = (&mut new[..count], &mut old[..count]);
            source.read_exact(new).map_err(FlashError::Source)?;
            self.medium.read_at(old, offset)?;
            let written = self.write_changes(new, old, offset)?;
            result.read += count as u64;
            result.written += written;
            result.unchanged += count as u64 - written;
            offset += count as u64;
            if offset - started >= BATCH as u64 {
                self.medium.start_writeback(started, offset - started);
                started = offset;
            }
            if let Some(proof) = &mut proof {
                proof.follow(offset, buffer.pages())?;
            }
        }
        self.medium.sync()?;
        self.discard_after(len);
        self.medium.drop_cache()?;
        Ok(result)
    }

    fn read_all(
        &self,
        Range { mut start, end }: Range<u64>,
        sink: &mut dyn Write,
    ) -> Result<(), FlashError> {
        self.medium.drop_cache()?;
        let mut buffer = Buffer::new();
        while start < end {
            let batch = &mut buffer.pages()[..at_most(BATCH, end - start)];
            self.medium.read_at(batch, start)?;
            sink.write_all(batch).map_err(FlashError::Source)?;
            start += batch.len() as u64;
        }
        Ok(())
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
            let differs = |at: usize| !same(&new[at..page_end(at)], &old[at..page_end(at)]);
            let start = at;
            while at < new.len() && differs(at) {
                at = page_end(at);
            }
            if at > start {
                self.medium
                    .write_at(&new[start..at], offset + start as u64)?;
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

    fn write_image(
        &mut self,
        source: &mut dyn Read,
        len: u64,
        proof: Option<&mut dyn Write>,
    ) -> Result<Written, FlashError> {
        self.check_length(len)?;
        self.make_writable()?;
        self.write_all(source, len, proof)
            .map_err(|error| self.explain(error))
    }

    fn read_image(&mut self, range: Range<u64>, sink: &mut dyn Write) -> Result<(), FlashError> {
        self.check_length(range.end)?;
        self.read_all(range, sink)
            .map_err(|error| self.explain(error))
    }
}

/// What the medium has, read past the cache while more is written.
struct Proof<'a> {
    /// `None` once it is not to be read so, or cannot be.
    medium: Option<InPlace>,
    sink: &'a mut dyn Write,
    done: u64,
    begin: Instant,
    worked_before: Duration,
    next_look: Duration,
}

impl<'a> Proof<'a> {
    fn of(medium: &InPlace, sink: &'a mut dyn Write) -> Self {
        Self {
            medium: medium.open_direct().ok(),
            sink,
            done: 0,
            begin: Instant::now(),
            worked_before: processor_time(),
            next_look: FIRST_LOOK,
        }
    }

    /// Reads a batch, if so much has been written up to `offset` that the medium has something left to do.
    fn follow(&mut self, offset: u64, batch: &mut [u8]) -> Result<(), FlashError> {
        let len = batch.len() as u64;
        let Some(medium) = &self.medium else {
            return Ok(());
        };
        if offset - self.done < LEFT_TO_WRITE + len {
            return Ok(());
        }
        if let Err(error) = medium.read_at(batch, self.done) {
            // If it was a write that failed, the sync tells.
            log::debug!("past the cache: {error}: {}", error.source);
            self.medium = None;
            return Ok(());
        }
        self.done += len;
        self.sink.write_all(batch).map_err(FlashError::Source)?;
        self.look();
        Ok(())
    }

    /// Leaves the rest for afterwards if there is no time to spare.
    fn look(&mut self) {
        let passed = self.begin.elapsed();
        if passed < self.next_look {
            return;
        }
        self.next_look = passed * 2;
        let worked = processor_time().saturating_sub(self.worked_before);
        if worked > passed / BUSY {
            self.medium = None;
        }
    }
}

/// What this process has had of the processor.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime)
        .try_into()
        .unwrap_or_default()
}

/// A batch of bytes that begins at a page, as reads past the cache want it.
struct Buffer(Vec<u8>);

impl Buffer {
    fn new() -> Self {
        Self(vec![0; BATCH + PAGE])
    }

    fn pages(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(PAGE).min(PAGE);
        &mut self.0[start..start + BATCH]
    }
}

/// What is left, or as much as there is room for.
fn at_most(room: usize, left: u64) -> usize {
    usize::try_from(left).map_or(room, |left| left.min(room))
}

/// True if two pages are the same. In words, since the C library of routers, musl, compares bytes one by
/// one: that takes half as long as to hash them, where the processor has instructions for SHA-256.
fn same(one: &[u8], other: &[u8]) -> bool {
    let (words, rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    let mut pairs = words.iter().zip(other_words);
    pairs.all(|(one, other)| word(one) == word(other)) && rest == other_rest
}

/// The node of the device that a board file describes, in the system whose root is at `root`.
pub(super) fn path_of(root: &Path, place: &BlockPlace) -> Result<PathBuf, FlashError> {
    find::find(root, place).map(|node| node.path)
}

fn open_for_writing(path: &Path) -> Result<InPlace, FlashError> {
    InPlace::open(path).map_err(|error| match error.source.kind() {
        io::ErrorKind::ResourceBusy => FlashError::Busy {
            name: path.display().to_string(),
            source: Some(error.source),
        },
        _ => error.into(),
    })
}

/// What of `range` consists of whole units of `granularity` bytes, of which one begins at `alignment`.
fn whole_units(range: Range<u64>, granularity: u64, alignment: u64) -> Option<Range<u64>> {
    if granularity == 0 {
        return None;
    }
    let first = range.start.saturating_sub(alignment).div_ceil(granularity);
    let end = range.end.saturating_sub(alignment) / granularity;
    (first < end).then(|| alignment + first * granularity..alignment + end * granularity)
}

/// The write protection of an eMMC boot partition that the kernel itself has put on
/// (Documentation/driver-api/mmc/mmc-dev-parts.rst). It is put on again when this is dropped; who has
/// the device open for writing is to close it before.
#[derive(Debug)]
pub(crate) struct ForceRo {
    attribute: PathBuf,
    lifted: bool,
}

impl ForceRo {
    /// That of the device whose node is at `path`, in the system whose root is at `root`; nothing if it
    /// has none, or it is not on.
    pub(crate) fn at(root: &Path, path: &Path) -> files::Result<Option<Self>> {
        match find::sysfs_of(root, path)? {
            Some(sysfs) => Self::of(&sysfs),
            None => Ok(None),
        }
    }

    /// The same for the device with this directory in sysfs.
    fn of(sysfs: &Path) -> files::Result<Option<Self>> {
        let is_on = find::number_of(sysfs, "force_ro")? == Some(1);
        Ok(is_on.then(|| Self {
            attribute: sysfs.join("force_ro"),
            lifted: false,
        }))
    }

    pub(crate) fn lift(&mut self) -> files::Result<()> {
        self.set(b"0")?;
        self.lifted = true;
        Ok(())
    }

    fn set(&self, value: &[u8]) -> files::Result<()> {
        InPlace::open(&self.attribute)?.write_at(value, 0)
    }
}

impl Drop for ForceRo {
    fn drop(&mut self) {
        if self.lifted
            && let Err(error) = self.set(b"1")
        {
            log::debug!("{error}: {}", error.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_the_same_only_if_every_byte_is() {
        for len in [4096, 4095, 9, 8, 7, 1, 0] {
            let page = vec![0x5a; len];
            assert!(same(&page, &page.clone()), "{len}");
            for at in 0..len {
                let mut other = page.clone();
                other[at] ^= 0x80;
                assert!(!same(&page, &other), "byte {at} of {len}");
            }
        }
    }

    #[test]
    fn only_whole_units_after_the_image_are_discarded() {
        assert_eq!(whole_units(10..100, 16, 0), Some(16..96));
        assert_eq!(whole_units(16..96, 16, 0), Some(16..96));
        assert_eq!(whole_units(17..96, 16, 0), Some(32..96));
        assert_eq!(whole_units(10..100, 16, 4), Some(20..100));
        assert_eq!(whole_units(0..100, 16, 4), Some(4..100));
        for nothing in [90..95, 81..96, 96..96] {
            assert_eq!(whole_units(nothing.clone(), 16, 0), None, "{nothing:?}");
        }
        assert_eq!(whole_units(0..3, 16, 4), None);
        assert_eq!(whole_units(10..100, 0, 0), None);
    }
}
