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
//! | `http://...` | our own client: one GET, HTTP/1.0, so that no body comes in chunks |
//! | `https://...` | the system's `uclient-fetch`, `wget` or `curl`: no TLS of our own on a router |
//! | anything else | a file, a pipe or a device of that name |
//!
//! Nothing that arrives is trusted here: what the bytes are worth is for the signature to say. The
//! network may delay us until the stall limit, and lie; it cannot make us hold more than [`MAX_HEAD`].

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use thiserror::Error;

use crate::report::printable;

/// The longest answer head that is read. Servers send a few hundred bytes; cookies and policies of a
/// portal in the way may take some KiB.
pub const MAX_HEAD: usize = 16 << 10;
/// More header lines than any server sends.
const MAX_HEADERS: usize = 100;
/// Longer addresses are refused: with the rest of the request they must fit into a send buffer.
const MAX_URL: usize = 2048;
/// A mirror, its canonical name, its storage: three are seen in the field.
const MAX_REDIRECTS: usize = 5;
/// So often the stop flag is looked at while nothing comes. A signal ends the wait sooner.
const SLICE: Duration = Duration::from_millis(100);
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
    /// Directories with programs, as in `PATH`.
    pub search: OsString,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            search: std::env::var_os("PATH")
                .unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()),
        }
    }
}

/// Opens what `word` names; see the module for the kinds.
///
/// # Errors
/// [`SourceError`]; the stream's own errors are `io::Error`s around one.
pub fn open(word: &OsStr, stop: &Arc<AtomicBool>) -> Result<Box<dyn Read>, SourceError> {
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
) -> Result<Box<dyn Read>, SourceError> {
    let wait = Wait {
        stop: Arc::clone(stop),
        stall: None,
    };
    if word == "-" {
        let name = "standard input".to_owned();
        return match io::stdin().as_fd().try_clone_to_owned() {
            // Polled before each read: its blocking mode is shared with other processes.
            Ok(fd) => Ok(named(name, Polled::blocking(File::from(fd), wait))),
            Err(error) => Err(SourceError {
                name,
                problem: error.into(),
            }),
        };
    }
    if !has_scheme(word.as_bytes()) {
        let name = printable(&word.to_string_lossy());
        return match open_file(word) {
            Ok(file) => Ok(named(name, Polled::non_blocking(file, wait))),
            Err(error) => Err(SourceError {
                name,
                problem: error.into(),
            }),
        };
    }
    let mut name = masked(&word.to_string_lossy());
    let wait = Wait {
        stall: Some(network.stall),
        ..wait
    };
    match follow(word, &wait, network, &mut name) {
        Ok(Body::Http(body)) => Ok(named(name, body)),
        Ok(Body::Fetched(body)) => Ok(named(name, body)),
        Err(problem) => Err(SourceError { name, problem }),
    }
}

/// A pipe without a writer must not hold us before the stop flag can.
fn open_file(word: &OsStr) -> io::Result<File> {
    #[expect(
        clippy::cast_possible_wrap,
        reason = "a bit mask that the kernel takes as int"
    )]
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(word)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(file)
}

/// A stream whose reads fail with a [`Problem`].
trait Input {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Problem>;
}

/// Puts the name of a source on its errors.
struct Named<I> {
    name: String,
    input: I,
}

fn named(name: String, input: impl Input + 'static) -> Box<dyn Read> {
    Box::new(Named { name, input })
}

impl<I: Input> Read for Named<I> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.input.read(bytes).map_err(|problem| {
            let name = self.name.clone();
            io::Error::other(SourceError { name, problem })
        })
    }
}

/// What ends a wait for bytes other than bytes.
#[derive(Clone)]
struct Wait {
    stop: Arc<AtomicBool>,
    stall: Option<Duration>,
}

impl Wait {
    fn check(&self) -> Result<(), Problem> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Problem::Stopped);
        }
        Ok(())
    }

    /// The limit, if nothing has come since then for too long.
    fn check_stall(&self, since: Instant) -> Result<(), Problem> {
        match self.stall {
            Some(limit) if since.elapsed() >= limit => Err(Problem::Stalled(limit)),
            _ => Ok(()),
        }
    }

    /// Returns when one of these can be read, or is at its end.
    fn readable(&self, descriptors: &[BorrowedFd<'_>], since: Instant) -> Result<(), Problem> {
        let slice = Timespec::try_from(SLICE).unwrap_or_default();
        let mut wanted: Vec<_> = descriptors
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        loop {
            self.check()?;
            match poll(&mut wanted, Some(&slice)) {
                Ok(0) => self.check_stall(since)?,
                Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(Problem::Io(errno.into())),
            }
        }
    }
}

/// A descriptor that is waited for with `poll`, so that the stop flag and the stall limit count.
struct Polled<R> {
    inner: R,
    wait: Wait,
    /// A read may block, so it is polled first; otherwise only a read that found nothing is.
    blocking: bool,
}

impl<R: Read + AsFd> Polled<R> {
    fn blocking(inner: R, wait: Wait) -> Self {
        Self {
            inner,
            wait,
            blocking: true,
        }
    }

    fn non_blocking(inner: R, wait: Wait) -> Self {
        Self {
            inner,
            wait,
            blocking: false,
        }
    }
}

impl<R: Read + AsFd> Input for Polled<R> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Problem> {
        let since = Instant::now();
        let mut poll_first = self.blocking;
        loop {
            self.wait.check()?;
            if poll_first {
                self.wait.readable(&[self.inner.as_fd()], since)?;
            }
            match self.inner.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait.check_stall(since)?;
                    poll_first = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Ok(other?),
            }
        }
    }
}

/// An address of the form `scheme://[user@]host[:port][/path][?query]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    secure: bool,
    /// Percent-encoded, as written.
    user: Option<String>,
    /// A name or an address, without the brackets of IPv6.
    host: String,
    port: Option<u16>,
    /// Path and query, with a slash in front.
    target: String,
}

/// True for `word://...`; a file of such a name is written `./word://...`.
fn has_scheme(word: &[u8]) -> bool {
    let scheme = word
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
        .count();
    scheme > 0
        && word
            .get(scheme..)
            .is_some_and(|rest| rest.starts_with(b"://"))
}

impl Url {
    fn parse(text: &str) -> Result<Self, Problem> {
        let bad = |why| Err(Problem::Address(why));
        if text.len() > MAX_URL {
            return bad("too long");
        }
        // Neither our request nor a fetcher's command line may hold anything but plain characters.
        if !text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        {
            return bad("blanks, backslashes, control or non-ASCII characters must be encoded");
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return bad("only http:// and https:// are"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(literal) => {
                let Some((host, rest)) = literal.split_once(']') else {
                    return bad("bracket is not closed");
                };
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return bad("not an IPv6 address in brackets");
                }
                match rest.strip_prefix(':') {
                    Some(port) => (host, port),
                    None if rest.is_empty() => (host, ""),
                    None => return bad("something stands behind the bracket"),
                }
            }
            None => place.split_once(':').unwrap_or((place, "")),
        };
        let of_a_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || host.starts_with('-') || !host.bytes().all(of_a_host) {
            return bad("no host");
        }
        let port = match port {
            "" => None,
            digits => match digits.parse() {
                Ok(port) if port > 0 && !digits.starts_with('+') => Some(port),
                _ => return bad("no such port"),
            },
        };
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self {
            secure,
            user,
            host: host.to_owned(),
            port,
            target: format!("{slash}{target}"),
        })
    }

    /// Where a `Location` header leads, seen from here.
    fn join(&self, location: &str) -> Result<Self, Problem> {
        if has_scheme(location.as_bytes()) {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme()));
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let target = if location.starts_with('/') {
            location.to_owned()
        } else {
            format!("{directory}/{location}")
        };
        let origin = Self {
            target: String::new(),
            ..self.clone()
        };
        Self::parse(&format!("{origin}{target}"))
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Host and port as the `Host` header wants them.
    fn place(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://", self.scheme())?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}{}", self.place(), self.target)
    }
}

/// An address for people: printable, and `***` in place of user and password.
fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return printable(text);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, place)) => printable(&format!("{scheme}://***@{place}{target}")),
        None => printable(text),
    }
}

enum Body {
    Http(HttpBody),
    Fetched(Fetched),
}

/// Follows redirects until there is a body; `name` is the address that is being asked.
fn follow(
    word: &OsStr,
    wait: &Wait,
    network: &Network,
    name: &mut String,
) -> Result<Body, Problem> {
    let word = word
        .to_str()
        .ok_or(Problem::Address("it is not made of ASCII characters"))?;
    let mut url = Url::parse(word)?;
    for _ in 0..=MAX_REDIRECTS {
        wait.check()?;
        if url.secure {
            return Fetched::start(&url, wait.clone(), &network.search).map(Body::Fetched);
        }
        match ask(&url, wait, network)? {
            Answer::Body(body) => return Ok(Body::Http(body)),
            Answer::Elsewhere(location) => {
                url = url.join(&location)?;
                *name = masked(&url.to_string());
            }
        }
    }
    Err(Problem::Redirects)
}

enum Answer {
    Body(HttpBody),
    Elsewhere(String),
}

/// Sends one request and reads the head of the answer.
fn ask(url: &Url, wait: &Wait, network: &Network) -> Result<Answer, Problem> {
    let mut stream = connect(url, wait, network.connect)?;
    // Fits into the send buffer of a new connection, so it does not wait for the other side.
    stream.write_all(request(url).as_bytes())?;
    stream.set_nonblocking(true)?;
    let mut stream = Polled::non_blocking(stream, wait.clone());
    let begun = Instant::now();
    let mut held = Vec::new();
    loop {
        if let Some((answer, body_at)) = understand(&held)? {
            let (wanted, early) = match answer {
                Head::Elsewhere(location) => return Ok(Answer::Elsewhere(location)),
                Head::Body { len } => (len, held.split_off(body_at)),
            };
            return Ok(Answer::Body(HttpBody {
                early,
                early_at: 0,
                stream,
                got: 0,
                wanted,
            }));
        }
        if held.len() >= MAX_HEAD {
            return Err(Problem::Answer("its head does not end"));
        }
        wait.check_stall(begun)?; // a head that drips in byte by byte is no head
        let mut piece = [0; 4096];
        match stream.read(&mut piece)? {
            0 if held.is_empty() => return Err(Problem::Answer("it is empty")),
            0 => return Err(Problem::Answer("it ends within its head")),
            count => held.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
    }
}

/// Resolves and connects. Both may block for minutes within the C library, so they happen in a
/// thread that is left to itself when the wait is over.
fn connect(url: &Url, wait: &Wait, limit: Duration) -> Result<TcpStream, Problem> {
    let place = (url.host.clone(), url.port.unwrap_or(80));
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("connect".into())
        .spawn(move || {
            // Nobody may be waiting any more; the connection is closed then.
            let _ = sender.send(connect_any(&place, limit));
        })
        .map_err(Problem::Connect)?;
    let begun = Instant::now();
    loop {
        wait.check()?;
        match receiver.recv_timeout(SLICE) {
            Ok(result) => return result.map_err(Problem::Connect),
            Err(RecvTimeoutError::Timeout) if begun.elapsed() < limit => {}
            Err(_) => return Err(Problem::Connect(io::ErrorKind::TimedOut.into())),
        }
    }
}

fn connect_any(place: &(String, u16), limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in place.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn request(url: &Url) -> String {
    let Url { target, user, .. } = url;
    let mut text = format!(
        "GET {target} HTTP/1.0\r\nHost: {}\r\nUser-Agent: sysupgrade-rs/{}\r\nAccept: */*\r\n\
         Connection: close\r\n",
        url.place(),
        env!("CARGO_PKG_VERSION"),
    );
    if let Some(user) = user {
        let encoded = Base64::encode_string(&percent_decoded(user));
        text.push_str(&format!("Authorization: Basic {encoded}\r\n"));
    }
    text.push_str("\r\n");
    text
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let byte = match after {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match byte {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16)?.try_into().ok()
}

/// The head of an answer that can be used.
enum Head {
    Body { len: Option<u64> },
    Elsewhere(String),
}

/// Reads the head of an answer, if it is complete, and tells where the body begins.
fn understand(bytes: &[u8]) -> Result<Option<(Head, usize)>, Problem> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let body_at = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Problem::Answer("too many header lines"));
        }
        Err(_) => return Err(Problem::Answer("it is not HTTP")),
    };
    let values = |name: &str| {
        let name = name.to_owned();
        response
            .headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(&name))
            .map(|header| std::str::from_utf8(header.value).unwrap_or("?").trim())
    };
    let head = match response.code.unwrap_or_default() {
        200 => {
            if values("Transfer-Encoding").any(|value| !value.eq_ignore_ascii_case("identity")) {
                return Err(Problem::Answer(
                    "it comes in chunks, which nobody asked for",
                ));
            }
            let mut len = None;
            for value in values("Content-Length") {
                let this = content_length(value)?;
                if len.replace(this).is_some_and(|other| other != this) {
                    return Err(Problem::Answer("it has two lengths"));
                }
            }
            Head::Body { len }
        }
        301 | 302 | 303 | 307 | 308 => match values("Location").next() {
            Some(location) => Head::Elsewhere(location.to_owned()),
            None => return Err(Problem::Answer("redirected to nowhere")),
        },
        code => {
            return Err(Problem::Refused {
                code,
                text: printable(response.reason.unwrap_or_default()),
            });
        }
    };
    Ok(Some((head, body_at)))
}

fn content_length(text: &str) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(len) if digits => Ok(len),
        _ => Err(Problem::Answer("its length is not a number")),
    }
}

/// The body of an answer, counted.
struct HttpBody {
    /// What came together with the head, and how much of it is used up.
    early: Vec<u8>,
    early_at: usize,
    stream: Polled<TcpStream>,
    got: u64,
    /// Without a length from the server, the end of the stream is the end.
    wanted: Option<u64>,
}

impl Input for HttpBody {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Problem> {
        let left = self.wanted.map_or(u64::MAX, |wanted| wanted - self.got);
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let Some(bytes) = bytes.get_mut(..room).filter(|bytes| !bytes.is_empty()) else {
            return Ok(0);
        };
        let mut early = self.early.get(self.early_at..).unwrap_or_default();
        let count = if early.is_empty() {
            self.stream.read(bytes)?
        } else {
            let count = early.read(bytes)?;
            self.early_at += count;
            count
        };
        self.got += count as u64;
        match self.wanted {
            Some(wanted) if count == 0 => Err(Problem::Truncated {
                got: self.got,
                wanted,
            }),
            _ => Ok(count),
        }
    }
}

/// What a program fetches for us. It is ended and waited for when we stop reading early.
struct Fetched {
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
    fn start(url: &Url, wait: Wait, search: &OsStr) -> Result<Self, Problem> {
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
            said: printable(&masked(last.unwrap_or("it did not say why"))),
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
        .find(|path| {
            path.metadata().is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            })
        })
}
