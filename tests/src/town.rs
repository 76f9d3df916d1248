// SPDX-License-Identifier: Apache-2.0
//! The demo shop's mesh with scripted backends: a control plane with the shop's own YAML, one host
//! that has all of the services' addresses, and hosts with a sidecar of either kind.
//!
//! Where the demo shows programs, this shows what reaches them: every address records.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use remora_testkit::bins;
use remora_testkit::client::{self, Request, Response};
use remora_testkit::lab::{Host, Lab, network};
use remora_testkit::mesh::topology;
use remora_testkit::process::{Process, Spec, User};
use remora_testkit::upstream::HttpUpstream;
use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;

use crate::subject::Subject;

/// A mesh without sidecars; [`Town::add_sidecar`] makes hosts that have one.
#[derive(Debug)]
pub struct Town {
    control_plane: Option<Process>,
    backends: BTreeMap<&'static str, HttpUpstream>,
    services: Host,
    cp: Host,
    config: PathBuf,
    lab: Lab,
}

/// The variants of ADS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ads {
    /// Only what changed.
    Delta,
    /// All of a kind, each time.
    StateOfTheWorld,
}

/// A host with redirection and a sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// The sidecar.
    pub process: Process,
    /// The host.
    pub host: Host,
}

/// The services by name, with the address of their programs and of the service itself.
const SERVICES: [(&str, u8, &str); 6] = [
    ("sms-v1-a", 21, "sms"),
    ("sms-v1-b", 22, "sms"),
    ("sms-v2", 23, "sms"),
    ("message", 31, "message"),
    ("search", 41, "search"),
    ("front", 42, "front"),
];

/// The address that a service of the shop has here.
///
/// *Panics* if there is no such service.
pub fn service(name: &str) -> SocketAddr {
    let place = SERVICES.iter().position(|(_, _, service)| *service == name);
    let place = place.expect("a service of the shop");
    let last = u8::try_from(place + 1).expect("few services");
    SocketAddr::from(([10, 96, 0, last], 80))
}

impl Town {
    /// Raises control plane and backends; every backend answers 200 with its name.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let cp = lab.add_host("cp", 2)?;
        let services = lab.add_host("services", 20)?;
        let mut backends = BTreeMap::new();
        for (name, number, _) in SERVICES {
            let (v4, _) = network::addresses(number);
            services.run_words(&format!("ip addr add {v4}/24 dev eth0"))?;
            let address = SocketAddr::from((v4, 80));
            let start = || HttpUpstream::start(address, Reply::status(200, name));
            let backend = services
                .enter(start)?
                .with_context(|| format!("listen on {address}"))?;
            backends.insert(name, backend);
        }
        let config = lab.folder().join("config");
        fs::create_dir_all(&config)?;
        let mut town = Self {
            control_plane: None,
            backends,
            services,
            cp,
            config,
            lab: lab.clone(),
        };
        town.write_mesh()?;
        town.set_step("01-all-to-v1")?;
        town.start_control_plane()?;
        Ok(town)
    }

    /// The shop's own files, with fixed addresses for the services.
    fn write_mesh(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(topology::example().join("mesh"))? {
            let path = entry?.path();
            let mut text = fs::read_to_string(&path)?;
            for (_, _, name) in SERVICES {
                let selector = format!("  selector:\n    app: {name}\n");
                let fixed = format!("  clusterIP: {}\n{selector}", service(name).ip());
                if !text.contains(&fixed) {
                    text = text.replace(&selector, &fixed);
                }
            }
            let name = path.file_name().context("a file has a name")?;
            fs::write(self.config.join(name), text)?;
        }
        Ok(())
    }

    /// Starts the control plane and waits until it accepts.
    pub fn start_control_plane(&mut self) -> anyhow::Result<()> {
        let spec = Spec::new("control-plane", bins::find("remora")?)
            .args(["control-plane", "--config"])
            .arg(&self.config);
        let mut process = self.cp.spawn(&spec)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, topology::CONTROL_PLANE_PORT));
        let cp = &self.cp;
        process.wait_until("it accepts", || {
            cp.enter(|| wait::until_accepting(address, Duration::ZERO))?
        })?;
        self.control_plane = Some(process);
        Ok(())
    }

    /// The control plane's process.
    pub fn control_plane(&mut self) -> anyhow::Result<&mut Process> {
        self.control_plane.as_mut().context("it does not run")
    }

    /// The control plane's host.
    pub fn cp(&self) -> &Host {
        &self.cp
    }

    /// The host with all of the services' addresses.
    pub fn services(&self) -> &Host {
        &self.services
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// A program of the shop, by its name.
    pub fn backend(&self, name: &str) -> anyhow::Result<&HttpUpstream> {
        self.backends
            .get(name)
            .with_context(|| format!("no backend `{name}`"))
    }

    /// How many requests each program has seen.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let backends = self.backends.iter();
        backends
            .map(|(name, backend)| (*name, backend.recorded().len()))
            .collect()
    }

    /// Puts a file of the example's `steps` in force.
    pub fn set_step(&self, step: &str) -> anyhow::Result<()> {
        let file = topology::example()
            .join("steps")
            .join(format!("{step}.yaml"));
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        self.write("routing.yaml", &text)
    }

    /// Replaces a file of the watched folder, in one step as editors do.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let draft = self.config.join(format!(".{name}.draft"));
        fs::write(&draft, text)?;
        fs::rename(&draft, self.config.join(name)).with_context(|| format!("replace {name}"))
    }

    /// Adds a host with redirection and a sidecar that asks this control plane.
    pub fn add_sidecar(
        &self,
        name: &str,
        number: u8,
        subject: Subject,
        ads: Ads,
    ) -> anyhow::Result<Sidecar> {
        let host = self.lab.add_host(name, number)?;
        let file = self.lab.folder().join(format!("{name}.yaml"));
        fs::write(&file, bootstrap(&host, self.cp.v4(), ads))?;
        redirect(&host)?;
        let process = subject.start(&host, &file, ADMIN.into())?;
        Ok(Sidecar { process, host })
    }
}

/// Redirects a host's traffic, as the init container would.
pub fn redirect(host: &Host) -> anyhow::Result<()> {
    let program = bins::find("remora-proxy")?;
    let spec = Spec::new("redirect", program).args(["redirect", "apply", "--no-dns"]);
    host.run(&spec).map(drop)
}

impl Sidecar {
    /// Adds a host with redirection and Remora with all of its ports, made by flags, that asks a
    /// control plane at this address.
    pub fn start_whole(lab: &Lab, control_plane: Ipv4Addr) -> anyhow::Result<Self> {
        let host = lab.add_host("php", 10)?;
        redirect(&host)?;
        let folder = lab.make_folder("php-proxy", User::PROXY)?;
        let spec = Spec::new("proxy", bins::find("remora-proxy")?)
            .user(User::PROXY)
            .folder(&folder)
            .args([
                "run",
                "--name",
                "php",
                "--namespace",
                "shop",
                "--label",
                "app=php",
            ])
            .args(["--ip", &host.v4().to_string()])
            .args(["--control-plane", &format!("{control_plane}:15010")])
            .arg("--state-dir")
            .arg(&folder);
        let mut process = host.spawn(&spec)?;
        process.wait_until("its admin answers", || {
            host.enter(|| wait::until_accepting(ADMIN.into(), Duration::ZERO))?
        })?;
        Ok(Self { process, host })
    }

    /// Asks a service of the shop through the sidecar.
    pub fn ask(&self, name: &str, request: &Request) -> anyhow::Result<Response> {
        let address = service(name);
        self.host.enter(|| client::send(address, request, LIMIT))?
    }

    /// A page of the sidecar's admin.
    pub fn admin(&self, target: &str) -> anyhow::Result<String> {
        let answer = self
            .host
            .enter(|| client::get(ADMIN.into(), "localhost", target))??;
        if answer.status != 200 {
            bail!("{target} answered {}: {}", answer.status, answer.text());
        }
        Ok(answer.text())
    }

    /// Resident memory of the sidecar, in bytes.
    pub fn memory(&self) -> anyhow::Result<u64> {
        resident(self.process.pid())
    }
}

/// Resident memory of a process, in bytes. Source: `VmRSS` of proc_pid_status(5).
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = kilobytes.context("no VmRSS")?.parse()?;
    Ok(kilobytes * 1024)
}

/// Where every sidecar serves its admin pages.
pub const ADMIN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, topology::PROXY_ADMIN_PORT);
const LIMIT: Duration = Duration::from_secs(10);

/// Envoy's own bootstrap for ADS, which Remora reads as well.
fn bootstrap(host: &Host, control_plane: Ipv4Addr, ads: Ads) -> String {
    let api_type = match ads {
        Ads::Delta => "DELTA_GRPC",
        Ads::StateOfTheWorld => "GRPC",
    };
    format!(
        "node:
  id: sidecar~{address}~{name}.shop~shop.svc.cluster.local
  cluster: {name}.shop
  metadata:
    NAMESPACE: shop
    INSTANCE_IPS: {address}
admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: 15000}}}}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    grpc_services: [{{envoy_grpc: {{cluster_name: control-plane}}}}]
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: control-plane
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: control-plane
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {control_plane}, port_value: 15010}}}}}}
",
        address = host.v4(),
        name = host.name(),
    )
}
