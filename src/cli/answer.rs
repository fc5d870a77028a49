//! Answers and failures: each one value, printed for people or as one JSON document.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::args::{Place, Settings};
use super::report;
use super::verdict::Verdict;
use super::voice::{self, complain};
use crate::boot::BootError;
use crate::config::decisions::DecideError;
use crate::config::report::{Notice, Winner};
use crate::config::restore::Restored;
use crate::config::{self, ConfigError};
use crate::data::{DataError, Entry};
use crate::doctor::Check;
use crate::files::FileError;
use crate::first_boot::{FirstBoot, FirstBootError, summary};
use crate::image::candidate::{Contents, Shown};
use crate::image::{ImageError, Inspection, Tally, Unverified};
use crate::install::{Done, InstallError, Plan, describe};
use crate::machine::{Machine, MachineError};
use crate::report::{ExitCode, Reason, Refusal, Size, harmless, printable};
use crate::slots::{Slot, TransitionError};
use crate::status::{SlotStatus, Status};
use crate::system::SystemError;
use crate::trust::revoke::Outcome;

use super::source::SourceError;

/// Prints to standard output. A reader that has gone is not an error; an answer that is lost
/// otherwise turns success into failure.
pub(super) fn print(text: &str, code: ExitCode) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe && code == ExitCode::Done => {
            complain(&format!("cannot write the answer: {error}"));
            ExitCode::Failed
        }
        _ => code,
    }
}

/// What the board file of this machine has given up.
const UNSIGNED: &str = "trust      UNSIGNED stock images are installed: whoever can hand over an image owns this router";

/// What a command found out or did.
pub(super) struct Answer {
    code: ExitCode,
    /// For people, without the final newline. Empty: nothing to say.
    human: String,
    machine: Value,
    /// Said on standard error, and not with `-q`: the work was the answer (`-b -`).
    aside: bool,
    /// What is odd about it, said on standard error before it; with `-q` only what was left out.
    notices: Vec<Notice>,
    /// To be done once the answer is out, after so long.
    pub(super) reboot: Option<Duration>,
}

impl Answer {
    pub(super) fn new(human: impl Into<String>, machine: Value) -> Self {
        Self {
            code: ExitCode::Done,
            human: human.into(),
            machine,
            aside: false,
            notices: Vec::new(),
            reboot: None,
        }
    }

    /// Somebody should look at what was decided.
    fn review(&mut self, needed: bool) {
        if needed {
            self.code = ExitCode::NeedsReview;
        }
    }

    /// The command did what was asked, but this is to be told by its exit code.
    pub(super) fn coded(mut self, code: ExitCode) -> Self {
        self.code = code;
        self
    }

    /// With what is odd about it.
    fn noticed(mut self, notices: &[Notice]) -> Self {
        self.notices = notices.to_vec();
        if let Value::Object(fields) = &mut self.machine {
            fields.insert("notices".into(), to_value(notices));
        }
        self
    }

    /// The work was the answer.
    pub(super) fn aside(mut self) -> Self {
        self.aside = true;
        self
    }

    /// A reboot is to follow.
    pub(super) fn then(mut self, reboot: Option<Duration>) -> Self {
        self.reboot = reboot;
        self
    }

    pub(super) fn print(&self, settings: &Settings) -> ExitCode {
        let is_quiet = settings.verbosity < 1;
        for notice in &self.notices {
            if !is_quiet || notice.kind.is_refusal() {
                complain(&harmless(&notice.to_string()));
            }
        }
        if settings.json {
            let mut document = self.machine.clone();
            if let Value::Object(fields) = &mut document {
                let ok = matches!(self.code, ExitCode::Done | ExitCode::NeedsReview);
                fields.insert("ok".into(), ok.into());
                fields.insert("exit".into(), (self.code as u8).into());
                fields.insert("rebooting".into(), self.reboot.is_some().into());
            }
            return print(&format!("{document}\n"), self.code);
        }
        if self.aside && !is_quiet {
            complain(&self.human);
        }
        if self.aside || self.human.is_empty() {
            return self.code;
        }
        print(&format!("{}\n", self.human), self.code)
    }

    pub(super) fn installed(done: &Done, reboot: Option<Duration>) -> Self {
        let Done {
            version,
            slot,
            cost,
            kept,
            needs_review,
        } = done;
        let next = match reboot {
            Some(_) => "rebooting into it",
            None => "reboot to start its trial",
        };
        let human = format!(
            "version {} is in slot {slot}, {kept} files kept: {cost}; {next}",
            printable(version),
        );
        let machine = json!({
            "version": version, "slot": slot, "written": cost.written, "unchanged": cost.unchanged,
            "cost": cost, "kept": kept, "needs_review": needs_review,
        });
        // Whoever reads the system log later was not here.
        voice::log(&human);
        let mut answer = Self::new(human, machine).then(reboot);
        answer.review(*needs_review);
        answer
    }

    pub(super) fn plan(machine: &Machine, plan: &Plan, whole: bool, settings: &Settings) -> Self {
        let slot = machine.name(machine.target());
        let installed = &plan.installed;
        let checked = if whole {
            "the whole image is good"
        } else {
            "head and signature are good"
        };
        let kept = plan.keep.as_ref().map(|keep| keep.paths().count());
        let config = kept.map_or("no configuration goes with it".into(), |count| {
            format!("{count} files go with it")
        });
        let mut human = format!(
            "{checked}: version {} (security {}) would go into slot {slot}, {} bytes; {config}",
            printable(&installed.version),
            installed.security,
            plan.bytes
        );
        let mut document = json!({
            "version": installed.version, "security": installed.security, "slot": slot, "bytes": plan.bytes,
            "from_version": installed.from_version, "kept": kept, "whole_image_checked": whole,
            "forced": plan.forced, "notices": plan.notices, "boot_flaws": plan.flaws,
        });
        if let (Some(tally), Value::Object(fields)) = (&plan.tally, &mut document) {
            let Tally {
                fetched,
                in_place,
                copied,
            } = *tally;
            let write = plan.bytes.saturating_sub(in_place);
            human.push_str(&format!("\nan install fetches {}", Size(fetched)));
            if copied > 0 {
                human.push_str(&format!(", copies {} from the running slot", Size(copied)));
            }
            human.push_str(&format!(" and writes at most {}", Size(write)));
            fields.insert("fetch".into(), fetched.into());
            fields.insert("copy".into(), copied.into());
            fields.insert("write_at_most".into(), write.into());
        }
        for flaw in &plan.flaws {
            let flaw = harmless(flaw);
            human.push_str(&format!(
                "\nboot environment: {flaw}; the upgrade begins by mending it"
            ));
        }
        if let Some(forecast) = &plan.config {
            human.push_str(&format!("\n\n{}", report::forecast(forecast, settings)));
            // Notices of the keep list are in the report, too.
            if let (Value::Object(plan), Value::Object(report)) =
                (&mut document, to_value(&forecast.report))
            {
                plan.extend(report);
                plan.insert("space".into(), forecast.space.into());
                plan.insert("guess".into(), forecast.is_guess.into());
            }
        } else if kept.is_some() {
            human.push_str("\n\nthe image does not say its defaults: ");
            human.push_str("what becomes of the files is decided at the first boot");
        }
        let refusal = plan.refusals.first();
        if let (Some(first), Value::Object(fields)) = (refusal, &mut document) {
            fields.insert("refusals".into(), to_value(&plan.refusals));
            fields.insert("message".into(), first.message.clone().into());
            human.push_str("\n\nit will not be installed:");
            for refusal in &plan.refusals {
                let hint = with_hint(&refusal.message, &refusal.hint);
                human.push_str(&format!("\n  {}", hint.replace('\n', "\n  ")));
            }
        }
        let mut answer = Self::new(human, document);
        answer.review(plan.needs_review());
        match refusal {
            Some(first) => answer.coded(first.reason.exit_code()),
            None => answer,
        }
    }

    pub(super) fn status(status: &Status) -> Self {
        let slot = |label: &str, slot: &SlotStatus| {
            let version = slot.version.as_deref().map(printable);
            let version = version.map(|version| format!("version {version}, "));
            let (name, state) = (&slot.name, printable(&slot.state));
            format!(
                "{label:<10} slot {name}, {}{state}",
                version.unwrap_or_default()
            )
        };
        let mut lines = vec![
            slot("running", &status.running),
            slot("other", &status.other),
            format!("next boot  slot {}", status.next_boot),
            format!("floor      security {}", status.floor),
        ];
        if status.unsigned_allowed {
            lines.push(UNSIGNED.to_owned());
        }
        if let Some(last) = &status.last {
            lines.push(format!("last       {}", entry_line(last)));
        }
        for entry in &status.review {
            let taken = match entry.conflicts.first().map(|conflict| conflict.resolved) {
                Some(Winner::New) => "the new version's was taken",
                _ => "yours was kept",
            };
            let path = printable(&entry.path.to_string());
            lines.push(format!(
                "review     /{path}: {}, {taken}",
                entry.action.name()
            ));
        }
        let nothing = ["nothing".to_owned()];
        let to_do: &[String] = if status.to_do.is_empty() {
            &nothing
        } else {
            &status.to_do
        };
        lines.extend(to_do.iter().map(|what| format!("to do      {what}")));
        Self::new(lines.join("\n"), to_value(status))
    }

    pub(super) fn first_boot(done: &FirstBoot) -> Self {
        let (human, what) = match done {
            FirstBoot::Settled(None) => (String::new(), "nothing-to-do"),
            FirstBoot::Settled(Some(message)) => (harmless(message), "fell-back"),
            FirstBoot::AlreadyDone => (
                "the configuration was brought over before".into(),
                "already-done",
            ),
            FirstBoot::Defaults => (
                "this system starts from its own defaults, as asked for".into(),
                "defaults",
            ),
            FirstBoot::Applied(report) => {
                let human = format!("the configuration was brought over: {}", summary(report));
                return Self::new(
                    human,
                    json!({ "first_boot": "applied", "report": to_value(&**report) }),
                );
            }
        };
        Self::new(
            human.clone(),
            json!({ "first_boot": what, "message": human }),
        )
    }

    pub(super) fn confirmed(machine: &Machine, changed: bool) -> Self {
        let slot = machine.name(machine.running);
        let human = if changed {
            format!("slot {slot} is confirmed")
        } else {
            format!("slot {slot} is good, nothing to confirm")
        };
        Self::new(human, json!({ "slot": slot, "changed": changed }))
    }

    pub(super) fn going_back(machine: &Machine, slot: Slot, reboot: Option<Duration>) -> Self {
        let name = machine.name(slot);
        let human = match (slot == machine.running, reboot) {
            (true, _) => format!("the trial is called off, slot {name} stays"),
            (false, Some(_)) => format!("going back to slot {name}, rebooting"),
            (false, None) => format!("slot {name} takes over at the next boot"),
        };
        Self::new(human, json!({ "slot": name })).then(reboot)
    }

    /// What became of revocation records.
    pub(super) fn revoked(outcomes: &[Outcome]) -> Self {
        let mut code = ExitCode::Done;
        let mut lines = Vec::new();
        let mut list = Vec::new();
        for outcome in outcomes {
            let (line, entry) = match outcome {
                Outcome::Applied(key) => (
                    format!("key {key} is revoked: what it signed is refused from now on"),
                    json!({ "outcome": "applied", "key": key.to_string() }),
                ),
                Outcome::Already(key) => (
                    format!("key {key} had been revoked before"),
                    json!({ "outcome": "already", "key": key.to_string() }),
                ),
                Outcome::Refused(error) => {
                    code = error.reason().exit_code();
                    let why = describe(error);
                    let hint = match error.reason() {
                        Reason::UnknownKey => "a key that is trusted here has to sign it",
                        Reason::RevokedKey => "whoever signed it is not trusted any more",
                        Reason::CertificateNotYetValid | Reason::ClockNotSet => {
                            "set the clock, or apply it when it is valid"
                        }
                        _ => "it is damaged or no record at all: get it from its maker again",
                    };
                    (
                        format!("a record was refused: {}\n  {hint}", printable(&why)),
                        json!({ "outcome": "refused", "reason": to_value(&error.reason()), "message": why }),
                    )
                }
            };
            lines.push(line);
            list.push(entry);
        }
        Self::new(lines.join("\n"), json!({ "records": list })).coded(code)
    }

    pub(super) fn history(entries: &[Entry]) -> Self {
        let lines: Vec<String> = entries.iter().map(entry_line).collect();
        Self::new(lines.join("\n"), json!({ "history": to_value(entries) }))
    }

    pub(super) fn checks(checks: &[Check]) -> Self {
        let mut lines = Vec::new();
        for check in checks {
            let mark = if check.ok { "ok  " } else { "BAD " };
            lines.push(format!(
                "{mark} {:<16} {}",
                check.name,
                harmless(&check.detail)
            ));
            lines.extend(
                check
                    .hint
                    .iter()
                    .map(|hint| format!("     {:<16} -> {hint}", "")),
            );
        }
        let good = checks.iter().all(|check| check.ok);
        let mut answer = Self::new(
            lines.join("\n"),
            json!({ "checks": to_value(checks), "good": good }),
        );
        if !good {
            answer.code = ExitCode::BoardUnreadable;
        }
        answer
    }

    /// What was done to the boot environment.
    pub(super) fn repaired(done: &[String]) -> Self {
        let lines: Vec<String> = done.iter().map(|line| harmless(line)).collect();
        let human = match lines.as_slice() {
            [] => "the boot environment is whole, there is nothing to repair".to_owned(),
            _ => lines.join("\n"),
        };
        Self::new(human, json!({ "repaired": done }))
    }

    pub(super) fn kept(keep: &config::keep::KeepList) -> Self {
        let mut paths: Vec<String> = keep.paths().map(ToString::to_string).collect();
        if keep.listing().packages {
            paths.push(config::keep::PACKAGE_LIST.to_owned());
        }
        // As stock prints them: scripts take the lines for names of files.
        let lines: Vec<String> = paths.iter().map(|path| format!("/{path}")).collect();
        Self::new(lines.join("\n"), json!({ "paths": paths })).noticed(keep.notices())
    }

    pub(super) fn backed_up(to: &Place, summary: &config::archive::Summary) -> Self {
        let answer = Self::new(
            format!("{} files saved", summary.files),
            json!({ "files": summary.files }),
        )
        .noticed(&summary.notices);
        match to {
            Place::Standard => answer.aside(),
            Place::File(_) => answer,
        }
    }

    pub(super) fn restored(restored: &Restored) -> Self {
        let count = restored.paths.len();
        let mut answer = Self::new(
            format!("{count} files restored"),
            json!({ "restored": to_value(&restored.paths) }),
        )
        .noticed(&restored.notices);
        if restored.needs_review() {
            answer.code = ExitCode::NeedsReview;
        }
        answer
    }

    /// An image that was looked at without a machine.
    pub(super) fn judged(contents: &Contents) -> Self {
        let human = format!(
            "the image is whole: version {}, {}; nothing runs from here, so there is no slot to ask",
            printable(&contents.version),
            contents.format
        );
        Self::new(human, json!({}))
    }

    /// Adds what OpenWrt's tools ask, and the exit code of the first rule that says no.
    pub(super) fn judged_as(mut self, verdict: &Verdict) -> Self {
        if let Value::Object(fields) = &mut self.machine {
            fields.extend(verdict.document());
        }
        if let Some(first) = verdict.refusals.first() {
            self.code = first.reason.exit_code();
        }
        self
    }

    /// What a stock image says of itself.
    pub(super) fn shown(shown: &Shown) -> Self {
        let Shown { claims, problem } = shown;
        let (kind, compat) = (claims.format.to_string(), claims.compat.to_string());
        let signers: Vec<String> = claims.signers.iter().map(ToString::to_string).collect();
        let mut human = String::from("NOT VERIFIED: this is what the image says of itself");
        let mut line = |name: &str, value: &str| {
            human.push_str(&format!("\n{name:<10} {}", printable(value)));
        };
        match problem {
            Some(problem) => line("problem", problem),
            None => {
                line("kind", &kind);
                claims.boards.iter().for_each(|board| line("board", board));
                line("version", &claims.version);
                line("compat", &compat);
                match signers.as_slice() {
                    [] => line("signature", "none"),
                    keys => keys
                        .iter()
                        .for_each(|key| line("signature", &format!("by key {key}"))),
                }
            }
        }
        let machine = json!({
            "verified": false, "kind": kind, "boards": claims.boards, "version": claims.version,
            "compat": compat, "signatures": signers, "problem": problem,
        });
        Self::new(human, machine)
    }

    pub(super) fn inspected<R: io::Read>(image: &Unverified<R>) -> Result<Self, Failure> {
        let inspection = Inspection::of(image)?;
        Ok(Self::new(inspection.to_text(), inspection.to_json()?))
    }
}

fn with_hint(message: &str, hint: &str) -> String {
    format!("{}\n  {}", harmless(message), harmless(hint))
}

fn entry_line(entry: &Entry) -> String {
    format!("#{} {}", entry.number, harmless(&entry.message))
}

/// Our own types: maps with text keys and nothing that JSON cannot say.
pub(super) fn to_value<T: Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Why a command did not do what was asked.
pub(super) struct Failure {
    pub(super) code: ExitCode,
    pub(super) message: String,
    pub(super) refusals: Vec<Refusal>,
    /// There is no machine: no board file, or no system that runs.
    pub(super) nothing_runs: bool,
    /// The image is refused for something that its good signature covers.
    pub(super) is_signed: bool,
    /// What to do now, where no refusal says it.
    hint: Option<&'static str>,
    /// More for programs.
    more: Map<String, Value>,
}

impl Failure {
    /// With all of the error's causes.
    pub(super) fn new(code: ExitCode, error: &dyn std::error::Error) -> Self {
        Self {
            code,
            message: describe(error),
            ..Self::plain(code, "")
        }
    }

    /// Without a cause that the library would name.
    pub(super) fn plain(code: ExitCode, message: &str) -> Self {
        Self {
            code,
            message: message.to_owned(),
            refusals: Vec::new(),
            nothing_runs: false,
            is_signed: false,
            hint: None,
            more: Map::new(),
        }
    }

    /// A signal while waiting for the reboot.
    pub(super) fn reboot_stopped() -> Self {
        let message = "stopped before the reboot; what boots next is not changed by that";
        Self::plain(ExitCode::Failed, message)
    }

    /// Something of the operating system that is expected to work.
    pub(super) fn doing(what: &str, error: &io::Error) -> Self {
        Self::plain(ExitCode::Failed, &format!("cannot {what}: {error}"))
    }

    /// With what it is about, at its begin.
    pub(super) fn about(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// With what to do now.
    pub(super) fn hinted(mut self, hint: impl Into<Option<&'static str>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds what OpenWrt's tools ask.
    pub(super) fn judged(mut self, verdict: &Verdict) -> Self {
        self.more = verdict.document();
        self
    }

    pub(super) fn print(self, settings: &Settings) -> ExitCode {
        if settings.json {
            let mut document = json!({
                "ok": false, "exit": self.code as u8, "message": self.message, "refusals": to_value(&self.refusals),
            });
            if let Value::Object(fields) = &mut document {
                fields.extend(self.hint.map(|hint| ("hint".to_owned(), hint.into())));
                fields.extend(self.more);
            }
            return print(&format!("{document}\n"), self.code);
        }
        match &*self.refusals {
            [] => match self.hint {
                Some(hint) => complain(&with_hint(&self.message, hint)),
                None => complain(&harmless(&self.message)),
            },
            // One refusal is the end of the message's chain; what stands before it is worth telling.
            [one] => complain(&with_hint(&self.message, &one.hint)),
            several => {
                for refusal in several {
                    complain(&with_hint(&refusal.message, &refusal.hint));
                }
            }
        }
        self.code
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self {
            refusals: vec![error.refusal()],
            is_signed: error.is_behind_signature(),
            ..Self::new(error.reason().exit_code(), &error)
        }
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Self {
        let mut failure = Self::new(error.exit_code(), &error).hinted(error.hint());
        failure.refusals = match error {
            InstallError::Refused(refusals) => refusals,
            InstallError::Image(error) => {
                failure.is_signed = error.is_behind_signature();
                vec![error.refusal()]
            }
            InstallError::Unfinished { source, .. } => match *source {
                InstallError::Image(error) => vec![error.refusal()],
                InstallError::Flash { part, source, .. } => vec![source.refusal(&part)],
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        failure
    }
}

impl From<DecideError> for Failure {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Config(error) => error.into(),
            DecideError::NotDisputed { .. } => Self::new(ExitCode::Usage, &error),
        }
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        let code = match &error {
            MachineError::Busy { .. } | MachineError::Boot(BootError::Busy { .. }) => {
                ExitCode::Busy
            }
            MachineError::Boot(_) | MachineError::Transition(TransitionError::Contradiction) => {
                ExitCode::BoardUnreadable
            }
            MachineError::Transition(TransitionError::OnTrial) => ExitCode::OnTrial,
            MachineError::NoFirstBoot => ExitCode::ConfigRefused,
            MachineError::Data(error) => error.exit_code(),
            MachineError::Transition(_) | MachineError::File(_) | MachineError::Flash(_) => {
                ExitCode::Failed
            }
        };
        Self::new(code, &error).hinted(error.hint())
    }
}

impl From<SystemError> for Failure {
    fn from(error: SystemError) -> Self {
        let code = match &error {
            SystemError::Data(error) => error.exit_code(),
            SystemError::Reboot { .. } => ExitCode::Failed,
            SystemError::Trust(_) => ExitCode::Signature,
            _ => ExitCode::BoardUnreadable,
        };
        let nothing_runs = match &error {
            SystemError::NoBoard | SystemError::RunningSlot { .. } => true,
            SystemError::File(error) => error.is_not_found(),
            _ => false,
        };
        Self {
            nothing_runs,
            ..Self::new(code, &error).hinted(error.hint())
        }
    }
}

impl From<FirstBootError> for Failure {
    fn from(error: FirstBootError) -> Self {
        match error {
            FirstBootError::Machine(error) => error.into(),
            FirstBootError::Undecided { .. } | FirstBootError::GivenUp { .. } => {
                Self::new(ExitCode::ConfigRefused, &error)
            }
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = match error {
            ConfigError::NotAPath { .. } => ExitCode::Usage,
            _ => ExitCode::ConfigRefused,
        };
        Self::new(code, &error).hinted(error.hint())
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::new(error.exit_code(), &error).hinted(error.hint())
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::new(ExitCode::Failed, &error).hinted(error.hint())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::new(ExitCode::Failed, &error).hinted(error.problem.hint())
    }
}
