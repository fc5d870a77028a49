//! Boot environments, together with the tools that others use on them: `grub-editenv` (grub-common),
//! `fw_printenv` and `fw_setenv` (libubootenv-tool). A tool that is not installed is a failure.
//!
//! The U-Boot environments in `vectors/uboot-env` were made by `mkenvimage`, by those tools and by
//! U-Boot itself; their README says how.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use byteorder::{BigEndian, LittleEndian, NativeEndian};
use serde_json::Value;
use sysupgrade_rs::board::{Place, Store};
use sysupgrade_rs::boot::uboot_env::{Environment, Kind, StoredCopy};
use sysupgrade_rs::boot::{BootError, Bootloader, GrubEnv, UbootEnv};
use sysupgrade_rs::files::trace::{self, Op};
use sysupgrade_rs::flash::Kernel;
use sysupgrade_rs::slots::{BootState, Condition, Slot};
use tempfile::TempDir;

/// Small, so that every bit of a copy can be flipped and every write be cut at every byte.
const SIZE: usize = 160;

const ON_TRIAL: BootState = BootState {
    primary: Slot::Second,
    conditions: [Condition::Good, Condition::Trial(3)],
};

fn path_of(store: &Store) -> &Path {
    match &store.place {
        Place::Path(path) => path,
        place => panic!("{place} is no file"),
    }
}

fn names() -> [String; 2] {
    ["a".to_owned(), "b".to_owned()]
}

/// Runs a tool; its standard output if it succeeds.
fn run(program: &str, args: &[&str], dir: &Path) -> Result<String, String> {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn must_run(program: &str, args: &[&str], dir: &Path) -> String {
    run(program, args, dir).unwrap_or_else(|error| panic!("{program} {args:?}: {error}"))
}

/// A file `env` in a directory of its own.
struct File {
    dir: TempDir,
}

impl File {
    fn new(bytes: &[u8]) -> Self {
        let file = Self {
            dir: TempDir::new().expect("a temporary directory"),
        };
        file.write(bytes);
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("env")
    }

    fn read(&self) -> Vec<u8> {
        fs::read(self.path()).expect("env is readable")
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).expect("env is writable");
    }
}

/// The one write that `work` made, and that it was followed by one sync; `None` if it wrote nothing.
fn the_write(work: impl FnOnce() -> Result<(), BootError>) -> Option<(PathBuf, u64, Vec<u8>)> {
    let (result, ops) = trace::record(work);
    result.expect("the store succeeds");
    match ops.as_slice() {
        [Op::Sync { .. }] => None,
        [Op::Write { path, offset, data }, Op::Sync { path: synced }] => {
            assert_eq!(path, synced);
            Some((path.clone(), *offset, data.clone()))
        }
        other => panic!("not one write and one sync: {other:?}"),
    }
}

// GRUB

fn grub(file: &File) -> GrubEnv {
    GrubEnv::new(file.path(), names())
}

fn factory_block() -> Vec<u8> {
    GrubEnv::format(names(), &BootState::FACTORY).expect("it fits")
}

/// `grub-editenv env list`, as a map.
fn grub_list(file: &File) -> BTreeMap<String, String> {
    let text = must_run("grub-editenv", &["env", "list"], file.dir.path());
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn grub_reads_what_we_format_and_what_we_store() {
    let file = File::new(&factory_block());
    let listed = |order: &str, a: &str, b: &str| {
        [
            ("BOOT_A_LEFT", a),
            ("BOOT_B_LEFT", b),
            ("BOOT_ORDER", order),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    };
    assert_eq!(grub_list(&file), listed("A B", "9", "0"));
    grub(&file).store(&ON_TRIAL).expect("stored");
    assert_eq!(grub_list(&file), listed("B A", "9", "3"));
    assert_eq!(grub(&file).load().expect("readable"), ON_TRIAL);
}

#[test]
fn we_read_what_grub_writes() {
    let file = File::new(b"");
    fs::remove_file(file.path()).expect("it was there");
    must_run("grub-editenv", &["env", "create"], file.dir.path());
    let error = grub(&file).load().expect_err("there are no variables yet");
    assert!(
        error
            .to_string()
            .contains("variable BOOT_ORDER: is missing"),
        "{error}"
    );
    must_run(
        "grub-editenv",
        &[
            "env",
            "set",
            "x=1",
            "BOOT_B_LEFT=3",
            "BOOT_ORDER=B A",
            "BOOT_A_LEFT=9",
        ],
        file.dir.path(),
    );
    assert_eq!(grub(&file).load().expect("readable"), ON_TRIAL);
    // As the boot script counts a try.
    must_run(
        "grub-editenv",
        &["env", "set", "BOOT_B_LEFT=2"],
        file.dir.path(),
    );
    assert_eq!(grub(&file).load().expect("readable"), ON_TRIAL.boot().1);
}

#[test]
fn other_variables_of_grub_survive_byte_for_byte_wherever_ours_stand() {
    let others = ["back=a\\b\\", "line=one\ntwo", "empty=", "last=#=#"];
    for position in 0..=others.len() {
        let file = File::new(&[b"# GRUB Environment Block\n".as_slice(), &[b'#'; 999]].concat());
        let mut sets = others.to_vec();
        sets.splice(
            position..position,
            ["BOOT_ORDER=A B", "BOOT_A_LEFT=9", "BOOT_B_LEFT=0"],
        );
        let args: Vec<&str> = ["env", "set"].into_iter().chain(sets).collect();
        must_run("grub-editenv", &args, file.dir.path());
        let before = file.read();
        let listed = must_run("grub-editenv", &["env", "list"], file.dir.path());

        grub(&file).store(&ON_TRIAL).expect("stored");
        let changed = before
            .iter()
            .zip(file.read())
            .filter(|(old, new)| **old != *new)
            .count();
        assert_eq!(changed, 3, "two letters of the order and one digit");
        let expected = listed
            .replace("BOOT_ORDER=A B", "BOOT_ORDER=B A")
            .replace("BOOT_B_LEFT=0", "BOOT_B_LEFT=3");
        assert_eq!(
            must_run("grub-editenv", &["env", "list"], file.dir.path()),
            expected
        );
    }
}

#[test]
fn a_store_to_grubs_block_is_one_write_into_its_first_sector_and_nothing_for_the_same_state() {
    let block = factory_block();
    let others = format!("x={}\n", "y".repeat(700));
    let end = block
        .iter()
        .rposition(|byte| *byte == b'\n')
        .expect("lines")
        + 1;
    let mut full = [&block[..end], others.as_bytes()].concat();
    full.resize(1024, b'#');
    let file = File::new(&full);
    let (path, offset, data) = the_write(|| grub(&file).store(&ON_TRIAL)).expect("a write");
    assert_eq!(path, file.path());
    assert!(
        offset + data.len() as u64 <= 512,
        "{} bytes at {offset}",
        data.len()
    );
    assert_eq!(the_write(|| grub(&file).store(&ON_TRIAL)), None);
}

#[test]
fn a_block_at_an_offset_leaves_all_around_it_alone() {
    let around = vec![0xa5; 4096];
    let mut bytes = around.clone();
    bytes[512..1536].copy_from_slice(&factory_block());
    let file = File::new(&bytes);
    grub(&file).at(512).store(&ON_TRIAL).expect("stored");
    assert_eq!(grub(&file).at(512).load().expect("readable"), ON_TRIAL);
    let after = file.read();
    assert_eq!(after[..512], around[..512]);
    assert_eq!(after[1536..], around[1536..]);
}

/// Blocks of which GRUB reads the lines and into which it never saves.
fn half_broken_blocks() -> Vec<Vec<u8>> {
    let lines = factory_block().iter().rposition(|byte| *byte == b'\n');
    let end = lines.expect("it has lines") + 1;
    let from = |start: usize, byte: u8| {
        let mut bytes = factory_block();
        bytes[start..].fill(byte);
        bytes
    };
    vec![
        from(512, 0),
        from(512, 0xff),
        from(end, 0),
        from(1023, b'\0'),
        from(end + 1, b'x'),
    ]
}

#[test]
fn a_block_that_grub_reads_but_cannot_save_into_is_read_and_a_store_makes_it_whole() {
    for bytes in half_broken_blocks() {
        let file = File::new(&bytes);
        assert_eq!(grub_list(&file)["BOOT_ORDER"], "A B");
        let count = ["env", "set", "BOOT_B_LEFT=2"];
        let counted = run("grub-editenv", &count, file.dir.path());
        counted.expect_err("GRUB does not save into it");
        assert!(file.read() == bytes);

        let mut env = grub(&file);
        assert_eq!(env.load().expect("as GRUB reads it"), BootState::FACTORY);
        let flaws = env.flaws().expect("readable");
        assert!(flaws[0].contains("could count no boot"), "{flaws:?}");
        env.store(&ON_TRIAL).expect("stored");
        assert_eq!(env.flaws().expect("readable"), [""; 0]);
        assert_eq!(env.load().expect("readable"), ON_TRIAL);
        must_run("grub-editenv", &count, file.dir.path());
        assert_eq!(env.load().expect("readable"), ON_TRIAL.boot().1);
    }
    assert_eq!(
        grub(&File::new(&factory_block())).flaws().expect("whole"),
        [""; 0]
    );
}

/// What the writes of a recorded work leave when it is cut after so many bytes of them: prefixes, and
/// suffixes of the write that is cut, as disks that turn sectors round leave it. Every one of a short
/// write, some of a long one.
fn torn(before: &[u8], ops: &[Op]) -> Vec<Vec<u8>> {
    let mut bytes = before.to_vec();
    let mut all = vec![bytes.clone()];
    for op in ops {
        let Op::Write { offset, data, .. } = op else {
            continue;
        };
        let at = usize::try_from(*offset).expect("small");
        for cut in (0..=data.len()).step_by(1 + data.len() / 64) {
            for landed in [0..cut, cut..data.len()] {
                let mut torn = bytes.clone();
                torn[at..][landed.clone()].copy_from_slice(&data[landed]);
                all.push(torn);
            }
        }
        bytes[at..][..data.len()].copy_from_slice(data);
        all.push(bytes.clone());
    }
    all
}

/// What there is before, between and after the writes.
fn between(before: &[u8], ops: &[Op]) -> Vec<Vec<u8>> {
    let all = (0..=ops.len()).filter_map(|end| torn(before, &ops[..end]).pop());
    all.collect()
}

/// True if GRUB saves into it.
fn is_whole_block(bytes: &[u8]) -> bool {
    let end = bytes.iter().rposition(|byte| *byte != b'#');
    end.is_some_and(|end| bytes[end] == b'\n')
}

#[test]
fn no_cut_leaves_a_trial_in_a_block_that_grub_cannot_count_in() {
    for bytes in half_broken_blocks() {
        let file = File::new(&bytes);
        let (stored, ops) = trace::record(|| grub(&file).store(&ON_TRIAL));
        stored.expect("stored");
        let all = torn(&bytes, &ops);
        assert!(all.last() == Some(&file.read()), "all writes are known");
        for torn in all {
            file.write(&torn);
            let state = grub(&file).load().expect("readable at every instant");
            let counts = state.conditions.contains(&Condition::Trial(3));
            assert!(!counts || is_whole_block(&torn), "{state:?}");
            grub(&file).store(&ON_TRIAL).expect("stored again");
            assert!(is_whole_block(&file.read()));
        }
    }
}

/// Blocks of which nothing, or not all, can be read; of those that end early each `step`th.
fn damaged_blocks(step: usize) -> Vec<Vec<u8>> {
    let good = factory_block();
    let mut oversized = good.clone();
    oversized.resize(2048, b'#');
    let mut no_equals = good.clone();
    no_equals[600..610].copy_from_slice(b"\nno equals");
    no_equals[611] = b'\n';
    let mut damaged = vec![oversized, no_equals, vec![0; 1024], vec![0xff; 1024]];
    damaged.extend((0..1024).step_by(step).map(|len| good[..len].to_vec()));
    damaged
}

#[test]
fn a_damaged_block_is_refused_and_not_written() {
    for bytes in damaged_blocks(1) {
        let file = File::new(&bytes);
        for result in [
            grub(&file).load().map(|_| ()),
            grub(&file).store(&ON_TRIAL),
            grub(&file).flaws().map(|_| ()),
        ] {
            let error = result.expect_err("a damaged block");
            assert!(matches!(error, BootError::Damaged { .. }), "{error:?}");
        }
        assert!(file.read() == bytes, "a damaged block was written");
    }
}

#[test]
fn a_repair_makes_a_whole_block_of_whatever_is_there_and_a_cut_none_with_another_state() {
    let state = BootState {
        primary: Slot::Second,
        conditions: [Condition::Unbootable, Condition::Good],
    };
    for bytes in damaged_blocks(100).into_iter().chain(half_broken_blocks()) {
        let file = File::new(&bytes);
        let (repaired, ops) = trace::record(|| grub(&file).repair(&state));
        assert_eq!(repaired.expect("repaired").len(), 1);
        assert_eq!(grub(&file).load().expect("readable"), state);
        assert_eq!(grub(&file).flaws().expect("readable"), [""; 0]);
        assert!(is_whole_block(&file.read()) && file.read().len() == 1024);
        // Another file in its place comes at one instant; a state that is there is stored as ever.
        if bytes.len() != 1024 || half_broken_blocks().contains(&bytes) {
            continue;
        }
        // Of a block whose lines GRUB reads all the time they may be there for the last time, and of each
        // sector the old bytes or the new ones.
        let (lines, cuts) = match bytes.starts_with(b"# GRUB") {
            true => (Some(BootState::FACTORY), between(&bytes, &ops)),
            false => (None, torn(&bytes, &ops)),
        };
        for torn in cuts {
            file.write(&torn);
            let found = grub(&file).load().ok();
            assert!([None, lines, Some(state)].contains(&found), "{found:?}");
            grub(&file).repair(&state).expect("repaired again");
            assert_eq!(grub(&file).load().expect("readable"), state);
        }
    }
    let file = File::new(b"");
    fs::remove_file(file.path()).expect("it was there");
    let error = grub(&file).repair(&state);
    let error = error.expect_err("perhaps its file system is not mounted");
    assert!(matches!(error, BootError::File(_)), "{error:?}");
    assert!(!file.path().exists());
}

#[test]
fn a_repair_keeps_what_can_be_read_of_other_variables() {
    let file = File::new(&factory_block());
    let set = ["env", "set", "theirs=kept", "more=1"];
    must_run("grub-editenv", &set, file.dir.path());
    let text = String::from_utf8(file.read()).expect("plain text");
    let damaged = text.replace("more=1\n", "more+1\n");
    file.write(damaged.as_bytes());
    grub(&file).repair(&ON_TRIAL).expect("repaired");
    let listed = grub_list(&file);
    assert_eq!(listed["theirs"], "kept");
    assert_eq!(listed.get("more"), None);
}

#[test]
fn a_store_mends_a_variable_that_stands_twice_and_grub_can_save_again() {
    let lines = "BOOT_ORDER=A B\nBOOT_A_LEFT=9\nBOOT_B_LEFT=2\nx=1\nBOOT_B_LEFT=3\n";
    let mut bytes = format!("# GRUB Environment Block\n{lines}").into_bytes();
    bytes.resize(1024, b'#');
    let file = File::new(&bytes);
    let error = grub(&file)
        .load()
        .expect_err("GRUB counts in the first and reads the last");
    assert!(
        error
            .to_string()
            .contains("variable BOOT_B_LEFT: stands there twice"),
        "{error}"
    );
    grub(&file).store(&ON_TRIAL).expect("stored");
    assert_eq!(grub(&file).load().expect("mended"), ON_TRIAL);
    must_run(
        "grub-editenv",
        &["env", "set", "BOOT_B_LEFT=2"],
        file.dir.path(),
    );
    assert_eq!(grub(&file).load().expect("readable"), ON_TRIAL.boot().1);
    assert_eq!(grub_list(&file)["x"], "1");
}

// U-Boot

/// Copies of an environment in a directory of their own, with an `fw_env.config`.
struct Copies {
    dir: TempDir,
    stores: Vec<Store>,
}

impl Copies {
    /// Fresh ones of `SIZE` bytes, each in a file.
    fn new(state: &BootState, count: usize) -> Self {
        let others = [("bootcmd", "run ab"), ("bootdelay", "0")];
        let copies = UbootEnv::format::<NativeEndian>(names(), state, &others, SIZE, count);
        let dir = TempDir::new().expect("a temporary directory");
        let mut config = String::new();
        for (index, bytes) in copies.expect("it fits").iter().enumerate() {
            fs::write(dir.path().join(format!("env{index}.bin")), bytes).expect("written");
            config += &format!("env{index}.bin 0x0 {SIZE:#x}\n");
        }
        fs::write(dir.path().join("fw_env.config"), config).expect("written");
        Self::open(dir)
    }

    /// A copy of a case of the vectors.
    fn of_case(case: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        for entry in fs::read_dir(vectors().join(case)).expect("a case") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
        }
        let copies = Self::open(dir);
        if cfg!(target_endian = "big") && case != "single-bigendian" {
            copies.turn_checksums();
        }
        copies
    }

    /// Makes of environments for little-endian processors those that the same tools make for big-endian
    /// ones: of all their bytes only the checksum has an order.
    fn turn_checksums(&self) {
        for store in &self.stores {
            let mut bytes = fs::read(path_of(store)).expect("readable");
            let at = usize::try_from(store.offset).expect("small");
            if let Some(checksum) = bytes.get_mut(at..at + 4) {
                checksum.reverse();
            }
            fs::write(path_of(store), bytes).expect("writable");
        }
    }

    fn open(dir: TempDir) -> Self {
        let config = fs::read_to_string(dir.path().join("fw_env.config")).expect("a config");
        let hex = |word: &str| {
            let digits = word
                .strip_prefix("0x")
                .expect("only such numbers are in these cases");
            u64::from_str_radix(digits, 16).expect("a number")
        };
        let stores = config
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                Store {
                    place: Place::Path(dir.path().join(words[0])),
                    offset: hex(words[1]),
                    size: Some(hex(words[2])),
                    window: None,
                }
            })
            .collect();
        Self { dir, stores }
    }

    fn env(&self) -> UbootEnv {
        UbootEnv::new(
            Path::new("/"),
            self.stores.clone(),
            names(),
            Rc::new(Kernel::new(self.dir.path())),
        )
    }

    fn load(&self) -> BootState {
        self.env().load().expect("readable")
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let paths = self.stores.iter().map(|store| path_of(store).to_owned());
        paths
            .map(|path| (path.clone(), fs::read(path).expect("readable")))
            .collect()
    }

    fn write(&self, files: &BTreeMap<PathBuf, Vec<u8>>) {
        for (path, bytes) in files {
            fs::write(path, bytes).expect("writable");
        }
    }

    /// The flags byte of each copy.
    fn flags(&self) -> Vec<u8> {
        let at = |store: &Store| usize::try_from(store.offset).expect("small") + 4;
        let files = self.files();
        self.stores
            .iter()
            .map(|store| files[path_of(store)][at(store)])
            .collect()
    }

    fn fw_printenv(&self) -> Result<String, String> {
        run("fw_printenv", &["-c", "fw_env.config"], self.dir.path())
    }

    fn fw_setenv(&self, name: &str, value: &str) {
        must_run(
            "fw_setenv",
            &["-c", "fw_env.config", name, value],
            self.dir.path(),
        );
    }
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/uboot-env")
}

fn vector_json(name: &str) -> Value {
    let text = fs::read_to_string(vectors().join(name)).expect("readable");
    serde_json::from_str(&text).expect("JSON")
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

/// Cases about how `fw_env.config` is read, which a board file replaces; their environments are those
/// of other cases.
const OF_THE_CONFIG: [&str; 9] = [
    "config-comments",
    "config-indented-comment",
    "config-trailing-words",
    "config-unequal-sizes", // refused by Board::parse
    "offset-decimal",
    "offset-octal",
    "offset-negative-file",
    "size-without-0x",
    "single-bigendian", // has a test of its own
];

#[test]
fn we_read_of_each_vector_what_libubootenv_reads_and_refuse_what_it_refuses() {
    let expected = vector_json("expected.json");
    let mut compared = BTreeSet::new();
    for case in expected["read"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        if OF_THE_CONFIG.contains(&name) {
            continue;
        }
        let ours = Copies::of_case(name).env().variables();
        match case["libubootenv"]["rc"].as_i64() {
            Some(0) => {
                let ours = ours.unwrap_or_else(|error| panic!("{name}: {error}"));
                let theirs = case["libubootenv"]["stdout"].as_str().expect("text");
                assert_eq!(as_libubootenv_prints(&ours), theirs, "{name}");
            }
            _ => {
                let error = ours.expect_err(name);
                assert!(
                    matches!(error, BootError::Damaged { .. }),
                    "{name}: {error:?}"
                );
            }
        }
        compared.insert(name);
    }
    assert_eq!(compared.len(), 35, "{compared:?}");
}

#[test]
#[cfg_attr(
    target_endian = "big",
    ignore = "the tools of this machine are for its own byte order"
)]
fn the_installed_tool_and_we_read_the_same() {
    for case in [
        "single-mkenvimage",
        "redund-wrap-255-0",
        "same-file-two-copies",
        "odd-entries",
    ] {
        let copies = Copies::of_case(case);
        let ours = copies.env().variables().expect("readable");
        assert_eq!(
            Ok(as_libubootenv_prints(&ours)),
            copies.fw_printenv(),
            "{case}"
        );
    }
}

#[test]
fn what_uboot_itself_saved_is_read_in_the_byte_order_of_its_processor() {
    let expected = vector_json("expected-uboot-saved.json");
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
    let copies = Copies::of_case("single-bigendian");
    let bytes = &copies.files()[path_of(&copies.stores[0])];
    let copy = StoredCopy::decode::<BigEndian>(bytes, Kind::Single).expect("made by mkenvimage -b");
    assert_eq!(copy.environment.get("bootcmd"), Some(&b"run ab_boot"[..]));
    if cfg!(target_endian = "big") {
        let here = copies.env().variables().expect("our own byte order");
        assert_eq!(here.get("bootcmd"), Some(&b"run ab_boot"[..]));
    } else {
        let error = copies.env().load().expect_err("the other byte order");
        assert!(
            error.to_string().ends_with("it is in the other byte order"),
            "{error}"
        );
    }
}

#[test]
#[cfg_attr(
    target_endian = "big",
    ignore = "the tools of this machine are for its own byte order"
)]
fn libubootenv_reads_what_we_format_and_what_we_store_and_we_what_it_sets() {
    for count in [1, 2] {
        let copies = Copies::new(&BootState::FACTORY, count);
        let print = |order: &str, a: u8, b: u8| {
            Ok(format!(
                "BOOT_A_LEFT={a}\nBOOT_B_LEFT={b}\nBOOT_ORDER={order}\nbootcmd=run ab\nbootdelay=0\n"
            ))
        };
        assert_eq!(copies.fw_printenv(), print("A B", 9, 0));
        copies.env().store(&ON_TRIAL).expect("stored");
        assert_eq!(copies.fw_printenv(), print("B A", 9, 3));
        copies.fw_setenv("BOOT_B_LEFT", "2");
        assert_eq!(copies.load(), ON_TRIAL.boot().1);
        copies.fw_setenv("BOOT_ORDER", "A B");
        assert_eq!(copies.load().primary, Slot::First);
    }
}

/// Around the end of the counter, too, and alternating with the other writer.
#[test]
#[cfg_attr(
    target_endian = "big",
    ignore = "the tools of this machine are for its own byte order"
)]
fn each_store_replaces_the_older_copy_whoever_wrote_the_newer() {
    for case in [
        "redund-0-newer",
        "redund-254-255",
        "redund-wrap-255-0",
        "redund-128-apart",
        "redund-equal-flags",
    ] {
        let copies = Copies::of_case(case);
        let mut state = BootState::FACTORY;
        for round in 0..6 {
            let (before, flags) = (copies.files(), copies.flags());
            state.conditions[1] = Condition::Trial(round + 1);
            if round % 3 == 2 {
                copies.fw_setenv("BOOT_B_LEFT", &(round + 1).to_string());
            } else {
                copies.env().store(&state).expect("stored");
            }
            assert_eq!(copies.load(), state, "{case}, round {round}");
            let after = copies.files();
            let changed: Vec<_> = after
                .keys()
                .filter(|path| before[*path] != after[*path])
                .collect();
            assert_eq!(changed.len(), 1, "{case}, round {round}");
            let index = copies
                .stores
                .iter()
                .position(|store| path_of(store) == *changed[0])
                .expect("a copy");
            assert_eq!(
                copies.flags()[index],
                flags[1 - index].wrapping_add(1),
                "{case}, round {round}"
            );
        }
    }
}

/// The recorded writes of libubootenv, made by ours instead.
#[test]
#[cfg_attr(
    target_endian = "big",
    ignore = "the tools of this machine are for its own byte order"
)]
fn we_write_to_the_file_that_libubootenv_writes_to_with_the_same_flags() {
    let expected = vector_json("expected.json");
    let mut compared = BTreeSet::new();
    for case in expected["write"].as_array().expect("cases") {
        let name = case["case"].as_str().expect("a name");
        // What is set is the business of `fw_setenv`; where it goes is compared here, once a case.
        if case["argv"][3] != "slot" || name == "full-exact" || !compared.insert(name) {
            continue;
        }
        let (ours, theirs) = (Copies::of_case(name), Copies::of_case(name));
        let before = ours.files();
        let stored = ours.env().store(&BootState::FACTORY);
        let changed: Vec<_> = ours
            .files()
            .into_iter()
            .filter(|(path, bytes)| before[path] != *bytes)
            .map(|(path, _)| Value::from(path.file_name().and_then(|name| name.to_str())))
            .collect();
        assert_eq!(
            Value::from(changed),
            case["libubootenv"]["changed_files"],
            "{name}"
        );
        assert_eq!(
            stored.is_ok(),
            case["libubootenv"]["rc"] == 0,
            "{name}: {stored:?}"
        );
        if let (Ok(()), 2) = (stored, theirs.stores.len()) {
            theirs.fw_setenv("slot", "c");
            assert_eq!(ours.flags(), theirs.flags(), "{name}");
        }
    }
    assert_eq!(compared.len(), 11, "{compared:?}");
}

#[test]
fn all_other_entries_survive_a_store_byte_for_byte_and_in_their_order() {
    for case in [
        "odd-entries",
        "not-sorted",
        "many-vars",
        "long-values",
        "with-flags-var",
        "redund-0-newer",
        "offset",
    ] {
        let copies = Copies::of_case(case);
        let before = copies.env().variables().expect("readable");
        copies.env().store(&ON_TRIAL).expect("stored");
        let after = copies.env().variables().expect("readable");
        let added: [&[u8]; 3] = [b"BOOT_ORDER=B A", b"BOOT_A_LEFT=9", b"BOOT_B_LEFT=3"];
        let expected: Vec<&[u8]> = before.entries().chain(added).collect();
        assert_eq!(after.entries().collect::<Vec<_>>(), expected, "{case}");
    }
}

#[test]
fn variables_are_set_and_removed_in_one_store_and_no_other_entry_moves() {
    for case in ["odd-entries", "many-vars", "redund-wrap-255-0", "offset"] {
        let copies = Copies::of_case(case);
        let before = copies.env().variables().expect("readable");
        let (set, gone) = (Some("4 %20"), None);
        let (_, _, data) = the_write(|| copies.env().change(&[("x-one", set), ("slot", gone)]))
            .expect("one write for both");
        assert!(!data.is_empty());
        let after = copies.env().variables().expect("readable");
        let others = before
            .entries()
            .filter(|entry| !entry.starts_with(b"slot="));
        let expected: Vec<&[u8]> = others.chain([&b"x-one=4 %20"[..]]).collect();
        assert_eq!(after.entries().collect::<Vec<_>>(), expected, "{case}");
        let again = the_write(|| copies.env().change(&[("x-one", set), ("slot", gone)]));
        assert_eq!(again, None, "{case}: there is nothing left to change");
        copies.env().change(&[("x-one", None)]).expect("removed");
        let after = copies.env().variables().expect("readable");
        assert_eq!(after.get("x-one"), None, "{case}");
    }
}

#[test]
fn a_name_or_a_value_that_would_make_other_entries_is_refused_and_nothing_is_written() {
    let copies = Copies::new(&BootState::FACTORY, 2);
    let before = copies.files();
    for (name, value) in [
        ("", Some("1")),
        ("a=b", Some("1")),
        ("a\0b", None),
        ("a", Some("1\0b=2")),
    ] {
        let error = copies.env().change(&[("fine", Some("1")), (name, value)]);
        let error = error.expect_err("no environment can hold it");
        assert!(matches!(error, BootError::Variable { .. }), "{error:?}");
    }
    assert!(copies.files() == before);
}

#[test]
fn what_lies_around_an_environment_is_not_touched() {
    for case in ["offset", "offset-not-aligned", "same-file-two-copies"] {
        let copies = Copies::of_case(case);
        let path = path_of(&copies.stores[0]);
        let before = fs::read(path).expect("readable");
        copies.env().store(&ON_TRIAL).expect("stored");
        let after = fs::read(path).expect("readable");
        assert_eq!(before.len(), after.len());
        for at in 0..before.len() {
            let inside = copies.stores.iter().any(|store| {
                let end = store.offset + store.size.unwrap_or_default();
                (store.offset..end).contains(&(at as u64))
            });
            assert!(
                inside || before[at] == after[at],
                "{case}: byte {at} changed"
            );
        }
    }
}

#[test]
fn an_environment_without_room_is_refused_and_not_written() {
    // full-no-*: libubootenv would write them again without the NUL that ends the list.
    for case in ["full-exact", "full-no-final-nul", "full-no-nul-at-all"] {
        let copies = Copies::of_case(case);
        let before = copies.files();
        let error = copies.env().store(&BootState::FACTORY).expect_err(case);
        assert!(
            matches!(error, BootError::Full { room: 8192, .. }),
            "{case}: {error:?}"
        );
        assert!(copies.files() == before, "{case} was written");
    }
}

#[test]
fn a_bit_that_flips_anywhere_in_one_copy_leaves_the_other_and_the_next_store_heals_it() {
    let copies = Copies::new(&BootState::FACTORY, 2);
    copies.env().store(&ON_TRIAL).expect("stored");
    let whole = copies.files();
    let states = [BootState::FACTORY, ON_TRIAL];
    for (broken, store) in copies.stores.iter().enumerate() {
        let other = states[1 - broken];
        for bit in 0..SIZE * 8 {
            let mut bytes = whole[path_of(store)].clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(path_of(store), &bytes).expect("writable");
            let state = copies.load();
            if bit / 8 == 4 {
                // The counter stands outside the CRC: it decides between two whole copies.
                assert!(
                    states.contains(&state),
                    "bit {bit} of copy {broken}: {state:?}"
                );
            } else {
                assert_eq!(state, other, "bit {bit} of copy {broken}");
            }
        }
        copies
            .env()
            .store(&other)
            .expect("the same state, and the copy that is broken");
        let healed = fs::read(path_of(store)).expect("readable");
        assert!(StoredCopy::decode::<NativeEndian>(&healed, Kind::Redundant).is_ok());
        copies.write(&whole);
    }
}

#[test]
fn two_damaged_copies_are_refused_and_not_written_over() {
    let copies = Copies::new(&BootState::FACTORY, 2);
    for store in &copies.stores {
        let mut bytes = fs::read(path_of(store)).expect("readable");
        bytes[SIZE / 2] ^= 1;
        fs::write(path_of(store), bytes).expect("writable");
    }
    let before = copies.files();
    for result in [
        copies.env().load().map(|_| ()),
        copies.env().store(&ON_TRIAL),
    ] {
        let error = result.expect_err("no copy is whole");
        assert!(matches!(error, BootError::Damaged { .. }), "{error:?}");
    }
    assert!(copies.files() == before);
}

#[test]
fn a_store_that_power_cuts_at_any_byte_leaves_the_old_state_or_the_new() {
    let copies = Copies::new(&BootState::FACTORY, 2);
    let before = copies.files();
    let (path, offset, data) = the_write(|| copies.env().store(&ON_TRIAL)).expect("a write");
    assert_eq!(path, path_of(&copies.stores[1]), "the older copy");
    let offset = usize::try_from(offset).expect("small");
    for cut in 0..=data.len() {
        // The first or the last bytes arrived, or the others are erased.
        let landed = [
            (0..cut, None),
            (cut..data.len(), None),
            (0..cut, Some(0xff)),
            (0..cut, Some(0x00)),
        ];
        for (range, rest) in landed {
            let mut torn = before[&path].clone();
            if let Some(byte) = rest {
                torn.fill(byte);
            }
            torn[offset..][range.clone()].copy_from_slice(&data[range.clone()]);
            fs::write(&path, &torn).expect("writable");
            let state = copies.load();
            assert!(
                state == BootState::FACTORY || state == ON_TRIAL,
                "{range:?}: {state:?}"
            );
            // And from there the same store succeeds.
            copies.env().store(&ON_TRIAL).expect("stored");
            assert_eq!(copies.load(), ON_TRIAL, "{range:?}");
            copies.write(&before);
        }
    }
}

#[test]
fn a_state_that_is_there_already_is_not_written_again() {
    for count in [1, 2] {
        let copies = Copies::new(&BootState::FACTORY, count);
        assert_eq!(the_write(|| copies.env().store(&BootState::FACTORY)), None);
        assert!(the_write(|| copies.env().store(&ON_TRIAL)).is_some());
        assert_eq!(the_write(|| copies.env().store(&ON_TRIAL)), None);
    }
}

#[test]
fn a_copy_that_cannot_be_read_counts_as_damaged_and_a_missing_place_is_named() {
    let copies = Copies::new(&BootState::FACTORY, 2);
    fs::write(path_of(&copies.stores[0]), b"short").expect("writable");
    assert_eq!(copies.load(), BootState::FACTORY);
    let error = copies
        .env()
        .store(&ON_TRIAL)
        .expect_err("there is no room for the copy");
    assert!(
        matches!(&error, BootError::File(error) if error.path == path_of(&copies.stores[0])),
        "{error:?}"
    );
    assert_eq!(copies.load(), BootState::FACTORY);

    fs::remove_file(path_of(&copies.stores[1])).expect("it was there");
    let error = copies
        .env()
        .load()
        .expect_err("a place of the board file does not exist");
    assert!(
        matches!(&error, BootError::File(error) if error.path == path_of(&copies.stores[1])),
        "{error:?}"
    );
}
