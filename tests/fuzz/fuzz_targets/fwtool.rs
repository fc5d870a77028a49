//! Whatever a file ends in, its chunks are within it, are read alike each time, and what is appended is
//! read back. What is metadata goes on to its reader; see the target `metadata`.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use sysupgrade_rs::image::openwrt::fwtool::{MAX_SIGNATURE, New, Tail, append, read};

/// Chunks that the checksums are made right for: more than the reader can see.
const MOST_CHUNKS: usize = 8;

fuzz_target!(|file: &[u8]| {
    let mut file = Cursor::new(file.to_vec());
    looks(&mut file);
    // No mutation finds a checksum.
    mend(file.get_mut());
    looks(&mut file);
    reads_back(file);
});

fn looks(file: &mut Cursor<Vec<u8>>) {
    let Ok(tail) = read(file) else {
        return;
    };
    assert_eq!(read(file).ok().as_ref(), Some(&tail));
    let bytes = file.get_ref();
    let len = bytes.len() as u64;
    assert!(tail.payload <= len);
    let parts = [
        tail.metadata.as_deref(),
        tail.signature.as_ref().map(|chunk| chunk.ucert.as_slice()),
    ];
    let content: usize = parts.iter().flatten().map(|part| part.len()).sum();
    assert!(tail.payload + content as u64 <= len);
    for part in parts.into_iter().flatten().filter(|part| !part.is_empty()) {
        assert!(bytes.windows(part.len()).any(|window| window == part));
    }
    if let Some(chunk) = &tail.signature {
        assert!(tail.payload <= chunk.message && chunk.message < len);
        // What is signed has the same metadata: nothing outside of it counts.
        let mut message = Cursor::new(&bytes[..usize::try_from(chunk.message).expect("it fits")]);
        let signed = read(&mut message).expect("what the signature covers is as whole as the rest");
        assert_eq!(signed.metadata, tail.metadata);
    }
}

fn reads_back(mut file: Cursor<Vec<u8>>) {
    let len = file.get_ref().len() as u64;
    let text = r#"{"supported_devices":["acme,x"]}"#;
    if let Err(error) = append(&mut file, New::Info(text)) {
        assert_eq!((len, file.get_ref().len()), (0, 0), "{error}");
        return;
    }
    let message = file.get_ref().len() as u64;
    let ucert = vec![0x5a; usize::try_from(len % (MAX_SIGNATURE + 1)).expect("it fits")];
    append(&mut file, New::Signature(&ucert)).expect("it is short enough");
    let Tail {
        metadata,
        signature,
        payload,
    } = read(&mut file).expect("what was appended is read");
    assert_eq!(metadata.as_deref(), Some(text.as_bytes()));
    assert!(payload <= len, "{payload}");
    let signature = signature.expect("a signature was appended");
    assert_eq!((signature.message, signature.ucert), (message, ucert));
}

/// Makes the checksums right, from the innermost trailer outwards.
fn mend(bytes: &mut [u8]) {
    let mut ends = Vec::new();
    let mut end = bytes.len();
    while ends.len() < MOST_CHUNKS && end >= 16 && bytes[end - 16..end - 12] == *b"FWx0" {
        ends.push(end);
        let size = bytes[end - 4..end].try_into().expect("four bytes");
        let size = usize::try_from(u32::from_be_bytes(size)).expect("it fits");
        if size < 16 || size > end {
            break;
        }
        end -= size;
    }
    for end in ends.into_iter().rev() {
        let sum = !crc32fast::hash(&bytes[..end - 16]);
        bytes[end - 12..end - 8].copy_from_slice(&sum.to_be_bytes());
    }
}
