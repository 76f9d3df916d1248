// SPDX-License-Identifier: Apache-2.0
//! The DNS server of the proxy: names of the mesh from the name table, all others from the
//! machine's own nameservers, with the question as it was asked (split DNS).
//!
//! Each worker serves its share of the sockets; a program's questions come here by redirection.
//! [`serve`] is called by the worker's start. `answer` decides about a message, `udp` and `tcp`
//! carry messages, `forward` asks `nameservers` what the mesh does not know. Nothing is cached:
//! the nameservers do that, or the program's resolver.
//!
//! ```text
//!   udp ─┐           ┌─▶ reply from the table
//!        ├─▶ answer ─┤
//!   tcp ─┘           └─▶ forward ─▶ nameservers ─▶ reply as it came, or SERVFAIL
//! ```
//!
//! Invariants: every question is answered within a few seconds, if only by SERVFAIL; what waits
//! for an upstream is bounded, and what is known never waits behind it.

mod answer;
mod forward;
mod nameservers;
mod question;
mod tcp;
mod udp;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use hickory_proto::op::ResponseCode;
use remora_ir::names::NameTable;
use remora_telemetry::{Counter, Gauge, GaugeHold, Scope, ScopeKind};
use tokio::net::{TcpListener, UdpSocket};

use crate::state::DnsSockets;
use crate::worker::Worker;

use answer::{Decision, Transport};
use forward::Forwarder;
use nameservers::Nameservers;
use question::{Header, Question};

/// Serves a worker's share of the DNS sockets until dropped.
pub async fn serve(worker: Rc<Worker>, sockets: DnsSockets) {
    let metrics = worker.shared.metrics.scope(ScopeKind::Plain, "dns");
    let names = move || worker.with_live(|live| Arc::clone(&live.snapshot.names));
    run(Box::new(names), &metrics, sockets, Upstream::default()).await;
}

/// Whom to ask what the mesh does not know.
#[derive(Clone, Debug)]
struct Upstream {
    /// The file that names the nameservers.
    resolv_conf: PathBuf,
    /// Their port.
    port: u16,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            port: 53,
        }
    }
}

/// Looks up the name table in use.
type Names = Box<dyn Fn() -> Arc<NameTable>>;

async fn run(names: Names, metrics: &Scope, sockets: DnsSockets, upstream: Upstream) {
    let udp = sockets.udp.iter().map(std::net::UdpSocket::local_addr);
    let tcp = sockets.tcp.iter().map(std::net::TcpListener::local_addr);
    let own = udp.chain(tcp).filter_map(Result::ok).collect();
    let nameservers = Nameservers::new(upstream.resolv_conf, upstream.port, own);
    let server = Rc::new(Server {
        names,
        forwarder: Forwarder::new(nameservers),
        stats: Stats::new(metrics),
        in_flight: Rc::default(),
        turn: Cell::new(0),
        is_loop_told: Cell::new(false),
    });
    let mut parts: FuturesUnordered<LocalBoxFuture<'static, ()>> = FuturesUnordered::new();
    for socket in sockets.udp {
        match adopt_udp(socket) {
            Ok(socket) => parts.push(udp::serve(Rc::clone(&server), socket).boxed_local()),
            Err(error) => tracing::error!(%error, "DNS: a UDP socket cannot be served"),
        }
    }
    for socket in sockets.tcp {
        match adopt_tcp(socket) {
            Ok(socket) => parts.push(tcp::serve(Rc::clone(&server), socket).boxed_local()),
            Err(error) => tracing::error!(%error, "DNS: a TCP socket cannot be served"),
        }
    }
    while parts.next().await.is_some() {}
}

fn adopt_udp(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn adopt_tcp(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// What the sockets of a worker share.
struct Server {
    names: Names,
    forwarder: Forwarder,
    stats: Stats,
    in_flight: Rc<Cell<usize>>,
    turn: Cell<usize>,
    is_loop_told: Cell<bool>,
}

/// What becomes of a message that came in.
enum Outcome {
    /// It is answered.
    Reply(Vec<u8>),
    /// An upstream must be asked.
    Ask(Pending),
    /// It gets no answer.
    Nothing,
}

/// A question on its way upstream. It has one of the places for those.
struct Pending {
    query: Vec<u8>,
    question: Question,
    nodata: Option<Vec<u8>>,
    transport: Transport,
    _place: Place,
}

impl Server {
    /// Decides about a message from a peer.
    fn receive(&self, query: &[u8], peer: SocketAddr, transport: Transport) -> Outcome {
        self.stats.queries.increment();
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        match answer::answer(query, &(self.names)(), transport, turn) {
            Decision::Answer(reply) => {
                self.stats.answered.increment();
                Outcome::Reply(reply)
            }
            Decision::Refuse(reply) => {
                self.stats.refused.increment();
                Outcome::Reply(reply)
            }
            Decision::Drop => {
                self.stats.dropped.increment();
                Outcome::Nothing
            }
            Decision::Forward { question, .. } if self.is_loop(query, peer) => {
                self.stats.loops.increment();
                let code = ResponseCode::ServFail;
                Outcome::Reply(answer::failure(query, Some(&question), code))
            }
            Decision::Forward { question, nodata } => match self.take_place() {
                Some(place) => Outcome::Ask(Pending {
                    query: query.to_vec(),
                    question,
                    nodata,
                    transport,
                    _place: place,
                }),
                None => {
                    self.stats.overflow.increment();
                    let code = ResponseCode::ServFail;
                    Outcome::Reply(answer::failure(query, Some(&question), code))
                }
            },
        }
    }

    /// The reply to a question that is not answered here. There always is one.
    async fn ask(&self, pending: Pending) -> Vec<u8> {
        self.stats.forwarded.increment();
        let Pending {
            query,
            question,
            nodata,
            transport,
            _place,
        } = pending;
        match (
            self.forwarder.ask(&query, &question, transport).await,
            nodata,
        ) {
            (Ok(reply), Some(nodata)) if is_denial(&reply) => nodata,
            (Ok(reply), _) => reply,
            (Err(forward::Unanswered), _) => {
                self.stats.upstream_failures.increment();
                tracing::debug!(name = ?question.name, "DNS: no nameserver answered");
                answer::failure(&query, Some(&question), ResponseCode::ServFail)
            }
        }
    }

    /// Whether this is a question that went upstream from here and came back.
    fn is_loop(&self, query: &[u8], peer: SocketAddr) -> bool {
        let id = Header::read(query).map(|header| header.id);
        let is_loop = id.is_some_and(|id| self.forwarder.is_own(peer.port(), id));
        if is_loop && !self.is_loop_told.replace(true) {
            tracing::error!(
                %peer,
                "DNS: the proxy's own questions are redirected to it: exclude its user from the \
                 redirection (`remora-proxy redirect apply`), or run it as that user"
            );
        }
        is_loop
    }

    fn take_place(&self) -> Option<Place> {
        let taken = self.in_flight.get();
        (taken < MAX_IN_FLIGHT).then(|| {
            self.in_flight.set(taken + 1);
            Place {
                in_flight: Rc::clone(&self.in_flight),
                _hold: self.stats.active.hold(),
            }
        })
    }
}

/// Whether a reply says that there is no such name.
fn is_denial(reply: &[u8]) -> bool {
    let name_error = ResponseCode::NXDomain.low();
    Header::read(reply).is_some_and(|header| header.response_code == name_error)
}

/// The right to have one question under way upstream; given back when dropped.
#[must_use]
struct Place {
    in_flight: Rc<Cell<usize>>,
    _hold: GaugeHold,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }
}

/// Questions of one worker that may wait for an upstream. Each holds one socket, or a few while
/// nameservers are silent.
const MAX_IN_FLIGHT: usize = 512;

/// What is counted. Every query is one of answered, refused, dropped, loops, overflow,
/// forwarded.
struct Stats {
    queries: Counter,
    answered: Counter,
    refused: Counter,
    dropped: Counter,
    loops: Counter,
    overflow: Counter,
    forwarded: Counter,
    upstream_failures: Counter,
    active: Gauge,
}

impl Stats {
    fn new(scope: &Scope) -> Self {
        Self {
            queries: scope.counter("queries_total"),
            answered: scope.counter("answered_local"),
            refused: scope.counter("refused"),
            dropped: scope.counter("dropped"),
            loops: scope.counter("loops"),
            overflow: scope.counter("overflow"),
            forwarded: scope.counter("forwarded"),
            upstream_failures: scope.counter("upstream_failures"),
            active: scope.gauge("forward_active"),
        }
    }
}

#[cfg(test)]
mod tests;
