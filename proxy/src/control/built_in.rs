// SPDX-License-Identifier: Apache-2.0
//! What a redirected workload has before there is any configuration: its connections go on to
//! where they wanted to go.
//!
//! The redirection rules are there before the proxy is, and without an open port behind them the
//! workload would be refused everything until a control plane has answered. These listeners and
//! clusters have the names that a control plane gives to their successors, and vanish with the
//! first whole configuration.
//!
//! Invariant: a configured listener on the same address, or a configured cluster of the same
//! name, always comes before a built-in one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use remora_ir::action::Target;
use remora_ir::cluster::{
    Balancing, CircuitLimits, Cluster, ConnectionPolicy, Discovery, Limit, Policy, RetryLimit,
    SourceAddress, Thresholds, UpstreamProtocol,
};
use remora_ir::listener::{
    Bind, ChainMatch, Direction, FilterChain, FilterChains, Inspect, Interception, Listener,
    Network, TcpProxy,
};
use remora_ir::snapshot::{ClusterTable, ListenerTable};
use remora_ir::{ClusterSlot, ListenerName, SlotTable, Snapshot};
use remora_primitives::Percent;

/// Pass-through listeners and their clusters.
#[derive(Clone, Debug, Default)]
pub struct BuiltIn {
    listeners: Vec<Arc<Listener>>,
    clusters: Vec<Arc<Cluster>>,
}

/// Where the redirection rules send connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectedPorts {
    /// Those from the workload.
    pub outbound: u16,
    /// Those to it.
    pub inbound: u16,
}

impl BuiltIn {
    /// Pass-through for both directions, in the address families that this machine has.
    pub fn pass_through(slots: &SlotTable, ports: RedirectedPorts) -> Self {
        let mut built_in = Self::default();
        let outbound = slots.slot("PassthroughCluster");
        built_in.add_cluster(&outbound, SourceAddress::Own);
        let v4 = slots.slot("InboundPassthroughCluster");
        let from = |ip: IpAddr| SourceAddress::Fixed(SocketAddr::new(ip, 0));
        built_in.add_cluster(&v4, from(INBOUND_SOURCE_V4.into()));
        let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
        let any_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let (out_v4, in_v4) = (at(any_v4, ports.outbound), at(any_v4, ports.inbound));
        built_in.add_listener("virtualOutbound", out_v4, Direction::Outbound, &outbound);
        built_in.add_listener("virtualInbound", in_v4, Direction::Inbound, &v4);
        if UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() {
            let v6 = slots.slot("InboundPassthroughClusterIpv6");
            built_in.add_cluster(&v6, from(INBOUND_SOURCE_V6.into()));
            let any_v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            let (out_v6, in_v6) = (at(any_v6, ports.outbound), at(any_v6, ports.inbound));
            built_in.add_listener("virtualOutbound-v6", out_v6, Direction::Outbound, &outbound);
            built_in.add_listener("virtualInbound-v6", in_v6, Direction::Inbound, &v6);
        }
        built_in
    }

    /// Adds to a snapshot what it does not have itself.
    pub fn complete(&self, snapshot: &mut Snapshot) {
        if self.listeners.is_empty() {
            return;
        }
        let configured: Vec<_> = snapshot.listeners.iter().cloned().collect();
        let is_free = |own: &&Arc<Listener>| {
            !configured.iter().any(|theirs| {
                theirs.name == own.name
                    || theirs.address == own.address
                    || theirs.more_addresses.contains(&own.address)
            })
        };
        let added: Vec<_> = self.listeners.iter().filter(is_free).cloned().collect();
        snapshot.listeners = ListenerTable::new(configured.into_iter().chain(added));
        let missing = self.clusters.iter().filter(|cluster| {
            let found = snapshot.clusters.find(&cluster.slot);
            found.found().is_none()
        });
        let all = snapshot.clusters.iter().chain(missing).cloned();
        snapshot.clusters = ClusterTable::new(all.collect::<Vec<_>>());
    }

    fn add_listener(
        &mut self,
        name: &str,
        address: SocketAddr,
        direction: Direction,
        cluster: &Arc<ClusterSlot>,
    ) {
        let chain = FilterChain {
            name: name.into(),
            matches: ChainMatch::default(),
            network: Network::Tcp(Arc::new(pass_through(cluster))),
        };
        self.listeners.push(Arc::new(Listener {
            name: ListenerName::new(name),
            address,
            more_addresses: Vec::new(),
            bind: Bind::Port,
            direction,
            hand_off: direction == Direction::Outbound,
            interception: Interception::Redirect,
            inspect: Inspect {
                tls: false,
                http: false,
                timeout: None,
                continue_on_timeout: true,
            },
            chains: FilterChains::new(Vec::new(), Some(Arc::new(chain))),
            access_logs: Vec::new(),
            max_connections: None,
        }));
    }

    fn add_cluster(&mut self, slot: &Arc<ClusterSlot>, source: SourceAddress) {
        let unlimited = Thresholds {
            connections: Limit::Unlimited,
            pending: Limit::Unlimited,
            requests: Limit::Unlimited,
            retries: RetryLimit::Fixed(Limit::Unlimited),
        };
        self.clusters.push(Arc::new(Cluster {
            slot: Arc::clone(slot),
            stat_name: None,
            discovery: Discovery::OriginalDst { port: None },
            balancing: Balancing {
                policy: Policy::ClusterProvided,
                panic_threshold: Percent::ZERO,
                locality_weighted: false,
            },
            connection: ConnectionPolicy {
                connect_timeout: CONNECT_TIMEOUT,
                source,
                keepalive: None,
                idle_timeout: None,
                max_requests: None,
                max_duration: None,
            },
            protocol: UpstreamProtocol::Http1,
            limits: CircuitLimits {
                default: unlimited,
                high: unlimited,
            },
            outlier: None,
        }));
    }
}

fn pass_through(cluster: &Arc<ClusterSlot>) -> TcpProxy {
    TcpProxy {
        stat_prefix: cluster.name().as_str().into(),
        target: Target::Cluster(Arc::clone(cluster)),
        idle_timeout: Some(IDLE_TIMEOUT),
        max_duration: None,
        connect_attempts: NonZeroU32::MIN,
        access_logs: Vec::new(),
    }
}

/// The source address by which the rules know that a connection comes from the inbound side.
const INBOUND_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6.
const INBOUND_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
/// Istio's default for its pass-through clusters.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Envoy's default for TCP.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: RedirectedPorts = RedirectedPorts {
        outbound: 15001,
        inbound: 15006,
    };

    #[test]
    fn an_empty_snapshot_gets_both_directions() {
        let slots = SlotTable::default();
        let mut snapshot = Snapshot::default();
        BuiltIn::pass_through(&slots, PORTS).complete(&mut snapshot);
        for (port, name) in [
            (PORTS.outbound, "virtualOutbound"),
            (PORTS.inbound, "virtualInbound"),
        ] {
            let at = SocketAddr::from(([10, 0, 0, 1], port));
            let listener = snapshot.listeners.by_destination(at).found().expect("open");
            assert_eq!(listener.name.as_str(), name);
            let chain = listener.chains.default_chain().expect("takes everything");
            let Network::Tcp(proxy) = &chain.network else {
                panic!("bytes pass through");
            };
            let Target::Cluster(slot) = &proxy.target else {
                panic!("one cluster");
            };
            assert!(snapshot.clusters.find(slot).found().is_some());
        }
    }

    #[test]
    fn what_is_configured_comes_first() {
        let slots = SlotTable::default();
        let built_in = BuiltIn::pass_through(&slots, PORTS);
        let mut configured = Listener::clone(&built_in.listeners[0]);
        configured.name = ListenerName::new("theirs");
        let mut cluster = Cluster::clone(&built_in.clusters[0]);
        cluster.connection.connect_timeout = Duration::from_secs(1);
        let mut snapshot = Snapshot {
            listeners: ListenerTable::new([Arc::new(configured)]),
            clusters: ClusterTable::new([Arc::new(cluster)]),
            ..Snapshot::default()
        };
        let before = built_in.listeners.len();
        built_in.complete(&mut snapshot);
        assert_eq!(snapshot.listeners.len(), before, "one was replaced");
        let at = SocketAddr::from(([10, 0, 0, 1], PORTS.outbound));
        let found = snapshot.listeners.by_destination(at).found().expect("open");
        assert_eq!(found.name.as_str(), "theirs");
        let slot = slots.slot("PassthroughCluster");
        let found = snapshot.clusters.find(&slot).found().expect("there");
        assert_eq!(found.connection.connect_timeout, Duration::from_secs(1));
    }
}
