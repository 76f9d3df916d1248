// SPDX-License-Identifier: Apache-2.0
//! The gRPC shell: both variants of the protocol on one port.
//!
//! It answers for the transport and its bounds (message size, streams for each connection, pings
//! that find dead peers); the conversation itself is `stream`'s, the thinking the session's.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use remora_compile::MeshSettings;
use remora_rt::drain::Watch;
use remora_xds_types::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use remora_xds_types::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::registry::Registry;
use super::scopes::Scopes;
use super::stream::{Delta, Shared, Sotw, responses};

/// The service, to be run on a listener.
#[derive(Clone, Debug)]
pub struct AdsServer {
    shared: Shared,
}

/// The transport broke down.
#[derive(Debug, thiserror::Error)]
#[error("serve ADS on {addr}")]
pub struct ServeError {
    /// The address that was served.
    pub addr: String,
    /// What the transport said.
    #[source]
    source: tonic::transport::Error,
}

impl AdsServer {
    /// A service for the nodes of these scopes; each stream is entered in `registry` and ends
    /// when `drain` begins.
    #[must_use]
    pub const fn new(
        scopes: Scopes,
        registry: Registry,
        settings: Arc<MeshSettings>,
        drain: Watch,
    ) -> Self {
        Self {
            shared: Shared {
                scopes,
                registry,
                settings,
                drain,
            },
        }
    }

    /// Serves until the drain's graceful stage, and then until the streams have ended or the
    /// forced stage came.
    ///
    /// # Errors
    /// If the listener fails for good.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServeError> {
        let addr = listener
            .local_addr()
            .map_or_else(|_| "?".to_owned(), |addr| addr.to_string());
        let drain = self.shared.drain.clone();
        let service = AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST_BYTES);
        let serving = Server::builder()
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .add_service(service)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                async { drain.graceful().await },
            );
        tokio::select! {
            served = serving => served.map_err(|source| ServeError { addr, source }),
            () = drain.forced() => Ok(()),
        }
    }
}

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsServer {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let peer = request.remote_addr();
        let stream = responses::<Sotw>(self.shared.clone(), peer, request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = request.remote_addr();
        let stream = responses::<Delta>(self.shared.clone(), peer, request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Longest request. Unit: bytes. A reconnect tells the versions of everything that is held:
/// 50,000 names of 100 bytes with their versions are 7 MiB.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// Streams on one connection: a proxy needs one, and a second while it replaces itself.
const MAX_STREAMS: u32 = 16;

/// Silence after which a peer is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// HTTP/2 windows for requests. Unit: bytes.
const WINDOW: u32 = 1024 * 1024;

/// Request headers. Unit: bytes. gRPC's own are a few hundred.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
