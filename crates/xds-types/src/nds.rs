// SPDX-License-Identifier: Apache-2.0
//! Istio's DNS table, written by hand: the generated crate has none of Istio's own messages.
//! The `.proto` beside this crate says the same for the JSON form.

use std::collections::BTreeMap;

/// The names that a proxy's DNS answers by itself. Source: `istio.networking.nds.v1.NameTable`.
///
/// The map is ordered, so that equal tables have equal bytes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NameTable {
    /// Host name (or wildcard `*.x`), without a trailing dot, to what it stands for.
    #[prost(btree_map = "string, message", tag = "1")]
    pub table: BTreeMap<String, NameInfo>,
}

/// What one name stands for. Source: `istio.networking.nds.v1.NameTable.NameInfo`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NameInfo {
    /// IPv4 and IPv6 literals.
    #[prost(string, repeated, tag = "1")]
    pub ips: Vec<String>,
    /// Where the name comes from, `Kubernetes` or `External`.
    #[prost(string, tag = "2")]
    pub registry: String,
    /// The service's name without namespace and domain; empty for external hosts.
    #[prost(string, tag = "3")]
    pub shortname: String,
    /// The namespace; empty for external hosts.
    #[prost(string, tag = "4")]
    pub namespace: String,
    /// Further names. Deprecated in the API; read, never written by us.
    #[prost(string, repeated, tag = "5")]
    pub alt_hosts: Vec<String>,
}

impl prost::Name for NameTable {
    const NAME: &'static str = "NameTable";
    const PACKAGE: &'static str = "istio.networking.nds.v1";

    fn full_name() -> String {
        "istio.networking.nds.v1.NameTable".into()
    }

    fn type_url() -> String {
        crate::ResourceType::NameTable.url().into()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// One length-delimited field.
    fn field(tag: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![
            tag << 3 | 2,
            u8::try_from(payload.len()).expect("short field"),
        ];
        out.extend_from_slice(payload);
        out
    }

    /// Two entries with Istio's layout: an external host, and a cluster service that has the
    /// short name and namespace.
    fn recorded_shape() -> Vec<u8> {
        let external = [field(1, b"240.10.0.1"), field(2, b"External")].concat();
        let kubernetes = [
            field(1, b"10.200.0.1"),
            field(2, b"Kubernetes"),
            field(3, b"kubernetes"),
            field(4, b"default"),
        ]
        .concat();
        let entry = |name: &[u8], info: &[u8]| field(1, &[field(1, name), field(2, info)].concat());
        [
            entry(b"app.default.svc.cluster.local", &external),
            entry(b"kubernetes.default.svc.cluster.local", &kubernetes),
        ]
        .concat()
    }

    #[test]
    fn istios_table_is_read_and_written_byte_for_byte() {
        let wire = recorded_shape();
        let table = NameTable::decode(wire.as_slice()).expect("well formed");
        let app = &table.table["app.default.svc.cluster.local"];
        assert_eq!(
            (app.ips.as_slice(), app.registry.as_str()),
            (&["240.10.0.1".into()][..], "External")
        );
        let api = &table.table["kubernetes.default.svc.cluster.local"];
        assert_eq!(
            (api.shortname.as_str(), api.namespace.as_str()),
            ("kubernetes", "default")
        );
        assert_eq!(table.encode_to_vec(), wire);
    }

    #[test]
    fn the_descriptor_agrees_with_the_hand_written_message() {
        let json = crate::json::to_json(crate::ResourceType::NameTable.url(), &recorded_shape())
            .expect("known type");
        assert_eq!(
            json["table"]["app.default.svc.cluster.local"]["ips"][0],
            "240.10.0.1"
        );
        let back = crate::json::from_json(crate::ResourceType::NameTable.url(), &json);
        assert_eq!(
            NameTable::decode(back.expect("valid").as_slice()),
            NameTable::decode(recorded_shape().as_slice())
        );
    }
}
