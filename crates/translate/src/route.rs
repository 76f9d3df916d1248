// SPDX-License-Identifier: Apache-2.0
//! Route tables and virtual hosts.

mod action;
mod matching;
mod retry;

use std::collections::HashMap;
use std::sync::Arc;

use remora_ir::RouteName;
use remora_ir::action::{Action, Mirror};
use remora_ir::route::{Route, RouteTable, VirtualHost};
use remora_primitives::DomainPattern;
use remora_xds_types::core;
use remora_xds_types::protobuf::Any;
use remora_xds_types::protobuf::value::Kind;
use remora_xds_types::route;
use remora_xds_types::route::virtual_host::TlsRequirementType;

use crate::extension::{self, Need};
use crate::fault::Scope;
use crate::header_edit::{self, Said};
use crate::http::filters;
use crate::resource::Context;
use crate::value;

/// What routes take from their table and virtual host.
#[derive(Clone, Copy)]
struct Above<'a> {
    ctx: &'a Context,
    /// For routes without mirrors of their own.
    mirrors: &'a [Mirror],
    /// Longest body of a direct response. Unit: bytes.
    max_body: usize,
}

/// Envoy's bound on the body of a direct response.
const MAX_BODY: u32 = 4096;

/// Translates a route table, named or inline.
pub(crate) fn table(
    scope: &Scope<'_>,
    message: route::RouteConfiguration,
    ctx: &Context,
) -> Option<RouteTable> {
    fields! { scope, message: route::RouteConfiguration {
        honoured {
            name, virtual_hosts, response_headers_to_add, response_headers_to_remove, request_headers_to_add,
            request_headers_to_remove, most_specific_header_mutations_wins,
            validate_clusters: "`false` only has an effect: a missing cluster answers 503 `NC`",
            max_direct_response_body_size_bytes: "4096 if absent", request_mirror_policies,
            ignore_port_in_host_matching, typed_per_filter_config: "see filter configuration of routes"
        }
        ignored { metadata: "nothing reads it" }
        refused {
            vhds: "virtual hosts by discovery",
            internal_only_headers: "no peer is known to be internal or not",
            cluster_specifier_plugins: "plug-ins",
            vhost_header: "virtual hosts by another header than the authority",
            ignore_path_parameters_in_path_matching: "path parameters are part of the path",
            route_specifiers: "routes by extension"
        }
    }}
    if value::flag(validate_clusters, false) {
        let at = scope.field("validate_clusters");
        at.notice(
            "envoy.config.route.v3.RouteConfiguration.validate_clusters",
            "a missing cluster answers 503 `NC` until it comes",
        );
    }
    per_filter(scope, typed_per_filter_config);
    let said = Said {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let edits = header_edit::edits(scope, said);
    let mirrors = action::mirrors(scope, request_mirror_policies, ctx);
    let max_body = value::number(max_direct_response_body_size_bytes).unwrap_or(MAX_BODY);
    let above = Above {
        ctx,
        mirrors: &mirrors,
        max_body: usize::try_from(max_body).ok()?,
    };
    unique_domains(scope, &virtual_hosts);
    let hosts = virtual_hosts.into_iter().enumerate();
    let hosts: Vec<_> = hosts
        .map(|(at, host)| virtual_host(&scope.item("virtual_hosts", at), host, above))
        .collect();
    // With a host missing there is a fault already, and no use for a table.
    let hosts = hosts
        .into_iter()
        .map(|host| host.map(Arc::new))
        .collect::<Option<Vec<_>>>()?;
    let table = RouteTable::try_new(RouteName::new(&name), hosts, ignore_port_in_host_matching);
    // Double claims were told with their places.
    let mut table = table.ok()?;
    table.edits = edits;
    table.most_specific_wins = most_specific_header_mutations_wins;
    Some(table)
}

/// Tells each domain that was claimed before.
fn unique_domains(scope: &Scope<'_>, hosts: &[route::VirtualHost]) {
    let mut claimed: HashMap<DomainPattern, &str> = HashMap::new();
    for (at, host) in hosts.iter().enumerate() {
        let scope = scope.item("virtual_hosts", at);
        for (n, domain) in host.domains.iter().enumerate() {
            let Ok(pattern) = DomainPattern::try_new(domain) else {
                continue;
            };
            if let Some(first) = claimed.insert(pattern, &host.name) {
                let at = scope.item("domains", n);
                at.fault(format!(
                    "domain `{domain}` belongs to virtual host `{first}` already"
                ));
            }
        }
    }
}

fn virtual_host(
    scope: &Scope<'_>,
    message: route::VirtualHost,
    above: Above<'_>,
) -> Option<VirtualHost> {
    fields! { scope, message: route::VirtualHost {
        honoured {
            name: "required", domains: "at least one", routes, require_tls: "`NONE` only", request_headers_to_add,
            request_headers_to_remove, response_headers_to_add, response_headers_to_remove,
            typed_per_filter_config: "see filter configuration of routes", include_request_attempt_count,
            include_attempt_count_in_response, retry_policy, request_mirror_policies
        }
        ignored {
            virtual_clusters: "statistics only",
            rate_limits: "read by rate limit filters, which are refused",
            include_is_timeout_retry_header: "information for upstreams only",
            per_request_buffer_limit_bytes: "the listener's bound on replay holds",
            request_body_buffer_limit: "the listener's bound on replay holds",
            metadata: "nothing reads it"
        }
        refused {
            matcher: "routes by matching tree",
            cors: "cross-origin rules are not enforced, so they are not accepted",
            retry_policy_typed_config: "retry plug-ins",
            hedge_policy: "hedged requests",
            route_specifiers: "routes by extension"
        }
    }}
    if name.is_empty() {
        scope.field("name").fault("is empty");
    }
    let tls: Option<TlsRequirementType> = value::word(&scope.field("require_tls"), require_tls);
    if tls.is_some_and(|tls| tls != TlsRequirementType::None) {
        scope
            .field("require_tls")
            .fault("not supported: redirects to TLS");
    }
    per_filter(scope, typed_per_filter_config);
    if domains.is_empty() {
        scope.field("domains").fault("is empty");
    }
    let patterns: Vec<_> = domains
        .iter()
        .enumerate()
        .filter_map(|(at, domain)| {
            scope
                .item("domains", at)
                .take(DomainPattern::try_new(domain))
        })
        .collect();
    let said = Said {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let own = action::mirrors(scope, request_mirror_policies, above.ctx);
    let mirrors = if own.is_empty() { above.mirrors } else { &own };
    let above = Above { mirrors, ..above };
    let routes: Vec<_> = routes
        .into_iter()
        .enumerate()
        .filter_map(|(at, message)| route(&scope.item("routes", at), message, above))
        .map(Arc::new)
        .collect();
    Some(VirtualHost {
        name: name.into(),
        domains: patterns,
        routes,
        retry: retry_policy
            .and_then(|policy| retry::policy(&scope.field("retry_policy"), policy))
            .map(Arc::new),
        edits: header_edit::edits(scope, said),
        attempt_count_in_request: include_request_attempt_count,
        attempt_count_in_response: include_attempt_count_in_response,
    })
}

fn route(scope: &Scope<'_>, message: route::Route, above: Above<'_>) -> Option<Route> {
    fields! { scope, message: route::Route {
        honoured {
            name, r#match: "required", metadata: "`istio.config`, for `explain`", typed_per_filter_config: "see filter configuration of routes",
            request_headers_to_add, request_headers_to_remove, response_headers_to_add, response_headers_to_remove,
            action: "`filter_action` and `non_forwarding_action` are refused"
        }
        ignored {
            decorator: "spans are not reported",
            tracing: "spans are not reported",
            per_request_buffer_limit_bytes: "the listener's bound on replay holds",
            stat_prefix: "statistics have names of their own",
            request_body_buffer_limit: "the listener's bound on replay holds"
        }
        refused { route_specifiers: "routes by extension" }
    }}
    per_filter(scope, typed_per_filter_config);
    let said = Said {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let edits = header_edit::edits(scope, said);
    let matches = match r#match {
        Some(matches) => matching::route_match(&scope.field("match"), matches),
        None => {
            scope.field("match").fault("is missing");
            None
        }
    };
    let action = route_action(scope, action, above);
    Some(Route {
        name: name.into(),
        matches: matches?,
        action: action?,
        edits,
        origin: metadata.as_ref().and_then(origin),
    })
}

fn route_action(
    scope: &Scope<'_>,
    said: Option<route::route::Action>,
    above: Above<'_>,
) -> Option<Action> {
    use route::route::Action as Said;
    match said {
        Some(Said::Route(forward)) => {
            let at = scope.field("route");
            action::forward(&at, forward, above).map(|forward| Action::Forward(Box::new(forward)))
        }
        Some(Said::Redirect(redirect)) => {
            action::redirect(&scope.field("redirect"), redirect).map(Action::Redirect)
        }
        Some(Said::DirectResponse(direct)) => {
            let at = scope.field("direct_response");
            action::direct(&at, direct, above.max_body).map(Action::Direct)
        }
        Some(Said::FilterAction(_)) => {
            scope
                .field("filter_action")
                .fault("not supported: actions of filters");
            None
        }
        Some(Said::NonForwardingAction(_)) => {
            let at = scope.field("non_forwarding_action");
            at.fault("not supported: routes of gRPC servers");
            None
        }
        None => {
            scope.fault("has no action");
            None
        }
    }
}

/// The object that asked for the route.
fn origin(metadata: &core::Metadata) -> Option<Arc<str>> {
    let value = metadata
        .filter_metadata
        .get("istio")?
        .fields
        .get("config")?;
    match &value.kind {
        Some(Kind::StringValue(path)) => Some(path.as_str().into()),
        _ => None,
    }
}

/// Configuration of filters below the connection manager: only what changes nothing passes.
fn per_filter(scope: &Scope<'_>, configs: HashMap<String, Any>) {
    let mut configs: Vec<_> = configs.into_iter().collect();
    configs.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (key, any) in configs {
        let scope = scope.entry("typed_per_filter_config", &key);
        let Some(name) = extension::name_of(&scope, &any) else {
            continue;
        };
        if name == "envoy.config.route.v3.FilterConfig" {
            wrapped_filter(&scope, &any);
        } else {
            one_filter(&scope, &any, &name, Need::Required);
        }
    }
}

fn wrapped_filter(scope: &Scope<'_>, any: &Any) {
    let Some(message) = extension::decode::<route::FilterConfig>(scope, any) else {
        return;
    };
    fields! { scope, message: route::FilterConfig {
        honoured { config, is_optional: "excuses unknown types only", disabled: "all filters that could be disabled are refused or do nothing" }
        ignored {}
        refused {}
    }}
    if disabled {
        return;
    }
    // Without one, this could switch on a filter that is disabled, whatever it is.
    let Some(config) = config else {
        return scope.field("config").fault("is missing");
    };
    let at = scope.field("config");
    if let Some(name) = extension::name_of(&at, &config) {
        let need = if is_optional {
            Need::Optional
        } else {
            Need::Required
        };
        one_filter(&at, &config, &name, need);
    }
}

fn one_filter(scope: &Scope<'_>, any: &Any, name: &str, need: Need) {
    if name == filters::FAULT {
        filters::fault_injection(scope, any);
    }
    extension::judge(scope, extension::PER_ROUTE, name, need);
}
