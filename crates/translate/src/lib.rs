// SPDX-License-Identifier: Apache-2.0
//! xDS resources and bootstrap files to `ir`: pure, whole, and with every fault named.
//!
//! The proxy hands each resource's bytes to [`fn@listener`], [`fn@route`], [`fn@cluster`], [`endpoints`] or
//! [`fn@names`] and its bootstrap file to [`fn@bootstrap`]; [`Assembler`] turns what was accepted into
//! snapshots. Nothing here opens a socket, reads a clock or keeps a global.
//!
//! Each field of each message has one of three verdicts: *honoured*, *ignored and reported* (it
//! cannot change where a request goes or who may pass) or *refused* (a [`Fault`]). The verdicts
//! stand beside the code that takes a message apart (`fields!`), which names every field, so that
//! a field added to the API breaks the build; [`compatibility_page`] prints them.
//!
//! **Invariant:** a value that comes out means exactly what was asked for, but for its notices.

#[macro_use]
mod verdict;

mod access_log;
mod address;
mod assemble;
mod bootstrap;
mod cluster;
mod endpoint;
mod extension;
mod fault;
mod format;
mod header_edit;
mod http;
mod listener;
mod matcher;
mod names;
mod page;
mod resource;
mod route;
mod tcp;
mod value;

pub use assemble::{Applied, Assembler, Key, Pending, Update};
pub use bootstrap::{Admin, Bootstrap, ControlPlane, Protocol, Target, bootstrap};
pub use fault::{Fault, Faults, Notice, Translated};
pub use page::compatibility_page;
pub use resource::{
    Context, Resource, cluster, content_hash, endpoints, listener, names, resource, route,
};
