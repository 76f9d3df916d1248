// SPDX-License-Identifier: Apache-2.0
//! HTTP as values: message heads, the strict HTTP/1 codec, normalisation and protocol sniffing.
//!
//! The crate answers for what bytes mean. It owns no socket, reads no clock, starts no task and
//! keeps no global: the proxy moves the bytes, decides and measures. The routing IR matches on
//! [`RequestHead`] and [`HeaderMap`]; the proxy's codecs produce and consume them.
//!
//! **Invariant:** whatever a peer sends, a function of this crate returns a value; it never
//! panics, never loops without consuming, and never holds more than its limits allow. A
//! [`HeaderMap`] holds only fields that can be written to a wire without changing its framing.

pub mod authority;
mod chars;
pub mod detect;
mod framing;
pub mod h1;
mod head;
pub mod header;
mod hop;
mod method;
pub mod path;
mod status;

pub use detect::tls;
pub use framing::BodyFraming;
pub use head::{RequestHead, ResponseHead, Scheme, Version};
pub use header::{HeaderMap, HeaderName, HeaderValue};
pub use hop::strip_hop_by_hop;
pub use method::{BadMethod, ExtensionMethod, Method};
pub use status::{BadStatus, StatusCode};
