//! UEFI: systemd-boot and GRUB, the real ones, decide as [`BootState::boot`] says they do, and bring an
//! upgrade through.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sysupgrade_rs::boot::{Bootloader, SystemdBoot};
use sysupgrade_rs::slots::{BootState, Condition, Slot};

use crate::grub;
use crate::router::{Disk, Machine, Router};
use crate::upgrade::{install_a_good_system, install_a_system_that_dies};

/// Past the capture of the test runner: whoever runs this wants to know that it was done.
fn tell(text: &str) {
    writeln!(io::stderr(), "{text}").expect("standard error is open");
}

#[test]
#[ignore = "needs QEMU"]
fn with_systemd_boot_a_good_system_stays_and_a_power_cut_finds_it_or_the_old_one() {
    let disk = Disk::of(Machine::SystemdBoot).logged();
    let mut router = install_a_good_system(&disk);
    assert_fat_is_no_place_for_data(&mut router);
    router.type_line("reboot");
    router.wait_for("boot: slot b, good");
    router.power_off();
    cut_after_every_write(&disk);
}

/// The EFI system partition is FAT: `doctor` says so of a board that keeps its archives there.
fn assert_fat_is_no_place_for_data(router: &mut Router) {
    let (status, told) = router.attempt("sysupgrade-rs doctor | grep FAT");
    assert_eq!((status, told.as_str()), (1, ""));
    router.run("sed 's,/data/sysupgrade-rs,/efi/data,' /etc/sysupgrade-rs/board.toml >/tmp/b.toml");
    let told = router.run("sysupgrade-rs --board /tmp/b.toml doctor | grep FAT");
    assert!(
        told.contains("data directory   /efi/data is on FAT"),
        "{told}"
    );
}

/// Goes through the writes to the EFI system partition, by Linux and by the firmware. After each sector,
/// or each request where there are many in one, the names are looked at: of each slot there is one, and
/// one slot that may boot is whole.
fn cut_after_every_write(disk: &Disk) {
    let factory = Machine::SystemdBoot.factory_disk();
    let kernel = fs::read(factory.with_file_name("linux.efi")).expect("it was built");
    let mut bytes = vec![0; ESP_LEN];
    File::open(&factory)
        .and_then(|file| file.read_exact_at(&mut bytes, ESP_START))
        .expect("the disk has the partition");
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("esp");
    fs::write(&image, &bytes).expect("written");
    let file = File::options().write(true).open(&image);
    let file = file.expect("just made");
    let esp = Fat {
        image: path(&image).to_owned(),
    };

    let mut seen = vec![esp.load()];
    let mut cuts = 0;
    let log = fs::read(disk.log()).expect("QEMU has noted something");
    for (offset, written) in writes(&log) {
        let inside = offset.checked_sub(ESP_START);
        let Some(offset) = inside.filter(|offset| *offset < ESP_LEN as u64) else {
            continue;
        };
        // The firmware writes 64 KiB for one sector that changes; what is longer is of a kernel.
        let torn = match written.len() {
            0..=0x1_0000 => SECTOR,
            many => many,
        };
        for (at, new) in (offset..).step_by(torn).zip(written.chunks(torn)) {
            let start = usize::try_from(at).expect("in memory");
            let held = &mut bytes[start..start + new.len()];
            if held == new {
                continue;
            }
            held.copy_from_slice(new);
            file.write_all_at(new, at).expect("written");
            cuts += 1;
            let found = esp.load();
            if seen.last() == Some(&found) {
                continue;
            }
            let (state, names) = &found;
            assert_eq!(state.condition(Slot::First), Condition::Good, "{names:?}");
            assert_eq!(names.len(), 2, "{names:?} after {:?}", seen.last());
            if state.condition(Slot::Second) != Condition::Unbootable {
                let copy = dir.path().join("linux.efi");
                esp.mtools("mcopy", &["-o", "::b/linux.efi", path(&copy)]);
                let found = fs::read(&copy).expect("copied");
                assert!(found.starts_with(&kernel), "{names:?} without its kernel");
            }
            seen.push(found);
        }
    }
    let conditions: Vec<_> = seen
        .iter()
        .map(|(state, _)| state.condition(Slot::Second))
        .collect();
    let expected = [
        Condition::Unbootable,
        Condition::Trial(3),
        Condition::Trial(2),
        Condition::Good,
    ];
    assert_eq!(conditions, expected, "{seen:?}");
    tell(&format!(
        "systemd-boot: {cuts} power cuts between writes to the EFI system partition"
    ));
}

/// What was written to a disk, in its order, each with its offset in bytes.
///
/// The format is that of dm-log-writes, in sectors of 512 bytes: a head, then for each request four
/// numbers of 8 bytes (first sector, number of sectors, flags, length of a remark), and behind them, in
/// the next sector, what was written. The head, with the number of requests, need not be up to date.
fn writes(log: &[u8]) -> Vec<(u64, &[u8])> {
    const DISCARD: u64 = 4;
    let mut writes = Vec::new();
    let mut at = SECTOR;
    while let Some(head) = log.get(at..at + SECTOR) {
        let number = |index: usize| {
            let bytes = head[index * 8..][..8].try_into();
            u64::from_le_bytes(bytes.expect("8 bytes"))
        };
        let (first, count, flags) = (number(0), number(1), number(2));
        at += SECTOR;
        if flags & DISCARD == 0 {
            let end = at + usize::try_from(count).expect("in memory") * SECTOR;
            // The last one may not have come through.
            let Some(written) = log.get(at..end) else {
                break;
            };
            writes.push((first * SECTOR as u64, written));
            at = end;
        }
    }
    writes
}

#[test]
#[ignore = "needs QEMU"]
fn with_systemd_boot_a_system_that_dies_loses_its_tries_and_the_old_one_is_back() {
    install_a_system_that_dies(&Disk::of(Machine::SystemdBoot));
}

#[test]
#[ignore = "needs QEMU"]
fn with_grub_under_uefi_a_good_system_stays() {
    let disk = Disk::of(Machine::GrubEfi);
    let mut router = install_a_good_system(&disk);
    router.type_line("reboot");
    router.wait_for("boot: slot b, good");
}

#[test]
#[ignore = "needs QEMU"]
fn with_grub_under_uefi_a_system_that_dies_loses_its_tries_and_the_old_one_is_back() {
    install_a_system_that_dies(&Disk::of(Machine::GrubEfi));
}

#[test]
#[ignore = "needs QEMU"]
fn grub_under_uefi_chooses_and_counts_as_the_model_does() {
    let disk = grub::router_with_two_kernels(Machine::GrubEfi);
    let states = [
        (Slot::First, [Condition::Good, Condition::Unbootable]),
        (Slot::Second, [Condition::Good, Condition::Trial(3)]),
        (Slot::Second, [Condition::Good, Condition::Trial(1)]),
        (Slot::Second, [Condition::Good, Condition::Unbootable]),
        (Slot::Second, [Condition::Good, Condition::Good]),
        (Slot::First, [Condition::Trial(7), Condition::Good]),
        (Slot::First, [Condition::Unbootable, Condition::Trial(2)]),
        (Slot::Second, [Condition::Unbootable, Condition::Unbootable]),
    ];
    for (primary, conditions) in states {
        grub::compare(
            &disk,
            BootState {
                primary,
                conditions,
            },
        );
    }
    tell(&format!(
        "GRUB under UEFI and the model agree in {} states",
        states.len()
    ));
}

/// Where the EFI system partition of the router with systemd-boot is, and how long it is.
const ESP_START: u64 = 1 << 20;
const ESP_LEN: usize = 48 << 20;

const SECTOR: usize = 512;

/// A FAT file system in a file, for mtools: `FILE` or `FILE@@OFFSET`.
struct Fat {
    image: String,
}

impl Fat {
    /// Runs one of the programs that work on FAT in a file.
    fn mtools(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        let status = command.args(["-i", &self.image]).args(arguments).status();
        let status = status.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(status.success(), "{program} {arguments:?}: {status}");
    }

    /// What is read of the names of the entries, and the names.
    fn load(&self) -> (BootState, Vec<String>) {
        let dir = tempfile::tempdir().expect("a directory");
        self.mtools("mcopy", &["-s", "-n", "::loader", path(dir.path())]);
        let entries = dir.path().join("loader/entries");
        let mut names: Vec<_> = fs::read_dir(&entries)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.into_string().expect("text"))
            .collect();
        names.sort();
        let slots = ["a", "b"].map(str::to_owned);
        let state = SystemdBoot::new(entries, PathBuf::from("/nowhere"), slots).load();
        (state.expect("these make sense"), names)
    }
}

/// A router with systemd-boot that has, in the place of its kernels, programs that say their name.
struct Loader {
    disk: Disk,
    esp: Fat,
}

impl Loader {
    fn new() -> Self {
        let disk = Disk::of(Machine::SystemdBoot);
        let esp = Fat {
            image: format!("{}@@{ESP_START}", disk.path().display()),
        };
        let programs = Machine::SystemdBoot.factory_disk();
        for (program, place) in [
            ("slot-a.efi", "::a/linux.efi"),
            ("slot-b.efi", "::b/linux.efi"),
            ("other.efi", "::other.efi"),
        ] {
            let program = programs.with_file_name(program);
            esp.mtools("mcopy", &["-o", path(&program), place]);
        }
        Self { disk, esp }
    }

    /// Puts these entries there, and nothing else.
    fn put(&self, names: &[&str]) {
        let dir = tempfile::tempdir().expect("a directory");
        self.esp.mtools("mdeltree", &["::loader/entries"]);
        self.esp.mtools("mmd", &["::loader/entries"]);
        for name in names {
            let file = dir.path().join(name);
            fs::write(&file, text(name)).expect("written");
            self.esp.mtools("mcopy", &[path(&file), "::loader/entries"]);
        }
    }

    /// Power on, until the program that the loader starts has said its name.
    fn decide(&self) -> String {
        let mut router = self.disk.start();
        router.wait_for("boot: ");
        let said = router.wait_for("\n");
        router.power_off();
        said.trim().to_owned()
    }

    /// [`compare`](Self::compare) for each of these directories, and how many there were.
    fn compare_all(&self, states: &[&[&str]]) {
        for names in states {
            self.compare(names);
        }
        tell(&format!(
            "systemd-boot and the model agree in {} states",
            states.len()
        ));
    }

    /// Puts entries before systemd-boot, and compares what it starts and leaves with the model.
    fn compare(&self, names: &[&str]) {
        self.put(names);
        let (slot, after) = self.esp.load().0.boot();
        let said = self.decide();
        let name = ["slot a", "slot b"][slot.index()];
        assert_eq!(said, name, "systemd-boot, of {names:?}");
        let (left, left_names) = self.esp.load();
        assert_eq!(left, after, "{names:?} became {left_names:?}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

/// The content of an entry, by its name.
fn text(name: &str) -> String {
    match name {
        _ if name.contains("empty") => String::new(),
        _ if !name.starts_with("sysupgrade-") => "linux /other.efi\nsort-key 0\n".to_owned(),
        _ if name.contains("-b") => "linux /b/linux.efi\n".to_owned(),
        _ => "linux /a/linux.efi\n".to_owned(),
    }
}

#[test]
#[ignore = "needs QEMU"]
fn systemd_boot_chooses_and_counts_as_the_model_does() {
    let loader = Loader::new();
    let states: [&[&str]; 12] = [
        // The way of an upgrade, and back.
        &["sysupgrade-1-a.conf", "sysupgrade-0-b+0.conf"],
        &["sysupgrade-1-a.conf", "sysupgrade-2-b+3.conf"],
        &["sysupgrade-1-a.conf", "sysupgrade-2-b+1-2.conf"],
        &["sysupgrade-1-a.conf", "sysupgrade-2-b+0-3.conf"],
        &["sysupgrade-1-a.conf", "sysupgrade-2-b.conf"],
        &["sysupgrade-3-a.conf", "sysupgrade-2-b.conf"],
        // Ranks are numbers.
        &["sysupgrade-9-a.conf", "sysupgrade-10-b.conf"],
        &["sysupgrade-100-a+7.conf", "sysupgrade-99-b.conf"],
        // The primary slot is out, and with it the other one.
        &["sysupgrade-2-a+0.conf", "sysupgrade-1-b+2-1.conf"],
        &["sysupgrade-2-a+0.conf", "sysupgrade-1-b+0.conf"],
        &["sysupgrade-1-a+0-2.conf", "sysupgrade-2-b+0-1.conf"],
        &["sysupgrade-1-a.conf", "sysupgrade-0-b+3.conf"],
    ];
    loader.compare_all(&states);
}

#[test]
#[ignore = "needs QEMU"]
fn systemd_boot_takes_what_a_power_cut_left_as_the_model_does() {
    let loader = Loader::new();
    let states: [&[&str]; 9] = [
        // Both names of one file: of a commit, a begin, confirms, a way back.
        &[
            "sysupgrade-1-a.conf",
            "sysupgrade-0-b+0.conf",
            "sysupgrade-2-b+3.conf",
        ],
        &[
            "sysupgrade-2-a.conf",
            "sysupgrade-1-b.conf",
            "sysupgrade-1-b+0.conf",
        ],
        &[
            "sysupgrade-1-a.conf",
            "sysupgrade-2-b+0-3.conf",
            "sysupgrade-2-b.conf",
        ],
        &[
            "sysupgrade-1-a.conf",
            "sysupgrade-2-b+2-1.conf",
            "sysupgrade-2-b.conf",
        ],
        &[
            "sysupgrade-1-a.conf",
            "sysupgrade-2-b+2-1.conf",
            "sysupgrade-0-b+0.conf",
        ],
        // No name.
        &["sysupgrade-5-b.conf"],
        &["sysupgrade-2-a+2.conf"],
        // Others' entries, which are sorted before ours, and files that start nothing.
        &[
            "0.conf",
            "zz.conf",
            "sysupgrade-1-a.conf",
            "sysupgrade-2-b+3.conf",
        ],
        &["sysupgrade-1-a.conf", "sysupgrade-9-b-empty.conf"],
    ];
    loader.compare_all(&states);
}

#[test]
#[ignore = "needs QEMU"]
fn systemd_boot_gives_a_try_that_it_cannot_count() {
    let loader = Loader::new();
    // The name that the first of the two is to get is taken.
    let names = [
        "sysupgrade-1-a.conf",
        "sysupgrade-2-b+2-1.conf",
        "sysupgrade-2-b+3.conf",
    ];
    loader.put(&names);
    assert_eq!(loader.decide(), "slot b");
    assert_eq!(loader.esp.load().1, names);
}

#[test]
#[ignore = "needs QEMU"]
fn a_default_that_names_an_entry_would_boot_a_slot_that_is_being_written() {
    let loader = Loader::new();
    loader.put(&["sysupgrade-1-a.conf", "sysupgrade-0-b+0.conf"]);
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("loader.conf");
    fs::write(&config, "default sysupgrade-0-b*\n").expect("written");
    loader
        .esp
        .mtools("mcopy", &["-o", path(&config), "::loader"]);
    assert_eq!(loader.decide(), "slot b");
}
