//! Chunks at the end of images: what `fwtool` reads and writes, and what it stumbles over.

use std::fs;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

use serde_json::Value;
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::image::openwrt::fwtool::{
    self, FwtoolError, MAX_METADATA, MAX_SIGNATURE, New, Tail,
};
use sysupgrade_rs::image::openwrt::metadata::Metadata;
use sysupgrade_rs::report::Reason;

use crate::vectors;

/// Where we are stricter than `fwtool`: it takes these for images without metadata, hangs, or
/// crashes; to us they are damaged.
const DAMAGED: [(&str, &str); 9] = [
    ("only-trailer", "chunks about nothing"),
    ("raw-bad-trailer-crc", "the checksum is wrong"),
    ("raw-flip-metadata", "the checksum is wrong"),
    ("raw-flip-payload", "the checksum is wrong"),
    ("trailer-size-20", "metadata without room for its header"),
    ("trailer-size-huge", "a length lies"),
    ("trailer-size-negative", "a length lies; fwtool crashes"),
    ("trailer-size-over-buffer", "a length lies"),
    ("trailer-size-zero", "a length lies; fwtool hangs"),
];

/// The recorded images: name, bytes, and what the tools said.
fn images() -> impl Iterator<Item = (String, Vec<u8>, Value)> {
    let expected = vectors::json("expected.json");
    let images = expected["images"].as_array().expect("images").clone();
    images.into_iter().map(|image| {
        let file = image["file"].as_str().expect("file");
        let name = file.trim_start_matches("images/").trim_end_matches(".bin");
        let bytes = fs::read(vectors::path(file)).expect(file);
        (name.to_owned(), bytes, image)
    })
}

fn image(name: &str) -> Vec<u8> {
    fs::read(vectors::path(&format!("images/{name}.bin"))).expect(name)
}

fn read(bytes: &[u8]) -> Result<Tail, FwtoolError> {
    fwtool::read(&mut Cursor::new(bytes))
}

fn append(bytes: &[u8], chunk: New<'_>) -> Vec<u8> {
    let mut file = Cursor::new(bytes.to_vec());
    fwtool::append(&mut file, chunk).expect("append");
    file.into_inner()
}

/// A trailer with the checksum that belongs there, whatever else it says.
fn trailer(before: &[u8], kind: u8, size: u32) -> Vec<u8> {
    let checksum = !crc32fast::hash(before);
    let mut trailer = b"FWx0".to_vec();
    trailer.extend(checksum.to_be_bytes());
    trailer.extend([kind, 0, 0, 0]);
    trailer.extend(size.to_be_bytes());
    trailer
}

/// Appends a chunk that our own writer would not make.
fn append_odd(bytes: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
    let mut file = [bytes, content].concat();
    let size = u32::try_from(content.len() + 16).expect("a small chunk");
    file.extend(trailer(&file, kind, size));
    file
}

const JSON: &str = r#"{ "supported_devices": ["acme,router-a1"] }"#;
const OTHER: &str = r#"{ "supported_devices": ["other,board"] }"#;

/// A small image with metadata and what could be a signature.
fn signed() -> Vec<u8> {
    let payload: Vec<u8> = (0..=200).collect();
    append(
        &append(&payload, New::Info(JSON)),
        New::Signature(b"untrusted comment: x\nabcd\n"),
    )
}

#[track_caller]
fn same(found: Option<&[u8]>, recorded: &Value, what: &str) {
    if recorded["exit"] == 0 {
        let found = found.unwrap_or_else(|| panic!("{what}: the stock tool finds it"));
        assert_eq!(found.len() as u64, recorded["output_size"], "{what}");
        if found.is_empty() {
            return;
        }
        assert_eq!(
            Digest::of(found).to_string(),
            recorded["output_sha256"],
            "{what}"
        );
    } else {
        assert_eq!(found, None, "{what}: the stock tool does not find it");
    }
}

#[test]
fn every_recorded_image_gives_what_the_stock_tool_extracts() {
    let (mut metadata, mut signatures, mut damaged) = (0, 0, Vec::new());
    for (name, bytes, image) in images() {
        let tools = &image["tools"];
        let tail = match read(&bytes) {
            Ok(tail) => tail,
            Err(error) => {
                assert_eq!(error.reason(), Reason::Damaged, "{name}: {error}");
                assert_ne!(tools["fwtool_extract_metadata"]["exit"], 0, "{name}");
                damaged.push(name);
                continue;
            }
        };
        same(
            tail.metadata.as_deref(),
            &tools["fwtool_extract_metadata"],
            &name,
        );
        metadata += u32::from(tail.metadata.is_some());
        let ucert = tail.signature.as_ref().map(|found| &found.ucert[..]);
        same(ucert, &tools["fwtool_extract_signature"], &name);
        if let Some(signature) = &tail.signature {
            let stripped = &tools["fwtool_strip_signature_to_stdout"];
            let message = usize::try_from(signature.message).expect("a small image");
            assert_eq!(signature.message, stripped["stdout_size"], "{name}");
            assert_eq!(
                Digest::of(&bytes[..message]).to_string(),
                stripped["stdout_sha256"],
                "{name}"
            );
            signatures += 1;
        }
    }
    damaged.sort();
    assert_eq!(damaged, DAMAGED.map(|(name, _)| name));
    assert_eq!((metadata, signatures), (79, 31));
}

#[test]
fn the_payload_is_what_stands_before_all_chunks() {
    // The stock tool cuts off the outermost metadata and what is outside of it. In these there is
    // more below.
    let more_below = ["raw-two-metadata", "raw-signed-then-metadata"];
    for (name, bytes, image) in images() {
        let stripped = &image["tools"]["fwtool_strip_metadata_to_stdout"];
        let Ok(tail) = read(&bytes) else { continue };
        if more_below.contains(&name.as_str()) || name == "raw-signature-only" {
            assert_eq!(tail.payload, 16388, "{name}");
        } else if stripped["exit"] == 0 {
            let payload = usize::try_from(tail.payload).expect("a small image");
            assert_eq!(tail.payload, stripped["stdout_size"], "{name}");
            assert_eq!(
                Digest::of(&bytes[..payload]).to_string(),
                stripped["stdout_sha256"],
                "{name}"
            );
        } else if tail.signature.is_none() && name != "metadata-header-version-1" {
            assert_eq!(tail.payload, bytes.len() as u64, "{name}");
        }
    }
}

#[test]
fn what_is_appended_here_is_what_the_stock_tool_appends() {
    let mut rebuilt = 0;
    for (name, bytes, image) in images() {
        let Ok(tail) = read(&bytes) else { continue };
        if image["made_by"] == "hand edit" {
            continue;
        }
        let payload = usize::try_from(tail.payload).expect("a small image");
        let mut file = bytes[..payload].to_vec();
        if let Some(text) = &tail.metadata {
            let text = std::str::from_utf8(text).expect("text");
            file = append(&file, New::Info(text));
        }
        if let Some(signature) = &tail.signature {
            file = append(&file, New::Signature(&signature.ucert));
        }
        // Images with more than one chunk of a type need more than this.
        if file.len() == bytes.len() {
            assert_eq!(Digest::of(&file), Digest::of(&bytes), "{name}");
            rebuilt += u32::from(file.len() > payload);
        }
    }
    assert!(rebuilt >= 60, "only {rebuilt}");
}

#[test]
fn chunks_are_read_from_the_end_inwards_as_the_stock_tool_does() {
    let payload = b"payload of an image".to_vec();
    let info = append(&payload, New::Info(JSON));
    let sealed = append(&info, New::Signature(b"one"));

    let two = read(&append(&info, New::Info(OTHER))).unwrap();
    assert_eq!(two.metadata.as_deref(), Some(OTHER.as_bytes()));
    assert_eq!(two.payload, payload.len() as u64);

    let hidden = read(&append(&sealed, New::Info(OTHER))).unwrap();
    assert_eq!(hidden.signature, None, "metadata outside of it hides it");
    assert_eq!(hidden.metadata.as_deref(), Some(OTHER.as_bytes()));

    let outer = read(&append(&sealed, New::Signature(b"two"))).unwrap();
    let signature = outer.signature.unwrap();
    assert_eq!(signature.ucert, b"two");
    assert_eq!(signature.message, sealed.len() as u64);
    assert_eq!(outer.metadata.as_deref(), Some(JSON.as_bytes()));

    let unknown = read(&append_odd(&sealed, 7, b"of later times")).unwrap();
    assert_eq!(unknown, read(&sealed).unwrap(), "unknown types are skipped");

    let later = [&1_u32.to_be_bytes()[..], &[0; 4], OTHER.as_bytes()].concat();
    let later = read(&append_odd(&sealed, 1, &later)).unwrap();
    assert_eq!(later.signature, None, "any info chunk hides a signature");
    assert_eq!(later.metadata.as_deref(), Some(JSON.as_bytes()));
}

#[test]
fn metadata_gone_stale_below_whole_metadata_is_payload() {
    let payload = b"payload of an image".to_vec();
    let info = append(&payload, New::Info(OTHER));
    let wrapped = [&b"header of a maker"[..], &info].concat();
    assert!(
        matches!(read(&wrapped), Err(FwtoolError::Checksum { .. })),
        "alone it is damage"
    );
    let again = append(&wrapped, New::Info(JSON));
    let tail = read(&again).unwrap();
    assert_eq!(tail.metadata.as_deref(), Some(JSON.as_bytes()));
    assert_eq!(tail.payload, wrapped.len() as u64);

    let only_signed = append(&wrapped, New::Signature(b"one"));
    assert!(matches!(
        read(&only_signed),
        Err(FwtoolError::Checksum { .. })
    ));
}

#[test]
fn an_image_without_chunks_is_all_payload() {
    for bytes in [&b""[..], b"FWx0", b"0123456789abcde", &[0; 70_000]] {
        let tail = read(bytes).unwrap();
        let payload = bytes.len() as u64;
        let nothing = Tail {
            payload,
            metadata: None,
            signature: None,
        };
        assert_eq!(tail, nothing);
    }
}

/// What a change to a signed image may lead to: an error, or nothing found, or something that its
/// signature does not verify, because the chain or the signed bytes are others. Where the same chain
/// is over the same bytes, all the rest is the same, too.
#[track_caller]
fn nothing_wrong_is_accepted(changed: &[u8], original: &[u8], what: &str) {
    let wanted = read(original).unwrap();
    let wanted_signature = wanted.signature.clone().unwrap();
    let Ok(tail) = read(changed) else { return };
    let Some(signature) = &tail.signature else {
        return;
    };
    let message = |bytes: &[u8], signature: &fwtool::SignatureChunk| {
        let len = usize::try_from(signature.message).expect("a small image");
        Digest::of(&bytes[..len])
    };
    if signature.ucert == wanted_signature.ucert
        && message(changed, signature) == message(original, &wanted_signature)
    {
        assert_eq!(tail, wanted, "{what}");
    }
}

#[test]
fn a_flipped_bit_never_passes_as_signed_or_as_other_metadata() {
    let original = signed();
    let unsigned = append(&original[..201], New::Info(JSON));
    let mut flipped = original.clone();
    for bit in 0..original.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        nothing_wrong_is_accepted(&flipped, &original, &format!("bit {bit}"));
        // The signature covers all before its own chunk, and so does its checksum.
        if bit < unsigned.len() * 8 {
            assert!(
                matches!(read(&flipped), Err(FwtoolError::Checksum { .. })),
                "bit {bit}"
            );
        }
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    let mut flipped = unsigned.clone();
    for bit in 0..unsigned.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        let metadata = read(&flipped).ok().and_then(|tail| tail.metadata);
        if let Some(text) = metadata.filter(|text| text != JSON.as_bytes()) {
            assert!(Metadata::parse(&text).is_err(), "bit {bit}: {text:?}");
        }
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn an_image_cut_at_any_length_has_lost_its_signature() {
    let original = signed();
    let whole = read(&original).unwrap();
    let message = whole.signature.unwrap().message;
    for len in 0..original.len() {
        let tail = read(&original[..len]).unwrap();
        assert_eq!(tail.signature, None, "{len}");
        // Where the signature began, the image is an unsigned one.
        let metadata = (len as u64 == message).then_some(JSON.as_bytes());
        assert_eq!(tail.metadata.as_deref(), metadata, "{len}");
    }
}

#[test]
fn bytes_after_the_last_trailer_hide_it() {
    for junk in [&b"\n"[..], b"\0", &[0xff; 16], &[0; 100_000]] {
        let tail = read(&[&signed(), junk].concat()).unwrap();
        assert_eq!((tail.metadata, tail.signature), (None, None));
    }
}

#[test]
fn a_trailer_may_lie_about_every_length_and_type() {
    let original = signed();
    let trailer = original.len() - 16;
    let content = read(&original).unwrap().signature.unwrap().ucert.len() as u64;
    let near = 0..=u32::try_from(original.len()).expect("a small image") + 40;
    let far = [0x7fff, 0x8000, 0x8010, 0x8011, 0x1_0000, 0x7fff_ffff];
    let negative = (0..40).map(|less| u32::MAX - less);
    for size in near.chain(far).chain([1 << 31]).chain(negative) {
        for kind in [0, 1, 2, 0xff] {
            let mut lie = original.clone();
            lie[trailer + 8] = kind;
            lie[trailer + 12..].copy_from_slice(&size.to_be_bytes());
            nothing_wrong_is_accepted(&lie, &original, &format!("type {kind} size {size}"));
            let length = u64::from(size).checked_sub(16);
            let possible = length.is_some_and(|length| length < trailer as u64);
            if !possible {
                let error = read(&lie).expect_err("a length that cannot be");
                assert_eq!(error.reason(), Reason::Damaged, "{size}: {error}");
            } else if kind == 0 && length != Some(content) {
                let signature = read(&lie).ok().and_then(|tail| tail.signature);
                let ucert = signature.map(|signature| signature.ucert.len() as u64);
                assert!(ucert.is_none() || ucert == length, "{size}");
            }
        }
    }
}

#[test]
fn a_stack_deeper_than_the_stock_tools_buffers_is_refused() {
    // It sees the last whole buffer and what follows, and wants a byte of that below the chunks.
    let info = 8 + 4 + 16;
    for (len, sees) in [
        (65_536, 32_768),
        (65_537, 32_768),
        (98_303, 32_768),
        (98_304, 65_536),
    ] {
        for (payload, seen) in [(sees + 1, true), (sees, false), (sees - 1, false)] {
            let mut file = append(&vec![0; payload], New::Info("text"));
            let half = (len - payload - info) / 2;
            file = append_odd(&file, 9, &vec![1; half - 16]);
            file = append_odd(&file, 9, &vec![2; len - file.len() - 16]);
            assert_eq!(file.len(), len);
            let what = format!("{len} bytes, chunks from {payload}");
            match read(&file) {
                Ok(tail) => {
                    assert!(seen, "{what}");
                    assert_eq!(tail.metadata.as_deref(), Some(&b"text"[..]));
                }
                Err(error) => {
                    assert!(!seen, "{what}: {error}");
                    assert!(matches!(error, FwtoolError::TooDeep { .. }), "{error}");
                }
            }
        }
    }
}

#[test]
fn content_is_read_up_to_the_stock_tools_buffer_and_no_further() {
    let payload = b"payload".to_vec();
    let text = |len: usize| [&[0; 8][..], &vec![b' '; len - 8]].concat();
    let most = append_odd(&payload, 1, &text(32 << 10));
    let tail = read(&most).unwrap();
    assert_eq!(tail.metadata.map(|text| text.len()), Some((32 << 10) - 8));
    let more = append_odd(&payload, 1, &text((32 << 10) + 1));
    assert!(matches!(read(&more), Err(FwtoolError::Size { .. })));
}

#[test]
fn what_the_stock_tool_would_drop_in_silence_is_not_appended() {
    let limit = |most: u64| usize::try_from(most).expect("a few KiB");
    let text = " ".repeat(limit(MAX_METADATA) + 1);
    let ucert = vec![b' '; limit(MAX_SIGNATURE) + 1];
    let (most_text, most_ucert) = (&text[1..], &ucert[1..]);
    let image = append(b"payload", New::Info(most_text));
    let image = append(&image, New::Signature(most_ucert));
    let tail = read(&image).unwrap();
    assert_eq!(tail.metadata.as_deref(), Some(most_text.as_bytes()));
    assert_eq!(tail.signature.unwrap().ucert, most_ucert);

    for chunk in [New::Info(&text), New::Signature(&ucert)] {
        let mut file = Cursor::new(b"payload".to_vec());
        let error = fwtool::append(&mut file, chunk).unwrap_err();
        assert!(matches!(error, FwtoolError::TooLong { .. }), "{error}");
        assert_eq!(file.into_inner(), b"payload", "nothing was written");
    }
    let mut empty = Cursor::new(Vec::new());
    let error = fwtool::append(&mut empty, New::Info(JSON)).unwrap_err();
    assert!(matches!(error, FwtoolError::NoPayload), "{error}");
}

/// A file of zeros that ends in some bytes, and fails at one offset; it notes what is read of it.
struct Noted {
    len: u64,
    tail: Vec<u8>,
    fails_at: u64,
    at: u64,
    read: u64,
    longest: usize,
}

impl Noted {
    fn new(len: u64, tail: &[u8]) -> Self {
        Self {
            len,
            tail: tail.to_vec(),
            fails_at: u64::MAX,
            at: 0,
            read: 0,
            longest: 0,
        }
    }
}

impl Read for Noted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
        let count = buffer.len().min(rest);
        if (self.at..self.at + count as u64).contains(&self.fails_at) {
            return Err(io::Error::other("the medium is worn out"));
        }
        let zeros = self.len - self.tail.len() as u64;
        for (byte, offset) in buffer[..count].iter_mut().zip(self.at..) {
            let place = offset.checked_sub(zeros).and_then(|at| at.try_into().ok());
            *byte = place.map_or(0, |place: usize| self.tail[place]);
        }
        self.at += count as u64;
        self.read += count as u64;
        self.longest = self.longest.max(count);
        Ok(count)
    }
}

impl Seek for Noted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(0) => self.len,
            other => panic!("no reason to seek to {other:?}"),
        };
        Ok(self.at)
    }
}

#[test]
fn an_image_of_any_length_is_read_once_and_a_bit_at_a_time() {
    let len = 8 << 20;
    let mut image = vec![0; len];
    image = append(&image, New::Info(JSON));
    image = append(&image, New::Signature(b"chain"));
    let mut file = Noted::new(image.len() as u64, &image[len..]);
    let tail = fwtool::read(&mut file).unwrap();
    assert_eq!(tail.payload, len as u64);
    assert!(file.read <= image.len() as u64, "{} bytes read", file.read);
    assert!(file.longest <= 64 << 10, "{} bytes at once", file.longest);

    let mut plain = Noted::new(len as u64, b"");
    assert_eq!(fwtool::read(&mut plain).unwrap().payload, len as u64);
    assert!(plain.read <= 64 << 10, "{} bytes read", plain.read);
}

#[test]
fn a_source_that_fails_is_not_called_damaged() {
    let image = image("boundary-total-65536");
    let image = [&[0; 40_000][..], &image].concat();
    let payload = image.len();
    let image = append(&image, New::Info(JSON));
    for fails_at in [0, 39_999, payload as u64, image.len() as u64 - 1] {
        let mut file = Noted::new(image.len() as u64, &image);
        file.fails_at = fails_at;
        let error = fwtool::read(&mut file).unwrap_err();
        assert_eq!(error.reason(), Reason::SourceFailed, "{error}");
    }
    // Its length shrank while it was read.
    let mut file = Noted::new(image.len() as u64, &image);
    let mut short = Shrunk(&mut file);
    let error = fwtool::read(&mut short).unwrap_err();
    assert_eq!(error.reason(), Reason::SourceFailed, "{error}");
}

/// A file that ends before the end it has told.
struct Shrunk<'a>(&'a mut Noted);

impl Read for Shrunk<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.at + 10 >= self.0.len {
            true => Ok(0),
            false => self.0.read(&mut buffer[..1]),
        }
    }
}

impl Seek for Shrunk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}
