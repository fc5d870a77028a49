//! What the owner decides about the disputes of a plan, stored for the upgrade.

use std::collections::BTreeSet;
use std::path::Path;

use thiserror::Error;

use super::forecast::Forecast;
use super::merge::resolve::Resolutions;
use super::report::Winner;
use super::{ConfigError, EntryPath, STATE_DIR};
use crate::config::carry::bundle::{MAX_DOCUMENT, RESOLUTIONS};
use crate::files::{self, FileError};
use crate::report::harmless;

/// Why nothing was stored.
#[derive(Debug, Error)]
pub enum DecideError {
    /// Nobody disputes that.
    #[error("`{place}` is not disputed; {}", some(disputed))]
    NotDisputed {
        /// As typed.
        place: String,
        /// What is.
        disputed: BTreeSet<String>,
    },
    /// The decisions of before cannot be read, or the new ones not written.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

fn some(disputed: &BTreeSet<String>) -> String {
    let names: Vec<&str> = disputed.iter().map(String::as_str).collect();
    match &*names {
        [] => "nothing is".to_owned(),
        names => format!("these are: {}", names.join(", ")),
    }
}

impl From<FileError> for DecideError {
    fn from(error: FileError) -> Self {
        Self::Config(error.into())
    }
}

/// The name under which a place is decided about: `PATH`, or `PATH#LOCUS`.
#[must_use]
pub fn place(path: &EntryPath, locus: Option<&str>) -> String {
    match locus {
        Some(locus) => format!("{path}#{locus}"),
        None => path.to_string(),
    }
}

/// Stores decisions about disputes of a forecast in the system at `root`; all of them or, after an
/// error, none. A name may begin with a slash, and be written as it was shown on a terminal.
///
/// # Errors
/// [`DecideError`].
pub fn decide(
    root: &Path,
    forecast: &Forecast,
    decisions: &[(&str, Winner)],
) -> Result<(), DecideError> {
    let path = root.join(RESOLUTIONS);
    let mut resolutions = match files::read_if_exists(&path, MAX_DOCUMENT)? {
        None => Resolutions::default(),
        Some(bytes) => read(&bytes)?,
    };
    for (name, winner) in decisions {
        let plain = name.strip_prefix('/').unwrap_or(name);
        let found = forecast.disputes.iter().find(|(path, locus, _)| {
            let place = place(path, locus.as_deref());
            place == plain || harmless(&place) == plain
        });
        let Some((path, locus, seen)) = found else {
            let disputes = forecast.disputes.iter();
            return Err(DecideError::NotDisputed {
                place: (*name).to_owned(),
                disputed: disputes
                    .map(|(path, locus, _)| place(path, locus.as_deref()))
                    .collect(),
            });
        };
        resolutions.decide(path, locus.as_deref(), *winner, *seen);
    }
    let json = serde_json::to_vec_pretty(&resolutions);
    let json = json.map_err(|error| ConfigError::Write(error.into()))?;
    files::make_dirs(&root.join(STATE_DIR), 0o700)?;
    Ok(files::replace(&path, &json, 0o600)?)
}

fn read(bytes: &[u8]) -> Result<Resolutions, ConfigError> {
    let damaged = |problem: String| ConfigError::damaged(RESOLUTIONS, problem);
    let resolutions: Resolutions =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    match resolutions.is_known() {
        true => Ok(resolutions),
        false => Err(damaged("of a format that is not known".to_owned())),
    }
}
