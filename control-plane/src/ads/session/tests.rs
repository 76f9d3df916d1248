// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;

use remora_xds_types::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use remora_xds_types::rpc;

use super::*;
use ResourceType::{Cluster, Endpoint, Listener, Route};

/// `("c", "1")` is the cluster, endpoint, listener or route `c` at version 1.
type Named<'a> = (ResourceType, &'a str, &'a str);

fn snapshot(resources: &[Named<'_>]) -> Arc<ResourceSnapshot> {
    let made = resources.iter().map(|(kind, name, version)| {
        Arc::new(Resource {
            kind: *kind,
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            body: vec![0; 8].into(),
            inputs: Vec::new(),
        })
    });
    Arc::new(ResourceSnapshot::of_resources(1, made, None))
}

/// What two versions of one service need.
fn shop(route: &str) -> Vec<Named<'_>> {
    vec![
        (Cluster, "sms-v1", "1"),
        (Cluster, "sms-v2", "1"),
        (Endpoint, "sms-v1", "1"),
        (Endpoint, "sms-v2", "1"),
        (Listener, "0.0.0.0_80", "1"),
        (Route, "80", route),
    ]
}

fn subscribe(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn holding(mut request: DeltaDiscoveryRequest, held: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    let pairs = held
        .iter()
        .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
    request.initial_resource_versions = pairs.collect();
    request
}

fn status(message: &str) -> rpc::Status {
    rpc::Status {
        code: 3,
        message: message.to_owned(),
        details: Vec::new(),
    }
}

fn answer(push: &Push, refusal: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: push.nonce.clone(),
        error_detail: refusal.map(status),
        ..subscribe(push.kind, &[])
    }
}

/// A push as the tests write it: kind, names with versions, removed names.
fn shape(push: &Push) -> (ResourceType, Vec<String>, Vec<String>) {
    let named = |one: &Arc<Resource>| format!("{}@{}", one.name, one.version);
    (
        push.kind,
        push.resources.iter().map(named).collect(),
        push.removed.clone(),
    )
}

fn pushes(session: &mut Session) -> Vec<Push> {
    let mut pushes = Vec::new();
    while let Some(push) = session.next_push() {
        pushes.push(push);
        assert!(pushes.len() < 100, "the session never falls silent");
    }
    pushes
}

/// Accepts everything until the session falls silent.
fn accept_all(session: &mut Session) -> Vec<Push> {
    let mut all = Vec::new();
    while let Some(push) = session.next_push() {
        let heard = session.on_delta(answer(&push, None)).expect("few names");
        assert_eq!(heard, Heard::Accepted(push.kind));
        all.push(push);
        assert!(all.len() < 100, "the session never falls silent");
    }
    all
}

fn delta(resources: &[Named<'_>]) -> Session {
    Session::new(Variant::Delta, snapshot(resources))
}

/// A proxy that asked for everything in `shop` and accepted it.
fn settled_shop() -> Session {
    let mut session = delta(&shop("1"));
    for request in [
        subscribe(Cluster, &[]),
        subscribe(Endpoint, &["sms-v1", "sms-v2"]),
        subscribe(Listener, &[]),
        subscribe(Route, &["80"]),
    ] {
        session.on_delta(request).expect("few names");
    }
    assert_eq!(accept_all(&mut session).len(), 4);
    session
}

#[test]
fn kinds_are_pushed_in_order_whatever_the_order_of_requests() {
    let mut session = delta(&shop("1"));
    for request in [
        subscribe(Route, &["80"]),
        subscribe(Listener, &[]),
        subscribe(Endpoint, &["sms-v2"]),
        subscribe(Cluster, &[]),
    ] {
        session.on_delta(request).expect("few names");
    }
    let shapes: Vec<_> = accept_all(&mut session).iter().map(shape).collect();
    let texts = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        shapes,
        [
            (Cluster, texts(&["sms-v1@1", "sms-v2@1"]), vec![]),
            (Endpoint, texts(&["sms-v2@1"]), vec![]),
            (Listener, texts(&["0.0.0.0_80@1"]), vec![]),
            (Route, texts(&["80@1"]), vec![]),
        ]
    );
}

#[test]
fn routes_wait_until_the_endpoints_of_new_clusters_were_asked_for() {
    let mut session = settled_shop();
    let mut next = shop("2");
    next.push((Cluster, "voice", "1"));
    next.push((Endpoint, "voice", "1"));
    session.set_snapshot(snapshot(&next));
    let first = pushes(&mut session);
    assert_eq!(
        first.iter().map(|push| push.kind).collect::<Vec<_>>(),
        [Cluster]
    );
    session
        .on_delta(subscribe(Endpoint, &["voice"]))
        .expect("few names");
    assert_eq!(session.next_push().expect("endpoints").kind, Endpoint);
    assert_eq!(session.next_push(), None);
    session
        .on_delta(answer(&first[0], None))
        .expect("few names");
    assert_eq!(session.next_push().expect("the route").kind, Route);
}

#[test]
fn one_edited_weight_sends_one_resource() {
    let mut session = settled_shop();
    session.set_snapshot(snapshot(&shop("2")));
    let all = accept_all(&mut session);
    assert_eq!(
        all.iter().map(shape).collect::<Vec<_>>(),
        [(Route, vec!["80@2".into()], vec![])]
    );
    assert!(session.status().iter().all(|kind| kind.is_synced));
}

#[test]
fn an_unchanged_snapshot_sends_nothing() {
    let mut session = settled_shop();
    session.set_snapshot(snapshot(&shop("1")));
    assert_eq!(pushes(&mut session), []);
}

#[test]
fn a_restart_with_agreeing_versions_sends_nothing() {
    let mut session = delta(&shop("1"));
    for request in [
        holding(subscribe(Cluster, &[]), &[("sms-v1", "1"), ("sms-v2", "1")]),
        holding(
            subscribe(Endpoint, &["sms-v1", "sms-v2"]),
            &[("sms-v1", "1"), ("sms-v2", "1")],
        ),
        holding(subscribe(Listener, &[]), &[("0.0.0.0_80", "1")]),
        holding(subscribe(Route, &["80"]), &[("80", "1")]),
    ] {
        session.on_delta(request).expect("few names");
    }
    assert_eq!(pushes(&mut session), []);
    assert!(session.status().iter().all(|kind| kind.is_synced));
}

#[test]
fn a_restart_sends_what_differs_and_takes_away_what_is_gone() {
    let mut session = delta(&[
        (Cluster, "a", "2"),
        (Cluster, "b", "1"),
        (Cluster, "new", "1"),
    ]);
    let held = [("a", "1"), ("b", "1"), ("old", "1")];
    session
        .on_delta(holding(subscribe(Cluster, &[]), &held))
        .expect("few names");
    let shapes: Vec<_> = accept_all(&mut session).iter().map(shape).collect();
    assert_eq!(
        shapes,
        [
            (Cluster, vec!["a@2".to_owned(), "new@1".to_owned()], vec![]),
            (Cluster, vec![], vec!["old".to_owned()]),
        ]
    );
}

#[test]
fn a_first_request_is_answered_even_if_there_is_nothing() {
    let mut session = delta(&[]);
    session
        .on_delta(subscribe(Cluster, &[]))
        .expect("few names");
    let all = pushes(&mut session);
    assert_eq!(
        all.iter().map(shape).collect::<Vec<_>>(),
        [(Cluster, vec![], vec![])]
    );
}

#[test]
fn a_name_that_does_not_exist_is_said_once_and_sent_when_it_does() {
    let mut session = delta(&[]);
    session
        .on_delta(subscribe(Endpoint, &["a", "b"]))
        .expect("few names");
    let first = accept_all(&mut session);
    assert_eq!(
        shape(&first[0]),
        (Endpoint, vec![], vec!["a".into(), "b".into()])
    );
    assert_eq!(first.len(), 1);
    session.set_snapshot(snapshot(&[(Endpoint, "b", "1")]));
    let second = accept_all(&mut session);
    assert_eq!(
        second.iter().map(shape).collect::<Vec<_>>(),
        [(Endpoint, vec!["b@1".into()], vec![])]
    );
}

#[test]
fn removals_come_last_and_in_reverse() {
    let mut session = settled_shop();
    let mut next = shop("2");
    next.retain(|(_, name, _)| *name != "sms-v1" && *name != "0.0.0.0_80");
    session.set_snapshot(snapshot(&next));
    let first = pushes(&mut session);
    assert_eq!(
        first.len(),
        1,
        "nothing is taken away before the new route is accepted"
    );
    assert_eq!(first[0].kind, Route);
    session
        .on_delta(answer(&first[0], None))
        .expect("few names");
    let removed: Vec<_> = accept_all(&mut session)
        .into_iter()
        .map(|push| (push.kind, push.removed))
        .collect();
    assert_eq!(
        removed,
        [
            (Listener, vec!["0.0.0.0_80".to_owned()]),
            (Endpoint, vec!["sms-v1".to_owned()]),
            (Cluster, vec!["sms-v1".to_owned()]),
        ]
    );
}

#[test]
fn a_refused_route_keeps_the_clusters_that_the_old_one_uses() {
    let mut session = settled_shop();
    let mut next = shop("2");
    next.retain(|(_, name, _)| *name != "sms-v1");
    session.set_snapshot(snapshot(&next));
    let push = session.next_push().expect("the route");
    let heard = session
        .on_delta(answer(&push, Some("80: bad regex")))
        .expect("few names");
    assert_eq!(heard, Heard::Refused(Route, "80: bad regex".to_owned()));
    assert_eq!(
        pushes(&mut session),
        [],
        "neither the route again nor a removal"
    );
    let status = session.status();
    let route = status
        .iter()
        .find(|kind| kind.kind == "rds")
        .expect("subscribed");
    assert_eq!(
        (route.refusal.as_deref(), route.is_synced),
        (Some("80: bad regex"), false)
    );
    next.retain(|(kind, ..)| *kind != Route);
    next.push((Route, "80", "3"));
    session.set_snapshot(snapshot(&next));
    let kinds: Vec<_> = accept_all(&mut session)
        .iter()
        .map(|push| push.kind)
        .collect();
    assert_eq!(
        kinds,
        [Route, Endpoint, Cluster],
        "once it is accepted they go"
    );
}

#[test]
fn a_changed_cluster_has_its_endpoints_sent_again() {
    let mut session = settled_shop();
    let mut next = shop("1");
    next[0].2 = "2";
    session.set_snapshot(snapshot(&next));
    let shapes: Vec<_> = accept_all(&mut session).iter().map(shape).collect();
    assert_eq!(
        shapes,
        [
            (Cluster, vec!["sms-v1@2".into()], vec![]),
            (Endpoint, vec!["sms-v1@1".into()], vec![])
        ]
    );
}

#[test]
fn a_name_subscribed_again_is_sent_again() {
    let mut session = settled_shop();
    session
        .on_delta(subscribe(Route, &["80"]))
        .expect("few names");
    assert_eq!(
        shape(&accept_all(&mut session)[0]),
        (Route, vec!["80@1".into()], vec![])
    );
}

#[test]
fn a_name_that_is_unsubscribed_is_neither_sent_nor_taken_away() {
    let mut session = settled_shop();
    let request = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["sms-v1".to_owned()],
        ..subscribe(Endpoint, &[])
    };
    session.on_delta(request).expect("few names");
    let mut next = shop("1");
    next.retain(|(kind, name, _)| (*kind, *name) != (Endpoint, "sms-v1"));
    session.set_snapshot(snapshot(&next));
    assert_eq!(pushes(&mut session), []);
}

#[test]
fn a_slow_node_skips_what_it_slept_through() {
    let mut session = settled_shop();
    for version in ["2", "3", "4"] {
        session.set_snapshot(snapshot(&shop(version)));
    }
    let all = accept_all(&mut session);
    assert_eq!(
        all.iter().map(shape).collect::<Vec<_>>(),
        [(Route, vec!["80@4".into()], vec![])]
    );
}

#[test]
fn a_node_that_answers_nothing_is_sent_a_bounded_number_of_pushes() {
    let mut session = settled_shop();
    let versions: Vec<String> = (2..100).map(|version: u32| version.to_string()).collect();
    let sent: usize = versions
        .iter()
        .map(|version| {
            session.set_snapshot(snapshot(&shop(version)));
            pushes(&mut session).len()
        })
        .sum();
    assert_eq!(sent, MAX_IN_FLIGHT);
}

#[test]
fn large_pushes_are_cut_in_several() {
    let body = vec![0_u8; 1024 * 1024];
    let big = (0..5).map(|index| {
        Arc::new(Resource {
            kind: Cluster,
            name: format!("c{index}"),
            version: "1".to_owned(),
            body: body.clone().into(),
            inputs: Vec::new(),
        })
    });
    let snapshot = Arc::new(ResourceSnapshot::of_resources(1, big, None));
    let mut session = Session::new(Variant::Delta, snapshot);
    session
        .on_delta(subscribe(Cluster, &[]))
        .expect("few names");
    let counts: Vec<_> = accept_all(&mut session)
        .iter()
        .map(|push| push.resources.len())
        .collect();
    assert_eq!(counts, [1, 1, 1, 1, 1]);
}

#[test]
fn nonsense_is_told_apart() {
    let mut session = settled_shop();
    let unknown = DeltaDiscoveryRequest {
        type_url: "nonsense".into(),
        ..Default::default()
    };
    assert_eq!(session.on_delta(unknown), Ok(Heard::UnknownType));
    let stale = DeltaDiscoveryRequest {
        response_nonce: "zz".into(),
        ..subscribe(Route, &[])
    };
    assert_eq!(session.on_delta(stale), Ok(Heard::Stale));
    let never = ResourceType::Secret;
    let foreign = DeltaDiscoveryRequest {
        response_nonce: "1".into(),
        ..subscribe(never, &[])
    };
    assert_eq!(
        session.on_delta(foreign),
        Ok(Heard::Stale),
        "an answer is no subscription"
    );
    assert_eq!(pushes(&mut session), []);
    let names: Vec<String> = (0..=MAX_NAMES).map(|index| index.to_string()).collect();
    let many = DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        ..subscribe(Route, &[])
    };
    assert_eq!(session.on_delta(many), Err(TooManyNames));
}

fn ask(kind: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: kind.url().to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

fn sotw_answer(push: &Push, names: &[&str], refusal: Option<&str>) -> DiscoveryRequest {
    DiscoveryRequest {
        response_nonce: push.nonce.clone(),
        version_info: push.version.clone(),
        error_detail: refusal.map(status),
        ..ask(push.kind, names)
    }
}

fn sotw(resources: &[Named<'_>]) -> Session {
    Session::new(Variant::Sotw, snapshot(resources))
}

#[test]
fn sotw_sends_the_whole_of_clusters_and_the_changed_of_endpoints() {
    let mut session = sotw(&shop("1"));
    session.on_sotw(ask(Cluster, &[])).expect("few names");
    session
        .on_sotw(ask(Endpoint, &["sms-v1", "sms-v2"]))
        .expect("few names");
    let first = pushes(&mut session);
    assert_eq!(
        first
            .iter()
            .map(|push| push.resources.len())
            .collect::<Vec<_>>(),
        [2, 2]
    );
    assert_eq!(
        session.on_sotw(sotw_answer(&first[0], &[], None)),
        Ok(Heard::Accepted(Cluster))
    );
    let names = ["sms-v1", "sms-v2"];
    assert_eq!(
        session.on_sotw(sotw_answer(&first[1], &names, None)),
        Ok(Heard::Accepted(Endpoint))
    );
    assert_eq!(pushes(&mut session), []);
    let mut next = shop("1");
    next[2].2 = "2";
    next.push((Cluster, "voice", "1"));
    session.set_snapshot(snapshot(&next));
    let shapes: Vec<_> = pushes(&mut session).iter().map(shape).collect();
    assert_eq!(shapes[0].1, ["sms-v1@1", "sms-v2@1", "voice@1"]);
    assert_eq!(shapes[1].1, ["sms-v1@2"]);
}

#[test]
fn sotw_keeps_a_removed_cluster_until_everything_else_is_accepted() {
    let mut session = sotw(&shop("1"));
    session.on_sotw(ask(Cluster, &[])).expect("few names");
    session.on_sotw(ask(Route, &["80"])).expect("few names");
    while let Some(push) = session.next_push() {
        let names: &[&str] = if push.kind == Route { &["80"] } else { &[] };
        session
            .on_sotw(sotw_answer(&push, names, None))
            .expect("few names");
    }
    let mut next = shop("2");
    next.retain(|(_, name, _)| *name != "sms-v1");
    next.push((Cluster, "voice", "1"));
    session.set_snapshot(snapshot(&next));
    let clusters = session.next_push().expect("the clusters");
    let told = ["sms-v1@1", "sms-v2@1", "voice@1"];
    assert_eq!(shape(&clusters).1, told, "the old one is still there");
    session
        .on_sotw(sotw_answer(&clusters, &[], None))
        .expect("few names");
    let route = session.next_push().expect("the route");
    assert_eq!(shape(&route).1, ["80@2"]);
    assert_eq!(pushes(&mut session), []);
    session
        .on_sotw(sotw_answer(&route, &["80"], None))
        .expect("few names");
    let last = pushes(&mut session);
    assert_eq!(
        last.iter().map(shape).collect::<Vec<_>>()[0].1,
        ["sms-v2@1", "voice@1"]
    );
    assert_eq!(last.len(), 1);
    session
        .on_sotw(sotw_answer(&last[0], &[], None))
        .expect("few names");
    assert_eq!(pushes(&mut session), []);

    let mut again = Session::new(Variant::Sotw, snapshot(&next));
    let version = last[0].version.clone();
    again
        .on_sotw(DiscoveryRequest {
            version_info: version,
            ..ask(Cluster, &[])
        })
        .expect("few");
    assert_eq!(
        pushes(&mut again),
        [],
        "a restart with the agreeing version sends nothing"
    );
}

#[test]
fn sotw_a_stale_nonce_changes_nothing_and_new_names_are_served() {
    let mut session = sotw(&shop("1"));
    session
        .on_sotw(ask(Endpoint, &["sms-v1"]))
        .expect("few names");
    let first = pushes(&mut session);
    let both = ["sms-v1", "sms-v2"];
    let stale = DiscoveryRequest {
        response_nonce: "zz".into(),
        ..ask(Endpoint, &both)
    };
    assert_eq!(session.on_sotw(stale), Ok(Heard::Stale));
    assert_eq!(pushes(&mut session), []);
    session
        .on_sotw(sotw_answer(&first[0], &both, None))
        .expect("few names");
    let second = pushes(&mut session);
    assert_eq!(shape(&second[0]).1, ["sms-v2@1"]);
    let fewer = sotw_answer(&second[0], &["sms-v2"], None);
    assert_eq!(session.on_sotw(fewer), Ok(Heard::Accepted(Endpoint)));
    assert_eq!(pushes(&mut session), []);
}

#[test]
fn sotw_a_refusal_is_recorded_and_not_answered_by_the_same_again() {
    let mut session = sotw(&shop("1"));
    session.on_sotw(ask(Cluster, &[])).expect("few names");
    let first = pushes(&mut session);
    let heard = session
        .on_sotw(sotw_answer(&first[0], &[], Some("sms-v1: no")))
        .expect("few");
    assert_eq!(heard, Heard::Refused(Cluster, "sms-v1: no".to_owned()));
    assert_eq!(pushes(&mut session), []);
    let mut next = shop("1");
    next[0].2 = "2";
    session.set_snapshot(snapshot(&next));
    let second = pushes(&mut session);
    session
        .on_sotw(sotw_answer(&second[0], &[], None))
        .expect("few names");
    assert_eq!(session.status()[0].refusal, None);
}

/// A node that keeps what it is told ends up with exactly what it wants of the newest snapshot,
/// whatever came in between; one that refuses never loses a cluster that its routes may use.
#[test]
fn any_history_ends_with_the_newest_snapshot() {
    for seed in 0..300_u64 {
        let mut rng = SplitMix(seed);
        let mut session = delta(&[]);
        session
            .on_delta(subscribe(Cluster, &[]))
            .expect("few names");
        session
            .on_delta(subscribe(Endpoint, &["a", "b", "zz"]))
            .expect("few names");
        session
            .on_delta(subscribe(Route, &["a"]))
            .expect("few names");
        let mut held: BTreeMap<(ResourceType, String), String> = BTreeMap::new();
        let mut unanswered: Vec<Push> = Vec::new();
        let mut newest = Vec::new();
        for _ in 0..60 {
            match rng.below(4) {
                0 => {
                    newest = random_world(&mut rng);
                    let named: Vec<Named<'_>> = newest
                        .iter()
                        .map(|(kind, name, version)| (*kind, *name, version.as_str()))
                        .collect();
                    session.set_snapshot(snapshot(&named));
                }
                1 | 2 => {
                    if let Some(push) = session.next_push() {
                        apply(&mut held, &push);
                        unanswered.push(push);
                    }
                }
                _ => {
                    if !unanswered.is_empty() {
                        let push = unanswered.remove(0);
                        session.on_delta(answer(&push, None)).expect("few names");
                    }
                }
            }
        }
        for push in unanswered {
            session.on_delta(answer(&push, None)).expect("few names");
        }
        for push in accept_all(&mut session) {
            apply(&mut held, &push);
        }
        let named = |kind: ResourceType, name: &str| match kind {
            Cluster => true,
            Endpoint => ["a", "b", "zz"].contains(&name),
            Route => name == "a",
            _ => false,
        };
        let wanted: BTreeSet<_> = newest
            .iter()
            .filter(|(kind, name, _)| named(*kind, name))
            .map(|(kind, name, version)| ((*kind, (*name).to_owned()), version.clone()))
            .collect();
        assert_eq!(
            held.into_iter().collect::<BTreeSet<_>>(),
            wanted,
            "seed {seed}"
        );
    }
}

fn apply(held: &mut BTreeMap<(ResourceType, String), String>, push: &Push) {
    for resource in &push.resources {
        held.insert((push.kind, resource.name.clone()), resource.version.clone());
    }
    for name in &push.removed {
        held.remove(&(push.kind, name.clone()));
    }
}

fn random_world(rng: &mut SplitMix) -> Vec<(ResourceType, &'static str, String)> {
    let mut world = Vec::new();
    for kind in [Cluster, Endpoint, Listener, Route] {
        for name in ["a", "b", "c"] {
            if rng.below(3) > 0 {
                world.push((kind, name, rng.below(3).to_string()));
            }
        }
    }
    world
}

/// A small seeded generator.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
