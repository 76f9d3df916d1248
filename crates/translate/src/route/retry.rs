// SPDX-License-Identifier: Apache-2.0
//! Retry policies.

use remora_ir::StatusCode;
use remora_ir::action::{RetryBackoff, RetryOn, RetryPolicy};
use remora_xds_types::route;
use remora_xds_types::route::retry_policy;

use crate::extension;
use crate::fault::Scope;
use crate::{matcher, value};

const PREVIOUS_HOSTS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";

/// Translates a retry policy.
pub(super) fn policy(scope: &Scope<'_>, message: route::RetryPolicy) -> Option<RetryPolicy> {
    fields! { scope, message: route::RetryPolicy {
        honoured {
            retry_on: "an unknown word is a fault", num_retries: "1 if absent", per_try_timeout,
            retry_host_predicate: "`previous_hosts` only", host_selection_retry_max_attempts, retriable_status_codes,
            retry_back_off, retriable_headers
        }
        ignored {
            per_try_idle_timeout: "the attempt's deadline and the stream's idle bound hold",
            rate_limited_retry_back_off: "the ordinary back-off holds",
            refresh_cluster_on_retry: "the route's cluster stays"
        }
        refused {
            retry_priority: "other priorities for retries",
            retry_options_predicates: "retry plug-ins",
            retriable_request_headers: "retries by request header"
        }
    }}
    let on = conditions(&scope.field("retry_on"), &retry_on);
    let status_codes = retriable_status_codes
        .into_iter()
        .enumerate()
        .filter_map(|(at, code)| status(&scope.item("retriable_status_codes", at), code))
        .collect();
    let predicates = retry_host_predicate.into_iter().enumerate();
    // Not `any`: each must be looked at.
    let avoid_tried_hosts = predicates
        .map(|(at, predicate)| host_predicate(&scope.item("retry_host_predicate", at), predicate))
        .fold(false, |any, one| any | one);
    let attempts = match u32::try_from(host_selection_retry_max_attempts) {
        Ok(0) => 1,
        Ok(attempts) => attempts,
        Err(_) => {
            let at = scope.field("host_selection_retry_max_attempts");
            at.fault(format!(
                "{host_selection_retry_max_attempts} (expected 1 or more)"
            ));
            1
        }
    };
    let backoff = match retry_back_off {
        None => RetryBackoff::DEFAULT,
        Some(said) => backoff(&scope.field("retry_back_off"), said),
    };
    Some(RetryPolicy {
        on,
        status_codes,
        response_headers: matcher::header_matches(scope, "retriable_headers", retriable_headers),
        retries: value::number(num_retries).unwrap_or(1),
        per_try: value::bound_or(&scope.field("per_try_timeout"), per_try_timeout, None),
        backoff,
        avoid_tried_hosts,
        host_selection_attempts: attempts,
    })
}

/// The words of `retry_on`.
fn conditions(scope: &Scope<'_>, words: &str) -> RetryOn {
    let mut on = RetryOn::default();
    for word in words
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        match RetryOn::word(word) {
            Some(condition) => on = on.union(condition),
            None if word == "http3-post-connect-failure" => {
                scope.notice("retry_on: http3-post-connect-failure", "there is no HTTP/3");
            }
            None => scope.fault(format!("unknown retry condition `{word}`")),
        }
    }
    on
}

/// A status code of an answer.
pub(super) fn status(scope: &Scope<'_>, code: u32) -> Option<StatusCode> {
    let status = u16::try_from(code)
        .ok()
        .filter(|code| *code < 600)
        .and_then(|code| StatusCode::try_new(code).ok());
    if status.is_none() {
        scope.fault(format!("status code {code} (expected 100 to 599)"));
    }
    status
}

/// Whether tried hosts are to be avoided.
fn host_predicate(scope: &Scope<'_>, message: retry_policy::RetryHostPredicate) -> bool {
    fields! { scope, message: retry_policy::RetryHostPredicate {
        honoured { name: "`envoy.retry_host_predicates.previous_hosts` says the type if none is given", config_type }
        ignored {}
        refused {}
    }}
    let kind = match config_type {
        Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(any)) => {
            extension::name_of(&scope.field("typed_config"), &any)
        }
        None if name == "envoy.retry_host_predicates.previous_hosts" => {
            Some(PREVIOUS_HOSTS.to_owned())
        }
        None => Some(name),
    };
    match kind {
        Some(kind) if kind == PREVIOUS_HOSTS => true,
        Some(kind) => {
            scope.fault(format!("not supported: `{kind}`: only `previous_hosts`"));
            false
        }
        None => false,
    }
}

fn backoff(scope: &Scope<'_>, message: retry_policy::RetryBackOff) -> RetryBackoff {
    fields! { scope, message: retry_policy::RetryBackOff {
        honoured { base_interval: "required", max_interval: "ten times the base if absent" }
        ignored {}
        refused {}
    }}
    let base_at = scope.field("base_interval");
    if base_interval.is_none() {
        base_at.fault("is missing");
    }
    let base = value::positive_or(&base_at, base_interval, RetryBackoff::DEFAULT.base);
    let max_at = scope.field("max_interval");
    let max = value::positive_or(&max_at, max_interval, base.saturating_mul(10));
    if max < base {
        max_at.fault("is shorter than base_interval");
    }
    RetryBackoff { base, max }
}
