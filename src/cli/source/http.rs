//! `http://`: a file on a server, and the connections it comes by.
//!
//! The first answer tells what the file is: its length, and a strong ETag or the time of its last
//! change. The first request asks for no more than the head of an image, so that it shows at the
//! price of one round trip whether the server gives ranges (RFC 9110, 14): who wants all of it
//! asks for the rest, who wants some stretches asks for these.
//!
//! ```text
//! a connection ends early, or nothing comes    asked again, from the first byte that is missing
//!   206, another range than was asked for      refused
//!   206 or 200, another ETag, time or length   refused: two files must not be made into one
//!   200, the same file                         read on from its begin, what is known passed over
//!   no, for now (408, 429, 5xx)                asked again, as after a connection that ended
//! ```
//!
//! It is asked for at once, then after a pause, each twice as long as the one before; a byte that is new ends
//! the row, and after [`MAX_FAILURES`] without one the transfer is given up. Only what has begun is asked for again.
//!
//! Requests are HTTP/1.1, since some servers (lighttpd) know ranges there only. One that would send a file in
//! chunks is asked once more, in HTTP/1.0, where the body is the rest of the connection. The head of an answer
//! is bounded in size and in time.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};

use super::url::Url;
use super::wait::{First, Input, Polled, SLICE, Wait};
use super::{CUT_OFF, EMPTY, MAX_HEAD, Network, Problem};
use crate::image::SHORTEST_GAP;
use crate::report::printable;

/// More header lines than any server sends.
const MAX_HEADERS: usize = 100;

/// Requests in a row that bring nothing new. With their pauses, 31 s, they outlast a lost link.
const MAX_FAILURES: u32 = 6;

/// What the first request asks for: the manifest of an image with a dozen parts, and its signatures.
const FIRST: u64 = 16 << 10;

/// The longest ETag or date that is sent back. Servers have 20 to 70 bytes.
const MAX_VALIDATOR: usize = 256;

const CHUNKED: &str = "it comes in chunks, which nobody asked for";

pub(super) enum Answer {
    File(Box<Remote>),
    Elsewhere(String),
}

/// Asks for a file for the first time.
pub(super) fn ask(url: &Url, wait: &Wait, network: &Network) -> Result<Answer, Problem> {
    let mut asked = Asked {
        http: "1.1",
        range: 0..FIRST,
        of: None,
    };
    let (head, early, stream) = match exchange(url, &asked, wait, network.connect) {
        Err(Problem::Answer(CHUNKED)) => {
            asked.http = "1.0";
            exchange(url, &asked, wait, network.connect)?
        }
        answer => answer?,
    };
    let (body, len, version, has_ranges) = match head {
        Head::Elsewhere(location) => return Ok(Answer::Elsewhere(location)),
        Head::Whole {
            len,
            version,
            has_ranges,
        } => (0..len.unwrap_or(u64::MAX), len, version, has_ranges),
        Head::Part {
            range,
            len,
            version,
        } => {
            check_range(&range, &asked.range, len)?;
            (range, Some(len), version, true)
        }
    };
    Ok(Answer::File(Box::new(Remote {
        url: url.clone(),
        wait: wait.clone(),
        network: network.clone(),
        len,
        version,
        has_ranges,
        at: 0,
        until: None,
        body: Some(Body {
            early,
            early_at: 0,
            stream,
            range: body,
        }),
        failures: 0,
    })))
}

/// What is asked for: a range, of the file that is known if it is.
struct Asked<'a> {
    http: &'static str,
    range: Range<u64>,
    of: Option<&'a Version>,
}

/// Sends one request and reads the head of the answer. Returns it with what has come of the body.
fn exchange(
    url: &Url,
    asked: &Asked<'_>,
    wait: &Wait,
    limit: Duration,
) -> Result<(Head, Vec<u8>, Polled<TcpStream>), Problem> {
    let mut stream = connect(url, wait, limit)?;
    // Fits into the send buffer of a new connection, so it does not wait for the other side.
    stream.write_all(request(url, asked).as_bytes())?;
    stream.set_nonblocking(true)?;
    let mut stream = Polled::new(stream, First::Read, wait.clone());
    let begun = Instant::now();
    let mut held = Vec::new();
    loop {
        if let Some((head, body_at)) = understand(&held)? {
            let early = held.split_off(body_at);
            return Ok((head, early, stream));
        }
        if held.len() >= MAX_HEAD {
            return Err(Problem::Answer("its head does not end"));
        }
        wait.check_stall(begun)?; // a head that drips in byte by byte is no head
        let mut piece = [0; 4096];
        match stream.read(&mut piece)? {
            0 if held.is_empty() => return Err(Problem::Answer(EMPTY)),
            0 => return Err(Problem::Answer(CUT_OFF)),
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

fn request(url: &Url, asked: &Asked<'_>) -> String {
    let Url { target, user, .. } = url;
    let Range { start, end } = asked.range;
    let (http, last) = (asked.http, end.saturating_sub(1));
    let mut text = format!(
        "GET {target} HTTP/{http}\r\nHost: {}\r\nUser-Agent: sysupgrade-rs/{}\r\nAccept: */*\r\n\
         Accept-Encoding: identity\r\nConnection: close\r\nRange: bytes={start}-{last}\r\n",
        url.place(),
        env!("CARGO_PKG_VERSION"),
    );
    if let Some(unchanged) = asked.of.and_then(Version::condition) {
        text.push_str(&format!("If-Range: {unchanged}\r\n"));
    }
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

/// Which content a file has, as far as its server says.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    /// A strong one: it changes with every byte. Others are left out.
    etag: Option<String>,
    /// The time of its last change, as the server writes it.
    modified: Option<String>,
}

impl Version {
    /// What a server is to compare before it sends a range.
    fn condition(&self) -> Option<&str> {
        self.etag.as_deref().or(self.modified.as_deref())
    }

    /// True if an answer is about the same content. A server that was given a time to compare need
    /// not send it with a range; an ETag it must (RFC 9110, 15.3.7). Of one that says nothing at all
    /// only the length is known; the signed digests tell the rest.
    fn is_still(&self, now: &Self, in_part: bool) -> bool {
        if self.etag.is_some() {
            return now.etag == self.etag;
        }
        now.modified == self.modified || (in_part && now.modified.is_none())
    }
}

/// The head of an answer that can be used.
enum Head {
    Whole {
        len: Option<u64>,
        version: Version,
        /// The server says that it gives ranges, too.
        has_ranges: bool,
    },
    Part {
        range: Range<u64>,
        len: u64,
        version: Version,
    },
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
    let code = response.code.unwrap_or_default();
    let mut len = None;
    if let 200 | 206 = code {
        if values("Transfer-Encoding").any(|value| !value.eq_ignore_ascii_case("identity")) {
            return Err(Problem::Answer(CHUNKED));
        }
        for value in values("Content-Length") {
            let this = number(value).ok_or(Problem::Answer("its length is not a number"))?;
            if len.replace(this).is_some_and(|other| other != this) {
                return Err(Problem::Answer("it has two lengths"));
            }
        }
    }
    let printed = |value: &&str| {
        value.len() <= MAX_VALIDATOR && value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    let first = |name| values(name).next().filter(printed).map(str::to_owned);
    let version = Version {
        etag: first("ETag").filter(|tag| tag.starts_with('"')),
        modified: first("Last-Modified"),
    };
    let head = match code {
        200 => Head::Whole {
            len,
            version,
            has_ranges: values("Accept-Ranges").any(|value| value.eq_ignore_ascii_case("bytes")),
        },
        206 => {
            let (range, whole) = values("Content-Range")
                .next()
                .and_then(content_range)
                .ok_or(Problem::Answer(
                    "it does not say which part of a file it is",
                ))?;
            if len.is_some_and(|len| len != range.end - range.start) {
                return Err(Problem::Answer("it has another length than its range"));
            }
            Head::Part {
                range,
                len: whole,
                version,
            }
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

/// `bytes FIRST-LAST/LENGTH`, as a range that is not empty and inside of a file of that length.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, len) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, len) = (number(first)?, number(last)?, number(len)?);
    (first <= last && last < len).then(|| (first..last + 1, len))
}

fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The range must be the one that was asked for, as far as the file goes.
fn check_range(range: &Range<u64>, asked: &Range<u64>, len: u64) -> Result<(), Problem> {
    if *range == (asked.start..asked.end.min(len)) {
        return Ok(());
    }
    Err(Problem::OtherRange {
        asked: asked.clone(),
        sent: range.clone(),
    })
}

/// A file on a server, as it was when the first answer came. It is read forwards.
pub(super) struct Remote {
    url: Url,
    wait: Wait,
    network: Network,
    /// Without a length from the server, the end of the connection is the end.
    len: Option<u64>,
    version: Version,
    has_ranges: bool,
    /// The byte that is read next.
    at: u64,
    /// Nobody is known to want what begins here.
    until: Option<u64>,
    body: Option<Body>,
    /// Requests in a row that have brought nothing new.
    failures: u32,
}

/// A connection, and the bytes of the file that it is to give.
struct Body {
    /// What came together with the head, and how much of it is used up.
    early: Vec<u8>,
    early_at: usize,
    stream: Polled<TcpStream>,
    range: Range<u64>,
}

impl Body {
    /// Reads from the front of its range; 0 at the end of the connection.
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Problem> {
        let left = self.range.end - self.range.start;
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = bytes.get_mut(..room).unwrap_or_default();
        let mut early = self.early.get(self.early_at..).unwrap_or_default();
        let count = if early.is_empty() {
            self.stream.read(bytes)?
        } else {
            let count = early.read(bytes)?;
            self.early_at += count;
            count
        };
        self.range.start += count as u64;
        Ok(count)
    }

    /// Reads what comes before a byte, and keeps nothing; false if the connection ends there.
    fn pass_over(&mut self, to: u64) -> Result<bool, Problem> {
        let mut known = [0; 4096];
        while let left @ 1.. = to.saturating_sub(self.range.start) {
            let most = usize::try_from(left).map_or(known.len(), |left| left.min(known.len()));
            if self.read(&mut known[..most])? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Remote {
    /// One attempt to read; at least one byte, or the end of the file.
    fn attempt(&mut self, bytes: &mut [u8]) -> Result<usize, Problem> {
        if self.len.is_some_and(|len| len <= self.at) {
            return Ok(0);
        }
        let body = match self.body.take() {
            Some(body) => body,
            None => self.go_on()?,
        };
        let body = self.body.insert(body);
        let count = match body.pass_over(self.at)? {
            true => body.read(bytes)?,
            false => 0,
        };
        self.at += count as u64;
        if let (0, Some(wanted)) = (count, self.len) {
            let got = self.at;
            return Err(Problem::Truncated { got, wanted });
        }
        if body.range.is_empty() {
            self.body = None;
        }
        if self.until.is_some_and(|until| self.at >= until) {
            self.until = None;
        }
        Ok(count)
    }

    /// Asks for what comes next.
    fn go_on(&mut self) -> Result<Body, Problem> {
        let len = self.len.unwrap_or(u64::MAX);
        let asked = Asked {
            http: "1.1",
            range: self.at..self.until.map_or(len, |until| until.min(len)),
            of: Some(&self.version),
        };
        let limit = self.network.connect;
        let (head, early, stream) = exchange(&self.url, &asked, &self.wait, limit)?;
        let range = match head {
            Head::Elsewhere(_) => return Err(Problem::Answer("it leads elsewhere by now")),
            Head::Part {
                range,
                len: now,
                version,
            } => {
                if now != len || !self.version.is_still(&version, true) {
                    return Err(Problem::Changed);
                }
                check_range(&range, &asked.range, len)?;
                range
            }
            Head::Whole {
                len: now, version, ..
            } => {
                if now != self.len || !self.version.is_still(&version, false) {
                    return Err(Problem::Changed);
                }
                self.has_ranges = false;
                0..len
            }
        };
        Ok(Body {
            early,
            early_at: 0,
            stream,
            range,
        })
    }
}

impl Input for Remote {
    fn has_ranges(&self) -> bool {
        self.has_ranges && self.len.is_some()
    }

    /// What a connection is about to give anyhow is read on, if it is not far.
    fn go(&mut self, stretch: Range<u64>) {
        self.at = stretch.start;
        self.until = Some(stretch.end);
        let has_ranges = self.has_ranges;
        self.body.take_if(|body| {
            let near = body.range.start.saturating_add(SHORTEST_GAP);
            let is_useful =
                body.range.contains(&stretch.start) && (stretch.start < near || !has_ranges);
            !is_useful
        });
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Problem> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let problem = match self.attempt(bytes) {
                Ok(count) => {
                    self.failures = 0;
                    return Ok(count);
                }
                Err(problem) => problem,
            };
            self.body = None;
            let Some(wanted) = self.len.filter(|_| problem.may_pass()) else {
                return Err(problem);
            };
            if self.failures == MAX_FAILURES {
                return Err(Problem::GivenUp {
                    got: self.at,
                    wanted,
                    last: Box::new(problem),
                });
            }
            let pauses = (1 << self.failures) >> 1;
            self.wait.pause(self.network.pause * pauses)?;
            self.failures += 1;
        }
    }
}
