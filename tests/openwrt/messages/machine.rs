//! The command line, the boot environment, the slots, and what fails in the middle of an upgrade.

use std::fs::{self, File};
use std::io;

use serde_json::json;
use sysupgrade_rs::boot::BootError;
use sysupgrade_rs::flash::FlashError;
use sysupgrade_rs::image::Encoding;
use sysupgrade_rs::install::InstallError;
use sysupgrade_rs::report::ExitCode;
use sysupgrade_rs::slots::{BootState, Condition, Slot};
use sysupgrade_rs::system::SystemError;

use super::{Book, Site};
use crate::pieces::{self, Pieces, noise};
use crate::world::System;

const PLAN: &str = "sysupgrade-rs plan -n image.bin";

pub(super) fn tell(book: &mut Book) {
    words(book);
    slots(book);
    sizes(book);
    environment(book);
    failures(book);
}

fn image(site: &Site) {
    site.lay("image.bin", pieces::good(Encoding::Plain));
}

fn words(book: &mut Book) {
    book.chapter("Command lines that make no sense");
    for (heading, line) in [
        ("nothing at all", "sysupgrade-rs"),
        ("an unknown option", "sysupgrade-rs --frobnicate image.bin"),
        (
            "-s, which writes the running slot",
            "sysupgrade-rs -s image.bin",
        ),
        ("-P, which makes a volume", "sysupgrade-rs -P image.bin"),
        ("an option without its image", "sysupgrade-rs -n"),
        (
            "an image and a backup",
            "sysupgrade-rs -b backup.tgz image.bin",
        ),
        ("-b without a file", "sysupgrade-rs -b"),
        (
            "-r with options of a backup",
            "sysupgrade-rs -k -r backup.tgz",
        ),
        (
            "a delay that is no number",
            "sysupgrade-rs -d soon image.bin",
        ),
        (
            "a time that is none",
            "sysupgrade-rs --confirm-within soon image.bin",
        ),
        (
            "a scope that is none",
            "sysupgrade-rs --scope all image.bin",
        ),
        (
            "a delay without a reboot",
            "sysupgrade-rs -d 5 --no-reboot image.bin",
        ),
        (
            "two answers on standard output",
            "sysupgrade-rs --json -b -",
        ),
        (
            "the same in the place of sysupgrade, where all failures are 1",
            "sysupgrade --frobnicate image.bin",
        ),
    ] {
        book.told(heading, line, |_| {});
    }
    book.told(
        "-i without anybody who answers",
        "sysupgrade-rs -i image.bin",
        |site| image(site),
    );
    book.told(
        "-p, which is not needed",
        "sysupgrade-rs -p --no-reboot gone.bin",
        |_| {},
    );
}

/// Stores another state of the boot environment.
fn state(site: &Site, primary: Slot, conditions: [Condition; 2]) {
    let mut env = site.router().boot_environment().unwrap();
    env.store(&BootState {
        primary,
        conditions,
    })
    .unwrap();
}

fn slots(book: &mut Book) {
    book.chapter("Slots and trials");
    book.told("another run goes on", "sysupgrade-rs confirm", |site| {
        site.write("run/sysupgrade-rs/lock", "");
        let lock = File::open(site.root().join("run/sysupgrade-rs/lock")).unwrap();
        lock.lock().unwrap();
        std::mem::forget(lock); // held until the test's process ends
    });
    book.told("the running slot is on trial", PLAN, |site| {
        image(site);
        state(site, Slot::First, [Condition::Trial(2), Condition::Good]);
    });
    book.told("the other slot is to boot next", PLAN, |site| {
        image(site);
        state(site, Slot::Second, [Condition::Good, Condition::Good]);
    });
    book.told("the running slot was given up", PLAN, |site| {
        image(site);
        state(site, Slot::Second, [Condition::Unbootable, Condition::Good]);
    });
    book.told(
        "the boot environment speaks of another slot",
        PLAN,
        |site| {
            image(site);
            state(
                site,
                Slot::Second,
                [Condition::Trial(1), Condition::Trial(2)],
            );
        },
    );
    book.told("nothing to go back to", "sysupgrade-rs rollback", |_| {});
}

fn sizes(book: &mut Book) {
    book.chapter("Sizes, parts and media");
    book.told("a part that is too large", PLAN, |site| {
        let mut system = System::new(2);
        system.kernel = noise(40 << 10);
        let bytes = site.world.image(&system).unwrap();
        site.lay("image.bin", bytes);
    });
    book.told("parts that the slot has not", PLAN, |site| {
        let mut pieces = Pieces::of_good(Encoding::Plain);
        pieces = pieces.lie_about("root", |entry| entry["slot_part"] = json!("rootfs"));
        site.lay("image.bin", pieces.image());
    });
    book.told("a medium that is not there", PLAN, |site| {
        image(site);
        site.remove("flash/kernel-b");
    });
}

fn environment(book: &mut Book) {
    book.chapter("Boot environment and records");
    let status = "sysupgrade-rs status";
    book.told("no boot environment", status, |site| {
        site.remove("flash/env");
    });
    book.told("a boot environment that is none", status, |site| {
        site.write("flash/env", "nothing");
    });
    let variable = |from: &'static str, to: &'static str| {
        move |site: &mut Site| {
            let path = site.root().join("flash/env");
            let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(path, text.replace(from, to)).unwrap();
        }
    };
    book.told(
        "a boot environment with a strange order",
        status,
        variable("BOOT_ORDER=A B", "BOOT_ORDER=A C"),
    );
    book.told(
        "a boot environment with a strange count",
        status,
        variable("BOOT_A_LEFT=9", "BOOT_A_LEFT=x"),
    );
    book.told(
        "a boot environment without a variable",
        status,
        variable("BOOT_A_LEFT=9", "BOAT_A_LEFT=9"),
    );
    let half = |site: &mut Site| {
        let path = site.root().join("flash/env");
        let mut block = fs::read(&path).unwrap();
        block[512..].fill(0);
        fs::write(path, block).unwrap();
    };
    book.told(
        "a boot environment into which GRUB saves nothing",
        "sysupgrade-rs doctor",
        half,
    );
    book.told(
        "an upgrade that finds it",
        "sysupgrade-rs -T image.bin",
        |site| {
            image(site);
            half(site);
        },
    );
    book.told(
        "a boot environment that is repaired",
        "sysupgrade-rs doctor --repair-env",
        |site| site.write("flash/env", "nothing"),
    );
    let path = "/run/fw_printenv.lock".into();
    let error = BootError::Busy { path };
    book.error_by_hand(
        "a boot environment that somebody else writes",
        ExitCode::Busy,
        &error,
        error.hint(),
    );
    book.told(
        "a floor that is no number",
        "sysupgrade-rs -T image.bin",
        |site| {
            image(site);
            site.write("data/sysupgrade-rs/floor", "high\n");
        },
    );
    book.told("a record that is damaged", "sysupgrade-rs status", |site| {
        site.write("data/sysupgrade-rs/slot-a.json", "nonsense\n");
    });
}

fn failures(book: &mut Book) {
    book.chapter("Failures in the middle of an upgrade");
    let io = || io::Error::from_raw_os_error(5);
    let (part, slot) = (|| "root".to_owned(), || "b".to_owned());
    let name = || "/dev/mtd7".to_owned();
    let (command, source) = ("reboot -f".to_owned(), io());
    let error = SystemError::Reboot { command, source };
    book.error_by_hand(
        "a reboot that fails",
        ExitCode::Failed,
        &error,
        error.hint(),
    );
    let (verb, offset) = ("write", 0x2_0000);
    let mut flash = |heading: &str, error: FlashError| {
        book.by_hand(heading, &error.refusal("root"));
    };
    let problem = "it is a character device".to_owned();
    flash(
        "a medium that fails",
        FlashError::Flash {
            verb,
            name: name(),
            offset,
            source: io(),
        },
    );
    flash(
        "a medium that is read-only",
        FlashError::ReadOnly { name: name() },
    );
    flash(
        "a medium that somebody uses",
        FlashError::Busy {
            name: name(),
            source: None,
        },
    );
    flash(
        "a medium that cannot be used",
        FlashError::Unusable {
            name: name(),
            problem,
            source: None,
        },
    );
    flash(
        "a medium that is worn out",
        FlashError::WornOut {
            name: name(),
            bad: 20,
        },
    );
    let mut told = |heading: &str, error: InstallError| {
        book.error_by_hand(heading, error.exit_code(), &error, error.hint());
    };
    told("a copy that fails", InstallError::Copy(io()));
    told(
        "a part without a medium",
        InstallError::NoMedium {
            part: part(),
            slot: slot(),
        },
    );
    told(
        "a medium that forgets",
        InstallError::ReadBack {
            part: part(),
            slot: slot(),
        },
    );
    told(
        "a medium that forgets the archive",
        InstallError::ArchiveReadBack,
    );
    told("stopped by a signal", InstallError::Stopped);
    let stopped = || Box::new(InstallError::Stopped);
    told(
        "stopped after the first write",
        InstallError::Unfinished {
            slot: slot(),
            source: stopped(),
        },
    );
    told(
        "stopped, and the boot environment fails",
        InstallError::Unknown {
            slot: slot(),
            source: stopped(),
        },
    );
}
