// SPDX-License-Identifier: Apache-2.0
//! The time of day as HTTP writes it.
//!
//! A worker answers many requests a second with the same `date`, so each thread keeps the value
//! of the current second; a call reads the clock and shares the bytes. Called by whoever writes
//! response heads.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use remora_http::HeaderValue;

/// The `date` of the present second.
#[derive(Debug)]
pub struct WallClock(RefCell<(u64, HeaderValue)>);

impl WallClock {
    /// A clock that has not been read.
    pub const fn new() -> Self {
        Self(RefCell::new((u64::MAX, HeaderValue::from_static(""))))
    }

    /// The value for a moment. Source: RFC 9110 section 5.6.7.
    pub fn http_date(&self, now: SystemTime) -> HeaderValue {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut kept = self.0.borrow_mut();
        if kept.0 != second {
            let text = Bytes::from(httpdate::fmt_http_date(now));
            // A date is letters, digits, blanks, colons and a comma.
            if let Ok(value) = HeaderValue::from_bytes(text) {
                *kept = (second, value);
            }
        }
        kept.1.clone()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new()
    }
}

/// The `date` of now.
pub fn http_date() -> HeaderValue {
    thread_local! {
        static CLOCK: WallClock = const { WallClock::new() };
    }
    CLOCK.with(|clock| clock.http_date(SystemTime::now()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_has_one_value_and_the_next_another() {
        let clock = WallClock::new();
        let at = |millis: u64| UNIX_EPOCH + Duration::from_millis(784_111_777_000 + millis);
        let first = clock.http_date(at(0));
        assert_eq!(first.as_bytes(), "Sun, 06 Nov 1994 08:49:37 GMT");
        let same = clock.http_date(at(999));
        assert_eq!(same.as_bytes().as_ptr(), first.as_bytes().as_ptr());
        assert_eq!(
            clock.http_date(at(1000)).as_bytes(),
            "Sun, 06 Nov 1994 08:49:38 GMT"
        );
    }

    #[test]
    fn the_present_is_a_date() {
        let text = http_date();
        let text = std::str::from_utf8(text.as_bytes()).expect("ASCII");
        let read = httpdate::parse_http_date(text).expect("a date");
        assert!(read.elapsed().expect("the past") < Duration::from_secs(10));
    }
}
