//! The three-way merge of UCI packages.
//!
//! Sections, options and items of lists are merged one by one, so that one disputed value holds
//! nothing else back. [`matching`] says which sections are the same one, [`three_way`] who wins and
//! what stands where. Beyond it:
//!
//! * A section that one side does not have is one value: it goes, stays or comes as a whole.
//! * Two types for one section are a dispute about the whole section, because options of one type
//!   mean nothing in the other.
//! * Lists are merged by item, each change of either side applies. Identity is the item, and its
//!   number among equal ones; where the hints have a separator, the text before it. If the package
//!   has no old default, nobody knows which items the user took away: two lists that differ are a
//!   dispute, and no address that was removed comes back.
//! * A scalar against a list is a dispute: nobody guesses.
//! * What the user deleted and the image changed stays deleted, with a notice.
//!
//! Places are named `SECTION`, `SECTION.OPTION` or `SECTION.OPTION[ITEM]`. SECTION is a name, or
//! `@type[KEY]` with the values of the hint's key, or `@type[INDEX]`, counted among all sections of
//! that type as `uci` does: in the user's package, or in the new default if only that has it. ITEM
//! is what identifies the item. Bytes that are not UTF-8 are escaped as in paths.
//!
//! The result is the user's package, with its comments, in which the changed places are edited. What
//! only the image has comes with the image's comments.

mod matching;

use std::collections::HashMap;

use super::hints::Hints;
use super::three_way::{Sides, Verdict, merge_entries};
use crate::config::path::escape;
use crate::config::report::{Conflict, NoticeKind, Shown, Winner};
use crate::config::uci::{Opt, Package, Section, Value};

/// One place where both sides differ, and not only one of them changed the default.
pub(crate) struct Dispute<'a> {
    /// Where.
    pub(crate) locus: &'a str,
    /// The old default; `None` if it is absent, and for a whole section.
    pub(crate) default: Option<&'a Value>,
    /// The user's, likewise.
    pub(crate) user: Option<&'a Value>,
    /// The new default, likewise.
    pub(crate) new: Option<&'a Value>,
}

/// What came of it.
pub(crate) struct Merged {
    /// The result.
    pub(crate) package: Package,
    /// Every dispute, with its winner.
    pub(crate) conflicts: Vec<Conflict>,
    /// What should be told, and its place.
    pub(crate) notices: Vec<(NoticeKind, String)>,
}

/// Merges what the user and the image made of a package.
///
/// `package` is its name, for the hints. Without a `base` the result is the union, and every option
/// that both have and that differs is a dispute. `resolve` says who wins each dispute.
pub(crate) fn merge(
    package: &str,
    base: Option<&Package>,
    user: &Package,
    new: &Package,
    hints: &Hints,
    resolve: &mut dyn FnMut(&Dispute) -> Winner,
) -> Merged {
    let mut merger = Merger {
        package,
        has_baseline: base.is_some(),
        hints,
        resolve,
        conflicts: Vec::new(),
        notices: Vec::new(),
    };
    let packages = Sides {
        base,
        user: Some(user),
        new: Some(new),
    };
    let sections = packages.map(|package| &*package.sections);
    let identities = matching::identify(package, &sections, hints);
    let sections = sections.map(|sections| located(package, sections, hints));
    let entries = identities
        .zip(sections.as_ref())
        .map(|(ids, sections)| ids.into_iter().zip(sections).collect());
    let merged = merge_entries(entries, |_, sections| merger.section(sections));

    Merged {
        package: user.with(merged),
        conflicts: merger.conflicts,
        notices: merger.notices,
    }
}

/// A section and the name of its place.
struct Located<'a> {
    section: &'a Section,
    locus: String,
}

fn located<'a>(package: &str, sections: &'a [Section], hints: &Hints) -> Vec<Located<'a>> {
    let mut seen: HashMap<&[u8], usize> = HashMap::new();
    let mut locate = |section: &'a Section| {
        let index = seen.entry(&section.kind).or_default();
        let locus = match &section.name {
            Some(name) => escape(name),
            None => {
                let key = hints.of_type(package, &section.kind).best_key(section);
                let key = key.map_or_else(|| index.to_string(), |values| key_text(&values));
                format!("@{}[{key}]", escape(&section.kind))
            }
        };
        *index += 1;
        Located { section, locus }
    };
    sections.iter().map(&mut locate).collect()
}

fn key_text(values: &[&Value]) -> String {
    let texts = values.iter().flat_map(|value| items(value));
    let texts: Vec<_> = texts.map(|text| escape(text)).collect();
    texts.join(",")
}

/// The parts of a value.
fn items(value: &Value) -> &[Vec<u8>] {
    match value {
        Value::One(text) => std::slice::from_ref(text),
        Value::List(items) => items,
    }
}

/// A place in a package.
#[derive(Clone, Copy)]
struct Place<'a> {
    section: &'a str,
    option: Option<&'a [u8]>,
    item: Option<&'a [u8]>,
}

impl Place<'_> {
    fn locus(self) -> String {
        let option = self.option.map(|option| format!(".{}", escape(option)));
        let item = self.item.map(|item| format!("[{}]", escape(item)));
        [
            self.section,
            &option.unwrap_or_default(),
            &item.unwrap_or_default(),
        ]
        .concat()
    }
}

struct Merger<'a> {
    package: &'a str,
    has_baseline: bool,
    hints: &'a Hints,
    resolve: &'a mut dyn FnMut(&Dispute) -> Winner,
    conflicts: Vec<Conflict>,
    notices: Vec<(NoticeKind, String)>,
}

impl Merger<'_> {
    fn section(&mut self, sides: Sides<&Located>) -> Option<Section> {
        let place = Place {
            section: &sides.user.or(sides.new)?.locus,
            option: None,
            item: None,
        };
        let sections = sides.map(|located| located.section);
        let kinds = sections.map(|section| &section.kind);
        let (Some(user), Verdict::Take(kind), Some(new)) =
            (sections.user, kinds.verdict(), sections.new)
        else {
            let winner = self.winner(&sections, place, |_| None);
            return sections.of(winner).cloned();
        };
        let mut merged = user.clone();
        if kind == Winner::New {
            merged.kind.clone_from(&new.kind);
        }
        let hint = self.hints.of_type(self.package, &merged.kind);
        let options = sections.map(|section| {
            let options = section.options.iter();
            let present = options.filter(|option| !option.value.is_absent());
            present.map(|option| (&*option.name, option)).collect()
        });
        merged.options = merge_entries(options, |name, options| {
            let place = Place {
                option: Some(name),
                ..place
            };
            self.option(place, hint.separator(name), options)
        });
        Some(merged)
    }

    fn option(
        &mut self,
        place: Place,
        separator: Option<&[u8]>,
        options: Sides<&Opt>,
    ) -> Option<Opt> {
        let values = options.map(|option| &option.value);
        let value = match lists(values, self.has_baseline) {
            Some(lists) if matches!(values.verdict(), Verdict::Dispute(_)) => {
                let items = self.list(place, separator, lists);
                // A list without items cannot be written: the option is absent.
                (!items.is_empty()).then_some(Value::List(items))
            }
            _ => {
                let winner = self.winner(&values, place, |value| Some(Value::clone(value)));
                values.of(winner).cloned()
            }
        }?;
        // The user's comments stay with it.
        let mut option = options.user.or(options.new)?.clone();
        option.value = value;
        Some(option)
    }

    fn list(
        &mut self,
        place: Place,
        separator: Option<&[u8]>,
        lists: Sides<&[Vec<u8>]>,
    ) -> Vec<Vec<u8>> {
        let items = lists.map(|items| identified(items, separator));
        merge_entries(items, |(key, _), items| {
            let place = Place {
                item: Some(key),
                ..place
            };
            let winner = self.winner(&items, place, |item| Some(Value::One(item.to_vec())));
            items.of(winner).map(<[u8]>::to_vec)
        })
    }

    /// Who wins this place. What is worth telling of it is noted; `value` makes it presentable.
    fn winner<T: PartialEq>(
        &mut self,
        sides: &Sides<T>,
        place: Place,
        value: impl Fn(&T) -> Option<Value>,
    ) -> Winner {
        match sides.verdict() {
            Verdict::Take(winner) => winner,
            Verdict::StaysDeleted => {
                let locus = place.locus();
                self.notices.push((NoticeKind::DeleteChange, locus));
                Winner::User
            }
            Verdict::Dispute(kind) => {
                let value = |side: &Option<T>| side.as_ref().and_then(&value);
                let (default, user, new) =
                    (value(&sides.base), value(&sides.user), value(&sides.new));
                let locus = place.locus();
                let resolved = (self.resolve)(&Dispute {
                    locus: &locus,
                    default: default.as_ref(),
                    user: user.as_ref(),
                    new: new.as_ref(),
                });
                let secret = self.is_secret(place);
                let shown = |value: Option<Value>| value.map(|value| shown(&value, secret));
                self.conflicts.push(Conflict {
                    decided: false,
                    locus: Some(locus),
                    kind,
                    default: shown(default),
                    user: shown(user),
                    new: shown(new),
                    resolved,
                });
                resolved
            }
        }
    }

    fn is_secret(&self, place: Place) -> bool {
        place.option.is_some_and(|name| self.hints.is_secret(name))
    }
}

/// The sides as lists, if they can be merged by item.
fn lists<'a>(values: Sides<&'a Value>, has_baseline: bool) -> Option<Sides<&'a [Vec<u8>]>> {
    let list = |value: &'a Value| match value {
        Value::One(_) => None,
        Value::List(items) => Some(&**items),
    };
    let base = match values.base {
        Some(value) => list(value)?,
        None if has_baseline => &[],
        None => return None,
    };
    Some(Sides {
        base: Some(base),
        user: Some(list(values.user?)?),
        new: Some(list(values.new?)?),
    })
}

/// What identifies an item of a list: its text, and how many of the same stand before it.
type ItemId<'a> = (&'a [u8], usize);

fn identified<'a>(items: &'a [Vec<u8>], separator: Option<&[u8]>) -> Vec<(ItemId<'a>, &'a [u8])> {
    let mut seen: HashMap<&[u8], usize> = HashMap::new();
    let mut identify = |item: &'a Vec<u8>| {
        let key = separator.map_or(&**item, |separator| before(item, separator));
        let nth = seen.entry(key).or_default();
        let id = (key, *nth);
        *nth += 1;
        (id, &**item)
    };
    items.iter().map(&mut identify).collect()
}

/// What stands before the first separator; everything if there is none.
fn before<'a>(item: &'a [u8], separator: &[u8]) -> &'a [u8] {
    let at = item
        .windows(separator.len().max(1))
        .position(|part| part == separator);
    at.and_then(|at| item.get(..at)).unwrap_or(item)
}

fn shown(value: &Value, secret: bool) -> Shown {
    match value {
        _ if secret => Shown::SECRET,
        Value::One(text) => Shown::Text(escape(text)),
        Value::List(items) => Shown::List(items.iter().map(|item| escape(item)).collect()),
    }
}

#[cfg(test)]
mod tests;
