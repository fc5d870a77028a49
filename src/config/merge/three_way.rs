//! The two questions of every three-way merge: who wins, and in what order things stand.
//!
//! Both are asked of things with an identity: sections, options of a section, items of a list.
//!
//! | old default | user | new default | result |
//! | --- | --- | --- | --- |
//! | any | x | x | x |
//! | b | b | n | n, also if that is absence |
//! | b | u | b | u, also if that is absence |
//! | b | - | n | -, worth telling |
//! | b | u | - | dispute: change-delete |
//! | b | u | n | dispute: both-changed |
//! | - | u | n | dispute: add-add |

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use crate::config::report::{ConflictKind, Winner};

/// What the three sides have of one thing; `None` is absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sides<T> {
    pub(super) base: Option<T>,
    pub(super) user: Option<T>,
    pub(super) new: Option<T>,
}

/// What follows from comparing the sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This side's, nothing to tell.
    Take(Winner),
    /// The user deleted what the image changed: it stays deleted.
    StaysDeleted,
    /// Each side made another change.
    Dispute(ConflictKind),
}

impl<T> Sides<T> {
    pub(super) fn map<R>(self, mut change: impl FnMut(T) -> R) -> Sides<R> {
        Sides {
            base: self.base.map(&mut change),
            user: self.user.map(&mut change),
            new: self.new.map(change),
        }
    }

    pub(super) fn as_ref(&self) -> Sides<&T> {
        Sides {
            base: self.base.as_ref(),
            user: self.user.as_ref(),
            new: self.new.as_ref(),
        }
    }

    pub(super) fn zip<R>(self, other: Sides<R>) -> Sides<(T, R)> {
        Sides {
            base: self.base.zip(other.base),
            user: self.user.zip(other.user),
            new: self.new.zip(other.new),
        }
    }

    pub(super) fn of(self, winner: Winner) -> Option<T> {
        match winner {
            Winner::User => self.user,
            Winner::New => self.new,
        }
    }
}

impl<T: PartialEq> Sides<T> {
    pub(super) fn verdict(&self) -> Verdict {
        let Self { base, user, new } = self;
        if user == new || new == base {
            Verdict::Take(Winner::User)
        } else if user == base {
            Verdict::Take(Winner::New)
        } else if user.is_none() {
            Verdict::StaysDeleted
        } else if new.is_none() {
            Verdict::Dispute(ConflictKind::ChangeDelete)
        } else if base.is_none() {
            Verdict::Dispute(ConflictKind::AddAdd)
        } else {
            Verdict::Dispute(ConflictKind::BothChanged)
        }
    }
}

/// Merges three sequences of things with an identity; an identity occurs once in a sequence.
///
/// `merge` is asked for each thing that the user or the image has, the user's first, and says what
/// becomes of it. The results are in the order described at [`in_order`].
pub(super) fn merge_entries<Id, T, R>(
    sides: Sides<Vec<(Id, T)>>,
    mut merge: impl FnMut(Id, Sides<T>) -> Option<R>,
) -> Vec<R>
where
    Id: Copy + Eq + Hash,
    T: Copy,
{
    let [base, user, new] = [sides.base, sides.user, sides.new].map(Option::unwrap_or_default);
    let index = |side: &[(Id, T)]| side.iter().copied().collect::<HashMap<Id, T>>();
    let (in_base, in_user, in_new) = (index(&base), index(&user), index(&new));

    let mut merged = HashMap::with_capacity(in_user.len());
    for (id, _) in user.iter().chain(&new) {
        merged.entry(*id).or_insert_with(|| {
            let sides = Sides {
                base: in_base.get(id).copied(),
                user: in_user.get(id).copied(),
                new: in_new.get(id).copied(),
            };
            merge(*id, sides)
        });
    }
    let stay = |side: &[(Id, T)]| -> Vec<Id> {
        let ids = side.iter().map(|(id, _)| *id);
        ids.filter(|id| merged.get(id).is_some_and(Option::is_some))
            .collect()
    };
    let order = in_order(&stay(&base), &stay(&user), &stay(&new));
    order
        .iter()
        .filter_map(|id| merged.remove(id).flatten())
        .collect()
}

/// Everything that `user` or `new` has, in one order: the user's, unless the user left the order of
/// what all three have alone and the image changed it, then the image's.
///
/// What only the other side has stands after its nearest predecessor there that is present, else
/// before the nearest successor, else at the end.
fn in_order<Id: Copy + Eq + Hash>(base: &[Id], user: &[Id], new: &[Id]) -> Vec<Id> {
    let set = |side: &[Id]| side.iter().copied().collect::<HashSet<Id>>();
    let (in_user, in_new) = (set(user), set(new));
    let common: HashSet<Id> = base
        .iter()
        .copied()
        .filter(|id| in_user.contains(id) && in_new.contains(id))
        .collect();
    let as_in_base = |side: &[Id]| {
        let of_common = |id: &&Id| common.contains(id);
        side.iter()
            .filter(of_common)
            .eq(base.iter().filter(of_common))
    };
    let (main, placed, other) = if as_in_base(user) && !as_in_base(new) {
        (new, in_new, user)
    } else {
        (user, in_user, new)
    };

    // What only the other side has comes in runs; each run follows an entry that both have, the
    // first one may follow nothing.
    let mut followers: HashMap<Id, Vec<Id>> = HashMap::new();
    let mut head = Vec::new();
    let (mut first, mut last) = (None, None);
    for &id in other {
        if placed.contains(&id) {
            first = first.or(Some(id));
            last = Some(id);
        } else if let Some(last) = last {
            followers.entry(last).or_default().push(id);
        } else {
            head.push(id);
        }
    }
    let mut order = Vec::with_capacity(main.len() + other.len());
    for &id in main {
        if Some(id) == first {
            order.append(&mut head);
        }
        order.push(id);
        order.extend(followers.remove(&id).unwrap_or_default());
    }
    order.append(&mut head);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(base: &str, user: &str, new: &str) -> String {
        let ids = |text: &str| text.chars().collect::<Vec<_>>();
        in_order(&ids(base), &ids(user), &ids(new))
            .into_iter()
            .collect()
    }

    #[test]
    fn the_order_is_the_users_unless_only_the_image_changed_it() {
        assert_eq!(ordered("abc", "abc", "abc"), "abc");
        assert_eq!(ordered("abc", "bac", "abc"), "bac");
        assert_eq!(ordered("abc", "abc", "cab"), "cab");
        assert_eq!(ordered("abc", "bac", "cab"), "bac");
        assert_eq!(ordered("abc", "cab", "cab"), "cab");
        // Without a baseline nobody knows who changed it.
        assert_eq!(ordered("", "abc", "cab"), "abc");
    }

    #[test]
    fn additions_and_deletions_do_not_count_as_a_change_of_order() {
        assert_eq!(ordered("abc", "xabyc", "cab"), "cxaby");
        assert_eq!(ordered("abcd", "ab", "ba"), "ba");
        // The user moved only what the image has not: `a` and `b` are as they were.
        assert_eq!(ordered("abc", "cab", "ba"), "bca");
        assert_eq!(ordered("ab", "ba", "abn"), "bna");
    }

    #[test]
    fn what_one_side_adds_follows_its_nearest_predecessor_that_is_present() {
        assert_eq!(ordered("abc", "abuc", "abnc"), "abnuc");
        assert_eq!(ordered("abc", "ac", "anmc"), "anmc");
        assert_eq!(ordered("ab", "ab", "abnm"), "abnm");
    }

    #[test]
    fn without_a_predecessor_it_stands_before_its_successor_else_at_the_end() {
        assert_eq!(ordered("ab", "uab", "nmab"), "unmab");
        assert_eq!(ordered("ab", "uba", "nab"), "ubna");
        assert_eq!(ordered("", "uv", "nm"), "uvnm");
        assert_eq!(ordered("", "", "nm"), "nm");
        assert_eq!(ordered("", "uv", ""), "uv");
    }

    #[test]
    fn whoever_alone_changed_it_wins_and_absence_is_a_value() {
        let verdict = |base, user, new| Sides { base, user, new }.verdict();
        let (user, new) = (Verdict::Take(Winner::User), Verdict::Take(Winner::New));
        let (one, two, three) = (Some(1), Some(2), Some(3));
        for (base, users, news, expected) in [
            (one, one, one, user),
            (one, two, two, user),
            (None, two, two, user),
            (one, None, None, user),
            (one, one, two, new),
            (one, one, None, new),
            (None, None, two, new),
            (one, two, one, user),
            (one, None, one, user),
            (None, two, None, user),
            (one, None, two, Verdict::StaysDeleted),
            (one, two, None, Verdict::Dispute(ConflictKind::ChangeDelete)),
            (one, two, three, Verdict::Dispute(ConflictKind::BothChanged)),
            (None, two, three, Verdict::Dispute(ConflictKind::AddAdd)),
        ] {
            assert_eq!(
                verdict(base, users, news),
                expected,
                "{base:?} {users:?} {news:?}"
            );
        }
    }
}
