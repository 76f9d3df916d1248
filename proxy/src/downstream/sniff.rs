// SPDX-License-Identifier: Apache-2.0
//! Decides what is spoken on a connection, without ever stalling it: the rules alone.
//!
//! ```text
//!                     client speaks: verdict on its bytes
//!   silence ──dial──▶ server speaks: opaque at once, the greeting goes on
//!      │              dial fails: a moment for the client to speak, then opaque
//!      └─ 50 ms first, if the destination is known as client-first
//! ```
//!
//! A machine without I/O or clock: [`detect`](super::detect) shows it what was heard and does
//! what it says. No timeout decides what a connection is; the listener's only bounds the wait.
//!
//! Invariant: a verdict is made on bytes that were heard, or on there being none to come.

use std::time::Duration;

use remora_http::detect::tls::{ClientHello, Progress, parse_client_hello};
use remora_http::detect::{self, Greeting};
use remora_ir::listener::Inspect;
use remora_primitives::Instant;

use super::habit::Habit;

/// Silence after which a destination known as client-first is dialled all the same.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long a client may be silent after the dial ahead has failed. A client that speaks first
/// does so in this time and is served by whatever its bytes ask for (another host, an error
/// page); for one that waits for the server the failure is then final.
const GRACE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How long a client may pause within the first bytes of a known protocol, none of which is
/// longer than 24 bytes and is ever sent in two. A protocol that merely starts alike may be
/// waiting for an answer.
const GRACE_WITHIN_PREFIX: Duration = Duration::from_secs(1);

/// What was heard from both sides so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard<'a> {
    /// All bytes of the client.
    pub(super) client: &'a [u8],
    /// Whether it will send no more.
    pub(super) client_ended: bool,
    /// All bytes of the server.
    pub(super) server: &'a [u8],
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Dial the host that the TCP chain would pick.
    Dial,
    /// Wait for either side, the dial, or this moment.
    Wait(Instant),
    /// It is known.
    Done(Verdict),
}

/// What a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// TLS, with what its ClientHello asks for.
    Tls(ClientHello),
    /// HTTP/1.
    Http1 {
        /// It is known to be version 1.0.
        version10: bool,
    },
    /// HTTP/2 with prior knowledge.
    Http2,
    /// FastCGI.
    FastCgi,
    /// Redis.
    Redis,
    /// Bytes.
    Opaque,
    /// Bytes, and the server spoke first.
    ServerFirst(Greeting),
    /// The client left without a word.
    Gone,
    /// Nothing was said in time, and that ends it.
    TimedOut,
}

/// Where the dial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// No TCP chain would take the connection.
    Impossible,
    NotYet,
    Going,
    Up,
    Failed(Instant),
}

/// The rules, for one connection.
#[derive(Debug)]
pub(super) struct Detector {
    inspect: Inspect,
    dial: Dial,
    dial_at: Instant,
    give_up_at: Instant,
    /// When the client's last bytes were heard, and how many there were.
    heard: (Instant, usize),
}

impl Detector {
    /// Begins at `now`. `can_dial` is whether a TCP chain would take the connection.
    pub(super) fn new(
        inspect: Inspect,
        habit: Option<Habit>,
        can_dial: bool,
        now: Instant,
    ) -> Self {
        let patience = match habit {
            Some(Habit::ClientFirst) => PATIENCE,
            Some(Habit::ServerFirst) | None => Duration::ZERO,
        };
        Self {
            inspect,
            dial: if can_dial {
                Dial::NotYet
            } else {
                Dial::Impossible
            },
            dial_at: now + patience,
            give_up_at: inspect
                .timeout
                .map_or(Instant::FAR_FUTURE, |timeout| now + timeout),
            heard: (now, 0),
        }
    }

    /// The dial has succeeded.
    pub(super) const fn on_dialled(&mut self) {
        self.dial = Dial::Up;
    }

    /// The dial has failed, or what was dialled has ended without a word.
    pub(super) const fn on_dial_failed(&mut self, now: Instant) {
        self.dial = Dial::Failed(now);
    }

    /// What to do, with what was heard up to `now`.
    pub(super) fn step(&mut self, heard: Heard<'_>, now: Instant) -> Step {
        if !heard.server.is_empty() {
            return Step::Done(Verdict::ServerFirst(detect::sniff_greeting(heard.server)));
        }
        if !heard.client.is_empty() {
            return self.on_client(heard, now);
        }
        if heard.client_ended {
            return match self.dial {
                // It may have closed its side only, to read what the server says.
                Dial::Up => Step::Done(Verdict::Opaque),
                Dial::Going if now < self.give_up_at => Step::Wait(self.give_up_at),
                _ => Step::Done(Verdict::Gone),
            };
        }
        if now >= self.give_up_at {
            return Step::Done(self.at_the_bound());
        }
        match self.dial {
            Dial::NotYet if now >= self.dial_at => {
                self.dial = Dial::Going;
                Step::Dial
            }
            Dial::NotYet => Step::Wait(self.dial_at.min(self.give_up_at)),
            Dial::Failed(at) if now >= at + GRACE_AFTER_FAILURE => Step::Done(Verdict::Opaque),
            Dial::Failed(at) => Step::Wait((at + GRACE_AFTER_FAILURE).min(self.give_up_at)),
            Dial::Impossible | Dial::Going | Dial::Up => Step::Wait(self.give_up_at),
        }
    }

    fn on_client(&mut self, heard: Heard<'_>, now: Instant) -> Step {
        if heard.client.len() != self.heard.1 {
            self.heard = (now, heard.client.len());
        }
        let patient_until = match self.judge(heard.client) {
            Judged::Known(verdict) => return Step::Done(verdict),
            _ if heard.client_ended => return Step::Done(Verdict::Opaque),
            Judged::PartOfHello => Instant::FAR_FUTURE,
            Judged::PartOfPrefix => self.heard.0 + GRACE_WITHIN_PREFIX,
        };
        if now >= patient_until {
            return Step::Done(Verdict::Opaque);
        }
        if now >= self.give_up_at {
            return Step::Done(self.at_the_bound());
        }
        Step::Wait(patient_until.min(self.give_up_at))
    }

    fn judge(&self, client: &[u8]) -> Judged {
        Judged::Known(match detect::sniff(client) {
            detect::Verdict::NeedMore => return Judged::PartOfPrefix,
            detect::Verdict::Http1 { version10 } => Verdict::Http1 { version10 },
            detect::Verdict::Http2Preface => Verdict::Http2,
            detect::Verdict::FastCgi => Verdict::FastCgi,
            detect::Verdict::Redis => Verdict::Redis,
            detect::Verdict::Opaque => Verdict::Opaque,
            detect::Verdict::Tls if !self.inspect.tls => Verdict::Opaque,
            detect::Verdict::Tls => match parse_client_hello(client) {
                Ok(Progress::Hello(hello)) => Verdict::Tls(hello),
                Ok(Progress::NeedMore) => return Judged::PartOfHello,
                Err(_) => Verdict::Opaque,
            },
        })
    }

    const fn at_the_bound(&self) -> Verdict {
        if self.inspect.continue_on_timeout {
            Verdict::Opaque
        } else {
            Verdict::TimedOut
        }
    }
}

enum Judged {
    Known(Verdict),
    PartOfPrefix,
    PartOfHello,
}

#[cfg(test)]
pub(super) mod tests;
