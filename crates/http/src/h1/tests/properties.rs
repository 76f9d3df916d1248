// SPDX-License-Identifier: Apache-2.0
//! What holds for all messages: cuts do not matter, noise is judged, writing and reading agree.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::framing::BodyFraming;
use crate::head::{RequestHead, Version};
use crate::header::{HeaderName, HeaderValue};
use crate::method::Method;

/// Small limits, so that they are met as well.
const LIMITS: Limits = Limits {
    max_head_bytes: 160,
    max_headers: 6,
    max_start_line_bytes: 60,
    max_chunk_ext_bytes: 12,
    max_trailer_bytes: 40,
    accept_http10: true,
};

/// Everything a decoder said about a stream of requests with bodies.
#[derive(Debug, Default, PartialEq)]
struct Transcript {
    heads: Vec<ParsedRequest>,
    data: Vec<u8>,
    trailers: Vec<HeaderMap>,
    refusal: Option<Refusal>,
}

/// Plays a downstream connection whose bytes arrive in the given pieces.
fn play<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Transcript {
    let mut decoder = RequestDecoder::new();
    let mut body: Option<BodyDecoder> = None;
    let mut buf = BytesMut::new();
    let mut said = Transcript::default();
    for piece in pieces {
        buf.extend_from_slice(piece);
        if let Err(refusal) = pump(&mut decoder, &mut body, &mut buf, &mut said) {
            said.refusal = Some(refusal);
            break;
        }
    }
    said
}

fn pump(
    decoder: &mut RequestDecoder,
    body: &mut Option<BodyDecoder>,
    buf: &mut BytesMut,
    said: &mut Transcript,
) -> Result<(), Refusal> {
    loop {
        let Some(reader) = body else {
            let Some(parsed) = decoder.decode_head(buf, &LIMITS)? else {
                return Ok(());
            };
            *body = Some(BodyDecoder::new(parsed.framing, &LIMITS));
            said.heads.push(parsed);
            continue;
        };
        match reader.decode(buf)? {
            BodyEvent::Data(data) => said.data.extend_from_slice(&data),
            BodyEvent::Trailers(map) => said.trailers.push(map),
            BodyEvent::End => *body = None,
            BodyEvent::NeedMore => return Ok(()),
        }
    }
}

/// Texts that are near to being requests.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => Just("GET /a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        3 => Just("POST /b HTTP/1.1\r\nhost: b\r\nX-Own: 1\r\ncontent-length: 3\r\n\r\nabc".into()),
        3 => Just("PUT / HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n".into()),
        3 => Just("3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n".into()),
        1 => Just("0\r\n\r\n".into()),
        1 => Just("\r\n".into()),
        1 => "[A-Z]{1,70} /[a-z#]{0,70} HTTP/1.[0-2]\r\n",
        1 => "[A-Za-z :]{0,8}: ?[ -~]{0,60}\r\n",
        1 => "[\\x00-\\x7f]{0,12}",
    ];
    let damage = prop::option::weighted(0.5, (any::<prop::sample::Index>(), any::<u8>()));
    (prop::collection::vec(part, 1..6), damage).prop_map(|(parts, damage)| {
        let mut bytes = parts.concat().into_bytes();
        if let (Some((at, byte)), false) = (damage, bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// Heads that can be written, with names in any case.
fn heads() -> impl Strategy<Value = RequestHead> {
    let field = (
        "[A-Za-z][A-Za-z0-9_-]{0,12}",
        "[!-~\u{e9}]([ -~\t]{0,20}[!-~])?",
    );
    let fields = prop::collection::vec(field, 0..8);
    let method = prop_oneof![Just("GET"), Just("POST"), Just("M-SEARCH"), Just("PURGE")];
    (
        method,
        "/[!-\"$-~]{0,30}",
        "[a-z.]{1,12}(:[1-9][0-9]{0,3})?",
        fields,
    )
        .prop_map(|(method, path, authority, fields)| {
            let field = |(name, value): (String, String)| {
                (
                    name.parse().expect("a token"),
                    HeaderValue::try_from(value).expect("a value"),
                )
            };
            let own = |(name, _): &(HeaderName, _)| name.known().is_none();
            RequestHead {
                method: Method::parse(method.as_bytes()).expect("a method"),
                scheme: None,
                authority: authority.into(),
                path: path.into(),
                version: Version::Http11,
                headers: fields.into_iter().map(field).filter(own).collect(),
            }
        })
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_does_not_matter(bytes in stream(), size in 1_usize..9) {
        let whole = play(std::iter::once(&bytes[..]));
        prop_assert_eq!(&play(bytes.chunks(1)), &whole);
        prop_assert_eq!(&play(bytes.chunks(size)), &whole);
    }

    #[test]
    fn noise_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1_usize..50) {
        play(bytes.chunks(size));
        for asked in [Asked::Plain, Asked::Head, Asked::Connect, Asked::Upgrade] {
            let _ = response(asked, &bytes);
            let _ = response(asked, &[b"HTTP/1.1 200 OK\r\n", &bytes[..], b"\r\n\r\n"].concat());
        }
        let mut body = BodyDecoder::new(BodyFraming::Chunked, &LIMITS);
        let mut buf = BytesMut::from(&bytes[..]);
        while matches!(body.decode(&mut buf), Ok(BodyEvent::Data(_) | BodyEvent::Trailers(_))) {}
    }

    #[test]
    fn response_heads_are_the_same_however_they_are_cut(
        status in "(1|2|3|9)[0-9][0-9]",
        fields in "((Content-Length: [0-9]|Connection: close|X-Own: v)\r\n){0,3}",
    ) {
        let bytes = format!("HTTP/1.1 {status} Some Reason\r\n{fields}\r\n");
        let mut decoder = ResponseDecoder::new();
        decoder.start(Asked::Plain);
        let mut buf = BytesMut::new();
        let mut dribbled = Ok(None);
        for byte in bytes.bytes() {
            buf.extend_from_slice(&[byte]);
            dribbled = decoder.decode_head(&mut buf, &LIMITS);
            if !matches!(dribbled, Ok(None)) {
                break;
            }
        }
        prop_assert_eq!(dribbled, response(Asked::Plain, bytes.as_bytes()));
    }

    #[test]
    fn what_is_written_is_read_back(
        head in heads(),
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5),
        chunked in any::<bool>(),
    ) {
        let length: usize = chunks.iter().map(Vec::len).sum();
        let framing = if chunked {
            BodyFraming::Chunked
        } else {
            BodyFraming::Length(length.try_into().expect("it is small"))
        };
        let wire = RequestWire { framing, persistence: Persistence::Close, upgrade: None };
        let mut out = BytesMut::new();
        encode_request(&head, &wire, &mut out).expect("it can be written");
        for chunk in &chunks {
            if chunked {
                encode_chunk_header(chunk.len().try_into().expect("it is small"), &mut out);
            }
            out.extend_from_slice(chunk);
            if chunked {
                out.extend_from_slice(b"\r\n");
            }
        }
        if chunked {
            encode_last_chunk(None, &mut out);
        }
        let limits = Limits { max_head_bytes: 4096, max_headers: 20, ..Limits::default() };
        let mut parsed = RequestDecoder::new()
            .decode_head(&mut out, &limits)
            .expect("it is accepted")
            .expect("it is complete");
        prop_assert!(!parsed.keep_alive);
        prop_assert_eq!(parsed.framing, framing);
        let mut body = BodyDecoder::new(parsed.framing, &limits);
        let mut data = Vec::new();
        while let BodyEvent::Data(part) = body.decode(&mut out).expect("it is accepted") {
            data.extend_from_slice(&part);
        }
        prop_assert!(body.is_done() && out.is_empty());
        prop_assert_eq!(data, chunks.concat());
        for name in [HeaderName::CONNECTION, HeaderName::CONTENT_LENGTH, HeaderName::TRANSFER_ENCODING] {
            parsed.head.headers.remove(&name);
        }
        prop_assert_eq!(parsed.head, head);
    }
}

#[test]
fn heads_share_the_read_buffer() {
    let mut buf =
        BytesMut::from(&b"GET /path HTTP/1.1\r\nHost: a.test\r\nX-Low: value\r\n\r\n"[..]);
    let range = buf.as_ptr_range();
    let parsed = RequestDecoder::new()
        .decode_head(&mut buf, &Limits::default())
        .expect("it is accepted")
        .expect("it is complete");
    let within = |bytes: &Bytes| range.contains(&bytes.as_ptr());
    let name: HeaderName = "x-low".parse().expect("a token");
    let head = &parsed.head;
    assert!(within(&head.path) && within(&head.authority));
    assert!(head.headers.get(&name).is_some_and(within));
}
