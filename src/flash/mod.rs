//! Media that hold a part of a slot.
//!
//! A device **pulls** the bytes it stores, so that each kind is one function in the order its
//! hardware wants. Hashing, limits and progress are `Read` wrappers on the other side. Comparing
//! before writing is the device's own business, since it knows its erase blocks or pages.

mod block;

use std::io::{self, Read, Write};

use thiserror::Error;

use crate::files::FileError;

pub use block::BlockDevice;

/// What a write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes that differed and were written.
    pub written: u64,
    /// Bytes that the medium held already.
    pub unchanged: u64,
}

/// A medium that holds one part of one slot, from its first byte on.
pub trait Device {
    /// The longest image it can hold, in bytes.
    fn capacity(&self) -> u64;

    /// Makes the medium hold the `len` bytes of `source`; what it holds already is not written
    /// again. Returns when the medium, not a cache, holds them.
    ///
    /// # Errors
    /// [`FlashError::Source`] if `source` fails, [`FlashError::Medium`] if the device does. The
    /// medium then holds a mixture of old and new bytes and must not be booted.
    fn write_image(&mut self, source: &mut dyn Read, len: u64) -> Result<Written, FlashError>;

    /// Copies the first `len` bytes from the medium, past any cache, into `sink`.
    ///
    /// # Errors
    /// [`FlashError::Medium`], or [`FlashError::Source`] with the error of `sink`.
    fn read_image(&mut self, len: u64, sink: &mut dyn Write) -> Result<(), FlashError>;
}

/// Why a part could not be written or read back.
#[derive(Debug, Error)]
pub enum FlashError {
    /// The other side of the copy failed (image, download, digest); the device is fine.
    #[error(transparent)]
    Source(io::Error),
    /// The device failed.
    #[error(transparent)]
    Medium(#[from] FileError),
    /// More bytes than the device holds.
    #[error("{name} holds {capacity} bytes, the image has {len}")]
    TooLarge {
        /// The device.
        name: String,
        /// Its size in bytes.
        capacity: u64,
        /// Size asked for.
        len: u64,
    },
}
