// SPDX-License-Identifier: Apache-2.0
//! The visitors: a few threads on the PHP host that ask nginx for the page at a steady pace and keep
//! what it said.
//!
//! The pace is bounded from both sides: never faster than ordered, and never more than
//! [`VISITORS`] pages at once, so a slow page slows its visitors down.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use remora_testkit::client::{Connection, Request};
use remora_testkit::lab::Host;
use remora_testkit::mesh::Page;
use remora_testkit::wait;

/// How many pages are asked for at once, at most; php-fpm has more workers than that.
const VISITORS: u32 = 6;
/// Longer than the page's own limit for all of its calls.
const PATIENCE: Duration = Duration::from_secs(25);

/// One call that the page made, as the page tells it.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// When the page was asked for.
    pub(crate) began: Instant,
    /// The page's query, which says for whom it asked.
    pub(crate) query: Arc<str>,
    /// The service it called; `page` if the page itself could not be had.
    pub(crate) service: String,
    /// The version that answered.
    pub(crate) version: Option<String>,
    /// The instance that answered.
    pub(crate) instance: Option<String>,
    /// The status it got; 0 if none.
    pub(crate) status: u64,
    /// How long the call took, name look-up and connect included.
    pub(crate) time: Duration,
    /// What went wrong.
    pub(crate) error: Option<String>,
}

impl Sample {
    /// Whether the call succeeded.
    pub(crate) fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Visitors that can be told what to ask for and how often.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Mutex<Shared>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    order: Option<Order>,
    turn: usize,
    in_flight: u32,
    samples: Vec<Sample>,
    is_over: bool,
}

#[derive(Debug, Clone)]
struct Order {
    queries: Arc<[Arc<str>]>,
    /// Between two pages of one visitor.
    pause: Duration,
}

impl Load {
    /// Sends visitors to a host; they wait for orders.
    pub(crate) fn start(host: &Host) -> anyhow::Result<Self> {
        let shared = Arc::<Mutex<Shared>>::default();
        // Threads started on a host stay there.
        let threads = host.enter(|| {
            let visitors = (0..VISITORS).map(|number| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("visitor-{number}"))
                    .spawn(move || visit(&shared, number))
                    .context("start a visitor")
            });
            visitors.collect::<anyhow::Result<Vec<_>>>()
        })??;
        Ok(Self { shared, threads })
    }

    /// Asks for these queries in turn, `rate` pages a second.
    pub(crate) fn run(&self, rate: u32, queries: &[&str]) {
        let order = Order {
            queries: queries.iter().map(|query| Arc::from(*query)).collect(),
            pause: Duration::from_secs(1) * VISITORS / rate.max(1),
        };
        lock(&self.shared).order = Some(order);
    }

    /// Stops asking and waits until every page that was asked for has come.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        lock(&self.shared).order = None;
        wait::until_true("the last page", PATIENCE, || {
            lock(&self.shared).in_flight == 0
        })
    }

    /// The calls of all pages that were asked for since then.
    pub(crate) fn since(&self, began: Instant) -> Vec<Sample> {
        let shared = lock(&self.shared);
        let new = shared.samples.iter().rev();
        // Samples are kept in the order of their ends; a page takes no longer than this.
        let new = new.take_while(|sample| sample.began + PATIENCE >= began);
        new.filter(|sample| sample.began >= began)
            .cloned()
            .collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        lock(&self.shared).is_over = true;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn visit(shared: &Mutex<Shared>, number: u32) {
    let mut connection = None;
    let mut due = None::<Instant>;
    loop {
        let (is_over, pause) = {
            let shared = lock(shared);
            (
                shared.is_over,
                shared.order.as_ref().map(|order| order.pause),
            )
        };
        if is_over {
            return;
        }
        let Some(pause) = pause else {
            (connection, due) = (None, None);
            wait::rest(Duration::from_millis(5));
            continue;
        };
        let now = Instant::now();
        // Visitors come one after the other, not all together.
        let next = *due.get_or_insert(now + pause * number / VISITORS);
        let left = next.saturating_duration_since(now);
        if !left.is_zero() {
            wait::rest(left.min(Duration::from_millis(20)));
            continue;
        }
        due = Some((next + pause).max(now));
        let Some(query) = begin(shared) else {
            continue;
        };
        let samples = ask(&mut connection, &query);
        let mut shared = lock(shared);
        shared.in_flight -= 1;
        shared.samples.extend(samples);
    }
}

/// The next query in turn, if any is wanted; the page counts as asked for from now on.
fn begin(shared: &Mutex<Shared>) -> Option<Arc<str>> {
    let mut shared = lock(shared);
    let queries = shared.order.as_ref()?.queries.clone();
    let query = queries.get(shared.turn % queries.len())?.clone();
    shared.turn += 1;
    shared.in_flight += 1;
    Some(query)
}

fn ask(connection: &mut Option<Connection>, query: &Arc<str>) -> Vec<Sample> {
    let began = Instant::now();
    let sample = |service: &str| Sample {
        began,
        query: query.clone(),
        service: service.to_owned(),
        version: None,
        instance: None,
        status: 0,
        time: began.elapsed(),
        error: None,
    };
    let page = fetch(connection, query);
    match page {
        Ok(page) => page
            .calls
            .into_iter()
            .map(|call| Sample {
                version: call.version,
                instance: call.instance,
                status: call.status,
                time: call.time,
                error: call.error,
                ..sample(&call.service)
            })
            .collect(),
        Err(error) => {
            *connection = None;
            vec![Sample {
                error: Some(format!("{error:#}")),
                ..sample("page")
            }]
        }
    }
}

fn fetch(connection: &mut Option<Connection>, query: &str) -> anyhow::Result<Page> {
    let nginx = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(nginx, PATIENCE)?),
    };
    Page::read(&open.send(&Request::get("php", &format!("/index.php?{query}")))?)
}
