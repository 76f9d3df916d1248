// SPDX-License-Identifier: Apache-2.0
//! The control plane's nouns: services, endpoints, routes and policies.
//!
//! Sources (`control-plane/source/*`) turn what vendors write into these values and refuse there
//! what cannot be honoured; `compile` turns them into xDS. Nothing here knows YAML, Kubernetes,
//! Istio or protobuf, reads a clock or does I/O.
//!
//! * [`origin`]: which object of which file a value came from;
//! * [`name`]: namespaces, hosts with or without a wildcard, who may see an object;
//! * [`service`], [`endpoint`]: names with ports, and the instances behind them;
//! * [`route`], [`matching`]: how requests and connections choose a destination;
//! * [`policy`]: how a destination is called: balancing, pools, ejection;
//! * [`model`]: all of it together, indexed.
//!
//! **Invariant:** every value is immutable once in a [`Model`], and cloning one is cheap: the
//! model hands out `Arc`s, and an object that did not change between two revisions keeps its `Arc`.

pub mod endpoint;
pub mod matching;
pub mod model;
pub mod name;
pub mod origin;
pub mod policy;
pub mod route;
pub mod service;

pub use endpoint::{Endpoint, EndpointAddress, Health, Labels, Locality, PortTarget, Workload};
pub use matching::{
    HeaderMatch, HttpMatch, L4Match, MatchError, PathMatch, QueryMatch, SourceMatch, StringMatch,
    TlsMatch,
};
pub use model::{Model, ModelParts};
pub use name::{Host, Namespace, Visibility};
pub use origin::{ObjectKind, ObjectRef};
pub use policy::{
    ConnectionPool, DestinationPolicy, EffectivePolicy, H2Upgrade, KeepAlive, LoadBalancer,
    LocalityBalancing, OutlierDetection, PortPolicy, RetryBudget, SimpleBalancer, Subset,
    TrafficPolicy, UpstreamTls, Warmup,
};
pub use route::{
    Destination, DirectResponse, Forward, HeaderEdit, HeaderEdits, HttpAction, HttpRoute, Mirror,
    PathRewrite, Redirect, RedirectPort, RetryOn, RetryPolicy, Rewrite, RouteRule, TcpRoute,
    TlsRoute, WeightedDestination,
};
pub use service::{
    AddressOrigin, Placement, Protocol, Registry, Resolution, Service, ServiceAddress, ServiceKey,
    ServicePort, TargetPort,
};
