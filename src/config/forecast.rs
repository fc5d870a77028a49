//! What an upgrade would make of the configuration, told before anything is flashed.
//!
//! Nothing is estimated: the archive that the upgrade would save is written and unpacked, the new
//! image's defaults come out of its signed `config.tar.gz`, and the engine of the first boot is run
//! over both. All of that is scratch and removed again.

use std::fs::File;
use std::path::Path;

use super::apply::{Prepared, To};
use super::difference::Differences;
use super::engine::{ENGINE, Verdict};
use super::report::Report;
use super::tree::Content;
use super::{ConfigError, Deadline, EntryPath};
use crate::config::carry::archive::{self, Source};
use crate::config::carry::bundle::Bundle;
use crate::digest::Digest;
use crate::files::{self, FileError, NewFile};

/// What would become of the configuration.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// The report that the first boot would write.
    pub report: Report,
    /// It in a word.
    pub verdict: Verdict,
    /// Every dispute: the path, the place inside the file, and a digest of the versions seen there.
    pub disputes: Vec<(EntryPath, Option<String>, Digest)>,
    /// Of files that are disputed as a whole: what the user changed, and what the image changed.
    pub differences: Differences,
    /// Bytes that the first boot needs where the new configuration goes: its files, and for a while
    /// those of the archive.
    pub space: u64,
    /// The image was made for a newer engine than this one: it may decide otherwise.
    pub is_guess: bool,
}

/// Runs the upgrade of a configuration in `scratch`, a directory that is made and removed.
///
/// `image` is the `config.tar.gz` of the image `to`, made for this `engine`.
///
/// # Errors
/// As the first boot itself, but for a merge that would be refused: that is a verdict.
pub fn forecast(
    source: &Source,
    image: &[u8],
    to: To<'_>,
    engine: u32,
    scratch: &Path,
) -> Result<Forecast, ConfigError> {
    files::remove_tree(scratch)?;
    let found = run(source, image, to, scratch);
    files::remove_tree(scratch)?;
    let is_guess = engine > ENGINE;
    found.map(|forecast| Forecast {
        is_guess,
        ..forecast
    })
}

fn run(source: &Source, image: &[u8], to: To<'_>, scratch: &Path) -> Result<Forecast, ConfigError> {
    files::make_dirs(scratch, 0o700)?;
    let archive = scratch.join("archive");
    let mut file = NewFile::create_directly(&archive, 0o600)?;
    archive::write(&mut file, source)?;
    file.place()?;
    let file = File::open(&archive).map_err(FileError::at("open", &archive))?;
    let old = archive::unpack(file, &scratch.join("old"))?;
    let new = archive::unpack(image, &scratch.join("new"))?;
    let carried = content(&old.bundle);
    let mut prepared = Prepared::meet(old, new.user, to, Deadline::default())?;
    let space = prepared.space()?.saturating_add(carried);
    let differences = prepared.differences()?;
    // The upgrade will save an archive of its own.
    prepared.report.archive = None;
    Ok(Forecast {
        report: prepared.report,
        verdict: prepared.outcome.verdict(),
        disputes: prepared.outcome.merge.disputes,
        differences,
        space,
        is_guess: false,
    })
}

/// Bytes of all files of an archive.
fn content(bundle: &Bundle) -> u64 {
    let sizes = bundle
        .members
        .iter()
        .map(|member| match member.entry.content {
            Content::File { size, .. } => size,
            _ => 0,
        });
    sizes.fold(0, u64::saturating_add)
}
