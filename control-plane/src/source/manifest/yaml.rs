// SPDX-License-Identifier: Apache-2.0
//! YAML (and JSON, which is YAML) text to trees of values that know their lines.
//!
//! Parsing is strict: a key written twice is an error. **Invariant:** what a file can make the
//! parser do is bounded: nesting by [`MAX_DEPTH`], nodes and alias replays by budgets, so that
//! neither a deep file nor an alias bomb costs more than its refusal.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The deepest nesting of lists and maps. Kubernetes objects stay below twenty; the parser takes
/// some 40 KiB of stack for each level in a debug build, and threads have 2 MiB.
pub const MAX_DEPTH: usize = 32;
/// The most lists, maps and scalars in one file: what 10 MB of small scalars can hold.
const MAX_NODES: usize = 4_000_000;
/// The most nodes that aliases of one file may repeat.
const MAX_REPLAYED: usize = 100_000;
/// The most documents in one file.
const MAX_DOCUMENTS: usize = 100_000;

/// A value and the line it starts on.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Counted from 1.
    pub line: u32,
    /// What is there.
    pub value: Value,
}

/// A value of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order written; keys are unique.
    Map(Vec<Entry>),
}

impl Value {
    /// What it is called in messages.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// A key of a map and what it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The line of the key.
    pub line: u32,
    /// The value.
    pub node: Node,
}

/// Why a text is no YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct YamlError {
    /// Where; 0 if not known.
    pub line: u32,
    /// What is wrong, in one line.
    pub reason: String,
}

/// Reads all documents of a text.
///
/// # Errors
/// If the text is not well-formed YAML or exceeds a budget.
pub fn parse(text: &str) -> Result<Vec<Node>, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents: Result<Vec<Spanned<Value>>, _> =
        serde_saphyr::from_multiple_with_options(text, options());
    match documents {
        Ok(documents) => Ok(documents.into_iter().map(Node::from).collect()),
        Err(error) => {
            let line = error
                .location()
                .map_or(0, |location| line_number(location.line()));
            let formatter = serde_saphyr::UserMessageFormatter;
            let text =
                serde_saphyr::MessageFormatter::format_message(&formatter, error.without_snippet());
            let reason = text.split_whitespace().collect::<Vec<_>>().join(" ");
            Err(YamlError { line, reason })
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_documents: MAX_DOCUMENTS,
            max_recorded_anchor_events: MAX_REPLAYED,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
        },
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
    }
}

fn line_number(line: u64) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self {
            line: line_number(spanned.referenced.line()),
            value: spanned.value,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value)
            .map(Value::Integer)
            .map_err(|_| E::custom(format!("number out of range: {value}")))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let node = entries.next_value::<Spanned<Value>>()?.into();
            map.push(Entry {
                line: line_number(key.referenced.line()),
                key: key.value,
                node,
            });
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &str) -> Vec<(String, u32)> {
        let documents = parse(text).expect("text is well formed");
        let Some(Node {
            value: Value::Map(entries),
            ..
        }) = documents.into_iter().next_back()
        else {
            panic!("the last document is no map");
        };
        entries
            .into_iter()
            .map(|entry| (entry.key, entry.node.line))
            .collect()
    }

    #[test]
    fn values_know_the_line_of_their_file() {
        let text = "a: 1\n---\n# why\nb: x\nc:\n  - 1\nd: {e: 2}\n";
        let expected = [("b", 4), ("c", 6), ("d", 7)].map(|(k, l)| (k.to_owned(), l));
        assert_eq!(lines_of(text), expected);
    }

    #[test]
    fn scalars_are_what_yaml_1_2_says() {
        let text = "[~, true, yes, 12, -3, 1.5, '12', v1, 0x10, \"\", 18446744073709551615]";
        assert!(parse(text).is_err(), "a number above i64 is refused");
        let documents = parse(&text.replace(", 18446744073709551615", "")).expect("is well formed");
        let Some(Node {
            value: Value::List(items),
            ..
        }) = documents.first()
        else {
            panic!("no list");
        };
        let values: Vec<_> = items.iter().map(|node| node.value.clone()).collect();
        let text = |s: &str| Value::Text(s.into());
        let expected = vec![
            Value::Null,
            Value::Bool(true),
            text("yes"),
            Value::Integer(12),
            Value::Integer(-3),
            Value::Float(1.5),
            text("12"),
            text("v1"),
            Value::Integer(16),
            text(""),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn json_is_read_too_tabs_and_all() {
        let json = "{\n\t\"kind\": \"List\",\n\t\"items\": [\n\t\t{\"a\": \"b\\u0041\"}\n\t]\n}\n";
        assert_eq!(
            lines_of(json),
            [("kind".to_owned(), 2), ("items".to_owned(), 3)]
        );
    }

    #[test]
    fn what_is_not_well_formed_names_its_line() {
        let table = [
            ("a: 1\nb: [1, 2\nc: 3\n", 2..=4),
            ("a: 1\na: 2\n", 2..=2),
            ("a:\n\t- 1\n", 2..=2),
            ("a: 1\n  b: 2\n", 2..=2),
            ("a: *nowhere\n", 1..=1),
            ("a: \"open\nb: 1\n", 1..=3),
        ];
        for (text, lines) in table {
            let error = parse(text).expect_err(text);
            assert!(lines.contains(&error.line), "{text:?}: {error:?}");
            assert!(!error.reason.contains('\n'), "{text:?}: {error:?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_in_either_style() {
        let flow = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&flow).is_err());
        let mut block = String::new();
        for depth in 0..2_000 {
            block.push_str(&" ".repeat(depth));
            block.push_str("a:\n");
        }
        assert!(parse(&block).is_err());
        let shallow = format!("a: {}{}", "[".repeat(30), "]".repeat(30));
        assert!(parse(&shallow).is_ok());
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(parse(&bomb).is_err());
        let mut chain = String::from("a0: &a0 [x]\n");
        for level in 1..1000 {
            chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(parse(&chain).is_err(), "nesting through aliases counts too");
        assert!(parse("a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n  y: 2\n").is_ok());
    }
}
