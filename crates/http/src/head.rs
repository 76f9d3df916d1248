// SPDX-License-Identifier: Apache-2.0
//! Message heads: what a request asks and what a response says, apart from the body.
//!
//! Heads are the same for HTTP/1 and HTTP/2: the codecs lift `Host` and `:authority` into
//! `authority` and the target into `path`. Filters and routes read and edit them; the encoders
//! write them from a reference. Clones share the bytes, so that retries and mirrors are cheap.

use bytes::Bytes;

use crate::header::HeaderMap;
use crate::method::Method;
use crate::status::StatusCode;

/// The protocol version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// The version as access logs print it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// The scheme of a request's target, where the request gave one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// Reads a scheme in any case.
    #[must_use]
    pub const fn parse(scheme: &[u8]) -> Option<Self> {
        if scheme.eq_ignore_ascii_case(b"http") {
            Some(Self::Http)
        } else if scheme.eq_ignore_ascii_case(b"https") {
            Some(Self::Https)
        } else {
            None
        }
    }

    /// The scheme in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that an authority without one means.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The scheme, if the target was absolute or the request came by HTTP/2.
    pub scheme: Option<Scheme>,
    /// `host[:port]` in its original case; empty if the request named none (HTTP/1.0).
    pub authority: Bytes,
    /// Path and query in origin form; `*` for `OPTIONS *`, empty for CONNECT.
    pub path: Bytes,
    /// The version the request came by.
    pub version: Version,
    /// The fields, without `host`.
    pub headers: HeaderMap,
}

impl RequestHead {
    /// The path without its query.
    #[must_use]
    pub fn path_only(&self) -> &[u8] {
        self.split_path().0
    }

    /// The query without its `?`; `None` if there is no `?`.
    #[must_use]
    pub fn query(&self) -> Option<&[u8]> {
        self.split_path().1
    }

    fn split_path(&self) -> (&[u8], Option<&[u8]>) {
        match memchr::memchr(b'?', &self.path).and_then(|at| self.path.split_at_checked(at)) {
            Some((path, query)) => (path, query.get(1..)),
            None => (&self.path, None),
        }
    }
}

/// The head of a response, final or informational.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The phrase as it was sent; may be empty.
    pub reason: Bytes,
    /// The version the response came by.
    pub version: Version,
    /// The fields.
    pub headers: HeaderMap,
}

impl ResponseHead {
    /// A response that the proxy writes itself: the registered phrase and no field.
    #[must_use]
    pub const fn local(status: StatusCode) -> Self {
        Self {
            status,
            reason: Bytes::from_static(status.canonical_reason().as_bytes()),
            version: Version::Http11,
            headers: HeaderMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_starts_after_the_first_question_mark() {
        let table: [(&'static str, &str, Option<&str>); 5] = [
            ("/a", "/a", None),
            ("/a?", "/a", Some("")),
            ("/a?b=c?d", "/a", Some("b=c?d")),
            ("*", "*", None),
            ("", "", None),
        ];
        for (path, only, query) in table {
            let head = RequestHead {
                method: Method::Get,
                scheme: None,
                authority: Bytes::new(),
                path: Bytes::from_static(path.as_bytes()),
                version: Version::Http11,
                headers: HeaderMap::new(),
            };
            assert_eq!(head.path_only(), only.as_bytes());
            assert_eq!(head.query(), query.map(str::as_bytes));
        }
    }
}
