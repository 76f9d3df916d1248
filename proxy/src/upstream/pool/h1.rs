// SPDX-License-Identifier: Apache-2.0
//! HTTP/1 connections: taken, opened, waited for.

use std::rc::Rc;
use std::sync::Arc;

use remora_balance::HostRecord;
use remora_http::h1::Limits;
use remora_primitives::Instant;
use remora_rt::clock;

use super::{Entry, Kept, Key, Wire};
use crate::stream::Stream;
use crate::upstream::cluster::Cluster;
use crate::upstream::connect::dial;
use crate::upstream::error::Failure;
use crate::upstream::guard::ConnectionGuard;
use crate::upstream::lease::h1::{Receiving, Sending};
use crate::upstream::lease::{LeaseRequest, Reuse};
use crate::upstream::local::Local;
use crate::upstream::stats::ClusterStats;
use crate::upstream::waiting::Waiting;

/// A connection and the state of its codec.
#[derive(Debug)]
pub(in crate::upstream) struct H1Connection {
    pub(in crate::upstream) stream: Stream,
    pub(in crate::upstream) sending: Sending,
    pub(in crate::upstream) receiving: Receiving,
    pub(in crate::upstream) kept: Kept,
}

impl H1Connection {
    pub(in crate::upstream) fn new(
        stream: Stream,
        guard: ConnectionGuard,
        cluster: &Cluster,
        now: Instant,
    ) -> Box<Self> {
        guard.stats().cx_http1_total.increment();
        Box::new(Self {
            stream,
            sending: Sending::default(),
            receiving: Receiving::new(Limits::default()),
            kept: Kept::new(guard, cluster, now),
        })
    }

    /// Whether the upstream has closed, or said something nobody asked for.
    pub(super) fn is_stale(&self) -> bool {
        self.stream.is_stale()
    }

    /// Gives back the memory of a connection that has been silent for a while.
    pub(super) fn trim(&mut self) {
        self.sending.trim();
        self.receiving.trim();
    }
}

impl Entry {
    /// Takes the connection that was used last, since the others may then grow old and go.
    fn take_idle(&self, cluster: &Cluster, reuse: Reuse) -> Option<Box<H1Connection>> {
        if reuse == Reuse::Never {
            return None;
        }
        loop {
            // Not under a borrow below: a connection that is dropped tells the entry.
            let connection = self.idle.borrow_mut().pop()?;
            if connection.kept.settings() != cluster.settings() {
                continue;
            }
            let is_closed = match reuse {
                Reuse::IfVerified => connection.stream.peek_closed(),
                _ => connection.stream.is_stale(),
            };
            if !is_closed {
                return Some(connection);
            }
            connection.kept.guard.on_remote_close();
        }
    }

    /// Puts a connection back that has been used to its proper end.
    pub(in crate::upstream) fn put_back(&self, connection: Box<H1Connection>) {
        self.idle.borrow_mut().push(connection);
        self.freed.notify_one();
    }
}

/// A connection for one exchange, and whether it has served before.
pub(in crate::upstream) struct Taken {
    pub(in crate::upstream) connection: Box<H1Connection>,
    pub(in crate::upstream) entry: Rc<Entry>,
    pub(in crate::upstream) reused: bool,
}

/// Takes an idle connection, opens one, or waits for one.
pub(in crate::upstream) async fn take(
    local: &Local,
    cluster: &Arc<Cluster>,
    host: &Arc<HostRecord>,
    request: &LeaseRequest,
    stats: &Rc<ClusterStats>,
) -> Result<Taken, Failure> {
    let key = Key::new(cluster, Wire::Http1, request.priority, request.peer);
    let entry = local.pools().entry(cluster, host, key);
    if let Some(connection) = entry.take_idle(cluster, request.reuse) {
        return Ok(Taken {
            connection,
            entry,
            reused: true,
        });
    }
    open_or_wait(cluster, entry, request, stats).await
}

/// The part that allocates timers and permits; most requests never come here.
async fn open_or_wait(
    cluster: &Arc<Cluster>,
    entry: Rc<Entry>,
    request: &LeaseRequest,
    stats: &Rc<ClusterStats>,
) -> Result<Taken, Failure> {
    let waiting = Waiting::start(cluster, request.priority, stats)?;
    loop {
        match entry.claim(cluster, request.priority, stats) {
            Ok(guard) => {
                let policy = &cluster.policy.connection;
                let opened = dial(&guard, policy, request.peer, request.deadline).await;
                let stream = opened.inspect_err(|_| waiting.on_failure())?;
                waiting.end();
                let connection = H1Connection::new(stream, guard, cluster, clock::now());
                return Ok(Taken {
                    connection,
                    entry,
                    reused: false,
                });
            }
            Err(_) => {
                stats.cx_overflow.increment();
                waiting
                    .until(entry.freed.notified(), request.deadline)
                    .await?;
            }
        }
        // Whoever waits takes what there is, even if a fresh connection was asked for: the limit
        // leaves no other.
        let reuse = match request.reuse {
            Reuse::Never => Reuse::IfVerified,
            reuse => reuse,
        };
        if let Some(connection) = entry.take_idle(cluster, reuse) {
            waiting.end();
            return Ok(Taken {
                connection,
                entry,
                reused: true,
            });
        }
    }
}
