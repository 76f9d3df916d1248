// SPDX-License-Identifier: Apache-2.0
//! Why an attempt failed on the upstream's side, and what may be done about it.
//!
//! Everything under `upstream` fails with an [`UpstreamError`]. It decides nothing: retries read
//! [`UpstreamError::retry_class`] and the facts (what was sent, what was received), logs read the
//! flag and the details, and `http/reply.rs` alone makes a status of it. Words are Envoy's, so
//! that dashboards and alerts carry over.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use remora_balance::{LocalOriginFailure, Outcome, Overflow};
use remora_http::h1::{Refusal, Unwritable};

use crate::http::flags::Flags;

/// A failed attempt.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}")]
pub struct UpstreamError {
    /// What happened.
    pub kind: Failure,
    /// How much of the request had left.
    pub sent: Sent,
    /// Whether any byte of the response had come.
    pub received: bool,
    /// Whether it happened on a connection that had served before.
    pub reused: bool,
}

/// How much of a request was handed to the kernel, or to the HTTP/2 connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    /// Not one byte.
    #[default]
    Nothing,
    /// All or some of the head.
    Head,
    /// Some of the body, too.
    Body,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no host that may be picked.
    #[error("no healthy upstream")]
    NoHealthyHost,
    /// The control plane asked to drop a share of the requests.
    #[error("dropped by load report policy")]
    Dropped,
    /// The cluster goes to original destinations, and this request has none.
    #[error("the connection has no original destination")]
    NoOriginalDestination,
    /// The original destination is a listener of this very proxy.
    #[error("destination {0} is this proxy itself")]
    Loop(SocketAddr),
    /// A circuit limit was met.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// The connection could not be established.
    #[error("connect: {0}")]
    Connect(Fault),
    /// The connection was not established in time.
    #[error("connect: no answer within the connect timeout")]
    ConnectTimeout,
    /// The attempt's deadline came while it waited for a connection.
    #[error("no connection before the deadline")]
    Deadline,
    /// The connection ended or broke.
    #[error("connection closed by upstream{}", suffix(.0.as_ref()))]
    Terminated(Option<Fault>),
    /// The response breaks the protocol.
    #[error("response: {0}")]
    Response(Refusal),
    /// The connection breaks HTTP/2.
    #[error("HTTP/2: {0}")]
    Http2(Box<str>),
    /// The request cannot be written in the upstream's protocol.
    #[error("request: {0}")]
    Request(#[from] BadRequest),
    /// The stream was reset by the upstream. The number is HTTP/2's error code.
    #[error("stream reset by upstream: code {0}")]
    Reset(u32),
    /// The upstream refused the stream before it did anything with it.
    #[error("stream refused by upstream")]
    RefusedStream,
}

/// A failed system call: its kind to decide by, its text to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub kind: io::ErrorKind,
    text: Box<str>,
}

/// A request that a protocol has no words for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// HTTP/1 has none.
    #[error(transparent)]
    Http1(#[from] Unwritable),
    /// A part of the head is not allowed in HTTP/2.
    #[error("{0} cannot be written in HTTP/2")]
    Http2(&'static str),
    /// HTTP/2 has no `Upgrade`.
    #[error("upgrades are not available over HTTP/2")]
    Upgrade,
    /// More or less body than announced.
    #[error("body does not match the announced length")]
    Length,
}

/// What retry policies ask of a failure. Source: Envoy's `retry_on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// `connect-failure`: nothing was sent, the host was not reached.
    ConnectFailure,
    /// `reset-before-request` (and `reset`): the connection went before a byte was sent.
    ResetBeforeRequest,
    /// `reset`: it went afterwards.
    Reset,
    /// `refused-stream`: the upstream has done nothing.
    RefusedStream,
    /// A circuit limit; Envoy counts it among `5xx` and `gateway-error`.
    Overflow,
    /// No host; another attempt may find one.
    NoHealthyUpstream,
    /// No answer in time.
    Timeout,
    /// The response made no sense.
    Protocol,
    /// No attempt could do better.
    Never,
}

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The upstream's, or the road to it.
    Upstream,
    /// This proxy's: limits, configuration.
    Local,
    /// The downstream's: a request that cannot be forwarded.
    Downstream,
}

impl UpstreamError {
    /// A failure before anything was sent.
    #[must_use]
    pub const fn unsent(kind: Failure) -> Self {
        Self {
            kind,
            sent: Sent::Nothing,
            received: false,
            reused: false,
        }
    }

    /// Whose doing it is.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        match &self.kind {
            Failure::NoHealthyHost
            | Failure::Dropped
            | Failure::NoOriginalDestination
            | Failure::Loop(_)
            | Failure::Overflow(_)
            | Failure::Deadline => Origin::Local,
            Failure::Request(_) => Origin::Downstream,
            _ => Origin::Upstream,
        }
    }

    /// The response flag.
    #[must_use]
    pub const fn flag(&self) -> Flags {
        match &self.kind {
            Failure::NoHealthyHost | Failure::Dropped | Failure::NoOriginalDestination => {
                Flags::NO_HEALTHY_UPSTREAM
            }
            Failure::Loop(_) | Failure::Connect(_) | Failure::ConnectTimeout => {
                Flags::UPSTREAM_CONNECTION_FAILURE
            }
            Failure::Overflow(_) => Flags::UPSTREAM_OVERFLOW,
            Failure::Deadline => Flags::UPSTREAM_TIMEOUT,
            Failure::Terminated(_) => Flags::UPSTREAM_CONNECTION_TERMINATION,
            Failure::Response(_) | Failure::Http2(_) => Flags::UPSTREAM_PROTOCOL_ERROR,
            Failure::Request(_) => Flags::LOCAL_RESET,
            Failure::Reset(_) | Failure::RefusedStream => Flags::UPSTREAM_REMOTE_RESET,
        }
    }

    /// What retry policies call it.
    #[must_use]
    pub const fn retry_class(&self) -> RetryClass {
        match &self.kind {
            Failure::NoHealthyHost => RetryClass::NoHealthyUpstream,
            Failure::Overflow(_) => RetryClass::Overflow,
            Failure::Connect(_) | Failure::ConnectTimeout => RetryClass::ConnectFailure,
            Failure::Deadline => RetryClass::Timeout,
            Failure::Terminated(_) if matches!(self.sent, Sent::Nothing) => {
                RetryClass::ResetBeforeRequest
            }
            Failure::Terminated(_) | Failure::Reset(_) => RetryClass::Reset,
            Failure::RefusedStream => RetryClass::RefusedStream,
            Failure::Response(_) | Failure::Http2(_) => RetryClass::Protocol,
            Failure::Dropped
            | Failure::NoOriginalDestination
            | Failure::Loop(_)
            | Failure::Request(_) => RetryClass::Never,
        }
    }

    /// Whether the upstream closed a kept connection while the request was on its way: it has
    /// answered nothing, and very likely read nothing. Repeating is safe if nothing was sent or
    /// the method is idempotent (RFC 9110 section 9.2.2); that is the caller's to judge.
    #[must_use]
    pub const fn is_keep_alive_race(&self) -> bool {
        self.reused && !self.received && matches!(self.kind, Failure::Terminated(_))
    }

    /// How outlier detection counts it; `None` if the host is not to blame.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        let failure = match &self.kind {
            Failure::Connect(_) => LocalOriginFailure::ConnectFailed,
            Failure::ConnectTimeout => LocalOriginFailure::Timeout,
            Failure::Terminated(_) | Failure::Reset(_) | Failure::RefusedStream => {
                LocalOriginFailure::Reset
            }
            Failure::Response(_) | Failure::Http2(_) => return Some(Outcome::Status(502)),
            _ => return None,
        };
        Some(Outcome::LocalOriginFailure(failure))
    }

    /// `%RESPONSE_CODE_DETAILS%`; no blanks in it, as in Envoy.
    #[must_use]
    pub fn details(&self, response_started: bool) -> Cow<'static, str> {
        let fixed = match &self.kind {
            Failure::NoHealthyHost | Failure::NoOriginalDestination => "no_healthy_upstream",
            Failure::Dropped => "drop_overload",
            Failure::Deadline => "response_timeout",
            Failure::Overflow(_) => "overflow",
            _ => {
                let stage = if response_started { "after" } else { "before" };
                let mut text = format!(
                    "upstream_reset_{stage}_response_started{{{}",
                    self.reset_reason()
                );
                if let Some(reason) = self.transport_failure() {
                    text.push('|');
                    text.push_str(&reason);
                }
                text.push('}');
                return text.replace(' ', "_").into();
            }
        };
        Cow::Borrowed(fixed)
    }

    /// The body of the reply that stands for this failure.
    #[must_use]
    pub fn body_text(&self) -> Cow<'static, str> {
        match &self.kind {
            Failure::NoHealthyHost | Failure::NoOriginalDestination => {
                Cow::Borrowed("no healthy upstream")
            }
            Failure::Dropped => Cow::Borrowed("drop overload"),
            Failure::Deadline => Cow::Borrowed("upstream request timeout"),
            _ => {
                let mut text = format!(
                    "upstream connect error or disconnect/reset before headers. reset reason: {}",
                    self.reset_reason()
                );
                if let Some(reason) = self.transport_failure() {
                    text.push_str(", transport failure reason: ");
                    text.push_str(&reason);
                }
                text.into()
            }
        }
    }

    /// Envoy's name of the reset.
    #[must_use]
    pub const fn reset_reason(&self) -> &'static str {
        match &self.kind {
            Failure::Overflow(_) => "overflow",
            Failure::Connect(_) => "remote connection failure",
            Failure::ConnectTimeout => "connection timeout",
            Failure::Terminated(_) => "connection termination",
            Failure::Response(_) | Failure::Http2(_) => "protocol error",
            Failure::Reset(_) => "remote reset",
            Failure::RefusedStream => "remote refused stream reset",
            _ => "local reset",
        }
    }

    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    #[must_use]
    pub fn transport_failure(&self) -> Option<Cow<'static, str>> {
        match &self.kind {
            Failure::Connect(fault) => Some(format!("delayed connect error: {fault}").into()),
            Failure::Loop(_) => Some(Cow::Borrowed("destination is this proxy itself")),
            _ => None,
        }
    }
}

impl From<Failure> for UpstreamError {
    fn from(kind: Failure) -> Self {
        Self::unsent(kind)
    }
}

impl Fault {
    /// Keeps what matters of an error.
    #[must_use]
    pub fn new(error: &io::Error) -> Self {
        let text = error.to_string();
        // The number says nothing that the words do not.
        let words = text.split(" (os error").next().unwrap_or_default();
        Self {
            kind: error.kind(),
            text: words.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn suffix(fault: Option<&Fault>) -> String {
    fault.map_or_else(String::new, |fault| format!(": {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_envoys() {
        let refused = Fault::new(&io::Error::from_raw_os_error(111));
        let error = UpstreamError::unsent(Failure::Connect(refused));
        assert_eq!(
            error.body_text(),
            "upstream connect error or disconnect/reset before headers. reset reason: remote \
             connection failure, transport failure reason: delayed connect error: Connection \
             refused"
        );
        assert_eq!(
            error.details(false),
            "upstream_reset_before_response_started{remote_connection_failure|\
             delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(error.flag().to_string(), "UF");
        let closed = UpstreamError::unsent(Failure::Terminated(None));
        assert_eq!(
            closed.details(true),
            "upstream_reset_after_response_started{connection_termination}"
        );
        let nobody = UpstreamError::unsent(Failure::NoHealthyHost);
        assert_eq!(nobody.body_text(), "no healthy upstream");
        assert_eq!(nobody.details(false), "no_healthy_upstream");
    }

    #[test]
    fn a_reset_is_before_the_request_only_if_nothing_was_sent() {
        let mut error = UpstreamError::unsent(Failure::Terminated(None));
        assert_eq!(error.retry_class(), RetryClass::ResetBeforeRequest);
        error.sent = Sent::Head;
        assert_eq!(error.retry_class(), RetryClass::Reset);
    }

    #[test]
    fn a_race_needs_a_used_connection_and_a_silent_upstream() {
        let mut error = UpstreamError::unsent(Failure::Terminated(None));
        assert!(!error.is_keep_alive_race());
        error.reused = true;
        assert!(error.is_keep_alive_race());
        error.received = true;
        assert!(!error.is_keep_alive_race());
    }
}
