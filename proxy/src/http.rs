// SPDX-License-Identifier: Apache-2.0
//! HTTP: from a connection's first byte to the last byte of its last answer.
//!
//! * [`serve`] takes a connection whose filter chain is an HTTP connection manager;
//! * `serve_h1` and `serve_h2` speak with the downstream and make one exchange a request;
//! * [`exchange`] is the spine, `attempt` its inner loop, with `budget`, `retry`, `deadline`,
//!   `replay` and `upload` as its parts;
//! * `headers`, `redirect`, `reply`, `refused` and `h2_convert` turn values into values;
//! * `mirror` sends copies; `record` and `flags` are what logs are made of.
//!
//! Connections come from `downstream`, answers from `upstream`; this module knows no socket
//! option and no balancing. **Invariant:** every request that begins is counted and logged once.

pub mod attempt;
mod budget;
mod deadline;
mod downstream;
pub mod exchange;
pub mod flags;
mod h2_convert;
mod headers;
mod mirror;
mod plan;
pub mod record;
mod redirect;
mod refused;
mod replay;
mod reply;
mod retry;
mod serve_h1;
mod serve_h2;
pub mod stats;
pub mod timer;
mod tunnel;
mod upload;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use remora_ir::listener::{Codec, Direction, HttpConnectionManager};

use crate::downstream::{Connection, Detected};
use crate::network::dial::PreDialled;
use crate::network::relay::relay;
use crate::stream::Stream;
use crate::worker::Worker;
use exchange::Context;
use tunnel::Tunnel;

/// Serves a connection; `first` are the bytes that were read to choose its filter chain, and
/// `dialled` a connection that was made meanwhile, which is kept for the first request.
pub async fn serve(
    worker: Rc<Worker>,
    connection: Connection,
    hcm: Arc<HttpConnectionManager>,
    first: BytesMut,
    dialled: Option<PreDialled>,
) {
    let Connection {
        stream,
        record,
        original_dst,
        drain,
        protocol,
        listener,
        hold: _hold,
        started: _,
    } = connection;
    let stats = worker.http_stats(&hcm.stat_prefix);
    let _active = stats.on_connection();
    let codec = hcm.codec;
    let dialled = RefCell::new(dialled);
    let cx = Context {
        server: headers::server_of(&hcm.headers),
        worker,
        hcm,
        connection: record,
        is_inbound: listener.direction == Direction::Inbound,
        original_dst,
        dialled,
        stats,
        drain,
    };
    match is_http2(codec, protocol, &stream, first).await {
        Some((true, first)) => serve_h2::serve(Rc::new(cx), stream, first).await,
        Some((false, first)) => serve_http1(&cx, &stream, first).await,
        None => {}
    }
}

async fn serve_http1(cx: &Context, stream: &Stream, first: BytesMut) {
    let served = tokio::select! {
        biased; // an answer that is complete is not cut
        served = serve_h1::serve(cx, stream, first) => served,
        () = cx.drain.forced() => None,
    };
    let Some((tunnel, first)) = served else {
        return;
    };
    let Tunnel {
        switched,
        limits,
        log,
    } = tunnel;
    let up = &switched.upstream.stream;
    let end = relay(stream, first, up, switched.first, limits, &cx.drain).await;
    log.finish(cx, end.received, end.sent);
}

/// Whether a connection speaks HTTP/2. Where nobody looked before, the first bytes tell; `None`
/// if the peer went away before they did.
async fn is_http2(
    codec: Codec,
    detected: Detected,
    stream: &Stream,
    mut first: BytesMut,
) -> Option<(bool, BytesMut)> {
    match (codec, detected) {
        (Codec::Http2, _) | (Codec::Auto, Detected::Http2) => return Some((true, first)),
        (Codec::Http1, _) | (Codec::Auto, Detected::Http1) => return Some((false, first)),
        (Codec::Auto, Detected::Unknown) => {}
    }
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    loop {
        let seen = first.len().min(PREFACE.len());
        if seen > 0 && first.get(..seen) != PREFACE.get(..seen) {
            return Some((false, first));
        }
        if seen == PREFACE.len() {
            return Some((true, first));
        }
        // A dribbled preface is bounded as a dribbled head is: by the idle bound of the codec
        // that takes it over, after its first differing byte or its last one.
        match stream.read_buf(&mut first).await {
            Ok(0) | Err(_) if first.is_empty() => return None,
            Ok(0) | Err(_) => return Some((false, first)),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
