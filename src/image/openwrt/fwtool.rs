//! Chunks at the end of a stock image, as `fwtool` reads and writes them.
//!
//! ```text
//! payload | chunk | chunk | ...                 each chunk is its content, then its trailer
//!
//! trailer   0  4  "FWx0"
//!           4  4  checksum of all bytes of the file before this trailer, big endian
//!           8  1  type: 0 signature, 1 info
//!           9  3  padding, written as 0, not looked at
//!          12  4  length of content and trailer, big endian
//!
//! info      0  4  version of this header, 0, big endian
//!           4  4  flags, written as 0, not looked at
//!           8     text
//! signature       a certificate chain that ends in the signature of all bytes before this chunk
//! ```
//!
//! The checksum is the CRC-32 of zlib without its final inversion. It covers the lengths of the
//! chunks below, not its own: only a signature further out does.
//!
//! A file is read from its end inwards. An info chunk ends the search for a signature: what was
//! appended to a signed image hides its signature, and is never covered by one. The outermost info
//! chunk of header version 0 is the metadata, and ends the reading: what is left of it is the
//! payload, less the chunks that are still whole. Makers wrap images that have metadata already and
//! append it anew; the inner chunk's checksum is then stale, and the chunk is just payload.
//!
//! `fwtool` reads the file in buffers of 32 KiB and keeps the last whole one and what follows it. It
//! wants a byte of that left below each chunk it reads. So do we: what it cannot see, a router that still
//! runs stock OpenWrt could not install either. Where it hangs, crashes or says that it has found
//! nothing because something is broken, this is an error.

use std::io::{self, Read, Seek, SeekFrom, Write};

use byteorder::{BigEndian, ByteOrder};
use crc32fast::Hasher;
use thiserror::Error;

use crate::report::Reason;

/// Longest metadata that `fwtool` appends. Past it, it leaves the file as it was, and exits with 0.
pub const MAX_METADATA: u64 = 30 << 10;

/// Longest certificate chain that `fwtool` appends, likewise: two certificates fit, three do not.
pub const MAX_SIGNATURE: u64 = 1 << 10;

/// `fwtool`'s buffer, and the longest content that it reads.
const BUFFER: u64 = 32 << 10;

const MAGIC: [u8; 4] = *b"FWx0";
const TRAILER: usize = 16;
const INFO_HEADER: usize = 8;

const SIGNATURE: u8 = 0;
const INFO: u8 = 1;

/// What the chunks of a file say. Nothing of it is to be believed before the signature is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Bytes before the innermost chunk.
    pub payload: u64,
    /// The text of the outermost info chunk.
    pub metadata: Option<Vec<u8>>,
    /// The signature, unless an info chunk is outside of it.
    pub signature: Option<SignatureChunk>,
}

/// A signature and what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureChunk {
    /// The certificate chain.
    pub ucert: Vec<u8>,
    /// The signed bytes: so many from the start of the file.
    pub message: u64,
}

/// A chunk to be appended.
#[derive(Clone, Copy, Debug)]
pub enum New<'a> {
    /// Metadata: at most [`MAX_METADATA`] bytes.
    Info(&'a str),
    /// A certificate chain with a signature of the file as it is: at most [`MAX_SIGNATURE`] bytes.
    Signature(&'a [u8]),
}

/// Why chunks are not read or written.
#[derive(Debug, Error)]
pub enum FwtoolError {
    /// The file failed; the image may be fine.
    #[error("cannot {verb} the image at byte {offset}")]
    File {
        /// Read or write.
        verb: &'static str,
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The bytes before a trailer are not those it was made for.
    #[error(
        "the trailer at byte {offset} has the checksum {wanted:08x}, \
         the bytes before it have {found:08x}"
    )]
    Checksum {
        /// Where the trailer is.
        offset: u64,
        /// The checksum of the bytes before it.
        found: u32,
        /// The checksum in the trailer.
        wanted: u32,
    },
    /// A trailer says a length that no such chunk has.
    #[error("the trailer at byte {offset} is of a chunk of {size} bytes: {problem}")]
    Size {
        /// Where the trailer is.
        offset: u64,
        /// Content and trailer, in bytes.
        size: u32,
        /// Which limit it breaks.
        problem: &'static str,
    },
    /// More chunks than stock tools can see.
    #[error("the chunks before byte {offset} are more than the stock tools can see")]
    TooDeep {
        /// Where the innermost trailer is, or the end of what may be one.
        offset: u64,
    },
    /// Chunks, and nothing that they are about.
    #[error("nothing precedes the chunks at the end of the image")]
    NoPayload,
    /// More than stock tools append or read.
    #[error("the {what} has {found} bytes, stock tools take at most {most}")]
    TooLong {
        /// Metadata or signature.
        what: &'static str,
        /// Its length.
        found: u64,
        /// The most.
        most: u64,
    },
}

impl FwtoolError {
    /// The stable identifier.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::File { .. } => Reason::SourceFailed,
            Self::Checksum { .. } | Self::Size { .. } | Self::TooDeep { .. } | Self::NoPayload => {
                Reason::Damaged
            }
            Self::TooLong { .. } => Reason::TooLarge,
        }
    }

    /// What was found, and what the rule asks for.
    pub(crate) fn values(&self) -> (String, String) {
        match self {
            Self::File { source, .. } => (source.to_string(), String::new()),
            Self::Checksum { found, wanted, .. } => {
                (format!("{found:08x}"), format!("{wanted:08x}"))
            }
            Self::Size { size, problem, .. } => (format!("{size} bytes"), (*problem).into()),
            Self::TooDeep { .. } => (String::new(), "chunks that stock tools can see".into()),
            Self::NoPayload => ("chunks only".into(), "an image before them".into()),
            Self::TooLong { found, most, .. } => (found.to_string(), format!("at most {most}")),
        }
    }

    /// What to do now.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "check the medium or the connection, and try again",
            Self::Checksum { .. } | Self::Size { .. } => {
                "the image is damaged: download it again and compare its checksum"
            }
            Self::TooDeep { .. } | Self::NoPayload => {
                "it was made like this, downloading it again will not help: tell its maker"
            }
            Self::TooLong { .. } => "make it shorter: stock tools would leave it out in silence",
        }
    }

    fn file(verb: &'static str, offset: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            verb,
            offset,
            source,
        }
    }
}

/// Where a chunk is in the window at the end of the file.
struct Chunk {
    start: usize,
    trailer: usize,
    kind: u8,
    wanted: u32,
    found: u32,
}

/// Reads the chunks of a file, which is read once, or not beyond its end if that is no trailer. A
/// file without chunks is all payload.
///
/// # Errors
/// [`FwtoolError`] where `fwtool` stops, hangs or crashes before it has found the metadata.
pub fn read<F: Read + Seek>(file: &mut F) -> Result<Tail, FwtoolError> {
    let len = file
        .seek(SeekFrom::End(0))
        .map_err(FwtoolError::file("read", 0))?;
    let mut tail = Tail {
        payload: len,
        metadata: None,
        signature: None,
    };
    let base = (len / BUFFER).saturating_sub(1) * BUFFER;
    let window = read_window(file, base, len)?;
    let (mut chunks, mut broken) = walk(&window, base);
    if !chunks.is_empty() {
        check(file, base, &window, &mut chunks)?;
    }

    let mut signature_can_follow = true;
    for chunk in &chunks {
        if chunk.found != chunk.wanted {
            broken = Some(FwtoolError::Checksum {
                offset: base + chunk.trailer as u64,
                found: chunk.found,
                wanted: chunk.wanted,
            });
            break;
        }
        tail.payload = base + chunk.start as u64;
        let content = &window[chunk.start..chunk.trailer];
        match chunk.kind {
            SIGNATURE if signature_can_follow => {
                signature_can_follow = false;
                tail.signature = Some(SignatureChunk {
                    ucert: content.to_vec(),
                    message: tail.payload,
                });
            }
            INFO => {
                signature_can_follow = false;
                let (header, text) = content.split_at(INFO_HEADER);
                if tail.metadata.is_none() && BigEndian::read_u32(header) == 0 {
                    tail.metadata = Some(text.to_vec());
                }
            }
            _ => {}
        }
    }
    match broken {
        Some(error) if tail.metadata.is_none() => Err(error),
        _ => Ok(tail),
    }
}

/// The bytes from `base` to the end, less than 64 KiB.
fn read_window<F: Read + Seek>(file: &mut F, base: u64, len: u64) -> Result<Vec<u8>, FwtoolError> {
    let mut window = Vec::new();
    file.seek(SeekFrom::Start(base))
        .and_then(|_| file.take(len - base).read_to_end(&mut window))
        .map_err(FwtoolError::file("read", base))?;
    if base + window.len() as u64 != len {
        let source = io::ErrorKind::UnexpectedEof.into();
        return Err(FwtoolError::file("read", base + window.len() as u64)(
            source,
        ));
    }
    Ok(window)
}

/// The chunks, outermost first, as their lengths lead from one to the next; and what is wrong
/// below the last of them.
fn walk(window: &[u8], base: u64) -> (Vec<Chunk>, Option<FwtoolError>) {
    let mut chunks = Vec::new();
    let mut end = window.len();
    loop {
        match chunk_before(&window[..end], base) {
            Ok(Some(chunk)) => {
                end = chunk.start;
                chunks.push(chunk);
            }
            Ok(None) => return (chunks, None),
            Err(error) => return (chunks, Some(error)),
        }
    }
}

/// The chunk that ends where these bytes end; the first of them is at byte `base` of the file.
fn chunk_before(bytes: &[u8], base: u64) -> Result<Option<Chunk>, FwtoolError> {
    let Some((content, trailer)) = bytes.split_last_chunk::<TRAILER>() else {
        return match base {
            0 => Ok(None),
            _ => Err(FwtoolError::TooDeep {
                offset: base + bytes.len() as u64,
            }),
        };
    };
    if trailer[..4] != MAGIC {
        return Ok(None);
    }
    let offset = base + content.len() as u64;
    let kind = trailer[8];
    let size = BigEndian::read_u32(&trailer[12..]);
    let bad = |problem| FwtoolError::Size {
        offset,
        size,
        problem,
    };
    let length = u64::from(size)
        .checked_sub(TRAILER as u64)
        .ok_or_else(|| bad("shorter than the trailer itself"))?;
    if length > BUFFER {
        return Err(bad("longer than stock tools read"));
    }
    if kind == INFO && length < INFO_HEADER as u64 {
        return Err(bad("no room for the header of metadata"));
    }
    if length > offset {
        return Err(bad("longer than the file"));
    }
    if length == offset {
        return Err(FwtoolError::NoPayload);
    }
    let start = usize::try_from(length)
        .ok()
        .and_then(|length| content.len().checked_sub(length))
        .filter(|start| *start > 0)
        .ok_or(FwtoolError::TooDeep { offset })?;
    Ok(Some(Chunk {
        start,
        trailer: content.len(),
        kind,
        wanted: BigEndian::read_u32(&trailer[4..8]),
        found: 0,
    }))
}

/// Notes the checksum of the bytes before each trailer, in one pass.
fn check<F: Read + Seek>(
    file: &mut F,
    base: u64,
    window: &[u8],
    chunks: &mut [Chunk],
) -> Result<(), FwtoolError> {
    let mut hasher = hash(file, base)?;
    let mut hashed = 0;
    for chunk in chunks.iter_mut().rev() {
        hasher.update(&window[hashed..chunk.trailer]);
        hashed = chunk.trailer;
        chunk.found = checksum(&hasher);
    }
    Ok(())
}

/// Hashes this many bytes from the start of the file.
fn hash<F: Read + Seek>(file: &mut F, len: u64) -> Result<Hasher, FwtoolError> {
    let mut hasher = Hasher::new();
    file.rewind().map_err(FwtoolError::file("read", 0))?;
    let mut buffer = vec![0; 64 << 10];
    let mut offset = 0;
    while offset < len {
        let wanted = (len - offset).min(buffer.len() as u64);
        let part = &mut buffer[..usize::try_from(wanted).unwrap_or(usize::MAX)];
        file.read_exact(part)
            .map_err(FwtoolError::file("read", offset))?;
        hasher.update(part);
        offset += wanted;
    }
    Ok(hasher)
}

fn checksum(hasher: &Hasher) -> u32 {
    !hasher.clone().finalize()
}

/// Appends a chunk. When writing fails half way, the file ends in a part of it, which is no chunk:
/// a builder appends to a file that nobody knows yet.
///
/// # Errors
/// [`FwtoolError::TooLong`] and [`FwtoolError::NoPayload`] before anything is written.
pub fn append<F: Read + Write + Seek>(file: &mut F, chunk: New<'_>) -> Result<(), FwtoolError> {
    let (what, kind, header, content, most) = match chunk {
        New::Info(text) => {
            let header: &[u8] = &[0; INFO_HEADER];
            ("metadata", INFO, header, text.as_bytes(), MAX_METADATA)
        }
        New::Signature(ucert) => ("signature", SIGNATURE, &[][..], ucert, MAX_SIGNATURE),
    };
    if content.len() as u64 > most {
        return Err(FwtoolError::TooLong {
            what,
            found: content.len() as u64,
            most,
        });
    }
    let len = file
        .seek(SeekFrom::End(0))
        .map_err(FwtoolError::file("read", 0))?;
    if len == 0 {
        return Err(FwtoolError::NoPayload);
    }
    let mut hasher = hash(file, len)?;
    let mut bytes = [header, content].concat();
    hasher.update(&bytes);

    let size = bytes.len() + TRAILER;
    let size = u32::try_from(size).expect("a chunk has at most MAX_METADATA bytes and a bit");
    let mut trailer = [0; TRAILER];
    trailer[..4].copy_from_slice(&MAGIC);
    BigEndian::write_u32(&mut trailer[4..8], checksum(&hasher));
    trailer[8] = kind;
    BigEndian::write_u32(&mut trailer[12..], size);
    bytes.extend_from_slice(&trailer);
    file.seek(SeekFrom::End(0))
        .and_then(|_| file.write_all(&bytes))
        .map_err(FwtoolError::file("write", len))
}
