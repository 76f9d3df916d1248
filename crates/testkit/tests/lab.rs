// SPDX-License-Identifier: Apache-2.0
//! The lab itself: hosts reach one another, and nothing stays behind, however it ends.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use remora_testkit::lab;
use remora_testkit::process::{Spec, User};
use remora_testkit::upstream::http::Reply;
use remora_testkit::upstream::{HttpUpstream, ServerFirst, server_first};
use remora_testkit::{client, exec, wait};

fn namespaces_of(name: &str) -> Vec<String> {
    let listed = exec::ip("netns list").expect("ip lists namespaces");
    let prefix = format!("{name}-");
    listed
        .lines()
        .filter(|line| line.starts_with(&prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn hosts_reach_one_another_by_both_families_and_see_nothing_of_the_machine() {
    lab::test(|lab| {
        let (left, right) = (lab.add_host("left", 10)?, lab.add_host("right", 20)?);
        let server = right.enter(|| {
            HttpUpstream::start(
                SocketAddr::from(([0_u16; 8], 80)),
                Reply::status(200, "right"),
            )
        })??;
        for address in right.addresses() {
            let answer = left.enter(|| client::get((address, 80).into(), "right", "/"))??;
            assert_eq!(answer.text(), "right");
        }
        // The same address dialled from the machine's own network leads elsewhere or nowhere.
        let limit = Duration::from_millis(300);
        let _ = client::send(
            (right.v4(), 80).into(),
            &client::Request::get("right", "/"),
            limit,
        );
        assert_eq!(server.recorded().len(), 2);
        Ok(())
    });
}

#[test]
fn a_server_that_speaks_first_greets_and_echoes() {
    lab::test(|lab| {
        let host = lab.add_host("db", 51)?;
        let address = SocketAddr::from(([127, 0, 0, 1], 3306));
        let server = host.enter(|| ServerFirst::start(address, server_first::MYSQL_GREETING))??;
        let mut greeting = vec![0; server_first::MYSQL_GREETING.len()];
        host.enter(|| {
            use std::io::Read as _;
            std::net::TcpStream::connect(address)?.read_exact(&mut greeting)
        })??;
        assert_eq!(greeting, server_first::MYSQL_GREETING);
        assert_eq!(server.accepted(), 1);
        Ok(())
    });
}

#[test]
fn processes_run_as_their_user_with_their_own_resolver_and_keep_their_log() {
    lab::test(|lab| {
        let host = lab.add_host("app", 10)?;
        host.set_etc("resolv.conf", "nameserver 192.0.2.53\n")?;
        let script = "id -u; id -g; cat /etc/resolv.conf; exec sleep 600";
        let spec = Spec::new("sleeper", "sh")
            .args(["-c", script])
            .user(User::PROXY);
        let mut process = host.spawn(&spec)?;
        process.wait_until("it has spoken", || {
            let log = std::fs::read_to_string(lab.logs().join("app-sleeper.log"))?;
            (log == "1337\n1337\nnameserver 192.0.2.53\n")
                .then_some(())
                .context(log)
        })?;
        assert!(process.is_running());
        process.kill()?;
        assert!(!process.is_running());

        let mut failing =
            host.spawn(&Spec::new("failing", "sh").args(["-c", "echo alas; exit 3"]))?;
        let error = failing.wait_until::<()>("the impossible", || anyhow::bail!("no"));
        let error = format!("{:#}", error.expect_err("it has ended"));
        assert!(
            error.contains("ended before the impossible") && error.contains("alas"),
            "{error}"
        );
        Ok(())
    });
}

#[test]
fn nothing_is_left_after_the_end() {
    let mut name = String::new();
    lab::test(|lab| {
        let host = lab.add_host("app", 10)?;
        host.set_etc("resolv.conf", "")?;
        lab.name().clone_into(&mut name);
        assert_eq!(namespaces_of(&name).len(), 2);
        Ok(())
    });
    if !name.is_empty() {
        assert_eq!(namespaces_of(&name), Vec::<String>::new());
        assert!(!std::env::temp_dir().join("remora-lab").join(&name).exists());
        assert!(
            !std::path::Path::new("/etc/netns")
                .join(format!("{name}-app"))
                .exists()
        );
    }
}

#[test]
fn nothing_is_left_after_the_owner_was_killed() {
    lab::test(|_| {
        let mut owner = Command::new(std::env::current_exe()?)
            .args([
                "--exact",
                "owner_that_waits_to_be_killed",
                "--ignored",
                "--nocapture",
            ])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(owner.stdout.take().context("a pipe")?);
        let told = output.lines().map_while(Result::ok).find_map(|line| {
            let (_, told) = line.split_once("lab=")?;
            Some(told.to_owned())
        });
        let told = told.context("the owner tells its lab and process")?;
        let (name, pid) = told.split_once(' ').context("two words")?;
        assert_eq!(namespaces_of(name).len(), 2);
        owner.kill()?;
        assert_eq!(owner.wait()?.signal(), Some(9));
        wait::until_true("the namespaces to go", wait::PATIENCE, || {
            namespaces_of(name).is_empty()
        })?;
        let process = std::path::Path::new("/proc").join(pid);
        let folder = std::env::temp_dir().join("remora-lab").join(name);
        wait::until_true("the folder to go", wait::PATIENCE, || !folder.exists())?;
        wait::until_true("the process to go", wait::PATIENCE, || !process.exists())
    });
}

/// Not a test: what the test above starts and kills.
#[test]
#[ignore = "waits to be killed"]
fn owner_that_waits_to_be_killed() {
    lab::test(|lab| {
        let host = lab.add_host("app", 10)?;
        let process = host.spawn(&Spec::new("sleeper", "sleep").arg("600").user(User::APP))?;
        println!("lab={} {}", lab.name(), process.pid());
        wait::rest(Duration::from_secs(60));
        Ok(())
    });
}
