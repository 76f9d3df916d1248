// SPDX-License-Identifier: Apache-2.0
//! Namespaces, hosts with or without a wildcard, and who may see an object.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use remora_primitives::{HostName, NameError};

/// A namespace. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Where objects live that name no namespace.
    pub const DEFAULT: &'static str = "default";

    /// Checks a namespace's name (RFC 1123 label: lower-case letters, digits and `-`).
    ///
    /// # Errors
    /// If it is empty, longer than 63 characters, or has another character.
    pub fn try_new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
        if let Some(found) = name.chars().find(|c| !allowed(c)) {
            return Err(NameError::Character {
                name: name.to_owned(),
                found,
            });
        }
        if name.len() > 63 {
            return Err(NameError::Label(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host as a service or a rule names it: a full name, `*.suffix`, or `*`.
///
/// Short names are resolved before: what is here is fully qualified and lower-case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// One name.
    Name(HostName),
    /// All names that end with this; kept without the star, with the dot (`.example.com`);
    /// empty for `*`.
    Wildcard(Arc<str>),
}

impl Host {
    /// Reads a full name, `*.suffix` or `*`.
    ///
    /// # Errors
    /// If it is no host name, or has a star elsewhere than as its whole first label.
    pub fn try_new(text: &str) -> Result<Self, NameError> {
        if text == "*" {
            return Ok(Self::Wildcard("".into()));
        }
        let Some(suffix) = text.strip_prefix("*.") else {
            if text.contains('*') {
                return Err(NameError::Wildcard(text.to_owned()));
            }
            return HostName::try_new(text).map(Self::Name);
        };
        let name = HostName::try_new(suffix)?;
        Ok(Self::Wildcard(format!(".{name}").into()))
    }

    /// The name, if it is one name.
    #[must_use]
    pub const fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Wildcard(_) => None,
        }
    }

    /// Whether it stands for many names.
    #[must_use]
    pub const fn is_wildcard(&self) -> bool {
        matches!(self, Self::Wildcard(_))
    }

    /// Whether every name of `other` is one of this host's.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => a == b,
            (Self::Name(_), Self::Wildcard(_)) => false,
            (Self::Wildcard(suffix), Self::Name(name)) => {
                let name = name.as_str();
                name.len() > suffix.len() && name.ends_with(&**suffix)
            }
            (Self::Wildcard(a), Self::Wildcard(b)) => b.ends_with(&**a),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// Who may see an object. Source: `exportTo`, with `.` already resolved to the own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Every namespace (`*`, and where nothing is written).
    #[default]
    Everyone,
    /// These namespaces only; an empty set is nobody (`~`).
    Namespaces(BTreeSet<Namespace>),
}

impl Visibility {
    /// Whether a workload of this namespace sees the object.
    #[must_use]
    pub fn includes(&self, namespace: &Namespace) -> bool {
        match self {
            Self::Everyone => true,
            Self::Namespaces(set) => set.contains(namespace),
        }
    }

    /// Whether some workload sees both objects.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everyone, Self::Everyone) => true,
            (Self::Everyone, Self::Namespaces(set)) | (Self::Namespaces(set), Self::Everyone) => {
                !set.is_empty()
            }
            (Self::Namespaces(a), Self::Namespaces(b)) => !a.is_disjoint(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::try_new(text).expect("host is well formed")
    }

    #[test]
    fn a_wildcard_covers_names_below_it_and_narrower_wildcards() {
        let table = [
            ("a.test", "A.Test.", true),
            ("a.test", "b.test", false),
            ("*.test", "a.test", true),
            ("*.test", "test", false),
            ("*.test", "a.b.test", true),
            ("*.test", "*.b.test", true),
            ("*.b.test", "*.test", false),
            ("a.test", "*.test", false),
            ("*", "anything", true),
            ("*", "*.test", true),
        ];
        for (wide, narrow, expected) in table {
            assert_eq!(
                host(wide).covers(&host(narrow)),
                expected,
                "{wide} covers {narrow}"
            );
        }
    }

    #[test]
    fn hosts_are_written_back_as_they_were_read() {
        for text in ["a.test", "*.test", "*"] {
            assert_eq!(host(text).to_string(), text);
        }
        for bad in ["", "a*.test", "*.*.test", "**", "*.", "a:80", "a b"] {
            assert!(Host::try_new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn namespaces_are_labels() {
        assert!(Namespace::try_new("shop-1").is_ok());
        for bad in ["", "Shop", "a.b", "a/b", &"x".repeat(64)] {
            assert!(Namespace::try_new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn visibilities_overlap_where_somebody_sees_both() {
        let of = |names: &[&str]| {
            let set = names
                .iter()
                .map(|n| Namespace::try_new(n).expect("is a label"))
                .collect();
            Visibility::Namespaces(set)
        };
        assert!(Visibility::Everyone.overlaps(&of(&["a"])));
        assert!(!Visibility::Everyone.overlaps(&of(&[])));
        assert!(of(&["a", "b"]).overlaps(&of(&["b"])));
        assert!(!of(&["a"]).overlaps(&of(&["b"])));
    }
}
