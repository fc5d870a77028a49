//! The archive in which a configuration crosses the flash: written here, read in `read`.
//!
//! One gzip member with an empty flag byte (block-device carriers of stock systems know a backup
//! by `1f 8b 08 00`), mtime 0 and OS 3; in it a tar that stock tools can restore, laid out as
//! [`crate::config::carry::bundle`] says. What the bundle says of a file was taken from the very bytes that went
//! into the archive, so that a file that changes meanwhile cannot make the two disagree.

mod read;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde_json::Value;

use crate::config::carry::baseline::Baseline;
use crate::config::carry::bundle::{
    self, BASELINE, BUNDLE, Bundle, Deletion, Directory, MAX_BUNDLE, MAX_DOCUMENT, OldDefault,
    RESOLUTIONS, STATE, Scope, Services,
};
use crate::config::carry::keep::{self, KeepList};
use crate::config::carry::owners::Owners;
use crate::config::carry::packages;
use crate::config::carry::scope::{Purpose, Selection};
use crate::config::carry::services;
use crate::config::carry::tarball::{AppendError, Head, Tarball};
use crate::config::path::escape;
use crate::config::report::{Notice, NoticeKind};
use crate::config::tree::{self, Content, Entry, Kind, Meta, Node};
use crate::config::{ConfigError, EntryPath, MAX_CONTENT, MAX_ENTRIES};
use crate::digest::{Digest, Hashing};
use crate::files::{self, FileError};

pub(in crate::config) use read::count_content;
pub use read::{Origin, Unpacked, inspect, unpack, verify};

/// Files up to this size are read before their header is written, so that one that is being
/// rewritten has its new size or its old one. Configuration files are far smaller.
const READ_AHEAD: u64 = 256 << 10;

/// What an archive may unpack to: contents, and a header, padding and name records for each entry
/// and its default.
pub(in crate::config) const MAX_UNPACKED: u64 =
    MAX_CONTENT + MAX_BUNDLE + 2 * MAX_ENTRIES as u64 * (10 << 10);

/// The most bytes of all names of an archive together: its bundle has to list them.
const MAX_NAMES: u64 = MAX_BUNDLE;

/// What is written into an archive.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The system, `/` or the directory of a virtual one.
    pub root: &'a Path,
    /// What to keep of it.
    pub keep: &'a KeepList,
    /// Where its files are as they were shipped, if anywhere.
    pub defaults: Option<&'a Path>,
    /// What to keep beyond the list.
    pub scope: Scope,
    /// Version of its image.
    pub from_version: &'a str,
    /// Its board.
    pub board: &'a str,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Kept files and links.
    pub files: u64,
    /// Bytes of their contents and of the old defaults.
    pub content: u64,
    /// Old defaults that the user deleted.
    pub deletions: u64,
    /// Oddities of the keep lists, and files that were gone.
    pub notices: Vec<Notice>,
}

/// Writes the archive that a system hands to its next version.
///
/// # Errors
/// When a file cannot be read, `out` cannot be written, or a bound of [`super`] is reached. What
/// `out` then holds is no archive.
pub fn write(out: impl Write, source: &Source) -> Result<Summary, ConfigError> {
    write_for(Purpose::Upgrade, out, source)
}

/// Writes an archive for a person to put away: besides what is our own, exactly what stock
/// `sysupgrade -b` has.
///
/// # Errors
/// As of [`write`], and [`ConfigError::NothingKept`]: an empty backup is none.
pub fn write_backup(out: impl Write, source: &Source) -> Result<Summary, ConfigError> {
    write_for(Purpose::Backup, out, source)
}

fn write_for(purpose: Purpose, out: impl Write, source: &Source) -> Result<Summary, ConfigError> {
    let gzip = GzBuilder::new()
        .mtime(0)
        .operating_system(3)
        .write(out, Compression::default());
    let baseline = Baseline::new(source.root, source.defaults);
    let Source { root, keep, .. } = *source;
    let mut selection = Selection::against(&baseline, root, keep, source.scope, purpose)?;
    if purpose == Purpose::Backup && selection.paths.is_empty() {
        return Err(ConfigError::NothingKept);
    }
    let mut writer = Writer {
        tarball: Tarball::new(gzip),
        source,
        baseline,
        bundle: Bundle {
            format: bundle::FORMAT,
            from_version: source.from_version.to_owned(),
            board: source.board.to_owned(),
            scope: source.scope,
            members: Vec::new(),
            directories: Vec::new(),
            deletions: Vec::new(),
            notices: source.keep.notices().to_vec(),
            services: None,
            owners: Owners::default(),
            state: document(source.root, STATE)?,
            resolutions: document(source.root, RESOLUTIONS)?,
        },
        changed: Vec::new(),
        summary: Summary::default(),
    };
    if !writer.baseline.is_known() {
        let unknown = Notice::new(NoticeKind::NoBaseline, "");
        writer.bundle.notices.push(unknown);
    }
    let told = selection.notices().iter();
    let untold = told.filter(|notice| !source.keep.notices().contains(notice));
    writer.bundle.notices.extend(untold.cloned());
    writer.write_made(&mut selection)?;
    writer.write_kept(&selection)?;
    writer.write_baseline(&selection)?;
    writer.describe_system()?;
    writer.finish()
}

struct Writer<'a, W: Write> {
    tarball: Tarball<W>,
    source: &'a Source<'a>,
    baseline: Baseline,
    bundle: Bundle,
    /// Paths whose default has to travel, with its root.
    changed: Vec<(EntryPath, PathBuf)>,
    summary: Summary,
}

impl<W: Write> Writer<'_, flate2::write::GzEncoder<W>> {
    /// Members that are no files of the system. Stock systems look for them at the begin.
    fn write_made(&mut self, selection: &mut Selection) -> Result<(), ConfigError> {
        let root = self.source.root;
        if let Some(script) = services::disable_script(root)? {
            let (name, of) = (services::DISABLE_SCRIPT, services::LINKS);
            if let Some((path, entry)) = self.append_made(selection, name, of, &script)? {
                self.bundle.members.push(bundle::Member {
                    path,
                    entry,
                    default: None,
                    generated: false,
                    made: true,
                    attributes: BTreeMap::new(),
                });
            }
        }
        if self.source.keep.listing().packages {
            let (database, installed) = packages::installed(root)?;
            let list = packages::list(&installed);
            if let Some((path, entry)) =
                self.append_made(selection, keep::PACKAGE_LIST, database, &list)?
            {
                let (default, generated) = self.compare(&path, &entry)?;
                self.bundle.members.push(bundle::Member {
                    path,
                    entry,
                    default: Some(default),
                    generated,
                    made: false, // a file of the system that the archive goes to
                    attributes: BTreeMap::new(),
                });
                self.summary.files += 1;
            }
        }
        Ok(())
    }

    /// Appends a file of ours, which counts instead of one of that name that is kept. It is as old as
    /// the directory `of`, of which it tells. Nothing if a kept file or link stands in its way.
    fn append_made(
        &mut self,
        selection: &mut Selection,
        name: &str,
        of: &str,
        text: &[u8],
    ) -> Result<Option<(EntryPath, Entry)>, ConfigError> {
        let own = |name: &str| {
            EntryPath::new(name.as_bytes()).map_err(|why| ConfigError::damaged(name, why.problem()))
        };
        let (path, of) = (own(name)?, own(of)?);
        let is_file = |dir: EntryPath| selection.paths.contains(&dir);
        if path.ancestors().any(is_file) || selection.directories.contains(&path) {
            let notice = Notice::new(NoticeKind::OtherKind, &path);
            self.bundle.notices.push(notice);
            return Ok(None);
        }
        selection.paths.remove(&path);
        selection.deletions.remove(&path);
        let head = Head {
            meta: Meta {
                mode: 0o644,
                uid: 0,
                gid: 0,
            },
            modified: tree::node(self.source.root, &of)?.map_or(0, |node| node.modified),
            size: text.len() as u64,
            made: true,
        };
        self.tarball
            .append(path.as_bytes(), None, Kind::File, &head, &mut &*text)
            .map_err(AppendError::into_write)?;
        let content = Content::File {
            size: head.size,
            sha256: Digest::of(text),
        };
        let meta = head.meta;
        Ok(Some((path, Entry { content, meta })))
    }

    fn write_kept(&mut self, selection: &Selection) -> Result<(), ConfigError> {
        let Source { root, .. } = *self.source;
        for path in &selection.paths {
            let Some(entry) = self.append(root, path, path)? else {
                self.bundle
                    .notices
                    .push(Notice::new(NoticeKind::Vanished, path));
                continue;
            };
            let (default, generated) = self.compare(path, &entry)?;
            self.bundle.members.push(bundle::Member {
                path: path.clone(),
                entry,
                default: Some(default),
                generated,
                made: false,
                attributes: attributes(root, path)?,
            });
            self.summary.files += 1;
        }
        for path in &selection.directories {
            let node = tree::node(root, path)?.filter(|node| node.kind == Some(Kind::Dir));
            let Some(Node { meta, .. }) = node else {
                continue;
            };
            let content = Content::Dir;
            let (default, _) = self.compare(path, &Entry { content, meta })?;
            self.bundle.directories.push(Directory {
                path: path.clone(),
                meta,
                default,
            });
        }
        Ok(())
    }

    /// What the old image had in the place of this entry; remembers a default that must travel.
    fn compare(
        &mut self,
        path: &EntryPath,
        entry: &Entry,
    ) -> Result<(OldDefault, bool), ConfigError> {
        let Some(default) = self.baseline.find(path)? else {
            return Ok((OldDefault::None, false));
        };
        if default.is(path, entry)? {
            return Ok((OldDefault::Same, default.generated));
        }
        self.changed.push((path.clone(), default.root.to_owned()));
        Ok((OldDefault::Changed, default.generated))
    }

    fn write_baseline(&mut self, selection: &Selection) -> Result<(), ConfigError> {
        for path in &selection.deletions {
            if let Some(default) = self.baseline.find(path)? {
                self.changed.push((path.clone(), default.root.to_owned()));
                self.bundle.deletions.push(Deletion {
                    path: path.clone(),
                    generated: default.generated,
                });
            }
        }
        self.summary.deletions = self.bundle.deletions.len() as u64;
        for (path, root) in std::mem::take(&mut self.changed) {
            let name = [BASELINE.as_bytes(), b"/", path.as_bytes()].concat();
            let name =
                EntryPath::new(&name).map_err(|why| ConfigError::damaged(&path, why.problem()))?;
            if let Some(entry) = self.append(&root, &path, &name)? {
                self.bundle.members.push(bundle::Member {
                    path: name,
                    entry,
                    default: None,
                    generated: false,
                    made: false,
                    attributes: BTreeMap::new(),
                });
            }
        }
        Ok(())
    }

    /// What the merge must know of the system beyond its files.
    fn describe_system(&mut self) -> Result<(), ConfigError> {
        let Source { root, .. } = *self.source;
        if let Some(user) = services::enabled(root)? {
            let default = self.baseline.services()?;
            self.bundle.services = Some(Services { default, user });
        }
        let members = self.bundle.members.iter().map(|member| &member.entry.meta);
        let directories = self.bundle.directories.iter().map(|dir| &dir.meta);
        self.bundle.owners = Owners::of(root, members.chain(directories))?;
        Ok(())
    }

    fn finish(mut self) -> Result<Summary, ConfigError> {
        let bytes =
            serde_json::to_vec(&self.bundle).map_err(|error| ConfigError::Write(error.into()))?;
        if bytes.len() as u64 > MAX_BUNDLE {
            return Err(ConfigError::TooMuch {
                what: "size of the list of all kept files in bytes",
                most: MAX_BUNDLE,
            });
        }
        let head = Head {
            meta: Meta {
                mode: 0o600,
                uid: 0,
                gid: 0,
            },
            modified: 0,
            size: bytes.len() as u64,
            made: false,
        };
        self.tarball
            .append(BUNDLE.as_bytes(), None, Kind::File, &head, &mut &*bytes)
            .map_err(AppendError::into_write)?;
        let gzip = self.tarball.finish().map_err(ConfigError::Write)?;
        let mut out = gzip.finish().map_err(ConfigError::Write)?;
        out.flush().map_err(ConfigError::Write)?;
        self.summary.notices = self.bundle.notices;
        Ok(self.summary)
    }

    /// Writes what stands at `path` below `root` as the member `name`. Nothing if it is gone.
    fn append(
        &mut self,
        root: &Path,
        path: &EntryPath,
        name: &EntryPath,
    ) -> Result<Option<Entry>, ConfigError> {
        if self.bundle.members.len() >= 2 * MAX_ENTRIES {
            return Err(ConfigError::TooMuch {
                what: "number of kept files",
                most: MAX_ENTRIES as u64,
            });
        }
        let Some(node) = tree::node(root, path)? else {
            return Ok(None);
        };
        let mut head = Head {
            meta: node.meta,
            modified: node.modified,
            size: 0,
            made: false,
        };
        let content = match node.kind {
            Some(Kind::File) => match self.append_file(root, path, name, &mut head)? {
                Some(content) => content,
                None => return Ok(None),
            },
            Some(kind @ (Kind::Link | Kind::Dir)) => {
                let target = match kind {
                    Kind::Link => Some(tree::read_link(root, path)?),
                    _ => None,
                };
                self.tarball
                    .append(
                        name.as_bytes(),
                        target.as_deref(),
                        kind,
                        &head,
                        &mut io::empty(),
                    )
                    .map_err(AppendError::into_write)?;
                target.map_or(Content::Dir, |target| Content::Link { target })
            }
            None => return Ok(None),
        };
        Ok(Some(Entry {
            content,
            meta: head.meta,
        }))
    }

    fn append_file(
        &mut self,
        root: &Path,
        path: &EntryPath,
        name: &EntryPath,
        head: &mut Head,
    ) -> Result<Option<Content>, ConfigError> {
        let (mut file, node) = match tree::open(root, path) {
            Ok(opened) => opened,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let read_error = |error| FileError::at("read", &path.under(root))(error);
        let mut begin = Vec::new();
        (&mut file)
            .take(READ_AHEAD)
            .read_to_end(&mut begin)
            .map_err(read_error)?;
        let ahead = begin.len() as u64;
        *head = Head {
            meta: node.meta,
            modified: node.modified,
            // A short read is the end of the file, whatever its size was a moment ago.
            size: if ahead < READ_AHEAD {
                ahead
            } else {
                node.size.max(ahead)
            },
            made: false,
        };
        self.summary.content += head.size;
        if self.summary.content > MAX_CONTENT {
            return Err(ConfigError::TooMuch {
                what: "size of the kept files in bytes",
                most: MAX_CONTENT,
            });
        }
        let mut hashing = Hashing::new((&*begin).chain(file));
        self.tarball
            .append(name.as_bytes(), None, Kind::File, head, &mut hashing)
            .map_err(|error| match error {
                AppendError::Short => ConfigError::Changed { path: path.clone() },
                AppendError::Source(error) => read_error(error).into(),
                AppendError::Sink(error) => ConfigError::Write(error),
            })?;
        let (_, size, sha256) = hashing.finish();
        Ok(Some(Content::File { size, sha256 }))
    }
}

/// A JSON document of the program's own, as it is.
fn document(root: &Path, name: &str) -> Result<Option<Value>, ConfigError> {
    let path =
        EntryPath::new(name.as_bytes()).map_err(|why| ConfigError::damaged(name, why.problem()))?;
    if tree::node(root, &path)?.is_none() {
        return Ok(None);
    }
    let (file, node) = tree::open(root, &path)?;
    if node.size > MAX_DOCUMENT {
        let long = io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {MAX_DOCUMENT} bytes"),
        );
        return Err(FileError::at("read", &path.under(root))(long).into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT)
        .read_to_end(&mut bytes)
        .map_err(FileError::at("read", &path.under(root)))?;
    match serde_json::from_slice(&bytes) {
        Ok(document) => Ok(Some(document)),
        Err(source) => Err(ConfigError::NotJson { path, source }),
    }
}

/// Extended attributes, as a bundle has them. None of what is gone, or is no file.
fn attributes(root: &Path, path: &EntryPath) -> Result<BTreeMap<String, String>, ConfigError> {
    if tree::node(root, path)?.is_none_or(|node| node.kind != Some(Kind::File)) {
        return Ok(BTreeMap::new());
    }
    let found = match files::attributes(&path.under(root)) {
        Err(error) if error.is_not_found() => return Ok(BTreeMap::new()),
        found => found?,
    };
    let texts = found
        .iter()
        .map(|(name, value)| (name.clone(), escape(value)));
    Ok(texts.collect())
}
