//! Why an image is refused.

use std::io;

use thiserror::Error;

use super::openwrt::fwtool::FwtoolError;
use super::openwrt::metadata::MetadataError;
use super::openwrt::payload::PayloadError;
use crate::digest::Digest;
use crate::report::{Reason, Refusal, describe};
use crate::trust::TrustError;
use crate::trust::ucert::UcertError;
use crate::trust::usign::UsignError;

/// What is wrong with an image. Names that come from it are fit for a terminal.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The source failed; the image may be fine.
    #[error("cannot read the image after byte {offset}")]
    Source {
        /// Bytes that had been read.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// It does not begin like an image.
    #[error("not an image: {problem}")]
    NotAnImage {
        /// What is there instead.
        problem: String,
    },
    /// It ends too early.
    #[error("the image ends at byte {offset}, in {member}")]
    Truncated {
        /// Its length.
        offset: u64,
        /// Where it ends.
        member: String,
    },
    /// The tar around the members is broken.
    #[error("{member} at byte {offset}: {problem}")]
    Damaged {
        /// Which member, or what belongs there.
        member: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// A member that is missing, added, renamed or out of order.
    #[error("the image has {found} where {wanted} belongs")]
    UnexpectedMember {
        /// What is there.
        found: String,
        /// What the manifest wants.
        wanted: String,
    },
    /// A member's length is not the one that was promised.
    #[error("{member} has {found} bytes, the manifest says {wanted}")]
    WrongSize {
        /// The member.
        member: String,
        /// Bytes in its tar header.
        found: u64,
        /// Bytes in the manifest.
        wanted: u64,
    },
    /// A member of the head that is longer than possible.
    #[error("{member} has {found} bytes, at most {most} are possible")]
    TooLong {
        /// The member.
        member: String,
        /// Its length.
        found: u64,
        /// The most.
        most: u64,
    },
    /// A member's bytes are not the signed ones.
    #[error("{member} has the digest {found}, the manifest says {wanted}")]
    Digest {
        /// The member.
        member: String,
        /// Digest of what is there.
        found: Digest,
        /// Digest of what was signed.
        wanted: Digest,
    },
    /// A block's bytes are not the signed ones.
    #[error("block {block} of {part}: {problem}")]
    Block {
        /// The part.
        part: String,
        /// Number of the block, from 0.
        block: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// A block table contradicts itself or the manifest.
    #[error("block table of {part}: {problem}")]
    Table {
        /// The part.
        part: String,
        /// What is wrong.
        problem: String,
    },
    /// The manifest does not make sense.
    #[error("manifest.json: {problem}")]
    Manifest {
        /// What is wrong, with the field.
        problem: String,
    },
    /// An image of a later time.
    #[error("manifest.json: unknown {field} {found}, this program knows {wanted}")]
    UnknownFormat {
        /// `format` or `hash`.
        field: &'static str,
        /// What is there.
        found: String,
        /// What is known.
        wanted: &'static str,
    },
    /// What should be signatures is something else.
    #[error("manifest.sig")]
    Signatures(#[source] UsignError),
    /// Not signed by those who must.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The chunks behind the payload of a stock image.
    #[error(transparent)]
    Chunks(#[from] FwtoolError),
    /// The signature chunk of a stock image.
    #[error(transparent)]
    Certificate(#[from] UcertError),
    /// The metadata of a stock image.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The payload of a stock image.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A file that was changed after its signature was checked.
    #[error("the image was changed at byte {offset} while it was read")]
    Changed {
        /// Where.
        offset: u64,
    },
    /// A member was not read to its end before the next was asked for, or its reading failed.
    #[error("{member} was not read to its end")]
    Unfinished {
        /// The member.
        member: String,
    },
    /// More follows than tar tools and metadata add.
    #[error("more than {most} bytes follow the end of the image")]
    Trailing {
        /// The most.
        most: u64,
    },
}

impl ImageError {
    /// The error that a reader of this module wrapped for [`io::Read`].
    ///
    /// # Errors
    /// The error itself if it is another one: the readers report their source's errors as
    /// [`ImageError::Source`], so it comes from between them and the caller.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }

    /// The stable identifier.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Source { .. } => Reason::SourceFailed,
            Self::NotAnImage { .. } => Reason::NotAnImage,
            Self::Truncated { .. } => Reason::Truncated,
            Self::UnknownFormat { .. } => Reason::UnknownFormat,
            Self::Signatures(_) => Reason::BadSignature,
            Self::Trust(error) => error.reason(),
            Self::Chunks(error) => error.reason(),
            Self::Certificate(error) => error.reason(),
            Self::Metadata(_) => Reason::MetadataInvalid,
            Self::Payload(error) => error.reason(),
            Self::Damaged { .. }
            | Self::UnexpectedMember { .. }
            | Self::WrongSize { .. }
            | Self::TooLong { .. }
            | Self::Digest { .. }
            | Self::Block { .. }
            | Self::Table { .. }
            | Self::Manifest { .. }
            | Self::Unfinished { .. }
            | Self::Trailing { .. }
            | Self::Changed { .. } => Reason::Damaged,
        }
    }

    /// True if the signature had been found good before this came up.
    #[must_use]
    pub fn is_behind_signature(&self) -> bool {
        matches!(
            self,
            Self::Metadata(_)
                | Self::Payload(_)
                | Self::Changed { .. }
                | Self::Trust(TrustError::BelowFloor { .. })
        )
    }

    /// As a refusal: nothing here can be forced, but the name in front of a stock tar's members.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let (found, wanted) = self.values();
        Refusal {
            reason: self.reason(),
            message: describe(self),
            found,
            wanted,
            hint: self.hint().to_owned(),
            forceable: matches!(self, Self::Payload(PayloadError::WrongBoard { .. })),
        }
    }

    /// What was found, and what the rule asks for.
    fn values(&self) -> (String, String) {
        let problem = |found: &str| (found.to_owned(), String::new());
        match self {
            Self::Source { source, .. } => problem(&source.to_string()),
            Self::NotAnImage { problem: text }
            | Self::Table { problem: text, .. }
            | Self::Manifest { problem: text } => problem(text),
            Self::Damaged { problem: text, .. } | Self::Block { problem: text, .. } => {
                problem(text)
            }
            Self::Truncated { offset, member } => {
                (format!("{offset} bytes"), format!("the rest of {member}"))
            }
            Self::UnexpectedMember { found, wanted } => (found.clone(), wanted.clone()),
            Self::WrongSize { found, wanted, .. } => (found.to_string(), wanted.to_string()),
            Self::TooLong { found, most, .. } => (found.to_string(), format!("at most {most}")),
            Self::Digest { found, wanted, .. } => (found.to_string(), wanted.to_string()),
            Self::UnknownFormat { found, wanted, .. } => (found.clone(), (*wanted).to_owned()),
            Self::Signatures(source) => problem(&source.to_string()),
            Self::Unfinished { member } => (member.clone(), format!("all of {member}")),
            Self::Trailing { most } => (format!("more than {most}"), format!("at most {most}")),
            Self::Trust(error) => error.values(),
            Self::Chunks(error) => error.values(),
            Self::Certificate(error) => error.values(),
            Self::Metadata(error) => error.values(),
            Self::Payload(error) => error.values(),
            Self::Changed { offset } => (
                format!("other bytes at {offset}"),
                "those that were checked".into(),
            ),
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Manifest { .. } | Self::Table { .. } => {
                return "it was signed like this, downloading it again will not help: tell its maker";
            }
            // The checksum behind them is right.
            Self::Metadata(_) => {
                return "it was made like this, downloading it again will not help: tell its maker";
            }
            Self::Changed { .. } => {
                return "somebody writes to the file: use a copy that nobody changes";
            }
            Self::Chunks(error) => return error.hint(),
            Self::Certificate(error) => return error.hint(),
            Self::Payload(error) => return error.hint(),
            _ => {}
        }
        match self.reason() {
            Reason::SourceFailed => "check the medium or the connection, and try again",
            Reason::NotAnImage => {
                "use an image made by sysupgrade-pack, or OpenWrt's sysupgrade image for this board"
            }
            Reason::UnknownFormat => {
                "the image is newer than this program: install an image in between first"
            }
            Reason::SignatureMissing => {
                "use a signed image; `unsigned = \"allow\"` below [trust] in the board file lets OpenWrt's pass without"
            }
            Reason::UnknownKey => {
                "get the image from its maker, or add the key to the key directory"
            }
            Reason::BadSignature => {
                "the image was changed after it was signed: get it from its maker again"
            }
            Reason::TooFewSignatures => "ask the maker for an image with all signatures",
            Reason::RevokedKey => {
                "the key is no longer trusted: get an image signed by its successor"
            }
            Reason::BelowFloor => {
                "use a newer image: this one has known security problems; OpenWrt's own images count as 0"
            }
            _ => {
                "the image is damaged: download it again and compare its checksum; if that is right, tell its maker"
            }
        }
    }
}

impl From<ImageError> for io::Error {
    fn from(error: ImageError) -> Self {
        let kind = match &error {
            ImageError::Source { source, .. } => source.kind(),
            ImageError::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
