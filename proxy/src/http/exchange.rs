// SPDX-License-Identifier: Apache-2.0
//! The spine: one request from its head to its last byte.
//!
//! [`exchange`] reads like the list of steps: make the head canonical, route it, choose the
//! cluster, edit, try (again), answer, account. Each step is a call; whatever goes wrong becomes a
//! [`Stop`], and only [`Exchange::end`] turns that into bytes. The exchange holds the `Arc`s of
//! its route and its cluster, never the snapshot; endpoints are read anew for each attempt.
//!
//! Invariant: whatever is acquired on the way (permits, leases, counts) is a guard, so that an
//! exchange that is dropped half-way gives everything back.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use remora_http::{
    BodyFraming, HeaderMap, HeaderName, HeaderValue, RequestHead, ResponseHead, StatusCode, Version,
};
use remora_ir::action::{Action, Forward, Upgrade, WeightedCluster};
use remora_ir::header_edit::HeaderEdits;
use remora_ir::listener::{HttpConnectionManager, Routes};
use remora_ir::{ClusterSlot, Lookup};
use remora_primitives::Instant;
use remora_rt::drain::Stage;

use super::attempt::Attempts;
use super::deadline::{Bounds, Deadlines, Expired, grpc_deadline};
use super::downstream::{DownstreamError, Incoming, Responder};
use super::flags::Flags;
use super::plan::{Choice, Edits, Plan, Routed, choose};
use super::record::{ConnectionRecord, Record, Summary};
use super::replay::{Keep, Replay};
use super::reply::Reply;
use super::stats::HttpStats;
use super::timer::Timer;
use super::tunnel::{PendingLog, Tunnel};
use super::{headers, redirect};
use crate::network::dial::PreDialled;
use crate::upstream::Cluster;
use crate::worker::Worker;

/// What all exchanges of a connection share.
#[derive(Debug)]
pub struct Context {
    /// The worker.
    pub worker: Rc<Worker>,
    /// The connection manager.
    pub hcm: Arc<HttpConnectionManager>,
    /// Facts about the connection.
    pub connection: ConnectionRecord,
    /// The `server` field of its responses.
    pub server: HeaderValue,
    /// Whether the connection leads to the workload.
    pub is_inbound: bool,
    /// Where a redirected connection was going: the host of clusters that go there.
    pub original_dst: Option<std::net::SocketAddr>,
    /// A connection that was made before it was known what would be spoken on it; the first
    /// request that goes to its cluster takes it.
    pub dialled: RefCell<Option<PreDialled>>,
    /// This worker's statistics of the connection manager.
    pub stats: Rc<HttpStats>,
    /// Whether the connection is to end.
    pub drain: remora_rt::drain::Watch,
}

/// Why an exchange stopped before its natural end.
#[derive(Debug)]
pub enum Stop {
    /// It is answered here.
    Reply(Box<Reply>),
    /// The downstream went away.
    Gone,
    /// The downstream's body breaks its protocol.
    Refused(DownstreamError),
    /// The answer had begun and cannot be completed.
    Broken(Flags, Cow<'static, str>),
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

impl From<DownstreamError> for Stop {
    fn from(error: DownstreamError) -> Self {
        match error {
            DownstreamError::Refused(_) => Self::Refused(error),
            DownstreamError::Unwritable => {
                let flags = Flags::UPSTREAM_PROTOCOL_ERROR;
                Reply::new(StatusCode::BAD_GATEWAY, flags, "upstream_protocol_error").into()
            }
            DownstreamError::Gone | DownstreamError::H2(_) => Self::Gone,
        }
    }
}

/// One request under way. It is counted and logged when it is dropped, however it ended.
#[derive(Debug)]
pub struct Exchange<'c> {
    pub(super) cx: &'c Context,
    pub(super) head: RequestHead,
    pub(super) framing: BodyFraming,
    pub(super) upgrade: Option<Bytes>,
    pub(super) version: Version,
    pub(super) started: Instant,
    pub(super) summary: Summary,
    pub(super) response: Option<ResponseHead>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) is_grpc: bool,
    /// Body bytes from the downstream, as far as they have come.
    received: &'c Cell<u64>,
    /// The route of an answer that is given here, whose edits it gets.
    answering: Option<Routed>,
    is_over: bool,
}

/// What an exchange leaves behind.
#[derive(Debug)]
pub struct Ended {
    /// What the connection became, if it did.
    pub tunnel: Option<Tunnel>,
    /// The room of the request's fields, for the next request of the connection.
    pub spare: HeaderMap,
}

/// Serves one request.
///
/// *Cancel safety*: dropping it gives back everything it holds, counts and logs the request; the
/// response may be cut.
pub async fn exchange(
    cx: &Context,
    incoming: Incoming<'_>,
    out: &mut Responder<'_>,
    timer: &mut Timer,
) -> Ended {
    let _active = cx.stats.on_request(incoming.head.version);
    let received = Cell::new(0);
    let mut body = Replay::new(incoming.body, Keep::Nothing, &received);
    let (framing, upgrade) = (incoming.framing, incoming.upgrade);
    let mut exchange = Exchange::new(cx, incoming.head, (framing, upgrade), &received);
    let deadlines = Deadlines::unrouted(&cx.hcm.timeouts, exchange.started);
    let mut bounds = Bounds { deadlines, timer };
    let served = exchange.serve(&mut body, out, &mut bounds).await;
    let tunnel = match served {
        Ok(Some(switched)) => Some(Tunnel {
            limits: bounds.tunnel_limits(cx.worker.now()),
            switched,
            log: exchange.pend(),
        }),
        Ok(None) => None,
        Err(stop) => {
            exchange.end(stop, &mut body, out, &mut bounds).await;
            None
        }
    };
    exchange.account();
    Ended {
        tunnel,
        spare: std::mem::take(&mut exchange.head.headers),
    }
}

/// Answers what cannot be served as a request, with the log and the counts of one.
pub async fn answer_only(
    cx: &Context,
    head: RequestHead,
    reply: Reply,
    out: &mut Responder<'_>,
    timer: &mut Timer,
) {
    let _active = cx.stats.on_request(head.version);
    let received = Cell::new(0);
    let mut exchange = Exchange::new(cx, head, (BodyFraming::Empty, None), &received);
    let deadlines = Deadlines::reply(&cx.hcm.timeouts, exchange.started);
    let mut bounds = Bounds { deadlines, timer };
    out.close_after();
    exchange.reply_within(reply, out, &mut bounds).await;
    exchange.account();
}

impl<'c> Exchange<'c> {
    fn new(
        cx: &'c Context,
        head: RequestHead,
        (framing, upgrade): (BodyFraming, Option<Bytes>),
        received: &'c Cell<u64>,
    ) -> Self {
        Self {
            cx,
            version: head.version,
            is_grpc: remora_ir::route::is_grpc(&head),
            head,
            framing,
            upgrade,
            started: cx.worker.now(),
            summary: Summary::default(),
            response: None,
            trailers: None,
            received,
            answering: None,
            is_over: false,
        }
    }

    /// Rows 8 to 15 of the road.
    async fn serve(
        &mut self,
        body: &mut Replay<'_>,
        out: &mut Responder<'_>,
        bounds: &mut Bounds<'_>,
    ) -> Result<Option<super::tunnel::Switched>, Stop> {
        let hcm = &self.cx.hcm;
        headers::normalize_path(&mut self.head, &hcm.path)?;
        let is_awaited = self.edit_at_entry();
        let routed = self.route()?;
        self.summary.route = Some(Arc::clone(&routed.route.name));
        let forward = match &routed.route.action {
            Action::Forward(forward) => forward,
            Action::Redirect(to) => {
                let reply = redirect::reply(to, &routed.route.matches.path, &self.head);
                self.answering = Some(routed);
                return Err(reply.into());
            }
            Action::Direct(direct) => {
                let reply = redirect::direct(direct);
                self.answering = Some(routed);
                return Err(reply.into());
            }
        };
        let choice = choose(&forward.target, self.cx.worker.random());
        let cluster = match self.cluster(choice.slot(), forward) {
            Ok(cluster) => cluster,
            Err(reply) => {
                self.answering = Some(routed);
                return Err(reply.into());
            }
        };
        let edits = routed.edits(choice.edits());
        let retry = forward.retry.as_ref().or(routed.host.retry.as_ref());
        let plan = Plan {
            forward,
            cluster: &cluster,
            host: &routed.host,
            retry,
            edits,
        };
        self.prepare(&plan, &choice, bounds);
        if retry.is_some_and(|retry| retry.retries > 0) || !forward.mirrors.is_empty() {
            body.keep_from_start(Keep::UpTo(hcm.limits.max_replay));
        }
        if is_awaited {
            // Somebody wants the body now: the proxy, which can send it on.
            let go_on = ResponseHead::local(StatusCode::CONTINUE);
            out.informational(&go_on).await?;
        }
        let attempted = Attempts::new(self, &plan, bounds).run(body, out).await;
        if matches!(attempted, Err(Stop::Reply(_))) {
            self.answering = Some(routed);
        }
        attempted
    }

    /// What is done to every request; tells whether its peer waits for `100 Continue`.
    fn edit_at_entry(&mut self) -> bool {
        let Context {
            worker,
            hcm,
            connection,
            ..
        } = self.cx;
        headers::on_request(&mut self.head, connection, &hcm.headers, || worker.random());
        if self.cx.is_inbound {
            headers::strip_peer_metadata(&mut self.head.headers);
        }
        let is_expected = headers::take_expectation(&mut self.head.headers);
        is_expected && !self.framing.is_empty() && self.version != Version::Http10
    }

    /// The table, virtual host and route of the request.
    fn route(&self) -> Result<Routed, Reply> {
        let table = match &self.cx.hcm.routes {
            Routes::Inline(table) => Arc::clone(table),
            Routes::Named(name) => {
                self.cx
                    .worker
                    .with_live(|live| match live.snapshot.route_table(name) {
                        Lookup::Found(table) => Ok(Arc::clone(table)),
                        Lookup::Missing | Lookup::Unresolved => Err(Reply::no_route()),
                    })?
            }
        };
        let found = table.route(&self.head, self.cx.worker.random());
        let (host, route) = found.ok_or_else(Reply::no_route)?;
        let (host, route) = (Arc::clone(host), Arc::clone(route));
        Ok(Routed { table, host, route })
    }

    fn cluster(&mut self, slot: &ClusterSlot, forward: &Forward) -> Result<Arc<Cluster>, Reply> {
        self.summary.cluster = Some(slot.name().clone());
        match self.cx.worker.cluster(slot) {
            Lookup::Found(cluster) => Ok(cluster),
            Lookup::Missing | Lookup::Unresolved => {
                Err(Reply::no_cluster(forward.cluster_not_found))
            }
        }
    }

    /// Everything that is done to the head once, before the first attempt. Edits come before
    /// rewrites, as in Envoy, so that they see what was asked.
    fn prepare(&mut self, plan: &Plan<'_>, choice: &Choice<'_>, bounds: &mut Bounds<'_>) {
        let forward = plan.forward;
        let overall = forward.timeouts.overall;
        let asked = grpc_deadline(&forward.timeouts, &self.head);
        let per_try = plan.retry.and_then(|retry| retry.per_try);
        let deadlines = &mut bounds.deadlines;
        deadlines.route(&forward.timeouts, asked, per_try, self.started);
        if !self.cx.hcm.headers.suppress_envoy_headers {
            set_expected_timeout(&mut self.head, deadlines.per_try().or(overall));
        }
        plan.edits
            .each(|edits| &edits.request, |edits| self.edit_request(edits));
        let rewrite = &forward.rewrite;
        headers::rewrite(&mut self.head, rewrite, plan.edits.path());
        if let Choice::Weighted(WeightedCluster {
            host_rewrite: Some(host),
            ..
        }) = choice
        {
            let host = host.as_bytes().clone();
            headers::rewrite_host(&mut self.head, host, rewrite.append_forwarded_host);
        }
        self.upgrade = self
            .upgrade
            .take()
            .filter(|offer| is_upgrade_allowed(offer, &self.cx.hcm.upgrades, &forward.upgrades));
    }

    fn edit_request(&mut self, edits: &HeaderEdits) {
        if edits.is_empty() {
            return;
        }
        // The formats read the head while the fields are written.
        let mut fields = self.head.headers.clone();
        headers::apply(edits, &mut fields, &self.record());
        self.head.headers = fields;
    }

    /// Applies the routes' edits and the proxy's own to a response.
    pub(super) fn edit_response(&self, head: &mut ResponseHead, edits: Option<&Edits<'_>>) {
        if let Some(edits) = edits {
            edits.each(
                |edits| &edits.response,
                |edits| {
                    if !edits.is_empty() {
                        let mut fields = head.headers.clone();
                        let record = Record {
                            response: Some(head),
                            ..self.record()
                        };
                        headers::apply(edits, &mut fields, &record);
                        head.headers = fields;
                    }
                },
            );
        }
        let Context { hcm, server, .. } = self.cx;
        headers::on_response(head, &hcm.headers, server, crate::wall::http_date);
        if self.cx.hcm.headers.request_id_in_response
            && let Some(id) = self.head.headers.get(&HeaderName::X_REQUEST_ID)
            && let Ok(id) = HeaderValue::from_bytes(id.clone())
        {
            head.headers.insert(HeaderName::X_REQUEST_ID, id);
        }
    }

    /// What is known so far. Reads the clock, which only formats ask for.
    pub(super) fn record(&self) -> Record<'_> {
        Record {
            connection: &self.cx.connection,
            start: began(self.cx.worker.now() - self.started),
            request: Some(&self.head),
            version: Some(self.version),
            response: self.response.as_ref(),
            trailers: self.trailers.as_ref(),
            summary: &self.summary,
        }
    }

    /// Turns a stop into bytes, flags and details.
    async fn end(
        &mut self,
        stop: Stop,
        body: &mut Replay<'_>,
        out: &mut Responder<'_>,
        bounds: &mut Bounds<'_>,
    ) {
        let reply = match stop {
            Stop::Reply(reply) => *reply,
            Stop::Gone => return self.gone(out),
            Stop::Broken(flags, details) => return self.stopped(flags, details, out),
            Stop::Refused(error) => {
                self.cx.stats.on_protocol_error();
                let flags = Flags::DOWNSTREAM_PROTOCOL_ERROR;
                let Some(status) = Responder::refusal_status(&error) else {
                    return self.stopped(flags, "http1.codec_error", out);
                };
                out.close_after();
                Reply::new(status, flags, "http1.codec_error").with_body(error.to_string())
            }
        };
        if !body.is_received() {
            body.discard_ready();
        }
        if !body.is_received() {
            // The rest of the request is not going to be read.
            out.close_after();
        }
        bounds.deadlines = Deadlines::reply(&self.cx.hcm.timeouts, self.cx.worker.now());
        self.reply_within(reply, out, bounds).await;
    }

    fn gone(&mut self, out: &mut Responder<'_>) {
        let flags = Flags::DOWNSTREAM_CLOSED;
        self.stopped(flags, "downstream_remote_disconnect", out);
    }

    fn stopped(
        &mut self,
        flags: Flags,
        details: impl Into<Cow<'static, str>>,
        out: &mut Responder<'_>,
    ) {
        self.summary.flags = self.summary.flags.union(flags);
        self.summary.details = Some(details.into());
        out.abort();
    }

    /// Answers by itself, within the bound on silence.
    async fn reply_within(
        &mut self,
        reply: Reply,
        out: &mut Responder<'_>,
        bounds: &mut Bounds<'_>,
    ) {
        let is_sent = tokio::select! {
            biased;
            () = self.reply(reply, out) => true,
            _ = bounds.expired() => false,
        };
        if !is_sent {
            self.stopped(Flags::STREAM_IDLE, "stream_idle_timeout", out);
        }
    }

    /// Answers by itself, unless an answer has begun already, which is then cut.
    async fn reply(&mut self, reply: Reply, out: &mut Responder<'_>) {
        let summary = &mut self.summary;
        summary.flags = summary.flags.union(reply.flags);
        summary.details = Some(reply.details.clone());
        summary
            .transport_failure
            .clone_from(&reply.transport_failure);
        if out.is_started() {
            out.abort();
            return;
        }
        if self.cx.drain.is_draining() {
            out.close_after();
        }
        let (mut head, body) = reply.into_response(self.is_grpc);
        let routed = self.answering.take();
        let edits = routed.as_ref().map(|routed| routed.edits(None));
        self.edit_response(&mut head, edits.as_ref());
        self.summary.status = Some(head.status.get());
        let framing = BodyFraming::Length(body.len() as u64);
        let sent = self.send_reply(&head, framing, body, out).await;
        self.response = Some(head);
        if sent.is_err() {
            self.gone(out);
        }
    }

    async fn send_reply(
        &mut self,
        head: &ResponseHead,
        framing: BodyFraming,
        body: Bytes,
        out: &mut Responder<'_>,
    ) -> Result<(), DownstreamError> {
        out.head(head, framing)?;
        self.summary.bytes_sent = body.len() as u64;
        out.data(body).await?;
        out.finish(None).await
    }

    /// Counts and logs, once.
    fn account(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let took = self.cx.worker.now() - self.started;
        self.summary.duration = Some(took);
        self.summary.bytes_received = self.received.get();
        self.cx.stats.on_end(&self.summary, took);
        let logs = &self.cx.hcm.access_logs;
        if !logs.is_empty() {
            self.cx.worker.logs.log(logs, &self.record());
        }
    }

    /// What a tunnel logs when it ends; the exchange itself no longer does.
    fn pend(&mut self) -> PendingLog {
        self.is_over = true;
        PendingLog {
            head: self.head.clone(),
            version: self.version,
            started: self.started,
            response: self.response.take(),
            summary: std::mem::take(&mut self.summary),
        }
    }
}

impl Drop for Exchange<'_> {
    /// An exchange that was given up half-way: its connection or stream ended.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let details = match self.cx.drain.stage() {
            Stage::Forced => "downstream_local_disconnect",
            Stage::Open | Stage::Graceful { .. } => "downstream_remote_disconnect",
        };
        self.summary.flags = self.summary.flags.union(Flags::DOWNSTREAM_CLOSED);
        self.summary.details = Some(details.into());
        self.account();
    }
}

/// When something began that has taken so long.
pub(super) fn began(took: std::time::Duration) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(took).unwrap_or(now)
}

fn set_expected_timeout(head: &mut RequestHead, timeout: Option<std::time::Duration>) {
    let Some(timeout) = timeout else { return };
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let value = HeaderValue::from_number(millis);
    head.headers
        .insert(HeaderName::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, value);
}

/// Whether an offer to upgrade is passed on. What a configuration names it decides; what nobody
/// named goes on as well and only an upstream's 101 makes a tunnel of it. HTTP/2 and TLS never
/// pass: behind such a tunnel no route would be looked at.
fn is_upgrade_allowed(offer: &Bytes, manager: &[Upgrade], route: &[Upgrade]) -> bool {
    let offers = offer.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let is = |name: &[u8], wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    for protocol in offers {
        let is_tls = protocol
            .get(..3)
            .is_some_and(|head| head.eq_ignore_ascii_case(b"tls"));
        if is(protocol, "h2c") || is(protocol, "h2") || is_tls {
            return false;
        }
        let named = |list: &[Upgrade]| {
            list.iter()
                .find(|up| is(protocol, &up.protocol))
                .map(|up| up.enabled)
        };
        if !named(route).or_else(|| named(manager)).unwrap_or(true) {
            return false;
        }
    }
    true
}

/// The answer for a bound that was met before an answer began.
pub(super) fn expired(why: Expired, is_request_complete: bool) -> Reply {
    match why {
        Expired::Overall => Reply::timeout(),
        Expired::PerTry => Reply::per_try_timeout(),
        Expired::Idle => Reply::stream_idle(is_request_complete),
        Expired::MaxStream => Reply::max_duration(),
        Expired::Request => Reply::request_timeout(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_pass_unless_forbidden_or_dangerous() {
        let up = |protocol: &str, enabled| Upgrade {
            protocol: protocol.into(),
            enabled,
        };
        let manager = [up("websocket", true), up("spdy/3.1", false)];
        let table = [
            ("websocket", true),
            ("WebSocket", true),
            ("spdy/3.1", false),
            ("foo", true),
            ("h2c", false),
            ("websocket, h2c", false),
            ("TLS/1.2", false),
        ];
        for (offer, expected) in table {
            let offer_ = Bytes::from_static(offer.as_bytes());
            assert_eq!(
                is_upgrade_allowed(&offer_, &manager, &[]),
                expected,
                "{offer}"
            );
        }
        let offer = Bytes::from_static(b"websocket");
        assert!(!is_upgrade_allowed(
            &offer,
            &manager,
            &[up("websocket", false)]
        ));
    }
}
