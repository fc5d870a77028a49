//! Reading an image, once, from front to back.
//!
//! [`Unverified`] holds the head and will not read on. [`Verified`] walks the members in the order
//! of the manifest; CONTROL and the block tables are read and checked on the way. What a reader
//! hands out was hashed before, block by block; after the first error it hands out nothing more,
//! and neither does the image: a member that was not read to its good end cannot be stepped over.
//!
//! Of a source that has ranges ([`Ranged`]), not every block need come: what the machine has already
//! ([`AtHand`]) is passed over. What it has is a guess until it was hashed, as all else. Stretches that are missing
//! are asked for as a whole:
//!
//! ```text
//! at hand  |XXXX|    |XXXX|XXXX|    |    |XXXX|    |
//! asked    |    |....|    |    |...................|     the last gap is shorter than a request is worth
//! ```

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use flate2::{Decompress, FlushDecompress, Status};

use super::blocks::{BlockTable, Entry};
use super::error::ImageError;
use super::header::{self, Fields, Kind, TAR_BLOCK};
use super::manifest::{Encoding, Manifest, MemberInfo, PartInfo};
use super::{MANIFEST, MAX_MANIFEST, MAX_SIGNATURES, MAX_TRAILING, SIGNATURES, directory};
use crate::digest::{Digest, Hasher};
use crate::report::printable;
use crate::trust::Trust;
use crate::trust::usign::{KeyId, Signature};

/// How the name of every image's directory begins.
const DIRECTORY_PREFIX: &str = "sysupgrade-";

const DIRECTORY: &str = "the directory";
const END: &str = "the end of the image";

/// What is at hand and shorter than this is fetched with what is before and behind it: a request costs a
/// round trip, and more of a connection that has to get up to speed.
pub const SHORTEST_GAP: u64 = 64 << 10;

/// At most so much is asked for at once: before that it is looked through for what is at hand, and the
/// connection waits.
const LONGEST_RUN: u64 = 16 << 20;

/// A source of which stretches can be asked for.
pub trait Ranged: Read {
    /// False if this one has to be read from its first byte to its last.
    fn has_ranges(&self) -> bool;

    /// Passes over everything up to the begin of a stretch, which is not before what was read last.
    /// What is behind its end is not asked for until somebody reads it.
    fn go(&mut self, stretch: Range<u64>);
}

/// Where a block is that need not be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the slot that is written, where it belongs.
    Target,
    /// Anywhere in the slot that runs.
    Running,
}

/// The blocks that a machine has.
pub trait AtHand: fmt::Debug {
    /// Fills `block` with what a place has for the block with this digest, at `offset` of a part;
    /// false if it has nothing. It is hashed before it is made use of: a wrong guess costs time.
    fn guess(
        &mut self,
        place: Place,
        part: &str,
        offset: u64,
        digest: &Digest,
        block: &mut [u8],
    ) -> bool;
}

/// Where the bytes of an image came from, or would come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of the image that its source gave.
    pub fetched: u64,
    /// Bytes of parts, as they are on the medium, that were in their place.
    pub in_place: u64,
    /// The same, from the slot that runs.
    pub copied: u64,
}

impl Tally {
    fn found(&mut self, place: Place, len: u64) {
        match place {
            Place::Target => self.in_place += len,
            Place::Running => self.copied += len,
        }
    }
}

/// The bytes of the image, counted.
#[derive(Debug)]
pub(super) struct Source<R> {
    pub(super) inner: R,
    offset: u64,
    /// For a source that has ranges.
    go: Option<fn(&mut R, Range<u64>)>,
    /// Bytes were passed over of which the source does not know yet.
    passed: bool,
    tally: Tally,
}

impl<R> Source<R> {
    /// Asks for what is read next, if the source can be asked.
    fn need(&mut self, len: u64) {
        if let Some(go) = self.go {
            go(
                &mut self.inner,
                self.offset..self.offset.saturating_add(len),
            );
            self.passed = false;
        }
    }

    /// Passes over bytes; for a source that has ranges.
    fn pass(&mut self, len: u64) {
        self.offset += len;
        self.passed = true;
    }
}

impl<R: Read> Source<R> {
    /// Reads until the buffer is full or the source ends; returns how much that was.
    fn read_up_to(&mut self, bytes: &mut [u8]) -> Result<usize, ImageError> {
        if self.passed {
            self.need(u64::MAX);
        }
        let mut done = 0;
        while done < bytes.len() {
            match self.inner.read(&mut bytes[done..]) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    self.offset += count as u64;
                    self.tally.fetched += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset;
                    return Err(ImageError::Source { offset, source });
                }
            }
        }
        Ok(done)
    }

    /// Fills the buffer, or fails.
    fn fill(&mut self, bytes: &mut [u8], member: &str) -> Result<(), ImageError> {
        if self.read_up_to(bytes)? == bytes.len() {
            return Ok(());
        }
        Err(ImageError::Truncated {
            offset: self.offset,
            member: member.to_owned(),
        })
    }

    fn damaged(&self, member: &str, problem: &'static str) -> ImageError {
        ImageError::Damaged {
            member: member.to_owned(),
            offset: self.offset,
            problem,
        }
    }

    /// Reads one tar header; `wanted` is what belongs there, for messages.
    fn header(&mut self, wanted: &str) -> Result<Fields, ImageError> {
        let mut block = [0; TAR_BLOCK];
        self.fill(&mut block, wanted)?;
        if block == [0; TAR_BLOCK] {
            return Err(ImageError::UnexpectedMember {
                found: END.to_owned(),
                wanted: wanted.to_owned(),
            });
        }
        header::parse(&block).map_err(|problem| self.damaged(wanted, problem))
    }

    /// Reads the header of a file; its name must be this one. Returns its size.
    fn file_header(&mut self, directory: &str, name: &str) -> Result<u64, ImageError> {
        let fields = self.header(name)?;
        let found = fields.name.strip_prefix(directory);
        if fields.kind != Kind::File || found != Some(name) {
            return Err(ImageError::UnexpectedMember {
                found: printable(&fields.name),
                wanted: name.to_owned(),
            });
        }
        Ok(fields.size)
    }

    /// Reads the zeros after a content.
    fn padding(&mut self, size: u64, member: &str) -> Result<(), ImageError> {
        let mut zeros = [0; TAR_BLOCK];
        let zeros = &mut zeros[..header::padding(size)];
        self.fill(zeros, member)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(self.damaged(member, "the padding after it is not zero"));
        }
        Ok(())
    }

    /// Reads a whole member of the head, which nothing has announced.
    fn head_member(
        &mut self,
        directory: &str,
        name: &str,
        most: u64,
    ) -> Result<Vec<u8>, ImageError> {
        let size = self.file_header(directory, name)?;
        if size > most {
            return Err(ImageError::TooLong {
                member: name.to_owned(),
                found: size,
                most,
            });
        }
        self.contents(size, name)
    }

    /// Reads a content whose length was found to be bounded, and its padding.
    fn contents(&mut self, size: u64, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = vec![0; len(size)];
        self.fill(&mut bytes, name)?;
        self.padding(size, name)?;
        Ok(bytes)
    }
}

/// A length that was found to be at most a few MiB, as the machine counts.
fn len(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn check_digest(member: &str, found: Digest, wanted: Digest) -> Result<(), ImageError> {
    if found == wanted {
        return Ok(());
    }
    Err(ImageError::Digest {
        member: member.to_owned(),
        found,
        wanted,
    })
}

/// The head of an image: bytes that somebody claims to have signed.
#[derive(Debug)]
pub struct Unverified<R> {
    pub(super) source: Source<R>,
    pub(super) directory: String,
    pub(super) manifest: Vec<u8>,
    pub(super) signatures: Vec<u8>,
}

impl<R: Read> Unverified<R> {
    /// Reads the directory, the manifest and the signatures, and nothing after them.
    ///
    /// # Errors
    /// [`ImageError`] when that is not how the source begins.
    pub fn open(source: R) -> Result<Self, ImageError> {
        let mut source = Source {
            inner: source,
            offset: 0,
            go: None,
            passed: false,
            tally: Tally::default(),
        };
        let directory = read_directory(&mut source)?;
        let manifest = source.head_member(&directory, MANIFEST, MAX_MANIFEST)?;
        let signatures = source.head_member(&directory, SIGNATURES, MAX_SIGNATURES)?;
        Ok(Self {
            source,
            directory,
            manifest,
            signatures,
        })
    }

    /// [`open`](Self::open) with a source that may have ranges.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_ranged(source: R) -> Result<Self, ImageError>
    where
        R: Ranged,
    {
        let mut image = Self::open(source)?;
        if image.source.inner.has_ranges() {
            image.source.go = Some(R::go);
        }
        Ok(image)
    }

    /// What the manifest says **if it is to be believed**, which nobody has checked. For looking at.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn inspect(&self) -> Result<Manifest, ImageError> {
        Manifest::parse(&self.manifest)
    }

    /// The signatures, unchecked.
    ///
    /// # Errors
    /// [`ImageError::Signatures`] if they are none.
    pub fn signatures(&self) -> Result<Vec<Signature>, ImageError> {
        Signature::parse_all(&self.signatures).map_err(ImageError::Signatures)
    }

    /// Checks the signatures, then reads the manifest, then checks its security number.
    ///
    /// # Errors
    /// [`ImageError`]; nothing more of the source was read.
    pub fn verify(self, trust: &Trust) -> Result<Verified<R>, ImageError> {
        let signers = trust.verify(&self.manifest, &self.signatures()?)?;
        let manifest = Manifest::parse(&self.manifest)?;
        trust.check_floor(manifest.security)?;
        self.into_verified(manifest, signers)
    }

    /// The image as if somebody trusted had signed it. On a build host, where numbers are made of it
    /// and nothing else; nobody but [`delta`](super::delta) is to ask for this.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub(super) fn believe(self) -> Result<Verified<R>, ImageError> {
        self.signatures()?;
        let manifest = Manifest::parse(&self.manifest)?;
        self.into_verified(manifest, Vec::new())
    }

    fn into_verified(
        self,
        manifest: Manifest,
        signers: Vec<KeyId>,
    ) -> Result<Verified<R>, ImageError> {
        let wanted = manifest.boards.first().map(|board| directory(board));
        if wanted.as_ref() != Some(&self.directory) {
            return Err(ImageError::UnexpectedMember {
                found: printable(&self.directory),
                wanted: wanted.unwrap_or_default(),
            });
        }
        Ok(Verified {
            walk: Walk {
                source: self.source,
                directory: self.directory,
                open: None,
            },
            manifest,
            signers,
            next: Step::Control,
            at_hand: None,
        })
    }
}

fn read_directory<R: Read>(source: &mut Source<R>) -> Result<String, ImageError> {
    let mut block = [0; TAR_BLOCK];
    let count = source.read_up_to(&mut block)?;
    let read = &block[..count];
    let prefix = DIRECTORY_PREFIX.as_bytes();
    if !read.starts_with(prefix) && !prefix.starts_with(read) {
        return Err(ImageError::NotAnImage {
            problem: format!("it does not begin with `{DIRECTORY_PREFIX}`"),
        });
    }
    if count < TAR_BLOCK {
        return Err(ImageError::Truncated {
            offset: source.offset,
            member: DIRECTORY.to_owned(),
        });
    }
    let Fields { name, kind, size } =
        header::parse(&block).map_err(|problem| source.damaged(DIRECTORY, problem))?;
    let slashes = name.bytes().filter(|byte| *byte == b'/').count();
    if kind != Kind::Directory || !name.ends_with('/') || slashes != 1 || size != 0 {
        return Err(ImageError::NotAnImage {
            problem: format!(
                "it begins with `{}` and not with a directory",
                printable(&name)
            ),
        });
    }
    Ok(name)
}

/// The source, and which member is being read from it.
#[derive(Debug)]
struct Walk<R> {
    source: Source<R>,
    directory: String,
    /// Set while a member is read. An error leaves it set, so that nothing can be read after it.
    open: Option<String>,
}

impl<R: Read> Walk<R> {
    fn check_idle(&self) -> Result<(), ImageError> {
        match &self.open {
            None => Ok(()),
            Some(member) => Err(ImageError::Unfinished {
                member: member.clone(),
            }),
        }
    }

    /// Reads the header of a member that the manifest announces.
    fn begin(&mut self, name: &str, size: u64) -> Result<(), ImageError> {
        self.open = Some(name.to_owned());
        let found = self.source.file_header(&self.directory, name)?;
        if found != size {
            return Err(ImageError::WrongSize {
                member: name.to_owned(),
                found,
                wanted: size,
            });
        }
        Ok(())
    }

    fn end(&mut self) {
        self.open = None;
    }

    /// Reads a small member whole and checks its digest.
    fn read_whole(&mut self, info: &MemberInfo) -> Result<Vec<u8>, ImageError> {
        self.begin(&info.name, info.size)?;
        let bytes = self.source.contents(info.size, &info.name)?;
        check_digest(&info.name, Digest::of(&bytes), info.sha256)?;
        self.end();
        Ok(bytes)
    }
}

/// An image that was signed by those who must have. Its contents come out checked, in order.
#[derive(Debug)]
pub struct Verified<R> {
    walk: Walk<R>,
    manifest: Manifest,
    signers: Vec<KeyId>,
    next: Step,
    at_hand: Option<Box<dyn AtHand>>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Control,
    Config,
    Part(usize),
}

/// A member whose contents the caller wants.
#[derive(Debug)]
pub enum Member<'a, R> {
    /// config.tar.gz.
    Config(ConfigReader<'a, R>),
    /// A part of the slot.
    Part(PartReader<'a, R>),
}

impl<R: Read> Verified<R> {
    /// What the image is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The accepted keys that have signed it, sorted.
    #[must_use]
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }

    /// True if what is at hand need not be fetched.
    #[must_use]
    pub fn has_ranges(&self) -> bool {
        self.walk.source.go.is_some()
    }

    /// From now on, blocks that are at hand are not fetched. Does nothing for a source without ranges.
    pub fn use_at_hand(&mut self, at_hand: Box<dyn AtHand>) {
        if self.has_ranges() {
            self.at_hand = Some(at_hand);
        }
    }

    /// Counts what would be fetched, with the blocks that are at hand, and fetches no block: only what tells
    /// of them. What is at hand is looked through.
    ///
    /// # Errors
    /// [`ImageError`]
    pub fn weigh(mut self) -> Result<Tally, ImageError> {
        if !self.has_ranges() {
            let fetched = self.walk.source.offset + self.rest();
            return Ok(Tally {
                fetched,
                ..Tally::default()
            });
        }
        while let Some(member) = self.next_member()? {
            match member {
                Member::Config(mut reader) => reader.skip()?,
                Member::Part(reader) => reader.weigh()?,
            }
        }
        self.finish()
    }

    /// Bytes from the next member to the end of the tar.
    fn rest(&self) -> u64 {
        let manifest = &self.manifest;
        let (control, config, part) = match self.next {
            Step::Control => (Some(&manifest.control), manifest.config.as_ref(), 0),
            Step::Config => (None, manifest.config.as_ref(), 0),
            Step::Part(part) => (None, None, part),
        };
        let small = control.into_iter().chain(config);
        let parts = manifest.parts.iter().skip(part);
        let sizes = parts.flat_map(|part| [part.table.size, part.stored_size]);
        let members = small.map(|info| info.size).chain(sizes).map(member_len);
        2 * TAR_BLOCK as u64 + members.sum::<u64>()
    }

    /// Asks for what comes before the next part's blocks.
    fn need_up_to_blocks(&mut self) {
        let manifest = &self.manifest;
        let (small, part) = match self.next {
            Step::Control => {
                let config = manifest.config.as_ref().map(|info| member_len(info.size));
                (member_len(manifest.control.size) + config.unwrap_or(0), 0)
            }
            Step::Config => return, // asked for with CONTROL
            Step::Part(part) => (0, part),
        };
        let table = manifest.parts.get(part).map(|part| &part.table);
        let table = table.map(|table| member_len(table.size) + TAR_BLOCK as u64);
        if let len @ 1.. = small + table.unwrap_or(0) {
            self.walk.source.need(len);
        }
    }

    /// The next member with contents for the caller, `None` after the last.
    ///
    /// # Errors
    /// [`ImageError`]; [`ImageError::Unfinished`] when the member before was not read to its end.
    pub fn next_member(&mut self) -> Result<Option<Member<'_, R>>, ImageError> {
        self.walk.check_idle()?;
        self.need_up_to_blocks();
        if let Step::Control = self.next {
            self.walk.read_whole(&self.manifest.control)?;
            self.next = Step::Config;
        }
        if let Step::Config = self.next {
            self.next = Step::Part(0);
            if let Some(info) = &self.manifest.config {
                let reader = ConfigReader::new(&mut self.walk, info)?;
                return Ok(Some(Member::Config(reader)));
            }
        }
        let Step::Part(index) = self.next else {
            return Ok(None);
        };
        let Some(part) = self.manifest.parts.get(index) else {
            return Ok(None);
        };
        self.next = Step::Part(index + 1);
        let mut reader = PartReader::new(&mut self.walk, part)?;
        reader.at_hand = self.at_hand.as_deref_mut();
        Ok(Some(Member::Part(reader)))
    }

    /// Checks that nothing more belongs to the image: the end of the tar, and at most 96 KiB that
    /// are ignored. Says where its bytes came from.
    ///
    /// # Errors
    /// [`ImageError`]; [`ImageError::Unfinished`] when there are members left.
    pub fn finish(mut self) -> Result<Tally, ImageError> {
        self.walk.check_idle()?;
        if let Some(member) = self.member_left() {
            return Err(ImageError::Unfinished { member });
        }
        let source = &mut self.walk.source;
        let mut block = [0; TAR_BLOCK];
        for _ in 0..2 {
            source.fill(&mut block, END)?;
            if block != [0; TAR_BLOCK] {
                let fields =
                    header::parse(&block).map_err(|problem| source.damaged(END, problem))?;
                return Err(ImageError::UnexpectedMember {
                    found: printable(&fields.name),
                    wanted: END.to_owned(),
                });
            }
        }
        let mut rest = [0; 8 * TAR_BLOCK];
        let mut trailing = 0;
        loop {
            let count = source.read_up_to(&mut rest)?;
            trailing += count as u64;
            if trailing > MAX_TRAILING {
                return Err(ImageError::Trailing { most: MAX_TRAILING });
            }
            if count < rest.len() {
                return Ok(source.tally);
            }
        }
    }

    /// Name of the next member that nobody has asked for.
    fn member_left(&self) -> Option<String> {
        let manifest = &self.manifest;
        let member = match self.next {
            Step::Control => Some(&manifest.control.name),
            Step::Config => manifest.config.as_ref().map(|config| &config.name),
            Step::Part(index) => manifest.parts.get(index).map(|part| &part.name),
        };
        member.cloned()
    }

    /// Reads and checks everything, and keeps nothing.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn check(mut self) -> Result<(), ImageError> {
        while let Some(member) = self.next_member()? {
            match member {
                Member::Config(mut reader) => reader.skip()?,
                Member::Part(mut reader) => reader.skip()?,
            }
        }
        self.finish().map(drop)
    }
}

/// Bytes of a member, with its header and its padding.
fn member_len(size: u64) -> u64 {
    let around = TAR_BLOCK + header::padding(size);
    size.saturating_add(around as u64)
}

/// The bytes of config.tar.gz.
///
/// Its digest is known at its end only. **Nothing must be made of the bytes before**: they are
/// collected, and unpacked after the end was reached. The last bytes are handed out only if the
/// digest is right, so that a wrong one never looks whole.
#[derive(Debug)]
pub struct ConfigReader<'a, R> {
    walk: &'a mut Walk<R>,
    info: &'a MemberInfo,
    left: u64,
    hasher: Hasher,
    failed: bool,
}

impl<'a, R: Read> ConfigReader<'a, R> {
    fn new(walk: &'a mut Walk<R>, info: &'a MemberInfo) -> Result<Self, ImageError> {
        walk.begin(&info.name, info.size)?;
        let mut reader = Self {
            walk,
            info,
            left: info.size,
            hasher: Hasher::new(),
            failed: false,
        };
        if reader.left == 0 {
            reader.end()?;
        }
        Ok(reader)
    }

    /// Its length.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.info.size
    }

    /// Reads the rest, checks it, and keeps nothing.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn skip(&mut self) -> Result<(), ImageError> {
        let mut bytes = [0; 16 * TAR_BLOCK];
        while self.next(&mut bytes)? > 0 {}
        Ok(())
    }

    fn next(&mut self, bytes: &mut [u8]) -> Result<usize, ImageError> {
        if self.failed {
            self.walk.check_idle()?;
        }
        let count = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let bytes = &mut bytes[..count];
        if count == 0 {
            return Ok(0);
        }
        let result = self.read_checked(bytes);
        if result.is_err() {
            self.failed = true;
            bytes.fill(0);
        }
        result.map(|()| count)
    }

    fn read_checked(&mut self, bytes: &mut [u8]) -> Result<(), ImageError> {
        self.walk.source.fill(bytes, &self.info.name)?;
        self.hasher.update(bytes);
        self.left -= bytes.len() as u64;
        if self.left == 0 {
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ImageError> {
        let found = std::mem::take(&mut self.hasher).finish();
        check_digest(&self.info.name, found, self.info.sha256)?;
        self.walk.source.padding(self.info.size, &self.info.name)?;
        self.walk.end();
        Ok(())
    }
}

impl<R: Read> Read for ConfigReader<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(self.next(bytes)?)
    }
}

/// The raw bytes of a part, as they go to the medium.
///
/// A block is hashed before the first byte of it is handed out; a deflated one before it is
/// inflated, and again after. It is read into its place where a reader has room for all of it; else one
/// block is held in memory. Errors are [`ImageError`]s inside of [`io::Error`], see
/// [`ImageError::from_io`].
#[derive(Debug)]
pub struct PartReader<'a, R> {
    walk: &'a mut Walk<R>,
    part: &'a PartInfo,
    table: BlockTable,
    next_block: u64,
    /// A block, of which the last `left` bytes have not been handed out.
    block: Vec<u8>,
    left: usize,
    inflater: Option<Inflater>,
    failed: bool,
    at_hand: Option<&'a mut (dyn AtHand + 'static)>,
    /// The blocks before this one have been asked for.
    asked: u64,
}

impl<'a, R: Read> PartReader<'a, R> {
    fn new(walk: &'a mut Walk<R>, part: &'a PartInfo) -> Result<Self, ImageError> {
        let table = walk.read_whole(&part.table)?;
        walk.begin(&part.name, part.stored_size)?;
        let table = BlockTable::parse(table, part)?;
        let inflater = match part.encoding {
            Encoding::Plain => None,
            Encoding::Deflate => Some(Inflater::new()),
        };
        Ok(Self {
            walk,
            part,
            table,
            next_block: 0,
            block: Vec::new(),
            left: 0,
            inflater,
            failed: false,
            at_hand: None,
            asked: 0,
        })
    }

    /// What the manifest says of the part.
    #[must_use]
    pub fn part(&self) -> &PartInfo {
        self.part
    }

    /// Bytes of a block in the image.
    pub(super) fn stored_len(&self, block: u64) -> Option<u64> {
        let entry = self.table.entry(block)?;
        let stored = entry.stored.map(|(length, _)| length);
        Some(u64::from(stored.unwrap_or(self.part.block_len(block))))
    }

    /// Reads the rest, checks it, and keeps nothing.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn skip(&mut self) -> Result<(), ImageError> {
        while self.hold()? {
            self.hand_out(self.left);
        }
        Ok(())
    }

    /// Makes sure that there are checked bytes in `block`; false at the end of the part.
    fn hold(&mut self) -> Result<bool, ImageError> {
        if self.left > 0 {
            return Ok(true);
        }
        let Some(len) = self.next_len()? else {
            return Ok(false);
        };
        let mut block = std::mem::take(&mut self.block);
        block.resize(len, 0);
        let loaded = self.load(&mut block);
        self.block = block;
        loaded.map(|()| true)
    }

    /// Bytes of the next block; nothing at the end of the part.
    fn next_len(&self) -> Result<Option<usize>, ImageError> {
        if self.failed {
            self.walk.check_idle()?;
        }
        let next = self.next_block;
        Ok((next < self.part.blocks()).then(|| self.block_len(next)))
    }

    fn block_len(&self, number: u64) -> usize {
        len(u64::from(self.part.block_len(number)))
    }

    /// Puts the next block, checked, where there is room for it. Nothing is there that was not checked.
    fn load(&mut self, block: &mut [u8]) -> Result<(), ImageError> {
        self.failed = true;
        let loaded = self.load_block(block);
        if loaded.is_err() {
            block.fill(0);
            return loaded;
        }
        self.failed = false;
        self.left = block.len();
        Ok(())
    }

    fn load_block(&mut self, block: &mut [u8]) -> Result<(), ImageError> {
        let number = self.next_block;
        let found = match number < self.asked {
            true => None,
            false => self.find(number, block)?,
        };
        match found {
            Some(place) => self.pass_over(place, number)?,
            None => self.fetch(number, block)?,
        }
        self.next_block += 1;
        if self.next_block == self.part.blocks() && found.is_none() {
            let (size, name) = (self.part.stored_size, &self.part.name);
            self.walk.source.padding(size, name)?;
        }
        Ok(())
    }

    fn bad(&self, block: u64, problem: &'static str) -> ImageError {
        ImageError::Block {
            part: self.part.name.clone(),
            block,
            problem,
        }
    }

    fn entry(&self, block: u64) -> Result<Entry, ImageError> {
        let entry = self.table.entry(block);
        entry.ok_or_else(|| self.bad(block, "not in the block table"))
    }

    /// Reads a block from the source.
    fn fetch(&mut self, number: u64, block: &mut [u8]) -> Result<(), ImageError> {
        if self.at_hand.is_some() && number >= self.asked {
            let (end, len) = self.run(number, block)?;
            self.walk.source.need(len);
            self.asked = end;
        }
        let entry = self.entry(number)?;
        let source = &mut self.walk.source;
        let inflated = match &mut self.inflater {
            None => {
                source.fill(block, &self.part.name)?;
                Ok(())
            }
            Some(inflater) => {
                let stored = inflater.stored(&entry);
                source.fill(stored, &self.part.name)?;
                inflater.inflate(&entry, block)
            }
        };
        inflated.map_err(|problem| self.bad(number, problem))?;
        if Digest::of(block) != entry.raw {
            return Err(self.bad(number, "its bytes are not the signed ones"));
        }
        Ok(())
    }

    /// Looks for a block at hand. It is at the begin of `room` then, as it was signed.
    fn find(&mut self, number: u64, room: &mut [u8]) -> Result<Option<Place>, ImageError> {
        let wanted = self.entry(number)?.raw;
        let len = self.block_len(number);
        let Some(at_hand) = &mut self.at_hand else {
            return Ok(None);
        };
        let offset = number * u64::from(self.part.block_size);
        let (part, block) = (
            &self.part.slot_part,
            room.get_mut(..len).unwrap_or_default(),
        );
        Ok([Place::Target, Place::Running].into_iter().find(|place| {
            at_hand.guess(*place, part, offset, &wanted, block) && Digest::of(block) == wanted
        }))
    }

    /// Passes over a block in the source that was found elsewhere.
    fn pass_over(&mut self, place: Place, number: u64) -> Result<(), ImageError> {
        let stored = self.stored(number)? + self.padding_behind(number);
        let source = &mut self.walk.source;
        source.pass(stored);
        let len = u64::from(self.part.block_len(number));
        source.tally.found(place, len);
        Ok(())
    }

    /// Bytes of padding after a block: the last one has some.
    fn padding_behind(&self, number: u64) -> u64 {
        match number + 1 == self.part.blocks() {
            true => header::padding(self.part.stored_size) as u64,
            false => 0,
        }
    }

    fn stored(&self, number: u64) -> Result<u64, ImageError> {
        let len = self.stored_len(number);
        len.ok_or_else(|| self.bad(number, "not in the block table"))
    }

    /// What is worth asking for at once, from a block on that is not at hand: up to which block, and how
    /// many bytes that is. Blocks are looked for in `room`, which has enough of it for the first one.
    fn run(&mut self, first: u64, room: &mut [u8]) -> Result<(u64, u64), ImageError> {
        let (mut end, mut len) = (first + 1, self.stored(first)?);
        let mut gap = 0;
        for number in first + 1..self.part.blocks() {
            gap += self.stored(number)?;
            if self.find(number, room)?.is_none() {
                end = number + 1;
                len += std::mem::take(&mut gap);
            }
            if gap >= SHORTEST_GAP || len + gap >= LONGEST_RUN {
                break;
            }
        }
        Ok((end, len + self.padding_behind(end - 1)))
    }

    /// Passes over the part, and counts what would be fetched of it.
    fn weigh(mut self) -> Result<(), ImageError> {
        let mut room = vec![0; self.block_len(0)];
        while self.next_block < self.part.blocks() {
            let number = self.next_block;
            if let Some(place) = self.find(number, &mut room)? {
                self.pass_over(place, number)?;
                self.next_block += 1;
                continue;
            }
            let (end, len) = self.run(number, &mut room)?;
            self.next_block = end;
            self.walk.source.pass(len);
            self.walk.source.tally.fetched += len;
        }
        self.walk.end();
        Ok(())
    }

    /// Counts bytes as handed out; after the last of the part the next member may be read.
    fn hand_out(&mut self, count: usize) {
        self.left -= count;
        if self.left == 0 && self.next_block == self.part.blocks() {
            self.walk.end();
        }
    }
}

impl<R: Read> Read for PartReader<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.left == 0
            && let Some(len) = self.next_len()?
            && let Some(place) = bytes.get_mut(..len)
        {
            self.load(place)?;
            self.hand_out(len);
            return Ok(len);
        }
        if bytes.is_empty() || !self.hold()? {
            return Ok(0);
        }
        let ready = &self.block[self.block.len() - self.left..];
        let count = ready.len().min(bytes.len());
        bytes[..count].copy_from_slice(&ready[..count]);
        self.hand_out(count);
        Ok(count)
    }
}

/// Inflates one block at a time.
#[derive(Debug)]
struct Inflater {
    stored: Vec<u8>,
    state: Decompress,
}

impl Inflater {
    fn new() -> Self {
        Self {
            stored: Vec::new(),
            state: Decompress::new(false),
        }
    }

    /// Room for the stored bytes of a block; the block table has bounded their number.
    fn stored(&mut self, entry: &Entry) -> &mut [u8] {
        let length = entry.stored.map_or(0, |(length, _)| length);
        self.stored.resize(len(u64::from(length)), 0);
        &mut self.stored
    }

    /// Hashes the stored bytes, and only then inflates them, into exactly `raw`.
    fn inflate(&mut self, entry: &Entry, raw: &mut [u8]) -> Result<(), &'static str> {
        let wanted = entry.stored.map(|(_, digest)| digest);
        if wanted != Some(Digest::of(&self.stored)) {
            return Err("its stored bytes are not the signed ones");
        }
        self.state.reset(false);
        let status = self
            .state
            .decompress(&self.stored, raw, FlushDecompress::Finish)
            .map_err(|_| "its stored bytes are not a deflate stream")?;
        let whole = status == Status::StreamEnd
            && self.state.total_in() == self.stored.len() as u64
            && self.state.total_out() == raw.len() as u64;
        if whole {
            Ok(())
        } else {
            Err("its stored bytes do not inflate to exactly the block")
        }
    }
}
