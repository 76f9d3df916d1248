// SPDX-License-Identifier: Apache-2.0
//! Clusters for this crate's tests, in few words.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use remora_ir::ClusterName;
use remora_ir::cluster::{Balancing, ErrorsInARow, OutlierPolicy, Policy};
use remora_ir::endpoint::{
    ConfiguredHealth, Endpoint, EndpointAddress, EndpointSet, Locality, LocalityEndpoints,
};
use remora_primitives::{Instant, Percent, Weight};

use crate::hosts::HostSet;
use crate::registry::{ClusterRecord, HostRegistry};

pub(crate) const LEAST_REQUEST: Policy = Policy::LeastRequest { choices: two() };

const fn two() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(1)
}

pub(crate) fn percent(percent: f64) -> Percent {
    Percent::try_new(percent).expect("within 0 to 100")
}

pub(crate) fn at(seconds: u64) -> Instant {
    Instant::ORIGIN + Duration::from_secs(seconds)
}

pub(crate) fn cluster() -> Arc<ClusterRecord> {
    HostRegistry::new().cluster(&ClusterName::new("c"))
}

pub(crate) fn balancing(policy: Policy) -> Balancing {
    Balancing {
        policy,
        panic_threshold: percent(50.0),
        locality_weighted: false,
    }
}

pub(crate) fn endpoint(number: u16, weight: u32) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Socket(([10, 0, 0, 1], number).into()),
        hostname: None,
        weight: Weight::try_new(weight).expect("positive"),
        health: ConfiguredHealth::Healthy,
    }
}

/// A locality with endpoints of these numbers, each of weight 1.
pub(crate) fn place(
    priority: u32,
    weight: Option<u32>,
    numbers: impl IntoIterator<Item = u16>,
) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: Locality {
            zone: format!("p{priority}w{weight:?}").into(),
            ..Locality::default()
        },
        priority,
        weight: weight.map(|weight| Weight::try_new(weight).expect("positive")),
        endpoints: numbers
            .into_iter()
            .map(|number| endpoint(number, 1))
            .collect(),
    }
}

pub(crate) fn endpoints(localities: Vec<LocalityEndpoints>) -> EndpointSet {
    EndpointSet {
        localities,
        ..EndpointSet::default()
    }
}

/// One priority, one locality, hosts 0.. of these weights.
pub(crate) fn weighted(weights: &[u32]) -> EndpointSet {
    let mut only = place(0, None, []);
    only.endpoints = (0..)
        .zip(weights)
        .map(|(n, weight)| endpoint(n, *weight))
        .collect();
    endpoints(vec![only])
}

pub(crate) fn set_of(policy: Policy, weights: &[u32]) -> HostSet {
    HostSet::build(&cluster(), &balancing(policy), &weighted(weights))
}

/// Ejects whatever fails, with no bound.
pub(crate) fn strict() -> OutlierPolicy {
    let after = |threshold| {
        Some(ErrorsInARow {
            threshold: NonZeroU32::new(threshold).expect("positive"),
            enforcing: 100,
        })
    };
    OutlierPolicy {
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        ejection_jitter: Duration::ZERO,
        max_ejected: percent(100.0),
        always_one: false,
        consecutive_5xx: after(5),
        consecutive_gateway: None,
        consecutive_local_origin: after(5),
        split_external: false,
    }
}

/// Ejects the hosts at these indexes.
pub(crate) fn eject(set: &HostSet, indexes: impl IntoIterator<Item = usize>) {
    let mut rng = fastrand::Rng::with_seed(0);
    for index in indexes {
        for _ in 0..5 {
            let outcome = crate::outlier::Outcome::Status(500);
            let _ = set.hosts()[index]
                .record
                .on_result(outcome, &strict(), at(0), &mut rng);
        }
        assert!(set.hosts()[index].record.is_ejected());
    }
}
