// SPDX-License-Identifier: Apache-2.0
//! A connection manager's deadlines, header policy and path policy.

use std::time::Duration;

use remora_ir::listener::{
    EscapedSlashes, HeaderPolicy, HttpTimeouts, PathPolicy, ServerHeader, StripPort,
};
use remora_xds_types::hcm::http_connection_manager as manager;
use remora_xds_types::protobuf;

use super::protocol::Common;
use crate::fault::Scope;
use crate::value;

/// Envoy's defaults.
const IDLE: Duration = Duration::from_secs(3600);
const STREAM_IDLE: Duration = Duration::from_secs(300);
const DELAYED_CLOSE: Duration = Duration::from_secs(1);

/// What was said of deadlines.
pub(super) struct SaidTimeouts<'a> {
    pub(super) common: Option<&'a Common>,
    pub(super) stream_idle: Option<protobuf::Duration>,
    pub(super) request: Option<protobuf::Duration>,
    pub(super) request_head: Option<protobuf::Duration>,
    pub(super) delayed_close: Option<protobuf::Duration>,
}

/// Deadlines; an explicit zero switches a bound off.
pub(super) fn timeouts(scope: &Scope<'_>, said: SaidTimeouts<'_>) -> Option<HttpTimeouts> {
    let bound = |field, value, default| value::bound_or(&scope.field(field), value, default);
    let stream_idle = bound("stream_idle_timeout", said.stream_idle, Some(STREAM_IDLE));
    let request = bound("request_timeout", said.request, None);
    let request_head = bound("request_headers_timeout", said.request_head, None);
    let or = |field, value, default| value::duration_or(&scope.field(field), value, default);
    let delayed_close = or("delayed_close_timeout", said.delayed_close, DELAYED_CLOSE);
    let common = said.common?;
    Some(HttpTimeouts {
        idle: common.idle.unwrap_or(Some(IDLE)),
        stream_idle,
        request,
        request_head,
        max_connection: common.max_duration,
        delayed_close,
    })
}

/// What was said of headers.
pub(super) struct SaidHeaders {
    pub(super) use_remote_address: bool,
    pub(super) skip_xff_append: bool,
    pub(super) trusted_hops: u32,
    pub(super) generate_request_id: bool,
    pub(super) preserve_request_id: bool,
    pub(super) request_id_in_response: bool,
    pub(super) server_name: String,
    pub(super) server_header: i32,
    pub(super) via: String,
    pub(super) strip_matching: bool,
    pub(super) strip_any: Option<manager::StripPortMode>,
    pub(super) client_cert: i32,
    pub(super) suppress_envoy_headers: bool,
}

/// The header policy.
pub(super) fn headers(scope: &Scope<'_>, said: SaidHeaders) -> Option<HeaderPolicy> {
    let cert_at = scope.field("forward_client_cert_details");
    let cert: Option<manager::ForwardClientCertDetails> = value::word(&cert_at, said.client_cert);
    if cert == Some(manager::ForwardClientCertDetails::AlwaysForwardOnly) {
        cert_at.fault("not supported: `ALWAYS_FORWARD_ONLY` believes any peer");
    }
    for (field, text) in [("server_name", &said.server_name), ("via", &said.via)] {
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            scope.field(field).fault("has a control character");
        }
    }
    let strip_any = matches!(
        said.strip_any,
        Some(manager::StripPortMode::StripAnyHostPort(true))
    );
    if strip_any && said.strip_matching {
        scope.fault("`strip_matching_host_port` and `strip_any_host_port` exclude each other");
    }
    let server_at = scope.field("server_header_transformation");
    Some(HeaderPolicy {
        use_remote_address: said.use_remote_address,
        skip_xff_append: said.skip_xff_append,
        trusted_hops: said.trusted_hops,
        generate_request_id: said.generate_request_id,
        preserve_request_id: said.preserve_request_id,
        request_id_in_response: said.request_id_in_response,
        server_name: match said.server_name.as_str() {
            "" => "envoy".into(),
            name => name.into(),
        },
        server_header: match value::word(&server_at, said.server_header)? {
            manager::ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite,
            manager::ServerHeaderTransformation::AppendIfAbsent => ServerHeader::AppendIfAbsent,
            manager::ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
        },
        via: (!said.via.is_empty()).then(|| said.via.into()),
        strip_port: match (strip_any, said.strip_matching) {
            (true, _) => StripPort::Any,
            (false, true) => StripPort::Matching,
            (false, false) => StripPort::Keep,
        },
        suppress_envoy_headers: said.suppress_envoy_headers,
    })
}

/// The path policy.
pub(super) fn path(
    scope: &Scope<'_>,
    normalize: bool,
    merge_slashes: bool,
    escaped_slashes: i32,
) -> Option<PathPolicy> {
    use manager::PathWithEscapedSlashesAction as Action;
    let at = scope.field("path_with_escaped_slashes_action");
    Some(PathPolicy {
        normalize,
        merge_slashes,
        escaped_slashes: match value::word(&at, escaped_slashes)? {
            Action::ImplementationSpecificDefault | Action::KeepUnchanged => EscapedSlashes::Keep,
            Action::RejectRequest => EscapedSlashes::Reject,
            Action::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
            Action::UnescapeAndForward => EscapedSlashes::UnescapeAndForward,
        },
    })
}
