// SPDX-License-Identifier: Apache-2.0
//! The demo of Remora: a PHP page calls Go services by their names, through sidecars that are
//! steered live.
//!
//! `run` raises the shop of `examples/php-shop`, plays six steps under traffic, measures each from
//! the traffic itself and takes everything down again; `up` and `down` keep the same shop to play
//! with. What is raised and how it is cleaned up is `remora-testkit`'s.

mod load;
mod play;
mod probe;
mod report;
mod screen;
mod stage;
mod steps;
mod stop;
mod table;
mod tally;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use remora_testkit::lab::Lab;
use remora_testkit::{exec, run};

use crate::report::Checks;
use crate::screen::say;
use crate::stage::Stage;
use crate::stop::{INTERRUPTED, Stop};

/// The demo of Remora
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Plays the scenario, measures every step, leaves nothing behind
    Run {
        /// Shorter phases: fewer samples, the same checks
        #[arg(long)]
        quick: bool,
        /// Only these steps
        #[arg(long, value_name = "NUMBER", value_delimiter = ',',
            value_parser = clap::value_parser!(u8).range(1..=steps::COUNT as i64))]
        steps: Vec<u8>,
    },
    /// Raises the shop to play with
    Up,
    /// Takes it away, with whatever crashed runs left
    Down,
    /// Holds the shop for `up`
    #[command(hide = true)]
    Hold,
}

fn main() -> ExitCode {
    let order = Cli::parse().command;
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "the shop needs root, for network namespaces and redirection: \
             run it as `sudo env PATH=\"$PATH\" make demo` (or `make up`, `make down`)"
        );
        return ExitCode::FAILURE;
    }
    let done = Stop::on_signals().and_then(|stop| {
        let done = match order {
            Order::Run { quick, steps } => play_all(&stop, quick, &steps),
            Order::Up => play::up().map(|()| true),
            Order::Down => play::down().map(|()| true),
            Order::Hold => play::hold(&stop).map(|()| true),
        };
        if stop.is_set() { Ok(false) } else { done }.map(|good| (good, stop.is_set()))
    });
    match done {
        Ok((true, _)) => ExitCode::SUCCESS,
        Ok((false, true)) => {
            eprintln!("interrupted; everything is taken down");
            ExitCode::from(INTERRUPTED)
        }
        Ok((false, false)) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Plays and sums up. Returns whether every step passed.
fn play_all(stop: &Stop, quick: bool, only: &[u8]) -> anyhow::Result<bool> {
    let began = Instant::now();
    say("raising the shop: 9 hosts, 7 proxies, a control plane, nginx, php-fpm, 7 Go programs ...");
    let lab = Lab::start()?;
    let name = lab.name().to_owned();
    let played = play_in(&lab, stop, quick, only);
    let passed = matches!(&played, Ok(all) if all.iter().all(Checks::pass));
    // Logs are for failures, not for those who changed their mind.
    if !passed && !stop.is_set() {
        lab.keep();
    }
    drop(lab);
    play::forget_empty_folders();
    let all = played?;

    say(&format!(
        "\nsummary, {:.0} s in all\n",
        began.elapsed().as_secs_f64()
    ));
    for checks in &all {
        say(&checks.lines());
    }
    let left = leftovers(&name)?;
    let is_clean = left.is_empty();
    say(&match left.as_slice() {
        [] => "nothing is left behind: no namespace, no process".to_owned(),
        left => format!("FAILED: left behind: {}", left.join(", ")),
    });
    let failed = all.iter().filter(|checks| !checks.pass()).count();
    say(&match failed {
        0 => format!("all {} steps passed", all.len()),
        failed => format!("{failed} of {} steps FAILED", all.len()),
    });
    Ok(passed && is_clean)
}

fn play_in(lab: &Lab, stop: &Stop, quick: bool, only: &[u8]) -> anyhow::Result<Vec<Checks>> {
    let began = Instant::now();
    let pace = if quick { 0.6 } else { 1.0 };
    let mut stage = Stage::raise(lab, stop, pace).context("raise the shop")?;
    stage.screen.say(&format!(
        "the shop is up after {:.1} s\n",
        began.elapsed().as_secs_f64()
    ));
    let only: Vec<usize> = only.iter().map(|number| usize::from(*number)).collect();
    steps::play(&mut stage, &only)
}

/// Whatever of a run is still there.
fn leftovers(name: &str) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    let listed = exec::ip("netns list")?;
    let namespaces = listed.lines().filter(|line| line.starts_with(name));
    left.extend(namespaces.map(|line| format!("namespace {line}")));
    left.extend(
        run::processes(name)
            .into_iter()
            .map(|pid| format!("process {pid}")),
    );
    Ok(left)
}
