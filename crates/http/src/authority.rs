// SPDX-License-Identifier: Apache-2.0
//! Authorities: `host[:port]` as it stands in `Host`, `:authority` and absolute targets.
//!
//! Checks and takes apart, never resolves. The codec refuses what [`parse`] refuses; routing
//! compares with the functions here, which allocate nothing when the text is lower case already.
//! User information is refused: no client of a mesh needs it, and proxies disagree about it.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::chars;

/// Why a text is not an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// No host.
    #[error("it is empty")]
    Empty,
    /// `user@host`.
    #[error("it has user information")]
    UserInfo,
    /// A byte that no host has.
    #[error("byte 0x{0:02x} is not allowed")]
    Byte(u8),
    /// A `%` that two hexadecimal digits do not follow.
    #[error("`%` without two hexadecimal digits")]
    Escape,
    /// A bracket without an IPv6 address in it.
    #[error("brackets do not hold an IPv6 address")]
    Brackets,
    /// A port that is not 1 to 65535.
    #[error("port is not a number from 1 to 65535")]
    Port,
}

/// An authority taken apart. Source: RFC 3986 section 3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The host, IPv6 addresses with their brackets.
    pub host: &'a [u8],
    /// The port, if one is given.
    pub port: Option<u16>,
}

/// Checks an authority and takes it apart. A colon without digits means no port.
///
/// # Errors
/// If it is not `host[:port]`.
pub fn parse(authority: &[u8]) -> Result<Authority<'_>, BadAuthority> {
    if authority.contains(&b'@') {
        return Err(BadAuthority::UserInfo);
    }
    let (host, port) = split(authority);
    match host {
        [] => return Err(BadAuthority::Empty),
        [b'[', inner @ .., b']'] => check_ipv6(inner)?,
        [b'[', ..] => return Err(BadAuthority::Brackets),
        name => check_name(name)?,
    }
    let port = match port {
        None | Some([]) => None,
        Some(digits) => Some(read_port(digits)?),
    };
    Ok(Authority { host, port })
}

/// The authority without its port, unchecked: `a.test:80` gives `a.test`, `[::1]:80` gives `[::1]`.
#[must_use]
pub fn strip_port(authority: &[u8]) -> &[u8] {
    split(authority).0
}

/// The text in lower case; borrowed if it is so already.
#[must_use]
pub fn to_lower(authority: &[u8]) -> Cow<'_, [u8]> {
    if authority.iter().any(u8::is_ascii_uppercase) {
        Cow::Owned(authority.to_ascii_lowercase())
    } else {
        Cow::Borrowed(authority)
    }
}

/// Whether two authorities are the same but for case. RFC 9110 section 4.2.3.
#[must_use]
pub const fn same(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Splits at the colon before the port: the first one behind the bracket, if there is one.
fn split(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let from = match authority {
        [b'[', ..] => memchr::memchr(b']', authority).unwrap_or(authority.len()),
        _ => 0,
    };
    let tail = authority.get(from..).unwrap_or_default();
    match memchr::memchr(b':', tail) {
        Some(at) => (
            authority.get(..from + at).unwrap_or_default(),
            Some(tail.get(at + 1..).unwrap_or_default()),
        ),
        None => (authority, None),
    }
}

fn check_ipv6(inner: &[u8]) -> Result<(), BadAuthority> {
    let address = std::str::from_utf8(inner)
        .ok()
        .and_then(|text| text.parse::<Ipv6Addr>().ok());
    address.map(|_| ()).ok_or(BadAuthority::Brackets)
}

fn check_name(name: &[u8]) -> Result<(), BadAuthority> {
    let mut rest = name;
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'%', [a, b, tail @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => tail,
            (b'%', _) => return Err(BadAuthority::Escape),
            (byte, tail) if chars::is_reg_name(*byte) => tail,
            (byte, _) => return Err(BadAuthority::Byte(*byte)),
        };
    }
    Ok(())
}

fn read_port(digits: &[u8]) -> Result<u16, BadAuthority> {
    if digits.len() > 5 {
        return Err(BadAuthority::Port);
    }
    let step = |sum: u16, byte: &u8| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u16::from(byte - b'0')),
        _ => None,
    };
    match digits.iter().try_fold(0, step) {
        None | Some(0) => Err(BadAuthority::Port),
        Some(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_taken_apart() {
        let table: [(&str, &str, Option<u16>); 9] = [
            ("a.test", "a.test", None),
            ("A.Test:80", "A.Test", Some(80)),
            ("a.test:", "a.test", None),
            ("a_b:00080", "a_b", Some(80)),
            ("10.0.0.1:65535", "10.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[2001:DB8::1]:8080", "[2001:DB8::1]", Some(8080)),
            ("a%20b", "a%20b", None),
            ("a!$&'()*+;=b", "a!$&'()*+;=b", None),
        ];
        for (text, host, port) in table {
            let parsed = parse(text.as_bytes());
            assert_eq!(
                parsed,
                Ok(Authority {
                    host: host.as_bytes(),
                    port
                }),
                "{text}"
            );
            assert_eq!(strip_port(text.as_bytes()), host.as_bytes(), "{text}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        let table = [
            ("", BadAuthority::Empty),
            (":80", BadAuthority::Empty),
            ("u@a.test", BadAuthority::UserInfo),
            ("u:p@a.test:80", BadAuthority::UserInfo),
            ("a b", BadAuthority::Byte(b' ')),
            ("a,b", BadAuthority::Byte(b',')),
            ("a/b", BadAuthority::Byte(b'/')),
            ("a#b", BadAuthority::Byte(b'#')),
            ("a?b", BadAuthority::Byte(b'?')),
            ("a\\b", BadAuthority::Byte(b'\\')),
            ("é", BadAuthority::Byte(0xc3)),
            ("a\0", BadAuthority::Byte(0)),
            ("a%2", BadAuthority::Escape),
            ("a%zz", BadAuthority::Escape),
            ("[::1", BadAuthority::Brackets),
            ("[]", BadAuthority::Brackets),
            ("[::1]x", BadAuthority::Brackets),
            ("[fe80::1%25eth0]", BadAuthority::Brackets),
            ("[v1.a]", BadAuthority::Brackets),
            ("a:b", BadAuthority::Port),
            ("a:0", BadAuthority::Port),
            ("a:65536", BadAuthority::Port),
            ("a:+80", BadAuthority::Port),
            ("a:80:80", BadAuthority::Port),
            ("::1", BadAuthority::Empty),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text.as_bytes()), Err(expected), "{text}");
        }
    }

    #[test]
    fn lower_case_text_is_borrowed() {
        assert!(matches!(
            to_lower(b"a.test:80"),
            Cow::Borrowed(b"a.test:80")
        ));
        assert_eq!(&*to_lower(b"A.test"), b"a.test");
        assert!(same(b"A.test", b"a.TEST") && !same(b"a", b"ab"));
    }
}
