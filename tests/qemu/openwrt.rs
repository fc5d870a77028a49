//! A router with OpenWrt's ways, where this program is `/sbin/sysupgrade`: what the web page types, and
//! what the first boot does before and after the system's own scripts.

use crate::router::{Disk, Router, image};
use crate::server;

/// Puts a file of the host on the router, where the web page puts what was uploaded.
fn upload(router: &mut Router, file: std::path::PathBuf, to: &str) {
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
    assert_eq!(router.run("cat /etc/uci-defaults.log"), "v1 saw 'router'\n");
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
        "v2 saw 'home'\nv2 tries again\n"
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
        "v2 saw 'home'\nv2 tries again\nv2 tries again\n"
    );
}
