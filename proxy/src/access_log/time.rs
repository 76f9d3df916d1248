// SPDX-License-Identifier: Apache-2.0
//! `%START_TIME%`: UTC to the millisecond, as `2026-11-21T08:00:00.123Z`.
//!
//! Requests come many to the second, so the part up to the second is kept per thread.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-21T08:00:00`.
type ToTheSecond = [u8; 19];

/// The text of a start time.
pub(super) type Stamp = [u8; 24];

const SECONDS_A_DAY: u64 = 86_400;

/// Formats a moment; moments before 1970 read as its beginning, those after 9999 as their year
/// modulo 10,000.
pub(super) fn stamp(at: SystemTime) -> Stamp {
    thread_local! {
        static LAST: Cell<(u64, ToTheSecond)> = const { Cell::new((u64::MAX, [0; 19])) };
    }
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (second, mut text) = LAST.get();
    if second != since.as_secs() {
        text = to_the_second(since.as_secs());
        LAST.set((since.as_secs(), text));
    }
    let mut stamp = *b"0000-00-00T00:00:00.000Z";
    let (head, tail) = stamp.split_at_mut(text.len());
    head.copy_from_slice(&text);
    if let [_, millis @ .., _] = tail {
        put(millis, u64::from(since.subsec_millis()));
    }
    stamp
}

fn to_the_second(unix: u64) -> ToTheSecond {
    let (year, month, day) = civil(unix / SECONDS_A_DAY);
    let second = unix % SECONDS_A_DAY;
    let mut text = *b"0000-00-00T00:00:00";
    let parts = [
        (0..4, year),
        (5..7, month),
        (8..10, day),
        (11..13, second / 3600),
        (14..16, second / 60 % 60),
        (17..19, second % 60),
    ];
    for (place, number) in parts {
        put(&mut text[place], number);
    }
    text
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar, counted in eras of
/// 400 years that begin on a first of March, so that leap days come last.
const fn civil(day: u64) -> (u64, u64, u64) {
    // From 0000-03-01 to 1970-01-01.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    // March is month 0; five months have 153 days.
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, day_of_month)
}

/// Writes the last digits of a number over a place.
fn put(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(seconds: u64, millis: u64) -> String {
        let at = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis);
        String::from_utf8(stamp(at).to_vec()).expect("ASCII")
    }

    #[test]
    fn moments_read_as_envoy_writes_them() {
        let table = [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 7, "2000-02-29T00:00:00.007Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800, 0, "2024-02-29T00:00:00.000Z"),
            (1_795_248_000, 123, "2026-11-21T08:00:00.123Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000Z"),
        ];
        for (seconds, millis, expected) in table {
            assert_eq!(text(seconds, millis), expected);
        }
    }

    #[test]
    fn every_day_of_four_centuries_agrees_with_another_calendar() {
        for day in 0..146_097 {
            let at = UNIX_EPOCH + Duration::from_secs(day * SECONDS_A_DAY);
            // `Sun, 06 Nov 1994 08:49:37 GMT`
            let other = httpdate::fmt_http_date(at);
            let ours = text(day * SECONDS_A_DAY, 0);
            assert_eq!(
                (&ours[0..4], &ours[8..10]),
                (&other[12..16], &other[5..7]),
                "{other}"
            );
        }
    }

    #[test]
    fn the_kept_second_does_not_outlive_itself() {
        assert_eq!(text(5, 1), "1970-01-01T00:00:05.001Z");
        assert_eq!(text(5, 2), "1970-01-01T00:00:05.002Z");
        assert_eq!(text(4, 3), "1970-01-01T00:00:04.003Z");
    }
}
