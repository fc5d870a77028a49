//! A server on the loopback that gives one file, as well or as badly as a test wants it.
#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What a client asks for.
pub struct Request {
    /// Counted from 0.
    pub number: usize,
    /// All of its head.
    pub head: String,
    /// First byte and the one after the last, of a range.
    pub range: Option<Range<usize>>,
}

impl Request {
    fn new(number: usize, head: String) -> Self {
        let mut request = Self {
            number,
            range: None,
            head,
        };
        request.range = request.header("Range").map(|range| {
            let range = range.strip_prefix("bytes=").expect("bytes are asked for");
            let (first, last) = range.split_once('-').expect("a range");
            let last: usize = last.parse().expect("its last byte");
            first.parse().expect("its first byte")..last + 1
        });
        request
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.trim()))
    }
}

/// What the server answers.
pub struct Reply {
    pub head: String,
    pub body: Vec<u8>,
    /// So many bytes of the body are sent.
    pub send: usize,
    /// After them the connection is kept open, and nothing comes.
    pub stall: bool,
}

impl Reply {
    /// Only so much of it.
    pub fn cut(mut self, send: usize) -> Self {
        self.send = self.send.min(send);
        self
    }

    pub fn stalled(mut self) -> Self {
        self.stall = true;
        self
    }

    /// With other words in its head.
    pub fn saying(mut self, old: &str, new: &str) -> Self {
        assert!(self.head.contains(old), "{old} is not in {}", self.head);
        self.head = self.head.replace(old, new);
        self
    }
}

/// A file as a good server gives it.
#[derive(Clone)]
pub struct Page {
    pub content: Vec<u8>,
    /// Header lines that tell its version.
    pub version: String,
}

impl Page {
    pub fn new(content: &[u8]) -> Self {
        Self {
            content: content.to_vec(),
            version: "ETag: \"one\"\r\nLast-Modified: Mon, 23 Nov 2026 08:00:00 GMT\r\n".to_owned(),
        }
    }

    /// The range that is asked for, or all of it.
    pub fn give(&self, request: &Request) -> Reply {
        match &request.range {
            Some(range) => self.part(range.clone()),
            None => self.whole(),
        }
    }

    pub fn whole(&self) -> Reply {
        let (len, version) = (self.content.len(), &self.version);
        Reply {
            head: format!("HTTP/1.1 200 OK\r\n{version}Content-Length: {len}\r\n\r\n"),
            body: self.content.clone(),
            send: len,
            stall: false,
        }
    }

    pub fn part(&self, range: Range<usize>) -> Reply {
        let (len, version) = (self.content.len(), &self.version);
        let range = range.start..range.end.min(len);
        let (first, last) = (range.start, range.end - 1);
        let body = self.content[range].to_vec();
        Reply {
            head: format!(
                "HTTP/1.1 206 Partial Content\r\n{version}Content-Length: {}\r\n\
                 Content-Range: bytes {first}-{last}/{len}\r\n\r\n",
                body.len()
            ),
            send: body.len(),
            body,
            stall: false,
        }
    }
}

/// What the server has seen.
#[derive(Default)]
pub struct Seen {
    pub requests: Vec<Request>,
    /// Bytes of bodies that were sent.
    pub sent: usize,
}

pub struct Web {
    address: String,
    seen: Arc<Mutex<Seen>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    /// Each request gets what `answer` gives, on a connection of its own.
    pub fn start(mut answer: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number").to_string();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let done = Arc::new(AtomicBool::new(false));
        let (log, end) = (Arc::clone(&seen), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.expect("a connection");
                let number = lock(&log).requests.len();
                let request = Request::new(number, head(&mut stream));
                let reply = answer(&request);
                lock(&log).requests.push(request);
                give(&mut stream, &reply, &log);
            }
        });
        Self {
            address,
            seen,
            done,
            thread: Some(thread),
        }
    }

    /// A good server.
    pub fn with(page: Page) -> Self {
        Self::start(move |request| page.give(request))
    }

    pub fn url(&self) -> String {
        format!("http://{}/image", self.address)
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address); // it waits for a connection
        let thread = self.thread.take().map(JoinHandle::join);
        if let (Some(Err(_)), false) = (thread, std::thread::panicking()) {
            panic!("the server failed");
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads up to the empty line.
pub(crate) fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(head).expect("a request is text")
}

/// The client may go at any time.
fn give(stream: &mut TcpStream, reply: &Reply, seen: &Mutex<Seen>) {
    let mut alive = stream.write_all(reply.head.as_bytes()).is_ok();
    for piece in reply.body[..reply.send].chunks(16 << 10) {
        alive = alive && stream.write_all(piece).is_ok();
        if alive {
            lock(seen).sent += piece.len();
        }
    }
    if reply.stall && alive {
        let _ = stream.read(&mut [0]);
    }
}
