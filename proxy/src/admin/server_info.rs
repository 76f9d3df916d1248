// SPDX-License-Identifier: Apache-2.0
//! The small pages: readiness, version, listeners, log levels, drains.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use remora_ir::listener::{Bind, Direction, Listener};
use remora_rt::clock;
use remora_xds_client::State;
use serde_json::{Value, json};

use super::query::Query;
use super::server::Answer;
use super::{Admin, json, text, wants_json};
use crate::control::sockets::Closed;
use crate::state::Phase;

/// Answers `/ready`: 200 if traffic should be sent here.
pub(super) fn ready(admin: &Admin) -> Answer {
    let phase = admin.shared.readiness.phase();
    let status = if phase == Phase::Live {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    text(status, format!("{}\n", phase.envoy_name()))
}

/// Answers `/server_info`.
pub(super) fn answer(admin: &Admin) -> Answer {
    let shared = &admin.shared;
    let uptime = clock::now() - shared.started.at;
    let seconds = format!("{}s", uptime.as_secs());
    json(&json!({
        "version": concat!("remora/", env!("CARGO_PKG_VERSION")),
        "state": shared.readiness.phase().envoy_name(),
        "uptime_current_epoch": seconds,
        "uptime_all_epochs": seconds,
        "started": timestamp(shared.started.wall),
        "node": {
            "id": &*shared.identity.node_id,
            "cluster": &*shared.identity.cluster,
        },
        "command_line_options": { "concurrency": admin.workers },
        "generation": admin.live.generation(),
        "control_plane": control_plane(admin),
    }))
}

fn control_plane(admin: &Admin) -> Value {
    let Some(status) = &admin.control_plane else {
        return Value::Null;
    };
    let status = status.borrow();
    let state = match status.state {
        State::Connecting => "CONNECTING",
        State::Waiting { .. } => "WAITING",
        State::Connected => "CONNECTED",
    };
    json!({
        "state": state,
        "for_seconds": (clock::now() - status.since).as_secs(),
        "last_error": status.last_error.as_deref(),
        "streams": status.counters.streams,
        "failures": status.counters.failures,
        "updates": status.counters.updates,
        "rejected": status.counters.rejected,
    })
}

/// Answers `/listeners`: those that own a socket, and with JSON the others too.
pub(super) fn listeners(admin: &Admin, query: &Query) -> Answer {
    let live = admin.live.current();
    let mut all: Vec<_> = live.snapshot.listeners.iter().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    if wants_json(query) {
        let statuses: Vec<_> = all.iter().map(|listener| listener_json(listener)).collect();
        return json(&json!({ "listener_statuses": statuses }));
    }
    let mut lines = String::new();
    for listener in all.iter().filter(|listener| listener.bind == Bind::Port) {
        for address in std::iter::once(&listener.address).chain(&listener.more_addresses) {
            let open = live
                .sockets()
                .find(address)
                .map(|sockets| sockets.address());
            let shown = open.map_or_else(|| format!("{address} (not open)"), |at| at.to_string());
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{}::{shown}", listener.name);
        }
    }
    text(StatusCode::OK, lines)
}

fn listener_json(listener: &Listener) -> Value {
    let direction = match listener.direction {
        Direction::Unspecified => "UNSPECIFIED",
        Direction::Inbound => "INBOUND",
        Direction::Outbound => "OUTBOUND",
    };
    let address = |at: &std::net::SocketAddr| json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
    json!({
        "name": listener.name.as_str(),
        "local_address": address(&listener.address),
        "additional_local_addresses":
            listener.more_addresses.iter().map(address).collect::<Vec<_>>(),
        "traffic_direction": direction,
        "bind_to_port": listener.bind == Bind::Port,
    })
}

/// Answers `/logging`: changes levels and shows them.
pub(super) fn logging(admin: &Admin, query: &Query) -> Answer {
    let Some(log) = &admin.shared.log else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "logs are not set up\n");
    };
    for (name, value) in query.iter() {
        let changed = match name {
            "level" => log.set_level(value),
            "paths" => log.set_targets(value),
            target => log.set_targets(&format!("{target}={value}")),
        };
        if let Err(error) = changed {
            return text(StatusCode::BAD_REQUEST, format!("{error}\n"));
        }
    }
    let levels = log.levels();
    let mut lines = format!("active loggers:\n  default: {}\n", levels.default);
    for (target, level) in &levels.targets {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "  {target}: {level}");
    }
    text(StatusCode::OK, lines)
}

/// Answers `/drain_listeners`: present connections are told to end after what they do now, and
/// the addresses are given up: at once, or with `graceful` after the drain time.
pub(super) async fn drain_listeners(admin: &Admin, query: &Query) -> Answer {
    let grace = if query.has("graceful") {
        admin.drain_time
    } else {
        Duration::ZERO
    };
    let what = if query.has("inboundonly") {
        Closed::Inbound
    } else {
        Closed::Everything
    };
    admin.close(what, grace).await;
    let drains = &admin.shared.drains;
    admin.shared.readiness.advance(Phase::Draining);
    drains.inbound.graceful(grace);
    if !query.has("inboundonly") {
        drains.outbound.graceful(grace);
    }
    text(StatusCode::OK, "OK\n")
}

/// A moment as protobuf's JSON has it: RFC 3339, UTC, milliseconds.
pub(super) fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The Gregorian date of a number of days since 1970: years begin in March here, so that the day
/// that comes and goes is the last one.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_210_096, "2024-02-29T12:34:56.000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000Z"),
        ];
        for (seconds, expected) in table {
            let at = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(at), expected);
        }
    }
}
