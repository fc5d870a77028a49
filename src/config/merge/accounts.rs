//! passwd, group and shadow, which are merged together: numbers, members and passwords tie them.
//!
//! Records are matched by name and merged field by field, the members of a group one by one. A
//! record stays at the place that the user's file gives it; accounts of the image come after it.
//!
//! * An account of the image that the user deleted comes back: a daemon without its account does
//!   not start, and a locked account harms nobody. In shadow it comes back locked if the image gives
//!   it an empty password.
//! * An account that the image dropped goes, unless the user changed it in one of the three files,
//!   or what stays needs it. An account that the image never had stays, whatever happens.
//! * A password is the user's once it was changed; no policy takes it, since that locks the owner
//!   out. When it was last changed goes with it. No password is ever told.
//! * A new account whose number the user gave away gets the next free one. Primary groups are
//!   compared and taken by name, so that they follow a group that got another number.
//!
//! Lines that are no record (comments, `+` of NIS, wrong number of fields, numbers that are none, a
//! name that was there before) are kept as they are in the user's file, and passed over elsewhere.
//! If such a line has a name, the image's record of that name is not added: the line might have
//! been meant to lock that account. A record that did not change keeps its bytes.

mod records;
mod sound;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::str;

use thiserror::Error;

use crate::config::path::escape;
use crate::config::report::{Conflict, ConflictKind, NoticeKind, Shown, Winner};
use records::{File, LAST_CHANGE, MEMBERS, NUMBER, PASSWORD, PRIMARY, Record, number};
use sound::{Numbers, check};

/// The files of one tree; `None`: it has none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Accounts<'a> {
    /// Users.
    pub(crate) passwd: Option<&'a [u8]>,
    /// Groups.
    pub(crate) group: Option<&'a [u8]>,
    /// Passwords.
    pub(crate) shadow: Option<&'a [u8]>,
}

/// One of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub(crate) enum Database {
    Passwd,
    Group,
    Shadow,
}

/// What user and image disagree about.
#[derive(Debug)]
pub(crate) struct Dispute<'a> {
    /// In which file.
    pub(crate) database: Database,
    /// `NAME`, or `NAME[FIELD]`.
    pub(crate) locus: &'a str,
    /// The old default of the field; nothing if there was none, or if it is about all of a record.
    pub(crate) default: Option<&'a [u8]>,
    /// The user's.
    pub(crate) user: Option<&'a [u8]>,
    /// The new default.
    pub(crate) new: Option<&'a [u8]>,
}

/// The merged files.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// Users; `None` if neither user nor image has the file.
    pub(crate) passwd: Option<Vec<u8>>,
    /// Groups, likewise.
    pub(crate) group: Option<Vec<u8>>,
    /// Passwords, likewise.
    pub(crate) shadow: Option<Vec<u8>>,
    /// Disputes and who won.
    pub(crate) conflicts: Vec<(Database, Conflict)>,
    /// Worth telling, with the locus.
    pub(crate) notices: Vec<(Database, NoticeKind, String)>,
    /// Accounts of the image that have other numbers than in the image: files of the image that
    /// belong to the number there belong to somebody else here.
    pub(crate) renumbered: Vec<Renumbered>,
}

/// An account of the image with another number than in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renumbered {
    /// [`Database::Passwd`] for a user, [`Database::Group`] for a group.
    pub(crate) database: Database,
    /// Its name.
    pub(crate) name: Vec<u8>,
    /// Its number in the image.
    pub(crate) image: u32,
    /// Its number in the result.
    pub(crate) result: u32,
}

/// Why merged accounts must not be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Nobody could administer the system.
    #[error("{file} would have no `root` with the number 0")]
    Root {
        /// passwd or group.
        file: &'static str,
    },
    /// Nobody could log in.
    #[error("shadow would have no `root`")]
    RootPassword,
    /// A primary group that does not exist.
    #[error("group {gid}, the primary one of user `{name}`, would not exist")]
    PrimaryGroup {
        /// The user.
        name: String,
        /// Its group.
        gid: u32,
    },
    /// A password that is said to be in shadow, but is not there.
    #[error("user `{name}` would have no entry in shadow")]
    Password {
        /// The user.
        name: String,
    },
    /// Every number is taken.
    #[error("no number is left for the new account `{name}`")]
    Numbers {
        /// The account.
        name: String,
    },
}

/// Merges. Who wins a dispute is asked, except about passwords.
pub(crate) fn merge(
    base: &Accounts,
    user: &Accounts,
    new: &Accounts,
    resolve: &mut dyn FnMut(&Dispute) -> Winner,
) -> Result<Merged, Broken> {
    let trees = |database| Trees::new(database, base, user, new);
    let passwd = trees(Database::Passwd);
    let group = trees(Database::Group);
    let shadow = trees(Database::Shadow);
    let mut merger = Merger {
        resolve,
        merged: Merged::default(),
    };

    // Who stays, though the image dropped it.
    let mut wanted: HashSet<&[u8]> = HashSet::new();
    for trees in [&passwd, &group, &shadow] {
        merger.judge_dropped(trees, &mut wanted);
    }
    let users: Vec<&Record> = (passwd.user.records())
        .filter(|record| !passwd.dropped(record) || wanted.contains(record.name()))
        .collect();
    let user_names: HashSet<&[u8]> = users.iter().map(|record| record.name()).collect();
    let primary: HashSet<u32> = users.iter().filter_map(|record| record.gid()).collect();

    let mut groups = merger.records(&group, &|record| {
        wanted.contains(record.name()) || record.gid().is_some_and(|gid| primary.contains(&gid))
    });
    let mut people = merger.records(&passwd, &|record| wanted.contains(record.name()));
    let passwords = merger.records(&shadow, &|record| user_names.contains(record.name()));

    let mut numbers = Numbers::new(&[&groups, &people], &[&group, &passwd]);
    let no_twins = HashMap::new();
    let new_gids = merger.number(&mut groups, &group, &mut numbers, &no_twins)?;
    merger.set_primary_groups(&mut people, &passwd, &group, &groups);
    merger.number(&mut people, &passwd, &mut numbers, &new_gids)?;

    check([&passwd, &group, &shadow], [&people, &groups, &passwords])?;
    let mut merged = merger.merged;
    merged.passwd = passwd.print(&people);
    merged.group = group.print(&groups);
    merged.shadow = shadow.print(&passwords);
    Ok(merged)
}

impl<'a> Accounts<'a> {
    fn of(&self, database: Database) -> Option<&'a [u8]> {
        match database {
            Database::Passwd => self.passwd,
            Database::Group => self.group,
            Database::Shadow => self.shadow,
        }
    }
}

/// One database of three trees.
struct Trees<'a> {
    database: Database,
    /// `None`: not known.
    base: Option<File<'a>>,
    user: File<'a>,
    /// `None`: the image has no such file, and says nothing about accounts.
    new: Option<File<'a>>,
    /// Of base, user and image.
    texts: [Option<&'a [u8]>; 3],
}

impl<'a> Trees<'a> {
    fn new(
        database: Database,
        base: &Accounts<'a>,
        user: &Accounts<'a>,
        new: &Accounts<'a>,
    ) -> Self {
        let [base, user, new] = [base, user, new].map(|accounts| accounts.of(database));
        let parse = |text| File::parse(database, text);
        Self {
            database,
            base: base.map(parse),
            user: parse(user.unwrap_or_default()),
            new: new.map(parse),
            texts: [base, user, new],
        }
    }

    fn base(&self, name: &[u8]) -> Option<&Record<'a>> {
        self.base.as_ref()?.get(name)
    }

    fn image(&self, name: &[u8]) -> Option<&Record<'a>> {
        self.new.as_ref()?.get(name)
    }

    /// True if the image had this record of the user's and has it no more.
    fn dropped(&self, record: &Record) -> bool {
        let new = self.new.as_ref();
        new.is_some_and(|new| new.get(record.name()).is_none())
            && self.base(record.name()).is_some()
    }

    /// True if user or image have the file.
    fn exists(&self) -> bool {
        let [_, user, new] = self.texts;
        user.or(new).is_some()
    }

    /// The bytes of a merged file. Where they mean the same as the user's or the image's, they are
    /// those.
    fn print(&self, lines: &[Line]) -> Option<Vec<u8>> {
        let [base, user, new] = self.texts;
        user.or(new)?;
        if base == user
            && let Some(image) = &self.new
        {
            let results: HashMap<&[u8], &Merge> = (lines.iter())
                .filter_map(Line::merge)
                .map(|merge| (merge.name, merge))
                .collect();
            let same = |record: &Record| {
                let result = results.get(record.name());
                result.is_some_and(|result| result.fields == record.fields)
            };
            if results.len() == image.records.len() && image.records().all(same) {
                return new.map(<[u8]>::to_vec);
            }
        }
        let mut text = Vec::new();
        for line in lines {
            if !text.is_empty() && !text.ends_with(b"\n") {
                text.push(b'\n'); // else the last account would grow a tail
            }
            match line {
                Line::Odd(line) => text.extend_from_slice(line),
                Line::Record(merge) => match merge.source {
                    Some((line, record)) if merge.fields == record.fields => {
                        text.extend_from_slice(line);
                    }
                    _ => {
                        text.extend(merge.fields.join(&b':'));
                        text.push(b'\n');
                    }
                },
            }
        }
        Some(text)
    }
}

/// A line of the result.
enum Line<'a> {
    /// Kept as it is.
    Odd(&'a [u8]),
    Record(Merge<'a>),
}

impl<'a> Line<'a> {
    fn merge(&self) -> Option<&Merge<'a>> {
        match self {
            Self::Record(merge) => Some(merge),
            Self::Odd(_) => None,
        }
    }

    fn merge_mut(&mut self) -> Option<&mut Merge<'a>> {
        match self {
            Self::Record(merge) => Some(merge),
            Self::Odd(_) => None,
        }
    }
}

/// A record of the result.
struct Merge<'a> {
    name: &'a [u8],
    /// The user's line and what it says; nothing if the account comes from the image.
    source: Option<(&'a [u8], &'a Record<'a>)>,
    fields: Vec<Cow<'a, [u8]>>,
}

impl Merge<'_> {
    fn number(&self) -> Option<u32> {
        number(self.fields.get(NUMBER)?)
    }

    fn gid(&self) -> Option<u32> {
        number(self.fields.get(PRIMARY)?)
    }

    fn set(&mut self, field: usize, value: u32) {
        if let Some(field) = self.fields.get_mut(field)
            && number(field) != Some(value)
        {
            *field = value.to_string().into_bytes().into();
        }
    }
}

struct Merger<'r> {
    resolve: &'r mut dyn FnMut(&Dispute) -> Winner,
    merged: Merged,
}

/// The sides of a dispute: old default, user's, new default.
type Sides<'a> = [Option<&'a [u8]>; 3];

impl Merger<'_> {
    /// Settles what becomes of accounts that the image dropped and the user changed.
    fn judge_dropped<'a>(&mut self, trees: &Trees<'a>, wanted: &mut HashSet<&'a [u8]>) {
        for record in trees.user.records().filter(|record| trees.dropped(record)) {
            if trees.base(record.name()) != Some(record) {
                let locus = escape(record.name());
                let kind = ConflictKind::ChangeDelete;
                if self.dispute(trees.database, locus, kind, [None; 3], false) == Winner::User {
                    wanted.insert(record.name());
                }
            }
        }
    }

    fn dispute(
        &mut self,
        database: Database,
        locus: String,
        kind: ConflictKind,
        sides: Sides,
        secret: bool,
    ) -> Winner {
        let [default, user, new] = sides;
        let resolved = if secret {
            Winner::User
        } else {
            (self.resolve)(&Dispute {
                database,
                locus: &locus,
                default,
                user,
                new,
            })
        };
        let shown = |side: Option<&[u8]>| {
            let text = |side| Shown::Text(escape(side));
            side.map(|side| if secret { Shown::SECRET } else { text(side) })
        };
        let conflict = Conflict {
            decided: false,
            locus: Some(locus),
            kind,
            default: shown(default),
            user: shown(user),
            new: shown(new),
            resolved,
        };
        self.merged.conflicts.push((database, conflict));
        resolved
    }

    /// The lines of a merged file; numbers are not final. `stays` is asked about records that the
    /// image dropped.
    fn records<'a>(
        &mut self,
        trees: &'a Trees<'a>,
        stays: &dyn Fn(&Record) -> bool,
    ) -> Vec<Line<'a>> {
        let mut lines = Vec::new();
        for (line, record) in &trees.user.lines {
            let Some(record) = record else {
                lines.push(Line::Odd(line));
                continue;
            };
            if trees.dropped(record) && !stays(record) {
                continue;
            }
            let fields = match trees.image(record.name()) {
                Some(new) => self.fields(trees.base(record.name()), record, new),
                None => record.fields.iter().copied().map(Cow::Borrowed).collect(),
            };
            lines.push(Line::Record(Merge {
                name: record.name(),
                source: Some((line, record)),
                fields,
            }));
        }
        let new = trees.new.iter().flat_map(File::records);
        for record in new.filter(|record| !trees.user.has_name(record.name())) {
            let mut fields: Vec<Cow<[u8]>> =
                record.fields.iter().copied().map(Cow::Borrowed).collect();
            if trees.base(record.name()).is_some() {
                let locus = escape(record.name());
                let notice = (trees.database, NoticeKind::AccountRestored, locus);
                self.merged.notices.push(notice);
                if trees.database == Database::Shadow
                    && let Some(password) = fields.get_mut(PASSWORD)
                    && password.is_empty()
                {
                    *password = Cow::Borrowed(b"*");
                }
            }
            lines.push(Line::Record(Merge {
                name: record.name(),
                source: None,
                fields,
            }));
        }
        lines
    }

    fn fields<'a>(
        &mut self,
        base: Option<&Record<'a>>,
        user: &Record<'a>,
        new: &Record<'a>,
    ) -> Vec<Cow<'a, [u8]>> {
        let database = user.database;
        // Whose password stands, where there was a choice.
        let mut password = None;
        let mut fields = Vec::new();
        for (index, field) in database.fields().iter().enumerate() {
            let (b, u, n) = (
                base.map(|b| b.field(index)),
                user.field(index),
                new.field(index),
            );
            let three_way = three_way(b, u, n);
            let value = match (database, index) {
                // Settled when all groups have their numbers.
                (Database::Passwd, PRIMARY) => u,
                (Database::Group, MEMBERS) => {
                    fields.push(members(b.unwrap_or_default(), u, n));
                    continue;
                }
                (Database::Shadow, LAST_CHANGE) => match password.or(three_way) {
                    Some(Winner::New) => n,
                    _ => u,
                },
                (_, PASSWORD) => {
                    let winner = three_way.unwrap_or(Winner::User);
                    password = Some(winner).filter(|_| u != n);
                    // Without a default, the image's is no change of anything.
                    if three_way.is_none() && b.is_some() {
                        let locus = locus(user.name(), field);
                        let kind = ConflictKind::BothChanged;
                        self.dispute(database, locus, kind, [b, Some(u), Some(n)], true);
                    }
                    if winner == Winner::User { u } else { n }
                }
                _ => {
                    let winner = three_way.unwrap_or_else(|| {
                        self.field_dispute(
                            database,
                            locus(user.name(), field),
                            [b, Some(u), Some(n)],
                        )
                    });
                    if winner == Winner::User { u } else { n }
                }
            };
            fields.push(Cow::Borrowed(value));
        }
        fields
    }

    fn field_dispute(&mut self, database: Database, locus: String, sides: Sides) -> Winner {
        let kind = match sides {
            [None, ..] => ConflictKind::AddAdd,
            _ => ConflictKind::BothChanged,
        };
        self.dispute(database, locus, kind, sides, false)
    }

    /// Gives accounts of the image other numbers where theirs are taken. Answers what new accounts
    /// got; a new user gets what its group of the same name got (`twins`), if it can.
    fn number<'a>(
        &mut self,
        lines: &mut [Line<'a>],
        trees: &Trees<'a>,
        numbers: &mut Numbers,
        twins: &HashMap<&'a [u8], u32>,
    ) -> Result<HashMap<&'a [u8], u32>, Broken> {
        // Numbers that somebody has here, but not in the image. Two accounts of the image may share.
        let image = |name: &[u8]| trees.image(name).and_then(Record::number);
        let mut taken: HashSet<u32> = (lines.iter())
            .filter_map(Line::merge)
            .filter(|merge| image(merge.name) != merge.number())
            .filter_map(Merge::number)
            .collect();
        let mut given = HashSet::new();
        let mut got = HashMap::new();
        for merge in lines.iter_mut().filter_map(Line::merge_mut) {
            let Some(number) = merge
                .number()
                .filter(|number| image(merge.name) == Some(*number))
            else {
                continue;
            };
            let before = merge.source.and_then(|(_, record)| record.number());
            // Who had the number before keeps it: whoever else has it shared it already.
            if before == Some(number) || !taken.contains(&number) {
                given.insert(number);
                continue;
            }
            let free = |number: &u32| !taken.contains(number) && !given.contains(number);
            let twin = twins.get(merge.name).copied();
            let next = (before.filter(free).or(twin.filter(free)))
                .or_else(|| numbers.next_free(number))
                .ok_or_else(|| Broken::Numbers {
                    name: escape(merge.name),
                })?;
            merge.set(NUMBER, next);
            taken.insert(next);
            numbers.used.insert(next);
            if before.is_none() {
                got.insert(merge.name, next);
            }
            let locus = locus(
                merge.name,
                trees.database.fields().get(NUMBER).unwrap_or(&""),
            );
            let notice = (trees.database, NoticeKind::IdReassigned, locus);
            self.merged.notices.push(notice);
        }
        for merge in lines.iter().filter_map(Line::merge) {
            if let (Some(image), Some(result)) = (image(merge.name), merge.number())
                && image != result
            {
                self.merged.renumbered.push(Renumbered {
                    database: trees.database,
                    name: merge.name.to_vec(),
                    image,
                    result,
                });
            }
        }
        Ok(got)
    }

    /// Settles the primary group of each user, when all groups have their numbers.
    fn set_primary_groups(
        &mut self,
        people: &mut [Line],
        passwd: &Trees,
        group: &Trees,
        groups: &[Line],
    ) {
        let results: HashMap<&[u8], u32> = (groups.iter())
            .filter_map(Line::merge)
            .filter_map(|merge| Some((merge.name, merge.number()?)))
            .collect();
        let base = group.base.as_ref().map(File::names).unwrap_or_default();
        let user = group.user.names();
        let new = group.new.as_ref().map(File::names).unwrap_or_default();
        // The number in the result of the group that a number means in a tree.
        let follow = |names: &HashMap<u32, &[u8]>, gid: u32| {
            let name = names.get(&gid)?;
            results.get(name).copied()
        };
        for merge in people.iter_mut().filter_map(Line::merge_mut) {
            let b = passwd.base(merge.name);
            let u = merge.source.map(|(_, record)| record);
            let n = passwd.image(merge.name);
            let gid = |names: &HashMap<u32, &[u8]>, record: Option<&Record>| {
                let gid = record?.gid()?;
                Some(follow(names, gid).unwrap_or(gid))
            };
            let settled = match (gid(&base, b), gid(&user, u), gid(&new, n)) {
                (_, None, n) => n,
                (_, u, None) => u,
                (gid, Some(users), Some(news)) => {
                    let winner = three_way(gid, users, news).unwrap_or_else(|| {
                        let sides = [b, u, n].map(|record| Some(record?.field(PRIMARY)));
                        self.field_dispute(Database::Passwd, locus(merge.name, "gid"), sides)
                    });
                    Some(if winner == Winner::User { users } else { news })
                }
            };
            if let Some(gid) = settled {
                merge.set(PRIMARY, gid);
            }
        }
    }
}

/// Whose value stands; nothing if both changed it differently. Without a default, values that differ
/// are two changes.
fn three_way<T: Copy + PartialEq>(base: Option<T>, user: T, new: T) -> Option<Winner> {
    if user == new || base == Some(new) {
        Some(Winner::User)
    } else if base == Some(user) {
        Some(Winner::New)
    } else {
        None
    }
}

fn locus(name: &[u8], field: &str) -> String {
    format!("{}[{field}]", escape(name))
}

/// The members of a group: the user's, without those that the image took out, and with those that
/// it added.
fn members<'a>(base: &'a [u8], user: &'a [u8], new: &'a [u8]) -> Cow<'a, [u8]> {
    let list = |text: &'a [u8]| -> Vec<&'a [u8]> {
        let names = text.split(|byte| *byte == b',');
        names.filter(|name| !name.is_empty()).collect()
    };
    let set = |text| -> HashSet<&[u8]> { list(text).into_iter().collect() };
    let (in_base, in_user, in_new) = (set(base), set(user), set(new));
    let mut merged = list(user);
    merged.retain(|name| !in_base.contains(name) || in_new.contains(name));
    let mut added = list(new);
    added.retain(|name| !in_base.contains(name) && !in_user.contains(name));
    merged.extend(added);
    if merged == list(user) {
        Cow::Borrowed(user)
    } else {
        merged.join(&b',').into()
    }
}
