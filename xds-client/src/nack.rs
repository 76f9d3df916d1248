// SPDX-License-Identifier: Apache-2.0
//! The text of a NACK: all faults, within a length that logs and status pages can bear.

use std::fmt::Write as _;

use crate::session::Rejection;

/// Longest text of a NACK. Unit: bytes. gRPC servers commonly cap metadata and log lines at
/// 8 KiB; half of that leaves room for what they add.
pub(crate) const MAX_BYTES: usize = 4096;

/// Longest share of one fault, so that a long one does not hide all others. Unit: bytes.
const MAX_FAULT_BYTES: usize = 1024;

/// Room kept for the count of the faults that were left out. Unit: bytes.
const TAIL_BYTES: usize = 32;

/// Joins the faults as `name: reason; …; and N more`.
pub(crate) fn text(faults: &[Rejection]) -> String {
    let mut text = String::new();
    for (index, fault) in faults.iter().enumerate() {
        let line = cut(&format!("{}: {}", fault.name, fault.reason));
        if text.len() + line.len() + TAIL_BYTES > MAX_BYTES {
            // Writing to a string cannot fail.
            let _ = write!(text, "; and {} more", faults.len() - index);
            return text;
        }
        if index > 0 {
            text.push_str("; ");
        }
        text.push_str(&line);
    }
    text
}

/// The longest prefix of whole characters within the share of one fault.
fn cut(line: &str) -> String {
    let end = line.floor_char_boundary(MAX_FAULT_BYTES);
    match line.get(..end) {
        Some(head) if head.len() < line.len() => format!("{head}…"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(name: &str, reason: &str) -> Rejection {
        Rejection {
            name: name.to_owned(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn faults_are_joined_in_order() {
        let faults = [fault("a", "no endpoints"), fault("b", "bad regex")];
        assert_eq!(text(&faults), "a: no endpoints; b: bad regex");
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let faults: Vec<_> = (0..1000)
            .map(|index| fault(&format!("cluster-{index}"), "bad"))
            .collect();
        let text = text(&faults);
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        let left: usize = text
            .rsplit_once("; and ")
            .and_then(|(_, tail)| tail.strip_suffix(" more"))
            .and_then(|count| count.parse().ok())
            .expect("a count");
        let told = text.matches(": bad").count();
        assert_eq!(told + left, 1000);
    }

    #[test]
    fn one_long_fault_does_not_hide_the_next_and_is_cut_between_characters() {
        let long = "ä".repeat(5000);
        let text = text(&[fault("a", &long), fault("b", "bad regex")]);
        assert!(text.ends_with("…; b: bad regex"));
        assert!(text.len() < 2 * MAX_FAULT_BYTES);
    }
}
