//! Boot states in attribute bits of GPT partitions, together with the tools that others use on them:
//! `cgpt` (ChromeOS) and `sgdisk` (gdisk). A tool that is not installed is a failure.
//!
//! No boot loader of Debian goes by these bits. The two that do are played by [`gpt::Loader`], from what
//! their sources say.

#[path = "world/gpt.rs"]
mod gpt;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpt::{DATA, KERNEL, Loader};
use sysupgrade_rs::boot::{BootError, Bootloader, GptAttributes};
use sysupgrade_rs::files::trace::{self, Op};
use sysupgrade_rs::slots::{BootState, Condition, MAX_TRIES, Slot};
use tempfile::TempDir;

const ON_TRIAL: BootState = BootState {
    primary: Slot::Second,
    conditions: [Condition::Good, Condition::Trial(3)],
};

/// Attribute bits that are not ours: required, legacy BIOS bootable, and both ends of the type's own.
const FOREIGN: u64 = 0xfe00_8000_0000_0007;

fn names() -> [String; 2] {
    ["KERN-A".to_owned(), "KERN-B".to_owned()]
}

/// Every state there can be, reachable or not.
fn all_states() -> Vec<BootState> {
    let trials = (1..=MAX_TRIES).map(Condition::Trial);
    let conditions: Vec<_> = trials
        .chain([Condition::Good, Condition::Unbootable])
        .collect();
    let mut states = Vec::new();
    for primary in Slot::ALL {
        for a in &conditions {
            for b in &conditions {
                let conditions = [*a, *b];
                states.push(BootState {
                    primary,
                    conditions,
                });
            }
        }
    }
    states
}

/// Attributes with these fields, and foreign bits.
fn bits(priority: u64, tries: u64, successful: u64) -> u64 {
    FOREIGN | priority << 48 | tries << 52 | successful << 56
}

/// A disk as ChromeOS has it, roughly: `KERN-A` runs.
fn factory(sector: usize) -> Vec<u8> {
    gpt::disk(
        sector,
        &[
            ("STATE", DATA, FOREIGN),
            ("KERN-A", KERNEL, bits(1, 0, 1)),
            ("ROOT-A", DATA, 0),
            ("KERN-B", KERNEL, bits(0, 15, 0)),
            ("KERN-C", KERNEL, bits(0, 15, 0)),
        ],
    )
}

/// A file `disk` in a directory of its own.
struct File {
    dir: TempDir,
}

impl File {
    fn new(bytes: &[u8]) -> Self {
        // In memory, if the system has such a place: there are thousands of syncs.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| TempDir::new());
        let file = Self {
            dir: dir.expect("a temporary directory"),
        };
        file.write(bytes);
        file
    }

    /// A disk of 1 MiB that `sgdisk` and `cgpt` have made.
    fn of_tools() -> Self {
        let file = Self::new(&vec![0; 1 << 20]);
        let state = ["-a1", "-n1:64:127", "-c1:STATE"];
        let a = ["-n2:128:191", "-c2:KERN-A", "-t2:7f00"];
        let b = ["-n4:192:255", "-c4:KERN-B", "-t4:7f00"];
        file.sgdisk(&[state, a, b].concat());
        file.cgpt(&["add", "-i", "2", "-P", "1", "-T", "0", "-S", "1"]);
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn read(&self) -> Vec<u8> {
        fs::read(self.path()).expect("disk is readable")
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).expect("disk is writable");
    }

    fn boot(&self) -> GptAttributes {
        GptAttributes::new(self.path(), names())
    }

    fn load(&self) -> BootState {
        self.boot().load().unwrap_or_else(|error| panic!("{error}"))
    }

    fn store(&self, state: &BootState) {
        let stored = self.boot().store(state);
        stored.unwrap_or_else(|error| panic!("{state:?}: {error}"));
    }

    fn flaws(&self) -> Vec<String> {
        let flaws = self
            .boot()
            .flaws()
            .unwrap_or_else(|error| panic!("{error}"));
        let name = format!("{}: ", self.path().display());
        let flaws = flaws.into_iter();
        flaws.map(|flaw| flaw.replace(&name, "")).collect()
    }

    /// Why it cannot be read, without the name of the file.
    fn problem(&self) -> String {
        let error = self.boot().load().expect_err("this is to be refused");
        let name = format!("{}: ", self.path().display());
        error.to_string().replace(&name, "")
    }

    fn cgpt(&self, args: &[&str]) -> String {
        run("cgpt", args, &self.path())
    }

    fn sgdisk(&self, args: &[&str]) -> String {
        run("/usr/sbin/sgdisk", args, &self.path())
    }

    /// What `cgpt` reads of KERN-A and KERN-B: priority, tries, successful.
    fn cgpt_bits(&self) -> [[u8; 3]; 2] {
        let told = self.cgpt(&["show"]);
        let lines = told
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Attr: "));
        let bits: Vec<[u8; 3]> = lines
            .map(|line| {
                let numbers: Vec<u8> = line
                    .split(|char: char| !char.is_ascii_digit())
                    .filter_map(|number| number.parse().ok())
                    .collect();
                numbers.try_into().expect(line)
            })
            .collect();
        bits.try_into().expect(&told)
    }

    /// Both tools find nothing wrong.
    fn assert_sound(&self) {
        let report = self.sgdisk(&["-v"]);
        assert!(report.contains("No problems found"), "{report}");
        let report = self.cgpt(&["show", "-v"]);
        assert!(!report.contains("INVALID"), "{report}");
    }
}

/// Runs a tool on a disk; its standard output.
fn run(program: &str, args: &[&str], disk: &Path) -> String {
    let output = Command::new(program).args(args).arg(disk).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let [told, complained] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(
        output.status.success(),
        "{program} {args:?}: {told}{complained}"
    );
    told
}

/// Boots again and again, as long as that changes anything, and compares what boots and what is left
/// with the model.
fn assert_boots_as_the_model(file: &File, loader: Loader, sector: usize, partitions: [usize; 2]) {
    for _ in 0..=2 * MAX_TRIES {
        let state = file.load();
        let (slot, after) = state.boot();
        let mut disk = file.read();
        let booted = loader.boot(&mut disk, sector);
        file.write(&disk);
        if state.condition(slot) == Condition::Unbootable {
            assert_eq!(booted, None, "{loader:?} of {state:?}: there is none");
            return;
        }
        let expected = Some(partitions[slot.index()]);
        assert_eq!(booted, expected, "{loader:?} of {state:?}");
        let found = file.load();
        // Where neither can boot any more, no priority says which was the first.
        let is_over = after.conditions == [Condition::Unbootable; 2];
        assert!(
            found == after || is_over && found.conditions == after.conditions,
            "{loader:?} of {state:?}: {found:?}"
        );
        if after == state {
            return;
        }
    }
    panic!("{loader:?} has booted a trial more often than there are tries");
}

#[test]
fn every_state_is_read_back_and_both_boot_loaders_boot_what_the_model_says_to_the_end() {
    let in_order = (factory(512), [1, 3]);
    let reversed = gpt::disk(
        512,
        &[("KERN-B", KERNEL, 0), ("KERN-A", KERNEL, bits(1, 0, 1))],
    );
    for (disk, partitions) in [in_order, (reversed, [1, 0])] {
        let file = File::new(&disk);
        for state in all_states() {
            for loader in Loader::ALL {
                file.write(&disk);
                file.store(&state);
                assert_eq!(file.load(), state);
                assert_boots_as_the_model(&file, loader, 512, partitions);
            }
        }
    }
}

#[test]
fn cgpt_and_sgdisk_read_what_was_stored_and_find_nothing_wrong() {
    let file = File::of_tools();
    for state in all_states() {
        file.store(&state);
        let expected = Slot::ALL.map(|slot| match state.condition(slot) {
            Condition::Good => [0, 1],
            Condition::Trial(left) => [left, 0],
            Condition::Unbootable => [0, 0],
        });
        let [a, b] = file.cgpt_bits();
        assert_eq!([[a[1], a[2]], [b[1], b[2]]], expected, "{state:?}");
        let higher = match a[0] > b[0] {
            true => Slot::First,
            false => Slot::Second,
        };
        assert_eq!(higher, state.primary, "{state:?}: {a:?} {b:?}");
    }
    file.store(&ON_TRIAL);
    file.assert_sound();
    // 14, no tries, successful; 15, three tries, not successful.
    for (partition, flags) in [("-i2", "010E000000000000"), ("-i4", "003F000000000000")] {
        let told = file.sgdisk(&[partition]);
        assert!(
            told.contains(&format!("Attribute flags: {flags}")),
            "{told}"
        );
    }
}

#[test]
fn what_cgpt_and_the_boot_loaders_have_written_is_read_as_they_mean_it() {
    use Condition::{Good, Trial, Unbootable};
    use Slot::{First, Second};
    let file = File::of_tools();
    // Priority, tries and successful of both; what they are read as.
    for (a, b, primary, conditions) in [
        // As it leaves a factory of ChromeOS: on a USB stick, and installed.
        ([15, 15, 0], [0, 15, 0], First, [Trial(7), Unbootable]),
        ([1, 0, 1], [0, 0, 0], First, [Good, Unbootable]),
        // Bottlerocket's `signpost`: upgrade-to-inactive, and after the try that GRUB counted.
        ([1, 0, 1], [2, 1, 0], Second, [Good, Trial(1)]),
        ([1, 0, 1], [2, 0, 0], Second, [Good, Unbootable]),
        // Our trial, after the last try that ChromeOS counted, or of a kernel that it did not accept.
        ([14, 0, 1], [0, 0, 0], Second, [Good, Unbootable]),
        ([0, 0, 0], [14, 0, 1], First, [Unbootable, Good]),
        // Tries that are left of a trial that was a success do not count; nor does anything at 0.
        ([2, 3, 1], [1, 6, 0], First, [Good, Trial(6)]),
        ([2, 0, 1], [0, 3, 1], First, [Good, Unbootable]),
        // Of equal ones the first in the table.
        ([3, 0, 1], [3, 0, 1], First, [Good, Good]),
    ] {
        for (partition, fields) in [("2", a), ("4", b)] {
            let [p, t, s] = fields.map(|field: u8| field.to_string());
            file.cgpt(&["add", "-i", partition, "-P", &p, "-T", &t, "-S", &s]);
        }
        let expected = BootState {
            primary,
            conditions,
        };
        assert_eq!(file.load(), expected, "{a:?} {b:?}");
    }
    file.cgpt(&["add", "-i", "4", "-P", "1", "-T", "5", "-S", "0"]);
    file.cgpt(&["prioritize", "-i", "4"]);
    let state = file.load();
    assert_eq!((state.primary, state.condition(Second)), (Second, Trial(5)));
    // Bits 48 to 56 by number.
    file.sgdisk(&[
        "-A2:=:0100000000000000",
        "-A2:set:50",
        "-A4:=:0",
        "-A4:set:49",
        "-A4:set:53",
    ]);
    let expected = BootState {
        primary: First,
        conditions: [Good, Trial(2)],
    };
    assert_eq!(file.load(), expected);
}

#[test]
fn nothing_changes_but_the_bits_of_two_partitions_and_the_checksums() {
    for sector in [512, 4096] {
        let before = factory(sector);
        let file = File::new(&before);
        file.store(&ON_TRIAL);
        let after = file.read();
        let changed: BTreeSet<usize> = (0..before.len())
            .filter(|at| before[*at] != after[*at])
            .collect();
        let last = before.len() - sector;
        let mut ours = BTreeSet::new();
        for (header, entries) in [(sector, 2 * sector), (last, last - gpt::ENTRIES)] {
            ours.extend(header + 16..header + 20);
            ours.extend(header + 88..header + 92);
            for number in [1, 3] {
                ours.extend([54, 55].map(|byte| entries + number * 128 + byte));
            }
        }
        assert!(changed.is_subset(&ours), "{sector}: {changed:?}");
        assert_eq!(file.load(), ON_TRIAL);
        assert_eq!(gpt::whole(&after, sector), [true, true]);
        // The bits of others, beside ours.
        for number in [1, 3] {
            let at = 2 * sector + number * 128 + 48;
            let attributes = u64::from_le_bytes(after[at..at + 8].try_into().expect("8 bytes"));
            assert_eq!(attributes & !(0x1ff << 48), FOREIGN, "partition {number}");
        }
    }
}

#[test]
fn storing_what_is_there_writes_nothing() {
    let file = File::new(&factory(512));
    file.store(&ON_TRIAL);
    let (stored, log) = trace::record(|| file.boot().store(&ON_TRIAL));
    stored.expect("stored");
    let is_write = |op: &&Op| matches!(op, Op::Write { .. });
    assert_eq!(log.iter().find(is_write), None);
    assert!(log.iter().any(|op| matches!(op, Op::Sync { .. })));
}

/// The disks that a cut in these writes can leave behind: what was synced is there; of the write that
/// waits, any of the sectors, and the one in the middle torn.
fn cuts(disk: &[u8], log: &[Op]) -> Vec<Vec<u8>> {
    let mut durable = disk.to_vec();
    let mut live = disk.to_vec();
    let mut found = Vec::new();
    for op in log {
        match op {
            Op::Write { offset, data, .. } => {
                let start = usize::try_from(*offset).expect("a small disk");
                live[start..start + data.len()].copy_from_slice(data);
                let sectors: Vec<usize> = (start / 512..=(start + data.len() - 1) / 512).collect();
                let differs = |at: &usize| durable[*at] != live[*at];
                // Any sectors of those that change: a few.
                let dirty: Vec<usize> = sectors
                    .into_iter()
                    .filter(|sector| (sector * 512..(sector + 1) * 512).any(|at| differs(&at)))
                    .collect();
                assert!(dirty.len() <= 4, "{dirty:?}");
                for landed in 0..1_u32 << dirty.len() {
                    let mut cut = durable.clone();
                    for (bit, sector) in dirty.iter().enumerate() {
                        if landed >> bit & 1 == 1 {
                            let range = sector * 512..(sector + 1) * 512;
                            cut[range.clone()].copy_from_slice(&live[range]);
                        }
                    }
                    found.push(cut);
                }
                // Within a sector, at each byte that changes, from either side.
                for at in (start..start + data.len()).filter(differs) {
                    let mut front = durable.clone();
                    front[start..=at].copy_from_slice(&live[start..=at]);
                    found.push(front);
                    let mut back = durable.clone();
                    let end = start + data.len();
                    back[at..end].copy_from_slice(&live[at..end]);
                    found.push(back);
                }
            }
            Op::Sync { .. } => durable.clone_from(&live),
            other => panic!("{other:?} of a disk"),
        }
    }
    found.push(live);
    found
}

#[test]
fn a_cut_anywhere_leaves_the_old_state_or_the_new_one_for_us_and_for_both_boot_loaders() {
    let file = File::new(&factory(512));
    let mut count = 0;
    let good = BootState {
        primary: Slot::Second,
        conditions: [Condition::Good, Condition::Good],
    };
    let story = [BootState::FACTORY, ON_TRIAL, ON_TRIAL.boot().1, good];
    let damage: [&[usize]; 3] = [&[], &[512 + 60], &[factory(512).len() - 400]];
    for pair in story.windows(2) {
        let [old, new] = [pair[0], pair[1]];
        for flips in damage {
            file.write(&factory(512));
            file.store(&old);
            let mut before = file.read();
            flips.iter().for_each(|at| before[*at] ^= 1);
            file.write(&before);
            let (stored, log) = trace::record(|| file.boot().store(&new));
            stored.expect("one of two copies is whole");
            for disk in cuts(&before, &log) {
                count += 1;
                file.write(&disk);
                let state = file.load();
                assert!(
                    state == old || state == new,
                    "{state:?} between {old:?} and {new:?}"
                );
                for loader in Loader::ALL {
                    let booted = loader.boot(&mut disk.clone(), 512);
                    let expected = [1, 3][state.boot().0.index()];
                    assert_eq!(booted, Some(expected), "{loader:?} of {state:?}");
                }
                file.store(&new);
                assert_eq!(file.load(), new);
                assert_eq!(file.flaws(), [""; 0]);
                assert_eq!(gpt::whole(&file.read(), 512), [true, true]);
            }
        }
    }
    assert!(count > 400, "only {count} cuts");
}

#[test]
fn the_primary_counts_where_the_two_differ_and_that_is_told_and_mended() {
    let file = File::new(&factory(512));
    file.store(&ON_TRIAL);
    let new = file.read();
    let old = factory(512);
    let middle = old.len() / 2;
    for (primary, backup, expected) in [(&old, &new, BootState::FACTORY), (&new, &old, ON_TRIAL)] {
        file.write(&[&primary[..middle], &backup[middle..]].concat());
        assert_eq!(file.load(), expected);
        let flaw =
            "the backup of the partition table is another one than the primary, which counts";
        assert_eq!(file.flaws(), [flaw]);
        let done = file.boot().repair(&expected).expect("repaired");
        assert!(
            done[0].ends_with(&format!("{flaw}; both copies were written anew")),
            "{done:?}"
        );
        assert_eq!(file.load(), expected);
        assert_eq!(file.flaws(), [""; 0]);
        assert_eq!(
            file.boot().repair(&expected).expect("nothing to do"),
            [""; 0]
        );
    }
}

#[test]
fn a_flipped_bit_anywhere_in_one_copy_leaves_the_other_and_is_told() {
    for sector in [512, 4096] {
        let file = File::new(&factory(sector));
        file.store(&ON_TRIAL);
        let sound = file.read();
        let last = sound.len() - sector;
        let of_header = |start: usize| start..start + 92;
        let of_entries = |start: usize| (start..start + gpt::ENTRIES).step_by(97);
        let primary: Vec<usize> = of_header(sector).chain(of_entries(2 * sector)).collect();
        let backup: Vec<usize> = of_header(last)
            .chain(of_entries(last - gpt::ENTRIES))
            .collect();
        for (places, copy) in [(primary, "the primary"), (backup, "the backup")] {
            for at in places {
                let mut disk = sound.clone();
                disk[at] ^= 0x10;
                file.write(&disk);
                assert_eq!(file.load(), ON_TRIAL, "byte {at}");
                let flaws = file.flaws();
                assert!(flaws[0].starts_with(copy), "byte {at}: {flaws:?}");
                if at % 7 == 0 {
                    file.store(&ON_TRIAL);
                    assert_eq!(file.read(), sound, "byte {at}");
                }
            }
        }
        let mut disk = sound.clone();
        disk[sector + 20] ^= 1;
        disk[last + 20] ^= 1;
        file.write(&disk);
        let problem = file.problem();
        assert!(problem.starts_with("no partition table: "), "{problem}");
        let repaired = file.boot().repair(&ON_TRIAL);
        assert!(
            matches!(repaired, Err(BootError::Irreparable { .. })),
            "{repaired:?}"
        );
        assert_eq!(file.read(), disk);
    }
}

#[test]
fn cgpt_reads_and_repairs_the_same_of_a_damaged_table() {
    let file = File::of_tools();
    file.store(&ON_TRIAL);
    let sound = file.read();
    for at in [
        512 + 20,
        1024 + 128,
        sound.len() - 500,
        sound.len() - 16 * 1024,
    ] {
        let mut disk = sound.clone();
        disk[at] ^= 1;
        file.write(&disk);
        assert_eq!(file.load(), ON_TRIAL);
        assert_eq!(file.cgpt_bits()[1], [15, 3, 0], "byte {at}");
        file.store(&ON_TRIAL);
        assert_eq!(file.read(), sound);
        file.write(&disk);
        file.cgpt(&["repair"]);
        assert_eq!(file.read(), sound, "byte {at}: by cgpt");
    }
}

#[test]
fn a_table_whose_backup_is_not_at_the_end_of_the_disk_is_refused_until_it_is_moved() {
    let file = File::of_tools();
    file.store(&ON_TRIAL);
    let mut disk = file.read();
    disk.resize(2 << 20, 0);
    file.write(&disk);
    let problem = "the backup of the partition table is not at the end of the disk; `sgdisk -e` moves it there";
    assert_eq!(file.problem(), problem);
    file.boot().store(&BootState::FACTORY).expect_err(problem);
    assert_eq!(file.read(), disk);
    file.sgdisk(&["-e"]);
    assert_eq!(file.load(), ON_TRIAL);
    assert_eq!(file.flaws(), [""; 0]);
}

#[test]
fn a_loader_in_the_place_of_lost_entries_is_not_written_over() {
    let mut disk = factory(512);
    // The header is lost, and at sector 16 is what an Allwinner processor starts.
    disk[512..1024].fill(0);
    disk[16 * 512..24 * 512].fill(0xea);
    let file = File::new(&disk);
    assert_eq!(file.load(), BootState::FACTORY);
    let error = file.boot().store(&ON_TRIAL).expect_err("a loader is there");
    assert!(matches!(error, BootError::Irreparable { .. }), "{error}");
    assert_eq!(file.read(), disk, "nothing was written");
    // Zeros are nobody's.
    disk[1024..34 * 512].fill(0);
    file.write(&disk);
    file.store(&ON_TRIAL);
    assert_eq!(gpt::whole(&file.read(), 512), [true, true]);
}

#[test]
fn entries_that_lie_further_on_stay_there() {
    let file = File::of_tools();
    file.sgdisk(&["-j20"]);
    file.store(&ON_TRIAL);
    let before = file.read();
    file.assert_sound();
    let mut torn = before.clone();
    torn[20 * 512 + 300] ^= 1;
    file.write(&torn);
    file.store(&ON_TRIAL);
    assert_eq!(file.read(), before);
}

#[test]
fn a_disk_without_the_two_partitions_or_with_a_third_that_boots_is_refused() {
    let a = ("KERN-A", KERNEL, bits(1, 0, 1));
    let b = ("KERN-B", KERNEL, 0);
    let type_of_none = [0; 16];
    for (partitions, expected) in [
        (vec![a], "there is no partition KERN-B"),
        (
            vec![a, ("KERN-B", type_of_none, 0)],
            "there is no partition KERN-B",
        ),
        (
            vec![a, ("KERN-B2", KERNEL, 0)],
            "there is no partition KERN-B",
        ),
        (vec![a, b, a], "two partitions are named KERN-A"),
        (
            vec![a, ("KERN-B", DATA, 0)],
            "partitions KERN-A and KERN-B are of different types: a boot loader looks at one of them",
        ),
        (
            vec![a, b, ("KERN-C\u{202e}", KERNEL, bits(1, 1, 0))],
            "partition 3 (KERN-C\\u{202e}) is bootable, too; `cgpt add -i 3 -P 0 -T 0 -S 0` changes that",
        ),
    ] {
        assert_eq!(File::new(&gpt::disk(512, &partitions)).problem(), expected);
    }
    for (bytes, expected) in [
        (vec![], "it is too small for a partition table"),
        (vec![0; 2048], "it is too small for a partition table"),
        (
            vec![0; 1 << 20],
            "no partition table: there is no header; nor a backup at its end: there is no header",
        ),
    ] {
        assert_eq!(File::new(&bytes).problem(), expected);
    }
}

#[test]
fn a_header_that_lies_is_no_header_however_right_its_checksum() {
    let sound = factory(512);
    let file = File::new(&sound);
    let last = sound.len() / 512 - 1;
    let lie = |at: usize, value: &[u8]| {
        let mut disk = sound.clone();
        disk[last * 512..].fill(0);
        let header = &mut disk[512..1024];
        header[at..at + value.len()].copy_from_slice(value);
        gpt::seal(header);
        disk
    };
    let numbers = [0, 1, 2, 3, 33, 34, 91, 127, 128, 513, 1 << 31, u64::MAX];
    let mut refused = 0;
    // Length; own sector, first and last usable sector, entries; number of entries and size of one.
    for (at, width) in [
        (12, 4),
        (24, 8),
        (40, 8),
        (48, 8),
        (72, 8),
        (80, 4),
        (84, 4),
    ] {
        for number in numbers {
            let disk = lie(at, &number.to_le_bytes()[..width]);
            if disk[512..1024] == sound[512..1024] {
                continue;
            }
            file.write(&disk);
            // A smaller limit may be true; whatever is said, nothing beyond the disk is read.
            if file.boot().load().is_err() {
                refused += 1;
            }
        }
    }
    assert!(refused >= 60, "only {refused} lies were refused");
}

/// A block device over a file, which goes with it.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").args(["--detach", &self.0]).status();
        assert!(detached.is_ok_and(|status| status.success()), "{}", self.0);
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_block_device_says_how_long_its_sectors_are_and_the_tools_agree() {
    for sector in ["512", "4096"] {
        let file = File::new(&vec![0; 8 << 20]);
        let args = ["--find", "--show", "--sector-size", sector];
        let device = Loop(run("losetup", &args, &file.path()).trim().to_owned());
        let path = Path::new(&device.0);
        let a = ["-a1", "-n1:64:127", "-c1:KERN-A", "-t1:7f00"];
        let b = ["-n2:128:191", "-c2:KERN-B", "-t2:7f00"];
        run("/usr/sbin/sgdisk", &[&a[..], &b].concat(), path);
        let mut boot = GptAttributes::new(path.to_owned(), names());
        boot.store(&ON_TRIAL).expect("stored");
        assert_eq!(boot.load().expect("whole"), ON_TRIAL);
        assert_eq!(boot.flaws().expect("whole"), [""; 0]);
        assert_eq!(run("cgpt", &["show", "-i", "2", "-T"], path).trim(), "3");
        let report = run("/usr/sbin/sgdisk", &["-v"], path);
        assert!(report.contains("No problems found"), "{report}");
    }
}
