// SPDX-License-Identifier: Apache-2.0
//! Shares of a whole: percentages, fractions in the API's own denominators, relative weights.

use std::fmt;
use std::num::NonZeroU32;

/// Why a number is not a share.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ShareError {
    /// A percentage outside 0 to 100, or not a number.
    #[error("percentage out of range: {0} (expected 0 to 100)")]
    Percent(f64),
    /// A weight of zero where only positive weights make sense.
    #[error("weight is zero (expected 1 or more)")]
    ZeroWeight,
}

/// A percentage. Unit: percent, 0 to 100, fractions allowed.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// None of it.
    pub const ZERO: Self = Self(0.0);
    /// All of it.
    pub const HUNDRED: Self = Self(100.0);

    /// Checks a number of percent.
    ///
    /// # Errors
    /// If it is not a number or not within 0 to 100.
    pub fn try_new(percent: f64) -> Result<Self, ShareError> {
        if (0.0..=100.0).contains(&percent) {
            Ok(Self(percent))
        } else {
            Err(ShareError::Percent(percent))
        }
    }

    /// The number of percent, 0 to 100.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The share of one, 0 to 1.
    #[must_use]
    pub fn ratio(self) -> f64 {
        self.0 / 100.0
    }
}

// Made only from numbers within range, so never NaN: equality is total.
impl Eq for Percent {}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// A fraction in one of the API's denominators. Source: `envoy.type.v3.FractionalPercent`.
///
/// A numerator above the denominator means "always", as in Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fraction {
    /// How many of `denominator`.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000 in the API.
    pub denominator: NonZeroU32,
}

impl Fraction {
    /// Always.
    pub const ALWAYS: Self = Self::percent(100);
    /// Never.
    pub const NEVER: Self = Self::percent(0);

    /// A whole number of percent.
    #[must_use]
    pub const fn percent(numerator: u32) -> Self {
        match NonZeroU32::new(100) {
            Some(denominator) => Self {
                numerator,
                denominator,
            },
            None => unreachable!(),
        }
    }

    /// Whether a uniformly random number selects: true for `numerator` of each `denominator`
    /// values of `random`.
    #[must_use]
    pub fn selects(self, random: u64) -> bool {
        random % u64::from(self.denominator.get()) < u64::from(self.numerator)
    }
}

/// A relative weight, one or more. Weights have no unit: only their ratios count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(NonZeroU32);

impl Weight {
    /// The weight of things that were given none.
    pub const ONE: Self = Self(NonZeroU32::MIN);

    /// Checks a weight.
    ///
    /// # Errors
    /// If it is zero.
    pub fn try_new(weight: u32) -> Result<Self, ShareError> {
        NonZeroU32::new(weight)
            .map(Self)
            .ok_or(ShareError::ZeroWeight)
    }

    /// The number itself, one or more.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_refuses_what_is_no_share() {
        for bad in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert!(Percent::try_new(bad).is_err(), "{bad}");
        }
        assert_eq!(Percent::try_new(12.5).map(Percent::ratio), Ok(0.125));
    }

    #[test]
    fn fraction_selects_its_share_of_each_denominator() {
        let tenth = Fraction::percent(10);
        assert_eq!((0..1000).filter(|&n| tenth.selects(n)).count(), 100);
        assert!((0..1000).all(|n| Fraction::ALWAYS.selects(n)));
        assert!(!(0..1000).any(|n| Fraction::NEVER.selects(n)));
    }

    #[test]
    fn weight_is_never_zero() {
        assert_eq!(Weight::try_new(0), Err(ShareError::ZeroWeight));
        assert_eq!(Weight::try_new(7).map(Weight::get), Ok(7));
    }
}
