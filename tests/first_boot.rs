//! The first boot of a new system keeps its promise when it cannot do its work, and a way back is
//! open at every stage: the old system runs with its own configuration, to the last byte.

mod world;

use std::fs;
use std::path::Path;

use sysupgrade_rs::config::archive::{self, Source};
use sysupgrade_rs::config::bundle::Scope;
use sysupgrade_rs::config::keep::KeepList;
use sysupgrade_rs::data::What;
use sysupgrade_rs::files::trace;
use sysupgrade_rs::first_boot::{FirstBoot, FirstBootError, first_boot};
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::slots::Slot;

use world::router::{Booted, Result, Router};
use world::snapshot::{Entry, Snapshot};
use world::{System, World, describe, lived_in};

/// The configuration on its way into the second slot.
const ARCHIVE: &str = "data/sysupgrade-rs/archive-b.tar.gz";

/// A router that was lived in, off, with an image written to its other slot and committed.
struct Committed {
    world: World,
    image: Vec<u8>,
    /// What its disk holds.
    disk: Snapshot,
    /// What the old system shows.
    old_view: Snapshot,
}

impl Committed {
    /// Of an image that says its defaults, so that what is refused is refused before.
    fn new(new: &System) -> Result<Self> {
        Self::by(new, |_| Ok(()))
    }

    /// After the owner has done something else, too.
    fn by(new: &System, owner: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let world = World::new(&lived_in::system(1))?;
        let router = &world.router;
        boot(router)?;
        lived_in::generate(router.dir())?;
        lived_in::move_in(router.dir(), "one")?;
        router.write_back()?;
        lived_in::take_new(
            &world,
            &lived_in::system(2),
            "etc/config/network",
            "lan.mtu",
        )?;
        owner(router.dir())?;
        router.write_back()?;
        let old_view = router.view()?;
        let image = world.image(new)?;
        world::install(router, &image, true)?;
        router.off()?;
        let disk = router.disk()?;
        Ok(Self {
            world,
            image,
            disk,
            old_view,
        })
    }

    /// A router with that disk.
    fn router(&self) -> Result<Router> {
        Router::with_disk(&self.world.dir().join("trial"), &self.disk)
    }

    /// Complains unless the old system runs with its own configuration, and can work with it.
    fn check_old(&self, router: &Router) -> Result<()> {
        assert_eq!(router.running()?, Some(Slot::First));
        let view = router.view()?;
        assert!(
            view == self.old_view,
            "{}",
            view.differences(&self.old_view)
        );
        let (upper, disk) = (Path::new("data/overlay-a"), router.disk()?);
        let (found, before) = (disk.below(upper), self.disk.below(upper));
        assert!(found == before, "{}", found.differences(&before));
        let root = router.dir();
        let source = Source {
            root,
            keep: &KeepList::read(root)?,
            defaults: Some(&root.join("rom")),
            scope: Scope::Declared,
            from_version: "1",
            board: "virtual",
        };
        let mut backup = Vec::new();
        archive::write(&mut backup, &source)?;
        archive::verify(backup.as_slice())?;
        Ok(())
    }

    /// Complains unless the upgrade, run again, leads to the new system.
    fn upgrade_again(&self, router: &Router) -> Result<()> {
        if router.running()? == Some(Slot::First) {
            world::install(router, &self.image, true)?;
            assert_eq!(boot(router)?, Booted::Up(Slot::Second));
        }
        assert_eq!(router.running()?, Some(Slot::Second));
        lived_in::check_upgraded(&router.view()?);
        Ok(())
    }
}

/// Power on, as the boot scripts do it: exit code 22 of first boot means a reboot.
fn boot(router: &Router) -> Result<Booted> {
    router.boot(|| Ok(goes_on(&first_boot(&mut world::machine(router)?))))
}

fn goes_on(done: &std::result::Result<FirstBoot, FirstBootError>) -> bool {
    matches!(done, Ok(_) | Err(FirstBootError::Machine(_)))
}

/// Power on; with what first boot said.
fn boot_and_tell(
    router: &Router,
) -> Result<(Booted, std::result::Result<FirstBoot, FirstBootError>)> {
    let mut told = None;
    let booted = router.boot(|| {
        let done = first_boot(&mut world::machine(router)?);
        let goes_on = goes_on(&done);
        told = Some(done);
        Ok(goes_on)
    })?;
    Ok((booted, told.ok_or("the system panicked")?))
}

/// The words about a slot in the status of the running system.
fn status_of_other(router: &Router) -> Result<String> {
    let status = sysupgrade_rs::status::status(&mut world::machine(router)?)?;
    Ok(status.other.state)
}

// --- refused -----------------------------------------------------------------------------------

/// The first boot of `committed` refuses with these words, and the old system tells them.
fn refuses(committed: &Committed, words: &str) -> Result<()> {
    let router = &committed.router()?;
    let (booted, told) = boot_and_tell(router)?;
    assert_eq!(booted, Booted::Refused(Slot::Second));
    let error = told.expect_err("a refusal");
    assert!(matches!(error, FirstBootError::GivenUp { .. }), "{error}");
    let reason = describe(&error);
    assert!(reason.contains(words), "{reason}");
    let overlay = router.disk()?.below("data/overlay-b");
    assert!(overlay.0.is_empty(), "{:?}", overlay.0.keys());
    assert_eq!(boot(router)?, Booted::Up(Slot::First));
    committed.check_old(router)?;
    let status = status_of_other(router)?;
    assert!(status.contains(words), "{status}");
    let data = world::machine(router)?.data;
    let last = data.history()?.pop().ok_or("no history")?;
    assert_eq!(last.what, What::FirstBootFailed);
    assert!(last.message.contains(words), "{}", last.message);
    Ok(())
}

/// Version 2, whose image does not say its defaults: nobody can know before what it will refuse.
fn unforeseen() -> System {
    System {
        says_defaults: false,
        ..lived_in::system(2)
    }
}

#[test]
fn a_dispute_that_the_policy_forbids_gives_the_slot_up() -> Result<()> {
    let policy = "/etc/config/network auto merge=uci conflict=fail\n";
    let new = unforeseen().with("lib/upgrade/policy.d/image.conf", policy);
    refuses(&Committed::new(&new)?, "etc/config/network")
}

#[test]
fn accounts_without_a_root_give_the_slot_up() -> Result<()> {
    let committed = Committed::by(&unforeseen(), |root| {
        let passwd = fs::read_to_string(root.join("etc/passwd"))?;
        Ok(fs::write(
            root.join("etc/passwd"),
            passwd.replace(":0:0:", ":1:0:"),
        )?)
    })?;
    refuses(&committed, "root")
}

#[test]
fn damaged_steps_of_the_image_give_the_slot_up() -> Result<()> {
    let new = unforeseen().with("lib/upgrade/migrations.json", &lived_in::STEPS[..100]);
    refuses(
        &Committed::new(&new)?,
        "migration steps or their state cannot be read",
    )
}

#[test]
fn a_state_of_a_newer_format_gives_the_slot_up() -> Result<()> {
    let committed = Committed::by(&unforeseen(), |root| {
        let state = r#"{"format": 7, "applied": []}"#;
        Ok(fs::write(root.join("etc/sysupgrade/state.json"), state)?)
    })?;
    refuses(&committed, "format 7")
}

#[test]
fn a_step_without_a_way_back_gives_the_slot_up() -> Result<()> {
    let committed = Committed::by(&unforeseen(), |root| {
        let step = r#"{"id": "one-way", "component": "x", "seq": 4, "reversible": false,
            "steps": [{"op": "file.delete", "path": "/etc/x"}]}"#;
        let state = format!(r#"{{"format": 1, "applied": [{{"step": {step}}}]}}"#);
        Ok(fs::write(root.join("etc/sysupgrade/state.json"), state)?)
    })?;
    refuses(&committed, "one-way")
}

#[test]
fn an_archive_that_is_whole_but_not_what_the_install_saved_gives_the_slot_up() -> Result<()> {
    let other = Committed::by(&unforeseen(), |root| {
        Ok(fs::write(root.join("etc/config/added"), "config other\n")?)
    })?;
    let mut committed = Committed::new(&unforeseen())?;
    committed
        .disk
        .put(ARCHIVE, other.disk.0[Path::new(ARCHIVE)].clone());
    refuses(&committed, "the install saved one with")
}

// --- full disks --------------------------------------------------------------------------------

const NO_SPACE: &str = "No space left on device";

/// From this change on the disk stays full, or room is found for the next one.
fn spans(changes: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..changes).flat_map(|first| [first..first + 1, first..usize::MAX])
}

#[test]
fn a_disk_that_is_full_at_any_write_of_first_boot_costs_nothing() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    let data = router.dir().join("data");
    let (done, changes) = trace::full(&data, 0..0, || boot_and_tell(router));
    assert!(matches!(done?.1, Ok(FirstBoot::Applied(_))));
    let whole = router.disk()?.below("data/overlay-b/upper");
    assert!(changes > 100, "{changes}");
    let (mut given_up, mut undecided) = (0, 0);
    for span in spans(changes) {
        let router = &committed.router()?;
        let (done, _) = trace::full(&data, span.clone(), || boot_and_tell(router));
        let (booted, told) = done?;
        let Err(error) = told else {
            panic!("{span:?}: a write that failed was not told");
        };
        assert_eq!(booted, Booted::Refused(Slot::Second), "{span:?}");
        let reason = describe(&error);
        assert!(
            reason.contains(NO_SPACE) && reason.contains("/data/"),
            "{reason}"
        );
        let disk = router.disk()?;
        let upper = disk.below("data/overlay-b/upper");
        let names: Vec<_> = disk.below("data/overlay-b").0.into_keys().collect();
        assert!(names.is_empty() || upper == whole, "{span:?}: {names:?}");
        assert_eq!(disk.data(ARCHIVE), committed.disk.data(ARCHIVE), "{span:?}");
        let booted = boot(router)?;
        match error {
            FirstBootError::GivenUp { .. } => {
                given_up += 1;
                assert_eq!(booted, Booted::Up(Slot::First), "{span:?}: {reason}");
                committed.check_old(router)?;
                let status = status_of_other(router)?;
                assert!(status.contains(NO_SPACE), "{span:?}: {status}");
            }
            // Not even the record of giving up could be written, or only that of success: another
            // try, and there is room now.
            FirstBootError::Undecided { .. } => undecided += 1,
            FirstBootError::Machine(_) => panic!("{span:?}: went on with {reason}"),
        }
        committed.upgrade_again(router)?;
    }
    assert!(
        given_up > changes / 2 && undecided > 0,
        "{given_up}, {undecided}"
    );
    Ok(())
}

#[test]
fn a_disk_that_stays_full_uses_the_tries_up_and_the_old_system_runs() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    let data = router.dir().join("data");
    let (boots, _) = trace::full(&data, 0..usize::MAX, || -> Result<_> {
        (0..4).map(|_| boot(router)).collect::<Result<Vec<_>>>()
    });
    let refused = Booted::Refused(Slot::Second);
    assert_eq!(boots?, [refused, refused, refused, Booted::Up(Slot::First)]);
    committed.check_old(router)?;
    assert_eq!(boot(router)?, Booted::Up(Slot::First));
    committed.upgrade_again(router)
}

#[test]
fn a_disk_that_is_full_at_any_write_of_a_plan_costs_nothing() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    world::install(router, &committed.image, true).expect_err("on trial");
    boot(router)?;
    world::go_back(router)?;
    assert_eq!(boot(router)?, Booted::Up(Slot::First));
    let data = router.dir().join("data");
    let before = router.disk()?;
    let (done, changes) = trace::full(&data, 0..0, || world::plan(router, &committed.image));
    done?;
    assert!(changes > 50, "{changes}");
    for span in spans(changes) {
        let plan = || world::plan(router, &committed.image);
        let (done, _) = trace::full(&data, span.clone(), plan);
        let Err(error) = done else {
            panic!("{span:?}: a write that failed was not told");
        };
        let error = describe(&*error);
        let what = ["/data/", "cannot write the configuration archive"];
        assert!(
            error.contains(NO_SPACE) && what.iter().any(|what| error.contains(what)),
            "{span:?}: {error}"
        );
        let after = router.disk()?;
        assert!(after == before, "{span:?}: {}", after.differences(&before));
    }
    committed.upgrade_again(router)
}

#[test]
fn a_configuration_larger_than_the_disk_is_refused_before_anything_is_written() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    boot(router)?;
    world::go_back(router)?;
    assert_eq!(boot(router)?, Booted::Up(Slot::First));
    let huge = fs::File::create(router.dir().join("etc/config/huge"))?;
    huge.set_len(1 << 42)?;
    let flash = || Snapshot::read(&router.dir().join("flash"));
    let before = flash()?;
    let error = world::install(router, &committed.image, true).expect_err("no space");
    let error = error.downcast::<sysupgrade_rs::install::InstallError>()?;
    let sysupgrade_rs::install::InstallError::Refused(refusals) = *error else {
        panic!("{error}");
    };
    let reasons: Vec<_> = refusals.iter().map(|refusal| refusal.reason).collect();
    assert_eq!(reasons, [Reason::NoSpace]);
    assert!(flash()? == before);
    Ok(())
}

// --- the way back ------------------------------------------------------------------------------

/// Goes back, and the old system is as it was.
fn goes_back(committed: &Committed, router: &Router) -> Result<()> {
    world::go_back(router)?;
    assert_eq!(boot(router)?, Booted::Up(Slot::First));
    committed.check_old(router)?;
    committed.upgrade_again(router)
}

#[test]
fn a_way_back_is_open_before_the_first_boot() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    // The change of slots is called off by the old system, which still runs.
    let router = &committed.router()?;
    boot(router)?;
    world::go_back(router)?;
    boot(router)?;
    world::install(router, &committed.image, true)?;
    goes_back(&committed, router)?;
    // The new system never comes as far as its first boot.
    let router = &committed.router()?;
    for _ in 0..3 {
        assert_eq!(router.choose()?, Slot::Second);
    }
    assert_eq!(boot(router)?, Booted::Up(Slot::First));
    committed.check_old(router)?;
    let status = status_of_other(router)?;
    assert!(
        status.contains("never got as far as its first boot"),
        "{status}"
    );
    committed.upgrade_again(router)
}

#[test]
fn a_way_back_is_open_after_the_first_boot() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    assert_eq!(boot(router)?, Booted::Up(Slot::Second));
    goes_back(&committed, router)
}

#[test]
fn a_way_back_is_open_after_a_confirm_was_refused() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    router.boot(|| Ok(true))?; // boot scripts without a first boot
    world::confirm(router).expect_err("nothing was brought over");
    goes_back(&committed, router)
}

#[test]
fn a_way_back_is_open_after_edits_in_the_new_system() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    assert_eq!(boot(router)?, Booted::Up(Slot::Second));
    lived_in::move_in(router.dir(), "two")?;
    router.write_back()?;
    goes_back(&committed, router)
}

#[test]
fn a_way_back_is_open_after_it_was_confirmed() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    assert_eq!(boot(router)?, Booted::Up(Slot::Second));
    assert!(world::confirm(router)?);
    lived_in::move_in(router.dir(), "two")?;
    router.write_back()?;
    world::go_back(router)?;
    assert_eq!(boot(router)?, Booted::Up(Slot::First));
    committed.check_old(router)
}

#[test]
fn a_way_back_to_an_upgraded_system_is_open_after_the_next_install() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    assert_eq!(boot(router)?, Booted::Up(Slot::Second));
    world::confirm(router)?;
    lived_in::move_in(router.dir(), "two")?;
    router.write_back()?;
    let view = router.view()?;
    let upper = || -> Result<_> { Ok(router.disk()?.below("data/overlay-b")) };
    let before = upper()?;
    world::install(router, &committed.world.image(&lived_in::system(3))?, true)?;
    assert_eq!(boot(router)?, Booted::Up(Slot::First));
    lived_in::check_way_back(&router.view()?);
    world::go_back(router)?;
    assert_eq!(boot(router)?, Booted::Up(Slot::Second));
    assert!(router.view()? == view && upper()? == before);
    Ok(())
}

#[test]
fn a_trial_that_cannot_take_the_lock_does_not_go_on_without_its_configuration() -> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    let refused = router.boot(|| {
        let run = router.dir().join("run/sysupgrade-rs");
        fs::write(&run, "in the place of the directory")?;
        let error = first_boot(&mut world::machine(router)?).expect_err("no lock");
        assert!(matches!(error, FirstBootError::Undecided { .. }), "{error}");
        fs::remove_file(run)?;
        Ok(false)
    })?;
    assert_eq!(refused, Booted::Refused(Slot::Second));
    assert_eq!(boot(router)?, Booted::Up(Slot::Second));
    lived_in::check_upgraded(&router.view()?);
    Ok(())
}

// --- nothing to do -----------------------------------------------------------------------------

#[test]
fn a_first_boot_with_nothing_to_do_reads_the_boot_state_and_a_record_and_changes_nothing()
-> Result<()> {
    let committed = Committed::new(&lived_in::system(2))?;
    let router = &committed.router()?;
    assert_eq!(boot(router)?, Booted::Up(Slot::Second));
    world::confirm(router)?;
    let mut machine = world::machine(router)?;
    // Were anything else read, it would be missed.
    let record = format!("data/sysupgrade-rs/slot-{}.json", router.name(Slot::Second));
    for (path, entry) in Snapshot::read(router.dir())?.0.iter().rev() {
        let place = router.dir().join(path);
        let needed = [Path::new("flash/env"), Path::new(&record)];
        match entry {
            Entry::Dir { .. } if needed.iter().any(|needed| needed.starts_with(path)) => {}
            Entry::Dir { .. } => fs::remove_dir(place)?,
            _ if needed.contains(&path.as_path()) => {}
            _ => fs::remove_file(place)?,
        }
    }
    first_boot(&mut machine)?; // makes the lock file, which is in memory
    let (done, changes) = trace::record(|| first_boot(&mut machine));
    assert!(matches!(done?, FirstBoot::Settled(None)));
    assert_eq!(changes, []);
    Ok(())
}
