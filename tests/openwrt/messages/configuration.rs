//! Lists, backups, and archives that are carried or restored.

use std::fs;
use std::io;
use std::time::Duration;

use sysupgrade_rs::config::{ConfigError, EntryPath};
use sysupgrade_rs::report::ExitCode;

use super::{Book, Site};
use crate::pieces;
use sysupgrade_rs::image::Encoding;

pub(super) fn tell(book: &mut Book) {
    lists(book);
    ready(book);
    restores(book);
    by_hand(book);
}

fn good_image(site: &Site) {
    site.lay("image.bin", pieces::good(Encoding::Plain));
}

fn lists(book: &mut Book) {
    book.chapter("What is kept: -l, -b, and the options of stock tools");
    let plain = |_: &mut Site| {};
    book.told("-c without an overlay", "sysupgrade-rs -l -c", plain);
    book.told(
        "-o without an overlay",
        "sysupgrade-rs -b backup.tgz -o",
        plain,
    );
    book.told(
        "-c without an overlay, with an image",
        "sysupgrade-rs -c --no-reboot image.bin",
        |site| good_image(site),
    );
    book.told(
        "-u without the image's files",
        "sysupgrade-rs -l -u",
        |site| site.remove("rom"),
    );
    book.told(
        "-k without packages",
        "sysupgrade-rs -b backup.tgz -k",
        plain,
    );
    book.told(
        "-k without packages, with an image",
        "sysupgrade-rs -k --no-reboot image.bin",
        |site| good_image(site),
    );
    book.told(
        "a list that names nothing",
        "sysupgrade-rs -b backup.tgz",
        |site| {
            site.remove("lib/upgrade/keep.d");
        },
    );
    book.told(
        "a list that names nothing, with an image",
        "sysupgrade-rs --no-reboot image.bin",
        |site| {
            good_image(site);
            site.remove("lib/upgrade/keep.d");
        },
    );
    book.told(
        "a path that is none",
        "sysupgrade-rs config keep ../x",
        plain,
    );
    book.told(
        "a backup where there is no directory",
        "sysupgrade-rs -b gone/backup.tgz",
        plain,
    );
    book.told("a list that is too long", "sysupgrade-rs -l", |site| {
        site.write("etc/sysupgrade.conf", "/etc/x\n".repeat(1 << 18));
    });
    book.told(
        "no room for the archive",
        "sysupgrade-rs -T image.bin",
        |site| {
            good_image(site);
            site.write("etc/config/huge", "");
            let huge = fs::OpenOptions::new()
                .write(true)
                .open(site.root().join("etc/config/huge"));
            huge.unwrap().set_len(1 << 42).unwrap();
        },
    );
}

fn ready(book: &mut Book) {
    book.chapter("A ready archive: -f");
    for (heading, file) in [
        ("-f with a file that is no archive", "not-gzip.tgz"),
        ("-f with an archive that is cut", "truncated-gzip.tgz"),
        ("-f with an archive that is damaged", "bad-gzip-crc.tgz"),
        ("-f with an archive of nothing", "empty.tgz"),
    ] {
        book.told(
            heading,
            &format!("sysupgrade-rs -f {file} --no-reboot image.bin"),
            |site| {
                site.lay_recorded(&format!("restore/{file}"));
                good_image(site);
            },
        );
    }
    book.told(
        "-f with a file that is not there",
        "sysupgrade-rs -f gone.tgz --no-reboot image.bin",
        |site| {
            good_image(site);
        },
    );
}

fn restores(book: &mut Book) {
    book.chapter("Archives that are not restored: -r");
    for (heading, file) in [
        ("-r with a file that is no archive", "not-gzip.tgz"),
        ("-r with an archive that is cut", "truncated-gzip.tgz"),
        (
            "-r with an archive with a wrong checksum",
            "bad-gzip-crc.tgz",
        ),
        (
            "-r with a tar with a wrong checksum",
            "bad-tar-checksum.tgz",
        ),
    ] {
        book.told(heading, &format!("sysupgrade-rs -r {file}"), |site| {
            site.lay_recorded(&format!("restore/{file}"));
        });
    }
    book.told(
        "-r with a file that is not there",
        "sysupgrade-rs -r gone.tgz",
        |_| {},
    );
    book.told(
        "-r with nothing on standard input",
        "sysupgrade-rs -r -",
        |_| {},
    );
}

fn by_hand(book: &mut Book) {
    book.chapter("Configurations: what needs a failing medium, or a strange file");
    let path = || serde_json::from_str::<EntryPath>("\"etc/config/network\"").unwrap();
    let io = || io::Error::from_raw_os_error(5);
    let json = serde_json::from_str::<u8>("{").unwrap_err();
    let mut told = |heading: &str, error: ConfigError| {
        book.error_by_hand(heading, ExitCode::ConfigRefused, &error, error.hint());
    };
    told(
        "an archive that cannot be written",
        ConfigError::Write(io()),
    );
    told("an archive that cannot be read", ConfigError::Read(io()));
    let (at, problem) = ("etc/config/network".into(), "its digest is another".into());
    told(
        "an archive that contradicts itself",
        ConfigError::Damaged { at, problem },
    );
    let (what, most) = ("number of files", 65_536);
    told(
        "too much configuration",
        ConfigError::TooMuch { what, most },
    );
    let (needed, free) = (200_000, 100_000);
    told(
        "too little room for a configuration",
        ConfigError::NoSpace { needed, free },
    );
    told(
        "a record that is no JSON",
        ConfigError::NotJson {
            path: path(),
            source: json,
        },
    );
    let limit = Duration::from_secs(60);
    told(
        "a first boot that takes too long",
        ConfigError::TooSlow { limit },
    );
    let reasons = vec!["step `5-rename` has failed".to_owned()];
    told(
        "a configuration that cannot be merged",
        ConfigError::Refused { reasons },
    );
    told(
        "a file that changes while it is read",
        ConfigError::Changed { path: path() },
    );
}
