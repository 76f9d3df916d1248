// SPDX-License-Identifier: Apache-2.0
//! The protocol as a machine without I/O.
//!
//! It answers for what is sent next and for what a response means to the consumer; it opens no
//! stream, waits for nothing and reads no clock. The driver calls it in four ways:
//!
//! * the world changed: [`Session::set_interest`], [`Session::on_stream_open`],
//!   [`Session::on_stream_closed`];
//! * a message came: [`Session::on_push`], which gives a [`Delivery`] for the consumer;
//! * the consumer answered: [`Session::on_verdict`], [`Session::on_unanswered`];
//! * a message may go: [`Session::next_request`], until it gives `None`.
//!
//! The messages here are neutral ([`Push`], [`Request`]); `wire` turns them into those of the two
//! variants, whose rules differ in three places that ask for the [`Mode`].
//!
//! Invariants: requests are made from state when there is room to send them, so nothing queues
//! but answers, and of those at most one for each delivery; what belongs to an ended stream is
//! never sent on the next.

mod interest;
mod subscription;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::config::Mode;
use crate::nack;

pub use interest::Interest;
use subscription::{Answer, Subscription};

/// A resource as it came: named, versioned, not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawResource {
    /// Its name.
    pub name: String,
    /// Its version; in the state-of-the-world variant that of the whole response.
    pub version: String,
    /// The encoded message, of the type of the update.
    pub body: Bytes,
}

/// The consumer's judgement of one update. An update without rejections is accepted (ACK).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What was refused. Resources that are not named here were accepted and are in use.
    pub rejected: Vec<Rejection>,
}

impl Verdict {
    /// Everything was accepted.
    #[must_use]
    pub const fn accepted() -> Self {
        Self {
            rejected: Vec::new(),
        }
    }
}

/// One refused resource. A resource may be named several times, once for each fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The resource's name.
    pub name: String,
    /// What is wrong with it, for the person who wrote the configuration.
    pub reason: String,
}

/// A response, whichever variant it came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// The type of its resources.
    pub type_url: String,
    /// Its mark, to be repeated in the answer.
    pub nonce: String,
    /// The version of the whole response; empty in the delta variant.
    pub version: String,
    /// The resources.
    pub resources: Vec<PushedResource>,
    /// Names that are no more; empty in the state-of-the-world variant.
    pub removed: Vec<String>,
}

/// A resource of a response, before any check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushedResource {
    /// Its name, where one could be found.
    pub name: Option<String>,
    /// Its version.
    pub version: String,
    /// The type URL of its body.
    pub type_url: String,
    /// The body; `None` is a sign of life for a resource with a time to live.
    pub body: Option<Bytes>,
}

/// What the consumer is to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Identifies the delivery in the answer.
    pub number: u64,
    /// The type of the resources.
    pub type_url: Arc<str>,
    /// New and changed resources.
    pub added: Vec<RawResource>,
    /// Names that are no more.
    pub removed: Vec<String>,
}

/// A message to send, whichever variant it goes out in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Whether it is the first of its stream, which carries the node.
    pub is_first: bool,
    /// The type it is about.
    pub type_url: String,
    /// Everything that is of interest.
    pub interest: Interest,
    /// Names to add to what this stream was told; `*` is the wildcard.
    pub subscribe: Vec<String>,
    /// Names to take away from what this stream was told.
    pub unsubscribe: Vec<String>,
    /// Resources already held and their versions (first message of a type on a stream).
    pub initial_versions: BTreeMap<String, String>,
    /// The version of the last response that was accepted as a whole.
    pub version: String,
    /// The response that is answered, if one is.
    pub nonce: String,
    /// Why it was refused, if it was.
    pub refusal: Option<Refusal>,
}

/// The reason in a NACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose fault it is.
    pub origin: Origin,
    /// All faults, within the length limit.
    pub message: String,
}

/// Whose fault a refusal reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The control plane sent what cannot be used (`INVALID_ARGUMENT`).
    Resource,
    /// The consumer never judged it (`INTERNAL`).
    Consumer,
}

/// The machine. One lives as long as its client and sees many streams.
#[derive(Debug)]
pub struct Session {
    mode: Mode,
    /// Few: one for each type. In the order of first interest, which is the order of requests.
    subscriptions: Vec<Subscription>,
    initial_versions: BTreeMap<String, BTreeMap<String, String>>,
    pending: BTreeMap<u64, Pending>,
    next_number: u64,
    /// Counts streams; `is_open` tells whether the last one still is.
    stream: u64,
    is_open: bool,
    is_first_sent: bool,
}

/// A delivery that was not answered yet.
#[derive(Debug)]
struct Pending {
    stream: u64,
    type_url: Arc<str>,
    nonce: String,
    version: String,
    added: Vec<(String, String)>,
    removed: Vec<String>,
    faults: Vec<Rejection>,
}

impl Session {
    /// A session that holds `initial_versions` (type URL, name, version) from an earlier life.
    #[must_use]
    pub const fn new(
        mode: Mode,
        initial_versions: BTreeMap<String, BTreeMap<String, String>>,
    ) -> Self {
        Self {
            mode,
            subscriptions: Vec::new(),
            initial_versions,
            pending: BTreeMap::new(),
            next_number: 0,
            stream: 0,
            is_open: false,
            is_first_sent: false,
        }
    }

    /// Replaces what is of interest in a type. Versions of what no longer is are forgotten.
    pub fn set_interest(&mut self, type_url: &str, interest: Interest) {
        if let Some(known) = self.find_mut(type_url) {
            known.set_interest(interest);
        } else if !interest.is_empty() {
            let held = self.initial_versions.remove(type_url).unwrap_or_default();
            self.subscriptions
                .push(Subscription::new(type_url, interest, held));
        }
    }

    /// A stream was opened: every type of interest will be asked for on it.
    pub fn on_stream_open(&mut self) {
        self.on_stream_closed();
        self.stream += 1;
        self.is_open = true;
    }

    /// The stream ended: nothing is sent until the next one, and its nonces are void.
    pub fn on_stream_closed(&mut self) {
        self.is_open = false;
        self.is_first_sent = false;
        self.subscriptions
            .iter_mut()
            .for_each(Subscription::on_stream_closed);
    }

    /// Reads a response. `None` if nobody asked for its type: that is not answered, because to
    /// many servers the first message about a type is a subscription to all of it.
    pub fn on_push(&mut self, push: Push) -> Option<Delivery> {
        let (mode, stream) = (self.mode, self.stream);
        let position = self
            .subscriptions
            .iter()
            .position(|one| one.is_told(&push.type_url))?;
        let subscription = self.subscriptions.get_mut(position)?;
        subscription.nonce.clone_from(&push.nonce);
        let type_url = Arc::clone(&subscription.type_url);
        let sorted = sort(&push.type_url, push.resources, &subscription.interest);
        let removed = match mode {
            Mode::Delta => of_interest(push.removed, &subscription.interest),
            Mode::Sotw => {
                let unanswered = self.pending.values().filter(|one| one.type_url == type_url);
                let known = unanswered
                    .flat_map(|one| one.added.iter().map(|(name, _)| name))
                    .chain(subscription.versions.keys());
                absent(known, &sorted, &subscription.interest)
            }
        };
        let number = self.next_number;
        self.next_number += 1;
        let versions = sorted
            .added
            .iter()
            .map(|one| (one.name.clone(), one.version.clone()))
            .collect();
        self.pending.insert(
            number,
            Pending {
                stream,
                type_url: Arc::clone(&type_url),
                nonce: push.nonce,
                version: push.version,
                added: versions,
                removed: removed.clone(),
                faults: sorted.faults,
            },
        );
        Some(Delivery {
            number,
            type_url,
            added: sorted.added,
            removed,
        })
    }

    /// The consumer judged a delivery. Says whether all of it was good.
    pub fn on_verdict(&mut self, number: u64, verdict: Verdict) -> bool {
        let Some(mut pending) = self.pending.remove(&number) else {
            return true;
        };
        pending.faults.extend(verdict.rejected);
        let refused: BTreeSet<&str> = pending
            .faults
            .iter()
            .map(|fault| fault.name.as_str())
            .collect();
        pending
            .added
            .retain(|(name, _)| !refused.contains(name.as_str()));
        let refusal = (!pending.faults.is_empty()).then(|| Refusal {
            origin: Origin::Resource,
            message: nack::text(&pending.faults),
        });
        self.settle(pending, refusal)
    }

    /// The consumer lost a delivery without judging it: nothing of it counts as accepted.
    pub fn on_unanswered(&mut self, number: u64) {
        let Some(mut pending) = self.pending.remove(&number) else {
            return;
        };
        pending.added.clear();
        pending.removed.clear();
        let message = "the update was dropped before it was judged".to_owned();
        self.settle(
            pending,
            Some(Refusal {
                origin: Origin::Consumer,
                message,
            }),
        );
    }

    /// Deliveries without an answer. The driver stops reading when there are too many.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// Whether [`next_request`](Self::next_request) has something to give.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.is_open && self.subscriptions.iter().any(Subscription::has_request)
    }

    /// The next message to send on the open stream.
    pub fn next_request(&mut self) -> Option<Request> {
        if !self.is_open {
            return None;
        }
        let mode = self.mode;
        let mut request = self
            .subscriptions
            .iter_mut()
            .find_map(|one| one.next_request(mode))?;
        request.is_first = !std::mem::replace(&mut self.is_first_sent, true);
        Some(request)
    }

    /// Remembers what was accepted and, if its stream is still there, owes it an answer.
    fn settle(&mut self, pending: Pending, refusal: Option<Refusal>) -> bool {
        let is_current = self.is_open && pending.stream == self.stream;
        let mode = self.mode;
        let is_good = refusal.is_none();
        let Some(subscription) = self.find_mut(&pending.type_url) else {
            return is_good;
        };
        for (name, version) in pending.added {
            if subscription.interest.contains(&name) {
                subscription.versions.insert(name, version);
            }
        }
        for name in pending.removed {
            subscription.versions.remove(&name);
        }
        if is_good {
            subscription.version = pending.version;
        }
        // A later response has made this one's nonce stale in the state-of-the-world variant.
        let is_stale = mode == Mode::Sotw && pending.nonce != subscription.nonce;
        if is_current && !is_stale {
            subscription.answers.push_back(Answer {
                nonce: pending.nonce,
                refusal,
            });
        }
        is_good
    }

    fn find_mut(&mut self, type_url: &str) -> Option<&mut Subscription> {
        self.subscriptions
            .iter_mut()
            .find(|one| &*one.type_url == type_url)
    }
}

/// A response's resources, parted.
struct Sorted {
    added: Vec<RawResource>,
    faults: Vec<Rejection>,
    /// All names that were mentioned, good or not.
    present: BTreeSet<String>,
    /// Whether a resource came whose name could not be found.
    has_nameless: bool,
}

/// Parts what can be judged by the consumer from what is wrong whatever it means. Resources that
/// nobody asked for are left out: they may have crossed an unsubscription on the way.
fn sort(type_url: &str, resources: Vec<PushedResource>, interest: &Interest) -> Sorted {
    let mut sorted = Sorted {
        added: Vec::with_capacity(resources.len()),
        faults: Vec::new(),
        present: BTreeSet::new(),
        has_nameless: false,
    };
    for (index, resource) in resources.into_iter().enumerate() {
        let Some(name) = resource.name else {
            let (name, reason) = (format!("resources[{index}]"), "has no name".to_owned());
            sorted.faults.push(Rejection { name, reason });
            sorted.has_nameless = true;
            continue;
        };
        if !interest.contains(&name) {
            continue;
        }
        let is_new = sorted.present.insert(name.clone());
        let Some(body) = resource.body else { continue };
        if !is_new {
            sorted.faults.push(Rejection {
                name,
                reason: "is in the response twice".to_owned(),
            });
        } else if resource.type_url != type_url {
            let reason = format!("is of type `{}`, expected `{type_url}`", resource.type_url);
            sorted.faults.push(Rejection { name, reason });
        } else {
            sorted.added.push(RawResource {
                name,
                version: resource.version,
                body,
            });
        }
    }
    sorted
}

fn of_interest(mut names: Vec<String>, interest: &Interest) -> Vec<String> {
    names.retain(|name| interest.contains(name));
    names.sort_unstable();
    names.dedup();
    names
}

/// What a response in the state-of-the-world variant takes away: under a wildcard, whatever it
/// does not mention. Named resources stay until something else stops to refer to them.
fn absent<'a>(
    known: impl Iterator<Item = &'a String>,
    sorted: &Sorted,
    interest: &Interest,
) -> Vec<String> {
    // A nameless resource may be any of those that seem to be absent: the last good ones stay.
    if !interest.is_wildcard() || sorted.has_nameless {
        return Vec::new();
    }
    let gone: BTreeSet<_> = known
        .filter(|name| !sorted.present.contains(*name))
        .collect();
    gone.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests;
