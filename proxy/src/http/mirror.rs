// SPDX-License-Identifier: Apache-2.0
//! Mirrored requests: copies whose answers nobody waits for.
//!
//! A mirror is a task of its own with its own attempt, limits and deadline; it can slow or fail
//! nothing. Each one that a route asks for is counted once on its target: as sent
//! (`mirror_rq_total`) or as dropped (`mirror_rq_dropped`) for want of a place, of a cluster, or
//! of the whole request. As in Envoy, the copy's authority ends in `-shadow`.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use remora_balance::{Outcome, PickContext};
use remora_http::h1::ResponseEvent;
use remora_http::{BodyFraming, HeaderName, HeaderValue, RequestHead, Version};
use remora_ir::action::Mirror;
use remora_ir::cluster::{Priority, UpstreamProtocol};
use remora_ir::{ClusterSlot, Lookup};
use smallvec::SmallVec;

use super::exchange::Context;
use super::headers::append_forwarded_for;
use super::replay::Replay;
use crate::frame::Frame;
use crate::upstream::{
    self, Cluster, ClusterStats, Failure, LeaseRequest, PickRequest, Protocol, RequestStart, Reuse,
    UpstreamError,
};
use crate::worker::{MirrorPlace, Worker};

/// The whole time a mirrored request may take: Envoy's default route timeout.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The copies that are owed to one request. Each is sent or counted as dropped, whatever becomes
/// of the request.
#[derive(Debug)]
pub(super) struct Due<'p> {
    cx: &'p Context,
    targets: SmallVec<[&'p ClusterSlot; 2]>,
}

impl<'p> Due<'p> {
    /// Chooses the targets that this request is copied to.
    pub(super) fn choose(cx: &'p Context, mirrors: &'p [Mirror]) -> Self {
        let chosen = |mirror: &&Mirror| mirror.share.selects(cx.worker.random());
        let targets = mirrors.iter().filter(chosen);
        Self {
            cx,
            targets: targets.map(|mirror| &*mirror.slot).collect(),
        }
    }

    /// Sends the copies of a request that has come to its end. Further calls change nothing.
    pub(super) fn send(&mut self, head: &RequestHead, framing: BodyFraming, body: &Replay<'_>) {
        for target in std::mem::take(&mut self.targets) {
            send(self.cx, head, framing, body, target);
        }
    }
}

impl Drop for Due<'_> {
    fn drop(&mut self) {
        for target in &self.targets {
            match self.cx.worker.cluster(target) {
                Lookup::Found(cluster) => {
                    let stats = self.cx.worker.upstream.stats(&cluster);
                    stats.mirror_dropped.increment();
                }
                Lookup::Missing | Lookup::Unresolved => self.cx.stats.on_mirror_without_cluster(),
            }
        }
    }
}

/// Sends a copy, or counts that it could not.
fn send(
    cx: &Context,
    head: &RequestHead,
    framing: BodyFraming,
    body: &Replay<'_>,
    target: &ClusterSlot,
) {
    let worker = &cx.worker;
    let Lookup::Found(cluster) = worker.cluster(target) else {
        tracing::debug!(cluster = %target.name(), "mirror target does not exist");
        return cx.stats.on_mirror_without_cluster();
    };
    let tally = Tally {
        stats: worker.upstream.stats(&cluster),
        is_sent: Cell::new(false),
    };
    let frames = body
        .whole()
        .map(|frames| frames.cloned().collect::<Vec<_>>());
    let (Some(frames), Some(place)) = (frames, worker.mirror_place()) else {
        return;
    };
    let copy = Copy {
        worker: Rc::clone(worker),
        cluster,
        head: shadow(head, cx),
        framing,
        frames,
        peer: cx.connection.peer,
        original_dst: cx.original_dst,
        tally,
        _place: place,
    };
    tokio::task::spawn_local(copy.run());
}

/// Counts a copy when it ends: as dropped unless it was sent.
struct Tally {
    stats: Rc<ClusterStats>,
    is_sent: Cell<bool>,
}

impl Drop for Tally {
    fn drop(&mut self) {
        if self.is_sent.get() {
            self.stats.mirror_total.increment();
        } else {
            self.stats.mirror_dropped.increment();
        }
    }
}

/// The head of the copy.
fn shadow(head: &RequestHead, cx: &Context) -> RequestHead {
    let mut copy = head.clone();
    let host = remora_http::authority::strip_port(&copy.authority);
    let mut authority = BytesMut::with_capacity(copy.authority.len() + 7);
    authority.extend_from_slice(host);
    authority.extend_from_slice(b"-shadow");
    authority.extend_from_slice(copy.authority.get(host.len()..).unwrap_or_default());
    copy.authority = authority.freeze();
    let headers = &mut copy.headers;
    headers.insert(
        HeaderName::X_ENVOY_INTERNAL,
        HeaderValue::from_static("true"),
    );
    append_forwarded_for(headers, cx.connection.local.ip());
    copy
}

/// A copy on its way.
struct Copy {
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    head: RequestHead,
    framing: BodyFraming,
    frames: Vec<Frame>,
    peer: std::net::SocketAddr,
    original_dst: Option<std::net::SocketAddr>,
    tally: Tally,
    _place: MirrorPlace,
}

impl Copy {
    async fn run(self) {
        let result = tokio::time::timeout(TIMEOUT, self.attempt()).await;
        let is_dropped = match &result {
            Ok(Err(error)) => matches!(error.kind, Failure::Overflow(_) | Failure::NoHealthyHost),
            Ok(Ok(())) | Err(_) => false,
        };
        self.tally.is_sent.set(!is_dropped);
        tracing::trace!(cluster = %self.cluster.name(), ?result, "mirrored request ended");
    }

    async fn attempt(&self) -> Result<(), UpstreamError> {
        let local = &self.worker.upstream;
        let cluster = &self.cluster;
        let limits = cluster.limits().of(Priority::Default);
        let _permit = limits
            .try_request()
            .map_err(|over| UpstreamError::unsent(over.into()))?;
        let context = PickContext::first();
        let request = PickRequest {
            original_dst: self.original_dst,
            context,
        };
        let host = upstream::pick(local, cluster, &request).map_err(UpstreamError::unsent)?;
        let protocol = match cluster.policy().protocol {
            UpstreamProtocol::Http2(_) => Protocol::Http2,
            UpstreamProtocol::Downstream(_) if self.head.version == Version::Http2 => {
                Protocol::Http2
            }
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream(_) => Protocol::Http1,
        };
        let request = LeaseRequest {
            protocol,
            priority: Priority::Default,
            peer: Some(self.peer),
            deadline: self.worker.now() + TIMEOUT,
            // Nothing is sent twice here, so a look at the connection is worth its system call.
            reuse: Reuse::IfVerified,
        };
        let lease = upstream::lease(local, cluster, &host, &request).await;
        let answered = match lease {
            Ok(lease) => self.exchange(lease).await,
            Err(error) => Err(error),
        };
        let outcome = match &answered {
            Ok(status) => Some(Outcome::Status(*status)),
            Err(error) => error.outcome(),
        };
        if let Some(outcome) = outcome {
            cluster.on_outcome(local, &host, outcome);
        }
        answered.map(|_| ())
    }

    /// Sends the copy and reads the answer to its end, so that the connection can be kept.
    async fn exchange(&self, mut lease: upstream::Lease) -> Result<u16, UpstreamError> {
        let (mut writer, mut reader) = lease.split();
        let start = RequestStart {
            framing: self.framing,
            upgrade: None,
        };
        writer.send_head(&self.head, &start).await?;
        let mut trailers = None;
        for frame in &self.frames {
            match frame {
                Frame::Data(data) => writer.data(Bytes::clone(data)).await?,
                Frame::Trailers(fields) => trailers = Some(fields.clone()),
            }
        }
        writer.finish(trailers).await?;
        let status = loop {
            match reader.head().await? {
                ResponseEvent::Informational(_) => {}
                ResponseEvent::Upgraded(head) => return Ok(head.status.get()),
                ResponseEvent::Final(parsed) => break parsed.head.status,
            }
        };
        self.worker
            .upstream
            .stats(&self.cluster)
            .count_status(status);
        while reader.frame().await?.is_some() {}
        lease.finish();
        Ok(status.get())
    }
}
