//! Flash that cannot be written: each kind has its own reason, and the running system does not notice.

use super::{Flash, answer, assert_holds, assert_runs};
use crate::router::Router;

/// An upgrade does not work: its exit status, its reason, and whether it had begun to write.
fn assert_fails(router: &mut Router, words: &str, code: i32, reason: &str, begun: bool) {
    let command = format!("sysupgrade-rs --no-reboot {words}");
    let (status, answer) = answer(router, &command);
    let refusal = &answer["refusals"][0];
    assert_eq!(refusal["reason"], reason, "{answer}");
    assert_eq!(status, code, "{answer}");
    let message = answer["message"].as_str().expect("a message");
    let unfinished = message.contains("slot b is unfinished and will not be booted");
    assert_eq!(unfinished, begun, "{answer}");
}

/// The running slot is as it was, and the other one is not for booting.
fn assert_unharmed(router: &mut Router, board: &str) {
    assert_holds(router, board, "a", "1");
    let left = router.run("chroot /run/tools fw_printenv -n BOOT_B_LEFT");
    assert_eq!(left.trim(), "0");
}

/// From the `operation`-th on the chip refuses: 1, everything; 2, to be written.
fn fail_at(router: &mut Router, operation: u32, what: u32) {
    // What the kernel says would stand in the middle of the answer.
    router.run("dmesg -n 1; sync; cd /sys/module/cutflash/parameters");
    router.run(&format!(
        "echo {what} >cut_what; echo {operation} >cut_at; cd /"
    ));
}

fn assert_starts_as_before(flash: &Flash, board: &str) {
    let mut router = flash.start();
    router.wait_for("boot: slot a, good");
    router.log_in();
    assert_runs(&mut router, "a", "1");
    assert_unharmed(&mut router, board);
}

#[test]
#[ignore = "needs QEMU"]
fn volumes_that_cannot_be_written_are_told_apart() {
    let flash = Flash::new("nand", "cutflash");
    let mut router = flash.start();
    router.log_in();
    assert_fails(
        &mut router,
        "/run/images/v2-large.bin",
        21,
        "too-large",
        false,
    );
    assert_unharmed(&mut router, "nand");

    // In use: there is a file system in it, and it is mounted.
    let root = "/run/images/root-v1";
    router.run(&format!(
        "chroot /run/tools ubiupdatevol /dev/ubi0_3 - --size=$(stat -c %s {root}) <{root}"
    ));
    router.run("chroot /run/tools ubiblock --create /dev/ubi0_3");
    router.run("mkdir /tmp/root; mount -t squashfs -o ro /dev/ubiblock0_3 /tmp/root");
    assert_fails(&mut router, "/run/images/v2.bin", 1, "medium-busy", true);
    router.run("umount /tmp/root; chroot /run/tools ubiblock --remove /dev/ubi0_3");
    assert_unharmed(&mut router, "nand");

    // No such volume, and no room for one.
    router.run("chroot /run/tools ubirmvol /dev/ubi0 --name=root-b");
    assert_fails(
        &mut router,
        "/run/images/v2.bin",
        1,
        "medium-missing",
        false,
    );
    router.run("chroot /run/tools ubimkvol /dev/ubi0 --name=rest --maxavs");
    router.run("sed '/root-b/s/ }/, size = 0x400000 }/' /run/board.toml >/tmp/board.toml");
    let words = "--board /tmp/board.toml /run/images/v2.bin";
    assert_fails(&mut router, words, 1, "medium-unusable", false);
    assert_unharmed(&mut router, "nand");
}

#[test]
#[ignore = "needs QEMU"]
fn a_chip_that_wears_out_or_vanishes_in_mid_write_leaves_the_running_system_alone() {
    let flash = Flash::new("nand", "cutflash");
    let mut router = flash.start();
    router.log_in();
    // Every block that UBI tries fails, until it gives up.
    fail_at(&mut router, 900, 2);
    assert_fails(&mut router, "/run/images/v2.bin", 1, "medium-failed", true);
    assert_unharmed(&mut router, "nand");
    router.power_off();

    let flash = Flash::new("nor", "cutflash");
    let mut router = flash.start();
    router.log_in();
    fail_at(&mut router, 3000, 1);
    // The environment is on that chip, too. It was written before, and that is what counts.
    let (status, answer) = answer(&mut router, "sysupgrade-rs --no-reboot /run/images/v2.bin");
    assert_eq!(status, 30, "{answer}");
    let message = answer["message"].as_str().expect("a message");
    assert!(message.contains("cannot program mtd root-b"), "{answer}");
    router.power_off();
    assert_starts_as_before(&flash, "nor");
}

#[test]
#[ignore = "needs QEMU"]
fn a_partition_that_is_read_only_is_refused_and_a_mounted_one_is_not_written() {
    let flash = Flash::new("nor", "cutflash");
    let mut router = flash.start_with("locked=root-b");
    router.log_in();
    assert_fails(
        &mut router,
        "/run/images/v2.bin",
        1,
        "medium-read-only",
        false,
    );
    assert_unharmed(&mut router, "nor");
    router.power_off();

    let mut router = flash.start();
    router.log_in();
    router.run("cat /run/images/root-v1 >/dev/mtd4");
    router.run("mkdir /tmp/root; mount -t squashfs -o ro /dev/mtdblock4 /tmp/root");
    assert_fails(&mut router, "/run/images/v2.bin", 1, "medium-busy", true);
    router.run("cmp /dev/mtd4 /dev/mtd2"); // not a block of it was changed
    assert_unharmed(&mut router, "nor");
}
