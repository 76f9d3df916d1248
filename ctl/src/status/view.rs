// SPDX-License-Identifier: Apache-2.0
//! The status as text: a head line, the proxies, what they refused, what is wrong with the files.
//!
//! Pure. Everything that was written by others is made printable first.

use std::time::Duration;

use super::page::{Finding, Kind, Node, Page};
use crate::output::{count, printable, short_duration, table};

/// The whole text.
pub(super) fn render(page: &Page, address: &str) -> String {
    let mut text = head(page, address);
    text.push_str(&proxies(&page.nodes));
    text.push_str(&refusals(&page.nodes));
    text.push_str(&findings(page));
    text
}

fn head(page: &Page, address: &str) -> String {
    let source = &page.source;
    let version = printable(&page.version);
    if source.revision == 0 {
        return format!("{version} at {address}: the folder was not read yet\n");
    }
    let parts = [
        count(source.services, "service"),
        count(source.endpoints, "endpoint"),
        count(source.routes, "route rule"),
        count(source.policies, "destination policy"),
    ];
    format!(
        "{version} at {address}: revision {}, {}\n",
        source.revision,
        parts.join(", ")
    )
}

fn proxies(nodes: &[Node]) -> String {
    if nodes.is_empty() {
        return "\nno proxy is connected\n".to_owned();
    }
    let header = [
        "PROXY",
        "ADDRESS",
        "AGENT",
        "STREAM",
        "STATE",
        "REVISION",
        "LAST PUSH",
        "CONNECTED",
        "ACCEPTED",
    ];
    let rows = nodes.iter().map(|node| {
        [
            printable(name(&node.id)),
            printable(node.peer.as_deref().unwrap_or("-")),
            printable(node.agent.as_str()),
            printable(&node.variant),
            state(node).to_owned(),
            node.revision.to_string(),
            node.last_push_ago.map_or_else(|| "-".to_owned(), ago),
            node_age(node),
            accepted(&node.kinds),
        ]
    });
    let rows: Vec<_> = std::iter::once(header.map(str::to_owned))
        .chain(rows)
        .collect();
    format!("\n{}", table(&rows))
}

/// `page.shop` of `sidecar~10.0.0.1~page.shop~shop.svc.cluster.local`; all of it if it is another
/// form.
fn name(id: &str) -> &str {
    let mut parts = id.split('~');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(_), Some(name), Some(_)) if !name.is_empty() => name,
        _ => id,
    }
}

fn state(node: &Node) -> &'static str {
    if node.kinds.iter().any(|kind| kind.refusal.is_some()) {
        "refused"
    } else if node.is_synced {
        "synced"
    } else if node.kinds.iter().any(|kind| kind.in_flight > 0) {
        "unanswered"
    } else {
        "behind"
    }
}

fn node_age(node: &Node) -> String {
    short_duration(seconds(node.connected_for))
}

fn ago(secs: f64) -> String {
    format!("{} ago", short_duration(seconds(secs)))
}

/// What others write may be no duration at all.
fn seconds(secs: f64) -> Duration {
    Duration::try_from_secs_f64(secs).unwrap_or_default()
}

/// `cds 6 @1f2e3d4c`: how many resources of each kind, in which accepted version.
fn accepted(kinds: &[Kind]) -> String {
    let each = kinds.iter().map(|kind| {
        let version: String = match kind.accepted_version.as_str() {
            "" => "-".to_owned(),
            version => version.chars().take(VERSION_CHARS).collect(),
        };
        printable(&format!("{} {} @{version}", kind.kind, kind.held))
    });
    each.collect::<Vec<_>>().join(", ")
}

fn refusals(nodes: &[Node]) -> String {
    let mut lines = Vec::new();
    for node in nodes {
        let name = printable(name(&node.id));
        let refused = node
            .kinds
            .iter()
            .filter_map(|kind| Some((kind, kind.refusal.as_ref()?)));
        let before = lines.len();
        for (kind, reason) in refused {
            let kind = printable(&kind.kind);
            lines.push(format!("  {name}: {kind}: {}\n", printable(reason)));
        }
        if let (true, Some(reason)) = (lines.len() == before, &node.last_refusal) {
            let when = node
                .last_refusal_ago
                .map_or_else(String::new, |at| format!(", {}", ago(at)));
            lines.push(format!(
                "  {name}: {} (made good since{when})\n",
                printable(reason)
            ));
        }
    }
    section("refused by proxies", lines)
}

fn findings(page: &Page) -> String {
    let source = &page.source;
    let title = format!(
        "in the folder: {}, {}",
        count(source.errors, "error"),
        count(source.warnings, "warning")
    );
    section(&title, source.findings.iter().map(line).collect())
}

fn section(title: &str, lines: Vec<String>) -> String {
    if lines.is_empty() {
        String::new()
    } else {
        format!("\n{title}\n{}", lines.concat())
    }
}

/// A finding as `remora analyze` prints it.
fn line(finding: &Finding) -> String {
    let mut text = format!("  {}", printable(&finding.file));
    if finding.line > 0 {
        text.push_str(&format!(":{}", finding.line));
    }
    let parts = [
        &finding.severity,
        &finding.object,
        &finding.field,
        &finding.reason,
    ];
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        text.push_str(": ");
        text.push_str(&printable(part));
    }
    text.push('\n');
    text
}

/// As much of a version as tells it from others at a glance.
const VERSION_CHARS: usize = 8;

#[cfg(test)]
mod tests;
