// SPDX-License-Identifier: Apache-2.0
//! How long an accepted resource may wait for what it needs.
//!
//! The assembler knows what waits; here is since when. Differs from Envoy, whose sidecars wait
//! for ever under Istio's `initial_fetch_timeout: 0s`: one service without endpoints must not
//! hold back a listener for all others.
//!
//! Invariant: what stopped waiting, for whatever reason, has no deadline any more; waiting again
//! starts a new one.

use std::collections::BTreeMap;
use std::time::Duration;

use remora_primitives::Instant;
use remora_translate::{Key, Pending};

/// Deadlines of what waits.
#[derive(Debug, Default)]
pub(super) struct Warming {
    deadlines: BTreeMap<Key, Instant>,
}

impl Warming {
    /// Takes over what waits now.
    pub(super) fn follow(&mut self, pending: &[Pending], now: Instant) {
        self.deadlines
            .retain(|key, _| pending.iter().any(|one| one.key == *key));
        for one in pending {
            self.deadlines
                .entry(one.key.clone())
                .or_insert(now + MAX_WAIT);
        }
    }

    /// When the next one has waited long enough.
    pub(super) fn deadline(&self) -> Instant {
        let first = self.deadlines.values().min();
        first.copied().unwrap_or(Instant::FAR_FUTURE)
    }

    /// What has waited long enough; it is forgotten here.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<Key> {
        let is_late = |deadline: &Instant| *deadline <= now;
        let late = self.deadlines.iter().filter(|(_, at)| is_late(at));
        let late: Vec<_> = late.map(|(key, _)| key.clone()).collect();
        self.deadlines.retain(|_, deadline| !is_late(deadline));
        late
    }
}

/// Envoy's default `initial_fetch_timeout`.
const MAX_WAIT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use remora_xds_types::ResourceType;

    use super::*;

    fn pending(name: &str) -> Pending {
        Pending {
            key: Key::new(ResourceType::Cluster, name),
            missing: Vec::new(),
            serves_older: false,
        }
    }

    #[test]
    fn each_has_its_own_deadline_and_a_new_one_when_it_waits_again() {
        let mut warming = Warming::default();
        assert_eq!(warming.deadline(), Instant::FAR_FUTURE);
        let start = Instant::ORIGIN + Duration::from_secs(100);
        warming.follow(&[pending("a")], start);
        let later = start + Duration::from_secs(5);
        warming.follow(&[pending("a"), pending("b")], later);
        assert_eq!(
            warming.deadline(),
            start + MAX_WAIT,
            "not moved by a later look"
        );
        assert!(warming.take_late(later).is_empty());
        assert_eq!(warming.take_late(start + MAX_WAIT), [pending("a").key]);
        assert_eq!(warming.deadline(), later + MAX_WAIT);
        warming.follow(&[], later);
        assert_eq!(warming.deadline(), Instant::FAR_FUTURE);
    }
}
