// SPDX-License-Identifier: Apache-2.0
//! What the consumer receives, and the token by which it answers.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::session::{Delivery, RawResource, Verdict};

/// Changed resources of one type, to be judged.
#[derive(Debug)]
pub struct Update {
    /// The type of the resources.
    pub type_url: Arc<str>,
    /// New and changed resources. May be empty, as may `removed`: then the control plane has said
    /// that what is held is all there is.
    pub added: Vec<RawResource>,
    /// Names that are no more, or that were asked for and do not exist.
    pub removed: Vec<String>,
    /// The right, and the duty, to answer.
    pub token: UpdateToken,
}

/// Answers one update. Dropped without an answer, it becomes a NACK that says so.
#[derive(Debug)]
#[must_use = "an update that is not answered is reported to the control plane as refused"]
pub struct UpdateToken {
    number: u64,
    answers: Option<mpsc::UnboundedSender<Answered>>,
}

/// The receiving end of updates. While it is not read, the control plane is not read either.
#[derive(Debug)]
pub struct Updates {
    pub(crate) receiver: mpsc::Receiver<Update>,
}

/// A consumer's answer on its way to the session; `None` for a token that was dropped.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) number: u64,
    pub(crate) verdict: Option<Verdict>,
}

impl Update {
    pub(crate) fn new(delivery: Delivery, answers: mpsc::UnboundedSender<Answered>) -> Self {
        let token = UpdateToken {
            number: delivery.number,
            answers: Some(answers),
        };
        let Delivery {
            type_url,
            added,
            removed,
            ..
        } = delivery;
        Self {
            type_url,
            added,
            removed,
            token,
        }
    }
}

impl UpdateToken {
    /// Sends the verdict: an ACK if nothing was rejected, else a NACK with all reasons.
    ///
    /// Updates of one type are to be answered in the order in which they came.
    pub fn answer(mut self, verdict: Verdict) {
        self.send(Some(verdict));
    }

    fn send(&mut self, verdict: Option<Verdict>) {
        if let Some(answers) = self.answers.take() {
            // The driver may have ended; then there is nobody left to answer.
            let _ = answers.send(Answered {
                number: self.number,
                verdict,
            });
        }
    }
}

impl Drop for UpdateToken {
    fn drop(&mut self) {
        self.send(None);
    }
}

impl Updates {
    /// Waits for the next update; `None` once the driver has ended.
    ///
    /// *Cancel safety*: safe.
    pub async fn next(&mut self) -> Option<Update> {
        self.receiver.recv().await
    }
}
