//! A router without a router: plays the power switch, boot loader, kernel and init of
//! `board/virtual.toml` in a directory. See `scripts/demo`.
//!
//! ```text
//! virtual-router DIR create KERNEL ROOT     a new one; slot a holds these parts (ROOT: a tar archive)
//! virtual-router DIR boot                   power on; 0 if a system is up, 1 if it panicked
//! virtual-router DIR off                    power off
//! ```

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the tests use more of the modules"
)]

#[path = "../tests/world/gpt.rs"]
mod gpt;
#[path = "../tests/world/loader.rs"]
mod loader;
#[path = "../tests/world/router.rs"]
mod router;
#[path = "../tests/world/snapshot.rs"]
mod snapshot;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

use router::{Booted, Result, Router};

/// Size of a part: as small as it can be for a system of a few files.
const PART_SIZE: usize = 1 << 20;

/// How often first boot may ask for a reboot before somebody should look.
const MOST_REBOOTS: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match *words {
        [dir, "create", kernel, root] => create(dir, kernel, root),
        [dir, "boot"] => boot(dir),
        [dir, "off"] => Router::at(Path::new(dir))
            .and_then(|router| router.off())
            .map(|()| true),
        _ => Err("usage: virtual-router DIR create KERNEL ROOT | boot | off".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tell(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

fn create(dir: &str, kernel: &str, root: &str) -> Result<bool> {
    let router = Router::at(Path::new(dir))?;
    router.create(&fs::read(kernel)?, &fs::read(root)?, PART_SIZE)?;
    Ok(true)
}

fn boot(dir: &str) -> Result<bool> {
    let router = Router::at(Path::new(dir))?;
    router.write_back()?;
    for _ in 0..MOST_REBOOTS {
        match router.boot(|| first_boot(&router))? {
            Booted::Up(slot) => {
                tell(&format!("slot {} is up", router.name(slot)));
                return Ok(true);
            }
            Booted::Panicked(slot) => {
                tell(&format!(
                    "slot {}: kernel panic, not syncing: no working init found",
                    router.name(slot)
                ));
                return Ok(false);
            }
            Booted::Refused(slot) => tell(&format!(
                "slot {}: first boot asks for a reboot",
                router.name(slot)
            )),
        }
    }
    Err("it reboots and reboots".into())
}

/// Runs the command that was built beside this program.
fn first_boot(router: &Router) -> Result<bool> {
    let own = env::current_exe()?;
    let built = own
        .parent()
        .and_then(Path::parent)
        .ok_or("this program has no place")?;
    let status = Command::new(built.join("sysupgrade-rs"))
        .arg("--root")
        .arg(router.dir())
        .arg("first-boot")
        .status()?;
    Ok(status.success())
}

#[expect(clippy::print_stdout, reason = "the console of the virtual machine")]
fn tell(line: &str) {
    println!("[virtual router] {line}");
}
