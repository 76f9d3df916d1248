// SPDX-License-Identifier: Apache-2.0
//! The machine's nameservers: which there are, and which of them seem to be dead.
//!
//! They are read from `resolv.conf`, and again when that file changes (a DHCP lease, a VPN). One
//! that let a question wait is suspected for a while, and asked last. Used by `forward`; each
//! worker has its own.
//!
//! Invariant: never empty unless the file names only ourselves, and never holds an address that
//! this server listens on.

use std::cell::{Cell, RefCell};
use std::fs::{self, Metadata};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use remora_primitives::Instant;

/// One nameserver.
#[derive(Debug)]
pub(super) struct Nameserver {
    pub(super) address: SocketAddr,
    suspected_until: Cell<Instant>,
}

impl Nameserver {
    /// A question went unanswered.
    pub(super) fn suspect(&self, now: Instant) {
        self.suspected_until.set(now + SUSPICION);
    }

    /// It answered.
    pub(super) fn trust(&self) {
        self.suspected_until.set(Instant::from_nanos(0));
    }

    fn is_suspected(&self, now: Instant) -> bool {
        self.suspected_until.get() > now
    }
}

/// Nameservers in the order in which to ask them.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) servers: Vec<Rc<Nameserver>>,
    /// Whether even the first one is suspected, so that little should be waited for.
    pub(super) is_hopeless: bool,
}

/// The machine's nameservers.
#[derive(Debug)]
pub(super) struct Nameservers {
    path: PathBuf,
    /// 53, other than in tests: the file cannot say.
    port: u16,
    /// Where this server listens.
    own: Vec<SocketAddr>,
    servers: RefCell<Vec<Rc<Nameserver>>>,
    seen: Cell<Option<FileMark>>,
    next_look: Cell<Instant>,
}

impl Nameservers {
    /// Those of a file, without the addresses in `own`. It is read when they are first needed.
    pub(super) fn new(path: PathBuf, port: u16, own: Vec<SocketAddr>) -> Self {
        Self {
            path,
            port,
            own,
            servers: RefCell::default(),
            seen: Cell::new(None),
            next_look: Cell::new(Instant::from_nanos(0)),
        }
    }

    /// Whom to ask, in order: as in the file, but those under suspicion last.
    pub(super) fn order(&self, now: Instant) -> Order {
        if now >= self.next_look.get() {
            self.next_look.set(now + LOOK_INTERVAL);
            self.reload();
        }
        let mut servers = self.servers.borrow().clone();
        servers.sort_by_key(|server| server.is_suspected(now));
        Order {
            is_hopeless: servers.first().is_some_and(|first| first.is_suspected(now)),
            servers,
        }
    }

    /// Reads the file if it changed. A small file on the system's disk: a read that blocks is
    /// shorter here than a hand-over to another thread.
    fn reload(&self) {
        let mark = fs::metadata(&self.path)
            .ok()
            .map(|found| FileMark::of(&found));
        if mark.is_some() && mark == self.seen.get() {
            return;
        }
        let text = match fs::read(&self.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // A file that is being replaced is looked at again; what was known stays.
            Err(_) if !self.servers.borrow().is_empty() => return,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "nameservers cannot be read");
                String::new()
            }
        };
        self.seen.set(mark);
        let mut known = self.servers.borrow_mut();
        let wanted = parse(&text, self.port);
        let fresh = wanted
            .into_iter()
            .filter(|address| !self.own.contains(address));
        let next: Vec<_> = fresh
            .map(|address| {
                let same = known.iter().find(|server| server.address == address);
                same.map_or_else(
                    || {
                        Rc::new(Nameserver {
                            address,
                            suspected_until: Cell::new(Instant::from_nanos(0)),
                        })
                    },
                    Rc::clone,
                )
            })
            .collect();
        let addresses: Vec<_> = next.iter().map(|server| server.address).collect();
        tracing::debug!(nameservers = ?addresses, "nameservers read");
        *known = next;
    }
}

/// What tells a changed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileMark {
    modified: (i64, i64),
    inode: u64,
    length: u64,
}

impl FileMark {
    fn of(found: &Metadata) -> Self {
        Self {
            modified: (found.mtime(), found.mtime_nsec()),
            inode: found.ino(),
            length: found.len(),
        }
    }
}

/// The addresses of `nameserver` lines, as the C library reads them (resolv.conf(5)): the first
/// three, and the loopback if there is none. Lines that cannot be read are passed over.
fn parse(text: &str, port: u16) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let is_nameserver = words.next() == Some("nameserver");
        is_nameserver.then(|| words.next()).flatten()
    });
    let mut found = Vec::new();
    for address in named.filter_map(|word| parse_address(word, port)) {
        if found.len() < MAX_NAMESERVERS && !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() {
        found.push((Ipv4Addr::LOCALHOST, port).into());
    }
    found
}

/// An address, with the interface if it is link-local: `fe80::1%eth0`.
fn parse_address(word: &str, port: u16) -> Option<SocketAddr> {
    let Some((address, zone)) = word.split_once('%') else {
        return word.parse::<IpAddr>().ok().map(|ip| (ip, port).into());
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = zone.parse().ok().or_else(|| find_interface(zone))?;
    Some(SocketAddrV6::new(address, port, 0, scope).into())
}

/// The number of a network interface.
fn find_interface(name: &str) -> Option<u32> {
    let number = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"));
    number.ok()?.trim().parse().ok()
}

/// The C library asks no more either.
const MAX_NAMESERVERS: usize = 3;

/// How long one that did not answer is asked last.
const SUSPICION: Duration = Duration::from_secs(5);

/// How often the file is looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(0) + Duration::from_secs(1000 + seconds)
    }

    fn addresses(order: &Order) -> Vec<String> {
        let servers = order.servers.iter();
        servers.map(|server| server.address.to_string()).collect()
    }

    #[test]
    fn resolv_conf_is_read_as_the_c_library_does() {
        let table: [(&str, &[&str]); 7] = [
            ("", &["127.0.0.1:53"]),
            (
                "# nameserver 1.1.1.1\n; nameserver 1.1.1.2\n",
                &["127.0.0.1:53"],
            ),
            (
                "search a b\n nameserver\t10.0.0.1 # x\nnameserver ::1\n",
                &["10.0.0.1:53", "[::1]:53"],
            ),
            (
                "nameserver x\nnameserver 10.0.0.1\nnameserver 10.0.0.1\n",
                &["10.0.0.1:53"],
            ),
            ("nameserver fe80::1%7", &["[fe80::1%7]:53"]),
            ("nameserver fe80::1%no-such-interface/..", &["127.0.0.1:53"]),
            (
                "nameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver 1.0.0.3\nnameserver 1.0.0.4",
                &["1.0.0.1:53", "1.0.0.2:53", "1.0.0.3:53"],
            ),
        ];
        for (text, expected) in table {
            let found: Vec<_> = parse(text, 53).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_suspicion_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.0.0.1\nnameserver 10.0.0.2\n").expect("written");
        let own = vec!["10.0.0.9:53".parse().expect("an address")];
        let known = Nameservers::new(path.clone(), 53, own);
        let order = known.order(at(0));
        assert_eq!(addresses(&order), ["10.0.0.1:53", "10.0.0.2:53"]);
        order.servers[0].suspect(at(0));
        let order = known.order(at(1));
        assert_eq!(addresses(&order), ["10.0.0.2:53", "10.0.0.1:53"]);
        assert!(!order.is_hopeless);
        order.servers[0].suspect(at(1));
        assert!(known.order(at(1)).is_hopeless);

        let text = "nameserver 10.0.0.9\nnameserver 10.0.0.1\nnameserver 10.0.0.3\n";
        fs::write(&path, text).expect("written");
        let order = known.order(at(4));
        assert_eq!(
            addresses(&order),
            ["10.0.0.3:53", "10.0.0.1:53"],
            "not ourselves"
        );
        order.servers[1].trust();
        assert_eq!(
            addresses(&known.order(at(4))),
            ["10.0.0.1:53", "10.0.0.3:53"]
        );
        fs::remove_file(&path).expect("removed");
        assert_eq!(known.order(at(7)).servers.len(), 2, "what was known stays");
    }
}
