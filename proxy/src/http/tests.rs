// SPDX-License-Identifier: Apache-2.0
//! Whole exchanges in process: a real client, a real connection, a scripted upstream.

mod bodies;
mod endings;
mod http2;

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use remora_ir::access_log::{AccessLog, Format, Operator, Segment, Shape};
use remora_ir::action::{
    Action, Forward, Mirror, RetryBackoff, RetryOn, RetryPolicy, Rewrite, RouteTimeouts, Target,
};
use remora_ir::cluster::{
    Balancing, CircuitLimits, Cluster as Policy, ConnectionPolicy, Discovery, Http2Options,
    Policy as Way, Priority, SourceAddress, UpstreamProtocol,
};
use remora_ir::endpoint::{
    ConfiguredHealth, Endpoint, EndpointAddress, EndpointSet, Locality, LocalityEndpoints,
};
use remora_ir::header_edit::MessageEdits;
use remora_ir::listener::{
    Bind, FilterChains, HeaderPolicy, HttpLimits, HttpTimeouts, Inspect, Interception, Listener,
    PathPolicy, Routes, ServerHeader, StripPort,
};
use remora_ir::route::{PathMatch, Route, RouteMatch, RouteTable, VirtualHost};
use remora_ir::snapshot::ClusterTable;
use remora_ir::{ListenerName, RouteName, SlotTable, Snapshot};
use remora_primitives::{DomainPattern, Fraction, Percent, Weight};
use remora_rt::drain::Drain;
use remora_rt::publish::Publisher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::access_log::{LogBuffers, LogWriter};
use crate::downstream::Connection;
use crate::http::record::ConnectionRecord;
use crate::state::{Live, Shared, SocketTable};
use crate::upstream::Cluster;

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test as a worker runs its tasks, within a time.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime")
        .block_on(async {
            tokio::time::timeout(2 * PATIENCE, test)
                .await
                .expect("it ends")
        });
}

/// What a test may change before the proxy starts.
struct Setting {
    manager: HttpConnectionManager,
    forward: Forward,
    host: VirtualHost,
    policy: Policy,
    direction: Direction,
    /// Copies of all requests to the cluster `copy`, which may not exist.
    copies: Vec<Mirror>,
}

/// A worker with one route to one cluster, and clusters for mirrors.
struct Proxy {
    shared: Arc<Shared>,
    worker: Rc<Worker>,
    writer: LogWriter,
    folder: tempfile::TempDir,
    manager: Arc<HttpConnectionManager>,
    listener: Arc<Listener>,
    drain: Drain,
    _live: Publisher<Live>,
}

impl Proxy {
    fn new(upstream: SocketAddr, edit: impl FnOnce(&mut Setting)) -> Self {
        Self::with_mirror(upstream, None, edit)
    }

    /// A proxy that knows a cluster `copy` beside the cluster `shop`.
    fn with_mirror(
        upstream: SocketAddr,
        copy: Option<SocketAddr>,
        edit: impl FnOnce(&mut Setting),
    ) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let slots = SlotTable::default();
        let mut setting = Setting {
            manager: manager(folder.path()),
            forward: forward(&slots),
            host: virtual_host(),
            policy: policy(&slots, "shop", upstream),
            direction: Direction::Outbound,
            copies: vec![Mirror {
                slot: slots.slot("copy"),
                share: Fraction::ALWAYS,
            }],
        };
        edit(&mut setting);
        let Setting {
            mut manager,
            forward,
            mut host,
            policy: shop,
            direction,
            copies: _,
        } = setting;
        if host.routes.is_empty() {
            host.routes = vec![route(Action::Forward(Box::new(forward)))];
        }
        let table = RouteTable::try_new(RouteName::new("80"), vec![Arc::new(host)], false);
        manager.routes = Routes::Inline(Arc::new(table.expect("one host")));
        let shared = Shared::for_tests();
        let copy = copy.map(|address| policy(&slots, "copy", address));
        let bind = |policy| Cluster::bind(Arc::new(policy), None, &shared);
        let clusters: Vec<_> = std::iter::once(shop).chain(copy).map(bind).collect();
        let policies = clusters.iter().map(|cluster| Arc::clone(&cluster.policy));
        let snapshot = Snapshot {
            clusters: ClusterTable::new(policies),
            ..Snapshot::default()
        };
        let live = Live::new(Arc::new(snapshot), clusters, SocketTable::default());
        let live = Publisher::new(Arc::new(live));
        let writer = LogWriter::start(&shared.metrics).expect("thread");
        let logs = LogBuffers::new(writer.clone());
        let worker = Rc::new(Worker::new(0, Arc::clone(&shared), live.subscribe(), logs));
        Self {
            shared,
            worker,
            writer,
            folder,
            manager: Arc::new(manager),
            listener: listener(direction),
            drain: Drain::new().0,
            _live: live,
        }
    }

    /// A client's connection, and the task that serves it.
    async fn connect(&self) -> (TcpStream, JoinHandle<()>) {
        let socket = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), socket.accept());
        let (stream, peer) = accepted.expect("accept");
        let connection = Connection {
            stream: Stream::tcp(stream),
            record: ConnectionRecord {
                peer,
                local: address,
                server_name: None,
            },
            original_dst: None,
            listener: Arc::clone(&self.listener),
            drain: self.drain.watch(),
            started: self.worker.now(),
            protocol: Detected::Unknown,
            hold: Default::default(),
        };
        let manager = Arc::clone(&self.manager);
        let serving = serve(
            Rc::clone(&self.worker),
            connection,
            manager,
            BytesMut::new(),
            None,
        );
        (client.expect("connect"), tokio::task::spawn_local(serving))
    }

    /// The lines of the access log, once there are so many; it may not have more.
    async fn log(&self, lines: usize) -> Vec<String> {
        let path = self.folder.path().join("access.log");
        loop {
            self.worker.logs.flush();
            assert!(self.writer.sync(PATIENCE));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() >= lines {
                let lines_: Vec<_> = text.lines().map(str::to_owned).collect();
                assert_eq!(lines_.len(), lines, "{lines_:?}");
                return lines_;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn stat(&self, name: &str) -> u64 {
        let all = self
            .shared
            .metrics
            .render_stats(remora_telemetry::Used::All, |one| one == name);
        let value = all.trim().rsplit(' ').next().unwrap_or_default();
        value.parse().unwrap_or_default()
    }

    async fn until(&self, name: &str, value: u64) {
        let wait = async {
            while self.stat(name) != value {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{name}: {} is not {value}", self.stat(name));
    }

    /// Nothing is under way: whatever was taken was given back.
    async fn is_at_rest(&self) {
        self.until("cluster.shop.upstream_rq_active", 0).await;
        self.until("http.in.downstream_rq_active", 0).await;
        let total = self.stat("http.in.downstream_rq_total");
        assert_eq!(self.stat("http.in.downstream_rq_completed"), total);
    }
}

fn manager(folder: &std::path::Path) -> HttpConnectionManager {
    let slots_less = RouteTable::try_new(RouteName::new("none"), Vec::new(), false);
    HttpConnectionManager {
        stat_prefix: "in".into(),
        codec: Codec::Auto,
        routes: Routes::Inline(Arc::new(slots_less.expect("no hosts"))),
        limits: HttpLimits {
            max_head: 60 * 1024,
            max_fields: 100,
            max_requests: None::<NonZeroU64>,
            max_replay: 1 << 20,
        },
        timeouts: HttpTimeouts {
            idle: Some(PATIENCE),
            stream_idle: Some(PATIENCE),
            request: None,
            request_head: None,
            max_connection: None,
            delayed_close: Duration::from_millis(100),
        },
        headers: HeaderPolicy {
            use_remote_address: false,
            skip_xff_append: false,
            trusted_hops: 0,
            generate_request_id: true,
            preserve_request_id: false,
            request_id_in_response: false,
            server_name: "envoy".into(),
            server_header: ServerHeader::Overwrite,
            via: None,
            strip_port: StripPort::Keep,
            suppress_envoy_headers: false,
        },
        path: PathPolicy::default(),
        upgrades: Vec::new(),
        http2: Http2Options::DEFAULT,
        access_logs: access_logs(folder),
    }
}

/// Status, flags, bytes both ways, details: a line each request.
fn access_logs(folder: &std::path::Path) -> Vec<AccessLog> {
    let operators = [
        Operator::ResponseCode,
        Operator::ResponseFlags,
        Operator::BytesReceived,
        Operator::BytesSent,
        Operator::ResponseCodeDetails,
    ];
    let mut segments = Vec::new();
    for operator in operators {
        let max = None;
        if !segments.is_empty() {
            segments.push(Segment::Text(" ".into()));
        }
        segments.push(Segment::Operator { operator, max });
    }
    segments.push(Segment::Text("\n".into()));
    let path = folder.join("access.log");
    vec![AccessLog {
        path: path.to_str().expect("UTF-8").into(),
        shape: Shape::Text(Format(segments)),
    }]
}

fn forward(slots: &SlotTable) -> Forward {
    Forward {
        target: Target::Cluster(slots.slot("shop")),
        cluster_not_found: remora_http::StatusCode::SERVICE_UNAVAILABLE,
        rewrite: Rewrite::default(),
        timeouts: RouteTimeouts::DEFAULT,
        retry: None,
        mirrors: Vec::new(),
        priority: Priority::Default,
        upgrades: Vec::new(),
    }
}

fn virtual_host() -> VirtualHost {
    VirtualHost {
        name: "any".into(),
        domains: vec![DomainPattern::try_new("*").expect("a pattern")],
        routes: Vec::new(),
        retry: None,
        edits: MessageEdits::default(),
        attempt_count_in_request: false,
        attempt_count_in_response: false,
    }
}

fn route(action: Action) -> Arc<Route> {
    Arc::new(Route {
        name: "all".into(),
        matches: RouteMatch {
            path: PathMatch::Prefix {
                prefix: bytes::Bytes::from_static(b"/"),
                case_sensitive: true,
            },
            headers: Vec::new(),
            query: Vec::new(),
            share: None,
            grpc: false,
        },
        action,
        edits: MessageEdits::default(),
        origin: None,
    })
}

/// Tries again at once, on whatever is wrong.
fn retries(count: u32) -> Arc<RetryPolicy> {
    Arc::new(RetryPolicy {
        on: RetryOn::SERVER_ERROR,
        status_codes: Vec::new(),
        response_headers: Vec::new(),
        retries: count,
        per_try: None,
        backoff: RetryBackoff {
            base: Duration::from_millis(1),
            max: Duration::from_millis(1),
        },
        avoid_tried_hosts: false,
        host_selection_attempts: 1,
    })
}

fn policy(slots: &SlotTable, name: &str, address: SocketAddr) -> Policy {
    let endpoint = Endpoint {
        address: EndpointAddress::Socket(address),
        hostname: Some("named".into()),
        weight: Weight::try_new(1).expect("not zero"),
        health: ConfiguredHealth::Healthy,
    };
    Policy {
        slot: slots.slot(name),
        stat_name: None,
        discovery: Discovery::Static(EndpointSet {
            localities: vec![LocalityEndpoints {
                locality: Locality::default(),
                priority: 0,
                weight: None,
                endpoints: vec![endpoint],
            }],
            ..EndpointSet::default()
        }),
        balancing: Balancing {
            policy: Way::RoundRobin,
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
    }
}

fn listener(direction: Direction) -> Arc<Listener> {
    Arc::new(Listener {
        name: ListenerName::new("in"),
        address: ([127, 0, 0, 1], 0).into(),
        more_addresses: Vec::new(),
        bind: Bind::Nothing,
        direction,
        hand_off: false,
        interception: Interception::None,
        inspect: Inspect {
            tls: false,
            http: false,
            timeout: None,
            continue_on_timeout: false,
        },
        chains: FilterChains::default(),
        access_logs: Vec::new(),
        max_connections: None,
    })
}

/// An upstream whose connections each follow a script: what it waits for, what it says then.
/// After the last line it keeps quiet, or closes if that is empty. What it read is kept.
struct Upstream {
    address: SocketAddr,
    heard: Rc<RefCell<Vec<String>>>,
}

impl Upstream {
    async fn new(scripts: &'static [&'static [(&'static str, &'static str)]]) -> Self {
        let socket = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let heard = Rc::new(RefCell::new(Vec::new()));
        let ears = Rc::clone(&heard);
        tokio::task::spawn_local(async move {
            for number in 0.. {
                let Ok((stream, _)) = socket.accept().await else {
                    return;
                };
                let script = scripts.get(number).or_else(|| scripts.last());
                let place = ears.borrow().len();
                ears.borrow_mut().push(String::new());
                let ears = Rc::clone(&ears);
                let script = *script.expect("a script");
                tokio::task::spawn_local(follow(stream, script, ears, place));
            }
        });
        Self { address, heard }
    }

    /// What each connection has brought.
    fn heard(&self) -> Vec<String> {
        self.heard.borrow().clone()
    }
}

async fn follow(
    mut stream: TcpStream,
    script: &[(&str, &str)],
    ears: Rc<RefCell<Vec<String>>>,
    place: usize,
) {
    let mut seen = 0;
    for (wanted, answer) in script {
        loop {
            let at = ears.borrow()[place][seen..].find(wanted);
            if let Some(at) = at {
                seen += at + wanted.len();
                break;
            }
            if !listen(&mut stream, &ears, place).await {
                return;
            }
        }
        if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
    while listen(&mut stream, &ears, place).await {}
}

async fn listen(stream: &mut TcpStream, ears: &RefCell<Vec<String>>, place: usize) -> bool {
    let mut bytes = [0; 4096];
    match stream.read(&mut bytes).await {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            ears.borrow_mut()[place].push_str(&String::from_utf8_lossy(&bytes[..n]));
            true
        }
    }
}

const END: &str = "\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

async fn say(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).await.expect("it is read");
}

/// Reads until the text ends so.
async fn hear(client: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        match client.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) => panic!("ended after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8(text).expect("UTF-8")
}

/// Reads up to the end of the connection.
async fn hear_all(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = client.read_to_end(&mut text).await;
    String::from_utf8(text).expect("UTF-8")
}
