//! Images for raw flash: a kernel, a file system, or both behind each other.
//!
//! ```text
//! uImage     0   27 05 19 56, CRC-32 of these 64 bytes with this field as 0, time
//!            12  length of the data; 24 CRC-32 of the data; 32 name; 64 the data; big endian
//! squashfs   0   "hsqs"; 12 block size, 22 its logarithm, 28 major and 30 minor version: 4.0
//!            40  bytes used, 8 bytes; 48, 64, 72 where tables begin; 96 the rest; little endian
//! FIT        0   d0 0d fe ed, total size; 8, 12, 16 where structure, strings and reserved memory
//!                begin; 20 version, 24 oldest compatible version; 32, 36 lengths of strings and
//!                structure; big endian. Data may follow the total size.
//! combined   0   "CI", length of the kernel, length of the root: 8 hexadecimal digits each
//!            18  MD5 of both, 32 hexadecimal digits, and zeros; 65536 kernel; root
//!
//! raw image      uImage, up to a multiple of 4 KiB squashfs, ff up to multiples of erase blocks,
//!                de ad c0 de there: to the kernel of the new system these say that no overlay of
//!                an older one begins here
//! ```
//!
//! What lies between kernel and squashfs belongs to the kernel: padding, or a second stage.

use super::stream::{Fields, Stream, damaged};
use super::{Extent, Kind, Layouts, PayloadError};

pub(super) const UIMAGE: [u8; 4] = [0x27, 0x05, 0x19, 0x56];
pub(super) const SQUASHFS: [u8; 4] = *b"hsqs";
pub(super) const FIT: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
pub(super) const COMBINED: [u8; 2] = *b"CI";

/// The smallest erase block there is: the kernel of the new system looks for the squashfs at
/// multiples of the real one.
const ALIGNMENT: usize = 4096;

/// Header of a combined image, and the unit of its lengths.
const COMBINED_BLOCK: u64 = 64 << 10;

/// Reads a kernel and what follows it to the end.
pub(super) fn kernel(stream: &mut Stream<'_>) -> Result<(Kind, Layouts), PayloadError> {
    const PLACE: &str = "uImage";
    let mut header = [0; 64];
    stream.exactly(&mut header, PLACE)?;
    let fields = Fields(&header);
    let (header_crc, len, data_crc) = (fields.be32(4), fields.be32(12), fields.be32(24));
    if let Some(field) = header.get_mut(4..8) {
        field.fill(0);
    }
    if crc32fast::hash(&header) != header_crc {
        return Err(damaged(0, PLACE, "the checksum of the header is wrong"));
    }
    let mut hasher = crc32fast::Hasher::new();
    let len = u64::from(len);
    if len == 0 {
        return Err(damaged(0, PLACE, "it is empty"));
    }
    if stream.feed(len, &mut |piece| hasher.update(piece))? != len {
        return Err(stream.ends_in(PLACE));
    }
    if hasher.finalize() != data_crc {
        return Err(damaged(0, PLACE, "the checksum of the data is wrong"));
    }
    let end = stream.offset();
    // The rest of the block in which the kernel ends, then block by block.
    let mut block = [0; ALIGNMENT];
    let mut rest = usize::try_from(end.wrapping_neg() % ALIGNMENT as u64).unwrap_or_default();
    loop {
        let start = stream.offset();
        let found = stream.some(block.get_mut(..rest).unwrap_or_default())?;
        if rest == ALIGNMENT {
            if found.is_empty() {
                break;
            }
            if let Ok(len) = superblock(found) {
                stream.finish_after(start.saturating_add(len), "squashfs")?;
                let split = vec![
                    Extent::new("kernel", 0, start),
                    stream.extent_from(start, "root"),
                ];
                let whole = vec![stream.extent_from(0, "firmware")];
                return Ok((Kind::Firmware, vec![whole, split]));
            }
        }
        rest = ALIGNMENT;
    }
    // Padding announces a file system: without one the image was cut.
    if stream.offset() != end {
        return Err(damaged(end, PLACE, "no squashfs is in what follows"));
    }
    let whole = |part: &str| vec![stream.extent_from(0, part)];
    Ok((Kind::Kernel, vec![whole("kernel"), whole("firmware")]))
}

/// Reads a squashfs to the end.
pub(super) fn squashfs(stream: &mut Stream<'_>) -> Result<Layouts, PayloadError> {
    const PLACE: &str = "squashfs";
    let mut header = [0; 96];
    stream.exactly(&mut header, PLACE)?;
    let len = superblock(&header).map_err(|problem| damaged(0, PLACE, problem))?;
    stream.finish_after(len, PLACE)?;
    Ok(vec![vec![stream.extent_from(0, "root")]])
}

/// The bytes that a squashfs uses, from what it begins with.
fn superblock(head: &[u8]) -> Result<u64, &'static str> {
    let fields = Fields(head);
    if head.len() < 96 || !head.starts_with(&SQUASHFS) {
        return Err("no squashfs");
    }
    if (fields.le16(28), fields.le16(30)) != (4, 0) {
        return Err("not of version 4.0");
    }
    let log = u32::from(fields.le16(22));
    if !(12..=20).contains(&log) || 1_u32.checked_shl(log) != Some(fields.le32(12)) {
        return Err("the block size is none");
    }
    let used = fields.le64(40);
    // The tables that every squashfs has: owners, inodes, directories.
    if [48, 64, 72]
        .iter()
        .any(|at| !(96..used).contains(&fields.le64(*at)))
    {
        return Err("a table is outside of it");
    }
    Ok(used)
}

/// Reads a flattened image tree to the end.
pub(super) fn fit(stream: &mut Stream<'_>) -> Result<Layouts, PayloadError> {
    const PLACE: &str = "FIT";
    let mut header = [0; 40];
    stream.exactly(&mut header, PLACE)?;
    let fields = Fields(&header);
    let total = fields.be32(4);
    let within = |start: u32, len: u32| {
        start >= 40 && start.checked_add(len).is_some_and(|end| end <= total)
    };
    let (structure, strings, reserved) = (fields.be32(8), fields.be32(12), fields.be32(16));
    let (strings_len, structure_len) = (fields.be32(32), fields.be32(36));
    // Version 17 is of 2007, and `mkimage` calls it compatible with 2.
    if fields.be32(20) < 17 || !(2..=17).contains(&fields.be32(24)) {
        return Err(damaged(20, PLACE, "of an unknown version"));
    }
    // Sixteen bytes end a tree's structure and its list of reserved memory at least.
    if structure_len < 16
        || !within(structure, structure_len)
        || !within(strings, strings_len)
        || !within(reserved, 16)
    {
        return Err(damaged(
            4,
            PLACE,
            "the total size does not hold what is in it",
        ));
    }
    stream.finish_after(u64::from(total), PLACE)?;
    let whole = |part: &str| vec![stream.extent_from(0, part)];
    Ok(vec![whole("kernel"), whole("firmware")])
}

/// Reads a combined image to the end. Its MD5 protects against nothing that a signature does not.
pub(super) fn combined(stream: &mut Stream<'_>) -> Result<Layouts, PayloadError> {
    const PLACE: &str = "combined image";
    let mut header = [0; 50];
    stream.exactly(&mut header, PLACE)?;
    let bad = |problem| damaged(2, PLACE, problem);
    if !header.iter().skip(2).all(u8::is_ascii_hexdigit) {
        return Err(bad("the header is not hexadecimal"));
    }
    let length = |at: std::ops::Range<usize>| {
        let digits = header
            .get(at)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let length = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        length.filter(|len| *len > 0 && len % COMBINED_BLOCK == 0)
    };
    let (Some(kernel), Some(root)) = (length(2..10), length(10..18)) else {
        return Err(bad("a length is not a multiple of 64 KiB"));
    };
    // Both lengths are numbers of 32 bits.
    let root_start = COMBINED_BLOCK + kernel;
    let total = root_start + root;
    if stream.finish_after(total, PLACE)? != total {
        return Err(damaged(total, PLACE, "bytes follow it"));
    }
    Ok(vec![vec![
        Extent::new("kernel", COMBINED_BLOCK, kernel),
        Extent::new("root", root_start, root),
    ]])
}
