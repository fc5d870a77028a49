//! The board file: everything that is known of one device model, as data.
//!
//! TOML, read strictly: an unknown key, a missing one or a wrong type is refused with its line. The
//! files under `board/` show every key with its meaning; [`Board::parse`] checks what must hold for
//! the promises: exactly two slots, of the same parts, that share neither a part nor an overlay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use thiserror::Error;

use crate::slots::{MAX_TRIES, Slot};

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
    /// What lives outside both slots.
    pub data: Data,
    /// The boot loader.
    pub boot: Boot,
    /// How the configuration of a slot is kept.
    #[serde(default)]
    pub config: Config,
    /// The two slots.
    #[serde(rename = "slot")]
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
    pub store: Vec<Store>,
    /// The layout of variables in it.
    #[serde(default)]
    pub layout: Layout,
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
}

/// The longest U-Boot environment. The largest in use fill an erase block of parallel NOR flash,
/// 256 KiB; four times that bounds what a typing error makes us read.
pub const MAX_ENVIRONMENT: u64 = 1 << 20;

/// Where one copy of a boot environment is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// File or block device.
    pub path: PathBuf,
    /// First byte.
    #[serde(default)]
    pub offset: u64,
    /// Size in bytes, header included. Only of U-Boot environments: GRUB's have always 1024.
    #[serde(default)]
    pub size: Option<u64>,
}

/// How the variables of a boot environment say which slot boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `BOOT_ORDER`, `BOOT_A_LEFT`, `BOOT_B_LEFT`.
    #[default]
    Order,
}

/// How the running slot is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Running {
    /// `cmdline:KEY`: the kernel's command line has `KEY=NAME`, put there by the boot loader.
    CommandLine(String),
}

impl<'de> Deserialize<'de> for Running {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some(("cmdline", key)) if !key.is_empty() => Ok(Self::CommandLine(key.to_owned())),
            _ => Err(D::Error::custom(format!(
                "`{text}` is not of the form cmdline:KEY"
            ))),
        }
    }
}

/// `[config]`: how the configuration of a slot is kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the running slot's files are as they were shipped, if anywhere.
    #[serde(default)]
    pub defaults: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            defaults: Some(PathBuf::from("/rom")),
        }
    }
}

/// `[[slot]]`: one bootable system.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotSpec {
    /// Its name: lower-case letters and digits.
    pub name: String,
    /// The directory whose `upper` lies over the read-only root. Without one the root is writable
    /// and first boot works in place.
    #[serde(default)]
    pub overlay: Option<PathBuf>,
    /// The media of its parts, by part name.
    pub parts: BTreeMap<String, Part>,
}

/// The medium of one part.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The kind of medium.
    pub kind: PartKind,
    /// File or device node.
    pub path: PathBuf,
}

/// Kinds of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartKind {
    /// A regular file of fixed size, standing for flash.
    File,
    /// A block device.
    Block,
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
        let board: Self = toml::from_str(text).map_err(|error| BoardError {
            file: file.to_owned(),
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            problem: error.message().trim().replace('\n', ", "),
        })?;
        match board.check() {
            Ok(()) => Ok(board),
            Err((word, problem)) => Err(BoardError {
                file: file.to_owned(),
                line: text
                    .lines()
                    .position(|line| line.contains(word))
                    .map_or(1, |index| index + 1),
                problem,
            }),
        }
    }

    /// The rules that types cannot express; on a breach a word to find the line by, and the problem.
    fn check(&self) -> Result<(), (&str, String)> {
        let no = |word, problem: String| Err((word, problem));
        if self.compatible.is_empty() {
            return no("compatible", "compatible names no board".into());
        }
        if self.trust.threshold == 0 {
            return no(
                "threshold",
                "threshold 0 would accept unsigned images".into(),
            );
        }
        if self.trust.keys.is_empty() {
            return no(
                "keys",
                "keys names no directory, so no image could be accepted".into(),
            );
        }
        if !(1..=MAX_TRIES).contains(&self.boot.tries) {
            return no(
                "tries",
                format!(
                    "tries is {}, 1 to {MAX_TRIES} are possible",
                    self.boot.tries
                ),
            );
        }
        let copies = self.boot.store.len();
        let most = if self.boot.kind == BootKind::GrubEnv {
            1
        } else {
            2
        };
        if copies == 0 || copies > most {
            return no(
                "store",
                format!("{copies} places for a boot environment, this kind has 1 to {most}"),
            );
        }
        for store in &self.boot.store {
            let sized = store.size.is_some();
            if sized != (self.boot.kind == BootKind::UbootEnv) {
                return no(
                    "store",
                    "size belongs to U-Boot environments, and each needs one".into(),
                );
            }
        }
        let [first, second] = &self.slots;
        for slot in &self.slots {
            let name = &slot.name;
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            {
                return no(
                    "name",
                    format!("slot name `{name}`: lower-case letters and digits only"),
                );
            }
            if slot.parts.is_empty() {
                return no("slot", format!("slot `{name}` has no parts"));
            }
        }
        if first.name == second.name {
            return no("slot", format!("both slots are named `{}`", first.name));
        }
        if !first.parts.keys().eq(second.parts.keys()) {
            return no("parts", "the two slots have different parts".into());
        }
        if first.overlay.is_some() != second.overlay.is_some() {
            return no(
                "overlay",
                "one slot has an overlay, the other has none".into(),
            );
        }
        // A fall back must find its own system and its own configuration.
        let mut taken: Vec<&Path> = Vec::new();
        for slot in &self.slots {
            let media = slot.parts.values().map(|part| part.path.as_path());
            for path in media.chain(slot.overlay.as_deref()) {
                if taken.contains(&path) {
                    let path = path.display();
                    return no(
                        "path",
                        format!("{path} is named twice: slots share nothing"),
                    );
                }
                taken.push(path);
            }
        }
        Ok(())
    }

    /// What the board file says of a slot.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> &SlotSpec {
        &self.slots[slot.index()]
    }

    /// The slot of that name.
    #[must_use]
    pub fn slot_named(&self, name: &str) -> Option<Slot> {
        Slot::ALL
            .into_iter()
            .find(|slot| self.slot(*slot).name == name)
    }
}

/// Line of a byte offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
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
