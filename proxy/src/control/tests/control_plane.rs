// SPDX-License-Identifier: Apache-2.0
//! A control plane that says what a test tells it to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;

use futures_util::Stream;
use remora_xds_client::RawResource;
use remora_xds_types::ResourceType;
use remora_xds_types::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use remora_xds_types::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use remora_xds_types::protobuf::Any;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::soon;

/// The server; it ends when dropped.
pub(super) struct ControlPlane {
    pub(super) address: SocketAddr,
    streams: mpsc::UnboundedReceiver<Peer>,
    task: JoinHandle<()>,
}

/// Its end of one stream.
pub(super) struct Peer {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    /// What was told with the first request of each kind.
    pub(super) held: BTreeMap<ResourceType, BTreeMap<String, String>>,
    /// What is asked for by name.
    pub(super) asked: BTreeMap<ResourceType, Vec<String>>,
    nonce: u32,
}

impl ControlPlane {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, streams) = mpsc::unbounded_channel();
        let service = AggregatedDiscoveryServiceServer::new(Service(sender));
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { serving.await.expect("serves") });
        Self {
            address,
            streams,
            task,
        }
    }

    /// The next stream that the proxy opens.
    pub(super) async fn stream(&mut self) -> Peer {
        soon("a stream", self.streams.recv()).await.expect("serves")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// Waits until the proxy has asked for a kind on this stream (with a name, if one is given).
    pub(super) async fn asked_for(&mut self, kind: ResourceType, name: Option<&str>) {
        let is_asked = |asked: &BTreeMap<ResourceType, Vec<String>>| {
            asked.get(&kind).is_some_and(|names| {
                name.is_none_or(|name| names.iter().any(|known| known == name))
            })
        };
        while !is_asked(&self.asked) {
            self.read().await;
        }
    }

    /// Sends a response and returns the text of the answer: `None` for an ACK.
    pub(super) async fn push(
        &mut self,
        kind: ResourceType,
        resources: &[RawResource],
        removed: &[&str],
    ) -> Option<String> {
        self.nonce += 1;
        let resource = |raw: &RawResource| Resource {
            name: raw.name.clone(),
            version: raw.version.clone(),
            resource: Some(Any {
                type_url: kind.url().to_owned(),
                value: raw.body.to_vec(),
            }),
            ..Resource::default()
        };
        let response = DeltaDiscoveryResponse {
            type_url: kind.url().to_owned(),
            nonce: self.nonce.to_string(),
            resources: resources.iter().map(resource).collect(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.responses.send(Ok(response)).await.expect("open");
        loop {
            let request = self.read().await;
            if request.response_nonce == self.nonce.to_string() {
                return request.error_detail.map(|status| status.message);
            }
        }
    }

    async fn read(&mut self) -> DeltaDiscoveryRequest {
        let message = soon("a request", self.requests.message()).await;
        let request = message.expect("well").expect("open");
        let kind = ResourceType::from_url(&request.type_url).expect("a kind of ours");
        if request.response_nonce.is_empty() {
            let held = request.initial_resource_versions.clone();
            self.held.entry(kind).or_default().extend(held);
            let names = request.resource_names_subscribe.clone();
            self.asked.entry(kind).or_default().extend(names);
        }
        request
    }
}

struct Service(mpsc::UnboundedSender<Peer>);

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outgoing) = mpsc::channel(1);
        let peer = Peer {
            requests: request.into_inner(),
            responses,
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            nonce: 0,
        };
        // The test may have ended.
        let _ = self.0.send(peer);
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}
