//! What package managers know of a system: opkg, and apk where there is no opkg.
//!
//! ```text
//! opkg  /usr/lib/opkg/status                      after `Conffiles:`, lines ` PATH SHA256`
//!       /usr/lib/opkg/info/NAME.control           `Alternatives: PRIORITY:LINK:TARGET, ...`
//!       /usr/lib/opkg/info/NAME.list              the files of a package, a path a line
//! apk   /lib/apk/packages/NAME.conffiles_static   lines `PATH SHA256`
//!       /lib/apk/packages/NAME.alternatives       `PRIORITY:LINK:TARGET ...`
//!       /lib/apk/packages/NAME.list               the files of a package, a path a line
//! ```
//!
//! Only lines are read, one at a time: a database is as large as the system has packages. What is
//! not understood says nothing; a line can put a file on a list or take it off, no more.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::config::{ConfigError, EntryPath};
use crate::digest::Digest;
use crate::files::{self, FileError};

/// The database of opkg.
const OPKG_STATUS: &str = "usr/lib/opkg/status";

/// What opkg has of each package.
pub(in crate::config) const OPKG_INFO: &str = "usr/lib/opkg/info";

/// What OpenWrt's apk has of each package.
pub(in crate::config) const APK_INFO: &str = "lib/apk/packages";

/// A package database of ten thousand packages is about 10 MiB.
const MAX_DATABASE: u64 = 64 << 20;

/// The longest line of a package database (descriptions are long) that is looked at.
const MAX_LINE: u64 = 64 << 10;

/// Where an installed package came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::config) enum From {
    /// With the image.
    Rom,
    /// The user installed it.
    Overlay,
    /// Neither layer says.
    Unknown,
}

impl From {
    fn word(self) -> &'static str {
        match self {
            Self::Rom => "rom",
            Self::Overlay => "overlay",
            Self::Unknown => "unknown",
        }
    }
}

/// The configuration files of packages with their digests as shipped.
pub(in crate::config) fn conffiles(root: &Path) -> Result<Vec<(EntryPath, Digest)>, ConfigError> {
    let mut found = Vec::new();
    let status = root.join(OPKG_STATUS);
    if files::exists(&status) {
        let mut inside = false;
        lines(&status, &mut |line| {
            if line.starts_with(b"Conffiles:") {
                inside = true;
            } else if !line.starts_with(b" ") {
                inside = false;
            } else if inside {
                found.extend(conffile(line));
            }
        })?;
    } else {
        each(root, APK_INFO, ".conffiles_static", &mut |line| {
            found.extend(conffile(line));
        })?;
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

/// Tells every path that belongs to a package, its alternatives among them.
pub(in crate::config) fn owned(
    root: &Path,
    take: &mut dyn FnMut(&EntryPath),
) -> Result<(), ConfigError> {
    for dir in [OPKG_INFO, APK_INFO] {
        each(root, dir, ".list", &mut |line| {
            if let Ok(path) = EntryPath::new(line) {
                take(&path);
            }
        })?;
    }
    each(root, OPKG_INFO, ".control", &mut |line| {
        if let Some(list) = line.strip_prefix(b"Alternatives:") {
            alternatives(list).for_each(|path| take(&path));
        }
    })?;
    each(root, APK_INFO, ".alternatives", &mut |line| {
        alternatives(line).for_each(|path| take(&path));
    })
}

/// The links of `PRIORITY:LINK:TARGET`, divided by commas or blanks.
fn alternatives(list: &[u8]) -> impl Iterator<Item = EntryPath> + '_ {
    list.split(|byte| *byte == b',' || byte.is_ascii_whitespace())
        .filter_map(|one| {
            let link = one.split(|byte| *byte == b':').nth(1)?;
            EntryPath::new(link).ok()
        })
}

/// Packages and where they came from.
type Installed = Vec<(Vec<u8>, From)>;

/// The installed packages, sorted by name, and the directory that says so.
///
/// # Errors
/// [`ConfigError::NoPackages`] without a database.
pub(in crate::config) fn installed(root: &Path) -> Result<(&'static str, Installed), ConfigError> {
    let databases = [(OPKG_INFO, ".control"), (APK_INFO, ".list")];
    let database = databases.iter().find(|(dir, _)| root.join(dir).is_dir());
    let &(dir, suffix) = database.ok_or(ConfigError::NoPackages)?;
    let mut found = Vec::new();
    for file in names(root, dir)? {
        let Some(name) = file.strip_suffix(suffix.as_bytes()) else {
            continue;
        };
        let file = OsString::from_vec(file.clone());
        let is_in = |layer: &str| files::exists(&root.join(layer).join(dir).join(&file));
        let from = match () {
            () if is_in("rom") => From::Rom,
            () if is_in("overlay/upper") => From::Overlay,
            () => From::Unknown,
        };
        found.push((name.to_vec(), from));
    }
    found.sort();
    Ok((dir, found))
}

/// The list of installed packages as stock tools write it: `NAME<TAB>rom|overlay|unknown`, a line
/// for each, without a line end after the last.
pub(in crate::config) fn list(installed: &[(Vec<u8>, From)]) -> Vec<u8> {
    let lines = installed
        .iter()
        .map(|(name, from)| [name, &b"\t"[..], from.word().as_bytes()].concat());
    lines.collect::<Vec<_>>().join(&b'\n')
}

/// Hands on the lines of all files of a directory whose names end so.
fn each(
    root: &Path,
    dir: &str,
    suffix: &str,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), ConfigError> {
    for name in names(root, dir)? {
        if name.ends_with(suffix.as_bytes()) {
            let path = root.join(dir).join(OsString::from_vec(name));
            if path.is_file() {
                lines(&path, take)?;
            }
        }
    }
    Ok(())
}

/// Names in a directory below the root, sorted; none if it does not exist.
pub(in crate::config) fn names(root: &Path, dir: &str) -> Result<Vec<Vec<u8>>, ConfigError> {
    match files::list(&root.join(dir)) {
        Ok(names) => Ok(names.into_iter().map(OsString::into_vec).collect()),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Hands the lines of a package database on, one at a time.
fn lines(path: &Path, each: &mut dyn FnMut(&[u8])) -> Result<(), ConfigError> {
    let file = File::open(path).map_err(FileError::at("open", path))?;
    let mut source = BufReader::new(file).take(MAX_DATABASE);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = (&mut source)
            .take(MAX_LINE)
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
