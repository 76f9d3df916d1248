// SPDX-License-Identifier: Apache-2.0
//! What the encoders write, and what they will not write.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::framing::BodyFraming;
use crate::head::{RequestHead, ResponseHead, Version};
use crate::header::{HeaderName, HeaderValue};
use crate::hop::strip_hop_by_hop;
use crate::status::StatusCode;

const PLAIN: RequestWire<'static> = RequestWire {
    framing: BodyFraming::Empty,
    persistence: Persistence::KeepAlive,
    upgrade: None,
};

const OK: ResponseWire<'static> = ResponseWire {
    framing: BodyFraming::Length(2),
    persistence: Persistence::KeepAlive,
    peer: Version::Http11,
    asked: Asked::Plain,
    upgrade: None,
};

fn request_text(head: &RequestHead, wire: &RequestWire<'_>) -> Result<String, Unwritable> {
    let mut out = BytesMut::new();
    encode_request(head, wire, &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn response_text(fields: &str, status: u16, wire: &ResponseWire<'_>) -> (String, BodyFraming) {
    let bytes = format!("HTTP/1.1 200 \r\n{fields}\r\n");
    let event = response(Asked::Head, bytes.as_bytes())
        .expect("accepted")
        .expect("complete");
    let ResponseEvent::Final(ParsedResponse { mut head, .. }) = event else {
        panic!("not final: {event:?}");
    };
    head.status = StatusCode::try_new(status).expect("a status");
    head.reason = Bytes::from_static(b"R");
    let mut out = BytesMut::new();
    let framing = encode_response(&head, wire, &mut out).expect("it can be written");
    (String::from_utf8_lossy(&out).into_owned(), framing)
}

#[test]
fn a_request_keeps_order_and_spelling_and_host_comes_first() {
    let head = accepted(
        b"GET http://B.test/a?b HTTP/1.1\r\nX-Own: 1\r\nUSER-agent: x\r\nHost: a.test\r\n\
          Connection: x-gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\nAccept: */*\r\nx-own: 2\r\n\r\n",
    )
    .head;
    let plain = "GET /a?b HTTP/1.1\r\nHost: B.test\r\nX-Own: 1\r\nUSER-agent: x\r\nX-Gone: 1\r\n\
                 Accept: */*\r\nx-own: 2\r\n\r\n";
    assert_eq!(request_text(&head, &PLAIN).as_deref(), Ok(plain));
    let mut stripped = head;
    strip_hop_by_hop(&mut stripped.headers);
    stripped
        .headers
        .append(HeaderName::X_REQUEST_ID, HeaderValue::from_static("id"));
    let expected = "GET /a?b HTTP/1.1\r\nHost: B.test\r\nX-Own: 1\r\nUSER-agent: x\r\n\
                    Accept: */*\r\nx-own: 2\r\nx-request-id: id\r\n\r\n";
    assert_eq!(request_text(&stripped, &PLAIN).as_deref(), Ok(expected));
}

#[test]
fn request_framing_is_written_once_and_as_told() {
    use BodyFraming::{Chunked, Empty, Length, UntilClose};
    // Fields that came, framing that goes, fields that go.
    let table = [
        ("", Length(0), "content-length: 0\r\n"),
        ("", Chunked, "transfer-encoding: chunked\r\n"),
        ("", UntilClose, "transfer-encoding: chunked\r\n"),
        (
            "CONTENT-length: 5\r\nX: y\r\n",
            Length(6),
            "CONTENT-length: 6\r\nX: y\r\n",
        ),
        (
            "Content-Length: 5\r\nX: y\r\n",
            Chunked,
            "X: y\r\ntransfer-encoding: chunked\r\n",
        ),
        ("Content-Length: 5\r\n", Empty, ""),
        (
            "Transfer-encoding: chunked\r\nX: y\r\n",
            Chunked,
            "Transfer-encoding: chunked\r\nX: y\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\nX: y\r\n",
            Length(1),
            "X: y\r\ncontent-length: 1\r\n",
        ),
        (
            "",
            Length(u64::MAX),
            "content-length: 18446744073709551615\r\n",
        ),
    ];
    for (fields, framing, expected) in table {
        let head = accepted(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).head;
        let text = request_text(&head, &RequestWire { framing, ..PLAIN });
        let expected = format!("POST / HTTP/1.1\r\nHost: a\r\n{expected}\r\n");
        assert_eq!(text, Ok(expected), "{fields:?} as {framing:?}");
    }
}

#[test]
fn request_connection_options_are_written() {
    let close = RequestWire {
        persistence: Persistence::Close,
        ..PLAIN
    };
    let protocol = Bytes::from_static(b"websocket");
    let upgrade = RequestWire {
        upgrade: Some(&protocol),
        ..PLAIN
    };
    let table = [
        ("", PLAIN, ""),
        ("", close, "connection: close\r\n"),
        (
            "te: trailers\r\n",
            PLAIN,
            "te: trailers\r\nconnection: te\r\n",
        ),
        (
            "te: trailers\r\n",
            close,
            "te: trailers\r\nconnection: close, te\r\n",
        ),
        ("", upgrade, "connection: upgrade\r\nupgrade: websocket\r\n"),
        (
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            upgrade,
            "connection: upgrade\r\nupgrade: websocket\r\n",
        ),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", PLAIN, ""),
    ];
    for (fields, wire, expected) in table {
        let head = accepted(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).head;
        let expected = format!("GET / HTTP/1.1\r\nHost: a\r\n{expected}\r\n");
        assert_eq!(request_text(&head, &wire), Ok(expected), "{fields:?}");
    }
}

#[test]
fn targets_are_written_in_the_form_of_their_method() {
    for (line, written) in [
        ("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1\r\nHost: a\r\n"),
        (
            "CONNECT b:443 HTTP/1.1",
            "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n",
        ),
        ("M-SEARCH / HTTP/1.1", "M-SEARCH / HTTP/1.1\r\nHost: a\r\n"),
    ] {
        let head = accepted(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()).head;
        assert_eq!(
            request_text(&head, &PLAIN),
            Ok(format!("{written}\r\n")),
            "{line}"
        );
    }
}

#[test]
fn what_would_inject_is_not_written() {
    let good = accepted(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").head;
    for path in ["", "a", "*", "/a b", "/\r\nX: y", "/a\n", "/\0", "/#a"] {
        let head = RequestHead {
            path: Bytes::from_static(path.as_bytes()),
            ..good.clone()
        };
        assert_eq!(
            request_text(&head, &PLAIN),
            Err(Unwritable::Path),
            "{path:?}"
        );
    }
    for authority in ["a\r\nX: y", "a b", "u@a", "a:b"] {
        let authority = Bytes::from_static(authority.as_bytes());
        let head = RequestHead {
            authority,
            ..good.clone()
        };
        assert_eq!(request_text(&head, &PLAIN), Err(Unwritable::Authority));
    }
    let protocols = Bytes::from_static(b"a\r\nX: y");
    let wire = RequestWire {
        upgrade: Some(&protocols),
        ..PLAIN
    };
    assert_eq!(request_text(&good, &wire), Err(Unwritable::Upgrade));
    let reason = Bytes::from_static(b"OK\r\nX: y");
    let head = ResponseHead {
        reason,
        ..ResponseHead::local(StatusCode::OK)
    };
    let mut out = BytesMut::new();
    assert_eq!(
        encode_response(&head, &OK, &mut out),
        Err(Unwritable::Reason)
    );
    assert!(out.is_empty());
}

#[test]
fn response_framing_is_written_as_the_peer_can_read_it() {
    use BodyFraming::{Chunked, Empty, Length, UntilClose};
    let new = |framing| ResponseWire { framing, ..OK };
    let old = |framing| ResponseWire {
        peer: Version::Http10,
        framing,
        ..OK
    };
    let close = ResponseWire {
        persistence: Persistence::Close,
        ..OK
    };
    let [length, te] = ["Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n"];
    let table = [
        (length, OK, "Content-Length: 2\r\n", Length(2)),
        ("", new(Empty), "content-length: 0\r\n", Length(0)),
        (
            "",
            close,
            "content-length: 2\r\nconnection: close\r\n",
            Length(2),
        ),
        (
            length,
            new(Chunked),
            "transfer-encoding: chunked\r\n",
            Chunked,
        ),
        (te, new(Chunked), te, Chunked),
        (te, old(Chunked), "connection: close\r\n", UntilClose),
        (
            "",
            old(Length(2)),
            "content-length: 2\r\nconnection: keep-alive\r\n",
            Length(2),
        ),
        (
            "",
            new(UntilClose),
            "transfer-encoding: chunked\r\n",
            Chunked,
        ),
        ("", old(UntilClose), "connection: close\r\n", UntilClose),
        (
            "Upgrade: x\r\nConnection: upgrade\r\n",
            OK,
            "content-length: 2\r\n",
            Length(2),
        ),
    ];
    for (fields, wire, expected, framing) in table {
        let text = format!("HTTP/1.1 200 R\r\n{expected}\r\n");
        assert_eq!(
            response_text(fields, 200, &wire),
            (text, framing),
            "{fields:?} {wire:?}"
        );
    }
}

#[test]
fn responses_that_have_no_body_announce_none() {
    let asked = |asked| ResponseWire { asked, ..OK };
    let length = "Content-Length: 9\r\n";
    let table = [
        (200, asked(Asked::Head), length, length),
        (
            200,
            asked(Asked::Head),
            "Transfer-Encoding: chunked\r\n",
            "",
        ),
        (304, OK, length, length),
        (204, OK, "Content-Length: 0\r\n", ""),
        (103, OK, "Link: x\r\n", "Link: x\r\n"),
        (200, asked(Asked::Connect), "X: y\r\n", "X: y\r\n"),
        (
            204,
            ResponseWire {
                persistence: Persistence::Close,
                ..OK
            },
            "",
            "connection: close\r\n",
        ),
    ];
    for (status, wire, fields, expected) in table {
        let text = format!("HTTP/1.1 {status} R\r\n{expected}\r\n");
        let written = response_text(fields, status, &wire);
        assert_eq!(written, (text, BodyFraming::Empty), "{status} {fields:?}");
    }
}

#[test]
fn informational_heads_are_spared_to_http10() {
    let wire = ResponseWire {
        peer: Version::Http10,
        ..OK
    };
    assert_eq!(
        response_text("", 103, &wire),
        (String::new(), BodyFraming::Empty)
    );
}

#[test]
fn switching_protocols_names_the_protocol() {
    let protocol = Bytes::from_static(b"websocket");
    let wire = ResponseWire {
        upgrade: Some(&protocol),
        asked: Asked::Upgrade,
        ..OK
    };
    let (text, framing) = response_text("Sec-WebSocket-Accept: x\r\n", 101, &wire);
    let expected = "HTTP/1.1 101 R\r\nSec-WebSocket-Accept: x\r\nconnection: upgrade\r\n\
                    upgrade: websocket\r\n\r\n";
    assert_eq!((text.as_str(), framing), (expected, BodyFraming::Empty));
}

#[test]
fn chunk_headers_are_hexadecimal() {
    for (length, expected) in [
        (0, ""),
        (1, "1\r\n"),
        (0x10, "10\r\n"),
        (0xbeef, "beef\r\n"),
        (u64::MAX, "ffffffffffffffff\r\n"),
    ] {
        let mut out = BytesMut::new();
        encode_chunk_header(length, &mut out);
        assert_eq!(out, expected, "{length}");
    }
}

#[test]
fn trailers_never_frame() {
    let mut trailers = HeaderMap::new();
    trailers.append(HeaderName::CONTENT_LENGTH, HeaderValue::from_static("4"));
    trailers.append(HeaderName::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers.append(HeaderName::CONNECTION, HeaderValue::from_static("close"));
    let mut out = BytesMut::new();
    encode_last_chunk(Some(&trailers), &mut out);
    encode_last_chunk(None, &mut out);
    assert_eq!(out, "0\r\ngrpc-status: 0\r\n\r\n0\r\n\r\n");
}
