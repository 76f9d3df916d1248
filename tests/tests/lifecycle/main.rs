// SPDX-License-Identifier: Apache-2.0
//! The life of `remora-proxy`: start, first configuration, its local ports, drain, end. Real
//! processes in namespaces, started by flags as a sidecar is.

mod admin;
mod refusals;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::ensure;
use remora_testkit::client::{Connection, Request, Response};
use remora_testkit::lab;
use remora_testkit::process::{Signal, User};
use remora_testkit::upstream::HttpUpstream;
use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;
use remora_tests::sidecar::{APP_PORT, READINESS, Scene, last_good};

/// The promise is 50 ms; code that is not optimised gets more.
const MAX_START: Duration = Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 50 });
/// Longer than anything here should take.
const LIMIT: Duration = Duration::from_secs(10);

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// How long it took from the start of the process until each port accepted.
fn measure_start(scene: &Scene) -> anyhow::Result<[Duration; 3]> {
    let spec = scene.proxy()?;
    let began = Instant::now();
    let mut process = scene.app.spawn(&spec)?;
    let accepted = |port| {
        loop {
            match TcpStream::connect(local(port)) {
                Ok(_) => return Ok(began.elapsed()),
                Err(error) if began.elapsed() > LIMIT => return Err(error),
                Err(_) => wait::rest(Duration::from_micros(500)),
            }
        }
    };
    let times = scene
        .app
        .enter(|| [accepted(15001), accepted(15006), accepted(READINESS)])?;
    process.kill()?;
    let [outbound, inbound, readiness] = times;
    Ok([outbound?, inbound?, readiness?])
}

#[test]
fn the_ports_answer_as_soon_as_the_process_is_there() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let mut best = Duration::MAX;
        for _ in 0..8 {
            let times = measure_start(&scene)?;
            println!("from spawn to accept (15001, 15006, 15021): {times:?}");
            // The best of a few is what the program needs; the rest is what else this machine does.
            best = best.min(times.into_iter().max().unwrap_or_default());
        }
        assert!(
            best < MAX_START,
            "{best:?}, expected less than {MAX_START:?}"
        );
        Ok(())
    });
}

#[test]
fn before_the_first_configuration_connections_go_where_they_wanted() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let _app = [
            scene.serve(&scene.app, "10.77.0.10:8080", Reply::Echo)?,
            scene.serve(&scene.app, "[fd77::10]:8080", Reply::Echo)?,
        ];
        let world = [
            scene.serve(&scene.peer, "10.77.0.20:80", Reply::Echo)?,
            scene.serve(&scene.peer, "[fd77::20]:80", Reply::Echo)?,
        ];
        scene.redirect()?;
        let _proxy = scene.start_proxy(&[])?;
        for server in &world {
            let answer = scene.get(&scene.app, server.address(), "world")?;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        for address in scene.app.addresses() {
            let answer = scene.get(&scene.peer, (address, APP_PORT), "app")?;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        // It was the proxy that carried them.
        let ipv6 = scene.stat("cluster.InboundPassthroughClusterIpv6.upstream_cx_total")?;
        assert_eq!(
            scene.stat("cluster.PassthroughCluster.upstream_cx_total")?,
            2
        );
        assert_eq!(
            scene.stat("cluster.InboundPassthroughCluster.upstream_cx_total")?,
            1
        );
        assert_eq!(ipv6, 1);
        // And it does not claim to be configured.
        assert_eq!(scene.readiness()?, 503);
        let answer = scene.admin("/ready")?;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (503, "INITIALIZING\n")
        );
        Ok(())
    });
}

#[test]
fn until_configured_refuse_lets_nothing_through() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let app = scene.serve(&scene.app, "10.77.0.10:8080", Reply::Echo)?;
        let world = scene.serve(&scene.peer, "10.77.0.20:80", Reply::Echo)?;
        scene.redirect()?;
        let mut proxy = scene.start_proxy(&["--until-configured", "refuse"])?;
        assert!(scene.get(&scene.app, world.address(), "world").is_err());
        assert!(scene.get(&scene.peer, app.address(), "app").is_err());
        assert_eq!(world.accepted() + app.accepted(), 0);

        let _control_plane = scene.start_control_plane(&[])?;
        scene.until_ready(&mut proxy)?;
        assert_eq!(scene.get(&scene.app, world.address(), "world")?.status, 200);
        assert_eq!(scene.get(&scene.peer, app.address(), "app")?.status, 200);
        Ok(())
    });
}

#[test]
fn readiness_comes_with_the_first_configuration_and_stays() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let world = scene.serve(&scene.peer, "10.77.0.20:80", Reply::Echo)?;
        scene.redirect()?;
        let mut proxy = scene.start_proxy(&[])?;
        assert_eq!(scene.readiness()?, 503);
        let mut control_plane = scene.start_control_plane(&[])?;
        scene.until_ready(&mut proxy)?;
        assert_eq!(scene.admin("/ready")?.text(), "LIVE\n");
        let kept = wait::until("the file", LIMIT, || last_good(&scene.state()?))?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&kept.metadata()?.permissions());
        assert_eq!(mode & 0o777, 0o600, "{}", kept.display());

        control_plane.kill()?;
        let lost = || -> anyhow::Result<()> {
            let connected = scene.stat("control_plane.connected_state")?;
            ensure!(connected == 0, "the proxy has not noticed yet");
            Ok(())
        };
        wait::until("the connection to be lost", LIMIT, lost)?;
        assert_eq!(scene.readiness()?, 200);
        assert_eq!(scene.get(&scene.app, world.address(), "world")?.status, 200);
        Ok(())
    });
}

/// A request of another host to the workload, under way.
fn send_inbound(scene: &Scene, target: &str) -> anyhow::Result<Connection> {
    scene.peer.enter(|| {
        let mut connection = Connection::open((scene.app.v4(), APP_PORT).into(), LIMIT)?;
        connection.write(format!("GET {target} HTTP/1.1\r\nHost: app\r\n\r\n").as_bytes())?;
        Ok(connection)
    })?
}

/// Whether an answer says that its connection ends.
fn is_last(answer: &Response) -> bool {
    answer
        .header("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

fn until_recorded(server: &HttpUpstream, count: usize) -> anyhow::Result<()> {
    let seen = || server.recorded().len() >= count;
    wait::until_true("the request to arrive", LIMIT, seen)
}

#[test]
fn the_first_sigterm_drains_inbound_while_outbound_goes_on() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let slow = Reply::delayed(200, "done", Duration::from_secs(2));
        let app = scene.serve(&scene.app, "10.77.0.10:8080", Reply::Echo)?;
        let world = scene.serve(&scene.peer, "10.77.0.20:80", Reply::Echo)?;
        scene.redirect()?;
        let _control_plane = scene.start_control_plane(&[])?;
        let mut proxy = scene.start_proxy(&["--drain-time", "8s", "--grace", "12s"])?;
        scene.until_ready(&mut proxy)?;

        // One connection rests, one has a request under way.
        let mut idle = send_inbound(&scene, "/first")?;
        assert_eq!(idle.read_response("GET")?.status, 200);
        app.set_reply(slow);
        let mut busy = send_inbound(&scene, "/busy")?;
        until_recorded(&app, 2)?;
        let told = Instant::now();
        proxy.signal(Signal::TERM)?;
        let draining = || {
            let status = scene.readiness()?;
            ensure!(status == 503, "readiness is {status}");
            Ok(())
        };
        wait::until("readiness to say that it drains", LIMIT, draining)?;
        assert_eq!(scene.admin("/ready")?.text(), "DRAINING\n");

        // Whoever rests is sent away, whoever still comes is served once and told to go; and the
        // workload gets out.
        assert!(
            idle.read_to_end()?.is_empty(),
            "a resting connection is closed"
        );
        app.push_replies([Reply::status(200, "late")]);
        let mut late = send_inbound(&scene, "/late")?;
        let answer = late.read_response("GET")?;
        assert_eq!(
            (answer.status, is_last(&answer)),
            (200, true),
            "{:?}",
            answer.headers
        );
        for _ in 0..3 {
            assert_eq!(scene.get(&scene.app, world.address(), "world")?.status, 200);
        }
        assert!(
            told.elapsed() < Duration::from_secs(2),
            "the request is still under way"
        );

        let answer = busy.read_response("GET")?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
        assert!(is_last(&answer), "{:?}", answer.headers);
        let status = proxy.wait(LIMIT)?;
        let took = told.elapsed();
        println!("from SIGTERM to the end, with 2 s of work: {took:?}");
        assert!(status.success(), "{status}: {}", proxy.log());
        assert!(
            took < Duration::from_secs(5),
            "nothing was left to wait for: {took:?}"
        );
        Ok(())
    });
}

#[test]
fn work_that_does_not_end_is_cut_when_the_grace_is_over() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let app = scene.serve(&scene.app, "10.77.0.10:8080", Reply::Hang)?;
        scene.redirect()?;
        let _control_plane = scene.start_control_plane(&[])?;
        let mut proxy = scene.start_proxy(&["--drain-time", "1s", "--grace", "2s"])?;
        scene.until_ready(&mut proxy)?;
        let mut hanging = send_inbound(&scene, "/forever")?;
        until_recorded(&app, 1)?;

        let told = Instant::now();
        proxy.signal(Signal::TERM)?;
        let status = proxy.wait(LIMIT)?;
        let took = told.elapsed();
        assert!(status.success(), "{status}: {}", proxy.log());
        assert!(
            took > Duration::from_millis(900),
            "it had a second to finish: {took:?}"
        );
        assert!(took < Duration::from_secs(4), "the grace is 2 s: {took:?}");
        // Whether with an answer or without, the peer is not left waiting.
        let _ = hanging.read_to_end();
        Ok(())
    });
}

#[test]
fn a_second_sigterm_ends_at_once() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let app = scene.serve(&scene.app, "10.77.0.10:8080", Reply::Hang)?;
        scene.redirect()?;
        let mut proxy = scene.start_proxy(&["--drain-time", "30s", "--grace", "60s"])?;
        let _hanging = send_inbound(&scene, "/forever")?;
        until_recorded(&app, 1)?;
        proxy.signal(Signal::TERM)?;
        wait::until_true("the drain", LIMIT, || proxy.log().contains("draining"))?;
        assert!(proxy.is_running());
        let told = Instant::now();
        proxy.signal(Signal::TERM)?;
        proxy.wait(LIMIT)?;
        assert!(
            told.elapsed() < Duration::from_secs(1),
            "{:?}",
            told.elapsed()
        );
        Ok(())
    });
}

#[test]
fn quitquitquit_ends_the_process_and_only_a_post_does() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let mut proxy = scene.start_proxy(&[])?;
        for page in ["/quitquitquit", "/drain_listeners", "/logging?level=debug"] {
            let answer = scene.admin(page)?;
            assert_eq!(
                (answer.status, answer.header("allow")),
                (405, Some("POST")),
                "{page}"
            );
        }
        assert!(proxy.is_running());
        assert_eq!(scene.post("/quitquitquit")?.status, 200);
        assert!(proxy.wait(LIMIT)?.success());
        assert!(
            proxy.log().contains("ended"),
            "an orderly end: {}",
            proxy.log()
        );
        Ok(())
    });
}

#[test]
fn drain_listeners_sends_callers_away_one_direction_at_a_time() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let _app = scene.serve(&scene.app, "10.77.0.10:8080", Reply::Echo)?;
        let world = scene.serve(&scene.peer, "10.77.0.20:80", Reply::Echo)?;
        scene.redirect()?;
        let _control_plane = scene.start_control_plane(&[])?;
        let mut proxy = scene.start_proxy(&[])?;
        scene.until_ready(&mut proxy)?;
        let kept_out = || -> anyhow::Result<Connection> {
            scene.app.enter(|| {
                let mut connection = Connection::open(world.address(), LIMIT)?;
                connection.send(&Request::get("world", "/"))?;
                Ok(connection)
            })?
        };
        let mut inbound = send_inbound(&scene, "/")?;
        assert!(!is_last(&inbound.read_response("GET")?));
        let mut outbound = kept_out()?;

        assert_eq!(scene.post("/drain_listeners?inboundonly")?.status, 200);
        assert!(
            inbound.read_to_end()?.is_empty(),
            "an inbound connection that rests is closed"
        );
        assert_eq!(scene.readiness()?, 503);
        let answer = outbound.send(&Request::get("world", "/"))?;
        assert_eq!(
            (answer.status, is_last(&answer)),
            (200, false),
            "outbound goes on"
        );
        wait::until_true("new inbound connections are refused", LIMIT, || {
            send_inbound(&scene, "/").is_err()
        })?;
        assert!(kept_out().is_ok(), "new outbound connections are not");

        assert_eq!(scene.post("/drain_listeners")?.status, 200);
        assert!(
            outbound.read_to_end()?.is_empty(),
            "an outbound connection that rests is closed"
        );
        wait::until_true("new outbound connections are refused", LIMIT, || {
            kept_out().is_err()
        })?;
        assert!(
            proxy.is_running(),
            "draining listeners does not end the process"
        );
        Ok(())
    });
}

#[test]
fn rotated_access_logs_are_followed_at_a_signal_and_a_hang_up_means_nothing() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let app = scene.serve(&scene.app, "10.77.0.10:8080", Reply::Echo)?;
        scene.redirect()?;
        let _control_plane = scene.start_control_plane(&["--access-log", "stdout"])?;
        let log = lab.make_folder("access", User::PROXY)?.join("access.log");
        let mut proxy = scene.start_proxy(&["--access-log", &log.to_string_lossy()])?;
        scene.until_ready(&mut proxy)?;
        let request = |target: &str| -> anyhow::Result<()> {
            send_inbound(&scene, target)?
                .read_response("GET")
                .map(drop)?;
            wait::until("its line", LIMIT, || {
                let text = std::fs::read_to_string(&log)?;
                ensure!(text.contains(target), "{text}");
                Ok(())
            })
        };
        request("/before")?;
        let rotated = log.with_extension("1");
        std::fs::rename(&log, &rotated)?;
        proxy.signal(Signal::HUP)?;
        proxy.signal(Signal::USR1)?;
        request("/after")?;
        let old = std::fs::read_to_string(&rotated)?;
        assert!(old.contains("/before") && !old.contains("/after"), "{old}");
        assert_eq!(app.recorded().len(), 2);
        assert!(proxy.is_running());
        Ok(())
    });
}
