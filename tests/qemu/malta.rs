//! A router with a MIPS processor: the program that was built for it goes through upgrades as on the
//! others, and it and a real U-Boot read and write one environment in NOR flash, in turn.

use std::fs::File;
use std::os::unix::fs::FileExt;

use byteorder::LittleEndian;
use sysupgrade_rs::boot::uboot_env::{Kind, StoredCopy};

use crate::router::{Disk, Machine};
use crate::upgrade;

/// Where the copies of the environment are in the flash, and how long they are (`qemu/malta/build`).
const COPIES: [u64; 2] = [0x3e_0000, 0x3f_0000];
const SIZE: usize = 0x4000;

/// Flags of the copy that counts, and of the other one.
const ACTIVE: u8 = 1;
const OBSOLETE: u8 = 0;

/// One copy, as it is in the flash right now.
fn copy(disk: &Disk, offset: u64) -> StoredCopy {
    let flash = File::open(disk.flash()).expect("a flash");
    let mut bytes = vec![0; SIZE];
    flash.read_exact_at(&mut bytes, offset).expect("a flash");
    StoredCopy::decode::<LittleEndian>(&bytes, Kind::Redundant).expect("a whole copy")
}

/// Sets a variable in both copies.
fn set(disk: &Disk, name: &str, value: &str) {
    let flash = File::options().write(true).open(disk.flash());
    let flash = flash.expect("a flash");
    for offset in COPIES {
        let mut copy = copy(disk, offset);
        copy.environment.set(name, value);
        let bytes = copy.encode::<LittleEndian>(Kind::Redundant, SIZE);
        let bytes = bytes.expect("there is room");
        flash.write_all_at(&bytes, offset).expect("a flash");
    }
}

/// The environment was written since, into the copy that did not count, and says this now.
fn assert_written(disk: &Disk, active: &mut usize, expected: [(&str, &str); 4]) {
    *active = 1 - *active;
    let flags = COPIES.map(|offset| copy(disk, offset).flags);
    let mut wanted = [OBSOLETE; 2];
    wanted[*active] = ACTIVE;
    assert_eq!(flags, wanted, "the copy that counts");
    let environment = copy(disk, COPIES[*active]).environment;
    for (name, value) in expected {
        let found = environment.get(name).map(String::from_utf8_lossy);
        assert_eq!(found.as_deref(), Some(value), "{name}");
    }
}

#[test]
#[ignore = "needs QEMU"]
fn the_program_and_u_boot_take_turns_with_the_environment_in_flash() {
    let disk = Disk::of(Machine::Malta);
    // Nobody's business here.
    let foreign = ("ethaddr", "02:00:00:00:00:01");
    set(&disk, foreign.0, foreign.1);
    let state = |order, b| {
        let order = ("BOOT_ORDER", order);
        [order, ("BOOT_A_LEFT", "9"), ("BOOT_B_LEFT", b), foreign]
    };

    let mut router = disk.start();
    router.wait_for("boot: slot a, good");
    router.log_in();
    // Slot b cannot be chosen already: one store.
    router.run("sysupgrade-rs --no-reboot /root/v2.bin");
    let mut active = 0;
    assert_written(&disk, &mut active, state("B A", "3"));

    router.type_line("reboot");
    router.wait_for("boot: slot b, on trial, tries left after this one: 2");
    assert_written(&disk, &mut active, state("B A", "2"));

    router.log_in();
    assert_eq!(router.status()["standing"], "good");
    assert_written(&disk, &mut active, state("B A", "9"));

    router.type_line("reboot");
    router.wait_for("boot: slot b, good");
}

#[test]
#[ignore = "needs QEMU"]
fn an_upgrade_keeps_the_edits_and_brings_the_new_defaults() {
    upgrade::install_a_good_system(&Disk::of(Machine::Malta));
}

#[test]
#[ignore = "needs QEMU"]
fn a_system_that_dies_at_boot_loses_its_tries_and_the_old_one_is_back() {
    upgrade::install_a_system_that_dies(&Disk::of(Machine::Malta));
}
