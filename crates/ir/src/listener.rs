// SPDX-License-Identifier: Apache-2.0
//! Listeners: where connections come in, and which filter chain takes them.
//!
//! A chain is chosen from facts about the connection ([`ConnectionFacts`]) in Envoy's order:
//! destination port, destination address (longest prefix), server name, transport protocol,
//! application protocol, source address, source port. At each step the most specific group wins
//! and there is no way back, as in Envoy. Source: `envoy.config.listener.v3.Listener`.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::Lookup;
use crate::access_log::AccessLog;
use crate::action::{Target, Upgrade};
use crate::name::{ListenerName, RouteName};
use crate::route::RouteTable;

/// A listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: ListenerName,
    /// The address it stands for.
    pub address: SocketAddr,
    /// Further addresses it stands for (`additional_addresses`).
    pub more_addresses: Vec<SocketAddr>,
    /// Whether it owns a socket; one that does not is reached by original destination only.
    pub bind: Bind,
    /// Which way its traffic goes.
    pub direction: Direction,
    /// Whether a connection is handed to the listener of its original destination, if there is
    /// one (`use_original_dst`).
    pub hand_off: bool,
    /// How connections are intercepted.
    pub interception: Interception,
    /// What is looked at before a chain is chosen.
    pub inspect: Inspect,
    /// The chains.
    pub chains: FilterChains,
    /// Logs of connections.
    pub access_logs: Vec<AccessLog>,
    /// Connections at once beyond which new ones are closed.
    pub max_connections: Option<NonZeroU32>,
}

/// Whether a listener owns a socket. Source: `bind_to_port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// It listens.
    Port,
    /// It is only found by original destination.
    Nothing,
}

/// Source: `envoy.config.core.v3.TrafficDirection`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Not said.
    #[default]
    Unspecified,
    /// To the local workload.
    Inbound,
    /// From it.
    Outbound,
}

/// How a connection's original destination is had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interception {
    /// Nothing was redirected: the local address is the destination.
    #[default]
    None,
    /// By REDIRECT: SO_ORIGINAL_DST tells.
    Redirect,
    /// By TPROXY: the local address tells.
    Transparent,
}

/// What is looked at before a chain is chosen: the listener filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// Server name and ALPN of TLS (`tls_inspector`).
    pub tls: bool,
    /// HTTP and its version (`http_inspector`).
    pub http: bool,
    /// Bound on waiting for the first bytes; `None`: no bound. Default 15 s.
    pub timeout: Option<Duration>,
    /// Whether a connection goes on without the facts after that, or is closed.
    pub continue_on_timeout: bool,
}

/// What is known of a connection when a chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'a> {
    /// The original destination.
    pub destination: SocketAddr,
    /// The peer.
    pub source: SocketAddr,
    /// Server name of TLS, lower case; empty if none.
    pub server_name: &'a str,
    /// Whether it starts with a TLS ClientHello.
    pub is_tls: bool,
    /// ALPN of TLS, or what was sniffed: `http/1.0`, `http/1.1`, `h2c`.
    pub application_protocols: &'a [&'a str],
}

/// The chains of a listener.
#[derive(Clone, Debug, Default)]
pub struct FilterChains {
    chains: Vec<Arc<FilterChain>>,
    default: Option<Arc<FilterChain>>,
}

/// What is done with the connections that a match takes.
#[derive(Debug)]
pub struct FilterChain {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Which connections.
    pub matches: ChainMatch,
    /// What is done with them.
    pub network: Network,
}

/// Source: `FilterChainMatch`. An empty list or `None` takes anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// Port of the original destination.
    pub destination_port: Option<u16>,
    /// Networks of the original destination.
    pub destinations: Vec<IpNet>,
    /// Server names: `a.b`, or `*.b` kept as `.b`.
    pub server_names: Vec<ServerName>,
    /// TLS or not.
    pub transport: Option<Transport>,
    /// ALPN, or what was sniffed.
    pub application_protocols: Vec<Arc<str>>,
    /// Peers.
    pub sources: Vec<IpNet>,
    /// Ports of peers.
    pub source_ports: Vec<u16>,
}

/// A server name of a chain match, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// This name.
    Exact(Arc<str>),
    /// Names below this suffix; kept with its leading dot.
    Below(Arc<str>),
}

/// Source: `FilterChainMatch.transport_protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `raw_buffer`.
    Raw,
    /// `tls`.
    Tls,
}

/// The terminal network filter.
#[derive(Clone, Debug)]
pub enum Network {
    /// HTTP.
    Http(Arc<HttpConnectionManager>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
}

/// Bytes, relayed. Source: `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Debug)]
pub struct TcpProxy {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Where the bytes go.
    pub target: Target,
    /// Silence on both sides after which it is closed; `None`: never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// Age at which it is closed.
    pub max_duration: Option<Duration>,
    /// Attempts to connect before giving up. Default 1.
    pub connect_attempts: NonZeroU32,
    /// Logs.
    pub access_logs: Vec<AccessLog>,
}

/// HTTP. Source: `HttpConnectionManager`.
#[derive(Debug)]
pub struct HttpConnectionManager {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Which HTTP is accepted.
    pub codec: Codec,
    /// The routes.
    pub routes: Routes,
    /// Bounds on what a peer may send.
    pub limits: HttpLimits,
    /// Deadlines.
    pub timeouts: HttpTimeouts,
    /// Forwarded-for, ids and the like.
    pub headers: HeaderPolicy,
    /// How paths are made canonical before they are routed and forwarded.
    pub path: PathPolicy,
    /// Upgrades that are allowed.
    pub upgrades: Vec<Upgrade>,
    /// What the peer's HTTP/2 may do.
    pub http2: crate::cluster::Http2Options,
    /// Logs of requests.
    pub access_logs: Vec<AccessLog>,
}

/// Which HTTP a connection manager accepts. Source: `codec_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As the first bytes say.
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// Where a connection manager's routes are.
#[derive(Clone, Debug)]
pub enum Routes {
    /// In a resource of their own, looked up anew for each request.
    Named(RouteName),
    /// Here.
    Inline(Arc<RouteTable>),
}

/// Bounds on what a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Whole head of a request. Unit: bytes. Default 60 KiB.
    pub max_head: usize,
    /// Fields of a head. Default 100.
    pub max_fields: usize,
    /// Requests on a connection; `None`: any number.
    pub max_requests: Option<NonZeroU64>,
    /// Bytes of a body kept for a retry or a mirror. Default 1 MiB, Envoy's connection buffer.
    pub max_replay: usize,
}

/// Deadlines of downstream connections and streams; `None`: no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// Without a request (`common_http_protocol_options.idle_timeout`). Default 1 h.
    pub idle: Option<Duration>,
    /// Silence on a stream. Default 5 min.
    pub stream_idle: Option<Duration>,
    /// To the whole request (`request_timeout`). Default none.
    pub request: Option<Duration>,
    /// To the whole head (`request_headers_timeout`). Default none; the stream's idle bound
    /// holds for heads too.
    pub request_head: Option<Duration>,
    /// Age of the connection, after which it drains.
    pub max_connection: Option<Duration>,
    /// Time a refused peer has to read the answer (`delayed_close_timeout`). Default 1 s.
    pub delayed_close: Duration,
}

/// Forwarded-for, ids, names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPolicy {
    /// Whether the peer's address is the client's (`use_remote_address`): an edge.
    pub use_remote_address: bool,
    /// Whether nothing is appended to `x-forwarded-for`.
    pub skip_xff_append: bool,
    /// How many proxies in front may be believed.
    pub trusted_hops: u32,
    /// Whether `x-request-id` is made if absent. Default yes.
    pub generate_request_id: bool,
    /// Whether an id from outside is kept at an edge.
    pub preserve_request_id: bool,
    /// Whether the id is sent down as well.
    pub request_id_in_response: bool,
    /// The `server` field. Default `envoy`, so that habits carry over.
    pub server_name: Arc<str>,
    /// What is done with an upstream's own `server`.
    pub server_header: ServerHeader,
    /// Added to `via`, if any.
    pub via: Option<Arc<str>>,
    /// Whether a port equal to the listener's or any is taken off the authority.
    pub strip_port: StripPort,
    /// Whether `x-envoy-upstream-service-time` and the like are left out
    /// (`Router.suppress_envoy_headers`).
    pub suppress_envoy_headers: bool,
}

/// Source: `server_header_transformation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// OVERWRITE.
    #[default]
    Overwrite,
    /// APPEND_IF_ABSENT.
    AppendIfAbsent,
    /// PASS_THROUGH.
    PassThrough,
}

/// Source: `strip_matching_host_port`, `strip_any_host_port`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// It stays.
    #[default]
    Keep,
    /// It goes if it is the listener's.
    Matching,
    /// It goes.
    Any,
}

/// Source: `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathPolicy {
    /// Dot segments, needless escapes, back-slashes.
    pub normalize: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// `%2f` and `%5c`.
    pub escaped_slashes: EscapedSlashes,
}

/// Source: `PathWithEscapedSlashesAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// KEEP_UNCHANGED, the default.
    #[default]
    Keep,
    /// REJECT_REQUEST: 400.
    Reject,
    /// UNESCAPE_AND_REDIRECT: 307.
    UnescapeAndRedirect,
    /// UNESCAPE_AND_FORWARD.
    UnescapeAndForward,
}

impl ChainMatch {
    /// How long the longest destination prefix that holds is; `Some(0)` if none was asked for.
    fn destination_len(&self, address: IpAddr) -> Option<u8> {
        longest(&self.destinations, address)
    }

    /// How long the matching server name is; `Some(0)` if none was asked for.
    fn server_name_len(&self, name: &str) -> Option<usize> {
        if self.server_names.is_empty() {
            return Some(0);
        }
        let rank = |wanted: &ServerName| match wanted {
            ServerName::Exact(exact) => (&**exact == name).then_some(usize::MAX),
            ServerName::Below(suffix) => {
                (name.len() > suffix.len() && name.ends_with(&**suffix)).then_some(suffix.len())
            }
        };
        self.server_names.iter().filter_map(rank).max()
    }
}

/// Length of the longest network that holds an address, one longer than its prefix so that
/// "anywhere" outranks "not asked"; `Some(0)` if there are no networks.
fn longest(networks: &[IpNet], address: IpAddr) -> Option<u8> {
    if networks.is_empty() {
        return Some(0);
    }
    let holds = networks.iter().filter(|network| network.contains(&address));
    holds.map(|network| network.prefix_len() + 1).max()
}

impl FilterChains {
    /// Chains in order, and the one for connections that none takes.
    #[must_use]
    pub const fn new(chains: Vec<Arc<FilterChain>>, default: Option<Arc<FilterChain>>) -> Self {
        Self { chains, default }
    }

    /// All chains, the default last.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(&self.default)
    }

    /// The default chain.
    #[must_use]
    pub const fn default_chain(&self) -> Option<&Arc<FilterChain>> {
        self.default.as_ref()
    }

    /// Whether choosing among the chains needs a look at the first bytes, for a destination.
    #[must_use]
    pub fn needs_bytes(&self, destination: SocketAddr) -> bool {
        self.chains.iter().any(|chain| {
            let m = &chain.matches;
            m.destination_port
                .is_none_or(|port| port == destination.port())
                && m.destination_len(destination.ip()).is_some()
                && !(m.server_names.is_empty()
                    && m.transport.is_none()
                    && m.application_protocols.is_empty())
        })
    }

    /// The chain of a connection.
    #[must_use]
    pub fn find(&self, facts: &ConnectionFacts<'_>) -> Lookup<&Arc<FilterChain>> {
        let mut left: smallvec::SmallVec<[&Arc<FilterChain>; 16]> = self.chains.iter().collect();
        let (ip, port) = (facts.destination.ip(), facts.destination.port());
        keep_best(&mut left, |m| one_of(m.destination_port.as_ref(), &port));
        keep_best(&mut left, |m| m.destination_len(ip).map(usize::from));
        keep_best(&mut left, |m| m.server_name_len(facts.server_name));
        let transport = if facts.is_tls {
            Transport::Tls
        } else {
            Transport::Raw
        };
        keep_best(&mut left, |m| one_of(m.transport.as_ref(), &transport));
        keep_best(&mut left, |m| {
            let spoken = |p: &Arc<str>| facts.application_protocols.contains(&&**p);
            any_of(&m.application_protocols, spoken)
        });
        keep_best(&mut left, |m| {
            longest(&m.sources, facts.source.ip()).map(usize::from)
        });
        keep_best(&mut left, |m| {
            any_of(&m.source_ports, |p| *p == facts.source.port())
        });
        Lookup::from_option(left.first().copied().or(self.default.as_ref()))
    }
}

/// 1 if the wanted value is there and right, 0 if nothing is wanted, none if it is wrong.
fn one_of<T: PartialEq>(wanted: Option<&T>, have: &T) -> Option<usize> {
    match wanted {
        None => Some(0),
        Some(wanted) => (wanted == have).then_some(1),
    }
}

/// Likewise for lists.
fn any_of<T>(wanted: &[T], is_right: impl Fn(&T) -> bool) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    wanted.iter().any(is_right).then_some(1)
}

/// Keeps the chains that rank highest; those that do not match go.
fn keep_best(
    left: &mut smallvec::SmallVec<[&Arc<FilterChain>; 16]>,
    rank: impl Fn(&ChainMatch) -> Option<usize>,
) {
    let best = left.iter().filter_map(|chain| rank(&chain.matches)).max();
    left.retain(|chain| best.is_some() && rank(&chain.matches) == best);
}

#[cfg(test)]
#[path = "listener/tests.rs"]
mod tests;
