// SPDX-License-Identifier: Apache-2.0
//! Listeners: an address, the chains on it, and what must be looked at to choose one.
//!
//! A chain match is narrow to what the mesh needs. The proxy chooses by destination port, then
//! by destination address, server name, transport and application protocol, and never goes back
//! a step: so whoever adds a chain for HTTP on some port adds the chains for the rest of that
//! port too (see `plan::outbound`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use remora_primitives::Port;
use remora_xds_types::core::{CidrRange, TrafficDirection};
use remora_xds_types::http_inspector::HttpInspector;
use remora_xds_types::listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
use remora_xds_types::listener::{
    AdditionalAddress, FilterChain, FilterChainMatch, Listener, ListenerFilter,
    ListenerFilterChainMatchPredicate, listener_filter,
};
use remora_xds_types::original_dst::OriginalDst;
use remora_xds_types::protobuf::Any;
use remora_xds_types::tls_inspector::TlsInspector;
use remora_xds_types::types::Int32Range;

use crate::network::{Target, unmatched_log};
use crate::scope::MeshSettings;
use crate::wire;

/// One listener to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerPlan {
    /// Its name.
    pub name: String,
    /// The addresses it stands for, at least one.
    pub addresses: Vec<IpAddr>,
    /// Their port.
    pub port: Port,
    /// What kind of listener it is.
    pub role: Role,
    /// Chains with a match, and at most one without.
    pub chains: Vec<ChainPlan>,
    /// For connections that match no chain; `None`: they end.
    pub fallback: Option<ChainPlan>,
    /// What the mesh wants of all.
    pub settings: Arc<MeshSettings>,
}

/// What kind of listener it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes redirected outbound connections and hands them to the listener of their original
    /// destination, if there is one.
    RedirectedOutbound,
    /// Takes redirected inbound connections; its chains match original destinations.
    RedirectedInbound,
    /// Stands for a destination; is handed connections and binds nothing.
    Destination,
}

/// A filter chain to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainPlan {
    /// Its name, unique within the listener.
    pub name: String,
    /// When it is chosen.
    pub matches: ChainMatch,
    /// What it does.
    pub target: Target,
}

/// When a chain is chosen: all parts must hold; what is empty always does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainMatch {
    /// The original destination's port.
    pub port: Option<Port>,
    /// The original destination's range.
    pub range: Option<IpNet>,
    /// The server name in a ClientHello.
    pub server_name: Option<String>,
    /// What is spoken.
    pub spoken: Option<Spoken>,
}

/// What a connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP in the clear.
    Http,
    /// Anything in the clear.
    Clear,
    /// TLS.
    Tls,
}

/// All addresses of the families that a node has.
pub(crate) fn any_address(dual_stack: bool) -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    if dual_stack {
        addresses.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    addresses
}

impl ListenerPlan {
    pub(crate) fn build(&self) -> Listener {
        let direction = match self.role {
            Role::RedirectedInbound => TrafficDirection::Inbound,
            Role::RedirectedOutbound | Role::Destination => TrafficDirection::Outbound,
        };
        let chain = |plan: &ChainPlan| FilterChain {
            name: plan.name.clone(),
            filter_chain_match: plan.matches.build(),
            filters: vec![plan.target.filter(&self.settings)],
            ..FilterChain::default()
        };
        let mut addresses = self
            .addresses
            .iter()
            .map(|ip| wire::address(*ip, self.port));
        let listener_filters = self.listener_filters();
        let inspects = self.inspects_http() || self.inspects_tls();
        Listener {
            name: self.name.clone(),
            address: addresses.next().flatten(),
            additional_addresses: addresses
                .map(|address| AdditionalAddress {
                    address,
                    ..AdditionalAddress::default()
                })
                .collect(),
            traffic_direction: direction.into(),
            use_original_dst: (self.role == Role::RedirectedOutbound)
                .then(|| wire::flag(true))
                .flatten(),
            bind_to_port: (self.role == Role::Destination)
                .then(|| wire::flag(false))
                .flatten(),
            filter_chains: self.chains.iter().map(chain).collect(),
            default_filter_chain: self.fallback.as_ref().map(chain),
            listener_filters,
            listener_filters_timeout: inspects
                .then(|| wire::duration(self.settings.detection_timeout))
                .flatten(),
            continue_on_listener_filters_timeout: inspects,
            access_log: unmatched_log(&self.settings),
            ..Listener::default()
        }
    }

    fn spoken(&self) -> impl Iterator<Item = (&ChainMatch, Spoken)> {
        let of = |chain: &'_ ChainPlan| chain.matches.spoken;
        self.chains
            .iter()
            .filter_map(move |chain| Some((&chain.matches, of(chain)?)))
    }

    fn inspects_http(&self) -> bool {
        self.spoken().any(|(_, spoken)| spoken == Spoken::Http)
    }

    /// Whoever tells HTTP from the rest must know TLS first, in which HTTP may hide.
    fn inspects_tls(&self) -> bool {
        self.spoken().next().is_some()
            || self.chains.iter().any(|c| c.matches.server_name.is_some())
    }

    fn listener_filters(&self) -> Vec<ListenerFilter> {
        let mut filters = Vec::new();
        if self.role == Role::RedirectedInbound {
            let config = wire::any(&OriginalDst::default());
            filters.push(listener_filter("original_dst", config, None));
        }
        if self.inspects_tls() {
            let config = wire::any(&TlsInspector::default());
            filters.push(listener_filter("tls_inspector", config, self.elsewhere()));
        }
        if self.inspects_http() {
            let config = wire::any(&HttpInspector::default());
            filters.push(listener_filter("http_inspector", config, self.elsewhere()));
        }
        filters
    }

    /// Where nothing needs to be looked at: ports of which no chain asks what is spoken. On them
    /// a server that speaks first must not be waited for.
    fn elsewhere(&self) -> Option<ListenerFilterChainMatchPredicate> {
        let mut ports = Vec::new();
        for (matches, _) in self.spoken() {
            // A chain for all ports asks everywhere.
            let port = i32::from(matches.port?.get());
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports.sort_unstable();
        let mut rules: Vec<_> = ports.into_iter().map(port_rule).collect();
        let asked = match rules.len() {
            0 => return None,
            1 => rules.pop()?,
            _ => predicate(Rule::OrMatch(MatchSet { rules })),
        };
        Some(predicate(Rule::NotMatch(Box::new(asked))))
    }
}

fn predicate(rule: Rule) -> ListenerFilterChainMatchPredicate {
    ListenerFilterChainMatchPredicate { rule: Some(rule) }
}

fn port_rule(port: i32) -> ListenerFilterChainMatchPredicate {
    predicate(Rule::DestinationPortRange(Int32Range {
        start: port,
        end: port + 1,
    }))
}

fn listener_filter(
    short: &str,
    config: Option<Any>,
    filter_disabled: Option<ListenerFilterChainMatchPredicate>,
) -> ListenerFilter {
    ListenerFilter {
        name: format!("envoy.filters.listener.{short}"),
        filter_disabled,
        config_type: config.map(listener_filter::ConfigType::TypedConfig),
    }
}

impl ChainMatch {
    fn build(&self) -> Option<FilterChainMatch> {
        if *self == Self::default() {
            return None;
        }
        let (transport, applications): (&str, &[&str]) = match self.spoken {
            Some(Spoken::Http) => ("raw_buffer", &["http/1.0", "http/1.1", "h2c"]),
            Some(Spoken::Clear) => ("raw_buffer", &[]),
            Some(Spoken::Tls) => ("tls", &[]),
            None => ("", &[]),
        };
        Some(FilterChainMatch {
            destination_port: self.port.and_then(|port| wire::number(port.get().into())),
            prefix_ranges: self.range.iter().map(cidr).collect(),
            server_names: self.server_name.iter().cloned().collect(),
            transport_protocol: transport.to_owned(),
            application_protocols: applications.iter().map(|&name| name.to_owned()).collect(),
            ..FilterChainMatch::default()
        })
    }
}

fn cidr(net: &IpNet) -> CidrRange {
    CidrRange {
        address_prefix: net.network().to_string(),
        prefix_len: wire::number(net.prefix_len().into()),
    }
}
