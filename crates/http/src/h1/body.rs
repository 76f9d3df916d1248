// SPDX-License-Identifier: Apache-2.0
//! Reads message bodies: counted, chunked with trailers, or until the connection closes.
//!
//! ```text
//! Length(n) --n bytes--> Done        UntilClose --on_eof--> Done
//!
//! Size --size > 0--> Data(n) --n bytes--> DataEnd --CR LF--> Size
//!   '---size = 0---> Trailers --empty line--> Done
//! ```
//!
//! The proxy calls [`BodyDecoder::decode`] until it gets [`BodyEvent::NeedMore`] or
//! [`BodyEvent::End`]. Data are slices of the read buffer: no copy and no allocation per chunk.
//! Chunk extensions are bounded and dropped, and chunks are never passed on as they came: the
//! encoder writes its own.

use bytes::{Buf, Bytes, BytesMut};

use super::limits::Limits;
use super::refusal::Refusal;
use super::scan::{Bound, TrailerScanner};
use crate::chars;
use crate::framing::BodyFraming;
use crate::header::{Field, HeaderMap, Known};

/// What a decoder has found in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyEvent {
    /// Some bytes of the body; never empty.
    Data(Bytes),
    /// The trailers of a chunked body, if it has any; `End` follows.
    Trailers(HeaderMap),
    /// The body is complete; what is left in the buffer does not belong to it.
    End,
    /// More bytes are needed.
    NeedMore,
}

/// Reads one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// What is left of the budget for chunk extensions. Unit: bytes.
    ext_left: usize,
    ext_limit: usize,
    trailer_limit: usize,
    trailer_count: usize,
}

#[derive(Debug)]
enum State {
    Length(u64),
    UntilClose,
    Size { scanned: usize },
    Data(u64),
    DataEnd,
    Trailers(TrailerScanner),
    Done,
}

/// A chunk size has at most so many digits, leading zeros included.
const MAX_SIZE_DIGITS: usize = 16;

impl BodyDecoder {
    /// A decoder for the body that a head announced.
    #[must_use]
    pub const fn new(framing: BodyFraming, limits: &Limits) -> Self {
        let state = match framing {
            BodyFraming::Empty | BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(length) => State::Length(length),
            BodyFraming::Chunked => State::Size { scanned: 0 },
            BodyFraming::UntilClose => State::UntilClose,
        };
        Self {
            state,
            ext_left: limits.max_chunk_ext_bytes,
            ext_limit: limits.max_chunk_ext_bytes,
            trailer_limit: limits.max_trailer_bytes,
            trailer_count: limits.max_headers,
        }
    }

    /// Takes the next event off the front of `buf`.
    ///
    /// # Errors
    /// The first rule that the bytes break. The connection cannot be read any further.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<BodyEvent, Refusal> {
        loop {
            match &mut self.state {
                State::Done => return Ok(BodyEvent::End),
                State::Length(left) => {
                    let data = take(left, buf);
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(data);
                }
                State::UntilClose if buf.is_empty() => return Ok(BodyEvent::NeedMore),
                State::UntilClose => return Ok(BodyEvent::Data(buf.split().freeze())),
                State::Size { .. } => match self.read_size(buf)? {
                    None => return Ok(BodyEvent::NeedMore),
                    Some(0) => self.state = State::Trailers(TrailerScanner::default()),
                    Some(size) => self.state = State::Data(size),
                },
                State::Data(left) => {
                    let data = take(left, buf);
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(data);
                }
                State::DataEnd => match &buf[..] {
                    [] | [b'\r'] => return Ok(BodyEvent::NeedMore),
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        self.state = State::Size { scanned: 0 };
                    }
                    _ => return Err(Refusal::ChunkEnd),
                },
                State::Trailers(_) => return self.read_trailers(buf),
            }
        }
    }

    /// Says that the peer has closed its side, after the buffer has been decoded.
    ///
    /// # Errors
    /// If the body was not complete.
    pub fn on_eof(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Refusal::Truncated),
        }
    }

    /// Whether the whole body has been read.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Reads a size line: `hex [blanks ; extensions] CR LF`. RFC 9112 section 7.1.
    fn read_size(&mut self, buf: &mut BytesMut) -> Result<Option<u64>, Refusal> {
        let State::Size { scanned } = &mut self.state else {
            return Ok(None);
        };
        let limit = self.ext_limit;
        let longest = MAX_SIZE_DIGITS + self.ext_left + b"\r".len();
        let unseen = buf.get(*scanned..).unwrap_or_default();
        let Some(at) = memchr::memchr(b'\n', unseen) else {
            *scanned = buf.len();
            let too_long = buf.len() > longest;
            return if too_long {
                Err(Refusal::ChunkExtTooLarge { limit })
            } else {
                Ok(None)
            };
        };
        let feed = *scanned + at;
        if feed > longest {
            return Err(Refusal::ChunkExtTooLarge { limit });
        }
        let Some([line @ .., b'\r']) = buf.get(..feed) else {
            return Err(Refusal::BareLf);
        };
        let (size, ext) = parse_size(line)?;
        self.ext_left = self
            .ext_left
            .checked_sub(ext)
            .ok_or(Refusal::ChunkExtTooLarge { limit })?;
        buf.advance(feed + 1);
        Ok(Some(size))
    }

    fn read_trailers(&mut self, buf: &mut BytesMut) -> Result<BodyEvent, Refusal> {
        let State::Trailers(scanner) = &mut self.state else {
            return Ok(BodyEvent::NeedMore);
        };
        let limit = self.trailer_limit;
        let bound = Bound {
            bytes: limit,
            refusal: Refusal::TrailersTooLarge { limit },
        };
        let limit = self.trailer_count;
        let count = (limit, Refusal::TooManyTrailers { limit });
        if !scanner.read_fields(buf, &bound, count)? {
            return Ok(BodyEvent::NeedMore);
        }
        let mut trailers = HeaderMap::new();
        scanner.finish(buf, &mut trailers, judge_trailer)?;
        self.state = State::Done;
        Ok(if trailers.is_empty() {
            BodyEvent::End
        } else {
            BodyEvent::Trailers(trailers)
        })
    }
}

/// Takes up to `left` bytes off the buffer.
fn take(left: &mut u64, buf: &mut BytesMut) -> BodyEvent {
    let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
    if wanted == 0 {
        return BodyEvent::NeedMore;
    }
    *left = left.saturating_sub(u64::try_from(wanted).unwrap_or(u64::MAX));
    BodyEvent::Data(buf.split_to(wanted).freeze())
}

/// The size and the length of what follows it on the line.
fn parse_size(line: &[u8]) -> Result<(u64, usize), Refusal> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if !(1..=MAX_SIZE_DIGITS).contains(&digits) {
        return Err(Refusal::ChunkSize);
    }
    // Sixteen digits fill 64 bits exactly, so the shift loses nothing.
    let (hex, rest) = line.split_at(digits);
    let size = hex
        .iter()
        .filter_map(|b| chars::hex(*b))
        .fold(0, |n, d| (n << 4) | u64::from(d));
    match chars::trim(rest) {
        _ if rest.is_empty() => Ok((size, 0)),
        [b';', ..] if chars::is_value(rest) => Ok((size, rest.len())),
        _ if rest.contains(&b'\r') => Err(Refusal::BareCr),
        _ => Err(Refusal::ChunkSize),
    }
}

/// Refuses trailers that frame or address, drops those that only make sense before a body: a
/// recipient that merges trailers into headers must not be fooled. RFC 9110 section 6.5.1.
fn judge_trailer(field: &Field) -> Result<bool, Refusal> {
    let Some(known) = field.name.known() else {
        return Ok(!is_control_name(field.name.as_bytes()));
    };
    match known {
        Known::CONTENT_LENGTH | Known::TRANSFER_ENCODING | Known::HOST => {
            Err(Refusal::ForbiddenTrailer(known.lower()))
        }
        Known::CONNECTION
        | Known::KEEP_ALIVE
        | Known::PROXY_CONNECTION
        | Known::TE
        | Known::TRAILER
        | Known::UPGRADE
        | Known::HTTP2_SETTINGS
        | Known::EXPECT
        | Known::MAX_FORWARDS
        | Known::CACHE_CONTROL
        | Known::RANGE
        | Known::CONTENT_ENCODING
        | Known::CONTENT_TYPE
        | Known::CONTENT_RANGE
        | Known::AUTHORIZATION
        | Known::PROXY_AUTHORIZATION
        | Known::PROXY_AUTHENTICATE
        | Known::WWW_AUTHENTICATE
        | Known::COOKIE
        | Known::SET_COOKIE
        | Known::FORWARDED
        | Known::X_REAL_IP
        | Known::X_REQUEST_ID => Ok(false),
        known => Ok(!is_control_name(known.lower().as_bytes())),
    }
}

/// Names by which proxies tell each other who is calling and what to do.
fn is_control_name(lower: &[u8]) -> bool {
    lower.starts_with(b"x-forwarded-") || lower.starts_with(b"x-envoy-")
}
