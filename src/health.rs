//! Whether a new system does what the old one did.
//!
//! A **check** is a program of the board's, in the directory `checks` of `[health]`. They run one after
//! the other in the order of their names, which are made of letters, digits, `_` and `-`; other files
//! are passed over, as `run-parts` does.
//!
//! ```text
//! CHECK record   on the old system, when an install begins
//!                exit 0: this works now; standard output (4 KiB) is kept
//!                else:   it does not
//! CHECK check    on the system on trial, with what was kept on standard input
//!                exit 0:   it works as before
//!                exit 100: this system must not be kept, whatever was before
//!                else, a signal, no answer in time: it does not work
//!
//! the first line of standard error is the reason
//!
//! PATH                   where programs are
//! SYSUPGRADE_SLOT        name of the running slot
//! SYSUPGRADE_RECORDED    yes: it worked when the install began; no: it did not, or nobody knows
//! ```
//!
//! What did not work before cannot fail a trial, or nobody whose line is down could upgrade:
//!
//! | when the install began | exit 0 | exit 100 | anything else |
//! | --- | --- | --- | --- |
//! | it worked | good | never kept | **failed** |
//! | it did not work | good | never kept | excused |
//! | not known: the first upgrade with this check | good | never kept | excused |
//!
//! A check that the new system does not bring along any more is not asked for.

mod run;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use run::{Checks, MAX_SEEN};

/// The exit status of a check that says: this system must not be kept, whatever was before.
pub const NEVER: i32 = 100;

/// What was so when the install began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Before {
    /// Checks that worked, with what each has seen.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub worked: BTreeMap<String, String>,
    /// Dumps of kernels that crashed earlier: see [`crate::postmortem`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crashes: Vec<String>,
    /// Checks that did not, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub broken: BTreeMap<String, String>,
}

/// What is known of a check from before the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Was {
    /// It worked.
    Working,
    /// It did not.
    Broken,
    /// Nobody asked it.
    Unknown,
}

/// What a check says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Now {
    /// It works.
    Works,
    /// It does not.
    Fails,
    /// This system must not be kept.
    Never,
}

/// What follows for the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It does not work, and did not, as far as anybody knows.
    Excused,
    /// It worked, and does not any more.
    Failed,
    /// The system must not be kept.
    NeverKept,
}

/// The table of the module.
#[must_use]
pub fn judge(was: Was, now: Now) -> Verdict {
    match (now, was) {
        (Now::Works, _) => Verdict::Good,
        (Now::Never, _) => Verdict::NeverKept,
        (Now::Fails, Was::Working) => Verdict::Failed,
        (Now::Fails, Was::Broken | Was::Unknown) => Verdict::Excused,
    }
}

/// One check, asked and judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: String,
    /// What is known from before the upgrade.
    pub before: Was,
    /// What it says now.
    pub now: Now,
    /// Why it does not work, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What follows.
    pub verdict: Verdict,
}

impl Finding {
    /// True if the trial may not end well as long as this is so.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self.verdict, Verdict::Failed | Verdict::NeverKept)
    }
}

impl Finding {
    /// Of a check that was asked whether it works, with the reason if it does not.
    fn alone((check, why): (String, Option<String>)) -> Self {
        let (now, verdict) = match &why {
            None => (Now::Works, Verdict::Good),
            Some(_) => (Now::Fails, Verdict::Failed),
        };
        Self {
            check,
            before: Was::Unknown,
            now,
            why,
            verdict,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, why, .. } = self;
        let why = why.as_deref().unwrap_or("it does not say why");
        match (self.verdict, self.before) {
            (Verdict::Good, _) => write!(f, "health check {check} passed"),
            (Verdict::Excused, Was::Broken) => write!(
                f,
                "health check {check}: {why} (nor did it work before the upgrade)"
            ),
            (Verdict::Excused, _) => write!(
                f,
                "health check {check}: {why} (not known whether it worked before the upgrade)"
            ),
            (Verdict::Failed, Was::Working) => write!(
                f,
                "health check {check} failed: {why} (it worked before the upgrade)"
            ),
            (Verdict::Failed, _) => write!(f, "health check {check} failed: {why}"),
            (Verdict::NeverKept, _) => {
                write!(f, "health check {check} refuses this system: {why}")
            }
        }
    }
}

impl Before {
    /// What is known of this check, and what it saw.
    #[must_use]
    pub fn of(&self, check: &str) -> (Was, &str) {
        match self.worked.get(check) {
            Some(seen) => (Was::Working, seen),
            None if self.broken.contains_key(check) => (Was::Broken, ""),
            None => (Was::Unknown, ""),
        }
    }

    /// As much of it as fits into so many bytes of JSON: the names of what worked come first, since
    /// only they can fail a trial, then the crashes, then what was seen.
    #[must_use]
    pub fn within(&self, bytes: usize) -> Self {
        let mut fit = Self::default();
        let fits = |fit: &Self| serde_json::to_vec(fit).is_ok_and(|text| text.len() <= bytes);
        for name in self.worked.keys() {
            fit.worked.insert(name.clone(), String::new());
            if !fits(&fit) {
                fit.worked.remove(name);
            }
        }
        for dump in &self.crashes {
            fit.crashes.push(dump.clone());
            if !fits(&fit) {
                fit.crashes.pop();
            }
        }
        for (name, seen) in &self.worked {
            let Some(kept) = fit.worked.get_mut(name) else {
                continue;
            };
            kept.clone_from(seen);
            if !fits(&fit) {
                fit.worked.insert(name.clone(), String::new());
            }
        }
        fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_worked_before_can_fail_a_trial_but_for_a_system_that_must_never_be_kept() {
        use {Now::*, Verdict::*, Was::*};
        for (was, works, fails, never) in [
            (Working, Good, Failed, NeverKept),
            (Broken, Good, Excused, NeverKept),
            (Unknown, Good, Excused, NeverKept),
        ] {
            let verdicts = [Works, Fails, Never].map(|now| judge(was, now));
            assert_eq!(verdicts, [works, fails, never], "{was:?}");
        }
    }

    fn before() -> Before {
        let worked = [
            ("10-route", "default via 192.0.2.1 dev eth0"),
            ("20-dns", "192.0.2.53"),
            ("30-services", "22\n53\n80"),
        ];
        let broken = [("40-stations", "nobody is associated")];
        let owned = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
        Before {
            worked: worked.map(owned).into(),
            broken: broken.map(owned).into(),
            crashes: Vec::new(),
        }
    }

    #[test]
    fn what_is_known_of_a_check_is_what_was_recorded_of_it() {
        let before = before();
        assert_eq!(before.of("20-dns"), (Was::Working, "192.0.2.53"));
        assert_eq!(before.of("40-stations"), (Was::Broken, ""));
        assert_eq!(before.of("50-new"), (Was::Unknown, ""));
    }

    #[test]
    fn where_room_is_small_the_names_of_what_worked_stay_longest() {
        let before = before();
        for bytes in 2..400 {
            let fit = before.within(bytes);
            let text = serde_json::to_string(&fit).expect("strings");
            assert!(text.len() <= bytes, "{bytes}: {text}");
            for (name, seen) in &fit.worked {
                let whole = &before.worked[name];
                assert!(seen.is_empty() || seen == whole, "{bytes}: {text}");
            }
            for name in before.worked.keys() {
                let mut names = fit.clone();
                names.worked.insert(name.clone(), String::new());
                names.worked.values_mut().for_each(String::clear);
                let len = serde_json::to_string(&names).expect("strings").len();
                assert!(
                    fit.worked.contains_key(name) || len > bytes,
                    "{bytes}: no {name}"
                );
            }
        }
        assert_eq!(before.within(400).worked, before.worked);
        let crashes = vec!["0123456789abcdef".to_owned()];
        let crashed = Before {
            crashes: crashes.clone(),
            ..before.clone()
        };
        assert_eq!(crashed.within(400).crashes, crashes);
        assert_eq!(before.within(2), Before::default());
    }
}
