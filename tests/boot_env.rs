//! Boot environments, together with the tools that others use on them: `grub-editenv` (grub-common),
//! `fw_printenv` and `fw_setenv` of libubootenv (libubootenv-tool) and U-Boot's own, which `tools/uboot-env`
//! builds. A tool that is not there is a failure.
//!
//! What those tools made of the environments in `vectors/uboot-env` is in `boot_env_vectors.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;
use std::thread;

use byteorder::NativeEndian;
use sysupgrade_rs::board::{self, Board, Place, Store};
use sysupgrade_rs::boot::uboot_env::{Kind, StoredCopy};
use sysupgrade_rs::boot::{BootError, Bootloader, GrubEnv, UbootEnv, fw_env_config};
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

/// Each of two sectors as it was before and as it is after.
fn by_sectors(before: &[u8], after: &[u8]) -> Vec<Vec<u8>> {
    let [old, new] = [before, after].map(|bytes| bytes.split_at(512));
    let mixes = [
        (old.0, old.1),
        (new.0, old.1),
        (old.0, new.1),
        (new.0, new.1),
    ];
    mixes
        .map(|(first, second)| [first, second].concat())
        .to_vec()
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
            true => (Some(BootState::FACTORY), by_sectors(&bytes, &file.read())),
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
        if cfg!(target_endian = "big") && !["single-bigendian", "single-pad00"].contains(&case) {
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

    /// In the system whose root is this directory.
    fn env(&self) -> UbootEnv {
        let root = self.dir.path();
        let below_root = |store: &Store| {
            let path = path_of(store).strip_prefix(root).expect("it is there");
            Store {
                place: Place::Path(Path::new("/").join(path)),
                ..store.clone()
            }
        };
        let stores = self.stores.iter().map(below_root).collect();
        UbootEnv::new(root, stores, names(), Rc::new(Kernel::new(root)))
    }

    /// Writes a file of that system.
    fn lay(&self, path: &str, content: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("there is room");
        fs::write(path, content).expect("there is room");
    }

    /// Makes every copy unreadable.
    fn ruin(&self) {
        for store in &self.stores {
            let mut bytes = fs::read(path_of(store)).expect("readable");
            let at = usize::try_from(store.offset).expect("small") + 20;
            bytes[at] ^= 1;
            fs::write(path_of(store), bytes).expect("writable");
        }
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
    copies.ruin();
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

// Both tools

/// A tool that writes and prints environments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Libubootenv,
    Uboots,
}

/// U-Boot's own `fw_printenv` and `fw_setenv`.
fn uboots_tools() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("uboot-env");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/uboot-env");
        let script = script.to_str().expect("a name");
        must_run(script, &[dir.to_str().expect("a name")], Path::new("/"));
        dir
    })
}

impl Tool {
    fn run(self, copies: &Copies, program: &str, words: &[&str]) -> String {
        let (program, own) = match self {
            Self::Libubootenv => (program.to_owned(), vec![]),
            Self::Uboots => {
                let program = uboots_tools().join(program).display().to_string();
                (program, vec!["-l", "run"])
            }
        };
        let words = own.iter().chain(&["-c", "fw_env.config"]).chain(words);
        let words: Vec<&str> = words.copied().collect();
        must_run(&program, &words, copies.dir.path())
    }

    /// All variables, a line each, sorted.
    fn printed(self, copies: &Copies) -> Vec<String> {
        let text = self.run(copies, "fw_printenv", &[]);
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

/// Copies of a page each with variables of all kinds: in a file each, or one after the other in one file
/// with something around them.
fn copies_for_tools(count: usize, in_one_file: bool) -> Copies {
    const SIZE: usize = 4096;
    let others = [
        ("bootcmd", "if test ${slot} = a; then run a; fi"),
        ("quotes", "'a' \"b\" \\c"),
        ("bytes", "\u{e9}\u{20ac}"),
        ("spaces", " two  blanks "),
        ("equals", "=a=b="),
        ("ethaddr", "02:00:00:00:00:01"),
    ];
    let copies =
        UbootEnv::format::<NativeEndian>(names(), &BootState::FACTORY, &others, SIZE, count);
    let dir = TempDir::new().expect("a temporary directory");
    fs::create_dir(dir.path().join("run")).expect("there is room");
    let mut config = String::new();
    let mut image = vec![0xa5; SIZE];
    for (index, bytes) in copies.expect("it fits").iter().enumerate() {
        if in_one_file {
            config += &format!("flash.bin {:#x} {SIZE:#x} 0x200\n", image.len());
            image.extend(bytes);
        } else {
            fs::write(dir.path().join(format!("env{index}.bin")), bytes).expect("written");
            config += &format!("env{index}.bin 0x0 {SIZE:#x}\n");
        }
    }
    image.extend([0x5a; SIZE]);
    fs::write(dir.path().join("flash.bin"), image).expect("written");
    fs::write(dir.path().join("fw_env.config"), config).expect("written");
    Copies::open(dir)
}

#[test]
#[cfg_attr(
    target_endian = "big",
    ignore = "the tools of this machine are for its own byte order"
)]
fn both_tools_read_what_we_write_and_we_what_each_of_them_writes_round_after_round() {
    for (count, in_one_file) in [(1, false), (2, false), (2, true)] {
        let copies = copies_for_tools(count, in_one_file);
        let others = |lines: &[String]| -> Vec<String> {
            let ours = |line: &&String| line.starts_with("BOOT_") || line.starts_with("round=");
            lines.iter().filter(|line| !ours(line)).cloned().collect()
        };
        let ours = || -> Vec<String> {
            let environment = copies.env().variables().expect("readable");
            let entries = environment.entries();
            let mut lines: Vec<_> = entries
                .map(|entry| String::from_utf8(entry.to_vec()).expect("UTF-8"))
                .collect();
            lines.sort();
            lines
        };
        let foreign = others(&ours());
        assert_eq!(foreign.len(), 6);
        for round in 0..9_u8 {
            let case = format!("{count} copies, in one file: {in_one_file}, round {round}");
            let state = BootState {
                primary: Slot::ALL[usize::from(round) % 2],
                conditions: [Condition::Good, Condition::Trial(round % 7 + 1)],
            };
            match round % 3 {
                0 => copies.env().store(&state).expect("stored"),
                turn => {
                    let tool = [Tool::Libubootenv, Tool::Uboots][usize::from(turn) - 1];
                    let order = ["A B", "B A"][state.primary.index()];
                    let left = (round % 7 + 1).to_string();
                    tool.run(&copies, "fw_setenv", &["BOOT_ORDER", order]);
                    tool.run(&copies, "fw_setenv", &["BOOT_B_LEFT", &left]);
                }
            }
            assert_eq!(copies.load(), state, "{case}");
            let lines = ours();
            for tool in [Tool::Libubootenv, Tool::Uboots] {
                assert_eq!(tool.printed(&copies), lines, "{case}: {tool:?}");
            }
            let number = round.to_string();
            let change = [("round", Some(number.as_str()))];
            copies.env().change(&change).expect("set");
            assert_eq!(others(&ours()), foreign, "{case}");
            assert_eq!(copies.env().flaws().expect("whole"), [""; 0], "{case}");
        }
        if in_one_file {
            let bytes = fs::read(path_of(&copies.stores[0])).expect("readable");
            assert!(bytes[..4096].iter().all(|byte| *byte == 0xa5));
            assert!(bytes[3 * 4096..].iter().all(|byte| *byte == 0x5a));
        }
    }
}

/// The virtual router, but with U-Boot and its environment where `/etc/fw_env.config` says.
fn router() -> Board {
    let text = board::VIRTUAL
        .replace("kind = \"grub-env\"", "kind = \"uboot-env\"")
        .replace(
            "store = [{ path = \"/flash/env\" }]",
            "fw_env_config = \"/etc/fw_env.config\"",
        );
    Board::parse(&text, "board.toml").expect("a board")
}

#[test]
#[ignore = "needs root and a loop device"]
fn on_a_block_device_offsets_may_count_from_its_end_and_both_tools_find_the_same_there() {
    const LEN: usize = 64 << 10;
    const SIZE: usize = 8 << 10;
    let copies = UbootEnv::format::<NativeEndian>(names(), &BootState::FACTORY, &[], SIZE, 2)
        .expect("it fits");
    let dir = TempDir::new().expect("a temporary directory");
    let mut disk = vec![0xa5; LEN - 2 * SIZE];
    disk.extend(copies.concat());
    fs::write(dir.path().join("disk"), disk).expect("written");
    let device = must_run("losetup", &["--find", "--show", "disk"], dir.path());
    let device = device.trim();
    let detach = || must_run("losetup", &["-d", device], dir.path());
    let config = format!("{device} -0x4000 0x2000 0x200\n{device} -8192 0x2000 0x200\n");
    for (path, content) in [("fw_env.config", &config), ("etc/fw_env.config", &config)] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("there is room");
        fs::write(path, content).expect("written");
    }
    for place in ["run", "dev"] {
        fs::create_dir(dir.path().join(place)).expect("there is room");
    }
    let node = dir.path().join(device.trim_start_matches('/'));
    std::os::unix::fs::symlink(device, &node).expect("linked");
    let found = fw_env_config::read(dir.path(), Path::new("/etc/fw_env.config"), &router());
    let stores = found.map(|stores| {
        let stores = stores.into_iter();
        let at_node = |store: Store| Store {
            place: Place::Path(node.clone()),
            ..store
        };
        stores.map(at_node).collect::<Vec<_>>()
    });
    let stores = stores.unwrap_or_else(|error| {
        detach();
        panic!("{error}");
    });
    let offsets: Vec<_> = stores.iter().map(|store| store.offset).collect();
    let copies = Copies { dir, stores };
    let mut seen = Vec::new();
    for round in 0..3_u8 {
        copies.env().store(&ON_TRIAL).expect("stored");
        seen.push(Tool::Libubootenv.printed(&copies) == Tool::Uboots.printed(&copies));
        let left = round.to_string();
        Tool::Uboots.run(&copies, "fw_setenv", &["BOOT_A_LEFT", &left]);
        seen.push(copies.load().conditions[0] == Condition::from_digit(&left).expect("a digit"));
        Tool::Libubootenv.run(&copies, "fw_setenv", &["BOOT_B_LEFT", &left]);
        seen.push(copies.load().conditions[1] == copies.load().conditions[0]);
    }
    must_run("losetup", &["-d", device], copies.dir.path());
    assert_eq!(offsets, [48 << 10, 56 << 10]);
    assert_eq!(seen, [true; 9]);
    let disk = fs::read(copies.dir.path().join("disk")).expect("readable");
    assert!(disk[..LEN - 2 * SIZE].iter().all(|byte| *byte == 0xa5));
}

#[test]
#[cfg_attr(
    target_endian = "big",
    ignore = "the tools of this machine are for its own byte order"
)]
fn none_of_two_writers_at_once_loses_what_the_other_one_has_set() {
    const ROUNDS: usize = 25;
    let copies = copies_for_tools(2, false);
    let theirs = thread::scope(|scope| {
        let theirs = scope.spawn(|| {
            for round in 0..ROUNDS {
                let name = format!("theirs{round}");
                Tool::Uboots.run(&copies, "fw_setenv", &[&name, "1"]);
            }
        });
        for round in 0..ROUNDS {
            let name = format!("ours{round}");
            copies.env().change(&[(&name, Some("1"))]).expect("set");
        }
        theirs.join()
    });
    theirs.expect("the tool works");
    let found = copies.env().variables().expect("readable");
    for round in 0..ROUNDS {
        for name in [format!("ours{round}"), format!("theirs{round}")] {
            assert_eq!(found.get(&name), Some(&b"1"[..]), "{name} is lost");
        }
    }
}

#[test]
fn while_a_tool_holds_its_lock_nothing_is_written_and_we_do_not_wait_for_ever() {
    thread::scope(|scope| {
        for lock in ["var/lock/fw_printenv.lock", "run/fw_printenv.lock"] {
            scope.spawn(move || {
                let copies = Copies::new(&BootState::FACTORY, 2);
                copies.lay(lock, "");
                let held = fs::File::open(copies.dir.path().join(lock)).expect("it is there");
                held.lock().expect("free");
                let before = copies.files();
                for result in [
                    copies.env().store(&ON_TRIAL),
                    copies.env().repair(&ON_TRIAL).map(drop),
                ] {
                    let error = result.expect_err("somebody else is at work");
                    let BootError::Busy { path } = error else {
                        panic!("{error:?}");
                    };
                    assert_eq!(path, copies.dir.path().join(lock));
                }
                assert!(copies.files() == before);
                assert_eq!(copies.load(), BootState::FACTORY, "to read needs no lock");
                held.unlock().expect("it was held");
                copies.env().store(&ON_TRIAL).expect("stored");
            });
        }
    });
}

#[test]
fn two_names_of_one_lock_are_one_lock_and_directories_that_are_missing_stay_so() {
    let copies = Copies::new(&BootState::FACTORY, 2);
    copies.env().store(&ON_TRIAL).expect("stored");
    assert!(!copies.dir.path().join("run").exists());
    assert!(!copies.dir.path().join("var").exists());
    copies.lay("run/here", "");
    fs::create_dir(copies.dir.path().join("var")).expect("there is room");
    std::os::unix::fs::symlink("../run", copies.dir.path().join("var/lock")).expect("linked");
    copies.env().store(&BootState::FACTORY).expect("stored");
    assert!(copies.dir.path().join("run/fw_printenv.lock").exists());
}

// Variables that are not to be changed

#[test]
fn a_variable_that_flags_protect_is_never_changed_and_all_others_are() {
    let copies = Copies::of_case("with-flags-var");
    let before = copies.files();
    let value = |name: &str| {
        let found = copies.env().variables().expect("readable");
        let value = found.get(name).map(<[u8]>::to_vec);
        value.and_then(|value| String::from_utf8(value).ok())
    };
    let (mac, serial) = (value("ethaddr"), value("serial#"));
    assert!(mac.is_some() && value(".flags").is_some());
    for (name, new) in [
        ("ethaddr", Some("02:11:22:33:44:55")),
        ("ethaddr", None),
        ("ethaddr", Some("")),
        ("serial#", serial.as_ref().and(None)),
    ] {
        if name == "serial#" && serial.is_none() {
            continue; // what has no value may be set
        }
        let changes = [("fine", Some("1")), (name, new)];
        for result in [copies.env().change(&changes), copies.env().check(&changes)] {
            let error = result.expect_err(name).to_string();
            assert!(
                error.ends_with(&format!(
                    "variable {name}: is write-once: U-Boot lets nobody change it"
                )),
                "{error}"
            );
        }
        assert!(copies.files() == before, "{name}");
    }
    let same = [("ethaddr", mac.as_deref()), ("fine", Some("1"))];
    copies.env().change(&same).expect("it is what it was");
    copies.env().store(&ON_TRIAL).expect("stored");
    assert_eq!(value("fine").as_deref(), Some("1"));
    assert_eq!(value("ethaddr"), mac);
}

#[test]
fn a_layout_that_would_set_a_protected_variable_is_refused_before_anything_is_written() {
    let layout = "variable = 'serial#'\nvalues = ['1', '2']\n";
    let layout = board::Layout::Switch(Box::new(
        sysupgrade_rs::toml_text::read(layout).expect("a switch"),
    ));
    let copies = Copies::new(&BootState::FACTORY, 2);
    copies
        .env()
        .change(&[("serial#", Some("1"))])
        .expect("it had no value");
    let before = copies.files();
    let mut env = copies.env().with_layout(&layout, 3);
    for result in [
        env.load().map(drop),
        env.flaws().map(drop),
        env.store(&ON_TRIAL),
    ] {
        let error = result.expect_err("it is write-once");
        assert!(
            error.to_string().contains("serial#: is write-once"),
            "{error}"
        );
    }
    assert!(copies.files() == before);
}

#[test]
fn an_empty_value_is_none_as_for_uboot() {
    let copies = Copies::new(&BootState::FACTORY, 2);
    let others = copies.files();
    copies
        .env()
        .change(&[("nothing", Some(""))])
        .expect("there is nothing to set");
    assert!(copies.files() == others);
    copies
        .env()
        .change(&[("bootdelay", Some(""))])
        .expect("removed");
    let found = copies.env().variables().expect("readable");
    assert_eq!(found.get("bootdelay"), None);
    assert_eq!(found.get("bootcmd"), Some(&b"run ab"[..]));
}

// Repair

const INITIAL: &str = "etc/u-boot-initial-env";

#[test]
fn a_damaged_copy_of_two_is_a_flaw_and_a_repair_writes_it_from_the_other_one() {
    for broken in [0, 1] {
        let copies = Copies::new(&BootState::FACTORY, 2);
        copies.env().store(&ON_TRIAL).expect("stored");
        assert_eq!(copies.env().flaws().expect("whole"), [""; 0]);
        let path = path_of(&copies.stores[broken]).to_owned();
        let mut bytes = fs::read(&path).expect("readable");
        bytes[SIZE - 1] ^= 0x80;
        fs::write(&path, bytes).expect("writable");
        let state = copies.load();
        let flaws = copies.env().flaws().expect("the other one is whole");
        let begin = format!("the copy in {} is damaged: its CRC is ", path.display());
        assert!(
            flaws.len() == 1 && flaws[0].starts_with(&begin),
            "{flaws:?}"
        );
        let done = copies.env().repair(&state).expect("repaired");
        assert!(done.len() == 1 && done[0].starts_with(&begin), "{done:?}");
        assert_eq!(copies.env().flaws().expect("whole"), [""; 0]);
        assert_eq!(copies.load(), state);
        let [first, second] = [0, 1].map(|at| {
            let bytes = fs::read(path_of(&copies.stores[at])).expect("readable");
            let copy = StoredCopy::decode::<NativeEndian>(&bytes, Kind::Redundant);
            copy.expect("whole").environment
        });
        assert_eq!(first, second);
    }
}

#[test]
#[cfg_attr(
    target_endian = "big",
    ignore = "the tools of this machine are for its own byte order"
)]
fn an_unreadable_pair_is_repaired_from_the_initial_environment_or_not_at_all() {
    for count in [1, 2] {
        let copies = Copies::new(&ON_TRIAL, count);
        copies.ruin();
        let before = copies.files();
        for (initial, expected) in [
            (
                None,
                "no copy is whole, and there is no /etc/u-boot-initial-env",
            ),
            (Some("bootdelay=2\nbootcmd=\n"), "has no `bootcmd`"),
            (
                Some("bootcmd=run x\nnonsense\n"),
                "line 2 of /etc/u-boot-initial-env is no",
            ),
            (
                Some("bootcmd=run x\n=y\n"),
                "line 2 of /etc/u-boot-initial-env is no",
            ),
            (
                Some("bootcmd=run\0x\n"),
                "line 1 of /etc/u-boot-initial-env is no",
            ),
        ] {
            if let Some(text) = initial {
                copies.lay(INITIAL, text);
            }
            let error = copies
                .env()
                .repair(&BootState::FACTORY)
                .expect_err(expected);
            assert!(matches!(error, BootError::Irreparable { .. }), "{error:?}");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(copies.files() == before, "{expected}");
        }
        copies.lay(
            INITIAL,
            "# built so\r\nbootcmd=run ab\r\n\nempty=\neq=a=b\n",
        );
        let (done, ops) = trace::record(|| copies.env().repair(&BootState::FACTORY));
        assert_eq!(done.expect("repaired").len(), count + 1);
        let whole = copies.files();
        assert_eq!(copies.load(), BootState::FACTORY);
        assert_eq!(copies.env().flaws().expect("whole"), [""; 0]);
        let listed = "BOOT_A_LEFT=9\nBOOT_B_LEFT=0\nBOOT_ORDER=A B\nbootcmd=run ab\neq=a=b\n";
        assert_eq!(copies.fw_printenv().as_deref(), Ok(listed));
        cut_repair(&copies, &before, &ops);
        copies.write(&whole);
        copies.env().store(&ON_TRIAL).expect("stored");
        assert_eq!(copies.load(), ON_TRIAL);
    }
}

/// Cuts a repair at every byte of its writes: what is found is unreadable still, or repaired.
fn cut_repair(copies: &Copies, before: &BTreeMap<PathBuf, Vec<u8>>, ops: &[Op]) {
    let mut files = before.clone();
    let mut seen = [0; 2];
    for op in ops {
        let Op::Write { path, offset, data } = op else {
            continue;
        };
        let at = usize::try_from(*offset).expect("small");
        for cut in 0..=data.len() {
            let mut torn = files.clone();
            let bytes = torn.get_mut(path).expect("a copy");
            bytes[at..at + cut].copy_from_slice(&data[..cut]);
            copies.write(&torn);
            match copies.env().load() {
                Ok(state) => assert_eq!(state, BootState::FACTORY),
                Err(error) => assert!(matches!(error, BootError::Damaged { .. }), "{error:?}"),
            }
            seen[usize::from(copies.env().load().is_ok())] += 1;
        }
        let bytes = files.get_mut(path).expect("a copy");
        bytes[at..at + data.len()].copy_from_slice(data);
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

#[test]
fn what_is_whole_in_another_form_is_not_repaired_whatever_the_board_file_says() {
    let other_order = match cfg!(target_endian = "little") {
        true => "single-bigendian",
        false => "single-pad00",
    };
    for (case, form) in [
        ("single-read-as-redund", "as one that stands alone"),
        ("redund-read-as-single", "as one of two"),
        (other_order, "in the other byte order"),
    ] {
        let copies = Copies::of_case(case);
        copies.lay(INITIAL, "bootcmd=run ab\n");
        let before = copies.files();
        let error = copies.env().repair(&BootState::FACTORY).expect_err(case);
        assert!(matches!(error, BootError::Irreparable { .. }), "{error:?}");
        let problem = format!(" is whole {form}: correct the board file");
        assert!(error.to_string().contains(&problem), "{error}");
        assert!(copies.files() == before, "{case} was written");
    }
}

#[test]
fn a_state_that_was_lost_from_a_whole_environment_is_stored_by_a_repair_and_all_else_stays() {
    let copies = Copies::of_case("many-vars");
    let before = copies.env().variables().expect("readable");
    assert!(copies.env().load().is_err() && copies.env().flaws().is_err());
    copies.env().repair(&ON_TRIAL).expect("repaired");
    assert_eq!(copies.load(), ON_TRIAL);
    let after = copies.env().variables().expect("readable");
    assert!(
        before
            .entries()
            .all(|entry| after.entries().any(|kept| kept == entry))
    );
}
