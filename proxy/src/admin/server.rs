// SPDX-License-Identifier: Apache-2.0
//! Serves the local HTTP ports within bounds: so many connections, so long each.
//!
//! It accepts, bounds and hands requests to a function; what they mean is not its business. A
//! client that is slow, silent or greedy holds one of a fixed number of places for a fixed time,
//! and never the thread.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What a page answers: made whole before it is sent.
pub(super) type Answer = Response<Full<Bytes>>;

/// Serves a port until it is dropped; connections that are open then end with it.
///
/// *Cancel safety*: dropping the future closes the port.
pub(super) async fn serve<F, Fut>(listener: StdListener, handle: F) -> io::Result<()>
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The backlog waits in the kernel while all places are taken.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let handle = handle.clone();
                connections.spawn(async move {
                    serve_connection(stream, handle).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept on a local port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection: it is asked to end after [`MAX_AGE`], and ended after [`MAX_FAREWELL`] more.
async fn serve_connection<F, Fut>(stream: TcpStream, handle: F)
where
    F: Fn(Request<Incoming>) -> Fut,
    Fut: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answer = tokio::time::timeout(MAX_ANSWER, handle(request));
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|_| too_slow())) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(MAX_HEAD)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(MAX_AGE) => {
            connection.as_mut().graceful_shutdown();
            let farewell = tokio::time::timeout(MAX_FAREWELL, connection);
            farewell.await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a local HTTP connection ended");
    }
}

fn too_slow() -> Answer {
    let mut answer = Response::new(Full::from("the answer took too long\n"));
    *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    answer
}

/// Places for each port: a scraper, a probe and a few people.
const MAX_CONNECTIONS: usize = 64;
/// Time to send a whole head, also the longest silence between requests.
const MAX_HEAD: Duration = Duration::from_secs(30);
/// Unit: bytes; hyper's own minimum is 8 KiB.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Time to make an answer.
const MAX_ANSWER: Duration = Duration::from_secs(30);
/// Age at which a connection ends after its present answer.
const MAX_AGE: Duration = Duration::from_secs(120);
/// Time to read that answer.
const MAX_FAREWELL: Duration = Duration::from_secs(60);
/// Pause when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
