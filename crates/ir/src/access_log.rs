// SPDX-License-Identifier: Apache-2.0
//! Compiled format strings and access logs.
//!
//! Format strings are those of Envoy's access log; header values use the same ones. A string is
//! read once; what a command operator is worth at run time is the proxy's to say.

use std::sync::Arc;

use remora_http::HeaderName;

/// A compiled format string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format(pub Vec<Segment>);

/// A part of a format string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text as it is.
    Text(Arc<str>),
    /// A command operator, cut to `max` bytes if given (`%REQ(X):9%`).
    Operator {
        /// What is printed.
        operator: Operator,
        /// The longest value that is printed. Unit: bytes.
        max: Option<usize>,
    },
}

/// A request field, with what stands in if it is absent: `REQ(X?Y)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRef {
    /// The field wanted.
    pub first: FieldName,
    /// The field otherwise.
    pub otherwise: Option<FieldName>,
}

/// A field or pseudo-field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldName {
    /// A header field.
    Field(HeaderName),
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:authority`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:status`, of responses.
    Status,
}

/// Envoy's command operators, as documented under "access logging".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// START_TIME, as `%Y-%m-%dT%H:%M:%S.%3fZ`.
    StartTime,
    /// REQ.
    Request(FieldRef),
    /// RESP.
    Response(FieldRef),
    /// TRAILER.
    Trailer(FieldRef),
    /// PROTOCOL.
    Protocol,
    /// RESPONSE_CODE.
    ResponseCode,
    /// RESPONSE_CODE_DETAILS.
    ResponseCodeDetails,
    /// CONNECTION_TERMINATION_DETAILS.
    ConnectionTerminationDetails,
    /// RESPONSE_FLAGS.
    ResponseFlags,
    /// BYTES_RECEIVED.
    BytesReceived,
    /// BYTES_SENT.
    BytesSent,
    /// DURATION, ms.
    Duration,
    /// REQUEST_DURATION, ms.
    RequestDuration,
    /// RESPONSE_DURATION, ms.
    ResponseDuration,
    /// RESPONSE_TX_DURATION, ms.
    ResponseTxDuration,
    /// UPSTREAM_HOST.
    UpstreamHost,
    /// UPSTREAM_CLUSTER and UPSTREAM_CLUSTER_RAW.
    UpstreamCluster,
    /// UPSTREAM_LOCAL_ADDRESS.
    UpstreamLocalAddress,
    /// UPSTREAM_TRANSPORT_FAILURE_REASON.
    UpstreamTransportFailureReason,
    /// UPSTREAM_REQUEST_ATTEMPT_COUNT.
    UpstreamRequestAttemptCount,
    /// DOWNSTREAM_LOCAL_ADDRESS.
    DownstreamLocalAddress {
        /// `_WITHOUT_PORT`.
        without_port: bool,
    },
    /// DOWNSTREAM_LOCAL_PORT.
    DownstreamLocalPort,
    /// DOWNSTREAM_REMOTE_ADDRESS.
    DownstreamRemoteAddress {
        /// `_WITHOUT_PORT`.
        without_port: bool,
    },
    /// DOWNSTREAM_DIRECT_REMOTE_ADDRESS.
    DownstreamDirectRemoteAddress {
        /// `_WITHOUT_PORT`.
        without_port: bool,
    },
    /// REQUESTED_SERVER_NAME.
    RequestedServerName,
    /// ROUTE_NAME.
    RouteName,
    /// VIRTUAL_CLUSTER_NAME and others that are always `-` here.
    Absent,
    /// HOSTNAME.
    Hostname,
}

/// Where and how requests or connections are logged.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// `/dev/stdout`, `/dev/stderr` or a file.
    pub path: Arc<str>,
    /// What is written for each.
    pub shape: Shape,
}

/// A line of text or an object.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A line; the format brings its own line end.
    Text(Format),
    /// A JSON object of keys and formatted values, on one line.
    Json(Vec<(Arc<str>, Format)>),
}
