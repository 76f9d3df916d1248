// SPDX-License-Identifier: Apache-2.0
//! What a request must be like, in the API's words.

use remora_model::{HeaderMatch, HttpMatch, QueryMatch, StringMatch};
use remora_xds_types::matcher::string_matcher::MatchPattern;
use remora_xds_types::matcher::{RegexMatcher, StringMatcher};
use remora_xds_types::route::header_matcher::HeaderMatchSpecifier;
use remora_xds_types::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use remora_xds_types::route::route_match::PathSpecifier;
use remora_xds_types::route::{HeaderMatcher, QueryParameterMatcher, RouteMatch};

use crate::wire;

/// One test of a rule; port and caller are decided already.
pub(super) fn route_match(test: &HttpMatch) -> RouteMatch {
    let pseudo = [
        (":method", &test.method),
        (":authority", &test.authority),
        (":scheme", &test.scheme),
    ];
    let pseudo = pseudo.into_iter().filter_map(|(name, value)| {
        let value = value.as_ref()?;
        Some(HeaderMatcher {
            name: name.to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text(value))),
            ..HeaderMatcher::default()
        })
    });
    let path = test.path.as_ref();
    RouteMatch {
        path_specifier: Some(match path.map(|path| &path.path) {
            None => PathSpecifier::Prefix("/".to_owned()),
            Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.to_string()),
            Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.to_string()),
            Some(StringMatch::Regex(pattern)) => PathSpecifier::SafeRegex(regex(pattern)),
        }),
        case_sensitive: path
            .filter(|path| path.ignore_case && !matches!(path.path, StringMatch::Regex(_)))
            .and_then(|_| wire::flag(false)),
        headers: pseudo.chain(test.headers.iter().map(header)).collect(),
        query_parameters: test.query.iter().map(query).collect(),
        ..RouteMatch::default()
    }
}

fn header(test: &HeaderMatch) -> HeaderMatcher {
    HeaderMatcher {
        name: test.name.to_string(),
        invert_match: test.inverted,
        // "Without `x: 1`" holds for requests that have no `x` at all.
        treat_missing_header_as_empty: test.inverted && test.value.is_some(),
        header_match_specifier: Some(match &test.value {
            Some(value) => HeaderMatchSpecifier::StringMatch(text(value)),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
    }
}

fn query(test: &QueryMatch) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: test.name.to_string(),
        query_parameter_match_specifier: Some(match &test.value {
            Some(value) => QueryParameterMatchSpecifier::StringMatch(text(value)),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        }),
    }
}

fn text(test: &StringMatch) -> StringMatcher {
    let pattern = match test {
        StringMatch::Exact(value) => MatchPattern::Exact(value.to_string()),
        StringMatch::Prefix(value) => MatchPattern::Prefix(value.to_string()),
        StringMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern)),
    };
    StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }
}

pub(super) fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher {
        regex: pattern.to_owned(),
        ..RegexMatcher::default()
    }
}
