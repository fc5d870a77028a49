//! A definition as it was written, and how its fields are read.
//!
//! Definitions come as TOML from their authors, as JSON in an image, and as JSON from the state of
//! an older or newer system. They are read into one small tree first. It keeps the order of keys (that
//! of a value map has a meaning), it is what the state stores, so that a definition comes back with
//! all that its author wrote, and it lets one reader say of both languages which field is wrong.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Node>),
    /// Keys in the order of the document, none of them twice.
    Table(Vec<(String, Node)>),
}

impl Node {
    /// A field of a table.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        match self {
            Self::Table(entries) => {
                let mut entries = entries.iter_mut();
                entries.find(|(key, _)| key == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, an integer, true, false, null, a list or a table")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Int(value))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
                let value = i64::try_from(value);
                value
                    .map(Node::Int)
                    .map_err(|_| E::custom("number too large"))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
                // Neither a path nor a value nor a line of a text can hold it.
                if value.contains('\0') {
                    return Err(E::custom("a NUL character"));
                }
                Ok(Node::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                let mut table: Vec<(String, Node)> = Vec::new();
                let mut keys = BTreeSet::new();
                while let Some((key, value)) = entries.next_entry::<String, Node>()? {
                    if !keys.insert(key.clone()) {
                        return Err(de::Error::custom(format_args!("`{key}` is there twice")));
                    }
                    table.push((key, value));
                }
                Ok(Node::Table(table))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Table(entries) => {
                let mut table = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    table.serialize_entry(key, value)?;
                }
                table.end()
            }
        }
    }
}

/// What is wrong with a definition, in words that name the field.
pub(super) type Problem = String;

/// The fields of a table that are not read yet.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, Node)>);

impl Fields {
    /// The fields of a value that must be a table; `what` is its name in a message.
    pub(super) fn of(node: Node, what: &str) -> Result<Self, Problem> {
        match node {
            Node::Table(entries) => Ok(Self(entries)),
            _ => Err(format!("{what} is not a table")),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// A field that may be absent.
    pub(super) fn optional(&mut self, name: &str) -> Option<Node> {
        let index = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(index).1)
    }

    pub(super) fn required(&mut self, name: &str) -> Result<Node, Problem> {
        let missing = || format!("field `{name}` is missing");
        self.optional(name).ok_or_else(missing)
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, name: &str) -> Result<String, Problem> {
        text(self.required(name)?, name)
    }

    pub(super) fn optional_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let node = self.optional(name);
        node.map(|node| text(node, name)).transpose()
    }

    pub(super) fn integer(&mut self, name: &str) -> Result<i64, Problem> {
        match self.required(name)? {
            Node::Int(value) => Ok(value),
            _ => Err(format!("field `{name}` is not an integer")),
        }
    }

    pub(super) fn optional_bool(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.optional(name) {
            None => Ok(None),
            Some(Node::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(format!("field `{name}` is neither true nor false")),
        }
    }

    /// A list that is not empty.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Node>, Problem> {
        match self.required(name)? {
            Node::List(items) if !items.is_empty() => Ok(items),
            _ => Err(format!("field `{name}` is not a list with something in it")),
        }
    }

    /// A list of texts that is not empty.
    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, Problem> {
        let items = self.list(name)?.into_iter();
        items.map(|item| text(item, name)).collect()
    }

    /// Refuses what nobody has read.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("unknown field `{name}`")),
        }
    }
}

fn text(node: Node, name: &str) -> Result<String, Problem> {
    match node {
        Node::Text(text) if !text.is_empty() => Ok(text),
        _ => Err(format!("field `{name}` is not a text with something in it")),
    }
}
