//! What becomes of a configuration, for people: before an upgrade and after it.
//!
//! ```text
//! needs your decision     disputes, with all values, who wins, and the word that changes it
//! will merge              what both sides changed, without a dispute
//! will follow the image   what the owner had not changed, or the policy gives to the image
//! yours, as they are      counted; named with -v
//! left behind             changed, but on no keep list
//! set aside               in the attic
//! services  steps  worth knowing  blocked
//! ```
//!
//! A group that is empty is not there. What comes from files is escaped; secrets are not in a
//! report, and [`difference`](crate::config::difference) withholds them elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::args::Settings;
use super::paint::Paint;
use crate::config::EntryPath;
use crate::config::decisions::place;
use crate::config::difference::{Difference, Differences};
use crate::config::forecast::Forecast;
use crate::config::report::{
    Action, Conflict, ConflictKind, NoticeKind, Renumbered, Report, ReportEntry, ServiceAction,
    Shown, Winner,
};
use crate::config::steps::{Direction, StepReport};
use crate::report::harmless;

/// Whether it is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tense {
    /// A plan.
    Future,
    /// A report.
    Past,
}

/// A report with what people want to see beside it.
pub(super) struct View<'a> {
    pub(super) report: &'a Report,
    pub(super) tense: Tense,
    /// Of disputed files: what the owner changed, and what the image changed.
    pub(super) differences: &'a Differences,
    /// Places about which the owner can decide now.
    pub(super) open: &'a BTreeSet<String>,
    /// Names all files, not only those that something happens to.
    pub(super) verbose: bool,
    pub(super) paint: Paint,
}

/// A unified diff for a terminal, each line with this indent.
pub(super) fn diff(paint: Paint, difference: &Difference, indent: &str) -> Vec<String> {
    match difference {
        Difference::Withheld(why) => vec![format!("{indent}not shown: {why}")],
        Difference::Lines(lines) => lines
            .lines()
            .map(|line| {
                let parts: Vec<String> = line.split('\t').map(harmless).collect();
                format!("{indent}{}", paint.diff_line(&parts.join("\t")))
            })
            .collect(),
    }
}

/// What will become of the configuration, with the words that decide about it.
pub(super) fn forecast(forecast: &Forecast, settings: &Settings) -> String {
    let disputes = forecast.disputes.iter();
    let open = disputes.map(|(path, locus, _)| place(path, locus.as_deref()));
    let view = View {
        report: &forecast.report,
        tense: Tense::Future,
        differences: &forecast.differences,
        open: &open.collect(),
        verbose: settings.verbosity > 1,
        paint: Paint::for_stdout(),
    };
    let mut text = view.text();
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(&view.paint.heading("space"));
    text.push_str(&format!("\n  {} bytes", forecast.space));
    if forecast.is_guess {
        text.push_str("\n\nthe image was made for a newer engine, which may decide otherwise");
    }
    text
}

impl View<'_> {
    /// All groups, without a newline at the end; empty if there is nothing to say.
    pub(super) fn text(&self) -> String {
        let past = self.tense == Tense::Past;
        let title = |future: &'static str, done| if past { done } else { future };
        let groups = [
            (title("blocked", "refused"), self.blocked()),
            (
                title("needs your decision", "wants your review"),
                self.disputes(),
            ),
            (title("will merge", "merged"), self.merged()),
            (
                title("will follow the image", "followed the image"),
                self.images(),
            ),
            (
                title("yours, as they are", "yours, as they were"),
                self.yours(),
            ),
            ("left behind", self.left_behind()),
            ("set aside", self.set_aside()),
            ("services", self.services()),
            ("steps", self.report.steps.iter().flat_map(step).collect()),
            ("worth knowing", self.worth_knowing()),
        ];
        let mut text = Vec::new();
        for (title, lines) in groups {
            if !lines.is_empty() {
                if !text.is_empty() {
                    text.push(String::new());
                }
                text.push(self.paint.heading(title));
                text.extend(lines.into_iter().map(|line| format!("  {line}")));
            }
        }
        text.join("\n")
    }

    fn blocked(&self) -> Vec<String> {
        let reasons = self.report.blocked.iter();
        reasons.map(|why| harmless(why)).collect()
    }

    /// Each dispute that nobody has decided.
    fn disputes(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in &self.report.entries {
            let undecided = entry.conflicts.iter().filter(|conflict| !conflict.decided);
            for conflict in undecided {
                self.dispute(&entry.path, conflict, &mut lines);
            }
        }
        lines
    }

    fn dispute(&self, path: &EntryPath, conflict: &Conflict, lines: &mut Vec<String>) {
        let place = place(path, conflict.locus.as_deref());
        let winner = match (conflict.resolved, self.tense) {
            (Winner::User, Tense::Future) => "yours stays",
            (Winner::User, Tense::Past) => "yours stayed",
            (Winner::New, Tense::Future) => "the new one is taken",
            (Winner::New, Tense::Past) => "the new one was taken",
        };
        let why = about(conflict.kind);
        lines.push(format!("/{}: {why}; {winner}", harmless(&place)));
        let values = [&conflict.default, &conflict.user, &conflict.new];
        if values.iter().any(|value| value.is_some()) {
            for (whose, value) in ["default", "yours", "new"].iter().zip(values) {
                lines.push(format!("    {whose:<8} {}", shown(value.as_ref())));
            }
        }
        if conflict.locus.is_none()
            && conflict.kind != ConflictKind::Mode
            && let Some(differences) = self.differences.get(path)
        {
            let [yours, images] = differences
                .each_ref()
                .map(|one| diff(self.paint, one, "    "));
            let once =
                matches!(differences, [Difference::Withheld(a), Difference::Withheld(b)] if a == b);
            lines.extend(yours);
            lines.extend(images.into_iter().filter(|_| !once));
        }
        if self.open.contains(&place) && conflict.kind != ConflictKind::Mode {
            let (other, word) = match conflict.resolved {
                Winner::User => ("to take the new one", "new"),
                Winner::New => ("to keep yours", "user"),
            };
            let word = quoted(&format!("{place}={word}"));
            lines.push(format!("    {other}: --resolve {word}"));
        }
    }

    /// Changed by both, and nothing is left to decide.
    fn merged(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in &self.report.entries {
            let merged = matches!(
                entry.action,
                Action::Merged | Action::ConflictUser | Action::ConflictNew
            );
            if !merged || entry.is_undecided() {
                continue;
            }
            lines.push(path(entry));
            for conflict in &entry.conflicts {
                let winner = match conflict.resolved {
                    Winner::User => "yours",
                    Winner::New => "new",
                };
                let place = conflict.locus.as_deref().unwrap_or("all of it");
                let place = harmless(place);
                lines.push(format!("    as you decided: {place}: {winner}"));
            }
        }
        lines
    }

    fn images(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in &self.report.entries {
            let what = match entry.action {
                Action::New => "new",
                Action::Updated => "changed",
                Action::Removed => "removed",
                Action::Restored => "you had deleted it",
                Action::Replaced => "always the image's, as the policy says",
                Action::Dropped => "never carried, as the policy says",
                _ => continue,
            };
            lines.push(format!("{}: {what}", path(entry)));
        }
        lines
    }

    fn yours(&self) -> Vec<String> {
        let mut by_word: BTreeMap<&str, Vec<&ReportEntry>> = BTreeMap::new();
        for entry in &self.report.entries {
            let word = match entry.action {
                Action::Kept => "changed by you",
                Action::UserAdded => "added by you",
                Action::StayDeleted => "deleted by you",
                Action::Converged => "changed by you, and by the image in the same way",
                Action::KeptOrphan if entry.conflicts.is_empty() => "no longer in the image",
                _ => continue,
            };
            by_word.entry(word).or_default().push(entry);
        }
        let mut lines = Vec::new();
        for (word, entries) in by_word {
            if self.verbose {
                lines.extend(
                    entries
                        .iter()
                        .map(|entry| format!("{}: {word}", path(entry))),
                );
            } else {
                lines.push(format!("{} {word}", entries.len()));
            }
        }
        lines
    }

    /// Out of scope. A notice tells of what a keep list should perhaps have named, an entry of all
    /// that was changed.
    fn left_behind(&self) -> Vec<String> {
        let noted = self.report.notices.iter();
        let noted = noted.filter(|notice| notice.kind == NoticeKind::NotKept);
        let entries = self.report.entries.iter();
        let entries = entries.filter(|entry| entry.action == Action::OutOfScope);
        let mut names: BTreeSet<String> = noted.map(|notice| notice.path.clone()).collect();
        names.extend(entries.map(|entry| entry.path.to_string()));
        let mut lines: Vec<String> = names
            .iter()
            .map(|name| format!("/{}", harmless(name)))
            .collect();
        if self.tense == Tense::Future && !lines.is_empty() {
            lines.push("to keep one of them: sysupgrade-rs config keep PATH".to_owned());
        }
        lines
    }

    fn set_aside(&self) -> Vec<String> {
        let paths = self.report.attic.iter();
        let mut lines: Vec<String> = paths
            .map(|path| format!("/{}", harmless(&path.to_string())))
            .collect();
        if !lines.is_empty() {
            lines.push(match self.tense {
                Tense::Future => "these versions of yours go to the attic".to_owned(),
                Tense::Past => "to get one back: sysupgrade-rs config attic get PATH".to_owned(),
            });
        }
        lines
    }

    fn services(&self) -> Vec<String> {
        let services = self.report.services.iter();
        services
            .map(|change| {
                let state = match change.action {
                    ServiceAction::Enabled => "starts at boot, as with you",
                    ServiceAction::Disabled => "does not start at boot, as with you",
                };
                format!("{}: {state}", harmless(&change.name))
            })
            .collect()
    }

    fn worth_knowing(&self) -> Vec<String> {
        let notices = self.report.notices.iter();
        let mut lines: Vec<String> = notices
            .filter(|notice| notice.kind != NoticeKind::NotKept)
            .map(|notice| harmless(&notice.to_string()))
            .collect();
        lines.extend(self.report.renumbered.iter().flat_map(renumbered));
        let cleared = self
            .report
            .entries
            .iter()
            .filter(|entry| entry.set_id_cleared);
        lines.extend(cleared.map(|entry| {
            format!(
                "{}: lost its set-user-id and set-group-id bits",
                path(entry)
            )
        }));
        lines
    }
}

fn path(entry: &ReportEntry) -> String {
    format!("/{}", harmless(&entry.path.to_string()))
}

fn about(kind: ConflictKind) -> &'static str {
    match kind {
        ConflictKind::BothChanged => "you and the image changed it",
        ConflictKind::AddAdd => "you and the image added it",
        ConflictKind::ChangeDelete => "you changed it, the image removed it",
        ConflictKind::Type => "you and the image have different kinds of entry there",
        ConflictKind::Mode => "you and the image changed its permissions",
        ConflictKind::Unmergeable => "you and the image changed it, and it cannot be merged",
    }
}

fn shown(value: Option<&Shown>) -> String {
    match value {
        None => "(none)".to_owned(),
        Some(Shown::Text(text)) => harmless(text),
        Some(Shown::List(items)) => {
            let items: Vec<String> = items.iter().map(|item| harmless(item)).collect();
            items.join(", ")
        }
        Some(Shown::Secret { .. }) => "(secret)".to_owned(),
    }
}

fn step(step: &StepReport) -> Vec<String> {
    let way = match step.direction {
        Direction::Forward => "",
        Direction::Backward => ", undone",
    };
    let (id, component) = (harmless(&step.id), harmless(&step.component));
    let what = match step.touched.is_empty() {
        true => ": nothing to do",
        false => "",
    };
    let mut lines = vec![format!("{id} ({component}){way}{what}")];
    lines.extend(
        step.touched
            .iter()
            .map(|place| format!("    /{}", harmless(place))),
    );
    let skipped = step
        .skipped
        .iter()
        .map(|path| (path, "cannot be read as what it should be; left alone"));
    let lost = step
        .lost
        .iter()
        .map(|path| (path, "something of it cannot be brought back"));
    lines.extend(
        skipped
            .chain(lost)
            .map(|(path, why)| format!("    /{}: {why}", harmless(&path.to_string()))),
    );
    lines
}

fn renumbered(account: &Renumbered) -> Vec<String> {
    let Renumbered {
        name,
        group,
        image,
        result,
        files,
    } = account;
    let what = if *group { "group" } else { "account" };
    let name = harmless(name);
    let mut lines = vec![format!(
        "{what} {name}: number {result}, in the image {image}"
    )];
    let wrong = files.iter().map(|path| harmless(&path.to_string()));
    lines.extend(wrong.map(|path| format!("    /{path}: belongs to number {image}")));
    lines
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", harmless(word).replace('\'', r"'\''"))
}
