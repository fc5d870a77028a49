//! The bundle: what an archive says of itself, and what a tar cannot say.
//!
//! `etc/sysupgrade/bundle.json`, the last member of an archive. The archive is
//!
//! ```text
//! etc/uci-defaults/10_disable_services   for stock systems: [`Member::made`]
//! etc/...                            the kept files and links, as stock tools lay them out
//! etc/sysupgrade/baseline/...        the old default of every kept path that has one and differs
//!                                    from it, or that the user deleted
//! etc/sysupgrade/bundle.json         this
//! ```
//!
//! `Bundle::check` is the meaning of the format: what an archive must fulfil beyond having
//! exactly the members that its bundle lists.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::board::Scope;
use crate::config::carry::owners::Owners;
use crate::config::carry::services::{self, DISABLE_SCRIPT};
use crate::config::report::Notice;
use crate::config::tree::{Content, Entry, Kind, Meta};
use crate::config::{ConfigError, EntryPath, STATE_DIR};

/// Version of the bundle. Another one is refused: what an archive means is not guessed.
pub const FORMAT: u32 = 1;

/// Name of the bundle in the archive.
pub const BUNDLE: &str = "etc/sysupgrade/bundle.json";

/// Old defaults are below this, in an archive and on a system.
pub const BASELINE: &str = "etc/sysupgrade/baseline";

/// What a configuration remembers of the migrations that were applied to it.
pub const STATE: &str = "etc/sysupgrade/state.json";

/// What the user has decided before a merge.
pub const RESOLUTIONS: &str = "etc/sysupgrade/resolutions.json";

/// Bounds [`STATE`] and [`RESOLUTIONS`] each: definitions of hundreds of steps.
pub(in crate::config) const MAX_DOCUMENT: u64 = 1 << 20;

/// Bounds the bundle itself: [`crate::config::MAX_ENTRIES`] entries with long names.
pub(in crate::config) const MAX_BUNDLE: u64 = 32 << 20;

/// What an archive holds and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the image that the configuration came from.
    pub from_version: String,
    /// Board that it came from.
    pub board: String,
    /// What travels.
    pub scope: Scope,
    /// All members but the bundle, in their order.
    pub members: Vec<Member>,
    /// Directories that lead to kept files or are kept for themselves. They are no members, as
    /// stock tools have none.
    pub directories: Vec<Directory>,
    /// Old defaults that the user deleted; each is below [`BASELINE`].
    pub deletions: Vec<Deletion>,
    /// Oddities of the keep lists.
    pub notices: Vec<Notice>,
    /// Which services start at boot; absent if the system has no links that say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Services>,
    /// Names of the numeric owners that occur in the archive.
    #[serde(default, skip_serializing_if = "Owners::is_empty")]
    pub owners: Owners,
    /// Content of [`STATE`]: which migrations this configuration has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
    /// Content of [`RESOLUTIONS`]: disputes that the user has decided already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolutions: Option<Value>,
}

/// Names of the services that start at boot, as text without loss.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// By default; absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<BTreeSet<String>>,
    /// As the user has it.
    pub user: BTreeSet<String>,
}

/// What the old image had in the place of a kept entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OldDefault {
    /// The same, permissions and owner included.
    Same,
    /// Something else; it is below [`BASELINE`].
    Changed,
    /// Nothing, or nobody knows.
    None,
}

/// One member of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub path: EntryPath,
    /// What it holds.
    #[serde(flatten)]
    pub entry: Entry,
    /// Not said of old defaults themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<OldDefault>,
    /// True if its default was made by the first boot of the old system; no image ships it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
    /// True if it was made for stock systems, which have no bundle to read; it is no file of the
    /// system that the archive came from, and becomes none of the one that it goes to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
    /// Its extended attributes, values as text without loss.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// A directory of the user's tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Below the root.
    pub path: EntryPath,
    /// Permissions and owner.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the old image had.
    pub default: OldDefault,
}

/// An old default that the user deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// Below the root.
    pub path: EntryPath,
    /// As of a [`Member`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
}

impl Bundle {
    /// The kept files and links.
    pub fn kept(&self) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(|member| !member.made && !member.path.is_within(STATE_DIR))
    }

    /// Paths whose old default no image ships.
    pub(in crate::config) fn generated(&self) -> impl Iterator<Item = EntryPath> {
        let members = self.members.iter().filter(|member| member.generated);
        let deletions = self.deletions.iter().filter(|deletion| deletion.generated);
        members
            .map(|member| member.path.clone())
            .chain(deletions.map(|deletion| deletion.path.clone()))
    }

    /// The old defaults, by the path that they are the default of.
    pub(in crate::config) fn baseline(&self) -> BTreeMap<EntryPath, &Entry> {
        self.members
            .iter()
            .filter_map(|member| Some((member.path.strip(BASELINE)?, &member.entry)))
            .collect()
    }

    /// Checks that it makes sense: each name once, nothing below a file or a link, and exactly
    /// the old defaults that it speaks of.
    pub(in crate::config) fn check(&self) -> Result<(), ConfigError> {
        if self.format != FORMAT {
            let problem = format!("format {} is not known, {FORMAT} is", self.format);
            return Err(ConfigError::damaged(BUNDLE, problem));
        }
        let bad = |path: &EntryPath, problem: &str| Err(ConfigError::damaged(path, problem));
        let mut kinds = BTreeMap::new();
        let listed = self
            .members
            .iter()
            .map(|m| (&m.path, m.entry.content.kind()));
        let directories = self.directories.iter().map(|d| (&d.path, Kind::Dir));
        for (path, kind) in listed.chain(directories) {
            if kinds.insert(path, kind).is_some() {
                return bad(path, "listed twice");
            }
        }
        for path in kinds.keys() {
            for dir in path.ancestors() {
                if kinds.get(&dir).is_some_and(|kind| *kind != Kind::Dir) {
                    return bad(path, "lies below a file or a link");
                }
            }
        }
        let mut baseline = self.baseline();
        for member in &self.members {
            if member.made {
                if member.path.as_bytes() != DISABLE_SCRIPT.as_bytes() || member.default.is_some() {
                    return bad(&member.path, "is nothing that is made");
                }
                continue;
            }
            let state = member.path.is_within(STATE_DIR);
            match (state, member.path.strip(BASELINE), member.default) {
                (true, Some(_), None) if !member.generated => {}
                (false, None, Some(default)) => {
                    if member.entry.content == Content::Dir {
                        return bad(&member.path, "a directory is no kept file");
                    }
                    let has = baseline.remove(&member.path).is_some();
                    if has != (default == OldDefault::Changed) {
                        return bad(&member.path, "its old default is missing or too much");
                    }
                }
                _ => return bad(&member.path, "is no member of an archive"),
            }
        }
        for directory in &self.directories {
            let has = baseline.remove(&directory.path).is_some();
            if directory.path.is_within(STATE_DIR)
                || has != (directory.default == OldDefault::Changed)
            {
                return bad(&directory.path, "its old default is missing or too much");
            }
        }
        for deletion in &self.deletions {
            if kinds.contains_key(&deletion.path) {
                return bad(&deletion.path, "kept and deleted");
            }
            if baseline.remove(&deletion.path).is_none() {
                return bad(&deletion.path, "deleted, but its old default is missing");
            }
        }
        if let Some(path) = baseline.keys().next() {
            return bad(path, "an old default that belongs to nothing");
        }
        let services = self.services.iter();
        let mut names = services.flat_map(|both| both.default.iter().flatten().chain(&both.user));
        match names.find(|name| !services::is_name(name)) {
            Some(name) => {
                let problem = format!("`{name}` is no name of a service");
                Err(ConfigError::damaged(BUNDLE, problem))
            }
            None => Ok(()),
        }
    }
}
