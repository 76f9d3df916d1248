// SPDX-License-Identifier: Apache-2.0
//! Who is connected and how well: what `remora status` shows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_primitives::Instant;
use remora_rt::clock;
use serde::Serialize;

use super::node::NodeIdentity;
use super::session::{KindStatus, Variant};

/// All streams of this control plane. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    streams: Arc<Mutex<Streams>>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    by_number: BTreeMap<u64, Stream>,
}

#[derive(Debug)]
struct Stream {
    identity: NodeIdentity,
    peer: Option<SocketAddr>,
    variant: Variant,
    since: Instant,
    last_push: Option<Instant>,
    last_refusal: Option<(Instant, String)>,
    revision: u64,
    kinds: Vec<KindStatus>,
}

/// One connected node, as shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeStatus {
    /// `Node.id`.
    pub id: String,
    /// `Node.cluster`.
    pub cluster: String,
    /// `Node.user_agent_name`.
    pub agent: String,
    /// The namespace it is served for.
    pub namespace: String,
    /// Where it connected from.
    pub peer: Option<SocketAddr>,
    /// `delta` or `sotw`.
    pub variant: &'static str,
    /// Seconds since the stream was opened.
    pub connected_for: f64,
    /// Seconds since something was sent; absent if nothing was.
    pub last_push_ago: Option<f64>,
    /// Revision of the model it is served from.
    pub revision: u64,
    /// Whether it holds and has accepted everything.
    pub is_synced: bool,
    /// The last refusal on this stream, even if it was made good since.
    pub last_refusal: Option<String>,
    /// Seconds since that refusal.
    pub last_refusal_ago: Option<f64>,
    /// Each kind that it asked for.
    pub kinds: Vec<KindStatus>,
}

/// A stream's place in the registry; its entry ends with it.
#[derive(Debug)]
#[must_use = "the entry ends when this is dropped"]
pub struct Registration {
    registry: Registry,
    number: u64,
}

impl Registry {
    /// Enters a stream.
    pub fn register(
        &self,
        identity: NodeIdentity,
        peer: Option<SocketAddr>,
        variant: Variant,
    ) -> Registration {
        let mut streams = self.lock();
        let number = streams.next;
        streams.next += 1;
        let stream = Stream {
            identity,
            peer,
            variant,
            since: clock::now(),
            last_push: None,
            last_refusal: None,
            revision: 0,
            kinds: Vec::new(),
        };
        streams.by_number.insert(number, stream);
        Registration {
            registry: self.clone(),
            number,
        }
    }

    /// All connected nodes, by the time of their connection.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let now = clock::now();
        self.lock()
            .by_number
            .values()
            .map(|stream| stream.status(now))
            .collect()
    }

    /// How many streams are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().by_number.len()
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    /// Something was sent.
    pub fn on_push(&self) {
        self.update(|stream| stream.last_push = Some(clock::now()));
    }

    /// The node refused something.
    pub fn on_refusal(&self, reason: String) {
        self.update(|stream| stream.last_refusal = Some((clock::now(), reason)));
    }

    /// The session has come to this.
    pub fn on_state(&self, revision: u64, kinds: Vec<KindStatus>) {
        self.update(|stream| {
            stream.revision = revision;
            stream.kinds = kinds;
        });
    }

    fn update(&self, edit: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.registry.lock().by_number.get_mut(&self.number) {
            edit(stream);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().by_number.remove(&self.number);
    }
}

impl Stream {
    fn status(&self, now: Instant) -> NodeStatus {
        let ago = |at: Instant| (now - at).as_secs_f64();
        let (last_refusal_ago, last_refusal) = self
            .last_refusal
            .clone()
            .map(|(at, reason)| (ago(at), reason))
            .unzip();
        NodeStatus {
            id: self.identity.id.clone(),
            cluster: self.identity.cluster.clone(),
            agent: self.identity.agent.clone(),
            namespace: self.identity.scope.namespace.to_string(),
            peer: self.peer,
            variant: match self.variant {
                Variant::Delta => "delta",
                Variant::Sotw => "sotw",
            },
            connected_for: ago(self.since),
            last_push_ago: self.last_push.map(ago),
            revision: self.revision,
            is_synced: self.kinds.iter().all(|kind| kind.is_synced),
            last_refusal,
            last_refusal_ago,
            kinds: self.kinds.clone(),
        }
    }
}
