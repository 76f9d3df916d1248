// SPDX-License-Identifier: Apache-2.0
//! What was expected, what was measured, and whether they agree.

use std::fmt::Write as _;
use std::time::Duration;

/// One sentence that a step proves or not.
#[derive(Debug)]
struct Check {
    what: String,
    expected: String,
    measured: String,
    holds: bool,
}

/// The checks of one step.
#[derive(Debug)]
pub(crate) struct Checks {
    number: usize,
    title: &'static str,
    checks: Vec<Check>,
    failure: Option<String>,
    took: Duration,
}

impl Checks {
    /// No checks yet.
    pub(crate) fn new(number: usize, title: &'static str) -> Self {
        Self {
            number,
            title,
            checks: Vec::new(),
            failure: None,
            took: Duration::ZERO,
        }
    }

    /// Notes a finding.
    pub(crate) fn add(
        &mut self,
        what: impl Into<String>,
        expected: impl Into<String>,
        measured: impl Into<String>,
        holds: bool,
    ) {
        self.checks.push(Check {
            what: what.into(),
            expected: expected.into(),
            measured: measured.into(),
            holds,
        });
    }

    /// Notes that the step could not be done to its end.
    pub(crate) fn fail(&mut self, error: &anyhow::Error) {
        self.failure = Some(format!("{error:#}"));
    }

    /// Notes how long the step took.
    pub(crate) fn end(&mut self, took: Duration) {
        self.took = took;
    }

    /// Whether all of it holds. A step that found nothing proves nothing.
    pub(crate) fn pass(&self) -> bool {
        self.failure.is_none() && !self.checks.is_empty() && self.checks.iter().all(|c| c.holds)
    }

    /// What it was and whether it passed.
    pub(crate) fn verdict(&self) -> String {
        let verdict = if self.pass() { "passed" } else { "FAILED" };
        let took = self.took.as_secs_f64();
        let Self { number, title, .. } = self;
        format!("step {number}  {verdict}  {title} ({took:.1} s)")
    }

    /// All of it as lines.
    pub(crate) fn lines(&self) -> String {
        let mut text = self.verdict();
        text.push('\n');
        for check in &self.checks {
            let mark = if check.holds { "ok  " } else { "FAIL" };
            let _ = writeln!(
                text,
                "  {mark}  {:<44} expected {:<26} measured {}",
                check.what, check.expected, check.measured
            );
        }
        if let Some(failure) = &self.failure {
            let _ = writeln!(text, "  FAIL  the step ended early: {failure}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_passes_only_if_it_found_something_and_all_of_it_holds() {
        let mut checks = Checks::new(1, "a step");
        assert!(!checks.pass());
        checks.add("errors", "0", "0", true);
        assert!(checks.pass());
        checks.add("share", "10 %", "40 %", false);
        assert!(!checks.pass());
        assert!(checks.lines().contains("FAIL  share"));

        let mut early = Checks::new(2, "another");
        early.add("errors", "0", "0", true);
        early.fail(&anyhow::anyhow!("it broke"));
        assert!(!early.pass());
        assert!(early.lines().contains("it broke"));
    }
}
