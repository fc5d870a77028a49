//! A directory tree as a value.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sysupgrade_rs::files;

/// What stands under one name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    Dir { mode: u32 },
    File { mode: u32, data: Arc<Vec<u8>> },
    Link { target: PathBuf },
    Whiteout,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir { mode } => write!(f, "directory {mode:o}"),
            Self::Link { target } => write!(f, "link to {}", target.display()),
            Self::Whiteout => f.write_str("whiteout"),
            Self::File { mode, data } => {
                write!(f, "file {mode:o}, {} bytes", data.len())?;
                match std::str::from_utf8(data) {
                    Ok(text) if text.len() <= 80 => write!(f, " {text:?}"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// A directory tree: entries by path, a directory before what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Snapshot(pub BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// Reads everything below `root`.
    pub fn read(root: &Path) -> Self {
        let mut snapshot = Self::default();
        snapshot.add(root, Path::new(""));
        snapshot
    }

    fn add(&mut self, root: &Path, dir: &Path) {
        for name in files::list(&root.join(dir)).expect("a directory") {
            let path = dir.join(name);
            let place = root.join(&path);
            let metadata = fs::symlink_metadata(&place).expect("an entry that was listed");
            let mode = metadata.permissions().mode() & 0o7777;
            let kind = metadata.file_type();
            let entry = if kind.is_dir() {
                self.add(root, &path);
                Entry::Dir { mode }
            } else if kind.is_symlink() {
                let target = fs::read_link(&place).expect("a link");
                Entry::Link { target }
            } else if files::is_whiteout(&metadata) {
                Entry::Whiteout
            } else {
                assert!(kind.is_file(), "{}: neither file nor link", place.display());
                let data = Arc::new(fs::read(&place).expect("a readable file"));
                Entry::File { mode, data }
            };
            self.0.insert(path, entry);
        }
    }

    /// Makes `root`, which may not exist, hold exactly this.
    pub fn write(&self, root: &Path) {
        fs::create_dir_all(root).expect("a directory to write to");
        for (path, entry) in &self.0 {
            let place = root.join(path);
            let set_mode = |mode: &u32| {
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).expect("a mode");
            };
            match entry {
                Entry::Dir { mode } => {
                    fs::create_dir(&place).expect("a new directory");
                    set_mode(mode);
                }
                Entry::File { mode, data } => {
                    fs::write(&place, data.as_slice()).expect("a new file");
                    set_mode(mode);
                }
                Entry::Link { target } => {
                    std::os::unix::fs::symlink(target, &place).expect("a new link");
                }
                Entry::Whiteout => files::whiteout(&place).expect("a new whiteout"),
            }
        }
    }

    /// The subtree below `dir`, with paths from there.
    pub fn below(&self, dir: impl AsRef<Path>) -> Self {
        let inside = |(path, entry): (&PathBuf, &Entry)| {
            let path = path.strip_prefix(&dir).ok()?;
            (path != Path::new("")).then(|| (path.to_owned(), entry.clone()))
        };
        Self(self.0.iter().filter_map(inside).collect())
    }

    /// Without the subtree of that name.
    pub fn without(&self, dir: impl AsRef<Path>) -> Self {
        let kept = |(path, _): &(&PathBuf, &Entry)| !path.starts_with(&dir);
        let clone = |(path, entry): (&PathBuf, &Entry)| (path.clone(), entry.clone());
        Self(self.0.iter().filter(kept).map(clone).collect())
    }

    /// Content of a regular file.
    pub fn data(&self, path: impl AsRef<Path>) -> Option<&[u8]> {
        match self.0.get(path.as_ref())? {
            Entry::File { data, .. } => Some(data.as_slice()),
            _ => None,
        }
    }

    /// Each line a path that is not the same in both: for messages.
    pub fn differences(&self, other: &Self) -> String {
        let mut text = String::new();
        let mut paths: Vec<_> = self.0.keys().chain(other.0.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let (found, expected) = (self.0.get(path), other.0.get(path));
            if found != expected {
                let path = path.display();
                text += &format!("  {path}: found {found:?}, expected {expected:?}\n");
            }
        }
        text
    }

    /// Stands for the whole tree; two that differ have the same one by a chance of 2^-64.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}
