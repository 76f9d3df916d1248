// SPDX-License-Identifier: Apache-2.0
//! Protobuf messages to JSON and back, in protobuf's JSON mapping with the proto's field names.
//!
//! For admin dumps, bootstrap files and tests; never on a request's way. Reading refuses fields
//! the message does not have and names the place; writing shows what it does not know instead
//! of failing, since a dump must not depend on what peers put into an `Any`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, ReflectMessage as _};
use prost_reflect::{SerializeOptions, Value as Field};
use serde_json::Value;

use crate::descriptors::find_message;
use crate::protobuf::value::Kind;
use crate::protobuf::{Struct, Value as ProtoValue};
use crate::typed_struct::TypedStruct;

/// How deep `Any`s may nest in each other: each starts the decoder's own depth limit anew.
const MAX_ANY_DEPTH: usize = 16;

/// Why a message could not be put into JSON or read from it.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// No descriptor of that name is embedded.
    #[error("message type `{0}` is not known")]
    UnknownType(String),
    /// The bytes are no message of the type.
    #[error("decode `{type_url}`")]
    Decode {
        /// The type URL asked for.
        type_url: String,
        /// Where the bytes stop to parse.
        source: prost::DecodeError,
    },
    /// The JSON is no message of the type.
    #[error("{path}: {finding}")]
    Field {
        /// The place, as in `static_resources.clusters[0].name`; `.` for the message itself.
        path: String,
        /// What was found there.
        finding: String,
    },
    /// A value that JSON cannot say, such as a number that is none.
    #[error("write `{type_url}` as JSON: {finding}")]
    Write {
        /// The type URL asked for.
        type_url: String,
        /// What cannot be said.
        finding: String,
    },
}

/// Writes an encoded message as JSON.
///
/// An `Any` inside whose type is not known, or whose bytes do not parse, is shown as a
/// `udpa.type.v1.TypedStruct` of that type URL with one field `@unresolved_base64`.
///
/// # Errors
/// If the type itself is not known, the bytes do not parse, or a value has no JSON form.
pub fn to_json(type_url: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    let descriptor = descriptor(type_url)?;
    let mut message =
        DynamicMessage::decode(descriptor, bytes).map_err(|source| JsonError::Decode {
            type_url: type_url.to_owned(),
            source,
        })?;
    show_unknown_anys(&mut message, 0);
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut json = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|e| JsonError::Write {
            type_url: type_url.to_owned(),
            finding: e.to_string(),
        })?;
    sort_maps(&mut json, &message.descriptor());
    Ok(json)
}

/// Puts the entries of maps, which come out of hash tables, into alphabetical order; the fields
/// of messages keep theirs.
fn sort_maps(json: &mut Value, message: &MessageDescriptor) {
    match message.full_name() {
        "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" => {
            json.sort_all_objects();
        }
        "google.protobuf.Any" => {
            let kind = json.get("@type").and_then(Value::as_str);
            match kind.and_then(find_message) {
                // Types with a JSON form of their own stand below `value`.
                Some(inner) if inner.parent_file().package_name() == "google.protobuf" => {
                    if let Some(value) = json.get_mut("value") {
                        sort_maps(value, &inner);
                    }
                }
                Some(inner) => sort_maps_of_fields(json, &inner),
                None => {}
            }
        }
        _ => sort_maps_of_fields(json, message),
    }
}

fn sort_maps_of_fields(json: &mut Value, message: &MessageDescriptor) {
    for (name, value) in json.as_object_mut().into_iter().flatten() {
        let Some(field) = message.get_field_by_name(name) else {
            continue;
        };
        let prost_reflect::Kind::Message(inner) = field.kind() else {
            continue;
        };
        match value {
            Value::Object(entries) if field.is_map() => {
                entries.sort_keys();
                if let prost_reflect::Kind::Message(of) = inner.map_entry_value_field().kind() {
                    entries.values_mut().for_each(|entry| sort_maps(entry, &of));
                }
            }
            Value::Array(items) if field.is_list() => {
                items.iter_mut().for_each(|item| sort_maps(item, &inner));
            }
            one => sort_maps(one, &inner),
        }
    }
}

/// Reads JSON (with proto or lower-camel-case field names) into the bytes of a message.
///
/// # Errors
/// With the field's path, if the type is not known, a field is unknown or of another kind, or
/// an `Any` has an unknown `@type`.
pub fn from_json(type_url: &str, json: &Value) -> Result<Vec<u8>, JsonError> {
    let descriptor = descriptor(type_url)?;
    // A reader of `Any` needs the type first: what comes before it would lose its place.
    let ordered = types_first(json);
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(&ordered, &mut track);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(descriptor, deserializer, &options);
    message
        .map(|message| message.encode_to_vec())
        .map_err(|e| JsonError::Field {
            path: track.path().to_string(),
            finding: e.to_string(),
        })
}

fn descriptor(type_url: &str) -> Result<MessageDescriptor, JsonError> {
    find_message(type_url).ok_or_else(|| JsonError::UnknownType(type_url.to_owned()))
}

fn types_first(json: &Value) -> Value {
    match json {
        Value::Array(items) => items.iter().map(types_first).collect(),
        Value::Object(fields) => {
            let (kind, rest): (Vec<_>, Vec<_>) = fields.iter().partition(|(k, _)| *k == "@type");
            kind.into_iter()
                .chain(rest)
                .map(|(k, v)| (k.clone(), types_first(v)))
                .collect()
        }
        scalar => scalar.clone(),
    }
}

/// Walks the message and puts a readable stand-in where an `Any` cannot be shown.
fn show_unknown_anys(message: &mut DynamicMessage, any_depth: usize) {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        if let Some(shown) = shown_any(message, any_depth) {
            *message = shown;
        }
        return;
    }
    let may_hold_messages = |field: &prost_reflect::FieldDescriptor| {
        field.is_map() || matches!(field.kind(), prost_reflect::Kind::Message(_))
    };
    let fields: Vec<_> = message
        .fields()
        .map(|(field, _)| field)
        .filter(may_hold_messages)
        .collect();
    for field in fields {
        visit(message.get_field_mut(&field), any_depth);
    }
}

fn visit(value: &mut Field, any_depth: usize) {
    match value {
        Field::Message(message) => show_unknown_anys(message, any_depth),
        Field::List(items) => items.iter_mut().for_each(|item| visit(item, any_depth)),
        Field::Map(entries) => entries
            .values_mut()
            .for_each(|entry| visit(entry, any_depth)),
        _ => {}
    }
}

/// The `Any` with its contents made showable; `None` where it has neither type nor value.
fn shown_any(any: &DynamicMessage, any_depth: usize) -> Option<DynamicMessage> {
    let raw: crate::protobuf::Any = any.transcode_to().ok()?;
    let inner = (any_depth < MAX_ANY_DEPTH)
        .then(|| find_message(&raw.type_url))
        .flatten()
        .and_then(|known| DynamicMessage::decode(known, raw.value.as_slice()).ok());
    let shown = match inner {
        Some(mut inner) => {
            show_unknown_anys(&mut inner, any_depth + 1);
            crate::protobuf::Any {
                value: inner.encode_to_vec(),
                ..raw
            }
        }
        None => stand_in(&raw),
    };
    DynamicMessage::decode(any.descriptor(), shown.encode_to_vec().as_slice()).ok()
}

fn stand_in(raw: &crate::protobuf::Any) -> crate::protobuf::Any {
    let text = ProtoValue {
        kind: Some(Kind::StringValue(BASE64.encode(&raw.value))),
    };
    let fields = Struct {
        fields: [("@unresolved_base64".to_owned(), text)].into(),
    };
    let wrapper = TypedStruct {
        type_url: raw.type_url.clone(),
        value: Some(fields),
    };
    crate::protobuf::Any {
        type_url: format!("{}{}", crate::TYPE_URL_PREFIX, TypedStruct::UDPA),
        value: wrapper.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests;
