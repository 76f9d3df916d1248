// SPDX-License-Identifier: Apache-2.0
//! Host names, lower-cased once, and the patterns that virtual hosts and rules match them with.

use std::fmt;
use std::sync::Arc;

/// Why a text is not a host name or pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("host name is empty")]
    Empty,
    /// More than 253 characters.
    #[error("host name is {0} characters long (at most 253)")]
    TooLong(usize),
    /// A label that is empty or longer than 63 characters.
    #[error("host name `{0}`: a label is empty or longer than 63 characters")]
    Label(String),
    /// A character that no host name has.
    #[error("host name `{name}`: character {found:?} is not allowed")]
    Character {
        /// The whole text.
        name: String,
        /// The offending character.
        found: char,
    },
    /// A `*` anywhere but as the first or last label part of a pattern.
    #[error("domain pattern `{0}`: `*` may only stand at the start or at the end")]
    Wildcard(String),
}

/// A DNS name or IP literal, lower-cased, without a trailing dot and without a port.
///
/// Underscores are accepted, since service names in the field have them. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Checks and lower-cases a name; a single trailing dot is dropped.
    ///
    /// # Errors
    /// If it is empty, too long, or has a label or character that no name may have.
    pub fn try_new(name: &str) -> Result<Self, NameError> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Ok(Self(name.to_ascii_lowercase().into()));
        }
        check(name)?;
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The name, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A set of host names, as a virtual host's domain or a rule's host says it.
///
/// Matching is case-insensitive; a more specific pattern outranks a wider one:
/// exact, then the longest suffix, then the longest prefix, then any.
/// Source: `envoy.config.route.v3.VirtualHost.domains`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DomainPattern {
    /// `foo.example`, or `foo.example:8080`: exactly this authority.
    Exact(Arc<str>),
    /// `*.example` or `*-foo.example`: kept without the star; matches one more character or more.
    Suffix(Arc<str>),
    /// `foo.*`: kept without the star; matches one more character or more.
    Prefix(Arc<str>),
    /// `*`.
    Any,
}

impl DomainPattern {
    /// Reads a pattern, lower-casing it.
    ///
    /// # Errors
    /// If it is empty, longer than 255 characters, has a control character or white space, or a
    /// `*` in the middle.
    pub fn try_new(pattern: &str) -> Result<Self, NameError> {
        if pattern.is_empty() {
            return Err(NameError::Empty);
        }
        if pattern.len() > 260 {
            return Err(NameError::TooLong(pattern.len()));
        }
        if let Some(found) = pattern
            .chars()
            .find(|c| c.is_control() || c.is_whitespace())
        {
            return Err(NameError::Character {
                name: pattern.to_owned(),
                found,
            });
        }
        if pattern == "*" {
            return Ok(Self::Any);
        }
        let lower = pattern.to_ascii_lowercase();
        let (body, make): (&str, fn(Arc<str>) -> Self) = match lower.as_bytes() {
            [b'*', ..] => (lower.get(1..).unwrap_or_default(), Self::Suffix),
            [.., b'*'] => (lower.strip_suffix('*').unwrap_or_default(), Self::Prefix),
            _ => (lower.as_str(), Self::Exact),
        };
        if body.contains('*') {
            return Err(NameError::Wildcard(pattern.to_owned()));
        }
        Ok(make(body.into()))
    }

    /// Whether a lower-case authority matches.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => &**name == host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Prefix(prefix) => host.len() > prefix.len() && host.starts_with(&**prefix),
            Self::Any => true,
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > 253 {
        return Err(NameError::TooLong(name.len()));
    }
    let odd = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if let Some(found) = name.chars().find(odd) {
        return Err(NameError::Character {
            name: name.to_owned(),
            found,
        });
    }
    if name
        .split('.')
        .any(|label| label.is_empty() || label.len() > 63)
    {
        return Err(NameError::Label(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_lower_cased_and_lose_one_trailing_dot() {
        assert_eq!(
            HostName::try_new("Sms.Shop.").map(|h| h.to_string()),
            Ok("sms.shop".into())
        );
        assert_eq!(
            HostName::try_new("::1").map(|h| h.to_string()),
            Ok("::1".into())
        );
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        let long = "a".repeat(64);
        for bad in [
            "",
            ".",
            "a..b",
            "a b",
            "a/b",
            "ü.example",
            "a:80",
            "*.x",
            long.as_str(),
        ] {
            assert!(HostName::try_new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_match_as_envoy_matches_domains() {
        let table = [
            ("a.test", "a.test", true),
            ("A.Test", "a.test", true),
            ("a.test", "a.test:80", false),
            ("*.test", "a.test", true),
            ("*.test", ".test", false),
            ("*.test", "test", false),
            ("*-x.test", "a-x.test", true),
            ("a.*", "a.b", true),
            ("a.*", "a.", false),
            ("*", "anything", true),
        ];
        for (pattern, host, expected) in table {
            let parsed = DomainPattern::try_new(pattern).expect("pattern is well formed");
            assert_eq!(parsed.matches(host), expected, "{pattern} on {host}");
        }
    }

    #[test]
    fn stars_in_the_middle_are_refused() {
        for bad in ["a.*.b", "*.a.*", "**", ""] {
            assert!(DomainPattern::try_new(bad).is_err(), "{bad}");
        }
    }
}
