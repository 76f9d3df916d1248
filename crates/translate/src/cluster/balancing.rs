// SPDX-License-Identifier: Apache-2.0
//! How one host is chosen: the older `lb_policy` and the typed policies.

use std::num::NonZeroU32;

use remora_ir::cluster::{Balancing, Policy};
use remora_primitives::Percent;
use remora_xds_types::balancing_common as common_lb;
use remora_xds_types::balancing_common::locality_lb_config::LocalityConfigSpecifier;
use remora_xds_types::cluster::cluster::common_lb_config::LocalityConfigSpecifier as OlderLocality;
use remora_xds_types::cluster::cluster::{LbConfig, LbPolicy};
use remora_xds_types::cluster::{self, LoadBalancingPolicy};
use remora_xds_types::protobuf::{Any, UInt32Value};
use remora_xds_types::{least_request, random, round_robin, wrr_locality};

use crate::extension::{self, Need};
use crate::fault::Scope;
use crate::value;

/// Envoy's: two are compared.
const CHOICES: u32 = 2;
/// Envoy's: below half, health is ignored.
const PANIC: f64 = 50.0;

/// What the cluster says of it.
pub(super) struct Said {
    pub(super) policy: i32,
    pub(super) config: Option<LbConfig>,
    pub(super) typed: Option<LoadBalancingPolicy>,
    pub(super) common: Option<cluster::cluster::CommonLbConfig>,
}

/// Translates it.
pub(super) fn balancing(scope: &Scope<'_>, said: Said) -> Option<Balancing> {
    let shared = shared(
        &scope.field("common_lb_config"),
        said.common.unwrap_or_default(),
    );
    let chosen = match said.typed {
        Some(policies) => typed(
            &scope.field("load_balancing_policy"),
            policies,
            Level::Outer,
        ),
        None => older(scope, said.policy, said.config).map(Chosen::plain),
    };
    let (panic_threshold, locality_weighted) = shared?;
    let chosen = chosen?;
    Some(Balancing {
        policy: chosen.policy,
        panic_threshold,
        locality_weighted: locality_weighted || chosen.locality_weighted,
    })
}

/// A policy, and whether its own settings ask for weighted localities.
struct Chosen {
    policy: Policy,
    locality_weighted: bool,
}

impl Chosen {
    const fn plain(policy: Policy) -> Self {
        Self {
            policy,
            locality_weighted: false,
        }
    }
}

fn shared(scope: &Scope<'_>, message: cluster::cluster::CommonLbConfig) -> Option<(Percent, bool)> {
    use cluster::cluster;
    fields! { scope, message: cluster::CommonLbConfig {
        honoured { healthy_panic_threshold: "50 % if absent", locality_config_specifier: "`zone_aware_lb_config` is ignored: the proxy's own zone has no preference" }
        ignored {
            update_merge_window: "changes apply at once",
            ignore_new_hosts_until_first_hc: "there are no active health checks",
            close_connections_on_host_set_change: "connections in use finish",
            consistent_hashing_lb_config: "policies that hash are refused",
            override_host_status: "hosts are not overridden"
        }
        refused {}
    }}
    let locality_weighted = match locality_config_specifier {
        None => false,
        Some(OlderLocality::LocalityWeightedLbConfig(_)) => true,
        Some(OlderLocality::ZoneAwareLbConfig(_)) => {
            zone_aware_notice(scope);
            false
        }
    };
    let threshold = healthy_panic_threshold.map_or(PANIC, |percent| percent.value);
    let at = scope.field("healthy_panic_threshold");
    Some((value::percent(&at, threshold)?, locality_weighted))
}

fn zone_aware_notice(scope: &Scope<'_>) {
    scope.notice(
        "zone_aware_lb_config",
        "the proxy's own zone has no preference; priorities have",
    );
}

fn older(scope: &Scope<'_>, policy: i32, config: Option<LbConfig>) -> Option<Policy> {
    let at = scope.field("lb_policy");
    match value::word(&at, policy)? {
        LbPolicy::RoundRobin => {
            if let Some(LbConfig::RoundRobinLbConfig(config)) = config {
                slow_start_notice(scope, config.slow_start_config.is_some());
            }
            Some(Policy::RoundRobin)
        }
        LbPolicy::Random => Some(Policy::Random),
        LbPolicy::ClusterProvided => Some(Policy::ClusterProvided),
        LbPolicy::LeastRequest => {
            let Some(LbConfig::LeastRequestLbConfig(message)) = config else {
                return least(&at, None);
            };
            let scope = scope.field("least_request_lb_config");
            older_least(&scope, message)
        }
        LbPolicy::RingHash | LbPolicy::Maglev => {
            at.fault("not supported: consistent hashing");
            None
        }
        LbPolicy::LoadBalancingPolicyConfig => {
            scope.field("load_balancing_policy").fault("is missing");
            None
        }
    }
}

fn older_least(
    scope: &Scope<'_>,
    message: cluster::cluster::LeastRequestLbConfig,
) -> Option<Policy> {
    use cluster::cluster;
    fields! { scope, message: cluster::LeastRequestLbConfig {
        honoured { choice_count: "2 or more" }
        ignored {
            active_request_bias: "the weight is divided by what is under way",
            slow_start_config: "new hosts take their share at once"
        }
        refused {}
    }}
    least(&scope.field("choice_count"), choice_count)
}

fn least(scope: &Scope<'_>, choices: Option<UInt32Value>) -> Option<Policy> {
    let choices = value::number(choices).unwrap_or(CHOICES);
    let counted = NonZeroU32::new(choices).filter(|choices| choices.get() >= 2);
    if counted.is_none() {
        scope.fault(format!("{choices} (expected 2 or more)"));
    }
    counted.map(|choices| Policy::LeastRequest { choices })
}

fn slow_start_notice(scope: &Scope<'_>, is_set: bool) {
    if is_set {
        scope.notice("slow_start_config", "new hosts take their share at once");
    }
}

/// Where a list of policies stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// In the cluster.
    Outer,
    /// In `WrrLocality`, which may not hold another one: a sender could nest without end.
    Inside,
}

/// The first policy of the list that is supported, as Envoy chooses.
fn typed(scope: &Scope<'_>, list: LoadBalancingPolicy, level: Level) -> Option<Chosen> {
    let mut unknown = Vec::new();
    for (at, policy) in list.policies.into_iter().enumerate() {
        let item = scope.item("policies", at);
        let Some(any) = policy.typed_extension_config.and_then(|c| c.typed_config) else {
            item.fault("has no typed_config");
            return None;
        };
        let name = extension::name_of(&item, &any)?;
        if level == Level::Inside && name.ends_with(".WrrLocality") {
            item.fault("`WrrLocality` cannot stand in itself");
            return None;
        }
        if extension::row(extension::BALANCING, &name).is_some() {
            let at = item.field("typed_extension_config");
            return one_typed(&at.field("typed_config"), &any, &name);
        }
        unknown.push(name);
    }
    scope.fault(format!("not supported: no known policy among {unknown:?}"));
    None
}

fn one_typed(scope: &Scope<'_>, any: &Any, name: &str) -> Option<Chosen> {
    match name.rsplit('.').next().unwrap_or_default() {
        "RoundRobin" => {
            let message: round_robin::RoundRobin = extension::decode(scope, any)?;
            fields! { scope, message: round_robin::RoundRobin {
                honoured { locality_lb_config }
                ignored { slow_start_config: "new hosts take their share at once" }
                refused {}
            }}
            localities(scope, locality_lb_config, Policy::RoundRobin)
        }
        "Random" => {
            let message: random::Random = extension::decode(scope, any)?;
            fields! { scope, message: random::Random {
                honoured { locality_lb_config }
                ignored {}
                refused {}
            }}
            localities(scope, locality_lb_config, Policy::Random)
        }
        "LeastRequest" => typed_least(scope, any),
        "ClusterProvided" => Some(Chosen::plain(Policy::ClusterProvided)),
        "WrrLocality" => {
            let message: wrr_locality::WrrLocality = extension::decode(scope, any)?;
            fields! { scope, message: wrr_locality::WrrLocality {
                honoured { endpoint_picking_policy: "required" }
                ignored {}
                refused {}
            }}
            let at = scope.field("endpoint_picking_policy");
            let Some(inner) = endpoint_picking_policy else {
                at.fault("is missing");
                return None;
            };
            typed(&at, inner, Level::Inside).map(|chosen| Chosen {
                locality_weighted: true,
                ..chosen
            })
        }
        _ => {
            extension::judge(scope, extension::BALANCING, name, Need::Required);
            None
        }
    }
}

fn typed_least(scope: &Scope<'_>, any: &Any) -> Option<Chosen> {
    let message: least_request::LeastRequest = extension::decode(scope, any)?;
    fields! { scope, message: least_request::LeastRequest {
        honoured { choice_count: "2 or more", locality_lb_config }
        ignored {
            active_request_bias: "the weight is divided by what is under way",
            slow_start_config: "new hosts take their share at once",
            enable_full_scan: "as many are compared as `choice_count` says",
            selection_method: "as many are compared as `choice_count` says"
        }
        refused {}
    }}
    let policy = least(&scope.field("choice_count"), choice_count);
    localities(scope, locality_lb_config, policy?)
}

fn localities(
    scope: &Scope<'_>,
    config: Option<common_lb::LocalityLbConfig>,
    policy: Policy,
) -> Option<Chosen> {
    let locality_weighted = match config.and_then(|config| config.locality_config_specifier) {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
            zone_aware_notice(scope);
            false
        }
        None => false,
    };
    Some(Chosen {
        policy,
        locality_weighted,
    })
}
