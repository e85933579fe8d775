//! Words and bars for quotas.

use std::time::Duration;

/// A quota's window, for people.
pub(crate) fn window(per: Duration) -> String {
    match per.as_secs() {
        60 => "minute".to_owned(),
        3600 => "hour".to_owned(),
        seconds => format!("{seconds} s"),
    }
}

/// How much of a quota is used.
pub(crate) fn bar(used: usize, of: usize) -> String {
    const WIDTH: usize = 24;
    let full = match of {
        0 => WIDTH,
        // What is used at all is seen.
        of => (used * WIDTH).div_ceil(of).min(WIDTH),
    };
    format!("{}{}", "█".repeat(full), "░".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_what_is_used_and_no_more_than_all() {
        for (used, of, full) in [
            (0, 100, 0),
            (1, 100, 1),
            (50, 100, 12),
            (100, 100, 24),
            (7, 5, 24),
            (0, 0, 24),
        ] {
            let bar = bar(used, of);
            assert_eq!(
                bar.chars().filter(|c| *c == '█').count(),
                full,
                "{used} of {of}"
            );
            assert_eq!(bar.chars().count(), 24);
        }
    }
}
