//! Records as variables of a U-Boot environment.
//!
//! ```text
//! sysupgrade_floor      the lowest security number that this machine accepts
//! sysupgrade_slot_a     what is in slot a: an `Installed` as JSON
//! sysupgrade_slot_b     and in slot b
//! sysupgrade_last       what happened last: an `Entry` as JSON
//! sysupgrade_health     what worked when the last install began: a `Before` as JSON
//! ```
//!
//! An environment is small, and flash that wears: each store replaces one copy of it as a whole. So
//! what is recorded together is stored together, texts are cut to [`MAX_TEXT`], history is one
//! entry, and an image that was refused is no entry at all: who asked was told. What worked is kept as
//! far as it leaves room for all else at its longest: it is the last thing to be worth a refusal.

use super::{ArchiveRef, DataError, Entry, Installed, Update, What, parse, to_line};
use crate::boot::BootError;
use crate::boot::uboot_env::{Environment, UbootEnv};
use crate::digest::Digest;
use crate::health::Before;

const FLOOR: &str = "sysupgrade_floor";
const LAST: &str = "sysupgrade_last";
const HEALTH: &str = "sysupgrade_health";

fn slot_variable(slot: &str) -> String {
    format!("sysupgrade_slot_{slot}")
}

/// Bytes that a note or message may have as JSON. The smallest environments have 8 KiB, half of it
/// taken; three texts of these are no matter there.
const MAX_TEXT: usize = 200;

/// Bytes that the record of what worked may have, the first of these that has room.
const HEALTH_SIZES: [usize; 2] = [1024, 256];

/// A record that says nothing.
const NOTHING: &str = "{}";

/// The environment; the boot state is in it, too, and is not touched here.
pub(super) struct Variables {
    pub(super) open: OpenEnv,
}

/// Finds the environment, each time that it is read or written.
pub type OpenEnv = Box<dyn Fn() -> Result<UbootEnv, BootError>>;

/// A variable, and what it becomes.
type Change = (String, String);

impl Variables {
    fn open(&self) -> Result<UbootEnv, BootError> {
        (self.open)()
    }

    pub(super) fn installed(&self, slot: &str) -> Result<Option<Installed>, DataError> {
        let name = slot_variable(slot);
        let env = self.open()?.variables()?;
        env.get(&name).map(|bytes| parse(&name, bytes)).transpose()
    }

    pub(super) fn floor(&self) -> Result<u64, DataError> {
        floor(&self.open()?.variables()?)
    }

    pub(super) fn before(&self) -> Result<Before, DataError> {
        let env = self.open()?.variables()?;
        env.get(HEALTH)
            .map_or_else(|| Ok(Before::default()), |bytes| parse(HEALTH, bytes))
    }

    /// One entry at most. One that does not parse (written by another version) is left out.
    pub(super) fn history(&self) -> Result<Vec<Entry>, DataError> {
        Ok(last(&self.open()?.variables()?).into_iter().collect())
    }

    /// Records all of it in one store of the environment: a cut leaves the old records or the new ones.
    pub(super) fn record(&self, update: &Update<'_>) -> Result<(), DataError> {
        let env = self.open()?.variables()?;
        let mut changes = changes(update, floor(&env)?, last(&env))?;
        if let Some(before) = update.before {
            changes.extend(self.health(before, &update.installed, &env)?);
        }
        match changes.is_empty() {
            true => Ok(()),
            false => Ok(self.open()?.change(&borrowed(&changes))?),
        }
    }

    /// What the record of what worked becomes, beside the other records of an install.
    fn health(
        &self,
        before: &Before,
        slots: &[(&str, &Installed)],
        env: &Environment,
    ) -> Result<Option<Change>, DataError> {
        // They grow: the archive is not written yet.
        let longest: Vec<_> = slots
            .iter()
            .map(|(slot, installed)| (*slot, with_archive(installed)))
            .collect();
        let longest: Vec<_> = longest
            .iter()
            .map(|(slot, installed)| (*slot, installed))
            .collect();
        let mut value = NOTHING.to_owned();
        for size in HEALTH_SIZES {
            let fits = to_line(HEALTH, &before.within(size))?;
            if self.check_room_with(&longest, Some(&fits)).is_ok() {
                value = fits;
                break;
            }
        }
        let old = env.get(HEALTH);
        let is_known = old.map_or(value == NOTHING, |old| old == value.as_bytes());
        Ok((!is_known).then(|| (HEALTH.to_owned(), value)))
    }

    /// Complains if the environment has no room for the records of an install, at their longest.
    pub(super) fn check_room(&self, slots: &[(&str, &Installed)]) -> Result<(), DataError> {
        self.check_room_with(slots, None)
    }

    /// With the record of what worked, which gives way otherwise.
    fn check_room_with(
        &self,
        slots: &[(&str, &Installed)],
        health: Option<&str>,
    ) -> Result<(), DataError> {
        let longest = "x".repeat(MAX_TEXT);
        let mut slots: Vec<_> = slots
            .iter()
            .map(|(slot, installed)| (*slot, (*installed).clone()))
            .collect();
        let mut version = None;
        for (_, installed) in &mut slots {
            installed.note = Some(longest.clone());
            version = Some(installed.version.clone());
        }
        let update = Update {
            floor: Some(u64::MAX),
            before: None,
            installed: slots.iter().map(|(slot, new)| (*slot, new)).collect(),
            entry: Some(Entry {
                number: u64::MAX,
                what: What::FirstBootFailed,
                slot: slots
                    .first()
                    .map(|(slot, _)| (*slot).to_owned())
                    .unwrap_or_default(),
                version,
                message: longest,
                reason: None,
                cost: None,
            }),
        };
        let changes = changes(&update, 0, None)?;
        let mut changes = borrowed(&changes);
        changes.push((HEALTH, health));
        Ok(self.open()?.check(&changes)?)
    }
}

/// As long as it becomes when the configuration is saved.
fn with_archive(installed: &Installed) -> Installed {
    let longest = ArchiveRef {
        size: u64::MAX,
        sha256: Digest::of(b""),
    };
    Installed {
        archive: Some(longest),
        ..installed.clone()
    }
}

fn borrowed(changes: &[Change]) -> Vec<(&str, Option<&str>)> {
    let changes = changes.iter();
    changes
        .map(|(name, value)| (name.as_str(), Some(value.as_str())))
        .collect()
}

fn floor(env: &Environment) -> Result<u64, DataError> {
    let Some(value) = env.get(FLOOR) else {
        return Ok(0);
    };
    let text = std::str::from_utf8(value).ok();
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| DataError::floor(FLOOR))
}

fn last(env: &Environment) -> Option<Entry> {
    env.get(LAST)
        .and_then(|value| serde_json::from_slice(value).ok())
}

/// The variables that change.
fn changes(update: &Update<'_>, floor: u64, last: Option<Entry>) -> Result<Vec<Change>, DataError> {
    let mut changes = Vec::new();
    if let Some(security) = update.floor.filter(|security| *security > floor) {
        changes.push((FLOOR.to_owned(), security.to_string()));
    }
    for (slot, installed) in &update.installed {
        let mut installed = (*installed).clone();
        installed.note = installed.note.as_deref().map(cut);
        let name = slot_variable(slot);
        let value = to_line(&name, &installed)?;
        changes.push((name, value));
    }
    if let Some(entry) = update
        .entry
        .as_ref()
        .filter(|entry| !matches!(entry.what, What::Refused | What::Repaired))
    {
        let mut entry = entry.clone();
        entry.number = entry
            .number
            .max(last.map_or(1, |last| last.number.saturating_add(1)));
        entry.message = cut(&entry.message);
        entry.cost = None;
        changes.push((LAST.to_owned(), to_line(LAST, &entry)?));
    }
    Ok(changes)
}

/// As much of a text as has room.
fn cut(text: &str) -> String {
    const MARK: char = '…';
    let len = |c: char| match c {
        '"' | '\\' => 2,
        c if c.is_control() => "\\u0000".len(),
        c => c.len_utf8(),
    };
    if text.chars().map(len).sum::<usize>() <= MAX_TEXT {
        return text.to_owned();
    }
    let mut room = MAX_TEXT - len(MARK);
    let fits = |c: &char| match room.checked_sub(len(*c)) {
        Some(rest) => {
            room = rest;
            true
        }
        None => false,
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    cut.push(MARK);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_so_that_its_json_has_room_whatever_it_holds() {
        assert_eq!(cut("short \"words\""), "short \"words\"");
        for unit in ["a", "\"", "\n", "ä", "\\", "\u{1}", "a\"ß\n"] {
            for times in [1, 30, 99, 100, 101, 199, 200, 201, 1000] {
                let text = unit.repeat(times);
                let kept = cut(&text);
                let json = serde_json::to_string(&kept).expect("a string").len() - 2;
                assert!(json <= MAX_TEXT, "{times} of {unit:?}: {json}");
                if kept != text {
                    assert!(kept.ends_with('…') && text.starts_with(kept.trim_end_matches('…')));
                }
            }
        }
    }
}
