// SPDX-License-Identifier: Apache-2.0
//! What a pick chooses from: the hosts that may be picked now, by share of the traffic.
//!
//! Made when endpoints or health change, from the two together. First the traffic is split over
//! priorities: a priority with fewer than `100 / overprovisioning` of its hosts well gives the
//! rest to the next ones, degraded hosts come after all healthy ones, and when too few are well
//! everywhere (panic) health is ignored. Then each share has a pool of hosts and the policy's
//! way of choosing one. The arithmetic is Envoy's, in whole percent.

use std::ops::Range;

use remora_ir::cluster::Policy;
use remora_primitives::Percent;
use smallvec::SmallVec;

use super::schedule::Schedule;
use crate::hosts::{Availability, Host, HostSet, LocalityHosts, PriorityHosts};

/// Pools with their shares. The default has none and chooses nothing.
#[derive(Debug, Default)]
pub(super) struct Plan {
    shares: SmallVec<[Share; 1]>,
}

#[derive(Debug)]
struct Share {
    /// Draws of 0 to 99 up to here, exclusive, and from the share before on are its own.
    below: u32,
    in_panic: bool,
    pool: Pool,
}

/// The index of a host in its set.
pub(super) struct Chosen {
    pub(super) index: usize,
    pub(super) in_panic: bool,
}

impl Plan {
    /// Plans for the set and its hosts' present health; `start` is where turns begin.
    pub(super) fn new(set: &HostSet, start: usize) -> Self {
        let well: Vec<Well> = set
            .priorities()
            .iter()
            .map(|hosts| Well::count(set, hosts))
            .collect();
        let mut plan = Self::default();
        let mut below = 0;
        for load in split(&well, set) {
            let Some(priority) = set.priorities().get(load.priority) else {
                continue;
            };
            let pool = Pool::new(set, priority, load.tier, start);
            below += load.percent;
            plan.shares.push(Share {
                below,
                in_panic: load.tier == Tier::Panic,
                pool,
            });
        }
        plan
    }

    /// The next host; `None` if no priority has any.
    pub(super) fn choose(&mut self, set: &HostSet, rng: &mut fastrand::Rng) -> Option<Chosen> {
        let share = match self.shares.as_mut_slice() {
            [only] => only,
            shares => {
                let total = shares.last()?.below;
                let drawn = rng.u32(..total);
                shares.iter_mut().find(|share| drawn < share.below)?
            }
        };
        let index = share.pool.choose(set, rng)?;
        Some(Chosen {
            index,
            in_panic: share.in_panic,
        })
    }
}

/// How well a priority is. Draining hosts do not count.
#[derive(Clone, Copy, Debug, Default)]
struct Well {
    total: u32,
    healthy: u32,
    degraded: u32,
}

impl Well {
    fn count(set: &HostSet, priority: &PriorityHosts) -> Self {
        let mut well = Self::default();
        for host in slice(set, &priority.hosts) {
            let availability = host.availability();
            well.total += u32::from(availability != Availability::Never);
            well.healthy += u32::from(availability == Availability::Healthy);
            well.degraded += u32::from(availability == Availability::Degraded);
        }
        well
    }

    /// Whole percent of the priority's hosts, with headroom; at most 100.
    fn percent(self, of: u32, set: &HostSet) -> u32 {
        let percent = set.overprovisioning.saturating_mul(u64::from(of));
        let percent = percent.checked_div(u64::from(self.total)).unwrap_or(0);
        u32::try_from(percent).unwrap_or(u32::MAX).min(100)
    }

    fn is_in_panic(self, set: &HostSet) -> bool {
        let well = 100.0 * f64::from(self.healthy + self.degraded);
        well < set.panic_threshold.get() * f64::from(self.total.max(1))
    }
}

/// Which hosts of a priority a share of the traffic goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Healthy,
    Degraded,
    /// All but the draining.
    Panic,
}

impl Tier {
    fn admits(self, host: &Host) -> bool {
        match self {
            Self::Healthy => host.availability() == Availability::Healthy,
            Self::Degraded => host.availability() == Availability::Degraded,
            Self::Panic => host.availability() != Availability::Never,
        }
    }
}

/// A share of the traffic.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Index in the set's priorities.
    priority: usize,
    tier: Tier,
    /// Above 0.
    percent: u32,
}

type Loads = SmallVec<[Load; 2]>;

/// Splits the traffic over priorities and tiers.
fn split(well: &[Well], set: &HostSet) -> Loads {
    let healthy: SmallVec<[u32; 2]> = well.iter().map(|w| w.percent(w.healthy, set)).collect();
    let degraded: SmallVec<[u32; 2]> = well.iter().map(|w| w.percent(w.degraded, set)).collect();
    let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);
    if available == 0 && set.panic_threshold == Percent::ZERO {
        return Loads::new();
    }
    let in_panic = |w: &Well| available < 100 && w.is_in_panic(set);
    if well.iter().all(in_panic) {
        return split_by_size(well);
    }
    let mut loads = Loads::new();
    let mut left = 100;
    for (tier, shares) in [(Tier::Healthy, healthy), (Tier::Degraded, degraded)] {
        for (priority, (share, well)) in shares.into_iter().zip(well).enumerate() {
            let percent = (share * 100).checked_div(available).unwrap_or(0).min(left);
            if percent > 0 {
                left -= percent;
                let tier = if in_panic(well) { Tier::Panic } else { tier };
                loads.push(Load {
                    priority,
                    tier,
                    percent,
                });
            }
        }
    }
    give_rest(loads, left)
}

/// When every priority is in panic: by their numbers of hosts.
fn split_by_size(well: &[Well]) -> Loads {
    let total = well.iter().map(|w| u64::from(w.total)).sum::<u64>();
    let mut loads = Loads::new();
    let mut left = 100;
    for (priority, well) in well.iter().enumerate().filter(|(_, well)| well.total > 0) {
        let percent = (u64::from(well.total) * 100)
            .checked_div(total)
            .unwrap_or(0);
        let percent = u32::try_from(percent).unwrap_or(100).min(left);
        left -= percent;
        loads.push(Load {
            priority,
            tier: Tier::Panic,
            percent,
        });
    }
    let mut loads = give_rest(loads, left);
    loads.retain(|load| load.percent > 0);
    loads
}

/// What rounding left over goes to the first share.
fn give_rest(mut loads: Loads, left: u32) -> Loads {
    if let Some(first) = loads.first_mut() {
        first.percent += left;
    }
    loads
}

/// The hosts of one share.
#[derive(Debug)]
enum Pool {
    Flat(Hosts),
    /// First a locality by its weight, then a host in it.
    ByLocality(Schedule, Vec<Hosts>),
}

impl Pool {
    fn new(set: &HostSet, priority: &PriorityHosts, tier: Tier, start: usize) -> Self {
        let hosts = |range: &Range<usize>| Hosts::new(set, range, tier, start);
        if set.locality_weighted && tier != Tier::Panic {
            let weights = priority
                .localities
                .iter()
                .map(|l| effective_weight(set, l, tier));
            let weighted = weights
                .zip(&priority.localities)
                .filter(|(weight, _)| *weight > 0);
            let (weights, places): (Vec<_>, Vec<_>) = weighted
                .map(|(weight, place)| (weight, hosts(&place.hosts)))
                .unzip();
            if !places.is_empty() {
                return Self::ByLocality(Schedule::new(weights.into_iter(), start), places);
            }
        }
        Self::Flat(hosts(&priority.hosts))
    }

    fn choose(&mut self, set: &HostSet, rng: &mut fastrand::Rng) -> Option<usize> {
        match self {
            Self::Flat(hosts) => hosts.choose(set, rng),
            Self::ByLocality(schedule, places) => {
                places.get_mut(schedule.next(|_| 1)?)?.choose(set, rng)
            }
        }
    }
}

/// A locality's weight, less what it lost in hosts beyond the headroom; scaled by 10,000, so
/// that small weights keep their fractions.
fn effective_weight(set: &HostSet, locality: &LocalityHosts, tier: Tier) -> u64 {
    let hosts = slice(set, &locality.hosts);
    let total = hosts.iter().filter(|host| Tier::Panic.admits(host)).count();
    let admitted = hosts.iter().filter(|host| tier.admits(host)).count();
    let (total, admitted) = (total as u128 * 100, admitted as u128);
    let share = (admitted * u128::from(set.overprovisioning)).min(total);
    let scaled = u128::from(locality.weight) * 10_000 * share;
    u64::try_from(scaled.checked_div(total).unwrap_or(0)).unwrap_or(u64::MAX)
}

/// A list of hosts and the policy's way of choosing one.
#[derive(Debug)]
struct Hosts {
    /// Indexes in the set.
    indexes: Vec<usize>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Equal weights, in turn.
    InTurn { next: usize },
    /// Other weights, in turn.
    ByWeight(Schedule),
    /// Equal weights, at random.
    Any,
    /// Other weights, at random: running sums of the weights.
    AnyByWeight(Vec<u64>),
    /// Equal weights, the least busy of so many.
    LeastOf(u32),
    /// Other weights, in turn, a turn counting for as many as the host has requests under way.
    ByWeightAndLoad(Schedule),
}

impl Hosts {
    fn new(set: &HostSet, range: &Range<usize>, tier: Tier, start: usize) -> Self {
        let all = range.clone().zip(slice(set, range));
        let (indexes, weights): (Vec<_>, Vec<_>) = all
            .filter(|(_, host)| tier.admits(host))
            .map(|(index, host)| (index, u64::from(host.weight.get())))
            .unzip();
        let equal = weights
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a == b));
        let schedule = || Schedule::new(weights.iter().copied(), start);
        let way = match (set.policy, equal) {
            (Policy::Random, true) => Way::Any,
            (Policy::Random, false) => Way::AnyByWeight(running_sums(&weights)),
            (Policy::LeastRequest { choices }, true) => Way::LeastOf(choices.get()),
            (Policy::LeastRequest { .. }, false) => Way::ByWeightAndLoad(schedule()),
            // A cluster whose discovery provides the host has no hosts here; if it should, in turn.
            (Policy::RoundRobin | Policy::ClusterProvided, true) => Way::InTurn { next: start },
            (Policy::RoundRobin | Policy::ClusterProvided, false) => Way::ByWeight(schedule()),
        };
        Self { indexes, way }
    }

    fn choose(&mut self, set: &HostSet, rng: &mut fastrand::Rng) -> Option<usize> {
        let Self { indexes, way } = self;
        let count = indexes.len();
        if count == 0 {
            return None;
        }
        let busy = |position: usize| {
            let host = indexes
                .get(position)
                .and_then(|index| set.hosts().get(*index));
            host.map_or(u32::MAX, |host| host.record.active_requests())
        };
        let position = match way {
            Way::InTurn { next } => {
                let position = *next % count;
                *next = position + 1;
                position
            }
            Way::ByWeight(schedule) => schedule.next(|_| 1)?,
            Way::Any => rng.usize(..count),
            Way::AnyByWeight(sums) => {
                let drawn = rng.u64(..*sums.last()?);
                sums.partition_point(|sum| *sum <= drawn)
            }
            Way::LeastOf(choices) => least_busy(*choices, count, busy, rng),
            Way::ByWeightAndLoad(schedule) => schedule.next(|at| 1 + u64::from(busy(at)))?,
        };
        indexes.get(position).copied()
    }
}

/// The least busy of `choices` positions drawn at random (the same may come twice, as in Envoy);
/// of equals the first drawn.
fn least_busy(
    choices: u32,
    count: usize,
    busy: impl Fn(usize) -> u32,
    rng: &mut fastrand::Rng,
) -> usize {
    let mut best = rng.usize(..count);
    let mut least = busy(best);
    for _ in 1..choices {
        let other = rng.usize(..count);
        let load = busy(other);
        if load < least {
            (best, least) = (other, load);
        }
    }
    best
}

fn running_sums(weights: &[u64]) -> Vec<u64> {
    let mut sum = 0;
    weights
        .iter()
        .map(|weight| {
            sum += weight;
            sum
        })
        .collect()
}

fn slice<'s>(set: &'s HostSet, range: &Range<usize>) -> &'s [Host] {
    set.hosts().get(range.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{percent, set_of};

    #[test]
    fn what_rounding_leaves_over_goes_to_the_first_share() {
        let mut set = set_of(Policy::RoundRobin, &[]);
        set.panic_threshold = percent(10.0);
        // Healthy of ten in each priority, percent of each.
        let table: [(&[u32], &[u32]); 4] = [
            (&[2, 4], &[34, 66]),
            (&[2, 2, 2], &[34, 33, 33]),
            (&[1, 0, 5], &[17, 0, 83]),
            (&[0, 0, 0], &[34, 33, 33]),
        ];
        for (healthy, expected) in table {
            let well: Vec<_> = healthy
                .iter()
                .map(|n| Well {
                    total: 10,
                    healthy: *n,
                    degraded: 0,
                })
                .collect();
            let mut found = vec![0; healthy.len()];
            for load in split(&well, &set) {
                found[load.priority] += load.percent;
            }
            assert_eq!(found, expected, "{healthy:?}");
        }
    }
}
