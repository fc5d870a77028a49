//! A watchdog: a timer in hardware that resets the machine unless it is fed.
//!
//! ```text
//! open                        it ticks from here on
//! any byte                    fed: it starts anew
//! close                       it goes on ticking
//! `V`, close (magic close)    it stops
//! ```
//!
//! (Documentation/watchdog/watchdog-api.rst of Linux.) So nobody has to do anything for a machine to be
//! reset: whoever feeds it hangs, dies, or closes it. Only one program can have it open. A kernel whose
//! watchdogs never stop (`nowayout`) needs somebody who feeds it when the guard is done.
//!
//! First boot arms it and closes it, the guard opens it again: in between a kernel or an init that
//! hangs is reset. There are drivers that stop when they are closed, whatever was said; under those
//! first boot arms nothing, and the guard has to hold on to it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::files::{self, FileError, Result, below};
use crate::sys;

/// Fed so often at least.
const OFTEN: Duration = Duration::from_secs(1);

/// What feeds it; any byte but a `V` does.
const FOOD: &[u8] = b".";

/// The last byte before a close that stops it.
const MAGIC: &[u8] = b"V";

/// A watchdog that ticks. Dropped, it goes on ticking.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    path: PathBuf,
    /// How often it is fed.
    every: Duration,
    fed: Instant,
    outlives_close: bool,
}

impl Watchdog {
    /// Opens it, tells it how long to wait, and feeds it. A driver that cannot wait so long keeps its
    /// own time. A file that is no device, as tests have it, is only written to.
    ///
    /// # Errors
    /// `ENOENT` where there is none, `EBUSY` while another program has it.
    pub fn open(path: &Path, timeout: Duration) -> Result<Self> {
        let opened = OpenOptions::new().append(true).open(path);
        let device = opened.map_err(FileError::at("open", path))?;
        let is_device = device
            .metadata()
            .is_ok_and(|metadata| metadata.file_type().is_char_device());
        let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        let (timeout, outlives_close) = if is_device {
            let set = sys::watchdog_set_timeout(&device, seconds);
            let own = set.or_else(|_| sys::watchdog_timeout(&device));
            let timeout = own.map_or(timeout, |own| Duration::from_secs(own.into()));
            // One that does not say is like most.
            let outlives = sys::watchdog_outlives_close(&device).unwrap_or(true);
            (timeout, outlives)
        } else {
            (timeout, true)
        };
        let mut watchdog = Self {
            device,
            path: path.to_owned(),
            every: OFTEN.min(timeout / 4),
            fed: Instant::now(),
            outlives_close,
        };
        watchdog.feed_now();
        Ok(watchdog)
    }

    /// False if closing it stops it.
    #[must_use]
    pub fn outlives_close(&self) -> bool {
        self.outlives_close
    }

    /// Feeds it, if it is time to. To be called often.
    pub fn feed(&mut self) {
        if self.fed.elapsed() >= self.every {
            self.feed_now();
        }
    }

    fn feed_now(&mut self) {
        // Nothing better can be done than to try again; should it never take it, it resets the machine.
        if let Err(error) = self.device.write_all(FOOD) {
            log::debug!("cannot feed {}: {error}", self.path.display());
        }
        self.fed = Instant::now();
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it does not take the word; then it goes on ticking.
    pub fn release(mut self) -> Result<()> {
        let said = self.device.write_all(MAGIC);
        said.map_err(FileError::at("release", &self.path))
    }

    /// Has it fed while the caller is busy, but for no longer than `limit`: a caller that hangs is to
    /// be reset, too.
    #[must_use]
    pub fn feed_for(mut self, limit: Duration) -> Fed {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let began = Instant::now();
            while stopped.recv_timeout(self.every) == Err(RecvTimeoutError::Timeout) {
                if began.elapsed() < limit {
                    self.feed();
                }
            }
            self.feed_now();
        });
        Fed {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

/// A watchdog that is being fed. Dropped, it is fed a last time and closed, and goes on ticking.
#[derive(Debug)]
pub struct Fed {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Fed {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic; whether it did makes no difference to a watchdog that nobody feeds.
            let _ = thread.join();
        }
    }
}

/// True if this kernel never stops the watchdog (`CONFIG_WATCHDOG_NOWAYOUT`, or the driver's `nowayout`);
/// false as well where it does not say (`CONFIG_WATCHDOG_SYSFS`).
#[must_use]
pub fn never_stops(root: &Path, device: &Path) -> bool {
    let name = match device.file_name() {
        // What the first one is called, too.
        Some(name) if name == "watchdog" => OsStr::new("watchdog0"),
        Some(name) => name,
        None => return false,
    };
    let path = below(root, Path::new("/sys/class/watchdog")).join(name);
    files::read(&path.join("nowayout"), 64).is_ok_and(|text| text.trim_ascii() == b"1")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn device() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("watchdog");
        fs::write(&path, "").expect("a file");
        (dir, path)
    }

    fn fed(path: &Path) -> String {
        fs::read_to_string(path).expect("what was written")
    }

    #[test]
    fn a_watchdog_is_stopped_by_a_release_and_by_nothing_else() {
        let (_dir, path) = device();
        drop(Watchdog::open(&path, MINUTE).expect("it opens"));
        assert_eq!(fed(&path), ".", "dropped, it goes on ticking");
        let watchdog = Watchdog::open(&path, MINUTE).expect("it opens");
        drop(watchdog.feed_for(MINUTE));
        assert_eq!(
            fed(&path),
            "....".get(..3).expect("three"),
            "so does one that was fed"
        );
        let watchdog = Watchdog::open(&path, MINUTE).expect("it opens");
        watchdog.release().expect("it takes the word");
        assert_eq!(fed(&path), "....V");
    }

    #[test]
    fn a_watchdog_is_fed_when_it_is_time_and_not_each_time_that_it_is_asked() {
        let (_dir, path) = device();
        let mut watchdog = Watchdog::open(&path, Duration::from_millis(400)).expect("it opens");
        for _ in 0..1000 {
            watchdog.feed();
        }
        assert!(fed(&path).len() < 500, "{} times", fed(&path).len());
        while fed(&path).len() < 4 {
            watchdog.feed(); // hangs if it is never time
        }
    }

    #[test]
    fn who_is_busy_for_too_long_is_not_fed_for() {
        let (_dir, path) = device();
        let watchdog = Watchdog::open(&path, Duration::from_millis(8)).expect("it opens");
        let began = Instant::now();
        let busy = watchdog.feed_for(Duration::from_millis(200));
        let mut last = 0;
        let mut since = Instant::now();
        // Until nothing has come for far longer than it should.
        while since.elapsed() < Duration::from_millis(1000) {
            let now = fed(&path).len();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            thread::yield_now();
            assert!(began.elapsed() < MINUTE, "it is fed for ever");
        }
        assert!(last > 2, "fed {last} times");
        drop(busy);
    }

    #[test]
    fn a_watchdog_that_is_not_there_says_which() {
        let (_dir, path) = device();
        let error = Watchdog::open(&path.with_file_name("none"), MINUTE);
        let error = error.expect_err("there is none").to_string();
        assert!(
            error.starts_with("cannot open ") && error.ends_with("/none"),
            "{error}"
        );
    }
}
