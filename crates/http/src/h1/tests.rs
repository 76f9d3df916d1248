// SPDX-License-Identifier: Apache-2.0
//! The codec against tables, against itself byte by byte, and against noise.

mod bodies;
mod encoding;
mod properties;
mod requests;
mod responses;

use bytes::BytesMut;

use super::*;
use crate::header::HeaderMap;

/// Reads a head that arrives whole.
fn request(bytes: &[u8]) -> Result<Option<ParsedRequest>, Refusal> {
    request_within(bytes, &Limits::default())
}

fn request_within(bytes: &[u8], limits: &Limits) -> Result<Option<ParsedRequest>, Refusal> {
    RequestDecoder::new().decode_head(&mut BytesMut::from(bytes), limits)
}

/// Reads a response head that arrives whole.
fn response(asked: Asked, bytes: &[u8]) -> Result<Option<ResponseEvent>, Refusal> {
    let mut decoder = ResponseDecoder::new();
    decoder.start(asked);
    decoder.decode_head(&mut BytesMut::from(bytes), &Limits::default())
}

fn accepted(bytes: &[u8]) -> ParsedRequest {
    request(bytes)
        .expect("it is accepted")
        .expect("it is complete")
}

/// `Name: value` lines as they were spelled.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let line = |(_, name, value): (_, &[u8], &bytes::Bytes)| {
        format!("{}: {}", name.escape_ascii(), value.escape_ascii())
    };
    headers.iter().map(line).collect()
}
