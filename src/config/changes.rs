//! What the owner of a system made of its defaults.

use std::collections::BTreeSet;
use std::path::Path;

use super::difference::{Difference, Side, between};
use super::merge::policy::{Disposition, Merger, Policy};
use super::tree::{self, Content, Entry, Kind, Tree};
use super::uci::Package;
use super::{ConfigError, EntryPath, STATE_DIR};
use crate::config::carry::baseline::Baseline;
use crate::config::carry::scope;

/// Where changes are looked for, unless somebody asks for other places.
const WATCHED: &str = "etc";

/// The largest file whose meaning is compared, where it has one beside its bytes.
const MAX_COMPARED: u64 = 256 << 10;

/// A path that is not as it was shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Below the root.
    pub path: EntryPath,
    /// What was done to it.
    pub what: What,
    /// Permissions as shipped and as they are, if they differ.
    pub modes: Option<(u32, u32)>,
    /// The content; nothing if it is the same.
    pub difference: Option<Difference>,
}

/// What was done to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// No image has it.
    Added,
    /// It has another content, or other permissions.
    Changed,
    /// It is gone.
    Deleted,
}

impl What {
    /// The word for it, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
        }
    }
}

/// What differs from the defaults, sorted by path: below the given paths or, if there are none,
/// under `/etc`, but for what the policy gives to the image. `None` if the defaults are not known.
///
/// # Errors
/// When a file cannot be read.
pub fn changes(
    root: &Path,
    defaults: Option<&Path>,
    paths: &[&[u8]],
) -> Result<Option<Vec<Change>>, ConfigError> {
    let baseline = Baseline::new(root, defaults);
    if !baseline.knows_what_is_shipped() {
        return Ok(None);
    }
    let (policy, _) = scope::policy(root)?;
    let wanted = paths
        .iter()
        .map(|text| EntryPath::typed(text))
        .collect::<Result<Vec<_>, _>>()?;
    let everything = [EntryPath::typed(WATCHED.as_bytes())?];
    let starts = match &*wanted {
        [] => &everything[..],
        some => some,
    };
    let mut found = BTreeSet::new();
    for start in starts {
        for root in baseline.roots().chain([root]) {
            collect(root, start, &mut found)?;
        }
    }
    let mut changes = Vec::new();
    for path in found {
        let images = matches!(
            policy.of(&path).disposition,
            Disposition::Drop | Disposition::Replace
        );
        let asked_for = !wanted.is_empty();
        if !path.is_within(STATE_DIR)
            && (asked_for || !images)
            && let Some(change) = change(root, &baseline, &policy, path)?
        {
            changes.push(change);
        }
    }
    Ok(Some(changes))
}

/// A path, and all that is below it.
fn collect(
    root: &Path,
    start: &EntryPath,
    found: &mut BTreeSet<EntryPath>,
) -> Result<(), ConfigError> {
    let Some(node) = tree::node(root, start)? else {
        return Ok(());
    };
    found.insert(start.clone());
    if node.kind == Some(Kind::Dir) {
        for below in tree::walk(&start.under(root))? {
            let path = [start.as_bytes(), b"/", below.as_bytes()].concat();
            found.extend(EntryPath::new(&path));
        }
    }
    Ok(())
}

fn change(
    root: &Path,
    baseline: &Baseline,
    policy: &Policy,
    path: EntryPath,
) -> Result<Option<Change>, ConfigError> {
    let (mut old, mut new) = (Tree::default(), Tree::default());
    if let Some(default) = baseline.find(&path)? {
        old.read_entry(default.root, &path)?;
    }
    new.read_entry(root, &path)?;
    let (o, n) = (old.get(&path), new.get(&path));
    let what = match (o, n) {
        (None, None) => return Ok(None),
        (None, Some(_)) => What::Added,
        (Some(_), None) => What::Deleted,
        (Some(_), Some(_)) => What::Changed,
    };
    // Directories are the way to what is in them.
    let is_dir = |entry: Option<&Entry>| entry.is_none_or(|entry| entry.content == Content::Dir);
    if what != What::Changed && is_dir(o) && is_dir(n) {
        return Ok(None);
    }
    let modes = match (o, n) {
        (Some(o), Some(n)) if o.meta.mode != n.meta.mode => Some((o.meta.mode, n.meta.mode)),
        _ => None,
    };
    let same = match (o, n) {
        (Some(o), Some(n)) => o.content == n.content || means_the_same(policy, &path, &old, &new)?,
        _ => false,
    };
    if same && modes.is_none() {
        return Ok(None);
    }
    let difference = match same {
        true => None,
        false => {
            let (default, yours) = (format!("default/{path}"), format!("yours/{path}"));
            let from = Side {
                tree: &old,
                name: &default,
            };
            let to = Side {
                tree: &new,
                name: &yours,
            };
            Some(between(policy, &path, from, to)?)
        }
    };
    Ok(Some(Change {
        path,
        what,
        modes,
        difference,
    }))
}

/// True if both are packages of one meaning, and the later one has no comment that somebody wrote
/// into it.
fn means_the_same(
    policy: &Policy,
    path: &EntryPath,
    old: &Tree,
    new: &Tree,
) -> Result<bool, ConfigError> {
    if policy.of(path).merge != Some(Merger::Uci) {
        return Ok(false);
    }
    let package = |tree: &Tree| -> Result<Option<Package>, ConfigError> {
        let bytes = tree.bytes(path, MAX_COMPARED)?;
        Ok(bytes.and_then(|bytes| Package::parse(&bytes).ok()))
    };
    let (Some(old), Some(new)) = (package(old)?, package(new)?) else {
        return Ok(false);
    };
    let known: BTreeSet<Vec<u8>> = old.comments().into_iter().collect();
    Ok(old == new && new.comments().iter().all(|comment| known.contains(comment)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            let world = Self(tempfile::tempdir().unwrap());
            world.put("rom/etc/keep", "");
            world.put("root/etc/keep", "");
            world
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn changes(&self, paths: &[&str]) -> Vec<Change> {
            let paths: Vec<&[u8]> = paths.iter().map(|path| path.as_bytes()).collect();
            let rom = self.0.path().join("rom");
            let changes = changes(&self.0.path().join("root"), Some(&rom), &paths);
            changes.unwrap().unwrap()
        }

        fn names(&self, paths: &[&str]) -> Vec<String> {
            let name = |change: &Change| format!("{} {}", change.what.name(), change.path);
            self.changes(paths).iter().map(name).collect()
        }
    }

    #[test]
    fn what_was_added_changed_and_deleted_is_found_and_nothing_else() {
        let world = World::new();
        for (path, default, yours) in [
            ("etc/same", Some("x"), Some("x")),
            ("etc/edited", Some("x"), Some("y")),
            ("etc/mine/new", None, Some("x")),
            ("etc/gone", Some("x"), None),
            ("etc/board.json", Some("x"), Some("y")), // the policy drops it
            ("etc/sysupgrade/state.json", None, Some("y")),
            ("lib/elsewhere", Some("x"), Some("y")),
        ] {
            for (root, text) in [("rom", default), ("root", yours)] {
                if let Some(text) = text {
                    world.put(&format!("{root}/{path}"), text);
                }
            }
        }
        let all = [
            "changed etc/edited",
            "deleted etc/gone",
            "added etc/mine/new",
        ];
        assert_eq!(world.names(&[]), all);
        assert_eq!(world.names(&["/etc/mine"]), ["added etc/mine/new"]);
        assert_eq!(world.names(&["etc/same"]), [""; 0]);
        assert_eq!(
            world.names(&["lib", "etc/gone"]),
            [all[1], "changed lib/elsewhere"]
        );
        let asked_for = world.names(&["/etc/board.json", "/etc/sysupgrade"]);
        assert_eq!(asked_for, ["changed etc/board.json"]);
    }

    #[test]
    fn generated_defaults_lie_over_those_of_the_image() {
        let world = World::new();
        world.put(
            "root/etc/sysupgrade/baseline/etc/config/system",
            "config a\n",
        );
        world.put("root/etc/config/system", "config  'a'\n");
        assert_eq!(world.names(&[]), [""; 0]);
        world.put("root/etc/config/system", "config b\n");
        assert_eq!(world.names(&[]), ["changed etc/config/system"]);
    }

    #[test]
    fn a_package_that_was_only_rewritten_is_the_same_and_a_new_comment_is_a_change() {
        let world = World::new();
        world.put("rom/etc/config/x", "config a 'x'\n option b 1\n");
        world.put("root/etc/config/x", "\nconfig a x\n\toption b '1'\n");
        assert_eq!(world.names(&[]), [""; 0]);
        world.put("root/etc/config/x", "# mine\nconfig a x\n\toption b '1'\n");
        assert_eq!(world.names(&[]), ["changed etc/config/x"]);
    }

    #[test]
    fn permissions_and_kinds_are_told() {
        let world = World::new();
        for root in ["rom", "root"] {
            world.put(&format!("{root}/etc/mode"), "x");
        }
        let file = world.0.path().join("root/etc/mode");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let default = world.0.path().join("rom/etc/mode");
        fs::set_permissions(&default, fs::Permissions::from_mode(0o644)).unwrap();
        world.put("rom/etc/link", "text\n");
        symlink("/nowhere", world.0.path().join("root/etc/link")).unwrap();
        let changes = world.changes(&[]);
        let [link, mode] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!(
            (mode.modes, &mode.difference),
            (Some((0o644, 0o640)), &None)
        );
        let Some(Difference::Lines(lines)) = &link.difference else {
            panic!("{link:?}");
        };
        assert!(lines.contains("-text\n+link to /nowhere\n"), "{lines}");
    }

    #[test]
    fn without_defaults_nothing_is_said() {
        let world = World::new();
        assert_eq!(
            changes(&world.0.path().join("root"), None, &[]).unwrap(),
            None
        );
    }
}
