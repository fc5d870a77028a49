//! What an update costs a router, before anybody has it: two images, compared on the build host.
//!
//! A router that runs OLD and installs NEW gets each block of NEW from the nearest place:
//!
//! ```text
//! in place     OLD has the block where NEW wants it
//! copied       OLD has the block elsewhere, in any part, at a multiple of the block size
//! fetched      the rest, and with it what is between two such blocks and shorter than 64 KiB: that is
//!              cheaper to read than to ask again
//! ```
//!
//! The manifest, the signatures, the configuration and the block tables are fetched in any case. What
//! is written depends on what the other slot holds, in pages of 4 KiB; the two ends of that are told:
//! it holds OLD, too, or nothing that is right.
//!
//! The same is counted for other block sizes than the one NEW was built with, so that a builder can
//! choose: smaller blocks find more that is there already, and have a longer table.
//!
//! Images are read once, front to back, and every digest in them is checked, but no signature: there
//! is no key here, and nothing but numbers comes out. Memory: a window of 1 MiB, and for each 4 KiB
//! page of OLD 16 bytes, which are half of its digest, for each way to look it up: about 48 in all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Read};

use flate2::{Compress, Compression};
use serde::Serialize;
use thiserror::Error;

use super::blocks::{MAX_TABLE, entry_size};
use super::build::deflate;
use super::error::ImageError;
use super::header;
use super::manifest::{BLOCK_SIZES, Encoding, Manifest, PartInfo};
use super::read::{Member, SHORTEST_GAP, Unverified};
use crate::digest::Digest;
use crate::report::printable;

/// What a device compares before it writes: a page of the kernel's cache.
const PAGE: usize = 4 << 10;

/// How much is looked at at once: a multiple of every block size.
const WINDOW: usize = 1 << 20;

/// Block sizes that every report has.
const USUAL: [u32; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// Half of a digest: enough to count what is equal, where nobody gains by a collision.
type Print = u128;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum DeltaError {
    /// It is not an image, or damaged.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A block cannot be deflated as the builder would.
    #[error("cannot deflate a block")]
    Deflate(#[from] io::Error),
}

/// What a router has that runs an image.
#[derive(Debug)]
pub struct Running {
    version: String,
    bytes: u64,
    /// By `slot_part`: each page, in order.
    pages: BTreeMap<String, Vec<Print>>,
    /// By block size: each block, of all parts, sorted.
    blocks: BTreeMap<u32, Vec<Print>>,
}

impl Running {
    /// Reads OLD.
    ///
    /// # Errors
    /// [`DeltaError::Image`]
    pub fn read(old: impl Read) -> Result<Self, DeltaError> {
        let sizes = (0..).map(|shift| BLOCK_SIZES.start() << shift);
        let sizes = sizes.take_while(|size| BLOCK_SIZES.contains(size));
        let mut blocks: BTreeMap<_, _> = sizes.map(|size| (size, Vec::new())).collect();
        let mut pages: BTreeMap<String, Vec<Print>> = BTreeMap::new();
        let mut bytes = 0;
        let image = Unverified::open(Counted(old, &mut bytes))?;
        let version = image.inspect()?.version;
        each_window(image, |_, window| {
            for (size, known) in &mut blocks {
                let prints = window.pages.chunks(pages_of(*size)).map(block_print);
                known.extend(prints);
            }
            let slot_part = window.part.slot_part.clone();
            pages.entry(slot_part).or_default().extend(&window.pages);
            Ok(())
        })?;
        for known in blocks.values_mut() {
            known.sort_unstable();
        }
        Ok(Self {
            version,
            bytes,
            pages,
            blocks,
        })
    }

    /// Reads NEW, and says what it costs this router.
    ///
    /// # Errors
    /// [`DeltaError`]
    pub fn update(&self, new: impl Read) -> Result<Delta, DeltaError> {
        let mut bytes = 0;
        let image = Unverified::open(Counted(new, &mut bytes))?;
        let manifest = image.inspect()?;
        let own = manifest.parts.iter().map(|part| part.block_size);
        let sizes: BTreeSet<u32> = own.chain(USUAL).collect();
        let mut parts: Vec<_> = manifest
            .parts
            .iter()
            .map(|part| Counter::new(part, &sizes))
            .collect();
        let mut compress = Compress::new(Compression::best(), false);
        each_window(image, |index, window| {
            let known = self.pages.get(&window.part.slot_part);
            let old = known.map_or(&[][..], Vec::as_slice);
            let old = old.get(window.first..).unwrap_or_default();
            parts[index].changed += window.changed(old);
            for cost in &mut parts[index].costs {
                self.count(window, old, cost, &mut compress)?;
            }
            Ok(())
        })?;
        Ok(Delta::new(self, bytes, &manifest, &parts))
    }

    /// Counts the blocks of a window, if they have the size of `cost`. `old` is what the running slot
    /// has from where the window begins.
    fn count(
        &self,
        window: &Window<'_>,
        old: &[Print],
        cost: &mut Cost,
        compress: &mut Compress,
    ) -> io::Result<()> {
        let pages = pages_of(cost.block_size);
        let known = &self.blocks[&cost.block_size];
        let mut deflated = Vec::new();
        for (index, (raw, prints)) in window
            .bytes
            .chunks(pages * PAGE)
            .zip(window.pages.chunks(pages))
            .enumerate()
        {
            let stored = if cost.block_size == window.part.block_size {
                window.stored[index]
            } else if window.part.encoding == Encoding::Deflate {
                deflate(compress, raw, &mut deflated)?;
                deflated.len() as u64
            } else {
                raw.len() as u64
            };
            let in_place = old.get(index * pages..index * pages + prints.len()) == Some(prints);
            let held = in_place || known.binary_search(&block_print(prints)).is_ok();
            cost.stored += stored;
            cost.blocks.all += 1;
            if in_place {
                cost.blocks.in_place += 1;
            } else if held {
                cost.blocks.copied += 1;
            } else {
                cost.fetch(stored);
            }
            if held {
                cost.gap = cost.gap.map(|gap| gap + stored);
            }
        }
        Ok(())
    }
}

/// The blocks of a part, or of all, by where a router that runs OLD gets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Blocks {
    /// How many there are.
    pub all: u64,
    /// Of those, what OLD has at the same place.
    pub in_place: u64,
    /// What it has elsewhere.
    pub copied: u64,
    /// The rest.
    pub fetched: u64,
    /// Bytes of the rest, as they are stored in NEW, and of short gaps in it.
    pub bytes: u64,
    /// Ranges that are asked for.
    pub requests: u64,
}

impl Blocks {
    fn add(&mut self, other: Self) {
        self.all += other.all;
        self.in_place += other.in_place;
        self.copied += other.copied;
        self.fetched += other.fetched;
        self.bytes += other.bytes;
        self.requests += other.requests;
    }
}

/// Bytes that an install writes, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// If the other slot holds OLD, too.
    pub over_old: u64,
    /// If nothing in the other slot is right: everything.
    pub over_nothing: u64,
}

/// One of the two images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// What it says of its version.
    pub version: String,
    /// Its length.
    pub bytes: u64,
}

/// One part of NEW, with the blocks it was built with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartDelta {
    /// Its name.
    pub name: String,
    /// Its length on the medium.
    pub raw: u64,
    /// Its length in the image.
    pub stored: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Length of its block table.
    pub table: u64,
    /// Where its blocks come from.
    pub blocks: Blocks,
    /// What goes to the medium.
    pub written: Written,
}

/// NEW, if all of its parts had blocks of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SizeDelta {
    /// Bytes of a block.
    pub block_size: u32,
    /// False if a block table would be longer than a device reads: it cannot be built.
    pub possible: bool,
    /// Length of the block tables.
    pub tables: u64,
    /// Length of the image, give or take the digits of its manifest.
    pub image: u64,
    /// Where the blocks come from.
    pub blocks: Blocks,
    /// All that is fetched: blocks, block tables and head.
    pub fetched: u64,
}

/// What it costs a router that runs OLD to install NEW.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delta {
    /// Always false: no signature was checked.
    pub verified: bool,
    /// What the router runs.
    pub old: Side,
    /// What it is to run.
    pub new: Side,
    /// Each part of NEW.
    pub parts: Vec<PartDelta>,
    /// Bytes that are fetched in any case: all of NEW but its parts.
    pub head: u64,
    /// Where the blocks come from.
    pub blocks: Blocks,
    /// All that is fetched from a server that knows ranges: the blocks, and the head.
    pub fetched: u64,
    /// What goes to the medium.
    pub written: Written,
    /// The same with other blocks.
    pub block_sizes: Vec<SizeDelta>,
}

impl Delta {
    fn new(old: &Running, bytes: u64, manifest: &Manifest, counters: &[Counter]) -> Self {
        let parts: Vec<_> = manifest.parts.iter().zip(counters).map(part).collect();
        let mut blocks = Blocks::default();
        let mut written = Written::default();
        for part in &parts {
            blocks.add(part.blocks);
            written.over_old += part.written.over_old;
            written.over_nothing += part.written.over_nothing;
        }
        let stored: u64 = parts.iter().map(|part| padded(part.stored)).sum();
        let tables: u64 = parts.iter().map(|part| padded(part.table)).sum();
        let head = bytes - stored;
        let mut block_sizes = Vec::new();
        for index in 0..counters.first().map_or(0, |counter| counter.costs.len()) {
            let costs = counters.iter().map(|counter| &counter.costs[index]);
            block_sizes.push(SizeDelta::new(costs, head - tables));
        }
        Self {
            verified: false,
            old: Side {
                version: old.version.clone(),
                bytes: old.bytes,
            },
            new: Side {
                version: manifest.version.clone(),
                bytes,
            },
            parts,
            head,
            blocks,
            fetched: head + blocks.bytes,
            written,
            block_sizes,
        }
    }

    /// For people; without the last newline.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::from("NOT VERIFIED: no key was asked about these images\n");
        for (name, side) in [("old", &self.old), ("new", &self.new)] {
            let version = printable(&side.version);
            // A String cannot fail.
            let _ = writeln!(text, "{name}        {version}: {} bytes", side.bytes);
        }
        text.push('\n');
        text += &in_columns(&self.part_rows());
        let _ = writeln!(
            text,
            "\nFetched is {} of the image by a router that runs OLD, from a server that knows ranges.\n\
             Written are pages of 4 KiB, on raw flash whole erase blocks; over OLD, when both slots have it.\n",
            percent(self.fetched, self.new.bytes),
        );
        text += &in_columns(&self.size_rows());
        text.truncate(text.trim_end().len());
        text
    }

    fn part_rows(&self) -> Vec<[String; 8]> {
        let mut rows = vec![
            [
                "part",
                "blocks",
                "in place",
                "copied",
                "to fetch",
                "bytes to fetch",
                "written over OLD",
                "over nothing",
            ]
            .map(str::to_owned),
        ];
        let mut row = |name: String, blocks: &Blocks, bytes: u64, written: &Written| {
            let [over_old, over_nothing] = [written.over_old, written.over_nothing];
            let counts = [blocks.all, blocks.in_place, blocks.copied, blocks.fetched];
            let [all, in_place, copied, fetched] = counts.map(|count| count.to_string());
            let [bytes, over_old, over_nothing] =
                [bytes, over_old, over_nothing].map(|count| count.to_string());
            rows.push([
                name,
                all,
                in_place,
                copied,
                fetched,
                bytes,
                over_old,
                over_nothing,
            ]);
        };
        for part in &self.parts {
            let name = printable(&part.name);
            row(name, &part.blocks, part.blocks.bytes, &part.written);
        }
        row(
            "all, with head".into(),
            &self.blocks,
            self.fetched,
            &self.written,
        );
        rows
    }

    fn size_rows(&self) -> Vec<[String; 9]> {
        let mut rows = vec![
            [
                "block size",
                "blocks",
                "in place",
                "copied",
                "to fetch",
                "bytes to fetch",
                "of image",
                "requests",
                "block tables",
            ]
            .map(str::to_owned),
        ];
        for size in &self.block_sizes {
            let own = |part: &PartDelta| part.block_size == size.block_size;
            let built = if self.parts.iter().all(own) {
                " (as built)"
            } else {
                ""
            };
            let too_long = if size.possible { "" } else { " (too long)" };
            let blocks = &size.blocks;
            rows.push([
                format!("{}{built}", size.block_size),
                blocks.all.to_string(),
                blocks.in_place.to_string(),
                blocks.copied.to_string(),
                blocks.fetched.to_string(),
                size.fetched.to_string(),
                percent(size.fetched, size.image),
                blocks.requests.to_string(),
                format!("{}{too_long}", size.tables),
            ]);
        }
        rows
    }
}

/// The first column on the left, numbers on the right.
fn in_columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            }; // a String cannot fail
        }
        text.push('\n');
    }
    text
}

impl SizeDelta {
    /// Of the parts with blocks of one size; `head` is the rest of the image without block tables.
    fn new<'a>(costs: impl Iterator<Item = &'a Cost>, head: u64) -> Self {
        let mut size = Self {
            block_size: 0,
            possible: true,
            tables: 0,
            image: head,
            blocks: Blocks::default(),
            fetched: head,
        };
        for cost in costs {
            size.block_size = cost.block_size;
            size.possible &= cost.table <= MAX_TABLE;
            size.tables += cost.table;
            size.image += padded(cost.table) + padded(cost.stored);
            size.blocks.add(cost.blocks);
            size.fetched += padded(cost.table) + cost.blocks.bytes;
        }
        size
    }
}

fn part((info, counter): (&PartInfo, &Counter)) -> PartDelta {
    let own = |cost: &&Cost| cost.block_size == info.block_size;
    let blocks = counter.costs.iter().find(own).map(|cost| cost.blocks);
    PartDelta {
        name: info.name.clone(),
        raw: info.raw_size,
        stored: info.stored_size,
        block_size: info.block_size,
        table: info.table.size,
        blocks: blocks.unwrap_or_default(),
        written: Written {
            over_old: counter.changed,
            over_nothing: info.raw_size,
        },
    }
}

/// What a member takes in a tar, its header not counted.
fn padded(size: u64) -> u64 {
    size + header::padding(size) as u64
}

/// In tenths, rounded up: 0.0 % is really nothing.
fn percent(part: u64, whole: u64) -> String {
    let tenths = (u128::from(part) * 1000).div_ceil(u128::from(whole.max(1)));
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// One part of NEW while it is read.
struct Counter {
    changed: u64,
    costs: Vec<Cost>,
}

/// A part with blocks of one size.
struct Cost {
    block_size: u32,
    table: u64,
    stored: u64,
    blocks: Blocks,
    /// Bytes since the last block that is fetched.
    gap: Option<u64>,
}

impl Cost {
    fn fetch(&mut self, stored: u64) {
        self.blocks.fetched += 1;
        self.blocks.bytes += stored;
        match self.gap.replace(0) {
            Some(gap) if gap < SHORTEST_GAP => self.blocks.bytes += gap,
            _ => self.blocks.requests += 1,
        }
    }
}

impl Counter {
    fn new(part: &PartInfo, sizes: &BTreeSet<u32>) -> Self {
        let cost = |block_size: &u32| Cost {
            block_size: *block_size,
            table: part.raw_size.div_ceil(u64::from(*block_size)) * entry_size(part.encoding),
            stored: 0,
            blocks: Blocks::default(),
            gap: None,
        };
        Self {
            changed: 0,
            costs: sizes.iter().map(cost).collect(),
        }
    }
}

/// A stretch of a part, as it goes to the medium.
struct Window<'a> {
    part: &'a PartInfo,
    /// Number of its first page.
    first: usize,
    bytes: &'a [u8],
    pages: Vec<Print>,
    /// Lengths in the image of the blocks in it.
    stored: Vec<u64>,
}

impl Window<'_> {
    /// Bytes of pages that are not what `old` has at their places.
    fn changed(&self, old: &[Print]) -> u64 {
        let pages = self.bytes.chunks(PAGE).zip(&self.pages).enumerate();
        pages
            .filter(|(index, (_, print))| old.get(*index) != Some(*print))
            .map(|(_, (page, _))| page.len() as u64)
            .sum()
    }
}

/// Reads an image whole, checks it, and calls `f` with each window of each part and the number of
/// the part.
fn each_window<R: Read>(
    image: Unverified<R>,
    mut f: impl FnMut(usize, &Window<'_>) -> io::Result<()>,
) -> Result<(), DeltaError> {
    let mut image = image.believe()?;
    let mut bytes = Vec::new();
    let mut number = 0;
    while let Some(member) = image.next_member()? {
        let mut reader = match member {
            Member::Config(mut reader) => {
                reader.skip()?;
                continue;
            }
            Member::Part(reader) => reader,
        };
        let mut first = 0;
        let mut next_block = 0;
        loop {
            bytes.clear();
            (&mut reader)
                .take(WINDOW as u64)
                .read_to_end(&mut bytes)
                .map_err(ImageError::from_io)
                .map_err(|error| error.map_or_else(DeltaError::Deflate, DeltaError::Image))?;
            if bytes.is_empty() {
                break;
            }
            let pages: Vec<_> = bytes.chunks(PAGE).map(print).collect();
            let blocks = (bytes.len() as u64).div_ceil(u64::from(reader.part().block_size));
            let stored =
                (next_block..next_block + blocks).filter_map(|block| reader.stored_len(block));
            let window = Window {
                part: reader.part(),
                first,
                bytes: &bytes,
                stored: stored.collect(),
                pages,
            };
            f(number, &window)?;
            first += WINDOW / PAGE;
            next_block += blocks;
        }
        number += 1;
    }
    image.finish()?;
    Ok(())
}

fn pages_of(block_size: u32) -> usize {
    usize::try_from(block_size).map_or(usize::MAX, |size| size / PAGE)
}

fn print(bytes: &[u8]) -> Print {
    let Digest(digest) = Digest::of(bytes);
    Print::from_be_bytes(std::array::from_fn(|index| digest[index]))
}

/// Blocks are equal if their pages are.
fn block_print(pages: &[Print]) -> Print {
    match pages {
        [page] => *page,
        pages => print(
            &pages
                .iter()
                .flat_map(|page| page.to_be_bytes())
                .collect::<Vec<_>>(),
        ),
    }
}

/// Counts what is read.
struct Counted<'a, R>(R, &'a mut u64);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(bytes)?;
        *self.1 += count as u64;
        Ok(count)
    }
}
