//! What becomes of every path of an archive, decided before anything is written.

use std::collections::BTreeMap;
use std::path::Path;

use super::bundle::{Bundle, OldDefault};
use super::decide::{Decision, Take, decide};
use super::report::{self, Action, Conflict, ConflictKind, Notice, Report, ReportEntry, Winner};
use super::tree::{self, Content, Entry, Kind, Meta};
use super::{ConfigError, EntryPath};
use crate::digest::Digest;

/// What becomes of each path of a bundle.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) paths: BTreeMap<EntryPath, Planned>,
}

pub(super) struct Planned {
    pub(super) decision: Decision,
    /// The old default, if it is known.
    pub(super) base: Option<Entry>,
    /// The user's version; nothing if it was deleted.
    pub(super) user: Option<Entry>,
    /// What the new image really has there.
    pub(super) new: Option<Entry>,
    /// Its default was generated and the new image has none: the old one stays the default.
    pub(super) carries_default: bool,
}

impl Plan {
    pub(super) fn of(bundle: &Bundle, new_root: &Path) -> Result<Self, ConfigError> {
        let mut plan = Self::default();
        let baseline = bundle.baseline();
        for member in bundle.kept() {
            let base = match member.default {
                Some(OldDefault::Same) => Some(&member.entry),
                Some(OldDefault::Changed) => baseline.get(&member.path).copied(),
                Some(OldDefault::None) | None => None,
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
                OldDefault::Same => Some(user.clone()),
                OldDefault::Changed => baseline.get(&directory.path).copied().cloned(),
                OldDefault::None => None,
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
            decision.conflicts = vec![Conflict::whole(ConflictKind::Type, Winner::New)];
        }
    }

    /// True if the result has no directory where `path` needs one.
    pub(super) fn is_blocked(&self, path: &EntryPath) -> bool {
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

    /// Bytes of the files that will be written. What file systems need beside is theirs to tell.
    pub(super) fn space(&self) -> u64 {
        let sizes = self.paths.values().map(|planned| {
            let user = planned.user.as_ref().map(|user| &user.content);
            let new = planned.new.as_ref().map(|new| &new.content);
            match (planned.decision.take, user) {
                (Take::User, Some(Content::File { size, .. })) if user != new => *size,
                _ => 0,
            }
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// Permissions that a directory has in the result, if the plan speaks of it.
    pub(super) fn directory(&self, path: &EntryPath) -> Option<Meta> {
        let planned = self.paths.get(path)?;
        let kind = match planned.decision.take {
            Take::Nothing => return None,
            Take::User => planned.user.as_ref()?.content.kind(),
            Take::New => planned.new.as_ref()?.content.kind(),
        };
        (kind == Kind::Dir).then_some(planned.decision.meta)
    }

    pub(super) fn report(
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
