// SPDX-License-Identifier: Apache-2.0
//! Istio's `VirtualService`: hosts, gateways, and routes for connections; requests are in
//! `http`, the tests of either in `matches`.
//!
//! Only what concerns sidecars is kept: rules, routes and matches that are bound to other
//! gateways than `mesh` are left out.

mod http;
mod matches;

pub(super) use matches::read_net;

use std::cell::RefCell;
use std::sync::Arc;

use remora_model::{
    Destination, HeaderEdits, L4Match, RouteRule, TcpRoute, TlsMatch, TlsRoute, WeightedDestination,
};
use remora_primitives::Weight;

use super::fields::{Field, Fields};
use super::object::{Meta, Object, Place, Purpose, Reference, VirtualService};
use super::values::Home;

/// Reads a `VirtualService`; `None` if it does not concern sidecars or is beyond use.
#[must_use]
pub fn read(meta: Meta, fields: &Fields<'_>, home: &Home) -> Option<Object> {
    fields.ignore(&["status"]);
    let spec = fields.require("spec")?.fields()?;
    let context = Context {
        home,
        references: RefCell::default(),
    };
    let mut places = Vec::new();
    let mut hosts = Vec::new();
    for field in spec.list("hosts") {
        let Some(host) = home.host(&field) else {
            continue;
        };
        if hosts.contains(&host) {
            field.warn(format!("host `{host}` is listed twice"));
            continue;
        }
        hosts.push(host);
        places.push(Place {
            line: field.line(),
            path: field.path().to_owned(),
        });
    }
    let visibility = home.visibility(&spec);
    let in_mesh = concerns_mesh(&spec);
    let http = spec.list("http");
    let http: Vec<_> = http
        .iter()
        .filter_map(|item| http::read_route(item, &context))
        .collect();
    let tls = spec.list("tls");
    let tls: Vec<_> = tls
        .iter()
        .filter_map(|item| read_tls(item, &context))
        .collect();
    let tcp = spec.list("tcp");
    let tcp: Vec<_> = tcp
        .iter()
        .filter_map(|item| read_tcp(item, &context))
        .collect();
    if hosts.is_empty() {
        spec.own()
            .error("`hosts` is missing or empty (delegates are not supported yet)");
    }
    if !in_mesh {
        spec.own()
            .warn("`gateways` does not list `mesh`: the rule concerns no sidecar");
        hosts.clear();
        places.clear();
    }
    let namespace = meta.namespace().clone();
    let rule = RouteRule {
        origin: meta.origin,
        namespace,
        hosts,
        visibility,
        http,
        tls,
        tcp,
    };
    let references = if in_mesh {
        context.references.into_inner()
    } else {
        Vec::new()
    };
    Some(Object::VirtualService(Box::new(VirtualService {
        rule,
        hosts: places,
        references,
    })))
}

/// What the parts of a rule are read with.
struct Context<'a> {
    home: &'a Home,
    references: RefCell<Vec<Reference>>,
}

/// Whether `gateways` is absent or lists `mesh`.
fn concerns_mesh(fields: &Fields<'_>) -> bool {
    let Some(gateways) = fields.take("gateways") else {
        return true;
    };
    let names = gateways.list();
    names.is_empty()
        || names
            .iter()
            .filter_map(Field::text)
            .any(|name| name == "mesh")
}

/// Reads the matches of a route. `None`: there are some, but none concerns sidecars.
fn read_matches<'a, M>(
    fields: &Fields<'a>,
    read: impl Fn(&Fields<'a>) -> Option<M>,
) -> Option<Vec<M>> {
    let written = fields.list("match");
    let found: Vec<_> = written
        .iter()
        .filter_map(Field::fields)
        .filter_map(|item| {
            let parsed = read(&item);
            concerns_mesh(&item).then_some(parsed).flatten()
        })
        .collect();
    (written.is_empty() || !found.is_empty()).then_some(found)
}

fn read_tls(item: &Field<'_>, context: &Context<'_>) -> Option<TlsRoute> {
    let fields = item.fields()?;
    let destinations = read_destinations(&fields, context, EditsAllowed::No);
    let matches = read_matches(&fields, |item| {
        let sni = item.list("sniHosts");
        let sni: Vec<_> = sni
            .iter()
            .filter_map(|host| context.home.host(host))
            .collect();
        let l4 = matches::read_l4(item);
        if sni.is_empty() {
            item.own().error("`sniHosts` is missing or empty");
        }
        Some(TlsMatch { sni, l4 })
    });
    let (matches, destinations) = (matches?, destinations?);
    if matches.is_empty() {
        fields.own().error("`match` is missing or empty");
    }
    Some(TlsRoute {
        matches,
        destinations,
    })
}

fn read_tcp(item: &Field<'_>, context: &Context<'_>) -> Option<TcpRoute> {
    let fields = item.fields()?;
    let destinations = read_destinations(&fields, context, EditsAllowed::No);
    let matches: Option<Vec<L4Match>> = read_matches(&fields, |item| Some(matches::read_l4(item)));
    Some(TcpRoute {
        matches: matches?,
        destinations: destinations?,
    })
}

/// Whether a route's destinations may edit headers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EditsAllowed {
    Yes,
    No,
}

/// Reads `route`: weighted destinations. A lone one has all; of several, those without weight
/// get nothing and are left out.
fn read_destinations(
    fields: &Fields<'_>,
    context: &Context<'_>,
    edits: EditsAllowed,
) -> Option<Vec<WeightedDestination>> {
    let written = fields.take("route")?;
    let items = written.list();
    let lone = items.len() == 1;
    let mut destinations = Vec::new();
    let mut sum = 0_u64;
    for item in items.iter().filter_map(Field::fields) {
        let weight = item.unsigned("weight").unwrap_or(0);
        sum += u64::from(weight);
        let headers = match edits {
            EditsAllowed::Yes => item.take("headers").map(|field| http::read_edits(&field)),
            EditsAllowed::No => None,
        };
        let destination = item.require("destination");
        let Some(destination) =
            destination.and_then(|d| read_destination(&d, context, Purpose::Answer))
        else {
            continue;
        };
        let weight = if lone {
            Some(Weight::ONE)
        } else {
            Weight::try_new(weight).ok()
        };
        let Some(weight) = weight else { continue };
        let headers: HeaderEdits = headers.unwrap_or_default();
        destinations.push(WeightedDestination {
            destination,
            weight,
            headers,
        });
    }
    if items.is_empty() {
        written.error("there is no destination");
    } else if !lone && sum == 0 {
        written.error("the weights sum to zero (expected at least one above zero)");
    } else if sum > u64::from(u32::MAX) {
        written.error(format!("the weights sum to {sum} (at most {})", u32::MAX));
    }
    (!destinations.is_empty()).then_some(destinations)
}

fn read_destination(
    field: &Field<'_>,
    context: &Context<'_>,
    purpose: Purpose,
) -> Option<Destination> {
    let fields = field.fields()?;
    let subset: Option<Arc<str>> = fields
        .text("subset")
        .filter(|name| !name.is_empty())
        .map(Arc::from);
    let port = fields
        .map("port")
        .and_then(|port| port.require("number")?.port());
    let host_field = fields.require("host")?;
    let host = context.home.host_name(&host_field)?;
    context.references.borrow_mut().push(Reference {
        place: Place {
            line: host_field.line(),
            path: host_field.path().to_owned(),
        },
        host: host.clone(),
        subset: subset.clone(),
        port,
        purpose,
    });
    Some(Destination { host, subset, port })
}

#[cfg(test)]
mod tests;
