//! A long copy under the eyes of somebody: it tells how far it is, and ends when asked to.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::InstallError;
use crate::report::{Event, Phase};

/// Who is told, and whether to go on.
pub struct Watch<'a> {
    tell: &'a mut dyn FnMut(Event),
    stop: &'a AtomicBool,
    /// The phase that runs, and since when.
    lap: Option<(Phase, Instant)>,
    seconds: BTreeMap<Phase, f64>,
}

impl<'a> Watch<'a> {
    /// `tell` is called for every event; `stop` is set by a signal.
    pub fn new(tell: &'a mut dyn FnMut(Event), stop: &'a AtomicBool) -> Self {
        Self {
            tell,
            stop,
            lap: None,
            seconds: BTreeMap::new(),
        }
    }

    pub(super) fn phase(&mut self, phase: Phase) {
        self.end_lap();
        self.lap = Some((phase, Instant::now()));
        (self.tell)(Event::Phase(phase));
    }

    fn end_lap(&mut self) {
        if let Some((phase, since)) = self.lap.take() {
            *self.seconds.entry(phase).or_default() += since.elapsed().as_secs_f64();
        }
    }

    /// Seconds that each phase took. Only to be told: no decision depends on a clock.
    pub(super) fn seconds(&mut self) -> BTreeMap<Phase, f64> {
        self.end_lap();
        std::mem::take(&mut self.seconds)
    }

    /// Tells the owner something; the run goes on.
    pub fn notice(&mut self, text: String) {
        (self.tell)(Event::Notice(text));
    }

    /// True once somebody asked to stop.
    #[must_use]
    pub fn stopped(&self) -> bool {
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

    pub(super) fn count(&mut self, bytes: u64) {
        self.done += bytes;
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
        self.meter.count(count as u64);
        Ok(count)
    }
}

impl<T: Write> Write for Metered<'_, '_, '_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.meter.go_on()?;
        let count = self.inner.write(bytes)?;
        self.meter.count(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
