//! The definition of a migration: what may stand in it, and how it is read.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::builtin::Builtin;
use super::lines::LineEdit;
use super::node::{Fields, Node, Problem};
use super::section::{Edit, Mapping, Selector};
use super::{FORMAT, StepError};
use crate::config::STATE_DIR;
use crate::config::path::EntryPath;
use crate::config::uci::{self, Value};
use crate::digest::Digest;

/// The largest document of steps. Twenty years of OpenWrt's changes would fill a tenth of it, and with
/// the attic it must fit into a state.
const MAX_SET: usize = 512 << 10;

/// The steps of an image.
#[derive(Clone, Debug, Default)]
pub struct StepSet {
    /// In the order of the document.
    pub(crate) steps: Vec<Migration>,
}

impl StepSet {
    /// Where an image has it.
    pub const PATH: &'static str = "lib/upgrade/migrations.json";

    /// Reads the document of an image.
    ///
    /// # Errors
    /// When it is not of a format that this version understands, or a step in it is not.
    pub fn parse(document: &[u8]) -> Result<Self, StepError> {
        if document.len() > MAX_SET {
            return Err(StepError::TooLong { most: MAX_SET });
        }
        let document = serde_json::from_slice(document).map_err(StepError::Syntax)?;
        let whole = |problem| StepError::Document { problem };
        let mut fields = Fields::of(document, "the document").map_err(whole)?;
        check_format(fields.integer("format").map_err(whole)?)?;
        let Node::List(steps) = fields.required("steps").map_err(whole)? else {
            return Err(whole("field `steps` is not a list".to_owned()));
        };
        fields.end().map_err(whole)?;
        Self::of(
            steps
                .into_iter()
                .map(Migration::read)
                .collect::<Result<_, _>>()?,
        )
    }

    /// A set of these steps.
    pub(super) fn of(steps: Vec<Migration>) -> Result<Self, StepError> {
        let mut ids = BTreeSet::new();
        let mut numbers = BTreeSet::new();
        for step in &steps {
            if !ids.insert(step.id.as_str()) {
                return Err(StepError::Duplicate {
                    id: step.id.clone(),
                });
            }
            if !numbers.insert(step.seq) {
                return Err(StepError::Definition {
                    id: step.id.clone(),
                    problem: format!("another step has the same `seq` {}", step.seq),
                });
            }
        }
        Ok(Self { steps })
    }

    /// The document of an image.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let steps = self.steps.iter().map(|step| step.source.clone()).collect();
        let document = Node::Table(vec![
            ("format".to_owned(), Node::Int(FORMAT)),
            ("steps".to_owned(), Node::List(steps)),
        ]);
        // Text, numbers and lists: there is nothing that JSON could not say.
        let mut json = serde_json::to_vec_pretty(&document).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// The steps by their number, as lines of a list: number, id, component.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let mut steps: Vec<&Migration> = self.steps.iter().collect();
        steps.sort_by_key(|step| step.seq);
        let line = |step: &Migration| {
            let way = if step.reversible { "" } else { " (one way)" };
            format!("{} {} [{}]{way}", step.seq, step.id, step.component)
        };
        steps.into_iter().map(line).collect()
    }
}

pub(super) fn check_format(found: i64) -> Result<(), StepError> {
    if found == FORMAT {
        Ok(())
    } else {
        Err(StepError::Format { found })
    }
}

/// One migration.
#[derive(Clone, Debug)]
pub(crate) struct Migration {
    /// Its name for ever, on every branch.
    pub(crate) id: String,
    /// What it belongs to, for people.
    pub(crate) component: String,
    /// Its place in the one order of all steps.
    pub(crate) seq: i64,
    /// The first release whose defaults have the new form.
    pub(crate) since: Option<String>,
    /// When it is run at all.
    pub(super) when: Guards,
    /// What it does.
    pub(super) steps: Vec<Op>,
    /// What undoes it, where the operations cannot undo themselves.
    pub(super) back: Option<Vec<Op>>,
    /// False if its author says that there is no way back.
    pub(crate) reversible: bool,
    /// As it was written.
    source: Node,
}

/// What must hold for a step to be run. The user's tree is asked, and the answer holds for both: a
/// step that ran on one of them alone would look like a change that the user made.
#[derive(Clone, Debug, Default)]
pub(super) struct Guards {
    /// One of these is the board; empty: any.
    pub(super) boards: Vec<String>,
    /// This UCI package is there.
    pub(super) package: Option<EntryPath>,
    /// This option has this value.
    pub(super) option: Option<OptionIs>,
}

#[derive(Clone, Debug)]
pub(super) struct OptionIs {
    pub(super) path: EntryPath,
    pub(super) section: Selector,
    pub(super) option: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// An operation.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// On each selected section by itself.
    Edit {
        path: EntryPath,
        section: Selector,
        edit: Edit,
    },
    NameSection {
        path: EntryPath,
        section: Selector,
        name: Vec<u8>,
    },
    RenameSection {
        path: EntryPath,
        from: Vec<u8>,
        to: Vec<u8>,
    },
    DeleteSection {
        path: EntryPath,
        section: Selector,
    },
    MoveOption(MoveOption),
    Builtin {
        path: EntryPath,
        builtin: Builtin,
    },
    Lines {
        path: EntryPath,
        edit: LineEdit,
    },
    MoveFile {
        from: EntryPath,
        to: EntryPath,
    },
    DeleteFile {
        path: EntryPath,
    },
    Chmod {
        path: EntryPath,
        mode: u32,
    },
    Fingerprint {
        path: EntryPath,
        sums: Vec<Digest>,
    },
}

/// Moves an option to another section.
#[derive(Clone, Debug)]
pub(super) struct MoveOption {
    pub(super) path: EntryPath,
    pub(super) section: Selector,
    pub(super) option: Vec<u8>,
    pub(super) to_path: EntryPath,
    pub(super) to_section: Selector,
    pub(super) to_option: Vec<u8>,
    /// The type of the target, which is made if it is absent.
    pub(super) to_type: Option<Vec<u8>>,
}

impl Migration {
    /// Reads a definition.
    pub(super) fn read(node: Node) -> Result<Self, StepError> {
        let id = match &node {
            Node::Table(entries) => entries.iter().find_map(|(key, value)| match value {
                Node::Text(id) if key == "id" => Some(id.clone()),
                _ => None,
            }),
            _ => None,
        };
        Self::from_node(node).map_err(|problem| StepError::Definition {
            id: id.unwrap_or_else(|| "?".to_owned()),
            problem,
        })
    }

    fn from_node(node: Node) -> Result<Self, Problem> {
        let mut source = node.clone();
        keep_order_of_maps(&mut source);
        let mut fields = Fields::of(node, "it")?;
        let id = fields.text("id")?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        if id.len() > 100 || !id.chars().all(plain) {
            return Err("field `id` is not of at most 100 of a-z, 0-9, `-`, `.` and `_`".into());
        }
        let component = fields.text("component")?;
        let seq = fields.integer("seq")?;
        let since = fields.optional_text("since")?;
        if since
            .as_deref()
            .is_some_and(|since| release(since).is_none())
        {
            return Err("field `since` does not begin with the number of a release".into());
        }
        let when = match fields.optional("when") {
            Some(node) => Guards::read(node)?,
            None => Guards::default(),
        };
        let steps = ops(fields.list("steps")?, "steps")?;
        let back = match fields.optional("back") {
            Some(Node::List(back)) => Some(ops(back, "back")?),
            Some(_) => return Err("field `back` is not a list".into()),
            None => None,
        };
        let reversible = fields.optional_bool("reversible")?.unwrap_or(true);
        if back.is_some() && !reversible {
            return Err("field `back` makes no sense where `reversible` is false".into());
        }
        fields.end()?;
        Ok(Self {
            id,
            component,
            seq,
            since,
            when,
            steps,
            back,
            reversible,
            source,
        })
    }
}

/// Writes the tables of value maps as lists of pairs: the order of their keys has a meaning, and a
/// state passes through programs that sort keys.
fn keep_order_of_maps(step: &mut Node) {
    for field in ["steps", "back"] {
        let Some(Node::List(ops)) = step.get_mut(field) else {
            continue;
        };
        for map in ops.iter_mut().filter_map(|op| op.get_mut("map")) {
            if let Node::Table(entries) = map {
                let pairs = std::mem::take(entries).into_iter();
                let pairs = pairs.map(|(from, to)| Node::List(vec![Node::Text(from), to]));
                *map = Node::List(pairs.collect());
            }
        }
    }
}

impl<'de> Deserialize<'de> for Migration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(Node::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Serialize for Migration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.source.serialize(serializer)
    }
}

impl Guards {
    fn read(node: Node) -> Result<Self, Problem> {
        let inside = |problem: Problem| format!("when: {problem}");
        let mut fields = Fields::of(node, "field `when`")?;
        let mut guards = Self::default();
        if let Some(boards) = fields.optional("board") {
            let mut field = Fields::of(Node::Table(vec![("board".to_owned(), boards)]), "")?;
            guards.boards = field.texts("board").map_err(inside)?;
        }
        if let Some(name) = fields.optional_text("package").map_err(inside)? {
            guards.package = Some(package(&name).map_err(inside)?);
        }
        if let Some(node) = fields.optional("option") {
            guards.option = Some(OptionIs::read(node).map_err(inside)?);
        }
        fields.end().map_err(inside)?;
        Ok(guards)
    }
}

impl OptionIs {
    fn read(node: Node) -> Result<Self, Problem> {
        let mut fields = Fields::of(node, "field `option`")?;
        let guard = Self {
            path: package(&fields.text("package")?)?,
            section: selector(&mut fields, "section")?,
            option: name(&mut fields, "option")?,
            value: fields.text("value")?.into(),
        };
        fields.end()?;
        Ok(guard)
    }
}

fn ops(nodes: Vec<Node>, field: &str) -> Result<Vec<Op>, Problem> {
    let read = |(index, node)| {
        let mut op = String::new();
        Op::read(node, &mut op).map_err(|problem| {
            let space = if op.is_empty() { "" } else { " " };
            format!("{field}[{index}]{space}{op}: {problem}")
        })
    };
    nodes.into_iter().enumerate().map(read).collect()
}

impl Op {
    /// Reads an operation; `name` gets its name as soon as that is known.
    fn read(node: Node, name_of: &mut String) -> Result<Self, Problem> {
        let mut fields = Fields::of(node, "it")?;
        let f = &mut fields;
        *name_of = f.text("op")?;
        let op = match name_of.as_str() {
            "uci.rename_option" => {
                let (from, to) = (name(f, "from")?, name(f, "to")?);
                if from == to {
                    return Err("fields `from` and `to` are the same".into());
                }
                Self::edit(f, Edit::Rename { from, to })?
            }
            "uci.map" => {
                let option = name(f, "option")?;
                let to = optional_name(f, "to_option")?.unwrap_or_else(|| option.clone());
                let in_place = option == to;
                let map = mapping(f.required("map")?, in_place)?;
                Self::edit(f, Edit::Map { option, to, map })?
            }
            "uci.to_list" => {
                let option = name(f, "option")?;
                Self::edit(f, Edit::ToList { option })?
            }
            "uci.to_option" => {
                let option = name(f, "option")?;
                Self::edit(f, Edit::ToOption { option })?
            }
            "uci.set_type" => {
                let kind = kind(f, "type")?;
                Self::edit(f, Edit::SetType { kind })?
            }
            "uci.delete_option" => {
                let option = name(f, "option")?;
                Self::edit(f, Edit::Delete { option })?
            }
            "uci.set_default" => {
                let (option, value) = (name(f, "option")?, value(f, "value")?);
                Self::edit(f, Edit::SetDefault { option, value })?
            }
            "uci.set_option" => {
                let (option, value) = (name(f, "option")?, value(f, "value")?);
                Self::edit(f, Edit::SetOption { option, value })?
            }
            "uci.name_section" => Self::NameSection {
                path: package(&f.text("package")?)?,
                section: match selector(f, "section")? {
                    selector @ Selector::Type { .. } => selector,
                    _ => return Err("field `section` does not begin with `@`".into()),
                },
                name: name(f, "name")?,
            },
            "uci.rename_section" => Self::RenameSection {
                path: package(&f.text("package")?)?,
                from: name(f, "from")?,
                to: name(f, "to")?,
            },
            "uci.delete_section" => Self::DeleteSection {
                path: package(&f.text("package")?)?,
                section: not_counted(selector(f, "section")?)?,
            },
            "uci.move_option" => Self::MoveOption(MoveOption::read(f)?),
            "uci.rename_package" => Self::MoveFile {
                from: package(&f.text("from")?)?,
                to: package(&f.text("to")?)?,
            },
            "uci.builtin" => {
                let path = package(&f.text("package")?)?;
                let builtin = Builtin::named(&f.text("name")?)?;
                if let Some(params) = f.optional("params") {
                    let params = Fields::of(params, "field `params`")?;
                    params
                        .end()
                        .map_err(|problem| format!("params: {problem}"))?;
                }
                Self::Builtin { path, builtin }
            }
            "text.replace_line" => {
                let (from, to) = (line(f, "match")?, line(f, "replace")?);
                Self::lines(f, LineEdit::Replace { from, to })?
            }
            "text.ensure_line" => {
                let line = line(f, "line")?;
                Self::lines(f, LineEdit::Ensure { line })?
            }
            "text.delete_line" => {
                let line = line(f, "match")?;
                Self::lines(f, LineEdit::Delete { line })?
            }
            "file.move" => Self::MoveFile {
                from: path(f, "from")?,
                to: path(f, "to")?,
            },
            "file.delete" => Self::DeleteFile {
                path: path(f, "path")?,
            },
            "file.chmod" => {
                let path = path(f, "path")?;
                let mode = f.text("mode")?;
                let octal = mode.bytes().all(|digit| digit.is_ascii_digit());
                let mode = u32::from_str_radix(&mode, 8).ok().filter(|_| octal);
                let mode = mode.filter(|mode| *mode <= 0o777);
                let problem = "field `mode` is not an octal text of at most 0777";
                let mode = mode.ok_or(problem)?;
                Self::Chmod { path, mode }
            }
            "file.fingerprint" => {
                let path = path(f, "path")?;
                let sums = f.texts("sha256")?.into_iter().map(|sum| {
                    let problem = || format!("field `sha256`: `{sum}` is not 64 hex digits");
                    Digest::parse(&sum).ok_or_else(problem)
                });
                let sums = sums.collect::<Result<_, _>>()?;
                Self::Fingerprint { path, sums }
            }
            "script" => return Err("this operation is not in this version".into()),
            _ => return Err("unknown operation".into()),
        };
        fields.end()?;
        Ok(op)
    }

    fn edit(fields: &mut Fields, edit: Edit) -> Result<Self, Problem> {
        let section = selector(fields, "section")?;
        let section = match (&edit, section) {
            // The old type must be known, or there would be no way back.
            (Edit::SetType { .. }, section @ Selector::Type { .. }) => not_counted(section)?,
            (Edit::SetType { .. }, _) => return Err("field `section` is not `@TYPE`".into()),
            (_, section) => section,
        };
        Ok(Self::Edit {
            path: package(&fields.text("package")?)?,
            section,
            edit,
        })
    }

    fn lines(fields: &mut Fields, edit: LineEdit) -> Result<Self, Problem> {
        Ok(Self::Lines {
            path: path(fields, "path")?,
            edit,
        })
    }
}

impl MoveOption {
    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        let path = package(&fields.text("package")?)?;
        let option = name(fields, "option")?;
        let to_path = match fields.optional_text("to_package")? {
            Some(name) => package(&name)?,
            None => path.clone(),
        };
        Ok(Self {
            section: selector(fields, "section")?,
            to_section: selector(fields, "to_section")?,
            to_option: optional_name(fields, "to_option")?.unwrap_or_else(|| option.clone()),
            to_type: match fields.has("to_type") {
                true => Some(kind(fields, "to_type")?),
                false => None,
            },
            path,
            option,
            to_path,
        })
    }
}

/// The values of a map; `in_place` if the mapped value stays in the same option.
fn mapping(node: Node, in_place: bool) -> Result<Mapping, Problem> {
    let pair = |node: Node| match node {
        Node::List(mut pair) if pair.len() == 2 => {
            let to = pair.pop();
            match (pair.pop(), to) {
                (Some(Node::Text(from)), Some(to)) => Ok((from, to)),
                _ => Err("field `map`: a pair does not begin with a text".to_owned()),
            }
        }
        _ => Err("field `map`: not a pair of old and new value".to_owned()),
    };
    let pairs: Vec<(String, Node)> = match node {
        Node::Table(entries) => entries,
        Node::List(pairs) => pairs.into_iter().map(pair).collect::<Result<_, _>>()?,
        _ => return Err("field `map` is neither a table nor a list of pairs".into()),
    };
    let mut map = Mapping::default();
    for (from, to) in pairs {
        let to = match to {
            Node::Null => None,
            Node::List(items) if items.is_empty() => None,
            to => Some(value_of(to).ok_or_else(|| format!("field `map`: bad value of `{from}`"))?),
        };
        if !map.insert(from.clone().into_bytes(), to) {
            return Err(format!("field `map`: `{from}` is there twice"));
        }
    }
    if map.is_empty() {
        return Err("field `map` is empty".into());
    }
    match map.moved_twice().filter(|_| in_place) {
        // Run twice, it would not be the same as run once.
        Some(value) => Err(format!(
            "field `map`: `{}` is both an old and a new value",
            String::from_utf8_lossy(value)
        )),
        None => Ok(map),
    }
}

fn value(fields: &mut Fields, field: &str) -> Result<Value, Problem> {
    let problem = || format!("field `{field}` is neither a text nor a list of texts");
    value_of(fields.required(field)?).ok_or_else(problem)
}

/// A text with something in it, or a list of texts with something in it.
fn value_of(node: Node) -> Option<Value> {
    match node {
        Node::Text(text) if !text.is_empty() => Some(Value::One(text.into_bytes())),
        Node::List(items) if !items.is_empty() => {
            let items = items.into_iter().map(|item| match item {
                Node::Text(text) => Some(text.into_bytes()),
                _ => None,
            });
            Some(Value::List(items.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// A file of UCI: its name becomes part of a path, and names with a dot are no packages.
fn package(name: &str) -> Result<EntryPath, Problem> {
    let problem = || format!("`{name}` is not the name of a package");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !name.bytes().all(plain) {
        return Err(problem());
    }
    EntryPath::new(&[b"etc/config/", name.as_bytes()].concat()).map_err(|_| problem())
}

/// A type of sections.
fn kind(fields: &mut Fields, field: &str) -> Result<Vec<u8>, Problem> {
    let text = fields.text(field)?;
    if uci::is_kind(text.as_bytes()) {
        Ok(text.into_bytes())
    } else {
        Err(format!("field `{field}`: `{text}` is not a type"))
    }
}

/// A name of a section or an option.
fn name(fields: &mut Fields, field: &str) -> Result<Vec<u8>, Problem> {
    check_name(fields.text(field)?, field)
}

fn optional_name(fields: &mut Fields, field: &str) -> Result<Option<Vec<u8>>, Problem> {
    let text = fields.optional_text(field)?;
    text.map(|text| check_name(text, field)).transpose()
}

fn check_name(text: String, field: &str) -> Result<Vec<u8>, Problem> {
    if uci::is_name(text.as_bytes()) {
        Ok(text.into_bytes())
    } else {
        Err(format!("field `{field}`: `{text}` is not a name"))
    }
}

fn selector(fields: &mut Fields, field: &str) -> Result<Selector, Problem> {
    let text = fields.text(field)?;
    let problem = || format!("field `{field}`: `{text}` is not NAME, @TYPE, @TYPE[INDEX] or *");
    Selector::parse(&text).ok_or_else(problem)
}

/// Refuses an index where the operation changes what is counted: run twice, it would go for another
/// section.
fn not_counted(selector: Selector) -> Result<Selector, Problem> {
    match selector {
        Selector::Type { index: Some(_), .. } => {
            Err("field `section`: this operation takes no index".into())
        }
        selector => Ok(selector),
    }
}

fn path(fields: &mut Fields, field: &str) -> Result<EntryPath, Problem> {
    let text = fields.text(field)?;
    let path = EntryPath::new(text.as_bytes())
        .map_err(|why| format!("field `{field}`: `{text}` {}", why.problem()))?;
    if path.is_within(STATE_DIR) {
        return Err(format!("field `{field}`: `{text}` is not configuration"));
    }
    Ok(path)
}

fn line(fields: &mut Fields, field: &str) -> Result<Vec<u8>, Problem> {
    let text = fields.text(field)?;
    if text.contains('\n') {
        return Err(format!("field `{field}` is more than one line"));
    }
    Ok(text.into_bytes())
}

/// The numbers that a release begins with; nothing for a snapshot, which has none.
pub(super) fn release(text: &str) -> Option<Vec<u64>> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let numbers = text.get(..end.unwrap_or(text.len()))?;
    let numbers = numbers.trim_end_matches('.').split('.');
    numbers.map(|number| number.parse().ok()).collect()
}
