// SPDX-License-Identifier: Apache-2.0
//! The machine's nameserver, scripted: it writes down what it is asked, byte for byte.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record};
use remora_testkit::lab::Host;
use remora_testkit::wait;

/// A question as it came to the nameserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) bytes: Vec<u8>,
    pub(super) is_tcp: bool,
}

pub(super) type Script = fn(&Message, bool) -> Option<Message>;

/// A nameserver on a host of its own.
pub(super) struct Nameserver {
    pub(super) address: Ipv4Addr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Nameserver {
    pub(super) fn start(host: &Host, script: Script) -> anyhow::Result<Self> {
        let (udp, tcp) = host.enter(|| -> anyhow::Result<_> {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
            Ok((UdpSocket::bind(any)?, TcpListener::bind(any)?))
        })??;
        udp.set_read_timeout(Some(TICK))?;
        tcp.set_nonblocking(true)?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let by_udp = {
            let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
            std::thread::spawn(move || serve_udp(&udp, script, &asked, &stop))
        };
        let by_tcp = {
            let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
            std::thread::spawn(move || serve_tcp(&tcp, script, &asked, &stop))
        };
        Ok(Self {
            address: host.v4(),
            asked,
            stop,
            threads: vec![by_udp, by_tcp],
        })
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The names it was asked for, as they were written.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let name = |asked: &Asked| {
            let message = Message::from_vec(&asked.bytes).expect("the proxy sends what is whole");
            message.queries[0].name().to_string()
        };
        self.asked().iter().map(name).collect()
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Between looks at whether to stop.
const TICK: Duration = Duration::from_millis(20);

fn serve_udp(socket: &UdpSocket, script: Script, asked: &Mutex<Vec<Asked>>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Acquire) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if let Some(reply) = reply(&buffer[..length], script, asked, false) {
            let _ = socket.send_to(&reply, peer);
        }
    }
}

fn serve_tcp(listener: &TcpListener, script: Script, asked: &Mutex<Vec<Asked>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let Ok((mut stream, _)) = listener.accept() else {
            wait::rest(TICK);
            continue;
        };
        let mut once = || -> anyhow::Result<()> {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            let query = read_framed(&mut stream)?;
            if let Some(reply) = reply(&query, script, asked, true) {
                stream.write_all(&framed(&reply)?)?;
            }
            Ok(())
        };
        let _ = once();
    }
}

fn reply(query: &[u8], script: Script, asked: &Mutex<Vec<Asked>>, is_tcp: bool) -> Option<Vec<u8>> {
    let noted = Asked {
        bytes: query.to_vec(),
        is_tcp,
    };
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(noted);
    let message = Message::from_vec(query).expect("the proxy sends what is whole");
    Some(script(&message, is_tcp)?.to_vec().expect("encodes"))
}

pub(super) fn framed(message: &[u8]) -> anyhow::Result<Vec<u8>> {
    Ok([&u16::try_from(message.len())?.to_be_bytes()[..], message].concat())
}

pub(super) fn read_framed(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// As a resolver of the internet: a CDN's name is another one's in the end, `big.example` has more
/// addresses than a datagram holds, and anything else does not exist.
pub(super) fn internet(asked: &Message, is_tcp: bool) -> Option<Message> {
    let mut reply = Message::response(asked.metadata.id, OpCode::Query);
    // Without it the C library takes an empty answer for a referral.
    reply.metadata.recursion_available = true;
    reply.queries = asked.queries.clone();
    reply.edns = asked.edns.clone();
    let name = asked.queries.first()?.name().clone();
    match name.to_string().to_ascii_lowercase().as_str() {
        "cdn.example." => {
            let real = Name::from_ascii("edge-7.cdn-provider.example.").ok()?;
            let alias = RData::CNAME(CNAME(real.clone()));
            reply.add_answer(Record::from_rdata(name, 30, alias));
            let address = RData::A(A::new(192, 0, 2, 7));
            reply.add_answer(Record::from_rdata(real, 30, address));
        }
        "big.example." if !is_tcp => reply.metadata.truncation = true,
        "big.example." => {
            for last in 0..100 {
                let address = RData::A(A::new(198, 51, 100, last));
                reply.add_answer(Record::from_rdata(name.clone(), 30, address));
            }
        }
        _ => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    Some(reply)
}

pub(super) fn silent(_: &Message, _: bool) -> Option<Message> {
    None
}
