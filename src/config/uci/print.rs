//! Writing a package as text.

use super::parse::Lexer;
use super::{Opt, Package, Section, Value};

impl Package {
    /// The package as text that reads back as the same.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for section in &self.sections {
            print_section(&mut out, section);
        }
        out
    }

    /// The text of every comment, without `#` and the blanks around it, in the order of the file.
    #[must_use]
    pub fn comments(&self) -> Vec<Vec<u8>> {
        let text = self.print();
        comments(&text).iter().map(|text| text.to_vec()).collect()
    }
}

fn comments(text: &[u8]) -> Vec<&[u8]> {
    let mut lexer = Lexer::new(text);
    while let Ok(Some(_)) = lexer.next() {}
    let places = lexer.comments.into_iter();
    places
        .filter_map(|place| text.get(place))
        .map(|comment| comment.strip_prefix(b"#").unwrap_or(comment).trim_ascii())
        .collect()
}

fn print_section(out: &mut Vec<u8>, section: &Section) {
    out.extend(b"\nconfig ");
    if section.kind.iter().any(|byte| b"'\"\\#;".contains(byte)) {
        quote(out, &section.kind);
    } else {
        out.extend(&section.kind);
    }
    if let Some(name) = &section.name {
        out.push(b' ');
        quote(out, name);
    }
    out.push(b'\n');
    for option in &section.options {
        print_option(out, option);
    }
}

fn print_option(out: &mut Vec<u8>, option: &Opt) {
    let mut line = |keyword: &[u8], value: &[u8]| {
        out.push(b'\t');
        out.extend(keyword);
        out.push(b' ');
        out.extend(&option.name);
        out.push(b' ');
        quote(out, value);
        out.push(b'\n');
    };
    match &option.value {
        Value::One(value) if value.is_empty() => {}
        Value::One(value) => line(b"option", value),
        Value::List(items) => items.iter().for_each(|item| line(b"list", item)),
    }
}

/// In single quotes, where only a single quote needs care.
fn quote(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b'\'');
    for byte in word {
        match byte {
            b'\'' => out.extend(b"'\\''"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        let text = b"config a 'b' # x\n\toption c \"d'e\"\n\tlist f 'g\nh'\n\tlist f ''\n";
        let package = Package::parse(text).unwrap();
        assert_eq!(Package::parse(&package.print()), Ok(package));
    }
}
