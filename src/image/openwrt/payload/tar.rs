//! The sysupgrade tar, as the image builder writes it:
//!
//! ```text
//! sysupgrade-BOARD/          directory; BOARD is the device's name, its `,` mostly as `_`
//! sysupgrade-BOARD/CONTROL   "BOARD=name"; only that it is not empty matters
//! sysupgrade-BOARD/kernel    a member for each part: kernel, root, dtb
//! sysupgrade-BOARD/root
//! two zero blocks            the end of the tar, and zeros up to 10 KiB
//! ```
//!
//! The stock check looks at `CONTROL` of this board and lets the rest be anything that a tar program
//! reads; the stock flasher takes the first directory there is. A tar in which the two could mean
//! different things is refused here.

use super::stream::{Stream, damaged};
use super::{Extent, PayloadError, same_part};
use crate::image::header::{self, Kind, TAR_BLOCK};
use crate::report;

/// First bytes of every sysupgrade tar.
pub(super) const MAGIC: &[u8] = b"sysu";

pub(super) const PREFIX: &str = "sysupgrade-";
const CONTROL: &str = "CONTROL";

/// Most parts in a tar; the image builder knows three.
const MAX_PARTS: usize = 16;

/// Longest name of a part. A slot's part is a name in a board file.
const MAX_NAME: usize = 64;

/// Where the size stands in a tar header.
const SIZE: std::ops::Range<usize> = 124..136;

const PLACE: &str = "tar";

/// Reads the tar to its end.
pub(super) fn read(
    stream: &mut Stream<'_>,
    board: Option<&str>,
) -> Result<Vec<Extent>, PayloadError> {
    let mut directory = None;
    let mut control = false;
    let mut parts: Vec<Extent> = Vec::new();
    while let Some(member) = next(stream)? {
        let bad = |problem: &str| {
            let place = format!("tar member {}", report::printable(&member.name));
            damaged(member.offset, &place, problem)
        };
        let Some(directory) = &directory else {
            // The stock check does without this entry, but its flasher then writes nothing.
            if member.kind != Kind::Directory {
                return Err(bad("the directory of the board does not come first"));
            }
            check_directory(&member.name, board).map_err(|found| match (found, board) {
                (Some(found), Some(board)) => PayloadError::WrongBoard {
                    found: report::printable(&found),
                    wanted: report::printable(board),
                },
                _ => bad("not a directory sysupgrade-BOARD/"),
            })?;
            directory = Some(member.name);
            continue;
        };
        if member.kind == Kind::Directory {
            return Err(bad("a second directory"));
        }
        let name = match member.name.strip_prefix(directory.as_str()) {
            Some(name) if is_name(name) => name,
            Some(_) => return Err(bad("not the name of a part")),
            None => return Err(bad("outside the directory of the board")),
        };
        if member.size == 0 {
            return Err(bad("it is empty"));
        }
        let start = stream.offset();
        if name == CONTROL {
            if control {
                return Err(bad("it is there twice"));
            }
            control = true;
        } else {
            if parts.iter().any(|part| same_part(&part.part, name)) {
                return Err(bad("it is there twice"));
            }
            if parts.len() == MAX_PARTS {
                return Err(bad("too many members"));
            }
            parts.push(Extent::new(name, start, member.size));
        }
        let place = format!("tar member {name}");
        stream.skip(member.size, &place)?;
        stream.skip(header::padding(member.size) as u64, &place)?;
    }
    let offset = stream.offset();
    if !control {
        return Err(damaged(offset, PLACE, "no member CONTROL"));
    }
    if parts.is_empty() {
        return Err(damaged(offset, PLACE, "no member that is a part"));
    }
    let mut zero = true;
    stream.feed(u64::MAX, &mut |piece| {
        zero &= piece.iter().all(|byte| *byte == 0);
    })?;
    match zero {
        true => Ok(parts),
        false => Err(damaged(
            offset,
            PLACE,
            "other bytes than zeros follow its end",
        )),
    }
}

struct Member {
    offset: u64,
    name: String,
    kind: Kind,
    size: u64,
}

/// The next member's header, `None` at the end of the tar. The end must be there: a tar that was cut
/// between two members has none.
fn next(stream: &mut Stream<'_>) -> Result<Option<Member>, PayloadError> {
    let offset = stream.offset();
    let mut block = [0; TAR_BLOCK];
    stream.exactly(&mut block, PLACE)?;
    if block == [0; TAR_BLOCK] {
        stream.exactly(&mut block, PLACE)?;
        return match block == [0; TAR_BLOCK] {
            true => Ok(None),
            false => Err(damaged(offset, PLACE, "a lone zero block")),
        };
    }
    let bad = |problem: &str| damaged(offset, "tar header", problem);
    let fields = header::parse(&block).map_err(bad)?;
    // Programs differ in what they make of odd numbers, and a length has one meaning here.
    if block.get(SIZE).and_then(number) != Some(fields.size) {
        return Err(bad("the size is no plain number"));
    }
    if fields.kind == Kind::Directory && fields.size != 0 {
        return Err(bad("a directory with contents"));
    }
    Ok(Some(Member {
        offset,
        name: fields.name,
        kind: fields.kind,
        size: fields.size,
    }))
}

/// A size as POSIX and GNU write it: octal digits ended by NUL or blank, or 0x80 and 11 bytes.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        let (high, low) = rest.split_last_chunk::<8>()?;
        let low = u64::from_be_bytes(*low);
        return high.iter().all(|byte| *byte == 0).then_some(low);
    }
    let end = field.iter().position(|byte| matches!(byte, 0 | b' '));
    let (digits, rest) = field.split_at(end.unwrap_or(field.len()));
    if digits.is_empty() || !rest.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// The error is the board that the directory names, if it names one.
fn check_directory(name: &str, board: Option<&str>) -> Result<(), Option<String>> {
    let found = name
        .strip_prefix(PREFIX)
        .and_then(|name| name.strip_suffix('/'))
        .filter(|found| !found.is_empty() && !found.contains('/'))
        .ok_or(None)?;
    match board {
        Some(board) if found != board && found != board.replace(',', "_") => {
            Err(Some(found.to_owned()))
        }
        _ => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed)
}
