//! Records every change that [`crate::files`] makes, for the power-cut tests.

use std::cell::RefCell;
use std::path::PathBuf;

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

/// Runs `work` and returns what it returned, with all changes this thread made meanwhile.
pub fn record<T>(work: impl FnOnce() -> T) -> (T, Vec<Op>) {
    LOG.set(Some(Vec::new()));
    let result = work();
    (result, LOG.take().unwrap_or_default())
}
