// SPDX-License-Identifier: Apache-2.0
//! Request methods: the ones of RFC 9110 and RFC 5789, and any other token.
//!
//! Methods are case-sensitive: `get` is an extension method, not GET. What a method allows
//! (routes, retries) is decided by the callers through the questions here.

use std::fmt;

use bytes::Bytes;

use crate::chars;

/// A text that is not a method: empty, longer than 64 bytes, or not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("method is not a token of 1 to {} bytes", Method::MAX_LEN)]
pub struct BadMethod;

/// A request method.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// CONNECT.
    Connect,
    /// OPTIONS.
    Options,
    /// TRACE.
    Trace,
    /// PATCH.
    Patch,
    /// Any other token.
    Extension(ExtensionMethod),
}

/// A method that has no name of its own here; a token, and none of the named methods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtensionMethod(Bytes);

impl Method {
    /// The longest method that is accepted. Unit: bytes. The longest registered one has 17.
    pub const MAX_LEN: usize = 64;

    /// Reads a method; copies it only if it is an extension.
    ///
    /// # Errors
    /// If it is empty, too long, or not a token.
    pub fn parse(method: &[u8]) -> Result<Self, BadMethod> {
        Self::known(method).map_or_else(|| Self::extension(Bytes::copy_from_slice(method)), Ok)
    }

    /// Reads a method without copying it.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn from_bytes(method: Bytes) -> Result<Self, BadMethod> {
        Self::known(&method).map_or_else(|| Self::extension(method), Ok)
    }

    /// Reads one of the named methods.
    pub(crate) fn known(method: &[u8]) -> Option<Self> {
        Some(match method {
            b"GET" => Self::Get,
            b"POST" => Self::Post,
            b"HEAD" => Self::Head,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => return None,
        })
    }

    fn extension(method: Bytes) -> Result<Self, BadMethod> {
        let length_fits = (1..=Self::MAX_LEN).contains(&method.len());
        if !length_fits || !method.iter().all(|b| chars::is_token(*b)) {
            return Err(BadMethod);
        }
        Ok(Self::Extension(ExtensionMethod(method)))
    }

    /// The method as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            // A token is ASCII, so the check never fails.
            Self::Extension(ExtensionMethod(token)) => {
                std::str::from_utf8(token).unwrap_or_default()
            }
        }
    }

    /// Whether the method only reads: RFC 9110 section 9.2.1.
    #[must_use]
    pub const fn is_safe(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// Whether sending it twice means the same as once: RFC 9110 section 9.2.2.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read_and_written_alike() {
        for text in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ] {
            let method = Method::parse(text.as_bytes()).expect("a method");
            assert!(!matches!(method, Method::Extension(_)), "{text}");
            assert_eq!(method.as_str(), text);
        }
        for text in ["get", "M-SEARCH", "PROPFIND"] {
            let method = Method::parse(text.as_bytes()).expect("a token");
            assert!(matches!(method, Method::Extension(_)), "{text}");
            assert_eq!(method.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let long = "A".repeat(65);
        for bad in ["", "G T", "GET\r", "GÉT", "(", long.as_str()] {
            assert_eq!(Method::parse(bad.as_bytes()), Err(BadMethod), "{bad}");
        }
    }
}
