// SPDX-License-Identifier: Apache-2.0
//! An ADS server that does what a test tells it to, message by message.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::Stream;
use remora_xds_types::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use remora_xds_types::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for `future` within the tests' patience.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// The server, on a thread of its own, so that stopping it also closes its connections.
pub(crate) struct AdsServer {
    pub(crate) addr: SocketAddr,
    pub(crate) delta: mpsc::UnboundedReceiver<DeltaStream>,
    pub(crate) sotw: mpsc::UnboundedReceiver<SotwStream>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The server's end of one stream.
pub(crate) struct Peer<Q, R> {
    requests: Streaming<Q>,
    responses: mpsc::Sender<Result<R, Status>>,
}

pub(crate) type DeltaStream = Peer<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
pub(crate) type SotwStream = Peer<DiscoveryRequest, DiscoveryResponse>;

impl AdsServer {
    /// Starts on a free port.
    pub(crate) fn start() -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts on a given address (of a server that was stopped).
    pub(crate) fn start_on(addr: SocketAddr) -> Self {
        let (delta_tx, delta) = mpsc::unbounded_channel();
        let (sotw_tx, sotw) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind(addr).expect("bind");
        listener.set_nonblocking(true).expect("non-blocking");
        let addr = listener.local_addr().expect("addr");
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
                let service = Service {
                    delta: delta_tx,
                    sotw: sotw_tx,
                };
                let server = Server::builder()
                    .add_service(AggregatedDiscoveryServiceServer::new(service))
                    .serve_with_incoming(TcpIncoming::from(listener));
                tokio::select! {
                    ended = server => ended.expect("server"),
                    _ = stopped => {}
                }
            });
        });
        Self {
            addr,
            delta,
            sotw,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The next delta stream that a client opens.
    pub(crate) async fn next_delta(&mut self) -> DeltaStream {
        soon("a delta stream", self.delta.recv())
            .await
            .expect("the server runs")
    }

    /// The next state-of-the-world stream that a client opens.
    pub(crate) async fn next_sotw(&mut self) -> SotwStream {
        soon("a stream", self.sotw.recv())
            .await
            .expect("the server runs")
    }
}

impl Drop for AdsServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("server thread");
        }
    }
}

impl<Q, R> Peer<Q, R> {
    /// The next request on this stream.
    pub(crate) async fn request(&mut self) -> Q {
        let message = soon("a request", self.requests.message()).await;
        message
            .expect("the stream is well")
            .expect("the stream is open")
    }

    /// Whether the client closed the stream.
    pub(crate) async fn is_closed(&mut self) -> bool {
        soon("the end of the stream", async {
            loop {
                match self.requests.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return true,
                }
            }
        })
        .await
    }

    /// Sends a response; waits while the client does not read.
    pub(crate) async fn send(&self, response: R) {
        self.responses
            .send(Ok(response))
            .await
            .expect("the stream is open");
    }

    /// Ends the stream with an error.
    pub(crate) async fn fail(self, status: Status) {
        self.responses
            .send(Err(status))
            .await
            .expect("the stream is open");
    }
}

struct Service {
    delta: mpsc::UnboundedSender<DeltaStream>,
    sotw: mpsc::UnboundedSender<SotwStream>,
}

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(open(&self.sotw, request))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(open(&self.delta, request))
    }
}

fn open<Q, R: Send + 'static>(
    streams: &mpsc::UnboundedSender<Peer<Q, R>>,
    request: Request<Streaming<Q>>,
) -> Response<Responses<R>> {
    let (responses, outgoing) = mpsc::channel(1);
    // The test may have ended.
    let _ = streams.send(Peer {
        requests: request.into_inner(),
        responses,
    });
    Response::new(Box::pin(ReceiverStream::new(outgoing)))
}
