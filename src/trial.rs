//! The end of a trial: confirmed, or going back, and why.
//!
//! A trial that ended without a word is told of by the system that one comes back to. How far it came is
//! on record, and what became of it then may be known from what it left behind:
//!
//! ```text
//! record                           it came as far as        written
//! stage writing                    kernel, or init          by the install
//! stage trial                      its first boot           by first boot
//! stage trial, note WATCHED        its guard                by the guard, once
//!
//! dump of a kernel, new            it panicked              see `crate::postmortem`
//! status of the watchdog           it hung                  likewise
//! ```

use std::time::Duration;

use crate::data::{Installed, Stage, Update, What};
use crate::machine::{Machine, MachineError};
use crate::postmortem;
use crate::slots::{BootState, Condition, Slot, Standing};

/// What the record of a slot on trial notes once its guard has begun.
const WATCHED: &str = "the guard watches over it";

/// How the reason begins why an image failed that was never booted: somebody did not want it.
pub(crate) const CALLED_OFF: &str = "the trial was called off";

/// Ends the trial of the running slot as good: it boots uncounted from now on, its security number
/// becomes the floor, and the archive is not needed any more. Returns false if there was nothing
/// left to do.
///
/// The boot state goes first: it alone decides. Power lost after it leaves a record to tidy up,
/// which the next boot does ([`settle`]).
///
/// # Errors
/// When the state does not allow it or a medium fails; run again to finish.
pub fn confirm(machine: &mut Machine) -> Result<bool, MachineError> {
    let running = machine.running;
    let before = machine.boot.load()?;
    if let (Standing::OnTrial(_), Some(installed)) =
        (before.standing(running), machine.installed(running)?)
        && installed.stage == Stage::Writing
        && installed.archive.is_some()
    {
        return Err(MachineError::NoFirstBoot);
    }
    let after = machine.transit(|state| state.confirm(running))?;
    let recorded = confirm_records(machine)?;
    Ok(after != before || recorded)
}

/// Floor, archive, record and history of a running slot that has become good.
fn confirm_records(machine: &Machine) -> Result<bool, MachineError> {
    let slot = machine.running;
    let Some(mut installed) = machine.installed(slot)? else {
        return Ok(false);
    };
    if installed.stage == Stage::Good {
        return Ok(false);
    }
    // Before anything that may fail: a carrier at its end must not keep the floor down.
    machine.data.record(&Update {
        floor: Some(installed.security),
        ..Update::default()
    })?;
    machine.data.remove_archive(machine.name(slot))?;
    installed.stage = Stage::Good;
    installed.archive = None;
    installed.compat = None;
    installed.note = None;
    let message = format!(
        "version {} in slot {} is confirmed",
        installed.version,
        machine.name(slot)
    );
    let entry = machine.entry(What::Confirmed, slot, Some(&installed.version), &message);
    machine.data.record(&Update {
        installed: vec![(machine.name(slot), &installed)],
        entry: Some(entry),
        ..Update::default()
    })?;
    Ok(true)
}

/// Gives the running slot up, or takes a commit back before its trial began: the next boot is the
/// slot that this returns.
///
/// The reason is recorded before the boot state changes, so that the system one comes back to can
/// tell it. After a cut between the two the trial goes on.
///
/// # Errors
/// When there is no good slot to go back to, or a medium fails.
pub fn go_back(machine: &mut Machine, what: What, reason: &str) -> Result<Slot, MachineError> {
    let running = machine.running;
    let state = machine.boot.load()?;
    let after = state.go_back(running)?; // refused before anything is recorded
    let (left, message) = match state.standing(running) {
        Standing::Pending(_) => (machine.target(), format!("{CALLED_OFF}: {reason}")),
        Standing::Leaving => (
            machine.target(),
            format!("the change of slots was called off: {reason}"),
        ),
        _ => (running, reason.to_owned()),
    };
    let installed = machine.installed(left)?;
    let version = installed
        .as_ref()
        .map(|installed| installed.version.clone());
    let entry = machine.entry(what, left, version.as_deref(), &message);
    let failed = installed.filter(|_| after.condition(left) == Condition::Unbootable);
    let failed = failed.map(|installed| fail(installed, &message));
    machine.data.record(&Update {
        installed: failed
            .iter()
            .map(|failed| (machine.name(left), failed))
            .collect(),
        entry: Some(entry),
        ..Update::default()
    })?;
    machine.transit(|_| Ok(after))?;
    Ok(after.primary)
}

/// How long the running slot may run unconfirmed; `None` if it is not on trial (any more).
///
/// # Errors
/// When boot state or record cannot be read.
pub fn window(machine: &mut Machine) -> Result<Option<Duration>, MachineError> {
    let Standing::OnTrial(_) = machine.boot.load()?.standing(machine.running) else {
        return Ok(None);
    };
    let recorded = machine
        .installed(machine.running)?
        .map(|installed| installed.confirm_within);
    Ok(Some(recorded.map_or(
        machine.board.boot.confirm_within,
        Duration::from_secs,
    )))
}

/// Notes that the guard has begun to watch over the trial of the running slot: from here on a fall back
/// is known not to be the fault of an init that starts nothing. Once a trial; flash wears.
///
/// # Errors
/// When the records cannot be read or written, or another run holds the lock.
pub fn note_guard(machine: &Machine) -> Result<(), MachineError> {
    let _lock = machine.lock()?;
    let slot = machine.running;
    if let Some(mut installed) = machine.installed(slot)?
        && installed.stage == Stage::Trial
        && installed.note.is_none()
    {
        installed.note = Some(WATCHED.to_owned());
        machine.set_installed(slot, &installed)?;
    }
    Ok(())
}

/// The record of a system that did not become good, and why.
fn fail(mut installed: Installed, why: &str) -> Installed {
    installed.stage = Stage::Failed;
    installed.note = Some(why.to_owned());
    installed
}

/// Brings the records up to the boot state, once a boot: a trial that ended by itself is noted as a
/// fall back with its reason, and a confirm that was cut short is completed. Returns the message of
/// a fall back that was noticed now.
///
/// # Errors
/// When the records cannot be read or written.
pub fn settle(machine: &Machine, state: &BootState) -> Result<Option<String>, MachineError> {
    match state.standing(machine.running) {
        Standing::Good => {
            confirm_records(machine)?;
            Ok(None)
        }
        Standing::FellBack => note_fall_back(machine),
        _ => Ok(None),
    }
}

fn note_fall_back(machine: &Machine) -> Result<Option<String>, MachineError> {
    let slot = machine.target();
    let Some(installed) = machine.installed(slot)? else {
        return Ok(None);
    };
    let is_watched = installed.note.as_deref() == Some(WATCHED);
    let progress = match installed.stage {
        Stage::Writing => "it never got as far as its first boot",
        Stage::Trial if is_watched => {
            "it started, but was not confirmed before its tries were used up"
        }
        Stage::Trial => {
            "it started, but was not confirmed before its tries were used up, and its guard never began"
        }
        Stage::Good | Stage::Failed => return Ok(None),
    };
    // Without what the install saw, a dump of long ago would be blamed on it.
    let known = machine.data.before().ok().map(|before| before.crashes);
    let last_words = known.and_then(|known| postmortem::last_words(&machine.root, &known));
    let why = match last_words {
        // First what a short record must not cut off.
        Some(words) => format!("{words}; {progress}"),
        None if postmortem::was_reset_by_watchdog(&machine.root) => {
            format!("it hung, and the watchdog reset it; {progress}")
        }
        None if installed.stage == Stage::Writing => format!("{progress} (kernel, init or power)"),
        None => progress.to_owned(),
    };
    let version = installed.version.clone();
    let message = format!(
        "fell back to slot {}: version {version} in slot {} did not prove good: {why}",
        machine.name(machine.running),
        machine.name(slot),
    );
    let entry = machine.entry(What::FellBack, slot, Some(&version), &message);
    machine.data.record(&Update {
        installed: vec![(machine.name(slot), &fail(installed, &why))],
        entry: Some(entry),
        ..Update::default()
    })?;
    Ok(Some(message))
}
