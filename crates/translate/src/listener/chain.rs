// SPDX-License-Identifier: Apache-2.0
//! Filter chains: which connections, and what is done with them.

use std::sync::Arc;

use remora_ir::listener::{ChainMatch, FilterChain, Network, ServerName, Transport};
use remora_xds_types::listener;
use remora_xds_types::listener::filter::ConfigType;
use remora_xds_types::listener::filter_chain_match::ConnectionSourceType;

use super::ChainContext;
use crate::extension::{self, Need};
use crate::fault::Scope;
use crate::verdict::Verdict;
use crate::{address, cluster, http, tcp, value};

/// Translates a filter chain.
pub(super) fn chain(
    scope: &Scope<'_>,
    message: listener::FilterChain,
    ctx: &ChainContext<'_>,
) -> Option<FilterChain> {
    fields! { scope, message: listener::FilterChain {
        honoured { filter_chain_match, filters: "one terminal filter, last", transport_socket: "`raw_buffer` only", name }
        ignored {
            metadata: "nothing reads it",
            transport_socket_connect_timeout: "of TLS only"
        }
        refused { use_proxy_proto: "the PROXY protocol" }
    }}
    cluster::plain_text(&scope.field("transport_socket"), transport_socket);
    let matches = match filter_chain_match {
        None => Some(ChainMatch::default()),
        Some(matches) => chain_match(&scope.field("filter_chain_match"), matches),
    };
    let network = network(scope, filters, ctx);
    Some(FilterChain {
        name: name.into(),
        matches: matches?,
        network: network?,
    })
}

fn chain_match(scope: &Scope<'_>, message: listener::FilterChainMatch) -> Option<ChainMatch> {
    fields! { scope, message: listener::FilterChainMatch {
        honoured {
            destination_port, prefix_ranges, source_type: "`ANY` only", source_prefix_ranges, source_ports,
            server_names, transport_protocol: "`raw_buffer` or `tls`", application_protocols
        }
        ignored {}
        refused {
            address_suffix: "Envoy does not implement it either",
            suffix_len: "Envoy does not implement it either",
            direct_source_prefix_ranges: "the peer's address before any PROXY protocol"
        }
    }}
    let source_at = scope.field("source_type");
    if value::word::<ConnectionSourceType>(&source_at, source_type)? != ConnectionSourceType::Any {
        source_at.fault("not supported: only `ANY`");
    }
    let transport = match transport_protocol.as_str() {
        "" => None,
        "raw_buffer" => Some(Transport::Raw),
        "tls" => Some(Transport::Tls),
        other => {
            let at = scope.field("transport_protocol");
            at.fault(format!("`{other}` (expected `raw_buffer` or `tls`)"));
            None
        }
    };
    let names = server_names.iter().enumerate();
    let ports = source_ports.into_iter().enumerate();
    Some(ChainMatch {
        destination_port: match value::number(destination_port) {
            Some(port) => Some(value::port(&scope.field("destination_port"), port)?.get()),
            None => None,
        },
        destinations: address::networks(scope, "prefix_ranges", prefix_ranges),
        server_names: names
            .filter_map(|(at, name)| server_name(&scope.item("server_names", at), name))
            .collect(),
        transport,
        application_protocols: application_protocols.into_iter().map(Arc::from).collect(),
        sources: address::networks(scope, "source_prefix_ranges", source_prefix_ranges),
        source_ports: ports
            .filter_map(|(at, port)| value::port(&scope.item("source_ports", at), port))
            .map(remora_primitives::Port::get)
            .collect(),
    })
}

fn server_name(scope: &Scope<'_>, name: &str) -> Option<ServerName> {
    let lower = name.to_ascii_lowercase();
    let below = lower.strip_prefix('*').filter(|rest| rest.starts_with('.'));
    match below {
        Some(suffix) if suffix.len() > 1 && !suffix.contains('*') => {
            Some(ServerName::Below(suffix.into()))
        }
        None if !lower.is_empty() && !lower.contains('*') => Some(ServerName::Exact(lower.into())),
        _ => {
            scope.fault(format!(
                "server name `{name}`: `*` may only be the whole first label"
            ));
            None
        }
    }
}

fn network(
    scope: &Scope<'_>,
    filters: Vec<listener::Filter>,
    ctx: &ChainContext<'_>,
) -> Option<Network> {
    let count = filters.len();
    let mut terminal = None;
    for (at, message) in filters.into_iter().enumerate() {
        let scope = scope.item("filters", at);
        let Some((name, any)) = filter_config(&scope, message) else {
            continue;
        };
        let at_config = scope.field("typed_config");
        let is_terminal = matches!(
            extension::row(extension::NETWORK_FILTERS, &name),
            Some((_, Verdict::Honoured, _))
        );
        if !is_terminal {
            extension::judge(
                &at_config,
                extension::NETWORK_FILTERS,
                &name,
                Need::Required,
            );
            continue;
        }
        if at + 1 != count {
            scope.fault(format!("`{name}` must be the last filter"));
        }
        terminal = Some(if name.ends_with(".TcpProxy") {
            tcp::proxy(&at_config, &any, ctx.ctx).map(|proxy| Network::Tcp(Arc::new(proxy)))
        } else {
            http::manager(&at_config, &any, ctx).map(|http| Network::Http(Arc::new(http)))
        });
    }
    terminal.unwrap_or_else(|| {
        scope
            .field("filters")
            .fault("has no `http_connection_manager` or `tcp_proxy` at its end");
        None
    })
}

fn filter_config(
    scope: &Scope<'_>,
    message: listener::Filter,
) -> Option<(String, remora_xds_types::protobuf::Any)> {
    fields! { scope, message: listener::Filter {
        honoured { name: "a label; the type says what it is", config_type: "inline only" }
        ignored {}
        refused {}
    }}
    let _: String = name;
    match config_type {
        Some(ConfigType::TypedConfig(any)) => {
            extension::name_of(&scope.field("typed_config"), &any).map(|name| (name, any))
        }
        Some(ConfigType::ConfigDiscovery(_)) => {
            let at = scope.field("config_discovery");
            at.fault("not supported: filters by discovery");
            None
        }
        None => {
            scope.field("typed_config").fault("is missing");
            None
        }
    }
}
