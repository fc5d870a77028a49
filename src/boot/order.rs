//! The layout `order`: three variables say which slot boots.
//!
//! | variable | value |
//! | --- | --- |
//! | `BOOT_ORDER` | both slot names in upper case with a blank between: the primary slot first |
//! | `BOOT_A_LEFT` | one digit for slot `a`: `9` good, `1` to `7` boots left on trial, `0` passed over |
//! | `BOOT_B_LEFT` | the same for slot `b` |
//!
//! # A write that power interrupts
//!
//! Each value has the same width in every state, so a store that is not atomic by itself (GRUB's
//! block) replaces bytes in place and a cut leaves some bytes old and some new. That does no harm,
//! whatever the mix, because a condition is **one digit** and every transition of
//! [`crate::slots`] changes at most one of them:
//!
//! * A digit is old or new, never something between. A slot becomes bootable by one byte.
//! * `BOOT_ORDER` half written names one slot twice (`A A`) and the other not at all. The first
//!   mention counts and the slot that is not mentioned comes last, so this is one of the two orders.
//!   (It needs names that differ in one letter only; [`crate::board`] asks for that where the store
//!   is written in place.)
//! * So a mix is the old or the new order with the old or the new digit. Where a transition changes
//!   both, each of the four boots a whole slot. Activating a target: the new order with the old digit
//!   passes the target over; the old order with the new digit boots the running slot, which is good.
//!   Going back: the slot that is left is whole still.
//!
//! A test of `grub_env` makes all these mixes of all transitions that can happen, and goes on from
//! each.
//!
//! A variable that is missing or makes no sense is an error: nothing is assumed about a boot loader.

use std::path::Path;

use super::BootError;
use crate::report::printable;
use crate::slots::{BootState, Condition, Slot};

const ORDER: &str = "BOOT_ORDER";

/// What to do about variables that are missing or wrong.
pub(super) const HINT: &str = "`sysupgrade-rs doctor` explains";

/// A variable of the environment in `store` that makes no sense.
pub(super) fn wrong(store: &Path, name: &str, problem: &str) -> BootError {
    BootError::Variable {
        path: store.to_owned(),
        name: name.to_owned(),
        problem: format!("{problem}; {HINT}"),
    }
}

/// The layout for two slots of given names.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// In upper case, as they stand in the variables.
    names: [String; 2],
}

impl Order {
    /// For slots of these names, in the order of the board file.
    pub(crate) fn new(names: [String; 2]) -> Self {
        Self {
            names: names.map(|name| name.to_ascii_uppercase()),
        }
    }

    /// The variables that stand for a state, with their values.
    pub(crate) fn variables(&self, state: &BootState) -> [(String, String); 3] {
        let [first, second] = [state.primary, state.primary.other()].map(|slot| self.name(slot));
        let [a, b] = Slot::ALL.map(|slot| {
            let digit = state.condition(slot).digit();
            (self.left(slot), digit.to_string())
        });
        [(ORDER.to_owned(), format!("{first} {second}")), a, b]
    }

    /// The state that the variables stand for; `get` knows their values, `store` is for messages.
    pub(crate) fn read(
        &self,
        store: &Path,
        get: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<BootState, BootError> {
        let wrong = |name: &str, problem: String| wrong(store, name, &problem);
        let text = |name: &str| match get(name) {
            Some(value) => Ok(String::from_utf8_lossy(&value).into_owned()),
            None => Err(wrong(name, "is missing".to_owned())),
        };
        let order = text(ORDER)?;
        let mut mentioned = Vec::new();
        for word in order.split_ascii_whitespace() {
            let slot = Slot::ALL.into_iter().find(|slot| self.name(*slot) == word);
            mentioned.push(slot.ok_or_else(|| {
                let [a, b] = &self.names;
                let word = printable(word);
                wrong(ORDER, format!("names `{word}`, the slots are {a} and {b}"))
            })?);
        }
        let Some(primary) = mentioned.first().copied() else {
            return Err(wrong(ORDER, "names no slot".to_owned()));
        };
        let condition = |slot| {
            let name = self.left(slot);
            let value = text(&name)?;
            Condition::from_digit(&value).ok_or_else(|| {
                let value = printable(&value);
                wrong(&name, format!("is `{value}`, not 9 or 0 to 7"))
            })
        };
        Ok(BootState {
            primary,
            conditions: [condition(Slot::First)?, condition(Slot::Second)?],
        })
    }

    fn name(&self, slot: Slot) -> &str {
        &self.names[slot.index()]
    }

    fn left(&self, slot: Slot) -> String {
        format!("BOOT_{}_LEFT", self.name(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::model::all_states;

    fn order() -> Order {
        Order::new(["a".to_owned(), "b".to_owned()])
    }

    /// What is read of these values of BOOT_ORDER, BOOT_A_LEFT and BOOT_B_LEFT.
    fn read(values: [Option<&str>; 3]) -> Result<BootState, String> {
        let get = |name: &str| {
            let index = ["BOOT_ORDER", "BOOT_A_LEFT", "BOOT_B_LEFT"]
                .iter()
                .position(|n| *n == name);
            values[index.expect("no other variable is asked for")]
                .map(|value| value.as_bytes().to_vec())
        };
        order()
            .read(Path::new("env"), get)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_state_is_read_back_and_no_value_ever_changes_its_width() {
        let widths = |state: &BootState| {
            order()
                .variables(state)
                .map(|(name, value)| (name, value.len()))
        };
        for state in all_states() {
            let variables = order().variables(&state);
            let get = |name: &str| {
                let found = variables.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone().into_bytes())
            };
            let read = order()
                .read(Path::new("env"), get)
                .expect("it was written so");
            assert_eq!(read, state);
            assert_eq!(widths(&state), widths(&BootState::FACTORY));
        }
    }

    #[test]
    fn the_first_slot_mentioned_is_primary_however_often_and_the_other_need_not_be_mentioned() {
        for (text, primary) in [
            ("A B", Slot::First),
            ("A A", Slot::First),
            ("A", Slot::First),
            ("B B", Slot::Second),
            (" B  A ", Slot::Second),
            ("B A B", Slot::Second),
        ] {
            let state = read([Some(text), Some("9"), Some("0")]).expect(text);
            assert_eq!(state.primary, primary, "{text}");
        }
    }

    #[test]
    fn a_variable_that_is_missing_or_makes_no_sense_is_refused_by_name() {
        for (values, expected) in [
            ([None, Some("9"), Some("0")], "BOOT_ORDER: is missing"),
            ([Some("A B"), None, Some("0")], "BOOT_A_LEFT: is missing"),
            ([Some("A B"), Some("9"), None], "BOOT_B_LEFT: is missing"),
            (
                [Some(""), Some("9"), Some("0")],
                "BOOT_ORDER: names no slot",
            ),
            (
                [Some("A C"), Some("9"), Some("0")],
                "BOOT_ORDER: names `C`, the slots are A and B",
            ),
            (
                [Some("a b"), Some("9"), Some("0")],
                "BOOT_ORDER: names `a`, the slots are A and B",
            ),
            (
                [Some("A B"), Some("8"), Some("0")],
                "BOOT_A_LEFT: is `8`, not 9 or 0 to 7",
            ),
            (
                [Some("A B"), Some("9"), Some("")],
                "BOOT_B_LEFT: is ``, not 9 or 0 to 7",
            ),
            (
                [Some("A B"), Some("9"), Some("3\x1b")],
                "BOOT_B_LEFT: is `3\\u{1b}`, not 9 or 0 to 7",
            ),
        ] {
            let problem = read(values).expect_err(expected);
            assert_eq!(problem, format!("env: variable {expected}; {HINT}"));
        }
    }
}
