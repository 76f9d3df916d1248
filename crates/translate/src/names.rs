// SPDX-License-Identifier: Apache-2.0
//! The names that DNS answers: each with its addresses, and the short forms of services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use remora_ir::names::{NameEntry, NameTable};
use remora_xds_types::{NameInfo, NameTable as Message};

use crate::fault::Scope;
use crate::resource::Context;

/// Translates a table.
///
/// A service of the proxy's DNS domain answers to `name.namespace` and `name.namespace.svc` too,
/// and to `name` if the namespace is the proxy's. A short form never takes the place of a name
/// that the table has.
pub(crate) fn table(scope: &Scope<'_>, message: Message, ctx: &Context) -> NameTable {
    let mut entries: BTreeMap<String, NameEntry> = BTreeMap::new();
    let mut short: BTreeMap<String, NameEntry> = BTreeMap::new();
    for (name, message) in message.table {
        let scope = scope.entry("table", &name);
        let NameInfo {
            ips,
            registry: _,
            shortname,
            namespace,
            alt_hosts,
        } = message;
        if name.is_empty() {
            scope.fault("name is empty");
        }
        let entry = addresses(&scope, &ips);
        for form in short_forms(&name, &shortname, &namespace, ctx).chain(alt_hosts) {
            short.entry(form).or_insert_with(|| entry.clone());
        }
        entries.insert(plain(&name), entry);
    }
    for (name, entry) in short {
        entries.entry(plain(&name)).or_insert(entry);
    }
    NameTable::from_entries(entries)
}

/// Lower case, without a final dot: the form in which names are compared.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn addresses(scope: &Scope<'_>, ips: &[String]) -> NameEntry {
    let mut entry = NameEntry::default();
    for (at, ip) in ips.iter().enumerate() {
        match ip.parse() {
            Ok(IpAddr::V4(v4)) => entry.v4.push(v4),
            Ok(IpAddr::V6(v6)) => entry.v6.push(v6),
            Err(_) => scope
                .item("ips", at)
                .fault(format!("`{ip}` is not an IP address")),
        }
    }
    entry
}

fn short_forms(
    name: &str,
    shortname: &str,
    namespace: &str,
    ctx: &Context,
) -> impl Iterator<Item = String> + use<> {
    let domain = &*ctx.dns_domain;
    // `ns.svc.cluster.local` of the proxy and `svc.cluster.local` both say the cluster's domain.
    let cluster = domain
        .split_once(".svc.")
        .map_or(domain, |(_, cluster)| cluster);
    let is_ours = !cluster.is_empty() && plain(name).ends_with(&format!(".{}", plain(cluster)));
    let mut forms = Vec::new();
    if is_ours && !shortname.is_empty() && !namespace.is_empty() {
        forms.push(format!("{shortname}.{namespace}"));
        forms.push(format!("{shortname}.{namespace}.svc"));
        if *namespace == *ctx.namespace {
            forms.push(shortname.to_owned());
        }
    }
    forms.into_iter()
}
