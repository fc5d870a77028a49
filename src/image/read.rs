//! Reading an image, once, from front to back.
//!
//! [`Unverified`] holds the head and will not read on. [`Verified`] walks the members in the order
//! of the manifest; CONTROL and the block tables are read and checked on the way. What a reader
//! hands out was hashed before, block by block; after the first error it hands out nothing more,
//! and neither does the image: a member that was not read to its good end cannot be stepped over.

use std::io::{self, Read};

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

/// The bytes of the image, counted.
#[derive(Debug)]
pub(super) struct Source<R> {
    pub(super) inner: R,
    offset: u64,
}

impl<R: Read> Source<R> {
    /// Reads until the buffer is full or the source ends; returns how much that was.
    fn read_up_to(&mut self, bytes: &mut [u8]) -> Result<usize, ImageError> {
        let mut done = 0;
        while done < bytes.len() {
            match self.inner.read(&mut bytes[done..]) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    self.offset += count as u64;
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

    /// The next member with contents for the caller, `None` after the last.
    ///
    /// # Errors
    /// [`ImageError`]; [`ImageError::Unfinished`] when the member before was not read to its end.
    pub fn next_member(&mut self) -> Result<Option<Member<'_, R>>, ImageError> {
        self.walk.check_idle()?;
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
        let reader = PartReader::new(&mut self.walk, part)?;
        Ok(Some(Member::Part(reader)))
    }

    /// Checks that nothing more belongs to the image: the end of the tar, and at most 96 KiB that
    /// are ignored.
    ///
    /// # Errors
    /// [`ImageError`]; [`ImageError::Unfinished`] when there are members left.
    pub fn finish(mut self) -> Result<(), ImageError> {
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
                return Ok(());
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
        self.finish()
    }
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
/// inflated, and again after. One block is held in memory. Errors are [`ImageError`]s inside of
/// [`io::Error`], see [`ImageError::from_io`].
#[derive(Debug)]
pub struct PartReader<'a, R> {
    walk: &'a mut Walk<R>,
    part: &'a PartInfo,
    table: BlockTable,
    next_block: u64,
    /// A block, of which the last `left` bytes have not been handed out. Unchecked bytes are in it
    /// only while `left` is 0.
    block: Vec<u8>,
    left: usize,
    inflater: Option<Inflater>,
    failed: bool,
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
        while self.load()? {
            self.hand_out(self.left);
        }
        Ok(())
    }

    /// Makes sure that there are checked bytes to hand out; false at the end of the part.
    fn load(&mut self) -> Result<bool, ImageError> {
        if self.left > 0 {
            return Ok(true);
        }
        if self.failed {
            self.walk.check_idle()?;
        }
        if self.next_block == self.part.blocks() {
            return Ok(false);
        }
        self.failed = true;
        self.load_block()?;
        self.failed = false;
        Ok(true)
    }

    fn load_block(&mut self) -> Result<(), ImageError> {
        let number = self.next_block;
        let bad = |problem| ImageError::Block {
            part: self.part.name.clone(),
            block: number,
            problem,
        };
        let entry = self
            .table
            .entry(number)
            .ok_or_else(|| bad("not in the block table"))?;
        self.block
            .resize(len(u64::from(self.part.block_len(number))), 0);
        let source = &mut self.walk.source;
        match &mut self.inflater {
            None => source.fill(&mut self.block, &self.part.name)?,
            Some(inflater) => {
                let stored = inflater.stored(&entry);
                source.fill(stored, &self.part.name)?;
                inflater.inflate(&entry, &mut self.block).map_err(bad)?;
            }
        }
        if Digest::of(&self.block) != entry.raw {
            return Err(bad("its bytes are not the signed ones"));
        }
        self.next_block += 1;
        if self.next_block == self.part.blocks() {
            source.padding(self.part.stored_size, &self.part.name)?;
        }
        self.left = self.block.len();
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
        if bytes.is_empty() || !self.load()? {
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
