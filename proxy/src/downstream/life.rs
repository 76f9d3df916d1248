// SPDX-License-Identifier: Apache-2.0
//! The life of a listener on one worker, from its first connection to its last.
//!
//! A listener of a configuration is a value; what runs for it here is counted, bounded and
//! drained apart from all others. When a configuration no longer has a listener (or has another
//! one under its name), its life is retired: its connections may finish within the drain time.
//!
//! Invariant: a retired life ends; nothing but its connections and its own drain keeps it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use remora_ir::listener::{Direction, Listener, Network, TcpProxy};
use remora_rt::clock;
use remora_rt::drain::{Drain, DrainToken, Stage, Watch};
use remora_telemetry::{Counter, Gauge, GaugeHold, ScopeKind};

use crate::network::TcpStats;
use crate::state::{ConnectionBudget, ConnectionGuard, Shared};

/// What a worker keeps for one listener of one configuration.
#[derive(Debug)]
pub(super) struct Life {
    /// The listener.
    pub(super) listener: Arc<Listener>,
    /// Its counters.
    pub(super) stats: ListenerStats,
    drain: Drain,
    watch: Watch,
    budget: Option<ConnectionBudget>,
    /// By the address of the chain's proxy, which the listener keeps alive.
    tcp: Vec<(*const TcpProxy, Rc<TcpStats>)>,
    open: Cell<usize>,
}

/// One worker's counters of one listener, under Envoy's names (`listener.<address>.…`).
#[derive(Debug)]
pub(super) struct ListenerStats {
    /// `downstream_cx_total`: connections accepted or handed over.
    pub(super) cx_total: Counter,
    cx_active: Gauge,
    /// `downstream_cx_overflow`: closed because the listener had as many as allowed.
    pub(super) cx_overflow: Counter,
    /// `downstream_global_cx_overflow`: closed because the process had as many as allowed.
    pub(super) global_cx_overflow: Counter,
    /// `downstream_pre_cx_timeout`: closed because nothing was said in time.
    pub(super) pre_cx_timeout: Counter,
    /// `no_filter_chain_match`: closed because no chain takes them.
    pub(super) no_filter_chain_match: Counter,
    /// `downstream_cx_no_original_dst`: redirected, but from where is unknown.
    pub(super) no_original_dst: Counter,
    /// `downstream_cx_loop`: redirected from the proxy itself.
    pub(super) loops: Counter,
}

impl ListenerStats {
    fn bind(shared: &Shared, listener: &Listener) -> Self {
        let scope = shared
            .metrics
            .scope(ScopeKind::Listener, &listener.address.to_string());
        Self {
            cx_total: scope.counter("downstream_cx_total"),
            cx_active: scope.gauge("downstream_cx_active"),
            cx_overflow: scope.counter("downstream_cx_overflow"),
            global_cx_overflow: scope.counter("downstream_global_cx_overflow"),
            pre_cx_timeout: scope.counter("downstream_pre_cx_timeout"),
            no_filter_chain_match: scope.counter("no_filter_chain_match"),
            no_original_dst: scope.counter("downstream_cx_no_original_dst"),
            loops: scope.counter("downstream_cx_loop"),
        }
    }
}

/// What a connection holds while it lives; it ends when dropped.
#[derive(Debug, Default)]
pub struct Hold {
    _held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    life: Rc<Life>,
    _active: GaugeHold,
    _of_listener: Option<ConnectionGuard>,
    _of_process: ConnectionGuard,
    _ends: [DrainToken; 2],
}

impl Drop for Held {
    fn drop(&mut self) {
        self.life.open.set(self.life.open.get().saturating_sub(1));
    }
}

impl Life {
    /// Begins; a process that drains already drains this one too.
    pub(super) fn new(listener: Arc<Listener>, shared: &Shared) -> Self {
        let (drain, watch) = Drain::new();
        let tcp = listener
            .chains
            .iter()
            .filter_map(|chain| match &chain.network {
                Network::Tcp(proxy) => {
                    let stats = TcpStats::bind(&shared.metrics, &proxy.stat_prefix);
                    Some((Arc::as_ptr(proxy), Rc::new(stats)))
                }
                Network::Http(_) => None,
            });
        let life = Self {
            stats: ListenerStats::bind(shared, &listener),
            budget: shared.connections.of_listener(&listener),
            tcp: tcp.collect(),
            drain,
            watch,
            open: Cell::new(0),
            listener,
        };
        life.follow(shared.drains.watch(life.listener.direction).stage());
        life
    }

    /// Takes a place for a connection, or says that the listener has none left.
    pub(super) fn try_hold(
        self: &Rc<Self>,
        process: ConnectionGuard,
        shared: &Shared,
    ) -> Option<Hold> {
        let of_listener = match &self.budget {
            Some(budget) => Some(budget.try_take()?),
            None => None,
        };
        self.open.set(self.open.get() + 1);
        self.stats.cx_total.increment();
        let of_process = shared.drains.watch(self.listener.direction);
        let held = Held {
            life: Rc::clone(self),
            _active: self.stats.cx_active.hold(),
            _of_listener: of_listener,
            _of_process: process,
            _ends: [self.watch.token(), of_process.token()],
        };
        Some(Hold { _held: Some(held) })
    }

    /// The statistics of one of the listener's TCP chains.
    pub(super) fn tcp_stats(&self, proxy: &Arc<TcpProxy>) -> Option<Rc<TcpStats>> {
        let found = self
            .tcp
            .iter()
            .find(|(known, _)| *known == Arc::as_ptr(proxy));
        found.map(|(_, stats)| Rc::clone(stats))
    }

    /// Tells connections when to end.
    pub(super) const fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The drain that ends its connections.
    pub(super) const fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Connections open now.
    pub(super) const fn open(&self) -> usize {
        self.open.get()
    }

    /// Whether the process' inbound drain is its.
    pub(super) fn is_inbound(&self) -> bool {
        self.listener.direction == Direction::Inbound
    }

    /// Goes as far as the process' drain has gone.
    pub(super) fn follow(&self, stage: Stage) {
        match stage {
            Stage::Open => {}
            Stage::Graceful { deadline } => self.drain.graceful(deadline - clock::now()),
            Stage::Forced => self.drain.force(),
        }
    }
}
