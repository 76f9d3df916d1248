// SPDX-License-Identifier: Apache-2.0
//! Load for the mesh under test: visitors of the page, who note what they get.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::ensure;
use remora_testkit::client::{self, Request};
use remora_testkit::lab::Host;
use remora_testkit::mesh::topology::PHP;
use remora_testkit::mesh::{Mesh, Page};
use remora_testkit::wait;

use super::LIMIT;

/// Visitors of the page, without a pause, on threads of their own.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    pages: Arc<Mutex<Vec<Result<Page, String>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts as many visitors, who ask for the page with this query.
    pub(super) fn start(mesh: &Mesh, query: &str, visitors: usize) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let pages: Arc<Mutex<Vec<Result<Page, String>>>> = Arc::default();
        let mut threads = Vec::new();
        for _ in 0..visitors {
            let (host, stop, pages) = (
                mesh.host(PHP)?.clone(),
                Arc::clone(&stop),
                Arc::clone(&pages),
            );
            let target = format!("/index.php?{query}");
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    let page = visit(&host, &target).map_err(|error| format!("{error:#}"));
                    Self::lock(&pages).push(page);
                }
            }));
        }
        Ok(Self {
            stop,
            pages,
            threads,
        })
    }

    fn lock<T>(pages: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages so far.
    pub(super) fn count(&self) -> usize {
        Self::lock(&self.pages).len()
    }

    /// Waits for so many pages.
    pub(super) fn until(&self, count: usize) -> anyhow::Result<()> {
        let limit = Duration::from_secs(40);
        wait::until_true(&format!("{count} pages"), limit, || self.count() >= count)
    }

    /// Ends it. *Errors*: a page failed.
    pub(super) fn end(mut self) -> anyhow::Result<Vec<Page>> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let pages = std::mem::take(&mut *Self::lock(&self.pages));
        let count = pages.len();
        let (well, failed): (Vec<_>, Vec<_>) = pages
            .into_iter()
            .partition(|page| page.as_ref().is_ok_and(Page::is_ok));
        let first = failed.first();
        ensure!(
            failed.is_empty(),
            "{} of {count} pages failed, first: {first:?}",
            failed.len()
        );
        Ok(well.into_iter().flatten().collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn visit(host: &Host, target: &str) -> anyhow::Result<Page> {
    let at = (Ipv4Addr::LOCALHOST, 80).into();
    let request = Request::get("php", target);
    Page::read(&host.enter(|| client::send(at, &request, LIMIT))??)
}
