//! The real U-Boot: its boot scripts decide as [`BootState::boot`] says, from every environment that is
//! worth a look, and a router with it upgrades and falls back as the others do.
//!
//! A decision needs no Linux: U-Boot says its choice, and the plug is pulled.
#![allow(clippy::print_stdout, reason = "the number of states is printed")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use byteorder::LittleEndian;
use sysupgrade_rs::board::{Layout, Place, Store};
use sysupgrade_rs::boot::uboot_env::{Environment, Kind, StoredCopy};
use sysupgrade_rs::boot::{Bootloader, UbootEnv};
use sysupgrade_rs::files::trace;
use sysupgrade_rs::flash::Chips as _;
use sysupgrade_rs::slots::{BootState, Condition, Slot};
use tempfile::TempDir;

use crate::router::{Disk, Machine, Router, sources};
use crate::sim::{Chips, Random, Run};
use crate::upgrade;
use crate::world::snapshot::Snapshot;

/// A copy of the environment, in a sector of its own (`qemu/arm64/u-boot.config`).
const SIZE: usize = 0x4000;
const SECTOR: usize = 0x40000;

/// The tries of `board/qemu-arm64.toml`.
const TRIES: u8 = 3;

/// Variables that are nobody's business here; U-Boot keeps them when it saves.
const FOREIGN: [(&str, &str); 3] = [
    ("ethaddr", "02:00:00:00:00:01"),
    ("slot", "b"),
    ("words", "a \"b\" 'c' $d; ${e} #f"),
];

/// A boot script, and the layout that it stands for.
struct Script {
    name: &'static str,
    layout: Layout,
}

impl Script {
    fn new(name: &'static str, layout: &str) -> Self {
        let layout = match layout {
            "" => Layout::Order,
            text => Layout::Switch(Box::new(
                sysupgrade_rs::toml_text::read(text).expect("a switch"),
            )),
        };
        Self { name, layout }
    }

    fn order() -> Self {
        Self::new("order", "")
    }

    fn boot_part() -> Self {
        Self::new(
            "boot-part",
            "variable = 'boot_part'\nvalues = ['1', '2']\nabsent = '1'",
        )
    }

    fn bootcount() -> Self {
        Self::new("bootcount", COUNTED)
    }

    /// U-Boot itself counts.
    fn bootcount_env() -> Self {
        let fallback = "fallback = 'altbootcmd'";
        Self::new("bootcount-env", &format!("{COUNTED}{fallback}"))
    }

    fn counts(&self) -> bool {
        self.name != "boot-part"
    }
}

const COUNTED: &str = "
    variable = 'active'
    values = ['a', 'b']
    absent = 'a'
    [counter]
    armed = 'upgrade_available'
    count = 'bootcount'
    limit = 'bootlimit'
";

/// Two sectors of flash with a copy of the environment each.
#[derive(Clone)]
struct Flash(Vec<u8>);

impl Flash {
    /// With these copies; `None` is an erased sector.
    fn new(copies: [Option<&StoredCopy>; 2]) -> Self {
        let mut flash = Self(vec![0xff; 2 * SECTOR]);
        for (number, copy) in copies.into_iter().enumerate() {
            if let Some(copy) = copy {
                let bytes = copy.encode::<LittleEndian>(Kind::Redundant, SIZE);
                flash.0[number * SECTOR..][..SIZE].copy_from_slice(&bytes.expect("it fits"));
            }
        }
        flash
    }

    /// A router on which this state was stored by us, the other copy holding what was before.
    fn with(script: &Script, state: &BootState) -> Self {
        let copies = [1, 0].map(|flags| copy(flags, &[]));
        let flash = Self::new([Some(&copies[0]), Some(&copies[1])]);
        flash.stored(script, state)
    }

    /// After a store of ours.
    fn stored(&self, script: &Script, state: &BootState) -> Self {
        let chips = self.chips();
        let stored = env(&chips, script).store(state);
        stored.expect("there is room");
        Self::read(&chips)
    }

    fn chips(&self) -> Chips {
        let chips = Chips::new(1);
        let sector = u32::try_from(SECTOR).expect("small");
        chips.add_nor("env", 2 * u64::from(sector), sector);
        chips.put("env", 0, &self.0);
        chips
    }

    fn read(chips: &Chips) -> Self {
        let mut bytes = vec![0; 2 * SECTOR];
        let read = chips.mtd("env").expect("there").read(0, &mut bytes);
        read.expect("NOR reads something always");
        Self(bytes)
    }

    fn load(&self, script: &Script) -> Result<BootState, String> {
        let state = env(&self.chips(), script).load();
        state.map_err(|error| error.to_string())
    }

    fn are_whole(&self) -> [bool; 2] {
        [0, SECTOR].map(|at| {
            let bytes = &self.0[at..][..SIZE];
            StoredCopy::decode::<LittleEndian>(bytes, Kind::Redundant).is_ok()
        })
    }

    fn variables(&self, script: &Script) -> Environment {
        env(&self.chips(), script).variables().expect("whole")
    }

    /// With some bytes of a copy overwritten.
    fn damaged(mut self, copy: usize, offset: usize, bytes: &[u8]) -> Self {
        self.0[copy * SECTOR + offset..][..bytes.len()].copy_from_slice(bytes);
        self
    }
}

/// A copy with the foreign variables, those that U-Boot needs and these.
fn copy(flags: u8, variables: &[(&str, &str)]) -> StoredCopy {
    let mut environment = Environment::default();
    let own = [
        ("bootcmd", "source 0x200000"),
        ("altbootcmd", "source 0x200000"),
        // So that it does not go on from its choice.
        ("boot_slot", "poweroff"),
        // Variables of the scripts' own, which these would hide.
        ("try_left", "_9"),
        ("try_said", "hidden"),
        // So that no half of a copy is padding.
        ("long", &"x".repeat(SIZE * 3 / 4)),
    ];
    for (name, value) in own.iter().chain(&FOREIGN).chain(variables) {
        environment.set(name, value);
    }
    StoredCopy { flags, environment }
}

fn env(chips: &Chips, script: &Script) -> UbootEnv {
    let store = |offset: usize| Store {
        place: Place::Mtd("env".to_owned()),
        offset: offset as u64,
        size: Some(SIZE as u64),
        window: None,
    };
    let names = ["a", "b"].map(str::to_owned);
    let stores = [0, SECTOR].map(store).to_vec();
    UbootEnv::new(Path::new("/"), stores, names, Rc::new(chips.clone()))
        .with_layout(&script.layout, TRIES)
}

/// A router with U-Boot and nothing else.
struct Bench {
    dir: TempDir,
}

/// What U-Boot made of a flash.
struct Decision {
    /// What it said of slots, up to its choice: `b, good`.
    said: Vec<String>,
    /// What it left behind.
    flash: Flash,
}

impl Decision {
    fn slot(&self) -> Slot {
        match self.said.last().and_then(|said| said.chars().next()) {
            Some('a') => Slot::First,
            Some('b') => Slot::Second,
            _ => panic!("no choice: {:?}", self.said),
        }
    }
}

impl Bench {
    fn new() -> Self {
        Machine::Arm64.factory_disk();
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let disk = File::create(dir.path().join("disk"));
        disk.and_then(|disk| disk.set_len(1 << 20)).expect("a disk");
        Self { dir }
    }

    /// Powers on with this flash, and pulls the plug when U-Boot has decided.
    fn decide(&self, script: &Script, flash: &Flash) -> Decision {
        self.decide_with(script, flash, &[])
    }

    fn decide_with(&self, script: &Script, flash: &Flash, arguments: &[&str]) -> Decision {
        let disk = self.dir.path().join("disk");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(disk.with_extension("flash"))
            .expect("a file");
        // The size of a bank.
        file.set_len(64 << 20).expect("a file grows");
        file.write_all_at(&flash.0, 0).expect("a flash");

        let mut command = Command::new(sources().join("arm64/run"));
        command.arg("--disk").arg(&disk);
        command.args(["--script", script.name]).args(arguments);
        let mut router = Router::start(&mut command);
        let mut said: Vec<String> = Vec::new();
        while said.last().is_none_or(|said| said.contains("passed over")) {
            router.wait_for("boot: slot ");
            said.push(router.wait_for("\n").trim().to_owned());
        }
        router.power_off();

        let mut left = vec![0; 2 * SECTOR];
        file.read_exact_at(&mut left, 0).expect("a flash");
        Decision {
            said,
            flash: Flash(left),
        }
    }

    /// U-Boot chooses and leaves behind what the model says, and keeps what is not its own.
    fn agrees(&self, script: &Script, flash: &Flash, what: &str) {
        let state = flash
            .load(script)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let (slot, mut after) = state.boot();
        if !script.counts() {
            after = state;
        }
        let decision = self.decide(script, flash);
        let name = script.name;
        assert_eq!(
            (decision.slot(), decision.flash.load(script)),
            (slot, Ok(after)),
            "{name}: {what}: {state:?}; U-Boot says {:?}",
            decision.said
        );
        let variables = decision.flash.variables(script);
        for (name, value) in FOREIGN {
            let kept = variables.get(name).map(String::from_utf8_lossy);
            assert_eq!(kept.as_deref(), Some(value), "{what}: {name}");
        }
    }
}

/// The other slot matters only when the first one is passed over.
fn states() -> Vec<BootState> {
    let mut states = Vec::new();
    let first = [Condition::Unbootable, Condition::Good].into_iter();
    for first in first.chain((1..=TRIES).map(Condition::Trial)) {
        for second in [Condition::Unbootable, Condition::Trial(1), Condition::Good] {
            for primary in Slot::ALL {
                let mut conditions = [first; 2];
                conditions[primary.other().index()] = second;
                states.push(BootState {
                    primary,
                    conditions,
                });
            }
        }
    }
    states
}

fn compare_all_states(script: &Script) {
    let bench = Bench::new();
    let states = states();
    for state in &states {
        bench.agrees(script, &Flash::with(script, state), "as stored by us");
    }
    println!("{}: {} states compared", script.name, states.len());
}

#[test]
#[ignore = "needs QEMU"]
fn with_an_order_u_boot_chooses_and_counts_as_the_model_does() {
    compare_all_states(&Script::order());
}

#[test]
#[ignore = "needs QEMU"]
fn with_a_switch_u_boot_chooses_as_the_model_does() {
    compare_all_states(&Script::boot_part());
}

#[test]
#[ignore = "needs QEMU"]
fn with_a_counter_of_the_script_u_boot_chooses_and_counts_as_the_model_does() {
    compare_all_states(&Script::bootcount());
}

#[test]
#[ignore = "needs QEMU"]
fn with_its_own_counter_u_boot_chooses_and_counts_as_the_model_does() {
    compare_all_states(&Script::bootcount_env());
}

/// The factory's state, then what an install commits: the older copy boots a, the newer one b.
fn committed(script: &Script) -> Flash {
    let trial = BootState::FACTORY.activate(Slot::First, TRIES);
    Flash::with(script, &BootState::FACTORY).stored(script, &trial.expect("it may begin"))
}

#[test]
#[ignore = "needs QEMU"]
fn a_trial_gets_its_tries_and_no_more() {
    let bench = Bench::new();
    for script in [
        Script::order(),
        Script::bootcount(),
        Script::bootcount_env(),
    ] {
        let mut flash = committed(&script);
        let mut state = flash.load(&script).expect("stored by us");
        for boot in 0..TRIES + 2 {
            let (slot, after) = state.boot();
            let decision = bench.decide(&script, &flash);
            let name = script.name;
            assert_eq!(decision.slot(), slot, "{name}: boot {boot} of {state:?}");
            flash = decision.flash;
            assert_eq!(flash.load(&script), Ok(after), "{name}: boot {boot}");
            state = after;
        }
        assert_eq!(state.boot().0, Slot::First);
    }
}

#[test]
#[ignore = "needs QEMU"]
fn of_two_copies_u_boot_takes_the_one_that_we_take() {
    let bench = Bench::new();
    let script = Script::order();
    let committed = committed(&script);
    let mut compared = 0;
    for copy in 0..2 {
        let half = &committed.0[copy * SECTOR..][..SIZE / 2];
        let cleared: Vec<u8> = half.iter().map(|byte| byte & 0x5a).collect();
        for (what, offset, bytes) in [
            ("its CRC is wrong", 0, vec![0; 4]),
            ("a byte is wrong", SIZE - 1, vec![1]),
            ("half of it is zero", SIZE / 2, vec![0; SIZE / 2]),
            ("it was programmed by half", SIZE / 2, vec![0xff; SIZE / 2]),
            ("half of it lost bits", 0, cleared),
            ("it is erased", 0, vec![0xff; SIZE]),
        ] {
            let flash = committed.clone().damaged(copy, offset, &bytes);
            bench.agrees(&script, &flash, &format!("copy {copy}: {what}"));
            compared += 1;
        }
    }
    for first in [0, 1, 2, 255] {
        for second in [0, 1, 2, 255] {
            let flash = committed.clone().damaged(0, 4, &[first]);
            let flash = flash.damaged(1, 4, &[second]);
            let what = format!("flags {first} and {second}");
            if [first, second].contains(&2) {
                // Nobody writes that. U-Boot repairs it in a way that changes its choice the next time.
                let state = flash.load(&script).expect(&what);
                let decision = bench.decide(&script, &flash);
                assert_eq!(decision.slot(), state.boot().0, "{what}");
            } else {
                bench.agrees(&script, &flash, &what);
            }
            compared += 1;
        }
    }
    println!("{compared} states compared");
}

#[test]
#[ignore = "needs QEMU"]
fn whatever_a_cut_in_a_store_leaves_u_boot_reads_as_we_do() {
    let bench = Bench::new();
    let script = Script::order();
    let factory = Flash::with(&script, &BootState::FACTORY);
    let trial = committed(&script).load(&script).expect("stored by us");
    let chips = factory.chips();
    let start = chips.state();
    let (stored, log) = trace::record(|| env(&chips, &script).store(&trial));
    stored.expect("stored");
    let run = Run {
        root: Path::new("/"),
        disk: &Snapshot::default(),
        log: &log,
        chips: &start,
        chips_log: &chips.log(),
    };
    let (crashes, _) = run.cuts(&mut Random(1));
    assert!(crashes.len() > 5, "only {} cuts", crashes.len());
    for crash in &crashes {
        // An erase that was cut reads one way now and another way later: U-Boot sees what we see.
        let flash = Flash::read(&Chips::with_state(&crash.chips));
        let state = flash.load(&script).expect(&crash.story);
        assert!(
            [BootState::FACTORY, trial].contains(&state),
            "{}",
            crash.story
        );
        bench.agrees(&script, &flash, &crash.story);
    }
    println!("{} states compared", crashes.len());
}

#[test]
#[ignore = "needs QEMU"]
fn a_power_cut_while_u_boot_counts_leaves_the_count_before_or_after() {
    let bench = Bench::new();
    let script = Script::order();
    let committed = committed(&script);
    let before = committed.load(&script).expect("stored by us");
    let after = before.boot().1;
    let mut left = Vec::new();
    for write in 1.. {
        // Its flash takes nothing any more from this write on.
        let stop = ["--stop-at", &write.to_string()];
        let flash = bench.decide_with(&script, &committed, &stop).flash;
        let state = flash.load(&script).expect("one copy is whole");
        assert!([before, after].contains(&state), "write {write}: {state:?}");
        bench.agrees(&script, &flash, &format!("cut before write {write}"));
        left.push((state == after, flash.0[4], flash.0[SECTOR + 4]));
        // What follows belongs to the rest of the sector.
        if state == after && flash.0[4] * flash.0[SECTOR + 4] == 0 {
            break;
        }
    }
    println!("{} cuts: {left:?}", left.len());
    assert!(left.len() > 3, "{left:?}");
}

#[test]
#[ignore = "needs QEMU"]
fn variables_that_are_missing_or_make_no_sense_cost_a_slot_its_place_and_not_the_boot() {
    let bench = Bench::new();
    let (order, bootcount) = (Script::order(), Script::bootcount());
    let (bootcount_env, boot_part) = (Script::bootcount_env(), Script::boot_part());
    let armed = ("upgrade_available", "1");
    let active = ("active", "b");
    let slots = ("sysupgrade_slots", "9 3");
    let limit = ("bootlimit", "3");
    let (a, b) = (("BOOT_A_LEFT", "9"), ("BOOT_B_LEFT", "9"));
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let table: &[(&Script, Variables<'_>, &str)] = &[
        (&order, &[a, b], "a, good"),
        (&order, &[("BOOT_ORDER", "B"), a, b], "b, good"),
        (&order, &[("BOOT_ORDER", "B B"), a, b], "b, good"),
        (&order, &[("BOOT_ORDER", "A A"), a, b], "a, good"),
        (&order, &[("BOOT_ORDER", "b a"), a, b], "a, good"),
        (&order, &[("BOOT_ORDER", "C A"), a, b], "a, good"),
        (&order, &[("BOOT_ORDER", "B A"), a], "a, good"),
        (
            &order,
            &[("BOOT_ORDER", "B A"), a, ("BOOT_B_LEFT", "8")],
            "a, good",
        ),
        (
            &order,
            &[("BOOT_ORDER", "B A"), a, ("BOOT_B_LEFT", "03")],
            "a, good",
        ),
        (
            &order,
            &[("BOOT_ORDER", "B A"), a, ("BOOT_B_LEFT", "3x")],
            "a, good",
        ),
        (
            &order,
            &[("BOOT_ORDER", "B A"), a, ("BOOT_B_LEFT", "-1")],
            "a, good",
        ),
        (&order, &[("BOOT_ORDER", "B A")], "b, as a last resort"),
        (&order, &[], "a, as a last resort"),
        (&boot_part, &[], "a, by boot_part"),
        (&boot_part, &[("boot_part", "3")], "a, by boot_part"),
        (&bootcount, &[], "a, good"),
        (&bootcount, &[("active", "c")], "a, good"),
        (
            &bootcount,
            &[active, armed, slots, limit],
            "b, on trial, try 1 of 3",
        ),
        (&bootcount, &[active, armed, slots], "a, good"),
        (
            &bootcount,
            &[active, armed, slots, limit, ("bootcount", "x")],
            "a, good",
        ),
        (
            &bootcount,
            &[active, armed, slots, limit, ("bootcount", "9")],
            "a, good",
        ),
        (&bootcount_env, &[], "a, good"),
        (
            &bootcount_env,
            &[active, armed, slots, limit],
            "b, on trial, try 1 of 3",
        ),
        (&bootcount_env, &[active, armed, slots], "a, good"),
        (
            &bootcount_env,
            &[active, armed, slots, limit, ("bootcount", "9")],
            "a, good",
        ),
    ];
    for (script, variables, expected) in table {
        let copies = [copy(1, variables), copy(0, variables)];
        let flash = Flash::new([Some(&copies[0]), Some(&copies[1])]);
        let decision = bench.decide(script, &flash);
        let name = script.name;
        assert_eq!(
            decision.said.last().map(String::as_str),
            Some(*expected),
            "{name}: {variables:?}"
        );
        // Where we read a state at all, it is the one that U-Boot goes by.
        if let Ok(state) = flash.load(script) {
            assert_eq!(decision.slot(), state.boot().0, "{name}: {variables:?}");
        }
    }
    println!("{} states compared", table.len());
}

#[test]
#[ignore = "needs QEMU"]
fn u_boot_gives_no_try_that_it_cannot_count() {
    let bench = Bench::new();
    for script in [
        Script::order(),
        Script::bootcount(),
        Script::bootcount_env(),
    ] {
        let decision = bench.decide_with(&script, &committed(&script), &["--locked"]);
        let expected = ["b passed over, its try cannot be counted", "a, good"];
        assert_eq!(decision.said, expected, "{}", script.name);
    }
}

#[test]
#[ignore = "needs QEMU"]
fn u_boot_starts_something_when_both_copies_are_lost_and_leaves_them_alone() {
    let bench = Bench::new();
    for (script, expected) in [
        (Script::order(), "a, as a last resort"),
        (Script::bootcount(), "a, good"),
        (Script::boot_part(), "a, by boot_part"),
    ] {
        let lost = committed(&script).damaged(0, 0, &[0; 8]);
        for flash in [
            lost.damaged(1, SIZE / 2, &vec![0; SIZE / 2]),
            Flash(vec![0; 2 * SECTOR]),
            Flash::new([None, None]),
        ] {
            let decision = bench.decide(&script, &flash);
            assert_eq!(decision.said, [expected], "{}", script.name);
            // It marks a copy as active that it does not use.
            let mut left = decision.flash;
            for copy in 0..2 {
                left = left.damaged(copy, 4, &flash.0[copy * SECTOR + 4..][..1]);
            }
            assert!(left.0 == flash.0, "{}: it was written", script.name);
        }
    }
}

#[test]
#[ignore = "needs QEMU"]
fn an_upgrade_keeps_the_edits_and_a_confirmed_system_stays() {
    let disk = Disk::of(Machine::Arm64);
    upgrade::install_a_good_system(&disk).power_off();
    let mut router = disk.start();
    router.wait_for("boot: slot b, good");
}

#[test]
#[ignore = "needs QEMU"]
fn a_system_that_dies_at_boot_loses_its_tries_and_the_old_one_is_back() {
    upgrade::install_a_system_that_dies(&Disk::of(Machine::Arm64));
}

#[test]
#[ignore = "needs QEMU"]
fn a_power_cut_while_linux_stores_the_environment_leaves_the_old_system() {
    let script = Script::order();
    let edited = Disk::of(Machine::Arm64);
    upgrade::edited_router(&edited).power_off();
    // Of the commit, which is erase, program word by word, mark the old copy obsolete: behind the erase,
    // in the middle of the program, behind it.
    for (write, whole) in [
        (3, [true, false]),
        (2000, [true, false]),
        (4099, [true, true]),
    ] {
        let disk = edited.copy();
        let mut router = disk.start_with(&["--stop-at", &write.to_string()]);
        router.log_in();
        router.type_line("sysupgrade-rs --no-reboot /root/v2.bin");
        router.wait_for("Could not update PFLASH");
        router.power_off();

        let mut left = vec![0; 2 * SECTOR];
        let flash = File::open(disk.flash()).expect("a flash");
        flash.read_exact_at(&mut left, 0).expect("two sectors");
        let left = Flash(left);
        assert_eq!(left.are_whole(), whole, "before write {write}");
        assert_eq!(left.load(&script), Ok(BootState::FACTORY));

        let mut router = disk.start();
        router.wait_for("boot: slot a, good");
        router.log_in();
        upgrade::assert_old_configuration(&mut router);
        assert_eq!(router.status()["standing"], "good", "write {write}");
    }
}
