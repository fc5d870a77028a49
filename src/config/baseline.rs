//! The defaults of the running image, and what the user made of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::bundle::BASELINE;
use super::keep::KeepList;
use super::report::{Notice, NoticeKind};
use super::tree::{self, Content, Entry, Kind, Node};
use super::{ConfigError, EntryPath, STATE_DIR, services};

/// The defaults of the running image: the shipped files, and over them those that the first boot
/// made and that were stored then.
pub(super) struct Baseline {
    store: PathBuf,
    defaults: Option<PathBuf>,
}

impl Baseline {
    pub(super) fn new(root: &Path, defaults: Option<&Path>) -> Self {
        Self {
            store: root.join(BASELINE),
            defaults: defaults
                .filter(|defaults| are_apart(root, defaults))
                .map(Path::to_owned),
        }
    }

    /// True if there is something to compare with.
    pub(super) fn is_known(&self) -> bool {
        self.defaults.is_some() || self.store.is_dir()
    }

    /// Default files and links that a keep list names.
    pub(super) fn named_by(&self, keep: &KeepList) -> Result<BTreeSet<EntryPath>, ConfigError> {
        let mut paths = keep.elsewhere(&self.store)?;
        if let Some(defaults) = &self.defaults {
            paths.extend(keep.elsewhere(defaults)?);
        }
        Ok(paths)
    }

    /// Services that start at boot by default, if that is known. The store has all links or none:
    /// that one of them is gone could not be told otherwise.
    pub(super) fn services(&self) -> Result<Option<BTreeSet<String>>, ConfigError> {
        if let Some(stored) = services::enabled(&self.store)? {
            return Ok(Some(stored));
        }
        match &self.defaults {
            Some(defaults) => Ok(Some(services::enabled(defaults)?.unwrap_or_default())),
            None => Ok(None),
        }
    }

    /// The default of a path: below which root, what it is, and whether it was generated.
    pub(super) fn find(
        &self,
        path: &EntryPath,
    ) -> Result<Option<(&Path, Node, bool)>, ConfigError> {
        let roots = [(Some(&self.store), true), (self.defaults.as_ref(), false)];
        for (root, generated) in roots {
            let Some(root) = root else { continue };
            let Some(node) = tree::node(root, path)? else {
                continue;
            };
            // Directories of the store are only the way to its files.
            let shipped = !(generated && node.kind == Some(Kind::Dir));
            if shipped && node.kind.is_some() {
                return Ok(Some((root, node, generated)));
            }
        }
        Ok(None)
    }
}

/// True if `defaults` holds a tree of its own. If it were the live one (a link or a bind mount),
/// every edit of the user would be its own default, and a new image would be free to drop it.
fn are_apart(root: &Path, defaults: &Path) -> bool {
    let identity = |dir: &Path| {
        let metadata = fs::metadata(dir.join(WATCHED)).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(defaults).is_some_and(|found| Some(found) != identity(root))
}

/// True if the default of a path, which is `node`, is this entry, permissions and owner included.
/// Bytes are read only where nothing else differs.
pub(super) fn is_same(
    root: &Path,
    path: &EntryPath,
    node: &Node,
    entry: &Entry,
) -> Result<bool, ConfigError> {
    let alike = node.kind == Some(entry.content.kind())
        && node.meta == entry.meta
        && match entry.content {
            Content::File { size, .. } => node.size == size,
            _ => true,
        };
    Ok(alike && tree::entry(root, path)?.as_ref() == Some(entry))
}

/// Changed files under this directory are worth a word when they are not kept.
const WATCHED: &str = "etc";

/// Made by the system itself, anew at each boot or by the installation of packages.
const NOT_THE_USERS: [&str; 8] = [
    "etc/apk/repositories.d/distfeeds.list",
    "etc/apk/world",
    "etc/board.json",
    "etc/luci-uploads/.placeholder",
    "etc/rc.d",
    "etc/uci-defaults",
    "etc/urandom.seed",
    STATE_DIR,
];

/// Ends of names that package managers give to defaults which they did not install.
const NOT_INSTALLED: [&[u8]; 2] = [b"-opkg", b".apk-new"];

/// So many are named; a longer list would not be read.
const MOST_NAMED: usize = 200;

/// What was added or changed under `/etc` and is not kept: a keep list with a hole in it loses
/// nothing in silence. Nothing where the defaults are not known.
///
/// # Errors
/// When a file cannot be read.
pub fn left_behind(
    root: &Path,
    keep: &KeepList,
    defaults: Option<&Path>,
) -> Result<Vec<Notice>, ConfigError> {
    let baseline = Baseline::new(root, defaults);
    if baseline.defaults.is_none() {
        return Ok(Vec::new());
    }
    let mut left = Vec::new();
    let mut more = 0_u64;
    for path in tree::walk(&root.join(WATCHED))? {
        let Ok(path) = EntryPath::new(&[WATCHED.as_bytes(), b"/", path.as_bytes()].concat()) else {
            continue;
        };
        let systems = NOT_THE_USERS.iter().any(|dir| path.is_within(dir))
            || NOT_INSTALLED
                .iter()
                .any(|end| path.as_bytes().ends_with(end));
        if systems || keep.contains(&path) || !is_changed(root, &baseline, &path)? {
            continue;
        }
        if left.len() < MOST_NAMED {
            left.push(Notice::new(NoticeKind::NotKept, &path));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        left.push(Notice::new(NoticeKind::NotKept, format!("{more} more")));
    }
    Ok(left)
}

/// True for a file or link that is not as shipped; permissions do not count.
fn is_changed(root: &Path, baseline: &Baseline, path: &EntryPath) -> Result<bool, ConfigError> {
    let Some(node) = tree::node(root, path)? else {
        return Ok(false);
    };
    if !matches!(node.kind, Some(Kind::File | Kind::Link)) {
        return Ok(false);
    }
    let Some((shipped_root, shipped, _)) = baseline.find(path)? else {
        return Ok(true);
    };
    if (shipped.kind, shipped.size) != (node.kind, node.size) {
        return Ok(true);
    }
    let content = |root| Ok::<_, ConfigError>(tree::entry(root, path)?.map(|entry| entry.content));
    Ok(content(root)? != content(shipped_root)?)
}
