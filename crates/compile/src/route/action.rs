// SPDX-License-Identifier: Apache-2.0
//! What happens to a request that matches, in the API's words.

use std::time::Duration;

use remora_model::{
    DirectResponse, Forward, HeaderEdit, HeaderEdits, HttpAction, HttpRoute, Mirror, PathRewrite,
    Redirect, RedirectPort, RetryPolicy, WeightedDestination,
};
use remora_primitives::Percent;
use remora_xds_types::core::header_value_option::HeaderAppendAction;
use remora_xds_types::core::{
    DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent, data_source,
};
use remora_xds_types::matcher::RegexMatchAndSubstitute;
use remora_xds_types::previous_hosts::PreviousHostsPredicate;
use remora_xds_types::previous_priorities::PreviousPrioritiesConfig;
use remora_xds_types::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use remora_xds_types::route::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};
use remora_xds_types::route::route::Action;
use remora_xds_types::route::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use remora_xds_types::route::weighted_cluster::{ClusterWeight, cluster_weight};
use remora_xds_types::route::{
    DirectResponseAction, RedirectAction, RetryPolicy as ProtoRetryPolicy, Route, RouteAction,
    WeightedCluster,
};

use super::{RulePlan, matching};
use crate::wire;

/// Stands for the matched prefix at the start of a redirect's path.
const PREFIX_COMMAND: &str = "%PREFIX()%";

/// Fills in action and header edits.
pub(super) fn fill(route: &mut Route, written: &HttpRoute, rule: &RulePlan) {
    let mut edits = Edits::of(&written.headers);
    route.action = Some(match &written.action {
        HttpAction::Forward(forward) => {
            // One destination's edits are the route's: there is no choice they depend on.
            if let [only] = forward.destinations.as_slice() {
                edits.append(Edits::of(&only.headers));
            }
            let authority = edits.authority.take();
            Action::Route(forwarded(forward, authority, rule))
        }
        HttpAction::Redirect(redirect) => Action::Redirect(redirected(redirect, rule)),
        HttpAction::Respond(response) => Action::DirectResponse(answered(response)),
    });
    route.request_headers_to_add = edits.request_add;
    route.request_headers_to_remove = edits.request_remove;
    route.response_headers_to_add = edits.response_add;
    route.response_headers_to_remove = edits.response_remove;
}

fn forwarded(forward: &Forward, authority: Option<String>, rule: &RulePlan) -> RouteAction {
    let specifier = match forward.destinations.as_slice() {
        [only] => ClusterSpecifier::Cluster(rule.cluster(&only.destination)),
        several => {
            let weights = wire::scaled(several.iter().map(|to| to.weight.get()));
            let clusters = several.iter().zip(weights);
            ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: clusters
                    .map(|(to, weight)| weighted(to, weight, rule))
                    .collect(),
                ..WeightedCluster::default()
            })
        }
    };
    let rewritten = forward.rewrite.authority.as_ref().map(ToString::to_string);
    let mut action = RouteAction {
        cluster_specifier: Some(specifier),
        timeout: wire::duration(forward.timeout.unwrap_or(Duration::ZERO)),
        retry_policy: forward.retries.as_ref().map(|policy| {
            let mut policy = retries(policy);
            policy.retry_priority.take_if(|_| !rule.retry_priorities);
            policy
        }),
        request_mirror_policies: forward
            .mirrors
            .iter()
            .filter(|mirror| mirror.share > Percent::ZERO)
            .map(|mirror| mirrored(mirror, rule))
            .collect(),
        host_rewrite_specifier: rewritten
            .or(authority)
            .map(HostRewriteSpecifier::HostRewriteLiteral),
        ..RouteAction::default()
    };
    match &forward.rewrite.path {
        None => {}
        Some(PathRewrite::Matched(path)) => action.prefix_rewrite = path.to_string(),
        Some(PathRewrite::Regex {
            pattern,
            substitution,
        }) => {
            action.regex_rewrite = Some(RegexMatchAndSubstitute {
                pattern: Some(matching::regex(pattern)),
                substitution: substitution.to_string(),
            });
        }
    }
    action
}

fn weighted(to: &WeightedDestination, weight: u32, rule: &RulePlan) -> ClusterWeight {
    let edits = Edits::of(&to.headers);
    ClusterWeight {
        name: rule.cluster(&to.destination),
        weight: wire::number(weight),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        host_rewrite_specifier: edits
            .authority
            .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..ClusterWeight::default()
    }
}

/// A retry policy in the API's words.
pub(super) fn retries(policy: &RetryPolicy) -> ProtoRetryPolicy {
    /// How often another host is looked for, if the one that was picked failed already. Istio's.
    const OTHER_HOST_ATTEMPTS: i64 = 5;
    let words: Vec<_> = policy.on.iter().map(|on| on.as_str()).collect();
    let previous_hosts = || RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: wire::any(&PreviousHostsPredicate::default())
            .map(retry_host_predicate::ConfigType::TypedConfig),
    };
    let previous_priorities = || RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: wire::any(&PreviousPrioritiesConfig {
            update_frequency: 2,
        })
        .map(retry_priority::ConfigType::TypedConfig),
    };
    ProtoRetryPolicy {
        retry_on: words.join(","),
        num_retries: wire::number(policy.attempts.get()),
        per_try_timeout: policy.per_try_timeout.and_then(wire::duration),
        retriable_status_codes: policy.status_codes.iter().copied().map(u32::from).collect(),
        retry_host_predicate: policy
            .ignore_previous_hosts
            .then(previous_hosts)
            .into_iter()
            .collect(),
        host_selection_retry_max_attempts: OTHER_HOST_ATTEMPTS,
        retry_priority: policy.remote_localities.then(previous_priorities),
        retry_back_off: policy.backoff.map(|base| RetryBackOff {
            base_interval: wire::duration(base.max(Duration::from_millis(1))),
            max_interval: None,
        }),
        ..ProtoRetryPolicy::default()
    }
}

fn mirrored(mirror: &Mirror, rule: &RulePlan) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster: rule.cluster(&mirror.destination),
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(wire::fraction(mirror.share)),
            ..RuntimeFractionalPercent::default()
        }),
        ..RequestMirrorPolicy::default()
    }
}

fn redirected(redirect: &Redirect, rule: &RulePlan) -> RedirectAction {
    let code = match redirect.code {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let path = redirect
        .path
        .as_deref()
        .map(|path| match path.strip_prefix(PREFIX_COMMAND) {
            Some(rest) => PathRewriteSpecifier::PrefixRewrite(rest.to_owned()),
            None => PathRewriteSpecifier::PathRedirect(path.to_owned()),
        });
    let prefix = redirect.prefix.as_ref().map(ToString::to_string);
    RedirectAction {
        response_code: code.into(),
        scheme_rewrite_specifier: redirect
            .scheme
            .as_ref()
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_string())),
        host_redirect: redirect.authority.as_deref().unwrap_or_default().to_owned(),
        port_redirect: match redirect.port {
            Some(RedirectPort::Number(port)) => port.get().into(),
            // The port a request came to is the port that this table is for.
            Some(RedirectPort::FromRequest) => rule.port.get().into(),
            Some(RedirectPort::FromProtocolDefault) | None => 0,
        },
        path_rewrite_specifier: path.or_else(|| prefix.map(PathRewriteSpecifier::PrefixRewrite)),
        ..RedirectAction::default()
    }
}

fn answered(response: &DirectResponse) -> DirectResponseAction {
    let body = (!response.body.is_empty()).then(|| DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(response.body.to_vec())),
        ..DataSource::default()
    });
    DirectResponseAction {
        status: response.status.into(),
        body,
        ..DirectResponseAction::default()
    }
}

/// Header edits in the API's words.
#[derive(Default)]
struct Edits {
    request_add: Vec<HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<HeaderValueOption>,
    response_remove: Vec<String>,
    /// The API edits the authority in a place of its own, and no other way.
    authority: Option<String>,
}

impl Edits {
    fn of(edits: &HeaderEdits) -> Self {
        let is_authority = |name: &str| matches!(name, "host" | ":authority");
        let mut written = edits.request.set.iter().chain(&edits.request.add);
        let authority = written.find(|(name, _)| is_authority(name));
        Self {
            request_add: added(&edits.request),
            request_remove: removed(&edits.request),
            response_add: added(&edits.response),
            response_remove: removed(&edits.response),
            authority: authority.map(|(_, value)| value.to_string()),
        }
    }

    fn append(&mut self, mut other: Self) {
        self.request_add.append(&mut other.request_add);
        self.request_remove.append(&mut other.request_remove);
        self.response_add.append(&mut other.response_add);
        self.response_remove.append(&mut other.response_remove);
        self.authority = other.authority.or_else(|| self.authority.take());
    }
}

/// A proxy refuses a whole table in which pseudo-headers or `host` are edited as headers.
fn is_editable(name: &str) -> bool {
    !name.starts_with(':') && name != "host"
}

fn added(edit: &HeaderEdit) -> Vec<HeaderValueOption> {
    let set = edit
        .set
        .iter()
        .map(|pair| (pair, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = edit
        .add
        .iter()
        .map(|pair| (pair, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add)
        .filter(|((name, _), _)| is_editable(name))
        .map(|((name, value), action)| HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_string(),
                value: value.to_string(),
                ..HeaderValue::default()
            }),
            append_action: action.into(),
            // "Set to nothing" is not "leave out".
            keep_empty_value: value.is_empty(),
            ..HeaderValueOption::default()
        })
        .collect()
}

fn removed(edit: &HeaderEdit) -> Vec<String> {
    let editable = edit.remove.iter().filter(|name| is_editable(name));
    editable.map(ToString::to_string).collect()
}
