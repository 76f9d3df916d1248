// SPDX-License-Identifier: Apache-2.0
//! The control plane's world, as one node sees it, turned into versioned xDS resources.
//!
//! A compilation has two halves. `plan` asks the model (who is visible, which rule and policy
//! apply, what a destination means) and writes down a [recipe](recipe::Recipe) for each resource:
//! everything that its contents depend on. `cluster`, `endpoint`, `listener`, `route` and
//! `name_table` make messages of recipes and see nothing else. So an equal recipe is an equal
//! resource, and [`Compiler`] encodes only those whose recipe is new.
//!
//! ```text
//!   Model ─┐
//!          ├─ plan ──▶ recipes ──▶ memo ──▶ ResourceSet
//!   Scope ─┘                        │  ▲
//!                             new ones: encode, canonical form, version
//! ```
//!
//! It does no I/O, reads no clock, keeps nothing global. `control-plane/ads` calls it and decides
//! when to send what.
//!
//! **Invariants:** the bytes and versions of a resource are a function of its recipe, in every
//! process; whatever is emitted refers only to names that are emitted beside it, except where
//! the model itself refers to something that does not exist (then the route answers 503 `NC`);
//! destinations by address come before destinations by name: a virtual address has a listener of
//! its own, and the wildcard listeners serve only what no address decides.

mod cluster;
mod compiler;
mod endpoint;
mod listener;
mod name_table;
mod names;
mod network;
mod plan;
mod recipe;
mod resource;
mod route;
mod scope;
mod wire;

pub use compiler::{Compiler, compile};
pub use resource::{Resource, ResourceSet};
pub use scope::{AccessLog, Capabilities, MeshSettings, OutboundPolicy, Scope};
