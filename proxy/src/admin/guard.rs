// SPDX-License-Identifier: Apache-2.0
//! Who may use the admin port: programs on this machine, and pages that came from it.
//!
//! The port listens on loopback, but a browser on the machine would carry requests there for any
//! site: under a name of its own that resolves to loopback (DNS rebinding), or as a plain
//! cross-site request. Both are refused by what browsers cannot be made to leave out.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Uri};

/// Why a request is refused; `None` if it may pass.
pub(super) fn refusal(headers: &HeaderMap) -> Option<&'static str> {
    // HTTP/1.0 without `host` cannot come from a browser.
    if headers.get(HOST).is_some_and(|host| !is_local(host)) {
        return Some("the host is not this machine");
    }
    if headers
        .get(ORIGIN)
        .is_some_and(|origin| !is_local_origin(origin))
    {
        return Some("the request comes from another site");
    }
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    matches!(site, Some(b"cross-site" | b"same-site"))
        .then_some("the request comes from another site")
}

fn is_local(authority: &HeaderValue) -> bool {
    let Ok(text) = authority.to_str() else {
        return false;
    };
    let Ok(authority) = text.parse::<http::uri::Authority>() else {
        return false;
    };
    !text.contains('@') && is_local_host(authority.host())
}

fn is_local_origin(origin: &HeaderValue) -> bool {
    let uri = origin
        .to_str()
        .ok()
        .and_then(|text| text.parse::<Uri>().ok());
    uri.and_then(|uri| uri.host().map(is_local_host))
        .unwrap_or(false)
}

fn is_local_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_and_its_own_pages_may_pass() {
        let table: [(&[(&'static str, &'static str)], bool); 15] = [
            (&[], true),
            (&[("host", "localhost:15000")], true),
            (&[("host", "LOCALHOST")], true),
            (&[("host", "127.0.0.1:15000")], true),
            (&[("host", "127.1.2.3")], true),
            (&[("host", "[::1]:15000")], true),
            (&[("host", "localhost.evil.example")], false),
            (&[("host", "10.0.0.1:15000")], false),
            (&[("host", "u@localhost")], false),
            (&[("host", "")], false),
            (
                &[("host", "localhost"), ("origin", "http://localhost:15000")],
                true,
            ),
            (
                &[("host", "localhost"), ("origin", "https://evil.example")],
                false,
            ),
            (&[("host", "localhost"), ("origin", "null")], false),
            (
                &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
                false,
            ),
            (&[("host", "localhost"), ("sec-fetch-site", "none")], true),
        ];
        for (fields, may_pass) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(refusal(&headers).is_none(), may_pass, "{fields:?}");
        }
    }
}
