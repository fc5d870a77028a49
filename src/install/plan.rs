//! Step 4: the rules that say no before the first write.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{InstallError, Misfit, Names, Parts, Wish};
use crate::board::Carrier;
use crate::boot::BootError;
use crate::config::Selection;
use crate::config::apply::To;
use crate::config::archive::{self, Source};
use crate::config::bundle::Scope;
use crate::config::engine::{self, Verdict};
use crate::config::forecast::{Forecast, forecast};
use crate::config::keep::KeepList;
use crate::config::report::Notice;
use crate::data::{ArchiveRef, DataError, Installed, Stage};
use crate::digest::{Digest, Hashing};
use crate::files::{self, FileError};
use crate::image::Tally;
use crate::image::candidate::{Contents, Part};
use crate::machine::{Identity, Machine, MachineError};
use crate::report::{Reason, Refusal, describe};
use crate::slots::{Standing, TransitionError};

/// What step 4 found out.
#[derive(Debug)]
pub struct Plan {
    /// What will be in the target slot.
    pub installed: Installed,
    /// Bytes of all parts together.
    pub bytes: u64,
    /// What would be fetched and copied; `None` if nobody has asked.
    pub tally: Option<Tally>,
    /// The files to carry; `None` without configuration.
    pub keep: Option<KeepList>,
    /// A ready archive to carry instead.
    pub archive: Option<PathBuf>,
    /// What of the configuration travels.
    pub scope: Scope,
    /// What will become of it; `None` if it is not kept, or if the image does not say its defaults.
    pub config: Option<Forecast>,
    /// What is damaged in the boot environment: the first write mends it.
    pub flaws: Vec<String>,
    /// Oddities of the keep list, and what was changed and stays behind.
    pub notices: Vec<Notice>,
    /// What the image is.
    pub contents: Contents,
    /// The configuration may go with it, as far as compatibility versions say.
    pub may_keep: bool,
    /// Rules that said no and were overridden by force.
    pub forced: Vec<Refusal>,
    /// Rules that say no: nothing will be installed.
    pub refusals: Vec<Refusal>,
}

impl Plan {
    /// True if disputes about the configuration will be decided for the owner.
    #[must_use]
    pub fn needs_review(&self) -> bool {
        let verdict = self.config.as_ref().map(|config| config.verdict);
        verdict == Some(Verdict::NeedsReview)
    }
}

/// Asks all rules, so that whoever is refused learns everything at once.
///
/// `new_defaults` is the image's `config.tar.gz`, if it has one.
pub(super) fn plan(
    machine: &mut Machine,
    contents: &Contents,
    new_defaults: Option<&[u8]>,
    parts: &Parts,
    (names, identity): (&Names, &Identity),
    wish: &Wish,
) -> Result<Plan, InstallError> {
    let mut refusals = Vec::new();
    let misfit = Misfit::of(contents, names, identity);
    refusals.extend(misfit.refusal(wish));
    refusals.extend(unready(machine)?);
    let flaws = machine.boot.flaws()?;
    refusals.extend(unfit(machine, contents, parts));
    let mut notices = Vec::new();
    let keep = match (&wish.archive, wish.keep) {
        (None, true) => Some(KeepList::read_with(&machine.root, wish.listing)?),
        _ => None,
    };
    let archive = match &wish.archive {
        Some(path) => ready_archive(machine, path, &mut refusals)?,
        None => None,
    };
    let scope = wish.scope.unwrap_or(machine.board.config.scope);
    if contents.engine == 0 {
        notices.extend(engine::absent(&machine.root, keep.is_some())?);
    }
    let is_kept = keep.is_some() || archive.is_some();
    let compat = is_kept.then(|| misfit.kept_compat().clone());
    let mut config = None;
    if !is_kept && !machine.data.is_shared() {
        // Nothing goes into the carrier; what an earlier run has left there must be removed.
        refusals.extend(no_room_in_carrier(machine, 0)?);
    }
    if let Some(keep) = &keep {
        keep.check(&machine.root)?;
        let defaults = machine.defaults();
        let selection = Selection::of(&machine.root, keep, defaults.as_deref(), scope)?;
        refusals.extend(nothing_kept(keep, &selection));
        let from_version = machine.running_version()?;
        let source = Source {
            root: &machine.root,
            keep,
            defaults: defaults.as_deref(),
            scope,
            from_version: &from_version,
            board: &machine.board.name,
        };
        let carried = match machine.data.is_shared() {
            true => None,
            false => Some(archive_size(&source)?),
        };
        let unfit = match carried {
            Some(size) => no_room_in_carrier(machine, size)?,
            None => no_space(machine, &selection)?,
        };
        if let (None, Some(image)) = (&unfit, new_defaults) {
            let scratch = machine.data.scratch();
            let to = To {
                version: &contents.version,
                compat: compat.as_ref(),
            };
            let forecast = forecast(&source, image, to, contents.engine, &scratch)?;
            refusals.extend(no_merge(&forecast));
            refusals.extend(no_space_for_result(machine, &forecast, carried)?);
            config = Some(forecast);
        }
        refusals.extend(unfit);
        notices.extend_from_slice(keep.notices());
        notices.extend_from_slice(selection.notices());
    }
    let installed = Installed {
        version: contents.version.clone(),
        security: contents.security,
        stage: Stage::Writing,
        note: None,
        from_version: Some(machine.running_version()?),
        archive: None,
        compat,
        confirm_within: wish
            .confirm_within
            .unwrap_or(machine.board.boot.confirm_within)
            .as_secs(),
    };
    refusals.extend(no_room_for_records(machine, &installed)?);
    let (forced, refusals): (Vec<_>, Vec<_>) = refusals
        .into_iter()
        .partition(|refusal| wish.forces(refusal));
    Ok(Plan {
        installed,
        bytes: contents.parts.iter().map(|part| part.size).sum(),
        tally: None,
        keep,
        archive,
        scope,
        config,
        flaws,
        notices,
        contents: contents.clone(),
        may_keep: misfit.may_keep(),
        forced,
        refusals,
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
fn unfit(machine: &Machine, contents: &Contents, parts: &Parts) -> Vec<Refusal> {
    let target = machine.name(machine.target());
    let mut names: Vec<&str> = contents
        .parts
        .iter()
        .map(|part| part.name.as_str())
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
            hint: "it was built for another storage layout: get the image for this board".into(),
            forceable: false,
        }];
    }
    let unfit = |part: &Part| {
        let capacity = match parts.get(&part.name)? {
            Ok(device) => device.capacity(),
            Err(error) => return Some(error.refusal(&part.name)),
        };
        (part.size > capacity).then(|| Refusal {
            reason: Reason::TooLarge,
            message: format!(
                "part {} has {} bytes, slot {target} has room for {capacity}",
                part.name, part.size
            ),
            found: part.size.to_string(),
            wanted: format!("at most {capacity}"),
            hint: "a smaller image is needed".into(),
            forceable: false,
        })
    };
    contents.parts.iter().filter_map(unfit).collect()
}

/// Left free for records and for the file system's own needs.
const RESERVE: u64 = 64 << 10;

/// An archive must fit into its carrier, which may be just large enough: it is made, and counted.
fn no_room_in_carrier(machine: &Machine, need: u64) -> Result<Option<Refusal>, InstallError> {
    let target = machine.name(machine.target());
    let place = machine.data.archive_place(target);
    let room = match machine.data.room(target) {
        Ok(room) => room,
        Err(DataError::Flash { source, .. }) => return Ok(Some(source.refusal("carrier"))),
        Err(error) => return Err(error.into()),
    };
    Ok((need > room).then(|| Refusal {
        reason: Reason::NoSpace,
        message: format!(
            "the kept configuration is an archive of {need} bytes, the carrier of slot {target} ({place}) has room for {room}"
        ),
        found: room.to_string(),
        wanted: format!("at least {need}"),
        hint: "shorten the keep list, or start the new version from its defaults with -n".into(),
        forceable: false,
    }))
}

/// A list that names nothing is a broken one, more likely than the wish to lose all settings. The list
/// itself, which always travels, is nothing that `-c` or `-o` would have kept.
fn nothing_kept(keep: &KeepList, selection: &Selection) -> Option<Refusal> {
    let listing = keep.listing();
    let nothing = match listing.changed {
        Some(_) => !listing.packages && keep.paths().next().is_none(),
        None => selection.paths().next().is_none(),
    };
    nothing.then(|| Refusal {
        reason: Reason::ConfigRefused,
        message: "no file would be kept: nothing that the lists name is there".into(),
        found: "0 files".into(),
        wanted: "at least one".into(),
        hint: "look at /etc/sysupgrade.conf and /lib/upgrade/keep.d, or start the new version from its defaults with -n".into(),
        forceable: false,
    })
}

/// An archive that somebody made before: it must be one, and fit.
fn ready_archive(
    machine: &Machine,
    path: &Path,
    refusals: &mut Vec<Refusal>,
) -> Result<Option<PathBuf>, InstallError> {
    let file = File::open(path).map_err(FileError::at("open", path))?;
    let size = file
        .metadata()
        .map_err(FileError::at("examine", path))?
        .len();
    if let Err(error) = archive::inspect(file) {
        refusals.push(Refusal {
            reason: Reason::ConfigRefused,
            message: format!("{}: {}", path.display(), describe(&error)),
            found: describe(&error),
            wanted: "a .tar.gz of configuration files".into(),
            hint: "make one with -b, or let the upgrade make its own, without -f".into(),
            forceable: false,
        });
        return Ok(None);
    }
    refusals.extend(no_room_for_archive(machine, size)?);
    Ok(Some(path.to_owned()))
}

/// Bytes of the archive that this upgrade would save.
fn archive_size(source: &Source<'_>) -> Result<u64, InstallError> {
    let mut archive = Hashing::new(io::sink());
    archive::write(&mut archive, source)?;
    let (_, size, _) = archive.finish();
    Ok(size)
}

/// A ready archive must fit where archives travel.
fn no_room_for_archive(machine: &Machine, size: u64) -> Result<Option<Refusal>, InstallError> {
    if !machine.data.is_shared() {
        return no_room_in_carrier(machine, size);
    }
    let target = machine.name(machine.target());
    let place = machine.data.archive_place(target);
    Ok(lacks_space(
        &place,
        machine.data.room(target)?,
        size.saturating_add(RESERVE),
    ))
}

/// The archive must fit into the data directory, with something left.
fn no_space(machine: &Machine, selection: &Selection) -> Result<Option<Refusal>, InstallError> {
    let target = machine.name(machine.target());
    let (place, free) = (
        machine.data.archive_place(target),
        machine.data.room(target)?,
    );
    let sizes = selection
        .paths()
        .map(|path| fs::symlink_metadata(machine.root.join(path.as_path())));
    let need = sizes
        .flatten()
        .fold(RESERVE, |sum, metadata| sum.saturating_add(metadata.len()));
    Ok(lacks_space(&place, free, need))
}

fn lacks_space(place: &str, free: u64, need: u64) -> Option<Refusal> {
    (need > free).then(|| Refusal {
        reason: Reason::NoSpace,
        message: format!(
            "the kept configuration may need {need} bytes in {place}, {free} are free"
        ),
        found: free.to_string(),
        wanted: format!("at least {need}"),
        hint: "free some space, or shorten the keep list".into(),
        forceable: false,
    })
}

/// A boot environment that holds the records, too, must have room for all that this upgrade may record.
fn no_room_for_records(
    machine: &Machine,
    installed: &Installed,
) -> Result<Option<Refusal>, InstallError> {
    let installed = Installed {
        archive: Some(ArchiveRef {
            size: u64::MAX,
            sha256: Digest([0; 32]),
        }),
        ..installed.clone()
    };
    let running = match machine.installed(machine.running)? {
        Some(running) => running,
        None => super::factory(&installed),
    };
    let [running, target] = [(machine.running, &running), (machine.target(), &installed)]
        .map(|(slot, installed)| (machine.name(slot), installed));
    match machine.data.check_room(&[running, target]) {
        Ok(()) => Ok(None),
        Err(DataError::Boot(BootError::Full { need, room, path })) => Ok(Some(Refusal {
            reason: Reason::NoSpace,
            message: format!(
                "{}: with the records of an upgrade the boot environment has up to {need} bytes, there is room for {room}",
                path.display()
            ),
            found: room.to_string(),
            wanted: format!("at least {need}"),
            hint: "remove variables that nobody needs with fw_setenv".into(),
            forceable: false,
        })),
        Err(error) => Err(error.into()),
    }
}

/// A merge that the first boot would refuse is refused before anything is written.
fn no_merge(forecast: &Forecast) -> Option<Refusal> {
    (forecast.verdict == Verdict::Refused).then(|| {
        let reasons = forecast.report.blocked.join("; ");
        Refusal {
            reason: Reason::ConfigRefused,
            message: format!("the configuration cannot be brought to the new version: {reasons}"),
            found: reasons,
            wanted: "a configuration that can be merged".into(),
            hint: "change what is named, or start the new version from its defaults with -n".into(),
            forceable: false,
        }
    })
}

/// The new configuration must fit where it will be, once what is there now is gone.
fn no_space_for_result(
    machine: &Machine,
    forecast: &Forecast,
    carried: Option<u64>,
) -> Result<Option<Refusal>, InstallError> {
    let Some(overlay) = machine
        .overlay(machine.target())
        .map_err(MachineError::from)?
    else {
        return Ok(None); // in place: the new root itself, which is not written yet
    };
    let free = files::free_space(&overlay)?.saturating_add(files::tree_size(&overlay)?);
    // Until it is confirmed, an archive that travels in the overlay lies there, too.
    let beside = match machine.spec(machine.target()).carrier {
        Some(Carrier::Overlay) => carried.unwrap_or_default(),
        _ => 0,
    };
    let need = forecast.space.saturating_add(RESERVE);
    let need = need.saturating_add(beside);
    Ok((need > free).then(|| Refusal {
        reason: Reason::NoSpace,
        message: format!(
            "the new configuration may need {need} bytes in {}, {free} can be free",
            overlay.display()
        ),
        found: free.to_string(),
        wanted: format!("at least {need}"),
        hint: "free some space, or shorten the keep list".into(),
        forceable: false,
    }))
}
