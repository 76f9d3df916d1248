// SPDX-License-Identifier: Apache-2.0
//! Bootstrap files: YAML or JSON text to the `Bootstrap` message, as Envoy reads it.
//!
//! Only the form is checked here: unknown fields, kinds of values, enum words, each with its
//! path. What of it is honoured is for `translate` to say.

use prost::{Message as _, Name as _};

use crate::bootstrap::Bootstrap;
use crate::json::{self, JsonError};

/// Why a text is no bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The text is neither YAML nor JSON; the finding has line and column.
    #[error("parse bootstrap: {0}")]
    Syntax(String),
    /// It is well formed but not a mapping at the top.
    #[error("bootstrap is not a mapping of fields")]
    NotAMapping,
    /// A field is unknown or of another kind.
    #[error("bootstrap: {0}")]
    Field(#[from] JsonError),
    /// The message made from it could not be read back. Cannot happen with matching descriptors.
    #[error("bootstrap")]
    Decode(#[from] prost::DecodeError),
}

/// Reads a bootstrap from YAML, of which JSON is a part.
///
/// # Errors
/// If the text does not parse (duplicate keys included), or if a field is unknown or of the
/// wrong kind; the error names the field's path.
pub fn read(text: &str) -> Result<Bootstrap, BootstrapError> {
    let value: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|e| BootstrapError::Syntax(e.to_string()))?;
    if !value.is_object() {
        return Err(BootstrapError::NotAMapping);
    }
    let bytes = json::from_json(&Bootstrap::type_url(), &value)?;
    Ok(Bootstrap::decode(bytes.as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
node: { id: sidecar~10.0.0.1~app.shop~shop.svc.cluster.local, cluster: app.shop }
admin:
  address: { socket_address: { address: 127.0.0.1, port_value: 15000 } }
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{ envoy_grpc: { cluster_name: xds } }]
  cds_config: { ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3 }
static_resources:
  clusters:
  - name: xds
    connect_timeout: 1s
    type: STRICT_DNS
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
"#;

    #[test]
    fn yaml_and_json_give_the_same_bootstrap() {
        let from_yaml = read(YAML).expect("valid YAML");
        let value: serde_json::Value = serde_saphyr::from_str(YAML).expect("valid YAML");
        assert_eq!(read(&value.to_string()).expect("valid JSON"), from_yaml);
        let node = from_yaml.node.expect("has a node");
        assert_eq!(node.cluster, "app.shop");
        let clusters = from_yaml
            .static_resources
            .expect("has static resources")
            .clusters;
        assert_eq!(clusters[0].typed_extension_protocol_options.len(), 1);
    }

    #[test]
    fn faults_are_told_with_their_place() {
        let table = [
            (
                "static_resources: {clusters: [{nmae: x}]}",
                "static_resources.clusters[0]",
            ),
            (
                "admin: {address: {socket_address: {port_value: true}}}",
                "port_value",
            ),
            ("node: [", "parse bootstrap"),
            ("node: {id: a, id: b}", "parse bootstrap"),
            ("just words", "not a mapping"),
            ("", "not a mapping"),
        ];
        for (text, expected) in table {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
