//! The attic: users' versions of files that had to give way in upgrades.

use std::fs::File;
use std::path::Path;

use crate::config::apply::build::ATTIC;
use crate::config::tree::{self, Kind};
use crate::config::{ConfigError, EntryPath};
use crate::files;

/// A version that had to give way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// In which upgrade: the number of its report.
    pub number: u32,
    /// Where it stood.
    pub path: EntryPath,
    /// Bytes; nothing for a link.
    pub size: Option<u64>,
}

/// What an attic has of a path.
#[derive(Debug)]
pub enum Found {
    /// A file.
    File(File),
    /// A link with this target.
    Link(Box<[u8]>),
}

/// Everything in the attics of a system: by path, the newest version first.
///
/// # Errors
/// When a directory cannot be read.
pub fn list(root: &Path) -> Result<Vec<SetAside>, ConfigError> {
    let mut list = Vec::new();
    for number in numbers(root)? {
        let attic = root.join(ATTIC).join(name(number));
        for path in tree::walk(&attic)? {
            let Some(node) = tree::node(&attic, &path)? else {
                continue;
            };
            let size = match node.kind {
                Some(Kind::File) => Some(node.size),
                Some(Kind::Link) => None,
                Some(Kind::Dir) | None => continue,
            };
            list.push(SetAside { number, path, size });
        }
    }
    list.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(list)
}

/// The newest version of a path; `text` is what the owner calls it.
///
/// # Errors
/// When the attic cannot be read.
pub fn newest(root: &Path, text: &[u8]) -> Result<Option<Found>, ConfigError> {
    let path = EntryPath::typed(text)?;
    for number in numbers(root)? {
        let attic = root.join(ATTIC).join(name(number));
        match tree::node(&attic, &path)?.and_then(|node| node.kind) {
            Some(Kind::File) => return Ok(Some(Found::File(tree::open(&attic, &path)?.0))),
            Some(Kind::Link) => return Ok(Some(Found::Link(tree::read_link(&attic, &path)?))),
            Some(Kind::Dir) | None => {}
        }
    }
    Ok(None)
}

/// The numbers of attics, descending.
fn numbers(root: &Path) -> Result<Vec<u32>, ConfigError> {
    let dir = root.join(ATTIC);
    if !files::is_dir(&dir) {
        return Ok(Vec::new());
    }
    let names = files::list(&dir)?;
    let numbers = names.iter().filter_map(|found| {
        let number = found.to_str()?.parse().ok()?;
        (name(number).as_str() == *found).then_some(number)
    });
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable_by(|one, other| other.cmp(one));
    Ok(numbers)
}

fn name(number: u32) -> String {
    format!("{number:05}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_newest_version_comes_first_and_is_the_one_to_get() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(list(root).unwrap(), []);
        put(root, "etc/sysupgrade/attic/00002/etc/x", "older");
        put(root, "etc/sysupgrade/attic/00010/etc/x", "newer");
        put(root, "etc/sysupgrade/attic/00002/etc/a", "other");
        put(root, "etc/sysupgrade/attic/3/etc/a", "not ours");
        symlink("y", root.join("etc/sysupgrade/attic/00010/etc/link")).unwrap();
        let found = list(root).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|aside| (aside.path.to_string(), aside.number, aside.size))
            .collect();
        let wanted = [
            ("etc/a", 2, Some(5)),
            ("etc/link", 10, None),
            ("etc/x", 10, Some(5)),
            ("etc/x", 2, Some(5)),
        ];
        let wanted = wanted.map(|(path, number, size)| (path.to_owned(), number, size));
        assert_eq!(found, wanted);
        for name in ["/etc/x", "etc/x"] {
            let Some(Found::File(mut file)) = newest(root, name.as_bytes()).unwrap() else {
                panic!("{name} is no file");
            };
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "newer");
        }
        let link = newest(root, b"/etc/link").unwrap();
        assert!(matches!(link, Some(Found::Link(target)) if &*target == b"y"));
        assert!(newest(root, b"/etc").unwrap().is_none());
        assert!(newest(root, b"/etc/z").unwrap().is_none());
    }

    #[test]
    fn nothing_outside_the_attic_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "etc/shadow", "root:hash");
        fs::create_dir_all(root.join("etc/sysupgrade/attic/00001")).unwrap();
        symlink("../../..", root.join("etc/sysupgrade/attic/00001/up")).unwrap();
        assert!(newest(root, b"up/shadow").unwrap().is_none());
        for name in [&b"../../../shadow"[..], b"", b"/", b"a\0b"] {
            let error = newest(root, name).unwrap_err();
            assert!(matches!(error, ConfigError::NotAPath { .. }), "{error}");
        }
    }
}
