// SPDX-License-Identifier: Apache-2.0
//! Single connections: what is recognised, where it goes, and what the log says.

use super::*;

/// A chain for HTTP that nothing here takes, so that the first bytes are looked at.
fn http_only() -> ChainMatch {
    ChainMatch {
        application_protocols: vec!["http/1.1".into(), "h2c".into()],
        ..ChainMatch::default()
    }
}

#[test]
fn a_server_that_speaks_first_is_relayed_without_waiting() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (address, accepted) = server("J\0\0\0\x0a8.0.36 hello").await;
        proxy.cluster("mysql", Some(address), |_| {});
        let (dead, _) = server("").await;
        proxy.cluster("http", Some(dead), |_| {});
        let chains = vec![
            proxy.chain("http", http_only()),
            proxy.chain("mysql", ChainMatch::default()),
        ];
        let listener = Arc::new(proxy.listener("l", chains));
        proxy.publish([Arc::clone(&listener)]).await;
        // Unknown at first, then known as server-first.
        for round in 1..=3 {
            let start = clock::now();
            let mut client = connect(listener.address).await;
            reads(&mut client, b"J\0\0\0\x0a8.0.36 hello").await;
            assert!(
                clock::now() - start < Duration::from_secs(1),
                "the bound is 10 s"
            );
            client.write_all(b"query").await.expect("write");
            reads(&mut client, b"query").await;
            assert_eq!(accepted.get(), round, "one connection each");
        }
        let expected = "- 5 22 mysql 1 -";
        assert_eq!(proxy.log(3).await, [expected; 3]);
    });
}

#[test]
fn a_client_that_speaks_first_is_served_by_the_connection_dialled_for_it() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (address, accepted) = server("").await;
        proxy.cluster("a", Some(address), |_| {});
        let chains = vec![
            proxy.chain("a", ChainMatch::default()),
            proxy.chain("b", http_only()),
        ];
        let listener = Arc::new(proxy.listener("l", chains));
        proxy.publish([Arc::clone(&listener)]).await;
        for (bytes, delay) in [
            (&b"*1\r\n$4\r\nPING\r\n"[..], 0),
            (b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x01", 20),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", 0),
        ] {
            let before = accepted.get();
            let mut client = connect(listener.address).await;
            tokio::time::sleep(Duration::from_millis(delay)).await;
            client.write_all(bytes).await.expect("write");
            reads(&mut client, bytes).await;
            assert_eq!(accepted.get(), before + 1);
        }
    });
}

#[test]
fn tls_is_passed_through_by_its_server_name() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (address, _) = server("").await;
        proxy.cluster("named", Some(address), |_| {});
        proxy.cluster("other", Some(address), |_| {});
        let named = ChainMatch {
            server_names: vec![remora_ir::listener::ServerName::Exact("a.test".into())],
            ..ChainMatch::default()
        };
        let chains = vec![
            proxy.chain("other", ChainMatch::default()),
            proxy.chain("named", named),
        ];
        let listener = Arc::new(proxy.listener("l", chains));
        proxy.publish([Arc::clone(&listener)]).await;
        for (name, cluster) in [("a.test", "named"), ("b.test", "other")] {
            let hello = sniff::tests::hello_for(name);
            let mut client = connect(listener.address).await;
            client.write_all(&hello).await.expect("write");
            reads(&mut client, &hello).await;
            drop(client);
            let seen = proxy.log(if cluster == "named" { 1 } else { 2 }).await;
            let length = hello.len();
            assert_eq!(
                seen.last(),
                Some(&format!("- {length} {length} {cluster} 1 -"))
            );
        }
    });
}

#[test]
fn failures_carry_envoys_flags() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (address, _) = server("").await;
        proxy.cluster("refused", Some(nobody()), |_| {});
        proxy.cluster("empty", None, |_| {});
        proxy.cluster("full", Some(address), |policy| {
            policy.limits.default.connections = Limit::AtMost(1);
        });
        let mut lines = 0;
        for (cluster, expected) in [
            ("refused", "UF,URX 0 0 refused 1 -"),
            ("empty", "UH 0 0 empty 0 -"),
            ("unknown", "NC 0 0 - 0 -"),
        ] {
            let chain = proxy.chain(cluster, ChainMatch::default());
            let listener = Arc::new(proxy.listener(cluster, vec![chain]));
            proxy.publish([Arc::clone(&listener)]).await;
            is_closed(&mut connect(listener.address).await).await;
            lines += 1;
            assert_eq!(
                proxy.log(lines).await.last().map(String::as_str),
                Some(expected)
            );
            let no_route = proxy.stat(&format!("tcp.{cluster}.downstream_cx_no_route"));
            assert_eq!(no_route, if cluster == "unknown" { "1" } else { "0" });
        }
        let chain = proxy.chain("full", ChainMatch::default());
        let listener = Arc::new(proxy.listener("full", vec![chain]));
        proxy.publish([Arc::clone(&listener)]).await;
        let mut first = connect(listener.address).await;
        first.write_all(b"a").await.expect("write");
        reads(&mut first, b"a").await;
        is_closed(&mut connect(listener.address).await).await;
        let seen = proxy.log(lines + 1).await;
        assert_eq!(seen.last().map(String::as_str), Some("UO 0 0 full 0 -"));
        assert_eq!(proxy.stat("tcp.full.downstream_cx_total"), "2");
    });
}

#[test]
fn a_connection_that_no_chain_takes_is_closed_and_logged() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let elsewhere = ChainMatch {
            destination_port: Some(1),
            ..ChainMatch::default()
        };
        let chain = proxy.chain("a", elsewhere);
        let listener = Arc::new(proxy.listener("l", vec![chain]));
        proxy.publish([Arc::clone(&listener)]).await;
        is_closed(&mut connect(listener.address).await).await;
        assert_eq!(proxy.log(1).await, ["NR 0 0 - 0 filter_chain_not_found"]);
    });
}

#[test]
fn a_redirected_listener_that_is_dialled_directly_refuses_and_never_loops() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        proxy.cluster("origin", None, |policy| {
            policy.discovery = Discovery::OriginalDst { port: None };
            policy.balancing.policy = Choice::ClusterProvided;
        });
        for interception in [Interception::Redirect, Interception::Transparent] {
            let chain = proxy.chain("origin", ChainMatch::default());
            let listener = Listener {
                interception,
                ..proxy.listener("l", vec![chain])
            };
            let listener = Arc::new(listener);
            proxy.publish([Arc::clone(&listener)]).await;
            is_closed(&mut connect(listener.address).await).await;
            let stem = format!(
                "listener.{}",
                listener.address.to_string().replace(':', "_")
            );
            let refused = ["downstream_cx_no_original_dst", "downstream_cx_loop"]
                .map(|name| proxy.stat(&format!("{stem}.{name}")));
            assert!(
                refused == ["0", "1"] || refused == ["1", "0"],
                "{refused:?}"
            );
            assert_eq!(proxy.stat(&format!("{stem}.downstream_cx_total")), "0");
        }
        let seen = proxy.log(2).await;
        assert!(
            seen.iter()
                .all(|line| line.starts_with("NR 0 0 - 0 original_destination_"))
        );
        assert_eq!(proxy.stat("cluster.origin.upstream_cx_total"), "");
    });
}

#[test]
fn a_destination_has_its_own_listener_before_any_wildcard() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (special, _) = server("special").await;
        let (general, _) = server("general").await;
        proxy.cluster("special", Some(special), |_| {});
        proxy.cluster("general", Some(general), |_| {});
        let port = proxy.bind("0.0.0.0:0").port();
        let any = SocketAddr::from(([0, 0, 0, 0], port));
        let general = proxy.chain("general", ChainMatch::default());
        let special = proxy.chain("special", ChainMatch::default());
        let own = SocketAddr::from(([127, 0, 0, 1], port));
        let virtual_listener = Listener {
            hand_off: true,
            ..proxy.listener_at("v", any, vec![general])
        };
        let own_listener = Listener {
            bind: Bind::Nothing,
            ..proxy.listener_at("own", own, vec![special])
        };
        proxy
            .publish([Arc::new(virtual_listener), Arc::new(own_listener)])
            .await;
        reads(&mut connect(own).await, b"special").await;
        let other = SocketAddr::from(([127, 0, 0, 2], port));
        reads(&mut connect(other).await, b"general").await;
        assert_eq!(
            proxy.stat(&format!("listener.127.0.0.1_{port}.downstream_cx_total")),
            "1"
        );
    });
}
