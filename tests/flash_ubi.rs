//! UBI volumes: what is written, what is left alone, and what a power cut leaves behind.
#![allow(clippy::print_stdout, reason = "the number of cuts is printed")]

mod sim;
mod world;

use std::collections::BTreeMap;
use std::io::{self, Read};

use rustix::io::Errno;
use sim::Random;
use sim::chips::{Chips, ChipsState, Use};
use sysupgrade_rs::board::{Replace, UbiPlace, VolumeType};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::flash::ubi::{RawUbi, UbiInfo, VolumeInfo};
use sysupgrade_rs::flash::{Chips as _, Device, FlashError, UbiDevice, Written};
use sysupgrade_rs::report::Reason;

const LEB: u32 = 2048;
const LEB_BYTES: u64 = LEB as u64;

/// Blocks for volumes on the UBI of these tests.
const LEBS: u32 = 40;

/// An image that ends within its fifth block.
const LEN: usize = 4 * LEB as usize + 700;

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut next = || random.next().to_le_bytes()[0];
    (0..len).map(|_| next()).collect()
}

/// A machine whose UBI has a volume that is nobody's business here.
fn machine() -> Chips {
    let chips = Chips::new(1);
    chips.add_ubi("ubi", LEB, LEBS);
    chips.put_volume(
        "ubi",
        "data",
        VolumeType::Dynamic,
        4 * LEB_BYTES,
        &bytes(2, 5000),
    );
    chips
}

/// The same with a volume `root` of ten blocks that holds `content`.
fn machine_with(volume_type: VolumeType, content: &[u8]) -> Chips {
    let chips = machine();
    chips.put_volume("ubi", "root", volume_type, 10 * LEB_BYTES, content);
    chips
}

fn place() -> UbiPlace {
    UbiPlace {
        mtd: "ubi".to_owned(),
        volume: "root".to_owned(),
        size: None,
        volume_type: VolumeType::Dynamic,
        replace: Replace::InPlace,
    }
}

fn sized(blocks: u64) -> UbiPlace {
    UbiPlace {
        size: Some(blocks * LEB_BYTES),
        ..place()
    }
}

fn renamed(place: UbiPlace) -> UbiPlace {
    UbiPlace {
        replace: Replace::Rename,
        ..place
    }
}

fn raw(chips: &Chips) -> Box<dyn RawUbi> {
    chips.ubi("ubi").expect("the machine has it")
}

fn open(chips: &Chips, place: &UbiPlace) -> Result<UbiDevice, FlashError> {
    UbiDevice::new(raw(chips), place)
}

fn write(chips: &Chips, place: &UbiPlace, image: &[u8]) -> Result<Written, FlashError> {
    open(chips, place)?.write_image(&mut &image[..], image.len() as u64, None)
}

/// All bytes of a volume that are not damaged.
fn content(state: &ChipsState, volume: &str) -> Option<Vec<u8>> {
    state.volume("ubi", volume)?.ok()
}

/// That `root` begins with this image, as the device itself reads it.
#[track_caller]
fn assert_holds(chips: &Chips, place: &UbiPlace, image: &[u8]) {
    let mut found = Vec::new();
    let mut device = open(chips, place).expect("it was written");
    device
        .read_image(0..image.len() as u64, &mut found)
        .expect("it was written");
    assert!(found == image, "the volume does not hold the image");
    let start = image.len() / 3;
    found.truncate(start);
    device
        .read_image(start as u64..image.len() as u64, &mut found)
        .expect("it was written");
    assert!(found == image, "from {start} on");
}

/// What is not to change, whatever happens to `root`.
#[track_caller]
fn assert_others_untouched(state: &ChipsState, story: &str) {
    let data = content(state, "data").expect("the other volume is there");
    assert!(data[..5000] == bytes(2, 5000), "{story}: data has changed");
    assert_eq!(data.len(), 4 * LEB as usize, "{story}");
}

/// The only error of this kind of call.
#[track_caller]
fn refusal(result: Result<UbiDevice, FlashError>) -> FlashError {
    match result {
        Ok(device) => panic!("not refused, it holds {} bytes", device.capacity()),
        Err(error) => error,
    }
}

#[test]
fn only_blocks_of_a_dynamic_volume_that_differ_are_written() {
    let old = bytes(3, 9 * LEB as usize);
    let chips = machine_with(VolumeType::Dynamic, &old);
    let mut image = old[..LEN].to_vec();
    image[LEB as usize + 5] ^= 1;
    image[LEN - 1] ^= 1;
    let written = write(&chips, &place(), &image).expect("there is room");
    let expected = Written {
        written: LEB_BYTES + 700,
        unchanged: 3 * LEB_BYTES,
        read: LEN as u64,
        erased: 2,
        gone_bad: 0,
    };
    assert_eq!(written, expected);
    assert_eq!(chips.counts().erases_of("ubi"), 2);
    assert_holds(&chips, &place(), &image);
    let all = content(&chips.state(), "root").expect("it is not damaged");
    let after = 5 * LEB as usize;
    assert!(
        all[after..9 * LEB as usize] == old[after..],
        "blocks after the image have changed"
    );
}

#[test]
fn an_image_that_is_there_already_erases_nothing() {
    let image = bytes(4, LEN);
    let digest = Digest::of(&image);
    let chips = machine_with(VolumeType::Dynamic, &image);
    let written = write(&chips, &place(), &image).expect("it is there");
    assert_eq!((written.written, written.erased), (0, 0));
    assert_eq!(written.unchanged, LEN as u64);
    assert!(chips.log().is_empty(), "{:?}", chips.log());

    let whole = [
        (VolumeType::Static, place()),
        (VolumeType::Static, renamed(place())),
        (VolumeType::Dynamic, renamed(place())),
    ];
    for (volume_type, place) in whole {
        let chips = machine_with(volume_type, &image);
        let mut device = open(&chips, &place).expect("it is there");
        assert!(device.holds(LEN as u64, &digest).expect("it reads"));
        assert!(!device.holds(LEN as u64 - 1, &digest).expect("it reads"));
        let other = Digest::of(&image[1..]);
        assert!(!device.holds(LEN as u64, &other).expect("it reads"));
        assert!(chips.log().is_empty(), "{:?}", chips.log());
    }
}

#[test]
fn a_volume_that_is_longer_or_damaged_does_not_hold_the_image() {
    let image = bytes(4, LEN);
    let shorter = &image[..LEN - 1];
    let chips = machine_with(VolumeType::Static, &image);
    let mut device = open(&chips, &place()).expect("it is there");
    let held = device.holds(shorter.len() as u64, &Digest::of(shorter));
    assert!(!held.expect("it reads"), "a static volume has a length");
    damage(&chips);
    let held = device.holds(LEN as u64, &Digest::of(&image));
    assert!(!held.expect("nothing is read"), "it is damaged");
}

#[test]
fn a_static_volume_is_written_as_a_whole_and_has_the_length_of_the_image() {
    let chips = machine_with(VolumeType::Static, &bytes(3, 9 * LEB as usize));
    let image = bytes(4, LEN);
    let written = write(&chips, &place(), &image).expect("there is room");
    assert_eq!((written.written, written.erased), (LEN as u64, 5));
    assert_eq!(chips.counts().erases_of("ubi"), 5);
    assert_eq!(content(&chips.state(), "root"), Some(image.clone()));

    let mut device = open(&chips, &place()).expect("it is there");
    let error = device.read_image(0..LEN as u64 + 1, &mut io::sink());
    let error = error.expect_err("the volume ends before");
    assert_eq!(error.reason(), Reason::TooLarge, "{error}");
}

/// Leaves `root` as an update leaves it that was cut.
fn damage(chips: &Chips) {
    let mut raw = raw(chips);
    let cut = raw.update("root", 2 * LEB_BYTES, &mut io::empty());
    cut.expect("it was begun").expect_err("the source ended");
}

#[test]
fn a_damaged_dynamic_volume_is_written_as_a_whole() {
    let image = bytes(4, LEN);
    let chips = machine_with(VolumeType::Dynamic, &image);
    damage(&chips);
    let written = write(&chips, &place(), &image).expect("there is room");
    assert_eq!((written.written, written.erased), (LEN as u64, 5));
    assert_holds(&chips, &place(), &image);
}

#[test]
fn a_missing_volume_is_made_when_it_is_written_and_not_before() {
    let image = bytes(4, LEN);
    for volume_type in [VolumeType::Dynamic, VolumeType::Static] {
        let chips = machine();
        let place = UbiPlace {
            size: Some(6 * LEB_BYTES - 1),
            volume_type,
            ..place()
        };
        let device = open(&chips, &place).expect("it can be made");
        assert_eq!(device.capacity(), 6 * LEB_BYTES);
        assert!(chips.log().is_empty(), "{:?}", chips.log());
        write(&chips, &place, &image).expect("there is room");
        assert_holds(&chips, &place, &image);
        let volume = raw(&chips).volume("root").expect("UBI answers");
        let volume = volume.expect("it was made");
        assert_eq!((volume.reserved, volume.volume_type), (6, volume_type));
    }
}

#[test]
fn a_volume_that_cannot_be_made_is_refused_before_anything_is_written() {
    let chips = machine();
    let error = refusal(open(&chips, &place()));
    assert_eq!(error.reason(), Reason::MediumMissing);
    assert_eq!(
        error.to_string(),
        "ubi ubi:root: there is no such volume; make it, or give it a `size` in the board file"
    );
    let error = refusal(open(&chips, &sized(37)));
    assert_eq!(error.reason(), Reason::MediumUnusable);
    assert_eq!(
        error.to_string(),
        "ubi ubi:root: it is missing, and to make it takes 75776 bytes, 73728 are available"
    );
    assert!(chips.log().is_empty(), "{:?}", chips.log());
    open(&chips, &sized(36)).expect("there is just that room");
}

#[test]
fn a_volume_grows_to_the_size_it_has_to_have_if_there_is_room() {
    let chips = machine_with(VolumeType::Dynamic, &bytes(3, LEN));
    let image = bytes(4, 20 * LEB as usize);
    let capacities = [
        (9, 10),
        (10, 10),
        (11, 11),
        (20, 20),
        (36, 36),
        (37, 10),
        (u64::from(u32::MAX), 10),
    ];
    for (size, capacity) in capacities {
        let device = open(&chips, &sized(size)).expect("it is there");
        assert_eq!(
            device.capacity(),
            capacity * LEB_BYTES,
            "of {size} blocks in 36"
        );
    }
    let error = write(&chips, &sized(37), &image).expect_err("that is too much");
    assert_eq!(error.reason(), Reason::TooLarge, "{error}");
    assert!(chips.log().is_empty(), "{:?}", chips.log());
    write(&chips, &sized(20), &image).expect("there is room");
    assert_holds(&chips, &sized(20), &image);
}

#[test]
fn read_only_and_busy_are_told_as_what_they_are_and_nothing_is_changed() {
    let old = bytes(3, LEN);
    let image = bytes(4, LEN);
    for volume_type in [VolumeType::Dynamic, VolumeType::Static] {
        for place in [place(), sized(12), renamed(place())] {
            for user in [Use::Open, Use::MountedBlockDevice] {
                let chips = machine_with(volume_type, &old);
                chips.set_use("ubi", "root", Some(user));
                let error = write(&chips, &place, &image).expect_err("it is in use");
                assert_eq!(error.reason(), Reason::MediumBusy, "{error}");
                let root = content(&chips.state(), "root").expect("it is whole");
                assert!(root[..LEN] == old, "{place:?} {user:?}");
                if user == Use::MountedBlockDevice {
                    assert!(chips.log().is_empty(), "{place:?}: {:?}", chips.log());
                }
            }
            let chips = machine_with(volume_type, &old);
            chips.set_use("ubi", "root", Some(Use::BlockDevice));
            write(&chips, &place, &image).expect("a block device that nobody uses is taken away");
            assert_holds(&chips, &place, &image);

            let chips = machine_with(volume_type, &old);
            chips.set_read_only("ubi");
            let error = refusal(open(&chips, &place));
            assert_eq!(error.reason(), Reason::MediumReadOnly, "{error}");
            assert_eq!(error.to_string(), "ubi ubi:root is read-only");
        }
    }
}

#[test]
fn an_image_too_large_is_refused_and_nothing_is_changed() {
    for place in [place(), renamed(place())] {
        let chips = machine_with(VolumeType::Dynamic, &bytes(3, LEN));
        let image = bytes(4, 10 * LEB as usize + 1);
        let error = write(&chips, &place, &image).expect_err("it is too large");
        assert_eq!(
            error.to_string(),
            "ubi ubi:root holds 20480 bytes, the image has 20481"
        );
        assert!(chips.log().is_empty(), "{:?}", chips.log());
    }
}

#[test]
fn a_source_that_fails_or_ends_is_told_as_such() {
    let image = bytes(4, LEN);
    for volume_type in [VolumeType::Dynamic, VolumeType::Static] {
        for place in [place(), renamed(place())] {
            let old = bytes(3, LEN);
            let chips = machine_with(volume_type, &old);
            let mut device = open(&chips, &place).expect("it is there");
            let short = device.write_image(&mut &image[..LEN - 1], LEN as u64, None);
            let error = short.expect_err("a byte is missing");
            assert!(matches!(error, FlashError::Source(_)), "{error:?}");
            if place.replace == Replace::Rename {
                let root = content(&chips.state(), "root").expect("it is whole");
                assert!(root[..LEN] == old, "the old volume has changed");
            }
            write(&chips, &place, &image).expect("the next run has all bytes");
            assert_holds(&chips, &place, &image);
        }
    }
}

#[test]
fn a_volume_replaced_by_renaming_is_new_and_nothing_else_remains() {
    for volume_type in [VolumeType::Dynamic, VolumeType::Static] {
        let chips = machine_with(VolumeType::Static, &bytes(3, LEN));
        let image = bytes(4, LEN);
        let place = UbiPlace {
            volume_type,
            ..renamed(sized(12))
        };
        let written = write(&chips, &place, &image).expect("there is room");
        assert_eq!((written.erased, written.read), (5, LEN as u64));
        assert_holds(&chips, &place, &image);
        assert_eq!(chips.state().volumes("ubi"), ["data", "root"]);
        let volume = raw(&chips).volume("root").expect("UBI answers");
        let volume = volume.expect("it is there");
        assert_eq!((volume.reserved, volume.volume_type), (12, volume_type));
    }
}

#[test]
fn without_room_for_a_second_volume_nothing_is_replaced_by_renaming() {
    let chips = machine_with(VolumeType::Static, &bytes(3, LEN));
    let used = 16 * LEB_BYTES;
    chips.put_volume("ubi", "more", VolumeType::Static, used, b"");
    open(&chips, &renamed(place())).expect("there is just the room");
    chips.put_volume("ubi", "most", VolumeType::Static, LEB_BYTES, b"");
    let error = refusal(open(&chips, &renamed(place())));
    assert_eq!(
        error.to_string(),
        "ubi ubi:root: to be replaced it needs a second volume of 20480 bytes beside it, there is room for 18432"
    );

    let chips = machine_with(VolumeType::Static, &bytes(3, LEN));
    open(&chips, &renamed(sized(18))).expect("there is room for two of them");
    refusal(open(&chips, &renamed(sized(19))));
    let chips = machine();
    open(&chips, &renamed(sized(18))).expect("there is room for two of them");
    let error = refusal(open(&chips, &renamed(sized(19))));
    assert_eq!(error.reason(), Reason::MediumUnusable, "{error}");
}

#[test]
fn leftovers_give_their_room_to_the_next_replacement() {
    let chips = machine_with(VolumeType::Static, &bytes(3, LEN));
    for name in ["root-new", "root-old"] {
        let size = 12 * LEB_BYTES;
        chips.put_volume("ubi", name, VolumeType::Static, size, b"");
    }
    let image = bytes(4, LEN);
    let place = renamed(sized(18));
    write(&chips, &place, &image).expect("there is room");
    assert_holds(&chips, &place, &image);
    assert_eq!(chips.state().volumes("ubi"), ["data", "root"]);
}

#[test]
fn leftovers_are_never_removed_while_they_may_be_the_only_good_volume() {
    let image = bytes(4, LEN);
    let chips = machine();
    let size = 10 * LEB_BYTES;
    chips.put_volume("ubi", "root-old", VolumeType::Static, size, &bytes(3, LEN));
    let error = refusal(open(&chips, &renamed(sized(10))));
    assert_eq!(
        error.to_string(),
        "ubi ubi:root: it is missing, and there is root-old: give the good one its name back"
    );
    assert!(chips.log().is_empty(), "{:?}", chips.log());

    chips.put_volume("ubi", "root", VolumeType::Static, size, b"");
    damage(&chips);
    let mut device = open(&chips, &renamed(place())).expect("it can be written");
    let short = device.write_image(&mut &image[1..], LEN as u64, None);
    short.expect_err("a byte is missing");
    let old = content(&chips.state(), "root-old");
    assert_eq!(old, Some(bytes(3, LEN)), "the good volume");
    write(&chips, &renamed(place()), &image).expect("there is room");
    assert_eq!(content(&chips.state(), "root"), Some(image));
    assert_eq!(chips.state().volumes("ubi"), ["data", "root"]);
}

/// UBI on a chip that is at its end.
struct Tired {
    inner: Box<dyn RawUbi>,
    /// Bytes that cannot be read until they are written again.
    faded: Option<u64>,
    /// The first byte of what an update writes is another one than was given.
    garbles: bool,
}

struct Garbled<'a> {
    source: &'a mut dyn Read,
    done: bool,
}

impl Read for Garbled<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(bytes)?;
        if count > 0 && !self.done {
            bytes[0] ^= 1;
            self.done = true;
        }
        Ok(count)
    }
}

impl RawUbi for Tired {
    fn info(&mut self) -> io::Result<UbiInfo> {
        self.inner.info()
    }
    fn volume(&mut self, name: &str) -> io::Result<Option<VolumeInfo>> {
        self.inner.volume(name)
    }
    fn create(&mut self, name: &str, volume_type: VolumeType, bytes: u64) -> io::Result<()> {
        self.inner.create(name, volume_type, bytes)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn resize(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.inner.resize(name, bytes)
    }
    fn rename(&mut self, pairs: &[(&str, &str)]) -> io::Result<()> {
        self.inner.rename(pairs)
    }
    fn update(
        &mut self,
        name: &str,
        len: u64,
        source: &mut dyn Read,
    ) -> io::Result<io::Result<()>> {
        let done = !self.garbles;
        self.faded = None;
        self.inner.update(name, len, &mut Garbled { source, done })
    }
    fn change_block(&mut self, name: &str, block: u32, bytes: &[u8]) -> io::Result<()> {
        if self.faded.map(|at| at / LEB_BYTES) == Some(u64::from(block)) {
            self.faded = None;
        }
        self.inner.change_block(name, block, bytes)
    }
    fn read(&mut self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let range = offset..offset + bytes.len() as u64;
        match self.faded {
            Some(at) if range.contains(&at) => Err(Errno::BADMSG.into()),
            _ => self.inner.read(name, offset, bytes),
        }
    }
    fn release_block_device(&mut self, name: &str) -> io::Result<()> {
        self.inner.release_block_device(name)
    }
}

#[test]
fn a_block_that_cannot_be_read_any_more_is_written_again() {
    let image = bytes(4, LEN);
    for volume_type in [VolumeType::Dynamic, VolumeType::Static] {
        let chips = machine_with(volume_type, &image);
        let tired = Tired {
            inner: raw(&chips),
            faded: Some(LEB_BYTES + 7),
            garbles: false,
        };
        let mut device = UbiDevice::new(Box::new(tired), &place()).expect("it is there");
        let error = device.read_image(0..LEN as u64, &mut io::sink());
        let error = error.expect_err("it has faded");
        assert_eq!(error.to_string(), "cannot read ubi ubi:root at 0x800");
        let held = device.holds(LEN as u64, &Digest::of(&image));
        assert!(!held.expect("that can be cured"));
        let written = device.write_image(&mut &image[..], LEN as u64, None);
        let erased = match volume_type {
            VolumeType::Dynamic => 1,
            VolumeType::Static => 5,
        };
        assert_eq!(written.expect("that can be cured").erased, erased);
        device
            .read_image(0..LEN as u64, &mut io::sink())
            .expect("it was written again");
    }
}

#[test]
fn a_volume_that_does_not_hold_what_was_written_never_takes_the_name() {
    let old = bytes(3, LEN);
    let image = bytes(4, LEN);
    let chips = machine_with(VolumeType::Static, &old);
    let tired = Tired {
        inner: raw(&chips),
        faded: None,
        garbles: true,
    };
    let mut device = UbiDevice::new(Box::new(tired), &renamed(place())).expect("it is there");
    let error = device.write_image(&mut &image[..], LEN as u64, None);
    let error = error.expect_err("a bit is wrong");
    assert_eq!(error.to_string(), "cannot verify ubi ubi:root-new at 0x0");
    assert_eq!(content(&chips.state(), "root"), Some(old));
}

/// A write, and what it begins with.
struct Case {
    name: &'static str,
    start: ChipsState,
    place: UbiPlace,
}

fn cases() -> Vec<Case> {
    let old = bytes(3, LEN + 900);
    let dynamic = machine_with(VolumeType::Dynamic, &old).state();
    let fixed = machine_with(VolumeType::Static, &old).state();
    let damaged = machine_with(VolumeType::Dynamic, &old);
    damage(&damaged);
    let with_leftovers = machine_with(VolumeType::Static, &old);
    for name in ["root-new", "root-old"] {
        let size = 5 * LEB_BYTES;
        with_leftovers.put_volume("ubi", name, VolumeType::Static, size, &old[..77]);
    }
    let case = |name, start, place| Case { name, start, place };
    vec![
        case("dynamic", dynamic.clone(), place()),
        case("static", fixed.clone(), place()),
        case("damaged", damaged.state(), place()),
        case("grown", dynamic.clone(), sized(15)),
        case("grown static", fixed.clone(), sized(15)),
        case("created", machine().state(), sized(15)),
        case("renamed dynamic", dynamic, renamed(place())),
        case("renamed static", fixed, renamed(sized(8))),
        case(
            "renamed leftovers",
            with_leftovers.state(),
            renamed(place()),
        ),
        case("renamed damaged", damaged.state(), renamed(place())),
        case("renamed created", machine().state(), renamed(sized(8))),
    ]
}

#[test]
fn after_a_cut_anywhere_the_same_write_ends_it_and_a_name_that_is_handed_over_always_has_a_whole_volume()
 {
    let image = bytes(4, LEN);
    let mut random = Random(5);
    let mut counts = BTreeMap::new();
    for Case { name, start, place } in cases() {
        let chips = Chips::with_state(&start);
        write(&chips, &place, &image).expect("there is room");
        let log = chips.log();
        assert_eq!(chips.violations(), [""; 0], "{name}");
        let before = content(&start, "root");

        let mut found: Vec<(String, ChipsState)> = Vec::new();
        let mut state = start.clone();
        for (number, op) in log.iter().enumerate() {
            found.push((format!("{name}: before {number}, {op}"), state.clone()));
            for (how, torn) in state.torn(op, &mut random) {
                found.push((format!("{name}: in {number}, {op}: {how}"), torn));
            }
            state.apply(op);
        }
        found.push((format!("{name}: after the end"), state));

        for (story, state) in &found {
            assert_others_untouched(state, story);
            if let (Replace::Rename, Some(before)) = (place.replace, &before) {
                let root = content(state, "root");
                let root = root.unwrap_or_else(|| panic!("{story}: there is no whole root"));
                let is_new = root.get(..LEN) == Some(&image[..]);
                assert!(
                    is_new || root == *before,
                    "{story}: root is neither old nor new"
                );
            }
            let chips = Chips::with_state(state);
            let again = write(&chips, &place, &image);
            again.unwrap_or_else(|error| panic!("{story}: {error}: {error:?}"));
            assert_eq!(chips.violations(), [""; 0], "{story}");
            assert_holds(&chips, &place, &image);
            assert_others_untouched(&chips.state(), story);
            let left = chips.state().volumes("ubi");
            assert_eq!(left, ["data", "root"], "{story}");
        }
        counts.insert(name, found.len());
    }
    let sum: usize = counts.values().sum();
    println!("{sum} cuts: {counts:?}");
}

#[test]
fn a_flash_that_vanishes_is_an_error_of_the_flash_at_every_operation() {
    let image = bytes(4, LEN);
    for Case { name, start, place } in cases() {
        let chips = Chips::with_state(&start);
        write(&chips, &place, &image).expect("there is room");
        let operations = chips.log().len();
        assert!(operations > 4, "{name} has only {operations} operations");
        for left in 0..operations {
            let chips = Chips::with_state(&start);
            let mut device = open(&chips, &place).expect("it is there");
            chips.vanish_after(left);
            let error = device.write_image(&mut &image[..], LEN as u64, None);
            let error = error.expect_err("it has vanished");
            assert_eq!(error.reason(), Reason::MediumFailed, "{name}: {error}");
        }
    }
}
