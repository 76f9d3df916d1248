// SPDX-License-Identifier: Apache-2.0
//! Bytes without requests: upgrades, TCP relays, TLS passed through by name.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use remora_testkit::client::Connection;
use remora_testkit::upstream::ServerFirst;
use remora_testkit::upstream::http::Reply;
use remora_testkit::upstream::server_first::MYSQL_GREETING;
use remora_testkit::wait;

use super::case::{Case, Scene, case};

pub(crate) const CASES: &[Case] = &[
    case(
        "a WebSocket is upgraded, and bytes pass both ways until one side ends",
        UPGRADES,
        |s| {
            let backend = s.backend_that(1, Reply::Upgrade)?;
            let mut connection = upgrade(s, "/", "websocket")?;
            let answer = connection.read_response("GET")?;
            assert_eq!(
                (answer.status, answer.header("upgrade")),
                (101, Some("websocket"))
            );
            for text in ["\x00hello\n", "second", &"x".repeat(100_000)] {
                connection.write(text.as_bytes())?;
                connection.expect(text.as_bytes())?;
            }
            connection.stream().shutdown(Shutdown::Write)?;
            assert_eq!(connection.read_to_end()?, b"");
            let seen = backend.recorded().pop().expect("a request came");
            assert_eq!(seen.header("upgrade"), Some("websocket"));
            assert!(
                seen.header("connection")
                    .is_some_and(|v| v.eq_ignore_ascii_case("upgrade"))
            );
            Ok(())
        },
    ),
    case(
        "an upgrade that the upstream refuses is an ordinary answer",
        UPGRADES,
        |s| {
            let _backend = s.backend_that(1, Reply::status(403, "no"))?;
            let mut connection = upgrade(s, "/", "websocket")?;
            let answer = connection.read_response("GET")?;
            assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
            Ok(())
        },
    ),
    case(
        "an upgrade that is not configured: 403 from Envoy, an ordinary request to Remora",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters: {a: {hosts: [1]}}
",
        |s| {
            let backend = s.backend(1)?;
            let answer = upgrade(s, "/", "chat")?.read_response("GET")?;
            assert_eq!(answer.status, s.differs(403, 200));
            // Behind HTTP/2 that an upgrade began, no route would be looked at.
            let answer = upgrade(s, "/", "h2c")?.read_response("GET")?;
            assert_eq!(answer.status, 200);
            let seen = backend.recorded().pop().expect("a request came");
            assert_eq!(seen.header("upgrade"), None);
            Ok(())
        },
    ),
    case(
        "a TCP proxy relays both ways, and one side may end before the other",
        "
tcp: {11010: {cluster: $a}}
clusters: {a: {hosts: [1]}}
",
        |s| {
            let listener = TcpListener::bind(s.address(1))?;
            std::thread::scope(|scope| {
                let upstream = scope.spawn(move || -> std::io::Result<Vec<u8>> {
                    let (mut stream, _) = listener.accept()?;
                    let mut request = Vec::new();
                    // The end of the request is the end of its half.
                    stream.read_to_end(&mut request)?;
                    wait::rest(Duration::from_millis(50));
                    stream.write_all(b"answer to ")?;
                    stream.write_all(&request)?;
                    Ok(request)
                });
                let mut connection = s.connect_to(11010)?;
                let body = vec![b'q'; 1 << 20];
                connection.write(&body)?;
                connection.stream().shutdown(Shutdown::Write)?;
                let answer = connection.read_to_end()?;
                assert_eq!(answer, [&b"answer to "[..], &body].concat());
                assert_eq!(upstream.join().expect("no panic")?, body);
                Ok(())
            })
        },
    ),
    case(
        "a server that speaks first is heard at once through a TCP proxy",
        "
tcp: {11011: {cluster: $a}}
clusters: {a: {hosts: [1]}}
",
        |s| {
            let _server = ServerFirst::start(s.address(1), MYSQL_GREETING)?;
            let mut connection = s.connect_to(11011)?;
            connection.expect(MYSQL_GREETING)?;
            connection.write(b"login")?;
            connection.expect(b"login")
        },
    ),
    case(
        "a TCP proxy whose host refuses, or that has none, closes the connection",
        "
tcp: {11012: {cluster: $dead}, 11013: {cluster: $empty}}
clusters: {dead: {hosts: [1]}, empty: {hosts: []}}
",
        |s| {
            for port in [11012, 11013] {
                let mut connection = s.connect_to(port)?;
                // A reset and an orderly end are both an end.
                let rest = connection.read_to_end().unwrap_or_default();
                assert_eq!(rest, b"", "port {port}");
            }
            Ok(())
        },
    ),
    case(
        "an idle TCP connection is closed after its time, a busy one is not",
        "
tcp: {11014: {cluster: $a, idle_timeout: 0.4s}}
clusters: {a: {hosts: [1]}}
",
        |s| {
            let _server = ServerFirst::start(s.address(1), b"hi")?;
            let mut connection = s.connect_to(11014)?;
            connection.expect(b"hi")?;
            for _ in 0..5 {
                wait::rest(Duration::from_millis(150));
                connection.write(b"x")?;
                connection.expect(b"x")?;
            }
            assert_eq!(connection.read_to_end().unwrap_or_default(), b"");
            Ok(())
        },
    ),
    case(
        "TCP is shared out by weight",
        "
tcp: {11015: {weighted_clusters: {clusters: [{name: $a, weight: 3}, {name: $b, weight: 1}]}}}
clusters: {a: {hosts: [1]}, b: {hosts: [2]}}
",
        |s| {
            let (a, b) = (
                ServerFirst::start(s.address(1), b"1")?,
                ServerFirst::start(s.address(2), b"2")?,
            );
            for _ in 0..200 {
                let mut byte = [0];
                s.connect_to(11015)?.stream().read_exact(&mut byte)?;
            }
            assert_eq!(a.accepted() + b.accepted(), 200);
            // Five standard deviations around 50.
            assert!((20..=80).contains(&b.accepted()), "{} of 200", b.accepted());
            Ok(())
        },
    ),
    case(
        "TLS is passed on by its server name, byte for byte",
        SNI,
        |s| {
            let servers = [
                ServerFirst::start_polite(s.address(1), b"a")?,
                ServerFirst::start_polite(s.address(2), b"w")?,
                ServerFirst::start_polite(s.address(3), b"d")?,
            ];
            for (name, expected) in [
                (Some("a.test"), b"a"),
                (Some("A.Test"), b"a"),
                (Some("x.wild.test"), b"w"),
                (Some("x.y.wild.test"), b"w"),
                (Some("other.test"), b"d"),
                (None, b"d"),
            ] {
                let hello = client_hello(name);
                let mut connection = s.connect_to(11016)?;
                // In two parts: a name may come late.
                let (start, rest) = hello.split_at(hello.len() / 2);
                connection.write(start)?;
                wait::rest(Duration::from_millis(20));
                connection.write(rest)?;
                connection.expect(expected)?;
                connection.expect(&hello)?;
            }
            drop(servers);
            // Where no chain matches, the connection is closed.
            let mut connection = s.connect_to(11017)?;
            connection.write(&client_hello(Some("unknown.test")))?;
            assert_eq!(connection.read_to_end().unwrap_or_default(), b"");
            Ok(())
        },
    ),
];

const UPGRADES: &str = "
routes: [{match: {prefix: /}, route: {cluster: $a, upgrade_configs: [{upgrade_type: websocket}]}}]
clusters: {a: {hosts: [1]}}
";

const SNI: &str = "
listeners:
- name: $sni
  address: {socket_address: {address: 127.0.0.1, port_value: 11016}}
  listener_filters: &inspect
  - name: envoy.filters.listener.tls_inspector
    typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}
  filter_chains:
  - filter_chain_match: {server_names: [a.test]}
    filters: [{name: tcp, typed_config: {'@type': &tcp type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: a, cluster: $a}}]
  - filter_chain_match: {server_names: ['*.wild.test']}
    filters: [{name: tcp, typed_config: {'@type': *tcp, stat_prefix: w, cluster: $w}}]
  - filters: [{name: tcp, typed_config: {'@type': *tcp, stat_prefix: d, cluster: $d}}]
- name: $closed
  address: {socket_address: {address: 127.0.0.1, port_value: 11017}}
  listener_filters: *inspect
  filter_chains:
  - filter_chain_match: {server_names: [a.test]}
    filters: [{name: tcp, typed_config: {'@type': *tcp, stat_prefix: a, cluster: $a}}]
clusters: {a: {hosts: [1]}, w: {hosts: [2]}, d: {hosts: [3]}}
";

fn upgrade(s: &Scene, path: &str, protocol: &str) -> anyhow::Result<Connection> {
    let mut connection = s.connect()?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        s.host()
    );
    connection.write(head.as_bytes())?;
    Ok(connection)
}

/// The first record of a TLS 1.2 or 1.3 client: RFC 8446 section 4.1.2, RFC 6066 section 3.
fn client_hello(server_name: Option<&str>) -> Vec<u8> {
    let with_length = |size: usize, body: &[u8]| {
        let length = u32::try_from(body.len())
            .expect("a short body")
            .to_be_bytes();
        [&length[4 - size..], body].concat()
    };
    let mut extensions = Vec::new();
    if let Some(name) = server_name {
        let entry = [&[0][..], &with_length(2, name.as_bytes())].concat();
        extensions.extend([0, 0]);
        extensions.extend(with_length(2, &with_length(2, &entry)));
    }
    // supported_versions: 1.3 and 1.2.
    extensions.extend([0, 43]);
    extensions.extend(with_length(2, &[4, 3, 4, 3, 3]));
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &with_length(2, &[0x13, 0x01]),
        &with_length(1, &[0]),
        &with_length(2, &extensions),
    ]
    .concat();
    let handshake = [&[1][..], &with_length(3, &body)].concat();
    [&[0x16, 3, 1][..], &with_length(2, &handshake)].concat()
}
