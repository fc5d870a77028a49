//! Cases: three directories, and what must come of them.
//!
//! ```text
//! CASE/old-default/...   CASE/user/...   CASE/new-default/...    what meets
//! CASE/expected/...                                              the result
//! CASE/case.json                                                 the context, and the expectations
//! ```
//!
//! Beside the keys of the context, `case.json` has `title` and `expect`, an object with these keys:
//!
//! | key | value |
//! | --- | --- |
//! | `exit` | 0 clean, 2 needs review, 3 refused: then nothing is written, and `expected` does not count |
//! | `compare` | PATH, then `uci` (same meaning) or `bytes` (as if absent) |
//! | `actions` | PATH, then the action; `service:NAME`, then `enabled` or `disabled` |
//! | `conflicts` | all of them: `path`, `kind`, `locus`, `resolved` |
//! | `notices` | all of them: `path`, `kind`, `locus` |
//! | `attic` | all paths whose user's version was set aside |
//! | `must_contain`, `must_not_contain` | PATH, then a list of texts |
//! | `must_not_report` | list of texts that no report says |
//!
//! What a refused merge would have disputed, told or set aside counts only if the case names it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{AnyPath, Context, DeskError, Dirs, Storage, TreeName, merge, read_tree};
use crate::config::carry::services;
use crate::config::engine::{Outcome, Verdict};
use crate::config::report::{ConflictKind, NoticeKind, Report, Winner};
use crate::config::tree::{Content, Entry, Kind, Tree};
use crate::config::uci::Package;
use crate::config::{ConfigError, EntryPath};
use crate::files;
use crate::report::printable;

/// The description of a case: text that people write.
const MAX_CASE: u64 = 1 << 20;

/// The largest file that is compared by meaning or searched for texts.
const MAX_COMPARED: u64 = 16 << 20;

/// What came of a case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// Name of its directory.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// Every difference to what was expected, each of them one printable line.
    pub differences: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Description {
    #[serde(default)]
    title: String,
    expect: Expectation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    exit: u8,
    #[serde(default)]
    compare: BTreeMap<AnyPath, Comparison>,
    #[serde(default)]
    actions: BTreeMap<String, String>,
    conflicts: Option<Vec<ExpectedConflict>>,
    notices: Option<Vec<ExpectedNotice>>,
    attic: Option<Vec<AnyPath>>,
    #[serde(default)]
    must_contain: BTreeMap<AnyPath, Vec<String>>,
    #[serde(default)]
    must_not_contain: BTreeMap<AnyPath, Vec<String>>,
    #[serde(default)]
    must_not_report: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Comparison {
    #[default]
    Bytes,
    Uci,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedConflict {
    path: AnyPath,
    kind: ConflictKind,
    #[serde(default)]
    locus: Option<String>,
    resolved: Winner,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedNotice {
    path: String,
    kind: NoticeKind,
    #[serde(default)]
    locus: Option<String>,
}

impl Display for ExpectedConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = At(&self.path.0, self.locus.as_deref());
        let (kind, winner) = (json(&self.kind), json(&self.resolved));
        write!(f, "{place} ({kind}, resolved {winner})")
    }
}

impl Display for ExpectedNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = At(&self.path, self.locus.as_deref());
        write!(f, "{place} ({})", json(&self.kind))
    }
}

/// A path, and a place in it.
struct At<'a, P>(&'a P, Option<&'a str>);

impl<P: Display> Display for At<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            None => write!(f, "{}", self.0),
            Some(locus) => write!(f, "{}#{locus}", self.0),
        }
    }
}

/// Runs a case.
///
/// # Errors
/// When its directory cannot be read, or its description makes no sense.
pub fn run_case(dir: &Path) -> Result<CaseResult, DeskError> {
    let description = files::read(&dir.join("case.json"), MAX_CASE)?;
    let context = Context::parse(&description)?;
    let Description { title, expect } =
        serde_json::from_slice(&description).map_err(DeskError::Description)?;
    let place = |name: &str| dir.join(name);
    let (base, user, new): (PathBuf, PathBuf, PathBuf) =
        (place("old-default"), place("user"), place("new-default"));
    let dirs = Dirs {
        base: &base,
        user: &user,
        new: &new,
    };
    let outcome = merge(&dirs, &context, Storage::Checkout)?;
    let expected = read_tree(
        &place("expected"),
        &context,
        TreeName::Expected,
        Storage::Checkout,
    )?;
    let mut check = Check {
        expect: &expect,
        outcome: &outcome,
        differences: Vec::new(),
    };
    check.verdict();
    if outcome.verdict() != Verdict::Refused {
        check.tree(&expected, &context)?;
        check.texts()?;
    }
    check.actions()?;
    check.lists();
    check.secrets();
    Ok(CaseResult {
        name: dir
            .file_name()
            .unwrap_or(dir.as_os_str())
            .to_string_lossy()
            .into_owned(),
        title,
        differences: check.differences,
    })
}

/// Compares what came out with what was expected.
struct Check<'a> {
    expect: &'a Expectation,
    outcome: &'a Outcome,
    differences: Vec<String>,
}

impl Check<'_> {
    fn differs(&mut self, place: impl Display, what: &str, expected: &str, found: &str) {
        // Each part is cut by itself, so that one long value does not hide the other.
        let [place, expected, found] = [&*place.to_string(), expected, found].map(printable);
        let line = format!("{place}: {what}: expected {expected}, found {found}");
        self.differences.push(line);
    }

    fn verdict(&mut self) {
        let found: u8 = match self.outcome.verdict() {
            Verdict::Clean => 0,
            Verdict::NeedsReview => 2,
            Verdict::Refused => 3,
        };
        if found != self.expect.exit {
            let why = self.outcome.merge.refused.join("; ");
            let found = format!("{found} {why}");
            self.differs(
                "verdict",
                "exit",
                &self.expect.exit.to_string(),
                found.trim(),
            );
        }
    }

    fn tree(&mut self, expected: &Tree, context: &Context) -> Result<(), ConfigError> {
        let found = &self.outcome.merge.result;
        let paths = expected.iter().chain(found.iter()).map(|(path, _)| path);
        let paths: BTreeSet<&EntryPath> = paths.collect();
        for path in paths {
            match (expected.get(path), found.get(path)) {
                (Some(wanted), Some(entry)) => {
                    let stated = context.says_meta(TreeName::Expected, path);
                    self.entry(path, (expected, wanted), (found, entry), stated)?;
                }
                // A checkout has no empty directories: that one is not expected says nothing.
                (None, Some(entry)) if entry.content == Content::Dir => {}
                (wanted, entry) => {
                    let text = |entry: Option<&Entry>| match entry.map(|e| e.content.kind()) {
                        None => "nothing",
                        Some(kind) => word(kind),
                    };
                    self.differs(path, "kind", text(wanted), text(entry));
                }
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &EntryPath,
        (expected, wanted): (&Tree, &Entry),
        (found, entry): (&Tree, &Entry),
        meta_is_stated: bool,
    ) -> Result<(), ConfigError> {
        match (&wanted.content, &entry.content) {
            (one, other) if one == other => {}
            (Content::Link { target: one }, Content::Link { target: other }) => {
                let [one, other] = [one, other].map(|target| String::from_utf8_lossy(target));
                self.differs(path, "target of the link", &one, &other);
            }
            (Content::File { .. }, Content::File { .. }) => {
                self.content(path, [expected, found])?;
            }
            (one, other) => self.differs(path, "kind", word(one.kind()), word(other.kind())),
        }
        let is_dir = wanted.content == Content::Dir;
        if entry.content.kind() == wanted.content.kind()
            && wanted.meta != entry.meta
            && (!is_dir || meta_is_stated)
        {
            let [one, other] = [wanted.meta, entry.meta]
                .map(|meta| format!("{:04o} {}:{}", meta.mode, meta.uid, meta.gid));
            self.differs(path, "mode and owner", &one, &other);
        }
        Ok(())
    }

    /// Two files that are not the same byte by byte.
    fn content(&mut self, path: &EntryPath, trees: [&Tree; 2]) -> Result<(), ConfigError> {
        let mut texts = Vec::new();
        for tree in trees {
            let Some(bytes) = tree.bytes(path, MAX_COMPARED)? else {
                self.differs(
                    path,
                    "content",
                    "a file to compare",
                    "one that is too large",
                );
                return Ok(());
            };
            texts.push(bytes);
        }
        let [wanted, found] = &texts[..] else {
            return Ok(());
        };
        let by_meaning = self.expect.compare.get(&AnyPath(path.clone()));
        if by_meaning == Some(&Comparison::Uci) {
            match (Package::parse(wanted), Package::parse(found)) {
                (Ok(wanted), Ok(found)) if wanted == found => {}
                (Ok(_), Ok(_)) => self.lines(path, "meaning", wanted, found),
                (wanted, found) => {
                    let text = |package: Result<Package, _>| match package {
                        Ok(_) => "a UCI package".to_owned(),
                        Err(error) => format!("no UCI package ({error})"),
                    };
                    self.differs(path, "content", &text(wanted), &text(found));
                }
            }
        } else {
            self.lines(path, "content", wanted, found);
        }
        Ok(())
    }

    /// Says the first line in which two texts differ.
    fn lines(&mut self, path: &EntryPath, what: &str, wanted: &[u8], found: &[u8]) {
        let [mut wanted, mut found] =
            [wanted, found].map(|text| text.split_inclusive(|byte| *byte == b'\n'));
        for number in 1_u64.. {
            let both = (wanted.next(), found.next());
            if both == (None, None) {
                return;
            }
            if both.0 != both.1 {
                let text = |line: Option<&[u8]>| match line {
                    None => "the end".to_owned(),
                    Some(line) => format!("`{}`", String::from_utf8_lossy(line).escape_debug()),
                };
                let (one, other) = (text(both.0), text(both.1));
                let what = format!("{what}, line {number}");
                self.differs(path, &what, &one, &other);
                return;
            }
        }
    }

    fn texts(&mut self) -> Result<(), ConfigError> {
        let expect = self.expect;
        for (wanted, lists) in [
            (true, &expect.must_contain),
            (false, &expect.must_not_contain),
        ] {
            for (AnyPath(path), texts) in lists {
                let content = self.outcome.merge.result.bytes(path, MAX_COMPARED)?;
                let content = content.unwrap_or_default();
                for text in texts {
                    if contains(&content, text.as_bytes()) != wanted {
                        let words = [format!("`{text}`"), format!("no `{text}`")];
                        let [there, absent] = &words;
                        let (one, other) = if wanted {
                            (there, absent)
                        } else {
                            (absent, there)
                        };
                        self.differs(path, "text", one, other);
                    }
                }
            }
        }
        Ok(())
    }

    fn actions(&mut self) -> Result<(), ConfigError> {
        let expect = self.expect;
        let entries = &self.outcome.merge.entries;
        for (path, action) in &expect.actions {
            let found = if let Some(service) = path.strip_prefix("service:") {
                if starts(&self.outcome.merge.result, service) {
                    "enabled"
                } else {
                    "disabled"
                }
            } else {
                let entry = entries.iter().find(|entry| entry.path.to_string() == *path);
                entry.map_or("none", |entry| entry.action.name())
            };
            if found != action {
                self.differs(path, "action", action, found);
            }
        }
        Ok(())
    }

    fn lists(&mut self) {
        let (expect, merge) = (self.expect, &self.outcome.merge);
        let conflicts = merge.entries.iter().flat_map(|entry| {
            let conflicts = entry.conflicts.iter();
            conflicts.map(|conflict| ExpectedConflict {
                path: AnyPath(entry.path.clone()),
                kind: conflict.kind,
                locus: conflict.locus.clone(),
                resolved: conflict.resolved,
            })
        });
        let notices = merge.notices.iter().map(|notice| ExpectedNotice {
            path: notice.path.clone(),
            kind: notice.kind,
            locus: notice.locus.clone(),
        });
        let attic = merge.attic.iter().cloned().map(AnyPath);
        self.list("conflict", expect.conflicts.as_deref(), conflicts);
        self.list("notice", expect.notices.as_deref(), notices);
        self.list("set aside", expect.attic.as_deref(), attic);
    }

    /// Compares two lists without regard to their order.
    fn list<T: Display>(
        &mut self,
        what: &str,
        expected: Option<&[T]>,
        found: impl Iterator<Item = T>,
    ) {
        if expected.is_none() && self.outcome.verdict() == Verdict::Refused {
            return;
        }
        let expected = expected.unwrap_or_default().iter();
        let expected: BTreeSet<String> = expected.map(T::to_string).collect();
        let found: BTreeSet<String> = found.map(|item| item.to_string()).collect();
        for missing in expected.difference(&found) {
            self.differs(missing, what, "it", "none like it");
        }
        for extra in found.difference(&expected) {
            self.differs(extra, what, "none like it", "it");
        }
    }

    fn secrets(&mut self) {
        let report = Report::of(self.outcome, "", "");
        let mut told = format!("{report:?}");
        told.push_str(&serde_json::to_string(&report).unwrap_or_default());
        for notice in &report.notices {
            told.push_str(&notice.to_string());
        }
        for secret in &self.expect.must_not_report {
            if told.contains(secret) {
                let secret = format!("`{secret}`");
                self.differs("report", "secret", "no word of it", &secret);
            }
        }
    }
}

/// True if the service has a start link.
fn starts(tree: &Tree, service: &str) -> bool {
    let mut links = tree
        .iter()
        .filter_map(|(path, _)| path.strip(services::LINKS));
    links.any(|link| services::started_by(link.as_bytes()).as_deref() == Some(service))
}

/// The word for a value of an enum.
fn json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    text.trim_matches('"').to_owned()
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "a file",
        Kind::Link => "a link",
        Kind::Dir => "a directory",
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A case of one file that both changed, and one link; as it must be.
    fn case(expect: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (tree, text) in [
            ("old-default", "1\n"),
            ("user", "2\n"),
            ("new-default", "3\n"),
            ("expected", "2\n"),
        ] {
            let etc = dir.path().join(tree).join("etc");
            fs::create_dir_all(&etc).unwrap();
            fs::write(etc.join("x"), text).unwrap();
            symlink("to", etc.join("link")).unwrap();
            if tree == "new-default" || tree == "expected" {
                fs::write(etc.join("p"), "config a 'b'\n\toption c 'd'\n").unwrap();
            }
        }
        let json = format!(r#"{{"title": "t", "declared": [], "expect": {expect}}}"#);
        fs::write(dir.path().join("case.json"), json).unwrap();
        dir
    }

    const RIGHT: &str = r#"{"exit": 2, "actions": {"etc/x": "conflict-user", "service:s": "disabled"},
        "conflicts": [{"path": "etc/x", "kind": "both-changed", "locus": null, "resolved": "user"}],
        "must_contain": {"etc/x": ["2"]}, "must_not_contain": {"etc/x": ["3"]},
        "must_not_report": ["hunter2"]}"#;

    fn differences(dir: &Path) -> Vec<String> {
        run_case(dir).unwrap().differences
    }

    #[test]
    fn a_case_that_comes_out_as_expected_has_no_differences() {
        let dir = case(RIGHT);
        assert_eq!(differences(dir.path()), [""; 0]);
        assert_eq!(run_case(dir.path()).unwrap().title, "t");
    }

    #[test]
    fn every_expectation_that_is_not_met_is_one_difference() {
        for (right, wrong, line) in [
            (
                "\"exit\": 2",
                "\"exit\": 0",
                "verdict: exit: expected 0, found 2",
            ),
            (
                "conflict-user",
                "merged",
                "etc/x: action: expected merged, found conflict-user",
            ),
            (
                "service:s\": \"disabled",
                "service:s\": \"enabled",
                "service:s: action: expected enabled, found disabled",
            ),
            (
                "must_contain\": {\"etc/x\": [\"2\"]",
                "must_contain\": {\"etc/x\": [\"9\"]",
                "etc/x: text: expected `9`, found no `9`",
            ),
            (
                "must_not_contain\": {\"etc/x\": [\"3\"]",
                "must_not_contain\": {\"etc/x\": [\"2\"]",
                "etc/x: text: expected no `2`, found `2`",
            ),
            (
                "hunter2",
                "conflict",
                "report: secret: expected no word of it, found `conflict`",
            ),
            (
                "\"exit\": 2,",
                "\"exit\": 2, \"attic\": [\"etc/x\"],",
                "etc/x: set aside: expected it, found none like it",
            ),
            (
                "\"exit\": 2,",
                "\"exit\": 2, \"notices\": [{\"path\": \"etc/x\", \"kind\": \"not-kept\"}],",
                "etc/x (not-kept): notice: expected it, found none like it",
            ),
        ] {
            assert!(RIGHT.contains(right), "{right}");
            let dir = case(&RIGHT.replacen(right, wrong, 1));
            assert_eq!(differences(dir.path()), [line], "{wrong}");
        }
        let dir = case(&RIGHT.replace("both-changed", "mode"));
        assert_eq!(
            differences(dir.path()),
            [
                "etc/x (mode, resolved user): conflict: expected it, found none like it",
                "etc/x (both-changed, resolved user): conflict: expected none like it, found it",
            ]
        );
    }

    #[test]
    fn every_difference_of_the_trees_is_told() {
        type Change = fn(&Path);
        let changes: [(Change, &str); 6] = [
            (
                |etc| fs::write(etc.join("x"), "2\n\u{1b}[31m\n").unwrap(),
                "etc/x: content, line 2: expected `\\u{1b}[31m\\n`, found the end",
            ),
            (
                |etc| fs::remove_file(etc.join("x")).unwrap(),
                "etc/x: kind: expected nothing, found a file",
            ),
            (
                |etc| fs::write(etc.join("y"), "").unwrap(),
                "etc/y: kind: expected a file, found nothing",
            ),
            (
                |etc| {
                    fs::remove_file(etc.join("link")).unwrap();
                    symlink("from", etc.join("link")).unwrap();
                },
                "etc/link: target of the link: expected from, found to",
            ),
            (
                |etc| {
                    fs::remove_file(etc.join("link")).unwrap();
                    fs::write(etc.join("link"), "to").unwrap();
                },
                "etc/link: kind: expected a file, found a link",
            ),
            (
                |etc| files::set_mode(&etc.join("x"), 0o755).unwrap(),
                "etc/x: mode and owner: expected 0755 0:0, found 0644 0:0",
            ),
        ];
        for (change, line) in changes {
            let dir = case(RIGHT);
            change(&dir.path().join("expected/etc"));
            assert_eq!(differences(dir.path()), [line]);
        }
    }

    #[test]
    fn packages_are_compared_by_meaning_only_where_the_case_says_so() {
        let text = "config a b\n  option 'c' \"d\"\n";
        let by_meaning = RIGHT.replacen('{', r#"{"compare": {"etc/p": "uci"}, "#, 1);
        for (expect, text, count) in [
            (RIGHT, text, 1),
            (&by_meaning, text, 0),
            (&by_meaning, "config a 'b'\n\toption c 'e'\n", 1),
            (&by_meaning, "config 'a\n", 1),
        ] {
            let dir = case(expect);
            fs::write(dir.path().join("expected/etc/p"), text).unwrap();
            assert_eq!(differences(dir.path()).len(), count, "{text}");
        }
    }

    #[test]
    fn a_description_that_makes_no_sense_is_refused() {
        for (expect, words) in [
            ("{}", "missing field `exit`"),
            (r#"{"exit": 0, "attics": []}"#, "unknown field `attics`"),
            (
                r#"{"exit": 0, "notices": [{"path": "x", "kind": "odd"}]}"#,
                "unknown variant `odd`",
            ),
        ] {
            let dir = case(expect);
            let DeskError::Description(error) = run_case(dir.path()).unwrap_err() else {
                panic!("{expect}");
            };
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(matches!(
            run_case(Path::new("/nowhere")).unwrap_err(),
            DeskError::Config(_)
        ));
    }

    #[test]
    fn what_a_refused_merge_would_have_done_counts_only_if_it_is_named() {
        let json = r#""policy": ["/etc/x auto conflict=fail"], "expect""#;
        let refused = |expect: &str| {
            let dir = case(expect);
            let place = dir.path().join("case.json");
            let text = fs::read_to_string(&place).unwrap();
            fs::write(&place, text.replacen(r#""expect""#, json, 1)).unwrap();
            differences(dir.path())
        };
        assert_eq!(refused(r#"{"exit": 3}"#), [""; 0]);
        assert_eq!(refused(r#"{"exit": 3, "conflicts": []}"#).len(), 1);
    }
}
