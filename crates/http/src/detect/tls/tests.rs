// SPDX-License-Identifier: Apache-2.0
//! ClientHellos built field by field, cut, fragmented and damaged.

use proptest::prelude::*;

use super::*;

fn vector(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("test data are short");
    [&length.to_be_bytes()[..], data].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(data)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vector(&[&[0][..], &vector(name)].concat()))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = names
        .iter()
        .flat_map(|name| {
            let length = u8::try_from(name.len()).expect("test data are short");
            [&[length][..], name].concat()
        })
        .collect();
    extension(ALPN, &vector(&list))
}

fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[2, 0xaa, 0xbb],
        &vector(&[0x13, 1, 0x13, 2]),
        &[1, 0],
        &vector(&extensions.concat()),
    ]
    .concat();
    let length = u32::try_from(body.len())
        .expect("test data are short")
        .to_be_bytes();
    [&[CLIENT_HELLO][..], &length[1..], &body].concat()
}

fn records(message: &[u8], fragment: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[HANDSHAKE, 3, 1][..], &vector(part)].concat();
    message.chunks(fragment).flat_map(record).collect()
}

fn hello(name: Option<&str>, alpn: &[&[u8]]) -> Result<Progress, NotTls> {
    let sni = name.map(|name| HostName::try_new(name).expect("a host name"));
    let alpn = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Progress::Hello(ClientHello { sni, alpn }))
}

#[test]
fn the_name_and_the_protocols_are_found() {
    let full = message(&[
        extension(0x2a2a, &[]),
        sni(b"Shop.Example.TEST"),
        alpn(&[b"h2", b"http/1.1"]),
    ]);
    let expected = hello(Some("shop.example.test"), &[b"h2", b"http/1.1"]);
    for fragment in [1, 7, 100, 16_384] {
        assert_eq!(
            parse_client_hello(&records(&full, fragment)),
            expected,
            "{fragment}"
        );
    }
    let followed = [records(&full, 16_384), b"\x14\x03\x03\x00\x01\x01".to_vec()].concat();
    assert_eq!(parse_client_hello(&followed), expected);
}

#[test]
fn absence_is_no_error() {
    assert_eq!(
        parse_client_hello(&records(&message(&[]), 99)),
        hello(None, &[])
    );
    for name in [&b"a b"[..], b"", b"\xff", b"a..b"] {
        assert_eq!(
            parse_client_hello(&records(&message(&[sni(name)]), 999)),
            hello(None, &[])
        );
    }
}

#[test]
fn each_prefix_needs_more() {
    let bytes = records(&message(&[sni(b"a.test"), alpn(&[b"h2"])]), 40);
    for end in 0..bytes.len() {
        assert_eq!(
            parse_client_hello(&bytes[..end]),
            Ok(Progress::NeedMore),
            "{end}"
        );
    }
}

#[test]
fn dribbled_records_are_not_waited_for_without_end() {
    let padding = extension(21, &[0; 8000]);
    let full = message(&[padding, sni(b"a.test")]);
    assert_eq!(
        parse_client_hello(&records(&full, 8192)),
        hello(Some("a.test"), &[])
    );
    let dribbled = records(&full, 1);
    assert_eq!(
        parse_client_hello(&dribbled[..MAX_HELLO - 1]),
        Ok(Progress::NeedMore)
    );
    assert_eq!(parse_client_hello(&dribbled[..MAX_HELLO]), Err(TOO_LONG));
}

#[test]
fn damage_is_refused() {
    let mut long_inner = message(&[sni(b"a.test")]);
    let last = long_inner.len() - 8;
    long_inner[last] = 0xff;
    let table: [(&str, Vec<u8>); 9] = [
        ("an alert", b"\x15\x03\x03\x00\x02\x02\x28".to_vec()),
        ("plain text", b"GET / HTTP/1.1".to_vec()),
        ("an empty record", b"\x16\x03\x01\x00\x00".to_vec()),
        ("a record above 16 KiB", b"\x16\x03\x01\x40\x01".to_vec()),
        ("a server hello", b"\x16\x03\x01\x00\x04\x02".to_vec()),
        (
            "a hello above 16 KiB",
            b"\x16\x03\x01\x00\x04\x01\x00\x40\x00".to_vec(),
        ),
        ("a name longer than its list", records(&long_inner, 999)),
        (
            "a repeated name",
            records(&message(&[sni(b"a.test"), sni(b"b.test")]), 999),
        ),
        ("an empty protocol", records(&message(&[alpn(&[b""])]), 999)),
    ];
    for (what, bytes) in table {
        assert!(parse_client_hello(&bytes).is_err(), "{what}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse_client_hello(&bytes);
        let _ = parse_client_hello(&[b"\x16\x03\x01\x00\xff\x01\x00\x00\xfb", &bytes[..]].concat());
    }

    #[test]
    fn damaged_hellos_are_judged(at in 0_usize..120, byte in any::<u8>(), fragment in 1_usize..80) {
        let mut bytes = records(&message(&[sni(b"a.test"), alpn(&[b"h2", b"x"])]), fragment);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = parse_client_hello(&bytes);
    }
}
