// SPDX-License-Identifier: Apache-2.0
//! What a request or a connection must be like for a route to apply.
//!
//! Values only: the proxy does the matching. Within one match all parts must hold; a route applies
//! if any of its matches does, or if it has none.

use std::sync::Arc;

use ipnet::IpNet;
use remora_primitives::Port;

use crate::endpoint::Labels;
use crate::name::{Host, Namespace};

/// Why a text cannot be matched with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    /// A regular expression that does not compile.
    #[error("regular expression `{pattern}`: {reason}")]
    Regex {
        /// The expression.
        pattern: String,
        /// What is wrong with it, in one line.
        reason: String,
    },
}

/// A test of a text. Source: `StringMatch`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Exactly this.
    Exact(Arc<str>),
    /// Starts with this.
    Prefix(Arc<str>),
    /// Wholly matched by this regular expression (RE2 syntax), known to compile.
    Regex(Arc<str>),
}

impl StringMatch {
    /// Checks a regular expression.
    ///
    /// # Errors
    /// If it does not compile, or would need an unreasonable automaton.
    pub fn try_regex(pattern: &str) -> Result<Self, MatchError> {
        let checked = regex::RegexBuilder::new(pattern)
            .size_limit(1 << 20)
            .build();
        match checked {
            Ok(_) => Ok(Self::Regex(pattern.into())),
            Err(error) => Err(MatchError::Regex {
                pattern: pattern.to_owned(),
                reason: last_line(&error.to_string()),
            }),
        }
    }
}

/// The regex crate draws its errors over several lines; the last one says what is wrong.
fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// A test of one header. Names are lower-case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    /// The header's name.
    pub name: Arc<str>,
    /// What its value must be; `None`: it must be there.
    pub value: Option<StringMatch>,
    /// The test is turned round. Source: `withoutHeaders`.
    pub inverted: bool,
}

/// A test of one query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueryMatch {
    /// The parameter's name.
    pub name: Arc<str>,
    /// What its value must be; `None`: it must be there.
    pub value: Option<StringMatch>,
}

/// A test of the path (without the query).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathMatch {
    /// What the path must be.
    pub path: StringMatch,
    /// Case does not count (exact and prefix only). Source: `ignoreUriCase`.
    pub ignore_case: bool,
}

/// A test of a request. Source: `HTTPMatchRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// A name for logs; empty if it has none.
    pub name: Arc<str>,
    /// The path.
    pub path: Option<PathMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The authority (`Host`).
    pub authority: Option<StringMatch>,
    /// Headers that must match, `withoutHeaders` inverted among them.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters that must match.
    pub query: Vec<QueryMatch>,
    /// The service port that was addressed.
    pub port: Option<Port>,
    /// Which callers it concerns.
    pub source: SourceMatch,
}

/// Which callers a match concerns: decided when configuration is compiled for a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceMatch {
    /// Labels that the calling workload must have; empty: any.
    pub labels: Labels,
    /// The calling workload's namespace.
    pub namespace: Option<Namespace>,
}

impl SourceMatch {
    /// Whether a workload is concerned.
    #[must_use]
    pub fn includes(&self, namespace: &Namespace, labels: &Labels) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|wanted| wanted == namespace)
            && self.labels.select(labels)
    }
}

/// A test of a connection. Source: `L4MatchAttributes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L4Match {
    /// Where it was going; empty: anywhere.
    pub destination: Vec<IpNet>,
    /// The port it was going to.
    pub port: Option<Port>,
    /// Which callers it concerns.
    pub source: SourceMatch,
}

/// A test of a TLS connection by what its ClientHello shows. Source: `TLSMatchAttributes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsMatch {
    /// Server names, at least one.
    pub sni: Vec<Host>,
    /// The rest of the test.
    pub l4: L4Match,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_expressions_are_refused_with_their_reason() {
        assert!(StringMatch::try_regex("^v[0-9]+$").is_ok());
        let Err(MatchError::Regex { reason, .. }) = StringMatch::try_regex("(") else {
            panic!("an unclosed group compiles");
        };
        assert_eq!(reason, "unclosed group");
        assert!(StringMatch::try_regex("(a{1000}){1000}").is_err());
    }
}
