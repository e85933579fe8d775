//! Words for times, all of them UTC.

use jiff::Timestamp;

/// A moment for people: the time alone if it is today, else with the date.
pub(crate) fn moment(at: Timestamp, now: Timestamp) -> String {
    let date = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    let time = at.strftime("%H:%M:%S");
    match date(at) {
        day if day == date(now) => format!("{time} UTC"),
        day => format!("{day} {time} UTC"),
    }
}

/// A date and a time, with the zone.
pub(crate) fn utc(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A date and a time, without the zone, which stands beside it.
pub(crate) fn short(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_another_day_has_its_date() {
        let now = "2026-01-30T21:11:22Z".parse().unwrap();
        for (at, shown) in [
            ("2026-01-30T23:59:59Z", "23:59:59 UTC"),
            ("2026-01-31T00:00:00Z", "2026-01-31 00:00:00 UTC"),
            ("2026-02-06T21:11:22Z", "2026-02-06 21:11:22 UTC"),
        ] {
            assert_eq!(moment(at.parse().unwrap(), now), shown);
        }
    }
}
