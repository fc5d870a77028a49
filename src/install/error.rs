//! Why an upgrade ended.

use std::io;

use thiserror::Error;

use crate::boot::BootError;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::files::FileError;
use crate::flash::FlashError;
use crate::image::ImageError;
use crate::machine::MachineError;
use crate::report::{ExitCode, Reason, Refusal};

/// Why an upgrade ended.
#[derive(Debug, Error)]
pub enum InstallError {
    /// Rules that said no; nothing was written.
    #[error("{}", list(.0))]
    Refused(Vec<Refusal>),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Boot state, records or lock.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The configuration could not be saved.
    #[error("the configuration cannot be saved")]
    Config(#[from] ConfigError),
    /// Between image and medium.
    #[error("cannot copy the image to its slot")]
    Copy(#[source] io::Error),
    /// A part of the image for which the target has no medium.
    #[error("slot {slot} has no part {part}")]
    NoMedium {
        /// Name of the part.
        part: String,
        /// The target.
        slot: String,
    },
    /// A medium of the target.
    #[error("part {part} of slot {slot}")]
    Flash {
        /// Name of the part.
        part: String,
        /// The target.
        slot: String,
        /// What failed.
        #[source]
        source: FlashError,
    },
    /// What was written is not what the medium gives back.
    #[error(
        "part {part} of slot {slot} reads back different from what was written: the medium is failing"
    )]
    ReadBack {
        /// Name of the part.
        part: String,
        /// The target.
        slot: String,
    },
    /// The archive of the configuration, likewise.
    #[error(
        "the configuration archive reads back different from what was written: the medium is failing"
    )]
    ArchiveReadBack,
    /// A signal, or the caller is gone.
    #[error("stopped on request")]
    Stopped,
    /// Any of these after step 5, and the boot environment cannot be written to rule the target out.
    #[error(
        "slot {slot} is unfinished, and the boot environment cannot be written: run `sysupgrade-rs doctor` before the next reboot"
    )]
    Unknown {
        /// The target.
        slot: String,
        /// What happened.
        #[source]
        source: Box<InstallError>,
    },
    /// Any of these after step 5.
    #[error("slot {slot} is unfinished and will not be booted, the running system is unharmed")]
    Unfinished {
        /// The target.
        slot: String,
        /// What happened.
        #[source]
        source: Box<InstallError>,
    },
}

fn list(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(|refusal| refusal.message.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}

impl From<DataError> for InstallError {
    fn from(error: DataError) -> Self {
        Self::Machine(error.into())
    }
}

impl From<FileError> for InstallError {
    fn from(error: FileError) -> Self {
        Self::Machine(error.into())
    }
}

impl From<BootError> for InstallError {
    fn from(error: BootError) -> Self {
        Self::Machine(error.into())
    }
}

impl InstallError {
    /// The rule, or the trouble, that programs are told of.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusals) => refusals.first().map(|first| first.reason),
            Self::Image(error) => Some(error.reason()),
            Self::Flash { source, .. } => Some(source.reason()),
            Self::Unfinished { source, .. } | Self::Unknown { source, .. } => source.reason(),
            _ => None,
        }
    }

    /// What to do now, where no refusal says it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Machine(error) => return error.hint(),
            Self::Config(error) => return error.hint(),
            Self::NoMedium { .. } => "compare the board file with the image",
            Self::Copy(_) | Self::ReadBack { .. } | Self::ArchiveReadBack => {
                "try again; if it happens again, the flash is worn out"
            }
            Self::Unfinished { .. } => "run the same command again: it goes on where it ended",
            // Says so itself, or has refusals.
            Self::Refused(_)
            | Self::Image(_)
            | Self::Flash { .. }
            | Self::Stopped
            | Self::Unknown { .. } => return None,
        })
    }

    /// The exit code that tells a caller.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused(refusals) => refusals
                .first()
                .map_or(ExitCode::Failed, |first| first.reason.exit_code()),
            Self::Image(error) => error.reason().exit_code(),
            Self::Machine(
                MachineError::Busy { .. } | MachineError::Boot(BootError::Busy { .. }),
            ) => ExitCode::Busy,
            Self::Config(_) => ExitCode::ConfigRefused,
            Self::Flash {
                source: FlashError::TooLarge { .. },
                ..
            } => ExitCode::DoesNotFit,
            Self::Unfinished { source, .. } => source.exit_code(),
            Self::Machine(MachineError::Boot(_)) | Self::Unknown { .. } => {
                ExitCode::BoardUnreadable
            }
            Self::Machine(MachineError::Data(error)) => error.exit_code(),
            Self::Machine(_)
            | Self::Copy(_)
            | Self::NoMedium { .. }
            | Self::Flash { .. }
            | Self::ReadBack { .. }
            | Self::ArchiveReadBack
            | Self::Stopped => ExitCode::Failed,
        }
    }
}
