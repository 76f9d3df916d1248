// SPDX-License-Identifier: Apache-2.0
use bytes::Bytes;
use remora_ir::SlotTable;
use remora_xds_types::json::from_json;
use serde_json::{Value, json};

use super::*;

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::Endpoint;
const LDS: ResourceType = ResourceType::Listener;
const RDS: ResourceType = ResourceType::Route;

fn road() -> Road {
    let context = Context::for_node(SlotTable::default(), "sidecar~10.0.0.1~a.shop~shop.local");
    Road::new(context, &[], &[])
}

fn raw(kind: ResourceType, name: &str, version: &str, json: &Value) -> RawResource {
    RawResource {
        name: name.to_owned(),
        version: version.to_owned(),
        body: Bytes::from(from_json(kind.url(), json).expect("a message")),
    }
}

pub(crate) fn eds_cluster(name: &str, timeout: &str) -> RawResource {
    let cluster = json!({
        "name": name, "type": "EDS", "connect_timeout": timeout,
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
    });
    raw(CDS, name, timeout, &cluster)
}

pub(crate) fn endpoints(name: &str, port: u16) -> RawResource {
    let at = json!({ "socket_address": { "address": "10.0.0.1", "port_value": port } });
    let one = json!({ "lb_endpoints": [{ "endpoint": { "address": at } }] });
    let assignment = json!({ "cluster_name": name, "endpoints": [one] });
    raw(EDS, name, &port.to_string(), &assignment)
}

pub(crate) fn listener(name: &str, port: u16, table: &str) -> RawResource {
    let hcm = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "rds": { "route_config_name": table, "config_source": { "ads": {}, "resource_api_version": "V3" } },
        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
    });
    let listener = json!({
        "name": name,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": hcm }] }],
    });
    raw(LDS, name, &port.to_string(), &listener)
}

pub(crate) fn routes(name: &str, cluster: &str) -> RawResource {
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
    let host = json!({ "name": "all", "domains": ["*"], "routes": [route] });
    let table = json!({ "name": name, "virtual_hosts": [host] });
    raw(RDS, name, cluster, &table)
}

/// A resource that decodes and cannot be honoured.
pub(crate) fn bad_routes(name: &str) -> RawResource {
    let route = json!({ "match": { "safe_regex": { "regex": "(" } }, "route": { "cluster": "a" } });
    let host = json!({ "name": "all", "domains": ["*"], "routes": [route] });
    raw(
        RDS,
        name,
        "bad",
        &json!({ "name": name, "virtual_hosts": [host] }),
    )
}

fn take(
    road: &mut Road,
    kind: ResourceType,
    added: Vec<RawResource>,
    removed: &[&str],
) -> (Vec<Rejection>, Effect) {
    let mut batch = Batch {
        kind,
        added,
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
    };
    let mut effect = road.triage(&mut batch);
    let translation = translate(road.context(), batch);
    let (rejections, more) = road.accept(translation, SystemTime::UNIX_EPOCH);
    effect.merge(more);
    (rejections, effect)
}

fn put(road: &mut Road, kind: ResourceType, added: Vec<RawResource>) -> Effect {
    let (rejections, effect) = take(road, kind, added, &[]);
    assert_eq!(rejections, []);
    effect
}

fn cluster_names(road: &Road) -> Vec<String> {
    let snapshot = road.snapshot(1);
    let mut names: Vec<_> = snapshot
        .clusters
        .iter()
        .map(|cluster| cluster.slot.name().to_string())
        .collect();
    names.sort();
    names
}

fn listener_names(road: &Road) -> Vec<String> {
    let snapshot = road.snapshot(1);
    let names = snapshot.listeners.iter().map(|one| one.name.to_string());
    names.collect()
}

pub(crate) fn whole() -> Road {
    let mut road = road();
    put(&mut road, CDS, vec![eds_cluster("a", "1s")]);
    put(&mut road, EDS, vec![endpoints("a", 80)]);
    put(&mut road, LDS, vec![listener("l", 8080, "r")]);
    put(&mut road, RDS, vec![routes("r", "a")]);
    road
}

#[test]
fn a_cluster_waits_for_its_endpoints_and_a_listener_for_its_routes() {
    let mut road = road();
    let effect = put(&mut road, CDS, vec![eds_cluster("a", "1s")]);
    assert!(!effect.snapshot && effect.kept);
    assert_eq!(cluster_names(&road), Vec::<String>::new());
    assert!(road.wanted(EDS).contains("a"));
    assert!(put(&mut road, EDS, vec![endpoints("a", 80)]).snapshot);
    assert_eq!(cluster_names(&road), ["a"]);
    assert!(!put(&mut road, LDS, vec![listener("l", 8080, "r")]).snapshot);
    assert!(listener_names(&road).is_empty());
    assert_eq!(road.pending().len(), 1);
    assert!(road.wanted(RDS).contains("r"));
    assert!(put(&mut road, RDS, vec![routes("r", "a")]).snapshot);
    assert_eq!(listener_names(&road), ["l"]);
    assert!(road.pending().is_empty());
}

#[test]
fn endpoints_alone_never_ask_for_a_snapshot() {
    let mut road = whole();
    let effect = put(&mut road, EDS, vec![endpoints("a", 81)]);
    assert!(!effect.snapshot);
    assert_eq!(effect.endpoints, BTreeSet::from(["a".to_owned()]));
    assert_eq!(road.endpoints("a").expect("held").len(), 1);
}

#[test]
fn what_came_again_as_it_was_does_no_work() {
    let mut road = whole();
    let again = [
        (CDS, eds_cluster("a", "1s")),
        (EDS, endpoints("a", 80)),
        (LDS, listener("l", 8080, "r")),
        (RDS, routes("r", "a")),
    ];
    for (kind, resource) in again {
        let effect = put(&mut road, kind, vec![resource]);
        assert_eq!(effect, Effect::default(), "{kind:?}");
    }
    let mut renewed = eds_cluster("a", "1s");
    renewed.version = "another".to_owned();
    let effect = put(&mut road, CDS, vec![renewed]);
    assert!(
        !effect.snapshot,
        "a version alone changes nothing that is served"
    );
    assert!(effect.kept, "but it is what the control plane will be told");
    assert_eq!(road.inventory().versions()[CDS.url()]["a"], "another");
}

#[test]
fn a_refusal_changes_nothing_that_is_served_and_good_siblings_are_taken() {
    let mut road = whole();
    let before = road.snapshot(1);
    let (rejections, effect) = take(&mut road, RDS, vec![bad_routes("r")], &[]);
    assert!(!effect.snapshot && !effect.kept);
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].name, "r");
    let place = "virtual_hosts[0].routes[0].match";
    assert!(
        rejections[0].reason.contains(place),
        "{}",
        rejections[0].reason
    );
    let name = remora_ir::RouteName::new("r");
    let table =
        |snapshot: &Snapshot| Arc::clone(snapshot.route_table(&name).found().expect("served"));
    assert!(Arc::ptr_eq(&table(&before), &table(&road.snapshot(2))));
    let entry = road.inventory().find(RDS, "r").expect("known");
    assert_eq!(entry.refused.as_ref().map(|one| &*one.version), Some("bad"));
    assert_eq!(entry.accepted.as_ref().map(|one| &*one.version), Some("a"));

    let undecodable = RawResource {
        name: "broken".to_owned(),
        version: "1".to_owned(),
        body: Bytes::from_static(&[0xff]),
    };
    let both = vec![undecodable, eds_cluster("a", "2s")];
    let (rejections, effect) = take(&mut road, CDS, both, &[]);
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].name, "broken");
    assert!(effect.snapshot, "the good sibling is taken");
}

#[test]
fn withdrawn_endpoints_and_routes_stay_and_withdrawn_clusters_and_listeners_go() {
    let mut road = whole();
    for kind in [EDS, RDS] {
        let name = if kind == EDS { "a" } else { "r" };
        let (rejections, effect) = take(&mut road, kind, vec![], &[name]);
        assert_eq!(
            (rejections.len(), effect),
            (0, Effect::default()),
            "{kind:?}"
        );
    }
    assert_eq!(
        (cluster_names(&road).len(), listener_names(&road).len()),
        (1, 1)
    );
    let (_, effect) = take(&mut road, LDS, vec![], &["l"]);
    assert!(effect.snapshot && effect.kept);
    assert!(listener_names(&road).is_empty());
    assert!(road.wanted(RDS).is_empty());
    assert!(
        road.inventory().find(RDS, "r").is_none(),
        "nothing refers to it any more"
    );
    let (_, effect) = take(&mut road, CDS, vec![], &["a", "never-was"]);
    assert!(effect.snapshot);
    assert!(cluster_names(&road).is_empty() && road.endpoints("a").is_none());
}

#[test]
fn what_waits_for_something_that_does_not_exist_waits_in_vain() {
    let mut road = road();
    put(
        &mut road,
        CDS,
        vec![eds_cluster("a", "1s"), eds_cluster("b", "1s")],
    );
    let in_vain = road.waiting_in_vain(EDS, &["a".to_owned()]);
    assert_eq!(in_vain, [Key::new(CDS, "a")]);
    assert!(road.force(&in_vain).snapshot);
    assert_eq!(cluster_names(&road), ["a"]);
}

#[test]
fn a_resource_with_another_name_inside_is_refused() {
    let mut road = road();
    let mut cluster = eds_cluster("a", "1s");
    cluster.name = "b".to_owned();
    let (rejections, effect) = take(&mut road, CDS, vec![cluster], &[]);
    assert_eq!(rejections[0].reason, "is named `a` in itself");
    assert_eq!(effect, Effect::default());
    assert!(road.wanted(EDS).is_empty());
}

#[test]
fn what_was_kept_takes_the_same_road() {
    let kept = whole().inventory().keepable();
    let mut restored = road();
    for batch in batches(kept.to_vec()) {
        let translation = translate(restored.context(), batch);
        let (rejections, _) = restored.accept(translation, SystemTime::UNIX_EPOCH);
        assert_eq!(rejections, []);
    }
    assert_eq!(cluster_names(&restored), ["a"]);
    assert_eq!(listener_names(&restored), ["l"]);
    assert!(restored.pending().is_empty());
    assert_eq!(
        restored.inventory().versions(),
        whole().inventory().versions()
    );
}
