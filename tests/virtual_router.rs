//! The virtual router of tests and demo does what the real thing would.

mod world;

use std::fs;
use std::path::Path;

use sysupgrade_rs::boot::{Bootloader, GrubEnv};
use sysupgrade_rs::slots::{BootState, Condition, Slot};
use world::router::{Booted, Result, Router};
use world::snapshot::Snapshot;

/// A router whose slot a holds a root of these files.
fn router(dir: &Path, files: &[(&str, &str)]) -> Result<Router> {
    let router = Router::at(dir)?;
    router.create(b"kernel", &root_part(files)?, 32 << 10)?;
    Ok(router)
}

fn root_part(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let tree = tempfile::tempdir()?;
    for (path, text) in files {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().ok_or("a file in a tree")?)?;
        fs::write(path, text)?;
    }
    Snapshot::read(tree.path())?.to_tar()
}

fn environment(router: &Router) -> GrubEnv {
    GrubEnv::new(
        router.dir().join("flash/env"),
        ["a".to_owned(), "b".to_owned()],
    )
}

#[test]
fn edits_of_the_running_system_are_there_again_after_a_power_cycle() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let router = router(
        dir.path(),
        &[
            ("etc/config/network", "default"),
            ("etc/gone/below", "x"),
            ("etc/kind/below", "y"),
            ("etc/same", "z"),
        ],
    )?;
    let up = || router.boot(|| Ok(true));
    assert_eq!(up()?, Booted::Up(Slot::First));
    let etc = dir.path().join("etc");
    fs::write(etc.join("config/network"), "edited")?;
    fs::write(etc.join("config/new"), "new")?;
    fs::remove_dir_all(etc.join("gone"))?;
    fs::remove_dir_all(etc.join("kind"))?;
    fs::write(etc.join("kind"), "a file now")?;
    let edited = Snapshot::read(&etc)?;
    router.off()?;
    assert!(!etc.exists(), "a router without power shows nothing");

    up()?;
    let found = Snapshot::read(&etc)?;
    assert_eq!(found, edited, "\n{}", found.differences(&edited));
    let upper = Snapshot::read(&router.upper(Slot::First)?)?;
    assert!(
        upper.data("etc/same").is_none(),
        "only what differs is in the overlay"
    );
    Ok(())
}

#[test]
fn a_trial_is_counted_before_the_system_starts_and_ends_with_its_tries() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let router = router(dir.path(), &[("etc/version", "1")])?;
    let mut broken = root_part(&[("broken", "")])?;
    broken.resize(32 << 10, 0xff);
    fs::write(router.part(Slot::Second, "root")?, broken)?;
    environment(&router).store(&BootState {
        primary: Slot::Second,
        conditions: [Condition::Good, Condition::Trial(2)],
    })?;
    let boot = || router.boot(|| Ok(true));
    assert_eq!(boot()?, Booted::Panicked(Slot::Second));
    assert_eq!(
        environment(&router).load()?.condition(Slot::Second),
        Condition::Trial(1)
    );
    assert_eq!(boot()?, Booted::Panicked(Slot::Second));
    assert_eq!(boot()?, Booted::Up(Slot::First));
    Ok(())
}
