//! A disk with a GPT as a factory makes one, and the boot loaders that go by its attribute bits.
//!
//! Written from the UEFI specification and from what the loaders do (vboot's `cgptlib` in ChromeOS,
//! `gptprio` in CoreOS' GRUB), apart from the code that is tested with it.
#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]

/// The type of a ChromeOS kernel, FE3A2A5D-4F32-41A7-B725-ACCC3285A309.
pub const KERNEL: [u8; 16] = [
    0x5d, 0x2a, 0x3a, 0xfe, 0x32, 0x4f, 0xa7, 0x41, 0xb7, 0x25, 0xac, 0xcc, 0x32, 0x85, 0xa3, 0x09,
];

/// Linux data, 0FC63DAF-8483-4772-8E79-3D69D8477DE4.
pub const DATA: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// Bytes of all entries.
pub const ENTRIES: usize = 128 * 128;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn offset(lba: u64, sector: usize) -> usize {
    usize::try_from(lba).expect("a small disk") * sector
}

/// A disk with these partitions of one sector each: name, type and attributes. Every byte that is not
/// the table's has a value of its own.
pub fn disk(sector: usize, partitions: &[(&str, [u8; 16], u64)]) -> Vec<u8> {
    let table = ENTRIES / sector;
    let first = 2 + table;
    let last = first + partitions.len() + table;
    let mut disk: Vec<u8> = (0..(last + 1) * sector)
        .map(|at| (at % 251).to_le_bytes()[0])
        .collect();
    disk[sector..first * sector].fill(0);
    disk[(last - table) * sector..].fill(0);
    let mut entries = vec![0; ENTRIES];
    for (number, (name, kind, attributes)) in partitions.iter().enumerate() {
        let entry = &mut entries[number * 128..][..128];
        let lba = (first + number).to_le_bytes();
        put(entry, 0, kind);
        put(entry, 16, &[number.to_le_bytes()[0] + 1; 16]);
        put(entry, 32, &lba);
        put(entry, 40, &lba);
        put(entry, 48, &attributes.to_le_bytes());
        for (at, unit) in name.encode_utf16().enumerate() {
            put(entry, 56 + 2 * at, &unit.to_le_bytes());
        }
    }
    let mut header = vec![0; sector];
    put(&mut header, 0, b"EFI PART\0\0\x01\0");
    put(&mut header, 12, &92_u32.to_le_bytes());
    put(&mut header, 40, &first.to_le_bytes());
    put(&mut header, 48, &(last - table - 1).to_le_bytes());
    put(&mut header, 56, &[0xd1; 16]);
    put(&mut header, 80, &128_u32.to_le_bytes());
    put(&mut header, 84, &128_u32.to_le_bytes());
    write(&mut disk, sector, &header, &entries);
    disk
}

/// Gives a header its checksum.
pub fn seal(header: &mut [u8]) {
    let len = usize::try_from(u32_at(header, 12)).expect("a length");
    let Some(covered) = header.get(..len).filter(|covered| covered.len() >= 20) else {
        return; // a lie that no checksum can cover
    };
    let mut covered = covered.to_vec();
    covered[16..20].fill(0);
    put(header, 16, &crc32fast::hash(&covered).to_le_bytes());
}

/// Writes both copies of a table.
fn write(disk: &mut [u8], sector: usize, header: &[u8], entries: &[u8]) {
    let last = (disk.len() / sector - 1) as u64;
    let copies = [
        (1, last, 2),
        (last, 1, last - (entries.len() / sector) as u64),
    ];
    for (own, other, entries_at) in copies {
        let mut header = header.to_vec();
        put(&mut header, 24, &own.to_le_bytes());
        put(&mut header, 32, &other.to_le_bytes());
        put(&mut header, 72, &entries_at.to_le_bytes());
        put(&mut header, 88, &crc32fast::hash(entries).to_le_bytes());
        seal(&mut header);
        put(disk, offset(own, sector), &header);
        put(disk, offset(entries_at, sector), entries);
    }
}

/// One copy, if its checksums are right.
fn copy(disk: &[u8], sector: usize, lba: u64) -> Option<(Vec<u8>, Vec<u8>)> {
    let header = disk[offset(lba, sector)..][..sector].to_vec();
    let mut sealed = header.clone();
    if !header.starts_with(b"EFI PART") || u32_at(&header, 12) != 92 {
        return None;
    }
    seal(&mut sealed);
    if sealed != header || u64_at(&header, 24) != lba {
        return None;
    }
    let entries = disk[offset(u64_at(&header, 72), sector)..][..ENTRIES].to_vec();
    (crc32fast::hash(&entries) == u32_at(&header, 88)).then_some((header, entries))
}

/// Whether the primary table and its backup have the right checksums.
pub fn whole(disk: &[u8], sector: usize) -> [bool; 2] {
    let last = (disk.len() / sector - 1) as u64;
    [1, last].map(|lba| copy(disk, sector, lba).is_some())
}

/// A boot loader that goes by attribute bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// With the last try the priority goes, too.
    ChromeOs,
    /// The try goes, the priority stays.
    Grub,
}

impl Loader {
    pub const ALL: [Self; 2] = [Self::ChromeOs, Self::Grub];

    /// Chooses, counts, and says the number of the partition that it boots, from 0; `None` if it stops.
    pub fn boot(self, disk: &mut [u8], sector: usize) -> Option<usize> {
        let last = (disk.len() / sector - 1) as u64;
        let (header, mut entries) = copy(disk, sector, 1).or_else(|| copy(disk, sector, last))?;
        let mut best = None;
        let mut best_priority = 0;
        for (number, entry) in entries.chunks(128).enumerate() {
            let bits = u64_at(entry, 48) >> 48;
            let (priority, tries, successful) = (bits & 15, bits >> 4 & 15, bits >> 8 & 1);
            let may_boot = entry.starts_with(&KERNEL) && (successful == 1 || tries > 0);
            if may_boot && priority > best_priority {
                (best, best_priority) = (Some(number), priority);
            }
        }
        let number = best?;
        let at = number * 128 + 48;
        let mut attributes = u64_at(&entries, at);
        let (tries, successful) = (attributes >> 52 & 15, attributes >> 56 & 1);
        match self {
            Self::ChromeOs if successful == 1 => {}
            Self::ChromeOs if tries <= 1 => attributes &= !(0xff << 48),
            Self::Grub if tries == 0 => {}
            Self::ChromeOs | Self::Grub => attributes -= 1 << 52,
        }
        put(&mut entries, at, &attributes.to_le_bytes());
        write(disk, sector, &header, &entries);
        Some(number)
    }
}
