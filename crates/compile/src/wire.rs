// SPDX-License-Identifier: Apache-2.0
//! Small values of the API as the messages want them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use remora_model::ObjectRef;
use remora_primitives::{Percent, Port};
use remora_xds_types::core::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, Metadata, SocketAddress, address,
    config_source, socket_address,
};
use remora_xds_types::protobuf::value::Kind;
use remora_xds_types::protobuf::{
    Any, BoolValue, Duration as ProtoDuration, ListValue, Struct, UInt32Value, Value,
};
use remora_xds_types::{Message, Name, canonical, types};

pub(crate) fn duration(value: Duration) -> Option<ProtoDuration> {
    // The API's limit is about 10,000 years; what is longer is as good as that.
    const LONGEST: u64 = 315_576_000_000;
    Some(ProtoDuration {
        seconds: i64::try_from(value.as_secs().min(LONGEST)).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    })
}

/// A duration where the API wants more than nothing: shorter ones than a millisecond are left out.
pub(crate) fn positive(value: Duration) -> Option<ProtoDuration> {
    (value >= Duration::from_millis(1))
        .then(|| duration(value))
        .flatten()
}

/// Weights in the same ratios whose sum the API can say: it refuses sums beyond 32 bits.
pub(crate) fn scaled(weights: impl IntoIterator<Item = u32, IntoIter: Clone>) -> Vec<u32> {
    let weights = weights.into_iter();
    let sum: u64 = weights.clone().map(u64::from).sum();
    let most = u64::from(u32::MAX);
    if sum <= most {
        return weights.collect();
    }
    // Rounded down, but never to nothing: the count of weights is far below what is spared here.
    let divisor = sum / (most / 2);
    let part = |weight: u32| u32::try_from((u64::from(weight) / divisor).max(1)).unwrap_or(1);
    weights.map(part).collect()
}

pub(crate) const fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(crate) const fn flag(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(crate) fn percent(value: Percent) -> Option<types::Percent> {
    Some(types::Percent { value: value.get() })
}

/// A percentage as a fraction of a million, which says every percentage with four decimals.
pub(crate) fn fraction(value: Percent) -> types::FractionalPercent {
    types::FractionalPercent {
        numerator: round(value.get() * 10_000.0),
        denominator: types::fractional_percent::DenominatorType::Million.into(),
    }
}

/// A whole number of percent, rounded.
pub(crate) fn whole_percent(value: Percent) -> u32 {
    round(value.get())
}

/// Rounds a number that is known to be between 0 and a million.
fn round(value: f64) -> u32 {
    format!("{value:.0}").parse().unwrap_or(0)
}

/// An `Any` in canonical form.
pub(crate) fn any<T: Message + Name>(message: &T) -> Option<Any> {
    Some(canonical::pack(message))
}

pub(crate) fn socket(host: impl ToString, port: u16) -> SocketAddress {
    SocketAddress {
        address: host.to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    }
}

pub(crate) fn address(ip: IpAddr, port: Port) -> Option<Address> {
    named_address(ip, port)
}

pub(crate) fn named_address(host: impl ToString, port: Port) -> Option<Address> {
    let socket = socket(host, port.get());
    Some(Address {
        address: Some(address::Address::SocketAddress(socket)),
    })
}

/// "Over the stream that this came by"; a proxy waits for it without limit, as under Istio.
pub(crate) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        initial_fetch_timeout: duration(Duration::ZERO),
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(
            AggregatedConfigSource {},
        )),
        ..ConfigSource::default()
    })
}

/// The metadata below `istio`, where dashboards and `explain` look for where a thing comes from.
pub(crate) fn metadata(fields: BTreeMap<String, Value>) -> Option<Metadata> {
    if fields.is_empty() {
        return None;
    }
    let fields = fields.into_iter().collect();
    Some(Metadata {
        filter_metadata: [("istio".to_owned(), Struct { fields })].into(),
        ..Metadata::default()
    })
}

/// The path of an object in Kubernetes' API, as Istio writes it into metadata.
pub(crate) fn origin_path(origin: &ObjectRef) -> Value {
    let mut kind = String::new();
    for (at, letter) in origin.kind.as_str().char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            kind.push('-');
        }
        kind.push(letter.to_ascii_lowercase());
    }
    text(format!(
        "/apis/networking.istio.io/v1/namespaces/{}/{kind}/{}",
        origin.namespace, origin.name
    ))
}

pub(crate) fn text(value: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.into())),
    }
}

pub(crate) const fn truth() -> Value {
    Value {
        kind: Some(Kind::BoolValue(true)),
    }
}

pub(crate) fn list(values: Vec<Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    }
}

pub(crate) fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let fields = fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    Value {
        kind: Some(Kind::StructValue(Struct { fields })),
    }
}
