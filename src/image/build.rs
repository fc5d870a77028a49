//! Making an image, on the build host.
//!
//! The same inputs always give the same bytes: nothing depends on times, owners, the order of a
//! directory or the machine. A part is read twice, once for its digests and once for its bytes, and
//! never held; a file that changes in between is an error.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::{Compress, Compression, FlushCompress, GzBuilder, Status};
use tar::{EntryType, Header};
use thiserror::Error;

use super::blocks::{DEFLATE_OVERHEAD, Entry, MAX_TABLE, entry_size};
use super::error::ImageError;
use super::header::{self, Kind, TAR_BLOCK};
use super::manifest::{Encoding, MAX_CONFIG, Manifest, MemberInfo, PartInfo, check_block_size};
use super::openwrt::compat::Compat;
use super::openwrt::fwtool::{self, FwtoolError, New, Tail};
use super::openwrt::metadata::{Metadata, MetadataError, Version};
use super::read::Unverified;
use super::{CONFIG, CONTROL, MANIFEST, SIGNATURES, directory};
use crate::digest::{Digest, Hasher};
use crate::files::{self, FileError};
use crate::report::printable;
use crate::trust::Trust;
use crate::trust::ucert::{self, UcertError};
use crate::trust::usign::{KeyId, SecretKey, Signature};

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Boards it is for; the first one names its directory.
    pub boards: Vec<String>,
    /// Version, for people.
    pub version: String,
    /// Security number.
    pub security: u64,
    /// Compatibility version, `MAJOR.MINOR`.
    pub compat: String,
    /// Other compatibility versions whose configuration its steps bring to `compat`.
    pub migrates_from: Vec<String>,
    /// Number of the configuration engine in the new system.
    pub engine: u32,
    /// The parts, in the order they are installed.
    pub parts: Vec<PartSource>,
    /// A tree that becomes config.tar.gz.
    pub defaults: Option<PathBuf>,
    /// Files that are added to that tree: paths below its root, and their bytes.
    pub generated: BTreeMap<PathBuf, Vec<u8>>,
    /// Bytes of a block.
    pub block_size: u32,
    /// How blocks are stored.
    pub encoding: Encoding,
    /// Lay it out so that the flashers of stock OpenWrt can install it, too: what they read is
    /// `sysupgrade-BOARD/CONTROL`, `kernel`, `root` and `dtb`, and each goes to the flash as it is
    /// stored. `root` is then filled up with zeros to a multiple of 1 KiB.
    pub openwrt: bool,
}

/// Members of a sysupgrade tar that some flasher of stock OpenWrt writes.
const OPENWRT_PARTS: [&str; 3] = ["kernel", ROOT, "dtb"];

/// The part with the root file system, in a sysupgrade tar.
const ROOT: &str = "root";

/// OpenWrt's build fills up the root file system to a multiple of this: squashfs reads its device in
/// such units, and the tail of a volume that does not end with one cannot be read.
const ROOT_UNIT: usize = 1024;

/// A key, and the certificates that make stock OpenWrt accept it.
pub struct OpenWrtSigner {
    /// The key.
    pub key: SecretKey,
    /// A ucert file that ends in a certificate for the key. Empty if the key itself will be in the
    /// key directory of the device; such a signature never expires.
    pub certificates: Vec<u8>,
}

/// A file that becomes a part.
#[derive(Clone, Debug)]
pub struct PartSource {
    /// Name of the part, in the image and in the slot.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// Why an image cannot be made.
#[derive(Debug, Error)]
pub enum BuildError {
    /// An input cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest would not be accepted.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Something in the defaults that has no place in a configuration.
    #[error("{} is neither file, directory nor link", path.display())]
    Kind {
        /// Where it is.
        path: PathBuf,
    },
    /// Something in the defaults stands where a generated file goes, or a directory for it.
    #[error("{} in the defaults is in the way of a file that is made by this command", path.display())]
    InTheWay {
        /// Below the root of the defaults.
        path: PathBuf,
    },
    /// Files to add, but nothing to add them to.
    #[error("there are no defaults that {} could be added to", path.display())]
    NoDefaults {
        /// One of the files.
        path: PathBuf,
    },
    /// An input was changed while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The defaults do not fit.
    #[error("config.tar.gz has {found} bytes, at most {MAX_CONFIG} are possible")]
    ConfigTooLong {
        /// Its length.
        found: usize,
    },
    /// No device would take blocks of this size.
    #[error("the block size is {found}: {rule}")]
    BlockSize {
        /// Bytes of a block.
        found: u32,
        /// Which are possible.
        rule: String,
    },
    /// Blocks so small that there are too many.
    #[error(
        "the block table of `{}` would have {found} bytes, at most {MAX_TABLE} are possible: use blocks of {least} bytes or more",
        printable(part)
    )]
    TableTooLong {
        /// The part.
        part: String,
        /// Length of its table.
        found: u64,
        /// The smallest block size that would do.
        least: u64,
    },
    /// A key that is asked to sign twice.
    #[error("key {id} has signed already")]
    SignedAlready {
        /// The key.
        id: KeyId,
    },
    /// Stock OpenWrt cannot inflate a part.
    #[error(
        "stock OpenWrt would flash deflated parts as they are: an image for it has plain parts"
    )]
    DeflatedForOpenWrt,
    /// Stock OpenWrt would install the other parts and leave this one out, in silence.
    #[error(
        "stock OpenWrt would not install the part `{}`: of an image it knows kernel, root and dtb",
        printable(name)
    )]
    PartForOpenWrt {
        /// Name of the part.
        name: String,
    },
    /// The metadata makes no sense.
    #[error("stock OpenWrt would not accept the image")]
    OpenWrtMetadata(#[from] MetadataError),
    /// A chunk cannot be added.
    #[error(transparent)]
    Fwtool(#[from] FwtoolError),
    /// The certificates do not fit the key, or not into an image.
    #[error("the signature for stock OpenWrt cannot be made")]
    Ucert(#[from] UcertError),
    /// The image cannot be written.
    #[error("cannot write the image")]
    Write(#[from] io::Error),
}

/// Writes an image, signed with these keys. Without a key it is written all the same, and refused
/// by every device until `sysupgrade-pack sign` has signed it.
///
/// # Errors
/// [`BuildError`]; what was written is then no image.
pub fn build(spec: &Spec, keys: &[SecretKey], out: &mut dyn Write) -> Result<Manifest, BuildError> {
    let board = spec.boards.first().map(String::as_str).unwrap_or_default();
    let directory = directory(board);
    if spec.openwrt {
        check_openwrt(spec)?;
    }
    check_block_size(spec.block_size).map_err(|rule| BuildError::BlockSize {
        found: spec.block_size,
        rule,
    })?;
    let control = format!("BOARD={}\n", board.replace(',', "_")).into_bytes();
    let config = match (&spec.defaults, spec.generated.keys().next()) {
        (Some(root), _) => Some(pack_tree(root, &spec.generated)?),
        (None, None) => None,
        (None, Some(path)) => return Err(BuildError::NoDefaults { path: path.clone() }),
    };
    let mut parts = Vec::new();
    let mut tables = Vec::new();
    for source in &spec.parts {
        let (part, table) = measure(source, spec)?;
        parts.push(part);
        tables.push(table);
    }
    let manifest = Manifest {
        boards: spec.boards.clone(),
        version: spec.version.clone(),
        security: spec.security,
        compat: spec.compat.clone(),
        migrates_from: spec.migrates_from.clone(),
        engine: spec.engine,
        control: describe(CONTROL, &control),
        config: config.as_deref().map(|bytes| describe(CONFIG, bytes)),
        parts,
    };
    let json = manifest.to_json()?;
    let signatures: String = keys.iter().map(|key| key.sign(&json).to_text()).collect();

    let mut out = Output::begin(out, directory)?;
    out.member(MANIFEST, &json)?;
    out.member(SIGNATURES, signatures.as_bytes())?;
    out.member(CONTROL, &control)?;
    if let Some(bytes) = config {
        out.member(CONFIG, &bytes)?;
    }
    for ((source, part), table) in spec.parts.iter().zip(&manifest.parts).zip(&tables) {
        out.member(&part.table.name, table)?;
        out.header(&part.name, part.stored_size)?;
        write_part(source, part, spec, out.out)?;
        out.padding(part.stored_size)?;
    }
    out.end()?;
    Ok(manifest)
}

/// That stock OpenWrt would install the same as we do.
fn check_openwrt(spec: &Spec) -> Result<(), BuildError> {
    if spec.encoding == Encoding::Deflate {
        return Err(BuildError::DeflatedForOpenWrt);
    }
    let unknown = |part: &&PartSource| !OPENWRT_PARTS.contains(&part.name.as_str());
    match spec.parts.iter().find(unknown) {
        Some(part) => Err(BuildError::PartForOpenWrt {
            name: part.name.clone(),
        }),
        None => Ok(()),
    }
}

/// The metadata of an image with this manifest, for stock OpenWrt.
///
/// # Errors
/// When its compatibility version is none in OpenWrt.
pub fn openwrt_metadata(
    manifest: &Manifest,
    version: Version,
    compat_message: Option<String>,
) -> Result<Metadata, MetadataError> {
    let compat = Compat::parse(&manifest.compat).map_err(|source| MetadataError::Compat {
        text: printable(&manifest.compat),
        source,
    })?;
    Ok(Metadata {
        compat,
        compat_message,
        devices: manifest.boards.clone(),
        version,
    })
}

/// Adds to the image in `file` what stock OpenWrt wants to find at its end: the text of its metadata,
/// and the signature over all before it.
///
/// # Errors
/// [`BuildError`]; the file is then no image.
pub fn add_openwrt<F: Read + Write + Seek>(
    file: &mut F,
    metadata: &str,
    signer: Option<&OpenWrtSigner>,
) -> Result<(), BuildError> {
    fwtool::append(file, New::Info(metadata))?;
    if let Some(signer) = signer {
        let signature = signer.key.sign_stream(file)?;
        let chain = ucert::sign_chain(&signer.certificates, &signature)?;
        fwtool::append(file, New::Signature(&chain))?;
    }
    Ok(())
}

/// The tar that is written.
struct Output<'a> {
    out: &'a mut dyn Write,
    directory: String,
}

impl<'a> Output<'a> {
    fn begin(out: &'a mut dyn Write, directory: String) -> io::Result<Self> {
        header::write(out, &directory, Kind::Directory, 0)?;
        Ok(Self { out, directory })
    }

    fn header(&mut self, name: &str, size: u64) -> io::Result<()> {
        let name = format!("{}{name}", self.directory);
        header::write(self.out, &name, Kind::File, size)
    }

    /// Contents are followed by zeros up to a whole block.
    fn padding(&mut self, size: u64) -> io::Result<()> {
        self.out.write_all(&[0; TAR_BLOCK][..header::padding(size)])
    }

    fn member(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let size = bytes.len() as u64;
        self.header(name, size)?;
        self.out.write_all(bytes)?;
        self.padding(size)
    }

    fn end(self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * TAR_BLOCK])
    }
}

/// Writes a copy of the image at `path` that these keys have signed too.
///
/// Nobody should sign what would not install: the image is read whole and checked first. What is
/// behind it for stock OpenWrt is not copied, since each chunk there depends on every byte before it;
/// it is the answer, for [`add_openwrt`].
///
/// # Errors
/// [`BuildError`]; what was written is then no image.
pub fn sign(path: &Path, keys: &[SecretKey], out: &mut dyn Write) -> Result<Tail, BuildError> {
    let open = || File::open(path).map_err(FileError::at("open", path));
    let tail = fwtool::read(&mut open()?)?;
    let open = || open().map(|file| file.take(tail.payload));
    let mut head = Unverified::open(open()?)?;
    let mut signatures = head.signatures()?;
    for key in keys {
        let id = key.public().id();
        if signatures.iter().any(|signature| signature.id() == id) {
            return Err(BuildError::SignedAlready { id });
        }
        signatures.push(key.sign(&head.manifest));
    }
    let text: String = signatures.iter().map(Signature::to_text).collect();
    head.signatures = text.into_bytes();
    let signed = (head.manifest.clone(), head.signatures.clone());
    head.verify(&Trust::in_any_of(keys.iter().map(SecretKey::public)))?
        .check()?;

    let head = Unverified::open(open()?)?;
    if head.manifest != signed.0 {
        return Err(BuildError::Changed {
            path: path.to_owned(),
        });
    }
    let mut out = Output::begin(out, head.directory)?;
    out.member(MANIFEST, &signed.0)?;
    out.member(SIGNATURES, &signed.1)?;
    let mut rest = head.source.inner;
    io::copy(&mut rest, out.out)?;
    Ok(tail)
}

fn describe(name: &str, bytes: &[u8]) -> MemberInfo {
    MemberInfo {
        name: name.to_owned(),
        size: bytes.len() as u64,
        sha256: Digest::of(bytes),
    }
}

/// First pass over a part: its place in the manifest, and its block table.
fn measure(source: &PartSource, spec: &Spec) -> Result<(PartInfo, Vec<u8>), BuildError> {
    let mut table = Vec::new();
    let (mut raw_size, mut stored_size) = (0, 0);
    let (mut raw_hasher, mut stored_hasher) = (Hasher::new(), Hasher::new());
    each_block(source, spec, |raw, stored| {
        raw_size += raw.len() as u64;
        stored_size += stored.len() as u64;
        raw_hasher.update(raw);
        stored_hasher.update(stored);
        let stored = match spec.encoding {
            Encoding::Plain => None,
            Encoding::Deflate => {
                let length = u32::try_from(stored.len()).map_err(io::Error::other)?;
                Some((length, Digest::of(stored)))
            }
        };
        let raw = Digest::of(raw);
        Entry { raw, stored }.write(&mut table);
        Ok(())
    })?;
    let part = PartInfo {
        name: source.name.clone(),
        slot_part: source.name.clone(),
        stored_size,
        stored_sha256: stored_hasher.finish(),
        raw_size,
        raw_sha256: raw_hasher.finish(),
        block_size: spec.block_size,
        encoding: spec.encoding,
        table: describe(&format!("{}.blocks", source.name), &table),
    };
    check_table(&part)?;
    Ok((part, table))
}

/// That a device would hold the table in memory.
fn check_table(part: &PartInfo) -> Result<(), BuildError> {
    let table = |block_size: u64| part.raw_size.div_ceil(block_size) * entry_size(part.encoding);
    let mut least = u64::from(part.block_size);
    while table(least) > MAX_TABLE {
        least *= 2;
    }
    if least == u64::from(part.block_size) {
        return Ok(());
    }
    Err(BuildError::TableTooLong {
        part: part.name.clone(),
        found: part.table.size,
        least,
    })
}

/// Second pass over a part: its bytes, which must be the ones of the first pass.
fn write_part(
    source: &PartSource,
    part: &PartInfo,
    spec: &Spec,
    out: &mut dyn Write,
) -> Result<(), BuildError> {
    let mut hasher = Hasher::new();
    let mut size = 0;
    each_block(source, spec, |_, stored| {
        hasher.update(stored);
        size += stored.len() as u64;
        out.write_all(stored)
    })?;
    if size != part.stored_size || hasher.finish() != part.stored_sha256 {
        return Err(BuildError::Changed {
            path: source.path.clone(),
        });
    }
    Ok(())
}

/// Calls `f` with each block of a file, raw and as it is stored.
fn each_block(
    source: &PartSource,
    spec: &Spec,
    mut f: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> Result<(), BuildError> {
    let path = &source.path;
    let mut file = File::open(path).map_err(FileError::at("open", path))?;
    let fill_up = spec.openwrt && source.name == ROOT;
    let mut compress = Compress::new(Compression::best(), false);
    let mut raw = Vec::new();
    let mut deflated = Vec::new();
    loop {
        raw.clear();
        let count = (&mut file)
            .take(u64::from(spec.block_size))
            .read_to_end(&mut raw)
            .map_err(FileError::at("read", path))?;
        if count == 0 {
            return Ok(());
        }
        if fill_up {
            // Only the last block can be short, and a whole one is a multiple already.
            raw.resize(raw.len().next_multiple_of(ROOT_UNIT), 0);
        }
        match spec.encoding {
            Encoding::Plain => f(&raw, &raw)?,
            Encoding::Deflate => {
                deflate(&mut compress, &raw, &mut deflated)?;
                f(&raw, &deflated)?;
            }
        }
    }
}

/// Makes a raw deflate stream of a block, even if that does not make it smaller.
pub(super) fn deflate(
    compress: &mut Compress,
    raw: &[u8],
    deflated: &mut Vec<u8>,
) -> io::Result<()> {
    let overhead = usize::try_from(DEFLATE_OVERHEAD).map_err(io::Error::other)?;
    deflated.clear();
    deflated.reserve(raw.len() + overhead);
    compress.reset();
    match compress.compress_vec(raw, deflated, FlushCompress::Finish)? {
        Status::StreamEnd => Ok(()),
        _ => Err(io::Error::other(
            "a block grows too much when it is deflated",
        )),
    }
}

/// Packs a tree and what is added to it as config.tar.gz: sorted, owned by root, without times,
/// modes and links kept.
fn pack_tree(root: &Path, generated: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Vec<u8>, BuildError> {
    let mut members = BTreeMap::new();
    find_members(root, Path::new(""), &mut members)?;
    for (path, bytes) in generated {
        let dirs = path.ancestors().skip(1);
        for dir in dirs.filter(|dir| !dir.as_os_str().is_empty()) {
            let member = members.entry(dir.to_owned());
            if !matches!(
                member.or_insert(Source::Dir { mode: 0o755 }),
                Source::Dir { .. }
            ) {
                let path = dir.to_owned();
                return Err(BuildError::InTheWay { path });
            }
        }
        if members.insert(path.clone(), Source::Made(bytes)).is_some() {
            return Err(BuildError::InTheWay { path: path.clone() });
        }
    }
    // Byte 9 of the header says which system made it: 255, unknown, is the same everywhere.
    let gzip = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .write(Vec::new(), Compression::best());
    let mut archive = tar::Builder::new(gzip);
    for (path, source) in &members {
        pack_member(&mut archive, root, path, source)?;
    }
    let bytes = archive.into_inner()?.finish()?;
    if bytes.len() as u64 > MAX_CONFIG {
        return Err(BuildError::ConfigTooLong { found: bytes.len() });
    }
    Ok(bytes)
}

/// What a member of config.tar.gz is.
enum Source<'a> {
    Dir {
        mode: u32,
    },
    Link,
    /// A file of the tree.
    File {
        mode: u32,
    },
    /// A file that is made.
    Made(&'a [u8]),
}

fn find_members(
    root: &Path,
    below: &Path,
    members: &mut BTreeMap<PathBuf, Source<'_>>,
) -> Result<(), BuildError> {
    for name in files::list(&root.join(below))? {
        let relative = below.join(&name);
        let path = root.join(&relative);
        let metadata = fs::symlink_metadata(&path).map_err(FileError::at("examine", &path))?;
        let mode = metadata.permissions().mode() & 0o7777;
        let source = if metadata.is_dir() {
            find_members(root, &relative, members)?;
            Source::Dir { mode }
        } else if metadata.is_symlink() {
            Source::Link
        } else if metadata.is_file() {
            Source::File { mode }
        } else {
            return Err(BuildError::Kind { path });
        };
        members.insert(relative, source);
    }
    Ok(())
}

fn pack_member(
    archive: &mut tar::Builder<impl Write>,
    root: &Path,
    relative: &Path,
    source: &Source<'_>,
) -> Result<(), BuildError> {
    let path = root.join(relative);
    let mut header = Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let (mode, bytes) = match source {
        Source::Dir { mode } => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            archive.append_data(&mut header, relative.join(""), io::empty())?;
            return Ok(());
        }
        Source::Link => {
            let target = fs::read_link(&path).map_err(FileError::at("read", &path))?;
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, relative, target)?;
            return Ok(());
        }
        Source::File { mode } => (*mode, Cow::Owned(files::read(&path, MAX_CONFIG)?)),
        Source::Made(bytes) => (0o644, Cow::Borrowed(*bytes)),
    };
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, relative, &*bytes)?;
    Ok(())
}
