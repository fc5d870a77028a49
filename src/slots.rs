//! Which of the two slots boots, and how that changes: pure values, no medium.
//!
//! The boot loader keeps one [`BootState`]: which slot is primary, and one [`Condition`] a slot.
//! Everything that may happen to it is a function here, the boot loader's own behaviour among them
//! ([`BootState::boot`]), so that a test can ask "what boots next?" of any state.
//!
//! # Conditions
//!
//! | condition | on the medium | the boot loader |
//! | --- | --- | --- |
//! | `Good` | `9` | boots it, counts nothing |
//! | `Trial(n)`, 1 to 7 | `n` | writes `n - 1` first, then boots it |
//! | `Unbootable` | `0` | passes it over |
//!
//! One digit holds all that is known of a slot, so the commit of an upgrade (`0` becomes `3`) is one
//! byte on the medium. A slot that runs its last try stands at `0` already: if power fails now, the
//! other slot boots. It is told from a slot that was given up by being primary still.
//!
//! # States, seen from the running slot `r` (the other is `o`)
//!
//! | primary | `r` | `o` | [`Standing`] | next boot |
//! | --- | --- | --- | --- | --- |
//! | r | Good | any | `Good` | r |
//! | o | Good | Trial(n) | `Pending`: committed and not rebooted yet, or `o` could not be loaded | o |
//! | o | Good | Unbootable | `FellBack`: the trial of `o` is over | r |
//! | o | Good | Good | `Leaving`: sent back and not rebooted yet, or `o` could not be loaded | o |
//! | r | Trial(n) | any | `OnTrial`, n further boots | r |
//! | r | Unbootable | any | `OnTrial`, this was the last one | o, if it is bootable |
//! | o | Trial(n) | any | `Contradiction` | |
//! | o | Unbootable | Good | `GivenUp`: going back at the next boot | o |
//! | o | Unbootable | not Good | `Contradiction` | |
//!
//! # Transitions
//!
//! | event | needs | after |
//! | --- | --- | --- |
//! | [`begin_install`](BootState::begin_install) | r Good, not Leaving | primary r, o Unbootable |
//! | [`activate`](BootState::activate) | r Good and primary, o Unbootable | primary o, o Trial(tries) |
//! | [`boot`](BootState::boot) | | the boot loader chose; a trial has one try less |
//! | [`confirm`](BootState::confirm) | r OnTrial (or Good: no change) | r Good |
//! | [`go_back`](BootState::go_back) from a trial | o Good | primary o, r Unbootable |
//! | `go_back` before the trial began | r Good, o Trial | primary r, o Unbootable |
//! | `go_back` from a confirmed slot | both Good | the other one primary, both Good |
//!
//! No event makes the running good slot worse while the other one is unproven: whatever happens on
//! the way to a confirmed slot, [`BootState::boot`] has a good slot to fall back to.

use std::fmt;

use thiserror::Error;

/// The most tries a trial may have: the GRUB script counts down through a chain of this length.
pub const MAX_TRIES: u8 = 7;

/// One of the two bootable systems of a machine, in the order of the board file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The first slot of the board file.
    First,
    /// The second slot of the board file.
    Second,
}

impl Slot {
    /// Both, in the order of the board file.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// The slot that this one is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// Position in the board file and in arrays with an entry a slot.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }
}

/// What the boot loader may do with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Proven: booted without counting.
    Good,
    /// May boot this many times more (1 to [`MAX_TRIES`]) before it is passed over.
    Trial(u8),
    /// Passed over: being written, given up, or its last try is running.
    Unbootable,
}

impl Condition {
    const GOOD_DIGIT: u8 = b'9';

    /// The digit that stands for this condition in a boot environment.
    #[must_use]
    pub fn digit(self) -> char {
        match self {
            Self::Good => Self::GOOD_DIGIT.into(),
            Self::Trial(left) => (b'0' + left.min(MAX_TRIES)).into(),
            Self::Unbootable => '0',
        }
    }

    /// Reads a digit; anything but `0` to `7` and `9` is `None`.
    #[must_use]
    pub fn from_digit(text: &str) -> Option<Self> {
        match text.as_bytes() {
            [b'0'] => Some(Self::Unbootable),
            [Self::GOOD_DIGIT] => Some(Self::Good),
            [digit @ b'1'..=b'7'] => Some(Self::Trial(digit - b'0')),
            _ => None,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("good"),
            Self::Trial(1) => f.write_str("on trial, 1 try left"),
            Self::Trial(left) => write!(f, "on trial, {left} tries left"),
            Self::Unbootable => f.write_str("not bootable"),
        }
    }
}

/// What the boot loader knows: the first slot to look at, and the condition of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootState {
    /// The slot the boot loader looks at first.
    pub primary: Slot,
    /// Condition of each slot, by [`Slot::index`].
    pub conditions: [Condition; 2],
}

/// Where the running slot stands; the table of the module has all cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Proven and primary.
    Good,
    /// Proven; the other slot has been committed for a trial with this many tries.
    Pending(u8),
    /// Proven; the other slot was tried and is out.
    FellBack,
    /// Proven; the other slot is good as well and boots next.
    Leaving,
    /// Not proven yet; this many further boots before the other slot takes over.
    OnTrial(u8),
    /// Given up; the next boot goes back to the other slot.
    GivenUp,
    /// The boot loader would not have booted this slot from this state.
    Contradiction,
}

/// A transition that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransitionError {
    /// The running slot is unproven: another upgrade now would leave no good slot.
    #[error("the running slot is still on trial")]
    OnTrial,
    /// The next boot is to be the other slot, which therefore cannot be written.
    #[error("the other slot is to boot next, and has not been booted yet")]
    Leaving,
    /// What runs is not what the boot environment would have booted.
    #[error("the boot environment would not have booted the running slot")]
    Contradiction,
    /// [`BootState::activate`] without a [`BootState::begin_install`] before it.
    #[error("the target slot is not held unbootable")]
    NotBegun,
    /// A number of tries outside 1 to [`MAX_TRIES`].
    #[error("{0} tries: 1 to 7 are possible")]
    Tries(u8),
    /// There is no other good slot to go back to.
    #[error("the other slot is not good, there is nothing to go back to")]
    NoWayBack,
}

impl TransitionError {
    /// What to do now.
    #[must_use]
    pub fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::OnTrial => "run `sysupgrade-rs confirm` or `sysupgrade-rs rollback` first",
            Self::Leaving => "reboot first, or run `sysupgrade-rs rollback` to stay here",
            Self::Contradiction | Self::NotBegun => "`sysupgrade-rs doctor` examines it",
            Self::NoWayBack => "install an image into it",
            Self::Tries(_) => return None,
        })
    }
}

impl BootState {
    /// A machine as it leaves the factory: the first slot runs, the second is empty.
    pub const FACTORY: Self = Self {
        primary: Slot::First,
        conditions: [Condition::Good, Condition::Unbootable],
    };

    /// Condition of one slot.
    #[must_use]
    pub fn condition(&self, slot: Slot) -> Condition {
        self.conditions[slot.index()]
    }

    fn with(mut self, primary: Slot, slot: Slot, condition: Condition) -> Self {
        self.primary = primary;
        self.conditions[slot.index()] = condition;
        self
    }

    /// What the boot loader does: the slot it boots, and the state it leaves behind **before** it
    /// jumps into that slot. With no bootable slot at all the primary is booted as a last resort,
    /// uncounted: a machine that starts something beats one that stops.
    #[must_use]
    pub fn boot(self) -> (Slot, Self) {
        for slot in [self.primary, self.primary.other()] {
            match self.condition(slot) {
                Condition::Good => return (slot, self),
                Condition::Trial(left) => {
                    let rest = match left {
                        0 | 1 => Condition::Unbootable,
                        _ => Condition::Trial(left - 1),
                    };
                    return (slot, self.with(self.primary, slot, rest));
                }
                Condition::Unbootable => {}
            }
        }
        (self.primary, self)
    }

    /// Where `running` stands in this state.
    #[must_use]
    pub fn standing(&self, running: Slot) -> Standing {
        let other = self.condition(running.other());
        match (self.condition(running), self.primary == running) {
            (Condition::Good, true) => Standing::Good,
            (Condition::Good, false) => match other {
                Condition::Trial(left) => Standing::Pending(left),
                Condition::Unbootable => Standing::FellBack,
                Condition::Good => Standing::Leaving,
            },
            (Condition::Trial(left), true) => Standing::OnTrial(left),
            (Condition::Unbootable, true) => Standing::OnTrial(0),
            (Condition::Unbootable, false) if other == Condition::Good => Standing::GivenUp,
            (Condition::Trial(_) | Condition::Unbootable, false) => Standing::Contradiction,
        }
    }

    /// The target (the slot that is not `running`) is about to be written: from here on it cannot
    /// be chosen. Power may go at any time after this; the running slot boots.
    ///
    /// # Errors
    /// [`TransitionError::OnTrial`] if `running` is unproven, [`TransitionError::Leaving`] if the
    /// other slot is to boot next, [`TransitionError::Contradiction`] if the state could not have
    /// booted `running`.
    pub fn begin_install(self, running: Slot) -> Result<Self, TransitionError> {
        match self.standing(running) {
            Standing::Good | Standing::Pending(_) | Standing::FellBack => {
                Ok(self.with(running, running.other(), Condition::Unbootable))
            }
            Standing::OnTrial(_) => Err(TransitionError::OnTrial),
            Standing::Leaving | Standing::GivenUp => Err(TransitionError::Leaving),
            Standing::Contradiction => Err(TransitionError::Contradiction),
        }
    }

    /// The one commit of an upgrade: the target is whole and proven on the medium, and boots next.
    ///
    /// # Errors
    /// [`TransitionError::NotBegun`] unless `running` is good and primary and the target is
    /// unbootable; [`TransitionError::Tries`].
    pub fn activate(self, running: Slot, tries: u8) -> Result<Self, TransitionError> {
        if !(1..=MAX_TRIES).contains(&tries) {
            return Err(TransitionError::Tries(tries));
        }
        let target = running.other();
        if self.standing(running) != Standing::Good
            || self.condition(target) != Condition::Unbootable
        {
            return Err(TransitionError::NotBegun);
        }
        Ok(self.with(target, target, Condition::Trial(tries)))
    }

    /// The running slot has proven good. Confirming a good slot changes nothing.
    ///
    /// # Errors
    /// [`TransitionError::Leaving`] if the running slot was given up,
    /// [`TransitionError::Contradiction`] if it could not have booted.
    pub fn confirm(self, running: Slot) -> Result<Self, TransitionError> {
        match self.standing(running) {
            Standing::OnTrial(_) => Ok(self.with(running, running, Condition::Good)),
            Standing::Good | Standing::FellBack | Standing::Pending(_) | Standing::Leaving => {
                Ok(self)
            }
            Standing::GivenUp => Err(TransitionError::Leaving),
            Standing::Contradiction => Err(TransitionError::Contradiction),
        }
    }

    /// The next boot is to be the other slot; or this one, if the other was to be booted next and
    /// has not been yet.
    ///
    /// # Errors
    /// [`TransitionError::NoWayBack`] if that slot is not good; [`TransitionError::Contradiction`].
    pub fn go_back(self, running: Slot) -> Result<Self, TransitionError> {
        let other = running.other();
        match self.standing(running) {
            Standing::Pending(_) => Ok(self.with(running, other, Condition::Unbootable)),
            Standing::OnTrial(_) if self.condition(other) == Condition::Good => {
                Ok(self.with(other, running, Condition::Unbootable))
            }
            Standing::Good if self.condition(other) == Condition::Good => {
                Ok(self.with(other, running, Condition::Good))
            }
            Standing::Leaving => Ok(self.with(running, running, Condition::Good)),
            Standing::GivenUp => Ok(self),
            Standing::Good | Standing::FellBack | Standing::OnTrial(_) => {
                Err(TransitionError::NoWayBack)
            }
            Standing::Contradiction => Err(TransitionError::Contradiction),
        }
    }
}

/// All that can happen to a machine, for the tests here and for those of the layouts.
#[cfg(test)]
pub(crate) mod model {
    use super::{BootState, Condition, MAX_TRIES, Slot, Standing};

    /// What lies in a slot.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) enum System {
        /// Nothing, or half of something.
        Broken,
        /// Written and proven against its signature; whether it works nobody knows.
        Whole,
        /// Confirmed.
        Proven,
    }

    /// A machine that runs.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct World {
        pub(crate) state: BootState,
        pub(crate) running: Slot,
        pub(crate) systems: [System; 2],
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Event {
        /// By whatever cause; the boot loader chooses.
        Boot,
        BeginInstall,
        /// The first byte of the target is overwritten.
        Overwrite,
        /// The last one is, and all were read back.
        Finish,
        Activate(u8),
        Confirm,
        GoBack,
    }

    impl World {
        pub(crate) const FACTORY: Self = Self {
            state: BootState::FACTORY,
            running: Slot::First,
            systems: [System::Proven, System::Broken],
        };

        pub(crate) fn system(&self, slot: Slot) -> System {
            self.systems[slot.index()]
        }

        fn with_system(mut self, slot: Slot, system: System) -> Self {
            self.systems[slot.index()] = system;
            self
        }

        /// The same machine with another boot state.
        pub(crate) fn with_state(self, state: BootState) -> Self {
            Self { state, ..self }
        }

        /// The machine after a boot.
        pub(crate) fn boot(self) -> Self {
            let (running, state) = self.state.boot();
            Self {
                state,
                running,
                ..self
            }
        }

        /// Everything that can happen next, refused transitions left out.
        pub(crate) fn next(self) -> Vec<(Event, Self)> {
            let Self { state, running, .. } = self;
            let target = running.other();
            let mut next = vec![(Event::Boot, self.boot())];
            let transitions = [
                (Event::BeginInstall, state.begin_install(running)),
                (Event::GoBack, state.go_back(running)),
            ];
            next.extend(
                transitions
                    .into_iter()
                    .filter_map(|(event, result)| Some((event, self.with_state(result.ok()?)))),
            );
            if let Ok(state) = state.confirm(running) {
                let proven = match self.system(running) {
                    System::Whole if state.condition(running) == Condition::Good => System::Proven,
                    system => system,
                };
                let world = self.with_state(state).with_system(running, proven);
                next.push((Event::Confirm, world));
            }
            // The install story writes, and activates, only what it holds unbootable.
            if state.standing(running) == Standing::Good
                && state.condition(target) == Condition::Unbootable
            {
                next.push((Event::Overwrite, self.with_system(target, System::Broken)));
                if self.system(target) == System::Broken {
                    next.push((Event::Finish, self.with_system(target, System::Whole)));
                } else {
                    next.extend((1..=MAX_TRIES).filter_map(|tries| {
                        let state = state.activate(running, tries).ok()?;
                        Some((Event::Activate(tries), self.with_state(state)))
                    }));
                }
            }
            next
        }
    }

    /// Visits every machine that can come out of the factory one by any sequence of events.
    /// `step` sees each machine once and answers with those that may follow.
    pub(crate) fn explore(mut step: impl FnMut(World) -> Vec<World>) {
        let mut seen = std::collections::HashSet::from([World::FACTORY]);
        let mut waiting = vec![World::FACTORY];
        while let Some(world) = waiting.pop() {
            for next in step(world) {
                if seen.insert(next) {
                    waiting.push(next);
                }
            }
        }
    }

    /// No boot ends in nothing, and within the tries of a trial a proven system boots and goes on
    /// booting, if nobody confirms or changes anything.
    pub(crate) fn assert_a_way_home(world: World) {
        let mut now = world;
        for _ in 0..=MAX_TRIES {
            now = now.boot();
            let system = now.system(now.running);
            assert_ne!(
                system,
                System::Broken,
                "{world:?} boots into nothing: {now:?}"
            );
            if system == System::Proven && now.state.condition(now.running) == Condition::Good {
                assert_eq!(now.boot(), now, "{world:?} comes home and does not stay");
                return;
            }
        }
        panic!("{world:?} never comes back to a proven system: {now:?}");
    }

    /// Every state there can be, reachable or not.
    pub(crate) fn all_states() -> impl Iterator<Item = BootState> {
        let conditions = || {
            (1..=MAX_TRIES)
                .map(Condition::Trial)
                .chain([Condition::Good, Condition::Unbootable])
        };
        Slot::ALL.into_iter().flat_map(move |primary| {
            conditions().flat_map(move |a| {
                conditions().map(move |b| BootState {
                    primary,
                    conditions: [a, b],
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::model::{Event, all_states, assert_a_way_home, explore};
    use super::*;

    /// The states as the table of the module has them, with the results of the transitions.
    /// Columns: primary, condition of `r`, of `o`; standing, next boot; then what `begin_install`,
    /// `activate`, `confirm` and `go_back` leave: the same three, or why not.
    const TABLE: &str = "
        r Good  Good  | Good          r | rGood/Unbootable  NotBegun      rGood/Good        oGood/Good
        r Good  Trial | Good          r | rGood/Unbootable  NotBegun      rGood/Trial       NoWayBack
        r Good  Unbootable | Good     r | rGood/Unbootable  oGood/Trial   rGood/Unbootable  NoWayBack
        o Good  Good  | Leaving       o | Leaving           NotBegun      oGood/Good        rGood/Good
        o Good  Trial | Pending       o | rGood/Unbootable  NotBegun      oGood/Trial       rGood/Unbootable
        o Good  Unbootable | FellBack r | rGood/Unbootable  NotBegun      oGood/Unbootable  NoWayBack
        r Trial Good  | OnTrial       r | OnTrial           NotBegun      rGood/Good        oUnbootable/Good
        r Trial Trial | OnTrial       r | OnTrial           NotBegun      rGood/Trial       NoWayBack
        r Trial Unbootable | OnTrial  r | OnTrial           NotBegun      rGood/Unbootable  NoWayBack
        r Unbootable Good  | OnTrial  o | OnTrial           NotBegun      rGood/Good        oUnbootable/Good
        r Unbootable Trial | OnTrial  o | OnTrial           NotBegun      rGood/Trial       NoWayBack
        r Unbootable Unbootable | OnTrial r | OnTrial       NotBegun      rGood/Unbootable  NoWayBack
        o Trial Good  | Contradiction o | Contradiction     NotBegun      Contradiction     Contradiction
        o Trial Trial | Contradiction o | Contradiction     NotBegun      Contradiction     Contradiction
        o Trial Unbootable | Contradiction r | Contradiction NotBegun     Contradiction     Contradiction
        o Unbootable Good  | GivenUp  o | Leaving           NotBegun      Leaving           oUnbootable/Good
        o Unbootable Trial | Contradiction o | Contradiction NotBegun     Contradiction     Contradiction
        o Unbootable Unbootable | Contradiction o | Contradiction NotBegun Contradiction    Contradiction
    ";

    /// The first word of a debug form: `Trial(3)` is a `Trial`.
    fn word(value: impl fmt::Debug) -> String {
        let text = format!("{value:?}");
        text.split('(').next().unwrap_or_default().to_owned()
    }

    fn seen_from(running: Slot, slot: Slot) -> &'static str {
        if slot == running { "r" } else { "o" }
    }

    fn row(state: BootState, r: Slot) -> String {
        let o = r.other();
        let result = |result: Result<BootState, TransitionError>| match result {
            Ok(after) => format!(
                "{}{}/{}",
                seen_from(r, after.primary),
                word(after.condition(r)),
                word(after.condition(o))
            ),
            Err(error) => word(error),
        };
        format!(
            "{} {} {} | {} {} | {} {} {} {}",
            seen_from(r, state.primary),
            word(state.condition(r)),
            word(state.condition(o)),
            word(state.standing(r)),
            seen_from(r, state.boot().0),
            result(state.begin_install(r)),
            result(state.activate(r, 3)),
            result(state.confirm(r)),
            result(state.go_back(r)),
        )
    }

    #[test]
    fn every_state_stands_and_moves_as_the_tables_say() {
        let rows: Vec<String> = TABLE
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|line| !line.is_empty())
            .collect();
        let mut used = vec![0; rows.len()];
        for state in all_states() {
            for running in Slot::ALL {
                let row = row(state, running);
                let index = rows.iter().position(|expected| *expected == row);
                used[index.unwrap_or_else(|| panic!("{state:?} is not in the table: {row}"))] += 1;
            }
        }
        assert!(
            used.iter().all(|count| *count > 0),
            "rows of no state: {used:?}"
        );
    }

    #[test]
    fn a_trial_has_one_try_less_after_each_boot_and_nothing_else_changes() {
        for state in all_states() {
            let (slot, after) = state.boot();
            let mut expected = state;
            if let Condition::Trial(left) = state.condition(slot) {
                expected.conditions[slot.index()] = match left {
                    1 => Condition::Unbootable,
                    _ => Condition::Trial(left - 1),
                };
            }
            assert_eq!(after, expected, "after a boot of {state:?}");
        }
    }

    #[test]
    fn tries_and_pending_boots_are_told_exactly() {
        let mut state = BootState::FACTORY
            .activate(Slot::First, 5)
            .expect("factory state");
        assert_eq!(state.standing(Slot::First), Standing::Pending(5));
        for left in (0..5).rev() {
            state = state.boot().1;
            assert_eq!(state.standing(Slot::Second), Standing::OnTrial(left));
        }
        assert_eq!(state.boot().0, Slot::First);
    }

    #[test]
    fn a_trial_needs_one_to_seven_tries() {
        for tries in 0..=u8::MAX {
            let result = BootState::FACTORY.activate(Slot::First, tries);
            let expected = (1..=MAX_TRIES).contains(&tries);
            assert_eq!(result.is_ok(), expected, "{tries} tries: {result:?}");
        }
    }

    #[test]
    fn one_digit_is_one_condition() {
        for state in all_states() {
            let condition = state.condition(Slot::First);
            let digit = condition.digit().to_string();
            assert_eq!(Condition::from_digit(&digit), Some(condition));
        }
        for text in ["", "8", "10", "03", " 3", "3 ", "-1", "a", "\u{663}"] {
            assert_eq!(Condition::from_digit(text), None, "{text:?}");
        }
    }

    #[test]
    fn whatever_happens_a_proven_system_boots_again() {
        let mut standings = BTreeSet::new();
        explore(|world| {
            assert_a_way_home(world);
            standings.insert(word(world.state.standing(world.running)));
            world.next().into_iter().map(|(_, next)| next).collect()
        });
        // All of them come about, but the one that says that it cannot.
        let expected = [
            "FellBack", "GivenUp", "Good", "Leaving", "OnTrial", "Pending",
        ];
        assert_eq!(standings, expected.map(str::to_owned).into());
    }

    #[test]
    fn no_event_harms_the_good_system_that_runs() {
        explore(|world| {
            let next = world.next();
            for (event, after) in &next {
                let running = world.running;
                if world.state.condition(running) == Condition::Good {
                    assert_eq!(
                        after.state.condition(running),
                        Condition::Good,
                        "{event:?} of {world:?}"
                    );
                    assert_eq!(
                        after.system(running),
                        world.system(running),
                        "{event:?} of {world:?}"
                    );
                }
                if *event == Event::BeginInstall {
                    let boots = after.state.boot();
                    assert_eq!(boots, (running, after.state), "{event:?} of {world:?}");
                }
            }
            next.into_iter().map(|(_, next)| next).collect()
        });
    }
}
