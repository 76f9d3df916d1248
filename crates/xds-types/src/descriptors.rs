// SPDX-License-Identifier: Apache-2.0
//! The embedded descriptor set, inflated and indexed at first use.
//!
//! The set is made by `cargo run -p remora-xds-types --example descriptors` from the `.proto`
//! files that the generated crate ships, plus `../proto`; which files, says
//! `descriptors/roots.txt`. A test makes it anew and compares.

use std::sync::OnceLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::any::message_name;

/// Descriptors without source info or options, as a zlib stream.
static COMPRESSED: &[u8] = include_bytes!("../descriptors/descriptors.bin");

/// The embedded set is part of the program, so a damaged one is a broken build: the answer is an
/// empty pool, in which every type is unknown, and the tests of this crate fail.
fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        miniz_oxide::inflate::decompress_to_vec_zlib(COMPRESSED)
            .ok()
            .and_then(|set| DescriptorPool::decode(set.as_slice()).ok())
            .unwrap_or_default()
    })
}

/// Finds the descriptor of the message that a type URL or full name names.
pub(crate) fn find_message(type_url: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(message_name(type_url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_set_has_the_resources_and_their_usual_contents() {
        for name in [
            "type.googleapis.com/envoy.config.listener.v3.Listener",
            "envoy.config.bootstrap.v3.Bootstrap",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "istio.networking.nds.v1.NameTable",
            "udpa.type.v1.TypedStruct",
            "google.protobuf.BoolValue",
        ] {
            assert!(find_message(name).is_some(), "{name}");
        }
        assert!(find_message("no.such.Message").is_none());
    }
}
