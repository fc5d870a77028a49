//! The first boot of a new slot: the archive and the new image's defaults become its configuration.
//!
//! All is decided before anything is written ([`Plan`]). Then the difference to the new image is
//! built beside its place and made durable, and one rename makes it real:
//!
//! ```text
//! overlay    upper of this archive exists    already done
//!            else                            rm -rf upper.new; build in upper.new; sync all of it;
//!                                            rename upper.new upper; sync the directory
//! ```
//!
//! A power cut finds `upper` absent, so that it starts over from the archive, or whole. The archive
//! and the new root are only read. What was done is told in a report below
//! `etc/sysupgrade/reports/` of the new tree; it names the archive, so that a slot's leftover from
//! an earlier upgrade is not taken for this one's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::accounts;
use super::archive;
use super::bundle::{BASELINE, Bundle, Default};
use super::decide::{Decision, Take, decide};
use super::report::{
    self, Action, Conflict, ConflictKind, Notice, NoticeKind, Report, ReportEntry, Winner,
};
use super::stage::{Source, Stage};
use super::tree::{self, Content, Digest, Entry, Hashing, Kind, Meta};
use super::{ConfigError, EntryPath};
use crate::files::{self, FileError, NewFile};

/// Where reports are, below a root.
pub const REPORTS: &str = "etc/sysupgrade/reports";

/// Users' versions that had to give way, below a root.
pub const ATTIC: &str = "etc/sysupgrade/attic";

/// So many reports are kept.
const REPORTS_KEPT: usize = 5;

/// The most that the attic takes: it lies in the flash of a router. What does not fit is still in
/// the old slot.
const MAX_ATTIC: u64 = 256 << 10;

/// The longest report: [`super::MAX_ENTRIES`] entries with long names.
const MAX_REPORT: u64 = 32 << 20;

/// What first boot works on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The archive file.
    pub archive: &'a Path,
    /// The read-only root of the new slot.
    pub new_root: &'a Path,
    /// Version of the new image, for the report.
    pub to_version: &'a str,
    /// Where the result goes.
    pub target: Target<'a>,
}

/// Where the result goes.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The directory whose `upper` will lie over the new root.
    Overlay(&'a Path),
}

/// Brings the configuration of an archive to a new image.
///
/// # Errors
/// When the archive is damaged, a file cannot be read or written, or there is no space. The
/// configuration of the new slot is then as if it had not been tried.
pub fn apply(inputs: &Inputs) -> Result<Report, ConfigError> {
    let file = File::open(inputs.archive).map_err(FileError::at("open", inputs.archive))?;
    let mut source = Hashing::new(BufReader::new(file));
    let (bundle, _) = archive::inspect(&mut source)?;
    let (_, digest) = source.finish();
    let Target::Overlay(dir) = inputs.target;
    overlay(inputs, &bundle, digest, dir)
}

fn overlay(
    inputs: &Inputs,
    bundle: &Bundle,
    archive: Digest,
    dir: &Path,
) -> Result<Report, ConfigError> {
    let upper = dir.join("upper");
    let fresh = dir.join("upper.new");
    let mut notices = bundle.notices.clone();
    if files::exists(&upper) {
        if let Some(mut report) = latest(&upper)?
            && report.archive == archive
        {
            report.already_done = true;
            return Ok(report);
        }
        // What lies there is not this archive's, so this slot has not run with it.
        files::remove_tree(&upper)?;
        files::sync_dir(dir)?;
        notices.push(Notice::new(NoticeKind::StaleOverlay, ""));
    }
    files::remove_tree(&fresh)?;
    files::make_dirs(dir, 0o755)?;
    let plan = Plan::of(bundle, inputs.new_root)?;
    let mut builder = Builder {
        // The root of an upper layer gives the mounted root its permissions.
        stage: Stage::new(&fresh, mode_of(inputs.new_root)?)?,
        inputs,
        plan: &plan,
        attic: 0,
        notices,
    };
    builder.take_from_image()?;
    builder.take_from_archive()?;
    let notices = std::mem::take(&mut builder.notices);
    let report = plan.report(bundle, archive, inputs.to_version, notices);
    builder.write_report(1, &report)?;
    files::sync_tree(&fresh)?;
    files::rename(&fresh, &upper)?;
    files::sync_dir(dir)?;
    Ok(report)
}

fn mode_of(dir: &Path) -> Result<u32, ConfigError> {
    let metadata = std::fs::metadata(dir).map_err(FileError::at("examine", dir))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// The last report of a tree.
///
/// # Errors
/// When a report that is there cannot be read. One that makes no sense is none.
pub fn latest(root: &Path) -> Result<Option<Report>, ConfigError> {
    let Some(number) = report_numbers(root)?.pop() else {
        return Ok(None);
    };
    let path = report_path(root, number);
    let bytes = files::read_if_exists(&path, MAX_REPORT)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn report_path(root: &Path, number: u32) -> PathBuf {
    root.join(REPORTS).join(format!("{number:05}.json"))
}

/// Numbers of the reports that a tree has, ascending.
fn report_numbers(root: &Path) -> Result<Vec<u32>, ConfigError> {
    let dir = root.join(REPORTS);
    if !files::is_dir(&dir) {
        return Ok(Vec::new());
    }
    let mut numbers: Vec<u32> = files::list(&dir)?
        .iter()
        .filter_map(|name| name.to_str()?.strip_suffix(".json")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// What becomes of each path of a bundle.
struct Plan {
    paths: BTreeMap<EntryPath, Planned>,
}

struct Planned {
    decision: Decision,
    /// The old default, if it is known.
    base: Option<Entry>,
    /// The user's version; nothing if it was deleted.
    user: Option<Entry>,
    /// What the new image really has there.
    new: Option<Entry>,
    /// Its default was generated and the new image has none: the old one stays the default.
    carries_default: bool,
}

impl Plan {
    fn of(bundle: &Bundle, new_root: &Path) -> Result<Self, ConfigError> {
        let mut plan = Self {
            paths: BTreeMap::new(),
        };
        let baseline = bundle.baseline();
        for member in bundle.kept() {
            let base = match member.default {
                Some(Default::Same) => Some(&member.entry),
                Some(Default::Changed) => baseline.get(&member.path).copied(),
                Some(Default::None) | None => None,
            };
            let user = Some(member.entry.clone());
            plan.add(&member.path, base, user, member.generated, new_root)?;
        }
        for directory in &bundle.directories {
            let user = Entry {
                content: Content::Dir,
                meta: directory.meta,
            };
            let base = match directory.default {
                Default::Same => Some(user.clone()),
                Default::Changed => baseline.get(&directory.path).copied().cloned(),
                Default::None => None,
            };
            plan.add(&directory.path, base.as_ref(), Some(user), false, new_root)?;
        }
        for deletion in &bundle.deletions {
            let base = baseline.get(&deletion.path).copied();
            plan.add(&deletion.path, base, None, deletion.generated, new_root)?;
        }
        plan.give_way();
        Ok(plan)
    }

    fn add(
        &mut self,
        path: &EntryPath,
        base: Option<&Entry>,
        user: Option<Entry>,
        generated: bool,
        new_root: &Path,
    ) -> Result<(), ConfigError> {
        let new = tree::entry(new_root, path)?;
        let carries_default = generated && new.is_none();
        // No image ships a generated default, so the new one has it as the old one had.
        let default = if carries_default { base } else { new.as_ref() };
        if let Some(decision) = decide(base, user.as_ref(), default) {
            let planned = Planned {
                decision,
                base: base.cloned(),
                user,
                new,
                carries_default,
            };
            self.paths.insert(path.clone(), planned);
        }
        Ok(())
    }

    /// Where the new image's file or link stands in the place of a user's directory, what the user
    /// had changed below it is set aside.
    fn give_way(&mut self) {
        let blocked: Vec<EntryPath> = self
            .paths
            .iter()
            .filter(|(path, planned)| planned.decision.take == Take::User && self.is_blocked(path))
            .map(|(path, _)| path.clone())
            .collect();
        for path in blocked {
            let Some(planned) = self.paths.get_mut(&path) else {
                continue;
            };
            let decision = &mut planned.decision;
            let is_dir = planned
                .user
                .as_ref()
                .is_some_and(|user| user.content == Content::Dir);
            decision.take = Take::Nothing;
            decision.action = Action::ConflictNew;
            decision.attic = !is_dir;
            decision.conflicts = vec![Conflict {
                kind: ConflictKind::Type,
                resolved: Winner::New,
            }];
        }
    }

    /// True if the result has no directory where `path` needs one.
    fn is_blocked(&self, path: &EntryPath) -> bool {
        path.ancestors().any(|dir| {
            self.paths.get(&dir).is_some_and(|planned| {
                let result = match planned.decision.take {
                    Take::Nothing => None,
                    Take::User => planned.user.as_ref(),
                    Take::New => planned.new.as_ref(),
                };
                result.is_some_and(|entry| entry.content != Content::Dir)
            })
        })
    }

    /// Permissions that a directory has in the result, if the plan speaks of it.
    fn directory(&self, path: &EntryPath) -> Option<Meta> {
        let planned = self.paths.get(path)?;
        let kind = match planned.decision.take {
            Take::Nothing => return None,
            Take::User => planned.user.as_ref()?.content.kind(),
            Take::New => planned.new.as_ref()?.content.kind(),
        };
        (kind == Kind::Dir).then_some(planned.decision.meta)
    }

    fn report(
        &self,
        bundle: &Bundle,
        archive: Digest,
        to: &str,
        mut notices: Vec<Notice>,
    ) -> Report {
        let mut entries = Vec::new();
        for (path, planned) in &self.paths {
            let decision = &planned.decision;
            for kind in &decision.notices {
                notices.push(Notice::new(*kind, path));
            }
            // A directory is only the way to its files, unless there is something to say of it.
            let is_dir = planned
                .user
                .as_ref()
                .is_some_and(|user| user.content == Content::Dir);
            if is_dir && decision.conflicts.is_empty() {
                continue;
            }
            entries.push(ReportEntry {
                path: path.clone(),
                action: decision.action,
                conflicts: decision.conflicts.clone(),
            });
        }
        Report {
            format: report::FORMAT,
            from: bundle.from_version.clone(),
            to: to.to_owned(),
            archive,
            already_done: false,
            entries,
            notices,
        }
    }
}

/// Builds the difference of the result to the new image.
struct Builder<'a> {
    stage: Stage,
    inputs: &'a Inputs<'a>,
    plan: &'a Plan,
    /// Bytes in the attic.
    attic: u64,
    notices: Vec<Notice>,
}

impl Builder<'_> {
    /// Directories, whiteouts, and entries of the image that get other permissions.
    fn take_from_image(&mut self) -> Result<(), ConfigError> {
        let plan = self.plan;
        for (path, planned) in &plan.paths {
            let decision = &planned.decision;
            let meta = decision.meta;
            match (decision.take, &planned.new) {
                (Take::Nothing, Some(_)) if !plan.is_blocked(path) => {
                    self.make_parents(path)?;
                    files::whiteout(&self.stage.place(path))?;
                }
                (Take::User | Take::New, new) if plan.directory(path).is_some() => {
                    let same = |new: &Entry| new.content == Content::Dir && new.meta == meta;
                    if !new.as_ref().is_some_and(same) {
                        self.make_parents(path)?;
                        self.stage.make_dir(path, Some(meta))?;
                    }
                }
                (Take::New, Some(new)) if new.meta != meta => self.copy_up(path, new, meta)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// An entry of the image with other permissions.
    fn copy_up(&mut self, path: &EntryPath, new: &Entry, meta: Meta) -> Result<(), ConfigError> {
        let root = self.inputs.new_root;
        self.make_parents(path)?;
        let entry = Entry {
            content: new.content.clone(),
            meta,
        };
        copy_entry(&mut self.stage, root, path, path, &entry)
    }

    /// Everything that comes out of the archive.
    fn take_from_archive(&mut self) -> Result<(), ConfigError> {
        let plan = self.plan;
        let mut members = archive::members(self.inputs.archive)?;
        while let Some(member) = members.next().map_err(ConfigError::Read)? {
            let path = archive::path_of(&member)?;
            let (path, is_default) = match path.strip(BASELINE) {
                Some(path) => (path, true),
                None => (path, false),
            };
            let Some(planned) = plan.paths.get(&path) else {
                continue;
            };
            let mut source = Source {
                path: self.inputs.archive,
                content: &mut members,
                modified: member.modified,
            };
            if !is_default {
                self.take_from_user(&path, planned, &mut source)?;
            } else if let (true, Some(base)) = (planned.carries_default, &planned.base) {
                self.put_below(BASELINE, &path, base, &mut source)?;
            }
        }
        Ok(())
    }

    fn take_from_user(
        &mut self,
        path: &EntryPath,
        planned: &Planned,
        source: &mut Source,
    ) -> Result<(), ConfigError> {
        let Some(user) = &planned.user else {
            return Ok(());
        };
        let decision = &planned.decision;
        let result = Entry {
            content: user.content.clone(),
            meta: decision.meta,
        };
        let wanted = match decision.take {
            Take::User => planned.new.as_ref() != Some(&result),
            // The default is the generated one, which the user left alone: these very bytes.
            Take::New => planned.new.is_none(),
            Take::Nothing => false,
        };
        if !wanted {
            if decision.attic {
                self.set_aside(path, user, source)?;
            }
            return Ok(());
        }
        self.make_parents(path)?;
        if accounts::is_account_file(path) {
            return self.put_accounts(path, &result, source);
        }
        self.stage.put(path, &result, source)?;
        if planned.carries_default && planned.base.as_ref() == Some(user) {
            let name = self.parents_below(BASELINE, path)?;
            let from = self.stage.root().to_owned();
            copy_entry(&mut self.stage, &from, path, &name, user)?;
        }
        Ok(())
    }

    /// A kept passwd, group or shadow, with the accounts of the new image that it lacks.
    fn put_accounts(
        &mut self,
        path: &EntryPath,
        kept: &Entry,
        source: &mut Source,
    ) -> Result<(), ConfigError> {
        let image = match tree::node(self.inputs.new_root, path)? {
            Some(node) if node.kind == Some(Kind::File) && node.size <= accounts::MAX => {
                files::read(&path.under(self.inputs.new_root), accounts::MAX)?
            }
            _ => Vec::new(),
        };
        self.stage.put(path, kept, source)?;
        let place = self.stage.place(path);
        let kept_size = match kept.content {
            Content::File { size, .. } => size,
            _ => return Ok(()),
        };
        if kept_size > accounts::MAX {
            return Ok(());
        }
        let bytes = files::read(&place, accounts::MAX)?;
        if let Some(merged) = accounts::with_missing(&bytes, &image) {
            let entry = Entry {
                content: Content::File {
                    size: merged.len() as u64,
                    sha256: Digest::of(&merged),
                },
                meta: kept.meta,
            };
            let mut source = Source {
                path: &place,
                content: &mut &*merged,
                modified: source.modified,
            };
            self.stage.put(path, &entry, &mut source)?;
            self.notices
                .push(Notice::new(NoticeKind::AccountRestored, path));
        }
        Ok(())
    }

    fn set_aside(
        &mut self,
        path: &EntryPath,
        user: &Entry,
        source: &mut Source,
    ) -> Result<(), ConfigError> {
        let size = match user.content {
            Content::File { size, .. } => size,
            _ => 0,
        };
        if size > MAX_ATTIC - self.attic {
            self.notices.push(Notice::new(NoticeKind::AtticFull, path));
            return Ok(());
        }
        self.attic += size;
        self.notices.push(Notice::new(NoticeKind::Attic, path));
        self.put_below(ATTIC, path, user, source)
    }

    fn put_below(
        &mut self,
        dir: &str,
        path: &EntryPath,
        entry: &Entry,
        source: &mut Source,
    ) -> Result<(), ConfigError> {
        let name = self.parents_below(dir, path)?;
        self.stage.put(&name, entry, source)
    }

    /// The name of a path below one of the program's own directories, its parents made.
    fn parents_below(&mut self, dir: &str, path: &EntryPath) -> Result<EntryPath, ConfigError> {
        let name = EntryPath::new(&[dir.as_bytes(), b"/", path.as_bytes()].concat())
            .map_err(|why| ConfigError::damaged(path, why.problem()))?;
        self.make_parents(&name)?;
        Ok(name)
    }

    /// Makes the directories above a path, with the permissions that they have in the result.
    fn make_parents(&mut self, path: &EntryPath) -> Result<(), ConfigError> {
        for dir in path.ancestors() {
            if self.stage.has_dir(&dir) {
                continue;
            }
            let meta = match self.plan.directory(&dir) {
                Some(meta) => Some(meta),
                None => tree::node(self.inputs.new_root, &dir)?
                    .filter(|node| node.kind == Some(Kind::Dir))
                    .map(|node| node.meta),
            };
            self.stage.make_dir(&dir, meta)?;
        }
        Ok(())
    }

    fn write_report(&mut self, number: u32, report: &Report) -> Result<(), ConfigError> {
        let bytes =
            serde_json::to_vec_pretty(report).map_err(|error| ConfigError::Write(error.into()))?;
        let name = format!("{REPORTS}/{number:05}.json");
        let path = EntryPath::new(name.as_bytes())
            .map_err(|why| ConfigError::damaged(&name, why.problem()))?;
        self.make_parents(&path)?;
        let place = self.stage.place(&path);
        let mut file = NewFile::create(&place, 0o600)?;
        file.write_all(&bytes)
            .map_err(FileError::at("write", &place))?;
        file.place()?;
        Ok(())
    }
}

/// Copies a file or link of another tree into a stage, as `name` and with the permissions of `entry`.
fn copy_entry(
    stage: &mut Stage,
    root: &Path,
    path: &EntryPath,
    name: &EntryPath,
    entry: &Entry,
) -> Result<(), ConfigError> {
    let place = path.under(root);
    let mut source = Source {
        path: &place,
        content: &mut io::empty(),
        modified: 0,
    };
    if entry.content.kind() != Kind::File {
        return stage.put(name, entry, &mut source);
    }
    let (mut file, node) = tree::open(root, path)?;
    source.content = &mut file;
    source.modified = node.modified;
    stage.put(name, entry, &mut source)
}
