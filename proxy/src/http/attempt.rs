// SPDX-License-Identifier: Apache-2.0
//! Attempts: sending a request up until an answer can be passed down, and passing it.
//!
//! ```text
//! begin -> pick host -> lease -> send head and body ~ wait for the head -> judge --pass--> relay -> done
//!   ^                                                                        |
//!   '------------------------- back off <------------------------ retry ----'
//! ```
//!
//! The upload of the request goes on beside everything else, since an upstream may answer before
//! it has all of it. One attempt is one [`Attempts::once`]; what comes of it is an [`Outcome`].

mod pass;

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use remora_balance::{HostRecord, LocalOriginFailure, Outcome as HostOutcome, PickContext};
use remora_http::h1::{ParsedResponse, ResponseEvent};
use remora_http::{ResponseHead, StatusCode, Version};
use remora_ir::action::HostRewrite;
use remora_ir::cluster::UpstreamProtocol;
use smallvec::SmallVec;

use super::budget::{Body, Budget, Verdict};
use super::deadline::{Bounds, Expired};
use super::downstream::Responder;
use super::exchange::{Exchange, Stop, expired};
use super::flags::Flags;
use super::mirror::Due;
use super::plan::Plan;
use super::replay::Replay;
use super::reply::Reply;
use super::tunnel::Switched;
use super::upload::{Interrupted, Progress, Upload, UploadError, now, upload};
use super::{headers, retry};
use crate::network::dial::PreDialled;
use crate::upstream::{
    self, ClusterStats, Failure, Lease, LeaseRequest, PickRequest, Protocol, Reader, RequestStart,
    RetryClass, Reuse, Sent, UpstreamError, Writer,
};

/// The attempts of one request.
#[derive(Debug)]
pub struct Attempts<'a, 'c, 't> {
    exchange: &'a mut Exchange<'c>,
    plan: &'a Plan<'a>,
    bounds: &'a mut Bounds<'t>,
    stats: Rc<ClusterStats>,
    tried: SmallVec<[Arc<HostRecord>; 4]>,
    /// Copies that are not sent yet.
    mirrors: Due<'a>,
    /// Free repetitions left for kept connections that were closing; see [`retry`].
    stale_left: u8,
    /// Whether the authority is an endpoint's name already.
    is_host_rewritten: bool,
    /// Whether the host is judged by a gRPC status that is still to come, in the trailers.
    awaits_grpc_status: bool,
}

/// Kept connections that may turn out dead for one request. Each is found dead only after it was
/// looked at, so more than a few in a row means that the upstream is going away.
const STALE_CONNECTIONS: u8 = 3;

/// What came of one attempt.
enum Outcome {
    /// The answer was passed down to its end.
    Done,
    /// The connection is a tunnel now.
    Tunnel(Box<Switched>),
    /// Try again, after the policy's wait.
    Retry,
    /// Try again at once: a kept connection was closing.
    Stale,
}

/// What the upstream said first, once it can be judged.
enum Answer {
    /// A response.
    Head(ParsedResponse),
    /// It switches protocols.
    Upgraded(ResponseHead),
}

impl<'a, 'c, 't> Attempts<'a, 'c, 't> {
    /// All attempts of a request that was routed.
    pub fn new(
        exchange: &'a mut Exchange<'c>,
        plan: &'a Plan<'a>,
        bounds: &'a mut Bounds<'t>,
    ) -> Self {
        let cx = exchange.cx;
        let stats = cx.worker.upstream.stats(plan.cluster);
        Self {
            exchange,
            plan,
            bounds,
            stats,
            tried: SmallVec::new(),
            mirrors: Due::choose(cx, &plan.forward.mirrors),
            stale_left: STALE_CONNECTIONS,
            is_host_rewritten: false,
            awaits_grpc_status: false,
        }
    }

    /// Makes attempts until one is passed down, or none is left.
    ///
    /// # Errors
    /// Why the request could not be answered by an upstream.
    pub async fn run(
        mut self,
        body: &mut Replay<'_>,
        out: &mut Responder<'_>,
    ) -> Result<Option<Switched>, Stop> {
        if body.is_received() {
            let now = self.exchange.cx.worker.now();
            self.bounds.deadlines.on_request_complete(now);
            self.mirror(body);
        }
        let ended = self.all(body, out).await;
        if let Err(Stop::Reply(reply)) = &ended
            && !reply.flags.has_any(Flags::STREAM_IDLE)
        {
            // The answer stands in the upstream's place, and is counted there.
            self.stats.count_status(reply.status);
        }
        ended
    }

    async fn all(
        &mut self,
        body: &mut Replay<'_>,
        out: &mut Responder<'_>,
    ) -> Result<Option<Switched>, Stop> {
        let limits = self.plan.cluster.limits().of(self.plan.forward.priority);
        let permit = limits.try_request().map_err(|overflow| {
            self.stats.rq_pending_overflow.increment();
            failed(&UpstreamError::unsent(overflow.into()), Flags::none())
        })?;
        let stats = Rc::clone(&self.stats);
        let mut budget = Budget::new(self.plan.retry.map(|policy| &**policy), limits, &stats);
        loop {
            self.begin(budget.made() + 1);
            let outcome = self.once(body, out, &mut budget).await;
            self.mirror(body);
            match outcome? {
                Outcome::Done => return Ok(None),
                Outcome::Tunnel(switched) => {
                    return Ok(Some(Switched {
                        permit: Some(permit),
                        ..*switched
                    }));
                }
                Outcome::Retry => self.back_off(budget.made(), out).await?,
                Outcome::Stale => self.stale_left -= 1,
            }
            body.rewind();
        }
    }

    fn begin(&mut self, number: u32) {
        let exchange = &mut *self.exchange;
        exchange.summary.attempts = number;
        if self.plan.host.attempt_count_in_request {
            headers::set_attempt_count(&mut exchange.head.headers, number);
        }
        self.bounds.deadlines.on_attempt(exchange.cx.worker.now());
    }

    /// Sends the copies as soon as the whole request is there.
    fn mirror(&mut self, body: &Replay<'_>) {
        if body.is_received() {
            let exchange = &*self.exchange;
            self.mirrors.send(&exchange.head, exchange.framing, body);
        }
    }

    /// One attempt.
    async fn once(
        &mut self,
        body: &mut Replay<'_>,
        out: &mut Responder<'_>,
        budget: &mut Budget<'_>,
    ) -> Result<Outcome, Stop> {
        let progress = Progress::of(body);
        let mut lease = match self.lease(body.is_repeatable(), out).await {
            Ok(lease) => lease,
            Err(unanswered) => return self.judge(unanswered, progress.body(), budget),
        };
        if !self.exchange.cx.hcm.access_logs.is_empty() {
            self.exchange.summary.upstream_local = lease.local_addr();
        }
        let answer = {
            let (mut writer, mut reader) = lease.split();
            if let Err(unanswered) = self.send_head(&mut writer, out).await {
                return self.judge(unanswered, progress.body(), budget);
            }
            let future = pin!(upload(body, &mut writer, &progress));
            let mut upload = Upload::new(future, &progress);
            match self.answer(&mut upload, &mut reader, out).await {
                Ok(Answer::Head(parsed)) => {
                    self.on_answered(&parsed.head, parsed.framing);
                    match budget.on_answer(&parsed.head, progress.body()) {
                        Verdict::Retry => {
                            self.on_unwanted(parsed.head, &mut reader);
                            Ok(Outcome::Retry)
                        }
                        Verdict::Pass(flags) => {
                            self.exchange.summary.flags = flags;
                            self.pass(parsed, &mut upload, &mut reader, out).await?;
                            Ok(Outcome::Done)
                        }
                    }
                }
                Ok(Answer::Upgraded(head)) => Err(Ok(head)),
                Err(unanswered) => Err(Err(unanswered)),
            }
        };
        match answer {
            // An upgrade was offered and not taken up.
            Ok(outcome) if self.exchange.upgrade.is_some() => {
                lease.close();
                Ok(outcome)
            }
            Ok(outcome) => {
                lease.finish();
                Ok(outcome)
            }
            Err(Ok(head)) => self.switch(head, lease, out).await,
            Err(Err(unanswered)) => self.judge(unanswered, progress.body(), budget),
        }
    }

    /// Hands the head over. Over HTTP/2 that may have to wait for the connection.
    async fn send_head(
        &mut self,
        writer: &mut Writer<'_>,
        out: &mut Responder<'_>,
    ) -> Result<(), Unanswered> {
        let start = RequestStart {
            framing: self.exchange.framing,
            upgrade: self.exchange.upgrade.as_ref(),
        };
        tokio::select! {
            biased; // it rarely waits
            sent = writer.send_head(&self.exchange.head, &start) => {
                sent.map_err(Unanswered::Upstream)
            }
            () = out.closed() => Err(Stop::Gone.into()),
            why = self.bounds.expired() => Err(self.on_expired(why)),
        }
    }

    /// An answer that is retried: what is there of it is read, so that its connection can be kept.
    fn on_unwanted(&mut self, head: ResponseHead, reader: &mut Reader<'_>) {
        drain_now(reader);
        reader.recycle(head.headers);
        self.judge_grpc(None);
    }

    /// Judges an attempt that brought no answer.
    fn judge(
        &mut self,
        unanswered: Unanswered,
        body: Body,
        budget: &mut Budget<'_>,
    ) -> Result<Outcome, Stop> {
        match unanswered {
            Unanswered::Stop(stop) => Err(stop),
            Unanswered::Upstream(error) => self.on_failure(&error, body, budget),
            Unanswered::PerTry => self.on_per_try_timeout(body, budget),
        }
    }

    /// A connection to a host, for this attempt.
    async fn lease(
        &mut self,
        is_repeatable: bool,
        out: &mut Responder<'_>,
    ) -> Result<Lease, Unanswered> {
        let exchange = &mut *self.exchange;
        let local = &exchange.cx.worker.upstream;
        let cluster = self.plan.cluster;
        let policy = self.plan.retry.filter(|policy| policy.avoid_tried_hosts);
        let context = match policy {
            _ if self.tried.is_empty() => PickContext::first(),
            Some(policy) => PickContext::retry(&self.tried, policy.host_selection_attempts),
            None => PickContext::retry(&[], 0),
        };
        let dialled =
            exchange.cx.dialled.take().filter(|dialled| {
                self.tried.is_empty() && dialled.cluster.name() == cluster.name()
            });
        let host = match &dialled {
            Some(dialled) => Arc::clone(dialled.host()),
            None => {
                let request = PickRequest {
                    original_dst: exchange.cx.original_dst,
                    context,
                };
                upstream::pick(local, cluster, &request)
                    .map_err(|failure| Unanswered::Upstream(UpstreamError::unsent(failure)))?
            }
        };
        exchange.summary.upstream_host = Some(Arc::clone(&host));
        self.tried.push(Arc::clone(&host));
        let rewrite = &self.plan.forward.rewrite;
        if matches!(rewrite.host, Some(HostRewrite::EndpointName))
            && let Some(name) = upstream::hostname(local, cluster, &host)
        {
            let name = Bytes::copy_from_slice(name.as_bytes());
            if self.is_host_rewritten {
                // What the downstream asked for was noted with the first attempt.
                exchange.head.authority = name;
            } else {
                self.is_host_rewritten = true;
                headers::rewrite_host(&mut exchange.head, name, rewrite.append_forwarded_host);
            }
        }
        let protocol = match cluster.policy().protocol {
            UpstreamProtocol::Http1 => Protocol::Http1,
            UpstreamProtocol::Http2(_) => Protocol::Http2,
            UpstreamProtocol::Downstream(_) if exchange.version == Version::Http2 => {
                Protocol::Http2
            }
            UpstreamProtocol::Downstream(_) => Protocol::Http1,
        };
        let (deadline, _) = self.bounds.deadlines.next();
        let request = LeaseRequest {
            protocol,
            priority: self.plan.forward.priority,
            peer: Some(exchange.cx.connection.peer),
            deadline,
            reuse: match self.stale_left {
                0 => Reuse::Never,
                _ if is_repeatable && exchange.head.method.is_idempotent() => Reuse::IfNotStale,
                _ => Reuse::IfVerified,
            },
        };
        let leased = async {
            match dialled {
                Some(PreDialled { stream, guard, .. }) => {
                    upstream::adopt(local, cluster, (stream, guard), &request).await
                }
                None => upstream::lease(local, cluster, &host, &request).await,
            }
        };
        tokio::select! {
            biased; // a kept connection is there at once
            leased = leased => leased.map_err(Unanswered::Upstream),
            () = out.closed() => Err(Stop::Gone.into()),
        }
    }

    /// Waits for a final head, and passes 1xx on meanwhile.
    async fn answer<F>(
        &mut self,
        upload: &mut Upload<'_, F>,
        reader: &mut Reader<'_>,
        out: &mut Responder<'_>,
    ) -> Result<Answer, Unanswered>
    where
        F: Future<Output = Result<(), UploadError>>,
    {
        loop {
            let event = {
                let read = async {
                    tokio::select! {
                        biased;
                        event = reader.head() => Some(event),
                        () = out.closed() => None,
                    }
                };
                upload.beside(self.bounds, read).await
            };
            match event {
                Ok(Some(Ok(ResponseEvent::Final(parsed)))) => return Ok(Answer::Head(parsed)),
                Ok(Some(Ok(ResponseEvent::Upgraded(head)))) => return Ok(Answer::Upgraded(head)),
                // The proxy has said so itself, to whoever wanted to hear it.
                Ok(Some(Ok(ResponseEvent::Informational(head))))
                    if head.status == StatusCode::CONTINUE => {}
                Ok(Some(Ok(ResponseEvent::Informational(mut head)))) => {
                    remora_http::strip_hop_by_hop(&mut head.headers);
                    let passed = upload.beside(self.bounds, out.informational(&head)).await;
                    match passed {
                        Ok(written) => written.map_err(Stop::from)?,
                        Err(interrupted) => return Err(self.on_interrupted(interrupted)),
                    }
                }
                Ok(Some(Err(error))) => {
                    return Err(Unanswered::Upstream(upload.broken().unwrap_or(error)));
                }
                Ok(None) => return Err(Stop::Gone.into()),
                Err(interrupted) => return Err(self.on_interrupted(interrupted)),
            }
        }
    }

    fn on_interrupted(&self, interrupted: Interrupted) -> Unanswered {
        match interrupted {
            Interrupted::Downstream(error) => Stop::from(error).into(),
            Interrupted::Expired(why) => self.on_expired(why),
        }
    }

    /// A bound was met while an upstream was to answer. Of these, only its own are its fault: a
    /// downstream that is slow to send must not bring a host into disrepute.
    fn on_expired(&self, why: Expired) -> Unanswered {
        if why == Expired::PerTry {
            return Unanswered::PerTry;
        }
        self.count_expired(why);
        if why == Expired::Overall {
            self.report(HostOutcome::LocalOriginFailure(LocalOriginFailure::Timeout));
        }
        Stop::from(expired(why, self.bounds.deadlines.is_request_complete())).into()
    }

    fn count_expired(&self, why: Expired) {
        match why {
            Expired::Overall => self.stats.rq_timeout.increment(),
            Expired::MaxStream => self.stats.rq_max_duration_reached.increment(),
            Expired::PerTry | Expired::Idle | Expired::Request => {}
        }
    }

    fn on_per_try_timeout(&mut self, body: Body, budget: &mut Budget<'_>) -> Result<Outcome, Stop> {
        self.stats.rq_per_try_timeout.increment();
        self.report(HostOutcome::LocalOriginFailure(LocalOriginFailure::Timeout));
        match budget.on_failure(RetryClass::Timeout, body) {
            Verdict::Retry => Ok(Outcome::Retry),
            Verdict::Pass(flags) => {
                let reply = Reply::per_try_timeout();
                Err(Reply {
                    flags: reply.flags.union(flags),
                    ..reply
                }
                .into())
            }
        }
    }

    /// Judges a failed attempt.
    fn on_failure(
        &mut self,
        error: &UpstreamError,
        body: Body,
        budget: &mut Budget<'_>,
    ) -> Result<Outcome, Stop> {
        let may_repeat = error.sent == Sent::Nothing || self.exchange.head.method.is_idempotent();
        if error.is_keep_alive_race()
            && may_repeat
            && body == Body::Replayable
            && self.stale_left > 0
        {
            return Ok(Outcome::Stale);
        }
        if matches!(error.kind, Failure::Deadline) {
            let (_, why) = self.bounds.deadlines.next();
            let unanswered = self.on_expired(why);
            return self.judge(unanswered, body, budget);
        }
        if let Some(outcome) = error.outcome() {
            self.report(outcome);
        }
        match budget.on_failure(error.retry_class(), body) {
            Verdict::Retry => Ok(Outcome::Retry),
            Verdict::Pass(flags) => Err(failed(error, flags)),
        }
    }

    /// Tells the balancer how the host did.
    fn report(&self, outcome: HostOutcome) {
        if let Some(host) = &self.exchange.summary.upstream_host {
            self.plan
                .cluster
                .on_outcome(&self.exchange.cx.worker.upstream, host, outcome);
        }
    }

    /// Waits before a retry.
    async fn back_off(&mut self, retry: u32, out: &mut Responder<'_>) -> Result<(), Stop> {
        let Some(policy) = self.plan.retry else {
            return Ok(());
        };
        let wait = retry::backoff(policy.backoff, retry, self.exchange.cx.worker.random());
        // The bound of the attempt that failed does not hold for the wait.
        self.bounds.deadlines.on_answer();
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => Ok(()),
            why = self.bounds.expired() => {
                self.count_expired(why);
                Err(expired(why, self.bounds.deadlines.is_request_complete()).into())
            }
            () = out.closed() => Err(Stop::Gone),
        }
    }
}

/// Why an attempt brought no answer.
enum Unanswered {
    /// The exchange is over.
    Stop(Stop),
    /// The upstream failed.
    Upstream(UpstreamError),
    /// The attempt took too long.
    PerTry,
}

impl From<Stop> for Unanswered {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// The answer for a failure that is not retried.
fn failed(error: &UpstreamError, flags: Flags) -> Stop {
    let status = match error.retry_class() {
        RetryClass::Protocol => StatusCode::BAD_GATEWAY,
        RetryClass::Timeout => StatusCode::GATEWAY_TIMEOUT,
        RetryClass::Never if matches!(error.kind, Failure::Request(_)) => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    Reply {
        body: error.body_text(),
        details: error.details(false),
        transport_failure: error.transport_failure(),
        overloaded: matches!(error.kind, Failure::Overflow(_) | Failure::Dropped),
        ..Reply::new(status, error.flag().union(flags), "")
    }
    .into()
}

/// Reads what is there of an answer that nobody wants, so that its connection can be kept.
fn drain_now(reader: &mut Reader<'_>) {
    const FRAMES: usize = 16;
    for _ in 0..FRAMES {
        match now(reader.frame()) {
            Some(Ok(Some(_))) => {}
            Some(Ok(None) | Err(_)) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_envoys_statuses() {
        let of = |kind| match failed(&UpstreamError::unsent(kind), Flags::none()) {
            Stop::Reply(reply) => (reply.status.get(), reply.flags.to_string()),
            other => panic!("a reply, not {other:?}"),
        };
        assert_eq!(of(Failure::NoHealthyHost), (503, "UH".into()));
        assert_eq!(of(Failure::ConnectTimeout), (503, "UF".into()));
        assert_eq!(of(Failure::Terminated(None)), (503, "UC".into()));
        assert_eq!(of(Failure::Http2("x".into())), (502, "UPE".into()));
    }
}
