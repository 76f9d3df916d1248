// SPDX-License-Identifier: Apache-2.0
//! The access log: Envoy's default format, and the fields that a format can name.

use anyhow::Context as _;
use remora_testkit::wait;

use super::case::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("the default format is Envoy's, field by field", ONE, |s| {
        let _backend = s.backend(1)?;
        let request = s
            .request("/default-format")
            .header("User-Agent", "tester")
            .header("X-Forwarded-For", "192.0.2.9")
            .header("X-Request-Id", "id-1")
            .with_body("POST", "1234");
        assert_eq!(s.send(&request)?.status, 200);
        let log = s.log.with_file_name("default.log");
        let line = wait::until("the line", wait::PATIENCE, || {
            let text = std::fs::read_to_string(&log).context("read the log")?;
            let mut lines = text.lines();
            let line =
                lines.find(|line| line.contains("/default-format") && line.contains(&s.host()));
            line.map(str::to_owned).context("no such line")
        })?;
        let (time, rest) = line.split_once("] ").context("a time in brackets")?;
        let time = time.trim_start_matches('[');
        assert!(
            time.len() == 24 && time.ends_with('Z') && time.contains('T'),
            "{time}"
        );
        let fields: Vec<_> = rest.split('"').collect();
        assert_eq!(fields[1], "POST /default-format HTTP/1.1");
        let numbers: Vec<_> = fields[2].split_whitespace().collect();
        let (counts, times) = numbers.split_at(4);
        assert_eq!(
            counts,
            ["200", "-", "4", "1"],
            "code, flags, bytes received and sent"
        );
        assert!(
            times.len() == 2 && times.iter().all(|t| t.parse::<u64>().is_ok()),
            "{times:?}"
        );
        let upstream = s.address(1).to_string();
        let quoted: Vec<_> = fields.iter().skip(3).step_by(2).copied().collect();
        assert_eq!(
            quoted,
            ["192.0.2.9", "tester", "id-1", &s.host(), &upstream]
        );
        Ok(())
    }),
    case(
        "a format's fields tell bytes, cluster, host, route and attempts",
        ONE,
        |s| {
            let _backend = s.backend(1)?;
            let request = s.request("/fields").with_body("POST", "12345");
            assert_eq!(s.send(&request)?.status, 200);
            let line = s.log_of("/fields")?;
            let own = s.host();
            let own = own.trim_end_matches("test");
            let upstream = s.address(1).to_string();
            let table = [
                ("method", "POST"),
                ("protocol", "HTTP/1.1"),
                ("code", "200"),
                ("flags", "-"),
                ("details", "via_upstream"),
                ("received", "5"),
                ("sent", "1"),
                ("upstream", &upstream),
                ("cluster", &format!("{own}a")),
                ("attempts", "1"),
                ("route", "named"),
            ];
            for (name, expected) in table {
                assert_eq!(line.field(name), expected, "{name}");
            }
            Ok(())
        },
    ),
];

const ONE: &str = "
routes: [{name: named, match: {prefix: /}, route: {cluster: $a}}]
clusters: {a: {hosts: [1]}}
";
