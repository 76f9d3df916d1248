// SPDX-License-Identifier: Apache-2.0
//! The road to an upstream against real sockets: every test ends with all counts at zero.

mod http1;
mod http2;
mod limits;
mod places;

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use remora_balance::{HostRecord, HostRegistry, PickContext};
use remora_http::h1::{ParsedResponse, ResponseEvent};
use remora_http::{BodyFraming, HeaderMap, Method, RequestHead, Version};
use remora_ir::SlotTable;
use remora_ir::cluster::{
    Balancing, CircuitLimits, Cluster as Policy, ConnectionPolicy, Discovery, Policy as Way,
    Priority, SourceAddress, UpstreamProtocol,
};
use remora_ir::endpoint::{
    ConfiguredHealth, Endpoint, EndpointAddress, EndpointSet, Locality, LocalityEndpoints,
};
use remora_primitives::{Instant, Percent, Weight};
use remora_rt::clock;
use remora_telemetry::{Registry, Used, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::frame::Frame;

const PATIENCE: Duration = Duration::from_secs(5);

/// One worker and one cluster.
struct World {
    local: Local,
    cluster: Arc<Cluster>,
    policy: Policy,
    metrics: Registry,
}

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

async fn until(what: &str, is_met: impl Fn() -> bool) {
    let wait = async {
        while !is_met() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect(what);
}

/// A server whose connections are each served by `serve`, which is told their number.
async fn server<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::task::spawn_local(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            tokio::task::spawn_local(serve(stream, number));
        }
    });
    address
}

/// Answers each request head with the next of the answers; closes after the last.
async fn script(mut stream: TcpStream, answers: &[&str]) {
    for answer in answers {
        if !read_head(&mut stream).await {
            return;
        }
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    true
}

fn endpoints(addresses: impl IntoIterator<Item = EndpointAddress>) -> EndpointSet {
    let endpoint = |address| Endpoint {
        address,
        hostname: Some("named".into()),
        weight: Weight::try_new(1).expect("not zero"),
        health: ConfiguredHealth::Healthy,
    };
    EndpointSet {
        localities: vec![LocalityEndpoints {
            locality: Locality::default(),
            priority: 0,
            weight: None,
            endpoints: addresses.into_iter().map(endpoint).collect(),
        }],
        ..EndpointSet::default()
    }
}

impl World {
    fn new(address: SocketAddr, edit: impl FnOnce(&mut Policy)) -> Self {
        Self::with(
            Discovery::Static(endpoints([EndpointAddress::Socket(address)])),
            edit,
        )
    }

    fn with(discovery: Discovery, edit: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy {
            slot: SlotTable::default().slot("shop"),
            stat_name: None,
            discovery,
            balancing: Balancing {
                policy: Way::RoundRobin,
                panic_threshold: Percent::ZERO,
                locality_weighted: false,
            },
            connection: ConnectionPolicy {
                connect_timeout: PATIENCE,
                source: SourceAddress::Own,
                keepalive: None,
                idle_timeout: Some(Duration::from_secs(3600)),
                max_requests: None,
                max_duration: None,
            },
            protocol: UpstreamProtocol::Http1,
            limits: CircuitLimits::default(),
            outlier: None,
        };
        edit(&mut policy);
        let metrics = Registry::new();
        let hosts = HostRegistry::new();
        let cluster = Cluster::bind_in(Arc::new(policy.clone()), None, &hosts, &metrics);
        Self {
            local: Local::new(0, 7),
            cluster,
            policy,
            metrics,
        }
    }

    /// Gives the cluster another policy.
    fn rebind(&mut self, edit: impl FnOnce(&mut Policy)) {
        edit(&mut self.policy);
        let hosts = HostRegistry::new();
        let policy = Arc::new(self.policy.clone());
        self.cluster = Cluster::bind_in(policy, Some(&self.cluster), &hosts, &self.metrics);
    }

    fn host(&self) -> Arc<HostRecord> {
        let context = PickContext::first();
        let request = PickRequest {
            original_dst: None,
            context,
        };
        pick(&self.local, &self.cluster, &request).expect("there is a host")
    }

    async fn lease(&self) -> Result<Lease, UpstreamError> {
        self.lease_with(Protocol::Http1, |_| {}).await
    }

    async fn lease_with(
        &self,
        protocol: Protocol,
        edit: impl FnOnce(&mut LeaseRequest),
    ) -> Result<Lease, UpstreamError> {
        let mut request = LeaseRequest {
            protocol,
            priority: Priority::Default,
            peer: None,
            deadline: clock::now() + PATIENCE,
            reuse: Reuse::IfVerified,
        };
        edit(&mut request);
        lease(&self.local, &self.cluster, &self.host(), &request).await
    }

    fn stat(&self, name: &str) -> i128 {
        let name = format!("cluster.shop.{name}");
        let found = self.metrics.samples(Used::All, |one| one == name);
        match found.first().map(|sample| &sample.value) {
            Some(Value::Counter(count)) => i128::from(*count),
            Some(Value::Gauge(value)) => i128::from(*value),
            Some(Value::Histogram(times)) => i128::from(times.count()),
            None => 0,
        }
    }

    /// Nothing is under way and no connection is open: whatever was taken was given back.
    async fn is_at_rest(&self) {
        self.local.drain();
        let active = [
            "upstream_cx_active",
            "upstream_rq_active",
            "upstream_rq_pending_active",
        ];
        until("all guards end", || {
            active.iter().all(|name| self.stat(name) == 0)
        })
        .await;
        assert_eq!(
            (self.local.pools().open(), self.local.pools().idle()),
            (0, 0)
        );
        for host in self.cluster.record().hosts() {
            let counts = host.counts();
            assert_eq!(
                (counts.cx_active, counts.rq_active),
                (0, 0),
                "{}",
                host.address()
            );
        }
        use remora_balance::Resource::{Connections, Pending};
        let limits = self.cluster.limits().of(Priority::Default);
        assert_eq!((limits.active(Connections), limits.active(Pending)), (0, 0));
        self.local.sweep(clock::now());
        assert_eq!(self.local.pools().entries(), 0);
    }
}

fn get() -> RequestHead {
    RequestHead {
        method: Method::Get,
        scheme: None,
        authority: Bytes::from_static(b"shop"),
        path: Bytes::from_static(b"/"),
        version: Version::Http11,
        headers: HeaderMap::new(),
    }
}

fn post() -> RequestHead {
    RequestHead {
        method: Method::Post,
        ..get()
    }
}

const EMPTY: RequestStart<'static> = RequestStart {
    framing: BodyFraming::Empty,
    upgrade: None,
};

const CHUNKED: RequestStart<'static> = RequestStart {
    framing: BodyFraming::Chunked,
    upgrade: None,
};

/// Sends a request without a body.
async fn send(lease: &mut Lease, head: &RequestHead) -> Result<(), UpstreamError> {
    let (mut writer, _) = lease.split();
    writer.send_head(head, &EMPTY).await?;
    writer.finish(None).await
}

/// Reads a response: its status, its body and its trailers.
async fn receive(lease: &mut Lease) -> Result<(u16, Vec<u8>, Option<HeaderMap>), UpstreamError> {
    let (_, mut reader) = lease.split();
    let parsed = final_head(&mut reader).await?;
    let (mut body, mut trailers) = (Vec::new(), None);
    while let Some(frame) = reader.frame().await? {
        match frame {
            Frame::Data(bytes) => body.extend_from_slice(&bytes),
            Frame::Trailers(fields) => trailers = Some(fields),
        }
    }
    Ok((parsed.head.status.get(), body, trailers))
}

async fn final_head(reader: &mut Reader<'_>) -> Result<ParsedResponse, UpstreamError> {
    loop {
        match reader.head().await? {
            ResponseEvent::Final(parsed) => return Ok(parsed),
            ResponseEvent::Informational(_) => {}
            ResponseEvent::Upgraded(head) => panic!("an upgrade nobody asked for: {head:?}"),
        }
    }
}

async fn exchange(world: &World) -> Result<(u16, Vec<u8>, Option<HeaderMap>), UpstreamError> {
    let mut lease = world.lease().await?;
    send(&mut lease, &get()).await?;
    let answer = receive(&mut lease).await?;
    lease.finish();
    Ok(answer)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
