// SPDX-License-Identifier: Apache-2.0
//! `StreamAggregatedResources`.

use bytes::Bytes;
use remora_xds_types::Message as _;
use remora_xds_types::Name as _;
use remora_xds_types::ResourceType;
use remora_xds_types::core::Node;
use remora_xds_types::discovery::{DiscoveryRequest, DiscoveryResponse, Resource};
use remora_xds_types::protobuf::Any;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Client, Dialect, error_detail};
use crate::session::{Push, PushedResource, Request};

/// The variant whose responses repeat the whole state.
pub(crate) struct Sotw;

impl Dialect for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn encode(request: Request, node: Option<Node>) -> Self::Request {
        let mut names: Vec<String> = request.interest.iter_names().map(str::to_owned).collect();
        if request.interest.is_wildcard() && !names.is_empty() {
            names.insert(0, "*".to_owned());
        }
        DiscoveryRequest {
            node,
            type_url: request.type_url,
            resource_names: names,
            version_info: request.version,
            response_nonce: request.nonce,
            error_detail: request.refusal.map(error_detail),
            ..Self::Request::default()
        }
    }

    fn decode(response: Self::Response) -> Push {
        let version = response.version_info;
        let resources = response
            .resources
            .into_iter()
            .map(|any| pushed(any, &version))
            .collect();
        Push {
            resources,
            type_url: response.type_url,
            nonce: response.nonce,
            version,
            removed: Vec::new(),
        }
    }

    async fn open(
        mut client: Client,
        requests: ReceiverStream<Self::Request>,
    ) -> Result<Streaming<Self::Response>, Status> {
        client
            .stream_aggregated_resources(requests)
            .await
            .map(tonic::Response::into_inner)
    }
}

/// Takes the optional wrapper off and finds the name, which the bare form has only inside.
fn pushed(any: Any, version: &str) -> PushedResource {
    if any.type_url != Resource::type_url() {
        let name = find_name(&any);
        let (version, body) = (version.to_owned(), Some(Bytes::from(any.value)));
        return PushedResource {
            name,
            version,
            type_url: any.type_url,
            body,
        };
    }
    let wrapped = Resource::decode(any.value.as_slice()).unwrap_or_default();
    let name = (!wrapped.name.is_empty()).then_some(wrapped.name);
    let (type_url, body) = match wrapped.resource {
        Some(inner) => (inner.type_url, Some(Bytes::from(inner.value))),
        None => (String::new(), None),
    };
    PushedResource {
        name,
        version: version.to_owned(),
        type_url,
        body,
    }
}

/// Finds a resource's name without knowing its type: in every xDS resource the name is the string
/// with field number 1. The exception is Istio's name table, of which there is only one.
fn find_name(any: &Any) -> Option<String> {
    if ResourceType::from_url(&any.type_url) == Some(ResourceType::NameTable) {
        return Some(String::new());
    }
    let mut rest = any.value.as_slice();
    let mut found = None;
    while let Some((tag, after_tag)) = varint(rest) {
        let (field, wire_type) = (tag >> 3, tag & 7);
        let (value, after) = match wire_type {
            0 => (&[][..], varint(after_tag)?.1),
            1 => (&[][..], after_tag.get(8..)?),
            2 => {
                let (length, after_length) = varint(after_tag)?;
                let length = usize::try_from(length).ok()?;
                (after_length.get(..length)?, after_length.get(length..)?)
            }
            5 => (&[][..], after_tag.get(4..)?),
            _ => return None,
        };
        if field == 1 && wire_type == 2 {
            found = Some(str::from_utf8(value).ok()?);
        }
        rest = after;
    }
    found.filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Reads one variable-length integer off the front.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use remora_xds_types::cluster::Cluster;
    use remora_xds_types::endpoint::ClusterLoadAssignment;
    use remora_xds_types::listener::Listener;
    use remora_xds_types::pack;
    use remora_xds_types::protobuf::Duration;

    use super::*;

    #[test]
    fn the_name_is_found_in_each_kind_of_resource() {
        let cluster = Cluster {
            name: "outbound|80||sms".to_owned(),
            connect_timeout: Some(Duration {
                seconds: 1,
                nanos: 5,
            }),
            ..Cluster::default()
        };
        let endpoints = ClusterLoadAssignment {
            cluster_name: "c".to_owned(),
            ..Default::default()
        };
        let listener = Listener {
            name: "l".to_owned(),
            ..Default::default()
        };
        for (any, name) in [
            (pack(&cluster), "outbound|80||sms"),
            (pack(&endpoints), "c"),
            (pack(&listener), "l"),
        ] {
            assert_eq!(pushed(any, "1").name.as_deref(), Some(name));
        }
    }

    #[test]
    fn a_wrapped_resource_has_its_wrappers_name() {
        let inner = pack(&Cluster {
            name: "inner".to_owned(),
            ..Cluster::default()
        });
        let wrapped = Resource {
            name: "outer".to_owned(),
            resource: Some(inner.clone()),
            ..Default::default()
        };
        let pushed = pushed(pack(&wrapped), "7");
        assert_eq!(pushed.name.as_deref(), Some("outer"));
        assert_eq!(pushed.body.as_deref(), Some(inner.value.as_slice()));
        assert_eq!(
            (pushed.type_url, pushed.version),
            (inner.type_url, "7".to_owned())
        );
    }

    #[test]
    fn bytes_that_are_no_message_have_no_name() {
        for value in [
            &b"\xff"[..],
            b"\x0a\x05ab",
            b"\x0a\x01\xff",
            b"\x0f",
            b"\x0a\x00",
            b"",
        ] {
            let any = Any {
                type_url: "t".to_owned(),
                value: value.to_vec(),
            };
            assert_eq!(find_name(&any), None, "{value:?}");
        }
    }
}
