// SPDX-License-Identifier: Apache-2.0
//! How the end of a message's body is known. Source: RFC 9112 section 6.
//!
//! The decoders compute it from a head; the encoders are told it and write the fields that say
//! it. Between the two, the fields themselves are never trusted.

/// How long a body is, or how its end will be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body, and no field says so.
    Empty,
    /// Exactly so many bytes follow; zero when `content-length: 0` was given.
    Length(u64),
    /// Chunks follow, then a last chunk and trailers.
    Chunked,
    /// All bytes until the connection closes. Responses only.
    UntilClose,
}

impl BodyFraming {
    /// Whether no byte of body can follow.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::Empty | Self::Length(0))
    }
}
