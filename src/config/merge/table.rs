//! What becomes of one path: a pure function of the old default **B**, the user's version **U** and
//! the new default **N**.
//!
//! | B | U | N | row | result |
//! | --- | --- | --- | --- | --- |
//! | - | - | n | new | N |
//! | - | u | - | user-added | U |
//! | - | u | n=u | converged | U |
//! | - | u | n | dispute | merged, else U |
//! | b | - | - | absent | - |
//! | b | - | n=b | deleted | - |
//! | b | - | n≠b | deleted, and the image changed it | - |
//! | b | u=b | - | removed | - |
//! | b | u=b | n=b | same | N |
//! | b | u=b | n≠b | updated | N |
//! | b | u≠b | - | orphan | U |
//! | b | u≠b | n=b | kept | U |
//! | b | u≠b | n=u | converged | U |
//! | b | u≠b | n | dispute | merged, else U |
//!
//! "=" is up to the caller: bytes, or for some files meaning. Where the kinds of U and N differ and
//! both changed, the dispute is about the type. A directory of one side and something else of the
//! other cannot both stand: unless the image left its kind alone, the image wins, because software
//! that expects a directory does not start without it.
//!
//! Permissions and owner are merged apart from content.

use super::super::report::Winner;
use super::super::tree::{Content, Entry, Kind, Meta};

/// Which of the three versions are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Equal {
    pub user_is_base: bool,
    pub new_is_base: bool,
    pub user_is_new: bool,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Absent,
    New,
    UserAdded,
    Converged,
    Removed,
    Same,
    Updated,
    Kept,
    Orphan,
    Deleted {
        /// The image changed what the user deleted.
        changed: bool,
    },
    /// Both changed it, or both added it.
    Dispute,
    /// Both changed it, and have different kinds of entry there.
    Type(Winner),
}

/// The row for three versions of a path.
pub(super) fn row(
    base: Option<&Entry>,
    user: Option<&Entry>,
    new: Option<&Entry>,
    equal: Equal,
) -> Row {
    match (base, user, new) {
        (_, None, None) => Row::Absent,
        (None, None, Some(_)) => Row::New,
        (None, Some(_), None) => Row::UserAdded,
        (Some(_), None, Some(_)) => Row::Deleted {
            changed: !equal.new_is_base,
        },
        (Some(_), Some(_), None) if equal.user_is_base => Row::Removed,
        (Some(_), Some(_), None) => Row::Orphan,
        (Some(_), Some(_), Some(_)) if equal.user_is_base && equal.new_is_base => Row::Same,
        (Some(_), Some(_), Some(_)) if equal.user_is_base => Row::Updated,
        (Some(_), Some(_), Some(_)) if equal.new_is_base => Row::Kept,
        (_, Some(_), Some(_)) if equal.user_is_new => Row::Converged,
        (_, Some(user), Some(new)) if kind(user) == kind(new) => Row::Dispute,
        (_, Some(user), Some(new)) => {
            let directory = user.content == Content::Dir || new.content == Content::Dir;
            let users_change = base.is_some_and(|base| kind(base) == kind(new));
            Row::Type(if directory && !users_change {
                Winner::New
            } else {
                Winner::User
            })
        }
    }
}

fn kind(entry: &Entry) -> Kind {
    entry.content.kind()
}

/// Set-user-id and set-group-id.
pub(super) const SET_ID: u32 = 0o6000;

/// Permissions and owner where the user and the image have an entry of one kind: what only one side
/// changed is that side's; what both changed is the user's. True if both changed the permissions.
pub(super) fn merge_meta(base: Option<Meta>, user: Meta, new: Meta) -> (Meta, bool) {
    let three_way = |base: Option<u32>, user: u32, new: u32| match base {
        Some(base) if base == user => (new, false),
        Some(base) if base == new => (user, false),
        _ => (user, user != new),
    };
    let (mode, disputed) = three_way(base.map(|base| base.mode), user.mode, new.mode);
    let meta = Meta {
        mode,
        uid: three_way(base.map(|base| base.uid), user.uid, new.uid).0,
        gid: three_way(base.map(|base| base.gid), user.gid, new.gid).0,
    };
    (meta, disputed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    const META: Meta = Meta {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };

    fn entry(text: &str) -> Entry {
        let content = match text.split_once(':') {
            Some(("dir", _)) => Content::Dir,
            Some(("link", target)) => Content::Link {
                target: target.as_bytes().into(),
            },
            _ => Content::File {
                size: text.len() as u64,
                sha256: Digest::of(text.as_bytes()),
            },
        };
        Entry {
            content,
            meta: META,
        }
    }

    /// The row for contents; `-` is nothing.
    fn row_of(base: &str, user: &str, new: &str) -> Row {
        let of = |text: &str| (text != "-").then(|| entry(text));
        let (base, user, new) = (of(base), of(user), of(new));
        let equal = Equal {
            user_is_base: user == base,
            new_is_base: new == base,
            user_is_new: user == new,
        };
        row(base.as_ref(), user.as_ref(), new.as_ref(), equal)
    }

    #[test]
    fn each_row_of_the_table_is_decided_as_it_says() {
        let deleted = |changed| Row::Deleted { changed };
        for (base, user, new, expected) in [
            ("-", "-", "-", Row::Absent),
            ("-", "-", "x", Row::New),
            ("-", "x", "-", Row::UserAdded),
            ("-", "x", "x", Row::Converged),
            ("-", "x", "y", Row::Dispute),
            ("x", "-", "-", Row::Absent),
            ("x", "-", "x", deleted(false)),
            ("x", "-", "y", deleted(true)),
            ("x", "x", "-", Row::Removed),
            ("x", "x", "x", Row::Same),
            ("x", "x", "y", Row::Updated),
            ("x", "y", "-", Row::Orphan),
            ("x", "y", "x", Row::Kept),
            ("x", "y", "y", Row::Converged),
            ("x", "y", "z", Row::Dispute),
            ("link:x", "link:x", "link:y", Row::Updated),
            ("link:x", "link:y", "link:z", Row::Dispute),
        ] {
            assert_eq!(row_of(base, user, new), expected, "{base} {user} {new}");
        }
    }

    #[test]
    fn where_kinds_differ_a_directory_of_the_image_wins_unless_the_user_made_the_difference() {
        let wins = |winner| Row::Type(winner);
        for (base, user, new, expected) in [
            ("link:x", "y", "link:z", wins(Winner::User)),
            ("x", "link:y", "z", wins(Winner::User)),
            ("-", "link:y", "z", wins(Winner::User)),
            // The image made a directory of a file.
            ("x", "y", "dir:", wins(Winner::New)),
            ("-", "y", "dir:", wins(Winner::New)),
            // ... or a file of a directory, which the user made one, too.
            ("-", "dir:", "z", wins(Winner::New)),
            ("link:x", "dir:", "z", wins(Winner::New)),
            // The user made a directory of the file that the image still has.
            ("x", "dir:", "z", wins(Winner::User)),
            // The user made a file of the directory that the image still has: nobody else changed it.
            ("dir:", "y", "dir:", Row::Kept),
            ("dir:", "dir:", "z", Row::Updated),
        ] {
            assert_eq!(row_of(base, user, new), expected, "{base} {user} {new}");
        }
    }

    #[test]
    fn permissions_are_merged_three_way() {
        let with = |mode| Meta { mode, ..META };
        for (base, user, new, merged, disputed) in [
            (Some(0o644), 0o600, 0o644, 0o600, false),
            (Some(0o644), 0o644, 0o600, 0o600, false),
            (Some(0o644), 0o600, 0o600, 0o600, false),
            (Some(0o644), 0o600, 0o640, 0o600, true),
            (None, 0o600, 0o600, 0o600, false),
            (None, 0o600, 0o644, 0o600, true),
        ] {
            let found = merge_meta(base.map(with), with(user), with(new));
            assert_eq!(found, (with(merged), disputed), "{base:?} {user:o} {new:o}");
        }
        let owned = |uid, gid| Meta { uid, gid, ..META };
        let (meta, disputed) = merge_meta(Some(owned(1, 1)), owned(2, 1), owned(1, 3));
        assert_eq!((meta, disputed), (owned(2, 3), false));
    }
}
