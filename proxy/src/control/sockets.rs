// SPDX-License-Identifier: Apache-2.0
//! Opens and closes the addresses that listeners bind, as configurations come and go.
//!
//! Invariant: an address that stays keeps its very sockets, so that the kernel refuses nobody
//! while configurations change; one that goes is closed as soon as the last worker lets go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use remora_ir::Snapshot;
use remora_ir::listener::{Bind, Direction, Interception as Captured, Listener};
use remora_rt::sockets::{
    Families, Interception, ListenError, ListenSpec, SocketKey, Sockets, Transport,
};

use crate::state::{AcceptSockets, SocketTable};

/// The addresses that are open.
#[derive(Debug)]
pub struct Bindings {
    sockets: Sockets,
    workers: NonZeroUsize,
    open: BTreeMap<SocketAddr, Arc<AcceptSockets>>,
    closed: Closed,
}

/// Whose addresses are no longer opened, whatever the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// Nobody's.
    #[default]
    Nothing,
    /// Those of inbound listeners.
    Inbound,
    /// All.
    Everything,
}

impl Closed {
    const fn holds(self, listener: &Listener) -> bool {
        match self {
            Self::Nothing => false,
            Self::Inbound => matches!(listener.direction, Direction::Inbound),
            Self::Everything => true,
        }
    }
}

/// An address that could not be opened, and the listener that asked for it.
#[derive(Debug, thiserror::Error)]
#[error("listener `{listener}`")]
pub struct BindFault {
    /// The listener.
    pub listener: String,
    /// Why.
    #[source]
    pub source: ListenError,
}

impl Bindings {
    /// Nothing is open yet; each address will have sockets for so many workers.
    pub const fn new(sockets: Sockets, workers: NonZeroUsize) -> Self {
        Self {
            sockets,
            workers,
            open: BTreeMap::new(),
            closed: Closed::Nothing,
        }
    }

    /// Opens no more of these; what is open of them goes with the next publication. Nothing is
    /// ever opened again this way.
    pub fn close(&mut self, more: Closed) {
        self.closed = self.closed.max(more);
    }

    /// Opens what a snapshot's listeners bind. What it no longer binds stays open until
    /// [`release`](Self::release), so that it can be called before publication. An address that
    /// cannot be opened is missing from the table and reported; the others are not held up.
    pub fn open(&mut self, snapshot: &Snapshot) -> (SocketTable, Vec<BindFault>) {
        let mut faults = Vec::new();
        let closed = self.closed;
        let wanted = || binding(snapshot).filter(move |listener| !closed.holds(listener));
        for listener in wanted() {
            for address in addresses(listener) {
                if let Err(source) = self.open_one(address, listener) {
                    let listener = listener.name.to_string();
                    faults.push(BindFault { listener, source });
                }
            }
        }
        let found = wanted()
            .flat_map(|listener| addresses(listener))
            .filter_map(|address| {
                let sockets = self.open.get(&address)?;
                Some((address, Arc::clone(sockets)))
            });
        (found.collect(), faults)
    }

    /// Closes what a snapshot does not bind. Called after it was published.
    pub fn release(&mut self, table: &SocketTable) {
        let sockets = &mut self.sockets;
        self.open.retain(|address, open| {
            let is_wanted = table.find(address).is_some();
            if !is_wanted {
                sockets.release(SocketKey {
                    transport: Transport::Tcp,
                    addr: open.address(),
                });
            }
            is_wanted
        });
    }

    /// The owner of the descriptors, for the ports that no listener configures.
    pub const fn sockets(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// How many workers share each address.
    pub const fn workers(&self) -> NonZeroUsize {
        self.workers
    }

    fn open_one(&mut self, address: SocketAddr, listener: &Listener) -> Result<(), ListenError> {
        if self.open.contains_key(&address) {
            return Ok(());
        }
        let spec = ListenSpec {
            interception: match listener.interception {
                Captured::Transparent => Interception::Transparent,
                Captured::None | Captured::Redirect => Interception::None,
            },
            families: Families::Own,
            ..ListenSpec::new(address)
        };
        let sockets = self.sockets.listen_tcp(&spec, self.workers)?;
        let bound = sockets.first().and_then(|socket| socket.local_addr().ok());
        let accept = AcceptSockets::new(bound.unwrap_or(address), sockets, self.workers.get());
        self.open.insert(address, Arc::new(accept));
        Ok(())
    }
}

/// Listeners that own sockets, in order of their names.
fn binding(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Listener>> {
    let mut all: Vec<_> = snapshot
        .listeners
        .iter()
        .filter(|listener| listener.bind == Bind::Port)
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.into_iter()
}

fn addresses(listener: &Listener) -> impl Iterator<Item = SocketAddr> {
    std::iter::once(listener.address).chain(listener.more_addresses.iter().copied())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use remora_ir::ListenerName;
    use remora_ir::listener::{FilterChains, Inspect};
    use remora_ir::snapshot::ListenerTable;

    use super::*;

    fn snapshot(listeners: &[(&str, SocketAddr, Bind)]) -> Snapshot {
        let listener = |(name, address, bind): &(&str, SocketAddr, Bind)| {
            Arc::new(Listener {
                name: ListenerName::new(name),
                address: *address,
                more_addresses: Vec::new(),
                bind: *bind,
                direction: Direction::Outbound,
                hand_off: false,
                interception: Captured::None,
                inspect: Inspect {
                    tls: false,
                    http: false,
                    timeout: None,
                    continue_on_timeout: true,
                },
                chains: FilterChains::default(),
                access_logs: Vec::new(),
                max_connections: None,
            })
        };
        Snapshot {
            listeners: ListenerTable::new(listeners.iter().map(listener)),
            ..Snapshot::default()
        }
    }

    fn bindings() -> Bindings {
        Bindings::new(Sockets::new(), NonZeroUsize::new(2).expect("two"))
    }

    #[test]
    fn what_stays_keeps_its_sockets_and_what_goes_refuses() {
        let mut bindings = bindings();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = snapshot(&[("a", any, Bind::Port)]);
        let (before, faults) = bindings.open(&first);
        assert!(faults.is_empty());
        bindings.release(&before);
        let (after, _) = bindings.open(&first);
        let of = |table: &SocketTable| Arc::clone(table.find(&any).expect("open"));
        assert!(Arc::ptr_eq(&of(&before), &of(&after)));
        let address = of(&before).address();
        assert!(TcpStream::connect(address).is_ok());
        drop((before, after));
        let (empty, _) = bindings.open(&snapshot(&[("a", any, Bind::Nothing)]));
        bindings.release(&empty);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn what_was_closed_stays_closed_and_the_other_direction_open() {
        let mut bindings = bindings();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let outbound = snapshot(&[("a", any, Bind::Port)]);
        bindings.close(Closed::Inbound);
        assert!(bindings.open(&outbound).0.find(&any).is_some());
        bindings.close(Closed::Everything);
        bindings.close(Closed::Inbound);
        let (empty, faults) = bindings.open(&outbound);
        bindings.release(&empty);
        assert!(empty.find(&any).is_none() && faults.is_empty());
    }

    #[test]
    fn an_address_that_is_taken_does_not_hold_up_the_others() {
        let mut bindings = bindings();
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = holder.local_addr().expect("bound");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let both = snapshot(&[("a", taken, Bind::Port), ("b", any, Bind::Port)]);
        let (table, faults) = bindings.open(&both);
        assert!(table.find(&any).is_some() && table.find(&taken).is_none());
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].listener, "a");
    }
}
