// SPDX-License-Identifier: Apache-2.0
//! Routes for requests: `HTTPRoute` of `VirtualService`, with its retries, mirrors and rewrites.

use std::num::NonZeroU32;
use std::sync::Arc;

use remora_model::{
    DirectResponse, Forward, HeaderEdit, HeaderEdits, HttpAction, HttpRoute, Mirror, PathRewrite,
    Redirect, RedirectPort, RetryOn, RetryPolicy, Rewrite, StringMatch,
};
use remora_primitives::Percent;

use super::super::fields::{Field, Fields};
use super::super::object::Purpose;
use super::super::values::{duration, percent, positive_duration};
use super::matches::{header_name, read_http};
use super::{Context, EditsAllowed, read_destination, read_destinations, read_matches};

/// The largest body of a direct response, as in Istio.
const MAX_BODY: usize = 1024 * 1024;

/// Reads a route; `None` if it does not concern sidecars or is beyond use.
pub(super) fn read_route(item: &Field<'_>, context: &Context<'_>) -> Option<HttpRoute> {
    let fields = item.fields()?;
    fields.no_effect(&["fault", "corsPolicy", "websocketUpgrade"]);
    fields.refuse(&["delegate"], "requests would go elsewhere than written");
    let name = fields.text("name").unwrap_or_default().into();
    let headers = fields
        .take("headers")
        .map(|field| read_edits(&field))
        .unwrap_or_default();
    let redirect = fields.take("redirect");
    let respond = fields.take("directResponse");
    let forward = read_forward(&fields, context);
    let matches = read_matches(&fields, |item| Some(read_http(item)));
    let action = match (redirect, respond, forward) {
        (Some(redirect), None, None) => HttpAction::Redirect(read_redirect(&redirect)?),
        (None, Some(respond), None) => HttpAction::Respond(read_response(&respond)?),
        (None, None, Some(forward)) => HttpAction::Forward(Box::new(forward)),
        (None, None, None) => {
            // What is there was found wanting and reported already.
            if fields
                .take("route")
                .or_else(|| fields.take("delegate"))
                .is_none()
            {
                item.error("none of `route`, `redirect` and `directResponse`");
            }
            return None;
        }
        _ => {
            item.error("more than one of `route`, `redirect` and `directResponse`");
            return None;
        }
    };
    Some(HttpRoute {
        name,
        matches: matches?,
        action,
        headers,
    })
}

fn read_forward(fields: &Fields<'_>, context: &Context<'_>) -> Option<Forward> {
    let timeout = fields.take("timeout").and_then(|field| duration(&field));
    let retries = match fields.take("retries") {
        None => Some(RetryPolicy::default()),
        Some(field) => read_retries(&field),
    };
    let rewrite = fields
        .take("rewrite")
        .map(|field| read_rewrite(&field))
        .unwrap_or_default();
    let mirrors = read_mirrors(fields, context);
    let destinations = read_destinations(fields, context, EditsAllowed::Yes)?;
    // A timeout of zero is no timeout, in Istio as in Envoy.
    let timeout = timeout.filter(|timeout| !timeout.is_zero());
    Some(Forward {
        destinations,
        timeout,
        retries,
        mirrors,
        rewrite,
    })
}

/// Reads `retries`; `None` turns them off, as `attempts: 0` and no `attempts` do.
fn read_retries(field: &Field<'_>) -> Option<RetryPolicy> {
    let fields = field.fields()?;
    let attempts = fields.take("attempts");
    if attempts.is_none() {
        field.warn("`attempts` is missing: there are no retries");
    }
    let mut policy = RetryPolicy {
        per_try_timeout: fields.take("perTryTimeout").and_then(|f| duration(&f)),
        remote_localities: fields.boolean("retryRemoteLocalities").unwrap_or(false),
        ignore_previous_hosts: fields.boolean("retryIgnorePreviousHosts").unwrap_or(true),
        backoff: fields.take("backoff").and_then(|f| positive_duration(&f)),
        ..RetryPolicy::default()
    };
    policy.per_try_timeout = policy.per_try_timeout.filter(|timeout| !timeout.is_zero());
    if let Some(on) = fields.take("retryOn") {
        read_retry_on(&on, &mut policy);
    }
    policy.attempts = NonZeroU32::new(attempts?.unsigned()?)?;
    Some(policy)
}

/// Reads `retryOn`: words and status codes, separated by commas. Empty leaves the default.
fn read_retry_on(field: &Field<'_>, policy: &mut RetryPolicy) {
    let Some(text) = field.text_or_integer() else {
        return;
    };
    let words: Vec<_> = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        return;
    }
    policy.on.clear();
    for word in words {
        if let Some(on) = RetryOn::from_word(word) {
            if !policy.on.contains(&on) {
                policy.on.push(on);
            }
            continue;
        }
        match word.parse::<u16>() {
            Ok(code @ 100..600) => policy.status_codes.push(code),
            _ => field.error(format!("`{word}` is no retry condition and no status code")),
        }
    }
    let word = RetryOn::RetriableStatusCodes;
    if !policy.status_codes.is_empty() && !policy.on.contains(&word) {
        policy.on.push(word);
    }
}

/// Reads `mirror` with its percentage, or `mirrors`.
fn read_mirrors(fields: &Fields<'_>, context: &Context<'_>) -> Vec<Mirror> {
    let old_share = fields
        .take("mirrorPercent")
        .and_then(|field| percent(&field));
    let share = read_share(fields, "mirrorPercentage");
    let single = fields.take("mirror");
    let several = fields.list("mirrors");
    if let Some(single) = single {
        if !several.is_empty() {
            single.error("both `mirror` and `mirrors`");
        }
        let share = share.or(old_share).unwrap_or(Percent::HUNDRED);
        let destination = read_destination(&single, context, Purpose::Copy);
        return destination
            .map(|destination| Mirror { destination, share })
            .into_iter()
            .collect();
    }
    let read = |item: &Fields<'_>| {
        let share = read_share(item, "percentage").unwrap_or(Percent::HUNDRED);
        let destination = read_destination(&item.require("destination")?, context, Purpose::Copy)?;
        Some(Mirror { destination, share })
    };
    several
        .iter()
        .filter_map(Field::fields)
        .filter_map(|item| read(&item))
        .collect()
}

fn read_share(fields: &Fields<'_>, key: &str) -> Option<Percent> {
    let share = fields.map(key)?;
    match share.take("value") {
        Some(value) => percent(&value),
        None => Some(Percent::ZERO),
    }
}

/// Reads `headers`: edits of request and response.
pub(super) fn read_edits(field: &Field<'_>) -> HeaderEdits {
    let Some(fields) = field.fields() else {
        return HeaderEdits::default();
    };
    let side = |key: &str| {
        fields
            .map(key)
            .map(|side| read_edit(&side))
            .unwrap_or_default()
    };
    HeaderEdits {
        request: side("request"),
        response: side("response"),
    }
}

fn read_edit(fields: &Fields<'_>) -> HeaderEdit {
    let pairs = |key: &str| -> Vec<(Arc<str>, Arc<str>)> {
        let Some(field) = fields.take(key) else {
            return Vec::new();
        };
        let read = |(name, value): (&str, Field<'_>)| {
            let number = value
                .is_integer()
                .then(|| value.text_or_integer())
                .flatten();
            let text = number.or_else(|| value.plain_text().map(str::to_owned))?;
            Some((header_name(name, &value)?, Arc::from(text)))
        };
        let mut pairs: Vec<_> = field.pairs().into_iter().filter_map(read).collect();
        pairs.sort();
        pairs
    };
    let (set, add) = (pairs("set"), pairs("add"));
    let remove = fields.list("remove");
    let mut remove: Vec<_> = remove
        .iter()
        .filter_map(|f| header_name(f.text()?, f))
        .collect();
    remove.sort();
    HeaderEdit { set, add, remove }
}

fn read_rewrite(field: &Field<'_>) -> Rewrite {
    let Some(fields) = field.fields() else {
        return Rewrite::default();
    };
    let text = |key: &str| {
        fields
            .take(key)?
            .plain_text()
            .filter(|text| !text.is_empty())
    };
    let authority = text("authority").map(Arc::from);
    let uri = text("uri");
    let regex = fields.take("uriRegexRewrite");
    if uri.is_some() && regex.is_some() {
        field.error("both `uri` and `uriRegexRewrite`");
    }
    let path = match (uri, regex) {
        (Some(uri), _) => Some(PathRewrite::Matched(uri.into())),
        (None, Some(regex)) => read_regex_rewrite(&regex),
        (None, None) => None,
    };
    Rewrite { path, authority }
}

fn read_regex_rewrite(field: &Field<'_>) -> Option<PathRewrite> {
    let fields = field.fields()?;
    let substitution = fields.text("rewrite").unwrap_or_default().into();
    let pattern = fields.require("match")?;
    let text = pattern.text()?;
    StringMatch::try_regex(text)
        .map_err(|error| pattern.error(error.to_string()))
        .ok()?;
    Some(PathRewrite::Regex {
        pattern: text.into(),
        substitution,
    })
}

fn read_redirect(field: &Field<'_>) -> Option<Redirect> {
    let fields = field.fields()?;
    let text = |key: &str| {
        let text = fields
            .take(key)?
            .plain_text()
            .filter(|text| !text.is_empty());
        text.map(Arc::<str>::from)
    };
    let (scheme, authority) = (text("scheme"), text("authority"));
    let (path, prefix) = (text("uri"), text("prefixRewrite"));
    let derived = fields
        .take("derivePort")
        .and_then(|field| match field.text()? {
            "FROM_PROTOCOL_DEFAULT" => Some(RedirectPort::FromProtocolDefault),
            "FROM_REQUEST_PORT" => Some(RedirectPort::FromRequest),
            other => {
                field.error(format!("unknown value `{other}`"));
                None
            }
        });
    let number = fields
        .take("port")
        .and_then(|field| field.port())
        .map(RedirectPort::Number);
    let code = fields.take("redirectCode").map_or(Some(301), |field| {
        let code = field.unsigned()?;
        let code = u16::try_from(code)
            .ok()
            .filter(|c| matches!(c, 301 | 302 | 303 | 307 | 308));
        if code.is_none() {
            field.error("not a redirect's status (expected 301, 302, 303, 307 or 308)");
        }
        code
    })?;
    if path.is_some() && prefix.is_some() {
        field.error("both `uri` and `prefixRewrite`");
    }
    let port = number.or(derived);
    if [&scheme, &authority, &path, &prefix]
        .iter()
        .all(|part| part.is_none())
        && port.is_none()
    {
        field.error("the redirect changes nothing: it would lead back to itself");
    }
    Some(Redirect {
        code,
        scheme,
        authority,
        port,
        path,
        prefix,
    })
}

fn read_response(field: &Field<'_>) -> Option<DirectResponse> {
    let fields = field.fields()?;
    let body = fields
        .map("body")
        .map_or_else(|| Some(Vec::new()), |body| read_body(&body));
    let status = fields.require("status")?;
    let code = status.unsigned()?;
    let code = u16::try_from(code)
        .ok()
        .filter(|code| (200..600).contains(code));
    if code.is_none() {
        status.error("not a final status (expected 200 to 599)");
    }
    Some(DirectResponse {
        status: code?,
        body: body?.into(),
    })
}

fn read_body(body: &Fields<'_>) -> Option<Vec<u8>> {
    let text = body.text("string");
    body.refuse(&["bytes"], "the answer would be empty (use `string`)");
    let bytes = text.unwrap_or_default().as_bytes().to_vec();
    if bytes.len() > MAX_BODY {
        body.own().error(format!(
            "body is {} bytes long (at most {MAX_BODY})",
            bytes.len()
        ));
        return None;
    }
    Some(bytes)
}
