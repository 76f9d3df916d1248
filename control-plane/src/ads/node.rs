// SPDX-License-Identifier: Apache-2.0
//! Who asks: a node's identity, and the scope that its resources depend on.
//!
//! Source: `envoy.config.core.v3.Node`, with the id and the metadata as Istio's agents write them
//! (`sidecar~10.0.0.1~page.shop~shop.svc.cluster.local`; `NAMESPACE`, `INSTANCE_IPS`, `LABELS`).
//! A node that does not say clearly who it is gets nothing: a wrong guess would hand it another
//! workload's configuration.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use remora_compile::{MeshSettings, Scope};
use remora_model::{Labels, Locality, Namespace};
use remora_xds_types::core::Node;
use remora_xds_types::protobuf::value::Kind;
use remora_xds_types::protobuf::{Struct, Value};

/// A node that said who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The id as it was sent.
    pub id: String,
    /// `Node.cluster`: for people; may be empty.
    pub cluster: String,
    /// Program and version (`Node.user_agent_name`); may be empty.
    pub agent: String,
    /// What its resources depend on.
    pub scope: Scope,
}

/// Why a node cannot be served. Each message names what was found and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The first request has no node.
    #[error("the first request of the stream carries no node")]
    Missing,
    /// The id does not have four parts.
    #[error("node id `{0}`: expected `sidecar~<ip>~<name>.<namespace>~<domain>`")]
    Malformed(String),
    /// A kind of proxy that is not served.
    #[error("node id `{id}`: type `{found}` is not served, expected `sidecar`")]
    Type {
        /// The id.
        id: String,
        /// Its first part.
        found: String,
    },
    /// Something that should be an IP address is none.
    #[error("node id `{id}`: `{found}` in {place} is no IP address")]
    Address {
        /// The id.
        id: String,
        /// What was found.
        found: String,
        /// `the id` or `INSTANCE_IPS`.
        place: &'static str,
    },
    /// Neither the id nor the metadata has an address.
    #[error("node id `{0}`: no address, neither in the id nor in the metadata `INSTANCE_IPS`")]
    NoAddress(String),
    /// The namespace is missing or malformed.
    #[error("node id `{id}`: namespace `{found}` is no namespace")]
    Namespace {
        /// The id.
        id: String,
        /// What was found; may be empty.
        found: String,
    },
}

impl NodeIdentity {
    /// Reads a node.
    ///
    /// # Errors
    /// If it does not say which workload of which namespace it serves, or contradicts itself.
    pub fn read(node: &Node, settings: &Arc<MeshSettings>) -> Result<Self, NodeError> {
        let id = cut(&node.id);
        let mut parts = node.id.split('~');
        let (Some(kind), Some(ip), Some(name), Some(domain), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(NodeError::Malformed(id));
        };
        if kind != "sidecar" {
            return Err(NodeError::Type {
                id,
                found: kind.to_owned(),
            });
        }
        let addresses = addresses(&id, ip, node.metadata.as_ref())?;
        let namespace = namespace(&id, name, domain, node.metadata.as_ref())?;
        let scope = Scope {
            labels: labels(node.metadata.as_ref()),
            locality: locality(node),
            addresses,
            settings: Arc::clone(settings),
            ..Scope::new(namespace)
        };
        let (cluster, agent) = (cut(&node.cluster), cut(&node.user_agent_name));
        Ok(Self {
            id,
            cluster,
            agent,
            scope,
        })
    }
}

/// The address of the id, which may be left out, and those of the metadata.
fn addresses(id: &str, ip: &str, metadata: Option<&Struct>) -> Result<BTreeSet<IpAddr>, NodeError> {
    let listed = text(metadata, "INSTANCE_IPS").unwrap_or_default();
    let all = std::iter::once((ip, "the id")).chain(
        listed
            .split(',')
            .map(|listed| (listed.trim(), "INSTANCE_IPS")),
    );
    let mut addresses = BTreeSet::new();
    for (found, place) in all.filter(|(found, _)| !found.is_empty()) {
        let malformed = |_| NodeError::Address {
            id: id.to_owned(),
            found: cut(found),
            place,
        };
        addresses.insert(found.parse().map_err(malformed)?);
    }
    if addresses.is_empty() {
        return Err(NodeError::NoAddress(id.to_owned()));
    }
    Ok(addresses)
}

/// The namespace of the metadata, else that of the name, else that of the domain.
fn namespace(
    id: &str,
    name: &str,
    domain: &str,
    metadata: Option<&Struct>,
) -> Result<Namespace, NodeError> {
    let of_name = || name.rsplit_once('.').map(|(_, namespace)| namespace);
    let of_domain = || domain.split_once(".svc").map(|(namespace, _)| namespace);
    let found = text(metadata, "NAMESPACE")
        .or_else(of_name)
        .or_else(of_domain)
        .unwrap_or_default();
    Namespace::try_new(found).map_err(|_| NodeError::Namespace {
        id: id.to_owned(),
        found: cut(found),
    })
}

fn labels(metadata: Option<&Struct>) -> Labels {
    let Some(Value {
        kind: Some(Kind::StructValue(labels)),
    }) = field(metadata, "LABELS")
    else {
        return Labels::default();
    };
    let text_of = |value: &Value| match &value.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    };
    let pairs = labels.fields.iter();
    pairs
        .filter_map(|(name, value)| Some((name.as_str(), text_of(value)?)))
        .collect()
}

fn locality(node: &Node) -> Locality {
    let known = node.locality.clone().unwrap_or_default();
    Locality {
        region: known.region.into(),
        zone: known.zone.into(),
        sub_zone: known.sub_zone.into(),
    }
}

fn text<'a>(metadata: Option<&'a Struct>, name: &str) -> Option<&'a str> {
    match &field(metadata, name)?.kind {
        Some(Kind::StringValue(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn field<'a>(metadata: Option<&'a Struct>, name: &str) -> Option<&'a Value> {
    metadata?.fields.get(name)
}

/// What a peer said, no longer than a log line bears.
fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_TEXT_BYTES))
        .unwrap_or_default()
        .to_owned()
}

/// Longest text of a node that is repeated in messages. Unit: bytes.
const MAX_TEXT_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Value {
        Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        }
    }

    fn node(id: &str, metadata: &[(&str, Value)]) -> Node {
        let fields = metadata
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let metadata = (!metadata.is_empty()).then(|| Struct {
            fields: fields.collect(),
        });
        Node {
            id: id.to_owned(),
            metadata,
            ..Node::default()
        }
    }

    fn read(node: &Node) -> Result<NodeIdentity, NodeError> {
        NodeIdentity::read(node, &Arc::default())
    }

    #[test]
    fn an_istio_id_says_address_and_namespace() {
        let identity = read(&node(
            "sidecar~10.1.2.3~page-7f.shop~shop.svc.cluster.local",
            &[],
        ))
        .expect("good");
        assert_eq!(identity.scope.namespace.as_str(), "shop");
        let addresses: Vec<_> = identity
            .scope
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses, ["10.1.2.3"]);
    }

    #[test]
    fn metadata_adds_addresses_and_labels_and_decides_the_namespace() {
        let labels = Struct {
            fields: [("app".to_owned(), string("page"))].into(),
        };
        let metadata = [
            ("NAMESPACE", string("other")),
            ("INSTANCE_IPS", string("10.1.2.3, fd00::3")),
            (
                "LABELS",
                Value {
                    kind: Some(Kind::StructValue(labels)),
                },
            ),
        ];
        let identity = read(&node("sidecar~10.1.2.3~page.shop~x", &metadata)).expect("good");
        assert_eq!(identity.scope.namespace.as_str(), "other");
        assert_eq!(identity.scope.addresses.len(), 2);
        assert_eq!(identity.scope.labels.value("app"), Some("page"));
    }

    #[test]
    fn the_address_may_come_from_the_metadata_alone() {
        let metadata = [("INSTANCE_IPS", string("fd00::1"))];
        assert!(read(&node("sidecar~~page.shop~shop.svc", &metadata)).is_ok());
    }

    #[test]
    fn a_name_without_a_namespace_has_that_of_the_domain() {
        let identity = read(&node("sidecar~10.0.0.1~page~shop.svc.cluster.local", &[]));
        assert_eq!(identity.expect("good").scope.namespace.as_str(), "shop");
    }

    /// Id, metadata, what the refusal says.
    type Refused<'a> = (&'a str, &'a [(&'a str, Value)], &'a str);

    #[test]
    fn unclear_nodes_are_refused_by_name() {
        let table: [Refused<'_>; 9] = [
            ("", &[], "expected `sidecar~<ip>"),
            ("page", &[], "node id `page`: expected"),
            ("sidecar~10.0.0.1~page.shop", &[], "expected `sidecar~<ip>"),
            (
                "sidecar~10.0.0.1~page.shop~d~e",
                &[],
                "expected `sidecar~<ip>",
            ),
            (
                "router~10.0.0.1~gw.shop~shop.svc",
                &[],
                "type `router` is not served",
            ),
            (
                "sidecar~10.0.0~page.shop~shop.svc",
                &[],
                "`10.0.0` in the id is no IP address",
            ),
            ("sidecar~~page.shop~shop.svc", &[], "no address"),
            (
                "sidecar~10.0.0.1~page~nowhere",
                &[],
                "namespace `` is no namespace",
            ),
            (
                "sidecar~10.0.0.1~page.shop~shop.svc",
                &[("INSTANCE_IPS", string("10.0.0.1,x"))],
                "`x` in INSTANCE_IPS is no IP address",
            ),
        ];
        for (id, metadata, expected) in table {
            let error = read(&node(id, metadata)).expect_err(id).to_string();
            assert!(error.contains(expected), "{id}: {error}");
        }
        let upper = read(&node("sidecar~10.0.0.1~page.Shop~x", &[])).expect_err("upper case");
        assert!(upper.to_string().contains("namespace `Shop`"));
    }
}
