// SPDX-License-Identifier: Apache-2.0
//! Header values that can be written to any HTTP wire.
//!
//! **Invariant:** no control byte but tab, and no blank at either end. Whoever builds a value
//! from configuration, a route or a certificate passes through here, so no such text can add a
//! field or end a head.

use std::fmt;

use bytes::Bytes;

use crate::chars;

/// A text that is not a header value: it holds a control character. Source: RFC 9110 section 5.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header value has control byte 0x{0:02x}")]
pub struct BadValue(pub u8);

/// A checked field value; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderValue(Bytes);

impl HeaderValue {
    /// Takes bytes without copying them; blanks at the ends are cut.
    ///
    /// # Errors
    /// If there is a control byte other than tab.
    pub fn from_bytes(value: Bytes) -> Result<Self, BadValue> {
        if !chars::is_value(&value) {
            let bad = |b: &&u8| !chars::is_value(std::slice::from_ref(*b));
            return Err(BadValue(
                value.iter().find(bad).copied().unwrap_or_default(),
            ));
        }
        let trimmed = chars::trim(&value);
        if trimmed.len() == value.len() {
            return Ok(Self(value));
        }
        Ok(Self(value.slice_ref(trimmed)))
    }

    /// Copies bytes.
    ///
    /// # Errors
    /// If there is a control byte other than tab.
    pub fn copy_from(value: &[u8]) -> Result<Self, BadValue> {
        Self::from_bytes(Bytes::copy_from_slice(value))
    }

    /// A literal, without a copy.
    ///
    /// # Panics
    /// If the literal is no value; in a constant that is an error of the build.
    #[must_use]
    pub const fn from_static(value: &'static str) -> Self {
        let bytes = value.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            assert!(
                bytes[i] >= b' ' && bytes[i] != 0x7f,
                "control byte in a header value"
            );
            i += 1;
        }
        assert!(
            chars::trim(bytes).len() == bytes.len(),
            "blank at an end of a header value"
        );
        Self(Bytes::from_static(bytes))
    }

    /// Decimal digits.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(Bytes::from(number.to_string()))
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The bytes, by value.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<Bytes> for HeaderValue {
    type Error = BadValue;

    fn try_from(value: Bytes) -> Result<Self, BadValue> {
        Self::from_bytes(value)
    }
}

impl TryFrom<String> for HeaderValue {
    type Error = BadValue;

    fn try_from(value: String) -> Result<Self, BadValue> {
        Self::from_bytes(value.into())
    }
}

impl TryFrom<&str> for HeaderValue {
    type Error = BadValue;

    fn try_from(value: &str) -> Result<Self, BadValue> {
        Self::copy_from(value.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injection_is_refused_when_the_value_is_made() {
        for bad in ["a\r\nx: y", "a\nb", "a\rb", "a\0b", "\u{7f}", "a\u{1b}[0m"] {
            assert!(HeaderValue::try_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn obs_text_tabs_and_emptiness_are_kept_and_blank_ends_are_cut() {
        let table: [(&[u8], &[u8]); 4] = [
            (b"", b""),
            (b" \t", b""),
            (b" a\tb ", b"a\tb"),
            (b"\xe9\xff", b"\xe9\xff"),
        ];
        for (given, expected) in table {
            let value = HeaderValue::copy_from(given).expect("a value");
            assert_eq!(value.as_bytes(), expected);
        }
        assert_eq!(
            HeaderValue::from_number(u64::MAX).as_bytes(),
            "18446744073709551615"
        );
    }
}
