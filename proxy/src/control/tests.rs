// SPDX-License-Identifier: Apache-2.0
//! The control task against a control plane: what is published, and what is not.

mod control_plane;

use std::num::NonZeroUsize;

use remora_ir::SlotTable;
use remora_translate::Context;
use remora_xds_client::Config;
use remora_xds_types::core::Node;

use super::built_in::RedirectedPorts;
use super::road::tests::{bad_routes, eds_cluster, endpoints, listener, routes};
use super::*;
use control_plane::{ControlPlane, Peer};

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::Endpoint;
const LDS: ResourceType = ResourceType::Listener;
const RDS: ResourceType = ResourceType::Route;

/// Of the kernel's choice.
const ANY_PORTS: RedirectedPorts = RedirectedPorts {
    outbound: 0,
    inbound: 0,
};

const PATIENCE: Duration = Duration::from_secs(10);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// A control task with its control plane.
struct World {
    shared: Arc<Shared>,
    live: Arc<Publisher<Live>>,
    kept: watch::Receiver<Arc<[KeptResource]>>,
    commands: mpsc::Sender<Command>,
    control_plane: ControlPlane,
}

async fn world(built_in: bool) -> World {
    let control_plane = ControlPlane::start().await;
    let slots = SlotTable::default();
    let context = Context::for_node(slots.clone(), "sidecar~10.0.0.1~a.shop~shop.local");
    let shared = Shared::for_tests();
    let (sender, kept) = watch::channel(Arc::from([]));
    let mut control = Control::new(Parts {
        shared: Arc::clone(&shared),
        road: Road::new(context, &[], &[]),
        bindings: Bindings::new(Sockets::new(), NonZeroUsize::MIN),
        built_in: built_in.then(|| BuiltIn::pass_through(&slots, ANY_PORTS)),
        kept: sender,
    });
    let address = control_plane.address.to_string();
    let config = Config::new(&address, Node::default()).expect("an address");
    let (handle, updates, driver) = remora_xds_client::new(config);
    control.connect(Client {
        handle,
        updates,
        wildcards: vec![CDS, LDS],
    });
    let live = Arc::clone(control.live());
    tokio::spawn(driver.run());
    let (commands, received) = mpsc::channel(1);
    tokio::spawn(control.run(received));
    World {
        shared,
        live,
        kept,
        commands,
        control_plane,
    }
}

impl World {
    async fn until(&self, what: &str, is_met: impl Fn(&Live) -> bool) {
        let wait = async {
            while !is_met(&self.live.current()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon(what, wait).await;
    }

    async fn report(&self) -> Report {
        let (answer, report) = oneshot::channel();
        let sent = self.commands.send(Command::Report(answer)).await;
        sent.expect("the task runs");
        report.await.expect("an answer")
    }

    /// The first push, in Envoy's order.
    async fn configure(&self, peer: &mut Peer) {
        peer.asked_for(CDS, None).await;
        assert_eq!(peer.push(CDS, &[eds_cluster("a", "1s")], &[]).await, None);
        peer.asked_for(EDS, Some("a")).await;
        assert_eq!(peer.push(EDS, &[endpoints("a", 80)], &[]).await, None);
        assert_eq!(peer.push(LDS, &[listener("l", 0, "r")], &[]).await, None);
        peer.asked_for(RDS, Some("r")).await;
        assert_eq!(peer.push(RDS, &[routes("r", "a")], &[]).await, None);
        self.until("the configuration", is_configured).await;
    }
}

fn is_configured(live: &Live) -> bool {
    live.snapshot.listeners.len() == 1 && live.clusters().count() == 1
}

fn ports(live: &Live) -> Vec<String> {
    let hosts = live.clusters().map(|cluster| cluster.hosts());
    hosts
        .flat_map(|set| {
            let all = set.hosts().iter();
            all.map(|host| host.record.address().to_string())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test]
async fn the_road_of_an_update_from_the_stream_to_the_workers() {
    let mut world = world(false).await;
    assert_eq!(world.live.generation(), 1, "an empty one");
    let mut peer = world.control_plane.stream().await;
    world.configure(&mut peer).await;
    let soon_ready = async {
        while !world.shared.readiness.is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon("readiness", soon_ready).await;
    let configured = world.live.current();
    let generation = world.live.generation();
    assert_eq!(configured.snapshot.generation, generation);
    assert_eq!(ports(&configured), ["10.0.0.1:80"]);

    // Endpoints go into the cluster's own cell.
    assert_eq!(peer.push(EDS, &[endpoints("a", 81)], &[]).await, None);
    world
        .until("the endpoint", |live| ports(live) == ["10.0.0.1:81"])
        .await;
    assert_eq!(world.live.generation(), generation);
    assert!(Arc::ptr_eq(&configured, &world.live.current()));

    // A refusal names what and where, and changes nothing.
    let refusal = peer
        .push(RDS, &[bad_routes("r")], &[])
        .await
        .expect("a NACK");
    assert!(
        refusal.starts_with("r: virtual_hosts[0].routes[0]"),
        "{refusal}"
    );
    assert!(Arc::ptr_eq(&configured, &world.live.current()));
    let report = world.report().await;
    let entry = report.inventory.find(RDS, "r").expect("known");
    assert!(entry.accepted.is_some() && entry.refused.is_some());

    // The control plane goes: nothing changes. It comes back and is told what is held.
    drop(peer);
    let mut peer = world.control_plane.stream().await;
    for (kind, name, version) in [
        (CDS, "a", "1s"),
        (EDS, "a", "81"),
        (LDS, "l", "0"),
        (RDS, "r", "a"),
    ] {
        peer.asked_for(kind, None).await;
        assert_eq!(
            peer.held[&kind].get(name).map(String::as_str),
            Some(version)
        );
    }
    // Even if it says everything again, no work is done.
    for (kind, resource) in [
        (CDS, eds_cluster("a", "1s")),
        (EDS, endpoints("a", 81)),
        (LDS, listener("l", 0, "r")),
        (RDS, routes("r", "a")),
    ] {
        assert_eq!(peer.push(kind, &[resource], &[]).await, None);
    }
    assert_eq!(peer.push(EDS, &[], &["a"]).await, None);
    let report = world.report().await;
    assert!(report.pending.is_empty() && report.unbound.is_empty());
    assert!(Arc::ptr_eq(&configured, &world.live.current()));
    assert_eq!(
        ports(&configured),
        ["10.0.0.1:81"],
        "withdrawn endpoints keep their last value"
    );
    let kept: Vec<_> = world.kept.borrow().iter().map(|one| one.kind).collect();
    assert_eq!(kept, [CDS, EDS, LDS, RDS]);

    // One edited policy is one generation, and keeps the hosts.
    let before = configured.clusters().next().expect("one").hosts();
    assert_eq!(peer.push(CDS, &[eds_cluster("a", "2s")], &[]).await, None);
    world
        .until("a generation", |live| {
            live.snapshot.generation == generation + 1
        })
        .await;
    let after = world.live.current().clusters().next().expect("one").hosts();
    let record = |hosts: &remora_balance::HostSet| Arc::clone(&hosts.hosts()[0].record);
    assert!(Arc::ptr_eq(&record(&before), &record(&after)));
}

#[tokio::test]
async fn built_in_listeners_serve_until_the_configuration_is_whole() {
    let mut world = world(true).await;
    let built_in = world.live.current();
    assert!(built_in.snapshot.listeners.len() >= 2);
    assert!(!world.shared.readiness.is_ready());
    let mut peer = world.control_plane.stream().await;
    peer.asked_for(CDS, None).await;
    assert_eq!(peer.push(CDS, &[eds_cluster("a", "1s")], &[]).await, None);
    peer.asked_for(EDS, Some("a")).await;
    assert_eq!(peer.push(LDS, &[listener("l", 0, "r")], &[]).await, None);
    peer.asked_for(RDS, Some("r")).await;
    assert!(world.report().await.pending.len() == 2);
    assert_eq!(
        world.live.current().snapshot.listeners.len(),
        built_in.snapshot.listeners.len()
    );
    assert_eq!(peer.push(RDS, &[routes("r", "a")], &[]).await, None);
    // Endpoints that do not exist are not waited for.
    assert_eq!(peer.push(EDS, &[], &["a"]).await, None);
    world.until("the configuration", is_configured).await;
    assert!(world.shared.readiness.is_ready());
    assert!(ports(&world.live.current()).is_empty());
}

#[tokio::test]
async fn listeners_that_are_all_refused_do_not_end_the_pass_through() {
    let mut world = world(true).await;
    let built_in = world.live.current().snapshot.listeners.len();
    let mut peer = world.control_plane.stream().await;
    peer.asked_for(LDS, None).await;
    assert_eq!(peer.push(CDS, &[], &[]).await, None);
    let mut bad = listener("l", 0, "r");
    bad.body = bytes::Bytes::from_static(&[0xff]);
    assert!(peer.push(LDS, &[bad], &[]).await.is_some());
    assert!(world.report().await.pending.is_empty());
    assert!(!world.shared.readiness.is_ready());
    assert_eq!(world.live.current().snapshot.listeners.len(), built_in);
}

#[tokio::test]
async fn a_large_push_is_translated_aside_and_judged_as_a_whole() {
    let mut world = world(false).await;
    let mut peer = world.control_plane.stream().await;
    peer.asked_for(CDS, None).await;
    let mut clusters: Vec<_> = (0..2000)
        .map(|n| {
            eds_cluster(
                &format!("outbound|80||service-{n}.shop.svc.cluster.local"),
                "1s",
            )
        })
        .collect();
    let bytes: usize = clusters.iter().map(|raw| raw.body.len()).sum();
    assert!(bytes > MAX_INLINE_BYTES, "{bytes} bytes");
    clusters[1000].body = bytes::Bytes::from_static(&[0xff]);
    let refusal = peer.push(CDS, &clusters, &[]).await.expect("a NACK");
    assert!(refusal.contains("service-1000."), "{refusal}");
    let report = world.report().await;
    assert_eq!(
        report.pending.len(),
        1999,
        "the good ones wait for their endpoints"
    );
    assert_eq!(world.live.generation(), 1);
}
