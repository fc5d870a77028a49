//! Manifests that lie and are signed: a key in wrong hands, or a builder with a bug, must not crash a
//! router or make two programs read two things.

use std::fs;

use serde_json::{Value, json};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::image::{self, Encoding, ImageError};
use sysupgrade_rs::report::Reason;

use crate::images::{BLOCK, Pieces, entry, key, place, read, refusal, spec, trust_one};

/// An image whose manifest was changed and signed again.
fn lie(change: impl FnOnce(&mut Value)) -> Option<ImageError> {
    let image = Pieces::of_good(Encoding::Plain).lie(change).image();
    refusal(&image, &trust_one())
}

fn assert_manifest_refused(what: &str, error: Option<ImageError>) {
    match error {
        Some(ImageError::Manifest { .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn keys_of_extensions_are_let_pass_and_unknown_keys_are_not() {
    assert!(lie(|manifest| manifest["x-build"] = json!({"by": ["me", 1, null]})).is_none());
    assert!(lie(|manifest| entry(manifest, "kernel")["x-origin"] = json!("git")).is_none());
    for name in ["unknown", "X-build", "x_build", ""] {
        assert_manifest_refused(name, lie(|manifest| manifest[name] = json!(1)));
        let error = lie(|manifest| entry(manifest, "kernel")[name] = json!(1));
        assert_manifest_refused(name, error);
    }
}

#[test]
fn a_key_given_twice_is_refused() {
    let pieces = Pieces::of_good(Encoding::Plain);
    let text = String::from_utf8(pieces.clone().member("manifest.json").clone()).unwrap();
    for (once, twice) in [
        (r#""security": 7,"#, r#""security": 7, "security": 9,"#),
        (r#""security": 7,"#, r#""security": 7, "x-a": 1, "x-a": 1,"#),
        (r#""format": 1,"#, r#""format": 2, "format": 1,"#),
        (r#""format": 1,"#, r#""format": 1, "format": 2,"#),
        (
            r#""hash": "sha256","#,
            r#""hash": "sha256", "hash": "none","#,
        ),
        (
            r#""name": "kernel","#,
            r#""name": "kernel", "name": "root","#,
        ),
        (
            r#""slot_part": "root","#,
            r#""slot_part": "root", "slot_part": "boot","#,
        ),
        (
            r#""raw_size": 12288,"#,
            r#""raw_size": 12288, "raw_size": 4096,"#,
        ),
        (
            r#""raw_size": 12288,"#,
            r#""raw_size": 12288, "x-a": 1, "x-a": 1,"#,
        ),
    ] {
        assert!(text.contains(once), "{once} is not in {text}");
        let image = pieces
            .clone()
            .set_manifest(text.replacen(once, twice, 1))
            .image();
        assert_manifest_refused(twice, refusal(&image, &trust_one()));
    }
}

#[test]
fn a_missing_key_is_refused() {
    let mut pieces = Pieces::of_good(Encoding::Plain);
    let manifest = pieces.manifest();
    for name in manifest.as_object().unwrap().keys() {
        let error = lie(|manifest| {
            manifest.as_object_mut().unwrap().remove(name);
        });
        assert_manifest_refused(name, error);
    }
    for (member, names) in [
        ("CONTROL", &["name", "size", "sha256"][..]),
        ("kernel.blocks", &["name", "size", "sha256"]),
        (
            "kernel",
            &[
                "name",
                "size",
                "sha256",
                "slot_part",
                "raw_size",
                "raw_sha256",
                "block_size",
                "encoding",
            ],
        ),
    ] {
        for name in names {
            for value in [None, Some(Value::Null)] {
                let error = lie(|manifest| {
                    let object = entry(manifest, member).as_object_mut().unwrap();
                    object.remove(*name);
                    object.extend(value.map(|value| ((*name).to_owned(), value)));
                });
                assert_manifest_refused(&format!("{member} without {name}"), error);
            }
        }
    }
}

#[test]
fn another_format_or_hash_is_refused_as_unknown() {
    for format in [0, 2, u64::MAX] {
        // Nothing else may be looked at: in format 2 all may be different.
        let error = lie(|manifest| *manifest = json!({ "format": format, "members": 3 })).unwrap();
        assert_eq!(error.reason(), Reason::UnknownFormat);
        assert_eq!(error.refusal().found, format.to_string());
        assert_eq!(error.refusal().wanted, "1");
    }
    let error = lie(|manifest| manifest["hash"] = json!("blake3")).unwrap();
    assert_eq!(error.reason(), Reason::UnknownFormat);
    assert_eq!(error.refusal().found, "blake3");
}

#[test]
fn what_is_no_manifest_is_refused() {
    let deep = format!(r#"{{"format": 1, "x-a": {}"#, "[".repeat(60_000));
    for text in [
        "",
        "null",
        "[]",
        "{}",
        "1",
        r#"{"format": 1"#,
        r#"{"format": "1"}"#,
        r#"{"format": 1.0}"#,
        r#"{"format": -1}"#,
        r#"{"format": 1e400}"#,
        r#"{"format": 1}"#,
        r#"[1, "sha256", ["b"], "v", 7, "1.0", 1, []]"#,
        "\u{feff}{}",
        &deep,
    ] {
        let image = Pieces::of_good(Encoding::Plain).set_manifest(text).image();
        assert_manifest_refused(&text[..text.len().min(40)], refusal(&image, &trust_one()));
    }
    let mut pieces = Pieces::of_good(Encoding::Plain);
    let mut text = pieces.member("manifest.json").clone();
    text.extend(b"{}");
    assert_manifest_refused(
        "two",
        refusal(&pieces.set_manifest(text).image(), &trust_one()),
    );
    let image = Pieces::of_good(Encoding::Plain)
        .set_manifest([0xff, 0xfe])
        .image();
    assert_manifest_refused("not text", refusal(&image, &trust_one()));
}

#[test]
fn values_of_the_wrong_kind_or_size_are_refused() {
    let long = "v".repeat(65);
    for (name, values) in [
        (
            "board",
            vec![
                json!([]),
                json!("b"),
                json!([1]),
                json!(["a/b"]),
                json!([".."]),
            ],
        ),
        (
            "board",
            vec![
                json!(["a b"]),
                json!([""]),
                json!(["\u{e9}"]),
                json!([long]),
            ],
        ),
        (
            "board",
            vec![json!(["acme,router-1", "a\u{1b}[2J"]), json!(vec!["b"; 65])],
        ),
        (
            "version",
            vec![
                json!(""),
                json!("a\nb"),
                json!("a\u{1b}[2J"),
                json!(long),
                json!(1),
            ],
        ),
        (
            "security",
            vec![json!(-1), json!(1.5), json!("7"), json!(1e30), json!(null)],
        ),
        (
            "compat",
            vec![
                json!("1"),
                json!("1.0.0"),
                json!("1."),
                json!("a.b"),
                json!(1.0),
            ],
        ),
        ("engine", vec![json!(-1), json!(1_u64 << 32), json!("1")]),
        (
            "members",
            vec![json!([]), json!({}), json!([[]]), json!([1])],
        ),
    ] {
        for value in values {
            let error = lie(|manifest| manifest[name] = value.clone());
            assert_manifest_refused(&format!("{name} = {value}"), error);
        }
    }
    let pieces = Pieces::of_good(Encoding::Plain);
    let text = String::from_utf8(pieces.clone().member("manifest.json").clone()).unwrap();
    for number in ["18446744073709551616", "1e400", "1e1", "07", "0x7", "NaN"] {
        let text = text.replacen(r#""security": 7"#, &format!(r#""security": {number}"#), 1);
        let image = pieces.clone().set_manifest(text).image();
        assert_manifest_refused(number, refusal(&image, &trust_one()));
    }
}

#[test]
fn no_slip_in_a_signed_manifest_lets_wrong_bytes_out() {
    let mut good = Pieces::of_good(Encoding::Plain);
    let text = good.member("manifest.json").clone();
    for at in 0..text.len() {
        for slip in [
            None,
            Some(b'"'),
            Some(b'}'),
            Some(b'0'),
            Some(b'9'),
            Some(0),
        ] {
            let mut text = text.clone();
            text.splice(at..=at, slip);
            let image = good.clone().set_manifest(text).image();
            // Accepted or not: `refusal` compares all that comes out with the truth.
            let found = refusal(&image, &trust_one()).map(|error| error.reason());
            assert!(
                matches!(
                    found,
                    None | Some(Reason::Damaged | Reason::UnknownFormat | Reason::BelowFloor)
                ),
                "byte {at} as {slip:?}: {found:?}"
            );
        }
    }
}

#[test]
fn whoever_signs_nonsense_is_told_and_not_sent_to_download_it_again() {
    let error = lie(|manifest| manifest["version"] = json!("")).unwrap();
    let refusal = error.refusal();
    assert_eq!(refusal.reason, Reason::Damaged);
    assert!(refusal.hint.contains("tell its maker"), "{}", refusal.hint);
}

#[test]
fn a_part_that_contradicts_itself_is_refused() {
    let digest = Digest::of(b"another").to_string();
    for (name, values) in [
        (
            "raw_size",
            vec![
                json!(0),
                json!(12287),
                json!(12289),
                json!(u64::MAX),
                json!(1_u64 << 63),
            ],
        ),
        ("raw_size", vec![json!(-1), json!("12288"), json!(12288.0)]),
        (
            "size",
            vec![json!(0), json!(12287), json!(12289), json!(u64::MAX)],
        ),
        (
            "block_size",
            vec![
                json!(0),
                json!(1),
                json!(2048),
                json!(8192),
                json!(4097),
                json!(1 << 21),
            ],
        ),
        (
            "block_size",
            vec![json!(1_u64 << 32), json!(-4096), json!("4096")],
        ),
        (
            "encoding",
            vec![
                json!("Plain"),
                json!("zstd"),
                json!(""),
                json!(0),
                json!("deflate"),
            ],
        ),
        (
            "sha256",
            vec![
                json!(""),
                json!("00"),
                json!(digest),
                json!(digest.to_uppercase()),
            ],
        ),
        (
            "raw_sha256",
            vec![json!(""), json!("sha256:00"), json!(digest), json!(7)],
        ),
        (
            "slot_part",
            vec![
                json!(""),
                json!("Root"),
                json!("../a"),
                json!("a".repeat(65)),
                json!("kernel"),
            ],
        ),
        (
            "name",
            vec![
                json!(""),
                json!(".."),
                json!("a/b"),
                json!("root.blocks"),
                json!("kernel"),
                json!("CONTROL"),
            ],
        ),
    ] {
        for value in values {
            let error = lie(|manifest| entry(manifest, "root")[name] = value.clone());
            assert_manifest_refused(&format!("{name} = {value}"), error);
        }
    }
}

#[test]
fn block_sizes_are_bounded_even_if_the_table_fits() {
    for (block_size, blocks) in [(1, 12288), (1024, 12), (2048, 6), (1 << 21, 1)] {
        let error = lie(|manifest| {
            entry(manifest, "root.blocks")["size"] = json!(blocks * 32);
            entry(manifest, "root")["block_size"] = json!(block_size);
        });
        assert_manifest_refused(&format!("block_size {block_size}"), error);
    }
}

#[test]
fn a_table_has_the_name_of_its_part() {
    for name in ["table", "root2.blocks", "blocks.root", "root"] {
        let error = lie(|manifest| entry(manifest, "root.blocks")["name"] = json!(name));
        assert_manifest_refused(name, error);
    }
}

#[test]
fn two_parts_do_not_go_to_one_place() {
    let error = lie(|manifest| entry(manifest, "root")["slot_part"] = json!("kernel"));
    assert_manifest_refused("slot_part", error);
}

#[test]
fn sizes_of_small_members_are_bounded() {
    for (name, size) in [
        ("CONTROL", 4097_u64),
        ("CONTROL", u64::MAX),
        ("config.tar.gz", (16 << 20) + 1),
        ("config.tar.gz", u64::MAX),
        ("root.blocks", 0),
        ("root.blocks", 95),
        ("root.blocks", 97),
        ("root.blocks", 128),
        ("root.blocks", u64::MAX),
    ] {
        let error = lie(|manifest| entry(manifest, name)["size"] = json!(size));
        assert_manifest_refused(&format!("{name} of {size}"), error);
    }
}

#[test]
fn a_signed_size_that_is_not_the_members_is_refused() {
    for (name, delta) in [
        ("CONTROL", -1),
        ("CONTROL", 1),
        ("config.tar.gz", -1),
        ("config.tar.gz", 1),
    ] {
        let error = lie(|manifest| {
            let size = &mut entry(manifest, name)["size"];
            *size = json!(size.as_i64().unwrap() + delta);
        });
        assert!(
            matches!(&error, Some(ImageError::WrongSize { .. })),
            "{name} {delta:+}: {error:?}"
        );
    }
}

#[test]
fn a_signed_digest_that_is_not_the_members_is_refused() {
    for name in ["CONTROL", "config.tar.gz", "kernel.blocks", "root.blocks"] {
        let digest = Digest::of(b"another").to_string();
        let error = lie(|manifest| entry(manifest, name)["sha256"] = json!(digest));
        match &error {
            Some(ImageError::Digest { member, wanted, .. }) => {
                assert_eq!(member, name);
                assert_eq!(wanted.to_string(), digest);
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_wrong_config_never_looks_whole() {
    let mut pieces = Pieces::of_good(Encoding::Plain);
    let config = pieces.member("config.tar.gz");
    config[20] ^= 1;
    let len = config.len();
    let outcome = read(pieces.image().as_slice(), &trust_one());
    assert!(matches!(outcome.result, Err(ImageError::Digest { .. })));
    let (bytes, whole) = outcome.config.unwrap();
    assert!(!whole);
    assert!(bytes.len() < len, "the last bytes were handed out");
}

#[test]
fn members_in_another_order_than_the_formats_are_refused() {
    let mut pieces = Pieces::of_good(Encoding::Plain);
    let count = pieces.manifest()["members"].as_array().unwrap().len();
    for index in 0..count {
        let error = lie(|manifest| {
            manifest["members"].as_array_mut().unwrap().remove(index);
        });
        // Without its defaults, or a whole part, the manifest alone is fine: then the image is not.
        let wanted = if index == 1 { "unexpected" } else { "manifest" };
        match (&error, wanted) {
            (Some(ImageError::UnexpectedMember { .. }), "unexpected")
            | (Some(ImageError::Manifest { .. }), "manifest") => {}
            _ => panic!("member {index} removed: {error:?}"),
        }
        if index + 1 < count {
            let error = lie(|manifest| {
                manifest["members"]
                    .as_array_mut()
                    .unwrap()
                    .swap(index, index + 1);
            });
            assert_manifest_refused(&format!("members {index} and the next swapped"), error);
        }
        let error = lie(|manifest| {
            let members = manifest["members"].as_array_mut().unwrap();
            members.insert(index, members[index].clone());
        });
        assert_manifest_refused(&format!("member {index} doubled"), error);
    }
    for name in ["manifest.json", "manifest.sig", "CONTROL", "config.tar.gz"] {
        let error = lie(|manifest| {
            entry(manifest, "root")["name"] = json!(name);
            entry(manifest, "root.blocks")["name"] = json!(format!("{name}.blocks"));
        });
        assert_manifest_refused(name, error);
    }
}

#[test]
fn signed_parts_swapped_with_each_other_are_refused() {
    // Two parts of one length whose tables were exchanged: every length is right, the bytes are not.
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), Encoding::Plain);
    fs::write(dir.path().join("kernel"), vec![7; 3 * BLOCK]).unwrap();
    spec.defaults = None;
    let mut image = Vec::new();
    image::build(&spec, &[key(1)], &mut image).unwrap();
    for [one, other] in [["kernel", "root"], ["kernel.blocks", "root.blocks"]] {
        let mut changed = image.clone();
        let (one, other) = (place(&image, one), place(&image, other));
        assert_eq!(one.len, other.len);
        changed[one.content..one.end()].copy_from_slice(&image[other.content..other.end()]);
        changed[other.content..other.end()].copy_from_slice(&image[one.content..one.end()]);
        let outcome = read(changed.as_slice(), &trust_one());
        assert_eq!(outcome.result.unwrap_err().reason(), Reason::Damaged);
        assert!(outcome.parts.iter().all(|(_, bytes)| bytes.is_empty()));
    }
}
