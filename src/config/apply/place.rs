//! Entries of a living root, replaced one at a time, each durably.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::apply::stage::{begin, copy, set_owner};
use crate::config::tree::{self, Content, Entry, Kind, Meta};
use crate::config::{ConfigError, EntryPath};
use crate::files;

/// Makes `path` below `root` the `entry` whose content stands at the same path below `from`.
///
/// A file or link is replaced in one step. Only where a directory has to give way to it, or the
/// other way round, there is a moment with neither.
pub(in crate::config) fn put(
    root: &Path,
    path: &EntryPath,
    entry: &Entry,
    from: &Path,
) -> Result<(), ConfigError> {
    let place = path.under(root);
    let found = tree::node(root, path)?.map(|node| node.kind);
    let meta = entry.meta;
    if found.is_some_and(|kind| (kind == Some(Kind::Dir)) != (entry.content == Content::Dir)) {
        files::remove_tree(&place)?;
        sync_parent(&place)?;
    }
    match &entry.content {
        Content::Dir => {
            files::make_dir(&place, meta.mode)?;
            set_owner(&place, meta)?;
            files::set_mode(&place, meta.mode)?;
            sync_parent(&place)
        }
        Content::Link { target } => link(&place, target, meta),
        Content::File { .. } => {
            let (mut source, node) = tree::open(from, path)?;
            let mut file = begin(&place, meta)?;
            let from = path.under(from);
            copy(&mut source, &from, &mut file, &place)?;
            file.set_attributes(&files::attributes(&from)?)?;
            file.commit()?;
            Ok(files::set_modified(&place, node.modified)?)
        }
    }
}

/// Makes a link in one step.
pub(in crate::config) fn link(place: &Path, target: &[u8], meta: Meta) -> Result<(), ConfigError> {
    let temporary = files::temporary_beside(place);
    files::remove_tree(&temporary)?;
    files::symlink(Path::new(OsStr::from_bytes(target)), &temporary)?;
    set_owner(&temporary, meta)?;
    files::rename(&temporary, place)?;
    sync_parent(place)
}

/// Removes whatever stands there.
pub(in crate::config) fn remove(root: &Path, path: &EntryPath) -> Result<(), ConfigError> {
    if tree::node(root, path)?.is_none() {
        return Ok(());
    }
    let place = path.under(root);
    files::remove_tree(&place)?;
    sync_parent(&place)
}

fn sync_parent(place: &Path) -> Result<(), ConfigError> {
    let parent: PathBuf = place.parent().map_or(PathBuf::from("/"), Path::to_owned);
    Ok(files::sync_dir(&parent)?)
}
