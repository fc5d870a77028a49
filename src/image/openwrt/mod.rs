//! Stock OpenWrt images: a payload that some flasher understands, with chunks of metadata and
//! signature behind it.
//!
//! ```text
//! payload      sysupgrade tar, squashfs, uImage, FIT, UBI, disk...; perhaps in gzip     [`payload`]
//! info chunk   what it is, as JSON                                                     [`metadata`]
//! sign. chunk  certificates, and a signature over all bytes before this chunk          [`crate::trust::ucert`]
//! ```
//!
//! The signature is at the end and covers the bytes as they are, so the file is read through before
//! anything is made of it: it has to be a file. Whoever can write to it could change it after that;
//! therefore the first reading leaves a digest of every block, 32 bytes for 64 KiB, and all later
//! ones hand out a block only if it has not changed.
//!
//! ```text
//! 1  the chunks, from the end on; their checksums        nothing is believed yet
//! 2  all bytes: signature, digests of the blocks         from here on the image is signed, or the
//!                                                        board file lets unsigned ones pass
//! 3  metadata; which bytes of the payload are which part
//! 4  length and digest of each part                      what the medium is compared with later
//! 5  the parts, as they are written
//! ```

pub mod compat;
pub mod fwtool;
pub mod metadata;
pub mod payload;

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

pub use compat::{Compat, Device};
use fwtool::Tail;
pub use metadata::Metadata;
use payload::{Extent, PayloadError, Wanted};

use super::ImageError;
use super::candidate::{Contents, Format, Member, Part};
use crate::digest::{Digest, Hasher};
use crate::trust::usign::KeyId;
use crate::trust::{Trust, TrustError, ucert};

/// Bytes of a block that is checked before any of it is used.
const BLOCK: usize = 64 << 10;

/// Most bytes of an inflated payload: far above any flash of a router, far below a bomb's harm, which
/// is time: nothing is held.
const MAX_PAYLOAD: u64 = 16 << 30;

/// A file, or what stands for one.
pub trait Source: Read + Seek {}

impl<T: Read + Seek> Source for T {}

/// What an image would be installed to.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Name of the device, which the directory of a sysupgrade tar bears; `None`: any will do.
    pub board: Option<&'a str>,
    /// Names of the parts of the slot; `None` where no slot is known, and the image is only looked at.
    pub parts: Option<Vec<&'a str>>,
}

/// A stock image, of which nothing has been verified.
pub struct Stock {
    source: Box<dyn Source>,
    tail: Tail,
}

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stock")
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}

impl Stock {
    /// Finds the chunks, and checks their checksums.
    ///
    /// # Errors
    /// [`ImageError::Chunks`]
    pub fn open(source: impl Source + 'static) -> Result<Self, ImageError> {
        let mut source = Box::new(source);
        let tail = fwtool::read(&mut source)?;
        let mut stock = Self { source, tail };
        let says_nothing = stock.tail.metadata.is_none() && stock.tail.signature.is_none();
        if says_nothing && stock.looks_like()?.is_none() {
            return Err(ImageError::NotAnImage {
                problem: "it is neither one of sysupgrade-pack's nor one of OpenWrt's".to_owned(),
            });
        }
        Ok(stock)
    }

    /// What the payload begins like, in words.
    fn looks_like(&mut self) -> Result<Option<&'static str>, ImageError> {
        let mut head = Vec::new();
        rewind(&mut self.source, 0)?;
        let most = self.tail.payload.min(payload::MAX_MAGIC);
        let read = (&mut self.source).take(most).read_to_end(&mut head);
        read.map_err(|source| ImageError::Source { offset: 0, source })?;
        Ok(payload::looks_like(&head))
    }

    /// What the image says of itself **if it is to be believed**.
    ///
    /// # Errors
    /// [`ImageError`]
    pub(super) fn show(&mut self) -> Result<Contents, ImageError> {
        let kind = self.looks_like()?.unwrap_or("unknown");
        let metadata = self.tail.metadata.as_deref();
        let chain = self.tail.signature.as_ref().map(|chunk| &chunk.ucert);
        Ok(Contents {
            format: Format::Stock(kind.to_owned()),
            signers: chain
                .and_then(|chain| ucert::claimed_signer(chain))
                .into_iter()
                .collect(),
            ..describe(metadata.map(Metadata::parse).transpose()?)
        })
    }

    /// Checks the signature; then finds the parts in the payload, and measures them.
    ///
    /// # Errors
    /// [`ImageError`]
    pub(super) fn verify(
        self,
        trust: &Trust,
        target: &Target<'_>,
    ) -> Result<StockImage, ImageError> {
        let metadata_text = self.tail.metadata.clone();
        let (mut bytes, signers) = Checked::verify(self, trust)?;
        // A stock image has no security number: it may be as old as it likes.
        trust.check_floor(0)?;
        let metadata = metadata_text.as_deref().map(Metadata::parse).transpose()?;
        let wanted = Wanted {
            board: target.board,
            parts: target.parts.as_deref(),
            most: MAX_PAYLOAD,
        };
        let len = bytes.len;
        let payload = payload::survey(&mut bytes, len, &wanted).map_err(payload_error)?;
        bytes.begin_anew();
        let parts = measure(
            payload::plain(&mut bytes, payload.gzip, MAX_PAYLOAD),
            &payload.parts,
        )?;
        bytes.begin_anew();
        let contents = Contents {
            format: Format::Stock(payload.to_string()),
            signers,
            parts,
            ..describe(metadata)
        };
        Ok(StockImage {
            contents,
            extents: payload.parts,
            stream: Box::new(payload::plain(bytes, payload.gzip, MAX_PAYLOAD)),
            at: 0,
            next: 0,
        })
    }
}

/// An error of the payload; what came up through its source is one of the image.
fn payload_error(error: PayloadError) -> ImageError {
    match error {
        PayloadError::Source { offset, source } => match ImageError::from_io(source) {
            Ok(error) => error,
            Err(source) => PayloadError::Source { offset, source }.into(),
        },
        error => error.into(),
    }
}

/// What the metadata say.
fn describe(metadata: Option<Metadata>) -> Contents {
    let empty = Contents::default();
    let Some(metadata) = metadata else {
        return Contents {
            version: "unknown".to_owned(),
            ..empty
        };
    };
    let version = metadata.version.version.or(metadata.version.revision);
    Contents {
        boards: metadata.devices,
        version: version.unwrap_or_else(|| "unknown".to_owned()),
        compat: metadata.compat,
        compat_message: metadata.compat_message,
        ..empty
    }
}

/// Length and digest of each part.
fn measure(mut stream: impl Read, extents: &[Extent]) -> Result<Vec<Part>, ImageError> {
    let mut at = 0;
    let mut parts = Vec::new();
    for extent in extents {
        pass(&mut stream, &mut at, extent.start, &mut |_| {})?;
        let mut hasher = Hasher::new();
        let end = extent.start.saturating_add(extent.len);
        pass(&mut stream, &mut at, end, &mut |bytes| hasher.update(bytes))?;
        parts.push(Part {
            name: extent.part.clone(),
            size: extent.len,
            sha256: hasher.finish(),
        });
    }
    Ok(parts)
}

/// Reads on to a place of the payload.
fn pass(
    stream: &mut dyn Read,
    at: &mut u64,
    to: u64,
    see: &mut dyn FnMut(&[u8]),
) -> Result<(), ImageError> {
    let mut buffer = [0; 16 << 10];
    while *at < to {
        let most = usize::try_from(to - *at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = read(stream, &mut buffer[..most], *at)?;
        see(&buffer[..count]);
        *at += count as u64;
    }
    Ok(())
}

/// Reads some bytes; the end of the stream is an error.
fn read(stream: &mut dyn Read, bytes: &mut [u8], at: u64) -> Result<usize, ImageError> {
    loop {
        match stream.read(bytes) {
            Ok(0) => {
                return Err(ImageError::Truncated {
                    offset: at,
                    member: "the payload".to_owned(),
                });
            }
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(ImageError::from_io(error)
                    .unwrap_or_else(|source| ImageError::Source { offset: at, source }));
            }
        }
    }
}

/// The bytes of the payload, of which each block is the one that was signed.
struct Checked {
    source: Box<dyn Source>,
    len: u64,
    table: Vec<Digest>,
    /// Number of the next block.
    next: u64,
    /// A block whose bytes were checked, and how many of its last bytes have not been handed out.
    block: Vec<u8>,
    left: usize,
}

impl Checked {
    /// Reads the file through, up to what the signature covers.
    fn verify(stock: Stock, trust: &Trust) -> Result<(Self, Vec<KeyId>), ImageError> {
        let Stock { mut source, tail } = stock;
        let proof = match &tail.signature {
            Some(chunk) => Some(ucert::verify(&chunk.ucert, trust)?),
            None if trust.unsigned => None,
            None => return Err(TrustError::Missing.into()),
        };
        let message = tail
            .signature
            .as_ref()
            .map_or(tail.payload, |chunk| chunk.message);
        let mut verifier = proof.as_ref().map(ucert::Proof::verifier);
        let mut table = Vec::new();
        let mut block = vec![0; BLOCK];
        let mut at = 0;
        rewind(&mut source, 0)?;
        while at < message {
            // Blocks end where the payload does, so that the table is of it alone.
            let end = if at < tail.payload {
                tail.payload
            } else {
                message
            };
            let len = usize::try_from(end - at).map_or(BLOCK, |left| left.min(BLOCK));
            fill(&mut source, &mut block[..len], at)?;
            if let Some(verifier) = &mut verifier {
                verifier.update(&block[..len]);
            }
            if at < tail.payload {
                table.push(Digest::of(&block[..len]));
            }
            at += len as u64;
        }
        if let (Some(proof), Some(verifier)) = (&proof, verifier)
            && !verifier.finish()
        {
            return Err(TrustError::BadSignature { id: proof.key }.into());
        }
        let bytes = Self {
            source,
            len: tail.payload,
            table,
            next: 0,
            block: Vec::new(),
            left: 0,
        };
        Ok((bytes, proof.map(|proof| proof.key).into_iter().collect()))
    }

    /// The next byte is the first one again, wherever reading has stopped.
    fn begin_anew(&mut self) {
        self.next = 0;
        self.left = 0;
    }

    fn load(&mut self) -> Result<bool, ImageError> {
        let start = self.next.saturating_mul(BLOCK as u64);
        if start >= self.len {
            return Ok(false);
        }
        let len = usize::try_from(self.len - start).map_or(BLOCK, |left| left.min(BLOCK));
        self.block.resize(len, 0);
        rewind(&mut self.source, start)?;
        fill(&mut self.source, &mut self.block, start)?;
        let wanted = usize::try_from(self.next)
            .ok()
            .and_then(|next| self.table.get(next));
        if wanted != Some(&Digest::of(&self.block)) {
            return Err(ImageError::Changed { offset: start });
        }
        self.next += 1;
        self.left = len;
        Ok(true)
    }
}

impl Read for Checked {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() || (self.left == 0 && !self.load()?) {
            return Ok(0);
        }
        let ready = &self.block[self.block.len() - self.left..];
        let count = ready.len().min(bytes.len());
        bytes[..count].copy_from_slice(&ready[..count]);
        self.left -= count;
        Ok(count)
    }
}

fn rewind(source: &mut dyn Source, to: u64) -> Result<(), ImageError> {
    let sought = source.seek(SeekFrom::Start(to));
    sought
        .map(drop)
        .map_err(|source| ImageError::Source { offset: to, source })
}

fn fill(source: &mut dyn Source, bytes: &mut [u8], at: u64) -> Result<(), ImageError> {
    source
        .read_exact(bytes)
        .map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => ImageError::Changed { offset: at },
            _ => ImageError::Source { offset: at, source },
        })
}

/// A stock image that may be installed as far as its signature goes.
pub struct StockImage {
    contents: Contents,
    extents: Vec<Extent>,
    stream: Box<dyn Read>,
    /// How far the stream has been read.
    at: u64,
    /// Number of the next part.
    next: usize,
}

impl fmt::Debug for StockImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StockImage")
            .field("contents", &self.contents)
            .finish_non_exhaustive()
    }
}

impl StockImage {
    pub(super) fn contents(&self) -> &Contents {
        &self.contents
    }

    pub(super) fn next_part(&mut self) -> Result<Option<Member<'_>>, ImageError> {
        self.check_idle()?;
        let (Some(extent), Some(part)) = (
            self.extents.get(self.next).cloned(),
            self.contents.parts.get(self.next).cloned(),
        ) else {
            return Ok(None);
        };
        pass(&mut self.stream, &mut self.at, extent.start, &mut |_| {})?;
        self.next += 1;
        let end = extent.start.saturating_add(extent.len);
        Ok(Some(Member::Part(
            part,
            Box::new(PartBytes { image: self, end }),
        )))
    }

    pub(super) fn finish(self) -> Result<(), ImageError> {
        self.check_idle()?;
        match self.contents.parts.get(self.next) {
            None => Ok(()),
            Some(part) => Err(ImageError::Unfinished {
                member: part.name.clone(),
            }),
        }
    }

    /// The part before was read to its end.
    fn check_idle(&self) -> Result<(), ImageError> {
        let open = self
            .next
            .checked_sub(1)
            .and_then(|last| self.extents.get(last));
        match open {
            Some(extent) if self.at < extent.start.saturating_add(extent.len) => {
                Err(ImageError::Unfinished {
                    member: extent.part.clone(),
                })
            }
            _ => Ok(()),
        }
    }
}

struct PartBytes<'a> {
    image: &'a mut StockImage,
    end: u64,
}

impl Read for PartBytes<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let StockImage { stream, at, .. } = &mut *self.image;
        let left = self.end.saturating_sub(*at);
        let most = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        if most == 0 {
            return Ok(0);
        }
        let count = read(stream, &mut bytes[..most], *at)?;
        *at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// Two parts of more than a block, and the padding of a tar program, which no part reaches.
    fn payload(parts: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        let mut append = |name: &str, kind, bytes: &[u8]| {
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            let name = format!("sysupgrade-acme_x/{name}");
            tar.append_data(&mut header, name, bytes).expect("a vector");
        };
        append("", tar::EntryType::Directory, b"");
        append("CONTROL", tar::EntryType::Regular, b"BOARD=acme_x\n");
        for (name, bytes) in parts {
            append(name, tar::EntryType::Regular, bytes);
        }
        let mut bytes = tar.into_inner().expect("a vector");
        bytes.resize(bytes.len().next_multiple_of(10 << 10), 0);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("a vector");
        encoder.finish().expect("a vector")
    }

    #[test]
    fn what_is_written_is_what_was_measured() {
        let bytes = |seed: u32, len: u32| -> Vec<u8> {
            let mix = |at: u32| (at ^ seed).wrapping_mul(0x9e37_79b9).to_be_bytes()[0];
            (0..len).map(mix).collect()
        };
        let parts = [("kernel", bytes(1, 150_000)), ("root", bytes(2, 200_001))];
        let plain = payload(&parts);
        for image in [gzip(&plain), plain] {
            let mut trust = Trust::in_any_of([]);
            trust.unsigned = true;
            let target = Target {
                board: Some("acme,x"),
                parts: Some(vec!["kernel", "root"]),
            };
            let stock = Stock::open(Cursor::new(image)).expect("no chunks are no fault");
            let mut image = stock.verify(&trust, &target).expect("unsigned passes");
            for (name, wanted) in &parts {
                let Ok(Some(Member::Part(part, mut stream))) = image.next_part() else {
                    panic!("no part {name}");
                };
                let mut found = Vec::new();
                stream.read_to_end(&mut found).expect("it was read before");
                assert_eq!(
                    (part.name.as_str(), part.size),
                    (*name, wanted.len() as u64)
                );
                assert!(found == *wanted, "{name} is not what was put in");
                assert_eq!(part.sha256, Digest::of(wanted));
            }
            image.finish().expect("all was read");
        }
    }
}
