//! The recorded U-Boot environments in `vectors/uboot-env`, all of them: what is read of each, what a
//! change leaves, and that both are what the tools of others read and leave. Their README says how they
//! were made. No tool is needed here.
//!
//! They were made for little-endian machines. On others the CRC of each copy is turned round first, and
//! the one that is in the other byte order already is then the one that can be read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use byteorder::{BigEndian, LittleEndian};
use serde_json::Value;
use sysupgrade_rs::board::{self, Board, Place, Store};
use sysupgrade_rs::boot::uboot_env::{Environment, Kind, StoredCopy};
use sysupgrade_rs::boot::{BootError, Bootloader, UbootEnv, fw_env_config};
use sysupgrade_rs::files::below;
use sysupgrade_rs::flash::{Chips, Kernel};
use sysupgrade_rs::slots::{BootState, Condition, Slot};
use sysupgrade_rs::system;
use tempfile::TempDir;

const CONFIG: &str = "/etc/fw_env.config";

const ON_TRIAL: BootState = BootState {
    primary: Slot::Second,
    conditions: [Condition::Good, Condition::Trial(3)],
};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/uboot-env")
}

fn json(name: &str) -> Value {
    let text = fs::read_to_string(vectors().join(name)).expect(name);
    serde_json::from_str(&text).expect("it is JSON")
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().expect(name)
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().expect(name)
}

/// The virtual router, but with U-Boot and its environment where `CONFIG` says.
fn board() -> Board {
    let text = board::VIRTUAL
        .replace("kind = \"grub-env\"", "kind = \"uboot-env\"")
        .replace(
            "store = [{ path = \"/flash/env\" }]",
            &format!("fw_env_config = \"{CONFIG}\""),
        );
    Board::parse(&text, "board.toml").expect("a board")
}

/// Flags and entries of a copy.
type Content = (u8, Vec<Vec<u8>>);

/// A root with the files of a case, and its `fw_env.config` where routers have it.
struct Case {
    root: TempDir,
}

impl Case {
    fn new(name: &str) -> Self {
        Self::with_files(name, &vectors().join(name))
    }

    /// With the files as they are in another directory, if they are there.
    fn with_files(name: &str, files: &Path) -> Self {
        let root = TempDir::new().expect("a directory");
        let config = fs::read_to_string(vectors().join(name).join("fw_env.config")).expect(name);
        // The tools were run in the directory of the case.
        let absolute = |line: &str| match line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            true => format!("/{line}\n"),
            false => format!("{line}\n"),
        };
        let config: String = config.lines().map(absolute).collect();
        fs::create_dir(root.path().join("etc")).expect("there is room");
        fs::write(root.path().join("etc/fw_env.config"), config).expect("there is room");
        for entry in fs::read_dir(vectors().join(name)).expect(name) {
            let entry = entry.expect(name).file_name();
            let from = match files.join(&entry) {
                changed if changed.exists() => changed,
                _ => vectors().join(name).join(&entry),
            };
            fs::copy(from, root.path().join(&entry)).expect(name);
        }
        let case = Self { root };
        if cfg!(target_endian = "big") {
            case.turn_round();
        }
        case
    }

    fn turn_round(&self) {
        for store in self.stores().unwrap_or_default() {
            let path = self.path_of(&store);
            let mut bytes = fs::read(&path).expect("readable");
            let at = usize::try_from(store.offset).expect("small");
            bytes[at..at + 4].reverse();
            fs::write(&path, bytes).expect("writable");
        }
    }

    fn stores(&self) -> Result<Vec<Store>, BootError> {
        fw_env_config::read(self.root.path(), Path::new(CONFIG), &board())
    }

    fn path_of(&self, store: &Store) -> PathBuf {
        match &store.place {
            Place::Path(path) => below(self.root.path(), path),
            place => panic!("{place} is no file"),
        }
    }

    fn env(&self) -> Result<UbootEnv, BootError> {
        let chips: Rc<dyn Chips> = Rc::new(Kernel::new(self.root.path()));
        system::uboot_env(self.root.path(), &board(), &chips)
    }

    fn variables(&self) -> Result<Environment, BootError> {
        self.env()?.variables()
    }

    /// Each file that is no `fw_env.config`.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = fs::read_dir(self.root.path()).expect("a directory");
        let names = files.map(|entry| entry.expect("an entry").file_name());
        let names = names.filter_map(|name| name.into_string().ok());
        names
            .filter(|name| name.ends_with(".bin"))
            .map(|name| {
                let content = fs::read(self.root.path().join(&name)).expect("readable");
                (name, content)
            })
            .collect()
    }

    /// Which files are others now.
    fn changed_since(&self, before: &BTreeMap<String, Vec<u8>>) -> Value {
        let now = self.files();
        let changed = now.iter().filter(|(name, now)| before[*name] != **now);
        changed
            .map(|(name, _)| Value::from(name.as_str()))
            .collect()
    }

    /// Of each copy its flags and its entries, sorted; why it is damaged, else.
    fn copies(&self) -> Vec<Result<Content, String>> {
        let stores = self.stores().expect("places");
        let kind = match stores.len() {
            1 => Kind::Single,
            _ => Kind::Redundant,
        };
        let copy = |store: &Store| {
            let bytes = fs::read(self.path_of(store)).expect("readable");
            let at = usize::try_from(store.offset).expect("small");
            let size = usize::try_from(store.size.expect("a size")).expect("small");
            let copy = StoredCopy::decode::<byteorder::NativeEndian>(&bytes[at..at + size], kind)?;
            let mut entries: Vec<_> = copy.environment.entries().map(<[u8]>::to_vec).collect();
            entries.sort();
            Ok((copy.flags, entries))
        };
        stores.iter().map(copy).collect()
    }
}

/// What libubootenv prints of an environment: sorted, the last of repeated names, and neither entries
/// without `=` nor the variable `.flags`.
fn as_libubootenv_prints(environment: &Environment) -> String {
    let entries = environment
        .entries()
        .map(|entry| String::from_utf8_lossy(entry).into_owned());
    let pairs = entries.filter_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        (name != ".flags").then(|| (name.to_owned(), value.to_owned()))
    });
    let sorted: BTreeMap<String, String> = pairs.collect();
    sorted
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

#[test]
fn of_each_vector_we_read_what_libubootenv_reads_and_refuse_what_it_refuses() {
    let expected = json("expected.json");
    for case in list(&expected, "read") {
        let name = text(case, "name");
        let ours = Case::new(name).variables();
        let in_other_order = text(case, "endian") == "big";
        let readable = match cfg!(target_endian = "big") && in_other_order {
            true => continue, // it has a test of its own
            false => case["libubootenv"]["rc"] == 0,
        };
        match ours {
            Ok(ours) => {
                assert!(readable, "{name} was read");
                let theirs = text(&case["libubootenv"], "stdout");
                assert_eq!(as_libubootenv_prints(&ours), theirs, "{name}");
            }
            Err(error) => {
                assert!(!readable, "{name}: {error}");
                let swapped = error.to_string().contains("in the other byte order");
                assert_eq!(swapped, in_other_order, "{name}: {error}");
            }
        }
    }
}

/// What a change is to leave.
#[derive(Debug)]
enum Outcome {
    /// What both tools leave.
    AsBoth,
    /// What U-Boot's own tool leaves.
    AsUboots,
    /// What was there.
    Refused,
}

/// The tools agree, but where one of them has a fault, or they treat a case as each likes.
fn outcome(case: &str, words: &[&str]) -> Outcome {
    match (case, words) {
        // libubootenv stores a variable without value, U-Boot knows none.
        (_, [_, ""]) |
        // libubootenv loses entries without `=` and repeated ones.
        ("odd-entries", _) |
        // Two variables for libubootenv, of which one has no value.
        (_, [_, _, _]) => Outcome::AsUboots,
        // No copy is whole: U-Boot's tool makes one of what is compiled into it.
        ("redund-both-corrupt" | "single-bad-crc", _) |
        // It does not fit: one tool leaves out the last NUL, the other one deletes the variable.
        ("full-exact", [_, "cc" | "ccc"]) |
        // Write-once: libubootenv writes it again without the other flags.
        ("with-flags-var", ["ethaddr", _]) => Outcome::Refused,
        (_, [name, ..]) if name.contains('=') => Outcome::Refused,
        _ => Outcome::AsBoth,
    }
}

#[test]
fn a_change_leaves_what_the_tools_leave_in_the_same_copy_with_the_same_flags() {
    let expected = json("expected.json");
    for write in list(&expected, "write") {
        let name = text(write, "case");
        let argv = list(write, "argv").iter().filter_map(Value::as_str);
        let words: Vec<&str> = argv.skip(3).collect();
        let case = Case::new(name);
        let before = case.files();
        let value = (words.len() > 1).then(|| words[1..].join(" "));
        let env = case.env().expect("the file is right");
        let result = env.change(&[(words[0], value.as_deref())]);
        let changed = case.changed_since(&before);
        let outcome = outcome(name, &words);
        let tools: &[&str] = match outcome {
            Outcome::AsBoth => &["libubootenv", "uboot_tools"],
            Outcome::AsUboots => &["uboot_tools"],
            Outcome::Refused => {
                result.expect_err(name);
                assert_eq!(changed, Value::Array(Vec::new()), "{name} {words:?}");
                continue;
            }
        };
        result.unwrap_or_else(|error| panic!("{name} {words:?}: {error}"));
        for tool in tools {
            let theirs = &write[*tool];
            assert_eq!(changed, theirs["changed_files"], "{name} {words:?} {tool}");
            if let Some(after) = theirs["after_dir"].as_str() {
                let after = Case::with_files(name, &vectors().join(after));
                assert_eq!(case.copies(), after.copies(), "{name} {words:?} {tool}");
            }
        }
    }
}

#[test]
fn what_the_tools_left_is_read_as_they_read_it() {
    let expected = json("expected.json");
    let mut compared = 0;
    for write in list(&expected, "write") {
        let name = text(write, "case");
        for tool in ["libubootenv", "uboot_tools"] {
            let Some(after) = write[tool]["after_dir"].as_str() else {
                continue;
            };
            let printed = &write[tool]["printenv_after"]["libubootenv"];
            let ours = Case::with_files(name, &vectors().join(after)).variables();
            match ours {
                Ok(ours) => {
                    let ours = as_libubootenv_prints(&ours);
                    assert_eq!(ours, text(printed, "stdout"), "{after}");
                }
                Err(error) => assert_ne!(printed["rc"], 0, "{after}: {error}"),
            }
            compared += 1;
        }
    }
    assert!(compared > 0, "no tool has written anything");
}

#[test]
fn a_store_keeps_every_other_entry_byte_for_byte_in_every_vector_that_has_room() {
    let expected = json("expected.json");
    let mut stored = 0;
    for case in list(&expected, "read") {
        let name = text(case, "name");
        let case = Case::new(name);
        let Ok(before) = case.variables() else {
            continue;
        };
        let files = case.files();
        let mut env = case.env().expect("it was read");
        if let Err(error) = env.store(&ON_TRIAL) {
            assert!(matches!(error, BootError::Full { .. }), "{name}: {error}");
            assert!(case.files() == files, "{name} was written");
            continue;
        }
        let after = case.variables().expect("just stored");
        let added: [&[u8]; 3] = [b"BOOT_ORDER=B A", b"BOOT_A_LEFT=9", b"BOOT_B_LEFT=3"];
        let expected: Vec<&[u8]> = before.entries().chain(added).collect();
        assert_eq!(after.entries().collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(env.flaws().expect("whole"), [""; 0], "{name}");
        assert_eq!(env.load().expect("whole"), ON_TRIAL, "{name}");
        stored += 1;
    }
    assert!(stored > 0, "there is no vector with room");
}

#[test]
fn what_uboot_itself_saved_is_read_in_the_byte_order_of_its_processor() {
    let expected = json("expected-uboot-saved.json");
    for case in expected.as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let lines = case["u_boot_printenv"].as_array().expect("lines").iter();
        let theirs: Vec<_> = lines.filter_map(Value::as_str).collect();
        let mut saved_last: Vec<String> = Vec::new();
        for file in ["env0.bin", "env1.bin"] {
            let bytes = fs::read(vectors().join(name).join(file)).expect("readable");
            let (right, wrong) = match case["endian"].as_str() {
                Some("little") => (
                    StoredCopy::decode::<LittleEndian>(&bytes, Kind::Redundant),
                    StoredCopy::decode::<BigEndian>(&bytes, Kind::Redundant),
                ),
                _ => (
                    StoredCopy::decode::<BigEndian>(&bytes, Kind::Redundant),
                    StoredCopy::decode::<LittleEndian>(&bytes, Kind::Redundant),
                ),
            };
            assert!(
                wrong
                    .expect_err(name)
                    .ends_with("it is in the other byte order")
            );
            let copy = right.unwrap_or_else(|error| panic!("{name}/{file}: {error}"));
            assert_eq!(
                Some(u64::from(copy.flags)),
                case["files"][file]["flag"].as_u64()
            );
            if copy.flags == 1 {
                let entries = copy.environment.entries();
                saved_last = entries
                    .map(|entry| String::from_utf8_lossy(entry).into_owned())
                    .collect();
            }
        }
        assert_eq!(saved_last, theirs, "{name}");
    }
}

#[test]
fn an_environment_for_the_other_byte_order_is_refused_here_and_readable_there() {
    let path = vectors().join("single-bigendian/env.bin");
    let bytes = fs::read(path).expect("readable");
    let copy =
        StoredCopy::decode::<BigEndian>(&bytes, Kind::Single).expect("made by mkenvimage -b");
    assert_eq!(copy.environment.get("bootcmd"), Some(&b"run ab_boot"[..]));
    let error = StoredCopy::decode::<LittleEndian>(&bytes, Kind::Single);
    let error = error.expect_err("the other byte order");
    assert!(error.ends_with("it is in the other byte order"), "{error}");
}
