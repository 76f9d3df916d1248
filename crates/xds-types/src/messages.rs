// SPDX-License-Identifier: Apache-2.0
//! The curated list of generated messages: one module for each proto package in use, named by
//! what it holds. A package that is missing here is used nowhere in the mesh.

/// Declares a module that re-exports one generated package.
macro_rules! package {
    ($($(#[$doc:meta])* $name:ident = $($path:ident)::+;)+) => {
        $($(#[$doc])* pub mod $name { pub use envoy_types::pb::$($path)::+::*; })+
    };
}

package! {
    /// `envoy.config.core.v3`: addresses, nodes, sockets, header values, config sources.
    core = envoy::config::core::v3;
    /// `envoy.config.listener.v3`: listeners and filter chains.
    listener = envoy::config::listener::v3;
    /// `envoy.config.route.v3`: route tables, virtual hosts, routes, retry policies.
    route = envoy::config::route::v3;
    /// `envoy.config.cluster.v3`: clusters, circuit limits, outlier detection.
    cluster = envoy::config::cluster::v3;
    /// `envoy.config.endpoint.v3`: cluster load assignments.
    endpoint = envoy::config::endpoint::v3;
    /// `envoy.config.accesslog.v3`: access logs and their filters.
    accesslog = envoy::config::accesslog::v3;
    /// `envoy.config.bootstrap.v3`: the bootstrap file.
    bootstrap = envoy::config::bootstrap::v3;
    /// `envoy.config.rbac.v3`: permissions and principals.
    rbac = envoy::config::rbac::v3;
    /// `envoy.config.trace.v3`: tracing providers.
    trace = envoy::config::trace::v3;
    /// `envoy.config.metrics.v3`: statistics settings of the bootstrap.
    metrics = envoy::config::metrics::v3;
    /// `envoy.service.discovery.v3`: requests, responses, the aggregated discovery service's
    /// client (`aggregated_discovery_service_client`) and server
    /// (`aggregated_discovery_service_server`).
    discovery = envoy::service::discovery::v3;
    /// `envoy.admin.v3`: the answers of the admin interface.
    admin = envoy::admin::v3;
    /// `envoy.type.matcher.v3`: string, regex, value and metadata matchers.
    matcher = envoy::r#type::matcher::v3;
    /// `envoy.type.v3`: percentages, ranges, tokens, status codes.
    types = envoy::r#type::v3;
    /// `envoy.type.tracing.v3`: custom tags.
    tracing = envoy::r#type::tracing::v3;
    /// `envoy.type.http.v3`: path transformations and cookies.
    http_types = envoy::r#type::http::v3;
    /// `xds.core.v3`: extension configuration, CIDR ranges, resource locators.
    xds_core = xds::core::v3;
    /// `xds.type.matcher.v3`: the unified matcher.
    xds_matcher = xds::r#type::matcher::v3;
    /// `google.rpc`: status with code, message and details.
    rpc = google::rpc;
    /// `google.protobuf`: `Any`, `Duration`, `Struct`, the wrappers of scalars.
    protobuf = google::protobuf;
}

package! {
    /// `http_connection_manager.v3`: HTTP on a filter chain.
    hcm = envoy::extensions::filters::network::http_connection_manager::v3;
    /// `tcp_proxy.v3`: bytes to a cluster.
    tcp_proxy = envoy::extensions::filters::network::tcp_proxy::v3;
    /// `network.rbac.v3`: authorization of connections.
    network_rbac = envoy::extensions::filters::network::rbac::v3;
    /// `network.ext_authz.v3`: authorization of connections by a service.
    network_ext_authz = envoy::extensions::filters::network::ext_authz::v3;
    /// `network.redis_proxy.v3`.
    redis_proxy = envoy::extensions::filters::network::redis_proxy::v3;
    /// `network.mongo_proxy.v3`.
    mongo_proxy = envoy::extensions::filters::network::mongo_proxy::v3;
    /// `listener.tls_inspector.v3`.
    tls_inspector = envoy::extensions::filters::listener::tls_inspector::v3;
    /// `listener.http_inspector.v3`.
    http_inspector = envoy::extensions::filters::listener::http_inspector::v3;
    /// `listener.original_dst.v3`.
    original_dst = envoy::extensions::filters::listener::original_dst::v3;
    /// `listener.original_src.v3`.
    original_src = envoy::extensions::filters::listener::original_src::v3;
    /// `listener.proxy_protocol.v3`.
    proxy_protocol = envoy::extensions::filters::listener::proxy_protocol::v3;
}

package! {
    /// `http.router.v3`: the terminal HTTP filter.
    router = envoy::extensions::filters::http::router::v3;
    /// `http.fault.v3`: delays and aborts.
    fault = envoy::extensions::filters::http::fault::v3;
    /// `filters.common.fault.v3`: the delay and rate limit of a fault.
    fault_common = envoy::extensions::filters::common::fault::v3;
    /// `http.cors.v3`.
    cors = envoy::extensions::filters::http::cors::v3;
    /// `http.grpc_stats.v3`.
    grpc_stats = envoy::extensions::filters::http::grpc_stats::v3;
    /// `http.rbac.v3`: authorization of requests.
    http_rbac = envoy::extensions::filters::http::rbac::v3;
    /// `http.jwt_authn.v3`.
    jwt_authn = envoy::extensions::filters::http::jwt_authn::v3;
    /// `http.ext_authz.v3`.
    ext_authz = envoy::extensions::filters::http::ext_authz::v3;
    /// `http.local_ratelimit.v3`.
    local_ratelimit = envoy::extensions::filters::http::local_ratelimit::v3;
    /// `http.header_mutation.v3`.
    header_mutation = envoy::extensions::filters::http::header_mutation::v3;
    /// `http.health_check.v3`.
    health_check = envoy::extensions::filters::http::health_check::v3;
    /// `http.buffer.v3`.
    buffer = envoy::extensions::filters::http::buffer::v3;
    /// `request_id.uuid.v3`.
    uuid_request_id = envoy::extensions::request_id::uuid::v3;
    /// `http.header_formatters.preserve_case.v3`.
    preserve_case = envoy::extensions::http::header_formatters::preserve_case::v3;
    /// `upstreams.http.v3`: a cluster's `HttpProtocolOptions`.
    http_protocol_options = envoy::extensions::upstreams::http::v3;
    /// `upstreams.tcp.v3`: a cluster's `TcpProtocolOptions`.
    tcp_protocol_options = envoy::extensions::upstreams::tcp::v3;
    /// `retry.host.previous_hosts.v3`.
    previous_hosts = envoy::extensions::retry::host::previous_hosts::v3;
    /// `retry.priority.previous_priorities.v3`.
    previous_priorities = envoy::extensions::retry::priority::previous_priorities::v3;
    /// `access_loggers.file.v3`.
    file_access_log = envoy::extensions::access_loggers::file::v3;
    /// `access_loggers.stream.v3`.
    stream_access_log = envoy::extensions::access_loggers::stream::v3;
    /// `formatter.req_without_query.v3`.
    req_without_query = envoy::extensions::formatter::req_without_query::v3;
    /// `transport_sockets.tls.v3`: TLS contexts and secrets.
    tls = envoy::extensions::transport_sockets::tls::v3;
    /// `transport_sockets.raw_buffer.v3`.
    raw_buffer = envoy::extensions::transport_sockets::raw_buffer::v3;
    /// `network.dns_resolver.cares.v3`.
    cares_dns = envoy::extensions::network::dns_resolver::cares::v3;
    /// `load_balancing_policies.common.v3`: slow start and locality settings.
    balancing_common = envoy::extensions::load_balancing_policies::common::v3;
    /// `load_balancing_policies.least_request.v3`.
    least_request = envoy::extensions::load_balancing_policies::least_request::v3;
    /// `load_balancing_policies.round_robin.v3`.
    round_robin = envoy::extensions::load_balancing_policies::round_robin::v3;
    /// `load_balancing_policies.random.v3`.
    random = envoy::extensions::load_balancing_policies::random::v3;
    /// `load_balancing_policies.ring_hash.v3`.
    ring_hash = envoy::extensions::load_balancing_policies::ring_hash::v3;
    /// `load_balancing_policies.maglev.v3`.
    maglev = envoy::extensions::load_balancing_policies::maglev::v3;
    /// `load_balancing_policies.wrr_locality.v3`.
    wrr_locality = envoy::extensions::load_balancing_policies::wrr_locality::v3;
    /// `load_balancing_policies.cluster_provided.v3`.
    cluster_provided = envoy::extensions::load_balancing_policies::cluster_provided::v3;
}
