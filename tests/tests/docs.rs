// SPDX-License-Identifier: Apache-2.0
//! The documents are true: every file and folder that they name exists, and none names a line.

use std::path::Path;

use remora_testkit::bins;

const DOCUMENTS: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "examples/README.md",
    "docs/life-of-a-request.md",
    "docs/life-of-an-update.md",
    "docs/differences-from-envoy.md",
    "docs/decisions/0001-cluster-slots.md",
    "docs/decisions/0002-own-http1-codec.md",
];

const ROOTS: [&str; 9] = [
    "proxy/", "crates/", "xds-client/", "control-plane/", "ctl/", "tests/", "examples/", "docs/",
    "bench/",
];

/// What stands between single back-quotes or as a link's target, and looks like a path of ours.
fn paths(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let is_ours = |word: &&str| {
        ROOTS.iter().any(|root| word.starts_with(root)) && !word.contains([' ', '*', '{', '<'])
    };
    quoted.chain(linked).filter(is_ours).map(str::to_owned).collect()
}

#[test]
fn every_file_that_a_document_names_exists() {
    let root = bins::repository();
    let mut missing = Vec::new();
    let mut named = 0;
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).expect(document);
        for path in paths(&text) {
            named += 1;
            if !root.join(Path::new(&path)).exists() {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(named > 40, "the documents name {named} files: is the search broken?");
}

#[test]
fn links_inside_documents_lead_somewhere() {
    let root = bins::repository();
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).expect(document);
        let folder = root.join(document);
        let folder = folder.parent().expect("a document is in a folder");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            assert!(folder.join(link).exists(), "{document}: {link}");
        }
    }
}
