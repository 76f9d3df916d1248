// SPDX-License-Identifier: Apache-2.0
//! Which route, virtual host and cluster a request gets.

use remora_testkit::client::Request;

use super::case::{Case, Scene, case};

pub(crate) const CASES: &[Case] = &[
    case("an exact path matches that path alone, whatever its query", PATHS, |s| {
        let table = [
            ("/exact", "200 exact"),
            ("/exact?a=b", "200 exact"),
            ("/exact/", "200 rest"),
            ("/exactly", "200 rest"),
            ("/Exact", "200 rest"),
            ("/any-case", "200 any case"),
            ("/ANY-CASE", "200 any case"),
        ];
        expect_all(s, &table)
    }),
    case("a prefix is a prefix of the text, a separated prefix one of segments", PATHS, |s| {
        let table = [
            ("/pre", "200 prefix"),
            ("/prefixed/x", "200 prefix"),
            ("/p", "200 rest"),
            ("/seg", "200 segments"),
            ("/seg/x", "200 segments"),
            ("/seg?x", "200 segments"),
            ("/segment", "200 rest"),
        ];
        expect_all(s, &table)
    }),
    case("a regex must match the whole path, without its query", PATHS, |s| {
        let table = [
            ("/r/12/x", "200 regex"),
            ("/r/12/x?y=/z", "200 regex"),
            ("/r/12/x/y", "200 rest"),
            ("/a/r/12/x", "200 rest"),
            ("/r/ab/x", "200 rest"),
        ];
        expect_all(s, &table)
    }),
    case(
        "the first route that matches is taken, whatever comes after it",
        "
routes:
- {match: {prefix: /a/b}, direct_response: {status: 200, body: {inline_string: first}}}
- {match: {prefix: /a}, direct_response: {status: 200, body: {inline_string: second}}}
- {match: {path: /a/b/c}, direct_response: {status: 200, body: {inline_string: third}}}
",
        |s| expect_all(s, &[("/a/b/c", "200 first"), ("/a/x", "200 second"), ("/b", "404")]),
    ),
    case(
        "header conditions: exact, prefix, suffix, contains, regex, range, presence, inversion",
        "
routes:
- {match: {prefix: /, headers: [{name: x-exact, string_match: {exact: Rui}}]}, direct_response: {status: 200, body: {inline_string: exact}}}
- {match: {prefix: /, headers: [{name: x-any-case, string_match: {exact: rui, ignore_case: true}}]}, direct_response: {status: 200, body: {inline_string: any case}}}
- {match: {prefix: /, headers: [{name: x-prefix, string_match: {prefix: ab}}]}, direct_response: {status: 200, body: {inline_string: prefix}}}
- {match: {prefix: /, headers: [{name: x-suffix, string_match: {suffix: ab}}]}, direct_response: {status: 200, body: {inline_string: suffix}}}
- {match: {prefix: /, headers: [{name: x-contains, string_match: {contains: ab}}]}, direct_response: {status: 200, body: {inline_string: contains}}}
- {match: {prefix: /, headers: [{name: x-regex, string_match: {safe_regex: {regex: 'v[0-9]+'}}}]}, direct_response: {status: 200, body: {inline_string: regex}}}
- {match: {prefix: /, headers: [{name: x-range, range_match: {start: 10, end: 20}}]}, direct_response: {status: 200, body: {inline_string: range}}}
- {match: {prefix: /, headers: [{name: x-there, present_match: true}]}, direct_response: {status: 200, body: {inline_string: present}}}
- {match: {prefix: /inverted, headers: [{name: x-inverted, string_match: {exact: a}, invert_match: true}]}, direct_response: {status: 200, body: {inline_string: inverted}}}
- {match: {prefix: /absent, headers: [{name: x-absent, present_match: true, invert_match: true}]}, direct_response: {status: 200, body: {inline_string: absent}}}
- {match: {prefix: /}, direct_response: {status: 200, body: {inline_string: rest}}}
",
        |s| {
            let table = [
                ("/", "x-exact", "Rui", "exact"),
                ("/", "X-Exact", "Rui", "exact"),
                ("/", "x-exact", "rui", "rest"),
                ("/", "x-any-case", "RUI", "any case"),
                ("/", "x-prefix", "abc", "prefix"),
                ("/", "x-prefix", "cab", "rest"),
                ("/", "x-suffix", "cab", "suffix"),
                ("/", "x-contains", "cabc", "contains"),
                ("/", "x-regex", "v12", "regex"),
                ("/", "x-regex", "v12a", "rest"),
                ("/", "x-range", "10", "range"),
                ("/", "x-range", "20", "rest"),
                ("/", "x-range", "ten", "rest"),
                ("/", "x-there", "", "present"),
                ("/inverted", "x-inverted", "b", "inverted"),
                ("/inverted", "x-inverted", "a", "rest"),
                ("/inverted", "x-other", "a", "rest"),
                ("/absent", "x-other", "a", "absent"),
                ("/absent", "x-absent", "a", "rest"),
            ];
            for (path, name, value, expected) in table {
                let answer = s.answer_to(&s.request(path).header(name, value))?;
                assert_eq!(answer, format!("200 {expected}"), "{path} {name}: {value}");
            }
            Ok(())
        },
    ),
    case(
        "all conditions of a route must hold, and one value of a repeated header is enough",
        "
routes:
- match:
    prefix: /
    headers:
    - {name: x-a, string_match: {exact: '1'}}
    - {name: x-b, string_match: {exact: '2'}}
  direct_response: {status: 200, body: {inline_string: both}}
- {match: {prefix: /}, direct_response: {status: 200, body: {inline_string: rest}}}
",
        |s| {
            let one = s.request("/").header("x-a", "1");
            assert_eq!(s.answer_to(&one)?, "200 rest");
            assert_eq!(s.answer_to(&one.clone().header("x-b", "2"))?, "200 both");
            let repeated = one.header("x-b", "0").header("x-b", "2");
            assert_eq!(s.answer_to(&repeated)?, "200 both");
            Ok(())
        },
    ),
    case(
        "query conditions look at the first value of a key, undecoded",
        "
routes:
- {match: {prefix: /, query_parameters: [{name: v, string_match: {exact: '1'}}]}, direct_response: {status: 200, body: {inline_string: exact}}}
- {match: {prefix: /, query_parameters: [{name: there, present_match: true}]}, direct_response: {status: 200, body: {inline_string: present}}}
- {match: {prefix: /}, direct_response: {status: 200, body: {inline_string: rest}}}
",
        |s| {
            let table = [
                ("/?v=1", "200 exact"),
                ("/?a=b&v=1", "200 exact"),
                ("/?v=2&v=1", "200 rest"),
                ("/?v=%31", "200 rest"),
                ("/?there", "200 present"),
                ("/?there=x", "200 present"),
                ("/?their=x", "200 rest"),
            ];
            expect_all(s, &table)
        },
    ),
    case(
        "a condition on :method chooses by method",
        "
routes:
- {match: {prefix: /, headers: [{name: ':method', string_match: {exact: POST}}]}, direct_response: {status: 200, body: {inline_string: post}}}
- {match: {prefix: /}, direct_response: {status: 200, body: {inline_string: rest}}}
",
        |s| {
            assert_eq!(s.answer_to(&s.request("/").with_body("POST", "x"))?, "200 post");
            assert_eq!(s.answer_to(&s.request("/").with_body("PUT", "x"))?, "200 rest");
            assert_eq!(s.answer("/")?, "200 rest");
            Ok(())
        },
    ),
    case(
        "virtual hosts: exact before the longest suffix before the longest prefix",
        "
virtual_hosts:
- {name: $exact, domains: [a.b.$dom], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: exact}}}]}
- {name: $short, domains: ['*.$dom'], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: short}}}]}
- {name: $long, domains: ['*.b.$dom'], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: long}}}]}
- {name: $prefix, domains: ['$dom.*'], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: prefix}}}]}
- {name: $port, domains: ['port.$x:80'], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: port}}}]}
",
        |s| {
            let own = s.host();
            let own = own.trim_end_matches("test");
            let table = [
                (format!("a.b.{own}dom"), "200 exact"),
                (format!("A.B.{}DOM", own.to_uppercase()), "200 exact"),
                (format!("x.b.{own}dom"), "200 long"),
                (format!("x.{own}dom"), "200 short"),
                (format!("b.{own}dom"), "200 short"),
                (format!("{own}dom.test"), "200 prefix"),
                (format!("{own}dom"), "404"),
                (format!("a.b.{own}dom:8080"), "404"),
                (format!("port.{own}x:80"), "200 port"),
                (format!("port.{own}x"), "404"),
            ];
            for (host, expected) in table {
                assert_eq!(s.answer_to(&Request::get(&host, "/"))?, expected, "{host}");
            }
            Ok(())
        },
    ),
    case(
        "weighted clusters get their shares, and nothing goes to weight zero",
        "
routes:
- match: {prefix: /}
  route:
    weighted_clusters:
      clusters: [{name: $a, weight: 80}, {name: $b, weight: 20}, {name: $none, weight: 0}]
clusters:
  a: {hosts: [1]}
  b: {hosts: [2]}
  none: {hosts: [3]}
",
        |s| {
            let backends = [s.backend(1)?, s.backend(2)?, s.backend(3)?];
            let mut connection = s.connect()?;
            for _ in 0..1000 {
                assert_eq!(connection.send(&s.request("/"))?.status, 200);
            }
            let [a, b, none] = backends.map(|backend| backend.recorded().len());
            assert_eq!((a + b, none), (1000, 0));
            // Five standard deviations of a binomial with n = 1000, p = 0.2.
            assert!((137..=263).contains(&b), "{b} of 1000 went to the 20 % cluster");
            Ok(())
        },
    ),
    case(
        "a fraction of a route's requests takes it, the rest falls through",
        "
routes:
- match: {prefix: /, runtime_fraction: {default_value: {numerator: 30}}}
  direct_response: {status: 200, body: {inline_string: some}}
- {match: {prefix: /}, direct_response: {status: 200, body: {inline_string: rest}}}
",
        |s| {
            let mut connection = s.connect()?;
            let mut some = 0;
            for _ in 0..500 {
                some += usize::from(connection.send(&s.request("/"))?.text() == "some");
            }
            assert!((99..=201).contains(&some), "{some} of 500 took the 30 % route");
            Ok(())
        },
    ),
    case(
        "an absolute target names the host, whatever Host says",
        "
routes: [{match: {prefix: /x}, direct_response: {status: 200, body: {inline_string: here}}}]
",
        |s| {
            let target = format!("http://{}/x?y", s.host());
            assert_eq!(s.answer_to(&Request::get("elsewhere.test", &target))?, "200 here");
            Ok(())
        },
    ),
];

const PATHS: &str = "
routes:
- {match: {path: /exact}, direct_response: {status: 200, body: {inline_string: exact}}}
- {match: {path: /any-case, case_sensitive: false}, direct_response: {status: 200, body: {inline_string: any case}}}
- {match: {prefix: /pre}, direct_response: {status: 200, body: {inline_string: prefix}}}
- {match: {path_separated_prefix: /seg}, direct_response: {status: 200, body: {inline_string: segments}}}
- {match: {safe_regex: {regex: '/r/[0-9]+/[^/]*'}}, direct_response: {status: 200, body: {inline_string: regex}}}
- {match: {prefix: /}, direct_response: {status: 200, body: {inline_string: rest}}}
";

fn expect_all(s: &Scene, table: &[(&str, &str)]) -> anyhow::Result<()> {
    for (path, expected) in table {
        assert_eq!(&s.answer(path)?, expected, "{path}");
    }
    Ok(())
}
