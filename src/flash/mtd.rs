//! Raw NOR and NAND flash.
//!
//! An image is written erase block by erase block. A block that holds its bytes already is not
//! touched; any other is erased and programmed. On NAND, a block that fails is marked bad, and its
//! bytes and all that follow go one good block further, which is where readers look for them who
//! skip bad blocks, as the boot loaders do.
//!
//! ```text
//! part      | good | bad  | good | good | good | bad  | good |
//! image     |  0   |      |  1   |  2   |  3   |      | free |
//! 2 failed  |  0   |      |  1   | bad  |  2   |      |  3   |
//! ```
//!
//! After a cut, blocks of the image before the cut one have new bytes, those behind it old ones, and
//! the cut one has anything. There is no journal: the next run compares all of them again. The part
//! must not be booted meanwhile, which is for the boot loader's state to say; with `header_last` its
//! first block says it, too, being erased before any other changes and programmed behind all.

use std::io::{self, Read, Write};
use std::ops::Range;

use rustix::io::Errno;

use super::{Device, FlashError, Written};
use crate::board::MtdPlace;

/// The two kinds of raw flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes are programmed one by one, only from 1 to 0; no block is ever bad. RAM that behaves so, too.
    Nor,
    /// Pages are programmed whole, in order, once between two erases; blocks go bad.
    Nand,
}

/// Shape of an MTD. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Size of all of it, bad blocks included.
    pub size: u64,
    /// Size of an erase block. Not always a power of two.
    pub erase_size: u32,
    /// What is programmed at once: 1 on NOR, a page on NAND. Out-of-band bytes do not count.
    pub page_size: u32,
    /// So many corrected bits in what the chip corrects as one are a reason to write it again; 0 where
    /// nothing is corrected.
    pub bitflip_threshold: u32,
    /// False if the chip or the kernel refuses to write it.
    pub writable: bool,
}

/// An MTD: what the driver of a chip can do, and nothing more.
///
/// Offsets are from the begin of the MTD. What a real chip refuses is an error here, too.
pub trait RawMtd {
    /// Its shape.
    fn geometry(&self) -> &Geometry;

    /// True if the erase block at `offset` is marked bad.
    ///
    /// # Errors
    /// When the driver fails.
    fn is_bad(&mut self, offset: u64) -> io::Result<bool>;

    /// Marks the erase block at `offset` bad, for ever.
    ///
    /// # Errors
    /// When the driver fails.
    fn mark_bad(&mut self, offset: u64) -> io::Result<()>;

    /// Erases the erase block at `offset`: all its bits become 1.
    ///
    /// # Errors
    /// When the block does not take it any more, or the device is gone.
    fn erase(&mut self, offset: u64) -> io::Result<()>;

    /// Programs whole pages. `bytes` does not cross an erase block.
    ///
    /// # Errors
    /// As [`erase`](Self::erase); a part of it may have been programmed.
    fn program(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bytes`, past any cache, and says how many bits the chip has corrected in them.
    ///
    /// # Errors
    /// `EBADMSG` for bits that could not be corrected, others if the device is gone.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<u32>;
}

/// Offsets of the good erase blocks in `start..end`, which begins on an erase block; one that does not
/// end before `end` is left out.
///
/// # Errors
/// When the driver cannot say which are bad.
pub fn good_blocks(raw: &mut dyn RawMtd, start: u64, end: u64) -> io::Result<Vec<u64>> {
    let erase_size = u64::from(raw.geometry().erase_size);
    if erase_size == 0 {
        return Err(io::Error::other("its erase blocks have no size"));
    }
    let count = end.saturating_sub(start) / erase_size;
    let mut good = Vec::new();
    for offset in (0..count).map(|block| start + block * erase_size) {
        if !raw.is_bad(offset)? {
            good.push(offset);
        }
    }
    Ok(good)
}

/// So many blocks that fail one after the other are not worn out: the chip is write-protected, its
/// supply too low, or its driver lost, and each further one would be marked bad for ever and for
/// nothing. Data sheets allow 2 % bad blocks over the whole life of a chip: that four of one run fail by
/// chance is next to impossible. Should they be worn out all the same, each run gets past three.
pub(crate) const FAILURES_IN_A_ROW: u32 = 4;

/// A part on an MTD.
///
/// The image lies in the good erase blocks of the part, in order; bad ones are skipped, and
/// out-of-band bytes are the driver's own: the layout of `nandwrite` and of
/// `nanddump --bb=skipbad`, which boot loaders read.
pub struct MtdDevice {
    raw: Box<dyn RawMtd>,
    /// The MTD, as errors name it.
    name: String,
    /// Offsets of the good erase blocks, ascending.
    blocks: Vec<u64>,
    /// How many erase blocks the part has, good and bad.
    total: u64,
    header_last: bool,
}

impl MtdDevice {
    /// Looks at the part, and counts its bad blocks.
    ///
    /// # Errors
    /// When the place is not on erase blocks of the MTD, is read-only, or cannot be looked at.
    pub fn new(mut raw: Box<dyn RawMtd>, place: &MtdPlace) -> Result<Self, FlashError> {
        let geometry = raw.geometry().clone();
        let name = format!("mtd {}", geometry.name);
        if !geometry.writable {
            return Err(FlashError::ReadOnly { name });
        }
        let unusable = |problem| FlashError::Unusable {
            name: name.clone(),
            problem,
            source: None,
        };
        let (erase_size, page_size) = (geometry.erase_size, geometry.page_size);
        if erase_size == 0 || page_size == 0 || !erase_size.is_multiple_of(page_size) {
            return Err(unusable(format!(
                "its erase blocks of {erase_size} bytes are not made of pages of {page_size}"
            )));
        }
        let start = place.offset;
        let size = place
            .size
            .unwrap_or_else(|| geometry.size.saturating_sub(start));
        let Some(end) = start
            .checked_add(size)
            .filter(|end| start <= geometry.size && *end <= geometry.size)
        else {
            return Err(unusable(format!(
                "the part of {size:#x} bytes at {start:#x} is not inside its {:#x}",
                geometry.size
            )));
        };
        for (what, number) in [("begins at", start), ("has", size)] {
            if !number.is_multiple_of(u64::from(erase_size)) {
                return Err(unusable(format!(
                    "the part {what} {number:#x}, which is no multiple of the erase block, {erase_size:#x}"
                )));
            }
        }
        let blocks = good_blocks(raw.as_mut(), start, end).map_err(|source| FlashError::Flash {
            verb: "look for bad blocks of",
            name: name.clone(),
            offset: start,
            source,
        })?;
        Ok(Self {
            raw,
            name,
            blocks,
            total: size / u64::from(erase_size),
            header_last: place.header_last,
        })
    }

    fn check_length(&self, len: u64) -> Result<(), FlashError> {
        if len <= self.capacity() {
            return Ok(());
        }
        Err(FlashError::TooLarge {
            name: self.name.clone(),
            capacity: self.capacity(),
            len,
        })
    }

    /// An erase block of bytes.
    fn buffer(&self) -> Vec<u8> {
        vec![0; self.raw.geometry().erase_size as usize]
    }

    fn failed(&self, verb: &'static str, offset: u64, source: io::Error) -> FlashError {
        FlashError::Flash {
            verb,
            name: self.name.clone(),
            offset,
            source,
        }
    }
}

impl Device for MtdDevice {
    fn capacity(&self) -> u64 {
        self.blocks.len() as u64 * u64::from(self.raw.geometry().erase_size)
    }

    fn write_image(
        &mut self,
        source: &mut dyn Read,
        len: u64,
        _proof: Option<&mut dyn Write>,
    ) -> Result<Written, FlashError> {
        self.check_length(len)?;
        let mut new = self.buffer();
        let mut pass = Pass::over(self);
        let mut rest = len;
        while rest > 0 {
            let count = at_most(&new, rest);
            source
                .read_exact(&mut new[..count])
                .map_err(FlashError::Source)?;
            rest -= count as u64;
            if pass.device.header_last && pass.header.is_none() {
                pass.keep_header(&new[..count])?;
            } else {
                pass.put(&new[..count])?;
            }
        }
        pass.put_header()?;
        Ok(pass.done)
    }

    fn read_image(
        &mut self,
        Range { mut start, end }: Range<u64>,
        sink: &mut dyn Write,
    ) -> Result<(), FlashError> {
        self.check_length(end)?;
        let mut bytes = self.buffer();
        let mut block_end = 0;
        for &block in &self.blocks {
            let block_start = block_end;
            block_end += bytes.len() as u64;
            if (start..end).is_empty() || block_end <= start {
                continue;
            }
            let offset = block + (start - block_start);
            let piece = at_most(&bytes, end.min(block_end) - start);
            let bytes = &mut bytes[..piece];
            self.raw
                .read(offset, bytes)
                .map_err(|source| self.failed("read", offset, source))?;
            sink.write_all(bytes).map_err(FlashError::Source)?;
            start += piece as u64;
        }
        Ok(())
    }
}

/// How much of `buffer` the next part of `rest` bytes fills.
fn at_most(buffer: &[u8], rest: u64) -> usize {
    usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()))
}

/// One writing of a part. Holds two erase blocks of memory with the caller's, three if the header
/// comes last.
struct Pass<'a> {
    device: &'a mut MtdDevice,
    /// Which of the good blocks is next.
    next: usize,
    /// What the medium has, to compare with.
    old: Vec<u8>,
    header: Option<Header>,
    failures_in_a_row: u32,
    done: Written,
}

/// The first block of an image, while the others are written.
struct Header {
    bytes: Vec<u8>,
    medium: HeaderOnMedium,
}

/// What the medium has in the place of the first block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderOnMedium {
    Same,
    Different,
    /// Erased in this pass.
    Erased,
}

/// Erase or program did not work.
struct Failure {
    verb: &'static str,
    source: io::Error,
}

impl<'a> Pass<'a> {
    fn over(device: &'a mut MtdDevice) -> Self {
        Self {
            next: 0,
            old: device.buffer(),
            header: None,
            failures_in_a_row: 0,
            done: Written::default(),
            device,
        }
    }

    /// Makes the next good block hold `new`; the one after it if it goes bad, and so on. What comes
    /// after a block that went bad is compared where it now belongs.
    fn put(&mut self, new: &[u8]) -> Result<(), FlashError> {
        loop {
            let Some(&offset) = self.device.blocks.get(self.next) else {
                return Err(FlashError::WornOut {
                    name: self.device.name.clone(),
                    bad: self.device.total - self.device.blocks.len() as u64,
                });
            };
            if self.holds(offset, new)? {
                self.done.unchanged += new.len() as u64;
                break;
            }
            self.erase_header()?;
            match self.replace(offset, new) {
                Ok(()) => break,
                Err(failure) => {
                    self.retire(self.next, failure)?;
                }
            }
        }
        self.next += 1;
        Ok(())
    }

    /// Takes the first block of the image, to be written when all others are. It belongs in the first
    /// good block: there is one, since the image fits, and it stays the first until the header is lost.
    fn keep_header(&mut self, new: &[u8]) -> Result<(), FlashError> {
        let first = self.device.blocks[0];
        let medium = match self.holds(first, new)? {
            true => HeaderOnMedium::Same,
            false => HeaderOnMedium::Different,
        };
        self.header = Some(Header {
            bytes: new.to_vec(),
            medium,
        });
        self.next = 1;
        Ok(())
    }

    /// Erases the header before another block is changed: from then on, and through every cut, a boot
    /// loader that looks at nothing else finds no image here.
    fn erase_header(&mut self) -> Result<(), FlashError> {
        match &mut self.header {
            Some(header) if header.medium != HeaderOnMedium::Erased => {
                header.medium = HeaderOnMedium::Erased;
            }
            _ => return Ok(()),
        }
        self.erase(self.device.blocks[0])
            .or_else(|failure| self.lose_header(failure))
    }

    /// Writes the header, as the last block.
    fn put_header(&mut self) -> Result<(), FlashError> {
        let Some(Header { bytes, medium }) = self.header.take() else {
            return Ok(());
        };
        let first = self.device.blocks[0];
        match medium {
            HeaderOnMedium::Same => {
                self.done.unchanged += bytes.len() as u64;
                return Ok(());
            }
            HeaderOnMedium::Different => self.erase(first),
            HeaderOnMedium::Erased => Ok(()),
        }
        .and_then(|()| self.program_header(first, &bytes))
        .or_else(|failure| self.lose_header(failure))
    }

    /// Programs the erased block of the header. On NOR its first byte is the last, without which there is
    /// no magic number. NAND wants its pages in order: a cut between two of them leaves a header
    /// before a torn first block, which only a checksum or the boot loader's state tells.
    fn program_header(&mut self, offset: u64, new: &[u8]) -> Result<(), Failure> {
        let geometry = self.device.raw.geometry();
        let first = match geometry.kind {
            Kind::Nor => at_most(new, u64::from(geometry.page_size)),
            Kind::Nand => 0,
        };
        self.program(offset + first as u64, &new[first..])?;
        self.program(offset, &new[..first])
    }

    /// The block of the header went bad. All blocks would have to move by one, and their bytes have
    /// gone by: the next run finds the block marked, and writes them where they belong.
    fn lose_header(&mut self, failure: Failure) -> Result<(), FlashError> {
        let offset = self.device.blocks[0];
        let source = self.retire(0, failure)?;
        Err(FlashError::Unusable {
            name: self.device.name.clone(),
            problem: format!(
                "its first block, at {offset:#x}, went bad and is marked so; run again to write all blocks one further"
            ),
            source: Some(source),
        })
    }

    /// True if the block at `offset` has `new`, and not so weakly that it should be written again.
    ///
    /// A page whose program was cut may be read right once, and wrong another day. What shows it are
    /// bits that the chip corrects: a block with a page that needs as many as the driver's
    /// threshold, or more than can be corrected, is not good enough. The threshold is meant for what is
    /// corrected as one, of which a page has several, so this errs towards writing.
    ///
    /// What reads right without a corrected bit is believed. That covers less than certainty: a cut
    /// can leave cells so near the edge that one reading succeeds, on NOR without any sign, and a block
    /// of the image that is all 0xff passes where an erase was cut. The first is read once more
    /// by [`read_image`](Device::read_image), and by the boot loader; into the second nothing is
    /// programmed here, and UBI erases such a block before it uses it.
    fn holds(&mut self, offset: u64, new: &[u8]) -> Result<bool, FlashError> {
        let threshold = self.device.raw.geometry().bitflip_threshold;
        let Some(corrected) = self.read(offset, new.len())? else {
            return Ok(false);
        };
        if self.old[..new.len()] != *new {
            return Ok(false);
        }
        if threshold == 0 || corrected < threshold {
            return Ok(true);
        }
        let page_size = self.device.raw.geometry().page_size as usize;
        for (at, page) in (offset..).step_by(page_size).zip(new.chunks(page_size)) {
            match self.read(at, page.len())? {
                Some(corrected) if corrected < threshold && self.old[..page.len()] == *page => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reads into the begin of `old`, and says how many bits were corrected; `None` if they were too
    /// many.
    fn read(&mut self, offset: u64, len: usize) -> Result<Option<u32>, FlashError> {
        self.done.read += len as u64;
        match self.device.raw.read(offset, &mut self.old[..len]) {
            Ok(corrected) => Ok(Some(corrected)),
            Err(error) if is(&error, Errno::BADMSG) => Ok(None),
            Err(error) => Err(self.device.failed("read", offset, error)),
        }
    }

    /// Erases the block at `offset` and programs it.
    ///
    /// It is erased whatever it reads as, also where clearing bits would do: a block whose erase was
    /// cut may read as all 0xff and not keep what is programmed into it, on NOR as on NAND. (That is
    /// why JFFS2 marks the blocks that it has seen erased to the end.)
    fn replace(&mut self, offset: u64, new: &[u8]) -> Result<(), Failure> {
        self.erase(offset)?;
        self.program(offset, new)
    }

    fn erase(&mut self, offset: u64) -> Result<(), Failure> {
        self.device.raw.erase(offset).map_err(|source| Failure {
            verb: "erase",
            source,
        })?;
        self.done.erased += 1;
        Ok(())
    }

    /// Programs a part of an erased block. Pages of 0xff are left as the erase made them, so that they can be
    /// programmed once more: UBI does that with the free pages of an image of its own. The rest of
    /// the last page is filled with 0xff. On NOR, all goes in one piece.
    fn program(&mut self, offset: u64, new: &[u8]) -> Result<(), Failure> {
        let geometry = self.device.raw.geometry();
        let page_size = geometry.page_size as usize;
        let piece = match geometry.kind {
            Kind::Nor => self.old.len(),
            Kind::Nand => page_size,
        };
        // The compared bytes have done their duty; their buffer has room for the padding.
        let padded = new.len().next_multiple_of(page_size);
        self.old[..new.len()].copy_from_slice(new);
        self.old[new.len()..padded].fill(0xff);

        let mut at = 0;
        while at < padded {
            let used = |at: usize| {
                at < padded
                    && self.old[at..padded.min(at + piece)]
                        .iter()
                        .any(|&byte| byte != 0xff)
            };
            let start = at;
            while used(at) {
                at = padded.min(at + piece);
            }
            if at == start {
                at += piece;
                continue;
            }
            self.device
                .raw
                .program(offset + start as u64, &self.old[start..at])
                .map_err(|source| Failure {
                    verb: "program",
                    source,
                })?;
        }
        self.failures_in_a_row = 0;
        self.done.written += new.len() as u64;
        Ok(())
    }

    /// Takes a good block that failed out of use, for ever, and says why it failed. Fails itself if it
    /// is not the block that did.
    ///
    /// Power may go before it is marked: it then holds anything, differs from the image, and fails again
    /// or does not.
    fn retire(&mut self, index: usize, failure: Failure) -> Result<io::Error, FlashError> {
        let Failure { verb, source } = failure;
        let offset = self.device.blocks[index];
        // EIO is the status that the chip itself gives: see nand_erase_nand() and
        // nand_write_page() of drivers/mtd/nand/raw/nand_base.c. ENODEV, ETIMEDOUT, EROFS and others
        // tell nothing of this block.
        if self.device.raw.geometry().kind == Kind::Nor || !is(&source, Errno::IO) {
            return Err(self.device.failed(verb, offset, source));
        }
        self.failures_in_a_row += 1;
        if self.failures_in_a_row == FAILURES_IN_A_ROW {
            return Err(FlashError::Unusable {
                name: self.device.name.clone(),
                problem: format!(
                    "{FAILURES_IN_A_ROW} blocks failed in a row, up to {offset:#x}: not they, the chip or its supply"
                ),
                source: Some(source),
            });
        }
        log::debug!(
            "{}: cannot {verb} block {offset:#x}: {source}",
            self.device.name
        );
        if verb == "program" {
            // Half an image's block is not to be found by who scans the chip. Not even a bad block
            // needs this to work.
            let _ = self.device.raw.erase(offset);
        }
        self.device
            .raw
            .mark_bad(offset)
            .map_err(|source| self.device.failed("mark as bad a block of", offset, source))?;
        self.device.blocks.remove(index);
        self.done.gone_bad += 1;
        Ok(source)
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
