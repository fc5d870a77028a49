//! What images say of themselves, and for which devices that makes them: against the recorded
//! verdicts of the stock scripts.

use std::collections::BTreeSet;
use std::fs::File;

use serde_json::Value;
use sysupgrade_rs::image::openwrt::compat::{Compat, Device, Fit, judge};
use sysupgrade_rs::image::openwrt::fwtool;
use sysupgrade_rs::image::openwrt::metadata::{Metadata, MetadataError};
use sysupgrade_rs::report::Reason;

use crate::vectors;

/// Where we are stricter than the stock scripts: two programs could read two things in these.
const STRICTER: [(&str, &str); 3] = [
    ("metadata-compat-number", "compat_version is no text"),
    ("metadata-duplicate-keys", "keys are given twice"),
    ("metadata-supported-object", "supported_devices is no list"),
];

/// The metadata of a recorded image, if it has any that is whole.
fn text(name: &str) -> Option<Vec<u8>> {
    let path = vectors::path(&format!("images/{name}.bin"));
    let mut file = File::open(&path).expect(name);
    fwtool::read(&mut file).ok().and_then(|tail| tail.metadata)
}

fn names() -> Vec<(String, Value)> {
    let expected = vectors::json("expected.json");
    let images = expected["images"].as_array().expect("images");
    images
        .iter()
        .map(|image| {
            let file = image["file"].as_str().expect("file");
            let name = file.trim_start_matches("images/").trim_end_matches(".bin");
            (name.to_owned(), image.clone())
        })
        .collect()
}

/// The device of a recorded profile.
fn device(profile: &Value) -> Device {
    let compat = profile["compat_version"].as_str().unwrap_or("1.0");
    Device {
        name: profile["board_name"].as_str().expect("board_name").into(),
        oem_name: None,
        compat: Compat::parse(compat).expect(compat),
    }
}

#[test]
fn every_recorded_image_fits_the_devices_that_the_stock_scripts_say() {
    let profiles = &vectors::json("expected.json")["profiles"];
    let (mut compared, mut stricter) = (0, BTreeSet::new());
    for (name, image) in names() {
        let Some(text) = text(&name) else { continue };
        let metadata = Metadata::parse(&text);
        for (profile, verdicts) in image["profiles"].as_object().expect("profiles") {
            let checked = &verdicts["validate_firmware_image"]["json"]["tests"];
            let matches = checked["fwtool_device_match"].as_bool().expect("verdict");
            let messages = verdicts["sysupgrade -T"]["messages"].to_string();
            let minor = messages.contains("config is incompatible");
            let fit = match &metadata {
                Ok(metadata) => judge(
                    &metadata.devices,
                    &metadata.compat,
                    &device(&profiles[profile]),
                ),
                Err(error) => {
                    assert_eq!(error.reason(), Reason::MetadataInvalid);
                    if matches {
                        stricter.insert(name.clone());
                    }
                    continue;
                }
            };
            let what = format!("{name} on {profile}: {fit:?}");
            match fit {
                Fit::Fits => assert!(matches && !minor, "{what}"),
                Fit::Minor { .. } => assert!(matches && minor, "{what}"),
                Fit::Major { .. } => {
                    assert!(!matches && messages.contains("image version"), "{what}");
                }
                Fit::WrongDevice => {
                    assert!(!matches && messages.contains("not supported by"), "{what}");
                }
            }
            compared += 1;
        }
    }
    let stricter: Vec<_> = stricter.iter().map(String::as_str).collect();
    assert_eq!(stricter, STRICTER.map(|(name, _)| name));
    assert!(compared >= 120, "only {compared}");
}

#[test]
fn metadata_that_the_stock_scripts_refuse_is_refused_for_its_own_reason() {
    for (name, wanted) in [
        ("metadata-not-json", "expected"),
        ("metadata-truncated-json", "EOF while parsing"),
        ("metadata-json-array", "invalid type: sequence"),
        ("metadata-empty", "EOF while parsing"),
        ("metadata-no-supported", "have no supported_devices"),
        ("metadata-only-new-supported", "have no supported_devices"),
        (
            "metadata-supported-string",
            "supported_devices: invalid type",
        ),
        (
            "metadata-supported-object",
            "supported_devices: invalid type",
        ),
        ("metadata-compat-number", "compat_version: invalid type"),
        ("metadata-duplicate-keys", "`compat_version` is there twice"),
    ] {
        let error = Metadata::parse(&text(name).expect(name)).expect_err(name);
        let told = chain(&error);
        assert!(told.contains(wanted), "{name}: {told}");
    }
}

fn chain(error: &MetadataError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

#[test]
fn what_is_written_here_is_what_the_build_of_openwrt_writes() {
    let mut written = 0;
    for (name, image) in names() {
        let Some(text) = text(&name) else { continue };
        let text = String::from_utf8(text).expect("text");
        // All that come from the real build begin so; the others were made by hand to be odd.
        if !text.starts_with("{  \"metadata_version\"") {
            continue;
        }
        let Ok(metadata) = Metadata::parse(text.as_bytes()) else {
            continue;
        };
        let ours = metadata.to_json();
        // That one has spaces behind it, up to the limit.
        if name != "metadata-max-30720" {
            assert_eq!(ours, text, "{name}, {}", image["made_by"]);
            written += 1;
        }
        assert_eq!(Metadata::parse(ours.as_bytes()).unwrap(), metadata);
    }
    assert!(written >= 50, "only {written}");
}

#[test]
fn keys_of_makers_are_skipped_whatever_is_in_them() {
    let text = br#"{
        "metadata_version": 3, "compat_version": "1.0", "device_code": [".*", null, 1.5e3],
        "hw_support": { "a": { "b": [ { "c": true }, -1 ] }, "d": {} },
        "supported_devices": [ "glinet,gl-mt6000", "glinet,mt6000" ],
        "version": { "release": "4.5.8", "date": "20260815", "dist": "OpenWrt", "n": [1] }
    }
"#;
    let metadata = Metadata::parse(text).unwrap();
    assert_eq!(metadata.devices, ["glinet,gl-mt6000", "glinet,mt6000"]);
    assert_eq!(metadata.version.dist.as_deref(), Some("OpenWrt"));
    assert_eq!(metadata.version.version, None);
    assert!(metadata.compat.is_first());

    let text = br#"{ "version": "RUTX_R_00.07.06", "supported_devices": ["teltonika,rutx"] }"#;
    let metadata = Metadata::parse(text).unwrap();
    assert_eq!(metadata.version.version.as_deref(), Some("RUTX_R_00.07.06"));
}

#[test]
fn text_that_two_programs_could_read_in_two_ways_is_refused() {
    let good = r#""supported_devices": ["a"]"#;
    let deep = format!(
        "{{ {good}, \"x\": {}1{} }}",
        "[".repeat(500),
        "]".repeat(500)
    );
    let long = format!("{{ {good} {} }}", " ".repeat(32 << 10));
    for (text, wanted) in [
        (
            r#"{ "supported_devices": ["a"], "supported_devices": ["a"] }"#,
            "twice",
        ),
        (
            r#"{ "supported_devices": ["a"], "x": 1, "x": 1 }"#,
            "`x` is there twice",
        ),
        (
            r#"{ "supported_devices": ["a"], "\u0078": 1, "x": 1 }"#,
            "`x` is there twice",
        ),
        (
            r#"{ "supported_devices": ["a"], "x": [{ "y": 1, "y": 2 }] }"#,
            "`y` is there twice",
        ),
        (
            r#"{ "supported_devices": ["a"], "version": { "y": 1, "y": 2 } }"#,
            "`y` is there",
        ),
        (
            r#"{ "supported_devices": ["a"], "version": { "dist": "", "dist": "" } }"#,
            "`dist`",
        ),
        (
            r#"{ "supported_devices": ["a"], "version": { "dist": 1 } }"#,
            "version: dist: invalid",
        ),
        (
            r#"{ "supported_devices": ["a"], "version": 1 }"#,
            "version: invalid type",
        ),
        (
            r#"{ "supported_devices": ["a", 1] }"#,
            "supported_devices: invalid type",
        ),
        (
            r#"{ "supported_devices": null }"#,
            "supported_devices: invalid type: null",
        ),
        (
            r#"{ "supported_devices": ["a"], "compat_version": null }"#,
            "compat_version: invalid",
        ),
        (
            r#"{ "supported_devices": ["a"], "compat_message": 1 }"#,
            "compat_message: invalid",
        ),
        (
            r#"{ "supported_devices": ["a"], "new_supported_devices": 1 }"#,
            "new_supported_devices",
        ),
        (
            r#"{ "supported_devices": ["a"], "compat_version": "1.1" }"#,
            "new_supported_devices",
        ),
        (
            r#"{ "supported_devices": ["a"], "compat_version": "1.0\n" }"#,
            r"`1.0\u{a}`",
        ),
        (
            r#"{ "supported_devices": ["a"], "compat_version": "" }"#,
            "compat_version ``",
        ),
        (
            r#"{ "supported_devices": ["a"], "compat_version": "1.x" }"#,
            "compat_version `1.x`",
        ),
        (
            r#"{ "supported_devices": ["a"] } { }"#,
            "trailing characters",
        ),
        (
            "{ \"supported_devices\": [\"a\"] }\0",
            "trailing characters",
        ),
        (r#"{ 'supported_devices': ["a"] }"#, "key must be a string"),
        (r#"{ "supported_devices": ["a"], }"#, "trailing comma"),
        (
            r#"{ "supported_devices": ["a"] /* all */ }"#,
            "expected `,` or `}`",
        ),
        (
            "\u{feff}{ \"supported_devices\": [\"a\"] }",
            "expected value",
        ),
        (
            "{ \"supported_devices\": [\"\u{1b}\"] }",
            "control character",
        ),
        (&deep, "recursion limit"),
        (&long, "at most 32768"),
    ] {
        let error = Metadata::parse(text.as_bytes()).expect_err(text);
        let told = chain(&error);
        assert!(told.contains(wanted), "{text}: {told}");
        assert!(!told.contains(char::is_control), "{told:?}");
    }
    let not_text = b"{ \"supported_devices\": [\"\xff\"] }";
    assert!(Metadata::parse(not_text).is_err());
}

#[test]
fn metadata_cut_anywhere_or_with_a_byte_changed_is_refused_or_names_devices() {
    let text = text("raw-compat-1.1").expect("metadata");
    let whole = Metadata::parse(&text).unwrap();
    assert_eq!(
        whole.compat_message.as_deref(),
        Some("Ports were renamed, \"wipe\" the config")
    );
    let newline = text.len() - 1;
    for len in 0..newline {
        assert!(Metadata::parse(&text[..len]).is_err(), "{len}");
    }
    let mut changed = text.clone();
    for place in 0..text.len() {
        for byte in 0..=0xff {
            changed[place] = byte;
            if let Ok(metadata) = Metadata::parse(&changed) {
                // Nothing stands in for the list that the compat version names.
                assert_eq!(metadata.devices.len(), 1, "{place} {byte}");
            }
        }
        changed[place] = text[place];
    }
}
