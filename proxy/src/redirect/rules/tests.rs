// SPDX-License-Identifier: Apache-2.0
//! Rules by golden files (the whole text) and by tables (one option, the lines it adds or takes).

use clap::{Args as _, Command, FromArgMatches as _};

use super::*;
use crate::redirect::args::OptionArgs;

/// The options that a command line gives.
fn options(flags: &[&str]) -> Options {
    let command = OptionArgs::augment_args(Command::new("apply").no_binary_name(true));
    let matches = command
        .try_get_matches_from(flags)
        .expect("flags of the test are valid");
    let args = OptionArgs::from_arg_matches(&matches).expect("matches come from the same command");
    args.into_options().expect("values of the test are valid")
}

fn printed(flags: &[&str]) -> String {
    build(&options(flags), Zones::Separate).to_string()
}

fn lines_only_in(left: &str, right: &str) -> Vec<String> {
    let right: Vec<_> = right.lines().collect();
    left.lines()
        .filter(|line| !right.contains(line))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_default_rules_are_the_golden_ones() {
    assert_golden(
        &printed(&[]),
        include_str!("../golden/default.rules"),
        "default",
    );
}

#[test]
fn every_option_at_once_gives_the_golden_rules() {
    let flags = [
        "--outbound-port=16001",
        "--inbound-port=16006",
        "--dns-port=16053",
        "--proxy-uid=2000",
        "--proxy-gid=2001",
        "--include-outbound-cidrs=10.0.0.0/8,fd00::/8",
        "--exclude-outbound-cidrs=10.9.0.0/16,fd09::/16",
        "--include-outbound-ports=3306",
        "--exclude-outbound-ports=25",
        "--include-outbound-users=www-data",
        "--exclude-outbound-users=postfix",
        "--include-outbound-groups=33",
        "--exclude-outbound-groups=34",
        "--include-inbound-ports=80,443",
        "--exclude-inbound-ports=22",
        "--exclude-interfaces=docker+",
        "--dns-servers=127.0.0.53,::1",
    ];
    assert_golden(
        &printed(&flags),
        include_str!("../golden/everything.rules"),
        "everything",
    );
}

/// Compares with a golden file; `REMORA_UPDATE_GOLDEN=1` writes it anew.
fn assert_golden(found: &str, expected: &str, name: &str) {
    if std::env::var_os("REMORA_UPDATE_GOLDEN").is_some() {
        let path = format!(
            "{}/src/redirect/golden/{name}.rules",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::write(path, found).expect("the golden file is writable");
        return;
    }
    assert_eq!(found, expected, "the rules differ from golden/{name}.rules");
}

#[test]
fn each_option_adds_and_takes_exactly_its_lines() {
    struct Case {
        flags: &'static [&'static str],
        added: &'static [&'static str],
        taken: &'static [&'static str],
    }
    let cases = [
        Case {
            flags: &["--no-ipv6", "-o", "25"],
            added: &["-A REMORA_CAPTURE -p tcp -m tcp --dport 25 -j RETURN"],
            taken: &["# IPv6: ip6tables-restore --noflush", "::1", "::6"],
        },
        Case {
            flags: &["-x", "192.0.2.7"],
            added: &["-A REMORA_CAPTURE -d 192.0.2.7/32 -j RETURN"],
            taken: &[],
        },
        Case {
            flags: &["-i", "10.0.0.0/8"],
            added: &["-A REMORA_CAPTURE -d 10.0.0.0/8 -p tcp -j REMORA_REDIRECT"],
            taken: &["-A REMORA_CAPTURE -p tcp -j REMORA_REDIRECT"],
        },
        Case {
            flags: &["-b", ""],
            added: &[],
            taken: &["-A REMORA_INBOUND -p tcp -j REMORA_IN_REDIRECT"],
        },
        Case {
            flags: &["-b", "80"],
            added: &["-A REMORA_INBOUND -p tcp -m tcp --dport 80 -j REMORA_IN_REDIRECT"],
            taken: &["-A REMORA_INBOUND -p tcp -j REMORA_IN_REDIRECT"],
        },
        Case {
            flags: &["--include-outbound-users", "33"],
            added: &[
                "-A REMORA_DNS_ZONE -p udp -m udp --dport 53 -m owner --uid-owner 33 -j CT --zone 15053",
                "-A REMORA_OUTPUT -m owner --uid-owner 33 -j REMORA_CAPTURE",
            ],
            taken: &[
                "-A REMORA_DNS_ZONE -p udp -m udp --dport 53 -j CT --zone 15053",
                "-A REMORA_OUTPUT -j REMORA_CAPTURE",
            ],
        },
    ];
    let default = printed(&[]);
    for Case {
        flags,
        added,
        taken,
    } in cases
    {
        let changed = printed(flags);
        let mut found = lines_only_in(&changed, &default);
        // Both families change alike.
        let mut seen = std::collections::HashSet::new();
        found.retain(|line| seen.insert(line.clone()));
        assert_eq!(found, added, "added by {flags:?}");
        let gone = lines_only_in(&default, &changed);
        assert_eq!(
            gone.is_empty(),
            taken.is_empty(),
            "taken by {flags:?}: {gone:?}"
        );
        for want in taken {
            assert!(
                gone.iter().any(|line| line.contains(want)),
                "{want} by {flags:?}: {gone:?}"
            );
        }
    }
}

#[test]
fn without_dns_no_rule_names_port_53_and_there_is_no_raw_table() {
    for flags in [
        &["--no-dns"][..],
        &["--no-dns", "--dns-servers", "10.0.0.53"],
    ] {
        let text = printed(flags);
        assert!(!text.contains(" 53 ") && !text.contains("*raw"), "{text}");
    }
}

#[test]
fn excluding_port_53_leaves_dns_alone_wholly() {
    let text = printed(&["-o", "53"]);
    assert!(!text.contains("*raw"), "{text}");
    let first_dns = text
        .lines()
        .find(|line| line.contains("REMORA_CAPTURE -p udp"));
    assert_eq!(
        first_dns,
        Some("-A REMORA_CAPTURE -p udp -m udp --dport 53 -j RETURN")
    );
}

#[test]
fn both_families_get_the_same_rules_but_for_addresses() {
    let set = build(&options(&[]), Zones::Separate);
    let neutral = |tables: &[Table]| {
        let text = crate::redirect::plan::render(tables);
        text.replace("127.0.0.0/8", "LOOPBACK")
            .replace("::1/128", "LOOPBACK")
            .replace("127.0.0.6/32", "SOURCE")
            .replace("::6/128", "SOURCE")
    };
    assert_eq!(neutral(&set.v4), neutral(&set.v6));
}

#[test]
fn every_chain_of_a_table_is_known_to_clean() {
    let set = build(&options(&[]), Zones::Separate);
    for table in set.v4.iter().chain(&set.v6) {
        for chain in &table.chains {
            assert!(OWN_CHAINS.contains(chain), "{chain}");
        }
    }
}

#[test]
fn the_flags_of_istios_init_container_mean_the_same() {
    let ours = options(&[
        "--outbound-port=1",
        "--inbound-port=2",
        "--include-outbound-cidrs=*",
        "--exclude-outbound-cidrs=10.0.0.1/32",
        "--include-inbound-ports=*",
        "--exclude-inbound-ports=15090,22",
        "--exclude-outbound-ports=9",
        "--include-outbound-ports=8",
    ]);
    let istio = options(&[
        "-p",
        "1",
        "-z",
        "2",
        "-u",
        "1337",
        "-g",
        "1337",
        "-i",
        "*",
        "-x",
        "10.0.0.1/32",
        "-b",
        "*",
        "-d",
        "15090,22",
        "-o",
        "9",
        "-q",
        "8",
    ]);
    assert_eq!(ours, istio);
}

#[test]
fn a_wrong_value_is_refused_with_its_flag() {
    let command = || OptionArgs::augment_args(Command::new("apply").no_binary_name(true));
    let error = command()
        .try_get_matches_from(["-i", "10.0.0.0/99"])
        .expect_err("not a network");
    assert!(
        error.to_string().contains("--include-outbound-cidrs"),
        "{error}"
    );
    let matches = command()
        .try_get_matches_from(["-o", "80;reboot"])
        .expect("a list is read later");
    let error = OptionArgs::from_arg_matches(&matches)
        .expect("matches come from the same command")
        .into_options()
        .expect_err("not a port");
    assert_eq!(
        format!("{error:#}"),
        "--exclude-outbound-ports: `80;reboot` is not a port (1 to 65535)"
    );
}
