// SPDX-License-Identifier: Apache-2.0
//! The driver: opens streams, one after the other, and moves messages between the session, the
//! stream and the consumer.
//!
//! It decides three things only: when to try again, how much may be under way, and when to stop.
//! Everything about the protocol is the session's.
//!
//! Invariant: at most [`MAX_UNANSWERED`] updates are with the consumer; beyond that the stream is
//! not read, and the control plane is held by flow control.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryFutureExt};
use remora_rt::backoff::Backoff;
use remora_rt::clock;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::config::{Config, Mode};
use crate::handle::{Handle, Wanted, Wish};
use crate::session::{Push, Session};
use crate::status::{Counters, State, Status};
use crate::update::{Answered, Update, Updates};
use crate::wire::{Client, Delta, Dialect, Sotw};

/// Makes a client. Nothing happens before [`Driver::run`] is polled.
pub fn new(mut config: Config) -> (Handle, Updates, Driver) {
    let wanted = Arc::new(Wanted::default());
    let (updates, receiver) = mpsc::channel(MAX_UNANSWERED);
    let (answers, answered) = mpsc::unbounded_channel();
    let initial = Status {
        state: State::Connecting,
        since: clock::now(),
        last_error: None,
        counters: Counters::default(),
    };
    let (status, watched) = watch::channel(initial);
    let handle = Handle::new(Arc::clone(&wanted), watched);
    let driver = Driver {
        session: Session::new(config.mode, std::mem::take(&mut config.initial_versions)),
        backoff: Backoff::new(config.backoff, config.seed),
        config,
        wanted,
        updates,
        answers,
        answered,
        status,
    };
    (handle, Updates { receiver }, driver)
}

/// The client's work, to be spawned by its owner.
#[derive(Debug)]
#[must_use = "a client does nothing unless its driver runs"]
pub struct Driver {
    config: Config,
    session: Session,
    backoff: Backoff,
    wanted: Arc<Wanted>,
    updates: mpsc::Sender<Update>,
    answers: mpsc::UnboundedSender<Answered>,
    /// Never longer than the deliveries that are unanswered, which are bounded.
    answered: mpsc::UnboundedReceiver<Answered>,
    status: watch::Sender<Status>,
}

/// How a stream ended.
enum End {
    /// Try again.
    Failed(String),
    /// Nobody needs this client any more.
    Abandoned,
}

impl Driver {
    /// Keeps a stream open until all handles, or the receiver of updates, are dropped.
    ///
    /// *Cancel safety*: dropping the future closes the connection.
    pub async fn run(mut self) {
        let wanted = Arc::clone(&self.wanted);
        loop {
            self.enter(State::Connecting);
            let attempt = self.attempt();
            let end = tokio::select! {
                biased; // an abandoned client ends even if its streams end as fast as they open
                () = wanted.abandoned() => return,
                end = attempt => end,
            };
            self.session.on_stream_closed();
            let End::Failed(reason) = end else { return };
            let delay = self.next_delay();
            tracing::warn!(%reason, ?delay, "the stream to the control plane ended");
            self.status.send_modify(|status| {
                status.last_error = Some(reason.into());
                status.counters.failures += 1;
            });
            self.enter(State::Waiting {
                until: clock::now() + delay,
            });
            tokio::select! {
                biased;
                () = wanted.abandoned() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// One connection with one stream on it.
    async fn attempt(&mut self) -> End {
        let channel = match self.config.dialable().connect().await {
            Ok(channel) => channel,
            Err(error) => return End::Failed(format!("connect: {}", chain(&error))),
        };
        self.enter(State::Connected);
        self.status
            .send_modify(|status| status.counters.streams += 1);
        match self.config.mode {
            Mode::Delta => self.converse::<Delta>(channel).await,
            Mode::Sotw => self.converse::<Sotw>(channel).await,
        }
    }

    async fn converse<D: Dialect>(&mut self, channel: Channel) -> End {
        // Answers that came while there was no stream change what it is asked for.
        while let Ok(answered) = self.answered.try_recv() {
            self.on_answered(answered);
        }
        self.session.on_stream_open();
        if let Some(wish) = self.wanted.take()
            && self.on_wish(wish).is_err()
        {
            return End::Abandoned;
        }
        let client = Client::new(channel).max_decoding_message_size(self.config.max_message_bytes);
        let (requests, outgoing) = mpsc::channel(1);
        let responses = D::open(client, ReceiverStream::new(outgoing)).try_flatten_stream();
        let mut responses = pin!(responses);
        let wanted = Arc::clone(&self.wanted);
        loop {
            // A fair choice: each arm is short and none may starve the others. All of them are
            // cancel safe: a message is taken only by the arm that returns it.
            tokio::select! {
                Some(answered) = self.answered.recv() => self.on_answered(answered),
                wish = wanted.next() => if self.on_wish(wish).is_err() {
                    return End::Abandoned;
                },
                permit = requests.reserve(), if self.session.has_request() => {
                    let Ok(permit) = permit else {
                        return End::Failed("the stream takes no more requests".to_owned());
                    };
                    if let Some(request) = self.session.next_request() {
                        let node = request.is_first.then(|| self.config.node.clone());
                        permit.send(D::encode(request, node));
                    }
                }
                response = responses.next(), if self.session.unanswered() < MAX_UNANSWERED => {
                    match response {
                        Some(Ok(response)) => if self.on_push(D::decode(response)).is_err() {
                            return End::Abandoned;
                        },
                        Some(Err(status)) => return End::Failed(describe(&status)),
                        None => return End::Failed("closed by the control plane".to_owned()),
                    }
                }
            }
        }
    }

    fn on_push(&mut self, push: Push) -> Result<(), Abandoned> {
        tracing::debug!(
            type_url = push.type_url,
            nonce = push.nonce,
            resources = push.resources.len(),
            removed = push.removed.len(),
            "response"
        );
        let Some(delivery) = self.session.on_push(push) else {
            self.status
                .send_modify(|status| status.counters.ignored += 1);
            return Ok(());
        };
        self.status
            .send_modify(|status| status.counters.updates += 1);
        // There is room: the channel holds as many as may be unanswered.
        let update = Update::new(delivery, self.answers.clone());
        self.updates.try_send(update).map_err(|_| Abandoned)
    }

    fn on_answered(&mut self, answered: Answered) {
        let is_good = match answered.verdict {
            Some(verdict) => self.session.on_verdict(answered.number, verdict),
            None => {
                self.session.on_unanswered(answered.number);
                false
            }
        };
        if !is_good {
            self.status
                .send_modify(|status| status.counters.rejected += 1);
        }
    }

    fn on_wish(&mut self, wish: Wish) -> Result<(), Abandoned> {
        let Wish::Changed(types) = wish else {
            return Err(Abandoned);
        };
        for (type_url, interest) in types {
            self.session.set_interest(&type_url, interest);
        }
        Ok(())
    }

    /// The delay before the next attempt. Only a stream that has lived for a while shows that the
    /// control plane is well: one that closes after each message is to be asked ever less often.
    fn next_delay(&mut self) -> Duration {
        let status = self.status.borrow();
        let lived = clock::now() - status.since;
        let was_stable = status.state == State::Connected && lived >= STABLE_AFTER;
        drop(status);
        if was_stable {
            self.backoff.reset();
        }
        self.backoff.next_delay()
    }

    fn enter(&self, state: State) {
        self.status.send_modify(|status| {
            status.state = state;
            status.since = clock::now();
        });
    }
}

/// The consumer has gone.
struct Abandoned;

/// A gRPC status in words, without the parts that say nothing.
fn describe(status: &tonic::Status) -> String {
    let head = if status.message().is_empty() {
        format!("{:?}", status.code())
    } else {
        format!("{:?}: {}", status.code(), status.message())
    };
    let mut text = with_causes(head, status.source());
    text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
    text
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    with_causes(error.to_string(), error.source())
}

fn with_causes(mut text: String, mut cause: Option<&(dyn Error + 'static)>) -> String {
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

/// Updates that may be with the consumer at a time. A first push is four; a consumer that lags by
/// more than this gains nothing from further ones.
const MAX_UNANSWERED: usize = 32;

/// How long a stream has to live before its end is taken for an accident.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Longest reason kept from a control plane. Unit: bytes.
const MAX_REASON_BYTES: usize = 1024;
