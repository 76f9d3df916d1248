// SPDX-License-Identifier: Apache-2.0
//! Matchers of strings, header fields and query parameters, compiled once.
//!
//! Matching is on bytes, as the peer sent them: a value that is not UTF-8 matches or fails like
//! any other. What Envoy does with repeated values is kept: any one value of a repeated field may
//! match; an inverted matcher needs that no value matches; only the first value of a repeated
//! query key counts and nothing is percent-decoded.

use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};
use remora_http::{HeaderMap, HeaderName, RequestHead};

/// A regular expression that must match the whole text. Syntax: RE2's (linear time).
#[derive(Clone, Debug)]
pub struct FullRegex {
    source: Box<str>,
    compiled: Regex,
}

impl FullRegex {
    /// Compiled size beyond which an expression is refused. Unit: bytes. A cap against
    /// configuration that would grow the process; 1 MiB is a hundred times what routes need.
    pub const SIZE_LIMIT: usize = 1 << 20;

    /// Compiles an expression, anchored at both ends.
    ///
    /// # Errors
    /// If the expression is malformed or compiles to more than [`Self::SIZE_LIMIT`].
    pub fn try_new(source: &str) -> Result<Self, regex::Error> {
        // The expression alone first: `a)(b` must not become valid by being wrapped.
        build(source)?;
        let compiled = build(&format!("^(?:{source})$"))?;
        Ok(Self {
            source: source.into(),
            compiled,
        })
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.compiled.is_match(text)
    }

    /// The expression as configured.
    #[must_use]
    pub const fn source(&self) -> &str {
        &self.source
    }
}

/// Compiles an expression with the size limit; `.` matches any byte but a line feed.
fn build(source: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source)
        .size_limit(FullRegex::SIZE_LIMIT)
        .build()
}

/// A regex rewrite: every match is replaced. Source: `envoy.type.matcher.v3.RegexMatchAndSubstitute`.
#[derive(Clone, Debug)]
pub struct RegexRewrite {
    pattern: Regex,
    substitution: Box<str>,
}

impl RegexRewrite {
    /// Compiles a pattern and a substitution with `\1`-style group references.
    ///
    /// # Errors
    /// If the pattern is malformed or too large.
    pub fn try_new(pattern: &str, substitution: &str) -> Result<Self, regex::Error> {
        Ok(Self {
            pattern: build(pattern)?,
            substitution: re2_to_regex(substitution).into(),
        })
    }

    /// Rewrites a text.
    #[must_use]
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        self.pattern
            .replace_all(text, self.substitution.as_bytes())
            .into_owned()
    }
}

/// Turns RE2's `\1` into this engine's `${1}`, and guards its own `$`.
fn re2_to_regex(substitution: &str) -> String {
    let mut out = String::with_capacity(substitution.len() + 8);
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit @ '0'..='9') => out.push_str(&format!("${{{digit}}}")),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

/// A string condition. Source: `envoy.type.matcher.v3.StringMatcher`.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// Equal bytes.
    Exact(Bytes),
    /// Equal but for ASCII case.
    ExactIgnoreCase(Bytes),
    /// Starts with.
    Prefix(Bytes),
    /// Starts with, but for ASCII case.
    PrefixIgnoreCase(Bytes),
    /// Ends with.
    Suffix(Bytes),
    /// Ends with, but for ASCII case.
    SuffixIgnoreCase(Bytes),
    /// Has it somewhere.
    Contains(Bytes),
    /// Has it somewhere, but for ASCII case; kept lower-cased.
    ContainsIgnoreCase(Bytes),
    /// The whole text matches.
    Regex(FullRegex),
}

impl StringMatch {
    /// Whether a text matches.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        let head = |n: usize| text.get(..n);
        let tail = |n: usize| text.len().checked_sub(n).and_then(|at| text.get(at..));
        match self {
            Self::Exact(want) => want == text,
            Self::ExactIgnoreCase(want) => want.eq_ignore_ascii_case(text),
            Self::Prefix(want) => text.starts_with(want),
            Self::PrefixIgnoreCase(want) => {
                head(want.len()).is_some_and(|head| head.eq_ignore_ascii_case(want))
            }
            Self::Suffix(want) => text.ends_with(want),
            Self::SuffixIgnoreCase(want) => {
                tail(want.len()).is_some_and(|tail| tail.eq_ignore_ascii_case(want))
            }
            Self::Contains(want) => contains(text, want, |a, b| a == b),
            Self::ContainsIgnoreCase(want) => contains(text, want, <[u8]>::eq_ignore_ascii_case),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn contains(text: &[u8], want: &[u8], same: fn(&[u8], &[u8]) -> bool) -> bool {
    want.is_empty() || text.windows(want.len()).any(|window| same(window, want))
}

/// What of the request a header condition looks at: pseudo-headers are routed on as well.
#[derive(Clone, Debug)]
pub enum HeaderSubject {
    /// A field by name.
    Field(HeaderName),
    /// `:method`.
    Method,
    /// `:authority`, and `host`.
    Authority,
    /// `:path`, with its query.
    Path,
    /// `:scheme`.
    Scheme,
}

/// What is asked of the value.
#[derive(Clone, Debug)]
pub enum HeaderCondition {
    /// The field is there (`true`) or not there (`false`).
    Present(bool),
    /// A value is a decimal number within `start..end`.
    Range {
        /// First number that matches.
        start: i64,
        /// First number that no longer does.
        end: i64,
    },
    /// A value matches.
    String(StringMatch),
}

/// A header condition. Source: `envoy.config.route.v3.HeaderMatcher`.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// What is looked at.
    pub subject: HeaderSubject,
    /// What is asked.
    pub condition: HeaderCondition,
    /// Whether the answer is turned round.
    pub invert: bool,
    /// Whether an absent field counts as an empty value (`treat_missing_header_as_empty`).
    pub missing_as_empty: bool,
}

impl HeaderMatch {
    /// Whether a request satisfies the condition.
    #[must_use]
    pub fn is_match(&self, head: &RequestHead) -> bool {
        match &self.subject {
            HeaderSubject::Field(name) => self.is_match_field(&head.headers, name),
            HeaderSubject::Method => self.is_match_one(Some(head.method.as_str().as_bytes())),
            HeaderSubject::Authority => {
                self.is_match_one((!head.authority.is_empty()).then_some(&head.authority))
            }
            HeaderSubject::Path => self.is_match_one((!head.path.is_empty()).then_some(&head.path)),
            HeaderSubject::Scheme => {
                self.is_match_one(head.scheme.map(|scheme| scheme.as_str().as_bytes()))
            }
        }
    }

    fn is_match_field(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        if matches!(self.condition, HeaderCondition::Present(_)) || !headers.contains(name) {
            return self.is_match_one(headers.get(name).map(|value| &**value));
        }
        headers.get_all(name).any(|value| self.holds(value)) != self.invert
    }

    fn is_match_one(&self, value: Option<&[u8]>) -> bool {
        if let HeaderCondition::Present(wanted) = self.condition {
            return (value.is_some() == wanted) != self.invert;
        }
        match value {
            Some(value) => self.holds(value) != self.invert,
            // An absent field satisfies no condition on its value, inverted or not.
            None => self.missing_as_empty && self.holds(b"") != self.invert,
        }
    }

    fn holds(&self, value: &[u8]) -> bool {
        match &self.condition {
            HeaderCondition::Present(wanted) => *wanted,
            HeaderCondition::Range { start, end } => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
            HeaderCondition::String(string) => string.is_match(value),
        }
    }
}

/// A query condition. Source: `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// The key, compared byte for byte.
    pub key: Bytes,
    /// The condition on its first value; `None` asks for the key only.
    pub value: Option<StringMatch>,
}

impl QueryMatch {
    /// Whether a query (without its `?`) satisfies the condition.
    #[must_use]
    pub fn is_match(&self, query: &[u8]) -> bool {
        let first = query.split(|b| *b == b'&').find_map(|pair| {
            let mut halves = pair.splitn(2, |b| *b == b'=');
            let key = halves.next().unwrap_or_default();
            (key == self.key).then(|| halves.next().unwrap_or_default())
        });
        match (first, &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(value), Some(wanted)) => wanted.is_match(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_http::{HeaderValue, Method, Version};

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::parse(name.as_bytes()).expect("name"),
                HeaderValue::copy_from(value.as_bytes()).expect("value"),
            );
        }
        RequestHead {
            method: Method::Get,
            scheme: None,
            authority: Bytes::from_static(b"sms"),
            path: Bytes::from_static(b"/a?x=1"),
            version: Version::Http11,
            headers,
        }
    }

    fn on(name: &str, condition: HeaderCondition, invert: bool) -> HeaderMatch {
        let subject = HeaderSubject::Field(HeaderName::parse(name.as_bytes()).expect("name"));
        HeaderMatch {
            subject,
            condition,
            invert,
            missing_as_empty: false,
        }
    }

    #[test]
    fn regexes_match_the_whole_text_only() {
        let regex = FullRegex::try_new("a|bc").expect("regex");
        for (text, expected) in [("a", true), ("bc", true), ("abc", false), ("xa", false)] {
            assert_eq!(regex.is_match(text.as_bytes()), expected, "{text}");
        }
        assert!(FullRegex::try_new("a)(b").is_err());
        assert!(FullRegex::try_new("(").is_err());
        assert!(FullRegex::try_new("(a{1000}){1000}").is_err());
    }

    #[test]
    fn rewrites_use_numbered_groups_and_keep_dollars() {
        let rewrite = RegexRewrite::try_new("^/service/([^/]+)(/.*)$", "\\2/$x/\\1").expect("ok");
        assert_eq!(rewrite.apply(b"/service/foo/v1/api"), b"/v1/api/$x/foo");
    }

    #[test]
    fn any_value_of_a_repeated_field_may_match_and_inversion_needs_none() {
        let exact = |text| HeaderCondition::String(StringMatch::Exact(Bytes::from_static(text)));
        let request = head(&[("user", "ann"), ("user", "rui")]);
        assert!(on("user", exact(b"rui"), false).is_match(&request));
        assert!(!on("user", exact(b"rui"), true).is_match(&request));
        assert!(on("user", exact(b"bob"), true).is_match(&request));
        assert!(
            !on("absent", exact(b"x"), true).is_match(&request),
            "absent satisfies nothing"
        );
    }

    #[test]
    fn presence_and_ranges() {
        let request = head(&[("n", "10")]);
        assert!(on("n", HeaderCondition::Present(true), false).is_match(&request));
        assert!(!on("n", HeaderCondition::Present(true), true).is_match(&request));
        assert!(on("m", HeaderCondition::Present(false), false).is_match(&request));
        let range = |start, end| HeaderCondition::Range { start, end };
        assert!(on("n", range(10, 11), false).is_match(&request));
        assert!(!on("n", range(0, 10), false).is_match(&request));
    }

    #[test]
    fn only_the_first_value_of_a_query_key_counts() {
        let query = |value| QueryMatch {
            key: Bytes::from_static(b"a"),
            value: Some(StringMatch::Exact(Bytes::from_static(value))),
        };
        assert!(query(b"1").is_match(b"b=2&a=1&a=3"));
        assert!(!query(b"3").is_match(b"b=2&a=1&a=3"));
        assert!(!query(b"1").is_match(b"a=%31"));
        assert!(
            QueryMatch {
                key: Bytes::from_static(b"a"),
                value: None
            }
            .is_match(b"a")
        );
        assert!(
            !QueryMatch {
                key: Bytes::from_static(b"a"),
                value: None
            }
            .is_match(b"aa=1")
        );
    }
}
