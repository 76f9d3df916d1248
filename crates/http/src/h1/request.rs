// SPDX-License-Identifier: Apache-2.0
//! Reads request heads: the server side of the codec.
//!
//! ```text
//! start -> (one empty line) -> request line -> field lines -> empty line -> head handed out -> start
//! ```
//!
//! The proxy calls [`RequestDecoder::decode_head`] whenever bytes have arrived and no body is
//! being read. Timeouts are the proxy's: the decoder can say whether it is within a head.

use bytes::{Buf, Bytes, BytesMut};

use super::facts::Facts;
use super::limits::Limits;
use super::refusal::{Message, Refusal};
use super::scan::{Bound, HeadScanner, Span};
use super::target::{self, Target};
use crate::authority;
use crate::chars;
use crate::framing::BodyFraming;
use crate::head::{RequestHead, Version};
use crate::header::HeaderMap;
use crate::method::Method;

/// A request head and what it says about its body and connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedRequest {
    /// The head; `Host` is in its authority.
    pub head: RequestHead,
    /// How the body ends: `Empty`, `Length` or `Chunked`.
    pub framing: BodyFraming,
    /// Whether the downstream wants to send more requests.
    pub keep_alive: bool,
    /// The protocols of a proper upgrade request. Never set for HTTP/1.0, nor where a body
    /// follows: nobody could say which bytes are the body's and which the new protocol's.
    pub upgrade: Option<Bytes>,
    /// Whether the downstream waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
}

/// Reads the heads of one downstream connection, one after the other.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    scanner: HeadScanner,
    start: Option<StartLine>,
    skipped_empty_line: bool,
    /// The bytes of the method that are known to be token characters.
    method_checked: usize,
    spare: HeaderMap,
}

#[derive(Clone, Copy, Debug)]
struct StartLine {
    method: Span,
    target: Span,
    version: Version,
}

impl RequestDecoder {
    /// A decoder at the start of a connection; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a head from the front of `buf`; `None` if more bytes are needed.
    ///
    /// The head's bytes are cut off `buf`; what is left belongs to the body or the next request.
    ///
    /// # Errors
    /// The first rule that the bytes break. The connection cannot be read any further.
    pub fn decode_head(
        &mut self,
        buf: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<ParsedRequest>, Refusal> {
        let Some(start) = self.read_start_line(buf, limits)? else {
            return Ok(None);
        };
        let message = Message::Request;
        let limit = limits.max_head_bytes;
        let bound = Bound {
            bytes: limit,
            refusal: Refusal::HeadTooLarge { message, limit },
        };
        let limit = limits.max_headers;
        let count = (limit, Refusal::TooManyHeaders { message, limit });
        if !self.scanner.read_fields(buf, &bound, count)? {
            return Ok(None);
        }
        let mut headers = std::mem::take(&mut self.spare);
        let mut facts = Facts::default();
        let block = self
            .scanner
            .finish(buf, &mut headers, |field| facts.read(field))?;
        self.start = None;
        self.skipped_empty_line = false;
        self.method_checked = 0;
        assemble(start, &block, headers, facts).map(Some)
    }

    /// Gives the room of a head that is done with to the next one.
    pub fn recycle(&mut self, headers: HeaderMap) {
        self.spare = headers.into_spare();
    }

    /// Whether a head has begun and not ended: an idle connection may be closed, this one may not.
    #[must_use]
    pub const fn is_within_head(&self) -> bool {
        self.scanner.is_within()
    }

    fn read_start_line(
        &mut self,
        buf: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<StartLine>, Refusal> {
        if self.start.is_some() {
            return Ok(self.start);
        }
        if !self.skipped_empty_line {
            match &buf[..] {
                [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => {
                    buf.advance(2);
                    self.skipped_empty_line = true;
                }
                _ => {}
            }
        }
        let limit = limits.max_start_line_bytes.min(limits.max_head_bytes);
        self.check_method(buf.get(..limit).unwrap_or(buf))?;
        let message = Message::Request;
        let bound = Bound {
            bytes: limit,
            refusal: Refusal::StartLineTooLong { message, limit },
        };
        let Some(line) = self.scanner.next_line(buf, &bound)? else {
            return Ok(None);
        };
        let line = buf.get(line).unwrap_or_default();
        self.start = Some(read_line(line, limits)?);
        Ok(self.start)
    }

    /// Refuses at the first byte that cannot belong to a method, so that another protocol on this
    /// port is told at once and not when a timer ends.
    fn check_method(&mut self, buf: &[u8]) -> Result<(), Refusal> {
        while let Some(&byte) = buf.get(self.method_checked) {
            match byte {
                b' ' if self.method_checked > 0 => break,
                byte if chars::is_token(byte) && self.method_checked < Method::MAX_LEN => {
                    self.method_checked += 1;
                }
                // The line has no second word; it is judged when it is complete.
                b'\r' | b'\n' if self.method_checked > 0 => break,
                _ => return Err(Refusal::Method),
            }
        }
        Ok(())
    }
}

/// Takes the request line apart; the method's characters have been checked.
fn read_line(line: &[u8], limits: &Limits) -> Result<StartLine, Refusal> {
    let first = memchr::memchr(b' ', line).ok_or(Refusal::RequestLine)?;
    let last = memchr::memrchr(b' ', line).ok_or(Refusal::RequestLine)?;
    let target = line.get(first + 1..last).unwrap_or_default();
    if target.is_empty() {
        return Err(Refusal::RequestLine);
    }
    let version = read_version(
        line.get(last + 1..).unwrap_or_default(),
        Refusal::RequestLine,
    )?;
    if version == Version::Http10 && !limits.accept_http10 {
        return Err(Refusal::Http10);
    }
    target::check_bytes(target)?;
    Ok(StartLine {
        method: Span::new(0, first),
        target: Span::new(first + 1, last),
        version,
    })
}

/// Reads `HTTP/1.0` or `HTTP/1.1`; `malformed` if the word is no version at all.
pub(super) fn read_version(word: &[u8], malformed: Refusal) -> Result<Version, Refusal> {
    match word {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Refusal::Version),
        _ => Err(malformed),
    }
}

fn assemble(
    start: StartLine,
    block: &Bytes,
    headers: HeaderMap,
    mut facts: Facts,
) -> Result<ParsedRequest, Refusal> {
    let method = Method::known(start.method.of(block))
        .map_or_else(|| Method::from_bytes(start.method.slice(block)), Ok)
        .map_err(|_| Refusal::Method)?;
    let version = start.version;
    let host = read_host(facts.host.take(), version)?;
    let Target {
        scheme,
        authority,
        path,
    } = target::parse(&method, start.target.slice(block))?;
    let framing = facts.framing(version, BodyFraming::Empty)?;
    if method == Method::Connect && !framing.is_empty() {
        return Err(Refusal::ConnectBody);
    }
    let keep_alive = facts.keeps_alive(version);
    let awaits_body = version == Version::Http11 && !framing.is_empty();
    let expect_continue = facts.expect_continue && awaits_body;
    let may_upgrade = version == Version::Http11 && framing.is_empty();
    let upgrade = if may_upgrade {
        facts.into_upgrade()
    } else {
        None
    };
    let authority = authority.unwrap_or(host);
    let head = RequestHead {
        method,
        scheme,
        authority,
        path,
        version,
        headers,
    };
    Ok(ParsedRequest {
        head,
        framing,
        keep_alive,
        upgrade,
        expect_continue,
    })
}

/// Exactly one host on HTTP/1.1, at most one on HTTP/1.0, and a valid one.
fn read_host(host: Option<Bytes>, version: Version) -> Result<Bytes, Refusal> {
    match host {
        Some(host) if !host.is_empty() => {
            authority::parse(&host).map_err(Refusal::Host)?;
            Ok(host)
        }
        _ if version == Version::Http10 => Ok(Bytes::new()),
        _ => Err(Refusal::MissingHost),
    }
}
