// SPDX-License-Identifier: Apache-2.0
//! Listeners: what they stand for, how connections are had, and their filter chains.

mod chain;
mod filters;

use std::net::SocketAddr;
use std::time::Duration;

use remora_ir::ListenerName;
use remora_ir::listener::{Bind, Direction, FilterChains, Inspect, Interception, Listener};
use remora_xds_types::core::TrafficDirection;
use remora_xds_types::listener;

use crate::fault::Scope;
use crate::resource::{Context, named};
use crate::{access_log, address, value};

/// Envoy's bound on waiting for a connection's first bytes.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What chains take from their listener.
pub(crate) struct ChainContext<'a> {
    pub(crate) ctx: &'a Context,
    /// Bytes kept for replay. Source: `per_connection_buffer_limit_bytes`.
    pub(crate) max_replay: usize,
}

/// Envoy's connection buffer.
const MAX_REPLAY: usize = 1 << 20;

/// Translates a listener.
pub(crate) fn listener(
    scope: &Scope<'_>,
    message: listener::Listener,
    ctx: &Context,
) -> Option<Listener> {
    fields! { scope, message: listener::Listener {
        honoured {
            name: "required", address: "an IP address and TCP port", additional_addresses, filter_chains, use_original_dst,
            default_filter_chain, per_connection_buffer_limit_bytes: "bounds what is kept for a retry or a mirror",
            deprecated_v1: "the older form of `bind_to_port`", listener_filters, listener_filters_timeout,
            continue_on_listener_filters_timeout, transparent, traffic_direction, bind_to_port,
            access_log
        }
        ignored {
            stat_prefix: "statistics have names of their own",
            stats_matcher: "statistics have names of their own",
            per_connection_buffer_high_watermark_timeout: "buffers are small and bounded",
            metadata: "nothing reads it",
            drain_type: "every change drains",
            freebind: "the machine decides what may be bound",
            socket_options: "the proxy knows which options its sockets need",
            tcp_fast_open_queue_length: "fast open is not used",
            connection_balance_config: "workers share connections by themselves",
            reuse_port: "each worker has a socket",
            enable_reuse_port: "each worker has a socket",
            tcp_backlog_size: "the machine's limit holds",
            max_connections_to_accept_per_socket_event: "the accept loop is bounded by itself",
            enable_mptcp: "plain TCP is spoken",
            ignore_global_conn_limit: "there is no global limit",
            bypass_overload_manager: "there is no overload manager",
            tcp_keepalive: "the machine's own probes hold"
        }
        refused {
            fcds_config: "filter chains must be inline",
            filter_chain_matcher: "chains are chosen by their `filter_chain_match`",
            udp_listener_config: "UDP",
            api_listener: "listeners without an address",
            listener_specifier: "internal listeners do not exist"
        }
    }}
    named(scope, &name);
    let buffer = value::number(per_connection_buffer_limit_bytes).unwrap_or(0);
    let chain_ctx = ChainContext {
        ctx,
        max_replay: match usize::try_from(buffer) {
            Ok(limit) if limit > 0 => limit,
            _ => MAX_REPLAY,
        },
    };
    let filters = filters::listener_filters(scope, listener_filters);
    let hand_off = value::flag(use_original_dst, false);
    let is_bound = value::flag(bind_to_port, true)
        && deprecated_v1.is_none_or(|v1| value::flag(v1.bind_to_port, true));
    let chains = chains(scope, filter_chains, default_filter_chain, &chain_ctx);
    let direction = value::word(&scope.field("traffic_direction"), traffic_direction);
    let more_addresses = more_addresses(scope, additional_addresses);
    let timeout_at = scope.field("listener_filters_timeout");
    let inspect = Inspect {
        tls: filters.tls,
        http: filters.http,
        timeout: value::bound_or(&timeout_at, listener_filters_timeout, Some(INSPECT_TIMEOUT)),
        continue_on_timeout: continue_on_listener_filters_timeout,
    };
    let interception = if value::flag(transparent, false) {
        Interception::Transparent
    } else if hand_off || filters.original_dst {
        Interception::Redirect
    } else {
        Interception::None
    };
    let access_logs = access_log::logs(scope, access_log);
    Some(Listener {
        name: ListenerName::new(&name),
        address: address::ip_place(&scope.field("address"), address)?,
        more_addresses,
        bind: if is_bound { Bind::Port } else { Bind::Nothing },
        direction: match direction? {
            TrafficDirection::Unspecified => Direction::Unspecified,
            TrafficDirection::Inbound => Direction::Inbound,
            TrafficDirection::Outbound => Direction::Outbound,
        },
        hand_off,
        interception,
        inspect,
        chains,
        access_logs,
        max_connections: None,
    })
}

fn more_addresses(
    scope: &Scope<'_>,
    additional: Vec<listener::AdditionalAddress>,
) -> Vec<SocketAddr> {
    let translate = |(at, message): (usize, listener::AdditionalAddress)| {
        let scope = scope.item("additional_addresses", at);
        fields! { &scope, message: listener::AdditionalAddress {
            honoured { address }
            ignored {
                socket_options: "the proxy knows which options its sockets need",
                tcp_keepalive: "the machine's own probes hold"
            }
            refused {}
        }}
        address::ip_place(&scope.field("address"), address)
    };
    additional
        .into_iter()
        .enumerate()
        .filter_map(translate)
        .collect()
}

fn chains(
    scope: &Scope<'_>,
    chains: Vec<listener::FilterChain>,
    default: Option<listener::FilterChain>,
    ctx: &ChainContext<'_>,
) -> FilterChains {
    if chains.is_empty() && default.is_none() {
        scope.field("filter_chains").fault("is empty");
    }
    let mut seen = std::collections::HashMap::new();
    let mut translated = Vec::with_capacity(chains.len());
    for (at, message) in chains.into_iter().enumerate() {
        let scope = scope.item("filter_chains", at);
        let Some(chain) = chain::chain(&scope, message, ctx) else {
            continue;
        };
        // Two chains that match the same would make the choice a matter of luck.
        if let Some(first) = seen.insert(format!("{:?}", chain.matches), at) {
            scope
                .field("filter_chain_match")
                .fault(format!("is the same as that of filter_chains[{first}]"));
        }
        translated.push(std::sync::Arc::new(chain));
    }
    let default = default
        .and_then(|message| chain::chain(&scope.field("default_filter_chain"), message, ctx))
        .map(std::sync::Arc::new);
    FilterChains::new(translated, default)
}
