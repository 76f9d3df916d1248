// SPDX-License-Identifier: Apache-2.0
//! HTTP filters: the router at the end, tolerated types before it, everything else refused.

use remora_xds_types::fault as fault_filter;
use remora_xds_types::hcm;
use remora_xds_types::hcm::http_filter::ConfigType;
use remora_xds_types::protobuf::Any;
use remora_xds_types::router;

use crate::extension::{self, Need};
use crate::fault::Scope;

/// What the router says.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouterOptions {
    pub(super) suppress_envoy_headers: bool,
}

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
pub(crate) const FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

/// Reads the filters of a connection manager.
pub(super) fn http_filters(
    scope: &Scope<'_>,
    filters: Vec<hcm::HttpFilter>,
) -> Option<RouterOptions> {
    let count = filters.len();
    let mut router = None;
    for (at, message) in filters.into_iter().enumerate() {
        let scope = scope.item("http_filters", at);
        let Some(any) = filter(&scope, message) else {
            continue;
        };
        if at + 1 == count {
            router = Some(router_options(&scope.field("typed_config"), &any));
        } else {
            scope.fault("the router must be the last filter");
        }
    }
    router.unwrap_or_else(|| {
        scope
            .field("http_filters")
            .fault("has no router at its end");
        None
    })
}

/// Judges a filter; the router's configuration comes back.
fn filter(scope: &Scope<'_>, message: hcm::HttpFilter) -> Option<Any> {
    fields! { scope, message: hcm::HttpFilter {
        honoured { name: "a label; the type says what it is", is_optional: "excuses unknown types only", disabled: "what could enable it on a route is refused", config_type: "inline only" }
        ignored {}
        refused {}
    }}
    let _: String = name;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            let at = scope.field("config_discovery");
            at.fault("not supported: filters by discovery");
            return None;
        }
        None => {
            scope.field("typed_config").fault("is missing");
            return None;
        }
    };
    let at = scope.field("typed_config");
    let name = extension::name_of(&at, &any)?;
    if name == ROUTER {
        return Some(any);
    }
    if disabled {
        at.notice(&name, "disabled");
        return None;
    }
    if name == FAULT {
        fault_injection(&at, &any);
    }
    let need = if is_optional {
        Need::Optional
    } else {
        Need::Required
    };
    extension::judge(&at, extension::HTTP_FILTERS, &name, need);
    None
}

fn router_options(scope: &Scope<'_>, any: &Any) -> Option<RouterOptions> {
    let message: router::Router = extension::decode(scope, any)?;
    fields! { scope, message: router::Router {
        honoured { suppress_envoy_headers }
        ignored {
            dynamic_stats: "statistics only",
            start_child_span: "spans are not reported",
            upstream_log: "requests are logged once, downstream",
            upstream_log_options: "requests are logged once, downstream",
            suppress_grpc_request_failure_code_stats: "statistics only",
            reject_connect_request_early_data: "early data of CONNECT is passed on"
        }
        refused {
            strict_check_headers: "checks of Envoy's own headers",
            respect_expected_rq_timeout: "timeouts that peers set",
            upstream_http_filters: "filters of upstreams"
        }
    }}
    Some(RouterOptions {
        suppress_envoy_headers,
    })
}

/// A fault filter is accepted while it injects nothing.
pub(crate) fn fault_injection(scope: &Scope<'_>, any: &Any) {
    let Some(message) = extension::decode::<fault_filter::HttpFault>(scope, any) else {
        return;
    };
    fields! { scope, message: fault_filter::HttpFault {
        honoured {}
        ignored {
            upstream_cluster: "narrows faults, of which there are none",
            headers: "narrows faults, of which there are none",
            downstream_nodes: "narrows faults, of which there are none",
            max_active_faults: "narrows faults, of which there are none",
            delay_percent_runtime: "there is no runtime",
            abort_percent_runtime: "there is no runtime",
            delay_duration_runtime: "there is no runtime",
            abort_http_status_runtime: "there is no runtime",
            max_active_faults_runtime: "there is no runtime",
            response_rate_limit_percent_runtime: "there is no runtime",
            abort_grpc_status_runtime: "there is no runtime",
            disable_downstream_cluster_stats: "statistics only",
            filter_metadata: "nothing reads it"
        }
        refused {
            delay: "injected delays",
            abort: "injected aborts",
            response_rate_limit: "injected rate limits"
        }
    }}
}
