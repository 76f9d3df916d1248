// SPDX-License-Identifier: Apache-2.0
//! What a body is made of on its way through: data, then perhaps trailers.
//!
//! Every codec on both sides speaks in frames, so that the exchange knows no wire format.

use bytes::Bytes;
use remora_http::HeaderMap;

/// A piece of a message's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes; may be empty only for protocols that can say so.
    Data(Bytes),
    /// The fields after the body; nothing follows.
    Trailers(HeaderMap),
}
