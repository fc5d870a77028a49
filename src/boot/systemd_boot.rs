//! The boot state in the names of systemd-boot's entries.
//!
//! systemd-boot (since version 252) reads `loader/entries/*.conf` on the EFI system partition or on the
//! extended boot loader partition, sorts them, and boots the first that matches `default` of
//! `loader/loader.conf`. Entries that count their tries have the numbers in the name of the file:
//! `+LEFT` or `+LEFT-DONE` before `.conf`. Before it boots such an entry it renames it: one less left,
//! one more done. (Sources: Boot Loader Specification; "Automatic Boot Assessment" of systemd.)
//!
//! # Names
//!
//! ```text
//! sysupgrade-RANK-SLOT.conf            good
//! sysupgrade-RANK-SLOT+LEFT.conf       on trial, LEFT is 1 to 7
//! sysupgrade-RANK-SLOT+LEFT-DONE.conf  the same, after DONE boots
//! sysupgrade-RANK-SLOT+0[-DONE].conf   not bootable
//! ```
//!
//! The slot with the higher rank, a number, is primary. That is the order of systemd-boot: first all
//! entries but those with `+0`, then these, each of the two from high to low by name, in which digits are
//! compared as numbers. So it passes over a `+0`, and boots the primary one where there is nothing else:
//! what [`BootState::boot`] says.
//!
//! An order by name is one only among entries without `sort-key`, and only if nobody says which entry
//! boots: `default sysupgrade-*` must stand in `loader.conf`, and the EFI variables
//! `LoaderEntryDefault` and `LoaderEntryOneShot`, which come before it, must not be there. Otherwise the
//! state cannot be read: the loader might boot a slot that is being written.
//!
//! # Power cuts
//!
//! A rename is all that a transition of [`crate::slots`] takes: the slot that changes gets its new
//! condition and, in the same name, a rank above or below the other one's, whose file is not touched. So
//! ranks grow by one with each upgrade; there are four billion.
//!
//! The file system is FAT, which has no journal. Where the names are in one sector of the directory, as
//! those of two slots are (16 entries of 32 bytes in 512; a name of ours takes three), the sector is
//! written at once, and a cut leaves the old name or the new one: see
//! [`files::rename_durably`] for what that takes. In a directory that is longer a cut can leave
//! both names of a file, or a long name without its begin, which is none. So others' entries had better
//! be few. What is read then is what the loader does:
//!
//! * of two names of one slot, the one counts that the loader looks at first: one that boots, with the higher
//!   rank, that counts, with more tries. The next store removes the other one. Both have the same
//!   content, in the same place, so `fsck.fat` before that is better;
//! * a slot without a name is not bootable. The next store makes its entry anew, from the copy
//!   `loader/sysupgrade-SLOT.conf`, which is made as soon as there is an entry and never written again;
//! * a file in which nothing names a program to start (one that was being made) is no entry.
//!
//! When the loader counts, the firmware renames. OVMF writes 64 KiB for that, of which one sector
//! changes; a test of the virtual router cuts after each sector that Linux and OVMF write. A try that the
//! loader cannot count, because the next name is taken, it gives all the same: one more reason to mend
//! two names of one slot.

use std::cmp::Reverse;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{BootError, Bootloader};
use crate::files::{self, FileError, NewFile};
use crate::report::printable;
use crate::slots::{BootState, Condition, MAX_TRIES, Slot};

const PREFIX: &str = "sysupgrade-";
const SUFFIX: &str = ".conf";

/// What `default` of `loader.conf` must be.
const DEFAULT: &str = "sysupgrade-*";

/// An entry with this is sorted by it, and before those that have none.
const SORT_KEY: &str = "sort-key";

/// The most bytes of an entry, and of `loader.conf`: some lines of text.
const MAX_TEXT: u64 = 64 << 10;

/// Variables of systemd-boot's that say which entry boots, by name in efivarfs, with what takes them
/// away. The identifier is that of systemd's boot loader interface.
const OVERRIDES: [(&str, &str); 2] = [
    ("LoaderEntryDefault", "bootctl set-default \"\""),
    ("LoaderEntryOneShot", "bootctl set-oneshot \"\""),
];
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The entries of two slots.
#[derive(Debug)]
pub struct SystemdBoot {
    /// `loader/entries`.
    entries: PathBuf,
    /// Where the kernel shows the variables of the firmware.
    variables: PathBuf,
    names: [String; 2],
}

/// A file that the loader takes for an entry of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    file: String,
    rank: u32,
    slot: Slot,
    condition: Condition,
    done: u32,
}

impl Entry {
    /// The loader looks first at what this makes least.
    fn place(&self) -> impl Ord + use<> {
        // One without a counter comes after those with one, by the way in which systemd compares versions.
        let left = match self.condition {
            Condition::Trial(left) => left,
            Condition::Good | Condition::Unbootable => 0,
        };
        let is_out = self.condition == Condition::Unbootable;
        (is_out, Reverse(self.rank), Reverse(left), self.done)
    }
}

/// What is in the directory of entries under names of ours.
#[derive(Debug, Default)]
struct Found {
    /// By slot; of each, first the one that the loader looks at first.
    entries: [Vec<Entry>; 2],
    /// Files that the loader takes for none.
    hollow: Vec<String>,
    /// Files that it takes for an entry, with what makes that none of ours.
    strange: Vec<(String, &'static str)>,
}

impl Found {
    fn of(&self, slot: Slot) -> Option<&Entry> {
        self.entries[slot.index()].first()
    }

    fn rank(&self, slot: Slot) -> Option<u32> {
        self.of(slot).map(|entry| entry.rank)
    }

    fn condition(&self, slot: Slot) -> Option<Condition> {
        self.of(slot).map(|entry| entry.condition)
    }

    /// Entries that the loader would look at only after another one of the same slot.
    fn spare(&self) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .flat_map(|entries| entries.iter().skip(1))
    }
}

impl SystemdBoot {
    /// The entries in this directory, for slots of these names; `variables` is where efivarfs is mounted.
    #[must_use]
    pub fn new(entries: PathBuf, variables: PathBuf, names: [String; 2]) -> Self {
        Self {
            entries,
            variables,
            names,
        }
    }

    fn name(&self, slot: Slot) -> &str {
        &self.names[slot.index()]
    }

    fn file_name(&self, slot: Slot, rank: u32, condition: Condition) -> String {
        let counter = match condition {
            Condition::Good => String::new(),
            Condition::Trial(left) => format!("+{left}"),
            Condition::Unbootable => "+0".to_owned(),
        };
        format!("{PREFIX}{rank}-{}{counter}{SUFFIX}", self.name(slot))
    }

    /// Reads a name that begins and ends like ours.
    fn parse(&self, file: &str) -> Result<Entry, &'static str> {
        let name = file
            .strip_prefix(PREFIX)
            .and_then(|name| name.strip_suffix(SUFFIX));
        let (rank, rest) = name
            .and_then(|name| name.split_once('-'))
            .ok_or("is not of the form sysupgrade-RANK-SLOT[+LEFT[-DONE]].conf")?;
        let (slot, counter) = match rest.split_once('+') {
            Some((slot, counter)) => (slot, Some(counter)),
            None => (rest, None),
        };
        let (condition, done) = match counter {
            None => (Condition::Good, 0),
            Some(counter) => {
                let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
                let condition = match number(left) {
                    Some(0) => Condition::Unbootable,
                    Some(left) => {
                        let left = u8::try_from(left).ok().filter(|left| *left <= MAX_TRIES);
                        Condition::Trial(left.ok_or("has more than 7 tries left")?)
                    }
                    None => return Err("has no number of tries after its `+`"),
                };
                (
                    condition,
                    number(done).ok_or("has no number of boots after its second `-`")?,
                )
            }
        };
        Ok(Entry {
            file: file.to_owned(),
            rank: number(rank).ok_or("has no rank, a number, after `sysupgrade-`")?,
            slot: Slot::ALL
                .into_iter()
                .find(|known| self.name(*known) == slot)
                .ok_or("is of no slot of the board file")?,
            condition,
            done,
        })
    }

    fn find(&self) -> Result<Found, BootError> {
        let mut found = Found::default();
        for name in files::list(&self.entries)? {
            let name = name.to_string_lossy().into_owned();
            // On FAT, and to systemd-boot, upper and lower case are the same.
            let folded = name.to_lowercase();
            if !folded.starts_with(PREFIX) || !folded.ends_with(SUFFIX) {
                continue;
            }
            let text = read_text(&self.entries.join(&name))?.unwrap_or_default();
            if !starts_something(&text) {
                found.hollow.push(name);
                continue;
            }
            match self.parse(&name) {
                Ok(_) if value(&text, &[SORT_KEY]).is_some() => {
                    found.strange.push((
                        name,
                        "has a `sort-key`, so that it is not sorted by its name",
                    ));
                }
                Ok(entry) => found.entries[entry.slot.index()].push(entry),
                Err(problem) => found.strange.push((name, problem)),
            }
        }
        for entries in &mut found.entries {
            entries.sort_by_key(Entry::place);
        }
        Ok(found)
    }

    /// What the loader would make of it, if nothing but the names says what it boots.
    fn state(&self, found: &Found) -> Result<BootState, BootError> {
        let damaged = |path: PathBuf, problem: &str| BootError::Damaged {
            path,
            problem: problem.to_owned(),
        };
        if let Some((name, problem)) = found.strange.first() {
            return Err(damaged(self.entries.join(printable(name)), problem));
        }
        let primary = match Slot::ALL.map(|slot| found.rank(slot)) {
            [None, None] => return Err(damaged(self.entries.clone(), "no slot has an entry")),
            [Some(a), Some(b)] if a == b => {
                let problem = format!("both slots have rank {a}, so that none is the primary one");
                return Err(damaged(self.entries.clone(), &problem));
            }
            [a, b] if a > b => Slot::First,
            _ => Slot::Second,
        };
        let condition = |slot| found.condition(slot).unwrap_or(Condition::Unbootable);
        Ok(BootState {
            primary,
            conditions: Slot::ALL.map(condition),
        })
    }

    /// Complains if something else than the names says what boots.
    fn check_overrides(&self) -> Result<(), BootError> {
        let path = self.config();
        let text = read_text(&path)?.unwrap_or_default();
        let problem = match value(&text, &["default"]) {
            Some(DEFAULT) => None,
            Some(other) => Some(format!("is `{}`, not `{DEFAULT}`", printable(other))),
            None => Some(format!("is missing, it must be `{DEFAULT}`")),
        };
        if let Some(problem) = problem {
            let problem = format!("{problem}: then the names of the entries say which one boots");
            return Err(wrong(&path, "default", problem));
        }
        self.check_variables()
    }

    fn check_variables(&self) -> Result<(), BootError> {
        for (name, remedy) in OVERRIDES {
            let path = self.variables.join(format!("{name}-{VENDOR}"));
            // Four bytes of attributes, then text with a zero at its end: a shorter one says nothing.
            let said =
                files::read_if_exists(&path, MAX_TEXT)?.is_some_and(|bytes| bytes.len() > 4 + 2);
            if said {
                let problem =
                    format!("says which entry boots, whatever the names say; run `{remedy}`");
                return Err(wrong(&self.variables, name, problem));
            }
        }
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.entries.with_file_name("loader.conf")
    }

    /// The file that an entry of this slot is made from when there is none.
    fn copy(&self, slot: Slot) -> PathBuf {
        let name = format!("{PREFIX}{}{SUFFIX}", self.name(slot));
        self.entries.with_file_name(name)
    }

    /// The text of an entry for this slot.
    fn text(&self, slot: Slot, found: &Found) -> Result<String, BootError> {
        let copy = self.copy(slot);
        if let Some(text) = read_text(&copy)?
            && starts_something(&text)
            && value(&text, &[SORT_KEY]).is_none()
        {
            return Ok(text);
        }
        let Some(entry) = found.of(slot) else {
            return Err(BootError::Irreparable {
                path: self.entries.clone(),
                problem: format!(
                    "slot {} has no entry, and {} is none to make it from",
                    self.name(slot),
                    copy.display()
                ),
            });
        };
        Ok(read_text(&self.entries.join(&entry.file))?.unwrap_or_default())
    }

    /// Makes the names stand for this state, and one file of each slot. Returns what was mended.
    fn arrange(&self, found: &Found, state: &BootState) -> Result<Vec<String>, BootError> {
        let mut told = Vec::new();
        // Whatever may be missing is missed before anything is written.
        let texts = [
            self.text(Slot::First, found)?,
            self.text(Slot::Second, found)?,
        ];
        let ranks = self.ranks(found, state)?;
        // None of these is what the loader boots, so that without them it boots the same.
        let spare = found.spare().map(|entry| (&entry.file, "is a second one"));
        let hollow = found.hollow.iter().map(|file| (file, "starts nothing"));
        let strange = found.strange.iter().map(|(file, problem)| (file, *problem));
        for (file, problem) in spare.chain(hollow).chain(strange) {
            files::remove_durably(&self.entries.join(file))?;
            told.push(format!("{} is removed: it {problem}", printable(file)));
        }
        for slot in [state.primary, state.primary.other()] {
            let text = &texts[slot.index()];
            let copy = self.copy(slot);
            if read_text(&copy)?.as_ref() != Some(text) {
                // An entry without a copy can be read; a copy that is half written cannot be used.
                files::remove_durably(&copy)?;
                create(&copy, text)?;
                told.push(format!("{} is made from the entry", copy.display()));
            }
            let name = self.file_name(slot, ranks[slot.index()], state.condition(slot));
            let path = self.entries.join(&name);
            match found.of(slot) {
                Some(entry) if self.is_as(entry, ranks[slot.index()], state) => {
                    // Whoever gave it that name may not have lived to sync it.
                    files::sync_name(&self.entries.join(&entry.file))?;
                }
                Some(entry) => files::rename_durably(&self.entries.join(&entry.file), &path)?,
                None => {
                    create(&path, text)?;
                    told.push(format!("{name} is made anew"));
                }
            }
        }
        Ok(told)
    }

    /// True if an entry has the rank and stands for the condition already; the boots that were counted
    /// stay in its name.
    fn is_as(&self, entry: &Entry, rank: u32, state: &BootState) -> bool {
        entry.rank == rank && entry.condition == state.condition(entry.slot)
    }

    /// The ranks that make the primary slot the primary one, by slot: as they are, or with a new one for
    /// the slot that changes anyway.
    fn ranks(&self, found: &Found, state: &BootState) -> Result<[u32; 2], BootError> {
        let (first, last) = (state.primary, state.primary.other());
        let (mut high, mut low) = match (found.rank(first), found.rank(last)) {
            (Some(high), Some(low)) => (high, low),
            (Some(high), None) => (high, high.saturating_sub(1)),
            (None, Some(low)) => (low, low),
            (None, None) => (1, 0),
        };
        if high <= low {
            let stays = |slot| found.condition(slot) == Some(state.condition(slot));
            // Of two that stay as they are, the one that does not boot is renamed.
            let moves = !stays(last) || state.condition(last) == Condition::Unbootable;
            if stays(first) && moves && high > 0 {
                low = high - 1;
            } else {
                high = low.checked_add(1).ok_or_else(|| BootError::Damaged {
                    path: self.entries.clone(),
                    problem: format!("there is no rank above {low}"),
                })?;
            }
        }
        Ok(match first {
            Slot::First => [high, low],
            Slot::Second => [low, high],
        })
    }
}

impl Bootloader for SystemdBoot {
    fn load(&mut self) -> Result<BootState, BootError> {
        self.check_overrides()?;
        self.state(&self.find()?)
    }

    fn store(&mut self, state: &BootState) -> Result<(), BootError> {
        let found = self.find()?;
        self.state(&found)?;
        self.arrange(&found, state).map(drop)
    }

    fn flaws(&mut self) -> Result<Vec<String>, BootError> {
        let found = self.find()?;
        self.state(&found)?;
        let mut flaws = Vec::new();
        for slot in Slot::ALL {
            let name = self.name(slot);
            match found.entries[slot.index()].as_slice() {
                [] => flaws.push(format!("slot {name} has no entry")),
                [_] => {}
                [first, others @ ..] => flaws.extend(others.iter().map(|other| {
                    format!(
                        "slot {name} has two entries, {} and {}; check the file system with fsck.fat",
                        printable(&first.file),
                        printable(&other.file)
                    )
                })),
            }
            let copy = self.copy(slot);
            if read_text(&copy)?.is_none() {
                flaws.push(format!(
                    "{} is missing, the copy of an entry",
                    copy.display()
                ));
            }
        }
        let hollow = found.hollow.iter();
        flaws.extend(hollow.map(|file| format!("{} starts nothing", printable(file))));
        Ok(flaws)
    }

    fn repair(&mut self, state: &BootState) -> Result<Vec<String>, BootError> {
        // They cannot be taken away here.
        self.check_variables()?;
        let found = self.find()?;
        let mut told = self.arrange(&found, state)?;
        let path = self.config();
        let text = read_text(&path)?.unwrap_or_default();
        if value(&text, &["default"]) != Some(DEFAULT) {
            let others = text
                .lines()
                .filter(|line| value(line, &["default"]).is_none());
            let lines = [format!("default {DEFAULT}")];
            let lines = lines.iter().map(String::as_str).chain(others);
            let text = lines.map(|line| format!("{line}\n")).collect::<String>();
            files::replace(&path, text.as_bytes(), 0o644)?;
            files::sync_name(&path)?; // as FAT needs it
            told.push(format!("default is `{DEFAULT}` in {}", path.display()));
        }
        Ok(told)
    }
}

fn wrong(path: &Path, name: &str, problem: String) -> BootError {
    BootError::Variable {
        path: path.to_owned(),
        name: name.to_owned(),
        problem,
    }
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The loader leaves out an entry that names no program.
fn starts_something(text: &str) -> bool {
    value(text, &["linux", "efi"]).is_some()
}

/// A text file, as far as it is text; `None` if there is no such file.
fn read_text(path: &Path) -> Result<Option<String>, FileError> {
    let bytes = files::read_if_exists(path, MAX_TEXT)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// What follows one of these words at the begin of a line, the last time it does: `KEY VALUE`, as
/// systemd-boot reads its files.
fn value<'a>(text: &'a str, keys: &[&str]) -> Option<&'a str> {
    let pairs = text
        .lines()
        .filter_map(|line| line.trim().split_once([' ', '\t']));
    let mut values = pairs
        .filter(|(key, _)| keys.contains(key))
        .map(|(_, value)| value.trim());
    values.rfind(|value| !value.is_empty())
}

/// A file that nobody takes for one before it is whole: it appears empty, under its own name, because
/// FAT makes nothing durable of a rename that the directory alone is synced for.
fn create(path: &Path, text: &str) -> Result<(), FileError> {
    let mut file = NewFile::create_directly(path, 0o644)?;
    file.write_all(text.as_bytes())
        .map_err(FileError::at("write", path))?;
    file.commit()
}
