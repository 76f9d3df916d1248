// SPDX-License-Identifier: Apache-2.0
//! Removes the fields that belong to one connection and not to the message.
//!
//! The proxy calls this once for each head that it forwards, in both directions. Upgrades are
//! not decided here: the codec reports them and the encoder writes them.

use crate::chars;
use crate::header::{HeaderMap, HeaderName, HeaderValue, Known};

/// Fields that never pass a proxy. RFC 9110 section 7.6.1.
const HOP_BY_HOP: u128 = Known::CONNECTION.bit()
    | Known::KEEP_ALIVE.bit()
    | Known::PROXY_CONNECTION.bit()
    | Known::TRANSFER_ENCODING.bit()
    | Known::UPGRADE.bit()
    | Known::HTTP2_SETTINGS.bit();

/// How many names one message may nominate; nobody needs more, and each costs a look at the list.
const MAX_NOMINATIONS: usize = 64;

/// Removes connection fields and those that `Connection` nominates, and reduces `te` to
/// `trailers`.
///
/// A nomination removes only names that this crate does not know: by nominating `host`,
/// `content-length`, `authorization` or `x-forwarded-for`, a peer could otherwise strip what
/// earlier hops vouch for or what frames the message. Such nominations are ignored, as are those
/// of names that proxies use among themselves (`x-forwarded-*`, `x-envoy-*`, `x-b3-*`, `x-istio-*`).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.has_any(HOP_BY_HOP | Known::TE.bit()) {
        return;
    }
    if headers.contains(&HeaderName::CONNECTION) {
        let nominated = nominated(headers);
        if !nominated.is_empty() {
            headers.retain(|name, _| !nominated.contains(name));
        }
    }
    if headers.has_any(HOP_BY_HOP) {
        headers.retain(|name, _| {
            name.known()
                .is_none_or(|known| known.bit() & HOP_BY_HOP == 0)
        });
    }
    reduce_te(headers);
}

/// The names that may be removed because `Connection` lists them.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(&HeaderName::CONNECTION)
        .flat_map(|value| chars::list(value))
        .filter(|option| !is_plain_option(option) && Known::find(option).is_none())
        .filter_map(|option| HeaderName::parse(option).ok())
        .filter(|name| !is_protected(name.as_bytes()))
        .take(MAX_NOMINATIONS)
        .collect()
}

fn is_plain_option(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"close")
}

fn is_protected(lower: &[u8]) -> bool {
    let prefixes: [&[u8]; 4] = [b"x-forwarded-", b"x-envoy-", b"x-b3-", b"x-istio-"];
    prefixes.iter().any(|prefix| lower.starts_with(prefix))
}

/// Keeps the one member of `te` that concerns the message as a whole: gRPC needs it.
fn reduce_te(headers: &mut HeaderMap) {
    if !headers.contains(&HeaderName::TE) {
        return;
    }
    let trailers = headers
        .get_all(&HeaderName::TE)
        .flat_map(|value| chars::list(value))
        .any(|member| member.eq_ignore_ascii_case(b"trailers"));
    if trailers {
        headers.insert(HeaderName::TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(&HeaderName::TE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(fields: &[(&str, &str)]) -> Vec<String> {
        let mut headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| {
                (
                    name.parse().expect("a token"),
                    HeaderValue::try_from(*value).expect("a value"),
                )
            })
            .collect();
        strip_hop_by_hop(&mut headers);
        headers
            .iter()
            .map(|(name, _, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
            .collect()
    }

    #[test]
    fn connection_fields_and_nominated_fields_go() {
        let left = stripped(&[
            ("x-own", "1"),
            ("connection", "close, X-Own , upgrade"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("http2-settings", "AAAA"),
            ("x-kept", "2"),
            ("x-own", "3"),
        ]);
        assert_eq!(left, ["x-kept: 2"]);
    }

    #[test]
    fn nominations_cannot_strip_what_others_vouch_for() {
        for name in [
            "host",
            "content-length",
            "authorization",
            "x-forwarded-for",
            "x-forwarded-unknown",
            "x-envoy-internal",
            "x-b3-custom",
            "cookie",
            "trailer",
        ] {
            let left = stripped(&[("connection", name), (name, "v")]);
            assert_eq!(left, [format!("{name}: v")]);
        }
    }

    #[test]
    fn te_is_reduced_to_trailers() {
        let table = [
            (vec![("te", "trailers")], vec!["te: trailers"]),
            (
                vec![("te", "gzip;q=0.5, Trailers"), ("te", "deflate")],
                vec!["te: trailers"],
            ),
            (vec![("te", "gzip")], vec![]),
            (
                vec![("connection", "te"), ("te", "trailers")],
                vec!["te: trailers"],
            ),
        ];
        for (fields, expected) in table {
            assert_eq!(stripped(&fields), expected);
        }
    }

    #[test]
    fn a_message_without_connection_fields_is_left_alone() {
        assert_eq!(stripped(&[("via", "a"), ("x", "")]), ["via: a", "x: "]);
    }
}
