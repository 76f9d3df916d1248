// SPDX-License-Identifier: Apache-2.0
//! The shop of `examples/php-shop` in a lab: control plane, sidecars with real redirection, programs.
//!
//! [`topology`] says who lives where, [`programs`] how each program is started. A [`Mesh`] raises
//! all of it, lets a test steer it (routing, faults, kills) and look at it (the page, counters, the
//! proxies' own view), and takes it down when it is dropped.

pub mod page;
pub mod programs;
pub mod topology;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

pub use self::page::{Call, Page};
use self::programs::Programs;
use self::topology::{CONTROL_PLANE, HOSTS, HostPlan, PHP, Role};
use crate::client::{self, Request, Response};
use crate::lab::{Host, Lab};
use crate::process::Process;
use crate::{bins, wait};

/// What to raise.
#[derive(Debug, Clone)]
pub struct MeshOptions {
    /// With sidecars and a control plane, or the same programs without a mesh.
    pub kind: MeshKind,
    /// The routing to begin with, by the name of a file in `steps/`.
    pub routing: String,
}

impl Default for MeshOptions {
    fn default() -> Self {
        Self {
            kind: MeshKind::Meshed,
            routing: "01-all-to-v1".to_owned(),
        }
    }
}

/// Whether there is a mesh in the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeshKind {
    /// Redirection, sidecars, control plane.
    Meshed,
    /// The programs alone; names come from `/etc/hosts`. The measure of what a mesh costs and
    /// breaks.
    Plain,
}

/// A raised shop.
#[derive(Debug)]
pub struct Mesh {
    // Fields are dropped in this order: programs before the hosts they run on.
    control_plane: Option<Process>,
    nodes: BTreeMap<&'static str, Node>,
    programs: Programs,
    kind: MeshKind,
    config: PathBuf,
    lab: Lab,
}

/// A host with what runs on it.
#[derive(Debug)]
struct Node {
    plan: &'static HostPlan,
    host: Host,
    programs: Vec<Process>,
    sidecar: Option<Process>,
}

impl Mesh {
    /// Raises the shop in `lab` and waits until every part says that it is ready.
    pub fn up(lab: &Lab, options: &MeshOptions) -> anyhow::Result<Self> {
        let programs = Programs::find(lab, options.kind)?;
        let config = lab.folder().join("config");
        fs::create_dir_all(&config).context("make the configuration folder")?;
        let mut mesh = Self {
            control_plane: None,
            nodes: BTreeMap::new(),
            programs,
            kind: options.kind,
            config,
            lab: lab.clone(),
        };
        mesh.copy_configuration()?;
        mesh.set_step(&options.routing)?;
        for plan in &HOSTS {
            let host = lab.add_host(plan.name, plan.number)?;
            for (file, text) in topology::etc(options.kind) {
                host.set_etc(file, &text)?;
            }
            let node = Node {
                plan,
                host,
                programs: Vec::new(),
                sidecar: None,
            };
            mesh.nodes.insert(plan.name, node);
        }
        if options.kind == MeshKind::Meshed {
            mesh.start_control_plane()?;
            mesh.start_sidecars()?;
        }
        for plan in &HOSTS {
            mesh.start_programs(plan.name)?;
        }
        Ok(mesh)
    }

    /// The lab it is raised in.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The folder that the control plane watches.
    pub fn config(&self) -> &PathBuf {
        &self.config
    }

    /// A host by its name in [`topology::HOSTS`].
    pub fn host(&self, name: &str) -> anyhow::Result<&Host> {
        Ok(&self.node(name)?.host)
    }

    // Steering.

    /// Puts a file of `examples/php-shop/steps` in force.
    pub fn set_step(&self, step: &str) -> anyhow::Result<()> {
        let file = topology::example()
            .join("steps")
            .join(format!("{step}.yaml"));
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        self.set_routing(&text)
    }

    /// Replaces `routing.yaml`, in one step as editors do.
    pub fn set_routing(&self, yaml: &str) -> anyhow::Result<()> {
        self.write_config("routing.yaml", yaml)
    }

    /// Replaces a file of the watched folder, in one step as editors do.
    pub fn write_config(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        // The name the control plane must not read while it is half written.
        let draft = self.config.join(format!(".{name}.draft"));
        fs::write(&draft, yaml).with_context(|| format!("write {}", draft.display()))?;
        fs::rename(&draft, self.config.join(name)).with_context(|| format!("replace {name}"))
    }

    /// Starts the control plane and waits until it accepts.
    pub fn start_control_plane(&mut self) -> anyhow::Result<()> {
        let host = self.host(CONTROL_PLANE)?.clone();
        let mut process = host.spawn(&self.programs.control_plane(&self.config)?)?;
        let address = (Ipv4Addr::LOCALHOST, topology::CONTROL_PLANE_PORT).into();
        process.wait_until("it accepts", || {
            host.enter(|| wait::until_accepting(address, Duration::ZERO))?
        })?;
        self.control_plane = Some(process);
        Ok(())
    }

    /// Kills the control plane with SIGKILL.
    pub fn kill_control_plane(&mut self) -> anyhow::Result<()> {
        self.control_plane
            .take()
            .context("the control plane does not run")?
            .kill()
    }

    /// Redirects a host's traffic and starts its sidecar; [`Self::wait_for_sidecar`] waits for it.
    pub fn start_sidecar(&mut self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        node.host
            .run(&self.programs.redirect()?)
            .context("redirect")?;
        let sidecar = node.host.spawn(&self.programs.sidecar(node.plan)?)?;
        self.node_mut(name)?.sidecar = Some(sidecar);
        Ok(())
    }

    /// Waits until a sidecar says that it is ready.
    pub fn wait_for_sidecar(&mut self, name: &str) -> anyhow::Result<()> {
        let node = self.node_mut(name)?;
        let (host, sidecar) = (
            node.host.clone(),
            node.sidecar.as_mut().context("no sidecar")?,
        );
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, topology::READINESS_PORT));
        sidecar.wait_until("it is ready", || {
            let answer = host.enter(|| client::get(address, "localhost", "/healthz/ready"))??;
            if answer.status != 200 {
                bail!("readiness is {}: {}", answer.status, answer.text());
            }
            Ok(())
        })
    }

    /// The process of a host's sidecar, to be signalled or killed.
    pub fn sidecar(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        self.node_mut(name)?
            .sidecar
            .as_mut()
            .with_context(|| format!("{name} has no sidecar"))
    }

    /// Starts the programs of a host and waits until they are ready.
    pub fn start_programs(&mut self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        let host = node.host.clone();
        let (port, target) = match node.plan.role {
            Role::Infrastructure => return Ok(()),
            // Refused by the script itself: nginx and php-fpm have found one another.
            Role::Page => (80, Some("/call.php")),
            Role::Service { .. } => (topology::ADMIN_PORT, None),
            Role::ServerFirst => (topology::MYSQL_PORT, None),
        };
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let ready = || match target {
            None => wait::until_accepting(address, Duration::ZERO),
            Some(target) => match client::get(address, "localhost", target)?.status {
                400 => Ok(()),
                status => bail!("{target} answers {status}"),
            },
        };
        let mut started = Vec::new();
        for spec in &self.programs.of(node.plan, &self.lab)? {
            started.push(host.spawn(spec)?);
        }
        for process in &mut started {
            process.wait_until("it is ready", || host.enter(ready)?)?;
        }
        self.node_mut(name)?.programs = started;
        Ok(())
    }

    /// Kills the programs of a host with SIGKILL; its sidecar goes on.
    pub fn kill_programs(&mut self, name: &str) -> anyhow::Result<()> {
        let programs = std::mem::take(&mut self.node_mut(name)?.programs);
        programs
            .into_iter()
            .try_for_each(|mut program| program.kill())
    }

    /// Asks the admin port of a service's instance, such as `/admin/fail?status=503`.
    pub fn admin(&self, name: &str, target: &str) -> anyhow::Result<Response> {
        let answer = self.get_inside(name, topology::ADMIN_PORT, target)?;
        if answer.status != 200 {
            bail!(
                "{name}{target} answered {}: {}",
                answer.status,
                answer.text()
            );
        }
        Ok(answer)
    }

    /// Makes all well again: faults healed, whatever has ended started, all of it ready.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        if let Some(control_plane) = &mut self.control_plane
            && !control_plane.is_running()
        {
            self.control_plane = None;
        }
        if self.control_plane.is_none() && self.kind == MeshKind::Meshed {
            self.start_control_plane()?;
        }
        for plan in &HOSTS {
            let node = self.node_mut(plan.name)?;
            let has_ended = |process: &mut Process| !process.is_running();
            let sidecar_ended = node.sidecar.as_mut().is_some_and(has_ended);
            let ended = node.programs.is_empty() || node.programs.iter_mut().any(has_ended);
            if sidecar_ended {
                self.start_sidecar(plan.name)?;
                self.wait_for_sidecar(plan.name)?;
            }
            if ended {
                self.node_mut(plan.name)?.programs.clear();
                self.start_programs(plan.name)?;
            } else if matches!(plan.role, Role::Service { .. }) {
                self.admin(plan.name, "/admin/heal")?;
            }
        }
        Ok(())
    }

    // Looking.

    /// Asks for the page as a browser beside the PHP host would; `query` such as `only=sms`.
    pub fn page(&self, query: &str) -> anyhow::Result<Page> {
        self.page_with(&Request::get("php", &format!("/index.php?{query}")))
    }

    /// Asks the PHP host with a request of one's own.
    pub fn page_with(&self, request: &Request) -> anyhow::Result<Page> {
        let address = (Ipv4Addr::LOCALHOST, 80).into();
        let limit = Duration::from_secs(30);
        let answer = self
            .host(PHP)?
            .enter(|| client::send(address, request, limit))??;
        Page::read(&answer)
    }

    /// The counters of a service's instance.
    pub fn counters(&self, name: &str) -> anyhow::Result<Value> {
        let answer = self.admin(name, "/admin/counters")?;
        serde_json::from_slice(&answer.body).with_context(|| format!("counters of {name}"))
    }

    /// How many requests reached an instance.
    pub fn requests(&self, name: &str) -> anyhow::Result<u64> {
        let counters = self.counters(name)?;
        counters["requests"]
            .as_u64()
            .with_context(|| format!("no requests in {counters}"))
    }

    /// Sets the counters of all instances to zero.
    pub fn reset_counters(&self) -> anyhow::Result<()> {
        let services = HOSTS
            .iter()
            .filter(|plan| matches!(plan.role, Role::Service { .. }));
        services
            .map(|plan| self.admin(plan.name, "/admin/reset"))
            .try_for_each(|done| done.map(drop))
    }

    /// Asks the admin port of a host's proxy, such as `/stats`.
    pub fn proxy_admin(&self, name: &str, target: &str) -> anyhow::Result<Response> {
        self.get_inside(name, topology::PROXY_ADMIN_PORT, target)
    }

    fn get_inside(&self, name: &str, port: u16, target: &str) -> anyhow::Result<Response> {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        self.host(name)?
            .enter(|| client::get(address, "localhost", target))?
    }

    fn copy_configuration(&self) -> anyhow::Result<()> {
        let source = topology::example().join("mesh");
        let entries =
            fs::read_dir(&source).with_context(|| format!("read {}", source.display()))?;
        for entry in entries {
            let entry = entry?;
            fs::copy(entry.path(), self.config.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// All at once, then wait for each: they start side by side.
    fn start_sidecars(&mut self) -> anyhow::Result<()> {
        let meshed = || HOSTS.iter().filter(|plan| plan.role.has_sidecar());
        meshed().try_for_each(|plan| self.start_sidecar(plan.name))?;
        meshed().try_for_each(|plan| self.wait_for_sidecar(plan.name))
    }

    fn node(&self, name: &str) -> anyhow::Result<&Node> {
        self.nodes
            .get(name)
            .with_context(|| format!("there is no host `{name}`"))
    }

    fn node_mut(&mut self, name: &str) -> anyhow::Result<&mut Node> {
        self.nodes
            .get_mut(name)
            .with_context(|| format!("there is no host `{name}`"))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Left to themselves, sidecars would drain for their grace, one after the other.
        for node in self.nodes.values_mut() {
            if let Some(mut sidecar) = node.sidecar.take() {
                let _ = sidecar.kill();
            }
        }
    }
}

/// Builds what the mesh needs beside this workspace's own programs.
pub fn build_programs() -> anyhow::Result<PathBuf> {
    bins::build_go(topology::MODULE)
}
