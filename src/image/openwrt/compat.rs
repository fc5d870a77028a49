//! The rules by which an image is for a device: board names, and compat versions.
//!
//! A compat version is dotted numbers, `MAJOR.MINOR` nearly always. All before the last dot is the
//! major version: another one means another layout of the flash or another boot loader, and a
//! sysupgrade cannot get there, in either direction. Any other difference means that the
//! configuration does not fit.
//!
//! Versions are the same if their texts are: `1.10` is not `1.1`, nor `1.00` `1.0`. As numbers they
//! are compared only to tell people which one is older.

use std::cmp::Ordering;
use std::fmt;

use thiserror::Error;

/// Longest compat version; the longest in OpenWrt has three characters.
const MAX_TEXT: usize = 32;

/// A compat version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compat {
    text: String,
    numbers: Vec<u64>,
}

/// Text that is no compat version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a compat version is numbers with dots between them, at most {MAX_TEXT} characters")]
pub struct CompatError;

impl Compat {
    /// Reads a compat version.
    ///
    /// # Errors
    /// [`CompatError`] if it is anything but decimal numbers and single dots between them.
    pub fn parse(text: &str) -> Result<Self, CompatError> {
        if text.len() > MAX_TEXT {
            return Err(CompatError);
        }
        let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse().map_err(|_| CompatError),
            false => Err(CompatError),
        };
        Ok(Self {
            text: text.to_owned(),
            numbers: text.split('.').map(number).collect::<Result<_, _>>()?,
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True for 1.0, to the letter: the version of images from before there were versions.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.text == "1.0"
    }

    /// All before the last dot.
    #[must_use]
    pub fn major(&self) -> &str {
        self.text
            .rsplit_once('.')
            .map_or(&self.text, |(major, _)| major)
    }

    /// Which one is older, by numbers; a number that is not there counts as 0. Versions that are
    /// equal by numbers may still differ.
    #[must_use]
    pub fn age(&self, other: &Self) -> Ordering {
        let count = self.numbers.len().max(other.numbers.len());
        let number = |version: &Self, place: usize| version.numbers.get(place).copied();
        (0..count)
            .map(|place| {
                let ours = number(self, place).unwrap_or(0);
                ours.cmp(&number(other, place).unwrap_or(0))
            })
            .find(|ordering| ordering.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

/// 1.0, which images and devices have that do not say otherwise.
impl Default for Compat {
    fn default() -> Self {
        Self {
            text: "1.0".to_owned(),
            numbers: vec![1, 0],
        }
    }
}

impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What an image is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its board name: the first word of the device tree's `compatible`, or from the DMI tables.
    pub name: String,
    /// The name its maker's own images have for it.
    pub oem_name: Option<String>,
    /// The compat version of its configuration.
    pub compat: Compat,
}

/// How an image fits a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It does.
    Fits,
    /// Only without the configuration.
    Minor {
        /// The image is for the maker's name of the device, so what ran there may be its maker's.
        oem: bool,
        /// The image's compat version against the device's.
        image: Ordering,
    },
    /// Sysupgrade cannot get there.
    Major {
        /// The image's compat version against the device's.
        image: Ordering,
    },
    /// It is for other devices.
    WrongDevice,
}

/// Judges an image by the devices it is for and by its compat version.
///
/// Names are equal or they are not: no case, no spaces, no prefixes. The first name that is one of
/// the device's two decides, as in stock OpenWrt. An empty name is no name.
#[must_use]
pub fn judge(devices: &[String], compat: &Compat, device: &Device) -> Fit {
    let oem_name = device.oem_name.as_deref();
    let ours = |name: &&String| *name == &device.name || Some(name.as_str()) == oem_name;
    let named = devices.iter().filter(|name| !name.is_empty()).find(ours);
    let Some(name) = named else {
        return Fit::WrongDevice;
    };
    let image = compat.age(&device.compat);
    let oem = Some(name.as_str()) == oem_name;
    if compat.major() != device.compat.major() {
        Fit::Major { image }
    } else if oem || compat != &device.compat {
        Fit::Minor { oem, image }
    } else {
        Fit::Fits
    }
}
