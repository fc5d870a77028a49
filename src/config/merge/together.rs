//! What cannot be decided a path at a time: accounts, whose numbers tie passwd, group and shadow, and
//! services, whose links follow the scripts of the result.

use std::collections::{BTreeMap, BTreeSet};

use super::accounts::{self, Accounts, Database};
use super::content::Contents;
use super::policy::{self, Disposition, Merger, Rule};
use super::resolve::Seen;
use super::services::{self, Links, Origin, Script};
use super::table::Row;
use super::{Decision, Merging, Take, Versions, content};
use crate::config::carry::owners::{Numbers, Owners};
use crate::config::path::{escape, unescape};
use crate::config::report::{
    Action, Conflict, Notice, Renumbered, ServiceAction, ServiceChange, Winner,
};
use crate::config::tree::{Content, Entry, Tree};
use crate::config::{ConfigError, EntryPath};
use crate::files::FileError;

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

/// Files that are merged together.
const ACCOUNT_FILES: [(Database, &str, Merger); 3] = [
    (Database::Passwd, PASSWD, Merger::Passwd),
    (Database::Group, GROUP, Merger::Group),
    (Database::Shadow, "etc/shadow", Merger::Shadow),
];

/// One of them in its three versions.
struct AccountFile {
    database: Database,
    path: EntryPath,
    merger: Merger,
    rule: Rule,
    base: Option<Vec<u8>>,
    user: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
    /// Its result counts.
    is_merged: bool,
}

/// One version of all three.
fn version(files: &[AccountFile], text: fn(&AccountFile) -> &Option<Vec<u8>>) -> Accounts<'_> {
    let of = |database| {
        let file = files.iter().find(|file| file.database == database)?;
        text(file).as_deref()
    };
    Accounts {
        passwd: of(Database::Passwd),
        group: of(Database::Group),
        shadow: of(Database::Shadow),
    }
}

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
                Some(Take::Merged(bytes)) => bytes
                    .bytes()
                    .map_err(FileError::at("unpack", path.as_path())),
                Some(Take::New | Take::Nothing) | None => text(new, path),
            };
        let names = match &self.rules.owners {
            Some(owners) => owners.clone(),
            None => Owners::read(&text(user, &passwd)?, &text(user, &group)?),
        };
        Ok(names.numbers(&result(&passwd)?, &result(&group)?))
    }

    /// passwd, group and shadow, all at once: what becomes of one depends on the others.
    pub(super) fn accounts(&mut self) -> Result<(), ConfigError> {
        let mut files = Vec::new();
        for (database, name, merger) in ACCOUNT_FILES {
            if let Ok(path) = EntryPath::new(name.as_bytes()) {
                files.push(self.account_file(database, path, merger)?);
            }
        }
        if files.iter().all(|file| file.user == file.new) {
            return Ok(());
        }
        let mut decided = BTreeSet::new();
        let [base, user, new] = [
            version(&files, |file| &file.base),
            version(&files, |file| &file.user),
            version(&files, |file| &file.new),
        ];
        let judge = &mut self.judge;
        let found = accounts::merge(&base, &user, &new, &mut |dispute| {
            let Some(file) = files.iter().find(|file| file.database == dispute.database) else {
                return Winner::User;
            };
            let mut seen = Seen::new();
            for value in [dispute.default, dispute.user, dispute.new] {
                seen = seen.version(value.map(std::iter::once));
            }
            let locus = Some(dispute.locus);
            let verdict = judge.judge(&file.path, locus, file.rule.conflict, seen.digest());
            if verdict.decided {
                decided.insert((file.path.clone(), dispute.locus.to_owned()));
            }
            verdict.winner
        });
        let mut found = match found {
            Ok(found) => found,
            Err(broken) => {
                self.merge.refused.push(format!("accounts: {broken}"));
                return Ok(());
            }
        };
        for file in files.iter().filter(|file| file.is_merged) {
            let result = match file.database {
                Database::Passwd => found.passwd.take(),
                Database::Group => found.group.take(),
                Database::Shadow => found.shadow.take(),
            };
            let of_file = |of: &Database| *of == file.database;
            let conflicts = found.conflicts.iter().filter(|(of, _)| of_file(of));
            let conflicts = conflicts.map(|(_, conflict)| {
                let locus = conflict.locus.clone().unwrap_or_default();
                Conflict {
                    decided: decided.contains(&(file.path.clone(), locus)),
                    ..conflict.clone()
                }
            });
            let conflicts = conflicts.collect();
            for (_, kind, locus) in found.notices.iter().filter(|(of, ..)| of_file(of)) {
                let notice = Notice::new(*kind, &file.path).at(locus);
                self.merge.notices.push(notice);
            }
            if let Some(result) = result {
                self.take_accounts(file, &result, conflicts)?;
            }
        }
        for renumbered in &found.renumbered {
            self.tell_renumbered(renumbered);
        }
        Ok(())
    }

    /// One of the three files. One that the image or the user does not have is decided like any
    /// other; to the others it is as if nobody had touched it.
    fn account_file(
        &self,
        database: Database,
        path: EntryPath,
        merger: Merger,
    ) -> Result<AccountFile, ConfigError> {
        let rule = self.rules.policy.of(&path);
        let text = |tree: &Tree| tree.bytes(&path, rule.max);
        let (base, user, new) = (
            text(self.versions.base)?,
            text(self.versions.user)?,
            text(self.versions.new)?,
        );
        let automatic = rule.disposition == Disposition::Auto && rule.merge == Some(merger);
        let is_merged = automatic && self.in_scope(&path) && user.is_some() && new.is_some();
        let stays = || new.clone().or(user.clone());
        let (base, user, new) = match is_merged {
            true => (base, user, new),
            false => (stays(), stays(), stays()),
        };
        Ok(AccountFile {
            database,
            path,
            merger,
            rule,
            base,
            user,
            new,
            is_merged,
        })
    }

    /// Decides for one of the three files, now that its content is known.
    fn take_accounts(
        &mut self,
        file: &AccountFile,
        result: &[u8],
        conflicts: Vec<Conflict>,
    ) -> Result<(), ConfigError> {
        let mut contents = Contents::new(self.versions, &file.path, file.rule);
        let take = contents.take_of(result);
        let plain = match (contents.row()?, &take) {
            (Row::Same, Take::User | Take::New) => Some(Action::Same),
            (Row::Converged, Take::User) => Some(Action::Converged),
            (Row::Updated, Take::New) => Some(Action::Updated),
            (Row::Kept, Take::User) => Some(Action::Kept),
            _ => None,
        };
        let decision = match plain.filter(|_| conflicts.is_empty()) {
            Some(action) => Decision::new(take, action, file.rule),
            None => self.disputed(take, Some(file.merger), conflicts, file.rule),
        };
        self.decisions.insert(file.path.clone(), decision);
        Ok(())
    }

    /// Files of the image that belong to a number belong to somebody else when its account gets
    /// another one.
    fn tell_renumbered(&mut self, account: &accounts::Renumbered) {
        let belongs = |entry: &Entry| match account.database {
            Database::Group => entry.meta.gid == account.image,
            Database::Passwd | Database::Shadow => entry.meta.uid == account.image,
        };
        let files = self.versions.new.iter();
        let files = files.filter(|(_, entry)| belongs(entry));
        self.merge.renumbered.push(Renumbered {
            name: escape(&account.name),
            group: account.database == Database::Group,
            image: account.image,
            result: account.result,
            files: files.map(|(path, _)| path.clone()).collect(),
        });
    }

    /// The links of the services of a tree.
    fn links(&self, tree: &Tree) -> Links {
        Links::new(tree.iter().filter_map(|(path, entry)| {
            let target: &[u8] = match &entry.content {
                Content::Link { target } => target,
                Content::File { .. } => b"",
                Content::Dir => return None,
            };
            Some((self.versions.service(path)?, target))
        }))
    }

    /// Links of services, once it is known which scripts the result has.
    pub(super) fn services(&mut self) -> Result<(), ConfigError> {
        let Versions { base, user, new } = self.versions;
        let (users_links, new_links) = (self.links(user), self.links(new));
        let enabled = match &self.rules.services {
            Some(enabled) => Some((enabled.default.as_ref().map(names), names(&enabled.user))),
            None => has_links(user).then(|| {
                let default = has_links(base).then(|| self.links(base).enabled());
                (default, users_links.enabled())
            }),
        };
        let had = |service: &[u8]| {
            services::script_of(service).is_some_and(|path| user.get(&path).is_some())
        };
        let wanted = match enabled {
            Some((default, users)) => {
                services::merge(default.as_ref(), &users, &new_links.enabled(), &had)
            }
            None => new_links.enabled(), // nobody knows what the user wants
        };
        let mut scripts = BTreeMap::new();
        for service in wanted
            .iter()
            .chain(users_links.names())
            .chain(new_links.names())
        {
            if let Some(path) = services::script_of(service)
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
                let result = &mut self.merge.result;
                match (new.get(&path), user.get(&path)) {
                    (Some(entry), _) => result.take(&path, new, &path, entry.meta),
                    (None, Some(entry)) => result.take(&path, user, &path, entry.meta),
                    (None, None) => result.put_link(&path, &target),
                }
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

fn has_links(tree: &Tree) -> bool {
    tree.iter().any(|(path, _)| path.is_within(services::DIR))
}

fn names(names: &BTreeSet<String>) -> BTreeSet<services::Name> {
    names.iter().filter_map(|name| unescape(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::scope::Declared;
    use super::super::{Rules, Scope, merge};
    use super::*;
    use crate::config::Deadline;
    use crate::config::merge::policy::Policy;
    use crate::config::merge::resolve::Resolutions;
    use crate::config::tree::Meta;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let meta = Meta {
            mode: 0o755,
            uid: 0,
            gid: 0,
        };
        let mut tree = Tree::default();
        for (path, text) in files {
            let path = EntryPath::new(path.as_bytes()).unwrap();
            tree.put(&path, text.as_bytes(), meta);
        }
        tree
    }

    #[test]
    fn a_file_among_the_links_is_a_service_only_if_its_script_is_elsewhere() {
        let rules = Rules {
            policy: Policy::built_in(),
            scope: Scope::Etc(Declared::default()),
            resolutions: Resolutions::default(),
            services: None,
            deadline: Deadline::default(),
            owners: None,
        };
        let script = ("etc/init.d/lamp", "START=50\n");
        let base = tree(&[script, ("etc/rc.d/S40lamp", "copy")]);
        let user = tree(&[
            script,
            ("etc/rc.d/S99local", "mine"),
            ("etc/rc.d/notes", "n"),
        ]);
        let new = tree(&[
            script,
            ("etc/rc.d/S50lamp", "copy"),
            ("etc/rc.d/S10image", "i"),
        ]);
        let versions = Versions {
            base: &base,
            user: &user,
            new: &new,
        };
        let merged = merge(versions, &rules).unwrap();
        let left: Vec<String> = (merged.result.iter())
            .map(|(path, _)| path.to_string())
            .filter(|path| path.starts_with("etc/rc.d"))
            .collect();
        // The user had disabled the lamp; what has no script elsewhere is a file like others.
        assert_eq!(
            left,
            ["etc/rc.d/S10image", "etc/rc.d/S99local", "etc/rc.d/notes"]
        );
        assert_eq!(merged.services.len(), 1, "{:?}", merged.services);
    }
}
