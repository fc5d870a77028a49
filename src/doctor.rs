//! Looks at everything an upgrade relies on, and changes nothing; and makes the boot environment whole,
//! when somebody asks for that.

use std::path::Path;

use serde::Serialize;

use crate::board::Board;
use crate::boot::BootError;
use crate::data::{Update, What};
use crate::files;
use crate::install::describe;
use crate::machine::{Identity, Machine, MachineError};
use crate::report::printable;
use crate::slots::{BootState, Condition, Slot, Standing};
use crate::{system, watchdog};

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What it is.
    pub name: String,
    /// Whether it is as it must be.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// All checks, in the order in which they build on each other: where one of the first two fails,
/// what follows cannot be looked at.
#[must_use]
pub fn examine(root: &Path, board_file: Option<&Path>) -> Vec<Check> {
    let mut checks = Checks::default();
    let Some(board) = checks.of(
        "board file",
        system::read_board(root, board_file),
        describe_board,
    ) else {
        checks.hint("install the board file of this model, see board/");
        return checks.list;
    };
    let slots = board.slots.each_ref().map(|slot| slot.name.clone());
    let name = |slot: &Slot| format!("slot {}", slots[slot.index()]);
    if checks
        .of("running slot", system::running_slot(root, &board), name)
        .is_none()
    {
        checks.hint("the boot loader must pass the slot on the kernel command line");
        return checks.list;
    }
    match system::open(root, board) {
        Ok(mut machine) => examine_machine(&mut checks, &mut machine),
        Err(error) => checks.add("machine", false, describe(&error)),
    }
    checks.list
}

fn describe_board(board: &Board) -> String {
    format!(
        "{}, for images of {}",
        board.name,
        board.compatible.join(", ")
    )
}

fn examine_machine(checks: &mut Checks, machine: &mut Machine) {
    if let Some(state) = examine_environment(checks, machine) {
        let agree = !matches!(state.standing(machine.running), Standing::Contradiction);
        let boots = machine.name(state.boot().0).to_owned();
        let list = Slot::ALL
            .map(|slot| format!("{} {}", machine.name(slot), state.condition(slot)))
            .join("; ");
        checks.add(
            "slots agree",
            agree,
            format!("{list}; slot {boots} boots next"),
        );
        if !agree {
            checks.hint("the running slot was not booted from this environment: reboot, or repair the environment");
        }
    }
    examine_identity(checks, machine);
    if checks
        .of("trusted keys", system::open_trust(machine, 0), |trust| {
            format!(
                "{} keys, {} must sign, floor {}",
                trust.keys.len(),
                trust.threshold,
                trust.floor
            )
        })
        .is_none()
    {
        checks.hint(
            "put usign public keys, named by fingerprint, into the directories of the board file",
        );
    }
    let target = machine.target();
    for (part, device) in system::open_parts(machine, target) {
        let name = format!("part {part} of slot {}", machine.name(target));
        let capacity = device.map(|device| device.capacity());
        let room = |capacity: &u64| format!("room for {capacity} bytes");
        if checks.of(&name, capacity, room).is_none() {
            checks
                .hint("the media of the slot that does not run must exist and must not be mounted");
        }
    }
    for slot in Slot::ALL {
        let name = machine.name(slot);
        let (title, room) = match machine.data.is_shared() {
            true => ("data directory".to_owned(), "bytes free"),
            false => (format!("carrier of slot {name}"), "bytes for an archive"),
        };
        checks.of(&title, machine.data.room(name), |bytes| {
            format!("{}, {bytes} {room}", machine.data.archive_place(name))
        });
        if machine.data.is_shared() {
            break;
        }
    }
    examine_file_system(checks, machine);
    checks.of(
        "records",
        Slot::ALL
            .into_iter()
            .try_for_each(|slot| machine.installed(slot).map(drop)),
        |()| format!("readable, in {}", machine.data.records_place()),
    );
    checks.of("history", machine.data.history(), |history| {
        format!("{} entries", history.len())
    });
    examine_health(checks, machine);
    examine_watchdog(checks, machine);
}

/// FAT would give everybody the archive to read, and lose it together with the power.
fn examine_file_system(checks: &mut Checks, machine: &Machine) {
    let Some(data) = &machine.board.data else {
        return;
    };
    let dir = machine.at(&data.dir);
    if matches!(files::is_on_fat(&dir), Ok(true)) {
        let detail = format!("{} is on FAT", dir.display());
        checks.add("data directory", false, detail);
        checks.hint("it has to be on a file system with owners and permissions: ext4, F2FS, UBIFS");
    }
}

/// Without a check nobody but a person can tell that a new system is good.
fn examine_health(checks: &mut Checks, machine: &Machine) {
    const NAME: &str = "health checks";
    let dir = &machine.board.health.checks;
    let names = match machine.checks().names() {
        Ok(names) => names,
        Err(error) => return checks.add(NAME, false, describe(&error)),
    };
    if names.is_empty() {
        let detail = format!("none in {}: somebody has to confirm", dir.display());
        return checks.add(NAME, true, detail);
    }
    let cannot_run = |name: &&String| !files::is_program(&machine.checks().dir.join(name));
    let idle: Vec<&str> = names
        .iter()
        .filter(cannot_run)
        .map(String::as_str)
        .collect();
    if idle.is_empty() {
        let detail = format!("{} in {}: {}", names.len(), dir.display(), names.join(", "));
        checks.add(NAME, true, detail);
    } else {
        let detail = format!("cannot be run, in {}: {}", dir.display(), idle.join(", "));
        checks.add(NAME, false, detail);
        checks.hint(
            "make them executable, or take them away: they never work, so they excuse everything",
        );
    }
}

/// It is only asked for: to open it would make it tick.
fn examine_watchdog(checks: &mut Checks, machine: &Machine) {
    const NAME: &str = "watchdog";
    let Some(watchdog) = &machine.board.watchdog else {
        let detail = "none in the board file: a system that hangs is not reset".to_owned();
        return checks.add(NAME, true, detail);
    };
    let device = &watchdog.device;
    if !files::exists(&machine.at(device)) {
        checks.add(NAME, false, format!("there is no {}", device.display()));
        checks.hint("load its driver early, or name the device that this kernel has");
        return;
    }
    let detail = match watchdog::never_stops(&machine.root, device) {
        true => format!(
            "{}; this kernel never stops it (nowayout): somebody has to feed it after the guard",
            device.display()
        ),
        false => format!("{}, {} s", device.display(), watchdog.timeout.as_secs()),
    };
    checks.add(NAME, true, detail);
}

const REPAIR: &str = "`sysupgrade-rs doctor --repair-env` mends it";

/// The state, if it can be read: also of an environment that is damaged elsewhere, which is no reason to
/// look at nothing else.
fn examine_environment(checks: &mut Checks, machine: &mut Machine) -> Option<BootState> {
    const NAME: &str = "boot environment";
    let looked = machine.boot.load();
    let looked = looked.and_then(|state| Ok((state, machine.boot.flaws()?)));
    match looked {
        Ok((state, flaws)) => {
            match flaws.as_slice() {
                [] => checks.add(NAME, true, "readable and whole".into()),
                flaws => {
                    checks.add(NAME, false, flaws.join("; "));
                    checks.hint(REPAIR);
                }
            }
            Some(state)
        }
        Err(error) => {
            checks.add(NAME, false, describe(&error));
            match &error {
                BootError::Damaged { .. } | BootError::Variable { .. } => checks.hint(
                    "if the board file is right: `sysupgrade-rs doctor --repair-env` writes it anew, with this \
                     slot as the good one",
                ),
                error => error.hint().into_iter().for_each(|hint| checks.hint(hint)),
            }
            None
        }
    }
}

/// Makes the boot environment whole, and tells what was done, a sentence each; nothing if it is whole.
///
/// Its state stays as it can be read. If it cannot, the running slot is good and boots next, and the other
/// one is not bootable until something is installed into it: nobody knows better.
///
/// # Errors
/// [`MachineError::Busy`], and [`MachineError::Boot`] when the medium fails, or what the boot loader
/// needs is lost and nowhere to be had.
pub fn repair(machine: &mut Machine) -> Result<Vec<String>, MachineError> {
    let _lock = machine.lock()?;
    if let Ok(state) = machine.boot.load() {
        if machine.boot.flaws()?.is_empty() {
            // Made sure of, all the same: whoever wrote it may not have lived to sync it.
            machine.boot.store(&state)?;
            return Ok(Vec::new());
        }
        let done = machine.boot.repair(&state)?;
        return Ok(remember(machine, done));
    }
    let running = machine.running;
    let mut state = BootState {
        primary: running,
        conditions: [Condition::Unbootable; 2],
    };
    state.conditions[running.index()] = Condition::Good;
    let mut done = machine.boot.repair(&state)?;
    // Not all that may be wrong is of the state: a variable of the boot loader's that is missing still is.
    machine.boot.load()?;
    done.push(format!(
        "slot {}, which runs, is good; slot {} boots only when something has been installed into it",
        machine.name(running),
        machine.name(running.other())
    ));
    Ok(remember(machine, done))
}

/// Whoever wonders later why a slot is what it is finds this in the history.
fn remember(machine: &Machine, mut done: Vec<String>) -> Vec<String> {
    let message = format!("boot environment repaired: {}", done.join("; "));
    let update = Update {
        entry: Some(machine.entry(What::Repaired, machine.running, None, &message)),
        ..Update::default()
    };
    let recorded = machine.data.create();
    let recorded = recorded.and_then(|()| machine.data.record(&update));
    if let Err(error) = recorded {
        done.push(format!(
            "the history could not be written: {}",
            describe(&error)
        ));
    }
    done
}

/// A board file for another device would send its images, and writes, to the wrong places.
fn examine_identity(checks: &mut Checks, machine: &Machine) {
    let told = match Identity::read(&machine.root) {
        Ok(identity) => identity.board_name,
        Err(error) => return checks.add("device name", false, describe(&error)),
    };
    if let Some(name) = told {
        let ours = &machine.board.compatible;
        let agree = ours.contains(&name);
        let detail = format!(
            "{}; the board file is for {}",
            printable(&name),
            ours.join(", ")
        );
        checks.add("device name", agree, detail);
        if !agree {
            checks.hint("install the board file of this device, or add its name to `compatible`");
        }
    }
}

#[derive(Default)]
struct Checks {
    list: Vec<Check>,
}

impl Checks {
    fn add(&mut self, name: &str, ok: bool, detail: String) {
        self.list.push(Check {
            name: name.to_owned(),
            ok,
            detail,
            hint: None,
        });
    }

    fn hint(&mut self, hint: &str) {
        if let Some(last) = self.list.last_mut() {
            last.hint = Some(hint.to_owned());
        }
    }

    /// Notes a result, and hands on what was good.
    fn of<T, E: std::error::Error>(
        &mut self,
        name: &str,
        result: Result<T, E>,
        detail: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.add(name, true, detail(&value));
                Some(value)
            }
            Err(error) => {
                self.add(name, false, describe(&error));
                None
            }
        }
    }
}
