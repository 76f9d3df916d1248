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

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use remora_http::{BodyFraming, HeaderName, HeaderValue, RequestHead, ResponseHead, Version};
use remora_ir::action::{Action, Forward, Mirror, RetryPolicy, Target, Upgrade, WeightedCluster};
use remora_ir::header_edit::{HeaderEdits, MessageEdits};
use remora_ir::listener::{HttpConnectionManager, Routes};
use remora_ir::route::{Route, RouteTable, VirtualHost};
use remora_ir::{ClusterSlot, Lookup};
use remora_primitives::Instant;

use super::attempt::{Attempts, Tunnel};
use super::deadline::{Bounds, Deadlines, Expired, overall_timeout};
use super::downstream::{DownstreamError, Incoming, Responder};
use super::flags::Flags;
use super::record::{ConnectionRecord, Record, Summary};
use super::replay::{Keep, Replay};
use super::reply::Reply;
use super::stats::HttpStats;
use super::timer::Timer;
use super::{headers, mirror, redirect};
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
    Broken(Flags, &'static str),
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
                Self::Broken(Flags::UPSTREAM_PROTOCOL_ERROR, "upstream_protocol_error")
            }
            DownstreamError::Gone | DownstreamError::H2(_) => Self::Gone,
        }
    }
}

/// One request under way.
#[derive(Debug)]
pub struct Exchange<'c> {
    pub(super) cx: &'c Context,
    pub(super) head: RequestHead,
    pub(super) framing: BodyFraming,
    pub(super) upgrade: Option<Bytes>,
    pub(super) version: Version,
    pub(super) started: Instant,
    pub(super) start: SystemTime,
    pub(super) summary: Summary,
    pub(super) response: Option<ResponseHead>,
    pub(super) trailers: Option<remora_http::HeaderMap>,
    pub(super) is_grpc: bool,
}

/// Serves one request. Returns the tunnel if the connection became one.
///
/// *Cancel safety*: dropping it gives back everything it holds; the response may be cut.
pub async fn exchange<'c>(
    cx: &'c Context,
    incoming: Incoming<'c>,
    out: &mut Responder<'_>,
    timer: &mut Timer,
) -> Option<Tunnel> {
    let _active = cx.stats.on_request(incoming.head.version);
    let mut body = Replay::new(incoming.body, Keep::Nothing);
    let mut exchange = Exchange::new(cx, incoming.head, incoming.framing, incoming.upgrade);
    let deadlines = Deadlines::unrouted(cx.hcm.timeouts.stream_idle, exchange.started);
    let mut bounds = Bounds { deadlines, timer };
    let served = exchange.serve(&mut body, out, &mut bounds).await;
    let tunnel = match served {
        Ok(tunnel) => tunnel,
        Err(stop) => {
            exchange
                .end(stop, body.is_received(), out, &mut bounds)
                .await;
            None
        }
    };
    match tunnel {
        None => exchange.account(body.received()),
        Some(tunnel) => {
            let pending = exchange.into_pending();
            return Some(Tunnel {
                pending_log: Some(pending),
                ..tunnel
            });
        }
    }
    None
}

/// Answers what cannot be served as a request, with the log and the counts of one.
pub async fn answer_only(
    cx: &Context,
    incoming: Incoming<'_>,
    reply: Reply,
    out: &mut Responder<'_>,
    timer: &mut Timer,
) {
    let _active = cx.stats.on_request(incoming.head.version);
    let mut exchange = Exchange::new(cx, incoming.head, incoming.framing, None);
    let deadlines = Deadlines::unrouted(cx.hcm.timeouts.stream_idle, exchange.started);
    let mut bounds = Bounds { deadlines, timer };
    exchange.end(reply.into(), false, out, &mut bounds).await;
    exchange.account(0);
}

impl<'c> Exchange<'c> {
    fn new(
        cx: &'c Context,
        head: RequestHead,
        framing: BodyFraming,
        upgrade: Option<Bytes>,
    ) -> Self {
        Self {
            cx,
            version: head.version,
            is_grpc: remora_ir::route::is_grpc(&head),
            head,
            framing,
            upgrade,
            started: cx.worker.now(),
            start: SystemTime::now(),
            summary: Summary::default(),
            response: None,
            trailers: None,
        }
    }

    /// Rows 8 to 15 of the road.
    async fn serve(
        &mut self,
        body: &mut Replay<'_>,
        out: &mut Responder<'_>,
        bounds: &mut Bounds<'_>,
    ) -> Result<Option<Tunnel>, Stop> {
        let hcm = &self.cx.hcm;
        headers::normalize_path(&mut self.head, &hcm.path)?;
        let worker = &self.cx.worker;
        headers::on_request(&mut self.head, &self.cx.connection, &hcm.headers, || {
            worker.random()
        });
        let Routed { table, host, route } = self.route()?;
        self.summary.route = Some(Arc::clone(&route.name));
        let forward = match &route.action {
            Action::Forward(forward) => forward,
            Action::Redirect(to) => {
                return Err(redirect::reply(to, &route.matches.path, &self.head).into());
            }
            Action::Direct(direct) => return Err(redirect::direct(direct).into()),
        };
        let choice = choose(&forward.target, worker.random());
        let cluster = self.cluster(choice.slot(), forward)?;
        let edits = Edits {
            table: &table,
            host: &host,
            route: &route,
            choice: choice.edits(),
        };
        self.prepare(forward, &choice, &edits, bounds);
        let retry = forward.retry.as_ref().or(host.retry.as_ref());
        if retry.is_some_and(|retry| retry.retries > 0) || !forward.mirrors.is_empty() {
            body.keep_from_start(Keep::UpTo(hcm.limits.max_replay));
        }
        let plan = Plan {
            forward,
            cluster: &cluster,
            host: &host,
            retry,
            edits,
        };
        Attempts::new(self, &plan, bounds).run(body, out).await
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

    /// Everything that is done to the head once, before the first attempt.
    fn prepare(
        &mut self,
        forward: &Forward,
        choice: &Choice<'_>,
        edits: &Edits<'_>,
        bounds: &mut Bounds<'_>,
    ) {
        let overall = overall_timeout(&forward.timeouts, &self.head);
        let retry = forward.retry.as_ref().or(edits.host.retry.as_ref());
        let per_try = retry.and_then(|retry| retry.per_try);
        bounds
            .deadlines
            .route(&forward.timeouts, overall, per_try, self.started);
        if !self.cx.hcm.headers.suppress_envoy_headers {
            set_expected_timeout(&mut self.head, per_try.or(overall));
        }
        headers::rewrite(&mut self.head, &forward.rewrite, &edits.route.matches.path);
        if let Choice::Weighted(WeightedCluster {
            host_rewrite: Some(host),
            ..
        }) = choice
        {
            let append = forward.rewrite.append_forwarded_host;
            headers::rewrite_host(&mut self.head, host.as_bytes().clone(), append);
        }
        self.upgrade = self
            .upgrade
            .take()
            .filter(|offer| is_upgrade_allowed(offer, &self.cx.hcm.upgrades, &forward.upgrades));
        edits.each(|edits| &edits.request, |edits| self.edit_request(edits));
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
        let date = crate::wall::http_date();
        headers::on_response(head, &self.cx.hcm.headers, date);
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
        if self.cx.hcm.headers.request_id_in_response
            && let Some(id) = self.head.headers.get(&HeaderName::X_REQUEST_ID)
            && let Ok(id) = HeaderValue::from_bytes(id.clone())
        {
            head.headers.insert(HeaderName::X_REQUEST_ID, id);
        }
    }

    /// What is known so far.
    pub(super) fn record(&self) -> Record<'_> {
        Record {
            connection: &self.cx.connection,
            start: self.start,
            request: Some(&self.head),
            version: Some(self.version),
            response: self.response.as_ref(),
            trailers: self.trailers.as_ref(),
            summary: &self.summary,
        }
    }

    /// Copies the request to where the route mirrors it.
    pub(super) fn mirror(&self, mirrors: &[Mirror], body: &Replay<'_>) {
        for target in mirrors {
            if target.share.selects(self.cx.worker.random()) {
                mirror::send(self.cx, &self.head, self.framing, body, &target.slot);
            }
        }
    }

    /// Turns a stop into bytes, flags and details.
    async fn end(
        &mut self,
        stop: Stop,
        is_received: bool,
        out: &mut Responder<'_>,
        bounds: &mut Bounds<'_>,
    ) {
        let reply = match stop {
            Stop::Reply(reply) => *reply,
            Stop::Gone => {
                return self.stopped(
                    Flags::DOWNSTREAM_CLOSED,
                    "downstream_remote_disconnect",
                    out,
                );
            }
            Stop::Broken(flags, details) => return self.stopped(flags, details, out),
            Stop::Refused(error) => {
                self.cx.stats.on_protocol_error();
                let flags = Flags::DOWNSTREAM_PROTOCOL_ERROR;
                let Some(status) = Responder::refusal_status(&error) else {
                    return self.stopped(flags, "http1.codec_error", out);
                };
                Reply::new(status, flags, "http1.codec_error").with_body(error.to_string())
            }
        };
        if !is_received {
            // The rest of the request is not going to be read.
            out.close_after();
        }
        let answered = self.reply(reply, out);
        tokio::select! {
            biased;
            () = answered => {}
            _ = bounds.expired() => {}
        }
    }

    fn stopped(&mut self, flags: Flags, details: &'static str, out: &mut Responder<'_>) {
        self.summary.flags = self.summary.flags.union(flags);
        self.summary.details = Some(details.into());
        out.abort();
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
        let (mut head, body) = reply.into_response(self.is_grpc);
        self.edit_response(&mut head, None);
        self.summary.status = Some(head.status.get());
        let framing = BodyFraming::Length(body.len() as u64);
        let sent = self.send_reply(&head, framing, body, out).await;
        self.response = Some(head);
        if sent.is_err() {
            self.stopped(
                Flags::DOWNSTREAM_CLOSED,
                "downstream_remote_disconnect",
                out,
            );
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

    /// Counts and logs.
    fn account(&mut self, received: u64) {
        let now = self.cx.worker.now();
        self.summary.duration = Some(now - self.started);
        self.summary.bytes_received = received;
        self.cx
            .stats
            .on_end(self.summary.status, now - self.started);
        if !self.cx.hcm.access_logs.is_empty() {
            self.cx
                .worker
                .logs
                .log(&self.cx.hcm.access_logs, &self.record());
        }
    }

    /// What a tunnel logs when it ends.
    fn into_pending(self) -> PendingLog {
        PendingLog {
            head: self.head,
            version: self.version,
            started: self.started,
            start: self.start,
            response: self.response,
            summary: self.summary,
        }
    }
}

/// An exchange that became a tunnel: counted and logged when the tunnel ends.
#[derive(Debug)]
pub struct PendingLog {
    head: RequestHead,
    version: Version,
    started: Instant,
    start: SystemTime,
    response: Option<ResponseHead>,
    summary: Summary,
}

impl PendingLog {
    /// Counts and logs a tunnel that carried so many bytes.
    pub fn finish(mut self, cx: &Context, received: u64, sent: u64) {
        let now = cx.worker.now();
        self.summary.duration = Some(now - self.started);
        self.summary.bytes_received = received;
        self.summary.bytes_sent = sent;
        cx.stats.on_end(self.summary.status, now - self.started);
        let record = Record {
            connection: &cx.connection,
            start: self.start,
            request: Some(&self.head),
            version: Some(self.version),
            response: self.response.as_ref(),
            trailers: None,
            summary: &self.summary,
        };
        cx.worker.logs.log(&cx.hcm.access_logs, &record);
    }
}

/// Where a request belongs.
struct Routed {
    table: Arc<RouteTable>,
    host: Arc<VirtualHost>,
    route: Arc<Route>,
}

/// Everything the attempts need to know.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'p> {
    /// What the route asks.
    pub forward: &'p Forward,
    /// Where it goes.
    pub cluster: &'p Arc<Cluster>,
    /// The virtual host.
    pub host: &'p VirtualHost,
    /// What is tried again.
    pub retry: Option<&'p Arc<RetryPolicy>>,
    /// What is edited.
    pub edits: Edits<'p>,
}

/// The edits that hold for a request, at their four levels.
#[derive(Clone, Copy, Debug)]
pub struct Edits<'p> {
    table: &'p RouteTable,
    host: &'p VirtualHost,
    route: &'p Route,
    choice: Option<&'p MessageEdits>,
}

impl Edits<'_> {
    /// Visits the levels in the order in which they are applied: the most specific first, so that
    /// wider ones have the last word, or the other way round if the table says so.
    fn each(
        &self,
        side: impl Fn(&MessageEdits) -> &HeaderEdits,
        mut apply: impl FnMut(&HeaderEdits),
    ) {
        let levels = [
            self.choice,
            Some(&self.route.edits),
            Some(&self.host.edits),
            Some(&self.table.edits),
        ];
        let mut visit = |level: &Option<&MessageEdits>| {
            if let Some(level) = level {
                apply(side(level));
            }
        };
        if self.table.most_specific_wins {
            levels.iter().rev().for_each(&mut visit);
        } else {
            levels.iter().for_each(&mut visit);
        }
    }
}

/// The cluster that a target chose for this request.
enum Choice<'t> {
    Only(&'t Arc<ClusterSlot>),
    Weighted(&'t WeightedCluster),
}

fn choose(target: &Target, random: u64) -> Choice<'_> {
    match target {
        Target::Cluster(slot) => Choice::Only(slot),
        Target::Weighted(clusters) => match clusters.pick(random) {
            Some(cluster) => Choice::Weighted(cluster),
            // Not reached: the weights sum to more than zero, so every number picks one.
            None => Choice::Weighted(clusters.first()),
        },
    }
}

impl<'t> Choice<'t> {
    const fn slot(&self) -> &'t Arc<ClusterSlot> {
        match self {
            Self::Only(slot) => slot,
            Self::Weighted(cluster) => &cluster.slot,
        }
    }

    const fn edits(&self) -> Option<&'t MessageEdits> {
        match self {
            Self::Only(_) => None,
            Self::Weighted(cluster) => Some(&cluster.edits),
        }
    }
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
