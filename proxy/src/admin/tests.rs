// SPDX-License-Identifier: Apache-2.0
//! The local ports over real sockets.

use std::net::{SocketAddr, TcpListener};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::control::inventory::{Accepted, Refused};
use crate::state::Phase;

const PATIENCE: Duration = Duration::from_secs(10);

struct World {
    admin: Arc<Admin>,
    address: SocketAddr,
    /// Kept, so that questions to the control task can be put.
    _commands: mpsc::Sender<Command>,
}

/// An admin whose control task answers with a fixed report.
fn world(report: Report) -> World {
    let shared = Shared::for_tests();
    let (commands, mut received) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(command) = received.recv().await {
            if let Command::Report(answer) = command {
                let _ = answer.send(report.clone());
            }
        }
    });
    let admin = Arc::new(Admin {
        computed: Computed::bind(&shared.metrics),
        shared,
        live: Arc::new(Publisher::new(Arc::default())),
        commands: commands.downgrade(),
        control_plane: None,
        kept: Arc::default(),
        quit: Arc::default(),
        drain_time: Duration::from_secs(1),
        workers: 1,
        file: None,
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(Arc::clone(&admin).serve_admin(listener));
    World {
        admin,
        address,
        _commands: commands,
    }
}

/// Status and body of one request.
async fn ask(world: &World, request: &str) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(world.address).await.expect("open");
        let end = "connection: close\r\n\r\n";
        let whole = format!("{request} HTTP/1.1\r\nhost: localhost\r\n{end}");
        stream.write_all(whole.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("soon");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.get(9..12).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}

#[tokio::test]
async fn every_page_answers_and_others_are_named() {
    let world = world(Report::default());
    world.admin.shared.readiness.advance(Phase::Live);
    let pages = [
        ("GET /", "/config_dump"),
        ("GET /help", "/quitquitquit (POST)"),
        ("GET /ready", "LIVE"),
        ("GET /clusters", ""),
        ("GET /clusters?format=json", "cluster_statuses"),
        ("GET /listeners", ""),
        ("GET /listeners?format=json", "listener_statuses"),
        ("GET /stats", "server.live: 1"),
        ("GET /stats?filter=^server.uptime$", "server.uptime: "),
        ("GET /stats?format=json", "\"server.live\""),
        ("GET /stats/prometheus", "envoy_server_live 1"),
        ("GET /stats/prometheus", "remora_build_info{version="),
        ("GET /stats?format=prometheus", "envoy_server_live 1"),
        ("GET /server_info", "\"state\": \"LIVE\""),
        ("GET /config_dump", "ClustersConfigDump"),
    ];
    for (request, expected) in pages {
        let (status, body) = ask(&world, request).await;
        assert_eq!(status, 200, "{request}");
        assert!(body.contains(expected), "{request}: {body}");
    }
    let (status, body) = ask(&world, "GET /nothing").await;
    assert_eq!(status, 404);
    assert!(body.contains("/config_dump"), "{body}");
    let (status, body) = ask(&world, "GET /config_dump?mask=x").await;
    assert_eq!(status, 400);
    assert!(body.contains("`mask`"), "{body}");
}

#[tokio::test]
async fn what_changes_something_asks_for_post() {
    let world = world(Report::default());
    for page in ["/quitquitquit", "/drain_listeners", "/logging?level=debug"] {
        assert_eq!(ask(&world, &format!("GET {page}")).await.0, 405, "{page}");
    }
    assert_eq!(ask(&world, "POST /stats").await.0, 405);
    assert!(!world.admin.shared.drains.inbound.watch().is_draining());
    assert_eq!(
        ask(&world, "POST /drain_listeners?inboundonly&graceful")
            .await
            .0,
        200
    );
    assert!(world.admin.shared.drains.inbound.watch().is_draining());
    assert!(!world.admin.shared.drains.outbound.watch().is_draining());
    assert_eq!(
        ask(&world, "GET /ready").await,
        (503, "DRAINING\n".to_owned())
    );
    assert_eq!(ask(&world, "POST /drain_listeners").await.0, 200);
    assert!(world.admin.shared.drains.outbound.watch().is_draining());
    assert_eq!(ask(&world, "POST /quitquitquit").await.0, 200);
    let quit = world.admin.quit.notified();
    tokio::time::timeout(PATIENCE, quit)
        .await
        .expect("told to stop");
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let world = world(Report::default());
    let rebound = "GET /stats HTTP/1.1\r\nhost: evil.example\r\nx: y";
    let (status, _) = ask(
        &world,
        &rebound.replace(" HTTP/1.1\r\nhost: evil.example\r\nx: y", ""),
    )
    .await;
    assert_eq!(status, 200);
    let mut stream = TcpStream::connect(world.address).await.expect("open");
    let whole = format!("{rebound}\r\nconnection: close\r\n\r\n");
    stream.write_all(whole.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn silent_and_broken_peers_keep_nobody_else_from_an_answer() {
    let world = world(Report::default());
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(world.address).await.expect("open"));
    }
    let mut broken = TcpStream::connect(world.address).await.expect("open");
    broken.write_all(&[0xff; 64 * 1024]).await.ok();
    assert_eq!(ask(&world, "GET /stats").await.0, 200);
}

#[tokio::test]
async fn the_dump_shows_what_is_in_use_what_waits_and_what_was_refused() {
    use remora_translate::{Key, Pending};
    use remora_xds_types::ResourceType;
    let at = std::time::SystemTime::UNIX_EPOCH;
    let body = |json: Value| {
        let url = ResourceType::Cluster.url();
        bytes::Bytes::from(remora_xds_types::json::from_json(url, &json).expect("a cluster"))
    };
    let accepted = |name: &str| Accepted {
        version: "v1".into(),
        body: body(serde_json::json!({ "name": name })),
        at,
    };
    let mut report = Report::default();
    let kind = ResourceType::Cluster;
    report.inventory.accept(kind, "active", accepted("active"));
    report
        .inventory
        .accept(kind, "warming", accepted("warming"));
    let refused = |body| Refused {
        version: "v2".into(),
        body,
        reasons: vec!["lb_policy: not supported".to_owned()],
        at,
    };
    let good = body(serde_json::json!({ "name": "active" }));
    report.inventory.refuse(kind, "active", refused(good));
    let broken = bytes::Bytes::from_static(&[0xff]);
    report.inventory.refuse(kind, "never-good", refused(broken));
    report.pending.push(Pending {
        key: Key::new(kind, "warming"),
        missing: Vec::new(),
        serves_older: false,
    });
    let world = world(report);
    let (_, text) = ask(&world, "GET /config_dump").await;
    let dump: Value = serde_json::from_str(&text).expect("JSON");
    let clusters = &dump["configs"][1];
    let active = clusters["dynamic_active_clusters"]
        .as_array()
        .expect("a list");
    assert_eq!(active[0]["version_info"], "v1");
    assert_eq!(active[0]["cluster"]["@type"], kind.url());
    assert_eq!(active[0]["error_state"]["version_info"], "v2");
    assert_eq!(
        active[0]["error_state"]["details"],
        "lb_policy: not supported"
    );
    assert_eq!(active[1]["cluster"]["name"], "never-good");
    assert_eq!(active[0]["last_updated"], "1970-01-01T00:00:00.000Z");
    let warming = clusters["dynamic_warming_clusters"]
        .as_array()
        .expect("a list");
    assert_eq!(warming.len(), 1);
    assert_eq!(warming[0]["cluster"]["name"], "warming");
    let (_, text) = ask(&world, "GET /config_dump?resource=dynamic_warming_clusters").await;
    let dump: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(dump["configs"].as_array().map(Vec::len), Some(1));
}
