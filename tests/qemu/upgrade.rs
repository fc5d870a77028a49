//! Upgrades of a running router, the good and the bad ones.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::{fs, io};

use serde_json::Value;

use crate::router::{Disk, Router, image, sources};
use crate::server;

/// Edits that must survive: one in a default, one in a file of the user's own.
fn edit_configuration(router: &mut Router) {
    router.run("sed -i s/router/edited/ /etc/config/system");
    router.run("echo \"config mine\" >/etc/config/mine");
}

/// All of `/etc/config` must be what these layers of the image ship, with the edits, and nothing else.
fn assert_configuration(router: &mut Router, layers: &[&str]) {
    let mut files = BTreeMap::from([("mine".to_owned(), "config mine\n".to_owned())]);
    for layer in layers {
        files.extend(shipped(layer));
    }
    let system = files.get_mut("system").expect("every version has it");
    *system = system.replace("router", "edited");
    let mut wanted = String::new();
    for (name, text) in files {
        let _ = write!(wanted, "== {name}\n{text}");
    }
    let found = router.run("cd /etc/config; for f in *; do echo \"== $f\"; cat $f; done; cd /");
    assert_eq!(found, wanted);
}

/// What a layer of an image has in `/etc/config`.
fn shipped(layer: &str) -> BTreeMap<String, String> {
    let dir = sources().join(layer).join("etc/config");
    let entries = fs::read_dir(dir).expect("a directory");
    let file = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let text = fs::read_to_string(entry.path()).expect("a file");
        (entry.file_name().into_string().expect("a name"), text)
    };
    entries.map(file).collect()
}

/// The defaults of version 1, with the edits.
pub(crate) fn assert_old_configuration(router: &mut Router) {
    assert_configuration(router, &["root"]);
}

/// The defaults of version 2, with the edits.
fn assert_new_configuration(router: &mut Router) {
    assert_configuration(router, &["root", "v2"]);
}

/// A router with version 1 and edits, logged in.
pub(crate) fn edited_router(disk: &Disk) -> Router {
    let mut router = disk.start();
    router.log_in();
    edit_configuration(&mut router);
    router.run("sync");
    router
}

/// After an upgrade to a good version: it starts and proves itself, and has the configuration.
fn assert_upgraded(router: &mut Router) {
    router.wait_for("boot: slot b, ");
    assert_proven(router);
}

fn assert_proven(router: &mut Router) {
    router.log_in();
    let status = router.status();
    assert_eq!(status["standing"], "good", "{status}");
    assert_eq!(status["running"]["name"], "b", "{status}");
    assert_eq!(status["running"]["version"], "2", "{status}");
    assert_new_configuration(router);
}

/// After a bad upgrade: slot a runs again, says why, and has its own configuration.
fn assert_fell_back(router: &mut Router, why: &str) {
    router.wait_for("boot: slot a, good");
    router.log_in();
    let status = router.status();
    assert_eq!(status["running"]["name"], "a", "{status}");
    assert_eq!(status["running"]["version"], "1", "{status}");
    let text = status.to_string();
    assert!(text.contains(why), "`{why}` is not in {status}");
    assert_old_configuration(router);
}

/// From version 1 to one that proves itself: the router that runs it.
pub(crate) fn install_a_good_system(disk: &Disk) -> Router {
    let mut router = edited_router(disk);
    router.type_line("sysupgrade-rs /root/v2.bin");
    assert_upgraded(&mut router);
    router
}

/// From version 1 to one that panics, and back.
pub(crate) fn install_a_system_that_dies(disk: &Disk) {
    let mut router = edited_router(disk);
    router.type_line("sysupgrade-rs /root/v3.bin");
    for left in [2, 1, 0] {
        router.wait_for(&format!(
            "boot: slot b, on trial, tries left after this one: {left}"
        ));
        router.wait_for("init: dying now");
    }
    assert_fell_back(&mut router, "its tries were used up");
}

#[test]
#[ignore = "needs QEMU"]
fn an_upgrade_keeps_the_edits_and_brings_the_new_defaults() {
    install_a_good_system(&Disk::new());
}

#[test]
#[ignore = "needs QEMU"]
fn an_image_may_come_through_a_pipe() {
    let disk = Disk::new();
    let mut router = edited_router(&disk);
    router.type_line("cat /root/v2.bin | sysupgrade-rs -");
    assert_upgraded(&mut router);
}

#[test]
#[ignore = "needs QEMU"]
fn an_image_may_come_over_the_network() {
    let port = server::serve(image("v2.bin"));
    let disk = Disk::new();
    let mut router = edited_router(&disk);
    // The address under which a guest finds its host.
    router.type_line(&format!("sysupgrade-rs http://10.0.2.2:{port}/v2.bin"));
    assert_upgraded(&mut router);
}

#[test]
#[ignore = "needs QEMU"]
fn a_system_that_dies_at_boot_loses_its_tries_and_the_old_one_is_back() {
    install_a_system_that_dies(&Disk::new());
}

#[test]
#[ignore = "needs QEMU"]
fn a_system_that_nobody_confirms_goes_back_by_itself() {
    let disk = Disk::new();
    let mut router = edited_router(&disk);
    router.type_line("sysupgrade-rs --confirm-within 5s /root/v4.bin");
    router.wait_for("boot: slot b, on trial");
    router.wait_for("health check 10-default-route failed: no way out");
    assert_fell_back(&mut router, "not confirmed within 5 s");
}

#[test]
#[ignore = "needs QEMU"]
fn a_system_that_its_health_check_rejects_can_be_confirmed_by_hand() {
    let disk = Disk::new();
    let mut router = edited_router(&disk);
    router.type_line("sysupgrade-rs /root/v4.bin");
    router.wait_for("health check 10-default-route failed: no way out");
    router.log_in();
    assert_eq!(router.status()["standing"], "on-trial");
    router.run("sysupgrade-rs confirm");
    let status = router.status();
    assert_eq!(status["standing"], "good", "{status}");
    assert_eq!(status["running"]["version"], "4", "{status}");
    // For good: power may go now.
    router.power_off();
    let mut router = disk.start();
    router.wait_for("boot: slot b, good");
    router.log_in();
    assert_new_configuration(&mut router);
}

#[test]
#[ignore = "needs QEMU"]
fn a_first_boot_that_cannot_take_over_the_configuration_goes_back() {
    let disk = Disk::new();
    let mut router = edited_router(&disk);
    router.run("sysupgrade-rs --no-reboot /root/v2.bin");
    router.run("echo damage >>/data/sysupgrade-rs/archive-b.tar.gz; sync");
    router.type_line("reboot");
    router.wait_for("boot: slot b, on trial, tries left after this one: 2");
    router.wait_for("first boot failed, rebooting");
    assert_fell_back(&mut router, "could not take over the configuration");
}

#[test]
#[ignore = "needs QEMU"]
fn a_proven_system_starts_without_boot_environment() {
    let disk = Disk::new();
    let mut router = edited_router(&disk);
    router.run("dd if=/dev/zero of=/dev/disk/by-partlabel/env bs=512 count=8; sync");
    router.type_line("reboot");
    router.wait_for("boot: slot a, as a last resort");
    router.log_in();
    assert_old_configuration(&mut router);
    let (status, answer) = router.attempt("sysupgrade-rs /root/v2.bin");
    assert_eq!(
        status, 30,
        "no upgrade without a boot environment: {answer}"
    );
}

/// Starts an upgrade and pulls the plug when so many percent are flashed.
fn cut_while_flashing(mut router: Router, percent: u64) {
    router.type_line("sysupgrade-rs --progress=json --no-reboot /root/v2.bin");
    loop {
        router.wait_for("{\"event\":\"progress\"");
        let line = router.wait_for("\n");
        let event: Value =
            serde_json::from_str(&format!("{{\"event\":\"progress\"{}", line.trim()))
                .unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(
            event["phase"], "flash",
            "it was flashed before {percent} %: {event}"
        );
        if event["percent"].as_u64().is_some_and(|now| now >= percent) {
            router.power_off();
            return;
        }
    }
}

#[test]
#[ignore = "needs QEMU"]
fn power_cuts_while_flashing_leave_the_old_system_and_the_next_run_goes_on() {
    let disk = Disk::new();
    let mut router = edited_router(&disk);
    router.power_off();
    for percent in [10, 50, 90] {
        // Slow enough that the plug is pulled before it is done.
        router = disk.start_with(&["--throttle", "4000000"]);
        router.wait_for("boot: slot a, good");
        router.log_in();
        assert_old_configuration(&mut router);
        cut_while_flashing(router, percent);
    }

    let mut router = disk.start();
    router.wait_for("boot: slot a, good");
    router.log_in();
    assert_eq!(router.status()["next_boot"], "a");
    assert_old_configuration(&mut router);
    // On the console the conversation, which is on stderr, would stand in the answer.
    let answer =
        router.run("sysupgrade-rs --progress=none --json --no-reboot /root/v2.bin 2>/dev/null");
    let answer: Value =
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert!(
        answer["unchanged"].as_u64() > Some(1 << 20),
        "what was written before the cuts is not written again: {answer}"
    );
    // Committed: power may go right now.
    router.power_off();
    assert_upgraded(&mut disk.start());
}

#[test]
#[ignore = "needs QEMU"]
fn a_power_cut_near_the_commit_leaves_one_whole_system_or_the_other() {
    let edited = Disk::new();
    edited_router(&edited).power_off();
    for phase in ["read-back", "config", "commit"] {
        let disk = edited.copy();
        let mut router = disk.start();
        router.log_in();
        router.type_line("sysupgrade-rs --progress=json --no-reboot /root/v2.bin");
        router.wait_for(&format!("\"phase\":\"{phase}\""));
        router.power_off();

        let mut router = disk.start();
        router.wait_for("boot: slot ");
        if router.wait_for("\n").starts_with('a') {
            router.log_in();
            assert_old_configuration(&mut router);
            router.type_line("sysupgrade-rs /root/v2.bin");
            router.wait_for("boot: slot ");
        }
        assert_proven(&mut router);
    }
}

#[test]
#[ignore = "needs QEMU"]
fn power_cuts_during_the_first_boot_leave_the_configuration_whole() {
    let committed = Disk::new();
    let mut router = edited_router(&committed);
    router.run("sysupgrade-rs --no-reboot /root/v2.bin");
    router.power_off();

    let mut cuts = 0;
    for write in (1..).step_by(6) {
        let disk = committed.copy();
        let Some(console) = disk.cut_before_write(write) else {
            break; // the boot does fewer writes
        };
        if console.contains("boot: slot b") && !console.contains("was brought over") {
            cuts += 1;
        }
        assert_upgraded(&mut disk.start());
    }
    assert!(cuts >= 3, "only {cuts} cuts fell into the first boot");
}
