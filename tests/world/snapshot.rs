//! A directory tree as a value.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sysupgrade_rs::files::{self, FileError};

/// What stands under one name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    Dir { mode: u32 },
    File { mode: u32, data: Arc<Vec<u8>> },
    Link { target: PathBuf },
    Whiteout,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// Reads everything below `root`; a directory that does not exist is empty.
    pub fn read(root: &Path) -> files::Result<Self> {
        let mut snapshot = Self::default();
        if files::is_dir(root) {
            snapshot.add(root, Path::new(""))?;
        }
        Ok(snapshot)
    }

    fn add(&mut self, root: &Path, dir: &Path) -> files::Result<()> {
        for name in files::list(&root.join(dir))? {
            let path = dir.join(name);
            let place = root.join(&path);
            let metadata =
                fs::symlink_metadata(&place).map_err(FileError::at("examine", &place))?;
            let mode = metadata.permissions().mode() & 0o7777;
            let kind = metadata.file_type();
            let entry = if kind.is_dir() {
                self.add(root, &path)?;
                Entry::Dir { mode }
            } else if kind.is_symlink() {
                let target = fs::read_link(&place).map_err(FileError::at("read", &place))?;
                Entry::Link { target }
            } else if files::is_whiteout(&metadata) {
                Entry::Whiteout
            } else {
                let data = fs::read(&place).map_err(FileError::at("read", &place))?;
                Entry::File {
                    mode,
                    data: Arc::new(data),
                }
            };
            self.0.insert(path, entry);
        }
        Ok(())
    }

    /// Writes everything into the directory `root`, which is made if it is missing.
    pub fn write(&self, root: &Path) -> files::Result<()> {
        fs::create_dir_all(root).map_err(FileError::at("create", root))?;
        for (path, entry) in &self.0 {
            let place = root.join(path);
            let written = match entry {
                Entry::Dir { .. } => fs::create_dir(&place),
                Entry::File { data, .. } => fs::write(&place, data.as_slice()),
                Entry::Link { target } => std::os::unix::fs::symlink(target, &place),
                Entry::Whiteout => {
                    files::whiteout(&place)?;
                    Ok(())
                }
            };
            written.map_err(FileError::at("create", &place))?;
        }
        // A directory last: it may forbid its owner to write.
        for (path, entry) in self.0.iter().rev() {
            if let Entry::Dir { mode } | Entry::File { mode, .. } = entry {
                files::set_mode(&root.join(path), *mode)?;
            }
        }
        Ok(())
    }

    /// As a tar archive, the same bytes for the same tree; no whiteouts.
    pub fn to_tar(&self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            match entry {
                Entry::Dir { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                Entry::File { mode, data } => {
                    header.set_mode(*mode);
                    header.set_size(data.len() as u64);
                    tar.append_data(&mut header, path, data.as_slice())?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, target)?;
                }
                Entry::Whiteout => return Err("a tar archive holds no whiteouts".into()),
            }
        }
        Ok(tar.into_inner()?)
    }

    /// The tree in a tar archive; what comes after its end does not matter.
    pub fn from_tar(bytes: &[u8]) -> Result<Self, Box<dyn Error>> {
        let mut tree = Self::default();
        for member in tar::Archive::new(bytes).entries()? {
            let mut member = member?;
            // `tar -C DIR .` names everything `./...`.
            let path = member.path()?.into_owned();
            let path = path.strip_prefix(".").unwrap_or(&path).to_owned();
            let mode = member.header().mode()? & 0o7777;
            let entry = match member.header().entry_type() {
                tar::EntryType::Directory => Entry::Dir { mode },
                tar::EntryType::Symlink => {
                    let target = member.link_name()?.ok_or("a link without a target")?;
                    Entry::Link {
                        target: target.into_owned(),
                    }
                }
                _ => {
                    let mut data = Vec::new();
                    member.read_to_end(&mut data)?;
                    Entry::File {
                        mode,
                        data: Arc::new(data),
                    }
                }
            };
            if path != Path::new("") {
                tree.0.insert(path, entry);
            }
        }
        Ok(tree)
    }

    /// The subtree below `dir`, with paths from there.
    pub fn below(&self, dir: impl AsRef<Path>) -> Self {
        let inside = |(path, entry): (&PathBuf, &Entry)| {
            let path = path.strip_prefix(&dir).ok()?;
            (path != Path::new("")).then(|| (path.to_owned(), entry.clone()))
        };
        Self(self.0.iter().filter_map(inside).collect())
    }

    /// Puts an entry there, with the directories that lead to it.
    pub fn put(&mut self, path: impl AsRef<Path>, entry: Entry) {
        let path = path.as_ref();
        for dir in path.ancestors().skip(1).filter(|dir| *dir != Path::new("")) {
            let plain = Entry::Dir { mode: 0o755 };
            self.0.entry(dir.to_owned()).or_insert(plain);
        }
        self.0.insert(path.to_owned(), entry);
    }

    /// Puts a file there.
    pub fn put_file(&mut self, path: impl AsRef<Path>, mode: u32, text: &str) {
        let data = Arc::new(text.as_bytes().to_vec());
        self.put(path, Entry::File { mode, data });
    }

    /// Puts a link there.
    pub fn put_link(&mut self, path: impl AsRef<Path>, target: &str) {
        let target = target.into();
        self.put(path, Entry::Link { target });
    }

    /// Takes away what has that name, with everything below it.
    pub fn remove(&mut self, name: impl AsRef<Path>) {
        self.0.retain(|path, _| !path.starts_with(&name));
    }

    /// Lays an upper directory over it, as overlayfs does.
    pub fn lay_over(&mut self, upper: Self) {
        for (path, entry) in upper.0 {
            let both = (self.0.get(&path), &entry);
            if !matches!(both, (Some(Entry::Dir { .. }), Entry::Dir { .. })) {
                self.remove(&path);
            }
            if entry != Entry::Whiteout {
                self.0.insert(path, entry);
            }
        }
    }

    /// Content of a regular file.
    pub fn data(&self, path: impl AsRef<Path>) -> Option<&[u8]> {
        match self.0.get(path.as_ref())? {
            Entry::File { data, .. } => Some(data.as_slice()),
            _ => None,
        }
    }

    /// Each line a path that is not the same in both: for messages.
    pub fn differences(&self, expected: &Self) -> String {
        let mut text = String::new();
        let mut paths: Vec<_> = self.0.keys().chain(expected.0.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let (found, expected) = (self.0.get(path), expected.0.get(path));
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
