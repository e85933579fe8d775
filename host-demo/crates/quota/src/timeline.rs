//! A ledger's own time, which goes on across boots.

use serde::{Deserialize, Serialize};

use defender_core::clock::Moment;

/// Names the machine's present boot: moments of [`SystemClock`](defender_core::clock::SystemClock) can be
/// compared within it, and not beyond.
///
/// Where the system does not tell, every process gets another answer; between them time is then
/// told by the calendar.
pub fn boot_id() -> String {
    let told = if cfg!(target_os = "macos") {
        std::process::Command::new("/usr/sbin/sysctl")
            .args(["-n", "kern.bootsessionuuid"])
            .output()
            .ok()
            .and_then(|output| String::from_utf8(output.stdout).ok())
    } else {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
    };
    // A container can have a clock of its own (time_namespaces(7)).
    let clock = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    told.map(|id| {
        format!("{} {}", id.trim(), clock.display())
            .trim()
            .to_owned()
    })
    .filter(|id| !id.is_empty())
    .unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
}

/// How a ledger's time goes on from the boot's clock.
///
/// Within a boot it runs with that clock, which neither jumps nor stands still while the machine
/// sleeps. From one boot to the next it goes on by what the calendar says has passed in between,
/// and by nothing where that says less than nothing. It never goes back. So a calendar that was set
/// back across a reboot makes calls count longer than they need; one that was set forward lets them
/// go too early, and can't be told from time that passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timeline {
    boot: String,
    /// What to add to the boot's clock.
    offset: i64,
    /// The latest moment that was read.
    last: Moment,
    /// The calendar at that moment, in nanoseconds.
    calendar: i64,
}

/// What the clocks of the caller say.
#[derive(Clone, Debug)]
pub(super) struct ClockReading<'a> {
    pub(super) boot: &'a str,
    pub(super) now: Moment,
    pub(super) calendar: jiff::Timestamp,
}

impl ClockReading<'_> {
    fn calendar(&self) -> i64 {
        i64::try_from(self.calendar.as_nanosecond()).unwrap_or(i64::MAX)
    }
}

impl Timeline {
    pub(super) fn begin(at: &ClockReading<'_>) -> Self {
        Self {
            boot: at.boot.to_owned(),
            offset: 0,
            last: at.now,
            calendar: at.calendar(),
        }
    }

    /// The ledger's now.
    pub(super) fn advance(&mut self, at: &ClockReading<'_>) -> Moment {
        let calendar = at.calendar();
        if at.boot != self.boot {
            let elapsed = calendar.saturating_sub(self.calendar).max(0);
            let now = self.last.as_nanos().saturating_add_signed(elapsed);
            self.offset = signed(now).saturating_sub(signed(at.now.as_nanos()));
            at.boot.clone_into(&mut self.boot);
        }
        self.last = self.last.max(self.here(at.now));
        self.calendar = calendar;
        self.last
    }

    /// A moment of the boot's clock, here.
    pub(super) fn here(&self, there: Moment) -> Moment {
        Moment::from_nanos(there.as_nanos().saturating_add_signed(self.offset))
    }

    /// A moment of this scale on the boot's clock; what was before the boot is its beginning.
    pub(super) fn there(&self, here: Moment) -> Moment {
        match here.as_nanos() {
            u64::MAX => here,
            nanos => Moment::from_nanos(nanos.saturating_sub_signed(self.offset)),
        }
    }
}

fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(boot: &str, now: u64, calendar: i64) -> ClockReading<'_> {
        ClockReading {
            boot,
            now: Moment::from_nanos(now * 1_000_000_000),
            calendar: jiff::Timestamp::from_second(calendar).unwrap(),
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn within_a_boot_it_is_the_boots_clock_whatever_the_calendar_says() {
        let mut time = Timeline::begin(&at("a", 100, 1_000));
        let began = time.last;
        for (now, calendar) in [(110, 90_000), (120, 10), (130, 1_030)] {
            let here = time.advance(&at("a", now, calendar));
            assert_eq!(
                here.since(began),
                SECOND * u32::try_from(now - 100).unwrap()
            );
            assert_eq!(time.there(here), Moment::from_nanos(now * 1_000_000_000));
        }
    }

    #[test]
    fn across_boots_it_goes_on_by_the_calendar_and_never_back() {
        for (calendar, passed) in [(1_500, 500), (1_000, 0), (200, 0)] {
            let mut time = Timeline::begin(&at("a", 100_000, 1_000));
            let began = time.last;
            let here = time.advance(&at("b", 7, calendar));
            assert_eq!(here.since(began), SECOND * passed, "{calendar}");
            // From then on with the new boot's clock.
            let later = time.advance(&at("b", 17, 0));
            assert_eq!(later.since(here), SECOND * 10);
            assert_eq!(time.there(later), at("b", 17, 0).now);
            assert_eq!(time.here(at("b", 17, 0).now), later);
            assert_eq!(
                time.there(began),
                Moment::from_nanos(7_000_000_000 - u64::from(passed.min(7)) * 1_000_000_000)
            );
        }
    }

    #[test]
    fn a_boots_clock_that_goes_back_stops_it() {
        let mut time = Timeline::begin(&at("a", 100, 1_000));
        let began = time.last;
        assert_eq!(time.advance(&at("a", 40, 940)), began);
        assert_eq!(time.advance(&at("a", 101, 1_001)).since(began), SECOND);
    }

    #[test]
    fn two_who_are_not_told_their_boot_share_the_calendar() {
        let mut time = Timeline::begin(&at("x", 100, 1_000));
        let began = time.last;
        time.advance(&at("y", 200, 1_001));
        let here = time.advance(&at("x", 102, 1_002));
        assert_eq!(here.since(began), SECOND * 2);
    }

    #[test]
    fn this_boot_has_a_name_that_stays() {
        assert_eq!(boot_id(), boot_id());
    }
}
