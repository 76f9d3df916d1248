// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::{Context, content_hash, resource};

struct World {
    assembler: Assembler,
    ctx: Context,
}

fn encode(kind: ResourceType, yaml: &str) -> Vec<u8> {
    let json: serde_json::Value = serde_saphyr::from_str(yaml).expect("YAML");
    remora_xds_types::json::from_json(kind.url(), &json).expect("a message")
}

impl World {
    fn new() -> Self {
        Self {
            assembler: Assembler::new(),
            ctx: Context::default(),
        }
    }

    fn update(&self, kind: ResourceType, yaml: &str) -> Update {
        let bytes = encode(kind, yaml);
        Update::Put {
            resource: resource(kind, &bytes, &self.ctx).expect("accepted").value,
            hash: content_hash(&bytes),
        }
    }

    fn put(&mut self, kind: ResourceType, yaml: &str) -> Applied {
        let update = self.update(kind, yaml);
        self.assembler.apply([update])
    }

    fn remove(&mut self, kind: ResourceType, name: &str) -> Applied {
        self.assembler.apply([Update::Remove(Key::new(kind, name))])
    }

    fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        let slot = self.ctx.slots.slot(name);
        let snapshot = self.assembler.snapshot(1);
        snapshot.clusters.find(&slot).found().cloned()
    }

    fn listeners(&self) -> usize {
        self.assembler.snapshot(1).listeners.len()
    }
}

const EDS: &str =
    "{name: c, type: EDS, eds_cluster_config: {service_name: s, eds_config: {ads: {}}}}";
const OTHER_EDS: &str =
    "{name: c, type: EDS, eds_cluster_config: {service_name: t, eds_config: {ads: {}}}}";
const ENDPOINTS: &str = "{cluster_name: s}";
const LISTENER: &str = r#"
name: l
address: {socket_address: {address: 127.0.0.1, port_value: 80}}
filter_chains:
- filters:
  - typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      rds: {route_config_name: r, config_source: {ads: {}}}
      http_filters:
      - typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

#[test]
fn a_cluster_waits_for_its_endpoints() {
    let mut world = World::new();
    assert_eq!(world.put(ResourceType::Cluster, EDS), Applied::default());
    assert!(world.cluster("c").is_none());
    let waits = Pending {
        key: Key::new(ResourceType::Cluster, "c"),
        missing: vec![Key::new(ResourceType::Endpoint, "s")],
        serves_older: false,
    };
    assert_eq!(world.assembler.pending(), [waits]);
    assert!(world.assembler.wanted(ResourceType::Endpoint).contains("s"));
    let applied = world.put(ResourceType::Endpoint, ENDPOINTS);
    assert!(
        applied
            .changed
            .contains(&Key::new(ResourceType::Cluster, "c"))
    );
    assert!(applied.endpoints.contains("s"));
    assert!(world.cluster("c").is_some());
    assert!(world.assembler.pending().is_empty());
}

#[test]
fn the_version_before_is_served_until_the_new_one_has_what_it_needs() {
    let mut world = World::new();
    world.put(ResourceType::Cluster, EDS);
    world.put(ResourceType::Endpoint, ENDPOINTS);
    let before = world.cluster("c").expect("ready");
    let applied = world.put(ResourceType::Cluster, OTHER_EDS);
    assert!(!applied.needs_snapshot());
    assert!(Arc::ptr_eq(
        &before,
        &world.cluster("c").expect("still there")
    ));
    assert!(world.assembler.pending()[0].serves_older);
    assert!(world.assembler.wanted(ResourceType::Endpoint).contains("s"));
    let forced = world.assembler.force(&Key::new(ResourceType::Cluster, "c"));
    assert!(forced.needs_snapshot());
    assert!(!Arc::ptr_eq(
        &before,
        &world.cluster("c").expect("the new one")
    ));
    assert!(!world.assembler.wanted(ResourceType::Endpoint).contains("s"));
}

#[test]
fn a_listener_waits_for_its_route_tables() {
    let mut world = World::new();
    world.put(ResourceType::Listener, LISTENER);
    assert_eq!(world.listeners(), 0);
    assert!(world.assembler.wanted(ResourceType::Route).contains("r"));
    world.put(ResourceType::Route, "{name: r}");
    assert_eq!(world.listeners(), 1);
}

#[test]
fn what_comes_again_as_it_was_changes_no_pointer() {
    let mut world = World::new();
    let update = world.update(ResourceType::Cluster, "{name: c}");
    world.assembler.apply([update]);
    let before = world.cluster("c").expect("ready");
    let applied = world.put(ResourceType::Cluster, "{name: c}");
    assert_eq!(applied.unchanged, 1);
    assert!(!applied.needs_snapshot());
    world.put(ResourceType::Cluster, "{name: d}");
    assert!(Arc::ptr_eq(&before, &world.cluster("c").expect("ready")));
    let bytes = encode(ResourceType::Cluster, "{name: c}");
    let key = Key::new(ResourceType::Cluster, "c");
    assert!(world.assembler.holds(&key, &content_hash(&bytes)));
    assert!(!world.assembler.holds(&key, "other"));
}

#[test]
fn withdrawn_endpoints_and_tables_stay_and_withdrawn_clusters_and_listeners_go() {
    let mut world = World::new();
    world.put(ResourceType::Cluster, EDS);
    world.put(ResourceType::Endpoint, ENDPOINTS);
    world.put(ResourceType::Listener, LISTENER);
    world.put(ResourceType::Route, "{name: r}");
    world.remove(ResourceType::Endpoint, "s");
    world.remove(ResourceType::Route, "r");
    assert!(world.assembler.endpoints("s").is_some());
    assert_eq!(world.assembler.snapshot(1).routes.len(), 1);
    assert!(world.remove(ResourceType::Cluster, "c").needs_snapshot());
    assert!(world.remove(ResourceType::Listener, "l").needs_snapshot());
    assert!(world.cluster("c").is_none());
    assert_eq!(world.listeners(), 0);
    // Only now does nothing refer to them.
    let swept = world.assembler.sweep();
    assert!(swept.changed.contains(&Key::new(ResourceType::Route, "r")));
    assert!(world.assembler.endpoints("s").is_none());
    assert!(world.assembler.snapshot(1).routes.is_empty());
}

#[test]
fn a_sweep_keeps_what_a_waiting_version_needs() {
    let mut world = World::new();
    world.put(ResourceType::Endpoint, ENDPOINTS);
    world.put(ResourceType::Cluster, EDS);
    world.put(ResourceType::Cluster, OTHER_EDS);
    world.assembler.sweep();
    assert!(
        world.assembler.endpoints("s").is_some(),
        "the version before uses it"
    );
}

#[test]
fn what_the_bootstrap_file_has_is_neither_replaced_nor_withdrawn() {
    let mut world = World::new();
    let Update::Put { resource, .. } = world.update(ResourceType::Cluster, "{name: c}") else {
        unreachable!("made as a put");
    };
    world.assembler.apply([Update::Fix(resource)]);
    let before = world.cluster("c").expect("ready");
    let key = Key::new(ResourceType::Cluster, "c");
    let applied = world.put(ResourceType::Cluster, EDS);
    assert!(applied.fixed.contains(&key));
    let applied = world.remove(ResourceType::Cluster, "c");
    assert!(applied.fixed.contains(&key) && !applied.needs_snapshot());
    assert!(Arc::ptr_eq(
        &before,
        &world.cluster("c").expect("still there")
    ));
}

#[test]
fn withdrawing_what_waits_ends_the_wait() {
    let mut world = World::new();
    world.put(ResourceType::Cluster, EDS);
    assert!(!world.remove(ResourceType::Cluster, "c").needs_snapshot());
    assert!(world.assembler.pending().is_empty());
    assert!(
        !world
            .assembler
            .force(&Key::new(ResourceType::Cluster, "c"))
            .needs_snapshot()
    );
}
