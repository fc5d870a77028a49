//! A backup put back over a running system: `-r`.
//!
//! The archive is anybody's: a stock system's, a person's with some tar, an attacker's who hopes
//! for an admin in a hurry. It is first taken whole into a private file and read to its end, with all
//! checksums; only then, from that file, the first entry is replaced. What is restored are plain
//! files, directories and links inside the root. Everything else is left out and told:
//!
//! | in the archive | stock | here |
//! | --- | --- | --- |
//! | cut, checksum wrong | what was read until then | nothing |
//! | absolute name | below the root | below the root, notice |
//! | `..` in a name | below the root, at another place | not restored, notice |
//! | link that climbs out of the root | made | not restored, notice |
//! | entry behind a link | written through the link | not restored, notice |
//! | device, fifo | made | not restored, notice |
//! | set-id bits | set | cleared, notice |
//! | hard link to another member | linked | a file of its own |
//! | hard link to something else | linked | not restored, notice |
//! | directory and file in each other's place | error, the rest restored | not restored, notice |
//! | accounts of the image that the backup lacks | appended on the next boot | appended |
//! | the compatibility version of its time | restored | that of this system stays, notice |
//!
//! Each entry is replaced durably and at once, one after the other: a power cut leaves some of them
//! new, none of them half. Running it again finishes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use serde::Serialize;

use crate::config::apply::place;
use crate::config::apply::stage::{begin, copy};
use crate::config::carry::accounts;
use crate::config::carry::archive::{self, MAX_UNPACKED};
use crate::config::carry::bundle::{BASELINE, BUNDLE};
use crate::config::carry::keep::leads_out;
use crate::config::carry::tarball::{Gunzip, Member, MemberKind, Members};
use crate::config::path::{NotAPath, escape};
use crate::config::report::{Notice, NoticeKind};
use crate::config::tree::{self, Content, Entry, Kind, Meta, Tree};
use crate::config::{ConfigError, EntryPath, MAX_CONTENT, MAX_ENTRIES, STATE_DIR, compat};
use crate::files::{self, FileError, NewFile};
use crate::image::openwrt::Compat;

/// Where the archive lies meanwhile; only root may look.
const SPOOL: &str = "etc/sysupgrade/restore.tar.gz";

/// Permissions that an archive may set.
const ALLOWED: u32 = 0o1777;

/// What was restored, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Files and links, in the order of the archive.
    pub paths: Vec<EntryPath>,
    /// What was left out or changed.
    pub notices: Vec<Notice>,
}

impl Restored {
    /// True if something of the archive was left out.
    #[must_use]
    pub fn needs_review(&self) -> bool {
        self.notices.iter().any(|notice| notice.kind.is_refusal())
    }
}

/// Restores an archive over the system below `root`. `defaults` is where its files are as they were
/// shipped: accounts that are there and that the backup lacks are appended.
///
/// # Errors
/// When the archive is damaged: nothing was changed then. When an entry cannot be written: those
/// before it are restored.
pub fn restore(
    root: &Path,
    defaults: Option<&Path>,
    source: impl Read,
) -> Result<Restored, ConfigError> {
    let spool = root.join(SPOOL);
    files::make_dirs(&root.join("etc"), 0o755)?;
    files::make_dirs(&root.join(STATE_DIR), 0o700)?;
    let done = keep(source, &spool).and_then(|()| restore_from(root, defaults, &spool));
    let tidied = files::remove_tree(&spool);
    let done = done?;
    tidied?;
    Ok(done)
}

/// Takes the archive, as it comes.
fn keep(source: impl Read, spool: &Path) -> Result<(), ConfigError> {
    let mut source = source.take(MAX_CONTENT);
    let mut file = NewFile::create(spool, 0o600)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match source.read(&mut buffer) {
            Ok(0) if source.limit() > 0 => break,
            Ok(0) => {
                return Err(ConfigError::TooMuch {
                    what: "size of the archive in bytes",
                    most: MAX_CONTENT,
                });
            }
            Ok(count) => file
                .write_all(&buffer[..count])
                .map_err(FileError::at("write", spool))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ConfigError::Read(error)),
        }
    }
    Ok(file.place()?)
}

type Stream = Members<Gunzip<BufReader<File>>>;

fn open(spool: &Path) -> Result<Stream, ConfigError> {
    let file = File::open(spool).map_err(FileError::at("open", spool))?;
    Ok(Members::new(Gunzip::new(
        BufReader::new(file),
        MAX_UNPACKED,
        false,
    )))
}

fn restore_from(
    root: &Path,
    defaults: Option<&Path>,
    spool: &Path,
) -> Result<Restored, ConfigError> {
    let mut survey = Survey::of(open(spool)?)?;
    if survey.has_bundle {
        let file = File::open(spool).map_err(FileError::at("open", spool))?;
        archive::verify(file)?;
    }
    survey.judge(root)?;
    let mut restored = Restored {
        paths: Vec::new(),
        notices: std::mem::take(&mut survey.notices),
    };
    let compat = own_compat(root)?;
    let mut members = open(spool)?;
    let mut number = 0;
    while let Some(member) = members.next().map_err(ConfigError::Read)? {
        if let Some((path, item)) = survey.item(&member, number) {
            let target = Place {
                root,
                defaults,
                spool,
                compat: compat.as_ref(),
            };
            if target.put(&path, item, member.modified, &mut members)? {
                let notice = Notice::new(NoticeKind::CompatStays, &path);
                restored.notices.push(notice.at(compat::LOCUS));
            }
            if target.append_accounts(&path)? {
                let notice = Notice::new(NoticeKind::AccountRestored, &path);
                restored.notices.push(notice);
            }
            if item.kind() != Kind::Dir {
                restored.paths.push(path);
            }
        }
        number += 1;
    }
    Ok(restored)
}

/// The compatibility version that the system bears; `None` if it has no package that could bear one.
fn own_compat(root: &Path) -> Result<Option<Compat>, ConfigError> {
    let (mut tree, path) = (Tree::default(), compat::path());
    tree.read_entry(root, &path)?;
    let package = tree.bytes(&path, compat::MAX_PACKAGE)?;
    Ok(package.and_then(|text| compat::read(&text)))
}

/// What an archive would restore.
struct Survey {
    items: BTreeMap<EntryPath, Item>,
    notices: Vec<Notice>,
    has_bundle: bool,
}

struct Item {
    /// Which member it is; an earlier one of the same name does not count.
    number: u64,
    what: What,
    meta: Meta,
}

enum What {
    File,
    Link(Vec<u8>),
    Dir,
    /// The same content as another item, which comes before.
    Copy(EntryPath),
}

impl Item {
    fn kind(&self) -> Kind {
        match self.what {
            What::File | What::Copy(_) => Kind::File,
            What::Link(_) => Kind::Link,
            What::Dir => Kind::Dir,
        }
    }
}

impl Survey {
    /// Reads the archive to its end.
    fn of(mut members: Stream) -> Result<Self, ConfigError> {
        let mut survey = Self {
            items: BTreeMap::new(),
            notices: Vec::new(),
            has_bundle: false,
        };
        let mut number = 0;
        let mut content = 0_u64;
        while let Some(member) = members.next().map_err(ConfigError::Read)? {
            archive::count_content(&mut content, &member)?;
            survey.add(member, number);
            number += 1;
            if survey.items.len() + survey.notices.len() > 2 * MAX_ENTRIES {
                return Err(ConfigError::TooMuch {
                    what: "number of members",
                    most: 2 * MAX_ENTRIES as u64,
                });
            }
        }
        let other = members.drain().map_err(ConfigError::Read)?;
        if other || members.source().has_trailing_bytes() {
            survey
                .notices
                .push(Notice::new(NoticeKind::TrailingBytes, ""));
        }
        Ok(survey)
    }

    fn add(&mut self, member: Member, number: u64) {
        let path = match EntryPath::new(&member.name) {
            Ok(path) => path,
            Err(NotAPath::Empty) => return, // the root itself: `tar -C / .`
            Err(why) => {
                let kind = match why {
                    NotAPath::Upward => NoticeKind::NameLeadsOut,
                    _ => NoticeKind::NotAPath,
                };
                return self.note(kind, escape(&member.name));
            }
        };
        if path.is_within(STATE_DIR) {
            if path.as_bytes() == BUNDLE.as_bytes() {
                self.has_bundle = true;
            } else if !path.is_within(BASELINE) && member.kind != MemberKind::Dir {
                self.note(NoticeKind::StateFile, &path);
            }
            return;
        }
        if member.name.starts_with(b"/") {
            self.note(NoticeKind::AbsoluteName, &path);
        }
        let mut meta = member.meta;
        let what = match member.kind {
            MemberKind::File => What::File,
            MemberKind::Dir => What::Dir,
            MemberKind::Link(target) if leads_out(&path, &target) => {
                return self.note(NoticeKind::LinkLeadsOut, &path);
            }
            MemberKind::Link(target) => What::Link(target),
            MemberKind::HardLink(target) => {
                let source = EntryPath::new(&target).ok();
                let source = source.and_then(|source| {
                    let item = self.items.get(&source)?;
                    meta = item.meta;
                    (item.kind() == Kind::File).then_some(source)
                });
                match source {
                    Some(source) => What::Copy(source),
                    None => return self.note(NoticeKind::HardLinkOutside, &path),
                }
            }
            MemberKind::Other => return self.note(NoticeKind::SpecialFile, &path),
        };
        if meta.mode & !ALLOWED != 0 {
            meta.mode &= ALLOWED;
            self.note(NoticeKind::SetIdCleared, &path);
        }
        let item = Item { number, what, meta };
        if let Some(before) = self.items.insert(path.clone(), item)
            && before.kind() != Kind::Dir
        {
            self.note(NoticeKind::Duplicate, &path);
        }
    }

    /// Takes out what cannot be placed in this root.
    fn judge(&mut self, root: &Path) -> Result<(), ConfigError> {
        let mut refused = Vec::new();
        for (path, item) in &self.items {
            if let Some(kind) = self.objection(root, path, item)? {
                refused.push((path.clone(), kind));
            }
        }
        for (path, kind) in refused {
            self.items.remove(&path);
            self.note(kind, &path);
        }
        // A copy of something that is not restored has no content, and that of a later member
        // would be another's.
        let lost: Vec<EntryPath> = self
            .items
            .iter()
            .filter(|(_, item)| match &item.what {
                What::Copy(source) => {
                    let source = self.items.get(source);
                    source.is_none_or(|source| source.number > item.number)
                }
                _ => false,
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in lost {
            self.items.remove(&path);
            self.note(NoticeKind::HardLinkOutside, &path);
        }
        Ok(())
    }

    fn objection(
        &self,
        root: &Path,
        path: &EntryPath,
        item: &Item,
    ) -> Result<Option<NoticeKind>, ConfigError> {
        let why = |kind| match kind {
            Kind::Dir => None,
            Kind::Link => Some(NoticeKind::ThroughLink),
            Kind::File => Some(NoticeKind::OtherKind),
        };
        for dir in path.ancestors() {
            if let Some(reason) = self.items.get(&dir).and_then(|item| why(item.kind())) {
                return Ok(Some(reason));
            }
            if let Some(node) = tree::node(root, &dir)?
                && let Some(reason) = why(node.kind.unwrap_or(Kind::File))
            {
                return Ok(Some(reason));
            }
        }
        let found = tree::node(root, path)?;
        let clash =
            found.is_some_and(|node| (node.kind == Some(Kind::Dir)) != (item.kind() == Kind::Dir));
        Ok(clash.then_some(NoticeKind::OtherKind))
    }

    /// The item that this member is.
    fn item(&self, member: &Member, number: u64) -> Option<(EntryPath, &Item)> {
        let path = EntryPath::new(&member.name).ok()?;
        let item = self.items.get(&path)?;
        (item.number == number).then_some((path, item))
    }

    fn note(&mut self, kind: NoticeKind, path: impl Into<String>) {
        self.notices.push(Notice::new(kind, path));
    }
}

/// Where entries go.
#[derive(Clone, Copy)]
struct Place<'a> {
    root: &'a Path,
    defaults: Option<&'a Path>,
    spool: &'a Path,
    compat: Option<&'a Compat>,
}

impl Place<'_> {
    /// Puts an item into its place; true if its compatibility version was not taken over.
    fn put(
        self,
        path: &EntryPath,
        item: &Item,
        modified: u64,
        content: &mut dyn Read,
    ) -> Result<bool, ConfigError> {
        for dir in path.ancestors() {
            // Only missing ones: judged before, and one at a time, so that no link is followed.
            if tree::node(self.root, &dir)?.is_none() {
                files::make_dirs(&dir.under(self.root), 0o755)?;
            }
        }
        let place = path.under(self.root);
        match &item.what {
            What::File => return self.put_file(path, item, modified, content, self.spool),
            What::Copy(source) => {
                let (mut file, node) = tree::open(self.root, source)?;
                let from = source.under(self.root);
                return self.put_file(path, item, node.modified, &mut file, &from);
            }
            What::Link(target) => place::link(&place, target, item.meta)?,
            // As with tar, a directory that is there keeps its permissions.
            What::Dir if files::is_dir(&place) => {}
            What::Dir => {
                let entry = Entry {
                    content: Content::Dir,
                    meta: item.meta,
                };
                place::put(self.root, path, &entry, self.root)?;
            }
        }
        Ok(false)
    }

    fn put_file(
        self,
        path: &EntryPath,
        item: &Item,
        modified: u64,
        content: &mut dyn Read,
        from: &Path,
    ) -> Result<bool, ConfigError> {
        let place = path.under(self.root);
        let mut file = begin(&place, item.meta)?;
        let changed = match self.compat {
            Some(compat) if path.as_bytes() == compat::PACKAGE.as_bytes() => {
                // With the right version from the first: after a cut nobody would know it any more.
                let (package, changed) =
                    with_compat(content, compat).map_err(FileError::at("read", from))?;
                copy(
                    &mut package.as_slice().chain(content),
                    from,
                    &mut file,
                    &place,
                )?;
                changed
            }
            _ => {
                copy(content, from, &mut file, &place)?;
                false
            }
        };
        file.commit()?;
        files::set_modified(&place, modified)?;
        Ok(changed)
    }

    /// Appends the accounts of the image that a restored passwd, group or shadow lacks; true if
    /// there were some.
    fn append_accounts(self, path: &EntryPath) -> Result<bool, ConfigError> {
        let Some(defaults) = self.defaults.filter(|_| accounts::is_account_file(path)) else {
            return Ok(false);
        };
        let Some(image) = accounts::read(defaults, path)? else {
            return Ok(false);
        };
        let Some(kept) = accounts::read(self.root, path)? else {
            return Ok(false);
        };
        let Some(merged) = accounts::with_missing(&kept, &image) else {
            return Ok(false);
        };
        let Some(node) = tree::node(self.root, path)? else {
            return Ok(false);
        };
        let place = path.under(self.root);
        let mut file = begin(&place, node.meta)?;
        file.write_all(&merged)
            .map_err(FileError::at("write", &place))?;
        file.commit()?;
        Ok(true)
    }
}

/// A package with this compatibility version, and whether it came with another one; of a file that is
/// too long to be one, the begin.
fn with_compat(content: &mut dyn Read, compat: &Compat) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    content.take(compat::MAX_PACKAGE).read_to_end(&mut bytes)?;
    let whole = (bytes.len() as u64) < compat::MAX_PACKAGE;
    let changed = compat::with(&bytes, compat).filter(|_| whole);
    let is_changed = changed.is_some();
    Ok((changed.unwrap_or(bytes), is_changed))
}
