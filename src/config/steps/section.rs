//! Operations that work on each selected section by itself: which sections, what is done to them,
//! and how each is undone.
//!
//! Every edit is idempotent, and leaves a section alone in which it finds nothing to do. Where old
//! and new option are both there, the new one wins: the new software has read only that.

use std::collections::BTreeMap;

use crate::config::path::escape;
use crate::config::uci::{self, Package, Section, Value};

/// Names sections of a package.
///
/// | text | sections |
/// | --- | --- |
/// | `NAME` | the one of that name |
/// | `@TYPE` | all of that type |
/// | `@TYPE[I]` | one of them, counted from 0, or from the end with -1 |
/// | `*` | all |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selector {
    Named(Vec<u8>),
    Type { kind: Vec<u8>, index: Option<i64> },
    All,
}

impl Selector {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        let Some(kind) = text.strip_prefix('@') else {
            let name = text.as_bytes();
            return uci::is_name(name).then(|| Self::Named(name.to_vec()));
        };
        let (kind, index) = match kind.strip_suffix(']') {
            None => (kind, None),
            Some(rest) => {
                let (kind, index) = rest.split_once('[')?;
                (kind, Some(index.parse().ok()?))
            }
        };
        let kind = kind.as_bytes().to_vec();
        uci::is_kind(&kind).then_some(Self::Type { kind, index })
    }

    /// Places of the selected sections in the package.
    pub(super) fn select(&self, package: &Package) -> Vec<usize> {
        let fits = |section: &Section| match self {
            Self::Named(name) => section.name.as_ref() == Some(name),
            Self::Type { kind, .. } => section.kind == *kind,
            Self::All => true,
        };
        let sections = package.sections.iter().enumerate();
        let found = sections.filter(|(_, section)| fits(section));
        let mut found: Vec<usize> = found.map(|(place, _)| place).collect();
        if let Self::Type {
            index: Some(index), ..
        } = self
        {
            let from_end = index.checked_add_unsigned(found.len() as u64);
            let index = if *index < 0 { from_end } else { Some(*index) };
            let index = index.and_then(|index| usize::try_from(index).ok());
            let one = index.and_then(|index| found.get(index).copied());
            found = one.into_iter().collect();
        }
        found
    }

    /// The same selection after the type of the selected sections was changed. An index counts
    /// other sections then, so all of the type are candidates.
    fn of_type(kind: &[u8]) -> Self {
        Self::Type {
            kind: kind.to_vec(),
            index: None,
        }
    }
}

/// How a section is spoken of: its name, or its type and place among those of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Locus {
    pub(super) text: String,
    /// Of a section without a name: how many of its type there are. A place among another number of
    /// sections may be the place of another one.
    pub(super) among: Option<u64>,
}

/// One for each section of a package.
pub(super) fn loci(package: &Package) -> Vec<Locus> {
    let mut totals: BTreeMap<&[u8], u64> = BTreeMap::new();
    let mut places = Vec::with_capacity(package.sections.len());
    for section in &package.sections {
        let total = totals.entry(&section.kind).or_default();
        places.push(*total);
        *total += 1;
    }
    let locus = |(section, place): (&Section, u64)| match &section.name {
        Some(name) => Locus {
            text: escape(name),
            among: None,
        },
        None => Locus {
            text: format!("@{}[{place}]", escape(&section.kind)),
            among: totals.get(&*section.kind).copied(),
        },
    };
    package.sections.iter().zip(places).map(locus).collect()
}

/// What the values of an option become; in the order of the definition, because the first old value
/// is what a new one goes back to.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapping {
    forward: BTreeMap<Vec<u8>, Option<Value>>,
    back: Vec<(Value, Vec<u8>)>,
}

impl Mapping {
    /// Adds a value; nothing as new value means that the option goes. False if it is there already.
    pub(super) fn insert(&mut self, from: Vec<u8>, to: Option<Value>) -> bool {
        if self.forward.contains_key(&from) {
            return false;
        }
        if let Some(to) = &to {
            self.back.push((to.clone(), from.clone()));
        }
        self.forward.insert(from, to);
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.forward.is_empty()
    }

    fn mapped(&self, from: &[u8]) -> Option<&Option<Value>> {
        self.forward.get(from)
    }

    fn original(&self, to: &Value) -> Option<&Vec<u8>> {
        let mut pairs = self.back.iter();
        pairs.find(|(value, _)| value == to).map(|(_, from)| from)
    }

    /// A new value that is also an old one of something else.
    pub(super) fn moved_twice(&self) -> Option<&[u8]> {
        let again = |from: &Vec<u8>, item: &Vec<u8>| item != from && self.mapped(item).is_some();
        self.forward.iter().find_map(|(from, to)| match to {
            Some(Value::One(to)) => again(from, to).then_some(to.as_slice()),
            Some(Value::List(items)) => {
                let found = items.iter().find(|item| self.mapped(item).is_some());
                found.map(Vec::as_slice)
            }
            None => None,
        })
    }

    /// Two old values that become the same one.
    pub(super) fn merged(&self) -> Option<(&[u8], &[u8])> {
        self.forward.iter().find_map(|(from, to)| {
            let first = self.original(to.as_ref()?)?;
            (first != from).then_some((first.as_slice(), from.as_slice()))
        })
    }

    /// The new value. `None`: nothing in it is known, so it stays; `Some(None)`: it goes.
    fn apply(&self, value: &Value) -> Option<Option<Value>> {
        match value {
            Value::One(one) => self.mapped(one).cloned(),
            Value::List(items) => {
                if !items.iter().any(|item| self.mapped(item).is_some()) {
                    return None;
                }
                let mut list = Vec::new();
                for item in items {
                    match self.mapped(item) {
                        None => list.push(item.clone()),
                        Some(None) => {}
                        Some(Some(Value::One(to))) => list.push(to.clone()),
                        Some(Some(Value::List(to))) => list.extend_from_slice(to),
                    }
                }
                Some((!list.is_empty()).then_some(Value::List(list)))
            }
        }
    }

    /// The old value, if every change can be told from what it became.
    fn undo(&self, value: &Value) -> Option<Value> {
        if let Some(old) = self.original(value) {
            return Some(Value::One(old.clone()));
        }
        let Value::List(items) = value else {
            return None;
        };
        let old = |item: &Vec<u8>| {
            let old = self.original(&Value::One(item.clone()));
            old.unwrap_or(item).clone()
        };
        Some(Value::List(items.iter().map(old).collect()))
    }
}

/// What is done to a section.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    Rename {
        from: Vec<u8>,
        to: Vec<u8>,
    },
    Map {
        option: Vec<u8>,
        to: Vec<u8>,
        map: Mapping,
    },
    ToList {
        option: Vec<u8>,
    },
    ToOption {
        option: Vec<u8>,
    },
    SetType {
        kind: Vec<u8>,
    },
    Delete {
        option: Vec<u8>,
    },
    SetDefault {
        option: Vec<u8>,
        value: Value,
    },
    SetOption {
        option: Vec<u8>,
        value: Value,
    },
}

/// In a [`Seen`], stands for the type of the section: no option has a dot in its name.
const TYPE: &[u8] = b".type";

/// The part of a section that an edit looks at: options with their values, absent ones too.
pub(super) type Seen = BTreeMap<Vec<u8>, Option<Value>>;

impl Edit {
    pub(super) fn apply(&self, section: &mut Section) {
        match self {
            Self::Rename { from, to } => {
                if section.get(to).is_some() {
                    section.remove(from);
                } else {
                    rename(section, from, to);
                }
            }
            Self::Map { option, to, map } => {
                let new = section.get(option).and_then(|value| map.apply(value));
                let Some(new) = new else { return };
                if option != to && section.get(to).is_some() {
                    section.remove(option);
                    return;
                }
                rename(section, option, to);
                put(section, to, new);
            }
            Self::ToList { option } => {
                if let Some(Value::One(value)) = section.get(option) {
                    let words = value.split(u8::is_ascii_whitespace);
                    let words = words.filter(|word| !word.is_empty());
                    let list = Value::List(words.map(<[u8]>::to_vec).collect());
                    put(section, option, Some(list));
                }
            }
            Self::ToOption { option } => {
                if let Some(Value::List(items)) = section.get(option) {
                    let value = Value::One(items.join(&b' '));
                    put(section, option, Some(value));
                }
            }
            Self::SetType { kind } => section.kind.clone_from(kind),
            Self::Delete { option } => {
                section.remove(option);
            }
            Self::SetDefault { option, value } => {
                if section.get(option).is_none() {
                    section.set(option, value.clone());
                }
            }
            Self::SetOption { option, value } => {
                if section.get(option).is_some() {
                    section.set(option, value.clone());
                }
            }
        }
    }

    /// Undoes it as far as what is there now tells how. `selector` is that of the operation.
    pub(super) fn undo(&self, section: &mut Section, selector: &Selector) {
        match self {
            Self::Rename { from, to } => {
                if section.get(from).is_none() {
                    rename(section, to, from);
                }
            }
            Self::Map { option, to, map } => {
                let old = section.get(to).and_then(|value| map.undo(value));
                let Some(old) = old else { return };
                if option == to || section.get(option).is_none() {
                    rename(section, to, option);
                    put(section, option, Some(old));
                }
            }
            Self::ToList { option } => Self::ToOption {
                option: option.clone(),
            }
            .apply(section),
            Self::ToOption { option } => Self::ToList {
                option: option.clone(),
            }
            .apply(section),
            Self::SetType { .. } => {
                if let Selector::Type { kind, .. } = selector {
                    section.kind.clone_from(kind);
                }
            }
            Self::SetDefault { option, value } => {
                if section.get(option) == Some(value) {
                    section.remove(option);
                }
            }
            // Nothing in the section tells what was there.
            Self::Delete { .. } | Self::SetOption { .. } => {}
        }
    }

    /// Which sections the edit may have been applied to.
    pub(super) fn undo_selector(&self, selector: &Selector) -> Selector {
        match self {
            Self::SetType { kind } => Selector::of_type(kind),
            _ => selector.clone(),
        }
    }

    fn looks_at(&self) -> Vec<&[u8]> {
        match self {
            Self::Rename { from, to } => vec![from, to],
            Self::Map { option, to, .. } => vec![option, to],
            Self::SetType { .. } => vec![TYPE],
            Self::ToList { option }
            | Self::ToOption { option }
            | Self::Delete { option }
            | Self::SetDefault { option, .. }
            | Self::SetOption { option, .. } => vec![option],
        }
    }

    /// What of a section the edit looks at.
    pub(super) fn see(&self, section: &Section) -> Seen {
        let value = |name: &[u8]| {
            if name == TYPE {
                Some(Value::One(section.kind.clone()))
            } else {
                section.get(name).cloned()
            }
        };
        let names = self.looks_at().into_iter();
        names.map(|name| (name.to_vec(), value(name))).collect()
    }

    /// What the edit makes of what it looked at.
    pub(super) fn applied_to(&self, before: &Seen) -> Seen {
        let mut section = Section::new(b"x", None);
        restore(&mut section, before);
        self.apply(&mut section);
        self.see(&section)
    }

    /// True if the edit has to do with this option.
    pub(super) fn concerns(&self, option: &[u8]) -> bool {
        self.looks_at().contains(&option)
    }

    /// The options that differ, as places in a report.
    pub(super) fn touched(before: &Seen, after: &Seen) -> Vec<String> {
        let changed = before
            .iter()
            .filter(|(name, value)| after.get(*name) != Some(value));
        changed.map(|(name, _)| escape(name)).collect()
    }
}

/// Puts back what was seen.
pub(super) fn restore(section: &mut Section, seen: &Seen) {
    for (name, value) in seen {
        match value {
            Some(Value::One(kind)) if name == TYPE => section.kind.clone_from(kind),
            value => put(section, name, value.clone()),
        }
    }
}

/// UCI has no option without a value, and no list without items: both are absent options.
fn put(section: &mut Section, option: &[u8], value: Option<Value>) {
    match value {
        Some(Value::One(text)) if !text.is_empty() => section.set(option, Value::One(text)),
        Some(Value::List(items)) if !items.is_empty() => section.set(option, Value::List(items)),
        _ => {
            section.remove(option);
        }
    }
}

/// Gives an option another name, in its place.
fn rename(section: &mut Section, from: &[u8], to: &[u8]) {
    for option in &mut section.options {
        if option.name == from {
            option.name = to.to_vec();
        }
    }
}
