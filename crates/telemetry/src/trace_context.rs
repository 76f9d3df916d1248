// SPDX-License-Identifier: Apache-2.0
//! The headers by which a trace crosses services.
//!
//! A sidecar passes them on as they came; an application that wants its calls in one trace copies
//! them from the request it serves to the requests it makes. Names are lower case.

/// W3C Trace Context.
pub const W3C: [&str; 2] = ["traceparent", "tracestate"];

/// B3 in one header.
pub const B3_SINGLE: &str = "b3";

/// B3 in several headers.
pub const B3_MULTI: [&str; 5] = [
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// The request's own identity, by which access logs of several hops are joined.
pub const REQUEST_ID: &str = "x-request-id";

/// Whether a lower-case header name belongs to a trace's context.
#[must_use]
pub fn is_trace_header(name: &str) -> bool {
    name == B3_SINGLE || name == REQUEST_ID || W3C.contains(&name) || B3_MULTI.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_headers_are_told_from_others() {
        for name in [
            "traceparent",
            "tracestate",
            "b3",
            "x-b3-flags",
            "x-request-id",
        ] {
            assert!(is_trace_header(name), "{name}");
        }
        for name in ["", "x-b3", "trace", "x-request-id2", "host"] {
            assert!(!is_trace_header(name), "{name}");
        }
    }
}
