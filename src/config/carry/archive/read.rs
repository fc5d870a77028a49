//! The archive, read: verified against its own bundle, and unpacked where a merge can work on it.
//!
//! There is one walk over the members, [`walk`], and all rules are in it. What it is done for
//! differs only in what becomes of the bytes of a file: [`inspect`] hashes them, [`unpack`] writes
//! them down, too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::{MAX_NAMES, MAX_UNPACKED};
use crate::config::carry::bundle::{
    self, BASELINE, BUNDLE, Bundle, Directory, OldDefault, Scope, Services,
};
use crate::config::carry::owners::Owners;
use crate::config::carry::services;
use crate::config::carry::tarball::{Gunzip, Member, MemberKind, Members};
use crate::config::report::{Notice, NoticeKind};
use crate::config::tree::{self, Content, Entry, Kind, Tree};
use crate::config::{ConfigError, EntryPath, MAX_CONTENT, MAX_ENTRIES, STATE_DIR, path};
use crate::digest::{Digest, Hashing};
use crate::files::{self, Attributes, FileError, NewFile};

/// Who made an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// [`super::write`]: it was verified against its own bundle.
    Own,
    /// Another tool, stock `sysupgrade -b` for one: the bundle was made from what it holds, and
    /// says that no old default is known.
    Foreign,
}

/// An archive on the file system: B and U as trees.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// What the archive says of itself.
    pub bundle: Bundle,
    /// Who made it.
    pub origin: Origin,
    /// The old defaults, as far as they are known.
    pub base: Tree,
    /// What the user made of them.
    pub user: Tree,
    /// Bytes of the archive.
    pub size: u64,
    /// Of the archive, as it was unpacked: to be compared with what was recorded of it.
    pub sha256: Digest,
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
pub fn inspect(mut source: impl Read) -> Result<(Bundle, Origin), ConfigError> {
    walk(&mut source, &mut |_, _, content| {
        tree::hash(content).map_err(ConfigError::Read)
    })
}

/// [`inspect`], and in the same pass every kept file is written below `into/user` and every old
/// default below `into/baseline`, where the trees find them. `into` must not exist or be empty; it
/// is scratch space: readable for its owner only, and not durable.
///
/// The files have numbers for names. What an archive says never becomes a path, and links and
/// directories are in the trees only, so that nothing can be written anywhere else.
///
/// # Errors
/// As [`inspect`], and when a file cannot be written. What is then below `into` is good for nothing.
pub fn unpack(source: impl Read, into: &Path) -> Result<Unpacked, ConfigError> {
    let (user, baseline) = (into.join("user"), into.join("baseline"));
    for dir in [into, &user, &baseline] {
        files::make_dir(dir, SCRATCH_DIR)?;
    }
    let mut source = Hashing::new(source);
    let mut written = BTreeMap::new();
    let mut count = 0_u64;
    let (bundle, origin) = walk(&mut source, &mut |path, modified, content| {
        let dir = match path.strip(BASELINE) {
            Some(_) => &baseline,
            // The program's own files are no configuration: no tree will speak of them.
            None if path.is_within(STATE_DIR) => {
                return tree::hash(content).map_err(ConfigError::Read);
            }
            None => &user,
        };
        let place = dir.join(count.to_string());
        count += 1;
        let told = write_down(&place, modified, content)?;
        written.insert(path.clone(), (place, modified));
        Ok(told)
    })?;
    let (_, size, sha256) = source.finish();
    for member in bundle.kept() {
        if let Some((place, _)) = written.get(&member.path) {
            files::set_attributes(place, &attributes(member)?)?;
        }
    }
    let (base, user) = trees(&bundle, &written);
    Ok(Unpacked {
        bundle,
        origin,
        base,
        user,
        size,
        sha256,
    })
}

/// The extended attributes of a member; only such as a bundle would have.
fn attributes(member: &bundle::Member) -> Result<Attributes, ConfigError> {
    let bad = || ConfigError::damaged(&member.path, "its attributes cannot be understood");
    let mut found = Attributes::new();
    for (name, value) in &member.attributes {
        if !files::is_carried_attribute(name) {
            return Err(bad());
        }
        let value = path::unescape(value).ok_or_else(bad)?;
        found.insert(name.clone(), value);
    }
    Ok(found)
}

/// What is unpacked may be a password; only its owner looks into scratch space.
const SCRATCH_DIR: u32 = 0o700;
const SCRATCH_FILE: u32 = 0o600;

/// Writes the content of a member into a new file; gives its size and digest.
fn write_down(
    place: &Path,
    modified: u64,
    content: &mut dyn Read,
) -> Result<(u64, Digest), ConfigError> {
    let mut content = Hashing::new(content);
    let mut file = NewFile::create_directly(place, SCRATCH_FILE)?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => (file.write_all(buffer.get(..count).unwrap_or_default()))
                .map_err(FileError::at("write", place))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ConfigError::Read(error)),
        }
    }
    file.place()?;
    files::set_modified(place, modified)?;
    let (_, size, sha256) = content.finish();
    Ok((size, sha256))
}

/// The old defaults and the user's tree, as a bundle tells them and with the files that were
/// written. A default that the user left alone is the user's file.
fn trees(bundle: &Bundle, written: &BTreeMap<EntryPath, (PathBuf, u64)>) -> (Tree, Tree) {
    let (mut base, mut user) = (Tree::default(), Tree::default());
    let nowhere = (PathBuf::new(), 0); // links and directories
    for member in &bundle.members {
        if member.made {
            continue;
        }
        let entry = || member.entry.clone();
        let (place, modified) = written.get(&member.path).unwrap_or(&nowhere);
        if let Some(path) = member.path.strip(BASELINE) {
            base.insert(path, entry(), place, *modified);
            continue;
        }
        if member.default == Some(OldDefault::Same) {
            base.insert(member.path.clone(), entry(), place, *modified);
        }
        user.insert(member.path.clone(), entry(), place, *modified);
    }
    for directory in &bundle.directories {
        let entry = || Entry {
            content: Content::Dir,
            meta: directory.meta,
        };
        let (place, modified) = &nowhere;
        if directory.default == OldDefault::Same {
            base.insert(directory.path.clone(), entry(), place, *modified);
        }
        user.insert(directory.path.clone(), entry(), place, *modified);
    }
    (base, user)
}

/// What is done with the bytes of a file: name, modification time, content; gives its size and
/// digest.
type Take<'a> =
    dyn FnMut(&EntryPath, u64, &mut dyn Read) -> Result<(u64, Digest), ConfigError> + 'a;

/// Reads an archive from its first to its last byte, and refuses what is not exactly one.
fn walk(source: &mut dyn Read, take: &mut Take) -> Result<(Bundle, Origin), ConfigError> {
    let mut members = Members::new(Gunzip::new(BufReader::new(source), MAX_UNPACKED, true));
    let mut seen = Vec::new();
    let mut notices = Vec::new();
    let mut own = None;
    let mut disabled = None;
    let mut content = 0;
    let mut names = 0;
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
        names += path.as_bytes().len() as u64;
        if names > MAX_NAMES {
            return Err(ConfigError::TooMuch {
                what: "length of all names",
                most: MAX_NAMES,
            });
        }
        let content = match &member.kind {
            MemberKind::File => {
                let modified = member.modified;
                let is_script = path.as_bytes() == services::DISABLE_SCRIPT.as_bytes();
                let (size, sha256) = if is_script && member.size <= services::MAX_DISABLE_SCRIPT {
                    let mut text = Vec::new();
                    members.read_to_end(&mut text).map_err(ConfigError::Read)?;
                    disabled = services::disabled_by(&text);
                    take(&path, modified, &mut &*text)?
                } else {
                    take(&path, modified, &mut members)?
                };
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
        None => (foreign(seen, notices, disabled), Origin::Foreign),
    };
    bundle.check()?;
    Ok((bundle, origin))
}

/// Adds what a member announces to the sum of all; refuses more than [`MAX_CONTENT`].
pub(in crate::config) fn count_content(sum: &mut u64, member: &Member) -> Result<(), ConfigError> {
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
fn path_of(member: &Member) -> Result<EntryPath, ConfigError> {
    EntryPath::new(&member.name)
        .map_err(|why| ConfigError::damaged(path::escape(&member.name), why.problem()))
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

/// The bundle of an archive that has none. `disabled` is what its [`services::DISABLE_SCRIPT`]
/// disables, if it has one that does nothing else: then that is known of its services, and the file
/// is none of the system's.
fn foreign(
    seen: Vec<(EntryPath, Entry)>,
    mut notices: Vec<Notice>,
    disabled: Option<BTreeSet<String>>,
) -> Bundle {
    let mut members = Vec::new();
    let mut directories = Vec::new();
    // The links that travel, if any, say what was on; of what they do not name, the new image decides.
    let links = seen
        .iter()
        .filter_map(|(path, _)| path.strip(services::LINKS));
    let on: BTreeSet<String> = links
        .filter_map(|link| services::started_by(link.as_bytes()))
        .collect();
    let has_script = disabled.is_some();
    let services = disabled.map(|off| Services {
        user: on.difference(&off).cloned().collect(),
        default: Some(off),
    });
    for (path, Entry { content, meta }) in seen {
        let default = OldDefault::None;
        if path.is_within(STATE_DIR) {
            notices.push(Notice::new(NoticeKind::StateFile, &path));
        } else if content == Content::Dir {
            directories.push(Directory {
                path,
                meta,
                default,
            });
        } else {
            let made = has_script && path.as_bytes() == services::DISABLE_SCRIPT.as_bytes();
            members.push(bundle::Member {
                path,
                entry: Entry { content, meta },
                default: Some(default).filter(|_| !made),
                generated: false,
                made,
                attributes: BTreeMap::new(),
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
        services,
        owners: Owners::default(),
        state: None,
        resolutions: None,
    }
}
