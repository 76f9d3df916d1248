// SPDX-License-Identifier: Apache-2.0
//! The local ports: what they show, to whom, and what they take.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use remora_testkit::client::{self, Request, Response};
use remora_testkit::lab::{self, Host};
use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;
use remora_tests::sidecar::{ADMIN, READINESS, Scene};

use super::{LIMIT, local};

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
