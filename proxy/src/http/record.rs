// SPDX-License-Identifier: Apache-2.0
//! What is known of a request or connection when it ends: the input of logs and header formats.
//!
//! The exchange fills it as it goes and lends it to the formats; nothing is copied for a log that
//! is off. Header values are formatted from the same record while the request is under way, when
//! parts of it are not known yet and print as `-`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remora_balance::HostRecord;
use remora_http::{HeaderMap, RequestHead, ResponseHead, Version};
use remora_ir::ClusterName;

use super::flags::Flags;

/// Facts about the downstream connection; made once for each connection.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    /// The peer of the socket.
    pub peer: SocketAddr,
    /// Where the peer wanted to go: the original destination, or the socket's own address.
    pub local: SocketAddr,
    /// Server name of TLS, if one was sent.
    pub server_name: Option<Arc<str>>,
}

/// Everything known of one request, or of one TCP session.
#[derive(Debug)]
pub struct Record<'a> {
    /// The connection it came by.
    pub connection: &'a ConnectionRecord,
    /// When it began, for people.
    pub start: SystemTime,
    /// The request as it is sent up, after all edits; absent for TCP.
    pub request: Option<&'a RequestHead>,
    /// The version that the downstream spoke.
    pub version: Option<Version>,
    /// The response, if there was one.
    pub response: Option<&'a ResponseHead>,
    /// Its trailers.
    pub trailers: Option<&'a HeaderMap>,
    /// Counts, times, upstream and verdict.
    pub summary: &'a Summary,
}

/// The parts of a record that are owned: filled while the exchange runs.
#[derive(Debug, Default)]
pub struct Summary {
    /// Status sent down; `None` if nothing was sent.
    pub status: Option<u16>,
    /// Why it ended so.
    pub flags: Flags,
    /// `%RESPONSE_CODE_DETAILS%`, such as `via_upstream`.
    pub details: Option<Cow<'static, str>>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination: Option<Cow<'static, str>>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: Option<Cow<'static, str>>,
    /// Body bytes from the downstream.
    pub bytes_received: u64,
    /// Body bytes to the downstream.
    pub bytes_sent: u64,
    /// From its start to its end.
    pub duration: Option<Duration>,
    /// From its start to the last byte of the request.
    pub request_duration: Option<Duration>,
    /// From its start to the first byte of the response.
    pub response_duration: Option<Duration>,
    /// The host that answered, or was tried last.
    pub upstream_host: Option<Arc<HostRecord>>,
    /// Our address on that connection.
    pub upstream_local: Option<SocketAddr>,
    /// The cluster chosen.
    pub cluster: Option<ClusterName>,
    /// The route's name.
    pub route: Option<Arc<str>>,
    /// Attempts made.
    pub attempts: u32,
}
