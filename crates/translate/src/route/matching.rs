// SPDX-License-Identifier: Apache-2.0
//! Which requests a route takes.

use bytes::Bytes;
use remora_ir::route::{PathMatch, RouteMatch};
use remora_xds_types::route;
use remora_xds_types::route::route_match::PathSpecifier;

use crate::fault::Scope;
use crate::{matcher, value};

/// Translates a route's conditions.
pub(super) fn route_match(scope: &Scope<'_>, message: route::RouteMatch) -> Option<RouteMatch> {
    fields! { scope, message: route::RouteMatch {
        honoured { case_sensitive, runtime_fraction, headers, query_parameters, grpc, path_specifier: "`path_match_policy` is refused" }
        ignored {}
        refused {
            cookies: "conditions on cookies",
            tls_context: "conditions on client certificates",
            dynamic_metadata: "conditions on what filters found",
            filter_state: "conditions on what filters found"
        }
    }}
    let case_sensitive = value::flag(case_sensitive, true);
    let path = path(scope, path_specifier, case_sensitive);
    let fraction_at = scope.field("runtime_fraction");
    let share = runtime_fraction.and_then(|f| value::runtime_fraction(&fraction_at, f));
    let headers = matcher::header_matches(scope, "headers", headers);
    let query = matcher::query_matches(scope, "query_parameters", query_parameters);
    Some(RouteMatch {
        path: path?,
        headers,
        query,
        share,
        grpc: grpc.is_some(),
    })
}

fn path(
    scope: &Scope<'_>,
    specifier: Option<PathSpecifier>,
    case_sensitive: bool,
) -> Option<PathMatch> {
    match specifier {
        Some(PathSpecifier::Prefix(prefix)) => Some(PathMatch::Prefix {
            prefix: Bytes::from(prefix),
            case_sensitive,
        }),
        Some(PathSpecifier::Path(path)) => Some(PathMatch::Exact {
            path: Bytes::from(path),
            case_sensitive,
        }),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if prefix.is_empty() || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                scope.field("path_separated_prefix").fault(format!(
                    "`{prefix}` (expected a path without `?`, `#` and a final `/`)"
                ));
            }
            Some(PathMatch::SegmentPrefix {
                prefix: Bytes::from(prefix),
                case_sensitive,
            })
        }
        Some(PathSpecifier::SafeRegex(regex)) => {
            matcher::full_regex(&scope.field("safe_regex"), regex).map(PathMatch::Regex)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => Some(PathMatch::Connect),
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            let at = scope.field("path_match_policy");
            at.fault("not supported: path templates");
            None
        }
        None => {
            scope.fault("has no condition on the path");
            None
        }
    }
}
