// SPDX-License-Identifier: Apache-2.0
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use remora_balance::HostRecord;
use remora_http::{
    HeaderMap, HeaderName, HeaderValue, Method, RequestHead, ResponseHead, StatusCode, Version,
};
use remora_ir::ClusterName;
use remora_ir::access_log::{FieldName, FieldRef, Format, Operator, Segment};
use remora_ir::endpoint::EndpointAddress;
use remora_telemetry::Registry;

use super::*;
use crate::http::flags::Flags;
use crate::http::record::{ConnectionRecord, Summary};

/// Everything that a record borrows from.
struct Facts {
    connection: ConnectionRecord,
    request: Option<RequestHead>,
    response: Option<ResponseHead>,
    trailers: Option<HeaderMap>,
    summary: Summary,
}

impl Facts {
    fn record(&self) -> Record<'_> {
        Record {
            connection: &self.connection,
            start: start(),
            request: self.request.as_ref(),
            version: self.request.as_ref().map(|_| Version::Http11),
            response: self.response.as_ref(),
            trailers: self.trailers.as_ref(),
            summary: &self.summary,
        }
    }

    fn line(&self, format: &Format) -> String {
        let mut out = BytesMut::new();
        format::render_line(format, &self.record(), &mut out);
        String::from_utf8(out.to_vec()).expect("UTF-8")
    }

    fn json(&self, members: &[(&str, Format)]) -> String {
        let members: Vec<_> = members
            .iter()
            .map(|(key, format)| ((*key).into(), format.clone()))
            .collect();
        let mut out = BytesMut::new();
        json::render_line(&members, &self.record(), &mut out);
        String::from_utf8(out.to_vec()).expect("UTF-8")
    }
}

/// 2026-11-21T08:00:00.123Z.
fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_795_248_000_123)
}

fn socket(address: &str) -> SocketAddr {
    address.parse().expect("address")
}

fn headers(fields: &[(&str, &[u8])]) -> HeaderMap {
    let field = |(name, value): &(&str, &[u8])| {
        (
            name.parse().expect("name"),
            HeaderValue::copy_from(value).expect("value"),
        )
    };
    fields.iter().map(field).collect()
}

/// A request that went well.
fn answered() -> Facts {
    let host = HostRecord::new(
        EndpointAddress::Socket(socket("10.0.2.1:80")),
        Arc::default(),
    );
    let mut response = ResponseHead::local(StatusCode::try_new(204).expect("status"));
    response.headers = headers(&[("x-envoy-upstream-service-time", b"100")]);
    Facts {
        connection: ConnectionRecord {
            peer: socket("10.0.35.28:40000"),
            local: socket("[fd00::1]:80"),
            server_name: Some("a.test".into()),
        },
        request: Some(RequestHead {
            method: Method::Post,
            scheme: None,
            authority: Bytes::from_static(b"locations"),
            path: Bytes::from_static(b"/api/v1/locations"),
            version: Version::Http11,
            headers: headers(&[
                ("x-forwarded-for", b"10.0.35.28"),
                ("user-agent", b"nsq2http"),
                ("x-request-id", b"cc21d9b0"),
                ("x-odd", b"\xc3\xa9\"\\\tb"),
                ("x-bytes", b"\xc3\xa9\xff\"\\ b"),
            ]),
        }),
        response: Some(response),
        trailers: Some(headers(&[("grpc-status", b"0")])),
        summary: Summary {
            status: Some(204),
            flags: Flags::none(),
            details: Some("via_upstream".into()),
            bytes_received: 154,
            duration: Some(Duration::from_micros(226_900)),
            request_duration: Some(Duration::from_millis(1)),
            response_duration: Some(Duration::from_millis(220)),
            upstream_host: Some(Arc::new(host)),
            upstream_local: Some(socket("10.0.35.1:50000")),
            cluster: Some(ClusterName::new("outbound|80||locations")),
            route: Some("r1".into()),
            attempts: 2,
            ..Summary::default()
        },
    }
}

/// A TCP session whose upstream refused it.
fn refused() -> Facts {
    let host = HostRecord::new(
        EndpointAddress::Socket(socket("127.0.0.1:1")),
        Arc::default(),
    );
    Facts {
        connection: ConnectionRecord {
            peer: socket("10.0.0.9:40000"),
            local: socket("10.0.0.1:3306"),
            server_name: None,
        },
        request: None,
        response: None,
        trailers: None,
        summary: Summary {
            flags: Flags::UPSTREAM_CONNECTION_FAILURE.union(Flags::RETRY_LIMIT_EXCEEDED),
            transport_failure: Some("delayed connect error: Connection refused".into()),
            duration: Some(Duration::ZERO),
            upstream_host: Some(Arc::new(host)),
            cluster: Some(ClusterName::new("dead")),
            attempts: 1,
            ..Summary::default()
        },
    }
}

fn op(operator: Operator) -> Format {
    Format(vec![Segment::Operator {
        operator,
        max: None,
    }])
}

fn field(name: &str) -> FieldName {
    match name {
        ":method" => FieldName::Method,
        ":path" => FieldName::Path,
        ":authority" => FieldName::Authority,
        ":scheme" => FieldName::Scheme,
        ":status" => FieldName::Status,
        name => FieldName::Field(HeaderName::parse(name.as_bytes()).expect("name")),
    }
}

fn req(name: &str) -> Operator {
    Operator::Request(FieldRef {
        first: field(name),
        otherwise: None,
    })
}

fn resp(name: &str) -> Operator {
    Operator::Response(FieldRef {
        first: field(name),
        otherwise: None,
    })
}

/// Envoy's default format.
fn default_format() -> Format {
    let original = FieldRef {
        first: field("x-envoy-original-path"),
        otherwise: Some(FieldName::Path),
    };
    let parts: Vec<(&str, Operator)> = vec![
        ("[", Operator::StartTime),
        ("] \"", req(":method")),
        (" ", Operator::Request(original)),
        (" ", Operator::Protocol),
        ("\" ", Operator::ResponseCode),
        (" ", Operator::ResponseFlags),
        (" ", Operator::BytesReceived),
        (" ", Operator::BytesSent),
        (" ", Operator::Duration),
        (" ", resp("x-envoy-upstream-service-time")),
        (" \"", req("x-forwarded-for")),
        ("\" \"", req("user-agent")),
        ("\" \"", req("x-request-id")),
        ("\" \"", req(":authority")),
        ("\" \"", Operator::UpstreamHost),
    ];
    let mut segments = Vec::new();
    for (text, operator) in parts {
        segments.push(Segment::Text(text.into()));
        segments.push(Segment::Operator {
            operator,
            max: None,
        });
    }
    segments.push(Segment::Text("\"\n".into()));
    Format(segments)
}

#[test]
fn the_default_format_reads_as_envoys() {
    assert_eq!(
        answered().line(&default_format()),
        "[2026-11-21T08:00:00.123Z] \"POST /api/v1/locations HTTP/1.1\" 204 - 154 0 226 100 \
         \"10.0.35.28\" \"nsq2http\" \"cc21d9b0\" \"locations\" \"10.0.2.1:80\"\n"
    );
    assert_eq!(
        refused().line(&default_format()),
        "[2026-11-21T08:00:00.123Z] \"- - -\" 0 UF,URX 0 0 0 - \"-\" \"-\" \"-\" \"-\" \
         \"127.0.0.1:1\"\n"
    );
}

#[test]
fn each_operator_prints_its_value_or_a_dash() {
    let with_port = |without_port| {
        (
            Operator::DownstreamLocalAddress { without_port },
            Operator::DownstreamRemoteAddress { without_port },
            Operator::DownstreamDirectRemoteAddress { without_port },
        )
    };
    let (local, remote, direct) = with_port(false);
    let (local_ip, remote_ip, direct_ip) = with_port(true);
    let grpc = FieldRef {
        first: field("grpc-status"),
        otherwise: None,
    };
    let table = [
        (req(":scheme"), "http", "-"),
        (req(":status"), "-", "-"),
        (req("x-none"), "-", "-"),
        (resp(":status"), "204", "-"),
        (Operator::Trailer(grpc), "0", "-"),
        (Operator::ResponseCodeDetails, "via_upstream", "-"),
        (Operator::ConnectionTerminationDetails, "-", "-"),
        (Operator::RequestDuration, "1", "-"),
        (Operator::ResponseDuration, "220", "-"),
        (Operator::ResponseTxDuration, "6", "-"),
        (Operator::UpstreamCluster, "outbound|80||locations", "dead"),
        (Operator::UpstreamLocalAddress, "10.0.35.1:50000", "-"),
        (
            Operator::UpstreamTransportFailureReason,
            "-",
            "delayed_connect_error:_Connection_refused",
        ),
        (Operator::UpstreamRequestAttemptCount, "2", "1"),
        (local, "[fd00::1]:80", "10.0.0.1:3306"),
        (local_ip, "fd00::1", "10.0.0.1"),
        (Operator::DownstreamLocalPort, "80", "3306"),
        (remote, "10.0.35.28:40000", "10.0.0.9:40000"),
        (remote_ip, "10.0.35.28", "10.0.0.9"),
        (direct, "10.0.35.28:40000", "10.0.0.9:40000"),
        (direct_ip, "10.0.35.28", "10.0.0.9"),
        (Operator::RequestedServerName, "a.test", "-"),
        (Operator::RouteName, "r1", "-"),
        (Operator::Absent, "-", "-"),
    ];
    let (http, tcp) = (answered(), refused());
    for (operator, of_http, of_tcp) in table {
        let format = op(operator);
        assert_eq!(http.line(&format), of_http, "{format:?}");
        assert_eq!(tcp.line(&format), of_tcp, "{format:?}");
    }
    assert_ne!(http.line(&op(Operator::Hostname)), "-");
}

#[test]
fn values_are_cut_to_their_length_and_text_is_not() {
    let cut = |operator, max| {
        Format(vec![
            Segment::Text("text:".into()),
            Segment::Operator {
                operator,
                max: Some(max),
            },
            Segment::Text(";".into()),
        ])
    };
    let facts = answered();
    assert_eq!(facts.line(&cut(req(":path"), 5)), "text:/api/;");
    assert_eq!(
        facts.line(&cut(req(":path"), 99)),
        "text:/api/v1/locations;"
    );
    assert_eq!(facts.line(&cut(req(":path"), 0)), "text:;");
}

#[test]
fn header_values_leave_out_what_is_absent() {
    let format = Format(vec![
        Segment::Text("[".into()),
        Segment::Operator {
            operator: req("x-none"),
            max: None,
        },
        Segment::Text("]".into()),
    ]);
    let mut out = BytesMut::new();
    format::render(&format, &answered().record(), &mut out);
    assert_eq!(out, "[]");
}

#[test]
fn no_value_begins_a_line_of_its_own() {
    let mut facts = refused();
    facts.summary.details = Some("first\r\nsecond\u{7f}\tthird".into());
    let line = facts.line(&op(Operator::ResponseCodeDetails));
    assert_eq!(line, "first\\x0d\\x0asecond\\x7f\tthird");
}

#[test]
fn json_keeps_types_and_escapes_whatever_was_sent() {
    let text = |text: &str| Segment::Text(text.into());
    let operator = |operator| Segment::Operator {
        operator,
        max: None,
    };
    let mixed = Format(vec![
        text("a"),
        operator(Operator::ResponseCode),
        text("-"),
        operator(req("x-none")),
    ]);
    let members = [
        ("code", op(Operator::ResponseCode)),
        ("none", op(req("x-none"))),
        ("mixed", mixed),
        ("port", op(Operator::DownstreamLocalPort)),
        ("flags", op(Operator::ResponseFlags)),
        ("status", op(resp(":status"))),
        ("odd", op(req("x-odd"))),
        ("bytes", op(req("x-bytes"))),
        ("k\"ey", Format(vec![text("plain\n")])),
    ];
    let line = answered().json(&members);
    assert_eq!(
        line,
        "{\"code\":204,\"none\":null,\"mixed\":\"a204--\",\"port\":80,\"flags\":\"-\",\
         \"status\":\"204\",\"odd\":\"é\\\"\\\\\\tb\",\
         \"bytes\":\"\\u00c3\\u00a9\\u00ff\\\"\\\\ b\",\"k\\\"ey\":\"plain\\n\"}\n"
    );
    let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(read["odd"], "é\"\\\tb");
    assert_eq!(answered().json(&[]), "{}\n");
}

#[test]
fn lines_wait_for_the_flush_or_for_enough_of_them() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("a.log");
    let writer = LogWriter::start(&Registry::new()).expect("thread");
    let log = AccessLog {
        path: path.to_str().expect("UTF-8").into(),
        shape: Shape::Text(default_format()),
    };
    let buffers = LogBuffers::new(writer.clone());
    let written = || {
        assert!(writer.sync(Duration::from_secs(10)));
        std::fs::read_to_string(&path)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let facts = answered();
    buffers.log(std::slice::from_ref(&log), &facts.record());
    assert_eq!(written(), 0);
    buffers.flush();
    assert_eq!(written(), 1);
    let line = facts.line(&default_format()).len();
    for _ in 0..HAND_OVER.div_ceil(line) {
        buffers.log(std::slice::from_ref(&log), &facts.record());
    }
    assert_eq!(written(), 1 + HAND_OVER.div_ceil(line));
    buffers.log(std::slice::from_ref(&log), &facts.record());
    drop(buffers);
    assert_eq!(written(), 2 + HAND_OVER.div_ceil(line));
}
