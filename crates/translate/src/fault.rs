// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a resource, and what of it was not taken: findings with field paths.
//!
//! A [`Scope`] is a place in a resource. Translating code walks down with [`Scope::field`] and
//! [`Scope::item`], which cost nothing, and tells what it finds there; a path becomes text only if
//! something is told. Findings are collected, never returned early, so that one look at a refused
//! resource shows all that must be mended.

use std::cell::RefCell;
use std::fmt;

/// One fault of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The place, as in `virtual_hosts[2].routes[0].match`; empty for the resource itself.
    pub path: String,
    /// What was found there.
    pub found: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.found)
        } else {
            write!(f, "{}: {}", self.path, self.found)
        }
    }
}

/// All faults of one resource; there is at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults {
    /// `listener`, `route`, `cluster`, `endpoints`, `names` or `bootstrap`.
    pub kind: &'static str,
    /// The resource's name; empty if it has none or could not be read.
    pub name: String,
    /// The faults, in the order of the resource.
    pub faults: Vec<Fault>,
    /// How many more there are: only the first [`Self::MOST`] are kept.
    pub more: usize,
}

impl Faults {
    /// Faults kept of one resource: enough to mend it by, too few to fill memory with.
    pub const MOST: usize = 256;
}

impl fmt::Display for Faults {
    /// Writes ``route "9080": virtual_hosts[2].routes[0].match: regex `(`: unclosed group; …``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        if !self.name.is_empty() {
            write!(f, " {:?}", self.name)?;
        }
        for (at, fault) in self.faults.iter().enumerate() {
            write!(f, "{} {fault}", if at == 0 { ":" } else { ";" })?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        Ok(())
    }
}

/// Something that was not honoured, though the resource was accepted: reported once for each
/// field or type, with how often it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The field (`envoy.config.route.v3.VirtualHost.stat_prefix`) or the extension's type.
    pub subject: String,
    /// Why it does no harm.
    pub note: &'static str,
    /// Where it came first.
    pub path: String,
    /// How often it came.
    pub times: usize,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ignored: {}", self.path, self.subject, self.note)?;
        if self.times > 1 {
            write!(f, " ({} times)", self.times)?;
        }
        Ok(())
    }
}

/// A value with what was not taken of its resource.
#[derive(Clone, Debug)]
pub struct Translated<T> {
    /// The value.
    pub value: T,
    /// What was ignored.
    pub notices: Vec<Notice>,
}

impl<T> Translated<T> {
    /// The same notices with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Translated<U> {
        Translated {
            value: change(self.value),
            notices: self.notices,
        }
    }
}

/// Where findings are gathered.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    faults: Vec<Fault>,
    more: usize,
    notices: Vec<Notice>,
}

/// Translates one resource: what `work` returns counts only if it told no fault.
pub(crate) fn gather<T>(
    kind: &'static str,
    name: &str,
    work: impl FnOnce(&Scope<'_>) -> Option<T>,
) -> Result<Translated<T>, Faults> {
    let findings = RefCell::default();
    let scope = Scope {
        parent: None,
        part: Part::Field(""),
        findings: &findings,
    };
    let value = work(&scope);
    if value.is_none() && findings.borrow().faults.is_empty() {
        scope.fault("could not be translated");
    }
    let Findings {
        faults,
        more,
        notices,
    } = findings.into_inner();
    match value {
        Some(value) if faults.is_empty() => Ok(Translated { value, notices }),
        _ => Err(Faults {
            kind,
            name: name.to_owned(),
            faults,
            more,
        }),
    }
}

/// A place in a resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    parent: Option<&'a Self>,
    part: Part<'a>,
    findings: &'a RefCell<Findings>,
}

#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Field(&'a str),
    Item(&'a str, usize),
    Key(&'a str, &'a str),
}

impl<'a> Scope<'a> {
    /// A field of this message.
    pub(crate) fn field<'b>(&'b self, name: &'b str) -> Scope<'b> {
        self.child(Part::Field(name))
    }

    /// An item of a repeated field of this message.
    pub(crate) fn item<'b>(&'b self, name: &'b str, at: usize) -> Scope<'b> {
        self.child(Part::Item(name, at))
    }

    /// An entry of a map of this message.
    pub(crate) fn entry<'b>(&'b self, name: &'b str, key: &'b str) -> Scope<'b> {
        self.child(Part::Key(name, key))
    }

    fn child<'b>(&'b self, part: Part<'b>) -> Scope<'b> {
        Scope {
            parent: Some(self),
            part,
            findings: self.findings,
        }
    }

    /// Tells a fault of this place.
    pub(crate) fn fault(&self, found: impl Into<String>) {
        let mut findings = self.findings.borrow_mut();
        if findings.faults.len() == Faults::MOST {
            findings.more += 1;
            return;
        }
        let (path, found) = (self.path(), found.into());
        findings.faults.push(Fault { path, found });
    }

    /// Tells that something of this place is not taken.
    pub(crate) fn notice(&self, subject: &str, note: &'static str) {
        let mut findings = self.findings.borrow_mut();
        let known = findings
            .notices
            .iter_mut()
            .find(|notice| notice.subject == subject);
        if let Some(notice) = known {
            notice.times += 1;
            return;
        }
        // A sender may put any number of unknown optional types into a resource.
        if findings.notices.len() < Faults::MOST {
            findings.notices.push(Notice {
                subject: subject.to_owned(),
                note,
                path: self.path(),
                times: 1,
            });
        }
    }

    /// Takes a result's value, or tells its error as a fault of this place.
    pub(crate) fn take<T, E: fmt::Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.fault(error.to_string())).ok()
    }

    fn path(&self) -> String {
        let mut path = self.parent.map(Scope::path).unwrap_or_default();
        let (Part::Field(name) | Part::Item(name, _) | Part::Key(name, _)) = self.part;
        if !path.is_empty() && !name.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        match self.part {
            Part::Field(_) => {}
            Part::Item(_, at) => path.push_str(&format!("[{at}]")),
            Part::Key(_, key) => path.push_str(&format!("[{key:?}]")),
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_fields_items_and_keys() {
        let faults = gather("route", "9080", |root| {
            let host = root.item("virtual_hosts", 2);
            let route = host.item("routes", 0);
            route.field("match").fault("regex `(`: unclosed group");
            route.entry("typed_per_filter_config", "x").fault("y");
            Some(())
        });
        assert_eq!(
            faults.expect_err("has faults").to_string(),
            "route \"9080\": virtual_hosts[2].routes[0].match: regex `(`: unclosed group; \
             virtual_hosts[2].routes[0].typed_per_filter_config[\"x\"]: y"
        );
    }

    #[test]
    fn findings_are_bounded_and_notices_counted() {
        let faults = gather("route", "", |root| {
            (0..Faults::MOST + 3).for_each(|_| root.fault("x"));
            Some(())
        })
        .expect_err("has faults");
        assert_eq!((faults.faults.len(), faults.more), (Faults::MOST, 3));
        let translated = gather("route", "", |root| {
            (0..5).for_each(|at| root.item("a", at).notice("T.f", "harmless"));
            Some(())
        })
        .expect("no fault");
        assert_eq!(
            translated.notices[0].to_string(),
            "a[0]: T.f ignored: harmless (5 times)"
        );
    }
}
