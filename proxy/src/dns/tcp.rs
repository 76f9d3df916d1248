// SPDX-License-Identifier: Apache-2.0
//! The TCP half of the server: messages behind their lengths (RFC 1035 §4.2.2, RFC 7766).
//!
//! Called by `dns` for each TCP socket of a worker. Questions of a connection may be sent without
//! waiting; each is answered when its answer is there.
//!
//! Invariant: connections, questions under way in each, bytes kept of each and the time that one
//! may idle are bounded.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use remora_rt::clock;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::WriteHalf;
use tokio::net::{TcpListener, TcpStream};

use super::answer::Transport;
use super::{Outcome, Server};

/// Serves a listening socket until dropped. Beyond [`MAX_CONNECTIONS`] a new connection is closed
/// at once, so that its resolver need not wait to know.
pub(super) async fn serve(server: Rc<Server>, listener: TcpListener) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                    connections.push(converse(&server, stream, peer));
                }
                Ok((_, peer)) => tracing::debug!(%peer, "DNS: too many connections"),
                Err(error) => {
                    tracing::debug!(%error, "DNS: accepting failed");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(ended) = connections.next() => if let Err(error) = ended {
                tracing::debug!(%error, "DNS: connection failed");
            },
        }
    }
}

/// Answers on a connection until the peer has closed it and has all answers, or idles.
async fn converse(server: &Server, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut inbox = BytesMut::new();
    let mut asking = FuturesUnordered::new();
    let mut is_open = true;
    let mut idle_at = clock::now() + IDLE;
    loop {
        while asking.len() < MAX_PIPELINED {
            let Some(query) = take_message(&mut inbox) else {
                break;
            };
            match server.receive(&query, peer, Transport::Tcp) {
                Outcome::Reply(reply) => write(&mut writer, &reply).await?,
                Outcome::Ask(pending) => asking.push(server.ask(pending)),
                Outcome::Nothing => return Ok(()),
            }
            idle_at = clock::now() + IDLE;
        }
        if !is_open && asking.is_empty() {
            return Ok(());
        }
        tokio::select! {
            Some(reply) = asking.next() => {
                write(&mut writer, &reply).await?;
                idle_at = clock::now() + IDLE;
            }
            ready = reader.readable(), if is_open && asking.len() < MAX_PIPELINED => {
                ready?;
                inbox.reserve(READ_AHEAD);
                match reader.try_read_buf(&mut inbox) {
                    Ok(count) => is_open = count > 0,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            () = clock::sleep_until(idle_at), if asking.is_empty() => return Ok(()),
        }
    }
}

/// Takes the first message off the bytes that were read, if it is there as a whole.
fn take_message(inbox: &mut BytesMut) -> Option<Bytes> {
    let length = usize::from(u16::from_be_bytes(*inbox.first_chunk()?));
    if inbox.len() < LENGTH_LEN + length {
        return None;
    }
    inbox.advance(LENGTH_LEN);
    Some(inbox.split_to(length).freeze())
}

async fn write(writer: &mut WriteHalf<'_>, reply: &[u8]) -> io::Result<()> {
    let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], reply].concat();
    tokio::time::timeout(IDLE, writer.write_all(&framed)).await?
}

/// Connections of one socket at a time.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// Questions of one connection that may wait for an upstream; more are not read meanwhile.
const MAX_PIPELINED: usize = 16;

/// How long a connection may stay without a whole question, and a reply unread.
const IDLE: Duration = Duration::from_secs(10);

/// Room for each read. A message is at most 64 KiB and its length two bytes.
const READ_AHEAD: usize = 2048;

/// Bytes of a message's length.
const LENGTH_LEN: usize = 2;

/// The wait after a failure to accept, which is nearly always a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole_and_in_order() {
        let mut inbox = BytesMut::from(&b"\0\x02ab\0\0\0\x03cd"[..]);
        assert_eq!(take_message(&mut inbox).as_deref(), Some(&b"ab"[..]));
        assert_eq!(take_message(&mut inbox).as_deref(), Some(&b""[..]));
        assert_eq!(take_message(&mut inbox), None);
        inbox.extend_from_slice(b"e\0");
        assert_eq!(take_message(&mut inbox).as_deref(), Some(&b"cde"[..]));
        assert_eq!(take_message(&mut inbox), None, "half a length");
    }
}
