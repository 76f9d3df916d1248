// SPDX-License-Identifier: Apache-2.0
//! The server on loopback, between a resolver and scripted nameservers.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, MX};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use remora_ir::names::NameEntry;
use remora_telemetry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::*;

/// How a scripted nameserver treats questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Answers with its own number in the address.
    Answers(u8),
    /// Sends others' replies first: another id, another question, then the answer.
    AnswersAmidLies(u8),
    /// Answers after so many milliseconds.
    AnswersLate(u8, u64),
    Fails,
    Denies,
    Truncates,
    Silent,
}

/// Nameservers at addresses of their own and one port.
struct Upstreams {
    port: u16,
    counts: Vec<Rc<Cell<usize>>>,
    parts: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    folder: tempfile::TempDir,
}

impl Upstreams {
    /// Nameserver *n* listens at 127.0.1.*n*. `None` is one where nobody listens.
    async fn new(manners: &[Option<Manner>]) -> Self {
        let port = free_port(manners.len()).await;
        let folder = tempfile::tempdir().expect("a folder");
        let mut text = String::new();
        let parts: FuturesUnordered<LocalBoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut counts = Vec::new();
        for (index, manner) in (1..).zip(manners) {
            let address = Ipv4Addr::new(127, 0, 1, index);
            text.push_str(&format!("nameserver {address}\n"));
            let count = Rc::new(Cell::new(0));
            counts.push(Rc::clone(&count));
            if let Some(manner) = *manner {
                let udp = UdpSocket::bind((address, port)).await.expect("bound");
                parts.push(nameserver_udp(udp, manner, Rc::clone(&count)).boxed_local());
                let tcp = TcpListener::bind((address, port)).await.expect("bound");
                parts.push(nameserver_tcp(tcp, manner, count).boxed_local());
            }
        }
        std::fs::write(folder.path().join("resolv.conf"), text).expect("written");
        Self {
            port,
            counts,
            parts,
            folder,
        }
    }

    fn asked(&self) -> Vec<usize> {
        self.counts.iter().map(|count| count.get()).collect()
    }
}

/// A port that is free for UDP and TCP at each of the nameservers' addresses.
async fn free_port(addresses: usize) -> u16 {
    let count = u8::try_from(addresses).expect("few");
    for _ in 0..50 {
        let probe = UdpSocket::bind("127.0.1.1:0").await.expect("bound");
        let port = probe.local_addr().expect("bound").port();
        drop(probe);
        let mut all = (1..=count).map(|index| Ipv4Addr::new(127, 0, 1, index));
        let is_free = |ip: Ipv4Addr| {
            std::net::UdpSocket::bind((ip, port)).is_ok()
                && std::net::TcpListener::bind((ip, port)).is_ok()
        };
        if all.all(is_free) {
            return port;
        }
    }
    panic!("no port is free at all addresses");
}

async fn nameserver_udp(socket: UdpSocket, manner: Manner, count: Rc<Cell<usize>>) {
    let mut datagram = vec![0; 65535];
    loop {
        let (length, peer) = socket.recv_from(&mut datagram).await.expect("received");
        count.set(count.get() + 1);
        if let Manner::AnswersLate(_, millis) = manner {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        if let Manner::AnswersAmidLies(_) = manner {
            for lie in lies(&datagram[..length]) {
                socket.send_to(&lie, peer).await.expect("sent");
            }
        }
        if let Some(reply) = scripted(&datagram[..length], manner, Transport::Udp) {
            // The asker may have gone.
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

async fn nameserver_tcp(listener: TcpListener, manner: Manner, count: Rc<Cell<usize>>) {
    let mut silent = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let Ok(length) = stream.read_u16().await else {
            continue;
        };
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.expect("whole");
        count.set(count.get() + 1);
        if let Some(reply) = scripted(&query, manner, Transport::Tcp) {
            let framed = frame(&reply);
            stream.write_all(&framed).await.expect("written");
        } else {
            silent.push(stream);
        }
    }
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short");
    [&length.to_be_bytes()[..], message].concat()
}

fn lies(query: &[u8]) -> Vec<Vec<u8>> {
    let good = scripted(query, Manner::Answers(66), Transport::Udp).expect("a reply");
    let mut other_id = good.clone();
    other_id[1] ^= 1;
    let mut other_name = good.clone();
    other_name[13] = b'_';
    let mut no_response = good.clone();
    no_response[2] &= 0x7f;
    vec![
        other_id,
        other_name,
        no_response,
        good[..11].to_vec(),
        Vec::new(),
    ]
}

fn scripted(query: &[u8], manner: Manner, transport: Transport) -> Option<Vec<u8>> {
    let asked = Message::from_vec(query).expect("the proxy forwards what it checked");
    let mut reply = Message::response(asked.metadata.id, OpCode::Query);
    reply.queries = asked.queries.clone();
    let name = asked.queries[0].name().clone();
    match manner {
        Manner::Silent => return None,
        Manner::Fails => reply.metadata.response_code = ResponseCode::ServFail,
        Manner::Denies => reply.metadata.response_code = ResponseCode::NXDomain,
        Manner::Truncates if transport == Transport::Udp => reply.metadata.truncation = true,
        Manner::Truncates => add_many(&mut reply, &name),
        Manner::Answers(number)
        | Manner::AnswersAmidLies(number)
        | Manner::AnswersLate(number, _) => {
            let data = if asked.queries[0].query_type() == RecordType::MX {
                RData::MX(MX::new(10, name.clone()))
            } else {
                RData::A(A::new(192, 0, 2, number))
            };
            reply.add_answer(Record::from_rdata(name, 60, data));
        }
    }
    let mut bytes = reply.to_vec().expect("encodes");
    // As nameservers that do not keep the case of a question.
    let question = Question::read(&bytes).expect("whole");
    bytes[question.range].make_ascii_lowercase();
    Some(bytes)
}

/// An answer far above what a datagram holds.
fn add_many(reply: &mut Message, name: &Name) {
    for number in 0..2000_u16 {
        let [high, low] = number.to_be_bytes();
        let data = RData::A(A::new(192, 0, high, low));
        reply.add_answer(Record::from_rdata(name.clone(), 60, data));
    }
}

/// The server under test, and where it is.
struct Subject {
    udp: SocketAddr,
    tcp: SocketAddr,
    metrics: Registry,
}

impl Subject {
    fn counts(&self) -> BTreeMap<String, u64> {
        let samples = self.metrics.samples(remora_telemetry::Used::All, |_| true);
        let numbers = samples.into_iter().filter_map(|sample| match sample.value {
            remora_telemetry::Value::Counter(count) => Some((sample.name, count)),
            _ => None,
        });
        numbers.collect()
    }
}

/// Runs a test against a server whose nameservers are these. Everything ends with the test.
async fn with_server<F: Future<Output = ()>>(
    upstreams: &mut Upstreams,
    test: impl FnOnce(Rc<Subject>) -> F,
) {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let subject = Rc::new(Subject {
        udp: udp.local_addr().expect("bound"),
        tcp: tcp.local_addr().expect("bound"),
        metrics: Registry::new(),
    });
    let metrics = subject.metrics.scope(ScopeKind::Plain, "dns");
    let sockets = DnsSockets {
        udp: vec![udp],
        tcp: vec![tcp],
    };
    let source = Upstream {
        resolv_conf: upstreams.folder.path().join("resolv.conf"),
        port: upstreams.port,
    };
    let entry = NameEntry {
        v4: vec![Ipv4Addr::new(240, 240, 0, 1)],
        v6: Vec::new(),
    };
    let table = Arc::new(NameTable::from_entries([("sms".to_owned(), entry)]));
    let server = run(
        Box::new(move || Arc::clone(&table)),
        &metrics,
        sockets,
        source,
    );
    let nameservers = async {
        while upstreams.parts.next().await.is_some() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = server => panic!("the server ended"),
        () = nameservers => {}
        outcome = timeout(Duration::from_secs(20), test(subject)) => outcome.expect("in time"),
    }
}

fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("encodes")
}

/// Asks by UDP from a connected socket, as resolvers do: the reply must come from where the
/// question went.
async fn ask(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((server.ip(), 0)).await.expect("bound");
    socket.connect(server).await.expect("connected");
    socket.send(query).await.expect("sent");
    let mut reply = vec![0; 65535];
    let length = socket.recv(&mut reply).await.expect("received");
    reply.truncate(length);
    assert_eq!(reply[..2], query[..2], "the id comes back");
    reply
}

fn address(reply: &[u8]) -> Option<String> {
    let reply = Message::from_vec(reply).expect("well formed");
    let first = reply.answers.first()?;
    first.data.ip_addr().map(|ip| ip.to_string())
}

fn code(reply: &[u8]) -> ResponseCode {
    Message::from_vec(reply)
        .expect("well formed")
        .metadata
        .response_code
}

#[tokio::test]
async fn known_names_are_answered_here_and_others_by_the_nameserver() {
    let mut upstreams = Upstreams::new(&[Some(Manner::Answers(1))]).await;
    let counts = upstreams.counts.clone();
    with_server(&mut upstreams, |subject| async move {
        let known = ask(subject.udp, &query(7, "SmS.", RecordType::A)).await;
        assert_eq!(address(&known).as_deref(), Some("240.240.0.1"));
        assert_eq!(counts[0].get(), 0);

        let asked = query(8, "cDn.ExAmple.", RecordType::A);
        let reply = ask(subject.udp, &asked).await;
        assert_eq!(address(&reply).as_deref(), Some("192.0.2.1"));
        let question = Question::read(&asked).expect("whole");
        assert_eq!(
            question.bytes(&reply),
            question.bytes(&asked),
            "in the asker's letters"
        );
        assert_eq!(counts[0].get(), 1);

        let counted = subject.counts();
        let expected = [
            ("dns.queries_total", 2),
            ("dns.answered_local", 1),
            ("dns.forwarded", 1),
            ("dns.upstream_failures", 0),
        ];
        for (name, count) in expected {
            assert_eq!(counted.get(name), Some(&count), "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn replies_that_were_not_asked_for_are_ignored() {
    let mut upstreams = Upstreams::new(&[Some(Manner::AnswersAmidLies(2))]).await;
    with_server(&mut upstreams, |subject| async move {
        let reply = ask(subject.udp, &query(7, "cdn.example.", RecordType::A)).await;
        assert_eq!(address(&reply).as_deref(), Some("192.0.2.2"));
    })
    .await;
}

#[tokio::test]
async fn where_nobody_listens_failure_comes_at_once() {
    let mut upstreams = Upstreams::new(&[None, None]).await;
    with_server(&mut upstreams, |subject| async move {
        let start = Instant::now();
        let reply = ask(subject.udp, &query(7, "cdn.example.", RecordType::A)).await;
        assert_eq!(code(&reply), ResponseCode::ServFail);
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "{:?}",
            start.elapsed()
        );
        let known = ask(subject.udp, &query(8, "sms.", RecordType::A)).await;
        assert_eq!(address(&known).as_deref(), Some("240.240.0.1"));
    })
    .await;
}

#[tokio::test]
async fn silence_becomes_failure_in_time_and_is_remembered() {
    let mut upstreams = Upstreams::new(&[Some(Manner::Silent)]).await;
    with_server(&mut upstreams, |subject| async move {
        let waited = |id| {
            let subject = Rc::clone(&subject);
            async move {
                let start = Instant::now();
                let reply = ask(subject.udp, &query(id, "cdn.example.", RecordType::A)).await;
                assert_eq!(code(&reply), ResponseCode::ServFail);
                start.elapsed()
            }
        };
        let first = waited(1).await;
        assert!(first < Duration::from_secs(3), "{first:?}");
        let second = waited(2).await;
        assert!(second < first / 2, "{second:?} after {first:?}");
    })
    .await;
}

#[tokio::test]
async fn a_dead_nameserver_delays_one_question_only() {
    let manners = [Some(Manner::Silent), Some(Manner::Answers(2))];
    let mut upstreams = Upstreams::new(&manners).await;
    let counts = upstreams.counts.clone();
    with_server(&mut upstreams, |subject| async move {
        for id in 0..5 {
            let start = Instant::now();
            let reply = ask(subject.udp, &query(id, "cdn.example.", RecordType::A)).await;
            assert_eq!(address(&reply).as_deref(), Some("192.0.2.2"));
            let limit = if id == 0 { 2000 } else { 500 };
            assert!(
                start.elapsed() < Duration::from_millis(limit),
                "question {id}"
            );
        }
        assert_eq!((counts[0].get(), counts[1].get()), (1, 5));
    })
    .await;
}

#[tokio::test]
async fn failures_make_way_for_a_better_answer_and_denials_do_not() {
    let table = [
        (
            vec![Some(Manner::Fails), Some(Manner::Answers(2))],
            ResponseCode::NoError,
            [1, 1],
        ),
        (
            vec![None, Some(Manner::Answers(2))],
            ResponseCode::NoError,
            [0, 1],
        ),
        (
            vec![Some(Manner::Fails), None],
            ResponseCode::ServFail,
            [1, 0],
        ),
        (
            vec![Some(Manner::Denies), Some(Manner::Answers(2))],
            ResponseCode::NXDomain,
            [1, 0],
        ),
    ];
    for (manners, expected, asked) in table {
        let mut upstreams = Upstreams::new(&manners).await;
        with_server(&mut upstreams, |subject| async move {
            let reply = ask(subject.udp, &query(7, "cdn.example.", RecordType::A)).await;
            assert_eq!(code(&reply), expected);
        })
        .await;
        assert_eq!(upstreams.asked(), asked, "{manners:?}");
    }
}

#[tokio::test]
async fn a_slow_answer_is_still_taken() {
    let mut upstreams = Upstreams::new(&[Some(Manner::AnswersLate(1, 1200))]).await;
    with_server(&mut upstreams, |subject| async move {
        let reply = ask(subject.udp, &query(7, "cdn.example.", RecordType::A)).await;
        assert_eq!(address(&reply).as_deref(), Some("192.0.2.1"));
    })
    .await;
}

#[tokio::test]
async fn other_records_of_a_known_name_come_from_upstream_but_no_denial_of_it() {
    for (manner, records) in [(Manner::Answers(1), 1), (Manner::Denies, 0)] {
        let mut upstreams = Upstreams::new(&[Some(manner)]).await;
        with_server(&mut upstreams, |subject| async move {
            let reply = ask(subject.udp, &query(7, "sms.", RecordType::MX)).await;
            assert_eq!(code(&reply), ResponseCode::NoError);
            let reply = Message::from_vec(&reply).expect("well formed");
            assert_eq!(reply.answers.len(), records);
        })
        .await;
        assert_eq!(upstreams.asked(), [1]);
    }
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_is_fetched_over_tcp() {
    let mut upstreams = Upstreams::new(&[Some(Manner::Truncates)]).await;
    with_server(&mut upstreams, |subject| async move {
        let asked = query(7, "cdn.example.", RecordType::A);
        let cut = Message::from_vec(&ask(subject.udp, &asked).await).expect("well formed");
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let mut stream = TcpStream::connect(subject.tcp).await.expect("connected");
        stream.write_all(&frame(&asked)).await.expect("written");
        let reply = read_frame(&mut stream).await.expect("a reply");
        let whole = Message::from_vec(&reply).expect("well formed");
        assert_eq!((whole.metadata.id, whole.answers.len()), (7, 2000));
    })
    .await;
}

async fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

#[tokio::test]
async fn a_connection_carries_many_questions_and_what_is_known_does_not_wait() {
    let mut upstreams = Upstreams::new(&[Some(Manner::Silent)]).await;
    with_server(&mut upstreams, |subject| async move {
        let mut stream = TcpStream::connect(subject.tcp).await.expect("connected");
        let mut all = frame(&query(1, "cdn.example.", RecordType::A));
        for id in 2..40 {
            all.extend(frame(&query(id, "sms.", RecordType::A)));
        }
        // In pieces that end in the middle of lengths and messages.
        for piece in all.chunks(37) {
            stream.write_all(piece).await.expect("written");
            tokio::task::yield_now().await;
        }
        stream.shutdown().await.expect("half closed");
        for id in 2..40 {
            let reply = read_frame(&mut stream).await.expect("a reply");
            assert_eq!(reply[..2], u16::to_be_bytes(id));
            assert_eq!(address(&reply).as_deref(), Some("240.240.0.1"));
        }
        let last = read_frame(&mut stream).await.expect("a reply");
        assert_eq!((last[1], code(&last)), (1, ResponseCode::ServFail));
        assert_eq!(stream.read(&mut [0]).await.expect("closed in order"), 0);
    })
    .await;
}

#[tokio::test]
async fn garbage_ends_a_connection_and_nothing_else() {
    let mut upstreams = Upstreams::new(&[]).await;
    with_server(&mut upstreams, |subject| async move {
        let mut stream = TcpStream::connect(subject.tcp).await.expect("connected");
        stream.write_all(&frame(b"garbage")).await.expect("written");
        assert!(read_frame(&mut stream).await.is_err());

        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        for garbage in [&b""[..], b"x", &[0xff; 600]] {
            socket.send_to(garbage, subject.udp).await.expect("sent");
        }
        let reply = ask(subject.udp, &query(7, "sms.", RecordType::A)).await;
        assert_eq!(address(&reply).as_deref(), Some("240.240.0.1"));
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let mut upstreams = Upstreams::new(&[]).await;
    with_server(&mut upstreams, |subject| async move {
        let mut held = Vec::new();
        for _ in 0..tcp::MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(subject.tcp).await.expect("connected");
            let asked = frame(&query(7, "sms.", RecordType::A));
            stream.write_all(&asked).await.expect("written");
            read_frame(&mut stream).await.expect("a reply");
            held.push(stream);
        }
        let mut beyond = TcpStream::connect(subject.tcp).await.expect("connected");
        assert_eq!(beyond.read(&mut [0]).await.expect("closed"), 0);
        held.truncate(1);
        // The place of one that closed is free again, once its end was noticed.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut next = TcpStream::connect(subject.tcp).await.expect("connected");
            let asked = frame(&query(8, "sms.", RecordType::A));
            let served =
                next.write_all(&asked).await.is_ok() && read_frame(&mut next).await.is_ok();
            if served {
                break;
            }
            assert!(Instant::now() < deadline, "places are not given back");
        }
    })
    .await;
}

#[tokio::test]
async fn questions_beyond_what_may_wait_fail_at_once() {
    let mut upstreams = Upstreams::new(&[Some(Manner::Silent)]).await;
    with_server(&mut upstreams, |subject| async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        socket.connect(subject.udp).await.expect("connected");
        let total = u16::try_from(MAX_IN_FLIGHT + 20).expect("few");
        let mut failed = 0;
        let start = Instant::now();
        let mut reply = [0; 512];
        for id in 0..total {
            let asked = query(id, "cdn.example.", RecordType::A);
            socket.send(&asked).await.expect("sent");
            tokio::task::yield_now().await;
        }
        while failed < 20 {
            let length = socket.recv(&mut reply).await.expect("received");
            assert_eq!(code(&reply[..length]), ResponseCode::ServFail);
            failed += 1;
        }
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        assert!(
            subject
                .counts()
                .get("dns.overflow")
                .is_some_and(|count| *count > 0)
        );
        let known = ask(subject.udp, &query(7, "sms.", RecordType::A)).await;
        assert_eq!(address(&known).as_deref(), Some("240.240.0.1"));
    })
    .await;
}

/// What a redirection does that does not let the proxy's own questions pass: the port of the asker
/// stays, the destination becomes the proxy.
async fn redirect_back(nameserver: UdpSocket, subject: SocketAddr) {
    let mut datagram = vec![0; 65535];
    loop {
        let (length, asker) = nameserver.recv_from(&mut datagram).await.expect("received");
        let again = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), asker.port()))
            .await
            .expect("bound");
        again
            .send_to(&datagram[..length], subject)
            .await
            .expect("sent");
        let length = again.recv(&mut datagram).await.expect("received");
        // The asker may have heard enough.
        let _ = nameserver.send_to(&datagram[..length], asker).await;
    }
}

#[tokio::test]
async fn questions_that_come_back_to_the_proxy_end_there() {
    let mut upstreams = Upstreams::new(&[None]).await;
    let address = (Ipv4Addr::new(127, 0, 1, 1), upstreams.port);
    let nameserver = UdpSocket::bind(address).await.expect("bound");
    with_server(&mut upstreams, |subject| async move {
        let asked = query(7, "cdn.example.", RecordType::A);
        let reply = tokio::select! {
            () = redirect_back(nameserver, subject.udp) => panic!("it does not end"),
            reply = ask(subject.udp, &asked) => reply,
        };
        assert_eq!(code(&reply), ResponseCode::ServFail);
        let counts = subject.counts();
        assert_eq!(counts.get("dns.loops"), Some(&1));
        assert_eq!(
            counts.get("dns.queries_total"),
            Some(&2),
            "one turn and no more"
        );
    })
    .await;
}
