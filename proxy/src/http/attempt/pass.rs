// SPDX-License-Identifier: Apache-2.0
//! Passing an answer down: its head with what is edited, its body as it comes, its end.
//!
//! From the head on there is no other attempt: whatever breaks now cuts the response, so that the
//! downstream sees that it is not whole. The host is judged by the head, or for gRPC by the status
//! that may come in the trailers.

use std::future::Future;

use remora_balance::{LocalOriginFailure, Outcome as HostOutcome};
use remora_http::h1::ParsedResponse;
use remora_http::{
    BodyFraming, HeaderMap, HeaderName, HeaderValue, ResponseHead, StatusCode, Version,
};

use super::{Attempts, Outcome};
use crate::frame::Frame;
use crate::http::deadline::Expired;
use crate::http::downstream::Responder;
use crate::http::exchange::Stop;
use crate::http::flags::Flags;
use crate::http::headers;
use crate::http::tunnel::Switched;
use crate::http::upload::{Interrupted, TURNS, Upload, UploadError, now};
use crate::upstream::{Lease, Reader, UpstreamError};

impl Attempts<'_, '_, '_> {
    /// A host has answered.
    pub(super) fn on_answered(&mut self, head: &ResponseHead, framing: BodyFraming) {
        let now = self.exchange.cx.worker.now();
        self.bounds.deadlines.on_answer();
        self.exchange.summary.response_duration = Some(now - self.exchange.started);
        self.stats.count_status(head.status);
        self.awaits_grpc_status = self.exchange.is_grpc
            && !framing.is_empty()
            && head.status == StatusCode::OK
            && !head.headers.contains(&HeaderName::GRPC_STATUS);
        if !self.awaits_grpc_status {
            let status = status_for_health(head.status, &head.headers);
            self.report(HostOutcome::Status(status));
        }
    }

    /// A gRPC answer has ended, with these trailers: only now is it known how the host did.
    pub(super) fn judge_grpc(&mut self, trailers: Option<&HeaderMap>) {
        if std::mem::take(&mut self.awaits_grpc_status) {
            let status =
                trailers.map_or(200, |trailers| status_for_health(StatusCode::OK, trailers));
            self.report(HostOutcome::Status(status));
        }
    }

    /// Passes an answer down to its end.
    pub(super) async fn pass<F>(
        &mut self,
        parsed: ParsedResponse,
        upload: &mut Upload<'_, F>,
        reader: &mut Reader<'_>,
        out: &mut Responder<'_>,
    ) -> Result<(), Stop>
    where
        F: Future<Output = Result<(), UploadError>>,
    {
        let ParsedResponse {
            mut head, framing, ..
        } = parsed;
        let exchange = &mut *self.exchange;
        if !exchange.cx.hcm.headers.suppress_envoy_headers {
            let took = exchange.cx.worker.now() - self.bounds.deadlines.attempt_began();
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let value = HeaderValue::from_number(millis);
            head.headers
                .insert(HeaderName::X_ENVOY_UPSTREAM_SERVICE_TIME, value);
        }
        if self.plan.host.attempt_count_in_response {
            headers::set_attempt_count(&mut head.headers, exchange.summary.attempts);
        }
        exchange.edit_response(&mut head, Some(&self.plan.edits));
        exchange.summary.status = Some(head.status.get());
        exchange.summary.details = Some("via_upstream".into());
        if !upload.is_complete() && exchange.version != Version::Http2 {
            // Whatever the downstream still sends of its request will not be waited for.
            out.close_after();
        }
        if exchange.upgrade.is_some() || exchange.cx.drain.is_draining() {
            // What follows a refused offer may not be HTTP; and who drains says so in time.
            out.close_after();
        }
        let written = out.head(&head, framing);
        exchange.response = Some(head);
        written?;
        self.relay(framing, upload, reader, out).await?;
        let took = self.exchange.cx.worker.now() - self.bounds.deadlines.attempt_began();
        self.stats.rq_time.record(took);
        if self.exchange.cx.hcm.access_logs.is_empty()
            && let Some(head) = self.exchange.response.take()
        {
            reader.recycle(head.headers);
        }
        Ok(())
    }

    async fn relay<F>(
        &mut self,
        framing: BodyFraming,
        upload: &mut Upload<'_, F>,
        reader: &mut Reader<'_>,
        out: &mut Responder<'_>,
    ) -> Result<(), Stop>
    where
        F: Future<Output = Result<(), UploadError>>,
    {
        let mut trailers = None;
        let mut turns = 0_u32;
        while !framing.is_empty() {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS) {
                let others = tokio::task::yield_now();
                let waited = upload.beside(self.bounds, others).await;
                waited.map_err(|why| self.broken(why))?;
            }
            let frame = match now(reader.frame()) {
                Some(frame) => frame,
                None => {
                    let wait = async {
                        out.flush().await?;
                        Ok(tokio::select! {
                            biased;
                            frame = reader.frame() => frame,
                            () = out.closed() => return Err(Stop::Gone),
                        })
                    };
                    let waited = upload.beside(self.bounds, wait).await;
                    waited.map_err(|why| self.broken(why))??
                }
            };
            match frame.map_err(|error| self.on_cut(&error))? {
                Some(Frame::Data(data)) => {
                    let length = data.len() as u64;
                    let sent = upload.beside(self.bounds, out.data(data)).await;
                    sent.map_err(|why| self.broken(why))??;
                    self.exchange.summary.bytes_sent += length;
                }
                Some(Frame::Trailers(fields)) => trailers = Some(fields),
                None => break,
            }
        }
        self.judge_grpc(trailers.as_ref());
        let finished = upload
            .beside(self.bounds, out.finish(trailers.as_ref()))
            .await;
        self.exchange.trailers = trailers;
        finished.map_err(|why| self.broken(why))??;
        Ok(())
    }

    /// The upstream broke off in the middle of its answer.
    fn on_cut(&self, error: &UpstreamError) -> Stop {
        if let Some(outcome) = error.outcome() {
            self.report(outcome);
        }
        Stop::Broken(error.flag(), error.details(true))
    }

    /// Turns both connections into a tunnel.
    pub(super) async fn switch(
        &mut self,
        mut head: ResponseHead,
        lease: Lease,
        out: &mut Responder<'_>,
    ) -> Result<Outcome, Stop> {
        self.on_answered(&head, BodyFraming::Empty);
        let asked = self.exchange.upgrade.clone().unwrap_or_default();
        // What the upstream chose; its field goes with the other hop-by-hop ones.
        let chosen = head
            .headers
            .get(&HeaderName::UPGRADE)
            .cloned()
            .unwrap_or(asked);
        self.exchange
            .edit_response(&mut head, Some(&self.plan.edits));
        self.exchange.summary.status = Some(head.status.get());
        self.exchange.summary.details = Some("via_upstream".into());
        let switched = tokio::select! {
            biased; // a head that could be written was written
            switched = out.switch(&head, &chosen) => switched?,
            why = self.bounds.expired() => return Err(self.broken(Interrupted::Expired(why))),
        };
        self.exchange.response = Some(head);
        match (switched, lease.into_tunnel()) {
            (true, Some((upstream, first))) => {
                let switched = Switched {
                    upstream,
                    first,
                    permit: None,
                };
                Ok(Outcome::Tunnel(Box::new(switched)))
            }
            _ => Err(Stop::Broken(
                Flags::UPSTREAM_PROTOCOL_ERROR,
                "upstream_protocol_error".into(),
            )),
        }
    }

    /// A bound was met, or the downstream failed, when the answer had begun.
    fn broken(&self, interrupted: Interrupted) -> Stop {
        let why = match interrupted {
            Interrupted::Downstream(error) => return error.into(),
            Interrupted::Expired(why) => why,
        };
        self.count_expired(why);
        let (flags, details) = match why {
            Expired::Idle => (Flags::STREAM_IDLE, "stream_idle_timeout"),
            Expired::MaxStream => (Flags::DURATION_TIMEOUT, "max_duration_timeout"),
            Expired::Request => (Flags::none(), "request_overall_timeout"),
            Expired::Overall | Expired::PerTry => {
                let timeout = LocalOriginFailure::Timeout;
                self.report(HostOutcome::LocalOriginFailure(timeout));
                (Flags::UPSTREAM_TIMEOUT, "response_timeout")
            }
        };
        Stop::Broken(flags, details.into())
    }
}

/// What an answer says of its host's health: for gRPC the status that its code stands for.
fn status_for_health(status: StatusCode, fields: &HeaderMap) -> u16 {
    match fields.get(&HeaderName::GRPC_STATUS).map(|code| &**code) {
        Some(b"2" | b"12" | b"13" | b"15") => 500,
        Some(b"14") => 503,
        Some(b"4") => 504,
        _ => status.get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_codes_stand_for_statuses() {
        for (code, expected) in [("0", 200), ("14", 503), ("4", 504), ("13", 500), ("5", 200)] {
            let mut fields = HeaderMap::new();
            fields.insert(HeaderName::GRPC_STATUS, HeaderValue::from_static(code));
            assert_eq!(
                status_for_health(StatusCode::OK, &fields),
                expected,
                "{code}"
            );
        }
    }
}
