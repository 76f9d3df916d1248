// SPDX-License-Identifier: Apache-2.0
//! The right to use a connection for one exchange.
//!
//! ```text
//!   lease ──split──▶ Writer: send_head, data…, finish     (both at once, either may end first)
//!                    Reader: head (1xx)*, frame…
//!   ──finish──▶ back to the pool      ──into_tunnel──▶ bytes both ways      ──drop──▶ closed, or reset
//! ```
//!
//! The exchange writes and reads without knowing which HTTP is spoken. A lease that is dropped
//! before [`Lease::finish`] takes its HTTP/1 connection with it, or resets its HTTP/2 stream.
//!
//! Invariant: no connection returns to its pool unless the request was sent to its end and the
//! response read to its end.

pub(super) mod h1;
pub(super) mod h2;
mod h2_convert;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use remora_balance::{ActiveRequest, HostRecord};
use remora_http::h1::ResponseEvent;
use remora_http::{BodyFraming, HeaderMap, RequestHead};
use remora_ir::cluster::{Priority, SourceAddress};
use remora_primitives::Instant;
use remora_rt::clock;
use remora_telemetry::GaugeHold;

use super::cluster::Cluster;
use super::connect::dial;
use super::error::{Failure, UpstreamError};
use super::guard::ConnectionGuard;
use super::local::Local;
use super::pool::{self, Key, Wire};
use super::stats::ClusterStats;
use crate::frame::Frame;
use crate::stream::Stream;
use h1::{H1Lease, H1Reader, H1Writer};
use h2::{H2Lease, H2Reader, H2Writer};

/// Which HTTP is spoken to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Whether a connection that has served before will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// If nothing is known against it. Costs nothing; for requests that may be repeated.
    #[default]
    IfNotStale,
    /// If the kernel says that it is open. One system call; for requests that may not.
    IfVerified,
    /// No; for the repetition after a kept connection turned out to be closed.
    Never,
}

/// What an attempt asks of its connection.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest {
    /// Which HTTP.
    pub protocol: Protocol,
    /// Whose limits count.
    pub priority: Priority,
    /// The downstream's address, for clusters that connect from it.
    pub peer: Option<SocketAddr>,
    /// How long the attempt may wait.
    pub deadline: Instant,
    /// Whether a used connection will do.
    pub reuse: Reuse,
}

/// How a request's head is written.
#[derive(Clone, Copy, Debug)]
pub struct RequestStart<'a> {
    /// How its body ends. With an empty one, the head ends the request.
    pub framing: BodyFraming,
    /// The protocols of an upgrade that is passed on.
    pub upgrade: Option<&'a Bytes>,
}

/// A connection, or a stream of one, for one exchange.
#[derive(Debug)]
pub enum Lease {
    /// Over HTTP/1.
    H1(H1Lease),
    /// Over HTTP/2.
    H2(Box<H2Lease>),
}

/// The half that sends the request.
#[derive(Debug)]
pub enum Writer<'l> {
    /// Over HTTP/1.
    H1(H1Writer<'l>),
    /// Over HTTP/2.
    H2(H2Writer<'l>),
}

/// The half that receives the response.
#[derive(Debug)]
pub enum Reader<'l> {
    /// Over HTTP/1.
    H1(H1Reader<'l>),
    /// Over HTTP/2.
    H2(H2Reader<'l>),
}

/// A connection that stopped speaking HTTP, with all that counts it.
#[derive(Debug)]
pub struct Tunnelled {
    /// The upstream's side.
    pub stream: Stream,
    guard: ConnectionGuard,
    _active: InUse,
}

/// A request under way, as the host and the statistics count it.
#[derive(Debug)]
pub(super) struct InUse {
    request: ActiveRequest,
    stats: Rc<ClusterStats>,
    has_ended: Cell<bool>,
    _active: GaugeHold,
}

/// Takes, opens or waits for a connection to a host.
///
/// The limit on requests is the exchange's: it holds one permit for all its attempts.
///
/// *Cancel safety*: safe; a dial under way is given up.
///
/// # Errors
/// [`Failure::Overflow`] if no more may wait, [`Failure::Deadline`], and what a dial fails with:
/// [`Failure::Connect`], [`Failure::ConnectTimeout`].
pub async fn lease(
    local: &Local,
    cluster: &Arc<Cluster>,
    host: &Arc<HostRecord>,
    request: &LeaseRequest,
) -> Result<Lease, UpstreamError> {
    let stats = local.stats(cluster);
    Ok(match request.protocol {
        Protocol::Http1 => {
            let taken = pool::h1::take(local, cluster, host, request, &stats).await?;
            Lease::H1(H1Lease::new(taken, InUse::start(host, &stats)))
        }
        Protocol::Http2 => {
            let taken = pool::h2::take(local, cluster, host, request, &stats).await?;
            Lease::H2(Box::new(H2Lease::new(taken, InUse::start(host, &stats))))
        }
    })
}

/// Makes a lease of a connection that [`connect`] dialled before the protocol was known.
///
/// # Errors
/// If HTTP/2 cannot be started on it.
pub async fn adopt(
    local: &Local,
    cluster: &Arc<Cluster>,
    (stream, mut guard): (Stream, ConnectionGuard),
    request: &LeaseRequest,
) -> Result<Lease, UpstreamError> {
    let stats = local.stats(cluster);
    let host = Arc::clone(guard.host());
    let wire = match request.protocol {
        Protocol::Http1 => Wire::Http1,
        Protocol::Http2 => Wire::Http2,
    };
    let entry = local.pools().entry(
        cluster,
        &host,
        Key::new(cluster, wire, request.priority, request.peer),
    );
    guard.join_pool(&entry);
    Ok(match request.protocol {
        Protocol::Http1 => {
            let connection = pool::h1::H1Connection::new(stream, guard, cluster, clock::now());
            let taken = pool::h1::Taken {
                connection,
                entry,
                reused: false,
            };
            Lease::H1(H1Lease::new(taken, InUse::start(&host, &stats)))
        }
        Protocol::Http2 => {
            let taken = pool::h2::start(entry, cluster, stream, guard).await?;
            Lease::H2(Box::new(H2Lease::new(taken, InUse::start(&host, &stats))))
        }
    })
}

/// Connects for a TCP session, at default priority, within the cluster's limit of connections.
/// `peer` is the downstream's address, for clusters that connect from it.
///
/// *Cancel safety*: safe; the dial is given up.
///
/// # Errors
/// [`Failure::Overflow`], [`Failure::Connect`], [`Failure::ConnectTimeout`], or
/// [`Failure::Deadline`] if the caller's own deadline came first.
pub async fn connect(
    local: &Local,
    cluster: &Arc<Cluster>,
    host: &Arc<HostRecord>,
    peer: Option<SocketAddr>,
    deadline: Instant,
) -> Result<(Stream, ConnectionGuard), UpstreamError> {
    let stats = local.stats(cluster);
    let priority = Priority::Default;
    let key = Key::new(cluster, Wire::Tcp, priority, peer);
    let entry = local.pools().entry(cluster, host, key);
    let guard = entry.claim(cluster, priority, &stats).map_err(|overflow| {
        stats.cx_overflow.increment();
        Failure::Overflow(overflow)
    })?;
    let stream = dial(&guard, &cluster.policy.connection, peer, deadline).await?;
    Ok((stream, guard))
}

impl Lease {
    /// Whether the connection has served before.
    #[must_use]
    pub const fn reused(&self) -> bool {
        match self {
            Self::H1(lease) => lease.reused(),
            Self::H2(lease) => lease.reused(),
        }
    }

    /// The host it leads to.
    #[must_use]
    pub const fn host(&self) -> &Arc<HostRecord> {
        match self {
            Self::H1(lease) => lease.host(),
            Self::H2(lease) => lease.host(),
        }
    }

    /// Our address on the connection; a system call for HTTP/1.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::H1(lease) => lease.local_addr(),
            Self::H2(lease) => lease.local_addr(),
        }
    }

    /// Which HTTP is spoken.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::H1(_) => Protocol::Http1,
            Self::H2(_) => Protocol::Http2,
        }
    }

    /// The two halves, for use at the same time.
    pub fn split(&mut self) -> (Writer<'_>, Reader<'_>) {
        match self {
            Self::H1(lease) => {
                let (writer, reader) = lease.split();
                (Writer::H1(writer), Reader::H1(reader))
            }
            Self::H2(lease) => {
                let (writer, reader) = lease.split();
                (Writer::H2(writer), Reader::H2(reader))
            }
        }
    }

    /// Ends the exchange and gives the connection back, if it can carry another one; else it is
    /// closed. Says whether it was kept.
    #[allow(clippy::must_use_candidate, reason = "most callers need not know")]
    pub fn finish(self) -> bool {
        match self {
            Self::H1(lease) => lease.finish(),
            Self::H2(lease) => lease.finish(),
        }
    }

    /// Ends the exchange without giving an HTTP/1 connection back: after an upgrade that was asked
    /// for and not granted, nobody can be sure what the upstream expects next.
    pub fn close(self) {
        match self {
            Self::H1(lease) => lease.close(),
            Self::H2(lease) => {
                lease.finish();
            }
        }
    }

    /// After [`ResponseEvent::Upgraded`]: the stream itself, and the bytes that came behind the
    /// head. `None` over HTTP/2, where a tunnel's bytes are frames of the exchange.
    #[must_use]
    pub fn into_tunnel(self) -> Option<(Tunnelled, BytesMut)> {
        match self {
            Self::H1(lease) => Some(lease.into_tunnel()),
            Self::H2(_) => None,
        }
    }
}

impl Writer<'_> {
    /// Takes the head into the send buffer. It leaves with the next [`Self::data`],
    /// [`Self::finish`] or [`Self::flush`], so that head and first bytes share one write.
    ///
    /// # Errors
    /// [`Failure::Request`] if it cannot be written in the upstream's protocol; over HTTP/2 also
    /// what became of the connection.
    pub async fn send_head(
        &mut self,
        head: &RequestHead,
        start: &RequestStart<'_>,
    ) -> Result<(), UpstreamError> {
        match self {
            Self::H1(writer) => writer.send_head(head, start),
            Self::H2(writer) => writer.send_head(head, start).await,
        }
    }

    /// Sends some of the body; waits until the upstream (or the kernel for it) has taken it.
    ///
    /// *Cancel safety*: what is not sent yet stays with the lease; go on with [`Self::flush`].
    ///
    /// # Errors
    /// What became of the connection. The response may still be readable: the upstream may have
    /// answered and closed without reading on.
    pub async fn data(&mut self, bytes: Bytes) -> Result<(), UpstreamError> {
        match self {
            Self::H1(writer) => writer.data(bytes).await,
            Self::H2(writer) => writer.data(bytes).await,
        }
    }

    /// Sends what was taken in and is not sent yet.
    ///
    /// *Cancel safety*: safe, call again.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub async fn flush(&mut self) -> Result<(), UpstreamError> {
        match self {
            Self::H1(writer) => writer.flush().await,
            Self::H2(writer) => writer.flush().await,
        }
    }

    /// Ends the request, with trailers if its framing has a place for them, and sends the rest.
    ///
    /// *Cancel safety*: the end is noted first; go on with [`Self::flush`].
    ///
    /// # Errors
    /// As [`Self::data`]; [`Failure::Request`] if the body is shorter than announced.
    pub async fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), UpstreamError> {
        match self {
            Self::H1(writer) => writer.finish(trailers).await,
            Self::H2(writer) => writer.finish(trailers).await,
        }
    }
}

impl Reader<'_> {
    /// Waits for the next head: any number of informational ones, then a final one or an upgrade.
    ///
    /// *Cancel safety*: safe.
    ///
    /// # Errors
    /// Why there will be none.
    pub async fn head(&mut self) -> Result<ResponseEvent, UpstreamError> {
        match self {
            Self::H1(reader) => reader.head().await,
            Self::H2(reader) => reader.head().await,
        }
    }

    /// Waits for the next piece of the body; `None` at its end.
    ///
    /// *Cancel safety*: safe.
    ///
    /// # Errors
    /// Why the body is not complete.
    pub async fn frame(&mut self) -> Result<Option<Frame>, UpstreamError> {
        match self {
            Self::H1(reader) => reader.frame().await,
            Self::H2(reader) => reader.frame().await,
        }
    }

    /// The next piece of the body if it is here already.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn try_frame(&mut self) -> Poll<Result<Option<Frame>, UpstreamError>> {
        match self {
            Self::H1(reader) => reader.try_frame(),
            Self::H2(reader) => reader.try_frame(),
        }
    }

    /// Gives the room of a response's fields to the next response on this connection.
    pub fn recycle(&mut self, headers: HeaderMap) {
        match self {
            Self::H1(reader) => reader.recycle(headers),
            Self::H2(_) => drop(headers),
        }
    }
}

impl Tunnelled {
    /// The host it leads to.
    #[must_use]
    pub const fn host(&self) -> &Arc<HostRecord> {
        self.guard.host()
    }

    /// Says that the upstream ended the tunnel, for the statistics.
    pub fn on_remote_close(&self) {
        self.guard.on_remote_close();
    }
}

impl InUse {
    fn start(host: &Arc<HostRecord>, stats: &Rc<ClusterStats>) -> Self {
        stats.rq_total.increment();
        Self {
            request: ActiveRequest::start(host),
            stats: Rc::clone(stats),
            has_ended: Cell::new(false),
            _active: stats.rq_active.hold(),
        }
    }

    pub(super) const fn host(&self) -> &Arc<HostRecord> {
        self.request.host()
    }

    pub(super) const fn stats(&self) -> &Rc<ClusterStats> {
        &self.stats
    }

    /// The exchange is over, and not because it is given up here.
    pub(super) fn on_end(&self) {
        self.has_ended.set(true);
    }

    /// The upstream broke the exchange off.
    pub(super) fn on_remote_reset(&self) {
        if !self.has_ended.replace(true) {
            self.stats.rq_rx_reset.increment();
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if !self.has_ended.get() {
            self.stats.rq_tx_reset.increment();
        }
    }
}

impl Key {
    pub(super) fn new(
        cluster: &Cluster,
        protocol: Wire,
        priority: Priority,
        peer: Option<SocketAddr>,
    ) -> Self {
        let is_transparent = cluster.policy.connection.source == SourceAddress::Downstream;
        Self {
            protocol,
            priority,
            source: peer.filter(|_| is_transparent).map(|peer| peer.ip()),
        }
    }
}
