// SPDX-License-Identifier: Apache-2.0
//! The ports that no listener configures: admin, metrics, readiness, DNS.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Context as _;
use remora_rt::sockets::{Families, ListenError, ListenSpec, Sockets};

use crate::admin::Admin;
use crate::cli::PortArgs;
use crate::state::{DnsSockets, share_out};

/// The local HTTP ports, open.
#[derive(Debug)]
pub(super) struct Local {
    admin: Vec<TcpListener>,
    prometheus: Vec<TcpListener>,
    readiness: Vec<TcpListener>,
}

/// Opens the local HTTP ports: admin on loopback only, the others on all addresses.
///
/// # Errors
/// If one of them cannot be had.
pub(super) fn open(
    ports: &PortArgs,
    of_bootstrap: Option<SocketAddr>,
    sockets: &mut Sockets,
) -> anyhow::Result<Local> {
    let local = Local {
        admin: open_admin(ports, of_bootstrap, sockets)?,
        prometheus: everywhere(ports.prometheus_port, sockets).context("metrics port")?,
        readiness: everywhere(ports.readiness_port, sockets).context("readiness port")?,
    };
    let shown = |listeners: &[TcpListener]| {
        let address = listeners.first().and_then(|one| one.local_addr().ok());
        address.map_or_else(String::new, |address| address.to_string())
    };
    tracing::info!(
        admin = shown(&local.admin),
        prometheus = shown(&local.prometheus),
        readiness = shown(&local.readiness),
        "local ports are open"
    );
    Ok(local)
}

/// The admin tells and changes too much to be reached from elsewhere: a bootstrap's wildcard
/// address becomes loopback. Differs from Envoy, which listens as told.
fn open_admin(
    ports: &PortArgs,
    of_bootstrap: Option<SocketAddr>,
    sockets: &mut Sockets,
) -> anyhow::Result<Vec<TcpListener>> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.admin_port.unwrap_or(ADMIN_PORT)));
    let mut address = of_bootstrap
        .filter(|_| ports.admin_port.is_none())
        .unwrap_or(default);
    if !address.ip().is_loopback() {
        let asked = address;
        address.set_ip(match asked {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
        tracing::warn!(%asked, %address, "the admin listens on loopback only");
    }
    sockets
        .listen_tcp(&ListenSpec::new(address), ONE)
        .context("admin port")
}

/// Both families by one socket, or IPv4 alone on a machine without IPv6.
fn everywhere(port: u16, sockets: &mut Sockets) -> Result<Vec<TcpListener>, ListenError> {
    let both = ListenSpec {
        families: Families::Both,
        ..ListenSpec::new((Ipv6Addr::UNSPECIFIED, port).into())
    };
    let v4 = ListenSpec::new((Ipv4Addr::UNSPECIFIED, port).into());
    let opened = sockets.listen_tcp(&both, ONE);
    match opened {
        Err(error) if error.source.kind() != std::io::ErrorKind::AddrInUse => {
            sockets.listen_tcp(&v4, ONE)
        }
        other => other,
    }
}

/// Serves the local HTTP ports until dropped.
pub(super) async fn serve(local: Local, admin: Arc<Admin>) {
    let mut parts = tokio::task::JoinSet::new();
    for listener in local.admin {
        parts.spawn(Arc::clone(&admin).serve_admin(listener));
    }
    for listener in local.prometheus {
        parts.spawn(Arc::clone(&admin).serve_prometheus(listener));
    }
    for listener in local.readiness {
        parts.spawn(Arc::clone(&admin).serve_readiness(listener));
    }
    while let Some(ended) = parts.join_next().await {
        if let Ok(Err(error)) = ended {
            tracing::error!(%error, "a local port is not served");
        }
    }
}

/// Opens the DNS port on both loopback addresses and cuts it into a share for each worker.
///
/// # Errors
/// If the IPv4 port cannot be had.
pub(super) fn open_dns(
    port: u16,
    sockets: &mut Sockets,
    workers: NonZeroUsize,
) -> anyhow::Result<Vec<DnsSockets>> {
    let mut shares: Vec<_> = (0..workers.get()).map(|_| DnsSockets::default()).collect();
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    add_dns(v4, sockets, &mut shares).context("DNS port (--no-dns serves none)")?;
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    if let Err(error) = add_dns(v6, sockets, &mut shares) {
        tracing::debug!(%error, "DNS is served over IPv4 only");
    }
    Ok(shares)
}

fn add_dns(
    address: SocketAddr,
    sockets: &mut Sockets,
    shares: &mut [DnsSockets],
) -> Result<(), ListenError> {
    let Some(workers) = NonZeroUsize::new(shares.len()) else {
        return Ok(());
    };
    let spec = ListenSpec::new(address);
    let udp = share_out(sockets.bind_udp(&spec, workers)?, workers.get());
    let tcp = share_out(sockets.listen_tcp(&spec, workers)?, workers.get());
    for ((share, udp), tcp) in shares.iter_mut().zip(udp).zip(tcp) {
        share.udp.extend(udp);
        share.tcp.extend(tcp);
    }
    Ok(())
}

/// Envoy's, as Istio sets it.
const ADMIN_PORT: u16 = 15000;
/// The local ports are served by the control thread alone.
const ONE: NonZeroUsize = NonZeroUsize::MIN;
