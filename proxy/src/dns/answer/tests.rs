// SPDX-License-Identifier: Apache-2.0
//! Tables of the decision, with queries as a resolver builds them.

use std::net::IpAddr;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::opt::EdnsOption;
use proptest::prelude::*;

use super::*;

/// `sms.shop` has one address, `v6.shop` one of the other family, `big.shop` as many as given.
fn names(big: u8) -> NameTable {
    let v4 = |last: &[u8]| NameEntry {
        v4: last
            .iter()
            .map(|n| Ipv4Addr::new(240, 240, 0, *n))
            .collect(),
        v6: Vec::new(),
    };
    let v6 = NameEntry {
        v4: Vec::new(),
        v6: vec![Ipv6Addr::LOCALHOST],
    };
    NameTable::from_entries([
        ("sms".to_owned(), v4(&[1])),
        ("sms.shop".to_owned(), v4(&[1])),
        ("sms.shop.svc.cluster.local".to_owned(), v4(&[1])),
        ("big.shop".to_owned(), v4(&(1..=big).collect::<Vec<_>>())),
        ("v6.shop".to_owned(), v6),
        ("*.wild.example".to_owned(), v4(&[9])),
    ])
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("encodes")
}

fn decide(message: &Message) -> Decision {
    answer(&bytes(message), &names(3), Transport::Udp, 0)
}

fn answered(decision: Decision) -> Message {
    match decision {
        Decision::Answer(bytes) => Message::from_vec(&bytes).expect("well formed"),
        other => panic!("not answered: {other:?}"),
    }
}

fn refused(decision: Decision) -> Message {
    match decision {
        Decision::Refuse(bytes) => Message::from_vec(&bytes).expect("well formed"),
        other => panic!("not refused: {other:?}"),
    }
}

fn addresses(message: &Message) -> Vec<String> {
    let ips = message
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr());
    ips.map(|ip: IpAddr| ip.to_string()).collect()
}

#[test]
fn names_of_the_mesh_are_answered_and_no_other() {
    use RecordType::{A, AAAA, ANY, CNAME, HTTPS, SVCB};
    let table: [(&str, RecordType, Option<&[&str]>); 15] = [
        ("sms.", A, Some(&["240.240.0.1"])),
        ("sms.shop.", A, Some(&["240.240.0.1"])),
        ("SMS.Shop.svc.CLUSTER.local.", A, Some(&["240.240.0.1"])),
        ("a.b.wild.example.", A, Some(&["240.240.0.9"])),
        ("sms.shop.", AAAA, Some(&[])),
        ("v6.shop.", AAAA, Some(&["::1"])),
        ("v6.shop.", A, Some(&[])),
        ("v6.shop.", ANY, Some(&["::1"])),
        ("sms.shop.", HTTPS, Some(&[])),
        ("sms.shop.", SVCB, Some(&[])),
        ("sms.shop.", CNAME, Some(&[])),
        ("wild.example.", A, None),
        ("sms.other.", A, None),
        ("cdn.example.", AAAA, None),
        (".", RecordType::NS, None),
    ];
    for (name, kind, expected) in table {
        let decision = decide(&query(name, kind));
        let Some(expected) = expected else {
            assert!(
                matches!(decision, Decision::Forward { nodata: None, .. }),
                "{name} {kind}: {decision:?}"
            );
            continue;
        };
        let reply = answered(decision);
        assert_eq!(addresses(&reply), expected, "{name} {kind}");
        assert_eq!(reply.metadata.id, 0x1234);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.metadata.recursion_available && reply.metadata.recursion_desired);
        let is_negative = expected.is_empty();
        let kinds: Vec<_> = reply.authorities.iter().map(Record::record_type).collect();
        assert_eq!(kinds == [RecordType::SOA], is_negative, "{name} {kind}");
        assert!(reply.answers.iter().all(|record| record.ttl == TTL));
    }
}

#[test]
fn what_carries_no_address_goes_upstream_with_no_data_in_reserve() {
    for kind in [RecordType::MX, RecordType::TXT, RecordType::SRV] {
        match decide(&query("sms.shop.", kind)) {
            Decision::Forward {
                nodata: Some(nodata),
                ..
            } => {
                let reply = Message::from_vec(&nodata).expect("well formed");
                assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
                assert!(reply.answers.is_empty());
                assert_eq!(reply.authorities.len(), 1);
            }
            other => panic!("{kind}: {other:?}"),
        }
    }
}

#[test]
fn another_class_is_not_ours() {
    let mut asked = query("sms.shop.", RecordType::TXT);
    asked.queries[0].set_query_class(DNSClass::CH);
    assert!(matches!(
        decide(&asked),
        Decision::Forward { nodata: None, .. }
    ));
}

#[test]
fn the_question_comes_back_letter_by_letter() {
    let asked = bytes(&query("sMs.sHOp.", RecordType::A));
    let question = Question::read(&asked).expect("whole");
    for kind in [0x01, 0x1c] {
        let mut asked = asked.clone();
        asked[question.range.end - 3] = kind;
        let Decision::Answer(reply) = answer(&asked, &names(0), Transport::Udp, 0) else {
            panic!("a name of the mesh");
        };
        assert_eq!(question.bytes(&reply), question.bytes(&asked));
    }
}

#[test]
fn addresses_take_turns_at_the_front() {
    let asked = bytes(&query("big.shop.", RecordType::A));
    let first = |turn| {
        let decision = answer(&asked, &names(3), Transport::Udp, turn);
        addresses(&answered(decision)).swap_remove(0)
    };
    let seen: Vec<_> = (0..4).map(first).collect();
    assert_eq!(
        seen,
        ["240.240.0.1", "240.240.0.2", "240.240.0.3", "240.240.0.1"]
    );
}

#[test]
fn what_does_not_fit_a_datagram_is_cut_and_said_to_be() {
    let table = [
        // Payload offered, transport, whether all 200 addresses (3,200 bytes) are there.
        (None, Transport::Udp, false),
        (Some(1232), Transport::Udp, false),
        (Some(4096), Transport::Udp, true),
        (Some(65535), Transport::Udp, true),
        (None, Transport::Tcp, true),
    ];
    for (payload, transport, is_whole) in table {
        let mut asked = query("big.shop.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_dnssec_ok(true);
            asked.set_edns(edns);
        }
        let Decision::Answer(reply) = answer(&bytes(&asked), &names(200), transport, 7) else {
            panic!("a name of the mesh");
        };
        let limit = usize::from(payload.unwrap_or(512));
        assert!(transport == Transport::Tcp || reply.len() <= limit);
        let reply = Message::from_vec(&reply).expect("well formed");
        assert_eq!(reply.metadata.truncation, !is_whole, "{payload:?}");
        assert_eq!(reply.answers.len(), if is_whole { 200 } else { 0 });
        assert_eq!(reply.edns.is_some(), payload.is_some(), "OPT answers OPT");
        let keeps_flag = reply.edns.is_none_or(|edns| edns.flags().dnssec_ok);
        assert!(keeps_flag);
    }
}

#[test]
fn faulty_queries_are_told_so() {
    let mut two = query("sms.shop.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    let mut none = query("sms.shop.", RecordType::A);
    none.queries.clear();
    let mut update = query("sms.shop.", RecordType::SOA);
    update.metadata.op_code = OpCode::Notify;
    let mut version = query("sms.shop.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    version.set_edns(edns);
    let table = [
        ("two questions", two, ResponseCode::FormErr),
        ("no question", none, ResponseCode::FormErr),
        ("another operation", update, ResponseCode::NotImp),
        ("EDNS of a later version", version, ResponseCode::BADVERS),
        (
            "a zone",
            query("x.", RecordType::AXFR),
            ResponseCode::Refused,
        ),
        (
            "changes of a zone",
            query("x.", RecordType::IXFR),
            ResponseCode::Refused,
        ),
    ];
    for (what, asked, expected) in table {
        let reply = refused(decide(&asked));
        // By number: 16 has two names.
        let code = u16::from(reply.metadata.response_code);
        assert_eq!(code, u16::from(expected), "{what}");
        assert_eq!(reply.metadata.id, 0x1234, "{what}");
        assert!(reply.answers.is_empty(), "{what}");
    }
    // An OPT record that ends in the middle, in a question about a name of the mesh.
    let mut asked = query("sms.shop.", RecordType::A);
    asked.set_edns(Edns::new());
    let mut cut = bytes(&asked);
    cut.truncate(cut.len() - 3);
    let reply = refused(answer(&cut, &names(0), Transport::Udp, 0));
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(reply.queries.len(), 1);
}

#[test]
fn what_is_no_query_is_dropped() {
    let mut response = query("sms.shop.", RecordType::A);
    response.metadata.message_type = hickory_proto::op::MessageType::Response;
    assert_eq!(decide(&response), Decision::Drop);
    for length in 0..12 {
        let cut = &bytes(&query("sms.shop.", RecordType::A))[..length];
        assert_eq!(answer(cut, &names(0), Transport::Udp, 0), Decision::Drop);
    }
}

#[test]
fn options_that_are_unknown_here_change_nothing() {
    let mut asked = query("sms.shop.", RecordType::A);
    let mut edns = Edns::new();
    let cookie = EdnsOption::Unknown(10, vec![1; 8]);
    edns.options_mut().insert(cookie);
    asked.set_edns(edns);
    let reply = answered(decide(&asked));
    assert_eq!(addresses(&reply), ["240.240.0.1"]);
    assert!(reply.edns.is_some());
}

/// Damaged queries: a good one with bytes changed, cut or appended.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let mut asked = query("sms.shop.", RecordType::A);
    asked.set_edns(Edns::new());
    let whole = bytes(&asked);
    let changes = prop::collection::vec((0..whole.len(), any::<u8>()), 0..6);
    let tail = prop::collection::vec(any::<u8>(), 0..40);
    (changes, 0..=whole.len(), tail).prop_map(move |(changes, cut, tail)| {
        let mut damaged = whole.clone();
        for (at, byte) in changes {
            damaged[at] = byte;
        }
        damaged.truncate(cut);
        damaged.extend(tail);
        damaged
    })
}

/// Whatever comes in, what goes out answers it: same id, a response, no longer than a datagram.
fn check(message: &[u8]) -> Result<(), TestCaseError> {
    let decision = answer(message, &names(3), Transport::Udp, 1);
    let reply = match &decision {
        Decision::Answer(reply) | Decision::Refuse(reply) => reply,
        Decision::Forward { question, nodata } => {
            prop_assert!(question.range.end <= message.len());
            let failure = failure(message, Some(question), ResponseCode::ServFail);
            prop_assert!(Message::from_vec(&failure).is_ok());
            prop_assert_eq!(question.bytes(&failure), question.bytes(message));
            match nodata {
                Some(nodata) => nodata,
                None => return Ok(()),
            }
        }
        Decision::Drop => return Ok(()),
    };
    prop_assert_eq!(&reply[..2], &message[..2]);
    prop_assert!(reply[2] & 0x80 != 0);
    prop_assert!(reply.len() <= usize::from(MAX_PAYLOAD));
    prop_assert!(Message::from_vec(reply).is_ok());
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(message in prop::collection::vec(any::<u8>(), 0..600)) {
        check(&message)?;
    }

    #[test]
    fn damaged_queries_get_sound_replies_or_none(message in damaged()) {
        check(&message)?;
    }
}
