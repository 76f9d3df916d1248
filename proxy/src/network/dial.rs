// SPDX-License-Identifier: Apache-2.0
//! From a TCP chain's target to an established connection: cluster, host, attempts, limits.
//!
//! Called by the TCP proxy, and ahead of time by the detection that never stalls, which hands the
//! result on. Each attempt chooses anew among the hosts as they are then.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;

use remora_balance::{HostRecord, Outcome, PickContext};
use remora_ir::action::Target;
use remora_ir::listener::TcpProxy;
use remora_ir::{ClusterName, ClusterSlot, Lookup};
use remora_primitives::Instant;
use smallvec::SmallVec;

use crate::http::flags::Flags;
use crate::stream::Stream;
use crate::upstream::{self, Cluster, ConnectionGuard, PickRequest, UpstreamError};
use crate::worker::Worker;

/// An upstream connection that was made before anyone spoke on it.
#[derive(Debug)]
pub struct PreDialled {
    /// The cluster it was made for.
    pub cluster: Arc<Cluster>,
    /// The connection.
    pub stream: Stream,
    /// Its place within the limits; knows the host.
    pub guard: ConnectionGuard,
    /// Attempts that it took.
    pub attempts: u32,
}

impl PreDialled {
    /// The host it leads to.
    pub const fn host(&self) -> &Arc<HostRecord> {
        self.guard.host()
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub struct NotDialled {
    /// As the access log has it.
    pub flags: Flags,
    /// The cluster, if it exists.
    pub cluster: Option<ClusterName>,
    /// The host that was tried last.
    pub host: Option<Arc<HostRecord>>,
    /// The last attempt's error; none if the cluster does not exist.
    pub error: Option<UpstreamError>,
    /// Attempts made.
    pub attempts: u32,
}

/// Who wants to be connected.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The downstream peer, for clusters that dial from its address.
    pub peer: SocketAddr,
    /// Where it wanted to go, for clusters that go there.
    pub original_dst: Option<SocketAddr>,
}

/// Hosts that were tried are avoided by choosing anew, so often at most.
const REPICKS: u32 = 3;

/// Connects to a host of the proxy's target, with as many attempts as it allows.
///
/// *Cancel safety*: safe; the connection is given up.
///
/// # Errors
/// What the last attempt met: `NC`, `UH`, `UO`, or `UF` with `URX`.
pub async fn dial(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    caller: Caller,
) -> Result<PreDialled, NotDialled> {
    let Some(cluster) = choose(worker, &proxy.target) else {
        return Err(NotDialled {
            flags: Flags::NO_CLUSTER,
            cluster: None,
            host: None,
            error: None,
            attempts: 0,
        });
    };
    let mut tried = Tried::new();
    loop {
        match attempt(worker, &cluster, caller, &mut tried).await {
            Ok((stream, guard)) => {
                let attempts = made(&tried);
                return Ok(PreDialled {
                    cluster,
                    stream,
                    guard,
                    attempts,
                });
            }
            Err(error) => {
                if let Some(failure) = judge(error, &cluster, &tried, proxy.connect_attempts) {
                    return Err(failure);
                }
            }
        }
    }
}

type Tried = SmallVec<[Arc<HostRecord>; 2]>;

fn made(tried: &Tried) -> u32 {
    u32::try_from(tried.len()).unwrap_or(u32::MAX)
}

fn choose(worker: &Worker, target: &Target) -> Option<Arc<Cluster>> {
    let slot: &ClusterSlot = match target {
        Target::Cluster(slot) => slot,
        Target::Weighted(clusters) => &clusters.pick(worker.random())?.slot,
    };
    match worker.cluster(slot) {
        Lookup::Found(cluster) => Some(cluster),
        Lookup::Missing | Lookup::Unresolved => None,
    }
}

/// One attempt; the host joins those tried once it is dialled.
async fn attempt(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    caller: Caller,
    tried: &mut Tried,
) -> Result<(Stream, ConnectionGuard), UpstreamError> {
    let context = if tried.is_empty() {
        PickContext::first()
    } else {
        PickContext::retry(tried, REPICKS)
    };
    let request = PickRequest {
        original_dst: caller.original_dst,
        context,
    };
    let host = upstream::pick(&worker.upstream, cluster, &request)?;
    let deadline = Instant::FAR_FUTURE;
    let connecting = upstream::connect(
        &worker.upstream,
        cluster,
        &host,
        Some(caller.peer),
        deadline,
    );
    let result = connecting.await;
    let outcome = match &result {
        Ok(_) => Some(Outcome::Connected),
        Err(error) => error.outcome(),
    };
    if let Some(outcome) = outcome {
        cluster.on_outcome(&worker.upstream, &host, outcome);
        tried.push(host);
    }
    result
}

/// The end of all attempts, or `None` if there may be another one: only a connection that could
/// not be established is tried again.
fn judge(
    error: UpstreamError,
    cluster: &Cluster,
    tried: &Tried,
    allowed: NonZeroU32,
) -> Option<NotDialled> {
    let mut flags = error.flag();
    if error.outcome().is_some() {
        if made(tried) < allowed.get() {
            return None;
        }
        flags = flags.union(Flags::RETRY_LIMIT_EXCEEDED);
    }
    Some(NotDialled {
        flags,
        cluster: Some(cluster.name().clone()),
        host: tried.last().cloned(),
        error: Some(error),
        attempts: made(tried),
    })
}
