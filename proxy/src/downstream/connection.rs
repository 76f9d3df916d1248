// SPDX-License-Identifier: Apache-2.0
//! A downstream connection from its accept to the filter chain that takes it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use remora_http::detect::tls::ClientHello;
use remora_ir::action::Target;
use remora_ir::listener::{ConnectionFacts, FilterChain, Listener, Network, TcpProxy};
use remora_ir::{ClusterSlot, Lookup};
use remora_primitives::Instant;
use remora_rt::clock;
use remora_rt::drain::Watch;
use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::Front;
use super::detect::{Detected as Found, detect};
use super::habit::Habit;
use super::life::{Hold, Life};
use super::original_dst::{self, NoDestination};
use super::sniff::{Detector, Verdict};
use crate::http::flags::Flags;
use crate::http::record::{ConnectionRecord, Summary};
use crate::network::dial::{Caller, PreDialled, dial};
use crate::network::tcp::{self, Dialling, Start, Upstream};
use crate::state::ConnectionGuard;
use crate::stream::Stream;

/// A downstream connection as it is handed to the chain that takes it.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub stream: Stream,
    /// Facts for logs and headers.
    pub record: ConnectionRecord,
    /// Where it was redirected from, if it was.
    pub original_dst: Option<SocketAddr>,
    /// The listener that has it; after a hand-off, the one of its original destination.
    pub listener: Arc<Listener>,
    /// Tells it when to end: graceful for the listener's retirement or the process' drain, then
    /// forced.
    pub drain: Watch,
    /// When it was accepted.
    pub started: Instant,
    /// What its first bytes said.
    pub protocol: Detected,
    /// Counts it while it lives; default for a connection that nobody counts.
    pub hold: Hold,
}

/// The HTTP that the first bytes of a connection are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Nobody has looked.
    #[default]
    Unknown,
}

/// A connection as it was accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// The listener whose socket it came by.
    pub(super) life: Rc<Life>,
    /// Its place in the process' budget.
    pub(super) place: ConnectionGuard,
}

/// Serves a connection from its accept to its end.
pub(super) async fn serve(front: Rc<Front>, accepted: Accepted) {
    let started = clock::now();
    let Accepted {
        stream,
        peer,
        life,
        place,
    } = accepted;
    let peer = original_dst::canonical(peer);
    let interception = life.listener.interception;
    let destination = match original_dst::find(&stream, interception, &front.captures()) {
        Ok(destination) => destination,
        Err(error) => return refuse(&front, &life, (stream, peer, started), &error),
    };
    let life = front.hand_off(&life, destination.address);
    let Some(hold) = life.try_hold(place, &front.worker.shared) else {
        life.stats.cx_overflow.increment();
        tracing::debug!(listener = %life.listener.name, %peer, "connection limit reached");
        return;
    };
    let connection = Connection {
        stream: Stream::tcp_as_is(stream),
        record: ConnectionRecord {
            peer,
            local: destination.address,
            server_name: None,
        },
        original_dst: destination.is_original.then_some(destination.address),
        listener: Arc::clone(&life.listener),
        drain: life.watch().clone(),
        started,
        protocol: Detected::Unknown,
        hold,
    };
    let destination = destination.address;
    let needs_bytes = life.listener.chains.needs_bytes(destination)
        && (life.listener.inspect.tls || life.listener.inspect.http);
    if needs_bytes {
        inspect(&front, &life, connection).await;
    } else {
        let chain = find_chain(&life.listener, &connection, &Facts::none());
        let start = Start::default();
        dispatch(&front, &life, connection, chain, start).await;
    }
}

/// Closes a connection whose destination cannot be served; it is logged like any other.
fn refuse(
    front: &Front,
    life: &Rc<Life>,
    (stream, peer, started): (TcpStream, SocketAddr, Instant),
    error: &NoDestination,
) {
    let details = match error {
        NoDestination::Unknown(_) => {
            life.stats.no_original_dst.increment();
            "original_destination_unknown"
        }
        NoDestination::Loop(_) => {
            life.stats.loops.increment();
            "original_destination_is_this_proxy"
        }
        NoDestination::Gone(_) => return,
    };
    tracing::debug!(listener = %life.listener.name, %peer, %error, "connection refused");
    let local = stream
        .local_addr()
        .map_or(life.listener.address, original_dst::canonical);
    let connection = Connection {
        stream: Stream::tcp_as_is(stream),
        record: ConnectionRecord {
            peer,
            local,
            server_name: None,
        },
        original_dst: None,
        listener: Arc::clone(&life.listener),
        drain: life.watch().clone(),
        started,
        protocol: Detected::Unknown,
        hold: Hold::default(),
    };
    close(front, &connection, details);
}

/// Closes a connection that nothing takes, with flag `NR`.
fn close(front: &Front, connection: &Connection, details: &'static str) {
    let mut summary = Summary {
        flags: Flags::NO_ROUTE,
        details: Some(details.into()),
        ..Summary::default()
    };
    tcp::log(
        &front.worker,
        &connection.listener.access_logs,
        connection,
        &mut summary,
    );
}

/// Looks at the first bytes, and goes on with the chain that they choose.
async fn inspect(front: &Rc<Front>, life: &Rc<Life>, mut connection: Connection) {
    let destination = connection.record.local;
    let silent_chain = tcp_chain(&life.listener, &connection);
    let habit = front.habit_of(destination);
    let detector = Detector::new(
        life.listener.inspect,
        habit,
        silent_chain.is_some(),
        connection.started,
    );
    let caller = Caller {
        peer: connection.record.peer,
        original_dst: connection.original_dst,
    };
    let ahead = || dial_ahead(front, silent_chain.as_ref().map(|(_, proxy)| proxy), caller);
    let found = detect(&connection.stream, detector, ahead, &connection.drain).await;
    if let Some(habit) = seen(&found.verdict) {
        front.learn(destination, habit);
    }
    tracing::debug!(%destination, peer = %connection.record.peer, verdict = ?found.verdict, "detected");
    let facts = Facts::of(&found.verdict, &life.listener);
    connection.record.server_name =
        (!facts.server_name.is_empty()).then(|| facts.server_name.into());
    connection.protocol = match found.verdict {
        Verdict::Http1 { .. } => Detected::Http1,
        Verdict::Http2 => Detected::Http2,
        _ => Detected::Unknown,
    };
    let chain = match &found.verdict {
        Verdict::Gone => return,
        Verdict::TimedOut => {
            life.stats.pre_cx_timeout.increment();
            return close(front, &connection, "listener_filter_timeout");
        }
        // The greeting came from the host of this chain, so it goes on with this chain.
        Verdict::ServerFirst(_) => silent_chain.as_ref().map(|(chain, _)| Arc::clone(chain)),
        _ => find_chain(&life.listener, &connection, &facts),
    };
    let is_dialled_for = |chain: &Arc<FilterChain>| {
        silent_chain
            .as_ref()
            .is_some_and(|(dialled, _)| Arc::ptr_eq(dialled, chain))
    };
    let Found {
        first,
        greeting,
        upstream,
        ..
    } = found;
    let upstream = match (upstream, &chain) {
        (upstream, Some(chain)) if is_dialled_for(chain) => upstream,
        // Another chain may go to the same cluster; a dial that goes on would hold it up.
        (Upstream::Dialled(Ok(up)), Some(chain)) if may_use(chain, &up) => {
            Upstream::Dialled(Ok(up))
        }
        _ => Upstream::NotDialled,
    };
    dispatch(
        front,
        life,
        connection,
        chain,
        Start {
            first,
            greeting,
            upstream,
        },
    )
    .await;
}

/// Who spoke first.
const fn seen(verdict: &Verdict) -> Option<Habit> {
    match verdict {
        Verdict::ServerFirst(_) => Some(Habit::ServerFirst),
        Verdict::Tls(_)
        | Verdict::Http1 { .. }
        | Verdict::Http2
        | Verdict::FastCgi
        | Verdict::Redis => Some(Habit::ClientFirst),
        Verdict::Opaque | Verdict::Gone | Verdict::TimedOut => None,
    }
}

/// The TCP chain for a connection of which nothing is known: the one that matches, or the default.
fn tcp_chain(
    listener: &Listener,
    connection: &Connection,
) -> Option<(Arc<FilterChain>, Arc<TcpProxy>)> {
    let proxy_of = |chain: Arc<FilterChain>| match &chain.network {
        Network::Tcp(proxy) => {
            let proxy = Arc::clone(proxy);
            Some((chain, proxy))
        }
        Network::Http(_) => None,
    };
    find_chain(listener, connection, &Facts::none())
        .and_then(proxy_of)
        .or_else(|| listener.chains.default_chain().cloned().and_then(proxy_of))
}

/// Whether a chain may go to the cluster of a connection. An HTTP chain chooses per request; its
/// first one takes the connection or closes it.
fn may_use(chain: &FilterChain, up: &PreDialled) -> bool {
    let is_it = |slot: &ClusterSlot| slot.name() == up.cluster.name();
    match &chain.network {
        Network::Http(_) => true,
        Network::Tcp(proxy) => match &proxy.target {
            Target::Cluster(slot) => is_it(slot),
            Target::Weighted(clusters) => clusters.clusters().iter().any(|one| is_it(&one.slot)),
        },
    }
}

fn dial_ahead(front: &Rc<Front>, proxy: Option<&Arc<TcpProxy>>, caller: Caller) -> Dialling {
    let (worker, proxy) = (Rc::clone(&front.worker), proxy.cloned());
    Box::pin(async move {
        match proxy {
            Some(proxy) => dial(&worker, &proxy, caller).await,
            // The detector does not ask for it.
            None => std::future::pending().await,
        }
    })
}

/// What the first bytes say about the chain.
struct Facts<'v> {
    server_name: &'v str,
    is_tls: bool,
    protocols: SmallVec<[&'v str; 4]>,
}

impl<'v> Facts<'v> {
    const fn none() -> Self {
        Self {
            server_name: "",
            is_tls: false,
            protocols: SmallVec::new_const(),
        }
    }

    /// A listener that does not inspect a protocol does not tell it from others.
    fn of(verdict: &'v Verdict, listener: &Listener) -> Self {
        let mut facts = Self::none();
        let http = listener.inspect.http;
        match verdict {
            Verdict::Tls(hello) => facts.set_tls(hello),
            Verdict::Http1 { version10: true } if http => facts.protocols.push("http/1.0"),
            Verdict::Http1 { version10: false } if http => facts.protocols.push("http/1.1"),
            Verdict::Http2 if http => facts.protocols.push("h2c"),
            _ => {}
        }
        facts
    }

    fn set_tls(&mut self, hello: &'v ClientHello) {
        self.is_tls = true;
        self.server_name = hello.sni.as_ref().map_or("", |name| name.as_str());
        let texts = hello
            .alpn
            .iter()
            .filter_map(|name| std::str::from_utf8(name).ok());
        self.protocols.extend(texts);
    }
}

fn find_chain(
    listener: &Listener,
    connection: &Connection,
    facts: &Facts<'_>,
) -> Option<Arc<FilterChain>> {
    let facts = ConnectionFacts {
        destination: connection.record.local,
        source: connection.record.peer,
        server_name: facts.server_name,
        is_tls: facts.is_tls,
        application_protocols: &facts.protocols,
    };
    match listener.chains.find(&facts) {
        Lookup::Found(chain) => Some(Arc::clone(chain)),
        Lookup::Missing | Lookup::Unresolved => None,
    }
}

/// Hands a connection to its chain.
async fn dispatch(
    front: &Rc<Front>,
    life: &Rc<Life>,
    connection: Connection,
    chain: Option<Arc<FilterChain>>,
    start: Start,
) {
    let Some(chain) = chain else {
        life.stats.no_filter_chain_match.increment();
        return close(front, &connection, "filter_chain_not_found");
    };
    let worker = Rc::clone(&front.worker);
    match &chain.network {
        Network::Http(manager) => {
            let lease = match start.upstream {
                Upstream::Dialled(Ok(up)) => Some(up),
                _ => None,
            };
            let manager = Arc::clone(manager);
            // Apart, so that a connection of bytes does not carry the room that requests need.
            let serving = crate::http::serve(worker, connection, manager, start.first, lease);
            Box::pin(serving).await;
        }
        Network::Tcp(proxy) => {
            let Some(stats) = life.tcp_stats(proxy) else {
                return;
            };
            tcp::serve(worker, connection, Arc::clone(proxy), stats, start).await;
        }
    }
}
