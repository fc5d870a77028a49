//! The store of generated defaults.
//!
//! Part of a router's defaults is in no image: its first boot makes them, from what it finds of the
//! hardware. Without a copy, nobody can tell at the next upgrade what of them the user changed. So
//! at the end of a first boot, before anybody could change anything, what differs from the shipped
//! files is stored:
//!
//! ```text
//! etc/sysupgrade/                  0700
//!     .baseline.new/               under construction; a leftover of a power cut is removed
//!     baseline/etc/...             files and links with their own permissions and owner
//!     baseline/etc/rc.d/...        all links or none: see `Baseline::services`
//! ```
//!
//! Not stored is what the policy keeps (keys of this very device, of which a copy would be one too
//! many), replaces or drops: no default of it is ever asked for. A shipped file that the first boot
//! deleted cannot be told from one that the user deleted.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Baseline;
use crate::config::apply::reports;
use crate::config::apply::stage;
use crate::config::carry::bundle::BASELINE;
use crate::config::carry::scope::{self, ETC, is_leaf, is_users};
use crate::config::carry::services;
use crate::config::carry::walk::Walk;
use crate::config::merge::policy::{Disposition, Policy};
use crate::config::tree::{self, Kind, Node};
use crate::config::{ConfigError, EntryPath, MAX_ENTRIES, STATE_DIR};
use crate::files::{self, NewFile};

/// The most bytes of a store. Generated files are some 20 KiB; the store lies on the flash beside
/// them, so that a first boot that makes megabytes is better told than doubled.
const MAX_STORE: u64 = 4 << 20;

/// The directories of a store lead to its files and are nobody's default.
const STORE_DIR: u32 = 0o700;

/// What became of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was made.
    Now {
        /// Files and links in it.
        entries: u64,
        /// Bytes of the files.
        bytes: u64,
    },
    /// There is one; it was left alone.
    AlreadyThere,
    /// This system took its configuration over from another one: what it has is no default.
    NotFresh,
    /// Nobody knows what was shipped: everything would seem generated.
    NoDefaults,
}

/// Stores what the first boot of the system at `root` has made. To be called once, at the end of a
/// boot that began without configuration.
///
/// # Errors
/// When something cannot be read or written, or more than 4 MiB were generated. Whether it fails or
/// power goes: there is the whole store or none.
pub fn store(root: &Path, defaults: Option<&Path>) -> Result<Stored, ConfigError> {
    let place = root.join(BASELINE);
    if files::exists(&place) {
        return Ok(Stored::AlreadyThere);
    }
    // Any report will do, one of another version of this program, too.
    if reports::next(root)? > 1 {
        return Ok(Stored::NotFresh);
    }
    let baseline = Baseline::new(root, defaults);
    if !baseline.knows_what_is_shipped() {
        return Ok(Stored::NoDefaults);
    }
    let state = root.join(STATE_DIR);
    files::make_dirs(&state, STORE_DIR)?;
    let fresh = files::temporary_beside(&place);
    files::remove_tree(&fresh)?;
    let generated = Generated::find(root, &baseline)?;
    if let Err(error) = generated.copy(root, &fresh) {
        // What was built half only fills the medium.
        if let Err(error) = files::remove_tree(&fresh) {
            log::debug!("{error}: {}", error.source);
        }
        return Err(error);
    }
    files::sync_tree(&fresh)?;
    files::rename(&fresh, &place)?;
    files::sync_dir(&state)?;
    Ok(Stored::Now {
        entries: generated.entries.len() as u64,
        bytes: generated.bytes,
    })
}

/// What the first boot has made.
#[derive(Default)]
struct Generated {
    entries: Vec<(EntryPath, Node)>,
    bytes: u64,
    /// It has changed which services start.
    services: bool,
}

impl Generated {
    fn find(root: &Path, baseline: &Baseline) -> Result<Self, ConfigError> {
        let (policy, _) = scope::policy(root)?;
        let enabled = services::enabled(root)?;
        let mut generated = Self {
            services: enabled.is_some() && enabled != baseline.services()?,
            ..Self::default()
        };
        let mut walk = Walk::new(root, ETC);
        while let Some((path, node)) = walk.next()? {
            if is_leaf(Some(node)) && generated.takes(root, baseline, &policy, &path, &node)? {
                generated.insert(path, node)?;
            }
        }
        Ok(generated)
    }

    fn takes(
        &self,
        root: &Path,
        baseline: &Baseline,
        policy: &Policy,
        path: &EntryPath,
        node: &Node,
    ) -> Result<bool, ConfigError> {
        if services::is_link(path, node.kind) {
            return Ok(self.services);
        }
        let asked_for = policy.of(path).disposition == Disposition::Auto;
        Ok(asked_for && is_users(path, node) && !baseline.has(root, path, node)?)
    }

    fn insert(&mut self, path: EntryPath, node: Node) -> Result<(), ConfigError> {
        if node.kind == Some(Kind::File) {
            self.bytes = self.bytes.saturating_add(node.size);
        }
        self.entries.push((path, node));
        if self.bytes > MAX_STORE {
            return Err(ConfigError::TooMuch {
                what: "size of the generated defaults in bytes",
                most: MAX_STORE,
            });
        }
        if self.entries.len() > MAX_ENTRIES {
            return Err(ConfigError::TooMuch {
                what: "number of generated defaults",
                most: MAX_ENTRIES as u64,
            });
        }
        Ok(())
    }

    fn copy(&self, root: &Path, to: &Path) -> Result<(), ConfigError> {
        files::make_dir(to, STORE_DIR)?;
        let links = EntryPath::new(services::LINKS.as_bytes()).ok();
        // That no service starts is told by a directory without links.
        if let Some(links) = links.filter(|_| self.services) {
            make_parents(to, &links)?;
            files::make_dir(&links.under(to), STORE_DIR)?;
        }
        for (path, node) in &self.entries {
            make_parents(to, path)?;
            copy_entry(root, path, node, to)?;
        }
        Ok(())
    }
}

fn make_parents(to: &Path, path: &EntryPath) -> files::Result<()> {
    path.ancestors()
        .try_for_each(|dir| files::make_dir(&dir.under(to), STORE_DIR))
}

fn copy_entry(root: &Path, path: &EntryPath, node: &Node, to: &Path) -> Result<(), ConfigError> {
    let place = path.under(to);
    if node.kind == Some(Kind::Link) {
        let target = tree::read_link(root, path)?;
        files::symlink(Path::new(OsStr::from_bytes(&target)), &place)?;
        return stage::set_owner(&place, node.meta);
    }
    let from = path.under(root);
    let (file, node) = tree::open(root, path)?;
    let mut new = NewFile::create_directly(&place, node.meta.mode)?;
    // What grows meanwhile was measured before.
    stage::copy(&mut file.take(node.size), &from, &mut new, &place)?;
    new.place()?;
    stage::set_owner(&place, node.meta)?;
    if node.meta.mode & 0o6000 != 0 {
        files::set_mode(&place, node.meta.mode)?; // a change of owner has cleared the set-id bits
    }
    Ok(files::set_modified(&place, node.modified)?)
}
