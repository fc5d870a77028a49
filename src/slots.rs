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
//! | o | Good | Good | `Contradiction`: the boot loader would have booted `o` | o |
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
//! | [`begin_install`](BootState::begin_install) | r Good, not a contradiction | primary r, o Unbootable |
//! | [`activate`](BootState::activate) | r Good and primary, o Unbootable | primary o, o Trial(tries) |
//! | [`boot`](BootState::boot) | | the boot loader chose; a trial has one try less |
//! | [`confirm`](BootState::confirm) | r OnTrial (or Good: no change) | r Good |
//! | [`go_back`](BootState::go_back) from a trial | o Good | primary o, r Unbootable |
//! | `go_back` before the trial began | r Good, o Trial | primary r, o Unbootable |
//! | `go_back` from a confirmed slot | both Good | primary o, both Good |
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
                Condition::Good => Standing::Contradiction,
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
    /// [`TransitionError::OnTrial`] if `running` is unproven, [`TransitionError::Contradiction`] if
    /// the state could not have booted it.
    pub fn begin_install(self, running: Slot) -> Result<Self, TransitionError> {
        match self.standing(running) {
            Standing::Good | Standing::Pending(_) | Standing::FellBack => {
                Ok(self.with(running, running.other(), Condition::Unbootable))
            }
            Standing::OnTrial(_) => Err(TransitionError::OnTrial),
            Standing::GivenUp | Standing::Contradiction => Err(TransitionError::Contradiction),
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
    /// [`TransitionError::Contradiction`] if the running slot was given up or could not have booted.
    pub fn confirm(self, running: Slot) -> Result<Self, TransitionError> {
        match self.standing(running) {
            Standing::OnTrial(_) => Ok(self.with(running, running, Condition::Good)),
            Standing::Good | Standing::FellBack | Standing::Pending(_) => Ok(self),
            Standing::GivenUp | Standing::Contradiction => Err(TransitionError::Contradiction),
        }
    }

    /// The next boot is to be the other slot (or, before a committed trial began, to stay here).
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
            Standing::GivenUp => Ok(self),
            Standing::Good | Standing::FellBack | Standing::OnTrial(_) => {
                Err(TransitionError::NoWayBack)
            }
            Standing::Contradiction => Err(TransitionError::Contradiction),
        }
    }
}
