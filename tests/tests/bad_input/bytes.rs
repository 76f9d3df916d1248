// SPDX-License-Identifier: Apache-2.0
//! Bytes that mean nothing, on every port, while somebody else is served.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use remora_testkit::client::Request;
use remora_testkit::lab::{self, Host};
use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;
use remora_tests::town::{Sidecar, Town, resident, service};

use super::{MEGABYTE, expect_well};

#[test]
fn no_bytes_on_any_port_harm_the_proxy_or_a_bystander() {
    lab::test(|lab| {
        let town = Town::start(lab)?;
        let mut sidecar = Sidecar::start_whole(lab, town.cp().v4())?;
        wait::until("the bystander to be served", wait::PATIENCE, || {
            ask(&sidecar)
        })?;
        let before = sidecar.memory()?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let app = SocketAddr::from((sidecar.host.v4(), 80));
        let nobody = SocketAddr::from((town.services().v4(), 9999));
        // Accepts and never answers: what goes there is held by the relay's own bounds alone.
        let sink = town
            .services()
            .enter(|| remora_testkit::upstream::HttpUpstream::start(nobody, Reply::Hang))??;
        let own = &sidecar.host;
        let targets = [
            ("outbound, HTTP", own, service("sms")),
            ("outbound, unknown", own, sink.address()),
            ("outbound, direct", own, local(15001)),
            ("inbound", town.services(), app),
            ("inbound, direct", own, local(15006)),
            ("admin", own, local(15000)),
            ("readiness", own, local(15021)),
            ("metrics", own, local(15090)),
            ("DNS over TCP", own, local(15053)),
        ];
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let bystander = scope.spawn(|| {
                let mut served = 0;
                while !is_over.load(Ordering::Relaxed) {
                    ask(&sidecar).context("the bystander was not served")?;
                    served += 1;
                    wait::rest(Duration::from_millis(20));
                }
                Ok::<_, anyhow::Error>(served)
            });
            let attacked = attack_all(&targets).and_then(|()| attack_dns(own));
            is_over.store(true, Ordering::Relaxed);
            let served = bystander.join().expect("no panic");
            attacked?;
            match served? {
                0..50 => bail!("the bystander was hardly served"),
                _ => Ok(()),
            }
        })?;
        expect_well(&mut sidecar, before, 96 * MEGABYTE)?;
        for target in ["/ready", "/stats/prometheus", "/clusters"] {
            sidecar.admin(target)?;
        }
        let open = std::fs::read_dir(format!("/proc/{}/fd", sidecar.process.pid()))?.count();
        if open > 400 {
            bail!("{open} descriptors are open");
        }
        Ok(())
    });
}

#[test]
fn no_bytes_on_its_port_harm_the_control_plane() {
    lab::test(|lab| {
        let mut town = Town::start(lab)?;
        let sidecar = Sidecar::start_whole(lab, town.cp().v4())?;
        wait::until("the bystander to be served", wait::PATIENCE, || {
            ask(&sidecar)
        })?;
        let pid = town.control_plane()?.pid();
        let before = resident(pid)?;
        let cp = town.cp().clone();
        let ads = SocketAddr::from((Ipv4Addr::LOCALHOST, 15010));
        let status = SocketAddr::from((Ipv4Addr::LOCALHOST, 15014));
        attack_all(&[("ADS", &cp, ads), ("status", &cp, status)])?;
        let log = town.control_plane()?.log();
        if !town.control_plane()?.is_running() || log.contains("panicked at") {
            bail!("the control plane did not survive; its log:\n{log}");
        }
        let after = resident(pid)?;
        if after > before + 64 * MEGABYTE {
            bail!("the control plane grew from {before} to {after} bytes");
        }
        // It still tells what changes.
        town.set_step("04-user-rui-to-v2")?;
        let rui = Request::get("sms", "/").header("user", "rui");
        wait::until("the new routes", wait::PATIENCE, || {
            match sidecar.ask("sms", &rui)?.text().as_str() {
                "sms-v2" => Ok(()),
                other => bail!("rui was served by {other}"),
            }
        })
    });
}

/// The bystander: a request for a service that nobody attacks.
fn ask(sidecar: &Sidecar) -> anyhow::Result<()> {
    let answer = sidecar.ask("message", &Request::get("message", "/"))?;
    if answer.status != 200 || answer.text() != "message" {
        bail!("message answered {}: {}", answer.status, answer.text());
    }
    Ok(())
}

type Target<'a> = (&'a str, &'a Host, SocketAddr);

fn attack_all(targets: &[Target<'_>]) -> anyhow::Result<()> {
    for (what, host, address) in targets {
        host.enter(|| attack(*address))?
            .with_context(|| format!("{what}, {address}"))?;
    }
    Ok(())
}

/// All kinds of bytes at one address. What becomes of each connection is the target's affair; that
/// it still accepts afterwards is asserted.
fn attack(address: SocketAddr) -> anyhow::Result<()> {
    let mut held = Vec::new();
    for start in STARTS {
        // Sent and left open, sent and closed, sent bytewise.
        let mut stream = dial(address)?;
        let _ = stream.write_all(start);
        held.push(stream);
        let mut stream = dial(address)?;
        let _ = stream.write_all(start);
        drop(stream);
    }
    for _ in 0..50 {
        drop(dial(address)?);
    }
    for (start, again) in ENDLESS {
        endless(address, start, again)?;
    }
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..40 {
        let mut stream = dial(address)?;
        let mut bytes = Vec::new();
        for _ in 0..64 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            bytes.extend(noise.to_le_bytes());
        }
        let _ = stream.write_all(&bytes);
    }
    drop(dial(address)?);
    drop(held);
    Ok(())
}

fn dial(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .with_context(|| format!("connect to {address}"))?;
    stream.set_write_timeout(Some(Duration::from_millis(300)))?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    Ok(stream)
}

/// Writes without end: until the target closes, stops reading, or has taken 16 MiB.
fn endless(address: SocketAddr, start: &[u8], again: &[u8]) -> anyhow::Result<()> {
    let mut stream = dial(address)?;
    let block = again.repeat(64 * 1024 / again.len());
    let deadline = Instant::now() + Duration::from_secs(2);
    if stream.write_all(start).is_err() {
        return Ok(());
    }
    for _ in 0..256 {
        if Instant::now() > deadline || stream.write_all(&block).is_err() {
            break;
        }
    }
    let _ = stream.read(&mut [0; 64]);
    Ok(())
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Beginnings of something.
const STARTS: [&[u8]; 14] = [
    b"\0",
    b"\xff\xfe\xfd\xfc",
    b"GET",
    b"GET / HTTP/1.1\r\nHost: sms\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: sms\r\nContent-Length: 1000000\r\n\r\nhalf",
    b"POST / HTTP/1.1\r\nHost: sms\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"\r\n\r\n\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x04\x01\x04\0\0\0\x01\xff\xff\xff\xff",
    // The head of a ClientHello that promises more than it has, and one of nonsense.
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x16\x03\x01\xff\xff\xff\xff\xff\xff\xff",
    // DNS over TCP: a length and less than that; a name that points to itself.
    b"\xff\xff\0\0",
    b"\0\x1c\x12\x34\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01\0\0\0\0\0\0\0\0\0\0",
];

/// A start, and what comes after it again and again.
const ENDLESS: [(&[u8], &[u8]); 9] = [
    (b"", b"a"),
    (b"", b"\0"),
    (b"", b"\r\n"),
    (b"GET / HTTP/1.1\r\nHost: sms\r\nx: ", b"a"),
    (b"GET / HTTP/1.1\r\nHost: sms\r\n", b"x: y\r\n"),
    (
        b"POST / HTTP/1.1\r\nHost: sms\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1;x\r\na\r\n",
    ),
    (b"", b"GET / HTTP/1.1\r\nHost: sms\r\n\r\n"),
    // Empty SETTINGS frames without end, each of which asks to be acknowledged.
    (PREFACE, b"\0\0\0\x04\0\0\0\0\0"),
    // A header block that never ends (RFC 9113 section 6.10).
    (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x01\0\0\0\0\x01",
        b"\0\0\x02\x09\0\0\0\0\x01\x00\x00",
    ),
];

/// Datagrams that are no questions, and questions that are no names.
fn attack_dns(host: &Host) -> anyhow::Result<()> {
    host.enter(|| -> anyhow::Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, 15053));
        let mut noise = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..2000_usize {
            let mut datagram = Vec::new();
            for _ in 0..round % 64 {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                datagram.extend(noise.to_le_bytes());
            }
            socket.send_to(&datagram, proxy)?;
        }
        for start in STARTS {
            socket.send_to(start, proxy)?;
        }
        let question = question("message.shop.svc.cluster.local");
        wait::until("an answer after all that", Duration::from_secs(5), || {
            socket.send_to(&question, proxy)?;
            let mut answer = [0; 512];
            loop {
                let length = socket.recv(&mut answer)?;
                let answer = answer.get(..length).unwrap_or_default();
                // Ours, answered, without error, with one address at least.
                if answer.starts_with(&[0xbe, 0xef]) {
                    match (answer.get(3).map(|flags| flags & 15), answer.get(7)) {
                        (Some(0), Some(1..)) => return Ok(()),
                        other => bail!("the answer is {other:?}"),
                    }
                }
            }
        })
    })?
}

/// A question for the IPv4 address of a name. RFC 1035 section 4.1.
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0xbe, 0xef, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}
