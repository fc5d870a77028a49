//! The layout `boot-part`: the boot loader of Linksys routers boots the one slot that it is told.
//!
//! | variable | value | whose |
//! | --- | --- | --- |
//! | `boot_part` | `1` or `2`: the first or the second slot of the board file boots | the boot loader's |
//! | `bootcmd` | where it is `run nandboot` (slot 1) or `run altnandboot` (slot 2), it goes with `boot_part` | the boot loader's |
//! | `auto_recovery` | `yes`: look at `boot_part`, and change sides after some boots that failed; always set | the boot loader's |
//! | `sysupgrade_slots` | the conditions of both slots, as digits: `9 3` | ours |
//!
//! These are the variables that OpenWrt's `linksys.sh` sets on mvebu and IPQ40xx. The `bootcmd` of IPQ40xx
//! finds the slot by `boot_part` itself, if `auto_recovery` is not `no`; it is left as it is, since there is
//! no `nandboot` to run. Where the two disagree `boot_part` counts, as in OpenWrt: with `auto_recovery` the
//! loader of mvebu changes `bootcmd` by it before it runs it. Each store makes them agree.
//!
//! # What this boot loader cannot do
//!
//! It knows no conditions. It counts boots in a place of its own, begins again when the system says that
//! it is up (OpenWrt's init script `bootcount`, at its end), and after about three that did not come so
//! far it boots the other slot from then on, and sets `boot_part`, **whatever is in that slot**. So:
//!
//! * Power may go at any time, as everywhere: what boots is the slot of `boot_part`, which is the running
//!   one until the commit, and the commit is one store.
//! * A slot that is being written is not chosen by a cut, but could be by three cuts in a row, each before
//!   the running system is up. It does not come up either, and after three more the good slot is back.
//! * The tries of a trial are the loader's. A new system that gets past its init scripts and fails later
//!   goes back by `confirm_within` alone; one that crashes each time after them and before that does not.
//! * That the loader went back is known by its traces: a slot that was on trial, and `boot_part` names the
//!   other one, which is good. No transition of [`crate::slots`] leaves that. It is read as the end of
//!   that trial.
//! * If it, or somebody else's upgrade, has changed to a slot that is unbootable here, that slot is read as
//!   on its last try: it is confirmed, or left, by whoever knows.
//!
//! All variables are in one store of the environment, so a cut leaves all old or all new, if it has two
//! copies. Linksys routers with NAND have one: see [`super::uboot_env`] for what that means.
//!
//! # The first time
//!
//! A router from the factory, or with plain OpenWrt, has no `sysupgrade_slots`. The slot of `boot_part` is
//! then good, since it is what boots; the other one is not bootable until something has been installed
//! into it: nobody here has proven what it holds. `boot_part` itself must be there.

use std::path::Path;

use super::BootError;
use super::order::wrong;
use crate::report::printable;
use crate::slots::{BootState, Condition, Slot};

const BOOT_PART: &str = "boot_part";
const BOOT_COMMAND: &str = "bootcmd";
const AUTO_RECOVERY: &str = "auto_recovery";
const SLOTS: &str = "sysupgrade_slots";

/// By slot.
const PARTS: [&str; 2] = ["1", "2"];
const COMMANDS: [&str; 2] = ["run nandboot", "run altnandboot"];

/// The variables that stand for a state; `get` knows the present values.
pub(super) fn variables(
    state: &BootState,
    get: impl Fn(&str) -> Option<Vec<u8>>,
) -> Vec<(String, String)> {
    // This loader passes no slot over, so it is told the one that is to boot.
    let boots = state.boot().0.index();
    let digits = state.conditions.map(Condition::digit);
    let mut variables = vec![
        (BOOT_PART, PARTS[boots].to_owned()),
        (SLOTS, format!("{} {}", digits[0], digits[1])),
        (AUTO_RECOVERY, "yes".to_owned()),
    ];
    let command = get(BOOT_COMMAND).unwrap_or_default();
    if COMMANDS.iter().any(|known| known.as_bytes() == command) {
        variables.push((BOOT_COMMAND, COMMANDS[boots].to_owned()));
    }
    let owned = |(name, value): (&str, String)| (name.to_owned(), value);
    variables.into_iter().map(owned).collect()
}

/// The state that the variables stand for; `store` is for messages.
pub(super) fn read(
    store: &Path,
    get: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<BootState, BootError> {
    let text = |name| get(name).map(|value| String::from_utf8_lossy(&value).into_owned());
    let Some(part) = text(BOOT_PART) else {
        return Err(wrong(store, BOOT_PART, "is missing"));
    };
    let slot = |slot: &Slot| PARTS[slot.index()] == part;
    let Some(boots) = Slot::ALL.into_iter().find(slot) else {
        let problem = format!("is `{}`, not 1 or 2", printable(&part));
        return Err(wrong(store, BOOT_PART, &problem));
    };
    let other = boots.other();
    let mut state = BootState {
        primary: boots,
        conditions: [Condition::Unbootable; 2],
    };
    let Some(slots) = text(SLOTS) else {
        state.conditions[boots.index()] = Condition::Good;
        return Ok(state);
    };
    let conditions = slots.split_once(' ').and_then(|(first, second)| {
        let [first, second] = [first, second].map(Condition::from_digit);
        Some([first?, second?])
    });
    state.conditions = conditions.ok_or_else(|| {
        let problem = format!("is `{}`, not two digits, 9 or 0 to 7", printable(&slots));
        wrong(store, SLOTS, &problem)
    })?;
    let trial_is_over = matches!(state.condition(other), Condition::Trial(_));
    if trial_is_over && state.condition(boots) == Condition::Good {
        state.primary = other;
        state.conditions[other.index()] = Condition::Unbootable;
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;
    use crate::slots::Standing;
    use crate::slots::model::{Event, System, World};

    type Variables = BTreeMap<String, String>;

    fn environment(variables: &[(&str, &str)]) -> Variables {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        variables.iter().map(owned).collect()
    }

    fn value(environment: &Variables, name: &str) -> Option<Vec<u8>> {
        environment
            .get(name)
            .map(|value| value.clone().into_bytes())
    }

    fn store(environment: &mut Variables, state: &BootState) {
        let new = variables(state, |name| value(environment, name));
        environment.extend(new);
    }

    fn load(environment: &Variables) -> Result<BootState, String> {
        read(Path::new("env"), |name| value(environment, name)).map_err(|error| error.to_string())
    }

    /// From the factory on.
    fn router() -> (Variables, World) {
        let variables = [
            (BOOT_PART, "1"),
            (BOOT_COMMAND, COMMANDS[0]),
            ("ethaddr", "02:00:00:00:00:01"),
        ];
        (environment(&variables), World::FACTORY)
    }

    /// What this boot loader does: it boots the slot that it is told, and counts elsewhere.
    fn boot(
        (mut environment, mut world): (Variables, World),
        failed_before: bool,
    ) -> (Variables, World) {
        let told = Slot::ALL
            .into_iter()
            .find(|slot| environment[BOOT_PART] == PARTS[slot.index()]);
        let told = told.expect("one of the two");
        world.running = if failed_before { told.other() } else { told };
        if failed_before {
            environment.insert(
                BOOT_PART.to_owned(),
                PARTS[world.running.index()].to_owned(),
            );
        }
        (environment, world)
    }

    #[test]
    fn whatever_happens_what_is_stored_is_read_back_and_no_half_written_system_boots() {
        let mut to_do = vec![router()];
        let mut seen = HashSet::new();
        let mut fell_back = 0;
        while let Some((environment, world)) = to_do.pop() {
            let state = load(&environment).expect("stored by us or by the loader");
            let world = world.with_state(state);
            if !seen.insert((environment.clone(), world)) {
                continue;
            }
            assert_eq!(environment["ethaddr"], "02:00:00:00:00:01");
            for (event, next) in world.next() {
                let mut environment = environment.clone();
                match event {
                    Event::Boot => {
                        let (environment, next) = boot((environment, world), false);
                        assert_ne!(next.system(next.running), System::Broken, "{world:?}");
                        to_do.push((environment, next));
                        continue;
                    }
                    Event::Overwrite | Event::Finish => {}
                    _ => {
                        let kept = next.state == state;
                        store(&mut environment, &next.state);
                        let after = load(&environment).expect("it was written so");
                        assert!(
                            kept || after == next.state,
                            "{event:?} of {world:?}: {after:?}"
                        );
                        let boots = next.state.boot().0.index();
                        assert_eq!(environment[BOOT_PART], PARTS[boots]);
                        assert_eq!(environment[BOOT_COMMAND], COMMANDS[boots]);
                    }
                }
                to_do.push((environment, next));
            }
            // A system that is not proven may fail each time.
            let running = world.running;
            let told = environment[BOOT_PART] == PARTS[running.index()];
            if told && world.system(running) == System::Whole {
                let (environment, back) = boot((environment, world), true);
                let state = load(&environment).expect("the loader wrote it");
                assert_ne!(back.system(back.running), System::Broken, "{world:?}");
                assert_eq!(state.boot().0, back.running, "{world:?}");
                if state.standing(back.running) == Standing::FellBack {
                    fell_back += 1;
                }
                to_do.push((environment, back));
            }
        }
        assert!(fell_back > 0, "no trial has ever failed");
        assert!(seen.len() > 20, "only {} states were seen", seen.len());
    }

    #[test]
    fn a_router_that_knows_nothing_of_us_runs_a_good_slot_and_can_boot_no_other() {
        for (part, primary) in [("1", Slot::First), ("2", Slot::Second)] {
            let state = load(&environment(&[(BOOT_PART, part)])).expect(part);
            assert_eq!(state.primary, primary);
            assert_eq!(state.condition(primary), Condition::Good);
            assert_eq!(state.condition(primary.other()), Condition::Unbootable);
            assert!(state.begin_install(primary).is_ok());
        }
    }

    #[test]
    fn only_a_boot_command_that_says_the_slot_is_changed_and_none_is_added() {
        let state = BootState {
            primary: Slot::Second,
            ..BootState::FACTORY
        };
        let state = BootState {
            conditions: [Condition::Good; 2],
            ..state
        };
        for (before, after) in [
            (Some("run nandboot"), Some("run altnandboot")),
            (Some("run altnandboot"), Some("run altnandboot")),
            (Some("bootipq"), Some("bootipq")),
            (Some("run nandboot; reset"), Some("run nandboot; reset")),
            (None, None),
        ] {
            let mut environment = environment(&[(BOOT_PART, "1")]);
            if let Some(command) = before {
                environment.insert(BOOT_COMMAND.to_owned(), command.to_owned());
            }
            store(&mut environment, &state);
            assert_eq!(environment.get(BOOT_COMMAND).map(String::as_str), after);
            assert_eq!(environment[BOOT_PART], "2");
        }
    }

    #[test]
    fn the_loader_is_told_to_look_at_the_slot_and_to_go_back_by_itself() {
        let mut environment = environment(&[(BOOT_PART, "1"), (AUTO_RECOVERY, "no")]);
        let trial = BootState::FACTORY.activate(Slot::First, 3);
        store(&mut environment, &trial.expect("it may begin"));
        assert_eq!(environment[AUTO_RECOVERY], "yes");
        assert_eq!(environment[SLOTS], "9 3");
    }

    #[test]
    fn a_variable_that_is_missing_or_makes_no_sense_is_refused_by_name() {
        for (part, slots, expected) in [
            (None, Some("9 0"), "boot_part: is missing"),
            (None, None, "boot_part: is missing"),
            (Some("0"), None, "boot_part: is `0`, not 1 or 2"),
            (Some("3"), Some("9 0"), "boot_part: is `3`, not 1 or 2"),
            (Some("1 "), Some("9 0"), "boot_part: is `1 `, not 1 or 2"),
            (Some(""), Some("9 0"), "boot_part: is ``, not 1 or 2"),
            (
                Some("1"),
                Some(""),
                "sysupgrade_slots: is ``, not two digits",
            ),
            (
                Some("1"),
                Some("9"),
                "sysupgrade_slots: is `9`, not two digits",
            ),
            (
                Some("1"),
                Some("9 8"),
                "sysupgrade_slots: is `9 8`, not two digits",
            ),
            (
                Some("1"),
                Some("9 0 0"),
                "sysupgrade_slots: is `9 0 0`, not two digits",
            ),
            (
                Some("1"),
                Some("90"),
                "sysupgrade_slots: is `90`, not two digits",
            ),
        ] {
            let mut environment = Variables::new();
            for (name, value) in [(BOOT_PART, part), (SLOTS, slots)] {
                environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
            }
            let problem = load(&environment).expect_err(expected);
            assert!(
                problem.starts_with(&format!("env: variable {expected}")),
                "{problem}"
            );
        }
    }
}
