//! What a system remembers of its migrations: which steps were run, with their whole definitions,
//! and the values that undoing them would not bring back by itself.
//!
//! ```text
//! {"format": 1,
//!  "applied": [{"step": {"id": "wireless-hwmode-to-band", ...},
//!               "attic": [{"op": 0, "of": "user", "path": "etc/config/wireless",
//!                          "was": {"section": {"section": "radio1", "before": {"band": null, "hwmode": "11b"}}}}]}]}
//! ```
//!
//! It is a set of steps, not a version number: branches get the same step at different times. An
//! older image, which has never heard of a step, undoes it with the definition from here. Values and
//! names are text as that of an [`EntryPath`]. They may be secrets: the file is its owner's alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::definition::{Migration, Op, check_format};
use super::{FORMAT, Facts, Given, StepError};
use crate::config::path::{EntryPath, escape, unescape};
use crate::config::tree::Entry;
use crate::config::uci::Value;

/// The largest state that is read: the definitions of the largest set, and the attic. An archive
/// carries no larger one.
const MAX_STATE: usize = 1 << 20;

/// The most bytes that all attics of a state hold, about. Flash is small, and what is lost is told.
const MAX_ATTIC: usize = 256 << 10;

/// The steps that were run on a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// In the order in which they were run.
    pub(crate) applied: Vec<Applied>,
}

/// A step that was run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Applied {
    /// Its definition.
    pub(crate) step: Migration,
    /// What undoing it would not bring back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attic: Vec<Kept>,
}

/// Whose tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Owner {
    Default,
    User,
}

/// What was before an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Place of the operation in the step.
    pub(super) op: u64,
    pub(super) of: Owner,
    pub(super) path: EntryPath,
    pub(super) was: Was,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Was {
    /// Already as the operation would have made it: undoing leaves it alone.
    Done,
    /// A section.
    Section {
        /// How it is spoken of after the operation.
        section: String,
        /// Of a section without a name: how many of its type there were.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        among: Option<u64>,
        /// Its options, where the operation changed them; absent ones are null. Absent: it changed
        /// nothing, and undoing leaves the section alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<BTreeMap<Text, Option<Kind>>>,
    },
    /// A section that was deleted.
    Deleted {
        /// Its place among all sections.
        place: u64,
        /// As it is written in a package.
        text: Text,
    },
    /// A line that was deleted.
    Line {
        place: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Text>,
        line: Text,
    },
    /// What stood at the path; absent if nothing did.
    Entry {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entry: Option<Entry>,
        /// Of a file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<Text>,
    },
    /// Permissions.
    Mode { mode: u32 },
}

/// Bytes, as text without loss.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(pub(super) Vec<u8>);

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unescape(&text);
        bytes
            .map(Self)
            .ok_or_else(|| de::Error::custom("bad escape in a text"))
    }
}

/// A value of an option, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Kind {
    /// One text.
    One(Text),
    /// A list.
    List(Vec<Text>),
}

impl From<&Value> for Kind {
    fn from(value: &Value) -> Self {
        match value {
            Value::One(text) => Self::One(Text(text.clone())),
            Value::List(items) => Self::List(items.iter().cloned().map(Text).collect()),
        }
    }
}

impl From<&Kind> for Value {
    fn from(kind: &Kind) -> Self {
        match kind {
            Kind::One(text) => Self::One(text.0.clone()),
            Kind::List(items) => Self::List(items.iter().map(|item| item.0.clone()).collect()),
        }
    }
}

impl State {
    /// Where a system has it.
    pub(crate) const PATH: &'static str = "etc/sysupgrade/state.json";

    /// Reads it, strictly: a state that is not understood cannot be undone either.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, StepError> {
        #[derive(Deserialize)]
        struct Format {
            format: i64,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            #[serde(rename = "format")]
            _format: i64,
            applied: Vec<Applied>,
        }
        if json.len() > MAX_STATE {
            return Err(StepError::TooLong { most: MAX_STATE });
        }
        // The number first: of a newer format nothing else may be understood.
        let Format { format } = serde_json::from_slice(json).map_err(StepError::Syntax)?;
        check_format(format)?;
        let document: Document = serde_json::from_slice(json).map_err(StepError::Syntax)?;
        let mut ids = BTreeSet::new();
        for applied in &document.applied {
            if !ids.insert(&*applied.step.id) {
                return Err(StepError::Duplicate {
                    id: applied.step.id.clone(),
                });
            }
        }
        Ok(Self {
            applied: document.applied,
        })
    }

    /// Writes it.
    pub(crate) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Document<'a> {
            format: i64,
            applied: &'a [Applied],
        }
        let mut json = serde_json::to_vec(&Document {
            format: FORMAT,
            applied: &self.applied,
        })?;
        json.push(b'\n');
        Ok(json)
    }

    /// How many bytes may still be kept.
    pub(super) fn room(&self) -> usize {
        let kept = self.applied.iter().flat_map(|applied| &applied.attic);
        MAX_ATTIC.saturating_sub(kept.map(Kept::size).sum())
    }
}

impl Applied {
    /// A step that counts as run, with the values that somebody else kept for it.
    pub(crate) fn with_facts(step: Migration, facts: &Facts) -> Self {
        let mut attic = Vec::new();
        for given in facts.attic.iter().filter(|given| given.is_of(&step)) {
            for (op, edited) in step.steps.iter().enumerate() {
                let Op::Edit { path, edit, .. } = edited else {
                    continue;
                };
                if !given.is_at(path) || !edit.concerns(given.option.as_bytes()) {
                    continue;
                }
                for (of, value) in [
                    (Owner::User, &given.value),
                    (Owner::Default, &given.default),
                ] {
                    let Some(value) = value else { continue };
                    let before = [(Text(given.option.clone().into()), Some(value.clone()))];
                    attic.push(Kept {
                        op: op as u64,
                        of,
                        path: path.clone(),
                        was: Was::Section {
                            section: given.section.clone(),
                            among: None,
                            before: Some(before.into()),
                        },
                    });
                }
            }
        }
        Self { step, attic }
    }
}

impl Given {
    fn is_of(&self, step: &Migration) -> bool {
        self.id.as_ref().is_none_or(|id| *id == step.id)
    }
}

impl Kept {
    /// Bytes it takes in the state, about.
    fn size(&self) -> usize {
        let text = |text: &Text| {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b' ';
            let bytes = text.0.iter();
            bytes
                .map(|byte| if plain(byte) { 1 } else { 6 })
                .sum::<usize>()
        };
        let value = |value: &Option<Kind>| match value {
            None => 4,
            Some(Kind::One(one)) => text(one),
            Some(Kind::List(items)) => items.iter().map(|item| text(item) + 3).sum(),
        };
        let content = match &self.was {
            Was::Done | Was::Mode { .. } => 0,
            Was::Section {
                section, before, ..
            } => {
                let options = before.iter().flatten();
                section.len() + options.map(|(k, v)| text(k) + value(v)).sum::<usize>()
            }
            Was::Deleted { text: section, .. } => text(section),
            Was::Line { after, line, .. } => after.as_ref().map_or(0, text) + text(line),
            Was::Entry { bytes, .. } => bytes.as_ref().map_or(0, text),
        };
        self.path.as_bytes().len() + content + 64
    }
}

/// The attic of a step that is being run.
#[derive(Debug)]
pub(super) struct Attic<'a> {
    pub(super) kept: &'a mut Vec<Kept>,
    pub(super) room: &'a mut usize,
}

impl Attic<'_> {
    /// Keeps it, if there is room; false otherwise.
    pub(super) fn keep(&mut self, kept: Kept) -> bool {
        let Some(room) = self.room.checked_sub(kept.size()) else {
            return false;
        };
        *self.room = room;
        self.kept.push(kept);
        true
    }
}
