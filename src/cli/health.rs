//! What works: asked before an upgrade, during a trial, and by people.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::answer::{Answer, Failure, to_value};
use super::{Session, stop_flag};
use crate::files::FileError;
use crate::health::{Checks, Finding, Verdict};
use crate::install::Upgrade;
use crate::machine::Machine;
use crate::report::{ExitCode, harmless};
use crate::trial;

/// The checks of this machine.
pub(super) fn checks(machine: &Machine) -> Checks {
    let health = &machine.board.health;
    Checks {
        dir: machine.at(&health.checks),
        timeout: health.timeout,
        slot: machine.name(machine.running).to_owned(),
    }
}

/// Finds out what works as an install begins. A signal ends this, and then the install.
pub(super) fn look_before(upgrade: &mut Upgrade<'_>) -> Result<(), FileError> {
    let watch = &upgrade.watch;
    upgrade.before = checks(upgrade.machine).record(&mut || !watch.stopped())?;
    Ok(())
}

impl Session<'_> {
    /// Every check once: judged as the guard would on a system on trial, else by itself.
    pub(super) fn health(&self) -> Result<Answer, Failure> {
        let mut machine = self.machine()?;
        let stop = stop_flag()?;
        let mut go_on = || !stop.load(Ordering::Relaxed);
        let checks = checks(&machine);
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
