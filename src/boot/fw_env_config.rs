//! `/etc/fw_env.config`: where U-Boot's own tools, `fw_printenv` and `fw_setenv`, find the environment.
//!
//! ```text
//! # device    offset  size     [sector size  [sectors]]
//! /dev/mtd1   0x0     0x20000  0x20000       1
//! ```
//!
//! | field | value |
//! | --- | --- |
//! | device | an MTD `/dev/mtd1`, a UBI volume `/dev/ubi0:env` or `/dev/ubi0_3`, else a block device or file |
//! | offset | decimal; octal after `0`, hexadecimal after `0x`; on a block device a negative one counts from its end |
//! | size, sector size, sectors | hexadecimal, with or without `0x` |
//!
//! Sectors times their size is the window of the copy; without them, as many as its size takes.
//!
//! The file is theirs, so what they read is read: a line that begins with `#`, and one whose first words
//! are not a device and two numbers, is a comment; so are words after the fields and lines after two
//! places. What they refuse is refused, and with it numbers of which they would read only the beginning.
//! That a comment was meant to be a place shows later: a single environment and one of two copies differ
//! by a byte, and so does where their CRC is taken from.
//!
//! Numbers of MTDs and UBI devices are given in the order in which drivers come up, so they are turned
//! into names here, each time that the environment is opened. The places are then held to the rules of
//! the board file, as if they stood there.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::BootError;
use crate::board::{Board, Place, Store};
use crate::files::{self, InPlace, below};
use crate::flash::kernel;
use crate::report::{describe, printable};

/// Those in use have a few lines of comment and one or two places.
const MAX_FILE: u64 = 64 << 10;

/// So many places are looked at: the environment, or its two copies.
const COPIES: usize = 2;

/// A line of the file that is a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands, from 1.
    pub line: usize,
    /// The device.
    pub device: String,
    /// First byte; a negative one counts from the end of the device.
    pub offset: i64,
    /// Size of the copy in bytes, header included.
    pub size: u64,
    /// Bytes from `offset` on in which the copy may be, if that is flash with bad blocks.
    pub window: u64,
}

/// The places that the file at `path` names, as this board's file would have them, in the system whose
/// root is at `root`.
///
/// # Errors
/// [`BootError::Config`] with the line; [`BootError::File`] if the file cannot be read.
pub fn read(root: &Path, path: &Path, board: &Board) -> Result<Vec<Store>, BootError> {
    let path = below(root, path);
    let wrong = |(line, problem)| BootError::Config {
        path: path.clone(),
        line,
        problem,
    };
    let text = files::read(&path, MAX_FILE)?;
    let entries = parse(&String::from_utf8_lossy(&text)).map_err(wrong)?;
    let mut stores = Vec::new();
    for entry in &entries {
        let problem = |problem| wrong((entry.line, problem));
        stores.push(resolve(root, entry).map_err(problem)?);
        // After each, so that the line is the right one.
        board.check_with(&stores).map_err(problem)?;
    }
    Ok(stores)
}

/// The places in the text of such a file.
///
/// # Errors
/// The line, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if entries.len() == COPIES {
            break;
        }
        let line_number = index + 1;
        let entry = entry(line).map_err(|problem| (line_number, problem))?;
        entries.extend(entry.map(|entry| Entry {
            line: line_number,
            ..entry
        }));
    }
    if entries.is_empty() {
        let line = text.lines().count().max(1);
        if let Some(at) = text.lines().position(is_yaml) {
            let problem = "this is the YAML form that only libubootenv reads: write a line of device, \
                           offset and size for each copy";
            return Err((at + 1, problem.to_owned()));
        }
        return Err((line, "no line names a place of the environment".to_owned()));
    }
    Ok(entries)
}

fn entry(line: &str) -> Result<Option<Entry>, String> {
    if line.starts_with('#') {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(device), Some(offset), Some(size)) = (words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    let digits = offset.trim_start_matches(['-', '+']);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || !begins_hex(size) {
        return Ok(None);
    }
    let offset = integer(offset).ok_or_else(|| no_number("offset", offset))?;
    let size = hex(size).ok_or_else(|| no_number("size", size))?;
    // Words of a comment may follow.
    let is_number =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) || hex(word).is_some();
    let mut numbers = words.take_while(is_number);
    let mut number = |name, default| match numbers.next() {
        Some(word) => hex(word).ok_or_else(|| no_number(name, word)),
        None => Ok(default),
    };
    let sector = number("sector size", size)?;
    let sectors = number("number of sectors", size.div_ceil(sector.max(1)))?;
    let window = sector
        .checked_mul(sectors)
        .ok_or("the sectors are more than any device has")?;
    Ok(Some(Entry {
        line: 0,
        device: device.to_owned(),
        offset,
        size,
        window: if window == 0 { size } else { window },
    }))
}

/// True for a line of YAML: `name:`, `name: value`, `- name: value`, also with blanks before the colon.
fn is_yaml(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '-']);
    let name = line.split(':').next().unwrap_or_default().trim_end();
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.len() < line.len() && !name.is_empty() && name.bytes().all(is_word)
}

fn no_number(name: &str, word: &str) -> String {
    format!("the {name} is `{}`, which is no number", printable(word))
}

fn begins_hex(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_hexdigit())
}

/// A number as C reads it if its base is not given: `strtoll(..., 0)`.
fn integer(word: &str) -> Option<i64> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let (digits, radix) = match digits.strip_prefix('0') {
        Some(rest) => match rest.strip_prefix(['x', 'X']) {
            Some(hex) => (hex, 16),
            None => (digits, 8),
        },
        None => (digits, 10),
    };
    let value = unsigned(digits, radix).and_then(|value| i64::try_from(value).ok())?;
    Some(if negative { -value } else { value })
}

fn hex(word: &str) -> Option<u64> {
    let digits = word.strip_prefix("0x").or(word.strip_prefix("0X"));
    unsigned(digits.unwrap_or(word), 16)
}

fn unsigned(digits: &str, radix: u32) -> Option<u64> {
    // `from_str_radix` takes a sign, too.
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(digits, radix).ok().filter(|_| plain)
}

/// The place of an entry, as a board file would have it.
fn resolve(root: &Path, entry: &Entry) -> Result<Store, String> {
    let place = kernel::place(root, &entry.device).map_err(|error| describe(&error))?;
    // Elsewhere there are no bad blocks to make room for.
    let window = matches!(place, Place::Mtd(_)).then_some(entry.window);
    if let Some(window) = window.filter(|window| *window < entry.size) {
        return Err(format!(
            "its sectors have {window} bytes, the environment has {}",
            entry.size
        ));
    }
    let offset = match (u64::try_from(entry.offset), &place) {
        (Ok(0), Place::Ubi(_)) => 0,
        (_, Place::Ubi(_)) => {
            return Err("in a UBI volume the environment begins at its first byte".to_owned());
        }
        (Ok(offset), _) => offset,
        (Err(_), Place::Path(path)) => from_end(&below(root, path), entry.offset)?,
        (Err(_), Place::Mtd(_)) => return Err(no_end(&entry.device)),
    };
    Ok(Store {
        place,
        offset,
        size: Some(entry.size),
        window,
    })
}

fn no_end(device: &str) -> String {
    format!(
        "a negative offset counts from the end of a block device, {} is none",
        printable(device)
    )
}

/// Only of block devices: the tools ask the kernel for the size by a request that others do not know.
fn from_end(path: &Path, offset: i64) -> Result<u64, String> {
    let node = path.display().to_string();
    let is_block = fs::metadata(path).is_ok_and(|node| node.file_type().is_block_device());
    if !is_block {
        return Err(no_end(&node));
    }
    let device = InPlace::open_read_only(path).map_err(|error| describe(&error))?;
    let offset = device.len().checked_add_signed(offset);
    offset.ok_or_else(|| format!("{node} has {} bytes only", device.len()))
}
