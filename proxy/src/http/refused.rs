// SPDX-License-Identifier: Apache-2.0
//! Answers to what is no request: logged and counted like any other.

use bytes::Bytes;
use remora_http::h1::Refusal;
use remora_http::{HeaderMap, Method, RequestHead, StatusCode, Version};

use super::downstream::Responder;
use super::exchange::{Context, answer_only};
use super::flags::Flags;
use super::h2_convert::BadRequest;
use super::reply::Reply;
use super::timer::Timer;

/// Why bytes are no request.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    status: StatusCode,
    details: &'static str,
    body: String,
}

/// A rule of the codec was broken; the answer names it.
pub(super) fn refusal(refusal: &Refusal) -> Refused {
    Refused {
        status: refusal.status(),
        details: refusal.as_code(),
        body: refusal.to_string(),
    }
}

/// The head did not come in time.
pub(super) fn head_timeout() -> Refused {
    Refused {
        status: StatusCode::REQUEST_TIMEOUT,
        details: "request_header_timeout",
        body: "request head was not complete in time".to_owned(),
    }
}

/// The request breaks a rule of HTTP/2 or of what may become HTTP/1.
pub(super) fn bad_request(error: BadRequest) -> Refused {
    Refused {
        status: error.status,
        details: "http2.invalid_request",
        body: error.to_string(),
    }
}

/// Answers and logs.
pub(super) async fn answer(
    cx: &Context,
    version: Version,
    refused: &Refused,
    out: &mut Responder<'_>,
    timer: &mut Timer,
) {
    let flags = Flags::DOWNSTREAM_PROTOCOL_ERROR;
    let reply = Reply::new(refused.status, flags, refused.details).with_body(refused.body.clone());
    let head = RequestHead {
        method: Method::Get,
        scheme: None,
        authority: Bytes::new(),
        path: Bytes::new(),
        version,
        headers: HeaderMap::new(),
    };
    answer_only(cx, head, reply, out, timer).await;
}
