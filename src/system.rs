//! From a board file to opened things.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::system::RebootCommand;
use thiserror::Error;

use crate::board::{self, Board, BoardError, BootKind, Place, Running, Unsigned};
use crate::boot::{
    BootError, Bootloader, GptAttributes, GrubEnv, Program, SystemdBoot, UbootEnv, fw_env_config,
};
use crate::data::{Data, DataError};
use crate::files::{self, FileError, below};
use crate::flash::{self, Chips, Kernel};
use crate::install::Parts;
use crate::machine::Machine;
use crate::report::printable;
use crate::slots::{BootState, Slot};
use crate::trust::{self, KeysError, Trust};

/// Where a router keeps its board file.
pub const BOARD_FILE: &str = "/etc/sysupgrade-rs/board.toml";

/// Where OpenWrt has the keys of those who may sign.
const STOCK_KEYS: &str = "/etc/opkg/keys";

/// The kernel's command line is at most 4 KiB on the architectures of routers; this is generous.
const MAX_COMMAND_LINE: u64 = 64 << 10;

/// What could not be opened.
#[derive(Debug, Error)]
pub enum SystemError {
    /// The board file does not exist or cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The board file is not UTF-8.
    #[error("{} is not text", path.display())]
    NotText {
        /// The board file.
        path: PathBuf,
    },
    /// The board file is not accepted.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// There is no board file, and the virtual board does not fit either.
    #[error("there is no board file {BOARD_FILE}")]
    NoBoard,
    /// The running slot is not known.
    #[error("{looked_at} does not say which of the slots {slots} runs: {found}")]
    RunningSlot {
        /// Where it should be told.
        looked_at: String,
        /// What is there.
        found: String,
        /// What would have been accepted.
        slots: String,
    },
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The trusted keys.
    #[error(transparent)]
    Trust(#[from] KeysError),
    /// The reboot command.
    #[error("`{command}` failed, reboot by hand")]
    Reboot {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SystemError {
    /// What to do now.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::File(error) => return error.hint(),
            Self::NotText { .. } => "a board file is UTF-8 text",
            Self::Board(_) => "correct this line of the board file",
            Self::NoBoard => "write one for this model, or name one with --board",
            Self::RunningSlot { .. } => {
                "correct `running` below [boot] in the board file, or let the boot loader tell the slot"
            }
            Self::Data(error) => return error.hint(),
            Self::Trust(error) => return error.hint(),
            // Says so itself.
            Self::Reboot { .. } => return None,
        })
    }
}

/// Reads the board file: `file` if given, else the installed one, else, on a virtual router, the
/// built-in one.
///
/// # Errors
/// [`SystemError`]
pub fn read_board(root: &Path, file: Option<&Path>) -> Result<Board, SystemError> {
    let path = file.map_or_else(|| below(root, Path::new(BOARD_FILE)), Path::to_owned);
    let bytes = match files::read(&path, board::MAX_BOARD_FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() && file.is_none() => {
            let board = Board::parse(board::VIRTUAL, "board/virtual.toml")?;
            let virtual_router = match &board.boot.store[0].place {
                Place::Path(path) => files::exists(&below(root, path)),
                _ => false,
            };
            return if virtual_router {
                Ok(board)
            } else {
                Err(SystemError::NoBoard)
            };
        }
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8(bytes).map_err(|_| SystemError::NotText { path: path.clone() })?;
    Ok(Board::parse(&text, &path.display().to_string())?)
}

/// Opens what the stories need of this machine.
///
/// # Errors
/// [`SystemError`]
pub fn open(root: &Path, board: Board) -> Result<Machine, SystemError> {
    open_with(root, board, Rc::new(Kernel::new(root)))
}

/// [`open`] with raw flash from somewhere else than the kernel.
///
/// # Errors
/// [`SystemError`]
pub fn open_with(root: &Path, board: Board, chips: Rc<dyn Chips>) -> Result<Machine, SystemError> {
    let running = running_slot(root, &board)?;
    let boot = boot(root, &board, &chips);
    let data = data(root, &board, &chips);
    Ok(Machine {
        board,
        root: root.to_owned(),
        running,
        boot,
        data,
        chips,
    })
}

/// The records of this machine, and the way of the archive.
fn data(root: &Path, board: &Board, chips: &Rc<dyn Chips>) -> Data {
    if let Some(data) = &board.data {
        return Data::in_directory(below(root, &data.dir));
    }
    // The places of the boot state, opened apart: nothing of them is remembered here or there, and
    // whoever writes has the lock of the machine.
    let (at, known, on) = (root.to_owned(), board.clone(), Rc::clone(chips));
    let env = Box::new(move || uboot_env(&at, &known, &on));
    Data::apart(root, env, &board.slots, Rc::clone(chips))
}

/// The slot that the kernel was started from.
///
/// # Errors
/// [`SystemError::RunningSlot`] when the system does not say, or says something else.
pub fn running_slot(root: &Path, board: &Board) -> Result<Slot, SystemError> {
    let (looked_at, found) = match &board.boot.running {
        Running::CommandLine(key) => {
            let line = files::read(&below(root, Path::new("/proc/cmdline")), MAX_COMMAND_LINE)?;
            let line = String::from_utf8_lossy(&line);
            // The last mention wins, as for the kernel itself.
            let value = line
                .split_whitespace()
                .rev()
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            let looked_at = format!("the kernel command line, at `{key}=`,");
            (looked_at, value.map(str::to_owned))
        }
        Running::Ubi(number) => {
            let sys = below(root, Path::new("/sys/class"));
            let read = |path: PathBuf| {
                let text = files::read_if_exists(&path, MAX_COMMAND_LINE)?;
                Ok::<_, FileError>(
                    text.map(|text| String::from_utf8_lossy(&text).trim().to_owned()),
                )
            };
            let mtd = read(sys.join(format!("ubi/ubi{number}/mtd_num")))?;
            let name = match mtd {
                Some(mtd) => read(sys.join(format!("mtd/mtd{mtd}/name")))?,
                None => None,
            };
            (format!("the MTD of UBI device {number}"), name)
        }
    };
    let slot = found.as_deref().and_then(|name| board.slot_running(name));
    slot.ok_or_else(|| SystemError::RunningSlot {
        looked_at,
        found: found.map_or_else(|| "nothing is there".into(), |name| printable(&name)),
        slots: board
            .slots
            .each_ref()
            .map(|slot| slot.name.clone())
            .join(", "),
    })
}

/// The boot environment; it is opened when it is read or written.
#[must_use]
pub fn boot(root: &Path, board: &Board, chips: &Rc<dyn Chips>) -> Box<dyn Bootloader> {
    let store = board.boot.store.first();
    let path = match store.map(|store| &store.place) {
        Some(Place::Path(path)) => below(root, path),
        // Refused when the board file was read, where it matters.
        _ => PathBuf::new(),
    };
    match board.boot.kind {
        BootKind::GrubEnv => {
            let offset = store.map_or(0, |store| store.offset);
            Box::new(GrubEnv::new(path, slot_names(board)).at(offset))
        }
        BootKind::UbootEnv => {
            let (root, board, chips) = (root.to_owned(), board.clone(), Rc::clone(chips));
            Box::new(Late(move || uboot_env(&root, &board, &chips)))
        }
        BootKind::SystemdBoot => {
            let entries = board.boot.entries.as_deref().unwrap_or(Path::new(""));
            let variables = below(root, Path::new("/sys/firmware/efi/efivars"));
            let entries = below(root, entries);
            Box::new(SystemdBoot::new(entries, variables, slot_names(board)))
        }
        BootKind::GptAttributes => {
            let partitions = board.boot.partitions.clone().unwrap_or_default();
            Box::new(GptAttributes::new(path, partitions))
        }
        BootKind::Program => {
            // Refused when the board file was read if it names none.
            let (program, arguments) = board.boot.program.split_first().unzip();
            let program = below(root, Path::new(program.map_or("", String::as_str)));
            let arguments = arguments.unwrap_or_default().to_vec();
            Box::new(Program::new(root, program, arguments, slot_names(board)))
        }
    }
}

/// The U-Boot environment of a board that has one.
///
/// # Errors
/// When the file that says where it is cannot be read, or says what cannot be.
pub fn uboot_env(root: &Path, board: &Board, chips: &Rc<dyn Chips>) -> Result<UbootEnv, BootError> {
    let stores = match &board.boot.fw_env_config {
        Some(file) => fw_env_config::read(root, file, board)?,
        None => board.boot.store.clone(),
    };
    let env = UbootEnv::new(root, stores, slot_names(board), Rc::clone(chips));
    Ok(env.with_layout(&board.boot.layout, board.boot.tries))
}

/// An environment that is found when it is read or written, not before: a machine whose environment is
/// gone can still be looked at.
struct Late<F>(F);

impl<F: Fn() -> Result<UbootEnv, BootError>> Bootloader for Late<F> {
    fn load(&mut self) -> Result<BootState, BootError> {
        self.0()?.load()
    }

    fn store(&mut self, state: &BootState) -> Result<(), BootError> {
        self.0()?.store(state)
    }

    fn flaws(&mut self) -> Result<Vec<String>, BootError> {
        self.0()?.flaws()
    }

    fn repair(&mut self, state: &BootState) -> Result<Vec<String>, BootError> {
        self.0()?.repair(state)
    }
}

fn slot_names(board: &Board) -> [String; 2] {
    board.slots.each_ref().map(|slot| slot.name.clone())
}

/// Opens the media of a slot for writing, each as far as it can be.
#[must_use]
pub fn open_parts(machine: &Machine, slot: Slot) -> Parts {
    let parts = machine.spec(slot).parts.iter();
    parts
        .map(|(name, medium)| {
            let device = flash::open(&machine.root, &*machine.chips, medium);
            (name.clone(), device)
        })
        .collect()
}

/// The keys this machine trusts, with its threshold and floor; `now` is the time, in seconds since
/// 1970.
///
/// # Errors
/// When a key directory, a key, or the floor cannot be read.
pub fn open_trust(machine: &Machine, now: i64) -> Result<Trust, SystemError> {
    let floor = machine.data.floor()?;
    trust(&machine.root, &machine.board.trust, floor, now)
}

/// The same for a tree that nothing runs from, with its first key directory. Without a board file
/// OpenWrt's own keys count, and there is no floor.
///
/// # Errors
/// As [`open_trust`].
pub fn trust_without_machine(
    root: &Path,
    board: Option<&Board>,
    now: i64,
) -> Result<(Trust, PathBuf), SystemError> {
    let dir = below(root, Path::new(STOCK_KEYS));
    let stock = board::Trust {
        // A system without keys trusts nobody.
        keys: files::exists(&dir)
            .then(|| STOCK_KEYS.into())
            .into_iter()
            .collect(),
        threshold: 1,
        unsigned: Unsigned::Refuse,
    };
    let said = board.map_or(&stock, |board| &board.trust);
    let first = said.keys.first().map_or(dir, |first| below(root, first));
    Ok((trust(root, said, 0, now)?, first))
}

fn trust(root: &Path, said: &board::Trust, floor: u64, now: i64) -> Result<Trust, SystemError> {
    let dirs: Vec<PathBuf> = said.keys.iter().map(|dir| below(root, dir)).collect();
    Ok(Trust {
        unsigned: said.unsigned == Unsigned::Allow,
        now,
        ..trust::load(&dirs, said.threshold, floor)?
    })
}

/// How long the board's own command may take to end this system, until the kernel is asked.
const REBOOT_TIME: Duration = Duration::from_secs(60);

/// How long what is written may take to land, until it is lost. It is that of a system that is given up.
const SYNC_TIME: Duration = Duration::from_secs(10);

/// Ends a system that may not be able to: by the board's own command, and if that has not worked in a
/// minute, by the kernel. Does not return then. Boards that somebody else reboots are left alone.
///
/// # Errors
/// When even the kernel refuses.
pub fn reboot_for_certain(machine: &Machine) -> Result<(), SystemError> {
    let [program, arguments @ ..] = machine.board.boot.reboot.as_slice() else {
        return Ok(());
    };
    // Nobody waits for it: it may hang.
    if Command::new(program).args(arguments).spawn().is_ok() {
        thread::sleep(REBOOT_TIME);
    }
    if machine.root != Path::new("/") {
        return Ok(()); // the kernel is not that of this machine
    }
    let (done, landed) = mpsc::channel();
    thread::spawn(move || {
        rustix::fs::sync();
        done.send(())
    });
    let _ = landed.recv_timeout(SYNC_TIME);
    let refused = rustix::system::reboot(RebootCommand::Restart);
    refused.map_err(|error| SystemError::Reboot {
        command: "reboot(2)".to_owned(),
        source: error.into(),
    })
}

/// Step 10 of an upgrade: the board's own command. Boards without one (virtual ones) are left alone.
///
/// # Errors
/// [`SystemError::Reboot`]
pub fn reboot(board: &Board) -> Result<(), SystemError> {
    let [program, arguments @ ..] = board.boot.reboot.as_slice() else {
        return Ok(());
    };
    let failed = |source| SystemError::Reboot {
        command: board.boot.reboot.join(" "),
        source,
    };
    let status = Command::new(program)
        .args(arguments)
        .status()
        .map_err(failed)?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(io::Error::other(status.to_string()))),
    }
}
