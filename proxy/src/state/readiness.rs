// SPDX-License-Identifier: Apache-2.0
//! Whether traffic should be sent to this proxy.
//!
//! ```text
//!   Starting ──first configuration in use──▶ Live ──drain began──▶ Draining
//! ```
//!
//! Invariant: phases only go forward, so that a proxy that lost its control plane stays ready and
//! one that drains never becomes ready again.

use std::sync::atomic::{AtomicU8, Ordering};

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No configuration but the built-in one. Envoy: INITIALIZING.
    Starting,
    /// Configured, by the control plane, the last good configuration or the bootstrap alone.
    Live,
    /// It takes no new traffic. Envoy: DRAINING.
    Draining,
}

impl Phase {
    /// The word that Envoy's admin uses.
    pub const fn envoy_name(self) -> &'static str {
        match self {
            Self::Starting => "INITIALIZING",
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
        }
    }
}

/// The phase, shared by all threads.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

impl Readiness {
    /// Goes on to a phase; a call that would lead back changes nothing.
    pub fn advance(&self, to: Phase) {
        let to = match to {
            Phase::Starting => STARTING,
            Phase::Live => LIVE,
            Phase::Draining => DRAINING,
        };
        self.0.fetch_max(to, Ordering::AcqRel);
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            STARTING => Phase::Starting,
            LIVE => Phase::Live,
            _ => Phase::Draining,
        }
    }

    /// Whether traffic should be sent here.
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Live
    }
}

const STARTING: u8 = 0;
const LIVE: u8 = 1;
const DRAINING: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draining_proxy_never_becomes_ready_again() {
        let readiness = Readiness::default();
        assert_eq!(readiness.phase(), Phase::Starting);
        readiness.advance(Phase::Live);
        assert!(readiness.is_ready());
        readiness.advance(Phase::Draining);
        readiness.advance(Phase::Live);
        assert_eq!(readiness.phase(), Phase::Draining);
        assert!(!readiness.is_ready());
    }
}
