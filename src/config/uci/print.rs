//! Writing a package as text.
//!
//! What still means what was read is written as it was read; of a changed statement only the changed
//! words are written anew. What is new has the form that libuci gives it. What was taken away goes
//! with the comments that belong to it; those that belong to the file stay (see [`super::source`]).
//!
//! Some texts do not bear being cut: statements that share a line, options that are given twice,
//! sections that are left and entered again. Unchanged, they are printed as they were. Changed, they
//! are printed piece by piece if that reads back as what is meant, and else wholly in libuci's form,
//! with each comment on a line above what it belongs to.

use std::collections::HashMap;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use super::parse::{Keyword, Lexer};
use super::source::{Statement, bare, quote};
use super::{Frame, Opt, Package, Section, Value};

impl Package {
    /// The package as text. It reads back as an equal package, if names are as [`Package`] says and
    /// no value holds a NUL byte.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        if let Some(text) = self.unchanged() {
            return text.to_vec();
        }
        let pieces = self.print_pieces();
        if Self::parse(&pieces).is_ok_and(|read| read == *self) {
            return pieces;
        }
        self.print_canonical()
    }

    /// The text of every comment, without `#` and the blanks around it, in the order of the file.
    /// Text behind a `;` that libuci does not read is one, too.
    #[must_use]
    pub fn comments(&self) -> Vec<Vec<u8>> {
        comments(&self.print())
            .iter()
            .map(|comment| comment.strip_prefix(b"#").unwrap_or(comment))
            .map(|comment| comment.trim_ascii().to_vec())
            .collect()
    }

    /// The text it was read from, if it had to be kept and all is as it was.
    fn unchanged(&self) -> Option<&[u8]> {
        let frame = self.frame.as_ref()?;
        let as_read = frame.as_read.as_ref()?;
        let order = |sections: &[Section]| -> Vec<Vec<u8>> {
            let options = sections.iter().flat_map(|section| &section.options);
            options.map(|option| option.name.clone()).collect()
        };
        (*as_read == self.sections && order(as_read) == order(&self.sections))
            .then_some(&*frame.text)
    }

    /// Each part as it was read, with what is new in between.
    pub(super) fn print_pieces(&self) -> Vec<u8> {
        let mut pieces = Pieces {
            out: Vec::new(),
            last: None,
            parted: false,
            loose: Loose::of(self),
        };
        for section in &self.sections {
            pieces.section(section);
        }
        while let Some((text, place)) = pieces.loose.next(|_, _| true) {
            pieces.text(text, place);
        }
        pieces.out
    }

    /// All of it in libuci's form, with each comment above what it belongs to.
    pub(super) fn print_canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut loose = Loose::of(self);
        for section in &self.sections {
            let options = section.options.iter().flat_map(|option| &option.source);
            for statement in section.source.iter().chain(options) {
                while let Some((text, place)) = loose.above(statement) {
                    print_comments(&mut out, b"", text.get(place).unwrap_or_default());
                }
            }
            if !out.is_empty() {
                out.push(b'\n');
            }
            let source = section.source.as_ref();
            print_comments(
                &mut out,
                b"",
                source.map(Statement::all).unwrap_or_default(),
            );
            print_header(&mut out, section);
            for option in &section.options {
                for statement in &option.source {
                    print_comments(&mut out, b"\t", statement.all());
                }
                match &option.value {
                    Value::One(value) if value.is_empty() => {}
                    Value::One(value) => print_line(&mut out, Keyword::Option, &option.name, value),
                    Value::List(items) => {
                        for item in items {
                            print_line(&mut out, Keyword::List, &option.name, item);
                        }
                    }
                }
            }
        }
        while let Some((text, place)) = loose.next(|_, _| true) {
            print_comments(&mut out, b"", text.get(place).unwrap_or_default());
        }
        out
    }
}

/// What belongs to a file and not to its statements, in order.
struct Loose<'p> {
    frame: Option<&'p Frame>,
    printed: usize,
}

impl<'p> Loose<'p> {
    fn of(package: &'p Package) -> Self {
        Self {
            frame: package.frame.as_ref(),
            printed: 0,
        }
    }

    /// The next part, if it is `wanted` by the text that it is in and where it begins there.
    fn next(
        &mut self,
        wanted: impl FnOnce(&Arc<[u8]>, usize) -> bool,
    ) -> Option<(&'p Arc<[u8]>, Range<usize>)> {
        let frame = self.frame?;
        let place = frame.loose.get(self.printed)?;
        if !wanted(&frame.text, place.start) {
            return None;
        }
        self.printed += 1;
        Some((&frame.text, place.clone()))
    }

    /// The next part that stands above a statement.
    fn above(&mut self, statement: &Statement) -> Option<(&'p Arc<[u8]>, Range<usize>)> {
        self.next(|text, start| {
            Arc::ptr_eq(text, &statement.text) && start < statement.place().start
        })
    }
}

/// The comments of a text, with their `#`.
fn comments(text: &[u8]) -> Vec<&[u8]> {
    let mut lexer = Lexer::new(text);
    while let Ok(Some(_)) = lexer.next() {}
    let places = lexer.comments.into_iter();
    places
        .filter_map(|place| text.get(place))
        .map(<[u8]>::trim_ascii)
        .collect()
}

fn print_comments(out: &mut Vec<u8>, indent: &[u8], text: &[u8]) {
    for comment in comments(text) {
        out.extend(indent);
        if !comment.starts_with(b"#") {
            out.extend(b"# ");
        }
        out.extend(comment);
        out.push(b'\n');
    }
}

fn print_header(out: &mut Vec<u8>, section: &Section) {
    out.extend(b"config ");
    bare(out, &section.kind);
    if let Some(name) = &section.name {
        out.push(b' ');
        quote(out, name);
    }
    out.push(b'\n');
}

fn print_line(out: &mut Vec<u8>, keyword: Keyword, name: &[u8], value: &[u8]) {
    out.push(b'\t');
    out.extend(keyword.as_bytes());
    out.push(b' ');
    bare(out, name);
    out.push(b' ');
    quote(out, value);
    out.push(b'\n');
}

/// Text made of pieces of other texts.
struct Pieces<'p> {
    out: Vec<u8>,
    /// The text that the last piece is from, and where the piece ends there.
    last: Option<(Arc<[u8]>, usize)>,
    /// True if something new was written since.
    parted: bool,
    loose: Loose<'p>,
}

impl Pieces<'_> {
    fn section(&mut self, section: &Section) {
        self.leave_section();
        match &section.source {
            Some(source) => {
                if self.join(source) {
                    let blank = |byte: &u8| *byte != b'\n' && byte.is_ascii_whitespace();
                    let mut above = source.above().iter();
                    self.blank_line(above.find(|byte| !blank(byte)) == Some(&b'\n'));
                }
                let name = section.name.as_deref();
                source.rewrite(&mut self.out, Keyword::Config, &section.kind, name);
            }
            None => {
                self.part();
                self.blank_line(false);
                print_header(&mut self.out, section);
            }
        }
        for option in &section.options {
            self.option(option);
        }
    }

    fn option(&mut self, option: &Opt) {
        match &option.value {
            Value::One(value) if value.is_empty() => {}
            Value::One(value) => self.one(option, value),
            Value::List(items) => self.list(option, items),
        }
    }

    fn one(&mut self, option: &Opt, value: &[u8]) {
        let source = match option.source.split_last() {
            // Given more than once: the last counts, the others are as good as comments.
            Some((last, before)) if last.keyword() == Some(Keyword::Option) => {
                for statement in before {
                    self.join(statement);
                    self.out.extend(statement.all());
                }
                Some(last)
            }
            _ => option.source.first(),
        };
        self.line(source, Keyword::Option, &option.name, value);
    }

    /// An item keeps its line wherever it goes. If no line is left for the first item, it takes that of
    /// the first one before: so an option that becomes a list keeps its comment.
    fn list(&mut self, option: &Opt, items: &[Vec<u8>]) {
        let mut lines: HashMap<Vec<u8>, Vec<&Statement>> = HashMap::new();
        for statement in option.source.iter().rev() {
            lines.entry(statement.second()).or_default().push(statement);
        }
        let first_line = option.source.first();
        let first_stays = first_line.is_some_and(|line| items.contains(&line.second()));
        for (index, item) in items.iter().enumerate() {
            let own = lines.get_mut(item).and_then(Vec::pop);
            let line = own.or(first_line.filter(|_| index == 0 && !first_stays));
            // `option` and then `list` makes a list as well.
            let keyword = match own.and_then(Statement::keyword) {
                Some(keyword) if index == 0 && items.len() > 1 => keyword,
                _ => Keyword::List,
            };
            self.line(line, keyword, &option.name, item);
        }
    }

    fn line(&mut self, source: Option<&Statement>, keyword: Keyword, name: &[u8], value: &[u8]) {
        if let Some(source) = source {
            self.join(source);
            source.rewrite(&mut self.out, keyword, name, Some(value));
        } else {
            self.part();
            print_line(&mut self.out, keyword, name, value);
        }
    }

    /// Makes ready for a section: commented lines at the end of the one before stay there, and the
    /// head of the file stays at its head.
    fn leave_section(&mut self) {
        while let Some((text, place)) = self.loose.next(|text, start| {
            let follows =
                |(last, end): &(Arc<[u8]>, usize)| Arc::ptr_eq(last, text) && *end == start;
            start == 0 || self.last.as_ref().is_some_and(follows)
        }) {
            self.text(text, place);
        }
    }

    /// Makes ready for a statement as it was read. True if what is before it here is not what was
    /// before it there.
    fn join(&mut self, statement: &Statement) -> bool {
        while let Some((text, place)) = self.loose.above(statement) {
            self.text(text, place);
        }
        let place = statement.place();
        self.follow(&statement.text, place.start, place.end)
    }

    fn text(&mut self, text: &Arc<[u8]>, place: Range<usize>) {
        self.follow(text, place.start, place.end);
        self.out.extend(text.get(place).unwrap_or_default());
    }

    fn follow(&mut self, text: &Arc<[u8]>, from: usize, to: usize) -> bool {
        let last = self.last.replace((Arc::clone(text), to));
        let follows = last.is_some_and(|(last, end)| Arc::ptr_eq(&last, text) && end == from);
        let parted = mem::take(&mut self.parted) || !follows;
        if parted {
            self.end_line();
        }
        parted
    }

    /// Makes ready for something new.
    fn part(&mut self) {
        self.parted = true;
        self.end_line();
    }

    /// Only the last line of a file, and statements that share one, have no line feed.
    fn end_line(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with(b"\n") {
            self.out.push(b'\n');
        }
    }

    /// A blank line before a section, unless it is the first or `brought` its own.
    fn blank_line(&mut self, brought: bool) {
        if !self.out.is_empty() && !brought && !self.out.ends_with(b"\n\n") {
            self.out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DHCP: &str = "\
# Names and addresses.

# The server.
config dnsmasq
  option domain \"lan\"   # ours
\toption\tlocal '/lan/'
# upstream
\tlist server 1.1.1.1 # first
\tlist server 9.9.9.9

config dhcp 'lan'
\toption start '100'
\toption limit '150'

# end
";

    fn package(text: &str) -> Package {
        Package::parse(text.as_bytes()).unwrap()
    }

    fn one(value: &str) -> Value {
        Value::One(value.as_bytes().to_vec())
    }

    fn list(items: &[&str]) -> Value {
        Value::List(items.iter().map(|item| item.as_bytes().to_vec()).collect())
    }

    /// The text after an edit, which must read back.
    fn edited(text: &str, edit: impl FnOnce(&mut Package)) -> String {
        let mut package = package(text);
        edit(&mut package);
        let printed = package.print();
        assert_eq!(Package::parse(&printed), Ok(package));
        String::from_utf8(printed).unwrap()
    }

    #[test]
    fn text_that_nobody_edited_is_printed_as_it_was() {
        let odd = [
            "",
            "\n\n",
            "# nothing",
            "package dhcp\r\nconfig a\r\n\toption b 'c'\r\n",
            "c a;hidden\n o b 'c' ; l d e#f",
            "config a b\noption x 1\nconfig a c\nconfig a b\noption x 2\nlist x 3\n# end",
            "config a ''\nlist x a\noption y 'b\nc'\nlist x d\noption z ''\n \n",
            "config a\\\nb \"c\"'d'\noption x\\\ny z",
        ];
        for text in odd.into_iter().chain([DHCP]) {
            assert_eq!(String::from_utf8_lossy(&package(text).print()), text);
        }
    }

    #[test]
    fn a_changed_value_changes_its_word_only() {
        let text = edited(DHCP, |package| {
            package.sections[0].set(b"domain", one("home"));
            package.sections[0].set(b"local", one("it's"));
        });
        let expected = DHCP
            .replace("\"lan\"", "'home'")
            .replace("'/lan/'", r"'it'\''s'");
        assert_eq!(text, expected);
    }

    #[test]
    fn a_renamed_option_or_section_keeps_its_line() {
        let text = edited(DHCP, |package| {
            package.sections[0].options[0].name = b"suffix".to_vec();
            package.sections[0].name = Some(b"main".to_vec());
            package.sections[1].kind = b"pool".to_vec();
            package.sections[1].name = None;
        });
        let expected = DHCP
            .replace("option domain", "option suffix")
            .replace("config dnsmasq", "config dnsmasq 'main'")
            .replace("config dhcp 'lan'", "config pool");
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_removed_goes_with_its_comments_and_the_head_of_the_file_stays() {
        let text = edited(DHCP, |package| {
            package.sections[0].remove(b"server");
            package.sections[1].remove(b"limit");
        });
        let (before, rest) = DHCP.split_once("# upstream").unwrap();
        let (_, after) = rest.split_once("9.9.9.9\n").unwrap();
        let expected = format!("{before}{after}").replace("\toption limit '150'\n", "");
        assert_eq!(text, expected);

        let text = edited(DHCP, |package| drop(package.sections.remove(0)));
        let (_, after) = DHCP.split_once("9.9.9.9\n").unwrap();
        assert_eq!(text, format!("# Names and addresses.\n{after}"));
    }

    #[test]
    fn comments_that_a_blank_line_parts_from_what_follows_are_never_taken_away() {
        let text = "config a\n\toption x 1\n#\toption y 2\n\n# caption\n\n# b\nconfig b\n\n# c\n\nconfig c\n";
        let loose = "#\toption y 2\n\n# caption\n";
        let without_b = edited(text, |package| drop(package.sections.remove(1)));
        assert_eq!(without_b, text.replace("\n# b\nconfig b\n", ""));
        let without_a = edited(text, |package| drop(package.sections.remove(0)));
        assert_eq!(without_a, text.replace("config a\n\toption x 1\n", ""));
        let nothing = edited(text, |package| package.sections.clear());
        assert_eq!(nothing, format!("{loose}\n# c\n"));
        let longer = edited(text, |package| package.sections[0].set(b"z", one("3")));
        assert_eq!(longer, text.replace("x 1\n", "x 1\n\toption z '3'\n"));
        let inserted = edited(text, |package| {
            package.sections.insert(1, Section::new(b"new", None));
        });
        assert_eq!(inserted, text.replace("\n# b", "\nconfig new\n\n# b"));
        let both = edited(text, |package| {
            package.sections.insert(1, Section::new(b"new", None));
            package.sections[0].set(b"z", one("3"));
        });
        assert_eq!(both, inserted.replace("x 1\n", "x 1\n\toption z '3'\n"));
    }

    #[test]
    fn items_of_a_list_keep_their_lines_wherever_they_go() {
        let text = edited(DHCP, |package| {
            package.sections[0].set(b"server", list(&["8.8.8.8", "9.9.9.9", "1.1.1.1"]));
        });
        let (before, rest) = DHCP.split_once("# upstream").unwrap();
        let (_, after) = rest.split_once("9.9.9.9\n").unwrap();
        let lines = "\tlist server '8.8.8.8'\n\tlist server 9.9.9.9\n\
                     # upstream\n\tlist server 1.1.1.1 # first\n";
        assert_eq!(text, format!("{before}{lines}{after}"));
    }

    #[test]
    fn equal_items_have_a_line_each() {
        let text = "config a\n\tlist x b # 1\n\tlist x b # 2\n";
        let text = edited(text, |package| {
            package.sections[0].set(b"x", list(&["b", "b", "b"]));
        });
        assert_eq!(
            text,
            "config a\n\tlist x b # 1\n\tlist x b # 2\n\tlist x 'b'\n"
        );
    }

    #[test]
    fn an_option_that_becomes_a_list_and_a_list_that_becomes_an_option_keep_a_line() {
        let text = edited("config a\n# why\n\toption x 'b c' # how\n", |package| {
            package.sections[0].set(b"x", list(&["b", "c"]));
        });
        assert_eq!(text, "config a\n# why\n\tlist x 'b' # how\n\tlist x 'c'\n");
        let text = edited(&text, |package| package.sections[0].set(b"x", one("b c")));
        assert_eq!(text, "config a\n# why\n\toption x 'b c' # how\n");
        let text = edited(&text, |package| {
            package.sections[0].set(b"x", list(&["b c"]));
        });
        assert_eq!(text, "config a\n# why\n\tlist x 'b c' # how\n");
    }

    #[test]
    fn what_is_new_has_the_form_of_libuci() {
        let mut section = Section::new(b"host", Some(b"pc"));
        section.set(b"name", one("a b"));
        section.set(b"tag", list(&["x", ""]));
        section.set(b"none", one(""));
        let form = "config host 'pc'\n\toption name 'a b'\n\tlist tag 'x'\n\tlist tag ''\n";
        let text = edited("", |package| package.sections.push(section.clone()));
        assert_eq!(text, form);
        let text = edited(DHCP, |package| package.sections.insert(1, section));
        assert_eq!(
            text,
            DHCP.replace("config dhcp", &format!("{form}\nconfig dhcp"))
        );
        let kind = "quote'd#;\\";
        let section = Section::new(kind.as_bytes(), None);
        let text = edited("config a", |package| package.sections.push(section));
        assert_eq!(text, "config a\n\nconfig 'quote'\\''d#;\\'\n");
    }

    #[test]
    fn sections_are_printed_in_their_order_with_what_is_above_them() {
        let text = edited(DHCP, |package| package.sections.swap(0, 1));
        let (head, rest) = DHCP.split_once("\n\n").unwrap();
        let (server, rest) = rest.split_once("\n\n").unwrap();
        let (lan, tail) = rest.split_once("\n\n").unwrap();
        assert_eq!(text, format!("{head}\n\n{lan}\n\n{tail}\n{server}\n"));
    }

    #[test]
    fn a_section_from_another_package_brings_its_text_and_comments() {
        let other = package("config x\n# The guests.\nconfig dhcp guest # new\n\toption start 9");
        let text = edited(DHCP, |package| {
            package.sections.insert(0, other.sections[1].clone());
        });
        let section = "\n# The guests.\nconfig dhcp guest # new\n\toption start 9\n";
        assert_eq!(
            text,
            DHCP.replace("\n# The server", &format!("{section}\n# The server"))
        );
    }

    #[test]
    fn an_edit_elsewhere_leaves_options_alone_that_are_given_twice() {
        let text = "config a\n\toption x 1 # old\n\toption x 2\n\toption y 3\n";
        let expected = text.replace("y 3", "y '4'");
        assert_eq!(
            edited(text, |package| package.sections[0].set(b"y", one("4"))),
            expected
        );
        let expected = text.replace("x 2", "x '5'");
        assert_eq!(
            edited(text, |package| package.sections[0].set(b"x", one("5"))),
            expected
        );
        let gone = edited(text, |package| drop(package.sections[0].remove(b"x")));
        assert_eq!(gone, "config a\n\toption y 3\n");
        let text = "config a\n\toption x 1\n\tlist x 2\n\toption y 3\n";
        let expected = text.replace("y 3", "y '4'");
        assert_eq!(
            edited(text, |package| package.sections[0].set(b"y", one("4"))),
            expected
        );
    }

    #[test]
    fn a_section_that_is_entered_again_stays_whole_when_another_is_removed() {
        let text = "config a n\n\toption x 1\nconfig b\nconfig a n # again\n\toption y 2\n";
        let text = edited(text, |package| drop(package.sections.remove(1)));
        assert_eq!(
            text,
            "config a n\n\toption x 1\nconfig a n # again\n\toption y 2\n"
        );
    }

    #[test]
    fn what_would_read_back_as_something_else_is_printed_in_the_form_of_libuci() {
        let text = "config a n\n  option x 1 # old\n  option x 2\nconfig a n # again\nconfig b\n";
        let gone = edited(text, |package| drop(package.sections.remove(0)));
        assert_eq!(gone, "# again\nconfig b\n");
        let renamed = edited(text, |package| {
            package.sections[0].options[0].name = b"y".to_vec();
        });
        let expected = "config a 'n'\n\t# old\n\toption y '2'\n\n# again\nconfig b\n";
        assert_eq!(renamed, expected);
    }

    #[test]
    fn a_line_that_enters_a_section_again_belongs_to_what_follows() {
        let text = "config a n\nconfig b # odd\n  o z 1\nconfig a n\n\n\toption y 2\n";
        let text = edited(text, |package| drop(package.sections.remove(0)));
        assert_eq!(text, "config b # odd\n  o z 1\n");
    }

    #[test]
    fn a_package_line_stays_at_the_head_and_sections_are_parted_by_one_blank_line() {
        let text = "package p\nconfig a\nconfig b\n\n";
        let gone = edited(text, |package| drop(package.sections.remove(0)));
        assert_eq!(gone, "package p\n\nconfig b\n\n");
        let more = edited(text, |package| {
            package.sections.insert(1, Section::new(b"new", None));
            package.sections.push(Section::new(b"last", None));
        });
        let expected = "package p\nconfig a\n\nconfig new\n\nconfig b\n\nconfig last\n";
        assert_eq!(more, expected);
    }

    #[test]
    fn text_that_cannot_be_cut_is_printed_in_the_form_of_libuci_with_its_comments() {
        let text = "# head\n\nconfig a 'b' ; option x 'y' # both\noption z w;hidden\n# end";
        let text = edited(text, |package| package.sections[0].set(b"new", one("1")));
        let expected = text.clone();
        assert_eq!(edited(&expected, |_| ()), expected);
        let text = edited(
            "# 1\n\n# 2\nconfig a 'b' ; option x 'y' # 3\n# 4\n",
            |package| {
                package.sections[0]
                    .options
                    .insert(0, Opt::new(b"z", one("w")));
            },
        );
        let expected = "# 1\n\n# 2\nconfig a 'b'\n\toption z 'w'\n\t# 3\n\toption x 'y'\n# 4\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_order_of_options_is_printed_as_it_is_though_it_means_nothing() {
        let text = edited("config a\n\toption x 1\n\toption y 2", |package| {
            package.sections[0].options.swap(0, 1);
        });
        assert_eq!(text, "config a\n\toption y 2\n\toption x 1\n");
        let text = edited("config a\nlist x 1\noption y 2\nlist x 3", |package| {
            package.sections[0].options.swap(0, 1);
        });
        assert_eq!(text, "config a\noption y 2\nlist x 1\nlist x 3");
    }

    #[test]
    fn every_comment_is_told() {
        let comments = package(DHCP).comments();
        let expected = [
            "Names and addresses.",
            "The server.",
            "ours",
            "upstream",
            "first",
            "end",
        ];
        assert_eq!(
            comments,
            expected.map(|comment| comment.as_bytes().to_vec())
        );
        let hidden = package("config a\n##x#\noption b 'c#'\noption d e; f\n").comments();
        assert_eq!(hidden, [&b"#x#"[..], b"; f"]);
    }
}
