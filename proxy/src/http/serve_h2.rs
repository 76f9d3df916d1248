// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 connections from downstream: each stream is an exchange in a task of its own.
//!
//! The `h2` crate speaks the protocol; here streams are accepted, turned into requests, and the
//! connection is ended: when idle, when it drains (GOAWAY, then the streams finish), or by force.
//! The tasks of the streams belong to the connection and end with it.

use std::pin::pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use remora_http::Version;
use remora_primitives::Instant;
use tokio::task::JoinSet;

use super::downstream::{H2Responder, Incoming, RequestBody, Responder};
use super::exchange::{Context, exchange};
use super::timer::Timer;
use super::{h2_convert, refused};
use crate::stream::Stream;

/// Streams that a peer may reset before their tasks have begun; beyond it the connection ends
/// (rapid reset, CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;

/// Streams that may be ended for the peer's mistakes before the connection ends
/// (CVE-2025-8671).
const MAX_LOCAL_RESETS: usize = 100;

/// Serves a connection whose first bytes were read already.
pub(super) async fn serve(cx: Rc<Context>, stream: Stream, first: BytesMut) {
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
        let cx = Rc::clone(&self.cx);
        let (mut graceful, mut forced) = (pin!(cx.drain.graceful()), pin!(cx.drain.forced()));
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
                () = graceful.as_mut(), if !is_ending => {
                    is_ending = true;
                    self.connection.graceful_shutdown();
                }
                () = forced.as_mut() => return,
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

    /// Gives a request its task.
    fn start(
        &mut self,
        request: http::Request<h2::RecvStream>,
        respond: h2::server::SendResponse<Bytes>,
    ) {
        let cx = Rc::clone(&self.cx);
        let (parts, body) = request.into_parts();
        let is_head = parts.method == http::Method::HEAD;
        let mut out = Responder::H2(H2Responder::new(respond, is_head));
        let mut timer = Timer::new();
        let max_fields = cx.hcm.limits.max_fields;
        let (head, framing) = match h2_convert::request(parts, body.is_end_stream(), max_fields) {
            Ok(request) => request,
            Err(error) => {
                cx.stats.on_protocol_error();
                tracing::debug!(peer = %cx.connection.peer, %error, "HTTP/2 request refused");
                self.tasks.spawn_local(async move {
                    let refused = refused::bad_request(error);
                    refused::answer(&cx, Version::Http2, &refused, &mut out, &mut timer).await;
                });
                return;
            }
        };
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
            exchange(&cx, incoming, &mut out, &mut timer).await;
        });
    }
}
