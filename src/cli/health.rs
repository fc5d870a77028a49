//! What works: asked before an upgrade, by the guard during a trial, and by people.

use std::time::Duration;

use std::sync::atomic::Ordering;

use serde_json::json;

use super::answer::{Answer, Failure, to_value};
use super::voice::complain;
use super::{Session, stop_flag};
use crate::config::apply;
use crate::files::FileError;
use crate::first_boot::first_boot;
use crate::guard::{Ended, guard};
use crate::health::{Before, Finding, Verdict};
use crate::install::Upgrade;
use crate::machine::Machine;
use crate::report::{ExitCode, describe, harmless};
use crate::watchdog::Watchdog;
use crate::{postmortem, system, trial};

/// First boot takes no longer than it is given for the configuration ([`apply::LIMIT`]) and some writes to
/// flash; in twice that time it hangs.
const FIRST_BOOT: Duration = Duration::from_secs(2 * apply::LIMIT.as_secs());

/// Finds out what works as an install begins. A signal ends this, and then the install.
pub(super) fn look_before(upgrade: &mut Upgrade<'_>) -> Result<(), FileError> {
    let watch = &upgrade.watch;
    let before = upgrade.machine.checks().record(&mut || !watch.stopped())?;
    for (name, why) in &before.broken {
        let told = format!("health check {name}: {why} (so it cannot fail the trial)");
        upgrade.watch.notice(told);
    }
    upgrade.before = Before {
        crashes: postmortem::dumps(&upgrade.machine.root),
        ..before
    };
    Ok(())
}

/// The watchdog of this board, if it has one that can be had.
fn watchdog(machine: &Machine) -> Option<Watchdog> {
    let spec = machine.board.watchdog.as_ref()?;
    match Watchdog::open(&machine.at(&spec.device), spec.timeout) {
        Ok(watchdog) => Some(watchdog),
        Err(error) => {
            let why = describe(&error);
            complain(&format!("the trial goes on without a watchdog: {why}"));
            None
        }
    }
}

impl Session<'_> {
    /// A system on trial is under the watchdog from its first moment on: what hangs later is reset.
    pub(super) fn first_boot(&self) -> Result<Answer, Failure> {
        let mut machine = self.machine()?;
        // What cannot be read first boot will tell.
        let is_on_trial = trial::window(&mut machine).is_ok_and(|window| window.is_some());
        let watchdog = is_on_trial.then(|| watchdog(&machine)).flatten();
        if watchdog.as_ref().is_some_and(|dog| !dog.outlives_close()) {
            complain("the watchdog stops when first boot ends: only the guard holds on to it");
        }
        let _fed = watchdog.map(|watchdog| watchdog.feed_for(FIRST_BOOT));
        let done = first_boot(&mut machine);
        self.tell_last(&machine);
        Ok(Answer::first_boot(&done?))
    }

    /// Waits until the trial is over, one way or the other.
    pub(super) fn guard(&self) -> Result<Answer, Failure> {
        let mut machine = self.machine()?;
        if !self.status_file().exists() {
            self.tell_last(&machine); // `/run` was not there yet when first boot did
        }
        if trial::window(&mut machine)?.is_none() {
            return Ok(Answer::confirmed(&machine, false));
        }
        let checks = machine.checks();
        let mut watchdog = watchdog(&machine);
        let ended = guard(&mut machine, &checks, &mut watchdog, &mut |text| {
            complain(&harmless(text));
        })?;
        let (why, next) = match ended {
            Ended::Otherwise => return Ok(Answer::confirmed(&machine, false)),
            Ended::Confirmed => {
                self.tell_last(&machine);
                return Ok(Answer::confirmed(&machine, true));
            }
            Ended::Over { why, next } => (why, next),
        };
        complain(&harmless(&format!("this system is not kept: {why}")));
        self.tell_last(&machine);
        // Whatever becomes of this process: nobody feeds the watchdog any more.
        system::reboot_for_certain(&machine)?;
        match next {
            Some(slot) => Ok(Answer::going_back(&machine, slot, None)),
            None => Err(Failure::plain(ExitCode::Failed, &why)),
        }
    }

    /// Every check once: judged as the guard would on a system on trial, else by itself.
    pub(super) fn health(&self) -> Result<Answer, Failure> {
        let mut machine = self.machine()?;
        let stop = stop_flag()?;
        let mut go_on = || !stop.load(Ordering::Relaxed);
        let checks = machine.checks();
        let is_on_trial = trial::window(&mut machine)?.is_some();
        let findings = match is_on_trial {
            true => {
                let before = machine.data.before()?;
                let names = checks.names()?;
                let ask = |name: &String| checks.ask(name, &before, &mut go_on);
                names.iter().map(ask).collect()
            }
            false => checks.look(&mut go_on)?,
        };
        Ok(Answer::health(is_on_trial, &findings))
    }
}

impl Answer {
    fn health(is_on_trial: bool, findings: &[Finding]) -> Self {
        let is_good = !findings.iter().any(Finding::is_bad);
        let line = |finding: &Finding| {
            let mark = match finding.verdict {
                Verdict::Good => "ok  ",
                Verdict::Excused => "-   ",
                Verdict::Failed | Verdict::NeverKept => "BAD ",
            };
            format!("{mark} {}", harmless(&finding.to_string()))
        };
        let lines: Vec<String> = findings.iter().map(line).collect();
        let human = match lines.is_empty() {
            true => "there are no health checks".to_owned(),
            false => lines.join("\n"),
        };
        let machine = json!({
            "on_trial": is_on_trial, "good": is_good, "checks": to_value(&findings),
        });
        let answer = Self::new(human, machine);
        match is_good {
            true => answer,
            false => answer.coded(ExitCode::Failed),
        }
    }
}
