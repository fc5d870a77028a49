//! Entries of a file tree, read without ever following a link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::OFlags;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::packed::Packed;
use super::path::{self, EntryPath};
use crate::digest::{Digest, Hasher};
use crate::files::{self, FileError};

/// What an entry holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Content {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Of the bytes.
        sha256: Digest,
    },
    /// A symbolic link.
    Link {
        /// Its text, taken as it is.
        #[serde(with = "link_target")]
        target: Box<[u8]>,
    },
    /// A directory.
    Dir,
}

mod link_target {
    use super::{Deserialize, Deserializer, Serializer, de, path};

    pub(super) fn serialize<S: Serializer>(
        target: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&path::escape(target))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Box<[u8]>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let target = path::unescape(&text)
            .ok_or_else(|| de::Error::custom(format!("bad escape in link target `{text}`")))?;
        Ok(target.into())
    }
}

/// Kinds of entries that a configuration has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    File,
    Link,
    Dir,
}

impl Content {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::File { .. } => Kind::File,
            Self::Link { .. } => Kind::Link,
            Self::Dir => Kind::Dir,
        }
    }
}

/// Permission bits and numeric owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The lower twelve bits; 0777 for links, which have none.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it holds.
    #[serde(flatten)]
    pub content: Content,
    /// Its permissions and owner.
    #[serde(flatten)]
    pub meta: Meta,
}

/// What stands under a name; content not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// `None`: a socket, a fifo or a device.
    pub kind: Option<Kind>,
    pub meta: Meta,
    /// Of a file.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: u64,
}

impl Node {
    fn of(metadata: &fs::Metadata) -> Self {
        let file_type = metadata.file_type();
        let kind = if file_type.is_file() {
            Some(Kind::File)
        } else if file_type.is_symlink() {
            Some(Kind::Link)
        } else if file_type.is_dir() {
            Some(Kind::Dir)
        } else {
            None
        };
        Self {
            kind,
            meta: Meta {
                mode: if kind == Some(Kind::Link) {
                    0o777
                } else {
                    metadata.mode() & 0o7777
                },
                uid: metadata.uid(),
                gid: metadata.gid(),
            },
            size: metadata.len(),
            modified: u64::try_from(metadata.mtime()).unwrap_or(0),
        }
    }
}

/// What stands at `path` below `root`; nothing if a directory on the way is missing or is a link.
pub(super) fn node(root: &Path, path: &EntryPath) -> files::Result<Option<Node>> {
    for dir in path.ancestors() {
        match examine(&dir.under(root))? {
            Some(metadata) if metadata.is_dir() => {}
            _ => return Ok(None),
        }
    }
    let metadata = examine(&path.under(root))?;
    // In an upper layer a whiteout is the absence of a name.
    let metadata = metadata.filter(|metadata| {
        !(metadata.file_type().is_char_device() && files::is_whiteout(metadata))
    });
    Ok(metadata.as_ref().map(Node::of))
}

fn examine(path: &Path) -> files::Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(FileError::at("examine", path)(error)),
        },
    }
}

/// The entry at `path` below `root`, its content hashed. Sockets, fifos and devices are nothing.
pub(super) fn entry(root: &Path, path: &EntryPath) -> files::Result<Option<Entry>> {
    let Some(node) = node(root, path)? else {
        return Ok(None);
    };
    let (content, meta) = match node.kind {
        Some(Kind::Dir) => (Content::Dir, node.meta),
        Some(Kind::Link) => (
            Content::Link {
                target: read_link(root, path)?,
            },
            node.meta,
        ),
        Some(Kind::File) => {
            let (mut file, node) = open(root, path)?;
            let (size, sha256) =
                hash(&mut file).map_err(FileError::at("read", &path.under(root)))?;
            (Content::File { size, sha256 }, node.meta)
        }
        None => return Ok(None),
    };
    Ok(Some(Entry { content, meta }))
}

/// The real name of a path: the one that leads to the same place through no link. Links are
/// followed by their text, as if `root` were the root of the system; the last one only if `whole`.
/// Nothing if there is no such place.
pub(super) fn resolve(
    root: &Path,
    path: &EntryPath,
    whole: bool,
) -> files::Result<Option<EntryPath>> {
    /// As many as the kernel follows.
    const MOST_LINKS: usize = 40;
    let mut pending: Vec<Vec<u8>> = components(path.as_bytes());
    let mut real: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(component) = pending.pop() {
        if component == b".." {
            real.pop();
            continue;
        }
        real.push(component);
        let Ok(place) = EntryPath::new(&real.join(&b'/')) else {
            return Ok(None);
        };
        if pending.is_empty() && !whole {
            return Ok(Some(place));
        }
        let Some(node) = node(root, &place)? else {
            return Ok(None);
        };
        if node.kind == Some(Kind::Link) {
            links += 1;
            if links > MOST_LINKS {
                return Ok(None);
            }
            let target = read_link(root, &place)?;
            real.pop();
            if target.starts_with(b"/") {
                real.clear();
            }
            pending.append(&mut components(&target));
        }
    }
    Ok(EntryPath::new(&real.join(&b'/')).ok())
}

/// The components of a path, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let components = path.split(|byte| *byte == b'/').rev();
    components
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}

/// Every path of a tree.
pub(super) fn walk(root: &Path) -> files::Result<BTreeSet<EntryPath>> {
    let mut paths = BTreeSet::new();
    let mut pending: Vec<Option<EntryPath>> = vec![None]; // the root
    while let Some(dir) = pending.pop() {
        let place = dir.as_ref().map_or(root.to_owned(), |dir| dir.under(root));
        for name in files::list(&place)? {
            let path = match &dir {
                None => EntryPath::new(name.as_bytes()),
                Some(dir) => dir.join(&name),
            };
            let Ok(path) = path else { continue };
            if files::is_dir(&path.under(root)) {
                pending.push(Some(path.clone()));
            }
            paths.insert(path);
        }
    }
    Ok(paths)
}

/// Text of a link.
pub(super) fn read_link(root: &Path, path: &EntryPath) -> files::Result<Box<[u8]>> {
    let path = path.under(root);
    let target = fs::read_link(&path).map_err(FileError::at("read the link", &path))?;
    Ok(target.into_os_string().into_vec().into())
}

/// Opens a regular file for reading; not a link, and without waiting for a fifo's other end.
pub(super) fn open(root: &Path, path: &EntryPath) -> files::Result<(File, Node)> {
    open_file(&path.under(root))
}

fn open_file(path: &Path) -> files::Result<(File, Node)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    #[expect(
        clippy::cast_possible_wrap,
        reason = "open flags are an int on every Linux"
    )]
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(FileError::at("open", path))?;
    let metadata = file.metadata().map_err(FileError::at("examine", path))?;
    let node = Node::of(&metadata);
    if node.kind != Some(Kind::File) {
        let changed = io::Error::new(io::ErrorKind::InvalidInput, "no regular file any more");
        return Err(FileError::at("open", path)(changed));
    }
    Ok((file, node))
}

/// Length and digest of what is left of a source.
pub(super) fn hash(source: &mut dyn Read) -> io::Result<(u64, Digest)> {
    let mut hasher = Hasher::new();
    let count = io::copy(source, &mut hasher)?;
    Ok((count, hasher.finish()))
}

/// One of the trees that a merge works on, as a value: what stands at each path, and where its
/// bytes are. Steps change it without touching what it was read from.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    leaves: BTreeMap<EntryPath, Leaf>,
}

#[derive(Clone, Debug)]
struct Leaf {
    entry: Entry,
    place: Place,
    /// Seconds since 1970; of a file that was read.
    modified: Option<u64>,
    /// The file whose extended attributes it has.
    attributes: Option<Rc<Path>>,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug)]
enum Place {
    /// In this file.
    At(Rc<Path>),
    Here(Box<Packed>),
    /// Links and directories have none.
    Nowhere,
}

impl Tree {
    /// Reads everything below `dir` (the whole tree if that is empty) of the tree at `root`.
    /// Sockets, fifos and devices are passed over. What was read before at the same path is
    /// replaced.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn read(&mut self, root: &Path, dir: &str) -> files::Result<()> {
        let start = root.join(dir);
        if !files::is_dir(&start) {
            return Ok(());
        }
        for below in walk(&start)? {
            let path = [dir.as_bytes(), b"/", below.as_bytes()].concat();
            let Ok(path) = EntryPath::new(&path) else {
                continue;
            };
            self.read_entry(root, &path)?;
        }
        Ok(())
    }

    /// Reads one entry of the tree at `root`; nothing happens if there is none.
    pub(super) fn read_entry(&mut self, root: &Path, path: &EntryPath) -> files::Result<()> {
        let Some(entry) = entry(root, path)? else {
            return Ok(());
        };
        let modified = node(root, path)?.map_or(0, |node| node.modified);
        self.insert(path.clone(), entry, &path.under(root), modified);
        Ok(())
    }

    /// Says what stands at a path; the bytes of a file are those of `file`, which need not have its
    /// permissions and owner.
    pub(super) fn insert(&mut self, path: EntryPath, entry: Entry, file: &Path, modified: u64) {
        let file: Rc<Path> = file.into();
        let is_file = entry.content.kind() == Kind::File;
        let leaf = Leaf {
            entry,
            place: match is_file {
                true => Place::At(Rc::clone(&file)),
                false => Place::Nowhere,
            },
            modified: Some(modified),
            attributes: is_file.then_some(file),
        };
        self.leaves.insert(path, leaf);
    }

    /// What stands at a path.
    #[must_use]
    pub fn get(&self, path: &EntryPath) -> Option<&Entry> {
        self.leaves.get(path).map(|leaf| &leaf.entry)
    }

    /// Every path with what stands there, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&EntryPath, &Entry)> {
        self.leaves.iter().map(|(path, leaf)| (path, &leaf.entry))
    }

    /// When a file was changed last, seconds since 1970; nothing for one that was made here.
    pub(super) fn modified(&self, path: &EntryPath) -> Option<u64> {
        self.leaves.get(path)?.modified
    }

    /// The file whose extended attributes the one at a path has.
    pub(super) fn attributes(&self, path: &EntryPath) -> Option<&Path> {
        self.leaves.get(path)?.attributes.as_deref()
    }

    /// The bytes of a file of at most `most` bytes; nothing if it is longer or no file.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it was any more.
    pub fn bytes(&self, path: &EntryPath, most: u64) -> files::Result<Option<Vec<u8>>> {
        let Some(leaf) = self.leaves.get(path) else {
            return Ok(None);
        };
        let Content::File { size, sha256 } = leaf.entry.content else {
            return Ok(None);
        };
        if size > most {
            return Ok(None);
        }
        match &leaf.place {
            Place::Nowhere => Ok(None),
            Place::Here(packed) => {
                let bytes = packed.bytes();
                bytes
                    .map(Some)
                    .map_err(FileError::at("unpack", path.as_path()))
            }
            Place::At(place) => {
                let (file, _) = open_file(place)?;
                let mut bytes = Vec::new();
                file.take(most)
                    .read_to_end(&mut bytes)
                    .map_err(FileError::at("read", place))?;
                if Digest::of(&bytes) != sha256 {
                    let changed = io::Error::new(io::ErrorKind::InvalidData, "changed meanwhile");
                    return Err(FileError::at("read", place)(changed));
                }
                Ok(Some(bytes))
            }
        }
    }

    /// Opens a file for reading; the path is for messages. Nothing if it is no file.
    pub(super) fn open(&self, path: &EntryPath) -> files::Result<Option<(Box<dyn Read>, PathBuf)>> {
        let leaf = self.leaves.get(path);
        let Some(leaf) = leaf.filter(|leaf| leaf.entry.content.kind() == Kind::File) else {
            return Ok(None);
        };
        Ok(match &leaf.place {
            Place::Nowhere => None,
            Place::Here(packed) => Some((Box::new(packed.open()), path.as_path().to_owned())),
            Place::At(place) => Some((Box::new(open_file(place)?.0), place.to_path_buf())),
        })
    }

    /// Puts a file of these bytes at a path. It keeps the permissions and owner of the file that
    /// was there, or gets these.
    pub fn put(&mut self, path: &EntryPath, bytes: &[u8], otherwise: Meta) {
        self.put_packed(path, Packed::new(bytes), otherwise);
    }

    /// The same with bytes that wait already.
    pub(super) fn put_packed(&mut self, path: &EntryPath, bytes: Packed, otherwise: Meta) {
        let before = self.leaves.get(path);
        let before = before.filter(|leaf| leaf.entry.content.kind() == Kind::File);
        let leaf = Leaf {
            entry: Entry {
                content: bytes.content(),
                meta: before.map_or(otherwise, |leaf| leaf.entry.meta),
            },
            modified: None,
            attributes: before.and_then(|leaf| leaf.attributes.clone()),
            place: Place::Here(Box::new(bytes)),
        };
        self.leaves.insert(path.clone(), leaf);
    }

    /// Puts a link of root's at a path.
    pub(super) fn put_link(&mut self, path: &EntryPath, target: &[u8]) {
        let content = Content::Link {
            target: target.into(),
        };
        let meta = Meta {
            mode: 0o777,
            uid: 0,
            gid: 0,
        };
        let leaf = Leaf {
            entry: Entry { content, meta },
            place: Place::Nowhere,
            modified: None,
            attributes: None,
        };
        self.leaves.insert(path.clone(), leaf);
    }

    /// Puts what another tree has at `of` at `path`, with these permissions and owner.
    pub(super) fn take(&mut self, path: &EntryPath, from: &Self, of: &EntryPath, meta: Meta) {
        if let Some(leaf) = from.leaves.get(of) {
            let mut leaf = leaf.clone();
            leaf.entry.meta = meta;
            self.leaves.insert(path.clone(), leaf);
        }
    }

    /// Changes permissions and owner of what stands at a path.
    pub fn set_meta(&mut self, path: &EntryPath, meta: Meta) {
        if let Some(leaf) = self.leaves.get_mut(path) {
            leaf.entry.meta = meta;
        }
    }

    /// Takes an entry away, and everything below it.
    pub fn remove(&mut self, path: &EntryPath) {
        self.leaves
            .retain(|found, _| found != path && !found.is_below(path));
    }
}
