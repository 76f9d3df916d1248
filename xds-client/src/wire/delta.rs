// SPDX-License-Identifier: Apache-2.0
//! `DeltaAggregatedResources`.

use bytes::Bytes;
use remora_xds_types::core::Node;
use remora_xds_types::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Client, Dialect, error_detail};
use crate::session::{Push, PushedResource, Request};

/// The incremental variant.
pub(crate) struct Delta;

impl Dialect for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn encode(request: Request, node: Option<Node>) -> Self::Request {
        DeltaDiscoveryRequest {
            node,
            type_url: request.type_url,
            resource_names_subscribe: request.subscribe,
            resource_names_unsubscribe: request.unsubscribe,
            initial_resource_versions: request.initial_versions.into_iter().collect(),
            response_nonce: request.nonce,
            error_detail: request.refusal.map(error_detail),
            ..Self::Request::default()
        }
    }

    fn decode(response: Self::Response) -> Push {
        Push {
            resources: response.resources.into_iter().map(pushed).collect(),
            type_url: response.type_url,
            nonce: response.nonce,
            version: String::new(),
            removed: response.removed_resources,
        }
    }

    async fn open(
        mut client: Client,
        requests: ReceiverStream<Self::Request>,
    ) -> Result<Streaming<Self::Response>, Status> {
        client
            .delta_aggregated_resources(requests)
            .await
            .map(tonic::Response::into_inner)
    }
}

fn pushed(resource: Resource) -> PushedResource {
    let (type_url, body) = match resource.resource {
        Some(any) => (any.type_url, Some(Bytes::from(any.value))),
        None => (String::new(), None),
    };
    PushedResource {
        name: Some(resource.name),
        version: resource.version,
        type_url,
        body,
    }
}
