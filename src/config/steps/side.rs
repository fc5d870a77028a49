//! One of the two trees while steps work on it.

use std::collections::BTreeSet;

use super::lines::Lines;
use crate::config::path::EntryPath;
use crate::config::tree::{Content, Meta, Tree};
use crate::config::uci::{MAX_TEXT, Package};
use crate::files;

/// A tree, and what a step did to it.
#[derive(Debug)]
pub(super) struct Side<'a> {
    pub(super) tree: &'a mut Tree,
    /// Places that were changed: `PATH`, `PATH#SECTION` or `PATH#SECTION.OPTION`.
    pub(super) touched: BTreeSet<String>,
    /// Files that were left alone: packages that cannot be read, and files that are too long.
    pub(super) skipped: BTreeSet<EntryPath>,
    /// Files of which something could not be kept for the way back.
    pub(super) lost: BTreeSet<EntryPath>,
}

impl<'a> Side<'a> {
    pub(super) fn new(tree: &'a mut Tree) -> Self {
        Self {
            tree,
            touched: BTreeSet::new(),
            skipped: BTreeSet::new(),
            lost: BTreeSet::new(),
        }
    }

    /// Says that a place was changed.
    pub(super) fn touch(&mut self, path: &EntryPath, locus: &str) {
        let hash = if locus.is_empty() { "" } else { "#" };
        self.touched.insert(format!("{path}{hash}{locus}"));
    }

    /// The package at a path. A file that is not one is the user's business: the step leaves it
    /// alone and says so, and the merge does not touch it either.
    pub(super) fn package(&mut self, path: &EntryPath) -> files::Result<Option<Package>> {
        let text = self.text(path)?;
        let package = text.map(|text| Package::parse(&text));
        if let Some(Err(_)) = package {
            self.skipped.insert(path.clone());
        }
        Ok(package.and_then(Result::ok))
    }

    pub(super) fn put_package(&mut self, path: &EntryPath, package: &Package, otherwise: Meta) {
        self.tree.put(path, &package.print(), otherwise);
    }

    /// The lines of the file at a path.
    pub(super) fn lines(&mut self, path: &EntryPath) -> files::Result<Option<Lines>> {
        Ok(self.text(path)?.map(|text| Lines::parse(&text)))
    }

    fn text(&mut self, path: &EntryPath) -> files::Result<Option<Vec<u8>>> {
        let text = self.tree.bytes(path, MAX_TEXT as u64)?;
        if text.is_none() && self.is_file(path) {
            self.skipped.insert(path.clone());
        }
        Ok(text)
    }

    pub(super) fn is_file(&self, path: &EntryPath) -> bool {
        let entry = self.tree.get(path);
        entry.is_some_and(|entry| matches!(entry.content, Content::File { .. }))
    }
}

/// What a tree has at these paths; not what is below them.
pub(super) fn excerpt(tree: &Tree, paths: &[&EntryPath]) -> Tree {
    let mut excerpt = Tree::default();
    for path in paths {
        if let Some(entry) = tree.get(path) {
            excerpt.take(path, tree, path, entry.meta);
        }
    }
    excerpt
}

/// True if two trees mean the same at these paths. Permissions are not compared: `uci commit`
/// changes them.
pub(super) fn same(a: &Tree, b: &Tree, paths: &[&EntryPath]) -> files::Result<bool> {
    for path in paths {
        let same = match (a.get(path), b.get(path)) {
            (None, None) => true,
            (Some(one), Some(other)) if one.content == other.content => true,
            (Some(_), Some(_)) => match (package(a, path)?, package(b, path)?) {
                (Some(a), Some(b)) => a == b && a.comments() == b.comments(),
                _ => false,
            },
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn package(tree: &Tree, path: &EntryPath) -> files::Result<Option<Package>> {
    if !path.is_within("etc/config") {
        return Ok(None);
    }
    let text = tree.bytes(path, MAX_TEXT as u64)?;
    Ok(text.and_then(|text| Package::parse(&text).ok()))
}
