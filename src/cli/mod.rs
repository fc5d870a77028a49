//! Words in, calls out: everything that talks to people and to calling programs.
//!
//! Standard output carries the answer, standard error the conversation. Every answer is one value
//! that the library computed, printed for people or, with `--json`, as one JSON document. An error
//! is an answer too: with `--json` it is a document with `ok: false`, the exit code, and every
//! refusal with its reason, both values and a hint.

mod answer;
pub mod args;
mod config;
mod paint;
pub mod progress;
mod report;
pub mod source;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::board::Board;
use crate::config::bundle::Scope;
use crate::config::decisions::decide;
use crate::config::keep::KeepList;
use crate::config::{archive, restore};
use crate::data::What;
use crate::files::below;
use crate::files::{FileError, NewFile};
use crate::first_boot::first_boot;
use crate::image::Unverified;
use crate::install::{self, InstallError, Upgrade, Watch, Wish};
use crate::machine::Machine;
use crate::report::{Event, ExitCode, Phase};
use crate::system::SystemError;
use crate::{doctor, status, system, trial};
use answer::{Answer, Failure};
use args::{Choices, Command, NoCommand, Place, Reboot, Resolve, Settings};
use progress::{Progress, Style};

/// Where a running upgrade tells how far it is.
const STATUS_FILE: &str = "/run/sysupgrade-rs/status.json";

/// What is said to a command line that leads to no command.
#[must_use]
pub fn no_command(no: &NoCommand) -> ExitCode {
    match no {
        NoCommand::Answer(text) => answer::print(text, ExitCode::Done),
        NoCommand::Usage(problem) => {
            answer::complain(&format!("{problem}\n{}", NoCommand::HINT));
            ExitCode::Usage
        }
    }
}

/// Does what was asked, prints the answer, and returns the exit code.
#[must_use]
pub fn run(settings: &Settings, command: Command) -> ExitCode {
    let root = settings.root.clone().unwrap_or_else(|| PathBuf::from("/"));
    let session = Session { settings, root };
    match session.run(command) {
        Ok(answer) => {
            let code = answer.print(settings);
            match answer.reboot.map(|delay| session.reboot(delay)) {
                None | Some(Ok(())) => code,
                Some(Err(failure)) => failure.print(settings),
            }
        }
        Err(failure) => failure.print(settings),
    }
}

struct Session<'s> {
    settings: &'s Settings,
    root: PathBuf,
}

impl Session<'_> {
    fn run(&self, command: Command) -> Result<Answer, Failure> {
        match command {
            Command::Install {
                image,
                choices,
                reboot,
                confirm_within,
            } => self.install(&image, wish(choices, confirm_within), reboot),
            Command::Test { image, choices } => self.test(&image, wish(choices, None)),
            Command::Plan {
                image,
                choices,
                resolve,
            } => self.plan(&image, wish(choices, None), &resolve),
            Command::Backup { to, scope } => self.backup(&to, scope),
            Command::Restore { from } => self.restore(&from),
            Command::List => Ok(Answer::kept(&KeepList::read(&self.root)?)),
            Command::Status => Ok(Answer::status(&status::status(&mut self.machine()?)?)),
            Command::FirstBoot => Ok(Answer::first_boot(&first_boot(&mut self.machine()?)?)),
            Command::Confirm => self.confirm(),
            Command::Rollback { reboot } => self.rollback(reboot),
            Command::Guard => self.guard(),
            Command::Inspect { image } => Ok(Answer::inspected(&Unverified::open(source::open(
                &image,
                &stop_flag()?,
            )?)?)?),
            Command::Doctor => Ok(Answer::checks(&doctor::examine(
                &self.root,
                self.settings.board.as_deref(),
            ))),
            Command::History => Ok(Answer::history(&self.machine()?.data.history()?)),
            Command::Config(command) => self.config(command),
        }
    }

    fn machine(&self) -> Result<Machine, Failure> {
        Ok(system::open(&self.root, self.board()?)?)
    }

    /// The board file, with what the command line says instead.
    fn board(&self) -> Result<Board, SystemError> {
        let mut board = system::read_board(&self.root, self.settings.board.as_deref())?;
        if let Some(defaults) = &self.settings.defaults {
            board.config.defaults = Some(defaults.clone());
        }
        Ok(board)
    }

    fn progress(&self) -> Progress {
        let Settings {
            progress,
            json,
            verbosity,
            ..
        } = *self.settings;
        let style = Style::for_stderr(progress, json, verbosity);
        Progress::new(style, Box::new(io::stderr()))
            .with_status(below(&self.root, Path::new(STATUS_FILE)))
    }

    fn install(&self, image: &OsStr, wish: Wish, reboot: Reboot) -> Result<Answer, Failure> {
        let mut machine = self.machine()?;
        let done = self.upgrade(&mut machine, image, wish, install::install)?;
        Ok(Answer::installed(&done, Self::delay(&machine, reboot)))
    }

    fn test(&self, image: &OsStr, wish: Wish) -> Result<Answer, Failure> {
        let mut machine = self.machine()?;
        let plan = self.upgrade(&mut machine, image, wish, install::test)?;
        Ok(Answer::plan(&machine, &plan, true, self.settings))
    }

    /// Decisions are about places of a plan, and change it: it is made twice.
    fn plan(&self, image: &OsStr, wish: Wish, resolve: &[Resolve]) -> Result<Answer, Failure> {
        let mut machine = self.machine()?;
        let survey = |upgrade: &mut Upgrade<'_>, image| install::survey(upgrade, image);
        let (mut plan, _) = self.upgrade(&mut machine, image, wish, survey)?;
        if !resolve.is_empty() {
            let Some(forecast) = &plan.config else {
                let why = "the image does not say its defaults: nothing can be decided yet";
                return Err(Failure::plain(ExitCode::Usage, why));
            };
            let decisions = resolve.iter();
            let decisions: Vec<_> = decisions
                .map(|resolve| (resolve.place.as_str(), resolve.winner))
                .collect();
            {
                let _lock = machine.lock()?;
                decide(&self.root, forecast, &decisions)?;
            }
            (plan, _) = self.upgrade(&mut machine, image, wish, survey)?;
        }
        Ok(Answer::plan(&machine, &plan, false, self.settings))
    }

    /// Takes the lock, opens keys, media and image, and lets `work` use them.
    fn upgrade<T>(
        &self,
        machine: &mut Machine,
        image: &OsStr,
        wish: Wish,
        work: impl FnOnce(&mut Upgrade<'_>, Box<dyn io::Read>) -> Result<T, InstallError>,
    ) -> Result<T, Failure> {
        let stop = stop_flag()?;
        let lock = machine.lock()?;
        let trust = system::open_trust(machine)?;
        let parts = system::open_parts(machine, machine.target());
        let image = source::open(image, &stop)?;
        let mut progress = self.progress();
        let mut tell = |event: Event| progress.event(&event);
        let watch = Watch::new(&mut tell, &stop);
        let mut upgrade = Upgrade {
            lock,
            machine,
            trust,
            parts,
            wish,
            watch,
        };
        let result = work(&mut upgrade, image).map_err(Failure::from);
        match &result {
            Ok(_) => progress.finish(ExitCode::Done, "done"),
            Err(failure) => progress.finish(failure.code, &failure.message),
        }
        result
    }

    /// The delay before the reboot that is to follow; `None` if somebody else reboots.
    fn delay(machine: &Machine, reboot: Reboot) -> Option<Duration> {
        match reboot {
            Reboot::After(delay) if !machine.board.boot.reboot.is_empty() => Some(delay),
            _ => None,
        }
    }

    /// Step 10 of an upgrade. Whoever stops the delay keeps the machine up; what boots next is settled.
    fn reboot(&self, delay: Duration) -> Result<(), Failure> {
        let stop = stop_flag()?;
        let began = Instant::now();
        while began.elapsed() < delay {
            if stop.load(Ordering::Relaxed) {
                return Err(Failure::reboot_stopped());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.progress().event(&Event::Phase(Phase::Reboot));
        let board = system::read_board(&self.root, self.settings.board.as_deref())?;
        Ok(system::reboot(&board)?)
    }

    fn confirm(&self) -> Result<Answer, Failure> {
        let mut machine = self.machine()?;
        let _lock = machine.lock()?;
        let changed = trial::confirm(&mut machine)?;
        Ok(Answer::confirmed(&machine, changed))
    }

    fn rollback(&self, reboot: Reboot) -> Result<Answer, Failure> {
        self.go_back(&mut self.machine()?, "rolled back by hand", reboot)
    }

    fn go_back(&self, machine: &mut Machine, why: &str, reboot: Reboot) -> Result<Answer, Failure> {
        let slot = {
            let _lock = machine.lock()?;
            trial::go_back(machine, What::RolledBack, why)?
        };
        // Calling off a trial that has not begun needs no reboot: this system goes on.
        let reboot = Self::delay(machine, reboot).filter(|_| slot != machine.running);
        Ok(Answer::going_back(machine, slot, reboot))
    }

    /// Waits until the trial is over. Unconfirmed in time, the machine goes back.
    fn guard(&self) -> Result<Answer, Failure> {
        const LOOK_EVERY: Duration = Duration::from_secs(1);
        let mut machine = self.machine()?;
        let began = Instant::now();
        while let Some(window) = trial::window(&mut machine)? {
            let left = window.saturating_sub(began.elapsed());
            if left.is_zero() {
                let why = format!("not confirmed within {} s", window.as_secs());
                return self.go_back(&mut machine, &why, Reboot::After(Duration::ZERO));
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
        Ok(Answer::confirmed(&machine, false))
    }

    fn backup(&self, to: &Place, scope: Option<Scope>) -> Result<Answer, Failure> {
        let machine = self.machine().ok(); // a backup needs no slots
        let defaults = machine.as_ref().and_then(Machine::defaults);
        let version = machine.as_ref().map(Machine::running_version).transpose()?;
        let usual = machine.as_ref().map(|machine| machine.board.config.scope);
        let keep = KeepList::read(&self.root)?;
        let source = archive::Source {
            root: &self.root,
            keep: &keep,
            defaults: defaults.as_deref(),
            scope: scope.or(usual).unwrap_or(Scope::Declared),
            from_version: version.as_deref().unwrap_or_default(),
            board: machine.as_ref().map_or("", |machine| &machine.board.name),
        };
        let summary = match to {
            Place::Standard => archive::write_backup(io::stdout().lock(), &source)?,
            Place::File(path) => {
                let mut file = NewFile::create(path, 0o600)?;
                let summary = archive::write_backup(&mut file, &source)?;
                file.commit()?;
                summary
            }
        };
        Ok(Answer::backed_up(to, &summary))
    }

    fn restore(&self, from: &Place) -> Result<Answer, Failure> {
        let machine = self.machine().ok(); // nor does a restore
        let defaults = machine.as_ref().and_then(Machine::defaults);
        let restored = match from {
            Place::Standard => {
                restore::restore(&self.root, defaults.as_deref(), io::stdin().lock())?
            }
            Place::File(path) => {
                let file = File::open(path).map_err(FileError::at("open", path))?;
                restore::restore(&self.root, defaults.as_deref(), file)?
            }
        };
        Ok(Answer::restored(&restored))
    }
}

fn wish(choices: Choices, confirm_within: Option<Duration>) -> Wish {
    Wish {
        keep: choices.keep_config,
        force: choices.force,
        scope: choices.scope,
        confirm_within,
    }
}

/// A flag that SIGINT, SIGTERM and a dead terminal set.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Failure::doing("watch for signals", &error))?;
    }
    Ok(stop)
}
