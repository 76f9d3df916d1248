// SPDX-License-Identifier: Apache-2.0
//! Why the codec refused a message: the rule or limit, the status to answer with, a stable code.
//!
//! The proxy answers a refused request with [`Refusal::status`] and closes; a refused response
//! becomes its 502. The text names the rule; the code goes to access logs and metrics.

use std::fmt;

use crate::authority::BadAuthority;
use crate::header::{BadName, BadValue};
use crate::status::StatusCode;

/// Which kind of message was being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request, from downstream.
    Request,
    /// A response, from upstream.
    Response,
}

/// The rule that a message broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The head is longer than `Limits::max_head_bytes`.
    #[error("{message} header block exceeds {limit} bytes (max_{message}_headers_kb)")]
    HeadTooLarge {
        /// What was being read.
        message: Message,
        /// The limit. Unit: bytes.
        limit: usize,
    },
    /// The head has more field lines than `Limits::max_headers`.
    #[error("{message} has more than {limit} headers (max_headers_count)")]
    TooManyHeaders {
        /// What was being read.
        message: Message,
        /// The limit.
        limit: usize,
    },
    /// The start line is longer than `Limits::max_start_line_bytes`.
    #[error("{message} start line exceeds {limit} bytes (max_start_line_bytes)")]
    StartLineTooLong {
        /// What was being read.
        message: Message,
        /// The limit. Unit: bytes.
        limit: usize,
    },
    /// The trailers are longer than `Limits::max_trailer_bytes`.
    #[error("trailers exceed {limit} bytes (max_trailer_bytes)")]
    TrailersTooLarge {
        /// The limit. Unit: bytes.
        limit: usize,
    },
    /// There are more trailer lines than `Limits::max_headers`.
    #[error("message has more than {limit} trailers (max_headers_count)")]
    TooManyTrailers {
        /// The limit.
        limit: usize,
    },
    /// A line feed without a carriage return before it. RFC 9112 section 2.2.
    #[error("line feed without carriage return")]
    BareLf,
    /// A carriage return that ends no line. RFC 9112 section 2.2.
    #[error("carriage return within a line")]
    BareCr,
    /// A field line that starts with a blank. RFC 9112 section 5.2.
    #[error("header line starts with a blank (obsolete line folding)")]
    Fold,
    /// A field line without a colon.
    #[error("header line has no colon")]
    NoColon,
    /// A blank between a field's name and the colon. RFC 9112 section 5.1.
    #[error("blank between header name and colon")]
    SpaceBeforeColon,
    /// A field name that is no token.
    #[error("{0}")]
    FieldName(BadName),
    /// A field value with a control character.
    #[error("{0}")]
    FieldValue(BadValue),
    /// The first line is not `method target version`. RFC 9112 section 3.
    #[error("request line is not `method target version`")]
    RequestLine,
    /// The method is no token or has more than 64 bytes.
    #[error("method is not a token of at most 64 bytes")]
    Method,
    /// The target fits none of the four forms for its method. RFC 9112 section 3.2.
    #[error("request target: {0}")]
    Target(&'static str),
    /// The target has a `#`.
    #[error("request target has a fragment")]
    Fragment,
    /// A well-formed version that is not served.
    #[error("HTTP version is not 1.0 or 1.1")]
    Version,
    /// An HTTP/1.0 request where `Limits::accept_http10` is off.
    #[error("HTTP/1.0 is not accepted here (accept_http_10)")]
    Http10,
    /// An HTTP/1.1 request without a host. RFC 9112 section 3.2.
    #[error("HTTP/1.1 request has no host")]
    MissingHost,
    /// More than one `Host` line.
    #[error("request has more than one host header")]
    RepeatedHost,
    /// A `Host` or target authority that is not `host[:port]`.
    #[error("host: {0}")]
    Host(BadAuthority),
    /// Both `Content-Length` and `Transfer-Encoding`. RFC 9112 section 6.1.
    #[error("message has both content-length and transfer-encoding")]
    LengthAndEncoding,
    /// More than one `Content-Length` line, even if they agree.
    #[error("message has more than one content-length")]
    RepeatedLength,
    /// A `Content-Length` that is not a decimal number below 2^64.
    #[error("content-length is not a decimal number below 2^64")]
    Length,
    /// A well-formed transfer coding that is not implemented.
    #[error("transfer-encoding is not `chunked`")]
    Encoding,
    /// A `Transfer-Encoding` that does not frame: repeated, or not a list that ends in `chunked`.
    #[error("transfer-encoding is not exactly one `chunked`")]
    EncodingList,
    /// `Transfer-Encoding` in an HTTP/1.0 message. RFC 9112 section 6.1.
    #[error("transfer-encoding in an HTTP/1.0 message")]
    EncodingInHttp10,
    /// A CONNECT request that announces a body: it has no meaning, and what follows could be taken
    /// for the tunnel's first bytes. RFC 9110 section 9.3.6.
    #[error("CONNECT request announces a body")]
    ConnectBody,
    /// A chunk size that is not one to sixteen hexadecimal digits. RFC 9112 section 7.1.
    #[error("chunk size is not a hexadecimal number below 2^64")]
    ChunkSize,
    /// Chunk extensions beyond `Limits::max_chunk_ext_bytes`, or a size line without an end.
    #[error("chunk extensions exceed {limit} bytes (max_chunk_ext_bytes)")]
    ChunkExtTooLarge {
        /// The limit. Unit: bytes.
        limit: usize,
    },
    /// Something other than a line end after a chunk's data.
    #[error("chunk data is not followed by a line end")]
    ChunkEnd,
    /// A field that frames or routes among the trailers. RFC 9110 section 6.5.1.
    #[error("trailers hold {0}")]
    ForbiddenTrailer(&'static str),
    /// The first line is not `version status reason`. RFC 9112 section 4.
    #[error("status line is not `version status reason`")]
    StatusLine,
    /// `Content-Length` above zero or `Transfer-Encoding` in a 1xx or 204 response.
    #[error("{0} response announces a body")]
    BodyForbidden(StatusCode),
    /// 101 although the request asked for no upgrade.
    #[error("101 response to a request that asked for no upgrade")]
    UnaskedUpgrade,
    /// More informational responses than anybody needs.
    #[error("more than {limit} informational responses to one request")]
    TooManyInformational {
        /// The limit.
        limit: u32,
    },
    /// The response decoder was given bytes while no request was outstanding.
    #[error("response bytes without a request")]
    Unsolicited,
    /// The connection ended before the message did.
    #[error("connection closed within a message")]
    Truncated,
}

impl Refusal {
    /// The status that tells a downstream what was wrong.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::HeadTooLarge { .. }
            | Self::TooManyHeaders { .. }
            | Self::TrailersTooLarge { .. }
            | Self::TooManyTrailers { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::StartLineTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::Version | Self::Http10 => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Encoding => StatusCode::NOT_IMPLEMENTED,
            Self::ChunkExtTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// A short stable word for access logs (`RESPONSE_CODE_DETAILS`) and metric labels.
    #[must_use]
    pub const fn as_code(&self) -> &'static str {
        match self {
            Self::HeadTooLarge { .. } => "headers_too_large",
            Self::TooManyHeaders { .. } => "too_many_headers",
            Self::StartLineTooLong { .. } => "start_line_too_long",
            Self::TrailersTooLarge { .. } => "trailers_too_large",
            Self::TooManyTrailers { .. } => "too_many_trailers",
            Self::BareLf => "bare_lf",
            Self::BareCr => "bare_cr",
            Self::Fold => "obs_fold",
            Self::NoColon => "header_without_colon",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::FieldName(_) => "bad_header_name",
            Self::FieldValue(_) => "bad_header_value",
            Self::RequestLine => "bad_request_line",
            Self::Method => "bad_method",
            Self::Target(_) => "bad_target",
            Self::Fragment => "fragment_in_target",
            Self::Version => "unsupported_version",
            Self::Http10 => "http10_not_accepted",
            Self::MissingHost => "missing_host",
            Self::RepeatedHost => "repeated_host",
            Self::Host(_) => "bad_host",
            Self::LengthAndEncoding => "length_and_encoding",
            Self::RepeatedLength => "repeated_content_length",
            Self::Length => "bad_content_length",
            Self::Encoding => "unsupported_transfer_encoding",
            Self::EncodingList => "bad_transfer_encoding",
            Self::EncodingInHttp10 => "transfer_encoding_in_http10",
            Self::ConnectBody => "connect_with_body",
            Self::ChunkSize => "bad_chunk_size",
            Self::ChunkExtTooLarge { .. } => "chunk_extensions_too_large",
            Self::ChunkEnd => "bad_chunk_end",
            Self::ForbiddenTrailer(_) => "forbidden_trailer",
            Self::StatusLine => "bad_status_line",
            Self::BodyForbidden(_) => "body_forbidden",
            Self::UnaskedUpgrade => "unasked_upgrade",
            Self::TooManyInformational { .. } => "too_many_informational",
            Self::Unsolicited => "unsolicited_response",
            Self::Truncated => "truncated",
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Response => "response",
        })
    }
}
