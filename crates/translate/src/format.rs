// SPDX-License-Identifier: Apache-2.0
//! Envoy's format strings, compiled: `text %OPERATOR(argument):length% text`.
//!
//! An operator that is not known is a fault, never printed as text: a log that silently lacks a
//! column, or a header with the wrong value, is worse than a refused resource.

use remora_ir::HeaderName;
use remora_ir::access_log::{FieldName, FieldRef, Format, Operator, Segment};

use crate::fault::Scope;

/// What Envoy writes when no format is given.
pub(crate) const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% \
    %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Compiles a format string; everything unknown in it is a fault.
pub(crate) fn compile(scope: &Scope<'_>, text: &str) -> Option<Format> {
    let mut segments = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    let mut is_good = true;
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let parsed = command(after);
        match parsed.and_then(|(command, after)| Ok((command.segment()?, after))) {
            Ok((segment, after)) => {
                push_text(&mut segments, &mut literal);
                segments.push(segment);
                rest = after;
            }
            Err(found) => {
                scope.fault(format!("format: {found}"));
                is_good = false;
                rest = after.split_once('%').map_or("", |(_, after)| after);
            }
        }
    }
    literal.push_str(rest);
    push_text(&mut segments, &mut literal);
    is_good.then_some(Format(segments))
}

fn push_text(segments: &mut Vec<Segment>, literal: &mut String) {
    if !literal.is_empty() {
        segments.push(Segment::Text(std::mem::take(literal).into()));
    }
}

/// One operator as written.
struct Command<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    max: Option<usize>,
}

/// Reads an operator after its `%`, up to and with the closing one.
fn command(text: &str) -> Result<(Command<'_>, &str), String> {
    let unclosed = || format!("`%{text}` has no closing `%`");
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = text.find(|c| !is_name(c)).ok_or_else(unclosed)?;
    let (name, mut rest) = text.split_at(end);
    let mut argument = None;
    if let Some(inner) = rest.strip_prefix('(') {
        let (inside, after) = inner.split_once(')').ok_or_else(unclosed)?;
        argument = Some(inside);
        rest = after;
    }
    let mut max = None;
    if let Some(inner) = rest.strip_prefix(':') {
        let end = inner
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(unclosed)?;
        let (digits, after) = inner.split_at(end);
        let length = digits.parse();
        max = Some(length.map_err(|_| format!("`%{name}`: length `{digits}` is not a number"))?);
        rest = after;
    }
    let rest = rest.strip_prefix('%').ok_or_else(|| {
        let shown = text.split('%').next().unwrap_or_default();
        format!("`%{shown}%` is not an operator")
    })?;
    Ok((
        Command {
            name,
            argument,
            max,
        },
        rest,
    ))
}

/// Operators without an argument.
const PLAIN: &[(&str, Operator)] = &[
    ("START_TIME", Operator::StartTime),
    ("PROTOCOL", Operator::Protocol),
    ("RESPONSE_CODE", Operator::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Operator::ResponseCodeDetails),
    (
        "CONNECTION_TERMINATION_DETAILS",
        Operator::ConnectionTerminationDetails,
    ),
    ("RESPONSE_FLAGS", Operator::ResponseFlags),
    ("BYTES_RECEIVED", Operator::BytesReceived),
    ("BYTES_SENT", Operator::BytesSent),
    ("DURATION", Operator::Duration),
    ("REQUEST_DURATION", Operator::RequestDuration),
    ("RESPONSE_DURATION", Operator::ResponseDuration),
    ("RESPONSE_TX_DURATION", Operator::ResponseTxDuration),
    ("UPSTREAM_HOST", Operator::UpstreamHost),
    ("UPSTREAM_REMOTE_ADDRESS", Operator::UpstreamHost),
    ("UPSTREAM_CLUSTER", Operator::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Operator::UpstreamCluster),
    ("UPSTREAM_LOCAL_ADDRESS", Operator::UpstreamLocalAddress),
    (
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        Operator::UpstreamTransportFailureReason,
    ),
    (
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        Operator::UpstreamRequestAttemptCount,
    ),
    (
        "DOWNSTREAM_LOCAL_ADDRESS",
        Operator::DownstreamLocalAddress {
            without_port: false,
        },
    ),
    (
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Operator::DownstreamLocalAddress { without_port: true },
    ),
    ("DOWNSTREAM_LOCAL_PORT", Operator::DownstreamLocalPort),
    (
        "DOWNSTREAM_REMOTE_ADDRESS",
        Operator::DownstreamRemoteAddress {
            without_port: false,
        },
    ),
    (
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Operator::DownstreamRemoteAddress { without_port: true },
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        Operator::DownstreamDirectRemoteAddress {
            without_port: false,
        },
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        Operator::DownstreamDirectRemoteAddress { without_port: true },
    ),
    ("REQUESTED_SERVER_NAME", Operator::RequestedServerName),
    ("ROUTE_NAME", Operator::RouteName),
    ("HOSTNAME", Operator::Hostname),
    // Always `-` here: no virtual clusters, and TLS is not terminated.
    ("VIRTUAL_CLUSTER_NAME", Operator::Absent),
    ("DOWNSTREAM_PEER_SUBJECT", Operator::Absent),
    ("DOWNSTREAM_PEER_ISSUER", Operator::Absent),
    ("DOWNSTREAM_PEER_URI_SAN", Operator::Absent),
    ("DOWNSTREAM_PEER_CERT", Operator::Absent),
    ("DOWNSTREAM_LOCAL_SUBJECT", Operator::Absent),
    ("DOWNSTREAM_LOCAL_URI_SAN", Operator::Absent),
    ("DOWNSTREAM_TLS_SESSION_ID", Operator::Absent),
    ("DOWNSTREAM_TLS_CIPHER", Operator::Absent),
    ("DOWNSTREAM_TLS_VERSION", Operator::Absent),
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", Operator::Absent),
];

/// Operators of state that no filter here makes: always `-`, whatever their argument.
const STATES: &[&str] = &[
    "DYNAMIC_METADATA",
    "FILTER_STATE",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_METADATA",
    "CLUSTER_METADATA",
];

impl Command<'_> {
    fn segment(&self) -> Result<Segment, String> {
        let operator = self.operator()?;
        Ok(Segment::Operator {
            operator,
            max: self.max,
        })
    }

    fn operator(&self) -> Result<Operator, String> {
        match (self.name, self.argument) {
            ("REQ", Some(argument)) => field_ref(argument).map(Operator::Request),
            ("RESP", Some(argument)) => field_ref(argument).map(Operator::Response),
            ("TRAILER", Some(argument)) => field_ref(argument).map(Operator::Trailer),
            (name, Some(_)) if STATES.contains(&name) => Ok(Operator::Absent),
            (name, None) => PLAIN
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, operator)| operator.clone())
                .ok_or_else(|| format!("operator `%{name}%` is not supported")),
            (name, Some(argument)) => {
                Err(format!("operator `%{name}({argument})%` is not supported"))
            }
        }
    }
}

/// `FIRST?OTHERWISE`.
fn field_ref(argument: &str) -> Result<FieldRef, String> {
    let (first, otherwise) = match argument.split_once('?') {
        Some((first, otherwise)) => (first, Some(otherwise)),
        None => (argument, None),
    };
    Ok(FieldRef {
        first: field_name(first)?,
        otherwise: otherwise.map(field_name).transpose()?,
    })
}

fn field_name(name: &str) -> Result<FieldName, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => FieldName::Method,
        ":path" => FieldName::Path,
        ":authority" => FieldName::Authority,
        ":scheme" => FieldName::Scheme,
        ":status" => FieldName::Status,
        lower => FieldName::Field(
            HeaderName::parse(lower.as_bytes())
                .map_err(|_| format!("`{name}` is not a header name"))?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::gather;

    fn compiled(text: &str) -> Result<Format, String> {
        gather("format", "", |scope| compile(scope, text))
            .map(|translated| translated.value)
            .map_err(|faults| faults.to_string())
    }

    fn field(name: &str) -> FieldName {
        FieldName::Field(HeaderName::parse(name.as_bytes()).expect("name"))
    }

    #[test]
    fn operators_arguments_and_lengths_are_read() {
        let operator = |operator, max| Segment::Operator { operator, max };
        let original = FieldRef {
            first: field("x-envoy-original-path"),
            otherwise: Some(FieldName::Path),
        };
        let expected = vec![
            Segment::Text("100% \"".into()),
            operator(Operator::Request(original), Some(9)),
            Segment::Text("\" ".into()),
            operator(Operator::ResponseFlags, None),
        ];
        let text = "100%% \"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):9%\" %RESPONSE_FLAGS%";
        assert_eq!(compiled(text), Ok(Format(expected)));
        assert_eq!(compiled(""), Ok(Format::default()));
    }

    #[test]
    fn envoys_default_compiles() {
        let Format(segments) = compiled(DEFAULT).expect("known operators only");
        let operators = segments
            .iter()
            .filter(|s| matches!(s, Segment::Operator { .. }));
        assert_eq!(operators.count(), 15);
    }

    #[test]
    fn what_is_unknown_is_named() {
        let table = [
            ("%NOPE%", "operator `%NOPE%` is not supported"),
            ("%NOPE% %REQ(a b)%", "`a b` is not a header name"),
            (
                "%START_TIME(%s)%",
                "operator `%START_TIME(%s)%` is not supported",
            ),
            ("%REQ(X", "`%REQ(X` has no closing `%`"),
            ("100% of", "`% of%` is not an operator"),
            ("%DURATION:x%", "`%DURATION`: length `` is not a number"),
        ];
        for (text, expected) in table {
            let found = compiled(text).expect_err(text);
            assert!(found.contains(expected), "{text}: {found}");
        }
    }
}
