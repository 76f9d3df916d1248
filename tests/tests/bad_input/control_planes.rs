// SPDX-License-Identifier: Apache-2.0
//! Control planes that misbehave: what was last good goes on being served.

#[allow(dead_code, reason = "the client's own tests use the rest of it")]
#[path = "../../../xds-client/tests/ads_server/mod.rs"]
mod ads_server;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use ads_server::{AdsServer, DeltaStream};
use anyhow::{Context as _, ensure};
use remora_testkit::client;
use remora_testkit::lab::{self, Host, Lab};
use remora_testkit::wait;
use remora_tests::town::Sidecar;
use remora_xds_types::discovery::{DeltaDiscoveryResponse, Resource};
use remora_xds_types::protobuf::Any;
use remora_xds_types::{ResourceType, json};

use super::{MEGABYTE, expect_well};

/// A proxy, and the control plane that a test plays.
struct Scene {
    sidecar: Sidecar,
    cp: Host,
    server: Option<AdsServer>,
    runtime: tokio::runtime::Runtime,
}

const RECONNECT: Duration = Duration::from_secs(40);
const ADS: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 15010);

impl Scene {
    /// A proxy that has accepted a listener which answers `first`.
    fn start(lab: &Lab) -> anyhow::Result<(Self, DeltaStream)> {
        let cp = lab.add_host("cp", 2)?;
        let server = cp.enter(|| AdsServer::start_on(ADS.into()))?;
        let mut scene = Self {
            sidecar: Sidecar::start_whole(lab, cp.v4())?,
            cp,
            server: Some(server),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        };
        let mut stream = scene.next_stream()?;
        scene.configure(&mut stream, "first")?;
        Ok((scene, stream))
    }

    fn next_stream(&mut self) -> anyhow::Result<DeltaStream> {
        let server = self.server.as_mut().context("the server runs")?;
        // Whoever is hung up on asks ever less often, at last each half a minute.
        let stream = async { tokio::time::timeout(RECONNECT, server.delta.recv()).await };
        let stream = self
            .runtime
            .block_on(stream)
            .context("no stream was opened")?;
        stream.context("the server runs")
    }

    /// Serves a good configuration whose listener answers with `text`, and waits until it does.
    fn configure(&self, stream: &mut DeltaStream, text: &str) -> anyhow::Result<()> {
        self.send(stream, ResourceType::Cluster, vec![]);
        self.send(
            stream,
            ResourceType::Listener,
            vec![listener("edge", 10_000, text)?],
        );
        wait::until(text, wait::PATIENCE, || self.expect(text))
    }

    fn send(&self, stream: &DeltaStream, kind: ResourceType, resources: Vec<Resource>) {
        self.runtime
            .block_on(stream.send(response(kind, resources)));
    }

    /// The refusal of what is sent.
    fn refusal(
        &self,
        stream: &mut DeltaStream,
        resources: Vec<Resource>,
    ) -> anyhow::Result<String> {
        let mut response = response(ResourceType::Listener, resources);
        response.nonce = "nonsense".to_owned();
        self.runtime.block_on(async {
            stream.send(response).await;
            loop {
                let request = stream.request().await;
                if request.response_nonce == "nonsense" {
                    let detail = request.error_detail.context("nonsense was accepted")?;
                    return Ok(detail.message);
                }
            }
        })
    }

    /// Asserts what the listener answers now.
    fn expect(&self, text: &str) -> anyhow::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 10_000));
        let answer = self
            .sidecar
            .host
            .enter(|| client::get(address, "any", "/"))??;
        ensure!(
            answer.text() == text,
            "the listener answers `{}`, expected `{text}`",
            answer.text()
        );
        Ok(())
    }

    /// Asserts the same for a while.
    fn expect_still(&self, text: &str, time: Duration) -> anyhow::Result<()> {
        for _ in 0..20 {
            self.expect(text)?;
            wait::rest(time / 20);
        }
        Ok(())
    }
}

fn response(kind: ResourceType, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.url().to_owned(),
        nonce: "n".to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

fn resource(name: &str, resource: Option<Any>) -> Resource {
    Resource {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource,
        ..Resource::default()
    }
}

/// A listener that answers all requests by itself.
fn listener(name: &str, port: u16, text: &str) -> anyhow::Result<Resource> {
    let type_url = ResourceType::Listener.url();
    let listener = serde_json::json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "edge",
            "route_config": {"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": text}}},
            ]}]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        }}]}],
    });
    let value = json::from_json(type_url, &listener)?;
    Ok(resource(
        name,
        Some(Any {
            type_url: type_url.to_owned(),
            value,
        }),
    ))
}

#[test]
fn nonsense_is_refused_by_name_and_changes_nothing() {
    lab::test(|lab| {
        let (mut scene, mut stream) = Scene::start(lab)?;
        let before = scene.sidecar.memory()?;
        let url = ResourceType::Listener.url().to_owned();
        let any = |type_url: &str, value: &[u8]| {
            Some(Any {
                type_url: type_url.to_owned(),
                value: value.to_vec(),
            })
        };
        let cases = [
            ("bytes that are no message", any(&url, b"\xff\xff\xff\xff")),
            (
                "a message of another kind",
                any("type.googleapis.com/google.protobuf.Empty", b""),
            ),
            (
                "a type that nobody knows",
                any("type.googleapis.com/no.such.Type", b"x"),
            ),
            ("an empty message", any(&url, b"")),
            ("a megabyte of zeros", any(&url, &vec![0; 1 << 20])),
        ];
        for (what, bytes) in cases {
            // A good one beside it is accepted all the same.
            let said = scene.refusal(&mut stream, vec![resource("edge", bytes)]);
            let said = said.context(what)?;
            ensure!(
                said.contains("edge"),
                "{what}: the refusal does not name it: {said}"
            );
            scene.expect("first").context(what)?;
        }
        scene.configure(&mut stream, "after the nonsense")?;
        expect_well(&mut scene.sidecar, before, 32 * MEGABYTE)
    });
}

#[test]
fn one_bad_resource_does_not_keep_a_good_one_out() {
    lab::test(|lab| {
        let (scene, mut stream) = Scene::start(lab)?;
        let bad = resource(
            "bad",
            Some(Any {
                type_url: ResourceType::Listener.url().to_owned(),
                value: vec![0xff],
            }),
        );
        let good = listener("edge", 10_000, "second")?;
        let said = scene.refusal(&mut stream, vec![bad, good])?;
        ensure!(said.contains("bad") && !said.contains("edge"), "{said}");
        wait::until("the good one", wait::PATIENCE, || scene.expect("second"))
    });
}

#[test]
fn a_control_plane_that_hangs_or_dies_changes_nothing_and_is_taken_up_again() {
    lab::test(|lab| {
        let (mut scene, stream) = Scene::start(lab)?;
        let before = scene.sidecar.memory()?;
        // It says nothing more, and reads nothing.
        scene.expect_still("first", Duration::from_secs(1))?;
        drop(stream);
        // It ends every stream, at once or after one message.
        for round in 0..3 {
            let stream = scene.next_stream()?;
            if round % 2 == 0 {
                scene.send(&stream, ResourceType::Cluster, vec![]);
            }
            drop(stream);
            scene.expect("first")?;
        }
        // Its port is closed; then it accepts connections and does nothing with them.
        scene.server = None;
        scene.expect_still("first", Duration::from_millis(500))?;
        let silent = scene.cp.enter(|| TcpListener::bind(ADS))??;
        scene.expect_still("first", Duration::from_secs(1))?;
        drop(silent);
        // It comes back.
        wait::until("its port", wait::PATIENCE, || {
            scene
                .cp
                .enter(|| TcpListener::bind(ADS).map(drop))?
                .context("bind")
        })?;
        scene.server = Some(scene.cp.enter(|| AdsServer::start_on(ADS.into()))?);
        let mut stream = scene.next_stream()?;
        scene.configure(&mut stream, "back")?;
        expect_well(&mut scene.sidecar, before, 32 * MEGABYTE)
    });
}
