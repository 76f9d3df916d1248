// SPDX-License-Identifier: Apache-2.0
//! Edits of header fields that routes and virtual hosts ask for.
//!
//! Source: `request_headers_to_add/remove` and `response_headers_to_add/remove` of
//! `envoy.config.route.v3`. Pseudo-fields and `host` cannot be edited this way, as in Envoy.

use remora_http::HeaderName;

use crate::access_log::Format;

/// What happens if the field is there already. Source: `HeaderValueOption.HeaderAppendAction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAction {
    /// Add one more.
    AppendOrAdd,
    /// Leave what is there.
    AddIfAbsent,
    /// Replace what is there, or add.
    OverwriteOrAdd,
    /// Replace what is there; add nothing.
    OverwriteIfPresent,
}

/// One field to set.
#[derive(Clone, Debug)]
pub struct HeaderSet {
    /// The field.
    pub name: HeaderName,
    /// Its value, with command operators.
    pub value: Format,
    /// What happens if it is there.
    pub action: AppendAction,
    /// Whether an empty value is written (`keep_empty_value`).
    pub keep_empty: bool,
}

/// Edits of one message, removals first.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// Fields to remove.
    pub remove: Vec<HeaderName>,
    /// Fields to set, in order.
    pub set: Vec<HeaderSet>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }
}

/// Edits of the request on its way up and of the response on its way down.
#[derive(Clone, Debug, Default)]
pub struct MessageEdits {
    /// Of the request.
    pub request: HeaderEdits,
    /// Of the response.
    pub response: HeaderEdits,
}
