// SPDX-License-Identifier: Apache-2.0
//! Requests that one parser could read differently from another, and heads that are too large:
//! refused with a reason, and not a byte of them reaches the upstream.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use remora_testkit::client::Connection;
use remora_testkit::lab::{self, Host};
use remora_testkit::process::Process;
use remora_testkit::upstream::HttpUpstream;
use remora_testkit::upstream::http::Reply;
use remora_tests::subject::Subject;

const ADMIN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9901);
const PROXY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 10_000);
const UPSTREAM: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 10_001);

struct Scene {
    host: Host,
    backend: HttpUpstream,
    proxy: Process,
}

impl Scene {
    fn start(lab: &lab::Lab) -> anyhow::Result<Self> {
        let host = lab.add_host("edge", 10)?;
        let file = lab.folder().join("bootstrap.yaml");
        std::fs::write(&file, BOOTSTRAP)?;
        let start = || HttpUpstream::start(UPSTREAM.into(), Reply::status(200, "reached"));
        let backend = host.enter(start)??;
        let proxy = Subject::Remora.start(&host, &file, ADMIN.into())?;
        Ok(Self {
            host,
            backend,
            proxy,
        })
    }

    /// Sends bytes as they are; status and all of the answer.
    fn send(&self, bytes: &[u8]) -> anyhow::Result<(u16, String)> {
        self.host.enter(|| {
            let mut connection = Connection::open(SocketAddr::from(PROXY), LIMIT)?;
            connection.write(bytes)?;
            let answer = String::from_utf8_lossy(&connection.read_to_end()?).into_owned();
            let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
            Ok((
                status.with_context(|| format!("no status in `{answer}`"))?,
                answer,
            ))
        })?
    }
}

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_reaches_nobody() {
    lab::test(|lab| {
        let mut scene = Scene::start(lab)?;
        // The scene is real: an honest request goes through, whatever its host.
        let honest = b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
        assert_eq!(scene.send(honest)?.0, 200);
        let honest = scene.backend.recorded().len();
        for (what, request) in AMBIGUOUS {
            let (status, answer) = scene.send(request.as_bytes()).context(*what)?;
            if !matches!(status, 400..=431 | 501 | 505) {
                bail!("{what}: answered {answer}");
            }
            if answer.matches("\r\ndate: ").count() != 1 {
                bail!("{what}: answered twice: {answer}");
            }
        }
        let reached = scene.backend.recorded();
        let beyond: Vec<_> = reached.iter().skip(honest).map(|seen| &seen.line).collect();
        if !beyond.is_empty() {
            bail!("reached the upstream: {beyond:?}");
        }
        if !scene.proxy.is_running() {
            bail!("the proxy did not survive");
        }
        Ok(())
    });
}

#[test]
fn a_head_that_is_too_large_is_told_which_limit_it_met() {
    lab::test(|lab| {
        let scene = Scene::start(lab)?;
        let many: String = (0..150).map(|n| format!("x-{n}: 1\r\n")).collect();
        let long = "x".repeat(70_000);
        let table = [
            (
                format!("GET / HTTP/1.1\r\nHost: a\r\nx: {long}\r\n\r\n"),
                431,
                "61440 bytes",
            ),
            (
                format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
                431,
                "100 headers",
            ),
            (
                format!("GET / HTTP/1.1\r\nHost: a\r\nx: {long}"),
                431,
                "61440 bytes",
            ),
            (
                format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
                414,
                "61440 bytes",
            ),
        ];
        for (request, expected, limit) in table {
            let (status, answer) = scene.send(request.as_bytes())?;
            if status != expected || !answer.contains(limit) {
                bail!("expected {expected} that names `{limit}`, found: {answer}");
            }
        }
        assert_eq!(scene.backend.recorded().len(), 0);
        Ok(())
    });
}

/// Each has a second reading in which a request for `/smuggled` hides.
const AMBIGUOUS: &[(&str, &str)] = &[
    (
        "length and chunks",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "chunks and length",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 36\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "the same length twice",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    ),
    (
        "a list of lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 36\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a length with a sign",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nab",
    ),
    (
        "a negative length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    ),
    (
        "a length in hex",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\nab",
    ),
    (
        "a length beyond all",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    ),
    (
        "an empty length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
    ),
    (
        "another coding",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked and identity",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        "identity and chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding with a control character",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding in quotes",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    ),
    (
        "a blank before the colon of the coding",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "a blank before the colon of the length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nabcde",
    ),
    (
        "a blank before a name",
        "GET / HTTP/1.1\r\nHost: a\r\n x: 1\r\n\r\n",
    ),
    (
        "a folded line",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a folded value",
        "GET / HTTP/1.1\r\nHost: a\r\nx: 1\r\n\t2\r\n\r\n",
    ),
    (
        "a bare line feed",
        "GET / HTTP/1.1\r\nHost: a\nx: 1\r\n\r\n",
    ),
    (
        "bare line feeds at the end",
        "GET / HTTP/1.1\r\nHost: a\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a bare carriage return",
        "GET / HTTP/1.1\r\nHost: a\r\nx: 1\rContent-Length: 36\r\n\r\n",
    ),
    (
        "a NUL in a name",
        "GET / HTTP/1.1\r\nHost: a\r\nx\0: 1\r\n\r\n",
    ),
    (
        "a NUL in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nx: \0\r\n\r\n",
    ),
    ("a NUL in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "a name of other letters",
        "GET / HTTP/1.1\r\nHost: a\r\nx\u{e9}: 1\r\n\r\n",
    ),
    (
        "a line without a colon",
        "GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n",
    ),
    ("an empty name", "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    (
        "the same host twice",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ),
    ("a host with a blank", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("a host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("a host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    (
        "blanks in the target",
        "GET /a /b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "two blanks in the request line",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a tab in the request line",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "a target that is no path",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("a fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a version of one digit", "GET / HTTP/1\r\nHost: a\r\n\r\n"),
    (
        "a version in small letters",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a version of the future",
        "GET / HTTP/3.0\r\nHost: a\r\n\r\n",
    ),
    ("no version", "GET /\r\nHost: a\r\n\r\n"),
    (
        "a method with a colon",
        "GE:T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "chunks in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
];

const BOOTSTRAP: &str = "
node: {id: edge, cluster: edge}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
static_resources:
  listeners:
  - name: edge
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          route_config:
            virtual_hosts:
            - {name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: upstream}}]}
          http_filters:
          - name: router
            typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: upstream
    type: STATIC
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 10001}}}
";
