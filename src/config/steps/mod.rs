//! Migrations: steps that bring a configuration to the form which the new image expects, and back.
//!
//! The same steps run, in the same order, on the old defaults and on the user's configuration, before
//! the two are merged with the new defaults. So what a step does looks like nobody's change.
//!
//! ```text
//! {"format": 1,
//!  "steps": [{"id": "filogic-wifi-path-soc", "component": "wireless", "seq": 20241208, "since": "24.10",
//!             "when": {"board": ["cudy,wr3000-v1"]},
//!             "steps": [{"op": "uci.map", "package": "wireless", "section": "@wifi-device", "option": "path",
//!                        "map": {"platform/18000000.wifi": "platform/soc/18000000.wifi"}}]}]}
//! ```
//!
//! # A step
//!
//! | field | meaning |
//! | --- | --- |
//! | `id` | its name for ever: a step is run once, and a backport has the same id |
//! | `component` | what it belongs to, for people |
//! | `seq` | its place in the one order of all steps; no two have the same |
//! | `since` | the first release whose defaults have the new form: on the first upgrade from a system that keeps no state, steps up to the old release count as run |
//! | `when.board` | list: only on one of these boards |
//! | `when.package` | only if this UCI package is there |
//! | `when.option` | `{package, section, option, value}`: only if a selected section has this value |
//! | `steps` | list of operations, run in this order |
//! | `back` | list of operations that undo it, instead of undoing each of `steps`, the last one first |
//! | `reversible` | false: there is no way back, the upgrade to an older image is refused; otherwise true |
//!
//! Guards are asked of the user's configuration, and hold for both trees. A step whose guards do not
//! hold is not run, and is asked again at the next upgrade.
//!
//! # Operations
//!
//! Sections are selected by `NAME`, `@TYPE`, `@TYPE[I]` (-1 is the last one) or `*`. An operation that
//! finds nothing to do does nothing, and doing it twice is doing it once.
//!
//! | `op` | fields | |
//! | --- | --- | --- |
//! | `uci.rename_option` | `package section from to` | if both are there, `to` wins |
//! | `uci.map` | `package section option map [to_option]` | `map`: table, or list of pairs, of old and new value; the new one is a text, a list, or null (or an empty list), which deletes the option; unknown values stay; in a list, items are mapped |
//! | `uci.to_list` | `package section option` | words become items |
//! | `uci.to_option` | `package section option` | items become words |
//! | `uci.set_type` | `package section type` | `section` is `@TYPE` |
//! | `uci.delete_option` | `package section option` | |
//! | `uci.set_default` | `package section option value` | only where it is absent |
//! | `uci.set_option` | `package section option value` | only where it is present |
//! | `uci.name_section` | `package section name` | the first selected one without a name; not if the name is taken |
//! | `uci.rename_section` | `package from to` | not if the name is taken |
//! | `uci.delete_section` | `package section` | `section` has no index |
//! | `uci.move_option` | `package section option to_section [to_package to_option to_type]` | the first value found moves, if the target has none; `to_type`: the target is made if it is absent |
//! | `uci.rename_package` | `from to` | not if there is one of that name |
//! | `uci.builtin` | `package name [params]` | `network.bridge-to-device`, see `builtin` |
//! | `text.replace_line` | `path match replace` | every line that is `match` |
//! | `text.ensure_line` | `path line` | appended to the file, unless it is in it |
//! | `text.delete_line` | `path match` | every line that is `match` |
//! | `file.move` | `from to` | a file or link; not onto something |
//! | `file.delete` | `path` | a file or link |
//! | `file.chmod` | `path mode` | `mode`: octal text |
//! | `file.fingerprint` | `path sha256` | a user's file with one of these sums (a list) is an old default: it counts as untouched |
//!
//! A package that cannot be parsed is left alone, in each tree by itself, and named in the report.
//!
//! # The way back
//!
//! Steps that the older image does not have are undone in reverse order, with the definitions and the
//! values from the `state`. What a step did not change is left alone then; a place that it did
//! change, and nobody since, gets exactly what was there; what was changed since is undone as far as
//! it tells how. Values that were deleted are kept up to 256 KiB in all; what did not fit is named.

mod builtin;
mod compile;
mod definition;
mod lines;
mod node;
mod op;
mod section;
mod side;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::config::EntryPath;
use crate::config::tree::{Content, Tree};
use crate::config::uci::Value;
use crate::files::FileError;

use definition::{Guards, Op, release};
use op::Turn;
use side::Side;
use state::{Attic, Kind, Owner};

pub use compile::{CompileError, compile};
pub(crate) use definition::Migration;
pub use definition::StepSet;
pub(crate) use state::{Applied, State};

/// Version of the format of steps and of the state. Any number but this one is refused: half of a
/// step is worse than none.
pub const FORMAT: i64 = 1;

/// Why steps cannot be read or run.
#[derive(Debug, Error)]
pub enum StepError {
    /// A file of a configuration.
    #[error(transparent)]
    File(#[from] FileError),
    /// No document at all.
    #[error("migration steps or their state cannot be read")]
    Syntax(#[source] serde_json::Error),
    /// More than any real one has.
    #[error("migration steps or their state are longer than {most} bytes")]
    TooLong {
        /// The bound.
        most: usize,
    },
    /// A document of another version of this program.
    #[error("migration steps or their state have format {found}, this program knows {FORMAT}")]
    Format {
        /// What the document says.
        found: i64,
    },
    /// Something around the steps.
    #[error("migration steps: {problem}")]
    Document {
        /// What is wrong.
        problem: String,
    },
    /// A step.
    #[error("migration step `{id}`: {problem}")]
    Definition {
        /// Which one.
        id: String,
        /// What is wrong, with the name of the field.
        problem: String,
    },
    /// Two steps with one name.
    #[error("migration step `{id}` is there twice")]
    Duplicate {
        /// The name.
        id: String,
    },
    /// A step that would have to be undone cannot be.
    #[error(
        "migration step `{id}` cannot be undone: go back to the slot that has the older system with \
         `sysupgrade-rs rollback`, or restore a configuration from before the upgrade"
    )]
    Irreversible {
        /// Which one.
        id: String,
    },
}

/// What steps may ask of the machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Facts {
    /// Names of the board.
    #[serde(rename = "board", deserialize_with = "one_or_many")]
    pub(crate) boards: Vec<String>,
    /// The release that the configuration comes from.
    pub(crate) from_release: Option<String>,
    /// Values that a step kept elsewhere, for [`Applied::with_facts`].
    #[serde(deserialize_with = "given")]
    pub(crate) attic: Vec<Given>,
}

/// A value that an earlier step replaced or deleted.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// Of which step; absent: of any that has to do with the option.
    id: Option<String>,
    package: String,
    /// Its name, or `@type[index]`.
    section: String,
    option: String,
    /// The user's.
    value: Option<Kind>,
    /// The old default.
    default: Option<Kind>,
}

impl Given {
    fn is_at(&self, path: &EntryPath) -> bool {
        let package = path.as_bytes().strip_prefix(b"etc/config/");
        package == Some(self.package.as_bytes())
    }
}

/// Values somebody wrote down by hand: a list of objects with `package` (or `path`), `section` and
/// `option` (or `locus`), or a table of them by `PACKAGE.SECTION.OPTION`; each with `value` and
/// `default`, and `id` if only one step is meant.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Given>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Values {
        List(Vec<Written>),
        Table(BTreeMap<String, Written>),
    }
    #[derive(Deserialize)]
    struct Written {
        #[serde(alias = "step")]
        id: Option<String>,
        package: Option<String>,
        path: Option<String>,
        section: Option<String>,
        option: Option<String>,
        locus: Option<String>,
        value: Option<Kind>,
        default: Option<Kind>,
    }
    let read = |place: Option<&str>, written: Written| {
        let path = written.path.as_deref();
        let (place_package, place_locus) = place.and_then(|place| place.split_once('.')).unzip();
        let package = written.package.as_deref();
        let package = package.or(path.and_then(|path| path.rsplit('/').next()));
        let locus = written.locus.as_deref().or(place_locus);
        let (locus_section, locus_option) = locus.and_then(|l| l.rsplit_once('.')).unzip();
        Some(Given {
            package: package.or(place_package)?.to_owned(),
            section: written.section.as_deref().or(locus_section)?.to_owned(),
            option: written.option.as_deref().or(locus_option)?.to_owned(),
            id: written.id,
            value: written.value,
            default: written.default,
        })
    };
    let given: Option<Vec<Given>> = match Values::deserialize(deserializer)? {
        Values::List(list) => list.into_iter().map(|one| read(None, one)).collect(),
        Values::Table(table) => {
            let pairs = table.into_iter();
            pairs.map(|(place, one)| read(Some(&place), one)).collect()
        }
    };
    given.ok_or_else(|| D::Error::custom("a value of `attic` lacks its package, section or option"))
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Names::deserialize(deserializer)? {
        Names::One(name) => vec![name],
        Names::Many(names) => names,
    })
}

/// Which steps an upgrade runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Due {
    /// Undone first, in this order.
    pub(crate) backward: Vec<Applied>,
    /// Then these count as run.
    pub(crate) assumed: Vec<Migration>,
    /// Then these are run, in this order.
    pub(crate) forward: Vec<Migration>,
}

impl Due {
    /// The first step that cannot be undone, but would have to be.
    pub(crate) fn blocked_by(&self) -> Option<&Migration> {
        let mut steps = self.backward.iter().map(|applied| &applied.step);
        steps.find(|step| !step.reversible)
    }
}

/// Compares what was run with what the image has. No state: the configuration comes from a system
/// that keeps none, whose release says what its defaults had already.
pub(crate) fn due(state: Option<&State>, image: &[Migration], facts: &Facts) -> Due {
    let applied = state.map_or(&[][..], |state| &state.applied);
    let has = |steps: &BTreeSet<&str>, step: &Migration| steps.contains(step.id.as_str());
    let in_image: BTreeSet<&str> = image.iter().map(|step| step.id.as_str()).collect();
    let in_state: BTreeSet<&str> = applied.iter().map(|one| one.step.id.as_str()).collect();

    let mut backward = applied.to_vec();
    backward.retain(|applied| !has(&in_image, &applied.step));
    backward.sort_by(|a, b| order(&b.step).cmp(&order(&a.step)));

    let mut forward = image.to_vec();
    forward.retain(|step| !has(&in_state, step));
    forward.sort_by(|a, b| order(a).cmp(&order(b)));
    let old = facts.from_release.as_deref().and_then(release);
    let old = old.filter(|_| state.is_none());
    let (assumed, forward) = forward.into_iter().partition(|step| {
        let since = step.since.as_deref().and_then(release);
        matches!((since, &old), (Some(since), Some(old)) if since <= *old)
    });
    Due {
        backward,
        assumed,
        forward,
    }
}

fn order(step: &Migration) -> (i64, &str) {
    (step.seq, &step.id)
}

/// Which way a step was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the newer form.
    Forward,
    /// To the older one.
    Backward,
}

/// What a step did to the user's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Which step.
    pub id: String,
    /// What it belongs to.
    pub component: String,
    /// Which way it was run.
    pub direction: Direction,
    /// Sorted: `PATH`, `PATH#SECTION` or `PATH#SECTION.OPTION`.
    pub touched: Vec<String>,
    /// Files that were left alone, because they cannot be read as what they should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<EntryPath>,
    /// Files of which something could not be kept for the way back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<EntryPath>,
}

/// Runs what is due, on both trees, and brings the state up to date. One report a step that was run.
///
/// # Errors
/// When a file cannot be read, or a step cannot be undone. The trees and the state are then of no
/// use: nothing may be made of them.
pub(crate) fn run(
    base: &mut Tree,
    user: &mut Tree,
    due: &Due,
    facts: &Facts,
    state: &mut State,
) -> Result<Vec<StepReport>, StepError> {
    if let Some(step) = due.blocked_by() {
        return Err(StepError::Irreversible {
            id: step.id.clone(),
        });
    }
    let mut reports = Vec::new();
    for applied in &due.backward {
        let report = StepRun::new(&applied.step, base, user).backward(applied)?;
        reports.push(report);
        state
            .applied
            .retain(|known| known.step.id != applied.step.id);
    }
    for step in &due.assumed {
        state.applied.push(Applied {
            step: step.clone(),
            attic: Vec::new(),
        });
    }
    let mut room = state.room();
    for step in &due.forward {
        let mut run = StepRun::new(step, base, user);
        if !run.guards_hold(&step.when, facts)? {
            continue;
        }
        let mut kept = Vec::new();
        let attic = Attic {
            kept: &mut kept,
            room: &mut room,
        };
        reports.push(run.forward(attic)?);
        state.applied.push(Applied {
            step: step.clone(),
            attic: kept,
        });
    }
    Ok(reports)
}

/// One step on both trees.
struct StepRun<'a> {
    step: &'a Migration,
    base: Side<'a>,
    user: Side<'a>,
}

impl<'a> StepRun<'a> {
    fn new(step: &'a Migration, base: &'a mut Tree, user: &'a mut Tree) -> Self {
        Self {
            step,
            base: Side::new(base),
            user: Side::new(user),
        }
    }

    fn guards_hold(&mut self, guards: &Guards, facts: &Facts) -> Result<bool, StepError> {
        let board = guards.boards.is_empty()
            || guards
                .boards
                .iter()
                .any(|board| facts.boards.contains(board));
        let package = guards.package.as_ref();
        if !board || !package.is_none_or(|path| self.user.is_file(path)) {
            return Ok(false);
        }
        let Some(guard) = &guards.option else {
            return Ok(true);
        };
        let Some(package) = self.user.package(&guard.path)? else {
            return Ok(false);
        };
        let sections = guard.section.select(&package).into_iter();
        let mut sections = sections.filter_map(|place| package.sections.get(place));
        Ok(sections.any(|section| match section.get(&guard.option) {
            Some(Value::One(value)) => *value == guard.value,
            _ => false,
        }))
    }

    fn forward(mut self, mut attic: Attic<'_>) -> Result<StepReport, StepError> {
        for (index, op) in self.step.steps.iter().enumerate() {
            self.on_both(op, index, Some(&mut attic))?;
        }
        Ok(self.report(Direction::Forward))
    }

    fn backward(mut self, applied: &Applied) -> Result<StepReport, StepError> {
        if let Some(back) = &self.step.back {
            for (index, op) in back.iter().enumerate() {
                self.on_both(op, index, None)?;
            }
            return Ok(self.report(Direction::Backward));
        }
        for (index, op) in self.step.steps.iter().enumerate().rev() {
            for (of, side) in [
                (Owner::Default, &mut self.base),
                (Owner::User, &mut self.user),
            ] {
                Turn { op, index, of }.backward(side, &applied.attic)?;
            }
        }
        Ok(self.report(Direction::Backward))
    }

    fn on_both(
        &mut self,
        op: &Op,
        index: usize,
        mut attic: Option<&mut Attic<'_>>,
    ) -> Result<(), StepError> {
        if let Op::Fingerprint { path, sums } = op {
            let entry = self.user.tree.get(path).cloned();
            if let Some(entry) = entry
                && matches!(entry.content, Content::File { sha256, .. } if sums.contains(&sha256))
            {
                self.base.tree.take(path, self.user.tree, path, entry.meta);
                self.user.touch(path, "");
            }
            return Ok(());
        }
        for (of, side) in [
            (Owner::Default, &mut self.base),
            (Owner::User, &mut self.user),
        ] {
            Turn { op, index, of }.forward(side, attic.as_deref_mut())?;
        }
        Ok(())
    }

    fn report(self, direction: Direction) -> StepReport {
        StepReport {
            id: self.step.id.clone(),
            component: self.step.component.clone(),
            direction,
            touched: self.user.touched.into_iter().collect(),
            skipped: self.user.skipped.into_iter().collect(),
            lost: self.user.lost.into_iter().collect(),
        }
    }
}
