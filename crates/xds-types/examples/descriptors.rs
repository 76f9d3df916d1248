// SPDX-License-Identifier: Apache-2.0
//! Writes `descriptors/descriptors.bin` anew, after an edit of `descriptors/roots.txt` or an
//! update of the generated crate: `cargo run -p remora-xds-types --example descriptors`.

#[path = "../descriptors/generate.rs"]
mod generate;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let set = generate::generate()?;
    let compressed = miniz_oxide::deflate::compress_to_vec_zlib(&set, 10);
    std::fs::write(generate::checked_in(), &compressed)?;
    println!("{} bytes, {} compressed", set.len(), compressed.len());
    Ok(())
}
