// SPDX-License-Identifier: Apache-2.0

use remora_ir::cluster::{CircuitLimits, Limit, RetryLimit, Thresholds};

use super::*;
use crate::fixture::{cluster, percent};

const ALL: [Resource; 4] = [
    Resource::Connections,
    Resource::Pending,
    Resource::Requests,
    Resource::Retries,
];

fn thresholds(limit: Limit) -> Thresholds {
    Thresholds {
        connections: limit,
        pending: limit,
        requests: limit,
        retries: RetryLimit::Fixed(limit),
    }
}

fn limits(cluster: &ClusterRecord, default: Thresholds) -> ClusterLimits {
    ClusterLimits::new(
        cluster,
        &CircuitLimits {
            default,
            ..CircuitLimits::default()
        },
    )
}

#[test]
fn as_many_as_allowed_may_go_and_each_one_that_ends_lets_another_go() {
    let cluster = cluster();
    let limits = limits(&cluster, thresholds(Limit::AtMost(3)));
    let limits = limits.of(Priority::Default);
    for resource in ALL {
        let mut held: Vec<_> = (0..3)
            .map(|_| limits.acquire(resource).expect("below the limit"))
            .collect();
        let overflow = limits.acquire(resource).expect_err("at the limit");
        assert_eq!(overflow, Overflow { resource, limit: 3 });
        assert!(limits.is_open(resource));
        held.pop();
        assert_eq!(limits.remaining(resource), Some(1));
        held.push(limits.acquire(resource).expect("one ended"));
        drop(held);
        assert_eq!(
            (limits.active(resource), limits.is_open(resource)),
            (0, false)
        );
    }
}

#[test]
fn a_limit_of_zero_refuses_everything_but_a_workers_first_connection() {
    let cluster = cluster();
    let limits = limits(&cluster, thresholds(Limit::AtMost(0)));
    let limits = limits.of(Priority::Default);
    assert!(limits.try_request().is_err());
    assert!(limits.try_pending().is_err());
    assert!(limits.try_retry().is_err());
    assert!(limits.try_connection(Connection::Another).is_err());
    let first = limits
        .try_connection(Connection::FirstOfWorkerToHost)
        .expect("always allowed");
    assert_eq!(
        limits.active(Resource::Connections),
        1,
        "it counts nevertheless"
    );
    drop(first);
    assert_eq!(limits.active(Resource::Connections), 0);
}

#[test]
fn what_is_unlimited_is_not_counted() {
    let cluster = cluster();
    let limits = limits(&cluster, thresholds(Limit::Unlimited));
    let limits = limits.of(Priority::Default);
    let held: Vec<_> = ALL
        .iter()
        .map(|resource| limits.acquire(*resource).expect("unlimited"))
        .chain([limits
            .try_connection(Connection::FirstOfWorkerToHost)
            .expect("unlimited")])
        .collect();
    for resource in ALL {
        assert_eq!(
            (limits.active(resource), limits.remaining(resource)),
            (0, None)
        );
    }
    assert!(held.iter().all(|permit| permit.counts.is_none()));
}

#[test]
fn priorities_have_limits_of_their_own() {
    let cluster = cluster();
    let limits = limits(&cluster, thresholds(Limit::AtMost(1)));
    let held = limits
        .of(Priority::Default)
        .try_request()
        .expect("the first");
    assert!(limits.of(Priority::Default).try_request().is_err());
    assert!(limits.of(Priority::High).try_request().is_ok());
    drop(held);
}

#[test]
fn new_limits_keep_the_counts_and_old_permits_still_count() {
    let cluster = cluster();
    let before = limits(&cluster, thresholds(Limit::AtMost(10)));
    let held: Vec<_> = (0..4)
        .map(|_| {
            before
                .of(Priority::Default)
                .try_request()
                .expect("below the limit")
        })
        .collect();
    let after = limits(&cluster, thresholds(Limit::AtMost(4)));
    let after = after.of(Priority::Default);
    assert!(after.try_request().is_err(), "four are under way already");
    let unlimited = limits(&cluster, thresholds(Limit::Unlimited));
    let uncounted = unlimited
        .of(Priority::Default)
        .try_request()
        .expect("unlimited");
    drop((held, uncounted));
    assert_eq!(after.active(Resource::Requests), 0);
}

#[test]
fn a_retry_budget_is_a_share_of_what_is_under_way_but_not_less_than_its_minimum() {
    let cluster = cluster();
    let budget = RetryLimit::Budget {
        percent: percent(20.0),
        min_concurrency: 2,
    };
    let limits = limits(
        &cluster,
        Thresholds {
            retries: budget,
            ..thresholds(Limit::Unlimited)
        },
    );
    let limits = limits.of(Priority::Default);
    let allowed = || {
        let held: Vec<_> = std::iter::from_fn(|| limits.try_retry().ok()).collect();
        held.len()
    };
    assert_eq!(allowed(), 2);
    let mut under_way: Vec<_> = (0..14)
        .map(|_| limits.try_request().expect("unlimited"))
        .collect();
    assert_eq!(allowed(), 2, "20 % of 14 is 2.8");
    under_way.push(limits.try_pending().expect("unlimited"));
    assert_eq!(allowed(), 3);
    under_way.extend((0..85).map(|_| limits.try_request().expect("unlimited")));
    assert_eq!(allowed(), 20);
    drop(under_way);
    assert_eq!(
        limits.active(Resource::Requests) + limits.active(Resource::Pending),
        0
    );
}

#[test]
fn threads_together_never_exceed_a_limit() {
    let cluster = cluster();
    let limits = limits(&cluster, thresholds(Limit::AtMost(5)));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let limits = limits.of(Priority::Default);
                for _ in 0..5_000 {
                    let permit = limits.try_request();
                    assert!(limits.active(Resource::Requests) <= 5);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!(limits.of(Priority::Default).active(Resource::Requests), 0);
}

#[test]
fn overflows_name_their_counters() {
    let names = ALL.map(|resource| Overflow { resource, limit: 7 }.stat_name());
    let expected = [
        "upstream_cx_overflow",
        "upstream_rq_pending_overflow",
        "upstream_rq_pending_overflow",
        "upstream_rq_retry_overflow",
    ];
    assert_eq!(names, expected);
    let overflow = Overflow {
        resource: Resource::Pending,
        limit: 7,
    };
    assert_eq!(
        overflow.to_string(),
        "circuit limit reached: 7 pending requests under way"
    );
}
