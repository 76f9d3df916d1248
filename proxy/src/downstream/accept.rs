// SPDX-License-Identifier: Apache-2.0
//! Accepts connections from the sockets of one address.
//!
//! Sockets outlive configurations: when the listener of an address changes, its accept tasks go
//! on and give their next connection to the new one. When the address goes, what waits in the
//! backlog is accepted out before the socket is closed.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use remora_rt::backoff::{Backoff, Policy};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Front;
use super::connection::{self, Accepted};
use super::life::Life;
use crate::state::AcceptSockets;

/// Connections accepted in one go before others get their turn.
const BATCH: usize = 32;

/// Connections accepted out of the backlog of a socket that is closed.
const LAST_BATCH: usize = 1024;

/// The accept tasks of one address.
#[derive(Debug)]
pub(super) struct Acceptor {
    sockets: Arc<AcceptSockets>,
    life: Rc<RefCell<Rc<Life>>>,
    /// `None` until the worker has its sockets, which takes descriptors.
    tasks: Option<Vec<Task>>,
}

#[derive(Debug)]
struct Task {
    front: Rc<Front>,
    socket: Rc<TcpListener>,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Acceptor {
    /// For the sockets of an address; nothing is accepted before [`open`](Self::open).
    pub(super) fn new(sockets: Arc<AcceptSockets>, life: Rc<Life>) -> Self {
        Self {
            sockets,
            life: Rc::new(RefCell::new(life)),
            tasks: None,
        }
    }

    /// Whether these are its sockets.
    pub(super) fn is_for(&self, sockets: &Arc<AcceptSockets>) -> bool {
        Arc::ptr_eq(&self.sockets, sockets)
    }

    /// Gives the next connections to a listener.
    pub(super) fn set_life(&self, life: Rc<Life>) {
        *self.life.borrow_mut() = life;
    }

    /// Whether the worker still has to get its sockets.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.tasks.is_none()
    }

    /// Starts accepting, if that has not happened; a failure is logged and tried again later.
    pub(super) fn open(&mut self, front: &Rc<Front>) {
        if self.tasks.is_some() {
            return;
        }
        let start = |socket: std::net::TcpListener| {
            // Accepted connections inherit it, which saves a system call for each.
            SockRef::from(&socket).set_tcp_nodelay(true)?;
            let socket = Rc::new(TcpListener::from_std(socket)?);
            let accepting = accept_all(Rc::clone(front), Rc::clone(&socket), Rc::clone(&self.life));
            let handle = tokio::task::spawn_local(accepting);
            Ok(Task {
                front: Rc::clone(front),
                socket,
                handle,
            })
        };
        let sockets = self.sockets.of_worker(front.worker.id);
        let tasks = sockets.and_then(|all| all.into_iter().map(start).collect());
        match tasks {
            Ok(tasks) => self.tasks = Some(tasks),
            Err(error) => {
                let address = self.sockets.address();
                tracing::warn!(%address, %error, "cannot accept connections yet");
            }
        }
    }

    /// Accepts what waits, then closes the sockets.
    pub(super) fn close(self) {
        for task in self.tasks.iter().flatten() {
            task.handle.abort();
            for _ in 0..LAST_BATCH {
                match accept_now(&task.socket) {
                    Ok((stream, peer)) => admit(&task.front, &self.life, stream, peer),
                    Err(error) if is_of_peer(&error) => {}
                    Err(_) => break,
                }
            }
        }
    }
}

/// Accepts a connection that waits in the backlog, whether the poller has told of it or not.
fn accept_now(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = SockRef::from(socket).accept()?;
    stream.set_nonblocking(true)?;
    let peer = peer.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((TcpStream::from_std(stream.into())?, peer))
}

/// Accepts until the task is aborted.
async fn accept_all(front: Rc<Front>, socket: Rc<TcpListener>, life: Rc<RefCell<Rc<Life>>>) {
    let mut backoff = pause(front.worker.random());
    let mut batch = 0;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                backoff.reset();
                admit(&front, &life, stream, peer);
                batch += 1;
                if batch % BATCH == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_of_peer(&error) => {}
            Err(error) => {
                let delay = backoff.next_delay();
                if backoff.attempts() == 1 {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                }
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// Begins to serve a connection, or closes it at once if the process has as many as allowed.
fn admit(front: &Rc<Front>, life: &Rc<RefCell<Rc<Life>>>, stream: TcpStream, peer: SocketAddr) {
    let life = Rc::clone(&life.borrow());
    let Some(place) = front.worker.shared.connections.try_take() else {
        life.stats.global_cx_overflow.increment();
        tracing::debug!(listener = %life.listener.name, %peer, "process has no connection left");
        return;
    };
    let accepted = Accepted {
        stream,
        peer,
        life,
        place,
    };
    // The connection ends by itself or by its drain, for which it holds a token.
    tokio::task::spawn_local(connection::serve(Rc::clone(front), accepted));
}

/// Whether an error is about one connection only, which is gone: the next one may be fine.
fn is_of_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Waits between failures of the system: no descriptors, no memory.
fn pause(seed: u64) -> Backoff {
    const BASE: Duration = Duration::from_millis(5);
    const MAX: Duration = Duration::from_secs(1);
    let policy = Policy::try_new(BASE, MAX).expect("5 ms is less than a second");
    Backoff::new(policy, seed)
}
