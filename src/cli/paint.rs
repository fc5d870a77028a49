//! Colours, where somebody sees them.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};

/// Colours text, or leaves it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    /// Text stays as it is.
    Plain,
    /// Text gets the escape sequences of terminals.
    Colours,
}

impl Paint {
    /// For the standard output of this process: a terminal that knows colours, whose owner wants them.
    pub(super) fn for_stdout() -> Self {
        Self::choose(
            io::stdout().is_terminal(),
            env::var_os("NO_COLOR").as_deref(),
            env::var_os("TERM").as_deref(),
        )
    }

    /// As <https://no-color.org> has it, an empty `NO_COLOR` says nothing.
    fn choose(terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> Self {
        let refused = no_color.is_some_and(|value| !value.is_empty());
        let dumb = term.is_none_or(|term| term.is_empty() || term == "dumb");
        match terminal && !refused && !dumb {
            true => Self::Colours,
            false => Self::Plain,
        }
    }

    pub(super) fn heading(self, text: &str) -> String {
        self.with("1", text)
    }

    /// A line of a unified diff, by what it begins with.
    pub(super) fn diff_line(self, line: &str) -> String {
        let code = match line.as_bytes() {
            [b'-', b'-', b'-', ..] | [b'+', b'+', b'+', ..] => "1",
            [b'-', ..] => "31",
            [b'+', ..] => "32",
            [b'@', ..] => "36",
            _ => return line.to_owned(),
        };
        self.with(code, line)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colours => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_that_knows_and_wants_colours_gets_them() {
        for (terminal, no_color, term, colours) in [
            (true, None, Some("xterm"), true),
            (true, Some(""), Some("xterm"), true),
            (false, None, Some("xterm"), false),
            (true, Some("1"), Some("xterm"), false),
            (true, None, Some("dumb"), false),
            (true, None, None, false),
        ] {
            let found = Paint::choose(terminal, no_color.map(OsStr::new), term.map(OsStr::new));
            let said = (terminal, no_color, term);
            assert_eq!(found == Paint::Colours, colours, "{said:?}");
        }
    }

    #[test]
    fn lines_of_a_diff_are_told_apart() {
        let paint = |line| Paint::Colours.diff_line(line);
        assert_eq!(paint("-a"), "\u{1b}[31m-a\u{1b}[0m");
        assert_eq!(paint("+a"), "\u{1b}[32m+a\u{1b}[0m");
        assert_eq!(paint(" a"), " a");
        assert_eq!(paint("--- a"), "\u{1b}[1m--- a\u{1b}[0m");
        assert_eq!(Paint::Plain.diff_line("-a"), "-a");
    }
}
