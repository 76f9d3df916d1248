// SPDX-License-Identifier: Apache-2.0
//! Which object of which file a value came from, so that every later message can say so.
//!
//! An origin is identity plus place. **Invariant:** two origins are equal if they name the same
//! object; the place is left out, so that a comment added above an object changes no revision.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::name::Namespace;

/// The kinds of object that sources read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ObjectKind {
    /// Kubernetes `Service`.
    Service,
    /// Kubernetes `EndpointSlice`.
    EndpointSlice,
    /// Kubernetes `Pod`.
    Pod,
    /// Kubernetes `Namespace`.
    Namespace,
    /// Istio `VirtualService`.
    VirtualService,
    /// Istio `DestinationRule`.
    DestinationRule,
    /// Istio `ServiceEntry`.
    ServiceEntry,
    /// Istio `WorkloadEntry`.
    WorkloadEntry,
}

impl ObjectKind {
    /// The kind as its API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object by kind, namespace and name, and where it was written.
#[derive(Clone, Debug)]
pub struct ObjectRef {
    /// What it is.
    pub kind: ObjectKind,
    /// Where it lives.
    pub namespace: Namespace,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The file, or the name of the source where there is no file.
    pub file: Arc<str>,
    /// The first line of the object in that file, counted from 1; 0 if it has none.
    pub line: u32,
}

impl ObjectRef {
    fn identity(&self) -> (ObjectKind, &Namespace, &str) {
        (self.kind, &self.namespace, &self.name)
    }
}

impl PartialEq for ObjectRef {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for ObjectRef {}

impl Hash for ObjectRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for ObjectRef {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ObjectRef {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
