//! A tree under construction: entries written beside their place, with permissions and owner.
//!
//! Nothing here is durable by itself: [`files::sync_tree`] makes the whole tree so, before it is
//! given its name or a journal points to it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::tree::{Content, Entry, Meta};
use crate::config::{ConfigError, EntryPath, STATE_DIR};
use crate::digest::Hashing;
use crate::files::{self, FileError, NewFile};

/// What a directory gets that nobody says anything of.
const PLAIN_DIR: u32 = 0o755;

/// The program's own directories hold what other users must not see.
const STATE_MODE: u32 = 0o700;

/// A tree under construction.
pub(in crate::config) struct Stage {
    dir: PathBuf,
    made: BTreeSet<EntryPath>,
}

/// Where the content of a file comes from; the path is for messages.
pub(in crate::config) struct Source<'a> {
    pub path: &'a Path,
    pub content: &'a mut dyn Read,
    /// The file whose extended attributes it gets.
    pub attributes: Option<&'a Path>,
    /// Modification time, seconds since 1970; now if `None`.
    pub modified: Option<u64>,
}

impl Stage {
    /// Begins an empty tree at `dir`, which must not exist.
    pub(in crate::config) fn new(dir: &Path, mode: u32) -> Result<Self, ConfigError> {
        files::make_dir(dir, mode)?;
        Ok(Self {
            dir: dir.to_owned(),
            made: BTreeSet::new(),
        })
    }

    /// True if it has that directory already.
    pub(in crate::config) fn has_dir(&self, path: &EntryPath) -> bool {
        self.made.contains(path)
    }

    /// Where an entry stands.
    pub(in crate::config) fn place(&self, path: &EntryPath) -> PathBuf {
        path.under(&self.dir)
    }

    /// Makes a directory whose parents are made.
    pub(in crate::config) fn make_dir(
        &mut self,
        path: &EntryPath,
        meta: Option<Meta>,
    ) -> Result<(), ConfigError> {
        if !self.made.insert(path.clone()) {
            return Ok(());
        }
        let place = self.place(path);
        let Some(meta) = meta else {
            let state = path.is_within(STATE_DIR);
            files::make_dir(&place, if state { STATE_MODE } else { PLAIN_DIR })?;
            return Ok(());
        };
        files::make_dir(&place, meta.mode)?;
        set_owner(&place, meta)
    }

    /// Writes an entry whose parents are made, with these permissions. The content must be what the
    /// entry says.
    pub(in crate::config) fn put(
        &mut self,
        path: &EntryPath,
        entry: &Entry,
        source: &mut Source,
    ) -> Result<(), ConfigError> {
        let place = self.place(path);
        match &entry.content {
            Content::Dir => self.make_dir(path, Some(entry.meta)),
            Content::Link { target } => {
                files::symlink(Path::new(OsStr::from_bytes(target)), &place)?;
                set_owner(&place, entry.meta)
            }
            Content::File { size, sha256 } => {
                let mut content = Hashing::new(&mut *source.content);
                let mut new = NewFile::create_directly(&place, entry.meta.mode)?;
                give_away(&new, entry.meta)?;
                copy(&mut content, source.path, &mut new, &place)?;
                let (_, found_size, found_sha256) = content.finish();
                if (found_size, found_sha256) != (*size, *sha256) {
                    return Err(ConfigError::damaged(path, "changed since it was verified"));
                }
                if let Some(from) = source.attributes {
                    new.set_attributes(&files::attributes(from)?)?;
                }
                new.place()?;
                if let Some(modified) = source.modified {
                    files::set_modified(&place, modified)?;
                }
                Ok(())
            }
        }
    }
}

/// Begins a file of a living tree; when it gets its name it belongs to its owner.
pub(in crate::config) fn begin(place: &Path, meta: Meta) -> Result<NewFile, ConfigError> {
    let file = NewFile::create(place, meta.mode)?;
    give_away(&file, meta)?;
    Ok(file)
}

/// Gives a file to its owner while nobody sees it yet.
fn give_away(file: &NewFile, meta: Meta) -> Result<(), ConfigError> {
    if may_give_away() {
        file.set_owner(meta.uid, meta.gid)?;
    }
    Ok(())
}

/// Gives a link or directory to its owner.
pub(in crate::config) fn set_owner(place: &Path, meta: Meta) -> Result<(), ConfigError> {
    if may_give_away() {
        files::set_owner(place, meta.uid, meta.gid)?;
    }
    Ok(())
}

/// Only root may. On a router this program is root; of a virtual one, everything belongs to whoever
/// plays with it.
fn may_give_away() -> bool {
    rustix::process::geteuid().is_root()
}

/// Copies all of `content`; says which side failed.
pub(in crate::config) fn copy(
    content: &mut dyn Read,
    from: &Path,
    to: &mut dyn Write,
    place: &Path,
) -> Result<(), ConfigError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to
                .write_all(&buffer[..count])
                .map_err(FileError::at("write", place))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FileError::at("read", from)(error).into()),
        }
    }
}
