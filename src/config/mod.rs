//! The configuration and its way across an upgrade.
//!
//! Four trees meet: **B**, the defaults as the old image shipped them; **U**, what the user made of
//! them; **N**, the defaults of the new image; **R**, the result. B and U travel in an archive, N is
//! the new slot's read-only root. A default that nobody edited follows the new image, an edit stays,
//! both are merged, and what becomes of every file is in a report.
//!
//! ```text
//! running slot              first boot of the new slot
//! carry ──> archive ───────> engine: steps, merge ──> apply ──> R, report
//!  B, U        │               N         uci
//!              ├─> forecast, decisions    the same before anything is flashed: a plan
//! directories ─┴─> desk                   the same on a builder's desk
//! ```
//!
//! | module | what for |
//! | --- | --- |
//! | [`carry`] | what travels: keep lists, scope, baseline; in what: the archive, and its restore |
//! | [`uci`] | packages below `/etc/config`, read and printed |
//! | [`steps`] | migrations, forward and back |
//! | [`merge`] | policy, decision table, mergers of every kind of file |
//! | [`compat`] | the compatibility version that a configuration bears |
//! | [`engine`] | steps and merge as one function of three trees |
//! | [`apply`] | the result as one transaction, with state, attic and report |
//! | [`forecast`], [`decisions`] | a plan, and what the owner decides about it |
//! | [`changes`], [`difference`] | what differs, as far as it may be shown |
//! | [`desk`] | the engine over plain directories, for builders |
//!
//! Links are compared by their target and never followed. A path is reached through real
//! directories only, so that nothing outside a root is ever read or written on its behalf.

pub mod apply;
pub mod carry;
pub mod changes;
pub mod compat;
pub mod decisions;
pub mod desk;
pub mod difference;
pub mod engine;
pub mod forecast;
pub mod merge;
mod packed;
mod path;
mod pattern;
pub mod report;
pub mod steps;
mod tree;
pub mod uci;

use std::io;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::files::FileError;

pub use apply::{attic, reports};
pub use carry::owners::Owners;
pub use carry::scope::Selection;
pub use carry::{archive, baseline, bundle, declare, keep, restore};
pub use path::EntryPath;
pub use tree::{Content, Entry, Kind, Meta, Tree};

/// Where this program keeps what belongs to a configuration, below the root of a system. It is
/// never itself configuration: nothing below it is kept, merged or restored.
pub const STATE_DIR: &str = "etc/sysupgrade";

/// The most entries of an archive. Routers keep some hundreds; this bounds the memory that a
/// directory gone wild can cost (about 300 bytes an entry).
pub const MAX_ENTRIES: usize = 65_536;

/// The most bytes of all files of an archive together, unpacked: bounds what a hostile archive of a
/// few KiB can fill. Configurations are below 1 MiB, rarely some 100 MiB of certificates and lists.
pub const MAX_CONTENT: u64 = 1 << 30;

/// When work has to be done, if it has to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadline(Option<(Instant, Duration)>);

impl Deadline {
    /// So long from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self(Some((Instant::now(), limit)))
    }

    /// Asked once a file: no single one takes long, they are bounded.
    fn check(self) -> Result<(), ConfigError> {
        match self.0 {
            Some((start, limit)) if start.elapsed() >= limit => Err(ConfigError::TooSlow { limit }),
            _ => Ok(()),
        }
    }
}

/// Why a configuration could not be kept, merged or restored.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file of the system.
    #[error(transparent)]
    File(#[from] FileError),
    /// The archive could not be written.
    #[error("cannot write the configuration archive")]
    Write(#[source] io::Error),
    /// The archive could not be read, unpacked, or ends too early.
    #[error("cannot read the configuration archive")]
    Read(#[source] io::Error),
    /// The archive contradicts itself or the rules for archives.
    #[error("configuration archive is damaged at `{at}`: {problem}")]
    Damaged {
        /// A member's name, or the part of the format.
        at: String,
        /// What is wrong.
        problem: String,
    },
    /// A bound of this program was reached; nothing was left out in silence.
    #[error("too much configuration: {what} is more than {most}")]
    TooMuch {
        /// What was counted.
        what: &'static str,
        /// The bound.
        most: u64,
    },
    /// Nothing was written.
    #[error("the configuration needs {needed} bytes, {free} are free")]
    NoSpace {
        /// An estimate.
        needed: u64,
        /// What may be used; a reserve is left.
        free: u64,
    },
    /// A document of this program, which the archive carries as it is.
    #[error("`{path}` is no JSON document")]
    NotJson {
        /// The file.
        path: EntryPath,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A first boot that takes longer looks like a dead router. Nothing was applied.
    #[error("bringing the configuration over takes more than {} s", limit.as_secs())]
    TooSlow {
        /// How long it may take.
        limit: Duration,
    },
    /// The rules do not allow a result. Nothing was written.
    #[error("the configuration cannot be merged: {}", reasons.join("; "))]
    Refused {
        /// Each of them alone would do.
        reasons: Vec<String>,
    },
    /// The image's steps, or the record of those that were taken.
    #[error(transparent)]
    Steps(#[from] steps::StepError),
    /// What somebody typed cannot be a path.
    #[error("`{text}` {problem}")]
    NotAPath {
        /// As typed, escaped.
        text: String,
        /// Why not.
        problem: &'static str,
    },
    /// `-c` or `-o` on a system without an overlay.
    #[error(
        "`/overlay/upper/etc` is not there: -c and -o keep what it holds; without them, what the keep lists name is kept"
    )]
    NoOverlay,
    /// `-u` on a system whose image cannot be looked at.
    #[error("`/rom` is not there: -u compares with it; without -u, the whole list is kept")]
    NoRom,
    /// `-k` on a system without packages.
    #[error(
        "the package metadata is not there, neither `/usr/lib/opkg/info` nor `/lib/apk/packages`: leave out -k"
    )]
    NoPackages,
    /// A backup without a file.
    #[error(
        "no file would be kept: nothing that the lists name is there, see /etc/sysupgrade.conf and /lib/upgrade/keep.d"
    )]
    NothingKept,
    /// A file became shorter while it was read into the archive.
    #[error("`{path}` changed while it was read; try again")]
    Changed {
        /// The file.
        path: EntryPath,
    },
}

impl ConfigError {
    /// What to do now, where the message does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::File(error) => return error.hint(),
            Self::Write(_) => "look at the room and at the medium of that place",
            Self::Read(_) | Self::Damaged { .. } => "use a whole archive, as -b makes it",
            Self::NoSpace { .. } => "free some space, or shorten the keep list",
            Self::NotJson { .. } => "remove it, or restore it from a backup",
            Self::TooMuch { .. } | Self::TooSlow { .. } => "shorten the keep list",
            Self::Refused { .. } => {
                "change what is named, or start the new version from its defaults with -n"
            }
            Self::NotAPath { .. } => "name a file or a directory, as in /etc/config/network",
            Self::Steps(_)
            | Self::NoOverlay
            | Self::NoRom
            | Self::NoPackages
            | Self::NothingKept
            | Self::Changed { .. } => return None,
        })
    }
}

impl ConfigError {
    fn damaged(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Damaged {
            at: at.into(),
            problem: problem.into(),
        }
    }
}
