//! The commands about configuration alone: they open what they need, and answer.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Session;
use super::answer::{Answer, Failure, to_value};
use super::args::{ConfigCommand, Merge, Place};
use super::paint::Paint;
use super::report::{Tense, View, diff};
use crate::config::Tree;
use crate::config::attic::{self, Found};
use crate::config::baseline::{self, Stored};
use crate::config::changes::{Change, changes};
use crate::config::declare::{self, DeclareError, Declared, Hint};
use crate::config::desk::case::run_case;
use crate::config::desk::{self, Context, DeskError, Dirs, Storage};
use crate::config::difference::{self, Difference};
use crate::config::engine::Verdict;
use crate::config::report::Report;
use crate::config::reports;
use crate::files::below;
use crate::files::{self, FileError, NewFile};
use crate::install::describe;
use crate::machine;
use crate::report::{ExitCode, harmless};
use crate::system::SystemError;

/// A context is text that people write.
const MAX_CONTEXT: u64 = 1 << 20;

impl Session<'_> {
    pub(super) fn config(&self, command: ConfigCommand) -> Result<Answer, Failure> {
        match command {
            ConfigCommand::Merge(words) => self.merge(&words),
            ConfigCommand::Test { cases } => Ok(tested(&cases)),
            ConfigCommand::Diff { paths } => self.diff(&paths),
            ConfigCommand::Report { number } => self.report(number),
            ConfigCommand::Baseline => self.baseline(),
            ConfigCommand::Keep { paths } => {
                let said = declare::keep(&self.root, &bytes(&paths))?;
                Ok(declared(&said, "/etc/sysupgrade.conf"))
            }
            ConfigCommand::Pin { paths } => {
                let said = declare::pin(&self.root, &bytes(&paths))?;
                Ok(declared(&said, "/etc/sysupgrade.policy"))
            }
            ConfigCommand::AtticList => self.attic_list(),
            ConfigCommand::AtticGet { path, to } => self.attic_get(&path, &to),
        }
    }

    fn merge(&self, words: &Merge) -> Result<Answer, Failure> {
        let context = match &words.context {
            Some(file) => Context::parse(&files::read(file, MAX_CONTEXT)?)?,
            None => Context::default(),
        };
        let dirs = Dirs {
            base: &words.base,
            user: &words.user,
            new: &words.new,
        };
        let outcome = desk::merge(&dirs, &context, Storage::Disk)?;
        if let Some(out) = &words.out {
            desk::write_out(&outcome, out)?;
        }
        let mut new = Tree::default();
        new.read(&words.new, "")?;
        let report = Report::of(&outcome, "", "");
        let text = View {
            report: &report,
            tense: Tense::Future,
            differences: &difference::of_outcome(&outcome, &new)?,
            open: &BTreeSet::new(),
            verbose: self.settings.verbosity > 1,
            paint: Paint::for_stdout(),
        }
        .text();
        let code = match outcome.verdict() {
            Verdict::Clean => ExitCode::Done,
            Verdict::NeedsReview => ExitCode::NeedsReview,
            Verdict::Refused => ExitCode::ConfigRefused,
        };
        let mut document = to_value(&report);
        if let Value::Object(fields) = &mut document {
            fields.insert("space".into(), desk::space(&outcome, &new).into());
        }
        Ok(Answer::new(text, document).coded(code))
    }

    fn baseline(&self) -> Result<Answer, Failure> {
        let stored = baseline::store(&self.root, self.defaults()?.as_deref())?;
        let (human, word) = match stored {
            Stored::Now { entries, bytes } => {
                let human = format!("{entries} generated defaults are stored, {bytes} bytes");
                let document = json!({ "baseline": "stored", "entries": entries, "bytes": bytes });
                return Ok(Answer::new(human, document));
            }
            Stored::AlreadyThere => ("the defaults are stored already", "already-there"),
            Stored::NotFresh => (
                "this system took its configuration over: what it has is no default",
                "not-fresh",
            ),
            Stored::NoDefaults => return Err(no_defaults()),
        };
        Ok(Answer::new(human, json!({ "baseline": word })))
    }

    /// Where the shipped files are. That needs no board file, but one that is there must be good.
    fn defaults(&self) -> Result<Option<PathBuf>, Failure> {
        match self.board() {
            Ok(board) => Ok(machine::defaults(&self.root, &board)),
            Err(SystemError::NoBoard) => Ok(match &self.settings.defaults {
                Some(defaults) => Some(below(&self.root, defaults)),
                None => baseline::find_defaults(&self.root),
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn diff(&self, paths: &[OsString]) -> Result<Answer, Failure> {
        let defaults = self.defaults()?;
        let Some(changes) = changes(&self.root, defaults.as_deref(), &bytes(paths))? else {
            return Err(no_defaults());
        };
        let paint = Paint::for_stdout();
        let lines: Vec<String> = changes.iter().flat_map(|one| change(paint, one)).collect();
        let documents: Vec<_> = changes.iter().map(change_document).collect();
        Ok(Answer::new(
            lines.join("\n"),
            json!({ "changes": documents }),
        ))
    }

    fn report(&self, number: Option<u32>) -> Result<Answer, Failure> {
        let known = reports::numbers(&self.root)?;
        let Some(number) = number.or(known.last().copied()) else {
            let none = "no upgrade has left a report on this system";
            return Err(Failure::plain(ExitCode::Failed, none));
        };
        let Some(report) = reports::numbered(&self.root, number)? else {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            let known = match &*known {
                [] => "there are none".to_owned(),
                some => format!("there are {}", some.join(", ")),
            };
            let none = format!("there is no readable report {number}; {known}");
            return Err(Failure::plain(ExitCode::Failed, &none));
        };
        let differences = difference::of_report(&self.root, number, &report)?;
        let text = View {
            report: &report,
            tense: Tense::Past,
            differences: &differences,
            open: &BTreeSet::new(),
            verbose: self.settings.verbosity > 1,
            paint: Paint::for_stdout(),
        }
        .text();
        let version = |version: &str| match version {
            "" => "unknown".to_owned(),
            version => harmless(version),
        };
        let (from, to) = (version(&report.from), version(&report.to));
        let mut human = format!("report {number}: from version {from} to version {to}");
        if !text.is_empty() {
            human = format!("{human}\n\n{text}");
        }
        let mut document = to_value(&report);
        document["number"] = number.into();
        Ok(Answer::new(human, document))
    }

    fn attic_list(&self) -> Result<Answer, Failure> {
        let list = attic::list(&self.root)?;
        let lines: Vec<String> = list
            .iter()
            .map(|aside| {
                let path = harmless(&aside.path.to_string());
                let size = match aside.size {
                    Some(size) => format!("{size} bytes"),
                    None => "a link".to_owned(),
                };
                format!("/{path}: {size}, of report {}", aside.number)
            })
            .collect();
        let documents: Vec<_> = list
            .iter()
            .map(|aside| json!({ "path": aside.path, "report": aside.number, "size": aside.size }))
            .collect();
        Ok(Answer::new(lines.join("\n"), json!({ "attic": documents })))
    }

    fn attic_get(&self, path: &OsString, to: &Place) -> Result<Answer, Failure> {
        let name = harmless(&path.to_string_lossy());
        let mut file = match attic::newest(&self.root, path.as_bytes())? {
            Some(Found::File(file)) => file,
            Some(Found::Link(target)) => {
                let target = harmless(&String::from_utf8_lossy(&target));
                let link = format!("`{name}` was a link to `{target}`");
                return Err(Failure::plain(ExitCode::Failed, &link));
            }
            None => {
                let none = format!("no attic has `{name}`; see `sysupgrade-rs config attic list`");
                return Err(Failure::plain(ExitCode::Failed, &none));
            }
        };
        let count = match to {
            Place::Standard => {
                let mut out = io::stdout().lock();
                match io::copy(&mut file, &mut out).and_then(|count| out.flush().map(|()| count)) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
                    copied => copied.map_err(|error| Failure::doing("copy the file", &error))?,
                }
            }
            Place::File(to) => {
                let mut out = NewFile::create(to, 0o600)?;
                let count = io::copy(&mut file, &mut out).map_err(FileError::at("write", to))?;
                out.commit()?;
                count
            }
        };
        let answer = Answer::new(format!("{count} bytes"), json!({ "bytes": count }));
        Ok(match to {
            Place::Standard => answer.aside(),
            Place::File(_) => answer,
        })
    }
}

fn no_defaults() -> Failure {
    let message = "nobody knows the defaults of this system: no directory holds what was shipped";
    Failure::plain(ExitCode::Failed, message)
}

/// Runs cases one after the other; what cannot be run differs from what is expected.
fn tested(cases: &[PathBuf]) -> Answer {
    let mut lines = Vec::new();
    let mut documents = Vec::new();
    let mut good = true;
    for dir in cases {
        let differences = match run_case(dir) {
            Ok(result) => result.differences,
            Err(error) => vec![describe(&error)],
        };
        let ok = differences.is_empty();
        good &= ok;
        let name = harmless(&dir.to_string_lossy());
        lines.push(format!("{} {name}", if ok { "ok  " } else { "BAD " }));
        lines.extend(
            differences
                .iter()
                .map(|line| format!("     {}", harmless(line))),
        );
        documents.push(json!({ "case": name, "ok": ok, "differences": differences }));
    }
    let answer = Answer::new(lines.join("\n"), json!({ "cases": documents }));
    match good {
        true => answer,
        false => answer.coded(ExitCode::Failed),
    }
}

fn bytes(paths: &[OsString]) -> Vec<&[u8]> {
    paths.iter().map(|path| path.as_bytes()).collect()
}

fn declared(said: &[Declared], file: &str) -> Answer {
    let mut lines = Vec::new();
    let mut documents = Vec::new();
    for one in said {
        let path = harmless(&one.path.to_string());
        lines.push(match one.added {
            true => format!("/{path}: added to {file}"),
            false => format!("/{path}: is in {file} already"),
        });
        let hint = one.hint.map(|hint| match hint {
            Hint::NamesNothing => ("nothing on this system has that name", "names-nothing"),
            Hint::NotKept => (
                "carried only if a keep list names it: sysupgrade-rs config keep PATH",
                "not-kept",
            ),
        });
        lines.extend(hint.map(|(text, _)| format!("  {text}")));
        let word = hint.map(|(_, word)| word);
        documents
            .push(json!({ "path": one.path, "line": one.line, "added": one.added, "hint": word }));
    }
    Answer::new(
        lines.join("\n"),
        json!({ "file": file, "paths": documents }),
    )
}

fn change(paint: Paint, change: &Change) -> Vec<String> {
    let path = harmless(&change.path.to_string());
    let what = change.what.name();
    let mut lines = Vec::new();
    if let Some((default, yours)) = change.modes {
        lines.push(format!(
            "/{path}: mode {yours:04o}, the default is {default:04o}"
        ));
    }
    match &change.difference {
        None => {}
        Some(Difference::Withheld(why)) => {
            lines.push(format!("/{path}: {what}, not shown: {why}"));
        }
        // An empty file, a change that is masked on both sides.
        Some(Difference::Lines(text)) if text.is_empty() => lines.push(format!("/{path}: {what}")),
        Some(difference) => lines.extend(diff(paint, difference, "")),
    }
    lines
}

fn change_document(change: &Change) -> Value {
    let (lines, withheld) = match &change.difference {
        None => (None, None),
        Some(Difference::Lines(lines)) => (Some(lines), None),
        Some(Difference::Withheld(why)) => (None, Some(why)),
    };
    let modes = change.modes.map(|(default, user)| {
        json!({ "default": format!("{default:04o}"), "user": format!("{user:04o}") })
    });
    json!({
        "path": change.path, "what": change.what.name(), "mode": modes, "diff": lines,
        "withheld": withheld,
    })
}

impl From<DeskError> for Failure {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Config(error) => error.into(),
            _ => Self::new(ExitCode::Usage, &error),
        }
    }
}

impl From<DeclareError> for Failure {
    fn from(error: DeclareError) -> Self {
        match error {
            DeclareError::Config(error) => error.into(),
            DeclareError::OwnState { .. } | DeclareError::NoPattern { .. } => {
                Self::new(ExitCode::Usage, &error)
            }
            DeclareError::NoFile { .. } => Self::new(ExitCode::Failed, &error),
        }
    }
}
