// SPDX-License-Identifier: Apache-2.0
//! The proxy's whole configuration at one moment.
//!
//! A snapshot is made by `translate::assemble`, never changed, and published with one swap. Parts
//! that did not change are the same `Arc`s as in the snapshot before, so that workers keep what
//! is pointer-equal. Endpoints are not here: each cluster's live in a cell of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::Lookup;
use crate::cluster::Cluster;
use crate::listener::Listener;
use crate::name::{ClusterSlot, ListenerName, RouteName};
use crate::names::NameTable;
use crate::route::RouteTable;

/// Everything but endpoints and live state.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts publications; 0 is the empty snapshot that a proxy starts with.
    pub generation: u64,
    /// All listeners.
    pub listeners: ListenerTable,
    /// Route tables by name.
    pub routes: FxHashMap<RouteName, Arc<RouteTable>>,
    /// Clusters by slot.
    pub clusters: ClusterTable,
    /// Names the DNS server answers.
    pub names: Arc<NameTable>,
}

impl Snapshot {
    /// The route table of a name.
    #[must_use]
    pub fn route_table(&self, name: &RouteName) -> Lookup<&Arc<RouteTable>> {
        Lookup::from_option(self.routes.get(name))
    }
}

/// Clusters by the index of their slot.
#[derive(Clone, Debug, Default)]
pub struct ClusterTable(Vec<Option<Arc<Cluster>>>);

impl ClusterTable {
    /// Makes the table; of two clusters with one slot the last one stays.
    pub fn new(clusters: impl IntoIterator<Item = Arc<Cluster>>) -> Self {
        let mut table = Vec::new();
        for cluster in clusters {
            let at = cluster.slot.index();
            if table.len() <= at {
                table.resize(at + 1, None);
            }
            if let Some(place) = table.get_mut(at) {
                *place = Some(cluster);
            }
        }
        Self(table)
    }

    /// The cluster of a slot.
    #[must_use]
    pub fn find(&self, slot: &ClusterSlot) -> Lookup<&Arc<Cluster>> {
        Lookup::from_option(self.0.get(slot.index()).and_then(Option::as_ref))
    }

    /// All clusters, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.0.iter().flatten()
    }

    /// One more than the highest index in use.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.0.len()
    }
}

/// Listeners by name and by the address that they stand for.
#[derive(Clone, Debug, Default)]
pub struct ListenerTable {
    by_name: FxHashMap<ListenerName, Arc<Listener>>,
    by_address: FxHashMap<SocketAddr, Arc<Listener>>,
}

impl ListenerTable {
    /// Makes the table. Of two listeners with one address the first by name has it.
    pub fn new(listeners: impl IntoIterator<Item = Arc<Listener>>) -> Self {
        let mut sorted: Vec<_> = listeners.into_iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let mut table = Self::default();
        for listener in sorted {
            let addresses =
                std::iter::once(listener.address).chain(listener.more_addresses.clone());
            for address in addresses {
                table
                    .by_address
                    .entry(address)
                    .or_insert_with(|| Arc::clone(&listener));
            }
            table.by_name.insert(listener.name.clone(), listener);
        }
        table
    }

    /// The listener of a name.
    #[must_use]
    pub fn find(&self, name: &ListenerName) -> Lookup<&Arc<Listener>> {
        Lookup::from_option(self.by_name.get(name))
    }

    /// The listener that stands for an original destination: destination first, then any address
    /// with that port. One hash look-up each, whatever their number.
    #[must_use]
    pub fn by_destination(&self, destination: SocketAddr) -> Lookup<&Arc<Listener>> {
        let wildcard = |ip: IpAddr| {
            self.by_address
                .get(&SocketAddr::new(ip, destination.port()))
        };
        let v6_any = || wildcard(Ipv6Addr::UNSPECIFIED.into());
        let found = self
            .by_address
            .get(&destination)
            .or_else(|| match destination {
                SocketAddr::V4(_) => wildcard(Ipv4Addr::UNSPECIFIED.into()).or_else(v6_any),
                SocketAddr::V6(_) => v6_any(),
            });
        Lookup::from_option(found)
    }

    /// All listeners, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.by_name.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::{Bind, Direction, FilterChains, Inspect, Interception};

    fn listener(name: &str, address: &str) -> Arc<Listener> {
        Arc::new(Listener {
            name: ListenerName::new(name),
            address: address.parse().expect("address"),
            more_addresses: Vec::new(),
            bind: Bind::Nothing,
            direction: Direction::Outbound,
            hand_off: false,
            interception: Interception::None,
            inspect: Inspect {
                tls: false,
                http: false,
                timeout: None,
                continue_on_timeout: true,
            },
            chains: FilterChains::default(),
            access_logs: Vec::new(),
            max_connections: None,
        })
    }

    #[test]
    fn destination_comes_before_any_wildcard() {
        let table = ListenerTable::new([
            listener("any80", "0.0.0.0:80"),
            listener("vip80", "240.240.0.1:80"),
            listener("six80", "[::]:80"),
            listener("six90", "[::]:90"),
        ]);
        let expected = [
            ("240.240.0.1:80", Some("vip80")),
            ("240.240.0.2:80", Some("any80")),
            ("[fd00::1]:80", Some("six80")),
            ("10.0.0.1:90", Some("six90")),
            ("10.0.0.1:3306", None),
        ];
        for (destination, name) in expected {
            let found = table
                .by_destination(destination.parse().expect("address"))
                .found();
            assert_eq!(found.map(|l| l.name.as_str()), name, "{destination}");
        }
    }
}
