//! The recorded cases.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

/// Where a file of the recorded cases is.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/openwrt")
        .join(name)
}

/// A key directory of the cases, on its own, with links where the cases have a stand-in: a file that
/// holds what the link of a revoked key points to.
pub(crate) fn key_dir(name: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(path("keydirs").join(name)).expect(name) {
        let entry = entry.expect(name);
        let copy = dir.path().join(entry.file_name());
        let link = fs::read_link(entry.path()).is_ok();
        if link || fs::read(entry.path()).expect(name) == b".revoked." {
            symlink(".revoked.", copy).expect(name);
        } else {
            fs::copy(entry.path(), copy).expect(name);
        }
    }
    dir
}

/// The clock of a profile, in seconds since 1970.
pub(crate) fn seconds(clock: &str) -> i64 {
    let numbers: Vec<i64> = clock
        .split(['-', ' ', ':'])
        .map(|number| number.parse().expect(clock))
        .collect();
    let [year, month, day, hour, minute, second] = numbers[..] else {
        panic!("{clock} is no date with time");
    };
    // Days since the first of March of year 0, from which on leap days come last (Fliegel and
    // Van Flandern).
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    ((days - 719_468) * 24 + hour) * 3600 + minute * 60 + second
}

/// One of its JSON documents.
pub(crate) fn json(name: &str) -> Value {
    let bytes = fs::read(path(name)).expect(name);
    serde_json::from_slice(&bytes).expect(name)
}

#[test]
fn the_recorded_cases_are_all_there() {
    let expected = json("expected.json");
    let count = |key: &str| expected[key].as_array().map_or(0, Vec::len);
    assert_eq!(count("images"), 97);
    assert_eq!(count("signatures"), 27);
    assert_eq!(count("revocation"), 11);
    assert_eq!(count("ubus_calls"), 19);
}
