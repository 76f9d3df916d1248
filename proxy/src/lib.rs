// SPDX-License-Identifier: Apache-2.0
//! The Remora data plane.

pub mod redirect;
