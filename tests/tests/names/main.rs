// SPDX-License-Identifier: Apache-2.0
//! DNS as a workload meets it: its questions to any resolver are redirected to the sidecar, which
//! answers for the mesh and passes everything else to the machine's own nameserver. That one is
//! scripted here, and writes down what it is asked.

mod nameserver;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use remora_testkit::lab::{self, Host, Lab};
use remora_testkit::process::Process;
use remora_testkit::wait;
use remora_tests::sidecar::Scene;

use nameserver::{Nameserver, Script, framed, internet, read_framed, silent};

/// Longer than anything here should take.
const LIMIT: Duration = Duration::from_secs(10);
/// From an edit to its effect.
const CHANGE: Duration = Duration::from_secs(10);
/// What needs nobody else is answered within this time, on a busy machine too.
const AT_ONCE: Duration = Duration::from_millis(300);

/// More names: a service of another namespace, a headless one with many endpoints, two hosts
/// outside the cluster.
const MORE: &str = "
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: bank}
spec: {clusterIP: 10.96.0.7, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: crowd, namespace: shop}
spec: {clusterIP: None, ports: [{name: tcp, port: 7000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: crowd, namespace: shop, labels: {kubernetes.io/service-name: crowd}}
addressType: IPv4
ports: [{name: tcp, port: 7000, protocol: TCP}]
endpoints: [ENDPOINTS]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partner, namespace: shop}
spec:
  hosts: [partner.example.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.77.0.20}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: fixed, namespace: shop}
spec:
  hosts: [fixed.example.com]
  addresses: [192.0.2.80, '2001:db8::80']
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.77.0.20}]
";

/// Endpoints of the headless service: more than a plain datagram holds.
const CROWD: u8 = 40;

/// A workload with a sidecar that knows [`MORE`], and a nameserver.
struct Names {
    // Processes end before the hosts they run on.
    _proxy: Process,
    _control_plane: Process,
    nameserver: Nameserver,
    scene: Scene,
}

impl Names {
    fn up(lab: &Lab, script: Script) -> anyhow::Result<Self> {
        let scene = Scene::set_up(lab)?;
        let nameserver = Nameserver::start(&lab.add_host("dns", 53)?, script)?;
        scene.set_resolver(nameserver.address, "")?;
        let endpoints: Vec<_> = (1..=CROWD)
            .map(|last| format!("{{addresses: [10.78.0.{last}], conditions: {{ready: true}}}}"))
            .collect();
        scene.configure(
            "more.yaml",
            &MORE.replace("ENDPOINTS", &endpoints.join(", ")),
        )?;
        scene.redirect()?;
        let control_plane = scene.start_control_plane(&[])?;
        let mut proxy = scene.start_proxy(&[])?;
        scene.until_ready(&mut proxy)?;
        let names = Self {
            _proxy: proxy,
            _control_plane: control_plane,
            nameserver,
            scene,
        };
        wait::until("the names to be known", CHANGE, || {
            names.resolve("fixed.example.com")
        })?;
        Ok(names)
    }

    /// What the C library makes of a name, sorted; the way of every PHP program.
    fn resolve(&self, name: &str) -> anyhow::Result<Vec<Ipv4Addr>> {
        let found = self
            .scene
            .app
            .run_words(&format!("getent ahostsv4 {name}"))?;
        let first = found
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let all: Result<BTreeSet<_>, _> = first.map(str::parse).collect();
        Ok(all.context("addresses")?.into_iter().collect())
    }

    /// Asks by UDP as a resolver library does: believing only whom it asked.
    fn ask(&self, query: &[u8]) -> anyhow::Result<(Vec<u8>, Duration)> {
        let server = SocketAddr::from((self.nameserver.address, 53));
        ask_at(&self.scene.app, server, query)
    }

    /// Asks several questions over one TCP connection.
    fn ask_by_tcp(&self, queries: &[Vec<u8>]) -> anyhow::Result<Vec<Vec<u8>>> {
        let server = SocketAddr::from((self.nameserver.address, 53));
        self.scene.app.enter(|| {
            let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            for query in queries {
                stream.write_all(&framed(query)?)?;
            }
            queries.iter().map(|_| read_framed(&mut stream)).collect()
        })?
    }
}

fn ask_at(host: &Host, server: SocketAddr, query: &[u8]) -> anyhow::Result<(Vec<u8>, Duration)> {
    host.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(LIMIT))?;
        let began = Instant::now();
        socket.send(query)?;
        let mut reply = vec![0; 65535];
        let length = socket.recv(&mut reply).context("no reply")?;
        reply.truncate(length);
        Ok((reply, began.elapsed()))
    })?
}

fn question(id: u16, name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    question(id, name, kind).to_vec().expect("encodes")
}

fn read(reply: &[u8]) -> anyhow::Result<Message> {
    Message::from_vec(reply).context("the reply is well formed")
}

fn addresses(reply: &Message) -> Vec<IpAddr> {
    reply
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .collect()
}

#[test]
fn names_of_the_mesh_resolve_in_all_their_forms_and_nobody_else_is_asked() {
    lab::test(|lab| {
        let names = Names::up(lab, internet)?;
        let app = names.resolve("app")?;
        assert_eq!(app.len(), 1);
        assert_eq!(
            app[0].octets()[..2],
            [240, 240],
            "a Service without clusterIP: {app:?}"
        );
        for form in [
            "app.shop",
            "app.shop.svc",
            "app.shop.svc.cluster.local",
            "APP.Shop",
        ] {
            assert_eq!(names.resolve(form)?, app, "{form}");
        }
        let pay = [Ipv4Addr::new(10, 96, 0, 7)];
        for form in ["pay.bank", "pay.bank.svc", "pay.bank.svc.cluster.local"] {
            assert_eq!(names.resolve(form)?, pay, "{form}");
        }
        let crowd: Vec<_> = (1..=CROWD)
            .map(|last| Ipv4Addr::new(10, 78, 0, last))
            .collect();
        assert_eq!(
            names.resolve("crowd")?,
            crowd,
            "headless: all of its endpoints"
        );
        let partner = names.resolve("partner.example.com")?;
        assert_eq!(partner[0].octets()[..2], [240, 240], "{partner:?}");
        assert_ne!(partner, app);
        assert_eq!(
            names.resolve("fixed.example.com")?,
            [Ipv4Addr::new(192, 0, 2, 80)]
        );
        // Of what a search list makes of these, nothing that is known went outside.
        let asked = names.nameserver.names();
        for name in ["app.shop.svc", "pay.bank.svc", "crowd.shop.svc"] {
            let full = format!("{name}.cluster.local.");
            assert!(!asked.contains(&full), "{full} went outside: {asked:?}");
        }
        for name in ["partner.example.com.", "fixed.example.com."] {
            assert!(!asked.contains(name), "{name} went outside: {asked:?}");
        }
        // Another namespace's short name is not this one's.
        assert!(names.resolve("pay").is_err());
        Ok(())
    });
}

#[test]
fn a_name_without_ipv6_says_so_at_once() {
    lab::test(|lab| {
        let names = Names::up(lab, silent)?;
        let (reply, took) =
            names.ask(&query(1, "app.shop.svc.cluster.local.", RecordType::AAAA))?;
        let reply = read(&reply)?;
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!(
            (reply.answers.len(), reply.authorities.len()),
            (0, 1),
            "no data, with an SOA"
        );
        assert!(took < AT_ONCE, "{took:?}");
        let (reply, _) = names.ask(&query(2, "fixed.example.com.", RecordType::AAAA))?;
        let six: IpAddr = "2001:db8::80".parse()?;
        assert_eq!(addresses(&read(&reply)?), [six]);
        // Both families, as `getaddrinfo` asks for them, while the nameserver is dead.
        let began = Instant::now();
        let found = names.scene.app.run_words("getent ahosts app")?;
        assert!(found.contains("240.240."), "{found}");
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        Ok(())
    });
}

#[test]
fn other_names_are_asked_of_the_machines_nameserver_word_for_word() {
    lab::test(|lab| {
        let names = Names::up(lab, internet)?;
        let mut asked = question(0x1234, "CdN.eXample.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(1232).set_dnssec_ok(true);
        asked.set_edns(edns);
        let asked = asked.to_vec()?;
        let before = names.nameserver.asked().len();
        let (reply, _) = names.ask(&asked)?;
        let came = names.nameserver.asked().split_off(before);
        assert_eq!(came.len(), 1);
        assert!(!came[0].is_tcp);
        assert_eq!(
            came[0].bytes[2..],
            asked[2..],
            "all but the id is the workload's"
        );
        assert_ne!(came[0].bytes[..2], asked[..2], "the id is fresh");
        assert_eq!(reply[..2], asked[..2], "and comes back as it was");
        // What a CDN says is passed on whole: aliases, times, addresses.
        let reply = read(&reply)?;
        let kinds: Vec<_> = reply
            .answers
            .iter()
            .map(|record| (record.record_type(), record.ttl))
            .collect();
        assert_eq!(kinds, [(RecordType::CNAME, 30), (RecordType::A, 30)]);
        assert_eq!(addresses(&reply), [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(names.resolve("cdn.example")?, [Ipv4Addr::new(192, 0, 2, 7)]);

        // A name that does not exist does not.
        let (reply, _) = names.ask(&query(7, "nowhere.example.", RecordType::A))?;
        assert_eq!(read(&reply)?.metadata.response_code, ResponseCode::NXDomain);
        // Whomever the workload asks: it is redirected.
        for resolver in ["8.8.8.8:53", "10.77.0.20:53"] {
            let known = query(8, "app.shop.svc.cluster.local.", RecordType::A);
            let (reply, _) = ask_at(&names.scene.app, resolver.parse()?, &known)?;
            assert_eq!(addresses(&read(&reply)?).len(), 1, "{resolver}");
            let (reply, _) = ask_at(
                &names.scene.app,
                resolver.parse()?,
                &query(9, "cdn.example.", RecordType::A),
            )?;
            assert_eq!(
                addresses(&read(&reply)?),
                [IpAddr::from([192, 0, 2, 7])],
                "{resolver}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_dead_nameserver_is_a_failure_soon_and_harms_no_known_name() {
    lab::test(|lab| {
        let names = Names::up(lab, silent)?;
        let (reply, took) = names.ask(&query(1, "cdn.example.", RecordType::A))?;
        println!("SERVFAIL after {took:?}");
        assert_eq!(read(&reply)?.metadata.response_code, ResponseCode::ServFail);
        assert!(took < Duration::from_millis(3500), "{took:?}");
        let tcp = names.ask_by_tcp(&[query(2, "cdn.example.", RecordType::A)])?;
        assert_eq!(
            read(&tcp[0])?.metadata.response_code,
            ResponseCode::ServFail
        );
        // While many wait for it, a known name does not.
        let app = &names.scene.app;
        let server = SocketAddr::from((names.nameserver.address, 53));
        let waiting = app.enter(|| -> anyhow::Result<_> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(server)?;
            for id in 0..200 {
                socket.send(&query(id, "cdn.example.", RecordType::A))?;
            }
            Ok(socket)
        })??;
        let (reply, took) = names.ask(&query(3, "app.shop.svc.cluster.local.", RecordType::A))?;
        assert_eq!(addresses(&read(&reply)?).len(), 1);
        assert!(took < AT_ONCE, "{took:?}");
        waiting.set_read_timeout(Some(LIMIT))?;
        for _ in 0..200 {
            let mut reply = [0; 512];
            let length = waiting
                .recv(&mut reply)
                .context("every question is answered")?;
            let code = read(&reply[..length])?.metadata.response_code;
            assert_eq!(code, ResponseCode::ServFail);
        }
        // A nameserver that is not even there.
        names.scene.set_resolver(Ipv4Addr::new(10, 77, 0, 20), "")?;
        wait::until("the file to be read again", LIMIT, || {
            let (reply, took) = names.ask(&query(4, "cdn.example.", RecordType::A))?;
            ensure!(
                read(&reply)?.metadata.response_code == ResponseCode::ServFail,
                "{reply:?}"
            );
            ensure!(took < AT_ONCE, "{took:?} for a port that is closed");
            Ok(())
        })
    });
}

#[test]
fn tcp_and_edns_carry_what_a_datagram_does_not() {
    lab::test(|lab| {
        let names = Names::up(lab, internet)?;
        let crowd = "crowd.shop.svc.cluster.local.";
        let (plain, _) = names.ask(&query(1, crowd, RecordType::A))?;
        assert!(plain.len() <= 512, "{} bytes", plain.len());
        assert!(read(&plain)?.metadata.truncation);
        let mut large = question(2, crowd, RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        large.set_edns(edns);
        let (whole, _) = names.ask(&large.to_vec()?)?;
        let whole = read(&whole)?;
        assert_eq!(
            (addresses(&whole).len(), whole.metadata.truncation),
            (usize::from(CROWD), false)
        );
        assert!(whole.edns.is_some(), "EDNS is answered with EDNS");
        let mut future = question(3, crowd, RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        future.set_edns(edns);
        let (reply, _) = names.ask(&future.to_vec()?)?;
        // 16, which is also the name of another failure.
        let code = u16::from(read(&reply)?.metadata.response_code);
        assert_eq!(code, u16::from(ResponseCode::BADVERS));

        // Several questions over one connection, known and unknown; answers may overtake.
        let queries = [
            query(11, crowd, RecordType::A),
            query(12, "big.example.", RecordType::A),
            query(13, "app.shop.svc.cluster.local.", RecordType::A),
        ];
        let mut found = Vec::new();
        for reply in names.ask_by_tcp(&queries)? {
            let reply = read(&reply)?;
            found.push((reply.metadata.id, addresses(&reply).len()));
        }
        found.sort_unstable();
        assert_eq!(found, [(11, usize::from(CROWD)), (12, 100), (13, 1)]);
        let came = names.nameserver.asked();
        assert!(
            came.last().is_some_and(|asked| asked.is_tcp),
            "by TCP it goes on by TCP"
        );
        // What the nameserver cuts is cut here too, and the C library then asks by TCP.
        let (cut, _) = names.ask(&query(14, "big.example.", RecordType::A))?;
        assert!(read(&cut)?.metadata.truncation);
        assert_eq!(names.resolve("big.example")?.len(), 100);
        Ok(())
    });
}

#[test]
fn garbage_is_no_question_and_harms_nobody() {
    lab::test(|lab| {
        let names = Names::up(lab, internet)?;
        let good = query(1, "app.shop.svc.cluster.local.", RecordType::A);
        let server = SocketAddr::from((names.nameserver.address, 53));
        let mut answered = good.clone();
        answered[2] |= 0x80;
        let garbage: [&[u8]; 6] = [
            b"",
            b"\x00",
            &[0xff; 12],
            &[0xff; 600],
            &good[..20],
            &answered,
        ];
        names.scene.app.enter(|| -> anyhow::Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            for bytes in garbage {
                socket.send_to(bytes, server)?;
                let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
                stream.write_all(&framed(bytes)?)?;
                // Promised and not sent.
                stream.write_all(b"\xff\xff half a message")?;
            }
            Ok(())
        })??;
        let (reply, took) = names.ask(&good)?;
        assert_eq!(addresses(&read(&reply)?).len(), 1);
        assert!(took < AT_ONCE, "{took:?}");
        assert!(
            names.nameserver.asked().len() < 20,
            "nothing of it was passed on"
        );
        Ok(())
    });
}

#[test]
fn names_come_and_go_with_the_configuration() {
    lab::test(|lab| {
        let names = Names::up(lab, internet)?;
        let late = "apiVersion: v1\nkind: Service\nmetadata: {name: late, namespace: shop}\n\
                    spec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 80}]}\n";
        assert!(names.resolve("late").is_err());
        names.scene.configure("late.yaml", late)?;
        let found = wait::until("the name", CHANGE, || names.resolve("late"))?;
        assert_eq!(found, [Ipv4Addr::new(10, 96, 0, 9)]);
        names
            .scene
            .configure("late.yaml", &late.replace("10.96.0.9", "10.96.0.10"))?;
        wait::until("its new address", CHANGE, || {
            let found = names.resolve("late")?;
            ensure!(found == [Ipv4Addr::new(10, 96, 0, 10)], "{found:?}");
            Ok(())
        })?;
        names.scene.configure("late.yaml", "")?;
        wait::until("the name to be gone", CHANGE, || {
            ensure!(names.resolve("late").is_err(), "it is still known");
            Ok(())
        })?;
        let full = "late.shop.svc.cluster.local.";
        assert!(
            names.nameserver.names().contains(full),
            "the nameserver is asked instead"
        );
        Ok(())
    });
}
