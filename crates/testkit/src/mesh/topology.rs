// SPDX-License-Identifier: Apache-2.0
//! Who lives where. The addresses are those of `examples/php-shop/mesh/*.yaml`.

use std::path::PathBuf;

use super::MeshKind;
use crate::bins;
use crate::lab::network;

/// A host of the shop.
#[derive(Debug, PartialEq, Eq)]
pub struct HostPlan {
    /// Its name, also that of its workload.
    pub name: &'static str,
    /// Its number, see [`network::addresses`].
    pub number: u8,
    /// What it does.
    pub role: Role,
}

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs the control plane.
    Infrastructure,
    /// nginx and php-fpm.
    Page,
    /// An instance of a Go service.
    Service {
        /// The service's name, which is also its program's.
        service: &'static str,
        /// The version it says it is.
        version: &'static str,
    },
    /// A server that speaks first, outside of the mesh.
    ServerFirst,
}

impl Role {
    /// Whether a sidecar runs beside it.
    pub fn has_sidecar(self) -> bool {
        matches!(self, Self::Page | Self::Service { .. })
    }

    /// The workload's labels `app` and `version`.
    pub fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Service { service, version } => (service, version),
            Self::Page => (PHP, "v1"),
            Self::Infrastructure => (CONTROL_PLANE, "v1"),
            Self::ServerFirst => (MYSQL, "v1"),
        }
    }
}

/// The host of the control plane.
pub const CONTROL_PLANE: &str = "cp";
/// The host of the page.
pub const PHP: &str = "php";
/// The host of the server that speaks first.
pub const MYSQL: &str = "mysql";

/// All hosts, services before those that call them.
pub const HOSTS: [HostPlan; 9] = [
    HostPlan {
        name: CONTROL_PLANE,
        number: 2,
        role: Role::Infrastructure,
    },
    service("sms-v1-a", 21, "sms", "v1"),
    service("sms-v1-b", 22, "sms", "v1"),
    service("sms-v2", 23, "sms", "v2"),
    service("message", 31, "message", "v1"),
    service("search", 41, "search", "v1"),
    service("front", 42, "front", "v1"),
    HostPlan {
        name: MYSQL,
        number: 51,
        role: Role::ServerFirst,
    },
    HostPlan {
        name: PHP,
        number: 10,
        role: Role::Page,
    },
];

const fn service(
    name: &'static str,
    number: u8,
    service: &'static str,
    version: &'static str,
) -> HostPlan {
    HostPlan {
        name,
        number,
        role: Role::Service { service, version },
    }
}

/// Where the control plane serves ADS.
pub const CONTROL_PLANE_PORT: u16 = 15010;
/// The admin port of every service's instance, on loopback.
pub const ADMIN_PORT: u16 = 9901;
/// The admin port of every proxy, on loopback.
pub const PROXY_ADMIN_PORT: u16 = 15000;
/// Where a proxy tells whether it is ready.
pub const READINESS_PORT: u16 = 15021;
/// Where the server that speaks first listens.
pub const MYSQL_PORT: u16 = 3306;
/// The Kubernetes namespace of all workloads.
pub const NAMESPACE: &str = "shop";

/// The example's folder, which is also its Go module, within the repository.
pub const MODULE: &str = "examples/php-shop";

/// The example's folder.
pub fn example() -> PathBuf {
    bins::repository().join(MODULE)
}

/// The files that every host has in `/etc` in place of the machine's.
pub fn etc(kind: MeshKind) -> Vec<(&'static str, String)> {
    // A resolver at an address where nobody answers: what the mesh knows never reaches it, and what
    // reaches it fails at once instead of leaving the lab.
    let (resolver, _) = network::addresses(2);
    let resolv_conf = format!(
        "nameserver {resolver}\nsearch {NAMESPACE}.svc.cluster.local svc.cluster.local \
         cluster.local\noptions ndots:5 timeout:2 attempts:2\n"
    );
    let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    if kind == MeshKind::Plain {
        let mut named = Vec::new();
        for plan in &HOSTS {
            let Role::Service { service, .. } = plan.role else {
                continue;
            };
            // The first instance stands for its service where nothing balances.
            if !named.contains(&service) {
                named.push(service);
                hosts.push_str(&format!(
                    "{} {service}\n",
                    network::addresses(plan.number).0
                ));
            }
        }
    }
    vec![("resolv.conf", resolv_conf), ("hosts", hosts)]
}
