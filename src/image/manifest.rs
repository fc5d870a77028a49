//! The manifest: what an image is and what is in it.
//!
//! ```json
//! { "format": 1, "hash": "sha256", "board": ["qemu,x86-64"], "version": "24.10.1",
//!   "security": 7, "compat": "1.0", "engine": 1,
//!   "members": [
//!     { "name": "CONTROL", "size": 18, "sha256": "..." },
//!     { "name": "config.tar.gz", "size": 2048, "sha256": "..." },
//!     { "name": "root.blocks", "size": 4096, "sha256": "..." },
//!     { "name": "root", "size": 8388608, "sha256": "...", "slot_part": "root",
//!       "raw_size": 8388608, "raw_sha256": "...", "block_size": 65536, "encoding": "plain" } ] }
//! ```
//!
//! `members` has every member but the manifest and its signatures, in the order of the image:
//! CONTROL, config.tar.gz if there is one, then each part after its block table. `size` and
//! `sha256` are of the member as it is stored.
//!
//! Unknown keys are refused unless they begin with `x-`, and so are keys given twice: two programs
//! must not read two things in one signed text. An unknown `format` or `hash` is refused before
//! anything else is looked at.
//!
//! The digests of a whole part are not computed while it streams, its blocks are; `raw_sha256` is
//! what the medium is compared with afterwards, `sha256` is for tools that take the tar apart.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::blocks::{self, DEFLATE_OVERHEAD, MAX_TABLE};
use super::error::ImageError;
use super::{CONFIG, CONTROL};
use crate::digest::Digest;
use crate::report::printable;

/// The format this program reads and writes.
const FORMAT: u64 = 1;

/// The only hash so far.
const HASH: &str = "sha256";

/// Board names, versions, names of parts: tar headers have room for a directory of 155 bytes and a
/// name of 100, a terminal for one line.
const MAX_NAME: usize = 64;

/// Most board names: the longest list in OpenWrt has a dozen.
const MAX_BOARDS: usize = 64;

/// Most parts: kernel, root, device tree, boot scripts, modem firmware; nobody has more than a few.
const MAX_PARTS: usize = 32;

/// Longest CONTROL: one line.
const MAX_CONTROL: u64 = 4 << 10;

/// Longest config.tar.gz: `plan` holds it in memory. A stock /etc has 100 KiB.
pub const MAX_CONFIG: u64 = 16 << 20;

/// Block sizes: a page of the kernel's cache to an erase block of large NAND. Powers of two.
pub(super) const BLOCK_SIZES: std::ops::RangeInclusive<u32> = (4 << 10)..=(1 << 20);

/// A manifest that makes sense. Whether it is to be believed is another question: the one inside
/// [`Verified`](super::Verified) is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Boards it is for, the first one the name of the image's directory.
    pub boards: Vec<String>,
    /// Version, for people.
    pub version: String,
    /// Security number, compared with the floor.
    pub security: u64,
    /// Compatibility version `MAJOR.MINOR`, as OpenWrt has it.
    pub compat: String,
    /// Other compatibility versions whose configuration its steps bring to `compat`.
    pub migrates_from: Vec<String>,
    /// Number of the configuration engine in the new system.
    pub engine: u32,
    /// CONTROL.
    pub control: MemberInfo,
    /// config.tar.gz.
    pub config: Option<MemberInfo>,
    /// The parts, in order.
    pub parts: Vec<PartInfo>,
}

/// A member that is not a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its name in the image's directory.
    pub name: String,
    /// Its length.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

/// How the blocks of a part are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As they are.
    Plain,
    /// Each a raw deflate stream.
    Deflate,
}

/// One part of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// Its name in the image's directory.
    pub name: String,
    /// The part of the slot it goes to.
    pub slot_part: String,
    /// Its length in the image.
    pub stored_size: u64,
    /// Its digest in the image.
    pub stored_sha256: Digest,
    /// Its length on the medium.
    pub raw_size: u64,
    /// Its digest on the medium.
    pub raw_sha256: Digest,
    /// Bytes of each block but the last, which may be shorter.
    pub block_size: u32,
    /// How blocks are stored.
    pub encoding: Encoding,
    /// Its block table.
    pub table: MemberInfo,
}

impl PartInfo {
    /// Number of blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.raw_size.div_ceil(u64::from(self.block_size))
    }

    /// Raw bytes of a block.
    #[must_use]
    pub fn block_len(&self, block: u64) -> u32 {
        let size = u64::from(self.block_size);
        let rest = self.raw_size.saturating_sub(block.saturating_mul(size));
        u32::try_from(rest).map_or(self.block_size, |rest| rest.min(self.block_size))
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ImageError::UnknownFormat`], [`ImageError::Manifest`] with the field.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        check_format(bytes)?;
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        Self::from_wire(wire).map_err(bad)
    }

    /// Writes it; the same manifest always gives the same bytes.
    ///
    /// # Errors
    /// [`ImageError::Manifest`] if [`parse`](Self::parse) would not take it back.
    pub fn to_json(&self) -> Result<Vec<u8>, ImageError> {
        let mut bytes =
            serde_json::to_vec_pretty(&self.to_wire()).map_err(|error| bad(error.to_string()))?;
        bytes.push(b'\n');
        let again = Self::parse(&bytes)?;
        debug_assert_eq!(&again, self);
        Ok(bytes)
    }

    /// The rules that types cannot express.
    fn from_wire(wire: Wire) -> Result<Self, String> {
        if wire.board.is_empty() || wire.board.len() > MAX_BOARDS {
            let count = wire.board.len();
            return Err(format!(
                "board has {count} names, 1 to {MAX_BOARDS} are possible"
            ));
        }
        for board in &wire.board {
            check_board(board)?;
        }
        check_version(&wire.version)?;
        check_compat(&wire.compat)?;
        if wire.migrates_from.len() > MAX_BOARDS {
            return Err(format!(
                "migrates_from has {} versions, at most {MAX_BOARDS} are possible",
                wire.migrates_from.len()
            ));
        }
        for compat in &wire.migrates_from {
            check_compat(compat)?;
        }
        let mut members = wire.members.into_iter().peekable();
        let control = members
            .next()
            .filter(|member| member.name == CONTROL)
            .ok_or("members does not begin with CONTROL")?
            .into_member(MAX_CONTROL)?;
        let config = members
            .next_if(|member| member.name == CONFIG)
            .map(|member| member.into_member(MAX_CONFIG))
            .transpose()?;
        let mut parts = Vec::new();
        while let Some(table) = members.next() {
            let part = members
                .next()
                .ok_or_else(|| format!("`{}` has no part after it", printable(&table.name)))?;
            parts.push(part.into_part(table.into_member(MAX_TABLE)?)?);
        }
        check_parts(&parts)?;
        Ok(Self {
            boards: wire.board,
            version: wire.version,
            security: wire.security,
            compat: wire.compat,
            migrates_from: wire.migrates_from,
            engine: wire.engine,
            control,
            config,
            parts,
        })
    }

    fn to_wire(&self) -> Wire {
        let mut members = vec![WireMember::of(&self.control)];
        members.extend(self.config.as_ref().map(WireMember::of));
        for part in &self.parts {
            members.push(WireMember::of(&part.table));
            members.push(WireMember {
                name: part.name.clone(),
                size: part.stored_size,
                sha256: part.stored_sha256,
                slot_part: Some(part.slot_part.clone()),
                raw_size: Some(part.raw_size),
                raw_sha256: Some(part.raw_sha256),
                block_size: Some(part.block_size),
                encoding: Some(part.encoding),
                extensions: Extensions,
            });
        }
        Wire {
            format: FORMAT,
            hash: HASH.to_owned(),
            board: self.boards.clone(),
            version: self.version.clone(),
            security: self.security,
            compat: self.compat.clone(),
            migrates_from: self.migrates_from.clone(),
            engine: self.engine,
            members,
            extensions: Extensions,
        }
    }
}

fn bad(problem: impl Into<String>) -> ImageError {
    ImageError::Manifest {
        problem: printable(&problem.into()),
    }
}

/// Looks at nothing but `format` and `hash`: all other keys may mean something else in another format.
fn check_format(bytes: &[u8]) -> Result<(), ImageError> {
    #[derive(Deserialize)]
    struct Probe {
        format: u64,
        #[serde(default)]
        hash: Option<String>,
    }
    let probe: Probe = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    if probe.format != FORMAT {
        return Err(ImageError::UnknownFormat {
            field: "format",
            found: probe.format.to_string(),
            wanted: "1",
        });
    }
    match probe.hash {
        Some(hash) if hash != HASH => Err(ImageError::UnknownFormat {
            field: "hash",
            found: printable(&hash),
            wanted: HASH,
        }),
        _ => Ok(()),
    }
}

/// Board names become a directory name of the tar.
fn check_board(board: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b",._+-".contains(&b);
    let starts = board.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && board.len() <= MAX_NAME && board.bytes().all(fits) {
        return Ok(());
    }
    Err(format!(
        "board `{}`: 1 to {MAX_NAME} letters, digits and , . _ + - only",
        printable(board)
    ))
}

fn check_version(version: &str) -> Result<(), String> {
    let fits = |b: u8| (b' '..=b'~').contains(&b);
    if !version.is_empty() && version.len() <= MAX_NAME && version.bytes().all(fits) {
        return Ok(());
    }
    Err(format!(
        "version `{}`: 1 to {MAX_NAME} printable ASCII characters only",
        printable(version)
    ))
}

fn check_compat(compat: &str) -> Result<(), String> {
    let number =
        |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match compat.split_once('.') {
        Some((major, minor)) if number(major) && number(minor) => Ok(()),
        _ => Err(format!(
            "compat `{}` is not of the form 1.0",
            printable(compat)
        )),
    }
}

/// Names of parts: they become file names of the tar and words in messages.
fn check_name(field: &str, name: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if starts && name.len() <= MAX_NAME && name.bytes().all(fits) {
        return Ok(());
    }
    Err(format!(
        "{field} `{}`: 1 to {MAX_NAME} lower-case letters, digits and . _ - only",
        printable(name)
    ))
}

/// That parts can have blocks of this many bytes.
///
/// # Errors
/// The rule, in words.
pub fn check_block_size(size: u32) -> Result<(), String> {
    if size.is_power_of_two() && BLOCK_SIZES.contains(&size) {
        return Ok(());
    }
    let (least, most) = (BLOCK_SIZES.start(), BLOCK_SIZES.end());
    Err(format!("possible are powers of two from {least} to {most}"))
}

/// Block size of an image whose longest part has so many bytes, unless the builder says otherwise: 64 KiB, and
/// more where it has more than 512 MiB. A router holds the table while it writes: this one has at most 256
/// KiB, 544 where parts are deflated, up to parts of 8 GiB.
#[must_use]
pub fn default_block_size(longest: u64) -> u32 {
    const MOST: u64 = 8 << 10;
    let mut size = 64 << 10;
    while longest.div_ceil(u64::from(size)) > MOST && size < *BLOCK_SIZES.end() {
        size *= 2;
    }
    size
}

/// Names given twice would make two members one, or write one part of the slot twice.
fn check_parts(parts: &[PartInfo]) -> Result<(), String> {
    if parts.is_empty() || parts.len() > MAX_PARTS {
        let count = parts.len();
        return Err(format!("{count} parts, 1 to {MAX_PARTS} are possible"));
    }
    let mut names = BTreeSet::from([super::MANIFEST, super::SIGNATURES, CONFIG]);
    let mut slot_parts = BTreeSet::new();
    for part in parts {
        if !names.insert(&part.table.name) || !names.insert(&part.name) {
            return Err(format!("the name of part `{}` is taken", part.name));
        }
        if !slot_parts.insert(&part.slot_part) {
            return Err(format!("two parts are for slot_part `{}`", part.slot_part));
        }
    }
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u64,
    hash: String,
    board: Vec<String>,
    version: String,
    security: u64,
    compat: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    migrates_from: Vec<String>,
    engine: u32,
    members: Vec<WireMember>,
    #[serde(flatten, skip_serializing)]
    #[expect(dead_code, reason = "its reading refuses unknown keys")]
    extensions: Extensions,
}

#[derive(Serialize, Deserialize)]
struct WireMember {
    name: String,
    size: u64,
    sha256: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot_part: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_sha256: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    #[serde(flatten, skip_serializing)]
    extensions: Extensions,
}

impl WireMember {
    fn of(member: &MemberInfo) -> Self {
        Self {
            name: member.name.clone(),
            size: member.size,
            sha256: member.sha256,
            slot_part: None,
            raw_size: None,
            raw_sha256: None,
            block_size: None,
            encoding: None,
            extensions: Extensions,
        }
    }

    fn into_member(self, most: u64) -> Result<MemberInfo, String> {
        let Self {
            name,
            size,
            sha256,
            slot_part: None,
            raw_size: None,
            raw_sha256: None,
            block_size: None,
            encoding: None,
            extensions: Extensions,
        } = self
        else {
            return Err(format!("`{}` has keys of a part", printable(&self.name)));
        };
        if name != CONTROL {
            check_name("name", &name)?;
        }
        if size > most {
            return Err(format!(
                "size of `{name}` is {size}, at most {most} are possible"
            ));
        }
        Ok(MemberInfo { name, size, sha256 })
    }

    fn into_part(self, table: MemberInfo) -> Result<PartInfo, String> {
        let name = self.name;
        check_name("name", &name)?;
        let missing = |field| format!("part `{name}` has no {field}");
        let part = PartInfo {
            slot_part: self.slot_part.ok_or_else(|| missing("slot_part"))?,
            stored_size: self.size,
            stored_sha256: self.sha256,
            raw_size: self.raw_size.ok_or_else(|| missing("raw_size"))?,
            raw_sha256: self.raw_sha256.ok_or_else(|| missing("raw_sha256"))?,
            block_size: self.block_size.ok_or_else(|| missing("block_size"))?,
            encoding: self.encoding.ok_or_else(|| missing("encoding"))?,
            table,
            name,
        };
        check_part(&part)?;
        Ok(part)
    }
}

fn check_part(part: &PartInfo) -> Result<(), String> {
    let name = &part.name;
    check_name("slot_part", &part.slot_part)?;
    if part.table.name != format!("{name}.blocks") {
        let table = &part.table.name;
        return Err(format!(
            "part `{name}` follows `{table}` and not `{name}.blocks`"
        ));
    }
    if part.raw_size == 0 {
        return Err(format!("raw_size of `{name}` is 0"));
    }
    check_block_size(part.block_size)
        .map_err(|rule| format!("block_size of `{name}` is {}, {rule}", part.block_size))?;
    let table = part.blocks().checked_mul(blocks::entry_size(part.encoding));
    if table != Some(part.table.size) {
        let (found, blocks) = (part.table.size, part.blocks());
        return Err(format!(
            "size of `{name}.blocks` is {found}, which is wrong for {blocks} blocks"
        ));
    }
    let fits = match part.encoding {
        Encoding::Plain => {
            part.stored_size == part.raw_size && part.stored_sha256 == part.raw_sha256
        }
        // The table was found to be short, so that the sum cannot overflow.
        Encoding::Deflate => {
            part.stored_size <= part.raw_size + part.blocks() * u64::from(DEFLATE_OVERHEAD)
        }
    };
    if !fits {
        return Err(format!(
            "part `{name}`: what is stored cannot be what is raw (size {}, raw_size {})",
            part.stored_size, part.raw_size
        ));
    }
    Ok(())
}

/// The keys of an object that this program does not know: let pass if they begin with `x-`.
struct Extensions;

impl<'de> Deserialize<'de> for Extensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for Extensions {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys that begin with x-")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if !key.starts_with("x-") {
                return Err(A::Error::custom(format_args!(
                    "unknown key `{}`",
                    printable(&key)
                )));
            }
            if let Some(twice) = seen.replace(key) {
                return Err(A::Error::custom(format_args!(
                    "key `{}` twice",
                    printable(&twice)
                )));
            }
        }
        Ok(Self)
    }
}
