//! Writes a result: its difference to the new image, with all that the program itself keeps of it.
//!
//! ```text
//! etc/sysupgrade/state.json                     steps that are taken
//! etc/sysupgrade/baseline/...                   generated defaults, for the next upgrade
//! etc/sysupgrade/reports/00001.json             what became of every path
//! etc/sysupgrade/attic/00001/...                the user's versions that had to give way
//! etc/sysupgrade/conflicts/00001/PATH.default   the three versions of what was disputed: never
//!                              ... .user .new   beside the file, where programs would read them
//! ```

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::config::apply::reports::REPORTS;
use crate::config::apply::stage::{Source, Stage};
use crate::config::carry::bundle::BASELINE;
use crate::config::engine::Outcome;
use crate::config::path::escape;
use crate::config::report::{Notice, NoticeKind, Report, ReportEntry};
use crate::config::steps::State;
use crate::config::tree::{Content, Entry, Meta, Tree};
use crate::config::{ConfigError, Deadline, EntryPath};
use crate::files;

/// Users' versions that had to give way, below a root.
pub(crate) const ATTIC: &str = "etc/sysupgrade/attic";

/// The versions of what was disputed.
pub(crate) const CONFLICTS: &str = "etc/sysupgrade/conflicts";

/// The most that attic and conflicts of one upgrade take: they lie in the flash of a router. What
/// does not fit is still in the old slot.
pub(super) const MAX_SET_ASIDE: u64 = 256 << 10;

const PRIVATE: Meta = Meta {
    mode: 0o600,
    uid: 0,
    gid: 0,
};

/// The result of an upgrade with what the program keeps of it; `report` gets what that leaves out.
pub(in crate::config) fn complete(
    outcome: &Outcome,
    new: &Tree,
    report: &mut Report,
    number: u32,
) -> Result<Tree, ConfigError> {
    let Outcome {
        merge, base, user, ..
    } = outcome;
    let mut tree = merge.result.clone();
    if let Some(state) = &outcome.state {
        let state = state
            .to_json()
            .map_err(|error| ConfigError::Write(error.into()))?;
        tree.put(&named(&[State::PATH.as_bytes()])?, &state, PRIVATE);
    }
    for (path, entry) in outcome.generated.iter() {
        let name = named(&[BASELINE.as_bytes(), path.as_bytes()])?;
        tree.take(&name, &outcome.generated, path, entry.meta);
    }
    let number = format!("{number:05}");
    let mut aside = Aside {
        tree: &mut tree,
        left: MAX_SET_ASIDE,
    };
    for path in &merge.attic {
        let name = named(&[ATTIC.as_bytes(), number.as_bytes(), path.as_bytes()])?;
        if !aside.take(&name, user, path) {
            report
                .notices
                .push(Notice::new(NoticeKind::AtticFull, path));
        }
    }
    let undecided = merge.entries.iter().filter(|entry| entry.is_undecided());
    for ReportEntry { path, .. } in undecided {
        for (version, from) in [("default", base), ("user", user), ("new", new)] {
            let file = [path.as_bytes(), b".", version.as_bytes()].concat();
            let name = named(&[CONFLICTS.as_bytes(), number.as_bytes(), &file])?;
            // All versions are elsewhere, too: this is for convenience.
            aside.take(&name, from, path);
        }
    }
    let name = format!("{number}.json");
    let bytes = to_json(report)?;
    tree.put(
        &named(&[REPORTS.as_bytes(), name.as_bytes()])?,
        &bytes,
        PRIVATE,
    );
    Ok(tree)
}

/// Versions that are kept beside the result.
struct Aside<'t> {
    tree: &'t mut Tree,
    /// Bytes that it may still take.
    left: u64,
}

impl Aside<'_> {
    /// False if it does not fit. Directories are only the way to what is in them.
    fn take(&mut self, name: &EntryPath, from: &Tree, path: &EntryPath) -> bool {
        let size = match from.get(path).map(|entry| &entry.content) {
            None | Some(Content::Dir) => return true,
            Some(Content::Link { .. }) => 0,
            Some(Content::File { size, .. }) => *size,
        };
        if size > self.left {
            return false;
        }
        self.left -= size;
        self.tree.take(name, from, path, PRIVATE);
        true
    }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, ConfigError> {
    serde_json::to_vec_pretty(value).map_err(|error| ConfigError::Write(error.into()))
}

fn named(parts: &[&[u8]]) -> Result<EntryPath, ConfigError> {
    let name = parts.join(&b'/');
    EntryPath::new(&name).map_err(|why| ConfigError::damaged(escape(&name), why.problem()))
}

/// What has to be written.
pub(in crate::config) struct Difference<'t> {
    new: &'t Tree,
    result: &'t Tree,
}

impl<'t> Difference<'t> {
    pub(in crate::config) fn new(new: &'t Tree, result: &'t Tree) -> Self {
        Self { new, result }
    }

    /// Entries that the new image does not have like this.
    fn changed(&self) -> impl Iterator<Item = (&'t EntryPath, &'t Entry)> {
        let new = self.new;
        self.result
            .iter()
            .filter(move |(path, entry)| new.get(path) != Some(*entry))
    }

    /// Entries of the new image that the result lacks, without those below one of them or below
    /// what stands in a directory's place.
    fn removed(&self) -> impl Iterator<Item = &'t EntryPath> {
        let (new, result) = (self.new, self.result);
        new.iter().map(|(path, _)| path).filter(move |path| {
            let is_dir =
                |dir| matches!(result.get(&dir), Some(entry) if entry.content == Content::Dir);
            result.get(path).is_none()
                && path
                    .ancestors()
                    .all(|dir| new.get(&dir).is_none() || is_dir(dir))
        })
    }

    /// Bytes of the files that will be written. What file systems need beside is theirs to tell.
    pub(in crate::config) fn space(&self) -> u64 {
        let sizes = self.changed().map(|(_, entry)| match entry.content {
            Content::File { size, .. } => size,
            _ => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// Builds it at `dir`, which must not exist and gets this mode; returns what the result lacks,
    /// for which an overlay gets whiteouts.
    pub(in crate::config) fn build(
        &self,
        dir: &Path,
        mode: u32,
        whiteouts: bool,
        deadline: Deadline,
    ) -> Result<Vec<EntryPath>, ConfigError> {
        let mut stage = Stage::new(dir, mode)?;
        for (path, entry) in self.changed() {
            deadline.check()?;
            self.make_parents(&mut stage, path)?;
            let Some((mut content, from)) = self.result.open(path)? else {
                let (mut nothing, from) = (io::empty(), Path::new(""));
                let mut source = Source {
                    path: from,
                    content: &mut nothing,
                    attributes: None,
                    modified: None,
                };
                stage.put(path, entry, &mut source)?;
                continue;
            };
            let mut source = Source {
                path: &from,
                content: &mut content,
                attributes: self.result.attributes(path),
                modified: self.result.modified(path),
            };
            stage.put(path, entry, &mut source)?;
        }
        let removed: Vec<EntryPath> = self.removed().cloned().collect();
        if whiteouts {
            for path in &removed {
                self.make_parents(&mut stage, path)?;
                files::whiteout(&stage.place(path))?;
            }
        }
        Ok(removed)
    }

    /// Makes the directories above a path, with the permissions that they have in the result.
    fn make_parents(&self, stage: &mut Stage, path: &EntryPath) -> Result<(), ConfigError> {
        for dir in path.ancestors() {
            if !stage.has_dir(&dir) {
                let known = self.result.get(&dir).or_else(|| self.new.get(&dir));
                stage.make_dir(&dir, known.map(|entry| entry.meta))?;
            }
        }
        Ok(())
    }
}
