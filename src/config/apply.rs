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

pub mod attic;
pub(in crate::config) mod build;
mod in_place;
pub(in crate::config) mod place;
pub mod reports;
pub(in crate::config) mod stage;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::difference::{self, Differences};
use super::engine::{self, Context, Outcome, Verdict};
use super::report::Report;
use super::tree::Tree;
use super::{ConfigError, Deadline, EntryPath, STATE_DIR};
use crate::config::carry::archive::{self, Unpacked};
use crate::digest::Digest;
use crate::files::{self, FileError};
use crate::image::openwrt::Compat;
use build::Difference;
use in_place::Journal;

/// What first boot works on.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Opens the archive, if it is needed, so that it is read from its medium and not from a cache.
    pub archive: &'a dyn Fn() -> Result<Box<dyn Read>, ConfigError>,
    /// What it must be, to the last byte.
    pub digest: Digest,
    /// The root of the new slot as its image shipped it: `etc` is in it, and `lib/upgrade` if the
    /// image has rules of its own.
    pub new_root: &'a Path,
    /// The new image.
    pub to: To<'a>,
    /// Where the result goes.
    pub target: Target<'a>,
}

/// The image that a configuration is brought to.
#[derive(Clone, Copy, Debug)]
pub struct To<'a> {
    /// Its version, for the report.
    pub version: &'a str,
    /// The compatibility version that the configuration has to bear there; `None`: as it comes.
    pub compat: Option<&'a Compat>,
}

/// Where the result goes.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The directory whose `upper` will lie over the new root.
    Overlay(&'a Path),
    /// The new root itself, which is writable.
    InPlace(&'a Path),
}

/// An archive that is a file, for [`Inputs`].
pub fn in_file(path: &Path) -> impl Fn() -> Result<Box<dyn Read>, ConfigError> {
    // What the install read back from the medium must still be there, not just in the cache.
    || Ok(Box::new(files::open_past_cache(path)?))
}

/// How long a first boot may take. Real ones take a second; whoever waits before a router that does
/// not come up pulls its plug.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Brings the configuration of an archive to a new image, by the deadline.
///
/// # Errors
/// When the archive is damaged, a file cannot be read or written, there is no space, it takes too
/// long, or the merge is refused. With an overlay, the configuration of the new slot is then as if it had not been tried.
/// In place, too, if the journal was not written yet; later, calling again finishes.
pub fn apply_by(deadline: Deadline, inputs: &Inputs) -> Result<Report, ConfigError> {
    match inputs.target {
        Target::Overlay(dir) => overlay(inputs, dir, deadline),
        Target::InPlace(root) => in_place(inputs, root, deadline),
    }
}

/// [`apply_by`] within [`LIMIT`].
///
/// # Errors
/// As [`apply_by`].
pub fn apply(inputs: &Inputs) -> Result<Report, ConfigError> {
    apply_by(Deadline::after(LIMIT), inputs)
}

fn overlay(inputs: &Inputs, dir: &Path, deadline: Deadline) -> Result<Report, ConfigError> {
    let (upper, fresh) = (dir.join("upper"), dir.join("upper.new"));
    let scratch = dir.join("merge.tmp");
    files::remove_tree(&scratch)?;
    if files::exists(&upper) {
        return Ok(done_before(inputs, &upper)?.unwrap_or_else(|| untold(inputs)));
    }
    files::remove_tree(&fresh)?;
    files::make_dirs(dir, 0o755)?;
    let prepared = Prepared::new(inputs, &scratch, deadline);
    let built = prepared.and_then(|mut prepared| {
        let tree = prepared.complete(1)?;
        let difference = Difference::new(&prepared.new, &tree);
        check_space(dir, difference.space())?;
        // The root of an upper layer gives the mounted root its permissions.
        difference.build(&fresh, mode_of(inputs.new_root)?, true, deadline)?;
        files::sync_tree(&fresh)?;
        Ok(prepared.report)
    });
    files::remove_tree(&scratch)?;
    let named = built.and_then(|report| {
        files::rename(&fresh, &upper)?;
        Ok(report)
    });
    let report = tidied(&fresh, named)?;
    files::sync_dir(dir)?;
    Ok(report)
}

fn in_place(inputs: &Inputs, root: &Path, deadline: Deadline) -> Result<Report, ConfigError> {
    if let Some(journal) = Journal::read(root)? {
        return in_place::finish(root, journal, inputs.digest);
    }
    if let Some(report) = done_before(inputs, root)? {
        in_place::clear(root)?; // power may have gone when only that was left to do
        return Ok(report);
    }
    let (staged, scratch) = in_place::prepare(root)?;
    let number = reports::next(root)?;
    let built = Prepared::new(inputs, &scratch, deadline).and_then(|mut prepared| {
        let tree = prepared.complete(number)?;
        let difference = Difference::new(&prepared.new, &tree);
        // Each file lies there twice for a while.
        check_space(root, difference.space().saturating_mul(2))?;
        let removed = difference.build(&staged, 0o700, false, deadline)?;
        Ok((prepared.report, removed))
    });
    files::remove_tree(&scratch)?;
    let (report, removed) = tidied(&staged, built)?;
    let journal = Journal::write(root, report, removed)?;
    in_place::finish(root, journal, inputs.digest)
}

/// The report of a tree that was made from this archive before.
fn done_before(inputs: &Inputs, root: &Path) -> Result<Option<Report>, ConfigError> {
    let report = reports::latest(root)?.filter(|report| report.archive == Some(inputs.digest));
    Ok(report.map(|mut report| {
        report.already_done = true;
        report
    }))
}

/// The configuration is there, but its report is not.
fn untold(inputs: &Inputs) -> Report {
    Report {
        to: inputs.to.version.to_owned(),
        archive: Some(inputs.digest),
        already_done: true,
        ..Report::default()
    }
}

/// An archive that has met the new image; nothing is written yet but scratch.
pub(super) struct Prepared {
    pub(super) outcome: Outcome,
    new: Tree,
    pub(super) report: Report,
}

impl Prepared {
    fn new(inputs: &Inputs, scratch: &Path, deadline: Deadline) -> Result<Self, ConfigError> {
        let unpacked = archive::unpack((inputs.archive)()?, scratch)?;
        if unpacked.sha256 != inputs.digest {
            let problem = format!(
                "{} bytes with sha256 {}, the install saved one with {}",
                unpacked.size, unpacked.sha256, inputs.digest
            );
            return Err(ConfigError::damaged("its end", problem));
        }
        let new = new_defaults(inputs.new_root, &unpacked)?;
        deadline.check()?;
        let prepared = Self::meet(unpacked, new, inputs.to, deadline)?;
        match prepared.outcome.verdict() {
            Verdict::Refused => Err(ConfigError::Refused {
                reasons: prepared.outcome.merge.refused,
            }),
            Verdict::Clean | Verdict::NeedsReview => Ok(prepared),
        }
    }

    /// Runs the engine over what came out of an archive.
    pub(super) fn meet(
        unpacked: Unpacked,
        new: Tree,
        to: To<'_>,
        deadline: Deadline,
    ) -> Result<Self, ConfigError> {
        let Unpacked {
            bundle,
            base,
            user,
            sha256,
            ..
        } = unpacked;
        let mut context = Context::of(&bundle, &user, &new)?;
        context.rules.deadline = deadline;
        context.compat = to.compat.cloned();
        let outcome = engine::run(base, user, &new, &context)?;
        let mut report = Report::of(&outcome, &bundle.from_version, to.version);
        report.archive = Some(sha256);
        Ok(Self {
            outcome,
            new,
            report,
        })
    }

    /// Differences in what is disputed as a whole.
    pub(super) fn differences(&self) -> Result<Differences, ConfigError> {
        difference::of_outcome(&self.outcome, &self.new)
    }

    /// Bytes of the files that will be written.
    pub(super) fn space(&mut self) -> Result<u64, ConfigError> {
        let tree = self.complete(1)?;
        Ok(Difference::new(&self.new, &tree).space())
    }

    /// The whole result, with the report of this number.
    fn complete(&mut self, number: u32) -> Result<Tree, ConfigError> {
        build::complete(&self.outcome, &self.new, &mut self.report, number)
    }
}

/// What the new image has where the archive has something, all of its `/etc`, and its rules.
fn new_defaults(root: &Path, unpacked: &Unpacked) -> Result<Tree, ConfigError> {
    let mut new = Tree::default();
    for dir in ["etc", "lib/upgrade"] {
        new.read(root, dir)?;
    }
    let paths = [&unpacked.base, &unpacked.user];
    for (path, _) in paths.iter().flat_map(|tree| tree.iter()) {
        if !path.is_within("etc") {
            new.read_entry(root, path)?;
        }
    }
    if let Ok(state) = EntryPath::new(STATE_DIR.as_bytes()) {
        new.remove(&state); // what a root that is changed in place has of earlier upgrades
    }
    Ok(new)
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
