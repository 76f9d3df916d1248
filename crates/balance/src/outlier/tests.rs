// SPDX-License-Identifier: Apache-2.0

use std::num::NonZeroU32;

use remora_ir::cluster::Policy;

use super::*;
use crate::fixture::{at, balancing, cluster, percent, strict, weighted};
use crate::hosts::HostSet;

const FAILED: Outcome = Outcome::Status(500);
const BAD: Outcome = Outcome::Status(502);
const RESET: Outcome = Outcome::LocalOriginFailure(LocalOriginFailure::Reset);
const TIMEOUT: Outcome = Outcome::LocalOriginFailure(LocalOriginFailure::Timeout);
const REFUSED: Outcome = Outcome::LocalOriginFailure(LocalOriginFailure::ConnectFailed);
const OK: Outcome = Outcome::Status(200);

fn hosts(count: usize) -> HostSet {
    HostSet::build(
        &cluster(),
        &balancing(Policy::RoundRobin),
        &weighted(&vec![1; count]),
    )
}

fn after(threshold: u32) -> Option<ErrorsInARow> {
    Some(ErrorsInARow {
        threshold: NonZeroU32::new(threshold).expect("positive"),
        enforcing: 100,
    })
}

/// Reports the outcomes for one host; tells which detector ejected it, if any.
fn report(host: &HostRecord, outcomes: &[Outcome], policy: &OutlierPolicy) -> Option<EjectionKind> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut ejections = outcomes
        .iter()
        .filter_map(|o| host.on_result(*o, policy, at(0), &mut rng));
    let first = ejections.next().map(|ejection| ejection.kind);
    assert_eq!(ejections.next(), None, "ejected twice");
    first
}

type Case<'a> = (&'a str, &'a [Outcome], Option<EjectionKind>);

fn check(policy: &OutlierPolicy, table: &[Case<'_>]) {
    for (name, outcomes, expected) in table {
        let set = hosts(1);
        assert_eq!(
            report(&set.hosts()[0].record, outcomes, policy),
            *expected,
            "{name}"
        );
    }
}

#[test]
fn answers_and_local_failures_count_as_5xx_in_a_row() {
    let trips = Some(EjectionKind::Consecutive5xx);
    let policy = OutlierPolicy {
        consecutive_5xx: after(3),
        ..strict()
    };
    let table: &[Case<'_>] = &[
        ("5xx in a row", &[FAILED, BAD, Outcome::Status(599)], trips),
        ("too few", &[FAILED, FAILED], None),
        (
            "a success starts over",
            &[FAILED, FAILED, OK, FAILED, FAILED],
            None,
        ),
        (
            "4xx is a success",
            &[FAILED, FAILED, Outcome::Status(499), FAILED],
            None,
        ),
        (
            "600 is no 5xx",
            &[FAILED, FAILED, Outcome::Status(600), FAILED],
            None,
        ),
        ("local failures", &[REFUSED, RESET, TIMEOUT], trips),
        (
            "a relayed connection succeeds",
            &[RESET, RESET, Outcome::Connected, RESET],
            None,
        ),
    ];
    check(&policy, table);
}

#[test]
fn gateway_failures_count_apart_and_are_named_first() {
    let trips = Some(EjectionKind::ConsecutiveGateway);
    let policy = OutlierPolicy {
        consecutive_5xx: None,
        consecutive_gateway: after(3),
        ..strict()
    };
    let table: &[Case<'_>] = &[
        (
            "502, 503, 504",
            &[BAD, Outcome::Status(503), TIMEOUT],
            trips,
        ),
        ("500 starts over", &[BAD, BAD, FAILED, BAD, BAD], None),
    ];
    check(&policy, table);
    let policy = OutlierPolicy {
        consecutive_5xx: after(3),
        ..policy
    };
    let table: &[Case<'_>] = &[
        ("both due", &[BAD, BAD, BAD], trips),
        (
            "only 5xx due",
            &[BAD, BAD, FAILED],
            Some(EjectionKind::Consecutive5xx),
        ),
    ];
    check(&policy, table);
}

#[test]
fn split_local_failures_leave_answers_alone() {
    let trips = Some(EjectionKind::ConsecutiveLocalOrigin);
    let trips_5xx = Some(EjectionKind::Consecutive5xx);
    let policy = OutlierPolicy {
        consecutive_5xx: after(3),
        consecutive_local_origin: after(3),
        split_external: true,
        ..strict()
    };
    let table: &[Case<'_>] = &[
        ("local failures in a row", &[RESET, TIMEOUT, REFUSED], trips),
        ("two of each", &[FAILED, FAILED, RESET, RESET], None),
        (
            "between answers",
            &[FAILED, RESET, FAILED, FAILED],
            trips_5xx,
        ),
        (
            "an answer is a connection",
            &[RESET, RESET, FAILED, RESET],
            None,
        ),
        (
            "a connection starts over",
            &[RESET, RESET, Outcome::Connected, RESET],
            None,
        ),
        (
            "a connection is no answer",
            &[FAILED, FAILED, Outcome::Connected, FAILED],
            trips_5xx,
        ),
    ];
    check(&policy, table);
}

#[test]
fn no_more_hosts_are_ejected_than_the_share_allows() {
    // hosts, max percent, always one, ejected
    let table = [
        (3, 10.0, false, 0),
        (3, 10.0, true, 1),
        (10, 10.0, false, 1),
        (10, 9.9, false, 0),
        (3, 33.0, false, 0),
        (3, 34.0, false, 1),
        (3, 100.0, false, 3),
        (4, 50.0, true, 2),
        (4, 0.0, true, 1),
        (4, 0.0, false, 0),
    ];
    for (count, max, always_one, expected) in table {
        let set = hosts(count);
        let policy = OutlierPolicy {
            max_ejected: percent(max),
            always_one,
            ..strict()
        };
        for host in set.hosts() {
            let _ = report(&host.record, &[FAILED; 5], &policy);
        }
        let counts = set.cluster().outlier().counts();
        assert_eq!(
            counts.active, expected,
            "{count} hosts at {max} %, always one: {always_one}"
        );
        let missed = u64::try_from(count).expect("small") - u64::from(expected);
        assert_eq!(
            counts.overflow, missed,
            "each run beyond the share overflows once"
        );
        assert_eq!(
            counts.detected,
            [u64::try_from(count).expect("small"), 0, 0]
        );
        assert_eq!(counts.enforced, [u64::from(expected), 0, 0]);
    }
}

#[test]
fn a_host_returns_at_the_first_sweep_after_its_time_with_a_clean_sheet() {
    let set = hosts(2);
    let (cluster, host) = (set.cluster(), &set.hosts()[0].record);
    let policy = OutlierPolicy {
        consecutive_gateway: after(7),
        ..strict()
    };
    assert!(report(host, &[Outcome::Status(503); 6], &policy).is_some());
    assert_eq!(host.ejected_until(), Some(at(30)));
    let epoch = cluster.outlier().epoch();
    assert!(cluster.sweep(Some(&policy), at(29)).is_empty());
    assert!(host.is_ejected());
    let returned = cluster.sweep(Some(&policy), at(30));
    assert!(matches!(returned.as_slice(), [one] if Arc::ptr_eq(one, host)));
    assert!(!host.is_ejected());
    assert_ne!(cluster.outlier().epoch(), epoch);
    assert_eq!(cluster.outlier().counts().active, 0);
    assert_eq!(
        report(host, &[Outcome::Status(503); 4], &policy),
        None,
        "counters start over"
    );
}

#[test]
fn ejections_grow_longer_up_to_the_longest_and_shrink_while_the_host_stays() {
    let set = hosts(1);
    let (cluster, host) = (set.cluster(), &set.hosts()[0].record);
    let policy = OutlierPolicy {
        max_ejection: Duration::from_secs(100),
        ..strict()
    };
    let mut now = at(1);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut eject = |now| {
        let all = (0..5).filter_map(|_| host.on_result(FAILED, &policy, now, &mut rng));
        all.last().expect("ejected").duration.as_secs()
    };
    let mut lengths = Vec::new();
    for _ in 0..6 {
        lengths.push(eject(now));
        now = host.ejected_until().expect("ejected");
        assert_eq!(cluster.sweep(Some(&policy), now).len(), 1);
    }
    assert_eq!(lengths, [30, 60, 90, 100, 100, 100]);
    for _ in 0..4 {
        let _ = cluster.sweep(Some(&policy), now);
    }
    assert_eq!(eject(now), 60, "five decayed to one");
}

#[test]
fn jitter_and_enforcement_follow_the_generator() {
    let jittered = OutlierPolicy {
        ejection_jitter: Duration::from_secs(10),
        consecutive_5xx: after(1),
        ..strict()
    };
    let half = Some(ErrorsInARow {
        threshold: NonZeroU32::MIN,
        enforcing: 50,
    });
    let half = OutlierPolicy {
        consecutive_5xx: half,
        ..strict()
    };
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut lengths, mut enforced) = (Vec::new(), 0);
    for _ in 0..1000 {
        let set = hosts(1);
        let ejection = set.hosts()[0]
            .record
            .on_result(FAILED, &jittered, at(0), &mut rng);
        lengths.push(ejection.expect("ejected").duration);
        let set = hosts(1);
        enforced += u32::from(
            set.hosts()[0]
                .record
                .on_result(FAILED, &half, at(0), &mut rng)
                .is_some(),
        );
        assert_eq!(set.cluster().outlier().counts().detected, [1, 0, 0]);
    }
    let bounds = Duration::from_secs(30)..=Duration::from_secs(40);
    assert!(lengths.iter().all(|length| bounds.contains(length)));
    assert!(
        lengths
            .iter()
            .any(|length| *length < Duration::from_secs(31))
    );
    assert!(
        lengths
            .iter()
            .any(|length| *length > Duration::from_secs(39))
    );
    assert!((420..580).contains(&enforced), "{enforced} of 1000 at 50 %");
}

#[test]
fn hosts_that_leave_no_longer_count_and_come_back_well() {
    let set = hosts(4);
    let cluster = Arc::clone(set.cluster());
    let half = OutlierPolicy {
        max_ejected: percent(50.0),
        ..strict()
    };
    for host in &set.hosts()[2..] {
        assert!(report(&host.record, &[FAILED; 5], &half).is_some());
    }
    let held = Arc::clone(&set.hosts()[3].record);
    let fewer = HostSet::build(&cluster, &balancing(Policy::RoundRobin), &weighted(&[1, 1]));
    assert_eq!(cluster.outlier().counts().active, 0);
    assert!(
        report(&fewer.hosts()[0].record, &[FAILED; 5], &half).is_some(),
        "half of two"
    );
    assert!(report(&fewer.hosts()[1].record, &[FAILED; 5], &half).is_none());
    // A request that was under way to a removed host ends badly five times: the record's end
    // gives its place back.
    let all = OutlierPolicy {
        max_ejected: percent(100.0),
        ..half
    };
    assert!(report(&held, &[FAILED; 5], &all).is_some());
    assert_eq!(cluster.outlier().counts().active, 2);
    drop((set, held));
    assert_eq!(cluster.outlier().counts().active, 1);
}

#[test]
fn an_update_keeps_ejections_and_without_a_policy_all_return() {
    let set = hosts(2);
    let cluster = Arc::clone(set.cluster());
    assert!(report(&set.hosts()[0].record, &[FAILED; 5], &strict()).is_some());
    let again = HostSet::build(&cluster, &balancing(Policy::Random), &weighted(&[3, 1, 1]));
    assert!(again.hosts()[0].record.is_ejected());
    assert_eq!(cluster.outlier().counts().active, 1);
    assert_eq!(cluster.sweep(None, at(0)).len(), 1);
    assert_eq!(cluster.outlier().counts().active, 0);
}

/// What the loser of a race meets: its look at the share, or at the host, was too early.
#[test]
fn a_late_ejection_finds_the_share_used_up_or_the_host_gone_and_takes_nothing() {
    let set = hosts(10);
    let policy = OutlierPolicy {
        max_ejected: percent(30.0),
        ..strict()
    };
    let mut rng = fastrand::Rng::with_seed(1);
    let mut late = |host: usize| {
        let judge = Judge {
            host: &set.hosts()[host].record,
            policy: &policy,
            now: at(0),
        };
        let ejected = judge
            .eject(EjectionKind::Consecutive5xx, &mut rng)
            .is_some();
        let counts = set.cluster().outlier().counts();
        (ejected, counts.active, counts.overflow)
    };
    assert_eq!(late(0), (true, 1, 0));
    assert_eq!(late(0), (false, 1, 0), "the host is out already");
    assert_eq!((late(1), late(2)), ((true, 2, 0), (true, 3, 0)));
    assert_eq!(late(3), (false, 3, 1), "the share is used up");
}

#[test]
fn workers_together_eject_no_more_than_allowed() {
    for round in 0..50 {
        let set = hosts(10);
        let policy = OutlierPolicy {
            consecutive_5xx: after(2),
            max_ejected: percent(30.0),
            ..strict()
        };
        let ejected: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let (set, policy) = (&set, &policy);
                    scope.spawn(move || {
                        let mut rng = fastrand::Rng::with_seed(round * 4 + worker);
                        let reports = (0..200).filter_map(|_| {
                            let host = &set.hosts()[rng.usize(..10)].record;
                            host.on_result(FAILED, policy, at(0), &mut rng.fork())
                        });
                        reports.count()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("no panic"))
                .sum()
        });
        assert_eq!(ejected, 3);
        assert_eq!(
            set.hosts()
                .iter()
                .filter(|host| host.record.is_ejected())
                .count(),
            3
        );
        assert_eq!(set.cluster().outlier().counts().active, 3);
    }
}
