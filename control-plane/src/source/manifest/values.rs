// SPDX-License-Identifier: Apache-2.0
//! Small values that several kinds share: durations, hosts, labels, protocols, visibilities.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use remora_model::{Host, Labels, Namespace, Protocol, Visibility};
use remora_primitives::{HostName, Percent};

use super::fields::{Field, Fields};

/// Where short names are completed: the namespace and domain of the object that writes them.
#[derive(Clone, Debug)]
pub struct Home {
    /// The object's namespace.
    pub namespace: Namespace,
    /// The cluster's domain (`cluster.local`).
    pub domain: Arc<str>,
}

impl Home {
    /// The full name of a service of a namespace.
    #[must_use]
    pub fn service_host(&self, name: &str) -> String {
        format!("{name}.{}.svc.{}", self.namespace, self.domain)
    }

    /// Completes a name without a dot by the namespace and domain, as Istio does; other names,
    /// addresses and `*` stay as they are.
    fn complete(&self, text: &str) -> String {
        if text.contains(['.', ':']) || text == "*" {
            text.to_owned()
        } else {
            self.service_host(text)
        }
    }

    /// Reads a host that may be short or a wildcard.
    #[must_use]
    pub fn host(&self, field: &Field<'_>) -> Option<Host> {
        let text = field.text()?;
        Host::try_new(&self.complete(text))
            .map_err(|error| field.error(error.to_string()))
            .ok()
    }

    /// Reads a host that may be short.
    #[must_use]
    pub fn host_name(&self, field: &Field<'_>) -> Option<HostName> {
        let text = field.text()?;
        let full = self.complete(text);
        HostName::try_new(&full)
            .map_err(|error| field.error(error.to_string()))
            .ok()
    }

    /// Reads `exportTo`.
    #[must_use]
    pub fn visibility(&self, fields: &Fields<'_>) -> Visibility {
        let Some(field) = fields.take("exportTo") else {
            return Visibility::Everyone;
        };
        let mut namespaces = BTreeSet::new();
        let mut everyone = false;
        let items = field.list();
        for item in &items {
            match item.text() {
                Some("*") => everyone = true,
                Some(".") => {
                    namespaces.insert(self.namespace.clone());
                }
                Some("~") | None => {}
                Some(name) => match Namespace::try_new(name) {
                    Ok(namespace) => {
                        namespaces.insert(namespace);
                    }
                    Err(error) => item.error(error.to_string()),
                },
            }
        }
        if everyone || items.is_empty() {
            return Visibility::Everyone;
        }
        Visibility::Namespaces(namespaces)
    }
}

/// Reads a duration (`1.5s`, `500ms`, `1h30m`).
#[must_use]
pub fn duration(field: &Field<'_>) -> Option<Duration> {
    let text = field.text()?;
    let parsed = parse_duration(text);
    if parsed.is_none() {
        field.error(format!(
            "`{text}` is no duration (expected a number with h, m, s, ms or us)"
        ));
    }
    parsed
}

/// Reads a duration that must be at least a millisecond.
#[must_use]
pub fn positive_duration(field: &Field<'_>) -> Option<Duration> {
    let value = duration(field)?;
    if value < Duration::from_millis(1) {
        field.error("duration is too short (expected 1ms or more)");
        return None;
    }
    Some(value)
}

/// Go's spelling of durations, without signs.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_end)?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    let parsed = Duration::try_from_secs_f64(total)
        .ok()
        .filter(|_| !text.is_empty())?;
    // A protobuf duration holds 10,000 years; no setting of a mesh needs more than ten.
    (parsed <= Duration::from_secs(315_360_000)).then_some(parsed)
}

/// Reads a percentage from 0 to 100.
#[must_use]
pub fn percent(field: &Field<'_>) -> Option<Percent> {
    let number = field.number()?;
    Percent::try_new(number)
        .map_err(|error| field.error(error.to_string()))
        .ok()
}

/// Reads labels or a selector.
#[must_use]
pub fn labels(field: &Field<'_>) -> Labels {
    let pairs = field.pairs();
    pairs
        .iter()
        .filter_map(|(name, value)| Some((*name, value.text()?)))
        .collect()
}

/// The protocol of a port: what is declared, else what the port's name starts with, else the
/// number's well-known use, else found out per connection.
#[must_use]
pub fn protocol(declared: Option<&str>, name: &str, number: u16) -> Protocol {
    if let Some(declared) = declared {
        return parse_protocol(declared).unwrap_or(Protocol::Auto);
    }
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return Protocol::GrpcWeb;
    }
    let first = name.split('-').next().unwrap_or_default();
    parse_protocol(first).unwrap_or(match number {
        // SMTP, DNS, MySQL and MongoDB: the first bytes would tell too late, or never.
        25 | 53 | 3306 | 27017 => Protocol::Tcp,
        _ => Protocol::Auto,
    })
}

/// The protocol with this name, as `appProtocol` and Istio's port names write it.
#[must_use]
pub fn parse_protocol(name: &str) -> Option<Protocol> {
    Some(match name.to_ascii_lowercase().as_str() {
        "http" | "http_proxy" | "kubernetes.io/ws" => Protocol::Http,
        "http2" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "grpc-web" => Protocol::GrpcWeb,
        "https" | "kubernetes.io/wss" => Protocol::Https,
        "tls" => Protocol::Tls,
        "tcp" => Protocol::Tcp,
        "mongo" => Protocol::Mongo,
        "mysql" => Protocol::MySql,
        "redis" => Protocol::Redis,
        "udp" => Protocol::Udp,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let table = [
            ("1s", Some(1_000)),
            ("1.5s", Some(1_500)),
            ("250ms", Some(250)),
            ("1h30m", Some(5_400_000)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("-1s", None),
            ("s", None),
            ("1x", None),
            ("1.2.3s", None),
            ("99999999h", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn protocols_follow_declaration_then_name_then_number() {
        let table = [
            (Some("kubernetes.io/h2c"), "tcp-x", 80, Protocol::Http2),
            (Some("made-up"), "http", 80, Protocol::Auto),
            (None, "http", 80, Protocol::Http),
            (None, "http-web", 80, Protocol::Http),
            (None, "HTTP2", 80, Protocol::Http2),
            (None, "grpc-web", 80, Protocol::GrpcWeb),
            (None, "grpc-api", 80, Protocol::Grpc),
            (None, "https-x", 443, Protocol::Https),
            (None, "mysql", 1, Protocol::MySql),
            (None, "", 3306, Protocol::Tcp),
            (None, "web", 80, Protocol::Auto),
            (None, "httpx", 80, Protocol::Auto),
        ];
        for (declared, name, number, expected) in table {
            assert_eq!(
                protocol(declared, name, number),
                expected,
                "{declared:?} {name} {number}"
            );
        }
    }

    #[test]
    fn only_names_without_a_dot_are_completed() {
        let home = Home {
            namespace: Namespace::default(),
            domain: "cluster.local".into(),
        };
        let table = [
            ("sms", "sms.default.svc.cluster.local"),
            ("sms.shop", "sms.shop"),
            ("*", "*"),
            ("*.example.com", "*.example.com"),
            ("::1", "::1"),
        ];
        for (text, expected) in table {
            assert_eq!(home.complete(text), expected);
        }
    }
}
