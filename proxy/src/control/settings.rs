// SPDX-License-Identifier: Apache-2.0
//! Who this proxy is and where its control plane is, as the command line says it.
//!
//! The flags make what a bootstrap file would say for the usual case: a sidecar's node id, the
//! metadata that control planes read, the aggregated discovery service at one address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use remora_ir::SlotTable;
use remora_ir::cluster::Cluster;
use remora_ir::listener::Listener;
use remora_translate::{self as translate, Context, Protocol, Target};
use remora_xds_client::Mode;
use remora_xds_types::core::Node;
use remora_xds_types::protobuf::value::Kind;
use remora_xds_types::protobuf::{Struct, Value};

use crate::cli::NodeArgs;
use crate::state::Identity;

/// What the process is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who this proxy is; sent to the control plane as it is.
    pub node: Node,
    /// Who steers it, if anyone.
    pub control_plane: Option<ControlPlane>,
    /// Where the admin listens, if the bootstrap file says so.
    pub admin: Option<SocketAddr>,
    /// Listeners from the start.
    pub listeners: Vec<Arc<Listener>>,
    /// Clusters from the start.
    pub clusters: Vec<Arc<Cluster>>,
    /// What translation needs, slots included.
    pub context: Context,
    /// The bootstrap file as it was read, for the admin's dump.
    pub file: Option<serde_json::Value>,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// `host:port`.
    pub address: String,
    /// Which variant of the protocol is spoken.
    pub mode: Mode,
    /// Whether clusters come from it.
    pub clusters: bool,
    /// Whether listeners come from it.
    pub listeners: bool,
}

impl Settings {
    /// What the flags say: a sidecar whose configuration all comes from one address.
    pub fn from_flags(args: &NodeArgs) -> Self {
        let node = node_from_flags(args);
        let context = Context::for_node(SlotTable::default(), &node.id);
        let control_plane = args.control_plane.as_ref().map(|address| ControlPlane {
            address: address.clone(),
            mode: Mode::Delta,
            clusters: true,
            listeners: true,
        });
        Self {
            node,
            control_plane,
            admin: None,
            listeners: Vec::new(),
            clusters: Vec::new(),
            context,
            file: None,
        }
    }

    /// What a bootstrap file says; what it says in vain is logged.
    ///
    /// # Errors
    /// With every fault of the file, and if its control plane is one that cannot be dialled.
    pub fn from_bootstrap(text: &str) -> anyhow::Result<Self> {
        let translated = remora_translate::bootstrap(text, &SlotTable::default())?;
        for notice in &translated.notices {
            tracing::warn!(%notice, "bootstrap");
        }
        let bootstrap = translated.value;
        let control_plane = bootstrap.control_plane.as_ref().map(dialable).transpose()?;
        Ok(Self {
            node: bootstrap.node,
            control_plane,
            admin: bootstrap.admin.map(|admin| admin.address),
            listeners: bootstrap.listeners,
            clusters: bootstrap.clusters,
            context: bootstrap.context,
            file: serde_saphyr::from_str(text).ok(),
        })
    }
}

/// The control plane of a bootstrap file, if it is one that this program can dial.
fn dialable(said: &translate::ControlPlane) -> anyhow::Result<ControlPlane> {
    let [target] = said.targets.as_slice() else {
        anyhow::bail!(
            "cluster `{}`: {} endpoints, expected one: fail-over between control planes is not supported",
            said.cluster,
            said.targets.len()
        );
    };
    if said.authority.is_some() || !said.initial_metadata.is_empty() {
        anyhow::bail!("ads_config: `authority` and `initial_metadata` are not supported");
    }
    let address = match target {
        Target::Socket(address) => address.to_string(),
        Target::Name(name, port) => format!("{name}:{port}"),
        Target::Pipe(path) => {
            anyhow::bail!("cluster `{}`: pipe `{path}` is not supported", said.cluster)
        }
    };
    Ok(ControlPlane {
        address,
        mode: match said.protocol {
            Protocol::Delta => Mode::Delta,
            Protocol::StateOfTheWorld => Mode::Sotw,
        },
        clusters: said.clusters,
        listeners: said.listeners,
    })
}

/// Makes the node that the flags describe. Source: Istio's `sidecar~ip~name.namespace~domain`.
pub fn node_from_flags(args: &NodeArgs) -> Node {
    let ips = if args.ip.is_empty() {
        own_addresses()
    } else {
        args.ip.clone()
    };
    let whole_id = args.node.as_deref().filter(|node| node.contains('~'));
    let named = args.node.as_deref().filter(|node| !node.contains('~'));
    let said = named.or(args.name.as_deref()).map(str::to_owned);
    let mut name = said.unwrap_or_else(host_name);
    let mut namespace = args.namespace.clone();
    if let Some((_, of_id, in_id)) = whole_id.and_then(parts) {
        of_id.clone_into(&mut name);
        namespace = namespace.or_else(|| Some(in_id.to_owned()));
    }
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let first = ips
        .first()
        .copied()
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let id = whole_id.map_or_else(
        || format!("sidecar~{first}~{name}.{namespace}~{namespace}.svc.cluster.local"),
        str::to_owned,
    );
    let cluster = args.cluster.clone();
    Node {
        id,
        cluster: cluster.unwrap_or_else(|| format!("{name}.{namespace}")),
        metadata: Some(metadata(&namespace, &ips, &args.label)),
        user_agent_name: "remora".to_owned(),
        ..Node::default()
    }
}

/// What logs and admin need of a node.
pub fn identity(node: &Node) -> Identity {
    let of_metadata =
        node.metadata
            .as_ref()
            .and_then(|metadata| match &metadata.fields.get("NAMESPACE")?.kind {
                Some(Kind::StringValue(namespace)) => Some(namespace.as_str()),
                _ => None,
            });
    let of_id = parts(&node.id).map(|(_, _, namespace)| namespace);
    Identity {
        node_id: node.id.as_str().into(),
        cluster: node.cluster.as_str().into(),
        namespace: of_metadata.or(of_id).unwrap_or_default().into(),
    }
}

/// Whether a node's traffic is redirected to it: Istio's kind of proxy that sits beside a workload.
pub fn is_sidecar(node: &Node) -> bool {
    node.id.starts_with("sidecar~")
}

/// Address, name and namespace in `sidecar~10.0.0.1~app.shop~shop.svc.cluster.local`.
fn parts(id: &str) -> Option<(&str, &str, &str)> {
    let mut fields = id.split('~');
    let (_, address, workload) = (fields.next()?, fields.next()?, fields.next()?);
    let (name, namespace) = workload.rsplit_once('.')?;
    Some((address, name, namespace))
}

fn metadata(namespace: &str, ips: &[IpAddr], labels: &[(String, String)]) -> Struct {
    let ips: Vec<_> = ips.iter().map(ToString::to_string).collect();
    let labels = labels.iter().map(|(key, value)| (key.clone(), text(value)));
    let labels = Struct {
        fields: labels.collect(),
    };
    let fields = [
        ("NAMESPACE", text(namespace)),
        ("INSTANCE_IPS", text(&ips.join(","))),
        ("LABELS", value(Kind::StructValue(labels))),
    ];
    Struct {
        fields: fields
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect(),
    }
}

fn text(text: &str) -> Value {
    value(Kind::StringValue(text.to_owned()))
}

const fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

/// The addresses that this machine sends from, one for each family that it has a way out by;
/// nothing is sent to find them.
fn own_addresses() -> Vec<IpAddr> {
    let probe = |from: SocketAddr, to: SocketAddr| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let v4 = probe(([0, 0, 0, 0], 0).into(), ELSEWHERE_V4.into());
    let v6 = probe(([0_u16; 8], 0).into(), ELSEWHERE_V6.into());
    let found: Vec<_> = v4.into_iter().chain(v6).collect();
    if found.is_empty() {
        vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]
    } else {
        found
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "proxy" } else { name }.to_owned()
}

/// Kubernetes' default.
const DEFAULT_NAMESPACE: &str = "default";
/// Addresses for documentation (RFC 5737, RFC 3849): surely elsewhere.
const ELSEWHERE_V4: ([u8; 4], u16) = ([192, 0, 2, 1], 9);
/// Likewise.
const ELSEWHERE_V6: ([u16; 8], u16) = ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9);

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> NodeArgs {
        NodeArgs {
            name: Some("app-1".to_owned()),
            namespace: Some("shop".to_owned()),
            ip: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()],
            label: vec![("app".to_owned(), "app".to_owned())],
            ..NodeArgs::default()
        }
    }

    #[test]
    fn the_parts_make_a_sidecars_node() {
        let node = node_from_flags(&flags());
        assert_eq!(
            node.id,
            "sidecar~10.0.0.1~app-1.shop~shop.svc.cluster.local"
        );
        assert_eq!(node.cluster, "app-1.shop");
        let fields = node.metadata.as_ref().expect("metadata").fields.clone();
        assert_eq!(fields["NAMESPACE"], text("shop"));
        assert_eq!(fields["INSTANCE_IPS"], text("10.0.0.1,10.0.0.2"));
        let Some(Kind::StructValue(labels)) = &fields["LABELS"].kind else {
            panic!("labels are fields");
        };
        assert_eq!(labels.fields["app"], text("app"));
        assert_eq!(&*identity(&node).namespace, "shop");
        assert!(is_sidecar(&node));
    }

    #[test]
    fn a_whole_id_is_taken_as_it_is() {
        let id = "sidecar~10.9.9.9~web.front~front.svc.cluster.local";
        let node = node_from_flags(&NodeArgs {
            node: Some(id.to_owned()),
            ..NodeArgs::default()
        });
        assert_eq!(node.id, id);
        assert_eq!(node.cluster, "web.front");
        assert_eq!(&*identity(&node).namespace, "front");
    }

    #[test]
    fn what_is_not_said_is_found() {
        let node = node_from_flags(&NodeArgs::default());
        let (address, name, namespace) = parts(&node.id).expect("a sidecar's id");
        assert!(address.parse::<IpAddr>().is_ok(), "{}", node.id);
        assert!(!name.is_empty());
        assert_eq!(namespace, "default");
    }

    #[test]
    fn an_id_without_parts_has_no_namespace() {
        let node = Node {
            id: "edge".to_owned(),
            ..Node::default()
        };
        assert_eq!(&*identity(&node).namespace, "");
        assert!(!is_sidecar(&node));
    }
}
