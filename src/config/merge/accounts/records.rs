//! passwd, group and shadow as lines and records.

use std::collections::{HashMap, HashSet};
use std::str;

use super::Database;

impl Database {
    pub(super) fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Passwd => &["name", "password", "uid", "gid", "gecos", "home", "shell"],
            Self::Group => &["name", "password", "gid", "members"],
            Self::Shadow => &[
                "name",
                "password",
                "lastchange",
                "min",
                "max",
                "warn",
                "inactive",
                "expire",
                "reserved",
            ],
        }
    }
}

/// In passwd and shadow and group.
pub(super) const PASSWORD: usize = 1;
/// The number of a user or group.
pub(super) const NUMBER: usize = 2;
/// In passwd.
pub(super) const PRIMARY: usize = 3;
/// In group.
pub(super) const MEMBERS: usize = 3;
/// In shadow.
pub(super) const LAST_CHANGE: usize = 2;

/// A record of one file: its fields, of which it has as many as its database asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) database: Database,
    pub(super) fields: Vec<&'a [u8]>,
}

impl<'a> Record<'a> {
    pub(super) fn parse(database: Database, line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let record = Self { database, fields };
        let valid = record.fields.len() == database.fields().len()
            && is_name(record.name())
            && match database {
                Database::Passwd => record.number().is_some() && record.gid().is_some(),
                Database::Group => record.number().is_some(),
                Database::Shadow => true,
            };
        valid.then_some(record)
    }

    pub(super) fn field(&self, index: usize) -> &'a [u8] {
        self.fields.get(index).copied().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &'a [u8] {
        self.field(0)
    }

    /// uid of a user, gid of a group.
    pub(super) fn number(&self) -> Option<u32> {
        number(self.field(NUMBER))
    }

    /// gid of a group, the primary one of a user.
    pub(super) fn gid(&self) -> Option<u32> {
        match self.database {
            Database::Passwd => number(self.field(PRIMARY)),
            Database::Group => self.number(),
            Database::Shadow => None,
        }
    }
}

pub(super) fn is_name(name: &[u8]) -> bool {
    !matches!(name, [] | [b'+' | b'-' | b'#', ..])
}

pub(super) fn number(digits: &[u8]) -> Option<u32> {
    let plain = digits.iter().all(u8::is_ascii_digit);
    let digits = str::from_utf8(digits).ok().filter(|_| plain)?;
    digits.parse().ok()
}

/// A file: its lines, and where among them the record of a name is.
#[derive(Debug, Default)]
pub(super) struct File<'a> {
    pub(super) lines: Vec<(&'a [u8], Option<Record<'a>>)>,
    pub(super) records: HashMap<&'a [u8], usize>,
    /// Names of lines that are no records, or not the first of their name.
    pub(super) odd: HashSet<&'a [u8]>,
}

impl<'a> File<'a> {
    pub(super) fn parse(database: Database, text: &'a [u8]) -> Self {
        let mut file = Self::default();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let record = Record::parse(database, line)
                .filter(|record| !file.records.contains_key(record.name()));
            match &record {
                Some(record) => {
                    file.records.insert(record.name(), file.lines.len());
                }
                None => {
                    let mut fields = line.splitn(2, |byte| *byte == b':');
                    if let (Some(name), Some(_)) = (fields.next(), fields.next()) {
                        file.odd.insert(name);
                    }
                }
            }
            file.lines.push((line, record));
        }
        file
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record<'a>> {
        self.lines.iter().filter_map(|(_, record)| record.as_ref())
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Record<'a>> {
        let (_, record) = self.lines.get(*self.records.get(name)?)?;
        record.as_ref()
    }

    pub(super) fn has_name(&self, name: &[u8]) -> bool {
        self.records.contains_key(name) || self.odd.contains(name)
    }

    /// The names of groups by number; the first one counts, as it does for the system.
    pub(super) fn names(&self) -> HashMap<u32, &'a [u8]> {
        let mut names = HashMap::new();
        for record in self.records() {
            if let Some(number) = record.number() {
                names.entry(number).or_insert(record.name());
            }
        }
        names
    }
}
