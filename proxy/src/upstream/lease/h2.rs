// SPDX-License-Identifier: Apache-2.0
//! One exchange over HTTP/2: a stream of a shared connection.
//!
//! The writer waits for flow control before it hands bytes over, so that nothing piles up inside
//! the connection; the reader gives each frame's bytes back to flow control as it hands the frame
//! out. What is half-way when a call is dropped stays here, so both halves can be used under
//! `select`.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use remora_balance::HostRecord;
use remora_http::h1::ResponseEvent;
use remora_http::{BodyFraming, HeaderMap, Method, RequestHead};

use super::h2_convert::{self, BadResponse};
use super::{InUse, RequestStart};
use crate::frame::Frame;
use crate::upstream::error::{BadRequest, Failure, Fault, Sent, UpstreamError};
use crate::upstream::pool::h2::{StreamHold, Taken};

/// A stream for one exchange.
#[derive(Debug)]
pub struct H2Lease {
    // The stream's ends go first, so that a reset is on its way before the hold is given back.
    sending: Sending,
    receiving: Receiving,
    progress: Progress,
    in_use: InUse,
    hold: StreamHold,
}

/// What both halves know of the exchange.
#[derive(Debug)]
struct Progress {
    /// The answer to come, from the writer to the reader.
    response: RefCell<Option<ResponseFuture>>,
    reader: RefCell<Option<Waker>>,
    is_connect: Cell<bool>,
    sent: Cell<Sent>,
    received: Cell<bool>,
    reused: bool,
}

#[derive(Debug)]
struct Sending {
    send: SendRequest<Bytes>,
    stream: Option<SendStream<Bytes>>,
    queued: Bytes,
    /// Bytes of body still to come, if it was announced how many.
    left: Option<u64>,
    end: End,
}

#[derive(Debug, Default)]
enum End {
    #[default]
    Open,
    /// To be said when all data are gone.
    Queued(Option<HeaderMap>),
    Said,
}

#[derive(Debug, Default)]
enum Receiving {
    #[default]
    Nothing,
    Head(ResponseFuture),
    Body(RecvStream),
    Done,
}

/// The half that sends the request.
#[derive(Debug)]
pub struct H2Writer<'l> {
    sending: &'l mut Sending,
    progress: &'l Progress,
    in_use: &'l InUse,
}

/// The half that receives the response.
#[derive(Debug)]
pub struct H2Reader<'l> {
    receiving: &'l mut Receiving,
    progress: &'l Progress,
    in_use: &'l InUse,
}

impl H2Lease {
    pub(super) fn new(taken: Taken, in_use: InUse) -> Self {
        Self {
            sending: Sending {
                send: taken.send,
                stream: None,
                queued: Bytes::new(),
                left: None,
                end: End::default(),
            },
            receiving: Receiving::default(),
            progress: Progress {
                response: RefCell::default(),
                reader: RefCell::default(),
                is_connect: Cell::new(false),
                sent: Cell::default(),
                received: Cell::new(false),
                reused: taken.reused,
            },
            in_use,
            hold: taken.hold,
        }
    }

    pub(super) const fn reused(&self) -> bool {
        self.progress.reused
    }

    pub(super) const fn host(&self) -> &Arc<HostRecord> {
        self.in_use.host()
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.hold.connection.local_addr
    }

    pub(super) fn split(&mut self) -> (H2Writer<'_>, H2Reader<'_>) {
        let writer = H2Writer {
            sending: &mut self.sending,
            progress: &self.progress,
            in_use: &self.in_use,
        };
        let reader = H2Reader {
            receiving: &mut self.receiving,
            progress: &self.progress,
            in_use: &self.in_use,
        };
        (writer, reader)
    }

    /// An answer that came before the request's end stands; the rest of the request is cut.
    pub(super) fn finish(mut self) -> bool {
        self.in_use.on_end();
        if !matches!(self.sending.end, End::Said)
            && let Some(stream) = &mut self.sending.stream
        {
            stream.send_reset(Reason::NO_ERROR);
        }
        self.hold.is_kept()
    }
}

impl H2Writer<'_> {
    pub(super) async fn send_head(
        &mut self,
        head: &RequestHead,
        start: &RequestStart<'_>,
    ) -> Result<(), UpstreamError> {
        let refused = |error| fail(self.progress, self.in_use, Failure::Request(error));
        if start.upgrade.is_some() {
            return Err(refused(BadRequest::Upgrade));
        }
        let request = h2_convert::request(head, start.framing).map_err(refused)?;
        let is_connect = head.method == Method::Connect;
        let is_end = start.framing.is_empty() && !is_connect;
        let sending = &mut *self.sending;
        let failed = |error| fail_h2(self.progress, self.in_use, &error);
        poll_fn(|cx| sending.send.poll_ready(cx))
            .await
            .map_err(failed)?;
        let (response, stream) = sending.send.send_request(request, is_end).map_err(failed)?;
        sending.stream = Some(stream);
        sending.left = match start.framing {
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Empty if !is_connect => Some(0),
            _ => None,
        };
        if is_end {
            sending.end = End::Said;
        }
        self.progress.is_connect.set(is_connect);
        self.progress.sent.set(Sent::Head);
        self.progress.answer_with(response);
        Ok(())
    }

    pub(super) async fn data(&mut self, bytes: Bytes) -> Result<(), UpstreamError> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if let Some(left) = &mut self.sending.left {
            let after = left.checked_sub(length);
            *left = after.ok_or_else(|| {
                let kind = Failure::Request(BadRequest::Length);
                fail(self.progress, self.in_use, kind)
            })?;
        }
        let queued = &mut self.sending.queued;
        *queued = if queued.is_empty() {
            bytes
        } else {
            // The sending of the last piece was dropped half-way.
            [&queued[..], &bytes[..]].concat().into()
        };
        self.flush().await
    }

    pub(super) async fn finish(
        &mut self,
        trailers: Option<HeaderMap>,
    ) -> Result<(), UpstreamError> {
        if self.sending.left.is_some_and(|left| left > 0) {
            let kind = Failure::Request(BadRequest::Length);
            return Err(fail(self.progress, self.in_use, kind));
        }
        if matches!(self.sending.end, End::Open) {
            self.sending.end = End::Queued(trailers);
        }
        self.flush().await
    }

    pub(super) async fn flush(&mut self) -> Result<(), UpstreamError> {
        let sending = &mut *self.sending;
        let Some(stream) = &mut sending.stream else {
            return Ok(());
        };
        let failed = |error| fail_h2(self.progress, self.in_use, &error);
        while !sending.queued.is_empty() {
            stream.reserve_capacity(sending.queued.len());
            let granted = match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(granted) => granted.map_err(failed)?,
                // The stream is closed for sending: the peer has reset it.
                None => {
                    let reason = poll_fn(|cx| stream.poll_reset(cx)).await.map_err(failed)?;
                    return Err(failed(reason.into()));
                }
            };
            let piece = sending.queued.split_to(granted.min(sending.queued.len()));
            if !piece.is_empty() {
                stream.send_data(piece, false).map_err(failed)?;
                self.progress.sent.set(Sent::Body);
            }
        }
        if let End::Queued(trailers) = &sending.end {
            let ended = match trailers {
                Some(trailers) => stream.send_trailers(h2_convert::fields(trailers)),
                None => stream.send_data(Bytes::new(), true),
            };
            ended.map_err(failed)?;
            sending.end = End::Said;
        }
        Ok(())
    }
}

impl H2Reader<'_> {
    pub(super) async fn head(&mut self) -> Result<ResponseEvent, UpstreamError> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    pub(super) async fn frame(&mut self) -> Result<Option<Frame>, UpstreamError> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    pub(super) fn try_frame(&mut self) -> Poll<Result<Option<Frame>, UpstreamError>> {
        self.poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseEvent, UpstreamError>> {
        if let Receiving::Nothing = self.receiving {
            *self.receiving = Receiving::Head(ready!(self.progress.poll_response(cx)));
        }
        let Receiving::Head(response) = &mut *self.receiving else {
            let kind = Failure::Http2("there is no further head".into());
            return Poll::Ready(Err(self.fail(kind)));
        };
        if let Poll::Ready(Some(informational)) = response.poll_informational(cx) {
            let informational = informational.map_err(|error| self.fail_h2(&error))?;
            self.progress.received.set(true);
            let head = h2_convert::response_head(informational.status(), informational.headers());
            let head = head.map_err(|error| self.malformed(error))?;
            return Poll::Ready(Ok(ResponseEvent::Informational(head)));
        }
        let answer = ready!(Pin::new(response).poll(cx)).map_err(|error| self.fail_h2(&error))?;
        self.progress.received.set(true);
        let (parts, body) = answer.into_parts();
        let is_connect = self.progress.is_connect.get();
        let parsed = h2_convert::response(parts, body.is_end_stream(), is_connect)
            .map_err(|error| self.malformed(error))?;
        *self.receiving = Receiving::Body(body);
        Poll::Ready(Ok(ResponseEvent::Final(parsed)))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, UpstreamError>> {
        let Receiving::Body(body) = &mut *self.receiving else {
            return Poll::Ready(Ok(None));
        };
        while let Some(data) = ready!(body.poll_data(cx)) {
            let data = data.map_err(|error| fail_h2(self.progress, self.in_use, &error))?;
            // It fails only for a stream that is gone, whose window nobody needs.
            let _ = body.flow_control().release_capacity(data.len());
            if !data.is_empty() {
                return Poll::Ready(Ok(Some(Frame::Data(data))));
            }
        }
        let trailers = ready!(body.poll_trailers(cx)).map_err(|error| self.fail_h2(&error))?;
        *self.receiving = Receiving::Done;
        let Some(trailers) = trailers else {
            return Poll::Ready(Ok(None));
        };
        let trailers =
            h2_convert::headers_from(&trailers).map_err(|error| self.malformed(error))?;
        Poll::Ready(Ok(Some(Frame::Trailers(trailers))))
    }

    fn fail(&self, kind: Failure) -> UpstreamError {
        fail(self.progress, self.in_use, kind)
    }

    fn fail_h2(&self, error: &h2::Error) -> UpstreamError {
        fail_h2(self.progress, self.in_use, error)
    }

    fn malformed(&self, error: BadResponse) -> UpstreamError {
        self.fail(Failure::Http2(error.to_string().into()))
    }
}

impl Progress {
    fn answer_with(&self, response: ResponseFuture) {
        *self.response.borrow_mut() = Some(response);
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    fn poll_response(&self, cx: &Context<'_>) -> Poll<ResponseFuture> {
        if let Some(response) = self.response.borrow_mut().take() {
            return Poll::Ready(response);
        }
        *self.reader.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Makes an error of a failure, and counts it.
fn fail(progress: &Progress, in_use: &InUse, kind: Failure) -> UpstreamError {
    match &kind {
        Failure::Http2(_) => in_use.stats().cx_protocol_error.increment(),
        Failure::Terminated(_) | Failure::Reset(_) | Failure::RefusedStream => {
            in_use.on_remote_reset();
        }
        _ => {}
    }
    UpstreamError {
        kind,
        sent: progress.sent.get(),
        received: progress.received.get(),
        reused: progress.reused,
    }
}

fn fail_h2(progress: &Progress, in_use: &InUse, error: &h2::Error) -> UpstreamError {
    fail(progress, in_use, failure_of(error))
}

/// What an error of the `h2` crate means. A stream that ends by GOAWAY was not acted on: `h2`
/// gives that error only to streams above the last one that the peer has named.
fn failure_of(error: &h2::Error) -> Failure {
    if let Some(io) = error.get_io() {
        return Failure::Terminated(Some(Fault::new(io)));
    }
    if !error.is_remote() {
        return Failure::Http2(error.to_string().into());
    }
    match error.reason() {
        Some(Reason::REFUSED_STREAM) => Failure::RefusedStream,
        _ if error.is_go_away() => Failure::RefusedStream,
        Some(reason) => Failure::Reset(reason.into()),
        None => Failure::Http2(error.to_string().into()),
    }
}
