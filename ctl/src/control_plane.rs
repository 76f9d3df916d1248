// SPDX-License-Identifier: Apache-2.0
//! `remora control-plane`: the flags made into settings, and the signals that end it.
//!
//! What it serves, and how, is the library's.

use anyhow::Context as _;
use remora_compile::{AccessLog, MeshSettings, OutboundPolicy};
use remora_control_plane::server::{ControlPlane, ControlPlaneConfig};
use remora_control_plane::source::file::FileOptions;
use remora_telemetry::log;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{self, AccessLogTarget, ControlPlaneArgs, LogArgs, LogFormat, MeshArgs};
use crate::output;

/// Sends logs to standard error.
pub(crate) fn set_up_logs(args: &LogArgs) -> anyhow::Result<()> {
    let format = match args.log_format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    let levels = args.log_level.parse().context("`--log-level`")?;
    log::init(format, levels)?;
    Ok(())
}

/// Serves until a signal. The addresses are printed once they are bound, for whoever asked for a
/// free port.
pub(crate) async fn run(args: ControlPlaneArgs) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let plane = ControlPlane::bind(config(args))?;
    let (ads, status) = (plane.ads_addr()?, plane.status_addr()?);
    output::print(&format!("ads {ads}\nstatus {status}\n"))?;
    tracing::info!(%ads, %status, "control plane listens");
    let shutdown = async {
        signals.next().await;
        tracing::info!("signal received, streams are ended");
        tokio::spawn(exit_at_next(signals));
    };
    plane.run(shutdown).await?;
    Ok(())
}

fn config(args: ControlPlaneArgs) -> ControlPlaneConfig {
    ControlPlaneConfig {
        files: FileOptions {
            cluster_domain: args.cluster_domain.into(),
            ..FileOptions::default()
        },
        listen: args.listen,
        status: args.status,
        settings: settings(args.mesh),
        grace: args.grace,
        ..ControlPlaneConfig::new(args.config)
    }
}

fn settings(args: MeshArgs) -> MeshSettings {
    MeshSettings {
        outbound: match args.outbound_policy {
            cli::OutboundPolicy::AllowAny => OutboundPolicy::AllowAny,
            cli::OutboundPolicy::RegistryOnly => OutboundPolicy::RegistryOnly,
        },
        access_log: match args.access_log {
            AccessLogTarget::Off => None,
            AccessLogTarget::Path(path) => Some(AccessLog {
                path: path.into(),
                format: args.access_log_format.map(Into::into),
            }),
        },
        connect_timeout: args.connect_timeout,
        locality_failover: !args.no_locality_failover,
        ..MeshSettings::default()
    }
}

/// The signals that ask a program to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Somebody who asks twice does not want to wait for the grace. Nothing needs to be saved: the
/// control plane holds nothing that is not in the folder.
async fn exit_at_next(mut signals: Signals) {
    signals.next().await;
    std::process::exit(EXIT_AT_ONCE);
}

/// What a second signal ends with: 128 and the number of SIGTERM, as shells have it.
const EXIT_AT_ONCE: i32 = 143;
