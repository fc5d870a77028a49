//! How the machine stands, at a glance: one value, for people and programs.

use serde::Serialize;

use crate::board::Unsigned;
use crate::config::report::ReportEntry;
use crate::config::reports;
use crate::data::{Entry, Installed, Stage};
use crate::machine::{Machine, MachineError};
use crate::slots::{Condition, Standing};
use crate::trial;

/// The answer of `status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Name of the board.
    pub board: String,
    /// `good`, `pending`, `fell-back`, `leaving`, `on-trial`, `given-up` or `contradiction`.
    pub standing: &'static str,
    /// The slot that runs.
    pub running: SlotStatus,
    /// The slot that does not.
    pub other: SlotStatus,
    /// Name of the slot that boots next, if nothing is done.
    pub next_boot: String,
    /// Further boots that an unproven slot gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries_left: Option<u8>,
    /// Lowest security number that is accepted.
    pub floor: u64,
    /// Stock images that nobody has signed are installed.
    pub unsigned_allowed: bool,
    /// Why the system in the other slot was not kept, when it was tried and was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What happened last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Entry>,
    /// Kept files over which the owner and the new version disagreed when it took over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub review: Vec<ReportEntry>,
    /// What needs the owner's hand; empty when nothing does.
    pub to_do: Vec<String>,
}

/// One slot.
#[derive(Clone, Debug, Serialize)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// Version of what is in it, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the boot loader may do with it.
    pub condition: &'static str,
    /// In words.
    pub state: String,
}

/// Looks at boot state and records.
///
/// # Errors
/// When they cannot be read.
pub fn status(machine: &mut Machine) -> Result<Status, MachineError> {
    let state = machine.boot.load()?;
    let (running, other) = (machine.running, machine.target());
    let other_installed = machine.installed(other)?;
    let why = other_installed
        .as_ref()
        .filter(|_| state.condition(other) == Condition::Unbootable)
        .and_then(failure);
    let standing = match state.standing(running) {
        // The guard, or somebody, went back: the boot loader does not know of a trial any more.
        Standing::Good if why.is_some() => Standing::FellBack,
        standing => standing,
    };
    let (name, other_name) = (
        machine.name(running).to_owned(),
        machine.name(other).to_owned(),
    );
    let (word, tries_left, to_do) = match standing {
        Standing::Good => ("good", None, None),
        Standing::Pending(left) => (
            "pending",
            Some(left),
            Some(format!("reboot to start the trial of slot {other_name}")),
        ),
        Standing::FellBack => (
            "fell-back",
            None,
            Some(format!(
                "the upgrade in slot {other_name} failed; install a better image"
            )),
        ),
        Standing::Leaving => (
            "leaving",
            None,
            Some(format!(
                "reboot to change to slot {other_name}, or `sysupgrade-rs rollback` to stay"
            )),
        ),
        Standing::OnTrial(left) => (
            "on-trial",
            Some(left),
            Some(
                "`sysupgrade-rs confirm` if this system works, `sysupgrade-rs rollback` if not"
                    .into(),
            ),
        ),
        Standing::GivenUp => (
            "given-up",
            None,
            Some(format!("reboot: slot {other_name} takes over")),
        ),
        Standing::Contradiction => (
            "contradiction",
            None,
            Some("run `sysupgrade-rs doctor`".into()),
        ),
    };
    let running_version = machine.running_version()?;
    // Reports stay; only the one of this version's first boot is news. One that cannot be read is no
    // reason to say nothing of the rest.
    let report = reports::latest(&machine.root).ok().flatten();
    let report = report.filter(|report| report.to == running_version);
    let entries = report.map(|report| report.entries).unwrap_or_default();
    let review: Vec<_> = entries
        .into_iter()
        .filter(ReportEntry::is_undecided)
        .collect();
    let look =
        (!review.is_empty()).then(|| format!("look at {} kept files, see review", review.len()));
    Ok(Status {
        board: machine.board.name.clone(),
        standing: word,
        running: SlotStatus {
            name,
            version: Some(running_version),
            condition: condition_word(state.condition(running)),
            state: match standing {
                Standing::OnTrial(0) => "on trial, this is its last try".into(),
                _ => state.condition(running).to_string(),
            },
        },
        other: SlotStatus {
            name: other_name,
            version: other_installed
                .as_ref()
                .map(|installed| installed.version.clone()),
            condition: condition_word(state.condition(other)),
            state: other_state(state.condition(other), standing, other_installed.as_ref()),
        },
        next_boot: machine.name(state.boot().0).to_owned(),
        tries_left,
        floor: machine.data.floor()?,
        why: why.map(str::to_owned),
        unsigned_allowed: machine.board.trust.unsigned == Unsigned::Allow,
        last: machine.data.history()?.pop(),
        review,
        to_do: to_do.into_iter().chain(look).collect(),
    })
}

/// Why a system failed that was tried.
fn failure(installed: &Installed) -> Option<&str> {
    let why = installed.note.as_deref();
    why.filter(|why| installed.stage == Stage::Failed && !why.starts_with(trial::CALLED_OFF))
}

fn condition_word(condition: Condition) -> &'static str {
    match condition {
        Condition::Good => "good",
        Condition::Trial(_) => "trial",
        Condition::Unbootable => "unbootable",
    }
}

fn other_state(condition: Condition, standing: Standing, installed: Option<&Installed>) -> String {
    let Some(installed) = installed else {
        return match condition {
            Condition::Unbootable => "empty".into(),
            known => known.to_string(),
        };
    };
    match (condition, installed.stage) {
        (Condition::Unbootable, Stage::Failed) => {
            format!(
                "failed: {}",
                installed.note.as_deref().unwrap_or("reason unknown")
            )
        }
        (Condition::Unbootable, Stage::Writing) if standing != Standing::FellBack => {
            "unfinished: run the same command again to continue".into()
        }
        (Condition::Unbootable, _) => "not bootable".into(),
        (Condition::Good | Condition::Trial(_), _) => condition.to_string(),
    }
}
