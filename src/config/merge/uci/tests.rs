//! What the merge of UCI packages promises.

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
