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
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::config::path::{NotAPath, escape};
use crate::config::report::{Line, Notice, NoticeKind};
use crate::config::tree::{self, Kind};
use crate::config::{ConfigError, EntryPath, MAX_ENTRIES, STATE_DIR, pattern};
use crate::digest::Digest;
use crate::files::{self, FileError};

/// The user's own list.
pub(in crate::config) const USER_LIST: &str = "etc/sysupgrade.conf";

/// Lists that packages bring.
const LIST_DIR: &str = "lib/upgrade/keep.d";

/// Keep lists are lines written by people and package makers: some KiB.
const MAX_LIST: u64 = 256 << 10;

/// The database of opkg; the lines after `Conffiles:` are ` PATH SHA256`.
const OPKG_STATUS: &str = "usr/lib/opkg/status";

/// apk: files `*.conffiles_static` with lines `PATH SHA256`. Used where there is no opkg.
const APK_DIR: &str = "lib/apk/packages";
const APK_SUFFIX: &[u8] = b".conffiles_static";

/// A package database of ten thousand packages is about 10 MiB.
const MAX_DATABASE: u64 = 64 << 20;

/// The longest line of a package database (descriptions are long) that is looked at.
const MAX_DATABASE_LINE: u64 = 64 << 10;

/// Which files are kept.
#[derive(Clone, Debug, Default)]
pub struct KeepList {
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
        let mut list = Self::default();
        let mut lines = list_lines(root, USER_LIST, &mut list.notices)?;
        for name in list_names(root, LIST_DIR)? {
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
        for (path, shipped) in conffiles(root)? {
            list.take_conffile(root, path, shipped)?;
        }
        Ok(list)
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
        self.notices.extend(found.notices);
        self.entries.extend(found.entries);
        self.directories.extend(found.directories);
        self.words.push(path.clone());
        if self.entries.len() + self.directories.len() > MAX_ENTRIES {
            return Err(too_many());
        }
        Ok(any)
    }

    fn take_conffile(
        &mut self,
        root: &Path,
        path: EntryPath,
        shipped: Digest,
    ) -> Result<(), ConfigError> {
        let changed = match tree::entry(root, &path)?.map(|entry| entry.content) {
            Some(tree::Content::File { sha256, .. }) => sha256 != shipped,
            Some(_) => true, // a link or a directory in the place of a file
            None => false,
        };
        if changed {
            let mut found = Found::default();
            found.take(root, path.clone())?;
            self.entries.extend(found.entries);
            self.directories.extend(found.directories);
            self.notices.extend(found.notices);
        }
        self.conffiles.push(path);
        if self.entries.len() + self.conffiles.len() > MAX_ENTRIES {
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

/// Names in a directory below the root; none if it does not exist.
fn list_names(root: &Path, dir: &str) -> Result<Vec<Vec<u8>>, ConfigError> {
    match files::list(&root.join(dir)) {
        Ok(names) => Ok(names.into_iter().map(OsString::into_vec).collect()),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The configuration files of packages with their digests as shipped.
fn conffiles(root: &Path) -> Result<Vec<(EntryPath, Digest)>, ConfigError> {
    let mut found = Vec::new();
    let status = root.join(OPKG_STATUS);
    if files::exists(&status) {
        let mut inside = false;
        database_lines(&status, &mut |line| {
            if line.starts_with(b"Conffiles:") {
                inside = true;
            } else if !line.starts_with(b" ") {
                inside = false;
            } else if inside {
                found.extend(conffile(line));
            }
        })?;
    } else {
        for name in list_names(root, APK_DIR)? {
            if name.ends_with(APK_SUFFIX) {
                let path = root.join(APK_DIR).join(OsString::from_vec(name));
                database_lines(&path, &mut |line| {
                    found.extend(conffile(line));
                })?;
            }
        }
    }
    Ok(found)
}

/// `PATH SHA256`; other lines are none of ours.
fn conffile(line: &[u8]) -> Option<(EntryPath, Digest)> {
    let mut words = line.trim_ascii().splitn(2, |byte| *byte == b' ');
    let path = EntryPath::new(words.next()?).ok()?;
    let digest = std::str::from_utf8(words.next()?).ok()?;
    Some((path, Digest::parse(digest.trim())?))
}

/// Hands the lines of a package database on, one at a time.
fn database_lines(path: &Path, each: &mut dyn FnMut(&[u8])) -> Result<(), ConfigError> {
    let file = File::open(path).map_err(FileError::at("open", path))?;
    let mut source = BufReader::new(file).take(MAX_DATABASE);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = (&mut source)
            .take(MAX_DATABASE_LINE)
            .read_until(b'\n', &mut line)
            .map_err(FileError::at("read", path))?;
        if count > 0 {
            each(line.strip_suffix(b"\n").unwrap_or(&line));
        } else if source.limit() > 0 {
            return Ok(());
        } else {
            return Err(ConfigError::TooMuch {
                what: "size of the package database",
                most: MAX_DATABASE,
            });
        }
    }
}
