//! What becomes of one path: a pure function of the old default, the user's version and the new
//! default.
//!
//! | B | U | N | result | action |
//! | --- | --- | --- | --- | --- |
//! | - | - | n | N | new |
//! | - | u | - | U | user-added |
//! | - | u | n=u | U | converged |
//! | - | u | n | U | conflict-user (add-add) |
//! | b | - | - | - | |
//! | b | - | n=b | - | stay-deleted |
//! | b | - | n≠b | - | stay-deleted, notice delete-change |
//! | b | u=b | - | - | removed |
//! | b | u=b | n=b | N | same |
//! | b | u=b | n≠b | N | updated |
//! | b | u≠b | - | U | kept-orphan, conflict change-delete |
//! | b | u≠b | n=b | U | kept |
//! | b | u≠b | n=u | U | converged |
//! | b | u≠b | n | U | conflict-user |
//!
//! "=" is kind and bytes, or the text of a link. Directories are equal to each other; what of them
//! can differ are their permissions. Where the kinds of U and N differ the conflict is `type`, and a
//! directory of the image wins over a user's file (and the other way round), unless the image left
//! its kind alone: software that expects a directory does not start without it.
//!
//! Permissions and owner are merged apart from content: what only one side changed is that side's;
//! what both changed is the user's, and a conflict `mode`. Set-id bits are only those of N.

use super::report::{Action, Conflict, ConflictKind, NoticeKind, Winner};
use super::tree::{Content, Entry, Kind, Meta};

/// Whose content stands in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Nobody's: the path is absent.
    Nothing,
    /// The user's.
    User,
    /// The new image's.
    New,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whose content.
    pub take: Take,
    /// Permissions and owner of the result; without meaning if there is none.
    pub meta: Meta,
    /// The word for it.
    pub action: Action,
    /// Disputes that were decided.
    pub conflicts: Vec<Conflict>,
    /// Worth telling.
    pub notices: Vec<NoticeKind>,
    /// The user's version is set aside.
    pub attic: bool,
}

/// Decides; `None` if there is nothing to decide, because neither the user nor the new image has
/// the path.
#[must_use]
pub fn decide(base: Option<&Entry>, user: Option<&Entry>, new: Option<&Entry>) -> Option<Decision> {
    let simple = |take, action| {
        let entry = if take == Take::User { user } else { new };
        Some(Decision {
            take,
            meta: entry.or(base).map_or(NO_META, |entry| entry.meta),
            action,
            conflicts: Vec::new(),
            notices: Vec::new(),
            attic: false,
        })
    };
    let dispute = |take, action, kind| {
        let winner = if take == Take::User {
            Winner::User
        } else {
            Winner::New
        };
        let mut decision = simple(take, action)?;
        decision.conflicts.push(Conflict::whole(kind, winner));
        decision.attic = take == Take::New;
        Some(decision)
    };
    let mut decision = match (base, user, new) {
        (_, None, None) => return None,
        (None, None, Some(_)) => simple(Take::New, Action::New),
        (None, Some(_), None) => simple(Take::User, Action::UserAdded),
        (None, Some(u), Some(n)) if u.content == n.content => simple(Take::User, Action::Converged),
        (None, Some(u), Some(n)) if kind(u) == kind(n) => {
            dispute(Take::User, Action::ConflictUser, ConflictKind::AddAdd)
        }
        (None, Some(u), Some(n)) => of_other_kind(None, u, n, &dispute),
        (Some(b), None, Some(n)) if b.content == n.content => {
            simple(Take::Nothing, Action::StayDeleted)
        }
        // A file was deleted; that says nothing of the directory that the image now has there.
        (Some(b), None, Some(n)) => {
            let restored = kind(n) == Kind::Dir && kind(b) != Kind::Dir;
            let mut decision = if restored {
                simple(Take::New, Action::Restored)
            } else {
                simple(Take::Nothing, Action::StayDeleted)
            };
            if let Some(decision) = &mut decision {
                decision.notices.push(NoticeKind::DeleteChange);
            }
            decision
        }
        (Some(b), Some(u), None) if b.content == u.content => {
            simple(Take::Nothing, Action::Removed)
        }
        (Some(_), Some(_), None) => {
            dispute(Take::User, Action::KeptOrphan, ConflictKind::ChangeDelete)
        }
        (Some(b), Some(u), Some(n)) if b.content == u.content => {
            let action = if b.content == n.content {
                Action::Same
            } else {
                Action::Updated
            };
            simple(Take::New, action)
        }
        (Some(b), Some(_), Some(n)) if b.content == n.content => simple(Take::User, Action::Kept),
        (Some(_), Some(u), Some(n)) if u.content == n.content => {
            simple(Take::User, Action::Converged)
        }
        (Some(_), Some(u), Some(n)) if kind(u) == kind(n) => {
            dispute(Take::User, Action::ConflictUser, ConflictKind::BothChanged)
        }
        (Some(b), Some(u), Some(n)) => of_other_kind(Some(b), u, n, &dispute),
    }?;
    merge_meta(&mut decision, base, user, new);
    Some(decision)
}

const NO_META: Meta = Meta {
    mode: 0,
    uid: 0,
    gid: 0,
};

fn kind(entry: &Entry) -> Kind {
    entry.content.kind()
}

/// User and image have different kinds of entry, and each differs from the old default.
fn of_other_kind(
    base: Option<&Entry>,
    user: &Entry,
    new: &Entry,
    dispute: &dyn Fn(Take, Action, ConflictKind) -> Option<Decision>,
) -> Option<Decision> {
    let directory = user.content == Content::Dir || new.content == Content::Dir;
    let users_change = base.is_some_and(|base| kind(base) == kind(new));
    if directory && !users_change {
        dispute(Take::New, Action::ConflictNew, ConflictKind::Type)
    } else {
        dispute(Take::User, Action::ConflictUser, ConflictKind::Type)
    }
}

/// Merges permissions and owner where user and image both have an entry of one kind.
fn merge_meta(
    decision: &mut Decision,
    base: Option<&Entry>,
    user: Option<&Entry>,
    new: Option<&Entry>,
) {
    const SET_ID: u32 = 0o6000;
    if let (Some(u), Some(n)) = (user, new)
        && kind(u) == kind(n)
    {
        let b = base.map(|base| base.meta);
        let (u, n) = (u.meta, n.meta);
        let three_way = |b: Option<u32>, u: u32, n: u32| {
            // Whether it is a dispute is of interest for permissions only.
            match b {
                Some(b) if b == u => (n, false),
                Some(b) if b == n => (u, false),
                _ => (u, u != n),
            }
        };
        let (mode, disputed) = three_way(b.map(|b| b.mode), u.mode, n.mode);
        decision.meta = Meta {
            mode,
            uid: three_way(b.map(|b| b.uid), u.uid, n.uid).0,
            gid: three_way(b.map(|b| b.gid), u.gid, n.gid).0,
        };
        if disputed {
            decision
                .conflicts
                .push(Conflict::whole(ConflictKind::Mode, Winner::User));
        }
        // Only permissions were changed, and only by the user.
        if decision.action == Action::Same && decision.meta != n {
            decision.action = Action::Kept;
        }
    }
    if decision.take == Take::Nothing {
        return;
    }
    let allowed = new.map_or(0, |new| new.meta.mode & SET_ID);
    let refused = decision.meta.mode & SET_ID & !allowed;
    if refused != 0 {
        decision.meta.mode &= !refused;
        decision.notices.push(NoticeKind::SetIdCleared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn file(text: &str) -> Entry {
        Entry {
            content: Content::File {
                size: text.len() as u64,
                sha256: Digest::of(text.as_bytes()),
            },
            meta: Meta {
                mode: 0o644,
                uid: 0,
                gid: 0,
            },
        }
    }

    fn link(target: &str) -> Entry {
        Entry {
            content: Content::Link {
                target: target.as_bytes().into(),
            },
            meta: Meta {
                mode: 0o777,
                uid: 0,
                gid: 0,
            },
        }
    }

    fn dir() -> Entry {
        Entry {
            content: Content::Dir,
            meta: Meta {
                mode: 0o755,
                uid: 0,
                gid: 0,
            },
        }
    }

    fn with_mode(mode: u32, mut entry: Entry) -> Entry {
        entry.meta.mode = mode;
        entry
    }

    #[test]
    fn each_row_of_the_table_is_decided_as_it_says() {
        use ConflictKind::{AddAdd, BothChanged, ChangeDelete, Type};
        use Winner::{New as Theirs, User as Ours};
        let (x, y, z) = (|| Some(file("x")), || Some(file("y")), || Some(file("z")));
        let (to_x, to_y) = (|| Some(link("x")), || Some(link("y")));
        let d = || Some(dir());
        let rows = [
            // B, U, N, result, action, conflict
            (None, None, x(), Take::New, Action::New, None),
            (None, x(), None, Take::User, Action::UserAdded, None),
            (None, x(), x(), Take::User, Action::Converged, None),
            (
                None,
                x(),
                y(),
                Take::User,
                Action::ConflictUser,
                Some((AddAdd, Ours)),
            ),
            (x(), None, x(), Take::Nothing, Action::StayDeleted, None),
            (x(), None, y(), Take::Nothing, Action::StayDeleted, None),
            (x(), x(), None, Take::Nothing, Action::Removed, None),
            (x(), x(), x(), Take::New, Action::Same, None),
            (x(), x(), y(), Take::New, Action::Updated, None),
            (
                x(),
                y(),
                None,
                Take::User,
                Action::KeptOrphan,
                Some((ChangeDelete, Ours)),
            ),
            (x(), y(), x(), Take::User, Action::Kept, None),
            (x(), y(), y(), Take::User, Action::Converged, None),
            (
                x(),
                y(),
                z(),
                Take::User,
                Action::ConflictUser,
                Some((BothChanged, Ours)),
            ),
            // Links: by their text.
            (to_x(), to_x(), to_y(), Take::New, Action::Updated, None),
            (
                to_x(),
                to_y(),
                x(),
                Take::User,
                Action::ConflictUser,
                Some((Type, Ours)),
            ),
            (
                to_x(),
                y(),
                to_y(),
                Take::User,
                Action::ConflictUser,
                Some((Type, Ours)),
            ),
            (to_x(), to_y(), to_x(), Take::User, Action::Kept, None),
            (
                None,
                to_x(),
                x(),
                Take::User,
                Action::ConflictUser,
                Some((Type, Ours)),
            ),
            // A directory on one side.
            (
                None,
                x(),
                d(),
                Take::New,
                Action::ConflictNew,
                Some((Type, Theirs)),
            ),
            (
                x(),
                y(),
                d(),
                Take::New,
                Action::ConflictNew,
                Some((Type, Theirs)),
            ),
            (x(), x(), d(), Take::New, Action::Updated, None),
            (d(), x(), d(), Take::User, Action::Kept, None),
            (
                x(),
                d(),
                y(),
                Take::User,
                Action::ConflictUser,
                Some((Type, Ours)),
            ),
            (
                to_x(),
                d(),
                y(),
                Take::New,
                Action::ConflictNew,
                Some((Type, Theirs)),
            ),
            (x(), None, d(), Take::New, Action::Restored, None),
            (d(), d(), x(), Take::New, Action::Updated, None),
        ];
        for (base, user, new, take, action, conflict) in rows {
            let got = decide(base.as_ref(), user.as_ref(), new.as_ref()).unwrap();
            let conflicts: Vec<_> = (got.conflicts.iter())
                .map(|conflict| (conflict.kind, conflict.resolved))
                .collect();
            let wanted = (take, action, Vec::from_iter(conflict));
            assert_eq!(
                (got.take, got.action, conflicts),
                wanted,
                "{base:?} {user:?} {new:?}"
            );
            let set_aside = conflict.is_some_and(|(_, winner)| winner == Theirs);
            assert_eq!(got.attic, set_aside, "{base:?} {user:?} {new:?}");
        }
        assert_eq!(decide(x().as_ref(), None, None), None);
        assert_eq!(decide(None, None, None), None);
    }

    #[test]
    fn a_deleted_file_that_the_image_changed_is_told() {
        let notices = |new: &str| {
            decide(Some(&file("x")), None, Some(&file(new)))
                .unwrap()
                .notices
        };
        assert_eq!(notices("x"), []);
        assert_eq!(notices("y"), [NoticeKind::DeleteChange]);
    }

    #[test]
    fn permissions_are_merged_apart_from_content() {
        // B, U, N -> result, disputed
        for (b, u, n, wanted, disputed) in [
            (Some(0o600), 0o600, 0o644, 0o644, false), // the image relaxed it
            (Some(0o644), 0o600, 0o644, 0o600, false), // the user tightened it
            (Some(0o644), 0o600, 0o600, 0o600, false),
            (Some(0o644), 0o600, 0o640, 0o600, true),
            (None, 0o600, 0o644, 0o600, true),
            (None, 0o600, 0o600, 0o600, false),
            (Some(0o755), 0o4755, 0o755, 0o755, false), // set-id bits are the image's only
            (Some(0o4755), 0o4755, 0o4755, 0o4755, false),
            (Some(0o4755), 0o4755, 0o755, 0o755, false),
        ] {
            for (user, new) in [("x", "x"), ("x", "y"), ("y", "x")] {
                let base = b.map(|mode| with_mode(mode, file("x")));
                let user = with_mode(u, file(user));
                let new = with_mode(n, file(new));
                let got = decide(base.as_ref(), Some(&user), Some(&new)).unwrap();
                assert_eq!(got.meta.mode, wanted, "{b:?} {u:o} {n:o}");
                let conflict = Conflict::whole(ConflictKind::Mode, Winner::User);
                assert_eq!(
                    got.conflicts.contains(&conflict),
                    disputed,
                    "{b:?} {u:o} {n:o}"
                );
            }
        }
    }

    #[test]
    fn a_changed_mode_alone_is_a_change_of_the_user() {
        let decided = decide(
            Some(&file("x")),
            Some(&with_mode(0o600, file("x"))),
            Some(&file("x")),
        );
        assert_eq!(decided.unwrap().action, Action::Kept);
    }

    #[test]
    fn a_file_that_only_the_user_has_brings_no_set_id_bits() {
        let decided = decide(None, Some(&with_mode(0o6755, file("x"))), None).unwrap();
        assert_eq!(decided.meta.mode, 0o755);
        assert_eq!(decided.notices, [NoticeKind::SetIdCleared]);
    }
}
