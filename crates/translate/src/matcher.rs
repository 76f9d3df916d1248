// SPDX-License-Identifier: Apache-2.0
//! Conditions on strings, header fields and query parameters.

use bytes::Bytes;
use remora_ir::HeaderName;
use remora_ir::matcher::{
    FullRegex, HeaderCondition, HeaderMatch, HeaderSubject, QueryMatch, RegexRewrite, StringMatch,
};
use remora_xds_types::matcher;
use remora_xds_types::matcher::string_matcher::MatchPattern;
use remora_xds_types::route;
use remora_xds_types::route::header_matcher::HeaderMatchSpecifier;
use remora_xds_types::route::query_parameter_matcher::QueryParameterMatchSpecifier;

use crate::fault::Scope;

/// The text of an expression.
fn regex_source(scope: &Scope<'_>, regex: matcher::RegexMatcher) -> String {
    let message = regex;
    fields! { scope, message: matcher::RegexMatcher {
        honoured { regex: "compiled size at most 1 MiB" }
        ignored { engine_type: "there is one engine, of linear time" }
        refused {}
    }}
    regex
}

/// An expression that must match the whole text.
pub(crate) fn full_regex(scope: &Scope<'_>, regex: matcher::RegexMatcher) -> Option<FullRegex> {
    let source = regex_source(scope, regex);
    scope.take(FullRegex::try_new(&source).map_err(|error| regex_fault(&source, &error)))
}

/// A rewrite by expression.
pub(crate) fn regex_rewrite(
    scope: &Scope<'_>,
    rewrite: matcher::RegexMatchAndSubstitute,
) -> Option<RegexRewrite> {
    fields! { scope, rewrite: matcher::RegexMatchAndSubstitute {
        honoured { pattern: "required", substitution: "`\\0` to `\\9` are groups" }
        ignored {}
        refused {}
    }}
    let Some(pattern) = pattern else {
        scope.field("pattern").fault("is missing");
        return None;
    };
    let at = scope.field("pattern");
    let source = regex_source(&at, pattern);
    let made = RegexRewrite::try_new(&source, &substitution);
    at.take(made.map_err(|error| regex_fault(&source, &error)))
}

/// The last line of the engine's message, which says what is wrong; its first ones draw where.
fn regex_fault(source: &str, error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    let finding = last.strip_prefix("error: ").unwrap_or(last);
    format!("regex `{source}`: {finding}")
}

/// A condition on a string.
pub(crate) fn string_match(
    scope: &Scope<'_>,
    message: matcher::StringMatcher,
) -> Option<StringMatch> {
    fields! { scope, message: matcher::StringMatcher {
        honoured { ignore_case: "ASCII letters only; no effect on expressions", match_pattern: "`custom` is refused" }
        ignored {}
        refused {}
    }}
    let case = |text: String, exact: fn(Bytes) -> StringMatch, any: fn(Bytes) -> StringMatch| {
        let text = Bytes::from(text);
        if ignore_case { any(text) } else { exact(text) }
    };
    let made = match match_pattern? {
        MatchPattern::Exact(text) => case(text, StringMatch::Exact, StringMatch::ExactIgnoreCase),
        MatchPattern::Prefix(text) => {
            case(text, StringMatch::Prefix, StringMatch::PrefixIgnoreCase)
        }
        MatchPattern::Suffix(text) => {
            case(text, StringMatch::Suffix, StringMatch::SuffixIgnoreCase)
        }
        MatchPattern::Contains(text) => {
            case(text, StringMatch::Contains, StringMatch::ContainsIgnoreCase)
        }
        MatchPattern::SafeRegex(regex) => {
            StringMatch::Regex(full_regex(&scope.field("safe_regex"), regex)?)
        }
        MatchPattern::Custom(_) => {
            scope
                .field("custom")
                .fault("not supported: custom matchers");
            return None;
        }
    };
    Some(match made {
        StringMatch::ContainsIgnoreCase(text) => {
            StringMatch::ContainsIgnoreCase(text.to_ascii_lowercase().into())
        }
        other => other,
    })
}

/// A string condition that must be there and say something.
fn required_string(scope: &Scope<'_>, message: matcher::StringMatcher) -> Option<StringMatch> {
    if message.match_pattern.is_none() {
        scope.fault("has no pattern");
        return None;
    }
    string_match(scope, message)
}

/// Conditions on header fields.
pub(crate) fn header_matches(
    scope: &Scope<'_>,
    field: &'static str,
    messages: Vec<route::HeaderMatcher>,
) -> Vec<HeaderMatch> {
    let numbered = messages.into_iter().enumerate();
    numbered
        .filter_map(|(at, message)| header_match(&scope.item(field, at), message))
        .collect()
}

fn header_match(scope: &Scope<'_>, message: route::HeaderMatcher) -> Option<HeaderMatch> {
    fields! { scope, message: route::HeaderMatcher {
        honoured { name: "pseudo-headers too", invert_match, treat_missing_header_as_empty, header_match_specifier: "absent means present" }
        ignored {}
        refused {}
    }}
    let subject = match name.as_str() {
        ":method" => HeaderSubject::Method,
        ":path" => HeaderSubject::Path,
        ":scheme" => HeaderSubject::Scheme,
        _ if name == ":authority" || name.eq_ignore_ascii_case("host") => HeaderSubject::Authority,
        _ => HeaderSubject::Field(field_name(&scope.field("name"), &name)?),
    };
    Some(HeaderMatch {
        subject,
        condition: header_condition(scope, header_match_specifier)?,
        invert: invert_match,
        missing_as_empty: treat_missing_header_as_empty,
    })
}

#[allow(
    deprecated,
    reason = "the older forms of string conditions are still sent"
)]
fn header_condition(
    scope: &Scope<'_>,
    specifier: Option<HeaderMatchSpecifier>,
) -> Option<HeaderCondition> {
    let text = |make: fn(Bytes) -> StringMatch, text: String| {
        Some(HeaderCondition::String(make(text.into())))
    };
    match specifier {
        None => Some(HeaderCondition::Present(true)),
        Some(HeaderMatchSpecifier::PresentMatch(wanted)) => Some(HeaderCondition::Present(wanted)),
        Some(HeaderMatchSpecifier::RangeMatch(range)) => Some(HeaderCondition::Range {
            start: range.start,
            end: range.end,
        }),
        Some(HeaderMatchSpecifier::ExactMatch(exact)) => text(StringMatch::Exact, exact),
        Some(HeaderMatchSpecifier::PrefixMatch(prefix)) => text(StringMatch::Prefix, prefix),
        Some(HeaderMatchSpecifier::SuffixMatch(suffix)) => text(StringMatch::Suffix, suffix),
        Some(HeaderMatchSpecifier::ContainsMatch(part)) => text(StringMatch::Contains, part),
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => {
            let regex = full_regex(&scope.field("safe_regex_match"), regex)?;
            Some(HeaderCondition::String(StringMatch::Regex(regex)))
        }
        Some(HeaderMatchSpecifier::StringMatch(string)) => {
            required_string(&scope.field("string_match"), string).map(HeaderCondition::String)
        }
    }
}

/// Conditions on query parameters.
pub(crate) fn query_matches(
    scope: &Scope<'_>,
    field: &'static str,
    messages: Vec<route::QueryParameterMatcher>,
) -> Vec<QueryMatch> {
    let numbered = messages.into_iter().enumerate();
    numbered
        .filter_map(|(at, message)| query_match(&scope.item(field, at), message))
        .collect()
}

fn query_match(scope: &Scope<'_>, message: route::QueryParameterMatcher) -> Option<QueryMatch> {
    fields! { scope, message: route::QueryParameterMatcher {
        honoured { name: "required", query_parameter_match_specifier: "`present_match: false` is refused; absent means present" }
        ignored {}
        refused {}
    }}
    if name.is_empty() {
        scope.field("name").fault("is empty");
    }
    let value = match query_parameter_match_specifier {
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => None,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            scope
                .field("present_match")
                .fault("not supported: `false`, the absence of a parameter");
            return None;
        }
        Some(QueryParameterMatchSpecifier::StringMatch(string)) => {
            Some(required_string(&scope.field("string_match"), string)?)
        }
    };
    Some(QueryMatch {
        key: name.into(),
        value,
    })
}

/// The name of a header field.
pub(crate) fn field_name(scope: &Scope<'_>, name: &str) -> Option<HeaderName> {
    let parsed = HeaderName::parse(name.as_bytes()).ok();
    if parsed.is_none() {
        scope.fault(format!("`{name}` is not a header name"));
    }
    parsed
}
