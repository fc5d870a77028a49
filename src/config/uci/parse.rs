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
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use super::source::Statement;
use super::{Frame, Opt, Package, Section, Value, is_kind, is_name};

/// The longest text that is read, in bytes. The largest packages in use are lists of some thousand
/// addresses; a merge holds about fifty times this in memory if every line is as short as can be.
pub const MAX_TEXT: usize = 1 << 20;

/// Text that is not a UCI package.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {fault}")]
pub struct ParseError {
    /// From 1: the line on which the statement was found to be wrong, or the quote was opened.
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
    pub(super) fn read(word: &[u8]) -> Option<Self> {
        match word {
            b"p" | b"package" => Some(Self::Package),
            b"c" | b"config" => Some(Self::Config),
            b"o" | b"option" => Some(Self::Option),
            b"l" | b"list" => Some(Self::List),
            _ => None,
        }
    }

    pub(super) fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Package => b"package",
            Self::Config => b"config",
            Self::Option => b"option",
            Self::List => b"list",
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
    pub(super) words: [Range<usize>; 3],
    /// Where the statement ends, with the rest of its line if no other one follows there.
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

    /// What one word means: that of a statement, or any text as it would be read.
    pub(super) fn decode(word: &[u8]) -> Vec<u8> {
        let mut lexer = Lexer::new(word);
        lexer.next_line();
        lexer
            .word()
            .map_or_else(|_| Vec::new(), |(_, meaning)| meaning)
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
        let (mut second_place, second) = match keyword {
            Keyword::Package => (0..0, Vec::new()),
            _ => self.word()?,
        };
        if second_place.is_empty() {
            second_place = first_place.end..first_place.end;
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
                b'#' | b';' => break,
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
        let opened = self.line;
        self.at += 1;
        loop {
            match self.peek_on(opened)? {
                b'\'' => break,
                byte => meaning.push(byte),
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(())
    }

    fn double_quoted(&mut self, meaning: &mut Vec<u8>) -> Result<(), ParseError> {
        let opened = self.line;
        self.at += 1;
        loop {
            match self.peek_on(opened)? {
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

    /// The next byte inside of quotes that were `opened` on that line; a line may end in them.
    fn peek_on(&mut self, opened: usize) -> Result<u8, ParseError> {
        if self.at == self.line_end {
            self.next_line();
        }
        self.peek().ok_or(ParseError {
            line: opened,
            fault: Fault::Unclosed,
        })
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
        let mut reader = Reader {
            text: text.into(),
            ..Reader::default()
        };
        while let Some(line) = lexer.next()? {
            reader.take(line).map_err(|fault| lexer.error(fault))?;
        }
        Ok(reader.finish())
    }
}

/// Makes a package of statements, in time that is linear in their number.
#[derive(Default)]
struct Reader {
    text: Arc<[u8]>,
    sections: Vec<Section>,
    /// The section that options go to.
    current: Option<usize>,
    named: HashMap<Vec<u8>, usize>,
    /// Where the options of each section are.
    options: HashMap<(usize, Vec<u8>), usize>,
    /// End of the last statement that means something.
    from: usize,
    /// End of the last `package` line above all sections.
    package: usize,
    /// True if a statement that means nothing, or not by itself, was passed over since.
    passed: bool,
    loose: Vec<Range<usize>>,
}

impl Reader {
    fn take(&mut self, line: Line) -> Result<(), Fault> {
        match line.keyword {
            Keyword::Package => {
                let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
                if !line.first.iter().all(valid) {
                    return Err(Fault::Name);
                }
                if self.sections.is_empty() {
                    self.package = line.end;
                } else {
                    self.passed = true;
                }
                Ok(())
            }
            Keyword::Config => self.section(&line),
            Keyword::Option | Keyword::List => self.option(line),
        }
    }

    fn section(&mut self, line: &Line) -> Result<(), Fault> {
        let (kind, name) = (&line.first, &line.second);
        if !is_kind(kind) {
            return Err(Fault::Kind);
        }
        let next = self.sections.len();
        self.current = Some(next);
        let mut section = Section::new(kind, None);
        if !name.is_empty() {
            if !is_name(name) {
                return Err(Fault::Name);
            }
            let at = *self.named.entry(name.clone()).or_insert(next);
            if let Some(known) = self.sections.get(at) {
                self.current = Some(at);
                self.passed = true;
                return (known.kind == *kind).then_some(()).ok_or(Fault::OtherKind);
            }
            section.name = Some(name.clone());
        }
        section.source = Some(self.statement(line));
        self.sections.push(section);
        Ok(())
    }

    fn option(&mut self, line: Line) -> Result<(), Fault> {
        let current = self.current.ok_or(Fault::NoSection)?;
        if !is_name(&line.first) {
            return Err(Fault::Name);
        }
        if line.keyword == Keyword::Option && line.second.is_empty() {
            self.passed = true;
            return Ok(());
        }
        let source = self.statement(&line);
        let (name, value) = (line.first, line.second);
        let section = self.sections.get_mut(current);
        let options = &mut section.ok_or(Fault::NoSection)?.options;
        let place = self.options.entry((current, name.clone()));
        let at = *place.or_insert(options.len());
        let Some(known) = options.get_mut(at) else {
            let value = match line.keyword {
                Keyword::List => Value::List(vec![value]),
                _ => Value::One(value),
            };
            options.push(Opt {
                source: vec![source],
                ..Opt::new(&name, value)
            });
            return Ok(());
        };
        known.source.push(source);
        match (&mut known.value, line.keyword) {
            (Value::List(items), Keyword::List) => items.push(value),
            (Value::One(first), Keyword::List) => {
                known.value = Value::List(vec![mem::take(first), value]);
            }
            _ => known.value = Value::One(value),
        }
        Ok(())
    }

    /// A statement that means something, with what belongs to it above.
    fn statement(&mut self, line: &Line) -> Statement {
        let end = mem::replace(&mut self.from, line.end);
        let above = self.text.get(end..line.words[0].start);
        let loose = if mem::take(&mut self.passed) {
            0
        } else {
            loose_part(above.unwrap_or_default())
        };
        let from = self.package.max(end + loose);
        if from > end {
            self.loose.push(end..from);
        }
        Statement::new(&self.text, from, line)
    }

    fn finish(mut self) -> Package {
        if self.from < self.text.len() {
            self.loose.push(self.from..self.text.len());
        }
        for section in &mut self.sections {
            section.options.shrink_to_fit();
        }
        let text = Arc::clone(&self.text);
        let mut package = Package {
            sections: self.sections,
            frame: Some(Frame {
                text: self.text,
                loose: self.loose,
                as_read: None,
            }),
        };
        if package.print_pieces() != *text {
            let as_read = package.sections.clone();
            if let Some(frame) = &mut package.frame {
                frame.as_read = Some(as_read);
            }
        }
        package
    }
}

/// How much of the text above a statement does not belong to it.
fn loose_part(above: &[u8]) -> usize {
    let (mut loose, mut written, mut end) = (0, 0, 0);
    for line in above.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        if !line.trim_ascii().is_empty() {
            written = end;
        } else if line.ends_with(b"\n") {
            loose = written;
        }
    }
    loose
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libuci would print: `type name{option=value option=[item item]}`.
    fn read(text: &str) -> Result<String, Fault> {
        let package = Package::parse(text.as_bytes()).map_err(|error| error.fault)?;
        let lossy = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let sections = package.sections.iter().map(|section| {
            let name = section.name.as_deref().map_or("@".into(), lossy);
            let options = section.options.iter().map(|option| {
                let value = match &option.value {
                    Value::One(value) => lossy(value),
                    Value::List(items) => {
                        let items: Vec<_> = items.iter().map(|item| lossy(item)).collect();
                        format!("[{}]", items.join(","))
                    }
                };
                format!("{}={value}", lossy(&option.name))
            });
            let options: Vec<_> = options.collect();
            format!("{} {name}{{{}}}", lossy(&section.kind), options.join(" "))
        });
        Ok(sections.collect::<Vec<_>>().join(" "))
    }

    /// The value of option `x` as written.
    fn value(written: &str) -> Result<String, Fault> {
        let text = read(&format!("config a\noption x {written}"))?;
        Ok(text.replace("a @{x=", "").trim_end_matches('}').into())
    }

    fn ok(text: &str) -> Result<String, Fault> {
        Ok(text.into())
    }

    #[test]
    fn a_usual_package_is_read() {
        let text = "package p\n\nconfig rule 'r1'\n\toption name 'Allow ping' # why\n# above\n\
                    \tlist proto 'icmp'\n\tlist proto 'igmp'\n\nconfig rule\n\toption name b\n";
        let meaning = "rule r1{name=Allow ping proto=[icmp,igmp]} rule @{name=b}";
        assert_eq!(read(text), ok(meaning));
        assert_eq!(read(&text.replace('\n', "\r\n")), ok(meaning));
        assert_eq!(read(""), ok(""));
        assert_eq!(read("\n # only a comment"), ok(""));
    }

    #[test]
    fn words_are_glued_from_bare_and_quoted_parts() {
        assert_eq!(value("a'b c'\"d 'e\"f"), ok("ab cd 'ef"));
        assert_eq!(value("'a\n\nb'"), ok("a\n\nb"));
        assert_eq!(value("\"a\nb\""), ok("a\nb"));
        assert_eq!(value("'a#;b'"), ok("a#;b"));
        assert_eq!(value("'it'\\''s'"), ok("it's"));
    }

    #[test]
    fn a_backslash_takes_the_next_byte_or_joins_lines_but_not_in_single_quotes() {
        assert_eq!(value(r"a\ b\#\;\'\n"), ok("a b#;'n"));
        assert_eq!(value(r#""a\"b\\c\d""#), ok(r#"a"b\cd"#));
        assert_eq!(value(r"'a\b'"), ok(r"a\b"));
        assert_eq!(value("a\\\nb"), ok("ab"));
        assert_eq!(value("a\\\r\nb"), ok("ab"));
        assert_eq!(value("\"a\\\nb\""), ok("ab"));
        assert_eq!(value("a\\\n b"), Err(Fault::TooMany));
        assert_eq!(value("a\\"), ok("a"));
    }

    #[test]
    fn a_comment_may_begin_inside_a_bare_word() {
        assert_eq!(value("a#b"), ok("a"));
        assert_eq!(value("'a'#b"), ok("a"));
        assert_eq!(value("#b"), ok("a @{"));
        assert_eq!(read("config a#'b'\n"), ok("a @{}"));
    }

    #[test]
    fn a_semicolon_ends_a_statement_and_may_hide_the_rest_of_the_line() {
        let section = "config a\n";
        let both = ok("a @{x=y z=w}");
        assert_eq!(read(&format!("{section}option x 'y';option z w")), both);
        assert_eq!(read(&format!("{section}option x y ; option z w")), both);
        let first = ok("a @{x=y}");
        assert_eq!(read(&format!("{section}option x y;option z w")), first);
        assert_eq!(read(&format!("{section}option x y\noption z ;")), first);
        assert_eq!(read("config a ;\n"), ok("a @{}"));
        assert_eq!(read("config a 'b' ;\n"), Err(Fault::Unknown));
        assert_eq!(read("config a ; option x y"), Err(Fault::TooMany));
    }

    #[test]
    fn keywords_have_one_letter_forms_and_end_at_a_blank() {
        assert_eq!(read("p q\nc a b\n o x y\n\tl z w"), ok("a b{x=y z=[w]}"));
        for wrong in [
            "conf a",
            "config'a'",
            "'config' a",
            "config\n",
            "uci x",
            ";",
        ] {
            assert_eq!(read(wrong), Err(Fault::Unknown), "{wrong:?}");
        }
    }

    #[test]
    fn an_empty_option_is_as_if_absent_and_an_empty_item_counts() {
        assert_eq!(read("config a\noption x ''\noption y"), ok("a @{}"));
        assert_eq!(read("config a\noption x b\noption x ''"), ok("a @{x=b}"));
        assert_eq!(read("config a\nlist x ''\nlist x"), ok("a @{x=[,]}"));
    }

    #[test]
    fn a_repeated_option_replaces_the_first_where_it_was() {
        let text = "config a\noption x 1\noption y 2\n";
        assert_eq!(read(&format!("{text}option x 3")), ok("a @{x=3 y=2}"));
        assert_eq!(read(&format!("{text}list x 3")), ok("a @{x=[1,3] y=2}"));
        let text = "config a\nlist x 1\nlist x 2\noption x 3\n";
        assert_eq!(read(text), ok("a @{x=3}"));
    }

    #[test]
    fn a_repeated_named_section_extends_the_first_of_the_same_type() {
        let text = "config a 'n'\noption x 1\nconfig b\noption y 2\n";
        let extended = format!("{text}config a n\noption x 3\noption z 4");
        assert_eq!(read(&extended), ok("a n{x=3 z=4} b @{y=2}"));
        assert_eq!(read(&format!("{text}config b n")), Err(Fault::OtherKind));
        assert_eq!(read("config a\nconfig a ''"), ok("a @{} a @{}"));
    }

    #[test]
    fn names_and_types_are_checked() {
        assert_eq!(read("config a-b.c c"), ok("a-b.c c{}"));
        assert_eq!(read("config 'a b'"), Err(Fault::Kind));
        assert_eq!(read("config \u{e9}"), Err(Fault::Kind));
        assert_eq!(read("config a b-c"), Err(Fault::Name));
        assert_eq!(read("config a\noption b-c d"), Err(Fault::Name));
        assert_eq!(read("package b-c_d"), ok(""));
        assert_eq!(read("package b.c"), Err(Fault::Name));
    }

    #[test]
    fn what_is_not_a_package_is_refused_with_its_line() {
        let refusals = [
            ("option x y", 1, Fault::NoSection),
            ("config a\n\noption", 3, Fault::TooFew),
            ("config a\noption ;", 2, Fault::TooFew),
            ("config", 1, Fault::TooFew),
            ("config a b c", 1, Fault::TooMany),
            ("config a\noption x y z", 2, Fault::TooMany),
            ("package a b", 1, Fault::TooMany),
            ("config a\noption x 'y\n\n", 2, Fault::Unclosed),
            ("config a\noption x \"y\\", 2, Fault::Unclosed),
            ("config a\n# \0", 2, Fault::Nul),
        ];
        for (text, line, fault) in refusals {
            let error = Package::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error, ParseError { line, fault }, "{text:?}");
        }
    }

    #[test]
    fn text_is_read_up_to_its_bound_and_many_lines_are_no_burden() {
        let line = "c a\n";
        let text = line.repeat(MAX_TEXT / line.len());
        assert_eq!(
            Package::parse(text.as_bytes()).unwrap().sections.len(),
            262_144
        );
        let error = Package::parse(format!("{text}\n").as_bytes()).unwrap_err();
        assert_eq!(error.fault, Fault::TooLong);
        let options: String = (0..50_000).map(|i| format!("o a{i} b\n")).collect();
        let package = Package::parse(format!("c a\n{options}").as_bytes()).unwrap();
        assert_eq!(package.sections[0].options.len(), 50_000);
        assert_eq!(package.print().len(), options.len() + 4);
    }
}
