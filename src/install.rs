//! The upgrade, in ten steps.
//!
//! ```text
//!  1 lock         one writer on the machine
//!  2 open         head of the image, bounded, from a stream that never seeks; nothing written
//!  3 verify       Unverified -> Verified; only Verified can be read further
//!  4 plan         everything that can be refused without writing, in one pass
//!  5 BOOT.store   target becomes Unbootable, running slot primary            <- first write, which
//!                mends an environment in which the boot loader could not count the tries of step 9
//!  6 FLASH        each block checked, compared with the medium, written where it differs
//!  7 read back    from the medium, not the cache, against the manifest; during 6 where the medium can do both
//!  8 CONFIG       target overlay emptied; keep list -> archive, durable, read again and checked
//!  9 BOOT.store   target becomes Trial(tries), primary                       <- the one commit
//! 10 reboot       by the system's own command, once this has returned
//! ```
//!
//! | power goes | the next boot finds |
//! | --- | --- |
//! | before 5 lands | the old state, untouched |
//! | 5 to 9 | the running slot; the target cannot be chosen; the same command again continues |
//! | after 9 lands | the new slot on trial; when its tries are used up, the old slot as it was |
//!
//! There is no journal: the boot state says how far it got, and the medium itself which blocks are
//! right. Any error after step 5, and a signal, leaves things as a power cut there would.

mod error;
mod misfit;
mod nearby;
mod plan;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::board::Board;
use crate::config::archive::{self, Origin};
use crate::config::bundle::Scope;
use crate::config::keep::Listing;
use crate::config::report::Notice;
use crate::data::{ArchiveRef, Entry, Installed, Stage, Update, What};
use crate::digest::Hashing;
use crate::files::{self, FileError};
use crate::flash::{Device, FlashError, Written};
use crate::health::Before;
use crate::image::candidate::{Candidate, Contents, Image, Member, skip};
use crate::image::openwrt::Target;
use crate::image::{ImageError, Tally};
use crate::machine::{Identity, Lock, Machine, MachineError};
use crate::report::{Cost, Phase, Reason, Refusal};
use crate::sys;
use crate::trust::Trust;

pub use crate::report::describe;
pub use error::InstallError;
pub use misfit::{Misfit, Names};
use nearby::Nearby;
pub use plan::Plan;
use plan::plan;
use watch::Meter;
pub use watch::Watch;

/// The media of the target slot, by part name: opened, or why not, which the plan then refuses.
pub type Parts = BTreeMap<String, Result<Box<dyn Device>, FlashError>>;

/// What has been read back of the parts, by part name: how much, and its digest in the making.
type Proofs = BTreeMap<String, Hashing<io::Sink>>;

fn nothing_proven() -> Hashing<io::Sink> {
    Hashing::new(io::sink())
}

/// What the caller wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Carry the declared configuration over. Otherwise the new system starts from its defaults.
    pub keep: bool,
    /// Install although a forceable rule says no (another board).
    pub force: bool,
    /// Keep the configuration although only its minor compatibility version says no.
    pub ignore_minor_compat: bool,
    /// What of the configuration travels; as the board file says if `None`.
    pub scope: Option<Scope>,
    /// Which files of it.
    pub listing: Listing,
    /// A ready archive that travels instead, from whatever tool.
    pub archive: Option<PathBuf>,
    /// How long the new system may run unconfirmed; the board's own time if `None`.
    pub confirm_within: Option<Duration>,
}

impl Wish {
    /// True if this refusal is overridden.
    #[must_use]
    pub fn forces(&self, refusal: &Refusal) -> bool {
        self.force && refusal.forceable
    }
}

/// What an install did.
#[derive(Clone, Debug)]
pub struct Done {
    /// Version that boots next.
    pub version: String,
    /// The slot it is in.
    pub slot: String,
    /// What it cost.
    pub cost: Cost,
    /// Files carried over.
    pub kept: u64,
    /// Disputes between the owner's configuration and the new defaults will be decided for the owner,
    /// who should look at them.
    pub needs_review: bool,
}

/// An upgrade that is asked for, with all that it needs, opened.
pub struct Upgrade<'a> {
    /// The proof of step 1.
    pub lock: Lock,
    /// The machine.
    pub machine: &'a mut Machine,
    /// Who may sign.
    pub trust: Trust,
    /// The media of the target.
    pub parts: Parts,
    /// What the caller wants.
    pub wish: Wish,
    /// What works now, for the new system to be judged by.
    pub before: Before,
    /// Who is told, and whether to go on.
    pub watch: Watch<'a>,
}

/// Steps 2 to 9; the caller reboots.
///
/// # Errors
/// [`InstallError`]; before step 5 nothing has been written, after it the error is
/// [`InstallError::Unfinished`] and the target cannot be booted.
pub fn install<R: Read>(
    upgrade: &mut Upgrade<'_>,
    image: impl Into<Candidate<R>>,
) -> Result<Done, InstallError> {
    upgrade.machine.data.create()?;
    let (plan, image) = match examine(upgrade, image) {
        Ok(good) => good,
        Err(error) => {
            let told = (describe(&error), error.reason(), None);
            record(upgrade.machine, What::Refused, None, told);
            return Err(error);
        }
    };
    let version = plan.installed.version.clone();
    match write(upgrade, image, &plan) {
        Ok(done) => {
            let message = format!(
                "version {version} is in slot {} and boots next, on trial: {}",
                done.slot, done.cost
            );
            let told = (message, None, Some(done.cost.clone()));
            record(upgrade.machine, What::Installed, Some(&version), told);
            Ok(done)
        }
        Err(error) => {
            let told = (describe(&error), error.reason(), None);
            let error = hold(upgrade.machine, error);
            record(upgrade.machine, What::InstallFailed, Some(&version), told);
            Err(error)
        }
    }
}

/// The target is not to boot, whatever happened; not even if it was the commit that failed, of which
/// nobody knows how much has landed.
fn hold(machine: &mut Machine, error: InstallError) -> InstallError {
    let (running, slot) = (machine.running, machine.name(machine.target()).to_owned());
    let source = Box::new(error);
    match machine.transit(|state| state.begin_install(running)) {
        Ok(_) => InstallError::Unfinished { slot, source },
        Err(error) => {
            log::debug!("{}", describe(&error));
            InstallError::Unknown { slot, source }
        }
    }
}

/// Adds to the history. What happened matters more than its record, and may be why that fails.
fn record(
    machine: &Machine,
    what: What,
    version: Option<&str>,
    (message, reason, cost): (String, Option<Reason>, Option<Cost>),
) {
    let entry = machine.entry(what, machine.target(), version, &message);
    let entry = Entry {
        reason,
        cost,
        ..entry
    };
    let update = Update {
        entry: Some(entry),
        ..Update::default()
    };
    if let Err(error) = machine.data.record(&update) {
        log::debug!("{}", describe(&error));
    }
}

/// Steps 2 to 4: everything that can be known without writing. What says no ends it.
///
/// # Errors
/// [`InstallError`]; nothing has been written.
pub fn examine<R: Read>(
    upgrade: &mut Upgrade<'_>,
    image: impl Into<Candidate<R>>,
) -> Result<(Plan, Image<R>), InstallError> {
    let (plan, image) = survey(upgrade, image)?;
    if !plan.refusals.is_empty() {
        return Err(InstallError::Refused(plan.refusals));
    }
    if plan.contents.signers.is_empty() {
        let unsigned = "nobody has signed this image: the board file lets that pass";
        upgrade.watch.notice(unsigned.to_owned());
    }
    for refusal in &plan.forced {
        upgrade.watch.notice(format!("forced: {}", refusal.message));
    }
    for flaw in &plan.flaws {
        let told = format!("boot environment: {flaw}; the upgrade begins by mending it");
        upgrade.watch.notice(told);
    }
    for notice in &plan.notices {
        upgrade.watch.notice(notice.to_string());
    }
    Ok((plan, image))
}

/// What can be said of an image without a machine: its contents, checked to the last byte; whether the
/// configuration below `root` may go with it; and the rule that says no.
///
/// # Errors
/// [`InstallError`]: the image is not good.
pub fn judge<R: Read>(
    root: &Path,
    board: Option<&Board>,
    trust: &Trust,
    image: impl Into<Candidate<R>>,
    wish: &Wish,
) -> Result<(Contents, bool, Option<Refusal>), InstallError> {
    let identity = Identity::read(root)?;
    let names = Names::of(&identity, board);
    let target = Target {
        board: names.of_stock(wish),
        parts: None,
    };
    let image = image.into().verify(trust, &target)?;
    let contents = image.contents().clone();
    image.check().map_err(image_error)?;
    let misfit = Misfit::of(&contents, &names, &identity);
    let (may_keep, refusal) = (misfit.may_keep(), misfit.refusal(wish));
    Ok((contents, may_keep, refusal))
}

/// What an install of an image with a good plan would fetch and copy. To know that, the media of both slots are
/// read; nothing is written.
///
/// # Errors
/// [`InstallError::Image`], [`InstallError::Stopped`].
pub fn weigh<R: Read>(
    upgrade: &mut Upgrade<'_>,
    mut image: Image<R>,
) -> Result<Tally, InstallError> {
    if let Some(wanted) = image.parts_by_blocks() {
        let mut nearby = Nearby::of(upgrade.machine, wanted);
        nearby.recall(upgrade.machine, &upgrade.watch)?;
        image.use_at_hand(Box::new(nearby));
    }
    Ok(image.weigh()?)
}

/// The same for somebody who only wants to know: what says no is in the plan.
///
/// # Errors
/// [`InstallError`]: no plan can be made at all.
pub fn survey<R: Read>(
    upgrade: &mut Upgrade<'_>,
    image: impl Into<Candidate<R>>,
) -> Result<(Plan, Image<R>), InstallError> {
    let Upgrade {
        machine,
        trust,
        parts,
        wish,
        watch,
        ..
    } = upgrade;
    watch.phase(Phase::Verify);
    let identity = Identity::read(&machine.root)?;
    let names = Names::of(&identity, Some(&machine.board));
    let target = Target {
        board: names.of_stock(wish),
        parts: Some(parts.keys().map(String::as_str).collect()),
    };
    let mut image = image.into().verify(trust, &target)?;
    watch.phase(Phase::Plan);
    let defaults = match wish.keep {
        true => new_defaults(&mut image)?,
        false => None,
    };
    let plan = plan(
        machine,
        image.contents(),
        defaults.as_deref(),
        parts,
        (&names, &identity),
        wish,
    )?;
    Ok((plan, image))
}

/// The defaults of the new image, if it says them: they come first in it. They are collected whole,
/// since only their last byte tells whether any of them is right.
fn new_defaults<R: Read>(image: &mut Image<R>) -> Result<Option<Vec<u8>>, InstallError> {
    if !image.contents().has_config {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    if let Some(Member::Config(mut config)) = image.next_member()? {
        config.read_to_end(&mut bytes).map_err(image_error)?;
    }
    Ok(Some(bytes))
}

/// `-T`: [`examine`], and every byte of the image read and checked; nothing is written.
///
/// # Errors
/// As [`examine`].
pub fn test<R: Read>(
    upgrade: &mut Upgrade<'_>,
    image: impl Into<Candidate<R>>,
) -> Result<Plan, InstallError> {
    let (plan, mut image) = examine(upgrade, image)?;
    let mut meter = Meter::new(&mut upgrade.watch, Phase::Verify, plan.bytes);
    while let Some(member) = image.next_member()? {
        match member {
            Member::Config(config) => skip(config).map_err(image_error)?,
            Member::Part(part, bytes) => {
                meter.part = part.name;
                skip(meter.on(bytes)).map_err(|error| source_error(error, meter.watch))?;
            }
        }
    }
    image.finish()?;
    Ok(plan)
}

/// Steps 5 to 9.
fn write<R: Read>(
    upgrade: &mut Upgrade<'_>,
    image: Image<R>,
    plan: &Plan,
) -> Result<Done, InstallError> {
    let Upgrade {
        machine,
        parts,
        before,
        watch,
        ..
    } = upgrade;
    let (running, target) = (machine.running, machine.target());
    machine.transit(|state| state.begin_install(running))?;
    let mut installed = plan.installed.clone();
    let factory = match machine.installed(running)? {
        Some(_) => None,
        None => Some(factory(&installed)),
    };
    let factory = factory
        .iter()
        .map(|factory| (machine.name(running), factory));
    machine.data.record(&Update {
        before: Some(before),
        installed: factory
            .chain([(machine.name(target), &installed)])
            .collect(),
        ..Update::default()
    })?;

    let contents = image.contents().clone();
    let (written, tally, proofs) = flash(machine, image, parts, plan.bytes, watch)?;
    read_back(machine, &contents, parts, proofs, plan.bytes, watch)?;

    watch.phase(Phase::Config);
    empty_overlay(machine)?;
    let (archive, kept) = save_configuration(machine, plan, &installed, watch)?;
    installed.archive = archive;
    machine.set_installed(target, &installed)?;

    watch.phase(Phase::Commit);
    watch.check()?;
    let tries = machine.board.boot.tries;
    machine.transit(|state| state.activate(running, tries))?;
    Ok(Done {
        version: installed.version,
        slot: machine.name(target).to_owned(),
        cost: Cost {
            read: written.read + plan.bytes,
            written: written.written,
            unchanged: written.unchanged,
            fetched: tally.fetched,
            copied: tally.copied,
            erased: written.erased,
            gone_bad: written.gone_bad,
            peak_memory: sys::peak_memory(),
            seconds: watch.seconds(),
        },
        kept,
        needs_review: plan.needs_review(),
    })
}

/// The record of a running system that no install has written: the other slot is to know, too, what
/// it falls back to.
fn factory(successor: &Installed) -> Installed {
    Installed {
        version: successor.from_version.clone().unwrap_or_default(),
        security: 0,
        stage: Stage::Good,
        note: None,
        from_version: None,
        archive: None,
        compat: None,
        confirm_within: successor.confirm_within,
    }
}

/// Step 6. The image is read to its end, so that one with anything wrong anywhere is never committed. Blocks
/// that are at hand are as good as those that are fetched: each was hashed.
fn flash<R: Read>(
    machine: &Machine,
    mut image: Image<R>,
    parts: &mut Parts,
    bytes: u64,
    watch: &mut Watch<'_>,
) -> Result<(Written, Tally, Proofs), InstallError> {
    watch.phase(Phase::Flash);
    if let Some(wanted) = image.parts_by_blocks() {
        let mut nearby = Nearby::of(machine, wanted);
        if nearby.recall(machine, watch)? {
            nearby.remember(machine);
        }
        image.use_at_hand(Box::new(nearby));
    }
    let slot = machine.name(machine.target());
    let mut sum = Written::default();
    let mut proofs = Proofs::new();
    let mut meter = Meter::new(watch, Phase::Flash, bytes);
    while let Some(member) = image.next_member()? {
        match member {
            // The new defaults are for the plan; what is installed brings its own. Without a
            // configuration to keep there was no plan.
            Member::Config(config) => skip(config).map_err(image_error)?,
            Member::Part(part, bytes) => {
                meter.part.clone_from(&part.name);
                let device = device(parts, &part.name, slot)?;
                let mut source = meter.on(bytes);
                let mut proof = nothing_proven();
                let written = match device.holds(part.size, &part.sha256) {
                    Ok(true) => skip(source)
                        .map(|()| Written {
                            unchanged: part.size,
                            read: part.size,
                            ..Written::default()
                        })
                        .map_err(FlashError::Source),
                    Ok(false) => device.write_image(&mut source, part.size, Some(&mut proof)),
                    Err(error) => Err(error),
                };
                sum += written.map_err(|error| match error {
                    FlashError::Source(error) => source_error(error, meter.watch),
                    source => InstallError::Flash {
                        part: part.name.clone(),
                        slot: slot.to_owned(),
                        source,
                    },
                })?;
                proofs.insert(part.name, proof);
            }
        }
    }
    Ok((sum, image.finish()?, proofs))
}

/// Step 7: what has not been read back while it was written.
fn read_back(
    machine: &Machine,
    contents: &Contents,
    parts: &mut Parts,
    mut proofs: Proofs,
    bytes: u64,
    watch: &mut Watch<'_>,
) -> Result<(), InstallError> {
    watch.phase(Phase::ReadBack);
    let mut meter = Meter::new(watch, Phase::ReadBack, bytes);
    for part in &contents.parts {
        let slot = machine.name(machine.target()).to_owned();
        let device = device(parts, &part.name, &slot)?;
        meter.part.clone_from(&part.name);
        let mut proof = proofs.remove(&part.name).unwrap_or_else(nothing_proven);
        meter.count(proof.count());
        device
            .read_image(proof.count()..part.size, &mut meter.on(&mut proof))
            .map_err(|source| match source {
                FlashError::Source(_) if meter.watch.stopped() => InstallError::Stopped,
                source => InstallError::Flash {
                    part: part.name.clone(),
                    slot: slot.clone(),
                    source,
                },
            })?;
        let (_, _, found) = proof.finish();
        if found != part.sha256 {
            return Err(InstallError::ReadBack {
                part: part.name.clone(),
                slot,
            });
        }
    }
    Ok(())
}

/// The medium of a part. The plan has refused images with other parts than the slot's; should it ever
/// not, a part that is passed over must not look like one that is right.
fn device<'p>(
    parts: &'p mut Parts,
    part: &str,
    slot: &str,
) -> Result<&'p mut Box<dyn Device>, InstallError> {
    match parts.get_mut(part) {
        Some(Ok(device)) => Ok(device),
        _ => Err(InstallError::NoMedium {
            part: part.to_owned(),
            slot: slot.to_owned(),
        }),
    }
}

/// Step 8: writes the archive, and reads it again from the medium before anything relies on it.
/// Without a keep list an archive left by an earlier run is removed: first boot must not find it.
fn save_configuration(
    machine: &Machine,
    plan: &Plan,
    installed: &Installed,
    watch: &mut Watch<'_>,
) -> Result<(Option<ArchiveRef>, u64), InstallError> {
    let slot = machine.name(machine.target());
    if plan.keep.is_none() && plan.archive.is_none() {
        machine.data.remove_archive(slot)?;
        return Ok((None, 0));
    }
    let mut file = Hashing::new(machine.data.new_archive(slot)?);
    if let Some(path) = &plan.archive {
        let mut ready = File::open(path).map_err(FileError::at("open", path))?;
        io::copy(&mut ready, &mut file).map_err(InstallError::Copy)?;
    } else if let Some(keep) = &plan.keep {
        let defaults = machine.defaults();
        let source = archive::Source {
            root: &machine.root,
            keep,
            defaults: defaults.as_deref(),
            scope: plan.scope,
            from_version: installed.from_version.as_deref().unwrap_or_default(),
            board: &machine.board.name,
        };
        let summary = archive::write(&mut file, &source)?;
        let untold = |notice: &&Notice| !plan.notices.contains(notice);
        for notice in summary.notices.iter().filter(untold) {
            watch.notice(notice.to_string());
        }
    }
    let (file, size, sha256) = file.finish();
    file.commit()?;

    let saved = ArchiveRef { size, sha256 };
    let mut file = Hashing::new(machine.data.open_archive(slot, &saved)?);
    let (bundle, origin) = archive::inspect(&mut file)?;
    let (_, size, sha256) = file.finish();
    let expected = plan.archive.is_some() || origin == Origin::Own;
    if (ArchiveRef { size, sha256 }) != saved || !expected {
        return Err(InstallError::ArchiveReadBack);
    }
    Ok((Some(saved), bundle.kept().count() as u64))
}

/// What an earlier life of the target left in its overlay must not show through the new system. First
/// boot takes an overlay that is there as its own finished work. This comes before the archive, which
/// may travel in the overlay.
fn empty_overlay(machine: &Machine) -> Result<(), InstallError> {
    let Some(overlay) = machine
        .overlay(machine.target())
        .map_err(MachineError::from)?
    else {
        return Ok(());
    };
    files::make_dirs(&overlay, 0o755)?;
    for name in files::list(&overlay)? {
        files::remove_tree(&overlay.join(name))?;
    }
    Ok(files::sync_dir(&overlay)?)
}

/// An error that came up through the image's `Read`.
fn source_error(error: io::Error, watch: &Watch<'_>) -> InstallError {
    if watch.stopped() {
        return InstallError::Stopped;
    }
    image_error(error)
}

fn image_error(error: io::Error) -> InstallError {
    ImageError::from_io(error).map_or_else(InstallError::Copy, InstallError::Image)
}
