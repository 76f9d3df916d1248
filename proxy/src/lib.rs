// SPDX-License-Identifier: Apache-2.0
//! The Remora data plane: a sidecar that takes over its workload's traffic.
//!
//! Two roads go through it. A request's: `downstream` accepts and looks at the first bytes,
//! `network` relays bytes or `http` serves requests, `upstream` chooses hosts and owns connections
//! to them; all of it on worker threads that share nothing but what is in `state`. An update's:
//! `control` receives, validates and publishes on the control thread. `admin` shows both, `dns`
//! answers for the mesh's names, `redirect` loads the rules that bring the traffic here.

pub mod access_log;
pub mod admin;
pub mod cli;
pub mod control;
pub mod dns;
pub mod downstream;
pub mod frame;
pub mod http;
pub mod network;
pub mod redirect;
pub mod run;
pub mod state;
pub mod stream;
pub mod upstream;
pub mod wall;
pub mod worker;
