//! What holds for merged accounts: numbers of their own, and nothing half there.

use std::collections::HashSet;

use super::records::{File, PASSWORD, Record};
use super::{Broken, Line, Merge, Trees};
use crate::config::path::escape;

/// Numbers that no new account can get.
pub(super) struct Numbers {
    pub(super) used: HashSet<u32>,
}

impl Numbers {
    /// Users and groups have numbers of their own, but what is free for both is easier to read.
    pub(super) fn new(results: &[&[Line]], trees: &[&Trees]) -> Self {
        let results = results.iter().flat_map(|lines| lines.iter());
        let images = trees.iter().filter_map(|trees| trees.new.as_ref());
        let numbers = results.filter_map(Line::merge).filter_map(Merge::number);
        let used = numbers.chain(images.flat_map(File::records).filter_map(Record::number));
        Self {
            used: used.collect(),
        }
    }

    /// The next free number, of system accounts for a system account.
    pub(super) fn next_free(&self, number: u32) -> Option<u32> {
        /// Where numbers of daemons begin that no standard gives away.
        const FIRST_SYSTEM: u32 = 100;
        const FIRST_HUMAN: u32 = 1000;
        /// `nobody`; beyond it, 16 bits end.
        const NOBODY: u32 = 65_534;
        let (first, end) = if number < FIRST_HUMAN {
            (FIRST_SYSTEM, FIRST_HUMAN)
        } else {
            (FIRST_HUMAN, NOBODY)
        };
        let number = number.clamp(first, end);
        let mut candidates = (number..end).chain(first..number);
        candidates.find(|candidate| !self.used.contains(candidate))
    }
}

/// Refuses what would lock the owner out, or leave an account half there, whoever made it so: the
/// refusal names it, and it can be mended before the upgrade.
pub(super) fn check(
    [passwd, group, shadow]: [&Trees; 3],
    [people, groups, passwords]: [&[Line]; 3],
) -> Result<(), Broken> {
    let merges = |lines| <[Line]>::iter(lines).filter_map(Line::merge);
    for (trees, lines, file) in [(passwd, people, "passwd"), (group, groups, "group")] {
        let root = merges(lines).find(|merge| merge.name == b"root");
        if trees.exists() && root.and_then(Merge::number) != Some(0) {
            return Err(Broken::Root { file });
        }
    }
    let gids: HashSet<u32> = merges(groups).filter_map(Merge::number).collect();
    let shadowed: HashSet<&[u8]> = (merges(passwords).map(|merge| merge.name))
        .chain(shadow.user.odd.iter().copied())
        .collect();
    if shadow.exists() && !shadowed.contains(&b"root"[..]) {
        return Err(Broken::RootPassword);
    }
    for merge in merges(people) {
        if let Some(gid) = merge.gid().filter(|gid| !gids.contains(gid))
            && group.exists()
        {
            let name = escape(merge.name);
            return Err(Broken::PrimaryGroup { name, gid });
        }
        let password = merge.fields.get(PASSWORD);
        if password.is_some_and(|password| **password == *b"x")
            && shadow.exists()
            && !shadowed.contains(merge.name)
        {
            let name = escape(merge.name);
            return Err(Broken::Password { name });
        }
    }
    Ok(())
}
