// SPDX-License-Identifier: Apache-2.0
//! What is encoded again after a change, what is shared, what is forgotten.

mod shop;

use std::collections::BTreeSet;
use std::sync::Arc;

use remora_compile::{Capabilities, Compiler, ResourceSet, Scope, compile};
use remora_model::{Health, Model, ObjectKind};
use remora_xds_types::ResourceType;

/// Kind and name of the resources whose versions differ, or that only one set has.
fn changed(before: &ResourceSet, after: &ResourceSet) -> BTreeSet<(ResourceType, String)> {
    let of = |set: &ResourceSet| -> BTreeSet<_> {
        let versions = set
            .iter()
            .map(|r| (r.kind, r.name.clone(), r.version.clone()));
        versions.collect()
    };
    let (before, after) = (of(before), of(after));
    let differing = before.symmetric_difference(&after);
    differing
        .map(|(kind, name, _)| (*kind, name.clone()))
        .collect()
}

fn named(names: &[(ResourceType, &str)]) -> BTreeSet<(ResourceType, String)> {
    names
        .iter()
        .map(|(kind, name)| (*kind, (*name).to_owned()))
        .collect()
}

fn by_address_only() -> Scope {
    Scope {
        capabilities: Capabilities {
            route_by_host: false,
            ..Capabilities::default()
        },
        ..shop::scope()
    }
}

#[test]
fn one_edited_weight_encodes_one_route_table_and_nothing_else() {
    let mut compiler = Compiler::default();
    let first = Model::new(1, shop::parts(90, 10), None);
    let second = Model::new(2, shop::parts(50, 50), Some(&first));
    let before = compiler.compile(&first, &by_address_only());
    let encoded = compiler.encoded();
    let after = compiler.compile(&second, &by_address_only());
    assert_eq!(compiler.encoded() - encoded, 1);
    let table = "sms.shop.svc.cluster.local:80";
    assert_eq!(
        changed(&before, &after),
        named(&[(ResourceType::Route, table)])
    );
    for resource in before.iter().filter(|r| r.name != table) {
        let same = after
            .find(resource.kind, &resource.name)
            .expect("is still there");
        assert!(Arc::ptr_eq(resource, same), "{}", resource.name);
    }
}

#[test]
fn nodes_that_route_by_host_get_the_ports_table_besides() {
    let mut compiler = Compiler::default();
    let first = Model::new(1, shop::parts(90, 10), None);
    let second = Model::new(2, shop::parts(50, 50), Some(&first));
    let before = compiler.compile(&first, &shop::scope());
    let encoded = compiler.encoded();
    let after = compiler.compile(&second, &shop::scope());
    assert_eq!(compiler.encoded() - encoded, 2);
    let expected = [
        (ResourceType::Route, "sms.shop.svc.cluster.local:80"),
        (ResourceType::Route, "80"),
    ];
    assert_eq!(changed(&before, &after), named(&expected));
}

#[test]
fn an_endpoint_that_goes_changes_the_assignments_it_was_in() {
    let mut compiler = Compiler::default();
    let first = Model::new(1, shop::parts(90, 10), None);
    let mut parts = shop::parts(90, 10);
    let key = parts.services[0].key();
    let mut endpoints = parts.endpoints[&key].to_vec();
    endpoints[1].health = Health::Unready;
    parts.endpoints.insert(key, endpoints.into());
    let second = Model::new(2, parts, Some(&first));
    let before = compiler.compile(&first, &shop::scope());
    let encoded = compiler.encoded();
    let after = compiler.compile(&second, &shop::scope());
    let expected = [
        (
            ResourceType::Endpoint,
            "outbound|80||sms.shop.svc.cluster.local",
        ),
        (
            ResourceType::Endpoint,
            "outbound|80|v2|sms.shop.svc.cluster.local",
        ),
    ];
    assert_eq!(changed(&before, &after), named(&expected));
    // The third assignment was looked at, since the list of endpoints is another one.
    assert_eq!(compiler.encoded() - encoded, 3);
}

#[test]
fn a_revision_that_changes_nothing_encodes_nothing() {
    let mut compiler = Compiler::default();
    let first = Model::new(1, shop::parts(90, 10), None);
    let second = Model::new(2, shop::parts(90, 10), Some(&first));
    let before = compiler.compile(&first, &shop::scope());
    let encoded = compiler.encoded();
    assert!(Arc::ptr_eq(
        &before,
        &compiler.compile(&first, &shop::scope())
    ));
    assert_eq!(
        changed(&before, &compiler.compile(&second, &shop::scope())),
        BTreeSet::new()
    );
    assert_eq!(compiler.encoded(), encoded);
}

#[test]
fn another_instance_of_the_same_kind_shares_all_but_its_inbound_side() {
    let mut compiler = Compiler::default();
    let model = shop::model(shop::parts(90, 10));
    let one = compiler.compile(&model, &shop::scope());
    let encoded = compiler.encoded();
    let other = Scope {
        addresses: [shop::ip("10.0.0.5")].into(),
        ..shop::scope()
    };
    let two = compiler.compile(&model, &other);
    let own = named(&[
        (ResourceType::Listener, "virtualInbound"),
        (ResourceType::Cluster, "inbound|7000||"),
        (ResourceType::Cluster, "inbound|8080||"),
        (ResourceType::Cluster, "inbound|9000||"),
    ]);
    assert_eq!(changed(&one, &two), own);
    assert_eq!(
        compiler.encoded() - encoded,
        3,
        "the listener and two clusters"
    );
}

#[test]
fn versions_do_not_depend_on_the_order_in_which_sources_are_read() {
    let expected = compile(&shop::model(shop::parts(90, 10)), &shop::scope());
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut parts = shop::parts(90, 10);
        random.shuffle(&mut parts.services);
        random.shuffle(&mut parts.routes);
        random.shuffle(&mut parts.policies);
        for list in parts.endpoints.values_mut() {
            let mut shuffled = list.to_vec();
            random.shuffle(&mut shuffled);
            *list = shuffled.into();
        }
        let found = compile(&shop::model(parts), &shop::scope());
        assert_eq!(changed(&expected, &found), BTreeSet::new(), "seed {seed}");
        for kind in ResourceType::PUSH_ORDER {
            assert_eq!(expected.version(kind), found.version(kind), "seed {seed}");
        }
    }
}

#[test]
fn the_version_of_a_kind_changes_with_any_of_its_resources() {
    let before = compile(&shop::model(shop::parts(90, 10)), &shop::scope());
    let after = compile(&shop::model(shop::parts(50, 50)), &shop::scope());
    assert_ne!(
        before.version(ResourceType::Route),
        after.version(ResourceType::Route)
    );
    assert_eq!(
        before.version(ResourceType::Cluster),
        after.version(ResourceType::Cluster)
    );
}

#[test]
fn what_nobody_holds_any_more_is_forgotten() {
    let mut compiler = Compiler::default();
    let mut model = Model::new(0, shop::parts(1, 1), None);
    let mut held = compiler.compile(&model, &shop::scope());
    let one_set = compiler.remembered();
    for revision in 1..600 {
        let weight = u32::try_from(revision).expect("is small");
        model = Model::new(revision, shop::parts(weight, 7), Some(&model));
        held = compiler.compile(&model, &shop::scope());
    }
    assert!(held.iter().count() <= compiler.remembered());
    let bound = 256.max(2 * one_set) + one_set;
    assert!(compiler.remembered() <= bound, "{}", compiler.remembered());
}

#[test]
fn resources_tell_what_they_were_made_from() {
    let set = compile(&shop::model(shop::parts(90, 10)), &shop::scope());
    let inputs = |kind, name: &str| -> Vec<String> {
        let resource = set.find(kind, name).expect("is there");
        resource.inputs.iter().map(ToString::to_string).collect()
    };
    let (service, rule) = ("Service shop/sms", "VirtualService shop/sms");
    assert_eq!(
        inputs(ResourceType::Route, "sms.shop.svc.cluster.local:80"),
        [service, rule]
    );
    let cluster = "outbound|80|v1|sms.shop.svc.cluster.local";
    let policy = "DestinationRule shop/sms";
    assert_eq!(inputs(ResourceType::Cluster, cluster), [service, policy]);
    assert_eq!(inputs(ResourceType::Endpoint, cluster), [service, policy]);
    assert!(inputs(ResourceType::Cluster, "PassthroughCluster").is_empty());
    assert!(
        ObjectKind::Service < ObjectKind::VirtualService,
        "inputs are in that order"
    );
}
