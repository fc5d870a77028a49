//! tar headers: one for each member, read and written here only.
//!
//! Regular files and the one directory, ustar or GNU, nothing else: no pax records, no long names,
//! no links. A header decides nothing; it must say what the manifest says.

use std::io::{self, Write};

use tar::{EntryType, Header};

/// Headers and contents are padded to this.
pub(super) const TAR_BLOCK: usize = 512;

/// The checksum of a tar header counts its own bytes as this many spaces, from here on.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// The three things in a header that are compared with the manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
}

/// How many zero bytes follow a content of this length.
pub(super) fn padding(size: u64) -> usize {
    // At most 511, so it fits everywhere.
    usize::try_from(size.wrapping_neg() % TAR_BLOCK as u64).unwrap_or_default()
}

/// Reads a header. The error is what is wrong with it.
pub(super) fn parse(block: &[u8; TAR_BLOCK]) -> Result<Fields, &'static str> {
    let header = Header::from_byte_slice(block);
    if header.as_ustar().is_none() && header.as_gnu().is_none() {
        return Err("not a ustar or GNU tar header");
    }
    if checksum(&block[CHECKSUM]) != Some(sum(block)) {
        return Err("the checksum of the tar header is wrong");
    }
    let kind = match header.entry_type() {
        EntryType::Regular => Kind::File,
        EntryType::Directory => Kind::Directory,
        _ => return Err("neither a plain file nor a directory"),
    };
    let size = header
        .size()
        .map_err(|_| "the size in the tar header is not a number")?;
    let name = String::from_utf8(header.path_bytes().into_owned())
        .map_err(|_| "the name in the tar header is not text")?;
    Ok(Fields { name, kind, size })
}

fn sum(block: &[u8; TAR_BLOCK]) -> u32 {
    let rest = block[..CHECKSUM.start].iter().chain(&block[CHECKSUM.end..]);
    rest.map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ')
}

/// Reads the checksum field in one of its two spellings: six digits, NUL, space; or seven digits
/// and NUL. Strictly, because nothing else covers these bytes.
fn checksum(field: &[u8]) -> Option<u32> {
    let ([digits @ .., 0, b' '] | [digits @ .., 0]) = field else {
        return None;
    };
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'7' => Some(number << 3 | u32::from(digit - b'0')),
        _ => None,
    })
}

/// Writes the header of a member: owner root, no time, so that two builds are identical.
pub(super) fn write(out: &mut dyn Write, name: &str, kind: Kind, size: u64) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    let (entry_type, mode) = match kind {
        Kind::Directory => (EntryType::Directory, 0o755),
        Kind::File => (EntryType::Regular, 0o644),
    };
    header.set_entry_type(entry_type);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    out.write_all(header.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str, kind: Kind, size: u64) -> [u8; TAR_BLOCK] {
        let mut bytes = Vec::new();
        write(&mut bytes, name, kind, size).unwrap();
        bytes.try_into().unwrap()
    }

    #[test]
    fn a_header_survives() {
        let long = format!("sysupgrade-{}/{}", "b".repeat(64), "n".repeat(64));
        for (name, kind, size) in [
            ("sysupgrade-x/", Kind::Directory, 0),
            ("sysupgrade-x/kernel", Kind::File, 1),
            (&long, Kind::File, 12 << 30),
        ] {
            let fields = parse(&block(name, kind, size)).unwrap();
            let name = name.to_owned();
            assert_eq!(fields, Fields { name, kind, size });
        }
    }

    #[test]
    fn a_header_with_any_bit_flipped_is_refused() {
        let mut block = block("sysupgrade-x/kernel", Kind::File, 4711);
        for bit in 0..TAR_BLOCK * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&block).is_err(), "byte {} bit {}", bit / 8, bit % 8);
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn other_kinds_of_entries_are_refused() {
        for kind in b"\x001234678xgLKSVMA" {
            let mut header =
                Header::from_byte_slice(&block("sysupgrade-x/a", Kind::File, 0)).clone();
            header.set_entry_type(EntryType::new(*kind));
            header.set_cksum();
            let answer = parse(header.as_bytes());
            // NUL is how archives from before POSIX spell a plain file.
            assert_eq!(answer.is_ok(), *kind == 0, "type {kind}: {answer:?}");
        }
    }

    #[test]
    fn contents_are_padded_to_whole_blocks() {
        for (size, zeros) in [
            (0, 0),
            (1, 511),
            (511, 1),
            (512, 0),
            (513, 511),
            (u64::MAX, 1),
        ] {
            assert_eq!(padding(size), zeros, "{size}");
        }
    }
}
