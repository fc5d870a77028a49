//! The recorded cases.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where a file of the recorded cases is.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/openwrt")
        .join(name)
}

/// One of its JSON documents.
pub(crate) fn json(name: &str) -> Value {
    let bytes = std::fs::read(path(name)).expect(name);
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
