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

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use remora_balance::{HostRecord, LocalOriginFailure, Outcome as HostOutcome, Permit, PickContext};
use remora_http::h1::{ParsedResponse, ResponseEvent};
use remora_http::{BodyFraming, HeaderName, HeaderValue, ResponseHead, Version};
use remora_ir::action::HostRewrite;
use remora_ir::cluster::UpstreamProtocol;
use smallvec::SmallVec;

use super::budget::{Body, Budget, Verdict};
use super::deadline::{Bounds, Expired};
use super::downstream::Responder;
use super::exchange::{Exchange, PendingLog, Plan, Stop, expired};
use super::flags::Flags;
use super::replay::Replay;
use super::reply::Reply;
use super::upload::{Interrupted, Upload, UploadError, now, upload};
use super::{headers, retry};
use crate::frame::Frame;
use crate::network::dial::PreDialled;
use crate::upstream::{
    self, ClusterStats, Failure, Lease, LeaseRequest, PickRequest, Protocol, Reader, RequestStart,
    RetryClass, Reuse, Sent, UpstreamError,
};

/// A connection that stopped speaking HTTP: bytes flow until one side ends.
#[derive(Debug)]
pub struct Tunnel {
    /// The upstream's side.
    pub upstream: upstream::Tunnelled,
    /// What the upstream sent behind its head.
    pub first: BytesMut,
    /// Written to the log when the tunnel ends.
    pub pending_log: Option<PendingLog>,
    /// The request still counts against the cluster's limit.
    pub permit: Option<Permit>,
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Attempts<'a, 'c, 't> {
    exchange: &'a mut Exchange<'c>,
    plan: &'a Plan<'a>,
    bounds: &'a mut Bounds<'t>,
    stats: Rc<ClusterStats>,
    tried: SmallVec<[Arc<HostRecord>; 4]>,
    /// Free repetitions left for kept connections that were closing; see [`retry`].
    stale_left: u8,
    is_mirrored: bool,
}

/// Kept connections that may turn out dead for one request. Each is found dead only after it was
/// looked at, so more than a few in a row means that the upstream is going away.
const STALE_CONNECTIONS: u8 = 3;

/// What came of one attempt.
enum Outcome {
    /// The answer was passed down to its end.
    Done,
    /// The connection is a tunnel now.
    Tunnel(Box<Tunnel>),
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
        let stats = exchange.cx.worker.upstream.stats(plan.cluster);
        Self {
            exchange,
            plan,
            bounds,
            stats,
            tried: SmallVec::new(),
            stale_left: STALE_CONNECTIONS,
            is_mirrored: plan.forward.mirrors.is_empty(),
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
    ) -> Result<Option<Tunnel>, Stop> {
        let limits = self.plan.cluster.limits().of(self.plan.forward.priority);
        let permit = limits.try_request().map_err(|overflow| {
            self.stats.rq_pending_overflow.increment();
            failed(&UpstreamError::unsent(overflow.into()), Flags::none())
        })?;
        let stats = Rc::clone(&self.stats);
        let mut budget = Budget::new(self.plan.retry.map(|policy| &**policy), limits, &stats);
        if body.is_empty() {
            self.bounds
                .deadlines
                .on_request_complete(self.exchange.cx.worker.now());
            self.mirror(body, false);
        }
        let mut number = 0;
        loop {
            number += 1;
            self.begin(number);
            let outcome = self.once(body, out, &mut budget).await;
            self.mirror(
                body,
                !matches!(outcome, Ok(Outcome::Retry | Outcome::Stale)),
            );
            match outcome? {
                Outcome::Done => return Ok(None),
                Outcome::Tunnel(tunnel) => {
                    return Ok(Some(Tunnel {
                        permit: Some(permit),
                        ..*tunnel
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

    /// Sends the mirrors once, as soon as the whole request is there. At the last call a request
    /// that never came to its end, or was too large to be kept, counts as dropped.
    fn mirror(&mut self, body: &Replay<'_>, is_last_call: bool) {
        if !self.is_mirrored && (is_last_call || body.is_received()) {
            self.is_mirrored = true;
            self.exchange.mirror(&self.plan.forward.mirrors, body);
        }
    }

    /// One attempt.
    async fn once(
        &mut self,
        body: &mut Replay<'_>,
        out: &mut Responder<'_>,
        budget: &mut Budget<'_>,
    ) -> Result<Outcome, Stop> {
        let is_lost = Cell::new(body.is_lost());
        let mut lease = match self.lease().await {
            Ok(lease) => lease,
            Err(error) => return self.on_failure(&error, &is_lost, budget),
        };
        if !self.exchange.cx.hcm.access_logs.is_empty() {
            self.exchange.summary.upstream_local = lease.local_addr();
        }
        let (mut writer, mut reader) = lease.split();
        let start = RequestStart {
            framing: self.exchange.framing,
            upgrade: self.exchange.upgrade.as_ref(),
        };
        if let Err(error) = writer.send_head(&self.exchange.head, &start).await {
            return self.on_failure(&error, &is_lost, budget);
        }
        let answer = {
            let future = pin!(upload(body, &mut writer, &is_lost));
            let mut upload = Upload::new(future);
            let answer = self.answer(&mut upload, &mut reader, out).await;
            match answer {
                Ok(Answer::Head(parsed)) => {
                    self.on_answered(&parsed.head);
                    let lost = if is_lost.get() {
                        Body::Lost
                    } else {
                        Body::Replayable
                    };
                    match budget.on_answer(&parsed.head, lost) {
                        Verdict::Retry => {
                            drain_now(&mut reader);
                            Ok(None)
                        }
                        Verdict::Pass(flags) => {
                            self.exchange.summary.flags = flags;
                            self.pass(parsed, &mut upload, &mut reader, out).await?;
                            Ok(Some(Ok(())))
                        }
                    }
                }
                Ok(Answer::Upgraded(head)) => Ok(Some(Err(head))),
                Err(stop) => Err(stop),
            }
        };
        match answer {
            Ok(None) => {
                lease.finish();
                Ok(Outcome::Retry)
            }
            Ok(Some(Ok(()))) => {
                lease.finish();
                Ok(Outcome::Done)
            }
            Ok(Some(Err(head))) => self.switch(head, lease, out).await,
            Err(Unanswered::Stop(stop)) => Err(stop),
            Err(Unanswered::Upstream(error)) => self.on_failure(&error, &is_lost, budget),
            Err(Unanswered::PerTry) => self.on_per_try_timeout(&is_lost, budget),
        }
    }

    /// A connection to a host, for this attempt.
    async fn lease(&mut self) -> Result<Lease, UpstreamError> {
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
                upstream::pick(local, cluster, &request).map_err(UpstreamError::unsent)?
            }
        };
        exchange.summary.upstream_host = Some(Arc::clone(&host));
        self.tried.push(Arc::clone(&host));
        let rewrite = &self.plan.forward.rewrite;
        if matches!(rewrite.host, Some(HostRewrite::EndpointName))
            && let Some(name) = upstream::hostname(local, cluster, &host)
        {
            let name = Bytes::copy_from_slice(name.as_bytes());
            headers::rewrite_host(&mut exchange.head, name, rewrite.append_forwarded_host);
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
            reuse: match (self.stale_left, exchange.head.method.is_idempotent()) {
                (0, _) => Reuse::Never,
                (_, true) => Reuse::IfNotStale,
                (_, false) => Reuse::IfVerified,
            },
        };
        match dialled {
            Some(PreDialled { stream, guard, .. }) => {
                upstream::adopt(local, cluster, (stream, guard), &request).await
            }
            None => upstream::lease(local, cluster, &host, &request).await,
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
                Ok(Some(Ok(ResponseEvent::Informational(head)))) => {
                    self.bounds
                        .deadlines
                        .on_activity(self.exchange.cx.worker.now());
                    out.informational(&head).await.map_err(Stop::from)?;
                }
                Ok(Some(Err(error))) => {
                    return Err(Unanswered::Upstream(upload.broken().unwrap_or(error)));
                }
                Ok(None) => {
                    self.stats.rq_tx_reset.increment();
                    return Err(Stop::Gone.into());
                }
                Err(Interrupted::Downstream(error)) => return Err(Stop::from(error).into()),
                Err(Interrupted::Expired(Expired::PerTry)) => return Err(Unanswered::PerTry),
                Err(Interrupted::Expired(why)) => return Err(self.on_expired(why).into()),
            }
        }
    }

    /// A bound was met that no retry could keep.
    fn on_expired(&self, why: Expired) -> Stop {
        self.stats.rq_timeout.increment();
        self.report(HostOutcome::LocalOriginFailure(LocalOriginFailure::Timeout));
        expired(why, self.bounds.deadlines.is_request_complete()).into()
    }

    fn on_per_try_timeout(
        &mut self,
        is_lost: &Cell<bool>,
        budget: &mut Budget<'_>,
    ) -> Result<Outcome, Stop> {
        self.stats.rq_per_try_timeout.increment();
        self.report(HostOutcome::LocalOriginFailure(LocalOriginFailure::Timeout));
        let body = if is_lost.get() {
            Body::Lost
        } else {
            Body::Replayable
        };
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
        is_lost: &Cell<bool>,
        budget: &mut Budget<'_>,
    ) -> Result<Outcome, Stop> {
        let body = if is_lost.get() {
            Body::Lost
        } else {
            Body::Replayable
        };
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
            return match why {
                Expired::PerTry => self.on_per_try_timeout(is_lost, budget),
                why => Err(self.on_expired(why)),
            };
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

    /// A host has answered.
    fn on_answered(&mut self, head: &ResponseHead) {
        let now = self.exchange.cx.worker.now();
        let took = now - self.exchange.started;
        self.bounds.deadlines.on_answer();
        self.bounds.deadlines.on_activity(now);
        self.exchange.summary.response_duration = Some(took);
        self.stats.count_status(head.status);
        self.stats
            .rq_time
            .record(now - self.bounds.deadlines.attempt_began());
        self.report(HostOutcome::Status(status_for_health(head)));
    }

    /// Passes an answer down to its end.
    async fn pass<F>(
        &mut self,
        parsed: ParsedResponse,
        upload: &mut Upload<'_, F>,
        reader: &mut Reader<'_>,
        out: &mut Responder<'_>,
    ) -> Result<(), Stop>
    where
        F: Future<Output = Result<(), UploadError>>,
    {
        let ParsedResponse {
            mut head, framing, ..
        } = parsed;
        let exchange = &mut *self.exchange;
        if !exchange.cx.hcm.headers.suppress_envoy_headers {
            let took = exchange.cx.worker.now() - self.bounds.deadlines.attempt_began();
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let value = HeaderValue::from_number(millis);
            head.headers
                .insert(HeaderName::X_ENVOY_UPSTREAM_SERVICE_TIME, value);
        }
        if self.plan.host.attempt_count_in_response {
            headers::set_attempt_count(&mut head.headers, exchange.summary.attempts);
        }
        exchange.edit_response(&mut head, Some(&self.plan.edits));
        exchange.summary.status = Some(head.status.get());
        exchange.summary.details = Some("via_upstream".into());
        if !upload.is_complete() && exchange.version != Version::Http2 {
            // Whatever the downstream still sends of its request will not be waited for.
            out.close_after();
        }
        let written = out.head(&head, framing);
        exchange.response = Some(head);
        written?;
        self.relay(framing, upload, reader, out).await
    }

    async fn relay<F>(
        &mut self,
        framing: BodyFraming,
        upload: &mut Upload<'_, F>,
        reader: &mut Reader<'_>,
        out: &mut Responder<'_>,
    ) -> Result<(), Stop>
    where
        F: Future<Output = Result<(), UploadError>>,
    {
        let mut trailers = None;
        while !framing.is_empty() {
            let frame = match now(reader.frame()) {
                Some(frame) => frame,
                None => {
                    let wait = async {
                        out.flush().await?;
                        Ok(tokio::select! {
                            biased;
                            frame = reader.frame() => frame,
                            () = out.closed() => return Err(Stop::Gone),
                        })
                    };
                    upload.beside(self.bounds, wait).await.map_err(broken)??
                }
            };
            self.bounds
                .deadlines
                .on_activity(self.exchange.cx.worker.now());
            match frame.map_err(|error| self.on_cut(&error))? {
                Some(Frame::Data(data)) => {
                    self.exchange.summary.bytes_sent += data.len() as u64;
                    let sent = upload.beside(self.bounds, out.data(data)).await;
                    sent.map_err(broken)??;
                }
                Some(Frame::Trailers(fields)) => trailers = Some(fields),
                None => break,
            }
        }
        let finished = upload
            .beside(self.bounds, out.finish(trailers.as_ref()))
            .await;
        self.exchange.trailers = trailers;
        finished.map_err(broken)??;
        Ok(())
    }

    /// The upstream broke off in the middle of its answer.
    fn on_cut(&self, error: &UpstreamError) -> Stop {
        if let Some(outcome) = error.outcome() {
            self.report(outcome);
        }
        let flags = match error.kind {
            // A body shorter than announced is the upstream's protocol error, as in Envoy.
            Failure::Terminated(_) => Flags::UPSTREAM_PROTOCOL_ERROR,
            _ => error.flag(),
        };
        Stop::Broken(flags, "upstream_reset_after_response_started{remote_reset}")
    }

    /// Turns both connections into a tunnel.
    async fn switch(
        &mut self,
        mut head: ResponseHead,
        lease: Lease,
        out: &mut Responder<'_>,
    ) -> Result<Outcome, Stop> {
        self.on_answered(&head);
        let asked = self.exchange.upgrade.clone().unwrap_or_default();
        // What the upstream chose; its field goes with the other hop-by-hop ones.
        let chosen = head
            .headers
            .get(&HeaderName::UPGRADE)
            .cloned()
            .unwrap_or(asked);
        self.exchange
            .edit_response(&mut head, Some(&self.plan.edits));
        self.exchange.summary.status = Some(head.status.get());
        self.exchange.summary.details = Some("via_upstream".into());
        let switched = out.switch(&head, &chosen).await;
        self.exchange.response = Some(head);
        match (switched?, lease.into_tunnel()) {
            (true, Some((upstream, first))) => {
                let tunnel = Tunnel {
                    upstream,
                    first,
                    pending_log: None,
                    permit: None,
                };
                Ok(Outcome::Tunnel(Box::new(tunnel)))
            }
            _ => Err(Stop::Broken(
                Flags::UPSTREAM_PROTOCOL_ERROR,
                "upstream_protocol_error",
            )),
        }
    }

    /// Waits before a retry.
    async fn back_off(&mut self, retry: u32, out: &mut Responder<'_>) -> Result<(), Stop> {
        let Some(policy) = self.plan.retry else {
            return Ok(());
        };
        let wait = retry::backoff(policy.backoff, retry, self.exchange.cx.worker.random());
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => Ok(()),
            why = self.bounds.expired() => Err(self.on_expired(why)),
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

/// A bound was met, or the downstream failed, when the answer had begun.
fn broken(interrupted: Interrupted) -> Stop {
    match interrupted {
        Interrupted::Downstream(error) => error.into(),
        Interrupted::Expired(Expired::Idle) => {
            Stop::Broken(Flags::STREAM_IDLE, "stream_idle_timeout")
        }
        Interrupted::Expired(Expired::MaxStream) => {
            Stop::Broken(Flags::DURATION_TIMEOUT, "max_duration_timeout")
        }
        Interrupted::Expired(Expired::Overall | Expired::PerTry) => {
            Stop::Broken(Flags::UPSTREAM_TIMEOUT, "response_timeout")
        }
    }
}

/// The answer for a failure that is not retried.
fn failed(error: &UpstreamError, flags: Flags) -> Stop {
    let status = match error.retry_class() {
        RetryClass::Protocol => remora_http::StatusCode::BAD_GATEWAY,
        RetryClass::Timeout => remora_http::StatusCode::GATEWAY_TIMEOUT,
        RetryClass::Never if matches!(error.kind, Failure::Request(_)) => {
            remora_http::StatusCode::BAD_REQUEST
        }
        _ => remora_http::StatusCode::SERVICE_UNAVAILABLE,
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

/// What an answer says of its host's health: for gRPC the status that its code stands for.
fn status_for_health(head: &ResponseHead) -> u16 {
    match head
        .headers
        .get(&HeaderName::GRPC_STATUS)
        .map(|code| &**code)
    {
        Some(b"2" | b"12" | b"13" | b"15") => 500,
        Some(b"14") => 503,
        Some(b"4") => 504,
        _ => head.status.get(),
    }
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
    use remora_http::StatusCode;

    #[test]
    fn grpc_codes_stand_for_statuses() {
        for (code, expected) in [("0", 200), ("14", 503), ("4", 504), ("13", 500), ("5", 200)] {
            let mut head = ResponseHead::local(StatusCode::OK);
            head.headers
                .insert(HeaderName::GRPC_STATUS, HeaderValue::from_static(code));
            assert_eq!(status_for_health(&head), expected, "{code}");
        }
    }

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
