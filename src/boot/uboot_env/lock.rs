//! The locks of the tools that others use, so that none of them writes between our reading and our writing.
//!
//! | lock | whose |
//! | --- | --- |
//! | `/var/lock/fw_printenv.lock` | libubootenv, U-Boot's own tools, OpenWrt's |
//! | `/run/fw_printenv.lock` | the newest of U-Boot's own |
//!
//! Nearly everywhere `/var/lock` leads to `/run/lock`, so these are two files, and both are taken, in this
//! order. Where they are one file it is taken once: through another descriptor it would be waited for
//! until whoever holds it lets go, and that would be we.
//!
//! A directory that is missing, or on a read-only file system, is left as it is: the tools cannot lock
//! there either.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::boot::BootError;
use crate::files::{self, FileError, below};

const LOCKS: [&str; 2] = ["/var/lock/fw_printenv.lock", "/run/fw_printenv.lock"];

/// A tool holds its lock for less than a second, or for two when it writes NOR flash word by word.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Held while an environment is read for a change and written; the kernel releases it when this program
/// ends, however it ends.
#[derive(Debug)]
pub(super) struct Locks {
    _held: Vec<File>,
}

impl Locks {
    /// Takes the locks of the system whose root is at `root`.
    pub(super) fn take(root: &Path) -> Result<Self, BootError> {
        let deadline = Instant::now() + PATIENCE;
        let mut held: Vec<File> = Vec::new();
        let mut known = Vec::new();
        for path in LOCKS {
            let path = below(root, Path::new(path));
            let Some(file) = open(&path)? else {
                continue;
            };
            let metadata = file.metadata().map_err(FileError::at("look at", &path))?;
            let identity = (metadata.dev(), metadata.ino());
            if known.contains(&identity) {
                continue;
            }
            wait_for(&file, path, deadline)?;
            known.push(identity);
            held.push(file);
        }
        Ok(Self { _held: held })
    }
}

fn open(path: &Path) -> Result<Option<File>, FileError> {
    if !path.parent().is_some_and(Path::is_dir) {
        return Ok(None);
    }
    match files::open_lock(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.source.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(None),
        Err(error) => Err(error),
    }
}

fn wait_for(file: &File, path: PathBuf, deadline: Instant) -> Result<(), BootError> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOOK_EVERY),
            Err(TryLockError::WouldBlock) => return Err(BootError::Busy { path }),
            Err(TryLockError::Error(source)) => {
                let verb = "lock";
                return Err(FileError { verb, path, source }.into());
            }
        }
    }
}
