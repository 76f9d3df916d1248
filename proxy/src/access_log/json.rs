// SPDX-License-Identifier: Apache-2.0
//! Writes a record as one line of JSON, as Envoy's `json_format`.
//!
//! A member whose format is one operator keeps its type: numbers are numbers, and what is absent
//! is `null`. Any other member is text, in which what is absent reads `-`.
//!
//! Invariant: the line is valid JSON in ASCII or UTF-8, whatever bytes a peer sent.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use remora_ir::access_log::{Format, Segment};

use super::format::{self, Value};
use crate::http::record::Record;

/// Appends one object and a line end.
pub(super) fn render_line(members: &[(Arc<str>, Format)], record: &Record<'_>, out: &mut BytesMut) {
    let mut separator = b'{';
    for (key, format) in members {
        out.put_u8(separator);
        separator = b',';
        quote(key.as_bytes(), out);
        out.put_u8(b':');
        member(format, record, out);
    }
    out.put_slice(if members.is_empty() { b"{}\n" } else { b"}\n" });
}

fn member(format: &Format, record: &Record<'_>, out: &mut BytesMut) {
    if let [Segment::Operator { operator, max }] = format.0.as_slice() {
        match format::value(operator, record) {
            Value::Absent => return out.put_slice(b"null"),
            // A status is text for Envoy when it is read as a field of the response.
            number @ Value::Number(_) if max.is_none() && !is_field(operator) => {
                return number.write(out);
            }
            _ => {}
        }
    }
    // The text is made behind what is written, quoted, and moved into its place.
    let start = out.len();
    format::render_line(format, record, out);
    let text = out.split_off(start);
    quote(&text, out);
}

const fn is_field(operator: &remora_ir::access_log::Operator) -> bool {
    use remora_ir::access_log::Operator;
    matches!(
        operator,
        Operator::Request(_) | Operator::Response(_) | Operator::Trailer(_)
    )
}

/// Appends a JSON string. Bytes that are no UTF-8 are each written as the character of that
/// number, as Envoy does.
fn quote(bytes: &[u8], out: &mut BytesMut) {
    let is_utf8 = std::str::from_utf8(bytes).is_ok();
    out.put_u8(b'"');
    for byte in bytes {
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            0..b' ' | 0x7f => escape(*byte, out),
            0x80.. if !is_utf8 => escape(*byte, out),
            byte => out.put_u8(*byte),
        }
    }
    out.put_u8(b'"');
}

fn escape(byte: u8, out: &mut BytesMut) {
    // Writing to memory does not fail.
    let _ = write!(out, "\\u00{byte:02x}");
}
