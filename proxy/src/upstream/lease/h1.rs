// SPDX-License-Identifier: Apache-2.0
//! One exchange over HTTP/1.
//!
//! The writer encodes into a buffer that the connection keeps; small pieces of body are copied
//! behind the head, large ones leave in the same vectored write. The reader decodes from a buffer
//! that the connection keeps; data are slices of it. What is half-way when a call is dropped stays
//! here, so both halves can be used under `select`.

use std::cell::Cell;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use remora_balance::HostRecord;
use remora_http::h1::{
    Asked, BodyDecoder, BodyEvent, Limits, Persistence, RequestWire, ResponseDecoder,
    ResponseEvent, encode_chunk_header, encode_last_chunk, encode_request,
};
use remora_http::{BodyFraming, HeaderMap, RequestHead};
use remora_rt::clock;

use super::{InUse, RequestStart, Tunnelled};
use crate::frame::Frame;
use crate::stream::Stream;
use crate::upstream::error::{BadRequest, Failure, Fault, Sent, UpstreamError};
use crate::upstream::pool::h1::{H1Connection, Taken};
use crate::upstream::pool::{Entry, Kept};

/// Pieces up to this size are copied behind what stands before them: one buffer costs the kernel
/// less than a vector of three, and the copy is in the cache anyway. Unit: bytes.
const COPY_UP_TO: usize = 2 * 1024;

/// A connection for one exchange.
#[derive(Debug)]
pub struct H1Lease {
    connection: Box<H1Connection>,
    entry: Rc<Entry>,
    in_use: InUse,
    progress: Progress,
}

/// What both halves know of the exchange.
#[derive(Debug)]
struct Progress {
    /// Set when the head is encoded, taken when the reader looks for the answer.
    asked: Cell<Option<Asked>>,
    sent: Cell<Sent>,
    received: Cell<bool>,
    reused: bool,
}

/// What is on its way to the upstream.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Sending {
    /// Heads, chunk headers, small pieces.
    out: BytesMut,
    /// A large piece, after `out`.
    body: Bytes,
    /// What ends it.
    tail: &'static [u8],
    /// How much of `out` belongs to the head.
    head_left: usize,
    framing: Option<BodyFraming>,
    /// Bytes of body still to come, if it was announced how many.
    left: u64,
    is_complete: bool,
}

/// What comes from the upstream.
#[derive(Debug)]
pub(in crate::upstream) struct Receiving {
    buf: BytesMut,
    decoder: ResponseDecoder,
    body: BodyDecoder,
    limits: Limits,
    is_at_end: bool,
}

/// The half that sends the request.
#[derive(Debug)]
pub struct H1Writer<'l> {
    half: Half<'l>,
    sending: &'l mut Sending,
}

/// The half that receives the response.
#[derive(Debug)]
pub struct H1Reader<'l> {
    half: Half<'l>,
    receiving: &'l mut Receiving,
}

/// What both halves share.
#[derive(Clone, Copy, Debug)]
struct Half<'l> {
    stream: &'l Stream,
    kept: &'l Kept,
    in_use: &'l InUse,
    progress: &'l Progress,
}

impl H1Lease {
    pub(super) fn new(taken: Taken, in_use: InUse) -> Self {
        taken.connection.kept.guard.set_busy(true);
        Self {
            connection: taken.connection,
            entry: taken.entry,
            in_use,
            progress: Progress {
                asked: Cell::new(None),
                sent: Cell::default(),
                received: Cell::new(false),
                reused: taken.reused,
            },
        }
    }

    pub(super) const fn reused(&self) -> bool {
        self.progress.reused
    }

    pub(super) const fn host(&self) -> &Arc<HostRecord> {
        self.in_use.host()
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.connection.stream.local_addr().ok()
    }

    pub(super) fn split(&mut self) -> (H1Writer<'_>, H1Reader<'_>) {
        let connection = &mut *self.connection;
        let half = Half {
            stream: &connection.stream,
            kept: &connection.kept,
            in_use: &self.in_use,
            progress: &self.progress,
        };
        let writer = H1Writer {
            half,
            sending: &mut connection.sending,
        };
        let reader = H1Reader {
            half,
            receiving: &mut connection.receiving,
        };
        (writer, reader)
    }

    pub(super) fn finish(self) -> bool {
        let Self {
            connection,
            entry,
            in_use,
            ..
        } = self;
        in_use.on_end();
        let kept = &connection.kept;
        kept.guard.set_busy(false);
        if connection.receiving.is_at_end {
            kept.guard.on_remote_close();
        }
        let may_stay = connection.sending.is_complete()
            && connection.receiving.is_reusable()
            && entry.wants(kept.settings())
            && kept.may_stay(clock::now());
        if may_stay {
            entry.put_back(connection);
        }
        may_stay
    }

    pub(super) fn close(self) {
        self.in_use.on_end();
        self.connection.kept.guard.set_busy(false);
    }

    pub(super) fn into_tunnel(self) -> (Tunnelled, BytesMut) {
        let Self {
            connection, in_use, ..
        } = self;
        let H1Connection {
            stream,
            receiving,
            kept,
            ..
        } = *connection;
        in_use.on_end();
        let mut guard = kept.guard;
        guard.set_busy(false);
        guard.leave_pool();
        let tunnelled = Tunnelled {
            stream,
            guard,
            _active: in_use,
        };
        (tunnelled, receiving.buf)
    }
}

impl H1Writer<'_> {
    pub(super) fn send_head(
        &mut self,
        head: &RequestHead,
        start: &RequestStart<'_>,
    ) -> Result<(), UpstreamError> {
        let is_last = self.half.kept.on_request();
        let wire = RequestWire {
            framing: start.framing,
            persistence: if is_last {
                Persistence::Close
            } else {
                Persistence::KeepAlive
            },
            upgrade: start.upgrade,
        };
        let framing = encode_request(head, &wire, &mut self.sending.out)
            .map_err(|error| self.half.fail(Failure::Request(BadRequest::Http1(error))))?;
        let sending = &mut *self.sending;
        sending.head_left = sending.out.len();
        sending.framing = Some(framing);
        sending.left = match framing {
            BodyFraming::Length(length) => length,
            _ => 0,
        };
        sending.is_complete = false;
        let asked = Asked::of(&head.method, start.upgrade.is_some());
        self.half.progress.asked.set(Some(asked));
        Ok(())
    }

    pub(super) async fn data(&mut self, bytes: Bytes) -> Result<(), UpstreamError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.sending
            .push(bytes)
            .map_err(|error| self.half.fail(Failure::Request(error)))?;
        self.flush().await
    }

    pub(super) async fn finish(
        &mut self,
        trailers: Option<HeaderMap>,
    ) -> Result<(), UpstreamError> {
        self.sending
            .end(trailers.as_ref())
            .map_err(|error| self.half.fail(Failure::Request(error)))?;
        self.flush().await
    }

    pub(super) async fn flush(&mut self) -> Result<(), UpstreamError> {
        let stream = self.half.stream;
        while self.sending.has_pending() {
            match self.sending.try_write(stream) {
                Ok(sent) => {
                    let before = self.half.progress.sent.get();
                    self.half.progress.sent.set(before.max(sent));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let waited = stream.writable().await;
                    waited.map_err(|error| self.half.terminated(&error))?;
                }
                Err(error) => return Err(self.half.terminated(&error)),
            }
        }
        Ok(())
    }
}

impl H1Reader<'_> {
    pub(super) async fn head(&mut self) -> Result<ResponseEvent, UpstreamError> {
        loop {
            if let Some(asked) = self.half.progress.asked.take() {
                self.receiving.decoder.start(asked);
            }
            let receiving = &mut *self.receiving;
            let decoded = receiving
                .decoder
                .decode_head(&mut receiving.buf, &receiving.limits);
            match decoded.map_err(|refusal| self.half.fail(Failure::Response(refusal)))? {
                Some(event) => {
                    if let ResponseEvent::Final(parsed) = &event {
                        receiving.body = BodyDecoder::new(parsed.framing, &receiving.limits);
                        if !parsed.keep_alive {
                            self.half.kept.guard.stats().cx_close_notify.increment();
                        }
                    }
                    return Ok(event);
                }
                None if self.read().await? == 0 => {
                    self.half.kept.guard.on_remote_close();
                    return Err(self.half.fail(Failure::Terminated(None)));
                }
                None => {}
            }
        }
    }

    pub(super) async fn frame(&mut self) -> Result<Option<Frame>, UpstreamError> {
        loop {
            if let Some(frame) = self.decode_frame()? {
                return Ok(frame);
            }
            if self.read().await? == 0 {
                self.on_end_of_stream()?;
            }
        }
    }

    pub(super) fn try_frame(&mut self) -> Poll<Result<Option<Frame>, UpstreamError>> {
        loop {
            if let Some(frame) = self.decode_frame()? {
                return Poll::Ready(Ok(frame));
            }
            match self.half.stream.try_read_buf(&mut self.receiving.buf) {
                Ok(0) => self.on_end_of_stream()?,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(self.half.terminated(&error))),
            }
        }
    }

    pub(super) fn recycle(&mut self, headers: HeaderMap) {
        self.receiving.decoder.recycle(headers);
    }

    /// `None` if more bytes are needed.
    fn decode_frame(&mut self) -> Result<Option<Option<Frame>>, UpstreamError> {
        let receiving = &mut *self.receiving;
        match receiving.body.decode(&mut receiving.buf) {
            Ok(BodyEvent::Data(bytes)) => Ok(Some(Some(Frame::Data(bytes)))),
            Ok(BodyEvent::Trailers(trailers)) => Ok(Some(Some(Frame::Trailers(trailers)))),
            Ok(BodyEvent::End) => Ok(Some(None)),
            Ok(BodyEvent::NeedMore) => Ok(None),
            Err(refusal) => Err(self.half.fail(Failure::Response(refusal))),
        }
    }

    async fn read(&mut self) -> Result<usize, UpstreamError> {
        let read = self.half.stream.read_buf(&mut self.receiving.buf).await;
        let read = read.map_err(|error| self.half.terminated(&error))?;
        if read > 0 {
            self.half.progress.received.set(true);
        }
        Ok(read)
    }

    fn on_end_of_stream(&mut self) -> Result<(), UpstreamError> {
        self.half.kept.guard.on_remote_close();
        self.receiving.is_at_end = true;
        let complete = self.receiving.body.on_eof();
        complete.map_err(|refusal| self.half.fail(Failure::Response(refusal)))
    }
}

impl Half<'_> {
    /// Makes an error of a failure, and counts it.
    fn fail(&self, kind: Failure) -> UpstreamError {
        match &kind {
            Failure::Response(_) => {
                self.kept.guard.stats().cx_protocol_error.increment();
                self.in_use.on_end();
            }
            Failure::Terminated(_) => self.in_use.on_remote_reset(),
            _ => {}
        }
        UpstreamError {
            kind,
            sent: self.progress.sent.get(),
            received: self.progress.received.get(),
            reused: self.progress.reused,
        }
    }

    fn terminated(&self, error: &std::io::Error) -> UpstreamError {
        self.kept.guard.on_remote_close();
        self.fail(Failure::Terminated(Some(Fault::new(error))))
    }
}

impl Sending {
    /// Takes in a piece of the body.
    fn push(&mut self, bytes: Bytes) -> Result<(), BadRequest> {
        self.settle();
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let end: &'static [u8] = match self.framing {
            Some(BodyFraming::Length(_)) => {
                self.left = self.left.checked_sub(length).ok_or(BadRequest::Length)?;
                b""
            }
            Some(BodyFraming::Chunked) => {
                encode_chunk_header(length, &mut self.out);
                b"\r\n"
            }
            _ => return Err(BadRequest::Length),
        };
        if bytes.len() <= COPY_UP_TO {
            self.out.extend_from_slice(&bytes);
            self.out.extend_from_slice(end);
        } else {
            self.body = bytes;
            self.tail = end;
        }
        Ok(())
    }

    /// Takes in the end of the request. A second call changes nothing.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), BadRequest> {
        if self.is_complete {
            return Ok(());
        }
        self.settle();
        match self.framing {
            Some(BodyFraming::Chunked) => encode_last_chunk(trailers, &mut self.out),
            Some(BodyFraming::Length(_)) if self.left > 0 => return Err(BadRequest::Length),
            _ => {}
        }
        self.is_complete = true;
        Ok(())
    }

    /// Puts the rest of a large piece, whose sending was dropped half-way, into the buffer, so
    /// that something can be put behind it.
    fn settle(&mut self) {
        if !self.body.is_empty() || !self.tail.is_empty() {
            self.out.extend_from_slice(&std::mem::take(&mut self.body));
            self.out.extend_from_slice(std::mem::take(&mut self.tail));
        }
    }

    fn has_pending(&self) -> bool {
        !(self.out.is_empty() && self.body.is_empty() && self.tail.is_empty())
    }

    /// Writes once; says what the request's progress is now.
    fn try_write(&mut self, stream: &Stream) -> std::io::Result<Sent> {
        let written = if self.body.is_empty() && self.tail.is_empty() {
            stream.try_write(&self.out)?
        } else {
            let parts = [&self.out[..], &self.body[..], self.tail].map(IoSlice::new);
            stream.try_write_vectored(&parts)?
        };
        Ok(self.advance(written))
    }

    fn advance(&mut self, written: usize) -> Sent {
        let sent = if written > self.head_left {
            Sent::Body
        } else {
            Sent::Head
        };
        self.head_left = self.head_left.saturating_sub(written);
        let of_out = written.min(self.out.len());
        self.out.advance(of_out);
        let of_body = (written - of_out).min(self.body.len());
        self.body.advance(of_body);
        let of_tail = written - of_out - of_body;
        self.tail = self.tail.get(of_tail..).unwrap_or_default();
        if self.body.is_empty() {
            // Gives the piece's memory back now, not with the next one.
            self.body = Bytes::new();
        }
        sent
    }

    fn is_complete(&self) -> bool {
        self.is_complete && !self.has_pending()
    }

    pub(in crate::upstream) fn trim(&mut self) {
        self.out = BytesMut::new();
    }
}

impl Receiving {
    pub(in crate::upstream) fn new(limits: Limits) -> Self {
        Self {
            buf: BytesMut::new(),
            decoder: ResponseDecoder::new(),
            body: BodyDecoder::new(BodyFraming::Empty, &limits),
            limits,
            is_at_end: false,
        }
    }

    fn is_reusable(&self) -> bool {
        !self.is_at_end && self.decoder.reusable(&self.body, &self.buf)
    }

    pub(in crate::upstream) fn trim(&mut self) {
        self.buf = BytesMut::new();
    }
}
