// SPDX-License-Identifier: Apache-2.0
//! Between our heads and those of the `h2` crate: the one door where HTTP/2 types are turned.
//!
//! Requests come in through [`request`] and are refused there if HTTP/1 could misread them;
//! responses go out through [`response`]. Connection-specific fields do not pass (RFC 9113
//! section 8.2.2), cookies are joined again (section 8.2.3), and a `host` beside `:authority`
//! is dropped.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use remora_http::{
    BodyFraming, HeaderMap, HeaderName, HeaderValue, Method, RequestHead, ResponseHead, Scheme,
    StatusCode, Version, authority,
};

use super::downstream::DownstreamError;
use crate::frame::Frame;

/// A request that cannot be served; the text names the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub(super) struct BadRequest {
    /// The answer.
    pub status: StatusCode,
    rule: &'static str,
}

impl BadRequest {
    const fn new(rule: &'static str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            rule,
        }
    }
}

/// Turns a request's parts into a head, and tells how its body ends.
///
/// # Errors
/// If the request breaks RFC 9113 section 8.3 in a way that the `h2` crate lets pass, or has
/// fields that could not be written in HTTP/1.
pub(super) fn request(
    parts: http::request::Parts,
    is_end: bool,
    max_fields: usize,
) -> Result<(RequestHead, BodyFraming), BadRequest> {
    if parts.headers.len() > max_fields {
        return Err(BadRequest {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            rule: "too many header fields",
        });
    }
    let mut headers = headers_from(&parts.headers)?;
    let named = headers.remove(&HeaderName::HOST);
    let authority = match parts.uri.authority() {
        Some(authority) => Bytes::copy_from_slice(authority.as_str().as_bytes()),
        None => named.unwrap_or_default(),
    };
    if authority.is_empty() || authority::parse(&authority).is_err() {
        return Err(BadRequest::new("authority is missing or malformed"));
    }
    let method = Method::parse(parts.method.as_str().as_bytes())
        .map_err(|_| BadRequest::new("method is not a token"))?;
    let path = match parts.uri.path_and_query() {
        _ if method == Method::Connect => Bytes::new(),
        Some(path) if path.as_str().starts_with('/') => {
            Bytes::copy_from_slice(path.as_str().as_bytes())
        }
        Some(path) if path.as_str() == "*" && method == Method::Options => Bytes::from_static(b"*"),
        Some(_) => return Err(BadRequest::new("path does not start with a slash")),
        None => return Err(BadRequest::new("path is missing")),
    };
    let scheme = parts
        .uri
        .scheme_str()
        .and_then(|scheme| Scheme::parse(scheme.as_bytes()));
    let framing = framing(&headers, is_end)?;
    let head = RequestHead {
        method,
        scheme,
        authority,
        path,
        version: Version::Http2,
        headers,
    };
    Ok((head, framing))
}

/// `content-length` must be one number; `h2` checks that the DATA agree with it.
fn framing(headers: &HeaderMap, is_end: bool) -> Result<BodyFraming, BadRequest> {
    let length = match headers.get(&HeaderName::CONTENT_LENGTH) {
        None => None,
        Some(value) => Some(
            std::str::from_utf8(value)
                .ok()
                .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or(BadRequest::new("content-length is not a number"))?,
        ),
    };
    match (is_end, length) {
        (true, None | Some(0)) => Ok(length.map_or(BodyFraming::Empty, BodyFraming::Length)),
        (true, Some(_)) => Err(BadRequest::new(
            "content-length disagrees with the empty body",
        )),
        (false, Some(length)) => Ok(BodyFraming::Length(length)),
        (false, None) => Ok(BodyFraming::Chunked),
    }
}

/// Turns fields into ours; cookies are joined with `; `, connection-specific ones refused.
fn headers_from(fields: &http::HeaderMap) -> Result<HeaderMap, BadRequest> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    let mut cookies: Option<BytesMut> = None;
    for (name, value) in fields {
        let name = HeaderName::parse(name.as_str().as_bytes())
            .map_err(|_| BadRequest::new("header name is not a token"))?;
        let is_te = name == HeaderName::TE;
        if is_connection_specific(&name) || is_te && value.as_bytes() != b"trailers" {
            return Err(BadRequest::new("connection-specific header field"));
        }
        if name == HeaderName::COOKIE {
            let joined = cookies.get_or_insert_with(BytesMut::new);
            if !joined.is_empty() {
                joined.extend_from_slice(b"; ");
            }
            joined.extend_from_slice(value.as_bytes());
            continue;
        }
        let value = HeaderValue::copy_from(value.as_bytes())
            .map_err(|_| BadRequest::new("header value has a control character"))?;
        headers.append(name, value);
    }
    if let Some(value) = cookies.and_then(|joined| HeaderValue::from_bytes(joined.freeze()).ok()) {
        headers.append(HeaderName::COOKIE, value);
    }
    Ok(headers)
}

fn is_connection_specific(name: &HeaderName) -> bool {
    [
        HeaderName::CONNECTION,
        HeaderName::KEEP_ALIVE,
        HeaderName::PROXY_CONNECTION,
        HeaderName::TRANSFER_ENCODING,
        HeaderName::UPGRADE,
    ]
    .contains(name)
}

/// Turns fields out; connection-specific ones are left behind.
pub(super) fn fields(headers: &HeaderMap) -> http::HeaderMap {
    let mut fields = http::HeaderMap::with_capacity(headers.len());
    for (name, _, value) in headers.iter() {
        if is_connection_specific(name) || *name == HeaderName::HOST {
            continue;
        }
        let name = http::HeaderName::from_bytes(name.as_bytes());
        let value = http::HeaderValue::from_maybe_shared(value.clone());
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

/// Turns a response head out; `None` if its status has no place in HTTP/2 (101).
pub(super) fn response(head: &ResponseHead) -> Option<http::Response<()>> {
    if head.status.get() == 101 {
        return None;
    }
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status.get()).ok()?;
    *response.headers_mut() = fields(&head.headers);
    Some(response)
}

/// Sends a 1xx.
///
/// # Errors
/// If the stream is gone.
pub(super) fn send_informational(
    respond: &mut h2::server::SendResponse<Bytes>,
    head: &ResponseHead,
) -> Result<(), DownstreamError> {
    match response(head) {
        Some(response) => Ok(respond.send_informational(response)?),
        None => Ok(()),
    }
}

/// Sends data as the peer's window allows.
///
/// # Errors
/// If the stream is gone.
pub(super) async fn send_data(
    stream: &mut h2::SendStream<Bytes>,
    mut data: Bytes,
) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let ready = match stream.capacity() {
            0 => match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Err(h2::Reason::CANCEL.into()),
            },
            room => room,
        };
        let piece = data.split_to(ready.min(data.len()));
        if !piece.is_empty() {
            stream.send_data(piece, false)?;
        }
    }
    Ok(())
}

/// The next frame of a stream's body; window is given back as frames are taken.
///
/// *Cancel safety*: safe.
///
/// # Errors
/// If the stream was reset or the connection broke.
pub(super) async fn next_frame(stream: &mut h2::RecvStream) -> Result<Option<Frame>, h2::Error> {
    while let Some(data) = poll_fn(|cx| stream.poll_data(cx)).await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        if !data.is_empty() {
            return Ok(Some(Frame::Data(data)));
        }
    }
    let trailers = poll_fn(|cx| stream.poll_trailers(cx)).await?;
    // Trailers that are not fit for HTTP/1 are dropped; they say nothing about framing here.
    Ok(trailers
        .and_then(|fields| headers_from(&fields).ok())
        .map(Frame::Trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(request: http::Request<()>) -> http::request::Parts {
        request.into_parts().0
    }

    #[test]
    fn cookies_are_joined_and_a_second_host_is_dropped() {
        let request_ = http::Request::get("http://a.test/x?y")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("host", "evil.test")
            .body(())
            .expect("request");
        let (head, framing) = request(parts(request_), true, 100).expect("served");
        assert_eq!(&*head.authority, b"a.test");
        assert_eq!(&*head.path, b"/x?y");
        assert_eq!(
            head.headers.get(&HeaderName::COOKIE).map(|v| &**v),
            Some(&b"a=1; b=2"[..])
        );
        assert!(!head.headers.contains(&HeaderName::HOST));
        assert_eq!(framing, BodyFraming::Empty);
    }

    #[test]
    fn too_many_fields_and_bare_paths_are_refused() {
        let many = (0..3).fold(http::Request::get("http://a.test/"), |request, n| {
            request.header(format!("x-{n}"), "1")
        });
        let error = request(parts(many.body(()).expect("request")), true, 2).expect_err("3 of 2");
        assert_eq!(error.status.get(), 431);
        let star = http::Request::get("*").header("host", "a.test");
        assert!(request(parts(star.body(()).expect("request")), true, 2).is_err());
    }

    #[test]
    fn what_http1_could_misread_is_refused() {
        for (name, value) in [
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("te", "gzip"),
            ("content-length", "1, 1"),
            ("content-length", "+1"),
        ] {
            let request_ = http::Request::post("http://a.test/").header(name, value);
            let request_ = request_.body(()).expect("request");
            assert!(
                request(parts(request_), false, 100).is_err(),
                "{name}: {value}"
            );
        }
    }
}
