// SPDX-License-Identifier: Apache-2.0
//! Paths as Envoy 1.39 sees them, and where this crate is stricter.

use proptest::prelude::*;

use super::*;

const BASE: Rules = Rules {
    normalize: true,
    merge_slashes: false,
    escaped_slashes: EscapedSlashes::Keep,
};
const ALL: Rules = Rules {
    normalize: true,
    merge_slashes: true,
    escaped_slashes: EscapedSlashes::UnescapeAndForward,
};

fn applied(rules: Rules, path: &str) -> Result<String, BadPath> {
    let path = Bytes::copy_from_slice(path.as_bytes());
    Ok(match rules.apply(&path)? {
        Outcome::Unchanged => String::from_utf8_lossy(&path).into_owned(),
        Outcome::Changed(path) => String::from_utf8_lossy(&path).into_owned(),
        Outcome::Redirect(path) => format!("-> {}", String::from_utf8_lossy(&path)),
    })
}

#[test]
fn ways_to_write_admin_are_seen_as_envoy_sees_them() {
    // Path, after normalisation, after all rules.
    let table = [
        ("/a/../admin", "/admin", "/admin"),
        ("/%61dmin", "/admin", "/admin"),
        ("/a/%2e%2e/admin", "/admin", "/admin"),
        ("/a/%2E./admin", "/admin", "/admin"),
        ("/./admin", "/admin", "/admin"),
        ("/x/..;/admin", "/admin", "/admin"),
        ("/x/%2e%2e;p=1/admin", "/admin", "/admin"),
        ("/.;/admin", "/admin", "/admin"),
        ("/a;p/../admin", "/admin", "/admin"),
        ("//admin", "//admin", "/admin"),
        ("/\\admin", "//admin", "/admin"),
        ("/a%2f../admin", "/a%2f../admin", "/admin"),
        ("/a%2f..%2fadmin", "/a%2f..%2fadmin", "/admin"),
        ("/a%5C..%5cadmin", "/a%5C..%5cadmin", "/admin"),
        ("/;/admin", "/;/admin", "/;/admin"),
        ("/Admin", "/Admin", "/Admin"),
        ("/admin;x", "/admin;x", "/admin;x"),
        ("/admin%2f", "/admin%2f", "/admin/"),
    ];
    for (path, base, all) in table {
        assert_eq!(applied(BASE, path).as_deref(), Ok(base), "{path}");
        assert_eq!(applied(ALL, path).as_deref(), Ok(all), "{path}");
        assert_eq!(
            applied(Rules::default(), path).as_deref(),
            Ok(path),
            "{path}"
        );
    }
}

#[test]
fn segments_and_characters_are_normalised() {
    let table = [
        ("/", "/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/a//../b", "/a/b"),
        ("/a/...", "/a/..."),
        ("/a/.b/..c", "/a/.b/..c"),
        ("/%7euser", "/~user"),
        ("/a|b", "/a%7Cb"),
        ("/a\"<>^`{}", "/a%22%3C%3E%5E%60%7B%7D"),
        ("/é", "/%C3%A9"),
        ("/%c3%a9", "/%c3%a9"),
        ("/%zz/%2", "/%zz/%2"),
        ("/%252e%252e/a", "/%252e%252e/a"),
        ("/%%361dmin", "/%%361dmin"),
        ("/%6%31", "/%6%31"),
        ("/a%2eb", "/a.b"),
        ("/a/..?b=/../c|d", "/?b=/../c|d"),
        ("*", "*"),
        ("", ""),
    ];
    for (path, expected) in table {
        assert_eq!(applied(BASE, path).as_deref(), Ok(expected), "{path}");
    }
}

#[test]
fn dangerous_escapes_are_refused() {
    for path in ["/a%00", "/%00/../a", "/a/%00;x"] {
        assert_eq!(applied(BASE, path), Err(BadPath::Nul), "{path}");
    }
    assert_eq!(normalize(b"/\xff"), Err(BadPath::NotUtf8));
    let reject = Rules {
        escaped_slashes: EscapedSlashes::Reject,
        ..BASE
    };
    for path in ["/a%2fb", "/a%2Fb", "/a%5cb", "/%5C"] {
        assert_eq!(applied(reject, path), Err(BadPath::EscapedSlash), "{path}");
    }
    assert_eq!(applied(reject, "/a?b=%2f").as_deref(), Ok("/a?b=%2f"));
}

#[test]
fn escaped_slashes_may_lead_to_a_redirect() {
    let redirect = Rules {
        escaped_slashes: EscapedSlashes::UnescapeAndRedirect,
        ..BASE
    };
    assert_eq!(applied(redirect, "/a%2f../b?c").as_deref(), Ok("-> /b?c"));
    assert_eq!(applied(redirect, "/a/../b").as_deref(), Ok("/b"));
}

#[test]
fn a_path_that_is_normal_is_not_copied() {
    for path in ["/", "/a/b.c/..d;x=%2F?e=/..", "/api/v1/users/42", "//"] {
        let path = Bytes::from_static(path.as_bytes());
        assert_eq!(BASE.apply(&path), Ok(Outcome::Unchanged));
    }
}

proptest! {
    #[test]
    fn normalising_twice_changes_nothing_more(tail in "[./\\\\%a2e;5cF|~é]{0,24}") {
        let path = format!("/{tail}");
        if let Ok(Some(once)) = normalize(path.as_bytes()) {
            prop_assert_eq!(normalize(&once), Ok(None), "{:?}", String::from_utf8_lossy(&once));
            prop_assert_eq!(once.first(), Some(&b'/'));
        }
    }

    #[test]
    fn any_bytes_are_normalised_or_refused(tail in prop::collection::vec(any::<u8>(), 0..48)) {
        let path = [b"/", &tail[..]].concat();
        if let Ok(Some(normal)) = normalize(&path) {
            prop_assert!(normal.is_ascii());
            prop_assert!(segments(&normal).all(|segment| dots(segment).is_none()));
        }
        let _ = (merge_slashes(&path), unescape_slashes(&path));
    }
}
