// SPDX-License-Identifier: Apache-2.0
//! Step 6: a server that greets first, at an address and port that no configuration names. The
//! proxy does not know that it has to listen before it speaks, and still nobody waits.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use remora_testkit::mesh::topology;

use crate::report::Checks;
use crate::stage::Stage;
use crate::tally::millis;

const TRIES: usize = 20;
const LIMIT: Duration = Duration::from_millis(20);
/// The bytes that every greeting has: sequence, protocol 10, version.
const GREETING: &[u8] = b"\x0a8.0.36-shop";

pub(super) fn play(stage: &mut Stage, checks: &mut Checks) -> anyhow::Result<()> {
    let server = SocketAddr::from((stage.probe.address(topology::MYSQL)?, topology::MYSQL_PORT));
    // The control plane's host has no sidecar: what it sees is the server alone.
    stage.screen.phase("directly");
    let direct = greet(stage, topology::CONTROL_PLANE, server)?;
    stage.screen.phase("through the page's proxy");
    let before = relayed(stage)?;
    let meshed = greet(stage, topology::PHP, server)?;
    let after = relayed(stage)?;

    let (direct_median, _) = median_and_worst(&direct);
    let (median, worst) = median_and_worst(&meshed);
    let first = meshed.first().copied().unwrap_or_default();
    for (what, time) in [
        ("the very first connection", first),
        ("median of 20 connections", median),
    ] {
        checks.add(
            format!("first byte, {what}"),
            format!("within 20 ms of {}", millis(direct_median)),
            format!("{} (worst {})", millis(time), millis(worst)),
            time <= direct_median + LIMIT,
        );
    }
    checks.add(
        "connections that went through the proxy",
        TRIES.to_string(),
        (after - before).to_string(),
        after - before == u64::try_from(TRIES)?,
    );
    Ok(())
}

/// Connections that the page's proxy passed on to where they wanted to go.
fn relayed(stage: &Stage) -> anyhow::Result<u64> {
    Ok(stage
        .stats()?
        .number("cluster.PassthroughCluster.upstream_cx_total"))
}

/// The times from connecting to the first byte; the bytes are looked at as well.
fn greet(stage: &Stage, from: &str, server: SocketAddr) -> anyhow::Result<Vec<Duration>> {
    let host = stage.probe.host(from)?.clone();
    let mut times = Vec::new();
    for _ in 0..TRIES {
        stage.check()?;
        times.push(
            host.enter(|| converse(server))?
                .with_context(|| format!("from {from}"))?,
        );
    }
    Ok(times)
}

fn converse(server: SocketAddr) -> anyhow::Result<Duration> {
    let limit = Duration::from_secs(5);
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, limit).context("connect")?;
    stream.set_read_timeout(Some(limit))?;
    let mut header = [0; 4];
    stream
        .read_exact(&mut header[..1])
        .context("read the first byte")?;
    let took = began.elapsed();
    stream.read_exact(&mut header[1..])?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting)?;
    ensure!(greeting == *GREETING, "the greeting is {greeting:?}");
    stream.write_all(b"ping")?;
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).context("read the answer")?;
    ensure!(echo == *b"ping", "the answer is {echo:?}");
    Ok(took)
}

fn median_and_worst(times: &[Duration]) -> (Duration, Duration) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    (median, sorted.last().copied().unwrap_or_default())
}
