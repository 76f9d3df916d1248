// SPDX-License-Identifier: Apache-2.0
//! From the tables as they are and as they should be to one restore input. Pure.
//!
//! The restore runs with `--noflush`: what the input does not name stays. A chain that the input
//! declares is emptied if it exists, so loading the same rules twice is the same as once, and the
//! kernel takes each table's changes in one step.
//!
//! Invariant: the input deletes only rules that jump to our chains, and only our chains.

use super::rules::{OWN_CHAINS, Table};

/// The restore input for tables that hold nothing of ours yet.
pub fn render(wanted: &[Table]) -> String {
    wanted
        .iter()
        .map(|table| section(Some(table), &Present::new(table.name)))
        .collect()
}

/// The restore input that takes the tables from `current` (as `iptables-save` prints them) to
/// `wanted`, whatever of ours they hold now. Nothing if there is nothing to do.
pub fn replace(current: &str, wanted: &[Table]) -> Option<String> {
    let present = find_own(current);
    let mut input = String::new();
    for table in &present {
        input.push_str(&section(
            wanted.iter().find(|want| want.name == table.name),
            table,
        ));
    }
    for want in wanted
        .iter()
        .filter(|want| present.iter().all(|table| table.name != want.name))
    {
        input.push_str(&section(Some(want), &Present::new(want.name)));
    }
    (!input.is_empty()).then_some(input)
}

/// Whether tables as `iptables-save` prints them hold anything of ours.
pub fn has_own(current: &str) -> bool {
    !find_own(current).is_empty()
}

/// How many rules of the nat table, as `iptables-save` prints it, are not ours.
pub fn count_foreign_rules(current: &str) -> usize {
    let mut table = "";
    let mut count = 0;
    for line in current.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim();
        } else if table == "nat" && line.starts_with("-A ") && !is_own_rule(line) {
            count += 1;
        }
    }
    count
}

/// What a table holds of ours.
struct Present<'a> {
    name: &'a str,
    chains: Vec<&'a str>,
    /// Rules of other chains that jump to ours, without their `-A `.
    jumps: Vec<&'a str>,
}

impl<'a> Present<'a> {
    fn new(name: &'a str) -> Self {
        Self {
            name,
            chains: Vec::new(),
            jumps: Vec::new(),
        }
    }
}

/// The tables that hold something of ours.
fn find_own(current: &str) -> Vec<Present<'_>> {
    let mut tables = Vec::new();
    for line in current.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Present::new(name));
            continue;
        }
        let Some(table) = tables.last_mut() else {
            continue;
        };
        if let Some(chain) = line
            .strip_prefix(':')
            .and_then(|rest| rest.split(' ').next())
        {
            if is_own_chain(chain) {
                table.chains.push(chain);
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let inside = rule.split(' ').next().is_some_and(is_own_chain);
            if !inside && is_own_rule(line) {
                table.jumps.push(rule);
            }
        }
    }
    tables.retain(|table| !table.chains.is_empty() || !table.jumps.is_empty());
    tables
}

fn section(wanted: Option<&Table>, present: &Present<'_>) -> String {
    let mut lines = vec![format!("*{}", present.name)];
    // Declaring a chain makes it or empties it.
    let kept: &[&str] = wanted.map_or(&[], |table| &table.chains);
    let stale = present.chains.iter().filter(|chain| !kept.contains(*chain));
    lines.extend(kept.iter().map(|chain| format!(":{chain} - [0:0]")));
    lines.extend(present.jumps.iter().map(|rule| format!("-D {rule}")));
    // All are emptied before the first is removed, since they jump to one another.
    lines.extend(stale.clone().map(|chain| format!("-F {chain}")));
    lines.extend(stale.map(|chain| format!("-X {chain}")));
    if let Some(table) = wanted {
        lines.extend(table.rules.iter().cloned());
        lines.extend(table.jumps.iter().map(ToString::to_string));
    }
    lines.push("COMMIT\n".to_owned());
    lines.join("\n")
}

fn is_own_chain(name: &str) -> bool {
    OWN_CHAINS.contains(&name)
}

/// Whether a rule sits in one of our chains or jumps to one.
fn is_own_rule(line: &str) -> bool {
    let mut words = Words(line);
    words.next();
    if words.next().is_some_and(is_own_chain) {
        return true;
    }
    while let Some(word) = words.next() {
        if matches!(word, "-j" | "-g") && words.next().is_some_and(is_own_chain) {
            return true;
        }
    }
    false
}

/// The words of a saved rule; a quoted text, such as a comment, is one word with its quotes.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        if text.is_empty() {
            return None;
        }
        let mut quoted = false;
        let mut escaped = false;
        let end = text.find(|c: char| {
            let was_escaped = escaped;
            escaped = quoted && c == '\\' && !was_escaped;
            quoted ^= c == '"' && !was_escaped;
            c == ' ' && !quoted
        });
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.0 = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Vec<Table> {
        vec![Table {
            name: "nat",
            chains: vec!["REMORA_OUTPUT", "REMORA_REDIRECT"],
            rules: vec!["-A REMORA_OUTPUT -j REMORA_REDIRECT".to_owned()],
            jumps: vec!["-I OUTPUT 1 -j REMORA_OUTPUT"],
        }]
    }

    const FOREIGN: &str = "\
*filter
:INPUT ACCEPT [0:0]
-A INPUT -m comment --comment \"not -j REMORA_OUTPUT at all\" -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [3:180]
:DOCKER - [0:0]
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
COMMIT
";

    const OURS_AND_FOREIGN: &str = "\
*raw
:REMORA_DNS_ZONE - [0:0]
-A OUTPUT -p udp -j REMORA_DNS_ZONE
-A REMORA_DNS_ZONE -p udp -m udp --dport 53 -j CT --zone 15053
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:REMORA_INBOUND - [0:0]
:REMORA_OUTPUT - [0:0]
-A PREROUTING -p tcp -j REMORA_INBOUND
-A OUTPUT -j REMORA_OUTPUT
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A REMORA_OUTPUT -p tcp -j REMORA_INBOUND
COMMIT
";

    #[test]
    fn a_first_apply_declares_fills_and_hooks_its_chains() {
        let expected = "\
*nat
:REMORA_OUTPUT - [0:0]
:REMORA_REDIRECT - [0:0]
-A REMORA_OUTPUT -j REMORA_REDIRECT
-I OUTPUT 1 -j REMORA_OUTPUT
COMMIT
";
        assert_eq!(render(&wanted()), expected);
        assert_eq!(replace(FOREIGN, &wanted()).as_deref(), Some(expected));
        assert_eq!(replace("", &wanted()).as_deref(), Some(expected));
    }

    #[test]
    fn a_second_apply_takes_the_old_hooks_and_stale_chains_away_in_the_same_step() {
        let expected = "\
*raw
-D OUTPUT -p udp -j REMORA_DNS_ZONE
-F REMORA_DNS_ZONE
-X REMORA_DNS_ZONE
COMMIT
*nat
:REMORA_OUTPUT - [0:0]
:REMORA_REDIRECT - [0:0]
-D PREROUTING -p tcp -j REMORA_INBOUND
-D OUTPUT -j REMORA_OUTPUT
-F REMORA_INBOUND
-X REMORA_INBOUND
-A REMORA_OUTPUT -j REMORA_REDIRECT
-I OUTPUT 1 -j REMORA_OUTPUT
COMMIT
";
        assert_eq!(
            replace(OURS_AND_FOREIGN, &wanted()).as_deref(),
            Some(expected)
        );
    }

    #[test]
    fn a_clean_removes_ours_and_names_nothing_else() {
        let input = replace(OURS_AND_FOREIGN, &[]).unwrap_or_default();
        assert!(
            input.contains("-X REMORA_INBOUND\n-X REMORA_OUTPUT\n"),
            "{input}"
        );
        assert!(!input.contains("DOCKER"), "{input}");
        assert_eq!(replace(FOREIGN, &[]), None);
        assert_eq!(replace("", &[]), None);
    }

    #[test]
    fn a_comment_that_quotes_our_chains_is_not_ours() {
        assert!(!has_own(FOREIGN));
        assert!(is_own_rule(
            "-A X -m comment --comment \"a \\\" b\" -g REMORA_REDIRECT"
        ));
        assert!(!is_own_rule(
            "-A X -m comment --comment \"a \\\" -j REMORA_REDIRECT\" -j Y"
        ));
        assert!(!is_own_rule("-A X -j REMORA_OUTPUT_OF_ANOTHER"));
    }

    #[test]
    fn foreign_nat_rules_are_counted_without_ours_and_without_other_tables() {
        assert_eq!(count_foreign_rules(FOREIGN), 1);
        assert_eq!(count_foreign_rules(OURS_AND_FOREIGN), 1);
        assert_eq!(count_foreign_rules(""), 0);
    }
}
