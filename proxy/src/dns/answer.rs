// SPDX-License-Identifier: Apache-2.0
//! What becomes of a query: answered from the name table, refused, or sent on.
//!
//! Pure: bytes and the table in, a [`Decision`] out. The names of the mesh are answered with
//! authority; a name that the table does not have is the machine's resolver's, whatever is asked
//! of it. Called by the UDP and TCP halves of the server for each message.
//!
//! A name that the table has is never given addresses by anybody else: questions whose answers
//! carry addresses (A, AAAA, CNAME, HTTPS, SVCB, any) end here, with "no data" where the table has
//! none, so that a dual-stack program does not reach past the mesh. Questions about other things
//! (MX, TXT, SRV) still go upstream, since a mesh may well know a host that others have mail
//! records for; an upstream that then denies the name as a whole is not believed.
//!
//! Invariant: no bytes make it panic, and nothing that is itself a response is ever answered.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use remora_ir::names::{NameEntry, NameTable};

use super::question::{HEADER_LEN, Header, Question};

/// What a query came by: it bounds the size of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// This answer from the name table.
    Answer(Vec<u8>),
    /// The query is at fault, or asks for what is not served: this says so.
    Refuse(Vec<u8>),
    /// It is for the machine's resolver.
    Forward {
        /// What is asked.
        question: Question,
        /// The answer in the place of an upstream's "no such name", for a name of the table.
        nodata: Option<Vec<u8>>,
    },
    /// It is no query; an answer could only feed a loop.
    Drop,
}

/// Decides about one message. `rotation` turns the order of addresses, so that programs which take
/// the first one do not all take the same.
pub(super) fn answer(
    query: &[u8],
    names: &NameTable,
    transport: Transport,
    rotation: usize,
) -> Decision {
    let Some(header) = Header::read(query) else {
        return Decision::Drop;
    };
    if header.is_response {
        return Decision::Drop;
    }
    if header.op_code != u8::from(OpCode::Query) {
        return Decision::Refuse(failure(query, None, ResponseCode::NotImp));
    }
    let question = match Question::read(query) {
        Some(question) if header.questions == 1 => question,
        _ => return Decision::Refuse(failure(query, None, ResponseCode::FormErr)),
    };
    let kind = RecordType::from(question.kind);
    if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
        // A zone transfer is many messages; there is no zone here, and resolvers refuse it too.
        let refused = failure(query, Some(&question), ResponseCode::Refused);
        return Decision::Refuse(refused);
    }
    let entry = match &question.name {
        Some(name) if DNSClass::from(question.class) == DNSClass::IN => names.find(name),
        _ => None,
    };
    match entry {
        None => Decision::Forward {
            question,
            nodata: None,
        },
        Some(entry) => answer_known(query, question, entry, (transport, rotation)),
    }
}

fn answer_known(
    query: &[u8],
    question: Question,
    entry: &NameEntry,
    (transport, rotation): (Transport, usize),
) -> Decision {
    let Ok(asked) = Message::from_vec(query) else {
        let failure = failure(query, Some(&question), ResponseCode::FormErr);
        return Decision::Refuse(failure);
    };
    if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        let reply = reply_to(&asked, ResponseCode::BADVERS);
        return Decision::Refuse(encode(&reply, query, &question));
    }
    let (is_local, v4, v6) = match RecordType::from(question.kind) {
        RecordType::A => (true, true, false),
        RecordType::AAAA => (true, false, true),
        RecordType::ANY => (true, true, true),
        RecordType::CNAME | RecordType::HTTPS | RecordType::SVCB => (true, false, false),
        _ => (false, false, false),
    };
    let mut reply = reply_to(&asked, ResponseCode::NoError);
    if let Some(name) = asked.queries.first().map(|asked| asked.name().clone()) {
        if v4 {
            add_addresses(&mut reply, &name, &entry.v4, rotation);
        }
        if v6 {
            add_addresses(&mut reply, &name, &entry.v6, rotation);
        }
        if reply.answers.is_empty() {
            reply.add_authority(start_of_authority(name));
        }
    }
    let mut bytes = encode(&reply, query, &question);
    if transport == Transport::Udp && bytes.len() > usize::from(udp_limit(&asked)) {
        bytes = encode(&reply.truncate(), query, &question);
    }
    if is_local {
        Decision::Answer(bytes)
    } else {
        Decision::Forward {
            question,
            nodata: Some(bytes),
        }
    }
}

/// A reply without records that carries a response code; its question is repeated if it is given.
pub(super) fn failure(query: &[u8], question: Option<&Question>, code: ResponseCode) -> Vec<u8> {
    if let (Some(question), Ok(asked)) = (question, Message::from_vec(query)) {
        return encode(&reply_to(&asked, code), query, question);
    }
    // What cannot be decoded as a whole is answered by its header, and the question if there is one.
    let mut reply = Vec::with_capacity(HEADER_LEN);
    let Some(&[id0, id1, high, low, ..]) = query.first_chunk::<HEADER_LEN>() else {
        return reply;
    };
    let asked = question.map(|question| question.bytes(query));
    reply.extend([
        id0,
        id1,
        0x80 | (high & 0x79),
        0x80 | (low & 0x10) | code.low(),
    ]);
    reply.extend([0, u8::from(asked.is_some()), 0, 0, 0, 0, 0, 0]);
    reply.extend_from_slice(asked.unwrap_or_default());
    reply
}

/// The largest answer that goes by UDP (RFC 6891 §6.2.3).
fn udp_limit(asked: &Message) -> u16 {
    let asked = asked.edns.as_ref().map_or(MIN_PAYLOAD, Edns::max_payload);
    asked.clamp(MIN_PAYLOAD, MAX_PAYLOAD)
}

fn reply_to(asked: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&asked.metadata);
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = code == ResponseCode::NoError;
    reply.metadata.response_code = code;
    reply.add_queries(asked.queries.iter().cloned());
    if let Some(asked) = &asked.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_PAYLOAD);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

fn add_addresses<I: Copy>(reply: &mut Message, name: &Name, all: &[I], rotation: usize)
where
    RData: FromAddress<I>,
{
    let start = rotation.checked_rem(all.len()).unwrap_or(0);
    let (tail, head) = all.split_at(start);
    for address in head.iter().chain(tail) {
        let data = RData::from_address(*address);
        reply.add_answer(Record::from_rdata(name.clone(), TTL, data));
    }
}

/// The record that carries an address of a family.
trait FromAddress<I> {
    fn from_address(address: I) -> Self;
}

impl FromAddress<Ipv4Addr> for RData {
    fn from_address(address: Ipv4Addr) -> Self {
        Self::A(A(address))
    }
}

impl FromAddress<Ipv6Addr> for RData {
    fn from_address(address: Ipv6Addr) -> Self {
        Self::AAAA(AAAA(address))
    }
}

/// What makes "no data" an answer that may be kept (RFC 2308 §2.2). Each name is its own zone.
fn start_of_authority(name: Name) -> Record {
    let nobody = Name::from_ascii("nobody.invalid.").unwrap_or_default();
    let seconds = i32::try_from(TTL).unwrap_or(i32::MAX);
    let soa = SOA::new(name.clone(), nobody, 1, seconds, seconds, seconds, TTL);
    Record::from_rdata(name, TTL, RData::SOA(soa))
}

/// The reply's bytes, with the question exactly as it was asked: resolvers check its case.
fn encode(reply: &Message, query: &[u8], question: &Question) -> Vec<u8> {
    let Ok(mut bytes) = reply.to_vec() else {
        return failure_of(query, question);
    };
    if let Some(place) = bytes.get_mut(question.range.clone()) {
        place.copy_from_slice(question.bytes(query));
    }
    bytes
}

/// The reply in the place of one that cannot be encoded: more addresses than a message holds.
fn failure_of(query: &[u8], question: &Question) -> Vec<u8> {
    let header = query.get(..question.range.end).unwrap_or_default();
    failure(header, Some(question), ResponseCode::ServFail)
}

/// How long an answer may be kept. Unit: seconds. Asking again costs a packet over loopback, and
/// the addresses of a headless service change with its instances.
pub(super) const TTL: u32 = 5;

/// What every resolver can take (RFC 1035 §4.2.1).
const MIN_PAYLOAD: u16 = 512;

/// What is sent by UDP at most, and said to be taken: usual, and fragments of it never leave the
/// loopback.
const MAX_PAYLOAD: u16 = 4096;

#[cfg(test)]
mod tests;
