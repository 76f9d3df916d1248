// SPDX-License-Identifier: Apache-2.0
//! What a request of the delta variant means.

use std::collections::btree_map::Entry;

use remora_xds_types::ResourceType;
use remora_xds_types::discovery::DeltaDiscoveryRequest;

use super::kind::KindState;
use super::{Heard, Session, TooManyNames, heard};

impl Session {
    /// Reads a request: a first subscription, a change of one, an answer, or two of these at once.
    ///
    /// # Errors
    /// If the stream has subscribed to too much.
    pub fn on_delta(&mut self, request: DeltaDiscoveryRequest) -> Result<Heard, TooManyNames> {
        let Some(kind) = ResourceType::from_url(&request.type_url) else {
            return Ok(Heard::UnknownType);
        };
        let nonce = request.response_nonce.clone();
        let refusal = request
            .error_detail
            .as_ref()
            .map(|status| status.message.clone());
        let state = match self.kinds.entry(kind) {
            Entry::Vacant(_) if !nonce.is_empty() => {
                // An answer to a stream of the past; it must not be taken for a wildcard.
                return Ok(Heard::Stale);
            }
            Entry::Vacant(entry) => {
                entry.insert(first(request));
                self.check_size()?;
                return Ok(Heard::Subscribed(kind));
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        let answer = (!nonce.is_empty()).then(|| state.settle(&nonce, refusal));
        change(state, request);
        self.check_size()?;
        Ok(answer.map_or(Heard::Subscribed(kind), |answer| heard(kind, answer)))
    }
}

/// The first request about a kind. An empty list of names stands for all there are.
fn first(request: DeltaDiscoveryRequest) -> KindState {
    let is_wildcard = request.resource_names_subscribe.is_empty();
    let is_fresh = request.initial_resource_versions.is_empty();
    let mut state = KindState::new(is_wildcard, is_fresh);
    for name in request.resource_names_subscribe {
        if name == WILDCARD {
            state.is_wildcard = true;
        } else {
            state.subscribe(name);
        }
    }
    for (name, version) in request.initial_resource_versions {
        state.tell_held(name, version);
    }
    state
}

/// A name that is subscribed again is sent again, changed or not: the node has lost it.
fn change(state: &mut KindState, request: DeltaDiscoveryRequest) {
    for name in request.resource_names_subscribe {
        if name == WILDCARD {
            state.is_wildcard = true;
            state.trim();
        } else {
            state.subscribe(name);
        }
    }
    let is_less = !request.resource_names_unsubscribe.is_empty();
    for name in request.resource_names_unsubscribe {
        if name == WILDCARD {
            state.is_wildcard = false;
        } else {
            state.names.remove(&name);
        }
    }
    if is_less {
        state.trim();
    }
}

const WILDCARD: &str = "*";
