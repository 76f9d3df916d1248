// SPDX-License-Identifier: Apache-2.0
use super::*;
use remora_http::{HeaderMap, Method, Version};

fn get(path: &'static str) -> RequestHead {
    RequestHead {
        method: Method::Get,
        scheme: None,
        authority: Bytes::from_static(b"sms:80"),
        path: Bytes::from_static(path.as_bytes()),
        version: Version::Http11,
        headers: HeaderMap::new(),
    }
}

fn policy() -> HeaderPolicy {
    HeaderPolicy {
        use_remote_address: false,
        skip_xff_append: false,
        trusted_hops: 0,
        generate_request_id: true,
        preserve_request_id: false,
        request_id_in_response: false,
        server_name: "envoy".into(),
        server_header: ServerHeader::Overwrite,
        via: None,
        strip_port: StripPort::Keep,
        suppress_envoy_headers: false,
    }
}

fn connection() -> ConnectionRecord {
    ConnectionRecord {
        peer: "192.0.2.9:1234".parse().expect("address"),
        local: "240.240.0.1:80".parse().expect("address"),
        server_name: None,
    }
}

fn field<'a>(head: &'a RequestHead, name: &HeaderName) -> Option<&'a str> {
    head.headers
        .get(name)
        .and_then(|value| std::str::from_utf8(value).ok())
}

#[test]
fn a_sidecar_keeps_forwarded_for_and_ids_as_sent() {
    let mut head = get("/");
    head.headers.insert(
        HeaderName::X_FORWARDED_FOR,
        HeaderValue::from_static("1.2.3.4"),
    );
    head.headers
        .insert(HeaderName::X_REQUEST_ID, HeaderValue::from_static("mine"));
    head.headers.insert(
        HeaderName::X_ENVOY_RETRY_ON,
        HeaderValue::from_static("5xx"),
    );
    on_request(&mut head, &connection(), &policy(), || 7);
    assert_eq!(field(&head, &HeaderName::X_FORWARDED_FOR), Some("1.2.3.4"));
    assert_eq!(field(&head, &HeaderName::X_REQUEST_ID), Some("mine"));
    assert_eq!(field(&head, &HeaderName::X_FORWARDED_PROTO), Some("http"));
    assert_eq!(field(&head, &HeaderName::X_ENVOY_RETRY_ON), None);
}

#[test]
fn an_edge_appends_the_peer_and_makes_its_own_id() {
    let mut head = get("/");
    head.headers.insert(
        HeaderName::X_FORWARDED_FOR,
        HeaderValue::from_static("1.2.3.4"),
    );
    head.headers
        .insert(HeaderName::X_REQUEST_ID, HeaderValue::from_static("mine"));
    let edge = HeaderPolicy {
        use_remote_address: true,
        ..policy()
    };
    on_request(&mut head, &connection(), &edge, || u64::MAX);
    assert_eq!(
        field(&head, &HeaderName::X_FORWARDED_FOR),
        Some("1.2.3.4,192.0.2.9")
    );
    let id = field(&head, &HeaderName::X_REQUEST_ID);
    assert_eq!(id, Some("ffffffff-ffff-4fff-bfff-ffffffffffff"));
}

#[test]
fn rewrites_replace_what_matched_and_keep_the_query() {
    let prefix = |text: &'static str| PathMatch::Prefix {
        prefix: Bytes::from_static(text.as_bytes()),
        case_sensitive: true,
    };
    let table = [
        ("/api/v1/x?q=1", "/api/", "/", "/v1/x?q=1"),
        ("/api", "/api", "/new", "/new"),
        ("/api/x", "/api", "", "/x"),
        // What would not be a path is left alone.
        ("/api", "/api", "", "/api"),
    ];
    for (path, matched, to, expected) in table {
        let mut head = get(path);
        let rewrite_ = PathRewrite::Prefix(Bytes::from_static(to.as_bytes()));
        rewrite_path(&mut head, &rewrite_, &prefix(matched));
        assert_eq!(&*head.path, expected.as_bytes(), "{path}");
    }
}

#[test]
fn a_matching_port_is_stripped_if_asked_for() {
    for (policy_, expected) in [
        (StripPort::Keep, "sms:80"),
        (StripPort::Matching, "sms"),
        (StripPort::Any, "sms"),
    ] {
        let mut head = get("/");
        strip_port(&mut head, &connection(), policy_);
        assert_eq!(&*head.authority, expected.as_bytes());
    }
}

#[test]
fn the_server_field_follows_the_policy() {
    let date = || HeaderValue::from_static("Sat, 21 Nov 2026 08:00:00 GMT");
    for (transformation, expected) in [
        (ServerHeader::Overwrite, "envoy"),
        (ServerHeader::AppendIfAbsent, "nginx"),
        (ServerHeader::PassThrough, "nginx"),
    ] {
        let mut head = ResponseHead::local(StatusCode::OK);
        head.headers
            .insert(HeaderName::SERVER, HeaderValue::from_static("nginx"));
        let policy_ = HeaderPolicy {
            server_header: transformation,
            ..policy()
        };
        on_response(&mut head, &policy_, &server_of(&policy_), date);
        let server = head.headers.get(&HeaderName::SERVER).map(|value| &**value);
        assert_eq!(server, Some(expected.as_bytes()));
        assert!(head.headers.contains(&HeaderName::DATE));
    }
}

#[test]
fn an_edge_joins_all_lines_of_forwarded_for() {
    let mut head = get("/");
    for address in ["1.2.3.4", "5.6.7.8"] {
        let value = HeaderValue::from_static(address);
        head.headers.append(HeaderName::X_FORWARDED_FOR, value);
    }
    append_forwarded_for(&mut head.headers, [192, 0, 2, 9].into());
    let lines: Vec<_> = head.headers.get_all(&HeaderName::X_FORWARDED_FOR).collect();
    assert_eq!(lines, [&b"1.2.3.4,5.6.7.8,192.0.2.9"[..]]);
}

#[test]
fn only_an_expectation_that_is_met_here_is_taken_away() {
    for (value, is_met) in [("100-Continue", true), ("the-impossible", false)] {
        let mut head = get("/");
        let expected = HeaderValue::from_static(value);
        head.headers.insert(HeaderName::EXPECT, expected);
        assert_eq!(take_expectation(&mut head.headers), is_met);
        assert_eq!(head.headers.contains(&HeaderName::EXPECT), !is_met);
    }
}
