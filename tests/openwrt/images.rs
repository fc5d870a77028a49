//! What the real tools said of each image, for each device, and what is said here: the same, or no.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::vectors;

/// A device of the recorded cases, as a tree that nothing runs from.
pub(crate) struct Device {
    root: tempfile::TempDir,
    now: i64,
}

impl Device {
    /// With a board file that lets unsigned images pass where the device does.
    pub(crate) fn new(profile: &Value) -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let text = |key: &str| profile[key].as_str();
        fs::create_dir_all(at("tmp/sysinfo")).unwrap();
        fs::write(
            at("tmp/sysinfo/board_name"),
            format!("{}\n", text("board_name").unwrap()),
        )
        .unwrap();
        fs::create_dir_all(at("etc/config")).unwrap();
        let compat = text("compat_version");
        let compat = compat.map(|compat| format!("\toption compat_version '{compat}'\n"));
        let system = format!("config system\n{}", compat.unwrap_or_default());
        fs::write(at("etc/config/system"), system).unwrap();
        copy_keys(
            &vectors::path("keydirs").join(text("keys").unwrap()),
            &at("etc/opkg/keys"),
        );
        let unsigned = match profile["require_signature"].as_bool() {
            Some(true) => "refuse",
            _ => "allow",
        };
        let board = BOARD.replace("UNSIGNED", unsigned);
        fs::create_dir_all(at("etc/sysupgrade-rs")).unwrap();
        fs::write(at("etc/sysupgrade-rs/board.toml"), board).unwrap();
        Self {
            root,
            now: vectors::seconds(text("clock").unwrap()),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// `-T --json` with more words: the exit code and the document.
    pub(crate) fn test(&self, image: &Path, words: &[&str]) -> (i32, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_sysupgrade-rs"))
            .arg("--root")
            .arg(self.root())
            .args(["--now", &self.now.to_string(), "-T", "--json"])
            .args(words)
            .arg(image)
            .output()
            .unwrap();
        let document = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}: {output:?}", image.display()));
        (output.status.code().unwrap(), document)
    }
}

/// Nothing runs from the tree, so nothing of this but the trust is looked at.
const BOARD: &str = r#"
name = "recorded"
compatible = ["a,board"]
[trust]
keys = ["/etc/opkg/keys"]
unsigned = "UNSIGNED"
[data]
dir = "/data"
[boot]
kind = "grub-env"
store = [{ path = "/boot/grubenv" }]
running = "cmdline:slot"
[[slot]]
name = "a"
parts = { root = { kind = "file", path = "/flash/a" } }
[[slot]]
name = "b"
parts = { root = { kind = "file", path = "/flash/b" } }
"#;

/// A copy as it is in the repository: links that revoke keys are plain files there, which must do as well.
pub(crate) fn copy_keys(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match fs::read_link(entry.path()) {
            Ok(target) => symlink(target, to).unwrap(),
            Err(_) => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Where we say no and stock tools say yes: what is special about the device or the image, and why.
/// `*` stands for all.
const STRICTER: &[(&str, &str, &str)] = &[
    (
        "*",
        "no-ucert",
        "a signature that is there is checked; no tool has to be installed for that",
    ),
    (
        "*",
        "metadata-optional",
        "an image that does not say for which boards it is is forced, or not installed",
    ),
    (
        "metadata-supported-object.bin",
        "*",
        "supported_devices is a list",
    ),
    (
        "metadata-duplicate-keys.bin",
        "*",
        "which of two values of one key counts is a matter of the parser",
    ),
    (
        "metadata-compat-number.bin",
        "*",
        "compat_version is a text: the number 1.0 and 1.00 are one",
    ),
    (
        "sig-ucert-trailing-garbage.bin",
        "*",
        "bytes behind the certificates are nobody's",
    ),
    (
        "sig-fingerprint-changed.bin",
        "*",
        "a signature says which key made it",
    ),
    (
        "tar-no-dir-entry.bin",
        "*",
        "the stock flasher finds no directory in it, and writes nothing",
    ),
    (
        "tar-two-boards.bin",
        "*",
        "the stock flasher takes the first, which is another one",
    ),
    (
        "*",
        "keys-misnamed",
        "a key under another key's name: whoever made this directory has made a mistake",
    ),
    (
        "tar-wrong-board-dir.bin",
        "*",
        "the name of its directory is one of a device, too",
    ),
    ("empty.bin", "*", "nothing is no image"),
    (
        "only-trailer.bin",
        "*",
        "chunks behind nothing are read no further",
    ),
    (
        "raw-flip-payload.bin",
        "*",
        "a wrong checksum: whether something was signed is not known",
    ),
    ("raw-flip-metadata.bin", "*", "likewise"),
    ("raw-bad-trailer-crc.bin", "*", "likewise"),
    (
        "trailer-size-over-buffer.bin",
        "*",
        "likewise, with a chunk of impossible length",
    ),
    ("fit-magic.bin", "*", "four bytes are no FIT"),
    ("ubi-magic.bin", "*", "four bytes are no UBI image"),
];

fn is_listed(image: &str, profile: &str) -> bool {
    STRICTER.iter().any(|(file, device, _)| {
        (*file == "*" || *file == image) && (*device == "*" || *device == profile)
    })
}

#[derive(Default)]
struct Found {
    same: usize,
    stricter: BTreeMap<(String, String), Vec<String>>,
    looser: Vec<String>,
    unlisted: Vec<String>,
}

impl Found {
    fn compare(&mut self, case: (&str, &str, &str), stock: bool, ours: bool, why: &Value) {
        let (image, profile, what) = case;
        let told = format!("{image} on {profile}, {what}: {}", why["refusals"]);
        match (stock, ours) {
            (true, false) if is_listed(image, profile) => {
                let key = (image.to_owned(), profile.to_owned());
                self.stricter.entry(key).or_default().push(told);
            }
            (true, false) => self.unlisted.push(told),
            (false, true) => self.looser.push(told),
            _ => self.same += 1,
        }
    }
}

fn name(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

#[test]
fn every_verdict_is_that_of_the_real_tools_or_a_listed_no() {
    let expected = vectors::json("expected.json");
    let mut found = Found::default();
    for image in expected["images"].as_array().unwrap() {
        let file = image["file"].as_str().unwrap();
        let path: PathBuf = vectors::path(file);
        for (profile, recorded) in image["profiles"].as_object().unwrap() {
            // What the stock platform script of this one said no to is not in the image, and there is no
            // such script here: what fits a board is in its board file.
            if profile == "broken" {
                continue;
            }
            let device = Device::new(&expected["profiles"][profile]);
            for (command, words) in [
                ("sysupgrade -T", &[][..]),
                ("sysupgrade -T -n", &["-n"]),
                ("sysupgrade -T -F", &["-F"]),
                (
                    "sysupgrade -T --ignore-minor-compat-version",
                    &["--ignore-minor-compat-version"],
                ),
            ] {
                let Some(exit) = recorded[command]["exit"].as_i64() else {
                    continue;
                };
                let (code, document) = device.test(&path, words);
                assert_eq!(code == 0, document["valid"] == true, "{file}: {document}");
                // Stock tools force everything; here a signature or a damaged image cannot be.
                let forced = command.ends_with("-F");
                if forced && exit == 0 && code != 0 {
                    assert_eq!(
                        document["forceable"], false,
                        "{file} on {profile}: {document}"
                    );
                    continue;
                }
                found.compare(
                    (name(file), profile, command),
                    exit == 0,
                    code == 0,
                    &document,
                );
            }
            // What procd asks, which does not say whether the configuration is to be kept.
            let stock = &recorded["validate_firmware_image"]["json"];
            if stock.is_object() {
                let (_, document) = device.test(&path, &["-n"]);
                for key in ["valid", "forceable", "allow_backup"] {
                    let (stock, ours) = (stock[key] == true, document[key] == true);
                    if key == "valid" {
                        found.compare((name(file), profile, key), stock, ours, &document);
                    } else {
                        assert!(stock || !ours, "{file} on {profile}: {key} is {ours}");
                    }
                }
                for (test, stock) in stock["tests"].as_object().unwrap() {
                    let (stock, ours) = (stock == true, document["tests"][test] == true);
                    let case = (name(file), profile.as_str(), test.as_str());
                    found.compare(case, stock, ours, &document);
                }
            }
        }
    }
    assert!(
        found.looser.is_empty(),
        "looser:\n{}",
        found.looser.join("\n")
    );
    assert!(
        found.unlisted.is_empty(),
        "stricter, and not listed:\n{}",
        found.unlisted.join("\n")
    );
    assert!(
        found.same > 800,
        "only {} verdicts were compared",
        found.same
    );
    // The table has no line that nothing needs.
    for (file, device, why) in STRICTER {
        let needed = found.stricter.keys().any(|(image, profile)| {
            (*file == "*" || file == image) && (*device == "*" || device == profile)
        });
        assert!(needed, "{file} on {device} is not stricter: {why}");
    }
}
