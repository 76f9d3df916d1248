// SPDX-License-Identifier: Apache-2.0

use std::fs;

use tempfile::TempDir;

use super::*;

struct Folder {
    folder: TempDir,
    source: FileSource,
}

impl Folder {
    fn new() -> Self {
        let folder = TempDir::new().expect("folder can be made");
        let source = FileSource::new(folder.path(), FileOptions::default());
        Self { folder, source }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("file can be written");
    }

    /// Names of the services and route rules that are served, if anything is new.
    fn scan(&mut self) -> Option<Vec<String>> {
        let snapshot = self.source.scan(&Touched::All).snapshot?;
        let services = snapshot.parts.services.iter().map(|s| s.name.to_string());
        let policies = snapshot
            .parts
            .policies
            .iter()
            .map(|p| p.origin.name.to_string());
        Some(services.chain(policies).collect())
    }

    fn reasons(&self) -> Vec<String> {
        self.source
            .snapshot()
            .findings
            .into_iter()
            .map(|finding| finding.reason)
            .collect()
    }
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{}}\n---\n")
}

fn names(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn a_file_with_a_fault_keeps_its_last_good_content_until_it_is_sound() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &service("a"));
    folder.write("b.yaml", &service("b"));
    assert_eq!(folder.scan(), names(&["a", "b"]));
    assert_eq!(folder.scan(), None, "nothing changed");
    for broken in [
        "kind: [",
        &format!("{}{}", service("new"), "kind: Pod\n"),
        "\0",
    ] {
        folder.write("a.yaml", broken);
        assert_eq!(folder.scan(), names(&["a", "b"]), "{broken:?}");
        let reasons = folder.reasons();
        let held = "the file is not applied: its last good content stays";
        assert!(reasons.iter().any(|reason| reason == held), "{reasons:?}");
        assert!(
            reasons.len() > 1,
            "the fault itself is named too: {reasons:?}"
        );
    }
    folder.write("a.yaml", &format!("{}{}", service("a"), service("c")));
    assert_eq!(folder.scan(), names(&["a", "c", "b"]));
    assert_eq!(folder.reasons(), Vec::<String>::new());
}

#[test]
fn at_start_the_sound_objects_of_a_faulty_file_are_used() {
    let mut folder = Folder::new();
    folder.write(
        "a.yaml",
        &format!("{}apiVersion: v1\nkind: Pod\n", service("a")),
    );
    assert_eq!(folder.scan(), names(&["a"]));
    folder.write(
        "a.yaml",
        &format!("{}{}kind: Pod\n", service("a"), service("b")),
    );
    assert_eq!(
        folder.scan(),
        names(&["a", "b"]),
        "it was never sound: the newest is best"
    );
    folder.write("a.yaml", "kind: [");
    assert_eq!(
        folder.scan(),
        names(&["a", "b"]),
        "nothing can be read of it"
    );
}

#[test]
fn an_object_that_asks_for_too_much_is_left_out_by_itself() {
    let mut folder = Folder::new();
    let rule = |mode: &str| {
        let head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n";
        let spec = format!("spec: {{host: a, trafficPolicy: {{tls: {{mode: {mode}}}}}}}\n");
        format!("{}{head}metadata: {{name: rule}}\n{spec}", service("a"))
    };
    folder.write("a.yaml", &rule("SIMPLE"));
    assert_eq!(folder.scan(), names(&["a"]));
    folder.write("a.yaml", &rule("DISABLE"));
    assert_eq!(folder.scan(), names(&["a", "rule"]));
    folder.write(
        "a.yaml",
        &format!("{}---\n{}", rule("SIMPLE"), service("b")),
    );
    assert_eq!(
        folder.scan(),
        names(&["a", "b", "rule"]),
        "its last good version stays"
    );
}

#[test]
fn a_file_that_is_gone_takes_its_objects_but_one_out_of_sight_does_not() {
    let mut folder = Folder::new();
    let sub = folder.folder.path().join("sub");
    fs::create_dir(&sub).expect("folder can be made");
    folder.write("a.yaml", &service("a"));
    folder.write("sub/b.yaml", &service("b"));
    assert_eq!(folder.scan(), names(&["a", "b"]));
    fs::remove_file(folder.folder.path().join("a.yaml")).expect("file can be removed");
    assert_eq!(folder.scan(), names(&["b"]));
    let aside = folder.folder.path().join(".aside");
    fs::rename(&sub, &aside).expect("folder can be renamed");
    std::os::unix::fs::symlink("nowhere", &sub).expect("link can be made");
    assert_eq!(
        folder.scan(),
        names(&["b"]),
        "a link that leads nowhere hides what is below it"
    );
    fs::remove_file(&sub).expect("link can be removed");
    assert_eq!(folder.scan(), names(&[]));
}

#[test]
fn a_folder_that_vanishes_changes_nothing_that_is_served() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &service("a"));
    assert_eq!(folder.scan(), names(&["a"]));
    let root = folder.folder.path().to_owned();
    let aside = root.with_extension("aside");
    fs::rename(&root, &aside).expect("folder can be renamed");
    assert_eq!(folder.scan(), names(&["a"]));
    assert!(folder.reasons()[0].starts_with("cannot be read"));
    fs::rename(&aside, &root).expect("folder can be renamed");
    assert_eq!(folder.scan(), names(&["a"]));
    assert_eq!(folder.reasons(), Vec::<String>::new());
}

#[test]
fn a_half_written_file_waits_unless_its_writer_is_done() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &service("a"));
    assert_eq!(folder.scan(), names(&["a"]));
    let path = folder.folder.path().join("a.yaml");
    folder.write("a.yaml", "");
    let scan = folder.source.scan(&Touched::Files(HashSet::new()));
    assert!(scan.snapshot.is_none() && scan.unsettled, "{scan:?}");
    folder.write("a.yaml", &service("b"));
    let scan = folder.source.scan(&Touched::Files(HashSet::from([path])));
    let parts = scan.snapshot.expect("the writer is done").parts;
    assert_eq!(&*parts.services[0].name, "b");
}
