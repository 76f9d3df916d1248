// SPDX-License-Identifier: Apache-2.0
//! Which page answers which path, and who may ask for it.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::query::Query;
use super::server::Answer;
use super::{Admin, clusters, config_dump, guard, is_reading, server_info, stats, text};

/// A page of the admin port.
struct Page {
    path: &'static str,
    effect: Effect,
    about: &'static str,
}

/// Whether asking for a page changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// GET.
    Reads,
    /// POST.
    Changes,
}

const PAGES: [Page; 12] = [
    Page {
        path: "/",
        effect: Effect::Reads,
        about: "this list, as a page",
    },
    Page {
        path: "/clusters",
        effect: Effect::Reads,
        about: "upstream clusters and hosts (format=json)",
    },
    Page {
        path: "/config_dump",
        effect: Effect::Reads,
        about: "accepted, warming and refused resources (include_eds, resource=FIELD)",
    },
    Page {
        path: "/drain_listeners",
        effect: Effect::Changes,
        about: "drains listeners (inboundonly, graceful)",
    },
    Page {
        path: "/help",
        effect: Effect::Reads,
        about: "this list",
    },
    Page {
        path: "/listeners",
        effect: Effect::Reads,
        about: "listeners and their addresses (format=json)",
    },
    Page {
        path: "/logging",
        effect: Effect::Changes,
        about: "log levels (level=LEVEL, paths=TARGET:LEVEL,..., or nothing to see them)",
    },
    Page {
        path: "/quitquitquit",
        effect: Effect::Changes,
        about: "ends the process",
    },
    Page {
        path: "/ready",
        effect: Effect::Reads,
        about: "200 and LIVE, or 503",
    },
    Page {
        path: "/server_info",
        effect: Effect::Reads,
        about: "version, state, uptime, node",
    },
    Page {
        path: "/stats",
        effect: Effect::Reads,
        about: "metrics (filter=TEXT, usedonly, format=json|prometheus)",
    },
    Page {
        path: "/stats/prometheus",
        effect: Effect::Reads,
        about: "metrics for Prometheus (usedonly)",
    },
];

/// Answers a request of the admin port.
pub(super) async fn answer(admin: Arc<Admin>, request: Request<Incoming>) -> Answer {
    if let Some(reason) = guard::refusal(request.headers()) {
        return text(StatusCode::FORBIDDEN, format!("{reason}\n"));
    }
    let path = request.uri().path();
    let Some(page) = PAGES.iter().find(|page| page.path == path) else {
        return text(
            StatusCode::NOT_FOUND,
            format!("no page `{path}`\n\n{}", help()),
        );
    };
    let is_allowed = match page.effect {
        Effect::Reads => is_reading(&request),
        Effect::Changes => request.method() == Method::POST,
    };
    if !is_allowed {
        let wanted = match page.effect {
            Effect::Reads => "GET",
            Effect::Changes => "POST",
        };
        let mut refused = text(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("`{path}` expects {wanted}\n"),
        );
        let allowed = http::HeaderValue::from_static(wanted);
        refused.headers_mut().insert(http::header::ALLOW, allowed);
        return refused;
    }
    let query = Query::parse(request.uri().query());
    match path {
        "/clusters" => clusters::answer(&admin, &query),
        "/config_dump" => config_dump::answer(&admin, &query).await,
        "/drain_listeners" => server_info::drain_listeners(&admin, &query).await,
        "/listeners" => server_info::listeners(&admin, &query),
        "/logging" => server_info::logging(&admin, &query),
        "/quitquitquit" => {
            admin.quit.notify_one();
            text(StatusCode::OK, "OK\n")
        }
        "/ready" => server_info::ready(&admin),
        "/server_info" => server_info::answer(&admin),
        "/stats" => stats::answer(&admin, &query),
        "/stats/prometheus" => stats::answer_prometheus(&admin, &query),
        _ => text(StatusCode::OK, help()),
    }
}

fn help() -> String {
    let mut help = String::from("admin pages:\n");
    for page in &PAGES {
        let method = match page.effect {
            Effect::Reads => "",
            Effect::Changes => " (POST)",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(help, "  {}{method}: {}", page.path, page.about);
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_listed_once_and_in_order() {
        assert!(PAGES.windows(2).all(|pair| pair[0].path < pair[1].path));
        let help = help();
        for page in &PAGES {
            assert!(help.contains(&format!("  {}", page.path)), "{}", page.path);
        }
    }
}
