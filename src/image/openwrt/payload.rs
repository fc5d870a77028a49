//! What a stock image holds: recognised by its first bytes, and taken apart into the parts of a slot.
//!
//! | first bytes | kind | the slot has | it gets |
//! | --- | --- | --- | --- |
//! | `1f 8b` | gzip | | what is inside counts: one of the other kinds |
//! | `sysu` | sysupgrade tar | the names of the members | the members |
//! | `27 05 19 56` | uImage, squashfs behind it | `firmware` | all of it |
//! | | | `kernel`, `root` | up to the squashfs, and from there |
//! | | uImage alone | `kernel`, or `firmware` | all of it |
//! | `hsqs` | squashfs | `root` | all of it |
//! | `d0 0d fe ed` | FIT | `kernel`, or `firmware` | all of it |
//! | `UBI#` | UBI device | `ubi`, or `firmware` | all of it |
//! | `31 18 10 06` | UBIFS | `root` | all of it |
//! | `CI` | combined | `kernel`, `root` | what its header says |
//! | `eb 48`, `eb 63` | x86 disk | `boot` or `kernel`, `root` | partition 1, partition 2 |
//!
//! | others | raw | `firmware` | all of it |
//!
//! `root` and `rootfs` are the same part. Each thing in the image must have its part in the slot, or
//! the image is refused. Makers of boot loaders have headers of their own in front of a kernel: what
//! is not known is written as it is, where a slot takes it whole. Where a slot's parts fit in two ways the image is refused, too. A
//! partition table is never in an extent: a disk keeps the one it has.
//!
//! One pass over a stream, in 64 KiB of buffers and what an inflater needs; nothing is allocated by
//! a length that the image gives. All lengths are checked against what there is, as are the
//! checksums that the headers have of themselves. Stock looks at the first bytes only, of all but
//! tars: what is refused here would be refused by its boot loader or kernel, when it is too late.

mod disk;
mod plain;
mod raw;
mod stream;
mod tar;
mod ubi;

use std::fmt;
use std::io::{self, Read};

use thiserror::Error;

pub use plain::{PlainError, plain};

use crate::report::Reason;
use stream::{HEAD, Stream};

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

impl Extent {
    fn new(part: &str, start: u64, len: u64) -> Self {
        let part = part.to_owned();
        Self { part, start, len }
    }

    /// The same extent under the slot's name for its part, if the slot has exactly one such part.
    fn placed(&self, slot: &[&str]) -> Option<Self> {
        let mut names = slot.iter().filter(|name| same_part(name, &self.part));
        match (names.next(), names.next()) {
            (Some(name), None) => Some(Self::new(name, self.start, self.len)),
            _ => None,
        }
    }
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
    /// Something that only the board's boot loader knows.
    Raw,
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
            Self::Raw => "raw image",
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
    /// There is nothing.
    #[error("the payload is empty")]
    Empty,
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
            Self::Empty => Reason::NotAnImage,
            Self::Truncated { .. } => Reason::Truncated,
            Self::Damaged { .. } => Reason::Damaged,
            Self::TooLarge { .. } => Reason::TooLarge,
            Self::WrongBoard { .. } => Reason::WrongBoard,
            Self::WrongParts { .. } => Reason::WrongParts,
        }
    }

    /// What was found, and what the rule asks for.
    pub(crate) fn values(&self) -> (String, String) {
        match self {
            Self::Source { source, .. } => (source.to_string(), String::new()),
            Self::Empty => ("0 bytes".into(), "an image".into()),
            Self::Truncated { offset, place } => {
                (format!("{offset} bytes"), format!("the rest of {place}"))
            }
            Self::Damaged { problem, .. } => (problem.clone(), String::new()),
            Self::TooLarge { most } => (format!("more than {most}"), format!("at most {most}")),
            Self::WrongBoard { found, wanted } | Self::WrongParts { found, wanted } => {
                (found.clone(), wanted.clone())
            }
        }
    }

    /// What to do now.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Source { .. } => "check the medium or the connection, and try again",
            Self::Empty => "there is nothing in it: download it again",
            Self::Truncated { .. } | Self::Damaged { .. } => {
                "the image is damaged: download it again and compare its checksum; \
                 if that is right, tell its maker"
            }
            Self::TooLarge { .. } => {
                "nothing honest inflates to that: get the image from its maker"
            }
            Self::WrongBoard { .. } => "get the image for this board",
            Self::WrongParts { .. } => {
                "it was built for another storage layout: get the image for this board"
            }
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
    let mut counted = source.take(len);
    let wrapping = stream::first(&mut counted, plain::GZIP.len())?;
    let gzip = wrapping == plain::GZIP;
    let mut plain = plain(wrapping.chain(&mut counted), gzip, wanted.most);
    let head = stream::first(&mut plain, HEAD)?;
    let mut whole = head.chain(&mut plain);
    let (kind, layouts) = read(&mut Stream::new(&mut whole), &head, wanted.board)?;
    drop(plain);
    if counted.limit() > 0 {
        return Err(PayloadError::Truncated {
            offset: len.saturating_sub(counted.limit()),
            place: "file".to_owned(),
        });
    }
    let parts = place(layouts, wanted.parts)?;
    Ok(Payload { kind, gzip, parts })
}

/// Ways to divide a payload, the usual one first. Each is complete: all that there is to write.
type Layouts = Vec<Vec<Extent>>;

/// Reads a payload that begins with `head` to its end.
fn read(
    stream: &mut Stream<'_>,
    head: &[u8],
    board: Option<&str>,
) -> Result<(Kind, Layouts), PayloadError> {
    let begins = |magic: &[u8]| head.starts_with(magic);
    Ok(if begins(tar::MAGIC) {
        (Kind::Tar, vec![tar::read(stream, board)?])
    } else if begins(&raw::UIMAGE) {
        raw::kernel(stream)?
    } else if begins(&raw::SQUASHFS) {
        (Kind::Squashfs, raw::squashfs(stream)?)
    } else if begins(&raw::FIT) {
        (Kind::Fit, raw::fit(stream)?)
    } else if begins(&ubi::UBI) {
        (Kind::Ubi, ubi::device(stream)?)
    } else if begins(&ubi::UBIFS) {
        (Kind::Ubifs, ubi::file_system(stream)?)
    } else if begins(&raw::COMBINED) {
        (Kind::Combined, raw::combined(stream)?)
    } else if disk::is_disk(head) {
        disk::read(stream)?
    } else if head.is_empty() {
        return Err(PayloadError::Empty);
    } else {
        stream.finish()?;
        (Kind::Raw, vec![vec![stream.extent_from(0, "firmware")]])
    })
}

/// Bytes that tell what a payload looks like.
pub(super) const MAX_MAGIC: u64 = 16;

/// What a payload begins like, in words, if nothing of it may be read yet but its first bytes.
pub(super) fn looks_like(head: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 8] = [
        (tar::PREFIX.as_bytes(), "sysupgrade tar"),
        (&raw::SQUASHFS, "squashfs"),
        (&raw::UIMAGE, "uImage"),
        (&raw::FIT, "FIT"),
        (&ubi::UBI, "UBI"),
        (&ubi::UBIFS, "UBIFS"),
        (&plain::GZIP, "gzip"),
        (&raw::COMBINED, "combined kernel and root"),
    ];
    if disk::is_disk(head) {
        return Some("x86 disk");
    }
    let known = KINDS.iter().find(|(magic, _)| head.starts_with(magic));
    known.map(|(_, kind)| *kind)
}

/// True if the two names mean the same part.
fn same_part(one: &str, other: &str) -> bool {
    let root = |name| matches!(name, "root" | "rootfs");
    one == other || (root(one) && root(other))
}

/// Finds the one way in which a payload fits the slot, and names its extents as the slot does.
fn place(layouts: Layouts, slot: Option<&[&str]>) -> Result<Vec<Extent>, PayloadError> {
    let mut found: Option<Vec<Extent>> = None;
    let mut ways = 0;
    for layout in &layouts {
        let Some(parts) = slot else {
            found = Some(layout.clone());
            ways = 1;
            break;
        };
        let placed: Option<Vec<_>> = layout.iter().map(|extent| extent.placed(parts)).collect();
        if placed.is_some() && placed != found {
            found = placed;
            ways += 1;
        }
    }
    match found {
        Some(mut parts) if ways == 1 => {
            parts.sort_by_key(|extent| extent.start);
            Ok(parts)
        }
        _ => {
            let names = |layout: Vec<Extent>| {
                let names: Vec<_> = layout.into_iter().map(|extent| extent.part).collect();
                names.join(", ")
            };
            let found: Vec<_> = layouts.into_iter().map(names).collect();
            Err(PayloadError::WrongParts {
                found: found.join("; or "),
                wanted: slot.unwrap_or_default().join(", "),
            })
        }
    }
}
