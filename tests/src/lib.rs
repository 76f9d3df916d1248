// SPDX-License-Identifier: Apache-2.0
//! End-to-end tests; they live in `tests/`. What they stand on is `remora-testkit`.
