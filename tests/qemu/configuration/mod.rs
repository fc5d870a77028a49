//! What an owner did to a router, on its way to a new version, back, and to the old version again.
//!
//! All of `/etc` is compared with what is written out in `upgraded.txt` and `downgraded.txt`: kind,
//! permissions, owner and content of every entry. What belongs to the virtual router itself must be
//! as it was shipped.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::router::{Disk, Router, image};
use crate::server;

/// What makes the virtual router one, in `/etc`: nobody's configuration.
const MACHINE: [&str; 11] = [
    "etc/init.d/S10system",
    "etc/init.d/S20network",
    "etc/init.d/S90sysupgrade",
    "etc/init.d/rcK",
    "etc/init.d/rcS",
    "etc/inittab",
    "etc/issue",
    "etc/mtab",
    "etc/os-release",
    "etc/profile",
    "etc/sysupgrade-rs",
];

/// What the program keeps of a configuration.
const STATE: &str = "etc/sysupgrade";

/// The owner's secrets: no word of them in anything that is printed or kept for reading.
const SECRETS: [&str; 2] = ["correct horse", "$6$salt$alices"];

/// Entries by path; each is a line that says what it is, and its content in lines that begin with
/// `| `.
type Listing = BTreeMap<String, String>;

/// Reads a listing. The lines of a directory are `dir MODE OWNER PATH`, of a file `file MODE OWNER
/// PATH`, of a link `link PATH -> TARGET`.
fn listing(text: &str) -> Listing {
    let mut entries = Listing::new();
    let mut path = String::new();
    for line in text.lines() {
        if !line.starts_with('|') {
            let field = if line.starts_with("link ") { 1 } else { 3 };
            let field = line.split(' ').nth(field);
            path = field.unwrap_or_else(|| panic!("no entry: `{line}`")).into();
        }
        let entry = entries.entry(path.clone()).or_default();
        *entry += line;
        *entry += "\n";
    }
    entries
}

/// All of `etc` below a directory of the router.
fn list_etc(router: &mut Router, root: &str) -> Listing {
    listing(&router.run(&format!(
        "cd {root}; find etc | sort | while read -r f; do \
         if [ -L $f ]; then echo \"link $f -> $(readlink $f)\"; \
         elif [ -d $f ]; then stat -c 'dir %a %u:%g %n' $f; \
         else stat -c 'file %a %u:%g %n' $f; sed 's/^/| /;s/^| $/|/' $f; fi; done; cd /"
    )))
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_machine(path: &str) -> bool {
    MACHINE.iter().any(|dir| is_below(path, dir))
}

/// `/etc` must be what is expected, but for the state of the program.
fn assert_etc(router: &mut Router, expected: &str) {
    let mut shipped = list_etc(router, "/rom");
    shipped.retain(|path, _| is_machine(path));
    let mut found = list_etc(router, "/");
    found.retain(|path, _| !is_below(path, STATE));
    let mut expected = listing(expected);
    expected.extend(shipped);
    assert_same(&found, &expected);
}

fn assert_same(found: &Listing, expected: &Listing) {
    let text = |listing: &Listing| listing.values().map(String::as_str).collect::<String>();
    let (found, expected) = (text(found), text(expected));
    let patch = diffy::create_patch(&expected, &found);
    assert!(
        found == expected,
        "/etc differs from what is expected:\n{patch}"
    );
}

/// Writes a file on the router.
fn write(router: &mut Router, path: &str, text: &str) {
    let text = text
        .replace('\\', "\\\\")
        .replace('%', "%%")
        .replace('\'', "\\047")
        .replace('\t', "\\t")
        .replace('\n', "\\n");
    router.run(&format!("printf '{text}' >{path}"));
}

/// What the owner does to version 1.
fn configure(router: &mut Router) {
    // By hand, in an editor.
    router.run("sed -i 's/router/edited/; s/64/128/' /etc/config/system");
    router.run("echo \"\tlist server 'ntp.example.org'\" >>/etc/config/system");
    write(
        router,
        "/etc/config/guest",
        "\n# For visitors.\nconfig interface 'guest'\n\toption proto 'none'\n",
    );
    router.run("cat /etc/config/guest >>/etc/config/network; rm /etc/config/guest");
    router.run(
        "sed -i \"/disabled/d; s/'36'/'100'/; s/'Router'/'Home'/; s/'none'/'psk2'/\" \
         /etc/config/wireless",
    );
    router.run("echo \"\toption key 'correct horse'\" >>/etc/config/wireless");
    router.run("echo '30 4 * * 1 /sbin/reboot' >>/etc/crontabs/root");

    // By a program that writes whole files anew: one value of this is another,
    write(
        router,
        "/etc/config/firewall",
        include_str!("firewall-rewritten"),
    );
    // none of this.
    write(router, "/etc/config/dhcp", include_str!("dhcp-rewritten"));

    // A default that is not wanted, a service that is not, and files of the owner's own, one of
    // which no list declares.
    router.run("rm /etc/config/rpcd");
    router.run("rm /etc/rc.d/S50cron");
    write(router, "/etc/config/mine", "config mine\n");
    write(
        router,
        "/etc/backup.sh",
        "#!/bin/sh\ntar c /etc | ssh nas\n",
    );
    router.run("chmod 700 /etc/backup.sh");
    router.run("echo /etc/backup.sh >/etc/sysupgrade.conf");
    write(router, "/etc/notes", "Do not touch the blue cable.\n");

    router.run("echo 'alice:x:1000:1000:Alice:/home/alice:/bin/sh' >>/etc/passwd");
    router.run("echo 'alice:x:1000:' >>/etc/group");
    router.run("echo 'alice:$6$salt$alices:19000:0:99999:7:::' >>/etc/shadow");
    router.run("sync");
}

/// Makes an upgrade, without the reboot. The exit status, and what was said.
fn install(router: &mut Router, image: &str) -> (i32, String) {
    router.attempt(&format!(
        "sysupgrade-rs --progress=none --no-reboot {image}"
    ))
}

/// Where the router finds an image that is not on its disk.
fn address(name: &str) -> String {
    // The address under which a guest finds its host.
    format!("http://10.0.2.2:{}/{name}", server::serve(image(name)))
}

/// Reboots into a slot; the new system there proves itself by itself.
fn reboot_into(router: &mut Router, slot: &str) {
    router.type_line("reboot");
    router.wait_for(&format!("boot: slot {slot}, "));
    router.log_in();
    let status = router.status();
    assert_eq!(status["running"]["name"], slot, "{status}");
    assert_eq!(status["standing"], "good", "{status}");
}

/// The last report, which nobody else may read, and which tells no secrets.
fn report(router: &mut Router) -> Value {
    let modes = router.run("stat -c %a /etc/sysupgrade /etc/sysupgrade/reports/*");
    assert!(modes.starts_with("700\n600\n"), "{modes}");
    for wording in ["", "--verbose"] {
        assert_no_secret(&router.run(&format!("sysupgrade-rs {wording} config report")));
    }
    let text = router.run("sysupgrade-rs config report --json");
    assert_no_secret(&text);
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn assert_no_secret(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "`{secret}` is told:\n{text}");
    }
}

/// What a report decides and tells, a line each: action, path, and its disputes with their places;
/// then notices, services and steps.
fn decisions(report: &Value) -> String {
    let entry = |entry: &Value| {
        let disputes = list(entry, "conflicts").iter();
        let disputes = disputes.map(|dispute| words(dispute, &["kind", "locus", "resolved"]));
        let entry = words(entry, &["action", "path"]);
        [entry]
            .into_iter()
            .chain(disputes)
            .collect::<Vec<_>>()
            .join(": ")
    };
    let entries = list(report, "entries").iter().map(entry);
    let told = [
        ("notices", ["kind", "path"]),
        ("services", ["action", "name"]),
        ("steps", ["direction", "id"]),
    ];
    let told = told
        .iter()
        .flat_map(|(name, fields)| list(report, name).iter().map(|one| words(one, fields)));
    entries.chain(told).map(|line| line + "\n").collect()
}

/// Nothing, if there is none.
fn list<'r>(report: &'r Value, name: &str) -> &'r [Value] {
    report[name].as_array().map_or(&[], Vec::as_slice)
}

fn words(object: &Value, fields: &[&str]) -> String {
    let words = fields
        .iter()
        .map(|field| object[field].as_str().unwrap_or("-"));
    words.collect::<Vec<_>>().join(" ")
}

/// What is decided when the owner's version 1 becomes version 2.
const UPGRADE: &str = "\
user-added etc/backup.sh
updated etc/config/dhcp
updated etc/config/dropbear
merged etc/config/firewall
user-added etc/config/mine
merged etc/config/network
stay-deleted etc/config/rpcd
conflict-user etc/config/system: both-changed @system[0].log_size user
merged etc/config/wireless
kept etc/crontabs/root
merged etc/group
merged etc/passwd
merged etc/shadow
user-added etc/sysupgrade.conf
not-kept etc/notes
delete-change etc/config/rpcd
disabled cron
forward firewall-network-list
forward wireless-hwmode-to-band
forward acme-cron-renew
";

/// What is decided when this becomes version 1 again.
const DOWNGRADE: &str = "\
user-added etc/backup.sh
updated etc/config/dhcp
updated etc/config/dropbear
merged etc/config/firewall
user-added etc/config/mine
merged etc/config/network
removed etc/config/resolver
stay-deleted etc/config/rpcd
conflict-user etc/config/system: both-changed @system[0].log_size user
merged etc/config/wireless
kept etc/crontabs/root
merged etc/group
merged etc/passwd
merged etc/shadow
user-added etc/sysupgrade.conf
delete-change etc/config/rpcd
disabled cron
backward acme-cron-renew
backward wireless-hwmode-to-band
backward firewall-network-list
";

/// A plan, which must say that something needs review, and be of one mind with the first boot.
fn assert_plan(router: &mut Router, image: &str, expected: &str) {
    let (status, text) = router.attempt(&format!("sysupgrade-rs plan --json {image} 2>/dev/null"));
    assert_eq!(status, 3, "{text}");
    assert_no_secret(&text);
    let plan: Value =
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(decisions(&plan), expected);
}

/// The boot environment and the other slot, as digests.
fn media(router: &mut Router) -> String {
    router.run("cd /dev/disk/by-partlabel; sha256sum env kernel-b root-b; cd /")
}

#[test]
#[ignore = "needs QEMU"]
fn what_the_owner_did_is_there_in_the_new_system_and_in_the_old_one_again() {
    let disk = Disk::new();
    let mut router = disk.start();
    router.log_in();
    configure(&mut router);
    let before = list_etc(&mut router, "/");
    assert_plan(&mut router, "/root/v2.bin", UPGRADE);
    let (status, said) = install(&mut router, "/root/v2.bin");
    assert_eq!(status, 3, "installed, and something needs review: {said}");
    assert_no_secret(&said);
    reboot_into(&mut router, "b");
    assert_eq!(decisions(&report(&mut router)), UPGRADE);
    assert_etc(&mut router, include_str!("upgraded.txt"));
    router.run("sync");
    router.power_off();

    // The old system is as it was.
    let copy = disk.copy();
    let mut router = copy.start();
    router.log_in();
    router.run("sysupgrade-rs rollback --no-reboot");
    reboot_into(&mut router, "a");
    assert_same(&list_etc(&mut router, "/"), &before);
    router.power_off();

    // Its version can also be installed again: then the newer configuration is brought back to it.
    let mut router = disk.start();
    router.log_in();
    let old = address("v1.bin");
    assert_plan(&mut router, &old, DOWNGRADE);
    let (status, said) = install(&mut router, &old);
    assert_eq!(status, 3, "installed, and something needs review: {said}");
    reboot_into(&mut router, "a");
    assert_eq!(decisions(&report(&mut router)), DOWNGRADE);
    assert_etc(&mut router, include_str!("downgraded.txt"));
}

#[test]
#[ignore = "needs QEMU"]
fn a_configuration_that_the_new_system_refuses_stays_with_the_old_one() {
    let disk = Disk::new();
    let mut router = disk.start();
    router.log_in();
    configure(&mut router);
    let before = list_etc(&mut router, "/");

    // Its policy wants no disputes. An image that says so is refused before anything is written;
    let why = "etc/config/system";
    let untouched = media(&mut router);
    let (status, said) = install(&mut router, &address("v5.bin"));
    assert_eq!(status, 22, "{said}");
    assert!(said.contains(why), "`{why}` is not in {said}");
    assert_eq!(media(&mut router), untouched);

    // of another, only its first boot can tell.
    let (status, said) = install(&mut router, &address("v5-untold.bin"));
    assert_eq!(status, 0, "{said}");
    router.type_line("reboot");
    router.wait_for("boot: slot b, on trial, tries left after this one: 2");
    router.wait_for("first boot failed, rebooting");
    router.wait_for("boot: slot a, good");
    router.log_in();
    for command in ["status", "history"] {
        let told = router.run(&format!("sysupgrade-rs {command}"));
        assert!(told.contains(why), "`{why}` is not in {told}");
        assert_no_secret(&told);
    }
    assert_same(&list_etc(&mut router, "/"), &before);
}
