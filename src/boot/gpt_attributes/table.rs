//! The partition table (GPT) and its backup: found, checked, and written again with other entries.
//!
//! ```text
//! sector 0        protective MBR, never touched
//! sector 1        header of the primary table
//! from sector 2   its entries (or further on, the header says)
//!   ...           partitions
//! before the end  entries of the backup
//! last sector     header of the backup
//!
//! header   0 "EFI PART"   8 revision 1.0     12 its length (92)   16 CRC-32 of it, this field as 0
//!         24 own sector  32 the other header 40 first and 48 last sector for partitions
//!         56 disk GUID   72 first sector of the entries
//!         80 number of entries   84 bytes of one (128)   88 CRC-32 of all of them
//! entry    0 type GUID (0: unused)   16 GUID   32 first and 40 last sector
//!         48 attributes (64 bits)    56 name, 36 UTF-16 units
//! ```
//!
//! All is little endian (UEFI specification 2.10, chapter 5.3). A sector is the logical block of the
//! disk: 512 bytes, or 4096.
//!
//! # Power cuts
//!
//! Firmware, boot loaders and kernels read the primary table when its checksums are right, else the
//! backup, and never compare the two. So the one that nobody reads now is written first, and proven to
//! be on the medium before the other one is touched:
//!
//! | power goes | primary | backup | read is |
//! | --- | --- | --- | --- |
//! | before | old | old | old |
//! | while the backup is written | old | torn | old |
//! | between | old | new | old |
//! | while the primary is written | torn | new | new |
//! | after | new | new | new |
//!
//! Where the primary is damaged from the begin, the backup is what is read, and the primary is
//! written first.

use byteorder::{ByteOrder, LittleEndian};

use crate::boot::{BootError, read_medium, write_and_prove};
use crate::files::InPlace;

/// Signature and revision of all headers.
const MAGIC: &[u8] = b"EFI PART\0\0\x01\0";

/// Bytes of a header that have a meaning; a longer one is of a later revision.
const HEADER_LEN: usize = 92;

/// Bytes of an entry that have a meaning.
const ENTRY_LEN: usize = 128;

/// Most bytes of all entries. 128 entries have 16 KiB, and few tools write more; this bounds what a
/// damaged header makes us read.
const MAX_ENTRIES: u64 = 256 << 10;

/// The attributes within an entry.
const ATTRIBUTES: std::ops::Range<usize> = 48..56;

/// Sectors that disks have; regular files do not say, and are tried with both.
const SECTORS: [u32; 2] = [512, 4096];

/// One of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Primary,
    Backup,
}

/// A header that is right, whether its entries are or not.
#[derive(Clone, Debug)]
struct Header {
    /// The sector that it begins.
    sector: Vec<u8>,
}

impl Header {
    fn u32(&self, at: usize) -> u32 {
        LittleEndian::read_u32(&self.sector[at..])
    }

    fn u64(&self, at: usize) -> u64 {
        LittleEndian::read_u64(&self.sector[at..])
    }

    /// Bytes of one entry.
    fn entry_len(&self) -> u64 {
        u64::from(self.u32(84))
    }

    /// Bytes of all entries.
    fn entries_len(&self) -> u64 {
        u64::from(self.u32(80)) * self.entry_len() // two 32-bit numbers
    }

    /// First sector of the entries.
    fn entries_at(&self) -> u64 {
        self.u64(72)
    }

    /// Checksum of the header: of its length, which was checked.
    fn checksum(&self) -> u32 {
        let len = usize::try_from(self.u32(12)).unwrap_or(HEADER_LEN);
        let mut covered = self.sector[..len.min(self.sector.len())].to_vec();
        covered[16..20].fill(0);
        crc32fast::hash(&covered)
    }

    /// Why `sector` is no header for the place that it was read from.
    fn check(sector: Vec<u8>, which: Which, disk: Disk) -> Result<Self, &'static str> {
        if sector.len() < HEADER_LEN || !sector.starts_with(MAGIC) {
            return Err("there is no header");
        }
        let header = Self { sector };
        let len = usize::try_from(header.u32(12)).unwrap_or(usize::MAX);
        if !(HEADER_LEN..=header.sector.len()).contains(&len) {
            return Err("the length of its header makes no sense");
        }
        if header.checksum() != header.u32(16) {
            return Err("the checksum of its header is wrong");
        }
        if header.u64(24) != disk.header_at(which) {
            return Err("its header is for another place");
        }
        let (size, len) = (header.entry_len(), header.entries_len());
        if size < ENTRY_LEN as u64 || size % 8 != 0 || !(1..=MAX_ENTRIES).contains(&len) {
            return Err("number and size of its entries make no sense");
        }
        let (first_usable, last_usable) = (header.u64(40), header.u64(48));
        let start = header.entries_at();
        let end = start.checked_add(len.div_ceil(disk.sector));
        let room = match which {
            Which::Primary => 2..=first_usable,
            Which::Backup => last_usable.saturating_add(1)..=disk.last,
        };
        let is_apart = end.is_some_and(|end| room.contains(&start) && room.contains(&end));
        if first_usable > last_usable || last_usable >= disk.last || !is_apart {
            return Err("its entries are not apart from the partitions");
        }
        Ok(header)
    }
}

/// The size of a disk.
#[derive(Clone, Copy, Debug)]
struct Disk {
    /// Bytes of a sector.
    sector: u64,
    /// Number of the last one.
    last: u64,
}

impl Disk {
    fn header_at(&self, which: Which) -> u64 {
        match which {
            Which::Primary => 1,
            Which::Backup => self.last,
        }
    }
}

/// One copy, as far as it is right.
#[derive(Debug)]
struct Copy {
    header: Option<Header>,
    /// The entries, and what is wrong if they are none.
    entries: Result<Vec<u8>, String>,
}

impl Copy {
    fn read(medium: &InPlace, which: Which, disk: Disk) -> Self {
        let without = |header, problem: &str| Self {
            header,
            entries: Err(problem.to_owned()),
        };
        let read = |sector: u64, len: u64| {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            // A copy on sectors that cannot be read is as good as none; the other one may do.
            read_medium(medium, sector.saturating_mul(disk.sector), len)
                .map_err(|error| error.to_string())
        };
        let sector = match read(disk.header_at(which), disk.sector) {
            Ok(sector) => sector,
            Err(problem) => return without(None, &problem),
        };
        let header = match Header::check(sector, which, disk) {
            Ok(header) => header,
            Err(problem) => return without(None, problem),
        };
        match read(header.entries_at(), header.entries_len()) {
            Err(problem) => without(Some(header), &problem),
            Ok(entries) if crc32fast::hash(&entries) != header.u32(88) => {
                without(Some(header), "the checksum of its entries is wrong")
            }
            Ok(entries) => Self {
                header: Some(header),
                entries: Ok(entries),
            },
        }
    }

    fn whole(&self) -> Option<(&Header, &[u8])> {
        Some((self.header.as_ref()?, self.entries.as_deref().ok()?))
    }

    fn problem(&self) -> Option<&str> {
        self.entries.as_ref().err().map(String::as_str)
    }
}

/// Both copies of the table of a disk, of which one at least is whole.
#[derive(Debug)]
pub(super) struct Table {
    disk: Disk,
    primary: Copy,
    backup: Copy,
    /// The header that counts, and its entries.
    header: Header,
    entries: Vec<u8>,
}

impl Table {
    /// Reads the table of a disk, or of a file that stands for one.
    pub(super) fn read(medium: &InPlace) -> Result<Self, BootError> {
        let sizes = match medium.sector_size()? {
            Some(size) => vec![size],
            None => SECTORS.to_vec(),
        };
        let mut problem = "it is too small for a partition table".to_owned();
        for size in sizes {
            let sector = u64::from(size);
            // Both headers, the MBR, and a sector of entries for each.
            let sectors = medium.len().checked_div(sector).unwrap_or_default();
            let Some(last) = sectors.checked_sub(1).filter(|last| *last >= 4) else {
                continue;
            };
            let disk = Disk { sector, last };
            let [primary, backup] =
                [Which::Primary, Which::Backup].map(|which| Copy::read(medium, which, disk));
            let Some((header, entries)) = primary.whole().or(backup.whole()) else {
                let [one, two] = [&primary, &backup].map(|copy| copy.problem().unwrap_or_default());
                problem = format!("no partition table: {one}; nor a backup at its end: {two}");
                continue;
            };
            // Of a disk that was copied to a larger one. Once the primary is torn nobody finds it.
            if primary.whole().is_some() && header.u64(32) != last {
                problem = "the backup of the partition table is not at the end of the disk; `sgdisk -e` moves it there".to_owned();
                break;
            }
            let (header, entries) = (header.clone(), entries.to_vec());
            return Ok(Self {
                disk,
                primary,
                backup,
                header,
                entries,
            });
        }
        Err(damaged(medium, problem))
    }

    /// The entries that count.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.entries.chunks_exact(self.entry_len()).map(Entry)
    }

    fn entry_len(&self) -> usize {
        usize::try_from(self.header.entry_len()).unwrap_or(usize::MAX)
    }

    /// What is damaged, or does not agree.
    pub(super) fn flaws(&self) -> Vec<String> {
        match (self.primary.problem(), self.backup.problem()) {
            (Some(problem), _) => vec![format!(
                "the primary partition table is damaged, its backup counts: {problem}"
            )],
            (None, Some(problem)) => {
                vec![format!(
                    "the backup of the partition table is damaged: {problem}"
                )]
            }
            (None, None) => {
                let backup =
                    (self.backup.whole()).map(|(header, entries)| (&header.sector, entries));
                let expected = self.sealed(Which::Backup, &self.entries);
                match backup == Some((&expected.sector, &self.entries)) {
                    true => Vec::new(),
                    false => vec![
                        "the backup of the partition table is another one than the primary, which counts".to_owned(),
                    ],
                }
            }
        }
    }

    /// Gives the entries of these numbers, from 0, other attributes, in both copies. Returns when the
    /// medium holds them.
    pub(super) fn set_attributes(
        &self,
        medium: &InPlace,
        changes: [(usize, u64); 2],
    ) -> Result<(), BootError> {
        let mut entries = self.entries.clone();
        for (number, attributes) in changes {
            let start = number * self.entry_len();
            let field = &mut entries[start..][ATTRIBUTES];
            LittleEndian::write_u64(field, attributes);
        }
        let order = match self.primary.whole() {
            Some(_) => [Which::Backup, Which::Primary],
            None => [Which::Primary, Which::Backup],
        };
        // All that can be refused is refused before anything is written.
        for which in order {
            self.check_place(medium, which, &entries)?;
        }
        for which in order {
            let header = self.sealed(which, &entries);
            let at = [header.entries_at(), self.disk.header_at(which)];
            for (sector, new) in at.into_iter().zip([&entries, &header.sector]) {
                let offset = sector * self.disk.sector;
                // What cannot be read is written anew.
                let old = read_medium(medium, offset, new.len()).unwrap_or_default();
                write_and_prove(medium, offset, &old, new)?;
            }
        }
        Ok(())
    }

    fn copy(&self, which: Which) -> &Copy {
        match which {
            Which::Primary => &self.primary,
            Which::Backup => &self.backup,
        }
    }

    /// The header for these entries, with its checksums.
    fn sealed(&self, which: Which, entries: &[u8]) -> Header {
        let [own, other] = match which {
            Which::Primary => [1, self.disk.last],
            Which::Backup => [self.disk.last, 1],
        };
        let sectors = self.header.entries_len().div_ceil(self.disk.sector);
        let entries_at = match (&self.copy(which).header, which) {
            (Some(header), _) => header.entries_at(),
            (None, Which::Primary) => 2,
            (None, Which::Backup) => self.disk.last.saturating_sub(sectors),
        };
        let mut header = self.header.clone();
        let bytes = &mut header.sector;
        LittleEndian::write_u64(&mut bytes[24..], own);
        LittleEndian::write_u64(&mut bytes[32..], other);
        LittleEndian::write_u64(&mut bytes[72..], entries_at);
        LittleEndian::write_u32(&mut bytes[88..], crc32fast::hash(entries));
        let checksum = header.checksum();
        LittleEndian::write_u32(&mut header.sector[16..], checksum);
        header
    }

    /// Refuses to write a copy where it does not fit, or where something else may be.
    fn check_place(&self, medium: &InPlace, which: Which, entries: &[u8]) -> Result<(), BootError> {
        let header = self.sealed(which, entries);
        let irreparable = |problem: &str| BootError::Irreparable {
            path: medium.path().to_owned(),
            problem: problem.to_owned(),
        };
        let entries_at = header.entries_at();
        Header::check(header.sector, which, self.disk).map_err(irreparable)?;
        // Some processors start from a loader in the first sectors, and the table has moved aside.
        if which == Which::Primary && self.primary.header.is_none() {
            let found = read_medium(medium, entries_at * self.disk.sector, entries.len());
            let found = found.unwrap_or_default();
            let size = self.entry_len();
            let mut pairs = found.chunks(size).zip(entries.chunks(size));
            if !pairs.all(|(found, ours)| is_same_or_empty(found, ours)) {
                return Err(irreparable(
                    "the header of the primary partition table is lost, and where its entries should be is something else",
                ));
            }
        }
        Ok(())
    }
}

/// True for an entry that tells of the same partition, and for one that was wiped.
fn is_same_or_empty(found: &[u8], ours: &[u8]) -> bool {
    let is_wiped = [0, 0xff].map(|wiped| found.iter().all(|byte| *byte == wiped));
    let around = |entry: &[u8]| {
        let (before, after) = (entry.get(..ATTRIBUTES.start), entry.get(ATTRIBUTES.end..));
        (before.map(<[u8]>::to_vec), after.map(<[u8]>::to_vec))
    };
    is_wiped.contains(&true) || around(found) == around(ours)
}

fn damaged(medium: &InPlace, problem: String) -> BootError {
    BootError::Damaged {
        path: medium.path().to_owned(),
        problem,
    }
}

/// One entry: a partition, or none.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a>(&'a [u8]);

impl Entry<'_> {
    /// What kind of partition it is; all zeros for none.
    pub(super) fn kind(&self) -> &[u8] {
        &self.0[..16]
    }

    pub(super) fn is_used(&self) -> bool {
        self.kind().iter().any(|byte| *byte != 0)
    }

    pub(super) fn attributes(&self) -> u64 {
        LittleEndian::read_u64(&self.0[ATTRIBUTES])
    }

    pub(super) fn name(&self) -> String {
        let units = self.0[56..ENTRY_LEN].chunks_exact(2);
        let units = units
            .map(LittleEndian::read_u16)
            .take_while(|unit| *unit != 0);
        char::decode_utf16(units)
            .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    }
}
