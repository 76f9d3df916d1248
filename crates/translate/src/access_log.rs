// SPDX-License-Identifier: Apache-2.0
//! Access logs to files and standard streams.

use std::sync::Arc;

use remora_ir::access_log::{AccessLog, Format, Shape};
use remora_xds_types::accesslog;
use remora_xds_types::accesslog::access_log::ConfigType;
use remora_xds_types::core;
use remora_xds_types::core::data_source::Specifier;
use remora_xds_types::core::substitution_format_string::Format as FormatKind;
use remora_xds_types::file_access_log::{self, file_access_log::AccessLogFormat};
use remora_xds_types::protobuf::value::Kind;
use remora_xds_types::protobuf::{Any, Struct};
use remora_xds_types::stream_access_log::{
    self, stderr_access_log::AccessLogFormat as StderrFormat,
    stdout_access_log::AccessLogFormat as StdoutFormat,
};

use crate::extension::{self, Need};
use crate::fault::Scope;
use crate::format;

/// All logs of a listener, connection manager or TCP proxy.
pub(crate) fn logs(scope: &Scope<'_>, logs: Vec<accesslog::AccessLog>) -> Vec<AccessLog> {
    let numbered = logs.into_iter().enumerate();
    numbered
        .filter_map(|(at, message)| log(&scope.item("access_log", at), message))
        .collect()
}

fn log(scope: &Scope<'_>, message: accesslog::AccessLog) -> Option<AccessLog> {
    fields! { scope, message: accesslog::AccessLog {
        honoured { name: "a label; the type says what it is", config_type }
        ignored { filter: "everything is logged" }
        refused {}
    }}
    let _: String = name;
    let at = scope.field("typed_config");
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        at.fault("is missing");
        return None;
    };
    let name = extension::name_of(&at, &any)?;
    let (path, shape) = match name.rsplit('.').next().unwrap_or_default() {
        "FileAccessLog" => file(&at, &any)?,
        "StdoutAccessLog" => ("/dev/stdout".to_owned(), stdout(&at, &any)?),
        "StderrAccessLog" => ("/dev/stderr".to_owned(), stderr(&at, &any)?),
        _ => {
            extension::judge(&at, extension::ACCESS_LOGS, &name, Need::Required);
            return None;
        }
    };
    Some(AccessLog {
        path: path.into(),
        shape,
    })
}

#[allow(deprecated, reason = "the older forms of a format are still sent")]
fn file(scope: &Scope<'_>, any: &Any) -> Option<(String, Shape)> {
    let message: file_access_log::FileAccessLog = extension::decode(scope, any)?;
    fields! { scope, message: file_access_log::FileAccessLog {
        honoured { path: "required", access_log_format: "Envoy's default if absent" }
        ignored {}
        refused {}
    }}
    if path.is_empty() {
        scope.field("path").fault("is empty");
    }
    let shape = match access_log_format {
        None => default_shape(scope),
        Some(AccessLogFormat::Format(text)) => text_shape(&scope.field("format"), &text),
        Some(AccessLogFormat::JsonFormat(fields)) => json(&scope.field("json_format"), fields),
        Some(AccessLogFormat::TypedJsonFormat(fields)) => {
            json(&scope.field("typed_json_format"), fields)
        }
        Some(AccessLogFormat::LogFormat(format)) => {
            substitution(&scope.field("log_format"), format)
        }
    };
    Some((path, shape?))
}

fn stdout(scope: &Scope<'_>, any: &Any) -> Option<Shape> {
    let message: stream_access_log::StdoutAccessLog = extension::decode(scope, any)?;
    fields! { scope, message: stream_access_log::StdoutAccessLog {
        honoured { access_log_format }
        ignored {}
        refused {}
    }}
    match access_log_format {
        None => default_shape(scope),
        Some(StdoutFormat::LogFormat(format)) => substitution(&scope.field("log_format"), format),
    }
}

fn stderr(scope: &Scope<'_>, any: &Any) -> Option<Shape> {
    let message: stream_access_log::StderrAccessLog = extension::decode(scope, any)?;
    fields! { scope, message: stream_access_log::StderrAccessLog {
        honoured { access_log_format }
        ignored {}
        refused {}
    }}
    match access_log_format {
        None => default_shape(scope),
        Some(StderrFormat::LogFormat(format)) => substitution(&scope.field("log_format"), format),
    }
}

fn default_shape(scope: &Scope<'_>) -> Option<Shape> {
    text_shape(scope, format::DEFAULT)
}

fn text_shape(scope: &Scope<'_>, text: &str) -> Option<Shape> {
    format::compile(scope, text).map(Shape::Text)
}

#[allow(deprecated, reason = "the older form of a text format is still sent")]
fn substitution(scope: &Scope<'_>, message: core::SubstitutionFormatString) -> Option<Shape> {
    fields! { scope, message: core::SubstitutionFormatString {
        honoured { format: "required" }
        ignored {
            omit_empty_values: "absent values are `-`",
            content_type: "of bodies only",
            json_format_options: "keys are sorted",
            formatters: "operators they would add are refused where they are used"
        }
        refused {}
    }}
    match format {
        None => {
            scope.fault("has no format");
            None
        }
        Some(FormatKind::TextFormat(text)) if text.is_empty() => default_shape(scope),
        Some(FormatKind::TextFormat(text)) => text_shape(&scope.field("text_format"), &text),
        Some(FormatKind::JsonFormat(fields)) => json(&scope.field("json_format"), fields),
        Some(FormatKind::TextFormatSource(source)) => {
            let at = scope.field("text_format_source");
            let bytes = inline(&at, source)?;
            let text = at.take(String::from_utf8(bytes))?;
            text_shape(&at, &text)
        }
    }
}

/// What a data source holds, if it is inline.
pub(crate) fn inline(scope: &Scope<'_>, message: core::DataSource) -> Option<Vec<u8>> {
    fields! { scope, message: core::DataSource {
        honoured { specifier: "`inline_string` and `inline_bytes` only" }
        ignored { watched_directory: "of files only" }
        refused {}
    }}
    match specifier {
        Some(Specifier::InlineString(text)) => Some(text.into_bytes()),
        Some(Specifier::InlineBytes(bytes)) => Some(bytes),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => {
            scope.fault("not supported: only inline data");
            None
        }
        None => {
            scope.fault("is empty");
            None
        }
    }
}

/// An object of text values, keys in alphabetical order.
fn json(scope: &Scope<'_>, object: Struct) -> Option<Shape> {
    let mut members: Vec<_> = object.fields.into_iter().collect();
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    let all = members.len();
    let compiled: Vec<(Arc<str>, Format)> = members
        .into_iter()
        .filter_map(|(key, value)| {
            let at = scope.field(&key);
            let Some(Kind::StringValue(text)) = value.kind else {
                at.fault("not supported: only text values");
                return None;
            };
            let format = format::compile(&at, &text)?;
            Some((Arc::from(key.as_str()), format))
        })
        .collect();
    (compiled.len() == all).then_some(Shape::Json(compiled))
}
