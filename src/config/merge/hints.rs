//! What makes sections and items of UCI packages the same thing in two files, and which options hold
//! secrets: `hints.json`.
//!
//! Unnamed sections have no identity of their own. Of most types one option tells them apart, such as
//! the name of a firewall rule; that is knowledge about packages, so it is data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::config::uci::{Section, Value};

/// Hints for all packages.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Document")]
pub(crate) struct Hints {
    sections: BTreeMap<String, TypeHint>,
    secret_options: BTreeSet<String>,
}

/// Hints for a type of section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypeHint {
    /// At most one section of this type is meaningful.
    #[serde(default)]
    pub(super) single: bool,
    /// Alternatives, the best first: options that together identify an unnamed section.
    #[serde(default)]
    key: Vec<Vec<String>>,
    /// By option: the text before this separator identifies an item of the list.
    #[serde(default)]
    listkey: BTreeMap<String, String>,
}

/// The document as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    #[serde(rename = "about")]
    _about: String,
    sections: BTreeMap<String, TypeHint>,
    secret_options: BTreeSet<String>,
}

impl TryFrom<Document> for Hints {
    type Error = String;

    fn try_from(document: Document) -> Result<Self, Self::Error> {
        if document.format != 1 {
            return Err(format!("unknown format {}", document.format));
        }
        let shown = document.sections.values().flat_map(|hint| {
            let keys = hint.key.iter().flatten();
            keys.chain(hint.listkey.keys())
        });
        for option in shown {
            if document.secret_options.contains(option) {
                return Err(format!(
                    "`{option}` is secret, but names a section or an item"
                ));
            }
        }
        Ok(Self {
            sections: document.sections,
            secret_options: document.secret_options,
        })
    }
}

impl Hints {
    /// The hints of this program.
    pub(crate) fn built_in() -> &'static Self {
        static BUILT_IN: LazyLock<Hints> = LazyLock::new(|| {
            serde_json::from_slice(include_bytes!("hints.json"))
                .expect("part of this program; a test reads it")
        });
        &BUILT_IN
    }

    /// True if no value of options of this name may be shown.
    pub(crate) fn is_secret(&self, option: &[u8]) -> bool {
        str::from_utf8(option).is_ok_and(|option| self.secret_options.contains(option))
    }

    /// The most alternatives that a type of section has for its key.
    pub(super) fn most_alternatives(&self) -> usize {
        let numbers = self.sections.values().map(|hint| hint.key.len());
        numbers.max().unwrap_or(0)
    }

    /// Those for a type of section.
    pub(super) fn of_type(&self, package: &str, kind: &[u8]) -> &TypeHint {
        static NONE: TypeHint = TypeHint {
            single: false,
            key: Vec::new(),
            listkey: BTreeMap::new(),
        };
        str::from_utf8(kind)
            .ok()
            .and_then(|kind| self.sections.get(&format!("{package}.{kind}")))
            .unwrap_or(&NONE)
    }
}

impl TypeHint {
    /// The values of the `nth` alternative, if the section has all of them.
    pub(super) fn key<'a>(&self, nth: usize, section: &'a Section) -> Option<Vec<&'a Value>> {
        let present = |option: &String| {
            let value = section.get(option.as_bytes());
            value.filter(|value| !value.is_absent())
        };
        self.key.get(nth)?.iter().map(present).collect()
    }

    /// Those of the first alternative that the section has.
    pub(super) fn best_key<'a>(&self, section: &'a Section) -> Option<Vec<&'a Value>> {
        (0..self.key.len()).find_map(|nth| self.key(nth, section))
    }

    /// What ends the identity of an item of this list, if it is not the whole item.
    pub(super) fn separator(&self, option: &[u8]) -> Option<&[u8]> {
        let separator = self.listkey.get(str::from_utf8(option).ok()?)?;
        Some(separator.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_hints_are_readable() {
        let hints = Hints::built_in();
        assert!(hints.of_type("system", b"system").single);
        assert_eq!(
            hints.of_type("dhcp", b"host").key,
            [["mac".to_owned()], ["name".to_owned()]]
        );
        let vlan = hints.of_type("network", b"bridge-vlan");
        assert_eq!(vlan.separator(b"ports"), Some(b":".as_slice()));
        assert_eq!(vlan.separator(b"device"), None);
    }

    #[test]
    fn a_type_without_hints_has_no_key_and_may_occur_often() {
        for kind in [b"unheard-of".as_slice(), b"\xff", b""] {
            let hint = Hints::built_in().of_type("firewall", kind);
            assert!(!hint.single && hint.key.is_empty());
        }
    }

    #[test]
    fn passwords_and_keys_are_secret_by_the_whole_name_of_their_option() {
        let hints = Hints::built_in();
        assert!(hints.is_secret(b"key") && hints.is_secret(b"sae_password"));
        assert!(!hints.is_secret(b"ssid"));
        assert!(!hints.is_secret(b"key_type"));
        assert!(!hints.is_secret(b"\xff"));
    }

    #[test]
    fn nothing_secret_names_a_section_or_an_item() {
        for hint in [
            r#""key":[["name"],["type","token"]]"#,
            r#""listkey":{"token":":"}"#,
        ] {
            let text = format!(
                r#"{{"format":1,"about":"","sections":{{"a.b":{{{hint}}}}},"secret_options":["token"]}}"#
            );
            let error = serde_json::from_str::<Hints>(&text).unwrap_err();
            assert!(error.to_string().contains("`token` is secret"), "{error}");
        }
    }

    #[test]
    fn hints_of_another_format_are_refused() {
        let text = r#"{"format":2,"about":"","sections":{},"secret_options":[]}"#;
        let error = serde_json::from_str::<Hints>(text).unwrap_err();
        assert!(error.to_string().contains("unknown format 2"), "{error}");
    }
}
