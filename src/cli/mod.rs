//! Words in, calls out: everything that talks to people and to calling programs.
//!
//! Standard output carries the answer, standard error the conversation. Every answer is one value
//! that the library computed, printed for people or, with `--json`, as one JSON document. An error
//! is an answer too: with `--json` it is a document with `ok: false`, the exit code, and every
//! refusal with its reason, both values and a hint.

mod answer;
pub mod args;
mod ask;
mod config;
mod health;
mod paint;
pub mod progress;
mod report;
pub mod source;
mod verdict;
mod voice;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::board::Board;
use crate::config::bundle::Scope;
use crate::config::decisions::decide;
use crate::config::keep::KeepList;
use crate::config::{ConfigError, archive, restore};
use crate::data::What;
use crate::files::below;
use crate::files::{FileError, NewFile};
use crate::health::Before;
use crate::image::ImageError;
use crate::image::candidate::{Candidate, Contents};
use crate::image::openwrt::Stock;
use crate::install::{self, InstallError, Misfit, Names, Upgrade, Watch, Wish};
use crate::machine::{Identity, Machine};
use crate::report::{Event, ExitCode, Phase, Refusal};
use crate::system::SystemError;
use crate::trust::{revoke, ucert};
use crate::{doctor, files, status, system, trial};
use answer::{Answer, Failure};
use args::{Carry, Choices, Command, NoCommand, Place, Reboot, Resolve, Settings};
use progress::{Progress, Style};
use source::{Opened, Stream};
use verdict::Verdict;
use voice::complain;

/// Where a running upgrade tells how far it is.
const STATUS_FILE: &str = "/run/sysupgrade-rs/status.json";

/// Where a stock image is laid that does not come as a file: where OpenWrt lays it, too.
const SPOOL: &str = "/tmp/sysupgrade.img";

/// The whole command: reads its words, does what they ask, and returns the exit status. Called
/// `sysupgrade` it is a drop-in for OpenWrt's, whose callers know two: 0, and 1 for whatever was not
/// done. `start_logger` is told how much to say.
#[must_use]
pub fn main(mut words: impl Iterator<Item = OsString>, start_logger: impl FnOnce(i16)) -> u8 {
    let program = words.next();
    let is_drop_in = voice::called(program.as_deref());
    let code = match args::parse(program.into_iter().chain(words)) {
        Ok((settings, command)) => {
            start_logger(settings.verbosity);
            run(&settings, command)
        }
        Err(NoCommand::Answer(text)) => answer::print(&text, ExitCode::Done),
        Err(NoCommand::Usage(problem)) => {
            let name = if is_drop_in {
                "sysupgrade"
            } else {
                "sysupgrade-rs"
            };
            complain(&format!(
                "{problem}\n'{name} --help' shows what can be said"
            ));
            ExitCode::Usage
        }
    };
    match (is_drop_in, code) {
        (true, ExitCode::Done | ExitCode::NeedsReview) => 0,
        (true, _) => 1,
        (false, code) => code as u8,
    }
}

/// Does what was asked, prints the answer, and returns the exit code.
#[must_use]
pub fn run(settings: &Settings, command: Command) -> ExitCode {
    let root = settings.root.clone().unwrap_or_else(|| PathBuf::from("/"));
    voice::speak_in(&root);
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
            } => self.install(&image, &choices, confirm_within, reboot),
            Command::Test { image, choices } => self.test(&image, &choices),
            Command::Plan {
                image,
                choices,
                resolve,
            } => self.plan(&image, &wish(&choices, None), &resolve),
            Command::Backup { to, carry } => self.backup(&to, carry),
            Command::Restore { from } => self.restore(&from),
            Command::List { listing } => {
                Ok(Answer::kept(&KeepList::read_with(&self.root, listing)?))
            }
            Command::Status => Ok(Answer::status(&status::status(&mut self.machine()?)?)),
            Command::FirstBoot => self.first_boot(),
            Command::Confirm => self.confirm(),
            Command::Rollback { reboot } => self.rollback(reboot),
            Command::Guard => self.guard(),
            Command::Health => self.health(),
            Command::Inspect { image } => self.inspect(&image),
            Command::Revoke { file } => self.revoke(&file),
            Command::Doctor { repair_env: true } => {
                Ok(Answer::repaired(&doctor::repair(&mut self.machine()?)?))
            }
            Command::Doctor { repair_env: false } => Ok(Answer::checks(&doctor::examine(
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
        Progress::new(style, Box::new(io::stderr())).with_status(self.status_file())
    }

    fn status_file(&self) -> PathBuf {
        below(&self.root, Path::new(STATUS_FILE))
    }

    /// What happened last, for whoever watches the status file: a reboot has emptied it.
    fn tell_last(&self, machine: &Machine) {
        match machine.data.history() {
            Ok(history) => {
                if let Some(last) = history.last() {
                    progress::tell_result(&self.status_file(), last);
                }
            }
            Err(error) => log::debug!("{}", install::describe(&error)),
        }
    }

    fn install(
        &self,
        image: &OsStr,
        choices: &Choices,
        confirm_within: Option<Duration>,
        reboot: Reboot,
    ) -> Result<Answer, Failure> {
        let mut wish = wish(choices, confirm_within);
        if choices.interactive {
            wish.keep = ask::about_configuration(&self.root, wish.keep)?;
        }
        if choices.whole_disk {
            complain(
                "-p: the partition table is never written here, only the parts of the other slot",
            );
        }
        let mut machine = self.machine()?;
        let image = self.candidate(image).and_then(|image| Ok(image?));
        // Whoever watches the status file is told of what is no image at all, too.
        let image = image.inspect_err(|failure| self.tell_end(failure))?;
        let done = self.upgrade(&mut machine, image, &wish, |upgrade, image| {
            health::look_before(upgrade)?;
            install::install(upgrade, image)
        })?;
        Ok(Answer::installed(&done, Self::delay(&machine, reboot)))
    }

    fn tell_end(&self, failure: &Failure) {
        self.progress().finish(failure.code, &failure.message);
    }

    fn test(&self, image: &OsStr, choices: &Choices) -> Result<Answer, Failure> {
        let wish = wish(choices, None);
        let mut verdict = Verdict {
            may_keep: true,
            ..Verdict::default()
        };
        let mut image = match self.candidate(image)? {
            Ok(image) => image,
            Err(error) => {
                verdict.refusals.push(error.refusal());
                return Err(Failure::from(error).judged(&verdict));
            }
        };
        verdict.shown = image.show();
        let tested = match self.machine() {
            Ok(mut machine) => self
                .upgrade(&mut machine, image, &wish, |upgrade, image| {
                    install::test(upgrade, image)
                })
                .map(|plan| {
                    let answer = Answer::plan(&machine, &plan, true, self.settings);
                    (plan.contents, plan.may_keep, plan.refusals, answer)
                }),
            // A tree that nothing runs from has no slots, but it says which images are for it.
            Err(failure) if self.settings.root.is_some() && failure.nothing_runs => self
                .judge(image, &wish)
                .map(|(contents, may_keep, refusals)| {
                    let answer = Answer::judged(&contents);
                    (contents, may_keep, refusals, answer)
                }),
            Err(failure) => Err(failure),
        };
        match tested {
            Ok((contents, may_keep, refusals, answer)) => {
                verdict.contents = Some(contents);
                verdict.may_keep = may_keep;
                verdict.refusals = refusals;
                Ok(answer.judged_as(&verdict))
            }
            Err(failure) => {
                verdict.failed = failure.refusals.is_empty();
                verdict.is_signed = failure.is_signed;
                verdict.refusals.clone_from(&failure.refusals);
                self.judge_claims(&mut verdict, &wish)?;
                Err(failure.judged(&verdict))
            }
        }
    }

    /// What can be said of an image without a machine.
    fn judge(
        &self,
        image: Candidate<Stream>,
        wish: &Wish,
    ) -> Result<(Contents, bool, Vec<Refusal>), Failure> {
        let board = self.board_if_any()?;
        let (trust, _) = system::trust_without_machine(&self.root, board.as_ref(), self.now())?;
        let (contents, may_keep, refusal) =
            install::judge(&self.root, board.as_ref(), &trust, image, wish)?;
        let refusals = refusal.into_iter().filter(|refusal| !wish.forces(refusal));
        Ok((contents, may_keep, refusals.collect()))
    }

    /// Of an image that is refused for itself: whether it would be for this machine if it were to be
    /// believed, so that everything is told at once.
    fn judge_claims(&self, verdict: &mut Verdict, wish: &Wish) -> Result<(), Failure> {
        if verdict.shown.problem.is_some() {
            return Ok(());
        }
        let identity = Identity::read(&self.root)?;
        let names = Names::of(&identity, self.board().ok().as_ref());
        let misfit = Misfit::of(&verdict.shown.claims, &names, &identity);
        verdict.may_keep = misfit.may_keep();
        let refusal = misfit.refusal(wish);
        let told = |new: &Refusal| verdict.refusals.iter().any(|old| old.reason == new.reason);
        let refusal = refusal.filter(|new| !(told(new) || wish.forces(new)));
        verdict.refusals.extend(refusal);
        Ok(())
    }

    fn inspect(&self, image: &OsStr) -> Result<Answer, Failure> {
        match self.candidate(image)?? {
            Candidate::Ours(head) => Answer::inspected(&head?),
            mut stock @ Candidate::Stock(_) => Ok(Answer::shown(&stock.show())),
        }
    }

    /// Into the first key directory; the links there count for all of them.
    fn revoke(&self, file: &Path) -> Result<Answer, Failure> {
        let board = self.board_if_any()?;
        let (mut trust, dir) =
            system::trust_without_machine(&self.root, board.as_ref(), self.now())?;
        let records = files::read(file, ucert::MAX_CHAIN as u64)?;
        Ok(Answer::revoked(&revoke::apply(&records, &mut trust, &dir)?))
    }

    /// The board file, if there is one.
    fn board_if_any(&self) -> Result<Option<Board>, SystemError> {
        match self.board() {
            Ok(board) => Ok(Some(board)),
            Err(SystemError::NoBoard) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens an image. One of ours may come as a stream; one of OpenWrt's is read more than once, and
    /// laid into a file if it does not come as one.
    fn candidate(&self, word: &OsStr) -> Result<Result<Candidate<Stream>, ImageError>, Failure> {
        let spool = below(&self.root, Path::new(SPOOL));
        Ok(match source::open_image(word, &stop_flag()?, &spool)? {
            Opened::Stream(stream) => Ok(Candidate::ranged(stream)),
            Opened::File(file) => Stock::open(file).map(|stock| Candidate::Stock(Box::new(stock))),
        })
    }

    /// The time, for the dates of certificates.
    fn now(&self) -> i64 {
        self.settings.now.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| {
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
            })
        })
    }

    /// Decisions are about places of a plan, and change it: it is made twice.
    fn plan(&self, image: &OsStr, wish: &Wish, resolve: &[Resolve]) -> Result<Answer, Failure> {
        let mut machine = self.machine()?;
        let survey = |upgrade: &mut Upgrade<'_>, image| {
            let (mut plan, image) = install::survey(upgrade, image)?;
            if plan.refusals.is_empty() {
                plan.tally = Some(install::weigh(upgrade, image)?);
            }
            Ok(plan)
        };
        let mut plan = self.upgrade(&mut machine, self.candidate(image)??, wish, survey)?;
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
            plan = self.upgrade(&mut machine, self.candidate(image)??, wish, survey)?;
        }
        Ok(Answer::plan(&machine, &plan, false, self.settings))
    }

    /// Takes the lock, opens keys, media and image, and lets `work` use them.
    fn upgrade<T>(
        &self,
        machine: &mut Machine,
        image: Candidate<Stream>,
        wish: &Wish,
        work: impl FnOnce(&mut Upgrade<'_>, Candidate<Stream>) -> Result<T, InstallError>,
    ) -> Result<T, Failure> {
        let stop = stop_flag()?;
        let lock = machine.lock()?;
        let trust = system::open_trust(machine, self.now())?;
        let parts = system::open_parts(machine, machine.target());
        let mut progress = self.progress();
        let mut tell = |event: Event| progress.event(&event);
        let watch = Watch::new(&mut tell, &stop);
        let mut upgrade = Upgrade {
            lock,
            machine,
            trust,
            parts,
            wish: wish.clone(),
            before: Before::default(),
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
        let mut machine = self.machine()?;
        let slot = {
            let _lock = machine.lock()?;
            trial::go_back(&mut machine, What::RolledBack, "rolled back by hand")?
        };
        // Calling off a trial that has not begun needs no reboot: this system goes on.
        let reboot = Self::delay(&machine, reboot).filter(|_| slot != machine.running);
        Ok(Answer::going_back(&machine, slot, reboot))
    }

    fn backup(&self, to: &Place, carry: Carry) -> Result<Answer, Failure> {
        let machine = self.machine().ok(); // a backup needs no slots
        let defaults = machine.as_ref().and_then(Machine::defaults);
        let version = machine.as_ref().map(Machine::running_version).transpose()?;
        let usual = machine.as_ref().map(|machine| machine.board.config.scope);
        let keep = KeepList::read_with(&self.root, carry.listing)?;
        let source = archive::Source {
            root: &self.root,
            keep: &keep,
            defaults: defaults.as_deref(),
            scope: carry.scope.or(usual).unwrap_or(Scope::Declared),
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
        let (name, source): (_, Box<dyn io::Read>) = match from {
            Place::Standard => ("standard input".to_owned(), Box::new(io::stdin().lock())),
            Place::File(path) => {
                let file = File::open(path).map_err(FileError::at("open", path))?;
                (path.display().to_string(), Box::new(file))
            }
        };
        let restored = restore::restore(&self.root, defaults.as_deref(), source);
        let restored = restored.map_err(|error| match error {
            ConfigError::Read(_) | ConfigError::Damaged { .. } => {
                Failure::from(error).about(&format!("{name}: nothing is restored"))
            }
            error => error.into(),
        })?;
        Ok(Answer::restored(&restored))
    }
}

fn wish(choices: &Choices, confirm_within: Option<Duration>) -> Wish {
    Wish {
        keep: choices.keep_config,
        force: choices.force,
        ignore_minor_compat: choices.ignore_minor_compat,
        scope: choices.carry.scope,
        listing: choices.carry.listing,
        archive: choices.archive.clone(),
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
