//! Text that two sides changed, merged line by line.
//!
//! As with `git merge-file`, changes that overlap or touch are a conflict, unless both sides made
//! the same one; and a conflict anywhere is a conflict of the whole file. A half-merged script is
//! worse than an old one, so nothing is ever marked up for people to sort out later.
//!
//! The differences are found by `diffy` and joined here. Its own three-way merge may leave the two
//! halves of a change at either end of a run of equal lines (base `n n`, user `e n`: `e` inserted
//! before, `n` deleted after), and then takes for settled what git calls a conflict; here they are
//! brought together first.
//!
//! Lines are bytes up to and with a line feed: a carriage return belongs to its line, and a last
//! line without a line feed differs from one with it.

use std::ops::Range;

use diffy::{DiffOptions, HunkRange};

use crate::config::path::escape;

/// The most lines between the first and the last change of one side. Finding the differences takes
/// time with the square of it at worst: a second or two on a slow router for this many. Text that
/// people write is shorter; lists that programs write and that changed from top to bottom on both
/// sides are not worth more.
const MAX_CHANGED: usize = 4096;

/// What both sides made of `base`, or nothing if their changes are in each other's way (or too many
/// to be found in reasonable time).
pub(crate) fn merge(base: &[u8], user: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    if user == new || base == new {
        return Some(user.to_vec());
    }
    if base == user {
        return Some(new.to_vec());
    }
    let (user, new) = (Side::new(base, user)?, Side::new(base, new)?);
    let base = lines(base);
    let (mut user_at, mut new_at) = (0, 0); // edits that were dealt with
    let mut merged = Vec::new();
    let mut at = 0; // lines of base that were
    while let Some(start) = user
        .start(user_at)
        .into_iter()
        .chain(new.start(new_at))
        .min()
    {
        let (mut user_end, mut new_end, mut end) = (user_at, new_at, start);
        // Whoever touches the region makes it longer, so that more may touch it.
        loop {
            let before = (user_end, new_end);
            user.take_touching(&mut user_end, &mut end);
            new.take_touching(&mut new_end, &mut end);
            if before == (user_end, new_end) {
                break;
            }
        }
        merged.extend(base.get(at..start)?);
        let users = user.apply(user_at..user_end, &base, start..end)?;
        let news = new.apply(new_at..new_end, &base, start..end)?;
        if user_end > user_at && new_end > new_at && users != news {
            return None;
        }
        merged.extend(if user_end > user_at { users } else { news });
        (user_at, new_at, at) = (user_end, new_end, end);
    }
    merged.extend(base.get(at..)?);
    Some(merged.concat())
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// A changed text.
struct Side<'a> {
    lines: Vec<&'a [u8]>,
    /// In order; between two of them is at least one line that is not changed.
    edits: Vec<Edit>,
}

/// A change.
struct Edit {
    /// These lines of the base ...
    old: Range<usize>,
    /// ... became these of the side.
    new: Range<usize>,
}

impl<'a> Side<'a> {
    /// Nothing if it takes too long to find the changes.
    fn new(base: &[u8], side: &'a [u8]) -> Option<Self> {
        if changed_lines(base, side) > MAX_CHANGED {
            return None;
        }
        let patch = DiffOptions::new()
            .set_context_len(0)
            .create_patch_bytes(base, side);
        let (base, lines) = (lines(base), lines(side));
        let mut edits: Vec<Edit> = Vec::new();
        for hunk in patch.hunks() {
            let edit = Edit {
                old: from_zero(hunk.old_range()),
                new: from_zero(hunk.new_range()),
            };
            match edits.pop() {
                Some(last) if last.belongs_to(&edit, &base, &lines) => {
                    edits.push(last.up_to(&edit).trimmed(&base, &lines));
                }
                last => {
                    edits.extend(last);
                    edits.push(edit);
                }
            }
        }
        Some(Self { lines, edits })
    }

    fn start(&self, edit: usize) -> Option<usize> {
        self.edits.get(edit).map(|edit| edit.old.start)
    }

    /// Passes over the edits that begin before `end` or there, and moves it behind them.
    fn take_touching(&self, at: &mut usize, end: &mut usize) {
        while let Some(edit) = self.edits.get(*at).filter(|edit| edit.old.start <= *end) {
            *end = edit.old.end.max(*end);
            *at += 1;
        }
    }

    /// What these edits make of a region of the base.
    fn apply<'b>(
        &'b self,
        edits: Range<usize>,
        base: &[&'b [u8]],
        region: Range<usize>,
    ) -> Option<Vec<&'b [u8]>> {
        let (mut made, mut at) = (Vec::new(), region.start);
        for edit in self.edits.get(edits)? {
            made.extend(base.get(at..edit.old.start)?);
            made.extend(self.lines.get(edit.new.clone())?);
            at = edit.old.end;
        }
        made.extend(base.get(at..region.end)?);
        Some(made)
    }
}

impl Edit {
    /// True if this edit and the next could as well be told as one: the next only inserts or only
    /// deletes, and doing so with the lines next to this one comes to the same. (What could be moved
    /// the other way, `diffy` moved.)
    fn belongs_to(&self, next: &Self, base: &[&[u8]], side: &[&[u8]]) -> bool {
        let (first, second, lines) = match (next.old.is_empty(), next.new.is_empty()) {
            (true, _) => (&self.new, &next.new, side),
            (_, true) => (&self.old, &next.old, base),
            _ => return false,
        };
        repeats(lines, first.end..second.end, second.len())
    }

    /// This edit and the next as one.
    fn up_to(&self, next: &Self) -> Self {
        Self {
            old: self.old.start..next.old.end,
            new: self.new.start..next.new.end,
        }
    }

    /// Without the lines at its ends that it does not change.
    fn trimmed(mut self, base: &[&[u8]], side: &[&[u8]]) -> Self {
        while !self.old.is_empty()
            && !self.new.is_empty()
            && base.get(self.old.start) == side.get(self.new.start)
        {
            self.old.start += 1;
            self.new.start += 1;
        }
        while !self.old.is_empty()
            && !self.new.is_empty()
            && base.get(self.old.end - 1) == side.get(self.new.end - 1)
        {
            self.old.end -= 1;
            self.new.end -= 1;
        }
        self
    }
}

/// True if each line of a run is that which stands `period` lines before it: then it does not matter
/// at which end of the run as many lines are inserted or deleted.
fn repeats(lines: &[&[u8]], run: Range<usize>, period: usize) -> bool {
    let run = lines.get(run).unwrap_or_default();
    run.iter().zip(run.iter().skip(period)).all(|(a, b)| a == b)
}

/// In a diff, lines count from 1, and a range without lines is named after the line before it.
fn from_zero(range: HunkRange) -> Range<usize> {
    let start = range.start() - usize::from(!range.is_empty());
    start..start + range.len()
}

/// How many lines the longer of two texts has between where they begin and cease to differ.
fn changed_lines(base: &[u8], side: &[u8]) -> usize {
    let same = base.iter().zip(side).take_while(|(a, b)| a == b).count();
    let (base, side) = (&base[same..], &side[same..]);
    let both = base.iter().rev().zip(side.iter().rev());
    let same = both.take_while(|(a, b)| a == b).count();
    let lines = |text: &[u8]| {
        let differing = text.iter().take(text.len() - same);
        differing.filter(|byte| **byte == b'\n').count()
    };
    lines(base).max(lines(side))
}

/// The difference between two texts, for people: a unified diff. Bytes that are not UTF-8 are shown
/// as `\xHH`. Of two texts with too many differences only that they differ is told.
pub(crate) fn unified(from: &[u8], to: &[u8], from_name: &str, to_name: &str) -> String {
    if from == to {
        return String::new();
    }
    if changed_lines(from, to) > MAX_CHANGED {
        return format!("Files {from_name} and {to_name} differ\n");
    }
    let patch = DiffOptions::new()
        .set_original_filename(from_name.to_owned())
        .set_modified_filename(to_name.to_owned())
        .create_patch_bytes(from, to);
    let mut text = String::new();
    for chunk in patch.to_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.push_str(&escape(chunk.invalid()));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    use super::*;

    #[track_caller]
    fn check(base: &str, user: &str, new: &str, merged: Option<&str>) {
        for (ours, theirs) in [(user, new), (new, user)] {
            let got = merge(base.as_bytes(), ours.as_bytes(), theirs.as_bytes());
            let got = got.map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(got.as_deref(), merged, "{base:?} {ours:?} {theirs:?}");
        }
    }

    #[test]
    fn changes_apart_from_each_other_are_both_made() {
        check("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n", Some("A\nb\nC\n"));
        check("a\nb\nc\n", "b\nc\n", "a\nb\nc\nd\n", Some("b\nc\nd\n"));
        check("a\nb\n", "x\na\nb\n", "a\nb\ny\n", Some("x\na\nb\ny\n"));
    }

    #[test]
    fn changes_that_overlap_or_touch_are_a_conflict() {
        check("a\nb\nc\n", "a\nX\nc\n", "a\nY\nc\n", None);
        check("a\nb\nc\n", "a\nX\nc\n", "a\nc\n", None);
        check("a\nb\nc\n", "A\nb\nc\n", "a\nB\nc\n", None);
        check("a\nb\n", "a\nb\nx\n", "a\nb\ny\n", None);
        check("a\nb\n", "a\nx\nb\n", "a\ny\nb\n", None);
        check("", "x\n", "y\n", None);
        // Two changes of one side reach over one of the other, which none of them would alone.
        check(
            "a\nb\nc\nd\ne\n",
            "A\nb\nc\nd\nE\n",
            "a\nB\nC\nD\ne\n",
            None,
        );
    }

    #[test]
    fn one_conflict_is_a_conflict_of_the_whole() {
        check(
            "a\nb\nc\nd\ne\n",
            "A\nb\nc\nd\nX\n",
            "a\nb\nc\nd\nY\n",
            None,
        );
    }

    #[test]
    fn the_same_change_of_both_is_no_conflict() {
        check("a\nb\n", "x\nb\n", "x\nb\n", Some("x\nb\n"));
        check(
            "a\nb\nc\nd\n",
            "X\nb\nc\nd\n",
            "X\nb\nc\nD\n",
            Some("X\nb\nc\nD\n"),
        );
    }

    #[test]
    fn who_changed_nothing_has_no_say() {
        for text in ["", "a", "a\n", "a\r\nb"] {
            check("a\nb\n", text, "a\nb\n", Some(text));
            check(text, text, text, Some(text));
        }
    }

    #[test]
    fn a_last_line_without_line_feed_stays_as_its_side_left_it() {
        check("a\nb\nc", "A\nb\nc", "a\nb\nc\n", Some("A\nb\nc\n"));
        check("a\nb\nc\n", "A\nb\nc\n", "a\nb\nc", Some("A\nb\nc"));
        check("a\nb\nc", "a\nb\nc\nd\n", "a\nb\nX", None);
    }

    #[test]
    fn a_carriage_return_is_part_of_its_line() {
        check(
            "a\r\nb\r\nc\r\n",
            "A\r\nb\r\nc\r\n",
            "a\r\nb\r\nC\n",
            Some("A\r\nb\r\nC\n"),
        );
        check("a\n", "a\r\n", "a\nb\n", None);
    }

    #[test]
    fn a_change_in_equal_lines_is_seen_as_one() {
        // Where the halves of the user's change may be told apart, a deletion could pass unseen.
        check("c\nn\nn\n", "c\ne\nn\n", "c\nn\n", None);
        check("n\nn\ng\n", "k\nn\ng\n", "n\ng\n", None);
        check("b\nb\n", "a\nb\nb\n", "a\nb\n", None);
        check(
            "b\nb\nb\n",
            "b\nb\nb\nb\n",
            "a\nb\nb\n",
            Some("a\nb\nb\nb\n"),
        );
        check("o\nt\np\ne\n", "o\np\np\ne\n", "o\np\ne\n", None);
    }

    #[test]
    fn bytes_need_be_no_text() {
        let merged = merge(b"\xff\n\0\nc\n", b"\xfe\n\0\nc\n", b"\xff\n\0\nC\xff");
        assert_eq!(merged.as_deref(), Some(&b"\xfe\n\0\nC\xff"[..]));
    }

    #[test]
    fn what_takes_too_long_to_compare_is_a_conflict() {
        let text = |prefix: &str, lines: usize| -> String {
            (0..lines).map(|n| format!("{prefix}{n}\n")).collect()
        };
        let base = text("a", 100_000);
        check(&base, &text("b", 100_000), &text("c", 100_000), None);
        // Long, but the changes are in one place each.
        let user = format!("first\n{base}");
        let new = format!("{base}last\n");
        check(&base, &user, &new, Some(&format!("first\n{base}last\n")));
        // Where the bound lies; the ends of lines may be alike, which counts for a line.
        for (count, compared) in [(MAX_CHANGED, true), (MAX_CHANGED + 2, false)] {
            let (base, side) = (text("a", count), text("b", count));
            let side = Side::new(base.as_bytes(), side.as_bytes());
            assert_eq!(side.is_some(), compared, "{count}");
        }
    }

    /// A text of few different lines, and two changed copies of it.
    fn texts() -> impl Strategy<Value = [String; 3]> {
        let line = || 0..20_u8;
        let change = || prop::collection::vec((any::<prop::sample::Index>(), 0..3, line()), 0..3);
        let base = prop::collection::vec(line(), 0..9);
        let ends = prop::array::uniform3(prop::bool::weighted(0.8));
        (base, change(), change(), ends).prop_map(|(base, user, new, ends)| {
            let change = |changes: &[(prop::sample::Index, i32, u8)]| {
                let mut lines = base.clone();
                for (index, what, line) in changes {
                    let at = index.index(lines.len() + 1);
                    match what {
                        1 if at < lines.len() => lines[at] = *line,
                        2 if at < lines.len() => drop(lines.remove(at)),
                        _ => lines.insert(at, *line),
                    }
                }
                lines
            };
            let text = |lines: &[u8], end: bool| {
                let lines: Vec<String> = lines.iter().map(|line| format!("{line}")).collect();
                let end = if end && !lines.is_empty() { "\n" } else { "" };
                lines.join("\n") + end
            };
            [
                text(&base, ends[0]),
                text(&change(&user), ends[1]),
                text(&change(&new), ends[2]),
            ]
        })
    }

    /// The same texts on each run: git and we may slide a change along equal lines differently, in
    /// about four of 1000 texts that are made of two or three different lines.
    fn runner(cases: u32) -> TestRunner {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        TestRunner::new_with_rng(Config::with_cases(cases), rng)
    }

    #[test]
    fn git_merges_the_same_or_sees_the_same_conflict() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let merges = std::cell::Cell::new(0);
        runner(300)
            .run(&texts(), |[base, user, new]| {
                for (name, text) in [("base", &base), ("user", &user), ("new", &new)] {
                    fs::write(path(name), text).unwrap();
                }
                let git = Command::new("git")
                    .args(["merge-file", "-p"])
                    .args([path("user"), path("base"), path("new")])
                    .output()
                    .expect("git is here");
                let git = git.status.success().then_some(git.stdout);
                merges.set(merges.get() + usize::from(git.is_some()));
                prop_assert_eq!(merge(base.as_bytes(), user.as_bytes(), new.as_bytes()), git);
                Ok(())
            })
            .unwrap();
        assert!((50..250).contains(&merges.get()), "{}", merges.get());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(
            [base, user, new] in prop::array::uniform3("[ab\n\u{ff}]{0,12}")
        ) {
            let [base, user, new] = [&base, &user, &new].map(String::as_bytes);
            let merged = merge(base, user, new);
            prop_assert_eq!(&merged, &merge(base, new, user), "whose turn it is must not matter");
            let _ = unified(base, user, "a", "b");
        }
    }

    #[test]
    fn a_difference_is_shown_as_a_unified_diff() {
        let shown = unified(b"a\nb\nc\n", b"a\nB\xff\nc", "/rom/etc/x", "/etc/x");
        assert_eq!(
            shown,
            "--- /rom/etc/x\n+++ /etc/x\n@@ -1,3 +1,3 @@\n a\n-b\n-c\n+B\\xff\n+c\n\\ No newline at end of file\n"
        );
        assert_eq!(unified(b"a\n", b"a\n", "x", "y"), "");
        let long = "x\n".repeat(MAX_CHANGED + 2);
        let differs = unified(b"", long.as_bytes(), "x", "y");
        assert_eq!(differs, "Files x and y differ\n");
    }
}
