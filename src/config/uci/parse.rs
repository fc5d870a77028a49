//! Reading a package, as libuci reads it in strict mode.
//!
//! The [`Lexer`] splits text into statements and the reader makes sections of them. What libuci does
//! and its documentation does not tell:
//!
//! * A word is glued from bare, `'...'` and `"..."` parts. A backslash takes the next byte as it is
//!   (not in single quotes) and joins two lines at the end of one. Quoted parts span lines.
//! * `#` begins a comment even inside a bare word.
//! * `;` ends a statement, and another may follow on its line; but right after a word without quotes
//!   and backslashes it hides the rest of the line. As a missing last word it counts as an empty one.
//! * An empty option is passed over, even one that was set before; an empty list item counts.
//! * A repeated `option` replaces the value where it was first; `list` after `option` makes a list
//!   of both, `option` after `list` replaces the list; a repeated named section extends the first.
//! * The name in a `package` line is checked, but means nothing.
//!
//! Two things differ. Text with NUL bytes is refused: libuci drops an unpredictable part of it. And
//! a section named like the one libuci makes up for an anonymous section (`cfg01e48a`) is its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use thiserror::Error;

use super::{Opt, Package, Section, Value, is_kind, is_name};

/// The longest text that is read, in bytes. The largest packages in use are lists of some thousand
/// addresses; a merge holds about fifty times this in memory if every line is as short as can be.
pub const MAX_TEXT: usize = 1 << 20;

/// Text that is not a UCI package.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {fault}")]
pub struct ParseError {
    /// From 1; where the statement, or the quote that is never closed, was found to be wrong.
    pub line: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Longer than [`MAX_TEXT`].
    #[error("the text is longer than {MAX_TEXT} bytes")]
    TooLong,
    /// A NUL byte.
    #[error("a NUL byte")]
    Nul,
    /// Something else than `package`, `config`, `option`, `list`.
    #[error("not a statement")]
    Unknown,
    /// A statement without the words that it needs.
    #[error("too few words")]
    TooFew,
    /// A statement with more words than it takes.
    #[error("too many words")]
    TooMany,
    /// The text ends inside quotes.
    #[error("a quote is never closed")]
    Unclosed,
    /// The type of a section has a blank, a control character or a byte beyond ASCII in it.
    #[error("not a section type")]
    Kind,
    /// A name of a section, option or package has more than letters, digits and `_` in it.
    #[error("not a name")]
    Name,
    /// An option before the first section.
    #[error("an option outside of any section")]
    NoSection,
    /// A section extends one of another type.
    #[error("a section of that name has another type")]
    OtherKind,
}

/// The four statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Package,
    Config,
    Option,
    List,
}

impl Keyword {
    fn read(word: &[u8]) -> Option<Self> {
        match word {
            b"p" | b"package" => Some(Self::Package),
            b"c" | b"config" => Some(Self::Config),
            b"o" | b"option" => Some(Self::Option),
            b"l" | b"list" => Some(Self::List),
            _ => None,
        }
    }
}

/// One statement: what it says, and where.
pub(super) struct Line {
    pub(super) keyword: Keyword,
    pub(super) first: Vec<u8>,
    /// Empty if there is none.
    pub(super) second: Vec<u8>,
    /// Where the three words stand. A missing second one stands behind the first.
    #[expect(dead_code, reason = "for printing what was not changed as it was")]
    pub(super) words: [Range<usize>; 3],
    /// Where the statement ends, with the rest of its line if no other one follows there.
    #[expect(dead_code, reason = "for printing what was not changed as it was")]
    pub(super) end: usize,
}

/// Splits text into statements.
pub(super) struct Lexer<'t> {
    text: &'t [u8],
    at: usize,
    /// End of the line, behind its line feed. A line break in quotes or behind a backslash moves it.
    line_end: usize,
    line: usize,
    /// Where comments stand, with their `#`; so does text that libuci hides.
    pub(super) comments: Vec<Range<usize>>,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self {
            text,
            at: 0,
            line_end: 0,
            line: 0,
            comments: Vec::new(),
        }
    }

    /// The next statement, `None` at the end of the text.
    pub(super) fn next(&mut self) -> Result<Option<Line>, ParseError> {
        loop {
            if self.at == self.line_end {
                if !self.next_line() {
                    return Ok(None);
                }
                self.skip(is_blank);
            }
            self.skip(|byte| byte == b' ' || byte == b'\t');
            match self.peek() {
                None => {}
                Some(b'#') => self.comment(),
                Some(_) => return self.statement().map(Some),
            }
        }
    }

    fn statement(&mut self) -> Result<Line, ParseError> {
        let start = self.at;
        self.skip(|byte| byte != b' ' && byte != b'\t');
        let place = start..self.at;
        let keyword = self.text.get(place.clone()).and_then(Keyword::read);
        let keyword = keyword.ok_or_else(|| self.error(Fault::Unknown))?;
        let (first_place, first) = self.word()?;
        if first.is_empty() {
            return Err(self.error(Fault::TooFew));
        }
        let (mut second_place, mut second) = (first_place.end..first_place.end, Vec::new());
        if keyword != Keyword::Package {
            (second_place, second) = self.word()?;
        }
        let (_, more) = self.word()?;
        if !more.is_empty() {
            return Err(self.error(Fault::TooMany));
        }
        Ok(Line {
            keyword,
            first,
            second,
            words: [place, first_place, second_place],
            end: self.at,
        })
    }

    /// The next word of the statement: where it stands and what it means. Empty if it is empty, or
    /// if the statement ends here.
    fn word(&mut self) -> Result<(Range<usize>, Vec<u8>), ParseError> {
        self.skip(is_blank);
        let start = self.at;
        let mut meaning = Vec::new();
        if self.peek() == Some(b';') {
            self.at += 1;
            return Ok((start..start, meaning));
        }
        while let Some(byte) = self.peek() {
            match byte {
                b'\'' => self.single_quoted(&mut meaning)?,
                b'"' => self.double_quoted(&mut meaning)?,
                b'\\' => self.escaped(&mut meaning),
                b'#' => break,
                b';' => break,
                _ if is_blank(byte) => break,
                _ => {
                    meaning.push(byte);
                    self.at += 1;
                }
            }
        }
        let place = start..self.at;
        match self.peek() {
            Some(b'#') => self.comment(),
            Some(b';') if place.len() == meaning.len() => self.comment(),
            Some(b';') | None => {}
            Some(_) => self.at += 1,
        }
        Ok((place, meaning))
    }

    fn single_quoted(&mut self, meaning: &mut Vec<u8>) -> Result<(), ParseError> {
        self.at += 1;
        loop {
            match self.peek_on()? {
                b'\'' => break,
                byte => meaning.push(byte),
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(())
    }

    fn double_quoted(&mut self, meaning: &mut Vec<u8>) -> Result<(), ParseError> {
        self.at += 1;
        loop {
            match self.peek_on()? {
                b'"' => break,
                b'\\' => self.escaped(meaning),
                byte => {
                    meaning.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        Ok(())
    }

    /// A backslash and what it takes: one byte, or a line break that then never was.
    fn escaped(&mut self, meaning: &mut Vec<u8>) {
        self.at += 1;
        let rest = self.text.get(self.at..self.line_end).unwrap_or_default();
        match rest {
            [] | [b'\n'] | [b'\r', b'\n'] => {
                self.at = self.line_end;
                self.next_line();
            }
            [byte, ..] => {
                meaning.push(*byte);
                self.at += 1;
            }
        }
    }

    /// The rest of the line is not read.
    fn comment(&mut self) {
        self.comments.push(self.at..self.line_end);
        self.at = self.line_end;
    }

    /// The next byte of the line.
    fn peek(&self) -> Option<u8> {
        self.text
            .get(self.at)
            .copied()
            .filter(|_| self.at < self.line_end)
    }

    /// The next byte inside of quotes, where a line may end.
    fn peek_on(&mut self) -> Result<u8, ParseError> {
        if self.at == self.line_end {
            self.next_line();
        }
        self.peek().ok_or_else(|| self.error(Fault::Unclosed))
    }

    fn skip(&mut self, which: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&which) {
            self.at += 1;
        }
    }

    /// Goes on to the next line, if there is one.
    fn next_line(&mut self) -> bool {
        let rest = self.text.get(self.line_end..).unwrap_or_default();
        if rest.is_empty() {
            return false;
        }
        let feed = rest.iter().position(|byte| *byte == b'\n');
        self.line_end += feed.map_or(rest.len(), |feed| feed + 1);
        self.line += 1;
        true
    }

    fn error(&self, fault: Fault) -> ParseError {
        ParseError {
            line: self.line,
            fault,
        }
    }
}

/// As `isspace` of C.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

impl Package {
    /// Reads a package.
    ///
    /// # Errors
    /// A [`ParseError`] if libuci would refuse the text, and if it is longer than [`MAX_TEXT`] or
    /// holds a NUL byte.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let up_to = |end: usize| 1 + text.iter().take(end).filter(|byte| **byte == b'\n').count();
        if text.len() > MAX_TEXT {
            return Err(ParseError {
                line: up_to(MAX_TEXT),
                fault: Fault::TooLong,
            });
        }
        if let Some(nul) = text.iter().position(|byte| *byte == 0) {
            return Err(ParseError {
                line: up_to(nul),
                fault: Fault::Nul,
            });
        }
        let mut lexer = Lexer::new(text);
        let mut reader = Reader::default();
        while let Some(line) = lexer.next()? {
            reader.take(line).map_err(|fault| lexer.error(fault))?;
        }
        Ok(reader.package)
    }
}

/// Makes a package of statements, in time that is linear in their number.
#[derive(Default)]
struct Reader {
    package: Package,
    /// The section that options go to.
    current: Option<usize>,
    named: HashMap<Vec<u8>, usize>,
    /// Where the options of each section are.
    options: HashMap<(usize, Vec<u8>), usize>,
}

impl Reader {
    fn take(&mut self, line: Line) -> Result<(), Fault> {
        match line.keyword {
            Keyword::Package => {
                let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
                line.first
                    .iter()
                    .all(valid)
                    .then_some(())
                    .ok_or(Fault::Name)
            }
            Keyword::Config => self.section(line),
            Keyword::Option | Keyword::List => self.option(line),
        }
    }

    fn section(&mut self, line: Line) -> Result<(), Fault> {
        let (kind, name) = (line.first, line.second);
        if !is_kind(&kind) {
            return Err(Fault::Kind);
        }
        let next = self.package.sections.len();
        self.current = Some(next);
        if name.is_empty() {
            self.package.sections.push(Section::new(&kind, None));
            return Ok(());
        }
        if !is_name(&name) {
            return Err(Fault::Name);
        }
        let section = Section::new(&kind, Some(&name));
        match self.named.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(next);
                self.package.sections.push(section);
            }
            Entry::Occupied(entry) => {
                self.current = Some(*entry.get());
                let known = self.package.sections.get(*entry.get());
                if known.is_some_and(|known| known.kind != kind) {
                    return Err(Fault::OtherKind);
                }
            }
        }
        Ok(())
    }

    fn option(&mut self, line: Line) -> Result<(), Fault> {
        let (name, value) = (line.first, line.second);
        let current = self.current.ok_or(Fault::NoSection)?;
        let section = self.package.sections.get_mut(current);
        let options = &mut section.ok_or(Fault::NoSection)?.options;
        if !is_name(&name) {
            return Err(Fault::Name);
        }
        if line.keyword == Keyword::Option && value.is_empty() {
            return Ok(());
        }
        let place = self.options.entry((current, name.clone()));
        let known = match place {
            Entry::Occupied(entry) => options.get_mut(*entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(options.len());
                None
            }
        };
        match (known, line.keyword) {
            (None, Keyword::List) => options.push(Opt::new(&name, Value::List(vec![value]))),
            (None, _) => options.push(Opt::new(&name, Value::One(value))),
            (Some(known), Keyword::List) => match &mut known.value {
                Value::List(items) => items.push(value),
                Value::One(first) => {
                    known.value = Value::List(vec![std::mem::take(first), value]);
                }
            },
            (Some(known), _) => known.value = Value::One(value),
        }
        Ok(())
    }
}
