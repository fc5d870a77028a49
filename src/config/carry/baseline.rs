//! The defaults of the running image, and what the user made of them.
//!
//! They are two trees, one over the other:
//!
//! ```text
//! /etc/sysupgrade/baseline   what the first boot made: stored once, at its end
//! the read-only root         what was shipped, where systems keep it:
//!     /rom                       OpenWrt: the lower layer
//!     /usr/share/factory         systemd, imgbased: copies of /etc as it was shipped
//!     /usr                       ostree: /usr/etc is the etc of the image
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::carry::bundle::BASELINE;
use crate::config::carry::keep::KeepList;
use crate::config::carry::services;
use crate::config::tree::{self, Content, Entry, Kind, Node};
use crate::config::{ConfigError, EntryPath};
use crate::files;

mod store;

pub use store::{Stored, store};

/// The defaults of the running image: the shipped files, and over them those that the first boot
/// made and that were stored then.
pub(in crate::config) struct Baseline {
    store: PathBuf,
    defaults: Option<PathBuf>,
}

impl Baseline {
    pub(in crate::config) fn new(root: &Path, defaults: Option<&Path>) -> Self {
        Self {
            store: root.join(BASELINE),
            defaults: defaults
                .filter(|defaults| are_apart(root, defaults))
                .map(Path::to_owned),
        }
    }

    /// True if there is something to compare with.
    pub(in crate::config) fn is_known(&self) -> bool {
        self.defaults.is_some() || self.store.is_dir()
    }

    /// Default files and links that a keep list names.
    pub(in crate::config) fn named_by(
        &self,
        keep: &KeepList,
    ) -> Result<BTreeSet<EntryPath>, ConfigError> {
        let mut paths = keep.elsewhere(&self.store)?;
        if let Some(defaults) = &self.defaults {
            paths.extend(keep.elsewhere(defaults)?);
        }
        Ok(paths)
    }

    /// Services that start at boot by default, if that is known. The store has all links or none:
    /// that one of them is gone could not be told otherwise.
    pub(in crate::config) fn services(&self) -> Result<Option<BTreeSet<String>>, ConfigError> {
        if let Some(stored) = services::enabled(&self.store)? {
            return Ok(Some(stored));
        }
        match &self.defaults {
            Some(defaults) => Ok(Some(services::enabled(defaults)?.unwrap_or_default())),
            None => Ok(None),
        }
    }

    /// True if what is not found was not shipped. The store alone does not say that.
    pub(in crate::config) fn knows_what_is_shipped(&self) -> bool {
        self.defaults.is_some()
    }

    /// The trees that it is made of.
    pub(in crate::config) fn roots(&self) -> impl Iterator<Item = &Path> {
        let defaults = self.defaults.as_deref();
        [Some(&*self.store), defaults].into_iter().flatten()
    }

    /// The default of a path.
    pub(in crate::config) fn find(
        &self,
        path: &EntryPath,
    ) -> Result<Option<DefaultEntry<'_>>, ConfigError> {
        let roots = [(Some(&self.store), true), (self.defaults.as_ref(), false)];
        for (root, generated) in roots {
            let Some(root) = root else { continue };
            let Some(node) = tree::node(root, path)? else {
                continue;
            };
            // Directories of the store are only the way to its files.
            let shipped = !(generated && node.kind == Some(Kind::Dir));
            if shipped && node.kind.is_some() {
                return Ok(Some(DefaultEntry {
                    root,
                    node,
                    generated,
                }));
            }
        }
        Ok(None)
    }

    /// True if what stands at `path` below `root`, which is `node`, is its default, permissions and
    /// owner included.
    pub(in crate::config) fn has(
        &self,
        root: &Path,
        path: &EntryPath,
        node: &Node,
    ) -> Result<bool, ConfigError> {
        match self.find(path)? {
            Some(default) if default.node.meta == node.meta => {
                Ok(default.has_content(root, path, node)?)
            }
            _ => Ok(false),
        }
    }

    /// [`has`](Self::has), but for permissions and owner.
    pub(in crate::config) fn has_content(
        &self,
        root: &Path,
        path: &EntryPath,
        node: &Node,
    ) -> Result<bool, ConfigError> {
        match self.find(path)? {
            Some(default) => Ok(default.has_content(root, path, node)?),
            None => Ok(false),
        }
    }
}

/// The default of a path.
pub(in crate::config) struct DefaultEntry<'a> {
    /// The tree in which it stands at that path.
    pub root: &'a Path,
    pub node: Node,
    /// It was made by the first boot; no image ships it.
    pub generated: bool,
}

impl DefaultEntry<'_> {
    /// Bytes are read only where nothing else differs.
    fn has_content(&self, root: &Path, path: &EntryPath, node: &Node) -> files::Result<bool> {
        let alike = self.node.kind == node.kind
            && (node.kind == Some(Kind::Dir) || self.node.size == node.size);
        let content = |root| Ok(tree::entry(root, path)?.map(|entry| entry.content));
        Ok(alike && content(root)? == content(self.root)?)
    }

    /// True if it is this entry of the same path, permissions and owner included.
    pub(in crate::config) fn is(
        &self,
        path: &EntryPath,
        entry: &Entry,
    ) -> Result<bool, ConfigError> {
        let alike = self.node.kind == Some(entry.content.kind())
            && self.node.meta == entry.meta
            && match entry.content {
                Content::File { size, .. } => self.node.size == size,
                _ => true,
            };
        Ok(alike && tree::entry(self.root, path)?.as_ref() == Some(entry))
    }
}

/// Where systems keep their files as they were shipped.
const CANDIDATES: [&str; 3] = ["rom", "usr/share/factory", "usr"];

/// The root of the shipped files of the system at `root`: the first of the usual places that has an
/// `etc` of its own.
#[must_use]
pub fn find_defaults(root: &Path) -> Option<PathBuf> {
    let candidates = CANDIDATES.iter().map(|dir| root.join(dir));
    candidates.into_iter().find(|dir| are_apart(root, dir))
}

/// True if `defaults` holds a tree of its own. If it were the live one (a link or a bind mount),
/// every edit of the user would be its own default, and a new image would be free to drop it.
fn are_apart(root: &Path, defaults: &Path) -> bool {
    let identity = |dir: &Path| {
        let metadata = fs::metadata(dir.join("etc")).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(defaults).is_some_and(|found| Some(found) != identity(root))
}
