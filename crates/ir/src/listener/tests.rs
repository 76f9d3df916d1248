// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::name::SlotTable;

fn chain(name: &str, matches: ChainMatch) -> Arc<FilterChain> {
    let tcp = TcpProxy {
        stat_prefix: "t".into(),
        target: Target::Cluster(SlotTable::default().slot("c")),
        idle_timeout: None,
        max_duration: None,
        connect_attempts: NonZeroU32::MIN,
        access_logs: Vec::new(),
    };
    Arc::new(FilterChain {
        name: name.into(),
        matches,
        network: Network::Tcp(Arc::new(tcp)),
    })
}

fn facts<'a>(destination: &str, protocols: &'a [&'a str]) -> ConnectionFacts<'a> {
    ConnectionFacts {
        destination: destination.parse().expect("address"),
        source: "192.0.2.7:4000".parse().expect("address"),
        server_name: "",
        is_tls: false,
        application_protocols: protocols,
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts
        .iter()
        .map(|text| text.parse().expect("network"))
        .collect()
}

fn found<'a>(chains: &'a FilterChains, facts: &ConnectionFacts<'_>) -> Option<&'a str> {
    chains.find(facts).found().map(|chain| &*chain.name)
}

#[test]
fn the_port_is_decided_before_the_address() {
    let by_port = ChainMatch {
        destination_port: Some(80),
        ..ChainMatch::default()
    };
    let by_net = ChainMatch {
        destinations: nets(&["10.0.0.1/32"]),
        ..ChainMatch::default()
    };
    let chains = FilterChains::new(
        vec![chain("net", by_net), chain("port", by_port)],
        Some(chain("default", ChainMatch::default())),
    );
    assert_eq!(found(&chains, &facts("10.0.0.1:80", &[])), Some("port"));
    assert_eq!(found(&chains, &facts("10.0.0.1:81", &[])), Some("net"));
    assert_eq!(found(&chains, &facts("10.0.0.2:81", &[])), Some("default"));
}

#[test]
fn the_longest_destination_network_wins() {
    let on = |net| ChainMatch {
        destinations: nets(&[net]),
        ..ChainMatch::default()
    };
    let chains = FilterChains::new(
        vec![
            chain("none", ChainMatch::default()),
            chain("all", on("0.0.0.0/0")),
            chain("wide", on("10.0.0.0/8")),
            chain("narrow", on("10.1.0.0/16")),
        ],
        None,
    );
    let table = [
        ("10.1.2.3:1", "narrow"),
        ("10.2.2.3:1", "wide"),
        ("192.0.2.1:1", "all"),
        ("[::1]:1", "none"),
    ];
    for (destination, name) in table {
        assert_eq!(
            found(&chains, &facts(destination, &[])),
            Some(name),
            "{destination}"
        );
    }
}

#[test]
fn server_names_rank_exact_then_longest_suffix() {
    let on = |names: Vec<ServerName>| ChainMatch {
        server_names: names,
        ..ChainMatch::default()
    };
    let chains = FilterChains::new(
        vec![
            chain("test", on(vec![ServerName::Below(".test".into())])),
            chain("b.test", on(vec![ServerName::Below(".b.test".into())])),
            chain("exact", on(vec![ServerName::Exact("a.b.test".into())])),
        ],
        None,
    );
    let name = |server_name| ConnectionFacts {
        server_name,
        is_tls: true,
        ..facts("10.0.0.1:443", &[])
    };
    assert_eq!(found(&chains, &name("a.b.test")), Some("exact"));
    assert_eq!(found(&chains, &name("c.b.test")), Some("b.test"));
    assert_eq!(found(&chains, &name("b.test")), Some("test"));
    assert_eq!(found(&chains, &name("test")), None);
    assert_eq!(found(&chains, &name("")), None);
}

#[test]
fn sniffed_protocols_choose_http_and_everything_else_is_tcp() {
    let http = ChainMatch {
        transport: Some(Transport::Raw),
        application_protocols: vec!["http/1.1".into(), "h2c".into()],
        ..ChainMatch::default()
    };
    let tcp = Some(chain("tcp", ChainMatch::default()));
    let chains = FilterChains::new(vec![chain("http", http)], tcp);
    assert!(chains.needs_bytes("10.0.0.1:80".parse().expect("address")));
    assert_eq!(
        found(&chains, &facts("10.0.0.1:80", &["http/1.1"])),
        Some("http")
    );
    assert_eq!(found(&chains, &facts("10.0.0.1:80", &[])), Some("tcp"));
    let tls = ConnectionFacts {
        is_tls: true,
        ..facts("10.0.0.1:80", &["http/1.1"])
    };
    assert_eq!(found(&chains, &tls), Some("tcp"));
}

#[test]
fn bytes_are_needed_only_for_chains_that_the_destination_leaves_open() {
    let match_ = ChainMatch {
        destination_port: Some(80),
        application_protocols: vec!["http/1.1".into()],
        ..ChainMatch::default()
    };
    let chains = FilterChains::new(vec![chain("http", match_)], None);
    assert!(chains.needs_bytes("10.0.0.1:80".parse().expect("address")));
    assert!(!chains.needs_bytes("10.0.0.1:3306".parse().expect("address")));
}
