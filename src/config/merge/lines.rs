//! Files that are sets of records, one a line: hosts, shells, ethers, sysupgrade.conf.
//!
//! | old default | user | new default | result |
//! | --- | --- | --- | --- |
//! | any | x | x | x |
//! | - | x | - | x |
//! | x | x | - | - : the image dropped it |
//! | x | - | any | - : the user deleted it |
//! | - | - | x | x : the image added it |
//!
//! There are no disputes. Lines are the same record if their words are; the user's spacing stays. A
//! changed line is another record: where the user changes a line and the image changes it otherwise,
//! both come, and where only the user does, his alone stays.
//!
//! Comments and blank lines are the user's. They belong to the record below them, and stay where
//! they are if that goes. A new record follows the one that it follows in the image, or that which
//! it replaces; before all others, it stands below the comment at the head of the file.

use std::collections::{HashMap, HashSet};

use super::three_way::{Sides, merge_entries};

/// What both sides made of `base`.
pub(crate) fn merge(base: Option<&[u8]>, user: &[u8], new: &[u8]) -> Vec<u8> {
    if base == Some(user) {
        return new.to_vec();
    }
    let mut words = Words::default();
    let base = words.read(base.unwrap_or_default());
    let user = words.read(user);
    let new = words.read(new);
    let (in_base, in_new) = (base.words(), new.words());
    let user_ids: HashSet<Id> = user.entries.iter().map(|entry| entry.id).collect();
    let images = with_dropped(&base, &new, &user_ids);
    // New records that precede everything that the user has as well.
    let heads: HashSet<Id> = (images.iter().map(|(id, _)| *id))
        .take_while(|id| !user_ids.contains(id))
        .collect();

    let sides = Sides {
        base: Some(base.records()),
        user: Some(user.records()),
        new: Some(images),
    };
    let pieces = merge_entries(sides, |id: Id, sides| {
        let known = in_base.contains(&id.words);
        if let Some(entry) = sides.user {
            let dropped = known && !in_new.contains(&id.words);
            return Some(Piece::User { entry, dropped });
        }
        let entry = sides.new.filter(|_| !known && id.nth == 0)?;
        let head = heads.contains(&id);
        Some(Piece::New { entry, head })
    });

    let mut merged = Vec::new();
    let mut tail = Some(&user.tail);
    if user.entries.is_empty() {
        tail.take()
            .into_iter()
            .for_each(|tail| add(&mut merged, tail));
    }
    let mut waiting = Vec::new();
    for piece in pieces {
        match piece {
            Piece::New { entry, head: true } => waiting.push(entry.line),
            Piece::New { entry, head: false } => add(&mut merged, &[entry.line]),
            Piece::User { entry, dropped } => {
                add(&mut merged, &entry.above);
                add(&mut merged, &waiting);
                waiting.clear();
                if !dropped {
                    add(&mut merged, &[entry.line]);
                }
            }
        }
    }
    add(&mut merged, &waiting);
    tail.into_iter().for_each(|tail| add(&mut merged, tail));
    merged
}

/// Adds lines; the last one of a file may have no end.
fn add(text: &mut Vec<u8>, lines: &[&[u8]]) {
    for line in lines {
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(line);
    }
}

/// A record of the result.
enum Piece<'a> {
    User { entry: &'a Entry<'a>, dropped: bool },
    New { entry: &'a Entry<'a>, head: bool },
}

/// A record of a file: a number for its words, and the how manieth of these words it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Id {
    words: usize,
    nth: usize,
}

/// A record and the comments and blank lines above it.
struct Entry<'a> {
    id: Id,
    above: Vec<&'a [u8]>,
    line: &'a [u8],
}

/// A file.
struct Lines<'a> {
    entries: Vec<Entry<'a>>,
    /// Comments and blank lines at its end.
    tail: Vec<&'a [u8]>,
}

impl Lines<'_> {
    fn words(&self) -> HashSet<usize> {
        self.entries.iter().map(|entry| entry.id.words).collect()
    }

    fn records(&self) -> Vec<(Id, &Entry<'_>)> {
        self.entries.iter().map(|entry| (entry.id, entry)).collect()
    }
}

/// Numbers for words.
#[derive(Default)]
struct Words<'a>(HashMap<Vec<&'a [u8]>, usize>);

impl<'a> Words<'a> {
    fn read(&mut self, text: &'a [u8]) -> Lines<'a> {
        let (mut entries, mut tail) = (Vec::new(), Vec::new());
        let mut seen: HashMap<usize, usize> = HashMap::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let words: Vec<&[u8]> = line
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
                .collect();
            if words.first().is_none_or(|word| word.starts_with(b"#")) {
                tail.push(line);
                continue;
            }
            let next = self.0.len();
            let words = *self.0.entry(words).or_insert(next);
            let count = seen.entry(words).or_default();
            let id = Id { words, nth: *count };
            *count += 1;
            let above = std::mem::take(&mut tail);
            entries.push(Entry { id, above, line });
        }
        Lines { entries, tail }
    }
}

/// The records of the image, and those that it dropped and the user has where they were: what
/// replaces a record then follows it.
fn with_dropped<'a>(
    base: &'a Lines,
    new: &'a Lines,
    user: &HashSet<Id>,
) -> Vec<(Id, &'a Entry<'a>)> {
    let news = new.records();
    let ids: HashSet<Id> = news.iter().map(|(id, _)| *id).collect();
    let mut dropped: HashMap<Option<Id>, Vec<(Id, &Entry)>> = HashMap::new();
    let mut last = None;
    for entry in &base.entries {
        if ids.contains(&entry.id) {
            last = Some(entry.id);
        } else if user.contains(&entry.id) {
            dropped.entry(last).or_default().push((entry.id, entry));
        }
    }
    let mut all = dropped.remove(&None).unwrap_or_default();
    for record in news {
        all.push(record);
        all.extend(dropped.remove(&Some(record.0)).unwrap_or_default());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(base: &str, user: &str, new: &str, merged: &str) {
        let got = merge(Some(base.as_bytes()), user.as_bytes(), new.as_bytes());
        assert_eq!(
            String::from_utf8(got).unwrap(),
            merged,
            "{base:?} {user:?} {new:?}"
        );
    }

    #[test]
    fn each_row_of_the_table_is_as_it_says() {
        check("a\n", "a\nx\n", "a\nx\n", "a\nx\n");
        check("a\n", "a\nx\n", "a\n", "a\nx\n");
        check("a\nx\n", "a\nx\nu\n", "a\n", "a\nu\n");
        check(
            "a\nx\n",
            "a\nu\n",
            "a\nx\nn\n",
            "a\nnu\n".replace("nu", "n\nu").as_str(),
        );
        check("a\nx\n", "a\nu\n", "a\n", "a\nu\n");
        check("a\n", "a\nu\n", "a\nx\n", "a\nx\nu\n");
    }

    #[test]
    fn who_changed_nothing_gets_the_file_of_the_image() {
        check(
            "# old\na\n",
            "# old\na\n",
            "# new\n\na b\n",
            "# new\n\na b\n",
        );
    }

    #[test]
    fn hosts_keep_what_the_user_added_and_follow_the_image() {
        check(
            "127.0.0.1 localhost\n\n::1 localhost\nff02::1 nodes\n",
            "127.0.0.1 localhost\n\n::1 localhost\nff02::1 nodes\n192.168.1.10 nas\n",
            "127.0.0.1 localhost localhost.lan\n\n::1 localhost\nff02::1 nodes\nff02::3 hosts\n",
            "127.0.0.1 localhost localhost.lan\n\n::1 localhost\nff02::1 nodes\nff02::3 hosts\n192.168.1.10 nas\n",
        );
    }

    #[test]
    fn a_line_that_the_user_changed_does_not_come_back_unless_the_image_changed_it_too() {
        let (base, user) = ("192.168.1.1 router\n", "192.168.1.1 mine\n");
        check(
            base,
            user,
            "192.168.1.1 router\nx\n",
            "192.168.1.1 mine\nx\n",
        );
        check(
            base,
            user,
            "192.168.1.1 theirs\n",
            "192.168.1.1 mine\n192.168.1.1 theirs\n",
        );
    }

    #[test]
    fn spacing_is_the_users_and_no_change() {
        check(
            "a b\nc\n",
            "a\t b \nc\nu\n",
            "a  b\nc\nn\n",
            "a\t b \nc\nn\nu\n",
        );
        check("a b\n", "a   b\nu\n", "c\n", "c\nu\n");
        check("a b\r\n", "a b\r\nu\r\n", "a b\nn\n", "a b\r\nn\nu\r\n");
    }

    #[test]
    fn comments_and_blank_lines_are_the_users() {
        check(
            "# vendor\na\n# b\nb\n",
            "# mine\n\na\n# b\nb\n# end\n",
            "# other\na\n# n\nn\n",
            "# mine\n\na\n# b\nn\n# end\n",
        );
    }

    #[test]
    fn a_file_without_records_keeps_its_head() {
        check(
            "## list\n# a\n",
            "## list\n\n# a\n",
            "## list\n/etc/x\n",
            "## list\n\n# a\n/etc/x\n",
        );
        check("", "## head\na\n", "n\n", "## head\na\nn\n");
    }

    #[test]
    fn what_comes_first_stands_below_the_head() {
        check(
            "a\n",
            "# head\n\na\nu\n",
            "n\nm\na\n",
            "# head\n\nn\nm\na\nu\n",
        );
    }

    #[test]
    fn the_order_is_the_users_unless_only_the_image_changed_it() {
        check("a\nb\nc\n", "b\na\nc\n", "a\nb\nc\nn\n", "b\na\nc\nn\n");
        check(
            "a\nb\nc\n",
            "a\n# b\nb\nc\nu\n",
            "b\na\nc\n",
            "# b\nb\na\nc\nu\n",
        );
    }

    #[test]
    fn duplicates_share_their_fate() {
        check("a\nb\n", "a\nb\na\nu\n", "b\n", "b\nu\n");
        check("b\n", "b\nu\nu\n", "n\nb\nn\n", "n\nb\nu\nu\n");
        check("a\na\n", "a\na\nu\n", "a\n", "a\na\nu\n");
    }

    #[test]
    fn a_last_line_without_end_does_not_run_into_the_next() {
        check("a", "a\nu", "a\nn", "a\nn\nu");
        check("a\n", "b\na", "a\nn", "b\na\nn");
        check("a", "a\nu", "a", "a\nu");
    }

    #[test]
    fn without_a_baseline_both_sets_come_together() {
        let merged = merge(None, b"# mine\na\nu\n", b"a\nn\n");
        assert_eq!(merged, b"# mine\na\nn\nu\n");
        assert_eq!(merge(None, b"", b"n"), b"n");
    }

    #[test]
    fn bytes_need_be_no_text() {
        let merged = merge(Some(b"\xff\n"), b"\xff\n\xfe \0\n", b"\xfd\n");
        assert_eq!(merged, b"\xfd\n\xfe \0\n");
    }

    #[test]
    fn a_hundred_thousand_lines_are_merged() {
        let text =
            |from: usize, to: usize| -> String { (from..to).map(|n| format!("{n}\n")).collect() };
        let (base, user) = (text(0, 100_000), text(1, 150_000));
        let merged = merge(
            Some(base.as_bytes()),
            user.as_bytes(),
            text(2, 100_001).as_bytes(),
        );
        assert_eq!(String::from_utf8(merged).unwrap(), text(2, 150_000));
    }
}
