// SPDX-License-Identifier: Apache-2.0
//! A byte stream to a peer, usable from both directions at once.
//!
//! All I/O takes `&self`, so that a reader and a writer share a stream without a split or a lock.
//! Every operation is tried first and waited for only if it would block. A read that did not fill
//! its buffer has emptied the socket: its readiness is cleared at once, so that the next wait
//! costs no read that finds nothing. Downstream and upstream code alike move bytes through here;
//! what the bytes mean is the codecs' business.
//!
//! Invariant: no operation here blocks, and none that is dropped half-way loses bytes it has read.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::RecvFlags;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// How much room a read is given. One read takes what a peer sends in one go of a usual answer,
/// and an idle connection's buffer stays small. Unit: bytes.
const READ_STEP: usize = 16 * 1024;

/// Room below which a buffer is given another [`READ_STEP`]: reads of a few bytes each would cost
/// a system call apiece. Unit: bytes.
const LEAST_ROOM: usize = 2 * 1024;

/// A connected byte stream.
#[derive(Debug)]
pub struct Stream(Io);

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls the same method of whichever socket it is.
macro_rules! each {
    ($io:expr, $socket:ident => $call:expr) => {
        match $io {
            Io::Tcp($socket) => $call,
            Io::Unix($socket) => $call,
        }
    };
}

impl Stream {
    /// A TCP connection; turns Nagle's algorithm off.
    #[must_use]
    pub fn tcp(stream: TcpStream) -> Self {
        // It fails only on a connection that is already gone, which the first read will say.
        let _ = stream.set_nodelay(true);
        Self(Io::Tcp(stream))
    }

    /// A TCP connection whose options are set already, as those inherited from a listener.
    #[must_use]
    pub const fn tcp_as_is(stream: TcpStream) -> Self {
        Self(Io::Tcp(stream))
    }

    /// A connection over a socket in the file system.
    #[must_use]
    pub const fn unix(stream: UnixStream) -> Self {
        Self(Io::Unix(stream))
    }

    /// Appends what the peer has sent; 0 means that it will send no more.
    ///
    /// *Cancel safety*: safe.
    ///
    /// # Errors
    /// What the system says about the connection.
    pub async fn read_buf(&self, buf: &mut BytesMut) -> io::Result<usize> {
        loop {
            match self.try_read_buf(buf) {
                Err(error) if would_block(&error) => self.readable().await?,
                result => return result,
            }
        }
    }

    /// Appends what is there, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is; else what the system says about the connection.
    pub fn try_read_buf(&self, buf: &mut BytesMut) -> io::Result<usize> {
        if buf.capacity() - buf.len() < LEAST_ROOM {
            buf.reserve(READ_STEP);
        }
        let room = buf.capacity() - buf.len();
        let read = each!(&self.0, s => s.try_read_buf(buf))?;
        if read > 0 && read < room {
            self.clear_readable();
        }
        Ok(read)
    }

    /// Writes all bytes.
    ///
    /// *Cancel safety*: how much was written is lost.
    ///
    /// # Errors
    /// What the system says about the connection.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if would_block(&error) => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes both slices, one after the other, with as few system calls as the peer allows.
    ///
    /// *Cancel safety*: how much was written is lost.
    ///
    /// # Errors
    /// What the system says about the connection.
    pub async fn write_vectored_all(&self, first: &[u8], second: &[u8]) -> io::Result<()> {
        let (mut first, mut second) = (first, second);
        while !first.is_empty() && !second.is_empty() {
            match self.try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
                Ok(written) => {
                    let of_first = written.min(first.len());
                    first = first.get(of_first..).unwrap_or_default();
                    second = second.get(written - of_first..).unwrap_or_default();
                }
                Err(error) if would_block(&error) => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        self.write_all(first).await?;
        self.write_all(second).await
    }

    /// Writes what the socket takes now.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing; else what the system says about the connection.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        not_zero(each!(&self.0, s => s.try_write(bytes)))
    }

    /// Writes what the socket takes now, of several slices.
    ///
    /// # Errors
    /// As [`Self::try_write`].
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        not_zero(each!(&self.0, s => s.try_write_vectored(slices)))
    }

    /// Waits until there may be something to read, or the end.
    ///
    /// *Cancel safety*: safe.
    ///
    /// # Errors
    /// If the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        each!(&self.0, s => s.readable().await)
    }

    /// Waits until there may be room to write, or the connection is gone.
    ///
    /// *Cancel safety*: safe.
    ///
    /// # Errors
    /// If the runtime is shutting down.
    pub async fn writable(&self) -> io::Result<()> {
        each!(&self.0, s => s.writable().await)
    }

    /// Waits until the peer has ended its side or broken the connection; bytes that it has sent
    /// before need not have been read. No system call.
    ///
    /// *Cancel safety*: safe.
    pub async fn peer_closed(&self) {
        // What a priority wait is woken for is urgent data, which the socket is not registered
        // for, or the end of the peer's side.
        let _ = each!(&self.0, s => s.ready(Interest::PRIORITY).await);
    }

    /// Says to the peer that nothing more will come (FIN); reading goes on.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn shutdown_write(&self) -> io::Result<()> {
        SockRef::from(&self.as_fd()).shutdown(Shutdown::Write)
    }

    /// Makes the coming close a reset (RST), so that the peer does not take it for a proper end.
    pub fn abort(&self) {
        if let Io::Tcp(stream) = &self.0 {
            // It fails only if the connection is gone, and then there is nothing to reset.
            let _ = stream.set_zero_linger();
        }
    }

    /// Whether a connection that should be silent is not: bytes, the end or an error are waiting.
    /// Costs a system call only if the poller has flagged the socket since the last read.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let look = || self.peek();
        let result = each!(&self.0, s => s.try_io(Interest::READABLE, look));
        !matches!(result, Err(error) if would_block(&error))
    }

    /// As [`Self::is_stale`], but always asks the kernel: the poller may not have run since the
    /// peer closed. One system call.
    #[must_use]
    pub fn peek_closed(&self) -> bool {
        !matches!(self.peek(), Err(error) if would_block(&error))
    }

    /// Whether the peer has ended the connection and nothing that it sent is left unread. One
    /// system call.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match self.peek() {
            Ok(waiting) => waiting == 0,
            Err(error) => !would_block(&error),
        }
    }

    /// The peer's address. A system call.
    ///
    /// # Errors
    /// If the connection is gone or has no internet address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Io::Tcp(stream) => stream.peer_addr(),
            Io::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Our own address. A system call.
    ///
    /// # Errors
    /// If the connection is gone or has no internet address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Io::Tcp(stream) => stream.local_addr(),
            Io::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The stream as the runtime's traits have it, with bytes that were read already in front.
    #[must_use]
    pub const fn into_tokio(self, prefix: Bytes) -> Prefixed {
        Prefixed {
            prefix,
            stream: self,
        }
    }

    fn peek(&self) -> io::Result<usize> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (seen, _) = rustix::net::recv(self, &mut [0_u8; 1][..], flags)?;
        Ok(seen)
    }

    /// Forgets that the socket was readable; the poller says so again when more comes. An end
    /// that was seen stays seen.
    fn clear_readable(&self) {
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = each!(&self.0, s => s.try_io(Interest::READABLE, nothing));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(&self.0, s => s.as_fd())
    }
}

/// A stream behind the runtime's traits, for codecs that want them (HTTP/2).
#[derive(Debug)]
pub struct Prefixed {
    /// Read before the stream was handed over; given out first.
    prefix: Bytes,
    stream: Stream,
}

impl Prefixed {
    /// The stream itself, for questions about it.
    #[must_use]
    pub const fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let taken = this.prefix.len().min(buf.remaining());
            buf.put_slice(this.prefix.get(..taken).unwrap_or_default());
            this.prefix.advance(taken);
            return Poll::Ready(Ok(()));
        }
        each!(&mut this.stream.0, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().stream.0, s => Pin::new(s).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().stream.0, s => Pin::new(s).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().stream.0, s => Pin::new(s).poll_shutdown(cx))
    }
}

/// Whether trying again later may help.
fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// A socket that takes no byte of many is broken, not slow.
fn not_zero(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
