//! What is said beside the answer: on standard error, under the name this program was called by.
//!
//! In the place of OpenWrt's `sysupgrade` it speaks as that does: as `upgrade`, and to the system log,
//! too, so that an upgrade that somebody's web page has started can be read up afterwards.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::files::below;

/// The name that makes this program a drop-in for OpenWrt's.
const DROP_IN: &str = "sysupgrade";

/// Where the system log listens (RFC 3164, over a datagram socket).
const LOG: &str = "/dev/log";

/// Facility user (1), severity informational (6), as `logger -t` has them.
const PRIORITY: u8 = 1 << 3 | 6;

/// The name by which a process was called does not change, nor does the root it works on.
static IS_DROP_IN: AtomicBool = AtomicBool::new(false);
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Remembers the name of the program, the first word of its command line.
pub(super) fn called(program: Option<&OsStr>) -> bool {
    let name = program.and_then(|program| Path::new(program).file_name());
    let is_drop_in = name == Some(OsStr::new(DROP_IN));
    IS_DROP_IN.store(is_drop_in, Ordering::Relaxed);
    is_drop_in
}

/// True under the name of OpenWrt's tool.
pub(super) fn is_drop_in() -> bool {
    IS_DROP_IN.load(Ordering::Relaxed)
}

/// The directory that stands for `/`, with its system log.
pub(super) fn speak_in(root: &Path) {
    let _ = ROOT.set(root.to_owned()); // once a process
}

/// Prints to standard error; whoever has closed it does not want to know.
pub(super) fn complain(text: &str) {
    let name = if is_drop_in() {
        "upgrade"
    } else {
        "sysupgrade-rs"
    };
    let _ = writeln!(io::stderr(), "{name}: {text}");
    log(text);
}

/// Tells the system log, if we speak as stock tools do and somebody listens.
pub(super) fn log(text: &str) {
    if is_drop_in() {
        let root = ROOT.get().map_or(Path::new("/"), PathBuf::as_path);
        send(text, &below(root, Path::new(LOG)));
    }
}

/// A message for each line. Nothing waits for it.
fn send(text: &str, log: &Path) {
    let Ok(socket) = UnixDatagram::unbound() else {
        return;
    };
    if socket.set_nonblocking(true).is_ok() {
        for line in text.lines() {
            let _ = socket.send_to(format!("<{PRIORITY}>upgrade: {line}").as_bytes(), log);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_log_gets_each_line_as_an_informational_message_of_upgrade() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        send("the image is not signed\n  use a signed image", &path);
        // What `logger -p user.info -t upgrade` sends, but for the time, which the log has itself.
        for expected in [
            "<14>upgrade: the image is not signed",
            "<14>upgrade:   use a signed image",
        ] {
            let mut message = [0; 100];
            let len = log.recv(&mut message).unwrap();
            assert_eq!(String::from_utf8_lossy(&message[..len]), expected);
        }
    }

    #[test]
    fn nothing_waits_for_a_log_that_nobody_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        send("to nobody", &path);
        let log = UnixDatagram::bind(&path).unwrap();
        send(&"a line\n".repeat(10_000), &path);
        log.set_nonblocking(true).unwrap();
        let mut kept = 0;
        while log.recv(&mut [0; 100]).is_ok() {
            kept += 1;
        }
        assert!((1..10_000).contains(&kept), "{kept} messages were kept");
    }
}
