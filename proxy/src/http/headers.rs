// SPDX-License-Identifier: Apache-2.0
//! Fields that the proxy itself adds, keeps or takes away, on the way up and on the way down.
//!
//! What is done is Envoy's with the same settings: hop-by-hop fields go, `x-forwarded-*` follow
//! the trust that was configured, ids are made, and control fields of outsiders are removed.
//! Trace context (W3C and B3) passes untouched. The path is made canonical once, so that routes,
//! policies and the upstream see the same one.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use remora_http::path::{self, BadPath, Outcome, Rules};
use remora_http::{
    HeaderMap, HeaderName, HeaderValue, RequestHead, ResponseHead, Scheme, StatusCode, authority,
    strip_hop_by_hop,
};
use remora_ir::action::{HostRewrite, PathRewrite, Rewrite};
use remora_ir::header_edit::{AppendAction, HeaderEdits, HeaderSet};
use remora_ir::listener::{EscapedSlashes, HeaderPolicy, PathPolicy, ServerHeader, StripPort};
use remora_ir::route::PathMatch;

use super::flags::Flags;
use super::record::{ConnectionRecord, Record};
use super::reply::Reply;
use crate::access_log::format;

/// Makes a request's path canonical.
///
/// # Errors
/// The answer for a path that the policy refuses or redirects.
pub(super) fn normalize_path(head: &mut RequestHead, policy: &PathPolicy) -> Result<(), Reply> {
    if *policy == PathPolicy::default() || head.path.first() != Some(&b'/') {
        return Ok(());
    }
    let rules = Rules {
        normalize: policy.normalize,
        merge_slashes: policy.merge_slashes,
        escaped_slashes: match policy.escaped_slashes {
            EscapedSlashes::Keep => path::EscapedSlashes::Keep,
            EscapedSlashes::Reject => path::EscapedSlashes::Reject,
            EscapedSlashes::UnescapeAndRedirect => path::EscapedSlashes::UnescapeAndRedirect,
            EscapedSlashes::UnescapeAndForward => path::EscapedSlashes::UnescapeAndForward,
        },
    };
    match rules.apply(&head.path) {
        Ok(Outcome::Unchanged) => Ok(()),
        Ok(Outcome::Changed(path)) => {
            head.path = path;
            Ok(())
        }
        Ok(Outcome::Redirect(path)) => Err(Reply {
            location: HeaderValue::from_bytes(path).ok(),
            ..Reply::new(
                StatusCode::TEMPORARY_REDIRECT,
                Flags::none(),
                "path_normalization_redirect",
            )
        }),
        Err(error) => Err(refused_path(error)),
    }
}

fn refused_path(error: BadPath) -> Reply {
    Reply::new(
        StatusCode::BAD_REQUEST,
        Flags::DOWNSTREAM_PROTOCOL_ERROR,
        "path_normalization_failed",
    )
    .with_body(error.to_string())
}

/// Edits a request as it comes in, before it is routed.
pub(super) fn on_request(
    head: &mut RequestHead,
    connection: &ConnectionRecord,
    policy: &HeaderPolicy,
    random: impl FnMut() -> u64,
) {
    strip_hop_by_hop(&mut head.headers);
    strip_port(head, connection, policy.strip_port);
    set_forwarded(head, connection, policy);
    let headers = &mut head.headers;
    if policy.use_remote_address {
        for name in EDGE_ONLY {
            headers.remove(&name);
        }
    }
    for name in INTERNAL_ONLY {
        headers.remove(&name);
    }
    let is_edge_id = policy.use_remote_address && !policy.preserve_request_id;
    if policy.generate_request_id && (is_edge_id || !headers.contains(&HeaderName::X_REQUEST_ID)) {
        headers.insert(HeaderName::X_REQUEST_ID, request_id(random));
    }
    if let Some(via) = &policy.via
        && let Ok(value) = HeaderValue::try_from(&**via)
    {
        headers.append(HeaderName::VIA, value);
    }
}

/// What a peer could use to steer the router; only requests from inside may, and no peer is
/// taken to be inside today (as in Envoy 1.39, where private addresses no longer are).
const INTERNAL_ONLY: [HeaderName; 8] = [
    // Without mutual TLS nobody's certificate is known: whatever is said here is a claim.
    HeaderName::X_FORWARDED_CLIENT_CERT,
    HeaderName::X_ENVOY_INTERNAL,
    HeaderName::X_ENVOY_RETRY_ON,
    HeaderName::X_ENVOY_RETRY_GRPC_ON,
    HeaderName::X_ENVOY_MAX_RETRIES,
    HeaderName::X_ENVOY_RETRIABLE_STATUS_CODES,
    HeaderName::X_ENVOY_RETRIABLE_HEADER_NAMES,
    HeaderName::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
];

/// What an edge removes beside.
const EDGE_ONLY: [HeaderName; 3] = [
    HeaderName::X_ENVOY_ORIGINAL_PATH,
    HeaderName::X_ENVOY_DECORATOR_OPERATION,
    HeaderName::X_ENVOY_EXTERNAL_ADDRESS,
];

fn strip_port(head: &mut RequestHead, connection: &ConnectionRecord, policy: StripPort) {
    let goes = match policy {
        StripPort::Keep => return,
        StripPort::Any => true,
        StripPort::Matching => authority::parse(&head.authority)
            .is_ok_and(|parsed| parsed.port == Some(connection.local.port())),
    };
    let host = authority::strip_port(&head.authority).len();
    if goes {
        head.authority.truncate(host);
    }
}

fn set_forwarded(head: &mut RequestHead, connection: &ConnectionRecord, policy: &HeaderPolicy) {
    let headers = &mut head.headers;
    if policy.use_remote_address && !policy.skip_xff_append {
        append_forwarded_for(headers, connection.peer.ip());
    }
    let is_from_outside = policy.use_remote_address && policy.trusted_hops == 0;
    if is_from_outside || !headers.contains(&HeaderName::X_FORWARDED_PROTO) {
        let scheme = HeaderValue::from_static(Scheme::Http.as_str());
        headers.insert(HeaderName::X_FORWARDED_PROTO, scheme);
    }
}

/// Appends an address to `x-forwarded-for`, of which one line is left.
pub(super) fn append_forwarded_for(headers: &mut HeaderMap, address: IpAddr) {
    let mut list = BytesMut::new();
    for before in headers.get_all(&HeaderName::X_FORWARDED_FOR) {
        list.extend_from_slice(before);
        list.extend_from_slice(b",");
    }
    // Writing to a buffer cannot fail.
    let _ = write!(list, "{address}");
    if let Ok(value) = HeaderValue::from_bytes(list.freeze()) {
        headers.insert(HeaderName::X_FORWARDED_FOR, value);
    }
}

/// Takes away `expect: 100-continue`, which is answered here; says whether it was there.
pub(super) fn take_expectation(headers: &mut HeaderMap) -> bool {
    let is_expected = headers
        .get(&HeaderName::EXPECT)
        .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    if is_expected {
        headers.remove(&HeaderName::EXPECT);
    }
    is_expected
}

/// Takes away what sidecars tell each other about their workloads: it ends at the workload's own.
pub(super) fn strip_peer_metadata(headers: &mut HeaderMap) {
    headers.remove(&HeaderName::X_ENVOY_PEER_METADATA);
    headers.remove(&HeaderName::X_ENVOY_PEER_METADATA_ID);
}

/// A random UUID, version 4 (RFC 9562 section 5.4).
fn request_id(mut random: impl FnMut() -> u64) -> HeaderValue {
    let high = (random() & !0xf000) | 0x4000;
    let low = (random() & !(0b11 << 62)) | (0b10 << 62);
    let mut text = BytesMut::with_capacity(36);
    // Writing to a buffer cannot fail.
    let _ = write!(
        text,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff,
    );
    HeaderValue::from_bytes(text.freeze()).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Rewrites path and authority as a route asks; the originals are kept in `x-envoy-original-*`.
pub(super) fn rewrite(head: &mut RequestHead, rewrite: &Rewrite, matched: &PathMatch) {
    if let Some(path) = &rewrite.path {
        rewrite_path(head, path, matched);
    }
    if let Some(HostRewrite::Literal(host)) = &rewrite.host {
        rewrite_host(head, host.as_bytes().clone(), rewrite.append_forwarded_host);
    }
}

fn rewrite_path(head: &mut RequestHead, rewrite: &PathRewrite, matched: &PathMatch) {
    let only = head.path_only();
    let rest = head.path.get(only.len()..).unwrap_or_default();
    let mut path = BytesMut::with_capacity(head.path.len() + 32);
    match rewrite {
        PathRewrite::Prefix(prefix) => {
            path.extend_from_slice(prefix);
            path.extend_from_slice(only.get(matched.matched_len(only)..).unwrap_or_default());
        }
        PathRewrite::Regex(regex) => path.extend_from_slice(&regex.apply(only)),
    }
    path.extend_from_slice(rest);
    // A rewrite must not make a target that cannot be sent.
    if path.first() != Some(&b'/') || path.iter().any(|b| *b <= b' ' || *b == 0x7f || *b == b'#') {
        return;
    }
    if let Ok(original) = HeaderValue::from_bytes(head.path.clone()) {
        head.headers
            .insert(HeaderName::X_ENVOY_ORIGINAL_PATH, original);
    }
    head.path = path.freeze();
}

/// Replaces the authority.
pub(super) fn rewrite_host(head: &mut RequestHead, host: Bytes, append_forwarded: bool) {
    if head.authority == host || authority::parse(&host).is_err() {
        return;
    }
    if let Ok(original) = HeaderValue::from_bytes(head.authority.clone()) {
        if append_forwarded {
            head.headers
                .append(HeaderName::X_FORWARDED_HOST, original.clone());
        }
        head.headers
            .insert(HeaderName::X_ENVOY_ORIGINAL_HOST, original);
    }
    head.authority = host;
}

/// Sets the number of this attempt, counted from one.
pub(super) fn set_attempt_count(headers: &mut HeaderMap, attempt: u32) {
    let value = HeaderValue::from_number(u64::from(attempt));
    headers.insert(HeaderName::X_ENVOY_ATTEMPT_COUNT, value);
}

/// The `server` field of a policy: made once for each connection, shared by its responses.
pub(super) fn server_of(policy: &HeaderPolicy) -> HeaderValue {
    HeaderValue::try_from(&*policy.server_name)
        .unwrap_or_else(|_| HeaderValue::from_static("envoy"))
}

/// Edits a response before it goes down. `is_local` tells the proxy's own answers.
pub(super) fn on_response(
    head: &mut ResponseHead,
    policy: &HeaderPolicy,
    server: &HeaderValue,
    date: impl FnOnce() -> HeaderValue,
) {
    strip_hop_by_hop(&mut head.headers);
    let headers = &mut head.headers;
    let has_server = headers.contains(&HeaderName::SERVER);
    let sets_server = match policy.server_header {
        ServerHeader::Overwrite => true,
        ServerHeader::AppendIfAbsent => !has_server,
        ServerHeader::PassThrough => false,
    };
    if sets_server {
        headers.insert(HeaderName::SERVER, server.clone());
    }
    if !headers.contains(&HeaderName::DATE) {
        headers.insert(HeaderName::DATE, date());
    }
}

/// Applies a route's edits. The values may name parts of the request and connection.
pub(super) fn apply(edits: &HeaderEdits, headers: &mut HeaderMap, record: &Record<'_>) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for set in &edits.set {
        apply_one(set, headers, record);
    }
}

fn apply_one(set: &HeaderSet, headers: &mut HeaderMap, record: &Record<'_>) {
    let is_there = headers.contains(&set.name);
    let replaces = match (set.action, is_there) {
        (AppendAction::AddIfAbsent, true) | (AppendAction::OverwriteIfPresent, false) => return,
        (AppendAction::AppendOrAdd, _) => false,
        _ => true,
    };
    let mut text = BytesMut::new();
    format::render(&set.value, record, &mut text);
    if text.is_empty() && !set.keep_empty {
        return;
    }
    // A value that would break the head is left out; parts of it may come from a peer.
    let Ok(value) = HeaderValue::from_bytes(text.freeze()) else {
        return;
    };
    if replaces {
        headers.insert(set.name.clone(), value);
    } else {
        headers.append(set.name.clone(), value);
    }
}

#[cfg(test)]
#[path = "headers/tests.rs"]
mod tests;
