// SPDX-License-Identifier: Apache-2.0
//! End-to-end tests; they live in `tests/`. What they stand on is `remora-testkit`, and here what
//! needs a runtime: both ends of HTTP/2 ([`h2_peer`]); and the [`subject`] that is tested.

pub mod h2_peer;
pub mod subject;
