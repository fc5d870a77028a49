//! `https://`: the system's own program fetches, so that a router has one TLS library, its own.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::Instant;

use rustix::fs::OFlags;

use super::Problem;
use super::url::{Url, masked};
use super::wait::{Input, SLICE, Wait};
use crate::files;

/// So much of what a fetcher says is kept; the last line of it is shown.
const MAX_SAID: usize = 1024;
/// The programs that fetch `https://`, the one that OpenWrt has first.
const FETCHERS: [(&str, &[&str]); 3] = [
    ("uclient-fetch", &["-O", "-"]),
    ("wget", &["-O", "-"]),
    (
        "curl",
        &[
            "--fail",
            "--silent",
            "--show-error",
            "--globoff",
            "--location",
            "--max-redirs",
            "5",
            "--proto",
            "=https",
        ],
    ),
];

/// What a program fetches for us. It is ended and waited for when we stop reading early.
pub(super) struct Fetched {
    program: &'static str,
    child: Child,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    said: Vec<u8>,
    wait: Wait,
    /// Its end was seen and was good.
    complete: bool,
}

impl Fetched {
    pub(super) fn start(url: &Url, wait: Wait, search: &OsStr) -> Result<Self, Problem> {
        let (program, path, words) = FETCHERS
            .into_iter()
            .find_map(|(program, words)| Some((program, find(program, search)?, words)))
            .ok_or(Problem::NoFetcher)?;
        // Begins with `https://`, so that no program takes it for an option.
        let url = url.to_string();
        let mut child = Command::new(path)
            .args(words)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Problem::Io(io::ErrorKind::BrokenPipe.into()));
        };
        let fetched = Self {
            program,
            child,
            stdout,
            stderr: Some(stderr),
            said: Vec::new(),
            wait,
            complete: false,
        };
        set_non_blocking(&fetched.stdout)?;
        if let Some(stderr) = &fetched.stderr {
            set_non_blocking(stderr)?;
        }
        Ok(fetched)
    }

    /// Takes in what the program says, so that it never waits for us to listen.
    fn listen(&mut self) {
        let mut piece = [0; 1024];
        while let Some(stderr) = &mut self.stderr {
            match stderr.read(&mut piece) {
                Ok(count) if count > 0 => {
                    self.said
                        .extend_from_slice(piece.get(..count).unwrap_or_default());
                    let surplus = self.said.len().saturating_sub(MAX_SAID);
                    self.said.drain(..surplus);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.stderr = None,
            }
        }
    }

    /// The program has closed its output: did it mean that?
    fn end(&mut self) -> Result<(), Problem> {
        let since = Instant::now();
        let status = loop {
            self.listen();
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            self.wait.check()?;
            self.wait.check_stall(since)?;
            std::thread::sleep(SLICE / 10);
        };
        self.listen();
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&self.said);
        let mut lines = said.split(['\n', '\r']).map(str::trim);
        let last = lines.rfind(|line| !line.is_empty());
        Err(Problem::Fetcher {
            program: self.program,
            status,
            said: masked(last.unwrap_or("it did not say why")),
        })
    }
}

impl Input for Fetched {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Problem> {
        let since = Instant::now();
        loop {
            self.wait.check()?;
            if self.complete {
                return Ok(0);
            }
            self.listen();
            match self.stdout.read(bytes) {
                Ok(0) if !bytes.is_empty() => {
                    self.end()?;
                    self.complete = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait.check_stall(since)?;
                    let mut both = vec![self.stdout.as_fd()];
                    both.extend(self.stderr.as_ref().map(AsFd::as_fd));
                    self.wait.readable(&both, since)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Ok(other?),
            }
        }
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // By its own id, which stays its own until it has been waited for. Both fail only for a
        // program that has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_non_blocking(descriptor: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&descriptor)?;
    rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
    Ok(())
}

/// The first executable file of that name.
fn find(program: &str, search: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search)
        .map(|dir| dir.join(program))
        .find(|path| files::is_program(path))
}
