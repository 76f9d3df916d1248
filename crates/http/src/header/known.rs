// SPDX-License-Identifier: Apache-2.0
//! A table: the header names that are compared by number instead of by text.
//!
//! Each row gives the constant, the lower-case name and the usual spelling, which lets the map
//! remember the common spellings without a reference to the read buffer. The look-up from bytes
//! is a hash table that is built at compile time; [`super::HeaderName`] is its only caller.

use super::name::{HeaderName, Repr};

macro_rules! known {
    ($($id:ident $lower:literal $usual:literal)*) => {
        /// The number of a known name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        // The variants are spelled as the public constants are.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[repr(u8)]
        pub(crate) enum Known { $($id,)* }

        static ALL: &[Known] = &[$(Known::$id,)*];
        const LOWER: &[&str] = &[$($lower,)*];
        static USUAL: &[&str] = &[$($usual,)*];

        impl HeaderName {
            $(
                #[doc = concat!("`", $lower, "`.")]
                pub const $id: Self = Self(Repr::Known(Known::$id));
            )*
        }
    };
}

known! {
    HOST "host" "Host"
    CONTENT_LENGTH "content-length" "Content-Length"
    TRANSFER_ENCODING "transfer-encoding" "Transfer-Encoding"
    CONNECTION "connection" "Connection"
    KEEP_ALIVE "keep-alive" "Keep-Alive"
    PROXY_CONNECTION "proxy-connection" "Proxy-Connection"
    TE "te" "TE"
    TRAILER "trailer" "Trailer"
    UPGRADE "upgrade" "Upgrade"
    EXPECT "expect" "Expect"
    HTTP2_SETTINGS "http2-settings" "HTTP2-Settings"
    ACCEPT "accept" "Accept"
    ACCEPT_CHARSET "accept-charset" "Accept-Charset"
    ACCEPT_ENCODING "accept-encoding" "Accept-Encoding"
    ACCEPT_LANGUAGE "accept-language" "Accept-Language"
    ACCEPT_RANGES "accept-ranges" "Accept-Ranges"
    AGE "age" "Age"
    ALLOW "allow" "Allow"
    ALT_SVC "alt-svc" "Alt-Svc"
    AUTHORIZATION "authorization" "Authorization"
    CACHE_CONTROL "cache-control" "Cache-Control"
    CONTENT_DISPOSITION "content-disposition" "Content-Disposition"
    CONTENT_ENCODING "content-encoding" "Content-Encoding"
    CONTENT_LANGUAGE "content-language" "Content-Language"
    CONTENT_LOCATION "content-location" "Content-Location"
    CONTENT_RANGE "content-range" "Content-Range"
    CONTENT_TYPE "content-type" "Content-Type"
    COOKIE "cookie" "Cookie"
    DATE "date" "Date"
    ETAG "etag" "ETag"
    EXPIRES "expires" "Expires"
    FORWARDED "forwarded" "Forwarded"
    FROM "from" "From"
    IF_MATCH "if-match" "If-Match"
    IF_MODIFIED_SINCE "if-modified-since" "If-Modified-Since"
    IF_NONE_MATCH "if-none-match" "If-None-Match"
    IF_RANGE "if-range" "If-Range"
    IF_UNMODIFIED_SINCE "if-unmodified-since" "If-Unmodified-Since"
    LAST_MODIFIED "last-modified" "Last-Modified"
    LINK "link" "Link"
    LOCATION "location" "Location"
    MAX_FORWARDS "max-forwards" "Max-Forwards"
    ORIGIN "origin" "Origin"
    PRAGMA "pragma" "Pragma"
    PROXY_AUTHENTICATE "proxy-authenticate" "Proxy-Authenticate"
    PROXY_AUTHORIZATION "proxy-authorization" "Proxy-Authorization"
    RANGE "range" "Range"
    REFERER "referer" "Referer"
    RETRY_AFTER "retry-after" "Retry-After"
    SERVER "server" "Server"
    SET_COOKIE "set-cookie" "Set-Cookie"
    STRICT_TRANSPORT_SECURITY "strict-transport-security" "Strict-Transport-Security"
    USER_AGENT "user-agent" "User-Agent"
    VARY "vary" "Vary"
    VIA "via" "Via"
    WWW_AUTHENTICATE "www-authenticate" "WWW-Authenticate"
    SEC_WEBSOCKET_ACCEPT "sec-websocket-accept" "Sec-WebSocket-Accept"
    SEC_WEBSOCKET_EXTENSIONS "sec-websocket-extensions" "Sec-WebSocket-Extensions"
    SEC_WEBSOCKET_KEY "sec-websocket-key" "Sec-WebSocket-Key"
    SEC_WEBSOCKET_PROTOCOL "sec-websocket-protocol" "Sec-WebSocket-Protocol"
    SEC_WEBSOCKET_VERSION "sec-websocket-version" "Sec-WebSocket-Version"
    GRPC_ENCODING "grpc-encoding" "Grpc-Encoding"
    GRPC_ACCEPT_ENCODING "grpc-accept-encoding" "Grpc-Accept-Encoding"
    GRPC_MESSAGE "grpc-message" "Grpc-Message"
    GRPC_STATUS "grpc-status" "Grpc-Status"
    GRPC_STATUS_DETAILS_BIN "grpc-status-details-bin" "Grpc-Status-Details-Bin"
    GRPC_TIMEOUT "grpc-timeout" "Grpc-Timeout"
    B3 "b3" "B3"
    BAGGAGE "baggage" "Baggage"
    TRACEPARENT "traceparent" "Traceparent"
    TRACESTATE "tracestate" "Tracestate"
    X_B3_FLAGS "x-b3-flags" "X-B3-Flags"
    X_B3_PARENT_SPAN_ID "x-b3-parentspanid" "X-B3-ParentSpanId"
    X_B3_SAMPLED "x-b3-sampled" "X-B3-Sampled"
    X_B3_SPAN_ID "x-b3-spanid" "X-B3-SpanId"
    X_B3_TRACE_ID "x-b3-traceid" "X-B3-TraceId"
    X_CLIENT_TRACE_ID "x-client-trace-id" "X-Client-Trace-Id"
    X_REQUEST_ID "x-request-id" "X-Request-Id"
    X_FORWARDED_CLIENT_CERT "x-forwarded-client-cert" "X-Forwarded-Client-Cert"
    X_FORWARDED_FOR "x-forwarded-for" "X-Forwarded-For"
    X_FORWARDED_HOST "x-forwarded-host" "X-Forwarded-Host"
    X_FORWARDED_PORT "x-forwarded-port" "X-Forwarded-Port"
    X_FORWARDED_PROTO "x-forwarded-proto" "X-Forwarded-Proto"
    X_REAL_IP "x-real-ip" "X-Real-Ip"
    X_REQUESTED_WITH "x-requested-with" "X-Requested-With"
    X_POWERED_BY "x-powered-by" "X-Powered-By"
    X_ENVOY_ATTEMPT_COUNT "x-envoy-attempt-count" "X-Envoy-Attempt-Count"
    X_ENVOY_DECORATOR_OPERATION "x-envoy-decorator-operation" "X-Envoy-Decorator-Operation"
    X_ENVOY_DEGRADED "x-envoy-degraded" "X-Envoy-Degraded"
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS "x-envoy-expected-rq-timeout-ms" "X-Envoy-Expected-Rq-Timeout-Ms"
    X_ENVOY_EXTERNAL_ADDRESS "x-envoy-external-address" "X-Envoy-External-Address"
    X_ENVOY_FORCE_TRACE "x-envoy-force-trace" "X-Envoy-Force-Trace"
    X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT "x-envoy-hedge-on-per-try-timeout" "X-Envoy-Hedge-On-Per-Try-Timeout"
    X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL "x-envoy-immediate-health-check-fail" "X-Envoy-Immediate-Health-Check-Fail"
    X_ENVOY_INTERNAL "x-envoy-internal" "X-Envoy-Internal"
    X_ENVOY_IP_TAGS "x-envoy-ip-tags" "X-Envoy-Ip-Tags"
    X_ENVOY_MAX_RETRIES "x-envoy-max-retries" "X-Envoy-Max-Retries"
    X_ENVOY_ORIGINAL_HOST "x-envoy-original-host" "X-Envoy-Original-Host"
    X_ENVOY_ORIGINAL_METHOD "x-envoy-original-method" "X-Envoy-Original-Method"
    X_ENVOY_ORIGINAL_PATH "x-envoy-original-path" "X-Envoy-Original-Path"
    X_ENVOY_OVERLOADED "x-envoy-overloaded" "X-Envoy-Overloaded"
    X_ENVOY_PEER_METADATA "x-envoy-peer-metadata" "X-Envoy-Peer-Metadata"
    X_ENVOY_PEER_METADATA_ID "x-envoy-peer-metadata-id" "X-Envoy-Peer-Metadata-Id"
    X_ENVOY_RATELIMITED "x-envoy-ratelimited" "X-Envoy-RateLimited"
    X_ENVOY_RETRIABLE_HEADER_NAMES "x-envoy-retriable-header-names" "X-Envoy-Retriable-Header-Names"
    X_ENVOY_RETRIABLE_STATUS_CODES "x-envoy-retriable-status-codes" "X-Envoy-Retriable-Status-Codes"
    X_ENVOY_RETRY_GRPC_ON "x-envoy-retry-grpc-on" "X-Envoy-Retry-Grpc-On"
    X_ENVOY_RETRY_ON "x-envoy-retry-on" "X-Envoy-Retry-On"
    X_ENVOY_UPSTREAM_ALT_STAT_NAME "x-envoy-upstream-alt-stat-name" "X-Envoy-Upstream-Alt-Stat-Name"
    X_ENVOY_UPSTREAM_CANARY "x-envoy-upstream-canary" "X-Envoy-Upstream-Canary"
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS "x-envoy-upstream-rq-per-try-timeout-ms" "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms"
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS "x-envoy-upstream-rq-timeout-ms" "X-Envoy-Upstream-Rq-Timeout-Ms"
    X_ENVOY_UPSTREAM_SERVICE_TIME "x-envoy-upstream-service-time" "X-Envoy-Upstream-Service-Time"
    X_ENVOY_UPSTREAM_STREAM_DURATION_MS "x-envoy-upstream-stream-duration-ms" "X-Envoy-Upstream-Stream-Duration-Ms"
}

impl Known {
    /// Finds a name in any case.
    pub(crate) fn find(name: &[u8]) -> Option<Self> {
        let mut slot = slot_of(name);
        loop {
            let id = ALL.get(usize::from(*SLOTS.get(slot)?))?;
            if id.lower().as_bytes().eq_ignore_ascii_case(name) {
                return Some(*id);
            }
            slot = (slot + 1) % SLOT_COUNT;
        }
    }

    /// The name in lower case.
    pub(crate) fn lower(self) -> &'static str {
        LOWER.get(self as usize).copied().unwrap_or_default()
    }

    /// The name as most programs spell it on the wire.
    pub(crate) fn usual(self) -> &'static str {
        USUAL.get(self as usize).copied().unwrap_or_default()
    }

    /// One bit per name, for the map's set of names that are present.
    pub(crate) const fn bit(self) -> u128 {
        1 << (self as u8)
    }
}

/// About a quarter full, so that most misses end at the first slot.
const SLOT_COUNT: usize = 512;
const EMPTY: u8 = u8::MAX;
static SLOTS: [u8; SLOT_COUNT] = slots();

/// A hash of the length and five bytes that tell the known names apart; case does not matter.
const fn slot_of(name: &[u8]) -> usize {
    let n = name.len();
    if n == 0 {
        return 0;
    }
    let bytes = [
        name[0],
        name[n / 4],
        name[n / 2],
        name[n - 1 - n / 4],
        name[n - 1],
    ];
    let mut hash = n;
    let mut i = 0;
    while i < bytes.len() {
        hash = hash.wrapping_mul(131) ^ (bytes[i] | 0x20) as usize;
        i += 1;
    }
    (hash ^ (hash >> 9) ^ (hash >> 18)) % SLOT_COUNT
}

const fn slots() -> [u8; SLOT_COUNT] {
    assert!(
        LOWER.len() <= 128,
        "the map's set of known names has 128 bits"
    );
    let mut table = [EMPTY; SLOT_COUNT];
    let mut id: u8 = 0;
    while (id as usize) < LOWER.len() {
        let mut slot = slot_of(LOWER[id as usize].as_bytes());
        while table[slot] != EMPTY {
            slot = (slot + 1) % SLOT_COUNT;
        }
        table[slot] = id;
        id += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_name_is_found_in_every_case() {
        for id in ALL {
            for text in [
                id.lower().to_owned(),
                id.usual().into(),
                id.lower().to_uppercase(),
            ] {
                assert_eq!(Known::find(text.as_bytes()), Some(*id), "{text}");
            }
            assert!(id.lower().eq_ignore_ascii_case(id.usual()), "{id:?}");
            assert_eq!(id.lower(), id.lower().to_ascii_lowercase());
        }
    }

    #[test]
    fn other_names_are_not_found() {
        for text in [
            "",
            "x",
            "hos",
            "hostt",
            "x-envoy-",
            "content_length",
            "h\u{f6}st",
        ] {
            assert_eq!(Known::find(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn look_ups_probe_few_slots() {
        let probes = |id: &Known| {
            let start = slot_of(id.lower().as_bytes());
            (0..)
                .find(|n| SLOTS[(start + n) % SLOT_COUNT] == *id as u8)
                .unwrap_or(usize::MAX)
        };
        assert!(ALL.iter().map(probes).max() <= Some(3));
    }
}
