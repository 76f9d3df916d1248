// SPDX-License-Identifier: Apache-2.0
//! Response flags: the short reasons in the access log. Source: Envoy's `%RESPONSE_FLAGS%`.

use std::fmt;

/// A set of response flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// `UH`: no healthy upstream host.
    pub const NO_HEALTHY_UPSTREAM: Self = Self(1);
    /// `UF`: the connection to the upstream failed.
    pub const UPSTREAM_CONNECTION_FAILURE: Self = Self(1 << 1);
    /// `UO`: a circuit limit was met.
    pub const UPSTREAM_OVERFLOW: Self = Self(1 << 2);
    /// `NR`: no route, or no filter chain.
    pub const NO_ROUTE: Self = Self(1 << 3);
    /// `URX`: retries or connect attempts were used up.
    pub const RETRY_LIMIT_EXCEEDED: Self = Self(1 << 4);
    /// `NC`: the cluster does not exist.
    pub const NO_CLUSTER: Self = Self(1 << 5);
    /// `UC`: the upstream closed the connection.
    pub const UPSTREAM_CONNECTION_TERMINATION: Self = Self(1 << 6);
    /// `UR`: the upstream reset the stream.
    pub const UPSTREAM_REMOTE_RESET: Self = Self(1 << 7);
    /// `LR`: the stream was reset here.
    pub const LOCAL_RESET: Self = Self(1 << 8);
    /// `UT`: the upstream did not answer in time.
    pub const UPSTREAM_TIMEOUT: Self = Self(1 << 9);
    /// `UPE`: the upstream broke its protocol.
    pub const UPSTREAM_PROTOCOL_ERROR: Self = Self(1 << 10);
    /// `DC`: the downstream went away.
    pub const DOWNSTREAM_CLOSED: Self = Self(1 << 11);
    /// `DPE`: the downstream broke its protocol.
    pub const DOWNSTREAM_PROTOCOL_ERROR: Self = Self(1 << 12);
    /// `SI`: the stream was silent for too long.
    pub const STREAM_IDLE: Self = Self(1 << 13);
    /// `DT`: the request or connection was older than allowed.
    pub const DURATION_TIMEOUT: Self = Self(1 << 14);
    /// `OM`: the process was over its limits.
    pub const OVERLOAD: Self = Self(1 << 15);

    const NAMES: [(Self, &'static str); 16] = [
        (Self::NO_HEALTHY_UPSTREAM, "UH"),
        (Self::UPSTREAM_CONNECTION_FAILURE, "UF"),
        (Self::UPSTREAM_OVERFLOW, "UO"),
        (Self::NO_ROUTE, "NR"),
        (Self::RETRY_LIMIT_EXCEEDED, "URX"),
        (Self::NO_CLUSTER, "NC"),
        (Self::UPSTREAM_CONNECTION_TERMINATION, "UC"),
        (Self::UPSTREAM_REMOTE_RESET, "UR"),
        (Self::LOCAL_RESET, "LR"),
        (Self::UPSTREAM_TIMEOUT, "UT"),
        (Self::UPSTREAM_PROTOCOL_ERROR, "UPE"),
        (Self::DOWNSTREAM_CLOSED, "DC"),
        (Self::DOWNSTREAM_PROTOCOL_ERROR, "DPE"),
        (Self::STREAM_IDLE, "SI"),
        (Self::DURATION_TIMEOUT, "DT"),
        (Self::OVERLOAD, "OM"),
    ];

    /// Nothing to say.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// Both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any flag of `other` is set.
    #[must_use]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether none is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Flags {
    /// Writes the names with commas between them; `-` if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut separator = "";
        for (flag, name) in Self::NAMES {
            if self.has_any(flag) {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_as_envoy_prints_them() {
        assert_eq!(Flags::none().to_string(), "-");
        let both = Flags::UPSTREAM_TIMEOUT.union(Flags::RETRY_LIMIT_EXCEEDED);
        assert_eq!(both.to_string(), "URX,UT");
    }
}
