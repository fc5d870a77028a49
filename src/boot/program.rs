//! A program of the board's that keeps the boot state: for boot loaders whose store none of the other
//! backends knows.
//!
//! | it is called with | it gets on standard input | it prints on standard output |
//! | --- | --- | --- |
//! | `ARGUMENTS load` | | the boot state |
//! | `ARGUMENTS store` | the boot state | |
//! | `ARGUMENTS flaws` (may be missing) | | a list of what is damaged although the state can be read |
//! | `ARGUMENTS repair` (may be missing) | the boot state | a list of what was done |
//!
//! The boot state is one line of JSON, with the slots by name. What `store` and `repair` get has this
//! order and no blanks, so that a shell script can take it apart:
//!
//! ```text
//! {"primary":"a","slots":{"a":"good","b":{"trial":3}}}     good | unbootable | trial 1 to 7, see `crate::slots`
//! ["the second copy is torn"]                              sentences, lower case, no full stop
//! ```
//!
//! | exit code | means |
//! | ---: | --- |
//! | 0 | done. After `store` and `repair`: the medium holds it |
//! | 1 | failed while doing; the medium holds the old state or the new one |
//! | 2 | this verb is not known, or the input makes no sense; nothing was written |
//! | 30 | the state is damaged or missing; nothing was written |
//!
//! What it says on standard error is the reason, in one line. `store` is atomic: whatever instant power
//! goes at, the next `load` and the boot loader see the old state or the new one. It is never called
//! twice at a time by us.
//!
//! No shell is between, the environment has `PATH` and `SYSUPGRADE_ROOT` (where the root of the machine is
//! mounted, `/` on the machine itself), and the directory is `/`. After 30 s it is killed, with all
//! processes of its group. Nothing that it says is believed: after a `store` the state is loaded and
//! compared. `board/program` has an example, `scripts/conformance` tries a program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

use super::{BootError, Bootloader};
use crate::process::{self, End, Limits, Ran};
use crate::report::printable;
use crate::slots::{BootState, Condition, MAX_TRIES, Slot};

/// Flash is slow, and a store erases a block or two; no program needs this long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most that a program may print. A state has some hundred bytes.
const MAX_OUTPUT: usize = 64 << 10;

/// The verb is not known, or the input makes no sense.
const REFUSED: i32 = 2;

/// The state is damaged or missing.
const UNREADABLE: i32 = 30;

/// A program of the board's that keeps the boot state.
#[derive(Debug)]
pub struct Program {
    root: PathBuf,
    path: PathBuf,
    arguments: Vec<String>,
    names: [String; 2],
}

impl Program {
    /// This program, with these arguments before the verb, of the system whose root is at `root`. The
    /// names of the slots are in the order of the board file.
    #[must_use]
    pub fn new(root: &Path, path: PathBuf, arguments: Vec<String>, names: [String; 2]) -> Self {
        Self {
            root: root.to_owned(),
            path,
            arguments,
            names,
        }
    }

    fn run(&self, verb: &str, input: &str) -> Ran {
        // It is started from another directory.
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut command = process::command(whole(&self.path));
        command
            .args(&self.arguments)
            .arg(verb)
            .env("SYSUPGRADE_ROOT", whole(&self.root))
            .current_dir("/");
        let limits = Limits {
            timeout: TIMEOUT,
            output: MAX_OUTPUT + 1,
        };
        process::run(&mut command, input.as_bytes(), limits, &mut || true)
    }

    /// What a program that has done what it was told has printed.
    fn output(&self, verb: &str, ran: Ran) -> Result<Vec<u8>, BootError> {
        let code = code(&ran);
        if code == Some(0) {
            return match ran.output.len() > MAX_OUTPUT {
                true => Err(self.fails(verb, format!("prints more than {MAX_OUTPUT} bytes"))),
                false => Ok(ran.output),
            };
        }
        let why = printable(&ran.why(TIMEOUT));
        Err(match code {
            Some(UNREADABLE) => BootError::Damaged {
                path: self.path.clone(),
                problem: why,
            },
            _ => self.fails(verb, why),
        })
    }

    fn fails(&self, verb: &str, problem: String) -> BootError {
        BootError::Program {
            path: self.path.clone(),
            verb: verb.to_owned(),
            problem,
        }
    }

    /// Reads the sentences that the program has printed.
    fn sentences(&self, verb: &str, output: &[u8]) -> Result<Vec<String>, BootError> {
        let told: Vec<String> = serde_json::from_slice(output)
            .map_err(|error| self.fails(verb, printable(&format!("prints no list: {error}"))))?;
        Ok(told.iter().map(|sentence| printable(sentence)).collect())
    }

    /// Complains unless the program tells what it was told.
    fn prove(&mut self, verb: &str, state: &BootState) -> Result<(), BootError> {
        match self.load()? == *state {
            true => Ok(()),
            false => Err(self.fails(
                verb,
                "says that it is done, and `load` tells another state".to_owned(),
            )),
        }
    }
}

impl Bootloader for Program {
    fn load(&mut self) -> Result<BootState, BootError> {
        let output = self.output("load", self.run("load", ""))?;
        parse(&output, &self.names).map_err(|problem| self.fails("load", problem))
    }

    fn store(&mut self, state: &BootState) -> Result<(), BootError> {
        self.output("store", self.run("store", &document(state, &self.names)))?;
        self.prove("store", state)
    }

    fn flaws(&mut self) -> Result<Vec<String>, BootError> {
        self.load()?;
        let ran = self.run("flaws", "");
        if code(&ran) == Some(REFUSED) {
            return Ok(Vec::new()); // it knows of none
        }
        let output = self.output("flaws", ran)?;
        self.sentences("flaws", &output)
    }

    fn repair(&mut self, state: &BootState) -> Result<Vec<String>, BootError> {
        let ran = self.run("repair", &document(state, &self.names));
        if code(&ran) == Some(REFUSED) {
            return self.store(state).map(|()| Vec::new());
        }
        let output = self.output("repair", ran)?;
        let done = self.sentences("repair", &output)?;
        self.prove("repair", state)?;
        Ok(done)
    }
}

/// A boot state in the form that `store` reads, for slots of these names; one line.
#[must_use]
pub fn document(state: &BootState, names: &[String; 2]) -> String {
    let [a, b] = names;
    let [of_a, of_b] = state.conditions.map(|condition| match condition {
        Condition::Good => "\"good\"".to_owned(),
        Condition::Trial(left) => format!("{{\"trial\":{left}}}"),
        Condition::Unbootable => "\"unbootable\"".to_owned(),
    });
    let primary = &names[state.primary.index()];
    // Names of slots are letters and digits.
    format!("{{\"primary\":\"{primary}\",\"slots\":{{\"{a}\":{of_a},\"{b}\":{of_b}}}}}\n")
}

/// Reads a boot state that `load` has printed, of slots of these names.
///
/// # Errors
/// Why it is none, printable.
pub fn parse(document: &[u8], names: &[String; 2]) -> Result<BootState, String> {
    let Document { primary, slots } = serde_json::from_slice(document)
        .map_err(|error| printable(&format!("this is no boot state: {error}")))?;
    let slot_named = |name: &str| {
        let mut all = Slot::ALL.into_iter();
        all.find(|slot| names[slot.index()] == name)
            .ok_or_else(|| printable(&format!("there is no slot `{name}`")))
    };
    for name in slots.0.keys() {
        slot_named(name)?;
    }
    let condition = |slot: Slot| {
        let name = &names[slot.index()];
        match slots.0.get(name) {
            None => Err(format!("nothing is said of slot `{name}`")),
            Some(Told::Good) => Ok(Condition::Good),
            Some(Told::Unbootable) => Ok(Condition::Unbootable),
            Some(Told::Trial(left @ 1..=MAX_TRIES)) => Ok(Condition::Trial(*left)),
            Some(Told::Trial(left)) => Err(format!("slot `{name}` has {left} tries, not 1 to 7")),
        }
    };
    Ok(BootState {
        primary: slot_named(&primary)?,
        conditions: [condition(Slot::First)?, condition(Slot::Second)?],
    })
}

/// The exit code of a program that has ended by itself.
fn code(ran: &Ran) -> Option<i32> {
    match &ran.end {
        End::Exited(status) => status.code(),
        _ => None,
    }
}

/// A boot state as a program tells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    primary: String,
    slots: Slots,
}

/// The condition of a slot.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Told {
    Good,
    Unbootable,
    Trial(u8),
}

/// Conditions by the name of the slot, of which none stands there twice.
struct Slots(BTreeMap<String, Told>);

impl<'de> Deserialize<'de> for Slots {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Slots;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a condition for each slot")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Slots, A::Error> {
                let mut slots = BTreeMap::new();
                while let Some((name, told)) = map.next_entry::<String, Told>()? {
                    if slots.insert(name.clone(), told).is_some() {
                        return Err(A::Error::custom(format!(
                            "slot `{name}` stands there twice"
                        )));
                    }
                }
                Ok(Slots(slots))
            }
        }
        deserializer.deserialize_map(Each)
    }
}
