// SPDX-License-Identifier: Apache-2.0
//! Names of metrics, and how one name becomes a stat and a Prometheus series.
//!
//! A stat name is its scope and its own name, joined by dots: `cluster.sms.upstream_rq_503`. For
//! Prometheus what varies in it becomes a label, as Envoy's default tags do:
//! `envoy_cluster_upstream_rq{envoy_cluster_name="sms",envoy_response_code="503"}`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

/// What a scope's name names: it decides the stat's prefix and the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeKind {
    /// A part of the program: `server`, `cluster_manager`, `control_plane`. No label.
    Plain,
    /// `cluster.<cluster>.`; label `envoy_cluster_name`.
    Cluster,
    /// `http.<stat prefix>.`; label `envoy_http_conn_manager_prefix`.
    Http,
    /// `tcp.<stat prefix>.`; label `envoy_tcp_prefix`.
    Tcp,
    /// `listener.<address>.`; label `envoy_listener_address`.
    Listener,
}

impl ScopeKind {
    /// First part of the stat name, and the label; `None` for plain scopes.
    const fn parts(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Plain => None,
            Self::Cluster => Some(("cluster", "envoy_cluster_name")),
            Self::Http => Some(("http", "envoy_http_conn_manager_prefix")),
            Self::Tcp => Some(("tcp", "envoy_tcp_prefix")),
            Self::Listener => Some(("listener", "envoy_listener_address")),
        }
    }
}

/// A metric's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MetricName {
    pub(crate) kind: ScopeKind,
    /// Without colons, as in Envoy: `10.0.0.1:80` reads `10.0.0.1_80`.
    pub(crate) scope: Arc<str>,
    pub(crate) own: Cow<'static, str>,
}

/// A scope's name as it appears in stats.
pub(crate) fn scope_name(name: &str) -> Arc<str> {
    name.replace(':', "_").into()
}

impl MetricName {
    /// The dotted name.
    pub(crate) fn stat(&self) -> String {
        match self.kind.parts() {
            Some((first, _)) => format!("{first}.{}.{}", self.scope, self.own),
            None => format!("{}.{}", self.scope, self.own),
        }
    }

    /// The Prometheus family and its labels, `{}` included; empty without labels.
    pub(crate) fn series(&self) -> (String, Labels) {
        let (stem, code) = split_code(&self.own);
        let mut labels = Labels::default();
        let first = match self.kind.parts() {
            Some((first, label)) => {
                labels.push(label, &self.scope);
                first
            }
            None => &self.scope,
        };
        if let Some((label, value)) = code {
            labels.push(label, value);
        }
        let family = format!("envoy_{first}_{stem}");
        (
            family.replace(|c: char| !(c.is_ascii_alphanumeric() || c == '_'), "_"),
            labels,
        )
    }
}

/// Splits `…_rq_503` and `…_rq_5xx` into the name that all codes share and the label that tells
/// them apart.
fn split_code(name: &str) -> (Cow<'_, str>, Option<(&'static str, &str)>) {
    if let Some((stem, code)) = name
        .rsplit_once('_')
        .filter(|(stem, _)| stem.ends_with("_rq"))
    {
        let is_code = code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit());
        if is_code {
            return (stem.into(), Some(("envoy_response_code", code)));
        }
        if let Some(class @ ("1" | "2" | "3" | "4" | "5")) = code.strip_suffix("xx") {
            return (
                format!("{stem}_xx").into(),
                Some(("envoy_response_code_class", class)),
            );
        }
    }
    (name.into(), None)
}

/// Labels of a series, rendered and escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Labels(String);

impl Labels {
    pub(crate) fn push(&mut self, label: &str, value: &str) {
        let separator = if self.0.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{separator}{label}=\"");
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, "{{{}}}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_stats_and_series_as_in_envoy() {
        use ScopeKind::{Cluster, Http, Listener, Plain, Tcp};
        let table = [
            (
                (Cluster, "outbound|80|v1|sms.shop", "upstream_rq_total"),
                "cluster.outbound|80|v1|sms.shop.upstream_rq_total",
                r#"envoy_cluster_upstream_rq_total{envoy_cluster_name="outbound|80|v1|sms.shop"}"#,
            ),
            (
                (Cluster, "a", "upstream_rq_2xx"),
                "cluster.a.upstream_rq_2xx",
                r#"envoy_cluster_upstream_rq_xx{envoy_cluster_name="a",envoy_response_code_class="2"}"#,
            ),
            (
                (Cluster, "a", "upstream_rq_503"),
                "cluster.a.upstream_rq_503",
                r#"envoy_cluster_upstream_rq{envoy_cluster_name="a",envoy_response_code="503"}"#,
            ),
            (
                (Cluster, "a", "outlier_detection.ejections_active"),
                "cluster.a.outlier_detection.ejections_active",
                r#"envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name="a"}"#,
            ),
            (
                (Http, "out", "downstream_rq_4xx"),
                "http.out.downstream_rq_4xx",
                r#"envoy_http_downstream_rq_xx{envoy_http_conn_manager_prefix="out",envoy_response_code_class="4"}"#,
            ),
            (
                (Listener, "[::1]:80", "downstream_cx_total"),
                "listener.[__1]_80.downstream_cx_total",
                r#"envoy_listener_downstream_cx_total{envoy_listener_address="[__1]_80"}"#,
            ),
            (
                (Tcp, "p\"q\\\n", "downstream_cx_total"),
                "tcp.p\"q\\\n.downstream_cx_total",
                r#"envoy_tcp_downstream_cx_total{envoy_tcp_prefix="p\"q\\\n"}"#,
            ),
            (
                (Plain, "server", "live"),
                "server.live",
                "envoy_server_live",
            ),
            (
                (Cluster, "a", "upstream_rq_retry"),
                "cluster.a.upstream_rq_retry",
                r#"envoy_cluster_upstream_rq_retry{envoy_cluster_name="a"}"#,
            ),
        ];
        for ((kind, scope, own), stat, series) in table {
            let name = MetricName {
                kind,
                scope: scope_name(scope),
                own: own.into(),
            };
            let (family, labels) = name.series();
            assert_eq!(name.stat(), stat);
            assert_eq!(format!("{family}{labels}"), series);
        }
    }
}
