//! How long to wait before a request is repeated.

use std::time::Duration;

use http::header::{HeaderMap, RETRY_AFTER};

use crate::clock::Moment;

/// The longest wait that a `Retry-After` header can cause.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// The shortest wait after a first failure, and after as many in a row as it takes to get there. It
/// doubles from one to the next.
pub const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Returns what `Retry-After` says (RFC 9110, section 10.2.3), in seconds: a number of them, or a
/// date. What is neither does not count. Of several headers the longest wait counts.
pub fn retry_after(headers: &HeaderMap, now: jiff::Timestamp) -> Option<u32> {
    let said = headers.get_all(RETRY_AFTER).iter();
    said.filter_map(|said| seconds(said.to_str().ok()?.trim(), now))
        .max()
}

fn seconds(said: &str, now: jiff::Timestamp) -> Option<u32> {
    if !said.is_empty() && said.bytes().all(|b| b.is_ascii_digit()) {
        return Some(said.parse().unwrap_or(u32::MAX));
    }
    let date = jiff::fmt::rfc2822::parse(said).ok()?;
    let left = date.timestamp().duration_since(now).as_secs().max(0);
    // Of the second that has begun, too.
    Some(u32::try_from(left).unwrap_or(u32::MAX).saturating_add(1))
}

/// Returns the shortest wait after so many failures in a row.
pub fn backoff(failures: u32) -> Duration {
    let [first, longest] = BACKOFF;
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(longest)
}

/// Returns up to a quarter of a wait, so that those who failed together do not come back together.
/// It is taken from the clock's nanoseconds, which differ from one machine to the next and which a
/// test sets.
pub fn jitter(wait: Duration, now: Moment) -> Duration {
    const STEPS: u32 = 1 << 10;
    let step = (now.as_nanos() / 1000) % u64::from(STEPS);
    wait * u32::try_from(step).unwrap_or_default() / (4 * STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_the_longest_counts() {
        let now: jiff::Timestamp = "2026-01-30T21:11:22Z".parse().unwrap();
        for (said, expected) in [
            (&["0"][..], Some(0)),
            (&["37"], Some(37)),
            (&[" 37 "], Some(37)),
            (&["604800"], Some(604_800)),
            (&["99999999999999999999"], Some(u32::MAX)),
            (&["Fri, 30 Jan 2026 21:12:22 GMT"], Some(61)),
            (&["Fri, 30 Jan 2026 21:10:52 GMT"], Some(1)),
            (&["-5"], None),
            (&["+5"], None),
            (&["1.5"], None),
            (&["soon"], None),
            (&[""], None),
            (&[], None),
            (&["-1", "7", "3"], Some(7)),
        ] {
            let mut headers = HeaderMap::new();
            for said in said {
                headers.append(RETRY_AFTER, said.parse().unwrap());
            }
            assert_eq!(retry_after(&headers, now), expected, "{said:?}");
        }
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<u64> = (1..=9).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(u32::MAX), BACKOFF[1]);
        assert_eq!(backoff(0), BACKOFF[0]);
    }

    #[test]
    fn jitter_adds_less_than_a_quarter() {
        let wait = Duration::from_secs(60);
        let at = |micros: u64| Moment::from_nanos(micros * 1000);
        assert_eq!(jitter(wait, at(0)), Duration::ZERO);
        assert_eq!(jitter(wait, at(512)), wait / 8);
        assert!(jitter(wait, at(1023)) < wait / 4);
    }
}
