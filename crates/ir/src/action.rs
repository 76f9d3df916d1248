// SPDX-License-Identifier: Apache-2.0
//! What a route does with a request: forward it, redirect it, or answer it.
//!
//! Source: `envoy.config.route.v3.{RouteAction, RedirectAction, DirectResponseAction}`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use remora_http::{HeaderValue, StatusCode};
use remora_primitives::{Fraction, Weight};

use crate::cluster::Priority;
use crate::header_edit::MessageEdits;
use crate::matcher::{HeaderMatch, RegexRewrite};
use crate::name::ClusterSlot;

/// What a route does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send it to a cluster.
    Forward(Box<Forward>),
    /// Tell the peer to go elsewhere.
    Redirect(Redirect),
    /// Answer it here.
    Direct(DirectResponse),
}

/// Forwarding to a cluster. Source: `RouteAction`.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Which cluster.
    pub target: Target,
    /// The answer if the cluster does not exist. Default 503.
    pub cluster_not_found: StatusCode,
    /// How the request is rewritten.
    pub rewrite: Rewrite,
    /// Deadlines.
    pub timeouts: RouteTimeouts,
    /// What is tried again; the virtual host's policy stands in for a route without one.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Copies sent elsewhere.
    pub mirrors: Vec<Mirror>,
    /// Which circuit limits count.
    pub priority: Priority,
    /// Upgrades that this route allows or forbids beyond the connection manager's.
    pub upgrades: Vec<Upgrade>,
}

/// Which cluster a request goes to.
#[derive(Clone, Debug)]
pub enum Target {
    /// This one.
    Cluster(Arc<ClusterSlot>),
    /// One of several, by weight.
    Weighted(WeightedClusters),
}

/// Clusters that share a route's requests. Source: `WeightedCluster`.
#[derive(Clone, Debug)]
pub struct WeightedClusters {
    clusters: Vec<WeightedCluster>,
    total: u64,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct WeightedCluster {
    /// The cluster.
    pub slot: Arc<ClusterSlot>,
    /// Its share of the sum of weights.
    pub weight: Weight,
    /// Edits for requests that go there.
    pub edits: MessageEdits,
    /// Replaces the authority.
    pub host_rewrite: Option<HeaderValue>,
}

impl WeightedClusters {
    /// Makes the choice; clusters of weight zero are left out by the caller.
    /// `None` if there is no cluster.
    #[must_use]
    pub fn new(clusters: Vec<WeightedCluster>) -> Option<Self> {
        let total = clusters.iter().map(|c| u64::from(c.weight.get())).sum();
        (total > 0).then_some(Self { clusters, total })
    }

    /// The cluster that a uniformly random number selects.
    #[must_use]
    pub fn pick(&self, random: u64) -> Option<&WeightedCluster> {
        let mut point = random % self.total;
        self.clusters.iter().find(|cluster| {
            let weight = u64::from(cluster.weight.get());
            let here = point < weight;
            point = point.wrapping_sub(weight);
            here
        })
    }

    /// The first cluster; there always is one.
    #[must_use]
    pub fn first(&self) -> &WeightedCluster {
        &self.clusters[0]
    }

    /// All clusters.
    #[must_use]
    pub fn clusters(&self) -> &[WeightedCluster] {
        &self.clusters
    }
}

/// How a request is rewritten on its way up.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// Of the path; the query stays.
    pub path: Option<PathRewrite>,
    /// Of the authority.
    pub host: Option<HostRewrite>,
    /// Whether the original authority is appended to `x-forwarded-host`.
    pub append_forwarded_host: bool,
}

/// How the path is rewritten.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// The matched prefix (or the whole of an exact path) is replaced.
    Prefix(Bytes),
    /// Every match of a pattern is replaced.
    Regex(RegexRewrite),
}

/// How the authority is rewritten.
#[derive(Clone, Debug)]
pub enum HostRewrite {
    /// To this.
    Literal(HeaderValue),
    /// To the name of the chosen endpoint (`auto_host_rewrite`); unchanged if it has none.
    EndpointName,
}

/// Deadlines of a forwarded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// From the complete request to the complete response, retries included. `None`: no bound.
    /// Default 15 s.
    pub overall: Option<Duration>,
    /// Silence on the stream, in place of the connection manager's. `Some(None)`: no bound.
    pub idle: Option<Option<Duration>>,
    /// Longest `grpc-timeout` that is honoured; `Some(None)`: any. `None`: the header is not read.
    /// Source: `max_stream_duration.grpc_timeout_header_max`.
    pub grpc_max: Option<Option<Duration>>,
    /// Taken off the peer's `grpc-timeout`. Source: `grpc_timeout_header_offset`.
    pub grpc_offset: Option<Duration>,
    /// From the stream's start to its end. `None`: no bound.
    pub max_stream: Option<Duration>,
}

impl RouteTimeouts {
    /// Envoy's defaults.
    pub const DEFAULT: Self = Self {
        overall: Some(Duration::from_secs(15)),
        idle: None,
        grpc_max: None,
        grpc_offset: None,
        max_stream: None,
    };
}

/// A copy of the request to another cluster, whose answer is dropped.
/// Source: `RequestMirrorPolicy`.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where it goes.
    pub slot: Arc<ClusterSlot>,
    /// Which share of requests is copied.
    pub share: Fraction,
}

/// An upgrade that is allowed or not. Source: `UpgradeConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `websocket`, `connect`, …; lower case.
    pub protocol: Arc<str>,
    /// Whether it is allowed.
    pub enabled: bool,
}

/// What is tried again. Source: `envoy.config.route.v3.RetryPolicy`.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// The conditions.
    pub on: RetryOn,
    /// Status codes for [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<StatusCode>,
    /// Fields of the response that make it retriable, for [`RetryOn::RETRIABLE_HEADERS`].
    pub response_headers: Vec<HeaderMatch>,
    /// Retries beside the first attempt. Default 1.
    pub retries: u32,
    /// Deadline of each attempt. `None`: only the overall one.
    pub per_try: Option<Duration>,
    /// Wait before a retry.
    pub backoff: RetryBackoff,
    /// Whether a host that was tried is avoided (`previous_hosts`).
    pub avoid_tried_hosts: bool,
    /// How often another host is looked for. Default 1.
    pub host_selection_attempts: u32,
}

/// Full jitter: a random wait below `min(base * (2^n - 1), max)`. Source: `RetryBackOff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBackoff {
    /// Default 25 ms.
    pub base: Duration,
    /// Default ten times the base.
    pub max: Duration,
}

impl RetryBackoff {
    /// Envoy's defaults.
    pub const DEFAULT: Self = Self {
        base: Duration::from_millis(25),
        max: Duration::from_millis(250),
    };
}

/// A set of conditions. Source: `retry_on`, the words of `x-envoy-retry-on` and
/// `x-envoy-retry-grpc-on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

impl RetryOn {
    /// `5xx`: any 5xx, and no answer at all (reset, connect failure, refused stream).
    pub const SERVER_ERROR: Self = Self(1);
    /// `gateway-error`: 502, 503, 504.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// `reset`: the upstream did not answer.
    pub const RESET: Self = Self(1 << 2);
    /// `reset-before-request`: likewise, before the request's head was sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// `connect-failure`.
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// `refused-stream`.
    pub const REFUSED_STREAM: Self = Self(1 << 5);
    /// `retriable-4xx`: 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 6);
    /// `retriable-status-codes`.
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 7);
    /// `retriable-headers`.
    pub const RETRIABLE_HEADERS: Self = Self(1 << 8);
    /// `envoy-ratelimited`.
    pub const ENVOY_RATELIMITED: Self = Self(1 << 9);
    /// gRPC `cancelled` (1).
    pub const GRPC_CANCELLED: Self = Self(1 << 10);
    /// gRPC `deadline-exceeded` (4).
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 11);
    /// gRPC `resource-exhausted` (8).
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 12);
    /// gRPC `internal` (13).
    pub const GRPC_INTERNAL: Self = Self(1 << 13);
    /// gRPC `unavailable` (14).
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 14);

    const WORDS: [(&'static str, Self); 15] = [
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("retriable-status-codes", Self::RETRIABLE_STATUS_CODES),
        ("retriable-headers", Self::RETRIABLE_HEADERS),
        ("envoy-ratelimited", Self::ENVOY_RATELIMITED),
        ("cancelled", Self::GRPC_CANCELLED),
        ("deadline-exceeded", Self::GRPC_DEADLINE_EXCEEDED),
        ("resource-exhausted", Self::GRPC_RESOURCE_EXHAUSTED),
        ("internal", Self::GRPC_INTERNAL),
        ("unavailable", Self::GRPC_UNAVAILABLE),
    ];

    /// The condition of a word, if it is one.
    #[must_use]
    pub fn word(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, on)| *on)
    }

    /// Both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any condition of `other` is in the set.
    #[must_use]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is retried.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Source: `RedirectAction`.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default 301.
    pub status: StatusCode,
    /// `https_redirect` or `scheme_redirect`.
    pub scheme: Option<Arc<str>>,
    /// Host of the new place.
    pub host: Option<Arc<str>>,
    /// Port of the new place.
    pub port: Option<u16>,
    /// Path of the new place.
    pub path: Option<RedirectPath>,
    /// Whether the query is dropped.
    pub strip_query: bool,
}

/// How the path of a redirect is made.
#[derive(Clone, Debug)]
pub enum RedirectPath {
    /// This one; its own query replaces the request's.
    Whole(Bytes),
    /// The matched prefix is replaced.
    Prefix(Bytes),
    /// Every match is replaced.
    Regex(RegexRewrite),
}

/// Source: `DirectResponseAction`.
#[derive(Clone, Debug)]
pub struct DirectResponse {
    /// The status.
    pub status: StatusCode,
    /// The body; may be empty.
    pub body: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::SlotTable;

    #[test]
    fn weights_share_exactly_over_all_random_numbers() {
        let table = SlotTable::default();
        let cluster = |name: &str, weight| WeightedCluster {
            slot: table.slot(name),
            weight: Weight::try_new(weight).expect("weight"),
            edits: MessageEdits::default(),
            host_rewrite: None,
        };
        let choice = WeightedClusters::new(vec![cluster("a", 90), cluster("b", 10)]).expect("some");
        let of_a = (0..1000)
            .filter_map(|n| choice.pick(n))
            .filter(|c| c.slot.name().as_str() == "a")
            .count();
        assert_eq!(of_a, 900);
        assert!(WeightedClusters::new(Vec::new()).is_none());
    }

    #[test]
    fn retry_words_are_envoys() {
        assert_eq!(RetryOn::word("5xx"), Some(RetryOn::SERVER_ERROR));
        assert_eq!(RetryOn::word("5XX"), None);
        let all = RetryOn::WORDS
            .iter()
            .fold(RetryOn::default(), |all, (_, on)| all.union(*on));
        assert_eq!(all.0.count_ones(), 15, "no two words share a bit");
    }
}
