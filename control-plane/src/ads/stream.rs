// SPDX-License-Identifier: Apache-2.0
//! One stream: requests in, responses out, the session between them.
//!
//! A conversation is polled by the transport when it has room for a response. Only then is the
//! session asked for one, so a node that reads slowly is sent the difference to the newest
//! snapshot, not what piled up. A conversation has no task of its own: it ends when the transport
//! drops it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use remora_compile::{MeshSettings, Resource};
use remora_rt::drain::{DrainToken, Watch};
use remora_xds_types::core::{ControlPlane, Node};
use remora_xds_types::discovery::{
    self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tonic::{Status, Streaming};

use super::node::{NodeError, NodeIdentity};
use super::registry::{Registration, Registry};
use super::scopes::{Membership, Scopes};
use super::session::{Heard, Push, Session, TooManyNames, Variant};

/// What all conversations share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) scopes: Scopes,
    pub(super) registry: Registry,
    pub(super) settings: Arc<MeshSettings>,
    pub(super) drain: Watch,
}

/// The messages of one variant.
pub(super) trait Dialect: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    const VARIANT: Variant;

    fn node(request: &Self::Request) -> Option<&Node>;
    fn hear(session: &mut Session, request: Self::Request) -> Result<Heard, TooManyNames>;
    fn say(push: Push) -> Self::Response;
}

/// The responses of a stream, made as the transport asks for them.
pub(super) fn responses<D: Dialect>(
    shared: Shared,
    peer: Option<SocketAddr>,
    requests: Streaming<D::Request>,
) -> impl Stream<Item = Result<D::Response, Status>> + Send + 'static {
    let opening = Phase::<D>::Opening(Box::new(Opening {
        shared,
        peer,
        requests,
    }));
    futures_util::stream::unfold(opening, move |phase| async move {
        let mut conversation = match phase {
            Phase::Ended => return None,
            Phase::Talking(conversation) => conversation,
            Phase::Opening(opening) => match open(*opening).await {
                Ok(conversation) => Box::new(conversation),
                Err(None) => return None,
                Err(Some(status)) => {
                    tracing::warn!(?peer, reason = status.message(), "stream refused");
                    return Some((Err(status), Phase::Ended));
                }
            },
        };
        match conversation.next_response().await {
            Ok(Some(response)) => Some((Ok(response), Phase::Talking(conversation))),
            Ok(None) => None,
            Err(status) => Some((Err(status), Phase::Ended)),
        }
    })
}

enum Phase<D: Dialect> {
    Opening(Box<Opening<D>>),
    Talking(Box<Conversation<D>>),
    Ended,
}

/// A stream that has not said anything.
struct Opening<D: Dialect> {
    shared: Shared,
    peer: Option<SocketAddr>,
    requests: Streaming<D::Request>,
}

/// A stream whose node is known.
struct Conversation<D: Dialect> {
    requests: Streaming<D::Request>,
    session: Session,
    membership: Membership,
    registration: Registration,
    drain: Watch,
    _in_flight: DrainToken,
    id: String,
}

/// Reads the first request and joins the scope that it asks for. `Err(None)`: the peer left.
async fn open<D: Dialect>(opening: Opening<D>) -> Result<Conversation<D>, Option<Status>> {
    let Opening {
        shared,
        peer,
        mut requests,
    } = opening;
    let first = tokio::time::timeout(FIRST_REQUEST, requests.message()).await;
    let silent = |_| {
        Some(Status::deadline_exceeded(
            "no request within 30s of the stream's start",
        ))
    };
    let Ok(Some(first)) = first.map_err(silent)? else {
        return Err(None);
    };
    let refused = |error: NodeError| Some(Status::invalid_argument(error.to_string()));
    let node = D::node(&first).ok_or(NodeError::Missing).map_err(refused)?;
    let identity = NodeIdentity::read(node, &shared.settings).map_err(refused)?;
    let id = identity.id.clone();
    let joined = shared.scopes.join(identity.scope.clone()).await;
    let membership = joined.map_err(|error| Some(Status::unavailable(error.to_string())))?;
    tracing::info!(node = id, ?peer, variant = ?D::VARIANT, "node connected");
    let mut conversation = Conversation {
        session: Session::new(D::VARIANT, Arc::clone(membership.snapshots.seen())),
        registration: shared.registry.register(identity, peer, D::VARIANT),
        requests,
        membership,
        _in_flight: shared.drain.token(),
        drain: shared.drain,
        id,
    };
    conversation.hear(first).map_err(Some)?;
    Ok(conversation)
}

impl<D: Dialect> Conversation<D> {
    /// Waits until there is something to say.
    ///
    /// *Cancel safety*: it is not cancelled but by the end of the stream.
    async fn next_response(&mut self) -> Result<Option<D::Response>, Status> {
        loop {
            if self.membership.snapshots.refresh() {
                self.adopt();
            }
            if let Some(push) = self.session.next_push() {
                self.registration.on_push();
                self.report();
                tracing::debug!(
                    node = self.id,
                    kind = push.kind.short(),
                    nonce = push.nonce,
                    resources = push.resources.len(),
                    removed = push.removed.len(),
                    "push"
                );
                return Ok(Some(D::say(push)));
            }
            self.report();
            tokio::select! {
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.hear(request)?,
                    Ok(None) => return Ok(None),
                    // The peer is gone, or sent what cannot be read: then it is told.
                    Err(status) => {
                        tracing::debug!(node = self.id, reason = status.message(), "stream lost");
                        return Err(status);
                    }
                },
                changed = self.membership.snapshots.changed() => match changed {
                    Ok(_) => self.adopt(),
                    Err(_) => return Err(Status::unavailable("the control plane has no model")),
                },
                () = self.drain.graceful() => {
                    return Err(Status::unavailable("the control plane is shutting down"));
                }
            }
        }
    }

    fn adopt(&mut self) {
        self.session
            .set_snapshot(Arc::clone(self.membership.snapshots.seen()));
    }

    fn hear(&mut self, request: D::Request) -> Result<(), Status> {
        let heard = D::hear(&mut self.session, request)
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        if let Heard::Refused(kind, reason) = heard {
            let reason = format!("{}: {}", kind.short(), cut(&reason));
            tracing::warn!(node = self.id, reason, "the node refused a push");
            self.registration.on_refusal(reason);
        } else {
            tracing::debug!(node = self.id, ?heard, "request");
        }
        Ok(())
    }

    fn report(&self) {
        let revision = self.membership.snapshots.seen().revision();
        self.registration.on_state(revision, self.session.status());
    }
}

impl<D: Dialect> Drop for Conversation<D> {
    fn drop(&mut self) {
        tracing::info!(node = self.id, "node disconnected");
    }
}

/// The delta variant.
pub(super) struct Delta;

impl Dialect for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn hear(session: &mut Session, request: Self::Request) -> Result<Heard, TooManyNames> {
        session.on_delta(request)
    }

    fn say(push: Push) -> Self::Response {
        DeltaDiscoveryResponse {
            system_version_info: push.version,
            resources: push.resources.iter().map(|one| resource(one)).collect(),
            type_url: push.kind.url().to_owned(),
            removed_resources: push.removed,
            nonce: push.nonce,
            control_plane: Some(control_plane()),
            ..Self::Response::default()
        }
    }
}

/// The state-of-the-world variant.
pub(super) struct Sotw;

impl Dialect for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const VARIANT: Variant = Variant::Sotw;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn hear(session: &mut Session, request: Self::Request) -> Result<Heard, TooManyNames> {
        session.on_sotw(request)
    }

    fn say(push: Push) -> Self::Response {
        DiscoveryResponse {
            version_info: push.version,
            resources: push.resources.iter().map(|one| one.to_any()).collect(),
            type_url: push.kind.url().to_owned(),
            nonce: push.nonce,
            control_plane: Some(control_plane()),
            ..Self::Response::default()
        }
    }
}

fn resource(resource: &Resource) -> discovery::Resource {
    discovery::Resource {
        name: resource.name.clone(),
        version: resource.version.clone(),
        resource: Some(resource.to_any()),
        ..discovery::Resource::default()
    }
}

fn control_plane() -> ControlPlane {
    ControlPlane {
        identifier: concat!("remora/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// What a node says, no longer than logs and status pages bear.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_REASON_BYTES))
        .unwrap_or_default()
}

/// How long a stream may be silent before its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(30);

/// Longest reason kept from a node. Unit: bytes.
const MAX_REASON_BYTES: usize = 4096;
