//! Where the boot loader keeps its state, and how it is written there.
//!
//! A backend is a codec: it turns the bytes of one store into a [`BootState`] and back, and
//! preserves what it does not know byte for byte. What the state *means* is in [`crate::slots`].

pub mod fw_env_config;
pub mod gpt_attributes;
mod grub_env;
mod layout;
mod order;
pub mod program;
pub mod switch;
pub mod systemd_boot;
pub mod uboot_env;

use std::path::PathBuf;

use thiserror::Error;

use crate::files::{FileError, InPlace};
use crate::flash::FlashError;
use crate::slots::BootState;

pub use gpt_attributes::GptAttributes;
pub use grub_env::GrubEnv;
pub use program::Program;
pub use systemd_boot::SystemdBoot;
pub use uboot_env::UbootEnv;

/// The boot loader's memory.
pub trait Bootloader {
    /// Reads the state.
    ///
    /// # Errors
    /// [`BootError`] when the store cannot be read or does not make sense; there is no default.
    fn load(&mut self) -> Result<BootState, BootError>;

    /// Writes the state; returns when the medium holds it. After a power cut the next
    /// [`load`](Self::load) and the boot loader see the old state or the new one, or a mix that
    /// boots the same slot as one of them.
    ///
    /// # Errors
    /// [`BootError`]; the old state may or may not have been replaced.
    fn store(&mut self, state: &BootState) -> Result<(), BootError>;

    /// What is damaged although the state can be read, a sentence each; the next
    /// [`store`](Self::store) mends it. An upgrade tells, and stores before it relies on any of it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn flaws(&mut self) -> Result<Vec<String>, BootError>;

    /// Makes the store whole with this state, whatever it holds now; somebody has asked for that.
    /// What can be read of everything else in it is kept. Returns what was done, a sentence each.
    ///
    /// # Errors
    /// [`BootError`] when the medium fails, or what the boot loader needs beside the state is lost and
    /// nowhere to be had; then nothing was written.
    fn repair(&mut self, state: &BootState) -> Result<Vec<String>, BootError>;
}

/// Why a boot environment could not be read or written.
#[derive(Debug, Error)]
pub enum BootError {
    /// The medium failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Raw flash failed.
    #[error(transparent)]
    Flash(#[from] FlashError),
    /// The bytes are not a boot environment of the expected kind.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What is wrong with it, lower case, no full stop.
        problem: String,
    },
    /// The file that says where the environment is does not make sense, or names no place for it.
    #[error("{}:{line}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong, lower case, no full stop.
        problem: String,
    },
    /// The environment is whole, and a variable in it does not make sense.
    #[error("{}: variable {name}: {problem}", path.display())]
    Variable {
        /// The store.
        path: PathBuf,
        /// Name of the variable.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It is damaged, and what the boot loader needs to start at all is in no other place.
    #[error("{}: cannot be repaired: {problem}", path.display())]
    Irreparable {
        /// The store.
        path: PathBuf,
        /// What is missing, lower case, no full stop.
        problem: String,
    },
    /// The program that keeps the state does not do what it must.
    #[error("{}: `{verb}`: {problem}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// What it was told to do.
        verb: String,
        /// What went wrong, printable.
        problem: String,
    },
    /// A tool of somebody else's is at work on it.
    #[error("another program holds {}", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The variables do not fit into the store.
    #[error("{}: the environment does not fit: {need} bytes, there is room for {room}", path.display())]
    Full {
        /// The store.
        path: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        room: u64,
    },
}

impl BootError {
    /// What to do now.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::File(error) => error.hint().unwrap_or(EXAMINE),
            Self::Flash(_) | Self::Damaged { .. } => EXAMINE,
            Self::Config { .. } => "correct this line: U-Boot's own tools read it, too",
            Self::Irreparable { .. } => "write the environment of the factory image",
            Self::Program { .. } => {
                "`scripts/conformance` tries this program; `board/program` says what it must do"
            }
            Self::Busy { .. } => "wait until it has ended: it is one of U-Boot's tools",
            Self::Full { .. } => "remove variables that nobody needs with fw_setenv",
            // Says so itself.
            Self::Variable { .. } => return None,
        })
    }
}

const EXAMINE: &str =
    "compare `[boot]` of the board file with this device; `sysupgrade-rs doctor` examines both";

/// Reads `len` bytes from the medium itself: what a cache holds need never have reached it.
fn read_medium(medium: &InPlace, offset: u64, len: usize) -> Result<Vec<u8>, BootError> {
    medium.drop_cache()?;
    let mut bytes = vec![0; len];
    medium.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Turns `old` at `offset` into `new` by one write of what differs, and returns when the medium
/// holds it. Also where nothing differs: whoever wrote it may not have lived to sync it.
fn write_and_prove(medium: &InPlace, offset: u64, old: &[u8], new: &[u8]) -> Result<(), BootError> {
    let differs = |at: &usize| old.get(*at) != new.get(*at);
    let first = (0..new.len()).find(differs);
    let last = (0..new.len()).rfind(differs);
    if let (Some(first), Some(last)) = (first, last) {
        medium.write_at(&new[first..=last], offset + first as u64)?;
    }
    medium.sync()?;
    if read_medium(medium, offset, new.len())? == new {
        return Ok(());
    }
    Err(BootError::Damaged {
        path: medium.path().to_owned(),
        problem: "the medium does not hold what was written to it".to_owned(),
    })
}
