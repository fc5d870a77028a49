//! The block table of a part: what each of its blocks must hash to.
//!
//! The table has no header; the manifest gives the number of blocks and the encoding. An entry is
//!
//! ```text
//! plain       raw sha256 32
//! deflated    raw sha256 32   stored length u32 BE   stored sha256 32
//! ```
//!
//! Blocks follow one another in the part without gaps. A deflated block is a raw deflate stream of
//! its own, so that damage stays in its block and any block can be read alone. Stored bytes are
//! hashed before they are inflated.

use super::error::ImageError;
use super::manifest::{Encoding, PartInfo};
use crate::digest::Digest;

/// Longest table. It is held in memory while its part is read: 64 KiB blocks of 1.9 GiB deflated,
/// or of 4 GiB plain.
pub const MAX_TABLE: u64 = 2 << 20;

/// By how much a deflate stream may be longer than what is in it: 5 bytes for each stretch that
/// does not shrink, which compressors cut at 16 to 64 KiB.
pub const DEFLATE_OVERHEAD: u32 = 512;

const DIGEST: usize = 32;
const PLAIN_ENTRY: usize = DIGEST;
const DEFLATED_ENTRY: usize = DIGEST + 4 + DIGEST;

/// Bytes of one entry.
#[must_use]
pub fn entry_size(encoding: Encoding) -> u64 {
    let size = match encoding {
        Encoding::Plain => PLAIN_ENTRY,
        Encoding::Deflate => DEFLATED_ENTRY,
    };
    size as u64
}

/// What the table says of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Digest of the block as it goes to the medium.
    pub raw: Digest,
    /// Length and digest in the image, if the block is deflated.
    pub stored: Option<(u32, Digest)>,
}

impl Entry {
    /// Appends the entry to a table.
    pub fn write(&self, table: &mut Vec<u8>) {
        table.extend(self.raw.0);
        if let Some((length, digest)) = self.stored {
            table.extend(length.to_be_bytes());
            table.extend(digest.0);
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (raw, rest) = bytes.split_first_chunk()?;
        let stored = match rest.split_first_chunk() {
            Some((length, digest)) => {
                Some((u32::from_be_bytes(*length), Digest(digest.try_into().ok()?)))
            }
            None => None,
        };
        Some(Self {
            raw: Digest(*raw),
            stored,
        })
    }
}

/// The table of a part, its digest checked, its lengths consistent.
#[derive(Debug)]
pub(super) struct BlockTable {
    bytes: Vec<u8>,
    entry_size: usize,
}

impl BlockTable {
    /// Takes the bytes of the table, which the manifest covers.
    pub(super) fn parse(bytes: Vec<u8>, part: &PartInfo) -> Result<Self, ImageError> {
        let bad = |problem: String| ImageError::Table {
            part: part.name.clone(),
            problem,
        };
        let table = Self {
            entry_size: match part.encoding {
                Encoding::Plain => PLAIN_ENTRY,
                Encoding::Deflate => DEFLATED_ENTRY,
            },
            bytes,
        };
        let entries = table.bytes.chunks(table.entry_size);
        if entries.len() as u64 != part.blocks() {
            let (found, wanted) = (entries.len(), part.blocks());
            return Err(bad(format!(
                "{found} entries, the part has {wanted} blocks"
            )));
        }
        if part.encoding == Encoding::Plain {
            return Ok(table);
        }
        let most = part.block_size.saturating_add(DEFLATE_OVERHEAD);
        let mut total: u64 = 0;
        for (index, entry) in entries.enumerate() {
            let Some((length, _)) = Entry::read(entry).and_then(|entry| entry.stored) else {
                return Err(bad(format!("entry {index} is cut off")));
            };
            if length == 0 || length > most {
                return Err(bad(format!(
                    "entry {index} has {length} stored bytes, 1 to {most} are possible"
                )));
            }
            total += u64::from(length);
        }
        if total != part.stored_size {
            let wanted = part.stored_size;
            return Err(bad(format!("{total} stored bytes, the part has {wanted}")));
        }
        Ok(table)
    }

    /// The entry of a block.
    pub(super) fn entry(&self, block: u64) -> Option<Entry> {
        let index = usize::try_from(block).ok()?;
        let start = index.checked_mul(self.entry_size)?;
        let end = start.checked_add(self.entry_size)?;
        Entry::read(self.bytes.get(start..end)?)
    }
}
