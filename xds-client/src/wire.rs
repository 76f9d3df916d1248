// SPDX-License-Identifier: Apache-2.0
//! The two variants of the protocol on the wire: from the session's neutral messages to the
//! generated ones and back. No state and no decisions are kept here.

mod delta;
mod sotw;

use remora_xds_types::core::Node;
use remora_xds_types::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use remora_xds_types::rpc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::session::{Origin, Push, Refusal, Request};

pub(crate) use delta::Delta;
pub(crate) use sotw::Sotw;

/// The generated client.
pub(crate) type Client = AggregatedDiscoveryServiceClient<Channel>;

/// One variant: its messages and its call.
pub(crate) trait Dialect {
    /// What is sent.
    type Request: Send + 'static;
    /// What comes back.
    type Response: Send + 'static;

    /// Makes the message; `node` is there in the first of a stream.
    fn encode(request: Request, node: Option<Node>) -> Self::Request;

    /// Reads a response.
    fn decode(response: Self::Response) -> Push;

    /// Makes the call. Returns when the server has sent its response headers, which may be as
    /// late as its first message.
    fn open(
        client: Client,
        requests: ReceiverStream<Self::Request>,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;
}

/// The `error_detail` of a NACK.
fn error_detail(refusal: Refusal) -> rpc::Status {
    let code = match refusal.origin {
        Origin::Resource => tonic::Code::InvalidArgument,
        Origin::Consumer => tonic::Code::Internal,
    };
    rpc::Status {
        code: code.into(),
        message: refusal.message,
        details: Vec::new(),
    }
}
