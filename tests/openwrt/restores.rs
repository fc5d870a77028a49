//! The recorded archives: what the first boot of a stock system made of each of them, `-r` makes, too,
//! or it says what it left out. Which archive differs how is in `tests/restore.rs`; here it is that
//! none of them does in silence.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sysupgrade_rs::config::restore::restore;

use crate::vectors;

type Tree = BTreeMap<PathBuf, String>;

fn build(root: &Path, record: &Value) {
    for (key, is_link) in [("target", false), ("target_links", true)] {
        for (path, text) in record[key].as_object().expect("entries") {
            let place = root.join(path.trim_start_matches('/'));
            let text = text.as_str().expect("a text");
            fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
            match is_link {
                true => symlink(text, place).expect("a link"),
                false => fs::write(place, text).expect("a file"),
            }
        }
    }
}

/// Text of every file and target of every link.
fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut pending = vec![root.to_owned()];
    while let Some(place) = pending.pop() {
        let kind = fs::symlink_metadata(&place).expect("metadata").file_type();
        let content = if kind.is_dir() {
            let entries = fs::read_dir(&place).expect("a directory");
            pending.extend(entries.map(|entry| entry.expect("an entry").path()));
            continue;
        } else if kind.is_symlink() {
            fs::read_link(&place).expect("a link").display().to_string()
        } else {
            String::from_utf8_lossy(&fs::read(&place).expect("a file")).into_owned()
        };
        let path = place.strip_prefix(root).expect("below the root");
        tree.insert(path.to_owned(), content);
    }
    tree
}

#[test]
fn every_recorded_archive_is_restored_as_stock_does_or_with_a_word_or_not_at_all() {
    let record = vectors::json("restore/expected.json");
    let mut ends = BTreeMap::<&str, u32>::new();
    for case in record["cases"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let dir = tempfile::tempdir().expect("a directory");
        let (root, rom) = (dir.path().join("root"), dir.path().join("rom"));
        build(&root, &record);
        build(&rom, &record);
        let before = read(&root);
        let mut stock = before.clone();
        for (path, entry) in case["boot_restore"]["changed"]
            .as_object()
            .expect("changes")
        {
            if let Some(text) = entry["text"].as_str().or(entry["target"].as_str()) {
                stock.insert(path.trim_start_matches('/').into(), text.to_owned());
            }
        }
        let archive = fs::File::open(vectors::path("restore").join(name)).expect(name);
        let end = match restore(&root, Some(&rom), archive) {
            Err(_) => {
                assert_eq!(read(&root), before, "{name} was refused");
                "refused"
            }
            Ok(_) if read(&root) == stock => "equal",
            Ok(restored) => {
                assert_ne!(restored.notices, [], "{name} differs from stock in silence");
                "confined"
            }
        };
        assert!(read(&rom) == read_built(&record), "{name} left its root");
        *ends.entry(end).or_default() += 1;
    }
    let ends: Vec<_> = ends.into_iter().collect();
    assert_eq!(ends, [("confined", 7), ("equal", 18), ("refused", 5)]);
}

fn read_built(record: &Value) -> Tree {
    let dir = tempfile::tempdir().expect("a directory");
    build(dir.path(), record);
    read(dir.path())
}
