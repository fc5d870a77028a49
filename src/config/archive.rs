//! The archive in which a configuration crosses the flash: written, and verified.
//!
//! One gzip member with an empty flag byte (block-device carriers of stock systems know a backup
//! by `1f 8b 08 00`), mtime 0 and OS 3; in it a tar that stock tools can restore, laid out as
//! [`super::bundle`] says. What the bundle says of a file was taken from the very bytes that went
//! into the archive, so that a file that changes meanwhile cannot make the two disagree.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};

use super::baseline::{Baseline, is_same, left_behind};
use super::bundle::{self, BASELINE, BUNDLE, Bundle, Deletion, Directory, OldDefault, Scope};
use super::keep::KeepList;
use super::report::{Notice, NoticeKind};
use super::tarball::{AppendError, Gunzip, Head, Member, MemberKind, Members, Tarball};
use super::tree::{self, Content, Entry, Kind, Meta, Node};
use super::{ConfigError, EntryPath, MAX_CONTENT, MAX_ENTRIES};
use crate::digest::Hashing;
use crate::files::FileError;

/// Files up to this size are read before their header is written, so that one that is being
/// rewritten has its new size or its old one. Configuration files are far smaller.
const READ_AHEAD: u64 = 256 << 10;

/// What an archive may unpack to: contents, and a header, padding and name records for each entry
/// and its default.
pub(super) const MAX_UNPACKED: u64 =
    MAX_CONTENT + bundle::MAX_BUNDLE + 2 * MAX_ENTRIES as u64 * (10 << 10);

/// What is written into an archive.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The system, `/` or the directory of a virtual one.
    pub root: &'a Path,
    /// What to keep of it.
    pub keep: &'a KeepList,
    /// Where its files are as they were shipped, if anywhere.
    pub defaults: Option<&'a Path>,
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

/// Writes the archive of a system.
///
/// # Errors
/// When a file cannot be read, `out` cannot be written, or a bound of [`super`] is reached. What
/// `out` then holds is no archive.
pub fn write(out: impl Write, source: &Source) -> Result<Summary, ConfigError> {
    let gzip = GzBuilder::new()
        .mtime(0)
        .operating_system(3)
        .write(out, Compression::default());
    let mut writer = Writer {
        tarball: Tarball::new(gzip),
        source,
        baseline: Baseline::new(source.root, source.defaults),
        bundle: Bundle {
            format: bundle::FORMAT,
            from_version: source.from_version.to_owned(),
            board: source.board.to_owned(),
            scope: Scope::Declared,
            members: Vec::new(),
            directories: Vec::new(),
            deletions: Vec::new(),
            notices: source.keep.notices().to_vec(),
        },
        changed: Vec::new(),
        summary: Summary::default(),
    };
    if !writer.baseline.is_known() {
        let unknown = Notice::new(NoticeKind::NoBaseline, "");
        writer.bundle.notices.push(unknown);
    }
    writer.write_kept()?;
    writer.write_baseline()?;
    let left = left_behind(source.root, source.keep, source.defaults)?;
    writer.bundle.notices.extend(left);
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
    fn write_kept(&mut self) -> Result<(), ConfigError> {
        let Source { root, keep, .. } = *self.source;
        for path in keep.paths() {
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
            });
            self.summary.files += 1;
        }
        for path in keep.directories() {
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
        let Some((root, node, generated)) = self.baseline.find(path)? else {
            return Ok((OldDefault::None, false));
        };
        if is_same(root, path, &node, entry)? {
            return Ok((OldDefault::Same, generated));
        }
        let root = root.to_owned();
        self.changed.push((path.clone(), root));
        Ok((OldDefault::Changed, generated))
    }

    fn write_baseline(&mut self) -> Result<(), ConfigError> {
        for path in self.baseline.named_by(self.source.keep)? {
            if tree::node(self.source.root, &path)?.is_some() {
                continue;
            }
            if let Some((root, _, generated)) = self.baseline.find(&path)? {
                self.changed.push((path.clone(), root.to_owned()));
                self.bundle.deletions.push(Deletion { path, generated });
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
                });
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Summary, ConfigError> {
        let bytes =
            serde_json::to_vec(&self.bundle).map_err(|error| ConfigError::Write(error.into()))?;
        let head = Head {
            meta: Meta {
                mode: 0o600,
                uid: 0,
                gid: 0,
            },
            modified: 0,
            size: bytes.len() as u64,
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

/// Who made an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// [`write`]: it was verified against its own bundle.
    Own,
    /// Another tool, stock `sysupgrade -b` for one: the bundle was made from what it holds, and
    /// says that no old default is known.
    Foreign,
}

/// Verifies a whole archive against its own bundle, in memory that does not depend on the size of
/// its files.
///
/// # Errors
/// When it cannot be read, is cut, altered, or has a member too many or too few, or no bundle.
pub fn verify(source: impl Read) -> Result<Bundle, ConfigError> {
    match inspect(source)? {
        (bundle, Origin::Own) => Ok(bundle),
        (_, Origin::Foreign) => Err(ConfigError::damaged(BUNDLE, "is missing")),
    }
}

/// [`verify`], but an archive that another tool made is read, too.
///
/// # Errors
/// As [`verify`]; an archive without a bundle must still be a whole gzip stream and a whole tar, of
/// plain names, each once.
pub fn inspect(source: impl Read) -> Result<(Bundle, Origin), ConfigError> {
    let mut members = Members::new(Gunzip::new(BufReader::new(source), MAX_UNPACKED, true));
    let mut seen = Vec::new();
    let mut notices = Vec::new();
    let mut own = None;
    let mut content = 0;
    while let Some(member) = members.next().map_err(ConfigError::Read)? {
        count_content(&mut content, &member)?;
        let path = path_of(&member)?;
        if own.is_some() {
            return Err(ConfigError::damaged(&path, "follows the bundle"));
        }
        if path.as_bytes() == BUNDLE.as_bytes() {
            own = Some(read_bundle(&mut members, &member)?);
            continue;
        }
        let content = match &member.kind {
            MemberKind::File => {
                let (size, sha256) = tree::hash(&mut members).map_err(ConfigError::Read)?;
                Content::File { size, sha256 }
            }
            MemberKind::Link(target) => Content::Link {
                target: target.clone().into(),
            },
            MemberKind::Dir => Content::Dir,
            MemberKind::HardLink(_) | MemberKind::Other => {
                notices.push(Notice::new(NoticeKind::SpecialFile, &path));
                continue;
            }
        };
        let mut meta = member.meta;
        if content.kind() == Kind::Link {
            meta.mode = 0o777; // what tools store here differs, and says nothing
        }
        seen.push((path, Entry { content, meta }));
        if seen.len() > 2 * MAX_ENTRIES {
            return Err(ConfigError::TooMuch {
                what: "number of members",
                most: 2 * MAX_ENTRIES as u64,
            });
        }
    }
    if members.drain().map_err(ConfigError::Read)? {
        return Err(ConfigError::damaged(
            "its end",
            "bytes follow the last member",
        ));
    }
    let (bundle, origin) = match own {
        Some(bundle) => {
            compare(&bundle, &seen)?;
            if let Some(notice) = notices.first() {
                return Err(ConfigError::damaged(
                    &notice.path,
                    "is no file, link or directory",
                ));
            }
            (bundle, Origin::Own)
        }
        None => (foreign(seen, notices), Origin::Foreign),
    };
    bundle.check()?;
    Ok((bundle, origin))
}

/// Adds what a member announces to the sum of all; refuses more than [`MAX_CONTENT`].
pub(super) fn count_content(sum: &mut u64, member: &Member) -> Result<(), ConfigError> {
    *sum = sum.saturating_add(member.size);
    if *sum > MAX_CONTENT {
        return Err(ConfigError::TooMuch {
            what: "size of the files in the archive in bytes",
            most: MAX_CONTENT,
        });
    }
    Ok(())
}

/// The name of a member; anything that leads out of the tree is refused.
pub(super) fn path_of(member: &Member) -> Result<EntryPath, ConfigError> {
    EntryPath::new(&member.name)
        .map_err(|why| ConfigError::damaged(super::path::escape(&member.name), why.problem()))
}

fn read_bundle(members: &mut impl Read, member: &Member) -> Result<Bundle, ConfigError> {
    if member.kind != MemberKind::File || member.size > bundle::MAX_BUNDLE {
        return Err(ConfigError::damaged(BUNDLE, "is too large or no file"));
    }
    let mut bytes = Vec::new();
    members.read_to_end(&mut bytes).map_err(ConfigError::Read)?;
    serde_json::from_slice(&bytes).map_err(|error| ConfigError::damaged(BUNDLE, error.to_string()))
}

fn compare(bundle: &Bundle, seen: &[(EntryPath, Entry)]) -> Result<(), ConfigError> {
    for (listed, (path, entry)) in bundle.members.iter().zip(seen) {
        if listed.path != *path {
            let problem = format!("stands where the bundle lists `{}`", listed.path);
            return Err(ConfigError::damaged(path, problem));
        }
        if listed.entry != *entry {
            return Err(ConfigError::damaged(path, "is not what the bundle says"));
        }
    }
    if bundle.members.len() == seen.len() {
        return Ok(());
    }
    let problem = format!(
        "lists {} members, there are {}",
        bundle.members.len(),
        seen.len()
    );
    Err(ConfigError::damaged(BUNDLE, problem))
}

/// The bundle of an archive that has none.
fn foreign(seen: Vec<(EntryPath, Entry)>, mut notices: Vec<Notice>) -> Bundle {
    let mut members = Vec::new();
    let mut directories = Vec::new();
    for (path, Entry { content, meta }) in seen {
        let default = OldDefault::None;
        if path.is_within(super::STATE_DIR) {
            notices.push(Notice::new(NoticeKind::StateFile, &path));
        } else if content == Content::Dir {
            directories.push(Directory {
                path,
                meta,
                default,
            });
        } else {
            members.push(bundle::Member {
                path,
                entry: Entry { content, meta },
                default: Some(default),
                generated: false,
            });
        }
    }
    notices.push(Notice::new(NoticeKind::NoBaseline, ""));
    Bundle {
        format: bundle::FORMAT,
        from_version: String::new(),
        board: String::new(),
        scope: Scope::Declared,
        members,
        directories,
        deletions: Vec::new(),
        notices,
    }
}

/// Opens an archive file and reads it member by member. Only for one that [`inspect`] accepted.
pub(super) fn members(path: &Path) -> Result<Members<Gunzip<BufReader<fs::File>>>, ConfigError> {
    let file = fs::File::open(path).map_err(FileError::at("open", path))?;
    Ok(Members::new(Gunzip::new(
        BufReader::new(file),
        MAX_UNPACKED,
        true,
    )))
}
