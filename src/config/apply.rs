//! The first boot of a new slot: the archive and the new image's defaults become its configuration.
//!
//! All is decided before anything is written, then the difference to the new image is built beside
//! its place and made durable. What makes it real depends on the slot:
//!
//! ```text
//! overlay    upper exists     already done: the install emptied the overlay
//!            else             rm -rf upper.new; build in upper.new; sync all of it;
//!                             rename upper.new upper; sync the directory
//! in place   journal exists   finish forward from it
//!            done before      already done: the last report is of this archive
//!            else             build beside, sync all of it; write the journal; replace each path
//!                             durably; remove the journal
//! ```
//!
//! A power cut finds the old state, so that it starts over from the archive, or the new one, or (in
//! place) a journal that says how to get there. The archive and, with an overlay, the new root are
//! only read. What was done is told in a report in the new tree.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::build::Builder;
use super::bundle::Bundle;
use super::in_place::{self, Journal};
use super::plan::Plan;
use super::report::Report;
use super::{ConfigError, archive, reports};
use crate::digest::{Digest, Hashing};
use crate::files::{self, FileError};

/// What first boot works on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The archive file.
    pub archive: &'a Path,
    /// The root of the new slot as its image shipped it.
    pub new_root: &'a Path,
    /// Version of the new image, for the report.
    pub to_version: &'a str,
    /// Where the result goes.
    pub target: Target<'a>,
}

/// Where the result goes.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The directory whose `upper` will lie over the new root.
    Overlay(&'a Path),
    /// The new root itself, which is writable.
    InPlace(&'a Path),
}

/// Brings the configuration of an archive to a new image.
///
/// # Errors
/// When the archive is damaged, a file cannot be read or written, or there is no space. With an
/// overlay, the configuration of the new slot is then as if it had not been tried. In place, too,
/// if the journal was not written yet; later, calling again finishes.
pub fn apply(inputs: &Inputs) -> Result<Report, ConfigError> {
    let file = File::open(inputs.archive).map_err(FileError::at("open", inputs.archive))?;
    let mut source = Hashing::new(BufReader::new(file));
    let (bundle, _) = archive::inspect(&mut source)?;
    let (_, _, digest) = source.finish();
    match inputs.target {
        Target::Overlay(dir) => overlay(inputs, &bundle, digest, dir),
        Target::InPlace(root) => in_place(inputs, &bundle, digest, root),
    }
}

fn overlay(
    inputs: &Inputs,
    bundle: &Bundle,
    archive: Digest,
    dir: &Path,
) -> Result<Report, ConfigError> {
    let upper = dir.join("upper");
    let fresh = dir.join("upper.new");
    if files::exists(&upper) {
        let last = reports::latest(&upper)?.filter(|report| report.archive == archive);
        let untold = || Plan::default().report(bundle, archive, inputs.to_version, Vec::new());
        let mut report = last.unwrap_or_else(untold);
        report.already_done = true;
        return Ok(report);
    }
    files::remove_tree(&fresh)?;
    files::make_dirs(dir, 0o755)?;
    let plan = Plan::of(bundle, inputs.new_root)?;
    check_space(dir, plan.space())?;
    // The root of an upper layer gives the mounted root its permissions.
    let mode = mode_of(inputs.new_root)?;
    let built = Builder::new(&fresh, mode, inputs, &plan)
        .and_then(|builder| builder.build(bundle, archive, 1))
        .and_then(|built| Ok(files::sync_tree(&fresh).map(|()| built)?));
    let (report, _) = tidied(&fresh, built)?;
    files::rename(&fresh, &upper)?;
    files::sync_dir(dir)?;
    Ok(report)
}

fn in_place(
    inputs: &Inputs,
    bundle: &Bundle,
    archive: Digest,
    root: &Path,
) -> Result<Report, ConfigError> {
    if let Some(journal) = Journal::read(root)? {
        return in_place::finish(root, journal, archive);
    }
    let last = reports::latest(root)?.filter(|report| report.archive == archive);
    if let Some(mut report) = last {
        report.already_done = true;
        return Ok(report);
    }
    let staged = in_place::prepare(root)?;
    let plan = Plan::of(bundle, inputs.new_root)?;
    // Each file lies there twice for a while.
    check_space(root, plan.space().saturating_mul(2))?;
    let number = reports::next(root)?;
    let built = Builder::new(&staged, 0o700, inputs, &plan)
        .and_then(|builder| builder.build(bundle, archive, number));
    let (report, removed) = tidied(&staged, built)?;
    let journal = Journal::write(root, report, removed)?;
    in_place::finish(root, journal, archive)
}

/// What was built half is removed, so that it does not fill the medium; the error is what counts.
fn tidied<T>(dir: &Path, built: Result<T, ConfigError>) -> Result<T, ConfigError> {
    if built.is_err()
        && let Err(error) = files::remove_tree(dir)
    {
        log::debug!("{error}: {}", error.source);
    }
    built
}

/// Refuses before anything is written what cannot fit.
fn check_space(dir: &Path, needed: u64) -> Result<(), ConfigError> {
    let free = usable(files::free_space(dir)?);
    if needed > free {
        return Err(ConfigError::NoSpace { needed, free });
    }
    Ok(())
}

/// The system that starts next needs some room, too: 64 KiB, or on a small medium a twentieth.
fn usable(free: u64) -> u64 {
    free - (free / 20).min(64 << 10)
}

fn mode_of(dir: &Path) -> Result<u32, ConfigError> {
    let metadata = std::fs::metadata(dir).map_err(FileError::at("examine", dir))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_fit_is_refused_with_both_numbers() {
        assert_eq!(usable(0), 0);
        assert_eq!(usable(100 << 10), 95 << 10);
        assert_eq!(usable(1 << 30), (1 << 30) - (64 << 10));
        let dir = tempfile::tempdir().unwrap();
        assert!(check_space(dir.path(), 0).is_ok());
        let error = check_space(dir.path(), u64::MAX).unwrap_err();
        assert!(
            matches!(
                error,
                ConfigError::NoSpace {
                    needed: u64::MAX,
                    ..
                }
            ),
            "{error}"
        );
    }
}
