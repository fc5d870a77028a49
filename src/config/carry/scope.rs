//! What of a system travels to its next version, and what stays behind.
//!
//! ```text
//!                 declared by a keep list    changed under /etc              everything else
//! scope declared  travels                    stays, and is told              stays
//! scope etc       travels                    travels, unless the policy      stays
//!                                            drops it
//! ```
//!
//! Changed is what the user added, edited, deleted or gave other permissions. Where the defaults are
//! not known, nothing can be called unchanged: scope etc then takes all of `/etc` but what the
//! policy says belongs to the image. Links in `/etc/rc.d` are not among them: services travel. Those
//! that a keep list names do travel, for stock systems, which know no services.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::carry::baseline::Baseline;
use crate::config::carry::bundle::Scope;
use crate::config::carry::keep::{KeepList, USER_LIST};
use crate::config::carry::services;
use crate::config::carry::walk::Walk;
use crate::config::merge::policy::{self, Disposition, Policy};
use crate::config::path::escape;
use crate::config::report::{Notice, NoticeKind};
use crate::config::tree::{self, Kind, Node};
use crate::config::{ConfigError, EntryPath, MAX_ENTRIES, STATE_DIR};
use crate::files;

/// What scope etc is about.
pub(in crate::config) const ETC: &str = "etc";

/// Changed files in these directories are worth a word when they stay behind: configuration, and
/// the home of root with his scripts and keys.
const WATCHED: [&str; 2] = [ETC, "root"];

/// What says how to carry the rest is carried itself, whether or not a list names it.
const ALWAYS: [&str; 2] = [USER_LIST, policy::USER_FILE];

/// Files that travel together.
const ACCOUNTS: [&str; 3] = ["etc/passwd", "etc/group", "etc/shadow"];

/// So many are named that stay behind; a longer list would not be read.
const MOST_NAMED: usize = 200;

/// What an archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Purpose {
    /// It crosses to the next version of the system, and so do the lists that say what to keep.
    Upgrade,
    /// It is put away: what stock `-l` lists is in it.
    Backup,
}

/// What travels.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub(in crate::config) paths: BTreeSet<EntryPath>,
    pub(in crate::config) directories: BTreeSet<EntryPath>,
    /// Default files and links that the user deleted.
    pub(in crate::config) deletions: BTreeSet<EntryPath>,
    notices: Vec<Notice>,
}

impl Selection {
    /// Decides for every path of the system at `root`, when it is upgraded.
    ///
    /// # Errors
    /// When something cannot be read, or more than [`MAX_ENTRIES`] would travel.
    pub fn of(
        root: &Path,
        keep: &KeepList,
        defaults: Option<&Path>,
        scope: Scope,
    ) -> Result<Self, ConfigError> {
        let baseline = Baseline::new(root, defaults);
        Self::against(&baseline, root, keep, scope, Purpose::Upgrade)
    }

    pub(in crate::config) fn against(
        baseline: &Baseline,
        root: &Path,
        keep: &KeepList,
        scope: Scope,
        purpose: Purpose,
    ) -> Result<Self, ConfigError> {
        let (policy, odd) = policy(root)?;
        let mut selection = Self {
            notices: odd,
            ..Self::default()
        };
        selection.take_declared(baseline, root, keep, purpose)?;
        if scope == Scope::Etc {
            selection.take_changed(baseline, root, &policy)?;
        }
        selection.tell_left_behind(baseline, root, &policy)?;
        Ok(selection)
    }

    /// Files and links, sorted bytewise.
    pub fn paths(&self) -> impl Iterator<Item = &EntryPath> {
        self.paths.iter()
    }

    /// Oddities of the policy, what cannot travel, and what was changed and stays behind.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    fn take_declared(
        &mut self,
        baseline: &Baseline,
        root: &Path,
        keep: &KeepList,
        purpose: Purpose,
    ) -> Result<(), ConfigError> {
        self.paths.extend(keep.paths().cloned());
        self.directories.extend(keep.directories().cloned());
        let mut shipped = BTreeSet::new();
        for path in baseline.named_by(keep)? {
            let found = baseline.find(&path)?.map(|found| found.node);
            if !services::is_link(&path, kind(found)) {
                shipped.insert(path);
            }
        }
        let always = if purpose == Purpose::Upgrade {
            &ALWAYS[..]
        } else {
            &[]
        };
        for name in always {
            let Ok(path) = EntryPath::new(name.as_bytes()) else {
                continue;
            };
            if is_leaf(tree::node(root, &path)?) {
                self.insert(path)?;
            } else if is_leaf(baseline.find(&path)?.map(|found| found.node)) {
                shipped.insert(path);
            }
        }
        for path in shipped {
            if tree::node(root, &path)?.is_none() {
                self.deletions.insert(path);
            }
        }
        Ok(())
    }

    fn take_changed(
        &mut self,
        baseline: &Baseline,
        root: &Path,
        policy: &Policy,
    ) -> Result<(), ConfigError> {
        let known = baseline.knows_what_is_shipped();
        let travels = |path: &EntryPath, node: &Node| match policy.of(path).disposition {
            Disposition::Auto | Disposition::Keep => is_users(path, node),
            // A change of it is set aside at the other end; a copy that may be none is not.
            Disposition::Replace => known && is_users(path, node),
            Disposition::Drop => false,
        };
        // A pin says that the new image must not replace what the old one had.
        let is_pinned = |path: &EntryPath| policy.of(path).disposition == Disposition::Keep;
        let mut walk = Walk::new(root, ETC);
        while let Some((path, node)) = walk.next()? {
            let taken = self.paths.contains(&path) || self.directories.contains(&path);
            if taken || !travels(&path, &node) {
                continue;
            }
            let Some(kind) = node.kind else {
                self.notices
                    .push(Notice::new(NoticeKind::SpecialFile, &path));
                continue;
            };
            if known && !is_pinned(&path) && baseline.has(root, &path, &node)? {
                continue;
            }
            match kind {
                Kind::File | Kind::Link => self.insert(path)?,
                Kind::Dir => self.insert_dir(path)?,
            }
        }
        self.notices.append(&mut walk.too_deep);
        self.take_accounts(root)?;
        for shipped in baseline.roots() {
            let mut walk = Walk::new(shipped, ETC);
            while let Some((path, node)) = walk.next()? {
                if is_leaf(Some(node))
                    && travels(&path, &node)
                    && tree::node(root, &path)?.is_none()
                {
                    self.deletions.insert(path);
                    self.check_count()?;
                }
            }
        }
        Ok(())
    }

    /// Accounts are one thing in three files: without the others, one of them has numbers and members
    /// that mean nothing.
    fn take_accounts(&mut self, root: &Path) -> Result<(), ConfigError> {
        let files = ACCOUNTS.iter();
        let files = files.filter_map(|name| EntryPath::new(name.as_bytes()).ok());
        let files: Vec<EntryPath> = files.collect();
        if files.iter().any(|path| self.paths.contains(path)) {
            for path in files {
                if is_leaf(tree::node(root, &path)?) {
                    self.insert(path)?;
                }
            }
        }
        Ok(())
    }

    /// A keep list with a hole in it loses nothing in silence. Where the defaults are not known,
    /// there is nothing to tell.
    fn tell_left_behind(
        &mut self,
        baseline: &Baseline,
        root: &Path,
        policy: &Policy,
    ) -> Result<(), ConfigError> {
        if !baseline.knows_what_is_shipped() {
            return Ok(());
        }
        let mut named = 0;
        let mut more = 0_u64;
        for dir in WATCHED {
            let mut walk = Walk::new(root, dir);
            while let Some((path, node)) = walk.next()? {
                let images = matches!(
                    policy.of(&path).disposition,
                    Disposition::Replace | Disposition::Drop
                );
                if !is_leaf(Some(node))
                    || images
                    || !is_users(&path, &node)
                    || self.paths.contains(&path)
                    || baseline.has_content(root, &path, &node)?
                {
                    continue;
                }
                if named < MOST_NAMED {
                    named += 1;
                    self.notices.push(Notice::new(NoticeKind::NotKept, &path));
                } else {
                    more += 1;
                }
            }
        }
        if more > 0 {
            let more = Notice::new(NoticeKind::NotKept, format!("{more} more"));
            self.notices.push(more);
        }
        Ok(())
    }

    fn insert(&mut self, path: EntryPath) -> Result<(), ConfigError> {
        self.directories.extend(path.ancestors());
        self.paths.insert(path);
        self.check_count()
    }

    fn insert_dir(&mut self, path: EntryPath) -> Result<(), ConfigError> {
        self.directories.extend(path.ancestors());
        self.directories.insert(path);
        self.check_count()
    }

    fn check_count(&self) -> Result<(), ConfigError> {
        if self.paths.len() + self.directories.len() + self.deletions.len() > MAX_ENTRIES {
            return Err(ConfigError::TooMuch {
                what: "number of kept files",
                most: MAX_ENTRIES as u64,
            });
        }
        Ok(())
    }
}

/// False for what this program or the boot scripts keep there.
pub(in crate::config) fn is_users(path: &EntryPath, node: &Node) -> bool {
    !path.is_within(STATE_DIR) && !services::is_link(path, node.kind)
}

fn kind(node: Option<Node>) -> Option<Kind> {
    node.and_then(|node| node.kind)
}

/// True for a file or link.
pub(in crate::config) fn is_leaf(node: Option<Node>) -> bool {
    node.is_some_and(|node| matches!(node.kind, Some(Kind::File | Kind::Link)))
}

/// The policy of a running system: the built-in rules, those of its image, those of its user. And
/// the lines of it that were not understood.
pub(in crate::config) fn policy(root: &Path) -> Result<(Policy, Vec<Notice>), ConfigError> {
    let mut policy = Policy::built_in();
    let mut odd = Vec::new();
    let names = match files::list(&root.join(policy::IMAGE_DIR)) {
        Ok(names) => names,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let image = names
        .iter()
        .map(|name| name.as_encoded_bytes())
        .filter(|name| policy::is_file_name(name))
        .map(|name| [policy::IMAGE_DIR.as_bytes(), b"/", name].concat());
    for name in image.chain([policy::USER_FILE.into()]) {
        let Ok(path) = EntryPath::new(&name) else {
            continue;
        };
        // As of keep lists: it may be a link, and says nothing but names.
        if let Some(text) = files::read_if_exists(&path.under(root), policy::MAX_FILE)? {
            odd.extend(policy.append(&text, &escape(&name)));
        }
    }
    Ok((policy, odd))
}
