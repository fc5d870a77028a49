//! A virtual router with health checks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sysupgrade_rs::board::VIRTUAL;
use sysupgrade_rs::slots::Slot;

use crate::Result;
use crate::world::router::Booted;
use crate::world::{self, System, World};

/// Where its checks are: outside both slots, so that a test can change them at any time.
pub const CHECKS: &str = "/data/health.d";

/// Its watchdog, if the board file names it.
const WATCHDOG: &str = "/data/watchdog";

/// Below `[health]`: all must have passed at once, and there is a watchdog.
pub const STRICT: &str = "within = \"1s\"\nretry = \"1s\"
[watchdog]\ndevice = \"/data/watchdog\"\ntimeout = \"5s\"";

/// A router that runs version 1.
pub struct Site {
    pub world: World,
    board: PathBuf,
}

/// Makes a check of this name, which does what the script says.
pub fn put_check(dir: &Path, name: &str, script: &str) -> Result {
    fs::create_dir_all(dir)?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/health/check");
    let link = dir.join(name);
    if fs::symlink_metadata(&link).is_err() {
        symlink(program, link)?;
    }
    Ok(fs::write(dir.join(format!("{name}.sh")), script)?)
}

impl Site {
    /// Of the virtual board, with these keys below `[health]`, and what follows them.
    pub fn new(health: &str) -> Result<Self> {
        let world = World::new(&System::new(1))?;
        let board = world.dir().join("board.toml");
        let text = format!("{VIRTUAL}\n[health]\nchecks = \"{CHECKS}\"\n{health}\n");
        fs::write(&board, text)?;
        let site = Self { world, board };
        fs::write(site.path(WATCHDOG), "")?;
        assert_eq!(site.boot()?, Slot::First);
        Ok(site)
    }

    /// Makes a check.
    pub fn check(&self, name: &str, script: &str) -> Result {
        put_check(&self.path(CHECKS), name, script)
    }

    /// A path of the router.
    pub fn path(&self, path: &str) -> PathBuf {
        sysupgrade_rs::files::below(self.world.router.dir(), Path::new(path))
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sysupgrade-rs"));
        command.arg("--root").arg(self.world.router.dir());
        command.arg("--board").arg(&self.board);
        command.args(words).stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Result<Output> {
        Ok(self.command(words).output()?)
    }

    /// The JSON answer of a command that ends with this code.
    #[track_caller]
    pub fn answer(&self, words: &[&str], code: i32) -> Result<Value> {
        let output = self.command(&["--json"]).args(words).output()?;
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Installs a version into the other slot.
    pub fn install(&self, version: u8, words: &[&str]) -> Result<Value> {
        let image = self.world.dir().join("image.bin");
        fs::write(&image, self.world.image(&System::new(version))?)?;
        let image = image.to_str().ok_or("a path that is text")?;
        let words = [&["--no-reboot", "--progress=none"], words, &[image]].concat();
        self.answer(&words, 0)
    }

    /// Switches it off and on.
    pub fn boot(&self) -> Result<Slot> {
        self.boot_after(|| Ok(()))
    }

    /// The same; the kernel does something before first boot runs.
    pub fn boot_after(&self, kernel: impl FnOnce() -> Result) -> Result<Slot> {
        let router = &self.world.router;
        router.off()?;
        let booted = router.boot(|| {
            kernel()?;
            Ok(self.run(&["first-boot"])?.status.success())
        });
        match booted? {
            Booted::Up(slot) => Ok(slot),
            other => Err(format!("no system is up: {other:?}").into()),
        }
    }

    /// Installs version 2 and boots it, on trial.
    pub fn upgraded(&self, words: &[&str]) -> Result {
        self.install(2, words)?;
        assert_eq!(self.boot()?, Slot::Second);
        Ok(())
    }

    /// Writes a file that a kernel shows.
    pub fn show(&self, path: &str, text: &str) -> Result {
        let path = self.path(path);
        fs::create_dir_all(path.parent().ok_or("a file in a directory")?)?;
        Ok(fs::write(path, text)?)
    }

    /// What the watchdog was told; it is a file here.
    pub fn watchdog(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path(WATCHDOG))?)
    }

    /// The status file.
    pub fn result(&self) -> Result<Value> {
        let path = self.path("/run/sysupgrade-rs/status.json");
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    pub fn status(&self) -> Result<Value> {
        self.answer(&["status"], 0)
    }

    /// What works before the upgrade, as it is on record.
    pub fn recorded(&self) -> Result<sysupgrade_rs::health::Before> {
        Ok(world::machine(&self.world.router)?.data.before()?)
    }
}
