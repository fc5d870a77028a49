//! An image of either kind, for those who install it.
//!
//! ```text
//! Candidate::Ours(any stream)   -> verify -> Image      manifest, block tables: checked as it streams
//! Candidate::Stock(a file)      -> verify -> Image      signature behind the payload: read through first
//! ```
//!
//! What an upgrade asks of an image is the same for both: its [`Contents`], and its members in order.

use std::fmt;
use std::io::{self, Read};

use super::openwrt::{Compat, Stock, StockImage, Target};
use super::read::{self, AtHand, Ranged, Tally, Unverified, Verified};
use super::{ImageError, Manifest, PartInfo};
use crate::digest::Digest;
use crate::report::describe;
use crate::trust::Trust;
use crate::trust::usign::{KeyId, Signature};

/// What somebody wants to install; nothing of it has been verified.
#[derive(Debug)]
pub enum Candidate<R> {
    /// An image of our own kind: its head, or why that cannot be read.
    Ours(Result<Unverified<R>, ImageError>),
    /// An image of OpenWrt's.
    Stock(Box<Stock>),
}

impl<R: Read> From<R> for Candidate<R> {
    fn from(source: R) -> Self {
        Self::Ours(Unverified::open(source))
    }
}

impl<R: Ranged> Candidate<R> {
    /// An image of our own kind, from a source that may have ranges.
    pub fn ranged(source: R) -> Self {
        Self::Ours(Unverified::open_ranged(source))
    }
}

impl<R: Read> Candidate<R> {
    /// Checks the signatures, and only then looks into it.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn verify(self, trust: &Trust, target: &Target<'_>) -> Result<Image<R>, ImageError> {
        Ok(match self {
            Self::Ours(head) => {
                let image = head?.verify(trust)?;
                Image {
                    contents: Contents::of(image.manifest(), image.signers())?,
                    kind: Kind::Ours(image),
                }
            }
            Self::Stock(stock) => {
                let image = stock.verify(trust, target)?;
                Image {
                    contents: image.contents().clone(),
                    kind: Kind::Stock(image),
                }
            }
        })
    }
}

/// The kind of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Ours.
    #[default]
    Ours,
    /// OpenWrt's, with what its payload is.
    Stock(String),
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "sysupgrade-rs",
            Self::Stock(payload) => payload,
        })
    }
}

/// What an image is and holds: all that the rules of an upgrade ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Its kind.
    pub format: Format,
    /// Names of the boards it is for; none if it does not say.
    pub boards: Vec<String>,
    /// Version, for people.
    pub version: String,
    /// Security number, compared with the floor; stock images have none, which is 0.
    pub security: u64,
    /// Compatibility version `MAJOR.MINOR`.
    pub compat: Compat,
    /// What its maker has to say to those whom its compatibility version stops.
    pub compat_message: Option<String>,
    /// Compatibility versions whose configuration it migrates.
    pub migrates_from: Vec<String>,
    /// Number of the configuration engine in the new system.
    pub engine: u32,
    /// True if its defaults come first in it.
    pub has_config: bool,
    /// The keys that have signed it; none if nobody has and the board lets that pass.
    pub signers: Vec<KeyId>,
    /// The parts, in order.
    pub parts: Vec<Part>,
}

/// One part of a slot, as it will be on the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The part of the slot it goes to.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

impl Part {
    fn of(info: &PartInfo) -> Self {
        Self {
            name: info.slot_part.clone(),
            size: info.raw_size,
            sha256: info.raw_sha256,
        }
    }
}

impl Contents {
    fn of(manifest: &Manifest, signers: &[KeyId]) -> Result<Self, ImageError> {
        let compat = Compat::parse(&manifest.compat).map_err(|error| ImageError::Manifest {
            problem: error.to_string(),
        })?;
        Ok(Self {
            format: Format::Ours,
            boards: manifest.boards.clone(),
            version: manifest.version.clone(),
            security: manifest.security,
            compat,
            compat_message: None,
            migrates_from: manifest.migrates_from.clone(),
            engine: manifest.engine,
            has_config: manifest.config.is_some(),
            signers: signers.to_vec(),
            parts: manifest.parts.iter().map(Part::of).collect(),
        })
    }
}

/// An image that may be installed as far as its signatures go.
#[derive(Debug)]
pub struct Image<R> {
    contents: Contents,
    kind: Kind<R>,
}

#[derive(Debug)]
enum Kind<R> {
    Ours(Verified<R>),
    Stock(StockImage),
}

/// A member whose bytes the caller wants. Their errors are [`ImageError`]s inside of [`io::Error`],
/// see [`ImageError::from_io`].
pub enum Member<'a> {
    /// The default configuration. Its digest is known at its end only: **nothing must be made of the
    /// bytes before** the end was reached.
    Config(Box<dyn Read + 'a>),
    /// A part of the slot.
    Part(Part, Box<dyn Read + 'a>),
}

impl<R: Read> Image<R> {
    /// What it is.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The parts, with the blocks of which not all need be fetched, if there are such.
    #[must_use]
    pub fn parts_by_blocks(&self) -> Option<&[PartInfo]> {
        match &self.kind {
            Kind::Ours(image) if image.has_ranges() => Some(&image.manifest().parts),
            _ => None,
        }
    }

    /// From now on, blocks that are at hand are not fetched, if that is possible.
    pub fn use_at_hand(&mut self, at_hand: Box<dyn AtHand>) {
        if let Kind::Ours(image) = &mut self.kind {
            image.use_at_hand(at_hand);
        }
    }

    /// Counts what would be fetched, and fetches no block.
    ///
    /// # Errors
    /// [`ImageError`]
    pub fn weigh(self) -> Result<Tally, ImageError> {
        match self.kind {
            Kind::Ours(image) => image.weigh(),
            Kind::Stock(_) => Ok(whole(&self.contents)),
        }
    }

    /// The next member, `None` after the last.
    ///
    /// # Errors
    /// [`ImageError`]; [`ImageError::Unfinished`] when the member before was not read to its end.
    pub fn next_member(&mut self) -> Result<Option<Member<'_>>, ImageError> {
        match &mut self.kind {
            Kind::Ours(image) => Ok(image.next_member()?.map(|member| match member {
                read::Member::Config(bytes) => Member::Config(Box::new(bytes)),
                read::Member::Part(bytes) => Member::Part(Part::of(bytes.part()), Box::new(bytes)),
            })),
            Kind::Stock(image) => image.next_part(),
        }
    }

    /// Reads and checks everything, and keeps nothing.
    ///
    /// # Errors
    /// As [`next_member`](Self::next_member), inside of [`io::Error`].
    pub fn check(mut self) -> io::Result<()> {
        while let Some(member) = self.next_member()? {
            match member {
                Member::Config(bytes) | Member::Part(_, bytes) => skip(bytes)?,
            }
        }
        self.finish()?;
        Ok(())
    }

    /// Checks that nothing more belongs to the image. Says where its bytes came from.
    ///
    /// # Errors
    /// [`ImageError`]; [`ImageError::Unfinished`] when there are members left.
    pub fn finish(self) -> Result<Tally, ImageError> {
        match self.kind {
            Kind::Ours(image) => image.finish(),
            Kind::Stock(image) => image.finish().map(|()| whole(&self.contents)),
        }
    }
}

/// Of an image that is a file already, its parts count.
fn whole(contents: &Contents) -> Tally {
    Tally {
        fetched: contents.parts.iter().map(|part| part.size).sum(),
        ..Tally::default()
    }
}

/// Reads a member to its end, so that it is checked, and keeps nothing.
///
/// # Errors
/// As the member's own.
pub fn skip(mut bytes: impl Read) -> io::Result<()> {
    io::copy(&mut bytes, &mut io::sink()).map(drop)
}

/// What an image says of itself, which nobody has checked.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// What it claims to be; without its parts.
    pub claims: Contents,
    /// What cannot be read of it.
    pub problem: Option<String>,
}

impl<R: Read> Candidate<R> {
    /// What it says of itself.
    pub fn show(&mut self) -> Shown {
        let claims = match self {
            Self::Ours(Ok(head)) => show_ours(head).map_err(|error| describe(&error)),
            Self::Ours(Err(error)) => Err(describe(error)),
            Self::Stock(stock) => stock.show().map_err(|error| describe(&error)),
        };
        match claims {
            Ok(claims) => Shown {
                claims,
                problem: None,
            },
            Err(problem) => Shown {
                problem: Some(problem),
                ..Shown::default()
            },
        }
    }
}

fn show_ours<R: Read>(head: &Unverified<R>) -> Result<Contents, ImageError> {
    let signatures = head.signatures()?;
    let signers: Vec<KeyId> = signatures.iter().map(Signature::id).collect();
    Contents::of(&head.inspect()?, &signers)
}
