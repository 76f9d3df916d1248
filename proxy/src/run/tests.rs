// SPDX-License-Identifier: Apache-2.0
//! What a proxy serves before any control plane has answered.

use clap::Parser as _;

use super::*;
use crate::cli::{self, Cli};
use crate::control::road::tests::whole;

fn args(state: &Path, more: &[&str]) -> RunArgs {
    let state = state.display().to_string();
    let fixed = [
        "remora-proxy",
        "run",
        "--control-plane=127.0.0.1:1",
        "--ip=10.0.0.1",
    ];
    let named = ["--name=a", "--namespace=shop", "--state-dir", &state];
    let any_ports = ["--outbound-port=0", "--inbound-port=0"];
    let all = fixed
        .iter()
        .chain(&named)
        .chain(&any_ports)
        .chain(more)
        .copied();
    match Cli::parse_from(all).command {
        cli::Command::Run(args) => *args,
        cli::Command::Redirect(_) => unreachable!("`run` was asked for"),
    }
}

/// The first configuration of a process with these flags, and what it holds.
fn first(args: &RunArgs) -> (Control, Arc<Shared>, Versions) {
    let settings = Settings::from_flags(&args.node);
    let store = Store::new(&args.state_dir, &settings.node.id);
    let shared = Shared::for_tests();
    let (kept, _) = watch::channel(Arc::from([]));
    let (control, held) = first_configuration(args, &settings, &store, |road, built_in| Parts {
        shared: Arc::clone(&shared),
        road,
        bindings: Bindings::new(Sockets::new(), NonZeroUsize::MIN),
        built_in,
        kept,
    });
    (control, shared, held)
}

fn listeners(control: &Control) -> Vec<String> {
    let live = control.live().current();
    let names = live
        .snapshot
        .listeners
        .iter()
        .map(|one| one.name.to_string());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn save(args: &RunArgs) -> std::path::PathBuf {
    let settings = Settings::from_flags(&args.node);
    let store = Store::new(&args.state_dir, &settings.node.id);
    store.save(&whole().inventory().keepable()).expect("saved");
    store.path().to_owned()
}

#[tokio::test]
async fn the_last_good_configuration_is_served_at_once() {
    let state = tempfile::tempdir().expect("directory");
    let args = args(state.path(), &[]);
    save(&args);
    let (control, shared, held) = first(&args);
    assert!(shared.readiness.is_ready());
    assert_eq!(listeners(&control), ["l"], "and no built-in one");
    assert_eq!(control.live().generation(), 1);
    assert_eq!(
        held,
        whole().inventory().versions(),
        "the control plane is told"
    );
    let live = control.live().current();
    let cluster = live.clusters().next().expect("one");
    assert_eq!(cluster.hosts().hosts().len(), 1);
}

#[tokio::test]
async fn without_or_with_a_damaged_one_traffic_passes_through() {
    let state = tempfile::tempdir().expect("directory");
    let args = args(state.path(), &[]);
    let path = save(&args);
    let whole = std::fs::read(&path).expect("written");
    std::fs::write(&path, &whole[..whole.len() - 1]).expect("cut");
    for _ in 0..2 {
        let (control, shared, held) = first(&args);
        assert!(!shared.readiness.is_ready());
        assert!(listeners(&control).contains(&"virtualOutbound".to_owned()));
        assert!(held.is_empty());
        let _ = std::fs::remove_file(&path);
    }
}

#[tokio::test]
async fn it_can_be_told_to_refuse_until_it_is_configured() {
    let state = tempfile::tempdir().expect("directory");
    let (control, shared, _) = first(&args(state.path(), &["--until-configured=refuse"]));
    assert!(listeners(&control).is_empty());
    assert!(!shared.readiness.is_ready());
}
