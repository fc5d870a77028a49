//! The first boot of a new system.
//!
//! ```text
//! 1 where do we stand     not on trial: bring the records up to the boot state, done
//! 2 archive               the very bytes the install recorded, checked again
//! 3 merge                 into the overlay of this slot, as one transaction (`config::apply`)
//! 4 report                what became of every kept file
//! ```
//!
//! Run at every boot, early, before anything generates defaults. Power may go at any point: either
//! the configuration was not applied, and the next boot starts over from the archive, or it was.
//! Doing it twice is doing it once. The archive, the old slot and its configuration are only read.
//!
//! When it cannot be done the slot is given up, with the reason on record, and the caller reboots
//! into the old one. **Exit code 22 of the command means: reboot.** Any other failure is one of a
//! system that is not on trial; it goes on, since rebooting it would never end.

use std::io;
use std::path::Path;

use thiserror::Error;

use crate::config::ConfigError;
use crate::config::apply::{self, Inputs, Target, To};
use crate::config::report::Report;
use crate::data::{DataError, Installed, Stage, Update, What};
use crate::files;
use crate::install::describe;
use crate::machine::{Machine, MachineError};
use crate::slots::Standing;
use crate::trial;

/// What first boot did.
#[derive(Debug)]
pub enum FirstBoot {
    /// Nothing to do: no install of ours has put this slot on trial. With the message of a fall back noticed just now.
    Settled(Option<String>),
    /// The slot is on trial and its configuration was brought over before.
    AlreadyDone,
    /// The configuration was brought over.
    Applied(Box<Report>),
    /// The slot starts from its own defaults, as asked for.
    Defaults,
}

/// Why first boot did not work out.
#[derive(Debug, Error)]
pub enum FirstBootError {
    /// Boot state or records of a system that is not on trial, as far as can be known. It goes on: a
    /// reboot would change nothing.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// On trial, and nothing could be decided. Reboot: the next try may do better, and tries are
    /// counted.
    #[error("the first boot of slot {slot} failed, reboot to try again or go back")]
    Undecided {
        /// The slot.
        slot: String,
        /// What went wrong.
        #[source]
        source: MachineError,
    },
    /// The configuration could not be brought over and the slot was given up. Reboot.
    #[error(
        "version {version} cannot take over the configuration, slot {slot} is given up: reboot to go back"
    )]
    GivenUp {
        /// Version of this system.
        version: String,
        /// The slot.
        slot: String,
        /// What went wrong.
        #[source]
        source: ConfigError,
    },
}

/// The story.
///
/// # Errors
/// [`FirstBootError::GivenUp`] after the boot state has been changed to go back; otherwise nothing
/// was decided, and the next boot tries again.
pub fn first_boot(machine: &mut Machine) -> Result<FirstBoot, FirstBootError> {
    let state = machine.boot.load().map_err(MachineError::from)?;
    let on_trial = matches!(state.standing(machine.running), Standing::OnTrial(_));
    under_lock(machine).map_err(|error| match error {
        // A trial must not go on without its configuration, whatever was in the way.
        FirstBootError::Machine(source) if on_trial => FirstBootError::Undecided {
            slot: machine.name(machine.running).to_owned(),
            source,
        },
        decided => decided,
    })
}

fn under_lock(machine: &mut Machine) -> Result<FirstBoot, FirstBootError> {
    let _lock = machine.lock()?;
    let state = machine.boot.load().map_err(MachineError::from)?;
    let standing = state.standing(machine.running);
    let installed = machine.installed(machine.running);
    let installed = installed.map_err(MachineError::from)?;
    let stage = installed.map(|installed| installed.stage);
    let is_settled = stage.is_none_or(|stage| stage == Stage::Good);
    let never_started = stage == Some(Stage::Writing);
    let is_doubtful = match standing {
        // Power may have gone while this state was stored, or the one after it: it was read right this
        // time. It is made to be so the next time, before anything relies on it.
        Standing::Good | Standing::OnTrial(_) => !is_settled,
        // The boot loader went back in its own way, and may still count: see `boot::switch`. Or it has read
        // another state than the one that is read now.
        Standing::FellBack | Standing::GivenUp => true,
        _ => false,
    };
    if is_doubtful {
        machine.boot.store(&state).map_err(MachineError::from)?;
    }
    match standing {
        Standing::OnTrial(_) => on_trial(machine),
        // It runs for once, so it has its own configuration for once.
        Standing::GivenUp if never_started => on_trial(machine),
        _ => Ok(FirstBoot::Settled(trial::settle(machine, &state)?)),
    }
}

fn on_trial(machine: &mut Machine) -> Result<FirstBoot, FirstBootError> {
    let Some(installed) = machine
        .installed(machine.running)
        .map_err(MachineError::from)?
    else {
        return Ok(FirstBoot::Settled(None)); // not our trial: somebody else's boot script counts it
    };
    let overlay = machine.overlay(machine.running);
    let overlay = overlay.map_err(MachineError::from)?;
    match bring_over(machine, &installed, overlay.as_deref()) {
        Ok(done) => {
            note_start(machine, installed, &done).map_err(MachineError::from)?;
            Ok(done)
        }
        Err(source) => {
            let reason = format!(
                "its first boot could not take over the configuration: {}",
                describe(&source)
            );
            trial::go_back(machine, What::FirstBootFailed, &reason)?;
            Err(FirstBootError::GivenUp {
                version: installed.version,
                slot: machine.name(machine.running).to_owned(),
                source,
            })
        }
    }
}

/// Steps 2 and 3.
fn bring_over(
    machine: &Machine,
    installed: &Installed,
    overlay: Option<&Path>,
) -> Result<FirstBoot, ConfigError> {
    let Some(archive) = &installed.archive else {
        return match overlay {
            Some(overlay) => start_empty(overlay),
            None => Ok(FirstBoot::Defaults),
        };
    };
    let name = machine.name(machine.running);
    let open = || {
        let opened = machine.data.open_archive(name, archive);
        opened.map_err(|error| ConfigError::Read(io::Error::other(error)))
    };
    let target = match overlay {
        Some(overlay) => Target::Overlay(overlay),
        None => Target::InPlace(&machine.root),
    };
    let new_root = machine.defaults().unwrap_or_else(|| machine.root.clone());
    let inputs = Inputs {
        archive: &open,
        digest: archive.sha256,
        new_root: &new_root,
        to: To {
            version: &installed.version,
            compat: installed.compat.as_ref(),
        },
        target,
    };
    let report = apply::apply(&inputs)?;
    Ok(if report.already_done {
        FirstBoot::AlreadyDone
    } else {
        FirstBoot::Applied(Box::new(report))
    })
}

/// Without configuration the install has emptied the overlay. From here on an upper directory is
/// what this system has written itself.
fn start_empty(overlay: &Path) -> Result<FirstBoot, ConfigError> {
    let upper = overlay.join("upper");
    if !files::is_dir(&upper) {
        files::make_dirs(&upper, 0o755)?;
    }
    Ok(FirstBoot::Defaults)
}

/// What became of the kept files, in one line.
#[must_use]
pub fn summary(report: &Report) -> String {
    let counts: Vec<String> = report
        .summary
        .iter()
        .map(|(action, count)| format!("{count} {action}"))
        .collect();
    match counts.is_empty() {
        true => "no files".to_owned(),
        false => counts.join(", "),
    }
}

/// The trial has come this far: from here on a fall back is known not to be the kernel's fault.
fn note_start(
    machine: &Machine,
    mut installed: Installed,
    done: &FirstBoot,
) -> Result<(), DataError> {
    if installed.stage == Stage::Trial {
        return Ok(());
    }
    installed.stage = Stage::Trial;
    installed.note = None;
    let slot = machine.running;
    let name = machine.name(slot);
    let message = match done {
        FirstBoot::Applied(report) => format!(
            "version {} started in slot {name} with the configuration of version {}: {}",
            installed.version,
            installed.from_version.as_deref().unwrap_or("unknown"),
            summary(report),
        ),
        _ => format!("version {} started in slot {name}", installed.version),
    };
    let entry = machine.entry(What::FirstBoot, slot, Some(&installed.version), &message);
    machine.data.record(&Update {
        installed: vec![(name, &installed)],
        entry: Some(entry),
        ..Update::default()
    })
}
