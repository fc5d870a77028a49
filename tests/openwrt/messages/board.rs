//! Board files, key directories, and systems that do not say which slot runs.

use std::fs;

use super::{Book, Site};
use crate::pieces::{self, key};
use sysupgrade_rs::image::Encoding;

const STATUS: &str = "sysupgrade-rs status";
const TEST: &str = "sysupgrade-rs -T image.bin";

pub(super) fn tell(book: &mut Book) {
    file(book);
    rules(book);
    uboot(book);
    keys(book);
    revocations(book);
}

fn file(book: &mut Book) {
    book.chapter("Board files");
    let gone = |site: &mut Site| {
        site.remove("etc/sysupgrade-rs/board.toml");
        site.remove("flash/env");
    };
    book.told("no board file", STATUS, gone);
    book.told(
        "no board file, with an image",
        "sysupgrade-rs image.bin",
        gone,
    );
    book.told(
        "a board file that is named and not there",
        "sysupgrade-rs --board gone.toml status",
        |_| {},
    );
    book.told("a board file that is no text", STATUS, |site| {
        site.write("etc/sysupgrade-rs/board.toml", b"name = \"\xff\"\n");
    });
    book.told("a board file that is too long", STATUS, |site| {
        site.write("etc/sysupgrade-rs/board.toml", "# long\n".repeat(10_000));
    });
    book.told("the slot that runs is not told", STATUS, |site| {
        site.write("proc/cmdline", "console=ttyS0\n");
    });
    book.told("the slot that runs is none of ours", STATUS, |site| {
        site.write("proc/cmdline", "console=ttyS0 sysupgrade.slot=c\n");
    });
}

/// What is put in the place of what, in the board file.
const RULES: &[(&str, &str, &str)] = &[
    (
        "a board file with another word for unsigned",
        "threshold = 1 ",
        "unsigned = \"maybe\"\nthreshold = 1 ",
    ),
    (
        "a board file with an unknown key",
        "tries = 3",
        "attempts = 3",
    ),
    (
        "a board file without a key",
        "compatible = ",
        "x-compatible = ",
    ),
    (
        "a board file with a number for a text",
        "name = \"virtual\"",
        "name = 1",
    ),
    ("a board file that is no TOML", "[trust]", "[trust"),
    (
        "a board file without keys",
        "keys = [\"/etc/sysupgrade-rs/keys\", \"/etc/opkg/keys\"]",
        "keys = []",
    ),
    (
        "a board file with a threshold of 0",
        "threshold = 1 ",
        "threshold = 0 ",
    ),
    ("a board file with too many tries", "tries = 3", "tries = 9"),
    (
        "a board file with another layout",
        "layout = \"order\"",
        "layout = \"boot-part\"",
    ),
    (
        "a board file with a layout that GRUB has not",
        "layout = \"order\"",
        "layout = { variable = \"boot_part\", values = [\"1\", \"2\"] }",
    ),
    (
        "a board file with another kind of boot loader",
        "kind = \"grub-env\"",
        "kind = \"lilo\"",
    ),
    (
        "a board file with one medium for both slots",
        "/flash/root-b",
        "/flash/root-a",
    ),
    (
        "a board file with a path that is relative",
        "/flash/root-b",
        "flash/root-b",
    ),
    (
        "a board file with different parts",
        "root = { kind = \"file\", path = \"/flash/root-b\" }",
        "rootfs = { kind = \"file\", path = \"/flash/root-b\" }",
    ),
    (
        "a board file with another kind of medium",
        "kind = \"file\", path = \"/flash/root-b\"",
        "kind = \"nand\", path = \"/flash/root-b\"",
    ),
    (
        "a board file with a time that is none",
        "confirm_within = \"10m\"",
        "confirm_within = \"soon\"",
    ),
    (
        "a board file with another way to know the slot",
        "running = \"cmdline:sysupgrade.slot\"",
        "running = \"guess\"",
    ),
];

fn rules(book: &mut Book) {
    for (heading, from, to) in RULES {
        book.told(heading, STATUS, |site| site.change_board(from, to));
    }
    book.told("a board file with one slot", STATUS, |site| {
        let path = site.root().join("etc/sysupgrade-rs/board.toml");
        let text = fs::read_to_string(&path).unwrap();
        let end = text.rfind("[[slot]]").unwrap();
        fs::write(path, &text[..end]).unwrap();
    });
}

/// What a table says instead of `layout = "order"`, of a board with an environment of U-Boot's.
const SWITCHES: &[(&str, &str)] = &[
    (
        "a switch that is the same for both slots",
        "{ variable = \"boot_part\", values = [\"1\", \"1\"] }",
    ),
    (
        "a switch whose missing value is none of the two",
        "{ variable = \"boot_part\", values = [\"1\", \"2\"], absent = \"0\" }",
    ),
    (
        "a switch with a variable that stands for two things",
        "{ variable = \"boot_part\", values = [\"1\", \"2\"], along = { boot_part = \"1\" } }",
    ),
    (
        "a switch with a value that cannot be stored",
        "{ variable = \"boot_part\", values = [\"1\", \"\"] }",
    ),
    (
        "a switch with a counter that lacks its variable",
        "{ variable = \"boot_part\", values = [\"1\", \"2\"], counter = { armed = \"upgrade_available\" } }",
    ),
];

fn uboot(book: &mut Book) {
    book.chapter("Boards with an environment of U-Boot's");
    let uboot = |site: &Site, size: &str| {
        site.change_board("kind = \"grub-env\"", "kind = \"uboot-env\"");
        let store = format!("store = [{{ path = \"/flash/env\"{size} }}]");
        site.change_board("store = [{ path = \"/flash/env\" }]", &store);
    };
    for (heading, layout) in SWITCHES {
        book.told(heading, STATUS, |site| {
            uboot(site, ", size = 1024");
            site.change_board("layout = \"order\"", &format!("layout = {layout}"));
        });
    }
    book.told("an environment without its size", STATUS, |site| {
        uboot(site, "");
    });
    book.told("an environment that is none of U-Boot's", STATUS, |site| {
        uboot(site, ", size = 1024");
    });
    book.told(
        "an environment of U-Boot's that cannot be repaired",
        "sysupgrade-rs doctor --repair-env",
        |site| uboot(site, ", size = 1024"),
    );
    let listed = |site: &Site| {
        site.change_board("kind = \"grub-env\"", "kind = \"uboot-env\"");
        site.change_board(
            "store = [{ path = \"/flash/env\" }]",
            "fw_env_config = \"/etc/fw_env.config\"",
        );
    };
    book.told("no fw_env.config", STATUS, |site| listed(site));
    book.told("a fw_env.config that names nothing", STATUS, |site| {
        listed(site);
        site.write("etc/fw_env.config", "# nothing\n");
    });
}

fn revocations(book: &mut Book) {
    book.chapter("Revocation records");
    for (heading, file) in [
        ("a key that is revoked", "delegate-by-root.ucert"),
        (
            "two keys that are revoked",
            "already-revoked-then-new.ucert",
        ),
        ("a record by a stranger", "build-by-attacker.ucert"),
        ("a record that is not valid yet", "not-yet-valid.ucert"),
        (
            "a certificate in the place of a record",
            "certificate-instead.ucert",
        ),
        ("bytes that are no record", "garbage.ucert"),
    ] {
        book.told(heading, &format!("sysupgrade-rs revoke {file}"), |site| {
            site.lay_recorded(&format!("revocation/{file}"));
        });
    }
    book.told(
        "records that are not there",
        "sysupgrade-rs revoke gone.ucert",
        |_| {},
    );
}

fn keys(book: &mut Book) {
    book.chapter("Key directories");
    let mut told = |heading: &str, prepare: fn(&Site)| {
        book.told(heading, TEST, |site| {
            site.lay("image.bin", pieces::good(Encoding::Plain));
            prepare(site);
        });
    };
    told("a key directory that is not there", |site| {
        site.remove("etc/opkg");
    });
    told("a key directory without keys", |site| {
        site.remove("etc/opkg/keys");
        site.remove("etc/sysupgrade-rs/keys");
        site.write("etc/opkg/keys/README", "");
        site.write("etc/sysupgrade-rs/keys/README", "");
    });
    told("a key that is none", |site| {
        site.write("etc/opkg/keys/00000000000000aa", "nonsense\n");
    });
    told("a key under another name", |site| {
        site.write(
            "etc/opkg/keys/00000000000000aa",
            key(1).public().to_text("maker"),
        );
    });
    told("two keys of one name", |site| {
        let id = key(1).public().id();
        let other = sysupgrade_rs::trust::usign::SecretKey::from_seed([1; 8], &[7; 32]);
        site.write(
            &format!("etc/opkg/keys/{id}"),
            other.public().to_text("other"),
        );
    });
}
