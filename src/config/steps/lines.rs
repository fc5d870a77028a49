//! Operations on lines of text files. A line is matched whole, byte for byte.

use std::collections::{BTreeMap, VecDeque};

/// What is done to the lines of a file.
#[derive(Clone, Debug)]
pub(super) enum LineEdit {
    /// Every line that is `from` becomes `to`.
    Replace { from: Vec<u8>, to: Vec<u8> },
    /// The line is appended if it is nowhere in the file.
    Ensure { line: Vec<u8> },
    /// Every such line goes.
    Delete { line: Vec<u8> },
}

/// A text, by lines. Whether the last one ends is kept: `text -> lines -> text` changes no byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) lines: Vec<Vec<u8>>,
    ends: bool,
}

impl Lines {
    pub(super) fn parse(text: &[u8]) -> Self {
        let (body, ends) = match text.strip_suffix(b"\n") {
            Some(body) => (Some(body), true),
            None => (Some(text).filter(|text| !text.is_empty()), text.is_empty()),
        };
        let lines = body.map(|body| body.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        Self {
            lines: lines.into_iter().flatten().collect(),
            ends,
        }
    }

    pub(super) fn print(&self) -> Vec<u8> {
        let mut text = self.lines.join(&b'\n');
        if self.ends && !self.lines.is_empty() {
            text.push(b'\n');
        }
        text
    }
}

/// A line that was taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removed {
    /// Its place in the file as it was, from 0.
    pub(super) place: usize,
    /// The line before it, unless it was the first.
    pub(super) after: Option<Vec<u8>>,
    pub(super) line: Vec<u8>,
}

impl LineEdit {
    /// Does it; what it says is which lines were taken away for good.
    pub(super) fn apply(&self, text: &mut Lines) -> Vec<Removed> {
        match self {
            Self::Replace { from, to } => {
                for line in text.lines.iter_mut().filter(|line| *line == from) {
                    line.clone_from(to);
                }
                Vec::new()
            }
            Self::Ensure { line } => {
                if !text.lines.contains(line) {
                    text.lines.push(line.clone());
                }
                Vec::new()
            }
            Self::Delete { line } => {
                let mut removed = Vec::new();
                let mut before: Option<&Vec<u8>> = None;
                for (place, found) in text.lines.iter().enumerate() {
                    if found == line {
                        removed.push(Removed {
                            place,
                            after: before.cloned(),
                            line: found.clone(),
                        });
                    }
                    before = Some(found);
                }
                text.lines.retain(|found| found != line);
                removed
            }
        }
    }

    /// Undoes it as far as the text tells how.
    pub(super) fn undo(&self, text: &mut Lines) {
        match self {
            Self::Replace { from, to } => {
                for line in text.lines.iter_mut().filter(|line| *line == to) {
                    line.clone_from(from);
                }
            }
            Self::Ensure { line } => text.lines.retain(|found| found != line),
            Self::Delete { .. } => {}
        }
    }
}

/// Puts lines back that were taken away, in the order of their places: where they were, if each
/// follows the line that it followed; otherwise after the first line that is equal to that one, or
/// at the end of the file.
pub(super) fn put_back(text: &mut Lines, removed: &[Removed]) {
    if let Some(lines) = put_in_place(&text.lines, removed) {
        text.lines = lines;
        return;
    }
    let runs = removed.chunk_by(|one, next| one.place.checked_add(1) == Some(next.place));
    let mut waiting: BTreeMap<Option<&Vec<u8>>, VecDeque<&[Removed]>> = BTreeMap::new();
    for run in runs {
        let after = run.first().and_then(|first| first.after.as_ref());
        waiting.entry(after).or_default().push_back(run);
    }
    let mut lines: Vec<&Vec<u8>> = Vec::with_capacity(text.lines.len() + removed.len());
    let mut present = text.lines.iter();
    let mut last = None;
    loop {
        let run = waiting.get_mut(&last).and_then(VecDeque::pop_front);
        lines.extend(run.into_iter().flatten().map(|removed| &removed.line));
        last = present.next();
        match last {
            Some(line) => lines.push(line),
            None => break,
        }
    }
    let mut left: Vec<&Removed> = waiting.into_values().flatten().flatten().collect();
    left.sort_by_key(|removed| removed.place);
    lines.extend(left.into_iter().map(|removed| &removed.line));
    text.lines = lines.into_iter().cloned().collect();
}

fn put_in_place(present: &[Vec<u8>], removed: &[Removed]) -> Option<Vec<Vec<u8>>> {
    let mut lines: Vec<Vec<u8>> = Vec::with_capacity(present.len() + removed.len());
    let mut present = present.iter();
    for removed in removed {
        while lines.len() < removed.place {
            lines.push(present.next()?.clone());
        }
        if lines.len() != removed.place || lines.last() != removed.after.as_ref() {
            return None;
        }
        lines.push(removed.line.clone());
    }
    lines.extend(present.cloned());
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Lines {
        Lines::parse(text.as_bytes())
    }

    fn text(lines: &Lines) -> String {
        String::from_utf8(lines.print()).unwrap()
    }

    #[test]
    fn a_text_comes_back_from_its_lines() {
        for sample in ["", "\n", "\n\n", "a", "a\n", "a\nb", "a\n\nb\n", "a\r\n"] {
            assert_eq!(text(&lines(sample)), sample);
        }
    }

    #[test]
    fn only_whole_lines_are_matched() {
        let edit = LineEdit::Replace {
            from: b"a".to_vec(),
            to: b"x".to_vec(),
        };
        let mut sample = lines("a\na b\n a\na\r\na");
        edit.apply(&mut sample);
        assert_eq!(text(&sample), "x\na b\n a\na\r\nx");
    }

    #[test]
    fn a_line_is_appended_where_it_is_missing_and_leaves_no_trace_when_undone() {
        let edit = LineEdit::Ensure {
            line: b"x".to_vec(),
        };
        for (before, after) in [
            ("", "x\n"),
            ("a\n", "a\nx\n"),
            ("a", "a\nx"),
            ("a\nx\nb\n", "a\nx\nb\n"),
        ] {
            let mut sample = lines(before);
            edit.apply(&mut sample);
            assert_eq!(text(&sample), after);
            edit.apply(&mut sample);
            assert_eq!(text(&sample), after);
            if before != after {
                edit.undo(&mut sample);
                assert_eq!(text(&sample), before);
            }
        }
    }

    #[test]
    fn deleted_lines_come_back_to_their_places() {
        let edit = LineEdit::Delete {
            line: b"x".to_vec(),
        };
        for before in ["x\n", "x\nx\na\n", "a\nx\nb\nx\nx\n", "x\n\nx\n\n", "a\nx"] {
            let mut sample = lines(before);
            let removed = edit.apply(&mut sample);
            assert!(!text(&sample).contains('x'), "{before:?}");
            assert_eq!(edit.apply(&mut sample.clone()), []);
            put_back(&mut sample, &removed);
            assert_eq!(text(&sample), before);
        }
    }

    #[test]
    fn deleted_lines_follow_their_neighbour_when_the_file_was_changed() {
        let edit = LineEdit::Delete {
            line: b"x".to_vec(),
        };
        let removed = edit.apply(&mut lines("a\nx\nx\nb\nx\nc\n"));
        for (now, back) in [
            ("new\na\nb\nc\n", "new\na\nx\nx\nb\nx\nc\n"),
            ("b\na\n", "b\nx\na\nx\nx\n"),
            ("a\na\n", "a\nx\nx\na\nx\n"),
            ("other\n", "other\nx\nx\nx\n"),
            ("", "x\nx\nx\n"),
        ] {
            let mut sample = lines(now);
            put_back(&mut sample, &removed);
            assert_eq!(text(&sample), back, "{now:?}");
        }
        let first = edit.apply(&mut lines("x\na\n"));
        let mut sample = lines("b\na\n");
        put_back(&mut sample, &first);
        assert_eq!(text(&sample), "x\nb\na\n");
    }
}
