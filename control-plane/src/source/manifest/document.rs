// SPDX-License-Identifier: Apache-2.0
//! Which objects a text holds: documents, lists, kinds and their versions, metadata.

use std::sync::Arc;

use remora_model::{Labels, Namespace, ObjectKind, ObjectRef};

use super::fields::{Field, Fields, Scope};
use super::object::{Meta, Object};
use super::values::{Home, labels};
use super::yaml::{self, Node, Value};
use super::{destination_rule, kubernetes, service_entry, virtual_service};
use crate::source::finding::{Finding, Severity};

/// What a file holds.
#[derive(Debug, Default)]
pub struct FileContent {
    /// The objects that are sound.
    pub objects: Vec<Object>,
    /// Objects that are written well but ask for what cannot be given: not applied.
    pub refused: Vec<ObjectRef>,
    /// Whether something is written wrongly, so that the file as a whole cannot be trusted.
    pub broken: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Reads all objects of a text. `domain` is the cluster's (`cluster.local`).
#[must_use]
pub fn read_text(file: &Arc<str>, text: &str, domain: &Arc<str>) -> FileContent {
    let documents = match yaml::parse(text) {
        Ok(documents) => documents,
        Err(error) => return unreadable(file, error.line, error.reason),
    };
    let mut reader = Reader {
        file,
        domain,
        content: FileContent::default(),
        unsaid: 0,
    };
    documents.iter().for_each(|node| reader.read_document(node));
    if reader.unsaid > 0 {
        let reason = format!("{} more findings are not shown", reader.unsaid);
        reader
            .content
            .findings
            .push(about_file(file, Severity::Warning, 0, reason));
    }
    reader.content
}

/// The content of a file that cannot be read at all.
#[must_use]
pub fn unreadable(file: &Arc<str>, line: u32, reason: String) -> FileContent {
    FileContent {
        broken: true,
        findings: vec![about_file(file, Severity::Error, line, reason)],
        ..FileContent::default()
    }
}

/// A finding about a file, or a line of it, that names no object.
#[must_use]
pub fn about_file(file: &str, severity: Severity, line: u32, reason: String) -> Finding {
    let (object, field) = (String::new(), String::new());
    Finding {
        file: file.to_owned(),
        line,
        severity,
        object,
        field,
        reason,
    }
}

/// The most findings about one file.
const MAX_FINDINGS_PER_FILE: usize = 1000;

struct Reader<'a> {
    file: &'a Arc<str>,
    domain: &'a Arc<str>,
    content: FileContent,
    unsaid: usize,
}

impl Reader<'_> {
    fn read_document(&mut self, node: &Node) {
        if node.value == Value::Null {
            return;
        }
        let scope = Scope::new(Arc::clone(self.file));
        let items = list_items(&Field::root(&scope, node));
        if let Some(items) = items {
            for item in items {
                let scope = Scope::new(Arc::clone(self.file));
                let object = self.read_object(&item.in_scope(&scope));
                self.close(scope, object);
            }
            self.close(scope, None);
        } else {
            let object = self.read_object(&Field::root(&scope, node));
            self.close(scope, object);
        }
    }

    fn close(&mut self, scope: Scope, object: Option<Read>) {
        self.content.broken |= scope.is_broken();
        let sound = !scope.is_broken() && !scope.is_refused();
        match object {
            Some(Read::Object(object)) if sound => self.content.objects.push(object),
            Some(Read::Object(object)) => self.content.refused.push(object.origin().clone()),
            Some(Read::Refused(origin)) => self.content.refused.push(origin),
            None => {}
        }
        for finding in scope.into_findings() {
            if self.content.findings.len() < finding.severity.room(MAX_FINDINGS_PER_FILE) {
                self.content.findings.push(finding);
            } else {
                self.unsaid += 1;
            }
        }
    }

    fn read_object(&self, root: &Field<'_>) -> Option<Read> {
        let fields = root.fields()?;
        let version = fields.require("apiVersion").and_then(|field| field.text());
        let kind = fields.require("kind");
        let kind_text = kind.as_ref().and_then(|field| field.text());
        let (Some(version), Some(kind), Some(kind_text)) = (version, kind, kind_text) else {
            fields.ignore_all();
            return None;
        };
        name_object(root, &fields, kind_text);
        let Some(kind) = known_kind(version, kind_text, &kind) else {
            fields.ignore_all();
            return None;
        };
        let Some(meta) = self.read_meta(kind, &fields) else {
            fields.ignore_all();
            return None;
        };
        let home = Home {
            namespace: meta.namespace().clone(),
            domain: Arc::clone(self.domain),
        };
        let origin = meta.origin.clone();
        let object = match kind {
            ObjectKind::Service => kubernetes::read_service(meta, &fields, &home),
            ObjectKind::EndpointSlice => kubernetes::read_slice(meta, &fields),
            ObjectKind::Pod => kubernetes::read_pod(meta, &fields),
            ObjectKind::VirtualService => virtual_service::read(meta, &fields, &home),
            ObjectKind::DestinationRule => destination_rule::read(meta, &fields, &home),
            ObjectKind::ServiceEntry => service_entry::read(meta, &fields, &home),
            ObjectKind::WorkloadEntry => service_entry::read_workload(meta, &fields),
            _ => {
                fields.ignore(&["spec", "status"]);
                Some(Object::Namespace(meta.origin))
            }
        };
        Some(object.map_or(Read::Refused(origin), Read::Object))
    }

    fn read_meta(&self, kind: ObjectKind, fields: &Fields<'_>) -> Option<Meta> {
        let metadata = fields.require("metadata")?.fields()?;
        metadata.ignore(IGNORED_METADATA);
        let namespace = metadata.take("namespace");
        let read = |key| {
            metadata
                .take(key)
                .map_or_else(Labels::default, |field| labels(&field))
        };
        let (labels, annotations) = (read("labels"), read("annotations"));
        let name = metadata.require("name")?.text_or_integer()?;
        if name.is_empty() || name.len() > 253 {
            metadata
                .own()
                .error(format!("name is {} characters long (1 to 253)", name.len()));
            return None;
        }
        let namespace = match namespace.map(|field| (field.text(), field)) {
            None => Namespace::default(),
            Some((None, _)) => return None,
            Some((Some(text), field)) => match Namespace::try_new(text) {
                Ok(namespace) => namespace,
                Err(error) => {
                    field.error(error.to_string());
                    return None;
                }
            },
        };
        let origin = ObjectRef {
            kind,
            namespace,
            name: name.into(),
            file: Arc::clone(self.file),
            line: fields.own().line(),
        };
        Some(Meta {
            origin,
            labels,
            annotations,
        })
    }
}

/// What became of a document of a known kind.
enum Read {
    /// An object; sound if its scope says so.
    Object(Object),
    /// An object of which not enough could be read.
    Refused(ObjectRef),
}

/// Names the object in findings as well as can be told before it is read.
fn name_object(root: &Field<'_>, fields: &Fields<'_>, kind: &str) {
    let metadata = fields.take("metadata");
    let text = |key: &str| metadata.as_ref().and_then(|field| field.peek(key));
    if let Some(name) = text("name") {
        let namespace = text("namespace").unwrap_or(Namespace::DEFAULT);
        root.scope()
            .name_object(format!("{kind} {namespace}/{name}"));
    }
}

/// The items, if the document is a `List`.
fn list_items<'a>(root: &Field<'a>) -> Option<Vec<Field<'a>>> {
    let fields = root
        .peek("kind")
        .filter(|kind| *kind == "List")
        .and_then(|_| root.fields())?;
    fields.ignore(&["apiVersion", "kind", "metadata"]);
    Some(fields.list("items"))
}

fn known_kind(version: &str, kind: &str, field: &Field<'_>) -> Option<ObjectKind> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let (known, versions): (ObjectKind, &[&str]) = match (group, kind) {
        ("", "Service") => (ObjectKind::Service, CORE),
        ("", "Pod") => (ObjectKind::Pod, CORE),
        ("", "Namespace") => (ObjectKind::Namespace, CORE),
        ("discovery.k8s.io", "EndpointSlice") => (ObjectKind::EndpointSlice, DISCOVERY),
        ("networking.istio.io", "VirtualService") => (ObjectKind::VirtualService, ISTIO),
        ("networking.istio.io", "DestinationRule") => (ObjectKind::DestinationRule, ISTIO),
        ("networking.istio.io", "ServiceEntry") => (ObjectKind::ServiceEntry, ISTIO),
        ("networking.istio.io", "WorkloadEntry") => (ObjectKind::WorkloadEntry, ISTIO),
        ("", "List") => {
            field.error("a list within a list is not read");
            return None;
        }
        ("security.istio.io", _) => {
            field.refuse(format!("`{kind}` is not supported yet: it is not enforced"));
            return None;
        }
        ("", _) => {
            field.warn(format!("unknown kind `{kind}`: has no effect"));
            return None;
        }
        _ => {
            field.warn(format!("unknown kind `{kind}` of `{group}`: has no effect"));
            return None;
        }
    };
    if versions.contains(&version) {
        return Some(known);
    }
    field.error(format!(
        "unknown version `{version}` of `{kind}` (expected {})",
        versions.join(", ")
    ));
    None
}

const CORE: &[&str] = &["v1"];
const DISCOVERY: &[&str] = &["v1", "v1beta1"];
/// Istio's three versions hold the same fields with the same meaning.
const ISTIO: &[&str] = &["v1", "v1beta1", "v1alpha3"];

const IGNORED_METADATA: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
