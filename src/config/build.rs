//! Builds the difference of the result to the new image, as a [`Plan`] says.

use std::io::{self, Write};
use std::path::Path;

use super::apply::{Inputs, Target};
use super::bundle::{BASELINE, Bundle};
use super::decide::Take;
use super::plan::{Plan, Planned};
use super::report::{Notice, NoticeKind, Report};
use super::reports::REPORTS;
use super::stage::{Source, Stage};
use super::tree::{self, Content, Entry, Kind, Meta};
use super::{ConfigError, EntryPath, accounts, archive};
use crate::digest::Digest;
use crate::files::{self, FileError, NewFile};

/// Users' versions that had to give way, below a root.
pub(super) const ATTIC: &str = "etc/sysupgrade/attic";

/// The most that the attic takes: it lies in the flash of a router. What does not fit is still in
/// the old slot.
const MAX_ATTIC: u64 = 256 << 10;

/// Builds the difference of the result to the new image.
pub(super) struct Builder<'a> {
    stage: Stage,
    inputs: &'a Inputs<'a>,
    plan: &'a Plan,
    /// Paths of the image that the result lacks; an overlay hides them by whiteouts.
    removed: Vec<EntryPath>,
    /// Bytes in the attic.
    attic: u64,
    notices: Vec<Notice>,
}

impl<'a> Builder<'a> {
    /// Begins in `dir`, which must not exist and gets this mode.
    pub(super) fn new(
        dir: &Path,
        mode: u32,
        inputs: &'a Inputs<'a>,
        plan: &'a Plan,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            stage: Stage::new(dir, mode)?,
            inputs,
            plan,
            removed: Vec::new(),
            attic: 0,
            notices: Vec::new(),
        })
    }

    /// Builds all of it, the report included; returns that and the paths of the image that the
    /// result lacks.
    pub(super) fn build(
        mut self,
        bundle: &Bundle,
        archive: Digest,
        number: u32,
    ) -> Result<(Report, Vec<EntryPath>), ConfigError> {
        self.notices.clone_from(&bundle.notices);
        self.take_from_image()?;
        self.take_from_archive()?;
        let notices = std::mem::take(&mut self.notices);
        let to = self.inputs.to_version;
        let report = self.plan.report(bundle, archive, to, notices);
        self.write_report(number, &report)?;
        Ok((report, self.removed))
    }

    /// Directories, whiteouts, and entries of the image that get other permissions.
    fn take_from_image(&mut self) -> Result<(), ConfigError> {
        let plan = self.plan;
        for (path, planned) in &plan.paths {
            let decision = &planned.decision;
            let meta = decision.meta;
            match (decision.take, &planned.new) {
                (Take::Nothing, Some(_)) if !plan.is_blocked(path) => {
                    if let Target::Overlay(_) = self.inputs.target {
                        self.make_parents(path)?;
                        files::whiteout(&self.stage.place(path))?;
                    }
                    self.removed.push(path.clone());
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
        self.stage.put(path, kept, source)?;
        let place = self.stage.place(path);
        let (Some(bytes), Some(image)) = (
            accounts::read(self.stage.root(), path)?,
            accounts::read(self.inputs.new_root, path)?,
        ) else {
            return Ok(());
        };
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
            .map_err(|why| ConfigError::damaged(name.as_str(), why.problem()))?;
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
