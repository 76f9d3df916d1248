// SPDX-License-Identifier: Apache-2.0
//! `remora analyze`: prints the control plane's own report about a folder.

use std::process::ExitCode;

use remora_control_plane::analyze::analyze;
use remora_control_plane::source::file::FileOptions;

use crate::cli::AnalyzeArgs;
use crate::output;

/// Prints the report; the exit code is the report's.
pub(crate) fn run(args: &AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let options = FileOptions {
        cluster_domain: args.cluster_domain.as_str().into(),
        ..FileOptions::default()
    };
    let report = analyze(&args.folder, options);
    let text = if args.json {
        format!("{}\n", report.to_json())
    } else {
        report.to_text()
    };
    output::print(&text)?;
    Ok(ExitCode::from(report.exit_code()))
}
