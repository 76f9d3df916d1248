// SPDX-License-Identifier: Apache-2.0
//! Step 4: more callers than the circuit limits allow. What is beyond is refused at once and says
//! why; the other services do not notice.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use remora_testkit::client::{self, Request};
use remora_testkit::mesh::topology;
use serde_json::Value;

use super::no_failures;
use crate::report::Checks;
use crate::stage::Stage;
use crate::tally::millis;

/// Callers at once; the limits are two connections and one request that waits.
const CALLERS: u32 = 8;
/// How long an instance takes, so that callers meet.
const WORK: Duration = Duration::from_millis(300);
/// What counts as "at once" on a busy machine: far less than waiting for one's turn.
const AT_ONCE: Duration = Duration::from_millis(100);
/// The limit on connections.
const CONNECTIONS: u64 = 2;
const INSTANCES: [&str; 2] = ["sms-v1-a", "sms-v1-b"];

/// One answer as `call.php` shows it.
struct Answer {
    status: u64,
    is_overloaded: bool,
    time: Duration,
}

pub(super) fn play(stage: &mut Stage, checks: &mut Checks) -> anyhow::Result<()> {
    stage.route("07-circuit-limits")?;
    for instance in INSTANCES {
        stage
            .mesh
            .admin(instance, &format!("/admin/delay?ms={}", WORK.as_millis()))?;
        stage.mesh.admin(instance, "/admin/reset")?;
    }
    let before = stage.stats()?;
    let logged = flags_logged(stage)?;
    let began = Instant::now();
    stage.load.run(40, &["only=message,search,front"]);

    let end = Instant::now() + Duration::from_secs(3);
    let host = stage.probe.host(topology::PHP)?.clone();
    let answers = std::thread::scope(|scope| {
        let callers = (0..CALLERS).map(|_| scope.spawn(|| host.enter(|| call_until(end))?));
        let callers: Vec<_> = callers.collect();
        let watched = stage.watch("8 callers at once for 3 s, each answer takes 300 ms", 3.0);
        let mut answers = Vec::new();
        for caller in callers {
            let own = caller
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            answers.extend(own?);
        }
        watched.map(|_| answers)
    })?;
    stage.load.pause()?;

    let (refused, served): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 503);
    checks.add(
        "callers served / refused with 503",
        "some of each, nothing else",
        format!("{} / {} of {}", served.len(), refused.len(), answers.len()),
        !refused.is_empty() && !served.is_empty() && served.iter().all(|a| a.status == 200),
    );
    let mut times: Vec<_> = refused.iter().map(|answer| answer.time).collect();
    times.sort_unstable();
    let worst = times
        .get(times.len().saturating_sub(1) * 99 / 100)
        .copied()
        .unwrap_or_default();
    checks.add(
        "time to be refused, p99",
        format!("below {}", millis(AT_ONCE)),
        millis(worst),
        worst < AT_ONCE,
    );
    let marked = refused.iter().filter(|answer| answer.is_overloaded).count();
    checks.add(
        "refusals with x-envoy-overloaded",
        "all",
        format!("{marked} of {}", refused.len()),
        marked == refused.len(),
    );
    let overflow = "upstream_rq_pending_overflow";
    let counted =
        stage.stats()?.outbound_all("sms", overflow) - before.outbound_all("sms", overflow);
    checks.add(
        "refusals that the proxy counts",
        refused.len().to_string(),
        counted.to_string(),
        usize::try_from(counted).is_ok_and(|counted| counted == refused.len()),
    );
    let expected = u64::try_from(refused.len())? + logged;
    let (logged_now, _) = stage.until("the access log", Duration::from_secs(3), || {
        let now = flags_logged(stage)?;
        (now >= expected)
            .then_some(now)
            .with_context(|| format!("{now} of {expected} lines"))
    })?;
    checks.add(
        "refusals with flag UO in the access log",
        refused.len().to_string(),
        (logged_now - logged).to_string(),
        logged_now == expected,
    );
    let instances = INSTANCES.map(|instance| stage.probe.counters(instance));
    let instances = instances.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    // A worker may always open its first connection to an instance, as in Envoy; one of them is
    // within the limit.
    let workers = stage.stats()?.required("server.concurrency")?;
    let most = CONNECTIONS + workers * u64::try_from(INSTANCES.len())? - 1;
    let reached: u64 = instances.iter().map(|counters| counters.requests).sum();
    checks.add(
        "requests that reached an instance",
        served.len().to_string(),
        reached.to_string(),
        usize::try_from(reached).is_ok_and(|reached| reached == served.len()),
    );
    let in_hand: u64 = instances.iter().map(|counters| counters.peak).sum();
    checks.add(
        "most requests the instances had at once",
        format!("at most {most}"),
        in_hand.to_string(),
        in_hand <= most,
    );
    no_failures(checks, "other services meanwhile", &stage.load.since(began));
    Ok(())
}

/// Lines of the page's proxy's access log with the flag.
fn flags_logged(stage: &Stage) -> anyhow::Result<u64> {
    let path = stage
        .mesh
        .lab()
        .logs()
        .join(format!("{}-proxy.log", topology::PHP));
    let log = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let with_flag = |line: &&str| line.split(' ').any(|word| word == "UO");
    Ok(u64::try_from(log.lines().filter(with_flag).count())?)
}

fn call_until(end: Instant) -> anyhow::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    while Instant::now() < end {
        answers.push(call()?);
        // A visitor who is refused does not come again in the same moment.
        remora_testkit::wait::rest(Duration::from_millis(20));
    }
    Ok(answers)
}

fn call() -> anyhow::Result<Answer> {
    let nginx = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let request = Request::get("php", "/call.php?url=http://sms/send");
    let answer = client::send(nginx, &request, Duration::from_secs(20))?;
    let shown = || format!("call.php answered {}: {}", answer.status, answer.text());
    let value: Value = serde_json::from_slice(&answer.body).with_context(shown)?;
    let headers = value["headers"].as_array().with_context(shown)?;
    let is_overloaded = headers.iter().any(|line| {
        let line = line.as_str().unwrap_or_default().to_ascii_lowercase();
        line == "x-envoy-overloaded: true"
    });
    Ok(Answer {
        status: value["status"].as_u64().with_context(shown)?,
        is_overloaded,
        time: Duration::try_from_secs_f64(
            value["ms"]["total"].as_f64().with_context(shown)? / 1000.0,
        )?,
    })
}
