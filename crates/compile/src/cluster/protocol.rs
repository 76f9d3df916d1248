// SPDX-License-Identifier: Apache-2.0
//! How HTTP is spoken to a cluster's hosts: HTTP/1.1, HTTP/2, or as the caller speaks.

use remora_model::{ConnectionPool, H2Upgrade, Protocol};
use remora_xds_types::core::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
};
use remora_xds_types::http_protocol_options::HttpProtocolOptions;
use remora_xds_types::http_protocol_options::http_protocol_options::explicit_http_config::ProtocolConfig;
use remora_xds_types::http_protocol_options::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use remora_xds_types::protobuf::Any;

use crate::wire;

/// The name under which the options stand in a cluster.
const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The options of a port; `None` where the default (HTTP/1.1, no limits) is meant, or where no
/// HTTP is spoken.
pub(super) fn options(protocol: Protocol, pool: Option<&ConnectionPool>) -> Option<(String, Any)> {
    if !protocol.is_http() && protocol != Protocol::Auto {
        return None;
    }
    let common = pool.and_then(common);
    let streams = pool.and_then(|pool| pool.max_concurrent_streams);
    let spoken = match spoken(protocol, pool) {
        Spoken::Http1 if common.is_none() => return None,
        Spoken::Http1 => explicit(ProtocolConfig::HttpProtocolOptions(
            Http1ProtocolOptions::default(),
        )),
        Spoken::Http2 => explicit(ProtocolConfig::Http2ProtocolOptions(http2(streams))),
        Spoken::AsDownstream => downstream(streams),
    };
    named(common, spoken)
}

/// The options of clusters that go wherever the caller dialled.
pub(super) fn as_downstream() -> Option<(String, Any)> {
    named(None, downstream(None))
}

/// The version of HTTP towards the upstream.
enum Spoken {
    Http1,
    Http2,
    AsDownstream,
}

fn spoken(protocol: Protocol, pool: Option<&ConnectionPool>) -> Spoken {
    let upgraded = pool.is_some_and(|pool| pool.h2_upgrade == H2Upgrade::Always);
    let by_caller = pool.is_some_and(|pool| pool.use_client_protocol);
    if by_caller {
        Spoken::AsDownstream
    } else if protocol.is_http2() || (upgraded && protocol.is_http()) {
        Spoken::Http2
    } else if protocol == Protocol::Auto {
        Spoken::AsDownstream
    } else {
        Spoken::Http1
    }
}

fn common(pool: &ConnectionPool) -> Option<CommonOptions> {
    // Zero is "no limit" in the policy; in the API it would be a limit of none.
    let requests = pool.max_requests_per_connection.filter(|limit| *limit > 0);
    let common = CommonOptions {
        idle_timeout: pool.http_idle_timeout.and_then(wire::duration),
        max_connection_duration: pool.max_connection_duration.and_then(wire::duration),
        max_requests_per_connection: requests.and_then(wire::number),
        ..CommonOptions::default()
    };
    (common != CommonOptions::default()).then_some(common)
}

fn http2(streams: Option<u32>) -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        max_concurrent_streams: streams.filter(|limit| *limit > 0).and_then(wire::number),
        ..Http2ProtocolOptions::default()
    }
}

fn explicit(protocol: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(protocol),
    })
}

fn downstream(streams: Option<u32>) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        http2_protocol_options: Some(http2(streams)),
        ..UseDownstreamHttpConfig::default()
    })
}

fn named(common: Option<CommonOptions>, spoken: UpstreamProtocolOptions) -> Option<(String, Any)> {
    let options = HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_protocol_options: Some(spoken),
        ..HttpProtocolOptions::default()
    };
    Some((NAME.to_owned(), wire::any(&options)?))
}
