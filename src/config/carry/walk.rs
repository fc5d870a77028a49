//! Every path below a directory, depth first and sorted, without ever following a link.
//!
//! Holds the names of the directories that lead to where it is, not those of the whole tree, and
//! does not recurse: how deep and how large a tree is, its user decides.

use std::path::Path;

use crate::config::path::escape;
use crate::config::report::{Notice, NoticeKind};
use crate::config::tree::{self, Kind, Node};
use crate::config::{ConfigError, EntryPath};
use crate::files;

/// A walk through a directory of a tree.
pub(in crate::config) struct Walk<'a> {
    root: &'a Path,
    pending: Vec<EntryPath>,
    /// What it could not enter.
    pub(in crate::config) too_deep: Vec<Notice>,
}

impl<'a> Walk<'a> {
    pub(in crate::config) fn new(root: &'a Path, dir: &str) -> Self {
        Self {
            root,
            pending: EntryPath::new(dir.as_bytes()).into_iter().collect(),
            too_deep: Vec::new(),
        }
    }

    /// The directory itself comes first.
    pub(in crate::config) fn next(&mut self) -> Result<Option<(EntryPath, Node)>, ConfigError> {
        while let Some(path) = self.pending.pop() {
            let Some(node) = tree::node(self.root, &path)? else {
                continue;
            };
            if node.kind == Some(Kind::Dir) {
                for name in files::list(&path.under(self.root))?.into_iter().rev() {
                    match path.join(&name) {
                        Ok(path) => self.pending.push(path),
                        Err(_) => {
                            let name = format!("{path}/{}", escape(name.as_encoded_bytes()));
                            self.too_deep.push(Notice::new(NoticeKind::TooDeep, name));
                        }
                    }
                }
            }
            return Ok(Some((path, node)));
        }
        Ok(None)
    }
}
