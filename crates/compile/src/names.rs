// SPDX-License-Identifier: Apache-2.0
//! How resources are called. The forms are Istio's, so that habits, dashboards and tools that
//! take cluster names apart carry over.

use std::fmt::Display;

use remora_primitives::Port;

/// Sends to the address that the caller dialled.
pub(crate) const PASSTHROUGH: &str = "PassthroughCluster";
/// Sends to the address that the peer dialled, on this workload.
pub(crate) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// Has no endpoints: whatever is sent there ends.
pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";
/// The listener that redirected outbound connections reach.
pub(crate) const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// The listener that redirected inbound connections reach.
pub(crate) const VIRTUAL_INBOUND: &str = "virtualInbound";
/// The DNS table's name: Istio's protocol gives it none, delta xDS needs one.
pub(crate) const NAME_TABLE: &str = "name-table";

/// The cluster of a service's port, or of a subset of it (empty: all).
pub(crate) fn outbound_cluster(port: Port, subset: &str, host: impl Display) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// The cluster for callers that dialled one instance of a headless service: it goes there.
pub(crate) fn direct_cluster(port: Port, host: impl Display) -> String {
    format!("direct|{port}||{host}")
}

/// The cluster of a local port.
pub(crate) fn inbound_cluster(port: Port) -> String {
    format!("inbound|{port}||")
}

/// The listener, or shared route table, of an address and port.
pub(crate) fn address_and_port(address: impl Display, port: Port) -> String {
    format!("{address}_{port}")
}

/// The route table and virtual host of a service's port.
pub(crate) fn host_and_port(host: impl Display, port: Port) -> String {
    format!("{host}:{port}")
}
