// SPDX-License-Identifier: Apache-2.0
//! Protocol options that connection managers and clusters share.

use std::time::Duration;

use remora_ir::cluster::{Http2Keepalive, Http2Options};
use remora_xds_types::core;
use remora_xds_types::core::http_protocol_options::HeadersWithUnderscoresAction;

use crate::fault::Scope;
use crate::value;

/// What common options say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common {
    /// `None`: not said; `Some(None)`: never.
    pub(crate) idle: Option<Option<Duration>>,
    pub(crate) max_duration: Option<Duration>,
    pub(crate) max_fields: usize,
    /// 0: any number.
    pub(crate) max_requests: u32,
}

/// Options of all versions.
pub(crate) fn common(scope: &Scope<'_>, message: core::HttpProtocolOptions) -> Option<Common> {
    fields! { scope, message: core::HttpProtocolOptions {
        honoured {
            idle_timeout, max_connection_duration, max_headers_count: "of requests; 100 if absent",
            headers_with_underscores_action: "`ALLOW` only", max_requests_per_connection
        }
        ignored {
            max_connection_duration_jitter: "the duration holds as it is",
            max_response_headers_kb: "a response's head may have 60 KiB"
        }
        refused { max_stream_duration: "a bound on all streams; routes have one" }
    }}
    let action_at = scope.field("headers_with_underscores_action");
    let action: Option<HeadersWithUnderscoresAction> =
        value::word(&action_at, headers_with_underscores_action);
    if action != Some(HeadersWithUnderscoresAction::Allow) {
        action_at.fault("not supported: only `ALLOW`");
    }
    let idle_at = scope.field("idle_timeout");
    let max_at = scope.field("max_connection_duration");
    let fields = value::number(max_headers_count).unwrap_or(100);
    if fields == 0 {
        scope
            .field("max_headers_count")
            .fault("is zero (expected 1 or more)");
    }
    Some(Common {
        idle: idle_timeout.map(|idle| value::bound_or(&idle_at, Some(idle), None)),
        max_duration: value::bound_or(&max_at, max_connection_duration, None),
        max_fields: usize::try_from(fields).ok()?,
        max_requests: value::number(max_requests_per_connection).unwrap_or(0),
    })
}

/// Options of HTTP/1: the codec is strict and has none.
pub(crate) fn http1(scope: &Scope<'_>, options: Option<core::Http1ProtocolOptions>) {
    let Some(message) = options else { return };
    fields! { scope, message: core::Http1ProtocolOptions {
        honoured {
            allow_absolute_url: "absolute targets are always understood", accept_http_10: "HTTP/1.0 is always understood",
            header_key_format: "the case of names is always kept", enable_trailers: "trailers always pass"
        }
        ignored {
            override_stream_error_on_invalid_http_message: "a malformed message ends its connection",
            use_balsa_parser: "there is one parser"
        }
        refused {
            default_host_for_http_10: "requests without a host",
            allow_chunked_length: "a length beside chunks is how requests are smuggled",
            send_fully_qualified_url: "absolute targets to upstreams",
            allow_custom_methods: "methods are checked by the codec",
            ignore_http_11_upgrade: "upgrades that are passed over"
        }
    }}
    // What these ask for is done for all, so there is nothing to keep.
    let _ = (
        allow_absolute_url,
        accept_http_10,
        header_key_format,
        enable_trailers,
    );
}

/// Options of HTTP/2.
pub(crate) fn http2(
    scope: &Scope<'_>,
    options: Option<core::Http2ProtocolOptions>,
) -> Option<Http2Options> {
    let message = options.unwrap_or_default();
    fields! { scope, message: core::Http2ProtocolOptions {
        honoured {
            max_concurrent_streams: "100 if absent", initial_stream_window_size: "256 KiB if absent",
            initial_connection_window_size: "1 MiB if absent", connection_keepalive
        }
        ignored {
            hpack_table_size: "4 KiB",
            allow_connect: "extended CONNECT follows the upgrades that are allowed",
            max_outbound_frames: "bounded by the library",
            max_outbound_control_frames: "bounded by the library",
            max_consecutive_inbound_frames_with_empty_payload: "bounded by the library",
            max_inbound_priority_frames_per_stream: "bounded by the library",
            max_inbound_window_update_frames_per_data_frame_sent: "bounded by the library",
            stream_error_on_invalid_http_messaging: "a malformed message ends its stream",
            override_stream_error_on_invalid_http_message: "a malformed message ends its stream",
            use_oghttp2_codec: "there is one codec",
            max_metadata_size: "there are no METADATA frames",
            enable_huffman_encoding: "the encoder chooses",
            max_header_field_size_kb: "the whole head is bounded",
            disallow_obs_text: "bytes above 127 pass",
            stream_reset_burst: "resets are bounded by the library",
            stream_reset_rate: "resets are bounded by the library"
        }
        refused {
            allow_metadata: "METADATA frames",
            custom_settings_parameters: "custom settings"
        }
    }}
    let default = Http2Options::DEFAULT;
    let in_range = |field, said, default, least: u32| {
        let value = value::number(said).unwrap_or(default);
        // RFC 9113 section 6.9.1: a window is at most 2^31-1 bytes.
        if !(least..=0x7fff_ffff).contains(&value) {
            let at = scope.field(field);
            at.fault(format!("{value} (expected {least} to 2147483647)"));
        }
        value
    };
    let stream = initial_stream_window_size;
    let connection = initial_connection_window_size;
    Some(Http2Options {
        max_concurrent_streams: in_range(
            "max_concurrent_streams",
            max_concurrent_streams,
            default.max_concurrent_streams,
            1,
        ),
        initial_stream_window: in_range(
            "initial_stream_window_size",
            stream,
            default.initial_stream_window,
            65_535,
        ),
        initial_connection_window: in_range(
            "initial_connection_window_size",
            connection,
            default.initial_connection_window,
            65_535,
        ),
        keepalive: match connection_keepalive {
            Some(keepalive) => keepalive_pings(&scope.field("connection_keepalive"), keepalive)?,
            None => None,
        },
    })
}

/// Pings; none without an interval.
fn keepalive_pings(
    scope: &Scope<'_>,
    message: core::KeepaliveSettings,
) -> Option<Option<Http2Keepalive>> {
    fields! { scope, message: core::KeepaliveSettings {
        honoured { interval, timeout: "required with `interval`" }
        ignored {
            interval_jitter: "the interval holds as it is",
            connection_idle_interval: "pings come by interval only"
        }
        refused {}
    }}
    let Some(interval) = interval else {
        return Some(None);
    };
    let zero = Duration::ZERO;
    Some(Some(Http2Keepalive {
        interval: value::positive_or(&scope.field("interval"), Some(interval), zero),
        timeout: value::positive_or(&scope.field("timeout"), timeout, zero),
    }))
}
