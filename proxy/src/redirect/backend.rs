// SPDX-License-Identifier: Apache-2.0
//! Finds and runs the iptables programs: the only place of redirection that touches the machine.
//!
//! A program is run by its absolute path with an argument list, never through a shell. Which of the
//! two backends is used is decided by [`choose`]: the kernel evaluates both, so rules belong
//! where the machine's other NAT rules are.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ipnet::IpNet;
use thiserror::Error;

use super::args::BackendChoice;
use super::plan;

/// An address family, with what differs between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The loopback network.
    pub fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1/128",
        }
    }

    /// The source address of the proxy's connections to its workload.
    pub fn inbound_source(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.6/32",
            Self::V6 => super::rules::INBOUND_SOURCE_V6,
        }
    }

    /// Whether `net` is of this family.
    pub fn has(self, net: &IpNet) -> bool {
        matches!(
            (self, net),
            (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_))
        )
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    /// Where the kernel lists the legacy tables that exist in this network namespace.
    fn legacy_tables(self) -> &'static str {
        match self {
            Self::V4 => "/proc/self/net/ip_tables_names",
            Self::V6 => "/proc/self/net/ip6_tables_names",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One of the kernel's two rule engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables.
    Nft,
    /// x_tables.
    Legacy,
}

impl Backend {
    /// Both, the one to prefer first.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

/// What keeps the programs from running.
#[derive(Debug, Error)]
pub enum BackendError {
    /// No iptables program of the kind is installed.
    #[error(
        "`{0}` is not installed: run `apt install iptables` (or your system's equal), or use an image that has it"
    )]
    MissingProgram(String),
    /// The process may not change rules.
    #[error(
        "changing {what} needs the capability {capability}: run as root, or grant it \
         (in Kubernetes `securityContext: {{capabilities: {{add: [NET_ADMIN, NET_RAW]}}}}` on the init container, \
         in Docker `--cap-add NET_ADMIN --cap-add NET_RAW`, for a file `setcap cap_net_admin,cap_net_raw+ep`)"
    )]
    MissingCapability {
        /// The name of the capability.
        capability: &'static str,
        /// What needs it.
        what: &'static str,
    },
    /// A program ended with an error.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// Its command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A program could not be started or fed.
    #[error("run `{command}`")]
    Run {
        /// Its command line.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The programs found on this machine.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    programs: Vec<Program>,
    ip: Option<PathBuf>,
}

#[derive(Debug, Clone)]
struct Program {
    backend: Backend,
    family: Family,
    save: PathBuf,
    restore: PathBuf,
}

impl Tools {
    /// Looks for the programs in `PATH` and the system's own folders.
    pub fn find() -> Self {
        let mut programs = Vec::new();
        for family in Family::ALL {
            let prefix = family.prefix();
            for backend in Backend::ALL {
                programs.extend(find_pair(backend, family, &format!("{prefix}-{backend}")));
            }
            // Some systems install a single variant, without its name.
            let Some(plain) = find_program(prefix) else {
                continue;
            };
            let backend = plain_backend(&plain);
            if !programs
                .iter()
                .any(|p: &Program| p.backend == backend && p.family == family)
            {
                programs.extend(find_pair(backend, family, prefix));
            }
        }
        Self {
            programs,
            ip: find_program("ip"),
        }
    }

    /// All tables that exist, as `iptables-save` prints them.
    ///
    /// *Errors*: the program is missing or the kernel does not have what it needs.
    pub fn save(&self, backend: Backend, family: Family) -> Result<String, BackendError> {
        let program = self.program(backend, family)?;
        // A save without a table succeeds even where the kernel knows no NAT.
        let nat: &[&str] = &["-t", "nat"];
        if backend == Backend::Nft || !legacy_nat_exists(family) {
            run(&program.save, nat, None)?;
        }
        run(&program.save, &[], None)
    }

    /// Loads `input` without touching what it does not name.
    ///
    /// *Errors*: the kernel refuses it; then nothing of the refused table has changed.
    pub fn restore(
        &self,
        backend: Backend,
        family: Family,
        input: &str,
    ) -> Result<(), BackendError> {
        let program = self.program(backend, family)?;
        // Another program may hold the lock of the legacy tables: wait for it, seconds.
        let arguments: &[&str] = match backend {
            Backend::Nft => &["--noflush"],
            Backend::Legacy => &["--noflush", "--wait", "30"],
        };
        run(&program.restore, arguments, Some(input)).map(drop)
    }

    /// Whether tables of this backend hold anything of ours. Looking has no side effect.
    pub fn has_own(&self, backend: Backend, family: Family) -> Result<bool, BackendError> {
        let Ok(program) = self.program(backend, family) else {
            return Ok(false);
        };
        // Asking the legacy programs for a table creates it; without a table there is no rule.
        match (run(&program.save, &[], None), backend) {
            (Ok(text), _) => Ok(plan::has_own(&text)),
            // Nothing can be in an engine that the kernel lacks.
            (Err(BackendError::Failed { .. }), _) => Ok(false),
            (Err(error), _) => Err(error),
        }
    }

    /// Where our rules are.
    pub fn list_own(&self) -> Result<Vec<(Backend, Family)>, BackendError> {
        let mut found = Vec::new();
        for program in &self.programs {
            if self.has_own(program.backend, program.family)? {
                found.push((program.backend, program.family));
            }
        }
        Ok(found)
    }

    /// Runs `ip` from iproute2.
    pub fn ip(&self, arguments: &[&str]) -> Result<(), BackendError> {
        let path = self.ip.as_deref();
        let path =
            path.ok_or_else(|| BackendError::MissingProgram("ip (package iproute2)".to_owned()))?;
        run(path, arguments, None).map(drop)
    }

    /// Refuses early, with the remedy, if no program is there or it would not be allowed to work.
    pub fn require_usable(&self) -> Result<(), BackendError> {
        if self.programs.is_empty() {
            return Err(BackendError::MissingProgram("iptables".to_owned()));
        }
        if !has_capability(CAP_NET_ADMIN) {
            return Err(BackendError::MissingCapability {
                capability: "CAP_NET_ADMIN",
                what: "redirection rules",
            });
        }
        Ok(())
    }

    fn program(&self, backend: Backend, family: Family) -> Result<&Program, BackendError> {
        let mut programs = self.programs.iter();
        programs
            .find(|p| p.backend == backend && p.family == family)
            .ok_or_else(|| {
                BackendError::MissingProgram(format!("{}-{backend}-restore", family.prefix()))
            })
    }
}

/// Whether the machine uses IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// The kernel has none.
    Absent,
    /// No interface but loopback has an address.
    LoopbackOnly,
    /// It is in use.
    InUse,
}

/// Asks the kernel whether this network namespace uses IPv6.
pub fn ipv6_presence() -> Ipv6 {
    std::fs::read_to_string("/proc/self/net/if_inet6").map_or(Ipv6::Absent, |text| {
        let elsewhere = |line: &str| {
            line.split_whitespace()
                .last()
                .is_some_and(|name| name != "lo")
        };
        if text.lines().any(elsewhere) {
            Ipv6::InUse
        } else {
            Ipv6::LoopbackOnly
        }
    })
}

/// The backends to try, best first: those that can work with the IPv4 nat table, the one that
/// already holds more rules of others first, nft before legacy among equals.
pub fn choose(tools: &Tools, choice: BackendChoice) -> Result<Vec<Backend>, BackendError> {
    tools.require_usable()?;
    let mut working = Vec::new();
    let mut error = None;
    for backend in Backend::ALL
        .into_iter()
        .filter(|backend| choice.admits(*backend))
    {
        // Asking the legacy programs would create their table; it is not needed to know that an
        // absent table is empty, only to know whether they work when nothing else does.
        let looks_idle = backend == Backend::Legacy && !legacy_nat_exists(Family::V4);
        if looks_idle && !working.is_empty() {
            if tools.program(backend, Family::V4).is_ok() {
                working.push((0, backend));
            }
            continue;
        }
        match tools.save(backend, Family::V4) {
            Ok(text) => working.push((plan::count_foreign_rules(&text), backend)),
            Err(failure) => error = error.or(Some(failure)),
        }
    }
    if !has_capability(CAP_NET_RAW) && working.iter().all(|(_, b)| *b == Backend::Legacy) {
        return Err(BackendError::MissingCapability {
            capability: "CAP_NET_RAW",
            what: "iptables-legacy tables",
        });
    }
    working.sort_by_key(|(rules, _)| std::cmp::Reverse(*rules));
    match (working.is_empty(), error) {
        (true, Some(error)) => Err(error),
        (true, None) => Err(BackendError::MissingProgram("iptables".to_owned())),
        (false, _) => Ok(working.into_iter().map(|(_, backend)| backend).collect()),
    }
}

fn legacy_nat_exists(family: Family) -> bool {
    std::fs::read_to_string(family.legacy_tables())
        .is_ok_and(|names| names.lines().any(|name| name == "nat"))
}

fn find_pair(backend: Backend, family: Family, prefix: &str) -> Option<Program> {
    let save = find_program(&format!("{prefix}-save"))?;
    let restore = find_program(&format!("{prefix}-restore"))?;
    Some(Program {
        backend,
        family,
        save,
        restore,
    })
}

/// Which engine an `iptables` without a suffix drives; it says so in its version.
fn plain_backend(program: &Path) -> Backend {
    match run(program, &["--version"], None) {
        Ok(version) if version.contains("nf_tables") => Backend::Nft,
        _ => Backend::Legacy,
    }
}

/// The programs live in folders that a service's `PATH` often lacks.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

fn run(program: &Path, arguments: &[&str], input: Option<&str>) -> Result<String, BackendError> {
    let command = || {
        let words = arguments.iter().map(OsStr::new);
        let words = std::iter::once(program.as_os_str()).chain(words);
        words
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let output = run_raw(program, arguments, input).map_err(|source| BackendError::Run {
        command: command(),
        source,
    })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(BackendError::Failed {
            command: command(),
            status: output.status,
            stderr,
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run_raw(program: &Path, arguments: &[&str], input: Option<&str>) -> std::io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        match stdin.write_all(input.as_bytes()) {
            // It ended before it read everything; its own words say why.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

/// Whether this process has a capability in effect (capabilities(7)). A kernel that does not tell
/// is given the benefit of the doubt: the programs will say it.
fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = field.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_none_or(|mask| mask & (1 << number) != 0)
}
