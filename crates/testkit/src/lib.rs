// SPDX-License-Identifier: Apache-2.0
//! The test bench: what tests and the demo stand on. Never part of a production build.
//!
//! * [`lab`]: network namespaces joined by a bridge, and processes inside them; [`run`] is what
//!   makes it clean up after itself, whatever happens.
//! * [`mesh`]: the demo shop in such a lab, with control plane, sidecars and programs.
//! * [`upstream`]: scripted HTTP and server-first servers, as threads.
//! * [`client`]: an HTTP/1.1 client that hides nothing.
//! * [`wait`]: polling with a deadline. [`bins`]: where this workspace's programs are.
//!
//! All of it is synchronous, on threads and `std`: a bench must not share a runtime with what it
//! measures.

pub mod bins;
pub mod client;
pub mod exec;
pub mod lab;
pub mod mesh;
pub mod process;
pub mod run;
pub mod upstream;
pub mod wait;
