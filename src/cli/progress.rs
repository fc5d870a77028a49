//! Progress of a long run, for whoever watches it.
//!
//! The library reports [`Event`]s; here they become one line that is redrawn (a terminal), sparse
//! lines (a log), JSON lines (a program) or nothing. Beside that the state of the run is kept in a
//! small file below `/run`, so that a web page that did not start the run can show it.
//!
//! Nothing here can fail a run. A watcher that went away (closed pipe) is no longer told; a status
//! file that cannot be written is logged once. Clocks are read in this file alone, and only to show
//! rates and to hold back lines.
//!
//! # JSON lines
//!
//! ```text
//! {"event":"phase","phase":"flash"}
//! {"event":"progress","phase":"flash","part":"root","done":1048576,"total":4194304,"percent":25}
//! {"event":"notice","message":"..."}
//! ```
//!
//! # The status file
//!
//! One JSON object, replaced as a whole. It is not synced: it lives on a file system in memory.
//!
//! ```text
//! {"state":"running","phase":"flash","part":"root","done":1048576,"total":4194304,"percent":25}
//! {"state":"finished","exit":0,"message":"..."}
//! ```
//!
//! After a reboot it has what happened last, by the word that history has for it:
//!
//! ```text
//! {"state":"finished","exit":1,"message":"...","what":"rolled-back"}
//! ```

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::ProgressWord;
use super::voice;
use crate::data::{Entry, What};
use crate::files::{self, FileError, NewFile};
use crate::report::{Event, ExitCode, Phase, Size, harmless, printable};

/// The line is redrawn at most ten times a second: a serial console does not keep up with more.
const REDRAW: Duration = Duration::from_millis(100);
/// A JSON line or a new status file at least so often while bytes move, and the rate measured anew.
const SECOND: Duration = Duration::from_secs(1);
/// A log gets a line every so many percent.
const LOG_STEP: u8 = 10;
/// Width to assume when the terminal does not tell (serial consoles).
const DEFAULT_COLUMNS: usize = 80;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One line on a terminal, redrawn.
    Bar,
    /// A JSON object a line.
    Json,
    /// A line a phase and one every ten percent.
    Lines,
    /// Notices only.
    Notices,
    /// Nothing at all.
    Silent,
}

impl Style {
    /// What was asked for, on this standard error: `auto` is JSON beside a JSON answer, a bar on a
    /// terminal, lines elsewhere. A bar needs a terminal, otherwise it is lines too. Quiet is silent
    /// unless something else was asked for by name.
    #[must_use]
    pub fn choose(word: ProgressWord, json: bool, verbosity: i16, terminal: bool) -> Self {
        let quiet = verbosity < 1;
        match word {
            ProgressWord::Json => Self::Json,
            ProgressWord::None | ProgressWord::Auto if quiet => Self::Silent,
            ProgressWord::None => Self::Notices,
            ProgressWord::Auto if json => Self::Json,
            ProgressWord::Auto | ProgressWord::Bar if terminal => Self::Bar,
            ProgressWord::Auto | ProgressWord::Bar => Self::Lines,
        }
    }

    /// [`choose`](Self::choose) for the standard error of this process.
    #[must_use]
    pub fn for_stderr(word: ProgressWord, json: bool, verbosity: i16) -> Self {
        Self::choose(word, json, verbosity, io::stderr().is_terminal())
    }
}

fn stderr_columns() -> usize {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => DEFAULT_COLUMNS,
    }
}

/// One JSON line.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    Phase {
        phase: Phase,
    },
    Progress {
        #[serde(flatten)]
        at: &'a Position,
    },
    Notice {
        message: &'a str,
    },
}

/// The status file.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum Status<'a> {
    Running {
        #[serde(flatten)]
        at: &'a Position,
    },
    Finished {
        exit: u8,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        what: Option<What>,
    },
}

/// How far the run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Position {
    phase: Phase,
    #[serde(skip_serializing_if = "String::is_empty")]
    part: String,
    done: u64,
    total: u64,
    percent: u8,
}

impl Position {
    fn begin(phase: Phase) -> Self {
        Self {
            phase,
            part: String::new(),
            done: 0,
            total: 0,
            percent: 0,
        }
    }

    fn complete(&self) -> bool {
        self.done >= self.total
    }
}

fn percent(done: u64, total: u64) -> u8 {
    if total == 0 {
        return 100;
    }
    let percent = u128::from(done.min(total)) * 100 / u128::from(total);
    percent.try_into().unwrap_or(100)
}

/// Where the bytes of a phase began to count, and how fast they went lately.
#[derive(Clone, Copy, Debug)]
struct Speed {
    since: Instant,
    done: u64,
    /// Bytes a second, once a second has been seen.
    rate: Option<u64>,
}

impl Speed {
    fn measure(&mut self, done: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < SECOND {
            return;
        }
        let bytes = u128::from(done.saturating_sub(self.done));
        let latest = u64::try_from(bytes * 1000 / elapsed.as_millis()).unwrap_or(u64::MAX);
        // Half old, half new: parts that are skipped, because the medium holds them already, go by
        // far faster than those that are written.
        self.rate = Some(self.rate.map_or(latest, |old| old / 2 + latest / 2));
        self.since = now;
        self.done = done;
    }
}

/// The watcher of a run.
pub struct Progress {
    style: Style,
    /// Asked before each redraw, since windows change their size.
    columns: fn() -> usize,
    sink: Box<dyn Write>,
    closed: bool,
    status: Option<PathBuf>,
    phase: Option<Phase>,
    speed: Option<Speed>,
    /// What was shown last, and when.
    shown: Option<(Position, Instant)>,
    status_written: Option<(Phase, Instant)>,
    /// Characters of the bar that are on the screen now.
    on_screen: usize,
}

impl Progress {
    /// Shows progress on `sink`, standard error as a rule.
    #[must_use]
    pub fn new(style: Style, sink: Box<dyn Write>) -> Self {
        Self {
            style,
            columns: stderr_columns,
            sink,
            closed: false,
            status: None,
            phase: None,
            speed: None,
            shown: None,
            status_written: None,
            on_screen: 0,
        }
    }

    /// Also keeps the state of the run in this file; its directory is made if it is missing.
    #[must_use]
    pub fn with_status(mut self, path: PathBuf) -> Self {
        self.status = Some(path);
        self
    }

    /// Takes note of an event.
    pub fn event(&mut self, event: &Event) {
        self.event_at(event, Instant::now());
    }

    /// The run is over: takes the bar off the screen and leaves the result in the status file.
    pub fn finish(&mut self, exit: ExitCode, message: &str) {
        self.clear();
        self.write_status(&Status::Finished {
            exit: exit as u8,
            message,
            what: None,
        });
    }

    fn event_at(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Phase(phase) => {
                voice::log(sentence(*phase));
                self.phase(*phase, now);
            }
            Event::Notice(message) => {
                voice::log(&harmless(message));
                self.notice(message);
            }
            Event::Progress {
                phase,
                part,
                done,
                total,
            } => self.progress(
                &Position {
                    phase: *phase,
                    part: part.clone(),
                    done: *done,
                    total: *total,
                    percent: percent(*done, *total),
                },
                now,
            ),
        }
    }

    fn phase(&mut self, phase: Phase, now: Instant) {
        self.clear();
        self.speed = None;
        self.shown = None;
        match self.style {
            Style::Json => self.json(&Line::Phase { phase }),
            Style::Bar | Style::Lines => self.line(sentence(phase)),
            Style::Notices | Style::Silent => {}
        }
        self.enter(&Position::begin(phase), now);
    }

    fn notice(&mut self, message: &str) {
        match self.style {
            Style::Json => self.json(&Line::Notice { message }),
            Style::Silent => {}
            Style::Bar | Style::Lines | Style::Notices => {
                self.clear();
                self.line(&harmless(message));
            }
        }
    }

    fn progress(&mut self, at: &Position, now: Instant) {
        if self.phase != Some(at.phase) {
            self.speed = None;
            self.shown = None;
        }
        let speed = self.speed.get_or_insert(Speed {
            since: now,
            done: at.done,
            rate: None,
        });
        speed.measure(at.done, now);
        let rate = speed.rate;
        if self.is_due(at, now) {
            match self.style {
                Style::Json => self.json(&Line::Progress { at }),
                Style::Lines => self.line(&log_line(at)),
                Style::Bar => self.draw(&bar(at, rate, (self.columns)())),
                Style::Notices | Style::Silent => {}
            }
            self.shown = Some((at.clone(), now));
        }
        self.enter(at, now);
    }

    /// Whether this step is worth showing: the first and the last one of a phase always are.
    fn is_due(&self, at: &Position, now: Instant) -> bool {
        let Some((last, when)) = &self.shown else {
            return true;
        };
        if at == last {
            return false;
        }
        if at.complete() || at.part != last.part && !matches!(self.style, Style::Lines) {
            return true;
        }
        let passed = now.saturating_duration_since(*when);
        match self.style {
            Style::Bar => passed >= REDRAW,
            Style::Json => at.percent != last.percent || passed >= SECOND,
            Style::Lines => at.percent / LOG_STEP != last.percent / LOG_STEP,
            Style::Notices | Style::Silent => false,
        }
    }

    /// Remembers where the run is, and writes the status file once a second and in each new phase.
    fn enter(&mut self, at: &Position, now: Instant) {
        let due = self.status_written.is_none_or(|(phase, when)| {
            phase != at.phase || now.saturating_duration_since(when) >= SECOND
        });
        if due {
            self.status_written = Some((at.phase, now));
            self.write_status(&Status::Running { at });
        }
        self.phase = Some(at.phase);
    }

    fn write_status(&mut self, status: &Status<'_>) {
        let Some(path) = &self.status else { return };
        if let Err(error) = replace_in_memory(path, status) {
            log::debug!("{error}: {}", error.source);
            self.status = None; // said once; it would not work the next time either
        }
    }

    /// Redraws the bar in place. No terminal is too dumb for a carriage return and blanks.
    fn draw(&mut self, bar: &str) {
        let width = bar.chars().count();
        let rest = self.on_screen.saturating_sub(width);
        self.write(&format!("\r{bar}{:rest$}", ""));
        self.on_screen = width;
    }

    fn clear(&mut self) {
        if self.on_screen > 0 {
            let width = self.on_screen;
            self.write(&format!("\r{:width$}\r", ""));
            self.on_screen = 0;
        }
    }

    fn line(&mut self, line: &str) {
        self.write(&format!("{line}\n"));
    }

    fn json(&mut self, line: &Line<'_>) {
        match serde_json::to_string(line) {
            Ok(text) => self.line(&text),
            Err(error) => log::debug!("cannot show progress: {error}"),
        }
    }

    /// Writes in one piece, so that lines of several programs do not mix.
    fn write(&mut self, text: &str) {
        if self.closed {
            return;
        }
        let written = self
            .sink
            .write_all(text.as_bytes())
            .and_then(|()| self.sink.flush());
        if let Err(error) = written {
            log::debug!("nobody listens to the progress any more: {error}");
            self.closed = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Leaves what happened earlier in a status file, as the result of a run.
pub fn tell_result(path: &Path, entry: &Entry) {
    let exit = match (entry.what, entry.reason) {
        (What::Installed | What::FirstBoot | What::Confirmed | What::Repaired, _) => ExitCode::Done,
        (What::FirstBootFailed, _) => ExitCode::ConfigRefused,
        (_, Some(reason)) => reason.exit_code(),
        (_, None) => ExitCode::Failed,
    };
    let status = Status::Finished {
        exit: exit as u8,
        message: &entry.message,
        what: Some(entry.what),
    };
    if let Err(error) = replace_in_memory(path, &status) {
        log::debug!("{error}: {}", error.source);
    }
}

fn replace_in_memory(path: &Path, status: &Status<'_>) -> files::Result<()> {
    if let Some(dir) = path.parent() {
        files::make_dirs(dir, 0o755)?; // once: /run is empty after a boot
    }
    let mut text = serde_json::to_string(status).map_err(FileError::at("write", path))?;
    text.push('\n');
    let mut file = NewFile::create(path, 0o644)?;
    file.write_all(text.as_bytes())
        .map_err(FileError::at("write", path))?;
    file.place()
}

fn sentence(phase: Phase) -> &'static str {
    match phase {
        Phase::Verify => "verifying the image",
        Phase::Plan => "checking that it can be installed",
        Phase::Flash => "writing the other slot",
        Phase::ReadBack => "reading it back",
        Phase::Config => "saving the configuration",
        Phase::Commit => "handing over to the boot loader",
        Phase::Reboot => "rebooting",
    }
}

fn log_line(at: &Position) -> String {
    let Position { phase, percent, .. } = at;
    format!(
        "{} {}: {percent} % of {}",
        phase.name(),
        printable(&at.part),
        Size(at.total)
    )
}

/// The bar for a terminal of that many columns; the last column stays free, or some would wrap.
/// What matters less is left out first: the blocks, then the time left, then the rate.
fn bar(at: &Position, rate: Option<u64>, columns: usize) -> String {
    let room = columns.saturating_sub(1);
    let head = format!("{} {}", at.phase.name(), printable(&at.part));
    let head = head.trim_end();
    let percent = format!(" {:>3} %", at.percent);
    let speed = rate.map_or_else(String::new, |rate| format!("  {}/s", Size(rate)));
    let left = match rate {
        Some(rate) if rate > 0 => {
            format!(
                "  {} left",
                time((at.total.saturating_sub(at.done)).div_ceil(rate))
            )
        }
        _ => String::new(),
    };
    let mut text = head.to_owned();
    let tail_width = percent.len() + speed.len() + left.len();
    let blocks = room
        .saturating_sub(text.chars().count() + tail_width + " []".len())
        .min(MOST_BLOCKS);
    if blocks >= FEWEST_BLOCKS {
        let full = blocks * usize::from(at.percent) / 100;
        let empty = blocks - full;
        text.push_str(&format!(" [{:=<full$}{:empty$}]", "", ""));
    }
    for piece in [percent, speed, left] {
        if text.chars().count() + piece.len() <= room {
            text.push_str(&piece);
        }
    }
    text.chars().take(room).collect()
}

/// A longer bar tells no more.
const MOST_BLOCKS: usize = 40;
/// A shorter one tells less than the percentage.
const FEWEST_BLOCKS: usize = 8;

/// `0:07`, `12:34`, `1:02:03`.
fn time(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// What reached the watcher; closed after a number of writes, if one is given.
    #[derive(Clone, Default)]
    struct Screen {
        text: Rc<RefCell<String>>,
        writes_left: Rc<RefCell<Option<u32>>>,
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(left) = self.writes_left.borrow_mut().as_mut() {
                if *left == 0 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                *left -= 1;
            }
            self.text
                .borrow_mut()
                .push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        fn text(&self) -> String {
            self.text.borrow().clone()
        }
    }

    fn moved(part: &str, done: u64, total: u64) -> Event {
        Event::Progress {
            phase: Phase::Flash,
            part: part.to_owned(),
            done,
            total,
        }
    }

    /// A phase of 1000 steps, ten milliseconds each.
    fn run(progress: &mut Progress) {
        let start = Instant::now();
        progress.event_at(&Event::Phase(Phase::Flash), start);
        for step in 0..=1000_u32 {
            let now = start + step * Duration::from_millis(10);
            progress.event_at(&moved("root", u64::from(step) * MIB, 1000 * MIB), now);
        }
    }

    fn fifty() -> usize {
        50
    }

    #[test]
    fn the_style_follows_what_was_asked_and_where_it_goes() {
        use ProgressWord::{Auto, Bar, Json, None};
        for (word, json, verbosity, terminal, expected) in [
            (Auto, false, 1, true, Style::Bar),
            (Auto, false, 1, false, Style::Lines),
            (Auto, true, 1, true, Style::Json),
            (Auto, true, 0, true, Style::Silent),
            (Auto, false, 0, true, Style::Silent),
            (Bar, false, 1, true, Style::Bar),
            (Bar, false, 1, false, Style::Lines),
            (Json, false, 0, true, Style::Json),
            (None, false, 1, true, Style::Notices),
            (None, false, 0, true, Style::Silent),
        ] {
            let found = Style::choose(word, json, verbosity, terminal);
            assert_eq!(found, expected, "{word:?} {json} {verbosity} {terminal}");
        }
    }

    #[test]
    fn json_lines_parse_come_at_most_once_a_percent_and_end_at_a_hundred() {
        let screen = Screen::default();
        run(&mut Progress::new(Style::Json, Box::new(screen.clone())));
        let lines: Vec<serde_json::Value> = screen
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        assert_eq!(lines.len(), 1 + 101);
        assert_eq!(lines[0]["event"], "phase");
        assert_eq!(lines[0]["phase"], "flash");
        let last = &lines[101];
        assert_eq!(last["event"], "progress");
        assert_eq!(last["part"], "root");
        assert_eq!(last["percent"], 100);
        assert_eq!(last["done"], 1000 * MIB);
    }

    #[test]
    fn a_slow_run_is_heard_of_once_a_second() {
        let screen = Screen::default();
        let mut progress = Progress::new(Style::Json, Box::new(screen.clone()));
        let start = Instant::now();
        for step in 0..=100_u32 {
            let now = start + step * Duration::from_millis(100);
            progress.event_at(&moved("root", step.into(), 1 << 40), now);
        }
        assert_eq!(screen.text().lines().count(), 11);
    }

    #[test]
    fn a_log_gets_a_line_a_phase_and_one_every_ten_percent() {
        let screen = Screen::default();
        run(&mut Progress::new(Style::Lines, Box::new(screen.clone())));
        let text = screen.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 11, "{text}");
        assert_eq!(lines[0], "writing the other slot");
        assert_eq!(lines[6], "flash root: 50 % of 1000.0 MiB");
        assert!(!text.contains('\r'), "{text:?}");
    }

    #[test]
    fn the_bar_never_reaches_the_last_column_and_is_drawn_ten_times_a_second() {
        let screen = Screen::default();
        let mut progress = Progress::new(Style::Bar, Box::new(screen.clone()));
        progress.columns = fifty;
        run(&mut progress);
        let text = screen.text();
        let draws: Vec<_> = text.split('\r').skip(1).collect();
        assert_eq!(draws.len(), 101, "{text:?}");
        for draw in &draws {
            assert!(draw.len() < 50, "{draw:?}");
        }
        assert_eq!(
            draws[50].trim_end(),
            "flash root  50 %  100.0 MiB/s  0:05 left"
        );
    }

    #[test]
    fn a_bar_shows_less_on_a_narrow_terminal() {
        let mut at = Position::begin(Phase::ReadBack);
        at.part = "kernel".into();
        (at.done, at.total, at.percent) = (5 * MIB, 10 * MIB, 50);
        let rate = Some(MIB);
        assert_eq!(
            bar(&at, rate, 66),
            "read-back kernel [=========         ]  50 %  1.0 MiB/s  0:05 left"
        );
        assert_eq!(bar(&at, rate, 40), "read-back kernel  50 %  1.0 MiB/s");
        assert_eq!(bar(&at, rate, 24), "read-back kernel  50 %");
        assert_eq!(bar(&at, rate, 5), "read");
        assert_eq!(bar(&at, rate, 0), "");
    }

    #[test]
    fn a_notice_stands_on_a_line_of_its_own_and_cannot_move_the_cursor() {
        let screen = Screen::default();
        let mut progress = Progress::new(Style::Bar, Box::new(screen.clone()));
        progress.columns = fifty;
        progress.event(&moved("root", 1, 2));
        progress.event(&Event::Notice("careful \u{1b}[2J".into()));
        let text = screen.text();
        let (before, after) = text.split_once("careful").expect("the notice is shown");
        assert!(
            before.ends_with("   \r"),
            "the bar is still there: {text:?}"
        );
        assert_eq!(after, " \\u{1b}[2J\n");
    }

    #[test]
    fn silence_is_silent_and_notices_alone_are_shown_alone() {
        for (style, expected) in [(Style::Silent, ""), (Style::Notices, "careful\n")] {
            let screen = Screen::default();
            let mut progress = Progress::new(style, Box::new(screen.clone()));
            run(&mut progress);
            progress.event(&Event::Notice("careful".into()));
            progress.finish(ExitCode::Done, "done");
            assert_eq!(screen.text(), expected);
        }
    }

    #[test]
    fn a_watcher_that_went_away_does_not_stop_the_run() {
        let screen = Screen::default();
        *screen.writes_left.borrow_mut() = Some(3);
        let mut progress = Progress::new(Style::Json, Box::new(screen.clone()));
        run(&mut progress);
        progress.finish(ExitCode::Done, "done");
        assert_eq!(screen.text().lines().count(), 3);
    }

    #[test]
    fn the_status_file_has_the_position_and_then_the_result() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sysupgrade-rs/status.json");
        let read = || -> serde_json::Value {
            let text = std::fs::read_to_string(&path).expect("a status file");
            serde_json::from_str(&text).expect("JSON")
        };
        let mut progress =
            Progress::new(Style::Silent, Box::new(Screen::default())).with_status(path.clone());
        progress.event(&Event::Phase(Phase::Verify));
        assert_eq!(
            read(),
            serde_json::json!({"state": "running", "phase": "verify", "done": 0, "total": 0, "percent": 0})
        );
        run(&mut progress);
        assert_eq!(read()["percent"], 100);
        progress.finish(ExitCode::Failed, "cannot write");
        assert_eq!(
            read(),
            serde_json::json!({"state": "finished", "exit": 1, "message": "cannot write"})
        );
    }

    #[test]
    fn a_status_file_that_cannot_be_written_is_no_failure() {
        let path = PathBuf::from("/proc/nowhere/status.json");
        let mut progress =
            Progress::new(Style::Silent, Box::new(Screen::default())).with_status(path);
        run(&mut progress);
        progress.finish(ExitCode::Done, "done");
    }

    #[test]
    fn sizes_times_and_percents_hold_at_their_edges() {
        assert_eq!(Size(0).to_string(), "0 B");
        assert_eq!(Size(1023).to_string(), "1023 B");
        assert_eq!(Size(1024).to_string(), "1.0 KiB");
        assert_eq!(Size(MIB + MIB / 2).to_string(), "1.5 MiB");
        assert_eq!(Size(u64::MAX).to_string(), "17179869183.9 GiB");
        assert_eq!(time(59), "0:59");
        assert_eq!(time(3723), "1:02:03");
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
        assert_eq!(percent(9, 3), 100);
    }
}
