//! A long copy under the eyes of somebody: it tells how far it is, and ends when asked to.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::InstallError;
use crate::report::{Event, Phase};

/// Who is told, and whether to go on.
pub struct Watch<'a> {
    /// Called for every event.
    pub tell: &'a mut dyn FnMut(Event),
    /// Set by a signal.
    pub stop: &'a AtomicBool,
}

impl Watch<'_> {
    pub(super) fn phase(&mut self, phase: Phase) {
        (self.tell)(Event::Phase(phase));
    }

    pub(super) fn notice(&mut self, text: String) {
        (self.tell)(Event::Notice(text));
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<(), InstallError> {
        if self.stopped() {
            Err(InstallError::Stopped)
        } else {
            Ok(())
        }
    }
}

/// Counts the bytes of a phase, reports them, and ends the copy when asked to stop.
pub(super) struct Meter<'w, 'a> {
    pub(super) watch: &'w mut Watch<'a>,
    phase: Phase,
    pub(super) part: String,
    done: u64,
    total: u64,
}

impl<'w, 'a> Meter<'w, 'a> {
    pub(super) fn new(watch: &'w mut Watch<'a>, phase: Phase, total: u64) -> Self {
        Self {
            watch,
            phase,
            part: String::new(),
            done: 0,
            total,
        }
    }

    /// The reader or writer that the bytes go through.
    pub(super) fn on<'m, T>(&'m mut self, inner: T) -> Metered<'m, 'w, 'a, T> {
        Metered { meter: self, inner }
    }

    fn count(&mut self, bytes: usize) {
        self.done += bytes as u64;
        let (phase, part, done, total) = (self.phase, self.part.clone(), self.done, self.total);
        (self.watch.tell)(Event::Progress {
            phase,
            part,
            done,
            total,
        });
    }

    fn go_on(&self) -> io::Result<()> {
        if self.watch.stopped() {
            Err(io::Error::other("stopped on request"))
        } else {
            Ok(())
        }
    }
}

pub(super) struct Metered<'m, 'w, 'a, T> {
    meter: &'m mut Meter<'w, 'a>,
    inner: T,
}

impl<T: Read> Read for Metered<'_, '_, '_, T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.meter.go_on()?;
        let count = self.inner.read(bytes)?;
        self.meter.count(count);
        Ok(count)
    }
}

impl<T: Write> Write for Metered<'_, '_, '_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.meter.go_on()?;
        let count = self.inner.write(bytes)?;
        self.meter.count(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
