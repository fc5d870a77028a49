//! The board file: everything that is known of one device model, as data.
//!
//! TOML, read strictly: an unknown key, a missing one or a wrong type is refused with its line. The
//! files under `board/` show every key with its meaning; [`Board::parse`] checks what must hold for
//! the promises: exactly two slots, of the same parts, that share neither a part nor an overlay nor
//! anything with what outlives both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, PathBuf};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::de::{DeTable, DeValue};

use crate::report::printable;
use crate::slots::{MAX_TRIES, Slot};
use crate::toml_text::{self, line_of};

/// The board file that is used where none is installed: files stand for the flash.
pub const VIRTUAL: &str = include_str!("../board/virtual.toml");

/// Board files are a few KiB; this bounds what is read of one.
pub const MAX_BOARD_FILE: u64 = 64 << 10;

/// A device model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Name of the model.
    pub name: String,
    /// Names by which images may address it, the preferred one first.
    pub compatible: Vec<String>,
    /// Who may sign.
    pub trust: Trust,
    /// What lives outside both slots. A board without it has a carrier a slot, and keeps its records
    /// in the boot environment.
    #[serde(default)]
    pub data: Option<Data>,
    /// The boot loader.
    pub boot: Boot,
    /// How the configuration of a slot is kept.
    #[serde(default)]
    pub config: Config,
    /// How a new system is found to work.
    #[serde(default)]
    pub health: Health,
    /// What resets the machine when the system on trial hangs.
    #[serde(default)]
    pub watchdog: Option<Watchdog>,
    /// The two slots.
    #[serde(rename = "slot", deserialize_with = "two_slots")]
    pub slots: [SlotSpec; 2],
}

/// `[trust]`: which signatures count.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// Directories of usign public keys, one a file, named by fingerprint.
    pub keys: Vec<PathBuf>,
    /// How many distinct keys must have signed.
    #[serde(default = "one")]
    pub threshold: u8,
    /// What becomes of stock OpenWrt images that nobody has signed.
    #[serde(default)]
    pub unsigned: Unsigned,
}

/// What becomes of stock OpenWrt images that nobody has signed. Images of our own kind are always
/// signed, and a signature that is there must be good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsigned {
    /// They are refused.
    #[default]
    Refuse,
    /// They are installed: whoever can hand this router an image owns it.
    Allow,
}

fn one() -> u8 {
    1
}

/// `[data]`: the directory that both slots share.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Holds archive, floor, results; persistent, outside both slots.
    pub dir: PathBuf,
}

/// `[boot]`: where the boot loader keeps its state and how the system reboots.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The kind of store.
    pub kind: BootKind,
    /// Places of the environment: one, or two for a redundant U-Boot environment.
    #[serde(default)]
    pub store: Vec<Store>,
    /// The file in which U-Boot's own tools find those places (`/etc/fw_env.config`), instead of
    /// `store`.
    #[serde(default)]
    pub fw_env_config: Option<PathBuf>,
    /// The layout of variables in it.
    #[serde(default)]
    pub layout: Layout,
    /// Where systemd-boot finds its entries: `loader/entries` on the EFI system partition.
    #[serde(default)]
    pub entries: Option<PathBuf>,
    /// Names of the partitions whose attribute bits the boot loader reads, one a slot, in the order of
    /// the board file. Their disk is the one place in `store`.
    #[serde(default)]
    pub partitions: Option<[String; 2]>,
    /// The program that reads and writes the boot state, by argv. See [`crate::boot::program`].
    #[serde(default)]
    pub program: Vec<String>,
    /// How often a new slot may boot before it is given up.
    #[serde(default = "three")]
    pub tries: u8,
    /// How the running slot is known.
    pub running: Running,
    /// How long a new system may run unconfirmed. Default 10 minutes.
    #[serde(default = "ten_minutes", deserialize_with = "duration")]
    pub confirm_within: Duration,
    /// The command that reboots, by argv. Empty: somebody else does (virtual boards).
    #[serde(default = "reboot")]
    pub reboot: Vec<String>,
}

fn three() -> u8 {
    3
}

fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

fn reboot() -> Vec<String> {
    vec!["reboot".to_owned()]
}

/// Kinds of boot environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootKind {
    /// A GRUB environment block, 1024 bytes.
    GrubEnv,
    /// A U-Boot environment, single or redundant.
    UbootEnv,
    /// Names of systemd-boot's entries.
    SystemdBoot,
    /// Attribute bits of GPT partitions, as ChromeOS and Bottlerocket use them.
    GptAttributes,
    /// A program of the board's.
    Program,
}

/// The longest U-Boot environment. The largest in use fill an erase block of parallel NOR flash,
/// 256 KiB; four times that bounds what a typing error makes us read.
pub const MAX_ENVIRONMENT: u64 = 1 << 20;

/// Where one copy of a boot environment is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawStore")]
pub struct Store {
    /// The medium.
    pub place: Place,
    /// First byte.
    pub offset: u64,
    /// Size in bytes, header included. Only of U-Boot environments: GRUB's have always 1024.
    pub size: Option<u64>,
    /// Bytes from `offset` on in which the copy may be, so that it can make room for bad blocks of
    /// NAND flash. Without it, as many erase blocks as the copy needs.
    pub window: Option<u64>,
}

/// The medium of a boot environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file or block device.
    Path(PathBuf),
    /// An MTD, by its name.
    Mtd(String),
    /// A UBI volume.
    Ubi(Volume),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Mtd(name) => write!(f, "mtd {name}"),
            Self::Ubi(volume) => volume.fmt(f),
        }
    }
}

/// A UBI volume, by the names of its MTD and its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Name of the MTD that UBI is on.
    pub mtd: String,
    /// Name of the volume.
    pub volume: String,
}

impl std::fmt::Display for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ubi {}:{}", self.mtd, self.volume)
    }
}

/// A store as it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStore {
    path: Option<PathBuf>,
    mtd: Option<String>,
    volume: Option<String>,
    #[serde(default)]
    offset: u64,
    size: Option<u64>,
    window: Option<u64>,
}

impl TryFrom<RawStore> for Store {
    type Error = &'static str;

    fn try_from(raw: RawStore) -> Result<Self, Self::Error> {
        let place = match (raw.path, raw.mtd, raw.volume) {
            (Some(path), None, None) => Place::Path(path),
            (None, Some(mtd), None) => Place::Mtd(mtd),
            (None, Some(mtd), Some(volume)) => Place::Ubi(Volume { mtd, volume }),
            _ => {
                return Err(
                    "an environment is at a `path`, on an `mtd`, or in a `volume` of an `mtd`",
                );
            }
        };
        Ok(Self {
            place,
            offset: raw.offset,
            size: raw.size,
            window: raw.window,
        })
    }
}

/// How the variables of a boot environment say which slot boots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// `"order"`: `BOOT_ORDER`, `BOOT_A_LEFT`, `BOOT_B_LEFT`.
    #[default]
    Order,
    /// A table: one variable names the slot. Only in a U-Boot environment.
    Switch(Box<Switch>),
}

impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match WordOr::deserialize(deserializer)? {
            WordOr::Word(word) if word == "order" => Ok(Self::Order),
            WordOr::Word(word) => Err(D::Error::custom(format!(
                "layout `{word}` is neither \"order\" nor a switch"
            ))),
            WordOr::Table(switch) => Ok(Self::Switch(Box::new(switch))),
        }
    }
}

/// `[boot.layout]`: a variable that names the slot that boots, and what goes with it. See
/// [`crate::boot::switch`] for what such boot loaders cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Its name.
    pub variable: String,
    /// Its values, by slot.
    pub values: [String; 2],
    /// The value that the boot loader takes it for where it is not there.
    #[serde(default)]
    pub absent: Option<String>,
    /// Variables that are set along with it.
    #[serde(default)]
    pub along: BTreeMap<String, Along>,
    /// How the boot loader counts the boots of a trial, if it does.
    #[serde(default)]
    pub counter: Option<Counter>,
}

impl Switch {
    /// The value that stands for a slot.
    #[must_use]
    pub fn value(&self, slot: Slot) -> &str {
        &self.values[slot.index()]
    }

    /// Each variable has one meaning and values that an environment can hold.
    fn check(&self) -> Result<(), Breach> {
        let [first, second] = &self.values;
        if first == second {
            return breach(
                "boot.layout.values",
                format!("`{first}` stands for both slots"),
            );
        }
        if let Some(absent) = &self.absent
            && !self.values.contains(absent)
        {
            return breach(
                "boot.layout.absent",
                format!("`{absent}` is not one of the values"),
            );
        }
        let counter = self.counter.iter().flat_map(|counter| {
            let limit = counter.limit.iter();
            [&counter.armed, &counter.count].into_iter().chain(limit)
        });
        let counter = counter.map(|name| ("boot.layout.counter", name));
        let along = self.along.keys().map(|name| ("boot.layout.along", name));
        let mut seen = BTreeSet::new();
        for (at, name) in [("boot.layout.variable", &self.variable)]
            .into_iter()
            .chain(along)
            .chain(counter)
        {
            if name.is_empty() || name.contains(|c: char| c == '=' || c.is_control()) {
                return breach(at, format!("`{name}` is no name for a variable"));
            }
            if name.starts_with(OURS) {
                return breach(at, format!("{name} is a variable of sysupgrade-rs itself"));
            }
            if !seen.insert(name) {
                return breach(at, format!("variable {name} stands for two things"));
            }
        }
        let along = self.along.values().flat_map(|along| match along {
            Along::Always(value) => std::slice::from_ref(value),
            Along::BySlot(values) => values,
        });
        for (at, value) in along.map(|value| ("boot.layout.along", value)).chain(
            self.values
                .iter()
                .map(|value| ("boot.layout.values", value)),
        ) {
            // U-Boot takes a variable without a value for none at all.
            if value.is_empty() || value.contains(char::is_control) {
                return breach(
                    at,
                    format!("`{}` is no value for a variable", printable(value)),
                );
            }
        }
        Ok(())
    }
}

/// Names of variables that begin so are ours: conditions, records.
const OURS: &str = "sysupgrade_";

/// The value of a variable that is set along with the switch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Along {
    /// Whichever slot boots.
    Always(String),
    /// By the slot that boots.
    BySlot([String; 2]),
}

impl Along {
    /// The value where this slot boots.
    #[must_use]
    pub fn of(&self, slot: Slot) -> &str {
        match self {
            Self::Always(value) => value,
            Self::BySlot(values) => &values[slot.index()],
        }
    }
}

/// `[boot.layout.counter]`: variables of a boot loader that counts the boots of a trial, by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// `1` while boots are counted, else `0`: `upgrade_available` of U-Boot.
    pub armed: String,
    /// Boots so far; the loader raises it before it boots: `bootcount` of U-Boot.
    pub count: String,
    /// With a greater count the other slot boots: `bootlimit` of U-Boot. Without it the loader has the
    /// number in itself, and `tries` must be the same.
    #[serde(default)]
    pub limit: Option<String>,
    /// What the loader runs then: `altbootcmd` of U-Boot. It must be in the environment, or in `along`.
    #[serde(default)]
    pub fallback: Option<String>,
}

/// How the running slot is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Running {
    /// `cmdline:KEY`: the kernel's command line has `KEY=NAME`, put there by the boot loader.
    CommandLine(String),
    /// `ubi:NUMBER`: the UBI device of this number, which the kernel attached as it started, is on an
    /// MTD of the slot.
    Ubi(u32),
}

impl<'de> Deserialize<'de> for Running {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let running = match text.split_once(':') {
            Some(("cmdline", key)) if !key.is_empty() => Some(Self::CommandLine(key.to_owned())),
            Some(("ubi", number)) => number.parse().ok().map(Self::Ubi),
            _ => None,
        };
        running.ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` is not of the form cmdline:KEY or ubi:NUMBER"
            ))
        })
    }
}

/// `[config]`: how the configuration of a slot is kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A root in whose `etc` the running slot's files are as they were shipped. Without it, the
    /// usual places are looked at: see [`crate::config::baseline`].
    #[serde(default)]
    pub defaults: Option<PathBuf>,
    /// What travels, unless the command line says otherwise.
    #[serde(default)]
    pub scope: Scope,
}

/// `[health]`: what a new system has to do before it is kept. See [`crate::health`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Directory of the checks. One that is empty or missing finds nothing to be good.
    pub checks: PathBuf,
    /// How long one check may run.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// The pause before checks that failed are run again.
    #[serde(deserialize_with = "duration")]
    pub retry: Duration,
    /// How long after the guard began all must have passed; otherwise the machine goes back.
    #[serde(deserialize_with = "duration")]
    pub within: Duration,
    /// The guard confirms when all have passed. Otherwise somebody has to, too.
    pub confirm: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            checks: "/lib/sysupgrade-rs/health.d".into(),
            timeout: Duration::from_secs(30),
            retry: Duration::from_secs(5),
            within: Duration::from_secs(180),
            confirm: true,
        }
    }
}

/// `[watchdog]`: the timer in hardware that resets a machine on trial unless the guard feeds it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Watchdog {
    /// The device.
    pub device: PathBuf,
    /// How long it waits to be fed. A driver that cannot wait so long keeps its own time.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self {
            device: "/dev/watchdog".into(),
            timeout: Duration::from_secs(60),
        }
    }
}

/// Which files of a configuration travel to the next version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Those of the keep list.
    #[default]
    Declared,
    /// These, and whatever else the user added, changed or deleted under `/etc`.
    Etc,
}

/// `[[slot]]`: one bootable system.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotSpec {
    /// Its name: lower-case letters and digits.
    pub name: String,
    /// What `running` of the board finds when this slot runs; without it, its name.
    #[serde(default)]
    pub running: Option<String>,
    /// What lies over the read-only root. Without one the root is writable and first boot works in
    /// place.
    #[serde(default)]
    pub overlay: Option<Overlay>,
    /// Where the archive travels on a board without a shared data directory.
    #[serde(default)]
    pub carrier: Option<Carrier>,
    /// The media of its parts, by part name.
    pub parts: BTreeMap<String, Medium>,
}

impl SlotSpec {
    /// Names of the MTDs on which this slot has UBI.
    fn ubi_mtds(&self) -> impl Iterator<Item = &str> {
        let parts = self.parts.values().filter_map(|medium| match medium {
            Medium::Ubi(ubi) => Some(ubi.mtd.as_str()),
            _ => None,
        });
        let overlay = match &self.overlay {
            Some(Overlay::Ubifs(volume)) => Some(volume.mtd.as_str()),
            _ => None,
        };
        parts.chain(overlay)
    }
}

/// Where the configuration of a slot is kept: a directory whose `upper` lies over the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// A directory that is mounted whichever slot runs.
    Dir(PathBuf),
    /// The root directory of a UBIFS volume.
    Ubifs(Volume),
}

impl<'de> Deserialize<'de> for Overlay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match WordOr::deserialize(deserializer)? {
            WordOr::Word(path) => Self::Dir(path.into()),
            WordOr::Table(volume) => Self::Ubifs(volume),
        })
    }
}

/// Where the archive of a slot travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// In the overlay of the slot, as a file.
    Overlay,
    /// On a medium of its own, framed: see [`crate::data::carrier`].
    Medium(Medium),
}

impl<'de> Deserialize<'de> for Carrier {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match WordOr::deserialize(deserializer)? {
            WordOr::Word(word) if word == "overlay" => Ok(Self::Overlay),
            WordOr::Word(word) => Err(D::Error::custom(format!(
                "carrier `{word}` is neither \"overlay\" nor a medium"
            ))),
            WordOr::Table(medium) => Ok(Self::Medium(medium)),
        }
    }
}

/// A word, or a table that says more.
enum WordOr<T> {
    Word(String),
    Table(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for WordOr<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = WordOr<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a table")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
                Ok(WordOr::Word(word.to_owned()))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<Self::Value, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(WordOr::Table)
            }
        }
        deserializer.deserialize_any(Visitor(std::marker::PhantomData))
    }
}

/// What holds a part, or carries an archive.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Medium {
    /// A regular file of fixed size, standing for flash.
    File(FilePlace),
    /// A block device: a disk, a partition, an eMMC boot partition.
    Block(BlockPlace),
    /// Raw NOR or NAND flash.
    Mtd(MtdPlace),
    /// A UBI volume.
    Ubi(UbiPlace),
}

impl std::fmt::Display for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(place) => place.path.display().fmt(f),
            Self::Block(place) => place.fmt(f),
            Self::Mtd(place) => write!(f, "mtd {}", place.mtd),
            Self::Ubi(place) => place.volume().fmt(f),
        }
    }
}

/// `kind = "file"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePlace {
    /// The file.
    pub path: PathBuf,
}

/// `kind = "block"`: one of `path`, `partlabel`, `partuuid`, and `disk` with `partition`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockPlace {
    /// The device node.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Name of a GPT partition, as the kernel tells it (`PARTNAME`).
    #[serde(default)]
    pub partlabel: Option<String>,
    /// Identifier of a GPT partition (`PARTUUID`).
    #[serde(default)]
    pub partuuid: Option<String>,
    /// The device node of a disk.
    #[serde(default)]
    pub disk: Option<PathBuf>,
    /// Number of a partition of `disk`, from 1.
    #[serde(default)]
    pub partition: Option<u32>,
    /// What follows the image is discarded: the device is told that nobody needs it any more.
    #[serde(default)]
    pub discard: bool,
}

impl std::fmt::Display for BlockPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self {
                path: Some(path), ..
            } => path.display().fmt(f),
            Self {
                partlabel: Some(label),
                ..
            } => write!(f, "partition {label}"),
            Self {
                partuuid: Some(id), ..
            } => write!(f, "partition {id}"),
            Self {
                disk: Some(disk),
                partition: Some(number),
                ..
            } => {
                write!(f, "partition {number} of {}", disk.display())
            }
            _ => f.write_str("a block device"),
        }
    }
}

/// `kind = "mtd"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MtdPlace {
    /// Name of the MTD, as in `/proc/mtd`.
    pub mtd: String,
    /// First byte of the part; a multiple of the erase block.
    #[serde(default)]
    pub offset: u64,
    /// Bytes from there that are the part's, a multiple of the erase block; up to the end without it.
    #[serde(default)]
    pub size: Option<u64>,
    /// The first erase block is erased before any other one changes, and written after all others, on
    /// NOR its first byte last: for boot loaders that look at nothing but a header.
    #[serde(default)]
    pub header_last: bool,
}

/// `kind = "ubi"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UbiPlace {
    /// Name of the MTD that UBI is on; it is attached if it is not.
    pub mtd: String,
    /// Name of the volume.
    pub volume: String,
    /// Bytes that the volume must have room for: it is created or made larger when it has not.
    #[serde(default)]
    pub size: Option<u64>,
    /// What a volume that is created becomes.
    #[serde(default)]
    pub volume_type: VolumeType,
    /// How the content is replaced.
    #[serde(default)]
    pub replace: Replace,
}

impl UbiPlace {
    /// The volume's names.
    #[must_use]
    pub fn volume(&self) -> Volume {
        Volume {
            mtd: self.mtd.clone(),
            volume: self.volume.clone(),
        }
    }

    /// Names of the volumes that exist beside it while it is replaced by renaming: its successor, and
    /// then itself under another name.
    #[must_use]
    pub fn beside(&self) -> [String; 2] {
        ["new", "old"].map(|ending| format!("{}-{ending}", self.volume))
    }
}

/// Types of UBI volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeType {
    /// Any logical erase block may be written at any time.
    #[default]
    Dynamic,
    /// Written as a whole, with a checksum.
    Static,
}

/// How the content of a UBI volume is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replace {
    /// In the volume itself.
    #[default]
    InPlace,
    /// In a new volume that takes the name of the old one when it is proven: at every instant a whole
    /// volume has the name. Needs room for both.
    Rename,
}

/// A board file that is not accepted.
#[derive(Debug, Error)]
#[error("{file}:{line}: {problem}")]
pub struct BoardError {
    /// Name of the file, for the message.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

impl Board {
    /// Reads a board file; `file` is its name for messages.
    ///
    /// # Errors
    /// Syntax, unknown or missing keys, wrong types, and rules of the module, with the line.
    pub fn parse(text: &str, file: &str) -> Result<Self, BoardError> {
        let board: Self = toml_text::read(text).map_err(|error| BoardError {
            file: file.to_owned(),
            line: error.line(text),
            problem: error.problem(),
        })?;
        match board.check() {
            Ok(()) => Ok(board),
            Err(Breach { at, problem }) => Err(BoardError {
                file: file.to_owned(),
                line: line_at(text, &at),
                problem,
            }),
        }
    }

    /// Whether the environment may be in these places, which are not from the board file: the rules for
    /// `boot.store`.
    ///
    /// # Errors
    /// Which rule they break, in words.
    pub(crate) fn check_with(&self, stores: &[Store]) -> Result<(), String> {
        let mut board = self.clone();
        board.boot.fw_env_config = None;
        board.boot.store = stores.to_vec();
        board.check().map_err(|breach| breach.problem)
    }

    /// The rules that types cannot express.
    fn check(&self) -> Result<(), Breach> {
        if self.compatible.is_empty() {
            return breach("compatible", "compatible names no board");
        }
        if self.trust.threshold == 0 {
            return breach(
                "trust.threshold",
                "threshold 0 would accept unsigned images",
            );
        }
        if self.trust.keys.is_empty() {
            return breach(
                "trust.keys",
                "keys names no directory, so no image could be accepted",
            );
        }
        let tries = self.boot.tries;
        if !(1..=MAX_TRIES).contains(&tries) {
            return breach(
                "boot.tries",
                format!("tries is {tries}, 1 to {MAX_TRIES} are possible"),
            );
        }
        self.check_slots()?;
        match self.boot.kind {
            BootKind::GrubEnv => self.check_grub_env()?,
            BootKind::UbootEnv => self.check_uboot_env()?,
            BootKind::SystemdBoot => {
                if self.boot.entries.is_none() {
                    return breach(
                        "boot",
                        "systemd-boot needs `entries`, the directory with them",
                    );
                }
            }
            BootKind::GptAttributes => self.check_gpt_attributes()?,
            BootKind::Program => {
                let Some(program) = self.boot.program.first() else {
                    return breach("boot", "a program needs `program`, its argv");
                };
                if !program.starts_with('/') {
                    return breach(
                        "boot.program",
                        format!("`{program}`: the path of a program begins with /"),
                    );
                }
            }
        }
        self.check_boot_keys()?;
        self.check_health()?;
        self.check_data()?;
        self.check_places()
    }

    /// GRUB has one block, of fixed size, that is written in place.
    fn check_grub_env(&self) -> Result<(), Breach> {
        let [store] = self.boot.store.as_slice() else {
            let count = self.boot.store.len();
            return breach(
                "boot.store",
                format!("{count} places, GRUB has one environment block"),
            );
        };
        if !matches!(store.place, Place::Path(_)) {
            return breach(
                "boot.store.0",
                "GRUB's environment block is in a file or on a block device",
            );
        }
        if self.boot.layout != Layout::Order {
            return breach("boot.layout", "GRUB's script knows the layout `order` only");
        }
        if store.size.is_some() {
            return breach(
                "boot.store.0.size",
                "a GRUB environment block has always 1024 bytes",
            );
        }
        // Half of one name and half of the other must be one of the two: see `boot::order`.
        let [a, b] = self.slots.each_ref().map(|slot| slot.name.as_bytes());
        let different = a.iter().zip(b).filter(|(a, b)| a != b).count();
        if a.len() != b.len() || different > 1 {
            return breach(
                "slot.1.name",
                format!(
                    "slot names `{}` and `{}`: with GRUB they may differ in one letter only, because their order is written in place",
                    self.slots[0].name, self.slots[1].name
                ),
            );
        }
        Ok(())
    }

    /// One disk, and a partition a slot.
    fn check_gpt_attributes(&self) -> Result<(), Breach> {
        let [store] = self.boot.store.as_slice() else {
            let count = self.boot.store.len();
            return breach("boot.store", format!("{count} places, there is one disk"));
        };
        if !matches!(store.place, Place::Path(_)) || store.offset != 0 || store.size.is_some() {
            return breach(
                "boot.store.0",
                "a partition table is on a whole disk: `path` alone",
            );
        }
        let Some(names) = &self.boot.partitions else {
            return breach("boot", "gpt-attributes needs `partitions`, one name a slot");
        };
        // 36 units of UTF-16 are in the table.
        if let Some(name) = names
            .iter()
            .find(|name| !(1..=36).contains(&name.encode_utf16().count()))
        {
            return breach(
                "boot.partitions",
                format!("`{name}` is no name for a partition: 1 to 36 letters"),
            );
        }
        match names {
            [a, b] if a == b => breach("boot.partitions", "both slots have the same partition"),
            _ => Ok(()),
        }
    }

    /// What one kind of boot loader has, another one does not look at.
    fn check_boot_keys(&self) -> Result<(), Breach> {
        let boot = &self.boot;
        let variables = matches!(boot.kind, BootKind::GrubEnv | BootKind::UbootEnv);
        let keys = [
            (
                "boot.entries",
                boot.entries.is_some(),
                boot.kind == BootKind::SystemdBoot,
            ),
            (
                "boot.partitions",
                boot.partitions.is_some(),
                boot.kind == BootKind::GptAttributes,
            ),
            (
                "boot.program",
                !boot.program.is_empty(),
                boot.kind == BootKind::Program,
            ),
            (
                "boot.store",
                !boot.store.is_empty(),
                variables || boot.kind == BootKind::GptAttributes,
            ),
            ("boot.layout", boot.layout != Layout::Order, variables),
            (
                "boot.fw_env_config",
                boot.fw_env_config.is_some(),
                boot.kind == BootKind::UbootEnv,
            ),
        ];
        let idle = keys.into_iter().find(|(_, said, used)| *said && !used);
        match idle {
            Some((at, ..)) => breach(at, "this kind of boot loader does not use this key"),
            None => Ok(()),
        }
    }

    /// A watchdog that is fed once and never again has to give a system the time to start.
    fn check_health(&self) -> Result<(), Breach> {
        const SHORTEST: Duration = Duration::from_secs(5);
        match &self.watchdog {
            Some(watchdog) if watchdog.timeout < SHORTEST => breach(
                "watchdog.timeout",
                format!(
                    "{} s are too short for a system to start, 5 s and more are possible",
                    watchdog.timeout.as_secs()
                ),
            ),
            _ => Ok(()),
        }
    }

    /// U-Boot has one environment or two equal copies.
    fn check_uboot_env(&self) -> Result<(), Breach> {
        if let Layout::Switch(switch) = &self.boot.layout {
            switch.check()?;
        }
        let stores = &self.boot.store;
        if self.boot.fw_env_config.is_some() {
            return match stores.is_empty() {
                true => Ok(()),
                false => breach(
                    "boot.store",
                    "the places are in fw_env_config or here, not both",
                ),
            };
        }
        if !(1..=2).contains(&stores.len()) {
            let count = stores.len();
            return breach(
                "boot.store",
                format!("{count} places, U-Boot has one environment or two copies"),
            );
        }
        for (index, store) in stores.iter().enumerate() {
            let at = format!("boot.store.{index}");
            let Some(size) = store.size else {
                return breach(at, "a U-Boot environment needs its size");
            };
            if !(1..=MAX_ENVIRONMENT).contains(&size) {
                return breach(
                    format!("{at}.size"),
                    format!("size is {size}, 1 to {MAX_ENVIRONMENT} bytes are possible"),
                );
            }
        }
        let [first, second] = stores.as_slice() else {
            return Ok(());
        };
        let (Some(size), Some(second_size)) = (first.size, second.size) else {
            return Ok(());
        };
        let (start, end) = match first.offset <= second.offset {
            true => (first, second.offset),
            false => (second, first.offset),
        };
        let room = start.window.unwrap_or(size);
        if size != second_size {
            return breach(
                "boot.store.1.size",
                format!("the copies have {size} and {second_size} bytes, U-Boot wants them equal"),
            );
        }
        if first.place == second.place && end - start.offset < room {
            return breach(
                "boot.store.1",
                "the two copies overlap: a cut would damage both",
            );
        }
        Ok(())
    }

    fn check_slots(&self) -> Result<(), Breach> {
        for (index, slot) in self.slots.iter().enumerate() {
            let name = &slot.name;
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            if name.is_empty() || !name.bytes().all(plain) {
                return breach(
                    format!("slot.{index}.name"),
                    format!("slot name `{name}`: lower-case letters and digits only"),
                );
            }
            if slot.parts.is_empty() {
                return breach(
                    format!("slot.{index}.parts"),
                    format!("slot `{name}` has no parts"),
                );
            }
        }
        let [first, second] = &self.slots;
        if first.name == second.name {
            return breach(
                "slot.1.name",
                format!("both slots are named `{}`", first.name),
            );
        }
        if !first.parts.keys().eq(second.parts.keys()) {
            return breach("slot.1.parts", "the two slots have different parts");
        }
        if first.overlay.is_some() != second.overlay.is_some() {
            return breach("slot.1", "one slot has an overlay, the other has none");
        }
        Ok(())
    }

    /// What outlives both slots, and the archive on its way, are in a data directory, or in the boot
    /// environment and a carrier a slot.
    fn check_data(&self) -> Result<(), Breach> {
        for (index, slot) in self.slots.iter().enumerate() {
            let at = format!("slot.{index}.carrier");
            match (&self.data, &slot.carrier) {
                (Some(_), Some(_)) => {
                    return breach(at, "a board with a data directory needs no carrier");
                }
                (None, None) => {
                    return breach(
                        format!("slot.{index}"),
                        "a board without a data directory needs a carrier in both slots",
                    );
                }
                (None, Some(Carrier::Overlay)) if slot.overlay.is_none() => {
                    return breach(at, "the slot has no overlay that could be its carrier");
                }
                _ => {}
            }
        }
        if self.data.is_none() && self.boot.kind != BootKind::UbootEnv {
            return breach(
                "boot.kind",
                "without a data directory the records are in the boot environment, for which only U-Boot's has room",
            );
        }
        Ok(())
    }

    /// Slots share nothing, not even with what outlives both: a fall back must find its own system
    /// and its own configuration, and emptying one overlay must empty nothing else.
    fn check_places(&self) -> Result<(), Breach> {
        let mut claims: Vec<(String, Claim)> = Vec::new();
        if let Some(data) = &self.data {
            claims.push(("data.dir".to_owned(), Claim::Path(data.dir.clone())));
        }
        for (index, store) in self.boot.store.iter().enumerate() {
            let at = format!("boot.store.{index}");
            match &store.place {
                // Two copies may be in one device; whether they overlap was looked at before.
                _ if index > 0 && store.place == self.boot.store[0].place => {}
                Place::Path(path) => claims.push((format!("{at}.path"), Claim::Path(path.clone()))),
                Place::Mtd(mtd) => {
                    let len = store.window.or(store.size);
                    let claim = Claim::mtd(mtd, store.offset, len);
                    claims.push((format!("{at}.mtd"), claim));
                }
                Place::Ubi(volume) => {
                    claims.push((format!("{at}.volume"), Claim::Ubi(volume.clone())));
                }
            }
        }
        for (index, slot) in self.slots.iter().enumerate() {
            for (name, part) in &slot.parts {
                claims.extend(part.claims(&format!("slot.{index}.parts.{name}"))?);
            }
            let at = format!("slot.{index}.overlay");
            match &slot.overlay {
                Some(Overlay::Dir(path)) => claims.push((at, Claim::Path(path.clone()))),
                Some(Overlay::Ubifs(volume)) => claims.push((at, Claim::Ubi(volume.clone()))),
                None => {}
            }
            if let Some(Carrier::Medium(medium)) = &slot.carrier {
                claims.extend(medium.claims(&format!("slot.{index}.carrier"))?);
            }
        }
        for (index, (at, claim)) in claims.iter().enumerate() {
            if let Claim::Path(path) = claim {
                let mut components = path.components();
                if !path.is_absolute() || components.any(|part| part == Component::ParentDir) {
                    let path = path.display();
                    return breach(
                        at,
                        format!("{path}: a path begins with / and has no .. in it"),
                    );
                }
            }
            if let Some((_, taken)) = claims[..index]
                .iter()
                .find(|(_, taken)| claim.touches(taken))
            {
                return breach(
                    at,
                    format!("{claim} is not apart from {taken}: slots share nothing"),
                );
            }
        }
        Ok(())
    }

    /// What the board file says of a slot.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> &SlotSpec {
        &self.slots[slot.index()]
    }

    /// The slot of which `running` finds this: a value of the command line, the name of an MTD.
    #[must_use]
    pub fn slot_running(&self, found: &str) -> Option<Slot> {
        let mut slots = Slot::ALL.into_iter().filter(|slot| {
            let spec = self.slot(*slot);
            match (&spec.running, &self.boot.running) {
                (Some(running), _) => running == found,
                (None, Running::CommandLine(_)) => spec.name == found,
                (None, Running::Ubi(_)) => spec.ubi_mtds().any(|mtd| mtd == found),
            }
        });
        slots.next().filter(|_| slots.next().is_none())
    }

    /// The slot of that name.
    #[must_use]
    pub fn slot_named(&self, name: &str) -> Option<Slot> {
        Slot::ALL
            .into_iter()
            .find(|slot| self.slot(*slot).name == name)
    }
}

impl Medium {
    /// What it takes, and the keys that say so.
    fn claims(&self, at: &str) -> Result<Vec<(String, Claim)>, Breach> {
        let mut claims = vec![self.claim(at)?];
        if let Self::Ubi(ubi) = self
            && ubi.replace == Replace::Rename
        {
            // Volumes of these names are removed unasked.
            claims.extend(ubi.beside().map(|volume| {
                let mtd = ubi.mtd.clone();
                (format!("{at}.volume"), Claim::Ubi(Volume { mtd, volume }))
            }));
        }
        Ok(claims)
    }

    /// What it takes by name, and the key that says so.
    fn claim(&self, at: &str) -> Result<(String, Claim), Breach> {
        Ok(match self {
            Self::File(file) => (format!("{at}.path"), Claim::Path(file.path.clone())),
            Self::Block(block) => match block {
                BlockPlace {
                    path: Some(path),
                    partlabel: None,
                    partuuid: None,
                    disk: None,
                    partition: None,
                    ..
                } => (format!("{at}.path"), Claim::Path(path.clone())),
                BlockPlace {
                    path: None,
                    partlabel: Some(label),
                    partuuid: None,
                    disk: None,
                    partition: None,
                    ..
                } => (
                    format!("{at}.partlabel"),
                    Claim::Name("partlabel", label.clone()),
                ),
                BlockPlace {
                    path: None,
                    partlabel: None,
                    partuuid: Some(uuid),
                    disk: None,
                    partition: None,
                    ..
                } => {
                    let uuid = uuid.to_ascii_lowercase();
                    (format!("{at}.partuuid"), Claim::Name("partuuid", uuid))
                }
                BlockPlace {
                    path: None,
                    partlabel: None,
                    partuuid: None,
                    disk: Some(disk),
                    partition: Some(number),
                    ..
                } => {
                    let name = format!("{number} of {}", disk.display());
                    (format!("{at}.partition"), Claim::Name("partition", name))
                }
                _ => {
                    return Err(Breach {
                        at: at.to_owned(),
                        problem: "a block device is named by one of path, partlabel, partuuid, and disk with partition"
                            .to_owned(),
                    });
                }
            },
            Self::Mtd(mtd) => (
                format!("{at}.mtd"),
                Claim::mtd(&mtd.mtd, mtd.offset, mtd.size),
            ),
            Self::Ubi(ubi) => (format!("{at}.volume"), Claim::Ubi(ubi.volume())),
        })
    }
}

/// What one entry of a board file takes for itself.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// A device node, a file, a directory with all below it.
    Path(PathBuf),
    /// Bytes of an MTD.
    Mtd { name: String, start: u64, end: u64 },
    /// A UBI volume.
    Ubi(Volume),
    /// Something with a name of its own kind.
    Name(&'static str, String),
}

impl Claim {
    fn mtd(name: &str, start: u64, len: Option<u64>) -> Self {
        Self::Mtd {
            name: name.to_owned(),
            start,
            end: len.map_or(u64::MAX, |len| start.saturating_add(len)),
        }
    }

    fn touches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(a), Self::Path(b)) => a.starts_with(b) || b.starts_with(a),
            (
                Self::Mtd { name, start, end },
                Self::Mtd {
                    name: other,
                    start: other_start,
                    end: other_end,
                },
            ) => name == other && start < other_end && other_start < end,
            // What UBI is on is UBI's alone.
            (Self::Mtd { name, .. }, Self::Ubi(volume))
            | (Self::Ubi(volume), Self::Mtd { name, .. }) => *name == volume.mtd,
            (Self::Ubi(_), Self::Ubi(_)) | (Self::Name(..), Self::Name(..)) => self == other,
            _ => false,
        }
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Mtd { name, start, end } if *end == u64::MAX => {
                write!(f, "mtd {name} from {start:#x} on")
            }
            Self::Mtd { name, start, end } => write!(f, "mtd {name} {start:#x}..{end:#x}"),
            Self::Ubi(volume) => volume.fmt(f),
            Self::Name(kind, name) => write!(f, "{kind} {name}"),
        }
    }
}

/// A rule that the board file breaks.
struct Breach {
    /// The keys and array indices that lead to the place, with dots between.
    at: String,
    problem: String,
}

fn breach(at: impl Into<String>, problem: impl Into<String>) -> Result<(), Breach> {
    Err(Breach {
        at: at.into(),
        problem: problem.into(),
    })
}

/// Line of the place that `at` leads to, or of the nearest place on the way that the file has.
fn line_at(text: &str, at: &str) -> usize {
    let Ok(document) = DeTable::parse(text) else {
        return 1;
    };
    let mut start = 0;
    let mut value = DeValue::Table(document.into_inner());
    for word in at.split('.') {
        let next = match value {
            DeValue::Table(table) => table
                .into_iter()
                .find(|(key, _)| key.get_ref() == word)
                .map(|(key, value)| (key.span().start, value)),
            DeValue::Array(array) => word
                .parse()
                .ok()
                .and_then(|index: usize| array.into_iter().nth(index))
                .map(|value| (value.span().start, value)),
            _ => None,
        };
        let Some((found, inner)) = next else { break };
        start = found;
        value = inner.into_inner();
    }
    line_of(text, start)
}

/// An array type alone would read the first two of three slots and say nothing.
fn two_slots<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[SlotSpec; 2], D::Error> {
    let slots = Vec::<SlotSpec>::deserialize(deserializer)?;
    slots.try_into().map_err(|slots: Vec<_>| {
        D::Error::custom(format!("a board has two slots, this one {}", slots.len()))
    })
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| D::Error::custom(format!("`{text}` is not a time like 90s, 10m or 2h")))
}

/// Reads a time like `90s`, `10m` or `2h`; a plain number is seconds. Zero is not a time.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let seconds: u64 = number.parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const UBOOT: &str = r#"kind = "uboot-env"
store = [
    { path = "/flash/env", offset = 0, size = 8192 },
    { path = "/flash/env", offset = 8192, size = 8192 },
]"#;

    /// The virtual board with `from` replaced by `to`, once.
    fn changed(from: &str, to: &str) -> String {
        assert!(VIRTUAL.contains(from), "virtual.toml has no `{from}`");
        VIRTUAL.replacen(from, to, 1)
    }

    /// The virtual board with a U-Boot environment, and in it `from` replaced by `to`.
    fn uboot(from: &str, to: &str) -> String {
        let grub = "kind = \"grub-env\"\nstore = [{ path = \"/flash/env\" }]";
        assert!(UBOOT.contains(from), "`{from}`");
        changed(grub, &UBOOT.replacen(from, to, 1))
    }

    /// That `text` is refused, with this problem, on the line that has `place` in it.
    #[track_caller]
    fn assert_refused(text: &str, place: &str, problem: &str) {
        let line = text.lines().position(|line| line.contains(place));
        let line = line.unwrap_or_else(|| panic!("the text has no `{place}`")) + 1;
        let error = Board::parse(text, "b.toml").expect_err(problem).to_string();
        let expected = format!("b.toml:{line}: {problem}");
        assert!(
            error.starts_with(&expected),
            "found    {error}\nexpected {expected}"
        );
    }

    #[test]
    fn all_board_files_that_are_shipped_are_accepted_and_say_what_they_are_for() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("board");
        let mut count = 0;
        for entry in std::fs::read_dir(dir).expect("there is a directory board") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("it is readable");
            let board = Board::parse(&text, &path.display().to_string());
            let board = board.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                path.file_stem(),
                Some(board.name.as_ref()),
                "the file has its board's name"
            );
            let headings = text
                .lines()
                .filter_map(|line| line.strip_prefix("# ")?.split("  ").next());
            let headings: Vec<_> = headings.filter(|heading| !heading.is_empty()).collect();
            let expected = [
                "Hardware",
                "Storage map",
                "Boot loader",
                "Slot choice",
                "Tested on",
            ];
            assert_eq!(headings, expected, "in {}", path.display());
            count += 1;
        }
        assert!(count >= 2, "only {count} board files were found");
    }

    #[test]
    fn what_a_board_file_leaves_out_has_its_documented_default() {
        let mut text = VIRTUAL.to_owned();
        for line in [
            "threshold = 1",
            "layout = \"order\"",
            "tries = 3",
            "confirm_within = \"10m\"",
            "reboot = []",
        ] {
            text = text.replacen(line, "", 1);
        }
        let board = Board::parse(&text, "b.toml").expect("only optional keys are missing");
        assert_eq!(board.trust.threshold, 1);
        assert_eq!(board.boot.layout, Layout::Order);
        assert_eq!(board.boot.tries, 3);
        assert_eq!(board.boot.confirm_within, Duration::from_secs(600));
        assert_eq!(board.boot.reboot, ["reboot"]);
        let health = Health {
            checks: "/lib/sysupgrade-rs/health.d".into(),
            timeout: Duration::from_secs(30),
            retry: Duration::from_secs(5),
            within: Duration::from_secs(180),
            confirm: true,
        };
        assert_eq!(board.health, health);
        assert_eq!(board.watchdog, None);
        let board = Board::parse(&format!("{text}\n[watchdog]\n"), "b.toml");
        let watchdog = Watchdog {
            device: "/dev/watchdog".into(),
            timeout: Duration::from_secs(60),
        };
        assert_eq!(board.expect("a watchdog").watchdog, Some(watchdog));
    }

    #[test]
    fn a_part_of_the_health_keys_leaves_the_others_as_they_are() {
        let text = format!("{VIRTUAL}\n[health]\nwithin = \"20s\"\nconfirm = false\n");
        let health = Board::parse(&text, "b.toml").expect("good keys").health;
        let expected = Health {
            within: Duration::from_secs(20),
            confirm: false,
            ..Health::default()
        };
        assert_eq!(health, expected);
        for line in ["within = \"soon\"", "retries = 3", "timeout = \"0s\""] {
            let text = format!("{VIRTUAL}\n[health]\n{line}\n");
            let error = Board::parse(&text, "b.toml").expect_err(line).to_string();
            let last = text.lines().count();
            assert!(error.starts_with(&format!("b.toml:{last}: ")), "{error}");
        }
    }

    #[test]
    fn a_watchdog_that_no_system_could_start_under_is_refused() {
        let text = format!("{VIRTUAL}\n[watchdog]\ntimeout = \"4s\"\n");
        let problem = "4 s are too short for a system to start";
        assert_refused(&text, "timeout = \"4s\"", problem);
    }

    #[test]
    fn slots_are_found_by_name() {
        let board = Board::parse(VIRTUAL, "b.toml").expect("it is shipped");
        assert_eq!(board.slot_named("a"), Some(Slot::First));
        assert_eq!(board.slot_named("b"), Some(Slot::Second));
        assert_eq!(board.slot_named("A"), None);
        assert_eq!(
            board.slot(Slot::Second).overlay,
            Some(Overlay::Dir("/data/overlay-b".into()))
        );
    }

    #[test]
    fn an_unknown_key_is_refused_in_every_table() {
        for table in ["[trust]", "[data]", "[boot]", "[config]", "[[slot]]"] {
            let text = changed(table, &format!("{table}\nwrong = 1"));
            assert_refused(&text, "wrong = 1", "unknown field `wrong`, expected ");
        }
        let text = changed("name = ", "wrong = 1\nname = ");
        assert_refused(&text, "wrong = 1", "unknown field `wrong`, expected ");
        let text = changed(
            "path = \"/flash/root-b\"",
            "path = \"/flash/root-b\", wrong = 1",
        );
        assert_refused(&text, "wrong = 1", "unknown field `wrong`, expected ");
        let text = changed("path = \"/flash/env\"", "path = \"/flash/env\", wrong = 1");
        assert_refused(&text, "wrong = 1", "unknown field `wrong`, expected ");
    }

    #[test]
    fn a_missing_or_doubled_key_and_a_wrong_type_are_refused() {
        let text = changed("name = \"virtual\"", "");
        assert_refused(&text, "", "missing field `name`");
        let text = changed("running = \"cmdline:sysupgrade.slot\"", "");
        assert_refused(&text, "[boot]", "missing field `running`");
        let text = changed("tries = 3", "tries = 3\ntries = 4");
        assert_refused(&text, "tries = 4", "duplicate key");
        let text = changed("tries = 3", "tries = \"3\"");
        assert_refused(&text, "tries = ", "invalid type: string \"3\", expected u8");
        let text = changed("kind = \"grub-env\"", "kind = \"lilo\"");
        assert_refused(
            &text,
            "lilo",
            "unknown variant `lilo`, expected one of `grub-env`, `uboot-env`, `systemd-boot`, `gpt-attributes`, `program`",
        );
        let text = changed("kind = \"file\"", "kind = \"tape\"");
        assert_refused(&text, "tape", "unknown variant `tape`");
        let text = changed("[trust]", "[trust");
        assert_refused(&text, "[trust", "unclosed table");
    }

    #[test]
    fn there_are_exactly_two_slots() {
        let (head, slot_b) = VIRTUAL.rsplit_once("[[slot]]").expect("two slots");
        assert_refused(head, "[[slot]]", "a board has two slots, this one 1");
        let text = format!("{VIRTUAL}\n[[slot]]{}", slot_b.replace("\"b\"", "\"c\""));
        assert_refused(&text, "[[slot]]", "a board has two slots, this one 3");
    }

    #[test]
    fn nothing_unsigned_can_be_asked_for() {
        let text = changed("threshold = 1", "threshold = 0");
        assert_refused(
            &text,
            "threshold",
            "threshold 0 would accept unsigned images",
        );
        let text = changed("keys = [\"/etc/sysupgrade-rs/keys\"]", "keys = []");
        assert_refused(&text, "keys", "keys names no directory");
    }

    #[test]
    fn values_out_of_range_are_refused_where_they_stand() {
        for tries in ["0", "8", "255"] {
            let text = changed("tries = 3", &format!("tries = {tries}"));
            assert_refused(
                &text,
                "tries =",
                &format!("tries is {tries}, 1 to 7 are possible"),
            );
        }
        let text = changed("compatible = [\"virtual,router\"]", "compatible = []");
        assert_refused(&text, "compatible", "compatible names no board");
        for time in ["0s", "", "m", "10 m", "-1s", "1.5h", "ten"] {
            let text = changed("\"10m\"", &format!("\"{time}\""));
            assert_refused(&text, "confirm_within", &format!("`{time}` is not a time"));
        }
        for running in ["cmdline", "cmdline:", "root:x", ""] {
            let text = changed("\"cmdline:sysupgrade.slot\"", &format!("\"{running}\""));
            assert_refused(
                &text,
                "running",
                &format!("`{running}` is not of the form cmdline:KEY"),
            );
        }
    }

    #[test]
    fn slots_have_plain_and_different_names_and_the_same_parts() {
        for name in ["", "B", "b-", "b b", "\u{e4}"] {
            let text = changed("name = \"b\"", &format!("name = \"{name}\""));
            assert_refused(&text, &format!("name = \"{name}\""), "slot name `");
        }
        let text = changed("name = \"b\"", "name = \"a\" # again");
        assert_refused(&text, "# again", "both slots are named `a`");
        let text = changed("root = { kind = \"file\", path = \"/flash/root-b\" }", "");
        let text = text.replacen(
            "overlay-b\"\n[slot.parts]",
            "overlay-b\"\n[slot.parts] # here",
            1,
        );
        assert_refused(&text, "# here", "the two slots have different parts");
        let text = changed(
            "kernel = { kind = \"file\", path = \"/flash/kernel-a\" }",
            "",
        );
        let text = text.replace("root = { kind = \"file\", path = \"/flash/root-a\" }", "");
        assert_refused(&text, "[slot.parts]", "slot `a` has no parts");
        let text = changed(
            "[[slot]]\nname = \"b\"\noverlay = \"/data/overlay-b\"",
            "[[slot]] # here\nname = \"b\"",
        );
        assert_refused(
            &text,
            "# here",
            "one slot has an overlay, the other has none",
        );
    }

    #[test]
    fn slots_share_nothing_with_each_other_nor_with_what_outlives_them() {
        for (from, to) in [
            ("path = \"/flash/root-b\"", "path = \"/flash/root-a\""),
            ("path = \"/flash/root-b\"", "path = \"/flash/./kernel-b\""),
            ("path = \"/flash/root-b\"", "path = \"/flash/env\""),
            (
                "overlay = \"/data/overlay-b\"",
                "overlay = \"/data/overlay-a\"",
            ),
            (
                "overlay = \"/data/overlay-b\"",
                "overlay = \"/data/overlay-a/b\"",
            ),
            ("overlay = \"/data/overlay-b\"", "overlay = \"/data\""),
            (
                "overlay = \"/data/overlay-b\"",
                "overlay = \"/data/sysupgrade-rs\"",
            ),
        ] {
            let text = changed(from, &format!("{to} # here"));
            let text = text.replace("# here }", "} # here");
            let path = to.split('"').nth(1).expect("a path");
            assert_refused(&text, "# here", &format!("{path} is not apart from /"));
        }
    }

    #[test]
    fn the_other_names_of_a_volume_that_is_replaced_by_renaming_are_taken_too() {
        let ubi = |volume: &str, replace: &str| {
            format!(
                "{{ kind = \"ubi\", mtd = \"ubi\", volume = \"{volume}\", replace = \"{replace}\" }}"
            )
        };
        let root = |slot: &str| format!("{{ kind = \"file\", path = \"/flash/root-{slot}\" }}");
        for (other, replace) in [("root-new", "in-place"), ("root-old", "rename")] {
            let text = changed(&root("a"), &ubi("root", "rename"));
            let text = text.replace(&root("b"), &ubi(other, replace));
            assert_refused(&text, other, &format!("ubi ubi:{other} is not apart from "));
        }
        let text = changed(&root("a"), &ubi("root", "in-place"));
        let text = text.replace(&root("b"), &ubi("root-new", "in-place"));
        Board::parse(&text, "b.toml").expect("nothing is renamed");
    }

    #[test]
    fn a_path_begins_at_the_root_and_does_not_climb() {
        for path in ["flash/root-b", "", "/flash/../flash/root-a", "./root"] {
            let text = changed("\"/flash/root-b\"", &format!("\"{path}\""));
            assert_refused(
                &text,
                &format!("path = \"{path}\""),
                &format!("{path}: a path begins with /"),
            );
        }
    }

    #[test]
    fn grub_has_one_block_of_its_own_size_and_slot_names_that_differ_in_one_letter() {
        let place = "store = [{ path = \"/flash/env\" }]";
        assert_refused(
            &changed(place, "store = []"),
            "store = ",
            "0 places, GRUB has one",
        );
        let two = "store = [{ path = \"/flash/env\" }, { path = \"/flash/env2\" }]";
        assert_refused(&changed(place, two), "store = ", "2 places, GRUB has one");
        let sized = "store = [{ path = \"/flash/env\", size = 1024 }]";
        assert_refused(
            &changed(place, sized),
            "store = ",
            "a GRUB environment block has always 1024 bytes",
        );
        for name in ["bb", "second"] {
            let text = changed("name = \"b\"", &format!("name = \"{name}\""));
            assert_refused(
                &text,
                &format!("\"{name}\""),
                &format!("slot names `a` and `{name}`"),
            );
        }
        let text =
            changed("name = \"a\"", "name = \"slot1\"").replace("name = \"b\"", "name = \"slot2\"");
        Board::parse(&text, "b.toml").expect("one letter differs");
    }

    /// The virtual board with this boot loader, and no layout.
    fn boot(keys: &str) -> String {
        let grub = "kind = \"grub-env\"\nstore = [{ path = \"/flash/env\" }]\nlayout = \"order\"";
        changed(grub, keys)
    }

    #[test]
    fn attribute_bits_are_those_of_two_partitions_of_one_whole_disk() {
        let gpt = |store: &str, partitions: &str| {
            boot(&format!("kind = \"gpt-attributes\"\n{store}\n{partitions}"))
        };
        let disk = "store = [{ path = \"/dev/sda\" }]";
        let names = "partitions = [\"KERN-A\", \"KERN-B\"]";
        Board::parse(&gpt(disk, names), "b.toml").expect("a good one");
        assert_refused(
            &gpt(disk, ""),
            "[boot]",
            "gpt-attributes needs `partitions`",
        );
        assert_refused(&gpt("", names), "[boot]", "0 places, there is one disk");
        for place in ["mtd = \"env\"", "path = \"/dev/sda\", offset = 512"] {
            let text = gpt(&format!("store = [{{ {place} }}]"), names);
            assert_refused(
                &text,
                place,
                "a partition table is on a whole disk: `path` alone",
            );
        }
        for (partitions, problem) in [
            ("[\"K\", \"K\"]", "both slots have the same partition"),
            ("[\"\", \"K\"]", "`` is no name for a partition"),
            (
                "[\"K\", \"1234567890123456789012345678901234567\"]",
                "`1234567890123456789012345678901234567` is no name",
            ),
        ] {
            let text = gpt(disk, &format!("partitions = {partitions}"));
            assert_refused(&text, "partitions =", problem);
        }
    }

    #[test]
    fn a_program_is_named_by_its_whole_path_and_needs_no_store() {
        let program = |keys: &str| boot(&format!("kind = \"program\"\n{keys}"));
        let good = "program = [\"/usr/libexec/boot-state\", \"/boot/state\"]";
        let board = Board::parse(&program(good), "b.toml").expect("a good one");
        assert_eq!(board.boot.program.len(), 2);
        assert_refused(&program(""), "[boot]", "a program needs `program`");
        let text = program("program = [\"boot-state\"]");
        assert_refused(&text, "program = [", "`boot-state`: the path of a program");
        let store = "store = [{ path = \"/boot/state\" }]";
        let text = program(&format!("{good}\n{store}"));
        assert_refused(
            &text,
            "store =",
            "this kind of boot loader does not use this key",
        );
    }

    #[test]
    fn uboot_has_one_environment_or_two_equal_copies_apart_from_each_other() {
        Board::parse(&uboot("", ""), "b.toml").expect("two copies in one device");
        let text = uboot("offset = 8192, size = 8192", "offset = 4096, size = 8192");
        assert_refused(&text, "offset = 4096", "the two copies overlap");
        let text = uboot("offset = 8192, size = 8192", "offset = 8192, size = 4096");
        assert_refused(&text, "size = 4096", "the copies have 8192 and 4096 bytes");
        let text = uboot("offset = 8192, size = 8192", "offset = 8192");
        assert_refused(
            &text,
            "offset = 8192 }",
            "a U-Boot environment needs its size",
        );
        for size in ["0", "1048577"] {
            let text = uboot(
                "offset = 8192, size = 8192",
                &format!("offset = 8192, size = {size}"),
            );
            assert_refused(
                &text,
                &format!("size = {size} }}"),
                &format!("size is {size}, 1 to 1048576"),
            );
        }
        let third = "    { path = \"/flash/env\", offset = 16384, size = 8192 },\n]";
        assert_refused(
            &uboot("]", third),
            "store = [",
            "3 places, U-Boot has one environment or two",
        );
    }

    /// The virtual board with this as root part of slot b.
    fn root_b(medium: &str) -> String {
        changed(
            "root = { kind = \"file\", path = \"/flash/root-b\" }",
            medium,
        )
    }

    /// The virtual board with flash for its root parts: two of these media.
    fn roots(a: &str, b: &str) -> String {
        let text = changed(
            "root = { kind = \"file\", path = \"/flash/root-a\" }",
            &format!("root = {a}"),
        );
        text.replace(
            "root = { kind = \"file\", path = \"/flash/root-b\" }",
            &format!("root = {b}"),
        )
    }

    /// A switch in the place of the layout of the virtual router, in whose environment U-Boot's is.
    fn switch(layout: &str) -> String {
        let board = uboot("]", "]").replacen("layout = \"order\"\n", "", 1);
        board.replacen(
            "\n[config]",
            &format!("\n[boot.layout]\n{layout}\n[config]"),
            1,
        )
    }

    const SWITCH: &str = "variable = \"active\"\nvalues = [\"0\", \"1\"]\nabsent = \"0\"
        [boot.layout.along]\nready = \"3\"\nside = [\"a\", \"b\"]
        [boot.layout.counter]\narmed = \"upgrade_available\"\ncount = \"bootcount\"";

    #[test]
    fn a_switch_names_a_slot_and_each_variable_stands_for_one_thing() {
        let board = Board::parse(&switch(SWITCH), "b.toml").expect("a good switch");
        let Layout::Switch(read) = &board.boot.layout else {
            panic!("it is a switch: {:?}", board.boot.layout);
        };
        assert_eq!(Slot::ALL.map(|slot| read.value(slot)), ["0", "1"]);
        assert_eq!(
            Slot::ALL.map(|slot| read.along["side"].of(slot)),
            ["a", "b"]
        );
        assert_eq!(
            Slot::ALL.map(|slot| read.along["ready"].of(slot)),
            ["3", "3"]
        );
        for (from, to, place, problem) in [
            (
                "[\"0\", \"1\"]",
                "[\"0\", \"0\"]",
                "values =",
                "`0` stands for both slots",
            ),
            (
                "absent = \"0\"",
                "absent = \"2\"",
                "absent =",
                "`2` is not one of the values",
            ),
            (
                "\"active\"",
                "\"\"",
                "variable =",
                "`` is no name for a variable",
            ),
            (
                "\"active\"",
                "\"a=b\"",
                "variable =",
                "`a=b` is no name for a variable",
            ),
            (
                "\"active\"",
                "\"sysupgrade_slots\"",
                "variable =",
                "sysupgrade_slots is a variable of",
            ),
            (
                "\"bootcount\"",
                "\"active\"",
                "[boot.layout.counter]",
                "variable active stands for two",
            ),
            (
                "ready =",
                "upgrade_available =",
                "[boot.layout.counter]",
                "variable upgrade_available",
            ),
            (
                "\"3\"",
                "\"\"",
                "[boot.layout.along]",
                "`` is no value for a variable",
            ),
            (
                "\"b\"]",
                "\"b\\n\"]",
                "[boot.layout.along]",
                "`b\\u{a}` is no value for a variable",
            ),
        ] {
            let text = switch(&SWITCH.replacen(from, to, 1));
            assert_refused(&text, place, problem);
        }
        let grub = changed("layout = \"order\"\n", "").replacen(
            "\n[config]",
            &format!("\n[boot.layout]\n{SWITCH}\n[config]"),
            1,
        );
        assert_refused(
            &grub,
            "[boot.layout]",
            "GRUB's script knows the layout `order` only",
        );
        for unknown in ["bootcount", "boot-part"] {
            let text = changed("\"order\"", &format!("{unknown:?}"));
            assert_refused(&text, "layout =", &format!("layout `{unknown}` is neither"));
        }
    }

    #[test]
    fn a_block_device_is_named_in_one_way() {
        for good in [
            "partlabel = \"root-b\"",
            "partuuid = \"0a1b-02\", discard = true",
            "disk = \"/dev/mmcblk0\", partition = 3",
        ] {
            let text = root_b(&format!("root = {{ kind = \"block\", {good} }}"));
            Board::parse(&text, "b.toml").expect(good);
        }
        for bad in [
            "discard = true",
            "path = \"/dev/sda\", partlabel = \"x\"",
            "disk = \"/dev/mmcblk0\"",
            "partition = 3",
        ] {
            let text = root_b(&format!("root = {{ kind = \"block\", {bad} }}"));
            assert_refused(&text, bad, "a block device is named by one of");
        }
    }

    #[test]
    fn two_parts_on_one_chip_are_apart_and_what_ubi_is_on_is_its_own() {
        let mtd = |offset: u32, size: &str| {
            format!("{{ kind = \"mtd\", mtd = \"firmware\", offset = {offset}{size} }}")
        };
        let text = roots(&mtd(0, ", size = 4096"), &mtd(4096, ""));
        Board::parse(&text, "b.toml").expect("they only touch");
        for (first, second) in [(", size = 8192", 4096), ("", 4096)] {
            let text = roots(&mtd(0, first), &mtd(second, ""));
            assert_refused(
                &text,
                "offset = 4096",
                "mtd firmware from 0x1000 on is not apart",
            );
        }
        let ubi = |mtd: &str, volume: &str| {
            format!("{{ kind = \"ubi\", mtd = \"{mtd}\", volume = \"{volume}\" }}")
        };
        let text = roots(&ubi("ubi", "root-a"), &ubi("ubi", "root-b"));
        Board::parse(&text, "b.toml").expect("two volumes");
        let text = roots(&ubi("ubi", "root"), &(ubi("ubi", "root") + " # again"));
        assert_refused(&text, "# again", "ubi ubi:root is not apart from");
        let text = roots(&mtd(0, ""), &ubi("firmware", "root"));
        assert_refused(
            &text,
            "volume = \"root\"",
            "ubi firmware:root is not apart from mtd",
        );
    }

    #[test]
    fn without_a_data_directory_both_slots_have_a_carrier_and_the_environment_is_u_boots() {
        let data = "[data]\ndir = \"/data/sysupgrade-rs\"             # archive, floor, results: outside both slots";
        let without = |text: &str| {
            assert!(text.contains(data));
            text.replace(data, "")
        };
        let carrier = |text: &str, carrier: &str| {
            text.replace(
                "[slot.parts]",
                &format!("carrier = {carrier}\n[slot.parts]"),
            )
        };
        let place = "{ kind = \"file\", path = \"/flash/carrier\" }";
        assert_refused(
            &without(&uboot("", "")),
            "[[slot]]",
            "a board without a data directory needs a carrier",
        );
        assert_refused(
            &carrier(VIRTUAL, place),
            "carrier",
            "a board with a data directory needs no carrier",
        );
        assert_refused(
            &carrier(&without(VIRTUAL), "\"overlay\""),
            "grub-env",
            "without a data directory the records are in the boot environment",
        );
        let text = carrier(&without(&uboot("", "")), "\"overlay\"");
        Board::parse(&text, "b.toml").expect("the archive is in the overlay");
        let text = carrier(&without(&uboot("", "")), place);
        assert!(
            Board::parse(&text, "b.toml").is_err(),
            "one carrier for both slots"
        );
        let text = carrier(&without(&uboot("", "")), "\"tape\"");
        assert_refused(
            &text,
            "tape",
            "carrier `tape` is neither \"overlay\" nor a medium",
        );
    }

    #[test]
    fn the_running_slot_is_known_by_what_the_slot_says_or_by_its_name() {
        let text = changed(
            "name = \"b\"",
            "name = \"b\"\nrunning = \"/dev/mmcblk0p17\"",
        );
        let board = Board::parse(&text, "b.toml").expect("an optional key");
        assert_eq!(board.slot_running("a"), Some(Slot::First));
        assert_eq!(board.slot_running("b"), None);
        assert_eq!(board.slot_running("/dev/mmcblk0p17"), Some(Slot::Second));
        let ubi = |mtd: &str| format!("{{ kind = \"ubi\", mtd = \"{mtd}\", volume = \"rootfs\" }}");
        let text = roots(&ubi("rootfs1"), &ubi("rootfs2"));
        let text = text.replace("\"cmdline:sysupgrade.slot\"", "\"ubi:0\"");
        let board = Board::parse(&text, "b.toml").expect("a board with UBI");
        assert_eq!(board.slot_running("rootfs2"), Some(Slot::Second));
        assert_eq!(board.slot_running("rootfs"), None);
    }
}
