//! Of whatever payload, the extents lie within it, one behind the other, and go to parts of the slot; all
//! the same how it arrives, and whether it is wrapped in gzip.

#![no_main]

use std::io::{Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use sysupgrade_rs::image::openwrt::payload::{Payload, PayloadError, Wanted, plain, survey};

/// Slots of boards that there are.
const SLOTS: [&[&str]; 5] = [
    &["kernel", "root"],
    &["kernel", "rootfs", "dtb"],
    &["boot", "root"],
    &["firmware"],
    &["ubi"],
];

const BOARD: &str = "acme,nand-x2";
const MOST: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let mut payload = bytes.to_vec();
    mend(&mut payload);
    if payload != bytes {
        looks(bytes);
    }
    if let Some(found) = looks(&payload).filter(|found| !found.gzip) {
        let mut wrapped = GzEncoder::new(Vec::new(), Compression::none());
        wrapped.write_all(&payload).expect("a vector takes it");
        let wrapped = wrapped.finish().expect("a vector takes it");
        let again = survey_with(&wrapped, None, None);
        let again = again.expect("it was good without gzip");
        assert_eq!((again.gzip, again.kind), (true, found.kind));
        assert_eq!(again.parts, found.parts);
    }
});

/// What it is, if no slot is asked for.
fn looks(payload: &[u8]) -> Option<Payload> {
    let whole = survey_with(payload, None, None);
    // The same if a few bytes come at a time. Which of two errors comes first may then differ.
    let pieces = survey_from(&mut Pieces(payload), payload.len(), None, None);
    assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok());
    for slot in SLOTS {
        let Ok(placed) = survey_with(payload, Some(BOARD), Some(slot)) else {
            continue;
        };
        let found = whole.as_ref().expect("good for a slot is good at all");
        assert_eq!((placed.kind, placed.gzip), (found.kind, found.gzip));
        for extent in &placed.parts {
            assert!(slot.contains(&extent.part.as_str()), "{placed:?}");
        }
        are_within(payload, &placed);
    }
    whole.ok()
}

fn survey_with(
    mut payload: &[u8],
    board: Option<&str>,
    parts: Option<&[&str]>,
) -> Result<Payload, PayloadError> {
    let len = payload.len();
    survey_from(&mut payload, len, board, parts)
}

fn survey_from(
    source: &mut dyn Read,
    len: usize,
    board: Option<&str>,
    parts: Option<&[&str]>,
) -> Result<Payload, PayloadError> {
    let wanted = Wanted {
        board,
        parts,
        most: MOST,
    };
    survey(source, len as u64, &wanted)
}

struct Pieces<'a>(&'a [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(97);
        self.0.read(&mut buffer[..count])
    }
}

fn are_within(payload: &[u8], found: &Payload) {
    let mut inflated = plain(payload, found.gzip, MOST);
    let len = std::io::copy(&mut inflated, &mut std::io::sink()).expect("it was read before");
    let mut end = 0;
    for extent in &found.parts {
        assert!(extent.start >= end && extent.len > 0, "{found:?}");
        end = extent
            .start
            .checked_add(extent.len)
            .expect("within 64 bits");
    }
    assert!((1..=len).contains(&end), "{found:?} of {len} bytes");
}

/// Makes the checksums right that no mutation finds.
fn mend(payload: &mut [u8]) {
    if payload.starts_with(&[0x27, 0x05, 0x19, 0x56]) && payload.len() >= 64 {
        let len = usize::try_from(be(&payload[12..])).expect("it fits");
        if let Some(data) = payload[64..].get(..len) {
            let sum = crc32fast::hash(data).to_be_bytes();
            payload[24..28].copy_from_slice(&sum);
        }
        payload[4..8].fill(0);
        let sum = crc32fast::hash(&payload[..64]).to_be_bytes();
        payload[4..8].copy_from_slice(&sum);
    }
    if payload.starts_with(&[0x31, 0x18, 0x10, 0x06]) && payload.len() >= 4096 {
        let sum = !crc32fast::hash(&payload[8..4096]);
        payload[4..8].copy_from_slice(&sum.to_le_bytes());
    }
    if payload.get(512..520) == Some(b"EFI PART") && payload.len() >= 1024 {
        mend_gpt(payload);
    }
    for block in payload.chunks_exact_mut(512) {
        if block.starts_with(b"UBI#") {
            let sum = !crc32fast::hash(&block[..60]);
            block[60..64].copy_from_slice(&sum.to_be_bytes());
        }
        if block.starts_with(b"sysupgrade-") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().copied().map(u32::from).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

fn mend_gpt(payload: &mut [u8]) {
    let start = usize::try_from(le(&payload[584..])).expect("it fits") * 512;
    let len = u64::from(le(&payload[592..])) * u64::from(le(&payload[596..]));
    let end = usize::try_from(len)
        .ok()
        .and_then(|len| start.checked_add(len));
    if let Some(entries) = end.and_then(|end| payload.get(start..end)) {
        let sum = crc32fast::hash(entries).to_le_bytes();
        payload[600..604].copy_from_slice(&sum);
    }
    let len = usize::try_from(le(&payload[524..])).expect("it fits");
    payload[528..532].fill(0);
    if let Some(header) = payload[512..1024].get(..len) {
        let sum = crc32fast::hash(header).to_le_bytes();
        payload[528..532].copy_from_slice(&sum);
    }
}

fn be(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

fn le(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"))
}
