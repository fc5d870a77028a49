//! A small world for tests: a virtual router in a temporary directory, a key it trusts, and images
//! for it.
//!
//! The router is worked by the library, in this process, so that what it writes can be recorded.
#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]

mod gpt;
pub mod lived_in;
pub mod loader;
pub mod router;
pub mod snapshot;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use sysupgrade_rs::data::What;
use sysupgrade_rs::files;
use sysupgrade_rs::first_boot::{self, FirstBootError};
use sysupgrade_rs::health::Before;
use sysupgrade_rs::image::{self, Encoding};
use sysupgrade_rs::install::{self, Done, InstallError, Plan, Upgrade, Watch, Wish};
use sysupgrade_rs::machine::{Lock, Machine, MachineError};
use sysupgrade_rs::trust::usign::SecretKey;
use sysupgrade_rs::{system, trial};
use tempfile::TempDir;

use router::{Result, Router};
use snapshot::Snapshot;

/// Size of a part.
pub const PART_SIZE: usize = 32 << 10;

/// Block size of images, the smallest there is.
const BLOCK_SIZE: u32 = 4096;

/// What an image installs.
#[derive(Clone)]
pub struct System {
    pub version: u8,
    pub kernel: Vec<u8>,
    pub root: Snapshot,
    /// Its image says its defaults, so that what becomes of the configuration is planned.
    pub says_defaults: bool,
}

impl System {
    /// Version `version` of a system of a few files, some of which never change.
    pub fn new(version: u8) -> Self {
        let key = secret_key();
        let id = key.public().id();
        let system = Self {
            version,
            kernel: kernel(version),
            root: Snapshot::default(),
            says_defaults: false,
        };
        system
            .with("etc/os-release", &format!("VERSION_ID=\"{version}\"\n"))
            .with("etc/banner", &format!("Welcome to version {version}.\n"))
            .with("etc/config/network", "option proto 'dhcp'\n")
            .with(
                "etc/config/system",
                &format!("option hostname 'router{version}'\n"),
            )
            .with(
                "etc/config/wireless",
                &format!("option channel '{version}'\n"),
            )
            .with("etc/config/telnet", "option enabled '1'\n")
            .with("etc/passwd", "root:x:0:0:root:/root:/bin/ash\n")
            .with("lib/upgrade/keep.d/base", "/etc/config/\n/etc/passwd\n")
            .with(
                &format!("etc/sysupgrade-rs/keys/{id}"),
                &key.public().to_text("test key"),
            )
    }

    /// With this file in its root.
    pub fn with(mut self, path: &str, text: &str) -> Self {
        self.root.put_file(path, 0o644, text);
        self
    }

    /// The bytes of its root part.
    pub fn root_part(&self) -> Result<Vec<u8>> {
        self.root.to_tar()
    }
}

/// Three pages, of which a new version changes the first and the last.
fn kernel(version: u8) -> Vec<u8> {
    let mut kernel = vec![0x90; 3 * 4096];
    kernel[..4096].fill(version);
    kernel[2 * 4096..].fill(version);
    kernel
}

/// The key that signs images here.
pub fn secret_key() -> SecretKey {
    SecretKey::from_seed(*b"test key", &[7; 32])
}

/// A directory that needs no disk, if the system has one.
pub fn temporary_directory() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    Ok(match tempfile::tempdir_in(memory) {
        Ok(dir) => dir,
        Err(_) => tempfile::tempdir()?,
    })
}

/// A router and what lies around it.
pub struct World {
    dir: TempDir,
    pub router: Router,
}

impl World {
    /// A router as it leaves the factory with `system` in its first slot. Power is off.
    pub fn new(system: &System) -> Result<Self> {
        let dir = temporary_directory()?;
        let router = Router::at(&dir.path().join("router"))?;
        Self::with(dir, router, system)
    }

    /// The same with parts of this size.
    pub fn sized(system: &System, part_size: usize) -> Result<Self> {
        let dir = temporary_directory()?;
        let router = Router::at(&dir.path().join("router"))?;
        router.create(&system.kernel, &system.root_part()?, part_size)?;
        Ok(Self { dir, router })
    }

    /// The same with a router of another kind, whose directory is in `dir`.
    pub fn with(dir: TempDir, router: Router, system: &System) -> Result<Self> {
        router.create(&system.kernel, &system.root_part()?, PART_SIZE)?;
        Ok(Self { dir, router })
    }

    /// A place for files beside the router.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A signed image.
    pub fn image(&self, system: &System) -> Result<Vec<u8>> {
        self.image_with(system, &|_| ())
    }

    /// A signed image that was asked for a little differently.
    pub fn image_with(
        &self,
        system: &System,
        change: &dyn Fn(&mut image::Spec),
    ) -> Result<Vec<u8>> {
        let part = |name: &str, bytes: &[u8]| -> Result<image::PartSource> {
            let path = self.dir.path().join(name);
            fs::write(&path, bytes)?;
            Ok(image::PartSource {
                name: name.to_owned(),
                path,
            })
        };
        let defaults = self.dir.path().join("defaults");
        if system.says_defaults {
            files::remove_tree(&defaults)?;
            for dir in ["etc", "lib"] {
                system.root.below(dir).write(&defaults.join(dir))?;
            }
        }
        let mut spec = image::Spec {
            boards: self.router.board().compatible.clone(),
            version: system.version.to_string(),
            security: u64::from(system.version),
            compat: "1.0".to_owned(),
            migrates_from: Vec::new(),
            engine: 1,
            parts: self
                .router
                .part_names()
                .map(|name| match self.router.holds_root(name) {
                    true => part(name, &system.root_part()?),
                    false => part(name, &system.kernel),
                })
                .collect::<Result<_>>()?,
            defaults: system.says_defaults.then_some(defaults),
            generated: std::collections::BTreeMap::new(),
            block_size: BLOCK_SIZE,
            encoding: Encoding::Plain,
            openwrt: false,
        };
        change(&mut spec);
        let mut bytes = Vec::new();
        image::build(&spec, &[secret_key()], &mut bytes)?;
        Ok(bytes)
    }
}

pub fn machine(router: &Router) -> Result<Machine> {
    router.machine()
}

/// The lock of a machine. A child that another test of this process starts has its file, too, for the
/// moment until it becomes another program.
pub fn lock(machine: &Machine) -> Result<Lock> {
    for _ in 0..100_000 {
        match machine.lock() {
            Err(MachineError::Busy { .. }) => std::thread::yield_now(),
            lock => return Ok(lock?),
        }
    }
    Ok(machine.lock()?)
}

/// `sysupgrade-rs --no-reboot IMAGE`, with `-n` unless `keep`.
pub fn install(router: &Router, image: &[u8], keep: bool) -> Result<Done> {
    upgrade(router, keep, |upgrade| install::install(upgrade, image))
}

/// `sysupgrade-rs plan IMAGE`.
pub fn plan(router: &Router, image: &[u8]) -> Result<Plan> {
    upgrade(router, true, |upgrade| {
        Ok(install::examine(upgrade, image)?.0)
    })
}

fn upgrade<T>(
    router: &Router,
    keep: bool,
    work: impl FnOnce(&mut Upgrade<'_>) -> std::result::Result<T, InstallError>,
) -> Result<T> {
    let mut machine = machine(router)?;
    let (mut tell, stop) = (|_| (), AtomicBool::new(false));
    let mut upgrade = Upgrade {
        lock: lock(&machine)?,
        trust: system::open_trust(&machine, 0)?,
        parts: system::open_parts(&machine, machine.target()),
        machine: &mut machine,
        wish: Wish {
            keep,
            ..Wish::default()
        },
        before: before(),
        watch: Watch::new(&mut tell, &stop),
    };
    Ok(work(&mut upgrade)?)
}

/// What works on such a router.
fn before() -> Before {
    let seen = [("10-net".to_owned(), "default dev eth0\n".to_owned())];
    Before {
        worked: seen.into(),
        ..Before::default()
    }
}

/// `sysupgrade-rs first-boot`. False if it gave the slot up.
pub fn first_boot(router: &Router) -> Result<bool> {
    match first_boot::first_boot(&mut machine(router)?) {
        Ok(_) => Ok(true),
        Err(FirstBootError::GivenUp { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `sysupgrade-rs confirm`. False if there was nothing left to do.
pub fn confirm(router: &Router) -> Result<bool> {
    let mut machine = machine(router)?;
    let _lock = lock(&machine)?;
    Ok(trial::confirm(&mut machine)?)
}

/// `sysupgrade-rs rollback`.
pub fn go_back(router: &Router) -> Result<()> {
    let mut machine = machine(router)?;
    let _lock = lock(&machine)?;
    trial::go_back(&mut machine, What::RolledBack, "rolled back by hand")?;
    Ok(())
}

/// An error with all its sources, on one line.
pub fn describe(error: &dyn std::error::Error) -> String {
    install::describe(error)
}
