// SPDX-License-Identifier: Apache-2.0
//! `remora-proxy redirect` in real namespaces with real rules: both backends, both families.
//!
//! The host `app` carries a workload (port 8080, user `nobody`) and what stands for its proxy
//! (ports 15001, 15006, 15021 and 15053, user 1337); `peer` is the rest of the world. Every listener
//! tells who it is and what address the client really dialled.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use remora_testkit::lab::{self, Host, Lab};
use remora_testkit::process::{Process, Spec, User};
use remora_testkit::{bins, wait};

const PROBE: &str = env!("CARGO_BIN_EXE_remora-probe");
const BACKENDS: [&str; 2] = ["nft", "legacy"];

struct Scene {
    app: Host,
    peer: Host,
    _processes: Vec<Process>,
}

impl Scene {
    fn set_up(lab: &Lab) -> anyhow::Result<Self> {
        let app = lab.add_host("app", 10)?;
        let peer = lab.add_host("peer", 20)?;
        let processes = vec![
            serve(&app, "proxy", User::PROXY, &[15001, 15006, 15021, 15053])?,
            serve(&app, "workload", User::APP, &[8080])?,
            serve(&peer, "world", User::APP, &[80, 53, 3306])?,
        ];
        Ok(Self {
            app,
            peer,
            _processes: processes,
        })
    }

    /// Applies with these flags, as the init container would.
    fn apply(&self, flags: &str) -> anyhow::Result<String> {
        self.app
            .run_words(&format!("{} redirect apply {flags}", proxy()?))
    }

    fn clean(&self) -> anyhow::Result<String> {
        self.app.run_words(&format!("{} redirect clean", proxy()?))
    }

    /// What a user of `app` meets at an address of `peer`.
    fn out(&self, user: User, protocol: &str, port: u16) -> anyhow::Result<[String; 2]> {
        reach(&self.app, user, protocol, &self.peer, port)
    }

    /// What `peer` meets at an address of `app`.
    fn inbound(&self, port: u16) -> anyhow::Result<[String; 2]> {
        reach(&self.peer, User::APP, "dial", &self.app, port)
    }

    /// All rules of both backends and families, without counters and comments.
    fn tables(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        for backend in BACKENDS {
            text.push_str(&rules_of(&self.app, backend)?);
        }
        Ok(text)
    }
}

fn proxy() -> anyhow::Result<String> {
    Ok(bins::find("remora-proxy")?.display().to_string())
}

fn rules_of(host: &Host, backend: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for family in ["iptables", "ip6tables"] {
        let saved = host.run_words(&format!("{family}-{backend}-save"))?;
        // Empty built-in chains come into being by being looked at: only rules and own chains count.
        let lines = saved
            .lines()
            .filter(|line| !line.starts_with(['#', '*']) && *line != "COMMIT");
        for line in lines.filter(|line| !line.starts_with(':') || line.contains(" - ")) {
            text.push_str(&format!("{family}-{backend} {line}\n"));
        }
    }
    Ok(text)
}

fn serve(host: &Host, name: &str, user: User, ports: &[u16]) -> anyhow::Result<Process> {
    let mut spec = Spec::new(name, PROBE).user(user).arg("serve");
    for port in ports {
        // An answer over UDP leaves from the address that the question came to only if that is what
        // the socket is bound to.
        let [v4, v6] = if *port == 15053 {
            ["127.0.0.1", "::1"]
        } else {
            ["0.0.0.0", "::"]
        };
        spec = spec
            .arg(format!("{v4}:{port}"))
            .arg(format!("[{v6}]:{port}"));
    }
    let mut process = host.spawn(&spec)?;
    process.wait_until("its ports accept", || {
        host.enter(|| {
            ports.iter().try_for_each(|port| {
                wait::until_accepting(SocketAddr::from(([127, 0, 0, 1], *port)), Duration::ZERO)
            })
        })?
    })?;
    Ok(process)
}

/// Runs the probe from a host against both addresses of another.
fn reach(
    from: &Host,
    user: User,
    protocol: &str,
    to: &Host,
    port: u16,
) -> anyhow::Result<[String; 2]> {
    let [v4, v6] = to.addresses();
    Ok([
        probe(from, user, protocol, v4, port)?,
        probe(from, user, protocol, v6, port)?,
    ])
}

fn probe(from: &Host, user: User, protocol: &str, to: IpAddr, port: u16) -> anyhow::Result<String> {
    let address = SocketAddr::new(to, port).to_string();
    let spec = Spec::new("probe", PROBE)
        .user(user)
        .args([protocol, &address]);
    Ok(from.run(&spec)?.trim().to_owned())
}

fn probe_from(host: &Host, protocol: &str, to: &str, source: &str) -> anyhow::Result<String> {
    let spec = Spec::new("probe", PROBE)
        .user(User::PROXY)
        .args([protocol, to, source]);
    Ok(host.run(&spec)?.trim().to_owned())
}

#[track_caller]
fn assert_both_begin(found: &[String; 2], expected: [&str; 2]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(expected),
            "found `{found}`, expected `{expected}...`"
        );
    }
}

#[track_caller]
fn assert_direct(found: &[String; 2], port: u16) {
    let expected = format!("dialled=direct port={port} ");
    assert_both_begin(found, [&expected, &expected]);
}

#[test]
fn connections_meet_the_proxy_in_both_directions_and_the_proxys_own_do_not() {
    for backend in BACKENDS {
        lab::test(|lab| {
            let scene = Scene::set_up(lab)?;
            assert_direct(&scene.out(User::APP, "dial", 80)?, 80);
            scene.apply(&format!("--backend {backend}"))?;

            let outbound = scene.out(User::APP, "dial", 80)?;
            assert_both_begin(
                &outbound,
                [
                    "dialled=10.77.0.20:80 port=15001 ",
                    "dialled=[fd77::20]:80 port=15001 ",
                ],
            );
            let inbound = scene.inbound(8080)?;
            assert_both_begin(
                &inbound,
                [
                    "dialled=10.77.0.10:8080 port=15006 ",
                    "dialled=[fd77::10]:8080 port=15006 ",
                ],
            );
            assert_direct(&scene.out(User::PROXY, "dial", 80)?, 80);
            assert_direct(&scene.inbound(15021)?, 15021);

            scene.clean()?;
            assert_direct(&scene.out(User::APP, "dial", 80)?, 80);
            assert_direct(&scene.inbound(8080)?, 8080);

            Ok(())
        });
    }
}

#[test]
fn a_workload_that_calls_itself_is_served_and_localhost_is_left_alone() {
    for backend in BACKENDS {
        lab::test(|lab| {
            let scene = Scene::set_up(lab)?;
            let app = &scene.app;
            scene.apply(&format!("--backend {backend}"))?;
            // The proxy has picked its own workload as the endpoint.
            let own = reach(app, User::PROXY, "dial", app, 8080)?;
            assert_both_begin(
                &own,
                [
                    "dialled=10.77.0.10:8080 port=15006 ",
                    "dialled=[fd77::10]:8080 port=15006 ",
                ],
            );
            // The inbound side then hands it on, from the address that marks it.
            let handed_on = [
                probe_from(app, "dial", "10.77.0.10:8080", "127.0.0.6:0")?,
                probe_from(app, "dial", "[fd77::10]:8080", "[::6]:0")?,
            ];
            assert_direct(&handed_on, 8080);
            assert!(handed_on[0].ends_with("from=127.0.0.6"), "{handed_on:?}");
            assert!(handed_on[1].ends_with("from=::6"), "{handed_on:?}");
            // The workload to itself, without the mesh.
            assert_direct(&reach(app, User::APP, "dial", app, 8080)?, 8080);
            for user in [User::APP, User::PROXY] {
                let localhost = [
                    probe(app, user, "dial", IpAddr::from([127, 0, 0, 1]), 8080)?,
                    probe(app, user, "dial", "::1".parse()?, 8080)?,
                ];
                assert_direct(&localhost, 8080);
            }
            scene.clean()?;
            let addresses = app.run_words("ip -6 addr show dev lo")?;
            assert!(!addresses.contains("::6/128"), "{addresses}");

            Ok(())
        });
    }
}

#[test]
fn dns_questions_to_any_resolver_meet_the_proxy_and_its_own_do_not() {
    for backend in BACKENDS {
        lab::test(|lab| {
            let scene = Scene::set_up(lab)?;
            let app = &scene.app;
            scene.apply(&format!("--backend {backend}"))?;
            let udp = scene.out(User::APP, "ask", 53)?;
            assert_both_begin(&udp, ["port=15053 question"; 2]);
            let tcp = scene.out(User::APP, "dial", 53)?;
            assert_both_begin(
                &tcp,
                [
                    "dialled=10.77.0.20:53 port=15053 ",
                    "dialled=[fd77::20]:53 port=15053 ",
                ],
            );
            let local = IpAddr::from([127, 0, 0, 53]);
            assert_eq!(
                probe(app, User::APP, "ask", local, 53)?,
                "port=15053 question"
            );
            let local_tcp = probe(app, User::APP, "dial", local, 53)?;
            assert!(
                local_tcp.starts_with("dialled=127.0.0.53:53 port=15053"),
                "{local_tcp}"
            );

            assert_both_begin(&scene.out(User::PROXY, "ask", 53)?, ["port=53 question"; 2]);
            assert_direct(&scene.out(User::PROXY, "dial", 53)?, 53);
            // Other UDP is nobody's business.
            assert_both_begin(&scene.out(User::APP, "ask", 80)?, ["port=80 question"; 2]);

            Ok(())
        });
    }
}

#[test]
fn a_source_port_that_a_workload_used_for_dns_still_serves_the_proxy() {
    for backend in BACKENDS {
        lab::test(|lab| {
            let scene = Scene::set_up(lab)?;
            scene.apply(&format!("--backend {backend}"))?;
            for (server, source) in [
                ("10.77.0.20:53", "10.77.0.10:40000"),
                ("[fd77::20]:53", "[fd77::10]:40000"),
            ] {
                let spec = Spec::new("probe", PROBE)
                    .user(User::APP)
                    .args(["ask", server, source]);
                assert_eq!(scene.app.run(&spec)?.trim(), "port=15053 question");
                assert_eq!(
                    probe_from(&scene.app, "ask", server, source)?,
                    "port=53 question"
                );
            }

            Ok(())
        });
    }
}

#[test]
fn exclusions_and_inclusions_are_honoured_on_the_wire() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let redirected = [
            "dialled=10.77.0.20:80 port=15001 ",
            "dialled=[fd77::20]:80 port=15001 ",
        ];
        let cases: [(&str, bool); 9] = [
            ("--exclude-outbound-ports 80", false),
            ("--exclude-outbound-cidrs 10.77.0.0/24,fd77::/64", false),
            ("--exclude-outbound-users nobody", false),
            ("--exclude-outbound-groups 65534", false),
            ("--exclude-interfaces eth+", false),
            ("--include-outbound-cidrs 10.99.0.0/16", false),
            (
                "--include-outbound-cidrs 10.99.0.0/16 --include-outbound-ports 80",
                true,
            ),
            ("--include-outbound-users 65534", true),
            ("--include-outbound-groups 0", false),
        ];
        for (flags, is_redirected) in cases {
            scene.apply(flags)?;
            let found = scene.out(User::APP, "dial", 80)?;
            if is_redirected {
                assert_both_begin(&found, redirected);
            } else {
                assert_both_begin(&found, ["dialled=direct port=80 "; 2]);
            }
        }
        scene.apply("--include-inbound-ports 9999")?;
        assert_direct(&scene.inbound(8080)?, 8080);
        scene.apply("--exclude-inbound-ports 8080")?;
        assert_direct(&scene.inbound(8080)?, 8080);
        // A self-call follows the same rules as a call from outside.
        assert_direct(
            &reach(&scene.app, User::PROXY, "dial", &scene.app, 8080)?,
            8080,
        );
        scene.apply("--no-ipv6 --no-dns")?;
        assert_both_begin(
            &scene.out(User::APP, "dial", 80)?,
            [redirected[0], "dialled=direct"],
        );
        assert_both_begin(&scene.out(User::APP, "ask", 53)?, ["port=53 question"; 2]);
        Ok(())
    });
}

#[test]
fn applying_twice_is_once_other_options_replace_and_clean_leaves_the_rest() {
    for backend in BACKENDS {
        lab::test(|lab| {
            let scene = Scene::set_up(lab)?;
            for words in [
                "iptables-BACKEND -t nat -N THEIRS",
                "iptables-BACKEND -t nat -A THEIRS -m comment --comment -jREMORA_OUTPUT -j RETURN",
                "iptables-BACKEND -t nat -A OUTPUT -d 192.0.2.1 -j THEIRS",
                "ip6tables-BACKEND -t nat -A PREROUTING -p tcp --dport 99 -j ACCEPT",
                "iptables-BACKEND -A INPUT -p tcp --dport 99 -j DROP",
            ] {
                scene.app.run_words(&words.replace("BACKEND", backend))?;
            }
            let before = scene.tables()?;

            scene.apply(&format!("--backend {backend}"))?;
            let once = scene.tables()?;
            assert!(once.contains("REMORA_OUTPUT"), "{once}");
            for line in before.lines() {
                assert!(once.contains(line), "`{line}` is gone:\n{once}");
            }
            scene.apply(&format!("--backend {backend}"))?;
            assert_eq!(scene.tables()?, once, "a second apply changed something");

            scene.apply(&format!("--backend {backend} --no-dns -o 25"))?;
            let other = scene.tables()?;
            assert!(
                !other.contains("15053"),
                "the first options are still there:\n{other}"
            );
            scene.apply(&format!("--backend {backend}"))?;
            assert_eq!(
                scene.tables()?,
                once,
                "the way back does not lead to the same rules"
            );

            scene.clean()?;
            assert_eq!(
                scene.tables()?,
                before,
                "clean left something or took too much"
            );
            scene.clean().context("a second clean has nothing to do")?;

            Ok(())
        });
    }
}

#[test]
fn the_backend_follows_the_machines_rules_and_ours_never_stay_in_two() {
    lab::test(|lab| {
        let scene = Scene::set_up(lab)?;
        let holds = |backend| rules_of(&scene.app, backend).map(|rules| rules.contains("REMORA"));
        scene.apply("")?;
        assert!(
            holds("nft")? && !holds("legacy")?,
            "nft is the choice where nothing speaks against it"
        );
        scene.apply("--backend legacy")?;
        assert!(
            !holds("nft")? && holds("legacy")?,
            "a change of backend must move the rules"
        );
        scene.clean()?;
        assert!(!holds("nft")? && !holds("legacy")?);
        scene
            .app
            .run_words("iptables-legacy -t nat -A OUTPUT -d 192.0.2.1 -j RETURN")?;
        scene.apply("")?;
        assert!(
            !holds("nft")? && holds("legacy")?,
            "the machine's rules are in legacy"
        );
        let found = scene.out(User::APP, "dial", 80)?;
        assert_both_begin(
            &found,
            [
                "dialled=10.77.0.20:80 port=15001 ",
                "dialled=[fd77::20]:80 port",
            ],
        );
        Ok(())
    });
}

#[test]
fn connections_that_stood_before_the_rules_go_on_untouched() {
    for backend in BACKENDS {
        lab::test(|lab| {
            let scene = Scene::set_up(lab)?;
            let signal = scene.app.lab().folder().join("applied");
            let hold = |host: &Host, to: String| {
                let spec = Spec::new("hold", PROBE).args([
                    "hold".into(),
                    to.into(),
                    signal.clone().into_os_string(),
                ]);
                host.spawn(&spec)
            };
            let mut held = [
                hold(&scene.app, format!("{}:80", scene.peer.v4()))?,
                hold(&scene.peer, format!("[{}]:8080", scene.app.v6()))?,
            ];
            for process in &held {
                let greeted = || process.log().contains("dialled=direct");
                wait::until_true("the greeting", wait::PATIENCE, greeted)?;
            }
            scene.apply(&format!("--backend {backend}"))?;
            std::fs::write(&signal, "")?;
            for process in &mut held {
                let status = process.wait(wait::PATIENCE)?;
                let log = process.log();
                assert!(
                    status.success() && log.contains("still here"),
                    "{backend}: {status}: {log}"
                );
            }

            Ok(())
        });
    }
}

#[test]
fn without_the_capability_apply_names_it_and_print_works() {
    lab::test(|lab| {
        let host = lab.add_host("app", 10)?;
        let program = bins::find("remora-proxy")?;
        let as_nobody = |words: &[&str]| {
            host.run(
                &Spec::new("redirect", &program)
                    .user(User::APP)
                    .arg("redirect")
                    .args(words),
            )
        };
        for command in ["apply", "clean"] {
            let error = format!(
                "{:#}",
                as_nobody(&[command]).expect_err("nobody may not do that")
            );
            assert!(
                error.contains("CAP_NET_ADMIN") && error.contains("NET_RAW"),
                "{error}"
            );
        }
        let printed = as_nobody(&["print"])?;
        assert!(
            printed.contains("-A REMORA_REDIRECT -p tcp -j REDIRECT --to-ports 15001"),
            "{printed}"
        );
        Ok(())
    });
}

#[test]
fn without_the_programs_apply_says_what_to_install() {
    lab::test(|lab| {
        let host = lab.add_host("app", 10)?;
        // An empty folder hides the programs, for this one process alone.
        let script = "mount -t tmpfs none /usr/sbin && exec \"$1\" redirect apply";
        let spec = Spec::new("redirect", "unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(bins::find("remora-proxy")?)
            .env("PATH", "/usr/bin:/bin");
        let error = format!("{:#}", host.run(&spec).expect_err("there is no iptables"));
        assert!(
            error.contains("`iptables` is not installed: run `apt install iptables`"),
            "{error}"
        );
        Ok(())
    });
}

#[test]
fn what_print_shows_is_what_the_kernel_takes() {
    lab::test(|lab| {
        let host = lab.add_host("app", 10)?;
        let printed = host.run_words(&format!("{} redirect print", proxy()?))?;
        let (v4, v6) = printed
            .split_once("# IPv6")
            .context("both families are printed")?;
        for backend in BACKENDS {
            for (family, text) in [("iptables", v4.to_owned()), ("ip6tables", format!("#{v6}"))] {
                let file = lab.folder().join(format!("{family}.rules"));
                std::fs::write(&file, text)?;
                host.run_words(&format!(
                    "{family}-{backend}-restore --noflush {}",
                    file.display()
                ))?;
            }
            assert!(rules_of(&host, backend)?.contains("REMORA_CAPTURE"));
        }
        Ok(())
    });
}
