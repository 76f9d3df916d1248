// SPDX-License-Identifier: Apache-2.0
//! The shop without a mesh: its programs work by themselves, so that what fails in the mesh is the
//! mesh's.

use std::io::Read as _;
use std::net::TcpStream;

use anyhow::Context as _;
use remora_testkit::client::Request;
use remora_testkit::lab;
use remora_testkit::mesh::{Mesh, MeshKind, MeshOptions, topology};

#[test]
fn the_page_reaches_every_service_and_instances_misbehave_on_command() {
    lab::test(|lab| {
        let options = MeshOptions {
            kind: MeshKind::Plain,
            ..MeshOptions::default()
        };
        let mut mesh = Mesh::up(lab, &options)?;

        let page = mesh.page("")?;
        assert!(page.is_ok(), "{page:?}");
        let instances: Vec<_> = page
            .calls
            .iter()
            .map(|call| call.instance.as_deref())
            .collect();
        assert_eq!(
            instances,
            ["sms-v1-a", "message", "search", "front"].map(Some)
        );
        let front = page.call("front").context("the page asks front")?;
        assert_eq!(front.raw["found"], serde_json::json!(["search found fish"]));
        assert_eq!(front.raw["grpc_status"], "OK");

        mesh.reset_counters()?;
        mesh.admin("sms-v1-a", "/admin/fail?status=503")?;
        let page = mesh.page("only=sms,message")?;
        assert_eq!(page.status, 502);
        assert_eq!(page.call("sms").context("sms")?.status, 503);
        assert_eq!(page.call("message").context("message")?.status, 200);
        mesh.admin("sms-v1-a", "/admin/abort?on=1")?;
        let call = mesh.page("only=sms")?.calls.remove(0);
        assert!(call.status == 0 && call.error.is_some(), "{call:?}");
        mesh.admin("sms-v1-a", "/admin/heal")?;
        assert!(mesh.page("only=sms")?.is_ok());
        let counters = mesh.counters("sms-v1-a")?;
        assert_eq!(
            counters["by_status"],
            serde_json::json!({"200": 1, "503": 1})
        );
        assert_eq!(
            (&counters["requests"], &counters["unanswered"]),
            (&3.into(), &1.into())
        );

        mesh.admin("search", "/admin/fail?status=503")?;
        let page = mesh.page("only=front")?;
        assert_eq!(
            page.call("front").context("front")?.raw["grpc_status"],
            "Unavailable"
        );

        mesh.kill_programs("sms-v1-a")?;
        assert_eq!(mesh.page("only=sms")?.calls.remove(0).status, 0);
        mesh.start_programs("sms-v1-a")?;
        assert!(mesh.page("only=sms")?.is_ok());
        Ok(())
    });
}

#[test]
fn headers_go_on_and_mysql_speaks_first() {
    lab::test(|lab| {
        let options = MeshOptions {
            kind: MeshKind::Plain,
            ..MeshOptions::default()
        };
        let mesh = Mesh::up(lab, &options)?;
        let php = mesh.host(topology::PHP)?.clone();
        let request = Request::get("php", "/call.php?url=http://sms/echo&header=user:%20rui")
            .with_body("POST", "hello");
        let address = ([127, 0, 0, 1], 80).into();
        let limit = std::time::Duration::from_secs(10);
        let answer = php.enter(|| remora_testkit::client::send(address, &request, limit))??;
        let told: serde_json::Value = serde_json::from_slice(&answer.body)?;
        assert_eq!(told["status"], 200, "{told}");
        let echo: serde_json::Value = serde_json::from_str(told["body"].as_str().context("body")?)?;
        assert_eq!(echo["headers"]["User"], serde_json::json!(["rui"]));
        assert_eq!(
            (&echo["method"], &echo["body"]),
            (&"POST".into(), &"hello".into())
        );

        let mysql = (mesh.host(topology::MYSQL)?.v4(), topology::MYSQL_PORT);
        let mut greeting = [0; 16];
        php.enter(|| TcpStream::connect(mysql)?.read_exact(&mut greeting))??;
        assert_eq!(&greeting[4..11], b"\x0a8.0.36");
        Ok(())
    });
}
