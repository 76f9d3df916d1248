// SPDX-License-Identifier: Apache-2.0
//! End-to-end tests; they live in `tests/`. What they stand on is `remora-testkit`, and here what
//! needs a runtime: both ends of HTTP/2 ([`h2_peer`]); the [`subject`] that is compared; the smallest
//! mesh there is, around one [`sidecar`]; and a [`town`], with scripted backends for the shop.

pub mod h2_peer;
pub mod sidecar;
pub mod subject;
pub mod town;
