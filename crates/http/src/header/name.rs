// SPDX-License-Identifier: Apache-2.0
//! Header names: a number for the names of the table, lower-case bytes for all others.
//!
//! **Invariant:** one name has one representation, so equality of known names is equality of
//! numbers, and a known name never equals a custom one.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;

use super::known::Known;
use crate::chars;

/// Why a text is not a header name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing there.
    #[error("header name is empty")]
    Empty,
    /// A byte that no token has.
    #[error("header name has byte 0x{0:02x}, which is not a token character")]
    Byte(u8),
}

/// A header name, case-insensitive, cheap to compare and to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderName(pub(super) Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Repr {
    Known(Known),
    /// Lower case, a token, not in the table.
    Custom(Bytes),
}

impl HeaderName {
    /// Reads a name in any case. Copies it only if it is not a known one.
    ///
    /// # Errors
    /// If it is empty or has a byte that is not a token character (RFC 9110 section 5.1).
    pub fn parse(name: &[u8]) -> Result<Self, BadName> {
        if let Some(known) = Known::find(name) {
            return Ok(Self(Repr::Known(known)));
        }
        check(name)?;
        Ok(Self(Repr::Custom(name.to_ascii_lowercase().into())))
    }

    /// Takes a name that is already lower case, without copying it.
    ///
    /// # Errors
    /// As [`Self::parse`], and for upper-case letters (which HTTP/2 forbids, RFC 9113 section 8.2).
    pub fn from_lowercase(name: Bytes) -> Result<Self, BadName> {
        if let Some(upper) = name.iter().find(|b| b.is_ascii_uppercase()) {
            return Err(BadName::Byte(*upper));
        }
        if let Some(known) = Known::find(&name) {
            return Ok(Self(Repr::Known(known)));
        }
        check(&name)?;
        Ok(Self(Repr::Custom(name)))
    }

    /// A name from bytes that the caller has checked: a lower-case token that is not in the table.
    pub(crate) const fn custom(lower: Bytes) -> Self {
        Self(Repr::Custom(lower))
    }

    pub(crate) const fn from_known(known: Known) -> Self {
        Self(Repr::Known(known))
    }

    pub(crate) const fn known(&self) -> Option<Known> {
        match self.0 {
            Repr::Known(known) => Some(known),
            Repr::Custom(_) => None,
        }
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(known) => known.lower(),
            // A token is ASCII, so the check never fails.
            Repr::Custom(name) => std::str::from_utf8(name).unwrap_or_default(),
        }
    }

    /// The name in lower case, as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Known(known) => known.lower().as_bytes(),
            Repr::Custom(name) => name,
        }
    }
}

/// Whether the bytes are a token.
pub(crate) fn check(name: &[u8]) -> Result<(), BadName> {
    if name.is_empty() {
        return Err(BadName::Empty);
    }
    match name.iter().find(|b| !chars::is_token(**b)) {
        Some(byte) => Err(BadName::Byte(*byte)),
        None => Ok(()),
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Ord for HeaderName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for HeaderName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::str::FromStr for HeaderName {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Self, BadName> {
        Self::parse(name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_equal_their_constant_in_any_case() {
        for text in ["content-length", "Content-Length", "CONTENT-LENGTH"] {
            assert_eq!(
                HeaderName::parse(text.as_bytes()),
                Ok(HeaderName::CONTENT_LENGTH)
            );
        }
    }

    #[test]
    fn custom_names_are_lower_cased_and_compare_by_text() {
        let a = HeaderName::parse(b"X-Shop-User").expect("a token");
        let b = HeaderName::from_lowercase(Bytes::from_static(b"x-shop-user")).expect("a token");
        assert_eq!(a, b);
        assert_eq!(a.as_str(), "x-shop-user");
        assert_ne!(a, HeaderName::USER_AGENT);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let table: [(&[u8], BadName); 6] = [
            (b"", BadName::Empty),
            (b"a b", BadName::Byte(b' ')),
            (b"a:", BadName::Byte(b':')),
            (b"a\0", BadName::Byte(0)),
            (b"a\r\nb", BadName::Byte(b'\r')),
            (b"\xc3\xa4", BadName::Byte(0xc3)),
        ];
        for (name, expected) in table {
            assert_eq!(HeaderName::parse(name), Err(expected));
            assert_eq!(
                HeaderName::from_lowercase(Bytes::from_static(name)),
                Err(expected)
            );
        }
        let upper = HeaderName::from_lowercase(Bytes::from_static(b"Host"));
        assert_eq!(upper, Err(BadName::Byte(b'H')));
    }
}
