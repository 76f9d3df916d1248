// SPDX-License-Identifier: Apache-2.0
//! The control plane as one running thing: source, store, compiler, ADS, status page.
//!
//! It answers for wiring them, for their end, and for nothing else. Called by `remora
//! control-plane` and `remora agent`, and by tests in their own process.
//!
//! ```text
//!   folder ─▶ file source ─▶ store ─▶ scopes ─▶ streams ─▶ nodes
//!                              └────────┴─────────┴─▶ status page
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use remora_compile::MeshSettings;
use remora_rt::drain::{Drain, Outcome};
use remora_rt::sockets::{ListenError, ListenSpec, Sockets};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};

use crate::ads::registry::Registry;
use crate::ads::scopes::Scopes;
use crate::ads::server::{AdsServer, ServeError};
use crate::ads::status_page::StatusPage;
use crate::source::file::{FileOptions, FileSource};
use crate::store::Store;

/// What a control plane is told at its start.
#[derive(Clone, Debug)]
pub struct ControlPlaneConfig {
    /// The folder of YAML and JSON files.
    pub folder: PathBuf,
    /// How it is read.
    pub files: FileOptions,
    /// Where ADS is served.
    pub listen: SocketAddr,
    /// Where `/status` is served; it says which services exist, so it is not for everybody.
    pub status: SocketAddr,
    /// What the mesh wants of all sidecars.
    pub settings: MeshSettings,
    /// How long streams may take to end at shutdown.
    pub grace: Duration,
}

impl ControlPlaneConfig {
    /// The usual settings for a folder: ADS on 15010 of all addresses, as Istio's plain-text
    /// port, and the status page on 15014 of the loopback.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            files: FileOptions::default(),
            listen: (Ipv4Addr::UNSPECIFIED, 15010).into(),
            status: (Ipv4Addr::LOCALHOST, 15014).into(),
            settings: MeshSettings::default(),
            grace: Duration::from_secs(5),
        }
    }
}

/// Why a control plane cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The folder cannot be read at the start. Later it may come and go.
    #[error("configuration folder `{folder}` cannot be read")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An address cannot be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A socket cannot be given to the runtime.
    #[error("register a listening socket with the runtime")]
    Register(#[source] io::Error),
    /// The ADS transport broke down.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A part ended that should run as long as the whole.
    #[error("the {0} ended unexpectedly")]
    Ended(&'static str),
    /// A part panicked, which is a bug.
    #[error("a part of the control plane panicked")]
    Panicked(#[source] JoinError),
}

/// A control plane that listens, and does not serve yet.
#[derive(Debug)]
#[must_use = "a control plane serves nothing unless it runs"]
pub struct ControlPlane {
    config: ControlPlaneConfig,
    ads: TcpListener,
    status: TcpListener,
}

/// Binds and runs a control plane until `shutdown`.
///
/// # Errors
/// If it cannot start, or a part of it broke down.
pub async fn run(
    config: ControlPlaneConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ControlPlaneError> {
    ControlPlane::bind(config)?.run(shutdown).await
}

impl ControlPlane {
    /// Checks the folder and opens the listening sockets. To be called inside a runtime.
    ///
    /// # Errors
    /// If the folder cannot be read or an address cannot be had.
    pub fn bind(config: ControlPlaneConfig) -> Result<Self, ControlPlaneError> {
        if let Err(source) = std::fs::read_dir(&config.folder) {
            return Err(ControlPlaneError::Folder {
                folder: config.folder,
                source,
            });
        }
        let ads = listen(config.listen)?;
        let status = listen(config.status)?;
        Ok(Self {
            config,
            ads,
            status,
        })
    }

    /// Where ADS is served.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ads_addr(&self) -> io::Result<SocketAddr> {
        self.ads.local_addr()
    }

    /// Where the status page is served.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn status_addr(&self) -> io::Result<SocketAddr> {
        self.status.local_addr()
    }

    /// Serves until `shutdown`, then lets streams end within the grace.
    ///
    /// *Cancel safety*: dropping the future ends everything at once.
    ///
    /// # Errors
    /// If a part of it broke down.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ControlPlaneError> {
        let Self {
            config,
            ads,
            status,
        } = self;
        let (drain, watch) = Drain::new();
        let registry = Registry::default();
        let (snapshots, store, reader) = Store::new();
        let (scopes, keeper) = Scopes::new(reader.clone());
        let service = AdsServer::new(
            scopes,
            registry.clone(),
            Arc::new(config.settings),
            watch.clone(),
        );
        let page = StatusPage::new(reader, registry);
        let source = FileSource::new(config.folder, config.files);

        let mut parts: JoinSet<Result<(), ControlPlaneError>> = JoinSet::new();
        parts.spawn(async move {
            crate::source::file::watch::watch(source, snapshots)
                .await
                .map_err(ControlPlaneError::Panicked)?;
            Err(ControlPlaneError::Ended("file source"))
        });
        parts.spawn(async move {
            store.run().await;
            Err(ControlPlaneError::Ended("store"))
        });
        parts.spawn(async move {
            keeper.run().await;
            Err(ControlPlaneError::Ended("compiler"))
        });
        parts.spawn(async move { Ok(service.serve(ads).await?) });
        parts.spawn(async move {
            page.serve(status, watch).await;
            Ok(())
        });
        tokio::select! {
            () = shutdown => {}
            failure = first_failure(&mut parts) => return Err(failure),
        }
        if let Outcome::Cut { ended } = drain.complete(config.grace).await {
            tracing::warn!(ended, "streams were cut off at shutdown");
        }
        parts.shutdown().await;
        Ok(())
    }
}

/// The first part that ends other than by a drain.
async fn first_failure(parts: &mut JoinSet<Result<(), ControlPlaneError>>) -> ControlPlaneError {
    match parts.join_next().await {
        Some(Ok(Err(failure))) => failure,
        Some(Ok(Ok(()))) | None => ControlPlaneError::Ended("server"),
        Some(Err(error)) => ControlPlaneError::Panicked(error),
    }
}

fn listen(addr: SocketAddr) -> Result<TcpListener, ControlPlaneError> {
    let listeners = Sockets::new().listen_tcp(&ListenSpec::new(addr), NonZeroUsize::MIN)?;
    let listener = listeners
        .into_iter()
        .next()
        .ok_or(ControlPlaneError::Ended("socket"))?;
    TcpListener::from_std(listener).map_err(ControlPlaneError::Register)
}
