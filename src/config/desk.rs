//! The builder's desk: the engine over plain directories, without a device, an archive or an image.
//!
//! Whoever writes steps or a policy tries them here. Beside the three directories, a *context* says
//! what a device and its images would say. It is a JSON document with these keys, all of them
//! optional; other keys are passed over, so that the description of a [`case`] is a context, too.
//!
//! | key | value |
//! | --- | --- |
//! | `scope` | `"etc"` (as if absent): everything under `/etc`, and what `declared` names; or `"declared"`: only that |
//! | `declared` | list of lines as in a keep list |
//! | `policy` | list of lines, after those of the image and of the user |
//! | `migrations` | list of steps; absent: those of the new image's `lib/upgrade/migrations.json` |
//! | `direction` | `"forward"` (as if absent); or `"backward"`: the steps were taken before, and the new image does not know them |
//! | `facts` | what steps may ask: `board`, `from_release`, `to_release`; `attic`: values that steps set aside when they were taken |
//! | `meta` | TREE, then PATH, then `mode` (octal text), `uid`, `gid`: what a checkout cannot hold |
//! | `dirs` | TREE, then a list of directories: empty ones, which a checkout cannot hold either |
//!
//! TREE is `old-default`, `user`, `new-default` or `expected`. The state of migrations that a user's
//! tree may hold is not asked: the context says it.

pub mod case;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use super::engine::{self, Outcome};
use super::merge::resolve::Resolutions;
use super::merge::scope::Declared;
use super::merge::{Rules, Scope};
use super::report::Notice;
use super::steps::{Applied, Facts, Migration, State};
use super::tree::{Content, Entry, Kind, Meta, Tree};
use super::{ConfigError, Deadline, EntryPath};
use crate::config::apply::build::Difference;
use crate::files::{self, FileError};

/// Why nothing came of it.
#[derive(Debug, Error)]
pub enum DeskError {
    /// The context is no JSON object, or a value in it makes no sense.
    #[error("the context cannot be understood")]
    Context(#[source] serde_json::Error),
    /// A case has no expectation, or one that makes no sense.
    #[error("the description of the case cannot be understood")]
    Description(#[source] serde_json::Error),
    /// An input is no directory.
    #[error("{} is no directory", path.display())]
    NoDirectory {
        /// Which one.
        path: PathBuf,
    },
    /// The output would be mixed with what is there.
    #[error("{} is there and is no empty directory", path.display())]
    Occupied {
        /// The output.
        path: PathBuf,
    },
    /// The engine, or writing what came out of it.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl From<FileError> for DeskError {
    fn from(error: FileError) -> Self {
        Self::Config(error.into())
    }
}

/// What a device and its images would say.
#[derive(Debug, Default)]
pub struct Context {
    scope: ScopeWord,
    declared: Vec<String>,
    policy: Vec<String>,
    migrations: Option<Vec<Migration>>,
    direction: Direction,
    facts: Facts,
    meta: BTreeMap<TreeName, BTreeMap<AnyPath, Said>>,
    dirs: BTreeMap<TreeName, Vec<AnyPath>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ScopeWord {
    #[default]
    Etc,
    Declared,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    #[default]
    Forward,
    Backward,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TreeName {
    OldDefault,
    User,
    NewDefault,
    Expected,
}

/// A path as people write it, with or without a slash at its ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AnyPath(EntryPath);

impl fmt::Display for AnyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for AnyPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        EntryPath::new(text.as_bytes())
            .map(Self)
            .map_err(|why| D::Error::custom(format!("path `{text}` {}", why.problem())))
    }
}

/// What is said of an entry.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    mode: Option<Octal>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Said {
    fn of(self, meta: Meta) -> Meta {
        Meta {
            mode: self.mode.map_or(meta.mode, |mode| mode.0),
            uid: self.uid.unwrap_or(meta.uid),
            gid: self.gid.unwrap_or(meta.gid),
        }
    }
}

/// Permissions as octal text.
#[derive(Clone, Copy, Debug)]
struct Octal(u32);

impl<'de> Deserialize<'de> for Octal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mode = u32::from_str_radix(&text, 8).ok();
        mode.filter(|mode| *mode <= 0o7777 && !text.starts_with('+'))
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no mode, such as `0644`")))
    }
}

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ContextVisitor)
    }
}

/// Reads keys one by one, so that an error names its key, and what other programs wrote beside them
/// is passed over.
struct ContextVisitor;

impl<'de> Visitor<'de> for ContextVisitor {
    type Value = Context;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Context, A::Error> {
        let mut context = Context::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "scope" => context.scope = value(&mut map, &key)?,
                "declared" => context.declared = value(&mut map, &key)?,
                "policy" => context.policy = value(&mut map, &key)?,
                "migrations" => context.migrations = Some(value(&mut map, &key)?),
                "direction" => context.direction = value(&mut map, &key)?,
                "facts" => context.facts = value(&mut map, &key)?,
                "meta" => context.meta = value(&mut map, &key)?,
                "dirs" => context.dirs = value(&mut map, &key)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(context)
    }
}

fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    key: &str,
) -> Result<T, A::Error> {
    map.next_value()
        .map_err(|error| A::Error::custom(format!("key `{key}`: {error}")))
}

impl Context {
    /// Reads a context.
    ///
    /// # Errors
    /// When it is no JSON object, or one of the keys above has a value that makes no sense.
    pub fn parse(json: &[u8]) -> Result<Self, DeskError> {
        serde_json::from_slice(json).map_err(DeskError::Context)
    }

    /// What it comes to, together with the rules that the trees hold.
    fn complete(&self, trees: &Trees) -> Result<engine::Context, DeskError> {
        let mut notices: Vec<Notice> = Vec::new();
        let mut policy = engine::policy(&trees.new, &trees.user, &mut notices)?;
        notices.extend(policy.append(self.policy.join("\n").as_bytes(), "context"));
        let declared = Declared::new(self.declared.iter().map(String::as_str));
        let steps = match &self.migrations {
            Some(steps) => steps.clone(),
            None => engine::migrations(&trees.new)?,
        };
        let (migrations, state) = match self.direction {
            Direction::Forward => (steps, None),
            Direction::Backward => {
                let applied = steps
                    .into_iter()
                    .map(|step| Applied::with_facts(step, &self.facts));
                let applied = applied.collect();
                (Vec::new(), Some(State { applied }))
            }
        };
        Ok(engine::Context {
            rules: Rules {
                policy,
                scope: match self.scope {
                    ScopeWord::Etc => Scope::Etc(declared),
                    ScopeWord::Declared => Scope::Declared(declared),
                },
                resolutions: Resolutions::default(),
                services: None,
                owners: None,
                deadline: Deadline::default(),
            },
            migrations,
            state,
            facts: self.facts.clone(),
            generated: BTreeSet::new(),
            compat: None,
            notices,
        })
    }

    /// True if it says something of the permissions or owner of an entry.
    fn says_meta(&self, name: TreeName, path: &EntryPath) -> bool {
        let tree = self.meta.get(&name);
        tree.is_some_and(|tree| tree.contains_key(&AnyPath(path.clone())))
    }

    /// Gives a tree what its directory cannot hold.
    fn amend(&self, name: TreeName, tree: &mut Tree) {
        for AnyPath(path) in self.dirs.get(&name).into_iter().flatten() {
            let entry = Entry {
                content: Content::Dir,
                meta: PLAIN_DIR,
            };
            tree.insert(path.clone(), entry, Path::new(""), 0);
        }
        for (AnyPath(path), said) in self.meta.get(&name).into_iter().flatten() {
            if let Some(entry) = tree.get(path) {
                tree.set_meta(path, said.of(entry.meta));
            }
        }
    }
}

/// Three directories that meet.
#[derive(Clone, Copy, Debug)]
pub struct Dirs<'a> {
    /// The old default.
    pub base: &'a Path,
    /// What the user made of it.
    pub user: &'a Path,
    /// The new default.
    pub new: &'a Path,
}

/// Whose permissions and owners count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Those on the medium. All in it counts, but a tree that is nothing but one file `.gitkeep` is
    /// an empty one.
    Disk,
    /// None but the execute bit: the directories are a checkout, which also stands a file
    /// `.gitkeep` in directories that are empty. All belongs to root.
    Checkout,
}

/// What was read of the directories.
#[derive(Clone, Debug)]
pub(super) struct Trees {
    pub base: Tree,
    pub user: Tree,
    pub new: Tree,
}

/// Directories of which nothing else is known.
const PLAIN_DIR: Meta = Meta {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

/// What a checkout has in the place of an empty directory.
const PLACEHOLDER: &str = ".gitkeep";

impl Trees {
    fn read(dirs: &Dirs, context: &Context, storage: Storage) -> Result<Self, DeskError> {
        let read = |dir, name| read_tree(dir, context, name, storage);
        Ok(Self {
            base: read(dirs.base, TreeName::OldDefault)?,
            user: read(dirs.user, TreeName::User)?,
            new: read(dirs.new, TreeName::NewDefault)?,
        })
    }
}

fn read_tree(
    dir: &Path,
    context: &Context,
    name: TreeName,
    storage: Storage,
) -> Result<Tree, DeskError> {
    // An input that is missing by mistake must not read as one that is empty.
    if !dir.is_dir() {
        return Err(DeskError::NoDirectory {
            path: dir.to_owned(),
        });
    }
    let mut tree = Tree::default();
    tree.read(dir, "")?;
    match storage {
        Storage::Checkout => forget_checkout(&mut tree),
        Storage::Disk if is_placeholder_alone(&tree) => tree = Tree::default(),
        Storage::Disk => {}
    }
    context.amend(name, &mut tree);
    Ok(tree)
}

/// True for a whole tree that is empty but for what a checkout needs to hold it: a router has more.
fn is_placeholder_alone(tree: &Tree) -> bool {
    let mut paths = tree.iter().map(|(path, _)| path);
    paths.next().is_some_and(is_placeholder) && paths.next().is_none()
}

fn is_placeholder(path: &EntryPath) -> bool {
    path.as_path().file_name() == Some(OsStr::new(PLACEHOLDER))
}

/// Leaves what a checkout means.
fn forget_checkout(tree: &mut Tree) {
    let entries: Vec<(EntryPath, Entry)> = tree
        .iter()
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect();
    for (path, entry) in entries {
        if is_placeholder(&path) {
            tree.remove(&path);
            continue;
        }
        let mode = match entry.content.kind() {
            Kind::Link => entry.meta.mode,
            Kind::Dir => PLAIN_DIR.mode,
            Kind::File if entry.meta.mode & 0o111 != 0 => 0o755,
            Kind::File => 0o644,
        };
        tree.set_meta(&path, Meta { mode, ..PLAIN_DIR });
    }
}

/// Migrates and merges directories.
///
/// # Errors
/// When one of them cannot be read. That the merge is refused is no error.
pub fn merge(dirs: &Dirs, context: &Context, storage: Storage) -> Result<Outcome, DeskError> {
    let trees = Trees::read(dirs, context, storage)?;
    let context = context.complete(&trees)?;
    Ok(engine::run(trees.base, trees.user, &trees.new, &context)?)
}

/// Bytes of the files in which a result differs from the new defaults: what a device would write.
#[must_use]
pub fn space(outcome: &Outcome, new: &Tree) -> u64 {
    Difference::new(new, &outcome.merge.result).space()
}

/// Writes the result of an outcome to a directory, which must be absent or empty; it is there as a
/// whole or not at all. Owners are set by root alone. Nothing is written of a refused outcome.
///
/// # Errors
/// When something stands there, or it cannot be written.
pub fn write_out(outcome: &Outcome, out: &Path) -> Result<(), DeskError> {
    let occupied = || DeskError::Occupied {
        path: out.to_owned(),
    };
    if files::exists(out) && (!files::is_dir(out) || !files::list(out)?.is_empty()) {
        return Err(occupied());
    }
    if outcome.verdict() == engine::Verdict::Refused {
        return Ok(());
    }
    let beside = files::temporary_beside(out);
    files::remove_tree(&beside)?;
    let nothing = Tree::default();
    let difference = Difference::new(&nothing, &outcome.merge.result);
    let written = difference
        .build(&beside, PLAIN_DIR.mode, false, Deadline::default())
        .and_then(|_| Ok(files::rename(&beside, out)?));
    if let Err(error) = written {
        files::remove_tree(&beside)?;
        return Err(error.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::{Action, NoticeKind};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// Four directories in a temporary one.
    struct Desk(tempfile::TempDir);

    impl Desk {
        fn new() -> Self {
            let desk = Self(tempfile::tempdir().unwrap());
            for dir in ["base", "user", "new"] {
                fs::create_dir(desk.place(dir)).unwrap();
            }
            desk
        }

        fn place(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, path: &str, text: &str) {
            let place = self.place(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }

        fn merge(&self, context: &str) -> Outcome {
            self.try_merge(context, Storage::Disk).unwrap()
        }

        fn try_merge(&self, context: &str, storage: Storage) -> Result<Outcome, DeskError> {
            let [base, user, new] = ["base", "user", "new"].map(|name| self.place(name));
            let dirs = Dirs {
                base: &base,
                user: &user,
                new: &new,
            };
            merge(&dirs, &Context::parse(context.as_bytes())?, storage)
        }
    }

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).unwrap()
    }

    fn action(outcome: &Outcome, of: &str) -> Option<Action> {
        let mut entries = outcome.merge.entries.iter();
        let entry = entries.find(|entry| entry.path == path(of));
        entry.map(|entry| entry.action)
    }

    #[test]
    fn a_context_that_makes_no_sense_is_refused_with_its_key() {
        for (json, words) in [
            (r#"[]"#, "an object"),
            (r#"{"scope": "all"}"#, "key `scope`: unknown variant `all`"),
            (r#"{"declared": "/etc/x"}"#, "key `declared`"),
            (r#"{"policy": [1]}"#, "key `policy`"),
            (r#"{"migrations": [{"id": 1}]}"#, "key `migrations`"),
            (r#"{"direction": "sideways"}"#, "key `direction`"),
            (r#"{"facts": 1}"#, "key `facts`"),
            (
                r#"{"meta": {"olduser": {}}}"#,
                "key `meta`: unknown variant `olduser`",
            ),
            (
                r#"{"meta": {"user": {"etc/x": {"mod": "0600"}}}}"#,
                "unknown field `mod`",
            ),
            (
                r#"{"meta": {"user": {"etc/x": {"mode": "0888"}}}}"#,
                "`0888` is no mode",
            ),
            (
                r#"{"meta": {"user": {"etc/x": {"mode": "+600"}}}}"#,
                "`+600` is no mode",
            ),
            (
                r#"{"meta": {"user": {"etc/x": {"mode": "17777"}}}}"#,
                "`17777` is no mode",
            ),
            (r#"{"dirs": {"user": ["../x"]}}"#, "path `../x` holds `..`"),
        ] {
            let DeskError::Context(error) = Context::parse(json.as_bytes()).unwrap_err() else {
                panic!("{json}");
            };
            assert!(error.to_string().contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn keys_of_other_programs_are_passed_over() {
        let context = r#"{"name": "x", "expect": {"exit": 7}, "scopes": 1, "scope": "declared"}"#;
        let context = Context::parse(context.as_bytes()).unwrap();
        assert!(matches!(context.scope, ScopeWord::Declared));
        assert!(matches!(Context::default().scope, ScopeWord::Etc));
    }

    #[test]
    fn an_input_that_is_missing_is_not_an_empty_one() {
        let desk = Desk::new();
        fs::remove_dir(desk.place("user")).unwrap();
        let error = desk.try_merge("{}", Storage::Disk).unwrap_err();
        assert!(matches!(error, DeskError::NoDirectory { .. }), "{error}");
    }

    #[test]
    fn permissions_are_those_on_the_disk_or_those_that_the_context_says() {
        let desk = Desk::new();
        for name in ["said", "found"] {
            desk.write(&format!("user/etc/{name}"), "x");
            let place = desk.place(&format!("user/etc/{name}"));
            fs::set_permissions(place, fs::Permissions::from_mode(0o640)).unwrap();
        }
        let context = r#"{"meta": {"user": {"etc/said": {"mode": "0600", "uid": 7}}}}"#;
        let mode = |outcome: &Outcome, name: &str| {
            let entry = outcome.merge.result.get(&path(name));
            entry.map(|entry| (entry.meta.mode, entry.meta.uid))
        };
        let disk = desk.merge(context);
        assert_eq!(mode(&disk, "etc/said"), Some((0o600, 7)));
        assert_eq!(mode(&disk, "etc/found").unwrap().0, 0o640);
        let checkout = desk.try_merge(context, Storage::Checkout).unwrap();
        assert_eq!(mode(&checkout, "etc/said"), Some((0o600, 7)));
        assert_eq!(mode(&checkout, "etc/found"), Some((0o644, 0)));
    }

    #[test]
    fn a_placeholder_is_one_in_a_checkout_and_a_file_elsewhere() {
        let desk = Desk::new();
        desk.write("user/etc/empty/.gitkeep", "");
        let kept = path("etc/empty/.gitkeep");
        let disk = desk.merge("{}");
        assert!(disk.merge.result.get(&kept).is_some());
        let checkout = desk.try_merge("{}", Storage::Checkout).unwrap();
        assert!(checkout.merge.result.get(&kept).is_none());
        let dir = checkout.merge.result.get(&path("etc/empty")).unwrap();
        assert_eq!(dir.content, Content::Dir);
    }

    #[test]
    fn a_tree_that_is_a_placeholder_alone_is_empty() {
        let desk = Desk::new();
        desk.write("user/.gitkeep", "");
        let outcome = desk.merge("{}");
        assert_eq!(outcome.merge.notices, []);
        assert_eq!(outcome.merge.result.iter().count(), 0);
        desk.write("user/etc/x", "x");
        assert_eq!(
            desk.merge("{}").merge.notices.len(),
            1,
            "it is one of two files"
        );
    }

    #[test]
    fn steps_are_those_of_the_context_or_else_of_the_new_image() {
        let desk = Desk::new();
        let steps = |to: &str| {
            format!(
                r#"[{{"id": "s", "component": "x", "seq": 1, "steps": [
                    {{"op": "text.replace_line", "path": "/etc/x", "match": "a", "replace": "{to}"}}]}}]"#
            )
        };
        desk.write("user/etc/x", "a\n");
        let document = format!(r#"{{"format": 1, "steps": {}}}"#, steps("image"));
        desk.write("new/lib/upgrade/migrations.json", &document);
        let text = |context: &str| {
            let bytes = desk.merge(context).merge.result.bytes(&path("etc/x"), 99);
            String::from_utf8(bytes.unwrap().unwrap()).unwrap()
        };
        assert_eq!(text("{}"), "image\n");
        assert_eq!(
            text(&format!(r#"{{"migrations": {}}}"#, steps("mine"))),
            "mine\n"
        );
        assert_eq!(text(r#"{"migrations": []}"#), "a\n");
    }

    #[test]
    fn the_policy_of_the_context_counts_more_and_its_odd_lines_are_told() {
        let desk = Desk::new();
        desk.write("user/etc/x", "mine");
        desk.write("user/etc/sysupgrade.policy", "/etc/x keep\n");
        assert_eq!(action(&desk.merge("{}"), "etc/x"), Some(Action::UserAdded));
        let outcome = desk.merge(r#"{"policy": ["/etc/x drop", "/etc/y hold"]}"#);
        assert_eq!(action(&outcome, "etc/x"), Some(Action::Dropped));
        let odd: Vec<_> = outcome.merge.notices.iter().map(|n| n.kind).collect();
        assert_eq!(odd, [NoticeKind::PolicyLine]);
    }

    #[test]
    fn a_result_is_written_whole_with_permissions_links_and_empty_directories() {
        let desk = Desk::new();
        desk.write("user/etc/secret", "s");
        let place = desk.place("user/etc/secret");
        fs::set_permissions(place, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("/nowhere", desk.place("user/etc/link")).unwrap();
        fs::create_dir(desk.place("user/etc/empty")).unwrap();
        let outcome = desk.merge("{}");
        let out = desk.place("out");
        for _ in 0..2 {
            write_out(&outcome, &out).unwrap();
            let mode = fs::metadata(out.join("etc/secret")).unwrap().permissions();
            assert_eq!(mode.mode() & 0o7777, 0o600);
            let target = fs::read_link(out.join("etc/link")).unwrap();
            assert_eq!(target, Path::new("/nowhere"));
            assert_eq!(files::list(&out.join("etc/empty")).unwrap().len(), 0);
            // ... and into an empty directory.
            fs::remove_dir_all(&out).unwrap();
            fs::create_dir(&out).unwrap();
        }
        let names = files::list(desk.0.path()).unwrap();
        assert_eq!(
            names,
            ["base", "new", "out", "user"],
            "nothing is left beside"
        );
    }

    #[test]
    fn a_result_is_not_mixed_with_what_is_there() {
        let desk = Desk::new();
        let outcome = desk.merge("{}");
        desk.write("full/x", "x");
        desk.write("file", "x");
        symlink(desk.place("new"), desk.place("link")).unwrap();
        for name in ["full", "file", "link"] {
            let error = write_out(&outcome, &desk.place(name)).unwrap_err();
            assert!(
                matches!(error, DeskError::Occupied { .. }),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn nothing_is_written_of_a_refused_merge() {
        let desk = Desk::new();
        for (tree, text) in [("base", "a"), ("user", "b"), ("new", "c")] {
            desk.write(&format!("{tree}/etc/x"), text);
        }
        let outcome = desk.merge(r#"{"policy": ["/etc/x auto conflict=fail"]}"#);
        assert_eq!(outcome.verdict(), engine::Verdict::Refused);
        write_out(&outcome, &desk.place("out")).unwrap();
        assert!(!files::exists(&desk.place("out")));
    }

    #[test]
    fn hostile_trees_are_merged_without_leaving_them() {
        let desk = Desk::new();
        desk.write("outside/config/network", "config secret 'outside'\n");
        desk.write("base/etc/config/network", "config x 'y'\n");
        desk.write("new/etc/config/network", "config x 'z'\n");
        fs::create_dir(desk.place("user/etc")).unwrap();
        symlink("../../outside/config", desk.place("user/etc/config")).unwrap();
        desk.write("user/etc/line\nbreak", "n");
        desk.write("user/etc/-rf", "d");
        let deep = "d/".repeat(60);
        desk.write(&format!("user/etc/{deep}x"), "deep");
        for number in 0..10_000 {
            desk.write(&format!("user/etc/many/{number}"), "");
        }
        let outcome = desk.merge("{}");
        let out = desk.place("out");
        write_out(&outcome, &out).unwrap();
        // The link is the user's own; what it leads to was neither read nor written.
        assert_eq!(action(&outcome, "etc/config"), Some(Action::Kept));
        let deleted = action(&outcome, "etc/config/network");
        assert_eq!(deleted, Some(Action::StayDeleted));
        assert!(
            fs::symlink_metadata(out.join("etc/config"))
                .unwrap()
                .is_symlink()
        );
        let read = |path: &str| fs::read_to_string(out.join(path)).unwrap();
        assert_eq!(read("etc/line\nbreak"), "n");
        assert_eq!(read(&format!("etc/{deep}x")), "deep");
        assert_eq!(files::list(&out.join("etc/many")).unwrap().len(), 10_000);
        let outside = fs::read_to_string(desk.place("outside/config/network")).unwrap();
        assert_eq!(outside, "config secret 'outside'\n");
    }
}
