//! Whatever package managers, keep lists and scripts of services hold: there is a list or an error, and
//! of what is listed a backup, which verifies.

#![no_main]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sysupgrade_rs::config::archive::{self, Source};
use sysupgrade_rs::config::bundle::Scope;
use sysupgrade_rs::config::keep::{Changed, KeepList, Listing};

/// Each is one part of the input; parts end with a NUL.
const FILES: [&str; 8] = [
    "usr/lib/opkg/status",
    "usr/lib/opkg/info/a.control",
    "usr/lib/opkg/info/a.list",
    "lib/apk/packages/b.conffiles_static",
    "lib/apk/packages/b.alternatives",
    "lib/apk/packages/b.list",
    "etc/init.d/service",
    "etc/sysupgrade.conf",
];

fuzz_target!(|input: &[u8]| {
    let root = Path::new("/dev/shm").join(format!("fuzz-packages-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    let write = |path: &str, text: &[u8]| {
        let place = root.join(path);
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        fs::write(place, text).expect("a file");
    };
    for (path, text) in FILES.iter().zip(input.split(|byte| *byte == 0)) {
        if !text.is_empty() {
            write(path, text);
        }
    }
    for path in [
        "etc/a",
        "overlay/upper/etc/a",
        "rom/etc/a",
        "overlay/upper/usr/bin/b",
        "usr/bin/b",
    ] {
        write(path, b"text");
    }
    fs::create_dir_all(root.join("etc/rc.d")).expect("a directory");
    symlink("../init.d/service", root.join("etc/rc.d/S50service")).expect("a link");
    for changed in [None, Some(Changed::Etc), Some(Changed::Everything)] {
        let listing = Listing {
            changed,
            skip_unchanged: changed.is_none(),
            packages: true,
        };
        let Ok(keep) = KeepList::read_with(&root, listing) else {
            continue;
        };
        let source = Source {
            root: &root,
            keep: &keep,
            defaults: None,
            scope: Scope::Declared,
            from_version: "1",
            board: "fuzz",
        };
        let mut bytes = Vec::new();
        if archive::write_backup(&mut bytes, &source).is_ok() {
            archive::verify(&*bytes).expect("what was written is right");
        }
    }
});
