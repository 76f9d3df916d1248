// SPDX-License-Identifier: Apache-2.0
//! Route tables: virtual hosts, and per host the routes of the rule that concerns it.
//!
//! Which routes of a rule concern a port and a caller, and which cluster a destination means, is
//! decided in `plan`; here rules are put into the API's words, by `matching` and `action`.

mod action;
mod matching;

use std::collections::BTreeMap;

use remora_model::{Destination, HttpRoute, RetryPolicy, RouteRule};
use remora_primitives::Port;
use remora_xds_types::protobuf::Value;
use remora_xds_types::route::route::Action;
use remora_xds_types::route::route_action::ClusterSpecifier;
use remora_xds_types::route::{
    DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use remora_xds_types::route::{RetryPolicy as ProtoRetryPolicy, route_match::PathSpecifier};

use crate::network::HttpVersion;
use crate::recipe::ById;
use crate::scope::OutboundPolicy;
use crate::{names, wire};

/// The largest answer made on the spot, as in Istio.
const MAX_DIRECT_RESPONSE: u32 = 1 << 20;

/// One route table to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TablePlan {
    /// Its name.
    pub name: String,
    /// Its virtual hosts; no domain occurs twice.
    pub hosts: Vec<HostPlan>,
    /// What happens to all other hosts; `None`: nothing is said (404).
    pub others: Option<OutboundPolicy>,
}

/// A virtual host to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostPlan {
    /// Its name.
    pub name: String,
    /// The authorities it answers for.
    pub domains: Vec<String>,
    /// The rule and what of it applies.
    pub rule: Option<RulePlan>,
    /// Where requests go if no rule concerns them.
    pub default_cluster: Option<String>,
}

/// What of a rule applies to one port and one caller.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RulePlan {
    pub rule: ById<RouteRule>,
    /// The port that callers address.
    pub port: Port,
    /// Positions of routes, each with the positions of its matches that apply; none: always.
    pub chosen: Vec<(usize, Vec<usize>)>,
    /// What the destinations mean to this caller.
    pub clusters: BTreeMap<Destination, String>,
    /// Whether the caller understands `retry_priority`.
    pub retry_priorities: bool,
}

impl TablePlan {
    pub(crate) fn build(&self) -> RouteConfiguration {
        let others = self.others.map(|policy| match policy {
            OutboundPolicy::AllowAny => everything_else("allow_any", to_original()),
            OutboundPolicy::RegistryOnly => everything_else("block_all", refused()),
        });
        RouteConfiguration {
            name: self.name.clone(),
            virtual_hosts: self
                .hosts
                .iter()
                .map(HostPlan::build)
                .chain(others)
                .collect(),
            // A cluster that is missing is an answer (503 `NC`), not a reason to refuse the table.
            validate_clusters: wire::flag(false),
            ignore_port_in_host_matching: true,
            max_direct_response_body_size_bytes: wire::number(MAX_DIRECT_RESPONSE),
            ..RouteConfiguration::default()
        }
    }
}

impl HostPlan {
    fn build(&self) -> VirtualHost {
        let mut routes = self.rule.as_ref().map(RulePlan::routes).unwrap_or_default();
        if self.rule.is_none()
            && let Some(cluster) = &self.default_cluster
        {
            routes.push(Route {
                name: "default".to_owned(),
                r#match: Some(everything()),
                action: Some(Action::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.clone())),
                    timeout: wire::duration(std::time::Duration::ZERO),
                    retry_policy: Some(action::retries(&RetryPolicy::default())),
                    ..RouteAction::default()
                })),
                ..Route::default()
            });
        }
        VirtualHost {
            name: self.name.clone(),
            domains: self.domains.clone(),
            routes,
            include_request_attempt_count: true,
            ..VirtualHost::default()
        }
    }
}

impl RulePlan {
    fn routes(&self) -> Vec<Route> {
        let rule = self.rule.get();
        let mut routes = Vec::new();
        for (at, matches) in &self.chosen {
            let Some(route) = rule.http.get(*at) else {
                continue;
            };
            if matches.is_empty() {
                routes.push(self.one(route, everything(), &route.name));
            }
            for test in matches.iter().filter_map(|at| route.matches.get(*at)) {
                let name = match (&*route.name, &*test.name) {
                    (route, "") => route.to_owned(),
                    ("", test) => test.to_owned(),
                    (route, test) => format!("{route}.{test}"),
                };
                routes.push(self.one(route, matching::route_match(test), &name));
            }
        }
        routes
    }

    fn one(&self, route: &HttpRoute, matches: RouteMatch, name: &str) -> Route {
        let origin = &self.rule.get().origin;
        let path: (String, Value) = ("config".to_owned(), wire::origin_path(origin));
        let mut built = Route {
            name: name.to_owned(),
            r#match: Some(matches),
            metadata: wire::metadata(BTreeMap::from([path])),
            ..Route::default()
        };
        action::fill(&mut built, route, self);
        built
    }

    /// The cluster that a destination means. Every destination of the rule was looked up.
    fn cluster(&self, destination: &Destination) -> String {
        self.clusters.get(destination).cloned().unwrap_or_default()
    }
}

/// Every path.
fn everything() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    }
}

fn everything_else(name: &str, action: Action) -> VirtualHost {
    VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![Route {
            name: name.to_owned(),
            r#match: Some(everything()),
            action: Some(action),
            ..Route::default()
        }],
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

fn to_original() -> Action {
    Action::Route(RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(names::PASSTHROUGH.to_owned())),
        timeout: wire::duration(std::time::Duration::ZERO),
        ..RouteAction::default()
    })
}

fn refused() -> Action {
    Action::DirectResponse(DirectResponseAction {
        status: 502,
        ..DirectResponseAction::default()
    })
}

/// The table of a local port: all requests to the workload. A request that the workload cannot
/// have seen, since its kept-alive connection was just closing, is sent again.
pub(crate) fn inbound_table(port: Port, version: HttpVersion) -> RouteConfiguration {
    let cluster = names::inbound_cluster(port);
    let retry_policy = (version == HttpVersion::Http1).then(|| ProtoRetryPolicy {
        retry_on: "reset-before-request".to_owned(),
        num_retries: wire::number(2),
        ..ProtoRetryPolicy::default()
    });
    RouteConfiguration {
        name: cluster.clone(),
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                name: "default".to_owned(),
                r#match: Some(everything()),
                action: Some(Action::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
                    timeout: wire::duration(std::time::Duration::ZERO),
                    retry_policy,
                    ..RouteAction::default()
                })),
                ..Route::default()
            }],
            ..VirtualHost::default()
        }],
        validate_clusters: wire::flag(false),
        ..RouteConfiguration::default()
    }
}
