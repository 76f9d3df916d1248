// SPDX-License-Identifier: Apache-2.0
//! Listens on both sides of a new connection until it is known what it is.
//!
//! The shell around [`sniff`](super::sniff): it reads into buffers that it owns, dials when it is
//! told to, and hands everything on: the bytes of both sides and the connection to the upstream.

use std::future::poll_fn;
use std::io;

use bytes::BytesMut;
use remora_rt::clock;
use remora_rt::drain::Watch;

use super::sniff::{Detector, Heard, Step, Verdict};
use crate::http::timer::Timer;
use crate::network::tcp::{Dialling, Upstream};
use crate::stream::Stream;

/// What is known of a connection, and what was heard while finding out.
pub(super) struct Detected {
    /// What it is.
    pub(super) verdict: Verdict,
    /// Bytes of the downstream.
    pub(super) first: BytesMut,
    /// Bytes of the upstream.
    pub(super) greeting: BytesMut,
    /// The connection to the host that the TCP chain picked.
    pub(super) upstream: Upstream,
}

/// Finds out what is spoken on a connection. `dial` begins a connection to the host that the TCP
/// chain would pick; it is called at most once.
pub(super) async fn detect(
    stream: &Stream,
    mut detector: Detector,
    dial: impl FnOnce() -> Dialling,
    drain: &Watch,
) -> Detected {
    let mut ears = Ears {
        first: BytesMut::new(),
        greeting: BytesMut::new(),
        upstream: Upstream::NotDialled,
        client_ended: false,
    };
    let mut dial = Some(dial);
    let mut timer = Timer::new();
    // Bytes that came with the connection are seen before anybody is dialled for want of them.
    tokio::task::yield_now().await;
    let mut step = ears
        .poll_client(stream)
        .map(|()| detector.step(ears.heard(), clock::now()));
    let verdict = loop {
        match step {
            Err(_) => break Verdict::Gone,
            Ok(Step::Done(verdict)) => break verdict,
            Ok(Step::Dial) => {
                if let Some(dial) = dial.take() {
                    ears.upstream = Upstream::Dialling(dial());
                }
            }
            Ok(Step::Wait(until)) => {
                let heard = tokio::select! {
                    biased; // the client's bytes say more than a timer
                    heard = ears.listen(stream, &mut detector) => heard,
                    () = timer.until(until) => Ok(()),
                    () = drain.forced() => Err(io::ErrorKind::Interrupted.into()),
                };
                if heard.is_err() {
                    break Verdict::Gone;
                }
            }
        }
        step = Ok(detector.step(ears.heard(), clock::now()));
    };
    Detected {
        verdict,
        first: ears.first,
        greeting: ears.greeting,
        upstream: ears.upstream,
    }
}

/// What was heard so far, and who may still be heard.
struct Ears {
    first: BytesMut,
    greeting: BytesMut,
    upstream: Upstream,
    client_ended: bool,
}

impl Ears {
    fn heard(&self) -> Heard<'_> {
        Heard {
            client: &self.first,
            client_ended: self.client_ended,
            server: &self.greeting,
        }
    }

    /// Takes what the client has sent already.
    fn poll_client(&mut self, stream: &Stream) -> io::Result<()> {
        match stream.try_read_buf(&mut self.first) {
            Ok(read) => {
                self.client_ended = read == 0;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits for one event: bytes or the end of either side, or the end of the dial.
    ///
    /// *Cancel safety*: safe; what was read is kept.
    ///
    /// # Errors
    /// If the client broke the connection.
    async fn listen(&mut self, stream: &Stream, detector: &mut Detector) -> io::Result<()> {
        let event = tokio::select! {
            biased; // a client that speaks decides
            read = read_when_ready(stream, &mut self.first), if !self.client_ended => {
                Event::Client(read)
            }
            event = upstream_event(&mut self.upstream, &mut self.greeting) => event,
        };
        match event {
            Event::Client(read) => self.client_ended = read? == 0,
            Event::Dialled(result) => {
                match &result {
                    Ok(_) => detector.on_dialled(),
                    Err(_) => detector.on_dial_failed(clock::now()),
                }
                self.upstream = Upstream::Dialled(result);
            }
            Event::Server(Ok(1..)) => {}
            // It has nothing to say to a silent client; one that speaks gets a fresh connection.
            Event::Server(Ok(0) | Err(_)) => {
                self.upstream = Upstream::NotDialled;
                detector.on_dial_failed(clock::now());
            }
        }
        Ok(())
    }
}

enum Event {
    Client(io::Result<usize>),
    Dialled(Result<crate::network::dial::PreDialled, crate::network::dial::NotDialled>),
    Server(io::Result<usize>),
}

async fn upstream_event(upstream: &mut Upstream, greeting: &mut BytesMut) -> Event {
    match upstream {
        Upstream::Dialling(dialling) => {
            Event::Dialled(poll_fn(|cx| dialling.as_mut().poll(cx)).await)
        }
        Upstream::Dialled(Ok(up)) => Event::Server(read_when_ready(&up.stream, greeting).await),
        Upstream::NotDialled | Upstream::Dialled(Err(_)) => std::future::pending().await,
    }
}

/// Reads once there is something, so that a silent connection holds no buffer.
///
/// *Cancel safety*: safe.
async fn read_when_ready(stream: &Stream, buf: &mut BytesMut) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read_buf(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}
