// SPDX-License-Identifier: Apache-2.0
//! The checked-in descriptor set is what its sources give today.

#[path = "../descriptors/generate.rs"]
mod generate;

#[test]
fn the_checked_in_set_is_what_the_proto_files_give() {
    let expected = generate::generate().expect("the roots compile");
    let compressed = std::fs::read(generate::checked_in()).expect("the set is checked in");
    let found = miniz_oxide::inflate::decompress_to_vec_zlib(&compressed).expect("a zlib stream");
    assert!(
        found == expected,
        "stale: run `cargo run -p remora-xds-types --example descriptors` ({} bytes, expected {})",
        found.len(),
        expected.len()
    );
}
