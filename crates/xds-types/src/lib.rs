// SPDX-License-Identifier: Apache-2.0
//! The protobuf messages of the mesh: the one crate that touches the generated xDS types.
//!
//! It answers for names and encodings only: curated re-exports (one module a proto package),
//! type URLs and the order in which types are pushed ([`ResourceType`]), packing into and out of
//! `Any` ([`pack`], [`unpack`], [`Payload`]), proto to JSON and back ([`json`]), bootstrap files
//! ([`bootstrap_file`]), and a byte form in which two processes agree ([`canonical`]). It gives no
//! field a meaning: that is `translate` on the proxy's half and `compile` on the control plane's.
//!
//! Invariant: nothing here is needed on a request's way; the embedded descriptor set is inflated
//! at the first use of [`json`] or [`canonical`] and never before.

mod any;
pub mod bootstrap_file;
pub mod canonical;
mod descriptors;
pub mod json;
mod messages;
mod nds;
mod resource_type;
mod typed_struct;

pub use any::{Payload, UnpackError, pack, unpack};
pub use messages::*;
pub use nds::{NameInfo, NameTable};
pub use resource_type::{ResourceType, TYPE_URL_PREFIX};
pub use typed_struct::{TypedStruct, struct_to_json};

pub use prost::{Message, Name};
