//! TOML into values: board files, and steps as their authors write them.
//!
//! The toml crate parses; this file hands what it parsed to serde. The crate's own way builds every type
//! three times, from a table, from an array and from a date, around an error of 88 bytes. Here a struct is
//! made of a table and of nothing else, and an error is one pointer: half the code for the same answer.
//!
//! A problem is found at the innermost value that it is about, an unknown key at the key, what is missing
//! at the table where it belongs.

use std::fmt::Display;
use std::ops::Range;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Error as _, Expected, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// Why a text is not what it should be.
#[derive(Debug)]
pub struct TomlError(Box<Problem>);

#[derive(Debug)]
struct Problem {
    message: String,
    /// First byte of what it is about.
    start: Option<usize>,
}

impl TomlError {
    /// In one line, lower case, no full stop.
    #[must_use]
    pub fn problem(&self) -> String {
        self.0.message.trim().replace('\n', ", ")
    }

    /// Line of the text that it is about, from 1.
    #[must_use]
    pub fn line(&self, text: &str) -> usize {
        line_of(text, self.0.start.unwrap_or(0))
    }

    /// About this place, if it is not about one inside.
    fn within(mut self, span: &Range<usize>) -> Self {
        self.0.start.get_or_insert(span.start);
        self
    }
}

impl Display for TomlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem())
    }
}

impl std::error::Error for TomlError {}

impl de::Error for TomlError {
    fn custom<T: Display>(message: T) -> Self {
        let message = message.to_string();
        Self(Box::new(Problem {
            message,
            start: None,
        }))
    }
}

/// Line of a byte of a text, from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.bytes().take(offset);
    before.filter(|byte| *byte == b'\n').count() + 1
}

/// Reads a document.
///
/// # Errors
/// Syntax, and whatever does not make a `T`.
pub fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, TomlError> {
    let table = DeTable::parse(text).map_err(|error| {
        let problem = TomlError::custom(error.message());
        match error.span() {
            Some(span) => problem.within(&span),
            None => problem,
        }
    })?;
    let span = table.span();
    let value = DeValue::Table(table.into_inner());
    T::deserialize(Place { value, span })
}

/// A value of the document, and where it stands.
struct Place<'de> {
    value: DeValue<'de>,
    span: Range<usize>,
}

impl<'de> Place<'de> {
    fn new(value: Spanned<DeValue<'de>>) -> Self {
        Self {
            span: value.span(),
            value: value.into_inner(),
        }
    }

    /// What cannot be made of it.
    fn is_not(&self, expected: &dyn Expected) -> TomlError {
        let found = match &self.value {
            DeValue::String(text) => Unexpected::Str(text),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Unexpected::Other("integer"), Unexpected::Signed),
            DeValue::Float(number) => {
                let number = number.as_str().parse();
                number.map_or(Unexpected::Other("floating point"), Unexpected::Float)
            }
            DeValue::Boolean(value) => Unexpected::Bool(*value),
            DeValue::Datetime(_) => Unexpected::Other("date"),
            DeValue::Array(_) => Unexpected::Seq,
            DeValue::Table(_) => Unexpected::Map,
        };
        TomlError::invalid_type(found, expected).within(&self.span)
    }

    fn integer(&self, expected: &dyn Expected) -> Result<i64, TomlError> {
        let DeValue::Integer(number) = &self.value else {
            return Err(self.is_not(expected));
        };
        i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| TomlError::custom("integer number overflowed").within(&self.span))
    }
}

/// Each number type refuses what is out of its own range.
macro_rules! integers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
            let number = self.integer(&visitor)?;
            visitor.visit_i64(number).map_err(|error: TomlError| error.within(&self.span))
        })*
    };
}

impl<'de> Deserializer<'de> for Place<'de> {
    type Error = TomlError;

    /// For what is made of more than one kind of value.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        match &self.value {
            DeValue::String(_) => self.deserialize_str(visitor),
            DeValue::Integer(_) => self.deserialize_i64(visitor),
            DeValue::Boolean(_) => self.deserialize_bool(visitor),
            DeValue::Array(_) => self.deserialize_seq(visitor),
            DeValue::Table(_) => self.deserialize_map(visitor),
            DeValue::Float(_) | DeValue::Datetime(_) => Err(self.is_not(&visitor)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        match self.value {
            DeValue::Boolean(value) => visitor.visit_bool(value),
            _ => Err(self.is_not(&visitor)),
        }
    }

    integers! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i64 }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        match self.value {
            DeValue::String(text) => visitor.visit_string(text.into_owned()),
            _ => Err(self.is_not(&visitor)),
        }
        .map_err(|error: TomlError| error.within(&self.span))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        match self.value {
            DeValue::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            _ => Err(self.is_not(&visitor)),
        }
        .map_err(|error: TomlError| error.within(&self.span))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, TomlError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        match self.value {
            DeValue::Table(table) => visitor.visit_map(Entries {
                left: table.into_iter(),
                value: None,
            }),
            _ => Err(self.is_not(&visitor)),
        }
        .map_err(|error: TomlError| error.within(&self.span))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TomlError> {
        self.deserialize_map(visitor)
    }

    /// A key that is there is `Some`.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TomlError> {
        visitor.visit_some(self)
    }

    /// Variants are words.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TomlError> {
        match &self.value {
            DeValue::String(word) => {
                let variant = visitor.visit_enum(StrDeserializer::new(word));
                variant.map_err(|error: TomlError| error.within(&self.span))
            }
            _ => Err(self.is_not(&visitor)),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct
        tuple_struct identifier ignored_any
    }
}

/// What is left of an array.
struct Items<'de>(<DeArray<'de> as IntoIterator>::IntoIter);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = TomlError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, TomlError> {
        let item = self.0.next();
        item.map(|item| seed.deserialize(Place::new(item)))
            .transpose()
    }
}

/// What is left of a table.
struct Entries<'de> {
    left: <DeTable<'de> as IntoIterator>::IntoIter,
    /// That of the key that was read last.
    value: Option<Spanned<DeValue<'de>>>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = TomlError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, TomlError> {
        let Some((key, value)) = self.left.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        let name = seed.deserialize(StrDeserializer::new(key.get_ref()));
        name.map(Some)
            .map_err(|error: TomlError| error.within(&key.span()))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TomlError> {
        let value = self.value.take().expect("serde asks for the key first");
        let span = value.span();
        let read = seed.deserialize(Place::new(value));
        read.map_err(|error| error.within(&span))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Router {
        name: String,
        #[serde(default)]
        ports: Vec<u16>,
        light: Option<Light>,
        #[serde(default)]
        rooms: BTreeMap<String, Room>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Light {
        On,
        Off,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Room {
        warm: bool,
    }

    #[test]
    fn a_document_becomes_what_its_types_say() {
        let text = "name = 'x'\nports = [1, 0x10, +1_000, 0b1, 0o7_7]\nlight = 'off'\n[rooms.hall]\nwarm = true\n";
        let router: Router = read(text).unwrap();
        assert_eq!(
            router,
            Router {
                name: "x".to_owned(),
                ports: vec![1, 16, 1000, 1, 63],
                light: Some(Light::Off),
                rooms: BTreeMap::from([("hall".to_owned(), Room { warm: true })]),
            }
        );
    }

    #[test]
    fn a_problem_is_told_with_the_line_of_what_it_is_about() {
        for (text, line, problem) in [
            (
                "name =",
                1,
                "string values must be quoted, expected literal string",
            ),
            (
                "\nname = 5",
                2,
                "invalid type: integer `5`, expected a string",
            ),
            (
                "\nname = 1.5",
                2,
                "invalid type: floating point `1.5`, expected a string",
            ),
            (
                "\nname = 2020-01-01",
                2,
                "invalid type: date, expected a string",
            ),
            (
                "\nname = ['x']",
                2,
                "invalid type: sequence, expected a string",
            ),
            (
                "\nname = true",
                2,
                "invalid type: boolean `true`, expected a string",
            ),
            (
                "name = 'x'\nports = 'y'",
                2,
                "invalid type: string \"y\", expected a sequence",
            ),
            (
                "name = 'x'\nports = [1,\n'y']",
                3,
                "invalid type: string \"y\", expected u16",
            ),
            (
                "name = 'x'\nports = [1,\n-1]",
                3,
                "invalid value: integer `-1`, expected u16",
            ),
            (
                "name = 'x'\nports = [9223372036854775808]",
                2,
                "integer number overflowed",
            ),
            (
                "name = 'x'\nlight = 'dim'",
                2,
                "unknown variant `dim`, expected `on` or `off`",
            ),
            (
                "name = 'x'\nlight = 1",
                2,
                "invalid type: integer `1`, expected enum Light",
            ),
            (
                "name = 'x'\n[rooms]\nhall = 'y'",
                3,
                "invalid type: string \"y\", expected struct Room",
            ),
            (
                "name = 'x'\n[rooms]\n[rooms.hall]",
                3,
                "missing field `warm`",
            ),
            (
                "name = 'x'\n[rooms.hall]\nwarm = true\ncold = 1",
                4,
                "unknown field `cold`, expected `warm`",
            ),
        ] {
            let error = read::<Router>(text).unwrap_err();
            assert_eq!(
                (error.line(text), &*error.problem()),
                (line, problem),
                "{text}"
            );
        }
    }
}
