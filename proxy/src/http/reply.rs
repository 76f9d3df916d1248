// SPDX-License-Identifier: Apache-2.0
//! Answers that the proxy gives itself: the only place where an error becomes a status.
//!
//! Statuses, bodies, flags and details are Envoy's, since dashboards and runbooks are built on
//! them. A gRPC request is answered in gRPC's own terms.

use std::borrow::Cow;

use bytes::Bytes;
use remora_http::{HeaderName, HeaderValue, ResponseHead, StatusCode};

use super::flags::Flags;

/// An answer that no upstream gave.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The reason, for people; may be empty.
    pub body: Cow<'static, str>,
    /// For the log.
    pub flags: Flags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// Why the transport failed, if it did.
    pub transport_failure: Option<Cow<'static, str>>,
    /// Whether `x-envoy-overloaded` is added.
    pub overloaded: bool,
    /// `location`, of redirects.
    pub location: Option<HeaderValue>,
}

impl Reply {
    /// An answer with a status, flags and details; no body.
    pub const fn new(status: StatusCode, flags: Flags, details: &'static str) -> Self {
        Self {
            status,
            body: Cow::Borrowed(""),
            flags,
            details: Cow::Borrowed(details),
            transport_failure: None,
            overloaded: false,
            location: None,
        }
    }

    /// With a body.
    pub fn with_body(mut self, body: impl Into<Cow<'static, str>>) -> Self {
        self.body = body.into();
        self
    }

    /// 404 `NR`.
    pub const fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, Flags::NO_ROUTE, "route_not_found")
    }

    /// The route's answer for a cluster that does not exist; 503 `NC` by default.
    pub const fn no_cluster(status: StatusCode) -> Self {
        Self::new(status, Flags::NO_CLUSTER, "cluster_not_found")
    }

    /// 504 `UT`: the whole request took too long.
    pub fn timeout() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            Flags::UPSTREAM_TIMEOUT,
            "response_timeout",
        )
        .with_body("upstream request timeout")
    }

    /// 504 `UT`: one attempt took too long, and there is no other.
    pub fn per_try_timeout() -> Self {
        let flags = Flags::UPSTREAM_TIMEOUT;
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            flags,
            "upstream_per_try_timeout",
        )
        .with_body("upstream request timeout")
    }

    /// 504 `SI` before an answer began; 408 if the request itself stalled.
    pub fn stream_idle(is_request_complete: bool) -> Self {
        let status = if is_request_complete {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            StatusCode::REQUEST_TIMEOUT
        };
        Self::new(status, Flags::STREAM_IDLE, "stream_idle_timeout").with_body("stream timeout")
    }

    /// 408: the request did not come to its end in time (`request_timeout`).
    pub fn request_timeout() -> Self {
        let status = StatusCode::REQUEST_TIMEOUT;
        Self::new(status, Flags::none(), "request_overall_timeout").with_body("request timeout")
    }

    /// 504 `DT`: the stream was older than allowed.
    pub fn max_duration() -> Self {
        let flags = Flags::DURATION_TIMEOUT;
        Self::new(StatusCode::GATEWAY_TIMEOUT, flags, "max_duration_timeout")
            .with_body("downstream duration timeout")
    }

    /// The gRPC status that stands for this answer. Source: Envoy's mapping of HTTP statuses.
    const fn grpc_status(&self) -> u8 {
        if self.flags.has_any(Flags::DURATION_TIMEOUT) {
            // The peer's own deadline, or the route's in its place: `DEADLINE_EXCEEDED`.
            return 4;
        }
        match self.status.get() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        }
    }

    /// The head and body to send; a gRPC request gets its status in the head and no body.
    pub fn into_response(self, is_grpc: bool) -> (ResponseHead, Bytes) {
        let grpc_status = self.grpc_status();
        let mut head = ResponseHead::local(if is_grpc { StatusCode::OK } else { self.status });
        if self.overloaded {
            let yes = HeaderValue::from_static("true");
            head.headers.insert(HeaderName::X_ENVOY_OVERLOADED, yes);
        }
        if let Some(location) = self.location {
            head.headers.insert(HeaderName::LOCATION, location);
        }
        let kind = if is_grpc {
            "application/grpc"
        } else {
            "text/plain"
        };
        if is_grpc || !self.body.is_empty() {
            head.headers
                .insert(HeaderName::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if !is_grpc {
            if self.status != StatusCode::NO_CONTENT {
                let length = HeaderValue::from_number(self.body.len() as u64);
                head.headers.insert(HeaderName::CONTENT_LENGTH, length);
            }
            let body = match self.body {
                Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
                Cow::Owned(text) => Bytes::from(text),
            };
            return (head, body);
        }
        let status = HeaderValue::from_number(u64::from(grpc_status));
        head.headers.insert(HeaderName::GRPC_STATUS, status);
        let message = HeaderValue::copy_from(percent_encode(&self.body).as_bytes());
        if let Ok(message) = message
            && !self.body.is_empty()
        {
            head.headers.insert(HeaderName::GRPC_MESSAGE, message);
        }
        (head, Bytes::new())
    }
}

/// Encodes a text for `grpc-message`: all but printable ASCII, and `%`.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_requests_are_answered_in_grpc() {
        let (head, body) = Reply::timeout().into_response(true);
        assert_eq!(head.status, StatusCode::OK);
        assert!(body.is_empty());
        let field = |name| head.headers.get(&name).map(|value| &**value);
        assert_eq!(
            field(HeaderName::GRPC_STATUS),
            Some(&b"14"[..]),
            "not 4, as in Envoy"
        );
        assert_eq!(
            field(HeaderName::GRPC_MESSAGE),
            Some(&b"upstream request timeout"[..])
        );
        let (head, _) = Reply::no_route().into_response(true);
        assert_eq!(
            head.headers.get(&HeaderName::GRPC_STATUS).map(|v| &**v),
            Some(&b"12"[..])
        );
    }

    #[test]
    fn plain_requests_get_the_status_and_the_text() {
        let (head, body) = Reply::timeout().into_response(false);
        assert_eq!(head.status.get(), 504);
        assert_eq!(&*body, b"upstream request timeout");
    }
}
