// SPDX-License-Identifier: Apache-2.0
//! Typed access to a document, which reports faults with their line and path.
//!
//! A [`Scope`] collects the findings of one object; a [`Field`] is a value with its path; a
//! [`Fields`] is a map whose keys are taken one by one. Readers go on after a fault, so that one
//! reading finds all of them; whether the object may be used is asked of the scope at the end.
//!
//! **Invariant:** when a [`Fields`] is dropped, each key that nobody took is reported.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use remora_primitives::Port;

use super::yaml::{Entry, Node, Value};
use crate::source::finding::{Finding, Severity};

/// The most findings about one object: nobody reads more, and a file of ten megabytes could
/// otherwise make a gigabyte of them.
pub const MAX_FINDINGS: usize = 100;

/// Collects what is wrong with one object.
#[derive(Debug)]
pub struct Scope {
    file: Arc<str>,
    object: RefCell<String>,
    findings: RefCell<Vec<Finding>>,
    unsaid: Cell<usize>,
    broken: Cell<bool>,
    refused: Cell<bool>,
}

impl Scope {
    /// A scope for one object of a file.
    #[must_use]
    pub fn new(file: Arc<str>) -> Self {
        Self {
            file,
            object: RefCell::default(),
            findings: RefCell::default(),
            unsaid: Cell::new(0),
            broken: Cell::new(false),
            refused: Cell::new(false),
        }
    }

    /// The file.
    #[must_use]
    pub const fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Names the object in this and all later findings.
    pub fn name_object(&self, object: String) {
        for finding in self.findings.borrow_mut().iter_mut() {
            finding.object.clone_from(&object);
        }
        *self.object.borrow_mut() = object;
    }

    /// Whether the object is written wrongly.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Whether the object is written well but asks for what cannot be given.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        self.refused.get()
    }

    /// The findings, about [`MAX_FINDINGS`] at most, and one that counts the rest.
    #[must_use]
    pub fn into_findings(self) -> Vec<Finding> {
        let unsaid = self.unsaid.get();
        if unsaid > 0 {
            self.push(
                Severity::Warning,
                0,
                "",
                format!("{unsaid} more findings are not shown"),
            );
        }
        self.findings.into_inner()
    }

    fn add(&self, severity: Severity, line: u32, field: &str, reason: String) {
        if self.findings.borrow().len() < severity.room(MAX_FINDINGS) {
            self.push(severity, line, field, reason);
        } else {
            self.unsaid.set(self.unsaid.get() + 1);
        }
    }

    fn push(&self, severity: Severity, line: u32, field: &str, reason: String) {
        self.findings.borrow_mut().push(Finding {
            file: self.file.to_string(),
            line,
            severity,
            object: self.object.borrow().clone(),
            field: field.to_owned(),
            reason,
        });
    }
}

/// A value, its place and its path.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    scope: &'a Scope,
    node: &'a Node,
    line: u32,
    path: String,
}

impl<'a> Field<'a> {
    /// The root of a document.
    #[must_use]
    pub const fn root(scope: &'a Scope, node: &'a Node) -> Self {
        Self {
            scope,
            node,
            line: node.line,
            path: String::new(),
        }
    }

    /// The same place, reported to another scope: an object within an object.
    #[must_use]
    pub fn in_scope<'b>(&self, scope: &'b Scope) -> Field<'b>
    where
        'a: 'b,
    {
        Field {
            scope,
            node: self.node,
            line: self.line,
            path: self.path.clone(),
        }
    }

    /// The scope it reports to.
    #[must_use]
    pub const fn scope(&self) -> &'a Scope {
        self.scope
    }

    /// Its line.
    #[must_use]
    pub const fn line(&self) -> u32 {
        self.line
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reports that the object is written wrongly here.
    pub fn error(&self, reason: impl Into<String>) {
        self.scope.broken.set(true);
        self.scope
            .add(Severity::Error, self.line, &self.path, reason.into());
    }

    /// Reports that this asks for what cannot be given, and without which the object must not be
    /// applied.
    pub fn refuse(&self, reason: impl Into<String>) {
        self.scope.refused.set(true);
        self.scope
            .add(Severity::Error, self.line, &self.path, reason.into());
    }

    /// Reports what the writer should know.
    pub fn warn(&self, reason: impl Into<String>) {
        self.scope
            .add(Severity::Warning, self.line, &self.path, reason.into());
    }

    fn expected(&self, what: &str) {
        let hint = match (&self.node.value, what) {
            (Value::Integer(_) | Value::Float(_) | Value::Bool(_), "text") => " (quote it)",
            _ => "",
        };
        self.error(format!(
            "expected {what}, found {}{hint}",
            self.node.value.type_name()
        ));
    }

    /// Text.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.expected("text");
                None
            }
        }
    }

    /// Text that goes into a head or a URL: without control characters.
    #[must_use]
    pub fn plain_text(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.chars().any(char::is_control) {
            self.error("control characters are not allowed here");
            return None;
        }
        Some(text)
    }

    /// Text, or a whole number in its plain spelling.
    #[must_use]
    pub fn text_or_integer(&self) -> Option<String> {
        match &self.node.value {
            Value::Integer(number) => Some(number.to_string()),
            _ => self.text().map(str::to_owned),
        }
    }

    /// `true` or `false`.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        match self.node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.expected("a boolean");
                None
            }
        }
    }

    /// A whole number from 0.
    #[must_use]
    pub fn unsigned(&self) -> Option<u32> {
        let Value::Integer(number) = self.node.value else {
            self.expected("an integer");
            return None;
        };
        let found = u32::try_from(number).ok();
        if found.is_none() {
            self.error(format!(
                "number out of range: {number} (expected 0 to {})",
                u32::MAX
            ));
        }
        found
    }

    /// Any number.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self.node.value {
            Value::Float(number) => Some(number),
            Value::Integer(number) => match i32::try_from(number) {
                Ok(number) => Some(f64::from(number)),
                Err(_) => {
                    self.error(format!("number out of range: {number}"));
                    None
                }
            },
            _ => {
                self.expected("a number");
                None
            }
        }
    }

    /// A port, 1 to 65535.
    #[must_use]
    pub fn port(&self) -> Option<Port> {
        let Value::Integer(number) = self.node.value else {
            self.expected("a port number");
            return None;
        };
        let port = u16::try_from(number).ok().and_then(Port::new);
        if port.is_none() {
            self.error(format!("port out of range: {number} (expected 1 to 65535)"));
        }
        port
    }

    /// Whether the value is an integer.
    #[must_use]
    pub const fn is_integer(&self) -> bool {
        matches!(self.node.value, Value::Integer(_))
    }

    /// The items of a list.
    #[must_use]
    pub fn list(&self) -> Vec<Self> {
        let Value::List(items) = &self.node.value else {
            self.expected("a list");
            return Vec::new();
        };
        let item = |(at, node): (usize, &'a Node)| Self {
            scope: self.scope,
            node,
            line: node.line,
            path: format!("{}[{at}]", self.path),
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The keys and values of a map whose keys are the writer's own (labels, headers).
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'a str, Self)> {
        let Value::Map(entries) = &self.node.value else {
            self.expected("a map");
            return Vec::new();
        };
        entries
            .iter()
            .map(|entry| (entry.key.as_str(), self.below(entry)))
            .collect()
    }

    /// The text under a key of this map, if there is one; reports nothing.
    #[must_use]
    pub fn peek(&self, key: &str) -> Option<&'a str> {
        let Value::Map(entries) = &self.node.value else {
            return None;
        };
        match &entries.iter().find(|entry| entry.key == key)?.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The keys of a map that the API defines.
    #[must_use]
    pub fn fields(&self) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.expected("a map");
            return None;
        };
        let taken = RefCell::new(vec![false; entries.len()]);
        Some(Fields {
            own: self.clone(),
            entries,
            taken,
        })
    }

    fn below(&self, entry: &'a Entry) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{}", self.path, entry.key);
        Self {
            scope: self.scope,
            node: &entry.node,
            line: entry.line,
            path,
        }
    }
}

/// A map whose keys are taken one by one.
#[derive(Debug)]
pub struct Fields<'a> {
    own: Field<'a>,
    entries: &'a [Entry],
    taken: RefCell<Vec<bool>>,
}

impl<'a> Fields<'a> {
    /// The map itself, to report about.
    #[must_use]
    pub const fn own(&self) -> &Field<'a> {
        &self.own
    }

    /// Takes a key; one that holds nothing counts as missing.
    #[must_use]
    pub fn take(&self, key: &str) -> Option<Field<'a>> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        if let Some(taken) = self.taken.borrow_mut().get_mut(at) {
            *taken = true;
        }
        let entry = self.entries.get(at)?;
        (entry.node.value != Value::Null).then(|| self.own.below(entry))
    }

    /// Takes a key that must be there.
    #[must_use]
    pub fn require(&self, key: &str) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            self.own.error(format!("`{key}` is missing"));
        }
        field
    }

    /// Takes a text that may be missing.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.take(key)?.text()
    }

    /// Takes a number that may be missing.
    #[must_use]
    pub fn unsigned(&self, key: &str) -> Option<u32> {
        self.take(key)?.unsigned()
    }

    /// Takes a boolean that may be missing.
    #[must_use]
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.take(key)?.boolean()
    }

    /// Takes a map that may be missing.
    #[must_use]
    pub fn map(&self, key: &str) -> Option<Self> {
        self.take(key)?.fields()
    }

    /// Takes the items of a list that may be missing.
    #[must_use]
    pub fn list(&self, key: &str) -> Vec<Field<'a>> {
        self.take(key).map_or_else(Vec::new, |field| field.list())
    }

    /// Takes keys that say nothing to a mesh.
    pub fn ignore(&self, keys: &[&str]) {
        for key in keys {
            let _ = self.take(key);
        }
    }

    /// Takes all keys: the map says nothing to a mesh.
    pub fn ignore_all(&self) {
        self.taken.borrow_mut().fill(true);
    }

    /// Takes keys that are known, not implemented, and harmless to leave out.
    pub fn no_effect(&self, keys: &[&str]) {
        for field in keys.iter().filter_map(|key| self.take(key)) {
            field.warn("not supported yet: has no effect");
        }
    }

    /// Takes keys that are known, not implemented, and not harmless to leave out.
    pub fn refuse(&self, keys: &[&str], why: &str) {
        for field in keys.iter().filter_map(|key| self.take(key)) {
            field.refuse(format!(
                "not supported yet: {why}; the object is not applied"
            ));
        }
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        let untaken = self.entries.iter().zip(self.taken.get_mut().iter());
        for (entry, _) in untaken.filter(|(_, taken)| !**taken) {
            self.own.below(entry).warn("unknown field: has no effect");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn findings(text: &str, read: impl Fn(&Fields<'_>)) -> Vec<String> {
        let documents = yaml::parse(text).expect("text is well formed");
        let scope = Scope::new("f".into());
        let root = documents.first().expect("there is a document");
        read(&Field::root(&scope, root).fields().expect("is a map"));
        scope
            .into_findings()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_nobody_asks_for_is_reported() {
        let found = findings("a: 1\nb:\n  c: 2\n", |fields| {
            assert_eq!(fields.unsigned("a"), Some(1));
            let _ = fields.map("b");
        });
        assert_eq!(found, ["f:3: warning: b.c: unknown field: has no effect"]);
    }

    #[test]
    fn wrong_types_say_what_was_expected() {
        let found = findings("a: 80\nb: x\nc: [1, y]\nd: 70000\n", |fields| {
            assert_eq!(fields.text("a"), None);
            assert_eq!(fields.unsigned("b"), None);
            assert_eq!(
                fields.list("c").iter().filter_map(Field::unsigned).count(),
                1
            );
            assert_eq!(fields.take("d").and_then(|d| d.port()), None);
            assert!(fields.require("e").is_none());
        });
        let expected = [
            "f:1: error: a: expected text, found an integer (quote it)",
            "f:2: error: b: expected an integer, found text",
            "f:3: error: c[1]: expected an integer, found text",
            "f:4: error: d: port out of range: 70000 (expected 1 to 65535)",
            "f:1: error: `e` is missing",
        ];
        assert_eq!(found, expected);
    }
}
