// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 connections from downstream: each stream is an exchange in a task of its own.
//!
//! The `h2` crate speaks the protocol; here streams are accepted, turned into requests, and the
//! connection is ended: when idle, when it drains (GOAWAY, then the streams finish), or by force.
//! The tasks of the streams belong to the connection and end with it.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use remora_http::StatusCode;
use remora_primitives::Instant;
use tokio::task::JoinSet;

use super::downstream::{H2Responder, Incoming, RequestBody, Responder};
use super::exchange::{Context, exchange};
use super::flags::Flags;
use super::h2_convert;
use super::timer::Timer;
use crate::stream::Stream;

/// Streams that a peer may reset before their tasks have begun; beyond it the connection ends
/// (rapid reset, CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;

/// Streams that may be ended for the peer's mistakes before the connection ends
/// (CVE-2025-8671).
const MAX_LOCAL_RESETS: usize = 100;

/// Serves a connection whose first bytes were read already.
pub async fn serve(cx: Rc<Context>, stream: Stream, first: BytesMut) {
    let options = cx.hcm.http2;
    let max_head = u32::try_from(cx.hcm.limits.max_head).unwrap_or(u32::MAX);
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .max_header_list_size(max_head)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS));
    let mut timer = Timer::new();
    let idle = cx.hcm.timeouts.idle;
    let deadline = |since: Instant| idle.map_or(Instant::FAR_FUTURE, |idle| since + idle);
    let handshake = builder.handshake::<_, Bytes>(stream.into_tokio(first.freeze()));
    let connection = tokio::select! {
        biased;
        done = handshake => done,
        () = timer.until(deadline(cx.worker.now())) => return,
        () = cx.drain.forced() => return,
    };
    match connection {
        Ok(connection) => {
            Served {
                cx,
                connection,
                timer,
                tasks: JoinSet::new(),
            }
            .run()
            .await
        }
        Err(error) => {
            cx.stats.on_protocol_error();
            tracing::debug!(peer = %cx.connection.peer, %error, "HTTP/2 handshake failed");
        }
    }
}

struct Served {
    cx: Rc<Context>,
    connection: h2::server::Connection<crate::stream::Prefixed, Bytes>,
    timer: Timer,
    tasks: JoinSet<()>,
}

impl Served {
    async fn run(mut self) {
        let timeouts = self.cx.hcm.timeouts;
        let started = self.cx.worker.now();
        let expires = timeouts
            .max_connection
            .map_or(Instant::FAR_FUTURE, |age| started + age);
        let most = self
            .cx
            .hcm
            .limits
            .max_requests
            .map_or(u64::MAX, std::num::NonZeroU64::get);
        let mut accepted = 0_u64;
        let mut idle_since = started;
        let mut is_ending = false;
        loop {
            let idle_at = match timeouts.idle {
                Some(idle) if self.tasks.is_empty() => idle_since + idle,
                _ => Instant::FAR_FUTURE,
            };
            let deadline = if is_ending {
                idle_at
            } else {
                idle_at.min(expires)
            };
            let drain = self.cx.drain.clone();
            tokio::select! {
                biased;
                // Finished streams first, so that their tasks hold no memory.
                Some(_) = self.tasks.join_next() => idle_since = self.cx.worker.now(),
                stream = self.connection.accept() => match stream {
                    Some(Ok((request, respond))) => {
                        accepted += 1;
                        self.start(request, respond);
                        if accepted >= most && !is_ending {
                            is_ending = true;
                            self.connection.graceful_shutdown();
                        }
                    }
                    Some(Err(error)) => {
                        if !error.is_io() {
                            self.cx.stats.on_protocol_error();
                        }
                        tracing::debug!(peer = %self.cx.connection.peer, %error, "HTTP/2 connection failed");
                        return;
                    }
                    None => return,
                },
                () = drain.graceful(), if !is_ending => {
                    is_ending = true;
                    self.connection.graceful_shutdown();
                }
                () = drain.forced() => return,
                () = self.timer.until(deadline) => {
                    if is_ending {
                        return;
                    }
                    is_ending = true;
                    idle_since = self.cx.worker.now();
                    self.connection.graceful_shutdown();
                }
            }
        }
    }

    fn start(
        &mut self,
        request: http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
    ) {
        let (parts, body) = request.into_parts();
        match h2_convert::request(parts, body.is_end_stream()) {
            Ok((head, framing)) => {
                let cx = Rc::clone(&self.cx);
                self.tasks.spawn_local(async move {
                    let body = if framing.is_empty() && body.is_end_stream() {
                        RequestBody::Empty
                    } else {
                        RequestBody::H2(body)
                    };
                    let incoming = Incoming {
                        head,
                        framing,
                        upgrade: None,
                        body,
                    };
                    let mut out = Responder::H2(H2Responder::new(respond));
                    let mut timer = Timer::new();
                    exchange(&cx, incoming, &mut out, &mut timer).await;
                });
            }
            Err(reason) => {
                self.cx.stats.on_protocol_error();
                tracing::debug!(peer = %self.cx.connection.peer, %reason, flags = %Flags::DOWNSTREAM_PROTOCOL_ERROR, "HTTP/2 request refused");
                let status = http::StatusCode::from_u16(StatusCode::BAD_REQUEST.get());
                let mut response = http::Response::new(());
                *response.status_mut() = status.unwrap_or_default();
                if respond.send_response(response, true).is_err() {
                    respond.send_reset(h2::Reason::PROTOCOL_ERROR);
                }
            }
        }
    }
}
