//! What the merge of UCI packages promises.

use std::fs;
use std::path::Path;

use super::*;

fn parsed(text: &str) -> Package {
    Package::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// What a merge came to, in a form that tests can write down.
#[derive(Debug, PartialEq)]
struct Outcome {
    text: String,
    /// `KIND LOCUS`
    conflicts: Vec<String>,
    /// Loci of what the user deleted and the image changed.
    notices: Vec<String>,
}

fn merged_for(
    package: &str,
    base: Option<&str>,
    user: &str,
    new: &str,
    winner: Winner,
) -> (Merged, Outcome) {
    let merged = merge(
        package,
        base.map(parsed).as_ref(),
        &parsed(user),
        &parsed(new),
        Hints::built_in(),
        &mut |_| winner,
    );
    let text = String::from_utf8(merged.package.print()).unwrap();
    assert_eq!(parsed(&text), merged.package, "it reads back:\n{text}");
    let conflict = |conflict: &Conflict| {
        assert_eq!(conflict.resolved, winner);
        let kind = serde_json::to_value(conflict.kind).unwrap();
        format!(
            "{} {}",
            kind.as_str().unwrap(),
            conflict.locus.clone().unwrap()
        )
    };
    let notice = |(kind, locus): &(NoticeKind, String)| {
        assert_eq!(*kind, NoticeKind::DeleteChange);
        locus.clone()
    };
    let outcome = Outcome {
        text,
        conflicts: merged.conflicts.iter().map(conflict).collect(),
        notices: merged.notices.iter().map(notice).collect(),
    };
    (merged, outcome)
}

/// Three packages of a name and what should come of them.
#[derive(Clone, Copy, Default)]
struct Case<'a> {
    package: &'a str,
    base: &'a str,
    user: &'a str,
    new: &'a str,
    /// By meaning.
    expected: &'a str,
    conflicts: &'a [&'a str],
    notices: &'a [&'a str],
}

impl Case<'_> {
    #[track_caller]
    fn check(self) {
        let (merged, outcome) = merged_for(
            self.package,
            Some(self.base),
            self.user,
            self.new,
            Winner::User,
        );
        assert_eq!(
            merged.package,
            parsed(self.expected),
            "found:\n{}\nexpected:\n{}",
            outcome.text,
            self.expected
        );
        assert_eq!(outcome.conflicts, self.conflicts);
        assert_eq!(outcome.notices, self.notices);
    }
}

#[test]
fn each_side_changes_another_option() {
    Case {
        base: "config dhcp lan\n option start 100\n option limit 150",
        user: "config dhcp lan\n option start 50\n option limit 150",
        new: "config dhcp lan\n option start 100\n option limit 100",
        expected: "config dhcp lan\n option start 50\n option limit 100",
        ..Case::default()
    }
    .check();
}

/// The recorded cases that need no migration: what the old image, the user and the new image have,
/// and what should come of them.
#[test]
fn the_recorded_cases_come_out_as_they_should() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/config");
    for (case, package) in [
        ("firewall-rules-and-order", "firewall"),
        ("firewall-user-orphaned", "firewall"),
        ("uci-add-add", "attendedsysupgrade"),
        ("uci-both-changed-clean", "dhcp"),
        ("uci-deleted-section", "network"),
        ("uci-list-three-way", "system"),
        ("uci-rewritten-not-changed", "uhttpd"),
        ("uci-same-option-conflict", "dhcp"),
        ("uci-unmodified-takes-new", "uhttpd"),
        ("uci-user-comments-kept", "ddns"),
        ("uci-user-edit-vendor-same", "uhttpd"),
    ] {
        let case = vectors.join(case);
        let tree = |tree: &str| {
            let path = case.join(tree).join("etc/config").join(package);
            fs::read_to_string(path).ok()
        };
        let base = tree("old-default");
        let (user, new) = (tree("user").unwrap(), tree("new-default").unwrap());
        let (merged, outcome) = merged_for(package, base.as_deref(), &user, &new, Winner::User);
        let expected = tree("expected").unwrap();
        assert_eq!(
            merged.package,
            parsed(&expected),
            "{}:\n{}",
            case.display(),
            outcome.text
        );

        let document = fs::read(case.join("case.json")).unwrap();
        let expect = &serde_json::from_slice::<serde_json::Value>(&document).unwrap()["expect"];
        let told = |what: &str, words: &[&str]| -> Vec<String> {
            let entries = expect[what].as_array().cloned().unwrap_or_default();
            let inside = entries.iter().filter(|entry| !entry["locus"].is_null());
            inside
                .map(|entry| {
                    let words = words.iter().map(|word| entry[*word].as_str().unwrap());
                    words.collect::<Vec<_>>().join(" ")
                })
                .collect()
        };
        assert_eq!(
            outcome.conflicts,
            told("conflicts", &["kind", "locus"]),
            "{}",
            case.display()
        );
        let mut notices = outcome.notices;
        let mut expected = told("notices", &["locus"]);
        notices.sort();
        expected.sort();
        assert_eq!(notices, expected, "{}", case.display());
    }
}
