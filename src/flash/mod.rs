//! Media that hold a part of a slot.
//!
//! A device **pulls** the bytes it stores, so that each kind is one function in the order its
//! hardware wants. Hashing, limits and progress are `Read` wrappers on the other side. Comparing
//! before writing is the device's own business, since it knows its erase blocks or pages.
//!
//! Raw flash is reached through [`Chips`]: [`mtd::RawMtd`] and [`ubi::RawUbi`] have the kernel on the
//! one side, and the simulated chips of the tests on the other.

mod block;
pub mod kernel;
pub mod look;
pub mod mtd;
pub mod ubi;

use std::io::{self, Read, Write};
use std::ops::{AddAssign, Range};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::board::{Medium, Overlay, Volume};
use crate::digest::Digest;
use crate::files::{FileError, below};
use crate::report::{Reason, Refusal, describe};

pub use block::BlockDevice;
pub(crate) use block::ForceRo;
pub use kernel::Kernel;
pub use mtd::MtdDevice;
pub use ubi::UbiDevice;

/// What a write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the image that differed and were written.
    pub written: u64,
    /// Bytes of the image that the medium held already.
    pub unchanged: u64,
    /// Bytes read from the medium, to compare.
    pub read: u64,
    /// Erase blocks that were erased; 0 for media that erase by themselves.
    pub erased: u64,
    /// Blocks that went bad meanwhile, and are marked so.
    pub gone_bad: u64,
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.written += other.written;
        self.unchanged += other.unchanged;
        self.read += other.read;
        self.erased += other.erased;
        self.gone_bad += other.gone_bad;
    }
}

/// A medium that holds one part of one slot, from its first byte on.
pub trait Device {
    /// The longest image it can hold, in bytes; on flash, what its bad blocks leave.
    fn capacity(&self) -> u64;

    /// True if the medium holds just these bytes already, as far as this is worth asking: only of a
    /// medium that can be rewritten as a whole alone. Others compare while they write, and say no.
    ///
    /// # Errors
    /// [`FlashError::Medium`] and its kin.
    fn holds(&mut self, len: u64, digest: &Digest) -> Result<bool, FlashError> {
        let _ = (len, digest);
        Ok(false)
    }

    /// Makes the medium hold the `len` bytes of `source`; what it holds already is not written
    /// again. Returns when the medium, not a cache, holds them.
    ///
    /// A medium that can be read past any cache while more is written may give `proof` what it then holds, from
    /// the first byte on and as far as that saves time. The rest is left to [`read_image`](Self::read_image).
    ///
    /// # Errors
    /// [`FlashError::Source`] if `source` or `proof` fails, others if the device does. The medium then holds a
    /// mixture of old and new bytes and must not be booted.
    fn write_image(
        &mut self,
        source: &mut dyn Read,
        len: u64,
        proof: Option<&mut dyn Write>,
    ) -> Result<Written, FlashError>;

    /// Copies these bytes from the medium, past any cache, into `sink`.
    ///
    /// # Errors
    /// As [`write_image`](Self::write_image), with [`FlashError::Source`] for an error of `sink`.
    fn read_image(&mut self, range: Range<u64>, sink: &mut dyn Write) -> Result<(), FlashError>;
}

/// Where raw flash is: [`Kernel`], or the simulated chips of the tests.
pub trait Chips {
    /// Opens the MTD of this name. It is opened for writing when it is first written.
    ///
    /// # Errors
    /// When none or several have the name, or it cannot be opened.
    fn mtd(&self, name: &str) -> Result<Box<dyn mtd::RawMtd>, FlashError>;

    /// Opens UBI on the MTD of this name, and attaches it first if it is not.
    ///
    /// # Errors
    /// As [`mtd`](Self::mtd), and when UBI cannot be attached.
    fn ubi(&self, mtd: &str) -> Result<Box<dyn ubi::RawUbi>, FlashError>;

    /// Mounts a UBIFS volume for reading and writing, and says where. An empty volume becomes an empty
    /// file system. It stays mounted until the machine goes down.
    ///
    /// # Errors
    /// When it cannot be mounted.
    fn mount(&self, volume: &Volume) -> Result<PathBuf, FlashError>;
}

/// Opens a medium for writing, in the system whose root is at `root`.
///
/// # Errors
/// When it does not exist, or cannot be written now: mounted, read-only, of the wrong kind.
pub fn open(
    root: &Path,
    chips: &dyn Chips,
    medium: &Medium,
) -> Result<Box<dyn Device>, FlashError> {
    Ok(match medium {
        Medium::File(file) => Box::new(BlockDevice::open(&below(root, &file.path))?),
        Medium::Block(block) => Box::new(BlockDevice::find(root, block)?),
        Medium::Mtd(place) => Box::new(MtdDevice::new(chips.mtd(&place.mtd)?, place)?),
        Medium::Ubi(place) => Box::new(UbiDevice::new(chips.ubi(&place.mtd)?, place)?),
    })
}

/// The directory of an overlay, in the system whose root is at `root`; a volume is mounted for it.
///
/// # Errors
/// When it is on a volume that cannot be mounted.
pub fn overlay_dir(
    root: &Path,
    chips: &dyn Chips,
    overlay: &Overlay,
) -> Result<PathBuf, FlashError> {
    match overlay {
        Overlay::Dir(path) => Ok(below(root, path)),
        Overlay::Ubifs(volume) => chips.mount(volume),
    }
}

/// Why a part could not be written or read back.
#[derive(Debug, Error)]
pub enum FlashError {
    /// The other side of the copy failed (image, download, digest); the device is fine.
    #[error(transparent)]
    Source(io::Error),
    /// A file or block device failed.
    #[error(transparent)]
    Medium(#[from] FileError),
    /// Raw flash failed.
    #[error("cannot {verb} {name} at {offset:#x}")]
    Flash {
        /// What was attempted: `erase`, `program`, `read`, ...
        verb: &'static str,
        /// The MTD or volume.
        name: String,
        /// First byte of it.
        offset: u64,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Nothing, or more than one thing, has the name that the board file gives.
    #[error("{name}: {problem}")]
    NotFound {
        /// The name.
        name: String,
        /// What there is instead, lower case, no full stop.
        problem: String,
    },
    /// It is there, and cannot be used so: of the wrong kind or shape.
    #[error("{name}: {problem}")]
    Unusable {
        /// The device.
        name: String,
        /// What is wrong, lower case, no full stop.
        problem: String,
        /// What the system said, if it was asked.
        #[source]
        source: Option<io::Error>,
    },
    /// It cannot be written, as the driver or the device says.
    #[error("{name} is read-only")]
    ReadOnly {
        /// The device.
        name: String,
    },
    /// Somebody else uses it.
    #[error("{name} is in use")]
    Busy {
        /// The device.
        name: String,
        /// What the system said, if it was asked.
        #[source]
        source: Option<io::Error>,
    },
    /// More bytes than the device holds.
    #[error("{name} holds {capacity} bytes, the image has {len}")]
    TooLarge {
        /// The device.
        name: String,
        /// Its size in bytes, without bad blocks.
        capacity: u64,
        /// Size asked for.
        len: u64,
    },
    /// Blocks went bad while it was written, and none is left.
    #[error("{name} has no good block left: {bad} are bad")]
    WornOut {
        /// The device.
        name: String,
        /// How many blocks are bad now.
        bad: u64,
    },
}

impl FlashError {
    /// What programs are told.
    #[must_use]
    pub fn reason(&self) -> Reason {
        let kind = match self {
            Self::Source(_) => return Reason::SourceFailed,
            Self::NotFound { .. } => return Reason::MediumMissing,
            Self::ReadOnly { .. } => return Reason::MediumReadOnly,
            Self::Busy { .. } => return Reason::MediumBusy,
            Self::TooLarge { .. } => return Reason::TooLarge,
            Self::WornOut { .. } => return Reason::WornOut,
            Self::Unusable { source, .. } => match source {
                Some(error) => error.kind(),
                None => return Reason::MediumUnusable,
            },
            Self::Medium(FileError { source, .. }) | Self::Flash { source, .. } => source.kind(),
        };
        match kind {
            io::ErrorKind::NotFound => Reason::MediumMissing,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Reason::MediumReadOnly
            }
            io::ErrorKind::ResourceBusy => Reason::MediumBusy,
            _ => Reason::MediumFailed,
        }
    }

    /// The same for people: what to do about it.
    fn hint(&self) -> &'static str {
        match self.reason() {
            Reason::MediumMissing => "compare the board file with the flash of this device",
            Reason::MediumReadOnly => "the driver or the device tree protects it",
            Reason::MediumBusy => "unmount it; the slot that does not run is not to be used",
            Reason::TooLarge => "a smaller image is needed",
            Reason::WornOut => "its flash is at its end; the running slot is not concerned",
            _ => "run `sysupgrade-rs doctor`; what the kernel says is in its log",
        }
    }

    /// A refusal about the medium of this part.
    #[must_use]
    pub fn refusal(&self, part: &str) -> Refusal {
        Refusal {
            reason: self.reason(),
            message: format!("part {part}: {}", describe(self)),
            found: describe(self),
            wanted: "a medium that can be written".into(),
            hint: self.hint().into(),
            forceable: false,
        }
    }
}
