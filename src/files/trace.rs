//! Records every change that [`crate::files`] makes, for the power-cut tests, and refuses some of
//! them, for the tests of full disks.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One change to a file system, in the order it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the system call"
)]
pub enum Op {
    /// A new empty file.
    Create {
        path: PathBuf,
        mode: u32,
    },
    /// Bytes written at an offset.
    Write {
        path: PathBuf,
        offset: u64,
        data: Vec<u8>,
    },
    /// fsync of a file or of a directory.
    Sync {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// A file, link or device node goes.
    Remove {
        path: PathBuf,
    },
    RemoveDir {
        path: PathBuf,
    },
    MakeDir {
        path: PathBuf,
        mode: u32,
    },
    Symlink {
        path: PathBuf,
        target: PathBuf,
    },
    Whiteout {
        path: PathBuf,
    },
    SetMode {
        path: PathBuf,
        mode: u32,
    },
    /// Something was done to a medium that is no file. Whoever plays that medium knows what; the
    /// number is its own.
    Elsewhere(u64),
}

thread_local! {
    static LOG: RefCell<Option<Vec<Op>>> = const { RefCell::new(None) };
}

pub(super) fn push(op: impl FnOnce() -> Op) {
    LOG.with_borrow_mut(|log| {
        if let Some(log) = log {
            log.push(op());
        }
    });
}

/// Adds an operation on a medium that is no file, see [`Op::Elsewhere`].
pub fn elsewhere(number: u64) {
    push(|| Op::Elsewhere(number));
}

/// Runs `work` and returns what it returned, with all changes this thread made meanwhile.
pub fn record<T>(work: impl FnOnce() -> T) -> (T, Vec<Op>) {
    LOG.set(Some(Vec::new()));
    let result = work();
    (result, LOG.take().unwrap_or_default())
}

/// A file system without room.
struct Full {
    dir: PathBuf,
    changes: Range<usize>,
    seen: usize,
}

thread_local! {
    static FULL: RefCell<Option<Full>> = const { RefCell::new(None) };
}

/// Says before a change whether there is room for it.
pub(super) fn room(path: &Path) -> io::Result<()> {
    FULL.with_borrow_mut(|full| match full {
        Some(full) if path.starts_with(&full.dir) => {
            let number = full.seen;
            full.seen += 1;
            match full.changes.contains(&number) {
                true => Err(rustix::io::Errno::NOSPC.into()),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    })
}

/// Runs `work` while the file system at `dir` is full for some of the changes that this thread asks
/// of it, by their numbers from 0 on. What is removed needs no room and has no number; nor has what
/// [`InPlace`](super::InPlace) writes, where the room is. Returns how many changes were asked for,
/// too.
pub fn full<T>(dir: &Path, changes: Range<usize>, work: impl FnOnce() -> T) -> (T, usize) {
    FULL.set(Some(Full {
        dir: dir.to_owned(),
        changes,
        seen: 0,
    }));
    let result = work();
    (result, FULL.take().map_or(0, |full| full.seen))
}
