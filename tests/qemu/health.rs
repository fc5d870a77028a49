//! Systems that start and are not good: the guard, the watchdog and the kernel's last words bring the old
//! one back, and it says why. A real kernel, a real watchdog, a real GRUB.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::router::{Disk, Machine, Router, image, sources};

/// The disk of a new router with a watchdog, built once a run. It is made of that of any router.
fn factory_disk() -> PathBuf {
    static DISK: OnceLock<PathBuf> = OnceLock::new();
    let built = DISK.get_or_init(|| {
        let dir = image("health");
        let status = Command::new(sources().join("health/build")).status();
        let status = status.expect("qemu/health/build starts");
        assert!(status.success(), "qemu/health/build: {status}");
        dir.join("disk.img")
    });
    built.clone()
}

/// Power on.
fn start(disk: &Disk, arguments: &[&str]) -> Router {
    let mut command = Command::new(sources().join("health/run"));
    Router::start(command.arg("--disk").arg(disk.path()).args(arguments))
}

/// A new router with version 1, on its way to this image.
fn upgraded_to(image: &str, arguments: &[&str]) -> (Disk, Router) {
    let disk = Disk::copy_of(Machine::X86, &factory_disk());
    let mut router = start(&disk, arguments);
    router.log_in();
    router.run("mount -t squashfs -o ro /dev/vdb /mnt");
    router.type_line(&format!("sysupgrade-rs {image}"));
    router.wait_for("boot: slot b, on trial, tries left after this one: 1");
    (disk, router)
}

/// The old system is back after the first try or the last one, and whoever asks hears why.
fn assert_fell_back(router: &mut Router, why: &[&str]) {
    let shown = router.wait_for("boot: slot a, good");
    assert!(!shown.contains("boot: slot b"), "another try:\n{shown}");
    router.log_in();
    let status = router.status();
    assert_eq!(status["running"]["name"], "a", "{status}");
    assert_eq!(status["standing"], "fell-back", "{status}");
    for question in [
        "sysupgrade-rs status",
        "sysupgrade-rs history",
        "cat /run/sysupgrade-rs/status.json",
    ] {
        let answer = router.run(question);
        for words in why {
            assert!(
                answer.contains(words),
                "`{question}`: no `{words}` in\n{answer}"
            );
        }
    }
    // A proven system is nobody's to reset.
    assert_eq!(watchdog(router, "state"), "inactive");
}

fn watchdog(router: &mut Router, what: &str) -> String {
    let value = router.run(&format!("cat /sys/class/watchdog/watchdog0/{what}"));
    value.trim().to_owned()
}

#[test]
#[ignore = "needs QEMU"]
fn a_network_that_worked_and_never_comes_up_again_brings_the_old_system_back() {
    let (_disk, mut router) = upgraded_to("/mnt/no-network.bin", &[]);
    let why = [
        "health check 10-default-route failed",
        "no ipv4 default route any more, it was by eth0",
        "it worked before the upgrade",
    ];
    assert_fell_back(&mut router, &why);
}

#[test]
#[ignore = "needs QEMU"]
fn a_network_that_never_worked_does_not_fail_the_same_image() {
    let (_disk, mut router) = upgraded_to("/mnt/no-network.bin", &["--no-network"]);
    router.log_in();
    router.run(
        "for i in $(seq 60); do \
         sysupgrade-rs status --json | grep -q '\"standing\":\"good\"' && break; sleep 1; done",
    );
    let status = router.status();
    assert_eq!(status["standing"], "good", "{status}");
    assert_eq!(status["running"]["name"], "b", "{status}");
    assert_eq!(watchdog(&mut router, "state"), "inactive");
}

#[test]
#[ignore = "needs QEMU"]
fn a_start_that_hangs_is_reset_by_the_watchdog_until_the_tries_are_used_up() {
    let (_disk, mut router) = upgraded_to("/mnt/hangs.bin", &[]);
    router.wait_for("init: hanging now");
    router.wait_for("boot: slot b, on trial, tries left after this one: 0");
    router.wait_for("init: hanging now");
    assert_fell_back(&mut router, &["watchdog"]);
}

#[test]
#[ignore = "needs QEMU"]
fn a_kernel_that_dies_late_is_quoted() {
    let (_disk, mut router) = upgraded_to("/mnt/panics.bin", &[]);
    router.wait_for("init: dying now");
    router.wait_for("boot: slot b, on trial, tries left after this one: 0");
    router.wait_for("init: dying now");
    assert_fell_back(
        &mut router,
        &["Kernel panic - not syncing: sysrq triggered crash"],
    );
}

#[test]
#[ignore = "needs QEMU"]
fn a_good_system_that_nobody_confirms_in_time_goes_back() {
    let (_disk, mut router) = upgraded_to("--confirm-within 5s /mnt/unconfirmed.bin", &[]);
    assert_fell_back(&mut router, &["not confirmed within 5 s"]);
}

#[test]
#[ignore = "needs QEMU"]
fn an_init_that_does_not_reboot_does_not_keep_a_bad_system() {
    let (_disk, mut router) = upgraded_to("/mnt/stuck.bin", &[]);
    assert_fell_back(&mut router, &["health check 10-default-route failed"]);
    // WDIOF_CARDRESET of <linux/watchdog.h>: it was the watchdog that ended it.
    assert_eq!(watchdog(&mut router, "bootstatus"), "32");
}
