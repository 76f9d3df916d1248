// SPDX-License-Identifier: Apache-2.0
//! Kubernetes' `Service`, `EndpointSlice` and `Pod`.
//!
//! Fields of a pod that only a kubelet cares about are known and passed over; what is in no
//! version of the API is reported.

use std::net::IpAddr;
use std::sync::Arc;

use remora_model::{
    EndpointAddress, Health, Labels, Locality, Namespace, Protocol, ServicePort, TargetPort,
    Visibility,
};
use remora_primitives::{HostName, Port};

use super::fields::{Field, Fields};
use super::object::{ClusterIp, ClusterService, EndpointSlice, Meta, Object, Pod, SliceEndpoint};
use super::values::{Home, labels, protocol};

/// Reads a `Service`.
#[must_use]
pub fn read_service(meta: Meta, fields: &Fields<'_>, home: &Home) -> Option<Object> {
    fields.ignore(&["status"]);
    let spec = fields.require("spec")?.fields()?;
    spec.ignore(IGNORED_SERVICE);
    warn_unless(&spec, "sessionAffinity", "None");
    warn_unless(&spec, "internalTrafficPolicy", "Cluster");
    spec.no_effect(&["trafficDistribution"]);
    let ports = read_ports(&spec);
    let selector = spec
        .take("selector")
        .map_or_else(Labels::default, |field| labels(&field));
    let publish_not_ready = spec.boolean("publishNotReadyAddresses").unwrap_or(false);
    let cluster_ip = read_cluster_ip(&spec)?;
    // A service's name is one label, and so by the rule of namespaces' names.
    let label = Namespace::try_new(meta.name()).map(|_| home.service_host(meta.name()));
    let host = label.and_then(|host| HostName::try_new(&host));
    let host = host
        .map_err(|error| fields.own().error(error.to_string()))
        .ok()?;
    let visibility = export_to(&meta);
    Some(Object::Service(ClusterService {
        meta,
        host,
        cluster_ip,
        selector,
        ports,
        publish_not_ready,
        visibility,
    }))
}

fn warn_unless(spec: &Fields<'_>, key: &str, default: &str) {
    let Some(field) = spec.take(key) else { return };
    if field.text().is_some_and(|value| value != default) {
        field.warn("not supported yet: has no effect");
    }
}

fn read_cluster_ip(spec: &Fields<'_>) -> Option<ClusterIp> {
    let kind = spec.text("type").unwrap_or("ClusterIP");
    let external = spec.take("externalName");
    let single = spec.take("clusterIP");
    let several = spec.list("clusterIPs");
    if kind == "ExternalName" {
        let Some(field) = external else {
            spec.own().error("`externalName` is missing");
            return None;
        };
        let name = HostName::try_new(field.text()?).map_err(|e| field.error(e.to_string()));
        return name.ok().map(ClusterIp::External);
    }
    let written = if several.is_empty() {
        single.into_iter().collect()
    } else {
        several
    };
    let mut addresses = Vec::new();
    for field in written {
        match field.text()? {
            "" => {}
            "None" => return Some(ClusterIp::Headless),
            text => match text.parse::<IpAddr>() {
                Ok(ip) => addresses.push(ip),
                Err(_) => field.error(format!("`{text}` is no address")),
            },
        }
    }
    Some(if addresses.is_empty() {
        ClusterIp::Unset
    } else {
        ClusterIp::Addresses(addresses)
    })
}

fn read_ports(spec: &Fields<'_>) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for item in spec.list("ports") {
        let Some(port) = item.fields().and_then(|fields| read_port(&fields)) else {
            continue;
        };
        let Some(twin) = ports.iter_mut().find(|other| other.number == port.number) else {
            if !port.name.is_empty() && ports.iter().any(|other| other.name == port.name) {
                item.error(format!("port name `{}` is used twice", port.name));
            }
            ports.push(port);
            continue;
        };
        // One number for TCP and UDP (DNS) is fine: of the two, only TCP is carried.
        match (
            twin.protocol == Protocol::Udp,
            port.protocol == Protocol::Udp,
        ) {
            (true, false) => *twin = port,
            (false, true) => {}
            _ => item.error(format!("port {} is listed twice", port.number)),
        }
    }
    ports
}

fn read_port(fields: &Fields<'_>) -> Option<ServicePort> {
    fields.ignore(&["nodePort"]);
    let name = fields.text("name").unwrap_or_default();
    let transport = fields.take("protocol");
    let app_protocol = fields.text("appProtocol");
    let target = fields.take("targetPort");
    let number = fields.require("port")?.port()?;
    let udp = match transport.as_ref().and_then(Field::text) {
        None | Some("TCP") => false,
        Some("UDP") => true,
        Some(other) => {
            fields.own().warn(format!(
                "protocol `{other}` is not carried: the port is left out"
            ));
            return None;
        }
    };
    let target = match target {
        None => TargetPort::Number(number),
        Some(field) if field.is_integer() => match field.port() {
            Some(port) => TargetPort::Number(port),
            None => return None,
        },
        Some(field) => match field.text()?.parse::<Port>() {
            Ok(port) => TargetPort::Number(port),
            Err(_) => TargetPort::Name(field.text()?.into()),
        },
    };
    let protocol = if udp {
        Protocol::Udp
    } else {
        protocol(app_protocol, name, number.get())
    };
    Some(ServicePort {
        number,
        name: name.into(),
        protocol,
        target,
    })
}

/// Istio's annotation for who may see a service: namespaces, `.` or `*`, separated by commas.
fn export_to(meta: &Meta) -> Visibility {
    let Some(text) = meta.annotations.value("networking.istio.io/exportTo") else {
        return Visibility::Everyone;
    };
    let words = || {
        text.split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
    };
    if words().any(|word| word == "*") {
        return Visibility::Everyone;
    }
    let namespace = |word: &str| match word {
        "." => Some(meta.namespace().clone()),
        other => Namespace::try_new(other).ok(),
    };
    Visibility::Namespaces(words().filter_map(namespace).collect())
}

/// Reads an `EndpointSlice`.
#[must_use]
pub fn read_slice(meta: Meta, fields: &Fields<'_>) -> Option<Object> {
    let kind = fields.require("addressType");
    let kind = kind.as_ref().and_then(Field::text);
    let mut ports = Vec::new();
    for port in fields.list("ports").iter().filter_map(Field::fields) {
        port.ignore(&["appProtocol", "protocol"]);
        let name = port.text("name").unwrap_or_default();
        if let Some(number) = port.take("port").and_then(|field| field.port()) {
            ports.push((Arc::from(name), number));
        }
    }
    let endpoints = fields.list("endpoints");
    let endpoints = endpoints
        .iter()
        .filter_map(|item| read_slice_endpoint(item, kind?))
        .collect();
    let service = meta
        .labels
        .value("kubernetes.io/service-name")
        .unwrap_or_default()
        .into();
    Some(Object::EndpointSlice(EndpointSlice {
        meta,
        service,
        ports,
        endpoints,
    }))
}

fn read_slice_endpoint(item: &Field<'_>, kind: &str) -> Option<SliceEndpoint> {
    let fields = item.fields()?;
    fields.ignore(&["deprecatedTopology", "hints", "nodeName"]);
    let zone = fields.text("zone").unwrap_or_default().into();
    let hostname = fields.text("hostname").map(Arc::from);
    let health = fields
        .map("conditions")
        .map_or(Health::Healthy, |conditions| {
            let ready = conditions.boolean("ready");
            let serving = conditions.boolean("serving").or(ready).unwrap_or(true);
            let terminating = conditions.boolean("terminating").unwrap_or(false);
            match (ready.unwrap_or(true), serving, terminating) {
                (true, ..) => Health::Healthy,
                (false, true, true) => Health::Draining,
                _ => Health::Unready,
            }
        });
    let pod = fields.map("targetRef").and_then(|target| {
        target.ignore(&[
            "apiVersion",
            "fieldPath",
            "namespace",
            "resourceVersion",
            "uid",
        ]);
        let name = target.text("name");
        (target.text("kind") == Some("Pod"))
            .then_some(name)
            .flatten()
            .map(Arc::from)
    });
    let addresses = fields.list("addresses");
    let Some(first) = addresses.first() else {
        item.error("`addresses` is empty");
        return None;
    };
    let text = first.text()?;
    let address = match kind {
        "FQDN" => HostName::try_new(text)
            .map(EndpointAddress::Name)
            .map_err(|e| e.to_string()),
        _ => text
            .parse()
            .map(EndpointAddress::Ip)
            .map_err(|_| format!("`{text}` is no address")),
    };
    let address = address.map_err(|reason| first.error(reason)).ok()?;
    Some(SliceEndpoint {
        address,
        health,
        zone,
        hostname,
        pod,
    })
}

/// Reads a `Pod`.
#[must_use]
pub fn read_pod(meta: Meta, fields: &Fields<'_>) -> Option<Object> {
    let status = read_pod_status(fields.map("status").as_ref());
    let spec = fields.require("spec")?.fields()?;
    spec.ignore(IGNORED_POD);
    let hostname: Option<Arc<str>> = spec.text("hostname").map(Arc::from);
    let subdomain: Option<Arc<str>> = spec.text("subdomain").map(Arc::from);
    let old_account = spec.text("serviceAccount");
    let service_account = spec
        .text("serviceAccountName")
        .or(old_account)
        .unwrap_or("default");
    let mut ports = Vec::new();
    for list in ["containers", "initContainers"] {
        for container in spec.list(list).iter().filter_map(Field::fields) {
            container.ignore(IGNORED_CONTAINER);
            let items = container.list("ports");
            ports.extend(
                items
                    .iter()
                    .filter_map(Field::fields)
                    .filter_map(|p| read_named(&p)),
            );
        }
    }
    let locality = pod_locality(&meta.labels);
    let name = hostname.or_else(|| subdomain.is_some().then(|| Arc::clone(meta.name())));
    Some(Object::Pod(Pod {
        addresses: status.addresses,
        health: status.health,
        ports,
        service_account: service_account.into(),
        hostname: name.zip(subdomain),
        locality,
        meta,
    }))
}

fn read_named(port: &Fields<'_>) -> Option<(Arc<str>, Port)> {
    port.ignore(&["hostIP", "hostPort", "protocol"]);
    let name = port.text("name");
    let number = port.require("containerPort")?.port()?;
    Some((name?.into(), number))
}

struct PodStatus {
    addresses: Vec<IpAddr>,
    health: Health,
}

/// A pod without conditions, as people write them by hand, counts as ready.
fn read_pod_status(status: Option<&Fields<'_>>) -> PodStatus {
    let Some(status) = status else {
        return PodStatus {
            addresses: Vec::new(),
            health: Health::Unready,
        };
    };
    status.ignore(IGNORED_POD_STATUS);
    let mut addresses = Vec::new();
    let primary = status.take("podIP");
    let others = status.list("podIPs");
    let others = others
        .iter()
        .filter_map(Field::fields)
        .filter_map(|item| item.take("ip"));
    for field in primary.into_iter().chain(others) {
        let Some(text) = field.text().filter(|text| !text.is_empty()) else {
            continue;
        };
        match text.parse() {
            Ok(ip) if addresses.contains(&ip) => {}
            Ok(ip) => addresses.push(ip),
            Err(_) => field.error(format!("`{text}` is no address")),
        }
    }
    let over = matches!(
        status.text("phase"),
        Some("Succeeded" | "Failed" | "Pending")
    );
    let mut ready = true;
    for condition in status.list("conditions").iter().filter_map(Field::fields) {
        condition.ignore_all();
        if condition.text("type") == Some("Ready") {
            ready = condition.text("status") == Some("True");
        }
    }
    let health = if ready && !over {
        Health::Healthy
    } else {
        Health::Unready
    };
    PodStatus { addresses, health }
}

fn pod_locality(labels: &Labels) -> Locality {
    if let Some(path) = labels.value("istio-locality") {
        // Label values cannot hold a slash: dots stand for it.
        return Locality::from_path(&path.replace('.', "/"));
    }
    let value = |name| labels.value(name).unwrap_or_default().into();
    Locality {
        region: value("topology.kubernetes.io/region"),
        zone: value("topology.kubernetes.io/zone"),
        sub_zone: value("topology.istio.io/subzone"),
    }
}

const IGNORED_SERVICE: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "externalIPs",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "sessionAffinityConfig",
];

const IGNORED_POD: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostnameOverride",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

const IGNORED_CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

const IGNORED_POD_STATUS: &[&str] = &[
    "containerStatuses",
    "ephemeralContainerStatuses",
    "extendedResourceClaimStatus",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "nominatedNodeName",
    "observedGeneration",
    "qosClass",
    "reason",
    "resize",
    "resourceClaimStatuses",
    "startTime",
];
