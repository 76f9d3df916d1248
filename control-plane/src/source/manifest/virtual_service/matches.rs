// SPDX-License-Identifier: Apache-2.0
//! The tests of requests and connections: `HTTPMatchRequest`, `L4MatchAttributes`, `StringMatch`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use remora_model::{
    HeaderMatch, HttpMatch, L4Match, Namespace, PathMatch, QueryMatch, SourceMatch, StringMatch,
};

use super::super::fields::{Field, Fields};
use super::super::values::labels;

/// Reads a test of a request.
pub(super) fn read_http(fields: &Fields<'_>) -> HttpMatch {
    fields.no_effect(&["statPrefix"]);
    let ignore_case = fields.boolean("ignoreUriCase").unwrap_or(false);
    let string = |key: &str| fields.take(key).and_then(|field| read_string(&field));
    let path = string("uri").map(|path| PathMatch { path, ignore_case });
    let mut headers = fields
        .take("headers")
        .map_or_else(Vec::new, |f| read_headers(&f, false));
    if let Some(without) = fields.take("withoutHeaders") {
        headers.extend(read_headers(&without, true));
    }
    HttpMatch {
        name: fields.text("name").unwrap_or_default().into(),
        path,
        scheme: string("scheme"),
        method: string("method"),
        authority: string("authority"),
        headers,
        query: fields
            .take("queryParams")
            .map_or_else(Vec::new, |field| read_query(&field)),
        port: fields.take("port").and_then(|field| field.port()),
        source: read_source(fields),
    }
}

/// Reads a test of a connection.
pub(super) fn read_l4(fields: &Fields<'_>) -> L4Match {
    fields.no_effect(&["sourceSubnet"]);
    let subnets = fields.list("destinationSubnets");
    L4Match {
        destination: subnets.iter().filter_map(read_net).collect(),
        port: fields.take("port").and_then(|field| field.port()),
        source: read_source(fields),
    }
}

/// Reads an address or a range.
pub(in crate::source::manifest) fn read_net(field: &Field<'_>) -> Option<IpNet> {
    let text = field.text()?;
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let net = address.or_else(|_| text.parse::<IpNet>().map(|net| net.trunc()));
    net.map_err(|_| field.error(format!("`{text}` is no address and no range")))
        .ok()
}

fn read_source(fields: &Fields<'_>) -> SourceMatch {
    let namespace = fields.take("sourceNamespace").and_then(|field| {
        let text = field.text()?;
        Namespace::try_new(text)
            .map_err(|error| field.error(error.to_string()))
            .ok()
    });
    let labels = fields
        .take("sourceLabels")
        .map(|field| labels(&field))
        .unwrap_or_default();
    SourceMatch { labels, namespace }
}

fn read_headers(field: &Field<'_>, inverted: bool) -> Vec<HeaderMatch> {
    let mut headers = Vec::new();
    for (name, value) in field.pairs() {
        if let "uri" | "scheme" | "method" | "authority" = name {
            value.warn("not a header: use the field of that name; has no effect");
            continue;
        }
        let Some(name) = header_name(name, &value) else {
            continue;
        };
        headers.push(HeaderMatch {
            name,
            value: read_string(&value),
            inverted,
        });
    }
    headers
}

fn read_query(field: &Field<'_>) -> Vec<QueryMatch> {
    let pairs = field.pairs();
    pairs
        .iter()
        .map(|(name, value)| QueryMatch {
            name: Arc::from(*name),
            value: read_string(value),
        })
        .collect()
}

/// Checks a header's name (RFC 9110 §5.1, a token) and lower-cases it.
pub(super) fn header_name(name: &str, field: &Field<'_>) -> Option<Arc<str>> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        field.error(format!("`{name}` is no header name"));
        return None;
    }
    Some(name.to_ascii_lowercase().into())
}

/// Reads a `StringMatch`; `None` if it is empty (being there is enough) or wrong.
fn read_string(field: &Field<'_>) -> Option<StringMatch> {
    let fields = field.fields()?;
    let exact = fields.text("exact");
    let prefix = fields.text("prefix");
    let regex = fields.take("regex");
    match (exact, prefix, regex) {
        (None, None, None) => None,
        (Some(exact), None, None) => Some(StringMatch::Exact(exact.into())),
        (None, Some(prefix), None) => Some(StringMatch::Prefix(prefix.into())),
        (None, None, Some(regex)) => {
            let text = regex.text()?;
            StringMatch::try_regex(text)
                .map_err(|error| regex.error(error.to_string()))
                .ok()
        }
        _ => {
            field.error("more than one of `exact`, `prefix` and `regex`");
            None
        }
    }
}
