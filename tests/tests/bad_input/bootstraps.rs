// SPDX-License-Identifier: Apache-2.0
//! Files that are no bootstrap: an exit code, and a message that says what and where.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use remora_testkit::{bins, wait};

#[test]
fn a_bad_bootstrap_is_refused_with_what_and_where() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for (what, text, words) in BAD {
        let file = folder.path().join("bootstrap.yaml");
        std::fs::write(&file, text)?;
        let said = refusal(&file).with_context(|| (*what).to_owned())?;
        for word in *words {
            if !said.contains(word) {
                bail!("{what}: expected `{word}` in: {said}");
            }
        }
        if said.contains("panicked at") {
            bail!("{what}: {said}");
        }
    }
    Ok(())
}

#[test]
fn a_bootstrap_that_is_not_there_is_told_by_its_name() -> anyhow::Result<()> {
    let said = refusal(Path::new("/nowhere/bootstrap.yaml"))?;
    assert!(said.contains("/nowhere/bootstrap.yaml"), "{said}");
    Ok(())
}

#[test]
fn a_bootstrap_without_end_or_bottom_is_refused_in_time() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let bombs = [
        (
            "ten megabytes of a list",
            "x: [".to_owned() + &"1,".repeat(5 << 20),
        ),
        ("nested too deep", "[".repeat(200_000)),
        ("aliases that multiply", {
            let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
            for n in 1..12 {
                let list = vec![format!("*a{}", n - 1); 9].join(",");
                text.push_str(&format!("a{n}: &a{n} [{list}]\n"));
            }
            text
        }),
    ];
    for (what, text) in bombs {
        let file = folder.path().join("bootstrap.yaml");
        std::fs::write(&file, text)?;
        let said = refusal(&file).with_context(|| what.to_owned())?;
        assert!(
            !said.contains("panicked at") && said.len() < 10_000,
            "{what}: {said}"
        );
    }
    Ok(())
}

/// Runs the proxy with a file that it must refuse, and returns what it says.
fn refusal(bootstrap: &Path) -> anyhow::Result<String> {
    let state = tempfile::tempdir()?;
    let mut child = Command::new(bins::find("remora-proxy")?)
        .args([
            "run",
            "--no-dns",
            "--prometheus-port",
            "0",
            "--readiness-port",
            "0",
        ])
        .arg("--state-dir")
        .arg(state.path())
        .arg("--bootstrap")
        .arg(bootstrap)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stderr = child.stderr.take().context("it is piped")?;
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut said).map(|_| said)
    });
    let ended = wait::until("the proxy to refuse", Duration::from_secs(15), || {
        child.try_wait()?.context("it runs")
    });
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let said = said.join().expect("no panic")?;
    match ended {
        Ok(status) if !status.success() && status.code().is_some() => Ok(said),
        Ok(status) => bail!("it ended with {status}: {said}"),
        Err(error) => bail!("{error:#}: {said}"),
    }
}

/// What is wrong, the file, and words that the refusal must have.
const BAD: &[(&str, &str, &[&str])] = &[
    ("no YAML", "node: [unclosed", &["bootstrap.yaml"]),
    ("no mapping", "- a\n- b\n", &["bootstrap.yaml"]),
    ("binary", "\0\u{1}\u{2}", &["bootstrap.yaml"]),
    ("an unknown field", "node: {id: a}\nno_such_field: 1\n", &["no_such_field"]),
    ("a field of another kind", "node: {id: [a]}\n", &["id"]),
    (
        "an address that is none",
        "admin: {address: {socket_address: {address: not-an-ip, port_value: 1}}}\n",
        &["admin", "not-an-ip"],
    ),
    (
        "a port that is none",
        "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 70000}}}\n",
        &["70000"],
    ),
    (
        "a cluster without a name",
        "static_resources: {clusters: [{type: STATIC}]}\n",
        &["clusters[0]", "name"],
    ),
    (
        "a cluster of a kind that is not honoured",
        "static_resources: {clusters: [{name: a, lb_policy: MAGLEV}]}\n",
        &["clusters[0]", "lb_policy"],
    ),
    (
        "a filter that is not honoured",
        "
static_resources:
  listeners:
  - name: edge
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: auth
        typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: a}
",
        &["listeners[0]", "RBAC", "filters[0]"],
    ),
    (
        "a regex that is none, and weights of zero, both told",
        "
static_resources:
  listeners:
  - name: edge
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          route_config:
            name: r
            virtual_hosts:
            - name: a
              domains: ['*']
              routes:
              - {match: {safe_regex: {regex: '('}}, direct_response: {status: 200}}
              - {match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: x, weight: 0}]}}}
          http_filters: [{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
",
        &["routes[0]", "regex", "routes[1]", "weight"],
    ),
    (
        "two listeners of one address",
        "
static_resources:
  listeners:
  - &one
    name: one
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains: [{filters: [{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}]}]
  - <<: *one
    name: two
",
        &["listeners[1].address", "127.0.0.1:10000", "`one`"],
    ),
    (
        "a control plane whose cluster is not there",
        "
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: missing}}]}
",
        &["missing"],
    ),
];
