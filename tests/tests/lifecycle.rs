// SPDX-License-Identifier: Apache-2.0
//! The life of `remora-proxy`: start, first configuration, its local ports, drain, end. Real
//! processes in namespaces, started by flags as a sidecar is.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use remora_testkit::client::{self, Connection, Request, Response};
use remora_testkit::lab::{self, Host};
use remora_testkit::process::{Process, Signal, Spec, User};
use remora_testkit::upstream::HttpUpstream;
use remora_testkit::upstream::http::Reply;
use remora_testkit::{bins, wait};
use remora_tests::sidecar::{ADMIN, APP_PORT, READINESS, Scene, last_good};

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

        assert_eq!(scene.post("/drain_listeners")?.status, 200);
        assert!(
            outbound.read_to_end()?.is_empty(),
            "an outbound connection that rests is closed"
        );
        assert!(
            proxy.is_running(),
            "draining listeners does not end the process"
        );
        Ok(())
    });
}

#[test]
fn the_admin_shows_what_is_configured() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let app = scene.serve(&scene.app, "10.77.0.10:8080", Reply::Echo)?;
        scene.redirect()?;
        let _control_plane = scene.start_control_plane(&[])?;
        let mut proxy = scene.start_proxy(&[])?;
        scene.until_ready(&mut proxy)?;
        assert_eq!(scene.get(&scene.peer, app.address(), "app")?.status, 200);

        let dump: serde_json::Value = json(&scene.admin("/config_dump?include_eds")?)?;
        let configs = dump["configs"].as_array().context("configs")?;
        let find = |kind: &str| {
            let is_it = |part: &&serde_json::Value| {
                part["@type"]
                    .as_str()
                    .is_some_and(|url| url.ends_with(kind))
            };
            configs
                .iter()
                .find(is_it)
                .with_context(|| format!("no {kind}"))
        };
        let listeners = find(".ListenersConfigDump")?.to_string();
        assert!(listeners.contains("\"virtualOutbound\""), "{listeners}");
        assert!(!listeners.contains("warming_state"), "{listeners}");
        let clusters = find(".ClustersConfigDump")?;
        let own = "outbound|80||app.shop.svc.cluster.local";
        let active = clusters["dynamic_active_clusters"]
            .as_array()
            .context("active")?;
        let found = active
            .iter()
            .find(|one| one["cluster"]["name"] == own)
            .context(own)?;
        assert!(
            found["version_info"]
                .as_str()
                .is_some_and(|v| !v.is_empty()),
            "{found}"
        );
        assert!(
            find(".EndpointsConfigDump")?
                .to_string()
                .contains("10.77.0.10")
        );
        assert!(
            !dump.to_string().contains("error_state"),
            "nothing was refused"
        );
        assert!(
            find(".BootstrapConfigDump")?
                .to_string()
                .contains("app.shop")
        );
        assert_eq!(scene.admin("/config_dump?mask=x")?.status, 400);

        let lines = scene.admin("/clusters")?.text();
        assert!(
            lines.contains(&format!("{own}::10.77.0.10:8080::health_flags::healthy")),
            "{lines}"
        );
        let lines = scene.admin("/listeners")?.text();
        assert!(lines.contains("virtualInbound::0.0.0.0:15006"), "{lines}");
        assert!(lines.contains("virtualOutbound::0.0.0.0:15001"), "{lines}");
        let found = json(&scene.admin("/server_info")?)?;
        assert_eq!(found["state"], "LIVE");
        assert_eq!(found["control_plane"]["state"], "CONNECTED");
        assert_eq!(
            found["node"]["id"],
            "sidecar~10.77.0.10~app.shop~shop.svc.cluster.local"
        );
        Ok(())
    });
}

fn json(answer: &Response) -> anyhow::Result<serde_json::Value> {
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

#[test]
fn numbers_are_told_filtered_and_to_prometheus_from_outside() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let _proxy = scene.start_proxy(&[])?;
        let all = scene.admin("/stats")?.text();
        let some = scene.admin("/stats?filter=^server.live$")?.text();
        assert_eq!(some, "server.live: 0\n");
        assert!(
            all.contains("server.live: 0\n") && all.len() > 10 * some.len(),
            "{all}"
        );
        let answer = json(&scene.admin("/stats?format=json&filter=server.live")?)?;
        assert_eq!(answer["stats"][0]["name"], "server.live");

        // The kubelet and Prometheus come from elsewhere.
        for (port, target) in [(15090, "/stats/prometheus"), (15090, "/metrics")] {
            let at = (scene.app.v4(), port).into();
            let answer = scene.peer.enter(|| client::get(at, "app", target))??;
            assert_eq!(answer.status, 200);
            let text = answer.text();
            assert!(text.contains("# TYPE envoy_server_live gauge\n"), "{text}");
        }
        let at = (scene.app.v4(), READINESS).into();
        let answer = scene
            .peer
            .enter(|| client::get(at, "app", "/healthz/ready"))??;
        assert_eq!(answer.status, 503);
        Ok(())
    });
}

#[test]
fn log_levels_change_while_it_runs() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let proxy = scene.start_proxy(&[])?;
        let levels = scene.post("/logging")?.text();
        assert!(levels.contains("default: info"), "{levels}");
        let levels = scene
            .post("/logging?level=debug&paths=remora_proxy::dns:trace")?
            .text();
        assert!(levels.contains("default: debug"), "{levels}");
        assert!(levels.contains("remora_proxy::dns: trace"), "{levels}");
        let is_heard = || proxy.log().contains("DEBUG");
        wait::until_true("words at that level", LIMIT, || {
            let _ = scene.admin("/ready");
            is_heard()
        })?;
        assert_eq!(scene.post("/logging?level=shouting")?.status, 400);
        Ok(())
    });
}

#[test]
fn the_admin_is_reached_from_nowhere_else_and_own_ports_are_no_loop() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let mut proxy = scene.start_proxy(&[])?;
        let reach = |host: &Host, port| {
            let at = SocketAddr::from((scene.app.v4(), port));
            host.enter(|| client::send(at, &Request::get("localhost", "/ready"), LIMIT))
        };
        assert!(reach(&scene.peer, ADMIN)?.is_err(), "directly");
        assert!(
            reach(&scene.app, ADMIN)?.is_err(),
            "by the host's own address"
        );
        scene.redirect()?;
        // Redirected, they come to the proxy, which must not carry them to itself.
        for port in [ADMIN, 15001, 15006, 15053] {
            assert!(
                reach(&scene.peer, port)?.is_err(),
                "{port} through the redirection"
            );
        }
        let before = scene.stat("server.total_connections")?;
        assert!(before < 4, "{before} connections are open");
        assert!(proxy.is_running());
        // A page of another site, by a browser on this machine.
        let rebound = Request::get("evil.example", "/quitquitquit").with_body("POST", "");
        assert_eq!(scene.ask_admin(&rebound)?.status, 403);
        assert!(proxy.is_running());
        Ok(())
    });
}

#[test]
fn a_client_that_says_nothing_holds_nobody_up() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let _proxy = scene.start_proxy(&[])?;
        // More than the admin serves at once would hold it; these are fewer, and half-said.
        let _silent: Vec<_> = scene.app.enter(|| {
            let open = |_| {
                let mut stream = TcpStream::connect(local(ADMIN))?;
                stream.write_all(b"GET /stats HTT")?;
                Ok(stream)
            };
            (0..20).map(open).collect::<anyhow::Result<Vec<_>>>()
        })??;
        let began = Instant::now();
        assert_eq!(scene.admin("/stats")?.status, 200);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        // Garbage is answered or closed, never ignored for good.
        let mut garbage = scene.app.enter(|| -> anyhow::Result<_> {
            let mut stream = TcpStream::connect(local(ADMIN))?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(b"\x16\x03\x01\x00\x00garbage\r\n\r\n")?;
            Ok(stream)
        })??;
        let mut answer = Vec::new();
        garbage.read_to_end(&mut answer)?;
        Ok(())
    });
}

/// Runs the proxy to its end and returns what it said.
fn refusal(scene: &Scene, arguments: &[&str]) -> anyhow::Result<String> {
    let spec = Spec::new("refused", bins::find("remora-proxy")?)
        .user(User::PROXY)
        .args(arguments);
    let mut process: Process = scene.app.spawn(&spec)?;
    let status = process.wait(LIMIT)?;
    ensure!(!status.success(), "{arguments:?} is taken");
    // One log serves all of them: what was said last is this one's.
    let log = process.log();
    std::fs::write(process.log_path(), "")?;
    ensure!(!log.contains("panicked"), "{arguments:?}: {log}");
    Ok(log)
}

#[test]
fn flags_that_make_no_sense_are_refused_with_the_reason() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let cases: [(&[&str], &str); 11] = [
            (
                &["run", "--grace", "5x"],
                "expected a number with ms, s, m or h",
            ),
            (&["run", "--workers", "0"], "--workers"),
            (&["run", "--label", "app"], "expected KEY=VALUE"),
            (&["run", "--ip", "10.0.0"], "--ip"),
            (&["run", "--admin-port", "65536"], "--admin-port"),
            (
                &["run", "--until-configured", "maybe"],
                "pass-through, refuse",
            ),
            (&["run", "--no-such-flag"], "--no-such-flag"),
            (&["run", "--log-level", "shouting"], "shouting"),
            (&["run", "--control-plane", "no port"], "no port"),
            (&["run", "--bootstrap", "/nowhere.yaml"], "/nowhere.yaml"),
            (
                &["run", "-c", "x", "--namespace", "y"],
                "cannot be used with",
            ),
        ];
        for (arguments, expected) in cases {
            let said = refusal(&scene, arguments)?;
            assert!(
                said.contains(expected),
                "{arguments:?} gets `{said}`, expected `{expected}`"
            );
        }
        // A port that is taken is named.
        let _taken = scene.serve(&scene.app, "0.0.0.0:15021", Reply::Close)?;
        let said = refusal(&scene, &["run", "--control-plane", "10.77.0.2:15010"])?;
        assert!(
            said.contains("readiness port") && said.contains("15021"),
            "{said}"
        );
        Ok(())
    });
}

#[test]
fn bootstraps_with_faults_are_refused_with_file_and_field() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let path = lab.folder().join("bootstrap.yaml");
        let file = path.to_string_lossy().into_owned();
        let port = "address: {socket_address: {address: 127.0.0.1, port_value: PORT}}";
        let cases: [(String, &str); 5] = [
            ("node: [".to_owned(), "line"),
            (
                "node: {id: a}\nno_such_field: 1".to_owned(),
                "no_such_field",
            ),
            (
                format!(
                    "static_resources: {{listeners: [{{name: l, {}}}]}}",
                    port.replace("PORT", "x")
                ),
                "static_resources.listeners[0].address.socket_address.port_value",
            ),
            (
                "static_resources: {clusters: [{name: c, type: STATIC, lb_policy: NO_SUCH}]}"
                    .to_owned(),
                "static_resources.clusters[0].lb_policy",
            ),
            (
                "dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, \
                 grpc_services: [{envoy_grpc: {cluster_name: missing}}]}}"
                    .to_owned(),
                "missing",
            ),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, &text)?;
            let said = refusal(&scene, &["run", "--bootstrap", &file])?;
            assert!(said.contains(&file), "which file? {said}");
            assert!(
                said.contains(expected),
                "{text}\ngets `{said}`, expected `{expected}`"
            );
        }
        Ok(())
    });
}

#[test]
fn a_state_folder_that_cannot_be_written_is_told_and_nothing_else() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let _control_plane = scene.start_control_plane(&[])?;
        // clap takes the last of a flag that is given twice only if told so; so all is said anew.
        let control_plane = format!("{}:15010", scene.cp.v4());
        let spec = Spec::new("proxy", bins::find("remora-proxy")?)
            .user(User::PROXY)
            .args(["run", "--control-plane", &control_plane])
            .args(["--name", "app", "--namespace", "shop", "--ip", "10.77.0.10"])
            .args(["--state-dir", "/proc/nowhere"]);
        let mut proxy = scene.app.spawn(&spec)?;
        scene.until_ready(&mut proxy)?;
        assert!(
            proxy
                .log()
                .contains("the state directory cannot be written to"),
            "{}",
            proxy.log()
        );
        wait::until("the failure to be counted", LIMIT, || {
            ensure!(scene.stat("remora.last_good.failed")? > 0, "not yet");
            Ok(())
        })?;
        Ok(())
    });
}
