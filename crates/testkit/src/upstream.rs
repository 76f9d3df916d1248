// SPDX-License-Identifier: Apache-2.0
//! Scripted servers for the proxy to meet, each a listener thread with a thread per connection.
//!
//! A server stays in the network namespace of the thread that starts it. Dropping its handle stops
//! the listener and closes its connections.

pub mod http;
pub mod server_first;

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use self::http::HttpUpstream;
pub use self::server_first::ServerFirst;

/// The listener half that all scripted servers share.
#[derive(Debug)]
struct Acceptor {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    accepted: AtomicUsize,
    /// Connections being served, to be closed when the handle is dropped.
    open: Mutex<HashMap<usize, TcpStream>>,
}

impl Shared {
    fn lock_open(&self) -> MutexGuard<'_, HashMap<usize, TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Acceptor {
    fn start(
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let accepting = listener.try_clone()?;
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let serve = Arc::new(serve);
        let thread = std::thread::Builder::new()
            .name("upstream".to_owned())
            .spawn(move || {
                while !seen.stopping.load(Ordering::Acquire) {
                    let Ok((stream, _)) = accepting.accept() else {
                        continue;
                    };
                    let number = seen.accepted.fetch_add(1, Ordering::Relaxed);
                    let Ok(copy) = stream.try_clone() else {
                        continue;
                    };
                    seen.lock_open().insert(number, copy);
                    let (serve, seen) = (Arc::clone(&serve), Arc::clone(&seen));
                    // It ends when its connection does, at the latest when the handle is dropped.
                    let _ = std::thread::Builder::new().spawn(move || {
                        serve(stream);
                        seen.lock_open().remove(&number);
                    });
                }
            })?;
        Ok(Self {
            address,
            listener,
            shared,
            thread: Some(thread),
        })
    }

    fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // This wakes the thread from `accept`, whichever namespace the listener is in.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for (_, stream) in self.shared.lock_open().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
