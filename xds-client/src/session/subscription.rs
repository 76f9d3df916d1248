// SPDX-License-Identifier: Apache-2.0
//! One type of the session: what is wanted of it, what is held, what the stream was told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::interest::Interest;
use super::{Refusal, Request};
use crate::config::Mode;

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) type_url: Arc<str>,
    /// What is wanted.
    pub(super) interest: Interest,
    /// What is held: the accepted resources and their versions.
    pub(super) versions: BTreeMap<String, String>,
    /// State of the world: the version of the last response that was accepted as a whole.
    pub(super) version: String,
    /// State of the world: the nonce of the last response on this stream.
    pub(super) nonce: String,
    /// Answers owed to this stream.
    pub(super) answers: VecDeque<Answer>,
    /// What this stream was told; `None` before its first message about the type.
    told: Option<Interest>,
}

/// An ACK, or a NACK with its reason.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) nonce: String,
    pub(super) refusal: Option<Refusal>,
}

impl Subscription {
    pub(super) fn new(
        type_url: &str,
        interest: Interest,
        mut versions: BTreeMap<String, String>,
    ) -> Self {
        versions.retain(|name, _| interest.contains(name));
        Self {
            type_url: type_url.into(),
            version: common_version(&versions),
            interest,
            versions,
            nonce: String::new(),
            answers: VecDeque::new(),
            told: None,
        }
    }

    pub(super) fn set_interest(&mut self, interest: Interest) {
        self.versions.retain(|name, _| interest.contains(name));
        self.interest = interest;
    }

    pub(super) fn on_stream_closed(&mut self) {
        self.told = None;
        self.nonce.clear();
        self.answers.clear();
    }

    /// Whether this stream was asked for `type_url`, and it is this type.
    pub(super) fn is_told(&self, type_url: &str) -> bool {
        self.told.is_some() && &*self.type_url == type_url
    }

    pub(super) fn has_request(&self) -> bool {
        match &self.told {
            None => !self.interest.is_empty(),
            Some(told) => !self.answers.is_empty() || *told != self.interest,
        }
    }

    /// The next message about this type: its first, an answer, or a change of interest.
    pub(super) fn next_request(&mut self, mode: Mode) -> Option<Request> {
        if !self.has_request() {
            return None;
        }
        let mut request = Request {
            type_url: self.type_url.to_string(),
            ..Request::default()
        };
        let Some(told) = &mut self.told else {
            request.interest = self.interest.clone();
            request.subscribe = first_names(&self.interest);
            request.initial_versions.clone_from(&self.versions);
            request.version.clone_from(&self.version);
            self.told = Some(self.interest.clone());
            return Some(request);
        };
        let answer = self.answers.pop_front();
        // In the state-of-the-world variant each message repeats the names and the last nonce; in
        // the delta variant an answer says nothing else, and a change of interest has no nonce.
        if answer.is_none() || mode == Mode::Sotw {
            request.subscribe = self.interest.without(told);
            request.unsubscribe = told.without(&self.interest);
            told.clone_from(&self.interest);
        }
        request.interest = self.interest.clone();
        request.version.clone_from(&self.version);
        match answer {
            Some(answer) => {
                request.nonce = answer.nonce;
                request.refusal = answer.refusal;
            }
            None if mode == Mode::Sotw => request.nonce.clone_from(&self.nonce),
            None => {}
        }
        Some(request)
    }
}

/// The names of a type's first message. A wildcard alone is an empty list there, which every
/// server understands; beside names it has to be written out.
fn first_names(interest: &Interest) -> Vec<String> {
    let names = interest.without(&Interest::default());
    if interest.iter_names().next().is_none() {
        Vec::new()
    } else {
        names
    }
}

/// The version that all resources held have in common: the one of the response that brought them.
fn common_version(versions: &BTreeMap<String, String>) -> String {
    let mut distinct = versions.values();
    let first = distinct.next().cloned().unwrap_or_default();
    if distinct.all(|version| *version == first) {
        first
    } else {
        String::new()
    }
}
