// SPDX-License-Identifier: Apache-2.0
//! Asks the machine's nameservers what the mesh does not know.
//!
//! The question goes on as the bytes it came in, under a fresh random id and from a fresh port;
//! what comes back is believed only from the address that was asked, under that id, for that
//! question. Nameservers are asked in turn: the next one at once when one refuses, and after a
//! while when one is silent, whose late answer is still taken. Every question gets an answer or a
//! failure within [`PATIENCE`].
//!
//! Called by the UDP and TCP halves of the server; it knows neither.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use remora_rt::clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket};

use super::answer::Transport;
use super::nameservers::{Nameserver, Nameservers, Order};
use super::question::{Header, Question};

/// Asks nameservers. One for each worker.
#[derive(Debug)]
pub(super) struct Forwarder {
    nameservers: Nameservers,
    /// Ids come from a keyed hash of a counter, which nobody without the key can foresee.
    ids: RandomState,
    asked: Cell<u64>,
    under_way: RefCell<HashSet<Mark>>,
    /// What a datagram is read into; borrowed for the length of one system call.
    scratch: RefCell<Box<[u8]>>,
}

/// No nameserver answered in time, or there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unanswered;

/// What a question of ours looks like where it arrives: its port and its id. Redirection leaves
/// both as they are.
type Mark = (u16, u16);

/// Keeps a mark for as long as its question is under way.
struct Marked<'f> {
    forwarder: &'f Forwarder,
    mark: Mark,
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        self.forwarder.under_way.borrow_mut().remove(&self.mark);
    }
}

/// A query on its way.
#[derive(Clone, Copy, Debug)]
struct Asked<'q> {
    query: &'q [u8],
    question: &'q Question,
}

impl Forwarder {
    pub(super) fn new(nameservers: Nameservers) -> Self {
        Self {
            nameservers,
            ids: RandomState::new(),
            asked: Cell::new(0),
            under_way: RefCell::default(),
            scratch: RefCell::new(vec![0; usize::from(u16::MAX)].into_boxed_slice()),
        }
    }

    /// Whether a question from this port under this id is one that this very forwarder asked: it
    /// came back by a redirection that should have let it pass. Another worker's is not known here;
    /// it then meets this question at some later turn.
    pub(super) fn is_own(&self, port: u16, id: u16) -> bool {
        self.under_way.borrow().contains(&(port, id))
    }

    fn mark(&self, from: SocketAddr, id: u16) -> Marked<'_> {
        let mark = (from.port(), id);
        self.under_way.borrow_mut().insert(mark);
        Marked {
            forwarder: self,
            mark,
        }
    }

    /// What a nameserver replies to the query, under the query's own id and with its question
    /// letter by letter.
    ///
    /// *Cancel safety*: dropping it gives up.
    pub(super) async fn ask(
        &self,
        query: &[u8],
        question: &Question,
        transport: Transport,
    ) -> Result<Vec<u8>, Unanswered> {
        let asked = Asked { query, question };
        let order = self.nameservers.order(clock::now());
        let mut reply = match transport {
            Transport::Udp => self.ask_by_udp(asked, order).await,
            Transport::Tcp => self.ask_by_tcp(asked, order).await,
        }?;
        if let (Some(to), Some(id)) = (reply.first_chunk_mut::<2>(), query.first_chunk::<2>()) {
            *to = *id;
        }
        // A failure may come without the question.
        let has_question = Header::read(&reply).is_some_and(|header| header.questions == 1);
        if has_question && let Some(place) = reply.get_mut(question.range.clone()) {
            place.copy_from_slice(question.bytes(query));
        }
        Ok(reply)
    }

    async fn ask_by_udp(&self, asked: Asked<'_>, order: Order) -> Result<Vec<u8>, Unanswered> {
        let pace = Pace::of(&order);
        let deadline = clock::now() + pace.patience;
        let mut waiting = attempts(order);
        let mut running = FuturesUnordered::new();
        let mut second_best = None;
        let mut silent: Vec<Rc<Nameserver>> = Vec::new();
        let mut next_at = clock::now();
        loop {
            let now = clock::now();
            if now >= deadline || (running.is_empty() && waiting.is_empty()) {
                silent.iter().for_each(|server| server.suspect(now));
                return second_best.ok_or(Unanswered);
            }
            if now >= next_at {
                silent.iter().for_each(|server| server.suspect(now));
                if let Some(server) = waiting.pop_front() {
                    silent.push(Rc::clone(&server));
                    running.push(self.attempt_by_udp(asked, server));
                    next_at = now + pace.step;
                } else {
                    next_at = deadline;
                }
            }
            let wake = next_at.min(deadline);
            tokio::select! {
                Some((server, outcome)) = running.next() => {
                    // Who was heard need not be asked again, whatever was said.
                    let is_other = |other: &Rc<Nameserver>| !Rc::ptr_eq(other, &server);
                    silent.retain(is_other);
                    waiting.retain(is_other);
                    match outcome {
                        Ok(reply) => {
                            server.trust();
                            if is_conclusive(&reply) {
                                return Ok(reply);
                            }
                            second_best.get_or_insert(reply);
                        }
                        Err(error) => on_failure(&server, &error),
                    }
                    if !waiting.is_empty() {
                        next_at = clock::now();
                    }
                }
                () = clock::sleep_until(wake) => {}
            }
        }
    }

    /// One nameserver's reply, however late; the caller ends the wait.
    async fn attempt_by_udp(
        &self,
        asked: Asked<'_>,
        server: Rc<Nameserver>,
    ) -> (Rc<Nameserver>, io::Result<Vec<u8>>) {
        let outcome = self.exchange_by_udp(asked, server.address).await;
        (server, outcome)
    }

    async fn exchange_by_udp(&self, asked: Asked<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        // Connected: the kernel drops what others send, and tells of a port nobody listens on.
        socket.connect(server).await?;
        let (id, outgoing) = self.under_new_id(asked.query);
        let _marked = self.mark(socket.local_addr()?, id);
        socket.send(&outgoing).await?;
        loop {
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error() {
                find_error(&socket)?;
            }
            let mut scratch = self.scratch.borrow_mut();
            match socket.try_recv(&mut scratch) {
                Ok(length) => {
                    let reply = scratch.get(..length).unwrap_or_default();
                    if is_reply(reply, id, asked) {
                        return Ok(reply.to_vec());
                    }
                    tracing::debug!(%server, "a datagram that does not answer the question");
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask_by_tcp(&self, asked: Asked<'_>, order: Order) -> Result<Vec<u8>, Unanswered> {
        let pace = Pace::of(&order);
        let deadline = clock::now() + pace.patience;
        let mut second_best = None;
        let mut servers = order.servers.into_iter().peekable();
        while let Some(server) = servers.next() {
            let limit = match servers.peek() {
                Some(_) => deadline.min(clock::now() + pace.step),
                None => deadline,
            };
            let exchange = self.exchange_by_tcp(asked, server.address);
            match tokio::time::timeout_at(clock::to_tokio(limit), exchange).await {
                Ok(Ok(reply)) => {
                    server.trust();
                    if is_conclusive(&reply) {
                        return Ok(reply);
                    }
                    second_best.get_or_insert(reply);
                }
                Ok(Err(error)) => on_failure(&server, &error),
                // Many nameservers do not speak TCP at all, so silence here says nothing about
                // their datagrams.
                Err(_) => tracing::debug!(nameserver = %server.address, "no answer over TCP"),
            }
        }
        second_best.ok_or(Unanswered)
    }

    async fn exchange_by_tcp(&self, asked: Asked<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (id, outgoing) = self.under_new_id(asked.query);
        let _marked = self.mark(stream.local_addr()?, id);
        let length = u16::try_from(outgoing.len()).map_err(io::Error::other)?;
        let frame = [&length.to_be_bytes()[..], &outgoing].concat();
        stream.write_all(&frame).await?;
        let length = stream.read_u16().await?;
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await?;
        if is_reply(&reply, id, asked) {
            Ok(reply)
        } else {
            Err(io::Error::other("the reply does not answer the question"))
        }
    }

    /// The query under an id that nobody else can know.
    fn under_new_id(&self, query: &[u8]) -> (u16, Vec<u8>) {
        let count = self.asked.get().wrapping_add(1);
        self.asked.set(count);
        let [id0, id1, ..] = self.ids.hash_one(count).to_be_bytes();
        let mut outgoing = query.to_vec();
        if let Some(place) = outgoing.first_chunk_mut::<2>() {
            *place = [id0, id1];
        }
        (u16::from_be_bytes([id0, id1]), outgoing)
    }
}

/// What the kernel was told about a socket, such as that nobody listens; that alone does not make
/// the socket readable.
fn find_error(socket: &UdpSocket) -> io::Result<()> {
    let taken = socket.try_io(Interest::ERROR, || match socket.take_error()? {
        Some(error) => Err(error),
        None => Err(io::ErrorKind::WouldBlock.into()),
    });
    match taken {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

/// Each nameserver once; a single one twice, since datagrams get lost.
fn attempts(order: Order) -> VecDeque<Rc<Nameserver>> {
    let mut servers = VecDeque::from(order.servers);
    if servers.len() == 1 {
        servers.extend(servers.front().cloned());
    }
    servers
}

fn on_failure(server: &Nameserver, error: &io::Error) {
    tracing::debug!(nameserver = %server.address, %error, "nameserver failed");
}

/// Whether a message is a reply to the query that was sent under `id`. A failure may leave the
/// question out.
fn is_reply(reply: &[u8], id: u16, asked: Asked<'_>) -> bool {
    let Some(header) = Header::read(reply) else {
        return false;
    };
    if !header.is_response || header.id != id {
        return false;
    }
    let question = asked.question.bytes(asked.query);
    match header.questions {
        0 => header.response_code != 0,
        1 => reply
            .get(asked.question.range.clone())
            .is_some_and(|same| same.eq_ignore_ascii_case(question)),
        _ => false,
    }
}

/// Whether another nameserver could not know better: others are asked after a failure (2), what
/// is not implemented (4) and a refusal (5), as the C library does.
fn is_conclusive(reply: &[u8]) -> bool {
    let code = Header::read(reply).map_or(0, |header| header.response_code);
    !matches!(code, 2 | 4 | 5)
}

/// How long is waited.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// For a nameserver, before the next one is asked too.
    step: Duration,
    /// For all of it.
    patience: Duration,
}

impl Pace {
    /// Where nobody answered lately, a failure that comes soon is worth more.
    fn of(order: &Order) -> Self {
        if order.is_hopeless {
            Self {
                step: STEP / 4,
                patience: PATIENCE / 4,
            }
        } else {
            Self {
                step: STEP,
                patience: PATIENCE,
            }
        }
    }
}

/// The wait before the next nameserver is asked too: above what resolvers need for a name that
/// they have to look up themselves, mostly.
const STEP: Duration = Duration::from_millis(800);

/// The wait for an answer in all: below the five seconds after which the C library asks again.
pub(super) const PATIENCE: Duration = Duration::from_millis(2500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_to_the_question_is_believed() {
        let query = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03sMs\0\0\x01\0\x01";
        let question = Question::read(query).expect("whole");
        let asked = Asked {
            query,
            question: &question,
        };
        let reply = |edit: fn(&mut Vec<u8>)| {
            let mut reply = query.to_vec();
            reply[2] |= 0x80;
            edit(&mut reply);
            is_reply(&reply, 0x1234, asked)
        };
        type Edit = fn(&mut Vec<u8>);
        let table: [(&str, bool, Edit); 9] = [
            ("the reply", true, |_| {}),
            ("in small letters", true, |r| {
                r[13..16].make_ascii_lowercase()
            }),
            ("another id", false, |r| r[1] = 0x35),
            ("a query", false, |r| r[2] &= 0x7f),
            ("another name", false, |r| r[13] = b'x'),
            ("another type", false, |r| r[18] = 28),
            ("cut off", false, |r| r.truncate(20)),
            ("success without a question", false, |r| r[5] = 0),
            ("failure without a question", true, |r| {
                r[3] = 2;
                r[5] = 0;
                r.truncate(12);
            }),
        ];
        for (what, expected, edit) in table {
            assert_eq!(reply(edit), expected, "{what}");
        }
    }

    #[test]
    fn ids_do_not_repeat_in_order() {
        let servers = Nameservers::new("/dev/null".into(), 53, Vec::new());
        let forwarder = Forwarder::new(servers);
        let ids: Vec<u16> = (0..64)
            .map(|_| forwarder.under_new_id(&[0; 12]).0)
            .collect();
        let steps: HashSet<u16> = ids
            .windows(2)
            .map(|pair| pair[1].wrapping_sub(pair[0]))
            .collect();
        assert!(steps.len() > 50, "{ids:?}");
    }
}
