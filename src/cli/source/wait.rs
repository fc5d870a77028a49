//! Reading from something that may keep us waiting.

use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Problem;

/// So often the stop flag is looked at while nothing comes. A signal ends the wait sooner.
pub(super) const SLICE: Duration = Duration::from_millis(100);

/// A stream whose reads fail with a [`Problem`].
pub(super) trait Input {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Problem>;

    /// True if stretches can be asked for.
    fn has_ranges(&self) -> bool {
        false
    }

    /// Asks for a stretch, of an input that has ranges.
    fn go(&mut self, _: Range<u64>) {}
}

/// What ends a wait for bytes other than bytes.
#[derive(Clone)]
pub(super) struct Wait {
    pub(super) stop: Arc<AtomicBool>,
    pub(super) stall: Option<Duration>,
}

impl Wait {
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Problem::Stopped);
        }
        Ok(())
    }

    /// The limit, if nothing has come since then for too long.
    pub(super) fn check_stall(&self, since: Instant) -> Result<(), Problem> {
        match self.stall {
            Some(limit) if since.elapsed() >= limit => Err(Problem::Stalled(limit)),
            _ => Ok(()),
        }
    }

    /// Waits for so long, if nobody asks to stop.
    pub(super) fn pause(&self, time: Duration) -> Result<(), Problem> {
        let since = Instant::now();
        loop {
            self.check()?;
            let left = time.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    /// Returns when one of these can be read, or is at its end.
    pub(super) fn readable(
        &self,
        descriptors: &[BorrowedFd<'_>],
        since: Instant,
    ) -> Result<(), Problem> {
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

/// What a read begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// With `poll`: a read could block, or take a pipe that nobody writes to yet for its end.
    Poll,
    /// With the read, which does not block; `poll` only when it found nothing. Half the system calls.
    Read,
}

/// A descriptor that is waited for with `poll`, so that the stop flag and the stall limit count.
pub(super) struct Polled<R> {
    inner: R,
    first: First,
    wait: Wait,
}

impl<R: Read + AsFd> Polled<R> {
    pub(super) fn new(inner: R, first: First, wait: Wait) -> Self {
        Self { inner, first, wait }
    }
}

impl<R: Read + AsFd> Input for Polled<R> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Problem> {
        let since = Instant::now();
        let mut first = self.first;
        loop {
            self.wait.check()?;
            if first == First::Poll {
                self.wait.readable(&[self.inner.as_fd()], since)?;
            }
            match self.inner.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait.check_stall(since)?;
                    first = First::Poll;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Ok(other?),
            }
        }
    }
}
