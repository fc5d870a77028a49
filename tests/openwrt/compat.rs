//! A configuration bears the compatibility version of the form that it has: the image's once the image
//! has migrated it, the one of before where it was only forced, and never that of an old backup.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sysupgrade_rs::config::apply::reports;
use sysupgrade_rs::config::report::NoticeKind;
use sysupgrade_rs::config::restore::{Restored, restore};
use sysupgrade_rs::data::Installed;
use sysupgrade_rs::health::Before;
use sysupgrade_rs::install::{self, InstallError, Plan, Upgrade, Watch, Wish};
use sysupgrade_rs::machine::Identity;
use sysupgrade_rs::system;

use crate::world::router::{Booted, Result};
use crate::world::{self, System, World};

const PACKAGE: &str = "etc/config/system";

/// As a first boot makes it, and an owner has left it.
const OWN: &str = "# my router\nconfig system\n\toption hostname 'attic'\n\toption compat_version '1.1'\n\tlist note 'a'\n\nconfig timeserver 'ntp'\n\toption enabled '0'\n";

/// A system whose form is this version; `None`: it does not say.
fn system(version: u8, compat: Option<&str>) -> System {
    let compat = compat.map_or_else(String::new, |compat| {
        format!("\toption compat_version '{compat}'\n")
    });
    let mut system = System::new(version).with(
        PACKAGE,
        &format!("config system\n\toption hostname 'router'\n{compat}"),
    );
    system.says_defaults = true;
    system
}

/// A router of compatibility version 1.1 with its owner's configuration, running.
fn lived_in() -> Result<World> {
    let world = World::new(&system(1, Some("1.1")))?;
    boot(&world)?;
    fs::write(world.router.dir().join(PACKAGE), OWN)?;
    world.router.write_back()?;
    Ok(world)
}

fn boot(world: &World) -> Result<Booted> {
    let router = &world.router;
    router.boot(|| world::first_boot(router))
}

/// An image of this compatibility version, that migrates from these.
fn image(world: &World, system: &System, compat: &str, from: &[&str]) -> Result<Vec<u8>> {
    world.image_with(system, &|spec| {
        compat.clone_into(&mut spec.compat);
        spec.migrates_from = from.iter().map(|from| (*from).to_owned()).collect();
    })
}

fn keep() -> Wish {
    Wish {
        keep: true,
        ..Wish::default()
    }
}

fn upgrade<T>(
    world: &World,
    wish: Wish,
    work: impl FnOnce(&mut Upgrade<'_>) -> std::result::Result<T, InstallError>,
) -> Result<T> {
    let mut machine = world::machine(&world.router)?;
    let (mut tell, stop) = (|_| (), AtomicBool::new(false));
    let mut upgrade = Upgrade {
        lock: world::lock(&machine)?,
        trust: system::open_trust(&machine, 0)?,
        parts: system::open_parts(&machine, machine.target()),
        machine: &mut machine,
        wish,
        before: Before::default(),
        watch: Watch::new(&mut tell, &stop),
    };
    Ok(work(&mut upgrade)?)
}

/// Plans, installs and starts it. Complains unless first boot does with the configuration what was
/// planned, if a plan was made.
fn upgraded(world: &World, image: &[u8], wish: &Wish) -> Result<Plan> {
    let (plan, _) = upgrade(world, wish.clone(), |upgrade| {
        install::examine(upgrade, image)
    })?;
    upgrade(world, wish.clone(), |upgrade| {
        install::install(upgrade, image)
    })?;
    world.router.off()?;
    assert!(matches!(boot(world)?, Booted::Up(_)));
    if let Some(config) = &plan.config {
        let mut report = reports::latest(world.router.dir())?.ok_or("no report")?;
        report.archive = None;
        assert_eq!(report, config.report);
    }
    Ok(plan)
}

fn compat(world: &World) -> Result<String> {
    Ok(Identity::read(world.router.dir())?.compat.to_string())
}

fn package(root: &Path) -> Result<String> {
    Ok(fs::read_to_string(root.join(PACKAGE))?)
}

fn steps(world: &World) -> Result<Vec<(String, Vec<String>)>> {
    let report = reports::latest(world.router.dir())?.ok_or("no report")?;
    let steps = report.steps.into_iter();
    Ok(steps.map(|step| (step.id, step.touched)).collect())
}

fn step(id: &str) -> (String, Vec<String>) {
    let place = "etc/config/system#@system[0].compat_version".to_owned();
    (id.to_owned(), vec![place])
}

#[test]
fn a_migrated_configuration_bears_the_version_of_the_image_and_keeps_all_else() -> Result<()> {
    // What the image's own defaults say does not matter, nor whether it says them before.
    for (said, says_defaults) in [(Some("1.2"), true), (None, true), (Some("1.2"), false)] {
        let world = lived_in()?;
        let mut new = system(2, said);
        new.says_defaults = says_defaults;
        let image = image(&world, &new, "1.2", &["1.0", "1.1"])?;
        upgraded(&world, &image, &keep())?;
        let expected = OWN.replace("'1.1'", "'1.2'");
        assert_eq!(package(world.router.dir())?, expected, "{said:?}");
        assert_eq!(steps(&world)?, [step("compat_version 1.1 -> 1.2")]);
        // The new form is what the next upgrade starts from.
        let machine = world::machine(&world.router)?;
        let record = || machine.installed(machine.running);
        assert!(record()?.is_some_and(|record| record.compat.is_some()));
        assert!(world::confirm(&world.router)?);
        assert!(record()?.is_some_and(|record| record.compat.is_none()));
        let next =
            world.image_with(&system(3, said), &|spec| "1.2".clone_into(&mut spec.compat))?;
        upgraded(&world, &next, &keep())?;
        assert_eq!(compat(&world)?, "1.2");
        assert_eq!(steps(&world)?, []);
    }
    Ok(())
}

#[test]
fn a_configuration_that_says_no_version_gets_the_one_it_was_migrated_to() -> Result<()> {
    let world = World::new(&system(1, None))?;
    boot(&world)?;
    let image = image(&world, &system(2, None), "1.1", &["1.0"])?;
    upgraded(&world, &image, &keep())?;
    assert_eq!(
        package(world.router.dir())?,
        "config system\n\toption hostname 'router'\n\toption compat_version '1.1'\n"
    );
    Ok(())
}

#[test]
fn a_default_that_nobody_edited_is_still_one_after_a_migration() -> Result<()> {
    let world = World::new(&system(1, None))?;
    boot(&world)?;
    let migrated = image(&world, &system(2, Some("1.1")), "1.1", &["1.0"])?;
    upgraded(&world, &migrated, &keep())?;
    assert!(world::confirm(&world.router)?);
    let mut next = system(3, Some("1.1"));
    next = next.with(
        PACKAGE,
        "config system\n\toption hostname 'third'\n\toption compat_version '1.1'\n",
    );
    upgraded(&world, &image(&world, &next, "1.1", &[])?, &keep())?;
    assert!(package(world.router.dir())?.contains("'third'"));
    Ok(())
}

#[test]
fn a_default_that_no_image_ships_is_migrated_with_what_became_of_it() -> Result<()> {
    let mut old = system(1, None);
    old.root.remove(PACKAGE);
    let mut new = system(2, None);
    new.root.remove(PACKAGE);
    let world = World::new(&old)?;
    boot(&world)?;
    let root = world.router.dir();
    let stored = root.join("etc/sysupgrade/baseline").join(PACKAGE);
    for place in [root.join(PACKAGE), stored.clone()] {
        fs::create_dir_all(place.parent().ok_or("no parent")?)?;
        fs::write(place, "config system\n\toption hostname 'made'\n")?;
    }
    world.router.write_back()?;
    upgraded(&world, &image(&world, &new, "1.1", &["1.0"])?, &keep())?;
    let expected = "config system\n\toption hostname 'made'\n\toption compat_version '1.1'\n";
    assert_eq!(package(root)?, expected);
    assert_eq!(fs::read_to_string(stored)?, expected);
    Ok(())
}

#[test]
fn a_configuration_that_was_only_forced_keeps_its_version_whatever_the_image_ships() -> Result<()> {
    let ignored = Wish {
        ignore_minor_compat: true,
        ..keep()
    };
    let forced = Wish {
        force: true,
        ..keep()
    };
    for wish in [ignored, forced] {
        // The old default says nothing: by the rules of a merge the new one would win.
        let world = World::new(&system(1, None))?;
        boot(&world)?;
        let image = image(&world, &system(2, Some("1.2")), "1.2", &[])?;
        upgraded(&world, &image, &wish)?;
        assert_eq!(compat(&world)?, "1.0", "{wish:?}");
        assert_eq!(steps(&world)?, []);
    }
    Ok(())
}

#[test]
fn an_image_that_ships_no_version_takes_none_away() -> Result<()> {
    let world = lived_in()?;
    let image = image(&world, &system(2, None), "1.1", &[])?;
    upgraded(&world, &image, &keep())?;
    assert_eq!(package(world.router.dir())?, OWN);
    assert_eq!(steps(&world)?, []);
    Ok(())
}

#[test]
fn a_system_that_starts_from_its_defaults_has_the_version_that_these_say() -> Result<()> {
    let world = lived_in()?;
    let image = image(&world, &system(2, Some("1.2")), "1.2", &["1.1"])?;
    let plan = upgraded(&world, &image, &Wish::default())?;
    assert_eq!(plan.installed.compat, None);
    assert_eq!(compat(&world)?, "1.2");
    Ok(())
}

#[test]
fn a_ready_archive_brings_no_version_of_its_own() -> Result<()> {
    for (own, from, expected) in [("1.1", &[][..], "1.1"), ("1.2", &["1.1"], "1.2")] {
        let world = lived_in()?;
        let path = world.dir().join("backup.tar.gz");
        fs::write(&path, backup("config system\n\toption hostname 'old'\n")?)?;
        let wish = Wish {
            archive: Some(path),
            ..keep()
        };
        upgraded(&world, &image(&world, &system(2, None), own, from)?, &wish)?;
        let expected = format!(
            "config system\n\toption hostname 'old'\n\toption compat_version '{expected}'\n"
        );
        assert_eq!(package(world.router.dir())?, expected);
    }
    Ok(())
}

#[test]
fn records_from_before_there_were_versions_in_them_are_read() {
    let old = json!({"version": "1", "security": 0, "stage": "good", "confirm_within": 600});
    let record: Installed = serde_json::from_value(old.clone()).expect("an old record");
    assert_eq!(record.compat, None);
    assert_eq!(serde_json::to_value(record).expect("a record"), old);
    let mut bad = old;
    bad["compat"] = "new".into();
    serde_json::from_value::<Installed>(bad).expect_err("no version");
}

// --- backups -----------------------------------------------------------------------------------

/// A backup that stock tools made of a system with this package.
fn backup(package: &str) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let files = [
        ("etc/config/network", "config x\n"),
        (PACKAGE, package),
        ("etc/hosts", ""),
    ];
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes())?;
    }
    Ok(tar.into_inner()?.finish()?)
}

/// Restores a backup over a system, both with this package; `None`: it has none.
fn restored(own: Option<&str>, source: impl Read) -> Result<(String, Restored)> {
    let root = tempfile::tempdir()?;
    fs::create_dir_all(root.path().join("etc/config"))?;
    if let Some(own) = own {
        fs::write(root.path().join(PACKAGE), own)?;
    }
    let told = restore(root.path(), None, source)?;
    Ok((package(root.path())?, told))
}

fn notices(told: &Restored) -> Vec<(NoticeKind, &str, Option<&str>)> {
    let notices = told.notices.iter();
    notices
        .map(|notice| (notice.kind, notice.path.as_str(), notice.locus.as_deref()))
        .collect()
}

#[test]
fn a_restored_backup_does_not_bring_its_version_back() -> Result<()> {
    let stays = (
        NoticeKind::CompatStays,
        PACKAGE,
        Some("@system[0].compat_version"),
    );
    let old = "# old\nconfig system\n\toption hostname 'old'\n";
    let (found, told) = restored(Some(OWN), &*backup(old)?)?;
    assert_eq!(found, format!("{old}\toption compat_version '1.1'\n"));
    assert_eq!(notices(&told), [stays]);
    assert_eq!(told.paths.len(), 3);
    assert!(!told.needs_review());

    let newer = "config system\n\toption compat_version '2.0' # big\n\toption hostname 'new'\n";
    let (found, told) = restored(Some("config system\n"), &*backup(newer)?)?;
    assert_eq!(found, newer.replace("2.0", "1.0"));
    assert_eq!(notices(&told), [stays]);
    Ok(())
}

#[test]
fn a_backup_of_the_same_version_is_restored_to_the_last_byte() -> Result<()> {
    let broken = "config system 'a b c\n";
    for (own, backed_up) in [
        (
            Some(OWN),
            "config system\n\n\toption   compat_version \"1.1\"\n",
        ),
        (
            Some("config system\n\toption compat_version '1.0'\n"),
            "config system\n",
        ),
        // No version to keep, or no place to keep it in.
        (None, OWN),
        (Some(broken), OWN),
        (Some(OWN), broken),
        (Some(OWN), "config timeserver 'ntp'\n"),
    ] {
        let (found, told) = restored(own, &*backup(backed_up)?)?;
        assert_eq!(found, backed_up);
        assert_eq!(notices(&told), []);
    }
    Ok(())
}

#[test]
fn a_file_that_is_too_long_for_a_package_is_restored_whole() -> Result<()> {
    let long = format!("{OWN}{}", "# x\n".repeat(300_000));
    let (found, told) = restored(Some("config system\n"), &*backup(&long)?)?;
    assert!(found == long);
    assert_eq!(notices(&told), []);
    Ok(())
}

// --- images that do not say what is in them -----------------------------------------------------

#[test]
fn an_image_without_engine_is_told_of_before_with_the_steps_that_it_may_not_undo() -> Result<()> {
    let world = lived_in()?;
    let steps = json!({"format": 1, "steps": [
        {"id": "hostname-note", "component": "system", "seq": 1, "steps":
            [{"op": "uci.delete_option", "package": "system", "section": "@system", "option": "note"}]},
    ]});
    let with_step = system(2, None).with("lib/upgrade/migrations.json", &steps.to_string());
    upgraded(&world, &image(&world, &with_step, "1.1", &[])?, &keep())?;
    assert!(world::confirm(&world.router)?);

    let mut stock = system(3, None);
    stock.says_defaults = false;
    let bare = world.image_with(&stock, &|spec| {
        "1.1".clone_into(&mut spec.compat);
        spec.engine = 0;
    })?;
    let told = |wish: Wish, image: &[u8]| -> Result<Vec<(NoticeKind, String)>> {
        let (plan, _) = upgrade(&world, wish, |upgrade| install::examine(upgrade, image))?;
        let notices = plan.notices.into_iter();
        let notices = notices.map(|notice| (notice.kind, notice.path));
        Ok(notices
            .filter(|(kind, _)| *kind != NoticeKind::NotKept)
            .collect())
    };
    let none = (NoticeKind::NoEngine, String::new());
    let stays = (NoticeKind::StepStays, "hostname-note".to_owned());
    assert_eq!(told(keep(), &bare)?, [none.clone(), stays]);
    assert_eq!(told(Wish::default(), &bare)?, [none]);
    let good = image(&world, &stock, "1.1", &[])?;
    assert_eq!(told(keep(), &good)?, []);
    Ok(())
}
