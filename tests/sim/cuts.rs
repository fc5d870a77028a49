//! Where power is cut, and what the medium may hold then.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use sysupgrade_rs::files::trace::Op;

use super::disk::{Disk, Loss};
use super::{Random, SECTOR};
use crate::world::snapshot::Snapshot;

/// In-place writes up to this length, that of a boot environment of GRUB, are torn at every byte
/// they change: such a thing has no harmless place to be torn at.
const SMALL_WRITE: usize = 1024;

/// How often chance decides, per operation.
const RANDOM_LOSSES: usize = 6;

/// A disk that a cut left behind.
pub struct Crash {
    /// The operation that was cut; after the end, their number.
    pub operation: usize,
    /// True if the run had come to its end.
    pub after_the_end: bool,
    /// How it came about, for messages.
    pub story: String,
    /// What the next boot finds.
    pub disk: Snapshot,
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
    let mut seen = HashSet::new();
    let mut crashes = Vec::new();
    let mut count = 0;
    let mut disk = Disk::new(root, start);
    for done in 0..=log.len() {
        let op = log.get(done);
        let mut add = |how: fmt::Arguments<'_>, content: Snapshot| {
            count += 1;
            // After its end the run has promised something: look at those disks again.
            let after_the_end = op.is_none();
            if seen.insert((after_the_end, content.fingerprint())) {
                let story = match op {
                    Some(op) => format!(
                        "cut in operation {done} of {}, {}; {how}",
                        log.len(),
                        Brief { op, root }
                    ),
                    None => format!("cut after all {} operations; {how}", log.len()),
                };
                crashes.push(Crash {
                    operation: done,
                    after_the_end,
                    story,
                    disk: content,
                });
            }
        };
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
                add(
                    format_args!("bytes {range:?} of it landed, and all before"),
                    with_tear.crash(Loss::Nothing),
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
            add(format_args!("{how}"), disk.crash(loss));
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
            add(
                format_args!("by chance {seed:#x} a part of it and of what was not synced landed"),
                landed,
            );
        }
        if let Some(op) = op {
            disk.apply(op);
        }
    }
    (crashes, count)
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
