//! A root that is changed where it stands, so that a power cut cannot leave it half changed.
//!
//! ```text
//! etc/sysupgrade/transaction/tree/...       what will stand at the same paths of the root
//! etc/sysupgrade/transaction/journal.json   the steps: path, what stood there, what will
//! ```
//!
//! The journal is written after the tree is durable; from that moment on the transaction will be
//! done. Each step is durable before the next and changes nothing where it was done before, so that
//! after a cut all of them are simply taken again. The journal goes first when all is done, the tree
//! after it: a tree without a journal is a leftover.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::apply::place;
use crate::config::apply::reports;
use crate::config::report::{Notice, NoticeKind, Report};
use crate::config::tree::{self, Content, Entry};
use crate::config::{ConfigError, EntryPath};
use crate::digest::Digest;
use crate::files;

const TRANSACTION: &str = "etc/sysupgrade/transaction";

/// Version of the journal.
const FORMAT: u32 = 1;

/// [`crate::config::MAX_ENTRIES`] steps with long names, and the report.
const MAX_JOURNAL: u64 = 96 << 20;

/// A transaction that will be done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Journal {
    format: u32,
    report: Report,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    path: EntryPath,
    old: Option<Entry>,
    new: Option<Entry>,
}

/// Begins a transaction: the directory to build its tree in, and one for scratch; neither exists.
pub(in crate::config) fn prepare(root: &Path) -> Result<(PathBuf, PathBuf), ConfigError> {
    let dir = root.join(TRANSACTION);
    clear(root)?;
    files::make_dirs(&root.join("etc"), 0o755)?;
    files::make_dirs(&dir, 0o700)?;
    Ok((tree_of(root), dir.join("scratch")))
}

/// Removes what a cut has left of a transaction without a journal.
pub(in crate::config) fn clear(root: &Path) -> Result<(), ConfigError> {
    Ok(files::remove_tree(&root.join(TRANSACTION))?)
}

fn tree_of(root: &Path) -> PathBuf {
    root.join(TRANSACTION).join("tree")
}

fn journal_of(root: &Path) -> PathBuf {
    root.join(TRANSACTION).join("journal.json")
}

impl Journal {
    /// The transaction that a cut has left.
    pub(in crate::config) fn read(root: &Path) -> Result<Option<Self>, ConfigError> {
        let Some(bytes) = files::read_if_exists(&journal_of(root), MAX_JOURNAL)? else {
            return Ok(None);
        };
        let damaged = |problem| ConfigError::damaged("the journal", problem);
        let journal: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if journal.format != FORMAT {
            return Err(damaged(format!("format {} is not known", journal.format)));
        }
        Ok(Some(journal))
    }

    /// Makes the staged tree durable, and the promise that it will stand in the root, without the
    /// `removed` paths.
    pub(in crate::config) fn write(
        root: &Path,
        report: Report,
        removed: Vec<EntryPath>,
    ) -> Result<Self, ConfigError> {
        let staged = tree_of(root);
        files::sync_tree(&staged)?;
        let mut steps = Vec::new();
        let mut paths: BTreeSet<EntryPath> = tree::walk(&staged)?;
        paths.extend(removed);
        for path in paths {
            let old = tree::entry(root, &path)?;
            let new = tree::entry(&staged, &path)?;
            if old != new {
                steps.push(Step { path, old, new });
            }
        }
        let journal = Self {
            format: FORMAT,
            report,
            steps,
        };
        let bytes =
            serde_json::to_vec(&journal).map_err(|error| ConfigError::Write(error.into()))?;
        files::sync_dir(&root.join(TRANSACTION))?;
        files::replace(&journal_of(root), &bytes, 0o600)?;
        Ok(journal)
    }
}

/// Takes all steps, and ends the transaction.
pub(in crate::config) fn finish(
    root: &Path,
    journal: Journal,
    archive: Digest,
) -> Result<Report, ConfigError> {
    let mut report = journal.report;
    if report.archive != Some(archive) {
        let problem = "an earlier transaction, of another archive, is not finished";
        return Err(ConfigError::damaged("the journal", problem));
    }
    let staged = tree_of(root);
    for Step { path, old, new } in &journal.steps {
        let found = tree::entry(root, path)?;
        if found == *new {
            continue;
        }
        if found != *old && !is_passing(found.as_ref()) {
            let notice = Notice::new(NoticeKind::ChangedMeanwhile, path);
            report.notices.push(notice);
        }
        match new {
            Some(entry) => place::put(root, path, entry, &staged)?,
            None => place::remove(root, path)?,
        }
    }
    reports::prune(root)?;
    files::remove_durably(&journal_of(root))?;
    clear(root)?;
    Ok(report)
}

/// A step that replaces a directory by a file, or the other way round, has a moment of its own
/// between the two.
fn is_passing(entry: Option<&Entry>) -> bool {
    entry.is_none_or(|entry| entry.content == Content::Dir)
}
