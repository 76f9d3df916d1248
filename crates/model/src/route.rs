// SPDX-License-Identifier: Apache-2.0
//! Routes: which destination a request or connection goes to, and with what care.
//!
//! A [`RouteRule`] is one written rule (a `VirtualService`) with short names resolved, defaults
//! filled in and everything that does not concern sidecars left out.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use remora_primitives::{HostName, Percent, Port, Weight};

use crate::matching::{HttpMatch, L4Match, TlsMatch};
use crate::name::{Host, Namespace, Visibility};
use crate::origin::ObjectRef;

/// The routes of one or several hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// Where it was written.
    pub origin: ObjectRef,
    /// The namespace it was written in.
    pub namespace: Namespace,
    /// The hosts that callers address, at least one.
    pub hosts: Vec<Host>,
    /// Who is subject to it.
    pub visibility: Visibility,
    /// For requests; the first that matches applies, and if none does the answer is 404.
    pub http: Vec<HttpRoute>,
    /// For TLS passed through.
    pub tls: Vec<TlsRoute>,
    /// For other connections.
    pub tcp: Vec<TcpRoute>,
}

/// A route for requests. Source: `HTTPRoute` of `VirtualService`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    /// A name for logs; empty if it has none.
    pub name: Arc<str>,
    /// When it applies; empty: always.
    pub matches: Vec<HttpMatch>,
    /// What happens.
    pub action: HttpAction,
    /// Edits of headers, request and response.
    pub headers: HeaderEdits,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAction {
    /// Sends the request on.
    Forward(Box<Forward>),
    /// Sends the caller elsewhere.
    Redirect(Redirect),
    /// Answers by itself.
    Respond(DirectResponse),
}

/// How a request is sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where to, at least one; shares are by weight.
    pub destinations: Vec<WeightedDestination>,
    /// The whole time for a request, retries included; `None`: no limit.
    pub timeout: Option<Duration>,
    /// When a failed attempt is repeated; `None`: never.
    pub retries: Option<RetryPolicy>,
    /// Who gets a copy.
    pub mirrors: Vec<Mirror>,
    /// Changes of path and authority.
    pub rewrite: Rewrite,
}

/// A destination and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedDestination {
    /// Where to.
    pub destination: Destination,
    /// Its share among its siblings (a lone destination has weight 1).
    pub weight: Weight,
    /// Edits of headers for this destination only.
    pub headers: HeaderEdits,
}

/// A service, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The service's full name. It may not exist: then the answer is 503.
    pub host: HostName,
    /// The subset's name, as a destination policy defines it.
    pub subset: Option<Arc<str>>,
    /// The service's port; `None`: its only port, or else the port that the caller addressed.
    pub port: Option<Port>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match &self.subset {
            Some(subset) => write!(f, " subset {subset}"),
            None => Ok(()),
        }
    }
}

/// A copy of requests, whose answer is thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Who gets it.
    pub destination: Destination,
    /// How many of the requests are copied.
    pub share: Percent,
}

/// When a failed attempt is repeated. Source: `HTTPRetry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often it is repeated at most.
    pub attempts: NonZeroU32,
    /// The time for one attempt; `None`: only the whole time counts.
    pub per_try_timeout: Option<Duration>,
    /// What counts as failed.
    pub on: Vec<RetryOn>,
    /// Answers that count as failed besides ([`RetryOn::RetriableStatusCodes`] is then in `on`).
    pub status_codes: Vec<u16>,
    /// Whether hosts of other localities may be tried at once.
    pub remote_localities: bool,
    /// Whether hosts that failed already may not be tried again.
    pub ignore_previous_hosts: bool,
    /// The base of the exponential back-off; `None`: the proxy's own (25 ms).
    pub backoff: Option<Duration>,
}

impl RetryPolicy {
    /// How often a request is repeated where nobody says: Istio's default.
    pub const DEFAULT_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
    /// What counts as failed where nobody says: Istio's default.
    pub const DEFAULT_ON: [RetryOn; 5] = [
        RetryOn::ConnectFailure,
        RetryOn::RefusedStream,
        RetryOn::Unavailable,
        RetryOn::Cancelled,
        RetryOn::RetriableStatusCodes,
    ];
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: Self::DEFAULT_ATTEMPTS,
            per_try_timeout: None,
            on: Self::DEFAULT_ON.to_vec(),
            status_codes: Vec::new(),
            remote_localities: false,
            ignore_previous_hosts: true,
            backoff: None,
        }
    }
}

/// The words of `retryOn`. Source: `envoy.config.route.v3.RetryPolicy.retry_on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the words are the API's, listed in `ALL`")]
pub enum RetryOn {
    FiveXx,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    EnvoyRatelimited,
    Retriable4xx,
    RefusedStream,
    RetriableStatusCodes,
    RetriableHeaders,
    Http3PostConnectFailure,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

impl RetryOn {
    /// Every word with its spelling.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::FiveXx, "5xx"),
        (Self::GatewayError, "gateway-error"),
        (Self::Reset, "reset"),
        (Self::ResetBeforeRequest, "reset-before-request"),
        (Self::ConnectFailure, "connect-failure"),
        (Self::EnvoyRatelimited, "envoy-ratelimited"),
        (Self::Retriable4xx, "retriable-4xx"),
        (Self::RefusedStream, "refused-stream"),
        (Self::RetriableStatusCodes, "retriable-status-codes"),
        (Self::RetriableHeaders, "retriable-headers"),
        (Self::Http3PostConnectFailure, "http3-post-connect-failure"),
        (Self::Cancelled, "cancelled"),
        (Self::DeadlineExceeded, "deadline-exceeded"),
        (Self::Internal, "internal"),
        (Self::ResourceExhausted, "resource-exhausted"),
        (Self::Unavailable, "unavailable"),
    ];

    /// The word with this spelling.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, spelling)| *spelling == word)
            .map(|(on, _)| *on)
    }

    /// Its spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(on, _)| *on == self)
            .map_or("", |(_, spelling)| spelling)
    }
}

/// Edits of headers. Source: `Headers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// On the request, before it is sent on.
    pub request: HeaderEdit,
    /// On the response, before it goes back.
    pub response: HeaderEdit,
}

impl HeaderEdits {
    /// Whether nothing is edited.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

/// Edits of one head. Names are lower-case, sorted; `set` and `add` values may hold `%COMMAND%`s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Replaced or made.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Added beside what is there.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Taken away.
    pub remove: Vec<Arc<str>>,
}

impl HeaderEdit {
    /// Whether nothing is edited.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// Changes of path and authority. Source: `HTTPRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// How the path changes.
    pub path: Option<PathRewrite>,
    /// The new authority.
    pub authority: Option<Arc<str>>,
}

/// How a path changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// The matched prefix, or the whole matched path, is replaced (`rewrite.uri`).
    Matched(Arc<str>),
    /// What the expression matches is replaced; `\1` stands for a group (`uriRegexRewrite`).
    Regex {
        /// The expression, known to compile.
        pattern: Arc<str>,
        /// What it becomes.
        substitution: Arc<str>,
    },
}

/// An answer that sends the caller elsewhere. Source: `HTTPRedirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
    /// The new scheme.
    pub scheme: Option<Arc<str>>,
    /// The new authority.
    pub authority: Option<Arc<str>>,
    /// The new port.
    pub port: Option<RedirectPort>,
    /// The new path; a prefix as written (`uri` with `%PREFIX()%`) stays as it is.
    pub path: Option<Arc<str>>,
    /// What replaces the matched prefix (`prefixRewrite`); never beside `path`.
    pub prefix: Option<Arc<str>>,
}

/// The port of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// This one.
    Number(Port),
    /// 80 or 443, by the scheme.
    FromProtocolDefault,
    /// The one the request came to.
    FromRequest,
}

/// An answer made on the spot. Source: `HTTPDirectResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// Its body; empty if it has none. Limit: 1 MiB, as in Istio.
    pub body: Arc<[u8]>,
}

/// A route for TLS that is passed through. Source: `TLSRoute` of `VirtualService`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRoute {
    /// When it applies, at least one.
    pub matches: Vec<TlsMatch>,
    /// Where to, at least one; header edits are empty.
    pub destinations: Vec<WeightedDestination>,
}

/// A route for connections. Source: `TCPRoute` of `VirtualService`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    /// When it applies; empty: always.
    pub matches: Vec<L4Match>,
    /// Where to, at least one; header edits are empty.
    pub destinations: Vec<WeightedDestination>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_retry_word_is_read_as_it_is_written() {
        for (on, word) in RetryOn::ALL {
            assert_eq!((RetryOn::from_word(word), on.as_str()), (Some(on), word));
        }
        assert_eq!(RetryOn::from_word("503"), None);
    }

    #[test]
    fn default_retries_are_istios() {
        let policy = RetryPolicy::default();
        let words: Vec<_> = policy.on.iter().map(|on| on.as_str()).collect();
        let expected =
            "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
        assert_eq!(
            (policy.attempts.get(), words.join(",")),
            (2, expected.into())
        );
    }
}
