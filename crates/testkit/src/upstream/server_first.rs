// SPDX-License-Identifier: Apache-2.0
//! A server that speaks first, as MySQL, SMTP and FTP do, and then returns whatever it is sent.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::Acceptor;

/// A server that greets and echoes.
#[derive(Debug)]
pub struct ServerFirst {
    acceptor: Acceptor,
}

/// The start of what a MySQL 8 server says first: length, sequence, protocol 10, version.
pub const MYSQL_GREETING: &[u8] = b"\x4a\x00\x00\x00\x0a8.0.36\x00";

impl ServerFirst {
    /// Starts one that sends `greeting` as soon as somebody connects.
    pub fn start(address: SocketAddr, greeting: &'static [u8]) -> std::io::Result<Self> {
        Self::serve(address, move |stream: &mut TcpStream| {
            stream.write_all(greeting)
        })
    }

    /// Starts one that waits for the client's first byte before it sends `greeting`.
    pub fn start_polite(address: SocketAddr, greeting: &'static [u8]) -> std::io::Result<Self> {
        Self::serve(address, move |stream: &mut TcpStream| {
            stream.peek(&mut [0])?;
            stream.write_all(greeting)
        })
    }

    fn serve(
        address: SocketAddr,
        greet: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let serve = move |stream| {
            // A peer that goes away is how every conversation ends.
            let _ = converse(stream, &greet);
        };
        Ok(Self {
            acceptor: Acceptor::start(address, serve)?,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.acceptor.address
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.acceptor.accepted()
    }
}

fn converse(
    mut stream: TcpStream,
    greet: impl Fn(&mut TcpStream) -> std::io::Result<()>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    greet(&mut stream)?;
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        match buffer.get(..read) {
            Some(bytes) if read > 0 => stream.write_all(bytes)?,
            _ => return Ok(()),
        }
    }
}
