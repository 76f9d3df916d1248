// SPDX-License-Identifier: Apache-2.0
//! Listening sockets on their way to the workers.
//!
//! `rt::sockets` owns the descriptors; what travels with the configuration are duplicates, cut
//! into one share for each worker. Equal sockets are the same `Arc` from one configuration to the
//! next, so a worker keeps what is pointer-equal and drops the rest; the kernel closes an address
//! when the owner and the last worker have let go.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

/// The sockets of one address.
#[derive(Debug)]
pub struct AcceptSockets {
    address: SocketAddr,
    /// One group for each worker.
    shares: Vec<Vec<TcpListener>>,
}

impl AcceptSockets {
    /// Cuts the sockets of an address into a share for each of `workers`.
    pub fn new(address: SocketAddr, sockets: Vec<TcpListener>, workers: usize) -> Self {
        Self {
            address,
            shares: share_out(sockets, workers),
        }
    }

    /// The address as bound, with the real port.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Duplicates of the sockets that a worker is to accept from; they are non-blocking.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn of_worker(&self, index: usize) -> io::Result<Vec<TcpListener>> {
        let share = self.shares.get(index).map_or(&[][..], Vec::as_slice);
        share.iter().map(TcpListener::try_clone).collect()
    }
}

/// All sockets of a configuration, by the address that was asked for.
#[derive(Clone, Debug, Default)]
pub struct SocketTable(BTreeMap<SocketAddr, Arc<AcceptSockets>>);

impl SocketTable {
    /// The sockets of an address as a listener names it.
    pub fn find(&self, address: &SocketAddr) -> Option<&Arc<AcceptSockets>> {
        self.0.get(address)
    }

    /// All addresses as listeners name them, with their sockets.
    pub fn iter(&self) -> impl Iterator<Item = (&SocketAddr, &Arc<AcceptSockets>)> {
        self.0.iter()
    }
}

impl FromIterator<(SocketAddr, Arc<AcceptSockets>)> for SocketTable {
    fn from_iter<I: IntoIterator<Item = (SocketAddr, Arc<AcceptSockets>)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// A worker's share of the DNS sockets.
#[derive(Debug, Default)]
pub struct DnsSockets {
    /// Bound, non-blocking.
    pub udp: Vec<UdpSocket>,
    /// Listening, non-blocking.
    pub tcp: Vec<TcpListener>,
}

/// Worker *i* has the sockets whose index modulo the worker count is *i*.
pub(crate) fn share_out<S>(sockets: Vec<S>, workers: usize) -> Vec<Vec<S>> {
    let mut shares: Vec<Vec<S>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, socket) in sockets.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(index % workers.max(1)) {
            share.push(socket);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_has_exactly_one_worker() {
        assert_eq!(
            share_out(vec![0, 1, 2, 3, 4], 2),
            [vec![0, 2, 4], vec![1, 3]]
        );
        assert_eq!(share_out(vec![0], 2), [vec![0], vec![]]);
        assert_eq!(share_out(vec![0], 0), Vec::<Vec<i32>>::new());
    }
}
