// SPDX-License-Identifier: Apache-2.0
//! What a request of the state-of-the-world variant means.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use remora_xds_types::ResourceType;
use remora_xds_types::discovery::DiscoveryRequest;

use super::kind::KindState;
use super::{Heard, Session, TooManyNames, heard};
use crate::ads::snapshot::version_of;

impl Session {
    /// Reads a request: each repeats all names, and answers the push whose nonce it carries.
    ///
    /// # Errors
    /// If the stream has subscribed to too much.
    pub fn on_sotw(&mut self, request: DiscoveryRequest) -> Result<Heard, TooManyNames> {
        let Some(kind) = ResourceType::from_url(&request.type_url) else {
            return Ok(Heard::UnknownType);
        };
        let mut names: BTreeSet<String> = request.resource_names.into_iter().collect();
        let is_asterisk = names.remove("*");
        let state = match self.kinds.entry(kind) {
            Entry::Vacant(entry) => {
                let mut state = KindState::default();
                state.set_interest(is_asterisk || names.is_empty(), names);
                let named = self.snapshot.of(kind);
                let wanted = state.wanted(&named);
                let newest =
                    version_of(wanted.map(|one| (one.name.as_str(), one.version.as_str())));
                if newest == request.version_info {
                    state.agree(&named);
                } else {
                    state.owes_answer = true;
                }
                entry.insert(state);
                self.check_size()?;
                return Ok(Heard::Subscribed(kind));
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        let nonce = request.response_nonce;
        if !nonce.is_empty() && nonce != state.last_nonce {
            // The names of a stale request are stale too: they come again with the next answer.
            return Ok(Heard::Stale);
        }
        let answer = (!nonce.is_empty())
            .then(|| state.settle(&nonce, request.error_detail.map(|status| status.message)));
        // Without names a kind that was asked for by name is asked for no more.
        let is_wildcard = is_asterisk || (state.is_wildcard && names.is_empty());
        state.set_interest(is_wildcard, names);
        self.check_size()?;
        // The second request with one nonce changes names only: nothing is in flight any more.
        let answer = answer
            .map(|answer| heard(kind, answer))
            .filter(|one| *one != Heard::Stale);
        Ok(answer.unwrap_or(Heard::Subscribed(kind)))
    }
}
