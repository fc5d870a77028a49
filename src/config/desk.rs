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

use super::build::Difference;
use super::engine::{self, Outcome};
use super::merge::resolve::Resolutions;
use super::merge::scope::Declared;
use super::merge::{Rules, Scope};
use super::report::Notice;
use super::steps::{Applied, Facts, Migration, State};
use super::tree::{Content, Entry, Kind, Meta, Tree};
use super::{ConfigError, EntryPath};
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
            },
            migrations,
            state,
            facts: self.facts.clone(),
            generated: BTreeSet::new(),
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
    /// Those on the medium.
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
    if storage == Storage::Checkout {
        forget_checkout(&mut tree);
    }
    context.amend(name, &mut tree);
    Ok(tree)
}

/// Leaves what a checkout means.
fn forget_checkout(tree: &mut Tree) {
    let entries: Vec<(EntryPath, Entry)> = tree
        .iter()
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect();
    for (path, entry) in entries {
        if path.as_path().file_name() == Some(OsStr::new(PLACEHOLDER)) {
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
        .build(&beside, PLAIN_DIR.mode, false)
        .and_then(|_| Ok(files::rename(&beside, out)?));
    if let Err(error) = written {
        files::remove_tree(&beside)?;
        return Err(error.into());
    }
    Ok(())
}
