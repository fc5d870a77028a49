//! Where power is cut, and what disk and flash may hold then.
//!
//! Files and chips share one order of operations, and one cut: an operation on a chip is torn while
//! files wait in the cache, and files are lost while the chips are as they are.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use sysupgrade_rs::files::trace::Op;

use super::chips::{ChipsState, Operation};
use super::disk::{Disk, Loss};
use super::{Random, SECTOR};
use crate::world::snapshot::Snapshot;

/// In-place writes up to this length, that of a boot environment of GRUB, are torn at every byte
/// they change: such a thing has no harmless place to be torn at.
const SMALL_WRITE: usize = 1024;

/// How often chance decides, per operation.
const RANDOM_LOSSES: usize = 6;

/// What a cut left behind.
pub struct Crash {
    /// The operation that was cut; after the end, their number.
    pub operation: usize,
    /// True if the run had come to its end.
    pub after_the_end: bool,
    /// How it came about, for messages.
    pub story: String,
    /// The disk that the next boot finds.
    pub disk: Snapshot,
    /// The flash that it finds.
    pub chips: ChipsState,
}

/// A recorded run: what there was when it began, and what it did.
pub struct Run<'a> {
    /// Paths of operations begin with this.
    pub root: &'a Path,
    pub disk: &'a Snapshot,
    pub log: &'a [Op],
    pub chips: &'a ChipsState,
    /// What the numbers in `log` that belong to chips mean.
    pub chips_log: &'a [Operation],
}

/// How much of the operation that is cut came to be.
#[derive(Clone, Copy, Debug)]
enum Tear {
    /// Its first bytes.
    Front(usize),
    /// All but its first bytes: disks reorder sectors.
    Back(usize),
}

/// Every disk that a cut in `log` (run on a disk that held `start`) may leave behind, each once; and
/// the number of cuts that led to them.
pub fn cuts(root: &Path, start: &Snapshot, log: &[Op], random: &mut Random) -> (Vec<Crash>, usize) {
    let run = Run {
        root,
        disk: start,
        log,
        chips: &ChipsState::default(),
        chips_log: &[],
    };
    run.cuts(random)
}

impl Run<'_> {
    /// Everything that a cut in it may leave behind, each once; and the number of cuts that led there.
    pub fn cuts(&self, random: &mut Random) -> (Vec<Crash>, usize) {
        let mut seen = Seen {
            run: self,
            fingerprints: HashSet::new(),
            crashes: Vec::new(),
            count: 0,
        };
        let mut disk = Disk::new(self.root, self.disk);
        let mut chips = self.chips.clone();
        for done in 0..=self.log.len() {
            let op = self.log.get(done);
            match op {
                Some(Op::Elsewhere(number)) => {
                    let op = &self.chips_log[at(*number)];
                    seen.cuts_of_chips(done, op, &disk, &chips, random);
                    chips.apply(op);
                }
                _ => seen.cuts_of_files(done, op, &disk, &chips, random),
            }
            if let Some(op) = op {
                disk.apply(op);
            }
        }
        (seen.crashes, seen.count)
    }

    /// Disk and flash when all of it is done and has landed: what the run, too, has to have found.
    pub fn end(&self) -> (Snapshot, ChipsState) {
        let mut disk = Disk::new(self.root, self.disk);
        let mut chips = self.chips.clone();
        for op in self.log {
            disk.apply(op);
            if let Op::Elsewhere(number) = op {
                chips.apply(&self.chips_log[at(*number)]);
            }
        }
        (disk.live(), chips)
    }
}

fn at(number: u64) -> usize {
    usize::try_from(number).expect("an index")
}

/// What was found so far.
struct Seen<'a> {
    run: &'a Run<'a>,
    fingerprints: HashSet<(bool, u64, u64)>,
    crashes: Vec<Crash>,
    count: usize,
}

impl Seen<'_> {
    fn add(&mut self, done: usize, how: fmt::Arguments<'_>, disk: &Snapshot, chips: &ChipsState) {
        let print = disk.fingerprint();
        self.add_known(done, how, disk, print, chips);
    }

    /// The same for a disk whose fingerprint is known: to take it costs more than all else.
    fn add_known(
        &mut self,
        done: usize,
        how: fmt::Arguments<'_>,
        disk: &Snapshot,
        print: u64,
        chips: &ChipsState,
    ) {
        self.count += 1;
        let Run {
            root,
            log,
            chips_log,
            ..
        } = *self.run;
        // After its end the run has promised something: look at those disks again.
        let after_the_end = done == log.len();
        let fingerprint = (after_the_end, print, chips.fingerprint());
        if !self.fingerprints.insert(fingerprint) {
            return;
        }
        let total = log.len();
        let story = match log.get(done) {
            Some(Op::Elsewhere(number)) => {
                let op = &chips_log[at(*number)];
                format!("cut in operation {done} of {total}, {op}; {how}")
            }
            Some(op) => {
                let op = Brief { op, root };
                format!("cut in operation {done} of {total}, {op}; {how}")
            }
            None => format!("cut after all {total} operations; {how}"),
        };
        self.crashes.push(Crash {
            operation: done,
            after_the_end,
            story,
            disk: disk.clone(),
            chips: chips.clone(),
        });
    }

    /// Cuts in an operation on a chip, and before it. What comes after it is before the next one.
    fn cuts_of_chips(
        &mut self,
        done: usize,
        op: &Operation,
        disk: &Disk,
        chips: &ChipsState,
        random: &mut Random,
    ) {
        let mut states = vec![("nothing of it landed".to_owned(), chips.clone())];
        states.append(&mut chips.torn(op, random));
        let mut losses = vec![(Loss::Nothing, "files landed")];
        if !disk.is_settled() {
            losses.push((Loss::Everything, "what was not synced of files is lost"));
        }
        for (loss, lost) in losses {
            let disk = disk.crash(loss);
            let print = disk.fingerprint();
            for (how, state) in &states {
                self.add_known(done, format_args!("{how}; {lost}"), &disk, print, state);
            }
        }
    }

    /// Cuts in an operation on a file, or after the last operation.
    fn cuts_of_files(
        &mut self,
        done: usize,
        op: Option<&Op>,
        disk: &Disk,
        chips: &ChipsState,
        random: &mut Random,
    ) {
        if let Some(Op::Write { path, offset, data }) = op {
            for tear in tears(*offset, data, disk.live_data(path)) {
                let (from, part) = match tear {
                    Tear::Front(end) => (0, &data[..end]),
                    Tear::Back(start) => (start, &data[start..]),
                };
                let torn = Op::Write {
                    path: path.clone(),
                    offset: offset + from as u64,
                    data: part.to_vec(),
                };
                let mut with_tear = disk.clone();
                with_tear.apply(&torn);
                let range = from..from + part.len();
                self.add(
                    done,
                    format_args!("bytes {range:?} of it landed, and all before"),
                    &with_tear.crash(Loss::Nothing),
                    chips,
                );
            }
        }
        let losses = [
            (Loss::Nothing, "all before landed"),
            (Loss::Everything, "what was not synced is lost"),
            (
                Loss::Bytes,
                "bytes that were not synced are lost, names landed",
            ),
            (
                Loss::BytesButLengths,
                "bytes that were not synced are zeros, names landed",
            ),
            (
                Loss::Names,
                "names that were not synced are lost, bytes landed",
            ),
        ];
        for (loss, how) in losses {
            self.add(done, format_args!("{how}"), &disk.crash(loss), chips);
        }
        // A sync that is cut lands a part of what it was to land, and that is chance's work, too.
        let mut asked = disk.clone();
        if let Some(op) = op
            && !matches!(op, Op::Sync { .. })
        {
            asked.apply(op);
        }
        for _ in 0..RANDOM_LOSSES {
            let seed = random.next();
            let landed = asked.crash(Loss::Random(Random(seed)));
            self.add(
                done,
                format_args!("by chance {seed:#x} a part of it and of what was not synced landed"),
                &landed,
                chips,
            );
        }
    }
}

/// Of each operation, one of the disks that a cut in it leaves behind, by chance.
pub fn one_each(crashes: Vec<Crash>, random: &mut Random) -> Vec<Crash> {
    let mut chosen: Vec<Crash> = Vec::new();
    let mut of_this_operation = 0;
    for crash in crashes {
        match chosen.last_mut() {
            Some(last) if last.operation == crash.operation => {
                of_this_operation += 1;
                if random.below(of_this_operation) == 0 {
                    *last = crash;
                }
            }
            _ => {
                of_this_operation = 1;
                chosen.push(crash);
            }
        }
    }
    chosen
}

/// Where a write is torn: after its first byte, in mid-block, in mid-sector, between sectors; a small
/// one that replaces something, at every byte that it changes.
fn tears(offset: u64, new: &[u8], file: &[u8]) -> Vec<Tear> {
    let middle = new.len() / 2;
    let sector = middle - middle % SECTOR;
    let mut tears = vec![
        Tear::Front(1),
        Tear::Front(middle | 1),
        Tear::Front(sector + SECTOR / 2),
        Tear::Front(sector),
        Tear::Back(sector),
        Tear::Back(SECTOR),
    ];
    let old = usize::try_from(offset)
        .ok()
        .and_then(|offset| file.get(offset..));
    if let Some(old) = old
        && new.len() <= SMALL_WRITE
    {
        let changed = |at: &usize| old.get(*at).is_some_and(|byte| *byte != new[*at]);
        tears.extend((0..new.len()).filter(changed).map(Tear::Front));
    }
    tears.retain(|tear| {
        let (Tear::Front(at) | Tear::Back(at)) = tear;
        (1..new.len()).contains(at)
    });
    tears
}

/// The place that an operation changes.
pub fn path_of(op: &Op) -> &Path {
    match op {
        Op::Rename { to: path, .. }
        | Op::Create { path, .. }
        | Op::Write { path, .. }
        | Op::Sync { path }
        | Op::Remove { path }
        | Op::RemoveDir { path }
        | Op::MakeDir { path, .. }
        | Op::Symlink { path, .. }
        | Op::Whiteout { path }
        | Op::SetMode { path, .. } => path,
        Op::Elsewhere(_) => Path::new(""),
    }
}

/// An operation in a few words, without its bytes.
struct Brief<'a> {
    op: &'a Op,
    root: &'a Path,
}

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.op {
            Op::Write { offset, data, .. } => {
                write!(f, "write of {} bytes at {offset} of", data.len())?;
                ""
            }
            Op::Rename { .. } => "rename to",
            Op::Sync { .. } => "sync of",
            Op::Create { .. } => "creation of",
            Op::Remove { .. } | Op::RemoveDir { .. } => "removal of",
            Op::MakeDir { .. } => "new directory",
            Op::Symlink { .. } | Op::Whiteout { .. } => "making of",
            Op::SetMode { .. } => "chmod of",
            Op::Elsewhere(_) => "operation on a chip",
        };
        let path = path_of(self.op);
        let path = path.strip_prefix(self.root).unwrap_or(path);
        write!(f, "{verb} {}", path.display())
    }
}
