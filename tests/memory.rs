//! A router has little memory, whatever its files are. One test, for it measures this process.

use std::fs;
use std::io;

use sysupgrade_rs::config::archive::{self, Source};
use sysupgrade_rs::config::bundle::Scope;
use sysupgrade_rs::config::keep::KeepList;

/// The most memory that this process has had, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|text| text.parse().ok())
        .expect("a number of KiB")
}

#[test]
fn a_file_of_a_hundred_megabytes_crosses_an_archive_in_little_memory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (root, into) = (dir.path().join("root"), dir.path().join("into"));
    fs::create_dir_all(root.join("etc")).expect("directories");
    let big = fs::File::create(root.join("etc/big")).expect("create");
    big.set_len(100 << 20).expect("a sparse file");
    let (reader, writer) = io::pipe().expect("a pipe");
    let before = peak();
    let unpacking = std::thread::spawn(move || {
        let unpacked = archive::unpack(reader, &into).expect("unpacked");
        unpacked.user.iter().count()
    });
    let source = Source {
        root: &root,
        keep: &KeepList::read(&root).expect("a keep list"),
        defaults: None,
        scope: Scope::Etc,
        from_version: "1",
        board: "test",
    };
    archive::write(writer, &source).expect("written");
    assert_eq!(unpacking.join().expect("no panic"), 2, "etc and etc/big");
    let grown = peak() - before;
    assert!(grown < 8 << 10, "{grown} KiB");
}
