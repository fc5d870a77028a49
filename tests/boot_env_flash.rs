//! U-Boot environments on raw flash and in UBI volumes, on the simulated chips of [`sim::chips`].

mod sim;
mod world;

use std::path::Path;
use std::rc::Rc;

use byteorder::NativeEndian;
use serde_json::Value;
use sysupgrade_rs::board::{Place, Store, Volume, VolumeType};
use sysupgrade_rs::boot::{BootError, Bootloader, UbootEnv};
use sysupgrade_rs::files::trace;
use sysupgrade_rs::slots::{BootState, Condition, Slot};

use sim::chips::NandFaults;
use sim::{Chips, ChipsState, Crash, Random, Run};
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
    UbootEnv::new(stores.to_vec(), names(), Rc::new(chips.clone()))
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
    let chips = Chips::with_state(state);
    let (stored, log) = trace::record(|| env(&chips, stores).store(new));
    stored.expect("stored");
    assert_eq!(load(&chips, stores).expect("whole"), *new);
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
    let text = std::fs::read_to_string(path).expect("a vector");
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
