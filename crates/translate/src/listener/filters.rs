// SPDX-License-Identifier: Apache-2.0
//! Listener filters: what is looked at before a chain is chosen.

use remora_xds_types::listener;
use remora_xds_types::listener::listener_filter::ConfigType;
use remora_xds_types::protobuf::Any;
use remora_xds_types::tls_inspector;

use crate::extension::{self, Need};
use crate::fault::Scope;
use crate::verdict::Verdict;

/// The listener filters that were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ListenerFilters {
    pub(super) original_dst: bool,
    pub(super) tls: bool,
    pub(super) http: bool,
}

/// Reads the list; their order has no meaning here.
pub(super) fn listener_filters(
    scope: &Scope<'_>,
    filters: Vec<listener::ListenerFilter>,
) -> ListenerFilters {
    let mut found = ListenerFilters::default();
    for (at, message) in filters.into_iter().enumerate() {
        filter(&scope.item("listener_filters", at), message, &mut found);
    }
    found
}

fn filter(scope: &Scope<'_>, message: listener::ListenerFilter, found: &mut ListenerFilters) {
    fields! { scope, message: listener::ListenerFilter {
        honoured { name: "a label; the type says what it is", config_type: "inline only" }
        ignored {
            filter_disabled: "bytes are looked at only where a chain asks for them, and never waited for"
        }
        refused {}
    }}
    let _: String = name;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            let at = scope.field("config_discovery");
            return at.fault("not supported: filters by discovery");
        }
        None => return scope.field("typed_config").fault("is missing"),
    };
    let at = scope.field("typed_config");
    let Some(name) = extension::name_of(&at, &any) else {
        return;
    };
    if !matches!(
        extension::row(extension::LISTENER_FILTERS, &name),
        Some((_, Verdict::Honoured, _))
    ) {
        return extension::judge(&at, extension::LISTENER_FILTERS, &name, Need::Required);
    }
    match name.rsplit('.').next().unwrap_or_default() {
        "OriginalDst" => found.original_dst = true,
        "HttpInspector" => found.http = true,
        _ => {
            found.tls = true;
            tls_inspector_options(&at, &any);
        }
    }
}

fn tls_inspector_options(scope: &Scope<'_>, any: &Any) {
    let Some(message) = extension::decode::<tls_inspector::TlsInspector>(scope, any) else {
        return;
    };
    fields! { scope, message: tls_inspector::TlsInspector {
        honoured {}
        ignored {
            enable_ja3_fingerprinting: "nothing reads fingerprints",
            enable_ja4_fingerprinting: "nothing reads fingerprints",
            initial_read_buffer_size: "buffers size themselves",
            close_connection_on_client_hello_parsing_errors: "what is no ClientHello is opaque bytes",
            max_client_hello_size: "a ClientHello may have 16 KiB"
        }
        refused {}
    }}
}
