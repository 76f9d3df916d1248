// SPDX-License-Identifier: Apache-2.0
//! Request heads: what is refused and why, and the oddities that are accepted.

use bytes::BytesMut;

use super::*;
use crate::authority::BadAuthority;
use crate::framing::BodyFraming;
use crate::head::{Scheme, Version};
use crate::header::{BadName, BadValue, HeaderName};
use crate::method::Method;

/// The lines of a request after `POST / HTTP/1.1` and a host; the end is added.
fn with_fields(fields: &str) -> Result<Option<ParsedRequest>, Refusal> {
    request(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n").as_bytes())
}

#[test]
fn a_request_is_taken_apart() {
    let bytes = b"GET /a/b?c=d HTTP/1.1\r\nhost: Shop.Test:8080\r\nUser-Agent: curl/8\r\n\
        X-Shop-User:rui \r\nACCEPT:\t*/*\r\nx-low: \r\nx-shop-user: two\r\n\r\nrest";
    let mut buf = BytesMut::from(&bytes[..]);
    let parsed = RequestDecoder::new()
        .decode_head(&mut buf, &Limits::default())
        .expect("it is accepted")
        .expect("it is complete");
    let head = &parsed.head;
    assert_eq!(
        (&head.method, head.version, head.scheme),
        (&Method::Get, Version::Http11, None)
    );
    assert_eq!(head.authority, "Shop.Test:8080");
    assert_eq!(
        (head.path_only(), head.query()),
        (&b"/a/b"[..], Some(&b"c=d"[..]))
    );
    let expected = [
        "User-Agent: curl/8",
        "X-Shop-User: rui",
        "ACCEPT: */*",
        "x-low: ",
        "x-shop-user: two",
    ];
    assert_eq!(lines(&head.headers), expected);
    let name: HeaderName = "x-shop-user".parse().expect("a token");
    assert_eq!(
        head.headers.get_all(&name).collect::<Vec<_>>(),
        ["rui", "two"]
    );
    assert_eq!(
        head.headers.get(&HeaderName::ACCEPT).map(|v| &v[..]),
        Some(&b"*/*"[..])
    );
    assert_eq!(parsed.framing, BodyFraming::Empty);
    assert!(parsed.keep_alive && parsed.upgrade.is_none() && !parsed.expect_continue);
    assert_eq!(&buf[..], b"rest");
}

#[test]
fn start_lines_that_break_a_rule_are_refused() {
    let host = "\r\nHost: a.test\r\n\r\n";
    let long = "A".repeat(65);
    let table = [
        ("GET /", Refusal::RequestLine),
        ("GET", Refusal::RequestLine),
        ("GET  HTTP/1.1", Refusal::RequestLine),
        ("GET / ", Refusal::RequestLine),
        ("GET / http/1.1", Refusal::RequestLine),
        ("GET / HTTP/1.1 ", Refusal::RequestLine),
        ("GET / HTTP/11", Refusal::RequestLine),
        ("GET / HTTP/1.10", Refusal::RequestLine),
        ("GET / HTTP/1.2", Refusal::Version),
        ("GET / HTTP/2.0", Refusal::Version),
        ("GET / HTTP/0.9", Refusal::Version),
        (" GET / HTTP/1.1", Refusal::Method),
        ("G\u{e9}T / HTTP/1.1", Refusal::Method),
        ("GET\t/ HTTP/1.1", Refusal::Method),
        ("G(T / HTTP/1.1", Refusal::Method),
        ("\u{16}\u{3}\u{1}", Refusal::Method),
        (long.as_str(), Refusal::Method),
        (
            "GET /a b HTTP/1.1",
            Refusal::Target("it has a blank or control character"),
        ),
        (
            "GET /a\tb HTTP/1.1",
            Refusal::Target("it has a blank or control character"),
        ),
        (
            "GET /\0 HTTP/1.1",
            Refusal::Target("it has a blank or control character"),
        ),
        (
            "GET  / HTTP/1.1",
            Refusal::Target("it has a blank or control character"),
        ),
        ("GET /a\rb HTTP/1.1", Refusal::BareCr),
        ("GET /a#b HTTP/1.1", Refusal::Fragment),
        ("GET http://a.test/#b HTTP/1.1", Refusal::Fragment),
        ("GET * HTTP/1.1", Refusal::Target("`*` is for OPTIONS only")),
        (
            "OPTIONS ** HTTP/1.1",
            Refusal::Target("it is neither a path nor an absolute URI"),
        ),
        (
            "GET a HTTP/1.1",
            Refusal::Target("it is neither a path nor an absolute URI"),
        ),
        (
            "GET a.test:80 HTTP/1.1",
            Refusal::Target("it is neither a path nor an absolute URI"),
        ),
        (
            "GET ftp://a/ HTTP/1.1",
            Refusal::Target("its scheme is not http or https"),
        ),
        (
            "GET ://a/ HTTP/1.1",
            Refusal::Target("its scheme is not http or https"),
        ),
        ("GET http:///a HTTP/1.1", Refusal::Host(BadAuthority::Empty)),
        (
            "GET http://u@b/a HTTP/1.1",
            Refusal::Host(BadAuthority::UserInfo),
        ),
        (
            "GET http://a:x/a HTTP/1.1",
            Refusal::Host(BadAuthority::Port),
        ),
        (
            "CONNECT a.test HTTP/1.1",
            Refusal::Target("CONNECT without a port"),
        ),
        (
            "CONNECT /a HTTP/1.1",
            Refusal::Host(BadAuthority::Byte(b'/')),
        ),
        (
            "CONNECT http://a:80 HTTP/1.1",
            Refusal::Host(BadAuthority::Port),
        ),
    ];
    for (line, expected) in table {
        assert_eq!(
            request(format!("{line}{host}").as_bytes()),
            Err(expected),
            "{line:?}"
        );
    }
}

#[test]
fn targets_of_all_four_forms_are_accepted() {
    // Start line, authority, path, scheme.
    let table = [
        ("GET /a?b=http://c", "a.test", "/a?b=http://c", None),
        ("GET //a", "a.test", "//a", None),
        ("GET /{\u{e9}|\"}", "a.test", "/{\u{e9}|\"}", None),
        (
            "GET http://B.test:81/c?d",
            "B.test:81",
            "/c?d",
            Some(Scheme::Http),
        ),
        ("GET HTTPS://b.test", "b.test", "/", Some(Scheme::Https)),
        (
            "GET http://b.test?c=/d",
            "b.test",
            "/?c=/d",
            Some(Scheme::Http),
        ),
        ("OPTIONS http://b.test", "b.test", "*", Some(Scheme::Http)),
        ("OPTIONS *", "a.test", "*", None),
        ("CONNECT [::1]:443", "[::1]:443", "", None),
        ("M-SEARCH /", "a.test", "/", None),
    ];
    for (line, authority, path, scheme) in table {
        let head = accepted(format!("{line} HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes()).head;
        assert_eq!(head.authority, authority, "{line}");
        assert_eq!((head.path, head.scheme), (path.into(), scheme), "{line}");
        assert!(!head.headers.contains(&HeaderName::HOST));
    }
}

#[test]
fn hosts_are_one_and_valid() {
    let table = [
        ("GET / HTTP/1.1\r\n", Refusal::MissingHost),
        ("GET / HTTP/1.1\r\nHost:\r\n", Refusal::MissingHost),
        ("GET http://a.test/ HTTP/1.1\r\n", Refusal::MissingHost),
        ("CONNECT a.test:80 HTTP/1.1\r\n", Refusal::MissingHost),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n",
            Refusal::RepeatedHost,
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n",
            Refusal::RepeatedHost,
        ),
        (
            "GET / HTTP/1.1\r\nHost: u@a\r\n",
            Refusal::Host(BadAuthority::UserInfo),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a b\r\n",
            Refusal::Host(BadAuthority::Byte(b' ')),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a, b\r\n",
            Refusal::Host(BadAuthority::Byte(b',')),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a#@b\r\n",
            Refusal::Host(BadAuthority::UserInfo),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a/b\r\n",
            Refusal::Host(BadAuthority::Byte(b'/')),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a:65536\r\n",
            Refusal::Host(BadAuthority::Port),
        ),
        (
            "GET http://b.test/ HTTP/1.1\r\nHost: a b\r\n",
            Refusal::Host(BadAuthority::Byte(b' ')),
        ),
        (
            "GET / HTTP/1.0\r\nHost: :80\r\n",
            Refusal::Host(BadAuthority::Empty),
        ),
    ];
    for (head, expected) in table {
        assert_eq!(
            request(format!("{head}\r\n").as_bytes()),
            Err(expected),
            "{head:?}"
        );
    }
}

#[test]
fn http10_is_served_and_may_lack_a_host() {
    // Fields, whether the connection stays.
    let table = [
        ("", false),
        ("Host:\r\n", false),
        ("Connection: keep-alive\r\n", true),
        ("Connection: Keep-Alive, close\r\n", false),
    ];
    for (fields, keep_alive) in table {
        let parsed = accepted(format!("GET /a HTTP/1.0\r\n{fields}\r\n").as_bytes());
        assert_eq!(parsed.head.version, Version::Http10);
        assert_eq!(
            (&parsed.head.authority[..], parsed.keep_alive),
            (&b""[..], keep_alive)
        );
    }
    let off = Limits {
        accept_http10: false,
        ..Limits::default()
    };
    assert_eq!(
        request_within(b"GET / HTTP/1.0\r\n\r\n", &off),
        Err(Refusal::Http10)
    );
}

#[test]
fn field_lines_that_break_a_rule_are_refused() {
    let table = [
        ("X-A: b\r\n folded", Refusal::Fold),
        ("X-A: b\r\n\tfolded", Refusal::Fold),
        (" X-A: b", Refusal::Fold),
        ("X-A", Refusal::NoColon),
        ("X-A : b", Refusal::SpaceBeforeColon),
        ("X-A\t: b", Refusal::SpaceBeforeColon),
        (": b", Refusal::FieldName(BadName::Empty)),
        ("X A: b", Refusal::FieldName(BadName::Byte(b' '))),
        ("X-\u{e9}: b", Refusal::FieldName(BadName::Byte(0xc3))),
        ("X-A\0: b", Refusal::FieldName(BadName::Byte(0))),
        ("X(A): b", Refusal::FieldName(BadName::Byte(b'('))),
        ("X-\rA: b", Refusal::BareCr),
        ("X-A: b\0", Refusal::FieldValue(BadValue(0))),
        ("X-A: b\u{b}c", Refusal::FieldValue(BadValue(0x0b))),
        ("X-A: \u{7f}", Refusal::FieldValue(BadValue(0x7f))),
        ("X-A: b\rc", Refusal::BareCr),
        ("X-A: b\r\r\nX-B: c", Refusal::BareCr),
        ("X-A: b\nX-B: c", Refusal::BareLf),
        ("X-A: b\n\nGET /admin HTTP/1.1", Refusal::BareLf),
    ];
    for (fields, expected) in table {
        assert_eq!(with_fields(fields), Err(expected), "{fields:?}");
    }
    let bare = request(b"GET / HTTP/1.1\nHost: a\n\n");
    assert_eq!(bare, Err(Refusal::BareLf));
}

#[test]
fn obs_text_and_odd_blanks_are_accepted() {
    let parsed =
        accepted(b"GET / HTTP/1.1\r\nHost:a\r\nX: \t\xe9\xff \t\r\n!#$%&'*+-.^_`|~:1\r\n\r\n");
    assert_eq!(
        lines(&parsed.head.headers),
        ["X: \\xe9\\xff", "!#$%&\\'*+-.^_`|~: 1"]
    );
}

#[test]
fn smuggled_framing_is_refused() {
    let table = [
        (
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            Refusal::LengthAndEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
            Refusal::LengthAndEncoding,
        ),
        (
            "Content-Length: 4\r\nContent-Length: 5",
            Refusal::RepeatedLength,
        ),
        (
            "Content-Length: 4\r\nContent-Length: 4",
            Refusal::RepeatedLength,
        ),
        ("Content-Length: 4, 4", Refusal::Length),
        ("Content-Length:", Refusal::Length),
        ("Content-Length: +4", Refusal::Length),
        ("Content-Length: -4", Refusal::Length),
        ("Content-Length: 0x4", Refusal::Length),
        ("Content-Length: 4 4", Refusal::Length),
        ("Content-Length: 4.0", Refusal::Length),
        ("Content-Length: 18446744073709551616", Refusal::Length),
        ("Content-Length: \u{661}", Refusal::Length),
        ("Transfer-Encoding: gzip", Refusal::Encoding),
        ("Transfer-Encoding: identity", Refusal::Encoding),
        ("Transfer-Encoding: xchunked", Refusal::Encoding),
        ("Transfer-Encoding: gzip, chunked", Refusal::Encoding),
        ("Transfer-Encoding:", Refusal::EncodingList),
        ("Transfer-Encoding: ,", Refusal::EncodingList),
        ("Transfer-Encoding: chunked, gzip", Refusal::EncodingList),
        ("Transfer-Encoding: chunked, chunked", Refusal::EncodingList),
        ("Transfer-Encoding: chunked,", Refusal::EncodingList),
        ("Transfer-Encoding: chunked;a=b", Refusal::EncodingList),
        ("Transfer-Encoding: \"chunked\"", Refusal::EncodingList),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            Refusal::EncodingList,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
            Refusal::EncodingList,
        ),
        ("Transfer-Encoding : chunked", Refusal::SpaceBeforeColon),
        (
            "Transfer-Encoding:\u{b}chunked",
            Refusal::FieldValue(BadValue(0x0b)),
        ),
        ("X: y\r\n Transfer-Encoding: chunked", Refusal::Fold),
        (
            "Content-Length: 1\rTransfer-Encoding: chunked",
            Refusal::BareCr,
        ),
    ];
    for (fields, expected) in table {
        assert_eq!(with_fields(fields), Err(expected), "{fields:?}");
    }
    for field in ["Content-Length: 1", "Transfer-Encoding: chunked"] {
        let connect = format!("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n{field}\r\n\r\n");
        assert_eq!(
            request(connect.as_bytes()),
            Err(Refusal::ConnectBody),
            "{field}"
        );
    }
    let old = request(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old, Err(Refusal::EncodingInHttp10));
}

#[test]
fn proper_framing_is_understood() {
    let table = [
        ("X: y", BodyFraming::Empty),
        ("Content-Length: 0", BodyFraming::Length(0)),
        ("Content-Length: 007", BodyFraming::Length(7)),
        (
            "Content-Length: 18446744073709551615",
            BodyFraming::Length(u64::MAX),
        ),
        ("Transfer-Encoding: Chunked", BodyFraming::Chunked),
        ("transfer-encoding:\tchunked ", BodyFraming::Chunked),
    ];
    for (fields, expected) in table {
        let parsed = with_fields(fields)
            .expect("it is accepted")
            .expect("it is complete");
        assert_eq!(parsed.framing, expected, "{fields}");
    }
}

#[test]
fn connection_options_are_understood() {
    // Fields, keep-alive, upgrade, expects 100.
    let table: [(&str, bool, Option<&str>, bool); 9] = [
        ("Connection: close", false, None, false),
        (
            "Connection: Upgrade\r\nUpgrade: websocket",
            true,
            Some("websocket"),
            false,
        ),
        (
            "Connection: keep-alive, upgrade\r\nUpgrade: h2c, x/1",
            true,
            Some("h2c, x/1"),
            false,
        ),
        ("Upgrade: websocket", true, None, false),
        ("Connection: upgrade", true, None, false),
        (
            "Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b",
            true,
            None,
            false,
        ),
        (
            "Connection: upgrade\r\nUpgrade: a\r\nContent-Length: 4",
            true,
            None,
            false,
        ),
        (
            "Expect: 100-Continue\r\nContent-Length: 4",
            true,
            None,
            true,
        ),
        ("Expect: 100-continue", true, None, false),
    ];
    for (fields, keep_alive, upgrade, expects) in table {
        let parsed = with_fields(fields)
            .expect("it is accepted")
            .expect("it is complete");
        assert_eq!(parsed.keep_alive, keep_alive, "{fields}");
        assert_eq!(
            parsed.upgrade.as_deref(),
            upgrade.map(str::as_bytes),
            "{fields}"
        );
        assert_eq!(parsed.expect_continue, expects, "{fields}");
    }
    let old =
        b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: a\r\nExpect: 100-continue\r\n\r\n";
    let parsed = accepted(old);
    assert!(parsed.upgrade.is_none() && !parsed.expect_continue);
}

#[test]
fn one_empty_line_before_a_request_is_skipped() {
    assert_eq!(
        accepted(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").head.path,
        "/"
    );
    for noise in ["\r\n\r\n", "\n", "\r\n\n", "\rG", "\r\r\n"] {
        let bytes = format!("{noise}GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(request(bytes.as_bytes()), Err(Refusal::Method), "{noise:?}");
    }
}

#[test]
fn limits_are_named_when_they_are_met() {
    let limits = Limits {
        max_head_bytes: 64,
        max_headers: 3,
        max_start_line_bytes: 24,
        ..Limits::default()
    };
    let fits = b"GET /012345 HTTP/1.1\r\nHost: a\r\nX: 0123456789012345678901234567\r\n\r\n";
    assert_eq!(fits.len(), 66);
    assert_eq!(
        request_within(
            fits,
            &Limits {
                max_head_bytes: 66,
                ..limits
            }
        )
        .map(|head| head.is_some()),
        Ok(true)
    );
    let message = Message::Request;
    let table: [(&[u8], Refusal); 5] = [
        (fits, Refusal::HeadTooLarge { message, limit: 64 }),
        (&fits[..64], Refusal::HeadTooLarge { message, limit: 64 }),
        (
            b"GET /0123456789 HTTP/1.1\r\n",
            Refusal::StartLineTooLong { message, limit: 24 },
        ),
        (
            b"GET /0123456789012345678",
            Refusal::StartLineTooLong { message, limit: 24 },
        ),
        (
            b"GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\nd:\r\n",
            Refusal::TooManyHeaders { message, limit: 3 },
        ),
    ];
    for (bytes, expected) in table {
        assert_eq!(
            request_within(bytes, &limits),
            Err(expected),
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn refusals_say_what_to_answer_and_why() {
    let message = Message::Request;
    let large = Refusal::HeadTooLarge {
        message,
        limit: 61_440,
    };
    let text = "request header block exceeds 61440 bytes (max_request_headers_kb)";
    assert_eq!(
        (large.status().get(), large.to_string().as_str()),
        (431, text)
    );
    let table = [
        (
            Refusal::StartLineTooLong { message, limit: 1 },
            414,
            "start_line_too_long",
        ),
        (
            Refusal::TooManyHeaders { message, limit: 1 },
            431,
            "too_many_headers",
        ),
        (Refusal::Encoding, 501, "unsupported_transfer_encoding"),
        (Refusal::Version, 505, "unsupported_version"),
        (
            Refusal::ChunkExtTooLarge { limit: 1 },
            413,
            "chunk_extensions_too_large",
        ),
        (Refusal::LengthAndEncoding, 400, "length_and_encoding"),
    ];
    for (refusal, status, code) in table {
        assert_eq!((refusal.status().get(), refusal.as_code()), (status, code));
    }
}

#[test]
fn pipelined_heads_are_read_one_after_the_other() {
    let mut decoder = RequestDecoder::new();
    let mut buf = BytesMut::from(
        &b"GET /1 HTTP/1.1\r\nHost: a\r\nX-Own: 1\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\nGET"
            [..],
    );
    let limits = Limits::default();
    for (path, host, fields) in [("/1", "a", 1), ("/2", "b", 0)] {
        let parsed = decoder
            .decode_head(&mut buf, &limits)
            .expect("accepted")
            .expect("complete");
        assert_eq!(
            (parsed.head.path, parsed.head.authority),
            (path.into(), host.into())
        );
        assert_eq!(parsed.head.headers.len(), fields);
        assert!(!decoder.is_within_head());
        decoder.recycle(parsed.head.headers);
    }
    assert_eq!(decoder.decode_head(&mut buf, &limits), Ok(None));
    assert!(decoder.is_within_head());
}
