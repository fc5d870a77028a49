//! An x86 disk: its partitions are parts, its partition table and boot loader are not.
//!
//! ```text
//! sector 0   0    eb 48 or eb 63: the jump of GRUB's boot sector
//!            446  four entries of 16 bytes: type at 4 (0: unused; ee: a GPT follows), first sector
//!                 at 8, number of sectors at 12; little endian
//!            510  55 aa
//! sector 1   0    "EFI PART" 00 00 01 00, header size, CRC-32 of the header with this field as 0
//!            24   own sector; 40 first and 48 last usable sector; 72 sector of the entries
//!            80   number of entries, size of one, CRC-32 of all of them
//! entries         type GUID (0: unused), GUID, first sector at 32, last sector at 40
//! ```
//!
//! Sectors have 512 bytes. Of a GPT the entries 1 to 15 count, as for the stock flasher: OpenWrt's
//! partition tool puts the boot loader's own partition into entry 128.

use super::stream::{Fields, HEAD, Stream, damaged};
use super::{Extent, Kind, Layouts, PayloadError};

const SECTOR: u64 = 512;
const PLACE: &str = "partition table";

/// Most entries of a GPT. All tools write 128.
const MAX_ENTRIES: u32 = 1024;
/// Largest entry: only 128 bytes of it have a meaning.
const MAX_ENTRY: u32 = 4096;
/// The entries that count.
const USED_ENTRIES: u32 = 15;

/// True if a payload that begins like this is a disk.
pub(super) fn is_disk(head: &[u8]) -> bool {
    matches!(head, [0xeb, 0x48 | 0x63, ..])
}

/// A partition: its number, where it begins and its length, in bytes.
struct Partition {
    number: u32,
    start: u64,
    len: u64,
}

impl Partition {
    fn new(number: u32, first: u64, sectors: u64) -> Result<Self, PayloadError> {
        let bytes = |sectors: u64| sectors.checked_mul(SECTOR);
        match (bytes(first), bytes(sectors)) {
            (Some(start), Some(len))
                if start > 0 && len > 0 && start.checked_add(len).is_some() =>
            {
                Ok(Self { number, start, len })
            }
            _ => Err(bad(number, "it has no place on a disk")),
        }
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

fn bad(number: u32, problem: &str) -> PayloadError {
    damaged(0, &format!("partition {number}"), problem)
}

/// Reads the disk to its end.
pub(super) fn read(stream: &mut Stream<'_>) -> Result<(Kind, Layouts), PayloadError> {
    let mut sector = [0; HEAD];
    stream.exactly(&mut sector, PLACE)?;
    if !sector.ends_with(&[0x55, 0xaa]) {
        return Err(damaged(510, PLACE, "it does not end with 55 aa"));
    }
    let entries = sector.get(446..510).unwrap_or_default();
    let (kind, mut partitions) = if entries.chunks(16).any(|entry| entry.get(4) == Some(&0xee)) {
        (Kind::Gpt, gpt(stream)?)
    } else {
        (Kind::Mbr, mbr(entries)?)
    };
    partitions.sort_by_key(|partition| partition.start);
    for pair in partitions.windows(2) {
        if let [one, next] = pair
            && next.start < one.end()
        {
            return Err(bad(
                next.number,
                &format!("it overlaps partition {}", one.number),
            ));
        }
    }
    let Some(last) = partitions.last() else {
        return Err(damaged(446, PLACE, "it has no partitions"));
    };
    if partitions
        .iter()
        .any(|partition| partition.start < stream.offset())
    {
        return Err(damaged(446, PLACE, "a partition lies over it"));
    }
    stream.finish_after(last.end(), &format!("partition {}", last.number))?;
    let layout = |first: &str| {
        let extent = |partition: &Partition| {
            let name = match partition.number {
                1 => first.to_owned(),
                2 => "root".to_owned(),
                number => format!("partition {number}"),
            };
            Extent::new(&name, partition.start, partition.len)
        };
        partitions.iter().map(extent).collect()
    };
    Ok((kind, vec![layout("boot"), layout("kernel")]))
}

fn mbr(entries: &[u8]) -> Result<Vec<Partition>, PayloadError> {
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks(16)) {
        let fields = Fields(entry);
        match entry.get(4) {
            None | Some(0) => {}
            Some(0x05 | 0x0f | 0x85) => {
                return Err(bad(number, "it is extended: a table inside the table"));
            }
            Some(_) => partitions.push(Partition::new(
                number,
                u64::from(fields.le32(8)),
                u64::from(fields.le32(12)),
            )?),
        }
    }
    Ok(partitions)
}

/// Both checksums must be right. The copy at the end of the disk is not looked at: it is written by
/// whoever writes a whole disk, and nobody does here.
fn gpt(stream: &mut Stream<'_>) -> Result<Vec<Partition>, PayloadError> {
    const HEADER: &str = "GPT header";
    const ENTRIES: &str = "GPT entries";
    let wrong = |problem: &str| damaged(SECTOR, HEADER, problem);
    let mut sector = [0; HEAD];
    stream.exactly(&mut sector, HEADER)?;
    if !sector.starts_with(b"EFI PART\0\0\x01\0") {
        return Err(wrong("not one of revision 1.0"));
    }
    let header = Fields(&sector);
    let (crc, len) = (header.le32(16), header.le32(12));
    let (own, usable) = (header.le64(24), header.le64(40)..=header.le64(48));
    let (first, count, size) = (header.le64(72), header.le32(80), header.le32(84));
    let entries_crc = header.le32(88);
    let Some(covered) = usize::try_from(len)
        .ok()
        .filter(|len| *len >= 92)
        .and_then(|len| sector.get_mut(..len))
    else {
        return Err(wrong("its length is none"));
    };
    if let Some(field) = covered.get_mut(16..20) {
        field.fill(0);
    }
    if crc32fast::hash(covered) != crc {
        return Err(wrong("the checksum is wrong"));
    }
    if own != 1 {
        return Err(wrong("it is for another sector"));
    }
    if !(1..=MAX_ENTRIES).contains(&count)
        || !(128..=MAX_ENTRY).contains(&size)
        || !size.is_power_of_two()
    {
        return Err(wrong("number and size of the entries make no sense"));
    }
    let start = first.saturating_mul(SECTOR);
    let end = start.checked_add(u64::from(count) * u64::from(size));
    let limit = usable.start().checked_mul(SECTOR);
    if start < stream.offset() || end.is_none() || limit.is_none() || end > limit {
        return Err(wrong(
            "the entries are not between it and the first usable sector",
        ));
    }
    stream.skip(start - stream.offset(), ENTRIES)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut partitions = Vec::new();
    for number in 1..=count {
        let mut entry = [0; 128];
        stream.exactly(&mut entry, ENTRIES)?;
        hasher.update(&entry);
        stream.feed(u64::from(size) - 128, &mut |rest| hasher.update(rest))?;
        if number > USED_ENTRIES || entry.starts_with(&[0; 16]) {
            continue;
        }
        let fields = Fields(&entry);
        let (first, last) = (fields.le64(32), fields.le64(40));
        if !usable.contains(&first) || !usable.contains(&last) || last < first {
            return Err(bad(number, "it is not within the usable sectors"));
        }
        partitions.push(Partition::new(
            number,
            first,
            (last - first).saturating_add(1),
        )?);
    }
    match hasher.finalize() == entries_crc {
        true => Ok(partitions),
        false => Err(damaged(start, ENTRIES, "the checksum is wrong")),
    }
}
