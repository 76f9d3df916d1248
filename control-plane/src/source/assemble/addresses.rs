// SPDX-License-Identifier: Apache-2.0
//! Addresses for services that have none: stable ones from 240.240.0.0/16.
//!
//! The range is reserved (RFC 1112 §4, class E): no network routes it, so a connection to it
//! either meets a sidecar or fails. Each service starts at a place that is a hash of its namespace
//! and host; where two meet, the one that sorts first stays and the other one moves on by a step
//! of its own hash. So the outcome depends on the set of services alone, not on order, time or
//! replica, and a service that comes or goes moves only those whose way crossed its place.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;

use remora_model::ServiceKey;
use xxhash_rust::xxh64::xxh64;

/// Addresses that are given out: 240.240.x.y with y from 1 to 254, since software of old shuns
/// network and broadcast addresses.
pub const CAPACITY: usize = 256 * LAST_OCTETS;
const LAST_OCTETS: usize = 254;

/// Gives each of the services an address that is not among `taken`.
///
/// Services for which none is left are missing in the answer.
#[must_use]
pub fn allocate(
    services: &BTreeSet<ServiceKey>,
    taken: &HashSet<Ipv4Addr>,
) -> BTreeMap<ServiceKey, Ipv4Addr> {
    let mut used = taken.clone();
    let mut given = BTreeMap::new();
    for key in services {
        let name = format!("{}/{}", key.namespace, key.host);
        let free = places(&name)
            .map(address)
            .find(|address| !used.contains(address));
        if let Some(address) = free {
            used.insert(address);
            given.insert(key.clone(), address);
        }
    }
    given
}

/// All places, in the order in which this name tries them.
fn places(name: &str) -> impl Iterator<Item = usize> {
    let capacity = CAPACITY as u64;
    let start = xxh64(name.as_bytes(), 0) % capacity;
    // CAPACITY is 2^9 * 127: a step that neither 2 nor 127 divides visits every place once.
    let mut step = (xxh64(name.as_bytes(), 1) % capacity) | 1;
    while step.is_multiple_of(127) {
        step += 2;
    }
    let place = move |nth: u64| (start + nth * step) % capacity;
    (0..capacity)
        .map(place)
        .filter_map(|place| usize::try_from(place).ok())
}

fn address(place: usize) -> Ipv4Addr {
    let octet = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    Ipv4Addr::new(
        240,
        240,
        octet(place / LAST_OCTETS),
        octet(place % LAST_OCTETS + 1),
    )
}

#[cfg(test)]
mod tests {
    use remora_model::{Host, Namespace};

    use super::*;

    fn keys(count: usize) -> BTreeSet<ServiceKey> {
        let key = |n| ServiceKey {
            host: Host::try_new(&format!("s{n}.shop.svc.cluster.local")).expect("is a host"),
            namespace: Namespace::try_new("shop").expect("is a label"),
        };
        (0..count).map(key).collect()
    }

    #[test]
    fn addresses_are_the_same_on_every_run_and_replica() {
        let given = allocate(&keys(3), &HashSet::new());
        let texts: Vec<_> = given.values().map(ToString::to_string).collect();
        assert_eq!(texts, PINNED, "changing these moves every running mesh");
    }

    const PINNED: [&str; 3] = ["240.240.113.151", "240.240.131.173", "240.240.24.72"];

    #[test]
    fn a_new_service_hardly_moves_the_others() {
        let before = allocate(&keys(1000), &HashSet::new());
        let after = allocate(&keys(1001), &HashSet::new());
        let moved = before
            .iter()
            .filter(|(key, address)| after.get(key) != Some(address))
            .count();
        assert!(moved <= 1, "{moved} services moved");
    }

    #[test]
    fn no_address_is_given_twice_until_all_are_gone() {
        let services = keys(CAPACITY + 2);
        let taken = HashSet::from([Ipv4Addr::new(240, 240, 1, 1)]);
        let given = allocate(&services, &taken);
        let distinct: HashSet<_> = given.values().copied().collect();
        assert_eq!((given.len(), distinct.len()), (CAPACITY - 1, CAPACITY - 1));
        assert!(distinct.is_disjoint(&taken));
        assert!(distinct.iter().all(|ip| !matches!(ip.octets()[3], 0 | 255)));
    }
}
