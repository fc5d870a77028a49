//! Where the boot loader keeps its state, and how it is written there.
//!
//! A backend is a codec: it turns the bytes of one store into a [`BootState`] and back, and
//! preserves what it does not know byte for byte. What the state *means* is in [`crate::slots`].

use std::path::PathBuf;

use thiserror::Error;

use crate::files::FileError;
use crate::slots::BootState;

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
}

/// Why a boot environment could not be read or written.
#[derive(Debug, Error)]
pub enum BootError {
    /// The medium failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bytes are not a boot environment of the expected kind.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What is wrong with it, lower case, no full stop.
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
    /// The variables do not fit into the store.
    #[error("{}: the environment does not fit: {need} bytes, there is room for {room}", path.display())]
    Full {
        /// The store.
        path: PathBuf,
        /// Bytes needed.
        need: usize,
        /// Bytes there are.
        room: usize,
    },
}
