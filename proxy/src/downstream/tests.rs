// SPDX-License-Identifier: Apache-2.0
//! One worker behind real sockets, driven by configurations as the control thread publishes them.

mod changes;
mod sessions;

use std::future::Future;
use std::num::NonZeroU32;

use remora_ir::access_log::{AccessLog, Format, Operator, Segment, Shape};
use remora_ir::action::Target;
use remora_ir::cluster::{
    Balancing, CircuitLimits, Cluster as Policy, ConnectionPolicy, Discovery, Limit,
    Policy as Choice, SourceAddress, UpstreamProtocol,
};
use remora_ir::endpoint::{
    ConfiguredHealth, Endpoint, EndpointAddress, EndpointSet, Locality, LocalityEndpoints,
};
use remora_ir::listener::{
    ChainMatch, Direction, FilterChain, FilterChains, Inspect, Network, TcpProxy,
};
use remora_ir::snapshot::{ClusterTable, ListenerTable};
use remora_ir::{ListenerName, SlotTable, Snapshot};
use remora_primitives::{Percent, Weight};
use remora_rt::publish::Publisher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::access_log::{LogBuffers, LogWriter};
use crate::state::{ConnectionBudget, Shared};
use crate::upstream::Cluster;

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test as a worker runs its tasks, within a time.
fn run_test(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it ends") });
}

/// A proxy of one worker.
struct Proxy {
    shared: Arc<Shared>,
    slots: SlotTable,
    live: Publisher<Live>,
    clusters: Vec<Arc<Cluster>>,
    sockets: BTreeMap<SocketAddr, Arc<AcceptSockets>>,
    folder: tempfile::TempDir,
    writer: LogWriter,
    worker: Rc<Worker>,
    running: JoinHandle<()>,
}

impl Proxy {
    fn new(most_connections: usize) -> Self {
        let fresh = Arc::into_inner(Shared::for_tests()).expect("nobody else has it");
        let connections = ConnectionBudget::new(most_connections);
        let shared = Arc::new(Shared {
            connections,
            ..fresh
        });
        let live = Publisher::new(Arc::new(Live::default()));
        let writer = LogWriter::start(&shared.metrics).expect("thread");
        let logs = LogBuffers::new(writer.clone());
        let worker = Rc::new(Worker::new(0, Arc::clone(&shared), live.subscribe(), logs));
        let running = tokio::task::spawn_local(run(Rc::clone(&worker)));
        Self {
            shared,
            slots: SlotTable::default(),
            live,
            clusters: Vec::new(),
            sockets: BTreeMap::new(),
            folder: tempfile::tempdir().expect("folder"),
            writer,
            worker,
            running,
        }
    }

    /// A cluster of one host, or of none.
    fn cluster(&mut self, name: &str, host: Option<SocketAddr>, edit: impl FnOnce(&mut Policy)) {
        let mut policy = Policy {
            slot: self.slots.slot(name),
            stat_name: None,
            discovery: Discovery::Static(endpoints(host)),
            balancing: Balancing {
                policy: Choice::RoundRobin,
                panic_threshold: Percent::ZERO,
                locality_weighted: false,
            },
            connection: ConnectionPolicy {
                connect_timeout: PATIENCE,
                source: SourceAddress::Own,
                keepalive: None,
                idle_timeout: None,
                max_requests: None,
                max_duration: None,
            },
            protocol: UpstreamProtocol::Http1,
            limits: CircuitLimits::default(),
            outlier: None,
        };
        edit(&mut policy);
        self.clusters
            .push(Cluster::bind(Arc::new(policy), None, &self.shared));
    }

    /// A chain that relays to a cluster.
    fn chain(&self, cluster: &str, matches: ChainMatch) -> Arc<FilterChain> {
        let proxy = TcpProxy {
            stat_prefix: cluster.into(),
            target: Target::Cluster(self.slots.slot(cluster)),
            idle_timeout: None,
            max_duration: None,
            connect_attempts: NonZeroU32::MIN,
            access_logs: self.access_logs(),
        };
        Arc::new(FilterChain {
            name: cluster.into(),
            matches,
            network: Network::Tcp(Arc::new(proxy)),
        })
    }

    /// Flags, bytes, cluster and details, a line each connection.
    fn access_logs(&self) -> Vec<AccessLog> {
        let operators = [
            Operator::ResponseFlags,
            Operator::BytesReceived,
            Operator::BytesSent,
            Operator::UpstreamCluster,
            Operator::UpstreamRequestAttemptCount,
            Operator::ResponseCodeDetails,
        ];
        let text = |text: &str| Segment::Text(text.into());
        let segments = operators
            .into_iter()
            .flat_map(|operator| {
                [
                    Segment::Operator {
                        operator,
                        max: None,
                    },
                    text(" "),
                ]
            })
            .chain([text("\n")]);
        let path = self.folder.path().join("access.log");
        vec![AccessLog {
            path: path.to_str().expect("UTF-8").into(),
            shape: Shape::Text(Format(segments.collect())),
        }]
    }

    /// A listener on a free port of loopback.
    fn listener(&mut self, name: &str, chains: Vec<Arc<FilterChain>>) -> Listener {
        let address = self.bind("127.0.0.1:0");
        self.listener_at(name, address, chains)
    }

    fn bind(&mut self, address: &str) -> SocketAddr {
        let socket = std::net::TcpListener::bind(address).expect("a free port");
        socket.set_nonblocking(true).expect("non-blocking");
        let address = socket.local_addr().expect("bound");
        let sockets = AcceptSockets::new(address, vec![socket], 1);
        self.sockets.insert(address, Arc::new(sockets));
        address
    }

    fn listener_at(
        &self,
        name: &str,
        address: SocketAddr,
        chains: Vec<Arc<FilterChain>>,
    ) -> Listener {
        Listener {
            name: ListenerName::new(name),
            address,
            more_addresses: Vec::new(),
            bind: Bind::Port,
            direction: Direction::Outbound,
            hand_off: false,
            interception: Interception::None,
            inspect: Inspect {
                tls: true,
                http: true,
                timeout: Some(PATIENCE),
                continue_on_timeout: true,
            },
            chains: FilterChains::new(chains, None),
            access_logs: self.access_logs(),
            max_connections: None,
        }
    }

    /// Publishes a configuration and lets the worker take it.
    async fn publish(&self, listeners: impl IntoIterator<Item = Arc<Listener>>) {
        let listeners = ListenerTable::new(listeners);
        let policies = self
            .clusters
            .iter()
            .map(|cluster| Arc::clone(&cluster.policy));
        let bound = |listener: &Arc<Listener>| {
            let sockets = self.sockets.get(&listener.address)?;
            (listener.bind == Bind::Port).then(|| (listener.address, Arc::clone(sockets)))
        };
        let sockets = listeners.iter().filter_map(bound).collect();
        let snapshot = Snapshot {
            listeners,
            clusters: ClusterTable::new(policies),
            ..Snapshot::default()
        };
        let live = Live::new(Arc::new(snapshot), self.clusters.iter().cloned(), sockets);
        self.live.publish(Arc::new(live));
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    /// The next lines of the access log, once there are so many.
    async fn log(&self, lines: usize) -> Vec<String> {
        let path = self.folder.path().join("access.log");
        loop {
            self.worker.logs.flush();
            assert!(self.writer.sync(PATIENCE));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() >= lines {
                return text
                    .lines()
                    .map(|line| line.trim_end().to_owned())
                    .collect();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn stat(&self, name: &str) -> String {
        let all = self
            .shared
            .metrics
            .render_stats(remora_telemetry::Used::All, |one| one == name);
        all.trim().rsplit(' ').next().unwrap_or_default().to_owned()
    }
}

fn endpoints(host: Option<SocketAddr>) -> EndpointSet {
    let endpoint = |address| Endpoint {
        address: EndpointAddress::Socket(address),
        hostname: None,
        weight: Weight::try_new(1).expect("not zero"),
        health: ConfiguredHealth::Healthy,
    };
    EndpointSet {
        localities: vec![LocalityEndpoints {
            locality: Locality::default(),
            priority: 0,
            weight: None,
            endpoints: host.into_iter().map(endpoint).collect(),
        }],
        ..EndpointSet::default()
    }
}

/// A server that greets with its name, then sends back what it gets.
async fn server(greeting: &'static str) -> (SocketAddr, Rc<std::cell::Cell<usize>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    let accepted = Rc::new(std::cell::Cell::new(0));
    let count = Rc::clone(&accepted);
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.set(count.get() + 1);
            tokio::task::spawn_local(async move {
                let (mut read, mut write) = stream.split();
                if write.write_all(greeting.as_bytes()).await.is_ok() {
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
            });
        }
    });
    (address, accepted)
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound")
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("connect")
}

async fn reads(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.expect("bytes");
    assert_eq!(
        bytes.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
}

/// The peer closes without a word.
async fn is_closed(stream: &mut TcpStream) {
    match stream.read(&mut [0; 1]).await {
        Ok(0) | Err(_) => {}
        Ok(_) => panic!("it speaks"),
    }
}
