// SPDX-License-Identifier: Apache-2.0
//! How each program of the shop is started: the one place that knows their command lines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::MeshKind;
use super::topology::{self, CONTROL_PLANE_PORT, HostPlan, NAMESPACE, Role};
use crate::bins;
use crate::lab::{Lab, network};
use crate::process::{Spec, User};

/// Where the programs are.
#[derive(Debug)]
pub struct Programs {
    lab: Lab,
    go: PathBuf,
    php_fpm: PathBuf,
    mesh: Option<Meshed>,
}

#[derive(Debug)]
struct Meshed {
    proxy: PathBuf,
    remora: PathBuf,
}

/// php-fpm's workers: enough to meet the circuit limits of the last step.
const PHP_WORKERS: u32 = 16;

impl Programs {
    /// Finds or builds all that the shop needs.
    ///
    /// *Errors*: something is not installed or not built; the text says what.
    pub fn find(lab: &Lab, kind: MeshKind) -> anyhow::Result<Self> {
        let mesh = match kind {
            MeshKind::Plain => None,
            MeshKind::Meshed => Some(Meshed {
                proxy: bins::find("remora-proxy")?,
                remora: bins::find("remora")?,
            }),
        };
        if !Path::new(NGINX).is_file() {
            bail!("nginx is not installed: run `apt install nginx`");
        }
        Ok(Self {
            lab: lab.clone(),
            go: super::build_programs()?,
            php_fpm: find_php_fpm()?,
            mesh,
        })
    }

    /// The control plane, watching `config`.
    pub fn control_plane(&self, config: &Path) -> anyhow::Result<Spec> {
        let spec = Spec::new("control-plane", &self.mesh()?.remora);
        Ok(spec
            .args(["control-plane", "--config"])
            .arg(config)
            .args(["--listen", &format!("0.0.0.0:{CONTROL_PLANE_PORT}")])
            .args(["--access-log", "stdout"]))
    }

    /// The command that redirects a host's traffic.
    pub fn redirect(&self) -> anyhow::Result<Spec> {
        Ok(Spec::new("redirect", &self.mesh()?.proxy).args(["redirect", "apply"]))
    }

    /// The sidecar of a host.
    pub fn sidecar(&self, plan: &HostPlan) -> anyhow::Result<Spec> {
        let state = self
            .lab
            .make_folder(&format!("{}-proxy", plan.name), User::PROXY)?;
        let (control_plane, _) = network::addresses(2);
        let (v4, v6) = network::addresses(plan.number);
        let (app, version) = plan.role.labels();
        Ok(Spec::new("proxy", &self.mesh()?.proxy)
            .user(User::PROXY)
            .folder(&state)
            .args([
                "run",
                "--control-plane",
                &format!("{control_plane}:{CONTROL_PLANE_PORT}"),
            ])
            .args([
                "--name",
                plan.name,
                "--namespace",
                NAMESPACE,
                "--ip",
                &format!("{v4},{v6}"),
            ])
            .args([
                "--label",
                &format!("app={app}"),
                "--label",
                &format!("version={version}"),
            ])
            .arg("--state-dir")
            .arg(state))
    }

    /// The programs of a host, in the order they are started.
    pub fn of(&self, plan: &HostPlan, lab: &Lab) -> anyhow::Result<Vec<Spec>> {
        match plan.role {
            Role::Infrastructure => Ok(Vec::new()),
            Role::Page => self.page(plan, lab),
            Role::ServerFirst => Ok(vec![
                Spec::new("mysql", self.go.join("mysql")).user(User::APP),
            ]),
            Role::Service { service, version } => Ok(vec![
                Spec::new(service, self.go.join(service))
                    .user(User::APP)
                    .args(["-instance", plan.name, "-version", version]),
            ]),
        }
    }

    fn page(&self, plan: &HostPlan, lab: &Lab) -> anyhow::Result<Vec<Spec>> {
        let folder = lab.make_folder(&format!("{}-web", plan.name), User::WEB)?;
        lab.make_folder(&format!("{}-web/tmp", plan.name), User::WEB)?;
        let web = folder.join("pages");
        copy_pages(&web)?;
        let fill = |name: &str| -> anyhow::Result<PathBuf> {
            let template = topology::example()
                .join("conf")
                .join(format!("{name}.template"));
            let text = fs::read_to_string(&template)
                .with_context(|| format!("read {}", template.display()))?
                .replace("@DIR@", &folder.to_string_lossy())
                .replace("@WEB@", &web.to_string_lossy())
                .replace("@PORT@", "80")
                .replace("@CHILDREN@", &PHP_WORKERS.to_string());
            let file = folder.join(name);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
            Ok(file)
        };
        // `-e` keeps nginx from trying its built-in error log before it has read the file.
        let nginx = Spec::new("nginx", NGINX)
            .user(User::WEB)
            .args(["-e", "stderr", "-p"])
            .arg(&folder)
            .arg("-c")
            .arg(fill("nginx.conf")?);
        let php = Spec::new("php-fpm", &self.php_fpm)
            .user(User::WEB)
            .arg("--nodaemonize")
            .arg("--fpm-config")
            .arg(fill("php-fpm.conf")?);
        Ok(vec![php, nginx])
    }

    fn mesh(&self) -> anyhow::Result<&Meshed> {
        self.mesh
            .as_ref()
            .context("this shop is raised without a mesh")
    }
}

const NGINX: &str = "/usr/sbin/nginx";

/// Debian names the program after PHP's version.
fn find_php_fpm() -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir("/usr/sbin").context("read /usr/sbin")?;
    let programs = entries.flatten().map(|entry| entry.path()).filter(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"))
    });
    programs
        .max()
        .context("php-fpm is not installed: run `apt install php-fpm php-curl`")
}

fn copy_pages(to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let source = topology::example().join("web");
    for entry in fs::read_dir(&source).with_context(|| format!("read {}", source.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
