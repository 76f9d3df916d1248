// SPDX-License-Identifier: Apache-2.0
//! Heads on their way to and from the `h2` crate, on the upstream's side.
//!
//! Connection-specific fields do not go out (RFC 9113 section 8.2.2), lengths go out as the
//! framing says and not as a field does. What comes in was checked by `h2`; what our own types
//! would not hold is refused here.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use remora_http::h1::ParsedResponse;
use remora_http::{
    BodyFraming, HeaderMap, HeaderName, HeaderValue, Method, RequestHead, ResponseHead, StatusCode,
    Version,
};

use crate::upstream::error::BadRequest;

/// Turns a request's head out.
pub(super) fn request(
    head: &RequestHead,
    framing: BodyFraming,
) -> Result<http::Request<()>, BadRequest> {
    let mut request = http::Request::new(());
    *request.version_mut() = http::Version::HTTP_2;
    *request.method_mut() = http::Method::from_bytes(head.method.as_str().as_bytes())
        .map_err(|_| BadRequest::Http2("method"))?;
    *request.uri_mut() = uri(head)?;
    let mut headers = fields(&head.headers);
    if let BodyFraming::Length(length) = framing {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// `:scheme`, `:authority` and `:path`; CONNECT has the authority alone.
fn uri(head: &RequestHead) -> Result<Uri, BadRequest> {
    let mut parts = http::uri::Parts::default();
    if !head.authority.is_empty() {
        let authority = Authority::from_maybe_shared(head.authority.clone());
        parts.authority = Some(authority.map_err(|_| BadRequest::Http2("authority"))?);
    }
    if head.method != Method::Connect {
        let path = PathAndQuery::from_maybe_shared(head.path.clone());
        parts.path_and_query = Some(path.map_err(|_| BadRequest::Http2("path"))?);
        // The scheme of the connection, not of the request: no TLS is spoken here.
        parts.scheme = Some(Scheme::HTTP);
    }
    Uri::from_parts(parts).map_err(|_| BadRequest::Http2("request target"))
}

/// Turns fields out, but for those of one connection and of the framing.
pub(super) fn fields(headers: &HeaderMap) -> http::HeaderMap {
    let mut fields = http::HeaderMap::with_capacity(headers.len());
    for (name, _, value) in headers.iter() {
        let is_te = *name == HeaderName::TE;
        if STAYS_BEHIND.contains(name) || is_te && !value.eq_ignore_ascii_case(b"trailers") {
            continue;
        }
        // Ours are tokens and values by construction, so nothing is lost here.
        let name = http::HeaderName::from_bytes(name.as_bytes());
        let value = http::HeaderValue::from_maybe_shared(value.clone());
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

const STAYS_BEHIND: [HeaderName; 8] = [
    HeaderName::HOST,
    HeaderName::CONNECTION,
    HeaderName::KEEP_ALIVE,
    HeaderName::PROXY_CONNECTION,
    HeaderName::TRANSFER_ENCODING,
    HeaderName::UPGRADE,
    HeaderName::HTTP2_SETTINGS,
    HeaderName::CONTENT_LENGTH,
];

/// A field or status that our types do not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("response has a malformed {0}")]
pub(super) struct BadResponse(&'static str);

/// Turns a response's head in.
pub(super) fn response_head(
    status: http::StatusCode,
    headers: &http::HeaderMap,
) -> Result<ResponseHead, BadResponse> {
    Ok(ResponseHead {
        status: StatusCode::try_new(status.as_u16()).map_err(|_| BadResponse("status"))?,
        reason: Bytes::new(),
        version: Version::Http2,
        headers: headers_from(headers)?,
    })
}

/// Turns a final response in; `is_end` says that the head ended it, `is_tunnel` that it answers
/// a CONNECT.
pub(super) fn response(
    response: http::response::Parts,
    is_end: bool,
    is_tunnel: bool,
) -> Result<ParsedResponse, BadResponse> {
    let head = response_head(response.status, &response.headers)?;
    let length = match head.headers.get(&HeaderName::CONTENT_LENGTH) {
        Some(value) => Some(parse_length(value).ok_or(BadResponse("content-length"))?),
        None => None,
    };
    let framing = match (is_end, length) {
        (false, _) if is_tunnel && head.status.is_success() => BodyFraming::UntilClose,
        (true, Some(0)) => BodyFraming::Length(0),
        (true, _) => BodyFraming::Empty,
        (false, Some(length)) => BodyFraming::Length(length),
        (false, None) => BodyFraming::Chunked,
    };
    Ok(ParsedResponse {
        head,
        framing,
        keep_alive: true,
    })
}

/// Turns fields in.
pub(super) fn headers_from(fields: &http::HeaderMap) -> Result<HeaderMap, BadResponse> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let name = HeaderName::parse(name.as_str().as_bytes());
        let value = HeaderValue::copy_from(value.as_bytes());
        headers.append(
            name.map_err(|_| BadResponse("header name"))?,
            value.map_err(|_| BadResponse("header value"))?,
        );
    }
    Ok(headers)
}

fn parse_length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &'static str, fields: &[(&str, &'static str)]) -> RequestHead {
        let field = |(name, value): &(&str, &'static str)| {
            (
                name.parse().expect("a token"),
                HeaderValue::from_static(value),
            )
        };
        RequestHead {
            method: Method::Post,
            scheme: None,
            authority: Bytes::from_static(b"shop:80"),
            path: Bytes::from_static(path.as_bytes()),
            version: Version::Http11,
            headers: fields.iter().map(field).collect(),
        }
    }

    #[test]
    fn connection_fields_stay_behind_and_the_framing_gives_the_length() {
        let fields = [
            ("te", "trailers"),
            ("content-length", "7"),
            ("connection", "close"),
            ("X-Own", "1"),
            ("http2-settings", "AAAA"),
        ];
        let sent = request(&head("/a?b", &fields), BodyFraming::Length(3)).expect("it is fit");
        let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            format!("{name}: {}", value.to_str().expect("text"))
        };
        let mut sent_fields: Vec<_> = sent.headers().iter().map(text).collect();
        sent_fields.sort();
        assert_eq!(
            sent_fields,
            ["content-length: 3", "te: trailers", "x-own: 1"]
        );
        assert_eq!(sent.uri().to_string(), "http://shop:80/a?b");
        let chunked = request(&head("/", &fields), BodyFraming::Chunked).expect("it is fit");
        assert!(!chunked.headers().contains_key("content-length"));
    }

    #[test]
    fn what_http2_cannot_say_is_refused() {
        let error = request(&head("/a b", &[]), BodyFraming::Empty).expect_err("a blank");
        assert_eq!(error, BadRequest::Http2("path"));
    }

    #[test]
    fn the_end_of_a_response_is_known_from_its_head() {
        let table = [
            (true, None, BodyFraming::Empty),
            (true, Some("0"), BodyFraming::Length(0)),
            (true, Some("5"), BodyFraming::Empty),
            (false, Some("5"), BodyFraming::Length(5)),
            (false, None, BodyFraming::Chunked),
        ];
        for (is_end, length, framing) in table {
            let mut builder = http::Response::builder();
            if let Some(length) = length {
                builder = builder.header("content-length", length);
            }
            let (parts, ()) = builder.body(()).expect("a response").into_parts();
            let parsed = response(parts, is_end, false).expect("it is fit");
            assert_eq!(parsed.framing, framing);
        }
    }
}
