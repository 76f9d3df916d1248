// SPDX-License-Identifier: Apache-2.0
//! What is to be redirected, as validated values.
//!
//! Every value that ends in a rule is one of these types, so no text of an annotation or a command
//! line reaches iptables unread. Parsed by [`super::args`], read by [`super::rules`].

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

/// Everything that decides the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where redirected traffic goes.
    pub ports: ProxyPorts,
    /// The user id whose traffic is the proxy's own and is never redirected to the outbound port.
    pub proxy_uid: u32,
    /// The group id of the same meaning.
    pub proxy_gid: u32,
    /// What leaves the workload.
    pub outbound: Outbound,
    /// What reaches the workload.
    pub inbound: Inbound,
    /// Whether DNS questions go to the proxy.
    pub dns: Dns,
    /// Interfaces whose traffic is left alone, in both directions.
    pub exclude_interfaces: Vec<Interface>,
    /// Whether IPv6 rules are made.
    pub ipv6: bool,
}

/// The proxy's listening ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyPorts {
    /// Outbound TCP; 15001 as in Istio.
    pub outbound: NonZeroU16,
    /// Inbound TCP; 15006 as in Istio.
    pub inbound: NonZeroU16,
    /// DNS over UDP and TCP, on 127.0.0.1 and ::1; 15053 as in Istio.
    pub dns: NonZeroU16,
}

/// What of the outbound TCP traffic is redirected. Exclusions win over inclusions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outbound {
    /// Destinations to redirect.
    pub include_cidrs: Selection<IpNet>,
    /// Destinations to leave alone.
    pub exclude_cidrs: Vec<IpNet>,
    /// Ports to redirect even outside `include_cidrs`.
    pub include_ports: Vec<NonZeroU16>,
    /// Ports to leave alone; 53 here leaves DNS alone as well.
    pub exclude_ports: Vec<NonZeroU16>,
    /// Whose traffic is redirected; everybody's when both lists are empty.
    pub include_owners: Owners,
    /// Whose traffic, DNS included, is left alone.
    pub exclude_owners: Owners,
}

/// What of the inbound TCP traffic is redirected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inbound {
    /// Ports to redirect.
    pub include_ports: Selection<NonZeroU16>,
    /// Ports to leave alone.
    pub exclude_ports: Vec<NonZeroU16>,
}

/// Users and groups that own sockets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owners {
    /// Users, by id or name.
    pub users: Vec<Owner>,
    /// Groups, by id or name.
    pub groups: Vec<Owner>,
}

impl Owners {
    /// Whether nobody is named.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// Whether DNS questions go to the proxy, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dns {
    /// DNS is left alone.
    Untouched,
    /// Questions to these servers go to the proxy.
    Captured(Selection<IpAddr>),
}

impl Dns {
    /// Whether any question goes to the proxy.
    pub fn is_captured(&self) -> bool {
        matches!(self, Self::Captured(_))
    }
}

/// `*`, or a list that may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection<T> {
    /// All there are.
    #[default]
    All,
    /// These and no others.
    Only(Vec<T>),
}

/// A user or group, as iptables' owner match takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// By number.
    Id(u32),
    /// By name; looked up where the rules are loaded.
    Name(String),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The name of a network interface; a trailing `+` matches a prefix, as in iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface(String);

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value that no rule can be made of.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OptionError {
    /// Not a port.
    #[error("`{0}` is not a port (1 to 65535)")]
    Port(String),
    /// Neither a network nor an address.
    #[error("`{0}` is not a network such as 10.0.0.0/8 or fd00::/8")]
    Cidr(String),
    /// Not an address.
    #[error("`{0}` is not an IP address")]
    Address(String),
    /// Neither a number nor a name of a user or group.
    #[error("`{0}` is not a user or group (a number, or a name of letters, digits, `_`, `.`, `-`)")]
    Owner(String),
    /// Not an interface name.
    #[error(
        "`{0}` is not an interface name (1 to 15 letters, digits, `_`, `.`, `:`, `@`, `-`; a trailing `+` matches a prefix)"
    )]
    Interface(String),
    /// `*` in a list with other values.
    #[error("`*` stands for everything and cannot be listed with other values")]
    StarAmongOthers,
}

/// Reads a port.
pub fn parse_port(text: &str) -> Result<NonZeroU16, OptionError> {
    // `u16::from_str` admits a leading plus sign.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| OptionError::Port(text.to_owned()))
}

/// Reads a network; an address alone is a network of one. Host bits are cleared.
pub fn parse_cidr(text: &str) -> Result<IpNet, OptionError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    text.parse::<IpNet>()
        .map(|net| net.trunc())
        .map_err(|_| OptionError::Cidr(text.to_owned()))
}

/// Reads an address.
pub fn parse_address(text: &str) -> Result<IpAddr, OptionError> {
    text.parse()
        .map_err(|_| OptionError::Address(text.to_owned()))
}

/// Reads a comma-separated list; blanks around values and an empty text are admitted.
pub fn parse_list<T>(
    text: &str,
    one: impl Fn(&str) -> Result<T, OptionError>,
) -> Result<Vec<T>, OptionError> {
    let values = text
        .split(',')
        .map(str::trim)
        .filter(|value| !value.is_empty());
    values.map(one).collect()
}

/// Reads `*` or a comma-separated list.
pub fn parse_selection<T>(
    text: &str,
    one: impl Fn(&str) -> Result<T, OptionError>,
) -> Result<Selection<T>, OptionError> {
    if text.trim() == "*" {
        return Ok(Selection::All);
    }
    if text.split(',').any(|value| value.trim() == "*") {
        return Err(OptionError::StarAmongOthers);
    }
    parse_list(text, one).map(Selection::Only)
}

impl FromStr for Owner {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let refuse = || OptionError::Owner(text.to_owned());
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Id).map_err(|_| refuse());
        }
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if !starts_well || !plain || text.len() > 32 {
            return Err(refuse());
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl FromStr for Interface {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let refuse = || OptionError::Interface(text.to_owned());
        let stem = text.strip_suffix('+').unwrap_or(text);
        let plain = stem
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.:@-".contains(&byte));
        if stem.is_empty() || stem.starts_with('-') || !plain || text.len() > 15 {
            return Err(refuse());
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_plain_numbers_from_1_to_65535() {
        assert_eq!(parse_port("15001").map(NonZeroU16::get), Ok(15001));
        for bad in ["0", "65536", "+80", "-1", "80 ", "http", "", "8080:8090"] {
            assert_eq!(
                parse_port(bad),
                Err(OptionError::Port(bad.to_owned())),
                "{bad}"
            );
        }
    }

    #[test]
    fn cidrs_are_normalised_and_addresses_are_networks_of_one() {
        let read = |text| parse_cidr(text).map(|net| net.to_string());
        assert_eq!(read("10.1.2.3/8").as_deref(), Ok("10.0.0.0/8"));
        assert_eq!(read("10.1.2.3").as_deref(), Ok("10.1.2.3/32"));
        assert_eq!(read("fd00::1/8").as_deref(), Ok("fd00::/8"));
        for bad in ["10.0.0.0/33", "10.0.0/8", "10.0.0.0/8 -j ACCEPT", "*", ""] {
            assert_eq!(read(bad), Err(OptionError::Cidr(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn a_star_is_everything_and_an_empty_list_is_nothing() {
        assert_eq!(parse_selection(" * ", parse_port), Ok(Selection::All));
        assert_eq!(
            parse_selection("", parse_port),
            Ok(Selection::Only(Vec::new()))
        );
        assert_eq!(
            parse_selection("80,*", parse_port),
            Err(OptionError::StarAmongOthers)
        );
        let only = parse_selection("80, 443,", parse_port);
        let ports = [80, 443].into_iter().filter_map(NonZeroU16::new).collect();
        assert_eq!(only, Ok(Selection::Only(ports)));
    }

    #[test]
    fn owners_and_interfaces_admit_nothing_that_iptables_could_misread() {
        for good in ["1337", "www-data", "_apt", "systemd-resolve"] {
            assert_eq!(
                good.parse::<Owner>().map(|o| o.to_string()).as_deref(),
                Ok(good)
            );
        }
        for bad in ["", "-j", "a b", "a\nb", "4294967296", "1000-2000", "a;b"] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
        for good in ["eth0", "docker+", "veth@if3", "br-lan.4"] {
            assert_eq!(
                good.parse::<Interface>().map(|i| i.to_string()).as_deref(),
                Ok(good)
            );
        }
        for bad in [
            "",
            "+",
            "-i",
            "eth 0",
            "eth0\n-j ACCEPT",
            "sixteen-letters-x",
            "a/b",
        ] {
            assert!(bad.parse::<Interface>().is_err(), "{bad}");
        }
    }
}
