//! Where an image comes from: a file, standard input, or the network.
//!
//! [`open`] turns the word on the command line into a stream that is read once, from its first byte
//! to its last. It promises two things that a bare `Read` does not:
//!
//! * a transfer that was cut short is an error, never an early end;
//! * when the stop flag is set, a read that waits ends within a fraction of a second with
//!   [`Problem::Stopped`] ([`was_stopped`] finds it below other errors).
//!
//! | word | source |
//! | --- | --- |
//! | `-` | standard input |
//! | `http://...` | our own client; a connection that ends early is made anew where it ended, and stretches can be asked for ([`Ranged`]) |
//! | `https://...` | the system's `uclient-fetch`, `wget` or `curl`: no TLS of our own on a router; it ends where they give up |
//! | anything else | a file, a pipe or a device of that name |
//!
//! Nothing that arrives is trusted here: what the bytes are worth is for the signature to say. The
//! network may delay us until the stall limit, and lie; it cannot make us hold more than [`MAX_HEAD`].

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;
use thiserror::Error;

use crate::image::{self, Ranged};

mod fetch;
mod http;
mod url;
mod wait;

use fetch::Fetched;
use http::Answer;
use url::{Url, has_scheme, masked};
use wait::{First, Input, Polled, Wait};

/// The longest answer head that is read. Servers send a few hundred bytes; cookies and policies of a
/// portal in the way may take some KiB.
pub const MAX_HEAD: usize = 16 << 10;
/// A mirror, its canonical name, its storage: three are seen in the field.
const MAX_REDIRECTS: usize = 5;
/// What a connection that was closed too early looks like.
const EMPTY: &str = "it is empty";
const CUT_OFF: &str = "it ends within its head";

/// A source that could not be opened, or read to its end.
#[derive(Debug, Error)]
#[error("cannot read {name}")]
pub struct SourceError {
    /// The file or address, printable, without credentials.
    pub name: String,
    /// Why.
    #[source]
    pub problem: Problem,
}

/// Why a source could not be read.
#[derive(Debug, Error)]
pub enum Problem {
    /// The stop flag was set.
    #[error("stopped")]
    Stopped,
    /// The system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not an address that can be fetched; with the reason.
    #[error("not an address that can be fetched: {0}")]
    Address(&'static str),
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// Nothing came for so long.
    #[error("nothing came for {0:?}")]
    Stalled(Duration),
    /// What came is not an HTTP answer that can be used; with the reason.
    #[error("bad answer: {0}")]
    Answer(&'static str),
    /// An answer other than 200.
    #[error("the server says {code} {text}")]
    Refused {
        /// Status code.
        code: u16,
        /// What the server calls it, printable.
        text: String,
    },
    /// Another part of the file than was asked for.
    #[error("bytes {} to {} were asked for, {} to {} came", asked.start, asked.end, sent.start, sent.end)]
    OtherRange {
        /// First byte, and the one after the last.
        asked: Range<u64>,
        /// The same of what came.
        sent: Range<u64>,
    },
    /// In the middle of a transfer the server has another file.
    #[error("the file on the server has changed since its first byte was read")]
    Changed,
    /// Connections ended early, one after the other.
    #[error("ended after {got} of {wanted} bytes, and cannot be gone on with")]
    GivenUp {
        /// Bytes of the file that came.
        got: u64,
        /// Its length.
        wanted: u64,
        /// How the last attempt failed.
        #[source]
        last: Box<Problem>,
    },
    /// Sent on from one place to the next too often.
    #[error("redirected more than {MAX_REDIRECTS} times")]
    Redirects,
    /// The transfer ended early.
    #[error("truncated after {got} of {wanted} bytes")]
    Truncated {
        /// Bytes of the body that came.
        got: u64,
        /// Bytes the server announced.
        wanted: u64,
    },
    /// An image that is read more than once cannot be laid into a file.
    #[error("it has to be laid into {}, and that cannot be written", path.display())]
    Spool {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No program for `https://`.
    #[error("https:// needs uclient-fetch, wget or curl, and none is installed")]
    NoFetcher,
    /// That program failed.
    #[error("{program} failed ({status}): {said}")]
    Fetcher {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last line of what it said, printable.
        said: String,
    },
}

impl Problem {
    /// True if the same request may well be answered a little later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Io(_) | Self::Connect(_) | Self::Stalled(_) | Self::Truncated { .. } => true,
            Self::Answer(why) => [EMPTY, CUT_OFF].contains(why),
            Self::Refused { code, .. } => matches!(code, 408 | 429 | 500..=599),
            _ => false,
        }
    }

    /// What to do now.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Stopped => return None,
            Self::Io(_) | Self::Address(_) => {
                "IMAGE is a file, - for standard input, or an http:// or https:// address"
            }
            Self::Spool { .. } => "free some memory, or give the image as a file on a disk",
            Self::NoFetcher => "install one of them, or fetch the image with another machine",
            Self::Changed => "try again, once the new file is there",
            Self::Connect(_)
            | Self::Stalled(_)
            | Self::Answer(_)
            | Self::Refused { .. }
            | Self::Redirects
            | Self::Truncated { .. }
            | Self::OtherRange { .. }
            | Self::GivenUp { .. }
            | Self::Fetcher { .. } => "check the address and the connection, and try again",
        })
    }
}

impl SourceError {
    /// Of a stream whose reading failed: its own error, if it has given one.
    fn of(name: &str, error: io::Error) -> Self {
        error.downcast().unwrap_or_else(|error| Self {
            name: name.to_owned(),
            problem: Problem::Io(error),
        })
    }
}

/// True if this error, or one below it, is that the stop flag was set.
#[must_use]
pub fn was_stopped(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref(), Some(Problem::Stopped)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// How long to wait for the network, and where to look for programs.
#[derive(Clone, Debug)]
pub struct Network {
    /// For a name to be resolved and a connection to be made.
    pub connect: Duration,
    /// For the next byte.
    pub stall: Duration,
    /// Before the second attempt to go on with a transfer; twice as long before each that follows in vain.
    pub pause: Duration,
    /// Directories with programs, as in `PATH`.
    pub search: OsString,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            pause: Duration::from_secs(1),
            search: std::env::var_os("PATH")
                .unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()),
        }
    }
}

/// Opens what `word` names; see the module for the kinds.
///
/// # Errors
/// [`SourceError`]; the stream's own errors are `io::Error`s around one.
pub fn open(word: &OsStr, stop: &Arc<AtomicBool>) -> Result<Stream, SourceError> {
    open_with(word, stop, &Network::default())
}

/// [`open`] with other limits.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    word: &OsStr,
    stop: &Arc<AtomicBool>,
    network: &Network,
) -> Result<Stream, SourceError> {
    let mut wait = Wait {
        stop: Arc::clone(stop),
        stall: None,
    };
    let mut name = name_of(word);
    let input = if word == "-" {
        standard_input(wait)
    } else if has_scheme(word.as_bytes()) {
        wait.stall = Some(network.stall);
        follow(word, &wait, network, &mut name)
    } else {
        open_file(word, wait)
    };
    match input {
        Ok(input) => Ok(Stream {
            name,
            begin: io::Cursor::default(),
            input,
        }),
        Err(problem) => Err(SourceError { name, problem }),
    }
}

/// An image that was opened.
pub enum Opened {
    /// One of our own kind: read once, from wherever it comes.
    Stream(Stream),
    /// A stock one, which is read more than once.
    File(Stoppable),
}

/// Opens an image; a stock one that is no file is laid into `spool` first, which has no name then, so
/// that its room is free again when this program ends, however it ends.
///
/// # Errors
/// As [`open`]; also when `spool` cannot be written.
pub fn open_image(
    word: &OsStr,
    stop: &Arc<AtomicBool>,
    spool: &Path,
) -> Result<Opened, SourceError> {
    let mut stream = open(word, stop)?;
    let name = name_of(word);
    let failed = |error: io::Error| SourceError::of(&name, error);
    let mut head = Vec::new();
    (&mut stream)
        .take(image::MAX_HEAD)
        .read_to_end(&mut head)
        .map_err(failed)?;
    if image::is_ours(&head) {
        stream.begin = io::Cursor::new(head);
        return Ok(Opened::Stream(stream));
    }
    let is_file = !has_scheme(word.as_bytes()) && fs::metadata(word).is_ok_and(|at| at.is_file());
    let file = if is_file {
        File::open(word).map_err(failed)?
    } else {
        lay(io::Cursor::new(head).chain(stream), spool, &name)?
    };
    let stop = Arc::clone(stop);
    Ok(Opened::File(Stoppable { file, stop }))
}

fn lay(mut stream: impl Read, spool: &Path, name: &str) -> Result<File, SourceError> {
    let failed = |source: io::Error| SourceError {
        name: name.to_owned(),
        problem: Problem::Spool {
            path: spool.to_owned(),
            source,
        },
    };
    match fs::remove_file(spool) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Not through a link that somebody has laid there: the directory is everybody's.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let mut file = options.open(spool).map_err(failed)?;
    fs::remove_file(spool).map_err(failed)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(count) => file.write_all(&buffer[..count]).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SourceError::of(name, error)),
        }
    }
}

/// What messages call an image.
fn name_of(word: &OsStr) -> String {
    match word == "-" {
        true => "standard input".to_owned(),
        false => masked(&word.to_string_lossy()),
    }
}

/// A file whose reads end when the stop flag is set.
#[derive(Debug)]
pub struct Stoppable {
    file: File,
    stop: Arc<AtomicBool>,
}

impl Read for Stoppable {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(SourceError {
                name: "the image".to_owned(),
                problem: Problem::Stopped,
            }));
        }
        self.file.read(bytes)
    }
}

impl Seek for Stoppable {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Polled before each read: its blocking mode is shared with other processes, and not ours to change.
fn standard_input(wait: Wait) -> Result<Box<dyn Input>, Problem> {
    let descriptor = io::stdin().as_fd().try_clone_to_owned()?;
    let file = File::from(descriptor);
    Ok(Box::new(Polled::new(file, First::Poll, wait)))
}

/// Opened without blocking: a pipe without a writer must not hold us where no stop flag counts.
fn open_file(word: &OsStr, wait: Wait) -> Result<Box<dyn Input>, Problem> {
    #[expect(
        clippy::cast_possible_wrap,
        reason = "a bit mask that the kernel takes as int"
    )]
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(word)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(Problem::Io(io::ErrorKind::IsADirectory.into()));
    }
    let first = if kind.is_fifo() {
        First::Poll
    } else {
        First::Read
    };
    Ok(Box::new(Polled::new(file, first, wait)))
}

/// Follows redirects until there is a body; `name` is the address that is being asked.
fn follow(
    word: &OsStr,
    wait: &Wait,
    network: &Network,
    name: &mut String,
) -> Result<Box<dyn Input>, Problem> {
    let word = word
        .to_str()
        .ok_or(Problem::Address("it is not made of ASCII characters"))?;
    let mut url = Url::parse(word)?;
    for _ in 0..=MAX_REDIRECTS {
        if url.secure {
            let fetched = Fetched::start(&url, wait.clone(), &network.search)?;
            return Ok(Box::new(fetched));
        }
        match http::ask(&url, wait, network)? {
            Answer::File(file) => return Ok(file),
            Answer::Elsewhere(location) => {
                url = url.join(&location)?;
                *name = masked(&url.to_string());
            }
        }
    }
    Err(Problem::Redirects)
}

/// An open source. Its errors are [`SourceError`]s inside of [`io::Error`].
pub struct Stream {
    name: String,
    /// Was read before, and is read again.
    begin: io::Cursor<Vec<u8>>,
    input: Box<dyn Input>,
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.begin.read(bytes)?;
        if count > 0 || bytes.is_empty() {
            return Ok(count);
        }
        self.input.read(bytes).map_err(|problem| {
            let name = self.name.clone();
            io::Error::other(SourceError { name, problem })
        })
    }
}

impl Ranged for Stream {
    fn has_ranges(&self) -> bool {
        self.input.has_ranges()
    }

    fn go(&mut self, stretch: Range<u64>) {
        self.begin = io::Cursor::default();
        self.input.go(stretch);
    }
}
