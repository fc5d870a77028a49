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

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest compat version; the longest in OpenWrt has three characters.
const MAX_TEXT: usize = 32;

/// A compat version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl TryFrom<String> for Compat {
    type Error = CompatError;

    fn try_from(text: String) -> Result<Self, CompatError> {
        Self::parse(&text)
    }
}

impl From<Compat> for String {
    fn from(compat: Compat) -> Self {
        compat.text
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compat(text: &str) -> Compat {
        Compat::parse(text).expect(text)
    }

    fn device(text: &str) -> Device {
        Device {
            name: "acme,router-a1".to_owned(),
            oem_name: Some("a1".to_owned()),
            compat: compat(text),
        }
    }

    fn judged(names: &[&str], image: &str, on: &str) -> Fit {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        judge(&names, &compat(image), &device(on))
    }

    /// For the device's own name.
    fn by_version(image: &str, on: &str) -> Fit {
        judged(&["acme,router-a1"], image, on)
    }

    #[test]
    fn only_the_same_text_is_the_same_version() {
        use Ordering::{Equal, Greater, Less};
        let oem = false;
        assert_eq!(by_version("1.0", "1.0"), Fit::Fits);
        for (image, on, order) in [
            ("1.1", "1.0", Greater),
            ("1.0", "1.1", Less),
            ("1.10", "1.1", Greater),
            ("1.9", "1.10", Less),
            ("1.00", "1.0", Equal),
            ("2", "2.0", Equal),
            ("1.2.9", "1.2.3", Greater),
        ] {
            let minor = Fit::Minor { oem, image: order };
            assert_eq!(by_version(image, on), minor, "{image} on {on}");
        }
        for (image, on, order) in [
            ("2.0", "1.0", Greater),
            ("1.0", "2.0", Less),
            ("10.0", "9.0", Greater),
            ("1.2.0", "1.2", Equal),
            ("01.0", "1.0", Equal),
        ] {
            let major = Fit::Major { image: order };
            assert_eq!(by_version(image, on), major, "{image} on {on}");
        }
    }

    #[test]
    fn the_first_name_that_is_the_devices_decides() {
        let minor = Fit::Minor {
            oem: true,
            image: Ordering::Equal,
        };
        assert_eq!(judged(&["b", "a1"], "1.0", "1.0"), minor);
        assert_eq!(judged(&["a1", "acme,router-a1"], "1.0", "1.0"), minor);
        assert_eq!(judged(&["acme,router-a1", "a1"], "1.0", "1.0"), Fit::Fits);
        for names in [
            &[][..],
            &[""],
            &["acme,router-a"],
            &["acme,router-a10"],
            &["ACME,ROUTER-A1"],
            &[" acme,router-a1"],
            &["acme,router-a1\n"],
            &["acme,router-a1 a1"],
        ] {
            assert_eq!(judged(names, "1.0", "1.0"), Fit::WrongDevice, "{names:?}");
        }
    }

    #[test]
    fn an_empty_name_is_nobodys() {
        let nobody = Device {
            name: String::new(),
            oem_name: Some(String::new()),
            compat: Compat::default(),
        };
        let names = [String::new()];
        assert_eq!(judge(&names, &Compat::default(), &nobody), Fit::WrongDevice);
    }

    #[test]
    fn what_is_not_numbers_and_dots_is_no_version() {
        assert_eq!(compat("1.0"), Compat::default());
        let long = "1".repeat(33);
        for text in [
            "",
            ".",
            "1.",
            ".1",
            "1..0",
            "1.x",
            "v1.0",
            "1.0 ",
            " 1.0",
            "1.0\n",
            "-1.0",
            "+1.0",
            "1,0",
            "1.0-rc1",
            "1.000000e0",
            "١.٠",
            "99999999999999999999.0",
            &long,
        ] {
            assert_eq!(Compat::parse(text), Err(CompatError), "{text:?}");
        }
    }

    /// The stock scripts' rules, by their words: cut at the last dot, compare as text.
    fn stock(names: &[String], image: &str, on: &str, name: &str, oem: &str) -> Option<bool> {
        let major = |text: &str| match text.rfind('.') {
            Some(dot) => text[..dot].to_owned(),
            None => text.to_owned(),
        };
        let found = names.iter().find(|known| *known == name || *known == oem)?;
        (major(image) == major(on)).then(|| image == on && found != oem)
    }

    proptest! {
        #[test]
        fn no_image_is_judged_looser_or_stricter_than_by_the_stock_rules(
            names in proptest::collection::vec("[ab]{1,2}", 0..4),
            image in "[0-2]{1,2}(\\.[0-2]{1,2}){0,2}",
            on in "[0-2]{1,2}(\\.[0-2]{1,2}){0,2}",
            name in "[ab]{1,2}",
            oem in "[ab]{1,2}",
        ) {
            let device = Device {
                name: name.clone(),
                oem_name: Some(oem.clone()),
                compat: compat(&on),
            };
            let fit = judge(&names, &compat(&image), &device);
            let keeps_config = match fit {
                Fit::Fits => Some(true),
                Fit::Minor { .. } => Some(false),
                Fit::Major { .. } | Fit::WrongDevice => None,
            };
            prop_assert_eq!(keeps_config, stock(&names, &image, &on, &name, &oem));
        }

        #[test]
        fn the_age_of_versions_is_an_order(
            texts in proptest::array::uniform3("[0-2]{1,2}(\\.[0-2]{1,2}){0,2}"),
        ) {
            let [a, b, c] = texts.map(|text| compat(&text));
            prop_assert_eq!(a.age(&b), b.age(&a).reverse());
            if a.age(&b).is_le() && b.age(&c).is_le() {
                prop_assert!(a.age(&c).is_le());
            }
        }

        #[test]
        fn any_text_is_a_version_or_not_and_stays_as_it_is(text in ".{0,40}") {
            if let Ok(compat) = Compat::parse(&text) {
                prop_assert_eq!(compat.as_str(), text);
            }
        }
    }
}
