//! Files that wait in memory until they are written.

use std::io::{self, Cursor, Read, Write};
use std::rc::Rc;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use super::tree::Content;
use crate::digest::Digest;

/// The bytes of a file, deflated: a configuration shrinks to a fifth, and of a large one all that was merged
/// waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    size: u64,
    sha256: Digest,
    deflated: Rc<[u8]>,
}

impl Packed {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        let deflated = encoder.write_all(bytes).and_then(|()| encoder.finish());
        Self {
            size: bytes.len() as u64,
            sha256: Digest::of(bytes),
            deflated: deflated.expect("memory takes all that is written").into(),
        }
    }

    pub(super) fn content(&self) -> Content {
        Content::File {
            size: self.size,
            sha256: self.sha256,
        }
    }

    pub(super) fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn open(&self) -> impl Read + use<> {
        DeflateDecoder::new(Cursor::new(Rc::clone(&self.deflated)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        for bytes in [&b""[..], b"x", &[b'x'; 100_000], "\u{0}\u{ff}é".as_bytes()] {
            let packed = Packed::new(bytes);
            assert_eq!(packed.bytes().unwrap(), bytes);
            let (size, sha256) = super::super::tree::hash(&mut packed.open()).unwrap();
            assert_eq!(packed.content(), Content::File { size, sha256 });
        }
    }
}
