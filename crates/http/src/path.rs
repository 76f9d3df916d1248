// SPDX-License-Identifier: Apache-2.0
//! Normalisation of request paths, so that rules and backends read the same path.
//!
//! The proxy applies [`Rules`] once, before it routes or authorizes, and forwards the result.
//! Only the path is touched, never the query. A path that needs no change costs one look at its
//! bytes and no allocation.
//!
//! **Invariant:** normalising a normalised path changes nothing.

use std::borrow::Cow;

use bytes::Bytes;

use crate::chars;

/// What a listener wants done to paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// RFC 3986 section 6.2.2. Source: `HttpConnectionManager.normalize_path`.
    pub normalize: bool,
    /// `//` becomes `/`. Source: `HttpConnectionManager.merge_slashes`.
    pub merge_slashes: bool,
    /// Source: `HttpConnectionManager.path_with_escaped_slashes_action`.
    pub escaped_slashes: EscapedSlashes,
}

/// What to do with `%2F` and `%5C`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Leave them alone.
    #[default]
    Keep,
    /// Refuse the request.
    Reject,
    /// Answer with a redirect to the path without them.
    UnescapeAndRedirect,
    /// Forward the path without them.
    UnescapeAndForward,
}

/// What to do with the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The path is as the rules want it.
    Unchanged,
    /// Go on with this path and query.
    Changed(Bytes),
    /// Send the client to this path and query.
    Redirect(Bytes),
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// `%00`.
    #[error("path has an escaped NUL")]
    Nul,
    /// `%2F` or `%5C` where the rules refuse them.
    #[error("path has an escaped slash (path_with_escaped_slashes_action)")]
    EscapedSlash,
    /// Raw bytes that are not UTF-8.
    #[error("path has raw bytes that are not UTF-8")]
    NotUtf8,
}

impl Rules {
    /// Applies the rules, in Envoy's order: escaped slashes, normalisation, double slashes.
    ///
    /// # Errors
    /// If the rules refuse the path.
    pub fn apply(&self, path_and_query: &Bytes) -> Result<Outcome, BadPath> {
        let end = memchr::memchr(b'?', path_and_query).unwrap_or(path_and_query.len());
        let (given, query) = path_and_query.split_at(end);
        if given.first() != Some(&b'/') {
            return Ok(Outcome::Unchanged);
        }
        let mut path = Cow::Borrowed(given);
        let mut redirect = false;
        if self.escaped_slashes != EscapedSlashes::Keep
            && let Some(unescaped) = unescape_slashes(&path)
        {
            if self.escaped_slashes == EscapedSlashes::Reject {
                return Err(BadPath::EscapedSlash);
            }
            redirect = self.escaped_slashes == EscapedSlashes::UnescapeAndRedirect;
            path = Cow::Owned(unescaped);
        }
        if self.normalize
            && let Some(normalized) = normalize(&path)?
        {
            path = Cow::Owned(normalized);
        }
        if self.merge_slashes
            && let Some(merged) = merge_slashes(&path)
        {
            path = Cow::Owned(merged);
        }
        let Cow::Owned(mut path) = path else {
            return Ok(Outcome::Unchanged);
        };
        path.extend_from_slice(query);
        let path = Bytes::from(path);
        Ok(if redirect {
            Outcome::Redirect(path)
        } else {
            Outcome::Changed(path)
        })
    }
}

/// Normalises a path that starts with `/` and has no query; `None` if it is normal.
///
/// Dot segments are resolved, escaped or not and with parameters or not (`..;x`); escapes of
/// unreserved characters are decoded; `\` becomes `/`; characters that may not stand raw are
/// escaped; escapes that are no escapes stay.
///
/// Differs from Envoy: an escape that would complete a broken one before it (`%%361`) is not
/// decoded, since the result (`%61`) would mean another path to the backend than to us.
///
/// # Errors
/// For `%00` and for raw bytes that are not UTF-8.
pub fn normalize(path: &[u8]) -> Result<Option<Vec<u8>>, BadPath> {
    if !needs_work(path) {
        return Ok(None);
    }
    if !path.is_ascii() && std::str::from_utf8(path).is_err() {
        return Err(BadPath::NotUtf8);
    }
    let mut out = Vec::with_capacity(path.len() + 16);
    out.push(b'/');
    let mut segments = segments(path).peekable();
    while let Some(segment) = segments.next() {
        match dots(segment) {
            Some(1) => {}
            Some(_) => remove_last_segment(&mut out),
            None => {
                push_segment(segment, &mut out)?;
                if segments.peek().is_some() {
                    out.push(b'/');
                }
            }
        }
    }
    Ok((out != path).then_some(out))
}

/// Replaces runs of slashes by one; `None` if there is no run.
#[must_use]
pub fn merge_slashes(path: &[u8]) -> Option<Vec<u8>> {
    memchr::memmem::find(path, b"//")?;
    let mut out = path.to_vec();
    out.dedup_by(|a, b| *a == b'/' && *b == b'/');
    Some(out)
}

/// Replaces `%2F` by `/` and `%5C` by `\`; `None` if there is neither.
#[must_use]
pub fn unescape_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = None;
    let mut rest = path;
    while let [byte, tail @ ..] = rest {
        let slash = decode(rest).filter(|slash| matches!(slash, b'/' | b'\\'));
        if let (Some(slash), [_, _, _, after @ ..]) = (slash, rest) {
            let done = path.len() - rest.len();
            out.get_or_insert_with(|| path.get(..done).unwrap_or_default().to_vec())
                .push(slash);
            rest = after;
        } else {
            if let Some(out) = &mut out {
                out.push(*byte);
            }
            rest = tail;
        }
    }
    out
}

/// Whether anything in the path may not be normal; cheap, as it is asked for every request.
fn needs_work(path: &[u8]) -> bool {
    let unusual = |(at, byte): (usize, &u8)| match byte {
        b'%' => path
            .get(at..)
            .and_then(decode)
            .is_some_and(|b| b == 0 || chars::is_unreserved(b)),
        byte => must_not_stand(*byte),
    };
    if path.iter().enumerate().any(unusual) {
        return true;
    }
    memchr::memmem::find_iter(path, b"/.").any(|at| {
        let segment = path.get(at + 1..).unwrap_or_default();
        let end = memchr::memchr(b'/', segment).unwrap_or(segment.len());
        segment.get(..end).and_then(dots).is_some()
    })
}

/// The segments behind the first slash; backslashes separate too.
fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.get(1..)
        .unwrap_or_default()
        .split(|byte| matches!(byte, b'/' | b'\\'))
}

/// One or two if the segment means this or the parent directory, parameters left aside.
fn dots(segment: &[u8]) -> Option<usize> {
    let mut rest = segment;
    let mut count = 0;
    loop {
        rest = match rest {
            [] | [b';', ..] => return matches!(count, 1 | 2).then_some(count),
            [b'.', tail @ ..] | [b'%', b'2', b'e' | b'E', tail @ ..] => tail,
            _ => return None,
        };
        count += 1;
    }
}

/// Removes the last segment of a path that ends in a slash; the root has none.
fn remove_last_segment(out: &mut Vec<u8>) {
    if out.len() > 1 {
        out.pop();
        let keep = memchr::memrchr(b'/', out).map_or(1, |at| at + 1);
        out.truncate(keep);
    }
}

fn push_segment(segment: &[u8], out: &mut Vec<u8>) -> Result<(), BadPath> {
    let mut rest = segment;
    while let [byte, tail @ ..] = rest {
        rest = match (decode(rest), tail) {
            (Some(0), _) => return Err(BadPath::Nul),
            (Some(decoded), [_, _, after @ ..])
                if chars::is_unreserved(decoded) && !completes_escape(out) =>
            {
                out.push(decoded);
                after
            }
            _ if must_not_stand(*byte) => {
                push_escaped(*byte, out);
                tail
            }
            _ => {
                out.push(*byte);
                tail
            }
        };
    }
    Ok(())
}

/// Whether a byte added now would become part of an escape that is none yet.
fn completes_escape(out: &[u8]) -> bool {
    matches!(out, [.., b'%'] | [.., b'%', _])
}

fn push_escaped(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or_default();
    out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
}

/// The byte that an escape at the front stands for.
fn decode(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', high, low, ..] => Some((chars::hex(*high)? << 4) | chars::hex(*low)?),
        _ => None,
    }
}

/// Whether a byte must not stand raw in a normal path.
const fn must_not_stand(byte: u8) -> bool {
    NOT_RAW[byte as usize]
}

/// Controls, the blank, all beyond ASCII, and what Envoy escapes or turns.
static NOT_RAW: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte <= 0x20 || byte >= 0x7f;
        byte += 1;
    }
    let others = b"\"#<>?\\^`{|}";
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests;
