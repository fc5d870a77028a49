//! `http://`: one GET and its answer.
//!
//! HTTP/1.0, so that the body is the rest of the connection and never comes in chunks. The head is
//! bounded in size and in time; a length the server announces is held against what comes.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};

use super::url::Url;
use super::wait::{First, Input, Polled, SLICE, Wait};
use super::{MAX_HEAD, Problem};
use crate::report::printable;

/// More header lines than any server sends.
const MAX_HEADERS: usize = 100;

pub(super) enum Answer {
    Body(HttpBody),
    Elsewhere(String),
}

/// Sends one request and reads the head of the answer.
pub(super) fn ask(url: &Url, wait: &Wait, limit: Duration) -> Result<Answer, Problem> {
    let mut stream = connect(url, wait, limit)?;
    // Fits into the send buffer of a new connection, so it does not wait for the other side.
    stream.write_all(request(url).as_bytes())?;
    stream.set_nonblocking(true)?;
    let mut stream = Polled::new(stream, First::Read, wait.clone());
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
pub(super) struct HttpBody {
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
