//! Names of owners.
//!
//! A file belongs to a number, and what the number means stands in passwd and group, which may not
//! travel or may be merged to other numbers. So an archive says the names of the numbers that occur
//! in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::carry::accounts;
use crate::config::path::escape;
use crate::config::tree::Meta;
use crate::config::{ConfigError, EntryPath};

/// Names of the owners of the files of an archive, as text without loss. A number that no account
/// of the old system has is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Owners {
    /// By uid.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<u32, String>,
    /// By gid.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<u32, String>,
}

impl Owners {
    /// Names of the owners of these entries, by the accounts of the system at `root`.
    pub(in crate::config) fn of<'a>(
        root: &Path,
        entries: impl Iterator<Item = &'a Meta>,
    ) -> Result<Self, ConfigError> {
        let (uids, gids): (BTreeSet<u32>, BTreeSet<u32>) =
            entries.map(|meta| (meta.uid, meta.gid)).unzip();
        Ok(Self {
            users: names(root, "etc/passwd", &uids)?,
            groups: names(root, "etc/group", &gids)?,
        })
    }

    /// All names of these texts of passwd and group.
    pub(in crate::config) fn read(passwd: &[u8], group: &[u8]) -> Self {
        Self {
            users: by_number(passwd, &|_| true),
            groups: by_number(group, &|_| true),
        }
    }

    /// The numbers that the names have in these texts of passwd and group.
    pub(in crate::config) fn numbers(&self, passwd: &[u8], group: &[u8]) -> Numbers {
        Numbers {
            uids: renumbered(&self.users, passwd),
            gids: renumbered(&self.groups, group),
        }
    }

    /// True if no name is known.
    pub(in crate::config) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// The first account of each number, as the C library finds it.
fn names(
    root: &Path,
    file: &str,
    numbers: &BTreeSet<u32>,
) -> Result<BTreeMap<u32, String>, ConfigError> {
    let Ok(path) = EntryPath::new(file.as_bytes()) else {
        return Ok(BTreeMap::new());
    };
    let text = accounts::read(root, &path)?.unwrap_or_default();
    Ok(by_number(&text, &|number| numbers.contains(&number)))
}

fn by_number(text: &[u8], wanted: &dyn Fn(u32) -> bool) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        if let Some((name, number)) = account(line).filter(|(_, number)| wanted(*number)) {
            names.entry(number).or_insert_with(|| escape(name));
        }
    }
    names
}

/// The numbers that changed, old to new. A name that is gone leaves its number as it was.
fn renumbered(names: &BTreeMap<u32, String>, text: &[u8]) -> BTreeMap<u32, u32> {
    let mut numbers = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        if let Some((name, number)) = account(line) {
            numbers.entry(escape(name)).or_insert(number);
        }
    }
    let pairs = names
        .iter()
        .filter_map(|(old, name)| Some((*old, *numbers.get(name)?)));
    pairs.filter(|(old, new)| old != new).collect()
}

/// New numbers of owners.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Numbers {
    uids: BTreeMap<u32, u32>,
    gids: BTreeMap<u32, u32>,
}

impl Numbers {
    pub(in crate::config) fn uid(&self, old: u32) -> u32 {
        self.uids.get(&old).copied().unwrap_or(old)
    }

    pub(in crate::config) fn gid(&self, old: u32) -> u32 {
        self.gids.get(&old).copied().unwrap_or(old)
    }
}

/// `NAME:PASSWORD:NUMBER:...`, in passwd and in group.
fn account(line: &[u8]) -> Option<(&[u8], u32)> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let number = std::str::from_utf8(fields.nth(1)?).ok()?;
    Some((name, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn owners_are_named_by_the_first_account_with_their_number() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let write = |file, text: &[u8]| fs::write(root.path().join(file), text).unwrap();
        write(
            "etc/passwd",
            b"root:x:0:0:root:/root:/bin/ash\nalias:x:0:0::/:\n\
              :x:7:7\nshort:x\nodd:x:seven\nn\xfc:x:7:7::/:/bin/false\nmail:x:8:8::/:\n",
        );
        write("etc/group", b"root:x:0:\nwheel:x:10:root");
        let meta = |uid, gid| Meta {
            mode: 0o644,
            uid,
            gid,
        };
        let entries = [meta(0, 10), meta(7, 0), meta(99, 99)];
        let owners = Owners::of(root.path(), entries.iter()).unwrap();
        let pairs = |pairs: &[(u32, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(number, name)| (*number, (*name).to_owned()));
            pairs.collect::<BTreeMap<_, _>>()
        };
        assert_eq!(owners.users, pairs(&[(0, "root"), (7, "n\\xfc")]));
        assert_eq!(owners.groups, pairs(&[(0, "root"), (10, "wheel")]));
    }

    #[test]
    fn a_system_without_accounts_names_nobody() {
        let root = tempfile::tempdir().unwrap();
        let meta = Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        let owners = Owners::of(root.path(), [meta].iter()).unwrap();
        assert!(owners.is_empty());
    }
}
