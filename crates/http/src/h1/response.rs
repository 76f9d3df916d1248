// SPDX-License-Identifier: Apache-2.0
//! Reads response heads: the client side of the codec.
//!
//! ```text
//! idle --start(asked)--> waiting --1xx--> waiting
//!                           |----101 or CONNECT 2xx--> upgraded (no more heads)
//!                           '----final head--> idle (the body is the BodyDecoder's)
//! ```
//!
//! The proxy calls [`ResponseDecoder::start`] when it sends a request, then
//! [`ResponseDecoder::decode_head`] until a final head comes. A connection may be pooled again
//! only if [`ResponseDecoder::reusable`] says so.

use bytes::BytesMut;

use super::body::BodyDecoder;
use super::facts::Facts;
use super::limits::Limits;
use super::refusal::{Message, Refusal};
use super::request::read_version;
use super::scan::{Bound, HeadScanner, Span};
use crate::chars;
use crate::framing::BodyFraming;
use crate::head::{ResponseHead, Version};
use crate::header::{HeaderMap, HeaderName};
use crate::method::Method;
use crate::status::StatusCode;

/// What the request asked, as far as it changes the reading of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing special.
    Plain,
    /// HEAD: the response has no body, whatever its fields say.
    Head,
    /// CONNECT: after a 2xx the connection is a tunnel.
    Connect,
    /// An upgrade: after 101 the connection speaks another protocol.
    Upgrade,
}

impl Asked {
    /// What a request asks; `upgrade` says whether its `Upgrade` field is being sent.
    #[must_use]
    pub const fn of(method: &Method, upgrade: bool) -> Self {
        match method {
            Method::Head => Self::Head,
            Method::Connect => Self::Connect,
            _ if upgrade => Self::Upgrade,
            _ => Self::Plain,
        }
    }
}

/// A head read from upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseEvent {
    /// A 1xx other than 101; another head follows.
    Informational(ResponseHead),
    /// 101, or a 2xx to CONNECT: all bytes that follow belong to the new protocol.
    Upgraded(ResponseHead),
    /// The response itself.
    Final(ParsedResponse),
}

/// A final response head and what it says about its body and connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedResponse {
    /// The head.
    pub head: ResponseHead,
    /// How the body ends.
    pub framing: BodyFraming,
    /// Whether the upstream keeps the connection open after this response.
    pub keep_alive: bool,
}

/// Reads the heads of one upstream connection.
#[derive(Debug, Default)]
pub struct ResponseDecoder {
    scanner: HeadScanner,
    start: Option<StartLine>,
    spare: HeaderMap,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Fresh,
    Waiting {
        asked: Asked,
        informational: u32,
    },
    Answered {
        keep_alive: bool,
    },
    Upgraded,
}

#[derive(Clone, Copy, Debug)]
struct StartLine {
    status: StatusCode,
    reason: Span,
    version: Version,
}

/// Enough for progress reports; an endless stream of them would keep an exchange from ending.
const MAX_INFORMATIONAL: u32 = 100;

impl ResponseDecoder {
    /// A decoder for a fresh connection; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that a request is being sent.
    pub const fn start(&mut self, asked: Asked) {
        self.state = State::Waiting {
            asked,
            informational: 0,
        };
    }

    /// Reads a head from the front of `buf`; `None` if more bytes are needed.
    ///
    /// # Errors
    /// The first rule that the bytes break. The connection cannot be read any further.
    pub fn decode_head(
        &mut self,
        buf: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<ResponseEvent>, Refusal> {
        let State::Waiting {
            asked,
            informational,
        } = self.state
        else {
            return if buf.is_empty() {
                Ok(None)
            } else {
                Err(Refusal::Unsolicited)
            };
        };
        let Some(start) = self.read_start_line(buf, limits)? else {
            return Ok(None);
        };
        let message = Message::Response;
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
        // A response has no host; if one is sent, it is dropped with the rest of its line.
        let block = self
            .scanner
            .finish(buf, &mut headers, |field| facts.read(field))?;
        self.start = None;
        let StartLine {
            status,
            reason,
            version,
        } = start;
        let head = ResponseHead {
            status,
            reason: reason.slice(&block),
            version,
            headers,
        };
        let event = judge(head, asked, &facts)?;
        self.state = match &event {
            ResponseEvent::Informational(_) if informational >= MAX_INFORMATIONAL => {
                return Err(Refusal::TooManyInformational {
                    limit: MAX_INFORMATIONAL,
                });
            }
            ResponseEvent::Informational(_) => State::Waiting {
                asked,
                informational: informational + 1,
            },
            ResponseEvent::Upgraded(_) => State::Upgraded,
            ResponseEvent::Final(parsed) => State::Answered {
                keep_alive: parsed.keep_alive,
            },
        };
        Ok(Some(event))
    }

    /// Gives the room of a head that is done with to the next one.
    pub fn recycle(&mut self, headers: HeaderMap) {
        self.spare = headers.into_spare();
    }

    /// Whether the connection can carry another request: the response is complete, the upstream
    /// keeps the connection, and it has not sent a byte more than it announced.
    ///
    /// The caller answers for its own half: the request must have been sent to its end.
    #[must_use]
    pub fn reusable(&self, body: &BodyDecoder, unread: &[u8]) -> bool {
        matches!(self.state, State::Answered { keep_alive: true })
            && body.is_done()
            && unread.is_empty()
    }

    fn read_start_line(
        &mut self,
        buf: &[u8],
        limits: &Limits,
    ) -> Result<Option<StartLine>, Refusal> {
        if self.start.is_some() {
            return Ok(self.start);
        }
        let shown = buf.len().min(PREFIX.len());
        if buf.get(..shown) != PREFIX.get(..shown) {
            return Err(Refusal::StatusLine);
        }
        let limit = limits.max_start_line_bytes.min(limits.max_head_bytes);
        let message = Message::Response;
        let bound = Bound {
            bytes: limit,
            refusal: Refusal::StartLineTooLong { message, limit },
        };
        let Some(line) = self.scanner.next_line(buf, &bound)? else {
            return Ok(None);
        };
        self.start = Some(read_line(buf.get(line).unwrap_or_default())?);
        Ok(self.start)
    }
}

/// What every status line starts with; anything else is refused at its first byte.
const PREFIX: &[u8] = b"HTTP/";

/// Takes the status line apart. The blank before an empty phrase may be missing, as some servers
/// leave it out; nothing else may.
fn read_line(line: &[u8]) -> Result<StartLine, Refusal> {
    let (version, rest) = line.split_at_checked(8).ok_or(Refusal::StatusLine)?;
    let version = read_version(version, Refusal::StatusLine)?;
    let (code, tail) = rest.split_at_checked(4).ok_or(Refusal::StatusLine)?;
    let &[b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = code else {
        return Err(Refusal::StatusLine);
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = StatusCode::try_new(digit(a) * 100 + digit(b) * 10 + digit(c))
        .map_err(|_| Refusal::StatusLine)?;
    let reason = match tail {
        [] => Span::new(line.len(), line.len()),
        [b' ', reason @ ..] if chars::is_value(reason) => {
            Span::new(line.len() - reason.len(), line.len())
        }
        tail if tail.contains(&b'\r') => return Err(Refusal::BareCr),
        _ => return Err(Refusal::StatusLine),
    };
    Ok(StartLine {
        status,
        reason,
        version,
    })
}

/// Decides what a head is and how its body ends. RFC 9112 section 6.3.
fn judge(mut head: ResponseHead, asked: Asked, facts: &Facts) -> Result<ResponseEvent, Refusal> {
    let status = head.status;
    let version = head.version;
    if asked == Asked::Connect && status.is_success() {
        head.headers.remove(&HeaderName::CONTENT_LENGTH);
        head.headers.remove(&HeaderName::TRANSFER_ENCODING);
        return Ok(ResponseEvent::Upgraded(head));
    }
    let framing = facts.framing(version, BodyFraming::UntilClose)?;
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        let announces = !matches!(framing, BodyFraming::UntilClose | BodyFraming::Length(0));
        if announces {
            return Err(Refusal::BodyForbidden(status));
        }
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return match asked {
            Asked::Upgrade => Ok(ResponseEvent::Upgraded(head)),
            _ => Err(Refusal::UnaskedUpgrade),
        };
    }
    if status.is_informational() {
        return Ok(ResponseEvent::Informational(head));
    }
    let no_body =
        matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || asked == Asked::Head;
    let framing = if no_body { BodyFraming::Empty } else { framing };
    let keep_alive = facts.keeps_alive(version) && framing != BodyFraming::UntilClose;
    Ok(ResponseEvent::Final(ParsedResponse {
        head,
        framing,
        keep_alive,
    }))
}
