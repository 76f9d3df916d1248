// SPDX-License-Identifier: Apache-2.0
//! The control plane: reads sources, keeps the model, compiles it, serves it.
//!
//! * [`source`]: where objects are written, and how they become the model's values;
//! * [`store`]: the one writer of the model;
//! * [`ads`]: serves each node the resources of its scope;
//! * [`server`]: all of it as one running thing;
//! * [`analyze`]: what is wrong with a folder, without serving it.

pub mod ads;
pub mod analyze;
pub mod server;
pub mod source;
pub mod store;
