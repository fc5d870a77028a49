//! The guard: it ends a trial that nobody ends by hand.
//!
//! It is the only process that feeds the watchdog while a system is on trial. A kernel that hangs, an init
//! that never starts it, a guard that is killed: the machine is reset, a try is spent, and when
//! there are none left the old system boots.
//!
//! ```text
//! what is so                                             what the guard does
//! somebody confirmed, or sent the machine back           stops the watchdog, ends
//! a check refuses this system                            goes back
//! the confirm window is over                             goes back
//! `within` is over, and not all checks have passed       goes back
//! all checks have passed, and `confirm` is set           confirms, stops the watchdog
//! anything else                                          feeds the watchdog, asks again
//! ```
//!
//! The first line that holds counts ([`next`]). Checks are asked in rounds; a round is good when each of
//! them is, and then nobody is asked again. Where there are no checks nothing is found to be good:
//! somebody has to confirm.
//!
//! The boot state is changed before the reboot, and the reason recorded before that. Then nobody feeds
//! the watchdog any more: an init that does not reboot is reset. **Power may go at any point**: the trial
//! goes on, or it is over.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::board::Health;
use crate::data::What;
use crate::health::{Before, Checks, Finding, Verdict};
use crate::machine::{Machine, MachineError};
use crate::report::describe;
use crate::slots::{Slot, TransitionError};
use crate::trial;
use crate::watchdog::Watchdog;

/// How often it is looked whether somebody else has ended the trial.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the guard sleeps at most, with nothing else to do.
const NAP: Duration = Duration::from_millis(200);

/// How long another program may hold the lock, or a medium fail, before the machine is reset without
/// a word.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a trial ended under the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There is none, or somebody else has ended it.
    Otherwise,
    /// All checks have passed: this slot is good now.
    Confirmed,
    /// To be rebooted. The watchdog, if there is one, is not fed any more, and must not be stopped.
    Over {
        /// Why this system is not kept.
        why: String,
        /// The slot that boots next; `None` if that could not be settled: a try is spent.
        next: Option<Slot>,
    },
}

/// How the checks stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// There are none, or they cannot be asked.
    Never,
    /// Not all of them have been asked yet.
    NotYet,
    /// All have passed.
    Passed,
    /// This one does not work.
    Failing(Finding),
}

/// What the guard knows.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// What the board file asks for.
    pub health: &'a Health,
    /// How long this system may run unconfirmed.
    pub window: Duration,
    /// How long the guard has watched.
    pub elapsed: Duration,
    /// How the checks stand.
    pub checked: &'a Checked,
    /// What stands in the way of a confirmation.
    pub trouble: Option<&'a str>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Watch on.
    Wait,
    /// Keep this system.
    Confirm,
    /// Go back, for this reason.
    GoBack(String),
}

/// The table of the module, but for its first line.
#[must_use]
pub fn next(sight: &Sight<'_>) -> Step {
    let Sight {
        health,
        window,
        elapsed,
        checked,
        trouble,
    } = sight;
    let not_within = |within: &Duration| format!("within {} s", within.as_secs());
    match checked {
        Checked::Failing(finding) if finding.verdict == Verdict::NeverKept => {
            Step::GoBack(finding.to_string())
        }
        _ if elapsed >= window => {
            let mut why = format!("not confirmed {}", not_within(window));
            if let Checked::Failing(finding) = checked {
                why.push_str(&format!("; {finding}"));
            }
            if let Some(trouble) = trouble {
                why.push_str(&format!("; {trouble}"));
            }
            Step::GoBack(why)
        }
        Checked::Failing(finding) if *elapsed >= health.within => Step::GoBack(finding.to_string()),
        Checked::NotYet if *elapsed >= health.within => Step::GoBack(format!(
            "the health checks did not end {}",
            not_within(&health.within)
        )),
        Checked::Passed if health.confirm => Step::Confirm,
        _ => Step::Wait,
    }
}

/// Watches over the trial of the running slot until it has ended. `tell` is told what there is to say
/// for people.
///
/// # Errors
/// When boot state or records cannot be read to begin with, or there is no good slot to go back to. The
/// watchdog then ticks, or is stopped, respectively.
pub fn guard(
    machine: &mut Machine,
    checks: &Checks,
    watchdog: &mut Option<Watchdog>,
    tell: &mut dyn FnMut(&str),
) -> Result<Ended, MachineError> {
    let Some(window) = trial::window(machine)? else {
        stop(watchdog, tell);
        return Ok(Ended::Otherwise);
    };
    let mut guard = Guard {
        health: machine.board.health.clone(),
        machine,
        watchdog,
        tell,
        window,
        began: Instant::now(),
        looked: Instant::now(),
        is_over: false,
        trouble: None,
        told: BTreeMap::new(),
    };
    let ended = guard.watch(checks)?;
    if !matches!(ended, Ended::Over { .. }) {
        stop(watchdog, tell);
    }
    Ok(ended)
}

fn stop(watchdog: &mut Option<Watchdog>, tell: &mut dyn FnMut(&str)) {
    if let Some(Err(error)) = watchdog.take().map(Watchdog::release) {
        tell(&describe(&error));
    }
}

struct Guard<'a> {
    machine: &'a mut Machine,
    health: Health,
    watchdog: &'a mut Option<Watchdog>,
    tell: &'a mut dyn FnMut(&str),
    window: Duration,
    began: Instant,
    /// When it was looked last whether the trial is over.
    looked: Instant,
    is_over: bool,
    trouble: Option<String>,
    /// What was said of each check last.
    told: BTreeMap<String, String>,
}

impl Guard<'_> {
    fn watch(&mut self, checks: &Checks) -> Result<Ended, MachineError> {
        let asked = self.machine.data.before().map_err(MachineError::from);
        let asked = asked.and_then(|before| Ok((before, checks.names()?)));
        let (before, names) = asked.unwrap_or_else(|error| {
            self.is_troubled(&error); // what cannot be judged is not confirmed
            (Before::default(), Vec::new())
        });
        let mut checked = match names.is_empty() {
            true => Checked::Never,
            false => Checked::NotYet,
        };
        let mut due = self.began;
        if let Err(error) = trial::note_guard(self.machine) {
            self.is_troubled(&error);
        }
        loop {
            let is_open = !matches!(checked, Checked::Never | Checked::Passed);
            if is_open && Instant::now() >= due {
                checked = self.round(checks, &names, &before, checked);
                due = Instant::now() + self.health.retry;
            }
            if !self.goes_on() {
                return Ok(Ended::Otherwise);
            }
            let step = next(&Sight {
                health: &self.health,
                window: self.window,
                elapsed: self.began.elapsed(),
                checked: &checked,
                trouble: self.trouble.as_deref(),
            });
            match step {
                Step::GoBack(why) => return self.go_back(why),
                Step::Confirm => match self.confirm() {
                    Ok(()) => return Ok(Ended::Confirmed),
                    Err(error) => self.is_troubled(&error),
                },
                Step::Wait => {}
            }
            thread::sleep(NAP);
        }
    }

    fn is_troubled(&mut self, error: &MachineError) {
        let trouble = describe(error);
        if self.trouble.as_ref() != Some(&trouble) {
            (self.tell)(&trouble);
        }
        self.trouble = Some(trouble);
    }

    /// Feeds the watchdog, and looks now and then whether somebody else has ended the trial. False if so.
    fn goes_on(&mut self) -> bool {
        if let Some(watchdog) = self.watchdog {
            watchdog.feed();
        }
        if !self.is_over && self.looked.elapsed() >= LOOK_EVERY {
            match trial::window(self.machine) {
                Ok(window) => self.is_over = window.is_none(),
                // It is on trial as long as nobody knows better.
                Err(error) => self.is_troubled(&error),
            }
            self.looked = Instant::now();
        }
        !self.is_over
    }

    /// Asks all checks, until one refuses this system or time is up.
    fn round(
        &mut self,
        checks: &Checks,
        names: &[String],
        before: &Before,
        last: Checked,
    ) -> Checked {
        let time = self.window.min(self.health.within);
        let mut failing = None;
        for name in names {
            let mut in_time = || self.goes_on() && self.began.elapsed() < time;
            if !in_time() {
                // What failed last is a better reason than that it was not asked again.
                return failing.map_or(last, Checked::Failing);
            }
            let finding = checks.ask(name, before, &mut in_time);
            self.tell_of(&finding);
            match finding.verdict {
                Verdict::NeverKept => return Checked::Failing(finding),
                Verdict::Failed => failing = failing.or(Some(finding)),
                Verdict::Good | Verdict::Excused => {}
            }
        }
        failing.map_or(Checked::Passed, Checked::Failing)
    }

    /// Says what a check has to say, once.
    fn tell_of(&mut self, finding: &Finding) {
        let text = finding.to_string();
        let last = self.told.insert(finding.check.clone(), text.clone());
        if finding.verdict != Verdict::Good && last.as_ref() != Some(&text) {
            (self.tell)(&text);
        }
    }

    fn confirm(&mut self) -> Result<(), MachineError> {
        let _lock = self.machine.lock()?;
        trial::confirm(self.machine).map(drop)
    }

    fn go_back(&mut self, why: String) -> Result<Ended, MachineError> {
        let since = Instant::now();
        loop {
            let lock = self.machine.lock();
            let back = lock.and_then(|_lock| trial::go_back(self.machine, What::RolledBack, &why));
            match back {
                Ok(slot) => {
                    let next = Some(slot);
                    return Ok(Ended::Over { why, next });
                }
                Err(error @ MachineError::Transition(TransitionError::NoWayBack)) => {
                    stop(self.watchdog, self.tell);
                    return Err(error);
                }
                Err(error) => self.is_troubled(&error),
            }
            if !self.goes_on() {
                return Ok(Ended::Otherwise);
            }
            if since.elapsed() >= PATIENCE {
                return Ok(Ended::Over { why, next: None });
            }
            thread::sleep(NAP);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Now, Was};

    fn finding(verdict: Verdict) -> Finding {
        Finding {
            check: "20-dns".to_owned(),
            before: Was::Working,
            now: Now::Fails,
            why: Some("no answer from 192.0.2.1".to_owned()),
            verdict,
        }
    }

    const FAILED: &str =
        "health check 20-dns failed: no answer from 192.0.2.1 (it worked before the upgrade)";

    /// With 100 s for the checks and 200 s to confirm.
    fn step(elapsed: u64, checked: &Checked, confirm: bool) -> Step {
        next(&Sight {
            health: &Health {
                within: Duration::from_secs(100),
                confirm,
                ..Health::default()
            },
            window: Duration::from_secs(200),
            elapsed: Duration::from_secs(elapsed),
            checked,
            trouble: None,
        })
    }

    fn back(why: &str) -> Step {
        Step::GoBack(why.to_owned())
    }

    #[test]
    fn what_the_guard_does_follows_from_checks_and_time_as_the_table_says() {
        let failing = Checked::Failing(finding(Verdict::Failed));
        let late = "not confirmed within 200 s";
        let late_and_failing = format!("{late}; {FAILED}");
        let hang = "the health checks did not end within 100 s";
        use Step::{Confirm, Wait};
        for (checked, at_once, after_within, after_window) in [
            (Checked::Never, Wait, Wait, back(late)),
            (Checked::NotYet, Wait, back(hang), back(late)),
            (failing, Wait, back(FAILED), back(&late_and_failing)),
            (Checked::Passed, Confirm, Confirm, back(late)),
        ] {
            for (elapsed, expected) in [
                (0, &at_once),
                (99, &at_once),
                (100, &after_within),
                (199, &after_within),
                (200, &after_window),
                (100_000, &after_window),
            ] {
                assert_eq!(
                    step(elapsed, &checked, true),
                    *expected,
                    "{elapsed} {checked:?}"
                );
                let expected = match expected {
                    Confirm => &Wait,
                    other => other,
                };
                assert_eq!(
                    step(elapsed, &checked, false),
                    *expected,
                    "{elapsed} {checked:?}"
                );
            }
        }
    }

    #[test]
    fn a_check_that_refuses_a_system_ends_its_trial_at_once() {
        let refused = Checked::Failing(finding(Verdict::NeverKept));
        let why = "health check 20-dns refuses this system: no answer from 192.0.2.1";
        for elapsed in [0, 100, 200] {
            assert_eq!(step(elapsed, &refused, true), back(why));
            assert_eq!(step(elapsed, &refused, false), back(why));
        }
    }

    #[test]
    fn what_stood_in_the_way_of_a_confirmation_is_a_part_of_the_reason() {
        let step = next(&Sight {
            health: &Health::default(),
            window: Duration::from_secs(9),
            elapsed: Duration::from_secs(9),
            checked: &Checked::Passed,
            trouble: Some("another run holds the lock"),
        });
        assert_eq!(
            step,
            back("not confirmed within 9 s; another run holds the lock")
        );
    }
}
