// SPDX-License-Identifier: Apache-2.0
//! What routes do: forward, redirect, answer.

mod forward;

use bytes::Bytes;
use remora_ir::StatusCode;
use remora_ir::action::{DirectResponse, Redirect, RedirectPath};
use remora_xds_types::route;
use remora_xds_types::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};

pub(super) use forward::{forward, mirrors};

use super::retry;
use crate::fault::Scope;
use crate::{access_log, matcher, value};

/// Translates a redirect.
pub(super) fn redirect(scope: &Scope<'_>, message: route::RedirectAction) -> Option<Redirect> {
    fields! { scope, message: route::RedirectAction {
        honoured { host_redirect, port_redirect, response_code, strip_query, scheme_rewrite_specifier, path_rewrite_specifier: "`path_rewrite` is refused" }
        ignored {}
        refused {}
    }}
    let scheme = match scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if !scheme.is_empty() => {
            plain_text(&scope.field("scheme_redirect"), &scheme);
            Some(scheme.into())
        }
        _ => None,
    };
    plain_text(&scope.field("host_redirect"), &host_redirect);
    let path = match path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => {
            plain_text(&scope.field("path_redirect"), &path);
            Some(RedirectPath::Whole(Bytes::from(path)))
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            plain_text(&scope.field("prefix_rewrite"), &prefix);
            Some(RedirectPath::Prefix(Bytes::from(prefix)))
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => Some(RedirectPath::Regex(
            matcher::regex_rewrite(&scope.field("regex_rewrite"), rewrite)?,
        )),
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            scope
                .field("path_rewrite")
                .fault("not supported: formatted paths");
            None
        }
        None => None,
    };
    let port = match port_redirect {
        0 => None,
        port => Some(value::port(&scope.field("port_redirect"), port)?.get()),
    };
    let code_at = scope.field("response_code");
    let status = match value::word(&code_at, response_code)? {
        RedirectResponseCode::MovedPermanently => 301,
        RedirectResponseCode::Found => 302,
        RedirectResponseCode::SeeOther => 303,
        RedirectResponseCode::TemporaryRedirect => 307,
        RedirectResponseCode::PermanentRedirect => 308,
    };
    Some(Redirect {
        status: code_at.take(StatusCode::try_new(status))?,
        scheme,
        host: (!host_redirect.is_empty()).then(|| host_redirect.into()),
        port,
        path,
        strip_query,
    })
}

/// A text that becomes part of a head must not break out of its line.
pub(super) fn plain_text(scope: &Scope<'_>, text: &str) {
    if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        scope.fault("has a blank or a control character");
    }
}

/// Translates a direct response.
pub(super) fn direct(
    scope: &Scope<'_>,
    message: route::DirectResponseAction,
    max_body: usize,
) -> Option<DirectResponse> {
    fields! { scope, message: route::DirectResponseAction {
        honoured { status: "200 to 599", body: "inline only" }
        ignored {}
        refused { body_format: "formatted bodies" }
    }}
    let status_at = scope.field("status");
    let status = retry::status(&status_at, status);
    if status.is_some_and(StatusCode::is_informational) {
        status_at.fault("an interim status is no answer");
    }
    let body_at = scope.field("body");
    let body = match body {
        None => Vec::new(),
        Some(source) => access_log::inline(&body_at, source)?,
    };
    if body.len() > max_body {
        body_at.fault(format!(
            "has {} bytes (at most {max_body}: `max_direct_response_body_size_bytes`)",
            body.len()
        ));
    }
    Some(DirectResponse {
        status: status?,
        body: body.into(),
    })
}
