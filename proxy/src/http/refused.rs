// SPDX-License-Identifier: Apache-2.0
//! Answers to what is no request: logged and counted like any other.

use remora_http::StatusCode;
use remora_http::h1::Refusal;

use super::downstream::{Incoming, Responder};
use super::exchange::{Context, answer_only};
use super::flags::Flags;
use super::reply::Reply;
use super::timer::Timer;

/// Why bytes are no request.
#[derive(Clone, Debug)]
pub struct Refused {
    status: StatusCode,
    details: &'static str,
    body: String,
}

/// A rule of the codec was broken; the answer names it.
pub fn refusal(refusal: &Refusal) -> Refused {
    Refused {
        status: refusal.status(),
        details: refusal.as_code(),
        body: refusal.to_string(),
    }
}

/// The head did not come in time.
pub fn head_timeout() -> Refused {
    Refused {
        status: StatusCode::REQUEST_TIMEOUT,
        details: "request_header_timeout",
        body: "request head was not complete in time".to_owned(),
    }
}

/// Answers and logs.
pub async fn answer(
    cx: &Context,
    incoming: Incoming<'_>,
    refused: &Refused,
    out: &mut Responder<'_>,
    timer: &mut Timer,
) {
    let flags = Flags::DOWNSTREAM_PROTOCOL_ERROR;
    let reply = Reply::new(refused.status, flags, refused.details).with_body(refused.body.clone());
    answer_only(cx, incoming, reply, out, timer).await;
}
