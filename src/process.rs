//! Runs programs that may hang, flood, die or not exist.
//!
//! Nobody waits for a program: whoever runs it is called back about ten times a second, and can feed a
//! watchdog or call it off. A program runs in a process group of its own, which is killed as a whole
//! when the program has ended or its time is up. Its environment has only what it is given, and where
//! programs are.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// The most that a program is given to read, in bytes. It fits into the smallest pipe, so that to write
/// it waits for nobody.
pub const MAX_INPUT: usize = 4096;

/// How often the caller is called back at least.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a program that was killed is waited for. One that hangs in the kernel does not end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where programs are, if nobody says.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The most that is kept of what a program complains about.
const MAX_COMPLAINT: usize = 1024;

/// What a program is given.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it may run.
    pub timeout: Duration,
    /// Bytes of its standard output that are kept; the rest is thrown away.
    pub output: usize,
}

/// How a program ended.
#[derive(Debug)]
pub enum End {
    /// By itself, or by a signal that is not ours.
    Exited(ExitStatus),
    /// It does not exist, or is no program.
    NotStarted(io::Error),
    /// It could not be watched.
    Lost(io::Error),
    /// It was killed because its time was up.
    TimedOut,
    /// It was killed because the caller wanted it to be.
    CalledOff,
}

/// A program that was run.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub end: End,
    /// Standard output, as far as it is kept.
    pub output: Vec<u8>,
    /// Standard error, as far as it is kept.
    complaint: Vec<u8>,
}

impl Ran {
    /// Why it did not do what it was asked for, in one line: its own words if it had any, as they are.
    #[must_use]
    pub fn why(&self, timeout: Duration) -> String {
        let status = match &self.end {
            End::Exited(status) => status,
            End::NotStarted(error) => return format!("cannot be run: {error}"),
            End::Lost(error) => return format!("cannot be watched: {error}"),
            End::TimedOut => return format!("no answer within {} s", timeout.as_secs_f64()),
            End::CalledOff => return "no answer before time was up".to_owned(),
        };
        let complaint = String::from_utf8_lossy(&self.complaint);
        let complaint = complaint
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty());
        match (complaint, status.code(), status.signal()) {
            (Some(line), ..) => line.to_owned(),
            (None, Some(code), _) => format!("exit status {code}"),
            (None, None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
        }
    }
}

/// Runs a program with these bytes, at most [`MAX_INPUT`], as its standard input. `go_on` is called about
/// ten times a second; when it says no, the program is called off.
pub fn run(
    command: &mut Command,
    input: &[u8],
    limits: Limits,
    go_on: &mut dyn FnMut() -> bool,
) -> Ran {
    let child = command
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
                output: Vec::new(),
                complaint: Vec::new(),
            };
        }
    };
    if let Some(mut pipe) = child.stdin.take() {
        // A program need not read it.
        let _ = pipe.write_all(&input[..input.len().min(MAX_INPUT)]);
    }
    let mut out = Collected::new(child.stdout.take(), limits.output);
    let mut err = Collected::new(child.stderr.take(), MAX_COMPLAINT);
    let watched = watch(&child, &mut out, &mut err, limits.timeout, go_on);
    let end = end(&mut child, watched);
    for pipe in [&mut out, &mut err] {
        pipe.take_rest();
    }
    Ran {
        end,
        output: out.kept,
        complaint: err.kept,
    }
}

/// A command with nothing in its environment but where programs are.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(PATH));
    let mut command = Command::new(program);
    command.env_clear().env("PATH", path);
    command
}

/// Waits until the program has ended. `None` if it has; it is not reaped yet.
fn watch(
    child: &Child,
    out: &mut Collected,
    err: &mut Collected,
    timeout: Duration,
    go_on: &mut dyn FnMut() -> bool,
) -> Option<End> {
    let began = Instant::now();
    loop {
        match has_ended(child) {
            Ok(true) => return None,
            Ok(false) => {}
            Err(error) => return Some(End::Lost(error)),
        }
        let left = timeout.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Some(End::TimedOut);
        }
        if !go_on() {
            return Some(End::CalledOff);
        }
        wait(&mut [out, err], left.min(PAUSE));
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

/// Kills what is left of the program, and reaps it if that is soon.
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

    fn fd(&self) -> Option<BorrowedFd<'_>> {
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
