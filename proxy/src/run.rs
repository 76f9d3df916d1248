// SPDX-License-Identifier: Apache-2.0
//! The life of the process: from the command line to serving, and from SIGTERM to the end.
//!
//! ```text
//!   settings ─▶ last good ─▶ first configuration ─▶ workers ─▶ local ports ─▶ control plane
//!   SIGTERM ─▶ inbound drains ─▶ outbound drains ─▶ workers end ─▶ what is kept is written
//! ```
//!
//! Everything is put together here and nothing is decided here. The thread that calls [`run`]
//! becomes the control thread.
//!
//! Invariant: the workload's ports are open before anything is waited for; after the first signal
//! the process ends within the grace, after the second one at once.

mod ports;
mod signals;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use remora_balance::HostRegistry;
use remora_rt::clock;
use remora_rt::drain::{Drain, Outcome, Watch};
use remora_rt::publish::Publisher;
use remora_rt::sockets::Sockets;
use remora_rt::worker::{self, Workers};
use remora_telemetry::Registry;
use remora_telemetry::log::{self, LogControl};
use remora_xds_client::{Config, Driver};
use remora_xds_types::ResourceType;
use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::access_log::{LogBuffers, LogWriter};
use crate::admin::{Admin, Computed};
use crate::cli::{AccessLogTarget, LogFormat, RunArgs, UntilConfigured};
use crate::control::built_in::{BuiltIn, RedirectedPorts};
use crate::control::last_good::{self, Kept, Store};
use crate::control::road::{self, Road};
use crate::control::settings::{self, ControlPlane, Settings};
use crate::control::sockets::Bindings;
use crate::control::{Client, Command, Control, Parts};
use crate::state::{
    AccessLogRule, ConnectionBudget, DnsSockets, Drains, Live, Phase, Readiness, Seat, Shared,
    Started,
};
use crate::worker::Worker;
use crate::{dns, downstream};

use signals::Signals;

/// Serves until told to stop.
///
/// # Errors
/// If the settings are wrong or a port of the proxy's own cannot be had; once it serves, nothing
/// ends it but a signal or `/quitquitquit`.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let format = match args.logs.log_format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    let log = log::init(format, args.logs.log_level.parse()?)?;
    let settings = match &args.bootstrap {
        Some(path) => from_file(path)?,
        None => Settings::from_flags(&args.node),
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(HELPERS)
        .thread_name("helper")
        .build()
        .context("cannot make the control thread's runtime")?;
    let ended = runtime.block_on(serve(args, settings, log));
    // A helper may hang in a look-up or on a disk; nobody waits for it any more.
    runtime.shutdown_background();
    ended
}

fn from_file(path: &Path) -> anyhow::Result<Settings> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("read `{shown}`"))?;
    Settings::from_bootstrap(&text).with_context(|| format!("bootstrap `{shown}`"))
}

async fn serve(args: &RunArgs, settings: Settings, log: LogControl) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("listen for signals")?;
    let shared = Arc::new(share(args, &settings, log));
    let writer = LogWriter::start(&shared.metrics).context("start the access log's thread")?;
    let running = start(args, settings, &shared, &writer)?;
    signals.wait(&running.quit, &writer).await;
    tokio::select! {
        () = drain(args, &shared) => {}
        () = signals.wait(&running.quit, &writer) => {
            tracing::warn!("told to stop a second time: ending at once");
            return Ok(());
        }
    }
    running.part().await;
    writer.sync(MAX_PARTING);
    tracing::info!("ended");
    Ok(())
}

/// Everything that runs.
struct Running {
    workers: Workers,
    /// Ends the workers.
    stop: Drain,
    control: JoinHandle<()>,
    /// The control task ends when this is dropped.
    commands: mpsc::Sender<Command>,
    keeper: Option<JoinHandle<()>>,
    quit: Arc<Notify>,
    _tasks: Tasks,
}

impl Running {
    /// Ends what still runs once the drains are over, and waits for it within bounds.
    async fn part(self) {
        self.stop.force();
        drop(self.commands);
        let parting = async {
            self.workers.joined().await;
            // The control task lets go of what is to be kept, which ends the keeper.
            let _ = self.control.await;
            if let Some(keeper) = self.keeper {
                let _ = keeper.await;
            }
        };
        if tokio::time::timeout(MAX_PARTING, parting).await.is_err() {
            tracing::warn!("threads did not end in time");
        }
    }
}

/// Starts everything: first what the workload's connections meet, then the rest.
fn start(
    args: &RunArgs,
    settings: Settings,
    shared: &Arc<Shared>,
    writer: &LogWriter,
) -> anyhow::Result<Running> {
    let workers = args.workers.unwrap_or_else(worker::default_count);
    let mut bindings = Bindings::new(Sockets::new(), workers);
    let dns = open_dns(args, &mut bindings)?;
    let store = Store::new(&args.state_dir, &shared.identity.node_id);
    let (kept, wanted) = watch::channel(Arc::from([]));
    let (mut control, held) =
        first_configuration(args, &settings, &store, |road, built_in| Parts {
            shared: Arc::clone(shared),
            road,
            bindings,
            built_in,
            kept,
        });
    let live = Arc::clone(control.live());
    let (stop, stopped) = Drain::new();
    let threads = spawn_workers(dns, &live, &stopped, shared, writer)?;
    tracing::info!(
        node = &*shared.identity.node_id,
        workers = workers.get(),
        version = env!("CARGO_PKG_VERSION"),
        generation = live.generation(),
        "serving"
    );
    let local = ports::open(&args.ports, settings.admin, control.sockets())?;
    let mut tasks = Tasks::default();
    let status = match &settings.control_plane {
        Some(said) => {
            let (client, driver) = connect(args, &settings, said, held)?;
            let status = client.handle.status();
            control.connect(client);
            tasks.spawn(driver.run());
            Some(status)
        }
        None => None,
    };
    let kept = Arc::new(Kept::default());
    let keeper = status
        .is_some()
        .then(|| tokio::spawn(last_good::keep(store, wanted, Arc::clone(&kept))));
    let (commands, received) = mpsc::channel(COMMANDS);
    let quit = Arc::new(Notify::new());
    let admin = Admin {
        shared: Arc::clone(shared),
        live,
        commands: commands.downgrade(),
        control_plane: status,
        kept,
        quit: Arc::clone(&quit),
        drain_time: args.ending.drain_time,
        workers: workers.get(),
        file: settings.file,
        computed: Computed::bind(&shared.metrics),
    };
    tasks.spawn(ports::serve(local, Arc::new(admin)));
    Ok(Running {
        workers: threads,
        stop,
        control: tokio::spawn(control.run(received)),
        commands,
        keeper,
        quit,
        _tasks: tasks,
    })
}

/// Puts the bootstrap and the last good configuration on the road, and binds them. What is held
/// of the control plane's, with its versions, comes with it.
fn first_configuration(
    args: &RunArgs,
    settings: &Settings,
    store: &Store,
    parts: impl FnOnce(Road, Option<BuiltIn>) -> Parts,
) -> (Control, Versions) {
    let context = settings.context.clone();
    let mut road = Road::new(context, &settings.clusters, &settings.listeners);
    let is_restored = settings.control_plane.is_some() && restore(store, &mut road);
    let held = road.inventory().versions();
    let built_in = (has_built_in(args, settings) && !is_restored)
        .then(|| BuiltIn::pass_through(&settings.context.slots, redirected(args)));
    let mut control = Control::new(parts(road, built_in));
    if is_restored {
        control.become_ready();
    }
    (control, held)
}

fn spawn_workers(
    dns: Vec<Option<DnsSockets>>,
    live: &Publisher<Live>,
    stopped: &Watch,
    shared: &Arc<Shared>,
    writer: &LogWriter,
) -> anyhow::Result<Workers> {
    let seat = |(index, dns)| Seat {
        index,
        live: live.subscribe(),
        shared: Arc::clone(shared),
        dns,
        stop: stopped.clone(),
    };
    let seats = dns.into_iter().enumerate().map(seat).collect();
    let logs = logs(&shared.access_log, writer);
    Ok(Workers::spawn("worker", seats, move |seat| {
        work(seat, logs())
    })?)
}

/// Inbound first: while requests of others finish, the workload still needs its own way out.
async fn drain(args: &RunArgs, shared: &Shared) {
    let started = clock::now();
    tracing::info!(grace = ?args.ending.grace, "draining");
    shared.readiness.advance(Phase::Draining);
    let drain_time = args.ending.drain_time.min(args.ending.grace);
    report("inbound", shared.drains.inbound.complete(drain_time).await);
    let rest = args.ending.grace.saturating_sub(clock::now() - started);
    report("outbound", shared.drains.outbound.complete(rest).await);
}

fn report(direction: &str, outcome: Outcome) {
    match outcome {
        Outcome::Finished => tracing::info!(direction, "drained"),
        Outcome::Cut { ended } => tracing::warn!(direction, ended, "drained, connections were cut"),
    }
}

/// A worker's life.
async fn work(seat: Seat, logs: LogBuffers) {
    let Seat {
        index,
        live,
        shared,
        dns,
        stop,
    } = seat;
    let worker = Rc::new(Worker::new(index, shared, live, logs));
    let names = {
        let worker = Rc::clone(&worker);
        async move {
            if let Some(sockets) = dns {
                dns::serve(worker, sockets).await;
            }
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased; // a worker that has ended its work in order is not cut short
        () = downstream::run(Rc::clone(&worker)) => stop.forced().await,
        () = names => {}
        () = stop.forced() => {}
    }
    worker.logs.flush();
}

fn share(args: &RunArgs, settings: &Settings, log: LogControl) -> Shared {
    Shared {
        identity: settings::identity(&settings.node),
        metrics: Arc::new(Registry::new()),
        hosts: HostRegistry::new(),
        drains: Drains::new(),
        readiness: Readiness::default(),
        connections: ConnectionBudget::new(args.max_connections),
        log: Some(log),
        access_log: match &args.logs.access_log {
            None => AccessLogRule::AsConfigured,
            Some(AccessLogTarget::Off) => AccessLogRule::Off,
            Some(AccessLogTarget::Path(path)) => AccessLogRule::To(path.as_str().into()),
        },
        started: Started {
            at: clock::now(),
            wall: SystemTime::now(),
        },
    }
}

/// Makes each worker's log buffers.
fn logs(rule: &AccessLogRule, writer: &LogWriter) -> impl Fn() -> LogBuffers + use<> {
    let (rule, writer) = (rule.clone(), writer.clone());
    move || match &rule {
        AccessLogRule::AsConfigured => LogBuffers::new(writer.clone()),
        AccessLogRule::Off => LogBuffers::discard(),
        AccessLogRule::To(path) => LogBuffers::new(writer.clone()).redirected(Arc::clone(path)),
    }
}

fn redirected(args: &RunArgs) -> RedirectedPorts {
    RedirectedPorts {
        outbound: args.ports.outbound_port,
        inbound: args.ports.inbound_port,
    }
}

/// Redirected traffic may come before the first configuration does: to a sidecar that has a
/// control plane.
fn has_built_in(args: &RunArgs, settings: &Settings) -> bool {
    args.until_configured == UntilConfigured::PassThrough
        && settings.control_plane.is_some()
        && settings::is_sidecar(&settings.node)
}

/// Puts the last good configuration on the road. Says whether there was one.
fn restore(store: &Store, road: &mut Road) -> bool {
    if let Err(error) = store.probe() {
        tracing::warn!(path = %store.path().display(), %error,
            "the state directory cannot be written to: no last good configuration will be kept");
    }
    let contents = match store.load() {
        Ok(Some(contents)) => contents,
        Ok(None) => return false,
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(
                error = format!("{error:#}"),
                "last good configuration: not used"
            );
            return false;
        }
    };
    let count = contents.resources.len();
    for batch in road::batches(contents.resources) {
        let translation = road::translate(road.context(), batch);
        road.accept(translation, SystemTime::now());
    }
    // Nothing that is missing now was there when the file was written.
    let waiting: Vec<_> = road.pending().into_iter().map(|one| one.key).collect();
    road.force(&waiting);
    tracing::info!(path = %store.path().display(), resources = count,
        "last good configuration: in use until the control plane says otherwise");
    count > 0
}

/// Versions of what is held, by type URL and name.
type Versions = BTreeMap<String, BTreeMap<String, String>>;

fn connect(
    args: &RunArgs,
    settings: &Settings,
    said: &ControlPlane,
    held: Versions,
) -> anyhow::Result<(Client, Driver)> {
    let mut config = Config::new(&said.address, settings.node.clone())?;
    config.mode = said.mode;
    config.initial_versions = held;
    let (handle, updates, driver) = remora_xds_client::new(config);
    let wildcards = [
        (ResourceType::Cluster, said.clusters),
        (ResourceType::Listener, said.listeners),
        (ResourceType::NameTable, !args.ports.no_dns),
    ];
    let client = Client {
        handle,
        updates,
        wildcards: wildcards
            .into_iter()
            .filter_map(|(kind, is_wanted)| is_wanted.then_some(kind))
            .collect(),
    };
    Ok((client, driver))
}

/// The DNS sockets, one share for each worker; empty places if DNS is not served.
fn open_dns(args: &RunArgs, bindings: &mut Bindings) -> anyhow::Result<Vec<Option<DnsSockets>>> {
    let count: NonZeroUsize = bindings.workers();
    if args.ports.no_dns {
        return Ok((0..count.get()).map(|_| None).collect());
    }
    let sockets = ports::open_dns(args.ports.dns_port, bindings.sockets(), count)?;
    Ok(sockets.into_iter().map(Some).collect())
}

/// Tasks that end with their owner.
#[derive(Debug, Default)]
struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Threads for long computations and for the disk; each comes when it is needed and goes again.
const HELPERS: usize = 4;
/// Questions to the control task that may wait.
const COMMANDS: usize = 16;
/// How long threads may take to end once everything has drained.
const MAX_PARTING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
