// SPDX-License-Identifier: Apache-2.0
//! Bodies: the three framings, hostile chunks, and what may stand in trailers.

use bytes::BytesMut;

use super::*;
use crate::framing::BodyFraming;
use crate::header::BadValue;

/// Data, trailers, and what is left.
type Read = (Vec<u8>, Vec<String>, Vec<u8>);

/// Reads a body that arrives whole.
fn read(framing: BodyFraming, bytes: &[u8]) -> Result<Read, Refusal> {
    read_within(framing, bytes, &Limits::default())
}

fn read_within(framing: BodyFraming, bytes: &[u8], limits: &Limits) -> Result<Read, Refusal> {
    let mut decoder = BodyDecoder::new(framing, limits);
    let mut buf = BytesMut::from(bytes);
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    loop {
        match decoder.decode(&mut buf)? {
            BodyEvent::Data(part) => {
                assert!(!part.is_empty());
                data.extend_from_slice(&part);
            }
            BodyEvent::Trailers(map) => trailers = lines(&map),
            BodyEvent::NeedMore => decoder.on_eof()?,
            BodyEvent::End => return Ok((data, trailers, buf.to_vec())),
        }
    }
}

#[test]
fn bodies_end_where_their_framing_says() {
    use BodyFraming::{Chunked, Empty, Length, UntilClose};
    let table: [(BodyFraming, &str, &str, &str); 9] = [
        (Empty, "GET", "", "GET"),
        (Length(0), "GET", "", "GET"),
        (Length(3), "abcGET", "abc", "GET"),
        (UntilClose, "abc", "abc", ""),
        (UntilClose, "", "", ""),
        (Chunked, "0\r\n\r\nGET", "", "GET"),
        (
            Chunked,
            "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
            "abc0123456789",
            "",
        ),
        (
            Chunked,
            "0003;a=\"b;c\";d \r\nabc\r\n000\r\n\r\n\r\n",
            "abc",
            "\r\n",
        ),
        (Chunked, "1 ;x\r\na\r\n1\t;y\r\nb\r\n0;z\r\n\r\n", "ab", ""),
    ];
    for (framing, bytes, data, rest) in table {
        let read = read(framing, bytes.as_bytes());
        assert_eq!(read, Ok((data.into(), vec![], rest.into())), "{bytes:?}");
    }
}

#[test]
fn hostile_chunks_are_refused() {
    let table = [
        ("\r\n", Refusal::ChunkSize),
        (";a\r\n", Refusal::ChunkSize),
        ("g\r\n", Refusal::ChunkSize),
        ("-1\r\n", Refusal::ChunkSize),
        ("+1\r\n", Refusal::ChunkSize),
        ("0x1\r\n", Refusal::ChunkSize),
        (" 1\r\n", Refusal::ChunkSize),
        ("1 \r\na\r\n", Refusal::ChunkSize),
        ("1 2\r\n", Refusal::ChunkSize),
        ("1_0\r\n", Refusal::ChunkSize),
        ("10000000000000000\r\n", Refusal::ChunkSize),
        ("00000000000000001\r\n", Refusal::ChunkSize),
        ("1\na\r\n", Refusal::BareLf),
        ("1;x\na\r\n", Refusal::BareLf),
        ("1\r\r\na\r\n", Refusal::BareCr),
        ("1;a\rb\r\na\r\n", Refusal::BareCr),
        ("1;a\0\r\na\r\n", Refusal::ChunkSize),
        ("1\r\nab\r\n", Refusal::ChunkEnd),
        ("1\r\na\n0\r\n\r\n", Refusal::ChunkEnd),
        ("1\r\na\rb", Refusal::ChunkEnd),
        ("1\r\na0\r\n\r\n", Refusal::ChunkEnd),
        ("0\r\n\n", Refusal::BareLf),
        ("0\r\nX: y\n\r\n", Refusal::BareLf),
        ("0\r\nX : y\r\n\r\n", Refusal::SpaceBeforeColon),
        ("0\r\n X: y\r\n\r\n", Refusal::Fold),
        ("0\r\nX: \u{1}\r\n\r\n", Refusal::FieldValue(BadValue(1))),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", Refusal::NoColon),
    ];
    for (bytes, expected) in table {
        assert_eq!(
            read(BodyFraming::Chunked, bytes.as_bytes()),
            Err(expected),
            "{bytes:?}"
        );
    }
    let largest = read(BodyFraming::Chunked, b"ffffffffffffffff\r\nabc");
    assert_eq!(largest, Err(Refusal::Truncated));
}

#[test]
fn a_body_that_is_cut_is_never_complete() {
    for (framing, bytes) in [
        (BodyFraming::Length(4), "abc"),
        (BodyFraming::Length(u64::MAX), ""),
        (BodyFraming::Chunked, ""),
        (BodyFraming::Chunked, "3"),
        (BodyFraming::Chunked, "3\r\nab"),
        (BodyFraming::Chunked, "3\r\nabc"),
        (BodyFraming::Chunked, "3\r\nabc\r\n"),
        (BodyFraming::Chunked, "0\r\n"),
        (BodyFraming::Chunked, "0\r\nX: y\r\n"),
    ] {
        assert_eq!(
            read(framing, bytes.as_bytes()),
            Err(Refusal::Truncated),
            "{bytes:?}"
        );
    }
}

#[test]
fn trailers_pass_without_what_could_fool_a_backend() {
    let (_, trailers, rest) = read(
        BodyFraming::Chunked,
        b"0\r\nGrpc-Status: 0\r\nConnection: x\r\nAuthorization: y\r\nX-Forwarded-For: z\r\n\
          X-Envoy-New: v\r\nTE: trailers\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n!",
    )
    .expect("they are accepted");
    assert_eq!(trailers, ["Grpc-Status: 0", "X-Sum: 1", "X-Sum: 2"]);
    assert_eq!(rest, b"!");
    for name in ["Content-Length", "transfer-encoding", "HOST"] {
        let body = format!("0\r\n{name}: 4\r\n\r\n");
        let expected = Err(Refusal::ForbiddenTrailer(match name {
            "HOST" => "host",
            "Content-Length" => "content-length",
            _ => "transfer-encoding",
        }));
        assert_eq!(read(BodyFraming::Chunked, body.as_bytes()), expected);
    }
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let limits = Limits {
        max_chunk_ext_bytes: 8,
        max_trailer_bytes: 16,
        max_headers: 2,
        ..Limits::default()
    };
    let ext = Refusal::ChunkExtTooLarge { limit: 8 };
    let table = [
        ("1;1234567\r\na\r\n0\r\n\r\n", None),
        ("1;12345678\r\na\r\n0\r\n\r\n", Some(ext)),
        ("1;123\r\na\r\n1;123\r\na\r\n0\r\n\r\n", None),
        ("1;123\r\na\r\n1;1234\r\na\r\n0\r\n\r\n", Some(ext)),
        ("1;12345678901234567890123456789", Some(ext)),
        ("0\r\na:1\r\nb:1\r\n\r\n", None),
        (
            "0\r\na:\r\nb:\r\nc:\r\n\r\n",
            Some(Refusal::TooManyTrailers { limit: 2 }),
        ),
        (
            "0\r\na:0123456789abcd",
            Some(Refusal::TrailersTooLarge { limit: 16 }),
        ),
        (
            "0\r\na:0123456789ab\r\n\r\n",
            Some(Refusal::TrailersTooLarge { limit: 16 }),
        ),
    ];
    for (bytes, expected) in table {
        let refusal = read_within(BodyFraming::Chunked, bytes.as_bytes(), &limits).err();
        assert_eq!(refusal, expected, "{bytes:?}");
    }
}
