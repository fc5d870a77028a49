//! The chips are right: they refuse what real ones refuse, and a cut of one of their operations
//! catches writers that are known to be wrong, and passes those that are right.
//!
//! `POWERCUT_SEED=N` tries other random choices.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use rustix::io::Errno;
use sysupgrade_rs::board::VolumeType;
use sysupgrade_rs::files::{NewFile, trace};
use sysupgrade_rs::flash::Chips as _;
use sysupgrade_rs::flash::mtd::RawMtd;
use sysupgrade_rs::flash::ubi::RawUbi;

use super::{Chips, ChipsState, NandFaults, Verb};
use crate::sim::{Crash, Random, Run};
use crate::world::snapshot::Snapshot;

const ERASE_SIZE: u32 = 2048;
const BLOCK: u64 = ERASE_SIZE as u64;
const PAGE_SIZE: u32 = 512;
const PAGE: usize = PAGE_SIZE as usize;
const OLD: [u8; ERASE_SIZE as usize] = [0x3c; ERASE_SIZE as usize];
const NEW: [u8; ERASE_SIZE as usize] = [0xa5; ERASE_SIZE as usize];

fn seed() -> u64 {
    let given = std::env::var("POWERCUT_SEED").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A NOR of four blocks; all but the last one hold [`OLD`].
fn nor() -> Chips {
    let chips = Chips::new(seed());
    chips.add_nor("nor", 4 * BLOCK, ERASE_SIZE);
    chips.put("nor", 0, &[OLD; 3].concat());
    chips
}

/// A NAND of six blocks, the second of them bad; all good ones but the last one hold [`OLD`].
fn nand() -> Chips {
    let chips = Chips::new(seed());
    let faults = NandFaults {
        factory_bad: vec![1],
    };
    chips.add_nand("nand", 6 * BLOCK, ERASE_SIZE, PAGE_SIZE, &faults);
    chips.put("nand", 0, &[OLD; 4].concat());
    chips
}

/// A UBI of eight blocks with one static and one dynamic volume that hold [`OLD`], twice.
fn ubi() -> Chips {
    let chips = Chips::new(seed());
    chips.add_ubi("ubi", ERASE_SIZE, 8);
    for (volume, volume_type) in [
        ("static", VolumeType::Static),
        ("dynamic", VolumeType::Dynamic),
    ] {
        chips.put_volume("ubi", volume, volume_type, 2 * BLOCK, &[OLD; 2].concat());
    }
    chips
}

fn mtd(chips: &Chips, name: &str) -> Box<dyn RawMtd> {
    chips.mtd(name).expect("the MTD")
}

fn volumes(chips: &Chips) -> Box<dyn RawUbi> {
    chips.ubi("ubi").expect("UBI")
}

/// What a cut in `work` may leave of these chips and of an empty directory.
fn crashes(chips: &Chips, work: impl FnOnce(&Chips, &Path)) -> Vec<Crash> {
    let root = tempfile::tempdir().expect("a temporary directory");
    let start = chips.state();
    assert_eq!(chips.log(), [], "they are new");
    let ((), log) = trace::record(|| work(chips, root.path()));
    let run = Run {
        root: root.path(),
        disk: &Snapshot::default(),
        log: &log,
        chips: &start,
        chips_log: &chips.log(),
    };
    let (disk, state) = run.end();
    let real = Snapshot::read(root.path()).expect("read");
    assert_eq!(disk, real, "the log does not tell the whole story");
    assert_eq!(
        state,
        chips.state(),
        "the log does not tell the whole story"
    );
    assert_eq!(chips.violations(), [""; 0]);
    run.cuts(&mut Random(seed())).0
}

/// What these crashes lead to when `again` is run after them: the story of the first one where it
/// asks for what it should not, or after which `whole` is not so.
fn first_loss(
    crashes: &[Crash],
    again: impl Fn(&Chips),
    whole: impl Fn(&ChipsState) -> bool,
) -> Option<String> {
    for crash in crashes {
        let chips = Chips::with_state(&crash.chips);
        again(&chips);
        if let Some(violation) = chips.violations().first() {
            let story = &crash.story;
            return Some(format!(
                "POWERCUT_SEED={}: {story}; then {violation}",
                seed()
            ));
        }
        if !whole(&chips.state()) {
            return Some(format!("POWERCUT_SEED={}: {}", seed(), crash.story));
        }
    }
    None
}

#[track_caller]
fn assert_refused<T>(chips: &Chips, result: io::Result<T>, errno: Errno, word: &str) {
    let error = result.err().expect("a chip does not do that");
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
    let violations = chips.violations();
    let last = violations.last().map_or("", String::as_str);
    assert!(last.contains(word), "{last:?} does not say {word}");
}

#[test]
fn nor_programs_bits_to_zero_only_and_erases_whole_blocks() {
    let chips = nor();
    let mut nor = mtd(&chips, "nor");
    nor.program(0x10, &[0x3c & 0x0f, 0])
        .expect("bits go to zero");
    let mut bytes = [0; 3];
    nor.read(0x10, &mut bytes).expect("read");
    assert_eq!(bytes, [0x0c, 0, 0x3c]);
    assert_eq!(chips.violations(), [""; 0]);

    let result = nor.program(0x11, &[1]);
    assert_refused(&chips, result, Errno::IO, "cannot become");
    let result = nor.erase(1);
    assert_refused(&chips, result, Errno::INVAL, "begins at");
    let result = nor.program(4 * BLOCK - 1, &[0, 0]);
    assert_refused(&chips, result, Errno::INVAL, "crosses");
    let result = nor.mark_bad(0);
    assert_refused(&chips, result, Errno::OPNOTSUPP, "bad");
    nor.erase(0).expect("erased");
    assert_eq!(
        chips.part("nor", 0, BLOCK).expect("stable"),
        [0xff; ERASE_SIZE as usize]
    );
}

#[test]
fn nand_programs_whole_pages_in_order_once_between_two_erases() {
    let chips = nand();
    let mut nand = mtd(&chips, "nand");
    let result = nand.program(0, &[0; PAGE]);
    assert_refused(&chips, result, Errno::IO, "since its erase");
    nand.erase(0).expect("erased");
    nand.program(PAGE as u64, &[0xff; PAGE])
        .expect("a page may be left out");
    let result = nand.program(PAGE as u64, &[0; PAGE]);
    assert_refused(&chips, result, Errno::IO, "since its erase");
    let result = nand.program(0, &[0; PAGE]);
    assert_refused(&chips, result, Errno::IO, "since its erase");
    let result = nand.program(2 * PAGE as u64, &[0; PAGE / 2]);
    assert_refused(&chips, result, Errno::INVAL, "whole page");
    nand.program(2 * PAGE as u64, &[0; 2 * PAGE])
        .expect("the rest");
    assert_eq!(chips.counts().programs["nand"], 3);
    assert_eq!(chips.counts().erases_of("nand"), 1);
}

#[test]
fn bad_blocks_take_nothing_and_stay_bad() {
    let chips = nand();
    let mut nand = mtd(&chips, "nand");
    // The kernel refuses it by itself; who asks has not looked which blocks are bad.
    let result = nand.erase(BLOCK);
    assert_refused(&chips, result, Errno::IO, "is bad");
    let result = nand.program(BLOCK, &NEW);
    assert_refused(&chips, result, Errno::IO, "is bad");
    // A reader that does not know of them reads something else.
    let mut bytes = [0; ERASE_SIZE as usize];
    nand.read(BLOCK, &mut bytes).expect("read");
    assert_ne!(bytes, OLD);
    assert_eq!(
        chips.part("nand", 0, 2 * BLOCK).expect("good"),
        [OLD; 2].concat()
    );

    nand.mark_bad(2 * BLOCK).expect("marked");
    let mut again = mtd(&Chips::with_state(&chips.state()), "nand");
    let bad: Vec<bool> = (0..6)
        .map(|block| again.is_bad(block * BLOCK).expect("asked"))
        .collect();
    assert_eq!(bad, [false, true, true, false, false, false]);
}

#[test]
fn a_block_that_fails_once_fails_for_ever() {
    let chips = nand();
    chips.fail("nand", Verb::Program, None, 3);
    chips.fail("nand", Verb::Erase, Some(3), 1);
    let mut nand = mtd(&chips, "nand");
    nand.erase(2 * BLOCK).expect("another block");
    assert!(
        nand.program(2 * BLOCK, &NEW).is_err(),
        "its third page fails"
    );
    assert_eq!(chips.log().len(), 4, "an erase and three pages were tried");
    assert_eq!(
        chips.part("nand", 2 * BLOCK, 1).expect("two pages landed"),
        [0xa5]
    );
    assert!(chips.part("nand", 2 * BLOCK, BLOCK).is_err());
    assert!(nand.erase(2 * BLOCK).is_err());
    assert!(nand.erase(3 * BLOCK).is_err());
    let again = Chips::with_state(&chips.state());
    assert!(mtd(&again, "nand").erase(3 * BLOCK).is_err());
    assert_eq!(chips.violations(), [""; 0]);
}

#[test]
fn flipped_bits_are_told_and_lost_pages_cannot_be_read() {
    let chips = nand();
    chips.flip_bits("nand", 0, 2);
    chips.flip_bits("nand", PAGE as u64, 1);
    let mut nand = mtd(&chips, "nand");
    let mut bytes = OLD;
    assert_eq!(nand.read(0, &mut bytes).expect("corrected"), 3);
    assert_eq!(bytes, OLD);
    chips.spoil("nand", PAGE as u64);
    let error = nand.read(0, &mut bytes).expect_err("too many bits");
    assert_eq!(error.raw_os_error(), Some(Errno::BADMSG.raw_os_error()));
    assert_eq!(
        nand.read(0, &mut bytes[..PAGE]).expect("the page before"),
        2
    );
}

/// Replaces the first block, as it should be done.
fn rewrite(chips: &Chips, name: &str) {
    let mut mtd = mtd(chips, name);
    mtd.erase(0).expect("erased");
    mtd.program(0, &NEW).expect("programmed");
}

fn holds_new(name: &str) -> impl Fn(&ChipsState) -> bool {
    move |state| state.part(name, 0, BLOCK).is_ok_and(|part| part == NEW)
}

#[test]
fn a_block_that_is_written_again_after_a_cut_is_whole() {
    for (chips, name) in [(nor(), "nor"), (nand(), "nand")] {
        let crashes = crashes(&chips, |chips, _| rewrite(chips, name));
        let again = |chips: &Chips| rewrite(chips, name);
        assert_eq!(first_loss(&crashes, again, holds_new(name)), None);
        // There was something to survive.
        let nothing = |_: &Chips| ();
        assert!(first_loss(&crashes, nothing, holds_new(name)).is_some());
    }
}

#[test]
fn a_block_whose_erase_was_cut_reads_another_way_each_time() {
    for (chips, name) in [(nor(), "nor"), (nand(), "nand")] {
        let crashes = crashes(&chips, |chips, _| rewrite(chips, name));
        let unstable = crashes.iter().filter(|crash| {
            let mut mtd = mtd(&Chips::with_state(&crash.chips), name);
            let mut read = || {
                let mut bytes = [0; ERASE_SIZE as usize];
                let result = mtd
                    .read(0, &mut bytes)
                    .map_err(|error| error.raw_os_error());
                (result, bytes)
            };
            let first = read();
            (0..20).any(|_| read() != first)
        });
        assert!(unstable.count() >= 3, "on {name}");
    }
}

#[test]
fn to_take_a_block_for_erased_because_it_reads_so_is_caught() {
    for (chips, name) in [(nor(), "nor"), (nand(), "nand")] {
        let crashes = crashes(&chips, |chips, _| rewrite(chips, name));
        let trusting = |chips: &Chips| {
            let mut mtd = mtd(chips, name);
            let mut bytes = [0; ERASE_SIZE as usize];
            let erased = mtd.read(0, &mut bytes).is_ok() && bytes == [0xff; ERASE_SIZE as usize];
            if !erased {
                mtd.erase(0).expect("erased");
            }
            // It may go wrong in silence.
            let _ = mtd.program(0, &NEW);
        };
        let loss = first_loss(&crashes, trusting, holds_new(name)).expect("a loss");
        assert!(loss.contains("erase of its block was cut"), "{loss}");
    }
}

#[test]
fn to_skip_a_torn_block_because_it_reads_right_is_caught() {
    let chips = nand();
    let crashes = crashes(&chips, |chips, _| rewrite(chips, "nand"));
    let compare = |limit: u32| {
        move |chips: &Chips| {
            let mut nand = mtd(chips, "nand");
            let mut bytes = [0; ERASE_SIZE as usize];
            let read = nand.read(0, &mut bytes);
            let right = read.is_ok_and(|corrected| corrected < limit) && bytes == NEW;
            if !right {
                rewrite(chips, "nand");
            }
        }
    };
    let loss = first_loss(&crashes, compare(u32::MAX), holds_new("nand")).expect("a loss");
    assert!(loss.contains("reads right and is unstable"), "{loss}");
    let careful = compare(super::BITFLIP_THRESHOLD);
    assert_eq!(first_loss(&crashes, careful, holds_new("nand")), None);
}

#[test]
fn to_ignore_bad_blocks_is_caught() {
    let chips = nand();
    let careless = |chips: &Chips| {
        let mut nand = mtd(chips, "nand");
        for block in 0..2 {
            let _ = nand.erase(block * BLOCK);
            let _ = nand.program(block * BLOCK, &NEW);
        }
    };
    careless(&chips);
    let violations = chips.violations().join("\n");
    assert!(violations.contains("block 1 is bad"), "{violations:?}");
    assert_ne!(
        chips.part("nand", 0, 2 * BLOCK).expect("readable"),
        [NEW; 2].concat()
    );
}

/// A copy of an environment: a number, all over an erase block.
fn copy(number: u8) -> [u8; ERASE_SIZE as usize] {
    [number; ERASE_SIZE as usize]
}

/// The erase blocks where copies are.
const COPIES: [u64; 2] = [0, 2];

/// Chips with an older copy, 1, and a newer one, 2.
fn with_copies(name: &str) -> Chips {
    let chips = if name == "nor" { nor() } else { nand() };
    for (block, number) in COPIES.into_iter().zip([1, 2]) {
        write_copy(&chips, name, block, number);
    }
    Chips::with_state(&chips.state())
}

fn write_copy(chips: &Chips, name: &str, block: u64, number: u8) {
    let mut mtd = mtd(chips, name);
    mtd.erase(block * BLOCK).expect("erased");
    mtd.program(block * BLOCK, &copy(number))
        .expect("programmed");
}

/// The highest number among the copies that can be relied on.
fn newest(state: &ChipsState, name: &str) -> Option<u8> {
    let copies = COPIES.map(|block| state.part(name, block * BLOCK, BLOCK));
    let whole = copies.into_iter().flatten().filter_map(|bytes| {
        let number = bytes[0];
        (bytes == copy(number) && number != 0xff).then_some(number)
    });
    whole.max()
}

#[test]
fn of_two_copies_one_is_whole_if_only_the_older_one_is_replaced() {
    for name in ["nor", "nand"] {
        let lost = |block: u64| {
            let chips = with_copies(name);
            let crashes = crashes(&chips, |chips, _| write_copy(chips, name, block, 3));
            let old_or_new = |state: &ChipsState| matches!(newest(state, name), Some(2 | 3));
            first_loss(&crashes, |_| (), old_or_new)
        };
        assert_eq!(lost(COPIES[0]), None, "on {name}");
        assert!(lost(COPIES[1]).is_some(), "over the newest copy, on {name}");
    }
}

/// A cut can leave a newest copy that reads right this time and is lost the next time. To replace
/// the other one then, and be cut again, is to lose both.
#[test]
fn a_weak_copy_has_to_be_written_again_before_the_other_one_is_replaced() {
    let store = |chips: &Chips, refresh: bool| {
        let mut found = COPIES.map(|block| {
            let mut bytes = copy(0);
            let read = mtd(chips, "nand").read(block * BLOCK, &mut bytes);
            let whole = read
                .ok()
                .filter(|_| bytes == copy(bytes[0]) && bytes[0] != 0xff);
            whole.map(|corrected| (bytes[0], corrected, block))
        });
        found.sort_unstable();
        let (number, corrected, block) = found[1].expect("a copy that can be read");
        if refresh && corrected >= super::BITFLIP_THRESHOLD {
            write_copy(chips, "nand", block, number);
        }
        let older = COPIES[0] + COPIES[1] - block;
        write_copy(chips, "nand", older, 4);
    };
    let lost_after_two = |refresh: bool| {
        let first = crashes(&with_copies("nand"), |chips, _| {
            write_copy(chips, "nand", COPIES[0], 3);
        });
        first.iter().find_map(|first| {
            let chips = Chips::with_state(&first.chips);
            let second = crashes(&chips, |chips, _| store(chips, refresh));
            let any = |state: &ChipsState| matches!(newest(state, "nand"), Some(2..=4));
            let loss = first_loss(&second, |_| (), any)?;
            Some(format!("{}; and again, {loss}", first.story))
        })
    };
    assert_eq!(lost_after_two(true), None);
    let loss = lost_after_two(false).expect("a loss");
    assert!(loss.contains("reads right and is unstable"), "{loss}");
}

#[test]
fn a_commit_on_a_chip_before_a_file_is_sure_is_caught() {
    let work = |sync: bool| {
        move |chips: &Chips, dir: &Path| {
            let mut file = NewFile::create(&dir.join("archive"), 0o644).expect("created");
            file.write_all(b"content").expect("written");
            match sync {
                true => file.commit().expect("durable"),
                false => file.place().expect("placed"),
            }
            rewrite(chips, "nor");
            mtd(chips, "nor").erase(2 * BLOCK).expect("something else");
        }
    };
    let broken = |crash: &&Crash| {
        let committed = holds_new("nor")(&crash.chips);
        committed && crash.disk.data("archive") != Some(b"content")
    };
    let hasty = crashes(&nor(), work(false));
    for after_the_end in [false, true] {
        let mut crashes = hasty
            .iter()
            .filter(|crash| crash.after_the_end == after_the_end);
        assert!(crashes.any(|crash| broken(&crash)), "{after_the_end}");
    }
    let right = crashes(&nor(), work(true));
    assert!(!right.iter().any(|crash| broken(&crash)));
    assert!(right.iter().any(|crash| crash.after_the_end));
}

#[test]
fn a_ubi_volume_is_damaged_from_the_begin_of_an_update_to_its_end() {
    for volume in ["static", "dynamic"] {
        let chips = ubi();
        let crashes = crashes(&chips, |chips, _| {
            let new = &[NEW.as_slice(), &NEW[..100]].concat();
            let updated = volumes(chips).update(volume, new.len() as u64, &mut new.as_slice());
            updated.expect("updated").expect("read");
        });
        let mut seen = [0; 3];
        for crash in &crashes {
            let content = crash.chips.volume("ubi", volume).expect("it is there");
            let other = if volume == "static" {
                "dynamic"
            } else {
                "static"
            };
            let other = crash.chips.volume("ubi", other).expect("it is there");
            assert_eq!(other.expect("whole"), [OLD; 2].concat());
            let state = match content {
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
                    1
                }
                Ok(bytes) if bytes == [OLD; 2].concat() => 0,
                Ok(bytes) => {
                    assert!(bytes.starts_with(&NEW) && bytes[NEW.len()..].starts_with(&NEW[..100]));
                    let expected = if volume == "static" { 100 } else { NEW.len() };
                    assert_eq!(bytes.len() - NEW.len(), expected);
                    2
                }
            };
            seen[state] += 1;
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
        assert!(
            seen[1] >= 4,
            "begin, two blocks, and halves of them: {seen:?}"
        );
    }
}

#[test]
fn an_update_that_ends_early_leaves_a_damaged_volume() {
    let chips = ubi();
    let result = volumes(&chips).update("static", 2 * BLOCK, &mut NEW.as_slice());
    let error = result.expect("UBI is fine").expect_err("the source is not");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let info = volumes(&chips)
        .volume("static")
        .expect("asked")
        .expect("there");
    assert!(info.damaged);
    let again = Chips::with_state(&chips.state());
    let error = volumes(&again)
        .read("static", 0, &mut [0])
        .expect_err("damaged");
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
}

#[test]
fn a_change_of_a_block_and_a_rename_are_atomic() {
    let changed = crashes(&ubi(), |chips, _| {
        volumes(chips)
            .change_block("dynamic", 1, &NEW)
            .expect("changed");
    });
    for crash in &changed {
        let content = crash.chips.volume("ubi", "dynamic").expect("it is there");
        let content = content.expect("whole");
        let expected = if crash.after_the_end { NEW } else { OLD };
        assert_eq!(content, [OLD, expected].concat());
    }
    assert_eq!(changed.len(), 2);
    let renamed = crashes(&ubi(), |chips, _| {
        let swap = [("static", "dynamic"), ("dynamic", "static")];
        volumes(chips).rename(&swap).expect("renamed");
    });
    assert_eq!(renamed.len(), 2);
    for crash in &renamed {
        assert_eq!(crash.chips.volumes("ubi"), ["dynamic", "static"]);
    }
}

#[test]
fn ubi_refuses_what_the_kernel_refuses() {
    let chips = ubi();
    let mut ubi = volumes(&chips);
    let errno = |result: io::Result<()>| result.expect_err("refused").raw_os_error();
    let is = |errno: Errno| Some(errno.raw_os_error());
    assert_eq!(errno(ubi.change_block("static", 0, &NEW)), is(Errno::ROFS));
    let available = u64::from(ubi.info().expect("asked").available);
    let too_much = (available + 1) * BLOCK;
    let create = ubi.create("next", VolumeType::Dynamic, too_much);
    assert_eq!(errno(create), is(Errno::NOSPC));
    assert_eq!(
        errno(ubi.resize("static", 2 * BLOCK + too_much)),
        is(Errno::NOSPC)
    );
    let create = ubi.create("static", VolumeType::Dynamic, 1);
    assert_eq!(errno(create), is(Errno::EXIST));
    chips.set_busy("ubi", "static");
    assert_eq!(errno(ubi.remove("static")), is(Errno::BUSY));
    assert_eq!(errno(ubi.rename(&[("static", "other")])), is(Errno::BUSY));
    assert_eq!(chips.log(), []);
    assert_eq!(chips.violations(), [""; 0]);
    let result = ubi.rename(&[("dynamic", "static")]);
    assert_refused(&chips, result, Errno::EXIST, "would be removed");
}

#[test]
fn chips_that_vanish_answer_nothing_any_more() {
    let chips = nand();
    chips.vanish_after(2);
    let mut nand = mtd(&chips, "nand");
    nand.erase(0).expect("the first operation");
    let error = nand.program(0, &NEW).expect_err("it vanishes after a page");
    assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    assert_eq!(chips.log().len(), 2);
    let mut byte = [0];
    for error in [
        nand.read(0, &mut byte).err(),
        nand.is_bad(0).err(),
        nand.mark_bad(0).err(),
        nand.erase(0).err(),
    ] {
        let error = error.expect("it is gone");
        assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    }
    assert_eq!(chips.violations(), [""; 0]);
}

#[test]
fn a_ubifs_volume_is_a_directory_of_the_machine_and_busy_while_it_is_mounted() {
    let root = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(root.path().join("flash")).expect("made");
    let chips = ubi();
    chips.put_volume("ubi", "overlay", VolumeType::Dynamic, BLOCK, &[]);
    chips.set_dir(root.path());
    let mount = |name: &str| {
        let volume = sysupgrade_rs::board::Volume {
            mtd: "ubi".to_owned(),
            volume: name.to_owned(),
        };
        chips.mount(&volume)
    };
    let place = mount("overlay").expect("mounted");
    assert_eq!(place, root.path().join("flash/ubifs-ubi-overlay"));
    assert!(place.is_dir());
    let error = volumes(&chips).remove("overlay").expect_err("mounted");
    assert_eq!(error.raw_os_error(), Some(Errno::BUSY.raw_os_error()));
    for (name, word) in [
        ("static", "static"),
        ("dynamic", "not UBIFS"),
        ("none", "no such volume"),
    ] {
        let error = mount(name).expect_err("no file system").to_string();
        assert!(error.contains(word), "{error}");
    }
}
