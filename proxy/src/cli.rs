// SPDX-License-Identifier: Apache-2.0
//! The command line of `remora-proxy`.
//!
//! It answers for what can be said and for the form of it; what follows from it is `run`'s and
//! `redirect`'s. Ports and words are Istio's and Envoy's where they have them.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::redirect::RedirectArgs;

/// The Remora sidecar proxy.
#[derive(Debug, Parser)]
#[command(name = "remora-proxy", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves until told to stop
    Run(Box<RunArgs>),
    /// Redirects this network namespace's traffic to the proxy, or undoes it
    Redirect(RedirectArgs),
}

/// What `run` takes.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Envoy's bootstrap, YAML or JSON; in the place of the flags that make one
    #[arg(long, short = 'c', alias = "config-path", value_name = "FILE",
        conflicts_with_all = ["control_plane", "node", "name", "namespace", "ip", "label", "cluster"])]
    pub bootstrap: Option<PathBuf>,

    /// Who this proxy is, for the control plane.
    #[command(flatten)]
    pub node: NodeArgs,

    /// Ports and where they listen.
    #[command(flatten)]
    pub ports: PortArgs,

    /// The end of the process.
    #[command(flatten)]
    pub ending: EndingArgs,

    /// Logs.
    #[command(flatten)]
    pub logs: LogArgs,

    /// Worker threads [default: one up to one CPU, two above]
    #[arg(long, alias = "concurrency")]
    pub workers: Option<NonZeroUsize>,

    /// Where the last good configuration is kept, to boot from while no control plane answers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/remora")]
    pub state_dir: PathBuf,

    /// What happens to redirected connections before there is any configuration
    #[arg(long, value_enum, default_value_t)]
    pub until_configured: UntilConfigured,

    /// Downstream connections at once; beyond it new ones are refused
    #[arg(long, default_value_t = 50_000)]
    pub max_connections: usize,
}

/// The flags that make a bootstrap for the usual case.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Control plane and node")]
pub struct NodeArgs {
    /// Where the control plane is
    #[arg(long, value_name = "HOST:PORT")]
    pub control_plane: Option<String>,

    /// The node's name, or its whole id (`sidecar~10.0.0.1~app.shop~shop.svc.cluster.local`)
    #[arg(long, alias = "service-node")]
    pub node: Option<String>,

    /// The workload's name [default: the host's]
    #[arg(long, conflicts_with = "node")]
    pub name: Option<String>,

    /// The workload's namespace
    #[arg(long)]
    pub namespace: Option<String>,

    /// The workload's address; may be repeated [default: those this machine sends from]
    #[arg(long, value_delimiter = ',')]
    pub ip: Vec<IpAddr>,

    /// A label of the workload; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub label: Vec<(String, String)>,

    /// The node's cluster [default: `NAME.NAMESPACE`]
    #[arg(long, alias = "service-cluster")]
    pub cluster: Option<String>,
}

/// The ports that are not configured by xDS; 0 asks the kernel for one.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Ports")]
pub struct PortArgs {
    /// Admin, on loopback; a bootstrap's `admin` comes first [default: 15000]
    #[arg(long)]
    pub admin_port: Option<u16>,

    /// Metrics for Prometheus
    #[arg(long, default_value_t = 15090)]
    pub prometheus_port: u16,

    /// Readiness, at /healthz/ready
    #[arg(long, default_value_t = 15021)]
    pub readiness_port: u16,

    /// Redirected outbound connections, until the control plane says otherwise
    #[arg(long, default_value_t = 15001)]
    pub outbound_port: u16,

    /// Redirected inbound connections, likewise
    #[arg(long, default_value_t = 15006)]
    pub inbound_port: u16,

    /// DNS for redirected questions, on loopback
    #[arg(long, default_value_t = 15053)]
    pub dns_port: u16,

    /// Serves no DNS
    #[arg(long)]
    pub no_dns: bool,
}

/// How the process ends.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Ending")]
pub struct EndingArgs {
    /// How long inbound connections may finish after SIGTERM, while outbound ones go on
    #[arg(long, alias = "drain-time-s", default_value = "5s", value_parser = parse_duration)]
    pub drain_time: Duration,

    /// The longest time from SIGTERM to the end, inbound and outbound together
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub grace: Duration,
}

/// What is logged, and where.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Levels, as `info` or `info,remora_proxy=debug`
    #[arg(long, short = 'l', default_value = "info", env = "REMORA_LOG")]
    pub log_level: String,

    /// Form of the log on stderr
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Where access logs go, whatever path the configuration names: `off`, `stdout` or a file
    /// [default: as configured]
    #[arg(long, value_name = "off|stdout|FILE", value_parser = parse_access_log)]
    pub access_log: Option<AccessLogTarget>,
}

/// What happens to redirected connections before there is any configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum UntilConfigured {
    /// They go on to where they wanted to go
    #[default]
    PassThrough,
    /// They are refused
    Refuse,
}

/// Form of the log on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Where requests are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Nowhere.
    Off,
    /// To this path.
    Path(String),
}

fn parse_access_log(text: &str) -> Result<AccessLogTarget, String> {
    Ok(match text {
        "" => return Err("expected `off`, `stdout` or a file".to_owned()),
        "off" => AccessLogTarget::Off,
        "stdout" => AccessLogTarget::Path("/dev/stdout".to_owned()),
        "stderr" => AccessLogTarget::Path("/dev/stderr".to_owned()),
        path => AccessLogTarget::Path(path.to_owned()),
    })
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}`: expected KEY=VALUE")),
    }
}

/// Reads a duration such as `500ms`, `5s`, `2m`, `1h`; a bare number is seconds, as Envoy's
/// `--drain-time-s` has it.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}`: expected a number with ms, s, m or h, such as `5s`");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| refused())?;
    let millis = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    millis
        .filter(|millis| *millis <= MAX_DURATION_MS)
        .map(Duration::from_millis)
        .ok_or_else(refused)
}

/// A day; no orderly end takes longer.
const MAX_DURATION_MS: u64 = 24 * 3_600_000;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn run(args: &[&str]) -> Result<RunArgs, clap::Error> {
        let all = ["remora-proxy", "run"].iter().chain(args);
        match Cli::try_parse_from(all)?.command {
            Command::Run(args) => Ok(*args),
            Command::Redirect(_) => unreachable!("`run` was asked for"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        let table = [
            ("5s", Some(5000)),
            ("5", Some(5000)),
            ("250ms", Some(250)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("5 s", None),
            ("1d", None),
            ("25h", None),
            ("18446744073709551615h", None),
        ];
        for (text, millis) in table {
            assert_eq!(
                parse_duration(text).ok(),
                millis.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bootstrap_and_the_flags_that_make_one_exclude_each_other() {
        assert!(run(&["--bootstrap", "b.yaml", "--workers", "2"]).is_ok());
        for flag in [
            ["--control-plane", "a:1"],
            ["--node", "n"],
            ["--namespace", "n"],
            ["--ip", "10.0.0.1"],
        ] {
            let all = [&["--bootstrap", "b.yaml"][..], &flag].concat();
            assert!(run(&all).is_err(), "{flag:?}");
        }
    }

    #[test]
    fn the_parts_of_a_node_are_read() {
        let args = run(&[
            "--control-plane=127.0.0.1:15010",
            "--name=app",
            "--namespace=shop",
            "--ip=10.0.0.1",
            "--ip=fd00::1",
            "--label=app=a=b",
            "--access-log=stdout",
        ])
        .expect("valid");
        assert_eq!(args.node.ip.len(), 2);
        assert_eq!(args.node.label, [("app".to_owned(), "a=b".to_owned())]);
        assert_eq!(
            args.logs.access_log,
            Some(AccessLogTarget::Path("/dev/stdout".to_owned()))
        );
        assert!(run(&["--label", "=x"]).is_err());
        assert!(run(&["--workers", "0"]).is_err());
    }
}
