//! What is told to people and programs: exit codes, refusals, and events of a long run.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Exit codes of `sysupgrade-rs`. Once published, a number keeps its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Failed while doing: input/output, device.
    Failed = 1,
    /// The command line does not make sense.
    Usage = 2,
    /// Done, or planned, and something needs review.
    NeedsReview = 3,
    /// Another run holds the lock.
    Busy = 4,
    /// Not an image, or damaged.
    NotAnImage = 10,
    /// Signature missing, by an unknown key, or wrong.
    Signature = 11,
    /// A signing key was revoked, or the image is below the security floor.
    Revoked = 12,
    /// For another board, or not compatible with it.
    WrongBoard = 20,
    /// Does not fit: slot, data space, memory.
    DoesNotFit = 21,
    /// The configuration could not be kept or merged.
    ConfigRefused = 22,
    /// Board file or boot environment unreadable.
    BoardUnreadable = 30,
    /// The running slot is still on trial.
    OnTrial = 31,
}

impl ExitCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::NeedsReview,
        Self::Busy,
        Self::NotAnImage,
        Self::Signature,
        Self::Revoked,
        Self::WrongBoard,
        Self::DoesNotFit,
        Self::ConfigRefused,
        Self::BoardUnreadable,
        Self::OnTrial,
    ];

    /// What it means, in the words of `--help`.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed while doing: input, output, a device",
            Self::Usage => "the command line does not make sense",
            Self::NeedsReview => "done or planned, and something needs review",
            Self::Busy => "busy: another run holds the lock",
            Self::NotAnImage => "not an image, or damaged",
            Self::Signature => "signature missing, by an unknown key, or wrong",
            Self::Revoked => "signing key revoked, or below the security floor",
            Self::WrongBoard => "for another board, or not compatible with this one",
            Self::DoesNotFit => "does not fit: slot, data space, memory",
            Self::ConfigRefused => "the configuration cannot be kept or merged",
            Self::BoardUnreadable => "board file or boot environment unreadable",
            Self::OnTrial => "this slot is still on trial: confirm or roll back first",
        }
    }
}

/// Why something was refused: a stable identifier for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(
    missing_docs,
    reason = "each name is its own text in JSON; the docs of ExitCode group them"
)]
pub enum Reason {
    SourceFailed,
    NotAnImage,
    UnknownFormat,
    Damaged,
    Truncated,
    SignatureMissing,
    UnknownKey,
    BadSignature,
    TooFewSignatures,
    CertificateExpired,
    CertificateNotYetValid,
    ClockNotSet,
    RevokedKey,
    BelowFloor,
    MetadataMissing,
    MetadataInvalid,
    WrongBoard,
    Incompatible,
    IncompatibleConfig,
    WrongParts,
    TooLarge,
    NoSpace,
    MediumMissing,
    MediumUnusable,
    MediumReadOnly,
    MediumBusy,
    MediumFailed,
    WornOut,
    ConfigRefused,
    BoardFile,
    BootEnvironment,
    SlotContradiction,
    OnTrial,
    Busy,
}

impl Reason {
    /// The exit code that goes with it.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::SourceFailed
            | Self::MediumMissing
            | Self::MediumUnusable
            | Self::MediumReadOnly
            | Self::MediumBusy
            | Self::MediumFailed => ExitCode::Failed,
            Self::NotAnImage
            | Self::UnknownFormat
            | Self::Damaged
            | Self::Truncated
            | Self::MetadataInvalid => ExitCode::NotAnImage,
            Self::SignatureMissing
            | Self::UnknownKey
            | Self::BadSignature
            | Self::TooFewSignatures
            | Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::ClockNotSet => ExitCode::Signature,
            Self::RevokedKey | Self::BelowFloor => ExitCode::Revoked,
            Self::MetadataMissing
            | Self::WrongBoard
            | Self::WrongParts
            | Self::Incompatible
            | Self::IncompatibleConfig => ExitCode::WrongBoard,
            Self::TooLarge | Self::NoSpace | Self::WornOut => ExitCode::DoesNotFit,
            Self::ConfigRefused => ExitCode::ConfigRefused,
            Self::BoardFile | Self::BootEnvironment | Self::SlotContradiction => {
                ExitCode::BoardUnreadable
            }
            Self::OnTrial => ExitCode::OnTrial,
            Self::Busy => ExitCode::Busy,
        }
    }
}

/// A rule that says no, with both values and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable identifier.
    pub reason: Reason,
    /// One line: what was refused and why, with both values.
    pub message: String,
    /// What was found.
    pub found: String,
    /// What the rule asks for.
    pub wanted: String,
    /// What to do now.
    pub hint: String,
    /// True if `-F` overrides it.
    pub forceable: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Phases of an upgrade that take time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Head and signature of the image.
    Verify,
    /// Checks before the first write.
    Plan,
    /// Writing a part to the target slot.
    Flash,
    /// Reading it back from the medium.
    ReadBack,
    /// Saving the configuration.
    Config,
    /// Handing over to the boot loader.
    Commit,
    /// Rebooting.
    Reboot,
}

impl Phase {
    /// The word for it, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Plan => "plan",
            Self::Flash => "flash",
            Self::ReadBack => "read-back",
            Self::Config => "config",
            Self::Commit => "commit",
            Self::Reboot => "reboot",
        }
    }
}

/// What a run has cost the flash and its owner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Bytes read from the media of the slot: to compare, and to prove.
    pub read: u64,
    /// Bytes of the image that were written.
    pub written: u64,
    /// Bytes of the image that were there already.
    pub unchanged: u64,
    /// Bytes of the image that came from its source.
    #[serde(default)]
    pub fetched: u64,
    /// Bytes of the image that were copied from the running slot, and so not fetched.
    #[serde(default)]
    pub copied: u64,
    /// Erase blocks that were erased; 0 for media that erase by themselves.
    pub erased: u64,
    /// Blocks that went bad meanwhile.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gone_bad: u64,
    /// The most memory the program has had, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// Seconds that each phase took.
    pub seconds: BTreeMap<Phase, f64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} written, {} right already, {} fetched, {} read",
            Size(self.written),
            Size(self.unchanged),
            Size(self.fetched),
            Size(self.read)
        )?;
        if self.copied > 0 {
            write!(f, ", {} copied from the running slot", Size(self.copied))?;
        }
        if self.erased > 0 {
            write!(f, ", {} blocks erased", self.erased)?;
        }
        if self.gone_bad > 0 {
            write!(f, ", {} blocks gone bad", self.gone_bad)?;
        }
        let all: f64 = self.seconds.values().sum();
        write!(f, "; {all:.1} s")?;
        if let Some(peak) = self.peak_memory {
            write!(f, ", {} of memory", Size(peak))?;
        }
        Ok(())
    }
}

/// A number of bytes, for people.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 3] = ["GiB", "MiB", "KiB"];
        for (unit, shift) in UNITS.into_iter().zip([30, 20, 10]) {
            if let whole @ 1.. = self.0 >> shift {
                let tenth = ((self.0 >> (shift - 10)) & 1023) * 10 / 1024;
                return write!(f, "{whole}.{tenth} {unit}");
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// Something that happened during a long run. The library reports, the edge prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A phase began.
    Phase(Phase),
    /// Bytes went by.
    Progress {
        /// `Flash` or `ReadBack`.
        phase: Phase,
        /// Name of the part.
        part: String,
        /// Bytes of the phase done, all parts together.
        done: u64,
        /// Bytes of the phase in all.
        total: u64,
    },
    /// Something the owner should know; the run goes on.
    Notice(String),
}

/// Makes text from an image, a file or a network peer fit for a terminal and for one line:
/// [`harmless`], and long texts are cut after 200 characters.
#[must_use]
pub fn printable(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        None => harmless(text),
        Some((end, _)) => harmless(text.get(..end).unwrap_or(text)) + "…",
    }
}

/// Makes text fit for a terminal and for one line, however long: control characters, and those that
/// change the direction of others, become `\u{..}`.
#[must_use]
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// An error with all its sources, on one line.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
