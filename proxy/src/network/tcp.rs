// SPDX-License-Identifier: Apache-2.0
//! The TCP proxy: connect to a host, relay, account.
//!
//! Called with the chain chosen; ends when the session has ended and its log lines are written.
//! Source: `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::BytesMut;
use remora_ir::access_log::AccessLog;
use remora_ir::listener::TcpProxy;

use super::TcpStats;
use super::dial::{Caller, NotDialled, PreDialled, dial};
use super::relay::{Ended, RelayEnd, RelayLimits, relay};
use crate::downstream::Connection;
use crate::http::flags::Flags;
use crate::http::record::{Record, Summary};
use crate::worker::Worker;

/// A dial as it goes on by itself.
pub type Dialling = Pin<Box<dyn Future<Output = Result<PreDialled, NotDialled>>>>;

/// How far the upstream connection of a session is when the session begins.
#[derive(Default)]
pub enum Upstream {
    /// Nobody has dialled.
    #[default]
    NotDialled,
    /// It is being dialled.
    Dialling(Dialling),
    /// It was dialled, with this result.
    Dialled(Result<PreDialled, NotDialled>),
}

/// What a session begins with.
#[derive(Default)]
pub struct Start {
    /// Bytes that were read from the downstream.
    pub first: BytesMut,
    /// Bytes that were read from the upstream.
    pub greeting: BytesMut,
    /// The connection to the upstream, if it was begun ahead of the chain's choice.
    pub upstream: Upstream,
}

/// Serves a connection up to its end.
pub async fn serve(
    worker: Rc<Worker>,
    connection: Connection,
    proxy: Arc<TcpProxy>,
    stats: Rc<TcpStats>,
    start: Start,
) {
    stats.cx_total.increment();
    let _active = stats.cx_active.hold();
    let mut summary = Summary::default();
    let caller = Caller {
        peer: connection.record.peer,
        original_dst: connection.original_dst,
    };
    let connecting = async {
        match start.upstream {
            Upstream::NotDialled => dial(&worker, &proxy, caller).await,
            Upstream::Dialling(dialling) => dialling.await,
            Upstream::Dialled(result) => result,
        }
    };
    let connected = tokio::select! {
        biased; // a connection that is there is used
        connected = connecting => Some(connected),
        () = connection.drain.forced() => None,
    };
    match connected {
        Some(Ok(up)) => {
            let limits = RelayLimits {
                idle: proxy.idle_timeout,
                max_duration: proxy.max_duration,
            };
            let down = &connection.stream;
            let end = relay(
                down,
                start.first,
                &up.stream,
                start.greeting,
                limits,
                &connection.drain,
            )
            .await;
            stats.on_end(&end);
            let wants_address = !proxy.access_logs.is_empty();
            on_relayed(&mut summary, up, &end, wants_address);
        }
        Some(Err(failure)) => {
            if failure.cluster.is_none() {
                stats.cx_no_route.increment();
            }
            on_failed(&mut summary, failure);
        }
        None => {}
    }
    log(&worker, &proxy.access_logs, &connection, &mut summary);
}

fn on_relayed(summary: &mut Summary, up: PreDialled, end: &RelayEnd, wants_address: bool) {
    summary.bytes_received = end.received;
    summary.bytes_sent = end.sent;
    summary.attempts = up.attempts;
    summary.upstream_host = Some(Arc::clone(up.host()));
    summary.cluster = Some(up.cluster.name().clone());
    if wants_address {
        summary.upstream_local = up.stream.local_addr().ok();
    }
    match end.why {
        Ended::TooOld => summary.flags = Flags::DURATION_TIMEOUT,
        Ended::UpstreamReset => up.guard.on_remote_close(),
        Ended::Finished | Ended::DownstreamReset | Ended::Idle | Ended::Drained => {}
    }
}

fn on_failed(summary: &mut Summary, failure: NotDialled) {
    summary.flags = failure.flags;
    summary.attempts = failure.attempts;
    summary.upstream_host = failure.host;
    summary.cluster = failure.cluster;
    summary.transport_failure = failure.error.as_ref().and_then(|e| e.transport_failure());
    tracing::debug!(flags = %failure.flags, error = ?failure.error, "no upstream connection");
}

/// Writes a connection's log lines; it ends now.
pub fn log(worker: &Worker, logs: &[AccessLog], connection: &Connection, summary: &mut Summary) {
    if logs.is_empty() {
        return;
    }
    let lasted = worker.now() - connection.started;
    summary.duration = Some(lasted);
    let now = SystemTime::now();
    let record = Record {
        connection: &connection.record,
        start: now.checked_sub(lasted).unwrap_or(now),
        request: None,
        version: None,
        response: None,
        trailers: None,
        summary,
    };
    worker.logs.log(logs, &record);
}
