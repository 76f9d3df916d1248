// SPDX-License-Identifier: Apache-2.0
//! Route tables: which virtual host, and which of its routes, a request belongs to.
//!
//! Domains are looked up as Envoy does: exact, then the longest suffix, then the longest prefix,
//! then `*`. Routes of a virtual host are tried in order and the first that matches wins.
//! Source: `envoy.config.route.v3.RouteConfiguration`.

use std::sync::Arc;

use bytes::Bytes;
use remora_http::RequestHead;
use remora_primitives::{DomainPattern, Fraction};
use rustc_hash::FxHashMap;

use crate::action::{Action, RetryPolicy};
use crate::header_edit::MessageEdits;
use crate::matcher::{FullRegex, HeaderMatch, QueryMatch};
use crate::name::RouteName;

/// All virtual hosts of a listener, or of one service's port.
#[derive(Debug)]
pub struct RouteTable {
    name: RouteName,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    domains: DomainIndex,
    /// Whether a port in the authority is ignored (`ignore_port_in_host_matching`).
    ignore_port: bool,
    /// Edits for every request, after the virtual host's.
    pub edits: MessageEdits,
    /// Whether the table's edits come first and the route's last
    /// (`most_specific_header_mutations_wins`).
    pub most_specific_wins: bool,
}

/// Routes of a set of domains.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// The domains it answers for.
    pub domains: Vec<DomainPattern>,
    /// In order; the first that matches wins.
    pub routes: Vec<Arc<Route>>,
    /// For routes without a policy of their own.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Edits after the route's own.
    pub edits: MessageEdits,
    /// Whether `x-envoy-attempt-count` is sent up.
    pub attempt_count_in_request: bool,
    /// Whether it is sent down.
    pub attempt_count_in_response: bool,
}

/// A match and what to do.
#[derive(Debug)]
pub struct Route {
    /// Its name, for logs; may be empty.
    pub name: Arc<str>,
    /// Which requests.
    pub matches: RouteMatch,
    /// What happens.
    pub action: Action,
    /// Edits of the messages, before the virtual host's.
    pub edits: MessageEdits,
    /// The object that asked for the route (`metadata` `istio.config`), for `explain`.
    pub origin: Option<Arc<str>>,
}

/// Which requests a route takes. Source: `RouteMatch`.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    /// On the path.
    pub path: PathMatch,
    /// All must hold.
    pub headers: Vec<HeaderMatch>,
    /// All must hold.
    pub query: Vec<QueryMatch>,
    /// Takes only a share of what matches. Source: `runtime_fraction`.
    pub share: Option<Fraction>,
    /// Whether only gRPC requests match.
    pub grpc: bool,
}

/// A condition on the path, without the query. Those of letters only compare case if
/// `case_sensitive`.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The path starts with this text.
    Prefix {
        /// The text; `/` matches all.
        prefix: Bytes,
        /// Whether case counts.
        case_sensitive: bool,
    },
    /// The path starts with this text, and a `/` or the end follows.
    SegmentPrefix {
        /// The text, without a trailing `/`.
        prefix: Bytes,
        /// Whether case counts.
        case_sensitive: bool,
    },
    /// The path is this text.
    Exact {
        /// The text.
        path: Bytes,
        /// Whether case counts.
        case_sensitive: bool,
    },
    /// The whole path matches.
    Regex(FullRegex),
    /// CONNECT requests, whatever their path.
    Connect,
}

impl PathMatch {
    /// Whether a request's path (without query) matches.
    #[must_use]
    pub fn is_match(&self, head: &RequestHead, path: &[u8]) -> bool {
        match self {
            Self::Prefix {
                prefix,
                case_sensitive,
            } => starts_with(path, prefix, *case_sensitive),
            Self::SegmentPrefix {
                prefix,
                case_sensitive,
            } => {
                starts_with(path, prefix, *case_sensitive)
                    && matches!(path.get(prefix.len()), None | Some(b'/'))
            }
            Self::Exact {
                path: wanted,
                case_sensitive: true,
            } => wanted == path,
            Self::Exact {
                path: wanted,
                case_sensitive: false,
            } => wanted.eq_ignore_ascii_case(path),
            Self::Regex(regex) => regex.is_match(path),
            Self::Connect => head.method == remora_http::Method::Connect,
        }
    }

    /// How much of a matching path a prefix rewrite replaces. Unit: bytes.
    #[must_use]
    pub fn matched_len(&self, path: &[u8]) -> usize {
        match self {
            Self::Prefix { prefix, .. } | Self::SegmentPrefix { prefix, .. } => prefix.len(),
            Self::Exact { .. } | Self::Regex(_) => path.len(),
            Self::Connect => 0,
        }
    }
}

fn starts_with(text: &[u8], prefix: &[u8], case_sensitive: bool) -> bool {
    text.get(..prefix.len()).is_some_and(|head| {
        if case_sensitive {
            head == prefix
        } else {
            head.eq_ignore_ascii_case(prefix)
        }
    })
}

impl RouteMatch {
    /// Whether a request matches. `random` decides shares; it should differ for each request.
    #[must_use]
    pub fn is_match(&self, head: &RequestHead, random: u64) -> bool {
        self.path.is_match(head, head.path_only())
            && (!self.grpc || is_grpc(head))
            && self.headers.iter().all(|header| header.is_match(head))
            && (self.query.is_empty() || {
                let query = head.query().unwrap_or_default();
                self.query.iter().all(|parameter| parameter.is_match(query))
            })
            && self.share.is_none_or(|share| share.selects(random))
    }
}

/// Whether a request is gRPC: `content-type: application/grpc`, alone or with `+…` or `;…`.
#[must_use]
pub fn is_grpc(head: &RequestHead) -> bool {
    head.headers
        .get(&remora_http::HeaderName::CONTENT_TYPE)
        .is_some_and(|value| {
            value
                .strip_prefix(b"application/grpc".as_slice())
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
}

/// Two virtual hosts claim the same domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("domain `{domain}` is claimed by virtual hosts `{first}` and `{second}`")]
pub struct DuplicateDomain {
    /// The domain as configured.
    pub domain: String,
    /// Who had it.
    pub first: Arc<str>,
    /// Who wants it too.
    pub second: Arc<str>,
}

impl RouteTable {
    /// Builds a table and its index.
    ///
    /// # Errors
    /// If two virtual hosts claim the same domain.
    pub fn try_new(
        name: RouteName,
        virtual_hosts: Vec<Arc<VirtualHost>>,
        ignore_port: bool,
    ) -> Result<Self, DuplicateDomain> {
        let domains = DomainIndex::try_new(&virtual_hosts)?;
        Ok(Self {
            name,
            virtual_hosts,
            domains,
            ignore_port,
            edits: MessageEdits::default(),
            most_specific_wins: false,
        })
    }

    /// The table's name.
    #[must_use]
    pub const fn name(&self) -> &RouteName {
        &self.name
    }

    /// All virtual hosts, in order.
    #[must_use]
    pub fn virtual_hosts(&self) -> &[Arc<VirtualHost>] {
        &self.virtual_hosts
    }

    /// The virtual host of an authority, as it came (case and port included).
    #[must_use]
    pub fn virtual_host(&self, authority: &[u8]) -> Option<&Arc<VirtualHost>> {
        let host = if self.ignore_port {
            without_port(authority)
        } else {
            authority
        };
        let at = if host.iter().any(u8::is_ascii_uppercase) {
            self.domains.find(&host.to_ascii_lowercase())
        } else {
            self.domains.find(host)
        }?;
        self.virtual_hosts.get(at)
    }

    /// The route of a request.
    #[must_use]
    pub fn route(
        &self,
        head: &RequestHead,
        random: u64,
    ) -> Option<(&Arc<VirtualHost>, &Arc<Route>)> {
        let host = self.virtual_host(&head.authority)?;
        let route = host
            .routes
            .iter()
            .find(|route| route.matches.is_match(head, random))?;
        Some((host, route))
    }
}

/// An authority without its port; the brackets of an IPv6 literal stay.
fn without_port(authority: &[u8]) -> &[u8] {
    let Some(colon) = authority.iter().rposition(|b| *b == b':') else {
        return authority;
    };
    let (host, port) = (authority.get(..colon), authority.get(colon + 1..));
    match (host, port) {
        (Some(host), Some(port)) if port.iter().all(u8::is_ascii_digit) => host,
        _ => authority,
    }
}

/// Domains by kind; suffixes and prefixes by their length, longest first.
#[derive(Debug, Default)]
struct DomainIndex {
    exact: FxHashMap<Bytes, usize>,
    suffixes: Vec<(usize, FxHashMap<Bytes, usize>)>,
    prefixes: Vec<(usize, FxHashMap<Bytes, usize>)>,
    any: Option<usize>,
}

impl DomainIndex {
    fn try_new(hosts: &[Arc<VirtualHost>]) -> Result<Self, DuplicateDomain> {
        let mut index = Self::default();
        for (at, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                if let Some(first) = index.insert(domain, at) {
                    return Err(DuplicateDomain {
                        domain: domain.to_string(),
                        first: hosts
                            .get(first)
                            .map_or_else(|| "".into(), |h| Arc::clone(&h.name)),
                        second: Arc::clone(&host.name),
                    });
                }
            }
        }
        index
            .suffixes
            .sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        index
            .prefixes
            .sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        Ok(index)
    }

    /// Enters a domain; tells who had it.
    fn insert(&mut self, domain: &DomainPattern, at: usize) -> Option<usize> {
        let key = |text: &Arc<str>| Bytes::copy_from_slice(text.as_bytes());
        match domain {
            DomainPattern::Exact(name) => self.exact.insert(key(name), at),
            DomainPattern::Suffix(text) => {
                by_length(&mut self.suffixes, text.len()).insert(key(text), at)
            }
            DomainPattern::Prefix(text) => {
                by_length(&mut self.prefixes, text.len()).insert(key(text), at)
            }
            DomainPattern::Any => self.any.replace(at),
        }
    }

    fn find(&self, host: &[u8]) -> Option<usize> {
        if let Some(at) = self.exact.get(host) {
            return Some(*at);
        }
        let tail = |len: usize| {
            host.len()
                .checked_sub(len)
                .and_then(|from| host.get(from..))
        };
        let suffix = self.suffixes.iter().filter(|(len, _)| *len < host.len());
        let prefix = self.prefixes.iter().filter(|(len, _)| *len < host.len());
        suffix
            .filter_map(|(len, map)| map.get(tail(*len)?))
            .chain(prefix.filter_map(|(len, map)| map.get(host.get(..*len)?)))
            .next()
            .copied()
            .or(self.any)
    }
}

fn by_length(
    groups: &mut Vec<(usize, FxHashMap<Bytes, usize>)>,
    len: usize,
) -> &mut FxHashMap<Bytes, usize> {
    let at = groups
        .iter()
        .position(|(have, _)| *have == len)
        .unwrap_or_else(|| {
            groups.push((len, FxHashMap::default()));
            groups.len() - 1
        });
    &mut groups[at].1
}

#[cfg(test)]
#[path = "route/tests.rs"]
mod tests;
