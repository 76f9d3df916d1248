// SPDX-License-Identifier: Apache-2.0
//! `GET /status`: the sources' findings and the connected nodes, as JSON, for `remora status`.
//!
//! A small HTTP/1 server for people and scripts on the control plane's machine. `GET /ready`
//! answers 200 once the source was read. Nothing can be changed here.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] connections are served, each for at most
//! [`MAX_LIFETIME`]; more wait in the kernel's queue.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use remora_rt::drain::Watch;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::registry::{NodeStatus, Registry};
use crate::store::{StoreReader, StoreStatus};

/// The page.
#[derive(Clone, Debug)]
pub struct StatusPage {
    store: StoreReader,
    registry: Registry,
}

/// Everything that is shown.
#[derive(Clone, Debug, Serialize)]
pub struct ControlPlaneStatus {
    /// Program and version.
    pub version: &'static str,
    /// What was read, and what is wrong with it.
    pub source: StoreStatus,
    /// Who is connected.
    pub nodes: Vec<NodeStatus>,
}

impl StatusPage {
    /// A page about this store and these streams.
    #[must_use]
    pub const fn new(store: StoreReader, registry: Registry) -> Self {
        Self { store, registry }
    }

    /// What is shown, as of now.
    #[must_use]
    pub fn status(&self) -> ControlPlaneStatus {
        ControlPlaneStatus {
            version: concat!("remora/", env!("CARGO_PKG_VERSION")),
            source: self.store.status().as_ref().clone(),
            nodes: self.registry.nodes(),
        }
    }

    /// Serves until the drain begins.
    pub async fn serve(self, listener: TcpListener, drain: Watch) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                // The semaphore is never closed.
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, listener.accept().await)
            };
            tokio::select! {
                () = drain.graceful() => return,
                (permit, accepted) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let page = self.clone();
                        connections.spawn(async move {
                            let _permit = permit;
                            page.converse(stream).await;
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "status page: accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn converse(self, stream: TcpStream) {
        let service = service_fn(move |request| {
            let response = self.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(MAX_LIFETIME)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(MAX_LIFETIME, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "status page: connection failed"),
            Err(_) => tracing::debug!("status page: connection took too long"),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, body) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/status") => match serde_json::to_string_pretty(&self.status()) {
                Ok(json) => (StatusCode::OK, json),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            (&Method::GET, "/ready") if self.store.model().revision() > 0 => {
                (StatusCode::OK, "ready\n".to_owned())
            }
            (&Method::GET, "/ready") => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the source was not read yet\n".to_owned(),
            ),
            (_, "/status" | "/ready") => (
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET is served\n".to_owned(),
            ),
            _ => (
                StatusCode::NOT_FOUND,
                "there is /status and /ready\n".to_owned(),
            ),
        };
        let is_json = status == StatusCode::OK && body.starts_with('{');
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let kind = if is_json {
            "application/json"
        } else {
            "text/plain; charset=utf-8"
        };
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

/// Connections served at a time.
const MAX_CONNECTIONS: usize = 32;

/// How long a connection may last.
const MAX_LIFETIME: Duration = Duration::from_secs(10);

/// The wait after a failed accept, which is nearly always a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
