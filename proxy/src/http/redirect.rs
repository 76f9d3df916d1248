// SPDX-License-Identifier: Apache-2.0
//! Routes that answer by themselves: redirects and direct responses.

use bytes::{Bytes, BytesMut};
use remora_http::{HeaderValue, RequestHead, StatusCode, authority};
use remora_ir::action::{DirectResponse, Redirect, RedirectPath};
use remora_ir::route::PathMatch;

use super::flags::Flags;
use super::reply::Reply;

/// The answer of a redirect; 400 if the request has no authority to send anyone to.
pub(super) fn reply(redirect: &Redirect, matched: &PathMatch, head: &RequestHead) -> Reply {
    let location = HeaderValue::from_bytes(location(redirect, matched, head));
    let has_host = redirect.host.is_some() || !head.authority.is_empty();
    match location {
        Ok(location) if has_host => Reply {
            location: Some(location),
            ..Reply::new(redirect.status, Flags::none(), "direct_response")
        },
        _ => Reply::new(
            StatusCode::BAD_REQUEST,
            Flags::DOWNSTREAM_PROTOCOL_ERROR,
            "direct_response",
        )
        .with_body("request has no host to redirect to"),
    }
}

/// `scheme://host[:port]/path[?query]`. Source: `RedirectAction`.
fn location(redirect: &Redirect, matched: &PathMatch, head: &RequestHead) -> Bytes {
    let scheme_before = head.scheme.map_or("http", remora_http::Scheme::as_str);
    let scheme = redirect.scheme.as_deref().unwrap_or(scheme_before);
    let mut out = BytesMut::with_capacity(128);
    out.extend_from_slice(scheme.as_bytes());
    out.extend_from_slice(b"://");
    match &redirect.host {
        Some(host) => out.extend_from_slice(host.as_bytes()),
        // A new scheme has another default port, so the old one is dropped with it.
        None if redirect.port.is_some() || redirect.scheme.is_some() => {
            out.extend_from_slice(authority::strip_port(&head.authority));
        }
        None => out.extend_from_slice(&head.authority),
    }
    if let Some(port) = redirect.port {
        let default = if scheme == "https" { 443 } else { 80 };
        if port != default {
            out.extend_from_slice(format!(":{port}").as_bytes());
        }
    }
    put_path(redirect, matched, head, &mut out);
    out.freeze()
}

fn put_path(redirect: &Redirect, matched: &PathMatch, head: &RequestHead, out: &mut BytesMut) {
    let only = head.path_only();
    match &redirect.path {
        None => out.extend_from_slice(only),
        Some(RedirectPath::Whole(path)) => {
            out.extend_from_slice(path);
            if path.contains(&b'?') {
                return;
            }
        }
        Some(RedirectPath::Prefix(prefix)) => {
            out.extend_from_slice(prefix);
            out.extend_from_slice(only.get(matched.matched_len(only)..).unwrap_or_default());
        }
        Some(RedirectPath::Regex(regex)) => out.extend_from_slice(&regex.apply(only)),
    }
    if let Some(query) = head.query().filter(|_| !redirect.strip_query) {
        out.extend_from_slice(b"?");
        out.extend_from_slice(query);
    }
}

/// The answer of a direct response.
pub(super) fn direct(direct: &DirectResponse) -> Reply {
    let body = String::from_utf8_lossy(&direct.body).into_owned();
    Reply::new(direct.status, Flags::none(), "direct_response").with_body(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_http::{HeaderMap, Method, Version};

    #[test]
    fn redirects_are_built_from_what_is_given_and_what_was_asked() {
        let none = Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: None,
            host: None,
            port: None,
            path: None,
            strip_query: false,
        };
        let path = |text: &'static str| Bytes::from_static(text.as_bytes());
        let table = [
            (none.clone(), "http://sms:8080/a/b?q"),
            (
                Redirect {
                    scheme: Some("https".into()),
                    ..none.clone()
                },
                "https://sms/a/b?q",
            ),
            (
                Redirect {
                    host: Some("x.test".into()),
                    ..none.clone()
                },
                "http://x.test/a/b?q",
            ),
            (
                Redirect {
                    port: Some(81),
                    ..none.clone()
                },
                "http://sms:81/a/b?q",
            ),
            (
                Redirect {
                    strip_query: true,
                    ..none.clone()
                },
                "http://sms:8080/a/b",
            ),
            (
                Redirect {
                    path: Some(RedirectPath::Prefix(path("/n"))),
                    ..none.clone()
                },
                "http://sms:8080/n/b?q",
            ),
            (
                Redirect {
                    path: Some(RedirectPath::Whole(path("/w?z"))),
                    ..none
                },
                "http://sms:8080/w?z",
            ),
        ];
        let head = RequestHead {
            method: Method::Get,
            scheme: None,
            authority: path("sms:8080"),
            path: path("/a/b?q"),
            version: Version::Http11,
            headers: HeaderMap::new(),
        };
        let matched = PathMatch::Prefix {
            prefix: path("/a"),
            case_sensitive: true,
        };
        for (redirect, expected) in table {
            assert_eq!(location(&redirect, &matched, &head), expected.as_bytes());
        }
    }
}
