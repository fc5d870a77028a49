//! Runs checks: as processes that may hang, flood, die or not exist.
//!
//! Nobody waits for a check: whoever runs it is called back about ten times a second, and can feed a
//! watchdog or call it off. A check runs in a process group of its own, which is killed as a whole
//! when the check has ended or its time is up.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::{Before, Finding, NEVER, Now, Was, judge};
use crate::files;
use crate::report::printable;

/// The most that is kept of what a check prints, in bytes. It fits into the smallest pipe, so that
/// to write it to a check waits for nobody.
pub const MAX_SEEN: usize = 4096;

/// The most that is kept of what a check complains about; the first line of it is used.
const MAX_COMPLAINT: usize = 1024;

/// How often the caller is called back at least.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a check that was killed is waited for. One that hangs in the kernel does not end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where programs are, if nobody says.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The checks of a machine, and how they are run.
#[derive(Clone, Debug)]
pub struct Checks {
    /// Their directory.
    pub dir: PathBuf,
    /// How long each may run.
    pub timeout: Duration,
    /// Name of the running slot.
    pub slot: String,
}

/// How a check ended.
enum End {
    Exited(ExitStatus),
    NotStarted(io::Error),
    /// It could not be watched.
    Lost(io::Error),
    TimedOut,
    CalledOff,
}

/// A check that was run.
struct Ran {
    end: End,
    /// Standard output, as far as it is kept.
    seen: Vec<u8>,
    /// Standard error, as far as it is kept.
    complaint: Vec<u8>,
}

impl Checks {
    /// Names of the checks, in the order in which they run; none if the directory is missing.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self) -> files::Result<Vec<String>> {
        let names = match files::list(&self.dir) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            names => names?,
        };
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        let fits = |name: &String| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        Ok(names.filter(fits).collect())
    }

    /// Asks what works now. `go_on` is called about ten times a second; when it says no, the check that
    /// runs is called off and the others are not asked.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn record(&self, go_on: &mut dyn FnMut() -> bool) -> files::Result<Before> {
        let mut before = Before::default();
        for name in self.names()? {
            if !go_on() {
                break;
            }
            let ran = self.run(&name, "record", None, go_on);
            match ran.outcome(self.timeout) {
                (Now::Works, _) => {
                    before.worked.insert(name, ran.seen());
                }
                (_, why) => {
                    before.broken.insert(name, why.unwrap_or_default());
                }
            }
        }
        Ok(before)
    }

    /// The same for somebody who wants to be told: judged by itself.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn look(&self, go_on: &mut dyn FnMut() -> bool) -> files::Result<Vec<Finding>> {
        let Before { worked, broken, .. } = self.record(go_on)?;
        let good = worked.into_keys().map(|name| (name, None));
        let bad = broken.into_iter().map(|(name, why)| (name, Some(why)));
        let mut findings: Vec<Finding> = good.chain(bad).map(Finding::alone).collect();
        findings.sort_by(|a, b| a.check.cmp(&b.check));
        Ok(findings)
    }

    /// Asks and judges one check of a system on trial.
    pub fn ask(&self, name: &str, before: &Before, go_on: &mut dyn FnMut() -> bool) -> Finding {
        let (was, seen) = before.of(name);
        let ran = self.run(name, "check", (was == Was::Working).then_some(seen), go_on);
        let (now, why) = ran.outcome(self.timeout);
        Finding {
            check: name.to_owned(),
            before: was,
            now,
            why,
            verdict: judge(was, now),
        }
    }

    fn run(
        &self,
        name: &str,
        word: &str,
        seen: Option<&str>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Ran {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(PATH));
        let recorded = if seen.is_some() { "yes" } else { "no" };
        let child = Command::new(self.dir.join(name))
            .arg(word)
            .env_clear()
            .env("PATH", path)
            .env("SYSUPGRADE_SLOT", &self.slot)
            .env("SYSUPGRADE_RECORDED", recorded)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                return Ran {
                    end: End::NotStarted(error),
                    seen: Vec::new(),
                    complaint: Vec::new(),
                };
            }
        };
        if let Some(mut input) = child.stdin.take() {
            let seen = seen.unwrap_or_default().as_bytes();
            // A check need not read it.
            let _ = input.write_all(&seen[..seen.len().min(MAX_SEEN)]);
        }
        let mut out = Collected::new(child.stdout.take(), MAX_SEEN);
        let mut err = Collected::new(child.stderr.take(), MAX_COMPLAINT);
        let watched = self.watch(&child, &mut out, &mut err, go_on);
        let end = end(&mut child, watched);
        for pipe in [&mut out, &mut err] {
            pipe.take_rest();
        }
        Ran {
            end,
            seen: out.kept,
            complaint: err.kept,
        }
    }

    /// Waits until the check has ended. `None` if it has; it is not reaped yet.
    fn watch(
        &self,
        child: &Child,
        out: &mut Collected,
        err: &mut Collected,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<End> {
        let began = Instant::now();
        loop {
            match has_ended(child) {
                Ok(true) => return None,
                Ok(false) => {}
                Err(error) => return Some(End::Lost(error)),
            }
            let left = self.timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Some(End::TimedOut);
            }
            if !go_on() {
                return Some(End::CalledOff);
            }
            wait(&mut [out, err], left.min(PAUSE));
        }
    }
}

/// True if the process has ended. It is left as it is, so that its group keeps its number.
fn has_ended(child: &Child) -> io::Result<bool> {
    let pid = pid(child)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
}

fn pid(child: &Child) -> io::Result<Pid> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("no number of a process"))
}

/// Kills what is left of the check, and reaps it if that is soon.
fn end(child: &mut Child, watched: Option<End>) -> End {
    if let Ok(pid) = pid(child) {
        // Nothing is left, as a rule.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let began = Instant::now();
    loop {
        match (child.try_wait(), watched.is_none()) {
            (Ok(Some(status)), true) => return End::Exited(status),
            (Err(error), true) => return End::Lost(error),
            (Ok(None), _) if began.elapsed() < FAREWELL => thread::sleep(PAUSE / 10),
            (_, _) => return watched.unwrap_or(End::TimedOut),
        }
    }
}

/// Waits until one of the pipes has something, and takes it.
fn wait(pipes: &mut [&mut Collected], left: Duration) {
    let open: Vec<_> = pipes
        .iter()
        .filter_map(|pipe| Some(PollFd::from_borrowed_fd(pipe.fd()?, PollFlags::IN)))
        .collect();
    let mut fds = open;
    if fds.is_empty() {
        // It has closed both, and goes on for a moment.
        return thread::sleep(left.min(PAUSE / 10));
    }
    let left = Timespec::try_from(left).unwrap_or_default();
    if poll(&mut fds, Some(&left)).is_err() {
        return thread::sleep(PAUSE / 10);
    }
    let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    drop(fds);
    let open = pipes.iter_mut().filter(|pipe| pipe.pipe.is_some());
    for (pipe, ready) in open.zip(ready) {
        if ready {
            pipe.take();
        }
    }
}

/// What comes through a pipe: the begin of it is kept, the rest is thrown away, so that whoever writes
/// never waits.
struct Collected {
    pipe: Option<Box<dyn Pipe>>,
    kept: Vec<u8>,
    max: usize,
}

trait Pipe: Read + AsFd {}
impl<T: Read + AsFd> Pipe for T {}

impl Collected {
    fn new(pipe: Option<impl Pipe + 'static>, max: usize) -> Self {
        Self {
            pipe: pipe.map(|pipe| Box::new(pipe) as Box<dyn Pipe>),
            kept: Vec::new(),
            max,
        }
    }

    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.pipe.as_ref().map(|pipe| pipe.as_fd())
    }

    /// Takes what is there; to be called when something is, or the pipe is at its end.
    fn take(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut bytes = [0; 4096];
        match pipe.read(&mut bytes) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                let room = self.max - self.kept.len();
                self.kept.extend_from_slice(&bytes[..count.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.pipe = None,
        }
    }

    /// Takes what is in the pipe now, as far as it would be kept.
    fn take_rest(&mut self) {
        while self.kept.len() < self.max {
            let Some(fd) = self.fd() else { return };
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            match poll(&mut fds, Some(&Timespec::default())) {
                Ok(1..) => self.take(),
                _ => return,
            }
        }
    }
}

impl Ran {
    /// What the check says, and why it does not work, in one printable line.
    fn outcome(&self, timeout: Duration) -> (Now, Option<String>) {
        let status = match &self.end {
            End::Exited(status) => *status,
            End::NotStarted(error) => return (Now::Fails, Some(format!("cannot be run: {error}"))),
            End::Lost(error) => return (Now::Fails, Some(format!("cannot be watched: {error}"))),
            End::TimedOut => {
                let seconds = timeout.as_secs_f64();
                return (Now::Fails, Some(format!("no answer within {seconds} s")));
            }
            End::CalledOff => {
                return (Now::Fails, Some("no answer before time was up".to_owned()));
            }
        };
        let now = match status.code() {
            Some(0) => return (Now::Works, None),
            Some(NEVER) => Now::Never,
            _ => Now::Fails,
        };
        let complaint = String::from_utf8_lossy(&self.complaint);
        let complaint = complaint
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty());
        let why = match (complaint, status.code(), status.signal()) {
            (Some(line), ..) => printable(line),
            (None, Some(code), _) => format!("exit status {code}"),
            (None, None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
        };
        (now, Some(why))
    }

    /// What it has seen. A line that was cut off is worse than none.
    fn seen(&self) -> String {
        let whole = match self.seen.len() < MAX_SEEN {
            true => self.seen.as_slice(),
            false => {
                let lines = self.seen.iter().rposition(|byte| *byte == b'\n');
                &self.seen[..lines.map_or(0, |end| end + 1)]
            }
        };
        String::from_utf8_lossy(whole).into_owned()
    }
}
