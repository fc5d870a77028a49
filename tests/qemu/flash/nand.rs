//! A NAND chip with bad blocks, and bits that flip: the kernel's simulated one.

use super::{Flash, assert_holds, assert_runs};

#[test]
#[ignore = "needs QEMU"]
fn an_upgrade_on_nand_is_what_the_kernel_reads_and_the_way_back_is_open() {
    let flash = Flash::new("nand", "nandsim");
    let mut router = flash.start();
    router.log_in();
    assert_eq!(
        router.run("cat /sys/class/ubi/ubi0/bad_peb_count").trim(),
        "2"
    );
    router.run("echo 'config mine' >/etc/config/mine");

    router.type_line("sysupgrade-rs /run/images/v2.bin");
    router.wait_for("boot: slot b, on trial");
    router.log_in();
    assert_runs(&mut router, "b", "2");
    assert_eq!(router.run("cat /etc/config/mine"), "config mine\n");
    assert_holds(&mut router, "nand", "b", "2");
    // That was the volumes; their block device and its file system are what runs.
    router.run("grep -q '^/dev/ubiblock0_3 /rom squashfs' /proc/mounts");
    // Bits did flip on the way.
    router.run("[ $(cat /sys/class/mtd/mtd1/corrected_bits) -gt 0 ]");

    router.type_line("sysupgrade-rs rollback");
    router.wait_for("boot: slot a, ");
    router.log_in();
    assert_runs(&mut router, "a", "1");
    assert_eq!(router.run("cat /etc/config/mine"), "config mine\n");
}
