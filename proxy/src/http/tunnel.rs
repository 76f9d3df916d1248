// SPDX-License-Identifier: Apache-2.0
//! Connections that stopped speaking HTTP: an upgrade that both sides agreed on, or CONNECT.
//!
//! The exchange ends with the head of the answer; what flows afterwards are bytes, relayed by
//! `network`. The request is counted and logged when they end.

use bytes::BytesMut;
use remora_balance::Permit;
use remora_http::{RequestHead, ResponseHead, Version};
use remora_primitives::Instant;

use super::exchange::{Context, began};
use super::record::{Record, Summary};
use crate::network::relay::RelayLimits;
use crate::upstream;

/// The upstream's side of a tunnel, with what counts it.
#[derive(Debug)]
pub struct Switched {
    /// The connection.
    pub upstream: upstream::Tunnelled,
    /// What the upstream sent behind its head.
    pub first: BytesMut,
    /// The request still counts against the cluster's limit.
    pub permit: Option<Permit>,
}

/// A tunnel, ready to be relayed.
#[derive(Debug)]
pub struct Tunnel {
    /// The upstream's side.
    pub switched: Switched,
    /// The bounds that the route gives it.
    pub limits: RelayLimits,
    /// Written when it ends.
    pub log: PendingLog,
}

/// An exchange that became a tunnel: counted and logged when the tunnel ends.
#[derive(Debug)]
pub struct PendingLog {
    pub(super) head: RequestHead,
    pub(super) version: Version,
    pub(super) started: Instant,
    pub(super) response: Option<ResponseHead>,
    pub(super) summary: Summary,
}

impl PendingLog {
    /// Counts and logs a tunnel that carried so many bytes.
    pub fn finish(mut self, cx: &Context, received: u64, sent: u64) {
        let took = cx.worker.now() - self.started;
        self.summary.duration = Some(took);
        self.summary.bytes_received = received;
        self.summary.bytes_sent = sent;
        cx.stats.on_end(&self.summary, took);
        let record = Record {
            connection: &cx.connection,
            start: began(took),
            request: Some(&self.head),
            version: Some(self.version),
            response: self.response.as_ref(),
            trailers: None,
            summary: &self.summary,
        };
        cx.worker.logs.log(&cx.hcm.access_logs, &record);
    }
}
