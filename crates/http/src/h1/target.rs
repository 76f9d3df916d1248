// SPDX-License-Identifier: Apache-2.0
//! Request targets in their four forms. Source: RFC 9112 section 3.2.
//!
//! The request decoder calls this with a target that has no blank, control or fragment in it.

use bytes::Bytes;

use super::refusal::Refusal;
use crate::authority;
use crate::chars;
use crate::head::Scheme;
use crate::method::Method;

/// A target taken apart.
pub(super) struct Target {
    pub(super) scheme: Option<Scheme>,
    /// Set by absolute-form and authority-form; outranks `Host`.
    pub(super) authority: Option<Bytes>,
    pub(super) path: Bytes,
}

/// Checks the characters that every form shares.
pub(super) fn check_bytes(target: &[u8]) -> Result<(), Refusal> {
    if chars::is_target(target) {
        return Ok(());
    }
    if target.contains(&b'#') {
        return Err(Refusal::Fragment);
    }
    Err(if target.contains(&b'\r') {
        Refusal::BareCr
    } else {
        Refusal::Target("it has a blank or control character")
    })
}

/// Takes a target apart, given the method.
pub(super) fn parse(method: &Method, target: Bytes) -> Result<Target, Refusal> {
    if *method == Method::Connect {
        let parsed = authority::parse(&target).map_err(Refusal::Host)?;
        if parsed.port.is_none() {
            return Err(Refusal::Target("CONNECT without a port"));
        }
        return Ok(Target {
            scheme: None,
            authority: Some(target),
            path: Bytes::new(),
        });
    }
    match &target[..] {
        [b'/', ..] => Ok(Target {
            scheme: None,
            authority: None,
            path: target,
        }),
        b"*" if *method == Method::Options => Ok(Target {
            scheme: None,
            authority: None,
            path: target,
        }),
        b"*" => Err(Refusal::Target("`*` is for OPTIONS only")),
        _ => absolute(method, &target),
    }
}

fn absolute(method: &Method, target: &Bytes) -> Result<Target, Refusal> {
    let split = memchr::memmem::find(target, b"://");
    let Some((scheme, rest)) = split.and_then(|at| target.split_at_checked(at)) else {
        return Err(Refusal::Target("it is neither a path nor an absolute URI"));
    };
    let scheme = Scheme::parse(scheme).ok_or(Refusal::Target("its scheme is not http or https"))?;
    let rest = rest.get(3..).unwrap_or_default();
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    authority::parse(host).map_err(Refusal::Host)?;
    let path = match path {
        [] if *method == Method::Options => Bytes::from_static(b"*"),
        [] => Bytes::from_static(b"/"),
        [b'?', ..] => [b"/", path].concat().into(),
        _ => target.slice_ref(path),
    };
    Ok(Target {
        scheme: Some(scheme),
        authority: Some(target.slice_ref(host)),
        path,
    })
}
