// SPDX-License-Identifier: Apache-2.0
use super::*;

const START: Instant = Instant::from_nanos(1_000_000_000_000);

fn at(ms: u64) -> Instant {
    START + Duration::from_millis(ms)
}

fn both() -> Inspect {
    Inspect {
        tls: true,
        http: true,
        timeout: None,
        continue_on_timeout: true,
    }
}

fn within(ms: u64, continue_on_timeout: bool) -> Inspect {
    Inspect {
        timeout: Some(Duration::from_millis(ms)),
        continue_on_timeout,
        ..both()
    }
}

fn new(habit: Option<Habit>) -> Detector {
    Detector::new(both(), habit, true, START)
}

const SILENCE: Heard<'static> = Heard {
    client: b"",
    client_ended: false,
    server: b"",
};

fn client(bytes: &[u8]) -> Heard<'_> {
    Heard {
        client: bytes,
        ..SILENCE
    }
}

fn server(bytes: &[u8]) -> Heard<'_> {
    Heard {
        server: bytes,
        ..SILENCE
    }
}

const ENDED: Heard<'static> = Heard {
    client_ended: true,
    ..SILENCE
};

const FOREVER: Step = Step::Wait(Instant::FAR_FUTURE);

fn hello() -> Vec<u8> {
    hello_for("a.test")
}

/// A ClientHello for a name that offers `h2`.
pub(in crate::downstream) fn hello_for(name: &str) -> Vec<u8> {
    let length = |n: usize| u16::try_from(n).expect("short").to_be_bytes();
    let sni = [
        &[0, 0][..],
        &length(name.len() + 5),
        &length(name.len() + 3),
        &[0],
        &length(name.len()),
        name.as_bytes(),
    ]
    .concat();
    let alpn = [&[0, 16, 0, 5, 0, 3, 2][..], b"h2"].concat();
    let extensions = [sni, alpn].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 2, 0x13, 0x01],
        &[1, 0],
        &length(extensions.len()),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(message.len()), &message].concat()
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once_at_an_unknown_destination() {
    let mut detector = new(None);
    assert_eq!(detector.step(SILENCE, at(0)), Step::Dial);
    assert_eq!(detector.step(SILENCE, at(1)), FOREVER);
    detector.on_dialled();
    assert_eq!(detector.step(SILENCE, at(2)), FOREVER);
    let greeting = server(b"\x4a\x00\x00\x00\x0a8.0");
    assert_eq!(
        detector.step(greeting, at(3)),
        Step::Done(Verdict::ServerFirst(Greeting::MySql))
    );
}

#[test]
fn a_known_client_first_destination_is_dialled_after_50_ms_of_silence_only() {
    let mut detector = new(Some(Habit::ClientFirst));
    assert_eq!(detector.step(SILENCE, at(0)), Step::Wait(at(50)));
    assert_eq!(detector.step(SILENCE, at(49)), Step::Wait(at(50)));
    assert_eq!(detector.step(SILENCE, at(50)), Step::Dial);
    assert_eq!(
        new(Some(Habit::ServerFirst)).step(SILENCE, at(0)),
        Step::Dial
    );
}

#[test]
fn what_the_client_says_decides_whatever_was_dialled() {
    let table: [(&[u8], Verdict); 8] = [
        (b"GET / HTTP/1.1\r\n", Verdict::Http1 { version10: false }),
        (b"GET / HTTP/1.0\r\n", Verdict::Http1 { version10: true }),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Verdict::Http2),
        (
            b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01",
            Verdict::FastCgi,
        ),
        (b"*1\r\n$4\r\nPING\r\n", Verdict::Redis),
        (b"EHLO a.test\r\n", Verdict::Opaque),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Verdict::Opaque),
        (&[0xff; 4096], Verdict::Opaque),
    ];
    for (bytes, verdict) in table {
        for habit in [None, Some(Habit::ClientFirst), Some(Habit::ServerFirst)] {
            let early = new(habit).step(client(bytes), at(0));
            assert_eq!(
                early,
                Step::Done(verdict.clone()),
                "{}",
                bytes.escape_ascii()
            );
            let mut late = new(habit);
            while late.step(SILENCE, at(60)) == Step::Dial {}
            late.on_dialled();
            assert_eq!(
                late.step(client(bytes), at(70)),
                Step::Done(verdict.clone())
            );
        }
    }
}

#[test]
fn a_client_hello_is_waited_for_to_its_end_if_tls_is_inspected() {
    let hello = hello();
    let mut detector = new(None);
    assert_eq!(detector.step(client(&hello[..20]), at(0)), FOREVER);
    assert_eq!(detector.step(client(&hello[..40]), at(5000)), FOREVER);
    let Step::Done(Verdict::Tls(asked)) = detector.step(client(&hello), at(9000)) else {
        panic!("a whole hello is a verdict");
    };
    assert_eq!(asked.sni.expect("named").as_str(), "a.test");
    assert_eq!(asked.alpn, [b"h2"]);
    let plain = Inspect {
        tls: false,
        ..both()
    };
    let mut detector = Detector::new(plain, None, true, START);
    assert_eq!(
        detector.step(client(&hello[..20]), at(0)),
        Step::Done(Verdict::Opaque)
    );
    let broken = [&hello[..6], &[0xff; 200]].concat();
    assert_eq!(
        new(None).step(client(&broken), at(0)),
        Step::Done(Verdict::Opaque)
    );
}

#[test]
fn a_client_that_stops_within_a_prefix_is_opaque_after_a_moment() {
    let mut detector = new(None);
    assert_eq!(detector.step(client(b"P"), at(0)), Step::Wait(at(1000)));
    assert_eq!(detector.step(client(b"PO"), at(900)), Step::Wait(at(1900)));
    assert_eq!(
        detector.step(client(b"PO"), at(1900)),
        Step::Done(Verdict::Opaque)
    );
    let ended = Heard {
        client_ended: true,
        ..client(b"PO")
    };
    assert_eq!(new(None).step(ended, at(1)), Step::Done(Verdict::Opaque));
}

#[test]
fn a_client_that_leaves_without_a_word_is_let_go_or_relayed() {
    assert_eq!(
        new(Some(Habit::ClientFirst)).step(ENDED, at(1)),
        Step::Done(Verdict::Gone)
    );
    let mut detector = new(None);
    assert_eq!(detector.step(SILENCE, at(0)), Step::Dial);
    assert_eq!(detector.step(ENDED, at(1)), FOREVER);
    detector.on_dialled();
    // It may only have said that it will not say anything.
    assert_eq!(detector.step(ENDED, at(2)), Step::Done(Verdict::Opaque));
    let mut detector = new(None);
    assert_eq!(detector.step(SILENCE, at(0)), Step::Dial);
    detector.on_dial_failed(at(1));
    assert_eq!(detector.step(ENDED, at(2)), Step::Done(Verdict::Gone));
}

#[test]
fn after_a_failed_dial_the_client_has_a_moment_to_speak() {
    let mut detector = new(None);
    assert_eq!(detector.step(SILENCE, at(0)), Step::Dial);
    detector.on_dial_failed(at(3));
    assert_eq!(detector.step(SILENCE, at(3)), Step::Wait(at(1003)));
    let http = client(b"GET / HTTP/1.1\r\n");
    assert_eq!(
        detector.step(http, at(400)),
        Step::Done(Verdict::Http1 { version10: false })
    );
    assert_eq!(
        detector.step(SILENCE, at(1003)),
        Step::Done(Verdict::Opaque)
    );
}

#[test]
fn the_listeners_timeout_only_bounds_the_wait() {
    for (goes_on, verdict) in [(true, Verdict::Opaque), (false, Verdict::TimedOut)] {
        let mut detector = Detector::new(within(200, goes_on), None, true, START);
        assert_eq!(detector.step(SILENCE, at(0)), Step::Dial);
        assert_eq!(detector.step(SILENCE, at(1)), Step::Wait(at(200)));
        assert_eq!(detector.step(SILENCE, at(200)), Step::Done(verdict.clone()));
        let mut partial = Detector::new(within(200, goes_on), None, true, START);
        assert_eq!(
            partial.step(client(b"\x16\x03\x01\x00\x20\x01"), at(1)),
            Step::Wait(at(200))
        );
        assert_eq!(
            partial.step(client(b"\x16\x03\x01\x00\x20\x01"), at(200)),
            Step::Done(verdict)
        );
    }
}

#[test]
fn without_a_tcp_chain_nobody_is_dialled() {
    let mut detector = Detector::new(both(), None, false, START);
    assert_eq!(detector.step(SILENCE, at(0)), FOREVER);
    assert_eq!(detector.step(SILENCE, at(99_999)), FOREVER);
    assert_eq!(detector.step(ENDED, at(99_999)), Step::Done(Verdict::Gone));
}
