//! Images for tests: good ones made by the builder, and bad ones, taken apart, changed, signed again
//! where the lie is to be a signed one, and put together.
#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::num::NonZeroU8;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::image::{
    self, Encoding, ImageError, Member, PartSource, Spec, Unverified, Verified,
};
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::trust::Trust;
use sysupgrade_rs::trust::usign::SecretKey;

/// Block size of all test images: small, so that a part has several.
pub const BLOCK: usize = 4096;

const TAR_BLOCK: usize = 512;

/// Each way to store a part.
pub const BOTH: [Encoding; 2] = [Encoding::Plain, Encoding::Deflate];

/// A key; equal numbers give equal keys.
pub fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 8], &[number; 32])
}

/// Trust in these keys, of which `threshold` must sign. The floor is 5.
pub fn trust(keys: &[SecretKey], threshold: u8) -> Trust {
    let mut trust = Trust::in_any_of(keys.iter().map(SecretKey::public));
    trust.threshold = NonZeroU8::new(threshold).unwrap();
    trust.floor = 5;
    trust
}

/// Trust in key 1.
pub fn trust_one() -> Trust {
    trust(&[key(1)], 1)
}

/// Bytes that look random and are the same every time.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..len).map(step).collect()
}

/// What the parts of the test image hold: one that shrinks and ends inside a block, one that does
/// not shrink and ends with a block.
pub fn contents() -> &'static BTreeMap<String, Vec<u8>> {
    static CONTENTS: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
        let text: Vec<u8> = (0..)
            .flat_map(|line| format!("line {line} of the kernel\n").into_bytes())
            .take(2 * BLOCK + 1808)
            .collect();
        BTreeMap::from([
            ("kernel".to_owned(), text),
            ("root".to_owned(), noise(3 * BLOCK)),
        ])
    });
    &CONTENTS
}

/// Writes the inputs into a directory and describes the image that they make.
pub fn spec(dir: &Path, encoding: Encoding) -> Spec {
    let mut parts = Vec::new();
    for (name, bytes) in contents() {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        let name = name.clone();
        parts.push(PartSource { name, path });
    }
    let defaults = dir.join("defaults");
    fs::create_dir_all(defaults.join("etc/config")).unwrap();
    fs::write(defaults.join("etc/config/network"), noise(200)).unwrap();
    Spec {
        boards: vec!["acme,router-1".into(), "acme,router-1b".into()],
        version: "24.10.1 r28597".into(),
        security: 7,
        compat: "1.0".into(),
        migrates_from: Vec::new(),
        engine: 1,
        parts,
        defaults: Some(defaults),
        generated: BTreeMap::new(),
        block_size: u32::try_from(BLOCK).unwrap(),
        encoding,
        openwrt: false,
    }
}

/// A good image, signed by key 1.
pub fn good(encoding: Encoding) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Vec::new();
    image::build(&spec(dir.path(), encoding), &[key(1)], &mut image).unwrap();
    image
}

/// A good image, up to where its contents can be read.
pub fn verified(image: &[u8]) -> Verified<&[u8]> {
    Unverified::open(image)
        .unwrap()
        .verify(&trust_one())
        .unwrap()
}

/// Where something is in an image.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name without the directory; empty for the directory itself.
    pub name: String,
    /// Offset of the tar header.
    pub header: usize,
    /// Offset of the content.
    pub content: usize,
    /// Length of the content.
    pub len: usize,
}

impl Place {
    /// Where the padding ends.
    pub fn end(&self) -> usize {
        self.content + self.len.next_multiple_of(TAR_BLOCK)
    }
}

/// Where everything is, by an independent reader of tar.
pub fn places(image: &[u8]) -> Vec<Place> {
    let mut archive = tar::Archive::new(image);
    let entries = archive.entries().unwrap();
    let place = |entry: Result<tar::Entry<'_, &[u8]>, _>| {
        let entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let (_, name) = name.split_once('/').unwrap();
        Place {
            name: name.to_owned(),
            header: usize::try_from(entry.raw_header_position()).unwrap(),
            content: usize::try_from(entry.raw_file_position()).unwrap(),
            len: usize::try_from(entry.size()).unwrap(),
        }
    };
    entries.map(place).collect()
}

/// The place of one member.
pub fn place(image: &[u8], name: &str) -> Place {
    let mut places = places(image).into_iter();
    places.find(|place| place.name == name).unwrap()
}

/// Changes a tar header and makes its checksum right again.
pub fn change_header(image: &mut [u8], at: usize, change: impl FnOnce(&mut tar::Header)) {
    let mut header = tar::Header::from_byte_slice(&image[at..at + TAR_BLOCK]).clone();
    change(&mut header);
    header.set_cksum();
    image[at..at + TAR_BLOCK].copy_from_slice(header.as_bytes());
}

/// An image in pieces.
#[derive(Clone)]
pub struct Pieces {
    pub directory: String,
    pub members: Vec<(String, Vec<u8>)>,
}

impl Pieces {
    /// The pieces of a good image.
    pub fn of_good(encoding: Encoding) -> Self {
        let image = good(encoding);
        let member = |place: Place| {
            let content = &image[place.content..place.content + place.len];
            (place.name, content.to_vec())
        };
        Self {
            directory: "sysupgrade-acme_router-1/".into(),
            members: places(&image).into_iter().skip(1).map(member).collect(),
        }
    }

    /// A tar of the pieces, written without the builder.
    pub fn image(&self) -> Vec<u8> {
        let mut image = tar_header(&self.directory, b'5', 0);
        for (name, bytes) in &self.members {
            let name = format!("{}{name}", self.directory);
            image.extend(tar_header(&name, b'0', bytes.len()));
            image.extend(bytes);
            image.resize(image.len().next_multiple_of(TAR_BLOCK), 0);
        }
        image.resize(image.len() + 2 * TAR_BLOCK, 0);
        image
    }

    /// Number of a member.
    pub fn position(&self, name: &str) -> usize {
        self.members.iter().position(|(n, _)| n == name).unwrap()
    }

    /// Content of a member.
    pub fn member(&mut self, name: &str) -> &mut Vec<u8> {
        let index = self.position(name);
        &mut self.members[index].1
    }

    /// Puts another text in the place of the manifest, signed.
    pub fn set_manifest(mut self, text: impl Into<Vec<u8>>) -> Self {
        let text = text.into();
        let signature = key(1).sign(&text).to_text();
        *self.member("manifest.json") = text;
        *self.member("manifest.sig") = signature.into_bytes();
        self
    }

    pub fn manifest(&mut self) -> Value {
        serde_json::from_slice(self.member("manifest.json")).unwrap()
    }

    /// Changes what the manifest says, and signs that.
    pub fn lie(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut manifest = self.manifest();
        change(&mut manifest);
        self.set_manifest(serde_json::to_vec(&manifest).unwrap())
    }

    /// Changes what the manifest says of one member, and signs that.
    pub fn lie_about(self, name: &str, change: impl FnOnce(&mut Value)) -> Self {
        self.lie(|manifest| change(entry(manifest, name)))
    }

    /// Replaces a content and makes size and digest in the manifest fit, so that only what is
    /// *inside* the content is wrong.
    pub fn replace(mut self, name: &str, content: Vec<u8>) -> Self {
        let size = content.len();
        let digest = Digest::of(&content).to_string();
        *self.member(name) = content;
        self.lie_about(name, |entry| {
            entry["size"] = json!(size);
            entry["sha256"] = json!(digest);
        })
    }
}

/// What a manifest says of one member.
pub fn entry<'a>(manifest: &'a mut Value, name: &str) -> &'a mut Value {
    let members = manifest["members"].as_array_mut().unwrap();
    members.iter_mut().find(|one| one["name"] == name).unwrap()
}

/// A tar header, written without the builder.
pub fn tar_header(name: &str, kind: u8, size: usize) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o640);
    header.set_uid(1000);
    header.set_gid(1000);
    header.set_mtime(1_700_000_000);
    header.set_size(size as u64);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// What came out of an image.
pub struct Outcome {
    /// Everything that each part handed out.
    pub parts: Vec<(String, Vec<u8>)>,
    /// Everything that config.tar.gz handed out, and whether it ended well.
    pub config: Option<(Vec<u8>, bool)>,
    /// How it ended.
    pub result: Result<(), ImageError>,
}

/// Reads an image to its end or first error, keeping all that is handed out.
pub fn read(image: impl Read, trust: &Trust) -> Outcome {
    let mut outcome = Outcome {
        parts: Vec::new(),
        config: None,
        result: Ok(()),
    };
    outcome.result = read_into(image, trust, &mut outcome);
    outcome
}

fn read_into(image: impl Read, trust: &Trust, outcome: &mut Outcome) -> Result<(), ImageError> {
    let mut verified = Unverified::open(image)?.verify(trust)?;
    while let Some(member) = verified.next_member()? {
        match member {
            Member::Config(mut reader) => {
                let (bytes, whole) = outcome.config.insert((Vec::new(), false));
                drain(&mut reader, bytes)?;
                *whole = true;
            }
            Member::Part(mut reader) => {
                let name = reader.part().name.clone();
                outcome.parts.push((name, Vec::new()));
                let (_, bytes) = outcome.parts.last_mut().unwrap();
                drain(&mut reader, bytes)?;
            }
        }
    }
    verified.finish().map(drop)
}

/// Reads to the end, recording what is handed out: in turns with room for more than a block, and in pieces
/// that fit none. After an error nothing of the image is left in that room, and the reader is asked
/// once more: it must hand out nothing.
fn drain(reader: &mut dyn Read, sink: &mut Vec<u8>) -> Result<(), ImageError> {
    const UNTOUCHED: u8 = 0xee;
    let mut room = [0; 2 * BLOCK + 1000];
    for len in [room.len(), 1000, room.len()].into_iter().cycle() {
        let bytes = &mut room[..len];
        bytes.fill(UNTOUCHED);
        match reader.read(bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => sink.extend(&bytes[..count]),
            Err(error) => {
                let touched = bytes.iter().find(|byte| ![0, UNTOUCHED].contains(*byte));
                assert_eq!(touched, None, "left behind by {error}");
                let again = reader.read(bytes);
                assert!(again.is_err(), "after an error {again:?}");
                return Err(ImageError::from_io(error).unwrap());
            }
        }
    }
    unreachable!("the sizes never end")
}

/// Reads an image and returns why it was refused, `None` if it was not. Whatever comes of it, no
/// byte that is handed out may be another than the signed one, and none may be of a block that is
/// not whole.
pub fn refusal(image: &[u8], trust: &Trust) -> Option<ImageError> {
    let outcome = read(image, trust);
    let contents = contents();
    for (name, bytes) in &outcome.parts {
        // A signed manifest may rename a part; its content is still the one of a known part.
        let genuine = contents
            .values()
            .any(|truth| truth.starts_with(bytes) && (bytes.len() % BLOCK == 0 || bytes == truth));
        assert!(
            genuine,
            "{name} handed out {} bytes that are no whole blocks of what was signed",
            bytes.len()
        );
    }
    if outcome.result.is_ok() {
        let names: Vec<&String> = outcome.parts.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), contents.len(), "parts handed out: {names:?}");
        assert!(
            outcome
                .parts
                .iter()
                .all(|(_, bytes)| contents.values().any(|truth| truth == bytes)),
            "an accepted image did not hand out all of its parts"
        );
    }
    outcome.result.err()
}

/// [`refusal`], as its stable identifier.
pub fn reason(image: &[u8], trust: &Trust) -> Option<Reason> {
    refusal(image, trust).map(|error| error.reason())
}
