//! The model is right: it catches writers that are known to be wrong, and passes one that is right.

use std::fs;
use std::io::Write;
use std::path::Path;

use sysupgrade_rs::files::{self, InPlace, NewFile, trace};

use super::{Crash, Disk, Random, cuts};
use crate::world::snapshot::Snapshot;

const OLD: &[u8] = &[b'o'; 1500];
const NEW: &[u8] = &[b'n'; 2100];

/// Everything that a cut in `work` may leave of a directory that held `file` with [`OLD`] in it.
fn crashes(work: impl FnOnce(&Path)) -> Vec<Crash> {
    let root = tempfile::tempdir().expect("a temporary directory");
    fs::write(root.path().join("file"), OLD).expect("the old file");
    let start = Snapshot::read(root.path()).expect("read");
    let ((), log) = trace::record(|| work(root.path()));
    let mut disk = Disk::new(root.path(), &start);
    for op in &log {
        disk.apply(op);
    }
    let real = Snapshot::read(root.path()).expect("read");
    assert_eq!(disk.live(), real, "the log does not tell the whole story");
    cuts(root.path(), &start, &log, &mut Random(1)).0
}

/// The first crash after which `file` is neither old nor new, or, at the end, not new.
fn first_loss(crashes: &[Crash]) -> Option<&str> {
    let lost = |crash: &&Crash| match crash.disk.data("file") {
        Some(data) if data == OLD => crash.after_the_end,
        Some(data) => data != NEW,
        None => true,
    };
    crashes.iter().find(lost).map(|crash| crash.story.as_str())
}

#[track_caller]
fn assert_caught(word: &str, crashes: &[Crash]) {
    let story = first_loss(crashes).expect("the wrong writer was not caught");
    assert!(story.contains(word), "caught, but elsewhere: {story}");
}

#[test]
fn the_durable_way_of_replacing_a_file_loses_nothing() {
    let crashes = crashes(|dir| files::replace(&dir.join("file"), NEW, 0o644).expect("replaced"));
    assert_eq!(first_loss(&crashes), None);
    let holds = |data: &[u8]| {
        crashes
            .iter()
            .any(|crash| crash.disk.data("file") == Some(data))
    };
    assert!(
        holds(OLD) && holds(NEW),
        "cuts before and after the rename were to be tried"
    );
}

#[test]
fn a_rename_without_a_sync_before_it_is_caught() {
    let crashes = crashes(|dir| {
        let mut file = NewFile::create(&dir.join("file"), 0o644).expect("created");
        file.write_all(NEW).expect("written");
        file.place().expect("renamed");
        files::sync_dir(dir).expect("synced");
    });
    assert_caught("rename to file", &crashes);
    let holds = |data: &[u8]| {
        crashes
            .iter()
            .any(|crash| crash.disk.data("file") == Some(data))
    };
    assert!(holds(&[]), "the empty file after a rename was to be tried");
    assert!(holds(&[0; NEW.len()]), "the file of zeros was to be tried");
}

#[test]
fn a_rename_without_a_sync_of_its_directory_is_caught() {
    let crashes = crashes(|dir| {
        let mut file = NewFile::create(&dir.join("next"), 0o644).expect("created");
        file.write_all(NEW).expect("written");
        file.commit().expect("durable");
        files::rename(&dir.join("next"), &dir.join("file")).expect("renamed");
    });
    assert_caught("after all", &crashes);
}

#[test]
fn a_write_in_place_is_caught_when_torn() {
    let crashes = crashes(|dir| {
        let file = InPlace::open(&dir.join("file")).expect("opened");
        file.write_at(&NEW[..1024], 0).expect("written");
        file.sync().expect("synced");
    });
    let mixed = |crash: &&Crash| {
        let data = crash.disk.data("file").expect("the file");
        data.starts_with(b"n") && data.ends_with(b"o")
    };
    let mixtures = crashes.iter().filter(mixed).count();
    assert!(
        mixtures >= 1024,
        "a small write is torn at every byte, not {mixtures} times"
    );
}

#[test]
fn a_write_in_place_without_a_sync_is_caught() {
    let crashes = crashes(|dir| {
        let file = InPlace::open(&dir.join("file")).expect("opened");
        file.write_at(&NEW[..1500], 0).expect("written");
    });
    let forgotten = |crash: &&Crash| crash.after_the_end && crash.disk.data("file") == Some(OLD);
    assert!(crashes.iter().any(|crash| forgotten(&crash)));
}

#[test]
fn a_tree_is_whole_after_its_rename_only_if_it_was_synced_before() {
    let build = |dir: &Path, sync: bool| {
        let tree = dir.join("tree.new");
        files::make_dir(&tree, 0o755).expect("made");
        files::make_dir(&tree.join("sub"), 0o755).expect("made");
        let mut file = NewFile::create(&tree.join("sub/file"), 0o600).expect("created");
        file.write_all(NEW).expect("written");
        file.place().expect("placed");
        files::symlink(Path::new("sub/file"), &tree.join("link")).expect("linked");
        if sync {
            files::sync_tree(&tree).expect("synced");
        }
        files::rename(&tree, &dir.join("tree")).expect("renamed");
        files::sync_dir(dir).expect("synced");
    };
    let torn = |crashes: &[Crash]| {
        let part = |crash: &&Crash| {
            let tree = crash.disk.below("tree");
            let whole = tree.data("sub/file") == Some(NEW) && tree.0.len() == 3;
            crash.disk.0.contains_key(Path::new("tree")) && !whole
        };
        crashes.iter().filter(part).count()
    };
    assert_eq!(torn(&crashes(|dir| build(dir, true))), 0);
    assert!(torn(&crashes(|dir| build(dir, false))) > 3);
}

#[test]
fn a_removal_without_a_sync_of_its_directory_may_be_undone() {
    let kept = |crashes: &[Crash]| {
        let back = |crash: &&Crash| crash.after_the_end && crash.disk.data("file") == Some(OLD);
        crashes.iter().filter(back).count()
    };
    let forgetful = crashes(|dir| files::remove_file(&dir.join("file")).expect("removed"));
    let durable = crashes(|dir| files::remove_durably(&dir.join("file")).expect("removed"));
    assert!(kept(&forgetful) > 0);
    assert_eq!(kept(&durable), 0);
}
