//! The state in the names of systemd-boot's entries, together with a model of systemd-boot that knows
//! names alone (`world::loader`). The real one is before the same names in `tests/qemu/efi.rs`.

mod world;

use std::fs;
use std::path::{Path, PathBuf};

use sysupgrade_rs::boot::{BootError, Bootloader, SystemdBoot};
use sysupgrade_rs::files::trace::{self, Op};
use sysupgrade_rs::slots::{BootState, Condition, MAX_TRIES, Slot};
use tempfile::TempDir;

use world::loader;

/// Two slots on an EFI system partition.
struct Partition {
    dir: TempDir,
}

impl Partition {
    /// With these files in the directory of entries.
    fn with(names: &[&str]) -> Self {
        let this = Self {
            dir: tempfile::tempdir().expect("a directory"),
        };
        fs::create_dir_all(this.entries()).expect("made");
        this.put("../loader.conf", "timeout 0\ndefault sysupgrade-*\n");
        for slot in ["a", "b"] {
            this.put(&format!("../sysupgrade-{slot}.conf"), &text(slot));
        }
        for name in names {
            let slot = match name.contains("-b") {
                true => "b",
                false => "a",
            };
            this.put(name, &text(slot));
        }
        this
    }

    /// As it leaves the factory.
    fn new() -> Self {
        Self::with(&["sysupgrade-1-a.conf"])
    }

    /// With this state, and nothing that is to be mended. Below the rank of the factory's slot there is
    /// room for more than the one that is made for the other slot, as after some upgrades.
    fn in_state(state: &BootState) -> Self {
        let this = Self::with(&["sysupgrade-2-a.conf"]);
        this.store(state).expect("stored");
        this
    }

    fn entries(&self) -> PathBuf {
        self.dir.path().join("loader/entries")
    }

    fn variables(&self) -> PathBuf {
        self.dir.path().join("efivars")
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.entries().join(name), text).expect("written");
    }

    fn boot(&self) -> SystemdBoot {
        let names = ["a", "b"].map(str::to_owned);
        SystemdBoot::new(self.entries(), self.variables(), names)
    }

    fn load(&self) -> Result<BootState, BootError> {
        self.boot().load()
    }

    fn store(&self, state: &BootState) -> Result<(), BootError> {
        self.boot().store(state)
    }

    fn flaws(&self) -> Vec<String> {
        self.boot().flaws().expect("the state can be read")
    }

    fn names(&self) -> Vec<String> {
        names_in(&self.entries())
    }

    /// What systemd-boot does.
    fn choose(&self) -> Slot {
        let text = loader::systemd_boot(&self.entries()).expect("it boots something");
        match text.trim().rsplit('=').next() {
            Some("a") => Slot::First,
            Some("b") => Slot::Second,
            _ => panic!("it boots {text}"),
        }
    }

    /// Puts the files of another one here.
    fn become_copy_of(&self, other: &Self) {
        for name in self.names() {
            fs::remove_file(self.entries().join(name)).expect("removed");
        }
        for name in other.names() {
            fs::copy(other.entries().join(&name), self.entries().join(&name)).expect("copied");
        }
    }
}

fn text(slot: &str) -> String {
    format!("linux /{slot}/vmlinuz\noptions quiet sysupgrade.slot={slot}\n")
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("text"))
        .collect();
    names.sort();
    names
}

fn all_states() -> impl Iterator<Item = BootState> {
    let conditions = || {
        let trials = (1..=MAX_TRIES).map(Condition::Trial);
        trials.chain([Condition::Good, Condition::Unbootable])
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

/// What the tool can make of a state, with the slot that runs then.
fn transitions(state: BootState) -> Vec<BootState> {
    let mut next: Vec<_> = Slot::ALL
        .into_iter()
        .flat_map(|running| {
            [
                state.begin_install(running),
                state.activate(running, 3),
                state.confirm(running),
                state.go_back(running),
            ]
        })
        .flatten()
        .filter(|next| *next != state)
        .collect();
    next.dedup();
    next
}

#[test]
fn every_state_is_read_back_and_systemd_boot_does_what_the_model_says() {
    for state in all_states() {
        let partition = Partition::in_state(&state);
        assert_eq!(partition.load().expect("stored"), state);
        assert_eq!(partition.flaws(), Vec::<String>::new());
        let (slot, after) = state.boot();
        let names = partition.names();
        assert_eq!(partition.choose(), slot, "{state:?} is {names:?}");
        let left = partition.names();
        let found = partition.load().expect("left behind by the loader");
        assert_eq!(found, after, "{state:?}: {names:?} became {left:?}");
        // What it counted stays, where nothing changes.
        partition.store(&after).expect("stored");
        assert_eq!(partition.names(), left);
    }
}

#[test]
fn a_transition_is_one_rename_of_the_slot_that_changes() {
    let mut seen = 0;
    for state in all_states() {
        for next in transitions(state) {
            let partition = Partition::in_state(&state);
            let before = partition.names();
            let (done, log) = trace::record(|| partition.store(&next));
            done.expect("stored");
            assert_eq!(partition.load().expect("stored"), next);
            let changes: Vec<_> = log
                .iter()
                .filter(|op| !matches!(op, Op::Sync { .. }))
                .collect();
            let [Op::Rename { from, to }] = changes[..] else {
                panic!("{state:?} becomes {next:?} by {changes:?}");
            };
            // FAT needs the file, then the directory: see `files::sync_name`.
            let at = log.iter().position(|op| op == changes[0]);
            let after = &log[at.expect("it is there") + 1..];
            let synced = [to.clone(), partition.entries()].map(|path| Op::Sync { path });
            assert_eq!(after[..2], synced, "after {from:?} became {to:?}");
            let names = partition.names();
            let stays = before.iter().filter(|name| names.contains(name)).count();
            assert_eq!(stays, 1, "{before:?} became {names:?}");
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} transitions");
}

#[test]
fn a_rename_that_leaves_both_names_boots_what_is_read_and_the_next_store_mends_it() {
    let mut seen = 0;
    for state in all_states() {
        for next in transitions(state) {
            let partition = Partition::in_state(&state);
            let before = Partition::with(&[]);
            before.become_copy_of(&partition);
            partition.store(&next).expect("stored");
            for name in before.names() {
                let from = before.entries().join(&name);
                fs::copy(from, partition.entries().join(&name)).expect("copied");
            }
            assert_eq!(partition.names().len(), 3);
            let mixed = partition.load().expect("it can be read");
            let flaws = partition.flaws().join("\n");
            assert!(flaws.contains("has two entries"), "{flaws}");
            let boots = [state, next].map(|state| state.boot().0);
            assert!(
                boots.contains(&mixed.boot().0),
                "{state:?}, {next:?}: {mixed:?}"
            );

            let torn = Partition::with(&[]);
            torn.become_copy_of(&partition);
            assert_eq!(torn.choose(), mixed.boot().0, "{:?}", partition.names());
            let counted = torn.load().expect("it can be read");
            // When the last try is counted, the name that was to be the new one comes to light.
            let slot = mixed.boot().0;
            let fits = [mixed.boot().1, state, next].map(|state| state.condition(slot));
            assert!(fits.contains(&counted.condition(slot)), "{counted:?}");

            partition.store(&mixed).expect("stored");
            assert_eq!(partition.load().expect("stored"), mixed);
            assert_eq!(partition.flaws(), Vec::<String>::new());
            assert_eq!(partition.names().len(), 2);
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} transitions");
}

#[test]
fn a_slot_without_an_entry_is_not_bootable_and_gets_one_from_the_copy() {
    let lost = Partition::with(&["sysupgrade-7-b.conf", "sysupgrade-8-a+2-1.conf"]);
    fs::remove_file(lost.entries().join("sysupgrade-8-a+2-1.conf")).expect("removed");
    let state = lost.load().expect("one is left");
    let expected = BootState {
        primary: Slot::Second,
        conditions: [Condition::Unbootable, Condition::Good],
    };
    assert_eq!(state, expected);
    assert_eq!(lost.flaws(), ["slot a has no entry"]);
    assert_eq!(lost.choose(), Slot::Second);
    lost.store(&state).expect("mended");
    assert_eq!(
        lost.names(),
        ["sysupgrade-6-a+0.conf", "sysupgrade-7-b.conf"]
    );
    let made = fs::read_to_string(lost.entries().join("sysupgrade-6-a+0.conf"));
    assert_eq!(made.expect("it is there"), text("a"));
}

#[test]
fn without_a_copy_nothing_is_written_for_a_slot_that_has_no_entry() {
    let lost = Partition::new();
    let copy = lost.entries().with_file_name("sysupgrade-b.conf");
    for broken in [None, Some("# nothing\n"), Some("linux /b\nsort-key x\n")] {
        let _ = fs::remove_file(&copy);
        if let Some(text) = broken {
            fs::write(&copy, text).expect("written");
        }
        let (done, log) = trace::record(|| lost.store(&BootState::FACTORY));
        let error = done.expect_err("there is nothing to make it from");
        assert!(error.to_string().contains("slot b has no entry"), "{error}");
        assert_eq!(log, []);
    }
}

#[test]
fn the_copy_is_made_from_the_entry_once() {
    let partition = Partition::with(&["sysupgrade-1-a.conf", "sysupgrade-0-b+0.conf"]);
    let copy = partition.entries().with_file_name("sysupgrade-b.conf");
    fs::remove_file(&copy).expect("removed");
    let flaws = partition.flaws();
    assert!(
        flaws[0].contains("sysupgrade-b.conf is missing"),
        "{flaws:?}"
    );
    partition.store(&BootState::FACTORY).expect("stored");
    assert_eq!(fs::read_to_string(&copy).expect("made"), text("b"));
    partition.put("sysupgrade-0-b+0.conf", "linux /elsewhere\n");
    partition.store(&BootState::FACTORY).expect("stored");
    assert_eq!(fs::read_to_string(&copy).expect("left"), text("b"));
}

#[test]
fn a_file_that_starts_nothing_is_no_entry() {
    let partition = Partition::in_state(&BootState::FACTORY);
    for hollow in ["", "# linux /x\n", "title x\n", "linux\n"] {
        partition.put("sysupgrade-9-b+3.conf", hollow);
        assert_eq!(
            partition.load().expect("it can be read"),
            BootState::FACTORY
        );
        assert_eq!(partition.flaws(), ["sysupgrade-9-b+3.conf starts nothing"]);
    }
    assert_eq!(partition.choose(), Slot::First);
    partition.store(&BootState::FACTORY).expect("stored");
    assert_eq!(
        partition.names(),
        ["sysupgrade-1-b+0.conf", "sysupgrade-2-a.conf"]
    );
}

#[test]
fn the_entries_of_others_are_not_looked_at() {
    let partition = Partition::in_state(&BootState::FACTORY);
    let others = [
        "arch.conf",
        "sysupgrade.conf",
        "sysupgrade-1-a.bak",
        "zz+0.conf",
    ];
    for name in others {
        partition.put(name, "linux /other\n");
    }
    assert_eq!(partition.choose(), Slot::First);
    assert_eq!(
        partition.load().expect("it can be read"),
        BootState::FACTORY
    );
    assert_eq!(partition.flaws(), Vec::<String>::new());
    let trial = BootState::FACTORY.activate(Slot::First, 3);
    partition
        .store(&trial.expect("it may begin"))
        .expect("stored");
    assert_eq!(partition.choose(), Slot::Second);
    for name in others {
        assert!(partition.entries().join(name).exists(), "{name}");
    }
}

#[test]
fn a_name_that_is_not_quite_ours_is_refused_until_it_is_repaired() {
    for (name, problem) in [
        ("sysupgrade-b.conf", "is not of the form"),
        ("sysupgrade-x-b.conf", "has no rank"),
        ("sysupgrade--2-b.conf", "has no rank"),
        ("sysupgrade-4294967296-b.conf", "has no rank"),
        ("sysupgrade-2-c.conf", "is of no slot"),
        ("sysupgrade-2-b+8.conf", "has more than 7 tries left"),
        ("sysupgrade-2-b+.conf", "has no number of tries"),
        ("sysupgrade-2-b+3-.conf", "has no number of boots"),
        ("sysupgrade-2-b+3-1-1.conf", "has no number of boots"),
        ("sysupgrade-2-b++3.conf", "has no number of tries"),
        // Its counter would not be one to the loader.
        ("sysupgrade-2-b+3.CONF", "is not of the form"),
        ("SYSUPGRADE-2-B.conf", "is not of the form"),
    ] {
        let partition = Partition::in_state(&BootState::FACTORY);
        partition.put(name, &text("b"));
        let error = partition.load().expect_err(name).to_string();
        assert!(error.contains(&format!("{name}: {problem}")), "{error}");
        let (done, log) = trace::record(|| partition.store(&BootState::FACTORY));
        done.expect_err(name);
        assert_eq!(log, []);
        let told = partition.boot().repair(&BootState::FACTORY).expect(name);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(partition.load().expect(name), BootState::FACTORY);
    }
}

#[test]
fn an_order_that_is_not_that_of_the_ranks_is_refused_until_it_is_repaired() {
    let equal = Partition::with(&["sysupgrade-2-a.conf", "sysupgrade-2-b.conf"]);
    let none = Partition::with(&["arch.conf"]);
    let sorted = Partition::with(&["sysupgrade-1-a.conf"]);
    sorted.put("sysupgrade-2-b.conf", &(text("b") + "sort-key b\n"));
    for (partition, problem) in [
        (equal, "both slots have rank 2"),
        (none, "no slot has an entry"),
        (sorted, "has a `sort-key`"),
    ] {
        let error = partition.load().expect_err(problem).to_string();
        assert!(error.contains(problem), "{error}");
        let state = BootState {
            primary: Slot::Second,
            conditions: [Condition::Good; 2],
        };
        let told = partition.boot().repair(&state).expect(problem);
        assert_eq!(partition.load().expect(problem), state, "{told:?}");
        assert_eq!(partition.choose(), Slot::Second);
    }
}

#[test]
fn whatever_else_says_which_entry_boots_is_refused() {
    for (config, problem) in [
        ("timeout 0\n", "default: is missing"),
        ("default arch.conf\n", "default: is `arch.conf`, not"),
        (
            "default sysupgrade-*\ndefault @saved\n",
            "default: is `@saved`",
        ),
        ("#default sysupgrade-*\n", "default: is missing"),
    ] {
        let partition = Partition::in_state(&BootState::FACTORY);
        partition.put("../loader.conf", config);
        let error = partition.load().expect_err(config).to_string();
        assert!(error.contains(problem), "{error}");
        partition.boot().repair(&BootState::FACTORY).expect(config);
        assert_eq!(partition.load().expect(config), BootState::FACTORY);
        let repaired = fs::read_to_string(partition.entries().with_file_name("loader.conf"));
        let timeout = repaired.expect("it is there").contains("timeout 0");
        assert_eq!(timeout, config.contains("timeout 0"), "the rest is kept");
    }
    for name in ["LoaderEntryDefault", "LoaderEntryOneShot"] {
        let partition = Partition::in_state(&BootState::FACTORY);
        let file = format!("{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
        let path = partition.variables().join(file);
        fs::create_dir(partition.variables()).expect("made");
        fs::write(&path, b"\x07\0\0\0\0\0").expect("written");
        assert_eq!(partition.load().expect("an empty one"), BootState::FACTORY);
        fs::write(&path, b"\x07\0\0\0x\0\0\0").expect("written");
        let error = partition.load().expect_err(name).to_string();
        assert!(
            error.contains(&format!("{name}: says which entry boots")),
            "{error}"
        );
        let repair = partition.boot().repair(&BootState::FACTORY);
        repair.expect_err("the firmware's variables are not ours");
    }
}
