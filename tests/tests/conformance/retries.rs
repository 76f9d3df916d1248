// SPDX-License-Identifier: Apache-2.0
//! When a request is sent again, how often, and to whom.

use remora_testkit::upstream::http::Reply;

use super::case::{Case, case};
use super::replies::flags;

pub(crate) const CASES: &[Case] = &[
    case("each word of retry_on retries what it names and nothing else", WORDS, |s| {
        let backend = s.backend(1)?;
        let status = |code| Reply::status(code, "no");
        let table = [
            ("/5xx", status(500), 2),
            ("/5xx", status(503), 2),
            ("/5xx", Reply::Close, 2),
            ("/5xx", status(404), 1),
            ("/gateway-error", status(502), 2),
            ("/gateway-error", status(503), 2),
            ("/gateway-error", status(504), 2),
            ("/gateway-error", status(500), 1),
            ("/gateway-error", Reply::Close, 2),
            ("/reset", Reply::Close, 2),
            ("/reset", Reply::Reset, 2),
            ("/reset", status(503), 1),
            ("/reset-before-request", Reply::Close, 1),
            ("/connect-failure", Reply::Close, 1),
            ("/connect-failure", status(503), 1),
            ("/retriable-4xx", status(409), 2),
            ("/retriable-4xx", status(404), 1),
            ("/retriable-4xx", status(503), 1),
            ("/retriable-status-codes", status(418), 2),
            ("/retriable-status-codes", status(503), 1),
            ("/refused-stream", status(503), 1),
            ("/none", status(503), 1),
            ("/none", Reply::Close, 1),
        ];
        for (path, reply, attempts) in table {
            let before = backend.recorded().len();
            backend.push_replies([reply.clone()]);
            let answer = s.get(path)?;
            let found = backend.recorded().len() - before;
            assert_eq!(found, attempts, "attempts of {path} against {reply:?}");
            assert_eq!(answer.status == 200, attempts == 2, "{path} against {reply:?}");
        }
        Ok(())
    }),
    case(
        "a refused connection is retried by connect-failure, and previous_hosts goes elsewhere",
        "
routes:
- match: {prefix: /}
  route:
    cluster: $a
    retry_policy:
      retry_on: connect-failure
      num_retries: 1
      host_selection_retry_max_attempts: 5
      retry_host_predicate:
      - name: envoy.retry_host_predicates.previous_hosts
        typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}
clusters: {a: {hosts: [1, 2]}}
",
        |s| {
            // Number 1 is dead.
            let alive = s.backend(2)?;
            for _ in 0..20 {
                assert_eq!(s.answer("/")?, "200 2");
            }
            assert_eq!(alive.recorded().len(), 20);
            Ok(())
        },
    ),
    case("retries come to an end: URX, and the last answer is passed on", WORDS, |s| {
        let backend = s.backend_that(1, Reply::status(503, "down"))?;
        assert_eq!(s.answer("/three")?, "503 down");
        assert_eq!(backend.recorded().len(), 4);
        let line = s.log_of("/three")?;
        assert_eq!((line.field("flags"), line.field("attempts")), ("URX", "4"));
        backend.set_reply(Reply::Close);
        let answer = s.answer("/three?closed")?;
        assert!(answer.starts_with("503 upstream connect error"), "{answer}");
        assert_eq!(flags(s, "/three?closed")?, "URX,UC");
        Ok(())
    }),
    case("a request with a body is sent again with all of it", WORDS, |s| {
        let backend = s.backend(1)?;
        let body: Vec<u8> = (0..40_000_u32).flat_map(u32::to_le_bytes).collect();
        for method in ["POST", "PUT"] {
            backend.push_replies([Reply::status(503, "no"), Reply::Close]);
            let answer = s.answer_to(&s.request("/three").with_body(method, body.clone()))?;
            assert_eq!(answer, "200 1");
        }
        let seen = backend.recorded();
        assert_eq!(seen.len(), 6);
        for request in seen {
            assert!(request.is_complete && request.body == body, "{}", request.body.len());
        }
        Ok(())
    }),
    case(
        "a body beyond the buffer's limit is sent once, whole, and not again",
        "
routes: [{match: {prefix: /}, route: {cluster: $a, retry_policy: {retry_on: 5xx, num_retries: 2}}}]
clusters: {a: {hosts: [1]}}
",
        |s| {
            let backend = s.backend_that(1, Reply::status(503, "no"))?;
            let body = vec![b'x'; 3 << 20];
            assert_eq!(s.answer_to(&s.request("/").with_body("POST", body.clone()))?, "503 no");
            let seen = backend.recorded();
            assert_eq!((seen.len(), seen[0].body.len()), (1, body.len()));
            Ok(())
        },
    ),
    case("a gRPC status in the head is retried by its word", WORDS, |s| {
        let backend = s.backend(1)?;
        let grpc = |status: &str| {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: {status}\r\ncontent-length: 0\r\n\r\n"
            );
            Reply::Bytes(head.into_bytes())
        };
        for (status, attempts) in [("14", 2), ("4", 2), ("13", 1), ("0", 1)] {
            let before = backend.recorded().len();
            backend.push_replies([grpc(status)]);
            let request = s.request("/grpc").header("content-type", "application/grpc");
            assert_eq!(s.send(&request)?.status, 200);
            assert_eq!(backend.recorded().len() - before, attempts, "grpc-status {status}");
        }
        Ok(())
    }),
    case("an interrupted answer is not retried once its head was passed on", WORDS, |s| {
        let backend = s.backend_that(1, Reply::CloseInBody)?;
        assert!(s.get("/three").is_err());
        assert_eq!(backend.recorded().len(), 1);
        Ok(())
    }),
    case("a kept connection that the upstream has just closed is no error", KEPT, |s| {
        let backend = s.backend_that(1, Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()))?;
        // The upstream closes after each answer without saying so.
        let mut connection = s.connect()?;
        for _ in 0..30 {
            let answer = connection.send(&s.request("/"))?;
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        }
        assert_eq!(backend.recorded().len(), 30);
        Ok(())
    })
    .of_remora(),
];

const KEPT: &str = "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters: {a: {hosts: [1]}}
";

const WORDS: &str = "
routes:
- {match: {path: /5xx}, route: {cluster: $a, retry_policy: {retry_on: 5xx}}}
- {match: {path: /gateway-error}, route: {cluster: $a, retry_policy: {retry_on: gateway-error}}}
- {match: {path: /reset}, route: {cluster: $a, retry_policy: {retry_on: reset}}}
- {match: {path: /reset-before-request}, route: {cluster: $a, retry_policy: {retry_on: reset-before-request}}}
- {match: {path: /connect-failure}, route: {cluster: $a, retry_policy: {retry_on: connect-failure}}}
- {match: {path: /retriable-4xx}, route: {cluster: $a, retry_policy: {retry_on: retriable-4xx}}}
- {match: {path: /retriable-status-codes}, route: {cluster: $a, retry_policy: {retry_on: retriable-status-codes, retriable_status_codes: [418]}}}
- {match: {path: /refused-stream}, route: {cluster: $a, retry_policy: {retry_on: 'connect-failure,refused-stream,unavailable,cancelled', retriable_status_codes: [503]}}}
- {match: {path: /grpc}, route: {cluster: $a, retry_policy: {retry_on: 'unavailable,deadline-exceeded'}}}
- {match: {path: /three}, route: {cluster: $a, retry_policy: {retry_on: '5xx,reset', num_retries: 3}}}
- {match: {path: /none}, route: {cluster: $a}}
# Each attempt has a fresh connection: a kept one that the upstream closes is another matter.
clusters: {a: {hosts: [1], max_requests_per_connection: 1}}
";
