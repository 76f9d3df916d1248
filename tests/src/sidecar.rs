// SPDX-License-Identifier: Apache-2.0
//! The smallest mesh: one workload with its sidecar, a control plane, and the rest of the world.
//!
//! Tests that look at one proxy's life, its ports or its names stand on this; the whole shop is
//! `remora_testkit::mesh`. Nothing is started but what a test starts.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use remora_testkit::client::{self, Request, Response};
use remora_testkit::lab::{Host, Lab};
use remora_testkit::process::{Process, Spec, User};
use remora_testkit::upstream::HttpUpstream;
use remora_testkit::upstream::http::Reply;
use remora_testkit::{bins, wait};

/// Three hosts of a lab.
#[derive(Debug)]
pub struct Scene {
    /// The workload's host, 10.77.0.10.
    pub app: Host,
    /// The rest of the world, 10.77.0.20.
    pub peer: Host,
    /// The control plane's host, 10.77.0.2.
    pub cp: Host,
    config: PathBuf,
}

/// Where the workload serves.
pub const APP_PORT: u16 = 8080;
/// The proxy's admin.
pub const ADMIN: u16 = 15000;
/// The proxy's readiness.
pub const READINESS: u16 = 15021;

/// The workload as Kubernetes would show it: `app` in `shop`, with a service of its name at port
/// 80.
pub const APP: &str = "
apiVersion: v1
kind: Service
metadata: {name: app, namespace: shop}
spec:
  selector: {app: app}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: app
  namespace: shop
  labels: {kubernetes.io/service-name: app}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
  - addresses: [10.77.0.10]
    conditions: {ready: true}
    targetRef: {kind: Pod, name: app, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: shop, labels: {app: app}}
spec: {containers: [{name: app, ports: [{name: http, containerPort: 8080}]}]}
status:
  phase: Running
  podIP: 10.77.0.10
  conditions: [{type: Ready, status: 'True'}]
";

impl Scene {
    /// Makes the hosts and the folder of the configuration, which holds [`APP`]. The workload's
    /// resolver is an address where nobody answers.
    pub fn set_up(lab: &Lab) -> anyhow::Result<Self> {
        let scene = Self {
            app: lab.add_host("app", 10)?,
            peer: lab.add_host("peer", 20)?,
            cp: lab.add_host("cp", 2)?,
            config: lab.folder().join("config"),
        };
        fs::create_dir_all(&scene.config).context("make the configuration folder")?;
        scene.configure("app.yaml", APP)?;
        scene.set_resolver(scene.cp.v4(), "")?;
        Ok(scene)
    }

    /// Writes `/etc/resolv.conf` of the workload's host, for processes that start later.
    pub fn set_resolver(&self, nameserver: Ipv4Addr, more: &str) -> anyhow::Result<()> {
        let search = "search shop.svc.cluster.local svc.cluster.local cluster.local";
        let text = format!("nameserver {nameserver}\n{search}\noptions ndots:5\n{more}");
        self.app.set_etc("resolv.conf", &text)
    }

    /// Replaces a file of the watched folder in one step.
    pub fn configure(&self, file: &str, yaml: &str) -> anyhow::Result<()> {
        let draft = self.config.join(format!(".{file}.draft"));
        fs::write(&draft, yaml).with_context(|| format!("write {}", draft.display()))?;
        fs::rename(draft, self.config.join(file)).with_context(|| format!("replace {file}"))
    }

    /// Starts the control plane and waits until it accepts.
    pub fn start_control_plane(&self, flags: &[&str]) -> anyhow::Result<Process> {
        let spec = Spec::new("control-plane", bins::find("remora")?)
            .args(["control-plane", "--config"])
            .arg(&self.config)
            .args(flags);
        let mut process = self.cp.spawn(&spec)?;
        let ads = SocketAddr::from((Ipv4Addr::LOCALHOST, 15010));
        process.wait_until("it accepts", || {
            self.cp
                .enter(|| wait::until_accepting(ads, Duration::ZERO))?
        })?;
        Ok(process)
    }

    /// The folder that the proxy keeps its last good configuration in.
    pub fn state(&self) -> anyhow::Result<PathBuf> {
        self.app.lab().make_folder("state", User::PROXY)
    }

    /// The proxy's command line for the usual case: all of it by flags.
    pub fn proxy(&self) -> anyhow::Result<Spec> {
        let control_plane = format!("{}:15010", self.cp.v4());
        let ips = format!("{},{}", self.app.v4(), self.app.v6());
        Ok(Spec::new("proxy", bins::find("remora-proxy")?)
            .user(User::PROXY)
            .args(["run", "--control-plane", &control_plane])
            .args(["--name", "app", "--namespace", "shop", "--label", "app=app"])
            .args(["--ip", &ips])
            .arg("--state-dir")
            .arg(self.state()?))
    }

    /// Starts the proxy and waits until its local ports answer; it need not be ready.
    pub fn start_proxy(&self, flags: &[&str]) -> anyhow::Result<Process> {
        let mut process = self.app.spawn(&self.proxy()?.args(flags))?;
        process.wait_until("its admin answers", || self.admin("/ready"))?;
        Ok(process)
    }

    /// Waits until the proxy says that it is ready.
    pub fn until_ready(&self, process: &mut Process) -> anyhow::Result<()> {
        process.wait_until("it is ready", || match self.readiness()? {
            200 => Ok(()),
            status => bail!("readiness is {status}"),
        })
    }

    /// What the readiness port answers.
    pub fn readiness(&self) -> anyhow::Result<u16> {
        let at = (Ipv4Addr::LOCALHOST, READINESS).into();
        let answer = self
            .app
            .enter(|| client::get(at, "localhost", "/healthz/ready"))??;
        Ok(answer.status)
    }

    /// Redirects the workload's traffic to where the proxy listens.
    pub fn redirect(&self) -> anyhow::Result<()> {
        let spec = Spec::new("redirect", bins::find("remora-proxy")?).args(["redirect", "apply"]);
        self.app.run(&spec).map(drop)
    }

    /// GETs a page of the admin.
    pub fn admin(&self, target: &str) -> anyhow::Result<Response> {
        self.ask_admin(&Request::get("localhost", target))
    }

    /// POSTs to a page of the admin.
    pub fn post(&self, target: &str) -> anyhow::Result<Response> {
        self.ask_admin(&Request::get("localhost", target).with_body("POST", ""))
    }

    /// Asks the admin in words of one's own.
    pub fn ask_admin(&self, request: &Request) -> anyhow::Result<Response> {
        let at = (Ipv4Addr::LOCALHOST, ADMIN).into();
        let limit = Duration::from_secs(10);
        self.app.enter(|| client::send(at, request, limit))?
    }

    /// A number that the proxy counts; zero if it has none of that name.
    pub fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let answer = self.admin(&format!("/stats?filter=^{name}$"))?;
        ensure!(answer.status == 200, "/stats answers {}", answer.status);
        let text = answer.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(Ok(0), |value| value.trim().parse().context("a number"))
    }

    /// Starts a scripted server on all of a host's addresses of a family: `0.0.0.0` or `::`.
    pub fn serve(&self, host: &Host, address: &str, reply: Reply) -> anyhow::Result<HttpUpstream> {
        let address: SocketAddr = address.parse().context("an address with a port")?;
        let started = host.enter(|| HttpUpstream::start(address, reply))?;
        started.with_context(|| format!("serve {address} on {}", host.name()))
    }

    /// GETs from a host, as a program of its workload would.
    pub fn get(
        &self,
        from: &Host,
        to: impl Into<SocketAddr>,
        name: &str,
    ) -> anyhow::Result<Response> {
        let to = to.into();
        from.enter(|| client::get(to, name, "/"))?
    }
}

/// The file in which a proxy keeps its last good configuration.
///
/// *Errors*: there is none, or more than one.
pub fn last_good(state: &Path) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(state).with_context(|| format!("read {}", state.display()))?;
    let mut found: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("last-good-") && !name.contains('.')
        })
        .collect();
    ensure!(found.len() == 1, "{} last good configurations", found.len());
    Ok(found.remove(0).path())
}
