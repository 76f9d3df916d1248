// SPDX-License-Identifier: Apache-2.0
//! Rules and policies: which of several for one host counts, and whether what they name exists.

use std::collections::HashMap;
use std::sync::Arc;

use remora_model::{
    DestinationPolicy, Host, Labels, Model, ModelParts, Namespace, RouteRule, TrafficPolicy,
};

use super::about;
use crate::source::finding::{Finding, Severity};
use crate::source::manifest::Object;
use crate::source::manifest::object::{DestinationRule, Place, Purpose, Reference, VirtualService};

/// The rules that concern sidecars. Of two for one host the first wins; the model's look-up
/// sees to that, here it is reported.
pub(super) fn routes(objects: &[&Object], findings: &mut Vec<Finding>) -> Vec<Arc<RouteRule>> {
    let mut by_host: HashMap<&Host, Vec<&RouteRule>> = HashMap::new();
    let mut rules = Vec::new();
    for written in virtual_services(objects) {
        let rule = &written.rule;
        for (host, place) in rule.hosts.iter().zip(&written.hosts) {
            let others = by_host.entry(host).or_default();
            let first = others
                .iter()
                .find(|other| other.visibility.overlaps(&rule.visibility));
            if let Some(first) = first {
                let (first, file, line) = (&first.origin, &first.origin.file, first.origin.line);
                let reason = format!(
                    "host `{host}` is routed already by {first} at {file}:{line}: \
                     for this host the rule has no effect"
                );
                findings.push(about(Severity::Error, &rule.origin, Some(place), reason));
            }
            others.push(rule);
        }
        if !rule.hosts.is_empty() {
            rules.push(Arc::new(rule.clone()));
        }
    }
    rules
}

fn virtual_services<'a>(objects: &[&'a Object]) -> impl Iterator<Item = &'a VirtualService> {
    let found = objects.iter().filter_map(|object| match object {
        Object::VirtualService(written) => Some(&**written),
        _ => None,
    });
    found.collect::<Vec<_>>().into_iter()
}

/// The policies. Several of one namespace for one host and the same callers are one, as in
/// Istio: the first one's sections count, subsets come together.
pub(super) fn policies(
    objects: &[&Object],
    findings: &mut Vec<Finding>,
) -> Vec<Arc<DestinationPolicy>> {
    let mut policies: Vec<DestinationPolicy> = Vec::new();
    let mut first: HashMap<(&Host, &Namespace, &Labels), usize> = HashMap::new();
    for object in objects {
        let Object::DestinationRule(written) = object else {
            continue;
        };
        let new = &written.policy;
        let at = *first
            .entry((&new.host, &new.namespace, &new.workload_selector))
            .or_insert(policies.len());
        match policies.get_mut(at) {
            Some(first) => merge(first, written, findings),
            None => policies.push(new.clone()),
        }
    }
    policies.into_iter().map(Arc::new).collect()
}

fn merge(first: &mut DestinationPolicy, written: &DestinationRule, findings: &mut Vec<Finding>) {
    let new = &written.policy;
    let other = format!(
        "{} at {}:{}",
        first.origin, first.origin.file, first.origin.line
    );
    let mut report = |place: &Place, reason: String| {
        findings.push(about(Severity::Error, &new.origin, Some(place), reason));
    };
    if first.visibility != new.visibility {
        report(
            &written.host,
            format!(
                "`{}` has a policy already in {other}: this one has no effect",
                new.host
            ),
        );
        return;
    }
    if first.policy == TrafficPolicy::default() {
        first.policy = new.policy.clone();
    } else if new.policy != TrafficPolicy::default() {
        report(
            &written.host,
            format!(
                "`{}` has a traffic policy already in {other}: this one's has no effect",
                new.host
            ),
        );
    }
    for (subset, place) in new.subsets.iter().zip(&written.subsets) {
        if first.subset(&subset.name).is_some() {
            let name = &subset.name;
            report(
                place,
                format!("subset `{name}` is defined already in {other}"),
            );
        } else {
            first.subsets.push(subset.clone());
        }
    }
}

/// Reports hosts, subsets and ports that are named but do not exist.
pub(super) fn check_references(
    parts: &mut ModelParts,
    objects: &[&Object],
    domain: &str,
    findings: &mut Vec<Finding>,
) {
    let model = Model::new(0, std::mem::take(parts), None);
    let check = Check {
        model: &model,
        domain,
    };
    for written in virtual_services(objects) {
        let rule = &written.rule;
        for (host, place) in rule.hosts.iter().zip(&written.hosts) {
            if !check.names_a_service(host, &rule.namespace) {
                let reason = format!("{}: only port 80 is routed", check.no_service(host));
                findings.push(about(Severity::Warning, &rule.origin, Some(place), reason));
            }
        }
        for reference in &written.references {
            if let Some(reason) = check.missing(reference, &rule.namespace) {
                let place = Some(&reference.place);
                findings.push(about(Severity::Warning, &rule.origin, place, reason));
            }
        }
    }
    for object in objects {
        let Object::DestinationRule(written) = object else {
            continue;
        };
        let policy = &written.policy;
        if !check.names_a_service(&policy.host, &policy.namespace) {
            let reason = format!("{}: it has no effect", check.no_service(&policy.host));
            findings.push(about(
                Severity::Warning,
                &policy.origin,
                Some(&written.host),
                reason,
            ));
        }
    }
    *parts = model.parts().clone();
}

struct Check<'a> {
    model: &'a Model,
    domain: &'a str,
}

impl Check<'_> {
    fn names_a_service(&self, host: &Host, namespace: &Namespace) -> bool {
        self.model.service(host, namespace).is_some()
            || host.is_wildcard() && self.model.services().iter().any(|s| host.covers(&s.host))
    }

    /// Says that there is no such service, and guesses what was meant.
    fn no_service(&self, host: &Host) -> String {
        let full = format!("{host}.svc.{}", self.domain);
        let meant = Host::try_new(&full).ok();
        let exists = |meant: &Host| self.model.services().iter().any(|s| s.host == *meant);
        match meant.filter(exists) {
            Some(meant) => format!("there is no service `{host}` (is `{meant}` meant?)"),
            None => format!("there is no service `{host}`"),
        }
    }

    fn missing(&self, reference: &Reference, namespace: &Namespace) -> Option<String> {
        let host = Host::Name(reference.host.clone());
        let outcome = match reference.purpose {
            Purpose::Answer => "calls are answered with 503",
            Purpose::Copy => "no copies are sent",
        };
        let Some(service) = self.model.service(&host, namespace) else {
            return Some(format!("{}: {outcome}", self.no_service(&host)));
        };
        if let Some(port) = reference.port.filter(|port| service.port(*port).is_none()) {
            return Some(format!("`{host}` has no port {port}: {outcome}"));
        }
        let subset = reference.subset.as_deref()?;
        let mut policies = self.model.policies_covering(&host);
        let defines = |policy: &Arc<DestinationPolicy>| {
            policy.visibility.includes(namespace) && policy.subset(subset).is_some()
        };
        if policies.any(defines) {
            return None;
        }
        Some(format!("`{host}` has no subset `{subset}`: {outcome}"))
    }
}
