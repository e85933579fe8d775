//! What time it is, as a parameter.
//!
//! Everything that waits, expires or counts asks a [`Clock`], so a test moves the hands itself and
//! nothing sleeps for real.

use std::future::Future;
use std::ops::Add;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on a clock's monotonic scale: nanoseconds since an origin that all clocks of one machine
/// share.
///
/// It never goes back, and it goes on while the machine sleeps.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Moment(u64);

impl Moment {
    /// The clock's origin.
    pub const ORIGIN: Self = Self(0);

    /// From nanoseconds since the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero where it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Where the calendar will stand at this moment, if it stands at `wall` at `now` and does not
    /// jump. What is past is `wall`.
    pub fn on_calendar(self, now: Self, wall: jiff::Timestamp) -> jiff::Timestamp {
        wall.saturating_add(self.since(now))
            .unwrap_or(jiff::Timestamp::MAX)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// Saturates at the end of time, some 580 years after the origin.
    fn add(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// A future without a name.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Now, on the monotonic scale.
    fn now(&self) -> Moment;

    /// Now, on the calendar. It can jump; use it for what people and services read, not for
    /// measuring.
    fn wall(&self) -> jiff::Timestamp;

    /// Completes once `now()` is `until` or later.
    fn sleep_until(&self, until: Moment) -> Sleep;
}

/// The machine's clock: `CLOCK_BOOTTIME` (or the nearest that the system has), and the calendar.
///
/// With a scale above 1, it runs that many times as fast. Processes with the same scale agree on
/// the time, so several of them can play a long story quickly, against a stand-in service that runs
/// at the same scale.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    scale: u32,
}

impl SystemClock {
    /// The clock as it is.
    pub const fn new() -> Self {
        Self { scale: 1 }
    }

    /// A clock that runs `scale` times as fast. 0 counts as 1.
    pub const fn scaled(scale: u32) -> Self {
        Self {
            scale: if scale == 0 { 1 } else { scale },
        }
    }

    /// How many times as fast as the machine's own.
    pub const fn scale(&self) -> u32 {
        self.scale
    }

    fn real_now() -> Duration {
        #[cfg(target_os = "linux")]
        let id = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let id = rustix::time::ClockId::Monotonic;
        let t = rustix::time::clock_gettime(id);
        Duration::new(
            t.tv_sec.unsigned_abs(),
            u32::try_from(t.tv_nsec).unwrap_or(0),
        )
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment::ORIGIN + Self::real_now().saturating_mul(self.scale)
    }

    /// The calendar is scaled too, from the machine's start: what two processes of one scale write
    /// agrees.
    fn wall(&self) -> jiff::Timestamp {
        let real = jiff::Timestamp::now();
        if self.scale == 1 {
            return real;
        }
        let ahead = Self::real_now().saturating_mul(self.scale - 1);
        real.saturating_add(ahead).unwrap_or(real)
    }

    fn sleep_until(&self, until: Moment) -> Sleep {
        let clock = *self;
        Box::pin(async move {
            // Tokio's timer has a resolution of a millisecond and stands still while the machine
            // sleeps, so what it says is checked, and long waits are cut.
            loop {
                let left = until.since(clock.now());
                if left.is_zero() {
                    return;
                }
                let real = left / clock.scale;
                tokio::time::sleep(real.clamp(Duration::from_micros(1), Duration::from_secs(10)))
                    .await;
            }
        })
    }
}

/// A clock that stands still until it is told to go on. For tests; clones share the hands.
#[derive(Clone, Debug)]
pub struct ManualClock {
    state: Arc<Mutex<Manual>>,
    moved: Arc<tokio::sync::Notify>,
}

#[derive(Debug)]
struct Manual {
    now: Moment,
    started: Moment,
    sleepers: Vec<Moment>,
}

impl ManualClock {
    /// A clock that stands an hour after its origin, on 2026-01-30 at 21:11:22 UTC.
    pub fn new() -> Self {
        let start = Moment::ORIGIN + Duration::from_secs(3600);
        Self {
            state: Arc::new(Mutex::new(Manual {
                now: start,
                started: start,
                sleepers: Vec::new(),
            })),
            moved: Arc::new(tokio::sync::Notify::new()),
        }
    }

    /// Moves the hands on, and wakes whoever slept until then.
    pub fn advance(&self, by: Duration) {
        {
            let mut state = self.lock();
            let now = state.now + by;
            state.now = now;
            state.sleepers.retain(|until| *until > now);
        }
        self.moved.notify_waiters();
    }

    /// The moment that the first of the present sleepers waits for.
    ///
    /// A sleeper that gave up counts until its moment has passed.
    pub fn next_wake(&self) -> Option<Moment> {
        self.lock().sleepers.iter().min().copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Manual> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        self.lock().now
    }

    fn wall(&self) -> jiff::Timestamp {
        /// 2026-01-30T21:11:22Z.
        const STARTED: jiff::Timestamp = jiff::Timestamp::constant(1_769_807_482, 0);
        let state = self.lock();
        STARTED
            .saturating_add(state.now.since(state.started))
            .unwrap_or(STARTED)
    }

    fn sleep_until(&self, until: Moment) -> Sleep {
        let clock = self.clone();
        Box::pin(async move {
            loop {
                // Registered before the time is read, so that an `advance` in between is not
                // missed.
                let moved = clock.moved.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                {
                    let mut state = clock.lock();
                    if state.now >= until {
                        return;
                    }
                    if !state.sleepers.contains(&until) {
                        state.sleepers.push(until);
                    }
                }
                moved.await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_hands_reach_its_moment_and_not_before() {
        let clock = ManualClock::new();
        let until = clock.now() + Duration::from_secs(10);
        let sleeper = tokio::spawn(clock.sleep_until(until));
        while clock.next_wake().is_none() {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_nanos(9_999_999_999));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_nanos(1));
        sleeper.await.unwrap();
        assert_eq!(clock.next_wake(), None);
    }

    #[test]
    fn a_scaled_clock_runs_that_many_times_as_fast_for_everyone() {
        let one = SystemClock::scaled(1000);
        let other = SystemClock::scaled(1000);
        let gap = other.now().since(one.now());
        assert!(
            gap < Duration::from_secs(60),
            "two readings a moment apart differ by {gap:?}"
        );
        assert!(SystemClock::new().now() < one.now());
    }

    #[test]
    fn both_scales_of_a_manual_clock_move_together() {
        let clock = ManualClock::new();
        let (now, wall) = (clock.now(), clock.wall());
        assert_eq!(wall.to_string(), "2026-01-30T21:11:22Z");
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.now().since(now), Duration::from_millis(1500));
        assert_eq!(clock.wall().duration_since(wall).as_millis(), 1500);
    }

    #[test]
    fn a_moment_to_come_is_as_far_off_on_the_calendar_and_one_that_is_past_is_now() {
        let clock = ManualClock::new();
        let (now, wall) = (clock.now(), clock.wall());
        let soon = (now + Duration::from_millis(1500)).on_calendar(now, wall);
        assert_eq!(soon.to_string(), "2026-01-30T21:11:23.5Z");
        assert_eq!(Moment::ORIGIN.on_calendar(now, wall), wall);
        let never = Moment::from_nanos(u64::MAX);
        assert_eq!(
            never.on_calendar(now, wall).strftime("%Y").to_string(),
            "2610"
        );
        let last = jiff::Timestamp::MAX;
        assert_eq!(never.on_calendar(now, last), last);
    }
}
