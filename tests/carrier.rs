//! Boards whose slots share no file system: the archive travels in a carrier of its slot, and the
//! records are in the boot environment.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod sim;
mod world;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::rc::Rc;

use sysupgrade_rs::board::{Board, Carrier, Medium};
use sysupgrade_rs::data::carrier::{FILE, HEAD_LEN, Head};
use sysupgrade_rs::data::{ArchiveRef, DataError, Installed, Stage, Update, What};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::flash;
use sysupgrade_rs::health::Before;
use sysupgrade_rs::install::InstallError;
use sysupgrade_rs::report::{Reason, Refusal};
use sysupgrade_rs::slots::{Condition, Slot};
use sysupgrade_rs::{doctor, status, system};

use sim::{Chips, ChipsState, Raw, simulated};
use world::router::{Booted, Result, Router};
use world::snapshot::Snapshot;
use world::{System, World};

/// The boards with carriers, on the chips that they are for.
const BOARDS: [(&str, Raw); 4] = [
    ("carrier-ubi", Raw::Nand),
    ("carrier-raw", Raw::Nor),
    ("carrier-raw", Raw::Nand),
    ("carrier-overlay", Raw::Nand),
];

/// What a test may want to have otherwise.
type Change = fn(&mut Board);

/// A router with its chips, that runs version 1 and has been configured.
struct Bench {
    world: World,
    board: Board,
    chips: Chips,
}

impl Bench {
    fn new(name: &str, raw: Raw) -> Self {
        Self::with(name, raw, |_| ())
    }

    fn with(name: &str, raw: Raw, change: Change) -> Self {
        let path = format!("{}/tests/boards/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let board = Board::parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
        let (mut board, chips) = simulated(&board, raw, 1);
        change(&mut board);
        let dir = world::temporary_directory().unwrap();
        let at = dir.path().join("router");
        chips.set_dir(&at);
        let router = Router::of(&at, &board, Rc::new(chips.clone()));
        let world = World::with(dir, router, &System::new(1)).unwrap();
        let bench = Self {
            world,
            board,
            chips,
        };
        bench.boots(Slot::First);
        let network = bench.root().join("etc/config/network");
        fs::write(network, "option password 'secret'\n").unwrap();
        // More than an erase block, however well it is compressed.
        let mut noise = sim::Random(3);
        let text: String = (0..1000).map(|_| format!("{:x}", noise.next())).collect();
        fs::write(bench.root().join("etc/config/much"), text).unwrap();
        bench.router().write_back().unwrap();
        bench
    }

    fn router(&self) -> &Router {
        &self.world.router
    }

    fn root(&self) -> PathBuf {
        self.router().dir().to_owned()
    }

    fn machine(&self) -> sysupgrade_rs::machine::Machine {
        self.router().machine().unwrap()
    }

    fn image(&self, version: u8) -> Vec<u8> {
        self.world.image(&System::new(version)).unwrap()
    }

    fn install(&self, version: u8, keep: bool) -> Result<()> {
        world::install(self.router(), &self.image(version), keep)?;
        Ok(())
    }

    fn boots(&self, slot: Slot) {
        let router = self.router();
        let booted = router.boot(|| world::first_boot(router)).unwrap();
        assert_eq!(booted, Booted::Up(slot));
    }

    /// What is left without power, on disk and on chips.
    fn kept(&self) -> (Snapshot, ChipsState) {
        (self.router().disk().unwrap(), self.chips.state())
    }

    fn variable(&self, name: &str) -> Option<String> {
        let chips: Rc<dyn flash::Chips> = Rc::new(self.chips.clone());
        let env = system::uboot_env(&self.root(), &self.board, &chips).unwrap();
        let variables = env.variables().unwrap();
        let value = variables.get(name)?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    fn set_variable(&self, name: &str, value: &str) {
        let chips: Rc<dyn flash::Chips> = Rc::new(self.chips.clone());
        let env = system::uboot_env(&self.root(), &self.board, &chips).unwrap();
        env.change(&[(name, Some(value))]).unwrap();
    }

    /// All that a carrier holds; nothing if there is no file in an overlay.
    fn carrier(&self, slot: Slot) -> Vec<u8> {
        match self.board.slot(slot).carrier.as_ref().unwrap() {
            Carrier::Overlay => fs::read(self.overlay_file(slot)).unwrap_or_default(),
            Carrier::Medium(medium) => {
                let mut device = flash::open(&self.root(), &self.chips, medium).unwrap();
                let mut bytes = Vec::new();
                device.read_image(0..device.capacity(), &mut bytes).unwrap();
                bytes
            }
        }
    }

    fn set_carrier(&self, slot: Slot, bytes: &[u8]) {
        match self.board.slot(slot).carrier.as_ref().unwrap() {
            Carrier::Overlay => fs::write(self.overlay_file(slot), bytes).unwrap(),
            Carrier::Medium(medium) => {
                let mut device = flash::open(&self.root(), &self.chips, medium).unwrap();
                let len = bytes.len() as u64;
                device.write_image(&mut &*bytes, len, None).unwrap();
            }
        }
    }

    fn overlay_file(&self, slot: Slot) -> PathBuf {
        self.router().upper(slot).unwrap().with_file_name(FILE)
    }

    fn has_frames(&self) -> bool {
        matches!(self.board.slots[1].carrier, Some(Carrier::Medium(_)))
    }
}

fn refusals(error: &(dyn std::error::Error + 'static)) -> Vec<Refusal> {
    let mut error = Some(error);
    while let Some(found) = error {
        if let Some(InstallError::Refused(refusals)) = found.downcast_ref() {
            return refusals.clone();
        }
        error = found.source();
    }
    panic!("no refusal");
}

#[test]
fn the_configuration_crosses_in_the_carrier_and_nothing_of_it_stays_there() {
    for (name, raw) in BOARDS {
        let bench = &Bench::new(name, raw);
        bench.install(2, true).unwrap();
        let archive = bench.machine().installed(Slot::Second).unwrap().unwrap();
        let archive = archive.archive.expect("an archive");
        let carried = bench.carrier(Slot::Second);
        let start = if bench.has_frames() { HEAD_LEN } else { 0 };
        let end = start + usize::try_from(archive.size).unwrap();
        assert_eq!(Digest::of(&carried[start..end]), archive.sha256, "{name}");
        bench.boots(Slot::Second);
        let network = fs::read_to_string(bench.root().join("etc/config/network")).unwrap();
        assert_eq!(network, "option password 'secret'\n", "{name}");
        bench.boots(Slot::Second);
        assert_eq!(bench.carrier(Slot::Second), carried, "not before confirm");
        assert!(world::confirm(bench.router()).unwrap());
        let left = bench.carrier(Slot::Second);
        let body = left.get(HEAD_LEN..).unwrap_or_default();
        assert!(body.iter().all(|byte| *byte == 0xff), "{name}: {body:?}");
        assert_eq!(left.is_empty(), !bench.has_frames(), "{name}");
        assert!(!world::confirm(bench.router()).unwrap(), "{name}: done");
        let machine = bench.machine();
        assert_eq!(machine.data.floor().unwrap(), 2);
        let installed = machine.installed(Slot::Second).unwrap().unwrap();
        assert_eq!((installed.stage, installed.archive), (Stage::Good, None));
        assert_eq!(bench.chips.violations(), Vec::<String>::new(), "{name}");
        // And back, over what is there.
        bench.install(3, true).unwrap();
        bench.boots(Slot::First);
        world::confirm(bench.router()).unwrap();
        assert_eq!(machine.data.floor().unwrap(), 3);
    }
}

#[test]
fn why_a_trial_failed_is_known_after_the_reboot() {
    for (name, raw) in BOARDS {
        let bench = &Bench::new(name, raw);
        bench.install(2, true).unwrap();
        for _ in 0..3 {
            bench.boots(Slot::Second);
        }
        bench.boots(Slot::First);
        let status = status::status(&mut bench.machine()).unwrap();
        assert_eq!(status.standing, "fell-back");
        let state = &status.other.state;
        assert!(
            state.contains("was not confirmed before its tries"),
            "{state}"
        );
        let last = status.last.expect("an entry");
        assert_eq!((last.what, last.number), (What::FellBack, 3), "{name}");
        assert_eq!(status.floor, 0);
        bench.install(3, true).unwrap();
        bench.boots(Slot::Second);
        world::go_back(bench.router()).unwrap();
        bench.boots(Slot::First);
        let status = status::status(&mut bench.machine()).unwrap();
        assert_eq!(status.other.state, "failed: rolled back by hand");
        assert_eq!(status.last.unwrap().what, What::RolledBack);
    }
}

#[test]
fn a_damaged_archive_is_refused_and_the_old_slot_comes_back() {
    for (name, raw) in BOARDS {
        let bench = &Bench::new(name, raw);
        let before = bench.router().view().unwrap();
        bench.install(2, true).unwrap();
        let mut carried = bench.carrier(Slot::Second);
        carried[200] ^= 1;
        bench.set_carrier(Slot::Second, &carried);
        let router = bench.router();
        let booted = router.boot(|| world::first_boot(router)).unwrap();
        assert_eq!(booted, Booted::Refused(Slot::Second), "{name}");
        bench.boots(Slot::First);
        assert_eq!(router.view().unwrap(), before, "{name}");
        let status = status::status(&mut bench.machine()).unwrap();
        let state = status.other.state;
        assert!(
            state.contains("its first boot could not take over"),
            "{state}"
        );
        bench.install(2, true).unwrap();
        bench.boots(Slot::Second);
    }
}

#[test]
fn an_archive_that_the_carrier_has_no_room_for_is_refused_before_anything_is_written() {
    let small: Change = |board| {
        for slot in &mut board.slots {
            if let Some(Carrier::Medium(Medium::Mtd(place))) = &mut slot.carrier {
                place.size = Some(4096);
            }
        }
    };
    let bench = &Bench::with("carrier-raw", Raw::Nor, small);
    let before = bench.kept();
    let error = bench.install(2, true).unwrap_err();
    let refusals = refusals(&*error);
    let [refusal] = refusals.as_slice() else {
        panic!("{refusals:?}");
    };
    assert_eq!(refusal.reason, Reason::NoSpace);
    assert_eq!(refusal.found, (4096 - HEAD_LEN).to_string());
    let need: u64 = refusal.wanted["at least ".len()..].parse().unwrap();
    assert!(need > 4096, "{need}");
    assert!(bench.kept() == before, "nothing was written");
    // And this is what it was about.
    bench.install(2, false).unwrap();
    bench.boots(Slot::Second);
}

#[test]
fn an_environment_without_room_for_the_records_is_refused_before_anything_is_written() {
    let bench = &Bench::new("carrier-ubi", Raw::Nand);
    bench.set_variable("bootcmd", &"x".repeat(1000));
    let before = bench.kept();
    let error = bench.install(2, true).unwrap_err();
    let refusals = refusals(&*error);
    let [refusal] = refusals.as_slice() else {
        panic!("{refusals:?}");
    };
    assert_eq!(refusal.reason, Reason::NoSpace);
    assert_eq!(refusal.found, "2048");
    let need: u64 = refusal.wanted["at least ".len()..].parse().unwrap();
    assert!((2049..4096).contains(&need), "{need}");
    assert!(bench.kept() == before, "nothing was written");
    bench.set_variable(
        "bootcmd",
        &"x".repeat(1000 - usize::try_from(need - 2048).unwrap()),
    );
    bench.install(2, true).unwrap();
    bench.boots(Slot::Second);
}

#[test]
fn a_carrier_that_cannot_be_opened_is_refused_before_anything_is_written() {
    let gone: Change = |board| {
        if let Some(Carrier::Medium(Medium::Ubi(place))) = &mut board.slots[1].carrier {
            place.volume = "gone".to_owned();
        }
    };
    let bench = &Bench::with("carrier-ubi", Raw::Nand, gone);
    let before = bench.kept();
    for keep in [true, false] {
        let error = bench.install(2, keep).unwrap_err();
        let refusals = refusals(&*error);
        assert_eq!(refusals[0].reason, Reason::MediumMissing);
        assert!(bench.kept() == before, "nothing was written");
    }
}

#[test]
fn an_upgrade_to_defaults_leaves_no_archive_of_an_earlier_one() {
    for (name, raw) in BOARDS {
        let bench = &Bench::new(name, raw);
        bench.install(2, true).unwrap();
        bench.boots(Slot::Second);
        world::go_back(bench.router()).unwrap();
        bench.boots(Slot::First);
        bench.install(3, false).unwrap();
        let left = bench.carrier(Slot::Second);
        let body = left.get(HEAD_LEN..).unwrap_or_default();
        assert!(body.iter().all(|byte| *byte == 0xff), "{name}: {body:?}");
        bench.boots(Slot::Second);
        let network = fs::read_to_string(bench.root().join("etc/config/network")).unwrap();
        assert_eq!(network, "option proto 'dhcp'\n", "{name}");
    }
}

#[test]
fn a_refused_image_writes_nothing_at_all() {
    let bench = &Bench::new("carrier-ubi", Raw::Nand);
    let before = bench.kept();
    let mut image = bench.image(2);
    image[2000] ^= 1;
    world::install(bench.router(), &image, true).unwrap_err();
    assert!(bench.kept() == before, "nothing was written");
}

#[test]
fn a_frame_is_believed_in_none_but_its_own_bits() {
    let archive = ArchiveRef {
        size: 0x0102_0304,
        sha256: Digest::of(b"an archive"),
    };
    let head = Head(archive.clone()).encode();
    assert_eq!(&head[..20], b"SYSUPARC\0\0\0\x01\0\0\0\0\x01\x02\x03\x04");
    assert_eq!(head[20..52], archive.sha256.0);
    assert_eq!(Head::decode(&head), Ok(Head(archive)));
    for bit in 0..HEAD_LEN * 8 {
        let mut head = head;
        head[bit / 8] ^= 1 << (bit % 8);
        assert!(Head::decode(&head).is_err(), "bit {bit}");
    }
}

#[test]
fn lies_about_the_length_are_refused_whatever_their_crc_says() {
    for (name, raw) in [BOARDS[0], BOARDS[1]] {
        let bench = &Bench::new(name, raw);
        bench.install(2, true).unwrap();
        let machine = bench.machine();
        let installed = machine.installed(Slot::Second).unwrap().unwrap();
        let saved = installed.archive.unwrap();
        let good = bench.carrier(Slot::Second);
        let open = |wanted: &ArchiveRef| {
            let mut bytes = Vec::new();
            let mut archive = machine.data.open_archive("b", wanted)?;
            archive.read_to_end(&mut bytes).unwrap();
            Ok::<_, DataError>(bytes)
        };
        assert_eq!(Digest::of(&open(&saved).unwrap()), saved.sha256);
        let capacity = good.len() as u64;
        let lies = [
            0,
            1,
            saved.size - 1,
            saved.size + 1,
            capacity - HEAD_LEN as u64,
            capacity - HEAD_LEN as u64 + 1,
            capacity,
            u64::from(u32::MAX),
            u64::MAX - HEAD_LEN as u64,
            u64::MAX - HEAD_LEN as u64 + 1,
            u64::MAX,
        ];
        for size in lies {
            let lie = ArchiveRef {
                size,
                sha256: saved.sha256,
            };
            let mut carried = good.clone();
            carried[..HEAD_LEN].copy_from_slice(&Head(lie.clone()).encode());
            bench.set_carrier(Slot::Second, &carried);
            // A record that knows better, and one that tells the same lie.
            for wanted in [&saved, &lie] {
                let opened = open(wanted);
                assert!(opened.is_err(), "{name}: {size} of {}", saved.size);
            }
        }
        bench.set_carrier(Slot::Second, &good);
        assert!(open(&saved).is_ok());
        let other = ArchiveRef {
            sha256: Digest::of(b"another"),
            ..saved
        };
        assert!(open(&other).is_err());
    }
}

#[test]
fn a_record_that_is_damaged_is_said_to_be_and_a_floor_is_never_guessed() {
    let bench = &Bench::new("carrier-ubi", Raw::Nand);
    bench.set_variable("sysupgrade_floor", "seven");
    let error = bench.machine().data.floor().unwrap_err();
    assert_eq!(error.to_string(), "sysupgrade_floor does not hold a number");
    bench.set_variable("sysupgrade_slot_b", "{}");
    let error = bench.machine().installed(Slot::Second).unwrap_err();
    assert_eq!(error.to_string(), "sysupgrade_slot_b is damaged");
    bench.set_variable("sysupgrade_last", "of a later version");
    assert_eq!(bench.machine().data.history().unwrap(), []);
}

#[test]
fn what_worked_before_is_recorded_as_far_as_it_leaves_room_for_the_rest() {
    let bench = &Bench::new("carrier-ubi", Raw::Nand);
    bench.install(2, true).unwrap();
    let machine = bench.machine();
    let recorded = machine.data.before().unwrap();
    assert_eq!(recorded.worked["10-net"], "default dev eth0\n");

    let mut installed = machine.installed(Slot::Second).unwrap().unwrap();
    let seen = ["10-net", "20-dns"].map(|name| (name.to_owned(), "x".repeat(700)));
    let before = Before {
        worked: seen.into(),
        ..Before::default()
    };
    let record = |installed: &Installed| {
        machine.data.record(&Update {
            before: Some(&before),
            installed: vec![("b", installed)],
            ..Update::default()
        })
    };
    record(&installed).unwrap();
    let recorded = machine.data.before().unwrap();
    assert_eq!(recorded.worked["10-net"].len(), 700);
    assert_eq!(recorded.worked["20-dns"], "", "there is room for one");

    // Until the records of an upgrade just fit without it.
    let fits = |len: usize| {
        bench.set_variable("filler", &"x".repeat(len));
        machine.data.check_room(&[("b", &installed)]).is_ok()
    };
    bench.set_variable("sysupgrade_health", "{}");
    let most = (0..).step_by(64).take_while(|len| fits(*len)).last();
    assert!(fits(most.unwrap()));
    record(&installed).unwrap();
    assert_eq!(bench.variable("sysupgrade_health").unwrap(), "{}");
    assert_eq!(machine.data.before().unwrap(), Before::default());
    installed.note = Some("because\n".repeat(1000));
    let entry = machine.entry(What::FellBack, Slot::Second, None, &"\"".repeat(5000));
    let longest = Update {
        floor: Some(u64::MAX),
        installed: vec![("b", &installed)],
        entry: Some(entry),
        ..Update::default()
    };
    machine.data.record(&longest).unwrap();
}

#[test]
fn what_is_recorded_together_is_one_store_of_the_environment_and_short() {
    let bench = &Bench::new("carrier-ubi", Raw::Nand);
    bench.install(2, true).unwrap();
    let machine = bench.machine();
    let mut installed = machine.installed(Slot::Second).unwrap().unwrap();
    installed.note = Some("because\n".repeat(1000));
    let entry = machine.entry(What::FellBack, Slot::Second, None, &"\"".repeat(5000));
    // A store of an environment on NAND erases one block: there is one store here.
    let erases = || {
        let counts = bench.chips.counts();
        counts.erases_of("env-1") + counts.erases_of("env-2")
    };
    let before = erases();
    let update = Update {
        floor: Some(1),
        before: None,
        installed: vec![("b", &installed)],
        entry: Some(entry),
    };
    machine.data.record(&update).unwrap();
    assert_eq!(erases(), before + 1);
    assert_eq!(bench.variable("sysupgrade_floor").unwrap(), "1");
    assert!(bench.variable("sysupgrade_slot_b").unwrap().len() < 500);
    assert!(bench.variable("sysupgrade_last").unwrap().len() < 400);
    let lower = Update {
        floor: Some(0),
        ..Update::default()
    };
    machine.data.record(&lower).unwrap();
    assert_eq!(machine.data.floor().unwrap(), 1);
    assert_eq!(erases(), before + 1, "nothing to record is no store");
}

#[test]
fn the_doctor_says_where_records_and_archives_are() {
    let text = r#"
        name = "files"
        compatible = ["test,files"]
        [trust]
        keys = ["/etc/sysupgrade-rs/keys"]
        [boot]
        kind = "uboot-env"
        store = [{ path = "/flash/env", size = 2048 }, { path = "/flash/env", offset = 2048, size = 2048 }]
        running = "cmdline:sysupgrade.slot"
        [[slot]]
        name = "a"
        overlay = "/data/overlay-a"
        carrier = { kind = "file", path = "/flash/carrier-a" }
        parts.root = { kind = "file", path = "/flash/root-a" }
        [[slot]]
        name = "b"
        overlay = "/data/overlay-b"
        carrier = "overlay"
        parts.root = { kind = "file", path = "/flash/root-b" }
    "#;
    let board = Board::parse(text, "files.toml").unwrap();
    let dir = world::temporary_directory().unwrap();
    let file = dir.path().join("files.toml");
    fs::write(&file, text).unwrap();
    let at = dir.path().join("router");
    let router = Router::of(&at, &board, Rc::new(flash::Kernel::new(&at)));
    let world = World::with(dir, router, &System::new(1)).unwrap();
    fs::write(at.join("flash/carrier-a"), vec![0xff; 4096]).unwrap();
    let router = &world.router;
    router.boot(|| world::first_boot(router)).unwrap();
    let checks = doctor::examine(&at, Some(&file));
    let detail = |name: &str| {
        let check = checks.iter().find(|check| check.name == name);
        let check = check.unwrap_or_else(|| panic!("{name} is missing"));
        assert!(check.ok, "{check:?}");
        check.detail.clone()
    };
    assert_eq!(
        detail("carrier of slot a"),
        "/flash/carrier-a, 4040 bytes for an archive"
    );
    let overlay = detail("carrier of slot b");
    assert!(overlay.starts_with(FILE), "{overlay}");
    assert_eq!(
        detail("records"),
        "readable, in variables of the boot environment"
    );
    let image = world.image(&System::new(2)).unwrap();
    world::install(router, &image, true).unwrap();
    router.boot(|| world::first_boot(router)).unwrap();
    let state = router.boot_environment().unwrap().load().unwrap();
    assert_eq!(state.condition(Slot::Second), Condition::Trial(2));
}
