//! The keep list: which files a system wants to carry to its next version.
//!
//! Sources, as on OpenWrt: `/etc/sysupgrade.conf`, the files of `/lib/upgrade/keep.d/`, and the
//! configuration files of packages that differ from how they were shipped. Lines hold one or more
//! words, separated by blanks; a word is a path or a shell pattern; a directory stands for all
//! that is in it; lines that begin with `#` are comments.
//!
//! Stock tools hand these words to a shell and to `find`, so that one odd line can empty the whole
//! list or drop entries, in silence. Here an odd line is kept as it was meant, no line has a say
//! over another, and each oddity is a [`Notice`]. For lists without oddities the result is the
//! same as that of stock tools.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::config::carry::packages;
use crate::config::carry::walk::Walk;
use crate::config::path::{NotAPath, escape};
use crate::config::report::{Line, Notice, NoticeKind};
use crate::config::tree::{self, Content, Kind};
use crate::config::{ConfigError, EntryPath, MAX_ENTRIES, STATE_DIR, pattern};
use crate::digest::Digest;
use crate::files;

/// The user's own list.
pub(in crate::config) const USER_LIST: &str = "etc/sysupgrade.conf";

/// Lists that packages bring.
const LIST_DIR: &str = "lib/upgrade/keep.d";

/// Keep lists are lines written by people and package makers: some KiB.
const MAX_LIST: u64 = 256 << 10;

/// Where OpenWrt mounts the layer that holds every change to the image.
const OVERLAY: &str = "overlay/upper";

/// Where it mounts the image itself.
const ROM: &str = "rom";

/// The list of installed packages, which [`Listing::packages`] asks for.
pub const PACKAGE_LIST: &str = "etc/backup/installed_packages.txt";

/// What a list is made of: stock `-c`, `-o`, `-u` and `-k`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Not what the keep lists name, but what differs from the image.
    pub changed: Option<Changed>,
    /// Without files that are as the image has them (`-u`).
    pub skip_unchanged: bool,
    /// With a list of the installed packages (`-k`).
    pub packages: bool,
}

/// Where changes are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Below `/etc` (`-c`).
    Etc,
    /// Everywhere, but for the files of packages (`-o`).
    Everything,
}

/// Which files are kept.
#[derive(Clone, Debug, Default)]
pub struct KeepList {
    listing: Listing,
    entries: BTreeSet<EntryPath>,
    directories: BTreeSet<EntryPath>,
    words: Vec<EntryPath>,
    conffiles: Vec<EntryPath>,
    notices: Vec<Notice>,
}

impl KeepList {
    /// Reads the lists of the system below `root` and finds what they name there.
    ///
    /// # Errors
    /// When a list or a directory cannot be read, or when they name more than [`MAX_ENTRIES`].
    pub fn read(root: &Path) -> Result<Self, ConfigError> {
        Self::read_with(root, Listing::default())
    }

    /// [`read`](Self::read), made of something else.
    ///
    /// # Errors
    /// Likewise, and [`ConfigError::NoOverlay`] or [`ConfigError::NoRom`] where there is nothing to
    /// compare with.
    pub fn read_with(root: &Path, listing: Listing) -> Result<Self, ConfigError> {
        if listing.changed.is_some() && !root.join(OVERLAY).join("etc").is_dir() {
            return Err(ConfigError::NoOverlay);
        }
        if listing.skip_unchanged && !root.join(ROM).is_dir() {
            return Err(ConfigError::NoRom);
        }
        let mut list = match listing.changed {
            None => {
                let mut list = Self::named(root)?;
                if listing.skip_unchanged {
                    list.drop_unchanged(root)?;
                }
                list.add_conffiles(root)?;
                list
            }
            Some(Changed::Etc) => Self::changed(root, "overlay/upper/etc")?,
            Some(Changed::Everything) => {
                let mut list = Self::changed(root, OVERLAY)?;
                list.drop_owned(root, listing.skip_unchanged)?;
                list
            }
        };
        if listing.changed.is_some() && listing.skip_unchanged {
            list.drop_unchanged(root)?;
        }
        list.listing = listing;
        Ok(list)
    }

    /// What the lists name.
    fn named(root: &Path) -> Result<Self, ConfigError> {
        let mut list = Self::default();
        let mut lines = list_lines(root, USER_LIST, &mut list.notices)?;
        for name in packages::names(root, LIST_DIR)? {
            if !name.starts_with(b".") {
                let file = format!("{LIST_DIR}/{}", escape(&name));
                let path = EntryPath::new(&[LIST_DIR.as_bytes(), b"/", &name].concat());
                if let Ok(path) = path {
                    lines.extend(read_lines(root, &path, &file, &mut list.notices)?);
                }
            }
        }
        for (bytes, line) in lines {
            list.take_line(root, &bytes, &line)?;
        }
        Ok(list)
    }

    fn add_conffiles(&mut self, root: &Path) -> Result<(), ConfigError> {
        for (path, shipped) in packages::conffiles(root)? {
            self.take_conffile(root, path, shipped)?;
        }
        Ok(())
    }

    /// What the overlay has below `dir`. Its whiteouts, files that the user deleted, are no entries
    /// of a list.
    fn changed(root: &Path, dir: &str) -> Result<Self, ConfigError> {
        let mut list = Self::default();
        let mut walk = Walk::new(root, dir);
        while let Some((place, node)) = walk.next()? {
            let Some(path) = place.strip(OVERLAY) else {
                continue;
            };
            if matches!(node.kind, Some(Kind::File | Kind::Link)) && !is_never_listed(&path) {
                let mut found = Found::default();
                found.take(root, path)?; // as it is seen, not as the layer has it
                list.extend(found)?;
            }
        }
        list.notices.append(&mut walk.too_deep);
        Ok(list)
    }

    /// Takes out what packages brought and will bring again, but for what the owner configures: their
    /// configuration files (of those, if `changed_only`, the changed ones) and what keep lists name.
    fn drop_owned(&mut self, root: &Path, changed_only: bool) -> Result<(), ConfigError> {
        let named = Self::named(root)?;
        self.notices.extend(named.notices);
        let mut stays = named.entries;
        for (path, shipped) in packages::conffiles(root)? {
            if !changed_only || is_changed(root, &path, shipped)? {
                stays.insert(path);
            }
        }
        packages::owned(root, &mut |path| {
            if !stays.contains(path) {
                self.entries.remove(path);
            }
        })
    }

    /// Takes out what the image has, too. Through links, as stock tools compare: a link whose target
    /// was changed stays.
    fn drop_unchanged(&mut self, root: &Path) -> Result<(), ConfigError> {
        for path in std::mem::take(&mut self.entries) {
            if !is_in_rom(root, &path)? {
                self.entries.insert(path);
            }
        }
        Ok(())
    }

    /// What it was made of.
    #[must_use]
    pub fn listing(&self) -> Listing {
        self.listing
    }

    /// Makes sure that what the list asks for beside files can be had: an archive of it can be written.
    ///
    /// # Errors
    /// [`ConfigError::NoPackages`], or when the package database cannot be read.
    pub fn check(&self, root: &Path) -> Result<(), ConfigError> {
        if self.listing.packages {
            packages::installed(root)?;
        }
        Ok(())
    }

    /// Files and links to keep, sorted bytewise.
    pub fn paths(&self) -> impl Iterator<Item = &EntryPath> {
        self.entries.iter()
    }

    /// Directories that lead to them or are kept for themselves, sorted bytewise.
    pub fn directories(&self) -> impl Iterator<Item = &EntryPath> {
        self.directories.iter()
    }

    /// True if this path is kept, or if it is a word of a list.
    pub(in crate::config) fn is_named(&self, path: &EntryPath) -> bool {
        self.entries.contains(path) || self.directories.contains(path) || self.words.contains(path)
    }

    /// Oddities of the lists.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// True if nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Files and links that the same words name in another tree.
    pub(in crate::config) fn elsewhere(
        &self,
        root: &Path,
    ) -> Result<BTreeSet<EntryPath>, ConfigError> {
        let mut found = Found::default();
        for word in &self.words {
            for path in expand(root, word)? {
                found.take(root, path)?;
            }
        }
        for path in &self.conffiles {
            found.take(root, path.clone())?;
        }
        Ok(found.entries)
    }

    fn take_line(&mut self, root: &Path, bytes: &[u8], line: &Line) -> Result<(), ConfigError> {
        let (words, oddities) = words(bytes);
        for kind in oddities {
            self.note(kind, escape(bytes.trim_ascii()), line);
        }
        let mut missing = Vec::new();
        for (text, in_comment) in &words {
            if !self.take_word(root, text, line)? && !in_comment {
                missing.push(text.clone());
            }
        }
        // A path with blanks in it: stock tools see several that do not exist.
        if !missing.is_empty()
            && words.len() > 1
            && let Ok(path) = EntryPath::new(bytes.trim_ascii())
            && tree::node(root, &path)?.is_some()
        {
            self.note(NoticeKind::Blanks, &path, line);
            return self.take_path(root, &path).map(drop);
        }
        for text in missing {
            self.note(NoticeKind::MatchesNothing, escape(&text), line);
        }
        Ok(())
    }

    /// True if the word names something.
    fn take_word(&mut self, root: &Path, text: &[u8], line: &Line) -> Result<bool, ConfigError> {
        if matches!(text, [b'-', ..] | b"(" | b")" | b"!" | b",") {
            self.note(NoticeKind::Option, escape(text), line);
        } else if !text.starts_with(b"/") {
            self.note(NoticeKind::Relative, escape(text), line);
        }
        let path = match EntryPath::new(text) {
            Ok(path) => path,
            Err(NotAPath::Upward) => {
                self.note(NoticeKind::Upward, escape(text), line);
                match EntryPath::new(&without_dotdot(text)) {
                    Ok(path) => path,
                    Err(why) => return Ok(self.refuse(why, text, line)),
                }
            }
            Err(why) => return Ok(self.refuse(why, text, line)),
        };
        let mut any = self.take_path(root, &path)?;
        // What stock tools reach through a link is kept under its real name. Patterns are not
        // resolved: that would be another pattern.
        let whole = text.ends_with(b"/");
        if (whole || !any)
            && let Some(real) = tree::resolve(root, &path, whole)?
            && real != path
        {
            any |= self.take_path(root, &real)?;
            self.note(NoticeKind::BehindLink, escape(text), line);
        }
        Ok(any)
    }

    /// Says why a word cannot be a path; what was said is not said again as "names nothing".
    fn refuse(&mut self, why: NotAPath, text: &[u8], line: &Line) -> bool {
        let kind = match why {
            NotAPath::TooDeep => NoticeKind::TooDeep,
            // The root itself would be the whole system, which no list means.
            _ => NoticeKind::NotAPath,
        };
        self.note(kind, escape(text), line);
        true
    }

    /// True if the path, or a pattern, names something.
    fn take_path(&mut self, root: &Path, path: &EntryPath) -> Result<bool, ConfigError> {
        let mut found = Found::default();
        for path in expand(root, path)? {
            found.take(root, path)?;
        }
        let any = found.any;
        self.words.push(path.clone());
        self.extend(found)?;
        Ok(any)
    }

    fn take_conffile(
        &mut self,
        root: &Path,
        path: EntryPath,
        shipped: Digest,
    ) -> Result<(), ConfigError> {
        if is_changed(root, &path, shipped)? {
            let mut found = Found::default();
            found.take(root, path.clone())?;
            self.extend(found)?;
        }
        self.conffiles.push(path);
        if self.entries.len() + self.conffiles.len() > MAX_ENTRIES {
            return Err(too_many());
        }
        Ok(())
    }

    fn extend(&mut self, found: Found) -> Result<(), ConfigError> {
        self.notices.extend(found.notices);
        self.entries.extend(found.entries);
        self.directories.extend(found.directories);
        if self.entries.len() + self.directories.len() > MAX_ENTRIES {
            return Err(too_many());
        }
        Ok(())
    }

    fn note(&mut self, kind: NoticeKind, path: impl Into<String>, line: &Line) {
        let mut notice = Notice::new(kind, path);
        notice.line = Some(line.clone());
        self.notices.push(notice);
    }
}

/// True if a configuration file of a package is not as it was shipped.
fn is_changed(root: &Path, path: &EntryPath, shipped: Digest) -> Result<bool, ConfigError> {
    Ok(match tree::entry(root, path)?.map(|entry| entry.content) {
        Some(Content::File { sha256, .. }) => sha256 != shipped,
        Some(_) => true, // a link or a directory in the place of a file
        None => false,
    })
}

/// What the system or its tools write into the overlay, and the new system writes for itself.
fn is_never_listed(path: &EntryPath) -> bool {
    const FILES: [&str; 6] = [
        "etc/board.json",
        "etc/urandom.seed",
        "etc/apk/world",
        "etc/apk/repositories.d/distfeeds.list",
        PACKAGE_LIST,
        "run",
    ];
    const DIRS: [&str; 3] = ["usr/lib/opkg", "lib/apk", "run"];
    const BEGIN: &[u8] = b"etc/luci-uploads/.placeholder";
    let bytes = path.as_bytes();
    FILES.iter().any(|file| file.as_bytes() == bytes)
        || DIRS.iter().any(|dir| path.is_within(dir))
        || bytes.starts_with(BEGIN)
        || bytes.ends_with(b"-opkg")
        || bytes.ends_with(b".apk-new")
}

/// True if the image has a file of that name and content; links are followed on both sides.
fn is_in_rom(root: &Path, path: &EntryPath) -> Result<bool, ConfigError> {
    let shipped = EntryPath::new(&[ROM.as_bytes(), b"/", path.as_bytes()].concat());
    let Ok(shipped) = shipped else {
        return Ok(false); // too deep for the image to have it
    };
    let content = |path: &EntryPath| -> Result<Option<Content>, ConfigError> {
        let Some(real) = tree::resolve(root, path, true)? else {
            return Ok(None);
        };
        Ok(tree::entry(root, &real)?.map(|entry| entry.content))
    };
    match content(&shipped)? {
        Some(file @ Content::File { .. }) => Ok(content(path)? == Some(file)),
        _ => Ok(false),
    }
}

fn too_many() -> ConfigError {
    ConfigError::TooMuch {
        what: "number of kept files",
        most: MAX_ENTRIES as u64,
    }
}

/// What paths stand for in a tree.
#[derive(Default)]
struct Found {
    entries: BTreeSet<EntryPath>,
    directories: BTreeSet<EntryPath>,
    notices: Vec<Notice>,
    any: bool,
}

impl Found {
    /// Takes an entry; of a directory, everything in it. Links are taken as links.
    fn take(&mut self, root: &Path, path: EntryPath) -> Result<(), ConfigError> {
        // A list instead of recursion: the depth of a tree is the user's.
        let mut pending = vec![path];
        while let Some(path) = pending.pop() {
            if path.is_within(STATE_DIR) {
                continue;
            }
            let Some(node) = tree::node(root, &path)? else {
                continue;
            };
            self.any = true;
            match node.kind {
                Some(Kind::Dir) => {
                    for name in files::list(&path.under(root))? {
                        match path.join(&name) {
                            Ok(path) => pending.push(path),
                            Err(_) => {
                                let name = format!("{path}/{}", name.to_string_lossy());
                                self.notices.push(Notice::new(NoticeKind::TooDeep, name));
                            }
                        }
                    }
                    self.directories.extend(path.ancestors());
                    self.directories.insert(path);
                }
                Some(kind) => {
                    if kind == Kind::Link && leads_out(&path, &tree::read_link(root, &path)?) {
                        self.notices.push(Notice::new(NoticeKind::LeadsOut, &path));
                    }
                    self.directories.extend(path.ancestors());
                    self.entries.insert(path);
                }
                None => self
                    .notices
                    .push(Notice::new(NoticeKind::SpecialFile, &path)),
            }
            if self.entries.len() + self.directories.len() + pending.len() > MAX_ENTRIES {
                return Err(too_many());
            }
        }
        Ok(())
    }
}

/// True if a relative link climbs above the root. An absolute one starts at the root.
pub(in crate::config) fn leads_out(path: &EntryPath, target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return climbs(0, target);
    }
    climbs(path.ancestors().count(), target)
}

fn climbs(mut depth: usize, target: &[u8]) -> bool {
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// The existing paths that a word stands for. As in a shell, a pattern that fits nothing stands
/// for itself.
fn expand(root: &Path, word: &EntryPath) -> Result<Vec<EntryPath>, ConfigError> {
    if !pattern::is_pattern(word.as_bytes()) {
        return Ok(vec![word.clone()]);
    }
    let mut found: Vec<Option<EntryPath>> = vec![None]; // the root
    for component in word.as_bytes().split(|byte| *byte == b'/') {
        let mut next = Vec::new();
        for dir in &found {
            if !pattern::is_pattern(component) {
                next.push(below(dir.as_ref(), component));
                continue;
            }
            let real = match dir {
                None => true,
                Some(dir) => {
                    tree::node(root, dir)?.is_some_and(|node| node.kind == Some(Kind::Dir))
                }
            };
            if real {
                let place = dir.as_ref().map_or(root.to_owned(), |dir| dir.under(root));
                for name in files::list(&place)? {
                    if pattern::matches(component, name.as_bytes()) {
                        next.push(below(dir.as_ref(), name.as_bytes()));
                    }
                }
            }
            if next.len() > MAX_ENTRIES {
                return Err(too_many());
            }
        }
        found = next.into_iter().flatten().map(Some).collect();
    }
    let mut existing = Vec::new();
    for path in found.into_iter().flatten() {
        if tree::node(root, &path)?.is_some() {
            existing.push(path);
        }
    }
    if existing.is_empty() {
        existing.push(word.clone());
    }
    Ok(existing)
}

fn below(dir: Option<&EntryPath>, name: &[u8]) -> Option<EntryPath> {
    let path = match dir {
        None => name.to_vec(),
        Some(dir) => [dir.as_bytes(), b"/", name].concat(),
    };
    EntryPath::new(&path).ok()
}

/// Resolves `..` by name; above the root there is the root.
fn without_dotdot(text: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in text.split(|byte| *byte == b'/') {
        match component {
            b".." => drop(kept.pop()),
            b"" | b"." => {}
            name => kept.push(name),
        }
    }
    kept.join(&b'/')
}

/// The words of a line, each with whether it stands in a comment, and what is odd about the line.
///
/// Of a comment that does not begin its line only absolute paths are words: stock tools keep
/// those too.
fn words(line: &[u8]) -> (Vec<(Vec<u8>, bool)>, Vec<NoticeKind>) {
    let mut words = Vec::new();
    let mut odd = Vec::new();
    let mut rest = line;
    let mut comment = false;
    loop {
        rest = rest.trim_ascii_start();
        let Some(&first) = rest.first() else {
            return (words, odd);
        };
        if first == b'#' && !comment {
            comment = true;
            odd.push(NoticeKind::TrailingComment);
        }
        if !comment && matches!(first, b'"' | b'\'') {
            let quoted = &rest[1..];
            if let Some(end) = quoted.iter().position(|byte| *byte == first) {
                words.push((quoted[..end].to_vec(), false));
                odd.push(NoticeKind::Quotes);
                rest = &quoted[end + 1..];
                continue;
            }
        }
        let end = rest
            .iter()
            .position(u8::is_ascii_whitespace)
            .unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        if !comment || word.starts_with(b"/") {
            words.push((word.to_vec(), comment));
        }
        rest = tail;
    }
}

/// True if a word of a list names something.
pub(in crate::config) fn names_something(
    root: &Path,
    word: &EntryPath,
) -> Result<bool, ConfigError> {
    for path in expand(root, word)? {
        if tree::node(root, &path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The words of the user's own list.
pub(in crate::config) fn own_words(root: &Path) -> Result<BTreeSet<EntryPath>, ConfigError> {
    let mut found = BTreeSet::new();
    for (line, _) in list_lines(root, USER_LIST, &mut Vec::new())? {
        let words = words(&line).0.into_iter();
        let stated = words.filter(|(_, in_comment)| !in_comment);
        found.extend(stated.filter_map(|(word, _)| EntryPath::new(&word).ok()));
    }
    Ok(found)
}

type Lines = Vec<(Vec<u8>, Line)>;

fn list_lines(root: &Path, file: &str, notices: &mut Vec<Notice>) -> Result<Lines, ConfigError> {
    match EntryPath::new(file.as_bytes()) {
        Ok(path) => read_lines(root, &path, file, notices),
        Err(_) => Ok(Vec::new()),
    }
}

/// Lines of a list that are neither blank nor comments, without what editors put at their ends.
fn read_lines(
    root: &Path,
    path: &EntryPath,
    file: &str,
    notices: &mut Vec<Notice>,
) -> Result<Lines, ConfigError> {
    // Lists may be links (into a package's own directory); what they say is only a list of names.
    let place = path.under(root);
    if place.is_dir() {
        return Ok(Vec::new());
    }
    let Some(bytes) = files::read_if_exists(&place, MAX_LIST)? else {
        return Ok(Vec::new());
    };
    let mut lines = Vec::new();
    let mut odd = |kind, line: &Line| {
        notices.push(Notice {
            kind,
            path: String::new(),
            locus: None,
            line: Some(line.clone()),
        });
    };
    for (number, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let without_mark = text.strip_prefix(b"\xef\xbb\xbf").filter(|_| number == 1);
        let without_return = without_mark.unwrap_or(text).strip_suffix(b"\r");
        let clean = without_return.or(without_mark).unwrap_or(text);
        if clean.starts_with(b"#") || clean.trim_ascii().is_empty() {
            continue;
        }
        let line = Line {
            file: file.to_owned(),
            number,
            text: escape(clean),
        };
        if without_mark.is_some() {
            odd(NoticeKind::ByteOrderMark, &line);
        }
        if without_return.is_some() {
            odd(NoticeKind::CarriageReturn, &line);
        }
        lines.push((clean.to_vec(), line));
    }
    Ok(lines)
}
