//! Which sections of three UCI packages are the same one.
//!
//! Two packages are compared like this. Named sections are the same by name. Unnamed ones of a type
//! are paired in this order:
//!
//! 1. identical ones, in their order;
//! 2. if at most one of the type is meaningful: the first of each;
//! 3. by key, the values of options that identify a section; there may be alternatives. The key of a
//!    pair is the first alternative that both have. Of several with one key the most similar are
//!    paired, and equally similar ones in their order;
//! 4. those without a key: the most similar first, if half of their options are common.
//!
//! A section whose key was changed is therefore one section deleted and another one added.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::slice;

use crate::config::merge::hints::Hints;
use crate::config::merge::three_way::Sides;
use crate::config::uci::{Section, Value};

/// The most pairs that are compared to find similar sections of one type or key: 128 by 128, where
/// a hundred thousand sections would take hours. Beyond it sections with one key are paired in
/// their order, and those without a key stay unpaired.
const MAX_COMPARED: usize = 1 << 14;

/// A section and its place in its package.
type Placed<'a> = (usize, &'a Section);

/// Places in the left and in the right package.
type Pairs = Vec<(usize, usize)>;

/// A number for each section, in the order of its package: equal numbers are the same section.
///
/// The old default is compared with each of the others, then what is left of these with each other.
pub(super) fn identify(
    package: &str,
    sides: &Sides<&[Section]>,
    hints: &Hints,
) -> Sides<Vec<usize>> {
    let placed = sides.map(|side| side.iter().enumerate().collect::<Vec<Placed>>());
    let [base, user, new] = [placed.base, placed.user, placed.new].map(Option::unwrap_or_default);

    let of_base = |side: &[Placed]| -> HashMap<usize, usize> {
        let pairs = pair(package, &base, side, hints).into_iter();
        pairs.map(|(b, other)| (other, b)).collect()
    };
    let (mut user_ids, mut new_ids) = (of_base(&user), of_base(&new));
    let mut fresh = base.len()..;
    let (user_left, new_left) = (without(&user, &user_ids), without(&new, &new_ids));
    for ((u, n), id) in pair(package, &user_left, &new_left, hints)
        .into_iter()
        .zip(fresh.by_ref())
    {
        user_ids.insert(u, id);
        new_ids.insert(n, id);
    }
    let mut numbers = |side: &[Placed], ids: &HashMap<usize, usize>| {
        let numbers = side.iter().map(|(at, _)| ids.get(at).copied());
        numbers
            .filter_map(|id| id.or_else(|| fresh.next()))
            .collect()
    };
    Sides {
        base: Some((0..base.len()).collect()),
        user: Some(numbers(&user, &user_ids)),
        new: Some(numbers(&new, &new_ids)),
    }
}

fn without<'a>(side: &[Placed<'a>], paired: &HashMap<usize, usize>) -> Vec<Placed<'a>> {
    let left = side.iter().filter(|(at, _)| !paired.contains_key(at));
    left.copied().collect()
}

fn pair<'a>(package: &str, left: &[Placed<'a>], right: &[Placed<'a>], hints: &Hints) -> Pairs {
    let hint = |section: &Section| hints.of_type(package, &section.kind);
    let mut sections = Unpaired {
        left: left.to_vec(),
        right: right.to_vec(),
        pairs: Vec::new(),
    };
    sections.pair(|section| section.name.as_deref(), in_order);

    let unnamed = |(_, section): &Placed| section.name.is_none();
    sections.left.retain(unnamed);
    sections.right.retain(unnamed);
    sections.pair(|section| Some((&section.kind, meaning(section))), in_order);
    sections.pair(
        |section| hint(section).single.then_some(&section.kind),
        first,
    );
    for nth in 0..hints.most_alternatives() {
        let key = |section: &'a Section| {
            let values = hint(section).key(nth, section)?;
            let words: Vec<_> = values.into_iter().map(words).collect();
            Some((&section.kind, words))
        };
        // One of the two must have no better key: hosts are not paired by their names if both have
        // an address, and another one.
        let best_key = |section: &'a Section| {
            let better = (0..nth).any(|nth| hint(section).key(nth, section).is_some());
            if better { None } else { key(section) }
        };
        sections.pair_by(best_key, key, likest);
        sections.pair_by(key, best_key, likest);
    }
    let keyless = |section: &'a Section| {
        let has_key = hint(section).best_key(section).is_some();
        (!has_key).then_some(&section.kind)
    };
    sections.pair(keyless, alike);
    sections.pairs
}

/// Sections of two packages that have no counterpart yet, and the pairs that were found.
struct Unpaired<'a> {
    left: Vec<Placed<'a>>,
    right: Vec<Placed<'a>>,
    pairs: Pairs,
}

impl<'a> Unpaired<'a> {
    /// Pairs sections with the same trait; `choose` says which ones if there are several.
    fn pair<K: Ord>(
        &mut self,
        of: impl Fn(&'a Section) -> Option<K>,
        choose: fn(&[Placed<'a>], &[Placed<'a>]) -> Pairs,
    ) {
        self.pair_by(&of, &of, choose);
    }

    /// The same, with a trait of its own for either side.
    fn pair_by<K: Ord>(
        &mut self,
        of_left: impl Fn(&'a Section) -> Option<K>,
        of_right: impl Fn(&'a Section) -> Option<K>,
        choose: fn(&[Placed<'a>], &[Placed<'a>]) -> Pairs,
    ) {
        let left = group(&self.left, of_left);
        let mut right = group(&self.right, of_right);
        let found: Pairs = left
            .into_iter()
            .filter_map(|(key, left)| Some(choose(&left, &right.remove(&key)?)))
            .flatten()
            .collect();
        let (lefts, rights): (HashSet<usize>, HashSet<usize>) = found.iter().copied().unzip();
        self.left.retain(|(at, _)| !lefts.contains(at));
        self.right.retain(|(at, _)| !rights.contains(at));
        self.pairs.extend(found);
    }
}

fn group<'a, K: Ord>(
    sections: &[Placed<'a>],
    of: impl Fn(&'a Section) -> Option<K>,
) -> BTreeMap<K, Vec<Placed<'a>>> {
    let mut groups: BTreeMap<K, Vec<Placed>> = BTreeMap::new();
    for &(at, section) in sections {
        if let Some(key) = of(section) {
            groups.entry(key).or_default().push((at, section));
        }
    }
    groups
}

fn in_order(left: &[Placed], right: &[Placed]) -> Pairs {
    let pairs = left.iter().zip(right);
    pairs
        .map(|((left, _), (right, _))| (*left, *right))
        .collect()
}

fn first(left: &[Placed], right: &[Placed]) -> Pairs {
    in_order(left, right).into_iter().take(1).collect()
}

/// As many as there can be, the most similar first.
fn likest(left: &[Placed], right: &[Placed]) -> Pairs {
    best_first(left, right, 0.0).unwrap_or_else(|| in_order(left, right))
}

/// Those with half of their options in common, the most similar first.
fn alike(left: &[Placed], right: &[Placed]) -> Pairs {
    best_first(left, right, 0.5).unwrap_or_default()
}

/// `None` if these are too many to compare.
fn best_first(left: &[Placed], right: &[Placed], least: f64) -> Option<Pairs> {
    if left.len().saturating_mul(right.len()) > MAX_COMPARED {
        return None;
    }
    let lefts: Vec<_> = left.iter().map(|(_, section)| meaning(section)).collect();
    let rights: Vec<_> = right.iter().map(|(_, section)| meaning(section)).collect();
    let mut ranked = Vec::new();
    for ((l, _), one) in left.iter().zip(&lefts) {
        for ((r, _), other) in right.iter().zip(&rights) {
            let similarity = similarity(one, other);
            if similarity >= least {
                ranked.push((similarity, *l, *r));
            }
        }
    }
    // Stable: those that are equally similar stay in their order.
    ranked.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    let (mut lefts, mut rights) = (HashSet::new(), HashSet::new());
    ranked.retain(|(_, l, r)| {
        let free = !lefts.contains(l) && !rights.contains(r);
        if free {
            lefts.insert(*l);
            rights.insert(*r);
        }
        free
    });
    Some(ranked.into_iter().map(|(_, l, r)| (l, r)).collect())
}

/// The share of options that are the same in both: from 0 to 1.
fn similarity(one: &Meaning, other: &Meaning) -> f64 {
    let (small, large) = if one.len() < other.len() {
        (one, other)
    } else {
        (other, one)
    };
    let common = small.iter().filter(|o| large.binary_search(o).is_ok());
    let all = one.len() + other.len();
    2.0 * common.count() as f64 / all.max(1) as f64
}

/// The options of a section in one order, whatever order they were written in: name, whether it is
/// a list, items.
type Meaning<'a> = Vec<(&'a [u8], bool, &'a [Vec<u8>])>;

fn meaning(section: &Section) -> Meaning<'_> {
    let mut meaning: Meaning = section
        .options
        .iter()
        .filter(|option| !option.value.is_absent())
        .map(|option| match &option.value {
            Value::One(text) => (&*option.name, false, slice::from_ref(text)),
            Value::List(items) => (&*option.name, true, &**items),
        })
        .collect();
    meaning.sort_unstable();
    meaning
}

/// A value as part of a key: `option mac 'a b'` means the same as a list of both.
fn words(value: &Value) -> Vec<u8> {
    match value {
        Value::One(text) => text.clone(),
        Value::List(items) => items.join(&b' '),
    }
}
