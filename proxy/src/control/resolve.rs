// SPDX-License-Identifier: Apache-2.0
//! Keeps the names of STRICT_DNS clusters resolved.
//!
//! One task for each cluster asks the machine's resolver again and again, and sends an endpoint
//! set whenever it differs from the last one. A name that cannot be resolved keeps the addresses
//! that it had; before its first answer it has none. The machine's resolver tells no time to
//! live, so that the cluster's refresh rate decides, as in Envoy for answers without one.
//!
//! Invariant: a cluster that goes, or whose names change, takes its task with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use remora_ir::cluster::{AddressFamilies, Cluster, Discovery, DnsDiscovery};
use remora_ir::endpoint::{
    ConfiguredHealth, Endpoint, EndpointAddress, EndpointSet, LocalityEndpoints,
};
use remora_ir::{ClusterName, Snapshot};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What a cluster's names resolve to now.
#[derive(Debug)]
pub struct Resolved {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its endpoints.
    pub endpoints: Arc<EndpointSet>,
}

/// All tasks, by cluster.
#[derive(Debug)]
pub struct Resolver {
    tasks: BTreeMap<ClusterName, Task>,
    resolved: mpsc::Sender<Resolved>,
}

#[derive(Debug)]
struct Task {
    policy: Arc<Cluster>,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Resolver {
    /// No task yet; what is resolved comes out of the receiver.
    pub fn new() -> (Self, mpsc::Receiver<Resolved>) {
        let (resolved, receiver) = mpsc::channel(PENDING_RESULTS);
        let resolver = Self {
            tasks: BTreeMap::new(),
            resolved,
        };
        (resolver, receiver)
    }

    /// Starts and ends tasks, so that exactly the clusters of a snapshot are resolved. A cluster
    /// whose policy is another one than before starts anew.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        self.tasks.retain(|_, task| {
            let found = snapshot.clusters.find(&task.policy.slot).found();
            found.is_some_and(|policy| Arc::ptr_eq(policy, &task.policy))
        });
        for policy in snapshot.clusters.iter() {
            if !matches!(policy.discovery, Discovery::StrictDns(_)) {
                continue;
            }
            let name = policy.slot.name().clone();
            let resolved = self.resolved.clone();
            self.tasks.entry(name).or_insert_with(|| Task {
                policy: Arc::clone(policy),
                handle: tokio::spawn(resolve_always(Arc::clone(policy), resolved)),
            });
        }
    }
}

/// Resolves one cluster until nobody wants to know any more.
async fn resolve_always(policy: Arc<Cluster>, resolved: mpsc::Sender<Resolved>) {
    let Discovery::StrictDns(discovery) = &policy.discovery else {
        return;
    };
    let cluster = policy.slot.name().clone();
    let mut known: Vec<Vec<SocketAddr>> = vec![Vec::new(); discovery.names.len()];
    let mut sent = None;
    loop {
        let mut failures = 0;
        for (name, known) in discovery.names.iter().zip(&mut known) {
            match look_up(name.name.as_str(), name.port.get()).await {
                Ok(found) => *known = choose(found, discovery.families),
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%cluster, name = %name.name, %error, "cannot resolve");
                }
            }
        }
        let endpoints = Arc::new(endpoint_set(discovery, &known));
        if sent.as_ref() != Some(&endpoints) {
            sent = Some(Arc::clone(&endpoints));
            let cluster = cluster.clone();
            if resolved
                .send(Resolved { cluster, endpoints })
                .await
                .is_err()
            {
                return;
            }
        }
        tokio::time::sleep(pause(discovery.refresh, failures)).await;
    }
}

async fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = tokio::time::timeout(MAX_LOOK_UP, tokio::net::lookup_host((name, port))).await;
    Ok(found
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?
        .collect())
}

/// The addresses of the wanted families, sorted and each once.
fn choose(found: Vec<SocketAddr>, families: AddressFamilies) -> Vec<SocketAddr> {
    let found: BTreeSet<_> = found.into_iter().collect();
    let (v4, v6): (Vec<_>, Vec<_>) = found.into_iter().partition(SocketAddr::is_ipv4);
    match families {
        AddressFamilies::V4 => v4,
        AddressFamilies::V6 => v6,
        AddressFamilies::PreferV6 if v6.is_empty() => v4,
        AddressFamilies::PreferV6 => v6,
        AddressFamilies::PreferV4 if v4.is_empty() => v6,
        AddressFamilies::PreferV4 => v4,
        AddressFamilies::All => [v4, v6].concat(),
    }
}

fn endpoint_set(discovery: &DnsDiscovery, known: &[Vec<SocketAddr>]) -> EndpointSet {
    let localities = discovery.names.iter().zip(known).map(|(name, addresses)| {
        let endpoint = |address: &SocketAddr| Endpoint {
            address: EndpointAddress::Socket(*address),
            hostname: Some(name.name.as_str().into()),
            weight: name.weight,
            health: ConfiguredHealth::Healthy,
        };
        LocalityEndpoints {
            endpoints: addresses.iter().map(endpoint).collect(),
            ..name.place.clone()
        }
    });
    EndpointSet {
        localities: localities.collect(),
        ..EndpointSet::default()
    }
}

/// The time to the next round: the cluster's rate, shorter after a failure, spread a little so
/// that the clusters of a machine do not ask all at once.
fn pause(refresh: Duration, failures: usize) -> Duration {
    let base = if failures > 0 {
        refresh.min(RETRY)
    } else {
        refresh
    };
    base.max(SHORTEST).mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// Results that may wait for the control thread; tasks wait beyond it.
const PENDING_RESULTS: usize = 16;
/// How long the machine's resolver may take.
const MAX_LOOK_UP: Duration = Duration::from_secs(10);
/// The pause after a failure, unless the refresh rate is shorter.
const RETRY: Duration = Duration::from_secs(2);
/// No cluster is resolved more often than this, whatever its rate.
const SHORTEST: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use remora_ir::cluster::DnsEndpoint;
    use remora_primitives::{HostName, Port, Weight};

    use super::*;

    #[test]
    fn families_are_chosen_as_asked() {
        let v4: SocketAddr = "10.0.0.1:80".parse().expect("address");
        let v6: SocketAddr = "[fd00::1]:80".parse().expect("address");
        let table = [
            (AddressFamilies::V4, vec![v4]),
            (AddressFamilies::V6, vec![v6]),
            (AddressFamilies::PreferV6, vec![v6]),
            (AddressFamilies::PreferV4, vec![v4]),
            (AddressFamilies::All, vec![v4, v6]),
        ];
        for (families, expected) in table {
            assert_eq!(choose(vec![v6, v4, v6], families), expected, "{families:?}");
        }
        assert_eq!(choose(vec![v4], AddressFamilies::PreferV6), [v4]);
        assert_eq!(choose(vec![v6], AddressFamilies::PreferV4), [v6]);
    }

    #[test]
    fn pauses_stay_near_the_rate_and_are_shorter_after_a_failure() {
        let minute = Duration::from_secs(60);
        for _ in 0..100 {
            assert!(pause(minute, 0) >= minute.mul_f64(0.89));
            assert!(pause(minute, 0) <= minute.mul_f64(1.11));
            assert!(pause(minute, 1) <= RETRY.mul_f64(1.11));
            assert!(pause(Duration::ZERO, 0) >= SHORTEST.mul_f64(0.89));
        }
    }

    fn discovery(names: &[&str]) -> DnsDiscovery {
        let endpoint = |name: &&str| DnsEndpoint {
            name: HostName::try_new(name).expect("name"),
            port: Port::new(80).expect("port"),
            place: LocalityEndpoints {
                locality: remora_ir::endpoint::Locality::default(),
                priority: 0,
                weight: None,
                endpoints: Vec::new(),
            },
            weight: Weight::ONE,
        };
        DnsDiscovery {
            names: names.iter().map(endpoint).collect(),
            refresh: Duration::from_secs(5),
            families: AddressFamilies::All,
        }
    }

    #[test]
    fn each_names_addresses_take_its_place() {
        let discovery = discovery(&["a.example", "b.example"]);
        let address: SocketAddr = "10.0.0.1:80".parse().expect("address");
        let set = endpoint_set(&discovery, &[vec![address], vec![]]);
        assert_eq!(set.len(), 1);
        let (_, endpoint) = set.iter().next().expect("one");
        assert_eq!(endpoint.hostname.as_deref(), Some("a.example"));
        assert_eq!(endpoint.address, EndpointAddress::Socket(address));
    }

    #[tokio::test]
    async fn an_address_literal_needs_no_resolver() {
        let found = look_up("127.0.0.1", 80).await.expect("a literal");
        assert_eq!(found, ["127.0.0.1:80".parse().expect("address")]);
    }
}
