// SPDX-License-Identifier: Apache-2.0
//! The demo shop in a lab.
