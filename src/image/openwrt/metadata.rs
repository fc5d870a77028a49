//! What a stock image says of itself: the JSON of its info chunk.
//!
//! ```text
//! metadata_version       "1.1"; decides nothing
//! compat_version         "1.0" if it is not there
//! compat_message         what people are told when the compat version is in the way
//! supported_devices      board names; when the compat version is not 1.0, one sentence that is
//!                        nobody's name, so that tools from before compat versions refuse
//! new_supported_devices  board names when the compat version is not 1.0
//! version                { dist, version, revision, target, board }; decides nothing
//! ```
//!
//! Makers add keys of their own, which are skipped. Stock tools read leniently: of a key given
//! twice the last one counts, numbers become text, an object passes for a list. Two programs must
//! not read two things in one signed text, so all of these are refused here.
//!
//! No tree is built of the text: a hostile one of 32 KiB would become a hundred times that.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use thiserror::Error;

use super::compat::{Compat, CompatError};
use crate::report::{Reason, printable};

/// Longest text: all that stock tools read from a chunk.
const MAX_TEXT: u64 = 32 << 10;

/// Metadata that makes sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The image's compat version.
    pub compat: Compat,
    /// What to tell people whom the compat version stops. As it is in the image: not fit for a
    /// terminal yet.
    pub compat_message: Option<String>,
    /// The devices it is for, by the list that counts. As they are in the image.
    pub devices: Vec<String>,
    /// What it is, for people.
    pub version: Version,
}

/// What an image is, for people; as it is in the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// The distribution: `OpenWrt`.
    pub dist: Option<String>,
    /// `24.10.1`. Some makers have only this one.
    pub version: Option<String>,
    /// `r28597-0425664679`.
    pub revision: Option<String>,
    /// `mediatek/filogic`.
    pub target: Option<String>,
    /// The profile it was built from: the device's name with `_` for `,`.
    pub board: Option<String>,
}

/// Why metadata is refused.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// Longer than possible.
    #[error("the metadata have {found} bytes, at most {MAX_TEXT} are possible")]
    TooLong {
        /// Its length.
        found: u64,
    },
    /// It is not JSON, or not of this form. The source names the key.
    #[error("the metadata are no JSON of the known form")]
    Json(#[source] serde_json::Error),
    /// The list of devices is not there.
    #[error("the metadata have no {key}, which counts when compat_version is {compat}")]
    NoDevices {
        /// The list that counts.
        key: &'static str,
        /// The image's compat version.
        compat: Compat,
    },
    /// The compat version is none.
    #[error("the metadata have the compat_version `{text}`")]
    Compat {
        /// What is there, fit for a terminal.
        text: String,
        /// Why.
        source: CompatError,
    },
}

impl MetadataError {
    /// The stable identifier.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::MetadataInvalid
    }

    /// What was found, and what the rule asks for.
    pub(crate) fn values(&self) -> (String, String) {
        match self {
            Self::TooLong { found } => (format!("{found} bytes"), format!("at most {MAX_TEXT}")),
            Self::Json(source) => (source.to_string(), "JSON of the known form".into()),
            Self::NoDevices { key, .. } => (format!("no {key}"), format!("a list {key}")),
            Self::Compat { text, source } => (text.clone(), source.to_string()),
        }
    }
}

impl Metadata {
    /// Reads the text of an info chunk.
    ///
    /// # Errors
    /// [`MetadataError`] unless it is one JSON object in which no key of any object is given twice,
    /// with the right types in all keys that are known, and the list of devices that counts.
    pub fn parse(text: &[u8]) -> Result<Self, MetadataError> {
        let found = text.len() as u64;
        if found > MAX_TEXT {
            return Err(MetadataError::TooLong { found });
        }
        let document: Document = serde_json::from_slice(text).map_err(MetadataError::Json)?;
        let compat = match document.compat_version {
            None => Compat::default(),
            Some(text) => Compat::parse(&text).map_err(|source| MetadataError::Compat {
                text: printable(&text),
                source,
            })?,
        };
        let (key, devices) = match compat.is_first() {
            true => ("supported_devices", document.supported_devices),
            false => ("new_supported_devices", document.new_supported_devices),
        };
        match devices {
            Some(devices) => Ok(Self {
                compat,
                compat_message: document.compat_message,
                devices,
                version: document.version,
            }),
            None => Err(MetadataError::NoDevices { key, compat }),
        }
    }

    /// Writes the text of an info chunk, to the byte as OpenWrt's build does.
    #[must_use]
    pub fn to_json(&self) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        let list = |texts: &[String]| {
            let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
            texts.join(", ")
        };
        let compat = self.compat.as_str();
        let devices = list(&self.devices);

        let mut text = format!(
            r#"{{  "metadata_version": "1.1", "compat_version": {}, "#,
            quoted(compat)
        );
        if let Some(message) = &self.compat_message {
            text += &format!(r#""compat_message": {}, "#, quoted(message));
        }
        text += &match self.compat.is_first() {
            true => format!(r#" "supported_devices":[{devices}]"#),
            false => {
                let names = self.devices.join(" ");
                let sentence =
                    format!("{names} - needs a newer sysupgrade: image {compat}, device 1.0");
                format!(
                    r#" "new_supported_devices": [{devices}], "supported_devices": [{}]"#,
                    quoted(&sentence)
                )
            }
        };
        let version = &self.version;
        let fields: Vec<_> = [
            ("dist", &version.dist),
            ("version", &version.version),
            ("revision", &version.revision),
            ("target", &version.target),
            ("board", &version.board),
        ]
        .into_iter()
        .filter_map(|(key, text)| Some(format!(r#""{key}": {}"#, quoted(text.as_deref()?))))
        .collect();
        text + &format!(", \"version\": {{ {} }} }}\n", fields.join(", "))
    }
}

/// The keys that are known, before they are understood.
#[derive(Default)]
struct Document {
    compat_version: Option<String>,
    compat_message: Option<String>,
    supported_devices: Option<Vec<String>>,
    new_supported_devices: Option<Vec<String>>,
    version: Version,
}

/// Reads an object: hands each key to `take`, which reads its value, and refuses a second one.
fn object<'de, A: MapAccess<'de>>(
    mut map: A,
    mut take: impl FnMut(&str, &mut A) -> Result<(), A::Error>,
) -> Result<(), A::Error> {
    let mut seen = BTreeSet::new();
    while let Some(key) = map.next_key::<String>()? {
        take(&key, &mut map)?;
        if let Some(twice) = seen.replace(key) {
            let twice = printable(&twice);
            return Err(A::Error::custom(format_args!("`{twice}` is there twice")));
        }
    }
    Ok(())
}

/// Reads the value of a key; an error names the key.
fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    key: &str,
) -> Result<Option<T>, A::Error> {
    let value = map.next_value();
    value
        .map(Some)
        .map_err(|error| A::Error::custom(format_args!("{key}: {error}")))
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Document, A::Error> {
        let mut document = Document::default();
        object(map, |key, map| {
            match key {
                "compat_version" => document.compat_version = value(map, key)?,
                "compat_message" => document.compat_message = value(map, key)?,
                "supported_devices" => document.supported_devices = value(map, key)?,
                "new_supported_devices" => document.new_supported_devices = value(map, key)?,
                "version" => document.version = value(map, key)?.unwrap_or_default(),
                _ => map.next_value::<Skipped>().map(drop)?,
            }
            Ok(())
        })?;
        Ok(document)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor)
    }
}

struct VersionVisitor;

impl<'de> Visitor<'de> for VersionVisitor {
    type Value = Version;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a text")
    }

    /// As some makers have it.
    fn visit_str<E: Error>(self, text: &str) -> Result<Version, E> {
        Ok(Version {
            version: Some(text.to_owned()),
            ..Version::default()
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Version, A::Error> {
        let mut version = Version::default();
        object(map, |key, map| {
            match key {
                "dist" => version.dist = value(map, key)?,
                "version" => version.version = value(map, key)?,
                "revision" => version.revision = value(map, key)?,
                "target" => version.target = value(map, key)?,
                "board" => version.board = value(map, key)?,
                _ => map.next_value::<Skipped>().map(drop)?,
            }
            Ok(())
        })?;
        Ok(version)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VersionVisitor)
    }
}

/// Any value, of which only one thing matters: that no key in it is given twice.
struct Skipped;

impl<'de> Visitor<'de> for Skipped {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self, A::Error> {
        object(map, |_, map| map.next_value::<Self>().map(drop))?;
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }
}

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}
