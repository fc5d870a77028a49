//! Two changes of one default become one system.
//!
//! [`merge`] takes three trees and some rules and gives a fourth tree, and says of every path what
//! became of it. It is a pure function: it reads the files of its trees and writes nothing, so that
//! a plan, a first boot and a builder at a desk get the same answer.
//!
//! ```text
//! for each path    policy ──> table ──> both changed? content (UCI, text, lines)
//! together         accounts (ids tie passwd, group and shadow), services
//! at the end       what stands below what gave way; owners by name
//! ```

pub(crate) mod accounts;
mod content;
pub(super) mod hints;
mod lines;
pub(crate) mod policy;
pub mod resolve;
pub mod scope;
mod services;
mod table;
pub(crate) mod text;
mod three_way;
mod together;
mod uci;

use std::collections::BTreeMap;

use content::{Contents, Judge};
use policy::{Disposition, OnConflict, OnDelete, Policy, Rule};
use resolve::Resolutions;
use scope::Declared;
use table::Row;

use super::bundle::Services;

use super::carry::owners::{Numbers, Owners};
use super::packed::Packed;
use super::report::{
    Action, Conflict, ConflictKind, Notice, NoticeKind, Renumbered, ReportEntry, ServiceChange,
    Winner,
};
use super::tree::{Content, Entry, Kind, Meta, Tree};
use super::{ConfigError, Deadline, EntryPath, STATE_DIR};
use crate::digest::Digest;
pub(crate) use policy::Merger;

/// What a merge goes by, beside the three trees.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which paths are merged, and how.
    pub(crate) policy: Policy,
    /// Which paths are the user's to change.
    pub scope: Scope,
    /// What the owner decided before.
    pub resolutions: Resolutions,
    /// Services that were enabled; read from the trees if `None`.
    pub services: Option<Services>,
    /// When it has to be done.
    pub deadline: Deadline,
    /// Names of the numeric owners of the user's files; read from the user's accounts if `None`.
    pub owners: Option<Owners>,
}

/// Which paths are the user's to change. What was changed elsewhere follows the image, and is told.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All that the trees hold: they come out of an archive, which has nothing else.
    Carried,
    /// What keep lists name.
    Declared(Declared),
    /// That, and everything under `/etc`.
    Etc(Declared),
}

/// The versions of a configuration that meet.
#[derive(Clone, Copy, Debug)]
pub struct Versions<'t> {
    /// The old default.
    pub base: &'t Tree,
    /// What the user made of it.
    pub user: &'t Tree,
    /// The new default.
    pub new: &'t Tree,
}

impl Versions<'_> {
    /// The name of an entry of `/etc/rc.d` that starts or stops a service: a link, or on other systems
    /// a copy of a script that is elsewhere. Those are merged by service. Anything else there is a
    /// file like others.
    fn service<'p>(&self, path: &'p EntryPath) -> Option<&'p [u8]> {
        let name = path.as_bytes().strip_prefix(services::DIR.as_bytes())?;
        let name = name.strip_prefix(b"/")?;
        let (_, service) = services::parse_link(name)?;
        let script = services::script_of(service)?;
        let belongs = |tree: &&Tree| {
            let entry = content(tree.get(path));
            tree.get(&script).is_some() || entry.map(Content::kind) == Some(Kind::Link)
        };
        let is_service = [self.base, self.user, self.new].iter().any(belongs);
        is_service.then_some(name)
    }
}

/// The result of a merge.
#[derive(Clone, Debug, Default)]
pub struct Merge {
    /// The fourth tree.
    pub result: Tree,
    /// What became of each path, sorted.
    pub entries: Vec<ReportEntry>,
    /// Services that are not as the new image has them.
    pub services: Vec<ServiceChange>,
    /// Worth knowing.
    pub notices: Vec<Notice>,
    /// Accounts of the image that have other numbers than there.
    pub renumbered: Vec<Renumbered>,
    /// Paths whose user's version had to give way.
    pub attic: Vec<EntryPath>,
    /// Why the whole merge is refused; nothing of the result may then be used.
    pub refused: Vec<String>,
    /// Every dispute, with the digest of the versions that were seen there.
    pub disputes: Vec<(EntryPath, Option<String>, Digest)>,
}

/// Whose content stands in the result.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Take {
    /// Nobody's: the path is absent.
    Nothing,
    User,
    New,
    /// Both's.
    Merged(Packed),
}

/// What becomes of one path.
struct Decision {
    take: Take,
    /// `None`: nothing to tell.
    action: Option<Action>,
    merger: Option<Merger>,
    conflicts: Vec<Conflict>,
    attic: bool,
    rule: Rule,
}

impl Decision {
    fn new(take: Take, action: impl Into<Option<Action>>, rule: Rule) -> Self {
        Self {
            take,
            action: action.into(),
            merger: None,
            conflicts: Vec::new(),
            attic: false,
            rule,
        }
    }
}

/// Merges three versions of a configuration.
///
/// # Errors
/// When a file of a tree cannot be read.
pub fn merge(versions: Versions, rules: &Rules) -> Result<Merge, ConfigError> {
    let mut merging = Merging {
        versions,
        rules,
        judge: Judge::new(&rules.resolutions),
        decisions: BTreeMap::new(),
        merge: Merge::default(),
    };
    merging.accounts()?;
    let mut paths: Vec<&EntryPath> = [versions.base, versions.user, versions.new]
        .iter()
        .flat_map(|tree| tree.iter().map(|(path, _)| path))
        .collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        rules.deadline.check()?;
        if path.is_within(STATE_DIR) || versions.service(path).is_some() {
            continue;
        }
        if !merging.decisions.contains_key(path)
            && let Some(decision) = merging.decide(path)?
        {
            merging.decisions.insert(path.clone(), decision);
        }
    }
    merging.give_way();
    merging.reopen_directories();
    merging.finish()
}

struct Merging<'a> {
    versions: Versions<'a>,
    rules: &'a Rules,
    judge: Judge<'a>,
    decisions: BTreeMap<EntryPath, Decision>,
    merge: Merge,
}

impl Merging<'_> {
    fn in_scope(&self, path: &EntryPath) -> bool {
        match &self.rules.scope {
            Scope::Carried => true,
            Scope::Declared(declared) => declared.contains(path),
            Scope::Etc(declared) => path.is_within("etc") || declared.contains(path),
        }
    }

    /// Whether a directory that leads to files in scope is the user's to change, too.
    fn leads_into_scope(&self, path: &EntryPath) -> bool {
        match &self.rules.scope {
            Scope::Carried => true,
            Scope::Declared(declared) | Scope::Etc(declared) => declared.leads_through(path),
        }
    }

    fn note(&mut self, kind: NoticeKind, path: &EntryPath) {
        self.merge.notices.push(Notice::new(kind, path));
    }

    /// What becomes of a path; nothing if nobody has it in the end.
    fn decide(&mut self, path: &EntryPath) -> Result<Option<Decision>, ConfigError> {
        let Versions { base, user, new } = self.versions;
        let (b, u, n) = (base.get(path), user.get(path), new.get(path));
        let rule = self.rules.policy.of(path);
        let is_dir =
            |entry: Option<&Entry>| entry.is_none_or(|entry| entry.content == Content::Dir);
        let directory = is_dir(b) && is_dir(u) && is_dir(n);
        let images = if n.is_some() {
            Take::New
        } else {
            Take::Nothing
        };
        match rule.disposition {
            Disposition::Drop => {
                let changed = !directory && content(u) != content(n);
                let action = changed.then_some(Action::Dropped);
                return Ok(Some(Decision::new(images, action, rule)));
            }
            Disposition::Replace => {
                let changed = !directory && content(u) != content(n);
                let action = changed.then_some(Action::Replaced);
                let mut decision = Decision::new(images, action, rule);
                decision.attic = changed && u.is_some() && content(u) != content(b);
                return Ok(Some(decision));
            }
            Disposition::Auto | Disposition::Keep => {}
        }
        if !(self.in_scope(path) || directory && self.leads_into_scope(path)) {
            let changed = !directory && content(u) != content(b);
            if changed && u.is_some() {
                self.note(NoticeKind::NotKept, path);
            }
            let action = changed.then_some(Action::OutOfScope);
            return Ok(Some(Decision::new(images, action, rule)));
        }
        let mut contents = Contents::new(self.versions, path, rule);
        let row = contents.row()?;
        if rule.disposition == Disposition::Keep
            && let Some(decision) = self.pinned(path, row, rule)
        {
            return Ok(Some(decision));
        }
        let decision = |take, action| Some(Decision::new(take, action, rule));
        Ok(match row {
            Row::Absent => None,
            Row::New => decision(Take::New, Action::New),
            Row::UserAdded => decision(Take::User, Action::UserAdded),
            Row::Converged => decision(Take::User, Action::Converged),
            Row::Removed => decision(Take::Nothing, Action::Removed),
            Row::Same => decision(Take::New, Action::Same),
            Row::Updated => decision(Take::New, Action::Updated),
            Row::Kept => decision(Take::User, Action::Kept),
            Row::Orphan => decision(Take::User, Action::KeptOrphan).map(|mut decision| {
                let conflict = Conflict::whole(ConflictKind::ChangeDelete, Winner::User);
                decision.conflicts.push(conflict);
                decision
            }),
            Row::Deleted { .. } if rule.ondelete == OnDelete::Restore => {
                self.note(NoticeKind::Restored, path);
                decision(Take::New, Action::Restored)
            }
            Row::Deleted { changed } => {
                if changed {
                    self.note(NoticeKind::DeleteChange, path);
                }
                decision(Take::Nothing, Action::StayDeleted)
            }
            Row::Type(winner) => {
                let (take, action) = match winner {
                    Winner::User => (Take::User, Action::ConflictUser),
                    Winner::New => (Take::New, Action::ConflictNew),
                };
                let mut decision = Decision::new(take, action, rule);
                // Of a directory, what is in it.
                let users = content(u).is_some_and(|content| *content != Content::Dir);
                decision.attic = winner == Winner::New && users;
                decision
                    .conflicts
                    .push(Conflict::whole(ConflictKind::Type, winner));
                Some(decision)
            }
            Row::Dispute => Some(self.dispute(path, contents, rule)?),
        })
    }

    /// A path that the policy says is the user's, whatever the image does.
    fn pinned(&mut self, path: &EntryPath, row: Row, rule: Rule) -> Option<Decision> {
        let action = match row {
            Row::Removed | Row::Orphan => {
                self.note(NoticeKind::OrphanKept, path);
                Action::KeptOrphan
            }
            Row::Same | Row::Updated | Row::Dispute | Row::Type(_) => Action::Kept,
            // The table says the same.
            _ => return None,
        };
        Some(Decision::new(Take::User, action, rule))
    }

    /// Both changed it.
    fn dispute(
        &mut self,
        path: &EntryPath,
        mut contents: Contents,
        rule: Rule,
    ) -> Result<Decision, ConfigError> {
        let outcome = contents.merge(&mut self.judge)?;
        for (kind, locus) in outcome.notices {
            self.merge.notices.push(Notice::new(kind, path).at(locus));
        }
        Ok(self.disputed(outcome.take, outcome.merger, outcome.conflicts, rule))
    }

    /// The decision for content that both changed.
    fn disputed(
        &mut self,
        take: Take,
        merger: Option<Merger>,
        conflicts: Vec<Conflict>,
        rule: Rule,
    ) -> Decision {
        let image_won = |conflict: &Conflict| conflict.resolved == Winner::New;
        // Places that the owner has decided about are no disputes any more.
        let settled = |conflict: &Conflict| conflict.decided && conflict.locus.is_some();
        let action = if conflicts.iter().all(settled) {
            Action::Merged
        } else if conflicts.iter().all(image_won) {
            Action::ConflictNew
        } else {
            Action::ConflictUser
        };
        let mut decision = Decision::new(take, action, rule);
        decision.merger = merger;
        decision.attic = conflicts.iter().any(image_won);
        decision.conflicts = conflicts;
        decision
    }

    /// Where a file or link of the image stands in the place of a user's directory, or the other way
    /// round, nothing can stand below it. What the user had changed there is set aside.
    fn give_way(&mut self) {
        let Versions { base, user, .. } = self.versions;
        let blocked: Vec<(EntryPath, EntryPath)> = self
            .decisions
            .iter()
            .filter(|(_, decision)| decision.take != Take::Nothing)
            .filter_map(|(path, _)| Some((path.clone(), self.blocked_by(path)?)))
            .collect();
        for (path, in_the_way) in blocked {
            let Some(decision) = self.decisions.get_mut(&path) else {
                continue;
            };
            let (b, u) = (content(base.get(&path)), content(user.get(&path)));
            let users_file = u.is_some_and(|content| *content != Content::Dir);
            let images = decision.take == Take::New && !users_file;
            decision.take = Take::Nothing;
            decision.conflicts.clear();
            decision.attic = users_file && u != b;
            decision.action = None;
            if decision.attic {
                decision.action = Some(Action::ConflictNew);
                self.lost_to(&in_the_way);
            } else if images {
                decision.action = Some(Action::StayDeleted);
                self.note(NoticeKind::DeleteChange, &path);
            }
        }
    }

    /// Something of the user's gave way to the image's entry at a path: that is a dispute, although
    /// nobody but the image changed what stands there itself.
    fn lost_to(&mut self, path: &EntryPath) {
        if let Some(decision) = self.decisions.get_mut(path)
            && decision.conflicts.is_empty()
        {
            decision.action = Some(Action::ConflictNew);
            decision
                .conflicts
                .push(Conflict::whole(ConflictKind::Type, Winner::New));
        }
    }

    /// Where the result has no directory though `path` needs one.
    fn blocked_by(&self, path: &EntryPath) -> Option<EntryPath> {
        path.ancestors().find(|dir| {
            self.decisions
                .get(dir)
                .and_then(|decision| self.taken(dir, decision))
                .is_some_and(|entry| entry.content != Content::Dir)
        })
    }

    /// What the result has from one of the versions, if it is not a merged file.
    fn taken(&self, path: &EntryPath, decision: &Decision) -> Option<&Entry> {
        match decision.take {
            Take::Nothing => None,
            Take::User | Take::Merged(_) => self.versions.user.get(path),
            Take::New => self.versions.new.get(path),
        }
    }

    /// A directory that one side dropped is there again if something stands in it.
    fn reopen_directories(&mut self) {
        let needed: Vec<EntryPath> = self
            .decisions
            .iter()
            .filter(|(_, decision)| decision.take != Take::Nothing)
            .flat_map(|(path, _)| path.ancestors())
            .collect();
        let Versions { user, new, .. } = self.versions;
        for dir in needed {
            if let Some(decision) = self.decisions.get_mut(&dir)
                && decision.take == Take::Nothing
            {
                let is_dir = |tree: &Tree| content(tree.get(&dir)) == Some(&Content::Dir);
                if is_dir(new) {
                    decision.take = Take::New;
                } else if is_dir(user) {
                    decision.take = Take::User;
                }
                decision.action = None;
            }
        }
    }

    /// Builds the tree and the lists that tell of it.
    fn finish(mut self) -> Result<Merge, ConfigError> {
        let numbers = self.numbers()?;
        for (path, mut decision) in std::mem::take(&mut self.decisions) {
            let mut set_id_cleared = false;
            if decision.take != Take::Nothing {
                let (meta, cleared) = self.meta(&path, &mut decision, &numbers);
                set_id_cleared = cleared;
                self.put(&path, &decision.take, meta);
            }
            if decision.attic {
                self.merge.attic.push(path.clone());
            }
            let undecided = decision.conflicts.iter().any(|conflict| !conflict.decided);
            if decision.rule.conflict == OnConflict::Fail && undecided {
                let why =
                    format!("{path}: both sides changed it, and the policy says `conflict=fail`");
                self.merge.refused.push(why);
            }
            if self.is_worth_telling(&path, &decision)
                && let Some(action) = decision.action
            {
                self.merge.entries.push(ReportEntry {
                    path,
                    action,
                    merger: decision.merger,
                    conflicts: decision.conflicts,
                    set_id_cleared,
                });
            }
        }
        self.services()?;
        for (path, locus) in self.judge.stale() {
            let mut notice = Notice::new(NoticeKind::ResolutionStale, path);
            notice.locus = locus.map(str::to_owned);
            self.merge.notices.push(notice);
        }
        self.merge.disputes = self.judge.into_disputes();
        Ok(self.merge)
    }

    /// A directory is only the way to its files, unless there is something to say of it. What comes
    /// with the new image and was in no archive is nobody's decision.
    fn is_worth_telling(&self, path: &EntryPath, decision: &Decision) -> bool {
        let Versions { base, user, new } = self.versions;
        let directory = [base, user, new]
            .iter()
            .filter_map(|tree| tree.get(path))
            .all(|entry| entry.content == Content::Dir);
        let carried = matches!(self.rules.scope, Scope::Carried);
        let images = base.get(path).is_none() && user.get(path).is_none();
        !decision.conflicts.is_empty() || !(directory || carried && images)
    }

    /// Permissions and owner of an entry of the result, and whether it lost set-id bits: it has only
    /// those that the new image gives it.
    fn meta(&self, path: &EntryPath, decision: &mut Decision, numbers: &Numbers) -> (Meta, bool) {
        let owned = |entry: &Entry| Meta {
            uid: numbers.uid(entry.meta.uid),
            gid: numbers.gid(entry.meta.gid),
            ..entry.meta
        };
        let Versions { base, user, new } = self.versions;
        let u = user
            .get(path)
            .map(|entry| (owned(entry), entry.content.kind()));
        let n = new
            .get(path)
            .map(|entry| (entry.meta, entry.content.kind()));
        let images = matches!(
            decision.action,
            Some(Action::Dropped | Action::Replaced | Action::OutOfScope)
        ) || decision.rule.disposition == Disposition::Drop
            || decision.rule.disposition == Disposition::Replace
            || !self.in_scope(path);
        let pinned = decision.rule.disposition == Disposition::Keep && decision.take == Take::User;
        let mut meta = match (u, n) {
            (_, Some((n, _))) if images => n,
            (Some((u, _)), _) if pinned => u,
            (Some((u, u_kind)), Some((n, n_kind))) if u_kind == n_kind => {
                let b = base.get(path).map(owned);
                let (meta, disputed) = table::merge_meta(b, u, n);
                if disputed {
                    let conflict = Conflict::whole(ConflictKind::Mode, Winner::User);
                    decision.conflicts.push(conflict);
                }
                // Only permissions were changed, and only by the user.
                if decision.action == Some(Action::Same) && meta != n {
                    decision.action = Some(Action::Kept);
                }
                meta
            }
            (_, Some((n, _))) if decision.take == Take::New => n,
            (Some((u, _)), _) => u,
            (None, Some((n, _))) => n,
            (None, None) => return (PLAIN, false), // nothing is taken from nowhere
        };
        let is_file = self
            .taken(path, decision)
            .is_some_and(|entry| entry.content.kind() == Kind::File);
        let from_image = decision.take == Take::New && n.is_some_and(|(n, _)| n.mode == meta.mode);
        if let Some(mask) = decision.rule.mode.filter(|_| is_file && !from_image) {
            meta.mode &= mask;
        }
        let allowed = n.map_or(0, |(n, _)| n.mode & table::SET_ID);
        let refused = meta.mode & table::SET_ID & !allowed;
        meta.mode &= !refused;
        (meta, refused != 0 && is_file)
    }

    fn put(&mut self, path: &EntryPath, take: &Take, meta: Meta) {
        let Versions { user, new, .. } = self.versions;
        let result = &mut self.merge.result;
        match take {
            Take::Nothing => {}
            Take::User => result.take(path, user, path, meta),
            Take::New => result.take(path, new, path, meta),
            Take::Merged(bytes) => {
                result.take(path, user, path, meta); // its attributes stay
                result.put_packed(path, bytes.clone(), meta);
            }
        }
    }
}

/// What an entry that nobody describes gets.
const PLAIN: Meta = Meta {
    mode: 0o600,
    uid: 0,
    gid: 0,
};

fn content(entry: Option<&Entry>) -> Option<&Content> {
    entry.map(|entry| &entry.content)
}
