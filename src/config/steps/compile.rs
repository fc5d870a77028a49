//! From a directory of TOML files, one a step, to the set of steps of an image; on the build host.
//!
//! The fields are those of the [format](super). A file may also carry samples, which are tried:
//!
//! ```toml
//! [[sample]]
//! package = "wireless"      # or path = "/etc/...", for another file
//! before = '''...'''
//! after = '''...'''
//! ```
//!
//! | field of a sample | meaning |
//! | --- | --- |
//! | `package` or `path` | the file that the two texts are |
//! | `before` `after` | what stands there before and after the step; without `package` and `path`, tables of path and text, for steps that have to do with more than one file |
//! | `board` | which board it is run on; the first one of `when.board` if absent |
//!
//! Before the step it must be `before`; after it, and after it ran twice, `after`; and `before` again
//! when it was undone. Packages are compared by their meaning, other files by their bytes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::definition::{Migration, Op};
use super::node::{Fields, Node, Problem};
use super::section::Edit;
use super::{Due, Facts, State, StepError, StepSet, run};
use crate::config::EntryPath;
use crate::config::path::escape;
use crate::config::tree::{Meta, Tree};
use crate::config::uci::Package;
use crate::files::{self, FileError};
use crate::toml_text;

/// The largest file of a step: that of a long step with a dozen samples is a tenth of it.
const MAX_FILE: u64 = 256 << 10;

/// Why a directory is no set of steps.
#[derive(Debug, Error)]
pub enum CompileError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is no TOML.
    #[error("{}:{line}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A file is no step.
    #[error("{}", path.display())]
    Step {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: StepError,
    },
    /// A field of a sample, or what a sample showed.
    #[error("{}: sample {number}: {problem}", path.display())]
    Sample {
        /// The file.
        path: PathBuf,
        /// From 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
    /// Two files have the same id or number.
    #[error("{} and {} have the same `{field}`", path.display(), other.display())]
    Same {
        /// One of them.
        path: PathBuf,
        /// The other.
        other: PathBuf,
        /// What is the same.
        field: &'static str,
    },
    /// All is well by itself, but not together.
    #[error(transparent)]
    Set(#[from] StepError),
    /// There is no step at all.
    #[error("{} holds no *.toml file", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
}

/// Reads and tries the steps of a directory, and puts them in their order.
///
/// # Errors
/// [`CompileError`]: the first one found.
pub fn compile(dir: &Path) -> Result<StepSet, CompileError> {
    let mut steps: Vec<(PathBuf, Migration)> = Vec::new();
    let mut by_id: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut by_number: BTreeMap<i64, PathBuf> = BTreeMap::new();
    for name in files::list(dir)? {
        let path = dir.join(&name);
        if path.extension() != Some(OsStr::new("toml")) || name.as_bytes().starts_with(b".") {
            continue;
        }
        let (step, samples) = read(&path)?;
        for (number, sample) in (1..).zip(samples) {
            try_sample(&step, sample).map_err(|problem| CompileError::Sample {
                path: path.clone(),
                number,
                problem,
            })?;
        }
        let id = by_id.insert(step.id.clone(), path.clone());
        let number = by_number.insert(step.seq, path.clone());
        for (other, field) in [(id, "id"), (number, "seq")] {
            if let Some(other) = other {
                return Err(CompileError::Same { path, other, field });
            }
        }
        steps.push((path, step));
    }
    if steps.is_empty() {
        let path = dir.to_owned();
        return Err(CompileError::Empty { path });
    }
    steps.sort_by_key(|(_, step)| step.seq);
    Ok(StepSet::of(
        steps.into_iter().map(|(_, step)| step).collect(),
    )?)
}

/// The step of a file, and its samples.
fn read(path: &Path) -> Result<(Migration, Vec<Node>), CompileError> {
    let bytes = files::read(path, MAX_FILE)?;
    let syntax = |line, problem| CompileError::Syntax {
        path: path.to_owned(),
        line,
        problem,
    };
    let text = str::from_utf8(&bytes).map_err(|_| syntax(1, "not UTF-8".to_owned()))?;
    let mut node: Node =
        toml_text::read(text).map_err(|error| syntax(error.line(text), error.problem()))?;
    let mut samples = Vec::new();
    if let Node::Table(entries) = &mut node
        && let Some(place) = entries.iter().position(|(key, _)| key == "sample")
    {
        match entries.remove(place).1 {
            Node::List(list) => samples = list,
            _ => {
                return Err(syntax(
                    1,
                    "`sample` is not written as [[sample]]".to_owned(),
                ));
            }
        }
    }
    let bad = |source| CompileError::Step {
        path: path.to_owned(),
        source,
    };
    let source = node.clone();
    let step = Migration::read(node).map_err(bad)?;
    check_maps(&step, &source).map_err(|problem| {
        bad(StepError::Definition {
            id: step.id.clone(),
            problem,
        })
    })?;
    Ok((step, samples))
}

/// Of two old values with the same new one, the first is what undoing takes: but a table of TOML has
/// no order.
fn check_maps(step: &Migration, source: &Node) -> Result<(), Problem> {
    for (field, ops) in [("steps", Some(&step.steps)), ("back", step.back.as_ref())] {
        let Node::Table(fields) = source else {
            continue;
        };
        let nodes = fields.iter().find(|(key, _)| key == field);
        let Some((_, Node::List(nodes))) = nodes else {
            continue;
        };
        for (index, (op, node)) in ops.into_iter().flatten().zip(nodes).enumerate() {
            let Op::Edit {
                edit: Edit::Map { map, .. },
                ..
            } = op
            else {
                continue;
            };
            let is_table = matches!(node, Node::Table(fields)
                if fields.iter().any(|(key, value)| key == "map" && matches!(value, Node::Table(_))));
            if let Some((one, other)) = map.merged().filter(|_| is_table) {
                let (one, other) = (escape(one), escape(other));
                return Err(format!(
                    "{field}[{index}] uci.map: field `map`: `{one}` and `{other}` become the same; \
                     write it as a list of pairs, of which undoing takes the first"
                ));
            }
        }
    }
    Ok(())
}

/// What stands at paths.
type Texts = BTreeMap<EntryPath, Vec<u8>>;

fn try_sample(step: &Migration, sample: Node) -> Result<(), Problem> {
    let mut fields = Fields::of(sample, "it")?;
    let board = fields.optional_text("board")?;
    let package = fields.optional_text("package")?;
    let path = match (package, fields.optional_text("path")?) {
        (None, path) => path,
        (Some(name), None) => Some(format!("etc/config/{name}")),
        (Some(_), Some(_)) => return Err("it has both `package` and `path`".into()),
    };
    let before = texts(fields.required("before")?, path.as_deref(), "before")?;
    let after = texts(fields.required("after")?, path.as_deref(), "after")?;
    fields.end()?;

    let facts = Facts {
        boards: board
            .or_else(|| step.when.boards.first().cloned())
            .into_iter()
            .collect(),
        ..Facts::default()
    };
    let due = Due {
        forward: vec![step.clone()],
        ..Due::default()
    };
    let failed = |error: StepError| error.to_string();
    let mut user = tree(&before)?;
    let mut state = State::default();
    run(&mut Tree::default(), &mut user, &due, &facts, &mut state).map_err(failed)?;
    compare(&user, &after, "after the step")?;

    let mut again = user.clone();
    let mut ignored = State::default();
    run(&mut Tree::default(), &mut again, &due, &facts, &mut ignored).map_err(failed)?;
    compare(&again, &after, "not idempotent: after it ran twice")?;

    if step.reversible {
        let due = Due {
            backward: state.applied.clone(),
            ..Due::default()
        };
        run(&mut Tree::default(), &mut user, &due, &facts, &mut state).map_err(failed)?;
        compare(&user, &before, "after the step was undone")?;
    }
    Ok(())
}

/// A text for the path, or a table of paths and texts.
fn texts(node: Node, path: Option<&str>, field: &str) -> Result<Texts, Problem> {
    let entries = match (node, path) {
        (text @ Node::Text(_), Some(path)) => vec![(path.to_owned(), text)],
        (Node::Table(entries), None) => entries,
        (_, Some(_)) => return Err(format!("field `{field}` is not a text")),
        (_, None) => {
            return Err(format!(
                "field `{field}` is not a table of paths, and there is neither `package` nor `path`"
            ));
        }
    };
    let text = |(path, text): (String, Node)| {
        let Node::Text(text) = text else {
            return Err(format!("field `{field}`: `{path}` is not a text"));
        };
        let place = EntryPath::new(path.as_bytes());
        let place = place.map_err(|why| format!("field `{field}`: `{path}` {}", why.problem()))?;
        Ok((place, text.into_bytes()))
    };
    entries.into_iter().map(text).collect()
}

fn tree(texts: &Texts) -> Result<Tree, Problem> {
    let meta = Meta {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    let mut tree = Tree::default();
    for (path, text) in texts {
        if path.is_within("etc/config") {
            Package::parse(text).map_err(|error| format!("{path}: {error}"))?;
        }
        tree.put(path, text, meta);
    }
    Ok(tree)
}

fn compare(found: &Tree, wanted: &Texts, when: &str) -> Result<(), Problem> {
    for (path, _) in found.iter() {
        if !wanted.contains_key(path) {
            return Err(format!("{when}, {path} is there"));
        }
    }
    for (path, wanted) in wanted {
        let found = found
            .bytes(path, u64::MAX)
            .map_err(|error| error.to_string())?;
        let Some(found) = found else {
            return Err(format!("{when}, {path} is missing"));
        };
        let equal = match (Package::parse(&found), Package::parse(wanted)) {
            (Ok(found), Ok(wanted)) if path.is_within("etc/config") => found == wanted,
            _ => found == *wanted,
        };
        if !equal {
            let found = String::from_utf8_lossy(&found);
            let wanted = String::from_utf8_lossy(wanted);
            return Err(format!("{when}, {path} is\n{found}\ninstead of\n{wanted}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_that_come_with_the_program_keep_their_samples() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("board/migrations");
        let set = compile(&dir).unwrap_or_else(|error| {
            let source = std::error::Error::source(&error);
            panic!("{error}: {source:?}")
        });
        assert_eq!(set.steps.len(), 6);
        let json = set.to_json();
        let again = StepSet::parse(&json).unwrap();
        assert_eq!(again.summary(), set.summary());
        assert_eq!(again.to_json(), json);
    }

    #[test]
    fn the_example_in_the_manual_is_a_step_that_works() {
        let readme = include_str!("../../../board/migrations/README.md");
        let example = readme.split("```toml\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("example.toml"), example).unwrap();
        let steps = compile(dir.path()).unwrap().summary();
        assert_eq!(steps, ["20210301 wireless-hwmode-to-band [wireless]"]);
    }
}
