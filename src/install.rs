//! The upgrade, in ten steps.
//!
//! ```text
//!  1 lock         one writer on the machine
//!  2 open         head of the image, bounded, from a stream that never seeks; nothing written
//!  3 verify       Unverified -> Verified; only Verified can be read further
//!  4 plan         everything that can be refused without writing, in one pass
//!  5 BOOT.store   target becomes Unbootable, running slot primary            <- first write
//!  6 FLASH        each block checked, compared with the medium, written where it differs
//!  7 read back    from the medium, not the cache, against the manifest
//!  8 CONFIG       keep list -> archive, durable, read again and checked; target overlay emptied
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

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thiserror::Error;

use crate::boot::BootError;

use crate::config::keep::KeepList;
use crate::config::{ConfigError, archive};
use crate::data::{ArchiveRef, DataError, Installed, Stage, What};
use crate::digest::Hasher;
use crate::files::{self, FileError};
use crate::flash::{Device, FlashError, Written};
use crate::image::{ImageError, Manifest, Member, PartInfo, Unverified, Verified};
use crate::machine::{Lock, Machine, MachineError};
use crate::report::{Event, ExitCode, Phase, Reason, Refusal};
use crate::slots::{Standing, TransitionError};
use crate::trust::Trust;

/// The opened media of the target slot, by part name.
pub type Parts = BTreeMap<String, Box<dyn Device>>;

/// What the caller wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Carry the declared configuration over. Otherwise the new system starts from its defaults.
    pub keep: bool,
    /// Install although a forceable rule says no (another board).
    pub force: bool,
    /// How long the new system may run unconfirmed; the board's own time if `None`.
    pub confirm_within: Option<Duration>,
}

/// What step 4 found out.
#[derive(Debug)]
pub struct Plan {
    /// What will be in the target slot.
    pub installed: Installed,
    /// Bytes of all parts together.
    pub bytes: u64,
    /// The files to carry; `None` without configuration.
    pub keep: Option<KeepList>,
    /// Rules that said no and were overridden by force.
    pub forced: Vec<Refusal>,
}

/// What an install did.
#[derive(Clone, Debug)]
pub struct Done {
    /// Version that boots next.
    pub version: String,
    /// The slot it is in.
    pub slot: String,
    /// Bytes of the image's parts that were written, and that were there already.
    pub written: Written,
    /// Files carried over.
    pub kept: u64,
}

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
    #[error("cannot copy")]
    Copy(#[source] io::Error),
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
    /// The exit code that tells a caller.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused(refusals) => refusals
                .first()
                .map_or(ExitCode::Failed, |first| first.reason.exit_code()),
            Self::Image(error) => error.reason().exit_code(),
            Self::Machine(MachineError::Busy { .. }) => ExitCode::Busy,
            Self::Machine(MachineError::Boot(_)) => ExitCode::BoardUnreadable,
            Self::Config(_) => ExitCode::ConfigRefused,
            Self::Flash {
                source: FlashError::TooLarge { .. },
                ..
            } => ExitCode::DoesNotFit,
            Self::Unfinished { source, .. } => source.exit_code(),
            Self::Machine(_)
            | Self::Copy(_)
            | Self::Flash { .. }
            | Self::ReadBack { .. }
            | Self::ArchiveReadBack
            | Self::Stopped => ExitCode::Failed,
        }
    }
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
    /// Who is told, and whether to go on.
    pub watch: Watch<'a>,
}

/// Steps 2 to 9; the caller reboots.
///
/// # Errors
/// [`InstallError`]; before step 5 nothing has been written, after it the error is
/// [`InstallError::Unfinished`] and the target cannot be booted.
pub fn install(upgrade: &mut Upgrade<'_>, image: impl Read) -> Result<Done, InstallError> {
    upgrade.machine.data.create()?;
    let (plan, image) = match examine(upgrade, image) {
        Ok(good) => good,
        Err(error) => {
            record(upgrade.machine, What::Refused, None, &error);
            return Err(error);
        }
    };
    let target = upgrade.machine.target();
    let slot = upgrade.machine.name(target).to_owned();
    let version = plan.installed.version.clone();
    match write(upgrade, image, plan) {
        Ok(done) => {
            let message = format!("version {version} is in slot {slot} and boots next, on trial");
            upgrade
                .machine
                .note(What::Installed, target, Some(&version), &message)?;
            Ok(done)
        }
        Err(error) => {
            record(upgrade.machine, What::InstallFailed, Some(&version), &error);
            Err(InstallError::Unfinished {
                slot,
                source: Box::new(error),
            })
        }
    }
}

/// Notes a failure. The failure itself matters more than its record, and may be why that fails too.
fn record(machine: &Machine, what: What, version: Option<&str>, error: &InstallError) {
    if let Err(error) = machine.note(what, machine.target(), version, &describe(error)) {
        log::debug!("{}", describe(&error));
    }
}

/// Steps 2 to 4: everything that can be known without writing.
///
/// # Errors
/// [`InstallError`]; nothing has been written.
pub fn examine<R: Read>(
    upgrade: &mut Upgrade<'_>,
    image: R,
) -> Result<(Plan, Verified<R>), InstallError> {
    let Upgrade {
        machine,
        trust,
        parts,
        wish,
        watch,
        ..
    } = upgrade;
    watch.phase(Phase::Verify);
    let image = Unverified::open(image)?.verify(trust)?;
    watch.phase(Phase::Plan);
    let plan = plan(machine, image.manifest(), parts, wish)?;
    for refusal in &plan.forced {
        watch.notice(format!("forced: {}", refusal.message));
    }
    for notice in plan.keep.iter().flat_map(KeepList::notices) {
        watch.notice(notice.to_string());
    }
    Ok((plan, image))
}

/// `-T`: [`examine`], and every byte of the image read and checked; nothing is written.
///
/// # Errors
/// As [`examine`].
pub fn test(upgrade: &mut Upgrade<'_>, image: impl Read) -> Result<Plan, InstallError> {
    let (plan, mut image) = examine(upgrade, image)?;
    let mut meter = Meter::new(&mut upgrade.watch, Phase::Verify, plan.bytes);
    while let Some(member) = image.next_member()? {
        match member {
            Member::Config(mut config) => config.skip()?,
            Member::Part(mut part) => {
                meter.part.clone_from(&part.part().slot_part);
                io::copy(&mut meter.on(&mut part), &mut io::sink())
                    .map_err(|error| source_error(error, meter.watch))?;
            }
        }
    }
    image.finish()?;
    Ok(plan)
}

/// Step 4: all rules, so that whoever is refused learns everything at once.
fn plan(
    machine: &mut Machine,
    manifest: &Manifest,
    parts: &Parts,
    wish: &Wish,
) -> Result<Plan, InstallError> {
    let mut refusals = Vec::new();
    refusals.extend(wrong_board(machine, manifest));
    refusals.extend(unready(machine)?);
    refusals.extend(unfit(machine, manifest, parts));
    let keep = match wish.keep {
        true => Some(KeepList::read(&machine.root)?),
        false => None,
    };
    if let Some(keep) = &keep {
        refusals.extend(no_space(machine, keep)?);
    }
    let (forced, refusals): (Vec<_>, Vec<_>) = refusals
        .into_iter()
        .partition(|r| wish.force && r.forceable);
    if !refusals.is_empty() {
        return Err(InstallError::Refused(refusals));
    }
    Ok(Plan {
        installed: Installed {
            version: manifest.version.clone(),
            security: manifest.security,
            stage: Stage::Writing,
            note: None,
            from_version: Some(machine.running_version()?),
            archive: None,
            confirm_within: wish
                .confirm_within
                .unwrap_or(machine.board.boot.confirm_within)
                .as_secs(),
        },
        bytes: manifest.parts.iter().map(|part| part.raw_size).sum(),
        keep,
        forced,
    })
}

fn wrong_board(machine: &Machine, manifest: &Manifest) -> Option<Refusal> {
    let ours = &machine.board.compatible;
    if manifest.boards.iter().any(|name| ours.contains(name)) {
        return None;
    }
    let (found, wanted) = (manifest.boards.join(", "), ours.join(", "));
    Some(Refusal {
        reason: Reason::WrongBoard,
        message: format!("the image is for board {found}, this is {wanted}"),
        found,
        wanted,
        hint: "get the image for this board; -F installs it all the same".into(),
        forceable: true,
    })
}

/// The boot state must allow an install: the running slot proven, and the one that would be running.
fn unready(machine: &mut Machine) -> Result<Option<Refusal>, InstallError> {
    let state = machine.boot.load()?;
    let running = machine.name(machine.running).to_owned();
    Ok(match state.begin_install(machine.running) {
        Ok(_) => None,
        Err(TransitionError::OnTrial) => Some(Refusal {
            reason: Reason::OnTrial,
            message: format!(
                "slot {running} is still on trial: another upgrade now would leave no proven system"
            ),
            found: format!("slot {running}: {}", state.condition(machine.running)),
            wanted: format!("slot {running}: good"),
            hint: "run `sysupgrade-rs confirm` or `sysupgrade-rs rollback` first".into(),
            forceable: false,
        }),
        Err(_) => Some(Refusal {
            reason: Reason::SlotContradiction,
            message: format!(
                "slot {running} runs, but the boot environment would boot slot {}",
                machine.name(state.boot().0)
            ),
            found: format!("running: {running}"),
            wanted: format!("running: {}", machine.name(state.boot().0)),
            hint: match state.standing(machine.running) {
                Standing::Leaving => "reboot first, or run `sysupgrade-rs rollback` to stay here",
                Standing::GivenUp => "this system was given up: reboot to go back",
                _ => "run `sysupgrade-rs doctor`",
            }
            .into(),
            forceable: false,
        }),
    })
}

/// The image's parts must be those of the slot, and fit.
fn unfit(machine: &Machine, manifest: &Manifest, parts: &Parts) -> Vec<Refusal> {
    let target = machine.name(machine.target());
    let mut names: Vec<&str> = manifest
        .parts
        .iter()
        .map(|part| part.slot_part.as_str())
        .collect();
    names.sort_unstable();
    if !parts.keys().map(String::as_str).eq(names.iter().copied()) {
        let found = names.join(", ");
        let wanted = parts
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        return vec![Refusal {
            reason: Reason::WrongParts,
            message: format!("the image has the parts {found}, a slot of this board has {wanted}"),
            found,
            wanted,
            hint: "the image was built for another storage layout".into(),
            forceable: false,
        }];
    }
    let too_large = |part: &PartInfo| {
        let capacity = parts.get(&part.slot_part)?.capacity();
        (part.raw_size > capacity).then(|| Refusal {
            reason: Reason::TooLarge,
            message: format!(
                "part {} has {} bytes, slot {target} has room for {capacity}",
                part.slot_part, part.raw_size
            ),
            found: part.raw_size.to_string(),
            wanted: format!("at most {capacity}"),
            hint: "a smaller image is needed".into(),
            forceable: false,
        })
    };
    manifest.parts.iter().filter_map(too_large).collect()
}

/// The archive must fit into the data directory, with something left.
fn no_space(machine: &Machine, keep: &KeepList) -> Result<Option<Refusal>, InstallError> {
    /// Left free for records and for the file system's own needs.
    const RESERVE: u64 = 64 << 10;
    let existing = machine
        .data
        .dir()
        .ancestors()
        .find(|dir| files::is_dir(dir));
    let free = files::free_space(existing.unwrap_or(&machine.root))?;
    let sizes = keep
        .paths()
        .map(|path| fs::symlink_metadata(machine.root.join(path.as_path())));
    let need = sizes
        .flatten()
        .fold(RESERVE, |sum, metadata| sum.saturating_add(metadata.len()));
    Ok((need > free).then(|| Refusal {
        reason: Reason::NoSpace,
        message: format!(
            "the kept configuration may need {need} bytes in {}, {free} are free",
            machine.data.dir().display()
        ),
        found: free.to_string(),
        wanted: format!("at least {need}"),
        hint: "free some space, or shorten the keep list".into(),
        forceable: false,
    }))
}

/// Steps 5 to 9.
fn write<R: Read>(
    upgrade: &mut Upgrade<'_>,
    image: Verified<R>,
    plan: Plan,
) -> Result<Done, InstallError> {
    let Upgrade {
        machine,
        parts,
        watch,
        ..
    } = upgrade;
    let (running, target) = (machine.running, machine.target());
    machine.transit(|state| state.begin_install(running))?;
    let mut installed = plan.installed;
    if machine.installed(running)?.is_none() {
        machine.set_installed(running, &factory(&installed))?;
    }
    machine.set_installed(target, &installed)?;

    let manifest = image.manifest().clone();
    let written = flash(machine, image, parts, plan.bytes, watch)?;
    read_back(machine, &manifest, parts, plan.bytes, watch)?;

    watch.phase(Phase::Config);
    let (archive, kept) = save_configuration(machine, plan.keep.as_ref(), &installed, watch)?;
    installed.archive = archive;
    empty_overlay(machine)?;
    machine.set_installed(target, &installed)?;

    watch.phase(Phase::Commit);
    watch.check()?;
    let tries = machine.board.boot.tries;
    machine.transit(|state| state.activate(running, tries))?;
    Ok(Done {
        version: installed.version,
        slot: machine.name(target).to_owned(),
        written,
        kept,
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
        confirm_within: successor.confirm_within,
    }
}

/// Step 6. The image is read to its end, so that one with anything wrong anywhere is never committed.
fn flash<R: Read>(
    machine: &Machine,
    mut image: Verified<R>,
    parts: &mut Parts,
    bytes: u64,
    watch: &mut Watch<'_>,
) -> Result<Written, InstallError> {
    watch.phase(Phase::Flash);
    let slot = machine.name(machine.target());
    let mut sum = Written::default();
    let mut meter = Meter::new(watch, Phase::Flash, bytes);
    while let Some(member) = image.next_member()? {
        match member {
            // The new defaults are for the plan; what is installed brings its own.
            Member::Config(mut config) => config.skip()?,
            Member::Part(mut part) => {
                let PartInfo {
                    slot_part,
                    raw_size,
                    ..
                } = part.part().clone();
                meter.part.clone_from(&slot_part);
                let Some(device) = parts.get_mut(&slot_part) else {
                    continue;
                }; // the plan has checked
                let written = device.write_image(&mut meter.on(&mut part), raw_size);
                let written = written.map_err(|error| match error {
                    FlashError::Source(error) => source_error(error, meter.watch),
                    source => InstallError::Flash {
                        part: slot_part,
                        slot: slot.to_owned(),
                        source,
                    },
                })?;
                sum.written += written.written;
                sum.unchanged += written.unchanged;
            }
        }
    }
    image.finish()?;
    Ok(sum)
}

/// Step 7.
fn read_back(
    machine: &Machine,
    manifest: &Manifest,
    parts: &mut Parts,
    bytes: u64,
    watch: &mut Watch<'_>,
) -> Result<(), InstallError> {
    watch.phase(Phase::ReadBack);
    let mut meter = Meter::new(watch, Phase::ReadBack, bytes);
    for part in &manifest.parts {
        let Some(device) = parts.get_mut(&part.slot_part) else {
            continue;
        };
        let slot = machine.name(machine.target()).to_owned();
        meter.part.clone_from(&part.slot_part);
        let mut hasher = Hasher::new();
        device
            .read_image(part.raw_size, &mut meter.on(&mut hasher))
            .map_err(|source| match source {
                FlashError::Source(_) if meter.watch.stopped() => InstallError::Stopped,
                source => InstallError::Flash {
                    part: part.slot_part.clone(),
                    slot: slot.clone(),
                    source,
                },
            })?;
        if hasher.finish() != part.raw_sha256 {
            return Err(InstallError::ReadBack {
                part: part.slot_part.clone(),
                slot,
            });
        }
    }
    Ok(())
}

/// Step 8: writes the archive, and reads it again from the medium before anything relies on it.
/// Without a keep list an archive left by an earlier run is removed: first boot must not find it.
fn save_configuration(
    machine: &Machine,
    keep: Option<&KeepList>,
    installed: &Installed,
    watch: &mut Watch<'_>,
) -> Result<(Option<ArchiveRef>, u64), InstallError> {
    let slot = machine.name(machine.target());
    let Some(keep) = keep else {
        machine.data.remove_archive(slot)?;
        return Ok((None, 0));
    };
    let defaults = machine.defaults();
    let source = archive::Source {
        root: &machine.root,
        keep,
        defaults: defaults.as_deref(),
        from_version: installed.from_version.as_deref().unwrap_or_default(),
        board: &machine.board.name,
    };
    let mut file = Hashing::new(machine.data.new_archive(slot)?);
    let summary = archive::write(&mut file, &source)?;
    let (file, written) = file.finish();
    file.commit()?;
    for notice in &summary.notices {
        watch.notice(notice.to_string());
    }

    let mut file = Hashing::new(machine.data.open_archive(slot)?);
    archive::verify(&mut file)?;
    if file.finish().1 != written {
        return Err(InstallError::ArchiveReadBack);
    }
    Ok((Some(written), summary.files))
}

/// The rest of step 8: what an earlier life of the target left in its overlay must not show through
/// the new system. First boot takes an overlay that is there as its own finished work.
fn empty_overlay(machine: &Machine) -> Result<(), InstallError> {
    let Some(overlay) = machine.overlay(machine.target()) else {
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
    ImageError::from_io(error).map_or_else(InstallError::Copy, InstallError::Image)
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

/// Who is told, and whether to go on.
pub struct Watch<'a> {
    /// Called for every event.
    pub tell: &'a mut dyn FnMut(Event),
    /// Set by a signal.
    pub stop: &'a AtomicBool,
}

impl Watch<'_> {
    fn phase(&mut self, phase: Phase) {
        (self.tell)(Event::Phase(phase));
    }

    fn notice(&mut self, text: String) {
        (self.tell)(Event::Notice(text));
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), InstallError> {
        if self.stopped() {
            Err(InstallError::Stopped)
        } else {
            Ok(())
        }
    }
}

/// Counts the bytes of a phase, reports them, and ends the copy when asked to stop.
struct Meter<'w, 'a> {
    watch: &'w mut Watch<'a>,
    phase: Phase,
    part: String,
    done: u64,
    total: u64,
}

impl<'w, 'a> Meter<'w, 'a> {
    fn new(watch: &'w mut Watch<'a>, phase: Phase, total: u64) -> Self {
        Self {
            watch,
            phase,
            part: String::new(),
            done: 0,
            total,
        }
    }

    /// The reader or writer that the bytes go through.
    fn on<'m, T>(&'m mut self, inner: T) -> Metered<'m, 'w, 'a, T> {
        Metered { meter: self, inner }
    }

    fn count(&mut self, bytes: usize) {
        self.done += bytes as u64;
        let (phase, part, done, total) = (self.phase, self.part.clone(), self.done, self.total);
        (self.watch.tell)(Event::Progress {
            phase,
            part,
            done,
            total,
        });
    }

    fn go_on(&self) -> io::Result<()> {
        if self.watch.stopped() {
            Err(io::Error::other("stopped on request"))
        } else {
            Ok(())
        }
    }
}

struct Metered<'m, 'w, 'a, T> {
    meter: &'m mut Meter<'w, 'a>,
    inner: T,
}

impl<T: Read> Read for Metered<'_, '_, '_, T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.meter.go_on()?;
        let count = self.inner.read(bytes)?;
        self.meter.count(count);
        Ok(count)
    }
}

impl<T: Write> Write for Metered<'_, '_, '_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.meter.go_on()?;
        let count = self.inner.write(bytes)?;
        self.meter.count(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A reader or writer that digests what goes through it.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::new(),
            size: 0,
        }
    }

    fn finish(self) -> (W, ArchiveRef) {
        (
            self.inner,
            ArchiveRef {
                size: self.size,
                sha256: self.hasher.finish(),
            },
        )
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
