// SPDX-License-Identifier: Apache-2.0
//! Lines and field lines of a head, found once, however the bytes arrive.
//!
//! The scanner remembers how far it has looked and where each field lies, so that a head that
//! comes byte by byte costs no more than one that comes whole. Requests, responses and trailers
//! share it; none of them sees a line whose end is not exactly CR LF.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use smallvec::{Array, SmallVec};

use super::refusal::Refusal;
use crate::chars;
use crate::header::{BadName, BadValue, Field, HeaderMap, HeaderName, Known, Spelling};

/// Reads heads: room for the fields of most of them without an allocation.
pub(super) type HeadScanner = Scanner<[RawField; 16]>;

/// Reads trailers, of which there are few or none.
pub(super) type TrailerScanner = Scanner<[RawField; 2]>;

/// The state of reading one block of lines that starts at the front of a buffer.
#[derive(Debug)]
pub(super) struct Scanner<A: Array<Item = RawField>> {
    /// Where the current line starts; the end of all complete lines.
    line_start: usize,
    /// No line feed lies between `line_start` and here.
    scanned: usize,
    fields: SmallVec<A>,
    /// Room for names in lower case; taken again when the head before is gone.
    lowered: BytesMut,
}

/// A limit and what to say when it is met.
pub(super) struct Bound {
    pub(super) bytes: usize,
    pub(super) refusal: Refusal,
}

/// Where a checked field line lies within its block. Offsets from the block's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawField {
    name: Span,
    value: Span,
    known: Option<Known>,
    /// The name is not known and has upper-case letters.
    lower_it: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

// By hand, since the derived one would ask that arrays of fields have a default.
impl<A: Array<Item = RawField>> Default for Scanner<A> {
    fn default() -> Self {
        Self {
            line_start: 0,
            scanned: 0,
            fields: SmallVec::new(),
            lowered: BytesMut::new(),
        }
    }
}

impl<A: Array<Item = RawField>> Scanner<A> {
    /// Finds the next complete line, without its line end; `None` if more bytes are needed.
    pub(super) fn next_line(
        &mut self,
        buf: &[u8],
        bound: &Bound,
    ) -> Result<Option<Range<usize>>, Refusal> {
        let unseen = buf.get(self.scanned..).unwrap_or_default();
        let Some(at) = memchr::memchr(b'\n', unseen) else {
            self.scanned = buf.len();
            return if buf.len() >= bound.bytes {
                Err(bound.refusal)
            } else {
                Ok(None)
            };
        };
        let feed = self.scanned + at;
        if feed >= bound.bytes {
            return Err(bound.refusal);
        }
        let start = self.line_start;
        let Some([.., b'\r']) = buf.get(start..feed) else {
            return Err(Refusal::BareLf);
        };
        self.scanned = feed + 1;
        self.line_start = feed + 1;
        Ok(Some(start..feed - 1))
    }

    /// Reads field lines up to the empty line that ends the block; false if more bytes are needed.
    pub(super) fn read_fields(
        &mut self,
        buf: &[u8],
        bound: &Bound,
        count: (usize, Refusal),
    ) -> Result<bool, Refusal> {
        while let Some(line) = self.next_line(buf, bound)? {
            if line.is_empty() {
                return Ok(true);
            }
            if self.fields.len() >= count.0 {
                return Err(count.1);
            }
            let start = line.start;
            let field = read_field(buf.get(line).unwrap_or_default(), start)?;
            self.fields.push(field);
        }
        Ok(false)
    }

    /// Cuts the block that has been read off the buffer and makes the scanner ready for the next.
    ///
    /// `visit` sees each field in order and says whether it belongs into `headers`.
    pub(super) fn finish(
        &mut self,
        buf: &mut BytesMut,
        headers: &mut HeaderMap,
        mut visit: impl FnMut(&Field) -> Result<bool, Refusal>,
    ) -> Result<Bytes, Refusal> {
        let block = buf.split_to(self.line_start.min(buf.len())).freeze();
        let mut lowered = self.lowered_names(&block);
        headers.reserve(self.fields.len());
        for raw in &self.fields {
            let field = raw.field(&block, &mut lowered);
            if visit(&field)? {
                headers.push(field);
            }
        }
        self.fields.clear();
        self.line_start = 0;
        self.scanned = 0;
        Ok(block)
    }

    /// Whether bytes of an unfinished block have been seen.
    pub(super) const fn is_within(&self) -> bool {
        self.scanned > 0
    }

    /// All names that need it in lower case, one after the other: one buffer for all of them.
    fn lowered_names(&mut self, block: &Bytes) -> Bytes {
        let names = || {
            self.fields
                .iter()
                .filter(|raw| raw.lower_it)
                .map(|raw| raw.name.of(block))
        };
        let length = names().map(<[u8]>::len).sum();
        if length == 0 {
            return Bytes::new();
        }
        self.lowered.reserve(length);
        for name in names() {
            self.lowered.extend(name.iter().map(u8::to_ascii_lowercase));
        }
        self.lowered.split().freeze()
    }
}

impl RawField {
    fn field(&self, block: &Bytes, lowered: &mut Bytes) -> Field {
        let spelled = self.name.of(block);
        let own = || Spelling::Own(self.name.slice(block));
        let (name, spelling) = match self.known {
            Some(known) if spelled == known.usual().as_bytes() => {
                (HeaderName::from_known(known), Spelling::Usual(known))
            }
            Some(known) if spelled == known.lower().as_bytes() => {
                (HeaderName::from_known(known), Spelling::Lower)
            }
            Some(known) => (HeaderName::from_known(known), own()),
            None if self.lower_it => {
                let name = lowered.split_to(spelled.len().min(lowered.len()));
                (HeaderName::custom(name), own())
            }
            None => (HeaderName::custom(self.name.slice(block)), Spelling::Lower),
        };
        Field {
            name,
            spelling,
            value: self.value.slice(block),
        }
    }
}

impl Span {
    /// Heads are shorter than 4 GiB; a longer one would be cut here, never read wrongly.
    pub(super) fn new(start: usize, end: usize) -> Self {
        let narrow = |offset| u32::try_from(offset).unwrap_or(u32::MAX);
        Self {
            start: narrow(start),
            end: narrow(end),
        }
    }

    pub(super) fn of(self, block: &[u8]) -> &[u8] {
        block
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    pub(super) fn slice(self, block: &Bytes) -> Bytes {
        block.slice_ref(self.of(block))
    }
}

/// Checks one field line. RFC 9112 section 5.
fn read_field(line: &[u8], start: usize) -> Result<RawField, Refusal> {
    if let [b' ' | b'\t', ..] = line {
        return Err(Refusal::Fold);
    }
    let colon = memchr::memchr(b':', line).ok_or(Refusal::NoColon)?;
    let (name, rest) = line.split_at(colon);
    if let [.., b' ' | b'\t'] = name {
        return Err(Refusal::SpaceBeforeColon);
    }
    let known = Known::find(name);
    let lower_it = if known.is_some() {
        false
    } else {
        check_name(name)?
    };
    let value = trim_value(rest, start + colon);
    check_value(rest)?;
    Ok(RawField {
        name: Span::new(start, start + colon),
        value,
        known,
        lower_it,
    })
}

/// The span of a value without the blanks around it; `rest` starts with the colon.
fn trim_value(rest: &[u8], start: usize) -> Span {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let lead = rest.iter().skip(1).take_while(|byte| blank(byte)).count();
    let value = rest.get(1 + lead..).unwrap_or_default();
    let tail = value.iter().rev().take_while(|byte| blank(byte)).count();
    let start = start + 1 + lead;
    Span::new(start, start + value.len() - tail)
}

/// Whether a name that is a token has upper-case letters.
fn check_name(name: &[u8]) -> Result<bool, Refusal> {
    if name.is_empty() {
        return Err(Refusal::FieldName(BadName::Empty));
    }
    let mut upper = false;
    for &byte in name {
        if !chars::is_token(byte) {
            return Err(match byte {
                b'\r' => Refusal::BareCr,
                byte => Refusal::FieldName(BadName::Byte(byte)),
            });
        }
        upper |= byte.is_ascii_uppercase();
    }
    Ok(upper)
}

fn check_value(value: &[u8]) -> Result<(), Refusal> {
    if chars::is_value(value) {
        return Ok(());
    }
    let bad = |byte: &&u8| !chars::is_value(std::slice::from_ref(*byte));
    Err(match value.iter().find(bad) {
        Some(b'\r') => Refusal::BareCr,
        byte => Refusal::FieldValue(BadValue(byte.copied().unwrap_or_default())),
    })
}
