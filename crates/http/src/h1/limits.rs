// SPDX-License-Identifier: Apache-2.0
//! What a peer may make the codec hold. Every bound here has a refusal that names it.

/// Bounds on one message. The defaults are Envoy's where Envoy has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The start line and all field lines, with their line ends. Unit: bytes; default 60 KiB.
    /// Source: `HttpConnectionManager.max_request_headers_kb`.
    pub max_head_bytes: usize,
    /// Field lines in a head, and again in trailers. Default 100.
    /// Source: `envoy.config.core.v3.HttpProtocolOptions.max_headers_count`.
    pub max_headers: usize,
    /// The request line or status line. Unit: bytes; default 60 KiB.
    pub max_start_line_bytes: usize,
    /// All chunk extensions of one body together. Unit: bytes; default 4 KiB. Extensions are read
    /// and dropped, so a budget for the whole body keeps one-byte chunks from costing much.
    pub max_chunk_ext_bytes: usize,
    /// All trailer lines, with their line ends. Unit: bytes; default 60 KiB.
    pub max_trailer_bytes: usize,
    /// Whether HTTP/1.0 requests are served; else they are refused with 505. Default true.
    pub accept_http10: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_head_bytes: 60 * 1024,
            max_headers: 100,
            max_start_line_bytes: 60 * 1024,
            max_chunk_ext_bytes: 4 * 1024,
            max_trailer_bytes: 60 * 1024,
            accept_http10: true,
        }
    }
}
