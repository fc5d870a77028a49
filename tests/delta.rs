//! What an update costs a router: blocks of the size that the builder asks for, and the report that
//! says how many of them a router has already.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

    /// Builds the image `name` of the file `name.root`.
    fn build(&self, name: &str, more: &str) -> Output {
        self.pack(&format!(
            "build --board acme,router --version {name} --security 1 --part root={name}.root -o {name} {more}"
        ))
    }
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The command must fail with this code; returns what it says.
#[track_caller]
fn fails(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(output.stdout, b"");
    stderr
}

fn sparse(path: &Path, len: u64) {
    File::create(path).unwrap().set_len(len).unwrap();
}

#[test]
fn an_image_has_blocks_of_the_size_that_was_asked_for() {
    let host = Host::new();
    fs::write(host.path("a.root"), vec![1; 100_000]).unwrap();
    for (more, blocks) in [
        ("", "2 blocks of 65536"),
        ("--block-size 4096", "25 blocks of 4096"),
        ("--block-size 1048576", "1 blocks of 1048576"),
    ] {
        succeeds(&host.build("a", more));
        let shown = succeeds(&host.pack("inspect a"));
        assert!(shown.contains(blocks), "{more}: {shown}");
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
