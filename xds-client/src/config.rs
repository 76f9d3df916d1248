// SPDX-License-Identifier: Apache-2.0
//! What a client is told once, when it is made.

use std::collections::BTreeMap;
use std::time::Duration;

use remora_rt::backoff;
use remora_xds_types::core::Node;
use tonic::transport::Endpoint;

/// Which variant of the protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `DeltaAggregatedResources`: only what changed travels. Preferred.
    Delta,
    /// `StreamAggregatedResources`: each response repeats what is subscribed.
    Sotw,
}

/// How a control plane that went silent is found out (HTTP/2 pings).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence after which a ping is sent.
    pub interval: Duration,
    /// How long the answer may take before the connection counts as dead.
    pub timeout: Duration,
}

/// The settings of a client.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the control plane is.
    pub(crate) endpoint: Endpoint,
    /// Who asks; sent with the first message of each stream.
    pub node: Node,
    /// Delta or state of the world.
    pub mode: Mode,
    /// For each type URL, the resources already held (from the last good configuration on disk)
    /// and their versions.
    pub initial_versions: BTreeMap<String, BTreeMap<String, String>>,
    /// Delays between streams that fail.
    pub backoff: backoff::Policy,
    /// Seed of the delays' jitter.
    pub seed: u64,
    /// How a dead peer is found.
    pub keepalive: Keepalive,
    /// Bound on one message of the control plane. Unit: bytes.
    pub max_message_bytes: usize,
}

/// The control plane's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("control plane address `{address}`: expected `host:port`")]
pub struct AddressError {
    /// The address as given.
    pub address: String,
    /// What the parser said, where it said anything.
    #[source]
    source: Option<tonic::transport::Error>,
}

impl Config {
    /// The usual settings for a control plane at `address` (`host:port`, without TLS).
    ///
    /// # Errors
    /// If the address names no host and port.
    pub fn new(address: &str, node: Node) -> Result<Self, AddressError> {
        let refused = |source| AddressError {
            address: address.to_owned(),
            source,
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|source| refused(Some(source)))?;
        let uri = endpoint.uri();
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let is_bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        if !has_host || uri.port_u16().is_none_or(|port| port == 0) || !is_bare {
            return Err(refused(None));
        }
        Ok(Self {
            endpoint,
            node,
            mode: Mode::Delta,
            initial_versions: BTreeMap::new(),
            backoff: default_backoff(),
            seed: fastrand::u64(..),
            keepalive: Keepalive {
                interval: Duration::from_secs(30),
                timeout: Duration::from_secs(10),
            },
            max_message_bytes: 64 * 1024 * 1024,
        })
    }

    /// The endpoint with its timeouts, for one connection.
    pub(crate) fn dialable(&self) -> Endpoint {
        self.endpoint
            .clone()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.keepalive.interval)
            .keep_alive_timeout(self.keepalive.timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
    }
}

/// 250 ms up to 30 s: a restarted control plane is found again within a few hundred milliseconds,
/// a missing one is asked about twice a minute. Differs from Envoy (500 ms, 30 s) in the base only.
fn default_backoff() -> backoff::Policy {
    backoff::Policy::try_new(Duration::from_millis(250), Duration::from_secs(30))
        .expect("the base lies between 1ms and the maximum")
}

/// How long a connection attempt may take; a dropped SYN is retried within it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 windows. Unit: bytes. A first push is a few MiB; the default of 64 KiB would cost a
/// round trip for each 64 KiB of it.
const WINDOW: u32 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in [
            "istiod.istio-system.svc:15010",
            "127.0.0.1:15010",
            "[::1]:15010",
        ] {
            assert!(Config::new(good, Node::default()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "istiod",
            ":15010",
            "a:0",
            "a:99999",
            "a:1/path",
            "http://a:1",
            "a b:1",
        ] {
            let error = Config::new(bad, Node::default()).expect_err(bad);
            assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
        }
    }
}
