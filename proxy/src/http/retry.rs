// SPDX-License-Identifier: Apache-2.0
//! Whether a request is sent again: decisions as functions of values.
//!
//! A policy's words are judged here against failures and answers, as Envoy judges them; the
//! exchange asks, and does. Beside the policy there is one retry that needs none: a request that
//! met a kept connection which the upstream was just closing is sent again on a fresh one, if
//! nothing of it can have been acted on or sending it twice means the same as once.

use std::time::Duration;

use remora_http::{HeaderName, RequestHead, ResponseHead};
use remora_ir::action::{RetryBackoff, RetryOn, RetryPolicy};

use crate::upstream::RetryClass;

/// Whether a policy has a failed attempt repeated. Source: `retry_on`.
///
/// An overflow is never retried, since that would only add to it, and neither is the want of a
/// host: another look at the same hosts finds none.
pub(super) fn is_failure_retriable(policy: &RetryPolicy, failure: RetryClass) -> bool {
    let any = RetryOn::SERVER_ERROR
        .union(RetryOn::GATEWAY_ERROR)
        .union(RetryOn::RESET);
    let words = match failure {
        RetryClass::Overflow | RetryClass::NoHealthyUpstream | RetryClass::Never => return false,
        RetryClass::ConnectFailure => any
            .union(RetryOn::CONNECT_FAILURE)
            .union(RetryOn::RESET_BEFORE_REQUEST),
        RetryClass::ResetBeforeRequest => any.union(RetryOn::RESET_BEFORE_REQUEST),
        RetryClass::Reset | RetryClass::Protocol | RetryClass::Timeout => any,
        RetryClass::RefusedStream => any.union(RetryOn::REFUSED_STREAM),
    };
    policy.on.has_any(words)
}

/// Whether a policy has an answered attempt repeated.
pub(super) fn is_answer_retriable(policy: &RetryPolicy, head: &ResponseHead) -> bool {
    let status = head.status.get();
    let on = policy.on;
    if head.headers.contains(&HeaderName::X_ENVOY_RATELIMITED)
        && !on.has_any(RetryOn::ENVOY_RATELIMITED)
    {
        return false;
    }
    (status >= 500 && on.has_any(RetryOn::SERVER_ERROR))
        || (matches!(status, 502..=504) && on.has_any(RetryOn::GATEWAY_ERROR))
        || (status == 409 && on.has_any(RetryOn::RETRIABLE_4XX))
        || (on.has_any(RetryOn::RETRIABLE_STATUS_CODES)
            && policy.status_codes.contains(&head.status))
        || (on.has_any(RetryOn::ENVOY_RATELIMITED)
            && head.headers.contains(&HeaderName::X_ENVOY_RATELIMITED))
        || (on.has_any(RetryOn::RETRIABLE_HEADERS) && has_retriable_header(policy, head))
        || grpc_word(head).is_some_and(|word| on.has_any(word))
}

/// The conditions are written for request heads; a response's fields are looked at alike.
fn has_retriable_header(policy: &RetryPolicy, head: &ResponseHead) -> bool {
    let as_request = RequestHead {
        method: remora_http::Method::Get,
        scheme: None,
        authority: bytes::Bytes::new(),
        path: bytes::Bytes::new(),
        version: head.version,
        headers: head.headers.clone(),
    };
    policy
        .response_headers
        .iter()
        .any(|wanted| wanted.is_match(&as_request))
}

/// The word for a gRPC status in the head (a trailers-only answer).
fn grpc_word(head: &ResponseHead) -> Option<RetryOn> {
    Some(match &**head.headers.get(&HeaderName::GRPC_STATUS)? {
        b"1" => RetryOn::GRPC_CANCELLED,
        b"4" => RetryOn::GRPC_DEADLINE_EXCEEDED,
        b"8" => RetryOn::GRPC_RESOURCE_EXHAUSTED,
        b"13" => RetryOn::GRPC_INTERNAL,
        b"14" => RetryOn::GRPC_UNAVAILABLE,
        _ => return None,
    })
}

/// The wait before retry number `retry` (from 1): full jitter below a doubling ceiling.
/// Source: `RetryBackOff`; Envoy's ceiling is `base * (2^retry - 1)`.
pub(super) fn backoff(policy: RetryBackoff, retry: u32, random: u64) -> Duration {
    let factor = 1_u32
        .checked_shl(retry)
        .unwrap_or(u32::MAX)
        .saturating_sub(1)
        .max(1);
    let ceiling = policy.base.saturating_mul(factor).min(policy.max);
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(random % nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_http::{HeaderValue, StatusCode};

    fn policy(words: &[&str]) -> RetryPolicy {
        let on = words
            .iter()
            .map(|word| RetryOn::word(word).expect("a word"));
        RetryPolicy {
            on: on.fold(RetryOn::default(), RetryOn::union),
            status_codes: vec![StatusCode::try_new(418).expect("status")],
            response_headers: Vec::new(),
            retries: 3,
            per_try: None,
            backoff: RetryBackoff::DEFAULT,
            avoid_tried_hosts: false,
            host_selection_attempts: 1,
        }
    }

    fn answer(status: u16) -> ResponseHead {
        ResponseHead::local(StatusCode::try_new(status).expect("status"))
    }

    #[test]
    fn answers_are_judged_word_by_word() {
        let table: [(&[&str], u16, bool); 10] = [
            (&["5xx"], 500, true),
            (&["5xx"], 404, false),
            (&["gateway-error"], 500, false),
            (&["gateway-error"], 503, true),
            (&["retriable-4xx"], 409, true),
            (&["retriable-4xx"], 404, false),
            (&["retriable-status-codes"], 418, true),
            (&["connect-failure"], 418, false),
            (
                &[
                    "connect-failure",
                    "refused-stream",
                    "unavailable",
                    "cancelled",
                ],
                503,
                false,
            ),
            (&["reset"], 503, false),
        ];
        for (words, status, expected) in table {
            assert_eq!(
                is_answer_retriable(&policy(words), &answer(status)),
                expected,
                "{words:?}"
            );
        }
    }

    #[test]
    fn grpc_statuses_in_the_head_have_words() {
        let mut head = answer(200);
        head.headers
            .insert(HeaderName::GRPC_STATUS, HeaderValue::from_static("14"));
        assert!(is_answer_retriable(&policy(&["unavailable"]), &head));
        assert!(!is_answer_retriable(&policy(&["cancelled"]), &head));
    }

    #[test]
    fn failures_are_judged_word_by_word() {
        let table: [(&[&str], RetryClass, bool); 9] = [
            (&["5xx"], RetryClass::Reset, true),
            (&["reset-before-request"], RetryClass::Reset, false),
            (
                &["reset-before-request"],
                RetryClass::ResetBeforeRequest,
                true,
            ),
            (&["connect-failure"], RetryClass::Reset, false),
            (&["connect-failure"], RetryClass::ConnectFailure, true),
            (&["refused-stream"], RetryClass::RefusedStream, true),
            (&["5xx", "reset"], RetryClass::Overflow, false),
            (&["5xx"], RetryClass::NoHealthyUpstream, false),
            (&["gateway-error"], RetryClass::Timeout, true),
        ];
        for (words, failure, expected) in table {
            assert_eq!(
                is_failure_retriable(&policy(words), failure),
                expected,
                "{words:?}"
            );
        }
    }

    #[test]
    fn waits_double_and_stay_below_the_ceiling() {
        let most = |retry| backoff(RetryBackoff::DEFAULT, retry, u64::MAX);
        for (retry, ceiling) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
            let ceiling = Duration::from_millis(ceiling);
            assert!(most(retry) < ceiling, "{retry}");
            let near = backoff(
                RetryBackoff::DEFAULT,
                retry,
                u64::try_from(ceiling.as_nanos()).expect("short") - 1,
            );
            assert_eq!(near, ceiling - Duration::from_nanos(1));
        }
    }
}
