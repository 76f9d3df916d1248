// SPDX-License-Identifier: Apache-2.0
//! Makes the embedded descriptor set. Shared by the example that writes it and the test that
//! proves it current; not part of the library.
//!
//! Each root is compiled on its own and the files are merged by name: compiling all at once
//! resolves relative names against packages that a file does not import.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};

/// Where the compressed set is kept.
pub(crate) fn checked_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors/descriptors.bin")
}

/// Compiles all roots and returns the encoded, uncompressed set.
pub(crate) fn generate() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let includes = include_paths()?;
    let mut seen = BTreeSet::new();
    let mut set = FileDescriptorSet::default();
    for root in include_str!("roots.txt").lines().map(str::trim) {
        if root.is_empty() || root.starts_with('#') {
            continue;
        }
        let mut compiler = protox::Compiler::new(&includes)?;
        compiler.include_imports(true).include_source_info(false);
        compiler
            .open_file(root)
            .map_err(|e| format!("{root}: {e}"))?;
        for file in compiler.file_descriptor_set().file {
            if seen.insert(file.name().to_owned()) {
                set.file.push(stripped(file));
            }
        }
    }
    Ok(set.encode_to_vec())
}

/// The package's own proto folders, found where cargo put it, and ours.
fn include_paths() -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--filter-platform=host-tuple",
        ])
        .current_dir(own)
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let package = metadata["packages"]
        .as_array()
        .and_then(|all| all.iter().find(|package| package["name"] == "envoy-types"))
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("envoy-types is not among the packages")?;
    let protos = Path::new(package)
        .parent()
        .ok_or("manifest has no folder")?
        .join("proto");
    let shipped = [
        "data-plane-api",
        "xds",
        "googleapis",
        "protoc-gen-validate",
        "cel-spec/proto",
        "opentelemetry-proto",
        "client_model",
    ];
    let shipped = shipped.iter().map(|folder| protos.join(folder));
    Ok(std::iter::once(own.join("proto")).chain(shipped).collect())
}

/// Drops what neither JSON nor canonical order needs: positions and comments, services.
fn stripped(mut file: FileDescriptorProto) -> FileDescriptorProto {
    file.source_code_info = None;
    file.service.clear();
    file
}
