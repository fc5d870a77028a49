//! What cannot be decided a path at a time: accounts, whose numbers tie passwd, group and shadow, and
//! services, whose links follow the scripts of the result.

use std::collections::{BTreeMap, BTreeSet};

use super::accounts::{self, Accounts, Database};
use super::content::Contents;
use super::policy::{self, Disposition, Merger};
use super::resolve::Seen;
use super::services::{self, Links, Origin, Script};
use super::table::Row;
use super::{Decision, Merging, Take, Versions, content};
use crate::config::owners::{Numbers, Owners};
use crate::config::path::{escape, unescape};
use crate::config::report::{
    Action, Conflict, Notice, Renumbered, ServiceAction, ServiceChange, Winner,
};
use crate::config::tree::{Content, Entry, Tree};
use crate::config::{ConfigError, EntryPath};

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

/// Files that are merged together.
const ACCOUNT_FILES: [(Database, &str, Merger); 3] = [
    (Database::Passwd, PASSWD, Merger::Passwd),
    (Database::Group, GROUP, Merger::Group),
    (Database::Shadow, "etc/shadow", Merger::Shadow),
];

impl Merging<'_> {
    /// What the owners of the user's files are called, turned into the numbers that these names have
    /// in the result.
    pub(super) fn numbers(&self) -> Result<Numbers, ConfigError> {
        let Versions { user, new, .. } = self.versions;
        let most = policy::MAX_MERGED;
        let text =
            |tree: &Tree, path: &EntryPath| tree.bytes(path, most).map(Option::unwrap_or_default);
        let [passwd, group] = [PASSWD, GROUP].map(|path| EntryPath::new(path.as_bytes()));
        let (Ok(passwd), Ok(group)) = (passwd, group) else {
            return Ok(Numbers::default());
        };
        let result =
            |path: &EntryPath| match self.decisions.get(path).map(|decision| &decision.take) {
                Some(Take::User) => text(user, path),
                Some(Take::Merged(bytes)) => Ok(bytes.clone()),
                Some(Take::New | Take::Nothing) | None => text(new, path),
            };
        let names = match &self.rules.owners {
            Some(owners) => owners.clone(),
            None => Owners::read(&text(user, &passwd)?, &text(user, &group)?),
        };
        Ok(names.numbers(&result(&passwd)?, &result(&group)?))
    }

    /// passwd, group and shadow, all at once: what becomes of one depends on the others. A file that
    /// only one side has left is decided like any other; the others are merged as if nobody had
    /// touched it.
    pub(super) fn accounts(&mut self) -> Result<(), ConfigError> {
        let Versions { base, user, new } = self.versions;
        let mut texts = [const { [const { None }; 3] }; 3];
        let mut merged = [const { None }; 3];
        for (index, (database, name, merger)) in ACCOUNT_FILES.into_iter().enumerate() {
            let Ok(path) = EntryPath::new(name.as_bytes()) else {
                continue;
            };
            let rule = self.rules.policy.of(&path);
            let text = |tree: &Tree| tree.bytes(&path, rule.max);
            let (b, u, n) = (text(base)?, text(user)?, text(new)?);
            let automatic = rule.disposition == Disposition::Auto && rule.merge == Some(merger);
            let ours = automatic && self.in_scope(&path) && u.is_some() && n.is_some();
            texts[index] = match (ours, u, n) {
                (true, u, n) => [b, u, n],
                (false, Some(u), None) => [const { None }; 3].map(|_: Option<()>| Some(u.clone())),
                (false, _, n) => [const { None }; 3].map(|_: Option<()>| n.clone()),
            };
            if ours {
                merged[index] = Some((database, path, rule, merger));
            }
        }
        let version = |index: usize| Accounts {
            passwd: texts[0][index].as_deref(),
            group: texts[1][index].as_deref(),
            shadow: texts[2][index].as_deref(),
        };
        let (base, user, new) = (version(0), version(1), version(2));
        let settled = texts.iter().all(|[_, user, new]| user == new);
        if settled {
            return Ok(());
        }
        let judge = &mut self.judge;
        let mut decided = BTreeSet::new();
        let found = accounts::merge(&base, &user, &new, &mut |dispute| {
            let place = merged
                .iter()
                .flatten()
                .find(|(database, ..)| *database == dispute.database);
            let Some((_, path, rule, _)) = place else {
                return Winner::User;
            };
            let mut seen = Seen::new();
            for value in [dispute.default, dispute.user, dispute.new] {
                seen = seen.version(value.map(std::iter::once));
            }
            let locus = Some(dispute.locus);
            let verdict = judge.judge(path, locus, rule.conflict, seen.digest());
            if verdict.decided {
                decided.insert((path.clone(), dispute.locus.to_owned()));
            }
            verdict.winner
        });
        let found = match found {
            Ok(found) => found,
            Err(broken) => {
                self.merge.refused.push(format!("accounts: {broken}"));
                return Ok(());
            }
        };
        let results = [found.passwd, found.group, found.shadow];
        for (place, result) in merged.into_iter().zip(results) {
            let (Some((database, path, rule, merger)), Some(result)) = (place, result) else {
                continue;
            };
            let mut conflicts: Vec<Conflict> = found
                .conflicts
                .iter()
                .filter(|(of, _)| *of == database)
                .map(|(_, conflict)| conflict.clone())
                .collect();
            for conflict in &mut conflicts {
                let locus = conflict.locus.clone().unwrap_or_default();
                conflict.decided = decided.contains(&(path.clone(), locus));
            }
            for (_, kind, locus) in found.notices.iter().filter(|(of, ..)| *of == database) {
                self.merge.notices.push(Notice::new(*kind, &path).at(locus));
            }
            let mut contents = Contents::new(self.versions, &path, rule);
            let take = contents.take_of(result);
            let plain = match (contents.row()?, &take) {
                (Row::Same, Take::User | Take::New) => Some(Action::Same),
                (Row::Converged, Take::User) => Some(Action::Converged),
                (Row::Updated, Take::New) => Some(Action::Updated),
                (Row::Kept, Take::User) => Some(Action::Kept),
                _ => None,
            };
            let decision = match plain.filter(|_| conflicts.is_empty()) {
                Some(action) => Decision::new(take, action, rule),
                None => self.disputed(take, Some(merger), conflicts, rule),
            };
            self.decisions.insert(path, decision);
        }
        for renumbered in found.renumbered {
            let number = renumbered.image;
            let belongs = |entry: &Entry| match renumbered.database {
                Database::Group => entry.meta.gid == number,
                Database::Passwd | Database::Shadow => entry.meta.uid == number,
            };
            let files = self.versions.new.iter();
            let files = files.filter(|(_, entry)| belongs(entry));
            self.merge.renumbered.push(Renumbered {
                name: escape(&renumbered.name),
                group: renumbered.database == Database::Group,
                image: number,
                result: renumbered.result,
                files: files.map(|(path, _)| path.clone()).collect(),
            });
        }
        Ok(())
    }

    /// Links of services, once it is known which scripts the result has.
    pub(super) fn services(&mut self) -> Result<(), ConfigError> {
        let Versions { base, user, new } = self.versions;
        let (users_links, new_links) = (links(user), links(new));
        let (default, users) = match &self.rules.services {
            Some(enabled) => (enabled.default.as_ref().map(names), names(&enabled.user)),
            None if has_links(user) => {
                let default = has_links(base).then(|| links(base).enabled());
                (default, users_links.enabled())
            }
            None => (None, BTreeSet::new()),
        };
        let had = |service: &[u8]| script_of(service).is_some_and(|path| user.get(&path).is_some());
        let wanted = services::merge(default.as_ref(), &users, &new_links.enabled(), &had);
        let mut scripts = BTreeMap::new();
        for service in wanted
            .iter()
            .chain(users_links.names())
            .chain(new_links.names())
        {
            if let Some(path) = script_of(service)
                && let Some(text) = self.merge.result.bytes(&path, policy::MAX_MERGED)?
            {
                let result = content(self.merge.result.get(&path));
                let origin = match content(new.get(&path)) {
                    None => Origin::User,
                    images if images == result => Origin::Image,
                    Some(_) => Origin::Changed,
                };
                scripts.insert(service.clone(), Script { text, origin });
            }
        }
        let plan = services::plan(&wanted, &users_links, &new_links, &mut |service| {
            scripts.get(service).cloned()
        });
        for (name, target) in plan.links {
            if let Ok(path) = EntryPath::new(&[services::DIR.as_bytes(), b"/", &name].concat()) {
                self.merge.result.put_link(&path, &target);
            }
        }
        let changes = plan.changes.into_iter();
        self.merge.services = changes
            .map(|(name, enabled)| ServiceChange {
                name: escape(&name),
                action: match enabled {
                    true => ServiceAction::Enabled,
                    false => ServiceAction::Disabled,
                },
            })
            .collect();
        Ok(())
    }
}

/// The links of the services of a tree.
fn links(tree: &Tree) -> Links {
    let links = tree.iter().filter_map(|(path, entry)| {
        let name = path.as_bytes().strip_prefix(services::DIR.as_bytes())?;
        match &entry.content {
            Content::Link { target } => Some((name.strip_prefix(b"/")?, &**target)),
            _ => None,
        }
    });
    Links::new(links)
}

fn has_links(tree: &Tree) -> bool {
    EntryPath::new(services::DIR.as_bytes()).is_ok_and(|dir| tree.get(&dir).is_some())
}

/// The script of a service.
fn script_of(service: &[u8]) -> Option<EntryPath> {
    EntryPath::new(&[b"etc/init.d/", service].concat()).ok()
}

fn names(names: &BTreeSet<String>) -> BTreeSet<services::Name> {
    names.iter().filter_map(|name| unescape(name)).collect()
}
