// SPDX-License-Identifier: Apache-2.0
//! What is said wrongly at the start is refused with the reason, or told where it harms nothing.

use anyhow::ensure;
use remora_testkit::bins;
use remora_testkit::lab;
use remora_testkit::process::{Process, Spec, User};
use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;
use remora_tests::sidecar::Scene;

use super::LIMIT;

/// Runs the proxy to its end and returns what it said.
fn refusal(scene: &Scene, arguments: &[&str]) -> anyhow::Result<String> {
    let spec = Spec::new("refused", bins::find("remora-proxy")?)
        .user(User::PROXY)
        .args(arguments);
    let mut process: Process = scene.app.spawn(&spec)?;
    let status = process.wait(LIMIT)?;
    ensure!(!status.success(), "{arguments:?} is taken");
    // One log serves all of them: what was said last is this one's.
    let log = process.log();
    std::fs::write(process.log_path(), "")?;
    ensure!(!log.contains("panicked"), "{arguments:?}: {log}");
    Ok(log)
}

#[test]
fn flags_that_make_no_sense_are_refused_with_the_reason() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let cases: [(&[&str], &str); 11] = [
            (
                &["run", "--grace", "5x"],
                "expected a number with ms, s, m or h",
            ),
            (&["run", "--workers", "0"], "--workers"),
            (&["run", "--label", "app"], "expected KEY=VALUE"),
            (&["run", "--ip", "10.0.0"], "--ip"),
            (&["run", "--admin-port", "65536"], "--admin-port"),
            (
                &["run", "--until-configured", "maybe"],
                "pass-through, refuse",
            ),
            (&["run", "--no-such-flag"], "--no-such-flag"),
            (&["run", "--log-level", "shouting"], "shouting"),
            (&["run", "--control-plane", "no port"], "no port"),
            (&["run", "--bootstrap", "/nowhere.yaml"], "/nowhere.yaml"),
            (
                &["run", "-c", "x", "--namespace", "y"],
                "cannot be used with",
            ),
        ];
        for (arguments, expected) in cases {
            let said = refusal(&scene, arguments)?;
            assert!(
                said.contains(expected),
                "{arguments:?} gets `{said}`, expected `{expected}`"
            );
        }
        // A port that is taken is named.
        let _taken = scene.serve(&scene.app, "0.0.0.0:15021", Reply::Close)?;
        let said = refusal(&scene, &["run", "--control-plane", "10.77.0.2:15010"])?;
        assert!(
            said.contains("readiness port") && said.contains("15021"),
            "{said}"
        );
        Ok(())
    });
}

#[test]
fn bootstraps_with_faults_are_refused_with_file_and_field() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let path = lab.folder().join("bootstrap.yaml");
        let file = path.to_string_lossy().into_owned();
        let port = "address: {socket_address: {address: 127.0.0.1, port_value: PORT}}";
        let cases: [(String, &str); 5] = [
            ("node: [".to_owned(), "line"),
            (
                "node: {id: a}\nno_such_field: 1".to_owned(),
                "no_such_field",
            ),
            (
                format!(
                    "static_resources: {{listeners: [{{name: l, {}}}]}}",
                    port.replace("PORT", "x")
                ),
                "static_resources.listeners[0].address.socket_address.port_value",
            ),
            (
                "static_resources: {clusters: [{name: c, type: STATIC, lb_policy: NO_SUCH}]}"
                    .to_owned(),
                "static_resources.clusters[0].lb_policy",
            ),
            (
                "dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, \
                 grpc_services: [{envoy_grpc: {cluster_name: missing}}]}}"
                    .to_owned(),
                "missing",
            ),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, &text)?;
            let said = refusal(&scene, &["run", "--bootstrap", &file])?;
            assert!(said.contains(&file), "which file? {said}");
            assert!(
                said.contains(expected),
                "{text}\ngets `{said}`, expected `{expected}`"
            );
        }
        Ok(())
    });
}

#[test]
fn a_state_folder_that_cannot_be_written_is_told_and_nothing_else() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let _control_plane = scene.start_control_plane(&[])?;
        // clap takes the last of a flag that is given twice only if told so; so all is said anew.
        let control_plane = format!("{}:15010", scene.cp.v4());
        let spec = Spec::new("proxy", bins::find("remora-proxy")?)
            .user(User::PROXY)
            .args(["run", "--control-plane", &control_plane])
            .args(["--name", "app", "--namespace", "shop", "--ip", "10.77.0.10"])
            .args(["--state-dir", "/proc/nowhere"]);
        let mut proxy = scene.app.spawn(&spec)?;
        scene.until_ready(&mut proxy)?;
        assert!(
            proxy
                .log()
                .contains("the state directory cannot be written to"),
            "{}",
            proxy.log()
        );
        wait::until("the failure to be counted", LIMIT, || {
            ensure!(scene.stat("remora.last_good.failed")? > 0, "not yet");
            Ok(())
        })?;
        Ok(())
    });
}
