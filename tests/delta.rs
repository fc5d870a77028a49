//! What an update costs a router: blocks of the size that the builder asks for, and the report that
//! says how many of them a router has already.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod images;
mod programs;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use images::{noise, place, places};
use programs::{fails, succeeds};
use serde_json::{Value, json};
use sysupgrade_rs::image::manifest::default_block_size;

const PAGE: usize = 4096;

/// A build host with one directory.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs sysupgrade-pack with these words.
    fn pack(&self, words: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sysupgrade-pack"))
            .args(words.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// Builds the image `name` of pages with these numbers.
    fn image(&self, name: &str, pages: &[u64], more: &str) {
        fs::write(self.path(&format!("{name}.root")), bytes(pages)).unwrap();
        succeeds(&self.build(name, more));
    }

    /// What the report says of `old` and `new`.
    fn report(&self) -> Value {
        let answer = succeeds(&self.pack("delta-report --json old new"));
        serde_json::from_str(&answer).unwrap()
    }

    /// Builds the image `name` of the file `name.root`.
    fn build(&self, name: &str, more: &str) -> Output {
        self.pack(&format!(
            "build --board acme,router --version {name} --security 1 --part root={name}.root -o {name} {more}"
        ))
    }
}

/// Pages of noise; equal numbers give equal pages.
fn bytes(pages: &[u64]) -> Vec<u8> {
    let all = noise(PAGE * 100);
    let page = |number: &u64| {
        let start = usize::try_from(*number).unwrap() * PAGE;
        &all[start..start + PAGE]
    };
    pages.iter().flat_map(page).copied().collect()
}

/// What the report has for one block size.
fn row(report: &Value, block_size: u64) -> &Value {
    let rows = report["block_sizes"].as_array().unwrap();
    let of = |row: &&Value| row["block_size"] == block_size;
    rows.iter().find(of).unwrap()
}

fn sparse(path: &Path, len: u64) {
    File::create(path).unwrap().set_len(len).unwrap();
}

#[test]
fn an_image_has_blocks_of_the_size_that_was_asked_for() {
    let host = Host::new();
    fs::write(host.path("a.root"), vec![1; 100_000]).unwrap();
    for (more, blocks) in [
        ("", "2 blocks of 65536, their table 64, "),
        ("--block-size 4096", "25 blocks of 4096"),
        ("--block-size 1048576", "1 blocks of 1048576"),
    ] {
        succeeds(&host.build("a", more));
        let shown = succeeds(&host.pack("inspect a"));
        assert!(shown.contains(blocks), "{more}: {shown}");
    }
}

#[test]
fn long_parts_have_larger_blocks_so_that_tables_stay_short() {
    const MIB: u64 = 1 << 20;
    for (longest, kib) in [
        (0, 64),
        (512 * MIB, 64),
        (512 * MIB + 1, 128),
        (1024 * MIB, 128),
        (1024 * MIB + 1, 256),
        (u64::MAX, 1024),
    ] {
        assert_eq!(default_block_size(longest), kib << 10, "{longest}");
    }
}

#[test]
fn a_block_size_that_cannot_be_is_a_mistake_in_the_command_line() {
    let host = Host::new();
    fs::write(host.path("a.root"), "root").unwrap();
    for size in ["0", "1", "2048", "5000", "65537", "2097152"] {
        let said = fails(&host.build("a", &format!("--block-size {size}")), 2);
        let rule = "possible are powers of two from 4096 to 1048576";
        assert!(said.contains(rule) && said.contains(size), "{size}: {said}");
    }
    for text in ["64K", "-4096", "4294971392"] {
        let said = fails(&host.build("a", &format!("--block-size={text}")), 2);
        assert!(said.contains("not a number of bytes"), "{text}: {said}");
    }
    assert!(!host.path("a").exists());
}

#[test]
fn blocks_so_small_that_no_device_holds_their_table_are_refused_with_a_size_that_does() {
    let host = Host::new();
    sparse(&host.path("a.root"), 256 << 20);
    succeeds(&host.build("a", "--block-size 4096"));
    sparse(&host.path("a.root"), (256 << 20) + 1);
    let said = fails(&host.build("a", "--block-size 4096"), 2);
    assert_eq!(
        said,
        "sysupgrade-pack: the block table of `root` would have 2097184 bytes, \
         at most 2097152 are possible: use blocks of 8192 bytes or more\n"
    );
    succeeds(&host.build("a", "--block-size 8192"));
}

#[test]
fn each_block_is_in_place_or_copied_or_fetched() {
    let host = Host::new();
    let eight_k = "--block-size 8192";
    host.image("old", &[0, 1, 2, 3, 4, 5, 6, 7], eight_k);
    // In place; changed by one page; moved; new; new; only half of it is old, and not at its place.
    let new = [0, 1, 2, 33, 0, 1, 40, 41, 42, 43, 6, 50];
    host.image("new", &new, eight_k);
    let report = host.report();
    let blocks = json!({
        "all": 6, "in_place": 1, "copied": 1, "fetched": 4, "bytes": 5 * 8192, "requests": 1
    });
    assert_eq!(report["blocks"], blocks);
    assert_eq!(report["parts"][0]["blocks"], blocks);
    let written = json!({ "over_old": 9 * PAGE, "over_nothing": 12 * PAGE });
    assert_eq!(report["written"], written, "pages 0, 1 and 2 are in place");
    assert_eq!(report["verified"], false);

    let image = fs::read(host.path("new")).unwrap();
    let root = place(&image, "root");
    let head = image.len() - root.len;
    assert_eq!(report["head"], head);
    assert_eq!(report["fetched"], head + 5 * 8192);
    assert_eq!(
        report["parts"][0]["table"],
        place(&image, "root.blocks").len
    );
}

#[test]
fn what_is_between_two_stretches_is_fetched_too_if_it_is_short() {
    let host = Host::new();
    let old: Vec<u64> = (0..32).collect();
    host.image("old", &old, "--block-size 4096");
    for (held, pages, requests) in [(15, 17, 1), (16, 2, 2)] {
        // Nothing is fetched of what is before the first and behind the last.
        let mut new = old.clone();
        new[3] = 40;
        new[3 + held + 1] = 41;
        host.image("new", &new, "--block-size 4096");
        let blocks = &host.report()["blocks"];
        assert_eq!(blocks["bytes"], pages * PAGE, "{blocks}");
        assert_eq!(blocks["requests"], requests, "{blocks}");
        assert_eq!(blocks["fetched"], 2, "{blocks}");
    }
}

#[test]
fn the_report_for_people_says_the_same() {
    let host = Host::new();
    host.image("old", &[0, 1, 2, 3, 4, 5, 6, 7], "--block-size 8192");
    host.image("new", &[0, 1, 2, 33, 0, 1, 40, 41], "--block-size 8192");
    let said = succeeds(&host.pack("delta-report old new"));
    let report = host.report();
    let rows = said.lines().map(|line| line.split_whitespace().collect());
    let rows: Vec<Vec<&str>> = rows.collect();
    let shows = |cells: &[&str]| assert!(rows.iter().any(|row| row == cells), "{cells:?}: {said}");
    shows(&["root", "4", "1", "1", "2", "24576", "20480", "32768"]);
    let fetched = report["fetched"].to_string();
    shows(&[
        "all,", "with", "head", "4", "1", "1", "2", &fetched, "20480", "32768",
    ]);
    let percent = |fetched: &Value, image: &Value| {
        let ratio = fetched.as_f64().unwrap() / image.as_f64().unwrap();
        format!("{:.1}", (ratio * 1000.0).ceil() / 10.0)
    };
    let of_image = percent(&report["fetched"], &report["new"]["bytes"]);
    shows(&[
        "8192", "(as", "built)", "4", "1", "1", "2", &fetched, &of_image, "%", "1", "128",
    ]);
    let small = row(&report, 4096);
    let (fetched, of_image) = (
        small["fetched"].to_string(),
        percent(&small["fetched"], &small["image"]),
    );
    shows(&[
        "4096", "8", "3", "2", "3", &fetched, &of_image, "%", "1", "256",
    ]);
    assert!(said.starts_with("NOT VERIFIED"), "{said}");
}

#[test]
fn an_update_to_the_same_costs_its_head() {
    let host = Host::new();
    host.image("old", &[0, 1, 2, 3, 4], "");
    host.image("new", &[0, 1, 2, 3, 4], "");
    let report = host.report();
    assert_eq!(report["blocks"]["in_place"], 1);
    assert_eq!(report["blocks"]["bytes"], 0);
    assert_eq!(report["written"]["over_old"], 0);
    assert_eq!(report["fetched"], report["head"]);
}

#[test]
fn contents_that_moved_are_found_by_blocks_that_moved_with_them() {
    let host = Host::new();
    let old: Vec<u64> = (0..32).collect();
    host.image("old", &old, "");
    // One page in front: a shift by 4 KiB. Four: by 16 KiB.
    for (shift, found_by) in [(1, 4096), (4, 16384)] {
        let new: Vec<u64> = (50..50 + shift).chain(0..32).collect();
        host.image("new", &new, "");
        let report = host.report();
        for size in [4096, 16384, 65536] {
            let row = row(&report, size);
            let fetched = if size <= found_by {
                (shift * 4096).div_ceil(size)
            } else {
                (4096 * (32 + shift)).div_ceil(size)
            };
            assert_eq!(row["blocks"]["fetched"], fetched, "{shift}, {size}: {row}");
            assert_eq!(row["blocks"]["in_place"], 0, "{shift}, {size}: {row}");
        }
        assert_eq!(report["written"]["over_old"], report["parts"][0]["raw"]);
    }
}

#[test]
fn blocks_are_in_place_in_their_own_part_and_copied_from_any() {
    let host = Host::new();
    let build = |name: &str, parts: &[(&str, &[u64])]| {
        let mut line = format!(
            "build --board acme,router --version 1 --security 1 --block-size 4096 -o {name}"
        );
        for (part, pages) in parts {
            fs::write(host.path(part), bytes(pages)).unwrap();
            line += &format!(" --part {part}={part}");
        }
        succeeds(&host.pack(&line));
    };
    build("old", &[("kernel", &[0, 1]), ("root", &[2, 3])]);
    build(
        "new",
        &[("root", &[2, 1]), ("kernel", &[0, 9]), ("dtb", &[0, 8])],
    );
    let report = host.report();
    let found = |part: usize| {
        let blocks = &report["parts"][part]["blocks"];
        ["in_place", "copied", "fetched"].map(|key| blocks[key].as_u64().unwrap())
    };
    assert_eq!(found(0), [1, 1, 0], "root");
    assert_eq!(found(1), [1, 0, 1], "kernel");
    assert_eq!(found(2), [0, 1, 1], "dtb, which OLD has not");
}

#[test]
fn of_deflated_blocks_the_stored_bytes_are_fetched() {
    let host = Host::new();
    // Noise does not shrink, text does.
    let text = "a line of the root file system\n".repeat(3 * PAGE / 31 + 1);
    fs::write(host.path("old.root"), bytes(&[0, 1, 2, 3, 4])).unwrap();
    let new = [bytes(&[0, 9]), text.as_bytes()[..3 * PAGE].to_vec()].concat();
    fs::write(host.path("new.root"), new).unwrap();
    succeeds(&host.build("old", "--block-size 4096"));
    succeeds(&host.build("new", "--block-size 4096 --deflate"));
    let image = fs::read(host.path("new")).unwrap();
    let table = place(&image, "root.blocks");
    let entries = image[table.content..table.content + table.len].chunks(68);
    let stored = entries.map(|entry| u32::from_be_bytes(entry[32..36].try_into().unwrap()));
    let missing: u32 = stored.skip(1).sum();
    assert!((4096..5120).contains(&missing), "{missing}");
    assert_eq!(host.report()["blocks"]["bytes"], missing);
}

#[test]
fn another_block_size_costs_what_it_costs_when_it_is_built() {
    let host = Host::new();
    let old: Vec<u64> = (0..90).collect();
    let mut new = old.clone();
    new[20..24].copy_from_slice(&[99, 98, 97, 96]);
    new.rotate_left(32);
    new.extend([95, 94, 1, 2]);
    host.image("old", &old, "");
    for how in ["", "--deflate"] {
        host.image("new", &new, how);
        let predicted = host.report();
        for size in [4096, 16384, 65536, 262_144] {
            host.image("new", &new, &format!("{how} --block-size {size}"));
            let built = host.report();
            let row = row(&predicted, size);
            for key in ["fetched", "blocks"] {
                assert_eq!(row[key], built[key], "{key} with {size} {how}");
            }
            assert_eq!(row["image"], built["new"]["bytes"], "{size} {how}");
            assert_eq!(row["tables"], built["parts"][0]["table"], "{size} {how}");
        }
    }
}

#[test]
fn a_block_size_whose_table_no_device_would_hold_is_told_so() {
    let host = Host::new();
    sparse(&host.path("old.root"), 4096);
    sparse(&host.path("new.root"), (256 << 20) + 1);
    succeeds(&host.build("old", ""));
    succeeds(&host.build("new", ""));
    let report = host.report();
    assert_eq!(row(&report, 4096)["possible"], false);
    assert_eq!(row(&report, 16384)["possible"], true);
    let said = succeeds(&host.pack("delta-report old new"));
    assert!(said.contains(" 2097184 (too long)\n"), "{said}");
}

#[test]
fn what_is_no_whole_image_gets_no_report() {
    let host = Host::new();
    host.image("good", &[0, 1, 2, 3], "--block-size 8192");
    let good = fs::read(host.path("good")).unwrap();
    let root = place(&good, "root");
    let mut flipped = good.clone();
    flipped[root.content + 9000] ^= 1;
    let mut renamed = good.clone();
    let last = places(&good).pop().unwrap();
    images::change_header(&mut renamed, last.header, |header| {
        header.set_path("sysupgrade-acme_router/toor").unwrap();
    });
    for (bad, said, code) in [
        (
            flipped,
            "bad: block 1 of root: its bytes are not the signed ones",
            10,
        ),
        (
            renamed,
            "bad: the image has sysupgrade-acme_router/toor where root belongs",
            10,
        ),
        (
            good[..root.content + 9000].to_vec(),
            "bad: the image ends at byte",
            10,
        ),
        (
            good[..root.end()].to_vec(),
            "bad: the image ends at byte",
            10,
        ),
        (b"#!/bin/sh\n".to_vec(), "bad: not an image", 10),
        (Vec::new(), "bad: the image ends at byte 0", 10),
    ] {
        fs::write(host.path("bad"), bad).unwrap();
        for pair in ["bad good", "good bad"] {
            for form in ["", "--json"] {
                let found = fails(&host.pack(&format!("delta-report {form} {pair}")), code);
                assert!(
                    found.starts_with(&format!("sysupgrade-pack: {said}")),
                    "{found}"
                );
            }
        }
    }
    let said = fails(&host.pack("delta-report good missing"), 1);
    assert!(said.contains("cannot open missing"), "{said}");
    succeeds(&host.pack("delta-report good good"));
}

#[test]
fn a_report_of_large_images_needs_little_memory() {
    let host = Host::new();
    for (name, len) in [("old", 128), ("new", 160)] {
        sparse(&host.path(&format!("{name}.root")), len << 20);
        succeeds(&host.build(name, ""));
    }
    // 48 MiB of address space, most of it for the program and the C library.
    let limited = "ulimit -v 49152; exec \"$0\" delta-report old new";
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_sysupgrade-pack")])
        .current_dir(host.0.path())
        .output()
        .unwrap();
    succeeds(&output);
}
