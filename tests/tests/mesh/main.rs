// SPDX-License-Identifier: Apache-2.0
//! The whole thing: the PHP shop in a lab, a control plane that watches its folder, a sidecar with
//! real redirection beside every program. Nothing in here looks at how it is made.

mod visitors;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use remora_testkit::client::{self, Connection, Request, Response};
use remora_testkit::lab::{self, Host, Lab};
use remora_testkit::mesh::topology::{self, HOSTS, MYSQL, PHP};
use remora_testkit::mesh::{Mesh, MeshOptions, Page};
use remora_testkit::upstream::HttpUpstream;
use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;
use remora_tests::sidecar::{Scene, last_good};
use serde_json::Value;

use visitors::Load;

/// From an edit to its effect; generous, for a busy machine.
const CHANGE: Duration = Duration::from_secs(10);
/// Longer than anything else here should take.
const LIMIT: Duration = Duration::from_secs(10);

/// A name of the world outside, served by the host `mysql` at port 8081; it has no address.
const PARTNER: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partner, namespace: shop}
spec:
  hosts: [partner.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.77.0.51, ports: {http: 8081}}]
";

fn up(lab: &Lab) -> anyhow::Result<Mesh> {
    Mesh::up(lab, &MeshOptions::default())
}

/// Routing that gives v2 a share of the requests, in percent.
fn canary(to_v2: u32) -> anyhow::Result<String> {
    let file = topology::example().join("steps/02-canary-90-10.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let text = text.replace("weight: 10\n", &format!("weight: {to_v2}\n"));
    Ok(text.replace("weight: 90\n", &format!("weight: {}\n", 100 - to_v2)))
}

/// A number that a host's proxy counts; zero if it has none of that name.
fn stat(mesh: &Mesh, host: &str, name: &str) -> anyhow::Result<u64> {
    let answer = mesh.proxy_admin(host, "/stats")?;
    ensure!(answer.status == 200, "/stats answers {}", answer.status);
    let text = answer.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.map_or(Ok(0), |value| value.trim().parse().context("a number"))
}

/// The generation of every sidecar's configuration.
fn generations(mesh: &Mesh) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    let meshed = HOSTS.iter().filter(|plan| plan.role.has_sidecar());
    meshed
        .map(|plan| Ok((plan.name, stat(mesh, plan.name, "remora.generation")?)))
        .collect()
}

/// What any program of the PHP host is answered by a URL.
fn fetch(mesh: &Mesh, url: &str, headers: &[&str]) -> anyhow::Result<Value> {
    let mut target = format!("/call.php?url={}", url.replace('&', "%26"));
    for header in headers {
        target.push_str(&format!("&header[]={}", header.replace(' ', "%20")));
    }
    let at = (Ipv4Addr::LOCALHOST, 80).into();
    let answer = mesh
        .host(PHP)?
        .enter(|| client::get(at, "php", &target))??;
    serde_json::from_slice(&answer.body).with_context(|| format!("{url}: {}", answer.text()))
}

fn body(answer: &Value) -> anyhow::Result<Value> {
    ensure!(answer["status"] == 200, "{answer}");
    let text = answer["body"]
        .as_str()
        .with_context(|| format!("no body: {answer}"))?;
    serde_json::from_str(text).with_context(|| text.to_owned())
}

/// What the C library on a host makes of a name.
fn resolve(host: &Host, name: &str) -> anyhow::Result<Ipv4Addr> {
    let found = host.run_words(&format!("getent ahostsv4 {name}"))?;
    let first = found.split_whitespace().next().context("no address")?;
    first.parse().with_context(|| format!("`{first}`"))
}

fn versions(pages: &[Page]) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for call in pages.iter().filter_map(|page| page.call("sms")) {
        *found
            .entry(call.version.clone().unwrap_or_default())
            .or_default() += 1;
    }
    found
}

#[test]
fn a_page_calls_its_services_by_name_and_every_sidecar_carries_its_part() {
    lab::test(|lab| {
        let mesh = up(lab)?;
        let page = mesh.page("")?;
        assert!(page.is_ok(), "{page:?}");
        let instances: Vec<_> = page
            .calls
            .iter()
            .map(|call| call.instance.as_deref())
            .collect();
        assert!(
            matches!(instances[0], Some("sms-v1-a" | "sms-v1-b")),
            "{instances:?}"
        );
        assert_eq!(
            instances[1..],
            [Some("message"), Some("search"), Some("front")]
        );

        let carried = [
            (
                PHP,
                "cluster.outbound|80|v1|sms.shop.svc.cluster.local.upstream_rq_total",
            ),
            (
                PHP,
                "cluster.outbound|80||message.shop.svc.cluster.local.upstream_rq_total",
            ),
            ("message", "cluster.inbound|80||.upstream_rq_total"),
            ("front", "cluster.inbound|80||.upstream_rq_total"),
            (
                "front",
                "cluster.outbound|9090||search.shop.svc.cluster.local.upstream_rq_total",
            ),
            ("search", "cluster.inbound|9090||.upstream_rq_total"),
        ];
        for (host, name) in carried {
            assert!(stat(&mesh, host, name)? > 0, "{host}: {name}");
        }
        // gRPC, with trailers: a unary call (in the page) and a stream.
        assert_eq!(page.calls[3].raw["grpc_status"], "OK");
        assert_eq!(page.calls[3].raw["found"][0], "search found fish");
        let stream = body(&fetch(&mesh, "http://front/suggest?q=fi", &[])?)?;
        assert_eq!(
            stream["found"],
            serde_json::json!(["fi-0", "fi-1", "fi-2"]),
            "{stream}"
        );
        // A failure of gRPC is in the trailers alone.
        mesh.admin("search", "/admin/fail?status=503")?;
        let failed = fetch(&mesh, "http://front/search?q=x", &[])?;
        assert_eq!(failed["status"], 502, "{failed}");
        let text = failed["body"].as_str().unwrap_or_default();
        assert!(
            text.contains("Unavailable") && text.contains("told to fail"),
            "{text}"
        );
        mesh.admin("search", "/admin/heal")?;

        // What a program is told of a request, and what of its own goes on.
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let echo = body(&fetch(
            &mesh,
            "http://message/echo",
            &[&format!("traceparent: {trace}")],
        )?)?;
        let headers = &echo["headers"];
        assert_eq!(headers["Traceparent"][0], trace, "{headers}");
        assert_eq!(headers["X-Forwarded-Proto"][0], "http", "{headers}");
        assert_eq!(
            headers["X-Request-Id"][0].as_str().map(str::len),
            Some(36),
            "{headers}"
        );
        assert_eq!(echo["host"], "message");
        // Bodies of a size that no buffer holds.
        let large = body_length(&mesh, "http://search/bytes?n=20000000")?;
        assert_eq!(large, 20_000_000);
        Ok(())
    });
}

fn body_length(mesh: &Mesh, url: &str) -> anyhow::Result<usize> {
    let answer = fetch(mesh, url, &[])?;
    ensure!(answer["status"] == 200, "{}", answer["error"]);
    Ok(answer["body"].as_str().unwrap_or_default().len())
}

#[test]
fn what_the_mesh_does_not_know_is_reached_as_before_and_what_it_learns_by_name() {
    lab::test(|lab| {
        let mesh = up(lab)?;
        let mysql = mesh.host(MYSQL)?.clone();
        let php = mesh.host(PHP)?;
        let at: SocketAddr = (mysql.v4(), 8081).into();
        let world = mysql.enter(|| HttpUpstream::start(at, Reply::Echo))??;
        let answer = fetch(&mesh, &format!("http://{at}/direct"), &[])?;
        assert_eq!(answer["status"], 200, "{answer}");
        let closed = fetch(&mesh, "http://10.77.0.51:8082/", &[])?;
        assert_ne!(closed["status"], 200, "nobody listens there");

        // A program that calls its own service may be answered by itself.
        let message = mesh.host("message")?;
        let own = SocketAddr::from((resolve(message, "message")?, 80));
        let before = mesh.requests("message")?;
        let answer = message.enter(|| client::get(own, "message", "/self"))??;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(
            answer.text().contains("\"instance\":\"message\""),
            "{}",
            answer.text()
        );
        assert_eq!(mesh.requests("message")?, before + 1);

        // A ServiceEntry without an address gets one, by which it is reached.
        assert!(resolve(php, "partner.example.com").is_err());
        mesh.write_config("partner.yaml", PARTNER)?;
        let address = wait::until("the name", CHANGE, || resolve(php, "partner.example.com"))?;
        assert_eq!(address.octets()[..2], [240, 240], "{address}");
        let answer = wait::until("the way there", CHANGE, || {
            let answer = fetch(&mesh, "http://partner.example.com/by-name", &[])?;
            ensure!(answer["status"] == 200, "{answer}");
            Ok(answer)
        })?;
        assert_eq!(answer["address"], address.to_string());
        let recorded = world.recorded();
        let last = recorded.last().context("no request")?;
        assert!(last.line.starts_with("GET /by-name "), "{}", last.line);
        assert_eq!(last.header("host"), Some("partner.example.com"));
        Ok(())
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_as_soon_as_without_the_mesh() {
    lab::test(|lab| {
        let mesh = up(lab)?;
        let server = SocketAddr::from((mesh.host(MYSQL)?.v4(), topology::MYSQL_PORT));
        // The control plane's host has no sidecar.
        let direct = first_bytes(mesh.host(topology::CONTROL_PLANE)?, server)?;
        let meshed = first_bytes(mesh.host(PHP)?, server)?;
        println!("first byte: {direct:?} directly, {meshed:?} through the sidecar");
        assert!(
            meshed[0] < direct[0] + Duration::from_millis(20),
            "the very first connection"
        );
        let (direct, meshed) = (median(direct), median(meshed));
        assert!(
            meshed < direct + Duration::from_millis(20),
            "{meshed:?} and {direct:?}"
        );
        let carried = stat(&mesh, PHP, "cluster.PassthroughCluster.upstream_cx_total")?;
        assert_eq!(carried, 15, "all of them went through the proxy");
        Ok(())
    });
}

fn first_bytes(host: &Host, server: SocketAddr) -> anyhow::Result<Vec<Duration>> {
    host.enter(|| {
        let once = |_| {
            let began = Instant::now();
            let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            let mut greeting = [0; 16];
            stream
                .read_exact(&mut greeting[..1])
                .context("read the first byte")?;
            let took = began.elapsed();
            stream.read_exact(&mut greeting[1..])?;
            ensure!(greeting.ends_with(b"8.0.36-shop"), "{greeting:?}");
            Ok(took)
        };
        (0..15).map(once).collect()
    })?
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn a_canary_moves_under_load_and_no_request_is_lost() {
    lab::test(|lab| {
        let mesh = up(lab)?;
        let load = Load::start(&mesh, "only=sms", 3)?;
        load.until(10)?;
        let began = stat(&mesh, PHP, "remora.generation")?;
        for edit in 0..20_u32 {
            mesh.set_routing(&canary(5 * edit)?)?;
            // Each edit meets requests.
            load.until(load.count() + 10)?;
        }
        load.until(220)?;
        let edited = stat(&mesh, PHP, "remora.generation")? - began;
        let pages = load.end()?;
        let share = versions(&pages);
        println!(
            "{} pages during 20 edits ({edited} generations): {share:?}",
            pages.len()
        );
        assert!(
            edited > 5,
            "the edits were in force while pages were asked for: {edited}"
        );
        assert!(share.len() == 2, "both versions answered: {share:?}");

        // The end of the road is exact.
        mesh.set_routing(&canary(100)?)?;
        wait::until("v2 to have all", CHANGE, || {
            let pages: Vec<_> = (0..10)
                .map(|_| mesh.page("only=sms"))
                .collect::<Result<_, _>>()?;
            let share = versions(&pages);
            ensure!(share.get("v2") == Some(&10), "{share:?}");
            Ok(())
        })?;
        // By a header of the request, whoever asks.
        mesh.set_step("04-user-rui-to-v2")?;
        wait::until("rui alone to meet v2", CHANGE, || {
            for (query, expected) in [("only=sms&user=rui", "v2"), ("only=sms", "v1")] {
                let page = mesh.page(query)?;
                let version = page.call("sms").and_then(|call| call.version.clone());
                ensure!(version.as_deref() == Some(expected), "{query}: {version:?}");
            }
            Ok(())
        })
    });
}

#[test]
fn an_endpoint_that_goes_touches_nothing_but_itself() {
    lab::test(|lab| {
        let mesh = up(lab)?;
        let file = topology::example().join("mesh/10-sms.yaml");
        let text = fs::read_to_string(file)?;
        let well = "  - addresses: [10.77.0.22]\n    conditions:\n      ready: true\n";
        assert!(text.contains(well), "the example has changed");
        let without = text.replace(well, &well.replace("ready: true", "ready: false"));
        let instances = |count: usize| -> anyhow::Result<Vec<String>> {
            let mut found = Vec::new();
            for _ in 0..count {
                let page = mesh.page("only=sms")?;
                ensure!(page.is_ok(), "{page:?}");
                let instance = page.call("sms").and_then(|call| call.instance.clone());
                found.extend(instance);
            }
            found.sort_unstable();
            found.dedup();
            Ok(found)
        };
        assert_eq!(instances(30)?, ["sms-v1-a", "sms-v1-b"]);
        let before = generations(&mesh)?;

        let load = Load::start(&mesh, "only=sms", 2)?;
        mesh.write_config("10-sms.yaml", &without)?;
        wait::until("the instance to be left out", CHANGE, || {
            let found = instances(10)?;
            ensure!(found == ["sms-v1-a"], "{found:?}");
            Ok(())
        })?;
        mesh.write_config("10-sms.yaml", &text)?;
        wait::until("the instance to be back", CHANGE, || {
            let found = instances(20)?;
            ensure!(found.len() == 2, "{found:?}");
            Ok(())
        })?;
        load.end()?;
        assert_eq!(
            generations(&mesh)?[PHP],
            before[PHP],
            "no new generation for an endpoint"
        );
        Ok(())
    });
}

#[test]
fn the_mesh_outlives_its_control_plane_and_a_proxy_boots_from_what_it_kept() {
    lab::test(|lab| {
        let mut mesh = up(lab)?;
        mesh.write_config("partner.yaml", PARTNER)?;
        let php = mesh.host(PHP)?.clone();
        wait::until("the name", CHANGE, || resolve(&php, "partner.example.com"))?;
        let state = lab.folder().join("front-proxy");
        let kept = wait::until("the file", LIMIT, || last_good(&state))?;
        // Changes gather for half a second before they are written.
        wait::rest(Duration::from_secs(1));
        let before = generations(&mesh)?;
        let load = Load::start(&mesh, "only=sms,message,search", 2)?;
        load.until(10)?;
        mesh.kill_control_plane()?;

        // From the last good configuration.
        mesh.sidecar("front")?.terminate(LIMIT)?;
        mesh.start_sidecar("front")?;
        mesh.wait_for_sidecar("front")?;
        let log = mesh.sidecar("front")?.log();
        assert!(log.contains("last good configuration: in use"), "{log}");
        wait::until(
            "the front to serve, through both of its ways",
            LIMIT,
            || front_works(&mesh),
        )?;

        // From a damaged one: refused, and said so; what needs no names goes on.
        mesh.sidecar("front")?.terminate(LIMIT)?;
        let mut bytes = fs::read(&kept)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        fs::write(&kept, &bytes)?;
        let said_before = log.len();
        mesh.start_sidecar("front")?;
        let refused = || {
            let answer = mesh.proxy_admin("front", "/ready")?;
            ensure!(answer.status == 503, "readiness is {}", answer.status);
            Ok(())
        };
        wait::until("the proxy to wait for its control plane", LIMIT, refused)?;
        let log = mesh.sidecar("front")?.log();
        let said = log.get(said_before..).unwrap_or_default();
        assert!(said.contains("last good configuration: not used"), "{said}");
        assert!(
            said.contains("checksum") && said.contains("last-good-"),
            "{said}"
        );
        let answer = fetch(&mesh, "http://front/", &[])?;
        assert_eq!(answer["status"], 200, "{answer}");

        // The control plane comes back to proxies that have nothing to do.
        mesh.start_control_plane()?;
        mesh.wait_for_sidecar("front")?;
        wait::until("all to be connected", Duration::from_secs(20), || {
            for host in before.keys() {
                let connected = stat(&mesh, host, "control_plane.connected_state")?;
                ensure!(connected == 1, "{host} is not");
            }
            Ok(())
        })?;
        // What does not happen has no end to wait for.
        wait::rest(Duration::from_secs(1));
        let mut after = generations(&mesh)?;
        after.insert("front", before["front"]);
        assert_eq!(after, before);
        let pages = load.end()?;
        println!("{} pages meanwhile, none failed", pages.len());
        wait::until("the front to work again", LIMIT, || front_works(&mesh))?;
        mesh.set_routing(&canary(100)?)?;
        wait::until("edits to be followed", CHANGE, || {
            let share = versions(&[mesh.page("only=sms")?]);
            ensure!(share.contains_key("v2"), "{share:?}");
            Ok(())
        })
    });
}

fn front_works(mesh: &Mesh) -> anyhow::Result<()> {
    let page = mesh.page("only=front")?;
    ensure!(page.is_ok(), "{page:?}");
    Ok(())
}

#[test]
fn a_broken_file_changes_nothing_and_is_reported() {
    lab::test(|lab| {
        let mesh = up(lab)?;
        let before = generations(&mesh)?;
        let broken =
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: sms\n";
        mesh.set_routing(broken)?;
        let remora = remora_testkit::bins::find("remora")?;
        let control_plane = mesh.host(topology::CONTROL_PLANE)?;
        let said = wait::until("the fault to be shown", CHANGE, || {
            let said = control_plane.run_words(&format!("{} status", remora.display()))?;
            ensure!(said.contains("routing.yaml"), "{said}");
            Ok(said)
        })?;
        println!("{said}");
        for _ in 0..10 {
            let page = mesh.page("only=sms")?;
            assert_eq!(
                page.call("sms").and_then(|call| call.version.as_deref()),
                Some("v1")
            );
        }
        assert_eq!(generations(&mesh)?, before);
        // Mended, it is followed.
        mesh.set_routing(&canary(100)?)?;
        wait::until("the edit to be followed", CHANGE, || {
            let share = versions(&[mesh.page("only=sms")?]);
            ensure!(share.contains_key("v2"), "{share:?}");
            Ok(())
        })
    });
}

#[test]
fn a_registry_only_mesh_reaches_what_it_knows_and_nothing_else() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let _app = scene.serve(&scene.app, "10.77.0.10:8080", Reply::Echo)?;
        let unknown = [
            scene.serve(&scene.peer, "10.77.0.20:80", Reply::Echo)?,
            scene.serve(&scene.peer, "10.77.0.20:9999", Reply::Echo)?,
            scene.serve(&scene.peer, "[fd77::20]:80", Reply::Echo)?,
        ];
        let known = scene.serve(&scene.peer, "10.77.0.20:8081", Reply::Echo)?;
        scene.configure("partner.yaml", &PARTNER.replace("10.77.0.51", "10.77.0.20"))?;
        scene.redirect()?;
        let _control_plane = scene.start_control_plane(&["--outbound-policy", "registry-only"])?;
        let mut proxy = scene.start_proxy(&["--until-configured", "refuse"])?;
        scene.until_ready(&mut proxy)?;
        for server in &unknown {
            let answer = scene.get(&scene.app, server.address(), "world");
            let is_blocked = answer.as_ref().map_or(true, |answer| answer.status == 502);
            assert!(is_blocked, "{}: {answer:?}", server.address());
            assert_eq!(server.accepted(), 0, "{}", server.address());
        }
        let partner = resolve(&scene.app, "partner.example.com")?;
        let answer = scene.get(&scene.app, (partner, 80), "partner.example.com")?;
        assert_eq!(
            (answer.status, known.accepted()),
            (200, 1),
            "{}",
            answer.text()
        );
        let own = resolve(&scene.app, "app")?;
        assert_eq!(scene.get(&scene.app, (own, 80), "app")?.status, 200);
        Ok(())
    });
}

#[test]
fn an_upgraded_connection_passes_both_sidecars_of_a_call() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        // The workload calls its own service: out by its sidecar, and in by it.
        let app = scene.serve(&scene.app, "10.77.0.10:8080", Reply::Upgrade)?;
        scene.redirect()?;
        let _control_plane = scene.start_control_plane(&[])?;
        let mut proxy = scene.start_proxy(&[])?;
        scene.until_ready(&mut proxy)?;
        let own = SocketAddr::from((resolve(&scene.app, "app")?, 80));
        let mut connection = scene.app.enter(|| Connection::open(own, LIMIT))??;
        let request = Request::get("app", "/chat")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket");
        let answer: Response = connection.send(&request)?;
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        for text in [&b"ping"[..], &b"\x81\x05hello"[..]] {
            connection.write(text)?;
            connection.expect(text)?;
        }
        let recorded = app.recorded();
        assert_eq!(recorded.len(), 1);
        let inbound = scene.stat("cluster.inbound|8080||.upstream_rq_total")?;
        let outbound =
            scene.stat("cluster.outbound|80||app.shop.svc.cluster.local.upstream_rq_total")?;
        if (inbound, outbound) != (1, 1) {
            bail!("carried by inbound {inbound}, outbound {outbound}");
        }
        Ok(())
    });
}
