// SPDX-License-Identifier: Apache-2.0
//! No door panics, whatever bytes come: random ones, and small messages with a byte changed.

use std::sync::OnceLock;

use proptest::prelude::*;
use remora_translate::{Context, bootstrap, resource};
use remora_xds_types::ResourceType;

fn all_doors(bytes: &[u8]) {
    let ctx = Context::for_node(
        Default::default(),
        "sidecar~10.0.0.1~a.b~b.svc.cluster.local",
    );
    for kind in ResourceType::PUSH_ORDER {
        if let Err(faults) = resource(kind, bytes, &ctx) {
            assert!(!faults.faults.is_empty(), "a refusal has a reason");
        }
    }
}

/// Encoded messages that reach deep into translation.
fn seed(at: usize) -> Vec<u8> {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let encode = |(kind, text): (ResourceType, &str)| {
        let file: serde_json::Value = serde_saphyr::from_str(text).expect("a file of cases");
        remora_xds_types::json::from_json(kind.url(), &file["base"]).expect("a message")
    };
    let seeds = SEEDS.get_or_init(|| {
        let seeds = [
            (ResourceType::Listener, include_str!("reject/listener.yaml")),
            (ResourceType::Route, include_str!("reject/route.yaml")),
            (ResourceType::Cluster, include_str!("reject/cluster.yaml")),
            (
                ResourceType::Endpoint,
                include_str!("reject/endpoints.yaml"),
            ),
        ];
        seeds.into_iter().map(encode).collect()
    });
    seeds[at].clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn random_bytes_are_accepted_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        all_doors(&bytes);
    }

    #[test]
    fn changed_bytes_are_accepted_or_refused(
        at in 0usize..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = seed(at);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        all_doors(&bytes);
    }

    #[test]
    fn random_text_is_a_bootstrap_or_refused(text in ".{0,200}") {
        if let Err(faults) = bootstrap(&text, &Default::default()) {
            prop_assert!(!faults.faults.is_empty(), "a refusal has a reason");
        }
    }
}
