// SPDX-License-Identifier: Apache-2.0
//! Plays cases to a subject: one lab, one proxy process, several cases at a time.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail};
use remora_testkit::lab;
use remora_testkit::process::User;
use remora_tests::subject::Subject;

use super::bootstrap;
use super::case::{Case, Scene};

/// Plays all cases that are for this subject.
///
/// *Panics* with the names and findings of those that failed.
pub(crate) fn play(subject: Subject, cases: &[&'static Case]) {
    // Two subjects at a time would take the processor from one another, and some cases are about time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !subject.is_wanted().expect("SUBJECT is well-formed") {
        return;
    }
    let words = std::env::var("CASE").unwrap_or_default();
    // Numbers are places in the whole list: the same case has the same addresses in every run.
    let numbered = (1..).zip(cases.iter().copied());
    let chosen: Vec<(usize, &Case)> = numbered
        .filter(|(_, case)| case.only.is_none_or(|only| only == subject))
        .filter(|(_, case)| case.name.contains(&words))
        .collect();
    lab::test(|lab| {
        let host = lab.add_host("subject", 10)?;
        let folder = lab.make_folder("subject-logs", User::PROXY)?;
        let file = lab.folder().join("bootstrap.yaml");
        std::fs::write(&file, bootstrap::compose(&chosen, &folder)?)?;
        let mut proxy = subject.start(&host, &file, SocketAddr::from(bootstrap::ADMIN))?;
        let scene = |number| Scene {
            subject,
            number,
            log: folder.join("access.log"),
        };
        let failures = host.enter(|| play_all(&chosen, scene))?;
        let log = proxy.log();
        if !proxy.is_running() || log.contains("panicked at") {
            bail!("the proxy did not survive; its log:\n{log}");
        }
        if !failures.is_empty() {
            bail!(
                "{} of {} cases failed:\n\n{}",
                failures.len(),
                chosen.len(),
                failures.join("\n")
            );
        }
        eprintln!("{subject:?}: {} cases hold", chosen.len());
        Ok(())
    });
}

/// Plays cases on several threads of this namespace; what failed, by name.
fn play_all(cases: &[(usize, &Case)], scene: impl Fn(usize) -> Scene + Sync) -> Vec<String> {
    let waiting = Mutex::new(cases.iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let next = waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .next();
                    let Some((number, case)) = next else { return };
                    let start = Instant::now();
                    let outcome = play_one(case, &scene(*number));
                    if let Err(error) = outcome {
                        let time = start.elapsed();
                        let text = format!("c{number} `{}` ({time:.1?}): {error:?}\n", case.name);
                        failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(text);
                    }
                }
            });
        }
    });
    failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

fn play_one(case: &Case, scene: &Scene) -> anyhow::Result<()> {
    catch_unwind(AssertUnwindSafe(|| (case.run)(scene))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow::anyhow!("{}", text.unwrap_or("panicked"))).context("an assertion failed")
    })
}

/// Most of a case is waiting; more at a time would only make its times uncertain.
const AT_A_TIME: usize = 4;
