//! UCI packages: the files below `/etc/config`, as values that can be edited and as text.
//!
//! [`Package::parse`] reads what libuci reads (strictly, as `uci_load` does) and refuses the rest;
//! [`Package::print`] gives back the text, byte for byte where nothing was changed.
//!
//! Two packages are equal if libuci would tell a program the same about both: the order of sections
//! and of list items counts, the order of options in a section, quoting and comments do not.

mod parse;
mod print;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use source::Statement;

pub use parse::{Fault, MAX_TEXT, ParseError};

/// A package: the sections of one file.
///
/// Names are unique among its named sections, and valid (see [`is_name`], [`is_kind`]); who edits
/// a package keeps it so. What is not so cannot be written in a way that reads back.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// In the order of the file.
    pub sections: Vec<Section>,
    /// What it was read from; `None` if it was made here.
    frame: Option<Frame>,
}

/// What a package has of its text beside its statements.
#[derive(Clone)]
struct Frame {
    text: Arc<[u8]>,
    /// What belongs to no statement, but to the file: comments that a blank line parts from what
    /// follows. In order.
    loose: Vec<Range<usize>>,
    /// What the text means, if it is not the sum of its statements.
    as_read: Option<Vec<Section>>,
}

/// A section: a type, maybe a name, and options.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its type.
    pub kind: Vec<u8>,
    /// `None` if it is anonymous.
    pub name: Option<Vec<u8>>,
    /// In the order of the file; names are unique.
    pub options: Vec<Opt>,
    source: Option<Statement>,
}

/// An option of a section.
#[derive(Clone, Debug)]
pub struct Opt {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Value,
    /// All statements that gave it its value, in order.
    source: Vec<Statement>,
}

/// The value of an option. No value holds a NUL byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// From `option`. UCI has no empty one: it means that the option is absent, and is not printed.
    One(Vec<u8>),
    /// From `list`. Items may be empty; a list without items means that the option is absent.
    List(Vec<Vec<u8>>),
}

/// True if `text` can name a section or an option.
#[must_use]
pub fn is_name(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// True if `text` can be the type of a section.
#[must_use]
pub fn is_kind(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_graphic)
}

impl Package {
    /// The section of that name.
    #[must_use]
    pub fn named(&self, name: &[u8]) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.name.as_deref() == Some(name))
    }

    /// The same package with other sections.
    pub(crate) fn with(&self, sections: Vec<Section>) -> Self {
        Self {
            sections,
            frame: self.frame.clone(),
        }
    }

    /// The section of that name, to be changed.
    pub fn named_mut(&mut self, name: &[u8]) -> Option<&mut Section> {
        self.sections
            .iter_mut()
            .find(|section| section.name.as_deref() == Some(name))
    }
}

impl Section {
    /// A section without options.
    #[must_use]
    pub fn new(kind: &[u8], name: Option<&[u8]>) -> Self {
        Self {
            kind: kind.to_vec(),
            name: name.map(<[u8]>::to_vec),
            options: Vec::new(),
            source: None,
        }
    }

    /// The value of an option.
    #[must_use]
    pub fn get(&self, option: &[u8]) -> Option<&Value> {
        let found = self.options.iter().find(|known| known.name == option)?;
        Some(&found.value)
    }

    /// Gives an option a value: in place if it is present, else at the end.
    pub fn set(&mut self, option: &[u8], value: Value) {
        match self.options.iter_mut().find(|known| known.name == option) {
            Some(known) => known.value = value,
            None => self.options.push(Opt::new(option, value)),
        }
    }

    /// Takes an option away.
    pub fn remove(&mut self, option: &[u8]) -> Option<Value> {
        let at = self.options.iter().position(|known| known.name == option)?;
        Some(self.options.remove(at).value)
    }

    /// The options that are there, by name.
    fn sorted(&self) -> Vec<&Opt> {
        let mut options: Vec<_> = self
            .options
            .iter()
            .filter(|option| !option.value.is_absent())
            .collect();
        options.sort_by(|a, b| a.name.cmp(&b.name));
        options
    }
}

impl Opt {
    /// An option.
    #[must_use]
    pub fn new(name: &[u8], value: Value) -> Self {
        Self {
            name: name.to_vec(),
            value,
            source: Vec::new(),
        }
    }
}

impl Value {
    /// True for values that UCI cannot tell from a missing option.
    pub(crate) fn is_absent(&self) -> bool {
        match self {
            Self::One(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.text))
    }
}

impl PartialEq for Package {
    fn eq(&self, other: &Self) -> bool {
        self.sections == other.sections
    }
}

impl PartialEq for Section {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.name == other.name && self.sorted() == other.sorted()
    }
}

impl PartialEq for Opt {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.value == other.value
    }
}
