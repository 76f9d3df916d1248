// SPDX-License-Identifier: Apache-2.0
//! Which resources of a type are wanted.

use std::collections::BTreeSet;

/// A set of names, or all there are, or both (all that the control plane would choose, and these).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    is_wildcard: bool,
    names: BTreeSet<String>,
}

/// How the wildcard is written among names.
pub(crate) const WILDCARD: &str = "*";

impl Interest {
    /// Everything (clusters and listeners are asked for this way).
    #[must_use]
    pub const fn wildcard() -> Self {
        Self {
            is_wildcard: true,
            names: BTreeSet::new(),
        }
    }

    /// These names (endpoints and routes); `*` among them is the wildcard.
    #[must_use]
    pub fn names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut interest = Self::default();
        interest.add(names.into_iter().map(Into::into));
        interest
    }

    /// Adds names.
    pub fn add(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if name == WILDCARD {
                self.is_wildcard = true;
            } else {
                self.names.insert(name);
            }
        }
    }

    /// Takes names away.
    pub fn remove(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if name == WILDCARD {
                self.is_wildcard = false;
            } else {
                self.names.remove(&name);
            }
        }
    }

    /// Whether everything is wanted.
    #[must_use]
    pub const fn is_wildcard(&self) -> bool {
        self.is_wildcard
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_wildcard && self.names.is_empty()
    }

    /// Whether this resource is wanted.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.is_wildcard || self.names.contains(name)
    }

    /// The names, without the wildcard, in order.
    pub fn iter_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// What is in here and not in `other`, with `*` for the wildcard.
    pub(crate) fn without(&self, other: &Self) -> Vec<String> {
        let wildcard = (self.is_wildcard && !other.is_wildcard).then(|| WILDCARD.to_owned());
        wildcard
            .into_iter()
            .chain(self.names.difference(&other.names).cloned())
            .collect()
    }
}
