// SPDX-License-Identifier: Apache-2.0
//! Tells protocols by the first bytes, without waiting for more than it takes.
//!
//! The proxy shows the prefix that it has read, again whenever it grows; nothing is consumed.
//! [`sniff`] reads what a client sends first, [`sniff_greeting`] what a server sends first. A
//! verdict comes within [`MAX_NEEDED`] bytes, and bytes that fit no protocol are opaque at once.

pub mod tls;

/// What the first bytes of a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are the start of more than one thing.
    NeedMore,
    /// A request line of HTTP/1 with a registered method.
    Http1 {
        /// The whole request line is there and says `HTTP/1.0`.
        version10: bool,
    },
    /// The HTTP/2 connection preface, with prior knowledge. RFC 9113 section 3.4.
    Http2Preface,
    /// A TLS record with a ClientHello.
    Tls,
    /// A FastCGI record that begins a request or asks for values.
    FastCgi,
    /// A Redis command in RESP.
    Redis,
    /// None of these.
    Opaque,
}

/// What the first bytes of a server are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The bytes are the start of more than one thing.
    NeedMore,
    /// A MySQL handshake (protocol 10) or an error packet in its place.
    MySql,
    /// Any other protocol in which the server speaks first.
    Opaque,
}

/// The longest prefix that [`sniff`] can ask for: the HTTP/2 preface. Unit: bytes.
pub const MAX_NEEDED: usize = PREFACE.len();

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods that tell HTTP/1 apart: the registered ones, and two that are widely used.
const METHODS: &[&[u8]] = &[
    b"GET",
    b"POST",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"ACL",
    b"BASELINE-CONTROL",
    b"BIND",
    b"CHECKIN",
    b"CHECKOUT",
    b"COPY",
    b"LABEL",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MKREDIRECTREF",
    b"MKWORKSPACE",
    b"MOVE",
    b"ORDERPATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"QUERY",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"UNBIND",
    b"UNCHECKOUT",
    b"UNLINK",
    b"UNLOCK",
    b"UPDATE",
    b"UPDATEREDIRECTREF",
    b"VERSION-CONTROL",
    b"PURGE",
    b"M-SEARCH",
];

/// The answer of one pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    Maybe,
    No,
}

/// Judges the first bytes of a client.
#[must_use]
pub fn sniff(prefix: &[u8]) -> Verdict {
    let patterns: [(Fit, Verdict); 5] = [
        (starts_with(prefix, PREFACE), Verdict::Http2Preface),
        (http1(prefix), Verdict::Http1 { version10: false }),
        (tls_record(prefix), Verdict::Tls),
        (fast_cgi(prefix), Verdict::FastCgi),
        (redis(prefix), Verdict::Redis),
    ];
    let hit = patterns.iter().find(|(fit, _)| *fit == Fit::Yes);
    match hit {
        Some((_, Verdict::Http1 { .. })) => Verdict::Http1 {
            version10: says_http10(prefix),
        },
        Some((_, verdict)) => *verdict,
        None if patterns.iter().any(|(fit, _)| *fit == Fit::Maybe) => Verdict::NeedMore,
        None => Verdict::Opaque,
    }
}

/// Judges the first bytes of a server.
#[must_use]
pub fn sniff_greeting(prefix: &[u8]) -> Greeting {
    match prefix {
        // Three bytes of length, sequence number zero, protocol version or error mark.
        [_, _, 0, 0, 0x0a | 0xff, ..] => Greeting::MySql,
        [] | [_] | [_, _] | [_, _, 0] | [_, _, 0, 0] => Greeting::NeedMore,
        _ => Greeting::Opaque,
    }
}

fn starts_with(prefix: &[u8], pattern: &[u8]) -> Fit {
    if prefix.len() >= pattern.len() {
        return if prefix.starts_with(pattern) {
            Fit::Yes
        } else {
            Fit::No
        };
    }
    if pattern.starts_with(prefix) {
        Fit::Maybe
    } else {
        Fit::No
    }
}

/// A method, a blank, and the start of a target.
fn http1(prefix: &[u8]) -> Fit {
    let fits = METHODS
        .iter()
        .map(|method| match prefix.strip_prefix(*method) {
            Some([b' ', target @ ..]) => target_fits(method, target),
            Some([]) => Fit::Maybe,
            Some(_) => Fit::No,
            None if method.starts_with(prefix) => Fit::Maybe,
            None => Fit::No,
        });
    fits.fold(Fit::No, |all, fit| match (all, fit) {
        (Fit::Yes, _) | (_, Fit::Yes) => Fit::Yes,
        (Fit::Maybe, _) | (_, Fit::Maybe) => Fit::Maybe,
        _ => Fit::No,
    })
}

fn target_fits(method: &[u8], target: &[u8]) -> Fit {
    match target {
        [] => Fit::Maybe,
        [b'/' | b'*', ..] => Fit::Yes,
        [first, ..] if method == b"CONNECT" => {
            if first.is_ascii_alphanumeric() || *first == b'[' {
                Fit::Yes
            } else {
                Fit::No
            }
        }
        target => {
            let scheme = target.get(..target.len().min(4)).unwrap_or_default();
            let lower = scheme.to_ascii_lowercase();
            starts_with(&lower, b"http")
        }
    }
}

fn says_http10(prefix: &[u8]) -> bool {
    let line = memchr::memchr(b'\r', prefix).and_then(|end| prefix.get(..end));
    line.is_some_and(|line| line.ends_with(b" HTTP/1.0"))
}

/// A handshake record, major version 3, that starts with a ClientHello.
fn tls_record(prefix: &[u8]) -> Fit {
    let rules: [fn(u8) -> bool; 6] = [
        |b| b == 22,
        |b| b == 3,
        |b| b <= 4,
        |b| b <= 0x40,
        |_| true,
        |b| b == 1,
    ];
    fit_bytes(prefix, &rules)
}

/// A record of version 1: `BEGIN_REQUEST` of eight bytes for a known role, or `GET_VALUES`.
fn fast_cgi(prefix: &[u8]) -> Fit {
    let begin: [fn(u8) -> bool; 10] = [
        |b| b == 1,
        |b| b == 1,
        |_| true,
        |_| true,
        |b| b == 0,
        |b| b == 8,
        |_| true,
        |b| b == 0,
        |b| b == 0,
        |b| (1..=3).contains(&b),
    ];
    let values: [fn(u8) -> bool; 8] = [
        |b| b == 1,
        |b| b == 9,
        |b| b == 0,
        |b| b == 0,
        |_| true,
        |_| true,
        |_| true,
        |b| b == 0,
    ];
    match (fit_bytes(prefix, &begin), fit_bytes(prefix, &values)) {
        (Fit::Yes, _) | (_, Fit::Yes) => Fit::Yes,
        (Fit::Maybe, _) | (_, Fit::Maybe) => Fit::Maybe,
        _ => Fit::No,
    }
}

fn fit_bytes(prefix: &[u8], rules: &[fn(u8) -> bool]) -> Fit {
    if !prefix.iter().zip(rules).all(|(byte, rule)| rule(*byte)) {
        return Fit::No;
    }
    if prefix.len() >= rules.len() {
        Fit::Yes
    } else {
        Fit::Maybe
    }
}

/// An array of bulk strings: `*1\r\n$4\r\nPING\r\n`.
fn redis(prefix: &[u8]) -> Fit {
    let Some((b'*', rest)) = prefix.split_first() else {
        return if prefix.is_empty() {
            Fit::Maybe
        } else {
            Fit::No
        };
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = rest.get(digits..).unwrap_or_default();
    match (digits, rest) {
        (0, []) => Fit::Maybe,
        (1..=7, rest) => starts_with(rest.get(..rest.len().min(3)).unwrap_or_default(), b"\r\n$"),
        _ => Fit::No,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CASES: &[(&[u8], Verdict)] = &[
        (b"GET / HTTP/1.1\r\n", Verdict::Http1 { version10: false }),
        (b"GET / HTTP/1.0\r\n", Verdict::Http1 { version10: true }),
        (b"GET /", Verdict::Http1 { version10: false }),
        (
            b"OPTIONS * HTTP/1.1\r\n",
            Verdict::Http1 { version10: false },
        ),
        (
            b"M-SEARCH * HTTP/1.1\r\n",
            Verdict::Http1 { version10: false },
        ),
        (
            b"GET HTTP://a/ HTTP/1.1\r\n",
            Verdict::Http1 { version10: false },
        ),
        (
            b"CONNECT a:443 HTTP/1.1\r\n",
            Verdict::Http1 { version10: false },
        ),
        (
            b"CONNECT [::1]:443 HTTP/1.1\r\n",
            Verdict::Http1 { version10: false },
        ),
        (
            b"UPDATEREDIRECTREF /a HTTP/1.1\r\n",
            Verdict::Http1 { version10: false },
        ),
        (PREFACE, Verdict::Http2Preface),
        (b"\x16\x03\x01\x02\x00\x01", Verdict::Tls),
        (
            b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x01",
            Verdict::FastCgi,
        ),
        (b"\x01\x09\x00\x00\x00\x10\x00\x00", Verdict::FastCgi),
        (b"*1\r\n$4\r\nPING\r\n", Verdict::Redis),
        (b"EHLO a.test\r\n", Verdict::Opaque),
        (b"get key\r\n", Verdict::Opaque),
        (b"GET key\r\n", Verdict::Opaque),
        (b"GETX / HTTP/1.1", Verdict::Opaque),
        (b"PRI * HTTP/1.1\r\n", Verdict::Opaque),
        (b"SSH-2.0-x\r\n", Verdict::Opaque),
        (b"\x16\x02\x00", Verdict::Opaque),
        (b"\x16\x03\x01\x02\x00\x02", Verdict::Opaque),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Verdict::Opaque),
        (b"*x", Verdict::Opaque),
    ];

    #[test]
    fn each_protocol_is_told_and_its_prefixes_never_mislead() {
        for (bytes, expected) in CASES {
            assert_eq!(sniff(bytes), *expected, "{}", bytes.escape_ascii());
            for end in 0..bytes.len() {
                match sniff(&bytes[..end]) {
                    Verdict::NeedMore | Verdict::Http1 { version10: false } => {}
                    early => assert_eq!(early, *expected, "{}", bytes[..end].escape_ascii()),
                }
            }
        }
    }

    #[test]
    fn a_mysql_greeting_is_told_within_five_bytes() {
        let table: [(&[u8], Greeting); 6] = [
            (b"", Greeting::NeedMore),
            (b"\x4a\x00\x00\x00", Greeting::NeedMore),
            (b"\x4a\x00\x00\x00\x0a8.0", Greeting::MySql),
            (b"\x45\x00\x00\x00\xff", Greeting::MySql),
            (b"220 mail.test ESMTP", Greeting::Opaque),
            (b"\x4a\x00\x00\x01\x0a", Greeting::Opaque),
        ];
        for (bytes, expected) in table {
            assert_eq!(sniff_greeting(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_verdict_comes_within_the_bound(bytes in prop::collection::vec(any::<u8>(), 24..64)) {
            prop_assert_ne!(sniff(&bytes[..MAX_NEEDED]), Verdict::NeedMore);
        }

        #[test]
        fn a_verdict_does_not_change(text in "[A-Z*]{0,4}[A-Z0-9 /*$\\r\\n]{0,24}") {
            let bytes = text.as_bytes();
            let first = (0..=bytes.len()).map(|end| sniff(&bytes[..end]))
                .find(|verdict| *verdict != Verdict::NeedMore);
            if let Some(first) = first {
                let same = std::mem::discriminant(&first) == std::mem::discriminant(&sniff(bytes));
                prop_assert!(same, "{first:?} then {:?}", sniff(bytes));
            }
        }
    }
}
