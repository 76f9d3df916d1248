// SPDX-License-Identifier: Apache-2.0
//! Small values that many messages share: durations, shares, wrapped scalars, enum words.

use std::time::Duration;

use remora_primitives::{Fraction, Percent, Port};
use remora_xds_types::core::RuntimeFractionalPercent;
use remora_xds_types::protobuf::{self, BoolValue, UInt32Value};
use remora_xds_types::types;
use remora_xds_types::types::fractional_percent::DenominatorType;

use crate::fault::Scope;

/// A duration as it is; a negative or malformed one is a fault.
pub(crate) fn duration(scope: &Scope<'_>, value: protobuf::Duration) -> Option<Duration> {
    let parts = (u64::try_from(value.seconds), u32::try_from(value.nanos));
    match parts {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Some(Duration::new(seconds, nanos)),
        _ => {
            scope.fault(format!(
                "duration of {} s and {} ns is negative or malformed",
                value.seconds, value.nanos
            ));
            None
        }
    }
}

/// A duration, or what stands in for an absent one.
pub(crate) fn duration_or(
    scope: &Scope<'_>,
    value: Option<protobuf::Duration>,
    default: Duration,
) -> Duration {
    value
        .and_then(|value| duration(scope, value))
        .unwrap_or(default)
}

/// A bound that an explicit zero switches off.
pub(crate) fn bound_or(
    scope: &Scope<'_>,
    value: Option<protobuf::Duration>,
    default: Option<Duration>,
) -> Option<Duration> {
    match value {
        None => default,
        Some(value) => duration(scope, value).filter(|bound| !bound.is_zero()),
    }
}

/// A duration that must be above zero.
pub(crate) fn positive_or(
    scope: &Scope<'_>,
    value: Option<protobuf::Duration>,
    default: Duration,
) -> Duration {
    let value = duration_or(scope, value, default);
    if value.is_zero() {
        scope.fault("is zero (expected more)");
    }
    value
}

/// A wrapped boolean.
pub(crate) fn flag(value: Option<BoolValue>, default: bool) -> bool {
    value.map_or(default, |wrapped| wrapped.value)
}

/// A wrapped number.
pub(crate) fn number(value: Option<UInt32Value>) -> Option<u32> {
    value.map(|wrapped| wrapped.value)
}

/// A port that can be dialled.
pub(crate) fn port(scope: &Scope<'_>, value: u32) -> Option<Port> {
    let port = u16::try_from(value).ok().and_then(Port::new);
    if port.is_none() {
        scope.fault(format!("port {value} (expected 1 to 65535)"));
    }
    port
}

/// A port that may be zero.
pub(crate) fn any_port(scope: &Scope<'_>, value: u32) -> Option<u16> {
    let port = u16::try_from(value).ok();
    if port.is_none() {
        scope.fault(format!("port {value} (expected 0 to 65535)"));
    }
    port
}

/// A percentage, 0 to 100.
pub(crate) fn percent(scope: &Scope<'_>, value: f64) -> Option<Percent> {
    scope.take(Percent::try_new(value))
}

/// A fraction in one of the API's denominators.
pub(crate) fn fraction(scope: &Scope<'_>, value: types::FractionalPercent) -> Option<Fraction> {
    let denominator = match word::<DenominatorType>(scope, value.denominator)? {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    Some(Fraction {
        numerator: value.numerator,
        denominator: std::num::NonZeroU32::new(denominator)?,
    })
}

/// A fraction's default value: there is no runtime that could say otherwise.
pub(crate) fn runtime_fraction(
    scope: &Scope<'_>,
    value: RuntimeFractionalPercent,
) -> Option<Fraction> {
    use remora_xds_types::core;
    fields! { scope, value: core::RuntimeFractionalPercent {
        honoured { default_value: "required" }
        ignored { runtime_key: "there is no runtime: the default value holds" }
        refused {}
    }}
    let Some(default) = default_value else {
        scope.fault("default_value is missing");
        return None;
    };
    fraction(&scope.field("default_value"), default)
}

/// An enum's word; an unknown number is a fault.
pub(crate) fn word<E: TryFrom<i32>>(scope: &Scope<'_>, value: i32) -> Option<E> {
    let word = E::try_from(value).ok();
    if word.is_none() {
        scope.fault(format!("unknown enum value {value}"));
    }
    word
}
