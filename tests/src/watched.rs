//! The clock that a test's host goes by: it knows who sleeps by it at this moment, and since when.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host_demo::clock::{Clock, ManualClock, Moment, Sleep};

/// A clock that is moved by hand, as one of those who go by it knows it.
#[derive(Clone)]
pub(crate) struct Watched {
    hands: ManualClock,
    asleep: Arc<Mutex<Vec<Sleeper>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sleeper {
    pub(crate) since: Moment,
    pub(crate) until: Moment,
}

impl Watched {
    pub(crate) fn new(hands: ManualClock) -> Self {
        Self {
            hands,
            asleep: Arc::default(),
        }
    }

    pub(crate) fn asleep(&self) -> MutexGuard<'_, Vec<Sleeper>> {
        self.asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for Watched {
    fn now(&self) -> Moment {
        self.hands.now()
    }

    fn wall(&self) -> jiff::Timestamp {
        self.hands.wall()
    }

    fn sleep_until(&self, until: Moment) -> Sleep {
        let clock = self.clone();
        Box::pin(async move {
            let sleeper = Sleeper {
                since: clock.now(),
                until,
            };
            clock.asleep().push(sleeper);
            let _awake_in_the_end = Awake(&clock, sleeper);
            clock.hands.sleep_until(until).await;
        })
    }
}

struct Awake<'a>(&'a Watched, Sleeper);

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        let mut asleep = self.0.asleep();
        if let Some(at) = asleep.iter().position(|s| *s == self.1) {
            asleep.swap_remove(at);
        }
    }
}
