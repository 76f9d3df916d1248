// SPDX-License-Identifier: Apache-2.0
//! Envoy's bootstrap file: who the proxy is, what it has from the start, who steers it.

mod control_plane;

use std::net::SocketAddr;
use std::sync::Arc;

use remora_ir::SlotTable;
use remora_ir::cluster::Cluster;
use remora_ir::listener::{Bind, Listener};
use remora_xds_types::bootstrap as message;
use remora_xds_types::bootstrap_file::{self, BootstrapError};
use remora_xds_types::core::Node;

pub use control_plane::{ControlPlane, Protocol, Target};

use crate::fault::{Fault, Faults, Scope, Translated, gather};
use crate::resource::Context;
use crate::{access_log, address};

/// A bootstrap file, translated.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Who the proxy is; sent to the control plane as it is.
    pub node: Node,
    /// The admin interface, if it is wanted.
    pub admin: Option<Admin>,
    /// Listeners from the start.
    pub listeners: Vec<Arc<Listener>>,
    /// Clusters from the start, the control plane's own among them.
    pub clusters: Vec<Arc<Cluster>>,
    /// Who steers the proxy, if anyone.
    pub control_plane: Option<ControlPlane>,
    /// For everything that the control plane sends.
    pub context: Context,
}

/// The admin interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
}

/// Reads and translates a bootstrap file, YAML or JSON. The context of the result has the slots
/// given here, and the node's namespace and DNS domain.
///
/// # Errors
/// With every fault of the file; one that does not parse has one.
pub fn bootstrap(text: &str, slots: &SlotTable) -> Result<Translated<Bootstrap>, Faults> {
    let message = bootstrap_file::read(text).map_err(unreadable)?;
    gather("bootstrap", "", |scope| translate(scope, message, slots))
}

/// A file that is no bootstrap.
fn unreadable(error: BootstrapError) -> Faults {
    let found = match error {
        BootstrapError::Syntax(found) => found,
        BootstrapError::Field(error) => error.to_string(),
        BootstrapError::NotAMapping | BootstrapError::Decode(_) => error.to_string(),
    };
    let fault = Fault {
        path: String::new(),
        found,
    };
    Faults {
        kind: "bootstrap",
        name: String::new(),
        faults: vec![fault],
        more: 0,
    }
}

fn translate(
    scope: &Scope<'_>,
    bootstrap: message::Bootstrap,
    slots: &SlotTable,
) -> Option<Bootstrap> {
    fields! { scope, bootstrap: message::Bootstrap {
        honoured { node: "sent as it is", static_resources, dynamic_resources, admin }
        ignored {
            node_context_params: "resources have plain names",
            cluster_manager: "there is no local cluster; ejections are logged with everything else",
            flags_path: "there is no runtime",
            stats_sinks: "statistics are read from the admin and Prometheus ports",
            deferred_stat_options: "statistics only",
            stats_config: "statistics only",
            stats_flush_interval: "statistics only",
            watchdog: "there is no watchdog",
            watchdogs: "there is no watchdog",
            tracing: "spans are not reported",
            layered_runtime: "there is no runtime",
            overload_manager: "there is no overload manager",
            enable_dispatcher_stats: "statistics only",
            stats_server_version_override: "statistics only",
            use_tcp_for_dns_lookups: "the resolver chooses",
            typed_dns_resolver_config: "there is one resolver",
            bootstrap_extensions: "extensions of the process are not loaded",
            fatal_actions: "there is no watchdog",
            inline_headers: "header names need no declaration",
            perf_tracing_file_path: "there is no performance trace",
            default_regex_engine: "there is one engine, of linear time",
            listener_manager: "there is one",
            application_log_config: "the log has a format of its own",
            grpc_async_client_manager_config: "connections to the control plane are kept",
            memory_allocator_manager: "the allocator looks after itself",
            enable_worker_cpu_affinity: "the machine schedules the workers",
            stats_flush: "statistics only",
            stats_eviction: "statistics only"
        }
        refused {
            hds_config: "health discovery",
            header_prefix: "other names than `x-envoy-…`",
            dns_resolution_config: "other resolvers than the machine's",
            config_sources: "sources other than `ads_config`",
            default_config_source: "sources other than `ads_config`",
            default_socket_interface: "custom sockets",
            certificate_provider_instances: "certificate providers",
            xds_delegate_extension: "other stores of the last configuration",
            xds_config_tracker_extension: "observers of the configuration"
        }
    }}
    let node = node.unwrap_or_default();
    let context = Context::for_node(slots.clone(), &node.id);
    let admin = admin.and_then(|said| translate_admin(&scope.field("admin"), said));
    let (listeners, clusters) = match static_resources {
        None => (Vec::new(), Vec::new()),
        Some(said) => statics(&scope.field("static_resources"), said, &context),
    };
    let dynamic_at = scope.field("dynamic_resources");
    let control_plane = match dynamic_resources {
        None => None,
        Some(said) => control_plane::control_plane(&dynamic_at, said, &clusters),
    };
    if control_plane.is_some() && (node.id.is_empty() || node.cluster.is_empty()) {
        scope
            .field("node")
            .fault("has no id or no cluster, which the control plane asks for");
    }
    Some(Bootstrap {
        node,
        admin,
        listeners,
        clusters,
        control_plane,
        context,
    })
}

fn translate_admin(scope: &Scope<'_>, said: message::Admin) -> Option<Admin> {
    fields! { scope, said: message::Admin {
        honoured { access_log: "read and not written", address: "an IP address; none switches the interface off" }
        ignored {
            access_log_path: "requests to the interface are not logged",
            profile_path: "there is no built-in profiler",
            socket_options: "the proxy knows which options its sockets need",
            ignore_global_conn_limit: "there is no global limit"
        }
        refused { allow_paths: "an interface with fewer paths" }
    }}
    if !access_log.is_empty() {
        access_log::logs(scope, access_log);
        scope.notice(
            "envoy.config.bootstrap.v3.Admin.access_log",
            "requests to the interface are not logged",
        );
    }
    address.as_ref()?;
    let address = address::ip_place(&scope.field("address"), address)?;
    Some(Admin { address })
}

type Statics = (Vec<Arc<Listener>>, Vec<Arc<Cluster>>);

fn statics(
    scope: &Scope<'_>,
    said: message::bootstrap::StaticResources,
    context: &Context,
) -> Statics {
    use message::bootstrap;
    fields! { scope, said: bootstrap::StaticResources {
        honoured { listeners, clusters }
        ignored {}
        refused { secrets: "TLS is not terminated" }
    }}
    let mut seen = std::collections::HashSet::new();
    let clusters = clusters
        .into_iter()
        .enumerate()
        .filter_map(|(at, cluster)| {
            let scope = scope.item("clusters", at);
            if !seen.insert(cluster.name.clone()) {
                scope
                    .field("name")
                    .fault(format!("`{}` comes twice", cluster.name));
            }
            crate::cluster::cluster(&scope, cluster, context).map(Arc::new)
        })
        .collect();
    seen.clear();
    let mut bound = std::collections::HashMap::new();
    let listeners = listeners
        .into_iter()
        .enumerate()
        .filter_map(|(at, listener)| {
            let scope = scope.item("listeners", at);
            if !seen.insert(listener.name.clone()) {
                scope
                    .field("name")
                    .fault(format!("`{}` comes twice", listener.name));
            }
            let listener = crate::listener::listener(&scope, listener, context)?;
            for address in listening(&listener) {
                if let Some(other) = bound.insert(address, listener.name.clone()) {
                    scope
                        .field("address")
                        .fault(format!("`{address}` is bound by `{other}` already"));
                }
            }
            Some(Arc::new(listener))
        })
        .collect();
    (listeners, clusters)
}

/// The addresses that a listener binds; port 0 is another one each time.
fn listening(listener: &Listener) -> impl Iterator<Item = SocketAddr> {
    let all = std::iter::once(&listener.address).chain(&listener.more_addresses);
    all.copied()
        .filter(|address| listener.bind == Bind::Port && address.port() != 0)
}
