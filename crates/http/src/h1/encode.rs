// SPDX-License-Identifier: Apache-2.0
//! Writes heads, chunk headers and trailers, from references and in one go.
//!
//! The encoders alone decide about framing and connection fields: what stands in the head's
//! fields under those names gives the spelling and the place, never the value. Each returns the
//! framing that the body must now be written in, which may differ from the one asked for.
//!
//! **Invariant:** nothing is appended that a peer could read as another line: fields are checked
//! when they are made, and target, authority and phrase are checked here.

use bytes::{BufMut, Bytes, BytesMut};

use crate::authority;
use crate::chars;
use crate::framing::BodyFraming;
use crate::head::{RequestHead, ResponseHead, Version};
use crate::header::{Field, HeaderMap, Known};
use crate::method::Method;
use crate::status::StatusCode;

use super::response::Asked;

/// What becomes of the connection after the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It may carry another message.
    KeepAlive,
    /// It ends with this message.
    Close,
}

/// How to write a request; it is always written as HTTP/1.1.
#[derive(Clone, Copy, Debug)]
pub struct RequestWire<'a> {
    /// How the body ends; `UntilClose` is written as `Chunked`, as requests have no such thing.
    pub framing: BodyFraming,
    /// Whether another request may follow.
    pub persistence: Persistence,
    /// The protocols to offer, from [`super::ParsedRequest::upgrade`].
    pub upgrade: Option<&'a Bytes>,
}

/// How to write a response; it is always written as HTTP/1.1 (RFC 9110 section 6.2).
#[derive(Clone, Copy, Debug)]
pub struct ResponseWire<'a> {
    /// How the body ends. `Empty` becomes `content-length: 0` where a body could be expected, and
    /// `UntilClose` becomes `Chunked` unless the downstream speaks 1.0.
    pub framing: BodyFraming,
    /// Whether another request may follow.
    pub persistence: Persistence,
    /// The version that the downstream speaks: 1.0 gets neither chunks nor 1xx.
    pub peer: Version,
    /// What the downstream's request asked.
    pub asked: Asked,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<&'a Bytes>,
}

/// A part of a head that cannot be written without saying something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// A path that is not in origin form, or not fit for the method.
    #[error("path cannot be written as an HTTP/1 request target")]
    Path,
    /// An authority that is no `host[:port]`.
    #[error("authority cannot be written as a host header")]
    Authority,
    /// A reason phrase with a control character.
    #[error("reason phrase has a control character")]
    Reason,
    /// Upgrade protocols with a control character.
    #[error("upgrade protocols have a control character")]
    Upgrade,
}

/// Appends a request head; returns the framing to write the body in.
///
/// # Errors
/// If the head cannot be written safely; `out` is unchanged then.
pub fn encode_request(
    head: &RequestHead,
    wire: &RequestWire<'_>,
    out: &mut BytesMut,
) -> Result<BodyFraming, Unwritable> {
    let target = target_of(head)?;
    check_upgrade(wire.upgrade)?;
    let framing = match wire.framing {
        BodyFraming::UntilClose => BodyFraming::Chunked,
        framing => framing,
    };
    let method = head.method.as_str().as_bytes();
    out.reserve(method.len() + target.len() + head.authority.len() + fields_size(&head.headers));
    put(
        out,
        &[
            method,
            b" ",
            target,
            b" HTTP/1.1\r\nHost: ",
            &head.authority,
            b"\r\n",
        ],
    );
    put_fields(&head.headers, Announce::Framing(framing), out);
    let te = head.headers.has_any(Known::TE.bit());
    let option = match (wire.upgrade, wire.persistence) {
        (Some(_), _) => Some(&b"upgrade"[..]),
        (None, Persistence::Close) => Some(&b"close"[..]),
        (None, Persistence::KeepAlive) => None,
    };
    match (option, te) {
        (Some(option), true) => put(out, &[b"connection: ", option, b", te\r\n"]),
        (Some(option), false) => put(out, &[b"connection: ", option, b"\r\n"]),
        (None, true) => out.put_slice(b"connection: te\r\n"),
        (None, false) => {}
    }
    put_upgrade(wire.upgrade, out);
    out.put_slice(b"\r\n");
    Ok(framing)
}

/// Appends a response head, final or informational; returns the framing to write the body in.
///
/// An informational head for an HTTP/1.0 downstream is left out, as it could not be understood.
///
/// # Errors
/// If the head cannot be written safely; `out` is unchanged then.
pub fn encode_response(
    head: &ResponseHead,
    wire: &ResponseWire<'_>,
    out: &mut BytesMut,
) -> Result<BodyFraming, Unwritable> {
    if !chars::is_value(&head.reason) {
        return Err(Unwritable::Reason);
    }
    check_upgrade(wire.upgrade)?;
    let status = head.status;
    let to_http10 = wire.peer == Version::Http10;
    if status.is_informational() && to_http10 {
        return Ok(BodyFraming::Empty);
    }
    let announce = announcement(status, wire);
    let framing = announce.framing();
    let code = [
        digit(status.get() / 100),
        digit(status.get() / 10),
        digit(status.get()),
    ];
    out.reserve(head.reason.len() + fields_size(&head.headers));
    put(out, &[b"HTTP/1.1 ", &code, b" ", &head.reason, b"\r\n"]);
    put_fields(&head.headers, announce, out);
    let closes = wire.persistence == Persistence::Close || framing == BodyFraming::UntilClose;
    match wire.upgrade {
        Some(_) if status == StatusCode::SWITCHING_PROTOCOLS => {
            out.put_slice(b"connection: upgrade\r\n");
            put_upgrade(wire.upgrade, out);
        }
        _ if status.is_informational() || announce == Announce::Tunnel => {}
        _ if closes => out.put_slice(b"connection: close\r\n"),
        _ if to_http10 => out.put_slice(b"connection: keep-alive\r\n"),
        _ => {}
    }
    out.put_slice(b"\r\n");
    Ok(framing)
}

/// Appends the line before a chunk's data. After the data, `\r\n` must follow.
///
/// A chunk of no bytes would end the body, so for zero nothing is appended.
pub fn encode_chunk_header(length: u64, out: &mut BytesMut) {
    if length == 0 {
        return;
    }
    let mut digits = [0; 16];
    let mut rest = length;
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        let [low, ..] = rest.to_le_bytes();
        *slot = HEX.get(usize::from(low & 15)).copied().unwrap_or_default();
        used += 1;
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    let digits = digits.get(digits.len() - used..).unwrap_or_default();
    put(out, &[digits, b"\r\n"]);
}

/// Appends the last chunk and the trailers. Fields that may not stand there are left out.
pub fn encode_last_chunk(trailers: Option<&HeaderMap>, out: &mut BytesMut) {
    out.put_slice(b"0\r\n");
    for field in trailers.into_iter().flat_map(HeaderMap::fields) {
        if field
            .name
            .known()
            .is_none_or(|known| known.bit() & NEVER_IN_TRAILERS == 0)
        {
            put(out, &[field.spelled(), b": ", &field.value, b"\r\n"]);
        }
    }
    out.put_slice(b"\r\n");
}

const HEX: &[u8; 16] = b"0123456789abcdef";

const CONNECTION_FIELDS: u128 = Known::HOST.bit()
    | Known::CONNECTION.bit()
    | Known::KEEP_ALIVE.bit()
    | Known::PROXY_CONNECTION.bit()
    | Known::UPGRADE.bit()
    | Known::HTTP2_SETTINGS.bit();

const FRAMING_FIELDS: u128 = Known::CONTENT_LENGTH.bit() | Known::TRANSFER_ENCODING.bit();

const NEVER_IN_TRAILERS: u128 =
    CONNECTION_FIELDS | FRAMING_FIELDS | Known::TE.bit() | Known::TRAILER.bit();

/// What the framing fields of a head say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announce {
    /// A body in this framing.
    Framing(BodyFraming),
    /// The length that a body would have, as the origin gave it: HEAD and 304.
    AsGiven,
    /// Nothing: 1xx and 204.
    Nothing,
    /// Nothing, and what follows belongs to another protocol.
    Tunnel,
}

impl Announce {
    const fn framing(self) -> BodyFraming {
        match self {
            Self::Framing(framing) => framing,
            Self::AsGiven | Self::Nothing | Self::Tunnel => BodyFraming::Empty,
        }
    }
}

/// What a response may announce. RFC 9112 section 6.3.
fn announcement(status: StatusCode, wire: &ResponseWire<'_>) -> Announce {
    if wire.asked == Asked::Connect && status.is_success() {
        return Announce::Tunnel;
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return Announce::Nothing;
    }
    if wire.asked == Asked::Head || status == StatusCode::NOT_MODIFIED {
        return Announce::AsGiven;
    }
    Announce::Framing(match wire.framing {
        BodyFraming::Empty => BodyFraming::Length(0),
        BodyFraming::Chunked if wire.peer == Version::Http10 => BodyFraming::UntilClose,
        // The upstream's connection ended with its body; the downstream's need not.
        BodyFraming::UntilClose if wire.peer != Version::Http10 => BodyFraming::Chunked,
        framing => framing,
    })
}

/// Writes the fields in their order and spelling, and exactly one framing field where one is due.
fn put_fields(headers: &HeaderMap, announce: Announce, out: &mut BytesMut) {
    let mut due = announce.framing();
    for field in headers.fields() {
        let bit = field.name.known().map_or(0, Known::bit);
        if bit & (CONNECTION_FIELDS | FRAMING_FIELDS) == 0 {
            put(out, &[field.spelled(), b": ", &field.value, b"\r\n"]);
        } else if bit & FRAMING_FIELDS != 0 {
            put_framing_in_place(field, announce, &mut due, out);
        }
    }
    match due {
        BodyFraming::Length(length) => put_length(b"content-length", length, out),
        BodyFraming::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        BodyFraming::Empty | BodyFraming::UntilClose => {}
    }
}

/// Writes a framing field where the head has one of that name, so that its spelling survives.
fn put_framing_in_place(
    field: &Field,
    announce: Announce,
    due: &mut BodyFraming,
    out: &mut BytesMut,
) {
    match (field.name.known(), *due) {
        (Some(Known::CONTENT_LENGTH), BodyFraming::Length(length)) => {
            put_length(field.spelled(), length, out);
            *due = BodyFraming::Empty;
        }
        (Some(Known::TRANSFER_ENCODING), BodyFraming::Chunked) => {
            put(out, &[field.spelled(), b": chunked\r\n"]);
            *due = BodyFraming::Empty;
        }
        (Some(Known::CONTENT_LENGTH), _) if announce == Announce::AsGiven => {
            put(out, &[field.spelled(), b": ", &field.value, b"\r\n"]);
        }
        _ => {}
    }
}

fn put_length(name: &[u8], length: u64, out: &mut BytesMut) {
    let mut digits = [0; 20];
    let mut rest = length;
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = digit((rest % 10).try_into().unwrap_or_default());
        used += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    put(
        out,
        &[
            name,
            b": ",
            digits.get(digits.len() - used..).unwrap_or_default(),
            b"\r\n",
        ],
    );
}

fn put_upgrade(upgrade: Option<&Bytes>, out: &mut BytesMut) {
    if let Some(protocols) = upgrade {
        put(out, &[b"upgrade: ", protocols, b"\r\n"]);
    }
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.put_slice(part);
    }
}

/// The last decimal digit of a number.
fn digit(number: u16) -> u8 {
    b'0' + u8::try_from(number % 10).unwrap_or_default()
}

/// Room for the fields and for what the encoder adds.
fn fields_size(headers: &HeaderMap) -> usize {
    headers.byte_size() + 4 * headers.len() + 160
}

fn target_of(head: &RequestHead) -> Result<&[u8], Unwritable> {
    let authority = &head.authority;
    if !authority.is_empty() && authority::parse(authority).is_err() {
        return Err(Unwritable::Authority);
    }
    let path = &head.path;
    match (&head.method, &path[..]) {
        (Method::Connect, []) if !authority.is_empty() => Ok(authority),
        (Method::Connect, _) => Err(Unwritable::Path),
        (Method::Options, b"*") => Ok(path),
        (_, [b'/', ..]) if chars::is_target(path) => Ok(path),
        _ => Err(Unwritable::Path),
    }
}

fn check_upgrade(upgrade: Option<&Bytes>) -> Result<(), Unwritable> {
    match upgrade {
        Some(protocols) if !chars::is_value(protocols) => Err(Unwritable::Upgrade),
        _ => Ok(()),
    }
}
