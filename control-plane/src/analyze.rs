// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a folder of configuration, without serving it.
//!
//! `remora analyze DIR` prints the report and exits with its code, so that a pipeline can refuse
//! a change before a mesh meets it. The same code reads the folder as the control plane does: what
//! is reported here is what would be reported there.

use std::path::Path;

use serde::Serialize;

use crate::source::file::{FileOptions, FileSource, Touched};
use crate::source::{Finding, Severity};

/// What is wrong, sorted by file and line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many findings are errors.
    pub errors: usize,
    /// How many findings are warnings.
    pub warnings: usize,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// Reads a folder and reports what is wrong. Blocks on the file system; a folder that cannot be
/// read is a finding.
#[must_use]
pub fn analyze(folder: &Path, options: FileOptions) -> Report {
    let scan = FileSource::new(folder, options).scan(&Touched::All);
    let findings = scan
        .snapshot
        .map(|snapshot| snapshot.findings)
        .unwrap_or_default();
    let errors = findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .count();
    Report {
        errors,
        warnings: findings.len() - errors,
        findings,
    }
}

impl Report {
    /// What the program exits with: 1 if there is an error, else 0.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if self.errors > 0 { 1 } else { 0 }
    }

    /// One line for each finding, and one with the counts.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text: String = self
            .findings
            .iter()
            .map(|finding| format!("{finding}\n"))
            .collect();
        let plural = |count: usize, word: &str| match count {
            1 => format!("1 {word}"),
            _ => format!("{count} {word}s"),
        };
        let (errors, warnings) = (
            plural(self.errors, "error"),
            plural(self.warnings, "warning"),
        );
        text.push_str(&format!("{errors}, {warnings}\n"));
        text
    }

    /// The report as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
