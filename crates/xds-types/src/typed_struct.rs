// SPDX-License-Identifier: Apache-2.0
//! `TypedStruct`: a message given as JSON-like fields beside the type it stands for. Istio wraps
//! the configuration of its own filters so; users do it in patches.

use prost::Message;
use serde_json::{Map, Number};

use crate::protobuf::value::Kind;
use crate::protobuf::{Struct, Value};

/// `udpa.type.v1.TypedStruct` and `xds.type.v3.TypedStruct`, which are the same on the wire.
#[derive(Clone, PartialEq, Message)]
pub struct TypedStruct {
    /// The type that the fields stand for.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The fields.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Struct>,
}

impl TypedStruct {
    /// The full name under which it is written by us.
    pub(crate) const UDPA: &'static str = "udpa.type.v1.TypedStruct";

    /// Whether a full message name is one of the wrapper's two.
    pub(crate) fn is_wrapper(message_name: &str) -> bool {
        matches!(message_name, Self::UDPA | "xds.type.v3.TypedStruct")
    }
}

/// Reads the fields of a `Struct` as JSON, names in alphabetical order.
///
/// Numbers that JSON cannot say (infinite, not a number) become `null`. The depth is bounded by
/// the protobuf decoder that made the value.
#[must_use]
pub fn struct_to_json(fields: &Struct) -> serde_json::Value {
    let mut names: Vec<_> = fields.fields.iter().collect();
    names.sort_by_key(|(name, _)| name.as_str());
    let object: Map<_, _> = names
        .into_iter()
        .map(|(name, value)| (name.clone(), value_to_json(value)))
        .collect();
    serde_json::Value::Object(object)
}

fn value_to_json(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(flag)) => (*flag).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::NumberValue(number)) => number_to_json(*number),
        Some(Kind::StructValue(fields)) => struct_to_json(fields),
        Some(Kind::ListValue(list)) => list.values.iter().map(value_to_json).collect(),
    }
}

/// A whole number stays one, so that it can be read into an integer field.
fn number_to_json(number: f64) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53: beyond it a double skips integers
    let whole = (number.fract() == 0.0 && number.abs() <= EXACT)
        .then(|| format!("{number:.0}").parse::<i64>().ok())
        .flatten();
    if let Some(whole) = whole {
        return whole.into();
    }
    Number::from_f64(number).map_or(serde_json::Value::Null, serde_json::Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::ListValue;

    fn of(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    #[test]
    fn fields_become_json_in_order_and_whole_numbers_stay_whole() {
        let list = ListValue {
            values: vec![of(Kind::NumberValue(3.0)), of(Kind::NumberValue(0.5))],
        };
        let fields = Struct {
            fields: [
                ("b".to_owned(), of(Kind::ListValue(list))),
                ("a".to_owned(), of(Kind::StringValue("x".into()))),
                ("c".to_owned(), of(Kind::NumberValue(f64::NAN))),
            ]
            .into(),
        };
        assert_eq!(
            struct_to_json(&fields).to_string(),
            r#"{"a":"x","b":[3,0.5],"c":null}"#
        );
    }
}
