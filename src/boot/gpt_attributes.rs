//! Attribute bits of GPT partitions, as ChromeOS defined them and as Bottlerocket, Flatcar and other
//! users of GRUB's `gptprio` have them. The boot loader needs no environment: all it knows is in the
//! partition table.
//!
//! | bits of the attributes | field | the boot loader |
//! | --- | --- | --- |
//! | 48 to 51 | priority | 0: not bootable. The highest goes first, of equal ones the first in the table |
//! | 52 to 55 | tries | boots left, while not successful; counted down before the boot |
//! | 56 | successful | booted without counting |
//!
//! It boots the partition of its kind with the highest priority that is successful or has tries left.
//! (ChromiumOS: "Disk format", and `firmware/lib/cgptlib` of vboot; GRUB: `commands/gptprio.c` of
//! CoreOS. Both were read, and their behaviour is played in `tests/boot_gpt.rs`; Debian has no boot
//! loader with this rule.) With no such partition it stops: the last resort of
//! [`BootState::boot`] is one that it does not know.
//!
//! # States
//!
//! | | stored as | read from |
//! | --- | --- | --- |
//! | primary | priority 15 | the higher priority |
//! | the other slot | priority 14; 0 if it is not bootable | |
//! | `Good` | successful, no tries | successful |
//! | `Trial(n)` | `n` tries | tries; more than 7, as factory images have, are 7 |
//! | `Unbootable` | neither | neither, or priority 0 |
//!
//! ChromeOS takes the priority away along with the last try, *before* it boots it: then the slot that
//! runs is the one with priority 0, and the other one still has 14, which nothing else leaves behind.
//! So 14 beside 0 is read as what it was: the slot with 0 is primary, and has no tries left. GRUB takes
//! the try only.
//!
//! A third bootable partition of the same kind (`KERN-C`) could boot instead of both: it is refused, and
//! so are two partitions of different kinds, of which a boot loader sees one.
//!
//! The kernel need not read the table again: no partition moves. See [`table`] for the table itself and
//! for power cuts.

mod table;

use std::path::PathBuf;

use super::{BootError, Bootloader};
use crate::files::InPlace;
use crate::report::printable;
use crate::slots::{BootState, Condition, MAX_TRIES, Slot};
use table::Table;

/// Priority of the primary slot: no other partition is before it.
const FIRST: u8 = 15;

/// Priority of the other one, if it can boot.
const SECOND: u8 = 14;

/// The partition table of a disk whose boot loader goes by the attributes of two partitions.
#[derive(Debug)]
pub struct GptAttributes {
    path: PathBuf,
    partitions: [String; 2],
}

impl GptAttributes {
    /// The table of this disk (or of a file that stands for one), and the names of the partitions that
    /// the boot loader chooses between, in the order of the slots. The disk is opened when it is
    /// read or written.
    #[must_use]
    pub fn new(path: PathBuf, partitions: [String; 2]) -> Self {
        Self { path, partitions }
    }

    fn read(&self) -> Result<Found, BootError> {
        let table = Table::read(&InPlace::open_read_only(&self.path)?)?;
        self.find(&table)
    }

    /// Finds the two partitions, and no third one that would boot.
    fn find(&self, table: &Table) -> Result<Found, BootError> {
        let numbers = [self.number(table, 0)?, self.number(table, 1)?];
        let [a, b] = numbers.map(|number| table.entries().nth(number));
        let (Some(a), Some(b)) = (a, b) else {
            return Err(self.damaged("it has no entries".to_owned()));
        };
        if a.kind() != b.kind() {
            let [a, b] = &self.partitions;
            return Err(self.damaged(format!(
                "partitions {a} and {b} are of different types: a boot loader looks at one of them"
            )));
        }
        let third = table.entries().enumerate().find(|(number, entry)| {
            let bits = Bits::of(entry.attributes());
            !numbers.contains(number)
                && entry.kind() == a.kind()
                && bits.condition() != Condition::Unbootable
        });
        if let Some((number, entry)) = third {
            let (number, name) = (number + 1, printable(&entry.name()));
            return Err(self.damaged(format!(
                "partition {number} ({name}) is bootable, too; `cgpt add -i {number} -P 0 -T 0 -S 0` changes that"
            )));
        }
        Ok(Found {
            numbers,
            attributes: [a.attributes(), b.attributes()],
        })
    }

    /// The entry of the partition of a slot, from 0.
    fn number(&self, table: &Table, slot: usize) -> Result<usize, BootError> {
        let name = &self.partitions[slot];
        let mut named = table
            .entries()
            .enumerate()
            .filter(|(_, entry)| entry.is_used() && entry.name() == *name);
        match (named.next(), named.next()) {
            (Some((number, _)), None) => Ok(number),
            (None, _) => Err(self.damaged(format!("there is no partition {name}"))),
            (Some(_), Some(_)) => Err(self.damaged(format!("two partitions are named {name}"))),
        }
    }

    fn damaged(&self, problem: String) -> BootError {
        BootError::Damaged {
            path: self.path.clone(),
            problem,
        }
    }
}

impl Bootloader for GptAttributes {
    fn load(&mut self) -> Result<BootState, BootError> {
        Ok(self.read()?.state())
    }

    fn store(&mut self, state: &BootState) -> Result<(), BootError> {
        // Partitions of the disk are mounted.
        let disk = InPlace::open_shared(&self.path)?;
        let table = Table::read(&disk)?;
        let found = self.find(&table)?;
        table.set_attributes(&disk, found.with(state))
    }

    fn flaws(&mut self) -> Result<Vec<String>, BootError> {
        let table = Table::read(&InPlace::open_read_only(&self.path)?)?;
        self.find(&table)?;
        let name = self.path.display();
        let flaws = table.flaws().into_iter();
        Ok(flaws.map(|flaw| format!("{name}: {flaw}")).collect())
    }

    fn repair(&mut self, state: &BootState) -> Result<Vec<String>, BootError> {
        let flaws = self.flaws().map_err(|error| match error {
            BootError::Damaged { path, problem } => BootError::Irreparable { path, problem },
            other => other,
        })?;
        self.store(state)?;
        let mended = |flaw| format!("{flaw}; both copies were written anew");
        Ok(flaws.into_iter().map(mended).collect())
    }
}

/// The partitions of the two slots.
struct Found {
    /// Their entries in the table, from 0.
    numbers: [usize; 2],
    attributes: [u64; 2],
}

impl Found {
    fn state(&self) -> BootState {
        let bits = self.attributes.map(Bits::of);
        let first_in_table = match self.numbers[0] < self.numbers[1] {
            true => Slot::First,
            false => Slot::Second,
        };
        let priority = |slot: Slot| bits[slot.index()].priority;
        let higher = match priority(first_in_table) < priority(first_in_table.other()) {
            true => first_in_table.other(),
            false => first_in_table,
        };
        let has_lost_its_priority = priority(higher) == SECOND && priority(higher.other()) == 0;
        BootState {
            primary: match has_lost_its_priority {
                true => higher.other(),
                false => higher,
            },
            conditions: bits.map(Bits::condition),
        }
    }

    /// The entries with the attributes that stand for a state.
    fn with(&self, state: &BootState) -> [(usize, u64); 2] {
        Slot::ALL.map(|slot| {
            let condition = state.condition(slot);
            let bits = Bits {
                priority: match (slot == state.primary, condition) {
                    (true, _) => FIRST,
                    (false, Condition::Unbootable) => 0,
                    (false, _) => SECOND,
                },
                tries: match condition {
                    Condition::Trial(left) => left.min(MAX_TRIES),
                    Condition::Good | Condition::Unbootable => 0,
                },
                successful: condition == Condition::Good,
            };
            let at = slot.index();
            (self.numbers[at], bits.put_into(self.attributes[at]))
        })
    }
}

/// What the boot loader reads of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bits {
    /// 0 to 15.
    priority: u8,
    /// 0 to 15.
    tries: u8,
    successful: bool,
}

impl Bits {
    fn of(attributes: u64) -> Self {
        let [.., low, high] = attributes.to_le_bytes();
        Self {
            priority: low & 0xf,
            tries: low >> 4,
            successful: high & 1 == 1,
        }
    }

    /// The attributes with these bits, and all others as they were.
    fn put_into(self, attributes: u64) -> u64 {
        let [rest @ .., _, high] = attributes.to_le_bytes();
        let [a, b, c, d, e, f] = rest;
        let low = self.tries << 4 | self.priority;
        let high = high & !1 | u8::from(self.successful);
        u64::from_le_bytes([a, b, c, d, e, f, low, high])
    }

    fn condition(self) -> Condition {
        match self {
            Self { priority: 0, .. } => Condition::Unbootable,
            Self {
                successful: true, ..
            } => Condition::Good,
            Self { tries: 0, .. } => Condition::Unbootable,
            Self { tries, .. } => Condition::Trial(tries.min(MAX_TRIES)),
        }
    }
}
