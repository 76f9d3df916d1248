// SPDX-License-Identifier: Apache-2.0
//! The UDP half of the server: datagrams in, datagrams out.
//!
//! Called by `dns` for each UDP socket of a worker. What must be asked upstream does not hold up
//! what is known; how much of it may be under way is the server's to say.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::UdpSocket;

use super::answer::Transport;
use super::{Outcome, Server};

/// Serves a socket until dropped.
pub(super) async fn serve(server: Rc<Server>, socket: UdpSocket) {
    let mut datagram = vec![0; usize::from(u16::MAX)];
    let mut asking = FuturesUnordered::new();
    loop {
        tokio::select! {
            received = socket.recv_from(&mut datagram) => match received {
                Ok((length, peer)) => {
                    let query = datagram.get(..length).unwrap_or_default();
                    match server.receive(query, peer, Transport::Udp) {
                        Outcome::Reply(reply) => send(&socket, &reply, peer),
                        Outcome::Ask(pending) => {
                            let server = &server;
                            asking.push(async move { (server.ask(pending).await, peer) });
                        }
                        Outcome::Nothing => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "DNS: receiving failed");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some((reply, peer)) = asking.next() => send(&socket, &reply, peer),
        }
    }
}

/// Sends a reply, or loses it where the kernel has no room: that is what datagrams do.
fn send(socket: &UdpSocket, reply: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.try_send_to(reply, peer) {
        tracing::debug!(%peer, %error, "DNS: sending failed");
    }
}

/// The wait after a failure to receive, so that one that persists does not use up the thread.
const PAUSE: Duration = Duration::from_millis(10);
