// SPDX-License-Identifier: Apache-2.0
//! Traffic redirection: the iptables rules that bring a workload's traffic to its proxy.
//!
//! `apply` installs them, `clean` removes them, `print` shows them. The thinking is pure and sits in
//! three places: [`options`] holds what was asked, already validated; [`rules`] turns it into the
//! rules of both address families; [`plan`] turns wanted rules and the kernel's present ones into
//! one restore input. [`backend`] finds and runs the programs, never through a shell.
//!
//! Called by `remora-proxy redirect ...` (init container, agent). Nothing here runs while the proxy
//! serves.
//!
//! Invariant: all that is ours is a chain named in [`rules::OWN_CHAINS`] or a rule that jumps to
//! one; nothing else is ever touched.

pub mod args;
pub mod backend;
pub mod options;
pub mod plan;
pub mod rules;

use std::io::Write as _;

use anyhow::{Context as _, bail};

pub use self::args::RedirectArgs;
use self::args::{BackendChoice, RedirectCommand};
use self::backend::{Backend, Family, Tools};
use self::options::Options;
use self::rules::{RuleSet, Zones};

/// Runs one `redirect` command to its end.
///
/// *Errors*: a missing program or capability (the text says how to get it), rules the kernel
/// refuses, a table that cannot be read.
pub fn run(args: RedirectArgs) -> anyhow::Result<()> {
    match args.command {
        RedirectCommand::Print(args) => print(&args.into_options()?),
        RedirectCommand::Apply(args) => {
            let choice = args.backend;
            apply(&args.into_options()?, choice)
        }
        RedirectCommand::Clean(args) => clean(args.backend),
    }
}

fn print(options: &Options) -> anyhow::Result<()> {
    let text = rules::build(options, Zones::Separate).to_string();
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("write the rules to stdout")
}

fn apply(options: &Options, choice: BackendChoice) -> anyhow::Result<()> {
    let tools = Tools::find();
    let candidates = backend::choose(&tools, choice)?;
    let mut first_error = None;
    for &chosen in &candidates {
        match apply_with(&tools, chosen, options) {
            Ok(()) => return clean_others(&tools, chosen),
            // Half of the families may be loaded; what was asked for is all or nothing.
            Err(error) => {
                let _ = clean_backend(&tools, chosen);
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| anyhow::anyhow!("no usable iptables was found")))
}

fn apply_with(tools: &Tools, chosen: Backend, options: &Options) -> anyhow::Result<()> {
    let families = families(tools, chosen, options)?;
    for &family in &families {
        apply_family(tools, chosen, family, options)?;
    }
    if families.contains(&Family::V6) {
        add_inbound_source(tools);
        Ok(())
    } else {
        clean_family(tools, chosen, Family::V6)
    }
}

/// Rules that an earlier run left in another backend would redirect a second time. They go last, so
/// that at no moment traffic passes beside the proxy.
fn clean_others(tools: &Tools, chosen: Backend) -> anyhow::Result<()> {
    Backend::ALL
        .into_iter()
        .filter(|other| *other != chosen)
        .try_for_each(|other| clean_backend(tools, other))
}

/// Loads one family's rules in one restore. Kernels without conntrack zones get the rules without
/// them: redirection works there, only a reused source port of a DNS question may be mistaken.
fn apply_family(
    tools: &Tools,
    backend: Backend,
    family: Family,
    options: &Options,
) -> anyhow::Result<()> {
    let wanted = |zones| {
        let set = rules::build(options, zones);
        match family {
            Family::V4 => set.v4,
            Family::V6 => set.v6,
        }
    };
    let first = load(tools, backend, family, &wanted(Zones::Separate));
    let Err(error) = first else { return Ok(()) };
    if !options.dns.is_captured() {
        return Err(error);
    }
    // The first error is the one to show: the second attempt asks for less.
    if load(tools, backend, family, &wanted(Zones::Shared)).is_err() {
        return Err(error);
    }
    eprintln!(
        "remora-proxy: {family}: the kernel has no conntrack zones (raw table, CT target); \
         DNS is redirected without them: {error:#}"
    );
    Ok(())
}

/// Reads, plans and restores; again if another program changed the tables in between.
fn load(
    tools: &Tools,
    backend: Backend,
    family: Family,
    wanted: &[rules::Table],
) -> anyhow::Result<()> {
    const ATTEMPTS: usize = 3;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let current = tools.save(backend, family)?;
        let Some(input) = plan::replace(&current, wanted) else {
            return Ok(());
        };
        match tools.restore(backend, family, &input) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error.into()),
        None => bail!("{family}: no attempt to load the rules was made"),
    }
}

fn clean(choice: BackendChoice) -> anyhow::Result<()> {
    let tools = Tools::find();
    tools.require_usable()?;
    let ours = tools.list_own()?;
    let had_v6 = ours.iter().any(|(_, family)| *family == Family::V6);
    for (backend, family) in ours {
        if choice.admits(backend) {
            load(&tools, backend, family, &[])?;
        }
    }
    if had_v6 {
        remove_inbound_source(&tools);
    }
    Ok(())
}

fn clean_backend(tools: &Tools, backend: Backend) -> anyhow::Result<()> {
    for family in Family::ALL {
        clean_family(tools, backend, family)?;
    }
    Ok(())
}

fn clean_family(tools: &Tools, backend: Backend, family: Family) -> anyhow::Result<()> {
    if tools.has_own(backend, family)? {
        load(tools, backend, family, &[])?;
    }
    Ok(())
}

/// The families to write rules for. IPv4 always; IPv6 unless it was declined or the kernel has
/// none. IPv6 that is in use but cannot be redirected is an error: it would pass beside the proxy.
fn families(tools: &Tools, backend: Backend, options: &Options) -> anyhow::Result<Vec<Family>> {
    if !options.ipv6 {
        return Ok(vec![Family::V4]);
    }
    let presence = backend::ipv6_presence();
    if presence == backend::Ipv6::Absent {
        eprintln!("remora-proxy: the kernel has no IPv6; only IPv4 is redirected");
        return Ok(vec![Family::V4]);
    }
    match tools.save(backend, Family::V6) {
        Ok(_) => Ok(vec![Family::V4, Family::V6]),
        Err(error) if presence == backend::Ipv6::LoopbackOnly => {
            eprintln!("remora-proxy: no IPv6 address and no IPv6 NAT; only IPv4 is redirected: {error:#}");
            Ok(vec![Family::V4])
        }
        Err(error) => Err(anyhow::Error::new(error).context(
            "this machine has IPv6 addresses but its IPv6 traffic cannot be redirected, so it would \
             pass beside the proxy (load the modules ip6table_nat or nft_nat, or accept that with --no-ipv6)",
        )),
    }
}

/// Gives the loopback interface the address that inbound IPv6 connections to the workload come
/// from. Its IPv4 sibling 127.0.0.6 needs no such step: 127.0.0.0/8 is local as a whole.
fn add_inbound_source(tools: &Tools) {
    let result = tools.ip(&[
        "-6",
        "addr",
        "replace",
        rules::INBOUND_SOURCE_V6,
        "dev",
        "lo",
    ]);
    if let Err(error) = result {
        eprintln!(
            "remora-proxy: cannot add {} to the loopback interface, inbound IPv6 connections \
             will use the proxy's own address: {error:#}",
            rules::INBOUND_SOURCE_V6
        );
    }
}

fn remove_inbound_source(tools: &Tools) {
    // It may be gone already, and without `ip` it was never added.
    let _ = tools.ip(&["-6", "addr", "del", rules::INBOUND_SOURCE_V6, "dev", "lo"]);
}

impl std::fmt::Display for RuleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("# IPv4: iptables-restore --noflush\n")?;
        f.write_str(&plan::render(&self.v4))?;
        if !self.v6.is_empty() {
            f.write_str("# IPv6: ip6tables-restore --noflush\n")?;
            f.write_str(&plan::render(&self.v6))?;
        }
        Ok(())
    }
}
