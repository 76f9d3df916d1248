// SPDX-License-Identifier: Apache-2.0
//! What the parts say of themselves: the proxies' `/stats` and `/clusters`, the programs' counters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, bail};
use remora_testkit::client::{self, Request};
use remora_testkit::lab::Host;
use remora_testkit::mesh::Mesh;
use remora_testkit::mesh::topology::{self, HOSTS, Role};

/// A way to ask the proxies and programs of a shop from any thread.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    hosts: BTreeMap<&'static str, Host>,
}

/// A proxy's numbers at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stats(BTreeMap<String, u64>);

/// What a proxy's passive judgement has come to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// The addresses that are left out now.
    pub(crate) ejected: BTreeSet<Ipv4Addr>,
    /// How often each address has been.
    pub(crate) ejections: BTreeMap<Ipv4Addr, u64>,
}

/// A program's own counters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Requests that reached it.
    pub(crate) requests: u64,
    /// Of these, mirrored ones.
    pub(crate) shadowed: u64,
    /// The most it had in hand at once.
    pub(crate) peak: u64,
}

impl Probe {
    /// Takes note of a shop's hosts.
    pub(crate) fn new(mesh: &Mesh) -> anyhow::Result<Self> {
        let hosts = HOSTS
            .iter()
            .map(|plan| Ok((plan.name, mesh.host(plan.name)?.clone())));
        Ok(Self {
            hosts: hosts.collect::<anyhow::Result<_>>()?,
        })
    }

    /// The numbers of a host's proxy.
    pub(crate) fn stats(&self, host: &str) -> anyhow::Result<Stats> {
        let text = self.get(host, topology::PROXY_ADMIN_PORT, "/stats")?;
        let lines = text.lines().filter_map(|line| line.rsplit_once(": "));
        // Lines of histograms hold more than a number.
        let numbers =
            lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Ok(Stats(numbers.collect()))
    }

    /// What the PHP host's proxy thinks of the hosts of all outbound clusters.
    pub(crate) fn health(&self) -> anyhow::Result<Health> {
        let text = self.get(topology::PHP, topology::PROXY_ADMIN_PORT, "/clusters")?;
        let mut health = Health::default();
        for line in text.lines() {
            let mut words = line.split("::");
            let [Some(cluster), Some(address), Some(what), Some(value)] =
                [(); 4].map(|()| words.next())
            else {
                continue;
            };
            let Ok(address) = address.parse::<SocketAddrV4>() else {
                continue;
            };
            if !cluster.starts_with("outbound|") {
                continue;
            }
            match what {
                "health_flags" if value.contains("failed_outlier_check") => {
                    health.ejected.insert(*address.ip());
                }
                "ejections" => {
                    let times = value.parse::<u64>().unwrap_or_default();
                    *health.ejections.entry(*address.ip()).or_default() += times;
                }
                _ => {}
            }
        }
        Ok(health)
    }

    /// The counters of a program.
    pub(crate) fn counters(&self, host: &str) -> anyhow::Result<Counters> {
        let text = self.get(host, topology::ADMIN_PORT, "/admin/counters")?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let number = |name: &str| {
            value[name]
                .as_u64()
                .with_context(|| format!("no `{name}` in {value}"))
        };
        Ok(Counters {
            requests: number("requests")?,
            shadowed: number("shadowed")?,
            peak: number("peak_in_flight")?,
        })
    }

    /// The IPv4 address of a host.
    pub(crate) fn address(&self, host: &str) -> anyhow::Result<Ipv4Addr> {
        Ok(self.host(host)?.v4())
    }

    /// A host by its name.
    pub(crate) fn host(&self, name: &str) -> anyhow::Result<&Host> {
        self.hosts
            .get(name)
            .with_context(|| format!("there is no host `{name}`"))
    }

    fn get(&self, host: &str, port: u16, target: &str) -> anyhow::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let request = Request::get("localhost", target);
        let limit = Duration::from_secs(5);
        let answer = self
            .host(host)?
            .enter(|| client::send(address, &request, limit))?
            .with_context(|| format!("ask {host} for {target}"))?;
        if answer.status != 200 {
            bail!(
                "{host}{target} answers {}: {}",
                answer.status,
                answer.text()
            );
        }
        Ok(answer.text())
    }
}

impl Stats {
    /// A number by its name; zero if the proxy has none of it yet.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// A number that the proxy has to have.
    pub(crate) fn required(&self, name: &str) -> anyhow::Result<u64> {
        self.0
            .get(name)
            .copied()
            .with_context(|| format!("the proxy tells no `{name}`"))
    }

    /// A number of the outbound cluster of a service's subset; the empty subset is all of it.
    pub(crate) fn outbound(&self, service: &str, subset: &str, name: &str) -> u64 {
        self.number(&format!("cluster.{}.{name}", cluster(service, subset)))
    }

    /// The same, of all clusters of a service.
    pub(crate) fn outbound_all(&self, service: &str, name: &str) -> u64 {
        let numbers = self.0.iter().filter(|(key, _)| {
            let key = key.strip_prefix("cluster.").unwrap_or_default();
            key.strip_suffix(name)
                .and_then(|cluster| cluster.strip_suffix('.'))
                .is_some_and(|cluster| belongs_to(cluster, service))
        });
        numbers.map(|(_, value)| value).sum()
    }
}

/// The name of an outbound cluster: direction, port, subset, host, as in Istio.
fn cluster(service: &str, subset: &str) -> String {
    let namespace = topology::NAMESPACE;
    format!("outbound|80|{subset}|{service}.{namespace}.svc.cluster.local")
}

fn belongs_to(cluster: &str, service: &str) -> bool {
    let mut words = cluster.split('|');
    let is_outbound = words.next() == Some("outbound");
    let host = words.nth(2).unwrap_or_default();
    is_outbound && host.split('.').next() == Some(service)
}

/// The services of the shop with their versions, in the order of their hosts.
pub(crate) fn versions() -> Vec<(&'static str, &'static str)> {
    let mut all = Vec::new();
    for plan in &HOSTS {
        if let Role::Service { service, version } = plan.role
            && !all.contains(&(service, version))
        {
            all.push((service, version));
        }
    }
    all
}

/// The hosts of a service's version.
pub(crate) fn instances(service: &str, version: &str) -> Vec<&'static str> {
    let of_version = HOSTS.iter().filter(|plan| {
        matches!(plan.role, Role::Service { service: s, version: v } if s == service && v == version)
    });
    of_version.map(|plan| plan.name).collect()
}
