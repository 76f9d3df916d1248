// SPDX-License-Identifier: Apache-2.0
//! The downstream's half of an exchange, whatever HTTP it speaks.
//!
//! [`RequestBody`] gives the frames of the request's body, [`Responder`] takes the response. The
//! two are used at the same time: an upstream may answer before it has the whole request. Both
//! borrow from the connection (`serve_h1`) or own a stream (`serve_h2`); the exchange sees no
//! difference.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use remora_http::h1::{
    Asked, BodyDecoder, BodyEvent, Limits, Persistence, Refusal, ResponseWire, encode_chunk_header,
    encode_last_chunk, encode_response,
};
use remora_http::{BodyFraming, HeaderMap, RequestHead, ResponseHead, StatusCode, Version};

use super::h2_convert;
use crate::frame::Frame;
use crate::stream::Stream;

/// Why the downstream can no longer be read from or written to.
#[derive(Debug, thiserror::Error)]
pub enum DownstreamError {
    /// It closed or reset the connection or stream.
    #[error("downstream went away")]
    Gone,
    /// Its body breaks the protocol.
    #[error("request body: {0}")]
    Refused(#[from] Refusal),
    /// It breaks HTTP/2.
    #[error("request stream: {0}")]
    H2(#[from] h2::Error),
    /// The response cannot be written: the upstream's head is not fit for HTTP/1.
    #[error("response head cannot be written")]
    Unwritable,
}

impl From<std::io::Error> for DownstreamError {
    /// Whatever the operating system says of a downstream socket, it is gone.
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

/// A request as it comes from the downstream.
#[derive(Debug)]
pub struct Incoming<'c> {
    /// The head, as it was sent.
    pub head: RequestHead,
    /// How the body's end is known; `Chunked` if only its end will tell.
    pub framing: BodyFraming,
    /// The protocols of an upgrade request.
    pub upgrade: Option<Bytes>,
    /// The body.
    pub body: RequestBody<'c>,
}

/// Where the frames of a request's body come from.
#[derive(Debug)]
pub enum RequestBody<'c> {
    /// There is none.
    Empty,
    /// HTTP/1.
    H1(H1Body<'c>),
    /// HTTP/2.
    H2(h2::RecvStream),
}

/// A body on an HTTP/1 connection.
#[derive(Debug)]
pub struct H1Body<'c> {
    stream: &'c Stream,
    buf: &'c mut BytesMut,
    decoder: &'c mut BodyDecoder,
}

impl<'c> H1Body<'c> {
    /// The body that follows a head; `buf` holds what was read beyond the head.
    pub fn new(stream: &'c Stream, buf: &'c mut BytesMut, decoder: &'c mut BodyDecoder) -> Self {
        Self {
            stream,
            buf,
            decoder,
        }
    }

    /// *Cancel safety*: safe; what was read stays in the connection's buffer.
    async fn frame(&mut self) -> Result<Option<Frame>, DownstreamError> {
        loop {
            match self.decoder.decode(self.buf)? {
                BodyEvent::Data(data) => return Ok(Some(Frame::Data(data))),
                BodyEvent::Trailers(trailers) => return Ok(Some(Frame::Trailers(trailers))),
                BodyEvent::End => return Ok(None),
                BodyEvent::NeedMore => {}
            }
            if self.stream.read_buf(self.buf).await? == 0 {
                return Err(DownstreamError::Gone);
            }
        }
    }
}

impl RequestBody<'_> {
    /// The next frame; `None` at the end.
    ///
    /// *Cancel safety*: safe.
    ///
    /// # Errors
    /// If the downstream went away or breaks its protocol.
    pub async fn frame(&mut self) -> Result<Option<Frame>, DownstreamError> {
        match self {
            Self::Empty => Ok(None),
            Self::H1(body) => body.frame().await,
            Self::H2(stream) => h2_convert::next_frame(stream).await.map_err(Into::into),
        }
    }

    /// Whether the frames that were taken are known to be all.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::H1(body) => body.decoder.is_done(),
            Self::H2(stream) => stream.is_end_stream(),
        }
    }
}

/// Takes the response to one request.
#[derive(Debug)]
pub enum Responder<'c> {
    /// HTTP/1.
    H1(H1Responder<'c>),
    /// HTTP/2.
    H2(H2Responder),
}

/// The response side of an HTTP/1 connection.
#[derive(Debug)]
pub struct H1Responder<'c> {
    stream: &'c Stream,
    out: &'c mut BytesMut,
    peer: Version,
    asked: Asked,
    persistence: Persistence,
    framing: Option<BodyFraming>,
    sent: u64,
    /// A write is under way; if it is given up, nobody knows how much of `out` was written.
    is_writing: bool,
}

/// The response side of an HTTP/2 stream.
#[derive(Debug)]
pub struct H2Responder {
    respond: h2::server::SendResponse<Bytes>,
    /// HEAD: no body is sent, whatever the head announces.
    is_head: bool,
    body: Option<h2::SendStream<Bytes>>,
    is_started: bool,
    is_ended: bool,
}

/// Response bytes gathered in the connection's buffer before they are written without having
/// been asked to: the size of a socket's usual first window, and of a reading step.
const GATHER: usize = 16 * 1024;

/// Data from this size on are written from where they are instead of being gathered.
const WRITE_THROUGH: usize = 4 * 1024;

impl<'c> H1Responder<'c> {
    /// A responder for a request that asked `asked` and came by version `peer`.
    pub const fn new(
        stream: &'c Stream,
        out: &'c mut BytesMut,
        peer: Version,
        asked: Asked,
        persistence: Persistence,
    ) -> Self {
        Self {
            stream,
            out,
            peer,
            asked,
            persistence,
            framing: None,
            sent: 0,
            is_writing: false,
        }
    }

    /// Whether the connection may carry another request after this response.
    pub const fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// Whether the response was written to its end in a way that lets the peer know it.
    pub fn is_self_delimited(&self) -> bool {
        self.framing
            .is_some_and(|framing| framing != BodyFraming::UntilClose)
    }

    fn head(
        &mut self,
        head: &ResponseHead,
        framing: BodyFraming,
        upgrade: Option<&Bytes>,
    ) -> Result<(), DownstreamError> {
        let wire = ResponseWire {
            framing,
            persistence: self.persistence,
            peer: self.peer,
            asked: self.asked,
            upgrade,
        };
        let written = encode_response(head, &wire, self.out);
        let framing = written.map_err(|_| DownstreamError::Unwritable)?;
        if !head.status.is_informational() || upgrade.is_some() {
            self.framing = Some(framing);
            if framing == BodyFraming::UntilClose {
                self.persistence = Persistence::Close;
            }
        }
        Ok(())
    }

    async fn data(&mut self, data: &Bytes) -> Result<(), DownstreamError> {
        if data.is_empty() || self.framing.is_none_or(BodyFraming::is_empty) {
            return Ok(());
        }
        self.sent = self.sent.saturating_add(data.len() as u64);
        let is_chunked = self.framing == Some(BodyFraming::Chunked);
        if is_chunked {
            encode_chunk_header(data.len() as u64, self.out);
        }
        if data.len() < WRITE_THROUGH {
            self.out.extend_from_slice(data);
        } else {
            self.is_writing = true;
            self.stream.write_vectored_all(self.out, data).await?;
            self.is_writing = false;
            self.out.clear();
        }
        if is_chunked {
            self.out.extend_from_slice(b"\r\n");
        }
        if self.out.len() >= GATHER {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), DownstreamError> {
        match self.framing {
            Some(BodyFraming::Chunked) => encode_last_chunk(trailers, self.out),
            // A short body must not look like a whole one.
            Some(BodyFraming::Length(length))
                if self.asked != Asked::Head && self.sent < length =>
            {
                self.persistence = Persistence::Close;
                self.flush().await?;
                return Err(DownstreamError::Gone);
            }
            _ => {}
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), DownstreamError> {
        if !self.out.is_empty() {
            self.is_writing = true;
            self.stream.write_all(self.out).await?;
            self.is_writing = false;
            self.out.clear();
        }
        Ok(())
    }

    /// What was gathered still goes, if that takes no wait.
    fn abort(&mut self) {
        self.persistence = Persistence::Close;
        if self.framing == Some(BodyFraming::UntilClose) {
            // A proper end would say that the body is whole.
            self.stream.abort();
        } else if !self.is_writing {
            // It fails if the peer is gone, and then nobody misses it.
            let _ = self.stream.try_write(self.out);
        }
        self.out.clear();
    }

    /// Waits until the peer closes. If it has closed behind bytes that nobody has read yet, they
    /// are for the body or a next request to find.
    async fn closed(&self) {
        self.stream.peer_closed().await;
        // Nothing wakes this up but the task itself, whose upload reads what is left of the body.
        poll_fn(|_| {
            if self.stream.has_ended() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl H2Responder {
    /// A responder for a stream; `is_head` says that it is a HEAD request's.
    pub const fn new(respond: h2::server::SendResponse<Bytes>, is_head: bool) -> Self {
        Self {
            respond,
            is_head,
            body: None,
            is_started: false,
            is_ended: false,
        }
    }

    fn head(&mut self, head: &ResponseHead, is_end: bool) -> Result<(), DownstreamError> {
        let response = h2_convert::response(head).ok_or(DownstreamError::Unwritable)?;
        let is_end = is_end || self.is_head || matches!(head.status.get(), 204 | 304);
        self.is_started = true;
        self.is_ended = is_end;
        self.body = Some(self.respond.send_response(response, is_end)?);
        Ok(())
    }

    async fn data(&mut self, data: Bytes) -> Result<(), DownstreamError> {
        let Some(body) = self.body.as_mut().filter(|_| !self.is_ended) else {
            return Ok(());
        };
        h2_convert::send_data(body, data).await.map_err(Into::into)
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), DownstreamError> {
        let Some(body) = self.body.as_mut().filter(|_| !self.is_ended) else {
            return Ok(());
        };
        self.is_ended = true;
        match trailers.map(h2_convert::fields) {
            Some(fields) => body.send_trailers(fields)?,
            None => body.send_data(Bytes::new(), true)?,
        }
        Ok(())
    }

    async fn closed(&mut self) {
        let reset = match &mut self.body {
            Some(body) => poll_fn(|cx| body.poll_reset(cx)).await,
            None => poll_fn(|cx| self.respond.poll_reset(cx)).await,
        };
        tracing::trace!(?reset, "downstream stream ended");
    }
}

impl Responder<'_> {
    /// Passes on a 1xx; dropped where the downstream could not understand it.
    ///
    /// # Errors
    /// If the downstream went away.
    pub async fn informational(&mut self, head: &ResponseHead) -> Result<(), DownstreamError> {
        match self {
            Self::H1(h1) => {
                h1.head(head, BodyFraming::Empty, None)?;
                h1.flush().await
            }
            Self::H2(h2) => h2_convert::send_informational(&mut h2.respond, head),
        }
    }

    /// Writes the head. It may stay in a buffer until there is something to send with it.
    ///
    /// # Errors
    /// If the head cannot be written, or the stream was reset.
    pub fn head(
        &mut self,
        head: &ResponseHead,
        framing: BodyFraming,
    ) -> Result<(), DownstreamError> {
        match self {
            Self::H1(h1) => h1.head(head, framing, None),
            Self::H2(h2) => h2.head(head, framing.is_empty()),
        }
    }

    /// Announces that the connection ends with this response.
    pub const fn close_after(&mut self) {
        if let Self::H1(h1) = self {
            h1.persistence = Persistence::Close;
        }
    }

    /// Writes the head that turns the connection into a tunnel, and flushes it. False if the
    /// downstream's HTTP has no such thing.
    ///
    /// # Errors
    /// If the downstream went away.
    pub async fn switch(
        &mut self,
        head: &ResponseHead,
        upgrade: &Bytes,
    ) -> Result<bool, DownstreamError> {
        let Self::H1(h1) = self else { return Ok(false) };
        h1.head(head, BodyFraming::Empty, Some(upgrade))?;
        h1.flush().await?;
        Ok(true)
    }

    /// Sends a piece of the body.
    ///
    /// # Errors
    /// If the downstream went away.
    pub async fn data(&mut self, data: Bytes) -> Result<(), DownstreamError> {
        match self {
            Self::H1(h1) => h1.data(&data).await,
            Self::H2(h2) => h2.data(data).await,
        }
    }

    /// Ends the response and flushes it.
    ///
    /// # Errors
    /// If the downstream went away, or got less than it was promised.
    pub async fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), DownstreamError> {
        match self {
            Self::H1(h1) => h1.finish(trailers).await,
            Self::H2(h2) => h2.finish(trailers),
        }
    }

    /// Writes what is gathered.
    ///
    /// # Errors
    /// If the downstream went away.
    pub async fn flush(&mut self) -> Result<(), DownstreamError> {
        match self {
            Self::H1(h1) => h1.flush().await,
            Self::H2(_) => Ok(()),
        }
    }

    /// Whether a final head was written.
    pub const fn is_started(&self) -> bool {
        match self {
            Self::H1(h1) => h1.framing.is_some(),
            Self::H2(h2) => h2.is_started,
        }
    }

    /// Breaks off a response that cannot be completed, so that the peer sees it is not whole.
    pub fn abort(&mut self) {
        match self {
            Self::H1(h1) => h1.abort(),
            Self::H2(h2) => match &mut h2.body {
                Some(body) => body.send_reset(h2::Reason::INTERNAL_ERROR),
                None => h2.respond.send_reset(h2::Reason::INTERNAL_ERROR),
            },
        }
    }

    /// Waits until the downstream has gone away.
    pub async fn closed(&mut self) {
        match self {
            Self::H1(h1) => h1.closed().await,
            Self::H2(h2) => h2.closed().await,
        }
    }

    /// The status of a refused request body.
    pub const fn refusal_status(error: &DownstreamError) -> Option<StatusCode> {
        match error {
            DownstreamError::Refused(refusal) => Some(refusal.status()),
            _ => None,
        }
    }
}

/// The codec's limits out of a connection manager's.
pub(super) const fn codec_limits(limits: &remora_ir::listener::HttpLimits) -> Limits {
    Limits {
        max_head_bytes: limits.max_head,
        max_headers: limits.max_fields,
        max_start_line_bytes: limits.max_head,
        max_chunk_ext_bytes: 4 * 1024,
        max_trailer_bytes: limits.max_head,
        accept_http10: true,
    }
}
