// SPDX-License-Identifier: Apache-2.0
//! The control plane as a whole, from files to a node: our own client is the peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use remora_control_plane::server::{ControlPlane, ControlPlaneConfig};
use remora_xds_client::{Config, Handle, Interest, Mode, Rejection, Update, Updates, Verdict};
use remora_xds_types::Message;
use remora_xds_types::ResourceType::{self, Cluster, Endpoint, Listener, Route};
use remora_xds_types::core::Node;
use remora_xds_types::endpoint::ClusterLoadAssignment;
use remora_xds_types::route::RouteConfiguration;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// A control plane on a folder, and its two addresses.
struct Plane {
    ads: SocketAddr,
    status: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Plane {
    fn start(folder: &Path, ads: SocketAddr) -> Self {
        let mut config = ControlPlaneConfig::new(folder);
        config.listen = ads;
        config.status = (Ipv4Addr::LOCALHOST, 0).into();
        let plane = ControlPlane::bind(config).expect("bind");
        let (ads, status) = (
            plane.ads_addr().expect("addr"),
            plane.status_addr().expect("addr"),
        );
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            plane
                .run(async { drop(stopped.await) })
                .await
                .expect("the control plane is well");
        });
        Self {
            ads,
            status,
            stop: Some(stop),
            task,
        }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        soon("the control plane's end", self.task)
            .await
            .expect("no panic");
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.status).await.expect("status page");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        soon("the page", stream.read_to_string(&mut answer))
            .await
            .expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a response");
        let code = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("a status");
        (code, body.to_owned())
    }

    async fn status(&self) -> Value {
        let (code, body) = self.get("/status").await;
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Waits until the status page satisfies `is_met`.
    async fn wait_status(&self, what: &str, is_met: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if is_met(&status) {
                return status;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no {what} in {status:#}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A proxy as the control plane sees one: it asks for what its clusters and listeners refer to,
/// and keeps what it accepts.
struct Proxy {
    handle: Handle,
    updates: Updates,
    task: JoinHandle<()>,
    held: BTreeMap<(ResourceType, String), (String, Vec<u8>)>,
}

impl Proxy {
    fn start(ads: SocketAddr, mode: Mode, held: &Held) -> Self {
        let id = "sidecar~10.9.0.1~page.shop~shop.svc.cluster.local";
        let node = Node {
            id: id.to_owned(),
            ..Node::default()
        };
        let mut config = Config::new(&ads.to_string(), node).expect("address");
        config.mode = mode;
        for ((kind, name), (version, _)) in held {
            let versions = config
                .initial_versions
                .entry(kind.url().to_owned())
                .or_default();
            versions.insert(name.clone(), version.clone());
        }
        let (handle, updates, driver) = remora_xds_client::new(config);
        let mut proxy = Self {
            handle,
            updates,
            task: tokio::spawn(driver.run()),
            held: held.clone(),
        };
        proxy
            .handle
            .set_interest(Cluster.url(), Interest::wildcard());
        proxy
            .handle
            .set_interest(Listener.url(), Interest::wildcard());
        proxy.follow();
        proxy
    }

    /// Asks for the endpoints of its clusters, and the routes that a real proxy would find named
    /// in its listeners.
    fn follow(&mut self) {
        let (mut endpoints, mut routes) = (BTreeSet::new(), BTreeSet::new());
        for ((kind, _), (_, body)) in &self.held {
            match kind {
                Cluster => endpoints.extend(endpoints_name(body)),
                Listener => routes.extend(route_names(body)),
                _ => {}
            }
        }
        self.handle
            .set_interest(Endpoint.url(), Interest::names(endpoints));
        self.handle
            .set_interest(Route.url(), Interest::names(routes));
    }

    async fn next(&mut self) -> Update {
        soon("an update", self.updates.next())
            .await
            .expect("the client runs")
    }

    /// Accepts an update and says what it was: kind, changed names, removed names.
    fn accept(&mut self, update: Update) -> (ResourceType, Vec<String>, Vec<String>) {
        let kind = ResourceType::from_url(&update.type_url).expect("a known type");
        let names = update.added.iter().map(|one| one.name.clone()).collect();
        for one in update.added {
            self.held
                .insert((kind, one.name), (one.version, one.body.to_vec()));
        }
        for name in &update.removed {
            self.held.remove(&(kind, name.clone()));
        }
        update.token.answer(Verdict::accepted());
        self.follow();
        (kind, names, update.removed)
    }

    /// Accepts updates until `is_met`.
    async fn accept_until(&mut self, is_met: impl Fn(&Self) -> bool) {
        while !is_met(self) {
            let update = self.next().await;
            self.accept(update);
        }
    }

    /// The one route table that sends anything to the service on this port by weight.
    fn weights(&self) -> Option<Vec<u32>> {
        self.held
            .iter()
            .filter(|((kind, _), _)| *kind == Route)
            .find_map(|(_, (_, body))| {
                let table = RouteConfiguration::decode(body.as_slice()).expect("a route table");
                weights_of(&table)
            })
    }

    fn has_endpoint(&self, address: &str) -> bool {
        self.held
            .iter()
            .filter(|((kind, _), _)| *kind == Endpoint)
            .any(|(_, (_, body))| {
                let assignment = ClusterLoadAssignment::decode(body.as_slice()).expect("endpoints");
                format!("{assignment:?}").contains(address)
            })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Held = BTreeMap<(ResourceType, String), (String, Vec<u8>)>;

/// The name of the endpoints that a cluster asks for.
fn endpoints_name(cluster: &[u8]) -> Option<String> {
    use remora_xds_types::cluster::Cluster;

    let cluster = Cluster::decode(cluster).expect("a cluster");
    let config = cluster.eds_cluster_config?;
    Some(if config.service_name.is_empty() {
        cluster.name
    } else {
        config.service_name
    })
}

/// The names of the route tables that a listener asks for.
fn route_names(listener: &[u8]) -> Vec<String> {
    use remora_xds_types::hcm::HttpConnectionManager;
    use remora_xds_types::hcm::http_connection_manager::RouteSpecifier;
    use remora_xds_types::listener::Listener;
    use remora_xds_types::listener::filter::ConfigType;

    let listener = Listener::decode(listener).expect("a listener");
    let chains = listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain);
    let managers = chains
        .flat_map(|chain| &chain.filters)
        .filter_map(|filter| {
            let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
                return None;
            };
            remora_xds_types::unpack::<HttpConnectionManager>(any).ok()
        });
    let name = |manager: HttpConnectionManager| match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => Some(rds.route_config_name),
        _ => None,
    };
    managers.filter_map(name).collect()
}

fn weights_of(table: &RouteConfiguration) -> Option<Vec<u32>> {
    use remora_xds_types::route::route::Action;
    use remora_xds_types::route::route_action::ClusterSpecifier;

    let routes = table.virtual_hosts.iter().flat_map(|host| &host.routes);
    routes
        .filter_map(|route| route.action.as_ref())
        .find_map(|action| match action {
            Action::Route(route) => match &route.cluster_specifier {
                Some(ClusterSpecifier::WeightedClusters(weighted)) => Some(
                    weighted
                        .clusters
                        .iter()
                        .map(|one| one.weight.as_ref().map_or(0, |weight| weight.value))
                        .collect(),
                ),
                _ => None,
            },
            _ => None,
        })
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: sms, namespace: shop}
spec:
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: sms, namespace: shop}
spec:
  host: sms
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

fn slice(v1: &str, v2: &str) -> String {
    let pod = |name: &str, version: &str, ip: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: sms, version: {version}}}}}
spec: {{containers: [{{name: app, image: app}}]}}
status: {{podIP: {ip}, podIPs: [{{ip: {ip}}}], phase: Running}}
"
        )
    };
    let endpoint = |name: &str, ip: &str| {
        format!(
            "- {{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {name}, namespace: shop}}}}\n"
        )
    };
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: sms-1, namespace: shop, labels: {{kubernetes.io/service-name: sms}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
{}{}{}{}",
        endpoint("sms-v1", v1),
        endpoint("sms-v2", v2),
        pod("sms-v1", "v1", v1),
        pod("sms-v2", "v2", v2),
    )
}

fn route(v1: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: sms, namespace: shop}}
spec:
  hosts: [sms]
  http:
  - route:
    - {{destination: {{host: sms, subset: v1}}, weight: {v1}}}
    - {{destination: {{host: sms, subset: v2}}, weight: {}}}
",
        100 - v1
    )
}

/// Writes a file as careful programs do: beside it, then renamed over it.
fn write(folder: &Path, name: &str, text: &str) {
    let beside = folder.join(format!(".{name}.tmp"));
    std::fs::write(&beside, text).expect("write");
    std::fs::rename(beside, folder.join(name)).expect("rename");
}

fn shop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path(), "service.yaml", SERVICE);
    write(folder.path(), "slice.yaml", &slice("10.9.1.1", "10.9.1.2"));
    write(folder.path(), "route.yaml", &route(90));
    folder
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A proxy that holds everything of the shop.
async fn settled(plane: &Plane, mode: Mode) -> Proxy {
    let mut proxy = Proxy::start(plane.ads, mode, &Held::new());
    proxy
        .accept_until(|proxy| {
            proxy.weights() == Some(vec![90, 10])
                && proxy.has_endpoint("10.9.1.1")
                && proxy.has_endpoint("10.9.1.2")
        })
        .await;
    plane.wait_status("synced node", is_synced).await;
    while let Ok(Some(update)) =
        tokio::time::timeout(Duration::from_millis(50), proxy.updates.next()).await
    {
        proxy.accept(update);
    }
    plane.wait_status("synced node", is_synced).await;
    proxy
}

fn is_synced(status: &Value) -> bool {
    status["nodes"][0]["is_synced"] == true
        && status["nodes"][0]["kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.len() == 4)
}

#[tokio::test]
async fn an_edited_weight_sends_one_route_and_an_endpoint_only_endpoints() {
    let folder = shop();
    let plane = Plane::start(folder.path(), any_port());
    let mut proxy = settled(&plane, Mode::Delta).await;

    write(folder.path(), "route.yaml", &route(50));
    let update = proxy.next().await;
    let (kind, changed, removed) = proxy.accept(update);
    assert_eq!((kind, removed.len()), (Route, 0));
    assert_eq!(proxy.weights(), Some(vec![50, 50]));
    // A table for the service, and the one that finds all services of a port by their `Host`.
    assert!((1..=2).contains(&changed.len()), "{changed:?}");

    write(folder.path(), "slice.yaml", &slice("10.9.1.1", "10.9.1.7"));
    let update = proxy.next().await;
    let (kind, _, removed) = proxy.accept(update);
    assert_eq!((kind, removed.len()), (Endpoint, 0));
    assert!(proxy.has_endpoint("10.9.1.7") && !proxy.has_endpoint("10.9.1.2"));
    plane.wait_status("synced node", is_synced).await;
    let quiet = tokio::time::timeout(Duration::from_millis(200), proxy.updates.next()).await;
    assert!(quiet.is_err(), "nothing else is sent: {quiet:?}");
    plane.stop().await;
}

#[tokio::test]
async fn a_restart_with_agreeing_versions_sends_nothing() {
    let folder = shop();
    let plane = Plane::start(folder.path(), any_port());
    let mut proxy = settled(&plane, Mode::Delta).await;
    let ads = plane.ads;
    plane.stop().await;
    let plane = Plane::start(folder.path(), ads);
    plane.wait_status("reconnected node", is_synced).await;
    let quiet = tokio::time::timeout(Duration::from_millis(200), proxy.updates.next()).await;
    assert!(quiet.is_err(), "a restart is no work for a node: {quiet:?}");

    // The same for a proxy that restarts with what it has on disk.
    let held = proxy.held.clone();
    drop(proxy);
    plane
        .wait_status("no node", |status| {
            status["nodes"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
    let mut proxy = Proxy::start(plane.ads, Mode::Delta, &held);
    plane.wait_status("restarted node", is_synced).await;
    let quiet = tokio::time::timeout(Duration::from_millis(200), proxy.updates.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    plane.stop().await;
}

#[tokio::test]
async fn state_of_the_world_brings_the_same_as_delta() {
    let folder = shop();
    let plane = Plane::start(folder.path(), any_port());
    let delta = settled(&plane, Mode::Delta).await;
    let held = delta.held.clone();
    drop(delta);
    plane
        .wait_status("no node", |status| {
            status["nodes"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
    let mut sotw = settled(&plane, Mode::Sotw).await;
    let bodies = |held: &Held| -> BTreeMap<_, _> {
        held.iter()
            .map(|(key, (_, body))| (key.clone(), body.clone()))
            .collect()
    };
    assert_eq!(bodies(&sotw.held), bodies(&held));
    write(folder.path(), "route.yaml", &route(50));
    sotw.accept_until(|proxy| proxy.weights() == Some(vec![50, 50]))
        .await;
    plane.stop().await;
}

#[tokio::test]
async fn a_refusal_is_shown_and_what_is_served_stays() {
    let folder = shop();
    let plane = Plane::start(folder.path(), any_port());
    let mut proxy = settled(&plane, Mode::Delta).await;
    write(folder.path(), "route.yaml", &route(50));
    let update = proxy.next().await;
    let rejected = update
        .added
        .iter()
        .map(|one| Rejection {
            name: one.name.clone(),
            reason: "weights: not today".to_owned(),
        })
        .collect();
    update.token.answer(Verdict { rejected });
    let refused = |status: &Value| {
        let node = &status["nodes"][0];
        node["last_refusal"]
            .as_str()
            .is_some_and(|text| text.contains("weights: not today"))
            && node["is_synced"] == false
    };
    plane.wait_status("refusal", refused).await;
    assert_eq!(proxy.weights(), Some(vec![90, 10]));
    let quiet = tokio::time::timeout(Duration::from_millis(200), proxy.updates.next()).await;
    assert!(
        quiet.is_err(),
        "what was refused is not sent again: {quiet:?}"
    );
    write(folder.path(), "route.yaml", &route(70));
    proxy
        .accept_until(|proxy| proxy.weights() == Some(vec![70, 30]))
        .await;
    plane.wait_status("synced node", is_synced).await;
    plane.stop().await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_shown() {
    let folder = shop();
    let plane = Plane::start(folder.path(), any_port());
    let mut proxy = settled(&plane, Mode::Delta).await;
    write(
        folder.path(),
        "route.yaml",
        "kind: VirtualService\nspec: [\n",
    );
    let shown = |status: &Value| status["source"]["errors"].as_u64() >= Some(1);
    let status = plane.wait_status("finding", shown).await;
    let finding = &status["source"]["findings"][0];
    assert!(
        finding["file"]
            .as_str()
            .is_some_and(|file| file.ends_with("route.yaml")),
        "{finding}"
    );
    let quiet = tokio::time::timeout(Duration::from_millis(200), proxy.updates.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    plane.stop().await;
}

#[tokio::test]
async fn a_node_that_does_not_say_who_it_is_is_refused_with_the_reason() {
    let folder = shop();
    let plane = Plane::start(folder.path(), any_port());
    let node = Node {
        id: "page".to_owned(),
        ..Node::default()
    };
    let config = Config::new(&plane.ads.to_string(), node).expect("address");
    let (handle, _updates, driver) = remora_xds_client::new(config);
    handle.set_interest(Cluster.url(), Interest::wildcard());
    let task = tokio::spawn(driver.run());
    let mut status = handle.status();
    let failed = soon(
        "a failure",
        status.wait_for(|one| one.counters.failures > 0),
    )
    .await;
    let error = failed
        .expect("the client runs")
        .last_error
        .clone()
        .expect("an error");
    assert!(
        error.starts_with("InvalidArgument: node id `page`: expected"),
        "{error}"
    );
    task.abort();
    plane.stop().await;
}

#[tokio::test]
async fn the_page_answers_only_what_it_has() {
    let folder = shop();
    let plane = Plane::start(folder.path(), any_port());
    plane
        .wait_status("source", |status| status["source"]["revision"] == 1)
        .await;
    assert_eq!(plane.get("/ready").await, (200, "ready\n".to_owned()));
    assert_eq!(plane.get("/nothing").await.0, 404);
    plane.stop().await;
}
