//! Raw flash through the kernel's real drivers: UBI and UBIFS on NAND, NOR, and U-Boot's own tools on
//! the environment (`qemu/flash/init`).

mod cuts;
mod nand;
mod refusals;
mod wear;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::router::{Router, sources};

/// What starts the router, once it is built.
fn script() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let script = sources().join("flash/run");
        let status = Command::new(&script).arg("--build-only").status();
        let built = status.expect("qemu/flash/run starts");
        assert!(built.success(), "qemu/flash/run --build-only: {built}");
        script
    })
}

/// The flash of one router, with version 1 in slot a. What the driver keeps outlives power cuts.
pub(crate) struct Flash {
    dir: TempDir,
    board: &'static str,
    driver: &'static str,
}

impl Flash {
    /// Fresh from the factory: a board (`nand`, `nor`) and a driver (`nandsim`, `phram`, `cutflash`).
    pub(crate) fn new(board: &'static str, driver: &'static str) -> Self {
        Self::with(board, driver, "")
    }

    /// The same, with words for the kernel's command line.
    pub(crate) fn with(board: &'static str, driver: &'static str, words: &str) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let flash = Self { dir, board, driver };
        let factory = Router::start(flash.script(words).arg("--factory"));
        let (console, status) = factory.wait_for_end();
        assert!(
            status.success() && console.contains("factory: done"),
            "{status}\n--- console ---\n{console}"
        );
        flash
    }

    fn script(&self, words: &str) -> Command {
        let mut command = Command::new(script());
        command
            .arg("--file")
            .arg(self.dir.path().join("flash"))
            .args(["--driver", self.driver, "--set", words, self.board]);
        command
    }

    /// Power on.
    pub(crate) fn start(&self) -> Router {
        self.start_with("")
    }

    /// Power on, with words for the kernel's command line.
    pub(crate) fn start_with(&self, words: &str) -> Router {
        Router::start(&mut self.script(words))
    }
}

/// What a command answers with `--json`, and its exit status.
pub(crate) fn answer(router: &mut Router, command: &str) -> (i32, Value) {
    let (status, text) = router.attempt(&format!("{command} --json 2>/dev/null"));
    let value = serde_json::from_str(text.trim());
    (
        status,
        value.unwrap_or_else(|error| panic!("{error}: {text}")),
    )
}

/// The device that has a part of a slot.
pub(crate) fn device(router: &mut Router, board: &str, part: &str, slot: &str) -> String {
    let find = match board {
        "nand" => format!("grep -lx {part}-{slot} /sys/class/ubi/ubi0_*/name | cut -d/ -f5"),
        _ => format!("grep -lx {part}-{slot} /sys/class/mtd/mtd?/name | cut -d/ -f5"),
    };
    format!("/dev/{}", router.run(&find).trim())
}

/// The kernel reads in the parts of a slot what the image of this version has.
pub(crate) fn assert_holds(router: &mut Router, board: &str, slot: &str, version: &str) {
    for part in ["kernel", "root"] {
        let device = device(router, board, part, slot);
        let wanted = format!("/run/images/{part}-v{version}");
        router.run(&format!(
            "head -c $(stat -c %s {wanted}) {device} | cmp - {wanted}"
        ));
    }
}

/// Which slot runs, and which version.
pub(crate) fn assert_runs(router: &mut Router, slot: &str, version: &str) {
    let status = router.status();
    assert_eq!(status["running"]["name"], slot, "{status}");
    assert_eq!(status["running"]["version"], version, "{status}");
    assert_eq!(status["standing"], "good", "{status}");
}
