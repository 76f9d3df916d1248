// SPDX-License-Identifier: Apache-2.0
//! The walls between the crates, read from `cargo metadata` and from the sources.
//!
//! The table is the one of ARCHITECTURE.md: who may import whom. A crate that is missing from it
//! fails as well, so that a new one has to be given its floor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use remora_testkit::bins;
use serde_json::Value;

/// Each production crate (without its prefix) and those of ours it may import.
const MAY_IMPORT: [(&str, &[&str]); 14] = [
    ("primitives", &[]),
    ("rt", &["primitives"]),
    ("telemetry", &[]),
    ("xds-types", &[]),
    ("http", &["primitives"]),
    ("ir", &["http", "primitives"]),
    ("model", &["primitives"]),
    ("balance", &["ir", "primitives"]),
    ("translate", &["xds-types", "ir", "primitives"]),
    ("compile", &["xds-types", "model", "primitives"]),
    ("xds-client", &["xds-types", "rt"]),
    (
        "proxy",
        &[
            "ir",
            "translate",
            "balance",
            "http",
            "xds-client",
            "xds-types",
            "rt",
            "telemetry",
            "primitives",
        ],
    ),
    (
        "control-plane",
        &[
            "model",
            "compile",
            "xds-types",
            "rt",
            "telemetry",
            "primitives",
        ],
    ),
    ("injector", &["rt", "telemetry", "primitives"]),
];

/// Links everything and is imported by nobody.
const TOP: &str = "ctl";
/// Never part of a production build.
const TEST_ONLY: [&str; 3] = ["testkit", "tests", "php-shop-demo"];

/// Functions of values: no runtime, socket or clock reaches them; time is an argument.
const PURE: [&str; 6] = ["http", "ir", "model", "compile", "translate", "balance"];
const IMPURE_DEPENDENCIES: [&str; 12] = [
    "tokio",
    "tokio-stream",
    "tokio-util",
    "hyper",
    "hyper-util",
    "h2",
    "socket2",
    "rustix",
    "mio",
    "tonic",
    "axum",
    "tower",
];
const IMPURE_WORDS: [&str; 9] = [
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "SystemTime",
    "std::time::Instant",
    "Instant::now(",
    "std::thread",
    "std::fs",
];

const MEANINGLESS_NAMES: [&str; 6] = ["common", "util", "utils", "helper", "helpers", "misc"];

struct Package {
    name: String,
    folder: PathBuf,
    /// What it links in production, by name.
    links: BTreeSet<String>,
}

/// The packages of the workspace, by their names without the prefix.
fn packages() -> BTreeMap<String, Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(bins::repository())
        .output()
        .expect("cargo runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {error}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let list = metadata["packages"]
        .as_array()
        .expect("packages are a list");
    let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
    list.iter()
        .map(|package| {
            let name = text(&package["name"]);
            let name = name.strip_prefix("remora-").unwrap_or(&name).to_owned();
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let dependencies = package["dependencies"].as_array().expect("a list");
            // The kind is null for what is linked, `dev` for tests, `build` for build scripts.
            let linked = dependencies
                .iter()
                .filter(|dependency| dependency["kind"].is_null());
            let links = linked.map(|dependency| text(&dependency["name"])).collect();
            let folder = manifest
                .parent()
                .expect("a manifest is in a folder")
                .to_path_buf();
            (
                name.clone(),
                Package {
                    name,
                    folder,
                    links,
                },
            )
        })
        .collect()
}

impl Package {
    /// The crates of ours that it links, without their prefix.
    fn imports(&self) -> impl Iterator<Item = &str> {
        self.links
            .iter()
            .filter_map(|name| name.strip_prefix("remora-"))
    }

    fn is_test_only(&self) -> bool {
        TEST_ONLY.contains(&self.name.as_str())
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn every_crate_imports_only_what_its_floor_allows() {
    let floors: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let packages = packages();
    let mut faults = Vec::new();
    for package in packages.values().filter(|package| !package.is_test_only()) {
        if package.name == TOP {
            continue;
        }
        let Some(allowed) = floors.get(package.name.as_str()) else {
            faults.push(format!("{} has no floor in the table", package.name));
            continue;
        };
        let forbidden = package.imports().filter(|import| !allowed.contains(import));
        faults.extend(forbidden.map(|import| format!("{} imports {import}", package.name)));
    }
    assert!(
        packages.len() >= 10,
        "only {} packages were found",
        packages.len()
    );
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_bench_is_linked_by_tests_alone() {
    let packages = packages();
    let production = packages.values().filter(|package| !package.is_test_only());
    let faults: Vec<_> = production
        .filter(|package| package.imports().any(|import| TEST_ONLY.contains(&import)))
        .map(|package| &package.name)
        .collect();
    assert!(faults.is_empty(), "test code is linked into {faults:?}");
}

#[test]
fn pure_crates_link_no_runtime_and_no_sockets() {
    let packages = packages();
    let mut faults = Vec::new();
    for package in PURE.iter().filter_map(|name| packages.get(*name)) {
        for dependency in IMPURE_DEPENDENCIES {
            if package.links.contains(dependency) {
                faults.push(format!("{} links {dependency}", package.name));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn pure_crates_name_no_clock_socket_thread_or_file() {
    let packages = packages();
    let mut faults = Vec::new();
    for package in PURE.iter().filter_map(|name| packages.get(*name)) {
        for file in rust_files(&package.folder.join("src")) {
            let text = std::fs::read_to_string(&file).expect("a source is text");
            // Tests come last in a file and may read golden files.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let is_test =
                file.ends_with("tests.rs") || file.components().any(|c| c.as_os_str() == "tests");
            for (number, line) in code.lines().enumerate().filter(|_| !is_test) {
                let code = line.split("//").next().unwrap_or_default();
                for word in IMPURE_WORDS.iter().filter(|word| code.contains(**word)) {
                    faults.push(format!("{}:{}: {word}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn no_module_or_crate_is_named_for_nothing() {
    let mut faults = Vec::new();
    for package in packages().values() {
        for file in rust_files(&package.folder.join("src")) {
            let inside = file.strip_prefix(&package.folder).unwrap_or(&file);
            let mut names = inside
                .components()
                .map(|part| part.as_os_str().to_string_lossy());
            if names.any(|name| MEANINGLESS_NAMES.contains(&name.trim_end_matches(".rs"))) {
                faults.push(file);
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
