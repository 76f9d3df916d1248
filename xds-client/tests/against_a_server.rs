// SPDX-License-Identifier: Apache-2.0
//! The client against a real gRPC server in this process that misbehaves on demand.

mod ads_server;

use std::time::{Duration, Instant};

use ads_server::{AdsServer, DeltaStream, PATIENCE, soon};
use remora_rt::backoff;
use remora_xds_client::{
    Config, Handle, Interest, Keepalive, Mode, Rejection, State, Updates, Verdict,
};
use remora_xds_types::ResourceType;
use remora_xds_types::cluster::Cluster;
use remora_xds_types::core::Node;
use remora_xds_types::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use remora_xds_types::pack;
use tokio::task::JoinHandle;

fn cds() -> &'static str {
    ResourceType::Cluster.url()
}

fn config(addr: std::net::SocketAddr) -> Config {
    let node = Node {
        id: "sidecar~10.0.0.1~page.shop~shop.svc.cluster.local".into(),
        ..Node::default()
    };
    let mut config = Config::new(&addr.to_string(), node).expect("address");
    let ms = Duration::from_millis;
    config.backoff = backoff::Policy::try_new(ms(20), ms(200)).expect("intervals");
    config.seed = 1;
    config
}

/// A running client that wants all clusters.
struct Client {
    handle: Handle,
    updates: Updates,
    task: JoinHandle<()>,
}

impl Client {
    fn start(config: Config) -> Self {
        let (handle, updates, driver) = remora_xds_client::new(config);
        handle.set_interest(cds(), Interest::wildcard());
        Self {
            handle,
            updates,
            task: tokio::spawn(driver.run()),
        }
    }

    async fn next(&mut self) -> remora_xds_client::Update {
        soon("an update", self.updates.next())
            .await
            .expect("the client runs")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn cluster(name: &str, version: &str) -> Resource {
    let cluster = Cluster {
        name: name.to_owned(),
        ..Cluster::default()
    };
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(pack(&cluster)),
        ..Resource::default()
    }
}

fn response(nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: cds().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

/// Reads the opening request and serves one cluster.
async fn serve_one(stream: &mut DeltaStream, nonce: &str) {
    stream.request().await;
    stream.send(response(nonce, vec![cluster("a", "1")])).await;
}

#[tokio::test]
async fn a_restarted_control_plane_is_told_what_is_held() {
    let mut server = AdsServer::start();
    let addr = server.addr;
    let mut client = Client::start(config(addr));
    let mut stream = server.next_delta().await;
    let opening = stream.request().await;
    assert!(opening.node.expect("node").id.starts_with("sidecar~"));
    assert!(
        opening.resource_names_subscribe.is_empty() && opening.initial_resource_versions.is_empty()
    );
    stream
        .send(response("n1", vec![cluster("a", "1"), cluster("b", "1")]))
        .await;
    let update = client.next().await;
    let refused = Rejection {
        name: "b".into(),
        reason: "lb_policy: unknown".into(),
    };
    update.token.answer(Verdict {
        rejected: vec![refused],
    });
    let nack = stream.request().await;
    assert_eq!(nack.response_nonce, "n1");
    let detail = nack.error_detail.expect("a NACK");
    assert_eq!(
        (detail.code, detail.message.as_str()),
        (3, "b: lb_policy: unknown")
    );
    assert!(nack.node.is_none(), "the node is told once");

    drop((stream, server));
    let mut server = AdsServer::start_on(addr);
    let opening = server.next_delta().await.request().await;
    let held: Vec<_> = opening.initial_resource_versions.into_iter().collect();
    assert_eq!(
        held,
        [("a".to_owned(), "1".to_owned())],
        "what was refused is not held"
    );
    assert!(opening.node.is_some() && opening.response_nonce.is_empty());
}

#[tokio::test]
async fn interest_can_change_while_a_stream_is_open() {
    let mut server = AdsServer::start();
    let client = Client::start(config(server.addr));
    let mut stream = server.next_delta().await;
    stream.request().await;
    let eds = ResourceType::Endpoint.url();
    client.handle.subscribe(eds, ["one", "two"]);
    let request = stream.request().await;
    assert_eq!(request.type_url, eds);
    assert_eq!(request.resource_names_subscribe, ["one", "two"]);
    client.handle.unsubscribe(eds, ["one"]);
    assert_eq!(stream.request().await.resource_names_unsubscribe, ["one"]);
}

#[tokio::test]
async fn an_update_dropped_without_a_verdict_is_refused_and_nothing_hangs() {
    let mut server = AdsServer::start();
    let mut client = Client::start(config(server.addr));
    let mut stream = server.next_delta().await;
    serve_one(&mut stream, "n1").await;
    drop(client.next().await);
    let nack = stream.request().await;
    assert_eq!(nack.error_detail.expect("a NACK").code, 13);
    stream.send(response("n2", vec![cluster("a", "2")])).await;
    client.next().await.token.answer(Verdict::accepted());
    let ack = stream.request().await;
    assert_eq!(
        (ack.response_nonce.as_str(), ack.error_detail),
        ("n2", None)
    );
}

#[tokio::test]
async fn a_control_plane_that_closes_after_every_message_is_asked_ever_less_often() {
    let mut server = AdsServer::start();
    let mut client = Client::start(config(server.addr));
    let answering = tokio::spawn(async move {
        while let Some(update) = client.updates.next().await {
            update.token.answer(Verdict::accepted());
        }
    });
    let start = Instant::now();
    let mut streams = 0;
    while start.elapsed() < Duration::from_secs(2) {
        let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(100), server.delta.recv()).await
        else {
            continue;
        };
        let mut stream = stream.expect("the server runs");
        serve_one(&mut stream, "n").await;
        streams += 1;
    }
    answering.abort();
    // A delay of 100 ms on average once it has grown; one that is reset would be 10 ms.
    assert!((5..=60).contains(&streams), "{streams} streams in 2 s");
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_is_found_dead() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut config = config(silent.local_addr().expect("addr"));
    let ms = Duration::from_millis;
    config.keepalive = Keepalive {
        interval: ms(100),
        timeout: ms(100),
    };
    let client = Client::start(config);
    let mut status = client.handle.status();
    let failed = soon(
        "the second failure",
        status.wait_for(|one| one.counters.failures >= 2),
    )
    .await;
    let error = failed
        .expect("the client runs")
        .last_error
        .clone()
        .expect("an error");
    assert!(error.contains("keep-alive timed out"), "{error}");
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_stream_and_harms_nothing() {
    let mut server = AdsServer::start();
    let mut config = config(server.addr);
    config.max_message_bytes = 64 * 1024;
    let mut client = Client::start(config);
    let mut stream = server.next_delta().await;
    serve_one(&mut stream, "n1").await;
    client.next().await.token.answer(Verdict::accepted());
    stream.request().await;
    let many = (0..2000).map(|index| cluster(&format!("cluster-{index}-{:0>50}", ""), "1"));
    stream.send(response("n2", many.collect())).await;
    let mut again = server.next_delta().await;
    let held = again.request().await.initial_resource_versions;
    assert_eq!(held.len(), 1);
    let error = client
        .handle
        .status()
        .borrow()
        .last_error
        .clone()
        .expect("an error");
    assert!(error.starts_with("OutOfRange"), "{error}");
}

#[tokio::test]
async fn an_error_status_is_kept_for_the_admin_page() {
    let mut server = AdsServer::start();
    let client = Client::start(config(server.addr));
    let stream = server.next_delta().await;
    stream
        .fail(tonic::Status::permission_denied(
            "namespace `shop` is not yours",
        ))
        .await;
    let mut status = client.handle.status();
    let failed = soon(
        "a failure",
        status.wait_for(|one| one.counters.failures >= 1),
    )
    .await;
    let error = failed
        .expect("the client runs")
        .last_error
        .clone()
        .expect("an error");
    assert!(
        error.starts_with("PermissionDenied: namespace `shop` is not yours"),
        "{error}"
    );
}

#[tokio::test]
async fn a_consumer_that_does_not_read_holds_the_control_plane() {
    let mut server = AdsServer::start();
    let mut client = Client::start(config(server.addr));
    let mut stream = server.next_delta().await;
    stream.request().await;
    let sending = tokio::spawn(async move {
        for index in 0..300 {
            stream
                .send(response(
                    &index.to_string(),
                    vec![cluster("a", &index.to_string())],
                ))
                .await;
        }
        stream
    });
    let mut status = client.handle.status();
    let full = |one: &remora_xds_client::Status| one.counters.updates >= 32;
    soon("a full channel", status.wait_for(full))
        .await
        .expect("the client runs");
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(status.borrow().counters.updates, 32);
    for index in 0..300 {
        let update = client.next().await;
        assert_eq!(
            update.added[0].version,
            index.to_string(),
            "none is lost, none out of order"
        );
        update.token.answer(Verdict::accepted());
    }
    let mut stream = soon("the sender", sending).await.expect("sender");
    for index in 0..300 {
        assert_eq!(stream.request().await.response_nonce, index.to_string());
    }
}

#[tokio::test]
async fn nonsense_is_counted_and_the_stream_goes_on() {
    let mut server = AdsServer::start();
    let mut client = Client::start(config(server.addr));
    let mut stream = server.next_delta().await;
    stream.request().await;
    for type_url in ["", "nonsense", ResourceType::Route.url()] {
        let unasked = DeltaDiscoveryResponse {
            type_url: type_url.into(),
            ..response("x", vec![])
        };
        stream.send(unasked).await;
    }
    stream
        .send(response("n1", vec![cluster("a", "1"), cluster("a", "1")]))
        .await;
    let update = client.next().await;
    assert_eq!(update.added.len(), 1);
    update.token.answer(Verdict::accepted());
    let nack = stream.request().await;
    assert_eq!(nack.response_nonce, "n1");
    assert!(nack.error_detail.expect("a NACK").message.contains("twice"));
    assert_eq!(client.handle.status().borrow().counters.ignored, 3);
}

#[tokio::test]
async fn state_of_the_world_finds_names_and_removals() {
    let mut server = AdsServer::start();
    let mut config = config(server.addr);
    config.mode = Mode::Sotw;
    let mut client = Client::start(config);
    let mut stream = server.next_sotw().await;
    let opening = stream.request().await;
    assert!(opening.resource_names.is_empty() && opening.node.is_some());
    let world = |version: &str, names: &[&str]| DiscoveryResponse {
        type_url: cds().to_owned(),
        version_info: version.to_owned(),
        nonce: version.to_owned(),
        resources: names
            .iter()
            .filter_map(|name| cluster(name, version).resource)
            .collect(),
        ..DiscoveryResponse::default()
    };
    stream.send(world("v1", &["a", "b"])).await;
    let update = client.next().await;
    let names: Vec<_> = update.added.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    update.token.answer(Verdict::accepted());
    assert_eq!(stream.request().await.version_info, "v1");
    stream.send(world("v2", &["b"])).await;
    let update = client.next().await;
    assert_eq!(update.removed, ["a"]);
    update.token.answer(Verdict::accepted());
    let ack = stream.request().await;
    assert_eq!(
        (ack.version_info.as_str(), ack.response_nonce.as_str()),
        ("v2", "v2")
    );
}

#[tokio::test]
async fn dropping_either_end_ends_the_client() {
    let mut server = AdsServer::start();
    let (handle, updates, driver) = remora_xds_client::new(config(server.addr));
    handle.set_interest(cds(), Interest::wildcard());
    let task = tokio::spawn(driver.run());
    let mut stream = server.next_delta().await;
    drop(handle);
    soon("the driver's end", task).await.expect("no panic");
    assert!(stream.is_closed().await);
    drop(updates);

    let (handle, updates, driver) = remora_xds_client::new(config(server.addr));
    handle.set_interest(cds(), Interest::wildcard());
    let task = tokio::spawn(driver.run());
    let mut stream = server.next_delta().await;
    drop(updates);
    serve_one(&mut stream, "n1").await;
    soon("the driver's end", task).await.expect("no panic");
}

#[tokio::test]
async fn an_absent_control_plane_is_waited_for() {
    let server = AdsServer::start();
    let addr = server.addr;
    drop(server);
    let mut client = Client::start(config(addr));
    let mut status = client.handle.status();
    let waiting = |one: &remora_xds_client::Status| matches!(one.state, State::Waiting { .. });
    let seen = soon("a failure", status.wait_for(waiting))
        .await
        .expect("the client runs")
        .clone();
    assert!(seen.last_error.expect("an error").contains("refused"));
    let mut server = AdsServer::start_on(addr);
    let start = Instant::now();
    serve_one(&mut server.next_delta().await, "n1").await;
    client.next().await.token.answer(Verdict::accepted());
    assert!(start.elapsed() < PATIENCE);
}
