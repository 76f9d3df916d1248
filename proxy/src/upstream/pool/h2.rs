// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 connections: shared by streams, opened one at a time.
//!
//! A request takes a stream of the first connection with room (the peer's limit and ours), else
//! joins a dial under way, else opens another connection within the cluster's limit, else waits.
//! When a dial fails, all who joined it fail with it. A task drives each connection; the pool owns
//! it, so that it ends with the connection. GOAWAY and closed connections take no new streams.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong};
use remora_balance::HostRecord;
use remora_ir::cluster::{Http2Keepalive, Http2Options, UpstreamProtocol};
use remora_rt::clock;
use tokio::task::JoinHandle;

use super::{Dials, Entry, Kept, Key, Wire};
use crate::stream::{Prefixed, Stream};
use crate::upstream::cluster::Cluster;
use crate::upstream::connect::dial;
use crate::upstream::error::Failure;
use crate::upstream::guard::ConnectionGuard;
use crate::upstream::lease::{LeaseRequest, Reuse};
use crate::upstream::local::Local;
use crate::upstream::stats::ClusterStats;
use crate::upstream::waiting::Waiting;

/// The longest list of response fields that is accepted; that of HTTP/1 heads. Unit: bytes.
const MAX_HEADER_LIST: u32 = 60 * 1024;

/// A connection that streams share.
#[derive(Debug)]
pub(in crate::upstream) struct H2Connection {
    send: SendRequest<Bytes>,
    state: Rc<State>,
    streams: Cell<u32>,
    most_streams: u32,
    pub(in crate::upstream) local_addr: Option<SocketAddr>,
    pub(in crate::upstream) kept: Kept,
    driver: JoinHandle<()>,
}

/// What the driver tells.
#[derive(Debug, Default)]
struct State {
    is_closed: Cell<bool>,
    /// No new streams: GOAWAY, age, number of requests.
    is_retired: Cell<bool>,
}

/// The right to one stream; given back when dropped.
#[derive(Debug)]
pub(in crate::upstream) struct StreamHold {
    pub(in crate::upstream) connection: Rc<H2Connection>,
    entry: Rc<Entry>,
}

/// A stream for one exchange, and whether its connection has served before.
pub(in crate::upstream) struct Taken {
    pub(in crate::upstream) hold: StreamHold,
    pub(in crate::upstream) send: SendRequest<Bytes>,
    pub(in crate::upstream) reused: bool,
}

/// Takes a stream of an open connection, opens one, or waits for one.
pub(in crate::upstream) async fn take(
    local: &Local,
    cluster: &Arc<Cluster>,
    host: &Arc<HostRecord>,
    request: &LeaseRequest,
    stats: &Rc<ClusterStats>,
) -> Result<Taken, Failure> {
    let key = Key::new(cluster, Wire::Http2, request.priority, request.peer);
    let entry = local.pools().entry(cluster, host, key);
    if request.reuse != Reuse::Never
        && let Some(taken) = entry.take_stream(cluster)
    {
        return Ok(taken);
    }
    open_or_wait(cluster, &entry, request, stats).await
}

async fn open_or_wait(
    cluster: &Arc<Cluster>,
    entry: &Rc<Entry>,
    request: &LeaseRequest,
    stats: &Rc<ClusterStats>,
) -> Result<Taken, Failure> {
    let waiting = Waiting::start(cluster, request.priority, stats)?;
    let failures_seen = entry.dials.failures();
    loop {
        if entry
            .dials
            .has_room(options(cluster).max_concurrent_streams)
        {
            let _queued = Queued::join(entry);
            waiting
                .until(entry.freed.notified(), request.deadline)
                .await?;
        } else {
            match entry.claim(cluster, request.priority, stats) {
                Ok(guard) => {
                    let opened = open(cluster, entry, guard, request).await;
                    return opened
                        .inspect(|_| waiting.end())
                        .inspect_err(|_| waiting.on_failure());
                }
                Err(_) => {
                    stats.cx_overflow.increment();
                    waiting
                        .until(entry.freed.notified(), request.deadline)
                        .await?;
                }
            }
        }
        if let Some(taken) = entry.take_stream(cluster) {
            waiting.end();
            return Ok(taken);
        }
        if let Some(failure) = entry.dials.failed_since(failures_seen) {
            waiting.on_failure();
            return Err(failure);
        }
    }
}

async fn open(
    cluster: &Arc<Cluster>,
    entry: &Rc<Entry>,
    guard: ConnectionGuard,
    request: &LeaseRequest,
) -> Result<Taken, Failure> {
    let dialling = Dialling::start(entry);
    let policy = &cluster.policy.connection;
    let opened = match dial(&guard, policy, request.peer, request.deadline).await {
        Ok(stream) => start(Rc::clone(entry), cluster, stream, guard).await,
        Err(failure) => Err(failure),
    };
    opened.inspect_err(|failure| dialling.fail(failure))
}

/// Starts HTTP/2 on a connection.
pub(in crate::upstream) async fn start(
    entry: Rc<Entry>,
    cluster: &Arc<Cluster>,
    stream: Stream,
    guard: ConnectionGuard,
) -> Result<Taken, Failure> {
    let options = options(cluster);
    let local_addr = stream.local_addr().ok();
    let handshake = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .initial_max_send_streams(usize::try_from(options.max_concurrent_streams).unwrap_or(1))
        .max_header_list_size(MAX_HEADER_LIST)
        .handshake(stream.into_tokio(Bytes::new()));
    let (send, connection) = handshake
        .await
        .map_err(|error| Failure::Http2(error.to_string().into()))?;
    guard.stats().cx_http2_total.increment();
    let state = Rc::new(State::default());
    let driver = drive(
        connection,
        options.keepalive,
        Rc::clone(&state),
        Rc::downgrade(&entry),
    );
    let connection = Rc::new(H2Connection {
        send,
        state,
        streams: Cell::new(0),
        most_streams: options.max_concurrent_streams,
        local_addr,
        kept: Kept::new(guard, cluster, clock::now()),
        driver: tokio::task::spawn_local(driver),
    });
    entry.h2.borrow_mut().push(Rc::clone(&connection));
    entry.freed.notify_waiters();
    let send = connection.send.clone();
    Ok(Taken {
        hold: StreamHold::new(connection, entry),
        send,
        reused: false,
    })
}

/// Moves a connection's bytes until it ends or its peer stops answering pings.
async fn drive(
    mut connection: Connection<Prefixed, Bytes>,
    keepalive: Option<Http2Keepalive>,
    state: Rc<State>,
    entry: Weak<Entry>,
) {
    let pings = connection.ping_pong();
    match keepalive.zip(pings) {
        None => {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/2 connection to upstream ended");
            }
        }
        Some((keepalive, pings)) => tokio::select! {
            result = connection => if let Err(error) = result {
                tracing::debug!(%error, "HTTP/2 connection to upstream ended");
            },
            () = ping(pings, keepalive) => {
                tracing::debug!("HTTP/2 connection to upstream does not answer pings");
            }
        },
    }
    state.is_closed.set(true);
    if let Some(entry) = entry.upgrade() {
        entry.remove_closed();
    }
}

/// Returns when a ping was not answered in time.
async fn ping(mut pings: PingPong, keepalive: Http2Keepalive) {
    loop {
        tokio::time::sleep(keepalive.interval).await;
        let answer = pings.ping(Ping::opaque());
        match tokio::time::timeout(keepalive.timeout, answer).await {
            Ok(Ok(_)) => {}
            // The connection is at its end; its own future says so.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

impl Entry {
    fn take_stream(self: &Rc<Self>, cluster: &Cluster) -> Option<Taken> {
        let connections = self.h2.borrow();
        let mut fit = connections
            .iter()
            .filter(|one| one.kept.settings() == cluster.settings());
        let (connection, send) = fit.find_map(|one| Some((Rc::clone(one), one.ready()?)))?;
        drop(connections);
        let reused = connection.kept.requests() > 0;
        Some(Taken {
            hold: StreamHold::new(connection, Rc::clone(self)),
            send,
            reused,
        })
    }

    /// Drops what the driver has found closed, and lets others open anew.
    fn remove_closed(&self) {
        let mut gone = Vec::new();
        self.h2.borrow_mut().retain(|one| {
            if one.is_closed() {
                one.kept.guard.on_remote_close();
                one.kept.guard.set_busy(one.streams() > 0);
                gone.push(Rc::clone(one));
            }
            !one.is_closed()
        });
        drop(gone);
        self.freed.notify_one();
    }

    fn remove(&self, connection: &Rc<H2Connection>) {
        self.h2
            .borrow_mut()
            .retain(|one| !Rc::ptr_eq(one, connection));
    }
}

impl H2Connection {
    /// A handle for a new stream, if the connection has room for one.
    fn ready(&self) -> Option<SendRequest<Bytes>> {
        if self.is_closed() || self.state.is_retired.get() {
            return None;
        }
        let peers = u32::try_from(self.send.current_max_send_streams()).unwrap_or(u32::MAX);
        if self.streams.get() >= self.most_streams.min(peers) {
            return None;
        }
        let mut send = self.send.clone();
        match send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Some(send),
            Poll::Pending => None,
            // GOAWAY, or the connection is broken: its streams may go on, new ones may not.
            Poll::Ready(Err(_)) => {
                self.state.is_retired.set(true);
                None
            }
        }
    }

    pub(super) fn streams(&self) -> u32 {
        self.streams.get()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.is_closed.get()
    }
}

impl Drop for H2Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl StreamHold {
    fn new(connection: Rc<H2Connection>, entry: Rc<Entry>) -> Self {
        connection.streams.set(connection.streams() + 1);
        if connection.kept.on_request() {
            connection.state.is_retired.set(true);
        }
        Self { connection, entry }
    }

    /// Whether the connection may take further streams.
    pub(in crate::upstream) fn is_kept(&self) -> bool {
        let connection = &self.connection;
        !connection.is_closed()
            && !connection.state.is_retired.get()
            && self.entry.wants(connection.kept.settings())
    }
}

impl Drop for StreamHold {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection
            .streams
            .set(connection.streams().saturating_sub(1));
        if connection.streams() == 0 && !(self.is_kept() && connection.kept.may_stay(clock::now()))
        {
            self.entry.remove(connection);
        }
        self.entry.freed.notify_one();
    }
}

impl Dials {
    /// Whether a dial under way will have room for one more.
    fn has_room(&self, most_streams: u32) -> bool {
        let room = u64::from(most_streams) * u64::try_from(self.under_way.get()).unwrap_or(0);
        // One place is that of the request that dials.
        u64::from(self.queued.get()) + u64::try_from(self.under_way.get()).unwrap_or(0) < room
    }

    fn failures(&self) -> u64 {
        self.failures.get()
    }

    fn failed_since(&self, seen: u64) -> Option<Failure> {
        (self.failures.get() > seen).then(|| self.last_failure.borrow().clone())?
    }
}

/// A dial that others may join; it ends when dropped.
struct Dialling<'e>(&'e Entry);

impl<'e> Dialling<'e> {
    fn start(entry: &'e Entry) -> Self {
        entry.dials.under_way.set(entry.dials.under_way.get() + 1);
        Self(entry)
    }

    /// Lets those who joined fail, too; unless only this one's own time is over.
    fn fail(&self, failure: &Failure) {
        if *failure != Failure::Deadline {
            let dials = &self.0.dials;
            dials.failures.set(dials.failures() + 1);
            *dials.last_failure.borrow_mut() = Some(failure.clone());
        }
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.0
            .dials
            .under_way
            .set(self.0.dials.under_way.get().saturating_sub(1));
        self.0.freed.notify_waiters();
    }
}

/// A request that has joined a dial.
struct Queued<'e>(&'e Entry);

impl<'e> Queued<'e> {
    fn join(entry: &'e Entry) -> Self {
        entry.dials.queued.set(entry.dials.queued.get() + 1);
        Self(entry)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0
            .dials
            .queued
            .set(self.0.dials.queued.get().saturating_sub(1));
    }
}

fn options(cluster: &Cluster) -> Http2Options {
    match cluster.policy.protocol {
        UpstreamProtocol::Http2(options) | UpstreamProtocol::Downstream(options) => options,
        UpstreamProtocol::Http1 => Http2Options::DEFAULT,
    }
}
