//! A router with OpenWrt's ways, where this program is `/sbin/sysupgrade`: what the web page types, and
//! what the first boot does before and after the system's own scripts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sysupgrade_rs::image::openwrt::fwtool::{self, New};
use sysupgrade_rs::image::openwrt::metadata::Metadata;
use sysupgrade_rs::trust::ucert;
use sysupgrade_rs::trust::usign::SecretKey;

use crate::router::{Disk, Router, image};
use crate::server;

/// A file of the recorded cases.
fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/openwrt")
        .join(name)
}

/// Version 2 as OpenWrt's build makes images: a tar of the parts with metadata behind it, signed by a key
/// that one of the router's keys has authorised, or not signed.
fn stock_image(dir: &Path, signed: bool) -> PathBuf {
    let members = dir.join("sysupgrade-qemu_x86-64");
    fs::create_dir(&members).expect("a directory");
    fs::write(members.join("CONTROL"), "BOARD=qemu_x86-64\n").expect("a file");
    for (part, file) in [
        ("kernel", "kernel-openwrt.squashfs"),
        ("root", "root-vopenwrt-2.squashfs"),
    ] {
        fs::copy(image(file), members.join(part)).expect("the part was built");
    }
    let path = dir.join("stock.bin");
    let tar = Command::new("tar")
        .args(["--format=ustar", "--sort=name", "--owner=0", "--group=0"])
        .arg("-cf")
        .args([&path, Path::new("-C"), dir])
        .arg("sysupgrade-qemu_x86-64")
        .status();
    assert!(tar.expect("tar starts").success(), "tar failed");

    let mut file = File::options().read(true).write(true).open(&path);
    let file = file.as_mut().expect("tar has written it");
    let metadata = Metadata {
        devices: vec!["qemu,x86-64".into()],
        ..Metadata::default()
    };
    fwtool::append(file, New::Info(&metadata.to_json())).expect("it is appended");
    if signed {
        let read = |name| fs::read(recorded("keys-material").join(name)).expect(name);
        let key = SecretKey::parse(&read("delegate.sec")).expect("a key");
        let signature = key.sign_stream(file).expect("it is read");
        let chain = ucert::sign_chain(&read("delegate-by-root.ucert"), &signature);
        fwtool::append(file, New::Signature(&chain.expect("it fits"))).expect("it is appended");
    }
    path
}

/// Puts a file of the host on the router, where the web page puts what was uploaded.
fn upload(router: &mut Router, file: PathBuf, to: &str) {
    let port = server::serve(file);
    // The address under which a guest finds its host.
    router.run(&format!("wget -q -O {to} http://10.0.2.2:{port}/"));
}

/// The owner's configuration.
fn configure(router: &mut Router) {
    router.run("sed -i \"s/'router'/'home'/\" /etc/config/system");
    router.run("echo 'config mine' >/etc/config/mine");
    router.run("echo '192.168.1.9 printer' >>/etc/hosts");
    router.run("echo /etc/notes >>/etc/sysupgrade.conf; echo mine >/etc/notes");
    // What `/etc/init.d/cron disable` does.
    router.run("rm /etc/rc.d/S50cron");
}

/// A proven system, without looking before its services had their time.
fn assert_confirmed(router: &mut Router, slot: &str) {
    router.run(
        "for i in $(seq 60); do \
         sysupgrade-rs status --json | grep -q '\"standing\":\"good\"' && break; sleep 1; done",
    );
    let status = router.status();
    assert_eq!(status["standing"], "good", "{status}");
    assert_eq!(status["running"]["name"], slot, "{status}");
}

#[test]
#[ignore = "needs QEMU"]
fn scripts_of_the_new_system_run_after_the_merge_and_see_what_the_owner_set() {
    let disk = Disk::openwrt();
    let mut router = disk.start();
    router.log_in();
    assert_eq!(
        router.run("cat /etc/uci-defaults.log"),
        "v1 saw 'router' \n"
    );
    assert_eq!(router.run("ls /etc/uci-defaults"), "");
    configure(&mut router);
    upload(&mut router, image("openwrt-2.bin"), "/tmp/firmware.bin");
    router.run("/sbin/sysupgrade --test /tmp/firmware.bin");
    router.type_line("/sbin/sysupgrade /tmp/firmware.bin");

    router.wait_for("boot: slot b, on trial");
    router.log_in();
    assert_confirmed(&mut router, "b");
    // The scripts saw the owner's values, and those that ended well are gone; what they wrote is there.
    assert_eq!(
        router.run("cat /etc/uci-defaults.log"),
        "v2 saw 'home' upgrade\nv2 tries again\n"
    );
    assert_eq!(router.run("ls /etc/uci-defaults"), "20_again\n");
    let system = router.run("cat /etc/config/system");
    for line in ["hostname 'home'", "timezone 'CET-1'", "log_size '256'"] {
        assert!(system.contains(line), "`{line}` is not in:\n{system}");
    }
    assert_eq!(router.run("cat /etc/config/mine"), "config mine\n");
    assert_eq!(router.run("cat /etc/notes"), "mine\n");
    let hosts = router.run("cat /etc/hosts");
    assert!(hosts.contains("192.168.1.9 printer\n"), "{hosts}");
    let services = router.run("ls /etc/rc.d");
    assert!(!services.contains("cron"), "{services}");
    // Stock's own restore has nothing to unpack.
    router.run("[ ! -e /sysupgrade.tgz ]");
    router.power_off();

    // The next boot is an ordinary one.
    let mut router = disk.start();
    router.wait_for("boot: slot b, good");
    router.log_in();
    assert_eq!(
        router.run("cat /etc/uci-defaults.log"),
        "v2 saw 'home' upgrade\nv2 tries again\nv2 tries again\n"
    );
}

/// A time at which the certificates of the recorded cases are valid.
const VALID: &str = "2026-06-15 12:00:00";

#[test]
#[ignore = "needs QEMU"]
fn a_stock_image_is_installed_if_it_is_signed() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::openwrt();
    let mut router = disk.start();
    router.log_in();
    configure(&mut router);
    router.run(&format!("date -s '{VALID}' >/dev/null"));
    upload(
        &mut router,
        stock_image(dir.path(), false),
        "/tmp/firmware.bin",
    );
    let untouched = media(&mut router);
    for (command, code) in [
        ("/sbin/sysupgrade --test", 1),
        ("/sbin/sysupgrade --force", 1),
        ("sysupgrade-rs", 11),
    ] {
        let (status, said) = router.attempt(&format!("{command} /tmp/firmware.bin 2>&1"));
        assert_eq!(status, code, "{command}: {said}");
        assert!(said.contains("sign"), "{command}: {said}");
    }

    let dir = tempfile::tempdir().expect("a directory");
    upload(
        &mut router,
        stock_image(dir.path(), true),
        "/tmp/firmware.bin",
    );
    // The dates of certificates are not believed without a clock, nor is the image.
    router.run("date -s '1970-01-01 00:10:00' >/dev/null");
    let (status, said) = router.attempt("/sbin/sysupgrade /tmp/firmware.bin 2>&1");
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("clock"), "{said}");
    assert_eq!(media(&mut router), untouched);

    router.run(&format!("date -s '{VALID}' >/dev/null"));
    let said = router.run("/usr/libexec/validate_firmware_image /tmp/firmware.bin 2>/dev/null");
    let verdict: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(verdict["valid"], true, "{said}");
    assert_eq!(verdict["tests"]["fwtool_signature"], true, "{said}");
    router.type_line("/sbin/sysupgrade /tmp/firmware.bin");

    router.wait_for("boot: slot b, on trial");
    router.log_in();
    assert_confirmed(&mut router, "b");
    assert_eq!(
        router.run("cat /etc/uci-defaults.log"),
        "v2 saw 'home' upgrade\nv2 tries again\n"
    );
    assert_eq!(router.run("cat /etc/config/mine"), "config mine\n");
}

/// The boot environment and the other slot, as digests.
fn media(router: &mut Router) -> String {
    router.run("cd /dev/disk/by-partlabel; sha256sum env kernel-b root-b; cd /")
}

#[test]
#[ignore = "needs QEMU"]
fn backups_go_from_stock_to_us_and_back() {
    let disk = Disk::openwrt();
    let mut router = disk.start();
    router.log_in();
    upload(&mut router, image("openwrt-2.bin"), "/tmp/firmware.bin");
    upload(
        &mut router,
        recorded("backup/opkg-overlay/backup.tgz"),
        "/tmp/backup.tar.gz",
    );
    // What the web page does.
    let stock = router.run("tar -tzf /tmp/backup.tar.gz");
    router.run("/sbin/sysupgrade --restore-backup /tmp/backup.tar.gz >/dev/null 2>&1");
    assert_eq!(
        router.run("cat /etc/hosts /etc/extra.conf /etc/config/network"),
        "127.0.0.1 localhost shared\nextra\nconfig interface wan0\n"
    );
    assert_eq!(
        router.run("cd /etc/openvpn; stat -c '%a %u:%g %n' keys/ta.key; readlink latest; cd /"),
        "400 1000:1001 keys/ta.key\nclient.conf\n"
    );

    // All of it is on our list, and in our backup, which stock tools read.
    let list = router.run("/sbin/sysupgrade --list-backup 2>/dev/null");
    router.run("/sbin/sysupgrade --create-backup - <&- 2>&- >/tmp/ours.tgz");
    let ours = router.run("tar -tzf /tmp/ours.tgz");
    for name in stock.lines().skip(1) {
        assert!(list.contains(&format!("/{name}\n")), "{name}: {list}");
    }
    for name in stock.lines() {
        assert!(ours.contains(&format!("{name}\n")), "{name}: {ours}");
    }
    assert_eq!(ours.lines().next(), stock.lines().next());

    // The answers of `--test` are yes and no.
    router.run("/sbin/sysupgrade --test /tmp/firmware.bin >/dev/null 2>&1");
    router.run("head -c 1000000 /tmp/firmware.bin >/tmp/cut.bin");
    for command in [
        "--test /tmp/cut.bin",
        "/tmp/cut.bin",
        "/tmp/none",
        "--what",
        "-b",
    ] {
        let (status, said) = router.attempt(&format!("/sbin/sysupgrade {command} 2>&1"));
        assert_eq!(status, 1, "{command}: {said}");
    }

    router.type_line("reboot");
    router.wait_for("boot: slot a, good");
    router.log_in();
    // Services that were off stay off: the backup has a script for that, which is done.
    assert_eq!(router.run("ls /etc/uci-defaults"), "");
    assert_eq!(router.run("cat /etc/extra.conf"), "extra\n");
}
