//! Runs checks, as [`crate::process`] runs programs.

use std::path::PathBuf;
use std::time::Duration;

use super::{Before, Finding, NEVER, Now, Was, judge};
use crate::files;
use crate::process::{self, End, Limits, Ran};
use crate::report::printable;

/// The most that is kept of what a check prints, in bytes: as much as it can be given to read again.
pub const MAX_SEEN: usize = process::MAX_INPUT;

/// The checks of a machine, and how they are run.
#[derive(Clone, Debug)]
pub struct Checks {
    /// Their directory.
    pub dir: PathBuf,
    /// How long each may run.
    pub timeout: Duration,
    /// Name of the running slot.
    pub slot: String,
}

impl Checks {
    /// Names of the checks, in the order in which they run; none if the directory is missing.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self) -> files::Result<Vec<String>> {
        let names = match files::list(&self.dir) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            names => names?,
        };
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        let fits = |name: &String| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        Ok(names.filter(fits).collect())
    }

    /// Asks what works now. `go_on` is called about ten times a second; when it says no, the check that
    /// runs is called off and the others are not asked.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn record(&self, go_on: &mut dyn FnMut() -> bool) -> files::Result<Before> {
        let mut before = Before::default();
        for name in self.names()? {
            if !go_on() {
                break;
            }
            let ran = self.run(&name, "record", None, go_on);
            match outcome(&ran, self.timeout) {
                (Now::Works, _) => {
                    before.worked.insert(name, seen(&ran));
                }
                (_, why) => {
                    before.broken.insert(name, why.unwrap_or_default());
                }
            }
        }
        Ok(before)
    }

    /// The same for somebody who wants to be told: judged by itself.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn look(&self, go_on: &mut dyn FnMut() -> bool) -> files::Result<Vec<Finding>> {
        let Before { worked, broken, .. } = self.record(go_on)?;
        let good = worked.into_keys().map(|name| (name, None));
        let bad = broken.into_iter().map(|(name, why)| (name, Some(why)));
        let mut findings: Vec<Finding> = good.chain(bad).map(Finding::alone).collect();
        findings.sort_by(|a, b| a.check.cmp(&b.check));
        Ok(findings)
    }

    /// Asks and judges one check of a system on trial.
    pub fn ask(&self, name: &str, before: &Before, go_on: &mut dyn FnMut() -> bool) -> Finding {
        let (was, seen) = before.of(name);
        let ran = self.run(name, "check", (was == Was::Working).then_some(seen), go_on);
        let (now, why) = outcome(&ran, self.timeout);
        Finding {
            check: name.to_owned(),
            before: was,
            now,
            why,
            verdict: judge(was, now),
        }
    }

    fn run(
        &self,
        name: &str,
        word: &str,
        seen: Option<&str>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Ran {
        let recorded = if seen.is_some() { "yes" } else { "no" };
        let mut command = process::command(self.dir.join(name));
        command
            .arg(word)
            .env("SYSUPGRADE_SLOT", &self.slot)
            .env("SYSUPGRADE_RECORDED", recorded)
            .current_dir("/");
        let limits = Limits {
            timeout: self.timeout,
            output: MAX_SEEN,
        };
        let seen = seen.unwrap_or_default().as_bytes();
        process::run(&mut command, seen, limits, go_on)
    }
}

/// What a check says, and why it does not work, in one printable line.
fn outcome(ran: &Ran, timeout: Duration) -> (Now, Option<String>) {
    let now = match &ran.end {
        End::Exited(status) if status.success() => return (Now::Works, None),
        End::Exited(status) if status.code() == Some(NEVER) => Now::Never,
        _ => Now::Fails,
    };
    (now, Some(printable(&ran.why(timeout))))
}

/// What a check has seen. A line that was cut off is worse than none.
fn seen(ran: &Ran) -> String {
    let seen = ran.output.as_slice();
    let whole = match seen.len() < MAX_SEEN {
        true => seen,
        false => {
            let lines = seen.iter().rposition(|byte| *byte == b'\n');
            &seen[..lines.map_or(0, |end| end + 1)]
        }
    };
    String::from_utf8_lossy(whole).into_owned()
}
