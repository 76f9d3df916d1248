// SPDX-License-Identifier: Apache-2.0
//! The downstream side of a worker: accepting connections and finding out what they are.
//!
//! ```text
//!   accept ─▶ original destination ─▶ hand-off ─▶ limits ─▶ first bytes ─▶ filter chain ─▶ http | tcp
//! ```
//!
//! [`run`] is the worker's main loop: it follows the configuration (which sockets, which
//! listeners), the process' drains, and the clock (sweeps and flushes). A task for each socket
//! accepts; a task for each connection serves it ([`connection`]). What is done with a
//! connection's bytes is the business of `network` and `http`.
//!
//! Invariant: an accept loop ends only when its socket is taken away; whatever a peer or the
//! system does to it, it goes on.

mod accept;
mod connection;
mod detect;
mod habit;
mod life;
mod original_dst;
mod sniff;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use remora_ir::Lookup;
use remora_ir::listener::{Bind, Interception, Listener};
use remora_rt::clock;
use remora_rt::drain::{Stage, Watch};
use rustc_hash::FxHashMap;
use tokio::task::JoinSet;

use crate::state::{AcceptSockets, Live};
use crate::worker::Worker;
use accept::Acceptor;
use habit::{Habit, Habits};
use life::Life;

pub use crate::network::dial::PreDialled;
pub use connection::{Connection, Detected};
pub use life::Hold;

/// How long connections of a listener that the configuration no longer has may go on. Istio's
/// drain duration (`--drainDuration`); Envoy's own default is 10 minutes.
pub const LISTENER_DRAIN: Duration = Duration::from_secs(45);

/// Time between sweeps and flushes.
const TICK: Duration = Duration::from_secs(1);

/// Time between looks at whether a drain is over.
const DRAIN_TICK: Duration = Duration::from_millis(20);

/// How long connections may take to let go when they are forced to.
const LET_GO: Duration = Duration::from_millis(500);

/// Runs a worker until the process has drained.
pub async fn run(worker: Rc<Worker>) {
    let front = Rc::new(Front::new(worker));
    let mut live = front.worker.subscribe();
    let mut retired = JoinSet::new();
    let mut stages = Stages::new(&front.worker);
    let mut may_change = true;
    front.adopt(&mut retired);
    let mut due = clock::now() + TICK;
    loop {
        tokio::select! {
            changed = live.changed(), if may_change => match changed {
                Ok(_) => front.adopt(&mut retired),
                // Nobody is left to change it; what was published last stays in use.
                Err(_) => may_change = false,
            },
            () = stages.next() => front.follow(&stages),
            Some(_) = retired.join_next(), if !retired.is_empty() => front.forget(),
            () = clock::sleep_until(due) => {
                front.tick(&mut retired);
                due = clock::now() + TICK;
            }
        }
        if stages.are_all_draining() {
            due = due.min(clock::now() + DRAIN_TICK);
        }
        if stages.are_all_forced() {
            front.let_go().await;
            break;
        }
        if stages.are_all_draining() && front.is_process_idle() {
            break;
        }
    }
    front.worker.upstream.drain();
    front.worker.logs.flush();
}

/// What the tasks of a worker's downstream side share.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) worker: Rc<Worker>,
    acceptors: RefCell<BTreeMap<SocketAddr, Acceptor>>,
    /// Lives of the present configuration's listeners, by the address of the value that each keeps
    /// alive; those without sockets begin with their first connection.
    lives: RefCell<FxHashMap<*const Listener, Rc<Life>>>,
    /// Retired lives with connections left.
    retired: RefCell<Vec<Rc<Life>>>,
    habits: RefCell<Habits>,
    /// Addresses where redirected connections are taken.
    captures: RefCell<Rc<[SocketAddr]>>,
}

impl Front {
    fn new(worker: Rc<Worker>) -> Self {
        Self {
            worker,
            acceptors: RefCell::default(),
            lives: RefCell::default(),
            retired: RefCell::default(),
            habits: RefCell::default(),
            captures: RefCell::new(Rc::default()),
        }
    }

    /// Brings sockets and listeners to the newest configuration.
    fn adopt(self: &Rc<Self>, retired: &mut JoinSet<()>) {
        let live = self.worker.with_live(Arc::clone);
        self.capture(&live);
        let wanted = bound(&live);
        let gone = |address: &SocketAddr, acceptor: &Acceptor| {
            !wanted
                .iter()
                .any(|bound| bound.address == *address && acceptor.is_for(&bound.sockets))
        };
        // New lives begin before old ones are retired, so that no counter falls.
        let before = self.lives.take();
        self.renew(&live, &before);
        let closed: Vec<_> = self
            .acceptors
            .borrow_mut()
            .extract_if(.., |address, a| gone(address, a))
            .collect();
        for (_, acceptor) in closed {
            acceptor.close();
        }
        for Bound {
            address,
            sockets,
            listener,
        } in wanted
        {
            let life = self.life_of(&listener);
            let mut acceptors = self.acceptors.borrow_mut();
            let acceptor = acceptors
                .entry(address)
                .or_insert_with(|| Acceptor::new(sockets, Rc::clone(&life)));
            acceptor.set_life(life);
            acceptor.open(self);
        }
        for (listener, life) in before {
            let is_kept = self.lives.borrow().contains_key(&listener);
            if !is_kept && life.open() > 0 {
                self.retire(life, retired);
            }
        }
    }

    /// Says where redirected connections are taken: going there again would be a loop.
    fn capture(&self, live: &Live) {
        let takes = |listener: &&Arc<Listener>| {
            listener.bind == Bind::Port
                && (listener.hand_off || listener.interception != Interception::None)
        };
        let listeners = live.snapshot.listeners.iter().filter(takes);
        let captures: Rc<[SocketAddr]> = listeners
            .flat_map(|listener| addresses(listener))
            .map(|address| {
                live.sockets()
                    .find(&address)
                    .map_or(address, |open| open.address())
            })
            .collect();
        self.worker
            .upstream
            .set_own_listeners(captures.iter().copied());
        *self.captures.borrow_mut() = captures;
    }

    /// Keeps the lives of listeners that are the same as before, and begins one for each that has
    /// taken the name of another.
    fn renew(&self, live: &Live, before: &FxHashMap<*const Listener, Rc<Life>>) {
        for life in before.values() {
            match live.snapshot.listeners.find(&life.listener.name) {
                Lookup::Found(same) if Arc::ptr_eq(same, &life.listener) => {
                    let key = Arc::as_ptr(same);
                    self.lives.borrow_mut().insert(key, Rc::clone(life));
                }
                Lookup::Found(other) => drop(self.life_of(other)),
                Lookup::Missing | Lookup::Unresolved => {}
            }
        }
    }

    /// Lets a listener's connections finish, within their time.
    fn retire(&self, life: Rc<Life>, retired: &mut JoinSet<()>) {
        tracing::debug!(listener = %life.listener.name, open = life.open(), "listener retired");
        self.retired.borrow_mut().push(Rc::clone(&life));
        retired.spawn_local(async move {
            life.drain().complete(LISTENER_DRAIN).await;
        });
    }

    /// Forgets retired lives that have ended.
    fn forget(&self) {
        self.retired.borrow_mut().retain(|life| life.open() > 0);
    }

    /// The life of a listener; begins it if there is none.
    fn life_of(&self, listener: &Arc<Listener>) -> Rc<Life> {
        let mut lives = self.lives.borrow_mut();
        let begin = || Rc::new(Life::new(Arc::clone(listener), &self.worker.shared));
        Rc::clone(lives.entry(Arc::as_ptr(listener)).or_insert_with(begin))
    }

    /// The life of the listener that a connection belongs to: that of its destination, if the
    /// listener it came by hands off and there is one; destination first.
    fn hand_off(&self, life: &Rc<Life>, destination: SocketAddr) -> Rc<Life> {
        if !life.listener.hand_off {
            return Rc::clone(life);
        }
        let found = self.worker.with_live(|live| {
            live.snapshot
                .listeners
                .by_destination(destination)
                .found()
                .cloned()
        });
        match found {
            Some(listener) if !Arc::ptr_eq(&listener, &life.listener) => self.life_of(&listener),
            _ => Rc::clone(life),
        }
    }

    fn captures(&self) -> Rc<[SocketAddr]> {
        Rc::clone(&self.captures.borrow())
    }

    fn habit_of(&self, destination: SocketAddr) -> Option<Habit> {
        self.habits.borrow_mut().of(destination)
    }

    fn learn(&self, destination: SocketAddr, habit: Habit) {
        self.habits.borrow_mut().learn(destination, habit);
    }

    /// Goes as far as the process' drains have gone.
    fn follow(&self, stages: &Stages) {
        let (lives, retired) = (self.lives.borrow(), self.retired.borrow());
        for life in lives.values().chain(retired.iter()) {
            let process = if life.is_inbound() {
                &stages.inbound
            } else {
                &stages.outbound
            };
            life.follow(process.seen);
        }
    }

    /// Once a second.
    fn tick(self: &Rc<Self>, retired: &mut JoinSet<()>) {
        self.worker.upstream.sweep(clock::now());
        self.worker.logs.flush();
        self.forget();
        let is_incomplete = self
            .acceptors
            .borrow()
            .values()
            .any(Acceptor::is_incomplete);
        if is_incomplete {
            self.adopt(retired);
        }
    }

    /// Whether no connection is left in the whole process. A worker that went earlier would leave
    /// connections in the backlog of its sockets.
    fn is_process_idle(&self) -> bool {
        let drains = &self.worker.shared.drains;
        drains.inbound.tokens() == 0 && drains.outbound.tokens() == 0
    }

    fn open(&self) -> usize {
        let lives = self.lives.borrow();
        let retired = self.retired.borrow();
        lives
            .values()
            .chain(retired.iter())
            .map(|life| life.open())
            .sum()
    }

    /// Stops accepting and waits for the connections that were told to end.
    async fn let_go(&self) {
        self.acceptors.take();
        let until = clock::now() + LET_GO;
        while self.open() > 0 && clock::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// An address to accept from.
struct Bound {
    address: SocketAddr,
    sockets: Arc<AcceptSockets>,
    listener: Arc<Listener>,
}

/// All addresses that have sockets, each with the listener that has it.
fn bound(live: &Live) -> Vec<Bound> {
    let mut all: Vec<_> = live
        .snapshot
        .listeners
        .iter()
        .filter(|listener| listener.bind == Bind::Port)
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let mut bound: Vec<Bound> = Vec::new();
    for listener in all {
        for address in addresses(listener) {
            let Some(sockets) = live.sockets().find(&address) else {
                continue;
            };
            // Of two listeners with one address the first by name has it.
            if !bound.iter().any(|known| known.address == address) {
                bound.push(Bound {
                    address,
                    sockets: Arc::clone(sockets),
                    listener: Arc::clone(listener),
                });
            }
        }
    }
    bound
}

fn addresses(listener: &Listener) -> impl Iterator<Item = SocketAddr> {
    std::iter::once(listener.address).chain(listener.more_addresses.iter().copied())
}

/// How far the process' drains have gone, as this worker has seen it.
struct Stages {
    inbound: Seen,
    outbound: Seen,
}

struct Seen {
    watch: Watch,
    seen: Stage,
}

impl Stages {
    fn new(worker: &Worker) -> Self {
        let drains = &worker.shared.drains;
        let seen = |watch: Watch| Seen {
            seen: watch.stage(),
            watch,
        };
        Self {
            inbound: seen(drains.inbound.watch()),
            outbound: seen(drains.outbound.watch()),
        }
    }

    /// Waits for the next stage of either.
    ///
    /// *Cancel safety*: safe.
    async fn next(&mut self) {
        tokio::select! {
            () = self.inbound.next() => {}
            () = self.outbound.next() => {}
        }
    }

    fn are_all_draining(&self) -> bool {
        self.inbound.seen != Stage::Open && self.outbound.seen != Stage::Open
    }

    fn are_all_forced(&self) -> bool {
        self.inbound.seen == Stage::Forced && self.outbound.seen == Stage::Forced
    }
}

impl Seen {
    async fn next(&mut self) {
        match self.seen {
            Stage::Open => self.watch.graceful().await,
            Stage::Graceful { .. } => self.watch.forced().await,
            Stage::Forced => std::future::pending().await,
        }
        self.seen = self.watch.stage();
    }
}

#[cfg(test)]
mod tests;
