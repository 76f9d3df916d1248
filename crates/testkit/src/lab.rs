// SPDX-License-Identifier: Apache-2.0
//! Network namespaces that stand for machines, joined by a bridge in a namespace of its own.
//!
//! Nothing is added to the machine's own network. Every host has the interface `eth0` with an IPv4
//! and an IPv6 address, a default route (so that any destination can be dialled and redirected), and
//! files of its own in `/etc`. Programs run inside by [`Host::spawn`]; code of the bench by
//! [`Host::enter`], on a thread that has moved into the namespace.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::exec;
use crate::process::{Process, Spawner, Spec, User};
use crate::run::Run;

/// A set of hosts on one network. Dropping the last handle to it removes all of it.
#[derive(Debug, Clone)]
pub struct Lab {
    // Processes must end before the spawner, and both before the run's namespaces go.
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spawner: Spawner,
    ports: AtomicU16,
    run: std::sync::Mutex<Run>,
    name: String,
    folder: PathBuf,
}

/// One host of a lab.
#[derive(Debug, Clone)]
pub struct Host {
    lab: Lab,
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// The network of every lab; no two labs see one another.
pub mod network {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The bridge's address, the default gateway of all hosts.
    pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    /// The bridge's IPv6 address.
    pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

    /// The addresses of host number `n`: `10.77.0.n` and `fd77::n`, the number written alike.
    pub fn addresses(n: u8) -> (Ipv4Addr, Ipv6Addr) {
        // `fd77::10` should read as the same host as `10.77.0.10`: decimal digits read as hex.
        let digits = u16::from(n / 100) * 0x100 + u16::from(n / 10 % 10) * 0x10 + u16::from(n % 10);
        (
            Ipv4Addr::new(10, 77, 0, n),
            Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits),
        )
    }
}

/// Runs a test in a lab of its own; if it fails, its logs are kept and their place is printed.
///
/// Without root it *fails*, saying so, rather than pass unseen; `REMORA_SKIP_NETNS=1` skips it on
/// purpose.
///
/// *Panics* if the test fails: that is how a test tells.
pub fn test(body: impl FnOnce(&Lab) -> anyhow::Result<()>) {
    if std::env::var_os("REMORA_SKIP_NETNS").is_some_and(|value| value == "1") {
        eprintln!("skipped: REMORA_SKIP_NETNS=1");
        return;
    }
    let lab = match Lab::start() {
        Ok(lab) => lab,
        Err(error) => panic!("{error:#} (REMORA_SKIP_NETNS=1 skips tests of this kind)"),
    };
    if let Err(error) = body(&lab) {
        lab.keep();
        panic!("{error:?}");
    }
}

impl Lab {
    /// Makes an empty network.
    ///
    /// *Errors*: not root, or `ip` or `setpriv` missing or refused.
    pub fn start() -> anyhow::Result<Self> {
        let run = Run::start()?;
        let name = run.name().to_owned();
        let folder = run.folder().to_path_buf();
        let net = run.namespace(BRIDGE_HOST);
        let inner = Inner {
            spawner: Spawner::start()?,
            ports: AtomicU16::new(0),
            run: std::sync::Mutex::new(run),
            name,
            folder,
        };
        exec::ip(&format!("netns add {net}"))?;
        for words in [
            "link set lo up".to_owned(),
            "link add br0 type bridge".to_owned(),
            format!("addr add {}/24 dev br0", network::GATEWAY_V4),
            format!("addr add {}/64 dev br0 nodad", network::GATEWAY_V6),
            "link set br0 up".to_owned(),
        ] {
            exec::ip(&format!("-n {net} {words}"))?;
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Adds host number `number` (see [`network::addresses`]).
    pub fn add_host(&self, name: &str, number: u8) -> anyhow::Result<Host> {
        let (v4, v6) = network::addresses(number);
        let host = Host {
            lab: self.clone(),
            name: name.to_owned(),
            v4,
            v6,
        };
        let namespace = host.namespace();
        let net = format!("{}-{BRIDGE_HOST}", self.inner.name);
        let port = format!("port{}", self.inner.ports.fetch_add(1, Ordering::Relaxed));
        exec::ip(&format!("netns add {namespace}"))?;
        exec::ip(&format!(
            "link add {port} netns {net} type veth peer name eth0 netns {namespace}"
        ))?;
        exec::ip(&format!("-n {net} link set {port} master br0 up"))?;
        for words in [
            "link set lo up".to_owned(),
            format!("addr add {v4}/24 dev eth0"),
            format!("addr add {v6}/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add default via {}", network::GATEWAY_V4),
            format!("-6 route add default via {}", network::GATEWAY_V6),
        ] {
            exec::ip(&format!("-n {namespace} {words}"))?;
        }
        // As in a container: a workload needs no privilege to serve port 80.
        host.enter(|| fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"))?
            .context("let everybody serve low ports")?;
        // "Nobody listens here" is said each time, not once a second: what asks a dead port in a
        // test is to learn so at once, however often it asks.
        host.enter(|| fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0"))?
            .context("let refusals pass")?;
        Ok(host)
    }

    /// A folder for files of this run. Any user may read it.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Where the programs' output is.
    pub fn logs(&self) -> PathBuf {
        self.inner.folder.join("logs")
    }

    /// The prefix of this lab's namespaces.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The same program at a place that its user can reach: a clone may be in a folder that is
    /// closed to all but its owner.
    fn installed(&self, spec: &Spec) -> anyhow::Result<Spec> {
        let mut spec = spec.clone();
        let Some(name) = spec.program.file_name().filter(|_| {
            let is_system = spec.program.starts_with("/usr") || spec.program.starts_with("/bin");
            spec.user.is_some() && spec.program.is_absolute() && !is_system
        }) else {
            return Ok(spec);
        };
        let folder = self.inner.folder.join("bin");
        let installed = folder.join(name);
        if installed != spec.program && !installed.exists() {
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            fs::hard_link(&spec.program, &installed)
                .or_else(|_| fs::copy(&spec.program, &installed).map(drop))
                .with_context(|| format!("install {}", spec.program.display()))?;
        }
        spec.program = installed;
        Ok(spec)
    }

    /// Makes a folder of this run that belongs to a user.
    pub fn make_folder(&self, name: &str, owner: User) -> anyhow::Result<PathBuf> {
        let folder = self.inner.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        std::os::unix::fs::chown(&folder, Some(owner.uid), Some(owner.gid))
            .with_context(|| format!("give {} to {}", folder.display(), owner.uid))?;
        Ok(folder)
    }

    /// Keeps folder and logs after the end.
    pub fn keep(&self) {
        self.inner
            .run
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .keep();
    }
}

const BRIDGE_HOST: &str = "net";

impl Host {
    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The name of its namespace, as `ip netns` knows it.
    pub fn namespace(&self) -> String {
        format!("{}-{}", self.lab.inner.name, self.name)
    }

    /// The lab it belongs to.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Gives it a file of its own in `/etc`, such as `resolv.conf` or `hosts`, in place of the
    /// machine's. Programs started later see it.
    pub fn set_etc(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let folder = Path::new("/etc/netns").join(self.namespace());
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        fs::write(folder.join(file), text).with_context(|| format!("write /etc/{file}"))
    }

    /// Starts a program here; its output goes to the log `<host>-<name>.log`.
    pub fn spawn(&self, spec: &Spec) -> anyhow::Result<Process> {
        let spec = &self.lab.installed(spec)?;
        let log = self
            .lab
            .logs()
            .join(format!("{}-{}.log", self.name, spec.name));
        let owner = spec.user.unwrap_or(User::ROOT);
        fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .context("make the log")?;
        // Some programs open their standard error again, by its path.
        std::os::unix::fs::chown(&log, Some(owner.uid), Some(owner.gid)).context("give the log")?;
        let name = format!("{}@{}", spec.name, self.name);
        self.lab
            .inner
            .spawner
            .spawn(&name, spec.command(&self.namespace()), &log)
    }

    /// Runs a program here to its end and returns what it wrote to stdout.
    pub fn run(&self, spec: &Spec) -> anyhow::Result<String> {
        let spec = self.lab.installed(spec)?;
        exec::run_command(&mut spec.command(&self.namespace()))
            .with_context(|| format!("on host {}", self.name))
    }

    /// Runs a program here by its words, as root.
    pub fn run_words(&self, words: &str) -> anyhow::Result<String> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace()])
            .args(words.split_whitespace());
        exec::run_command(&mut command).with_context(|| format!("on host {}", self.name))
    }

    /// Runs code on a thread that has moved into this host's network. Sockets it makes, and threads
    /// it starts, stay there.
    pub fn enter<T: Send>(&self, code: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let path = Path::new("/run/netns").join(self.namespace());
        let namespace =
            fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("enter {}", path.display()))?;
                Ok(code())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
