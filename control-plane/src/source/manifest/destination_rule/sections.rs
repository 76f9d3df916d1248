// SPDX-License-Identifier: Apache-2.0
//! The sections of a traffic policy: load balancer, connection pool, outlier detection, TLS,
//! retry budget.

use remora_model::{
    ConnectionPool, H2Upgrade, KeepAlive, LoadBalancer, LocalityBalancing, OutlierDetection,
    RetryBudget, SimpleBalancer, UpstreamTls, Warmup,
};

use super::super::fields::{Field, Fields};
use super::super::values::{duration, percent, positive_duration};

/// Reads `loadBalancer`.
pub(super) fn load_balancer(field: &Field<'_>) -> Option<LoadBalancer> {
    let fields = field.fields()?;
    fields.no_effect(&["consistentHash", "zoneAwareLbSetting"]);
    let simple = fields.take("simple").and_then(|field| match field.text()? {
        "UNSPECIFIED" => None,
        "LEAST_REQUEST" | "LEAST_CONN" => Some(SimpleBalancer::LeastRequest),
        "ROUND_ROBIN" => Some(SimpleBalancer::RoundRobin),
        "RANDOM" => Some(SimpleBalancer::Random),
        "PASSTHROUGH" => Some(SimpleBalancer::Passthrough),
        other => {
            field.error(format!("unknown value `{other}`"));
            None
        }
    });
    let locality = fields.map("localityLbSetting").and_then(|setting| {
        setting.no_effect(&["distribute", "failover", "failoverPriority"]);
        Some(match setting.boolean("enabled")? {
            true => LocalityBalancing::Enabled,
            false => LocalityBalancing::Disabled,
        })
    });
    let old_warmup = fields
        .take("warmupDurationSecs")
        .and_then(|f| positive_duration(&f));
    let warmup = fields.take("warmup").and_then(|field| warmup(&field));
    let plain = |duration| Warmup {
        duration,
        minimum: None,
        aggression_thousandths: 1000,
    };
    Some(LoadBalancer {
        simple,
        locality,
        warmup: warmup.or_else(|| old_warmup.map(plain)),
    })
}

fn warmup(field: &Field<'_>) -> Option<Warmup> {
    let fields = field.fields()?;
    let minimum = fields
        .take("minimumPercent")
        .and_then(|field| percent(&field));
    let aggression = fields.take("aggression").and_then(|field| {
        let number = field.number()?;
        // Envoy needs more than zero; a thousand is far beyond any use.
        if !(0.001..=1000.0).contains(&number) {
            field.error(format!(
                "number out of range: {number} (expected 0.001 to 1000)"
            ));
            return None;
        }
        // Through text: the one conversion from a float that cannot lose in silence.
        format!("{:.0}", number * 1000.0).parse().ok()
    });
    let duration = positive_duration(&fields.require("duration")?)?;
    Some(Warmup {
        duration,
        minimum,
        aggression_thousandths: aggression.unwrap_or(1000),
    })
}

/// Reads `connectionPool`.
pub(super) fn pool(field: &Field<'_>) -> Option<ConnectionPool> {
    let fields = field.fields()?;
    let mut pool = ConnectionPool::default();
    if let Some(tcp) = fields.map("tcp") {
        pool.max_connections = limit(&tcp, "maxConnections");
        pool.connect_timeout = tcp
            .take("connectTimeout")
            .and_then(|f| positive_duration(&f));
        pool.keep_alive = tcp.map("tcpKeepalive").map(|keep_alive| KeepAlive {
            probes: keep_alive.unsigned("probes"),
            time: keep_alive.take("time").and_then(|f| positive_duration(&f)),
            interval: keep_alive
                .take("interval")
                .and_then(|f| positive_duration(&f)),
        });
        pool.max_connection_duration = tcp
            .take("maxConnectionDuration")
            .and_then(|f| positive_duration(&f));
        pool.tcp_idle_timeout = tcp.take("idleTimeout").and_then(|f| duration(&f));
    }
    if let Some(http) = fields.map("http") {
        http.no_effect(&["http2KeepAlive"]);
        pool.max_pending_requests = limit(&http, "http1MaxPendingRequests");
        pool.max_requests = limit(&http, "http2MaxRequests");
        pool.max_requests_per_connection = http.unsigned("maxRequestsPerConnection");
        pool.max_retries = limit(&http, "maxRetries");
        pool.http_idle_timeout = http.take("idleTimeout").and_then(|f| duration(&f));
        pool.max_concurrent_streams = limit(&http, "maxConcurrentStreams");
        pool.use_client_protocol = http.boolean("useClientProtocol").unwrap_or(false);
        pool.h2_upgrade = http
            .take("h2UpgradePolicy")
            .map_or(H2Upgrade::Default, |field| match field.text() {
                Some("UPGRADE") => H2Upgrade::Always,
                Some("DO_NOT_UPGRADE") => H2Upgrade::Never,
                Some("DEFAULT") | None => H2Upgrade::Default,
                Some(other) => {
                    field.error(format!("unknown value `{other}`"));
                    H2Upgrade::Default
                }
            });
    }
    Some(pool)
}

/// Reads a limit; zero is no limit, as in Istio, where it cannot be told from "not written".
fn limit(fields: &Fields<'_>, key: &str) -> Option<u32> {
    fields.unsigned(key).filter(|limit| *limit > 0)
}

/// Reads `outlierDetection`.
pub(super) fn outlier(field: &Field<'_>) -> Option<OutlierDetection> {
    let fields = field.fields()?;
    fields.no_effect(&["outlierDetectionHttpErrorCodes"]);
    let old = fields.take("consecutiveErrors");
    let mut gateway = fields.unsigned("consecutiveGatewayErrors");
    if let Some(old) = old {
        old.warn("no longer part of the API: read as `consecutiveGatewayErrors`");
        gateway = gateway.or_else(|| old.unsigned());
    }
    Some(OutlierDetection {
        consecutive_5xx: fields.unsigned("consecutive5xxErrors"),
        consecutive_gateway_errors: gateway,
        split_local_origin: fields
            .boolean("splitExternalLocalOriginErrors")
            .unwrap_or(false),
        consecutive_local_origin_failures: fields.unsigned("consecutiveLocalOriginFailures"),
        interval: fields.take("interval").and_then(|f| positive_duration(&f)),
        base_ejection_time: fields
            .take("baseEjectionTime")
            .and_then(|f| positive_duration(&f)),
        max_ejection: fields.take("maxEjectionPercent").and_then(|f| percent(&f)),
        min_health: fields.take("minHealthPercent").and_then(|f| percent(&f)),
    })
}

/// Reads `tls`. A mode that asks for encryption is refused: calling in the clear where the
/// writer asked for TLS would be worse than not applying the object.
pub(super) fn tls(field: &Field<'_>) -> Option<UpstreamTls> {
    let fields = field.fields()?;
    let mode = fields.take("mode");
    let text = mode.as_ref().map_or(Some("DISABLE"), Field::text);
    let details = [
        "clientCertificate",
        "privateKey",
        "caCertificates",
        "credentialName",
        "subjectAltNames",
        "sni",
        "insecureSkipVerify",
        "caCrl",
    ];
    if text == Some("DISABLE") {
        fields.no_effect(&details);
        return Some(UpstreamTls::Disabled);
    }
    fields.ignore(&details);
    let (mode, text) = (mode?, text?);
    if matches!(text, "SIMPLE" | "MUTUAL" | "ISTIO_MUTUAL") {
        mode.refuse(format!(
            "TLS mode {text} is not supported yet: calls would be sent in the clear; \
             the object is not applied"
        ));
    } else {
        mode.error(format!("unknown value `{text}`"));
    }
    None
}

/// Reads `retryBudget`.
pub(super) fn retry_budget(field: &Field<'_>) -> Option<RetryBudget> {
    let fields = field.fields()?;
    fields.no_effect(&["budgetInterval"]);
    Some(RetryBudget {
        share: fields.take("percent").and_then(|f| percent(&f)),
        min_concurrency: fields.unsigned("minRetryConcurrency"),
    })
}
