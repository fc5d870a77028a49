//! The layout of a switch: one variable names the slot that boots, others are set along with it.
//!
//! Nearly every vendor's boot loader for U-Boot routers with two systems is of this kind. What differs is
//! data, in the board file ([`crate::board::Switch`]):
//!
//! ```toml
//! [boot.layout]
//! variable = "boot_part"                  # names the slot that boots
//! values = ["1", "2"]                     # so, for the first and the second slot of the board file
//! along = { auto_recovery = "yes", bootcmd = ["run nandboot", "run altnandboot"] }
//!
//! [boot.layout.counter]                   # of boot loaders that count boots of a slot on trial
//! armed = "upgrade_available"             # 1: count
//! count = "bootcount"                     # boots so far; the loader raises it before it boots
//! limit = "bootlimit"                     # more than so many: the other slot
//! fallback = "altbootcmd"                 # the command that boots the other slot; it must be there
//! ```
//!
//! | variable | value | whose |
//! | --- | --- | --- |
//! | `variable` | one of `values`: the slot that boots | the boot loader's |
//! | `along` | as the board file says, always or by the slot that boots | the boot loader's |
//! | `armed` | `1` exactly while the slot that boots is on trial, else `0` | the boot loader's |
//! | `count` | tries that are used up; `0` while nothing is on trial | the boot loader's |
//! | `limit` | `tries` of the board file | the boot loader's |
//! | `sysupgrade_slots` | the conditions of both slots, as digits: `9 3` | ours |
//!
//! All of them are in one store of the environment, so a cut leaves all old or all new, if it has two
//! copies. With one copy see [`super::uboot_env`] for what that means.
//!
//! # What is stored
//!
//! The loader passes no slot over, so the switch always names the slot that is to boot by
//! [`BootState::boot`]. A slot on trial is counted, a good one never. The digit of a slot on trial tells
//! what was left when it was written; what is left now tells the counter.
//!
//! A trial that is over has the digit `1`, and the switch names the other slot, which is good. No
//! transition of [`crate::slots`] leaves that otherwise, so it is also the trace of a loader that went
//! back by itself and changed the switch. One that went back and changed nothing is known by its counter.
//! Whichever it did, the old system stores what it found once ([`crate::first_boot`]): from then on it
//! boots because the switch says so, and uncounted.
//!
//! # What such boot loaders cannot do
//!
//! Without a counter they know no trial. Those of Linksys count boots in a place of their own, begin again
//! when the system says that it is up (OpenWrt's init script `bootcount`, at its end), and after about three
//! that did not come so far boot the other slot from then on and set `boot_part`, **whatever is in that
//! slot**. So:
//!
//! * Power may go at any time, as everywhere: what boots is the slot of the switch, which is the running
//!   one until the commit, and the commit is one store.
//! * A slot that is being written is not chosen by a cut, but could be by three cuts in a row, each before
//!   the running system is up. It does not come up either, and after three more the good slot is back.
//! * The tries of a trial are the loader's. A new system that gets past its init scripts and fails later
//!   goes back by `confirm_within` alone; one that crashes each time after them and before that does not.
//!
//! With a counter a trial is counted as everywhere, but:
//!
//! * A system of which a script says `upgrade_available 0` or `bootcount 0` before it has proven itself (OpenWrt's
//!   init script `bootcount` does, at its end) is not counted, or counted again: that script has to go. A
//!   slot on trial whose counter is not armed keeps the tries of its digit, and is left by
//!   `confirm_within`.
//! * A kernel that cannot be loaded at all is left only when the counter is used up, and only if the loader
//!   starts again by itself then.
//!
//! If the loader, or somebody else's upgrade, has changed to a slot that is unbootable here, that slot is
//! read as on its last try: it is confirmed, or left, by whoever knows.
//!
//! # The first time
//!
//! A router from the factory, or with plain OpenWrt, has no `sysupgrade_slots`. The slot of the switch is
//! then good, since it is what boots; the other one is not bootable until something has been installed
//! into it: nobody here has proven what it holds. The switch itself must be there, if the board file does
//! not say what the loader takes without it.

use std::path::Path;

use super::BootError;
use super::order::wrong;
use crate::board::{self, Counter};
use crate::report::printable;
use crate::slots::{BootState, Condition, MAX_TRIES, Slot};

/// Conditions of both slots.
const SLOTS: &str = "sysupgrade_slots";

/// The digit of a slot whose trial is over, where the switch names the other slot.
const OVER: Condition = Condition::Trial(1);

/// The layout of a board.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    board: board::Switch,
    /// Boots of a trial, where the loader counts.
    tries: u8,
}

impl Switch {
    /// As the board file has it.
    pub(super) fn new(board: board::Switch, tries: u8) -> Self {
        Self { board, tries }
    }

    /// The variables that stand for a state.
    pub(super) fn variables(&self, state: &BootState) -> Vec<(String, String)> {
        let boots = state.boot().0;
        let mut shown = *state;
        if state.primary != boots && state.condition(boots) == Condition::Good {
            shown.conditions[state.primary.index()] = OVER;
        }
        let [first, second] = shown.conditions.map(Condition::digit);
        let mut variables = vec![
            (
                self.board.variable.clone(),
                self.board.value(boots).to_owned(),
            ),
            (SLOTS.to_owned(), format!("{first} {second}")),
        ];
        for (name, value) in &self.board.along {
            variables.push((name.clone(), value.of(boots).to_owned()));
        }
        if let Some(counter) = &self.board.counter {
            let used = match state.condition(boots) {
                Condition::Trial(left) => Some(self.tries.saturating_sub(left)),
                Condition::Good | Condition::Unbootable => None,
            };
            let armed = u8::from(used.is_some()).to_string();
            variables.push((counter.armed.clone(), armed));
            variables.push((counter.count.clone(), used.unwrap_or(0).to_string()));
            if let Some(limit) = &counter.limit {
                variables.push((limit.clone(), self.tries.to_string()));
            }
        }
        variables
    }

    /// The state that the variables stand for; `store` is for messages.
    pub(super) fn read(
        &self,
        store: &Path,
        get: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<BootState, BootError> {
        let text = |name: &str| get(name).map(|value| String::from_utf8_lossy(&value).into_owned());
        let boots = self.switched(store, text)?;
        let other = boots.other();
        let mut state = BootState {
            primary: boots,
            conditions: [Condition::Unbootable; 2],
        };
        if let Some(counter) = &self.board.counter {
            self.check_fallback(counter, store, text)?;
        }
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
        match (state.condition(boots), state.condition(other)) {
            (Condition::Good, Condition::Trial(_)) => {
                state.primary = other;
                state.conditions[other.index()] = Condition::Unbootable;
            }
            (Condition::Trial(_), _) => {
                if let Some(counter) = &self.board.counter
                    && text(&counter.armed).as_deref() == Some("1")
                {
                    state.conditions[boots.index()] = self.left(counter, store, text)?;
                }
            }
            _ => {}
        }
        Ok(state)
    }

    /// The slot that the switch names.
    fn switched(
        &self,
        store: &Path,
        text: impl Fn(&str) -> Option<String>,
    ) -> Result<Slot, BootError> {
        let name = &self.board.variable;
        let Some(value) = text(name).or_else(|| self.board.absent.clone()) else {
            return Err(wrong(store, name, "is missing"));
        };
        let slot = |slot: &Slot| self.board.value(*slot) == value;
        Slot::ALL.into_iter().find(slot).ok_or_else(|| {
            let [first, second] = &self.board.values;
            let problem = format!("is `{}`, not {first} or {second}", printable(&value));
            wrong(store, name, &problem)
        })
    }

    /// Complains unless the loader knows what to do when the tries of a trial are used up: U-Boot stops
    /// at its prompt without it.
    fn check_fallback(
        &self,
        counter: &Counter,
        store: &Path,
        text: impl Fn(&str) -> Option<String>,
    ) -> Result<(), BootError> {
        let Some(name) = &counter.fallback else {
            return Ok(());
        };
        if self.board.along.contains_key(name) || text(name).is_some() {
            return Ok(());
        }
        let problem = "is missing, so the boot loader could not go back from a trial";
        Err(wrong(store, name, problem))
    }

    /// What is left of a trial that is counted.
    fn left(
        &self,
        counter: &Counter,
        store: &Path,
        text: impl Fn(&str) -> Option<String>,
    ) -> Result<Condition, BootError> {
        let number = |name: &str| {
            let Some(value) = text(name) else {
                return Ok(None);
            };
            value.parse::<u32>().map(Some).map_err(|_| {
                let problem = format!("is `{}`, not a number", printable(&value));
                wrong(store, name, &problem)
            })
        };
        let limit = match &counter.limit {
            // The scripts of `board/u-boot` allow no try without it.
            Some(name) => number(name)?.unwrap_or(0),
            None => self.tries.into(),
        };
        let count = number(&counter.count)?.unwrap_or(0);
        let left = limit.saturating_sub(count).min(MAX_TRIES.into());
        Ok(match u8::try_from(left) {
            Ok(0) | Err(_) => Condition::Unbootable,
            Ok(left) => Condition::Trial(left),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;
    use crate::slots::Standing;
    use crate::slots::model::{Event, System, World, assert_a_way_home};
    use crate::toml_text;

    type Variables = BTreeMap<String, String>;

    const TRIES: u8 = 3;

    /// Linksys, Marvell.
    const PLAIN: &str = "
        variable = 'boot_part'
        values = ['1', '2']
        along = { bootcmd = ['run nandboot', 'run altnandboot'], auto_recovery = 'yes' }
    ";

    /// U-Boot with a counter.
    const COUNTED: &str = "
        variable = 'active'
        values = ['0', '1']
        absent = '0'
        [counter]
        armed = 'upgrade_available'
        count = 'bootcount'
        limit = 'bootlimit'
        fallback = 'altbootcmd'
    ";

    /// How a loader changes sides.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Loader {
        /// It counts in a place of its own, and sets the switch.
        Apart,
        /// Each time anew: nothing is stored but the counter.
        EachTime,
        /// It sets the switch and ends the trial.
        ForGood,
        /// It sets the switch, clears the counter, and goes on counting.
        StillCounting,
    }

    fn switch(text: &str) -> Switch {
        Switch::new(toml_text::read(text).expect(text), TRIES)
    }

    fn environment(variables: &[(&str, &str)]) -> Variables {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        variables.iter().map(owned).collect()
    }

    fn load(switch: &Switch, environment: &Variables) -> Result<BootState, String> {
        let value = |name: &str| {
            environment
                .get(name)
                .map(|value| value.clone().into_bytes())
        };
        let state = switch.read(Path::new("env"), value);
        state.map_err(|error| error.to_string())
    }

    fn store(switch: &Switch, environment: &mut Variables, state: &BootState) {
        environment.extend(switch.variables(state));
    }

    fn told(switch: &Switch, environment: &Variables) -> Slot {
        let slot = Slot::ALL
            .into_iter()
            .find(|slot| environment[&switch.board.variable] == switch.board.value(*slot));
        slot.expect("one of the two")
    }

    /// What U-Boot with a counter does (`bootcount_inc` and `bootdelay_process` of its source), with the
    /// ways in which `altbootcmd` is written.
    fn boot(switch: &Switch, loader: Loader, environment: &mut Variables) -> Slot {
        let told = told(switch, environment);
        if environment.get("upgrade_available").map(String::as_str) != Some("1") {
            return told;
        }
        let number = |name| environment[name].parse::<u8>().expect("a number");
        let (count, limit) = (number("bootcount") + 1, number("bootlimit"));
        environment.insert("bootcount".to_owned(), count.to_string());
        if count <= limit {
            return told;
        }
        let back = switch.board.value(told.other()).to_owned();
        let changes: &[(&str, &str)] = match loader {
            Loader::EachTime | Loader::Apart => &[],
            Loader::ForGood => &[
                ("active", &back),
                ("bootcount", "0"),
                ("upgrade_available", "0"),
            ],
            Loader::StillCounting => &[("active", &back), ("bootcount", "0")],
        };
        environment.extend(self::environment(changes));
        told.other()
    }

    /// Visits every machine that can come out of this one by any sequence of events.
    fn explore(switch: &Switch, loader: Loader, factory: Variables) -> usize {
        let mut to_do = vec![(factory, World::FACTORY)];
        let mut seen = HashSet::new();
        let mut fell_back = 0;
        while let Some((environment, world)) = to_do.pop() {
            let state = load(switch, &environment).expect("stored by us or by the loader");
            let world = world.with_state(state);
            if !seen.insert((environment.clone(), world)) {
                continue;
            }
            assert_eq!(environment["ethaddr"], "02:00:00:00:00:01");
            let is_on_trial = matches!(state.condition(state.boot().0), Condition::Trial(_));
            let is_counted = environment.get("upgrade_available").map(String::as_str) == Some("1");
            let has_used_all = state.standing(world.running) == Standing::OnTrial(0);
            assert!(
                loader == Loader::Apart || is_on_trial == is_counted || has_used_all,
                "{loader:?}: {world:?} with {environment:?}"
            );
            let mut boots = Vec::new();
            for (event, next) in world.next() {
                let mut environment = environment.clone();
                match event {
                    Event::Boot => {
                        let running = boot(switch, loader, &mut environment);
                        boots.push((environment, World { running, ..world }));
                        continue;
                    }
                    Event::Activate(tries) if tries > TRIES => continue,
                    Event::Overwrite | Event::Finish => {}
                    _ => {
                        store(switch, &mut environment, &next.state);
                        let after = load(switch, &environment).expect("it was written so");
                        assert_eq!(after, next.state, "{event:?} of {world:?}");
                        assert_eq!(told(switch, &environment), next.state.boot().0);
                    }
                }
                to_do.push((environment, next));
            }
            // A system that is not proven may fail each time, and the loader may count that elsewhere.
            if loader == Loader::Apart
                && told(switch, &environment) == world.running
                && world.system(world.running) == System::Whole
            {
                let mut environment = environment.clone();
                let running = world.running.other();
                let part = switch.board.value(running).to_owned();
                environment.insert(switch.board.variable.clone(), part);
                boots.push((environment, World { running, ..world }));
            }
            for (mut environment, next) in boots {
                assert_ne!(next.system(next.running), System::Broken, "{world:?}");
                let after = load(switch, &environment).expect("the loader wrote it");
                if loader != Loader::Apart {
                    assert_eq!((next.running, after), state.boot(), "{world:?}");
                    assert_a_way_home(world);
                }
                // First boot stores what it finds, unless power goes before.
                let fallen = after.standing(next.running) == Standing::FellBack;
                if !fallen {
                    to_do.push((environment.clone(), next));
                }
                store(switch, &mut environment, &after);
                assert_eq!(load(switch, &environment), Ok(after), "{world:?}");
                fell_back += usize::from(fallen);
                to_do.push((environment, next));
            }
        }
        assert!(fell_back > 0, "no trial has ever failed");
        seen.len()
    }

    #[test]
    fn whatever_happens_what_is_stored_is_read_back_and_no_half_written_system_boots() {
        let factory = [("ethaddr", "02:00:00:00:00:01"), ("boot_part", "1")];
        let seen = explore(&switch(PLAIN), Loader::Apart, environment(&factory));
        assert!(seen > 20, "only {seen} states were seen");
    }

    #[test]
    fn a_loader_that_counts_counts_trials_alone_and_boots_what_the_model_of_slots_says() {
        for loader in [Loader::EachTime, Loader::ForGood, Loader::StillCounting] {
            let factory = [
                ("ethaddr", "02:00:00:00:00:01"),
                ("altbootcmd", "run other"),
            ];
            let mut factory = environment(&factory);
            factory.insert("active".to_owned(), "0".to_owned());
            let seen = explore(&switch(COUNTED), loader, factory);
            assert!(seen > 20, "{loader:?}: only {seen} states were seen");
        }
    }

    #[test]
    fn a_router_that_knows_nothing_of_us_runs_a_good_slot_and_can_boot_no_other() {
        for (part, primary) in [("1", Slot::First), ("2", Slot::Second)] {
            let state = load(&switch(PLAIN), &environment(&[("boot_part", part)])).expect(part);
            assert_eq!(state.primary, primary);
            assert_eq!(state.condition(primary), Condition::Good);
            assert_eq!(state.condition(primary.other()), Condition::Unbootable);
            assert!(state.begin_install(primary).is_ok());
        }
        let nothing = environment(&[("altbootcmd", "run other")]);
        let state =
            load(&switch(COUNTED), &nothing).expect("the board file says what it stands for");
        assert_eq!(state, BootState::FACTORY);
    }

    #[test]
    fn what_goes_along_is_set_by_the_slot_or_always() {
        let mut environment = environment(&[("boot_part", "1"), ("auto_recovery", "no")]);
        let trial = BootState::FACTORY.activate(Slot::First, 3);
        store(
            &switch(PLAIN),
            &mut environment,
            &trial.expect("it may begin"),
        );
        let expected = [
            ("auto_recovery", "yes"),
            ("boot_part", "2"),
            ("bootcmd", "run altnandboot"),
            (SLOTS, "9 3"),
        ];
        assert_eq!(environment, self::environment(&expected));
    }

    #[test]
    fn a_trial_is_counted_and_its_end_is_the_end_of_counting() {
        let switch = switch(COUNTED);
        let mut environment = environment(&[("altbootcmd", "run other"), ("bootlimit", "9")]);
        let counter = |environment: &Variables| {
            ["upgrade_available", "bootcount", "bootlimit"].map(|name| environment[name].clone())
        };
        let trial = BootState::FACTORY
            .activate(Slot::First, 2)
            .expect("it may begin");
        store(&switch, &mut environment, &trial);
        assert_eq!(counter(&environment), ["1", "1", "3"]);
        let good = trial
            .boot()
            .1
            .confirm(Slot::Second)
            .expect("it is on trial");
        store(&switch, &mut environment, &good);
        assert_eq!(counter(&environment), ["0", "0", "3"]);
        assert_eq!(environment["active"], "1");
    }

    #[test]
    fn a_trial_whose_counter_somebody_has_switched_off_is_a_trial_still() {
        let switch = switch(COUNTED);
        let mut environment = environment(&[("altbootcmd", "run other")]);
        let trial = BootState::FACTORY
            .activate(Slot::First, 3)
            .expect("it may begin");
        store(&switch, &mut environment, &trial);
        environment.insert("upgrade_available".to_owned(), "0".to_owned());
        environment.insert("bootcount".to_owned(), "0".to_owned());
        let state = load(&switch, &environment).expect("it makes sense");
        assert_eq!(state.standing(Slot::Second), Standing::OnTrial(3));
        store(&switch, &mut environment, &state);
        assert_eq!(environment["upgrade_available"], "1");
    }

    #[test]
    fn a_trial_that_is_counted_without_a_limit_has_no_try_left() {
        let switch = switch(COUNTED);
        for limit in [None, Some("0")] {
            let mut environment = environment(&[("altbootcmd", "run other"), ("active", "0")]);
            let trial = BootState::FACTORY.activate(Slot::First, 3);
            store(&switch, &mut environment, &trial.expect("it may begin"));
            environment.remove("bootlimit");
            environment.extend(limit.map(|limit| ("bootlimit".to_owned(), limit.to_owned())));
            let state = load(&switch, &environment).expect("it makes sense");
            assert_eq!(state.boot().0, Slot::First);
            assert_eq!(state.standing(Slot::Second), Standing::OnTrial(0));
        }
    }

    #[test]
    fn a_variable_that_is_missing_or_makes_no_sense_is_refused_by_name() {
        let counted = |changes: &[(&str, &str)]| {
            let mut variables = environment(&[
                ("active", "1"),
                (SLOTS, "9 3"),
                ("upgrade_available", "1"),
                ("altbootcmd", "run other"),
            ]);
            variables.extend(environment(changes));
            variables
        };
        for (text, variables, expected) in [
            (
                PLAIN,
                environment(&[(SLOTS, "9 0")]),
                "boot_part: is missing",
            ),
            (PLAIN, environment(&[]), "boot_part: is missing"),
            (
                PLAIN,
                environment(&[("boot_part", "0")]),
                "boot_part: is `0`, not 1 or 2",
            ),
            (
                PLAIN,
                environment(&[("boot_part", "1 ")]),
                "boot_part: is `1 `, not 1 or 2",
            ),
            (
                PLAIN,
                environment(&[("boot_part", "")]),
                "boot_part: is ``, not 1 or 2",
            ),
            (
                COUNTED,
                counted(&[("active", "2")]),
                "active: is `2`, not 0 or 1",
            ),
            (
                COUNTED,
                counted(&[("bootcount", "two")]),
                "bootcount: is `two`, not a number",
            ),
            (
                COUNTED,
                counted(&[("bootcount", "-1")]),
                "bootcount: is `-1`, not a number",
            ),
            (
                COUNTED,
                counted(&[("bootlimit", "3\x1b")]),
                "bootlimit: is `3\\u{1b}`, not",
            ),
            (
                COUNTED,
                environment(&[("active", "1")]),
                "altbootcmd: is missing, so the",
            ),
        ] {
            let problem = load(&switch(text), &variables).expect_err(expected);
            assert!(
                problem.starts_with(&format!("env: variable {expected}")),
                "{problem}"
            );
        }
        for slots in ["", "9", "9 8", "9 0 0", "90"] {
            let problem = load(&switch(COUNTED), &counted(&[(SLOTS, slots)])).expect_err(slots);
            let expected = format!("env: variable {SLOTS}: is `{slots}`, not two digits");
            assert!(problem.starts_with(&expected), "{problem}");
        }
    }
}
