// SPDX-License-Identifier: Apache-2.0
//! The local HTTP ports: admin on loopback, metrics for Prometheus, readiness for the kubelet.
//!
//! Paths and words are Envoy's. Pages only read, but for those that are marked as changing
//! something, which ask for POST. Everything runs on the control thread and is bounded there
//! ([`server`]); what takes long to make (a dump) is made on a helper thread.
//!
//! Invariant: nothing here changes the configuration, and no client can hold the thread.

mod clusters;
mod config_dump;
mod guard;
mod pages;
mod query;
mod server;
mod server_info;
mod stats;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use remora_rt::publish::Publisher;
use remora_telemetry::Used;
use remora_xds_client::Status;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::control::last_good::Kept;
use crate::control::sockets::Closed;
use crate::control::{Command, Report};
use crate::state::{Live, Shared};

use query::Query;
use server::Answer;

pub use stats::Computed;

/// What the pages are made of.
#[derive(Debug)]
pub struct Admin {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The configuration in use.
    pub live: Arc<Publisher<Live>>,
    /// Asks the control task.
    pub commands: mpsc::WeakSender<Command>,
    /// How the connection to the control plane is doing, if there is one.
    pub control_plane: Option<watch::Receiver<Status>>,
    /// How the file of the last good configuration is doing.
    pub kept: Arc<Kept>,
    /// Ends the process.
    pub quit: Arc<Notify>,
    /// How long a drain that is asked for here may take.
    pub drain_time: Duration,
    /// Worker threads.
    pub workers: usize,
    /// The bootstrap file as it was read.
    pub file: Option<serde_json::Value>,
    /// Gauges that are brought up to date when they are read.
    pub computed: Computed,
}

impl Admin {
    /// Serves the admin port.
    pub async fn serve_admin(self: Arc<Self>, listener: TcpListener) -> std::io::Result<()> {
        let handle = move |request| pages::answer(Arc::clone(&self), request);
        server::serve(listener, handle).await
    }

    /// Serves metrics at `/stats/prometheus` and `/metrics`.
    pub async fn serve_prometheus(self: Arc<Self>, listener: TcpListener) -> std::io::Result<()> {
        let handle = move |request: Request<Incoming>| {
            let admin = Arc::clone(&self);
            async move {
                match request.uri().path() {
                    "/stats/prometheus" | "/metrics" if is_reading(&request) => {
                        admin.computed.show(&admin);
                        stats::prometheus(&admin, Used::All)
                    }
                    _ => text(StatusCode::NOT_FOUND, "not found; see /stats/prometheus\n"),
                }
            }
        };
        server::serve(listener, handle).await
    }

    /// Serves readiness at `/healthz/ready`.
    pub async fn serve_readiness(self: Arc<Self>, listener: TcpListener) -> std::io::Result<()> {
        let handle = move |request: Request<Incoming>| {
            let admin = Arc::clone(&self);
            async move {
                match request.uri().path() {
                    "/healthz/ready" if is_reading(&request) => server_info::ready(&admin),
                    _ => text(StatusCode::NOT_FOUND, "not found; see /healthz/ready\n"),
                }
            }
        };
        server::serve(listener, handle).await
    }

    /// The state of the road of updates; `None` while the process ends.
    async fn report(&self) -> Option<Report> {
        let (answer, report) = oneshot::channel();
        let commands = self.commands.upgrade()?;
        commands.send(Command::Report(answer)).await.ok()?;
        drop(commands);
        report.await.ok()
    }

    /// Has listening addresses given up; nothing to do while the process ends.
    async fn close(&self, what: Closed, after: Duration) {
        if let Some(commands) = self.commands.upgrade() {
            // An error says that the control task, and every address with it, is gone.
            let _ = commands.send(Command::Close { what, after }).await;
        }
    }
}

fn is_reading<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Answer {
    answer(status, "text/plain; charset=UTF-8", body)
}

fn json(value: &serde_json::Value) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<bytes::Bytes>) -> Answer {
    let mut answer = Answer::new(http_body_util::Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(kind),
    );
    let fixed = [
        (http::header::CACHE_CONTROL, "no-cache, max-age=0"),
        (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fixed {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    answer
}

/// Whether a page is wanted as JSON.
fn wants_json(query: &Query) -> bool {
    query.find("format") == Some("json")
}

#[cfg(test)]
mod tests;
