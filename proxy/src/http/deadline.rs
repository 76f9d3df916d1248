// SPDX-License-Identifier: Apache-2.0
//! The deadlines of one exchange, and which of them comes first.
//!
//! As in Envoy, a route's timeout starts when the request is complete; until then only silence
//! is bounded. A deadline is a point in time that is computed from values; the waiting is
//! [`super::timer`]'s.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use remora_http::{HeaderName, RequestHead};
use remora_ir::action::RouteTimeouts;
use remora_ir::listener::HttpTimeouts;
use remora_primitives::Instant;

use super::timer::Timer;
use crate::network::relay::RelayLimits;

/// Which bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// The whole request with its retries.
    Overall,
    /// One attempt.
    PerTry,
    /// Silence.
    Idle,
    /// The request's own end (`request_timeout`).
    Request,
    /// The stream's age.
    MaxStream,
}

/// The deadlines of an exchange.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    overall: Option<Duration>,
    per_try: Option<Duration>,
    idle: Option<Duration>,
    max_stream: Instant,
    request_at: Instant,
    overall_at: Instant,
    per_try_at: Instant,
    last_activity: Instant,
    attempt_began: Instant,
    is_request_complete: bool,
}

impl Deadlines {
    /// Those of a request that has not been routed: silence, and the time to its end.
    pub fn unrouted(timeouts: &HttpTimeouts, now: Instant) -> Self {
        Self {
            request_at: after(now, timeouts.request),
            ..Self::reply(timeouts, now)
        }
    }

    /// Those of an answer that is given here: silence.
    pub const fn reply(timeouts: &HttpTimeouts, now: Instant) -> Self {
        Self {
            overall: None,
            per_try: None,
            idle: timeouts.stream_idle,
            max_stream: Instant::FAR_FUTURE,
            request_at: Instant::FAR_FUTURE,
            overall_at: Instant::FAR_FUTURE,
            per_try_at: Instant::FAR_FUTURE,
            last_activity: now,
            attempt_began: now,
            is_request_complete: false,
        }
    }

    /// Takes a route's bounds; `asked` is what [`grpc_deadline`] says.
    pub fn route(
        &mut self,
        timeouts: &RouteTimeouts,
        asked: Option<Duration>,
        per_try: Option<Duration>,
        now: Instant,
    ) {
        let overall = timeouts.overall;
        self.overall = overall;
        // An attempt cannot have more time than all of them together.
        self.per_try = per_try.filter(|per_try| overall.is_none_or(|overall| *per_try < overall));
        if let Some(idle) = timeouts.idle {
            self.idle = idle;
        }
        self.max_stream = after(now, asked.or(timeouts.max_stream));
    }

    /// The request has come to its end: the route's clock starts.
    pub fn on_request_complete(&mut self, now: Instant) {
        if self.is_request_complete {
            return;
        }
        self.is_request_complete = true;
        self.last_activity = now;
        self.request_at = Instant::FAR_FUTURE;
        self.overall_at = after(now, self.overall);
        self.start_per_try(now);
    }

    /// An attempt begins.
    pub fn on_attempt(&mut self, now: Instant) {
        self.attempt_began = now;
        self.per_try_at = Instant::FAR_FUTURE;
        if self.is_request_complete {
            self.start_per_try(now);
        }
    }

    fn start_per_try(&mut self, now: Instant) {
        self.per_try_at = after(now, self.per_try);
    }

    /// The answer has begun: attempts are over.
    pub const fn on_answer(&mut self) {
        self.per_try_at = Instant::FAR_FUTURE;
    }

    /// Something was sent or received: silence begins anew.
    pub const fn on_activity(&mut self, now: Instant) {
        self.last_activity = now;
    }

    /// Whether the downstream has sent its whole request.
    pub const fn is_request_complete(&self) -> bool {
        self.is_request_complete
    }

    /// When this attempt began.
    pub const fn attempt_began(&self) -> Instant {
        self.attempt_began
    }

    /// The bound of one attempt, where it is the nearer one.
    pub const fn per_try(&self) -> Option<Duration> {
        self.per_try
    }

    /// The first deadline.
    pub fn next(&self) -> (Instant, Expired) {
        let idle = after(self.last_activity, self.idle);
        let all = [
            (self.request_at, Expired::Request),
            (self.overall_at, Expired::Overall),
            (self.per_try_at, Expired::PerTry),
            (self.max_stream, Expired::MaxStream),
            (idle, Expired::Idle),
        ];
        let mut first = (Instant::FAR_FUTURE, Expired::Idle);
        for (at, why) in all {
            if at < first.0 {
                first = (at, why);
            }
        }
        first
    }
}

fn after(since: Instant, bound: Option<Duration>) -> Instant {
    bound.map_or(Instant::FAR_FUTURE, |bound| since + bound)
}

/// The age at which a stream ends because its peer said so in `grpc-timeout`, where the route
/// honours that; it takes the place of the route's own bound on age.
pub(super) fn grpc_deadline(timeouts: &RouteTimeouts, head: &RequestHead) -> Option<Duration> {
    let longest = timeouts.grpc_max?;
    let asked = head.headers.get(&HeaderName::GRPC_TIMEOUT)?;
    let asked = grpc_timeout(asked)?;
    let offset = timeouts.grpc_offset.unwrap_or_default();
    let asked = asked
        .checked_sub(offset)
        .filter(|left| !left.is_zero())
        .unwrap_or(asked);
    Some(longest.map_or(asked, |longest| asked.min(longest)))
}

/// Reads `grpc-timeout`: at most eight digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Deadlines with the timer that waits for them.
#[derive(Debug)]
pub struct Bounds<'t> {
    /// The deadlines.
    pub deadlines: Deadlines,
    /// The connection's or stream's timer.
    pub timer: &'t mut Timer,
}

impl Bounds<'_> {
    /// What holds for a tunnel that the exchange became: silence and the stream's age.
    pub fn tunnel_limits(&self, now: Instant) -> RelayLimits {
        let Deadlines {
            idle, max_stream, ..
        } = self.deadlines;
        RelayLimits {
            idle,
            max_duration: (max_stream != Instant::FAR_FUTURE).then(|| max_stream - now),
        }
    }

    /// Waits for the first deadline.
    ///
    /// *Cancel safety*: safe.
    pub async fn expired(&mut self) -> Expired {
        poll_fn(|cx| self.poll_expired(cx)).await
    }

    /// Whether a deadline has come; asks anew which one is first.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        let (at, why) = self.deadlines.next();
        self.timer.poll_until(cx, at).map(|()| why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    const TIMEOUTS: HttpTimeouts = HttpTimeouts {
        idle: None,
        stream_idle: Some(Duration::from_secs(300)),
        request: None,
        request_head: None,
        max_connection: None,
        delayed_close: S,
    };

    #[test]
    fn a_request_has_its_own_bound_until_it_is_complete() {
        let timeouts = HttpTimeouts {
            request: Some(5 * S),
            ..TIMEOUTS
        };
        let start = Instant::ORIGIN;
        let mut deadlines = Deadlines::unrouted(&timeouts, start);
        deadlines.on_activity(start + 4 * S);
        assert_eq!(deadlines.next(), (start + 5 * S, Expired::Request));
        deadlines.on_request_complete(start + 4 * S);
        assert_eq!(deadlines.next(), (start + 304 * S, Expired::Idle));
    }

    #[test]
    fn the_routes_clock_starts_with_the_complete_request() {
        let start = Instant::ORIGIN;
        let mut deadlines = Deadlines::unrouted(&TIMEOUTS, start);
        deadlines.route(&RouteTimeouts::DEFAULT, None, Some(2 * S), start);
        deadlines.on_attempt(start);
        assert_eq!(
            deadlines.next(),
            (start + 300 * S, Expired::Idle),
            "a stalled upload"
        );
        deadlines.on_request_complete(start + 100 * S);
        assert_eq!(deadlines.next(), (start + 102 * S, Expired::PerTry));
        deadlines.on_attempt(start + 102 * S);
        assert_eq!(deadlines.next(), (start + 104 * S, Expired::PerTry));
        deadlines.on_answer();
        assert_eq!(deadlines.next(), (start + 115 * S, Expired::Overall));
    }

    #[test]
    fn grpc_timeouts_have_units() {
        let table: [(&[u8], Option<Duration>); 7] = [
            (b"1H", Some(3600 * S)),
            (b"2M", Some(120 * S)),
            (b"3S", Some(3 * S)),
            (b"250m", Some(Duration::from_millis(250))),
            (b"123456789m", None),
            (b"m", None),
            (b"-1S", None),
        ];
        for (text, expected) in table {
            assert_eq!(grpc_timeout(text), expected);
        }
    }
}
