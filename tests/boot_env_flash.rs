//! U-Boot environments on raw flash and in UBI volumes, on the simulated chips of [`sim::chips`].

mod sim;
mod world;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use byteorder::NativeEndian;
use serde_json::Value;
use sysupgrade_rs::board::{Place, Store, Volume, VolumeType};
use sysupgrade_rs::boot::{BootError, Bootloader, UbootEnv};
use sysupgrade_rs::files::trace::{self, Op};
use sysupgrade_rs::flash::mtd::{Geometry, RawMtd};
use sysupgrade_rs::flash::ubi::{RawUbi, UbiInfo, VolumeInfo};
use sysupgrade_rs::flash::{self, FlashError};
use sysupgrade_rs::slots::{BootState, Condition, Slot};

use sim::chips::NandFaults;
use sim::{Chips, ChipsState, Crash, Random, Run};
use tempfile::TempDir;
use world::snapshot::Snapshot;

const BLOCK: u32 = 1024;
const PAGE: u32 = 256;
const SIZE: u64 = 700;
/// In blocks.
const WINDOW: u64 = 4;

const NEXT: BootState = BootState {
    primary: Slot::Second,
    conditions: [Condition::Good, Condition::Trial(3)],
};
const LAST: BootState = BootState {
    primary: Slot::Second,
    conditions: [Condition::Good, Condition::Good],
};

/// Of a system without locks and without an initial environment.
const ROOT: &str = "/no-such-root";

fn names() -> [String; 2] {
    ["a".to_owned(), "b".to_owned()]
}

fn factory(copies: usize) -> Vec<Vec<u8>> {
    let size = usize::try_from(SIZE).expect("small");
    UbootEnv::format::<NativeEndian>(names(), &BootState::FACTORY, &[], size, copies)
        .expect("it fits")
}

fn on_mtd(offsets: [u64; 2]) -> Vec<Store> {
    let store = |offset| Store {
        place: Place::Mtd("env".to_owned()),
        offset,
        size: Some(SIZE),
        window: Some(WINDOW * u64::from(BLOCK)),
    };
    offsets.map(store).to_vec()
}

fn env(chips: &Chips, stores: &[Store]) -> UbootEnv {
    env_in(Path::new(ROOT), chips, stores)
}

fn env_in(root: &Path, chips: &Chips, stores: &[Store]) -> UbootEnv {
    UbootEnv::new(root, stores.to_vec(), names(), Rc::new(chips.clone()))
}

fn load(chips: &Chips, stores: &[Store]) -> Result<BootState, BootError> {
    env(chips, stores).load()
}

/// A chip with two copies, and where they are.
fn medium(kind: &str) -> (Chips, Vec<Store>) {
    let chips = Chips::new(1);
    let offsets = [0, WINDOW * u64::from(BLOCK)];
    let size = 2 * WINDOW * u64::from(BLOCK);
    match kind {
        "nor" => chips.add_nor("env", size, BLOCK),
        "nand" => {
            let faults = NandFaults {
                factory_bad: vec![0, 5],
            };
            chips.add_nand("env", size, BLOCK, PAGE, &faults);
        }
        _ => {
            chips.add_ubi("env", BLOCK, 8);
            let volumes = ["one", "two"].map(|volume| Store {
                place: Place::Ubi(Volume {
                    mtd: "env".to_owned(),
                    volume: volume.to_owned(),
                }),
                offset: 0,
                size: Some(SIZE),
                window: None,
            });
            let volume_type = match kind {
                "static" => VolumeType::Static,
                _ => VolumeType::Dynamic,
            };
            for (name, copy) in ["one", "two"].into_iter().zip(factory(2)) {
                chips.put_volume("env", name, volume_type, SIZE, &copy);
            }
            return (chips, volumes.to_vec());
        }
    }
    for (offset, copy) in offsets.into_iter().zip(factory(2)) {
        chips.put("env", offset, &copy);
    }
    (chips, on_mtd(offsets))
}

/// Everything that a cut in `store` can leave.
fn cuts(state: &ChipsState, stores: &[Store], new: &BootState) -> Vec<Crash> {
    cuts_of(state, stores, new, |chips| env(chips, stores).store(new))
}

/// Everything that a cut in work can leave which ends with this state.
fn cuts_of(
    state: &ChipsState,
    stores: &[Store],
    new: &BootState,
    work: impl FnOnce(&Chips) -> Result<(), BootError>,
) -> Vec<Crash> {
    let chips = Chips::with_state(state);
    let (stored, log) = trace::record(|| work(&chips));
    stored.expect("stored");
    assert_eq!(load(&chips, stores).expect("whole"), *new);
    assert_eq!(env(&chips, stores).flaws().expect("whole"), [""; 0]);
    assert_eq!(chips.violations(), [""; 0]);
    let run = Run {
        root: Path::new("/"),
        disk: &Snapshot::default(),
        log: &log,
        chips: state,
        chips_log: &chips.log(),
    };
    run.cuts(&mut Random(1)).0
}

#[test]
fn a_store_that_is_cut_leaves_the_old_state_or_the_new_and_cut_again_one_that_was_asked_for() {
    for kind in ["nor", "nand", "dynamic", "static"] {
        let (chips, stores) = medium(kind);
        for first in [NEXT, LAST] {
            let crashes = cuts(&chips.state(), &stores, &first);
            assert!(crashes.len() > 1, "{kind}");
            for crash in &crashes {
                let state = load(&Chips::with_state(&crash.chips), &stores);
                let state =
                    state.unwrap_or_else(|error| panic!("{kind}: {}: {error}", crash.story));
                let allowed = match crash.after_the_end {
                    true => vec![first],
                    false => vec![BootState::FACTORY, first],
                };
                assert!(
                    allowed.contains(&state),
                    "{kind}: {}: {state:?}",
                    crash.story
                );
                // Once with the store that was cut, once with another one.
                for second in [first, LAST] {
                    for again in cuts(&crash.chips, &stores, &second) {
                        let story = format!("{kind}: {}; and again, {}", crash.story, again.story);
                        let state = load(&Chips::with_state(&again.chips), &stores);
                        let state = state.unwrap_or_else(|error| panic!("{story}: {error}"));
                        let allowed = [BootState::FACTORY, first, second];
                        assert!(allowed.contains(&state), "{story}: {state:?}");
                        assert!(
                            !again.after_the_end || state == second,
                            "{story}: {state:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn of_two_whole_copies_on_nor_the_one_counts_that_uboot_takes_and_a_store_makes_it_obsolete() {
    let path = format!(
        "{}/tests/vectors/uboot-env/nor-flags.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = fs::read_to_string(path).expect("a vector");
    let vectors: Value = serde_json::from_str(&text).expect("JSON");
    let results = vectors["results"].as_array().expect("a list");
    assert_eq!(results.len(), 9);
    for result in results {
        let flags = [0, 1].map(|at| result["flags"][at].as_u64().expect("a byte"));
        let active = result["u_boot"]["active"].as_u64().expect("a number");
        let (chips, stores) = medium("nor");
        let size = usize::try_from(SIZE).expect("small");
        for (copy, state) in [BootState::FACTORY, NEXT].iter().enumerate() {
            let bytes = UbootEnv::format::<NativeEndian>(names(), state, &[], size, 2);
            let mut bytes = bytes.expect("it fits").remove(0);
            bytes[4] = u8::try_from(flags[copy]).expect("a byte");
            chips.put("env", stores[copy].offset, &bytes);
        }
        let chips = Chips::with_state(&chips.state());
        let expected = [BootState::FACTORY, NEXT][usize::try_from(active).expect("small")];
        assert_eq!(load(&chips, &stores).expect("whole"), expected, "{flags:?}");
        let flaws = env(&chips, &stores).flaws().expect("whole");
        let in_order = matches!(flags, [1, 0] | [0, 1]);
        assert_eq!(flaws.is_empty(), in_order, "{flags:?}: {flaws:?}");
        // The same state mends them, too.
        let mended = Chips::with_state(&chips.state());
        env(&mended, &stores).store(&expected).expect("stored");
        assert_eq!(env(&mended, &stores).flaws().expect("whole"), [""; 0]);
        assert_eq!(load(&mended, &stores).expect("whole"), expected);
        env(&chips, &stores).store(&LAST).expect("stored");
        let after = [0, 1].map(|at| {
            let offset = stores[at].offset + 4;
            chips.part("env", offset, 1).expect("readable")[0]
        });
        let flags_after = if active == 0 { [0, 1] } else { [1, 0] };
        assert_eq!(after, flags_after, "{flags:?}");
        assert_eq!(load(&chips, &stores).expect("whole"), LAST);
        assert_eq!(chips.violations(), [""; 0]);
    }
}

/// A root with the variables with which U-Boot was built.
fn with_initial() -> TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(root.path().join("etc")).expect("there is room");
    let initial = root.path().join("etc/u-boot-initial-env");
    fs::write(initial, "bootcmd=run ab\n").expect("there is room");
    root
}

/// Makes all copies unreadable.
fn ruin(chips: &Chips, kind: &str, stores: &[Store]) {
    let nothing = vec![0x55; usize::try_from(SIZE).expect("small")];
    for (store, name) in stores.iter().zip(["one", "two"]) {
        if matches!(kind, "nor" | "nand") {
            chips.put("env", store.offset, &nothing);
        } else {
            let mut ubi = flash::Chips::ubi(chips, "env").expect("UBI");
            let written = ubi.update(name, SIZE, &mut &*nothing);
            written.and_then(|source| source).expect("written");
        }
    }
}

#[test]
fn a_repair_that_is_cut_leaves_an_unreadable_pair_unreadable_or_repaired() {
    let root = with_initial();
    for kind in ["nor", "nand", "dynamic", "static"] {
        let (chips, stores) = medium(kind);
        ruin(&chips, kind, &stores);
        let state = chips.state();
        load(&Chips::with_state(&state), &stores).expect_err("both are damaged");
        let repair = |chips: &Chips| env_in(root.path(), chips, &stores).repair(&LAST).map(drop);
        let mut seen = [0; 2];
        for crash in cuts_of(&state, &stores, &LAST, repair) {
            let story = format!("{kind}: {}", crash.story);
            let found = load(&Chips::with_state(&crash.chips), &stores);
            seen[usize::from(found.is_ok())] += 1;
            match found {
                Ok(state) => assert_eq!(state, LAST, "{story}"),
                Err(BootError::Damaged { .. }) => assert!(!crash.after_the_end, "{story}"),
                Err(error) => panic!("{story}: {error}"),
            }
            for again in cuts_of(&crash.chips, &stores, &LAST, repair) {
                let found = load(&Chips::with_state(&again.chips), &stores);
                let story = format!("{story}; and again, {}", again.story);
                assert!(
                    found.as_ref().is_ok_and(|state| *state == LAST) || found.is_err(),
                    "{story}"
                );
                assert!(found.is_ok() || !again.after_the_end, "{story}");
            }
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{kind}: {seen:?}");
    }
}

#[test]
fn two_copies_that_share_an_erase_block_are_refused_on_nand_all_of_their_windows() {
    let block = u64::from(BLOCK);
    for (kind, second) in [
        ("nor", 512),
        ("nand", block),
        ("nand", (WINDOW - 1) * block),
    ] {
        let (chips, _) = medium(kind);
        let stores = on_mtd([0, second]);
        let error = load(&chips, &stores).expect_err("refused").to_string();
        assert!(error.contains("shares erase blocks"), "{kind}: {error}");
        let stored = env(&chips, &stores).store(&NEXT);
        assert!(stored.is_err(), "{kind}");
        assert_eq!(chips.log(), []);
    }
    let (chips, _) = medium("nor");
    chips.put("env", block, &factory(2)[0]);
    load(&chips, &on_mtd([0, block])).expect("each has its own");
}

#[test]
fn what_is_around_a_copy_in_its_erase_block_is_written_back() {
    let (chips, mut stores) = medium("nor");
    for (store, copy) in stores.iter_mut().zip(factory(2)) {
        let mut block = vec![0x5a; BLOCK as usize];
        block[100..100 + copy.len()].copy_from_slice(&copy);
        chips.put("env", store.offset, &block);
        store.offset += 100;
    }
    let before = chips.contents("env");
    env(&chips, &stores).store(&NEXT).expect("stored");
    assert_eq!(load(&chips, &stores).expect("whole"), NEXT);
    let after = chips.contents("env");
    let size = usize::try_from(SIZE).expect("small");
    for (at, (old, new)) in before.iter().zip(&after).enumerate() {
        let in_block = at % usize::try_from(WINDOW * u64::from(BLOCK)).expect("small");
        assert!(
            old == new || (100..100 + size).contains(&in_block),
            "byte {at}"
        );
    }
}

#[test]
fn one_copy_in_a_block_of_a_dynamic_volume_survives_every_cut() {
    let (chips, mut stores) = medium("dynamic");
    chips.put_volume("env", "only", VolumeType::Dynamic, SIZE, &factory(1)[0]);
    stores.truncate(1);
    stores[0].place = Place::Ubi(Volume {
        mtd: "env".to_owned(),
        volume: "only".to_owned(),
    });
    for crash in cuts(&chips.state(), &stores, &NEXT) {
        let state = load(&Chips::with_state(&crash.chips), &stores).expect("whole");
        assert!(
            [BootState::FACTORY, NEXT].contains(&state),
            "{}",
            crash.story
        );
    }
}

#[test]
fn a_store_that_is_cut_leaves_none_but_the_newest_state_and_the_new_one() {
    for kind in ["nor", "nand", "dynamic", "static"] {
        let (chips, stores) = medium(kind);
        env(&chips, &stores).store(&NEXT).expect("stored");
        for crash in cuts(&chips.state(), &stores, &LAST) {
            let state = load(&Chips::with_state(&crash.chips), &stores).expect("whole");
            let story = &crash.story;
            assert!([NEXT, LAST].contains(&state), "{kind}: {story}: {state:?}");
        }
    }
}

/// What is left to be loaded when all that is unstable on a NAND is lost.
fn load_for_sure(state: &ChipsState, stores: &[Store]) -> Result<BootState, BootError> {
    let (chips, _) = medium("nand");
    for store in stores {
        let lost = |_| vec![0; usize::try_from(SIZE).expect("small")];
        let copy = state.part("env", store.offset, SIZE).unwrap_or_else(lost);
        chips.put("env", store.offset, &copy);
    }
    load(&chips, stores)
}

#[test]
fn a_store_after_one_that_was_cut_never_relies_on_bits_that_may_be_lost() {
    let (chips, stores) = medium("nand");
    let mut weak = 0;
    for first in cuts(&chips.state(), &stores, &NEXT) {
        let flaws = env(&Chips::with_state(&first.chips), &stores).flaws();
        let flaws = flaws.expect("one copy is whole");
        weak += flaws
            .iter()
            .filter(|flaw| flaw.contains("could hardly be read"))
            .count();
        // The state that was to be stored, with which a store may have nothing to write, and others.
        for second in [NEXT, BootState::FACTORY, LAST] {
            for again in cuts(&first.chips, &stores, &second) {
                let story = format!("{}; and again, {}", first.story, again.story);
                let state = load_for_sure(&again.chips, &stores);
                let state = state.unwrap_or_else(|error| panic!("{story}: {error}"));
                let allowed = match again.after_the_end {
                    true => vec![second],
                    false => vec![BootState::FACTORY, NEXT, second],
                };
                assert!(allowed.contains(&state), "{story}: {state:?}");
            }
        }
    }
    assert!(weak > 0, "no copy was found that may soon be lost");
}

#[test]
fn a_dynamic_volume_whose_update_was_cut_is_whole_after_a_store() {
    let (chips, stores) = medium("dynamic");
    let mut ubi = flash::Chips::ubi(&chips, "env").expect("UBI");
    let cut = ubi.update("two", SIZE, &mut &b"too little"[..]);
    assert!(cut.expect("UBI is fine").is_err());
    let info = ubi.volume("two").expect("UBI is fine").expect("it exists");
    assert!(info.damaged);
    for crash in cuts(&chips.state(), &stores, &NEXT) {
        let state = load(&Chips::with_state(&crash.chips), &stores).expect("whole");
        let allowed = [BootState::FACTORY, NEXT];
        assert!(allowed.contains(&state), "{}: {state:?}", crash.story);
    }
    env(&chips, &stores).store(&NEXT).expect("stored");
    let content = chips.volume("env", "two").expect("it exists");
    content.expect("it can be read");
    assert_eq!(load(&chips, &stores).expect("whole"), NEXT);
}

#[test]
fn an_mtd_that_is_read_only_is_read_and_refuses_a_store_before_the_first_erase() {
    for kind in ["nor", "nand"] {
        let (chips, stores) = medium(kind);
        chips.set_read_only("env");
        assert_eq!(load(&chips, &stores).expect("whole"), BootState::FACTORY);
        let error = env(&chips, &stores).store(&NEXT).expect_err("refused");
        assert!(
            matches!(error, BootError::Flash(FlashError::ReadOnly { .. })),
            "{kind}: {error:?}"
        );
        assert_eq!(chips.log(), [], "{kind}");
    }
}

/// A machine with one eMMC boot partition: its node, and its `force_ro`.
fn boot_partition() -> (TempDir, PathBuf, PathBuf) {
    let machine = tempfile::tempdir().expect("a temporary directory");
    let sysfs = machine.path().join("sys/class/block/mmcblk0boot0");
    fs::create_dir_all(&sysfs).expect("there is room");
    let force_ro = sysfs.join("force_ro");
    fs::write(&force_ro, "1\n").expect("there is room");
    let node = machine.path().join("dev/mmcblk0boot0");
    fs::create_dir(machine.path().join("dev")).expect("there is room");
    fs::write(&node, factory(2).concat()).expect("there is room");
    (machine, node, force_ro)
}

fn env_on_boot_partition(root: &Path, offsets: [u64; 2]) -> UbootEnv {
    let store = |offset| Store {
        place: Place::Path("/dev/mmcblk0boot0".into()),
        offset,
        size: Some(SIZE),
        window: None,
    };
    let stores = offsets.map(store).to_vec();
    UbootEnv::new(root, stores, names(), Rc::new(Chips::new(1)))
}

/// Which files are written in `work`: each one's last name, and what is written if that is a digit.
fn written_in<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let (result, log) = trace::record(work);
    let written = log.iter().filter_map(|op| match op {
        Op::Write { path, data, .. } => {
            let name = path.file_name()?.to_string_lossy();
            let digit = str::from_utf8(data).ok().filter(|text| text.len() == 1);
            Some(format!("{name}{}", digit.unwrap_or_default()))
        }
        _ => None,
    });
    (result, written.collect())
}

#[test]
fn an_emmc_boot_partition_is_writable_only_while_an_environment_in_it_is_written() {
    let (machine, _, force_ro) = boot_partition();
    let mut env = env_on_boot_partition(machine.path(), [0, SIZE]);
    let (state, written) = written_in(|| env.load());
    assert_eq!(state.expect("whole"), BootState::FACTORY);
    assert_eq!(written, [""; 0], "to read it nothing is changed");
    let (stored, written) = written_in(|| env.store(&NEXT));
    stored.expect("stored");
    assert_eq!(written, ["force_ro0", "mmcblk0boot0", "force_ro1"]);
    let protection = || fs::read_to_string(&force_ro).expect("it is there");
    assert_eq!(protection(), "1\n");
    assert_eq!(env.load().expect("whole"), NEXT);
    let (stored, written) = written_in(|| env.store(&NEXT));
    stored.expect("there is nothing to store");
    assert_eq!(written, [""; 0]);

    // Of a device that is writable it is left as it is.
    fs::write(&force_ro, "0\n").expect("there is room");
    env.store(&LAST).expect("stored");
    assert_eq!(protection(), "0\n");
    assert_eq!(env.load().expect("whole"), LAST);
}

#[test]
fn an_emmc_boot_partition_is_protected_again_after_a_store_that_failed() {
    let (machine, node, force_ro) = boot_partition();
    // The second copy would be where the medium has ended.
    let mut env = env_on_boot_partition(machine.path(), [0, 2 * SIZE]);
    let before = fs::read(&node).expect("it is there");
    let (stored, written) = written_in(|| env.store(&NEXT));
    let error = stored.expect_err("there is no room");
    assert!(matches!(error, BootError::File(_)), "{error:?}");
    assert_eq!(written, ["force_ro0", "force_ro1"]);
    let protection = fs::read_to_string(&force_ro).expect("it is there");
    assert_eq!(protection, "1\n");
    assert_eq!(fs::read(&node).expect("it is there"), before);
    assert_eq!(env.load().expect("whole"), BootState::FACTORY);
}

/// Chips that say yes to whatever would change them, and forget it where `forgets` says so of the
/// bytes; of an erase there are none.
#[derive(Clone)]
struct Forgetful {
    chips: Chips,
    forgets: fn(&[u8]) -> bool,
}

struct ForgetfulMtd(Box<dyn RawMtd>, fn(&[u8]) -> bool);

struct ForgetfulUbi(Box<dyn RawUbi>, fn(&[u8]) -> bool);

impl flash::Chips for Forgetful {
    fn mtd(&self, name: &str) -> Result<Box<dyn RawMtd>, FlashError> {
        let raw = self.chips.mtd(name)?;
        Ok(Box::new(ForgetfulMtd(raw, self.forgets)))
    }

    fn ubi(&self, mtd: &str) -> Result<Box<dyn RawUbi>, FlashError> {
        let raw = self.chips.ubi(mtd)?;
        Ok(Box::new(ForgetfulUbi(raw, self.forgets)))
    }

    fn mount(&self, volume: &Volume) -> Result<PathBuf, FlashError> {
        self.chips.mount(volume)
    }
}

impl RawMtd for ForgetfulMtd {
    fn geometry(&self) -> &Geometry {
        self.0.geometry()
    }

    fn is_bad(&mut self, offset: u64) -> io::Result<bool> {
        self.0.is_bad(offset)
    }

    fn mark_bad(&mut self, offset: u64) -> io::Result<()> {
        self.0.mark_bad(offset)
    }

    fn erase(&mut self, offset: u64) -> io::Result<()> {
        match (self.1)(&[]) {
            true => Ok(()),
            false => self.0.erase(offset),
        }
    }

    fn program(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match (self.1)(bytes) {
            true => Ok(()),
            false => self.0.program(offset, bytes),
        }
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<u32> {
        self.0.read(offset, bytes)
    }
}

impl RawUbi for ForgetfulUbi {
    fn info(&mut self) -> io::Result<UbiInfo> {
        self.0.info()
    }

    fn volume(&mut self, name: &str) -> io::Result<Option<VolumeInfo>> {
        self.0.volume(name)
    }

    fn create(&mut self, name: &str, volume_type: VolumeType, bytes: u64) -> io::Result<()> {
        self.0.create(name, volume_type, bytes)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn resize(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.0.resize(name, bytes)
    }

    fn rename(&mut self, pairs: &[(&str, &str)]) -> io::Result<()> {
        self.0.rename(pairs)
    }

    fn update(
        &mut self,
        name: &str,
        len: u64,
        source: &mut dyn Read,
    ) -> io::Result<io::Result<()>> {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        match (self.1)(&bytes) {
            true => Ok(Ok(())),
            false => self.0.update(name, len, &mut &*bytes),
        }
    }

    fn change_block(&mut self, name: &str, block: u32, bytes: &[u8]) -> io::Result<()> {
        match (self.1)(bytes) {
            true => Ok(()),
            false => self.0.change_block(name, block, bytes),
        }
    }

    fn read(&mut self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read(name, offset, bytes)
    }

    fn release_block_device(&mut self, name: &str) -> io::Result<()> {
        self.0.release_block_device(name)
    }
}

#[test]
fn a_medium_that_says_yes_and_forgets_is_noticed_and_the_old_state_is_there() {
    for kind in ["nor", "nand", "dynamic", "static"] {
        // All of it, or only what is programmed.
        for forgets in [|_: &[u8]| true, |bytes: &[u8]| !bytes.is_empty()] {
            let (chips, stores) = medium(kind);
            let on = Forgetful {
                chips: chips.clone(),
                forgets,
            };
            let mut env = UbootEnv::new(Path::new(ROOT), stores.clone(), names(), Rc::new(on));
            assert!(env.store(&NEXT).is_err(), "{kind}");
            let state = load(&chips, &stores).expect("the newest is not touched");
            assert_eq!(state, BootState::FACTORY, "{kind}");
        }
    }
}

#[test]
fn a_copy_on_nor_that_did_not_become_obsolete_is_noticed() {
    for state in [NEXT, BootState::FACTORY] {
        let (chips, stores) = medium("nor");
        let mut first = factory(2).remove(0);
        first[4] = 1;
        // Both are active: the first one counts, and the second one is to be obsolete.
        for store in &stores {
            chips.put("env", store.offset, &first);
        }
        let on = Forgetful {
            chips: chips.clone(),
            forgets: |bytes| bytes.len() == 1,
        };
        let mut env = UbootEnv::new(Path::new(ROOT), stores.clone(), names(), Rc::new(on));
        assert!(env.store(&state).is_err(), "{state:?}");
        let found = load(&chips, &stores).expect("whole");
        assert_eq!(found, BootState::FACTORY);
    }
}
