//! Power fails while the other slot is written, on chips that keep what they had at that instant.

use super::{Flash, assert_holds, assert_runs};
use crate::router::Router;

/// After a cut: the old system runs, whole, and the boot loader is told not to try the other one.
fn assert_old_system(router: &mut Router, board: &str) {
    router.wait_for("boot: slot a, good");
    router.log_in();
    assert_runs(router, "a", "1");
    assert_holds(router, board, "a", "1");
    let left = router.run("chroot /run/tools fw_printenv -n BOOT_B_LEFT");
    assert_eq!(left.trim(), "0");
}

/// Nothing but the same command again is needed.
fn assert_finished(mut router: Router, board: &str) {
    router.type_line("sysupgrade-rs /run/images/v2.bin");
    router.wait_for("boot: slot b, on trial");
    router.log_in();
    assert_runs(&mut router, "b", "2");
    assert_holds(&mut router, board, "b", "2");
}

/// Each run begins where the cut before it has left the flash. An upgrade takes 2000 operations: the
/// environment's dozen, 400 of the kernel's volume, 1600 of the root's, those of files on UBIFS.
#[test]
#[ignore = "needs QEMU"]
fn power_fails_five_times_in_mid_operation_on_nand_and_the_sixth_run_finishes() {
    const BEFORE: u32 = 0;
    const MIDDLE: u32 = 1;
    const AFTER: u32 = 2;
    let flash = Flash::new("nand", "cutflash");
    let mut router = flash.start();
    for (operation, when) in [
        (4, MIDDLE),
        (150, MIDDLE),
        (500, BEFORE),
        (700, MIDDLE),
        (300, AFTER),
    ] {
        assert_old_system(&mut router, "nand");
        router.run("sync; cd /sys/module/cutflash/parameters");
        router.type_line(&format!(
            "echo {when} >cut_mode; echo {operation} >cut_at; sysupgrade-rs /run/images/v2.bin"
        ));
        let (console, status) = router.wait_for_end();
        assert_eq!(status.code(), Some(197), "{console}");
        router = flash.start();
    }
    assert_old_system(&mut router, "nand");
    assert_finished(router, "nand");
}

/// The machine is killed when the tool has been given so much of the image, and waits for more.
#[test]
#[ignore = "needs QEMU"]
fn the_plug_is_pulled_at_five_points_of_a_write_to_nor_and_the_sixth_run_finishes() {
    let flash = Flash::new("nor", "phram");
    let mut router = flash.start();
    for kibibytes in [300, 700, 1400, 2500, 3600] {
        assert_old_system(&mut router, "nor");
        router.type_line(&format!(
            "(head -c {kibibytes}k /run/images/v2.bin; echo enough >/dev/console; cat) | sysupgrade-rs -"
        ));
        router.wait_for("enough");
        router.power_off();
        router = flash.start();
    }
    assert_old_system(&mut router, "nor");
    assert_finished(router, "nor");
}
