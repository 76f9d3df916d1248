// SPDX-License-Identifier: Apache-2.0
//! The program as people and pipelines meet it: exit codes and what is printed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: sms, namespace: shop}
spec:
  selector: {app: sms}
  ports: [{name: http, port: 80}]
";

const BROKEN: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: sms, namespace: shop}
spec:
  hosts: [sms]
  http:
  - route:
    - destination: {host: sms}
      weight: none
";

fn remora() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.env_remove("REMORA_LOG").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    remora().args(args).output().expect("started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A control plane that ends with the test.
struct Running {
    child: Child,
    ads: SocketAddr,
    status: SocketAddr,
}

impl Running {
    /// Starts one on ports of the kernel's choice, and waits until it says which.
    fn start(folder: &Path) -> Self {
        let mut child = remora()
            .args(["control-plane", "--config", text(folder)])
            .args(["--listen", "127.0.0.1:0", "--status", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let both: Vec<String> = lines.by_ref().take(2).map_while(Result::ok).collect();
            let _ = sender.send(both);
        });
        let mut running = Self {
            child,
            ads: ([0, 0, 0, 0], 0).into(),
            status: ([0, 0, 0, 0], 0).into(),
        };
        let lines = receiver
            .recv_timeout(LIMIT)
            .expect("it says where it listens");
        let address = |word: &str| {
            let found = lines.iter().find_map(|line| line.strip_prefix(word));
            found
                .and_then(|rest| rest.trim().parse().ok())
                .expect("an address")
        };
        running.ads = address("ads ");
        running.status = address("status ");
        running
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), signal).expect("sent");
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// The status once it says what is waited for.
    fn status_with(&self, wanted: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let output = run(&["status", "--address", &self.status.to_string()]);
            let said = stdout(&output);
            if output.status.success() && said.contains(wanted) {
                return said;
            }
            assert!(
                Instant::now() < deadline,
                "no `{wanted}` in: {said}{}",
                stderr(&output)
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn version_and_help_are_there() {
    let version = run(&["--version"]);
    assert!(version.status.success());
    assert_eq!(
        stdout(&version),
        format!("remora {}\n", env!("CARGO_PKG_VERSION"))
    );
    for (args, words) in [
        (&["--help"][..], &["control-plane", "analyze", "status"][..]),
        (
            &["control-plane", "--help"],
            &["--config", "0.0.0.0:15010", "registry-only"],
        ),
        (&["analyze", "--help"], &["DIR", "--json"]),
        (&["status", "--help"], &["--address", "127.0.0.1:15014"]),
    ] {
        let help = run(args);
        assert!(help.status.success());
        for word in words {
            assert!(stdout(&help).contains(word), "{args:?} does not say {word}");
        }
    }
}

#[test]
fn what_cannot_be_read_exits_with_two() {
    for args in [
        &[][..],
        &["serve"],
        &["control-plane"],
        &["control-plane", "--config", "x", "--listen", "nowhere"],
        &[
            "control-plane",
            "--config",
            "x",
            "--outbound-policy",
            "some",
        ],
        &["analyze"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_folder_without_faults_passes() {
    let folder = folder(&[("sms.yaml", SERVICE)]);
    let output = run(&["analyze", text(folder.path())]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("0 errors"));
}

#[test]
fn a_fault_is_named_and_fails() {
    let folder = folder(&[("sms.yaml", SERVICE), ("rule.yaml", BROKEN)]);
    let output = run(&["analyze", text(folder.path())]);
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output);
    let line = said
        .lines()
        .find(|line| line.contains("weight"))
        .expect("a finding");
    for part in ["rule.yaml:", "error", "VirtualService shop/sms"] {
        assert!(line.contains(part), "{line}");
    }
    let output = run(&["analyze", "--json", text(folder.path())]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["errors"].as_u64().is_some_and(|errors| errors > 0));
    assert!(
        report["findings"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    );
}

#[test]
fn a_folder_that_is_not_there_is_an_error_everywhere() {
    let folder = folder(&[]);
    let missing = folder.path().join("missing");
    let output = run(&["analyze", text(&missing)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("missing"), "{}", stdout(&output));

    let addresses = ["--listen", "127.0.0.1:0", "--status", "127.0.0.1:0"];
    let args = [
        &["control-plane", "--config", text(&missing)][..],
        &addresses,
    ]
    .concat();
    let output = run(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(text(&missing)),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_control_plane_that_is_not_there_is_named_with_a_hint() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let output = run(&["status", "--address", &address]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    for part in [&address, "cannot be reached", "remora control-plane"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn another_server_is_not_taken_for_a_control_plane() {
    for (answer, expected) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "not that of a control plane",
        ),
        ("SSH-2.0-x\r\n", "/status"),
        ("", "/status"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepted");
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer.as_bytes());
        });
        let output = run(&["status", "--address", &address]);
        server.join().expect("no panic");
        assert_eq!(output.status.code(), Some(1), "{answer:?}");
        assert!(
            stderr(&output).contains(expected),
            "{answer:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_running_control_plane_tells_its_status_and_ends_when_asked() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = folder(&[("sms.yaml", SERVICE)]);
        let mut running = Running::start(folder.path());
        assert_ne!(running.ads.port(), 0);
        let said = running.status_with("revision 1, 1 service,");
        assert!(said.contains("no proxy is connected"), "{said}");

        std::fs::write(folder.path().join("rule.yaml"), BROKEN).expect("written");
        let said = running.status_with("1 error");
        assert!(said.contains("rule.yaml:"), "{said}");
        assert!(
            said.contains(" 1 service,"),
            "a broken file changes nothing: {said}"
        );

        let url = format!("http://{}/status", running.status);
        let json = run(&["status", "--json", "--address", &url]);
        let page: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!(page["source"]["services"], 1);

        running.signal(signal);
        assert_eq!(running.wait().code(), Some(0), "{signal:?}");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let folder = folder(&[]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("bound").to_string();
    let args = [
        "control-plane",
        "--config",
        text(folder.path()),
        "--listen",
        &address,
    ];
    let output = run(&[&args[..], &["--status", "127.0.0.1:0"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}
