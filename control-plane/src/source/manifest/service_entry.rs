// SPDX-License-Identifier: Apache-2.0
//! Istio's `ServiceEntry` and `WorkloadEntry`.

use std::net::IpAddr;
use std::sync::Arc;

use remora_model::{
    EndpointAddress, Host, Labels, Locality, Placement, Protocol, Resolution, ServicePort,
    TargetPort,
};
use remora_primitives::{HostName, Port, Weight};

use super::fields::{Field, Fields};
use super::object::{EntryEndpoint, Meta, Object, Place, ServiceEntry, WorkloadEntry};
use super::values::{Home, labels, parse_protocol, protocol};
use super::virtual_service::read_net;

/// Reads a `ServiceEntry`.
#[must_use]
pub fn read(meta: Meta, fields: &Fields<'_>, home: &Home) -> Option<Object> {
    fields.ignore(&["status"]);
    let spec = fields.require("spec")?.fields()?;
    // Names of the server's certificate: nothing is checked where nothing is encrypted.
    spec.no_effect(&["subjectAltNames"]);
    let visibility = home.visibility(&spec);
    let hosts = read_hosts(&spec);
    let addresses = spec.list("addresses").iter().filter_map(read_net).collect();
    let ports = read_ports(&spec);
    let placement = match spec.take("location") {
        None => Placement::External,
        Some(field) => match field.text()? {
            "MESH_EXTERNAL" => Placement::External,
            "MESH_INTERNAL" => Placement::Internal,
            other => {
                field.error(format!("unknown value `{other}`"));
                return None;
            }
        },
    };
    let selector = spec.map("workloadSelector").map(|selector| {
        selector
            .take("labels")
            .map_or_else(Labels::default, |field| labels(&field))
    });
    let endpoints_field = spec.take("endpoints");
    let endpoints = endpoints_field.as_ref().map_or_else(Vec::new, Field::list);
    let endpoints: Vec<_> = endpoints
        .iter()
        .filter_map(|f| read_endpoint(&f.fields()?))
        .collect();
    if selector.is_some() && !endpoints.is_empty() {
        spec.own().error("both `endpoints` and `workloadSelector`");
    }
    if selector.as_ref().is_some_and(Labels::is_empty) {
        spec.own()
            .error("`workloadSelector.labels` is missing or empty");
    }
    let resolution = read_resolution(&spec)?;
    check_resolution(&spec, resolution, (&hosts, &endpoints, selector.is_some()));
    Some(Object::ServiceEntry(Box::new(ServiceEntry {
        meta,
        hosts,
        addresses,
        ports,
        placement,
        resolution,
        endpoints,
        selector,
        visibility,
    })))
}

fn read_hosts(spec: &Fields<'_>) -> Vec<(Host, Place)> {
    let mut hosts: Vec<(Host, Place)> = Vec::new();
    let Some(list) = spec.require("hosts") else {
        return hosts;
    };
    let items = list.list();
    for field in &items {
        let Some(text) = field.text() else { continue };
        let host = match Host::try_new(text) {
            Ok(Host::Wildcard(suffix)) if suffix.is_empty() => {
                field.error("`*` stands for every host (expected a name or `*.suffix`)");
                continue;
            }
            Ok(host) => host,
            Err(error) => {
                field.error(error.to_string());
                continue;
            }
        };
        if hosts.iter().any(|(other, _)| *other == host) {
            field.warn(format!("host `{host}` is listed twice"));
            continue;
        }
        hosts.push((
            host,
            Place {
                line: field.line(),
                path: field.path().to_owned(),
            },
        ));
    }
    if items.is_empty() {
        list.error("there is no host");
    }
    hosts
}

fn read_ports(spec: &Fields<'_>) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for item in spec.list("ports") {
        let Some(port) = item.fields().and_then(|fields| read_port(&fields)) else {
            continue;
        };
        if ports.iter().any(|other| other.number == port.number) {
            item.error(format!("port {} is listed twice", port.number));
        } else if ports.iter().any(|other| other.name == port.name) {
            item.error(format!("port name `{}` is used twice", port.name));
        } else {
            ports.push(port);
        }
    }
    ports
}

fn read_port(fields: &Fields<'_>) -> Option<ServicePort> {
    let name = fields.text("name").unwrap_or_default();
    let declared = fields.take("protocol");
    let target = fields.take("targetPort").and_then(|field| field.port());
    let number = fields.require("number")?.port()?;
    let protocol = match declared
        .as_ref()
        .and_then(|field| Some((field, field.text()?)))
    {
        None => protocol(None, name, number.get()),
        Some((field, text)) => parse_protocol(text).unwrap_or_else(|| {
            field.warn(format!(
                "unknown protocol `{text}`: found out per connection"
            ));
            Protocol::Auto
        }),
    };
    let target = TargetPort::Number(target.unwrap_or(number));
    Some(ServicePort {
        number,
        name: name.into(),
        protocol,
        target,
    })
}

fn read_resolution(spec: &Fields<'_>) -> Option<Resolution> {
    let Some(field) = spec.take("resolution") else {
        return Some(Resolution::Passthrough);
    };
    match field.text()? {
        "NONE" => Some(Resolution::Passthrough),
        "STATIC" => Some(Resolution::Static),
        "DNS" => Some(Resolution::Dns),
        "DNS_ROUND_ROBIN" => Some(Resolution::DnsRoundRobin),
        "DYNAMIC_DNS" => {
            field.refuse("DYNAMIC_DNS is not supported yet; the object is not applied");
            None
        }
        other => {
            field.error(format!("unknown value `{other}`"));
            None
        }
    }
}

/// Istio's rules for which resolution goes with which hosts and endpoints.
fn check_resolution(
    spec: &Fields<'_>,
    resolution: Resolution,
    (hosts, endpoints, selects): (&[(Host, Place)], &[EntryEndpoint], bool),
) {
    let named = |e: &EntryEndpoint| matches!(e.address, EndpointAddress::Name(_));
    let own = spec.own();
    match resolution {
        Resolution::Passthrough if !endpoints.is_empty() => {
            own.error("resolution NONE with `endpoints` (expected STATIC or DNS)");
        }
        Resolution::Static if endpoints.iter().any(named) => {
            own.error("resolution STATIC with an endpoint that is a name (expected DNS)");
        }
        Resolution::Static if endpoints.is_empty() && !selects => {
            own.warn("resolution STATIC without endpoints: calls are answered with 503");
        }
        Resolution::Dns | Resolution::DnsRoundRobin => {
            let wildcard = hosts.iter().any(|(host, _)| host.is_wildcard());
            if wildcard && endpoints.is_empty() {
                own.error("resolution DNS of a wildcard host without endpoints");
            }
            if resolution == Resolution::DnsRoundRobin && endpoints.len() > 1 {
                own.error("resolution DNS_ROUND_ROBIN with several endpoints (at most one)");
            }
        }
        _ => {}
    }
}

/// Reads a `WorkloadEntry` that stands alone.
#[must_use]
pub fn read_workload(meta: Meta, fields: &Fields<'_>) -> Option<Object> {
    fields.ignore(&["status"]);
    let mut endpoint = read_endpoint(&fields.require("spec")?.fields()?)?;
    if endpoint.labels.is_empty() {
        endpoint.labels = meta.labels.clone();
    }
    Some(Object::WorkloadEntry(Box::new(WorkloadEntry {
        meta,
        endpoint,
    })))
}

fn read_endpoint(fields: &Fields<'_>) -> Option<EntryEndpoint> {
    fields.no_effect(&["network"]);
    let labels = fields
        .take("labels")
        .map(|field| labels(&field))
        .unwrap_or_default();
    let locality = fields.text("locality").map(Locality::from_path);
    let service_account = fields.text("serviceAccount").unwrap_or_default();
    let weight = fields
        .unsigned("weight")
        .and_then(|weight| Weight::try_new(weight).ok());
    let pairs = fields
        .take("ports")
        .map_or_else(Vec::new, |field| field.pairs());
    let ports: Vec<(Arc<str>, Port)> = pairs
        .iter()
        .filter_map(|(name, field)| Some((Arc::from(*name), field.port()?)))
        .collect();
    let address = read_address(&fields.require("address")?)?;
    Some(EntryEndpoint {
        address,
        ports,
        labels,
        locality: locality.unwrap_or_default(),
        weight: weight.unwrap_or(Weight::ONE),
        service_account: service_account.into(),
    })
}

fn read_address(field: &Field<'_>) -> Option<EndpointAddress> {
    let text = field.text()?;
    if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with('/') {
            field.error("a socket's path starts with `/`");
            return None;
        }
        return Some(EndpointAddress::Unix(path.into()));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(EndpointAddress::Ip(ip));
    }
    HostName::try_new(text)
        .map(EndpointAddress::Name)
        .map_err(|error| field.error(error.to_string()))
        .ok()
}
