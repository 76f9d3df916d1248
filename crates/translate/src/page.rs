// SPDX-License-Identifier: Apache-2.0
//! The compatibility page: every message's table of verdicts, as Markdown.
//!
//! The tables are those that translation itself runs on (`fields!`, [`crate::extension`]). One
//! test compares `docs/envoy-compat.md` with what comes out here, another one counts the uses of
//! `fields!`, so that no message is forgotten.

use std::fmt::Write as _;

use remora_xds_types::cluster::{self, circuit_breakers};
use remora_xds_types::core::{self, grpc_service};
use remora_xds_types::endpoint::{self, cluster_load_assignment};
use remora_xds_types::hcm::{self, http_connection_manager};
use remora_xds_types::route::{self, retry_policy, route_action, weighted_cluster};
use remora_xds_types::{
    accesslog, bootstrap, fault, file_access_log, http_protocol_options, least_request, listener,
    matcher, random, round_robin, router, stream_access_log, tcp_proxy, tls_inspector,
    wrr_locality,
};

use crate::extension::GROUPS;
use crate::verdict::{Described, Row, plain};

/// One message: its full name and its fields.
type Table = (String, &'static [Row]);

macro_rules! tables {
    ($($ty:ty),* $(,)?) => {
        [$((<$ty as remora_xds_types::Name>::full_name(), <$ty as Described>::FIELDS)),*]
    };
}

/// All messages whose fields are translated, in the order of the page.
fn tables() -> impl Iterator<Item = Table> {
    let listeners = tables![
        listener::Listener,
        listener::AdditionalAddress,
        listener::ListenerFilter,
        tls_inspector::TlsInspector,
        listener::FilterChain,
        listener::FilterChainMatch,
        listener::Filter,
        tcp_proxy::TcpProxy,
        tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight,
        hcm::HttpConnectionManager,
        hcm::Rds,
        http_connection_manager::UpgradeConfig,
        hcm::HttpFilter,
        router::Router,
        fault::HttpFault,
        accesslog::AccessLog,
        file_access_log::FileAccessLog,
        stream_access_log::StdoutAccessLog,
        stream_access_log::StderrAccessLog,
    ];
    let routes = tables![
        route::RouteConfiguration,
        route::VirtualHost,
        route::Route,
        route::RouteMatch,
        route::HeaderMatcher,
        route::QueryParameterMatcher,
        route::RouteAction,
        route::WeightedCluster,
        weighted_cluster::ClusterWeight,
        route_action::RequestMirrorPolicy,
        route_action::UpgradeConfig,
        route_action::MaxStreamDuration,
        route::RetryPolicy,
        retry_policy::RetryHostPredicate,
        retry_policy::RetryBackOff,
        route::RedirectAction,
        route::DirectResponseAction,
        route::FilterConfig,
        matcher::StringMatcher,
        matcher::RegexMatcher,
        matcher::RegexMatchAndSubstitute,
    ];
    let clusters = tables![
        cluster::Cluster,
        cluster::cluster::TransportSocketMatch,
        cluster::Filter,
        cluster::cluster::EdsClusterConfig,
        cluster::cluster::OriginalDstLbConfig,
        cluster::cluster::CommonLbConfig,
        cluster::cluster::LeastRequestLbConfig,
        round_robin::RoundRobin,
        random::Random,
        least_request::LeastRequest,
        wrr_locality::WrrLocality,
        cluster::UpstreamConnectionOptions,
        http_protocol_options::HttpProtocolOptions,
        http_protocol_options::http_protocol_options::UseDownstreamHttpConfig,
        cluster::CircuitBreakers,
        circuit_breakers::Thresholds,
        circuit_breakers::thresholds::RetryBudget,
        cluster::OutlierDetection,
        endpoint::ClusterLoadAssignment,
        cluster_load_assignment::Policy,
        endpoint::LocalityLbEndpoints,
        endpoint::LbEndpoint,
        endpoint::Endpoint,
    ];
    let shared = tables![
        core::SocketAddress,
        core::Pipe,
        core::CidrRange,
        core::Locality,
        core::BindConfig,
        core::TcpKeepalive,
        core::TransportSocket,
        core::ConfigSource,
        core::DataSource,
        core::HeaderValueOption,
        core::HeaderValue,
        core::RuntimeFractionalPercent,
        core::SubstitutionFormatString,
        core::HttpProtocolOptions,
        core::Http1ProtocolOptions,
        core::Http2ProtocolOptions,
        core::KeepaliveSettings,
    ];
    let bootstraps = tables![
        bootstrap::Bootstrap,
        bootstrap::Admin,
        bootstrap::bootstrap::StaticResources,
        bootstrap::bootstrap::DynamicResources,
        core::ApiConfigSource,
        core::GrpcService,
        grpc_service::EnvoyGrpc,
    ];
    let resources = listeners.into_iter().chain(routes).chain(clusters);
    resources.chain(shared).chain(bootstraps)
}

const HEAD: &str = "\
# What of Envoy's configuration is honoured

Generated from the code that translates configuration (`crates/translate`); a test keeps it true.

* **honoured**: it does what Envoy documents, within the note.
* **ignored**: it cannot change where a request goes or who may pass. It is accepted and reported.
* **refused**: a resource that has it is not accepted, and the control plane is told why.

A field that is not set has no verdict. Fields and types that are not on this page do not exist in
the API this was built with, or belong to messages that are refused as a whole.
";

/// The whole page, as Markdown.
#[must_use]
pub fn compatibility_page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## Extensions\n\nAnything else is refused; HTTP filters marked `is_optional` are then ignored.\n");
    for (group, rows) in GROUPS {
        heading(&mut page, group);
        for row in *rows {
            line(&mut page, row);
        }
    }
    page.push_str("\n## Messages\n");
    for (name, rows) in tables() {
        heading(&mut page, &name);
        for row in rows {
            line(&mut page, row);
        }
    }
    page
}

fn heading(page: &mut String, title: &str) {
    page.push_str(&format!(
        "\n### {title}\n\n| | verdict | note |\n|---|---|---|\n"
    ));
}

fn line(page: &mut String, (name, verdict, note): &Row) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(page, "| `{}` | {} | {note} |", plain(name), verdict.word());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set it to write the page anew: `REMORA_WRITE_DOCS=1 cargo test -p remora-translate page`.
    const WRITE: &str = "REMORA_WRITE_DOCS";

    #[test]
    fn the_page_in_docs_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/envoy-compat.md");
        let page = compatibility_page();
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(path, &page).expect("docs can be written");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page, "{path} is stale: run with {WRITE}=1");
    }

    #[test]
    fn every_message_taken_apart_is_on_the_page_once() {
        let mut uses = 0;
        let mut folders = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/src").into()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir::<std::path::PathBuf>(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ext| ext == "rs") {
                    let text = std::fs::read_to_string(&path).expect("a source file");
                    let is_use = |line: &&str| line.trim_start().starts_with("fields! { ");
                    uses += text.lines().filter(is_use).count();
                }
            }
        }
        let names: std::collections::BTreeSet<_> = tables().map(|(name, _)| name).collect();
        assert_eq!(names.len(), tables().count(), "a message is listed twice");
        assert_eq!(
            uses,
            names.len(),
            "uses of `fields!` against messages listed"
        );
    }
}
