// SPDX-License-Identifier: Apache-2.0
//! The command line of `remora`: what can be said, and the form of it.
//!
//! What follows from it is the subcommands' business. Ports and words are Istio's where it has
//! them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The Remora service mesh: its control plane and the tools around it.
#[derive(Debug, Parser)]
#[command(name = "remora", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves a folder of YAML to the proxies of a mesh, until told to stop
    ///
    /// The folder holds Kubernetes Service, EndpointSlice and Pod, and Istio VirtualService,
    /// DestinationRule, ServiceEntry and WorkloadEntry objects. It is watched: what changes is
    /// served at once, and what is wrong is reported here and by `remora status`, and changes
    /// nothing that is served. SIGTERM and SIGINT end it in order; a second one at once.
    ControlPlane(Box<ControlPlaneArgs>),
    /// Says what is wrong with a folder of YAML, without serving it
    ///
    /// Prints a line for each finding, as `file:line: severity: object: field: reason`. Exits with
    /// 1 if there is an error, so that a pipeline can refuse a change before a mesh meets it.
    Analyze(AnalyzeArgs),
    /// Shows what a running control plane serves, to whom, and what was refused
    Status(StatusArgs),
}

/// What `control-plane` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct ControlPlaneArgs {
    /// The folder of YAML files
    #[arg(long, short = 'c', value_name = "DIR")]
    pub(crate) config: PathBuf,

    /// Where proxies connect (ADS, delta and state-of-the-world); port 0 asks for a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:15010")]
    pub(crate) listen: SocketAddr,

    /// Where `remora status` connects; it says which services exist, so keep it local
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15014")]
    pub(crate) status: SocketAddr,

    /// The domain that the full names of services end with
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,

    /// How long proxies' streams may take to end at shutdown
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(crate) grace: Duration,

    /// What all proxies are told.
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,

    /// Logs.
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

/// What the mesh wants of all proxies.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What all proxies are told")]
pub(crate) struct MeshArgs {
    /// What happens to destinations that no service has
    #[arg(long, value_enum, default_value_t)]
    pub(crate) outbound_policy: OutboundPolicy,

    /// Where proxies log requests: `off`, `stdout` or a file
    #[arg(long, value_name = "off|stdout|FILE", default_value = "off", value_parser = parse_access_log)]
    pub(crate) access_log: AccessLogTarget,

    /// Form of the log, with Envoy's `%COMMAND%`s [default: Envoy's]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) access_log_format: Option<String>,

    /// The time for a connection to a service to stand, where no policy says
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,

    /// Prefers no locality, even where outliers are detected
    #[arg(long)]
    pub(crate) no_locality_failover: bool,
}

/// What is logged, and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs")]
pub(crate) struct LogArgs {
    /// Levels, as `info` or `info,remora_control_plane=debug`
    #[arg(long, short = 'l', default_value = "info", env = "REMORA_LOG")]
    pub(crate) log_level: String,

    /// Form of the log on stderr
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
}

/// What `analyze` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// The folder of YAML files
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,

    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// The domain that the full names of services end with
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
}

/// What `status` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArgs {
    /// The control plane's status page, as its `--status` says
    #[arg(
        long,
        short = 'a',
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:15014"
    )]
    pub(crate) address: String,

    /// Prints what the control plane says, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What happens to destinations that no service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutboundPolicy {
    /// They are reached as dialled
    #[default]
    AllowAny,
    /// They are refused
    RegistryOnly,
}

/// Form of the log on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Where requests are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AccessLogTarget {
    /// Nowhere.
    Off,
    /// To this path, on each proxy's machine.
    Path(String),
}

fn parse_access_log(text: &str) -> Result<AccessLogTarget, String> {
    Ok(match text {
        "" => return Err("expected `off`, `stdout` or a file".to_owned()),
        "off" => AccessLogTarget::Off,
        "stdout" => AccessLogTarget::Path("/dev/stdout".to_owned()),
        path => AccessLogTarget::Path(path.to_owned()),
    })
}

/// Reads a duration such as `500ms`, `5s`, `2m`; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}`: expected a number with ms, s or m, such as `5s`");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u32 = digits.parse().map_err(|_| refused())?;
    let number = u64::from(number);
    match text.get(digits.len()..).unwrap_or_default() {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

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
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1h", None),
            ("4294967296", None),
        ];
        for (text, millis) in table {
            let expected = millis.map(Duration::from_millis);
            assert_eq!(parse_duration(text).ok(), expected, "{text}");
        }
    }
}
