// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a written object, and where.

use std::fmt;

use serde::Serialize;

/// Whether an object, or a part of it, is served in spite of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is not applied as it is written.
    Error,
    /// The object is applied, but perhaps not as its writer thinks.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One fault of one object. Ordered by place, errors first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Finding {
    /// The file, as it was found below the folder's path as given.
    pub file: String,
    /// The line of the field, or of the object; counted from 1, 0 if the whole file is meant.
    pub line: u32,
    /// How bad it is.
    pub severity: Severity,
    /// `Kind namespace/name`; empty if there is no object to name.
    pub object: String,
    /// The field's path (`spec.http[0].route[1].weight`); empty if the whole object is meant.
    pub field: String,
    /// What was found, and what was expected.
    pub reason: String,
}

impl fmt::Display for Finding {
    /// `file:line: severity: object: field: reason`; what is empty is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.severity)?;
        for part in [&self.object, &self.field, &self.reason] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_like_a_compilers() {
        let finding = Finding {
            file: "mesh/sms.yaml".into(),
            line: 12,
            severity: Severity::Error,
            object: "VirtualService shop/sms".into(),
            field: "spec.http[0]".into(),
            reason: "all weights are zero".into(),
        };
        let expected = "mesh/sms.yaml:12: error: VirtualService shop/sms: spec.http[0]: \
                        all weights are zero";
        assert_eq!(finding.to_string(), expected);
        let bare = Finding {
            line: 0,
            object: String::new(),
            field: String::new(),
            ..finding
        };
        assert_eq!(
            bare.to_string(),
            "mesh/sms.yaml: error: all weights are zero"
        );
    }
}
