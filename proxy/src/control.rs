// SPDX-License-Identifier: Apache-2.0
//! The control thread's work: from the control plane's updates to the configuration in use.
//!
//! One task owns everything that changes the configuration ([`Control`]); its children are the
//! stations of the road: [`road`] (accept or refuse, without I/O), [`warming`] (how long to wait),
//! [`sockets`] and [`resolve`] (what the configuration binds to), [`last_good`] (what survives a
//! restart), [`inventory`] (what the admin shows). It reads updates, never the other way round:
//! a slow control thread holds the control plane by flow control and no worker by anything.
//!
//! Invariant: configurations are published by this task alone, whole, with one swap and one
//! generation each; endpoints go into the cells of their clusters and publish nothing.

pub mod built_in;
pub mod inventory;
pub mod last_good;
pub mod resolve;
pub mod road;
pub mod settings;
pub mod sockets;
mod stats;
mod warming;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use remora_ir::cluster::{Cluster as Policy, Discovery};
use remora_primitives::Instant;
use remora_rt::clock;
use remora_rt::publish::Publisher;
use remora_rt::sockets::Sockets;
use remora_translate::Pending;
use remora_xds_client::{Handle, Interest, Update, UpdateToken, Updates, Verdict};
use remora_xds_types::ResourceType;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::state::{Live, Phase, Shared};
use crate::upstream::Cluster;

use built_in::BuiltIn;
use inventory::Inventory;
use last_good::KeptResource;
use resolve::{Resolved, Resolver};
use road::{Batch, Effect, Road, Translation, translate};
use sockets::{Bindings, Closed};
use stats::ControlStats;
use warming::Warming;

/// The owner of the configuration.
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    road: Road,
    live: Arc<Publisher<Live>>,
    bindings: Bindings,
    /// Listeners that no socket could be had for, as last reported.
    unbound: Vec<String>,
    built_in: Option<BuiltIn>,
    resolver: Resolver,
    resolved: mpsc::Receiver<Resolved>,
    client: Option<Client>,
    warming: Warming,
    /// Kinds that the control plane has answered for, in this life or an earlier one.
    answered: BTreeSet<ResourceType>,
    kept: watch::Sender<Arc<[KeptResource]>>,
    stats: ControlStats,
    translating: Option<Translating>,
    /// Addresses that are to be given up, and when.
    closing: Vec<(Instant, Closed)>,
    due: Effect,
}

/// The connection to the control plane.
#[derive(Debug)]
pub struct Client {
    /// Says what is wanted.
    pub handle: Handle,
    /// What comes.
    pub updates: Updates,
    /// The kinds that come whole: clusters, listeners, the name table.
    pub wildcards: Vec<ResourceType>,
}

/// What a control task is made of.
#[derive(Debug)]
pub struct Parts {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// What was accepted so far: the bootstrap's, and the last good configuration.
    pub road: Road,
    /// The owner of the sockets.
    pub bindings: Bindings,
    /// What serves until there is a configuration; `None` if there is one.
    pub built_in: Option<BuiltIn>,
    /// Where the last good configuration is kept.
    pub kept: watch::Sender<Arc<[KeptResource]>>,
}

/// A question to the control task.
#[derive(Debug)]
pub enum Command {
    /// What was accepted, refused, and what waits.
    Report(oneshot::Sender<Report>),
    /// Gives up listening addresses, after a while; connections are not touched.
    Close {
        /// Which.
        what: Closed,
        /// After how long.
        after: Duration,
    },
}

/// The state of the road at one moment.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All raw resources.
    pub inventory: Inventory,
    /// What is accepted and waits for something.
    pub pending: Vec<Pending>,
    /// Listeners that no socket could be had for, with the reason.
    pub unbound: Vec<String>,
}

/// A translation under way, with the right to answer for it.
#[derive(Debug)]
struct Translating {
    task: JoinHandle<Translation>,
    answer: Answering,
}

/// What is needed once a batch is translated.
#[derive(Debug)]
struct Answering {
    kind: ResourceType,
    removed: Vec<String>,
    token: UpdateToken,
}

impl Control {
    /// Puts the parts together and binds the first configuration, as generation 1.
    pub fn new(parts: Parts) -> Self {
        let (resolver, resolved) = Resolver::new();
        let stats = ControlStats::bind(&parts.shared.metrics);
        let mut control = Self {
            shared: parts.shared,
            road: parts.road,
            live: Arc::new(Publisher::new(Arc::default())),
            bindings: parts.bindings,
            unbound: Vec::new(),
            built_in: parts.built_in,
            resolver,
            resolved,
            client: None,
            warming: Warming::default(),
            answered: BTreeSet::new(),
            kept: parts.kept,
            stats,
            translating: None,
            closing: Vec::new(),
            due: Effect::default(),
        };
        let first = control.bind(1);
        control.live = Arc::new(Publisher::new(first));
        control.follow_up();
        control
    }

    /// The configuration in use.
    pub const fn live(&self) -> &Arc<Publisher<Live>> {
        &self.live
    }

    /// The owner of all listening descriptors.
    pub const fn sockets(&mut self) -> &mut Sockets {
        self.bindings.sockets()
    }

    /// Starts to ask the control plane for what is wanted.
    pub fn connect(&mut self, client: Client) {
        self.client = Some(client);
        self.subscribe();
    }

    /// Works until the senders of commands are gone.
    ///
    /// *Cancel safety*: the configuration in use stays.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.settle();
        loop {
            let deadline = self.warming.deadline();
            let closing = self.closing.iter().map(|(at, _)| *at).min();
            let closing = closing.unwrap_or(Instant::FAR_FUTURE);
            // A fair choice: no arm waits within its body.
            tokio::select! {
                update = next_update(&mut self.client), if self.translating.is_none() => {
                    self.on_update(update);
                }
                translation = translated(&mut self.translating) => self.on_translated(translation),
                Some(resolved) = self.resolved.recv() => self.on_resolved(&resolved),
                () = clock::sleep_until(deadline) => self.on_warming_deadline(),
                () = clock::sleep_until(closing) => self.on_closing(),
                _ = tick.tick() => self.on_tick(),
                command = commands.recv() => match command {
                    Some(Command::Report(answer)) => {
                        // Whoever asked may have gone.
                        let _ = answer.send(self.report());
                    }
                    Some(Command::Close { what, after }) => {
                        self.closing.push((clock::now() + after, what));
                    }
                    None => return,
                }
            }
            self.settle();
        }
    }

    /// Publishes what is due, unless more is there already: a push is several updates, and each
    /// publication makes all workers look.
    fn settle(&mut self) {
        for _ in 0..MAX_GATHERED {
            if self.translating.is_some() {
                break;
            }
            let ready = next_update(&mut self.client).now_or_never();
            let Some(update) = ready else { break };
            self.on_update(update);
        }
        self.judge_readiness();
        let due = std::mem::take(&mut self.due);
        self.set_endpoints(&due.endpoints);
        if due.snapshot {
            self.publish();
        }
        if due.kept {
            self.kept.send_replace(self.road.inventory().keepable());
        }
    }

    fn on_update(&mut self, update: Option<Update>) {
        let Some(update) = update else {
            tracing::error!("the client of the control plane ended; the configuration stays");
            self.client = None;
            return;
        };
        let Some(kind) = ResourceType::from_url(&update.type_url) else {
            // Only kinds of ours are asked for; an unanswered token is a refusal with a reason.
            return;
        };
        let mut batch = Batch {
            kind,
            added: update.added,
            removed: update.removed,
        };
        self.stats.on_attempt(kind);
        let renewed = self.road.triage(&mut batch);
        self.due.merge(renewed);
        let answer = Answering {
            kind,
            removed: batch.removed.clone(),
            token: update.token,
        };
        let bytes: usize = batch.added.iter().map(|raw| raw.body.len()).sum();
        if bytes <= MAX_INLINE_BYTES {
            let translation = translate(self.road.context(), batch);
            self.accept(translation, answer);
        } else {
            let context = self.road.context().clone();
            let task = tokio::task::spawn_blocking(move || translate(&context, batch));
            self.translating = Some(Translating { task, answer });
        }
    }

    fn on_translated(&mut self, translation: Option<Translation>) {
        let Some(Translating { answer, .. }) = self.translating.take() else {
            return;
        };
        match translation {
            Some(translation) => self.accept(translation, answer),
            // The token's end tells the control plane; the last good configuration stays.
            None => tracing::error!(type_url = answer.kind.url(), "a translation panicked"),
        }
    }

    fn accept(&mut self, translation: Translation, answer: Answering) {
        let kind = answer.kind;
        let (rejected, effect) = self.road.accept(translation, SystemTime::now());
        self.due.merge(effect);
        let in_vain = self.road.waiting_in_vain(kind, &answer.removed);
        self.due.merge(self.road.force(&in_vain));
        self.stats
            .on_verdict(kind, rejected.is_empty(), self.road.inventory());
        let is_usable = rejected.is_empty() || self.road.inventory().iter(kind).any(is_accepted);
        if is_usable {
            self.answered.insert(kind);
        }
        answer.token.answer(Verdict { rejected });
        self.warming.follow(&self.road.pending(), clock::now());
        self.subscribe();
    }

    fn on_resolved(&mut self, resolved: &Resolved) {
        let live = self.live.current();
        let cluster = live.clusters().find(|one| *one.name() == resolved.cluster);
        if let Some(cluster) = cluster {
            cluster.set_endpoints(&resolved.endpoints);
        }
    }

    fn on_warming_deadline(&mut self) {
        let late = self.warming.take_late(clock::now());
        for key in &late {
            tracing::warn!(
                type_url = key.kind.url(),
                name = key.name,
                "waited long enough for what it needs; it is used without"
            );
        }
        let forced = self.road.force(&late);
        self.due.merge(forced);
        self.warming.follow(&self.road.pending(), clock::now());
    }

    /// Gives up the addresses whose time has come.
    fn on_closing(&mut self) {
        let now = clock::now();
        for (_, what) in self.closing.extract_if(.., |(at, _)| *at <= now) {
            self.bindings.close(what);
            self.due.snapshot = true;
        }
    }

    /// Ejected hosts return, gauges are shown, addresses that were taken are tried again.
    fn on_tick(&mut self) {
        let now = clock::now();
        let live = self.live.current();
        for cluster in live.clusters() {
            cluster.sweep(now);
        }
        if !self.unbound.is_empty() {
            let (_, faults) = self.bindings.open(&live.snapshot);
            self.due.snapshot |= faults.len() < self.unbound.len();
        }
    }

    /// The proxy is ready when the control plane has answered for all that comes whole and
    /// nothing of it waits any more. Then the built-in listeners have done their part.
    fn judge_readiness(&mut self) {
        if self.shared.readiness.phase() != Phase::Starting {
            return;
        }
        let needed = self.client.iter().flat_map(|client| &client.wildcards);
        let mut needed = needed.filter(|kind| **kind != ResourceType::NameTable);
        let is_configured = match self.built_in {
            Some(_) => self.client.is_some() && needed.all(|kind| self.answered.contains(kind)),
            None => self.client.is_none() || needed.all(|kind| self.answered.contains(kind)),
        };
        if is_configured && self.road.pending().is_empty() && self.translating.is_none() {
            self.become_ready();
        }
    }

    /// The configuration is whole: it is served, and nothing but it.
    pub fn become_ready(&mut self) {
        self.due.snapshot |= self.built_in.take().is_some();
        self.shared.readiness.advance(Phase::Live);
    }

    fn set_endpoints(&self, services: &BTreeSet<String>) {
        if services.is_empty() {
            return;
        }
        for cluster in self.live.current().clusters() {
            if let Discovery::Eds { service_name } = &cluster.policy().discovery
                && services.contains(&**service_name)
                && let Some(endpoints) = self.road.endpoints(service_name)
            {
                cluster.set_endpoints(endpoints);
            }
        }
    }

    fn publish(&mut self) {
        let next = self.bind(self.live.generation() + 1);
        let generation = self.live.publish(next);
        tracing::info!(generation, "configuration published");
        self.follow_up();
    }

    /// What happens once a configuration is in use.
    fn follow_up(&mut self) {
        let live = self.live.current();
        self.bindings.release(live.sockets());
        self.resolver.follow(&live.snapshot);
        self.stats
            .on_published(&live.snapshot, &self.road.pending());
    }

    /// Binds the road's snapshot to live clusters and sockets. What did not change is kept.
    fn bind(&mut self, generation: u64) -> Arc<Live> {
        let mut snapshot = self.road.snapshot(generation);
        if let Some(built_in) = &self.built_in {
            built_in.complete(&mut snapshot);
        }
        let (sockets, faults) = self.bindings.open(&snapshot);
        let unbound: Vec<_> = faults
            .iter()
            .map(|fault| format!("{fault}: {}: {}", fault.source, fault.source.source))
            .collect();
        for fault in unbound.iter().filter(|fault| !self.unbound.contains(fault)) {
            tracing::warn!(%fault, "an address is not open; it is tried again each second");
        }
        self.unbound = unbound;
        let previous = self.live.current();
        let bound = snapshot
            .clusters
            .iter()
            .map(|policy| self.bind_cluster(policy, &previous));
        let clusters: Vec<_> = bound.collect();
        Arc::new(Live::new(Arc::new(snapshot), clusters, sockets))
    }

    fn bind_cluster(&self, policy: &Arc<Policy>, previous: &Live) -> Arc<Cluster> {
        let before = previous.cluster(&policy.slot).found();
        // An index may have been handed on since: the slot itself says whether it is the name's.
        let before = before.filter(|one| Arc::ptr_eq(&one.policy().slot, &policy.slot));
        if let Some(same) = before.filter(|one| Arc::ptr_eq(one.policy(), policy)) {
            return Arc::clone(same);
        }
        let cluster = Cluster::bind(Arc::clone(policy), before, &self.shared);
        if let Discovery::Eds { service_name } = &policy.discovery
            && let Some(endpoints) = self.road.endpoints(service_name)
        {
            cluster.set_endpoints(endpoints);
        }
        cluster
    }

    /// Tells the control plane what is wanted, in the order in which it is to be asked for.
    fn subscribe(&self) {
        let Some(client) = &self.client else { return };
        for kind in ResourceType::PUSH_ORDER {
            match kind {
                ResourceType::Cluster | ResourceType::Listener | ResourceType::NameTable => {
                    if client.wildcards.contains(&kind) {
                        client.handle.set_interest(kind.url(), Interest::wildcard());
                    }
                }
                ResourceType::Endpoint | ResourceType::Route => {
                    let names = Interest::names(self.road.wanted(kind));
                    client.handle.set_interest(kind.url(), names);
                }
                ResourceType::Secret => {}
            }
        }
    }

    fn report(&self) -> Report {
        Report {
            inventory: self.road.inventory().clone(),
            pending: self.road.pending(),
            unbound: self.unbound.clone(),
        }
    }
}

fn is_accepted((_, entry): (&Arc<str>, &inventory::Entry)) -> bool {
    entry.accepted.is_some()
}

/// The next update; never without a client.
///
/// *Cancel safety*: safe.
async fn next_update(client: &mut Option<Client>) -> Option<Update> {
    match client {
        Some(client) => client.updates.next().await,
        None => std::future::pending().await,
    }
}

/// The translation under way; never without one. `None` if it panicked.
///
/// *Cancel safety*: safe.
async fn translated(translating: &mut Option<Translating>) -> Option<Translation> {
    match translating {
        Some(translating) => (&mut translating.task).await.ok(),
        None => std::future::pending().await,
    }
}

/// How often clusters are swept, whose own intervals are whole seconds and more.
const TICK: Duration = Duration::from_secs(1);

/// Updates that may go into one publication: a whole first push, and an end for a control plane
/// that never stops.
const MAX_GATHERED: usize = 32;

/// Batches up to this size are translated on the control thread, within about a millisecond.
/// Unit: bytes.
const MAX_INLINE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
