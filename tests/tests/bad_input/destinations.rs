// SPDX-License-Identifier: Apache-2.0
//! Redirected connections whose original destination cannot be had, or is the proxy itself.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use remora_testkit::client::Request;
use remora_testkit::lab;
use remora_testkit::wait;
use remora_tests::town::{Sidecar, Town};

use super::{MEGABYTE, expect_well};

#[test]
fn a_connection_that_leads_to_the_proxy_itself_is_refused_and_never_a_loop() {
    lab::test(|lab| {
        let town = Town::start(lab)?;
        let mut sidecar = Sidecar::start_whole(lab, town.cp().v4())?;
        wait::until("the proxy to be configured", wait::PATIENCE, || {
            let answer = sidecar.ask("message", &Request::get("message", "/"))?;
            anyhow::ensure!(answer.status == 200, "message answered {}", answer.status);
            Ok(())
        })?;
        let before = sidecar.memory()?;
        let open = descriptors(&sidecar)?;
        let own = SocketAddr::from((sidecar.host.v4(), 0)).ip();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).ip();
        let cases = [
            (&sidecar.host, loopback, 15001),
            (&sidecar.host, loopback, 15006),
            (&sidecar.host, own, 15001),
            (&sidecar.host, own, 15006),
            (town.services(), own, 15001),
            (town.services(), own, 15006),
        ];
        for (host, address, port) in cases {
            let to = SocketAddr::new(address, port);
            let what = format!("{} to {to}", host.name());
            for _ in 0..5 {
                let seen = host.enter(|| converse(to))?.with_context(|| what.clone())?;
                if seen.starts_with(b"HTTP/1.1 200") {
                    bail!("{what}: answered {}", String::from_utf8_lossy(&seen));
                }
            }
        }
        // A loop would have grown into thousands by now.
        wait::until("all of it to be closed", Duration::from_secs(5), || {
            let now = descriptors(&sidecar)?;
            anyhow::ensure!(
                now <= open + 20,
                "{now} descriptors are open, {open} before"
            );
            Ok(())
        })?;
        expect_well(&mut sidecar, before, 16 * MEGABYTE)
    });
}

/// Asks, and reads until the end; an error if it does not come.
fn converse(to: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(3)) else {
        return Ok(Vec::new());
    };
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let request = b"GET / HTTP/1.1\r\nHost: message\r\nConnection: close\r\n\r\n";
    let _ = stream.write_all(request);
    let mut seen = Vec::new();
    match stream.read_to_end(&mut seen) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            bail!("neither answered nor closed within 3 s")
        }
        // A reset is an end as well.
        _ => Ok(seen),
    }
}

fn descriptors(sidecar: &Sidecar) -> anyhow::Result<usize> {
    let folder = format!("/proc/{}/fd", sidecar.process.pid());
    Ok(std::fs::read_dir(folder)?.count())
}
