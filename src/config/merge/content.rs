//! The content of one file in its three versions: are they the same, and what is both changes?

use std::collections::BTreeSet;

use super::super::packed::Packed;
use super::super::report::{Conflict, ConflictKind, NoticeKind, Winner};
use super::super::tree::{Content, Entry, Kind, Tree};
use super::super::uci::{Package, Value};
use super::super::{ConfigError, EntryPath};
use super::hints::Hints;
use super::policy::{Merger, OnConflict, Rule};
use super::resolve::{Resolutions, Seen};
use super::table::{self, Equal, Row};
use super::{Take, Versions, lines, text, uci};
use crate::digest::Digest;

/// What both changes of a file come to.
pub(super) struct Outcome {
    pub take: Take,
    pub merger: Option<Merger>,
    pub conflicts: Vec<Conflict>,
    /// With the place inside the file.
    pub notices: Vec<(NoticeKind, String)>,
}

/// One file in its three versions. It is read only where digests do not answer the question.
pub(super) struct Contents<'a> {
    versions: Versions<'a>,
    path: &'a EntryPath,
    rule: Rule,
    packages: Option<[Option<Package>; 3]>,
}

impl<'a> Contents<'a> {
    pub(super) fn new(versions: Versions<'a>, path: &'a EntryPath, rule: Rule) -> Self {
        Self {
            versions,
            path,
            rule,
            packages: None,
        }
    }

    fn trees(&self) -> [&'a Tree; 3] {
        let Versions { base, user, new } = self.versions;
        [base, user, new]
    }

    fn entries(&self) -> [Option<&'a Entry>; 3] {
        self.trees().map(|tree| tree.get(self.path))
    }

    /// The row of the table that says what to do.
    pub(super) fn row(&mut self) -> Result<Row, ConfigError> {
        let [b, u, n] = self.entries();
        Ok(table::row(b, u, n, self.equal()?))
    }

    /// Which versions are the same. UCI packages are if they mean the same; a comment that only the
    /// later version has is a change, too, since somebody wrote it.
    fn equal(&mut self) -> Result<Equal, ConfigError> {
        let [b, u, n] = self
            .entries()
            .map(|entry| entry.map(|entry| &entry.content));
        let same = |one: Option<&Content>, other| one.is_some() && one == other;
        let mut equal = Equal {
            user_is_base: same(u, b),
            new_is_base: same(n, b),
            user_is_new: same(u, n),
        };
        let differ = [
            (b, u, equal.user_is_base),
            (b, n, equal.new_is_base),
            (u, n, equal.user_is_new),
        ]
        .iter()
        .any(|(one, other, same)| one.is_some() && other.is_some() && !same);
        if differ && self.is_uci() {
            let [b, u, n] = self.packages()?;
            equal.user_is_base |= is_touched_up(b.as_ref(), u.as_ref());
            equal.new_is_base |= is_touched_up(b.as_ref(), n.as_ref());
            equal.user_is_new |= u.is_some() && u == n;
        }
        Ok(equal)
    }

    /// A package is the whole name: what is beside it (`network.bak`) is no package.
    fn is_uci(&self) -> bool {
        let bytes = self.path.as_bytes();
        let name = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or(bytes);
        self.rule.merge == Some(Merger::Uci) && !name.contains(&b'.')
    }

    /// The versions as packages; nothing for one that is no package.
    fn packages(&mut self) -> Result<&[Option<Package>; 3], ConfigError> {
        let loaded = match self.packages.take() {
            Some(packages) => packages,
            None => {
                let mut packages = [None, None, None];
                for (package, tree) in packages.iter_mut().zip(self.trees()) {
                    let bytes = tree.bytes(self.path, self.rule.max)?;
                    *package = bytes.and_then(|bytes| Package::parse(&bytes).ok());
                }
                packages
            }
        };
        Ok(self.packages.insert(loaded))
    }

    /// Merges what both changed.
    pub(super) fn merge(&mut self, judge: &mut Judge) -> Result<Outcome, ConfigError> {
        let [b, u, _] = self.entries();
        let kind = match b {
            None => ConflictKind::AddAdd,
            Some(_) => ConflictKind::BothChanged,
        };
        if !matches!(u, Some(entry) if entry.content.kind() == Kind::File) {
            return Ok(self.whole(kind, judge)); // links
        }
        let (wanted, has_base) = (self.rule.merge, b.is_some());
        match wanted {
            Some(Merger::Uci) if self.is_uci() => self.merge_uci(kind, judge),
            Some(Merger::Lines) if has_base => self.merge_lines(judge),
            Some(Merger::Text | Merger::Uci) | None if has_base => self.merge_text(judge),
            // A file that the policy does not merge, account files beside their place, and two files
            // that nobody knows the origin of.
            _ => Ok(self.whole(kind, judge)),
        }
    }

    fn merge_uci(&mut self, kind: ConflictKind, judge: &mut Judge) -> Result<Outcome, ConfigError> {
        let (path, rule) = (self.path, self.rule);
        let [b, ..] = self.entries();
        let broken_base = b.is_some_and(|entry| entry.content.kind() == Kind::File);
        let (base, user, new) = match self.packages()? {
            [base, Some(user), Some(new)] if base.is_some() || !broken_base => (base, user, new),
            _ if b.is_none() => return Ok(self.whole(kind, judge)),
            _ => return Ok(self.whole(ConflictKind::Unmergeable, judge)),
        };
        let name = path.as_bytes().rsplit(|byte| *byte == b'/').next();
        let name = String::from_utf8_lossy(name.unwrap_or_default());
        let mut decided = BTreeSet::new();
        let merged = uci::merge(
            &name,
            base.as_ref(),
            user,
            new,
            Hints::built_in(),
            &mut |dispute| {
                let mut seen = Seen::new();
                for value in [dispute.default, dispute.user, dispute.new] {
                    seen = seen.version(value.map(items));
                }
                let locus = Some(dispute.locus);
                let verdict = judge.judge(path, locus, rule.conflict, seen.digest());
                if verdict.decided {
                    decided.insert(dispute.locus.to_owned());
                }
                verdict.winner
            },
        );
        let mut conflicts = merged.conflicts;
        for conflict in &mut conflicts {
            let locus = conflict.locus.as_ref();
            conflict.decided = locus.is_some_and(|locus| decided.contains(locus));
        }
        let is_new = is_touched_up(Some(new), Some(&merged.package));
        // What is printed is read again to be sure of it: that makes room for it.
        self.packages = None;
        let take = match is_new {
            true => Take::New,
            false => self.take_of(&merged.package.print()),
        };
        Ok(Outcome {
            take,
            merger: Some(Merger::Uci),
            conflicts,
            notices: merged.notices,
        })
    }

    fn merge_lines(&mut self, judge: &mut Judge) -> Result<Outcome, ConfigError> {
        match self.texts()? {
            Some([b, u, n]) => Ok(Outcome {
                take: self.take_of(&lines::merge(Some(&b), &u, &n)),
                merger: Some(Merger::Lines),
                conflicts: Vec::new(),
                notices: Vec::new(),
            }),
            None => Ok(self.whole(ConflictKind::Unmergeable, judge)),
        }
    }

    fn merge_text(&mut self, judge: &mut Judge) -> Result<Outcome, ConfigError> {
        let Some([b, u, n]) = self.texts()? else {
            return Ok(self.whole(ConflictKind::Unmergeable, judge));
        };
        if let Some(merged) = text::merge(&b, &u, &n) {
            return Ok(Outcome {
                take: self.take_of(&merged),
                merger: Some(Merger::Text),
                conflicts: Vec::new(),
                notices: Vec::new(),
            });
        }
        let mut outcome = self.whole(ConflictKind::BothChanged, judge);
        outcome.merger = Some(Merger::Text);
        Ok(outcome)
    }

    /// Merged bytes; those of one version if they are the same.
    pub(super) fn take_of(&self, bytes: &[u8]) -> Take {
        let merged = Packed::new(bytes);
        let [_, u, n] = self.entries();
        let same =
            |entry: Option<&Entry>| entry.is_some_and(|entry| entry.content == merged.content());
        match (same(u), same(n)) {
            (true, _) => Take::User,
            (_, true) => Take::New,
            _ => Take::Merged(merged),
        }
    }

    /// The three versions, if all of them are text that lines can be taken from and put into: a clean
    /// merge of a program can be a wrong program.
    fn texts(&self) -> Result<Option<[Vec<u8>; 3]>, ConfigError> {
        let mut texts = [Vec::new(), Vec::new(), Vec::new()];
        for (text, tree) in texts.iter_mut().zip(self.trees()) {
            let Some(bytes) = tree.bytes(self.path, self.rule.max)? else {
                return Ok(None);
            };
            let executable = tree
                .get(self.path)
                .is_some_and(|entry| entry.meta.mode & 0o111 != 0);
            let is_text = std::str::from_utf8(&bytes).is_ok() && !bytes.contains(&0);
            if executable || !is_text || bytes.starts_with(b"#!") {
                return Ok(None);
            }
            *text = bytes;
        }
        Ok(Some(texts))
    }

    /// A dispute about the whole entry.
    fn whole(&self, kind: ConflictKind, judge: &mut Judge) -> Outcome {
        let mut seen = Seen::new();
        for entry in self.entries() {
            let digest = match entry.map(|entry| &entry.content) {
                Some(Content::File { sha256, .. }) => Some(sha256.0.to_vec()),
                Some(Content::Link { target }) => Some(target.to_vec()),
                Some(Content::Dir) | None => None,
            };
            seen = seen.version(digest.as_deref().map(std::iter::once));
        }
        let verdict = judge.judge(self.path, None, self.rule.conflict, seen.digest());
        let mut conflict = Conflict::whole(kind, verdict.winner);
        conflict.decided = verdict.decided;
        Outcome {
            take: match verdict.winner {
                Winner::User => Take::User,
                Winner::New => Take::New,
            },
            merger: None,
            conflicts: vec![conflict],
            notices: Vec::new(),
        }
    }
}

/// The byte strings of a value.
fn items(value: &Value) -> std::vec::IntoIter<&[u8]> {
    let items: Vec<&[u8]> = match value {
        Value::One(text) => vec![b"option", text],
        Value::List(items) => items.iter().map(Vec::as_slice).collect(),
    };
    items.into_iter()
}

/// True if `later` means what `earlier` means and nobody wrote a comment into it: programs that
/// rewrite a package drop comments, people add them.
fn is_touched_up(earlier: Option<&Package>, later: Option<&Package>) -> bool {
    let (Some(earlier), Some(later)) = (earlier, later) else {
        return false;
    };
    if earlier != later {
        return false;
    }
    let known: BTreeSet<Vec<u8>> = earlier.comments().into_iter().collect();
    let mut comments = later.comments().into_iter();
    comments.all(|comment| known.contains(&comment))
}

/// Says who wins disputes, and remembers what was asked.
pub(super) struct Judge<'a> {
    resolutions: &'a Resolutions,
    followed: BTreeSet<(EntryPath, Option<String>)>,
    disputes: Vec<(EntryPath, Option<String>, Digest)>,
}

/// The end of a dispute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub winner: Winner,
    /// By the owner, before the upgrade.
    pub decided: bool,
}

impl<'a> Judge<'a> {
    pub(super) fn new(resolutions: &'a Resolutions) -> Self {
        Self {
            resolutions,
            followed: BTreeSet::new(),
            disputes: Vec::new(),
        }
    }

    pub(super) fn judge(
        &mut self,
        path: &EntryPath,
        locus: Option<&str>,
        otherwise: OnConflict,
        seen: Digest,
    ) -> Verdict {
        self.disputes
            .push((path.clone(), locus.map(str::to_owned), seen));
        if let Some(winner) = self.resolutions.find(path, locus, seen) {
            self.followed
                .insert((path.clone(), locus.map(str::to_owned)));
            return Verdict {
                winner,
                decided: true,
            };
        }
        Verdict {
            winner: match otherwise {
                OnConflict::New => Winner::New,
                OnConflict::User | OnConflict::Fail => Winner::User,
            },
            decided: false,
        }
    }

    /// Places of decisions that were not followed.
    pub(super) fn stale(&self) -> Vec<(&'a EntryPath, Option<&'a str>)> {
        self.resolutions
            .places()
            .filter(|(path, locus)| {
                let place = ((*path).clone(), locus.map(str::to_owned));
                !self.followed.contains(&place)
            })
            .collect()
    }

    /// Every dispute, with the digest of what was seen.
    pub(super) fn into_disputes(self) -> Vec<(EntryPath, Option<String>, Digest)> {
        self.disputes
    }
}
