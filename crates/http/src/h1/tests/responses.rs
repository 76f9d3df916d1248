// SPDX-License-Identifier: Apache-2.0
//! Response heads: framing by request and status, informational heads, upgrades, reuse.

use bytes::BytesMut;

use super::*;
use crate::framing::BodyFraming;
use crate::status::StatusCode;

fn parsed(asked: Asked, bytes: &str) -> Result<ParsedResponse, Refusal> {
    match response(asked, format!("{bytes}\r\n\r\n").as_bytes())? {
        Some(ResponseEvent::Final(parsed)) => Ok(parsed),
        other => panic!("not a final response: {other:?}"),
    }
}

#[test]
fn a_response_is_taken_apart() {
    let parsed = parsed(
        Asked::Plain,
        "HTTP/1.1 200 Very \u{e9} OK\r\nServer: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 3",
    )
    .expect("it is accepted");
    assert_eq!(parsed.head.status, StatusCode::OK);
    assert_eq!(parsed.head.reason, "Very \u{e9} OK");
    assert_eq!(
        lines(&parsed.head.headers),
        [
            "Server: x",
            "Set-Cookie: a",
            "Set-Cookie: b",
            "Content-Length: 3"
        ]
    );
    assert_eq!(
        (parsed.framing, parsed.keep_alive),
        (BodyFraming::Length(3), true)
    );
}

#[test]
fn status_lines_that_break_a_rule_are_refused() {
    let table = [
        ("HTTP/1.1 99 x", Refusal::StatusLine),
        ("HTTP/1.1 099 x", Refusal::StatusLine),
        ("HTTP/1.1 1000 x", Refusal::StatusLine),
        ("HTTP/1.1 2xx OK", Refusal::StatusLine),
        ("HTTP/1.1  200 OK", Refusal::StatusLine),
        ("HTTP/1.1", Refusal::StatusLine),
        ("HTTP/1.1 200\tOK", Refusal::StatusLine),
        ("HTTP/1.1 200 O\u{1}K", Refusal::StatusLine),
        ("HTTP/1.1 200 O\rK", Refusal::BareCr),
        ("HTTP/2.0 200 OK", Refusal::Version),
        ("ICY 200 OK", Refusal::StatusLine),
        ("garbage", Refusal::StatusLine),
        (" HTTP/1.1 200 OK", Refusal::StatusLine),
        ("HTTP/1.1 200 OK\nX: y", Refusal::BareLf),
    ];
    for (line, expected) in table {
        assert_eq!(parsed(Asked::Plain, line), Err(expected), "{line:?}");
    }
    for (line, status) in [
        ("HTTP/1.1 200 ", 200),
        ("HTTP/1.1 200", 200),
        ("HTTP/1.0 999 x", 999),
    ] {
        let parsed = parsed(Asked::Plain, line).expect("it is accepted");
        assert_eq!(parsed.head.status.get(), status, "{line:?}");
    }
}

#[test]
fn framing_follows_request_and_status() {
    use BodyFraming::{Chunked, Empty, Length, UntilClose};
    let table = [
        (Asked::Plain, "HTTP/1.1 200 OK", UntilClose, false),
        (
            Asked::Plain,
            "HTTP/1.1 200 OK\r\nContent-Length: 0",
            Length(0),
            true,
        ),
        (
            Asked::Plain,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
            Chunked,
            true,
        ),
        (
            Asked::Plain,
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close",
            Length(1),
            false,
        ),
        (
            Asked::Plain,
            "HTTP/1.0 200 OK\r\nContent-Length: 1",
            Length(1),
            false,
        ),
        (
            Asked::Plain,
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive",
            Length(1),
            true,
        ),
        (Asked::Plain, "HTTP/1.1 204 No Content", Empty, true),
        (
            Asked::Plain,
            "HTTP/1.1 204 No Content\r\nContent-Length: 0",
            Empty,
            true,
        ),
        (
            Asked::Plain,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9",
            Empty,
            true,
        ),
        (
            Asked::Head,
            "HTTP/1.1 200 OK\r\nContent-Length: 9",
            Empty,
            true,
        ),
        (
            Asked::Head,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
            Empty,
            true,
        ),
        (Asked::Head, "HTTP/1.1 200 OK", Empty, true),
        (
            Asked::Connect,
            "HTTP/1.1 403 No\r\nContent-Length: 2",
            Length(2),
            true,
        ),
        (
            Asked::Upgrade,
            "HTTP/1.1 200 OK\r\nContent-Length: 2",
            Length(2),
            true,
        ),
    ];
    for (asked, bytes, framing, keep_alive) in table {
        let parsed = parsed(asked, bytes).expect("it is accepted");
        assert_eq!(
            (parsed.framing, parsed.keep_alive),
            (framing, keep_alive),
            "{bytes:?}"
        );
    }
}

#[test]
fn contradictions_are_refused() {
    let table = [
        (
            "200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            Refusal::LengthAndEncoding,
        ),
        (
            "200 OK\r\nContent-Length: 1\r\nContent-Length: 1",
            Refusal::RepeatedLength,
        ),
        ("200 OK\r\nContent-Length: x", Refusal::Length),
        ("200 OK\r\nTransfer-Encoding: gzip", Refusal::Encoding),
        (
            "204 No\r\nContent-Length: 1",
            Refusal::BodyForbidden(StatusCode::NO_CONTENT),
        ),
        (
            "204 No\r\nTransfer-Encoding: chunked",
            Refusal::BodyForbidden(StatusCode::NO_CONTENT),
        ),
        (
            "103 Hm\r\nContent-Length: 1",
            Refusal::BodyForbidden(StatusCode::EARLY_HINTS),
        ),
        (
            "101 Go\r\nConnection: upgrade\r\nUpgrade: x",
            Refusal::UnaskedUpgrade,
        ),
        ("200 OK\r\nX : y", Refusal::SpaceBeforeColon),
        ("200 OK\r\n X: y", Refusal::Fold),
    ];
    for (rest, expected) in table {
        assert_eq!(
            parsed(Asked::Plain, &format!("HTTP/1.1 {rest}")),
            Err(expected),
            "{rest:?}"
        );
    }
    let old = parsed(
        Asked::Plain,
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
    );
    assert_eq!(old, Err(Refusal::EncodingInHttp10));
}

#[test]
fn informational_heads_come_before_the_final_one() {
    let mut decoder = ResponseDecoder::new();
    decoder.start(Asked::Plain);
    let mut buf = BytesMut::from(
        &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
           HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"[..],
    );
    let limits = Limits::default();
    let mut next = || {
        decoder
            .decode_head(&mut buf, &limits)
            .expect("accepted")
            .expect("complete")
    };
    let hint = |event| match event {
        ResponseEvent::Informational(head) => (head.status.get(), head.headers.len()),
        other => panic!("not informational: {other:?}"),
    };
    assert_eq!(hint(next()), (100, 0));
    assert_eq!(hint(next()), (103, 1));
    assert!(
        matches!(next(), ResponseEvent::Final(parsed) if parsed.framing == BodyFraming::Length(2))
    );
    assert_eq!(&buf[..], b"hi");
}

#[test]
fn endless_informational_heads_are_refused() {
    let mut decoder = ResponseDecoder::new();
    decoder.start(Asked::Plain);
    let limits = Limits::default();
    let mut step = || {
        let mut buf = BytesMut::from(&b"HTTP/1.1 100 Continue\r\n\r\n"[..]);
        decoder.decode_head(&mut buf, &limits)
    };
    assert!((0..100).all(|_| step().is_ok()));
    assert_eq!(step(), Err(Refusal::TooManyInformational { limit: 100 }));
}

#[test]
fn tunnels_are_handed_out_with_their_first_bytes_left() {
    let table = [
        (
            Asked::Upgrade,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            1,
        ),
        (
            Asked::Connect,
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            0,
        ),
    ];
    for (asked, bytes, fields) in table {
        let mut decoder = ResponseDecoder::new();
        decoder.start(asked);
        let mut buf = BytesMut::from(format!("{bytes}\0\x01").as_bytes());
        let event = decoder.decode_head(&mut buf, &Limits::default());
        let Ok(Some(ResponseEvent::Upgraded(head))) = event else {
            panic!("not a tunnel: {event:?}");
        };
        assert_eq!((head.headers.len(), &buf[..]), (fields, &b"\0\x01"[..]));
        let done = BodyDecoder::new(BodyFraming::Empty, &Limits::default());
        assert!(!decoder.reusable(&done, b""));
        let more = decoder.decode_head(&mut buf, &Limits::default());
        assert_eq!(more, Err(Refusal::Unsolicited));
    }
}

#[test]
fn a_connection_is_reused_only_when_nothing_is_left_over() {
    let limits = Limits::default();
    // Response, whether the connection may be pooled after it.
    let table: [(&str, bool); 7] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi!", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", false),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n",
            false,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n", false),
    ];
    for (bytes, expected) in table {
        let mut decoder = ResponseDecoder::new();
        assert!(!decoder.reusable(&BodyDecoder::new(BodyFraming::Empty, &limits), b""));
        decoder.start(Asked::Plain);
        let mut buf = BytesMut::from(bytes.as_bytes());
        let event = decoder
            .decode_head(&mut buf, &limits)
            .expect("accepted")
            .expect("complete");
        let ResponseEvent::Final(parsed) = event else {
            panic!("not final: {event:?}")
        };
        let mut body = BodyDecoder::new(parsed.framing, &limits);
        while !matches!(
            body.decode(&mut buf).expect("accepted"),
            BodyEvent::End | BodyEvent::NeedMore
        ) {}
        assert_eq!(decoder.reusable(&body, &buf), expected, "{bytes:?}");
    }
}

#[test]
fn bytes_without_a_request_are_refused() {
    let mut decoder = ResponseDecoder::new();
    let limits = Limits::default();
    assert_eq!(decoder.decode_head(&mut BytesMut::new(), &limits), Ok(None));
    let early = decoder.decode_head(&mut BytesMut::from(&b"H"[..]), &limits);
    assert_eq!(early, Err(Refusal::Unsolicited));
}
