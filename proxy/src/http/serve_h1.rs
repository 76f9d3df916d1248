// SPDX-License-Identifier: Apache-2.0
//! HTTP/1 connections from downstream: one exchange after the other.
//!
//! The connection owns the buffers, the decoder and the timer, and lends them to each exchange.
//! It waits for heads within the idle bound, answers what cannot be read, and ends when either
//! side wants it to, when it drains, or when an exchange made a tunnel of it.

use std::future::Future;
use std::pin::{Pin, pin};

use bytes::BytesMut;
use remora_http::Version;
use remora_http::h1::{Asked, BodyDecoder, ParsedRequest, Persistence, Refusal, RequestDecoder};
use remora_primitives::Instant;

use super::downstream::{H1Body, H1Responder, Incoming, RequestBody, Responder, codec_limits};
use super::exchange::{Context, Ended, exchange};
use super::refused;
use super::timer::Timer;
use super::tunnel::Tunnel;
use crate::stream::Stream;

/// A connection on its way through its requests.
struct Served<'s> {
    cx: &'s Context,
    stream: &'s Stream,
    buf: BytesMut,
    out: BytesMut,
    decoder: RequestDecoder,
    timer: Timer,
    expires: Instant,
}

/// Why there is no next request.
enum NoRequest {
    /// The connection ends quietly.
    Ended,
    /// The bytes cannot be read.
    Refused(Refusal),
    /// The head did not come in time.
    TimedOut,
}

/// Serves a connection whose first bytes were read already. Returns the tunnel it became, with
/// what the downstream sent behind the request.
pub(super) async fn serve(
    cx: &Context,
    stream: &Stream,
    first: BytesMut,
) -> Option<(Tunnel, BytesMut)> {
    let now = cx.worker.now();
    let max_age = cx.hcm.timeouts.max_connection;
    let mut served = Served {
        cx,
        stream,
        buf: first,
        out: BytesMut::new(),
        decoder: RequestDecoder::new(),
        timer: Timer::new(),
        expires: max_age.map_or(Instant::FAR_FUTURE, |age| now + age),
    };
    served.run().await
}

impl Served<'_> {
    async fn run(&mut self) -> Option<(Tunnel, BytesMut)> {
        let most = self
            .cx
            .hcm
            .limits
            .max_requests
            .map_or(u64::MAX, std::num::NonZeroU64::get);
        let mut drain = pin!(self.cx.drain.graceful());
        for number in 1..=most {
            let request = match self.next_request(number == 1, drain.as_mut()).await {
                Ok(request) => request,
                Err(NoRequest::Ended) => break,
                Err(NoRequest::Refused(refusal)) => {
                    self.refuse(&refused::refusal(&refusal)).await;
                    break;
                }
                Err(NoRequest::TimedOut) => {
                    self.refuse(&refused::head_timeout()).await;
                    break;
                }
            };
            let is_last = number == most || self.is_ending();
            match self.one(request, is_last).await {
                Next::Request => {}
                Next::Close => break,
                Next::Tunnel(tunnel) => {
                    return Some((*tunnel, std::mem::take(&mut self.buf)));
                }
            }
        }
        None
    }

    /// Whether the connection is to end after the present request.
    fn is_ending(&self) -> bool {
        let is_too_old = || self.cx.worker.now() >= self.expires;
        self.cx.drain.is_draining() || self.expires != Instant::FAR_FUTURE && is_too_old()
    }

    /// Waits for a head.
    async fn next_request(
        &mut self,
        is_first: bool,
        mut drain: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<ParsedRequest, NoRequest> {
        let limits = codec_limits(&self.cx.hcm.limits);
        let timeouts = &self.cx.hcm.timeouts;
        let (mut waiting_since, mut head_since) = (None, None);
        loop {
            let parsed = self.decoder.decode_head(&mut self.buf, &limits);
            if let Some(request) = parsed.map_err(NoRequest::Refused)? {
                return Ok(request);
            }
            let is_within = self.decoder.is_within_head() || !self.buf.is_empty();
            let since = if is_within {
                &mut head_since
            } else {
                &mut waiting_since
            };
            let since = *since.get_or_insert_with(|| self.cx.worker.now());
            let bound = if is_within {
                // The bytes of a head do not move the bound: a dribbled head is cut all the same.
                timeouts.request_head.or(timeouts.stream_idle)
            } else {
                timeouts.idle
            };
            let deadline = bound
                .map_or(Instant::FAR_FUTURE, |bound| since + bound)
                .min(self.age_bound(is_within));
            let may_end = !is_within && !is_first;
            tokio::select! {
                biased;
                read = self.stream.read_buf(&mut self.buf) => match read {
                    Ok(0) if is_within => return Err(NoRequest::Refused(Refusal::Truncated)),
                    Ok(0) | Err(_) => return Err(NoRequest::Ended),
                    Ok(_) => {}
                },
                () = drain.as_mut(), if may_end => return Err(NoRequest::Ended),
                () = self.timer.until(deadline) => {
                    return Err(if is_within { NoRequest::TimedOut } else { NoRequest::Ended });
                }
            }
        }
    }

    /// An idle connection that is too old ends; one with a request under way does not.
    const fn age_bound(&self, is_within: bool) -> Instant {
        if is_within {
            Instant::FAR_FUTURE
        } else {
            self.expires
        }
    }

    async fn one(&mut self, request: ParsedRequest, is_last: bool) -> Next {
        let ParsedRequest {
            head,
            framing,
            keep_alive,
            upgrade,
            ..
        } = request;
        let limits = codec_limits(&self.cx.hcm.limits);
        let mut body = BodyDecoder::new(framing, &limits);
        let asked = Asked::of(&head.method, upgrade.is_some());
        let is_kept = keep_alive && !is_last;
        let persistence = if is_kept {
            Persistence::KeepAlive
        } else {
            Persistence::Close
        };
        let h1 = H1Responder::new(self.stream, &mut self.out, head.version, asked, persistence);
        let mut out = Responder::H1(h1);
        let incoming = Incoming {
            body: if framing.is_empty() {
                RequestBody::Empty
            } else {
                RequestBody::H1(H1Body::new(self.stream, &mut self.buf, &mut body))
            },
            head,
            framing,
            upgrade,
        };
        let ended = exchange(self.cx, incoming, &mut out, &mut self.timer).await;
        let Ended { tunnel, spare } = ended;
        if let Some(tunnel) = tunnel {
            return Next::Tunnel(Box::new(tunnel));
        }
        self.decoder.recycle(spare);
        let Responder::H1(h1) = out else {
            return Next::Close;
        };
        let is_over = h1.persistence() == Persistence::Close || !h1.is_self_delimited();
        if is_over || !body.is_done() {
            self.linger(!body.is_done()).await;
            return Next::Close;
        }
        Next::Request
    }

    /// Answers bytes that are no request, and ends the connection.
    async fn refuse(&mut self, refusal: &refused::Refused) {
        self.cx.stats.on_protocol_error();
        let h1 = H1Responder::new(
            self.stream,
            &mut self.out,
            Version::Http11,
            Asked::Plain,
            Persistence::Close,
        );
        let mut out = Responder::H1(h1);
        let version = Version::Http11;
        refused::answer(self.cx, version, refusal, &mut out, &mut self.timer).await;
        self.linger(true).await;
    }

    /// Ends our half and gives the peer time to read the answer: closing with its bytes unread
    /// would make the operating system reset the connection and the answer with it.
    async fn linger(&mut self, has_unread: bool) {
        if self.stream.shutdown_write().is_err() || !has_unread {
            return;
        }
        let until = self.cx.worker.now() + self.cx.hcm.timeouts.delayed_close;
        let drop_all = async {
            loop {
                self.buf.clear();
                match self.stream.read_buf(&mut self.buf).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        tokio::select! {
            biased;
            () = drop_all => {}
            () = self.timer.until(until) => {}
        }
    }
}

enum Next {
    Request,
    Close,
    Tunnel(Box<Tunnel>),
}
