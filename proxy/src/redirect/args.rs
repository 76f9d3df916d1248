// SPDX-License-Identifier: Apache-2.0
//! The command line of `remora-proxy redirect`.
//!
//! Flags carry their own names and, where Istio's init container has the same option, its long and
//! short names as aliases, so that arguments written for it mean the same here. Values are parsed
//! into [`Options`] before anything runs.

use std::net::IpAddr;
use std::num::NonZeroU16;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::backend::Backend;
use super::options::{
    Dns, Inbound, Interface, OptionError, Options, Outbound, Owner, Owners, ProxyPorts, Selection,
    parse_address, parse_cidr, parse_list, parse_port, parse_selection,
};

/// Redirects the traffic of this network namespace to the proxy.
#[derive(Debug, Clone, Args)]
pub struct RedirectArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RedirectCommand,
}

/// What `redirect` can do.
#[derive(Debug, Clone, Subcommand)]
pub enum RedirectCommand {
    /// Installs the rules, replacing those of an earlier run
    Apply(Box<OptionArgs>),
    /// Removes what `apply` installed and nothing else
    Clean(CleanArgs),
    /// Shows the rules without touching anything; needs no privilege
    Print(Box<OptionArgs>),
}

/// What `clean` takes.
#[derive(Debug, Clone, Args)]
pub struct CleanArgs {
    /// Which iptables to clean
    #[arg(long, value_enum, default_value_t)]
    pub backend: BackendChoice,
}

/// Which iptables to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BackendChoice {
    /// The one that works and holds the machine's rules (`clean`: all of them)
    #[default]
    Auto,
    /// iptables-nft
    Nft,
    /// iptables-legacy
    Legacy,
}

impl BackendChoice {
    /// Whether this choice leaves room for `backend`.
    pub fn admits(self, backend: Backend) -> bool {
        match self {
            Self::Auto => true,
            Self::Nft => backend == Backend::Nft,
            Self::Legacy => backend == Backend::Legacy,
        }
    }
}

/// What is redirected where.
#[derive(Debug, Clone, Args)]
pub struct OptionArgs {
    /// The proxy's port for outbound TCP
    #[arg(short = 'p', long, alias = "envoy-port", default_value = "15001", value_parser = parse_port)]
    pub outbound_port: NonZeroU16,
    /// The proxy's port for inbound TCP
    #[arg(short = 'z', long, alias = "inbound-capture-port", default_value = "15006", value_parser = parse_port)]
    pub inbound_port: NonZeroU16,
    /// The proxy's port for DNS (UDP and TCP)
    #[arg(long, default_value = "15053", value_parser = parse_port)]
    pub dns_port: NonZeroU16,
    /// User id of the proxy, whose traffic is not redirected
    #[arg(short = 'u', long, default_value_t = 1337)]
    pub proxy_uid: u32,
    /// Group id of the proxy, whose traffic is not redirected
    #[arg(short = 'g', long, default_value_t = 1337)]
    pub proxy_gid: u32,

    /// Destinations to redirect: `*` or networks
    #[arg(short = 'i', long, alias = "istio-service-cidr", default_value = "*", value_name = "LIST", value_parser = cidr_selection)]
    pub include_outbound_cidrs: Selection<IpNet>,
    /// Destinations to leave alone: networks (DNS questions are still answered by the proxy)
    #[arg(
        short = 'x',
        long,
        alias = "istio-service-exclude-cidr",
        default_value = "",
        value_name = "LIST"
    )]
    pub exclude_outbound_cidrs: String,
    /// Ports to redirect even outside the included destinations
    #[arg(
        short = 'q',
        long,
        alias = "istio-outbound-ports",
        default_value = "",
        value_name = "LIST"
    )]
    pub include_outbound_ports: String,
    /// Outbound ports to leave alone
    #[arg(
        short = 'o',
        long,
        alias = "istio-local-outbound-ports-exclude",
        default_value = "",
        value_name = "LIST"
    )]
    pub exclude_outbound_ports: String,
    /// Users to redirect, all others being left alone; `*` for everybody
    #[arg(long, default_value = "*", value_name = "LIST", value_parser = owner_selection)]
    pub include_outbound_users: Selection<Owner>,
    /// Users to leave alone
    #[arg(long, default_value = "", value_name = "LIST")]
    pub exclude_outbound_users: String,
    /// Groups to redirect, all others being left alone; `*` for everybody
    #[arg(long, default_value = "*", value_name = "LIST", value_parser = owner_selection)]
    pub include_outbound_groups: Selection<Owner>,
    /// Groups to leave alone
    #[arg(long, default_value = "", value_name = "LIST")]
    pub exclude_outbound_groups: String,

    /// Inbound ports to redirect: `*` or ports
    #[arg(short = 'b', long, alias = "istio-inbound-ports", default_value = "*", value_name = "LIST", value_parser = port_selection)]
    pub include_inbound_ports: Selection<NonZeroU16>,
    /// Inbound ports to leave alone (15020, 15021 and 15090 always are)
    #[arg(
        short = 'd',
        long,
        alias = "istio-local-exclude-ports",
        default_value = "",
        value_name = "LIST"
    )]
    pub exclude_inbound_ports: String,

    /// Interfaces whose traffic is left alone
    #[arg(
        short = 'c',
        long,
        alias = "istio-exclude-interfaces",
        default_value = "",
        value_name = "LIST"
    )]
    pub exclude_interfaces: String,
    /// Leaves DNS alone
    #[arg(long)]
    pub no_dns: bool,
    /// DNS servers whose questions are redirected: `*` or addresses. On a machine with a local
    /// resolver (127.0.0.53) name that one, or the resolver's own questions come back to the proxy
    #[arg(long, default_value = "*", value_name = "LIST", value_parser = address_selection)]
    pub dns_servers: Selection<IpAddr>,
    /// Leaves IPv6 alone
    #[arg(long)]
    pub no_ipv6: bool,
    /// Which iptables to use (ignored by `print`)
    #[arg(long, value_enum, default_value_t)]
    pub backend: BackendChoice,
}

impl OptionArgs {
    /// Turns the arguments into what the rules are built from.
    ///
    /// *Errors*: a value in a list that is not what the list holds, named with its flag.
    pub fn into_options(self) -> anyhow::Result<Options> {
        let ports = |flag, text: &str| named(flag, parse_list(text, parse_port));
        let owners = |flag, text: &str| named(flag, parse_list(text, str::parse::<Owner>));
        Ok(Options {
            ports: ProxyPorts {
                outbound: self.outbound_port,
                inbound: self.inbound_port,
                dns: self.dns_port,
            },
            proxy_uid: self.proxy_uid,
            proxy_gid: self.proxy_gid,
            outbound: Outbound {
                include_cidrs: self.include_outbound_cidrs,
                exclude_cidrs: named(
                    "exclude-outbound-cidrs",
                    parse_list(&self.exclude_outbound_cidrs, parse_cidr),
                )?,
                include_ports: ports("include-outbound-ports", &self.include_outbound_ports)?,
                exclude_ports: ports("exclude-outbound-ports", &self.exclude_outbound_ports)?,
                include_owners: Owners {
                    users: listed(self.include_outbound_users),
                    groups: listed(self.include_outbound_groups),
                },
                exclude_owners: Owners {
                    users: owners("exclude-outbound-users", &self.exclude_outbound_users)?,
                    groups: owners("exclude-outbound-groups", &self.exclude_outbound_groups)?,
                },
            },
            inbound: Inbound {
                include_ports: self.include_inbound_ports,
                exclude_ports: ports("exclude-inbound-ports", &self.exclude_inbound_ports)?,
            },
            dns: if self.no_dns {
                Dns::Untouched
            } else {
                Dns::Captured(self.dns_servers)
            },
            exclude_interfaces: named(
                "exclude-interfaces",
                parse_list(&self.exclude_interfaces, str::parse::<Interface>),
            )?,
            ipv6: !self.no_ipv6,
        })
    }
}

/// An owner list restricts only if it names somebody; `*` and an empty list restrict nothing.
fn listed(selection: Selection<Owner>) -> Vec<Owner> {
    match selection {
        Selection::All => Vec::new(),
        Selection::Only(owners) => owners,
    }
}

fn named<T>(flag: &str, result: Result<T, OptionError>) -> anyhow::Result<T> {
    result.map_err(|error| anyhow::Error::new(error).context(format!("--{flag}")))
}

fn cidr_selection(text: &str) -> Result<Selection<IpNet>, OptionError> {
    parse_selection(text, parse_cidr)
}

fn port_selection(text: &str) -> Result<Selection<NonZeroU16>, OptionError> {
    parse_selection(text, parse_port)
}

fn owner_selection(text: &str) -> Result<Selection<Owner>, OptionError> {
    parse_selection(text, str::parse)
}

fn address_selection(text: &str) -> Result<Selection<IpAddr>, OptionError> {
    parse_selection(text, parse_address)
}
