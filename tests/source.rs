//! Images from the network, pipes and files: what is cut short is an error, and nothing waits for
//! ever.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

mod programs;
mod web;

use sysupgrade_rs::cli::source::{self, MAX_HEAD, Network, Problem, SourceError};
use web::{Page, Reply, Request, Web};

/// A server on the loopback that answers one connection after the other with what it is given, byte
/// for byte, and keeps the requests.
struct Server {
    address: String,
    thread: JoinHandle<Vec<String>>,
}

impl Server {
    /// Each answer goes to one connection, which is closed after it.
    fn start<A: Answer + Send + 'static>(answers: Vec<A>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number").to_string();
        let thread = std::thread::spawn(move || {
            answers
                .into_iter()
                .map(|answer| {
                    let (mut stream, _) = listener.accept().expect("a connection");
                    let request = web::head(&mut stream);
                    answer.give(&mut stream);
                    request
                })
                .collect()
        });
        Self { address, thread }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests that came.
    fn requests(self) -> Vec<String> {
        self.thread.join().expect("the server ran to its end")
    }
}

trait Answer {
    fn give(self, stream: &mut TcpStream);
}

/// Bytes, then the end. The client may have gone by then.
impl Answer for Vec<u8> {
    fn give(self, stream: &mut TcpStream) {
        let _ = stream.write_all(&self);
    }
}

impl Answer for &str {
    fn give(self, stream: &mut TcpStream) {
        self.as_bytes().to_vec().give(stream);
    }
}

impl Answer for String {
    fn give(self, stream: &mut TcpStream) {
        self.into_bytes().give(stream);
    }
}

/// Some bytes, and then nothing until the client goes away.
struct Stall(&'static str);

impl Answer for Stall {
    fn give(self, stream: &mut TcpStream) {
        let _ = stream.write_all(self.0.as_bytes());
        let _ = stream.read(&mut [0]);
    }
}

/// One header after the other, slowly, until the client goes away.
struct Drip;

impl Answer for Drip {
    fn give(self, stream: &mut TcpStream) {
        let pause = Some(Duration::from_millis(10));
        stream.set_read_timeout(pause).expect("a timeout");
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.read(&mut [0]).is_err() && stream.write_all(b"X: y\r\n").is_ok() {}
    }
}

fn flag() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

/// Long enough for anything that happens, short enough to wait for what does not.
fn network(search: &Path) -> Network {
    Network {
        connect: Duration::from_secs(20),
        stall: Duration::from_secs(20),
        pause: Duration::from_millis(1),
        search: search.into(),
    }
}

fn impatient() -> Network {
    Network {
        stall: Duration::from_millis(150),
        ..network(Path::new(""))
    }
}

/// Opens and reads to the end.
fn read_with(
    word: impl AsRef<OsStr>,
    network: &Network,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<u8>, SourceError> {
    let mut stream = source::open_with(word.as_ref(), stop, network)?;
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.downcast().expect("a source names itself")),
    }
}

fn read(word: impl AsRef<OsStr>) -> Result<Vec<u8>, SourceError> {
    read_with(word, &network(Path::new("")), &flag())
}

fn problem(answer: impl Answer + Send + 'static) -> Problem {
    let server = Server::start(vec![answer]);
    match read(server.url("/image")) {
        Err(error) => error.problem,
        Ok(bytes) => panic!("{} bytes were accepted", bytes.len()),
    }
}

fn body(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

fn answer(header: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn a_body_arrives_whole_with_and_without_an_announced_length() {
    let body = body(200_000);
    let announced = format!("Content-Length: {}", body.len());
    for header in [announced.as_str(), "Connection: close"] {
        let server = Server::start(vec![answer(header, &body)]);
        let found = read(server.url("/image?x=1")).expect(header);
        assert!(found == body, "{header}: {} bytes came", found.len());
        let requests = server.requests();
        assert!(
            requests[0].starts_with("GET /image?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"),
            "{requests:?}"
        );
    }
}

#[test]
fn bytes_behind_the_announced_length_are_not_part_of_the_image() {
    let server = Server::start(vec![answer("Content-Length: 3", b"abcdef")]);
    assert_eq!(read(server.url("/")).expect("the body"), b"abc");
}

#[test]
fn credentials_are_sent_and_never_shown() {
    let server = Server::start(vec!["HTTP/1.0 401 Unauthorized\r\n\r\n"]);
    let url = format!("http://user:p%40ss@{}/i", server.address);
    let error = read(url).expect_err("401");
    assert_eq!(error.name, format!("http://***@{}/i", server.address));
    let requests = server.requests();
    let basic = "\r\nAuthorization: Basic dXNlcjpwQHNz\r\n"; // base64 of user:p@ss
    assert!(requests[0].contains(basic), "{requests:?}");
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    let target = Server::start(vec![answer("Content-Length: 1", b"x")]);
    let server = Server::start(vec![redirect(&target.url("/there"))]);
    let url = format!("http://user:secret@{}/i", server.address);
    assert_eq!(read(url).expect("the body"), b"x");
    let requests = target.requests();
    assert!(requests[0].starts_with("GET /there "), "{requests:?}");
    assert!(!requests[0].contains("Authorization"), "{requests:?}");
}

#[test]
fn a_relative_redirect_stays_with_its_server() {
    let found = answer("Content-Length: 1", b"x");
    let away = redirect("other?v=2").into_bytes();
    let server = Server::start(vec![away, found]);
    assert_eq!(read(server.url("/dir/image")).expect("the body"), b"x");
    assert!(server.requests()[1].starts_with("GET /dir/other?v=2 "));
}

#[test]
fn a_redirect_loop_ends() {
    let server = Server::start(vec![redirect("/again"); 6]);
    let error = read(server.url("/")).expect_err("a loop");
    assert!(matches!(error.problem, Problem::Redirects), "{error:?}");
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn a_redirect_leads_to_no_file_and_to_no_option_of_a_program() {
    for location in [
        "file:///etc/passwd",
        "https://-x/",
        "https://h/ -x",
        "ftp://h/",
    ] {
        let found = problem(redirect(location));
        assert!(
            matches!(found, Problem::Address(_)),
            "{location}: {found:?}"
        );
    }
}

#[test]
fn anything_but_200_is_refused_with_what_the_server_says() {
    match problem("HTTP/1.1 404 Not\u{7} Found\r\n\r\n") {
        Problem::Answer(_) => {} // a control character is no HTTP
        other => panic!("{other:?}"),
    }
    for (head, expected) in [
        ("HTTP/1.1 404 Not Found", "the server says 404 Not Found"),
        ("HTTP/1.1 203 Other", "the server says 203 Other"),
        (
            "HTTP/1.0 304 Not Modified",
            "the server says 304 Not Modified",
        ),
    ] {
        let found = problem(format!("{head}\r\nContent-Length: 2\r\n\r\nno"));
        assert_eq!(found.to_string(), expected);
    }
}

#[test]
fn a_short_body_is_an_error_wherever_it_ends() {
    for got in [0, 1, 5_000, 9_999] {
        let short = answer("Content-Length: 10000", &body(got));
        let server = Server::start(vec![short; 7]);
        let found = read(server.url("/image"))
            .expect_err("a short body")
            .problem;
        let expected = format!("ended after {got} of 10000 bytes, and cannot be gone on with");
        assert_eq!(found.to_string(), expected);
        let Problem::GivenUp { last, .. } = found else {
            panic!("{found:?}");
        };
        let expected = format!("truncated after {got} of 10000 bytes");
        assert_eq!(last.to_string(), expected);
        assert_eq!(server.requests().len(), 7);
    }
}

#[test]
fn an_answer_that_is_not_http_or_ends_within_its_head_is_refused() {
    for bytes in [
        "",
        "\u{0}\u{1}\u{2}",
        "SSH-2.0-dropbear\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 302 Found\r\n\r\n",
        "HTTP/1.1 206 Part\r\nContent-Length: 1\r\n\r\nx",
        "HTTP/1.1 206 Part\r\nContent-Range: bytes 0-0/*\r\n\r\nx",
        "HTTP/1.1 206 Part\r\nContent-Range: bytes 0-1/1\r\n\r\nxy",
        "HTTP/1.1 206 Part\r\nContent-Range: bytes 1-0/5\r\n\r\n",
        "HTTP/1.1 206 Part\r\nContent-Range: bytes 0-18446744073709551615/5\r\n\r\n",
        "HTTP/1.1 206 Part\r\nContent-Range: bytes 0-0/1\r\nContent-Length: 2\r\n\r\nxy",
        "HTTP/1.1 206 Part\r\nContent-Range: lines 0-0/1\r\n\r\nx",
    ] {
        let found = problem(bytes);
        assert!(matches!(found, Problem::Answer(_)), "{bytes:?}: {found:?}");
    }
}

#[test]
fn a_server_that_sends_chunks_is_asked_in_the_old_way() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let server = Server::start(vec![chunked, "HTTP/1.0 200 OK\r\n\r\nwhole"]);
    assert_eq!(read(server.url("/")).expect("the body"), b"whole");
    let requests = server.requests();
    assert!(
        requests[0].starts_with("GET / HTTP/1.1\r\n"),
        "{requests:?}"
    );
    assert!(
        requests[1].starts_with("GET / HTTP/1.0\r\n"),
        "{requests:?}"
    );
    let server = Server::start(vec![chunked; 2]);
    let found = read(server.url("/")).expect_err("chunks again").problem;
    assert!(matches!(found, Problem::Answer(_)), "{found:?}");
}

#[test]
fn an_endless_head_is_cut_off() {
    let line = format!("X-Filler: {}\r\n", "a".repeat(1000));
    for head in [line.repeat(2 * MAX_HEAD / 1000), "X: y\r\n".repeat(500)] {
        let found = problem(format!("HTTP/1.1 200 OK\r\n{head}"));
        assert!(matches!(found, Problem::Answer(_)), "{found:?}");
    }
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    for begun in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\n\r\nabc"] {
        let server = Server::start(vec![Stall(begun)]);
        let found = read_with(server.url("/"), &impatient(), &flag()).expect_err("silence");
        assert_eq!(
            found.problem.to_string(),
            "nothing came for 150ms",
            "{begun:?}"
        );
    }
}

#[test]
fn a_head_that_drips_in_is_given_up() {
    let server = Server::start(vec![Drip]);
    let error = read_with(server.url("/"), &impatient(), &flag()).expect_err("a drip");
    assert!(matches!(error.problem, Problem::Stalled(_)), "{error:?}");
}

#[test]
fn nobody_listening_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number");
    drop(listener);
    let error = read(format!("http://{address}/")).expect_err("no server");
    assert!(matches!(error.problem, Problem::Connect(_)), "{error:?}");
}

#[test]
fn the_stop_flag_ends_a_wait_for_the_network() {
    let server = Server::start(vec![Stall("HTTP/1.1 200 OK\r\n\r\nabc")]);
    let stop = flag();
    let network = network(Path::new(""));
    let mut stream = source::open_with(server.url("/").as_ref(), &stop, &network).expect("a head");
    let mut bytes = [0; 3];
    stream.read_exact(&mut bytes).expect("the beginning");
    stop.store(true, Ordering::Relaxed);
    let error = stream.read(&mut bytes).expect_err("the flag is set");
    assert!(source::was_stopped(&error), "{error:?}");
}

/// A transfer from a server that does as `manner` says to one that is good.
fn transfer(
    page: &Page,
    mut manner: impl FnMut(&Request, &Page) -> Reply + Send + 'static,
) -> (Result<Vec<u8>, Problem>, Web) {
    let mine = page.clone();
    let web = Web::start(move |request| manner(request, &mine));
    let network = Network {
        stall: Duration::from_millis(150),
        ..network(Path::new(""))
    };
    let result = read_with(web.url(), &network, &flag()).map_err(|error| error.problem);
    (result, web)
}

fn page(len: usize) -> Page {
    Page::new(&body(len))
}

#[test]
fn a_connection_that_drops_each_mebibyte_costs_no_byte_twice() {
    let page = page(10 << 20);
    let (found, web) = transfer(&page, |request, page| page.give(request).cut(1 << 20));
    assert!(found.expect("all of it") == page.content);
    let seen = web.seen();
    assert_eq!(seen.sent, page.content.len());
    assert_eq!(seen.requests.len(), 11); // 16 KiB first, then ten pieces
    for request in &seen.requests[1..] {
        assert_eq!(request.header("If-Range"), Some("\"one\""));
    }
}

#[test]
fn a_server_that_knows_no_ranges_is_gone_on_with_if_it_gives_more() {
    let page = page(5000);
    let (found, web) = transfer(&page, |request, page| {
        page.whole().cut(1000 * (request.number + 1))
    });
    assert!(found.expect("all of it") == page.content);
    assert_eq!(web.seen().requests.len(), 5);
}

#[test]
fn a_server_that_never_comes_further_is_given_up() {
    let page = page(5000);
    let (found, web) = transfer(&page, |_, page| page.whole().cut(1000));
    let found = found.expect_err("never whole");
    assert!(
        matches!(
            found,
            Problem::GivenUp {
                got: 1000,
                wanted: 5000,
                ..
            }
        ),
        "{found:?}"
    );
    assert_eq!(web.seen().requests.len(), 7);
}

#[test]
fn what_a_server_cannot_do_for_now_is_asked_again() {
    let page = page(100_000);
    let (found, web) = transfer(&page, |request, page| match request.number {
        1 => page.give(request).saying("206 Partial Content", "503 Busy"),
        2 => Reply {
            head: String::new(),
            ..page.give(request).cut(0)
        },
        _ => page.give(request).cut(40_000),
    });
    assert!(found.expect("all of it") == page.content);
    assert_eq!(web.seen().requests.len(), 6);
    let (found, web) = transfer(&page, |request, page| match request.number {
        0 => page.give(request),
        _ => page
            .give(request)
            .saying("206 Partial Content", "403 Forbidden"),
    });
    let found = found.expect_err("it says no");
    assert!(
        matches!(found, Problem::Refused { code: 403, .. }),
        "{found:?}"
    );
    assert_eq!(web.seen().requests.len(), 2);
}

#[test]
fn a_server_that_stalls_is_asked_again_and_then_given_up() {
    let page = page(100_000);
    let (found, _) = transfer(&page, |request, page| match request.number {
        1 => page.give(request).cut(10_000).stalled(),
        _ => page.give(request),
    });
    assert!(found.expect("all of it") == page.content);
    let (found, web) = transfer(&page, |request, page| {
        page.give(request).cut(10_000).stalled()
    });
    // Each connection brings something: it is slow, and not given up.
    assert!(found.expect("all of it") == page.content);
    assert_eq!(web.seen().requests.len(), 10);
    let (found, web) = transfer(&page, |request, page| match request.number {
        0 => page.give(request),
        _ => page.give(request).cut(0).stalled(),
    });
    let found = found.expect_err("silence");
    let Problem::GivenUp { last, .. } = found else {
        panic!("{found:?}");
    };
    assert!(matches!(*last, Problem::Stalled(_)), "{last:?}");
    assert_eq!(web.seen().requests.len(), 8);
}

#[test]
fn another_file_in_the_middle_of_a_transfer_is_refused() {
    let page = page(100_000);
    let [other, weak] = ["ETag: \"two\"\r\n", "ETag: W/\"one\"\r\n"];
    for (what, version, len) in [
        ("another ETag", other, 100_000),
        ("a weak ETag", weak, 100_000),
        ("no ETag", "", 100_000),
        ("longer", &page.version, 100_001),
        ("shorter", &page.version, 99_999),
    ] {
        let changed = Page {
            content: vec![0xee; len],
            version: version.to_owned(),
        };
        for whole in [false, true] {
            let changed = changed.clone();
            let (found, web) = transfer(&page, move |request, page| match request.number {
                0 => page.give(request),
                _ if whole => changed.whole(),
                _ => changed.give(request),
            });
            let found = found.expect_err(what);
            assert!(matches!(found, Problem::Changed), "{what}: {found:?}");
            assert_eq!(web.seen().requests.len(), 2, "{what}");
        }
    }
}

#[test]
fn without_an_etag_the_time_of_the_last_change_tells_one_file_from_another() {
    let time = "Last-Modified: Mon, 23 Nov 2026 08:00:00 GMT\r\n";
    let page = Page {
        version: time.to_owned(),
        ..page(100_000)
    };
    // With a range it need not be said again: the server was told to compare.
    let (found, web) = transfer(&page, |request, page| match request.number {
        0 => page.give(request),
        _ => page.give(request).saying(&page.version, ""),
    });
    assert!(found.expect("all of it") == page.content);
    let condition = web.seen().requests[1].header("If-Range").map(str::to_owned);
    assert_eq!(condition.as_deref(), Some("Mon, 23 Nov 2026 08:00:00 GMT"));
    let (found, _) = transfer(&page, |request, page| match request.number {
        0 => page.give(request),
        _ => page.give(request).saying("08:00:00", "08:00:01"),
    });
    let found = found.expect_err("another time");
    assert!(matches!(found, Problem::Changed), "{found:?}");
}

#[test]
fn another_range_than_was_asked_for_is_refused() {
    let page = page(100_000);
    for lie in [0..80_000, 16_383..100_000, 16_385..100_000, 16_384..99_999] {
        let (found, _) = transfer(&page, move |request, page| match request.number {
            0 => page.give(request),
            _ => page.part(lie.clone()),
        });
        let found = found.expect_err("another range");
        assert!(matches!(found, Problem::OtherRange { .. }), "{found:?}");
    }
    let (found, _) = transfer(&page, |_, page| page.part(1..16_385));
    let found = found.expect_err("another range at once");
    assert!(matches!(found, Problem::OtherRange { .. }), "{found:?}");
}

#[test]
fn a_range_that_is_longer_than_it_says_gives_no_byte_more() {
    let page = page(20_000);
    let (found, _) = transfer(&page, |request, page| {
        let mut reply = page.give(request);
        reply.body.extend([0xee; 100]);
        reply.send = reply.body.len();
        reply
    });
    assert!(found.expect("all of it") == page.content);
}

/// The begin of a file and the end of the connection; and once the client has given that up, the stop flag,
/// if there is one.
struct Drop(Option<Arc<AtomicBool>>);

impl Answer for Drop {
    fn give(self, stream: &mut TcpStream) {
        let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
        let _ = stream.write_all(begun);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0]);
        if let Some(stop) = self.0 {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn the_stop_flag_ends_a_pause() {
    let stop = flag();
    // The first time it goes on at once.
    let server = Server::start(vec![Drop(None), Drop(Some(Arc::clone(&stop)))]);
    let network = Network {
        pause: Duration::from_secs(3600),
        ..network(Path::new(""))
    };
    let error = read_with(server.url("/"), &network, &stop).expect_err("the flag is set");
    assert!(matches!(error.problem, Problem::Stopped), "{error:?}");
}

/// A named pipe.
fn pipe(dir: &Path) -> PathBuf {
    let path = dir.join("pipe");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("a named pipe");
    path
}

#[test]
fn the_stop_flag_ends_a_wait_for_a_pipe_that_nobody_writes_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let pipe = pipe(dir.path());
    let stop = flag();
    let mut stream = source::open_with(pipe.as_os_str(), &stop, &network(Path::new("")))
        .expect("a pipe without a writer opens");
    let setter = std::thread::spawn(move || stop.store(true, Ordering::Relaxed));
    let error = stream.read(&mut [0]).expect_err("the flag is set");
    setter.join().expect("the flag was set");
    assert!(source::was_stopped(&error), "{error:?}");
}

#[test]
fn a_pipe_is_waited_for_and_read_to_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let pipe = pipe(dir.path());
    let mut stream = source::open_with(pipe.as_os_str(), &flag(), &network(Path::new("")))
        .expect("a pipe without a writer opens");
    let body = body(300_000);
    let sent = body.clone();
    let writer = std::thread::spawn(move || std::fs::write(pipe, sent));
    let mut found = Vec::new();
    stream.read_to_end(&mut found).expect("the whole body");
    writer.join().expect("a writer").expect("all was taken");
    assert!(found == body, "{} bytes came", found.len());
}

#[test]
fn other_errors_are_not_taken_for_a_stop() {
    let error = read("/nonexistent/image").expect_err("no file");
    assert!(!source::was_stopped(&error), "{error:?}");
    assert_eq!(error.to_string(), "cannot read /nonexistent/image");
    let cause = error.problem.to_string();
    assert!(cause.starts_with("No such file"), "{cause}");
}

#[test]
fn a_file_is_read_and_a_directory_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("image");
    std::fs::write(&file, b"bytes").expect("a file");
    assert_eq!(read(&file).expect("the file"), b"bytes");
    let error = read(dir.path()).expect_err("a directory");
    let expected = std::io::ErrorKind::IsADirectory;
    assert!(
        matches!(&error.problem, Problem::Io(cause) if cause.kind() == expected),
        "{error:?}"
    );
}

#[test]
fn an_unknown_scheme_is_no_file_name() {
    let error = read("ftp://host/image").expect_err("a scheme");
    assert!(matches!(error.problem, Problem::Address(_)), "{error:?}");
}

/// A directory in which a shell script plays one of the fetchers.
struct Fetcher {
    dir: tempfile::TempDir,
}

impl Fetcher {
    fn new(program: &str, script: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(program);
        programs::write(&path, &format!("#!/bin/sh\n{script}\n")).expect("a script");
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn fetch(program: &str, script: &str) -> Result<Vec<u8>, SourceError> {
    let fetcher = Fetcher::new(program, script);
    read_with("https://h.example/i?a&b", &network(fetcher.path()), &flag())
}

#[test]
fn https_is_fetched_by_a_program_that_gets_the_address_as_one_word() {
    let script = r#"for word; do printf '%s\n' "$word"; done"#;
    for program in ["uclient-fetch", "wget"] {
        let words = fetch(program, script).expect(program);
        let words = String::from_utf8(words).expect("text");
        assert_eq!(words, "-O\n-\nhttps://h.example/i?a&b\n");
    }
    let words = String::from_utf8(fetch("curl", script).expect("curl")).expect("text");
    assert!(words.contains("--fail\n"), "{words}");
    assert!(words.ends_with("\nhttps://h.example/i?a&b\n"), "{words}");
}

#[test]
fn a_redirect_to_https_goes_to_the_fetcher() {
    let fetcher = Fetcher::new("curl", "printf fetched");
    let server = Server::start(vec![redirect("https://h.example/i")]);
    let found = read_with(server.url("/"), &network(fetcher.path()), &flag());
    assert_eq!(found.expect("the body"), b"fetched");
}

#[test]
fn a_fetcher_that_fails_makes_what_it_sent_an_error() {
    let script = "printf half; echo noise >&2; echo 'ERROR 404: Not\tFound' >&2; exit 8";
    let error = fetch("wget", script).expect_err("exit status 8");
    assert_eq!(error.name, "https://h.example/i?a&b");
    assert_eq!(
        error.problem.to_string(),
        "wget failed (exit status: 8): ERROR 404: Not\\u{9}Found"
    );
}

#[test]
fn a_fetcher_may_say_more_than_a_pipe_holds() {
    let script = "i=0; while [ $i -lt 3000 ]; do \
                  echo 'progress progress progress progress' >&2; i=$((i+1)); done; printf body";
    assert_eq!(fetch("wget", script).expect("the body"), b"body");
}

#[test]
fn without_a_fetcher_https_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = read_with("https://h/", &network(dir.path()), &flag()).expect_err("no program");
    assert!(matches!(error.problem, Problem::NoFetcher), "{error:?}");
}

#[test]
fn a_fetcher_is_ended_when_nobody_reads_on() {
    // The script tells its own process id and then waits for ever.
    let fetcher = Fetcher::new("wget", "echo $$; exec sleep 1000");
    let stop = flag();
    let mut stream = source::open_with("https://h/".as_ref(), &stop, &network(fetcher.path()))
        .expect("the program starts");
    let mut line = [0; 16];
    let count = stream.read(&mut line).expect("a process id");
    stop.store(true, Ordering::Relaxed);
    let error = stream
        .read(&mut line[count..])
        .expect_err("the flag is set");
    assert!(source::was_stopped(&error), "{error:?}");
    drop(stream);
    let id = String::from_utf8_lossy(&line[..count]).trim().to_owned();
    assert!(!Path::new("/proc").join(&id).exists(), "process {id} lives");
}

#[test]
fn a_fetcher_that_falls_silent_is_given_up() {
    let fetcher = Fetcher::new("wget", "printf begin; exec sleep 1000");
    let network = Network {
        search: fetcher.path().into(),
        ..impatient()
    };
    let error = read_with("https://h/", &network, &flag()).expect_err("silence");
    assert!(matches!(error.problem, Problem::Stalled(_)), "{error:?}");
}
