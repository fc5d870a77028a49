//! A virtual router in QEMU with somebody at its serial console.
//!
//! Nobody sleeps here: everything waits for text on the console, up to a deadline that only a hung
//! machine reaches.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A boot takes six seconds on a quiet host, with UEFI fifteen; a loaded one gets twenty times that.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the boot environment is on the disk (`qemu/build`): in the second partition, behind the head
/// of the tar archive.
pub(crate) const ENVIRONMENT: u64 = (2 << 20) + 512;

/// Where the partitions of the kernels are, and how long they are.
pub(crate) const KERNEL_A: u64 = 3 << 20;
pub(crate) const KERNEL_B: u64 = 31 << 20;
pub(crate) const KERNEL_LEN: usize = 20 << 20;

/// What the virtual router is built from.
pub(crate) fn sources() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/qemu"))
}

/// A virtual router with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// A PC with GRUB.
    X86,
    /// With U-Boot, whose environment is in a flash: a file beside the disk.
    Arm64,
    /// The same with a MIPS processor.
    Malta,
    /// A PC with UEFI and systemd-boot.
    SystemdBoot,
    /// A PC with UEFI and GRUB.
    GrubEfi,
}

impl Machine {
    /// What builds and starts it.
    fn script(self) -> PathBuf {
        sources().join(match self {
            Self::X86 => "run",
            Self::Arm64 => "arm64/run",
            Self::Malta => "malta/run",
            Self::SystemdBoot | Self::GrubEfi => "efi/run",
        })
    }

    /// The disk of a new router, built once a run.
    pub(crate) fn factory_disk(self) -> PathBuf {
        static BUILT: [OnceLock<()>; 4] = [const { OnceLock::new() }; 4];
        let builder = match self {
            Self::X86 => 0,
            Self::Arm64 => 1,
            Self::SystemdBoot | Self::GrubEfi => {
                Self::X86.factory_disk(); // one of the two is made of it
                2
            }
            Self::Malta => 3,
        };
        BUILT[builder].get_or_init(|| {
            let script = self.script();
            let status = Command::new(&script).arg("--build-only").status();
            let built = status.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
            assert!(
                built.success(),
                "{} --build-only: {built}",
                script.display()
            );
        });
        sources().join(match self {
            Self::X86 => "work/disk.img",
            Self::Arm64 => "work/arm64/disk.img",
            Self::Malta => "work/malta/disk.img",
            Self::SystemdBoot => "work/efi/systemd-boot.img",
            Self::GrubEfi => "work/efi/grub.img",
        })
    }
}

/// An image that was built beside the disk; the disk has some of them in `/root`, too.
pub(crate) fn image(name: &str) -> PathBuf {
    Machine::X86.factory_disk().with_file_name(name)
}

/// The disk of one router. It outlives power cuts, not the test.
pub(crate) struct Disk {
    dir: TempDir,
    machine: Machine,
    is_logged: bool,
}

impl Disk {
    /// As it leaves the factory: version 1 in slot a.
    pub(crate) fn new() -> Self {
        Self::of(Machine::X86)
    }

    /// The same, of this machine.
    pub(crate) fn of(machine: Machine) -> Self {
        Self::copy_of(machine, &machine.factory_disk())
    }

    /// One with OpenWrt's ways, version 1 in slot a.
    pub(crate) fn openwrt() -> Self {
        Self::copy_of(Machine::X86, &image("openwrt.img"))
    }

    /// Another disk with the same content, of a router that is off.
    pub(crate) fn copy(&self) -> Self {
        Self::copy_of(self.machine, &self.path())
    }

    /// One of this machine, with the content of this file.
    pub(crate) fn copy_of(machine: Machine, path: &Path) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let disk = Self {
            dir,
            machine,
            is_logged: false,
        };
        let mut files = vec![(path.to_owned(), disk.path())];
        if matches!(machine, Machine::Arm64 | Machine::Malta) {
            files.push((flash_beside(path), disk.flash()));
        }
        for (from, to) in files {
            let copy = Command::new("cp")
                .arg("--sparse=always")
                .args([from, to])
                .status();
            assert!(copy.expect("cp starts").success(), "cp of the disk failed");
        }
        disk
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    /// The flash, of a machine that has one.
    pub(crate) fn flash(&self) -> PathBuf {
        flash_beside(&self.path())
    }

    /// The same, and from now on all writes are noted; what was noted before is forgotten at each start.
    pub(crate) fn logged(self) -> Self {
        Self {
            is_logged: true,
            ..self
        }
    }

    /// Where they are noted, see `qemu/run`.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Power on.
    pub(crate) fn start(&self) -> Router {
        self.start_with(&[])
    }

    /// Power on, with more arguments for `qemu/run`.
    pub(crate) fn start_with(&self, arguments: &[&str]) -> Router {
        let mut command = Command::new(self.machine.script());
        command.arg("--disk").arg(self.path());
        if self.is_logged {
            command.arg("--log").arg(self.log());
        }
        Router::start(command.args(arguments))
    }

    /// Power on, and power off before the disk does this write (counted from 1). What the console
    /// showed, or `None` if the router came to its login before that.
    pub(crate) fn cut_before_write(&self, write: u32) -> Option<String> {
        let socket = self.dir.path().join("qmp");
        let qmp = format!("unix:{},server=on,wait=off", socket.display());
        let mut router = self.start_with(&["--stop-at", &write.to_string(), "--", "-qmp", &qmp]);
        router.wait_for("\u{1b}["); // GRUB clears the screen, so QEMU listens by now
        let happens = router.happens.clone();
        std::thread::spawn(move || {
            let mut qmp = UnixStream::connect(&socket).expect("QEMU listens");
            // It may have stopped before anybody listened: ask too.
            qmp.write_all(br#"{"execute":"qmp_capabilities"}{"execute":"query-status"}"#)
                .expect("QEMU reads");
            let mut lines = BufReader::new(qmp).lines().map_while(Result::ok);
            if lines.any(|line| line.contains(r#""STOP""#) || line.contains(r#""io-error""#)) {
                let _ = happens.send(Event::Stopped);
            }
        });
        let shown = router.wait("the end", |shown| {
            ["login: ", STOPPED]
                .iter()
                .find_map(|end| Some(shown.find(end)? + end.len()))
        });
        let console = router.power_off();
        shown.ends_with(STOPPED).then_some(console)
    }
}

fn flash_beside(disk: &Path) -> PathBuf {
    disk.with_extension("img.flash")
}

/// What comes out of QEMU.
enum Event {
    /// The console shows something.
    Text(String),
    /// The machine was stopped at the write it was to be stopped at.
    Stopped,
    /// QEMU has ended, or was ended.
    Ended,
}

/// Stands on the console of a machine that was stopped.
const STOPPED: &str = "[stopped]";

/// A running router.
pub(crate) struct Router {
    child: Child,
    input: ChildStdin,
    happens: Sender<Event>,
    events: Receiver<Event>,
    /// Everything the console has shown.
    text: String,
    /// How much of it has been waited for.
    read: usize,
    commands: u32,
}

impl Router {
    /// Power on: a script of `qemu` that becomes QEMU.
    pub(crate) fn start(script: &mut Command) -> Self {
        let mut child = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script starts");
        let input = child.stdin.take().expect("stdin is a pipe");
        let mut output = child.stdout.take().expect("stdout is a pipe");
        let (happens, events) = channel();
        let sender = happens.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                if sender.send(Event::Text(text)).is_err() {
                    return;
                }
            }
            let _ = sender.send(Event::Ended);
        });
        Self {
            child,
            input,
            happens,
            events,
            text: String::new(),
            read: 0,
            commands: 0,
        }
    }

    /// Takes the next event into account, if there is one in time.
    fn listen(&mut self, patience: Duration) -> bool {
        match self.events.recv_timeout(patience) {
            Ok(Event::Text(text)) => self.text.push_str(&text),
            Ok(Event::Stopped) => self.text.push_str(STOPPED),
            Ok(Event::Ended) => panic!("QEMU has ended\n--- console ---\n{}", self.text),
            Err(_) => return false,
        }
        true
    }

    /// What the console shows up to and with `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        self.wait(text, |shown| shown.find(text).map(|at| at + text.len()))
    }

    fn wait(&mut self, what: &str, find: impl Fn(&str) -> Option<usize>) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = &self.text[self.read..];
            if let Some(end) = find(shown) {
                let shown = shown[..end].to_owned();
                self.read += end;
                return shown;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                self.listen(left) || !left.is_zero(),
                "the console does not show `{what}`\n--- console ---\n{}",
                self.text
            );
        }
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) {
        self.input
            .write_all(format!("{line}\r").as_bytes())
            .expect("QEMU reads");
    }

    /// From power on to a shell.
    pub(crate) fn log_in(&mut self) {
        self.wait_for("login: ");
        self.type_line("root");
        self.wait_for("# ");
        // A shell without echo, prompt and line editor. The sum is the first thing it shows.
        self.type_line("stty -echo; echo $((6 * 7)); while read -r line; do eval \"$line\"; done");
        self.wait_for("42\r\n");
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn run(&mut self, command: &str) -> String {
        let (status, text) = self.attempt(command);
        assert_eq!(status, 0, "`{command}` failed:\n{text}");
        text
    }

    /// Runs a command; its exit status and what it printed.
    pub(crate) fn attempt(&mut self, command: &str) -> (i32, String) {
        self.commands += 1;
        let mark = format!("[{}:", self.commands);
        self.type_line(&format!("{command}; echo \"{mark}$?]\""));
        let shown = self.wait(command, |shown| {
            let at = shown.find(&mark)?;
            Some(at + shown[at..].find("]\r\n")? + "]\r\n".len())
        });
        let (text, status) = shown.rsplit_once(&mark).expect("just found");
        let status = status.trim_end_matches("]\r\n").parse();
        let status = status.expect("an exit status is a number");
        (status, text.replace("\r\n", "\n"))
    }

    /// The answer of `sysupgrade-rs status`.
    pub(crate) fn status(&mut self) -> Value {
        let text = self.run("sysupgrade-rs status --json");
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The machine ends by itself, in time. What the console showed, and how QEMU ended.
    pub(crate) fn wait_for_end(mut self) -> (String, ExitStatus) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Text(text)) => self.text.push_str(&text),
                Ok(Event::Stopped) => {}
                Ok(Event::Ended) => break,
                Err(_) => panic!("QEMU goes on\n--- console ---\n{}", self.text),
            }
        }
        let status = self.child.wait().expect("QEMU ends");
        (std::mem::take(&mut self.text), status)
    }

    /// Pulls the plug: the machine does not get to do anything any more. What the console showed.
    pub(crate) fn power_off(mut self) -> String {
        self.child.kill().expect("QEMU can be killed");
        self.child.wait().expect("QEMU ends");
        std::mem::take(&mut self.text)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // Ended already if the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
