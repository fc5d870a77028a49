//! The real GRUB decides as [`BootState::boot`] says it does.

use std::fs::File;
use std::os::unix::fs::FileExt;

use sysupgrade_rs::boot::{Bootloader, GrubEnv};
use sysupgrade_rs::slots::{BootState, Condition, Slot};

use crate::router::{Disk, ENVIRONMENT, KERNEL_A, KERNEL_B, KERNEL_LEN, Machine};

/// A router with a kernel in both slots: while GRUB reads one it changes nothing more, so the plug is
/// always pulled in time.
pub(crate) fn router_with_two_kernels(machine: Machine) -> Disk {
    let disk = Disk::of(machine);
    let file = File::options().read(true).write(true).open(disk.path());
    let file = file.expect("the disk is a file");
    let mut kernel = vec![0; KERNEL_LEN];
    file.read_exact_at(&mut kernel, KERNEL_A)
        .and_then(|()| file.write_all_at(&kernel, KERNEL_B))
        .expect("the disk has both partitions");
    disk
}

fn names() -> [String; 2] {
    ["a".to_owned(), "b".to_owned()]
}

fn slot_name(slot: Slot) -> &'static str {
    ["a", "b"][slot.index()]
}

fn block(state: &BootState) -> Vec<u8> {
    GrubEnv::format(names(), state).expect("short names fit")
}

/// Puts an environment block on the disk, and lets GRUB decide. What GRUB said.
fn decide(disk: &Disk, block: &[u8]) -> String {
    let file = File::options().write(true).open(disk.path());
    file.and_then(|file| file.write_all_at(block, ENVIRONMENT))
        .expect("the disk is a file");
    decide_again(disk)
}

/// Powers on, and pulls the plug when GRUB has decided. What GRUB said.
fn decide_again(disk: &Disk) -> String {
    let mut router = disk.start();
    router.wait_for("boot: slot ");
    let said = router.wait_for("\n");
    router.power_off();
    said.trim().to_owned()
}

fn environment(disk: &Disk) -> GrubEnv {
    GrubEnv::new(disk.path(), names()).at(ENVIRONMENT)
}

fn left_behind(disk: &Disk) -> BootState {
    environment(disk).load().expect("GRUB leaves a whole block")
}

/// Puts a state before GRUB, and compares what it boots and leaves with the model.
pub(crate) fn compare(disk: &Disk, state: BootState) {
    let (slot, after) = state.boot();
    let said = decide(disk, &block(&state));
    assert!(
        said.starts_with(&format!("{},", slot_name(slot))),
        "{state:?} boots {slot:?}, GRUB says: {said}"
    );
    assert_eq!(left_behind(disk), after, "left behind by {state:?}");
}

#[test]
#[ignore = "needs QEMU"]
fn grub_chooses_and_counts_as_the_model_does() {
    let disk = router_with_two_kernels(Machine::X86);
    let all = [Condition::Unbootable, Condition::Good]
        .into_iter()
        .chain((1..=7).map(Condition::Trial));
    // The other slot matters only when this one is passed over.
    for first in all {
        for second in [Condition::Unbootable, Condition::Trial(1), Condition::Good] {
            for primary in Slot::ALL {
                let mut conditions = [first; 2];
                conditions[primary.other().index()] = second;
                let state = BootState {
                    primary,
                    conditions,
                };
                compare(&disk, state);
            }
        }
    }
}

#[test]
#[ignore = "needs QEMU"]
fn grub_gives_no_try_that_it_cannot_count() {
    let disk = router_with_two_kernels(Machine::X86);
    let trial = BootState {
        primary: Slot::Second,
        conditions: [Condition::Good, Condition::Trial(3)],
    };
    // GRUB reads such a block and refuses to save into it.
    let mut damaged = block(&trial);
    damaged[512..].fill(0);
    assert_eq!(
        decide(&disk, &damaged),
        "b passed over, its try cannot be counted"
    );
    // So do we, and a store makes it one in which GRUB counts again.
    let mut environment = environment(&disk);
    assert_eq!(environment.load().expect("as GRUB reads it"), trial);
    assert_eq!(environment.flaws().expect("readable").len(), 1);
    environment.store(&trial).expect("stored");
    for left in [2, 1] {
        let said = format!("b, on trial, tries left after this one: {left}");
        assert_eq!(decide_again(&disk), said);
    }
    assert_eq!(left_behind(&disk), trial.boot().1.boot().1);
}

#[test]
#[ignore = "needs QEMU"]
fn grub_starts_something_when_it_cannot_read_its_environment() {
    let disk = router_with_two_kernels(Machine::X86);
    for unreadable in [vec![0; 1024], vec![0xff; 1024]] {
        assert_eq!(decide(&disk, &unreadable), "a, as a last resort");
    }
}

#[test]
#[ignore = "needs QEMU"]
fn a_boot_order_that_is_half_written_is_one_of_the_two() {
    let disk = router_with_two_kernels(Machine::X86);
    let good = BootState {
        primary: Slot::First,
        conditions: [Condition::Good; 2],
    };
    for (order, boots) in [("A A", "a, good"), ("B B", "b, good")] {
        let text = String::from_utf8(block(&good)).expect("plain text");
        let half = text.replace("BOOT_ORDER=A B", &format!("BOOT_ORDER={order}"));
        assert_ne!(half.find(order), None, "the block names its order: {text}");
        assert_eq!(decide(&disk, half.as_bytes()), boots);
    }
}
