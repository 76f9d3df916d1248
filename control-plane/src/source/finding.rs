// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a written object, and where.

use std::fmt::{self, Write as _};

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

impl Severity {
    /// How many findings may be listed before one of this severity is left out, if `limit` are
    /// listed of warnings alone: warnings never crowd out errors.
    #[must_use]
    pub const fn room(self, limit: usize) -> usize {
        match self {
            Self::Warning => limit,
            Self::Error => 2 * limit,
        }
    }
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
                f.write_str(": ")?;
                write_printable(f, part)?;
            }
        }
        Ok(())
    }
}

/// Findings quote what files hold: that must not steer a terminal or forge a line of a log.
fn write_printable(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() {
            write!(f, "{}", c.escape_default())?;
        } else {
            f.write_char(c)?;
        }
    }
    Ok(())
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
        let sly = Finding {
            reason: "a\n\u{1b}[31m".into(),
            ..finding.clone()
        };
        assert!(sly.to_string().ends_with(": a\\n\\u{1b}[31m"), "{sly}");
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
