// SPDX-License-Identifier: Apache-2.0

use remora_ir::cluster::Policy;
use remora_ir::endpoint::{ConfiguredHealth, EndpointSet, LocalityEndpoints, Overprovisioning};
use remora_primitives::Percent;

use super::*;
use crate::fixture::{
    LEAST_REQUEST, at, balancing, cluster, eject, endpoints, percent, place, set_of, strict,
    weighted,
};
use crate::host::ActiveRequest;
use crate::outlier::Outcome;

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(42)
}

/// How often each host (by its index in the set) is picked.
fn tally(set: &HostSet, picks: usize) -> Vec<usize> {
    let (mut state, mut rng) = (PickState::new(), rng());
    tally_with(set, &mut state, &mut rng, picks)
}

fn tally_with(
    set: &HostSet,
    state: &mut PickState,
    rng: &mut fastrand::Rng,
    picks: usize,
) -> Vec<usize> {
    let mut seen = vec![0; set.hosts().len()];
    for _ in 0..picks {
        if let Pick::Host(host) = pick(set, state, &PickContext::first(), rng) {
            let index = set
                .hosts()
                .iter()
                .position(|other| std::ptr::eq(other, host));
            seen[index.expect("of this set")] += 1;
        }
    }
    seen
}

/// Within five standard deviations of `share` of `of`.
fn is_about(found: usize, share: f64, of: usize) -> bool {
    let (found, of) = (found as f64, of as f64);
    (found - share * of).abs() <= 5.0 * (of * share * (1.0 - share)).sqrt() + 1.0
}

#[test]
fn round_robin_is_exact() {
    assert_eq!(tally(&set_of(Policy::RoundRobin, &[1; 4]), 400), [100; 4]);
    assert_eq!(tally(&set_of(Policy::RoundRobin, &[7; 4]), 400), [100; 4]);
    let set = set_of(Policy::RoundRobin, &[1, 2, 5]);
    let (mut state, mut rng) = (PickState::new(), rng());
    for _ in 0..100 {
        assert_eq!(tally_with(&set, &mut state, &mut rng, 8), [1, 2, 5]);
    }
}

#[test]
fn random_follows_the_weights() {
    let equal = tally(&set_of(Policy::Random, &[3; 4]), 10_000);
    assert!(
        equal.iter().all(|count| is_about(*count, 0.25, 10_000)),
        "{equal:?}"
    );
    let seen = tally(&set_of(Policy::Random, &[1, 2, 5]), 10_000);
    for (count, share) in seen.iter().zip([0.125, 0.25, 0.625]) {
        assert!(is_about(*count, share, 10_000), "{seen:?}");
    }
}

#[test]
fn least_request_prefers_the_less_busy_and_spreads_when_idle() {
    let set = set_of(LEAST_REQUEST, &[1; 4]);
    let idle = tally(&set, 10_000);
    assert!(
        idle.iter().all(|count| is_about(*count, 0.25, 10_000)),
        "{idle:?}"
    );
    let busy = ActiveRequest::start(&set.hosts()[0].record);
    let seen = tally(&set, 10_000);
    assert!(
        is_about(seen[0], 1.0 / 16.0, 10_000),
        "only if drawn twice: {seen:?}"
    );
    drop(busy);
}

#[test]
fn least_request_with_weights_is_exact_when_idle_and_leans_away_from_load() {
    let set = set_of(LEAST_REQUEST, &[1, 3]);
    assert_eq!(tally(&set, 400), [100, 300]);
    // Weight 3 with two under way counts as 1.
    let busy = [0; 2].map(|_| ActiveRequest::start(&set.hosts()[1].record));
    let seen = tally(&set, 400);
    assert!((198..=202).contains(&seen[0]), "{seen:?}");
    drop(busy);
}

/// Two priorities of ten; `healthy` of each are well.
fn two_priorities(healthy: [usize; 2]) -> HostSet {
    let places = vec![place(0, None, 0..10), place(1, None, 10..20)];
    let set = HostSet::build(
        &cluster(),
        &balancing(Policy::RoundRobin),
        &endpoints(places),
    );
    eject(&set, (healthy[0]..10).chain(10 + healthy[1]..20));
    set
}

#[test]
fn priorities_fail_over_as_in_envoys_table() {
    // Healthy in each priority, expected percent of each, panic.
    let table = [
        ([10, 10], [100, 0], false),
        ([8, 10], [100, 0], false),
        ([7, 10], [98, 2], false),
        ([5, 10], [70, 30], false),
        ([1, 10], [14, 86], false),
        ([0, 10], [0, 100], false),
        ([5, 0], [100, 0], false),
        ([3, 3], [50, 50], true),
        ([0, 0], [50, 50], true),
    ];
    for (healthy, expected, panic) in table {
        let set = two_priorities(healthy);
        let (mut state, mut rng) = (PickState::new(), rng());
        let seen = tally_with(&set, &mut state, &mut rng, 10_000);
        for (hosts, percent) in seen.chunks(10).zip(expected) {
            let found = hosts.iter().sum::<usize>();
            let share = f64::from(percent) / 100.0;
            assert!(
                is_about(found, share, 10_000),
                "{healthy:?}: {found} for {percent} %"
            );
        }
        let unwell = set
            .hosts()
            .iter()
            .zip(&seen)
            .filter(|(host, _)| host.record.is_ejected());
        let to_unwell = unwell.map(|(_, count)| count).sum::<usize>();
        assert_eq!(
            (to_unwell > 0, state.in_panic()),
            (panic, panic),
            "{healthy:?}"
        );
    }
}

#[test]
fn one_priority_in_panic_does_not_drag_the_others_along() {
    // Two of ten well in the first, four in the second: 28 % + 56 % of the traffic, so less than
    // all; a threshold of 30 % lies between the two.
    let places = vec![place(0, None, 0..10), place(1, None, 10..20)];
    let balancing = remora_ir::cluster::Balancing {
        panic_threshold: percent(30.0),
        ..balancing(Policy::RoundRobin)
    };
    let set = HostSet::build(&cluster(), &balancing, &endpoints(places));
    eject(&set, (2..10).chain(14..20));
    let seen = tally(&set, 10_000);
    assert!(
        seen[..10].iter().all(|count| *count > 0),
        "panic within the first: {seen:?}"
    );
    assert!(
        seen[14..].iter().all(|count| *count == 0),
        "but not in the second: {seen:?}"
    );
    assert!(
        is_about(seen[..10].iter().sum(), 0.34, 10_000),
        "28 of 84, and the rest: {seen:?}"
    );
}

#[test]
fn overprovisioning_is_the_sets_own() {
    let places = vec![place(0, None, 0..10), place(1, None, 10..20)];
    let set = EndpointSet {
        overprovisioning: Overprovisioning(100),
        ..endpoints(places)
    };
    let set = HostSet::build(&cluster(), &balancing(Policy::RoundRobin), &set);
    eject(&set, [0, 1]);
    let seen = tally(&set, 10_000);
    assert!(is_about(seen[10..].iter().sum(), 0.2, 10_000), "{seen:?}");
}

fn with_health(
    mut place: LocalityEndpoints,
    health: impl IntoIterator<Item = ConfiguredHealth>,
) -> LocalityEndpoints {
    for (endpoint, health) in place.endpoints.iter_mut().zip(health) {
        endpoint.health = health;
    }
    place
}

#[test]
fn degraded_hosts_take_what_the_healthy_cannot() {
    use ConfiguredHealth::{Degraded, Healthy};
    let only = with_health(place(0, None, 0..4), [Healthy, Healthy, Degraded, Degraded]);
    let set = HostSet::build(
        &cluster(),
        &balancing(Policy::RoundRobin),
        &endpoints(vec![only]),
    );
    let seen = tally(&set, 10_000);
    assert!(
        is_about(seen[..2].iter().sum(), 0.7, 10_000),
        "50 % x 1.4: {seen:?}"
    );
    assert!(is_about(seen[2..].iter().sum(), 0.3, 10_000), "{seen:?}");
}

#[test]
fn unhealthy_hosts_are_for_panic_and_draining_ones_for_nothing() {
    use ConfiguredHealth::{Draining, Healthy, Unhealthy};
    let mixed = with_health(
        place(0, None, 0..4),
        [Healthy, Healthy, Unhealthy, Draining],
    );
    let set = HostSet::build(
        &cluster(),
        &balancing(Policy::RoundRobin),
        &endpoints(vec![mixed]),
    );
    assert_eq!(tally(&set, 100), [50, 50, 0, 0]);
    let membership = set.membership();
    assert_eq!(
        (membership.total, membership.healthy, membership.excluded),
        (4, 2, 1)
    );
    eject(&set, [0, 1]);
    assert_eq!(tally(&set, 99), [33, 33, 33, 0]);
    let drained = with_health(place(0, None, 0..2), [Draining; 2]);
    let set = HostSet::build(
        &cluster(),
        &balancing(Policy::RoundRobin),
        &endpoints(vec![drained]),
    );
    assert_eq!(tally(&set, 10), [0, 0]);
}

#[test]
fn panic_begins_below_its_threshold() {
    let two = set_of(Policy::RoundRobin, &[1, 1]);
    eject(&two, [0]);
    assert_eq!(tally(&two, 100), [0, 100], "half is not below 50 %");
    let three = set_of(Policy::RoundRobin, &[1, 1, 1]);
    eject(&three, [0, 1]);
    assert_eq!(tally(&three, 99), [33; 3], "a third is");
}

#[test]
fn without_a_panic_threshold_nothing_healthy_means_no_host() {
    let never = remora_ir::cluster::Balancing {
        panic_threshold: Percent::ZERO,
        ..balancing(Policy::RoundRobin)
    };
    let set = HostSet::build(&cluster(), &never, &weighted(&[1, 1, 1]));
    eject(&set, [0, 1]);
    assert_eq!(tally(&set, 9), [0, 0, 9]);
    eject(&set, [2]);
    let answer = pick(
        &set,
        &mut PickState::new(),
        &PickContext::first(),
        &mut rng(),
    );
    assert!(matches!(answer, Pick::NoHealthyUpstream));
    let empty = set_of(Policy::RoundRobin, &[]);
    let answer = pick(
        &empty,
        &mut PickState::new(),
        &PickContext::first(),
        &mut rng(),
    );
    assert!(matches!(answer, Pick::NoHealthyUpstream));
}

#[test]
fn localities_share_by_weight_if_asked_and_by_hosts_if_not() {
    let places = || {
        vec![
            place(0, Some(1), 0..3),
            place(0, Some(3), 3..4),
            place(0, None, 4..6),
        ]
    };
    let flat = HostSet::build(
        &cluster(),
        &balancing(Policy::RoundRobin),
        &endpoints(places()),
    );
    assert_eq!(tally(&flat, 600), [100; 6]);
    let weighted = remora_ir::cluster::Balancing {
        locality_weighted: true,
        ..balancing(Policy::RoundRobin)
    };
    let set = HostSet::build(&cluster(), &weighted, &endpoints(places()));
    assert_eq!(
        tally(&set, 1200),
        [100, 100, 100, 900, 0, 0],
        "no weight, no share"
    );
    // One of three left: 1/3 x 1.4 of weight 1, and 3 of the other.
    eject(&set, [0, 1]);
    let seen = tally(&set, 10_400);
    assert!(
        (1395..=1405).contains(&seen[2]),
        "1.4 / 3 of 3.4667: {seen:?}"
    );
    let none = HostSet::build(
        &cluster(),
        &weighted,
        &endpoints(vec![place(0, None, 0..4)]),
    );
    assert_eq!(tally(&none, 400), [100; 4], "no weights at all: flat");
}

#[test]
fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
    for policy in [Policy::RoundRobin, Policy::Random, LEAST_REQUEST] {
        let set = set_of(policy, &[1, 1, 1]);
        let tried = [
            Arc::clone(&set.hosts()[0].record),
            Arc::clone(&set.hosts()[1].record),
        ];
        let (mut state, mut rng) = (PickState::new(), rng());
        for _ in 0..1000 {
            let context = PickContext::retry(&tried, 200);
            let host = pick(&set, &mut state, &context, &mut rng)
                .host()
                .expect("a host");
            assert!(std::ptr::eq(host, &set.hosts()[2]), "{policy:?}");
        }
    }
    let single = set_of(Policy::RoundRobin, &[1]);
    let tried = [Arc::clone(&single.hosts()[0].record)];
    let answer = pick(
        &single,
        &mut PickState::new(),
        &PickContext::retry(&tried, 5),
        &mut rng(),
    );
    assert!(
        answer.host().is_some(),
        "after so many repicks the last one is taken"
    );
}

#[test]
fn any_worker_sees_an_ejection_and_a_return_at_its_next_pick() {
    let set = set_of(Policy::RoundRobin, &[1; 4]);
    let mut workers = [PickState::new(), PickState::new()];
    let mut rng = rng();
    for state in &mut workers {
        assert_eq!(tally_with(&set, state, &mut rng, 40), [10; 4]);
    }
    eject(&set, [1]);
    for state in &mut workers {
        assert_eq!(tally_with(&set, state, &mut rng, 30), [10, 0, 10, 10]);
    }
    assert_eq!(set.cluster().sweep(Some(&strict()), at(30)).len(), 1);
    for state in &mut workers {
        assert_eq!(tally_with(&set, state, &mut rng, 40), [10; 4]);
    }
}

#[test]
fn an_update_takes_effect_at_the_next_pick_and_keeps_live_state() {
    let cluster = cluster();
    let first = HostSet::build(&cluster, &balancing(Policy::RoundRobin), &weighted(&[1, 1]));
    let (mut state, mut rng) = (PickState::new(), rng());
    assert_eq!(tally_with(&first, &mut state, &mut rng, 10), [5, 5]);
    let busy = ActiveRequest::start(&first.hosts()[0].record);
    let second = HostSet::build(
        &cluster,
        &balancing(Policy::RoundRobin),
        &weighted(&[1, 3, 4]),
    );
    assert_eq!(tally_with(&second, &mut state, &mut rng, 80), [10, 30, 40]);
    assert_eq!(second.hosts()[0].record.active_requests(), 1);
    drop(busy);
    assert_eq!(
        tally_with(&first, &mut state, &mut rng, 10),
        [5, 5],
        "and back"
    );
}

#[test]
fn the_drop_share_is_dropped_but_never_a_retry() {
    let set = EndpointSet {
        drop: Some(percent(30.0)),
        ..weighted(&[1, 1])
    };
    let set = HostSet::build(&cluster(), &balancing(Policy::RoundRobin), &set);
    let (mut state, mut rng) = (PickState::new(), rng());
    let mut dropped = |context| {
        let mut picks = (0..10_000).map(|_| pick(&set, &mut state, &context, &mut rng));
        picks
            .by_ref()
            .filter(|pick| matches!(pick, Pick::Dropped))
            .count()
    };
    assert!(is_about(dropped(PickContext::first()), 0.3, 10_000));
    assert_eq!(dropped(PickContext::retry(&[], 0)), 0);
}

#[test]
fn an_address_that_comes_twice_is_one_host() {
    let places = vec![place(0, None, [1, 2, 1]), place(1, None, [2, 3])];
    let set = HostSet::build(
        &cluster(),
        &balancing(Policy::RoundRobin),
        &endpoints(places),
    );
    let found: Vec<_> = set
        .hosts()
        .iter()
        .map(|h| (h.record.address().to_string(), h.priority))
        .collect();
    let expected = [("10.0.0.1:1", 0), ("10.0.0.1:2", 0), ("10.0.0.1:3", 1)];
    assert_eq!(
        found,
        expected.map(|(address, priority)| (address.to_owned(), priority))
    );
}

/// Random operations on a random cluster, checked after each. A failure prints seed and step; to
/// replay one, put its seed into the range.
#[test]
fn invariants_hold_through_random_histories() {
    for seed in 0..200 {
        let mut history = History::new(seed);
        for step in 0..150 {
            history.step();
            history
                .check()
                .unwrap_or_else(|fault| panic!("seed {seed}, step {step}: {fault}"));
        }
        history
            .end()
            .unwrap_or_else(|fault| panic!("seed {seed}, end: {fault}"));
    }
}

struct History {
    rng: fastrand::Rng,
    cluster: Arc<crate::registry::ClusterRecord>,
    set: HostSet,
    outlier: remora_ir::cluster::OutlierPolicy,
    workers: [PickState; 3],
    under_way: Vec<ActiveRequest>,
    seconds: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let cluster = cluster();
        let set = Self::random_set(&cluster, &mut rng);
        let max_ejected = percent(f64::from(rng.u8(..=100)));
        let outlier = remora_ir::cluster::OutlierPolicy {
            max_ejected,
            always_one: rng.bool(),
            ..strict()
        };
        let workers = std::array::from_fn(|_| PickState::new());
        Self {
            rng,
            cluster,
            set,
            outlier,
            workers,
            under_way: Vec::new(),
            seconds: 0,
        }
    }

    fn random_set(
        cluster: &Arc<crate::registry::ClusterRecord>,
        rng: &mut fastrand::Rng,
    ) -> HostSet {
        use ConfiguredHealth::{Degraded, Draining, Healthy, Unhealthy};
        let policy = [Policy::RoundRobin, Policy::Random, LEAST_REQUEST][rng.usize(..3)];
        let mut places = Vec::new();
        for priority in 0..rng.u32(..3) {
            for _ in 0..=rng.u8(..2) {
                let weight = rng.bool().then(|| rng.u32(1..5));
                let numbers: Vec<_> = (0..rng.usize(..5)).map(|_| rng.u16(..12)).collect();
                let mut place = place(priority, weight, numbers);
                for endpoint in &mut place.endpoints {
                    let health = [
                        Healthy, Healthy, Healthy, Healthy, Degraded, Unhealthy, Draining,
                    ];
                    endpoint.health = health[rng.usize(..7)];
                    endpoint.weight = crate::fixture::endpoint(0, rng.u32(1..4)).weight;
                }
                places.push(place);
            }
        }
        let balancing = remora_ir::cluster::Balancing {
            policy,
            panic_threshold: percent(f64::from(rng.u8(..4)) * 25.0),
            locality_weighted: rng.bool(),
        };
        HostSet::build(cluster, &balancing, &endpoints(places))
    }

    fn step(&mut self) {
        match self.rng.u8(..20) {
            0 => self.set = Self::random_set(&self.cluster, &mut self.rng),
            1 => self.seconds += self.rng.u64(..60),
            2 => drop(self.cluster.sweep(Some(&self.outlier), at(self.seconds))),
            3..6 if !self.under_way.is_empty() => {
                drop(
                    self.under_way
                        .swap_remove(self.rng.usize(..self.under_way.len())),
                );
            }
            _ => self.request(),
        }
    }

    fn request(&mut self) {
        let state = &mut self.workers[self.rng.usize(..3)];
        let answer = pick(&self.set, state, &PickContext::first(), &mut self.rng);
        let Some(host) = answer.host() else { return };
        assert_ne!(host.health, ConfiguredHealth::Draining);
        assert!(state.in_panic() || host.availability() != crate::hosts::Availability::InPanic);
        self.under_way.push(ActiveRequest::start(&host.record));
        let outcome = Outcome::Status(if self.rng.u8(..5) > 0 { 503 } else { 200 });
        let record = Arc::clone(&host.record);
        let ejection = record.on_result(outcome, &self.outlier, at(self.seconds), &mut self.rng);
        if ejection.is_some() {
            let active = f64::from(self.cluster.outlier().counts().active);
            let allowed = self.outlier.max_ejected.ratio() * self.set.hosts().len() as f64;
            assert!(active <= allowed || self.outlier.always_one && active == 1.0);
        }
    }

    fn check(&self) -> Result<(), String> {
        let records = self.cluster.hosts();
        let ejected = records.iter().filter(|host| host.is_ejected()).count();
        let active =
            usize::try_from(self.cluster.outlier().counts().active).map_err(|e| e.to_string())?;
        if ejected != active {
            return Err(format!("{ejected} hosts are ejected, {active} are counted"));
        }
        let under_way: u32 = records.iter().map(|host| host.active_requests()).sum();
        if usize::try_from(under_way) != Ok(self.under_way.len()) {
            return Err(format!(
                "{under_way} counted of {} under way",
                self.under_way.len()
            ));
        }
        Ok(())
    }

    fn end(self) -> Result<(), String> {
        let Self {
            cluster,
            set,
            under_way,
            ..
        } = self;
        drop((set, under_way));
        let outlier = Arc::clone(cluster.outlier());
        match (cluster.hosts().len(), outlier.counts().active) {
            (0, 0) => Ok(()),
            left => Err(format!("records and ejections left: {left:?}")),
        }
    }
}
