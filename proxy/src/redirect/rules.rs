// SPDX-License-Identifier: Apache-2.0
//! Builds the rules: a pure function from [`Options`] to tables of both families.
//!
//! How a connection travels (nat table):
//!
//! ```text
//! from outside      PREROUTING -> REMORA_INBOUND -> REMORA_IN_REDIRECT (15006)
//! from the workload OUTPUT -> REMORA_OUTPUT (who) -> REMORA_CAPTURE (what) -> REMORA_REDIRECT (15001)
//! proxy to itself   OUTPUT -> REMORA_OUTPUT -> REMORA_INBOUND -> REMORA_IN_REDIRECT (15006)
//! proxy to workload OUTPUT -> REMORA_OUTPUT, source 127.0.0.6: untouched
//! ```
//!
//! The third line is how a workload that calls its own service is served: its proxy picks the
//! workload itself, and that connection arrives as any other inbound one.
//!
//! The raw table gives redirected DNS a conntrack zone of its own. Otherwise a proxy's question that
//! happens to leave from a source port the workload used in the last half minute would match the
//! workload's old redirected flow and be sent back to the proxy.
//!
//! Invariant: the same options always give the same rules, and IPv4 and IPv6 differ only in
//! addresses.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use super::backend::Family;
use super::options::{Dns, Options, Owners, Selection};

/// The chains that are ours, in the tables they live in.
pub const OWN_CHAINS: [&str; 6] = [
    INBOUND,
    IN_REDIRECT,
    OUTPUT,
    CAPTURE,
    REDIRECT,
    DNS_ZONE_CHAIN,
];

/// The source address, on loopback, of the proxy's connections to the workload; added by `apply`.
pub const INBOUND_SOURCE_V6: &str = "::6/128";

const INBOUND: &str = "REMORA_INBOUND";
const IN_REDIRECT: &str = "REMORA_IN_REDIRECT";
const OUTPUT: &str = "REMORA_OUTPUT";
const CAPTURE: &str = "REMORA_CAPTURE";
const REDIRECT: &str = "REMORA_REDIRECT";
const DNS_ZONE_CHAIN: &str = "REMORA_DNS_ZONE";

/// The conntrack zone of redirected DNS; any number that no other program uses.
const DNS_ZONE: u16 = 15053;
const DNS_PORT: u16 = 53;
/// The proxy's ports that others must reach directly: merged metrics, readiness, Prometheus.
const PROXY_SERVICE_PORTS: [u16; 3] = [15020, 15021, 15090];

/// The rules of both families; no IPv6 tables if IPv6 was declined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    /// For `iptables-restore`.
    pub v4: Vec<Table>,
    /// For `ip6tables-restore`.
    pub v6: Vec<Table>,
}

/// One table's share of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `nat` or `raw`.
    pub name: &'static str,
    /// Our chains in this table.
    pub chains: Vec<&'static str>,
    /// Rules of our chains, each as `-A CHAIN ...`.
    pub rules: Vec<String>,
    /// Rules of built-in chains that jump to ours, as `-A` or `-I`.
    pub jumps: Vec<&'static str>,
}

/// Whether redirected DNS gets a conntrack zone of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zones {
    /// Yes; needs the raw table and the CT target.
    Separate,
    /// No, for kernels without them.
    Shared,
}

/// Builds the rules that `options` ask for.
pub fn build(options: &Options, zones: Zones) -> RuleSet {
    let tables = |family| {
        let mut tables = Vec::new();
        if let (Dns::Captured(servers), Zones::Separate) = (&options.dns, zones) {
            tables.extend(dns_zone_table(options, servers, family));
        }
        tables.push(nat_table(options, family));
        tables
    };
    RuleSet {
        v4: tables(Family::V4),
        v6: if options.ipv6 {
            tables(Family::V6)
        } else {
            Vec::new()
        },
    }
}

fn nat_table(options: &Options, family: Family) -> Table {
    let mut rules = Vec::new();
    inbound(
        options,
        &mut Chain {
            name: INBOUND,
            rules: &mut rules,
        },
    );
    Chain {
        name: IN_REDIRECT,
        rules: &mut rules,
    }
    .add(format_args!(
        "-p tcp -j REDIRECT --to-ports {}",
        options.ports.inbound
    ));
    output(
        options,
        family,
        &mut Chain {
            name: OUTPUT,
            rules: &mut rules,
        },
    );
    capture(
        options,
        family,
        &mut Chain {
            name: CAPTURE,
            rules: &mut rules,
        },
    );
    Chain {
        name: REDIRECT,
        rules: &mut rules,
    }
    .add(format_args!(
        "-p tcp -j REDIRECT --to-ports {}",
        options.ports.outbound
    ));
    Table {
        name: "nat",
        chains: vec![INBOUND, IN_REDIRECT, OUTPUT, CAPTURE, REDIRECT],
        rules,
        // Inbound after what others have (a container engine's published ports are its own);
        // outbound before it (an engine's own DNS rules would take the questions first).
        jumps: vec![
            "-A PREROUTING -p tcp -j REMORA_INBOUND",
            "-I OUTPUT 1 -j REMORA_OUTPUT",
        ],
    }
}

/// What comes from outside, and what the proxy sends to its own workload's address.
fn inbound(options: &Options, chain: &mut Chain<'_>) {
    chain.leave_established();
    for interface in &options.exclude_interfaces {
        chain.add(format_args!("-i {interface} -j RETURN"));
    }
    for port in PROXY_SERVICE_PORTS {
        chain.add(format_args!("-p tcp -m tcp --dport {port} -j RETURN"));
    }
    for port in &options.inbound.exclude_ports {
        chain.add(format_args!("-p tcp -m tcp --dport {port} -j RETURN"));
    }
    match &options.inbound.include_ports {
        Selection::All => chain.add(format_args!("-p tcp -j {IN_REDIRECT}")),
        Selection::Only(ports) => {
            for port in ports {
                chain.add(format_args!(
                    "-p tcp -m tcp --dport {port} -j {IN_REDIRECT}"
                ));
            }
        }
    }
}

/// Whose traffic is looked at: not the proxy's, not that of excluded owners and interfaces.
fn output(options: &Options, family: Family, chain: &mut Chain<'_>) {
    chain.leave_established();
    // The proxy's connections to its workload, which must not come back to it.
    chain.add(format_args!(
        "-o lo -s {} -j RETURN",
        family.inbound_source()
    ));
    for interface in &options.exclude_interfaces {
        chain.add(format_args!("-o {interface} -j RETURN"));
    }
    // A question over TCP to a resolver at this very address is the proxy's own business.
    let not_dns = if options.dns.is_captured() {
        " -m tcp ! --dport 53"
    } else {
        ""
    };
    for owner in proxy_owners(options) {
        let loopback = family.loopback();
        chain.add(format_args!(
            "-o lo ! -d {loopback} -p tcp{not_dns} {owner} -j {INBOUND}"
        ));
    }
    for owner in proxy_owners(options) {
        chain.add(format_args!("{owner} -j RETURN"));
    }
    for owner in owner_matches(&options.outbound.exclude_owners) {
        chain.add(format_args!("{owner} -j RETURN"));
    }
    if options.outbound.include_owners.is_empty() {
        chain.add(format_args!("-j {CAPTURE}"));
    }
    for owner in owner_matches(&options.outbound.include_owners) {
        chain.add(format_args!("{owner} -j {CAPTURE}"));
    }
}

/// What of the workload's traffic is redirected.
fn capture(options: &Options, family: Family, chain: &mut Chain<'_>) {
    for port in &options.outbound.exclude_ports {
        chain.add(format_args!("-p tcp -m tcp --dport {port} -j RETURN"));
        if port.get() == DNS_PORT {
            chain.add(format_args!("-p udp -m udp --dport {port} -j RETURN"));
        }
    }
    if let Dns::Captured(servers) = &options.dns {
        for protocol in ["udp", "tcp"] {
            for server in server_matches(servers, family) {
                let port = options.ports.dns;
                chain.add(format_args!(
                    "{server}-p {protocol} -m {protocol} --dport 53 -j REDIRECT --to-ports {port}"
                ));
            }
        }
    }
    // The workload to itself by an address of its own: not the mesh's business.
    chain.add("-o lo -j RETURN");
    for cidr in options
        .outbound
        .exclude_cidrs
        .iter()
        .filter(|cidr| family.has(cidr))
    {
        chain.add(format_args!("-d {cidr} -j RETURN"));
    }
    for port in &options.outbound.include_ports {
        chain.add(format_args!("-p tcp -m tcp --dport {port} -j {REDIRECT}"));
    }
    match &options.outbound.include_cidrs {
        Selection::All => chain.add(format_args!("-p tcp -j {REDIRECT}")),
        Selection::Only(cidrs) => {
            for cidr in cidrs.iter().filter(|cidr| family.has(cidr)) {
                chain.add(format_args!("-d {cidr} -p tcp -j {REDIRECT}"));
            }
        }
    }
}

/// Mirrors, in the raw table, exactly the DNS conversations that the nat table redirects.
fn dns_zone_table(options: &Options, servers: &Selection<IpAddr>, family: Family) -> Option<Table> {
    if options
        .outbound
        .exclude_ports
        .iter()
        .any(|port| port.get() == DNS_PORT)
    {
        return None;
    }
    let mut rules = Vec::new();
    let chain = &mut Chain {
        name: DNS_ZONE_CHAIN,
        rules: &mut rules,
    };
    for interface in &options.exclude_interfaces {
        chain.add(format_args!("-o {interface} -j RETURN"));
    }
    // The proxy's answers belong to the same conversation as the redirected questions.
    for owner in proxy_owners(options) {
        let port = options.ports.dns;
        chain.add(format_args!(
            "-p udp -m udp --sport {port} {owner} -j CT --zone {DNS_ZONE}"
        ));
    }
    for owner in proxy_owners(options) {
        chain.add(format_args!("{owner} -j RETURN"));
    }
    for owner in owner_matches(&options.outbound.exclude_owners) {
        chain.add(format_args!("{owner} -j RETURN"));
    }
    let mut askers = owner_matches(&options.outbound.include_owners);
    if askers.is_empty() {
        askers.push(String::new());
    }
    for asker in askers {
        for server in server_matches(servers, family) {
            let space = if asker.is_empty() { "" } else { " " };
            chain.add(format_args!(
                "{server}-p udp -m udp --dport 53 {asker}{space}-j CT --zone {DNS_ZONE}"
            ));
        }
    }
    Some(Table {
        name: "raw",
        chains: vec![DNS_ZONE_CHAIN],
        rules,
        jumps: vec!["-A OUTPUT -p udp -j REMORA_DNS_ZONE"],
    })
}

fn proxy_owners(options: &Options) -> [String; 2] {
    [
        format!("-m owner --uid-owner {}", options.proxy_uid),
        format!("-m owner --gid-owner {}", options.proxy_gid),
    ]
}

fn owner_matches(owners: &Owners) -> Vec<String> {
    let users = owners
        .users
        .iter()
        .map(|user| format!("-m owner --uid-owner {user}"));
    let groups = owners
        .groups
        .iter()
        .map(|group| format!("-m owner --gid-owner {group}"));
    users.chain(groups).collect()
}

/// The destination matches, each ending in a space, that select these servers in this family.
fn server_matches(servers: &Selection<IpAddr>, family: Family) -> Vec<String> {
    match servers {
        Selection::All => vec![String::new()],
        Selection::Only(servers) => servers
            .iter()
            .map(|server| IpNet::from(*server))
            .filter(|server| family.has(server))
            .map(|server| format!("-d {server} "))
            .collect(),
    }
}

/// A chain that rules are appended to.
struct Chain<'a> {
    name: &'static str,
    rules: &'a mut Vec<String>,
}

impl Chain<'_> {
    fn add(&mut self, rule: impl Display) {
        self.rules.push(format!("-A {} {rule}", self.name));
    }

    /// Leaves connections alone that stood before the rules did. Connection tracking may begin with
    /// the rules; it then sees the next packet of an old connection as the first of a new one.
    fn leave_established(&mut self) {
        self.add("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN");
    }
}

#[cfg(test)]
mod tests;
