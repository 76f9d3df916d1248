// SPDX-License-Identifier: Apache-2.0
use super::*;

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

fn session(mode: Mode) -> Session {
    Session::new(mode, BTreeMap::new())
}

fn resource(name: &str, version: &str) -> PushedResource {
    PushedResource {
        name: Some(name.to_owned()),
        version: version.to_owned(),
        type_url: CDS.to_owned(),
        body: Some(Bytes::from_static(b"body")),
    }
}

fn push(nonce: &str, resources: &[(&str, &str)], removed: &[&str]) -> Push {
    Push {
        type_url: CDS.to_owned(),
        nonce: nonce.to_owned(),
        version: resources
            .first()
            .map_or_else(String::new, |(_, version)| (*version).to_owned()),
        resources: resources
            .iter()
            .map(|(name, version)| resource(name, version))
            .collect(),
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Endpoint resources: the same, of another type.
fn endpoint_push(nonce: &str, resources: &[(&str, &str)], removed: &[&str]) -> Push {
    let mut push = push(nonce, resources, removed);
    EDS.clone_into(&mut push.type_url);
    for resource in &mut push.resources {
        EDS.clone_into(&mut resource.type_url);
    }
    push
}

fn reject(names: &[&str]) -> Verdict {
    let fault = |name: &&str| Rejection {
        name: (*name).to_owned(),
        reason: "bad".to_owned(),
    };
    Verdict {
        rejected: names.iter().map(fault).collect(),
    }
}

fn drain(session: &mut Session) -> Vec<Request> {
    let mut requests = Vec::new();
    while let Some(request) = session.next_request() {
        requests.push(request);
        assert!(requests.len() < 100, "the session never falls silent");
    }
    assert!(!session.has_request());
    requests
}

fn names(delivery: &Delivery) -> Vec<&str> {
    delivery.added.iter().map(|one| one.name.as_str()).collect()
}

fn held(session: &mut Session, type_url: &str) -> Vec<(String, String)> {
    session
        .find_mut(type_url)
        .expect("subscribed")
        .versions
        .clone()
        .into_iter()
        .collect()
}

fn pairs(versions: &[(&str, &str)]) -> Vec<(String, String)> {
    versions
        .iter()
        .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
        .collect()
}

#[test]
fn a_stream_begins_with_the_node_and_one_request_per_type_in_order() {
    let mut session = session(Mode::Delta);
    session.set_interest(CDS, Interest::wildcard());
    session.set_interest(EDS, Interest::names(["b", "a"]));
    assert!(session.next_request().is_none(), "there is no stream yet");
    session.on_stream_open();
    let requests = drain(&mut session);
    let told: Vec<_> = requests
        .iter()
        .map(|one| (one.is_first, one.type_url.as_str(), one.subscribe.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (true, CDS, vec![]),
            (false, EDS, vec!["a".to_owned(), "b".to_owned()])
        ],
        "a wildcard alone is an empty list"
    );
}

#[test]
fn a_type_without_interest_is_never_asked_for() {
    let mut session = session(Mode::Delta);
    session.set_interest(EDS, Interest::default());
    session.on_stream_open();
    assert_eq!(drain(&mut session), [], "an empty list would be a wildcard");
}

#[test]
fn a_delta_is_acknowledged_by_its_nonce_and_its_versions_are_kept() {
    let mut session = session(Mode::Delta);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    let delivery = session
        .on_push(push("n1", &[("a", "1"), ("b", "1")], &["gone"]))
        .expect("asked");
    assert_eq!(names(&delivery), ["a", "b"]);
    assert_eq!(delivery.removed, ["gone"]);
    assert!(
        drain(&mut session).is_empty(),
        "nothing is sent before the verdict"
    );
    assert!(session.on_verdict(delivery.number, Verdict::accepted()));
    let requests = drain(&mut session);
    let expected = Request {
        type_url: CDS.to_owned(),
        nonce: "n1".to_owned(),
        version: "1".to_owned(),
        interest: Interest::wildcard(),
        ..Request::default()
    };
    assert_eq!(requests, [expected]);
    assert_eq!(held(&mut session, CDS), pairs(&[("a", "1"), ("b", "1")]));
}

#[test]
fn a_rejected_resource_keeps_its_old_version_and_its_siblings_take_the_new() {
    let mut session = session(Mode::Delta);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    let first = session
        .on_push(push("n1", &[("a", "1"), ("b", "1")], &[]))
        .expect("asked");
    session.on_verdict(first.number, Verdict::accepted());
    drain(&mut session);
    let second = session
        .on_push(push("n2", &[("a", "2"), ("b", "2")], &[]))
        .expect("asked");
    assert!(!session.on_verdict(second.number, reject(&["b"])));
    let requests = drain(&mut session);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].nonce, "n2");
    let refusal = requests[0].refusal.as_ref().expect("a NACK");
    assert_eq!(
        (refusal.origin, refusal.message.as_str()),
        (Origin::Resource, "b: bad")
    );
    assert_eq!(held(&mut session, CDS), pairs(&[("a", "2"), ("b", "1")]));
}

#[test]
fn a_dropped_update_is_a_nack_and_counts_for_nothing() {
    let mut session = session(Mode::Delta);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    let delivery = session
        .on_push(push("n1", &[("a", "1")], &[]))
        .expect("asked");
    session.on_unanswered(delivery.number);
    let requests = drain(&mut session);
    let refusal = requests[0].refusal.as_ref().expect("a NACK");
    assert_eq!(refusal.origin, Origin::Consumer);
    assert_eq!(held(&mut session, CDS), []);
    assert_eq!(session.unanswered(), 0);
}

#[test]
fn a_reconnect_tells_the_accepted_versions_and_owes_the_old_stream_nothing() {
    let mut session = session(Mode::Delta);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    let accepted = session
        .on_push(push("n1", &[("a", "1")], &[]))
        .expect("asked");
    session.on_verdict(accepted.number, Verdict::accepted());
    let open = session
        .on_push(push("n2", &[("b", "1")], &[]))
        .expect("asked");
    session.on_stream_closed();
    assert!(!session.has_request());
    session.on_stream_open();
    let requests = drain(&mut session);
    assert_eq!(requests.len(), 1, "the ACK of the old stream is void");
    assert!(requests[0].is_first);
    assert_eq!(requests[0].nonce, "");
    assert_eq!(
        requests[0]
            .initial_versions
            .clone()
            .into_iter()
            .collect::<Vec<_>>(),
        pairs(&[("a", "1")])
    );
    session.on_verdict(open.number, Verdict::accepted());
    assert!(
        drain(&mut session).is_empty(),
        "a verdict on an old stream's update is not sent"
    );
    assert_eq!(
        held(&mut session, CDS),
        pairs(&[("a", "1"), ("b", "1")]),
        "but it is remembered"
    );
}

#[test]
fn initial_versions_are_told_for_what_is_of_interest_only() {
    let versions = |names: &[(&str, &str)]| pairs(names).into_iter().collect();
    let initial = BTreeMap::from([(EDS.to_owned(), versions(&[("a", "1"), ("old", "1")]))]);
    let mut session = Session::new(Mode::Delta, initial);
    session.set_interest(EDS, Interest::names(["a", "new"]));
    session.on_stream_open();
    let requests = drain(&mut session);
    assert_eq!(requests[0].initial_versions, versions(&[("a", "1")]));
    assert_eq!(requests[0].subscribe, ["a", "new"]);
}

#[test]
fn a_change_of_interest_sends_the_difference_and_forgets_versions() {
    let mut session = session(Mode::Delta);
    session.set_interest(EDS, Interest::names(["a", "b"]));
    session.on_stream_open();
    drain(&mut session);
    let delivery = session
        .on_push(endpoint_push("n1", &[("a", "1"), ("b", "1")], &[]))
        .expect("asked");
    session.on_verdict(delivery.number, Verdict::accepted());
    drain(&mut session);
    session.set_interest(EDS, Interest::names(["b", "c"]));
    let requests = drain(&mut session);
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (&*requests[0].nonce, requests[0].refusal.is_none()),
        ("", true)
    );
    assert_eq!(requests[0].subscribe, ["c"]);
    assert_eq!(requests[0].unsubscribe, ["a"]);
    assert_eq!(held(&mut session, EDS), pairs(&[("b", "1")]));
    session.set_interest(EDS, Interest::names(["b", "c", "d"]));
    session.set_interest(EDS, Interest::names(["b", "c"]));
    assert!(
        drain(&mut session).is_empty(),
        "a change that was taken back is not sent"
    );
}

#[test]
fn a_resource_that_crossed_its_unsubscription_is_left_out_and_still_acknowledged() {
    let mut session = session(Mode::Delta);
    session.set_interest(EDS, Interest::names(["a", "b"]));
    session.on_stream_open();
    drain(&mut session);
    session.set_interest(EDS, Interest::names(["a"]));
    drain(&mut session);
    let delivery = session
        .on_push(endpoint_push("n1", &[("a", "1"), ("b", "1")], &["b", "x"]))
        .expect("asked");
    assert_eq!((names(&delivery), delivery.removed.len()), (vec!["a"], 0));
    session.on_verdict(delivery.number, Verdict::accepted());
    assert_eq!(drain(&mut session)[0].nonce, "n1");
}

#[test]
fn a_named_resource_that_does_not_exist_is_told_to_the_consumer() {
    let mut session = session(Mode::Delta);
    session.set_interest(EDS, Interest::names(["a"]));
    session.on_stream_open();
    drain(&mut session);
    let delivery = session
        .on_push(endpoint_push("n1", &[], &["a", "a"]))
        .expect("asked");
    assert_eq!(delivery.removed, ["a"]);
}

#[test]
fn responses_about_types_nobody_asked_for_are_ignored() {
    let mut session = session(Mode::Delta);
    session.set_interest(EDS, Interest::names(["a"]));
    session.on_stream_open();
    assert_eq!(
        session.on_push(endpoint_push("early", &[("a", "1")], &[])),
        None
    );
    drain(&mut session);
    for type_url in [CDS, "", "type.googleapis.com/nonsense"] {
        let push = Push {
            type_url: type_url.to_owned(),
            ..push("n", &[("a", "1")], &[])
        };
        assert_eq!(session.on_push(push), None, "{type_url}");
    }
    assert!(
        drain(&mut session).is_empty(),
        "an answer might be taken for a subscription"
    );
    assert_eq!(session.unanswered(), 0);
}

#[test]
fn faults_that_need_no_meaning_are_found_here() {
    let mut session = session(Mode::Delta);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    let mut push = push("n1", &[("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")], &[]);
    push.resources[2].type_url = EDS.to_owned();
    push.resources.push(PushedResource {
        name: None,
        ..resource("", "1")
    });
    let delivery = session.on_push(push).expect("asked");
    assert_eq!(
        names(&delivery),
        ["a", "c"],
        "the first of two, and the good ones"
    );
    assert!(!session.on_verdict(delivery.number, Verdict::accepted()));
    let message = drain(&mut session)
        .remove(0)
        .refusal
        .expect("a NACK")
        .message;
    assert_eq!(
        message,
        format!(
            "a: is in the response twice; b: is of type `{EDS}`, expected `{CDS}`; \
             resources[4]: has no name"
        )
    );
    assert_eq!(held(&mut session, CDS), pairs(&[("c", "1")]));
}

#[test]
fn a_sign_of_life_is_acknowledged_and_changes_nothing() {
    let mut session = session(Mode::Delta);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    let mut push = push("n1", &[("a", "1")], &[]);
    push.resources[0].body = None;
    let delivery = session.on_push(push).expect("asked");
    assert!(delivery.added.is_empty() && delivery.removed.is_empty());
    assert!(session.on_verdict(delivery.number, Verdict::accepted()));
    assert_eq!(held(&mut session, CDS), []);
}

#[test]
fn repeated_nonces_are_answered_each() {
    let mut session = session(Mode::Delta);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    for version in ["1", "2"] {
        let delivery = session
            .on_push(push("same", &[("a", version)], &[]))
            .expect("asked");
        session.on_verdict(delivery.number, Verdict::accepted());
        assert_eq!(drain(&mut session).len(), 1);
    }
    assert_eq!(held(&mut session, CDS), pairs(&[("a", "2")]));
    assert!(
        session.on_verdict(99, reject(&["a"])),
        "an unknown delivery changes nothing"
    );
}

#[test]
fn a_removal_that_overtakes_its_additions_verdict_is_delivered() {
    let mut session = session(Mode::Delta);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    let added = session
        .on_push(push("n1", &[("a", "1")], &[]))
        .expect("asked");
    let removed = session.on_push(push("n2", &[], &["a"])).expect("asked");
    assert_eq!(removed.removed, ["a"]);
    session.on_verdict(added.number, Verdict::accepted());
    session.on_verdict(removed.number, Verdict::accepted());
    assert_eq!(held(&mut session, CDS), []);
}

#[test]
fn sotw_repeats_names_version_and_nonce() {
    let mut session = session(Mode::Sotw);
    session.set_interest(EDS, Interest::names(["a"]));
    session.on_stream_open();
    drain(&mut session);
    let delivery = session
        .on_push(endpoint_push("n1", &[("a", "v1")], &[]))
        .expect("asked");
    session.on_verdict(delivery.number, Verdict::accepted());
    let ack = drain(&mut session).remove(0);
    assert_eq!((ack.version.as_str(), ack.nonce.as_str()), ("v1", "n1"));
    assert_eq!(ack.interest, Interest::names(["a"]));
    session.set_interest(EDS, Interest::names(["a", "b"]));
    let change = drain(&mut session).remove(0);
    assert_eq!(
        (change.version.as_str(), change.nonce.as_str()),
        ("v1", "n1")
    );
    assert_eq!(change.interest, Interest::names(["a", "b"]));
}

#[test]
fn sotw_nack_keeps_the_last_accepted_version() {
    let mut session = session(Mode::Sotw);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    let good = session
        .on_push(push("n1", &[("a", "v1")], &[]))
        .expect("asked");
    session.on_verdict(good.number, Verdict::accepted());
    drain(&mut session);
    let bad = session
        .on_push(push("n2", &[("a", "v2"), ("b", "v2")], &[]))
        .expect("asked");
    session.on_verdict(bad.number, reject(&["b"]));
    let nack = drain(&mut session).remove(0);
    assert_eq!((nack.version.as_str(), nack.nonce.as_str()), ("v1", "n2"));
    assert!(nack.refusal.is_some());
    assert_eq!(held(&mut session, CDS), pairs(&[("a", "v2")]));
}

#[test]
fn sotw_wildcard_removes_what_a_response_does_not_mention() {
    let mut session = session(Mode::Sotw);
    session.set_interest(CDS, Interest::wildcard());
    session.on_stream_open();
    drain(&mut session);
    let first = session
        .on_push(push("n1", &[("a", "1"), ("b", "1")], &[]))
        .expect("asked");
    let second = session
        .on_push(push("n2", &[("a", "2")], &[]))
        .expect("asked");
    assert_eq!(
        second.removed,
        ["b"],
        "known from an update that is not answered yet"
    );
    session.on_verdict(first.number, Verdict::accepted());
    assert!(drain(&mut session).is_empty(), "its nonce is stale");
    session.on_verdict(second.number, Verdict::accepted());
    assert_eq!(drain(&mut session).len(), 1);
    let mut nameless = push("n3", &[("x", "3")], &[]);
    nameless.resources[0].name = None;
    let third = session.on_push(nameless).expect("asked");
    assert!(third.removed.is_empty(), "the nameless one may be `a`");
}

#[test]
fn sotw_named_resources_stay_when_a_response_does_not_mention_them() {
    let mut session = session(Mode::Sotw);
    session.set_interest(EDS, Interest::names(["a", "b"]));
    session.on_stream_open();
    drain(&mut session);
    let first = session
        .on_push(endpoint_push("n1", &[("a", "1"), ("b", "1")], &[]))
        .expect("asked");
    session.on_verdict(first.number, Verdict::accepted());
    let second = session
        .on_push(endpoint_push("n2", &[("a", "2")], &[]))
        .expect("asked");
    assert!(second.removed.is_empty());
}

#[test]
fn sotw_reconnects_with_the_last_version_and_an_empty_nonce() {
    let held = BTreeMap::from([
        ("a".to_owned(), "v7".to_owned()),
        ("b".to_owned(), "v7".to_owned()),
    ]);
    let mut session = Session::new(Mode::Sotw, BTreeMap::from([(CDS.to_owned(), held)]));
    session.set_interest(CDS, Interest::wildcard());
    for _ in 0..2 {
        session.on_stream_open();
        let first = drain(&mut session).remove(0);
        assert_eq!((first.version.as_str(), first.nonce.as_str()), ("v7", ""));
        assert!(first.is_first);
    }
    let push = push("n1", &[("a", "v8")], &[]);
    assert_eq!(
        session.on_push(push).expect("asked").removed,
        ["b"],
        "held since an earlier life"
    );
}

/// Whatever the control plane, the consumer and the network do in whatever order, the session
/// falls silent when it is left alone, owes nothing to dead streams and forgets what it settled.
#[test]
fn invariants_hold_for_any_sequence_of_events() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mode = if rng.bool() { Mode::Delta } else { Mode::Sotw };
        let mut session = session(mode);
        let mut open = Vec::new();
        for step in 0..200 {
            match rng.u8(..8) {
                0 => session.on_stream_open(),
                1 if rng.u8(..4) == 0 => session.on_stream_closed(),
                2 => {
                    let names = ["a", "b", "c", "*"].into_iter().filter(|_| rng.bool());
                    session.set_interest(CDS, Interest::names(names.collect::<Vec<_>>()));
                }
                3 | 4 => {
                    let names: Vec<_> = ["a", "b", "c", "d"]
                        .into_iter()
                        .filter(|_| rng.bool())
                        .collect();
                    let version = rng.u8(..9).to_string();
                    let resources: Vec<_> =
                        names.iter().map(|name| (*name, version.as_str())).collect();
                    let nonce = rng.u8(..4).to_string();
                    let removed: &[&str] = if rng.bool() { &["b", "d"] } else { &[] };
                    open.extend(
                        session
                            .on_push(push(&nonce, &resources, removed))
                            .map(|one| one.number),
                    );
                }
                5 | 6 if !open.is_empty() => {
                    let number = open.swap_remove(rng.usize(..open.len()));
                    match rng.u8(..3) {
                        0 => session.on_unanswered(number),
                        1 => drop(session.on_verdict(number, reject(&["a", "zz"]))),
                        _ => drop(session.on_verdict(number, Verdict::accepted())),
                    }
                }
                _ => drop(drain(&mut session)),
            }
            let place = format!("seed {seed}, step {step}");
            assert_eq!(session.unanswered(), open.len(), "{place}");
            assert!(session.is_open || !session.has_request(), "{place}");
            for subscription in &session.subscriptions {
                let interest = &subscription.interest;
                assert!(
                    subscription
                        .versions
                        .keys()
                        .all(|name| interest.contains(name)),
                    "{place}"
                );
            }
        }
    }
}
