// SPDX-License-Identifier: Apache-2.0
//! All cases' configuration as one bootstrap file.
//!
//! A case writes YAML with these keys, all optional; `$` stands for what is its own (`c12-`):
//!
//! * `routes`: of its virtual host `$test`; `virtual_host`: further fields of it;
//!   `virtual_hosts`: more of them, whole;
//! * `clusters`: by name, fields of Envoy's `Cluster`; `hosts: [1, 2]` makes the load assignment from the
//!   case's backends and `http2: true` has them spoken to in HTTP/2;
//! * `http`: more HTTP listeners by port, with fields of `HttpConnectionManager`; they serve all
//!   routes;
//! * `tcp`: TCP listeners by port, with fields of `TcpProxy`;
//! * `listeners`: whole ones.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use super::case::Case;

/// Where both subjects serve their admin pages.
pub(crate) const ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 9901);

/// Writes the bootstrap of these cases, which log to files in `folder`.
pub(crate) fn compose(cases: &[(usize, &Case)], folder: &Path) -> anyhow::Result<String> {
    let mut parts = Parts::default();
    for (number, case) in cases {
        parts
            .add(*number, case.config)
            .with_context(|| format!("configuration of `{}`", case.name))?;
    }
    let routes = json!({
        "name": "all",
        "validate_clusters": false,
        "virtual_hosts": parts.virtual_hosts,
    });
    let mut listeners = vec![http_listener(10_000, &json!({}), &routes, folder)?];
    for (port, fields) in &parts.http {
        listeners.push(http_listener(*port, fields, &routes, folder)?);
    }
    listeners.extend(parts.listeners);
    let bootstrap = json!({
        "node": {"id": "conformance", "cluster": "conformance"},
        "admin": {"address": socket_address(ADMIN.0, ADMIN.1)},
        "static_resources": {"listeners": listeners, "clusters": parts.clusters},
    });
    // JSON is YAML, and both subjects read it.
    Ok(format!("{bootstrap:#}\n"))
}

#[derive(Debug, Default)]
struct Parts {
    virtual_hosts: Vec<Value>,
    clusters: Vec<Value>,
    http: Vec<(u16, Value)>,
    listeners: Vec<Value>,
}

impl Parts {
    fn add(&mut self, number: usize, config: &str) -> anyhow::Result<()> {
        let own = format!("c{number}-");
        let config: Value = serde_saphyr::from_str(&config.replace('$', &own))?;
        let Value::Object(keys) = config else {
            bail!("expected a mapping");
        };
        let mut virtual_host = json!({"name": own, "domains": [format!("{own}test")]});
        for (key, value) in keys {
            match key.as_str() {
                "routes" => virtual_host["routes"] = value,
                "virtual_host" => merge(&mut virtual_host, &value),
                "virtual_hosts" => self.virtual_hosts.extend(list(value)?),
                "clusters" => {
                    for (name, fields) in mapping(value)? {
                        self.clusters
                            .push(cluster(number, &format!("{own}{name}"), fields)?);
                    }
                }
                "http" => {
                    for (port, fields) in mapping(value)? {
                        self.http.push((port.parse()?, fields));
                    }
                }
                "tcp" => {
                    for (port, fields) in mapping(value)? {
                        self.listeners.push(tcp_listener(port.parse()?, fields));
                    }
                }
                "listeners" => self.listeners.extend(list(value)?),
                _ => bail!("unknown key `{key}`"),
            }
        }
        self.virtual_hosts.push(virtual_host);
        Ok(())
    }
}

fn mapping(value: Value) -> anyhow::Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        other => bail!("expected a mapping, found {other}"),
    }
}

fn list(value: Value) -> anyhow::Result<Vec<Value>> {
    match value {
        Value::Array(list) => Ok(list),
        other => bail!("expected a list, found {other}"),
    }
}

fn merge(into: &mut Value, fields: &Value) {
    for (key, value) in fields.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn cluster(number: usize, name: &str, mut fields: Value) -> anyhow::Result<Value> {
    let map = fields.as_object_mut().context("a cluster is a mapping")?;
    let hosts = map.remove("hosts");
    let is_http2 = map.remove("http2").is_some();
    let mut cluster = json!({"name": name, "type": "STATIC", "connect_timeout": "1s"});
    if let Some(hosts) = hosts {
        let endpoints = list(hosts)?.into_iter().map(|host| {
            let address = format!("127.1.{number}.{host}");
            let address = json!({"socket_address": {"address": address, "port_value": 80}});
            json!({"endpoint": {"address": address}})
        });
        let endpoints: Vec<_> = endpoints.collect();
        cluster["load_assignment"] =
            json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]});
    }
    if is_http2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    merge(&mut cluster, &fields);
    Ok(cluster)
}

fn http_listener(
    port: u16,
    fields: &Value,
    routes: &Value,
    folder: &Path,
) -> anyhow::Result<Value> {
    let own_format = folder.join("access.log");
    let default_format = folder.join("default.log");
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "conformance",
        "route_config": routes,
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
        "access_log": [
            file_log(&own_format, Some(LOG_FORMAT))?,
            file_log(&default_format, None)?,
        ],
    });
    merge(&mut manager, fields);
    let filter =
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    Ok(json!({
        "name": format!("http-{port}"),
        "address": socket_address([127, 0, 0, 1], port),
        "filter_chains": [{"filters": [filter]}],
    }))
}

fn tcp_listener(port: u16, fields: Value) -> Value {
    let mut proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "conformance",
    });
    merge(&mut proxy, &fields);
    json!({
        "name": format!("tcp-{port}"),
        "address": socket_address([127, 0, 0, 1], port),
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}],
    })
}

fn socket_address(ip: [u8; 4], port: u16) -> Value {
    let address = std::net::Ipv4Addr::from(ip).to_string();
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn file_log(path: &Path, format: Option<&str>) -> anyhow::Result<Value> {
    let path = path.to_str().context("a path is text")?;
    let mut log = json!({
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path,
    });
    if let Some(format) = format {
        log["log_format"] = json!({"text_format_source": {"inline_string": format}});
    }
    Ok(json!({"name": "envoy.access_loggers.file", "typed_config": log}))
}

/// What [`super::case::LogLine`] reads. The path is the one that the client asked for.
const LOG_FORMAT: &str = "host=%REQ(X-ENVOY-ORIGINAL-HOST?:AUTHORITY)% \
    path=%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% method=%REQ(:METHOD)% protocol=%PROTOCOL% \
    code=%RESPONSE_CODE% flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% \
    received=%BYTES_RECEIVED% sent=%BYTES_SENT% upstream=%UPSTREAM_HOST% \
    cluster=%UPSTREAM_CLUSTER% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% route=%ROUTE_NAME%\n";
