// SPDX-License-Identifier: Apache-2.0
//! Writes a record by a compiled format string, as Envoy prints it.
//!
//! A value is text or a number, or absent. Logs print `-` for what is absent; header values leave
//! it out. Nothing is allocated but room in the output.
//!
//! Invariant: a value brings no control character but tab into the output, so that no peer can
//! begin a line of its own.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use remora_http::HeaderMap;
use remora_ir::access_log::{FieldName, FieldRef, Format, Operator, Segment};

use super::time;
use crate::http::flags::Flags;
use crate::http::record::Record;

/// What an operator is worth for a record.
#[derive(Debug)]
pub(super) enum Value<'r> {
    Absent,
    Bytes(&'r [u8]),
    Number(u64),
    Ip(IpAddr),
    Address(SocketAddr),
    Host(&'r remora_balance::HostRecord),
    Flags(Flags),
    Stamp(time::Stamp),
    /// Text in which blanks are written as underscores, so that columns stay columns.
    Joined(&'r str),
}

/// What is written for an absent value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    Dash,
    Nothing,
}

/// Appends a formatted header value to `out`; what is absent is left out.
pub fn render(format: &Format, record: &Record<'_>, out: &mut BytesMut) {
    render_with(format, record, Absent::Nothing, out);
}

/// Appends a formatted log line to `out`; the format brings its own line end, and what is absent
/// reads `-`.
pub fn render_line(format: &Format, record: &Record<'_>, out: &mut BytesMut) {
    render_with(format, record, Absent::Dash, out);
}

fn render_with(format: &Format, record: &Record<'_>, absent: Absent, out: &mut BytesMut) {
    for segment in &format.0 {
        match segment {
            Segment::Text(text) => out.put_slice(text.as_bytes()),
            Segment::Operator { operator, max } => {
                let start = out.len();
                match value(operator, record) {
                    Value::Absent if absent == Absent::Dash => out.put_u8(b'-'),
                    value => value.write(out),
                }
                if let Some(max) = max {
                    out.truncate(start.saturating_add(*max));
                }
            }
        }
    }
}

/// Looks a record's value up.
pub(super) fn value<'r>(operator: &Operator, record: &'r Record<'_>) -> Value<'r> {
    let summary = record.summary;
    let connection = record.connection;
    match operator {
        Operator::StartTime => Value::Stamp(time::stamp(record.start)),
        Operator::Request(field) => either(field, |name| request(name, record)),
        Operator::Response(field) => either(field, |name| response(name, record)),
        Operator::Trailer(field) => either(field, |name| first(name, record.trailers)),
        Operator::Protocol => text(record.version.map(remora_http::Version::as_str)),
        Operator::ResponseCode => Value::Number(summary.status.unwrap_or(0).into()),
        Operator::ResponseCodeDetails => joined(summary.details.as_ref()),
        Operator::ConnectionTerminationDetails => joined(summary.termination.as_ref()),
        Operator::ResponseFlags => Value::Flags(summary.flags),
        Operator::BytesReceived => Value::Number(summary.bytes_received),
        Operator::BytesSent => Value::Number(summary.bytes_sent),
        Operator::Duration => millis(summary.duration),
        Operator::RequestDuration => millis(summary.request_duration),
        Operator::ResponseDuration => millis(summary.response_duration),
        Operator::ResponseTxDuration => millis(transmission(record)),
        Operator::UpstreamHost => summary
            .upstream_host
            .as_ref()
            .map_or(Value::Absent, |host| Value::Host(host)),
        Operator::UpstreamCluster => text(summary.cluster.as_ref().map(|name| name.as_str())),
        Operator::UpstreamLocalAddress => {
            summary.upstream_local.map_or(Value::Absent, Value::Address)
        }
        Operator::UpstreamTransportFailureReason => joined(summary.transport_failure.as_ref()),
        Operator::UpstreamRequestAttemptCount => Value::Number(summary.attempts.into()),
        Operator::DownstreamLocalAddress { without_port } => {
            address(connection.local, *without_port)
        }
        Operator::DownstreamLocalPort => Value::Number(connection.local.port().into()),
        Operator::DownstreamRemoteAddress { without_port }
        | Operator::DownstreamDirectRemoteAddress { without_port } => {
            address(connection.peer, *without_port)
        }
        Operator::RequestedServerName => text(connection.server_name.as_deref()),
        Operator::RouteName => text(summary.route.as_deref()),
        Operator::Absent => Value::Absent,
        Operator::Hostname => text(Some(hostname())),
    }
}

impl Value<'_> {
    /// Appends the value as text; nothing if it is absent.
    pub(super) fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Absent => {}
            Self::Bytes(bytes) => put_harmless(bytes, out),
            Self::Number(number) => put(number, out),
            Self::Ip(ip) => put(ip, out),
            Self::Address(address) => put(address, out),
            Self::Host(host) => put(host.address(), out),
            Self::Flags(flags) => put(flags, out),
            Self::Stamp(stamp) => out.put_slice(stamp),
            Self::Joined(text) => {
                let start = out.len();
                put_harmless(text.as_bytes(), out);
                for byte in out.iter_mut().skip(start).filter(|byte| **byte == b' ') {
                    *byte = b'_';
                }
            }
        }
    }
}

/// Text of a value; what is empty is absent.
fn text(text: Option<&str>) -> Value<'_> {
    bytes(text.map(str::as_bytes))
}

fn bytes(bytes: Option<&[u8]>) -> Value<'_> {
    bytes
        .filter(|bytes| !bytes.is_empty())
        .map_or(Value::Absent, Value::Bytes)
}

fn joined<'r>(text: Option<&'r Cow<'static, str>>) -> Value<'r> {
    text.filter(|text| !text.is_empty())
        .map_or(Value::Absent, |text| Value::Joined(text))
}

fn millis(duration: Option<Duration>) -> Value<'static> {
    let millis = |d: Duration| Value::Number(u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    duration.map_or(Value::Absent, millis)
}

/// From the first byte of the response to the end.
fn transmission(record: &Record<'_>) -> Option<Duration> {
    let summary = record.summary;
    Some(summary.duration?.saturating_sub(summary.response_duration?))
}

const fn address(address: SocketAddr, without_port: bool) -> Value<'static> {
    if without_port {
        Value::Ip(address.ip())
    } else {
        Value::Address(address)
    }
}

fn either<'r>(field: &FieldRef, find: impl Fn(&FieldName) -> Value<'r>) -> Value<'r> {
    match (find(&field.first), &field.otherwise) {
        (Value::Absent, Some(otherwise)) => find(otherwise),
        (value, _) => value,
    }
}

fn request<'r>(name: &FieldName, record: &'r Record<'_>) -> Value<'r> {
    let Some(head) = record.request else {
        return Value::Absent;
    };
    match name {
        FieldName::Method => text(Some(head.method.as_str())),
        FieldName::Path => bytes(Some(&head.path)),
        FieldName::Authority => bytes(Some(&head.authority)),
        // A request without a scheme came over what the listener speaks: TLS is not terminated.
        FieldName::Scheme => text(Some(
            head.scheme.map_or("http", remora_http::Scheme::as_str),
        )),
        FieldName::Status => Value::Absent,
        FieldName::Field(_) => first(name, Some(&head.headers)),
    }
}

fn response<'r>(name: &FieldName, record: &'r Record<'_>) -> Value<'r> {
    let Some(head) = record.response else {
        return Value::Absent;
    };
    match name {
        FieldName::Status => Value::Number(head.status.get().into()),
        name => first(name, Some(&head.headers)),
    }
}

/// The first value of a field.
fn first<'r>(name: &FieldName, headers: Option<&'r HeaderMap>) -> Value<'r> {
    match (name, headers) {
        (FieldName::Field(name), Some(headers)) => headers
            .get(name)
            .map_or(Value::Absent, |value| bytes(Some(value))),
        _ => Value::Absent,
    }
}

fn put(value: &dyn fmt::Display, out: &mut BytesMut) {
    // Writing to memory does not fail.
    let _ = write!(out, "{value}");
}

/// Copies bytes. Header values have no control characters by construction; other values are
/// watched all the same, as `\xNN`.
fn put_harmless(bytes: &[u8], out: &mut BytesMut) {
    let is_harmful = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    if !bytes.iter().any(|byte| is_harmful(*byte)) {
        return out.put_slice(bytes);
    }
    for byte in bytes {
        if is_harmful(*byte) {
            put(&format_args!("\\x{byte:02x}"), out);
        } else {
            out.put_u8(*byte);
        }
    }
}

/// The machine's name, read once.
fn hostname() -> &'static str {
    static NAME: OnceLock<Arc<str>> = OnceLock::new();
    NAME.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim().into()
    })
}
