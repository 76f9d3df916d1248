// SPDX-License-Identifier: Apache-2.0
//! Edits of header fields. Source: `request_headers_to_add` and its neighbours.

use remora_ir::HeaderName;
use remora_ir::header_edit::{AppendAction, HeaderEdits, HeaderSet, MessageEdits};
use remora_xds_types::core;
use remora_xds_types::core::header_value_option::HeaderAppendAction;

use crate::fault::Scope;
use crate::{format, matcher, value};

/// What a message says about header fields.
pub(crate) struct Said {
    pub(crate) request_add: Vec<core::HeaderValueOption>,
    pub(crate) request_remove: Vec<String>,
    pub(crate) response_add: Vec<core::HeaderValueOption>,
    pub(crate) response_remove: Vec<String>,
}

/// Edits of both directions.
pub(crate) fn edits(scope: &Scope<'_>, said: Said) -> MessageEdits {
    MessageEdits {
        request: HeaderEdits {
            remove: removals(scope, "request_headers_to_remove", &said.request_remove),
            set: additions(scope, "request_headers_to_add", said.request_add),
        },
        response: HeaderEdits {
            remove: removals(scope, "response_headers_to_remove", &said.response_remove),
            set: additions(scope, "response_headers_to_add", said.response_add),
        },
    }
}

fn removals(scope: &Scope<'_>, field: &'static str, names: &[String]) -> Vec<HeaderName> {
    let numbered = names.iter().enumerate();
    numbered
        .filter_map(|(at, name)| editable(&scope.item(field, at), name))
        .collect()
}

fn additions(
    scope: &Scope<'_>,
    field: &'static str,
    options: Vec<core::HeaderValueOption>,
) -> Vec<HeaderSet> {
    let numbered = options.into_iter().enumerate();
    numbered
        .filter_map(|(at, option)| addition(&scope.item(field, at), option))
        .collect()
}

fn addition(scope: &Scope<'_>, option: core::HeaderValueOption) -> Option<HeaderSet> {
    fields! { scope, option: core::HeaderValueOption {
        honoured { header: "required", append: "the older form of `append_action`", append_action, keep_empty_value }
        ignored {}
        refused {}
    }}
    let Some(header) = header else {
        scope.field("header").fault("is missing");
        return None;
    };
    let (name, value) = header_value(&scope.field("header"), header)?;
    let action = match append {
        Some(append) if append.value => AppendAction::AppendOrAdd,
        Some(_) => AppendAction::OverwriteOrAdd,
        None => match value::word(&scope.field("append_action"), append_action)? {
            HeaderAppendAction::AppendIfExistsOrAdd => AppendAction::AppendOrAdd,
            HeaderAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
            HeaderAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteOrAdd,
            HeaderAppendAction::OverwriteIfExists => AppendAction::OverwriteIfPresent,
        },
    };
    Some(HeaderSet {
        name,
        value,
        action,
        keep_empty: keep_empty_value,
    })
}

fn header_value(
    scope: &Scope<'_>,
    header: core::HeaderValue,
) -> Option<(HeaderName, remora_ir::access_log::Format)> {
    let message = header;
    fields! { scope, message: core::HeaderValue {
        honoured { key, value: "with command operators" }
        ignored {}
        refused { raw_value: "only text, in `value`" }
    }}
    let name = editable(&scope.field("key"), &key);
    let at = scope.field("value");
    // Also what would break out of the field when it is written.
    if value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
        at.fault("has a control character");
    }
    let format = format::compile(&at, &value);
    Some((name?, format?))
}

/// A field that may be edited: no pseudo-header and not `host`.
fn editable(scope: &Scope<'_>, name: &str) -> Option<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        scope.fault(format!(
            "`{name}`: pseudo-headers and `host` cannot be edited"
        ));
        return None;
    }
    matcher::field_name(scope, name)
}
