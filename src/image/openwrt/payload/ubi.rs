//! UBI and UBIFS, by the headers that begin each erase block of the one and the whole of the other.
//!
//! ```text
//! UBI     0   "UBI#", version 1; 16 where the volume header is, 20 where the data is; 24 number of
//!             the image, the same in all blocks; 60 CRC of the 60 bytes; big endian
//! UBIFS   0   31 18 10 06, CRC of what follows; 16 length of this node: 4096; 20 type 6: superblock
//!         36  size of a logical erase block; 40 number of them; little endian
//! ```
//!
//! Both CRCs are CRC-32 without the final inversion.

use super::stream::{Fields, Stream, damaged};
use super::{Layouts, PayloadError};

pub(super) const UBI: [u8; 4] = *b"UBI#";
pub(super) const UBIFS: [u8; 4] = [0x31, 0x18, 0x10, 0x06];

/// Length of a header, and the smallest page: erase blocks are multiples of it.
const HEADER: usize = 64;
const PAGE: usize = 512;

/// The CRC of both formats.
fn crc(bytes: &[u8]) -> u32 {
    !crc32fast::hash(bytes)
}

/// What the headers of all erase blocks of one image have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Block {
    image: u32,
    /// Where the data begins in a block.
    data: u32,
}

/// The header of an erase block, if it is one.
fn header(bytes: &[u8]) -> Option<Block> {
    let bytes: &[u8; HEADER] = bytes.first_chunk()?;
    let fields = Fields(bytes);
    let (volume, data) = (fields.be32(16), fields.be32(20));
    (bytes.starts_with(&UBI)
        && bytes.get(4) == Some(&1)
        && volume >= 64
        && data >= volume.checked_add(64)?
        && crc(bytes.get(..60)?) == fields.be32(60))
    .then(|| Block {
        image: fields.be32(24),
        data,
    })
}

/// Reads an image of a UBI device to the end. Every erase block must begin with a header of the same
/// image, and the last one must be whole: `ubiformat` finds out only when it has begun to write.
/// How large they are says the distance to the second header. An image that was cut between two
/// blocks still looks whole.
pub(super) fn device(stream: &mut Stream<'_>) -> Result<Layouts, PayloadError> {
    const PLACE: &str = "UBI erase block";
    let mut page = [0; PAGE];
    let Some(first) = header(stream.some(&mut page)?) else {
        return Err(damaged(0, PLACE, "its header is wrong"));
    };
    let size = loop {
        let offset = stream.offset();
        let page = stream.some(&mut page)?;
        if page.len() < PAGE {
            // There are two at least: each has a copy of the volume table.
            return Err(stream.ends_in(PLACE));
        }
        if header(page) == Some(first) {
            break offset;
        }
    };
    if u64::from(first.data) >= size {
        return Err(damaged(20, PLACE, "its data would begin behind it"));
    }
    stream.skip(size.saturating_sub(PAGE as u64), PLACE)?;
    loop {
        let offset = stream.offset();
        let mut block = [0; HEADER];
        match stream.some(&mut block)? {
            [] => break,
            found if header(found) == Some(first) => {}
            _ => return Err(damaged(offset, PLACE, "its header is wrong")),
        }
        stream.skip(size.saturating_sub(HEADER as u64), PLACE)?;
    }
    let whole = |part: &str| vec![stream.extent_from(0, part)];
    Ok(vec![whole("ubi"), whole("firmware")])
}

/// Reads a UBIFS to the end.
pub(super) fn file_system(stream: &mut Stream<'_>) -> Result<Layouts, PayloadError> {
    const PLACE: &str = "UBIFS";
    let mut node = [0; 4096];
    stream.exactly(&mut node, PLACE)?;
    let fields = Fields(&node);
    if crc(node.get(8..).unwrap_or_default()) != fields.le32(4) {
        return Err(damaged(4, PLACE, "the checksum of the superblock is wrong"));
    }
    if fields.le32(16) != 4096 || node.get(20) != Some(&6) {
        return Err(damaged(16, PLACE, "it does not begin with its superblock"));
    }
    let (size, count) = (u64::from(fields.le32(36)), u64::from(fields.le32(40)));
    if size < 4096 || count == 0 {
        return Err(damaged(36, PLACE, "its erase blocks have no size"));
    }
    // A product of two numbers of 32 bits.
    stream.finish_after(size * count, PLACE)?;
    Ok(vec![vec![stream.extent_from(0, "root")]])
}
