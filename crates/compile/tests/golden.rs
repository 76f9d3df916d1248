// SPDX-License-Identifier: Apache-2.0
//! What is sent for the shop, readable. `UPDATE_GOLDEN=1 cargo test -p remora-compile --test
//! golden` writes the files anew; read the difference before it is committed.

mod shop;

use std::path::Path;

use remora_compile::{ResourceSet, compile};
use remora_xds_types::{ResourceType, json};
use serde_json::{Map, Value};

fn readable(set: &ResourceSet, kind: ResourceType) -> Value {
    let named = set.of(kind).iter();
    let entries = named.map(|(name, resource)| {
        let json = json::to_json(kind.url(), &resource.body).expect("own bytes");
        (name.clone(), json)
    });
    Value::Object(entries.collect::<Map<_, _>>())
}

#[test]
fn the_shops_resources_are_as_written_down() {
    let set = compile(&shop::model(shop::parts(90, 10)), &shop::scope());
    for kind in ResourceType::PUSH_ORDER {
        if kind == ResourceType::Secret {
            assert!(set.of(kind).is_empty());
            continue;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let file = folder.join(format!("shop.{}.json", kind.short()));
        let found = serde_json::to_string_pretty(&readable(&set, kind)).expect("is JSON") + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &found).expect("the folder is writable");
        }
        let expected = std::fs::read_to_string(&file).expect("is checked in");
        assert!(found == expected, "{} differs:\n{found}", file.display());
    }
}
