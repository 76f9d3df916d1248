// SPDX-License-Identifier: Apache-2.0
//! The names that the proxy's DNS server answers by itself.
//!
//! Source: `istio.networking.nds.v1.NameTable`. Keys are lower-cased names without a trailing
//! dot: full names and every short form that resolves for this proxy's namespace.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rustc_hash::FxHashMap;

/// Addresses of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameEntry {
    /// A records, in the order they were configured.
    pub v4: Vec<Ipv4Addr>,
    /// AAAA records, likewise.
    pub v6: Vec<Ipv6Addr>,
}

/// All names the mesh knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameTable {
    entries: FxHashMap<Arc<str>, NameEntry>,
}

impl NameTable {
    /// Makes a table; a name that comes twice has the addresses of both. Names are lower-cased
    /// and lose one trailing dot.
    pub fn from_entries(entries: impl IntoIterator<Item = (String, NameEntry)>) -> Self {
        let mut table = FxHashMap::<Arc<str>, NameEntry>::default();
        for (name, entry) in entries {
            let lower = name.to_ascii_lowercase();
            let key: Arc<str> = lower.strip_suffix('.').unwrap_or(&lower).into();
            let merged = table.entry(key).or_default();
            merged.v4.extend(entry.v4);
            merged.v6.extend(entry.v6);
        }
        Self { entries: table }
    }

    /// The entry of a lower-cased name without a trailing dot. A wildcard entry `*.suffix`
    /// answers for names below the suffix that have no entry of their own; the longest wins.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&NameEntry> {
        if let Some(entry) = self.entries.get(name) {
            return Some(entry);
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(entry) = self.entries.get(format!("*.{parent}").as_str()) {
                return Some(entry);
            }
            rest = parent;
        }
        None
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All names with their entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &NameEntry)> {
        self.entries.iter().map(|(name, entry)| (&**name, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_exactly_before_any_wildcard() {
        let entry = |n| NameEntry {
            v4: vec![Ipv4Addr::new(240, 240, 0, n)],
            v6: Vec::new(),
        };
        let table = NameTable::from_entries([
            ("SMS.shop.".to_owned(), entry(1)),
            ("*.example".to_owned(), entry(2)),
            ("*.b.example".to_owned(), entry(3)),
        ]);
        let table_of = [
            ("sms.shop", Some(1)),
            ("a.example", Some(2)),
            ("a.b.example", Some(3)),
            ("b.example", Some(2)),
            ("example", None),
            ("sms", None),
        ];
        for (name, expected) in table_of {
            assert_eq!(table.find(name), expected.map(entry).as_ref(), "{name}");
        }
    }
}
