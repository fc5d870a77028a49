//! A small payload of each kind, made here field by field.

use sysupgrade_rs::image::openwrt::payload::Kind;

/// A payload, and what must be true of it.
pub(super) struct Sample {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
    /// A slot that takes it, and what each part gets: name, start, length.
    pub(super) parts: Vec<(&'static str, u64, u64)>,
    /// Bytes that a checksum or a strict rule covers: no bit of them can change unnoticed.
    pub(super) covered: Vec<std::ops::Range<usize>>,
    /// Where its numbers are: offset, width, big endian.
    pub(super) numbers: Vec<(usize, usize, bool)>,
    /// Length without which it is cut; what follows is padding.
    pub(super) needed: usize,
}

pub(super) fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    })
    .take(len)
    .collect()
}

pub(super) fn put(bytes: &mut [u8], at: usize, width: usize, big: bool, value: u64) {
    let all = if big {
        value.to_be_bytes()[8 - width..].to_vec()
    } else {
        value.to_le_bytes()[..width].to_vec()
    };
    bytes[at..at + width].copy_from_slice(&all);
}

fn crc(bytes: &[u8]) -> u64 {
    u64::from(crc32fast::hash(bytes))
}

/// CRC-32 as UBI and UBIFS use it.
fn inverted(bytes: &[u8]) -> u64 {
    u64::from(!crc32fast::hash(bytes))
}

/// Makes the checksums right again after a number was changed: what is tested then is the rule about
/// the number.
pub(super) fn seal(kind: Kind, bytes: &mut [u8]) {
    match kind {
        Kind::Kernel | Kind::Firmware => {
            put(bytes, 4, 4, true, 0);
            let sum = crc(&bytes[..64]);
            put(bytes, 4, 4, true, sum);
        }
        Kind::Ubi => {
            let sum = inverted(&bytes[..60]);
            put(bytes, 60, 4, true, sum);
        }
        Kind::Ubifs => {
            let sum = inverted(&bytes[8..4096]);
            put(bytes, 4, 4, false, sum);
        }
        Kind::Gpt => {
            let sum = crc(&bytes[1024..1024 + 128 * 128]);
            put(bytes, 512 + 88, 4, false, sum);
            put(bytes, 512 + 16, 4, false, 0);
            let sum = crc(&bytes[512..512 + 92]);
            put(bytes, 512 + 16, 4, false, sum);
        }
        Kind::Tar => {
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        Kind::Squashfs | Kind::Fit | Kind::Combined | Kind::Mbr | Kind::Raw => {}
    }
}

pub(super) fn tar_member(name: &str, content: &[u8]) -> Vec<u8> {
    tar_entry(name, if name.ends_with('/') { b'5' } else { b'0' }, content)
}

pub(super) fn tar_entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[100..107].copy_from_slice(b"0000644");
    bytes[108..115].copy_from_slice(b"0000000");
    bytes[116..123].copy_from_slice(b"0000000");
    bytes[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    bytes[136..147].copy_from_slice(b"00000000000");
    bytes[156] = kind;
    bytes[257..265].copy_from_slice(b"ustar  \0");
    seal(Kind::Tar, &mut bytes);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(super) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = members
        .iter()
        .flat_map(|(name, content)| tar_member(name, content))
        .collect();
    bytes.extend([0; 1024]);
    bytes.resize(bytes.len().next_multiple_of(10240), 0);
    bytes
}

pub(super) fn squashfs(len: usize) -> Vec<u8> {
    let mut bytes = noise(len, 7);
    bytes[..4].copy_from_slice(b"hsqs");
    for (at, width, value) in [
        (12, 4, 1 << 17),
        (22, 2, 17),
        (28, 2, 4),
        (30, 2, 0),
        (40, 8, len as u64),
        (48, 8, len as u64 - 8),
        (64, 8, 96),
        (72, 8, len as u64 / 2),
    ] {
        put(&mut bytes, at, width, false, value);
    }
    bytes
}

pub(super) fn uimage(len: usize) -> Vec<u8> {
    let data = noise(len, 9);
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, 4, true, 0x2705_1956);
    put(&mut bytes, 12, 4, true, len as u64);
    put(&mut bytes, 24, 4, true, crc(&data));
    bytes[32..44].copy_from_slice(b"Linux-6.6.11");
    seal(Kind::Kernel, &mut bytes);
    bytes.extend(data);
    bytes
}

pub(super) fn fit(len: usize) -> Vec<u8> {
    let mut bytes = noise(len, 11);
    for (at, value) in [
        (0, 0xd00d_feed),
        (4, len as u64),
        (8, 56),
        (12, len as u64 - 100),
        (16, 40),
        (20, 17),
        (24, 16),
        (28, 0),
        (32, 100),
        (36, len as u64 - 156),
    ] {
        put(&mut bytes, at, 4, true, value);
    }
    bytes
}

pub(super) fn ubi(blocks: usize, size: usize) -> Vec<u8> {
    let mut bytes = noise(blocks * size, 13);
    for block in bytes.chunks_mut(size) {
        block[..64].fill(0);
        block[..5].copy_from_slice(b"UBI#\x01");
        put(block, 16, 4, true, 512);
        put(block, 20, 4, true, 1024);
        put(block, 24, 4, true, 0x1234_5678);
        seal(Kind::Ubi, block);
    }
    bytes
}

pub(super) fn ubifs(size: usize, count: usize) -> Vec<u8> {
    let mut bytes = noise(size * count, 15);
    put(&mut bytes, 0, 4, false, 0x0610_1831);
    put(&mut bytes, 16, 4, false, 4096);
    bytes[20] = 6;
    put(&mut bytes, 36, 4, false, size as u64);
    put(&mut bytes, 40, 4, false, count as u64);
    seal(Kind::Ubifs, &mut bytes);
    bytes
}

pub(super) fn combined(kernel: usize, root: usize) -> Vec<u8> {
    let mut bytes = format!("CI{kernel:08x}{root:08x}{:032x}", 4711).into_bytes();
    bytes.resize(65536, 0);
    bytes.extend(noise(kernel + root, 17));
    bytes
}

/// A disk with these partitions: number, first sector, sectors.
pub(super) fn disk(kind: Kind, partitions: &[(usize, u64, u64)], sectors: usize) -> Vec<u8> {
    let mut bytes = noise(sectors * 512, 19);
    bytes[..2].copy_from_slice(&[0xeb, 0x63]);
    bytes[446..510].fill(0);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    if kind == Kind::Mbr {
        for (number, first, count) in partitions {
            let entry = &mut bytes[446 + 16 * (number - 1)..];
            entry[4] = 0x83;
            put(entry, 8, 4, false, *first);
            put(entry, 12, 4, false, *count);
        }
        return bytes;
    }
    bytes[450] = 0xee;
    bytes[512..1024 + 128 * 128].fill(0);
    let header = &mut bytes[512..];
    header[..12].copy_from_slice(b"EFI PART\0\0\x01\0");
    for (at, width, value) in [
        (12, 4, 92),
        (24, 8, 1),
        (32, 8, sectors as u64 - 1),
        (40, 8, 34),
        (48, 8, sectors as u64 - 34),
        (72, 8, 2),
        (80, 4, 128),
        (84, 4, 128),
    ] {
        put(header, at, width, false, value);
    }
    for (number, first, count) in partitions {
        let entry = &mut bytes[1024 + 128 * (number - 1)..];
        entry[..32].copy_from_slice(&noise(32, 21));
        put(entry, 32, 8, false, *first);
        put(entry, 40, 8, false, first + count - 1);
    }
    seal(Kind::Gpt, &mut bytes);
    bytes
}

/// A kernel up to 8192, a squashfs, and the marks of padjffs2.
pub(super) fn firmware() -> Vec<u8> {
    let mut bytes = uimage(5621);
    bytes.resize(8192, 0xff);
    bytes.extend(squashfs(3522));
    bytes.resize(16384, 0xff);
    bytes.extend([0xde, 0xad, 0xc0, 0xde]);
    bytes
}

fn only(range: std::ops::Range<usize>) -> Vec<std::ops::Range<usize>> {
    vec![range]
}

/// One of each kind.
pub(super) fn all() -> Vec<Sample> {
    let numbers = |width, big, at: &[usize]| at.iter().map(|at| (*at, width, big)).collect();
    let tar_of_three = tar(&[
        ("sysupgrade-acme_nand-x2/", b""),
        ("sysupgrade-acme_nand-x2/CONTROL", b"BOARD=acme_nand-x2\n"),
        ("sysupgrade-acme_nand-x2/kernel", &noise(5685, 1)),
        ("sysupgrade-acme_nand-x2/root", &squashfs(4096)),
    ]);
    let members = [0, 512, 1536, 1536 + 512 + 6144];
    let disk_parts = [(1, 64, 8), (2, 80, 16)];
    let gpt_parts = [(1, 64, 8), (2, 80, 16), (128, 34, 30)];
    vec![
        Sample {
            name: "tar",
            kind: Kind::Tar,
            parts: vec![("kernel", 2048, 5685), ("root", 8704, 4096)],
            covered: members.iter().map(|at| *at..at + 512).collect(),
            numbers: vec![],
            needed: 8704 + 4096 + 1024,
            bytes: tar_of_three,
        },
        Sample {
            name: "kernel and squashfs",
            kind: Kind::Firmware,
            parts: vec![("kernel", 0, 8192), ("root", 8192, 8196)],
            // The size a squashfs uses is not checked by itself; its version and block size are.
            covered: vec![0..5685, 8192..8196, 8204..8208, 8214..8216, 8220..8224],
            numbers: numbers(4, true, &[12]),
            needed: 8192 + 3522,
            bytes: firmware(),
        },
        Sample {
            name: "kernel",
            kind: Kind::Kernel,
            parts: vec![("kernel", 0, 3064)],
            covered: only(0..3064),
            numbers: numbers(4, true, &[12]),
            needed: 3064,
            bytes: uimage(3000),
        },
        Sample {
            name: "squashfs",
            kind: Kind::Squashfs,
            parts: vec![("root", 0, 5000)],
            covered: vec![0..4, 12..16, 22..24, 28..32],
            numbers: vec![
                (12, 4, false),
                (40, 8, false),
                (48, 8, false),
                (64, 8, false),
            ],
            needed: 5000,
            bytes: squashfs(5000),
        },
        Sample {
            name: "FIT",
            kind: Kind::Fit,
            parts: vec![("firmware", 0, 4096)],
            covered: only(0..4),
            numbers: numbers(4, true, &[4, 8, 12, 16, 24, 32, 36]),
            needed: 4096,
            bytes: fit(4096),
        },
        Sample {
            name: "UBI",
            kind: Kind::Ubi,
            parts: vec![("ubi", 0, 5 * 8192)],
            covered: (0..5)
                .map(|block| block * 8192..block * 8192 + 64)
                .collect(),
            numbers: numbers(4, true, &[16, 20, 24]),
            needed: 5 * 8192,
            bytes: ubi(5, 8192),
        },
        Sample {
            name: "UBIFS",
            kind: Kind::Ubifs,
            parts: vec![("rootfs", 0, 3 * 8192)],
            covered: only(0..4096),
            numbers: numbers(4, false, &[16, 36, 40]),
            needed: 3 * 8192,
            bytes: ubifs(8192, 3),
        },
        Sample {
            name: "combined",
            kind: Kind::Combined,
            parts: vec![("kernel", 65536, 65536), ("rootfs", 131_072, 131_072)],
            covered: only(0..18),
            numbers: vec![],
            needed: 4 * 65536,
            bytes: combined(65536, 131_072),
        },
        Sample {
            name: "MBR",
            kind: Kind::Mbr,
            parts: vec![("boot", 64 * 512, 8 * 512), ("root", 80 * 512, 16 * 512)],
            covered: vec![0..2, 510..512],
            numbers: numbers(4, false, &[454, 458, 470, 474]),
            needed: 96 * 512,
            bytes: disk(Kind::Mbr, &disk_parts, 100),
        },
        Sample {
            name: "GPT",
            kind: Kind::Gpt,
            parts: vec![("kernel", 64 * 512, 8 * 512), ("root", 80 * 512, 16 * 512)],
            covered: vec![0..2, 510..604, 1024..1024 + 128 * 128],
            numbers: [24, 40, 48, 72, 1024 - 512 + 32, 1024 - 512 + 40]
                .map(|at| (512 + at, 8, false))
                .into_iter()
                .chain([12, 80, 84].map(|at| (512 + at, 4, false)))
                .collect(),
            needed: 96 * 512,
            bytes: disk(Kind::Gpt, &gpt_parts, 140),
        },
    ]
}
