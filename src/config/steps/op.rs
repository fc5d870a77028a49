//! What each operation does to a tree, and how it is undone.
//!
//! Forward, an operation keeps in the attic what undoing it would not bring back: undoing is tried
//! on a copy at once, and where the copy differs from what was before, that is kept. So the way back
//! leads to exactly what was there, as long as nobody has changed the place in between; a place that
//! was changed since is undone as far as it tells how, and keeps the change.

use std::collections::{BTreeMap, BTreeSet};

use super::StepError;
use super::definition::{MoveOption, Op};
use super::lines::{LineEdit, Lines, Removed, put_back};
use super::section::{Edit, Seen, Selector, loci, restore};
use super::side::{Side, excerpt, same};
use super::state::{Attic, Kept, Kind, Owner, Text, Was};
use crate::config::path::{EntryPath, escape};
use crate::config::tree::{Content, Meta, Tree};
use crate::config::uci::{Package, Section};
use crate::files;

/// An operation in its place, for one of the trees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn<'a> {
    pub(super) op: &'a Op,
    /// Place in the step.
    pub(super) index: usize,
    pub(super) of: Owner,
}

impl Turn<'_> {
    /// Runs the operation and keeps what is needed for the way back.
    pub(super) fn forward(
        self,
        side: &mut Side<'_>,
        attic: Option<&mut Attic<'_>>,
    ) -> Result<(), StepError> {
        let mut kept = Vec::new();
        match self.op {
            Op::Edit {
                path,
                section,
                edit,
            } => self.edit(side, path, section, edit, &mut kept)?,
            op => {
                let paths = op.paths();
                let before = excerpt(side.tree, &paths);
                let changed = self.apply(side, &mut kept)?;
                // An operation that keeps what it takes away needs nothing more.
                if kept.is_empty() && attic.is_some() {
                    let mut back = excerpt(side.tree, &paths);
                    op.undo(&mut Side::new(&mut back))?;
                    if !same(&back, &before, &paths)? {
                        self.keep_entries(side, &before, changed, &mut kept)?;
                    }
                }
            }
        }
        if let Some(attic) = attic {
            for kept in kept {
                let path = kept.path.clone();
                if !attic.keep(kept) {
                    side.lost.insert(path);
                }
            }
        }
        Ok(())
    }

    fn kept(self, path: &EntryPath, was: Was) -> Kept {
        Kept {
            op: self.index as u64,
            of: self.of,
            path: path.clone(),
            was,
        }
    }

    fn edit(
        self,
        side: &mut Side<'_>,
        path: &EntryPath,
        selector: &Selector,
        edit: &Edit,
        kept: &mut Vec<Kept>,
    ) -> Result<(), StepError> {
        let Some(mut package) = side.package(path)? else {
            return Ok(());
        };
        let see = |package: &Package| -> Vec<Seen> {
            package
                .sections
                .iter()
                .map(|section| edit.see(section))
                .collect()
        };
        let before = see(&package);
        for place in selector.select(&package) {
            if let Some(section) = package.sections.get_mut(place) {
                edit.apply(section);
            }
        }
        let after = see(&package);
        let loci = loci(&package);
        let mut changed = false;
        for ((before, after), locus) in before.iter().zip(&after).zip(&loci) {
            for option in Edit::touched(before, after) {
                changed = true;
                side.touch(path, &format!("{}.{option}", locus.text));
            }
        }
        for place in edit.undo_selector(selector).select(&package) {
            let (Some(section), Some(locus)) = (package.sections.get(place), loci.get(place))
            else {
                continue;
            };
            let (Some(before), Some(after)) = (before.get(place), after.get(place)) else {
                continue;
            };
            let mut back = section.clone();
            edit.undo(&mut back, selector);
            if edit.see(&back) != *before {
                let was = Was::Section {
                    section: locus.text.clone(),
                    among: locus.among,
                    before: (before != after).then(|| stored(before)),
                };
                kept.push(self.kept(path, was));
            }
        }
        if changed {
            side.put_package(path, &package, NOBODY);
        }
        Ok(())
    }

    /// Runs an operation that is no edit of sections; true if it changed something.
    fn apply(self, side: &mut Side<'_>, kept: &mut Vec<Kept>) -> Result<bool, StepError> {
        match self.op {
            Op::DeleteSection { path, section } => {
                let Some(mut package) = side.package(path)? else {
                    return Ok(false);
                };
                let places: BTreeSet<usize> = section.select(&package).into_iter().collect();
                let loci = loci(&package);
                let mut sections = Vec::new();
                for (place, section) in std::mem::take(&mut package.sections)
                    .into_iter()
                    .enumerate()
                {
                    if !places.contains(&place) {
                        sections.push(section);
                        continue;
                    }
                    if let Some(locus) = loci.get(place) {
                        side.touch(path, &locus.text);
                    }
                    let mut alone = Package::default();
                    alone.sections.push(section);
                    let text = Text(alone.print());
                    let place = place as u64;
                    kept.push(self.kept(path, Was::Deleted { place, text }));
                }
                package.sections = sections;
                if !places.is_empty() {
                    side.put_package(path, &package, NOBODY);
                }
                Ok(!places.is_empty())
            }
            Op::Lines { path, edit } => {
                let Some(mut lines) = side.lines(path)? else {
                    return Ok(false);
                };
                let before = lines.clone();
                let removed = edit.apply(&mut lines);
                let mut back = Lines::parse(&lines.print());
                put_back(&mut back, &removed);
                // Of a text without lines one cannot tell whether the last one ended: it is kept whole.
                if back == before {
                    for removed in removed {
                        let was = Was::Line {
                            place: removed.place as u64,
                            after: removed.after.map(Text),
                            line: Text(removed.line),
                        };
                        kept.push(self.kept(path, was));
                    }
                }
                let changed = lines != before;
                if changed {
                    side.tree.put(path, &lines.print(), NOBODY);
                    side.touch(path, "");
                }
                Ok(changed)
            }
            Op::Chmod { path, mode } => {
                let Some(meta) = side.tree.get(path).map(|entry| entry.meta) else {
                    return Ok(false);
                };
                let is_link = side
                    .tree
                    .get(path)
                    .is_some_and(|entry| matches!(entry.content, Content::Link { .. }));
                if is_link || meta.mode == *mode {
                    return Ok(false);
                }
                side.tree.set_meta(
                    path,
                    Meta {
                        mode: *mode,
                        ..meta
                    },
                );
                side.touch(path, "");
                kept.push(self.kept(path, Was::Mode { mode: meta.mode }));
                Ok(true)
            }
            op => op.apply(side),
        }
    }

    /// Keeps what stood at the paths of the operation.
    fn keep_entries(
        self,
        side: &mut Side<'_>,
        before: &Tree,
        changed: bool,
        kept: &mut Vec<Kept>,
    ) -> Result<(), StepError> {
        for path in self.op.paths() {
            if !changed {
                kept.push(self.kept(path, Was::Done));
                return Ok(());
            }
            let entry = before.get(path).cloned();
            let bytes = match entry.as_ref().map(|entry| &entry.content) {
                Some(Content::File { .. }) => {
                    let Some(bytes) = before.bytes(path, MAX_KEPT)? else {
                        side.lost.insert(path.clone());
                        kept.clear();
                        return Ok(());
                    };
                    Some(Text(bytes))
                }
                _ => None,
            };
            kept.push(self.kept(path, Was::Entry { entry, bytes }));
        }
        Ok(())
    }

    /// Undoes the operation with what was kept of it.
    pub(super) fn backward(self, side: &mut Side<'_>, attic: &[Kept]) -> Result<(), StepError> {
        let mine = |kept: &&Kept| kept.op == self.index as u64 && kept.of == self.of;
        let kept: Vec<&Kept> = attic.iter().filter(mine).collect();
        match self.op {
            Op::Edit {
                path,
                section,
                edit,
            } => undo_edit(side, path, section, edit, &kept),
            Op::DeleteSection { path, .. } => put_back_sections(side, path, &kept),
            Op::Lines {
                path,
                edit: LineEdit::Delete { .. },
            } if kept.iter().any(|kept| matches!(kept.was, Was::Line { .. })) => {
                put_back_lines(side, path, &kept)
            }
            Op::Chmod { path, mode } => {
                let was = kept.iter().find_map(|kept| match kept.was {
                    Was::Mode { mode } => Some(mode),
                    _ => None,
                });
                let meta = side.tree.get(path).map(|entry| entry.meta);
                if let (Some(was), Some(meta)) = (was, meta)
                    && meta.mode == *mode
                {
                    side.tree.set_meta(path, Meta { mode: was, ..meta });
                    side.touch(path, "");
                }
                Ok(())
            }
            op => {
                if kept.iter().any(|kept| kept.was == Was::Done) {
                    return Ok(());
                }
                if kept.is_empty() || !put_back_entries(side, op, &kept)? {
                    op.undo(side)?;
                }
                Ok(())
            }
        }
    }
}

/// The largest file that is kept whole.
const MAX_KEPT: u64 = 64 << 10;

/// For files that are written where one was before, whose permissions then stay.
const NOBODY: Meta = Meta {
    mode: 0o600,
    uid: 0,
    gid: 0,
};

fn stored(seen: &Seen) -> BTreeMap<Text, Option<Kind>> {
    let store = |(name, value): (&Vec<u8>, &Option<_>)| {
        (Text(name.clone()), value.as_ref().map(Kind::from))
    };
    seen.iter().map(store).collect()
}

/// A place from a state: what no memory can hold is past every end.
fn place_of(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn undo_edit(
    side: &mut Side<'_>,
    path: &EntryPath,
    selector: &Selector,
    edit: &Edit,
    kept: &[&Kept],
) -> Result<(), StepError> {
    let Some(mut package) = side.package(path)? else {
        return Ok(());
    };
    let mut sections = BTreeMap::new();
    for kept in kept {
        if let Was::Section {
            section,
            among,
            before,
        } = &kept.was
        {
            sections.insert(section.as_str(), (*among, before));
        }
    }
    let loci = loci(&package);
    let mut touched = Vec::new();
    for place in edit.undo_selector(selector).select(&package) {
        let (Some(section), Some(locus)) = (package.sections.get_mut(place), loci.get(place))
        else {
            continue;
        };
        let known = sections.get(locus.text.as_str());
        // A place among another number of sections may be that of another one.
        let known = known.filter(|(among, _)| among.is_none() || *among == locus.among);
        let now = edit.see(section);
        match known {
            Some((_, None)) => {}
            Some((_, Some(before))) => {
                let mut was = edit.see(&Section::new(&section.kind, None));
                let value = |value: &Option<Kind>| value.as_ref().map(Into::into);
                was.extend(before.iter().map(|(name, v)| (name.0.clone(), value(v))));
                // Only what is still as the operation left it.
                if edit.applied_to(&was) == now {
                    restore(section, &was);
                } else {
                    edit.undo(section, selector);
                }
            }
            None => edit.undo(section, selector),
        }
        for option in Edit::touched(&now, &edit.see(section)) {
            touched.push(format!("{}.{option}", locus.text));
        }
    }
    if !touched.is_empty() {
        side.put_package(path, &package, NOBODY);
    }
    for locus in touched {
        side.touch(path, &locus);
    }
    Ok(())
}

fn put_back_sections(
    side: &mut Side<'_>,
    path: &EntryPath,
    kept: &[&Kept],
) -> Result<(), StepError> {
    let mut gone: BTreeMap<usize, Section> = BTreeMap::new();
    for kept in kept {
        if let Was::Deleted { place, text } = &kept.was {
            let parsed = Package::parse(&text.0).ok();
            let section = parsed.and_then(|package| package.sections.into_iter().next());
            gone.extend(section.map(|section| (place_of(*place), section)));
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    let Some(mut package) = side.package(path)? else {
        return Ok(());
    };
    let taken: BTreeSet<Vec<u8>> = package
        .sections
        .iter()
        .filter_map(|section| section.name.clone())
        .collect();
    gone.retain(|_, section| {
        section
            .name
            .as_ref()
            .is_none_or(|name| !taken.contains(name))
    });
    let mut present = std::mem::take(&mut package.sections).into_iter();
    let mut places = Vec::new();
    for (place, section) in gone {
        let missing = place.saturating_sub(package.sections.len());
        package.sections.extend(present.by_ref().take(missing));
        places.push(package.sections.len());
        package.sections.push(section);
    }
    package.sections.extend(present);
    let loci = loci(&package);
    for locus in places.into_iter().filter_map(|place| loci.get(place)) {
        side.touch(path, &locus.text);
    }
    side.put_package(path, &package, NOBODY);
    Ok(())
}

fn put_back_lines(side: &mut Side<'_>, path: &EntryPath, kept: &[&Kept]) -> Result<(), StepError> {
    let line = |kept: &&Kept| match &kept.was {
        Was::Line { place, after, line } => Some(Removed {
            place: place_of(*place),
            after: after.as_ref().map(|after| after.0.clone()),
            line: line.0.clone(),
        }),
        _ => None,
    };
    let removed: Vec<Removed> = kept.iter().filter_map(line).collect();
    if removed.is_empty() {
        return Ok(());
    }
    if let Some(mut lines) = side.lines(path)? {
        put_back(&mut lines, &removed);
        side.tree.put(path, &lines.print(), NOBODY);
        side.touch(path, "");
    }
    Ok(())
}

/// Puts back what stood at the paths of an operation, if what is there now is what it made of that;
/// false if not.
fn put_back_entries(side: &mut Side<'_>, op: &Op, kept: &[&Kept]) -> Result<bool, StepError> {
    let paths = op.paths();
    let mut before = Tree::default();
    for kept in kept {
        if let Was::Entry {
            entry: Some(entry),
            bytes,
        } = &kept.was
        {
            match (&entry.content, bytes) {
                (Content::File { .. }, Some(bytes)) => {
                    before.put(&kept.path, &bytes.0, entry.meta);
                }
                (Content::File { .. }, None) => return Ok(false),
                _ => before.insert(kept.path.clone(), entry.clone(), "".as_ref(), 0),
            }
        }
    }
    let mut after = before.clone();
    op.apply(&mut Side::new(&mut after))?;
    if !same(&after, &excerpt(side.tree, &paths), &paths)? {
        return Ok(false);
    }
    for path in paths {
        if before.get(path).map(|entry| &entry.content)
            == side.tree.get(path).map(|entry| &entry.content)
        {
            continue;
        }
        side.tree.remove(path);
        if let Some(entry) = before.get(path) {
            side.tree.take(path, &before, path, entry.meta);
        }
        side.touch(path, "");
    }
    Ok(true)
}

impl Op {
    /// The paths that it looks at.
    pub(super) fn paths(&self) -> Vec<&EntryPath> {
        match self {
            Self::Edit { path, .. }
            | Self::NameSection { path, .. }
            | Self::RenameSection { path, .. }
            | Self::DeleteSection { path, .. }
            | Self::Builtin { path, .. }
            | Self::Lines { path, .. }
            | Self::DeleteFile { path }
            | Self::Chmod { path, .. }
            | Self::Fingerprint { path, .. } => vec![path],
            Self::MoveOption(MoveOption { path, to_path, .. }) if path == to_path => vec![path],
            Self::MoveOption(MoveOption { path, to_path, .. }) => vec![path, to_path],
            Self::MoveFile { from, to } => vec![from, to],
        }
    }

    /// Does what only needs the tree; true if that changed something.
    fn apply(&self, side: &mut Side<'_>) -> Result<bool, StepError> {
        Ok(match self {
            Self::NameSection {
                path,
                section,
                name,
            } => change(side, path, |package| {
                let selected = section.select(package);
                let first = selected.into_iter().find_map(|place| {
                    let section = package.sections.get(place)?;
                    section.name.is_none().then_some(place)
                });
                if package.named(name).is_some() {
                    return Vec::new();
                }
                let first = first.and_then(|place| package.sections.get_mut(place));
                first.map_or_else(Vec::new, |section| {
                    section.name = Some(name.clone());
                    vec![escape(name)]
                })
            })?,
            Self::RenameSection { path, from, to } => rename_section(side, path, from, to)?,
            Self::Builtin { path, builtin } => {
                change(side, path, |package| builtin.apply(package))?
            }
            Self::MoveOption(op) => op.apply(side)?,
            Self::MoveFile { from, to } => move_entry(side, from, to),
            Self::DeleteFile { path } => {
                let Some(entry) = side.tree.get(path) else {
                    return Ok(false);
                };
                if entry.content == Content::Dir {
                    return Ok(false);
                }
                side.tree.remove(path);
                side.touch(path, "");
                true
            }
            Self::Lines { path, edit } => {
                let Some(mut lines) = side.lines(path)? else {
                    return Ok(false);
                };
                let before = lines.clone();
                edit.apply(&mut lines);
                if lines != before {
                    side.tree.put(path, &lines.print(), NOBODY);
                    side.touch(path, "");
                }
                lines != before
            }
            // Done by those who know what must be kept, or both trees.
            Self::Edit { .. }
            | Self::DeleteSection { .. }
            | Self::Chmod { .. }
            | Self::Fingerprint { .. } => false,
        })
    }

    /// Undoes it as far as the tree tells how.
    fn undo(&self, side: &mut Side<'_>) -> Result<(), StepError> {
        match self {
            Self::NameSection {
                path,
                section,
                name,
            } => {
                change(side, path, |package| {
                    let found = package.named_mut(name);
                    let fits = |found: &&mut Section| match section {
                        Selector::Type { kind, .. } => found.kind == *kind,
                        _ => true,
                    };
                    found.filter(fits).map_or_else(Vec::new, |section| {
                        section.name = None;
                        vec![escape(name)]
                    })
                })?;
            }
            Self::RenameSection { path, from, to } => {
                rename_section(side, path, to, from)?;
            }
            Self::Builtin { path, builtin } => {
                change(side, path, |package| {
                    let before = package.clone();
                    builtin.undo(package);
                    let changed = *package != before;
                    changed.then(String::new).into_iter().collect()
                })?;
            }
            Self::MoveOption(op) => op.undo(side)?,
            Self::MoveFile { from, to } => {
                move_entry(side, to, from);
            }
            Self::Lines { path, edit } => {
                if let Some(mut lines) = side.lines(path)? {
                    let before = lines.clone();
                    edit.undo(&mut lines);
                    if lines != before {
                        side.tree.put(path, &lines.print(), NOBODY);
                        side.touch(path, "");
                    }
                }
            }
            Self::Edit { .. }
            | Self::DeleteSection { .. }
            | Self::DeleteFile { .. }
            | Self::Chmod { .. }
            | Self::Fingerprint { .. } => {}
        }
        Ok(())
    }
}

/// Changes a package; `f` says what it touched, nothing if it changed nothing.
fn change(
    side: &mut Side<'_>,
    path: &EntryPath,
    f: impl FnOnce(&mut Package) -> Vec<String>,
) -> files::Result<bool> {
    let Some(mut package) = side.package(path)? else {
        return Ok(false);
    };
    let touched = f(&mut package);
    for locus in &touched {
        side.touch(path, locus);
    }
    if !touched.is_empty() {
        side.put_package(path, &package, NOBODY);
    }
    Ok(!touched.is_empty())
}

fn rename_section(
    side: &mut Side<'_>,
    path: &EntryPath,
    from: &[u8],
    to: &[u8],
) -> files::Result<bool> {
    change(side, path, |package| {
        if package.named(to).is_some() {
            return Vec::new();
        }
        package.named_mut(from).map_or_else(Vec::new, |section| {
            section.name = Some(to.to_vec());
            vec![escape(to)]
        })
    })
}

/// Moves a file or a link to a path where nothing is.
fn move_entry(side: &mut Side<'_>, from: &EntryPath, to: &EntryPath) -> bool {
    let Some(entry) = side.tree.get(from) else {
        return false;
    };
    if entry.content == Content::Dir || side.tree.get(to).is_some() {
        return false;
    }
    let meta = entry.meta;
    let moved = excerpt(side.tree, &[from]);
    side.tree.take(to, &moved, from, meta);
    side.tree.remove(from);
    side.touch(from, "");
    side.touch(to, "");
    true
}

impl MoveOption {
    fn apply(&self, side: &mut Side<'_>) -> files::Result<bool> {
        let Some(mut source) = side.package(&self.path)? else {
            return Ok(false);
        };
        let Some(mut other) = self.other(side)? else {
            return Ok(false);
        };
        let target = other.as_mut().unwrap_or(&mut source);
        let into = self.to_section.select(target).first().copied();
        let moved: Vec<usize> = self
            .section
            .select(&source)
            .into_iter()
            .filter(|place| other.is_some() || Some(*place) != into)
            .filter(|place| {
                let section = source.sections.get(*place);
                section.is_some_and(|section| section.get(&self.option).is_some())
            })
            .collect();
        if moved.is_empty() || (into.is_none() && self.new_section().is_none()) {
            return Ok(false);
        }
        let loci = loci(&source);
        let mut value = None;
        for place in moved {
            if let Some(section) = source.sections.get_mut(place) {
                let found = section.remove(&self.option);
                value = value.or(found);
            }
            if let Some(locus) = loci.get(place) {
                let option = escape(&self.option);
                side.touch(&self.path, &format!("{}.{option}", locus.text));
            }
        }
        let target = other.as_mut().unwrap_or(&mut source);
        let into = into.unwrap_or_else(|| {
            target.sections.extend(self.new_section());
            target.sections.len() - 1
        });
        if let (Some(section), Some(value)) = (target.sections.get_mut(into), value)
            && section.get(&self.to_option).is_none()
        {
            section.set(&self.to_option, value);
        }
        if let Some(locus) = super::section::loci(target).get(into) {
            let option = escape(&self.to_option);
            side.touch(&self.to_path, &format!("{}.{option}", locus.text));
        }
        self.store(side, &source, other.as_ref());
        Ok(true)
    }

    fn undo(&self, side: &mut Side<'_>) -> files::Result<()> {
        let Some(mut source) = side.package(&self.path)? else {
            return Ok(());
        };
        let Some(mut other) = self.other(side)? else {
            return Ok(());
        };
        let target = other.as_mut().unwrap_or(&mut source);
        let Some(from) = self.to_section.select(target).first().copied() else {
            return Ok(());
        };
        let back_to = self.section.select(&source).into_iter().find(|place| {
            let section = source.sections.get(*place);
            (other.is_some() || *place != from)
                && section.is_some_and(|section| section.get(&self.option).is_none())
        });
        let Some(back_to) = back_to else {
            return Ok(());
        };
        let target = other.as_mut().unwrap_or(&mut source);
        let Some(section) = target.sections.get_mut(from) else {
            return Ok(());
        };
        let Some(value) = section.remove(&self.to_option) else {
            return Ok(());
        };
        let emptied = self.to_type.is_some() && section.options.is_empty();
        if let Some(section) = source.sections.get_mut(back_to) {
            section.set(&self.option, value);
        }
        if emptied {
            let target = other.as_mut().unwrap_or(&mut source);
            target.sections.remove(from);
        }
        side.touch(&self.path, "");
        self.store(side, &source, other.as_ref());
        Ok(())
    }

    /// The package of the target, if that is another one; `None` if it cannot be read.
    fn other(&self, side: &mut Side<'_>) -> files::Result<Option<Option<Package>>> {
        if self.to_path == self.path {
            return Ok(Some(None));
        }
        if side.tree.get(&self.to_path).is_none() {
            return Ok(Some(Some(Package::default())));
        }
        Ok(side.package(&self.to_path)?.map(Some))
    }

    /// The target, to be made where it is absent.
    fn new_section(&self) -> Option<Section> {
        let kind = self.to_type.as_ref()?;
        match &self.to_section {
            Selector::Named(name) => Some(Section::new(kind, Some(name))),
            Selector::Type { kind: wanted, .. } => {
                (wanted == kind).then(|| Section::new(kind, None))
            }
            Selector::All => None,
        }
    }

    fn store(&self, side: &mut Side<'_>, source: &Package, other: Option<&Package>) {
        let meta = side.tree.get(&self.path).map_or(NOBODY, |entry| entry.meta);
        side.put_package(&self.path, source, meta);
        if let Some(other) = other {
            side.put_package(&self.to_path, other, meta);
        }
    }
}
