// SPDX-License-Identifier: Apache-2.0
//! The strict HTTP/1 codec as machines without I/O: bytes in, events out. Source: RFC 9112.
//!
//! ```text
//! downstream bytes --> RequestDecoder --> head --> BodyDecoder --> data, trailers, end
//!                                                                       |
//! upstream bytes <---- encode_chunk_header, encode_last_chunk <---------+
//!                 <--- encode_request
//! ```
//!
//! and the mirror image with [`ResponseDecoder`] and [`encode_response`]. The proxy reads into a
//! buffer, calls the decoder until it asks for more, and writes what the encoders appended.
//! Heads and data are slices of the read buffer.
//!
//! **Invariants:** there is one reading of a message or there is a [`Refusal`]; what cannot be
//! framed without doubt is refused, never repaired. A decoder that refused is not used again.
//! The encoders write framing from [`crate::BodyFraming`] alone, never from fields.

mod body;
mod encode;
mod facts;
mod limits;
mod refusal;
mod request;
mod response;
mod scan;
mod target;

pub use body::{BodyDecoder, BodyEvent};
pub use encode::{
    Persistence, RequestWire, ResponseWire, Unwritable, encode_chunk_header, encode_last_chunk,
    encode_request, encode_response,
};
pub use limits::Limits;
pub use refusal::{Message, Refusal};
pub use request::{ParsedRequest, RequestDecoder};
pub use response::{Asked, ParsedResponse, ResponseDecoder, ResponseEvent};

#[cfg(test)]
mod tests;
